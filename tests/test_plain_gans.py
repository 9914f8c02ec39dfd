"""What the residual GAN and the style-based one have in common: how they start and what they draw.

What is of one alone is tested in test_residual_gan.py and test_stylegan.py.
"""

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from support.methods import CLASSES, METHODS, RESIDUAL, STYLE, gan, make_data

from helpers import config
from helpers.data.batches import batches
from helpers.gan import residual, stylegan
from helpers.gan.dcgan import SIZES
from helpers.gan.recipes import with_recipe
from helpers.gan.residual import Discriminator
from helpers.gan.sampling import sample
from helpers.generate import load_generator
from helpers.training import checkpoint
from helpers.training.loop import train
from helpers.training.network_file import network_bytes

LATENT = 8
GENERATORS = {"residual": residual.Generator, "stylegan": stylegan.Generator}
each_model = pytest.mark.parametrize("model", GENERATORS)
each_network = pytest.mark.parametrize("network", [*GENERATORS.values(), Discriminator])


def make(model, size=64, width=4, **settings):
    torch.manual_seed(0)
    return GENERATORS[model](size, LATENT, width, **settings).requires_grad_(False)


def grown(network):
    """The network as if it had been trained: no weight is zero any more."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return network


def without_speckle(generator):
    generator.finest.bias[1:] = -50.0
    return generator


def coarse(change):
    """Root mean square of what is left of a change in cells of 16 x 16 px."""
    return F.avg_pool2d(change, 16).square().mean().sqrt()


def fine(change):
    away = change - F.interpolate(F.avg_pool2d(change, 16), scale_factor=16)
    return away.square().mean().sqrt()


# --- how they start


@each_network
def test_two_networks_of_one_seed_are_equal(network):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(torch.cat([w.flatten() for w in network(64, width=2).parameters()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


@each_network
def test_a_size_that_cannot_be_built_is_named(network):
    with pytest.raises(ValueError, match="size=100.*64, 128, 256, 512"):
        network(100)


@each_model
def test_at_256_px_the_generator_fits_into_10_mb(model):
    s = with_recipe(config.TrainGan(model=model, framing="stretch", size=256))
    generator = GENERATORS[model](256, s.z_dim, s.width, s.blocks, classes=4)
    assert len(network_bytes(generator.state_dict(), {})) < 10e6
    wider = GENERATORS[model](256, s.z_dim, 2 * s.width, s.blocks, classes=4)
    assert sum(w.numel() for w in wider.parameters()) > sum(
        w.numel() for w in generator.parameters()
    )


# --- what they draw


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@each_model
def test_shapes_at_every_size_and_the_same_picture_for_the_same_noise(model, size):
    generator = grown(make(model, size, width=2))
    assert generator.z_dim == LATENT + size**2
    z = torch.randn(2, generator.z_dim)
    images = generator(z)
    assert images.shape == (2, 1, size, size) and images.isfinite().all()
    assert torch.equal(generator(z), images)
    assert not torch.allclose(images[0], images[1], atol=0.01)
    assert Discriminator(size, width=2)(images).shape == (2,)


@each_model
def test_the_class_changes_the_picture(model):
    generator = make(model, classes=3)
    z = torch.randn(1, generator.z_dim).expand(3, -1)
    pictures = generator(z, torch.arange(3))
    again = generator(z, torch.tensor([1, 1, 1]))
    torch.testing.assert_close(again[0], pictures[1], rtol=0, atol=1e-5)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (pictures[one] - pictures[other]).abs().max() > 0.05


@each_model
def test_grey_levels_outside_the_range_count_a_tenth(model):
    generator = make(model)
    for layer in (*generator.to_image, generator.finest):
        getattr(layer, "convolution", layer).weight.zero_(), layer.bias.zero_()
    without_speckle(generator)
    for level, counted in ((0.5, 0.5), (-0.9, -0.9), (3.0, 1.2), (-2.0, -1.1)):
        generator.finest.bias[0] = level
        image = generator(torch.randn(2, generator.z_dim))
        torch.testing.assert_close(image, torch.full_like(image, counted))


@pytest.mark.parametrize("model, times", [("residual", 5), ("stylegan", 2)])
def test_the_grain_is_faint_at_the_start_and_then_changes_texture_and_not_layout(model, times):
    generator = make(model, 128, width=8)
    one, other = torch.randn(2, 1, generator.z_dim)
    grains = torch.randn(32, generator.z_dim - LATENT)
    same_eye = torch.cat([one[:, :LATENT].expand(32, -1), grains], 1)
    assert (generator(same_eye) - generator(one)).std() < 0.15
    generator.finest.bias[1:] = 0.0
    changes = generator(same_eye) - generator(one)
    by_eye = generator(other) - generator(one)
    assert fine(changes) > 2 * coarse(changes) and fine(changes) > 0.1
    assert coarse(by_eye) > times * coarse(changes - changes.mean(0))


# the strengths of the noise in the features at 8, 16 and 32 px (none at half the picture's size),
# and how many each has: one for each channel, or one for all
NOISY = {
    "residual": (lambda generator: generator.rough, [32, 16, 8]),
    "stylegan": (lambda generator: [layer.strength for layer in generator.grow], [1, 1, 1, None]),
}


@each_model
def test_noise_in_the_features_is_off_at_the_start_and_then_works_where_it_lies(model):
    generator = without_speckle(make(model, 128))
    z = torch.ones(1, generator.z_dim)
    z[:, LATENT:] = 0
    still = generator(z)
    z[0, LATENT:].view(128, 128)[96:, :32] = 1  # the lower left corner
    assert (generator(z) - still).abs().max() < 1e-5
    find, numbers = NOISY[model]
    strengths = find(generator)
    assert [None if s is None else s.numel() for s in strengths] == numbers
    for strength in strengths[:3]:
        strength.fill_(0.3)
    change = (generator(z) - still).abs()[0, 0]
    assert change[96:, :32].mean() > 20 * change[:64, 64:].mean()


# --- their discriminator, and training


def test_no_scan_sees_the_others_of_its_batch():
    torch.manual_seed(0)
    images = torch.randn(4, 1, 64, 64)
    for classes in (0, 3):
        discriminator = grown(Discriminator(64, 4, classes=classes))
        labels = torch.tensor([0, 1, 2, 0]) if classes else None
        together = discriminator(images, labels)
        alone = [discriminator(images[i : i + 1], labels if labels is None else labels[i : i + 1])
                 for i in range(4)]  # fmt: skip
        torch.testing.assert_close(torch.cat(alone), together)


@pytest.mark.parametrize("given", [RESIDUAL, STYLE], ids=GENERATORS)
def test_the_penalty_is_due_in_the_first_step_of_every_three_also_after_a_break(tmp_path, given):
    stream, accelerator = batches(make_data().train.images, 8), Accelerator()
    method = gan(tmp_path, **given)[0]
    due = ["penalty" in method.step(next(stream), accelerator) for _ in range(5)]
    assert due == [True, False, False, True, False]
    resumed = gan(tmp_path / "resumed", **given)[0]
    resumed.load_state_dict(method.state_dict())
    assert ["penalty" in resumed.step(next(stream), accelerator) for _ in range(2)] == [False, True]


CONDITIONAL = [("residual", "gan conditional"), ("stylegan", "gan stylegan, conditional")]


@pytest.mark.parametrize("model, name", CONDITIONAL)
def test_a_trained_generator_is_loaded_as_it_was(tmp_path, model, name):
    start = METHODS[name](tmp_path, steps=4)
    run, s = train(*start), start[3]
    generator = load_generator(run.folder)
    assert isinstance(generator, GENERATORS[model])
    assert generator.metadata["classes"] == list(CLASSES)
    state = checkpoint.load_latest(run.checkpoints)[1]["average"]
    assert state.keys() == generator.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in generator.state_dict().items())
    network = GENERATORS[model](64, s.z_dim, s.width, s.blocks, classes=2)
    network.load_state_dict(state)
    noise = torch.randn(generator.z_dim, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = network(noise[None], torch.tensor([1])).clamp(-1, 1)
    torch.testing.assert_close(sample(generator, 1, seed=5, class_name="NORMAL"), expected)
