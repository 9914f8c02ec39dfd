import numpy as np
import pytest
import torch

from helpers.config import TrainGan
from helpers.data.augment import augment, mirror
from helpers.gan.dcgan import SIZES, Discriminator, Generator
from helpers.gan.losses import LOSSES, zero_centred_penalty
from helpers.gan.recipes import with_recipe


def count(network):
    return sum(weight.numel() for weight in network.parameters())


def test_paper_recipe_has_the_parameter_counts_of_the_published_example():
    # The PyTorch example for three channels has 3,576,704 and 2,765,568. One channel saves
    # 2 x 64 filters of 4 x 4 at the image end of each network.
    settings = with_recipe(TrainGan(model="dcgan", framing="stretch", recipe="paper", size=64))
    generator = Generator(64, settings.z_dim, settings.width)
    discriminator = Discriminator(64, settings.width, settings.norm)
    assert count(generator) == 3_576_704 - 2 * 64 * 16
    assert count(discriminator) == 2_765_568 - 2 * 64 * 16


@pytest.mark.parametrize("size", SIZES)
def test_shapes_and_range_at_every_size(size):
    generator = Generator(size, 100, width=2)
    images = generator(torch.randn(2, 100))
    assert images.shape == (2, 1, size, size)
    assert images.abs().max() <= 1
    for norm in ("batch", "none"):
        assert Discriminator(size, 2, norm=norm)(images).shape == (2,)


def test_a_size_that_cannot_be_built_is_named():
    with pytest.raises(ValueError, match="size=100.*64, 128, 256, 512"):
        Generator(100)


def test_penalty_of_a_function_with_a_known_gradient():
    # D(x) = sum(w x^2) has the gradient 2 w x, so the penalty is mean_b sum (2 w x)^2, and its
    # derivative by w is mean_b sum 8 w x^2: the second derivative that training needs.
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    logits = (w * x**2).sum(dim=(1, 2, 3))
    penalty = zero_centred_penalty(logits, x)
    torch.testing.assert_close(penalty.item(), (2 * 0.7 * x).square().sum().item() / 3, rtol=1e-5,
                               atol=0)  # fmt: skip
    penalty.backward()
    expected = 8 * 0.7 * x.square().sum().item() / 3
    torch.testing.assert_close(w.grad.item(), expected, rtol=1e-5, atol=0)


def test_the_penalty_weighs_detail_within_cells_of_2_px_apart():
    cells = torch.randn(3, 1, 4, 4, dtype=torch.float64).repeat_interleave(2, 2)
    cells = cells.repeat_interleave(2, 3)
    within = torch.randn(3, 1, 4, 1, 4, 1, dtype=torch.float64) * torch.tensor([1, -1])
    within = within.expand(-1, -1, -1, 2, -1, -1).reshape(3, 1, 8, 8)
    x = torch.zeros(3, 1, 8, 8, dtype=torch.float64, requires_grad=True)

    def penalty(weights, fine):
        return zero_centred_penalty((weights * x).sum(dim=(1, 2, 3)), x, fine).item()

    for fine in (0.0, 0.1, 0.5, 1.0):
        coarse = cells.square().sum().item() / 3
        assert penalty(cells, fine) == pytest.approx(coarse, rel=1e-5)
        detail = within.square().sum().item() / 3
        assert penalty(within, fine) == pytest.approx(fine * detail, rel=1e-5)
        assert penalty(cells + within, fine) == pytest.approx(coarse + fine * detail, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_reward_their_owner(name):
    discriminator_loss, generator_loss = LOSSES[name]
    low, high = torch.full((4,), -0.5), torch.full((4,), 0.5)
    assert discriminator_loss(high, low) < discriminator_loss(low, high)
    assert generator_loss(low, high) < generator_loss(high, low)


def test_bce_is_binary_cross_entropy():
    real, fake = torch.randn(8), torch.randn(8)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(real, torch.ones(8)) + bce(fake, torch.zeros(8))
    torch.testing.assert_close(LOSSES["bce"][0](real, fake), expected)


def test_augmentation_keeps_up_up_and_lets_gradients_through():
    torch.manual_seed(0)
    depth = torch.linspace(1, -1, 64).view(1, 1, 64, 1).expand(64, 1, 64, 64)
    images = depth.clone().requires_grad_()
    changed = augment(images, 1.0)
    top, bottom = changed[:, :, :16].mean((1, 2, 3)), changed[:, :, -16:].mean((1, 2, 3))
    assert (top > bottom).all()  # never upside down
    assert not torch.allclose(changed, images)
    changed.sum().backward()
    assert images.grad.abs().sum() > 0
    assert augment(images, 0.0) is images
    with pytest.raises(ValueError, match="augment=2"):
        augment(images, 2)


def test_augmentation_touches_the_share_it_says():
    torch.manual_seed(0)
    images = torch.rand(400, 1, 8, 8)
    touched = (augment(images, 0.1) - images).abs().amax((1, 2, 3)) > 1e-3
    expected = 1 - 0.9**5  # five operations, each on a tenth
    assert abs(touched.float().mean() - expected) < 0.08


def test_mirror_swaps_left_and_right_of_about_half():
    torch.manual_seed(0)
    images = torch.linspace(-1, 1, 8).expand(200, 1, 8, 8)
    swapped = (mirror(images)[:, 0, 0, 0] > 0).float().mean()
    assert 0.35 < swapped < 0.65
    assert np.allclose(mirror(images).mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-6)
