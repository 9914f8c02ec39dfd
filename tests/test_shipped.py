"""What ships draws the disease: a label that is empty would fail here."""

import numpy as np
import pytest

from helpers import config
from helpers.data.simulated import simulate
from helpers.gan.recipes import with_recipe
from helpers.gan.sampling import classes_of, sample
from helpers.gan.start import SHIPPED, start_from
from helpers.gan.train import build_training
from helpers.generate import load_generator
from helpers.measures import layers
from helpers.measures.features import Features
from helpers.measures.probe import probe_auroc

EACH = 48
UNSEEN = 2_000_000  # seeds of eyes that nothing was trained on
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def drawn():
    generator = load_generator("simulated")
    return {
        name: ((sample(generator, EACH, seed=5, class_name=name) + 1) * 127.5)
        .round()
        .byte()
        .numpy()
        for name in classes_of(generator)
    }


@pytest.fixture(scope="module")
def real():
    return {
        name: np.stack([
            simulate.make_eye(UNSEEN + k, name, size=256, pictures=("oct",)).oct[None]
            for k in range(EACH)
        ])
        for name in simulate.CONDITIONS
    }  # fmt: skip


def test_scans_of_the_shipped_weights_teach_every_class(drawn, real):
    assert set(drawn) == set(real)
    features = Features(name="tf_efficientnet_lite2")  # training and its checkpoints saw Lite0
    made, seen = ({name: features(scans) for name, scans in side.items()} for side in (drawn, real))

    def auroc(*names):
        sides = []
        for side in (made, seen):
            rows = np.concatenate([side[name] for name in names])
            sides += [rows, np.repeat(names, EACH)]
        return probe_auroc(*sides)

    assert auroc("NORMAL", "DRUSEN") > 0.9
    assert auroc(*sorted(drawn)) > 0.9


def test_there_are_drusen_where_they_are_asked_for_and_nowhere_else(drawn, real):
    def drusen(scans):
        values = layers.flat_without_drusen(layers.measure(scans))
        return values["drusen_count"], values["drusen_height"]

    counts, heights = drusen(drawn["DRUSEN"])
    true_counts, true_heights = drusen(real["DRUSEN"])
    assert np.isfinite(counts).mean() > 0.9  # the ruler can read them
    assert 0.6 < np.nanmean(counts) / np.nanmean(true_counts) < 1.5
    assert 0.6 < np.nanmean(heights) / np.nanmean(true_heights) < 1.5
    assert np.nanmean(drusen(drawn["NORMAL"])[0]) < 0.3 * np.nanmean(counts)


def test_no_two_scans_are_one_picture(drawn):
    for scans in drawn.values():
        small = scans[:, 0, ::8, ::8].reshape(EACH, -1).astype(float)
        away = np.abs(small[:, None] - small[None]).mean(2)
        assert away[~np.eye(EACH, dtype=bool)].min() > 1.5  # grey levels


def test_what_ships_is_small_and_can_be_begun_from(tmp_path):
    files = [SHIPPED / "simulated.safetensors", SHIPPED / "discriminators/simulated.safetensors"]
    assert sum(file.stat().st_size for file in files) < 15e6

    class Thumbnails:
        def __call__(self, images, progress=False):
            return np.asarray(images, np.float32)[:, 0, ::16, ::16].reshape(len(images), -1)

    arguments = ["--preset=tiny", "--size=256", "--n_simulated=6", f"--runs={tmp_path}"]
    settings = config.resolve(config.TrainGan, arguments, {})
    settings.width = None  # of the recipe, not of tiny
    settings.start = "simulated"
    method, *_ = build_training(with_recipe(settings), Thumbnails(), progress=False)
    assert "knows" in start_from(method, "simulated")
