"""What a blinded reading test shows: accuracy, d', diagnoses, quartets, ratings, agreement.

``prepare_test`` makes a test, ``reading_widget.ReadingTest`` shows it to readers, ``analyse``
opens the key. Readers of known skill are simulated to show that the analysis finds it; they are
marked as such, and say nothing of the scans.
"""

import json
from functools import partial
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import binomtest, mannwhitneyu, norm
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from helpers import plots
from helpers.evaluate.reading_test import (
    ANSWERS,
    CANNOT_TELL,
    FEATURES,
    BlindedTest,
    open_test,
    prepare_test,
    read_answers,
    read_mailed,
    reading_order,
)
from helpers.measures.intervals import between, holm

__all__ = [
    "BlindedTest", "accuracy_figure", "analyse", "open_test", "prepare_test", "print_analysis",
    "read_key", "signal_detection", "simulate_reader",
]  # fmt: skip

# Zheng et al., Transl Vis Sci Technol 2020;9(2):29: two retina specialists, one GAN on OCT2017
PUBLISHED = {"specialist 1": 0.595, "specialist 2": 0.5367}


def read_key(test: BlindedTest) -> dict:
    """{scan: {"truth": real or synthetic, "label", "index"}}; only the analysis may call it.

    Raises FileNotFoundError if the key is gone, ValueError if it is that of another test.
    """
    if not test.key.is_file():
        raise FileNotFoundError(
            f"{test.key}: the key of this test is missing, and nothing else says which scans are "
            "real. Copy it back, or prepare_test with the same scans and seed to write it anew."
        )
    return _opened(test)["images"]


def _opened(test) -> dict:
    key = json.loads(test.key.read_text())
    if key["test"] != test.id or key["images"].keys() != set(test.images):
        raise ValueError(f"{test.key}: the key of another test than that in {test.folder}.")
    return key


def simulate_reader(
    test: BlindedTest, skill, seed=0, *, criterion=0.0, diagnosis_skill=0.8, answered=None
) -> list[dict]:
    """Rows like those of a reader's CSV, of kind "simulated", from a reader of known d'.

    The equal-variance Gaussian observer (Green & Swets 1966): evidence is N(+skill/2, 1) for
    synthetic scans and N(-skill/2, 1) for real ones, and "synthetic" is said above `criterion`;
    confidence grows with the distance from it. Diagnoses are right with probability
    `diagnosis_skill`, else any other. `answered`: how many scans before stopping; None: all.
    """
    key, rng = read_key(test), np.random.default_rng(seed)
    name = f"simulated, d' = {skill:g}, seed {seed}"
    rows = []
    for position, image in enumerate(reading_order(test, name)[:answered], 1):
        truth, label = key[image]["truth"], key[image]["label"]
        evidence = rng.normal(skill / 2 if truth == "synthetic" else -skill / 2) - criterion
        others = [d for d in test.diagnoses if d != label] or [CANNOT_TELL]
        right = rng.random() < diagnosis_skill
        diagnosis = (label if right else str(rng.choice(others))) if test.diagnoses else ""
        rows.append({
            "test": test.id, "reader": name, "kind": "simulated", "position": str(position),
            "image": image, "answer": ANSWERS[int(evidence > 0)],
            "confidence": str(1 + int(np.searchsorted([0.3, 0.7, 1.2, 1.8], abs(evidence)))),
            "diagnosis": diagnosis or "", "seconds": f"{rng.lognormal(2, 0.5):.1f}", "time": "",
        })  # fmt: skip
    return rows


def share(correct, n) -> dict:
    """A proportion with its exact 95 % interval (Clopper & Pearson 1934); None where n is 0."""
    if n == 0:
        return {"value": None, "low": None, "high": None, "correct": 0, "n": 0}
    low, high = binomtest(int(correct), int(n)).proportion_ci(0.95, "exact")
    return {"value": correct / n, "low": float(low), "high": float(high),
            "correct": int(correct), "n": int(n)}  # fmt: skip


def signal_detection(hits, n_synthetic, false_alarms, n_real) -> dict:
    """d' and criterion c of saying "synthetic"; c < 0 leans to "synthetic", c > 0 to "real".

    d' = z(H) - z(F), c = -(z(H) + z(F)) / 2, with half an answer added to either cell so that
    rates of 0 and 1 stay finite (the log-linear rule, Hautus 1995). The 95 % interval of d' is
    Gourevitch & Galanter's (1967): variance H(1-H) / (N phi(z(H))^2), likewise for F. None
    without scans of both kinds.
    """
    if not (n_synthetic and n_real):
        return {"d_prime": {"value": None, "low": None, "high": None}, "criterion": None}
    counts = np.array([n_synthetic, n_real]) + 1
    rates = (np.array([hits, false_alarms]) + 0.5) / counts
    z = norm.ppf(rates)
    spread = np.sqrt((rates * (1 - rates) / (counts * norm.pdf(z) ** 2)).sum())
    value, half = z[0] - z[1], norm.ppf(0.975) * spread
    return {
        "d_prime": {"value": float(value), "low": float(value - half), "high": float(value + half)},
        "criterion": float(-z.mean()),
    }


def _kappa(one, other):
    """Cohen's kappa (1960); None where it is not defined: no scans, or everyone says one thing."""
    if len(set(one) | set(other)) < 2:
        return None
    return float(cohen_kappa_score(one, other))


def fleiss_kappa(answers) -> float | None:
    """Agreement of several readers beyond chance (Fleiss, Psychological Bulletin 1971).

    answers: one row for each scan, what each of the same two or more readers said. 1: all agree, 0:
    as chance has it; None without scans, or if everyone says one thing.
    """
    said = sorted({answer for row in answers for answer in row})
    if len(said) < 2:
        return None
    counts = np.array([[row.count(answer) for answer in said] for row in map(list, answers)])
    readers = counts[0].sum()
    agree = ((counts * (counts - 1)).sum(1) / (readers * (readers - 1))).mean()
    chance = ((counts.sum(0) / counts.sum()) ** 2).sum()
    return float((agree - chance) / (1 - chance))


def _rated(key, ratings) -> dict | None:
    """Per feature the medians over scans, real and synthetic, and whether they differ: a scan
    counts once, with the median of its readers (Mann & Whitney 1947, corrected by Holm)."""
    table = {}
    for feature in FEATURES:
        scans = {}
        for answer in ratings:
            scans.setdefault(answer["image"], []).append(int(answer[feature]))
        sides = {kind: [float(np.median(given)) for scan, given in scans.items()
                        if key[scan]["truth"] == kind] for kind in ANSWERS}  # fmt: skip
        if not all(sides.values()):
            return None
        table[feature] = {kind: float(np.median(values)) for kind, values in sides.items()}
        table[feature]["p_value"] = float(mannwhitneyu(*sides.values()).pvalue)
    for row, p in zip(table.values(), holm([row["p_value"] for row in table.values()])):
        row["p_holm"] = p
    return table


def _quartets(mailed, real) -> dict:
    """How often the real scan of four was found, beside one in four by guessing."""
    right = sum(answer["image"] == real[answer["quartet"]] for answer in mailed)
    found = share(right, len(mailed))
    return {**found, "p_guessing": float(binomtest(right, len(mailed), 0.25).pvalue)}


def _same(name: str) -> str:
    return " ".join(name.casefold().split())


def _by_reader(readings) -> tuple[dict, list[str]]:
    """{reader: the file with most answers}, and a word where two of one name do not agree."""
    found, doubts = {}, []
    for rows in readings:
        name = next((n for n in found if _same(n) == _same(rows[0]["reader"])), rows[0]["reader"])
        before = {row["image"]: row["answer"] for row in found.get(name, ())}
        if any(before.get(row["image"], row["answer"]) != row["answer"] for row in rows):
            doubts.append(f"two files of {name} differ; the one with more answers counts. If they "
                          "are two people, give them two names.")  # fmt: skip
        if len(rows) > len(before):
            found[name] = rows
    return found, doubts


def _reader_report(test, key, rows) -> dict:
    truth = np.array([key[row["image"]]["truth"] == "synthetic" for row in rows], bool)
    said = np.array([row["answer"] == "synthetic" for row in rows], bool)
    hits, false_alarms = (said & truth).sum(), (said & ~truth).sum()
    evidence = [(1 if s else -1) * int(row["confidence"]) for s, row in zip(said, rows)]
    both = truth.any() and not truth.all()
    seconds = [float(row["seconds"]) for row in rows]
    report = {
        "kind": rows[0]["kind"] if rows else "human",
        "answered": len(rows),
        "missing": len(test) - len(rows),
        "accuracy": share((said == truth).sum(), len(rows)),
        "p_guessing": float(binomtest(int((said == truth).sum()), len(rows)).pvalue)
        if rows else None,
        "sensitivity": share(hits, truth.sum()),
        "specificity": share((~said & ~truth).sum(), (~truth).sum()),
        **signal_detection(hits, truth.sum(), false_alarms, (~truth).sum()),
        "auroc": float(roc_auc_score(truth, evidence)) if both else None,
        "diagnosis": {},
        "median_seconds": float(np.median(seconds)) if rows else None,
        "notes": [],
    }  # fmt: skip
    for kind in ANSWERS:
        those = [row for row in rows if key[row["image"]]["truth"] == kind and test.diagnoses]
        those = [(row["diagnosis"], key[row["image"]]["label"]) for row in those]
        those = [(given, label) for given, label in those if label]
        report["diagnosis"][kind] = {
            **share(sum(given == label for given, label in those), len(those)),
            "cannot_tell": sum(given == CANNOT_TELL for given, _ in those),
            "kappa_with_label": _kappa(*zip(*those)) if those else None,
        }
    if report["missing"]:
        report["notes"].append(
            f"stopped after {len(rows)} of {len(test)} scans ({truth.sum()} synthetic, "
            f"{(~truth).sum()} real): what is missing is not counted"
        )
    return report


def analyse(test, simulated=()) -> dict:
    """Everything report.json says about the reading test, as plain numbers.

    test: a BlindedTest or its folder; the readers are those in FOLDER/readers. `simulated`: results
    of simulate_reader to analyse beside them. Per reader: accuracy, sensitivity and specificity for
    "synthetic" with exact intervals, probability of such an accuracy by guessing, d', criterion,
    area under the ROC of the confidence ratings, and the diagnoses' accuracy on real and on
    synthetic scans ("cannot tell" is not correct), and how often the real scan of a quartet was
    found. Per pair of readers: Cohen's kappa over the scans that both answered; of all of them:
    Fleiss' kappa, and what the features were rated. Scans count as independent: several of one
    patient make the intervals too narrow.

    Raises what open_test, read_key and read_answers raise.
    """
    test = test if isinstance(test, BlindedTest) else open_test(test)
    key = read_key(test)
    folder = test.folder / "readers"
    files = sorted([*folder.glob("*.csv"), *folder.glob("*.json")])
    readings = [read_answers(test, path) for path in files] + list(simulated)
    readings, twice = _by_reader(rows for rows in readings if rows)
    readers = {name: _reader_report(test, key, rows) for name, rows in readings.items()}
    mailed = {}
    for sent in (read_mailed(test, path) for path in files if path.suffix == ".json"):
        size = [sum(map(len, (one["singles"], one["quartets"], one["ratings"])))
                for one in (sent, mailed.get(_same(sent["reader"]), sent))]  # fmt: skip
        if size[0] >= size[1]:
            mailed[_same(sent["reader"])] = sent
    mailed = list(mailed.values())
    for sent in mailed:
        name = next((name for name in readers if _same(name) == _same(sent["reader"])), None)
        if sent["quartets"] and name:
            found = _quartets(sent["quartets"], _opened(test)["real_of_quartets"])
            readers[name]["quartets"] = found
    humans = sum(report["kind"] == "human" for report in readers.values())
    warnings = list(twice)
    if not humans:
        warnings.append("no human reader yet: how real the scans look is not known")
    if humans < len(readers):
        warnings.append("simulated readers test the analysis, not the scans")
    labels = {kind: {e["label"] for e in key.values() if e["truth"] == kind} for kind in ANSWERS}
    if test.diagnoses and labels["real"] != labels["synthetic"]:
        warnings.append("real and synthetic scans are of different classes: the disease may tell")
    pairs = []
    for a, b in combinations(readings, 2):
        one, other = ({row["image"]: row for row in readings[name]} for name in (a, b))
        common = sorted(one.keys() & other.keys())
        kappa = {
            field: _kappa([one[i][field] for i in common], [other[i][field] for i in common])
            for field in ("answer", "diagnosis")
        }
        pairs.append({"readers": [a, b], "scans": len(common), **kappa})
    every = [{row["image"]: row for row in rows} for name, rows in readings.items()
             if not humans or readers[name]["kind"] == "human"]  # fmt: skip
    common = sorted(set.intersection(*map(set, every))) if len(every) > 1 else []
    together = {
        field: fleiss_kappa([[rows[scan][field] for rows in every] for scan in common])
        for field in ("answer", "diagnosis")
    }
    return {
        "schema": 2,
        "test": test.id,
        "size": test.size,
        "n_real": sum(entry["truth"] == "real" for entry in key.values()),
        "n_synthetic": sum(entry["truth"] == "synthetic" for entry in key.values()),
        "human_readers": humans,
        "readers": readers,
        "kappa": pairs,
        "fleiss": {"readers": len(every), "scans": len(common), **together},
        "ratings": _rated(key, [answer for sent in mailed for answer in sent["ratings"]]),
        "published": {"accuracy": PUBLISHED, "source": "Zheng et al., TVST 2020;9(2):29"},
        "warnings": warnings,
    }


def print_analysis(report) -> str:
    """Print an analysis, readers by rows, 95 % intervals in brackets; returns the text."""
    percent = partial(between, digits=0, times=100)
    lines = [
        f"Reading test {report['test']}: {report['n_real']} real and {report['n_synthetic']} "
        f"synthetic scans of {report['size']} px, {report['human_readers']} human reader(s)"
    ]
    for name, reader in report["readers"].items():
        mark = "" if reader["kind"] == "human" else "  [SIMULATED]"
        real, synthetic = (reader["diagnosis"][kind] for kind in ANSWERS)
        accuracy = f"{percent(reader['accuracy'])}, guessing p = {reader['p_guessing']:.2g}"
        rows = [
            ("accuracy, %", accuracy),
            ("synthetic seen as such, %", percent(reader["sensitivity"])),
            ("real seen as such, %", percent(reader["specificity"])),
            ("d'", between(reader["d_prime"])),
            ("right diagnosis on real, %", percent(real)),
            ("right diagnosis on synthetic, %", percent(synthetic)),
        ]
        if four := reader.get("quartets"):
            p = four["p_guessing"]
            rows.append(("real one of four found, %", f"{percent(four)}, guessing 25, p = {p:.2g}"))
        lines.append(f"{name}{mark}: {reader['answered']} scans, "
                     f"{reader['median_seconds']:.0f} s each")  # fmt: skip
        lines += [f"  {what:<34}{value}" for what, value in rows]
        lines += [f"  note: {note}" for note in reader["notes"]]
    for pair in report["kappa"]:
        a, d = ("-" if pair[k] is None else f"{pair[k]:.2f}" for k in ("answer", "diagnosis"))
        lines.append(
            f"kappa of {' and '.join(pair['readers'])}: real or synthetic {a}, diagnosis {d}"
        )
    fleiss = report["fleiss"]
    if fleiss["scans"]:
        a, d = ("-" if fleiss[k] is None else f"{fleiss[k]:.2f}" for k in ("answer", "diagnosis"))
        lines.append(f"Fleiss' kappa of {fleiss['readers']} readers, {fleiss['scans']} scans: "
                     f"real or synthetic {a}, diagnosis {d}")  # fmt: skip
    for feature, row in (report["ratings"] or {}).items():
        lines.append(f"{feature}, 1 to 5: real {row['real']:g}, synthetic {row['synthetic']:g} "
                     f"(medians), p = {row['p_holm']:.2g} after Holm")  # fmt: skip
    lines += [f"note: {warning}" for warning in report["warnings"]]
    text = "\n".join(lines)
    print(text)
    return text


def accuracy_figure(report, *, caption="", path=None):
    """Accuracy per reader with its interval, beside guessing and the published study."""
    readers = report["readers"]
    with plt.rc_context(plots.STYLE):
        height = 1.0 + 0.32 * (len(readers) + len(PUBLISHED))
        figure, axes = plt.subplots(figsize=(plots.WIDTH * 0.8, height))
        names = []
        for name, reader in readers.items():
            found, human = reader["accuracy"], reader["kind"] == "human"
            value, low, high = (100 * found[k] for k in ("value", "low", "high"))
            axes.errorbar(
                value, len(names), xerr=[[value - low], [high - value]], fmt="o", capsize=3,
                color=plots.ACCENT if human else plots.PALE,
                mfc=plots.ACCENT if human else "white",
            )  # fmt: skip
            partial = f", {reader['answered']} scans" if reader["missing"] else ""
            names.append(name + partial)
        for name, value in report["published"]["accuracy"].items():
            axes.plot(value * 100, len(names), "D", color=plots.REAL, ms=5)
            names.append(f"Zheng et al. 2020, {name}")
        axes.axvline(50, color=plots.REAL, lw=0.8, ls=":")
        axes.annotate("guessing", (50, -0.75), (3, 0), textcoords="offset points", fontsize=8)
        axes.set(xlabel="real or synthetic told correctly, % (95 % interval)", xlim=(0, 100))
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -1)
        return plots.finish(figure, caption, path)
