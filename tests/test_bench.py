"""`make bench` compares what it says: the same step executed in two ways, timed fairly."""

import copy
import itertools
import json
import math
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bench import __main__ as command
from bench import inputs, limits, materials, plain, quality, steps, timing
from bench.materials import files

from helpers.translation.cyclegan import CycleGAN

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(steps, "IMAGES", 80)  # no fewer than a batch
    monkeypatch.setattr(materials, "EYES", 12)
    monkeypatch.setattr(materials, "EXPORT", materials.SMALL)
    monkeypatch.setattr(materials, "PHOTOGRAPH", 192)


def weights(*networks):
    return torch.cat([p.detach().flatten() for n in networks for p in n.parameters()])


def test_the_plain_dcgan_and_ours_make_the_same_step():
    """In float32 the networks are equal after two steps on equal scans and equal noise."""
    torch.manual_seed(0)
    method = steps.make_gan(64, recipe="paper", width=8, batch_size=6)
    theirs = [copy.deepcopy(network) for network in method.networks.values()]
    real = torch.rand(6, 1, 64, 64) * 2 - 1
    usual = plain.dcgan_step(*theirs, itertools.repeat((real, None)))
    ours = steps.Ours(method, itertools.repeat(real), "fp32")
    before = weights(*theirs)
    for step in (usual, ours):
        torch.manual_seed(1)
        step()
        step()
    after = weights(*theirs)
    assert (after - before).abs().max() > 1e-4
    torch.testing.assert_close(weights(*method.networks.values()), after, rtol=1e-3, atol=2e-6)


def test_the_plain_cyclegan_and_ours_make_the_same_step(place, few):
    torch.manual_seed(0)
    ours = steps.cyclegan(place, "ours", 64, 8, 1, precision="fp32")
    assert isinstance(ours.method, CycleGAN)
    ours.method.mirrors = False
    generator, discriminator = ours.method.networks.values()
    theirs = plain.published_cyclegan(64, 8, 1)
    pairs = [(theirs[f"to_{side}"], generator.generators[side]) for side in ("oct", "dfe")]
    pairs += [(theirs[f"on_{side}"], discriminator[side]) for side in ("oct", "dfe")]
    for one, other in pairs:
        one.load_state_dict(other.state_dict())
    photographs, scans = torch.rand(1, 3, 64, 64) * 2 - 1, torch.rand(1, 1, 64, 64) * 2 - 1
    ours.stream = itertools.repeat(((photographs, None), (scans, None)))
    usual = plain.cyclegan_step(
        theirs, itertools.repeat((photographs, None)), itertools.repeat((scans, None))
    )
    before = weights(*(one for one, _ in pairs))
    usual()
    ours()
    moved = [weights(*side) - before for side in zip(*pairs)]
    assert moved[0].abs().max() > 1e-4
    # Adam's first step is lr times the gradient's sign: where it is next to nothing, it may differ
    assert (moved[0] - moved[1]).abs().gt(2e-5).float().mean() < 0.01


@pytest.mark.parametrize("name", steps.cases(size=64))
def test_every_case_takes_a_step_in_both_ways(place, few, name):
    count, make, differs = steps.cases(size=64)[name]
    assert count > 0 and differs
    for who in ("plain", "ours"):
        step = make(place, who)
        found = step()
        values = found.values() if isinstance(found, dict) else np.atleast_1d(found)
        assert all(math.isfinite(value) for value in values), (who, found)


def test_contenders_take_turns_and_the_first_does_not_count():
    calls = []

    def slow(name, seconds):
        calls.append(name)
        time.sleep(seconds)

    found = timing.alternate(
        {"a": lambda: slow("a", 0.02), "b": lambda: slow("b", 0.01)}, rounds=3, turn=0.02
    )
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3}
    turns = [name for name, _ in itertools.groupby(calls)]
    assert turns == ["a", "b"] * 5  # once to see how long it takes, once to warm up
    row = timing.row("part", "what", "images/s", 10, found["a"], found["b"])
    assert row.ratio > 1 and row.low <= row.ratio <= row.high and row.ours > row.plain
    assert row.plain == pytest.approx(10 / np.median(found["a"]))


def test_the_table_names_its_parts_and_the_command_those_it_knows(monkeypatch, tmp_path, capsys):
    rows = [timing.Row("one", "x", "images/s", 10.0, 25.0, 2.5, 2.0, 3.0, (120.0, 80.0), "why"),
            timing.Row("two", "y", "s", None, 1234.0)]  # fmt: skip
    monkeypatch.setenv("OCT_RUNS", str(tmp_path))
    monkeypatch.setattr(command, "parts", lambda place: {"steps": [lambda: rows], "limits": []})
    monkeypatch.setattr("sys.argv", ["bench", "steps"])
    command.main()
    printed = capsys.readouterr().out
    assert "| x | 10.0 | 25.0 images/s | 2.50 (2.00 to 3.00) | 120 / 80 | why |" in printed
    assert "### two" in printed and "| y |  | 1,234 s |  |  |  |" in printed
    kept = json.loads((tmp_path / "bench/bench.json").read_text())
    assert kept["rows"][0]["ratio"] == 2.5 and "torch" in kept["about"]
    monkeypatch.setattr("sys.argv", ["bench", "speed"])
    with pytest.raises(SystemExit):
        command.main()
    assert "no part speed: there are steps, limits" in capsys.readouterr().err


@pytest.mark.parametrize("who", ["plain", "ours"])
def test_epochs_are_timed_for_all_images(place, monkeypatch, who):
    monkeypatch.setattr(inputs, "BATCH", 8)
    monkeypatch.setattr(inputs, "WINDOWS", 2)
    monkeypatch.setattr(materials, "EYES", 12)
    found = inputs.epochs(who, files(place, 80), place / "epochs", 80)
    assert len(found["later"]) == 2 and found["megabytes"] >= 0
    assert min(found["first"], *found["later"]) > 0
    if who == "ours":
        assert found["first"] > min(found["later"])  # it decodes


def test_operations_are_those_of_the_formula():
    """Of a convolution, 2 per weight and place; its two derivatives as many each."""
    maps = torch.randn(2, 8, 10, 10, requires_grad=True)
    for groups, stride in ((1, 1), (8, 1), (1, 2)):
        weight = torch.randn(16, 8 // groups, 3, 3, requires_grad=True)
        with limits.Work() as work:
            F.conv2d(maps, weight, padding=1, stride=stride, groups=groups).sum().backward()
        side = 10 // stride
        assert work.operations == 3 * 2 * 2 * 16 * side**2 * 8 // groups * 9
    weight = torch.randn(8, 4, 4, 4, requires_grad=True)
    with limits.Work() as work:
        F.conv_transpose2d(maps, weight, stride=2, padding=1).sum().backward()
    assert work.operations == 3 * 2 * 2 * 8 * 100 * 4 * 16
    weight = torch.nn.Parameter(torch.randn(1000))
    optimizer = torch.optim.Adam([weight], fused=True)
    weight.grad = torch.ones(1000)
    optimizer.step()
    with limits.Work() as work:
        optimizer.step()
    # four are read, weights and two moments are written, and so is the count of steps
    assert work.bytes == pytest.approx(7 * 4000, abs=40 + 4000)
    rows = torch.randn(5, 7)
    with limits.Work() as work:
        rows @ rows.T
    assert work.operations == 2 * 5 * 7 * 5 and work.calls == 1
    assert work.bytes == 4 * (2 * 5 * 7 + 5 * 5)


def test_the_clock_stands_still_while_it_is_judged():
    scores = iter([9.0, 5.0, 1.0])

    def judge(network):
        time.sleep(0.2)
        return next(scores)

    found = quality.reach(lambda: (lambda: None, quality.EVERY // 4, None), judge, goal=2, limit=60)
    assert found["images"] == 3 * quality.EVERY and found["seconds"] < 0.6
    assert [distance for *_, distance in found["curve"]] == [9, 5, 1]
    slow = quality.reach(
        lambda: (lambda: time.sleep(0.05), quality.EVERY, None), lambda _: 9.0, goal=2, limit=0.12
    )
    assert slow["seconds"] is None and len(slow["curve"]) == 3


def test_the_interval_of_a_paired_ratio():
    usual = np.array([100.0, 120.0, 90.0, 110.0])
    even = quality.log_ratio(usual * [1.04, 1.06, 1.06, 1.04], usual)
    assert even["worse"] == pytest.approx(0.05, abs=1e-3) and 0.05 < even["high"] < 0.08
    noisy = quality.log_ratio(usual * [1.2, 0.9, 1.1, 0.95], usual)
    logs = np.log([1.2, 0.9, 1.1, 0.95])
    error = 3.182 * logs.std(ddof=1) / 2  # t of three degrees of freedom
    assert noisy["high"] == pytest.approx(np.exp(logs.mean() + error) - 1, rel=1e-3)
    assert noisy["low"] == pytest.approx(np.exp(logs.mean() - error) - 1, rel=1e-3)


def test_both_ways_begin_alike_and_the_average_is_judged():
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 64, 64), dtype=np.uint8)
    found = {}
    for way in quality.WAYS:
        step, count, average = quality.recipe(images, 64, 3, way, width=4)
        start = weights(average)
        step()
        found[way] = start, weights(average)
        assert count == 16
    (a, after), (b, other) = found.values()
    assert torch.equal(a, b) and not torch.equal(a, after)
    assert (after - other).abs().max() < 2e-3  # one step of Adam, in two precisions
