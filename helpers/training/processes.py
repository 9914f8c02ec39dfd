"""Several processes, one for each GPU, and the signals that end them."""

import os
import signal
import socket
import sys
import threading
import time
import warnings
from contextlib import contextmanager

import torch
from accelerate import Accelerator, notebook_launcher
from accelerate.state import AcceleratorState
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.nn.modules.batchnorm import _BatchNorm

_TOLD_TO_STOP = []  # signals that ended a training of this process


def is_first() -> bool:
    """Whether this process is the one of several that writes and talks (launchers number them)."""
    return os.environ.get("RANK", "0") == "0"


def launch(function, *arguments, processes: int = 0) -> None:
    """Call ``function(*arguments)`` in one process per GPU; right here where there is at most one.

    Under ``torchrun`` or ``accelerate launch`` the processes exist already, and this is a plain
    call. Otherwise they are forked: they see all that this process made, as long as it has not
    touched a GPU; what they change in memory stays theirs. ``processes`` overrides the number of
    GPUs (2 on a CPU: two ranks of one thread each).

    Raises RuntimeError with the message of the first process that failed.
    """
    # counted through the driver's management library: asking CUDA itself would spoil the fork
    processes = processes or torch.cuda.device_count()
    if "RANK" in os.environ or processes < 2:
        return function(*arguments)
    if torch.cuda.is_initialized():
        warnings.warn(
            f"This process has used a GPU already, so one of {processes} trains. Restart the "
            "notebook's kernel to train on all of them.",
            stacklevel=2,
        )
        return function(*arguments)

    def work() -> None:
        torch.set_num_threads(1)  # OpenMP's threads do not live on in a forked process
        _TOLD_TO_STOP.clear()  # an earlier training of this notebook was; this one may go on
        function(*arguments)
        if _TOLD_TO_STOP:  # then the launcher waits for the end of this process, not for an answer
            sys.stdout.flush()
            os._exit(0)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    AcceleratorState._reset_state(reset_partial_state=True)
    with _handlers_kept():
        try:
            notebook_launcher(work, num_processes=processes, use_port=port)
        except SignalException:
            pass  # Ctrl-C, passed on to the processes: they saved and said so
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            message = failure.message
            if isinstance(message, dict):  # what the process itself left behind
                message = message["message"]
            raise RuntimeError(f"process {rank} of {processes}: {message}") from error


def make_accelerator(precision: str) -> Accelerator:
    """This process's accelerator for "fp32", "bf16" or "fp16". RuntimeError if it does not know of
    the other processes that were launched with it: each would train, and write, for itself."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count > 1 and not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # without it, it takes no notice of them
    AcceleratorState._reset_state()  # a notebook may train twice, with another precision
    accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision))
    if accelerator.num_processes != count:
        raise RuntimeError(
            f"{count} processes were launched and {accelerator.num_processes} found together. Make "
            "no Accelerator before train()."
        )
    return accelerator


@contextmanager
def _handlers_kept():
    """The launcher leaves its signal handlers behind."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = [signal.getsignal(s) for s in signals]
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for s, handler in zip(signals, before):
                signal.signal(s, handler)


def average_gradients(network: torch.nn.Module, accelerator: Accelerator) -> None:
    """Mean of the gradients over all processes, in place.

    Done here and not by DistributedDataParallel, whose hooks do not survive the second derivatives
    of a gradient penalty.
    """
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    mean = accelerator.reduce(flat, reduction="mean")
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients])):
        gradient.copy_(part.view_as(gradient))


def update(method, loss: torch.Tensor, accelerator: Accelerator, *names: str) -> None:
    """One step of those of the method's optimizers that are called ``names``, down ``loss``."""
    for name in names:
        method.optimizers[name].zero_grad()
    accelerator.backward(loss)
    for name in names:
        average_gradients(method.networks[name], accelerator)
        method.optimizers[name].step()


def gather_rows(mine: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
    """The rows (B, d) of all processes; only this one's have a gradient.

    A loss of them, times the number of processes, has the right gradient after
    ``average_gradients``: each process brings the part of its own rows.
    """
    if accelerator.num_processes == 1:
        return mine
    parts = list(accelerator.gather(mine.detach().contiguous()).split(len(mine)))
    parts[accelerator.process_index] = mine
    return torch.cat(parts)


def average_statistics(networks: dict, accelerator: Accelerator) -> None:
    """Mean of BatchNorm's running statistics over all processes, in place."""
    if accelerator.num_processes == 1:
        return
    layers = [m for n in networks.values() for m in n.modules() if isinstance(m, _BatchNorm)]
    buffers = [b for m in layers for b in (m.running_mean, m.running_var) if b is not None]
    if buffers:
        mean = accelerator.reduce(torch.cat(buffers), reduction="mean")
        for buffer, part in zip(buffers, mean.split([b.numel() for b in buffers])):
            buffer.copy_(part)


def any_process(flags: list[bool], accelerator: Accelerator) -> list[bool]:
    """Which flags any process has set: all of them turn the same way at the same step."""
    if accelerator.num_processes == 1:
        return flags
    raised = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    return [count > 0 for count in accelerator.reduce(raised, reduction="sum").tolist()]


@contextmanager
def interruptible():
    """Yields a list that is empty until Ctrl-C or SIGTERM, so that a step always ends whole.

    A second Ctrl-C does not wait, if it comes later than what a launcher passes on of the first.
    """
    asked = []

    def ask(number, frame):
        if asked and number == signal.SIGINT and time.monotonic() > asked[0] + 2:
            raise KeyboardInterrupt
        if not asked:
            asked.append(time.monotonic())
            _TOLD_TO_STOP.append(number)
            if is_first():
                print("\nFinishing this step and saving; once more to stop at once.")

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(s, ask) for s in signals]
    try:
        yield asked
    finally:
        for s, handler in zip(signals, before):
            signal.signal(s, handler)
