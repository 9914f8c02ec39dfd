"""A flow or a GAN? Both trained for the same time on the same simulated eyes, and judged.

    python notebooks/results/flow.py train FOLDER --size 64 --minutes 20 --seeds 0 1 2
    python notebooks/results/flow.py judge FOLDER
    python notebooks/results/flow.py copies FOLDER --size 64 --minutes 20 --scans 20 60 150 500

`train` gives every model of --models (flow, residual) so many minutes by the clock, validations
among them, on aligned crops of NORMAL and DRUSEN of the same patients; seeds take turns. What is
finished is skipped, what was interrupted goes on, and more --minutes continue it. --set steers all,
--set-flow and --set-residual one of them: --set n_simulated=600 --set-flow width=48.

`judge` draws --n scans of each class from the best checkpoint of every run: usefulness (AUROC of a
head on EfficientNet-Lite2 that learned from them alone), drusen by the ruler, distance and recall
(gpu/judge.py), texture (mean of |Cliff's delta| over measures.texture, of whole scans and of crops;
0 is alike, and real scans of other patients stand beside it), copies of training crops
(measures.memorisation), and seconds for 100 scans on the machine as it is. Of the flow with the
first seed also the guidances and steps of GUIDANCES and STEPS. Patients are simulated ones that
nobody trained on. Rows that are in FOLDER/tables/judge.json are kept.

`copies` trains on so many scans of each class and audits the best checkpoint (none at which the
early word of a validation is "copying", if there is another) and the last one:
helpers.gan.flow.COPIES_BELOW comes from here. Usefulness, drusen, distance and recall stand beside
the copies: what to expect of so many scans and so many minutes.

Written are FOLDER/tables/*.json, FOLDER/tables.md and FOLDER/sheet.png. Not collected by pytest.
"""

import argparse
import json
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gpu import judge as judges
from gpu.tables import DEVICE, Table, markdown
from matplotlib.figure import Figure

from helpers import config
from helpers.data import shape
from helpers.data.pixels import to_levels
from helpers.data.prepare import prepare
from helpers.data.split import Split
from helpers.gan import judging
from helpers.gan.recipes import with_recipe
from helpers.gan.sampling import sample
from helpers.gan.train import build_training, train_gan
from helpers.generate import load_generator, set_flow
from helpers.measures import texture
from helpers.measures.features import Features
from helpers.measures.memorisation import memorisation_report
from helpers.training.checkpoint import load_latest
from helpers.training.loop import train as train_method
from helpers.training.runs import open_run

CLASSES = ("NORMAL", "DRUSEN")
GUIDANCES, STEPS = (1.5, 2.0, 3.0), (2, 4, 8, 16)
SHOWN = 8  # scans of each row of the sheet
TIMED = 100  # crops that are drawn by the clock, and looked at for copies


def settings(o, model: str, seed: int, name: str):
    given = {"data": "simulated", "classes": ",".join(CLASSES), "class": "DRUSEN",
             "model": model, "size": o.size, "seed": seed, "n_simulated": 200, "patience": 0,
             "hours": o.minutes / 60, "runs": o.folder, "run": name, "validation_images": 100,
             "validate_every": 8000, "useful_images": 0}  # fmt: skip
    given |= dict(pair.split("=", 1) for pair in [*o.set, *getattr(o, f"set_{model}", [])])
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return with_recipe(config.resolve(config.TrainGan, arguments, {}))


def train(o) -> None:
    (o.folder / "options.json").write_text(json.dumps(vars(o) | {"folder": ""}))
    for seed in o.seeds:
        for model in o.models:
            run = train_gan(settings(o, model, seed, f"{model}-{seed}"), Features(), progress=False)
            print(run.folder.name, run.metrics()[-1], flush=True)


# --- judging --------------------------------------------------------------------------------------


def eyes(o) -> dict[str, dict[str, np.ndarray]]:
    """Whole scans of 256 px of patients who are judged by, and of others; drawn once."""
    path = o.folder / f"eyes-{o.n}.npz"
    if not path.exists():
        sides = {"test": judges.UNSEEN, "real": judges.OTHERS}
        drawn = {
            f"{side} {label}": judges.eyes(label, o.n, first)
            for side, first in sides.items()
            for label in CLASSES
        }
        np.savez_compressed(path, **drawn)
    found = np.load(path)
    return {side: {k: found[f"{side} {k}"] for k in CLASSES} for side in ("test", "real")}


def crops_of(scans, size: int) -> np.ndarray:
    """Aligned crops, uint8 (M, 1, rows, size), of those whole scans (N, 1, S, S) that allow it."""
    found = []
    for scan in scans:
        try:
            found.append(shape.align(scan[0], shape.crop_rows(size), size)[0])
        except ValueError:
            continue
    return np.stack(found)[:, None]


def unlike(some, others) -> float:
    """Mean of |Cliff's delta| over the measures of texture that both can be measured by."""
    deltas = []
    for name, a in texture.measure(some).items():
        b = others[name]
        a, b = a[np.isfinite(a)], b[np.isfinite(b)]
        if len(a) and len(b):
            deltas.append(abs(np.sign(a[:, None] - b[None]).mean()))
    return float(np.mean(deltas))


def judge_one(o, generator, sides, textures, learned) -> tuple[dict, dict]:
    """The numbers of one generator, and what it drew by class."""
    synthetic = judges.draw(generator, CLASSES, o.n)
    found = judges.judge(synthetic, sides["test"], sides["real"])
    drusen, highest = found["drusen_count"], found["drusen_height"]
    of = found["DRUSEN"]
    began = time.monotonic()
    crops = to_levels(sample(generator, TIMED, 12, class_name="DRUSEN", shape="aligned"))
    seconds = time.monotonic() - began
    own = learned.train.labels == "DRUSEN"
    unseen = crops_of(sides["test"]["DRUSEN"], o.size)
    copied = memorisation_report(
        crops, np.asarray(learned.train.images[own]), unseen,
        training_patients=learned.train.patients[own],
    )  # fmt: skip
    row = {
        "AUROC": found["AUROC from synthetic"], "from real": found["AUROC from real"],
        "drusen": drusen[0], "real drusen": drusen[1], "highest": highest[0],
        "real highest": highest[1], "distance": of["distance"], "floor": of["floor"],
        "recall": of.get("recall"), "real recall": of.get("its floor"),
        "texture": unlike(synthetic["DRUSEN"], textures["whole"]),
        "texture, real": textures["whole, real"],
        "texture of crops": unlike(crops, textures["crops"]),
        "of crops, real": textures["crops, real"],
        "copied": copied["copied_share"], "expected": copied["expected_share"],
        "s per 100": seconds * 100 / TIMED,
    }  # fmt: skip
    return row, synthetic


def judge(o) -> None:
    options = json.loads((o.folder / "options.json").read_text())
    for name in ("size", "minutes", "seeds", "models", "set", "set_flow", "set_residual"):
        setattr(o, name, options[name])
    sides, table = eyes(o), open_table(o, "judge")
    whole, other = (sides[side]["DRUSEN"] for side in ("test", "real"))
    crops, others = crops_of(whole, o.size), crops_of(other, o.size)
    textures = {"whole": texture.measure(whole), "crops": texture.measure(crops)}
    textures |= {"whole, real": unlike(other, textures["whole"]),
                 "crops, real": unlike(others, textures["crops"])}  # fmt: skip
    s = settings(o, o.models[0], o.seeds[0], "any")
    about = dict(n_simulated=s.n_simulated, cache=o.folder / "cache", progress=False)
    which = "+".join(CLASSES)
    learned = prepare(s.data, class_=which, size=s.size, framing="aligned", **about)
    rows = {"real": sides["test"]}
    for model in o.models:
        for seed in o.seeds:
            folder = o.folder / f"{model}-{seed}"
            variants = [{}]
            if model == "flow" and seed == o.seeds[0]:
                variants += [{"guidance": g} for g in GUIDANCES] + [{"steps": k} for k in STEPS]
            for how in variants:
                what = " ".join([folder.name, *(f"{k}={v:g}" for k, v in how.items())])
                generator = load_generator(folder, DEVICE)
                set_flow(generator, **how)
                if any(row["what"] == what for row in table.rows):
                    rows[what] = judges.draw(generator, CLASSES, SHOWN)
                    continue
                found, drawn = judge_one(o, generator, sides, textures, learned)
                seen = read_log(folder)
                table.add(what, **seen, **found)
                rows[what] = {k: side[:SHOWN] for k, side in drawn.items()}
    draw_sheet(o.folder / "sheet.png", rows)
    write(o)


def read_log(folder: Path) -> dict[str, float]:
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {"images": last["images"], "minutes": last["seconds"] / 60}


def draw_sheet(path: Path, rows: dict) -> None:
    """DRUSEN, then NORMAL, of every row."""
    figure = Figure(figsize=(16, 1.25 * len(rows)), layout="constrained")
    for axis, (name, by_class) in zip(
        figure.subplots(len(rows), squeeze=False)[:, 0], rows.items()
    ):
        line = [by_class[k][: SHOWN // 2, 0] for k in ("DRUSEN", "NORMAL")]
        axis.imshow(np.concatenate([*line[0], *line[1]], 1), cmap="gray", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(name.replace(" ", "\n"), fontsize=7, rotation=0, ha="right")
    figure.savefig(path, dpi=100)


def open_table(o, name: str) -> Table:
    """With the rows that are there."""
    (o.folder / "tables").mkdir(parents=True, exist_ok=True)
    table = Table(o.folder / "tables", name)
    if table.path.exists():
        table.rows = json.loads(table.path.read_text())["rows"]
    return table


def write(o) -> None:
    (o.folder / "tables.md").write_text(markdown(o.folder / "tables"))


# --- copies ---------------------------------------------------------------------------------------


def copies(o) -> None:
    table = open_table(o, "copies")
    for seed in o.seeds:
        for count in o.scans:
            for model in o.models:
                name = f"copies-{model}-{count}-{seed}"
                if not any(row["what"] == f"{name} last" for row in table.rows):
                    table.rows = [r for r in table.rows if r["what"] != f"{name} best"]
                    copies_of(o, table, model, count, seed, name)
    write(o)


def copies_of(o, table, model: str, count: int, seed: int, name: str) -> None:
    s = settings(o, model, seed, name)
    method, draw, whole, learned = build_training(s, Features(), progress=False)
    side, chosen = learned.train, few(learned.train.labels, count, seed)
    scans = [side.scans[i] for i in chosen]
    taught = Split(np.asarray(side.images[chosen]), scans, side.shapes[chosen])
    judging.know(method, taught, learned.validation)
    run = open_run(s, whole, method.networks, learned)
    train_method(method, partial(draw, index=chosen), run, s)
    own = chosen[side.labels[chosen] == "DRUSEN"]
    away = (side.labels == "DRUSEN") & ~np.isin(side.patients, side.patients[chosen])
    unseen = [np.asarray(side.images[away]), side.patients[away]]
    for more in (learned.validation, learned.test):
        ill = more.labels == "DRUSEN"
        unseen[0] = np.concatenate([unseen[0], np.asarray(more.images[ill])])
        unseen[1] = np.concatenate([unseen[1], more.patients[ill]])
    generator = load_generator(run.folder, DEVICE)
    words = [r for r in run.metrics() if "word" in r]
    copying = [r["images"] for r in words if r["word"] == "copying"]
    for which in ("best", "last"):
        if which == "last":  # what is exported is the best by the validation patients
            generator.load_state_dict(load_latest(run.checkpoints)[1]["average"])
        crops = to_levels(sample(generator, o.n, 12, class_name="DRUSEN", shape="aligned"))
        found = memorisation_report(
            crops, np.asarray(side.images[own]), unseen[0],
            training_patients=side.patients[own], unseen_patients=unseen[1],
        )  # fmt: skip
        pixels = found["pixels"]
        sides = eyes(o)
        worth = judges.judge(judges.draw(generator, CLASSES, o.n), sides["test"], sides["real"])
        table.add(
            f"{name} {which}", scans=len(own), **read_log(run.folder),
            passes=read_log(run.folder)["images"] / len(chosen),
            best_at=min(words, key=lambda r: r["score"])["images"],
            copying_from=copying[0] if copying else None, copied=found["copied_share"],
            low=found["low"], high=found["high"], expected=found["expected_share"],
            excess=found["excess"]["value"], nearer=pixels["nearer_to_training"],
            membership=pixels["membership"]["excess"]["value"],  # the attack less its control
            AUROC=worth["AUROC from synthetic"], drusen=worth["drusen_count"][0],
            highest=worth["drusen_height"][0], distance=worth["DRUSEN"]["distance"],
            recall=worth["DRUSEN"].get("recall"),
        )  # fmt: skip


def few(labels, count: int, seed: int) -> np.ndarray:
    """Places of ``count`` scans of each class, or of all there are, the same for both models."""
    rng = np.random.default_rng([seed, count])
    return np.concatenate(
        [rng.permutation(np.flatnonzero(labels == k))[:count] for k in np.unique(labels)]
    )


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("what", choices=("train", "judge", "copies"))
    add("folder", type=Path)
    add("--models", nargs="+", default=["flow", "residual"], choices=("flow", "residual"))
    add("--minutes", type=float, default=20)
    add("--size", type=int, default=64, help="px across of the crops")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--scans", type=int, nargs="+", default=[20, 60, 150, 500], help="of each class; copies")
    add("--n", type=int, default=200, help="synthetic scans of each class that are judged")
    for name in ("set", "set-flow", "set-residual"):
        add(f"--{name}", nargs="*", default=[], metavar="NAME=VALUE")
    o = parser.parse_args(arguments)
    o.folder = o.folder.resolve()
    o.folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")  # of scans that cannot be measured
    torch.manual_seed(0)
    {"train": train, "judge": judge, "copies": copies}[o.what](o)


if __name__ == "__main__":
    main()
