"""Figures show what they claim: one grey scale, the numbers of the report, the order of time."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_hex
from PIL import Image
from torchvision.utils import save_image

from helpers import plots
from helpers.data.simulated.simulate import make_eye
from helpers.data.sources import take_in

REPORT = {
    "kernel_distance": {
        "value": 206.1, "low": 170.0, "high": 251.0, "floor": -0.3, "n_synthetic": 64,
        "n_real": 30, "patients": 4, "to_training": 190.0,
    },
    "scale": {"other_class": {"name": "NORMAL", "value": 39.0}, "blur": 325.0, "noise": 691.0},
    "resolution": {"size": 128, "value": None, "reason": "the scans are not larger than 128 px"},
}  # fmt: skip


def scans(n, level, size=16):
    return np.full((n, 1, size, size), level, np.uint8)


def drawn(figure):
    """Everything imshow was given in a figure, as grey levels."""
    return [255 * a.images[0].get_array() for a in figure.axes if a.images]


def test_pixels_agree_for_bytes_and_floats():
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    for same in (images / 127.5 - 1, torch.from_numpy(images).float() / 127.5 - 1):
        np.testing.assert_allclose(plots.pixels(same), images[:, 0], atol=1e-3)
    assert plots.pixels(torch.zeros(2, 3, 8, 9)).shape == (2, 8, 9, 3)


def test_gallery_shares_one_grey_scale_and_quotes_the_report(tmp_path):
    path = tmp_path / "deep" / "gallery.png"
    figure = plots.gallery(
        scans(3, 50), scans(9, 200), rows=2, columns=6, source="Clinic", report=REPORT, path=path
    )
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert {image.get_clim() for image in images} == {(0, 1)}
    levels = [float(picture.mean()) for picture in drawn(figure)]
    assert levels == pytest.approx([50] * 3 + [200] * 9)
    text = figure.get_supxlabel()
    assert "Clinic" in text and "64 synthetic" in text and "206" in text.replace("\n", " ")
    assert path.stat().st_size > 1000 and not pyplot.get_fignums()


def test_grid_leaves_spare_cells_blank():
    figure = plots.grid(scans(5, 9), titles="abcde", columns=4)
    assert len(drawn(figure)) == 5 and len(figure.axes) == 8
    assert figure.axes[4].get_title() == "e"


def test_curves_mark_the_best_validation():
    metrics = []
    for k in range(1, 11):
        record = {"step": k, "images": 100 * k, "seconds": 30.0 * k}
        metrics.append(record | {"loss_generator": 1.0 + k, "loss_discriminator": 1.0})
        metrics.append(record | {"kernel_distance": 100.0 + (k - 7) ** 2})
    figure = plots.curves(metrics, floor=3.6, caption="A caption.")
    left, right = figure.axes[:2]
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["discriminator", "generator"]
    assert "best 100" in [t.get_text() for t in right.texts]
    assert right.lines[1].get_xdata()[0] == 700
    (minutes,) = left.child_axes
    figure.draw_without_rendering()
    assert minutes.get_xlim()[1] == pytest.approx(left.get_xlim()[1] / 100 * 0.5)
    for few in ([], metrics[:1], metrics[:2]):  # a run that was stopped at once
        plots.curves(few).draw_without_rendering()


def test_distance_bars_rank_and_leave_out_what_was_not_measured():
    figure = plots.distance_bars(REPORT)
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [
        "white noise", "real, blurred", "synthetic", "real NORMAL", "real training scans (floor)",
    ]  # fmt: skip
    colours = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colours[2] == plots.ACCENT and colours.count(plots.ACCENT) == 1
    assert "-0.3" in [t.get_text() for t in axes.texts] and axes.get_xscale() == "log"


def test_power_spectrum_finds_the_axis_and_the_frequency():
    stripes = 127.5 + 100 * np.sin(2 * np.pi * np.arange(64) / 8)
    image = np.repeat(stripes[:, None], 64, 1).astype(np.uint8)[None, None]  # vary with depth
    frequency, power = plots.power_spectrum(image, axis=1)
    assert frequency[np.argmax(power)] == pytest.approx(1 / 8)
    assert plots.power_spectrum(image, axis=2)[1].max() < 1e-6 * power.max()
    assert len(plots.power_spectra(image, image).axes) == 2
    white = np.random.default_rng(0).normal(128, 20, (50, 1, 64, 64)).clip(0, 255)
    power = plots.power_spectrum(white.astype(np.uint8), 1)[1]
    assert power.mean() == pytest.approx(400, rel=0.05)  # the variance, by Parseval


def test_filmstrip_shows_first_and_last_previews(tmp_path):
    with pytest.raises(FileNotFoundError, match="no previews"):
        plots.filmstrip(tmp_path)
    for step in range(0, 100, 10):
        save_image(torch.full((16, 1, 16, 16), step / 100), tmp_path / f"{step:08d}.png")
    figure = plots.filmstrip(tmp_path, rows=3, columns=2)
    assert [axes.get_ylabel() for axes in figure.axes] == ["step 0", "step 40", "step 90"]
    pictures = drawn(figure)
    assert pictures[0].shape == (20, 38)  # two pictures of 16 px with lines of 2 px
    assert pictures[2].max() == pytest.approx(0.9 * 255, abs=1)


def test_an_intake_is_shown_one_picture_of_each_kind(tmp_path):
    eye = make_eye(3, "DRUSEN", size=256)
    home = tmp_path / "DRUSEN" / "patient1"
    home.mkdir(parents=True)
    for name, image in (("a", eye.oct), ("b", 255 - eye.oct), ("c", 255 - eye.oct),
                        ("d", eye.dfe), ("a_mask", (eye.oct > 99).astype(np.uint8))):  # fmt: skip
        Image.fromarray(image).save(home / f"{name}.png")
    (home / "e.png").write_text("no picture")
    figure = plots.show_intake(take_in(tmp_path), columns=3)
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes]
    told = ("DRUSEN: 5 scans of 1 patients", "left out: a mask beside a scan", "black on white",
            "photograph", "cannot be read")  # fmt: skip
    assert len([title for title in titles if title]) == len(told)
    assert all(any(words in title for title in titles) for words in told)
    assert len(drawn(figure)) == 4  # of the one that is no picture there is only the title
