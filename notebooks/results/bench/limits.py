"""How far a step is from what the machine can do: its operations and bytes beside those of a large
convolution, forward and backward, and of a large copy."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bench import steps, timing
from helpers.data.batches import batches
from helpers.training.precision import choose_precision

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Work(TorchDispatchMode):
    """Operations of convolutions and matrix products (a multiplication and an addition are two),
    and bytes that operators read and write, each tensor once per operator: what would pass through
    memory if nothing stayed in a cache."""

    def __init__(self):
        super().__init__()
        self.operations = self.bytes = self.calls = 0

    def __torch_dispatch__(self, function, types, arguments=(), others=None):
        out = function(*arguments, **(others or {}))
        self.operations += operations_of(function._overloadpacket, arguments, others or {}, out)
        if not getattr(function, "is_view", False) and "empty" not in function.__name__:
            named = zip(function._schema.arguments, arguments)
            written = [x for slot, x in named if slot.alias_info and slot.alias_info.is_write]
            touched = tree_leaves((arguments, others, out, written if out is None else ()))
            tensors = [x for x in touched if torch.is_tensor(x)]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
            self.calls += 1
        return out


def operations_of(operator, arguments, others, out) -> int:
    """Of one call; torch's own count takes the derivatives of grouped convolutions for dense."""
    if operator == torch.ops.aten.convolution:
        inside, weight = arguments[:2]
        places = inside if arguments[6] else out  # transposed: every input is spread
        return 2 * places.numel() * weight[0].numel()
    if operator == torch.ops.aten.convolution_backward:
        push, inside, weight = arguments[:3]
        places = inside if arguments[7] else push
        return sum(arguments[10][:2]) * 2 * places.numel() * weight[0].numel()
    if operator in flop_registry:
        return flop_registry[operator](*arguments, **others, out_val=out)
    return 0


def ceilings(device, precision: str) -> dict[str, float]:
    """Operations per second of a large convolution, forward and backward, and bytes per second of a
    large copy."""
    kind = KINDS[precision]
    last = dict(dtype=kind, device=device, memory_format=torch.channels_last)
    maps = torch.randn(16, 256, 32, 32).to(**last).requires_grad_()
    weight = torch.randn(256, 256, 3, 3).to(**last).requires_grad_()
    push = torch.randn(16, 256, 32, 32).to(**last)
    source = torch.empty(2**28 // 4, device=device)
    target = torch.empty_like(source)

    def convolve():
        out = F.conv2d(maps, weight, padding=1)
        torch.autograd.grad(out, (maps, weight), push)[0].flatten()[0].item()  # waits for a GPU

    def copy():
        target.copy_(source)
        target[0].item()

    seconds = timing.alternate({"convolution": convolve, "copy": copy}, turn=0.5)
    work = 3 * 2 * maps.numel() * 256 * 9
    return {"operations": work / float(np.median(seconds["convolution"])),
            "bytes": 2 * 2**28 / float(np.median(seconds["copy"]))}  # fmt: skip


def measure(place: Path, precision="auto") -> list[timing.Row]:
    """Each case of ``steps``; the ratio is its share of the large convolution's rate."""
    chosen = choose_precision(precision)
    limit = ceilings(steps.DEVICE, chosen)
    part = (
        f"Share of what a large convolution reaches, {chosen}: 3 x 3, 256 channels, forward and "
        f"backward {limit['operations'] / 1e12:.2f} TFLOP/s; a copy {limit['bytes'] / 1e9:.0f} GB/s"
    )
    rows = []
    for name, (_, make, _) in steps.cases(precision).items():
        step = make(place, "ours")
        for _ in range(steps.LAZY):  # the first one makes what the optimisers remember
            step()
        with Work() as work:
            for _ in range(steps.LAZY):
                step()
        work = (work.operations, work.bytes, work.calls)
        operations, moved, calls = (number / steps.LAZY for number in work)
        seconds = timing.alternate({"step": step}, multiple=steps.LAZY)["step"]
        seconds = float(np.median(seconds))
        rows.append(timing.Row(
            part, name, "TFLOP/s", None, operations / seconds / 1e12,
            operations / seconds / limit["operations"],
            note=f"{operations / 1e9:.1f} GFLOP, {moved / 1e9:.2f} GB, {calls:.0f} operators, "
            f"{1000 * seconds:.0f} ms a step; {moved / seconds / limit['bytes']:.2f} of the copy",
        ))  # fmt: skip
        print(rows[-1].cells(), flush=True)
    return rows


def by_batch(place: Path, precision="auto", sizes=(8, 16, 32, 64)) -> list[timing.Row]:
    """Images per second of the DCGAN against its batch."""
    rows, size = [], 256 if steps.DEVICE.type == "cuda" else 128
    chosen = choose_precision(precision)
    for count in sizes:
        method = steps.make_gan(size, batch_size=count)
        images = steps.cached(place, size)
        stream = batches(images, count, device=steps.DEVICE)
        step = steps.Ours(method, stream, precision)
        seconds = float(np.median(timing.alternate({"step": step})["step"]))
        rows.append(timing.Row(f"Images per second by batch, {chosen}: DCGAN `best`, {size} px",
                               f"batch {count}", "images/s", None, count / seconds))  # fmt: skip
        print(rows[-1].cells(), flush=True)
    return rows
