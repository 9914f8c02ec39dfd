"""A network as one file: its weights and how to rebuild it.

safetensors and JSON, so that opening one runs no code.
"""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes


def write_network(path, state_dict, metadata):
    """Write weights and how to rebuild the network, whole or not at all; OSError if it cannot be.

    Arguments as in network_bytes.
    """
    write_whole(Path(path), network_bytes(state_dict, metadata))


def network_bytes(state_dict, metadata) -> bytes:
    """Weights and how to rebuild the network, as a file's content: equal input, equal bytes.

    state_dict: name -> tensor. metadata: JSON-able dict with "network" and "arguments" (see
    helpers.generate) and whatever else describes the weights; no times and no paths, since the
    file's hash identifies the generator.
    """
    tensors = {name: plain(tensor) for name, tensor in state_dict.items()}
    # one metadata entry only: safetensors writes several in random order
    text = json.dumps(metadata, sort_keys=True)
    return to_bytes(tensors, {"generator": text})


def read_network(path):
    """(state_dict, metadata) of a file by write_network; ValueError if it is not one."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["generator"])
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except Exception as error:  # safetensors has its own error type for each kind of damage
        raise ValueError(f"{path}: not a whole generator file ({error})") from error


def file_hash(path):
    """SHA-256 of the file, 64 hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def plain(tensor):
    """A contiguous copy on the CPU that shares memory with no other."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def write_whole(path, content: bytes) -> None:
    """Write a file so that it appears under its name only when all of it is on the disk."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the rename must not reach the disk before the content
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
