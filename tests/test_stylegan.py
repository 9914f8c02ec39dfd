"""The style-based generator: its parts as in the papers, and its two halves."""

import pytest
import torch
import torch.nn.functional as F

from helpers.gan.dcgan import SIZES
from helpers.gan.losses import path_lengths
from helpers.gan.stylegan import SLOW, Dense, Generator, Layer, Mapping, Modulated, normalise

LATENT = 8


def make(size=64, width=2, **settings):
    torch.manual_seed(0)
    return Generator(size, LATENT, width, **settings).requires_grad_(False)


def noise(generator, count, seed=1):
    return torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))


def coarse(change):
    """Root mean square of what is left of a change in cells of 16 x 16 px."""
    return F.avg_pool2d(change, 16).square().mean().sqrt()


# --- its parts


def test_the_eye_counts_by_the_direction_of_its_noise_alone():
    rows = normalise(torch.randn(5, 7))
    torch.testing.assert_close(rows.square().mean(1), torch.ones(5))
    generator = make()
    z = noise(generator, 2)[:, :LATENT]
    torch.testing.assert_close(generator.styles(3 * z), generator.styles(z))


def textbook(layer, x, w):
    """StyleGAN2, equations 1 to 3, with a kernel of its own for every sample."""
    pictures = []
    for one, style in zip(x, layer.style(w)):
        kernel = style[None, :, None, None] * layer.weight * layer.scale
        if layer.demodulate:
            kernel = kernel / kernel.square().sum((1, 2, 3), keepdim=True).add(1e-8).sqrt()
        pictures.append(F.conv2d(one[None], kernel, padding=kernel.shape[-1] // 2))
    return torch.cat(pictures)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("demodulate", [True, False])
def test_a_modulated_convolution_is_the_textbook_s(kernel, demodulate):
    torch.manual_seed(0)
    layer = Modulated(6, 5, kernel, LATENT, demodulate=demodulate)
    x, w = torch.randn(3, 6, 9, 9), 2 * torch.randn(3, LATENT)
    torch.testing.assert_close(layer(x, w), textbook(layer, x, w), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strength", [0.01, 1, 100])
def test_demodulation_keeps_the_variance_for_any_style(strength):
    torch.manual_seed(0)
    layer = Modulated(16, 32, 3, LATENT).requires_grad_(False)
    x, w = torch.randn(4, 16, 64, 64), strength * torch.randn(4, LATENT)
    variances = layer(x, w)[..., 1:-1, 1:-1].var((2, 3))
    torch.testing.assert_close(variances, torch.ones(4, 32), rtol=0, atol=0.15)
    assert variances.mean() == pytest.approx(1, abs=0.02)


def test_without_demodulation_the_style_shows_and_at_the_start_it_is_about_one():
    torch.manual_seed(0)
    layer = Modulated(64, 8, 1, LATENT, demodulate=False)
    x, w = torch.randn(1, 64, 32, 32), torch.zeros(1, LATENT)
    torch.testing.assert_close(layer(x, w), F.conv2d(x, layer.weight * layer.scale))
    layer.style.bias.data *= 3
    torch.testing.assert_close(layer(x, w), 3 * F.conv2d(x, layer.weight * layer.scale))


def test_a_layer_keeps_the_mean_square():
    torch.manual_seed(0)
    layer = Layer(32, 32, LATENT).requires_grad_(False)
    out = layer(torch.randn(4, 32, 64, 64), torch.randn(4, LATENT))
    assert out.square().mean() == pytest.approx(1 + 0.2**2, rel=0.1)  # 2 (1 + slope^2) / 2


@pytest.mark.parametrize("rate", [1.0, SLOW])
def test_a_dense_layer_starts_alike_whatever_its_rate_and_moves_by_it(rate):
    torch.manual_seed(0)
    layer, plain = Dense(64, 32, bias=0.5, rate=rate), torch.nn.Linear(64, 32)

    def effective():
        with torch.no_grad():
            bias = layer(torch.zeros(1, 64))[0]
            return (layer(torch.eye(64)) - bias).T, bias

    start, bias = effective()
    assert start.std() == pytest.approx(1 / 8, rel=0.05)
    torch.testing.assert_close(bias, torch.full((32,), 0.5))
    plain.weight.data, plain.bias.data = start.clone(), bias.clone()
    x, goal = torch.randn(16, 64), 1000 * torch.randn(16, 32)
    torch.testing.assert_close(layer(x), plain(x))
    optimizer = torch.optim.Adam(layer.parameters(), 1e-3)
    (layer(x) - goal).square().mean().backward()
    optimizer.step()
    moved = effective()
    # Adam's first step has the same size for every weight
    steps = (moved[0] - start).abs()
    torch.testing.assert_close(steps, torch.full_like(steps, 1e-3 * rate / 8), rtol=0.1, atol=0)
    torch.testing.assert_close((moved[1] - bias).abs(), torch.full((32,), 1e-3 * rate), rtol=0.1,
                               atol=0)  # fmt: skip


def test_the_mapping_is_slow_and_keeps_the_size_of_styles():
    torch.manual_seed(0)
    mapping = Mapping(64, 4, 0)
    assert len(mapping.layers) == 4 and all(layer.rate == SLOW for layer in mapping.layers)
    assert 0.5 < mapping(torch.randn(500, 64)).square().mean() < 2
    assert all(module.rate == 1 for name, module in make().named_modules()
               if isinstance(module, Dense) and "mapping" not in name)  # fmt: skip


# --- its two halves


@pytest.mark.parametrize("size", SIZES)
def test_there_is_a_style_for_each_resolution(size):
    generator = make(size)
    assert 4 * 2 ** (generator.levels - 1) == size
    assert generator.styles(noise(generator, 2)).shape == (2, generator.levels, LATENT)


def test_styles_and_draw_make_forward():
    generator = make(classes=2)
    z, labels = noise(generator, 3), torch.tensor([0, 1, 1])
    for truncation in (1.0, 0.6):
        styles = generator.styles(z, labels, truncation)
        assert (styles == styles[:, :1]).all()
        expected = generator(z, labels, truncation=truncation)
        assert torch.equal(generator.draw(styles, z[:, LATENT:]), expected)
        assert torch.equal(generator.styles(z[:, :LATENT], labels, truncation), styles)


def test_one_grain_for_all_is_that_grain_for_each():
    generator = make()
    z = noise(generator, 3)
    styles, grain = generator.styles(z), z[:1, LATENT:]
    together = generator.draw(styles, grain)
    torch.testing.assert_close(together, generator.draw(styles, grain.expand(3, -1)))


def test_truncation_draws_towards_the_mean_style():
    generator = make()
    z = noise(generator, 4)
    mean, w = generator.mean_style(), generator.styles(z)
    assert torch.equal(generator.styles(z, truncation=1), w)
    torch.testing.assert_close(generator.styles(z, truncation=0),
                               mean[:, None].expand_as(w), rtol=0, atol=1e-6)  # fmt: skip
    half = generator.styles(z, truncation=0.5)
    torch.testing.assert_close(half, (mean[:, None] + w) / 2)
    average = generator(torch.cat([z[:, :LATENT], z[:1, LATENT:].expand(4, -1)], 1), truncation=0)
    torch.testing.assert_close(average, average[:1].expand_as(average), rtol=0, atol=1e-5)


def test_the_mean_style_is_the_mean_and_the_same_every_time():
    generator = make()
    torch.manual_seed(1)
    mean, state = generator.mean_style(), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(generator.mean_style(), mean) and mean.shape == (1, LATENT)
    generator.mean_style()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # it draws from a source of its own
    w = generator.mapping(torch.randn(20_000, LATENT))
    torch.testing.assert_close(mean, w.mean(0, keepdim=True), rtol=0, atol=0.05 * w.std().item())


def test_every_class_has_a_mean_style_of_its_own():
    generator = make(classes=3)
    labels = torch.tensor([2, 0, 2])
    means = generator.mean_style(labels)
    assert means.shape == (3, LATENT) and torch.equal(means[0], means[2])
    assert (means[0] - means[1]).abs().max() > 0.05
    z = noise(generator, 3)
    w = generator.styles(z, labels, truncation=0)
    torch.testing.assert_close(w[:, 0], means)
    many = torch.randn(20_000, LATENT)
    expected = generator.mapping(many, torch.full((20_000,), 2)).mean(0)
    torch.testing.assert_close(means[0], expected, rtol=0, atol=0.05)


def watch(generator):
    """Every layer's output, [(level, values), ...], filled by drawing."""
    seen = []
    middle = zip(generator.grow, generator.keep, generator.to_image[1:])
    levels = [[generator.first, generator.to_image[0]], *middle, [generator.fine, generator.finest]]
    for level, layers in enumerate(levels):
        for layer in layers:
            layer.register_forward_hook(lambda *args, level=level: seen.append((level, args[2])))
    return seen


@pytest.mark.parametrize("level", range(5))
def test_the_style_of_a_level_changes_all_of_its_own_and_nothing_coarser(level):
    generator = make()
    seen = watch(generator)
    z, other = noise(generator, 2), noise(generator, 2, seed=9)
    styles = generator.styles(z)
    generator.draw(styles, z[:, LATENT:])
    styles[:, level] = generator.styles(other)[:, level]
    generator.draw(styles, z[:, LATENT:])
    count = 2 + 3 * 3 + 2
    assert len(seen) == 2 * count
    for (k, before), (_, after) in zip(seen[:count], seen[count:]):
        assert before.shape[-1] == 4 * 2**k
        assert torch.equal(before, after) == (k < level), k


def test_the_first_style_moves_the_layout_and_the_last_one_hardly():
    generator = make(128, width=4)
    z, other = noise(generator, 4), noise(generator, 4, seed=9)
    start, changes = generator.styles(z), []
    for level in (0, generator.levels - 1):
        styles = start.clone()
        styles[:, level] = generator.styles(other)[:, level]
        changes.append(generator.draw(styles, z[:, LATENT:]) - generator.draw(start, z[:, LATENT:]))
    first, last = changes
    assert coarse(last) < 0.4 * coarse(first)


# --- how long a step in W is


def test_path_lengths_of_a_linear_generator():
    """Images A_1 w_1 + ... + A_L w_L: E length^2 is the mean over levels of ||A_l||_F^2 / (H W)."""
    torch.manual_seed(0)
    maps = torch.randn(3, 4, 6 * 10) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    styles = torch.randn(4000, 3, 4, requires_grad=True)
    images = torch.einsum("bld,ldp->bp", styles, maps).view(-1, 1, 6, 10)
    lengths = path_lengths(images, styles)
    expected = maps.square().sum((1, 2)).mean() / 60
    assert lengths.shape == (4000,)
    assert lengths.square().mean().item() == pytest.approx(expected.item(), rel=0.05)


def test_path_lengths_are_finite_differences():
    generator = make().double()
    z = noise(generator, 2).double()
    styles = generator.styles(z).requires_grad_()

    def draw(styles):
        return generator.draw(styles, z[:, LATENT:])

    torch.manual_seed(3)
    found = path_lengths(draw(styles).double(), styles)
    torch.manual_seed(3)
    weights = torch.randn(2, 1, 64, 64).double()
    slopes = torch.zeros_like(styles)
    for level in range(generator.levels):
        for k in range(LATENT):
            step = torch.zeros_like(styles)
            step[:, level, k] = 1e-4
            change = (draw(styles + step) - draw(styles - step)).detach() / 2e-4
            slopes[:, level, k] = (change * weights).sum((1, 2, 3)) / 64
    expected = slopes.square().sum(2).mean(1).sqrt().detach()
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=0)


def test_path_lengths_can_be_trained_on():
    generator = make().requires_grad_(True)
    z = noise(generator, 2)
    styles = generator.styles(z)
    path_lengths(generator.draw(styles, z[:, LATENT:]), styles).mean().backward()
    assert generator.fine.convolution.weight.grad.abs().sum() > 0
    assert generator.mapping.layers[0].weight.grad.abs().sum() > 0
