"""Which folder names the class, which the person, which the eye and the visit.

Every folder below the source is first looked at by itself (``kind``); what no word tells is decided
by the level it is on, over all files. A person is one patient whatever lies below: eyes, visits,
volumes. Where it is not certain that two scans are of two persons, they are taken for one.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

from helpers.data.manifest import EYES
from helpers.data.scan import (
    CONDITIONS,
    OCT2017_NAME,
    ODIR_NAME,
    STAGE,
    class_of_folder,
    condition,
    is_condition,
    shown,
    some,
    stem_of,
)

SIDE_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")
# folders that sort files and name neither a class nor a person
BINS = {
    "oct", "octs", "bscan", "bscans", "image", "images", "img", "imgs", "picture", "pictures",
    "data", "dataset", "raw", "scan", "scans", "png", "jpg", "jpeg", "tif", "tiff", "export",
    "exports", "spectralis", "heidelberg", "cirrus", "zeiss", "topcon", "optovue", "nidek",
    "fundus", "dfe", "cfp", "photograph", "photographs", "photos", "macula", "original",
    "originals", "tiffs", "8bittiffs",
}  # fmt: skip
VOLUME = re.compile(r"(vol|scan|frame|series|stack|cube|slice|img|run|\d+$)", re.IGNORECASE)
PERSON = re.compile(r"(p|pat|patient|subj|subject|sub|id|case|person)[\s_-]*\d+$", re.IGNORECASE)
GROUP = re.compile(
    r"(batch|part|site|cent(er|re)|clinic|hospital|cohort|fold|group|disk|set)[\s_-]*\w{0,3}$", re.I
)
YEAR = r"(?:19|20)\d\d"
MONTH, DAY = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
DATE = re.compile(
    rf"(?<!\d)(?:{YEAR}([-_.]?){MONTH}\1{DAY}|{DAY}([-_.]){MONTH}\2{YEAR}|{YEAR}-{MONTH})(?!\d)"
)
VISIT = re.compile(
    r"(visit|baseline|bl|follow[\s_-]?up|fu|session|ses|exam|month|week|year|timepoint)"
    r"[\s_-]*\d*$", re.IGNORECASE,
)  # fmt: skip
VISIT_CODE = re.compile(r"[vmwyt]\d{1,3}$", re.IGNORECASE)  # V1, M12: of a visit, or of a person
EYE_WORDS = {word: EYES[word] for word in ("od", "os", "re", "le", "right", "left")}
PERSON_WORD = re.compile(
    r"(?:^|[\s_.-])((?:patient|pat|subject|subj|sub|person|proband|case|id)[\s_-]?\w*?\d+"
    r"|p\d+(?=[\s_.-]))", re.IGNORECASE,
)  # fmt: skip
NOBODY = {*SIDE_FOLDERS, *BINS, *EYE_WORDS, "l", "r"}  # words in names that are no person
CLASS_NAME = re.compile(r"^(?P<label>[A-Za-z]+)[-_](?P<patient>[A-Za-z0-9]+)[-_]\d+$")
WORDS = re.compile(r"[\s_.-]+")
SURE_PERSON = re.compile(
    r"(p[\s_-]*\d{2,}|(pat|patient|subj|subject|sub|person)[\s_-]*\d+)$", re.IGNORECASE
)
FEW = 10  # names of folders that may be classes though none is known


@dataclass(frozen=True)
class Place:
    """What a file's path says: ``patient`` is "" where nobody knows; ``label`` is None where the
    file lies outside of every class."""

    label: str | None
    patient: str
    eye: str | None


@cache
def kind(name: str) -> str:
    """What a folder is by its name alone: "side", "bin", "class", "eye", "visit", "code" (a visit's
    or a person's) or "" (unknown)."""
    lower = name.strip().lower()
    words = [word for word in WORDS.split(lower) if word]
    if lower in SIDE_FOLDERS:
        return "side"
    if words and all(word in BINS for word in words):
        return "bin"
    if class_of_folder(name)[0]:
        return "class"
    if (
        len(bare := [word for word in words if word not in ("eye", "eyes")]) == 1
        and bare[0] in EYES
    ):
        return "eye"
    if VISIT.match(lower) or DATE.fullmatch(lower):
        return "visit"
    return "code" if VISIT_CODE.match(lower) else ""


def read_layout(files, own: str, modality: str, known=None):
    """Where ``files``, tuples of the parts of a path, lie: of each a Place; {role: what says it};
    doubts.

    ``own`` is the name of the source itself, ``known`` {file: label} where a list tells the class.
    """
    files = [tuple(part.strip() for part in file) for file in files]
    known = {tuple(p.strip() for p in file): label for file, label in (known or {}).items()}
    layout, doubts = {}, []
    labels, rests = _classes(files, own, known, layout, doubts)
    patients, visits = _people(labels, rests, layout, doubts)
    patients = _from_names(files, patients, modality, layout)
    if dated := sorted({visit for name, visit in zip(patients, visits) if visit and not name}):
        patients = [name or visit for name, visit in zip(patients, visits)]
        doubts.append(f"{some(dated)}: visits, and nothing names a person; each is taken for one")
    spelling, folded = {"": ""}, {}
    for name in dict.fromkeys(patients):
        tidy = unicodedata.normalize("NFC", shown(name))
        spelling[name] = folded.setdefault(tidy.casefold(), tidy)
    places = [
        Place(label and shown(label), spelling[patient], _eye(file))
        for file, label, patient in zip(files, labels, patients)
    ]
    if count := sum(place.eye is not None for place in places):
        layout["eye"] = f"{count} of {len(files)} by OD/OS, L/R, left/right in the path"
    visits = {part for file in files for part in file[:-1] if kind(part) == "visit"}
    if visits:
        layout["visit"] = f"folders {some(visits)}"
    return places, layout, doubts


def with_pattern(files, places, pattern: str):
    """Places whose patient is what a regular expression finds in the path, "" where nothing.
    ValueError naming OCT_PATIENT if it is none, or finds nobody."""
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise ValueError(f"OCT_PATIENT={pattern!r} is no regular expression: {error}") from None
    found = []
    for file, place in zip(files, places):
        match = search("/".join(file))
        groups = match.groupdict() if match else {}
        name = groups.get("patient") or (match[1 if match.re.groups else 0] if match else "")
        found.append(replace(place, patient=shown(name or "")))
    if not any(place.patient for place in found):
        raise ValueError(
            f"OCT_PATIENT={pattern!r} finds nothing in any path below the source, such as "
            f"{shown('/'.join(files[0]))}"
        )
    return found


# ---------------------------------------------------------------- classes


def _classes(files, own, known, layout, doubts):
    """The label of each file, and the folders that are left to name a person: (above the class,
    below it), unknown ones and visits."""
    at = [_last(file[:-1], "class") for file in files]
    by_stem = _labels_in_names(files)
    if any(k is not None for k in at):
        return _by_known_names(files, at, by_stem, known, layout, doubts)
    level, why = _class_level(files)
    several = level is not None and len({p for f in files for p in _telling(f)[level:][:1]}) > 1
    labels, rests, outside = [], [], 0
    for file in files:
        parts = _telling(file)
        if file in known:
            labels.append(known[file])
            rests.append(([], []))
        elif file in by_stem:
            labels.append(by_stem[file])
            rests.append(([], parts))
        elif level is not None and level < len(parts):
            labels.append(parts[level])
            rests.append((parts[:level], parts[level + 1 :]))
        else:
            labels.append(None if several else own)
            rests.append(([], parts))
            outside += several
    if outside:
        doubts.append(f"{outside} images lie outside of every class folder")
    names = sorted({label for label in labels if label})
    if any(file in known for file in files):
        layout["class"] = f"images.csv says it ({some(names)})"
    elif level is not None and len(by_stem) < len(files):
        layout["class"] = f"{why} ({some(names)})"
        numbers = [name for name in names if name.isdecimal()]
        if numbers:
            doubts.append(f"class folders that look like numbers: {some(numbers)}")
        if others := [n for n in names if not is_condition(n) and n not in numbers]:
            doubts.append(f"class names never seen: {some(others)}")
    elif by_stem:
        layout["class"] = f"the file names ({some(names)})"
    else:
        layout["class"] = f"the source's own name ({shown(own)})"
    return [label if label is None else condition(label) for label in labels], rests


def _by_known_names(files, at, by_stem, known, layout, doubts):
    depths = Counter(
        (k, file[:k] if k else ()) for file, k in zip(files, at) if k is not None
    )  # where classes lie, and below which folder
    variants = {}  # AMD1, AMD2, ...: two of one class are persons
    for file, k in zip(files, at):
        if k is not None:
            label, number = class_of_folder(file[k])
            if number:
                variants.setdefault(label, set()).add(file[k].lower())
    numbered = {label for label, those in variants.items() if len(those) > 1}
    labels, rests, strangers, outside, twice = [], [], Counter(), 0, set()
    for file, k in zip(files, at):
        folders = file[:-1]
        beside = k is None and _beside_classes(folders, depths)
        if file in known:
            labels.append(known[file])
            rests.append(([], []))
        elif k is not None:
            label, number = class_of_folder(file[k])
            labels.append(label)
            above = _of_kind(folders[:k], ("", "visit", "code"))
            below = _of_kind(folders[k + 1 :], ("", "visit", "code"))
            if number and label in numbered and not below:
                below = [file[k]]
            rests.append((above, below))
            if _two_classes(folders):
                twice.add("/".join(folders))
        elif file in by_stem:
            labels.append(by_stem[file])
            parts = _telling(file)
            rests.append(([], parts))
        elif beside is not False:
            labels.append(condition(folders[beside]))
            strangers[labels[-1]] += 1
            rests.append(
                tuple([p for p in part if kind(p) in ("", "visit", "code")]
                      for part in (folders[:beside], folders[beside + 1 :]))
            )  # fmt: skip
        else:
            labels.append(None)
            rests.append(([], []))
            outside += 1
    names = sorted({label for label in labels if label})
    levels = sorted({k + 1 for k, _ in depths})
    layout["class"] = f"folder level {', '.join(map(str, levels))} ({some(names)})"
    if strangers:
        doubts.append(f"class names never seen: {some(sorted(strangers))}")
    if outside:
        doubts.append(f"{outside} images lie outside of every class folder")
    if twice:
        doubts.append(f"two class names in one path, the last counts: {some(sorted(twice))}")
    return labels, rests


@cache
def _two_classes(folders) -> bool:
    return len({class_of_folder(p)[0] for p in folders if kind(p) == "class"}) > 1


def _beside_classes(folders, depths):
    """At which level of its path a folder lies beside class folders, or False."""
    for (k, above), _ in depths.most_common():
        if len(folders) > k and folders[:k] == above and kind(folders[k]) in ("", "code"):
            return k
    return False


def _class_level(files):
    """Which of the telling folders is the class though no name is known, and the words for it;
    None if none is."""
    columns = {}
    for file in files:
        for k, part in enumerate(_telling(file)):
            columns.setdefault(k, Counter())[part] += 1
    plain = []
    for k, names in columns.items():
        if all(STAGE.search(name) for name in names) and len(names) > 1:
            return k, f"folder level {k + 1}, by words as stage or grade"
        if not any(re.search(r"\d", name) for name in names):
            plain.append(k)
    several = []
    for k in plain:
        names, total = columns[k], sum(columns[k].values())
        people = len(names) > 3 and k + 1 not in columns and total < 8 * len(names)
        if 1 < len(names) <= max(FEW, total // 20) and not people:
            several.append(k)
    if several:
        return several[0], f"folder level {several[0] + 1}, a few names that part the files"
    alone = [k for k in plain if len(columns[k]) == 1]
    if alone:
        return alone[0], f"folder level {alone[0] + 1}"
    numbers = sorted(columns.get(0, ()))
    if 1 < len(numbers) <= 5 and numbers in (
        [str(n) for n in range(len(numbers))],
        [str(n) for n in range(1, len(numbers) + 1)],
    ):
        return 0, "folder level 1, numbers"
    return None, ""


def _labels_in_names(files):
    """{file: class} by OCT2017's rule, and by the first word where nearly every name has one."""
    found = {}
    for file in files:
        stem = stem_of(file[-1])
        if named := OCT2017_NAME.match(stem):
            found[file] = named["label"].upper()
    flat = [file for file in files if not _telling(file) and not _last(file[:-1], "class")]
    first = {}
    for file in flat:
        word = re.split(r"[\d\s_.-]", stem_of(file[-1]).strip(), maxsplit=1)[0]
        if word.upper() in CONDITIONS or (len(word) > 1 and is_condition(word)):
            first[file] = word.upper()
    if len(first) >= 0.9 * len(flat) and len(set(first.values())) > 1:
        found = first | found
    return found


# ---------------------------------------------------------------- people


def _people(labels, rests, layout, doubts):
    """The person that the folders of each file name, "" where they name none; its visit if so."""
    unknown = [[p for p in below if kind(p) != "visit"] for _, below in rests]
    columns, homes = {}, {}
    for parts in unknown:
        for k, part in enumerate(parts):
            columns.setdefault(k, Counter())[part] += 1
            homes.setdefault(part, set()).add(tuple(parts[:k]))
    level = _person_level(unknown, columns)
    above = _people_above(rests, labels)
    sorted_by = _sorted_by(unknown)
    codes = [(parts[k], later[0]) for parts in unknown if parts
             if (k := min(level, len(parts) - 1)) + 1 < len(parts) and kind(parts[k]) == "code"
             if (later := [p for p in parts[k + 1 :] if kind(p) != "code"])
             and len(homes[later[0]]) > 1]  # fmt: skip
    # visits are few and persons many: V1/P001; volunteers have volumes: V01/vol1, V02/vol1
    by_visit = len({below for _, below in codes}) > len({code for code, _ in codes})
    names, visits, where, joined = [], [], Counter(), set()
    for (_, below), parts, upper in zip(rests, unknown, above):
        k = min(level, len(parts) - 1)
        later = [p for p in parts[k + 1 :] if kind(p) != "code"] if parts else []
        visits.append("")
        if by_visit and later and kind(parts[k]) == "code" and len(homes[later[0]]) > 1:
            names.append(later[0])  # V1/P001 and V2/P001
        elif parts and parts[0] in sorted_by and (person := next(filter(_is_person, parts), "")):
            names.append(person)  # 2019/P001 and 2020/P001
            joined.add(parts[0])
        elif parts:
            names.append(parts[k])  # P001 of two batches may be one person
            joined |= {parts[0]} if k else set()
        else:
            names.append(upper)
            visits[-1] = "/".join(below)
        where["below" if parts else "above"] += bool(names[-1])
    names = _without_eyes_and_dates(names)
    if joined:
        doubts.append(
            f"{some(joined)}: taken for groups of persons, and the folders in them for persons"
        )
    if count := sum(map(bool, names)):
        sides = " and ".join(f"{side} the class" for side in where if where[side])
        those = some({name for name in names if name})
        layout["person"] = f"a folder {sides}, {count} of {len(names)} files ({those})"
    return names, visits


def _is_person(name: str) -> bool:
    return bool(SURE_PERSON.match(_bare(name, EYE_WORDS, False)))


def _sorted_by(unknown) -> set[str]:
    """Folders above those that are called like persons, of which there are more: years, stages."""
    below = [parts for parts in unknown if len(parts) > 1 and not _is_person(parts[0])]
    tops = {parts[0] for parts in below}
    people = {part for parts in below for part in parts if _is_person(part)}
    return tops if len(people) > len(tops) else set()


def _person_level(unknown, columns) -> int:
    """The topmost level of unknown folders names the person, but for groups: of sites, batches."""
    level = 0
    while level + 1 in columns:
        upper, lower = columns[level], columns[level + 1]
        named = all(GROUP.match(name) for name in upper) or (
            all(re.fullmatch(YEAR, name) or STAGE.search(name) for name in upper)
            and len(lower) > len(upper)
        )
        words = len(upper) < 3 and not any(re.search(r"\d", name) for name in upper)
        homes = {}
        for parts in unknown:
            if len(parts) > level + 1:
                homes.setdefault(parts[level + 1], set()).add(parts[level])
        shared = any(len(those) > 1 for those in homes.values())
        volumes = any(VOLUME.match(name) for name in lower)
        if not (named or (words and not shared and not volumes and len(lower) > 2)):
            break
        level += 1
    return level


def _people_above(rests, labels):
    """Persons in the folders above the class: names with a number, or names of which nearly each
    has one class only. Else "", for data sets and clinics lie there too."""
    tops = []
    for upper, _ in rests:
        parts = [p for p in upper if kind(p) in ("", "code") and not GROUP.match(p)]
        tops.append(parts)
    plain = {}
    for parts, label in zip(tops, labels):
        if parts and not any(re.search(r"\d", p) for p in parts):
            plain.setdefault(parts[0], set()).add(label)
    few = sum(map(len, plain.values())) <= 1.5 * len(plain)
    with_number = {p for parts in tops for p in parts if re.search(r"\d", p)}
    if len(with_number) == 1 and not PERSON.match(min(with_number)):
        with_number = set()  # the folder of a data set: OCT2017
    found = []
    for parts in tops:
        numbered = [p for p in parts if p in with_number]
        numbered = list(filter(_is_person, numbered)) or numbered  # P001 of 2019/P001
        people = len(plain) > 2 and few and parts[:1]
        found.append("/".join(numbered) or ("/".join(people) if people else ""))
    return found


def _without_eyes_and_dates(names):
    """P001_OD, P001 2019-03-01 and P001_V2 are one person, P001; of codes only where enough
    persons remain, for V2 may be the name of a study."""
    sure = {name: _bare(name, EYE_WORDS, False) for name in set(names)}
    bold = {name: _bare(name, EYES, True) for name in set(names)}
    chosen = bold if len(set(bold.values())) > 2 else sure
    return [chosen[name] for name in names]


def _bare(name: str, eyes, codes: bool) -> str:
    words = re.split(r"([\s_.-]+)", DATE.sub("@", name))
    has_eye = any(word.lower() in eyes for word in words)

    def tells_no_person(k: int, word: str) -> bool:
        eye = word.lower() in eyes or (has_eye and word.lower() == "eye")
        code = codes and k and VISIT_CODE.fullmatch(word)
        return bool(word == "@" or eye or VISIT.fullmatch(word) or code)

    kept = [word for k, word in enumerate(words) if k % 2 or not tells_no_person(k, word)]
    bare = re.sub(r"([\s_.-])[\s_.-]+", r"\1", "".join(kept)).strip(" _.-")
    return bare if re.search(r"[^\W_]", bare) and kind(bare) != "bin" else name


def _from_names(files, patients, modality, layout):
    """Patients that file names tell: by the rules of OCT2017 and ODIR always; else, of those that
    no folder names, by what stands before OD/OS, L/R or a date, or by a word as patient12."""
    rule = OCT2017_NAME if modality == "oct" else ODIR_NAME
    found, guessed, ruled = list(patients), {}, None
    by_rule = [named and named["patient"] for named in (rule.match(stem_of(f[-1])) for f in files)]
    folders = {name for name, by in zip(patients, by_rule) if by and name}
    # P01/1_left.jpg, P01/2_left.jpg: fewer numbers than folders of persons count pictures or visits
    count = len(folders) >= len(set(filter(None, by_rule))) or any(map(_is_person, folders))
    for k, file in enumerate(files):
        stem = stem_of(file[-1])
        if by_rule[k] and by_rule[k].lower() not in NOBODY and not (found[k] and count):
            found[k], ruled = by_rule[k], k
        elif not found[k] and (name := _person_in_name(stem)):
            guessed[k] = name
    if ruled is not None:
        stem = stem_of(files[ruled][-1])
        layout["person"] = f"in the file names ({shown(found[ruled])} in {shown(stem)})"
    unknown = sum(not name for name in found)
    if len(set(guessed.values())) > 1 and 2 * len(guessed) >= unknown:
        for k, name in guessed.items():
            found[k] = name
        k, name = next(iter(guessed.items()))
        layout["person"] = f"in the file names ({shown(name)} in {shown(stem_of(files[k][-1]))})"
    elif unknown:
        homes = {}  # P001.png below OD and below OS, or of two visits
        for k, file in enumerate(files):
            where = tuple(p for p in file[:-1] if kind(p) in ("eye", "visit", "code"))
            stem = stem_of(file[-1])
            if not found[k] and where and re.search(r"[^\W\d_]", stem):
                homes.setdefault(stem, {})[where] = None
                guessed[k] = stem
        if len(homes) > 2 and sum(len(those) > 1 for those in homes.values()) > len(homes) / 2:
            for k, stem in guessed.items():
                found[k] = stem
            layout["person"] = "the file names, which return in the folders of eyes or visits"
    return found


@cache
def _person_in_name(stem: str) -> str:
    named = CLASS_NAME.match(stem)
    if named and is_condition(named["label"]) and named["patient"].lower() not in NOBODY:
        return named["patient"]  # but not the train of OCT-C8's amd_train_1001
    dated = DATE.sub("@", stem.strip())
    words = [word for word in WORDS.split(dated) if word]
    for k, word in enumerate(words):
        if word == "@" or (k and word.lower() in EYES) or word.lower() in EYE_WORDS:
            before = [w for w in words[:k] if w.lower() not in BINS and not is_condition(w)]
            if before:
                return "_".join(before)
            if not k and len(words) > 2 and word != "@":
                return words[1]  # OD_P001_1
    found = PERSON_WORD.search(stem)
    return found[1] if found else ""


# ---------------------------------------------------------------- words


def _telling(file) -> list[str]:
    """The folders of a file that may name a class or a person."""
    return _of_kind(file[:-1], ("", "code"))


@cache
def _of_kind(folders, kinds) -> list[str]:
    return [part for part in folders if kind(part) in kinds]


@cache
def _last(folders, what: str) -> int | None:
    return next((k for k in reversed(range(len(folders))) if kind(folders[k]) == what), None)


def _eye(file) -> str | None:
    """OD or OS, by the nearest folder that says it, else by the file's name, else by a word in a
    folder's."""
    folders = file[:-1]
    if (k := _last(folders, "eye")) is not None:
        return next(EYES[word] for word in WORDS.split(folders[k].lower()) if word in EYES)
    return _eye_in(stem_of(file[-1])) or next(filter(None, map(_eye_in, folders[::-1])), None)


@cache
def _eye_in(name: str) -> str | None:
    words = WORDS.split(name)
    said = {EYE_WORDS[w.lower()] for w in words if w.lower() in EYE_WORDS}
    said = said or {EYES[w.lower()] for w in words[1:] if w in ("L", "R")}
    return said.pop() if len(said) == 1 else None
