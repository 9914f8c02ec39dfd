"""What a translator from DFE to OCT is worth, on test patients: every score beside its control.

Realism; the class that survives, and what a reader of the photograph gains by the scan; where the
truth is known (simulated eyes) drusen in their place, SSIM and PSNR; where the translator also goes
back, the honest cycle.
"""

import numpy as np
import torch

from helpers.classifiers.linear_head import label_numbers, linear_head
from helpers.data.pixels import to_float
from helpers.data.split import Labelled
from helpers.data.two_modalities import Domains, all_simulated, as_taken, truths_of
from helpers.measures.distances import kernel_distance, kernel_distance_interval
from helpers.measures.features import Features
from helpers.measures.intervals import between
from helpers.measures.scores import auroc_difference, scores
from helpers.translation.judge import translate
from helpers.translation.lesions import (
    as_a_file,
    class_survives,
    deals,
    honest_cycle,
    lesion_report,
    pair_scores,
)

READER = "tf_efficientnet_lite2"  # not the network that training judges by
FOLDS = 5
MOST_EYES = 120  # in which drusen are looked for: the ruler takes its time


def pictures(*splits) -> Labelled:
    """Of one or several ``data.Split``."""
    levels = np.concatenate([np.asarray(split.images) for split in splits])
    labels, patients = (np.concatenate([getattr(split, name) for split in splits])
                        for name in ("labels", "patients"))  # fmt: skip
    return Labelled(to_float(levels), labels, patients)


def read_by_others(taught: Labelled, judged: list[Labelled], classes, reader: Features, *, seed=0):
    """Probabilities (N, K) of each of ``judged`` by readers that never saw their patients.

    A reader is a linear head on ``reader``'s frozen features of ``taught``. All patients are dealt
    to FOLDS, and those of a fold are read by the head that learned from the others: no eye is read
    by one that knows it, whatever picture of it is shown. ValueError if a class has too few
    patients.
    """
    everyone = sorted({*taught.patients, *(p for part in judged for p in part.patients)})
    order = np.random.default_rng(seed).permutation(len(everyone))
    fold_of = {everyone[i]: place % FOLDS for place, i in enumerate(order)}

    def folds(part):
        return np.array([fold_of[p] for p in part.patients])

    rows, place = reader(taught.images), folds(taught)
    numbers = label_numbers(taught.labels, classes)
    found = [np.zeros((len(part.images), len(classes))) for part in judged]
    described = [reader(part.images) for part in judged]
    for fold in range(FOLDS):
        if not any((folds(part) == fold).any() for part in judged):
            continue
        kept = place != fold
        missing = [c for k, c in enumerate(classes) if k not in numbers[kept]]
        if missing:
            raise ValueError(f"too few patients of {', '.join(missing)} to teach a reader")
        weight, bias = linear_head(rows[kept], numbers[kept], taught.patients[kept], seed=seed)
        for part, features, result in zip(judged, described, found):
            here = folds(part) == fold
            logits = torch.from_numpy(features[here] @ weight.T + bias)
            result[here] = logits.softmax(1).numpy()
    return found


def four_way(
    labels, photograph, translated, true, classes, patients, *, tested=None, drawn=None,
    resamples=1000, seed=0,
):  # fmt: skip
    """What do readers of a photograph gain if they are shown the scan that was drawn from it, too?

    photograph, translated, true: features (N, d) of three pictures of N eyes, none of which taught
    the translator; labels (N,): names out of two ``classes``. Linear heads learn as in
    ``read_by_others``, each from one of the ``ways``: "photograph", "translated" and "true" alone,
    "together" (photograph and translated scan side by side), "shuffled" (the photograph beside
    scans translated for other patients: what mere numbers do) and "ceiling" (photograph and true
    scan). ``tested`` bool (N,): eyes that are scored (None: all), the others only teach. ``drawn``
    (N,): what an interval's resamples draw (None: patients).

    Returned: {way: AUROC} and "gain": {way: AUROC less that of the photograph, paired}, each
    {value, low, high, resamples}. ValueError if a class has too few patients.
    """
    labels, patients = np.asarray(labels), np.asarray(patients)
    tested = np.ones(len(labels), bool) if tested is None else np.asarray(tested)
    units = (patients if drawn is None else np.asarray(drawn))[tested]
    order = next(deals(patients, np.random.default_rng(seed), 1))
    ways = {
        "photograph": photograph, "translated": translated, "true": true,
        "together": np.hstack([photograph, translated]),
        "shuffled": np.hstack([photograph, translated[order]]),
        "ceiling": np.hstack([photograph, true]),
    }  # fmt: skip
    read, about = {}, {"resamples": resamples, "seed": seed}
    for way, rows in ways.items():
        part = Labelled(rows, labels, patients)
        (read[way],) = read_by_others(part, [part.take(tested)], classes, np.asarray, seed=seed)
    own = labels[tested]
    report = {way: scores(own, p, classes, units, **about)["auroc"] for way, p in read.items()}
    report["gain"] = {
        way: auroc_difference(own, p, read["photograph"], classes, units, **about)
        for way, p in read.items() if way != "photograph"
    }  # fmt: skip
    return report


def three_pictures(generator, domains: Domains, reader: Features):
    """What ``four_way`` takes, of validation and test patients of paired ``domains``: features
    (N, d) of photographs, of the scans that ``generator`` draws from them and of true scans, both
    ``as_a_file``; the photographs, with labels and patients; and which are test patients', (N,)."""
    photographs = pictures(domains.dfe.validation, domains.dfe.test)
    true = pictures(domains.oct.validation, domains.oct.test).images
    drawn = translate(generator, photographs.images)
    rows = reader(photographs.images), reader(as_a_file(drawn)), reader(as_a_file(true))
    return rows, photographs, np.arange(len(true)) >= len(domains.dfe.validation)


def print_four_way(report: dict) -> None:
    """What ``four_way`` returned, as aligned text."""
    names = {
        "photograph": "photograph alone", "translated": "translated scan alone",
        "together": "photograph and translated scan",
        "shuffled": "photograph and another eye's translated scan",
        "true": "true scan alone", "ceiling": "photograph and true scan",
    }  # fmt: skip
    print(f"{'AUROC of the class':46}{'':24}less the photograph alone")
    for way, words in names.items():
        print(f"{words:46}{between(report[way]):24}{between(report['gain'].get(way))}")


def measure_translation(generator, domains: Domains, settings, features, reader, *, seed=0):
    """Scores of ``generator``, a ``Translator`` that draws OCT, on test patients' photographs.

    features: of the kernel distance; reader: ``Features(name=READER)``, of those who read classes.
    They learn from the scans of validation and test patients, none of which taught the translator.
    Before a class is read, translated scans are written as 8 bit and blurred a little
    (``lesions.as_a_file``), as are the scans that readers learn from. In the framing "band" a
    thickness in um takes its scale from the true scan. What cannot be measured is None.
    ``settings`` gives size and framing, as ``domains`` were prepared with.
    """
    test, classes = pictures(domains.dfe.test), list(domains.classes)
    drawn = translate(generator, test.images)
    filed = Labelled(as_a_file(drawn), test.labels, test.patients)
    report = {"n": len(drawn), "patients": len(set(test.patients)),
              "realism": _realism(drawn, domains, features)}  # fmt: skip
    try:
        report["class"] = _classes(filed, test, domains, classes, reader, seed)
    except ValueError as error:  # too few patients of a class
        report["class"], report["reason"] = None, str(error)
    report |= {"lesions": None, "pairs": None, "cycle": None}
    if all_simulated([*domains.dfe.test.scans, *domains.oct.test.scans]):
        own = [_stem(scan.path) for scan in domains.oct.test.scans]
        where = [own.index(_stem(scan.path)) for scan in domains.dfe.test.scans]
        report |= _against_truth(drawn, where, domains, settings, seed)
    if "dfe" in generator.generators:
        cycled = [translate(generator, images, "dfe") for images in (drawn, filed.images)]
        report["cycle"] = honest_cycle(test.images, *cycled)
        back = translate(generator, pictures(domains.oct.test).images, "dfe")
        report["back"] = _realism(back, domains, features, "dfe")
    return _plain(report)


def _plain(value):
    """What is not defined or infinite as None, which JSON knows."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _realism(drawn, domains, features, modality="oct"):
    """Kernel distance x1000 to real images of test patients, and the floor: training patients'."""
    real = getattr(domains, modality)
    described = {"drawn": features(drawn), "unseen": features(np.asarray(real.test.images))}
    every = len(real.train) // 500 + 1
    known, theirs = np.asarray(real.train.images)[::every], real.train.patients[::every]
    taken = getattr(domains, "dfe" if modality == "oct" else "oct").test.patients
    paired = list(taken) == list(real.test.patients)  # row by row the same eyes
    sides = *described.values(), taken, real.test.patients
    low, high = kernel_distance_interval(*sides, paired=paired)
    value = kernel_distance(*sides, paired=paired)
    floor = kernel_distance(features(known), described["unseen"], theirs, real.test.patients)
    return {"value": value, "low": low, "high": high, "floor": floor}


def _classes(filed, test, domains, classes, reader, seed):
    """AUROC of the photograph's class read off its scan; the readers on true scans; the ceiling."""
    if len(classes) < 2:
        return None
    oct = pictures(domains.oct.validation, domains.oct.test)
    oct.images = as_a_file(oct.images)
    dfe = pictures(domains.dfe.validation, domains.dfe.test)
    true = pictures(domains.oct.test)
    true.images = as_a_file(true.images)
    on_drawn, on_true = read_by_others(oct, [filed, true], classes, reader, seed=seed)
    (on_photographs,) = read_by_others(dfe, [test], classes, reader, seed=seed)
    found = {
        name: class_survives(part.labels, read, classes, part.patients, seed=seed)
        for name, part, read in [("translated", filed, on_drawn), ("true_oct", true, on_true),
                                 ("ceiling", test, on_photographs)]
    }  # fmt: skip
    return None if any(part["value"] is None for part in found.values()) else found


def _against_truth(drawn, where, domains, settings, seed):
    """Drusen in their place, on eyes that have some; SSIM and PSNR beside what they reward."""
    test = domains.dfe.test
    sick = [i for i, scan in enumerate(test.scans) if "/DRUSEN/" in scan.path][:MOST_EYES]
    true = pictures(domains.oct.test).images[where]
    found = {"lesions": None}
    if sick:
        scans = [test.scans[i] for i in sick]
        truths, um = truths_of(scans, settings.size, settings.framing)
        found["lesions"] = lesion_report(
            *(as_taken(as_a_file(part[sick], 0), scans, domains) for part in (drawn, true)),
            truths, test.patients[sick], um, seed=seed,
        )  # fmt: skip
    order = next(deals(test.patients, np.random.default_rng(seed), 1))
    mean = pictures(domains.oct.train).images.mean(0, keepdim=True).expand_as(true)
    found["pairs"] = {
        "translated": pair_scores(drawn, true), "shuffled": pair_scores(drawn[order], true),
        "other_eyes": pair_scores(true[order], true), "mean_scan": pair_scores(mean, true),
    }  # fmt: skip
    return found


def _stem(path: str) -> str:
    return path.rpartition("/")[2]


def table(report: dict) -> list[tuple[str, str, str, str]]:
    """Rows (score, translated, control, ceiling) of what ``measure_translation`` returned."""
    realism, classes, lesions = report["realism"], report["class"], report["lesions"]
    rows = [(
        "kernel distance x1000 to unseen real scans", between(realism, 0), "",
        f"{realism['floor']:.1f} real training scans",
    )]  # fmt: skip
    if classes:
        read = classes["translated"]
        rows.append((
            "AUROC of the class, read off the scan", between(read),
            f"{read['shuffled']:.2f} shuffled", f"{between(classes['ceiling'])} on photographs",
        ))  # fmt: skip
        rows.append(("  the same readers on true scans", between(classes["true_oct"]), "", ""))
    names = {
        "detected": "drusen found in their place",
        "false": "false drusen per scan",
        "position_um": "error of their place, um",
        "likeness": "RPE's rise, correlation",
        "thickness_um": "error of the thickness, um",
        "readable": "readable for the ruler",
    }
    for name, words in names.items() if lesions else ():
        digits = 0 if name.endswith("um") else 2
        dealt, ruler = (
            "-" if (value := lesions[who][name]["value"]) is None else f"{value:.{digits}f}"
            for who in ("shuffled", "ruler")
        )
        rows.append((
            words, between(lesions["translated"][name], digits),
            f"{dealt} shuffled", f"{ruler} ruler on true scans",
        ))  # fmt: skip
    if report["pairs"]:
        for name, words in (("ssim", "SSIM"), ("psnr", "PSNR, dB")):
            value = {who: "-" if found[name] is None else f"{found[name]:.2f}"
                     for who, found in report["pairs"].items()}  # fmt: skip
            rows.append((
                words, value["translated"], f"{value['shuffled']} shuffled, "
                f"{value['other_eyes']} another eye's true scan", f"{value['mean_scan']} mean scan",
            ))  # fmt: skip
    if report["cycle"]:
        cycle = report["cycle"]
        rows.append(("error of the cycle, grey levels", f"{cycle['plain']:.1f}", "",
                     f"{cycle['honest']:.1f} through a file"))  # fmt: skip
        back = report["back"]
        rows.append(("back: kernel distance of photographs", between(back, 0), "",
                     f"{back['floor']:.1f} real training photographs"))  # fmt: skip
    return rows


def print_table(report: dict) -> None:
    """The table as aligned text."""
    rows = [("", "translated", "control", "yardstick"), *table(report)]
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    print(f"{report['n']} photographs of {report['patients']} patients that taught nobody")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    if "reason" in report:
        print(f"The class was not read: {report['reason']}.")
