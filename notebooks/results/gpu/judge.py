"""What a generator is worth, by judges that no training uses: EfficientNet-Lite2 and the ruler.

A linear head learns the classes from synthetic scans alone and is asked about unseen patients;
beside it the same from as many real scans. The ruler counts drusen. Distances and recall are of
EfficientNet-Lite0, which has chosen checkpoints: they stand last.
"""

import warnings
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from PIL import Image

from gpu.tables import DEVICE
from helpers.data.padding import without_padding
from helpers.data.simulated.simulate import make_eye
from helpers.gan.sampling import classes_of, sample
from helpers.measures.coverage import coverage_report
from helpers.measures.distances import kernel_distance
from helpers.measures.features import Features
from helpers.measures.layers import flat_without_drusen, measure
from helpers.measures.probe import probe_auroc

UNSEEN, OTHERS = 100_000, 300_000  # numbers of simulated patients that nobody trains on


def eyes(label: str, count: int, first: int, size=256) -> np.ndarray:
    """Whole scans, uint8 (count, 1, size, size), of that many simulated patients."""

    def draw(number):
        side = ("OD", "OS")[number % 2]
        eye = make_eye(number, label, eye=side, size=size, pictures=("oct",))
        return without_padding(eye.oct)

    pool = Parallel(-1 if count > 30 else 1)  # each process has torch to import first
    return np.stack(pool(delayed(draw)(first + k) for k in range(count)))[:, None]


def draw(generator, labels, count: int, size=0) -> dict[str, np.ndarray]:
    """Synthetic scans of each class, uint8 (count, 1, S, S)."""
    generator.to(DEVICE)
    return {
        label: ((sample(generator, count, 11, class_name=label, size=size) + 1) * 127.5)
        .round().byte().numpy()
        for label in labels
    }  # fmt: skip


def judge(synthetic: dict, test: dict, real: dict, disease="DRUSEN") -> dict[str, float]:
    """Scores of ``synthetic`` scans by class against ``test`` ones of unseen patients, beside those
    of ``real`` training scans; all uint8 (N, 1, S, S) by class."""
    labels, found = list(synthetic), {}

    def probed(features: Features) -> None:
        sides = {"synthetic": synthetic, "test": test, "real": real}
        seen = {name: {k: features(side[k]) for k in labels} for name, side in sides.items()}

        def learn_from(side, those):
            parts = [np.concatenate([seen[s][k] for k in those]) for s in (side, "test")]
            of = [np.repeat(those, [len(seen[s][k]) for k in those]) for s in (side, "test")]
            return probe_auroc(parts[0], of[0], parts[1], of[1])

        pairs = [k for k in ("NORMAL", disease) if k in labels]
        for name, those in (("", pairs), (" of all classes", labels)):
            if len(those) > 1 and (len(those) > 2 or not name):
                for side in ("synthetic", "real"):
                    found[f"AUROC{name} from {side}"] = learn_from(side, those)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scans that cannot be measured
        probed(Features(DEVICE, name="tf_efficientnet_lite2"))
        if disease in labels:
            mine, theirs = (
                flat_without_drusen(measure(side[disease])) for side in (synthetic, test)
            )
            for name in ("drusen_count", "drusen_height", "drusen_area", "retinal_thickness"):
                a, b = (values[name][np.isfinite(values[name])] for values in (mine, theirs))
                found[name] = (float(a.mean()), float(b.mean()), _delta(a, b))
    seen = Features(DEVICE)
    for label in labels:
        a, b, c = (seen(side[label]) for side in (synthetic, real, test))
        report = coverage_report(a, b, c)
        found[label] = {"distance": float(kernel_distance(a, c)),
                        "floor": float(kernel_distance(b, c))}  # fmt: skip
        if report["value"] and report["floor"]:  # None of too few scans
            found[label] |= {"recall": report["value"]["recall"],
                             "its floor": report["floor"]["recall"]}  # fmt: skip
    return found


def _delta(a, b) -> float:
    """Cliff's delta: how much more often a number of ``a`` is the larger one than the smaller."""
    return float(np.sign(a[:, None] - b[None]).mean())


def rows(table, what: str, found: dict) -> None:
    """A judgement into ``table``."""
    areas = {name: value for name, value in found.items() if name.startswith("AUROC")}
    if areas:
        table.add(what, **areas)
    for name, value in found.items():
        if isinstance(value, tuple):
            table.add(f"{what}, {name}", synthetic=value[0], real=value[1], delta=value[2])
        elif isinstance(value, dict):
            table.add(f"{what}, {name}", **value)


def sheet(path: Path, real: dict, synthetic: dict, count=4) -> None:
    """A row of real scans of each class above a row of synthetic ones."""
    count = min([count, *(len(side[k]) for k in synthetic for side in (real, synthetic))])
    lines = [
        np.concatenate(list(side[k][:count, 0]), 1) for k in synthetic for side in (real, synthetic)
    ]
    Image.fromarray(np.concatenate(lines)).save(path, quality=90)


def known(generator, wanted) -> list[str]:
    return [label for label in wanted if label in classes_of(generator)]
