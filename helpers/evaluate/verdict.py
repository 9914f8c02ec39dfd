"""The verdict on a synthetic data set, by rules that anyone can read and disagree with."""

import textwrap

from helpers.evaluate.outside import judge_outside
from helpers.measures.intervals import between

LARGE = 0.474  # |Cliff's delta| from which on Romano et al. 2006 speak of a large difference
WORST_FIRST = ("yes", "perhaps", "uncertain", "not measured", "not")  # answers on privacy begin so


# The scorecard that researchers of the FDA proposed (Zamzmi et al., Commun Eng 2025;4:130)
CRITERIA = {
    "congruence": "like scans of patients",
    "coverage": "all kinds of them",
    "constraint": "possible as anatomy",
    "completeness": "all that the task needs",
    "compliance": "privacy and standards",
    "comprehension": "how it was made can be told",
    "consistency": "as good for everyone",
}


def verdict(report: dict) -> list[dict]:
    """One line per question: {"criterion", "question", "answer", "measured", "beside", "for"}.

    The order is that of CRITERIA. The rules are simple and stand here, so that a reader can
    disagree with them: an interval is compared with its yardstick, and what was not measured says
    so and never counts as good.
    """
    lines = {
        "congruence": [
            _near(report["kernel_distance"], report["scale"]),
            _alike(report["texture"], "Is the grain of the picture right?"),
            _told_apart(report["reading"]),
        ],
        "coverage": [_complete(report["coverage"])],
        "constraint": [_alike(report["anatomy"], "Is the anatomy right?")],
        "completeness": [_useful(report["usefulness"])],
        "compliance": [
            _of_each_class(rule, report["memorisation"]) for rule in (_copied, _drawn_again, _trace)
        ],  # fmt: skip
        "comprehension": [_known(report.get("run"), report.get("synthetic", {}))],
        "consistency": [_even(report["consistency"])],
    }
    if "outside" in report:  # of who has scans of another clinic
        lines["consistency"].append(judge_outside(report["outside"]))
    return [{"criterion": name, **line} for name in CRITERIA for line in lines[name]]


def print_verdict(report: dict) -> None:
    """The questions and answers, by criterion, each above its number and yardstick."""
    for line in verdict(report):
        print(f"{line['criterion']:<15}{line['question']:<48}{line['answer']}")
        for text in filter(None, (line["measured"], line["beside"])):
            print(textwrap.fill(text, 100, initial_indent=" " * 15, subsequent_indent=" " * 17))


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
    measured = f"AUROC {between(made)} trained on synthetic"
    beside = f"{between(real)} trained on real; same unseen patients"
    if "centring" in part:
        centred = part["arms"]["synthetic, centred"]["auroc"]
        measured += f"; {between(centred)} with features centred"
        beside += f". Centring: {part['centring']}"
    return _line(question, who, answer, measured, beside)


def _near(part, scale):
    question, who = "Does it look alike to a network?", "reviewer"
    if part["value"] is None:
        return _missing(question, who, part)
    other = scale["other_class"] or {"name": "another class", "value": None}
    if part["value"] <= max(2 * part["floor"], part["floor"] + 1):
        answer = "yes, as alike as other patients"
    elif other["value"] is not None and part["value"] <= other["value"]:
        answer = f"partly: nearer than real {other['name']}"
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


def _of_each_class(rule, part):
    """A question of privacy, asked of every class that was drawn; the worst answer counts, and the
    yardstick beside it is that class's."""
    line = rule(part)
    for other in part.get("other_classes", ()):
        more, name = rule(other), other["class"]
        if more["measured"]:
            known = [line["measured"]] if line["measured"] else []
            line["measured"] = "; ".join([*known, f"{name}: {more['measured']}"])
        if _how_bad(more["answer"]) < _how_bad(line["answer"]):
            line |= {"answer": more["answer"], "beside": f"{name}: {more['beside']}"}
    return line


def _how_bad(answer) -> int:
    """Its place in WORST_FIRST."""
    return next(k for k, word in enumerate(WORST_FIRST) if answer.startswith(word))


def _copied(part):
    question, who = "Are patients copied?", "privacy officer"
    if part["copied_share"] is None:
        return _missing(question, who, part)
    excess = part["excess"]
    chance = excess["low"] == 0
    answer = "not found: no more than chance" if chance else "yes: look at the closest pairs"
    share = f"{100 * part['copied_share']:.1f} % nearer to a training scan than the threshold"
    beside = f"{100 * part['expected_share']:.1f} % expected of scans that are no copies"
    beside += f"; copies among up to {100 * excess['high']:.1f} % of the scans are not excluded"
    if part["missed"]:
        worst = max(part["missed"], key=lambda name: part["missed"][name]["value"])
        missed = 100 * part["missed"][worst]["value"]
        lost = f"{missed:.0f} % are missed where most are ({worst})" if missed else "none is missed"
        beside += f"; of copies planted by us {lost}"
    return _line(question, who, answer, share, beside)


def _drawn_again(part):
    question, who = "Is the whole volume of a patient drawn again?", "privacy officer"
    found = part.get("pixels", {}).get("volumes")
    if not found or found["trained"] is None:
        reason = part.get("reason", "no training patient has several scans")
        return _missing(question, who, {"reason": reason})
    ours, others, most = found["trained"], found["unseen"], found["trained"]["largest"]
    rate = others["stand_out"] / others["patients"] if others else 0
    answer = "not found" if not ours["stand_out"] else "perhaps: others stand out as often"
    if ours["stand_out"] / ours["patients"] > rate:
        answer = "yes: look at these patients"
    beside = f"{100 * most['expected']:.1f} % expected; "
    beside += (f"of patients nobody trained on {others['stand_out']} of {others['patients']} stand "
               "out" if others else "no unseen patient to compare with")  # fmt: skip
    return _line(question, who, answer, f"{ours['stand_out']} of {ours['patients']} stand out; at "
                 f"most {100 * most['share']:.1f} % of scans lie near one", beside)  # fmt: skip


def _trace(part):
    question, who = "Does it show who was trained on?", "privacy officer"
    found = part.get("pixels", {}).get("membership")
    if found is None:
        return _missing(question, who, {"reason": part.get("reason", "no unseen scans")})
    excess = found["excess"]
    if excess["low"] is None:
        answer = "uncertain: too few patients"
    else:
        answer = "yes" if excess["low"] > 0 else "not shown: no more than in the control"
    return _line(question, who, answer, f"AUROC of the attack minus control {between(excess)}",
                 f"0.00; attack {between(found['attack'])}, the same on {found['control_is']} "
                 f"{between(found['control'])}")  # fmt: skip


def _known(run, made):
    question, who = "Is it known how the scans were made?", "reviewer"
    if run is None and made.get("marked") is None:
        return _missing(question, who, {"reason": "nothing is known of the scans"})
    if run is None:
        share = f"{100 * made['marked']:.0f} % of the files say that they are synthetic"
        answer = "only what the files say" if made["marked"] else "no: a folder of pictures"
        return _line(question, who, answer, share, "100 %")
    wanted = {"weights": "weights", "class": "class", "step": "training step",
              "data_manifest": "training data"}  # fmt: skip
    known = [text for name, text in wanted.items() if run.get(name) is not None]
    answer = "yes" if len(known) == len(wanted) else "partly" if known else "no"
    return _line(question, who, answer, f"{len(known)} of {len(wanted)}: {', '.join(known)}",
                 "all of " + ", ".join(wanted.values()))  # fmt: skip


def _even(part):
    question, who = "Is any patient left out?", "ophthalmologist"
    if part["left_out"] is None:
        return _missing(question, who, part)
    left_out, floor, patients = part["left_out"], part["floor"], part["patients"]
    answer = "no" if left_out <= floor else "some" if left_out <= patients / 2 else "yes, most"
    measured = f"{left_out} of {patients} patients: no scan of theirs is reached"
    beside = f"{floor} by as many real training scans; devices and sites not compared"
    return _line(question, who, answer, measured, beside)


def _told_apart(part):
    question, who = "Can a reader tell?", "ophthalmologist"
    humans = [r for r in (part["readers"] or {}).values() if r["kind"] == "human"]
    if not humans:
        return _missing(question, who, part)
    shares = ", ".join(between(reader["accuracy"]) for reader in humans)
    fours = ", ".join(between(reader["quartets"]) for reader in humans if "quartets" in reader)
    measured = f"accuracy {shares}" + (f"; real one of four found {fours}" if fours else "")
    beside = "0.50 is guessing" + (", of four 0.25" if fours else "")
    return _line(question, who, f"{len(humans)} reader(s)", measured, beside)
