"""Are synthetic scans useful? Classifiers trained on real, synthetic and both, on real patients.

``fit`` is an argument, so that this measure knows no method. It is called as
``fit(images, labels, classes, patients=..., seed=...)`` and returns what makes probabilities
(N, K) of images; ``functools.partial(helpers.classifiers.fit.fit, whole=True)``, say.
"""

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from tqdm.auto import tqdm

from helpers.data.split import Labelled
from helpers.measures.learning_curve import nested, worth
from helpers.measures.scores import auroc_difference, choose_threshold, positive_class, scores

CONTRASTS = {
    "synthetic": "Every class was made by a generator of its own, by the same recipe. The "
    "generators' traces differ too: a classifier that learns them instead of the disease is at a "
    "loss on real scans, so they make this AUROC too low, and too high by chance only.",
    "conditional": "One generator made all classes, so its traces are the same in all of them and "
    "cannot stand for the disease.",
    "real": "Only {positive} is synthetic; the other classes are real scans on both sides. The "
    "classifier can learn what looks synthetic instead of what looks diseased. On real scans that "
    "is worth nothing: AUROC near 0.5, near 0, or by coincidence near 1. Read it beside "
    "look_alone, which is what the look of synthetic scans reaches by itself.",
}


COMPONENTS = (4, 8, 12, 16, 20, 24, 32)
ARMS = ("real", "real, centred", "synthetic", "synthetic, centred", "both", "real_to_synthetic")
ADVICE = ("centre your classifier's features on your own scans, mean and spread (no labels "
          "needed), if about as many are ill among them as in training")  # fmt: skip


def scans(images, labels, patients=None, source="real") -> Labelled:
    """Scans from arrays or lists; one label for all may be a string. Without patients every image
    is a patient of its own, called after `source`, which is right for synthetic ones."""
    labels = np.full(len(images), labels) if isinstance(labels, str) else np.asarray(labels, str)
    if patients is None:
        patients = [f"{source} {i}" for i in range(len(images))]
    if not len(images) == len(labels) == len(patients):
        raise ValueError(f"{len(images)} images, {len(labels)} labels, {len(patients)} patients")
    return Labelled(np.asarray(images), labels, np.asarray(patients, str))


def joined(*parts: Labelled) -> Labelled:
    return Labelled(*(np.concatenate([getattr(p, n) for p in parts])
                   for n in ("images", "labels", "patients")))  # fmt: skip


def centred(features, of=None) -> np.ndarray:
    """Features (N, d) about the mean, in units of the spread, of ``of`` (M, d), or their own.

    What sets all scans of a source apart, its device or its generator, is gone then, and no label
    is asked for. So is a part of the disease where the share of the ill differs between sources.
    Of a linear head the mean moves the threshold alone; what changes its ranks is the spread.
    """
    of = features if of is None else of
    return (features - of.mean(0)) / (of.std(0) + 1e-6)


def components(own):
    """The first principal components of ``own`` (K, d), one matrix (d, k) for each number k of
    COMPONENTS: ``features @ matrix`` is what is seen of features in these alone.

    ``own`` are scans of the clinic that is asked about, centred; no label of them is asked for.
    What another device or a generator draws otherwise lies mostly where these hardly vary, and a
    head that is free to look there takes it for the disease (subspaces of the domain asked about:
    Fernando et al., ICCV 2013). How many are right is not known without labels, so average what
    heads of all these numbers say.
    """
    axes = np.linalg.svd(own, full_matrices=False)[2]
    for count in sorted({min(count, len(axes)) for count in COMPONENTS}):
        yield axes[:count].T


def as_if_of(taught: Labelled, asked: Labelled | None) -> Labelled | None:
    """``asked`` about its own mean and in units of its own spread, in those of ``taught``.

    Both hold features (N, d). A head that standardises what it learns from, as linear heads here
    do, answers as it would had it learned from centred features, so none is fitted again (Li et
    al., "Adaptive Batch Normalization", Pattern Recognition 2018, do it to every layer).
    """
    if asked is None:
        return None
    features = centred(asked.images) * taught.images.std(0) + taught.images.mean(0)
    return Labelled(features, asked.labels, asked.patients)


def usefulness_report(
    real, synthetic, test, classes, fit, *, contrast, validation=None, positive=None,
    sizes=(10, 25, 50, 100), seeds=(0, 1, 2), resamples=1000, seed=0, progress=False,
):  # fmt: skip
    """report.json's `usefulness`: what classifiers learn from synthetic scans, in plain numbers.

    real, test, validation: Scans of different real patients; the generator may have seen `real`
    only, and nothing was chosen on `test`. synthetic: Scans of the generator alone. Images are
    all of one size (`texture.at_size`). contrast: one of CONTRASTS, where the classes beside
    `positive` come from; "real" takes those of `real`. Thresholds are chosen on `validation`, else
    0.5.

    `auroc` is the headline: trained on synthetic, tested on real (TSTR). `arms` are trained on
    real, synthetic and both, and on real and tested on synthetic; `curve` the first and third at
    `sizes` real scans; `worth` the number of real scans that are worth the synthetic ones;
    `controls` what a source artefact or chance alone reach. Every classifier is trained once for
    each of `seeds`. Where a class has no scans, auroc is None and `reason` says so.

    Of features (N, d) there are two more arms, "synthetic, centred" and its control "real,
    centred": the same classifiers, asked about the test scans `as_if_of` those that taught them;
    `centring` says what that means. Intervals take the test scans' mean and spread as known. Not
    with contrast "real", where the classes that teach are of two sources.
    """
    if contrast not in CONTRASTS:
        raise ValueError(f"contrast={contrast!r}: there are {', '.join(CONTRASTS)}")
    classes, positive = list(classes), positive_class(classes, positive)
    if contrast == "real" and positive is None:
        raise ValueError("contrast='real' with several classes: name the synthetic one, positive=")
    shapes = {np.shape(part.images)[1:] for part in (real, synthetic, test, validation) if part}
    if len(shapes) > 1:
        raise ValueError(f"Images of different sizes {sorted(shapes)}: use texture.at_size first")
    generated = synthetic
    if contrast == "real":
        generated = synthetic.take(synthetic.labels == positive)
        synthetic = joined(generated, real.take(real.labels != positive))
    parts = {"real training": real, "real test": test, "synthetic": synthetic}
    for name, part in parts.items():
        if missing := [c for c in classes if c not in part.labels]:
            reason = f"no {name} scans of {', '.join(missing)}"
            return {"auroc": None, "reason": reason, "warnings": [f"usefulness: {reason}"]}
    shared = set(test.patients) & {*real.patients, *(validation.patients if validation else ())}
    if shared:
        raise ValueError(f"{len(shared)} test patient(s) are among the others: {min(shared)}")

    smallest = min(int((real.labels == c).sum()) for c in classes)
    steps = [n for n in sorted(sizes) if len(classes) <= n <= smallest * len(classes)]
    steps = [n for n in steps if n < len(real)] + [None]
    bar = tqdm(total=len(seeds) * (2 * len(steps) + 2) + 3, desc="classifiers",
               disable=not progress)  # fmt: skip
    measured = dict(classes=classes, positive=positive, resamples=resamples, seed=seed)

    def trained(part, number, labels=None):
        model = fit(part.images, part.labels if labels is None else labels, classes,
                    patients=part.patients, seed=number)  # fmt: skip
        bar.update()
        return model

    def tested(models, on=test, chooses=validation):
        """Probabilities (S, N, K) and everything that follows from them."""
        stack, cuts = np.stack([m(on.images) for m in models]), []
        for model in models if chooses and positive is not None else ():
            score = model(chooses.images)[:, classes.index(positive)]
            cuts.append(choose_threshold(chooses.labels == positive, score))
        report = scores(on.labels, stack, patients=on.patients, threshold=cuts or 0.5, **measured)
        return stack, report | {"thresholds": cuts or [0.5]}

    def difference(a, b):
        return auroc_difference(test.labels, a, b, patients=test.patients, **measured)

    stacks, arms, curve = [], {}, []
    for n in steps:
        subsets = [nested(real, n, number) for number in seeds]
        models = [trained(part, number) for part, number in zip(subsets, seeds)]
        alone, alone_report = tested(models)
        mixed, mixed_report = tested(
            [trained(joined(part, generated), number) for part, number in zip(subsets, seeds)]
        )
        stacks.append(alone)
        curve.append({
            "n": len(subsets[0]),
            "patients": float(np.mean([len(set(part.patients)) for part in subsets])),
            "real": alone_report["auroc"], "both": mixed_report["auroc"],
            "both - real": difference(mixed, alone),
        })  # fmt: skip
    arms["real"], arms["both"] = alone_report, mixed_report  # the last ones: of all real scans
    unseen = generated
    if contrast == "real":  # its own real scans are the model's training scans
        unseen = joined(generated, test.take(test.labels != positive))
    stack, arms["real_to_synthetic"] = tested(models, unseen)
    said = np.array(classes)[stack.argmax(-1)]
    arms["real_to_synthetic"]["recognised"] = {
        c: float((said[:, unseen.labels == c] == c).mean()) for c in set(generated.labels.tolist())
    }
    heads = [trained(synthetic, number) for number in seeds]
    synthetic_stack, arms["synthetic"] = tested(heads)
    differences = {"synthetic - real": difference(synthetic_stack, alone),
                   "both - real": difference(mixed, alone)}  # fmt: skip
    if np.ndim(test.images) == 2 and contrast != "real":
        for name, part, taught in (("synthetic", synthetic, heads), ("real", real, models)):
            where = as_if_of(part, test), as_if_of(part, validation)
            moved, arms[f"{name}, centred"] = tested(taught, *where)
            differences[f"{name}, centred - real"] = difference(moved, alone)
            if name == "synthetic":
                differences["synthetic, centred - synthetic"] = difference(moved, synthetic_stack)
    mixing = np.random.default_rng(seed)
    shuffled, shuffled_report = tested(
        [trained(synthetic, number, mixing.permutation(synthetic.labels)) for number in seeds]
    )
    source = source_control(real, generated, test, fit, measured, bar)
    bar.close()
    report = {
        "auroc": arms["synthetic"]["auroc"],
        "positive": positive,
        "arms": {name: arms[name] for name in ARMS if name in arms},
        "differences": {
            **differences, "synthetic - shuffled_labels": difference(synthetic_stack, shuffled)
        },
        "curve": curve,
        "worth": worth(test, stacks, [c["n"] for c in curve], synthetic_stack, len(generated),
                       measured, len(synthetic) - len(generated)),
        "contrast": {"kind": contrast, "classes": [c for c in classes if c != positive],
                     "what_it_can_fake": CONTRASTS[contrast].format(positive=positive)},
        "controls": {**source, "shuffled_labels": shuffled_report["auroc"]},
        "n": {"seeds": len(seeds)} | {
            name: {c: {"scans": int((p.labels == c).sum()),
                       "patients": len(set(p.patients[p.labels == c]))} for c in classes}
            for name, p in (*{**parts, "synthetic": generated}.items(),
                            ("validation", validation)) if p
        },
    }  # fmt: skip
    if "synthetic, centred" in arms:
        report["centring"] = what_centring_means(report["differences"])
    return report | {"warnings": _warnings(report)}


def what_centring_means(differences) -> str:
    """In words, for whoever trains on synthetic scans alone: whether to centre, and when."""
    gain = differences["synthetic, centred - synthetic"]
    if gain["low"] is None:
        return "too few patients to say whether centring helps"
    if gain["low"] <= 0:
        return "no gain by centring is shown" if gain["high"] >= 0 else "centring harms here"
    return ADVICE


def source_control(real, generated, test, fit, measured, bar):
    """What a classifier of source, not of disease, can do: `source_auroc` and `look_alone`.

    It learns to tell real from synthetic scans of one class. `source_auroc` is measured on held
    out patients: 0.5 means that nothing gives the synthetic ones away. `look_alone` takes "looks
    synthetic" for a diagnosis of that class on the real test scans: how far the generator's
    traces get without any disease. A TSTR that is not above it is no evidence of anything.
    """
    positive = measured["positive"] or generated.labels[0]
    settings = dict(resamples=measured["resamples"], seed=measured["seed"])
    mine, made = (part.take(part.labels == positive) for part in (real, generated))
    rng = np.random.default_rng(measured["seed"])
    made = made.take(rng.permutation(len(made))[: len(mine)])
    pair, sources = joined(mine, made), ["real", "synthetic"]
    pair = Labelled(pair.images, np.repeat(sources, [len(mine), len(made)]), pair.patients)
    folds = min(3, len(set(mine.patients)), len(made))
    if folds < 2:
        reason = f"fewer than two patients or synthetic scans of {positive}"
        nothing = {"value": None, "low": None, "high": None, "reason": reason}
        return {"source_auroc": nothing, "look_alone": nothing}
    held_out, look = np.zeros((len(pair), 2)), 0
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=measured["seed"])
    for train, held in split.split(pair.images, pair.labels, pair.patients):
        part = pair.take(train)
        model = fit(part.images, part.labels, sources, patients=part.patients,
                    seed=measured["seed"])  # fmt: skip
        held_out[held] = model(pair.images[held])
        look = look + model(test.images) / folds
        bar.update()
    told = scores(pair.labels, held_out, sources, pair.patients, "synthetic", **settings)
    as_disease = scores(np.where(test.labels == positive, positive, "rest"), look,
                        ["rest", positive], test.patients, positive, **settings)  # fmt: skip
    return {"source_auroc": told["auroc"] | {"class": str(positive)},
            "look_alone": as_disease["auroc"]}  # fmt: skip


def _warnings(report):
    notes = ["the generator saw all real training scans: also where few real scans and synthetic "
             "ones are used together, more real ones stand behind them"]  # fmt: skip
    for label, count in report["n"]["real test"].items():
        if count["patients"] < 10:
            wide = "no" if count["patients"] == 1 else "wide"
            notes.append(f"only {count['patients']} test patient(s) of {label}: {wide} intervals")
    for name, arm in report["arms"].items():
        if arm["auroc"]["low"] is not None and arm["auroc"]["low"] == arm["auroc"]["high"]:
            notes.append(f"{name}: every resample gives the same AUROC; the interval is too narrow")
    source, look = (report["controls"][name] for name in ("source_auroc", "look_alone"))
    if source["value"] is not None and source["value"] > 0.9:
        notes.append(
            f"synthetic {source['class']} scans are told from real ones with AUROC "
            f"{source['value']:.2f}: there are traces that a classifier can learn"
        )
    reached = report["auroc"]["value"], look["value"]
    if report["contrast"]["kind"] == "real" and None not in reached and reached[0] <= reached[1]:
        notes.append(
            "trained on synthetic scans is no better than the look of them alone: no evidence "
            "that they show the disease"
        )
    return notes
