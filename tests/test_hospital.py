"""Hospital files: read right, refused in words, and no name, id or birth date gets out of them.

Every format is written byte by byte here, and read by eyepy too where it can; what real exports
gave stands in notebooks/results/intake.md.
"""

import logging
import re
import struct
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.data import hospital
from helpers.data.layout import Place
from helpers.data.sources import scans_of, take_in

NAME, FIRST, ID, BORN = "Zwetschgenbaum", "Adalbert", "HOSP7719042", "19470329"
COMMENT = "seit Ostern verzerrtes Sehen"
SECRETS = [NAME, FIRST, "7719042", "19470329", "1947-03-29", "verzerrtes"]
HEIGHT, WIDTH, COUNT = 48, 64, 5


def scans(count=COUNT, height=HEIGHT, width=WIDTH, seed=0) -> np.ndarray:
    """Noise, uint8 (count, height, width): an order or a flip that is wrong shows in every px."""
    return np.random.default_rng(seed).integers(1, 256, (count, height, width), np.uint8)


def listed(volume, path):
    """The scans that a source takes from a volume in a folder that says nothing."""
    return scans_of(volume, path, "oct", Place("X", "", None))


# Writers, each of one format: they return the file and what it should read as


def xml_text(names, *, eye="<Laterality>R</Laterality>", at="image", scale=0.0117, size=None,
             lines=None, slo="SLO.tif", number=ID, last=NAME) -> str:  # fmt: skip
    width, height = size or (WIDTH, HEIGHT)
    images = []
    for i, name in enumerate([slo, *names]):
        is_slo = i == 0
        x0, y0, x1, y1 = lines[i - 1] if lines and i else (0.5, 1.0 - 0.12 * i, 2.0, 1.0 - 0.12 * i)
        ends = "" if is_slo else (
            f"<Start><Coord><X>{x0}</X><Y>{y0}</Y></Coord></Start>"
            f"<End><Coord><X>{x1}</X><Y>{y1}</Y></Coord></End>"
        )  # fmt: skip
        images.append(
            f"<Image><ID>{i}</ID>{eye if at == 'image' else ''}"
            f"<ImageType><Type>{'LOCALIZER' if is_slo else 'OCT'}</Type></ImageType>"
            "<OphthalmicAcquisitionContext>"
            f"<Width>{96 if is_slo else width}</Width><Height>{96 if is_slo else height}</Height>"
            f"<ScaleX>{0.0125 if is_slo else scale}</ScaleX>"
            f"<ScaleY>{0.0125 if is_slo else 0.0039}</ScaleY>{ends}"
            "</OphthalmicAcquisitionContext>"
            rf"<ImageData><ExamURL>file:///C:\HRAExport\deep\{name}</ExamURL></ImageData></Image>"
        )
    return (
        f"<HEDX><BODY><Patient><ID>815</ID><PatientID>{number}</PatientID>"
        f"<LastName>{last}</LastName><FirstNames>{FIRST}</FirstNames><Birthdate><Date>"
        f"<Year>1947</Year><Month>3</Month><Day>29</Day></Date></Birthdate><Study><ID>1</ID>"
        f"<StudyDescription>{COMMENT}</StudyDescription><Series><ID>7</ID>"
        f"{eye if at == 'series' else ''}<Type>Volume</Type>{''.join(images)}"
        "</Series></Study></Patient></BODY></HEDX>"
    )


def write_xml(folder: Path, stem="export", **settings):
    pixels = scans()
    names = [f"B{i}.TIF" for i in range(COUNT)]
    for name, image in zip(names, pixels):
        Image.fromarray(np.stack([image] * 3, -1)).save(folder / name, compression="tiff_lzw")
    Image.fromarray(scans(1, 96, 96)[0]).save(folder / "SLO.tif")
    path = folder / f"{stem}.xml"
    # the names differ in case, as on Windows they may
    path.write_text(xml_text([name.lower() for name in names], **settings), "utf-8")
    return path, pixels


def write_vol(folder: Path, *, pattern=3, scale=0.0117, count=COUNT, magic=b"HSF-OCT-103\0"):
    pixels = scans(count)
    slo = scans(1, 96, 96, seed=1)[0]
    head = struct.pack("<12s3I3d2I2dId4sQiI", magic, WIDTH, count, HEIGHT, scale, 0.12, 0.0039,
                       96, 96, 0.0125, 0.0125, 30, 0.7, b"OS\0", 0, pattern, 512)  # fmt: skip
    head += struct.pack("<16s16sI24sdI24sd4I34s1790x", b"2390", b"", 815, ID.encode(),
                        17255.0, 1, f"#{COMMENT}"[:23].encode(), 1.0, 0, 0, 0, 0, b"")  # fmt: skip
    assert len(head) == 2048
    body = b""
    for i, image in enumerate(pixels):
        y = 1.0 - 0.12 * i
        about = struct.pack("<12sI4d2I", magic, 512, 0.5, y, 2.0, y, 0, 256).ljust(512, b"\0")
        values = np.exp(image / 255 * 8.285 - 8.3) - 2.44e-4
        body += about + values.clip(0).astype("<f4").tobytes()
    path = folder / "scan.vol"
    path.write_bytes(head + slo.tobytes() + body)
    return path, pixels


def e2e_chunk(kind, body, series=3, slice_=-1, which=0, patient=815):
    return kind, body, (patient, 1, series, slice_, which)


def write_e2e(folder: Path, *, series=((3, b"R"),), prefix=b"", lost=(), twisted=False):
    """One folder of chunks; pixels whose mantissa reads the same in both directions, so that eyepy,
    which reverses it, can be compared with."""
    rng = np.random.default_rng(4)
    mirrored = [m for m in range(1024) if f"{m:010b}" == f"{m:010b}"[::-1]]
    chunks = [
        e2e_chunk(9, struct.pack("<31s66sI1s25s4x", FIRST.encode(), NAME.encode(), 19470329, b"M",
                                 ID.encode()))
    ]  # fmt: skip
    codes = {}
    for number, eye in series:
        chunks.append(e2e_chunk(11, bytes(14) + eye + bytes(12), number))
        slo = scans(1, 96, 96, seed=1)[0]
        chunks.append(
            e2e_chunk(1 << 30, struct.pack("<5I", slo.size, 33620481, slo.size, 96, 96)
                      + slo.tobytes(), number)
        )  # fmt: skip
        codes[number] = []
        for i in range(COUNT):
            y = 5 - 0.5 * i
            about = struct.pack("<3I4fIfffI2fI4I", 0, HEIGHT, WIDTH, -7.5, y, 7.5, y, 0, 0, 0.0039,
                                0, 0, 0, 0, 0, WIDTH, COUNT, i, 3)  # fmt: skip
            chunks.append(e2e_chunk(10004, about.ljust(428, b"\0"), number, 2 * i, 1))
            code = rng.integers(50, 63, (HEIGHT, WIDTH)) << 10 | rng.choice(
                np.arange(1024) if twisted else mirrored, (HEIGHT, WIDTH)
            )
            code[0] = 0xFFFF  # no scan there
            if i in lost:
                continue
            codes[number].append(code)
            body = struct.pack("<5I", 2 * code.size, 35652097, code.size, HEIGHT, WIDTH)
            chunks.append(e2e_chunk(1 << 30, body + code.astype("<u2").tobytes(), number, 2 * i, 1))
    at = 88 + 52 + 44 * len(chunks)
    entries, data = b"", b""
    for k, (kind, body, ids) in enumerate(chunks):
        start = at + len(data)
        patient, study, number, slice_, which = ids
        entries += struct.pack("<4I4i2H2I", 88 + 52 + 44 * k, start, len(body), 0, patient, study,
                               number, slice_, which, 0, kind, 0)  # fmt: skip
        data += struct.pack("<12s5I4i2H2I", b"MDbData", 0, 0, start, len(body), 0, patient, study,
                            number, slice_, which, 0, kind, 0) + body  # fmt: skip

    def directory(magic, count, current, before):
        return struct.pack("<12sI20s4I", magic, 100, b"\xff" * 18, count, current, before, 0)

    path = folder / "scan.E2E"
    path.write_bytes(
        prefix + struct.pack("<12sI20s", b"CMDb", 100, b"\xff" * 18)
        + directory(b"MDbMDir", 0, 88, 88) + directory(b"MDbDir", len(chunks), 88, 0)
        + entries + data
    )  # fmt: skip
    return path, codes


def topcon_chunk(name: bytes, body: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack("<I", len(body)) + body


def jpeg2000(image) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG2000", irreversible=False, no_jp2=False)
    return buffer.getvalue()


def topcon_head() -> bytes:
    patient = struct.pack("<32s32s32s8sB3H", ID.encode(), FIRST.encode(), NAME.encode(), b"", 1,
                          1947, 3, 29)  # fmt: skip
    return (
        b"FOCTFDA" + struct.pack("<2I", 2, 1000)
        + topcon_chunk(b"@PATIENT_INFO_02", patient.ljust(600, b"\0"))
        + topcon_chunk(b"@CAPTURE_INFO_02", struct.pack("<BBI100s6H", 1, 2, 0, COMMENT.encode(),
                                                        2020, 1, 2, 3, 4, 5))
        + topcon_chunk(b"@PARAM_SCAN_04", struct.pack("<3I5d2x", 0, 0, 0, 6, 6, 2.6, 0, 0))
    )  # fmt: skip


def write_fda(folder: Path, *, mode=2, end=b"\0"):
    pixels = scans()
    body = struct.pack("<B6I", mode, 0, 0, WIDTH, HEIGHT, COUNT, 0xA02)
    for image in pixels:
        part = jpeg2000(image)
        body += struct.pack("<I", len(part)) + part
    photo = jpeg2000(scans(3, 40, 32, seed=1).transpose(1, 2, 0)[..., ::-1].copy())
    fundus = struct.pack("<4I4sI", 32, 40, 24, 1, b"", len(photo)) + photo
    path = folder / "scan.fda"
    path.write_bytes(
        topcon_head()
        + topcon_chunk(b"@IMG_JPEG", body)
        + topcon_chunk(b"@IMG_FUNDUS", fundus)
        + end
    )
    return path, pixels


def write_fds(folder: Path):
    pixels = scans().astype(np.uint16) * 100
    body = struct.pack("<B4IBI", 2, WIDTH, HEIGHT, 16, COUNT, 0, 2 * pixels.size)
    photo = scans(3, 40, 32, seed=1).transpose(1, 2, 0)
    fundus = struct.pack("<4IBI", 32, 40, 24, 1, 0, photo.size) + photo[..., ::-1].tobytes()
    path = folder / "scan.fds"
    path.write_bytes(
        topcon_head() + topcon_chunk(b"@IMG_SCAN_03", body + pixels.tobytes())
        + topcon_chunk(b"@IMG_OBS", fundus) + b"\0"
    )  # fmt: skip
    return path, pixels


def write_img(folder: Path, name=f"{ID}_Macular Cube 100x20_2-28-2011_14-42-18_OS_sn1_cube_z.img"):
    pixels = scans(20, 1024, 100)
    path = folder / name
    path.write_bytes(pixels[:, ::-1, ::-1].tobytes())
    return path, pixels


def write_dcm(folder: Path, *, sop=hospital.OPT, modality="OPT", compress=None, pixels=None,
              name="scan.dcm", **changes):  # fmt: skip
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid

    pixels = scans() if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(name, {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = sop, generate_uid(), modality
    data.SeriesInstanceUID = "1.2.3.4"
    data.PatientName, data.PatientID = f"{NAME}^{FIRST}", ID
    data.PatientBirthDate, data.ImageComments = BORN, COMMENT
    data.ImageLaterality, data.NumberOfFrames = "R", len(pixels)
    data.Rows, data.Columns = pixels.shape[1:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * pixels.itemsize
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = 0
    shared, anatomy, measures = Dataset(), Dataset(), Dataset()
    anatomy.FrameLaterality = "R"
    measures.PixelSpacing, measures.SliceThickness = [0.0039, 0.0117], 0.12
    shared.FrameAnatomySequence, shared.PixelMeasuresSequence = [anatomy], [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for i in range(len(pixels)):
        frame, place = Dataset(), Dataset()
        place.ReferenceCoordinates = [80.0 - 10 * i, 12.0, 80.0 - 10 * i, 76.0]  # row, column
        frame.OphthalmicFrameLocationSequence = [place]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    data.PixelData = pixels.tobytes()
    for key, value in changes.items():
        {"thickness": measures, "spacing": measures, "frame_eye": anatomy}.get(key, data)
        if key == "spacing":
            measures.PixelSpacing = value
        elif key == "frame_eye":
            anatomy.FrameLaterality = value
        else:
            setattr(data, key, value)
    if compress == "rle":
        data.compress(RLELossless)
    elif compress:
        meta.TransferSyntaxUID = compress
        parts = [jpeg2000(p) for p in pixels] if compress == JPEG2000Lossless else [b"\xff\xd8"] * 5
        data.PixelData = encapsulate(parts)
        data["PixelData"].VR = "OB"
    path = folder / name
    data.save_as(path, enforce_file_format=True)
    return path, pixels


def write_tiff(folder: Path, pixels=None):
    pixels = scans() if pixels is None else pixels
    pages = [Image.fromarray(image) for image in pixels]
    path = folder / "volume.TIFF"
    tags = {270: f"{NAME}, {FIRST}, {ID}, {BORN}", 315: NAME}  # description, artist
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:], tiffinfo=tags)
    return path, pixels


WRITERS = {
    "xml": write_xml, "vol": write_vol, "e2e": write_e2e, "fda": write_fda, "fds": write_fds,
    "img": write_img, "dcm": write_dcm, "tiff": write_tiff,
}  # fmt: skip


def read_volume(path):
    (volume,) = hospital.read_volumes(path)
    return volume


def together(volume) -> np.ndarray:
    return np.stack(list(volume.frames))


# What is read


@pytest.mark.parametrize("at", ["image", "series"])
def test_xml_says_the_eye_at_the_image_or_the_series(tmp_path, at):
    path, pixels = write_xml(tmp_path, at=at)
    volume = read_volume(path)
    assert volume.eye == "OD" and (together(volume) == pixels).all()
    assert (volume.um_per_px_x, volume.um_per_px_y) == (11.7, 3.9)
    assert volume.spacing_um == pytest.approx(120)
    assert volume.lines[0] == pytest.approx((40, 0.88 / 0.0125, 160, 0.88 / 0.0125))
    assert volume.enface.shape == (96, 96)


def test_xml_in_latin1_with_umlauts_is_read(tmp_path):
    path, pixels = write_xml(tmp_path, last="Müller")
    path.write_bytes(path.read_text("utf-8").encode("latin-1"))
    assert (together(read_volume(path)) == pixels).all()


def test_xml_names_pictures_that_are_missing_and_reads_the_rest(tmp_path):
    path, pixels = write_xml(tmp_path)
    (tmp_path / "B1.TIF").unlink()
    (tmp_path / "B3.TIF").write_bytes(b"no picture")
    (tmp_path / "SLO.tif").unlink()
    volume = read_volume(path)
    assert volume.numbers == [0, 2, 4] and (together(volume) == pixels[::2]).all()
    assert len(volume.lines) == 3 and volume.spacing_um == pytest.approx(120)
    assert "b1.tif, b3.tif" in volume.notes[0] and "SLO.tif" in volume.notes[1]
    rows = listed(volume, path)
    assert [row.frame for row in rows] == [0, 2, 4]
    assert (hospital.read_frame(rows[1].path) == pixels[2]).all()
    with pytest.raises(ValueError, match="no B-scan 1"):
        hospital.read_frame(f"{path}#1")


def test_a_picture_of_an_xml_that_comes_later_is_read_in_the_same_process(tmp_path):
    path, pixels = write_xml(tmp_path)
    late = (tmp_path / "B2.TIF").read_bytes()
    (tmp_path / "B2.TIF").unlink()
    np.testing.assert_array_equal(hospital.read_frame(f"{path}#1"), pixels[1])
    (tmp_path / "B2.TIF").write_bytes(late)
    np.testing.assert_array_equal(hospital.read_frame(f"{path}#2"), pixels[2])


def test_xml_never_reads_outside_its_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    path, _ = write_xml(tmp_path / "deep")
    text = path.read_text("utf-8").replace("b0.tif", r"..\..\up.tif").replace("b1.tif", "..")
    path.write_text(text, "utf-8")
    Image.fromarray(scans(1)[0]).save(tmp_path / "up.tif")
    volume = read_volume(path)
    assert volume.numbers == [2, 3, 4] and "up.tif, one without a name" in volume.notes[0]


def test_a_star_has_lines_but_no_spacing(tmp_path):
    turns = np.linspace(0, np.pi, COUNT, endpoint=False)
    lines = [(1 - c, 1 - s, 1 + c, 1 + s) for c, s in zip(np.cos(turns) / 2, np.sin(turns) / 2)]
    volume = read_volume(write_xml(tmp_path, lines=lines)[0])
    assert volume.spacing_um is None and None not in volume.lines


def test_vol_agrees_with_eyepy(tmp_path):
    eyepy = pytest.importorskip("eyepy")
    path, pixels = write_vol(tmp_path)
    volume, theirs = read_volume(path), eyepy.import_heyex_vol(path)
    assert (together(volume) == theirs.data).all()
    assert np.abs(together(volume).astype(int) - pixels).max() <= 1
    assert volume.eye == theirs.laterality == "OS"
    assert volume.um_per_px_x == pytest.approx(1000 * theirs.scale_x)
    assert volume.um_per_px_y == pytest.approx(1000 * theirs.scale_y)
    assert volume.spacing_um == pytest.approx(1000 * theirs.scale_z)
    assert (volume.enface == theirs.localizer.data).all() and volume.enface_um_per_px == 12.5
    assert volume.lines[0] == (40, 80, 160, 80)


def test_vol_of_a_circle_has_no_line(tmp_path):
    volume = read_volume(write_vol(tmp_path, pattern=2)[0])
    assert volume.lines == [None] * COUNT and volume.spacing_um is None


def test_vol_pixels_without_a_scan_are_black(tmp_path):
    path, _ = write_vol(tmp_path)
    data = bytearray(path.read_bytes())
    start = 2048 + 96 * 96 + 512
    data[start : start + 12] = struct.pack("<3f", 3.4028234663852886e38, np.nan, 0.0)
    path.write_bytes(data)
    assert read_volume(path).frames[0][0, :3].tolist() == [0, 0, 0]


def test_e2e_agrees_with_eyepy(tmp_path):
    reader = pytest.importorskip("eyepy.io.he.e2e_reader")
    from eyepy.core.utils import from_e2e_intensity

    path, codes = write_e2e(tmp_path)
    volume = read_volume(path)
    with reader.HeE2eReader(path) as file:
        (series,) = file.series
        theirs = np.stack([scan.get_bscan() for _, scan in sorted(series.slices.items())])
        assert (together(volume) == from_e2e_intensity(theirs)).all()
        slo = series.folders[reader.TypesEnum.image][0].data
        assert (volume.enface == slo.data).all()
        assert volume.eye == series.folders[reader.TypesEnum.laterality][0].data.laterality.name
        scale = series.get_x_scale_derivation()["scaling_x_um_per_pixel"]
        about = series.get_bscan_meta()
    assert volume.um_per_px_x == pytest.approx(scale)
    assert volume.um_per_px_y == pytest.approx(3.9) and volume.patient_known
    assert volume.spacing_um == pytest.approx(0.5 * hospital.UM_PER_DEGREE, rel=1e-4)
    ends = [[(end + 15) * 96 / 30 for end in (*b["start_pos"], *b["end_pos"])] for b in about]
    assert np.abs(np.array(volume.lines) - ends).max() < 0.1
    assert not volume.frames[0][0].any()  # 0xFFFF: no scan there


def test_e2e_grey_levels_grow_with_the_code():
    """A mantissa read in reverse, as in eyepy and oct-converter, jumps by up to 21 levels."""
    levels = hospital._e2e_levels().astype(int)
    assert (np.diff(levels[: 63 << 10]) >= 0).all() and levels[63 << 10] == 255
    assert levels[0] == 0 and levels[0xFFFF] == 0
    value = (1 + 0x155 / 1024) * 2.0 ** (58 - 63)
    assert levels[58 << 10 | 0x155] == round(255 * (np.log(value + 2.44e-4) + 8.3) / 8.285)


def test_e2e_with_both_eyes_is_two_volumes_of_one_person(tmp_path):
    path, _ = write_e2e(tmp_path, series=((3, b"R"), (9, b"L")), prefix=b"E2EMultipleVolumeFile"
                        .ljust(64, b"\0"))  # fmt: skip
    right, left = hospital.read_volumes(path)
    assert (right.eye, left.eye) == ("OD", "OS")
    assert right.patient == left.patient and right.volume != left.volume
    rows = listed(right, path) + listed(left, path)
    assert [row.path.rpartition("#")[2] for row in rows] == [str(i) for i in range(2 * COUNT)]
    assert [row.frame for row in rows] == [*range(COUNT)] * 2
    assert (hospital.read_frame(rows[7].path) == left.frames[2]).all()


def test_e2e_counts_the_missing(tmp_path):
    volume = read_volume(write_e2e(tmp_path, lost=(1, 4))[0])
    assert len(volume.frames) == 3 and "2 of 5 B-scans are missing" in volume.notes[0]


@pytest.mark.parametrize("write", [write_fda, write_fds])
def test_topcon(tmp_path, write):
    path, pixels = write(tmp_path)
    volume = read_volume(path)
    assert volume.eye == "OS" and volume.patient_known
    assert volume.um_per_px_x == pytest.approx(6000 / WIDTH)
    assert volume.um_per_px_y == pytest.approx(2.6)
    assert volume.spacing_um == pytest.approx(6000 / COUNT)
    assert volume.lines == [None] * COUNT
    assert (volume.enface == scans(3, 40, 32, seed=1).transpose(1, 2, 0)).all()
    frames = together(volume)
    if write is write_fda:
        assert (frames == pixels).all()
    else:  # 16 bits: one scale for all of them
        assert frames.dtype == np.uint8 and np.corrcoef(frames.ravel(), pixels.ravel())[0, 1] > 0.99
        order = np.argsort(pixels.ravel(), kind="stable")
        assert (np.diff(frames.ravel()[order].astype(int)) >= 0).all()


def test_topcon_star_and_missing_end(tmp_path):
    path, pixels = write_fda(tmp_path, mode=3, end=b"")
    volume = read_volume(path)
    assert volume.spacing_um is None and (together(volume) == pixels).all()


def test_zeiss_is_turned_and_measured_by_its_name(tmp_path):
    path, pixels = write_img(tmp_path)
    volume = read_volume(path)
    assert (together(volume) == pixels).all() and volume.eye == "OS" and volume.patient_known
    assert volume.um_per_px_x == 60 and volume.spacing_um == 300
    assert volume.um_per_px_y == pytest.approx(1.953125)


def test_zeiss_without_a_name_is_known_by_its_size(tmp_path):
    path = tmp_path / "anonymous.IMG"
    with path.open("wb") as file:
        file.truncate(512 * 128 * 1024)
    volume = read_volume(path)
    assert len(volume.frames) == 128 and volume.width == 512 and volume.eye is None


@pytest.mark.parametrize("compress", [None, "rle", "1.2.840.10008.1.2.4.90"])
def test_dicom(tmp_path, compress):
    path, pixels = write_dcm(tmp_path, compress=compress)
    volume = read_volume(path)
    assert (together(volume) == pixels).all() and volume.eye == "OD" and volume.patient_known
    assert (volume.um_per_px_x, volume.um_per_px_y) == (11.7, 3.9)
    assert volume.spacing_um == pytest.approx(120)
    assert volume.lines[1] == (12, 70, 76, 70)


def test_dicom_of_16_bits_and_of_inverse_grey(tmp_path):
    pixels = scans().astype(np.uint16) * 16
    plain = together(read_volume(write_dcm(tmp_path, pixels=pixels)[0]))
    inverse = write_dcm(tmp_path, pixels=pixels, name="i.dcm",
                        PhotometricInterpretation="MONOCHROME1")[0]  # fmt: skip
    assert plain.dtype == np.uint8 and np.corrcoef(plain.ravel(), pixels.ravel())[0, 1] > 0.99
    assert (together(read_volume(inverse)) == 255 - plain).all()


def test_dicom_without_suffix_and_single_scans_of_one_series(tmp_path):
    one, two = (write_dcm(tmp_path, pixels=scans(1, seed=k), name=f"IM{k}")[0] for k in (0, 1))
    assert all(map(hospital.is_hospital_file, (one, two)))
    a, b = map(read_volume, (one, two))
    assert a.volume == b.volume and a.spacing_um is None and len(a.frames) == 1


def test_tiff_of_several_pages(tmp_path):
    path, pixels = write_tiff(tmp_path)
    volume = read_volume(path)
    assert (together(volume) == pixels).all() and volume.um_per_px_x is None
    assert not volume.patient_known and hospital.is_hospital_file(path)
    wide = tmp_path / "w"
    wide.mkdir()
    frames = together(read_volume(write_tiff(wide, scans().astype(np.uint16) * 200)[0]))
    assert frames.dtype == np.uint8 and frames.min() == 0 and frames.max() == 255


def test_one_page_or_a_preview_is_no_volume(tmp_path):
    Image.fromarray(scans(1)[0]).save(tmp_path / "one.tif")
    Image.fromarray(scans(1)[0]).save(
        tmp_path / "two.tif", save_all=True, append_images=[Image.fromarray(scans(1, 24, 32)[0])]
    )
    assert not any(map(hospital.is_hospital_file, sorted(tmp_path.glob("*.tif"))))
    with pytest.raises(ValueError, match="2 pages of 2 sizes"):
        read_volume(tmp_path / "two.tif")


# Finding, rows, frames


def test_folders_that_the_device_calls_one_person_are_one(tmp_path):
    for n in range(6):  # each person came twice, and every export is a folder
        place = tmp_path / "DRUSEN" / f"export_{n:02}"
        place.mkdir(parents=True)
        write_xml(place, number=f"MRN{n % 3}")
    intake = take_in(tmp_path)
    assert len({scan.patient for scan in intake.scans}) == 3
    assert any("3 patient ids lie in several folders" in doubt for doubt in intake.doubts)
    for place in (tmp_path / "DRUSEN").iterdir():
        write_xml(place, number="ANON")
    intake = take_in(tmp_path)
    assert len({scan.patient for scan in intake.scans}) == 6  # one id for all says nothing
    assert any("bear one patient id" in doubt for doubt in intake.doubts)


def test_volumes_that_name_nobody_are_doubted(tmp_path):
    for n in range(3):
        (tmp_path / "DRUSEN").mkdir(exist_ok=True)
        write_tiff(tmp_path / "DRUSEN")[0].rename(tmp_path / "DRUSEN" / f"D{n}a.tif")
    assert any("3 volumes name no patient" in doubt for doubt in take_in(tmp_path).doubts)


@pytest.mark.parametrize("name", ["scan.dcm", "scan.dicom", "1.2.276.0.75.2.2.42.114374", "IM1"])
def test_dicom_is_taken_in_whatever_it_is_called(tmp_path, name):
    (tmp_path / "DRUSEN" / "P1").mkdir(parents=True)
    write_dcm(tmp_path / "DRUSEN" / "P1", name=name)
    intake = take_in(tmp_path)
    assert len(intake.scans) == COUNT and not intake.left_out


def test_a_folder_of_many_exports_is_listed_once(tmp_path, monkeypatch):
    for n in range(8):
        write_xml(tmp_path, stem=f"export{n}")
    listed, iterdir = [], Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.append(path) or iterdir(path))
    for n in range(8):
        hospital.read_volumes(tmp_path / f"export{n}.xml")
    assert len(listed) == 1


def test_every_how_many_is_named_by_its_setting(tmp_path, monkeypatch):
    (tmp_path / "DRUSEN").mkdir()
    write_tiff(tmp_path / "DRUSEN")
    for wrong in ("five", "0"):
        monkeypatch.setenv("OCT_EVERY", wrong)
        with pytest.raises(ValueError, match=f"OCT_EVERY='{wrong}': a whole number"):
            take_in(tmp_path)


def test_a_raw_cube_beside_its_resampled_one_is_left_out(tmp_path):
    for eye in ("OD", "OS"):
        for what in ("cube_z", "cube_raw"):
            name = f"P1_Macular Cube 100x20_2-28-2011_14-42-18_{eye}_sn1_{what}.img"
            write_img(tmp_path, name=name)
    (tmp_path / "P1_Macular Cube 100x20_2-28-2011_14-42-18_OS_sn1_cube_z.img").unlink()
    intake = take_in(tmp_path)
    assert len({scan.path.rpartition("#")[0] for scan in intake.scans}) == 2
    ((left_out, why),) = intake.left_out
    assert "OD_sn1_cube_raw" in left_out and "lies beside it resampled" in why
    (tmp_path / "._scan.vol").write_bytes(b"x")
    assert not hospital.is_hospital_file(tmp_path / "._scan.vol")


def test_xml_in_utf16_is_found_and_read(tmp_path):
    path, pixels = write_xml(tmp_path)
    text = path.read_text("utf-8")
    path.write_bytes(('<?xml version="1.0" encoding="UTF-16"?>' + text).encode("utf-16"))
    assert hospital.is_hospital_file(path)
    assert (together(read_volume(path)) == pixels).all()


def test_thinning_keeps_the_middle(tmp_path, monkeypatch):
    volume = read_volume(write_tiff(tmp_path, scans(49))[0])
    for every in (1, 2, 3, 7, 48, 100):
        monkeypatch.setenv("OCT_EVERY", str(every))
        kept = [row.frame for row in listed(volume, "f.tif")]
        assert 24 in kept and set(np.diff(kept)) <= {every}


def test_what_a_file_does_not_say_is_none(tmp_path):
    path, _ = write_tiff(tmp_path)
    scan = listed(read_volume(path), path)[0]
    assert scan.eye is scan.um_per_px_x is scan.line is None and scan.width == WIDTH


def test_frames_of_a_file_open_it_once(tmp_path, monkeypatch):
    path, pixels = write_vol(tmp_path)
    calls = []
    real = hospital._vol
    monkeypatch.setitem(hospital.READERS, ".vol", lambda p: calls.append(p) or real(p))
    for i in range(COUNT):
        assert hospital.read_frame(f"{path}#{i}").shape == (HEIGHT, WIDTH)
    assert len(calls) == 1
    write_vol(tmp_path, count=COUNT - 1)  # another file under the old name
    with pytest.raises(ValueError, match="no B-scan 4"):
        hospital.read_frame(f"{path}#4")
    with pytest.raises(ValueError, match="FILE#NUMBER"):
        hospital.read_frame(path)


def test_the_person_is_the_same_in_every_format(tmp_path):
    found = {}
    for name, write in WRITERS.items():
        (tmp_path / name).mkdir()
        found[name] = read_volume(write(tmp_path / name)[0]).patient
    assert len({found[name] for name in found if name != "tiff"}) == 1
    moved = tmp_path / "elsewhere"
    (tmp_path / "tiff").rename(moved / "tiff") if moved.mkdir() is None else None
    assert read_volume(moved / "tiff/volume.TIFF").patient == found["tiff"]


@pytest.mark.parametrize("number", ["", "1111111", "0", "Anonymous", " unknown "])
def test_ids_that_are_nobodys_are_no_ids(tmp_path, number):
    path, _ = write_dcm(tmp_path, PatientID=number)
    assert not read_volume(path).patient_known


# What is refused, in words


def refused(path, match):
    with pytest.raises(ValueError, match=match) as caught:
        for volume in hospital.read_volumes(path):
            together(volume)
    assert str(path) in str(caught.value)
    assert re.search(r"[Ee]xport|[Ll]eave it out|Keep|Save|pip install", str(caught.value))


def test_an_xml_bomb_does_not_hurt(tmp_path):
    entities = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    bomb = f'<!DOCTYPE HEDX [<!ENTITY l0 "lol">{entities}]><HEDX><BODY>&l11;</BODY></HEDX>'
    (tmp_path / "bomb.xml").write_text(bomb)
    refused(tmp_path / "bomb.xml", "XML bomb")
    outside = '<!DOCTYPE HEDX [<!ENTITY x SYSTEM "file:///etc/passwd">]><HEDX>&x;</HEDX>'
    (tmp_path / "outside.xml").write_text(outside)
    refused(tmp_path / "outside.xml", "XML bomb")


def test_xml_of_something_else(tmp_path):
    (tmp_path / "a.xml").write_text("<settings><HEDX/></settings>")
    refused(tmp_path / "a.xml", "no Heidelberg export")
    (tmp_path / "b.xml").write_text("<HEDX><BODY/></HEDX>")
    refused(tmp_path / "b.xml", "no B-scan")
    (tmp_path / "c.xml").write_text("not XML at all")
    refused(tmp_path / "c.xml", "cut or damaged")


def test_xml_without_its_pictures(tmp_path):
    path, _ = write_xml(tmp_path)
    for tif in [*tmp_path.glob("*.tif"), *tmp_path.glob("*.TIF")]:
        tif.unlink()
    refused(path, "none of its 5 pictures.*one folder")


def test_xml_whose_pictures_were_resized(tmp_path):
    refused(write_xml(tmp_path, size=(2 * WIDTH, 2 * HEIGHT))[0], "another size")


def test_two_eyes_in_one_volume(tmp_path):
    path, _ = write_xml(tmp_path)
    path.write_text(path.read_text("utf-8").replace(">R<", ">L<", 1), "utf-8")
    refused(path, "both OD and OS")
    refused(write_dcm(tmp_path, frame_eye="L")[0], "both OD and OS")


@pytest.mark.parametrize("scale", ["0", "-0.01", "nan", "inf", "x", "117"])
def test_impossible_lengths(tmp_path, scale):
    refused(write_xml(tmp_path, scale=scale)[0], "um per px is impossible")


def test_zero_spacing(tmp_path):
    refused(write_vol(tmp_path, scale=0.0)[0], "0 um per px is impossible")
    refused(write_dcm(tmp_path, spacing=[0, 0.01])[0], "0 um per px is impossible")


def test_other_dicom(tmp_path):
    from pydicom.data import get_testdata_file

    ct = tmp_path / "ct.dcm"
    ct.write_bytes(Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes())
    refused(ct, "is a CT, no ophthalmic tomography")
    photo, _ = write_dcm(tmp_path, sop="1.2.840.10008.5.1.4.1.1.77.1.5.1", modality="OP")
    refused(photo, "photograph of the fundus")
    (tmp_path / "x.dcm").write_bytes(b"hello" * 100)
    refused(tmp_path / "x.dcm", "no whole DICOM")
    refused(write_dcm(tmp_path, compress="1.2.840.10008.1.2.4.80")[0], "another decoder")
    refused(write_dcm(tmp_path, NumberOfFrames=0)[0], "no B-scan")


def test_empty_volumes_and_other_files_under_the_name(tmp_path):
    refused(write_vol(tmp_path, count=0)[0], "no B-scan")
    refused(write_vol(tmp_path, magic=b"something\0")[0], "no Heidelberg .vol")
    refused(write_e2e(tmp_path, lost=range(COUNT))[0], "no B-scan")
    for name, match in (
        ("a.e2e", "no Heidelberg .e2e"), ("a.fda", "no Topcon"), ("a.img", "Zeiss cube"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(b"something else" * 1000)
        refused(tmp_path / name, match)
    (tmp_path / "b.fda").write_bytes(topcon_head() + b"\0")
    refused(tmp_path / "b.fda", "no B-scan")
    for name in (
        "P1_Macular Cube 512x128_1_2_OD_sn1_FlowCube_z.img",
        "x_A 100x20_1_OD_s_hidef_z.img",
    ):
        (tmp_path / name).write_bytes(b"x")
        refused(tmp_path / name, "no structural cube")
    for suffix in hospital.READERS:
        (tmp_path / f"empty{suffix}").write_bytes(b"")
        with pytest.raises(ValueError, match="is empty"):
            read_volume(tmp_path / f"empty{suffix}")
    with pytest.raises(FileNotFoundError):
        read_volume(tmp_path / "none.vol")
    with pytest.raises(ValueError, match="no hospital format"):
        read_volume(__file__)


def test_e2e_that_goes_round_in_circles(tmp_path):
    path, _ = write_e2e(tmp_path)
    data = bytearray(path.read_bytes())
    data[88 + 44 : 88 + 48] = struct.pack("<I", 88)  # its folder before is itself
    path.write_bytes(data)
    refused(path, "cut or damaged")


@pytest.mark.parametrize("module, write", [("defusedxml", write_xml), ("pydicom", write_dcm)])
def test_what_to_install_is_said(tmp_path, monkeypatch, module, write):
    path, _ = write(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module}: pip install \.\[hospital\]"):
        read_volume(path)


# Personal data


def outcome(path) -> str:
    """Everything that comes out of a file, read or refused."""
    try:
        volumes = hospital.read_volumes(path)
        texts = [repr(volumes)] + [f"{v.__dict__}" for v in volumes]
        for volume in volumes:
            texts.append(str(listed(volume, path)))
            for i in range(len(volume.frames)):
                try:
                    assert volume.frames[i].dtype == np.uint8
                except hospital.Unreadable as error:
                    texts.append(str(error))
        return "\n".join(texts)
    except (hospital.Unreadable, OSError) as error:
        assert str(path) in str(error)
        return str(error)


@pytest.mark.parametrize("name", WRITERS)
def test_no_personal_data_comes_out_whole_cut_or_damaged(tmp_path, name, caplog, capfd, recwarn):
    caplog.set_level(logging.DEBUG)
    path, _ = WRITERS[name](tmp_path)
    data, texts = path.read_bytes(), [outcome(path)]
    assert "Volume(" in texts[0]
    hidden = (ID.encode(), ID.encode("utf-16le"))
    assert name == "img" or any(secret in data for secret in hidden)  # the header does hold it
    rng = np.random.default_rng(0)
    ends = {*np.linspace(1, len(data) - 1, 12).astype(int), *range(1, 2048, 173)}
    for end in sorted(end for end in ends if end < len(data)):
        path.write_bytes(data[:end])
        texts.append(outcome(path))
    for _ in range(40):
        broken = bytearray(data)
        reach = min(len(data), int(rng.choice([200, 3000, len(data)])))
        for at in rng.integers(0, reach, 6):
            broken[at] = rng.integers(256)
        path.write_bytes(broken)
        texts.append(outcome(path))
    texts += [str(w.message) for w in recwarn] + [caplog.text, *capfd.readouterr()]
    text = "\n".join(texts).replace(str(path), "")  # Zeiss puts the id into the file's name
    for secret in SECRETS:
        assert secret.lower() not in text.lower()


def test_the_id_cannot_be_seen_in_the_stand_in(tmp_path):
    volume = read_volume(write_vol(tmp_path)[0])
    assert re.fullmatch(r"P[0-9a-f]{12}", volume.patient)
    assert re.fullmatch(r"V[0-9a-f]{12}", volume.volume)
