"""What does patience buy? Every score against the time that a GAN has trained.

    python notebooks/results/patience.py train FOLDER 2 5 10 20 40 75 110 150 \\
        --data=simulated --classes=NORMAL,DRUSEN --size=256 --n-simulated=600
    python notebooks/results/patience.py judge FOLDER

`train` stops after so many minutes of training, puts the last moving average into
FOLDER/MINUTES/, and goes on; started again it continues. --settings are those of notebook 02.
`judge` draws 200 scans of every class from each and writes FOLDER/curve.json, .md, and a sheet of
pictures; judges are EfficientNet-Lite2 and the ruler (gpu/judge.py), patients are simulated ones
that nobody has seen, or the test patients of the data.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
from gpu import judge
from gpu.result import keep
from gpu.tables import Table, markdown

from helpers import config
from helpers.data.prepare import prepare
from helpers.gan.recipes import with_recipe
from helpers.gan.sampling import classes_of
from helpers.gan.train import train_gan
from helpers.generate import load_generator
from helpers.measures.features import Features

JUDGED = 200


def settings(folder: Path, arguments):
    own = [f"--runs={folder}", "--run=run", "--patience=0", "--hours=1"]
    return with_recipe(config.resolve(config.TrainGan, [*own, *arguments], {}))


def train(folder: Path, minutes, arguments) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(arguments))
    s = settings(folder, arguments)
    for minute in minutes:
        out = folder / f"{minute:03d}"
        if not out.exists():
            run = train_gan(dataclasses.replace(s, hours=minute / 60), Features(), progress=False)
            out.mkdir()
            keep(run, out)


def sides(s, labels):
    """Whole scans of ``labels`` (those that are judged, real training ones)."""
    if s.data == "simulated":
        return [{k: judge.eyes(k, JUDGED, first) for k in labels}
                for first in (judge.UNSEEN, judge.OTHERS)]  # fmt: skip
    whole = prepare(s.data, class_="all", size=256, cache=f"{s.runs}/cache", progress=False)
    return [{k: np.asarray(side.images[side.labels == k]) for k in labels}
            for side in (whole.test, whole.train)]  # fmt: skip


def main(what: str, folder: str, *arguments) -> None:
    folder = Path(folder).resolve()
    if what == "train":
        minutes = [int(a) for a in arguments if a.isdigit()]
        return train(folder, minutes, [a for a in arguments if not a.isdigit()])
    s = settings(folder, json.loads((folder / "settings.json").read_text()))
    kept = sorted(p for p in folder.iterdir() if p.name.isdigit())
    labels = classes_of(load_generator(kept[0] / "run.safetensors"))
    test, real = sides(s, labels)
    disease = s.class_
    table = Table(folder, "curve")
    seen = {row["minute"]: row for row in map(json.loads, (folder / "run" / "metrics.jsonl").open())
            if "images" in row and row.setdefault("minute", row["seconds"] / 60)}  # fmt: skip
    for path in kept:
        generator = load_generator(path / "run.safetensors")
        synthetic = judge.draw(generator, labels, JUDGED)
        done = [row["images"] for minute, row in seen.items() if minute <= int(path.name)]
        what = f"{int(path.name)} min, {max(done, default=0):,} images"
        judge.rows(table, what, judge.judge(synthetic, test, real, disease))
        judge.sheet(folder / f"{path.name}.jpg", test, synthetic, 6)
    (folder / "curve.md").write_text(markdown(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
