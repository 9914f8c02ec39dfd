"""report.json's one schema, and the table of its numbers.

Every part of a report is a dictionary. What could not be measured is there all the same: its
value is null, and `reason` says why.
"""

import json
from importlib.metadata import version
from pathlib import Path

from helpers.measures.intervals import between
from helpers.measures.usefulness import ARMS
from helpers.training.network_file import write_whole

SCHEMA = 3
PACKAGES = ("torch", "torchvision", "timm", "torchmetrics", "scikit-learn", "numpy")
ELSEWHERE = "not measured here; notebook 05 does"
# part: what it holds when it was not measured
PARTS = {
    "usefulness": {"auroc": None},
    "kernel_distance": {"value": None, "low": None, "high": None, "floor": None},
    "scale": {"other_class": None, "blur": None, "noise": None},
    "resolution": {"size": None, "value": None},
    "coverage": {"value": None, "floor": None},
    "consistency": {"left_out": None},
    "inception": {"fid": None, "kid": None, "dinov2": None},
    "anatomy": {"measures": None},
    "texture": {"measures": None},
    "memorisation": {"copied_share": None},
    "reading": {"readers": None},
}


def complete(parts: dict, reasons: dict | None = None) -> dict:
    """A report with every part of the schema: those given, the rest null with a reason.

    reasons: part -> why it was not measured. `not_measured` lists what is null.
    """
    report = {"schema": SCHEMA, "versions": {name: version(name) for name in PACKAGES}}
    for name, empty in PARTS.items():
        reason = (reasons or {}).get(name, ELSEWHERE)
        report[name] = parts.get(name) or {**empty, "reason": reason}
    report.update({name: part for name, part in parts.items() if name not in report})
    report["not_measured"] = [
        name for name, empty in PARTS.items() if report[name].get(next(iter(empty))) is None
    ]
    report["not_measured"] = [n for n in report["not_measured"] if n not in ("scale", "resolution")]
    report.setdefault("warnings", [])
    return report


def write(report: dict, path) -> Path:
    """report as JSON, whole or not at all; NaN is refused rather than written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    return path


def print_table(report: dict, only=None) -> str:
    """Print a report's numbers, each beside its yardstick; returns the text.

    only: names of parts; None: all, with the notes and what was not measured.
    """
    lines = []
    for title, rows in tables(report, only).items():
        lines.append(title)
        for name, number, remark in rows:
            lines.append(f"  {name:<36}{number:>22}  {remark}".rstrip())
    if only is None:
        missing = {name: report[name]["reason"] for name in report["not_measured"]}
        lines += [f"not measured: {n}, {r}" for n, r in missing.items() if r != ELSEWHERE]
        if later := [name for name, reason in missing.items() if reason == ELSEWHERE]:
            lines.append(f"measured in notebook 05: {', '.join(later)}")
    parts = [report] if only is None else [report[name] for name in only]
    lines += [f"note: {warning}" for part in parts for warning in part.get("warnings", [])]
    absent = [name for name in only or () if name in report["not_measured"]]
    lines += [f"{name} not measured: {report[name]['reason']}" for name in absent]
    text = "\n".join(lines)
    print(text)
    return text


def tables(report: dict, only=None) -> dict[str, list[tuple[str, str, str]]]:
    """Title -> rows (name, number, remark) for every part (or `only` those) that was measured."""
    makers = {
        "usefulness": _usefulness, "kernel_distance": _distances, "coverage": _coverage,
        "consistency": _consistency, "outside": _outside, "anatomy": _measures,
        "texture": _measures, "memorisation": _memorisation,
    }  # fmt: skip
    outside = report.get("outside", {}).get("auroc")  # only of who has scans of another clinic
    absent, found = report["not_measured"] + ["outside"] * (outside is None), {}
    for name, rows in makers.items():
        if name not in absent and name in (only or makers):
            title, lines = rows(report, name)
            found[title] = lines
    return found


def _distances(report, _):
    distance, scale, resolution = (report[k] for k in ("kernel_distance", "scale", "resolution"))
    other = scale["other_class"] or {"name": "another class", "value": None}
    reason = resolution.get("reason", "the cost of the resolution alone")

    def number(value):
        return "-" if value is None else f"{value:.1f}"

    rows = [
        ("synthetic to unseen patients", between(distance, 1), "95 % interval over patients"),
        ("  real scans reduced as well", number(distance["same_size"]), "resolution taken out"),
        ("synthetic to training scans", number(distance["to_training"]), ""),
        ("floor: real to unseen patients", number(distance["floor"]), "as good as it gets"),
        (f"scale: real {other['name']}", number(other["value"]), ""),
        ("scale: real, blurred", number(scale["blur"]), "sigma 3 px of 224"),
        ("scale: white noise", number(scale["noise"]), ""),
        (f"scale: real at {resolution['size']} px", number(resolution["value"]), reason),
    ]
    for name, what in (("kid", "KID x1000 (Inception)"), ("dinov2", "the same in DINOv2")):
        found = report["inception"].get(name)
        if found is not None:
            rows.append((what, number(found["value"]), f"floor {number(found.get('floor'))}"))
    fid = report["inception"]["fid"]
    if fid is not None:
        few = ": too few to compare" if fid["warning"] else ""
        rows.append(("FID (Inception)", number(fid["value"]), f"{fid['n']} a side{few}"))
    return (
        f"Kernel distance x1000: {distance['n_synthetic']} synthetic, {distance['n_real']} real "
        f"scans of {distance['patients']} unseen patients", rows,
    )  # fmt: skip


def _coverage(report, name):
    part = report[name]
    rows = [(n, f"{v:.2f} +- {part['spread'][n]:.2f}", f"floor {part['floor'][n]:.2f}")
            for n, v in part["value"].items()]  # fmt: skip
    return f"Kinds of scans, {part['n']} a side, neighbourhoods of {part['k']}", rows


def _consistency(report, name):
    part = report[name]
    row = ("of whom no scan is reached", str(part["left_out"]), f"floor {part['floor']}")
    return f"{part['patients']} unseen patients, {part['n']} scans a side", [row]


def _usefulness(report, name):
    part = report[name]
    contrast, controls = part["contrast"], part["controls"]
    luck = ", ".join(f"{value:.2f}" for value in controls["shuffled_labels"]["seeds"])
    rows = [
        (f"trained on {arm.replace('_', ' ')}", between(part["arms"][arm]["auroc"]),
         f"sensitivity {between(part['arms'][arm]['sensitivity'])}, "
         f"specificity {between(part['arms'][arm]['specificity'])}")
        for arm in ARMS[:-1] if arm in part["arms"]
    ]  # fmt: skip
    if "centring" in part:
        gain = part["differences"]["synthetic, centred - synthetic"]
        rows.append(("gain by centring", between(gain), part["centring"]))
    rows += [
        ("real, tested on synthetic", between(part["arms"]["real_to_synthetic"]["auroc"]),
         "do synthetic scans show what they are called?"),
        *((what.replace("_", " "), between(value), "difference, paired by patient")
          for what, value in part["differences"].items()
          if what != "synthetic, centred - synthetic"),
        ("worth in real scans", between(part["worth"], 0), part["worth"]["text"]),
        ("control: shuffled labels", between(controls["shuffled_labels"]), f"by seed {luck}"),
        ("control: real from synthetic", between(controls["source_auroc"]),
         "1.00: every scan gives its source away"),
    ]  # fmt: skip
    n = part["n"]["real test"]
    who = ", ".join(f"{v['scans']} {c} of {v['patients']} patients" for c, v in n.items())
    return f"AUROC on {who}; contrast: {contrast['kind']}", rows


def _outside(report, name):
    part = report[name]
    rows = [(f"trained here on {arm}", between(value), "") for arm, value in part["arms"].items()]
    rows += [(f"  {arm} minus real", between(value), "paired by patient")
             for arm, value in part["minus_real"].items()]  # fmt: skip
    return f"AUROC in another clinic: {part['scans']} scans of {part['patients']} patients", rows


def _measures(report, name):
    usable = report[name]["usable"]
    rows = []
    if name == "anatomy":
        remark = f"real {100 * usable['test']:.0f}, training {100 * usable.get('training', 0):.0f}"
        rows.append(("readable for the ruler, %", f"{100 * usable['synthetic']:.0f}", remark))
    for measure, found in report[name]["measures"].items():
        if found["effect"] is None:
            continue
        effect = {"value": found["effect"], "low": found["low"], "high": found["high"]}
        remark = f"real {found['real_median']:.3g}, synthetic {found['synthetic_median']:.3g}"
        rows.append((measure.replace("_", " "), between(effect), remark))
    return f"{name.capitalize()}: Cliff's delta, synthetic against unseen real (medians)", rows


def _memorisation(report, name):
    part = report[name]
    rows = _memorised(part)
    for other in part.get("other_classes", ()):
        rows += [(f"{other['class']}:", "", ""), *_memorised(other)]
    return "Memorisation: nearest training scan of every synthetic one", rows


def _memorised(part):
    rows = []
    for space in ("pixels", "features"):
        found = part[space]
        if found["copied_share"] is None:
            continue
        share = found | {"value": found["copied_share"]}
        rows += [
            (f"nearer than the threshold, {space}, %", between(share, 1, 100),
             f"{100 * found['expected_share']:.1f} % expected of scans that are no copies"),
            (f"  beyond that, {space}, %", between(found["excess"], 1, 100),
             f"p = {found['p_value']:.2g}"),
        ]  # fmt: skip
        if trace := found.get("membership"):
            rows += [
                (f"  membership AUROC, {space}", between(trace["attack"]),
                 f"the same attack on {trace['control_is']}: {between(trace['control'])}"),
                ("    attack minus that control", between(trace["excess"]),
                 f"0.00: training leaves no trace; {trace['n']} scans a side"),
            ]  # fmt: skip
        for side, whole in found["volumes"].items():
            if whole is not None:
                most = whole["largest"]
                rows.append((
                    f"  {side} patients drawn again, {space}",
                    f"{whole['stand_out']} of {whole['patients']}",
                    f"most: {100 * most['share']:.1f} % of synthetic scans are near one, "
                    f"{100 * most['expected']:.1f} % expected, p = {most['p_value']:.2g}",
                ))  # fmt: skip
    return rows + [(f"copies missed, {disguise}, %", between(missed, 0, 100), "planted by us")
                   for disguise, missed in part["missed"].items()]  # fmt: skip
