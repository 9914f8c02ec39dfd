"""Where shape is gone from W, do drusen lie on a line? Notebook 07's questions of aligned crops.

    python notebooks/results/aligned_styles.py FOLDER --images 32000 --seeds 0 1

Trains a style-based generator on aligned crops of DRUSEN for each seed (what is finished is
skipped), draws scans that all have the average shape, and asks of every measure: how much of its
variance the style decides (the rest is the grain's and the ruler's), how much of it a line in W and
in z predicts, whether a direction is accepted, and whether it returns with every other seed.

Written are FOLDER/tables/aligned_styles.json, FOLDER/tables.md and FOLDER/walk.png, one eye along
each fitted direction. Simulated eyes; not collected by pytest.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from gpu.tables import Table, markdown
from PIL import Image

from helpers import config
from helpers.data.simulated.simulate import make_eye
from helpers.gan.recipes import with_recipe
from helpers.gan.styles import directions as lines
from helpers.gan.train import train_gan
from helpers.generate import load_generator
from helpers.measures.features import Features
from helpers.measures.true_layers import ruler_errors

KNOWN = 60  # simulated eyes on which the ruler's error is found
COMPONENTS = 6


def trained(o, seed: int):
    given = {"data": "simulated", "class": "DRUSEN", "model": "stylegan", "framing": "aligned",
             "conditional": 0, "dials": 0, "size": o.size, "n_simulated": o.n_simulated,
             "seed": seed, "run": f"aligned-{seed}", "runs": o.folder, "hours": 20,
             "steps": o.images // 16, "batch_size": 16, "patience": 0,
             "validate_every": 8000}  # fmt: skip
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    settings = with_recipe(config.resolve(config.TrainGan, arguments, {}))
    return load_generator(train_gan(settings, Features(), progress=False).folder)


def walk(generator, found, base) -> np.ndarray:
    """One eye at every position along each fitted direction, a row for each: uint8 (H, W)."""
    rows = []
    for name in (name for name in found.names if name in lines.FAMILIES):
        w = np.concatenate([found.put(base.w[:1], name, at) for at in lines.POSITIONS])
        styles = torch.from_numpy(w.astype(np.float32))[:, None].repeat(1, generator.levels, 1)
        rows.append(np.concatenate(list(lines.render(generator, styles, base.grain[:1])[:, 0]), 1))
    return np.concatenate(rows)


def main(o) -> None:
    generators = [trained(o, seed) for seed in o.seeds]
    eyes = [make_eye(900_000 + k, "DRUSEN", eye=("OD", "OS")[k % 2], size=256, pictures=("oct",))
            for k in range(KNOWN)]  # fmt: skip
    real = lines.read_measures(np.stack([eye.oct for eye in eyes])[:, None])
    errors = ruler_errors(eyes)
    table, all_found = Table(o.folder / "tables", "aligned_styles"), []
    for seed, generator in zip(o.seeds, generators):
        drawn = lines.draw_sample(generator, o.drawn, seed)
        found = lines.fit(drawn, components=COMPONENTS, weights_hash=generator.weights_hash)
        base = lines.draw_sample(generator, o.tested, seed + 1000)
        lines.accept(lines.effects(generator, found, base), found, drawn, errors)
        all_found.append(found)
        from_z = lines.linear(drawn.z, drawn.values)
        decided = lines.decided_by_style(generator, seed=seed)
        for name, words in lines.WORDS.items():
            there = name in found.names
            verdict = found.report.get(name, {})
            table.add(
                f"{words}, seed {seed}",
                drawn=float(np.nanmean(drawn.values[name])), real=float(np.nanmean(real[name])),
                spread=float(np.nanstd(drawn.values[name])),
                real_spread=float(np.nanstd(real[name])), style_decides=decided[name],
                from_w=float(found.explained[found.index(name)]) if there else np.nan,
                from_z=from_z[name],
                **{key: float(verdict.get(key, np.nan))
                   for key in ("beyond_error", "ends_right", "others", "readable", "accepted")},
            )  # fmt: skip
        print(f"seed {seed}: accepted {', '.join(found.accepted) or 'none'}", flush=True)
        if seed == o.seeds[0]:
            Image.fromarray(walk(generator, found, base)).save(o.folder / "walk.png")
    if len(all_found) > 1:
        print("returns:", lines.returns(*all_found))
    (o.folder / "tables.md").write_text(markdown(o.folder / "tables"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    for name, value in (("images", 32_000), ("size", 128), ("n_simulated", 300), ("drawn", 2000),
                        ("tested", 64)):  # fmt: skip
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    (options.folder / "tables").mkdir(parents=True, exist_ok=True)
    main(options)
