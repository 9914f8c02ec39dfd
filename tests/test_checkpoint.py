"""Checkpoints come back exactly, survive damage and a full disk; generator files are stable."""

import errno
import hashlib
import io
import os
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.generate import load_generator
from helpers.training import checkpoint
from helpers.training.network_file import file_hash, read_network, write_network


def same(a, b):
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and (a == b or a != a)


def torch_bytes(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def trained():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    network(torch.randn(2, 1, 8, 8)).square().mean().backward()
    optimizer.step()
    return network, optimizer


def test_a_nested_state_comes_back_exactly(tmp_path):
    network, optimizer = trained()
    shared = torch.randn(3)
    state = {
        "network": dict(network.state_dict()),
        "optimizer": optimizer.state_dict(),
        "numpy": np.random.default_rng(3).bit_generator.state,  # integers of 128 bits
        "mersenne": np.random.RandomState(1).get_state(),  # a tuple with uint32 keys
        "python": random.getstate(),
        "random": torch.get_rng_state(),
        "half": torch.randn(4).bfloat16(),
        "views": [shared, shared[1:], torch.zeros(0), torch.tensor(1.5)],
        "array": np.arange(6.0).reshape(2, 3).T,
        "rest": [None, True, False, 2**200, -0.0, float("inf"), float("nan"), "Drüse", (), {}, []],
    }
    assert checkpoint.save(tmp_path, 7, state)
    step, loaded = checkpoint.load_latest(tmp_path)
    assert step == 7 and same(state, loaded)
    np.random.default_rng().bit_generator.state = loaded["numpy"]
    np.random.RandomState().set_state(loaded["mersenne"])
    random.setstate(loaded["python"])
    torch.set_rng_state(loaded["random"])
    optimizer.load_state_dict(loaded["optimizer"])


def test_what_cannot_be_stored_is_named(tmp_path):
    with pytest.raises(TypeError, match="function .*at /a/1"):
        checkpoint.save(tmp_path, 1, {"a": [0, print_me]})
    assert not list(tmp_path.iterdir())


def print_me():
    raise AssertionError("a checkpoint must not hold code")


def test_keeps_the_last_two_and_the_best(tmp_path):
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, {"step": step}, best=step in (1, 2))
    kinds = sorted(p.name.split("-")[:2] for p in tmp_path.iterdir())
    assert kinds == [["best", f"{2:09d}"], ["step", f"{4:09d}"], ["step", f"{5:09d}"]]
    assert checkpoint.load_latest(tmp_path) == (5, {"step": 5})
    assert checkpoint.load_best(tmp_path) == (2, {"step": 2})
    assert checkpoint.load_latest(tmp_path / "none") is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_named_and_the_one_before_used(tmp_path, damage):
    for step in (10, 20):
        checkpoint.save(tmp_path, step, {"w": torch.full((500,), float(step))})
    (newest,) = tmp_path.glob("step-*20-*")
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[-100] ^= 1
    newest.write_bytes(content if damage == "flip" else content[: 900 if damage == "cut" else 0])
    with pytest.warns(UserWarning, match=newest.name):
        step, state = checkpoint.load_latest(tmp_path)
    assert step == 10 and state["w"][0] == 10
    # going on from there, the damaged future must not outlive the good one
    checkpoint.save(tmp_path, 15, {"w": torch.zeros(1)})
    assert checkpoint.load_latest(tmp_path)[0] == 15


@pytest.mark.parametrize("kind", ["step", "best"])
def test_the_best_is_used_when_the_last_two_are_damaged(tmp_path, kind):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, {"step": step}, best=step == (20 if kind == "step" else 10))
    for path in tmp_path.glob("step-*"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoint.load_latest(tmp_path)[0] == (20 if kind == "step" else 10)


class Malicious:
    """Unpickling it makes a file: what a checkpoint from somebody else could do."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("dump", [pickle.dumps, torch_bytes], ids=["pickle", "torch.save"])
def test_a_malicious_file_runs_nothing(tmp_path, dump):
    trap = tmp_path / "it_ran"
    content = dump({"network": Malicious(trap)})
    checkpoint.save(tmp_path, 1, {"a": 1})
    digest = hashlib.sha256(content).hexdigest()[:16]  # even with a checksum that fits
    (tmp_path / f"step-000000002-{digest}.safetensors").write_bytes(content)
    with pytest.warns(UserWarning, match="step-000000002"):
        assert checkpoint.load_latest(tmp_path) == (1, {"a": 1})
    generator = tmp_path / "generator.safetensors"
    generator.write_bytes(content)
    with pytest.raises(ValueError, match="generator.safetensors"):
        load_generator(tmp_path)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Malicious(trap))).close()  # that it would have worked
    assert trap.exists()


def test_no_helper_loads_a_pickle():
    for path in (Path(__file__).parents[1] / "helpers").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"pickle\.loads?\(|allow_pickle=True|weights_only=False", text), path
        assert text.count("torch.load(") == text.count("weights_only=True"), path


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"a": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert checkpoint.save(tmp_path, 2, {"a": 2}) is False
    assert checkpoint.load_latest(tmp_path) == (1, {"a": 1})
    assert len(list(tmp_path.iterdir())) == 1


def test_a_killed_writer_leaves_nothing_that_reads_as_whole(tmp_path):
    checkpoint.save(tmp_path, 1, {"a": 1})
    (tmp_path / "step-000000002-0123456789abcdef.safetensors.part").write_bytes(b"half")
    assert checkpoint.load_latest(tmp_path) == (1, {"a": 1})
    checkpoint.save(tmp_path, 3, {"a": 3})
    assert not list(tmp_path.glob("*.part"))


WRITE = """
import sys, torch
from helpers.training import network_file
metadata = dict(zip("zyxwv", range(5))) | {"network": "dcgan", "arguments": {"size": 64, "b": 1}}
weights = {"b.weight": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2).bfloat16()}
network_file.write_network(sys.argv[1], weights, metadata)
"""


@pytest.mark.slow
def test_generator_files_are_equal_byte_by_byte(tmp_path):
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for path in paths:  # separate processes: hash seeds differ
        subprocess.run([sys.executable, "-c", WRITE, str(path)], check=True)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert file_hash(paths[0]) == file_hash(paths[1])
    weights, metadata = read_network(paths[0])
    assert metadata["arguments"] == {"size": 64, "b": 1}
    assert weights["a"].dtype == torch.bfloat16 and weights["b.weight"][1, 2] == 5
    write_network(paths[1], {**weights, "a": weights["a"] * 2}, metadata)
    assert file_hash(paths[0]) != file_hash(paths[1])


def test_a_damaged_generator_is_refused_by_name(tmp_path):
    path = tmp_path / "generator.safetensors"
    write_network(path, {"a": torch.ones(100)}, {"network": "dcgan"})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="generator.safetensors"):
        read_network(path)
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        read_network(tmp_path / "none.safetensors")
