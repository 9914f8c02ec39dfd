"""What numbers a machine computes with."""

import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_precision(precision: str) -> str:
    """ "auto" becomes what the machine computes in hardware: "bf16", "fp16" or "fp32".

    bf16 on CUDA from Ampere on and on CPUs with AMX tiles (elsewhere it is emulated and slower
    than fp32); fp16 with a gradient scaler on older GPUs such as the T4.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: choose auto, fp32, bf16 or fp16.")
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if has_bf16(torch.device("cuda")) else "fp16"
    return "bf16" if has_bf16(torch.device("cpu")) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` computes bf16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


def in_bf16(device: torch.device, wanted=True):
    """A context in which trained networks on ``device`` compute in bf16 where it does that in
    hardware, else as they are. (fp16 is left to training, which watches its range.)"""
    enabled = wanted and has_bf16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
