"""Translators from DFE to OCT: networks, losses, and which image goes with which."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.methods import Thumbnails, make_domains

from helpers import config
from helpers.data import two_modalities
from helpers.data.cache import read_scan
from helpers.data.scan import Scan
from helpers.data.simulated import simulate
from helpers.data.split import Data, Split
from helpers.data.two_modalities import (
    balanced_index,
    eye_name,
    matched,
    paired_batches,
    prepare_domains,
    side_of_body,
    truths_of,
    unpaired_batches,
)
from helpers.measures.layers import read_all
from helpers.translation.judge import Judge, Pool, architecture, set_rate
from helpers.translation.losses import (
    PLACES,
    column_places,
    grey,
    identity_loss,
    patch_nce,
    pixel_places,
    with_channels,
)
from helpers.translation.networks import (
    ColumnGenerator,
    InstanceNorm,
    PatchDiscriminator,
    ResNetGenerator,
    Translator,
    UNetGenerator,
    patch_layers,
)


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("network", [ResNetGenerator, UNetGenerator, ColumnGenerator])
def test_generators_keep_the_size_and_change_the_channels(network, size):
    few = {"blocks": 1} if network is ResNetGenerator else {}
    if network is not ColumnGenerator:
        few["positions"] = True
    for inputs, outputs in ((3, 1), (1, 3)):
        made = network(size, inputs, outputs, width=4, **few)
        drawn = made(torch.randn(2, inputs, size, size))
        assert drawn.shape == (2, outputs, size, size) and drawn.abs().max() <= 1


def test_the_published_networks_have_the_published_sizes():
    """Parameters as counted by others: ResNet-9 11.4 M, U-Net-256 54.4 M, PatchGAN 2.8 M."""
    count = lambda n: sum(p.numel() for p in n.parameters()) / 1e6  # noqa: E731
    assert count(ResNetGenerator(256, 3, 3)) == pytest.approx(11.38, abs=0.02)
    assert count(UNetGenerator(256, 3, 3)) == pytest.approx(54.4, abs=0.1)
    assert count(PatchDiscriminator(3)) == pytest.approx(2.77, abs=0.01)
    with pytest.raises(ValueError, match="64, 128, 256, 512"):
        UNetGenerator(100)


def test_a_logit_of_the_discriminator_sees_70_px_of_256_and_a_quarter_of_other_sizes():
    assert [patch_layers(size) for size in (64, 128, 256, 512)] == [2, 2, 3, 3]
    judge = PatchDiscriminator(width=2, layers=3)
    for module in judge.modules():  # norms look at the whole picture
        if isinstance(module, InstanceNorm):
            module.forward = lambda x: x
    picture = torch.zeros(1, 1, 256, 256, requires_grad=True)
    logits = judge(picture)
    (gradient,) = torch.autograd.grad(logits[0, 0, 15, 15], picture)
    seen = gradient[0, 0].abs().sum(1).nonzero()
    assert seen.max() - seen.min() + 1 == 70


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_is_the_published_one(layout):
    torch.manual_seed(0)
    maps = (3 * torch.randn(3, 5, 8, 6) + 7).to(memory_format=layout).requires_grad_()
    push = torch.randn(3, 5, 8, 6)
    ours, theirs = InstanceNorm()(maps), torch.nn.InstanceNorm2d(5)(maps)
    torch.testing.assert_close(ours, theirs)
    (a,), (b,) = (torch.autograd.grad(normed, maps, push) for normed in (ours, theirs))
    torch.testing.assert_close(a, b)


def test_what_the_column_network_draws_at_a_place_comes_from_about_it():
    network = ColumnGenerator(64, width=4)
    for module in network.modules():  # norms look at the whole picture
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x
    picture = torch.randn(1, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(picture)[0, 0, :, 32].sum(), picture)
    seen = gradient[0].abs().sum((0, 1)).nonzero().flatten()
    assert 12 < seen.min() <= 26 and 38 <= seen.max() < 52
    rows = gradient[0].abs().sum((0, 2)) > 0
    assert rows.all()  # but from every row of it
    assert network.features(picture)[-1].shape == (1, 16, 1, 64)


def test_column_skips_carry_no_rows():
    """Shuffling the rows of the first stage's features leaves what the decoder sees beside."""
    torch.manual_seed(0)
    column, pixel = (UNetGenerator(64, width=4, skips=s).eval() for s in ("column", "pixel"))
    pixel.load_state_dict(column.state_dict())
    seen = []
    for network in (column, pixel):
        network.up[-1].register_forward_hook(lambda _, given, __: seen.append(given[0]))
        network(torch.randn(1, 3, 64, 64))
    beside_column, beside_pixel = (x[:, x.shape[1] // 2 :] for x in seen)
    assert torch.allclose(beside_column.std(2), torch.zeros(()), atol=1e-6)
    assert beside_pixel.std(2).min() > 0
    with pytest.raises(ValueError, match="pixel, column"):
        UNetGenerator(64, skips="row")


def test_contrast_is_least_where_places_agree():
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(2, 20, 16), dim=2)
    same, other = patch_nce(unit, unit), patch_nce(unit, unit.roll(1, 1))
    assert same < 0.1 < 1 < other


@pytest.mark.parametrize("form", PLACES)
def test_places_of_two_maps_correspond(form):
    features = torch.randn(2, 3, 8, 6)
    places, chosen = PLACES[form](features, 5)
    again, _ = PLACES[form](features, 5, chosen)
    assert torch.equal(places, again) and places.shape[1] == 5
    rows_moved = features.roll(3, 2)
    moved, _ = PLACES[form](rows_moved, 5, chosen)
    assert torch.allclose(places, moved) == (form == "column")
    assert pixel_places(features, 99)[0].shape == (2, 48, 3)
    assert column_places(features, 99)[0].shape == (2, 6, 6)


def test_identity_of_unequal_channels_asks_for_no_colour():
    photograph = torch.rand(2, 3, 8, 8) * 2 - 1
    assert with_channels(photograph, 1).shape == (2, 1, 8, 8)
    assert torch.allclose(grey(with_channels(grey(photograph), 3)), grey(photograph), atol=1e-6)
    assert identity_loss(photograph, grey(photograph).expand(-1, 3, -1, -1)) < 1e-6
    assert identity_loss(photograph, -photograph) > 0.1


def test_the_pool_gives_older_images_half_of_the_time_and_is_saved_whole():
    torch.manual_seed(0)
    pool = Pool(10)
    for k in range(10):
        assert torch.equal(pool(torch.full((1, 1, 2, 2), float(k))), torch.full((1, 1, 2, 2), k))
    given = [float(pool(torch.full((1, 1, 2, 2), 99.0)).mean()) for _ in range(200)]
    assert np.mean(np.array(given) < 99) > 0.3 or 99.0 in [float(i.mean()) for i in pool.images]
    again = Pool(10)
    again.load_state_dict(pool.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(pool.images, again.images))


def test_the_rate_is_constant_and_then_falls_to_zero():
    settings = config.resolve(config.TrainCyclegan, ["--steps=100", "--lr=1", "--decay=0.4"], {})
    optimizers = {"one": torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)}
    rates = []
    for step in (0, 60, 80, 100):
        set_rate(optimizers, settings, step)
        rates.append(optimizers["one"].param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 0.5, 0.0]
    settings.steps, settings.hours = 0, 1.0
    set_rate(optimizers, settings, 10**6)
    assert optimizers["one"].param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize(("cls", "network", "has"), [
    (config.TrainCyclegan, "unet", "column, resnet"),
    (config.TrainPix2pix, "resnet", "column, unet"),
])  # fmt: skip
def test_a_network_that_a_notebook_has_not_is_refused_by_the_setting(cls, network, has):
    settings = config.resolve(cls, ["--preset=tiny", f"--network={network}"], {})
    with pytest.raises(ValueError, match=f"network='{network}': choose one of {has}"):
        architecture(settings, make_domains(paired=True), ["oct"])


def test_a_translator_goes_the_ways_it_was_built_for():
    both = Translator("resnet", ["oct", "dfe"], 64, width=4, blocks=1)
    photograph = torch.zeros(1, 3, 64, 64)
    assert both(photograph).shape == (1, 1, 64, 64)
    assert both(both(photograph), "dfe").shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match="draws oct only"):
        Translator("unet", ["oct"], 64, width=4)(photograph, "dfe")
    with pytest.raises(ValueError, match=r"takes images of \(3, 64, 64\), not \(3, 128, 128\)"):
        both(torch.zeros(1, 3, 128, 128))


class Channel(torch.nn.Module):
    """Translates by taking one channel of the photograph, times ``gain``."""

    def __init__(self, gain):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(float(gain)))

    def forward(self, images, to):
        return (images[:, :1] + 1) * self.gain - 1


def test_the_judge_prefers_true_scans_and_a_class_that_can_be_read():
    domains = make_domains(paired=True)  # the first channel of a photograph is its scan
    judge = Judge(domains, Thumbnails(), 64, "stretch")
    good, dark = judge(Channel(1)), judge(Channel(0.2))
    assert good < dark and judge.measured["kernel_distance"] > 0
    assert 0 <= judge.measured["class_auroc"] <= 1
    assert judge.preview(Channel(1)).shape == (16, 1, 64, 64)
    for split in (domains.dfe.validation, domains.oct.train):  # now classes differ in brightness
        sick = split.labels == "DRUSEN"
        split.images[sick] = np.minimum(split.images[sick], 90)
    judge = Judge(domains, Thumbnails(), 64, "stretch")
    judge(Channel(1))
    assert judge.measured["class_auroc"] > 0.95
    one_class = replace(domains, classes=("DRUSEN",))
    one_class.dfe.validation.scans[:] = [
        replace(scan, label="DRUSEN") for scan in domains.dfe.validation.scans
    ]
    judge = Judge(one_class, Thumbnails(), 64, "stretch")
    assert judge(Channel(1)) == judge.measured["kernel_distance"]


# ------------------------------------------------------------ data


def settings(folder, *arguments, cls=config.TrainCyclegan):
    given = ["--size=64", f"--runs={folder}", "--n-simulated=12", *arguments]
    return config.resolve(cls, given, {})


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("OCT_RUNS", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_unpaired_sides_share_no_patient(cached):
    domains = prepare_domains(settings(cached), progress=False)
    sides = [data.train for data in (domains.dfe, domains.oct)]
    assert not set(sides[0].patients) & set(sides[1].patients)
    assert all(set(side.labels) == {"NORMAL", "DRUSEN"} for side in sides)
    taught = {p for side in sides for p in side.patients}
    assert not taught & set(domains.oct.test.patients) | (taught & set(domains.dfe.test.patients))
    (photographs, labels), (scans, _) = next(unpaired_batches(domains, 4))
    assert photographs.shape == (4, 3, 64, 64) and scans.shape == (4, 1, 64, 64)
    assert set(labels.tolist()) <= {0, 1}


def test_classes_come_equally_often():
    index = balanced_index(np.array([0] * 7 + [1] * 3 + [2] * 2))
    labels = np.array([0] * 7 + [1] * 3 + [2] * 2)[index]
    assert np.bincount(labels).tolist() == [7, 7, 7] and set(index) == set(range(12))
    domains = make_domains(paired=False)
    few = [i for i, label in enumerate(domains.dfe.train.labels) if label == "DRUSEN" or i < 8]
    scans = [domains.dfe.train.scans[i] for i in few]
    domains.dfe.train = Split(domains.dfe.train.images[few], scans)
    stream = unpaired_batches(domains, 16)
    labels = np.concatenate([next(stream)[0][1].numpy() for _ in range(8)])
    assert abs(labels.mean() - 0.5) < 0.05


@pytest.mark.slow
def test_left_eyes_are_turned_where_all_names_tell(cached):
    as_they_are = prepare_domains(settings(cached), progress=False)
    turned = prepare_domains(settings(cached, "--orient=1"), progress=False)
    assert turned.oriented and not as_they_are.oriented
    for modality in ("dfe", "oct"):
        one, other = (getattr(d, modality).test for d in (as_they_are, turned))
        for before, after, scan in zip(one.images, other.images, other.scans):
            left = side_of_body(scan.path) == "left"
            assert np.array_equal(before[..., ::-1] if left else before, after)


@pytest.mark.slow
def test_an_eye_that_no_name_tells_is_not_guessed(cached):
    folder = cached / "unnamed"
    for patient in range(12):
        for label in ("NORMAL", "DRUSEN"):
            place = folder / label / f"p{patient}{label}"
            place.mkdir(parents=True)
            seed = patient + 50 * (label == "DRUSEN")  # one seed is nearly one picture
            Image.fromarray(simulate.make_eye(seed, label, size=64).oct).save(place / "1.png")
    wanted = settings(cached, "--orient=1", f"--data={folder}", "--framing=stretch")
    with pytest.warns(UserWarning, match="names of 24 images do not say which eye they show"):
        assert not prepare_domains(wanted, progress=False).oriented


def test_a_side_with_one_image_is_named(cached):
    folder = cached / "few"
    for patient in range(3):
        place = folder / "DRUSEN" / f"p{patient}"
        place.mkdir(parents=True)
        Image.fromarray(simulate.make_eye(patient, "DRUSEN", size=64).oct).save(place / "1.png")
    wanted = settings(cached, f"--data={folder}", "--framing=stretch", "--classes=DRUSEN")
    with pytest.raises(ValueError, match=r"OCT_DATA: 1 image\(s\) for train.*2 are needed"):
        prepare_domains(wanted, progress=False)


def test_a_row_of_a_band_is_as_many_micrometres_as_its_crop_says():
    scans = [Scan(f"simulated/DRUSEN/P0000{k}_OD", "oct", "simulated", "DRUSEN", f"P0000{k}")
             for k in range(4)]  # fmt: skip
    truths, plain = truths_of(scans, 64, "stretch")
    _, um = truths_of(scans, 64, "band")
    assert np.allclose(plain, [t.oct_um_per_px[1] for t in truths])
    assert ((um > 10) & (um < 25)).all()
    framed = np.stack([read_scan(scan, 64, "band") for scan in scans])
    readings = read_all(framed)
    for reading, truth, row in zip(readings, truths, um):
        thick = (truth.rows["BM"] - truth.rows["ILM"]) * truth.oct_um_per_px[1]
        assert np.nanmean(reading.thickness) * row == pytest.approx(thick.mean(), rel=0.06)


@pytest.mark.slow
def test_pairs_show_one_eye(cached):
    wanted = settings(cached, cls=config.TrainPix2pix)
    domains = prepare_domains(wanted, paired=True, progress=False)
    for side in ("train", "validation", "test"):
        dfe, oct = getattr(domains.dfe, side), getattr(domains.oct, side)
        assert [s.path for s in dfe.scans] == [s.path for s in oct.scans] and len(dfe)
    both, labels = next(paired_batches(domains, 3))
    assert both.shape == (3, 4, 64, 64) and labels.shape == (3,)


def test_names_join_the_pictures_of_an_eye():
    assert eye_name("a/P1_OD.png") == eye_name("b/P1_OD_oct.jpg") == "p1_od"
    assert eye_name("simulated/DRUSEN/P00001_OS") == "p00001_os"
    assert side_of_body("p1_od.png") == side_of_body("12_right.jpg") == "right"
    assert side_of_body("12_left") == "left" and side_of_body("p1") is None


def split_of(paths, patient="p"):
    scans = [Scan(path, "oct", "x", "DRUSEN", patient) for path in paths]
    return Split(np.zeros((len(paths), 1, 4, 4), np.uint8), scans)


def test_eyes_without_a_partner_are_counted_and_a_left_one_is_no_partner_of_a_right_one():
    with pytest.warns(UserWarning, match="a.P2_OD.png is a right eye, b.P2_OS.png a left one"):
        dfe, oct, lost = matched(
            split_of(["a/P1_OD.png", "a/P2_OD.png"]), split_of(["b/P1_OD.png", "b/P2_OS.png"])
        )
    assert [s.path for s in dfe.scans] == ["a/P1_OD.png"] and len(oct) == 1 and lost == 2


@pytest.mark.parametrize("only", ["OD", "OS"])
def test_eyes_that_their_folders_tell_apart_are_paired_each_with_itself(only):
    """P1/OD/1.png and P1/OS/1.png, of which one has no scan."""

    def eyes(side, those):
        split = split_of([f"{side}/{p}/{eye}/1.png" for p, eye in those])
        split.scans = [replace(s, patient=p, eye=e) for s, (p, e) in zip(split.scans, those)]
        return split

    every = [(p, eye) for p in ("P1", "P2") for eye in ("OD", "OS")]
    dfe, oct, lost = matched(eyes("a", every), eyes("b", [("P1", only), *every[2:]]))
    assert [s.path[2:] for s in dfe.scans] == [s.path[2:] for s in oct.scans]
    assert len(dfe) == 3 and lost == 1
    dfe, oct, lost = matched(eyes("a", every), eyes("b", [("P1", only)]))  # no name occurs twice
    assert [s.path[2:] for s in dfe.scans] == [f"P1/{only}/1.png"] and lost == 3


def test_what_bears_one_name_within_an_eye_is_no_pair():
    """Frames of a volume, or visits, beside one photograph."""
    frames = split_of([f"b/P1_OD.tif#{k}" for k in range(3)] + ["b/P2_OD.png"])
    with pytest.warns(UserWarning, match="4 pictures bear one name.*P1_OD.*left out"):
        dfe, _, lost = matched(split_of(["a/P1_OD.png", "a/P2_OD.png"]), frames)
    assert [s.path for s in dfe.scans] == ["a/P2_OD.png"] and lost == 4


def labelled(folder, monkeypatch, dfe, oct, paired=False):
    """Domains of two sources of which ``dfe`` and ``oct`` say the class of each patient."""

    def prepared(source, modality="oct", **how):
        sides = []
        for side in ("train", "validation", "test"):
            split = split_of([f"{modality}/{p}.png" for p in (dfe, oct)[modality == "oct"][side]])
            told = (dfe, oct)[modality == "oct"][side].items()
            split.scans = [replace(s, patient=p, label=c) for s, (p, c) in zip(split.scans, told)]
            sides.append(split)
        return Data(*sides, source=source, class_="x", manifest_hash="")

    monkeypatch.setattr(two_modalities, "prepare", prepared)
    return prepare_domains(settings(folder, "--data=a", "--dfe=b"), paired=paired, progress=False)


def by_turns(names, first="NORMAL", second="DRUSEN"):
    return {name: (first, second)[k % 2] for k, name in enumerate(names)}


def test_cases_and_controls_by_turns_teach_both_modalities(cached, monkeypatch):
    own = {side: by_turns(f"{side}{k}" for k in range(8))
           for side in ("train", "validation", "test")}  # fmt: skip
    domains = labelled(cached, monkeypatch, own, own)
    for data in (domains.dfe, domains.oct):
        assert sorted(data.train.labels) == ["DRUSEN"] * 2 + ["NORMAL"] * 2
    assert not set(domains.dfe.train.patients) & set(domains.oct.train.patients)


def test_a_class_that_is_lost_on_the_way_to_the_training_is_named(cached, monkeypatch):
    own = {side: by_turns(f"{side}{k}" for k in range(8))
           for side in ("train", "validation", "test")}  # fmt: skip
    own["train"] = {f"train{k}": "DRUSEN" if k == 0 else "NORMAL" for k in range(8)}
    with pytest.raises(ValueError, match="OCT_DFE: nobody of DRUSEN is left.*teach the other"):
        labelled(cached, monkeypatch, own, own)
    others = {side: {p if c == "NORMAL" else f"x{p}": c for p, c in patients.items()}
              for side, patients in own.items()}  # fmt: skip
    with pytest.raises(ValueError, match="OCT_DFE: nobody of DRUSEN is left.*both pictures"):
        labelled(cached, monkeypatch, own, others, paired=True)


def test_a_pair_of_two_classes_is_named(cached, monkeypatch):
    own = {side: by_turns(f"{side}{k}" for k in range(8))
           for side in ("train", "validation", "test")}  # fmt: skip
    other = own | {"test": own["test"] | {"test0": "DRUSEN"}}
    with pytest.warns(UserWarning, match=r"1 pairs have two classes, as dfe/test0.png \(NORMAL\)"):
        labelled(cached, monkeypatch, own, other, paired=True)


def test_a_stand_in_is_a_partner_within_its_class_alone():
    """001.png lies in the folders of all classes, and the blocks of two sources are nobody."""
    sides = [split_of([f"{side}/{k}.png" for k in range(4)]) for side in "ab"]
    for split, labels in zip(sides, (["NORMAL"] * 3 + ["DRUSEN"], ["NORMAL"] + ["DRUSEN"] * 3)):
        split.scans = [replace(scan, label=label, patient=f"{label}-block0")
                       for scan, label in zip(split.scans, labels)]  # fmt: skip
    dfe, oct, lost = matched(*sides)
    assert [scan.path for scan in dfe.scans] == ["a/0.png", "a/3.png"] and lost == 4
    assert (dfe.labels == oct.labels).all()


def test_stand_ins_of_two_sources_are_not_one_patient(cached, monkeypatch):
    def prepared(source, modality="oct", **how):
        blocks = [[0, 1, 2], [3], [4]] if modality == "oct" else [[2, 3, 4], [0], [1]]
        sides = []
        for some in blocks:
            side = split_of([f"{modality}{k}-{n}.png" for k in some for n in range(4)])
            side.scans = [replace(s, patient=f"DRUSEN-block{s.path[3]}") for s in side.scans]
            sides.append(side)
        return Data(*sides, source=source, class_="DRUSEN", manifest_hash="")

    monkeypatch.setattr(two_modalities, "prepare", prepared)
    domains = prepare_domains(
        settings(cached, "--data=a", "--dfe=b", "--classes=DRUSEN"), progress=False
    )
    assert len(domains.dfe.train) == len(domains.oct.train) == 12


@pytest.mark.slow
def test_classes_bring_labels_together_and_a_missing_one_is_named(cached):
    for patient in range(16):
        for modality, condition in (("oct", "AMD"), ("oct", "NORMAL"), ("dfe", "AMD_DRY")):
            folder = cached / modality / condition / f"p{patient}{condition}"
            folder.mkdir(parents=True)
            eye = simulate.make_eye(patient + 99 * (condition == "AMD"), "DRUSEN", size=64)
            Image.fromarray(eye.oct if modality == "oct" else eye.dfe).save(folder / "1.png")
    where = [f"--data={cached}/oct", f"--dfe={cached}/dfe", "--dfe-framing=full"]
    wanted = settings(cached, *where, "--classes=DRUSEN+AMD+AMD_DRY")
    domains = prepare_domains(wanted, progress=False)
    assert domains.classes == ("DRUSEN",)
    assert set(domains.dfe.train.labels) == set(domains.oct.train.labels) == {"DRUSEN"}
    with pytest.raises(ValueError, match="OCT_DFE: no NORMAL .*It has AMD_DRY"):
        prepare_domains(settings(cached, *where, "--classes=NORMAL,AMD+AMD_DRY"), progress=False)
    with pytest.raises(ValueError, match="no pairs for"):
        prepare_domains(
            settings(cached, *where, "--classes=DRUSEN+AMD+AMD_DRY", "--framing=stretch"),
            paired=True, progress=False,
        )  # fmt: skip


def test_findings_in_small_letters_are_findings():
    labels = ["drusen", "Drusen; dr", "other"]
    scans = [Scan(f"{k}.png", "oct", "x", label, str(k)) for k, label in enumerate(labels)]
    split = Split(np.zeros((3, 1, 8, 8), np.uint8), scans)
    data = Data(split, split, split, source="x", class_="x", manifest_hash="")
    found, ambiguous = two_modalities.renamed(data, {"DRUSEN": "DRUSEN", "DR": "DR"}, True)
    assert found.train.labels.tolist() == ["DRUSEN", "DRUSEN;DR"] and not ambiguous


def test_the_cache_lies_where_the_runs_do(cached, monkeypatch):
    asked = []

    def prepared(source, cache=None, **how):
        asked.append(cache)
        raise StopIteration

    monkeypatch.setattr(two_modalities, "prepare", prepared)
    with pytest.raises(StopIteration):
        prepare_domains(settings(cached / "big disk"))
    assert asked == [cached / "big disk" / "cache"]


def test_a_small_band_of_a_simulated_eye_has_a_smooth_rpe():
    """Flattened at 64 px its columns would jump by whole pixels."""
    scan = Scan("simulated/NORMAL/P00003_OD", "oct", "simulated", "NORMAL", "P00003")
    small, large = (read_scan(scan, size, "band")[0] for size in (64, 256))
    assert small.shape == (64, 64)
    reduced = np.asarray(Image.fromarray(large).resize((64, 64), Image.Resampling.BICUBIC), float)
    assert np.abs(small - reduced).mean() < 0.5


@pytest.mark.slow
def test_a_patient_held_out_on_one_side_teaches_nothing_on_the_other(cached):
    """Sources that share some patients are split differently."""
    for patient in range(30):
        for modality in ("dfe",) * (patient < 22) + ("oct",) * (patient >= 8):
            place = cached / modality / "DRUSEN" / f"p{patient}"
            place.mkdir(parents=True)
            eye = simulate.make_eye(patient, "DRUSEN", size=64)
            Image.fromarray(eye.oct if modality == "oct" else eye.dfe).save(place / "1.png")
    where = [f"--data={cached}/oct", f"--dfe={cached}/dfe", "--dfe-framing=full"]
    domains = prepare_domains(settings(cached, *where, "--classes=DRUSEN"), progress=False)
    taught = {p for data in (domains.dfe, domains.oct) for p in data.train.patients}
    for data in (domains.dfe, domains.oct):
        assert taught and not taught & {*data.validation.patients, *data.test.patients}


def test_without_a_pool_the_newest_images_are_judged():
    image = torch.ones(2, 1, 2, 2)
    assert torch.equal(Pool(0)(image), image)
