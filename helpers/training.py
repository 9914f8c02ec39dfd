"""The one training loop: device, precision, moving average, log, previews, budget, resume.

It never names a method. A method is a plain object with

- ``networks`` and ``optimizers``, dictionaries by name; ``averaged``, the module whose moving
  average is judged and exported; ``architecture``, what rebuilds that module;
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
from accelerate.utils import set_seed
from torch.nn.utils import parameters_to_vector
from torchvision.utils import save_image
from tqdm.auto import tqdm

from helpers import checkpoint
from helpers.data import batches
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
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def average_gradients(network: torch.nn.Module, accelerator: Accelerator) -> None:
    """Mean of the gradients over all processes, in place.

    Done here and not by DistributedDataParallel, whose hooks do not survive the second derivatives
    of a gradient penalty.
    """
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    mean = accelerator.reduce(parameters_to_vector(gradients), reduction="mean")
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients])):
        gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def update_average(average, network, images_seen, batch_size, half_life, ramp) -> None:
    """Exponential moving average of weights and BatchNorm statistics, with a ramp.

    The half-life, counted in images, is ``min(half_life, ramp * images_seen)`` (Karras et al.
    2020, StyleGAN2-ADA): an average that reaches back to the untrained network would be worse than
    the raw weights in a short run. ``half_life=0`` copies the raw weights.
    """
    reach = min(half_life, ramp * images_seen)
    decay = 0.5 ** (batch_size / reach) if reach > 0 else 0.0
    for mean, value in zip(average.state_dict().values(), network.state_dict().values()):
        if mean.is_floating_point():
            mean.lerp_(value.to(mean.dtype), 1 - decay)
        else:
            mean.copy_(value)


def load_optimizer(optimizer, state: dict) -> None:
    """Load a state and lay its moments out in memory as the weights are.

    Fused Adam walks through memory, so that moments in another layout (a checkpoint holds plain
    ones, the networks are channels_last) would meet the wrong weights.
    """
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            for name, moment in optimizer.state[weight].items():
                if moment.shape == weight.shape:
                    optimizer.state[weight][name] = torch.empty_like(weight).copy_(moment).detach()


@contextmanager
def interruptible():
    """Yields a list that is empty until Ctrl-C or SIGTERM, so that a step always ends whole."""
    asked = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(s, lambda number, frame: asked.append(number)) for s in signals]
    try:
        yield asked
    finally:
        for s, handler in zip(signals, before):
            signal.signal(s, handler)


def train(method, images, run: Run, settings) -> Run:
    """Train ``method`` on uint8 ``images`` (N, C, S, S) until the budget ends; returns the run.

    The budget is ``settings.steps`` and ``settings.hours`` (0: no such limit; the first that is
    reached ends it), counted over resumes. A run folder with checkpoints is continued; a finished
    one is returned as it is. Writes metrics.jsonl, previews/, checkpoints/ and, at every
    validation that is the best so far, generator.safetensors. Ctrl-C and SIGTERM save and return.

    Raises ValueError if no budget is set, FloatingPointError if a loss is no longer finite.
    """
    s = settings
    if not (s.steps or s.hours):
        raise ValueError("steps=0 and hours=0: give a training budget with one of them.")
    if run.finished(s.steps, s.hours):
        print(f"{run.folder.name} is finished; showing it. Other settings or OCT_RUN train anew.")
        return run

    precision = choose_precision(s.precision)
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
            load_optimizer(optimizers[name], state["optimizers"][name])
        average.load_state_dict(state["average"])
        method.load_state_dict(state["method"])
        seconds, best = state["seconds"], state["best"]
        torch.set_rng_state(state["random"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        run.rewind(done)

    def save(step):
        state = {
            "networks": {name: n.state_dict() for name, n in method.networks.items()},
            "optimizers": {name: o.state_dict() for name, o in optimizers.items()},
            "average": average.state_dict(),
            "method": method.state_dict(),
            "seconds": seconds,
            "best": best,
            "random": torch.get_rng_state(),
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
        }
        checkpoint.save(run.checkpoints, step, state)

    def judge(step):
        nonlocal best
        previews = method.preview(average)
        save_image(previews, run.previews / f"{step:08d}.png", nrow=8, normalize=True,
                   value_range=(-1, 1))  # fmt: skip
        value = method.validate(average)
        if value < best:
            best = value
            metadata = {**method.architecture, "class": s.class_, "step": step, "seed": s.seed}
            checkpoint.write_generator(run.generator, average.state_dict(), metadata)
        return value

    batch = s.batch_size
    stream = batches(
        images, batch, seed=s.seed, device=device, start=done,
        rank=accelerator.process_index, world_size=accelerator.num_processes,
    )  # fmt: skip
    global_batch = batch * accelerator.num_processes
    every = {  # settings speak of images, so that they mean the same at every batch size
        "log": max(1, s.log_every // global_batch),
        "judge": max(1, s.validate_every // global_batch),
    }
    bar = tqdm(total=s.steps or None, initial=done, disable=not main, unit="step", smoothing=0.05)
    started, before, totals, counted = time.monotonic(), seconds, {}, 0
    step, last_judged = done, None
    with interruptible() as asked:
        while not asked:
            record = method.step(next(stream), accelerator)
            step += 1
            seconds = before + time.monotonic() - started
            update_average(
                average,
                method.averaged,
                step * global_batch,
                global_batch,
                s.ema_half_life,
                s.ema_ramp,
            )
            totals = {name: totals.get(name, 0.0) + value for name, value in record.items()}
            counted += 1
            out_of_time = bool(s.hours) and seconds >= 3600 * s.hours
            over = out_of_time or (s.steps and step >= s.steps)
            if step % every["log"] == 0 or over:
                means = {name: total / counted for name, total in totals.items()}
                totals, counted = {}, 0
                if not all(map(math.isfinite, means.values())):
                    raise FloatingPointError(
                        f"{run.folder}: a loss is not finite at step {step}: {means}. The last "
                        "good state is in checkpoints/; lower lr or set precision=fp32."
                    )
                if main:
                    run.log(step, images=step * global_batch, seconds=seconds, **means)
            bar.update()
            bar.set_postfix_str(_status(record, best, seconds, s, step), refresh=False)
            if main and (step % every["judge"] == 0 or over):
                value, last_judged = judge(step), step
                run.log(step, images=step * global_batch, seconds=seconds, kernel_distance=value)
                save(step)
            if over:
                break
    bar.close()
    if main and last_judged != step:  # interrupted between two validations
        run.log(step, images=step * global_batch, seconds=seconds, kernel_distance=judge(step))
        save(step)
    if main and asked:
        print(f"Interrupted at step {step}. {run.folder} is usable; the same command continues it.")
    elif main:
        run.finish(step, seconds, best)
    return run


def _status(record, best, seconds, settings, step) -> str:
    losses = " ".join(f"{n.removeprefix('loss_')[:5]} {v:.2f}" for n, v in record.items()
                      if n.startswith("loss_"))  # fmt: skip
    left = [3600 * settings.hours - seconds] if settings.hours else []
    if settings.steps:
        left.append(seconds / step * (settings.steps - step))
    minutes = max(0.0, min(left)) / 60
    judged = f" distance {best:.0f}" if math.isfinite(best) else ""
    return f"{losses}{judged}, {minutes:.1f} min left"
