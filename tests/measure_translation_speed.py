"""Steps per second and peak memory of CycleGAN beside the plain recipe; run by hand.

    OMP_NUM_THREADS=1 python tests/measure_translation_speed.py --size 64 --width 16 --blocks 6

Same networks, batch and losses in one process, alternating; memory in a process of its own each.
The plain recipe: float32, default memory layout, Adam as it comes, one pass for each loss.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from methods import Thumbnails, make_domains

from helpers import config
from helpers.methods.cyclegan import CycleGAN
from helpers.networks.translators import PatchDiscriminator, ResNetGenerator, patch_layers
from helpers.precision import choose_precision


def plain(o):
    """A step as the CycleGAN paper describes it, identity by luminance as ours."""
    there = ResNetGenerator(o.size, 3, 1, o.width, o.blocks)
    back = ResNetGenerator(o.size, 1, 3, o.width, o.blocks)
    layers = patch_layers(o.size)
    on_oct, on_dfe = PatchDiscriminator(1, o.width, layers), PatchDiscriminator(3, o.width, layers)
    makers = torch.optim.Adam(chain(there.parameters(), back.parameters()), 2e-4, (0.5, 0.999))
    critics = torch.optim.Adam(chain(on_oct.parameters(), on_dfe.parameters()), 2e-4, (0.5, 0.999))

    def real(score, wanted):
        return F.mse_loss(score, torch.full_like(score, wanted))

    def step(photographs, scans):
        for network in (on_oct, on_dfe):
            network.requires_grad_(False)
        makers.zero_grad()
        oct, dfe = there(photographs), back(scans)
        loss = real(on_oct(oct), 1.0) + real(on_dfe(dfe), 1.0)
        loss = loss + 10 * (F.l1_loss(back(oct), photographs) + F.l1_loss(there(dfe), scans))
        loss = loss + 5 * F.l1_loss(there(scans.expand(-1, 3, -1, -1)), scans)
        grey = photographs.mean(1, keepdim=True)
        loss = loss + 5 * F.l1_loss(back(grey).mean(1, keepdim=True), grey)
        loss.backward()
        makers.step()
        for network in (on_oct, on_dfe):
            network.requires_grad_(True)
        critics.zero_grad()
        for critic, true, drawn in ((on_oct, scans, oct), (on_dfe, photographs, dfe)):
            (0.5 * (real(critic(true), 1.0) + real(critic(drawn.detach()), 0.0))).backward()
        critics.step()
        return loss.item()

    return step


def ours(o):
    given = [f"--size={o.size}", f"--width={o.width}", f"--blocks={o.blocks}", "--positions=0"]
    settings = config.resolve(config.TrainCyclegan, given, {})
    domains = make_domains(paired=False)
    domains.dfe.validation.images, domains.oct.validation.images = (
        np.zeros((2, c, o.size, o.size), np.uint8) for c in (3, 1)
    )
    AcceleratorState._reset_state()
    precision = choose_precision("auto")
    accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision))
    method = CycleGAN(settings, judged_nothing(domains), Thumbnails())
    for network in method.networks.values():
        network.to(accelerator.device, memory_format=torch.channels_last)
    method.optimizers = {n: accelerator.prepare_optimizer(m) for n, m in method.optimizers.items()}
    labels = torch.zeros(o.batch, dtype=torch.long)
    return lambda a, b: method.step(((a, labels), (b, labels)), accelerator)


def judged_nothing(domains):
    for data in (domains.dfe, domains.oct):
        data.validation.scans[:] = data.validation.scans[:1] * 2
    return domains


def megabytes(name: str) -> float:
    """What /proc says of this process (Linux); a child's rusage would begin with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in dict(size=64, width=16, blocks=6, batch=1, rounds=5, steps=8).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", choices=("plain", "ours"))
    o = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = [torch.rand(o.batch, c, o.size, o.size) * 2 - 1 for c in (3, 1)]
    makers = {"plain": partial(plain, o), "ours": partial(ours, o)}
    if o.only:
        step = makers[o.only]()
        before = megabytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak that importing made
        for _ in range(4):
            step(*images)
        print(json.dumps({"before": before, "peak": megabytes("VmHWM")}))
        return
    steps = {name: make() for name, make in makers.items()}
    seconds = {name: [] for name in steps}
    for turn in range(o.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(o.steps):
                step(*images)
            if turn:  # the first warms up
                seconds[name].append((time.perf_counter() - start) / o.steps)
    memory = {}
    for name in steps:
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", name],
                              capture_output=True, text=True, check=True)  # fmt: skip
        memory[name] = SimpleNamespace(**json.loads(done.stdout.splitlines()[-1]))
    for name, values in seconds.items():
        low, middle, high = np.quantile(values, [0, 0.5, 1])
        print(f"{name:6} {1 / middle:6.2f} steps/s ({1 / high:.2f} to {1 / low:.2f}), "
              f"peak {memory[name].peak - memory[name].before:.0f} MB above the "
              f"{memory[name].before:.0f} MB before the first step")  # fmt: skip
    ratio = np.median(seconds["plain"]) / np.median(seconds["ours"])
    print(f"{ratio:.2f} times as many steps")


if __name__ == "__main__":
    main()
