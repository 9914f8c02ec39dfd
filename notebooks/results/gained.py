"""What a scan drawn from a photograph adds to it: micrometres, and a reader's verdict.

    python notebooks/results/gained.py calibrate
    python notebooks/results/gained.py simulated [--shows 1 0.05] [--seeds 0 1 2] [--steps 2500]
    python notebooks/results/gained.py real EXPORTS [--steps 600]

"simulated": pairs of notebook 06 (64 px, 300 patients a class), with photographs in which drusen
have ``shows`` of their opacity; pix2pix with the column network. Thickness of the retina and height
of the RPE per column against the truth, as the head of micrometres.py reads them off the strip, and
as the ruler reads them off the translated and the true scan; then the four-way test of the class,
and of the load of drusen among eyes that have some. "calibrate": how well a linear head reads
DRUSEN off photographs of training patients at several ``shows``. "real": the same four ways on
Heidelberg exports (a folder for each eye), every eye by translators and heads of the other eyes;
and the height of the RPE on the translated scan, against shuffled ones, as micrometres.py has it
of the head.
One JSON a run in runs/measure/gained; a run that is there is not made again.
"""

import argparse
import json
import warnings
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from micrometres import BLOCK, COLUMNS, MAPS, eye, judged, learn, mean_map, predict

from helpers import config
from helpers.data.bscan import clean_oct
from helpers.data.cache import simulated_eye
from helpers.data.enface import strips
from helpers.data.hospital import read_frame, read_volumes
from helpers.data.photograph import clean_dfe
from helpers.data.pixels import to_float
from helpers.data.scan import Scan
from helpers.data.simulated.simulate import make_eye
from helpers.data.split import SIDES, Data, Split
from helpers.data.two_modalities import (
    Domains,
    paired_batches,
    prepare_domains,
    side_of_body,
    truths_of,
)
from helpers.generate import load_generator
from helpers.measures.features import Features
from helpers.measures.intervals import interval, patient_weights
from helpers.measures.layers import read_all
from helpers.measures.scores import scores
from helpers.measures.true_layers import true_measures
from helpers.training.loop import train
from helpers.training.runs import open_run
from helpers.translation.judge import translate
from helpers.translation.lesions import as_a_file, deals
from helpers.translation.pix2pix import Pix2pix
from helpers.translation.report import READER, four_way, pictures, read_by_others, three_pictures

OUT = Path("runs/measure/gained")
CACHE = Path("runs/cache/features")
CLASSES = ["NORMAL", "DRUSEN"]
LOADS = ["FEW", "MANY"]
HEAD_STEPS = 400
DRUSE_UM = 30.0  # real B-scans: a rise of the RPE from which on there is a druse


# ---- simulated eyes


def settings_of(run, seed, steps):
    given = ["--preset=demo", f"--seed={seed}", f"--steps={steps}", "--hours=24",
             "--validate-every=5000", f"--run={run}"]  # fmt: skip
    return config.resolve(config.TrainPix2pix, given, {})


def photograph(scan, size, shows):
    """uint8 (3, size, size): the strip of a simulated eye whose lesions are painted with ``shows``
    of their opacity; with 1 that of ``data.cache.read_scan``."""
    _, label, name = scan.path.split("/")
    patient, eye = name.split("_")
    made = make_eye(int(patient[1:]), label, eye=eye, size=min(max(2 * size, 256), 512),
                    dfe_shows=shows, pictures=("dfe",))  # fmt: skip
    centre = made.truth.dfe_pixel(made.truth.x_um.mean(), 0.0)[::-1]
    return clean_dfe(made.dfe, size=size, framing="strip", centre=centre)[0].transpose(2, 0, 1)


def photographs(split, size, shows):
    """``split`` with such photographs."""
    return Split(np.stack([photograph(scan, size, shows) for scan in split.scans]), split.scans)


@cache
def domains_of(shows):
    """Pairs of simulated eyes whose photographs show that much of the disease."""
    settings = settings_of("", 0, 1)
    domains = prepare_domains(settings, paired=True, progress=False)
    if shows == 1:
        return domains
    sides = {s: photographs(getattr(domains.dfe, s), settings.size, shows) for s in SIDES}
    domains.dfe = replace(domains.dfe, **sides)
    domains.oct = replace(domains.oct, manifest_hash=f"{domains.oct.manifest_hash}-{shows}")
    return domains


def calibrate(values):
    """AUROC of DRUSEN, off photographs of training patients, by heads that learned from others of
    them: the left eyes only."""
    reader, settings = Features(cache=CACHE, name=READER), settings_of("calibrate", 0, 1)
    split = prepare_domains(settings, paired=True, progress=False).dfe.train
    left = [scan for scan in split.scans if side_of_body(scan.path) == "left"]
    for shows in values:
        drawn = pictures(photographs(Split(split.images, left), settings.size, shows))
        (p,) = read_by_others(drawn, [drawn], CLASSES, reader)
        found = scores(drawn.labels, p, CLASSES, drawn.patients)["auroc"]
        print(f"shows {shows:g}: AUROC", {k: round(found[k], 3) for k in ("value", "low", "high")},
              flush=True)  # fmt: skip


def translator(domains, settings, features):
    """The pix2pix of ``domains``: trained, or a finished run's."""
    torch.manual_seed(settings.seed)
    method = Pix2pix(settings, domains, features)
    draw = partial(paired_batches, domains, settings.batch_size, seed=settings.seed)
    run = train(method, draw, open_run(settings, domains.oct, method.networks), settings)
    return load_generator(run.folder)


@cache
def um_of(scans: tuple, size):
    """Thickness and height of the RPE, um (N, 2, size), of simulated eyes' truths."""
    truths = [simulated_eye(scan, size, ()).truth.heights_um for scan in scans]
    return np.stack([[t["ILM"] - t["BM"], t["RPE"] - t["BM"]] for t in truths]).astype(np.float32)


@cache
def scales_of(scans: tuple, size):
    """um of a row of each scan's band, (N,)."""
    return truths_of(scans, size, "band")[1]


def as_read(images, um_per_row):
    """The same as the ruler reads them off scans (N, 1, S, S); NaN where it reads nothing."""
    readings = read_all(images)
    return np.stack([np.stack([r.thickness, r.elevation]) * um
                     for r, um in zip(readings, um_per_row)])  # fmt: skip


def turned(um, scans):
    """um (N, 2, W) of left eyes mirrored."""
    left = np.array([side_of_body(scan.path) == "left" for scan in scans])
    return np.where(left[:, None, None], um[..., ::-1], um)


def by_eye(guess, true):
    """{score: (N,)} of (N, W) in um: MAE, bias and correlation over the columns of each eye."""
    flat = (guess.std(1) < 1e-6) | (true.std(1) < 1e-6)
    with np.errstate(invalid="ignore", divide="ignore"):
        together = ((guess - guess.mean(1, keepdims=True))
                    * (true - true.mean(1, keepdims=True))).mean(1)  # fmt: skip
        correlation = np.where(flat, np.nan, together / guess.std(1) / true.std(1))
    return {"mae": np.abs(guess - true).mean(1), "bias": (guess - true).mean(1),
            "correlation": correlation}  # fmt: skip


def mean_of(values, weights):
    """Mean over eyes, with its interval over patients; eyes of which it is not defined left out."""
    good = np.isfinite(values)
    return interval(weights[:, good] @ values[good] / weights[:, good].sum(1))


def anatomy(domains, settings, drawn, seed):
    """{map: {guess: {score: mean over eyes}}}; "scale" of eyes' errors beside it, see the page."""
    train_, test, size = domains.dfe.train, domains.dfe.test, settings.size
    own, true = um_of(tuple(train_.scans), size), um_of(tuple(test.scans), size)
    scales = scales_of(tuple(test.scans), size)
    mean_scale = scales_of(tuple(train_.scans[::8]), size).mean()
    head = learn([{"strips": np.asarray(train_.images), "um": own}], "um", HEAD_STEPS, seed)
    mean_map = turned(np.tile(turned(own, train_.scans).mean(0), (len(true), 1, 1)), test.scans)
    translated = as_a_file(drawn, 0)
    guesses = {
        "mean map": mean_map,
        "head": predict(head, {"strips": np.asarray(test.images)}),
        "ruler, translated": as_read(translated, np.full(len(true), mean_scale)),
        "ruler, translated, true scale": as_read(translated, scales),
        "ruler, true scan": as_read(pictures(domains.oct.test).images, scales),
    }
    report = {"read": {name: float(np.isfinite(g).mean()) for name, g in guesses.items()}}
    guesses = {name: np.where(np.isfinite(g), g, mean_map) for name, g in guesses.items()}
    off = (guesses["head"] - true).mean(2, keepdims=True)
    guesses["head, told each eye's mean"] = guesses["head"] - off
    orders = list(deals(test.patients, np.random.default_rng(seed), 5))
    chosen = {"thickness": np.ones(len(true), bool), "elevation": test.labels == "DRUSEN"}
    for k, name in enumerate(MAPS):
        keep = chosen[name]
        weights = patient_weights(test.patients[keep], 1000, seed)
        found = {g: by_eye(guess[keep, k], true[keep, k]) for g, guess in guesses.items()}
        dealt = [by_eye(guesses["head"][order][keep, k], true[keep, k]) for order in orders]
        found["shuffled"] = {s: np.nanmean([d[s] for d in dealt], 0) for s in dealt[0]}
        report[name] = {g: {s: mean_of(v, weights) for s, v in f.items()}
                        | {"spread of bias": float(f["bias"].std())}
                        for g, f in found.items()}  # fmt: skip
        less = {g: found["head"]["mae"] - found[g]["mae"] for g in found if g != "head"}
        report[name]["head less"] = {g: mean_of(v, weights) for g, v in less.items()}
    return report


def simulated(shows, seed, steps):
    settings = settings_of(f"gained-{shows:g}-{seed}", seed, steps)
    domains = domains_of(shows)
    generator = translator(domains, settings, Features(cache=CACHE))
    reader = Features(cache=CACHE, name=READER)
    rows, photos, tested = three_pictures(generator, domains, reader)
    scans = [*domains.dfe.validation.scans, *domains.dfe.test.scans]
    report = {"images": steps * settings.batch_size}
    report["class"] = four_way(photos.labels, *rows, CLASSES, photos.patients, tested=tested)
    ill = photos.labels == "DRUSEN"
    area = np.array([true_measures(simulated_eye(scan, settings.size, ()).truth)["drusen_area"]
                     for scan in np.array(scans, object)[ill]])  # fmt: skip
    load = np.array(LOADS)[(area > np.median(area)).astype(int)]
    report["load"] = four_way(load, *(r[ill] for r in rows), LOADS, photos.patients[ill],
                              tested=tested[ill])  # fmt: skip
    print(shows, seed, json.dumps(report), flush=True)
    drawn = translate(generator, photos.images[tested])
    report["anatomy"] = anatomy(domains, settings, drawn, seed)
    return report


# ---- real eyes


def volume_of(path, size):
    """Strips and bands uint8 (N, 3 and 1, size, size) of one export, as a right eye, and of each
    B-scan the um by which the RPE rises at most, as the ruler reads it."""
    (volume,) = read_volumes(path)
    photos = np.repeat(strips(volume, size, size)[:, None], 3, 1)
    frames = [read_frame(f"{path}#{k}") for k in volume.numbers]
    bands = np.stack([clean_oct(frame, size=size, framing="band") for frame in frames])[:, None]
    rises = [max((d.height for d in r.drusen), default=0.0) * volume.um_per_px_y
             for r in read_all(frames)]  # fmt: skip
    if volume.eye == "OS":
        photos, bands = photos[..., ::-1].copy(), bands[..., ::-1].copy()
    return path.parent.name, photos, bands, np.array(rises)


def real(exports, seed, steps):
    settings = settings_of("", seed, steps)
    paths = sorted(exports.glob("*/*.xml"))
    known = [eye(path) for path in paths]
    mean_map(known)  # before hours of training
    eyes = [volume_of(path, settings.size) for path in paths]
    features, reader = Features(cache=CACHE), Features(cache=CACHE, name=READER)
    drawn = []
    for held, (name, photos, *_) in enumerate(eyes):
        kept = [e for k, e in enumerate(eyes) if k != held]
        scans = [Scan(f"{n}/{k}", "oct", "spectralis", "DRUSEN" if "AMD" in n else "NORMAL", n)
                 for n, p, *_ in kept for k in range(len(p))]  # fmt: skip
        data = []
        for part in (1, 2):
            whole = Split(np.concatenate([e[part] for e in kept]), scans)
            few = Split(whole.images[::5], scans[::5])  # a run wants a side to be judged on
            data.append(Data(whole, few, few, name, "all", f"{name}-{seed}"))
        domains = Domains(*data, tuple(CLASSES), True)
        own = replace(settings, run=f"gained-{name}-{seed}")
        drawn.append(translate(translator(domains, own, features), to_float(photos)))
    names = np.concatenate([[name] * len(photos) for name, photos, *_ in eyes])
    rises = np.concatenate([e[3] for e in eyes])
    rows = (reader(np.concatenate([e[1] for e in eyes])), reader(as_a_file(torch.cat(drawn))),
            reader(as_a_file(to_float(np.concatenate([e[2] for e in eyes])))))  # fmt: skip
    blocks = np.concatenate([
        [f"{name} {k // BLOCK}" for k in range(len(photos))]  # the last one may be short
        for name, photos, *_ in eyes
    ])  # fmt: skip
    ill = np.array(["AMD" in name for name in names])
    report = {"class": four_way(np.array(CLASSES)[ill.astype(int)], *rows, CLASSES, names,
                                drawn=blocks)}  # fmt: skip
    load = np.array(LOADS)[(rises >= DRUSE_UM).astype(int)]
    for name in sorted(set(names[ill])):
        report[name] = four_way(load, *rows, LOADS, names, tested=names == name, drawn=blocks)
        report[name]["share"] = float((load[names == name] == "MANY").mean())
    for held, one in enumerate(known):
        um = as_read(as_a_file(drawn[held], 0), np.ones(len(drawn[held])))
        guesses = {"head": np.repeat(um, COLUMNS // settings.size, 2),
                   "mean map": mean_map([k for k in known if k is not one])}  # fmt: skip
        report[f"height of {one['name']}"] = judged(one, guesses)
    return report


# ---- by hand


def keep(name, made):
    """Of ``made()`` the report, in a file that is not made twice."""
    file = OUT / f"{name}.json"
    if not file.exists():
        report = made()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report, indent=1))
    print(name, file.read_text(), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("calibrate", "simulated", "real"))
    parser.add_argument("exports", type=Path, nargs="?")
    parser.add_argument("--shows", type=float, nargs="+", default=[1.0, 0.05])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=2500)
    s = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if s.what == "calibrate":
        calibrate(s.shows)
    for seed in s.seeds if s.what != "calibrate" else ():
        if s.what == "real":
            keep(f"real-{seed}", partial(real, s.exports, seed, s.steps))
        for shows in s.shows if s.what == "simulated" else ():
            keep(f"{shows:g}-{seed}", partial(simulated, shows, seed, s.steps))


if __name__ == "__main__":
    main()
