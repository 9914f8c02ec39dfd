"""Trains translators from DFE to OCT for equal time and scores them; run by hand.

    python notebooks/results/translation.py NAME --minutes 6 --seeds 0 1 2 -- --model=cut
    python notebooks/results/translation.py table

What stands behind -- are settings of notebook 03 (of 06 with --model=pix2pix). One thread and one
core each, so that two of them can run side by side; one JSON a run in runs/measure/translation.
"""

import argparse
import json
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch

from helpers import config
from helpers.classifiers.fit import fit
from helpers.data.two_modalities import paired_batches, prepare_domains, unpaired_batches
from helpers.generate import load_generator
from helpers.measures.features import Features
from helpers.training.loop import train
from helpers.training.runs import open_run
from helpers.translation.cut import CUT
from helpers.translation.cyclegan import CycleGAN
from helpers.translation.pix2pix import Pix2pix
from helpers.translation.report import READER, measure_translation

METHODS = {"cyclegan": CycleGAN, "cut": CUT, "pix2pix": Pix2pix}
OUT = Path("runs/measure/translation")


def one(name, minutes, seed, given, out):
    model = next((g.split("=")[1] for g in given if g.startswith("--model=")), "cyclegan")
    paired = model == "pix2pix"
    cls = config.TrainPix2pix if paired else config.TrainCyclegan
    given = [g for g in given if not (paired and g.startswith("--model="))]
    arguments = ["--preset=demo", *given, f"--seed={seed}", f"--hours={minutes / 60}",
                 f"--runs={out}", f"--run={name}-{seed}"]  # fmt: skip
    settings = config.resolve(cls, arguments, {})
    domains = prepare_domains(settings, paired=paired, progress=False)
    features = Features(cache=out / "features")
    torch.manual_seed(seed)
    extra = []
    if getattr(settings, "class_weight", 0):
        taught = domains.oct.train
        model_of = fit(np.asarray(taught.images), domains.numbers(taught), domains.classes,
                       patients=taught.patients, size=96)  # fmt: skip
        extra = [model_of.network]
    method = METHODS[model](settings, domains, features, *extra)
    draw = partial(paired_batches if paired else unpaired_batches, domains, settings.batch_size,
                   seed=seed)  # fmt: skip
    run = train(method, draw, open_run(settings, domains.oct, {}), settings)
    started = time.time()
    generator = load_generator(run.folder)
    reader = Features(cache=out / "features", name=READER)
    report = measure_translation(generator, domains, settings, features, reader)
    last = run.metrics()[-1]
    report |= {"name": name, "seed": seed, "settings": given, "minutes": minutes,
               "images": last["images"], "seconds": last["seconds"],
               "best_step": generator.metadata["step"], "measured_in": time.time() - started,
               "parameters": {n: sum(w.numel() for w in m.parameters())
                              for n, m in method.networks.items()}}  # fmt: skip
    (out / f"{name}-{seed}.json").write_text(json.dumps(report, indent=1))
    print(line(report), flush=True)


def line(r):
    """One report in a row."""
    named = {"seed": r["seed"], "images": r["images"]}
    named |= {"distance": r["realism"]["value"], "floor": r["realism"]["floor"]}
    if classes := r["class"]:
        named |= {
            name: classes["translated"][name] for name in ("value", "low", "high", "shuffled")
        }
        named |= {name: classes[name]["value"] for name in ("true_oct", "ceiling")}
    if lesions := r["lesions"]:
        for name in ("detected", "false", "position_um", "thickness_um", "likeness", "readable"):
            for who in ("translated", "shuffled", "ruler"):
                named[f"{name} {who}"] = lesions[who][name]["value"]
    if r["pairs"]:
        named |= {f"ssim {who}": found["ssim"] for who, found in r["pairs"].items()}
    if r["cycle"]:
        named |= {f"cycle {k}": r["cycle"][k] for k in ("plain", "honest")}
        named["back"] = r["back"]["value"]
    return r["name"] + "".join(
        f"; {name} {'-' if value is None else f'{value:.4g}'}" for name, value in named.items()
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=OUT)
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, given = parser.parse_args(sys.argv[1:cut]), sys.argv[cut + 1 :]
    out = options.out.resolve()
    if options.name == "table":
        for path in sorted(out.glob("*.json")):
            print(line(json.loads(path.read_text())))
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for seed in options.seeds:
        one(options.name, options.minutes, seed, given, out)


if __name__ == "__main__":
    main()
