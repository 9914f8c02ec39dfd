"""Begin a training where another ended: generator and discriminator of what ships, or of a run."""

from pathlib import Path

import torch

from helpers.checkpoint import load_best, load_latest, read_generator
from helpers.generate import SHIPPED, generator_file

CONDITIONS = ("embedding.weight", "mapping.embedding.weight")  # one row for each class


def start_from(method, source) -> str:
    """Give the networks of ``method``, a ``methods.gan.GAN``, the weights that ``source`` has.

    source: a name that ships (simulated), a run's folder, or its generator.safetensors. The network
    and its size have to be the same, which ValueError says in words. Classes are matched by name; a
    class that is new begins as the mean of those known. Returns what was done, in words.
    """
    path = generator_file(source)
    weights, about = read_generator(path)
    discriminator = _discriminator(path)
    mine, theirs = dict(method.architecture), dict(about)
    for name in ("network", "framing"):
        if mine.get(name) != theirs.get(name, "stretch"):
            _refuse(source, "model" if name == "network" else name, theirs.get(name, "stretch"),
                    mine.get(name))  # fmt: skip
    for name in {*mine["arguments"], *theirs["arguments"]} - {"classes"}:
        has, wants = theirs["arguments"].get(name), mine["arguments"].get(name)
        if has != wants:
            _refuse(source, name, has, wants)
    known, wanted = about.get("classes", []), mine.get("classes", [])
    for name in ("shapes", "shape_labels"):
        weights.pop(name, None)
    for network, state in (("generator", weights), ("discriminator", discriminator)):
        own = method.networks[network].state_dict()
        for key in CONDITIONS:
            if key in own and key in state:
                state[key] = _matched(state[key], known, wanted)
            elif key in state and key not in own:
                del state[key]
            elif key in own:  # it knew one class only
                state[key] = own[key]
        if key := next((k for k in own if k in state and own[k].shape != state[k].shape), None):
            _refuse(source, f"shape of {key}", tuple(state[key].shape), tuple(own[key].shape))
        method.networks[network].load_state_dict(state)
    if "gamma" in about and method.settings.balance:
        method.gamma = about["gamma"]
    new = [name for name in wanted if name not in known]
    words = f"Begins from {Path(path).stem if Path(path).parent == SHIPPED else source}"
    words += f", which knows {', '.join(known)}" if known else ""
    return words + (f"; new to it: {', '.join(new)}." if new and known else ".")


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
        return read_generator(SHIPPED / "discriminators" / path.name)[0]
    folder = path.parent / "checkpoints"
    found = load_best(folder) or load_latest(folder)
    if found is None:
        raise FileNotFoundError(
            f"{folder}: no checkpoint, and without its discriminator a training cannot go on from "
            f"{path}. Name a run that still has its checkpoints."
        )
    return found[1]["networks"]["discriminator"]
