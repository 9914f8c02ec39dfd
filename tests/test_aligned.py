"""A GAN of aligned crops: what it is given, how it is judged, and the whole scans that leave it."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from support import methods
from support.methods import (
    CLASSES,
    METHODS,
    STYLE,
    Thumbnails,
    aligned_data,
    aligned_gan,
    gan_settings,
    retinas,
)

from helpers import generate
from helpers.data import shape
from helpers.evaluate.sides import read_sides
from helpers.gan import dcgan, judging, residual, sampling, stylegan
from helpers.gan.early_word import shrink
from helpers.gan.explorer import Explorer
from helpers.gan.gan import DOUBLES_ALIGNED, GAN, HELD
from helpers.gan.judging import PROBE, SHAPES_KEPT
from helpers.gan.sampling import draw_noise, has_dials, sample
from helpers.gan.start import start_from
from helpers.gan.styles import directions
from helpers.gan.styles.projection import Projector
from helpers.gan.train import build_training, train_gan
from helpers.generate import export, load_generator
from helpers.training.loop import train


def told_of(shapes):
    """What networks without dials are told."""
    return shape.look(shapes)[:, : len(shape.LOOK)]


def aligned(scans):
    """Their crops, uint8 (N, 1, 64, 64)."""
    return np.stack([shape.align(scan[0], 64, 64)[0] for scan in scans])[:, None]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(*METHODS["gan aligned"](tmp_path_factory.mktemp("runs"), steps=4))


@pytest.fixture(scope="module")
def generator(run):
    return load_generator(run.folder)


# --- networks of crops that are wider than high

SIZE, ROWS = 128, 64
NETWORKS = {
    "dcgan": (
        lambda: dcgan.Generator(SIZE, 10, 4, rows=ROWS),
        lambda: dcgan.Discriminator(SIZE, 4, norm="none", rows=ROWS),
    ),
    "residual": (
        lambda: residual.Generator(SIZE, 8, 4, classes=2, rows=ROWS, looks=3),
        lambda: residual.Discriminator(SIZE, 4, classes=2, rows=ROWS, looks=3),
    ),
    "stylegan": (
        lambda: stylegan.Generator(SIZE, 8, 4, 2, classes=2, rows=ROWS, looks=3),
        lambda: residual.Discriminator(SIZE, 4, classes=2, rows=ROWS, looks=3),
    ),
}
TOLD = (torch.tensor([0, 1]), torch.tensor([[1.0, -1, 0.5], [0, 2, -1]]))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_draw_and_judge_crops_half_as_high_as_wide(name):
    torch.manual_seed(0)
    generator, discriminator = (make() for make in NETWORKS[name])
    told = () if name == "dcgan" else TOLD
    z = torch.randn(2, generator.z_dim, requires_grad=True)
    crops = generator(z, *told)
    assert crops.shape == (2, 1, ROWS, SIZE) and crops.isfinite().all()
    logits = discriminator(crops, *told)
    assert logits.shape == (2,)
    logits.sum().backward()
    assert (z.grad.abs().sum(1) > 0).all()  # from every judgement to every eye
    learned = [w.grad for w in discriminator.parameters() if w.grad is not None]
    assert len(learned) == len(list(discriminator.parameters()))
    assert all(gradient.isfinite().all() for gradient in learned)
    halves = z.grad.reshape(2, -1)
    if name != "dcgan":  # grain of every place is seen
        grain = halves[:, generator.latent :].reshape(2, ROWS, SIZE)
        assert all((part != 0).any() for part in grain.reshape(2, 4, 16, 8, 16).permute(
            0, 1, 3, 2, 4).reshape(-1, 256))  # fmt: skip


@pytest.mark.parametrize("name", ["residual", "stylegan"])
def test_the_look_changes_what_is_drawn_and_how_it_is_judged(name):
    torch.manual_seed(0)
    generator, discriminator = (make() for make in NETWORKS[name])
    labels, looks = TOLD
    z = torch.randn(2, generator.z_dim)
    with torch.no_grad():
        usual = generator(z, labels)
        assert torch.equal(generator(z, labels, torch.zeros(2, 3)), usual)  # the average look
        drawn = generator(z, labels, looks)
        assert ((drawn - usual).abs().amax((1, 2, 3)) > 0.01).all()
        logits = [discriminator(usual, labels, look) for look in (looks, -looks, 0 * looks, None)]
        assert (logits[0] - logits[1]).abs().min() > 1e-4
        torch.testing.assert_close(logits[2], logits[3])
        torch.testing.assert_close(logits[0] + logits[1], 2 * logits[2])  # a linear function


def test_a_style_of_another_look_is_another_style():
    torch.manual_seed(0)
    generator = NETWORKS["stylegan"][0]()
    z, (labels, looks) = torch.randn(2, generator.z_dim), TOLD
    with torch.no_grad():
        styles = generator.styles(z, labels, look=looks)
        assert not torch.allclose(styles, generator.styles(z, labels))
        drawn = generator.draw(styles, z[:, generator.latent :])
        assert torch.equal(drawn, generator(z, labels, looks))


# --- training


def test_a_batch_holds_crops_and_of_each_its_class_and_look(tmp_path):
    learned, labels, *_ = aligned_data()
    rows = {crop.tobytes(): k for k, crop in enumerate(learned.images)}
    _, draw, *_ = aligned_gan(tmp_path)
    stream = draw()
    for crops, told, looks in (next(stream) for _ in range(7)):
        levels = ((crops + 1) * 127.5).round().byte().numpy()
        places = [rows[crop.tobytes()] for crop in levels]
        assert [CLASSES[k] for k in told] == labels[places].tolist()
        np.testing.assert_array_equal(looks, told_of(learned.shapes[places]))


class Draws(torch.nn.Module):
    """Stands in for a generator: of every class it draws crops of scans of ``classes[class]``."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        crops, labels, *_ = aligned_data()
        crops = torch.from_numpy(crops.images).float() / 127.5 - 1
        self.crops = [crops[torch.from_numpy(labels == name)] for name in classes]
        self.asked = []

    def forward(self, z, labels, looks):
        self.asked.append((labels.tolist(), looks))
        return torch.stack([self.crops[label][i % 24] for i, label in enumerate(labels.tolist())])


class Bumps(Thumbnails):
    """Stands in for Features where classes have to be seen: how far the brightest row of a column
    lies above a straight line, sorted, so that it does not matter where a druse is."""

    def __call__(self, images):
        pixels = torch.as_tensor(images).float()[:, 0].cpu().numpy()
        rows = np.argmax(pixels, axis=1)  # (N, W)
        x = np.arange(rows.shape[1])
        fits = np.polyfit(x, rows.T, 1)
        above = np.sort(np.outer(fits[0], x) + fits[1][:, None] - rows, 1)
        return above[:, :: len(x) // 16].astype(np.float32)


def test_the_score_is_distance_and_what_the_probe_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "Thumbnails", Bumps)
    method = aligned_gan(tmp_path, validation_images=24)[0]
    network = Draws()
    score = method.validate(network)
    parts = method.judgement
    assert set(parts) == {"kernel_distance", "probe", "word", "why"} and np.isfinite(score)
    assert score == pytest.approx(parts["kernel_distance"] + PROBE * (1 - parts["probe"]))
    assert [set(labels) for labels, _ in network.asked] == [{0}, {1}]  # DRUSEN is judged
    assert method.validate(Draws()) == score  # of fixed noise and shapes

    swapped = aligned_gan(tmp_path / "b", validation_images=24)[0]
    assert swapped.validate(Draws(CLASSES[::-1])) > score
    assert swapped.judgement["probe"] < 0.5 < parts["probe"] - 0.1
    alike = aligned_gan(tmp_path / "c", validation_images=24)[0]
    bank = alike.shapes.values[alike.shapes.labels == "DRUSEN"]  # shapes tell classes apart too
    alike.shapes = shape.Shapes(np.tile(bank, (2, 1)), np.repeat(CLASSES, len(bank)))
    alike.validate(Draws(("DRUSEN", "DRUSEN")))  # as near as the first, but teaches nothing
    assert alike.judgement["kernel_distance"] == pytest.approx(parts["kernel_distance"], rel=1e-3)
    assert alike.judgement["probe"] < parts["probe"] - 0.1


def test_a_checkpoint_that_copies_is_the_last_to_be_chosen(tmp_path, monkeypatch):
    """The same crops are drawn twice: once they are those that were learned from."""
    monkeypatch.setattr(judging, "EARLY", 0)
    copied, scores = [], []
    for seed in (1, 7):  # of the eyes that taught, or so it is told; Draws draws those of seed 1
        method = aligned_gan(tmp_path / str(seed), validation_images=24)[0]
        method.known = [shrink(aligned(retinas(CLASSES * 24, s))) for s in (seed, 2)]
        scores.append(method.validate(Draws()))
        copied.append(method.judgement["copied"])
    assert copied[0] == 1 and copied[1] < 0.2
    assert scores[0] == pytest.approx(scores[1] + judging.COPYING)


def test_what_is_judged_and_logged_are_the_score_and_its_parts(run):
    judged = [record for record in run.metrics() if "score" in record]
    assert judged and all({"kernel_distance", "probe"} < set(record) for record in judged)
    best = json.loads((run.folder / "finished.json").read_text())["best"]
    assert min(record["score"] for record in judged) == pytest.approx(best, rel=1e-5)


def test_a_preview_shows_whole_scans_of_every_class(tmp_path, monkeypatch):
    """Of the validation scans' size, each with a shape of its class that does not change."""
    validation = retinas(CLASSES * 4, 3).repeat(2, 2).repeat(2, 3)  # 128 px
    learned, labels, *_ = aligned_data()
    bank, drawn = shape.Shapes(learned.shapes, labels), []
    settings = gan_settings(tmp_path, model="residual", framing="aligned", conditional=1, dials=0)
    method = GAN(settings, validation, Thumbnails(), CLASSES, labels=CLASSES * 4, shapes=bank)
    plain = shape.place_back

    def spy(crops, shapes, size, *others):
        drawn.append(shapes)
        return plain(crops, shapes, size, *others)

    monkeypatch.setattr(shape, "place_back", spy)
    network = Draws()
    first, again = method.preview(network), method.preview(network)
    assert first.shape == (16, 1, 128, 128) and torch.equal(first, again)
    assert first.abs().max() <= 1 and first.std() > 0.1
    ((asked, looks), *_) = network.asked
    assert asked == 2 * (4 * [0] + 4 * [1])
    for label, name in enumerate(CLASSES):
        those = np.array(asked) == label
        np.testing.assert_array_equal(drawn[0][those], bank.draw(8, name))
    np.testing.assert_array_equal(looks, told_of(drawn[0]))


@pytest.mark.parametrize("model", ["residual", "stylegan"])
def test_scans_of_several_classes_can_be_learned_as_one(tmp_path, model):
    method, draw, *_ = aligned_gan(tmp_path, model=model, conditional=0)
    batch = next(draw())
    assert len(set(batch[1].tolist())) == 2
    record = method.step(batch, Accelerator())
    assert np.isfinite(list(record.values())).all()
    assert np.isfinite(method.validate(method.networks["generator"]))
    assert set(method.judgement) == {"kernel_distance", "word", "why"}
    assert (method.kept["shape_labels"] == 0).all() and len(method.kept["shapes"]) == SHAPES_KEPT


def test_a_style_based_gan_of_crops_takes_a_step(tmp_path):
    method, draw, *_ = aligned_gan(tmp_path, **STYLE)
    before = [w.clone() for w in method.networks["generator"].parameters()]
    record = method.step(next(draw()), Accelerator())
    assert "penalty" in record and np.isfinite(list(record.values())).all()
    moved = zip(before, method.networks["generator"].named_parameters())
    assert [n for b, (n, w) in moved if torch.equal(b, w) and n.startswith("mapping")] == []
    assert method.preview(method.networks["generator"]).shape == (16, 1, 64, 64)


def test_a_dcgan_of_crops_is_told_nothing_and_draws_whole_scans(tmp_path):
    start = aligned_gan(tmp_path, model="dcgan", conditional=0, steps=2)
    assert torch.is_tensor(next(start[1]()))
    run = train(*start)
    assert sample(load_generator(run.folder), 2).shape == (2, 1, 256, 256)


def test_what_does_not_go_together_is_said(tmp_path):
    settings = aligned_gan(tmp_path)[3]
    learned, labels, validation, others = aligned_data()
    bank = shape.Shapes(learned.shapes, labels)
    with pytest.raises(ValueError, match="framing=aligned: whole scans need shapes="):
        GAN(settings, validation, Thumbnails(), CLASSES, labels=others)
    with pytest.raises(ValueError, match="class=DRUSEN: choose the one to judge, of CNV, NORMAL"):
        GAN(settings, validation, Thumbnails(), ("CNV", "NORMAL"), labels=others, shapes=bank)
    with pytest.raises(ValueError, match="0 validation scan.s. of DRUSEN"):
        GAN(settings, validation, Thumbnails(), CLASSES, labels=["NORMAL"] * 24, shapes=bank)


# --- what is exported


def test_shapes_go_with_a_generator_and_are_no_patients(generator):
    learned, labels, *_ = aligned_data()
    bank, smooth = generator.shapes, len(shape.SMOOTH)
    assert len(bank.values) == 2 * SHAPES_KEPT
    assert [int((bank.labels == name).sum()) for name in CLASSES] == [SHAPES_KEPT] * 2
    spread = learned.shapes[:, :smooth].std(0) + 1e-6
    for name in CLASSES:
        kept, own = (b.values[b.labels == name, :smooth] / spread
                     for b in (bank, shape.Shapes(learned.shapes, labels)))  # fmt: skip
        away = np.abs(kept[:, None] - own).mean(2)  # of each to each of that class
        assert away.min() > 0.02
        assert np.abs(kept.mean(0) - own.mean(0)).max() < 0.5


@pytest.mark.parametrize("size", [0, 256, 512])
def test_what_is_exported_and_what_is_sampled_are_the_same_whole_scans(generator, tmp_path, size):
    paths = export(generator, tmp_path / "set", 3, seed=5, exact=True, progress=False, size=size)
    for class_name in CLASSES:
        scans = sample(generator, 3, seed=5, class_name=class_name, size=size)
        assert scans.shape == (3, 1, size or 256, size or 256)
        levels = ((scans + 1) * 127.5).round().byte().numpy()[:, 0]
        files = [np.asarray(Image.open(p)) for p in paths if p.parent.name == class_name]
        assert np.array_equal(np.stack(files), levels)
        assert levels.std() > 5 and not np.array_equal(levels[0], levels[1])
        few = sample(generator, 2, seed=5, class_name=class_name, size=size, batch=1)
        assert (few - scans[:2]).abs().mean() < 0.5 / 127.5  # whatever the batch
    with open(tmp_path / "set" / "images.csv", newline="") as file:
        assert {row["size"] for row in csv.DictReader(file)} == {str(size or 256)}


def test_crops_are_those_that_the_weights_draw_with_the_look_of_a_drawn_shape(generator):
    crops = sample(generator, 4, seed=2, class_name="NORMAL", shape="aligned")
    assert crops.shape == (4, 1, 64, 64)
    (z,) = draw_noise(4, generator.z_dim, 2)
    looks = told_of(generator.shapes.draw(4, "NORMAL", seed=2))
    with torch.inference_mode():
        expected = generator(z, torch.ones(4).long(), torch.from_numpy(looks)).clamp(-1, 1)
    torch.testing.assert_close(crops, expected)


def test_the_same_shape_for_all_lets_tissue_be_compared(generator, monkeypatch):
    used = []

    def spy(crops, shapes, size, seed, first):
        used.append(shapes)
        return shape.place_back(crops, shapes, size, seed, first)

    monkeypatch.setattr(sampling, "place_back", spy)
    sample(generator, 3, batch=2, shape="same", class_name="NORMAL", size=64)
    same = np.concatenate(used)
    assert (same == generator.shapes.mean("NORMAL")).all()
    used.clear()
    sample(generator, 3, batch=2, class_name="NORMAL", size=64)
    np.testing.assert_array_equal(np.concatenate(used), generator.shapes.draw(3, "NORMAL"))
    assert not np.array_equal(*np.concatenate(used)[:2])


def test_what_only_crops_can_do_is_refused_of_whole_scans_in_words(generator, tmp_path):
    whole = load_generator(train(*METHODS["gan best"](tmp_path, steps=1)).folder)
    assert sample(whole, 1, size=64).shape[-1] == 64  # its own
    with pytest.raises(ValueError, match="size=256: this generator draws whole scans of 64 px"):
        sample(whole, 1, size=256)
    for word in ("same", "aligned"):
        with pytest.raises(ValueError, match=f"shape={word}: .*whole scans, whose shape is its"):
            sample(whole, 1, shape=word)
    for either in (whole, generator):
        with pytest.raises(ValueError, match="shape='round': choose one of drawn, same, aligned"):
            sample(either, 1, shape="round")
    with pytest.raises(ValueError, match="size=32: a whole scan needs 64 px"):
        sample(generator, 1, size=32)


def test_size_and_shape_from_the_command_line(run, tmp_path, capsys):
    out = tmp_path / "set"
    generate.main([str(run.folder), "--n", "2", "--out", str(out), "--size", "96", "--shape",
                   "same", "--class", "NORMAL", "--seed", "4", "--exact"])  # fmt: skip
    assert "2 images" in capsys.readouterr().out
    expected = sample(load_generator(run.folder), 2, seed=4, class_name="NORMAL", size=96,
                      shape="same")  # fmt: skip
    for number, image in enumerate(expected):
        with Image.open(out / f"NORMAL/{number:06d}.png") as picture:
            assert picture.size == (96, 96) and picture.text["Shape"] == "same"
            assert np.array_equal(picture, ((image[0] + 1) * 127.5).round())
    generate.main([str(run.folder), "--n", "1", "--out", str(tmp_path / "crops"), "--shape",
                   "aligned"])  # fmt: skip
    with Image.open(tmp_path / "crops/DRUSEN/000000.png") as picture:
        assert picture.size == (64, 64) and picture.text["Shape"] == "aligned"
    whole = train(*METHODS["gan best"](tmp_path, steps=1))
    for wrong, words in ((["--size", "256"], "size=256: this generator draws whole scans of 64"),
                         (["--shape", "same"], "shape=same")):  # fmt: skip
        with pytest.raises(SystemExit) as stopped:
            generate.main([str(whole.folder), "--n", "1", "--out", str(tmp_path / "no"), *wrong])
        assert stopped.value.code == 1 and words in capsys.readouterr().err
        assert not (tmp_path / "no").exists()


# --- who uses it


@pytest.fixture
def folder(tmp_path):
    """Files of twelve patients, two scans each, two classes."""
    for label in CLASSES:
        for number, scan in enumerate(retinas([label] * 12, seed=len(label))):
            path = tmp_path / "eyes" / label / f"{label}-{number // 2}00-{number % 2}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scan[0]).save(path)
    return tmp_path / "eyes"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_evaluation_sees_whole_scans_and_both_classes(run, folder, tmp_path):
    sides = read_sides(folder, run.folder, class_="DRUSEN", n=3, size=64, progress=False,
                       cache=tmp_path / "cache")  # fmt: skip
    assert sides.contrast == "conditional"
    assert (sides.synthetic.class_, sides.other_synthetic.class_) == CLASSES
    for made in (sides.synthetic, sides.other_synthetic):
        assert made.images.shape == (3, 1, 256, 256) and made.images.dtype == np.uint8
    expected = sample(load_generator(run.folder), 3, class_name="NORMAL")
    assert np.array_equal(sides.other_synthetic.images, ((expected + 1) * 127.5).round())
    assert sides.real.test.images.shape[1:] == (1, 256, 256)
    assert {side.shape[-1] for side in sides.equal.values()} == {256}


@pytest.fixture
def drawer():
    """An untrained style-based generator of crops, and shapes to place them with."""
    torch.manual_seed(0)
    network = stylegan.Generator(64, 8, 2, 2, classes=2, looks=3).eval().requires_grad_(False)
    learned, labels, *_ = aligned_data()
    network.shapes = shape.Shapes(learned.shapes, labels)
    network.metadata = {"classes": list(CLASSES), "class": "DRUSEN"}
    return network


def test_directions_are_seen_on_whole_scans_of_one_shape(drawer, monkeypatch):
    used = []

    def spy(crops, shapes, size, *others):
        used.append(shapes)
        return shape.place_back(crops, shapes, size, *others)

    monkeypatch.setattr(directions, "place_back", spy)
    z = torch.randn(3, drawer.z_dim)
    styles, grain = drawer.styles(z, torch.tensor([0, 1, 0])), z[:, drawer.latent :]
    scans = directions.render(drawer, styles, grain, batch=2)
    assert scans.shape == (3, 1, 256, 256) and scans.dtype == np.uint8
    assert (np.concatenate(used) == drawer.shapes.mean()).all()
    one = directions.render(drawer, styles[:1].expand(2, -1, -1), grain[:1])
    assert one.shape == (2, 1, 256, 256)
    sample = directions.Sample(None, styles[:, 0].numpy(), grain, scans, {})
    with pytest.raises(ValueError, match="draws aligned crops.*OCT_FRAMING=stretch"):
        Projector(drawer, sample, Thumbnails())


def test_what_is_explored_is_shown_as_whole_scans(drawer, tmp_path):
    kit = Explorer(drawer, folder=tmp_path)
    assert kit.changed.shape == (256, 256) and "Not drawn" not in kit.message.value
    before = kit.changed
    kit.seed.value = 7
    assert not np.array_equal(kit.changed, before)


# --- from settings alone


def settings_for(folder, tmp_path, **changes):
    given = dict(data=folder, model="residual", framing="aligned", steps=2, validate_every=8,
                 log_every=8, conditional=1) | changes  # fmt: skip
    settings = gan_settings(tmp_path / "runs", **given)
    settings.conditional = changes.get("conditional")  # None: as the source has it
    return settings


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dials", [False, True])
def test_a_gan_is_trained_from_its_settings_alone(folder, tmp_path, capsys, dials):
    run = train_gan(settings_for(folder, tmp_path, dials=dials), Thumbnails(), progress=False)
    generator = load_generator(run.folder)
    assert generator.metadata["classes"] == list(CLASSES) and has_dials(generator) == dials
    assert generator.metadata["framing"] == "aligned"
    assert sample(generator, 1).shape == (1, 1, 256, 256)
    assert {"score", "kernel_distance"} < set(run.metrics()[-1])
    before = run.generator.read_bytes()
    again = train_gan(settings_for(folder, tmp_path, dials=dials), Thumbnails(), progress=False)
    assert "is finished" in capsys.readouterr().out
    assert again.folder == run.folder and run.generator.read_bytes() == before
    # one sitting more, with another budget of the first training: the same run
    longer = settings_for(folder, tmp_path, dials=dials, steps=3, first_hours=0.5)
    assert train_gan(longer, Thumbnails(), progress=False).folder == run.folder

    other = settings_for(folder, tmp_path, dials=dials, run="second", start=run.folder)
    second = train_gan(other, Thumbnails(), progress=False)
    assert "Begins from" in capsys.readouterr().out and second.folder.name == "second"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("changes", [
    dict(framing="stretch", model="dcgan", conditional=False),
    dict(framing="stretch"),
    {"class": "all"},
    {"class": "DRUSEN", "alone": True},
    {"class": "all", "conditional": False},
    dict(conditional=False),
], ids=str)  # fmt: skip
@pytest.mark.slow
def test_whole_scans_one_class_or_all_as_one_are_a_setting_away(folder, tmp_path, changes):
    changes = dict(changes)
    alone = changes.pop("alone", False)
    if alone:  # one class is a condition too
        shutil.rmtree(folder / "NORMAL")
    settings = settings_for(folder, tmp_path, **{"steps": 1, **changes})
    method, draw, whole, learned = build_training(settings, Thumbnails(), progress=False)
    assert method.conditional == (alone or changes == dict(framing="stretch"))
    assert method.classes == (list(CLASSES)[: 1 if alone else 2] if method.conditional else [])
    batch = next(draw())
    assert torch.is_tensor(batch) == (settings.model == "dcgan")
    classes = set(learned.train.labels)
    several = method.conditional and not alone or changes.get("class") == "all"
    assert len(classes) == (2 if several else 1)
    assert whole.validation.images.shape[1:] == (1, 256, 256)
    record = method.step(batch, Accelerator())
    assert np.isfinite(list(record.values())).all()
    assert np.isfinite(method.validate(method.networks["generator"]))


def test_a_start_is_that_of_a_run_whose_classes_come_in_another_order(run, tmp_path):
    """The same noise, class by class, draws what it drew."""
    method = aligned_gan(tmp_path, classes=CLASSES[::-1])[0]
    start_from(method, run.folder)
    made, network = load_generator(run.folder), method.networks["generator"].eval()
    (z,) = draw_noise(2, made.z_dim, 1)
    looks = torch.zeros(2, made.looks)
    with torch.no_grad():
        for place, name in enumerate(CLASSES):
            expected = made(z, torch.full((2,), place), looks)
            drawn = network(z, torch.full((2,), CLASSES[::-1].index(name)), looks)
            torch.testing.assert_close(drawn, expected)


def test_gamma_of_crops_is_held_at_first_and_then_follows_fast(tmp_path):
    method = aligned_gan(tmp_path)[0]
    accelerator, easy = Accelerator(cpu=True), {"loss_discriminator": torch.tensor(0.01)}
    began = method.gamma
    for method.steps, factor in ((HELD // 16 - 1, 1), (HELD // 16, 2 ** (16 / DOUBLES_ALIGNED))):
        method.gamma, method.mean_loss = began, 0.01
        method._weigh(dict(easy), 16, method._way(16)[1], accelerator)
        assert method.gamma == pytest.approx(began * factor)
