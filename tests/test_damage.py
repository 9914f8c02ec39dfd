"""Every measure moves the way it has to when real scans are damaged, and otherwise stays."""

from types import SimpleNamespace

import numpy as np
import pytest

from helpers.data.scan import Scan
from helpers.data.simulated.simulate import make_eye
from helpers.data.split import Split
from helpers.evaluate import known_damage
from helpers.measures.features import JUDGE, Features

pytestmark = pytest.mark.slow


def eyes(condition, first, count, size=128):
    images = [
        make_eye(seed, condition, size=size, pictures=("oct",)).oct[None]
        for seed in range(first, first + count)
    ]
    scans = [Scan(f"{seed}", "oct", "simulated", condition, f"P{seed}") for seed in range(count)]
    return Split(np.stack(images), scans)


@pytest.fixture(scope="module")
def found():
    real = SimpleNamespace(training=eyes("DRUSEN", 0, 48), test=eyes("DRUSEN", 500, 24))
    real.test.scans = [Scan(s.path, "oct", "simulated", s.label, f"T{s.patient}")
                       for s in real.test.scans]  # fmt: skip
    other = SimpleNamespace(training=eyes("NORMAL", 1000, 24))
    return known_damage.responses(real, Features(name=JUDGE), other=other, progress=False)


@pytest.mark.parametrize(
    "measure, kind, way",
    [(m, kind, way) for m, kinds in known_damage.EXPECTED.items() for kind, way in kinds.items()],
)
def test_measures_notice_damage(found, measure, kind, way):
    before, after = found["undamaged"][measure], found[kind][measure]
    assert way * (after - before) > 0, (before, after)


def test_undamaged_scans_are_close_and_not_called_copies(found):
    assert found["undamaged"]["kernel distance"] < found["blurred"]["kernel distance"] / 3
    assert found["undamaged"]["copies, %"] < 12 < found["a fifth copied"]["copies, %"]


def test_figure_shows_a_failed_expectation_in_red(found):
    wrong = {name: dict(values) for name, values in found.items()}
    wrong["noise"]["precision"] = 1.1
    for values, red in ((found, 0), (wrong, 1)):
        texts = known_damage.response_figure(values).axes[0].texts
        assert sum(text.get_color() == "#c0202a" for text in texts) == red
