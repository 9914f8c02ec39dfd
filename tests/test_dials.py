"""Dials of the disease: read off training scans, told to the networks, asked of a generator."""

import csv
import re

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from support.methods import Thumbnails

from helpers import config
from helpers.data import shape
from helpers.data.pixels import to_levels
from helpers.data.prepare import prepare
from helpers.gan import dials as of_dials
from helpers.gan import gan, judging, sampling
from helpers.gan.dials import (
    LEFT_OPEN,
    RULED,
    leave_open,
    louder,
    misread,
    read_dials,
    with_dials,
)
from helpers.gan.recipes import with_recipe
from helpers.gan.sampling import draw_noise, has_dials, sample, sample_asked
from helpers.gan.start import start_from
from helpers.generate import export, load_generator, main, read_asked
from helpers.measures.layers import measure
from helpers.training.network_file import write_network

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
DIALS = dict(zip(shape.DIALS, (2.0, 2.5, 0.3)))


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    about = dict(class_="all", n_simulated=8, cache=tmp_path_factory.mktemp("c"), progress=False)
    crops = prepare("simulated", size=64, framing="aligned", **about).train
    return crops, prepare("simulated", size=RULED, **about).train


@pytest.fixture(scope="module")
def bank(sides):
    crops, whole = sides
    return shape.Shapes(with_dials(crops, whole), crops.labels)


def generator_file(folder, dials=True, seed=0):
    """An untrained generator of two classes with a bank of shapes that differ in their dials."""
    torch.manual_seed(seed)
    s = with_recipe(config.TrainGan(size=64, width=4, z_dim=8, dials=dials))
    generator, _, about = gan.build(s, ("DRUSEN", "NORMAL"))
    rng = np.random.default_rng(seed)
    values = np.abs(rng.normal(1, 0.1, (80, len(shape.FIELDS)))).astype(np.float32)
    values[:, shape.AT["height"]] = values[:, shape.AT["width"]] = 64
    values[:, shape.AT["place"]], values[:, shape.AT["thickness"]] = 0.7, 0.3
    values[:, shape.AT["white"]] = 200
    values[:, shape.DIALLED] = rng.uniform(0, 4, (80, 3))
    values[40:, shape.DIALLED] = 0  # NORMAL
    state = generator.state_dict() | {"shapes": torch.from_numpy(values),
                                      "shape_labels": torch.arange(80) // 40}  # fmt: skip
    path = folder / f"generator{int(dials)}.safetensors"
    write_network(path, state, about | {"class": "DRUSEN"})
    return path


def test_dials_are_what_the_ruler_reads_and_of_the_right_scan(sides, bank):
    crops, whole = sides
    number = 3
    (same,) = [k for k, s in enumerate(whole.scans) if s.path == crops.scans[number].path]
    values = measure(whole.images[same : same + 1])
    told = bank.values[number, shape.DIALLED]
    assert told[0] == values["drusen_count"][0]
    assert told[2] == pytest.approx(values["drusen_area"][0], rel=1e-5)
    mean = {k: bank.of(k)[:, shape.AT["drusen"]].mean() for k in ("NORMAL", "DRUSEN")}
    assert mean["DRUSEN"] > 1 > mean["NORMAL"]


def test_a_scan_that_cannot_be_read_has_its_classes_mean(sides):
    crops, whole = sides
    images = np.array(whole.images)
    lost = int(np.flatnonzero(whole.labels == "DRUSEN")[0])
    images[lost] = 0
    assert np.isnan(read_dials(images[lost : lost + 1])).all()
    damaged = type(whole)(images, whole.scans)
    shapes = with_dials(crops, damaged)[:, shape.DIALLED]
    own = np.array([s.label == "DRUSEN" and s.path != whole.scans[lost].path for s in crops.scans])
    (at,) = [k for k, s in enumerate(crops.scans) if s.path == whole.scans[lost].path]
    np.testing.assert_allclose(shapes[at], shapes[own].mean(0), rtol=1e-5)


def test_drawn_dials_are_like_those_of_the_scans_and_follow_what_is_asked(bank):
    own = bank.of("DRUSEN")[:, shape.DIALLED]
    drawn = bank.draw(200, "DRUSEN", seed=1)[:, shape.DIALLED]
    assert drawn.min() >= 0
    assert np.abs(drawn.mean(0) - own.mean(0)).max() < 0.5 * own.std(0).max()
    values = np.repeat(bank.values[:1], 100, 0)
    values[:, shape.AT["drusen"]] = np.arange(100) / 20
    values[:, shape.AT["area"]] = np.arange(100) / 100 + np.random.default_rng(0).normal(
        0, 0.1, 100
    )
    asked = shape.Shapes(values, ["DRUSEN"] * 100)
    few, many = (asked.draw(60, "DRUSEN", 1, {"drusen": v})[:, shape.DIALLED] for v in (0.5, 4.5))
    assert np.all(few[:, 0] == 0.5) and np.all(many[:, 0] == 4.5)
    assert few[:, 2].mean() < 0.35 < 0.65 < many[:, 2].mean()  # with more drusen goes more area


def test_networks_are_told_the_dials(tmp_path):
    generator = load_generator(generator_file(tmp_path))
    assert has_dials(generator) and generator.looks == len(shape.TOLD)
    with torch.no_grad():  # an untrained one shows little of it
        generator.louder.weight[:, 3:] = 2
    one = sample(generator, 4, class_name="DRUSEN", dials=DIALS, shape="aligned")
    other = sample(generator, 4, class_name="DRUSEN", dials={"drusen": 3.5}, shape="aligned")
    assert (one - other).abs().mean() > 0.01
    again = sample(generator, 4, class_name="DRUSEN", dials=DIALS, shape="aligned")
    torch.testing.assert_close(one, again)


def test_a_generator_from_before_there_were_dials_draws_as_it_did(tmp_path):
    path = generator_file(tmp_path, dials=False)
    generator = load_generator(path)
    plain = sample(generator, 3, class_name="DRUSEN")
    generator.shapes = shape.Shapes(generator.shapes.values[:, : -len(shape.DIALS)],
                                    generator.shapes.labels)  # fmt: skip
    assert generator.shapes.values.shape[1] == len(shape.FIELDS) and not has_dials(generator)
    assert sample(generator, 3, class_name="DRUSEN").shape == plain.shape
    with pytest.raises(ValueError, match="drusen.*trained without dials"):
        sample(generator, 3, class_name="DRUSEN", dials={"drusen": 1})


@pytest.mark.parametrize(("dials", "why"), [
    ({"drusen": 40}, r"drusen=40.*DRUSEN have .* to "), ({"fluid": 1}, "fluid: there are drusen"),
])  # fmt: skip
def test_what_no_scan_has_is_refused(tmp_path, dials, why):
    with pytest.raises(ValueError, match=why):
        sample(load_generator(generator_file(tmp_path)), 2, class_name="DRUSEN", dials=dials)


@pytest.mark.parametrize(("dials", "fits"), [
    ({"drusen": 3, "highest": 3, "area": 0.3}, True), ({"drusen": 6, "highest": 4.5}, True),
    ({"drusen": 8, "highest": 1}, False), ({"drusen": 0, "highest": 2}, False),
    ({"drusen": 0, "highest": 0}, True),
])  # fmt: skip
def test_dials_that_no_scan_has_together_are_refused(dials, fits):
    values = np.ones((9, len(shape.FIELDS)), np.float32)
    values[:, shape.DIALLED] = np.arange(9)[:, None] * [1, 1, 0.1]  # more are higher and larger
    asked = shape.Shapes(values, ["DRUSEN"] * 9)
    if fits:
        assert len(asked.draw(2, "DRUSEN", 0, dials)) == 2
        return
    with pytest.raises(ValueError, match=r"drusen=\d, highest=\d: no scan of DRUSEN.* nearest has"):
        asked.draw(2, "DRUSEN", 0, dials)


def test_a_labelled_data_set_knows_its_dials(tmp_path):
    path = generator_file(tmp_path)
    export(load_generator(path), tmp_path / "out", 3, class_name="DRUSEN", dials={"drusen": 2.0},
           progress=False)  # fmt: skip
    with (tmp_path / "out" / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["drusen"] for row in rows] == ["2"] * 3
    assert all(float(row["area"]) >= 0 for row in rows)


def test_the_command_takes_dials_and_refuses_nonsense(tmp_path, capsys):
    path = str(generator_file(tmp_path))
    asked = [path, "--n=1", "--class=DRUSEN"]
    main([*asked, f"--out={tmp_path / 'a'}", "--dial", "drusen=1.5", "--dial", "highest=2"])
    assert "1.5" in (tmp_path / "a" / "images.csv").read_text()
    for dial in ("drusen", "drusen=many"):
        with pytest.raises(SystemExit):
            main([*asked, f"--out={tmp_path / 'b'}", "--dial", dial])
        assert "NAME=NUMBER" in capsys.readouterr().err


def test_what_is_drawn_too_little_is_told_more_of(monkeypatch):
    asked = np.tile(np.float32([3.0, 4.0, 0.5]), (6, 1))
    scans = np.zeros((6, 1, 8, 8), np.uint8)

    def told(read, before=(1, 1, 1), asked=asked):
        monkeypatch.setattr("helpers.gan.dials.read_dials", lambda _: np.float32(read))
        return louder(before, asked, scans).tolist()

    half = asked * [0.5, 1, 2]
    assert told(half) == [2, 1, 0.5]
    assert told(half, before=(1.2, 1.5, 0.6)) == pytest.approx([2.4, 1.5, 0.5])  # 0.3 is too far
    assert told(asked * 0) == [2.5] * 3  # nothing drawn yet
    half[:3] = np.nan  # what cannot be read does not count
    assert told(half) == [2, 1, 0.5] and told(half * np.nan, (2, 2, 2)) == [2, 2, 2]
    assert told(asked, (1.3, 1, 1), asked * 0) == [1.3, 1, 1]  # a class without drusen


def test_a_generator_listens_and_what_it_is_told_is_exported_and_kept(sides, monkeypatch, tmp_path):
    crops, whole = sides
    s = with_recipe(config.TrainGan(size=64, width=4, z_dim=8, validation_images=4, batch_size=2,
                                    dials=True, framing="aligned"))  # fmt: skip
    bank = shape.Shapes(with_dials(crops, whole), crops.labels)
    method = gan.GAN(s, whole.images[:4], Thumbnails(), ("DRUSEN", "NORMAL"),
                     labels=np.full(4, "DRUSEN"), shapes=bank)  # fmt: skip
    network = method.networks["generator"]
    before = judging.generate(method, network, method.validation_noise)
    monkeypatch.setattr("helpers.gan.dials.read_dials", lambda scans: np.full((len(scans), 3), 0.1))
    method.validate(network)
    assert method.architecture["louder"][0] == 2.5 == method.louder[0]
    after = judging.generate(method, network, method.validation_noise)
    assert not torch.equal(before, after)

    network.metadata, network.shapes = method.architecture | {"class": "DRUSEN"}, bank
    shapes = bank.draw(4, "DRUSEN", 0)
    looks = torch.from_numpy(shape.look(shapes, method.louder))
    z = next(draw_noise(4, network.z_dim, 0))
    label = torch.zeros(4, dtype=torch.long)
    with torch.inference_mode():
        expected = network.eval()(z, label, looks).clamp(-1, 1)
        softly = network(z, label, torch.from_numpy(shape.look(shapes))).clamp(-1, 1)
    away = [(sample(network, 4, class_name="DRUSEN", shape="aligned") - other).abs().max()
            for other in (expected, softly)]  # fmt: skip
    assert away[0] < 3e-4 < away[1] / 3  # three digits of it are exported

    other = gan.GAN(s, whole.images[:4], method.features, ("DRUSEN", "NORMAL"),
                    labels=np.full(4, "DRUSEN"), shapes=bank)  # fmt: skip
    other.load_state_dict(method.state_dict())
    assert (other.louder == method.louder).all()

    write_network(tmp_path / "begun.safetensors", network.state_dict(), network.metadata)
    discriminator = method.networks["discriminator"].state_dict()
    monkeypatch.setattr("helpers.gan.start._discriminator", lambda path: discriminator)
    other.louder = np.ones(3)
    start_from(other, tmp_path / "begun.safetensors")
    assert other.louder.tolist() == method.architecture["louder"] == other.architecture["louder"]


def table(folder, *lines):
    path = folder / "visits.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_visits_of_one_eye_differ_in_what_was_asked_alone(tmp_path):
    path = str(generator_file(tmp_path))
    asked = table(tmp_path, "class,eye,drusen", "DRUSEN,7700001 OD,0.5", "DRUSEN,7700001 OD,3",
                  "DRUSEN,b,3", "NORMAL,,", "", "DRUSEN,7700001 OD,0.5")  # fmt: skip
    main([path, "--ask", str(asked), "--out", str(tmp_path / "out")])
    with (tmp_path / "out" / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["class"], r["eye"]) for r in rows] == [
        *(("DRUSEN", eye) for eye in ["7700001 OD"] * 2 + ["b", "7700001 OD"]),
        ("NORMAL", "of row 4")]  # fmt: skip
    assert [r["drusen"] for r in rows[:4]] == ["0.5", "3", "3", "0.5"]
    assert rows[0]["highest"] == rows[1]["highest"]

    generator = load_generator(path)
    one = [(3, {"drusen": 0.5}), (3, {"drusen": 3.0}), (3, {"drusen": 0.5})]
    shapes, batches = sample_asked(generator, "DRUSEN", one)
    other = np.delete(shapes, shape.AT["drusen"], 1)
    assert (other == other[0]).all() and shapes[0, shape.AT["drusen"]] == 0.5
    as_it_comes = generator.shapes.draw(4, "DRUSEN", 0)[3]
    assert (np.delete(as_it_comes, shape.AT["drusen"]) == other[0]).all()
    first, _, again = to_levels(torch.cat(list(batches)))[:, 0].astype(int)
    assert np.abs(first - again).max() < 10  # speckle: the rest is one eye's


@pytest.mark.parametrize(("lines", "why"), [
    (["label,drusen", "DRUSEN,1"], "needs the column class"),
    (["class,drusen,colour", "DRUSEN,1,red"], "colour"),
    (["class,drusen", "DRUSEN,many"], "line 2.*many"),
    (["class,drusen", "DRUSEN,900"], "drusen=900"),
    (["class,drusen", "CNV,1"], "CNV"),
    (["class,drusen", ",1"], "class : this generator draws"),
    (["class,drusen"], "no row"),
    (["class,eye,drusen", "DRUSEN,a,1,5"], "visits.csv, line 2: 4 values"),
    (["class,drusen,drusen", "DRUSEN,1,3"], "each once"),
])  # fmt: skip
def test_a_table_that_cannot_be_drawn_is_named(tmp_path, capsys, lines, why):
    path, asked = str(generator_file(tmp_path)), str(table(tmp_path, *lines))
    with pytest.raises(SystemExit):
        main([path, "--ask", asked, "--out", str(tmp_path / "out")])
    assert re.search(why, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "coding"), [
    ("Class;Eye;drusen\nDRUSEN;M\xfcller;1,5\n", "cp1252"),
    ("class\teye\tdrusen\nDRUSEN\tM\xfcller\t1.5\n", "utf-16"),
])  # fmt: skip
def test_a_table_of_any_spreadsheet_is_read(tmp_path, text, coding):
    (tmp_path / "asked.csv").write_bytes(text.encode(coding))
    assert read_asked(tmp_path / "asked.csv") == {"DRUSEN": [("M\xfcller", {"drusen": 1.5})]}


def test_the_range_that_is_said_can_be_asked_for():
    values = np.ones((9, len(shape.FIELDS)), np.float32)
    values[:, shape.AT["highest"]] = np.linspace(0.126, 3.987, 9)
    bank = shape.Shapes(values, ["DRUSEN"] * 9)
    with pytest.raises(ValueError, match="have 0.126 to 3.99"):
        bank.check_dials("DRUSEN", {"highest": 4.0})
    bank.check_dials("DRUSEN", {"highest": 3.99})


def test_a_size_that_cannot_be_drawn_leaves_no_folder(tmp_path, capsys):
    path, out = str(generator_file(tmp_path)), tmp_path / "out"
    with pytest.raises(SystemExit):
        main([path, "--n=1", "--size=20", f"--out={out}"])
    assert "size=20" in capsys.readouterr().err and not out.exists()


def test_a_dial_that_is_told_louder_still_tells_many_from_more(bank):
    shapes = bank.draw(2, "DRUSEN")
    shapes[:, shape.AT["drusen"]] = 4, 6
    few, many = shape.look(shapes, (2.5, 1, 1))[:, len(shape.LOOK)]
    assert many > few + 1


def test_dials_are_left_open_now_and_then():
    looks = torch.from_numpy(shape.look(np.random.default_rng(0).random((400, len(shape.FIELDS)))))
    left = leave_open(looks)
    nothing = left[:, -1] == 1
    assert abs(nothing.float().mean() - LEFT_OPEN) < 0.1 and not looks[:, -1].any()
    assert not left[nothing][:, len(shape.LOOK) : -1].any()
    assert torch.equal(left[~nothing], looks[~nothing])
    assert torch.equal(left[:, : len(shape.LOOK)], looks[:, : len(shape.LOOK)])
    assert leave_open(looks, 1)[:, -1].all()


def test_the_generator_is_held_to_what_it_was_told(sides, monkeypatch):
    crops, whole = sides
    bank = shape.Shapes(with_dials(crops, whole), crops.labels)
    s = with_recipe(config.TrainGan(size=64, width=4, z_dim=8, validation_images=2, batch_size=4,
                                    dials=True))  # fmt: skip
    told = torch.arange(4) % 2, torch.from_numpy(shape.look(bank.values[:4]))

    def learned(weight):
        monkeypatch.setattr(gan, "OBEYING", weight)
        torch.manual_seed(0)
        method = gan.GAN(s, whole.images[:4], Thumbnails(), ("DRUSEN", "NORMAL"),
                         labels=np.full(4, "DRUSEN"), shapes=bank)  # fmt: skip
        record = method.step((torch.from_numpy(crops.images[:4]).float() / 127.5 - 1, *told),
                             Accelerator(cpu=True))  # fmt: skip
        return record, *(network.state_dict() for network in method.networks.values())

    (record, generator, judge), (_, held, same) = learned(0.0), learned(10.0)
    assert record["loss_dials"] > 0
    assert any(not torch.equal(generator[name], held[name]) for name in generator)
    assert all(torch.equal(judge[name], same[name]) for name in judge)


def test_an_error_of_dials_that_are_left_open_does_not_count():
    looks = torch.zeros(2, len(shape.TOLD))
    looks[:, len(shape.LOOK) : -1] = torch.tensor([[2.0, 0, 0], [5.0, 5, 5]])
    looks[1, -1] = 1
    assert misread(torch.zeros(2, 3), looks).item() == pytest.approx(4 / 6)


@pytest.mark.parametrize(("given", "told"), [
    ({}, True), ({"data": "/scans"}, False), ({"dials": False}, False), ({"model": "dcgan"}, False),
    ({"framing": "stretch"}, False), ({"model": "flow"}, False), ({"model": "stylegan"}, False),
    ({"data": "/scans", "dials": True}, True),
])  # fmt: skip
def test_dials_are_told_of_simulated_eyes_and_where_asked_for(given, told):
    assert with_recipe(config.TrainGan(**given)).dials is told


def test_a_training_that_begins_with_dials_goes_on_with_them(tmp_path):
    for dials in (True, False):
        begun = dict(data="/scans", start=str(generator_file(tmp_path, dials)))
        assert with_recipe(config.TrainGan(**begun)).dials is dials
    assert with_recipe(config.TrainGan(data="/scans", start="nowhere")).dials is False


@pytest.mark.parametrize("dials", [{}, {"drusen": 1}, {"drusen": 3}])
def test_drusen_that_are_drawn_have_a_height_and_an_area(dials):
    bank = load_generator("simulated").shapes
    drawn = bank.draw(300, "DRUSEN", 0, dials)[:, shape.DIALLED]
    some = drawn[:, 0] > 0
    assert some.mean() > 0.9 and (drawn[some] > 0.01).all() and not drawn[~some].any()


def test_of_no_druse_no_height_is_told(bank):
    shapes = np.repeat(bank.draw(1, "DRUSEN"), 2, 0)
    shapes[:, shape.DIALLED] = [[0, 3, 0.4], [0, 0, 0]]  # a slider at 0; a scan without drusen
    one, other = shape.look(shapes)
    assert (one == other).all()


def test_without_drusen_there_is_no_height_and_no_area(bank):
    assert bank.draw(20, "DRUSEN", 0)[:, shape.AT["highest"]].mean() > 0
    assert not bank.draw(20, "DRUSEN", 0, {"drusen": 0})[:, shape.DIALLED].any()
    assert bank.draw(20, "DRUSEN", 0, {"drusen": 1})[:, shape.AT["highest"]].mean() > 0


def test_what_a_table_says_is_not_said_twice(tmp_path, capsys):
    asked = str(table(tmp_path, "class,drusen", "DRUSEN,1"))
    with pytest.raises(SystemExit):
        main([str(generator_file(tmp_path)), "--ask", asked, "--class=DRUSEN", "--out=x"])
    assert "--ask" in capsys.readouterr().err


def test_a_training_with_dials_begins_from_weights_without(tmp_path, sides, monkeypatch):
    crops, whole = sides
    bank = shape.Shapes(with_dials(crops, whole), crops.labels)

    def begun(dials):
        s = with_recipe(config.TrainGan(size=64, width=4, z_dim=8, validation_images=2,
                                        batch_size=2, dials=dials))  # fmt: skip
        return gan.GAN(s, whole.images[:4], lambda images: np.zeros((len(images), 4), np.float32),
                       ("DRUSEN", "NORMAL"), labels=np.full(4, "DRUSEN"), shapes=bank)  # fmt: skip

    known, method = begun(False), begun(True)
    discriminator = known.networks["discriminator"].state_dict()
    monkeypatch.setattr("helpers.gan.start._discriminator", lambda path: discriminator)
    path = tmp_path / "known.safetensors"
    write_network(path, known.networks["generator"].state_dict(), known.architecture)
    assert "DRUSEN, NORMAL" in start_from(method, path)
    generator = method.networks["generator"]
    with torch.no_grad():
        assert not generator.louder.weight[:, len(shape.LOOK) :].any()
        z = torch.randn(1, generator.z_dim)
        label = torch.zeros(1, dtype=torch.long)
        looks = torch.zeros(2, method.looks)
        looks[1, len(shape.LOOK) :] = 2.0  # of no effect before it is learned
        one, other = (generator(z, label, look[None]) for look in looks)
    torch.testing.assert_close(one, other)


def test_to_levels_of_what_is_drawn_can_be_read(tmp_path):
    drawn = sample(load_generator(generator_file(tmp_path)), 2, class_name="NORMAL")
    assert read_dials(to_levels(drawn)).shape == (2, 3)


def test_of_several_tries_the_most_obedient_is_kept(tmp_path, monkeypatch):
    """The ruler here reads how bright a scan is, and darkness is what was asked for."""
    generator, seen = load_generator(generator_file(tmp_path)), []

    def too_bright(scans, asked):
        seen.append(scans.mean((1, 2, 3)))
        return seen[-1]

    monkeypatch.setattr(sampling, "misdrawn", too_bright)
    about = dict(seed=5, class_name="DRUSEN", batch=2)
    kept = to_levels(sample(generator, 5, tries=4, **about)).mean((1, 2, 3))
    of_each = [np.stack(seen[k : k + 4]) for k in (0, 4, 8)]  # batches of 2, 2 and 1
    assert len(seen) == 12
    assert kept == pytest.approx(np.concatenate([one.min(0) for one in of_each]), abs=0.1)
    first = to_levels(sample(generator, 5, **about)).mean((1, 2, 3))
    assert first == pytest.approx(np.concatenate([one[0] for one in of_each]), abs=0.1)
    assert (kept < first - 0.1).any()


def test_visits_of_one_eye_are_tried_together(tmp_path, monkeypatch):
    generator = load_generator(generator_file(tmp_path))
    off = iter([np.array([0, 9, 1.0]), np.array([4, 4, 2.0])])  # of visits a, a, b
    monkeypatch.setattr(sampling, "misdrawn", lambda scans, asked: next(off))
    asked = [(0, {"drusen": 1.0}), (0, {"drusen": 1.0}), (1, {"drusen": 1.0})]
    _, batches = sample_asked(generator, "DRUSEN", asked, tries=2)
    a, again, b = to_levels(torch.cat(list(batches))).astype(int)
    assert np.abs(a - again).max() < 10  # speckle
    _, batches = sample_asked(generator, "DRUSEN", asked)
    once_a, _, once_b = to_levels(torch.cat(list(batches))).astype(int)
    assert np.abs(b - once_b).max() < 2  # the first try was better for b, the second for a
    assert np.abs(a - once_a).max() > 10


def test_what_is_misdrawn_is_counted_in_what_networks_are_told(monkeypatch):
    read = np.array([[2, 2.5, 0.3], [3.5, 2.5, 0.3], [0, 0, 0], [np.nan] * 3], np.float32)
    monkeypatch.setattr(of_dials, "read_dials", lambda scans: read)
    off = of_dials.misdrawn(np.zeros((4, 1, 64, 64), np.uint8), np.array([[2, 2.5, 0.3]] * 4))
    assert off[:2] == pytest.approx([0, 1])  # 1.5 drusen more are one unit
    assert off[2] > 1 and off[3] == of_dials.UNREAD


def test_tries_are_written_down_and_refused_where_nothing_is_asked(tmp_path, capsys):
    path = str(generator_file(tmp_path))
    main([path, "--n=1", "--class=DRUSEN", "--tries=2", f"--out={tmp_path / 'a'}"])
    with (tmp_path / "a" / "images.csv").open() as file:
        assert [row["tries"] for row in csv.DictReader(file)] == ["2"]
    without = str(generator_file(tmp_path, dials=False))
    for run, *more, why in ((without, "without dials"), (path, "--shape=aligned", "whole scans"),
                            (path, "--like=simulated", "--like")):  # fmt: skip
        with pytest.raises(SystemExit):
            main([run, "--n=1", "--tries=2", f"--out={tmp_path / 'b'}", *more])
        assert why in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([path, "--n=1", "--tries=0", f"--out={tmp_path / 'b'}"])
    assert "tries=0" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_an_eye_drawn_healthy_that_is_asked_for_drusen_has_a_height(tmp_path, monkeypatch):
    """A number without a height tells the networks of no druse, and would be called obeyed."""
    generator = load_generator(generator_file(tmp_path))
    bank, drawn = generator.shapes, generator.shapes.draw(2, "DRUSEN", 0)
    drawn[1, shape.DIALLED] = 0
    monkeypatch.setattr(bank, "draw", lambda *_: drawn.copy())
    shapes, _ = sample_asked(generator, "DRUSEN", [(eye, {"drusen": 2.0}) for eye in range(2)])
    asked = shapes[:, shape.DIALLED]
    assert (asked[:, 0] == 2).all() and (asked > 0).all()
    assert (asked[0, 1:] == drawn[0, shape.DIALLED[1:]]).all()  # who has drusen keeps the rest
    shapes, _ = sample_asked(generator, "DRUSEN", [(1, {}), (1, {"highest": 1.5})])
    assert (shapes[0, shape.DIALLED] == 0).all() and shapes[1, shape.AT["highest"]] == 1.5


def test_nothing_is_tried_before_the_folder_and_the_size_are_looked_at(tmp_path, monkeypatch):
    path = generator_file(tmp_path)
    monkeypatch.setattr(sampling, "misdrawn", None)  # nobody may ask
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    asked = {"DRUSEN": [("a", {"drusen": 1.0})]}
    with pytest.raises(FileExistsError):
        export(load_generator(path), tmp_path / "full", 1, asked=asked, tries=3, progress=False)
    with pytest.raises(ValueError, match="size=32"):
        sample_asked(load_generator(path), "DRUSEN", [(0, {})], size=32, tries=2)
    with pytest.raises(ValueError, match="seed=-1"):
        sample_asked(load_generator(path), "DRUSEN", [(0, {})], seed=-1)


def test_one_visit_that_nobody_can_read_does_not_decide(tmp_path, monkeypatch):
    generator = load_generator(generator_file(tmp_path))
    nobody = of_dials.UNREAD
    off = iter([np.array([9.0, nobody]), np.array([0.0, nobody])])
    monkeypatch.setattr(sampling, "misdrawn", lambda scans, asked: next(off))
    visits = [(0, {"drusen": 1.0}), (0, {"drusen": 2.0})]
    tried = to_levels(torch.cat(list(sample_asked(generator, "DRUSEN", visits, tries=2)[1])))
    once = to_levels(torch.cat(list(sample_asked(generator, "DRUSEN", visits)[1])))
    assert np.abs(tried.astype(int) - once).max() > 10
