"""Figures and films of what directions do: they show what they were given."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from helpers.gan.styles.directions import FAMILIES, POSITIONS, WORDS, Directions
from helpers.gan.styles.figures import (
    effect_curves,
    effects_matrix,
    film,
    mode_shares,
    rows,
    scatter,
)

MEASURES = list(FAMILIES)


@pytest.fixture(autouse=True)
def nothing_stays_open():
    yield
    assert plt.get_fignums() == []


@pytest.fixture
def directions():
    """Each measure's direction changes it by 2 SD, a component thickness by -3; tilt is refused."""
    names = [*MEASURES, "component 1"]
    size = len(names)
    made = Directions(names, *np.zeros((3, size, 4)), np.zeros(size), np.zeros(4))
    for k, name in enumerate(names):
        own = name if name in FAMILIES else "retinal_thickness"
        in_sd = dict.fromkeys(MEASURES, 0.1 * k) | {own: 2.0 if name in FAMILIES else -3.0}
        made.report[name] = {"measure": own, "in_sd": in_sd, "accepted": name != "tilt"}
    return made


def texts(axes):
    return [text.get_text() for text in axes]


def test_the_matrix_has_what_was_found_and_stars_what_is_accepted(directions, tmp_path):
    path = tmp_path / "new" / "matrix.png"
    figure = effects_matrix(directions, caption="what changes", path=path)
    axes, bar = figure.axes
    assert path.stat().st_size > 1000 and figure.get_supxlabel() == "what changes"
    heads = [" ".join(text.split()) for text in texts(axes.get_xticklabels())]
    assert heads == [WORDS[name] for name in MEASURES]
    names = [f"* {WORDS.get(n, n)}" if n != "tilt" else "tilt" for n in directions.names]
    assert texts(axes.get_yticklabels()) == names
    table = np.array(axes.images[0].get_array())
    assert table.shape == (7, 6)
    assert (np.diag(table) == 2).all() and table[6, 3] == -3 and table[2, 0] == 0.2
    assert axes.images[0].get_clim() == (-3, 3)
    assert texts(axes.texts)[:7] == ["+2.0", "+0.0", "+0.0", "+0.0", "+0.0", "+0.0", "+0.1"]
    frames = [(patch.get_x() + 0.48, patch.get_y() + 0.46) for patch in axes.patches]
    np.testing.assert_allclose(frames, [*((k, k) for k in range(6)), (3, 6)])
    assert "-2 to +2 SD of W" in bar.get_ylabel()


def test_what_was_never_read_is_said(directions):
    directions.report["tilt"]["in_sd"]["fovea_column"] = np.nan
    axes = effects_matrix(directions).axes[0]
    assert [t.get_position() for t in axes.texts if t.get_text() == "unread"] == [(4, 5)]
    assert axes.images[0].get_clim() == (-3, 3)


def test_curves_show_the_mean_and_the_ruler_s_error(directions):
    found = np.zeros((7, len(POSITIONS), 9, 6))
    for k in range(6):
        found[k, :, :, k] = 10 * k + np.array(POSITIONS)[:, None] + np.linspace(-1, 1, 9)
    found[0, 0, 8] = np.nan
    errors = dict(zip(MEASURES, np.arange(1, 7) / 4))
    figure = effect_curves(found, directions, errors)
    assert [cell.get_title() for cell in figure.axes] == [WORDS[name] for name in MEASURES]
    for k, cell in enumerate(figure.axes):
        line = cell.lines[0]
        assert list(line.get_xdata()) == list(POSITIONS)
        assert line.get_ydata()[1:] == pytest.approx(10 * k + np.array(POSITIONS[1:]))
        band = cell.patches[0].get_extents().transformed(cell.transData.inverted())
        first = line.get_ydata()[0]
        error = errors[MEASURES[k]]
        assert (band.y0, band.y1) == pytest.approx((first - error, first + error))
        middle = cell.collections[0].get_paths()[0].get_extents()
        assert middle.y1 == pytest.approx(10 * k + 2.5)
    assert [cell.get_xlabel() for cell in figure.axes] == [""] * 3 + ["SD of W"] * 3
    colours = [cell.lines[0].get_color() for cell in figure.axes]
    assert len(set(colours[:5])) == 1 and colours[5] != colours[0]  # tilt is refused


def test_shares_stand_side_by_side_with_their_intervals():
    first = {"share": [0.6, 0.4], "low": [0.5, 0.3], "high": [0.7, 0.5]}
    second = {"share": [0.9, 0.1], "low": [0.8, 0.0], "high": [1.0, 0.2]}
    axes = mode_shares({"patients": first, "synthetic": second}).axes[0]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([60, 40, 90, 10])
    edges = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert edges[0][1] < edges[2][0] < edges[2][1] < edges[1][0]  # none hides another
    ends = [line for cap in axes.containers if hasattr(cap, "has_yerr") for line in cap[2]]
    ends = [segment[:, 1].tolist() for line in ends for segment in line.get_segments()]
    assert ends == [pytest.approx(end) for end in ([50, 70], [30, 50], [80, 100], [0, 20])]
    assert texts(axes.get_legend().get_texts()) == ["patients", "synthetic"]
    assert texts(axes.get_xticklabels()) == ["mode 1", "mode 2"] and "%" in axes.get_ylabel()


def test_a_map_shows_every_point_and_label():
    sides = {"train": np.random.default_rng(0).normal(size=(5, 2)), "test": np.ones((3, 2)),
             "synthetic": np.zeros((4, 2))}  # fmt: skip
    axes = scatter(sides, {"A": (1, 2)}, axis="PC").axes[0]
    assert [len(points.get_offsets()) for points in axes.collections] == [5, 3, 4]
    assert (axes.collections[0].get_offsets() == sides["train"]).all()
    assert texts(axes.texts) == ["A"] and axes.texts[0].get_position() == (1, 2)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("PC 1", "PC 2")
    assert texts(axes.get_legend().get_texts()) == list(sides)


def test_rows_of_pictures_have_labels_and_blanks():
    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16), "u1")
    figure = rows([pictures[:3], [None, pictures[3]]], ["up", "down"], ["one", "two", "three"])
    cells = np.array(figure.axes).reshape(2, 3)
    assert [cell.get_ylabel() for cell in cells[:, 0]] == ["up", "down"]
    assert [cell.get_title() for cell in cells[0]] == ["one", "two", "three"]
    shown = [[round(255 * c.images[0].get_array()[0, 0]) if c.images else None for c in line]
             for line in cells]  # fmt: skip
    assert shown == [[0, 1, 2], [None, 3, None]]


@pytest.mark.parametrize("count", [2, 4])
def test_a_film_goes_there_and_back_for_ever(tmp_path, count):
    scans = (40 * np.arange(count)[:, None, None, None] * np.ones((1, 8, 8))).astype(np.uint8)
    path = film(tmp_path / "new" / "film.gif", scans, seconds=2.0)
    assert isinstance(path, Path) and path.read_bytes()[:3] == b"GIF"
    with Image.open(path) as picture:
        assert picture.size == (8, 8) and picture.info["loop"] == 0
        assert picture.info["duration"] == 2000 // count
        levels = []
        for k in range(picture.n_frames):
            picture.seek(k)
            levels.append(np.asarray(picture.convert("L"))[0, 0])
    there = [40 * k for k in range(count)]
    assert levels == there + there[-2:0:-1]


def test_a_film_of_floats_has_their_grey_levels(tmp_path):
    scans = np.stack([np.full((1, 8, 8), value, np.float32) for value in (-1.0, 0.0, 3.0)])
    with Image.open(film(tmp_path / "film.gif", scans)) as picture:
        levels = []
        for k in range(picture.n_frames):
            picture.seek(k)
            levels.append(int(np.asarray(picture.convert("L"))[0, 0]))
    assert levels == [0, 128, 255, 128]
