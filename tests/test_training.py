"""The loop on tiny methods: it learns, is resumed, interrupted, finished, and says what fails."""

import ast
import copy
import dataclasses
import errno
import json
import math
import os
import signal
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from support.chaos import differences
from support.clock import Clock
from support.methods import METHODS, REPRESENTATIVES, make_data

from helpers import config
from helpers.data.batches import batches
from helpers.gan.gan import GAN
from helpers.gan.recipes import with_recipe
from helpers.gan.sampling import sample
from helpers.generate import load_generator
from helpers.measures.distances import kernel_distance
from helpers.measures.features import Features
from helpers.training import budget, checkpoint, loop, runs
from helpers.training.loop import train
from helpers.training.precision import choose_precision
from helpers.training.processes import make_accelerator
from helpers.training.runs import open_run
from helpers.training.state import Training, update_average

ROOT = Path(__file__).parents[1]
each_method = pytest.mark.parametrize("method", METHODS)
each_kind = pytest.mark.parametrize("method", REPRESENTATIVES)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The time that a training of this process sees: it stands still unless a test moves it."""
    clock = Clock()
    monkeypatch.setattr(budget, "STARTED", clock.now)
    monkeypatch.setattr(loop, "Budget", partial(budget.Budget, clock=clock))
    return clock


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.fixture(scope="module")
def features():
    return Features()


def settings_for(tmp_path, *changes):
    arguments = ["--preset=tiny", f"--runs={tmp_path}", "--run=test", "--precision=fp32",
                 "--model=dcgan", "--framing=stretch", "--width=8", "--batch_size=16",
                 *changes]  # fmt: skip
    return with_recipe(config.resolve(config.TrainGan, arguments, {}))


def batches_of(data, settings):
    return partial(batches, data.train.images, settings.batch_size, seed=settings.seed)


def start(settings, data, features):
    torch.manual_seed(settings.seed)
    method = GAN(settings, data.validation.images, features)
    return method, open_run(settings, data, {})


def run_once(settings, data, features):
    method, run = start(settings, data, features)
    train(method, batches_of(data, settings), run, settings)
    return method, run


@pytest.mark.slow
def test_every_method_has_an_entry_in_the_table(tmp_path):
    """A method is a class with step, preview and validate, wherever in helpers it stands, or one
    that is made of such a class."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "helpers").rglob("*.py")]
    classes = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    known = set()
    for node in classes:
        names = {f.name for f in node.body if isinstance(f, ast.FunctionDef)}
        known |= {node.name} if {"step", "preview", "validate"} <= names else set()
    known |= {n.name for n in classes if known & {getattr(base, "id", "") for base in n.bases}}
    made = {type(make(tmp_path / name, steps=1)[0]).__name__ for name, make in METHODS.items()}
    assert known == made, "add a line to tests/support/methods.py"


@each_method
def test_a_step_gives_finite_losses_and_moves_every_network(tmp_path, method):
    made, draw, _, _ = METHODS[method](tmp_path, steps=1)
    before = {name: copy.deepcopy(n.state_dict()) for name, n in made.networks.items()}
    batch = next(draw(start=0, rank=0, world_size=1))
    record = made.step(batch, make_accelerator("fp32"))
    assert any(name.startswith("loss") for name in record)
    assert all(math.isfinite(value) for value in record.values()), record
    for name in made.optimizers:
        after = made.networks[name].state_dict()
        assert any(not torch.equal(before[name][k], after[k]) for k in after), name


@each_method
def test_resumed_after_a_step_the_next_one_is_the_same(tmp_path, method):
    """Networks, optimizers, average, batches, random numbers, and what the method remembers."""

    def begun():
        return Training(*METHODS[method](tmp_path, steps=2, batch_size=8))

    def second(training):
        training.step()
        return {"losses": training.read(), "random": torch.rand(4), **training.state()}

    went_on = begun()
    went_on.step()
    went_on.read()
    assert went_on.save()
    expected = copy.deepcopy(second(went_on))
    resumed = begun()
    assert resumed.resume() and resumed.at.step == 1
    assert differences(expected, second(resumed)) == []


@pytest.mark.slow
def test_a_short_training_lowers_the_kernel_distance(tmp_path, data, features):
    settings = settings_for(tmp_path, "--steps=40", "--lr=1e-3")
    method, run = start(settings, data, features)
    real = features(data.test.images)
    untrained = copy.deepcopy(method.averaged).eval()
    before = kernel_distance(features(sample(untrained, 32)), real)
    train(method, batches_of(data, settings), run, settings)
    after = kernel_distance(features(sample(load_generator(run.folder), 32)), real)
    assert after < 0.8 * before


@pytest.mark.slow
def test_run_folder_is_complete_and_a_finished_run_is_shown(tmp_path, data, features, capsys):
    settings = settings_for(tmp_path, "--steps=4")
    _, run = run_once(settings, data, features)
    for name in ("config.json", "metrics.jsonl", "previews", "checkpoints", "finished.json"):
        assert (run.folder / name).exists()
    identity = json.loads(run.config.read_text())["identity"]
    assert identity["size"] == 64 and identity["data_manifest"] == data.manifest_hash
    bytes_before, log = run.generator.read_bytes(), run.metrics()
    run_once(settings, data, features)
    assert "finished" in capsys.readouterr().out
    assert run.generator.read_bytes() == bytes_before and run.metrics() == log


@pytest.mark.slow
def test_other_settings_take_another_folder_and_are_named(tmp_path, data, features, capsys):
    _, first = run_once(settings_for(tmp_path, "--steps=1"), data, features)
    _, second = run_once(settings_for(tmp_path, "--steps=1", "--seed=1"), data, features)
    assert (first.folder.name, second.folder.name) == ("test", "test-2")
    assert "seed=0 (now 1); this one is test-2" in capsys.readouterr().out
    settings = settings_for(tmp_path, "--steps=1")
    other = dataclasses.replace(data, manifest_hash="of other scans")
    assert open_run(settings, other, {}).folder.name == "test-3"
    assert "the same settings and other data" in capsys.readouterr().out
    _, again = run_once(settings_for(tmp_path, "--steps=2"), data, features)
    assert again.folder == first.folder  # a longer budget continues
    assert again.metrics()[-1]["step"] == 2
    config = json.loads(first.config.read_text())
    config["identity"]["report_images"] = 7  # as an older version kept it: of what is drawn after
    first.config.write_text(json.dumps(config))
    assert open_run(settings, data, {}).folder == first.folder
    assert config["identity"].pop("start") == ""
    first.config.write_text(json.dumps(config))
    assert open_run(settings, data, {}).folder.name != first.folder.name  # it was not None
    unset = [k for k, v in config["identity"].items() if v is None]
    config["identity"] = {k: v for k, v in config["identity"].items() if v is not None}
    config["identity"]["start"] = ""
    first.config.write_text(json.dumps(config))  # of a version that had no such settings
    assert unset and open_run(settings, data, {}).folder == first.folder


def test_a_run_goes_on_where_its_pictures_have_moved(tmp_path, data):
    for name in ("data", "dfe"):
        for place in ("old", "new"):
            given = [f"--runs={tmp_path}", f"--run={name}", f"--{name}={tmp_path / place}"]
            settings = config.resolve(config.TrainCyclegan, given, {})
            assert open_run(settings, data, {}).folder.name == name


@pytest.mark.slow
def test_the_generator_depends_on_settings_data_and_seed_alone(tmp_path, data, features):
    runs = [
        run_once(settings_for(tmp_path / name, "--steps=3"), data, features)[1] for name in "ab"
    ]
    assert runs[0].generator.read_bytes() == runs[1].generator.read_bytes()
    other = run_once(settings_for(tmp_path / "c", "--steps=3", "--seed=5"), data, features)[1]
    assert other.generator.read_bytes() != runs[0].generator.read_bytes()


@pytest.mark.slow
def test_an_interrupted_run_is_usable_and_ends_like_an_uninterrupted_one(
    tmp_path, data, features, capsys
):
    whole = run_once(settings_for(tmp_path / "whole", "--steps=6"), data, features)[1]
    settings = settings_for(tmp_path / "cut", "--steps=6")
    method, run = start(settings, data, features)
    step = method.step

    calls = []

    def ctrl_c_in_step_2(*arguments):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    method.step = ctrl_c_in_step_2
    train(method, batches_of(data, settings), run, settings)
    assert "Interrupted at step 2" in capsys.readouterr().out
    assert sample(load_generator(run.folder), 2).shape == (2, 1, 64, 64)
    _, run = run_once(settings, data, features)
    assert without_clock(run) == without_clock(whole)
    assert run.generator.read_bytes() == whole.generator.read_bytes()
    assert same_networks(whole, run)


def without_clock(run):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in run.metrics()]


def same_networks(one, other):
    left, right = (checkpoint.load_latest(r.checkpoints)[1]["networks"] for r in (one, other))
    return all(torch.equal(left[n][k], right[n][k]) for n in left for k in left[n])


def test_a_folder_has_one_writer(tmp_path, data, features):
    settings = settings_for(tmp_path, "--steps=1")
    folder = tmp_path / "test"
    folder.mkdir()
    hold = (
        "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire();"
        "print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder / "lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout.readline() == "held\n"
    with pytest.raises(RuntimeError, match="being written by another process.*OCT_RUN"):
        open_run(settings, data, {})
    other.communicate()  # it ends, and with it its hold
    assert open_run(settings, data, {}).folder == folder


def test_nobody_is_learned_from_and_judged_by(tmp_path, data):
    """As where files that cannot be used split one class and all of them in two ways."""
    settings, known = settings_for(tmp_path, "--steps=1"), data.test.patients[0]
    learned = dataclasses.replace(data, train=data.test, left_out=[("DRUSEN/1.png", "no RPE")])
    with pytest.raises(ValueError, match=f"{known}, .*: learned from, and judged by.*: 1.png"):
        open_run(settings, data, {}, learned)
    assert not (tmp_path / "test").exists()


@pytest.fixture(scope="module")
def survived():
    """What chaos.py reports of each kind of method, killed once and once on a full disk."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "chaos.py"), "--events=2",
               "--kinds=kill;full", "--steps=48",  # so that none ends while the disk is full
               f"--methods={';'.join(REPRESENTATIVES)}"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.stdout.startswith(("{", "No mount")), done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {result["method"]: result for result in results}


@pytest.mark.slow
@each_kind
def test_killed_at_random_it_ends_like_an_uninterrupted_run(survived, method):
    result = survived[method]
    assert "kill" in dict(result["lost"])
    assert result["differences"] == [] and result["too much"] == []


@pytest.mark.slow
@each_kind
def test_a_really_full_disk_does_not_stop_it(survived, method):
    if "full" not in dict(survived[method]["lost"]):
        pytest.skip("this machine lets nobody mount a small disk")
    assert survived[method]["said"]["No space left"] > 0
    assert survived[method]["differences"] == []


@pytest.mark.slow
def test_a_disk_full_to_the_end_keeps_the_old_checkpoint_and_says_so(tmp_path, monkeypatch):
    method, draw, run, settings = METHODS["gan best"](tmp_path, steps=14)
    step, calls = method.step, []

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fills_the_disk(*arguments):
        calls.append(1)
        if len(calls) == 8:
            monkeypatch.setattr(os, "fsync", full)
        return step(*arguments)

    method.step = fills_the_disk
    with (
        pytest.warns(UserWarning, match="Training goes on.*free some space"),
        pytest.raises(OSError, match="no room to save the end.*the same command continues"),
    ):
        train(method, draw, run, settings)
    assert len(calls) == 14
    assert checkpoint.load_latest(run.checkpoints)[0] == 6
    monkeypatch.undo()
    train(*METHODS["gan best"](tmp_path, steps=14))
    whole = train(*METHODS["gan best"](tmp_path / "whole", steps=14))
    assert without_clock(run) == without_clock(whole) and same_networks(run, whole)


def explode(method, times, how):
    """The method, but at its 8th step and ``times - 1`` steps later something goes wrong."""
    step, calls = method.step, []

    def wrong(*arguments):
        calls.append(1)
        record = step(*arguments)
        if len(calls) >= 8 and (how == "weights" and len(calls) == 8 or how != "weights"):
            if len(calls) >= 8 + times:
                return record
            if how == "weights":
                with torch.no_grad():
                    next(iter(method.networks.values())).parameters().__next__().fill_(math.nan)
            else:
                record = dict.fromkeys(record, how)
        return record

    method.step = wrong


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("how", [math.nan, 1e9, "weights"])
def test_losses_that_explode_once_cost_no_more_than_the_way_back(tmp_path, method, how, capsys):
    start = METHODS[method](tmp_path, steps=14)
    rates = {n: [g["lr"] for g in o.param_groups] for n, o in start[0].optimizers.items()}
    explode(start[0], 1, how)
    run = train(*start)
    words = capsys.readouterr().out
    assert "exploded at step" in words and "Back to step 6, with 0.5" in words
    steps = [record["step"] for record in run.metrics()]
    assert steps == sorted(steps) and steps[-1] == 14  # nothing of the lost way is in the log
    _, state = checkpoint.load_latest(run.checkpoints)
    assert all(w.isfinite().all() for n in state["networks"].values() for w in n.values())
    for name, optimizer in start[0].optimizers.items():
        for group, rate in zip(optimizer.param_groups, rates[name]):
            assert group["slowed"] == 0.5
            assert group["lr"] <= 0.5 * rate * (1 + 1e-6)


@pytest.mark.slow
@each_kind
def test_losses_that_explode_twice_stop_with_a_word(tmp_path, method):
    start = METHODS[method](tmp_path, steps=14)
    explode(start[0], 2, math.nan)
    with pytest.raises(FloatingPointError, match="exploded at step 7.*lowered already.*lower lr"):
        train(*start)
    step, state = checkpoint.load_latest(start[2].checkpoints)
    assert step == 6
    assert all(w.isfinite().all() for n in state["networks"].values() for w in n.values())


def test_settings_that_cannot_work_are_named(tmp_path, data, features):
    with pytest.raises(ValueError, match="gamma=1.0 with norm='batch'"):
        settings_for(tmp_path, "--gamma=1")
    with pytest.raises(ValueError, match="loss='magic'"):
        settings_for(tmp_path, "--loss=magic")
    settings = settings_for(tmp_path, "--steps=0")
    method, run = start(settings, data, features)
    with pytest.raises(ValueError, match="steps=0 and hours=0"):
        train(method, batches_of(data, settings), run, settings)
    with pytest.raises(ValueError, match="precision='half'"):
        choose_precision("half")
    for setting, message in [("--model=vae", "model='vae'"), ("--size=100", "size=100"),
                             ("--norm=group", "norm='group'"), ("--augment=2", "augment=2"),
                             ("--batch_size=1", "at least 2")]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            settings_for(tmp_path, setting)


@pytest.mark.slow
def test_a_killed_run_repeats_what_it_logged_after_its_last_checkpoint(tmp_path, data, features):
    settings = settings_for(tmp_path, "--steps=2")
    _, run = start(settings, data, features)
    (run.folder / "metrics.jsonl").write_text('{"step": 1, "images": 16}\n{"step": 2, "ima')
    _, run = run_once(settings, data, features)
    steps = [record["step"] for record in run.metrics() if "loss_generator" in record]
    assert steps == sorted(set(steps)) and steps[-1] == 2
    (run.folder / "finished.json").unlink()  # killed between the last checkpoint and the end
    before = run.generator.read_bytes()
    _, run = run_once(settings, data, features)
    assert run.finished(2, 0) and run.generator.read_bytes() == before


@pytest.mark.parametrize("loss", ["bce", "hinge", "relativistic"])
def test_every_loss_takes_a_step_with_penalties_and_augmentation(tmp_path, data, features, loss):
    given = (f"--loss={loss}", "--gamma=1", "--norm=none", "--augment=0.5")
    settings = settings_for(tmp_path, *given)
    method, _ = start(settings, data, features)
    before = copy.deepcopy(method.averaged.state_dict())
    record = method.step(next(batches(data.train.images, 8)), Accelerator())
    assert all(np.isfinite(list(record.values()))) and record["penalty"] > 0
    after = method.averaged.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)


def test_moving_average_has_a_ramp_and_the_stated_half_life():
    network, average = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(average.weight)
    torch.nn.init.ones_(network.weight)
    update_average(average, network, images_seen=10**9, batch_size=50, half_life=50, ramp=0.3)
    assert average.weight.item() == pytest.approx(0.5)
    torch.nn.init.zeros_(average.weight)  # early: the reach is a share of what was seen
    update_average(average, network, images_seen=100, batch_size=10, half_life=10_000, ramp=0.1)
    assert average.weight.item() == pytest.approx(0.5)
    update_average(average, network, images_seen=10, batch_size=10, half_life=0, ramp=0.3)
    assert average.weight.item() == 1


def test_settings_survive_a_round_trip_through_config_json(tmp_path, data, features):
    settings = settings_for(tmp_path, "--steps=1")
    _, run = start(settings, data, features)
    assert json.loads(run.config.read_text())["settings"] == dataclasses.asdict(settings)


def each_step_takes(method, clock, seconds):
    """The method, whose steps move the clock so far and whose other work takes no time."""
    step = method.step

    def timed(*arguments):
        clock.now += seconds
        return step(*arguments)

    method.step = timed


def test_a_sitting_that_is_over_saves_and_the_next_goes_on(tmp_path, clock, monkeypatch, capsys):
    start = METHODS["gan best"](tmp_path, steps=8, session_hours=0.5)
    each_step_takes(start[0], clock, 610)
    run = train(*start)
    assert "This sitting is over at step 3" in capsys.readouterr().out
    monkeypatch.setattr(budget, "STARTED", clock.now)  # that of another process
    train(*METHODS["gan best"](tmp_path, steps=8, session_hours=0.5))
    whole = train(*METHODS["gan best"](tmp_path / "whole", steps=8))
    assert without_clock(run) == without_clock(whole) and same_networks(run, whole)


def test_a_budget_in_hours_is_kept_and_is_finished(tmp_path, clock, capsys):
    limit = 2.5 / 3600
    start = METHODS["gan best"](tmp_path, steps=0, hours=limit, validate_every=16)
    each_step_takes(start[0], clock, 0.3)
    run = train(*start)
    assert 1.9 <= run.metrics()[-1]["seconds"] <= 2.5
    assert run.finished(0, limit) and not run.finished(0, 2 * limit)
    before = run.generator.read_bytes()
    train(*METHODS["gan best"](tmp_path, steps=0, hours=limit))
    assert "is finished" in capsys.readouterr().out and run.generator.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("mount", ["my-notebook", "notebooks/somebody/my-notebook"])
@pytest.mark.parametrize("inside", ["runs/test", ""])
def test_an_attached_output_is_continued(tmp_path, monkeypatch, mount, inside, capsys):
    whole = train(*METHODS["gan best"](tmp_path / "whole", steps=14))
    attached = tmp_path / "input" / mount / inside
    monkeypatch.setattr(runs, "ATTACHED", tmp_path / "input")
    for folder, steps, seed in [("short", 6, 0), ("long", 12, 0), ("other", 13, 1)]:
        run = train(*METHODS["gan best"](tmp_path / folder, steps=steps, seed=seed))
        place = attached if folder == "long" else tmp_path / "input" / folder / "runs" / "test"
        place.parent.mkdir(parents=True, exist_ok=True)
        run.folder.rename(place)
    (tmp_path / "input" / "a-data-set").mkdir()
    (tmp_path / "input" / "a-data-set" / "config.json").write_text("[1]")
    config = json.loads((attached / "config.json").read_text())
    unset = [k for k, v in config["identity"].items() if v is None]
    del config["identity"][unset[0]]  # as of a version that had no such setting
    (attached / "config.json").write_text(json.dumps(config))
    files = sorted(path for path in attached.rglob("*"))
    for path in files:
        path.chmod(0o555 if path.is_dir() else 0o444)
    start = METHODS["gan best"](tmp_path / "runs", steps=14)
    assert f"Going on from step 12 of {attached}" in capsys.readouterr().out
    run = train(*start)
    for path in files:
        path.chmod(0o755)
    assert run.folder == tmp_path / "runs" / "test"
    # the end of a shorter budget is judged and logged too: it is no part of the longer run
    judged = [r for r in without_clock(run) if r["step"] != 12]
    assert judged == [r for r in without_clock(whole) if r["step"] != 12]
    assert same_networks(run, whole) and sorted(attached.rglob("*")) == files


def test_an_attached_output_that_was_copied_in_part_is_copied_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "ATTACHED", tmp_path / "input")
    train(*METHODS["gan best"](tmp_path / "input" / "my-notebook" / "runs", steps=6))
    copyfile = runs.shutil.copyfile

    def full(source, target):
        copyfile(source, target)
        if "-000000006-" in target.name:
            os.truncate(target, 1000)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left on device.*the same command continues"):
        METHODS["gan best"](tmp_path / "runs", steps=8)
    monkeypatch.setattr(runs.shutil, "copyfile", copyfile)
    _, _, run, _ = METHODS["gan best"](tmp_path / "runs", steps=8)
    assert capsys.readouterr().out.count("Going on from step 6") == 2
    assert checkpoint.load_latest(run.checkpoints)[0] == 6


def test_an_end_for_lack_of_patience_is_an_end(tmp_path, capsys):
    """Also for who asks the run whether it is finished, as notebook 04 does."""

    def few():
        method, *rest = METHODS["distillation"](tmp_path, steps=40, validate_every=8, patience=1)
        method.validate = lambda module: 1.0
        return train(method, *rest)

    run = few()
    assert run.metrics()[-1]["step"] == 2 and run.finished(40, 0, patience=1)
    assert not run.finished(40, 0, patience=2) and not run.finished(40, 0)
    few()
    assert "is finished; showing it" in capsys.readouterr().out


def test_the_bar_of_processes_forked_from_a_notebook_is_text(monkeypatch):
    """A widget would not reach the page, and the kernel would warn of every attempt."""
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    with loop.progress(2)(disable=True) as bar:
        assert type(bar) is loop.plain_tqdm
    assert loop.progress(1) is loop.tqdm
    monkeypatch.delitem(sys.modules, "ipykernel")
    assert loop.progress(2) is loop.tqdm


@pytest.mark.parametrize("name", ["config.json", "finished.json", "metrics.jsonl"])
def test_a_file_that_was_cut_short_is_named_and_the_run_goes_on(tmp_path, name):
    run = train(*METHODS["gan best"](tmp_path, steps=4))
    weights, path = run.generator.read_bytes(), run.folder / name
    path.write_bytes(path.read_bytes()[:-30])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = train(*METHODS["gan best"](tmp_path, steps=4))
        assert again.folder == run.folder
        longer = train(*METHODS["gan best"](tmp_path, steps=6))
    said = " ".join(str(warning.message) for warning in caught)
    assert (f"{name}: damaged or cut short" in said) == (name != "metrics.jsonl")
    assert longer.folder == run.folder and longer.generator.read_bytes() != weights
    config = json.loads(run.config.read_text())
    assert config["settings"]["steps"] in (4, 6) and "identity" in config
    steps = [row["step"] for row in longer.metrics()]
    assert max(steps) == 6 and steps == sorted(steps)


@pytest.mark.parametrize(
    "budget_of", [dict(steps=0, hours=-1), dict(steps=-3, hours=1), dict(patience=-1)]
)
def test_a_negative_budget_is_refused(tmp_path, budget_of):
    method, draw, run, settings = METHODS["gan best"](tmp_path)
    with pytest.raises(ValueError, match="a budget is not negative"):
        train(method, draw, run, dataclasses.replace(settings, **budget_of))
