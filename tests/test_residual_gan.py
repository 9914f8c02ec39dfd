"""The residual GAN: its blocks, penalties and their weight, classes, an end in time."""

import shutil
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from support import methods
from support.methods import CLASSES, METHODS, Thumbnails, gan, make_data, split

from helpers import config
from helpers.data.batches import batches
from helpers.data.split import Data
from helpers.gan.gan import GAN, build
from helpers.gan.losses import zero_centred_penalty
from helpers.gan.recipes import with_recipe
from helpers.gan.residual import SLOPE, Block, Discriminator, Generator, Grain, Height
from helpers.generate import load_generator
from helpers.measures.texture import line_spectra
from helpers.training import checkpoint
from helpers.training.loop import train


def test_a_block_is_the_identity_at_the_start_and_learns():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 16, 16)
    assert torch.equal(Block(8, 4)(x), x)
    for stage in Generator(64, width=4, blocks=2).stages:
        assert len(stage) == 2
        x = torch.randn(1, stage[0].first.in_channels, 8, 8)
        assert torch.equal(stage(x), x)
    stage(x).square().sum().backward()
    assert all(block.second.weight.grad.abs().sum() > 0 for block in stage)


@pytest.mark.parametrize("axis", [1, 2])
def test_no_checkerboard_at_the_start(axis):
    torch.manual_seed(0)
    generator = Generator(128, width=8)
    with torch.no_grad():
        images = generator(torch.randn(64, generator.z_dim))[:, 0]
    frequency, power = line_spectra(images.numpy(), axis)
    power = power.mean(0)
    for place in (0.5, 0.25):
        away = np.abs(frequency - place)
        around = np.median(power[(away > 0.035) & (away < 0.1)])
        assert power[away < 0.017].max() < 10**0.1 * around, place


def test_each_number_of_the_grain_works_where_it_lies():
    torch.manual_seed(0)
    generator = Generator(64, 8, width=4)
    with torch.no_grad():
        z = torch.zeros(1, generator.z_dim)
        z[0, 8 + 40 * 64 + 10] = 1  # row 40, column 10
        change = (generator(z) - generator(torch.zeros_like(z))).abs()[0, 0]
    rows, columns = torch.nonzero(change > 1e-7, as_tuple=True)
    assert (rows.min() + rows.max()) / 2 == 40 and (columns.min() + columns.max()) / 2 == 10
    assert 3 <= rows.max() - rows.min() <= 6 and change.argmax() == 40 * 64 + 10


@pytest.mark.slow
@pytest.mark.parametrize(("size", "alike"), [(64, (0.0, 0.36)), (256, (0.0, 0.36, 0.81))])
def test_speckle_has_variance_one_and_the_likeness_of_its_gaussians(size, alike):
    """In the vitreous of Noor scans at 128 px neighbours correlate by 0.31 and 0.44."""
    torch.manual_seed(0)
    speckle = Grain(size)(torch.randn(40, 1, size, size))[..., 8:-8, 8:-8]
    for kind, expected in zip(speckle.unbind(1), alike, strict=True):
        assert kind.var() == pytest.approx(1, abs=0.05)
        for axis in (-1, -2):
            beside = (kind * kind.roll(1, axis))[..., 1:, 1:].mean()
            assert beside == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("classes", [0, 3])
def test_the_logit_is_the_inner_product_of_features_and_class(classes):
    torch.manual_seed(0)
    discriminator, seen = Discriminator(64, 4, classes=classes), []
    discriminator.halve[-1].register_forward_hook(lambda *args: seen.append(args[2]))
    images, labels = torch.randn(4, 1, 64, 64), torch.tensor([2, 0, 1, 2]) if classes else None
    logits = discriminator(images, labels)
    width = len(discriminator.gather)
    last = F.leaky_relu(seen[0], SLOPE)
    depthwise = F.conv2d(last, discriminator.gather[:, None], groups=width).flatten(1)
    table = depthwise @ discriminator.embedding.weight.T  # (4, classes)
    assert table.shape == (4, max(1, classes))
    expected = table[range(4), labels] if classes else table[:, 0]
    torch.testing.assert_close(logits, expected)


def first_step(folder, **changes):
    """A method and its discriminator's gradients in its first step, from the same scans."""
    method, *_ = gan(folder, model="residual", **changes)
    real = next(batches(make_data().train.images, 8))
    torch.manual_seed(1)
    record = method.step(real, Accelerator())
    weights = method.networks["discriminator"].parameters()
    return record, torch.cat([w.grad.flatten() for w in weights])


def test_a_penalty_that_is_due_every_k_steps_weighs_k_times_as_much(tmp_path):
    record, without = first_step(tmp_path / "0", gamma=0)
    assert "penalty" not in record
    every, once = first_step(tmp_path / "1", gamma=3, penalty_every=1)
    fifth, five = first_step(tmp_path / "5", gamma=3, penalty_every=5)
    assert every["penalty"] == pytest.approx(fifth["penalty"]) and every["penalty"] > 0
    assert (once - without).abs().max() > 1e-3
    torch.testing.assert_close(five - without, 5 * (once - without), rtol=1e-3, atol=1e-5)


def test_the_penalty_is_of_real_and_synthetic_scans(tmp_path):
    """R1 + R2 of a linear discriminator is twice the square of its weights."""

    class Linear(torch.nn.Linear):
        def forward(self, images):
            return super().forward(images.flatten(1))[:, 0]

    method, *_ = gan(tmp_path, model="residual", augment=0, penalty_fine=1)
    linear = Linear(64 * 64, 1)
    method.networks["discriminator"] = linear
    method.optimizers["discriminator"] = torch.optim.Adam(linear.parameters())
    expected = 2 * linear.weight.square().sum().item()
    record = method.step(next(batches(make_data().train.images, 8)), Accelerator())
    assert record["penalty"] == pytest.approx(expected, rel=1e-4)


def test_a_network_of_classes_needs_their_names(tmp_path):
    settings = gan(tmp_path, model="residual", conditional=1)[3]
    images = make_data().validation.images
    assert GAN(settings, images, Thumbnails(), ("DRUSEN",)).architecture["classes"] == ["DRUSEN"]
    with pytest.raises(ValueError, match="names of what is learned"):
        GAN(settings, images, Thumbnails())


def test_the_preview_shows_every_class_and_validation_the_one_asked_for(tmp_path):
    method = METHODS["gan conditional"](tmp_path)[0]
    asked = []

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, z, labels):
            asked.append(labels.tolist())
            return torch.rand(len(z), 1, 64, 64)

    method.preview(Spy())
    method.validate(Spy())
    assert asked[0] == 2 * ([0] * 4 + [1] * 4)  # two rows of eight
    assert asked[1] == [CLASSES.index("DRUSEN")] * 8


class Shows(torch.nn.Module):
    """A generator that draws what it is given, over and over."""

    def __init__(self, images):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.images = torch.from_numpy(images).float() / 127.5 - 1

    def forward(self, z):
        return self.images[torch.arange(len(z)) % len(self.images)]


def words(method, network):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method.validate(network)
    return " ".join(str(warning.message) for warning in caught)


def test_a_collapse_is_said(tmp_path):
    method, images = gan(tmp_path, model="residual")[0], make_data().test.images
    method.steps = 10_000
    assert "collapse" in words(method, Shows(images[:1]))
    assert words(method, Shows(images)) == ""


@pytest.mark.parametrize("loss, word", [(0.69, "too large"), (0.001, "too small"), (0.4, "")])
def test_a_gamma_that_is_far_off_is_said(tmp_path, loss, word):
    images = make_data().test.images
    method = gan(tmp_path, model="residual", gamma=7)[0]
    method.steps, method.mean_loss = 10_000, loss
    said = words(method, Shows(images))
    assert (f"gamma=7 is probably {word}" in said) if word else said == ""
    other = gan(tmp_path / "bce", model="residual", loss="bce", gamma=7)[0]
    other.steps, other.mean_loss = 10_000, loss  # says nothing about gamma there
    assert words(other, Shows(images)) == ""


@pytest.mark.parametrize("balance, loss, way", [(0.4, 0.1, 1), (0.3, 0.6, -1), (0, 0.1, 0)])
def test_gamma_follows_the_loss_to_its_balance(tmp_path, balance, loss, way):
    stream, accelerator = batches(make_data().train.images, 8), Accelerator()
    method = gan(tmp_path / "a", model="residual", gamma=5, balance=balance)[0]
    method.mean_loss = loss
    records = [method.step(next(stream), accelerator) for _ in range(4)]
    steps = np.diff(np.log2([5, *(r.get("gamma", 5) for r in records)]))
    assert (np.sign(steps) == way).all() and np.allclose(steps, steps[0])
    resumed = gan(tmp_path / "b", model="residual", gamma=5, balance=balance)[0]
    resumed.load_state_dict(method.state_dict())
    assert (resumed.gamma, resumed.mean_loss) == (method.gamma, method.mean_loss)
    assert resumed.mean_loss != loss


def never_better(start, at_first=1.0):
    """The method, but each of its validations is worse than the one before."""
    start[0].validate = lambda network: at_first + start[0].steps
    return start


BUDGETS = pytest.mark.parametrize("budget", [dict(steps=100), dict(steps=0, hours=1)])
WATCHED = dict(validate_every=16, patience=3)  # of 2 steps


@pytest.mark.slow
@BUDGETS
def test_a_training_that_gets_no_better_ends_and_keeps_its_best(tmp_path, capsys, budget):
    start = METHODS["gan residual"]
    run = train(*never_better(start(tmp_path, **budget, **WATCHED)))
    assert "3 validations without a better one" in capsys.readouterr().out
    judged = [r["step"] for r in run.metrics() if "score" in r]
    assert judged == [2, 4, 6, 8] and run.metrics()[-1]["step"] == 8
    assert load_generator(run.folder).metadata["step"] == 2
    assert checkpoint.load_best(run.checkpoints)[0] == 2

    best, again = run.generator.read_bytes(), start(tmp_path, **budget, **WATCHED)
    again[0].step = None  # it is not called
    run = train(*again)
    assert run.generator.read_bytes() == best and run.metrics()[-1]["step"] == 8


@pytest.mark.slow
@BUDGETS
def test_more_patience_goes_on_where_it_ended(tmp_path, capsys, budget):
    start = METHODS["gan residual"]
    train(*never_better(start(tmp_path, **budget, **WATCHED)))
    more = start(tmp_path, **budget, **{**WATCHED, "patience": 5})
    run = train(*never_better(more))
    assert run.metrics()[-1]["step"] == 12
    whole = never_better(start(tmp_path, **{**budget, "steps": 14}, **{**WATCHED, "patience": 0}))
    assert train(*whole).metrics()[-1]["step"] == 14
    assert load_generator(run.folder).metadata["step"] == 2


@pytest.mark.slow
@BUDGETS
def test_a_better_validation_renews_the_patience(tmp_path, budget):
    start = METHODS["gan residual"](tmp_path, **budget, **WATCHED)
    values = iter([5.0, 6.0, 7.0, 4.0, 4.0, 6.0, 7.0, 0.0])
    start[0].validate = lambda network: next(values)
    run = train(*start)
    judged = [r["score"] for r in run.metrics() if "score" in r]
    assert judged == [5, 6, 7, 4, 4, 6, 7]
    assert load_generator(run.folder).metadata["step"] == 8


@pytest.mark.parametrize("change", [dict(width=8), dict(size=128), dict(conditional=1)])
def test_a_checkpoint_of_another_network_is_named(tmp_path, change):
    start = METHODS["gan residual"]
    run = train(*start(tmp_path / "one", steps=1))
    other = start(tmp_path / "other", steps=2, **change)
    shutil.copytree(run.checkpoints, other[2].checkpoints, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="other.*of another generator, of another size.*OCT_RUN"):
        train(*other)


@pytest.mark.parametrize("method", ["gan residual", "gan conditional"])
def test_twenty_scans_are_enough_to_train(tmp_path, monkeypatch, method):
    few = Data(split(20, 1), split(4, 2), split(4, 3), "bands", "DRUSEN", "0123456789abcdef")
    monkeypatch.setattr(methods, "make_data", lambda: few)
    run = train(*METHODS[method](tmp_path, steps=6, batch_size=16, log_every=16))
    losses = [r["loss_generator"] for r in run.metrics() if "loss_generator" in r]
    assert len(losses) == 6 and np.isfinite(losses).all()


def test_real_and_synthetic_scans_in_one_pass_have_the_penalties_of_two():
    torch.manual_seed(0)
    discriminator = Discriminator(64, 4)
    halves = [torch.randn(3, 1, 64, 64, requires_grad=True) for _ in range(2)]
    both = torch.cat(halves).detach().requires_grad_()
    once = 2 * zero_centred_penalty(discriminator(both), both, 0.1)
    twice = sum(zero_centred_penalty(discriminator(half), half, 0.1) for half in halves)
    torch.testing.assert_close(once, twice)


def test_the_second_look_reads_the_height_of_the_rpe():
    look = Height(64, 64)
    first, last = look.part.start, look.part.stop - 1
    rows, line = torch.arange(64.0)[:, None], torch.full((64,), 44.0)
    line[30:34] -= 6  # a druse
    crop = -0.8 + 1.7 * torch.exp(-(((rows - line) / 1.5) ** 2))[None, None]
    read = (look.read(crop)[0][0] + 1) / 2 * (last - first) + first
    assert (read - line).abs().max() < 1.5
    flat = look(crop[..., :30].repeat(1, 1, 1, 3)[..., :64])
    assert (look(crop) - flat).abs().max() > 0.05
    above = crop.clone()
    above[:, :, : first - 1] = 1.0  # what lies above the outer retina is no business of it
    assert torch.equal(look(above), look(crop))


def test_only_aligned_crops_are_looked_at_so(tmp_path):
    classes = ("DRUSEN", "NORMAL")
    for framing, height in (("aligned", True), ("stretch", False)):
        settings = with_recipe(config.TrainGan(size=64, framing=framing))
        _, discriminator, about = build(settings, classes)
        assert (discriminator.height is not None) == height and about["framing"] == framing
