"""The one training loop: device, precision, moving average, log, previews, budget, resume.

It never names a method. A method is a plain object with

- ``networks`` and ``optimizers``, dictionaries by name; ``averaged``, the module whose moving
  average is judged and exported; ``architecture``, what rebuilds that module; ``exported``, what
  its file is called ("generator"); ``judged_by``, the name of its score ("kernel_distance");
- ``step(batch, accelerator) -> dict of floats``, which calls backward and the optimizers;
- ``preview(module) -> images`` and ``validate(module) -> float`` (smaller is better);
- ``state_dict()`` / ``load_state_dict(state)`` for whatever else it remembers.
"""

import copy
import math
import signal
import threading
import time
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torchvision.utils import save_image
from tqdm.auto import tqdm

from helpers import checkpoint
from helpers.runs import Run


def choose_precision(precision: str) -> str:
    """ "auto" becomes what the machine computes in hardware: "bf16", "fp16" or "fp32".

    bf16 on CUDA from Ampere on and on CPUs with AMX tiles (elsewhere it is emulated and slower
    than fp32); fp16 with a gradient scaler on older GPUs such as the T4.
    """
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise ValueError(f"precision={precision!r}: choose auto, fp32, bf16 or fp16.")
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return "bf16" if has_amx else "fp32"


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


@torch.no_grad()
def update_average(average, network, images_seen, batch_size, half_life, ramp) -> None:
    """Exponential moving average of weights and BatchNorm statistics, with a ramp.

    The half-life, counted in images, is ``min(half_life, ramp * images_seen)``, as in the code of
    StyleGAN2-ADA (there with a ramp of 0.05): an average that reaches back to the untrained network
    would be worse than the raw weights in a short run. ``half_life=0`` copies the raw weights,
    ``ramp=0`` means no ramp.
    """
    reach = min(half_life, ramp * images_seen) if ramp else half_life
    decay = 0.5 ** (batch_size / reach) if reach > 0 else 0.0
    for mean, value in zip(average.state_dict().values(), network.state_dict().values()):
        if mean.is_floating_point():
            mean.lerp_(value.to(mean.dtype), 1 - decay)
        else:
            mean.copy_(value)


def agreed(stop: bool, accelerator: Accelerator) -> bool:
    """Whether any process wants to stop: all of them leave the loop at the same step."""
    if accelerator.num_processes == 1:
        return stop
    flag = torch.tensor(float(stop), device=accelerator.device)
    return accelerator.reduce(flag, reduction="sum").item() > 0


@contextmanager
def explained(folder):
    """A disk that refuses, in words."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{folder}: cannot be written ({error.strerror or error}). Free some space or point "
            "OCT_RUNS at another disk; the same command continues."
        ) from error


@contextmanager
def interruptible():
    """Yields a list that is empty until Ctrl-C or SIGTERM, so that a step always ends whole.

    A second Ctrl-C does not wait.
    """
    asked = []

    def ask(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
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


def train(method, draw, run: Run, settings) -> Run:
    """Train ``method`` on the batches that ``draw`` gives until the budget ends; returns the run.

    ``draw(start=, device=, rank=, world_size=)`` is an endless iterator of one process's batches
    from the ``start``-th on: ``functools.partial(data.batches, images, batch_size, seed=seed)``.
    The budget is ``settings.steps`` and ``settings.hours`` (0: no such limit; the first that is
    reached ends it), counted over resumes. A run folder with checkpoints is continued; a finished
    one is returned as it is. Writes metrics.jsonl, previews/, checkpoints/ and, at every
    validation that is the best so far, the exported network. Ctrl-C and SIGTERM save and return.

    Raises ValueError if no budget is set, FloatingPointError if a loss is no longer finite,
    OSError naming the run's folder if it cannot be written.
    """
    s = settings
    if not (s.steps or s.hours):
        raise ValueError("steps=0 and hours=0: give a training budget with one of them.")
    if run.finished(s.steps, s.hours):
        print(f"{run.folder.name} is finished; showing it. Other settings or OCT_RUN train anew.")
        return run

    precision = choose_precision(s.precision)
    AcceleratorState._reset_state()  # a notebook may train twice, with another precision
    accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision))
    device, main = accelerator.device, accelerator.is_main_process
    for network in method.networks.values():
        network.to(device, memory_format=torch.channels_last)
    optimizers = method.optimizers = {
        name: accelerator.prepare_optimizer(o) for name, o in method.optimizers.items()
    }
    average = copy.deepcopy(method.averaged).eval().requires_grad_(False)

    done, seconds, best = 0, 0.0, math.inf
    set_seed(s.seed + accelerator.process_index)
    if found := checkpoint.load_latest(run.checkpoints):
        done, state = found
        for name, network in method.networks.items():
            network.load_state_dict(state["networks"][name])
            checkpoint.load_optimizer(optimizers[name], state["optimizers"][name])
        average.load_state_dict(state["average"])
        method.load_state_dict(state["method"])
        seconds, best = state["seconds"], state["best"]
        if accelerator.scaler is not None and state["scaler"]:
            accelerator.scaler.load_state_dict(state["scaler"])
        if accelerator.num_processes > 1:  # the state below is the first process's
            set_seed(s.seed + accelerator.process_index + 1000 * done)
        else:
            checkpoint.load_random(state["random"])
    if main:
        run.rewind(done)  # a killed run repeats what it logged after its last checkpoint

    global_batch = s.batch_size * accelerator.num_processes
    stream = draw(
        start=done, device=device,
        rank=accelerator.process_index, world_size=accelerator.num_processes,
    )  # fmt: skip
    log_every = max(1, s.log_every // global_batch)  # settings count images, so that they mean
    judge_every = max(1, s.validate_every // global_batch)  # the same at every batch size
    before, started, step, judged = seconds, time.monotonic(), done, done
    totals = {}

    def over() -> bool:
        return bool(s.steps and step >= s.steps) or bool(s.hours and seconds >= 3600 * s.hours)

    def judge() -> None:
        """Preview, validate, keep the best generator, log and save."""
        nonlocal best, judged, seconds
        sheet = run.previews / f"{step:08d}.png"
        save_image(method.preview(average), sheet, nrow=8, normalize=True, value_range=(-1, 1))
        value, judged = method.validate(average), step
        if improved := value < best:
            best = value
            metadata = {**method.architecture, "class": s.class_, "step": step, "seed": s.seed}
            file = run.folder / f"{method.exported}.safetensors"
            checkpoint.write_generator(file, average.state_dict(), metadata)
        seconds = before + time.monotonic() - started
        run.log(step, images=step * global_batch, seconds=seconds, **{method.judged_by: value})
        state = {
            "networks": {name: n.state_dict() for name, n in method.networks.items()},
            "optimizers": {name: o.state_dict() for name, o in optimizers.items()},
            "average": average.state_dict(),
            "method": method.state_dict(),
            "seconds": seconds,
            "best": best,
            "random": checkpoint.random_state(),
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
        }
        checkpoint.save(run.checkpoints, step, state, best=improved)

    bar = tqdm(total=s.steps or None, initial=done, disable=not main, unit="step", smoothing=0.05)
    with interruptible() as asked, explained(run.folder):
        while not agreed(bool(asked) or over(), accelerator):
            record = method.step(next(stream), accelerator)
            step += 1
            if not all(map(math.isfinite, record.values())):
                raise FloatingPointError(
                    f"{run.folder}: a loss is not finite at step {step}: {record}. The last good "
                    "state is in checkpoints/; lower lr or set precision=fp32."
                )
            update_average(
                average, method.averaged, step * global_batch, global_batch,
                s.ema_half_life, s.ema_ramp,
            )  # fmt: skip
            seconds = before + time.monotonic() - started
            for name, value in record.items():
                totals.setdefault(name, []).append(value)
            if main and (step % log_every == 0 or over()):
                means = {name: sum(values) / len(values) for name, values in totals.items()}
                run.log(step, images=step * global_batch, seconds=seconds, **means)
                totals.clear()
            bar.update()
            bar.set_postfix_str(_status(record, best, seconds, s, step), refresh=False)
            if main and step % judge_every == 0:
                judge()
        bar.close()
        if main and judged != step:
            judge()
        if main and over():
            run.finish(step, seconds, best)
        elif main:
            print(f"Interrupted at step {step}. {run.folder.name} is usable; the same command "
                  "continues it.")  # fmt: skip
    accelerator.wait_for_everyone()
    return run


def _status(record, best, seconds, settings, step) -> str:
    losses = " ".join(f"{n.removeprefix('loss_')[:5]} {v:.2f}" for n, v in record.items()
                      if n.startswith("loss_"))  # fmt: skip
    left = [3600 * settings.hours - seconds] if settings.hours else []
    if settings.steps:
        left.append(seconds / step * (settings.steps - step))
    minutes = max(0.0, min(left)) / 60
    judged = f" best {best:.3g}" if math.isfinite(best) else ""
    return f"{losses}{judged}, {minutes:.1f} min left"
