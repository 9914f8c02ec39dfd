"""How real are the simulated OCT scans? Not a test: run it beside real ones.

    python notebooks/results/simulation.py --real DIR/manifest.csv --out report.json

The manifest has the columns path, modality, dataset, label, patient, with a `kermany` set (CNV,
DME, DRUSEN, NORMAL) and a `noor` set (AMD, NORMAL). Three questions, real and simulated scans
stretched to 256 px alike, intervals by bootstrap over patients:

(a) are simulated DRUSEN nearer to real DRUSEN than simulated NORMAL are?
(b) do the simulated classes lie apart from one another in the order in which the real ones do?
(c) does a NORMAL-against-DRUSEN classifier trained on simulated scans alone work on real ones?

The simulation was developed on noor and on that half of the kermany patients whose name has an
even crc32; the other half is the test. `--part development` measures without touching it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import zlib
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from helpers.data.bscan import clean_oct
from helpers.data.pixels import read_image
from helpers.data.simulated.simulate import CONDITIONS, make_eye
from helpers.measures.distances import kernel_distance, kernel_distance_interval, log_ratio_interval
from helpers.measures.features import Features

PAIRS = list(itertools.combinations(CONDITIONS, 2))


def real_scans(manifest, dataset, label, part="all", at_most=None):
    """Clean scans (N, 1, 256, 256) of one class and their patients (N,)."""
    with open(manifest, newline="") as file:
        rows = [
            r for r in csv.DictReader(file)
            if (r["modality"], r["dataset"], r["label"]) == ("oct", dataset, label)
        ]  # fmt: skip
    if part != "all":
        wanted = {"development": 0, "test": 1}[part]
        rows = [r for r in rows if zlib.crc32(r["patient"].encode()) % 2 == wanted]
    if at_most:
        rows = rows[:: max(1, len(rows) // at_most)][:at_most]
    folder = Path(manifest).parent
    scans = [clean_oct(read_image(folder / r["path"]), size=256) for r in rows]
    return np.stack(scans)[:, None], np.array([r["patient"] for r in rows])


def simulated_scans(condition, count, first=50_000):
    """Clean scans (N, 1, 256, 256), one eye of each of `count` patients."""
    scans = [
        clean_oct(make_eye(first + k, condition, eye=("OD", "OS")[k % 2]).oct, size=256)
        for k in range(count)
    ]
    return np.stack(scans)[:, None]


def auroc(scores, truth, patients, resamples=2000, seed=0):
    """Area under the curve with a 95 % interval over patients."""
    rng = np.random.default_rng(seed)
    names = np.unique(patients)
    members = [np.nonzero(patients == name)[0] for name in names]
    values = []
    while len(values) < resamples:
        index = np.concatenate([members[k] for k in rng.integers(0, len(names), len(names))])
        if 0 < truth[index].sum() < len(index):
            values.append(roc_auc_score(truth[index], scores[index]))
    low, high = np.percentile(values, (2.5, 97.5))
    return {
        "value": float(roc_auc_score(truth, scores)), "low": float(low), "high": float(high),
        "images": len(truth), "patients": len(names),
    }  # fmt: skip


def classifier(normal, drusen):
    """Logistic regression on standardised features, trained on simulated scans."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-4, max_iter=2000))
    labels = np.r_[np.zeros(len(normal)), np.ones(len(drusen))]
    return model.fit(np.concatenate([normal, drusen]), labels)


def measure(simulated, real, patients, targets, tested):
    """simulated: {condition: features}; real, patients: {(dataset, label): ...}.

    targets: the (dataset, label) of question (a); tested: the (dataset, NORMAL, diseased) of (c).
    """
    report = {"nearer": [], "classes": {}, "auroc": []}
    for key in targets:
        row = {"real": " ".join(key), "images": len(real[key])}
        for condition in CONDITIONS:
            low, high = kernel_distance_interval(
                simulated[condition], real[key], None, patients[key]
            )
            value = kernel_distance(simulated[condition], real[key], None, patients[key])
            row[condition] = {"value": value, "low": low, "high": high}
        value, low, high = log_ratio_interval(
            simulated["DRUSEN"], simulated["NORMAL"], real[key], patients[key]
        )
        row["log_ratio_DRUSEN_to_NORMAL"] = {"value": value, "low": low, "high": high}
        report["nearer"].append(row)
    if all(("kermany", c) in real for c in CONDITIONS):
        table = {
            f"{a}-{b}": {
                "simulated": kernel_distance(simulated[a], simulated[b]),
                "real": kernel_distance(
                    *(of["kermany", k] for of in (real, patients) for k in (a, b))
                ),
            }
            for a, b in PAIRS
        }
        order = spearmanr(
            [v["simulated"] for v in table.values()], [v["real"] for v in table.values()]
        )
        report["classes"] = {"table": table, "spearman": float(order.statistic)}
    model = classifier(simulated["NORMAL"], simulated["DRUSEN"])
    for dataset, healthy, diseased in tested:
        rows = [real[dataset, healthy], real[dataset, diseased]]
        names = np.concatenate([patients[dataset, healthy], patients[dataset, diseased]])
        truth = np.repeat([0, 1], [len(r) for r in rows])
        scores = model.decision_function(np.concatenate(rows))
        result = auroc(scores, truth, names)
        report["auroc"].append({"real": f"{dataset} {healthy} against {diseased}", **result})
    return report


def show(report):
    for row in report["nearer"]:
        parts = [
            f"{c} {row[c]['value']:.0f} ({row[c]['low']:.0f} to {row[c]['high']:.0f})"
            for c in CONDITIONS
        ]
        ratio = row["log_ratio_DRUSEN_to_NORMAL"]
        print(f"(a) to real {row['real']} ({row['images']}): " + ", ".join(parts))
        print("    log ratio DRUSEN / NORMAL {value:.2f} ({low:.2f} to {high:.2f})".format(**ratio))
    for pair, v in report["classes"].get("table", {}).items():
        print(f"(b) {pair:14s} simulated {v['simulated']:6.1f}  real {v['real']:6.1f}")
    if report["classes"]:
        print(f"    Spearman {report['classes']['spearman']:.2f}")
    for row in report["auroc"]:
        print("(c) {real}: AUROC {value:.3f} ({low:.3f} to {high:.3f}), {images} images, "
              "{patients} patients".format(**row))  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--real", required=True, help="manifest.csv of the real scans")
    parser.add_argument("--out", help="where to write the report as JSON")
    parser.add_argument("--n", type=int, default=300, help="simulated scans per condition")
    parser.add_argument("--part", default="test", choices=("development", "test", "all"))
    choices = parser.parse_args()
    features = Features()
    real, patients = {}, {}
    for dataset, label in [("kermany", c) for c in CONDITIONS] + [
        ("noor", "AMD"),
        ("noor", "NORMAL"),
    ]:
        part = choices.part if dataset == "kermany" else "all"
        scans, names = real_scans(choices.real, dataset, label, part)
        real[dataset, label], patients[dataset, label] = features(scans), names
    simulated = {c: features(simulated_scans(c, choices.n)) for c in CONDITIONS}
    report = measure(
        simulated, real, patients,
        targets=[("kermany", "DRUSEN"), ("noor", "AMD")],
        tested=[("kermany", "NORMAL", "DRUSEN"), ("noor", "NORMAL", "AMD")],
    )  # fmt: skip
    report["part"], report["simulated_per_condition"] = choices.part, choices.n
    show(report)
    if choices.out:
        Path(choices.out).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
