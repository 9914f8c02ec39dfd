"""The style-based generator: its parts as in the papers, its two halves, and how it is trained."""

import math

import methods
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from methods import CLASSES, METHODS, STYLE, gan, make_data

from helpers import config
from helpers.data.batches import batches
from helpers.gan.gan import PATH_EVERY, PATH_MEMORY
from helpers.gan.losses import path_lengths
from helpers.gan.recipes import with_recipe
from helpers.gan.residual import SIZES
from helpers.gan.sampling import sample
from helpers.gan.stylegan import SLOW, Dense, Generator, Layer, Mapping, Modulated, normalise
from helpers.generate import load_generator
from helpers.training import checkpoint
from helpers.training.loop import train
from helpers.training.network_file import network_bytes

LATENT = 8


def make(size=64, width=2, latent=LATENT, seed=0, **settings):
    torch.manual_seed(seed)
    return Generator(size, latent, width, **settings).requires_grad_(False)


def noise(generator, count, seed=1):
    return torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))


def coarse(change):
    """Root mean square of what is left of a change in cells of 16 x 16 px."""
    return F.avg_pool2d(change, 16).square().mean().sqrt()


def fine(change):
    return (
        (change - F.interpolate(F.avg_pool2d(change, 16), scale_factor=16)).square().mean().sqrt()
    )


# --- pictures


@pytest.mark.parametrize("size", SIZES)
def test_shapes_at_every_size_and_the_same_picture_for_the_same_noise(size):
    generator = make(size)
    assert generator.z_dim == LATENT + size**2 and 4 * 2 ** (generator.levels - 1) == size
    z = noise(generator, 2)
    images = generator(z)
    assert images.shape == (2, 1, size, size) and images.isfinite().all()
    assert torch.equal(generator(z), images)
    assert not torch.allclose(images[0], images[1], atol=0.01)
    assert generator.styles(z).shape == (2, generator.levels, LATENT)


def test_two_networks_of_one_seed_are_equal():
    states = [torch.cat([w.flatten() for w in make(seed=s).parameters()]) for s in (0, 0, 1)]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_at_256_px_the_generator_fits_into_10_mb():
    settings = with_recipe(config.TrainGan(model="stylegan", framing="stretch", size=256))
    generator = Generator(256, settings.z_dim, settings.width, settings.blocks, classes=4)
    assert len(network_bytes(generator.state_dict(), {})) < 10e6


def test_the_class_changes_the_picture():
    generator = make(classes=3)
    z = noise(generator, 1).expand(3, -1)
    pictures = generator(z, torch.arange(3))
    assert torch.allclose(generator(z, torch.tensor([1, 1, 1]))[0], pictures[1], atol=1e-5)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (pictures[one] - pictures[other]).abs().max() > 0.05


def test_grey_levels_outside_the_range_count_a_tenth():
    generator = make()
    for layer in (*generator.to_image, generator.finest):
        layer.convolution.weight.zero_(), layer.bias.zero_()
    generator.finest.bias[1:] = -50.0  # no speckle
    for level, counted in ((0.5, 0.5), (-0.9, -0.9), (3.0, 1.2), (-2.0, -1.1)):
        generator.finest.bias[0] = level
        image = generator(noise(generator, 2))
        torch.testing.assert_close(image, torch.full_like(image, counted))


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


# --- grain


def test_the_grain_is_faint_at_the_start_and_then_changes_texture_and_not_layout():
    generator = make(128, width=8)
    z = noise(generator, 2)
    styles, grains = generator.styles(z[:1]), noise(generator, 16, seed=3)[:, LATENT:]
    same_eye = styles.expand(16, -1, -1)
    assert (generator.draw(same_eye, grains) - generator.draw(styles, grains[:1])).std() < 0.15
    generator.finest.bias[1:] = 0.0
    changes = generator.draw(same_eye, grains) - generator.draw(styles, z[:1, LATENT:])
    assert fine(changes) > 2 * coarse(changes) and fine(changes) > 0.1


def test_noise_in_the_features_is_off_at_the_start_and_then_works_where_it_lies():
    generator = make(128, width=4)
    z = torch.ones(1, generator.z_dim)
    z[:, LATENT:] = 0
    still = generator(z)
    z[0, LATENT:].view(128, 128)[96:, :32] = 1  # the lower left corner
    noisy = [layer for layer in generator.grow if layer.strength is not None]
    assert noisy == list(generator.grow)[:3]  # at 8, 16 and 32 px
    generator.finest.bias[1:] = -50.0  # no speckle
    without = generator(z)
    for layer in noisy:
        layer.strength.fill_(0.3)
    change = (generator(z) - without).abs()[0, 0]
    assert change[96:, :32].mean() > 20 * change[:64, 64:].mean()
    assert (without - still).abs().max() < 1e-5


# --- two styles in one picture


def mixed(generator, z, share, labels=None):
    """The pictures of ``mixed`` and the styles that it drew."""
    drawn, draw = [], generator.draw
    generator.draw = lambda styles, grain: drawn.append(styles) or draw(styles, grain)
    torch.manual_seed(4)
    images = generator.mixed(z, share, labels)
    del generator.draw
    return images, drawn[0]


def test_without_a_share_mixing_is_forward():
    generator = make(classes=2)
    z, labels = noise(generator, 5), torch.tensor([0, 1, 0, 1, 1])
    torch.testing.assert_close(mixed(generator, z, 0, labels)[0], generator(z, labels))


def test_a_mixed_scan_has_its_own_style_up_to_a_level_and_one_other_from_there_on():
    generator = make()
    z = noise(generator, 200)
    _, styles = mixed(generator, z, 1)
    own = (styles == generator.styles(z)).all(2)  # (scans, levels)
    first = own.sum(1)
    assert set(first.tolist()) == set(range(1, generator.levels))  # never the first, all others
    assert (own == (torch.arange(generator.levels) < first[:, None])).all()
    others = styles[:, -1]
    assert all((styles[i, n:] == others[i]).all() for i, n in enumerate(first))
    assert len(others.unique(dim=0)) == 200


def test_the_share_of_mixed_scans_and_their_class():
    generator = make(classes=2)
    z, labels = noise(generator, 150), torch.arange(150) % 2
    images, styles = mixed(generator, z, 0.3, labels)
    own = generator.styles(z, labels)
    changed = (styles != own).any(2).any(1)
    assert changed.float().mean() == pytest.approx(0.3, abs=0.08)
    away = (images - generator(z, labels)).abs().amax((1, 2, 3))
    assert (away[changed] > 1e-3).all() and (away[~changed] < 1e-5).all()
    for c in (0, 1):  # the other style is of the class asked for, too
        centre = [generator.mean_style(torch.tensor([k]))[0] for k in (c, 1 - c)]
        others = styles[changed & (labels == c), -1].mean(0)
        assert (others - centre[0]).norm() < (others - centre[1]).norm()


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


def test_the_penalty_is_the_distance_of_lengths_from_their_running_mean(tmp_path):
    method = METHODS["gan stylegan"](tmp_path)[0]
    generator, accelerator = method.networks["generator"], Accelerator()
    z, seen = noise(generator, 4), []
    for k in range(3):
        torch.manual_seed(k)
        record = {}
        penalty = method._bends(z, [], record, accelerator)
        torch.manual_seed(k)
        styles = generator.styles(z)
        lengths = path_lengths(generator.draw(styles, z[:, generator.latent :]), styles)
        seen.append(lengths.mean().item())
        mean = sum((1 - PATH_MEMORY) * PATH_MEMORY ** (k - i) * m for i, m in enumerate(seen))
        assert method.path_mean == pytest.approx(mean, rel=1e-5)
        assert float(record["path_length"]) == pytest.approx(seen[-1], rel=1e-5)
        assert penalty.item() == pytest.approx((lengths - mean).square().mean().item(), rel=1e-4)


def first_step(folder, path_length, bends=None):
    """The generator's gradients in the first step of a training, always from the same scans."""
    method = METHODS["gan stylegan"](folder, path_length=path_length)[0]
    generator = method.networks["generator"]
    if bends:
        method._bends = lambda *args: bends(generator)
    torch.manual_seed(1)
    method.step(next(batches(make_data().train.images, 8)), Accelerator())
    return {name: w.grad for name, w in generator.named_parameters()}


def test_the_penalty_weighs_as_if_it_were_due_at_every_step(tmp_path):
    without = first_step(tmp_path / "0", 0)
    assert max(g.abs().max() for g in without.values()) > 0
    added = first_step(tmp_path / "1", 2, lambda generator: 3 * generator.first.bias.sum())
    for name, gradient in added.items():
        more = 2 * PATH_EVERY * 3 if name == "first.bias" else 0
        torch.testing.assert_close(gradient, without[name] + more, rtol=1e-4, atol=1e-5)
    real = first_step(tmp_path / "2", 2)
    assert not torch.allclose(real["first.bias"], without["first.bias"], rtol=1e-3)


def test_the_penalty_is_due_in_the_first_of_every_few_steps_also_after_a_break(tmp_path):
    stream, accelerator = batches(make_data().train.images, 2), Accelerator()
    start = METHODS["gan stylegan"]
    method = start(tmp_path / "a", width=2, batch_size=2)[0]
    due = ["path_length" in method.step(next(stream), accelerator) for _ in range(PATH_EVERY + 2)]
    assert due == [n % PATH_EVERY == 0 for n in range(PATH_EVERY + 2)]
    state, mean = method.state_dict(), method.path_mean
    assert mean > 0
    resumed = start(tmp_path / "b", width=2, batch_size=2)[0]
    resumed.load_state_dict(state)
    assert resumed.path_mean == mean
    due = ["path_length" in resumed.step(next(stream), accelerator) for _ in range(PATH_EVERY)]
    assert due == [n == PATH_EVERY - 2 for n in range(PATH_EVERY)]
    plain = start(tmp_path / "c", path_length=0)[0]
    assert "path_length" not in plain.step(next(stream), accelerator)


# --- training


@pytest.mark.parametrize("mixing", [0, 0.7])
def test_mixing_trains_through_mixed(tmp_path, monkeypatch, mixing):
    method, draw, *_ = gan(tmp_path, **STYLE, mixing=mixing, conditional=1)
    asked, plain = [], Generator.mixed

    def spy(self, z, share, labels=None, look=None):
        asked.append((share, labels.tolist()))
        return plain(self, z, share, labels, look)

    monkeypatch.setattr(Generator, "mixed", spy)
    real, labels = next(draw())
    before = [w.clone() for w in method.networks["generator"].parameters()]
    record = method.step((real, labels), Accelerator())
    assert asked == ([(0.7, labels.tolist())] if mixing else [])
    assert math.isfinite(record["loss_generator"])
    moved = zip(before, method.networks["generator"].parameters())
    assert sum(not torch.equal(a, b) for a, b in moved) > 0.9 * len(before)


def test_a_trained_generator_is_loaded_as_it_was(tmp_path):
    run = train(*METHODS["gan stylegan, conditional"](tmp_path, steps=2))
    generator = load_generator(run.folder)
    assert isinstance(generator, Generator) and generator.metadata["classes"] == list(CLASSES)
    state = checkpoint.load_latest(run.checkpoints)[1]["average"]
    assert state.keys() == generator.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in generator.state_dict().items())
    network = Generator(64, generator.latent, methods.gan(tmp_path / "other")[3].width,
                        len(generator.mapping.layers), classes=2)  # fmt: skip
    network.load_state_dict(state)
    z = torch.randn(generator.z_dim, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = network(z[None], torch.tensor([1])).clamp(-1, 1)
    torch.testing.assert_close(sample(generator, 1, seed=5, class_name="NORMAL"), expected)
    # the sizes of all its parts follow from the metadata, so the centre of truncation does too
    label = torch.tensor([1])
    assert torch.equal(generator.mean_style(label), network.mean_style(label))
