"""The verdict on a synthetic data set, by rules that anyone can read and disagree with."""

from helpers.measures.intervals import between

LARGE = 0.474  # |Cliff's delta| from which on Romano et al. 2006 speak of a large difference


def verdict(report: dict) -> list[dict]:
    """One line per question: {"question", "answer", "measured", "beside", "for"}.

    The rules are simple and stand here, so that a reader can disagree with them: an interval is
    compared with its yardstick, and what was not measured says so and never counts as good.
    """
    return [
        _useful(report["usefulness"]),
        _near(report["kernel_distance"], report["scale"]),
        _complete(report["coverage"]),
        _alike(report["anatomy"], "Is the anatomy right?"),
        _alike(report["texture"], "Is the grain of the picture right?"),
        _copied(report["memorisation"]),
        _told_apart(report["reading"]),
    ]  # fmt: skip


def _line(question, who, answer, measured="", beside=""):
    return {"question": question, "for": who, "answer": answer, "measured": measured,
            "beside": beside}  # fmt: skip


def _missing(question, who, part):
    return _line(question, who, "not measured", beside=part.get("reason", ""))


def _useful(part):
    question, who = "Can a classifier learn the disease from it?", "everyone"
    if part["auroc"] is None or part["auroc"].get("value") is None:
        return _missing(question, who, part)
    real, made = part["arms"]["real"]["auroc"], part["auroc"]
    shuffled = part["differences"]["synthetic - shuffled_labels"]["low"] or 0
    if made["low"] is None:
        answer = "uncertain: too few patients"
    elif min(made["low"] - 0.5, shuffled) <= 0:
        answer = "not shown: chance is not excluded"
    elif made["low"] >= real["value"] - 0.05:
        answer = "yes, about as well as from real scans"
    else:
        answer = "yes, but less may be learned than from real scans"
    if part["contrast"]["kind"] == "real":
        answer += "; but see the contrast"
    return _line(question, who, answer, f"AUROC {between(made)} trained on synthetic",
                 f"{between(real)} trained on real; same unseen patients")  # fmt: skip


def _near(part, scale):
    question, who = "Does it look alike to a network?", "reviewer"
    if part["value"] is None:
        return _missing(question, who, part)
    other = scale["other_class"] or {"name": "another class", "value": None}
    if part["value"] <= max(2 * part["floor"], part["floor"] + 1):
        answer = "yes, as alike as other patients"
    elif other["value"] is not None and part["value"] <= other["value"]:
        answer = f"nearly: nearer than real {other['name']}"
    elif part["value"] <= scale["blur"]:
        answer = "partly: nearer than blurred scans"
    else:
        answer = "no: farther than blurred scans"
    beside = f"floor {part['floor']:.1f}, blurred {scale['blur']:.0f}"
    if other["value"] is not None:
        beside += f", {other['name']} {other['value']:.0f}"
    return _line(question, who, answer, f"kernel distance {between(part, 0)}", beside)


def _complete(part):
    question, who = "Are all kinds of scans there?", "reviewer"
    if part["value"] is None:
        return _missing(question, who, part)
    value, floor = part["value"]["coverage"], part["floor"]["coverage"]
    answer = "yes" if value >= 0.9 * floor else "partly" if value >= 0.5 * floor else "no"
    return _line(question, who, answer, f"coverage {value:.2f}, precision "
                 f"{part['value']['precision']:.2f}", f"floor {floor:.2f} and "
                 f"{part['floor']['precision']:.2f}, at {part['n']} a side")  # fmt: skip


def _alike(part, question):
    who = "ophthalmologist"
    if part["measures"] is None:
        return _missing(question, who, part)
    known = {n: m for n, m in part["measures"].items() if m["effect"] is not None}
    if not known:
        return _missing(question, who, {"reason": "no measure is defined on both sides"})
    if part["usable"]["synthetic"] < part["usable"]["test"] / 2:
        return _line(question, who, "no: most of it cannot be read as a retina",
                     f"{100 * part['usable']['synthetic']:.0f} % readable for the ruler",
                     f"{100 * part['usable']['test']:.0f} % of real scans")  # fmt: skip
    off = sorted(
        (n for n, m in known.items() if abs(m["effect"]) > LARGE and _apart(m)),
        key=lambda n: -abs(known[n]["effect"]),
    )
    half = len(off) <= len(known) / 2
    answer = "no large shift was found" if not off else "partly" if half else "no"
    beside = "; ".join(f"{n.replace('_', ' ')} {known[n]['effect']:+.2f}" for n in off[:3])
    measured = f"{len(off)} of {len(known)} measures shifted by a delta above {LARGE}"
    return _line(question, who, answer, measured, f"largest: {beside}" if off else "")


def _apart(measure):
    return measure["low"] is None or measure["low"] > 0 or measure["high"] < 0


def _copied(part):
    question, who = "Are patients copied?", "privacy officer"
    if part["copied_share"] is None:
        return _missing(question, who, part)
    excess = part["excess"]
    chance = excess["low"] == 0
    answer = "not found: no more than chance" if chance else "yes: look at the closest pairs"
    share = f"{100 * part['copied_share']:.1f} % nearer to a training scan than the threshold"
    beside = f"{100 * part['expected_share']:.1f} % expected of scans that are no copies"
    beside += f"; up to {100 * excess['high']:.1f} % copies are not excluded"
    return _line(question, who, answer, share, beside)


def _told_apart(part):
    question, who = "Can a reader tell?", "ophthalmologist"
    humans = [r for r in (part["readers"] or {}).values() if r["kind"] == "human"]
    if not humans:
        return _missing(question, who, part)
    shares = ", ".join(between(reader["accuracy"]) for reader in humans)
    return _line(question, who, f"{len(humans)} reader(s)", f"accuracy {shares}",
                 "0.50 is guessing")  # fmt: skip
