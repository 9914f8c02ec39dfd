"""Reading files, filling padding, framing scans, and finding the macula."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from helpers.data.bscan import clean_oct, flatten_rpe, retina_thickness, rpe_rows
from helpers.data.padding import fill_background, padding_mask
from helpers.data.photograph import clean_dfe
from helpers.data.pixels import read_image
from helpers.data.simulated.simulate import make_eye

HEIGHT, WIDTH = 240, 320


def scan(seed=0, tilt=0.0):
    """A B-scan in plain strokes: speckle, a retina of two bright layers; and its RPE's rows."""
    random = np.random.default_rng(seed)
    x = np.linspace(-1, 1, WIDTH)
    rpe = 140 + tilt * x + 8 * x**2
    row = np.arange(HEIGHT)[:, None]
    grey = 25 + 70 * ((row > rpe - 55) & (row < rpe)) + 130 * (np.abs(row - rpe) < 5)
    grey = grey + 60 * (np.abs(row - rpe + 55) < 3) + 25 * (row >= rpe) * np.exp((rpe - row) / 30)
    speckle = ndimage.gaussian_filter(random.normal(0, 18, grey.shape), 0.7)
    return np.clip(grey + speckle, 0, 254).astype(np.uint8), rpe


def wedge(grey, kind):
    """The scan with padding put in, and where."""
    row, column = np.mgrid[: grey.shape[0], : grey.shape[1]]
    where = {
        "top": row < 40 - 0.12 * column,
        "bottom": row > HEIGHT - 0.1 * column,
        "both": (row < 30 - 0.1 * column) | (row > HEIGHT - 10 - 0.05 * column),
        "black frame": column < 22,
    }[kind]
    return np.where(where, 0 if kind == "black frame" else 255, grey).astype(np.uint8), where


@pytest.mark.parametrize("kind", ["top", "bottom", "both", "black frame"])
def test_padding_is_found_and_filled_with_background(kind):
    grey, _ = scan()
    padded, where = wedge(grey, kind)
    mask = padding_mask(padded)
    assert mask[where].mean() > 0.97  # the rest is thin enough to be mirrored
    assert mask[~where].mean() < 0.06
    filled = clean_oct(padded, size=HEIGHT).astype(float)
    truth = clean_oct(grey, size=HEIGHT).astype(float)
    inside = np.array(Image.fromarray(where).resize((HEIGHT, HEIGHT)))
    far = ~ndimage.binary_dilation(inside, iterations=8)
    far[:5] = far[-5:] = False  # where a wedge fades out, a sliver is mirrored
    assert np.abs(filled - truth)[far].max() <= 1  # nothing else was touched
    deep = ndimage.binary_erosion(inside, iterations=3)
    if kind != "black frame":  # there the frame hides retina too
        assert abs(filled[deep].mean() - truth[deep].mean()) < 4
        assert 0.7 < filled[deep].std() / truth[deep].std() < 1.4  # speckle, not a flat patch
        assert filled[inside].max() < truth[inside].max() + 25  # no bright seam
    else:
        assert 10 < filled[:60, :12].mean() < 40


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_wedge_of_a_simulated_scan(seed):
    eye = make_eye(seed, "DRUSEN", size=256, wedge=True)
    whole, wedge = make_eye(seed, "DRUSEN", size=256).oct.astype(float), eye.truth.wedge
    filled = clean_oct(eye.oct, size=256).astype(float)
    far = ~ndimage.binary_dilation(wedge, iterations=8)
    assert (filled != whole)[far].mean() < 0.005  # the rest is as it was
    edge = ndimage.binary_dilation(wedge, iterations=5) & ~ndimage.binary_erosion(wedge)
    for where in (wedge, edge):  # the hidden background and its speckle; no seam
        assert abs(filled[where].mean() - whole[where].mean()) < 4
        assert 0.75 < filled[where].std() / whole[where].std() < 1.3


def test_white_slivers_are_mirrored_so_that_layers_run_on():
    grey, _ = scan()
    padded = grey.copy()
    padded[:, -3:] = 255
    filled = clean_oct(padded, size=HEIGHT).astype(float)
    truth = clean_oct(grey, size=HEIGHT).astype(float)
    assert np.corrcoef(filled[:, -2:].mean(1), truth[:, -2:].mean(1))[0, 1] > 0.9
    assert np.abs(filled[:, :-8] - truth[:, :-8]).max() <= 1


def test_bright_tissue_at_the_border_is_no_padding():
    grey, rpe = scan(tilt=20)
    row = np.arange(HEIGHT)[:, None]
    grey[np.abs(row - rpe) < 6] = 255  # a saturated RPE from edge to edge, 5 % of the height
    assert not padding_mask(grey).any()


def test_a_grey_line_and_a_black_frame_under_a_wedge_are_mirrored():
    grey, _ = scan()
    truth = clean_oct(grey, size=HEIGHT).astype(float)
    line, frame = grey.copy(), grey.copy()
    line[:, -1] = np.maximum(line[:, -1], 112)
    frame[:, :4] = 2
    frame[:20] = 255
    for padded, end in ((line, np.s_[40:, -1]), (frame, np.s_[40:, 0])):
        filled = clean_oct(padded, size=HEIGHT).astype(float)[end]
        assert np.corrcoef(filled, truth[end])[0, 1] > 0.85
        assert abs(filled.mean() - truth[end].mean()) < 8


def test_a_dim_scan_that_fades_is_no_padding():
    grey, _ = scan()
    dim = np.clip(grey - 25.0, 0, None)  # below the retina little but noise is left
    dim[-60:] = np.random.default_rng(0).normal(6, 2, (60, WIDTH)).clip(0, 12)
    dim[:-60] = np.maximum(dim[:-60], 7)
    assert not padding_mask(dim.astype(np.uint8))[-60:].any()


def test_filling_is_the_same_every_time():
    padded, _ = wedge(scan()[0], "top")
    first = clean_oct(padded, size=128)
    assert np.array_equal(first, clean_oct(padded, size=128))
    assert first.dtype == np.uint8 and first.shape == (128, 128)


def test_a_scan_of_nothing_but_padding_raises():
    with pytest.raises(ValueError, match="padding"):
        clean_oct(np.full((64, 64), 255, np.uint8), size=64)
    scan, mask = np.full((64, 64), 30, np.uint8), np.zeros((64, 64), bool)
    mask[::4] = True  # somewhere in every cell
    with pytest.raises(ValueError, match="padding"):
        fill_background(scan, mask)


def test_rpe_is_found_and_flattened():
    grey, rpe = scan(tilt=25)
    assert np.abs(rpe_rows(grey) - rpe).mean() < 2
    flat = flatten_rpe(grey)
    brightest = ndimage.gaussian_filter(flat.astype(float), (2, 4)).argmax(0)
    assert np.abs(brightest - 0.65 * HEIGHT).mean() < 3
    assert np.abs(rpe - rpe.mean()).mean() > 8  # it was not level before


def test_framings():
    grey, _ = scan()
    for framing in ("stretch", "band"):
        assert clean_oct(grey, size=96, framing=framing).shape == (96, 96)
    with pytest.raises(ValueError, match="framing='squash': an OCT takes one of stretch, band"):
        clean_oct(grey, size=96, framing="squash")


def test_the_band_has_the_retina_at_one_place_and_size_whatever_the_device():
    """An eye scanned with twice the height a row: RPE and ILM lie in the same rows of the band."""
    grey, rpe = scan(tilt=25)
    flat = flatten_rpe(grey)
    assert retina_thickness(flat) == pytest.approx(55, rel=0.15)
    tall = np.pad(grey, ((HEIGHT // 2, HEIGHT // 2), (0, 0)), mode="reflect")
    for form in (grey, tall):
        framed = clean_oct(form, size=128, framing="band").astype(float)
        profile = ndimage.gaussian_filter1d(framed.mean(1), 1)
        assert abs(profile.argmax() - 128 * 2.25 / 3.75) < 4
        edge = int(np.argmax(profile > (profile[:20].mean() + profile.max()) / 3))
        assert abs(edge - 128 * 1.25 / 3.75) < 8


def test_every_kind_of_file_becomes_eight_bits(tmp_path):
    grey, _ = scan()
    rgb = Image.fromarray(grey).convert("RGB")
    deep = grey.astype(np.uint16) * 16
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    rgb.convert("CMYK").save(tmp_path / "cmyk.tif")
    rgb.quantize(64).save(tmp_path / "palette.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "float.tif")
    transparent = rgb.convert("RGBA")
    transparent.putalpha(Image.fromarray(np.where(np.arange(WIDTH) < 50, 0, 255).astype("uint8")
                                         [None].repeat(HEIGHT, 0)))  # fmt: skip
    transparent.save(tmp_path / "transparent.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), grey)
    for name in ("deep.png", "cmyk.tif", "palette.png", "float.tif"):
        image = read_image(tmp_path / name)
        image = image if image.ndim == 2 else image.mean(2)
        assert image.max() <= 255
        assert np.corrcoef(image.ravel(), grey.ravel())[0, 1] > 0.98, name
    image = read_image(tmp_path / "transparent.png")
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    assert not image[:, :50].any() and np.array_equal(image[:, 50:, 0], grey[:, 50:])


def test_several_frames_give_the_first_with_a_warning(tmp_path):
    first, second = Image.fromarray(scan(0)[0]), Image.fromarray(scan(1)[0])
    first.save(tmp_path / "volume.tif", save_all=True, append_images=[second])
    with pytest.warns(UserWarning, match="2 frames"):
        assert np.array_equal(read_image(tmp_path / "volume.tif"), scan(0)[0])


def test_a_stack_of_imagej_and_colours_of_16_bits_are_read(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    frames = np.stack([scan(seed)[0] for seed in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", frames, imagej=True)
    with pytest.warns(UserWarning, match="3 frames"):
        assert np.array_equal(read_image(tmp_path / "stack.tif"), frames[0])
    colours = np.repeat(frames[0].astype(np.uint16)[..., None] * 250, 3, 2)
    tifffile.imwrite(tmp_path / "colours.tif", colours, photometric="rgb")
    image = read_image(tmp_path / "colours.tif")
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.corrcoef(image[..., 0].ravel(), frames[0].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("none", [np.nan, np.inf, -np.inf, -3.4e38, -9999, 1e20])
def test_no_data_values_do_not_squeeze_the_greys(tmp_path, none):
    grey, _ = scan()
    decibels = 10 * np.log10(1 + grey.astype(np.float32))
    Image.fromarray(decibels).save(tmp_path / "whole.tif")
    truth = read_image(tmp_path / "whole.tif")
    decibels[:30, :40] = none
    Image.fromarray(decibels).save(tmp_path / "scan.tif")
    image = read_image(tmp_path / "scan.tif")
    assert not image[:30, :40].any()
    assert np.abs(image[30:].astype(int) - truth[30:]).max() <= 12  # its own percentiles


def bad_files(folder):
    """One file of every kind that cannot be used: {name: what the message says}."""
    grey, _ = scan()
    Image.fromarray(grey).save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    (folder / "empty.png").write_bytes(b"")
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "header.jpg").write_bytes(whole[:20])
    (folder / "text.png").write_text("not an image")
    Image.new("L", (1, 1), 9).save(folder / "pixel.png")
    Image.new("L", (64, 64), 9).save(folder / "blank.png")
    Image.new("L", (9000, 8000)).save(folder / "montage.png")
    Image.new("L", (15000, 12000)).save(folder / "bomb.png")
    return {
        "empty.png": "empty",
        "truncated.jpg": "truncated",
        "header.jpg": "cannot be read",
        "text.png": "cannot be read",
        "pixel.png": "1 x 1",
        "blank.png": "every pixel",
        "montage.png": "no single scan",
        "bomb.png": "no single scan",
    }


def test_bad_files_are_named(tmp_path):
    for name, says in bad_files(tmp_path).items():
        with pytest.raises(ValueError, match=says) as error:
            read_image(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_image(tmp_path / "nowhere.png")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="stands in for a failing disk")
def test_a_disk_that_fails_is_named(tmp_path):
    (tmp_path / "drive.png").symlink_to("/proc/self/mem")  # Errno 5, as a lost network drive gives
    with pytest.raises(ValueError, match="drive.png: cannot be read"):
        read_image(tmp_path / "drive.png")


def photograph(size=390, disc_at=(195, 320), fovea_at=(205, 190)):
    """A DFE in plain strokes: a round field on black, a bright disc, a dark fovea."""
    random = np.random.default_rng(3)
    row, column = np.mgrid[:size, :size]
    field = np.hypot(row - size / 2, column - size / 2) < size / 2 - 2

    def spot(at, radius):
        return np.exp(-((row - at[0]) ** 2 + (column - at[1]) ** 2) / (2 * radius**2))

    light = 110 + 120 * spot(disc_at, 18) - 45 * spot(fovea_at, 22)
    light = light + ndimage.gaussian_filter(random.normal(0, 20, light.shape), 2)
    image = np.stack([light, 0.6 * light, 0.3 * light], 2) * field[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)


def test_photograph_is_cropped_to_its_field_and_to_the_macula():
    image = photograph()
    wide = np.zeros((430, 700, 3), np.uint8)
    wide[20:410, 200:590] = image
    full, scale = clean_dfe(wide, size=390, framing="full")
    assert np.abs(full.astype(int) - image).mean() < 3
    assert scale == pytest.approx(13_000 / 390, rel=0.03)
    macula, scale = clean_dfe(wide, size=180, framing="macula")
    assert scale == pytest.approx(6_000 / 180, rel=0.03)
    smooth = ndimage.gaussian_filter(macula.mean(2), 8)
    row, column = np.unravel_index(smooth.argmin(), smooth.shape)
    assert np.hypot(row - 90, column - 90) < 15  # 0.5 mm
    mirrored, _ = clean_dfe(wide[:, ::-1], size=180, framing="macula")
    assert np.abs(mirrored[:, ::-1].astype(int) - macula).mean() < 8  # the other eye


@pytest.mark.parametrize(("made", "size"), [(256, 64), (512, 256)])
def test_the_middle_of_the_scans_line_is_the_middle_of_the_crop(made, size):
    """In right eyes and left ones, which are the mirror of each other."""
    columns, off = np.arange(made), []
    for k in range(3):
        for eye in ("OD", "OS"):
            one = make_eye(k, "DRUSEN", size=made, eye=eye, pictures=("dfe",))
            at = one.truth.dfe_pixel(one.truth.x_um.mean(), 0.0)
            line = np.exp(-((columns - at[0]) ** 2) / 4.5)[None, :, None]
            shown = (0.4 * one.dfe * (1 - line) + 255 * line * (one.dfe > 0)).astype(np.uint8)
            crop, _ = clean_dfe(shown, size=size, framing="strip", centre=at[::-1])
            bright = crop.mean((0, 2)).clip(140) - 140
            off.append((bright * np.arange(size)).sum() / bright.sum() - (size - 1) / 2)
            other, _ = clean_dfe(
                shown[:, ::-1], size=size, framing="strip", centre=(at[1], made - 1 - at[0])
            )
            assert np.abs(crop[:, ::-1].astype(int) - other).mean() < 1
    assert np.abs(off).max() < 0.25  # columns


def test_contrast_and_doubt():
    image = photograph()
    plain, _ = clean_dfe(image, size=128, framing="full")
    even, _ = clean_dfe(image, size=128, framing="full", clahe=True)
    assert even.shape == plain.shape and even.dtype == np.uint8
    inside = np.s_[40:88, 40:88]
    assert even[inside].std() > 1.2 * plain[inside].std()
    flat = np.where(image > 0, 120, 0).astype(np.uint8)
    with pytest.warns(UserWarning, match="unsure"):
        clean_dfe(flat, size=64, framing="macula")
    dark, scale = clean_dfe(np.full((80, 100, 3), 3, np.uint8), size=64, framing="full")
    assert scale is None and dark.shape == (64, 64, 3)
    dark = np.full((400, 500, 3), 6, np.uint8)
    dark[130:170, 300:340] = 200  # the disc, and nothing else to see
    whole, scale = clean_dfe(dark, size=64, framing="full")
    assert scale is None and (whole.max(2) > 100).mean() == pytest.approx(40**2 / 500**2, rel=0.2)
    with pytest.raises(ValueError, match="macula"):
        clean_dfe(image, size=64, framing="stretch")
