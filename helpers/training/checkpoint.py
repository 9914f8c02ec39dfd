"""Checkpoints and exported generators: safetensors and JSON, so that opening one runs no code."""

import hashlib
import json
import random
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes

from helpers.training.network_file import file_hash, plain, write_whole

NAME = re.compile(r"(step|best)-(\d+)-([0-9a-f]{16})\.safetensors")


def save(folder, step, state, *, keep=2, best=False):
    """Write `state` as folder/step-STEP-CHECKSUM.safetensors; True if it is safely on disk.

    state: nested dicts, lists and tuples of tensors, numpy arrays, numbers, strings, booleans and
    None. Keys may be strings or numbers. Anything else raises TypeError naming where it stands.
    The last `keep` checkpoints stay; with best=True this one also replaces best-*. A file appears
    under its name only when it is whole. If the disk refuses (no space left, say), the older
    checkpoints stay, a warning says so and False is returned: training can go on.
    """
    folder = Path(folder)
    tensors = {}
    skeleton = _take_apart(state, "", tensors)
    content = to_bytes(tensors, {"skeleton": json.dumps(skeleton)})
    name = f"{step:09d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    path = folder / f"step-{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*.part"):  # of a run killed while it was writing
            leftover.unlink()
        write_whole(path, content)
        if best:
            copy = folder / f"best-{name}.part"
            shutil.copyfile(path, copy)
            copy.replace(folder / f"best-{name}")
    except OSError as error:
        warnings.warn(
            f"{path}: checkpoint not written ({error.strerror}). Older ones stay and training "
            "goes on; free some space, or what follows is lost if the run is killed.",
            stacklevel=2,
        )
        return False
    # after a step back to an older checkpoint, files of later steps belong to a lost future
    kept = [p for p in _list(folder, "step") if p != path and _step(p) < step]
    kept = [path, *kept[: keep - 1]]
    kept += [folder / f"best-{name}"] if best else _list(folder, "best")
    for old in _list(folder, "step") + _list(folder, "best"):
        if old not in kept:
            old.unlink()
    return True


def load_latest(folder):
    """(step, state) of the newest whole checkpoint, None if there is none; tensors on the CPU.

    A file that does not match its checksum (cut short, a flipped bit) or is no checkpoint is named
    in a warning, and the one before it is used; the best counts too.
    """
    return _load(_list(folder, "step") + _list(folder, "best"))


def load_best(folder):
    """(step, state) of the checkpoint saved with best=True, None if there is none."""
    return _load(_list(folder, "best"))


def newest_step(folder) -> int:
    """The step of the newest checkpoint by its name, -1 if there is none."""
    return max(map(_step, _list(folder, "step") + _list(folder, "best")), default=-1)


def load_optimizer(optimizer, state: dict) -> None:
    """Load a state and lay its moments out in memory as the weights are.

    Fused Adam walks through memory, so that moments in another layout (a checkpoint holds plain
    ones, the networks are channels_last) would meet the wrong weights.
    """
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group["capturable"] = False  # of a checkpoint made on a GPU (helpers.training.cuda_graph)
        for weight in group["params"]:
            for name, moment in optimizer.state[weight].items():
                if moment.shape == weight.shape:
                    optimizer.state[weight][name] = torch.empty_like(weight).copy_(moment).detach()


def random_state() -> dict:
    """The global random generators: torch's of the CPU and of the GPU in use, NumPy's, Python's."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "cpu": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def load_random(state: dict) -> None:
    torch.set_rng_state(state["cpu"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    if torch.cuda.is_available() and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])


def _take_apart(value, place, tensors):
    """JSON skeleton of a nested state; its tensors go into `tensors` by a numbered name."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (torch.Tensor, np.ndarray)):
        name = f"{len(tensors):05d}{place}"
        is_array = isinstance(value, np.ndarray)
        tensors[name] = torch.from_numpy(value.copy(order="C")) if is_array else plain(value)
        return {"array" if is_array else "tensor": name}
    if isinstance(value, dict):
        # pairs, because optimisers number their entries and JSON knows only string keys
        return {"dict": [[k, _take_apart(v, f"{place}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        parts = [_take_apart(v, f"{place}/{i}", tensors) for i, v in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": parts}
    raise TypeError(f"A checkpoint cannot hold {type(value).__name__} (at {place or 'the top'})")


def _put_together(skeleton, tensors):
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, content),) = skeleton.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {key: _put_together(value, tensors) for key, value in content}
    parts = [_put_together(value, tensors) for value in content]
    return parts if kind == "list" else tuple(parts)


def _list(folder, kind):
    """Checkpoints of a kind, newest first."""
    found = [p for p in Path(folder).glob(f"{kind}-*.safetensors") if NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: (_step(p), p.stat().st_mtime), reverse=True)


def _step(path):
    return int(NAME.fullmatch(path.name)[2])


def _load(paths):
    """(step, state) of the newest that is whole."""
    for path in sorted(paths, key=_step, reverse=True):
        try:
            if file_hash(path)[:16] != NAME.fullmatch(path.name)[3]:
                raise ValueError("damaged or cut short, its checksum does not match")
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                skeleton = json.loads(file.metadata()["skeleton"])
            return _step(path), _put_together(skeleton, tensors)
        except Exception as error:  # safetensors has its own error type for each kind of damage
            warnings.warn(f"{path}: {error}; using the checkpoint before it.", stacklevel=3)
    return None
