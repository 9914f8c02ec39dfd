"""Begin a training where another ended: the networks of what ships, or of a run."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from helpers.data.shape import LOOK
from helpers.training.checkpoint import load_best, load_latest
from helpers.training.network_file import read_network

ARGUMENTS = {"latent": "z_dim", "layers": "blocks"}  # of a network: the settings they come from
# arguments that follow from other settings and the data, or are of drawing alone
FOLLOW = ("classes", "rows", "looks", "steps")
CONDITIONS = ("embedding.weight", "mapping.embedding.weight")  # one row for each class
READER = ("dials.weight", "dials.bias")  # of a discriminator that reads them; older ones did not
LOOKS = ("strengths.weight", "louder.weight", "look.weight", "mapping.look.weight")  # and columns

SHIPPED = Path(__file__).with_name("weights")  # NAME.safetensors, asked for by NAME


def generator_file(run):
    """The generator.safetensors of a run's folder, `run` itself if it is a file, or the one of that
    name that comes with helpers.

    Raises FileNotFoundError that lists what is there instead.
    """
    run = Path(run)
    path = run / "generator.safetensors" if run.is_dir() else run
    if path.is_file():
        return path
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}
    if str(run) in shipped:  # beside what --out simulated made, too
        return shipped[str(run)]
    if not run.exists():
        known = f"; with helpers come: {', '.join(shipped)}" if shipped else ""
        raise FileNotFoundError(f"{run}: no such run or file{known}")
    there = ", ".join(sorted(p.name for p in run.iterdir())[:10]) or "nothing"
    raise FileNotFoundError(
        f"{run}: no generator.safetensors in it (there is: {there}). Training writes it at its "
        "first validation; train longer or name another run."
    )


def knows_dials(source) -> bool:
    """Whether what a training begins from is told dials (``gan.dials``). False, too, of what cannot
    be read: ``start_from`` says why."""
    try:
        _, about = read_network(generator_file(source))
    except (OSError, ValueError):
        return False
    return about.get("arguments", {}).get("looks", 0) > len(LOOK)


def start_from(method, source) -> str:
    """Give the networks of ``method``, a ``GAN`` or a ``Flow``, the weights that ``source`` has.

    source: a name that ships (simulated), a run's folder, or its generator.safetensors. The network
    and its size have to be the same, which ValueError says in words. Classes are matched by name; a
    class that is new begins as the mean of those known. Returns what was done, in words.
    """
    path = generator_file(source)
    weights, about = read_network(path)
    told, tells = (a["arguments"].get("looks", 0) for a in (method.architecture, about))
    mine, theirs = method.architecture, about
    has, wants = (_settings(architecture) for architecture in (theirs, mine))
    for name in (*has, *wants):  # what decides the most comes first
        if has.get(name) != wants.get(name):
            _refuse(source, name, has.get(name), wants.get(name))
    if tells > told > 0:
        _refuse(source, "dials", 1, 0)
    states = {"generator": weights}
    if "discriminator" in method.networks:
        states["discriminator"] = _discriminator(path)
    known, wanted = theirs.get("classes", []), mine.get("classes", [])
    for name in ("shapes", "shape_labels"):
        weights.pop(name, None)
    for network, state in states.items():
        own = method.networks[network].state_dict()
        for key in CONDITIONS:
            if key in own and key in state:
                state[key] = _matched(state[key], known, wanted)
        for key in READER:
            if key in own:
                state.setdefault(key, own[key])
        for key in LOOKS:  # what it was not told of begins without an effect
            if key in own and key in state and own[key].shape[1] > state[key].shape[1]:
                if key.startswith("mapping."):  # its inputs are weighted by 1 / sqrt(their number)
                    state[key] = state[key] * math.sqrt(own[key].shape[1] / state[key].shape[1])
                state[key] = F.pad(state[key], (0, own[key].shape[1] - state[key].shape[1]))
        fits = {key for key in own if key in state and own[key].shape == state[key].shape}
        if key := min({*own, *state} - fits, default=None):
            raise ValueError(
                f"start={source}: {key} of its {network} does not fit this training's; it was "
                "trained with other settings or by an older version. Leave OCT_START empty to "
                "begin from scratch."
            )
        method.networks[network].load_state_dict(state)
    if "gamma" in about and method.settings.balance:  # of a GAN
        method.gamma = about["gamma"]
    if "louder" in about and told > len(LOOK):
        method.louder = np.array(about["louder"])
        method.architecture["louder"] = about["louder"]  # of what is exported before a validation
    new = [name for name in wanted if name.upper() not in {other.upper() for other in known}]
    words = f"Begins from {Path(path).stem if Path(path).parent == SHIPPED else source}"
    words += f", which knows {', '.join(known)}" if known else ""
    return words + (f"; new to it: {', '.join(new)}." if new and known else ".")


def _settings(architecture: dict) -> dict:
    """What a training has to share with the one that it goes on from, by the settings' names."""
    arguments = {
        ARGUMENTS.get(name, name): value
        for name, value in architecture["arguments"].items()
        if name not in FOLLOW
    }
    return {
        "model": architecture["network"],
        "framing": architecture.get("framing", "stretch"),
        "size": arguments.pop("size"),
        "conditional": int(bool(architecture.get("classes"))),
        **arguments,
    }


def _refuse(source, name, has, wants):
    raise ValueError(
        f"start={source}: it has {name}={has}, this training {name}={wants}. Set OCT_"
        f"{name.upper()}={has}, or leave OCT_START empty to begin from scratch."
    )


def _matched(rows: torch.Tensor, known: list[str], wanted: list[str]) -> torch.Tensor:
    """Rows of an embedding in the order of the classes wanted; of a new one, the mean."""
    places = {name.upper(): k for k, name in enumerate(known)}
    mean = rows.mean(0)
    if not wanted:  # a generator of one class has an embedding of one row, a discriminator too
        return mean[None]
    return torch.stack([rows[places[n.upper()]] if n.upper() in places else mean for n in wanted])


def _discriminator(path: Path) -> dict[str, torch.Tensor]:
    """The discriminator that trained the generator of ``path``."""
    if path.parent == SHIPPED:
        theirs = SHIPPED / "discriminators" / path.name
        if not theirs.exists():
            has = ", ".join(file.stem for file in sorted(theirs.parent.glob("*.safetensors")))
            raise FileNotFoundError(
                f"start={path.stem}: it ships without its discriminator; begin from {has}."
            )
        return read_network(theirs)[0]
    folder = path.parent / "checkpoints"
    found = load_best(folder) or load_latest(folder)
    if found is None:
        raise FileNotFoundError(
            f"{folder}: no checkpoint, and without its discriminator a training cannot go on from "
            f"{path}. Name a run that still has its checkpoints."
        )
    return found[1]["networks"]["discriminator"]
