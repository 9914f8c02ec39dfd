"""What one of several processes does for test_processes.py: `torchrun ranks.py FOLDER`.

All in one launch, since starting processes costs more than their few steps. Every rank
leaves what it saw and what it became in FOLDER/rankN.pt.
"""

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from accelerate import PartialState

from helpers.training import checkpoint
from helpers.training.loop import train
from helpers.training.processes import make_accelerator
from support.methods import METHODS, REPRESENTATIVES

LR = 0.01


@contextmanager
def in_float64(rank: int, count: int):
    """Double precision, and every rank draws the whole batch's noise and takes its share."""

    def shared(draw):
        return lambda n, *shape, **kind: draw(n * count, *shape, **kind)[rank::count]

    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(torch, "randn", shared(torch.randn)),
            mock.patch.object(torch, "rand", shared(torch.rand)),
            # .float() keeps half precision out of the losses; here it would narrow
            mock.patch.object(torch.Tensor, "float", lambda tensor: tensor.to(torch.float64)),
        ):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def doubled(batch):
    """A tensor, or tensors in tuples, in float64 where they are not whole numbers."""
    if isinstance(batch, tuple):
        return tuple(doubled(part) for part in batch)
    return batch.double() if batch.is_floating_point() else batch


def few_steps(name: str, folder, rank: int, count: int, batch_size: int) -> dict:
    """Gradients of the first step and weights after three of SGD, of networks without batch
    statistics: BatchNorm keeps to its running averages and Dropout does nothing."""
    method, draw, _, _ = METHODS[name](folder, batch_size=batch_size, steps=3)
    for network in method.networks.values():
        network.double()
        for layer in network.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                layer.eval()
                layer.train = lambda mode=True, layer=layer: layer
            elif isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
    if hasattr(method, "class_weights"):
        method.class_weights = method.class_weights.double()
    method.optimizers = {n: torch.optim.SGD(net.parameters(), LR) for n, net in
                         method.networks.items()}  # fmt: skip
    accelerator = make_accelerator("fp32")
    assert accelerator.num_processes == count
    torch.manual_seed(0)
    stream, gradients = draw(start=0, rank=rank, world_size=count), None
    with in_float64(rank, count):
        for _ in range(3):
            method.step(doubled(next(stream)), accelerator)
            gradients = gradients or of_all(method, lambda weight: weight.grad.clone())
    return {"gradients": gradients, "weights": of_all(method, lambda weight: weight.detach())}


def of_all(method, what) -> dict[str, torch.Tensor]:
    return {f"{n} {k}": what(weight) for n, network in method.networks.items()
            for k, weight in network.named_parameters()}  # fmt: skip


def whole(method) -> dict:
    return {
        "networks": {n: dict(net.state_dict()) for n, net in method.networks.items()},
        "optimizers": {n: o.state_dict() for n, o in method.optimizers.items()},
    }


def trained(name: str, folder, steps=6, disturb=None) -> dict:
    """What this rank was given, and what it is after training."""
    method, draw, run, settings = METHODS[name](folder, steps=steps, batch_size=8, log_every=16)
    given = []

    def watched(**place):
        given.append((place["start"], place["rank"], place["world_size"]))
        return draw(**place)

    if disturb:
        disturb(method)
    train(method, watched, run, settings)
    return {**whole(method), "given": given[-1], "noise": torch.rand(4),
            "random": checkpoint.random_state()}  # fmt: skip


def at_step(number: int, what):
    """A disturbance: after its step ``number``, a method's record is what ``what`` makes of it."""

    def disturb(method):
        step, calls = method.step, []

        def disturbed(*arguments):
            calls.append(1)
            record = step(*arguments)
            return what(record) if len(calls) == number else record

        method.step = disturbed

    return disturb


def main(folder: Path) -> None:
    rank, count = int(os.environ["RANK"]), make_accelerator("fp32").num_processes
    writes = []
    if rank:

        def watch(event, arguments):
            if event == "open" and isinstance(arguments[2], int):
                if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    writes.append(str(arguments[0]))
            elif event in ("os.mkdir", "os.rename", "os.remove"):
                writes.append(str(arguments[0]))

        sys.addaudithook(watch)

    def stop(record):
        if rank == 1:
            os.kill(os.getpid(), 15)
        return record

    def poison(record):
        return dict.fromkeys(record, float("nan")) if rank == 1 else record

    results = {"processes": count}
    for name in REPRESENTATIVES:
        PartialState().wait_for_everyone()
        results[name] = {
            "few": few_steps(name, folder / f"few{rank} {name}", rank, count, 4),
            "peace": trained(name, folder / f"peace {name}"),
            "stopped": trained(name, folder / f"war {name}", disturb=at_step(4, stop)),
            "resumed": trained(name, folder / f"war {name}"),
        }
    results["poisoned"] = trained("gan best", folder / "poisoned", disturb=at_step(4, poison))
    results["writes"] = [w for w in writes if w.startswith(str(folder)) and "/few" not in w]
    torch.save(results, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
