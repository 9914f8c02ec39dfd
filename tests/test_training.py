"""The loop on a small GAN: it learns, it is resumed, interrupted, finished, and says what fails."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from helpers import checkpoint, config, load_generator
from helpers.data import Data, Split, batches
from helpers.generate import sample
from helpers.measures.distances import kernel_distance
from helpers.measures.features import Features
from helpers.methods.gan import GAN, with_recipe
from helpers.runs import open_run
from helpers.sources import Scan
from helpers.training import choose_precision, train, update_average

TWO_PROCESSES = """
import os, sys
import torch
sys.path.insert(0, os.environ["TESTS"])
from accelerate import PartialState
from test_training import Data, batches_of, split, settings_for, start, train
from helpers.measures.features import Features

data = Data(split(64, 1), split(8, 2), split(8, 3), "bands", "DRUSEN", "0123456789abcdef")
settings = settings_for(sys.argv[1], "--steps=3", "--batch_size=4")
method, run = start(settings, data, Features())
train(method, batches_of(data, settings), run, settings)
state = {"generator": method.networks["generator"].state_dict(), "noise": torch.randn(4),
         "processes": PartialState().num_processes}
torch.save(state, f"{sys.argv[1]}/rank{os.environ['RANK']}.pt")
"""


def bands(count, seed):
    """Scans of 64 px with two bright bands at varying depth: the simplest of retinas."""
    rng = np.random.default_rng(seed)
    rows = np.arange(64)[None, :, None] - 28 - rng.normal(0, 4, (count, 1, 1))
    bands = 170 * np.exp(-((rows / 3) ** 2)) + 120 * np.exp(-(((rows - 14) / 2) ** 2))
    return (bands[:, None] + rng.gamma(4, 8, (count, 1, 64, 64))).clip(0, 255).astype(np.uint8)


def split(count, seed):
    scans = [Scan(f"{seed}/{i}", "oct", "bands", "DRUSEN", f"{seed}-{i}") for i in range(count)]
    return Split(bands(count, seed), scans)


@pytest.fixture(scope="module")
def data():
    return Data(split(64, 1), split(24, 2), split(24, 3), "bands", "DRUSEN", "0123456789abcdef")


@pytest.fixture(scope="module")
def features():
    return Features()


def settings_for(tmp_path, *changes):
    arguments = ["--preset=tiny", f"--runs={tmp_path}", "--run=test", "--precision=fp32",
                 "--width=8", "--batch_size=16", *changes]  # fmt: skip
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


def test_a_short_training_lowers_the_kernel_distance(tmp_path, data, features):
    settings = settings_for(tmp_path, "--steps=40", "--lr=1e-3")
    method, run = start(settings, data, features)
    real = features(data.test.images)
    untrained = copy.deepcopy(method.averaged).eval()
    before = kernel_distance(features(sample(untrained, 32)), real)
    train(method, batches_of(data, settings), run, settings)
    after = kernel_distance(features(sample(load_generator(run.folder), 32)), real)
    assert after < 0.8 * before


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


def test_other_settings_take_another_folder(tmp_path, data, features):
    _, first = run_once(settings_for(tmp_path, "--steps=1"), data, features)
    _, second = run_once(settings_for(tmp_path, "--steps=1", "--seed=1"), data, features)
    assert (first.folder.name, second.folder.name) == ("test", "test-2")
    _, again = run_once(settings_for(tmp_path, "--steps=2"), data, features)
    assert again.folder == first.folder  # a longer budget continues
    assert again.metrics()[-1]["step"] == 2


def test_the_generator_depends_on_settings_data_and_seed_alone(tmp_path, data, features):
    runs = [
        run_once(settings_for(tmp_path / name, "--steps=3"), data, features)[1] for name in "ab"
    ]
    assert runs[0].generator.read_bytes() == runs[1].generator.read_bytes()
    other = run_once(settings_for(tmp_path / "c", "--steps=3", "--seed=5"), data, features)[1]
    assert other.generator.read_bytes() != runs[0].generator.read_bytes()


def test_an_interrupted_run_is_usable_and_ends_like_an_uninterrupted_one(
    tmp_path, data, features, capsys
):
    whole = run_once(settings_for(tmp_path / "whole", "--steps=6"), data, features)[1]
    settings = settings_for(tmp_path / "cut", "--steps=6")
    method, run = start(settings, data, features)
    step = method.step

    calls = []

    def ctrl_c_in_step_3(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    method.step = ctrl_c_in_step_3
    train(method, batches_of(data, settings), run, settings)
    assert "Interrupted at step 3" in capsys.readouterr().out
    assert sample(load_generator(run.folder), 2).shape == (2, 1, 64, 64)
    _, run = run_once(settings, data, features)
    assert [r["step"] for r in run.metrics()][-1] == 6
    (_, left), (_, right) = (checkpoint.load_latest(r.checkpoints) for r in (whole, run))
    for name in ("generator", "discriminator"):
        for key, value in left["networks"][name].items():
            assert torch.equal(value, right["networks"][name][key]), key
    assert torch.equal(left["random"]["cpu"], right["random"]["cpu"])


def test_a_folder_has_one_writer(tmp_path, data, features):
    settings = settings_for(tmp_path, "--steps=1")
    folder = tmp_path / "test"
    folder.mkdir()
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
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


def test_a_loss_that_is_no_number_stops_with_a_word(tmp_path, data, features):
    settings = settings_for(tmp_path, "--steps=3", "--log_every=16")
    method, run = start(settings, data, features)
    method.step = lambda *_: {"loss_generator": float("nan")}
    with pytest.raises(FloatingPointError, match="not finite at step 1.*lower lr"):
        train(method, batches_of(data, settings), run, settings)


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
    for setting, message in [("--model=residual", "model='residual'"), ("--size=100", "size=100"),
                             ("--norm=group", "norm='group'"), ("--augment=2", "augment=2"),
                             ("--batch_size=1", "at least 2")]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            settings_for(tmp_path, setting)


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


def test_two_processes_stay_equal(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc_per_node=2", str(script), str(tmp_path)]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
                   "TESTS": str(Path(__file__).parent)}  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert first["processes"] == second["processes"] == 2
    for name, weight in first["generator"].items():
        if "running" not in name and "num_batches" not in name:  # BatchNorm's are each rank's own
            assert torch.equal(weight, second["generator"][name]), name
    assert not torch.equal(first["noise"], second["noise"])


@pytest.mark.parametrize("loss", ["bce", "hinge", "relativistic"])
def test_every_loss_takes_a_step_with_penalties_and_augmentation(tmp_path, data, features, loss):
    settings = settings_for(tmp_path, f"--loss={loss}", "--gamma=1", "--norm=none", "--augment=0.5",
                            "--minibatch_std=1")  # fmt: skip
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
