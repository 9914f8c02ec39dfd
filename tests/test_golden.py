"""The pixels that caches hold: they may change only together with a version.

A cache is found by VERSION of ``simulate``, ``pixels`` and ``shape``. Whoever changes what one
of them draws, and leaves its version as it is, trains on pictures of the old code without a word.
golden.json has small digests of pictures, and the versions they belong to. After a change that was
meant: a new VERSION, then ``python tests/test_golden.py`` writes the file anew.

A digest is the mean and the standard deviation of the grey levels in 8 x 8 blocks. A pixel that
rounds the other way on another CPU does not show in it, other noise does.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.data import bscan, photograph, pixels, shape
from helpers.data.photograph import clean_dfe
from helpers.data.simulated import simulate

FILE = Path(__file__).with_name("golden.json")
MODULES = {"simulate": simulate, "cleaning": pixels, "shape": shape}
TOLERANCE = 0.3  # grey levels
SHAPE_TOLERANCE = 0.01  # of the size of each number of a shape, or of 1


def digest(picture) -> list:
    """Mean and standard deviation in 8 x 8 blocks, of grey levels or of all channels, [128]."""
    levels = np.asarray(picture, float)
    levels = levels.mean(2) if levels.ndim == 3 else levels
    blocks = [block for rows in np.array_split(levels, 8) for block in np.array_split(rows, 8, 1)]
    found = [block.mean() for block in blocks] + [block.std() for block in blocks]
    return np.round(found, 2).tolist()


def eye(condition):
    return simulate.make_eye(11, condition, size=256)


def simulated():
    """An eye of each condition, both pictures."""
    eyes = {condition: eye(condition) for condition in simulate.CONDITIONS}
    return {f"{condition} {kind}": digest(getattr(made, kind)) for condition, made in eyes.items()
            for kind in ("oct", "dfe")}  # fmt: skip


def cleaned():
    """One scan, with a border that has to be found, in each framing; and its photograph."""
    made = eye("DRUSEN")
    bordered = np.pad(made.oct, ((0, 0), (40, 0)), constant_values=255)
    found = {framing: digest(bscan.clean_oct(bordered, size=128, framing=framing))
             for framing in bscan.OCT_FRAMINGS}  # fmt: skip
    found |= {framing: digest(clean_dfe(made.dfe, size=128, framing=framing)[0])
              for framing in photograph.DFE_FRAMINGS}  # fmt: skip
    return found


def aligned():
    """An eye of each condition: its crop, and its shape."""
    found = {}
    for condition in simulate.CONDITIONS:
        crop, values = shape.align(eye(condition).oct, 128, 256)
        found[condition] = digest(crop)
        found[f"{condition} shape"] = [float(f"{value:.5g}") for value in values]
    return found


PARTS = {"simulate": simulated, "cleaning": cleaned, "shape": aligned}


def differences(expected: dict, found: dict) -> list[str]:
    """Names of what differs by more than rounding."""
    assert expected.keys() == found.keys()
    wrong = []
    for name, values in expected.items():
        values, others = np.array(values), np.array(found[name])
        allowed = TOLERANCE
        if name.endswith(" shape"):
            allowed = SHAPE_TOLERANCE * np.maximum(1, np.abs(values))
        if values.shape != others.shape or (np.abs(values - others) > allowed).any():
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("part", PARTS)
def test_pixels_change_only_with_a_version(part):
    golden = json.loads(FILE.read_text())
    version = MODULES[part].VERSION
    written = golden["versions"][part]
    assert version == written, (
        f"helpers/{part}.py has VERSION {version}, golden.json was written with {written}: "
        "python tests/test_golden.py"
    )
    changed = differences(golden[part], PARTS[part]())
    assert not changed, (
        f"other pixels of {', '.join(changed)}, and old caches would still be used: give "
        f"helpers/{part}.py (or what made its input) a new VERSION, then python "
        "tests/test_golden.py"
    )


def test_a_digest_sees_other_noise_and_a_shift_but_no_rounding():
    scan = eye("NORMAL").oct
    rng = np.random.default_rng(0)
    rounded = scan.astype(int) + rng.choice([-1, 0, 1], scan.shape, p=[0.005, 0.99, 0.005])
    expected = {"scan": digest(scan)}
    assert differences(expected, {"scan": digest(rounded)}) == []
    changes = {
        "a little more noise": scan + rng.normal(0, 4, scan.shape),
        "one row lower": np.roll(scan, 1, 0),
        "brighter by one level": scan.astype(int) + 1,
        "smoother": (scan.astype(int) + np.roll(scan, 1, 1)) / 2,
    }
    for name, changed in changes.items():
        assert differences(expected, {"scan": digest(changed)}) == ["scan"], name


def write():
    versions = {name: module.VERSION for name, module in MODULES.items()}
    golden = {"versions": versions, **{name: make() for name, make in PARTS.items()}}
    lines = [f' "versions": {json.dumps(versions)}']
    for part in PARTS:
        rows = [f'  "{name}": {json.dumps(v)}' for name, v in golden[part].items()]
        lines.append(f' "{part}": {{\n' + ",\n".join(rows) + "\n }")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write()
