"""Trains translators from DFE to OCT for equal time and scores them; run by hand.

    python notebooks/results/translation.py NAME --minutes 6 --seeds 0 1 2 -- --model=cut
    python notebooks/results/translation.py table
    python notebooks/results/translation.py NAME --minutes 600 --watch -- --steps=5000 --patience=0
    python notebooks/results/translation.py chosen
    python notebooks/results/translation.py NAME --healthy 0.9 0.1 [--as-found] -- --model=cyclegan

What stands behind -- are settings of notebook 03 (of 06 with --model=pix2pix), --size=256 for one.
One thread and one core each, so that two of them can run side by side; one JSON a run in
runs/measure/translation.

"--watch": every validation scores the averaged network on test patients, too, which costs time, so
that the budget should be in steps; "chosen" prints these scores at the checkpoint that distance and
class choose, at the one that distance, class and place choose, and at the last.
"--healthy": of the photographs, and of the scans, that teach, only so many are healthy (the first
class), as in two clinics; the classes are still drawn evenly, unless "--as-found". A translator
that makes its scans as ill as those it has seen then has to make healthy eyes ill (Cohen, Luck &
Honari, MICCAI 2018), which "healthy" of the report and of "--watch" counts.
"""

import argparse
import json
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from helpers import config
from helpers.data.batches import batches
from helpers.data.split import Labelled, Split
from helpers.data.two_modalities import (
    as_taken,
    paired_batches,
    prepare_domains,
    truths_of,
    unpaired_batches,
)
from helpers.generate import load_generator
from helpers.measures.features import Features
from helpers.measures.layers import read_all
from helpers.measures.scores import scores
from helpers.training.loop import train
from helpers.training.runs import open_run
from helpers.translation.cut import CUT
from helpers.translation.cyclegan import CycleGAN
from helpers.translation.judge import evenly, score, translate
from helpers.translation.lesions import as_a_file, deals, lesions_in_place, summary
from helpers.translation.pix2pix import Pix2pix
from helpers.translation.report import (
    MOST_EYES,
    READER,
    measure_translation,
    pictures,
    read_by_others,
)
from helpers.translation.through_evidence import ThroughEvidence

METHODS = {"cyclegan": CycleGAN, "cut": CUT, "evidence": ThroughEvidence, "pix2pix": Pix2pix}
OUT = Path("runs/measure/translation")


def thinned(split, labels, healthy):
    """``split`` with so few patients of one class that a share of ``healthy`` is of class 0;
    labels (N,): 0 or 1."""
    counts = np.bincount(labels, minlength=2)
    wanted = np.minimum(counts, counts[::-1] * np.array([healthy, 1 - healthy])
                        / np.array([1 - healthy, healthy]))  # fmt: skip
    kept = []
    for k in range(2):
        names = np.unique(split.patients[labels == k])
        some = names[evenly(len(names), max(1, round(wanted[k] / counts[k] * len(names))))]
        kept.append((labels == k) & np.isin(split.patients, some))
    keep = kept[0] | kept[1]
    return Split(np.asarray(split.images)[keep], [s for s, k in zip(split.scans, keep) if k])


def unequal(domains, healthy):
    """``domains`` with such shares of healthy patients among those whose photographs, and among
    those whose scans teach; validation and test patients stay."""
    if domains.paired or len(domains.classes) != 2:
        raise ValueError("--healthy: takes two classes, and no pairs.")
    for modality, share in zip(("dfe", "oct"), healthy):
        data = getattr(domains, modality)
        train_ = thinned(data.train, domains.numbers(data.train), share)
        mark = f"{data.manifest_hash}-{share:g}"
        setattr(domains, modality, replace(data, train=train_, manifest_hash=mark))
    return domains


def batches_as_found(domains, batch_size, *, seed=0, **where):
    """``unpaired_batches``, but a class comes as often as it is there."""
    return zip(*(
        batches(data.train.images, batch_size, labels=domains.numbers(data.train),
                seed=2 * seed + k, **where)
        for k, data in enumerate((domains.dfe, domains.oct))
    ))  # fmt: skip


def on_test_patients(domains, settings, reader, seed=0):
    """A function of scans (N, 1, S, S) drawn from simulated test patients' photographs: what of
    their eyes is in them.

    {"found", "found shuffled", "likeness", "likeness shuffled"} as ``lesions.summary`` has them,
    of eyes with drusen; "class_auroc"; of healthy eyes the share "healthy read ill" and "healthy
    drusen" per scan. Without intervals and yardsticks, which ``measure_translation`` adds.
    """
    test, classes = domains.dfe.test, list(domains.classes)
    own = pictures(domains.oct.validation, domains.oct.test)
    taught = Labelled(reader(as_a_file(own.images)), own.labels, own.patients)
    sick, healthy = (np.flatnonzero(test.labels == c)[:MOST_EYES] for c in ("DRUSEN", "NORMAL"))
    eyes = {k: [test.scans[i] for i in chosen] for k, chosen in enumerate((healthy, sick))}
    truths, um = truths_of(eyes[1], settings.size, settings.framing)
    orders = list(deals(test.patients[sick], np.random.default_rng(seed), 5))

    def scored(drawn):
        part = Labelled(reader(as_a_file(drawn)), test.labels, test.patients)
        (read,) = read_by_others(taught, [part], classes, np.asarray, seed=seed)
        area = scores(test.labels, read, classes, test.patients, resamples=1)["auroc"]["value"]
        ill, well = (read_all(as_taken(as_a_file(drawn[chosen], 0), eyes[k], domains))
                     for k, chosen in ((1, sick), (0, healthy)))  # fmt: skip
        own = summary(lesions_in_place(ill, truths, um))
        dealt = [summary(lesions_in_place([ill[i] for i in order], truths, um))
                 for order in orders]  # fmt: skip
        found = {"class_auroc": area,
                 "healthy read ill": np.mean(read[healthy].argmax(1) != classes.index("NORMAL")),
                 "healthy drusen": np.mean([len(reading.drusen) for reading in well])}  # fmt: skip
        for word, name in (("found", "detected"), ("likeness", "likeness")):
            found |= {word: own[name], f"{word} shuffled": np.mean([d[name] for d in dealt])}
        return {name: float(value) for name, value in found.items() if np.isfinite(value)}

    return scored


def watch(method, photographs, scored):
    """Every validation of ``method`` also writes what test patients say into the log."""
    validate = method.validate

    def both(network):
        value = validate(network)
        told = scored(translate(network, photographs))
        method.judgement = method.judge.measured | {f"test {n}": v for n, v in told.items()}
        return value

    method.validate = both


def chosen(watched):
    """{who chooses: validation} out of the ``watched`` ones of a run."""
    return {
        "distance, class": min(watched, key=lambda r: score(r, place_lost=0)),
        "distance, class, place": min(watched, key=score),
        "last": watched[-1],
    }


def print_chosen(report):
    """What test patients say of the checkpoints that each score chooses, as aligned text."""
    print(f"{report['name']}, seed {report['seed']}: {len(report['watched'])} validations")
    for who, r in chosen(report["watched"]).items():
        told = {name.removeprefix("test "): value for name, value in r.items() if "test " in name}
        for name in ("found", "likeness"):
            if name in told and f"{name} shuffled" in told:
                told[f"{name} less shuffled"] = told[name] - told[f"{name} shuffled"]
        told = {"validation concordance": r.get("rpe_concordance", np.nan), **told}
        words = "; ".join(f"{name} {value:.3f}" for name, value in told.items())
        print(f"  {who:23} {r['images']:7.0f} photographs; {words}")


def one(name, minutes, seed, given, out, watched=False, healthy=None, as_found=False):
    model = next((g.split("=")[1] for g in given if g.startswith("--model=")), "cyclegan")
    paired = model == "pix2pix"
    cls = config.TrainPix2pix if paired else config.TrainCyclegan
    given = [g for g in given if not (paired and g.startswith("--model="))]
    arguments = ["--preset=demo", *given, f"--seed={seed}", f"--hours={minutes / 60}",
                 f"--runs={out}", f"--run={name}-{seed}"]  # fmt: skip
    settings = config.resolve(cls, arguments, {})
    domains = prepare_domains(settings, paired=paired, progress=False)
    if healthy:
        domains = unequal(domains, healthy)
    features = Features(cache=out / "features")
    torch.manual_seed(seed)
    method = METHODS[model](settings, domains, features)
    ways = {"found": batches_as_found, "paired": paired_batches, "unpaired": unpaired_batches}
    way = ways["found" if as_found else "paired" if paired else "unpaired"]
    draw = partial(way, domains, settings.batch_size, seed=seed)
    if watched or healthy:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        photographs = pictures(domains.dfe.test).images
        scored = on_test_patients(domains, settings, Features(device, name=READER), seed)
    if watched:
        watch(method, photographs, scored)
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
    if watched:
        report["watched"] = [r for r in run.metrics() if "score" in r]
    if healthy:
        own = [scan.path for scan in domains.oct.test.scans]
        where = [own.index(scan.path) for scan in domains.dfe.test.scans]
        report["shares"] = {
            "healthy": healthy, "as_found": as_found,
            "kept": scored(translate(generator, photographs)),
            "true": scored(pictures(domains.oct.test).images[where]),
        }  # fmt: skip
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
    for who in ("kept", "true") if "shares" in r else ():
        for name in ("healthy read ill", "healthy drusen"):
            named[f"{name} {who}"] = r["shares"][who][name]
    return r["name"] + "".join(
        f"; {name} {'-' if value is None else f'{value:.4g}'}" for name, value in named.items()
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--watch", action="store_true")
    parser.add_argument("--healthy", type=float, nargs=2, metavar=("DFE", "OCT"))
    parser.add_argument("--as-found", action="store_true")
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, given = parser.parse_args(sys.argv[1:cut]), sys.argv[cut + 1 :]
    out = options.out.resolve()
    if options.name in ("table", "chosen"):
        for path in sorted(out.glob("*.json")):
            report = json.loads(path.read_text())
            if options.name == "table":
                print(line(report))
            elif report.get("watched"):
                print_chosen(report)
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for seed in options.seeds:
        one(options.name, options.minutes, seed, given, out, options.watch, options.healthy,
            options.as_found)  # fmt: skip


if __name__ == "__main__":
    main()
