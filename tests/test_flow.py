"""A rectified flow: its path, its loss, how it is followed, what it is told, scans drawn anew."""

import json
import math

import flow as script
import numpy as np
import pytest
import torch
from PIL import Image
from support.methods import CLASSES, FLOW, METHODS, Thumbnails, aligned_data, aligned_gan

from helpers import config, generate
from helpers.data import shape
from helpers.data.augment import CHANGES, augment, change, draw_changes
from helpers.gan import flow
from helpers.gan.flow import (
    Generator,
    between,
    draw_times,
    edit,
    few_scans,
    flow_loss,
    inpaint,
    integrate,
    step,
    times,
)
from helpers.gan.recipes import NO_FLOW, with_recipe
from helpers.gan.sampling import sample
from helpers.gan.start import start_from
from helpers.generate import load_generator, set_flow
from helpers.training.checkpoint import load_latest
from helpers.training.loop import train
from helpers.training.processes import make_accelerator

MAKE = METHODS["flow"]


def make(size=64, width=8, **settings):
    """A flow whose weights are all at work: as it starts, much of it is zero."""
    torch.manual_seed(0)
    generator = Generator(size, width, **settings).requires_grad_(False)
    with torch.no_grad():
        for weight in generator.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    return generator


def noise(generator, count, seed=1):
    return torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(*MAKE(tmp_path_factory.mktemp("runs"), steps=4))


# --- path and loss


def test_the_path_is_straight_from_noise_to_the_crop():
    x0, x1 = torch.randn(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    ends = between(x0, x1, torch.tensor([0.0, 1.0, 0.25]))
    torch.testing.assert_close(ends, torch.stack([x0[0], x1[1], 0.75 * x0[2] + 0.25 * x1[2]]))


def test_the_loss_of_a_known_field():
    """Of the true velocity nothing is left; one that is off by 0.5 everywhere costs 0.25; and of
    one crop alone the velocity is known from where one is: (x1 - x) / (1 - t)."""
    x0, x1 = torch.randn(8, 1, 4, 4), torch.rand(1, 1, 4, 4).expand(8, -1, -1, -1)
    assert flow_loss(x1 - x0, x0, x1) == 0
    assert flow_loss(x1 - x0 + 0.5, x0, x1).item() == pytest.approx(0.25, rel=1e-5)
    t = torch.rand(8) * 0.9
    field = (x1 - between(x0, x1, t)) / (1 - t).view(-1, 1, 1, 1)
    assert flow_loss(field, x0, x1).item() == pytest.approx(0, abs=1e-9)


def test_times_lie_inside_and_mostly_where_they_should():
    torch.manual_seed(0)
    t = draw_times(20_000)
    assert t.min() > 0 and t.max() < 1
    assert t.logit().mean().item() == pytest.approx(flow.T_MEAN, abs=0.03)
    assert t.logit().std().item() == pytest.approx(flow.T_SPREAD, abs=0.03)


def test_an_untrained_network_has_the_best_guess_of_pixels_alone():
    """N(MEAN, SIGMA^2) pixels: no linear function of x is nearer to x1 - x0, and what is left has
    the standard deviation that the network's own part is scaled by."""
    torch.manual_seed(0)
    generator = Generator(64, 8).requires_grad_(False)
    x0 = torch.randn(4, 1, 64, 64)
    x1 = flow.MEAN + flow.SIGMA * torch.randn(4, 1, 64, 64)
    for time in (0.0, 0.3, 0.7, 1.0):
        t = torch.full((4,), time)
        x = between(x0, x1, t)
        left = (x1 - x0) - generator.velocity(x, t)
        assert abs(float((left * (x - x.mean())).mean())) < 0.02
        variance = (1 - time) ** 2 + (time * flow.SIGMA) ** 2
        assert left.std().item() == pytest.approx(flow.SIGMA / math.sqrt(variance), rel=0.03)


# --- how it is followed


def test_a_step_is_of_second_order():
    """dx/dt = a x: half the step, a quarter of the error."""
    errors = []
    for steps in (4, 8, 16):
        x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
        for k in range(steps):
            x = step(lambda x, t: 0.7 * x, x, 0.9 * k / steps, 0.9 * (k + 1) / steps)
        errors.append(abs(x[0].item() - math.exp(0.63)))
    assert errors[0] < 0.01 and 3.3 < errors[0] / errors[1] < 4.7 > errors[1] / errors[2] > 3.3


def test_a_gaussian_s_flow_ends_where_it_is_known_to():
    """The flow from N(0, 1) to N(m, s^2) is m + s x0 at its end; an untrained network has it."""
    generator = Generator(64, 8).requires_grad_(False)
    x0 = torch.randn(2, 1, 64, 64)
    known, errors = flow.MEAN + flow.SIGMA * x0, []
    for steps in (8, 16, 32):
        end = integrate(generator.velocity, x0, times(steps))
        errors.append((end - known).square().mean().sqrt().item())
    assert errors[0] > 3 * errors[1] > 9 * errors[2] and errors[0] < 0.02


def test_a_straight_field_takes_one_step_and_time_arrives_as_a_row_for_each():
    seen = []

    def field(x, t):
        seen.append(t)
        return torch.full_like(x, 3.0)

    x = torch.zeros(2, 1, 4, 4)
    torch.testing.assert_close(integrate(field, x, [0.25, 0.5, 1.0]), x + 0.75 * 3)
    assert [t.tolist() for t in seen] == [[0.25] * 2, [0.5] * 2, [0.5] * 2]  # none at the end


def test_steps_end_at_1_and_grow_shorter():
    for start in (0.0, 0.4):
        at = np.array(times(5, start))
        assert at[0] == pytest.approx(start) and at[-1] == 1 and len(at) == 6
        assert (np.diff(at) > 0).all() and (np.diff(at, n=2) < 0).all()


def test_a_crop_takes_two_looks_a_step_but_the_last():
    generator, looks = make(steps=3), []
    generator.begin.register_forward_hook(lambda *_: looks.append(1))
    crops = generator(noise(generator, 2))
    assert crops.shape == (2, 1, 64, 64) and crops.isfinite().all() and len(looks) == 5


@pytest.mark.parametrize("size, rows", [(64, 64), (128, 64), (256, 128), (512, 256)])
def test_it_is_built_for_every_crop(size, rows):
    generator = make(size, 4, rows=rows, steps=1, classes=2, looks=3)
    assert generator.z_dim == size * rows
    crops = generator(noise(generator, 1), torch.tensor([1]), torch.zeros(1, 3))
    assert crops.shape == (1, 1, rows, size) and crops.isfinite().all()
    with pytest.raises(ValueError, match="size=100.*64, 128, 256, 512"):
        Generator(100)


# --- what it is told


def test_class_look_time_and_changes_matter_and_nothing_told_is_zero():
    generator = make(classes=2, looks=3)
    x, t, labels = torch.randn(2, 1, 64, 64), torch.tensor([0.3, 0.8]), torch.tensor([0, 1])
    look, changes = torch.randn(2, 3), torch.rand(2, CHANGES)
    usual = generator.velocity(x, t, labels, look, changes)
    others = [
        generator.velocity(x, t, labels.flip(0), look, changes),
        generator.velocity(x, t, labels, -look, changes),
        generator.velocity(x, t, labels, look, -changes),
        generator.velocity(x, t.flip(0), labels, look, changes),
    ]
    assert all(((usual - other).abs().amax((1, 2, 3)) > 1e-3).all() for other in others)
    plain = generator.velocity(x, t, labels, torch.zeros(2, 3), torch.zeros(2, CHANGES))
    torch.testing.assert_close(generator.velocity(x, t, labels), plain)
    none = generator.velocity(x, t, torch.tensor([-1, -1]))
    torch.testing.assert_close(generator.velocity(x, t), none)
    one = generator.velocity(x, t, torch.tensor([-1, 1]))  # each for itself
    torch.testing.assert_close(one, torch.cat([none[:1], plain[1:]]))


def test_guidance_1_is_plain_and_more_goes_away_from_any_class():
    generator = make(classes=2, looks=3)
    x, t, labels = torch.randn(2, 1, 64, 64), torch.rand(2), torch.tensor([0, 1])
    told, free = generator.velocity(x, t, labels), generator.velocity(x, t)
    assert torch.equal(generator.guided(x, t, labels), told)
    for guidance in (0.0, 2.0):
        generator.guidance = guidance
        expected = free + guidance * (told - free)
        torch.testing.assert_close(generator.guided(x, t, labels), expected)


def test_changes_are_what_augment_does():
    images = torch.rand(6, 1, 32, 64) * 2 - 1
    torch.manual_seed(3)
    expected = augment(images, 0.5)
    torch.manual_seed(3)
    changes = draw_changes(6, 0.5)
    assert changes.shape == (6, CHANGES) and changes.abs().max() <= 1
    assert 0 < (changes == 0).float().mean() < 1
    assert torch.equal(change(images, changes), expected)
    torch.testing.assert_close(change(images, torch.zeros(6, CHANGES)), images, atol=1e-5, rtol=0)


def test_a_share_of_the_classes_is_left_out_and_the_changes_are_told(tmp_path, monkeypatch):
    method, draw, *_ = MAKE(tmp_path, batch_size=40, augment=0.5)
    batch, told = next(draw()), []
    velocity = method.networks["generator"].velocity
    monkeypatch.setattr(method.networks["generator"], "velocity",
                        lambda *given: told.append(given[2:]) or velocity(*given))  # fmt: skip
    for _ in range(5):
        method.step(batch, make_accelerator("fp32"))
    labels = torch.stack([given[0] for given in told])
    assert 0 < (labels == -1).float().mean() < 0.25
    assert ((labels == -1) | (labels == batch[1])).all()
    assert all(torch.equal(given[1], batch[2]) for given in told)
    assert 0.3 < torch.stack([given[2] for given in told]).ne(0).float().mean() < 0.7


# --- training


@pytest.mark.slow
def test_it_learns_where_the_crops_are(tmp_path):
    """What is left of a known batch falls below the best guess of pixels alone."""
    method, draw, *_ = MAKE(tmp_path, width=16, lr=3e-3, augment=0)
    accelerator, stream = make_accelerator("fp32"), draw()
    losses = [method.step(next(stream), accelerator)["loss_velocity"].item() for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_a_training_that_goes_on_ends_like_one_that_never_stopped(run, tmp_path):
    train(*MAKE(tmp_path, steps=2))
    resumed = train(*MAKE(tmp_path, steps=4))
    assert resumed.metrics()[-1]["step"] == 4
    states = [load_latest(one.checkpoints)[1] for one in (run, resumed)]
    for kind in ("networks", "average", "optimizers"):
        flat = [torch.utils._pytree.tree_leaves(state[kind]) for state in states]
        assert all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(*flat))
    assert resumed.generator.read_bytes() == run.generator.read_bytes()
    method, other = MAKE(tmp_path / "a", steps=2)[0], MAKE(tmp_path / "b", steps=2)[0]
    method.steps, method.louder = 7, np.array([2.0, 1.5, 0.5])
    other.load_state_dict(json.loads(json.dumps(method.state_dict())))
    assert other.steps == 7 and (other.louder == method.louder).all()


def test_the_file_draws_what_was_trained(run):
    """Same seed, same scans; class and look matter; whole scans are put together."""
    generator = load_generator(run.folder)
    assert isinstance(generator, Generator) and generator.steps == FLOW["flow_steps"]
    assert generator.metadata["classes"] == list(CLASSES) and generator.guidance == 1
    scans = sample(generator, 5, seed=3, class_name="DRUSEN")
    assert scans.shape == (5, 1, 256, 256) and scans.abs().max() <= 1
    assert torch.equal(sample(load_generator(run.folder), 5, seed=3, class_name="DRUSEN"), scans)
    crops = sample(generator, 5, seed=3, shape="aligned")
    assert crops.shape == (5, 1, 64, 64) and crops.std() > 0.05
    torch.testing.assert_close(sample(generator, 3, seed=3, shape="aligned"), crops[:3])
    assert not torch.allclose(sample(generator, 5, seed=4, shape="aligned"), crops, atol=0.01)


def test_generate_takes_guidance_and_steps(run, tmp_path, capsys):
    arguments = [str(run.folder), "--n", "2", "--class", "DRUSEN", "--exact"]
    plain, guided = tmp_path / "plain", tmp_path / "guided"
    generate.main([*arguments, "--out", str(plain)])
    generate.main([*arguments, "--out", str(guided), "--guidance", "3", "--steps", "1"])
    pictures = []
    for folder, guidance, steps in ((plain, "1", "2"), (guided, "3", "1")):
        with Image.open(folder / "DRUSEN" / "000000.png") as picture:
            assert (picture.text["Guidance"], picture.text["Steps"]) == (guidance, steps)
            pictures.append(np.asarray(picture))
    assert not np.array_equal(*pictures)
    with pytest.raises(SystemExit):  # which would overwrite what was made otherwise
        generate.main([*arguments, "--out", str(plain), "--steps", "3"])
    assert "not empty" in capsys.readouterr().err
    for wrong in (dict(guidance=-1), dict(guidance=0.5), dict(guidance=np.inf), dict(steps=0)):
        name = next(iter(wrong))
        with pytest.raises(ValueError, match=f"{name}=.*choose"):
            set_flow(load_generator(run.folder), **wrong)
    with pytest.raises(SystemExit):
        generate.main(["simulated", "--out", str(tmp_path / "no"), "--guidance", "2"])
    assert "only a flow takes them" in capsys.readouterr().err


def test_it_begins_from_a_flow_and_from_nothing_else(run, tmp_path):
    method = aligned_gan(tmp_path, **FLOW, classes=("CNV", *CLASSES), seed=1)[0]
    words = start_from(method, run.folder)
    assert words.endswith("new to it: CNV.")
    mine = method.networks["generator"]
    known = load_generator(run.folder)
    assert torch.equal(mine.end.weight, known.end.weight)
    rows = known.embedding.weight
    torch.testing.assert_close(mine.embedding.weight, torch.cat([rows.mean(0, True), rows]))
    for steps in (1, 7):  # how it is drawn from is no part of what it is
        other = aligned_gan(tmp_path / f"{steps}", **FLOW | {"flow_steps": steps})[0]
        assert "Begins from" in start_from(other, run.folder)
    with pytest.raises(ValueError, match="model=residual, this training model=flow.*OCT_MODEL"):
        start_from(method, "simulated")
    with pytest.raises(ValueError, match="model=flow, this training model=residual"):
        start_from(METHODS["gan aligned"](tmp_path / "gan")[0], run.folder)


@pytest.mark.parametrize(
    "arguments, words",
    [
        *(([f"--{name}={'bce' if name == 'loss' else 'none' if name == 'norm' else 1}"],
           f"{name}=.*a flow has no such thing") for name in NO_FLOW),
        (["--framing=stretch"], "framing=stretch: a flow learns aligned crops"),
        (["--flow-steps=0"], "flow_steps=0: choose at least 1"),
        (["--blocks=0"], "blocks=0: choose at least 1"),
        (["--augment=2"], "augment=2"),
        (["--model=residual", "--flow-steps=4"], "flow_steps=4: only model=flow"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        with_recipe(config.resolve(config.TrainGan, ["--model=flow", *arguments], {}))


def test_a_recipe_stays_when_it_is_asked_for_again():
    settings = with_recipe(config.resolve(config.TrainFlow, ["--preset=tiny"], {}))
    assert with_recipe(settings) == settings and settings.flow_steps == 2 and settings.gamma is None


def test_few_scans_are_said_before_training():
    few = np.array(["CNV"] * 3 + ["DRUSEN"] * flow.COPIES_BELOW)
    assert few_scans(few).startswith("CNV has 3, below") and "OCT_START" in few_scans(few)
    assert few_scans(few[3:]) == ""


# --- a real scan, drawn anew in part


def some(count=3):
    learned, labels, *_ = aligned_data()
    crops = torch.from_numpy(np.array(learned.images[:count])).float() / 127.5 - 1
    looks = torch.from_numpy(shape.look(learned.shapes[:count])[:, :3])
    return crops, torch.arange(count) % 2, looks


def test_an_edit_keeps_more_the_later_it_begins(run):
    generator, (crops, labels, looks) = load_generator(run.folder), some()
    away = [
        (edit(generator, crops, t, labels, looks, steps=4) - crops).square().mean().sqrt().item()
        for t in (0.0, 0.5, 0.9, 0.999, 1.0)
    ]
    assert away == sorted(away, reverse=True) and away[-1] == 0 and away[-2] < 0.01 < away[1]
    again = edit(generator, crops, 0.5, labels, looks, steps=4)
    assert torch.equal(edit(generator, crops, 0.5, labels, looks, steps=4), again)
    other = edit(generator, crops, 0.5, labels, looks, steps=4, seed=1)
    assert not torch.allclose(other, again, atol=0.01)
    for t in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"t={t}: choose a time from 0"):
            edit(generator, crops, t)


def test_an_edit_follows_the_class_and_the_look_it_is_given():
    generator, (crops, labels, looks) = make(classes=2, looks=3), some()
    usual = edit(generator, crops, 0.4, labels, looks, steps=4)
    for other in (edit(generator, crops, 0.4, 1 - labels, looks, steps=4),
                  edit(generator, crops, 0.4, labels, looks + 2, steps=4)):  # fmt: skip
        assert ((other - usual).abs().amax((1, 2, 3)) > 1e-3).all()


def test_inpainting_leaves_the_rest_untouched(run):
    generator, (crops, labels, looks) = load_generator(run.folder), some()
    window = slice(20, 36)
    drawn = inpaint(generator, crops, window, labels, looks, steps=3)
    kept = torch.ones(64, dtype=torch.bool)
    kept[window] = False
    assert torch.equal(drawn[..., kept], crops[..., kept])
    assert (drawn - crops)[..., window].abs().mean() > 0.05 and drawn.abs().max() <= 1
    assert torch.equal(inpaint(generator, crops, window, labels, looks, steps=3), drawn)
    alone = inpaint(generator, crops[:1], window, labels[:1], looks[:1], steps=3)
    torch.testing.assert_close(alone, drawn[:1])
    with pytest.raises(ValueError, match="again=0"):
        inpaint(generator, crops, window, again=0)
    with pytest.raises(ValueError, match="columns=.*there are none"):
        inpaint(generator, crops, slice(70, 80))


def test_inpainting_sees_what_is_kept_as_it_is_at_that_time(monkeypatch):
    """At every look that begins a step the kept columns lie on the straight path."""
    generator, (crops, *_) = make(classes=2, looks=3), some(2)
    seen = []
    monkeypatch.setattr(generator, "guided", lambda x, t, *_: seen.append((x, t)) or 0 * x)
    inpaint(generator, crops, slice(0, 32), seed=5, steps=4, again=2)
    x0 = flow.noise_like(crops, 5)
    assert len(seen) == 2 * (2 * 3 + 1)  # turns, steps of two looks, the last of one
    for x, t in [*seen[:12:2], *seen[12:]]:
        torch.testing.assert_close(x[..., 32:], between(x0, crops, t)[..., 32:])


# --- the comparison


@pytest.mark.slow
def test_the_comparison_trains_judges_and_counts_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "GUIDANCES", (2.0,))
    monkeypatch.setattr(script, "STEPS", (1,))
    monkeypatch.setattr(script, "TIMED", 8)
    monkeypatch.setattr(script, "Features", Thumbnails)  # of the trainings; judges have their own
    tiny = ["--minutes=0.01", "--n=4", "--set", "n_simulated=9", "validation_images=4",
            "validate_every=16", "--set-flow", "width=8", "flow_steps=2", "--set-residual",
            "width=8"]  # fmt: skip
    script.main(["train", str(tmp_path), *tiny])
    trained = {path.parent.name for path in tmp_path.glob("*/finished.json")}
    assert trained == {"flow-0", "residual-0"}
    script.main(["judge", str(tmp_path), "--n=4"])
    path = tmp_path / "tables" / "judge.json"
    rows = [row["what"] for row in json.loads(path.read_text())["rows"]]
    assert rows == ["flow-0", "flow-0 guidance=2", "flow-0 steps=1", "residual-0"]
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    before = path.read_text()
    script.main(["judge", str(tmp_path), "--n=4"])  # what is there is kept
    assert path.read_text() == before
    script.main(["copies", str(tmp_path), *tiny, "--models", "flow", "--scans", "4"])
    rows = json.loads((tmp_path / "tables" / "copies.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["copies-flow-4-0 best", "copies-flow-4-0 last"]
    assert rows[0]["scans"] == 4 and 0 <= rows[0]["copied"] <= 1
    assert "| flow-0 guidance=2 |" in (tmp_path / "tables.md").read_text()
