"""Two processes on a CPU: they compute what one would, stay equal, and share the work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.chaos import differences, end_of
from support.methods import REPRESENTATIVES
from support.ranks import few_steps

from helpers.data.batches import batches

ROOT = Path(__file__).parents[1]
each_method = pytest.mark.parametrize("method", REPRESENTATIVES)


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **more}  # fmt: skip


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two ranks of tests/support/ranks.py left, and their folder."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(ROOT / "tests" / "support" / "ranks.py"), str(folder)]  # fmt: skip
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=900, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)], folder


@pytest.mark.slow
def test_there_were_two(ranks):
    (first, second), _ = ranks
    assert first["processes"] == second["processes"] == 2


@pytest.mark.slow
@each_method
def test_two_ranks_equal_one_process_with_the_whole_batch(ranks, tmp_path, method):
    (first, second), _ = ranks
    one = few_steps(method, tmp_path, rank=0, count=1, batch_size=8)
    for kind in ("gradients", "weights"):
        for name, value in one[kind].items():
            assert value.dtype == torch.float64
            for rank in (first, second):
                torch.testing.assert_close(rank[method]["few"][kind][name], value,
                                           rtol=1e-9, atol=1e-12, msg=f"{kind} {name}")  # fmt: skip
        assert any(value.abs().max() > 0 for value in one[kind].values())


@pytest.mark.slow
@each_method
def test_ranks_stay_equal_with_batch_statistics_and_draw_noise_of_their_own(ranks, method):
    first, second = (rank[method]["peace"] for rank in ranks[0])
    for part in ("networks", "optimizers"):
        assert differences(first[part], second[part]) == []
    assert not torch.equal(first["noise"], second["noise"])
    assert first["given"] == (0, 0, 2) and second["given"] == (0, 1, 2)


@pytest.mark.slow
@each_method
def test_stopped_by_one_rank_both_go_on_like_an_uninterrupted_run(ranks, method):
    results, folder = ranks
    for rank in results:
        for part in ("networks", "optimizers", "noise", "random"):
            assert differences(rank[method]["peace"][part], rank[method]["resumed"][part]) == []
        assert rank[method]["resumed"]["given"][0] == 4  # where the stop was, not where a save was
    assert differences(end_of(folder / f"peace {method}"), end_of(folder / f"war {method}")) == []


@pytest.mark.slow
def test_losses_that_explode_on_one_rank_take_both_back(ranks):
    first, second = (rank["poisoned"] for rank in ranks[0])
    assert differences(first["networks"], second["networks"]) == []
    for rank in (first, second):
        groups = [g for o in rank["optimizers"].values() for g in o["param_groups"]]
        assert all(group["slowed"] == 0.5 for group in groups)


@pytest.mark.slow
def test_only_the_first_rank_writes(ranks):
    (first, second), folder = ranks
    assert second["writes"] == []
    assert (folder / "peace gan best" / "test" / "finished.json").exists()


@pytest.mark.slow
@each_method
def test_the_log_counts_the_images_of_all_ranks(ranks, method):
    log = (ranks[1] / f"peace {method}" / "test" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 6 and json.loads(log[-1])["images"] == 6 * 2 * 8


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_are_disjoint_and_complete(count):
    images = np.arange(24, dtype=np.uint8)[:, None, None, None]
    shards = [batches(images, 2, seed=3, rank=rank, world_size=count) for rank in range(count)]
    whole = batches(images, 2 * count, seed=3)
    for _ in range(24 // (2 * count) * 2):  # two epochs
        seen = torch.stack([next(shard).flatten() for shard in shards], 1).flatten()
        assert torch.equal(seen, next(whole).flatten())
    epoch = [next(shards[rank]) for _ in range(24 // (2 * count)) for rank in range(count)]
    levels = ((torch.cat(epoch).flatten() + 1) * 127.5).round().int()
    assert sorted(levels.tolist()) == list(range(24))


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """What each notebook said on its way to a launch: tests/support/launches.py."""
    folder = tmp_path_factory.mktemp("launched")
    settings = {"OCT_PRESET": "tiny", "OCT_PROCESSES": "2", "OCT_STEPS": "3",
                "OCT_N_SIMULATED": "9", "MPLBACKEND": "Agg"}  # fmt: skip
    command = [sys.executable, str(ROOT / "tests" / "support" / "launches.py"), str(folder)]
    done = subprocess.run(
        command, env=environment(**settings), capture_output=True, text=True, timeout=900, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.name.removesuffix(".log"): path.read_text() for path in folder.glob("*.log")}


@pytest.fixture
def launched(logs):
    return logs["02_train_dcgan.py"]


@pytest.mark.slow
def test_no_cuda_call_before_the_launch(launched):
    assert "before the launch" not in launched, launched[-3000:]
    assert "\nended\n" in launched, launched[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(
    path.name for path in (ROOT / "notebooks").glob("*.py")
    if "launch(train" in path.read_text() and not path.name.startswith("02")
))  # fmt: skip
def test_no_cuda_call_before_the_first_launch_of_the_others(logs, notebook):
    assert "before the launch" not in logs[notebook], logs[notebook][-3000:]
    assert logs[notebook].endswith("launched\n"), logs[notebook][-3000:]


@pytest.mark.slow
def test_the_notebook_launches_two_processes(launched):
    assert "images 48.0 steps 3" in launched, launched[-3000:]  # 3 steps x 8 images x 2


@pytest.mark.slow
def test_what_fails_in_a_process_is_said_where_it_was_launched(launched):
    assert "failed process 1 of 2: ValueError: no such scan" in launched


@pytest.mark.slow
def test_a_launch_after_an_interrupted_training_returns():
    code = (
        "import os, signal\n"
        "from helpers.training.processes import interruptible, launch\n"
        "with interruptible():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "launch(print, 'trained', processes=2)\n"
        "print('returned')\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.stdout.count("trained") == 2 and "returned" in done.stdout, done.stderr[-3000:]


@pytest.mark.slow
def test_one_ctrl_c_lets_every_process_save_and_returns_at_once(launched):
    assert "saved ['saved0', 'saved1']" in launched, launched[-3000:]
    (waited,) = [line for line in launched.splitlines() if line.startswith("waited")]
    assert float(waited.split()[1]) < 25  # the launcher kills after 30 s
