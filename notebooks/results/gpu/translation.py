"""Translators at 256 px: CycleGAN, through the evidence, pix2pix; columns and as published.

python -m gpu.translation FOLDER SECONDS
"""

import json
import sys
import traceback
import warnings

import translation  # the script beside this package

from gpu.tables import TINY, Table, work

CONTENDERS = {
    "pix2pix column": ["--model=pix2pix", "--network=column"],
    "cyclegan column": ["--network=column"],
    "evidence column": ["--model=evidence", "--evidence-steps=150"],
    "pix2pix unet": ["--model=pix2pix", "--network=unet"],
    "cyclegan resnet": ["--network=resnet"],
}
EACH = ["--preset=tiny"] if TINY else ["--size=256", "--n-simulated=150", "--batch-size=8"]
JUDGING = 10 if TINY else 25  # seconds


def main(folder: str, seconds: str) -> None:
    warnings.simplefilter("ignore")
    table, out = Table(folder, "translation"), work(folder) / "translation"
    out.mkdir(parents=True, exist_ok=True)
    for number, (name, given) in enumerate(CONTENDERS.items()):
        left = float(seconds) - table.elapsed
        minutes = max(5, left / (len(CONTENDERS) - number) - JUDGING) / 60
        try:
            translation.one(name.replace(" ", "-"), minutes, 0, [*EACH, *given], out)
            found = json.loads((out / f"{name.replace(' ', '-')}-0.json").read_text())
            classes = found["class"] or {}
            table.add(name, images=found["images"], seconds=found["seconds"],
                      distance=found["realism"]["value"], floor=found["realism"]["floor"],
                      AUROC=classes.get("translated", {}).get("value", float("nan")),
                      ceiling=classes.get("ceiling", {}).get("value", float("nan")))  # fmt: skip
        except Exception as error:
            traceback.print_exc()
            table.add(f"{name} FAILED", why=str(error).splitlines()[0][:200])


if __name__ == "__main__":
    main(*sys.argv[1:])
