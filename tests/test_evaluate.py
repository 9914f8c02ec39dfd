"""One report for any folder: it never crashes, says what is missing, and refuses what is wrong."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.methods import Thumbnails

from helpers import config
from helpers.data.prepare import prepare
from helpers.data.simulated.simulate import make_eye
from helpers.evaluate import parts as module
from helpers.evaluate.parts import evaluate, main, measure_memorisation
from helpers.evaluate.report import PARTS, complete
from helpers.evaluate.sides import read_sides, read_synthetic
from helpers.evaluate.verdict import CRITERIA, verdict
from helpers.gan.recipes import with_recipe
from helpers.gan.residual import Generator
from helpers.gan.train import train_gan
from helpers.measures.features import Features
from helpers.training.network_file import write_network
from helpers.translation.networks import Translator


class Pixels(Features):
    """Stands in for the network where only the bookkeeping is tested: 8 x 8 mean grey levels."""

    def __init__(self, device="cpu", cache=None, name=None):
        self.device, self.batch_size, self.cache = torch.device("cpu"), 64, None

    def _batch(self, images):
        small = torch.cat([self.resize(image[None], 8) for image in images]).mean(1)
        return small.flatten(1).repeat(1, self.dimension // 64).numpy()


@pytest.fixture(scope="module")
def eyes():
    """OCT of simulated eyes, uint8 (64, 64): condition -> list."""
    return {c: [make_eye(seed, c, size=64, pictures=("oct",)).oct
                for seed in range(100 * i, 100 * i + 36)]
            for i, c in enumerate(("DRUSEN", "NORMAL"))}  # fmt: skip


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setattr(module, "Features", Pixels)


class Widths(Pixels):
    """Features that say nothing but how wide a picture is."""

    def _batch(self, images):
        return np.full((len(images), self.dimension), np.shape(images)[-1], np.float32)


def lay(folder, images, patients=None, size=None):
    """PNGs in folder, or in a subfolder for each patient."""
    for i, image in enumerate(images):
        place = folder / f"p{i % patients}" if patients else folder
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image)
        (picture.resize((size, size)) if size else picture).save(place / f"scan_{i}.png")
    return folder


def run(tmp_path, real, synthetic, **changes):
    settings = dict(cache=tmp_path / "cache", with_inception=False, progress=False, size=64)
    report = evaluate(real, synthetic, tmp_path / "out", **{**settings, **changes})
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written == json.loads(json.dumps(report))
    for name, empty in PARTS.items():  # one schema, and a reason for whatever is null
        assert set(empty) <= set(report[name]), name
        assert name not in report["not_measured"] or report[name]["reason"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Not for clinical use" in page
    order = list(dict.fromkeys(line["criterion"] for line in verdict(report)))
    assert order == list(CRITERIA)  # each of the seven has a line, measured or not
    places = [page.index(f"<b>{name}</b>") for name in CRITERIA]
    assert places == sorted(places) and all(line["question"] in page for line in verdict(report))
    pdf = (tmp_path / "out" / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Count 2" in pdf
    return report


@pytest.mark.slow
def test_two_classes_by_patient_give_every_part(tmp_path, eyes):
    for name in eyes:
        lay(tmp_path / "real" / name, eyes[name][:26], patients=8)
        lay(tmp_path / "made" / name, eyes[name][26:])
    report = run(tmp_path, tmp_path / "real", tmp_path / "made")
    assert report["not_measured"] == ["inception", "reading"]
    assert report["synthetic"]["contrast"] == "conditional"
    assert report["usefulness"]["arms"]["synthetic"]["auroc"]["value"] is not None
    assert report["real"]["class"] == "DRUSEN" and report["real"]["patients_known"]
    assert report["scale"]["other_class"]["name"] == "NORMAL"


@pytest.mark.slow
def test_real_scans_on_both_sides_say_what_that_can_fake(tmp_path, eyes):
    for name in eyes:
        lay(tmp_path / "real" / name, eyes[name][:16], patients=6)
    report = run(tmp_path, tmp_path / "real", lay(tmp_path / "fakes", eyes["DRUSEN"][16:]))
    assert report["usefulness"]["contrast"]["kind"] == "real"
    assert any("fakes are compared with DRUSEN" in w for w in report["warnings"])


@pytest.mark.slow
def test_a_flat_folder_of_one_class_and_mixed_sizes(tmp_path, eyes):
    real = lay(tmp_path / "real", eyes["DRUSEN"][:6])
    lay(real, eyes["DRUSEN"][6:12], patients=3, size=96)
    made = lay(tmp_path / "made", eyes["DRUSEN"][12:16])
    lay(made / "more", eyes["DRUSEN"][16:20], size=48)
    (made / "broken.png").write_bytes(b"no picture")
    report = run(tmp_path, real, made)
    assert report["usefulness"]["auroc"] is None and "one class" in report["usefulness"]["reason"]
    assert any("cannot be read: broken.png" in w for w in report["warnings"])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_handful_of_images(tmp_path, eyes, count):
    real = lay(tmp_path / "real", eyes["DRUSEN"][:count])
    report = run(tmp_path, real, lay(tmp_path / "made", eyes["DRUSEN"][5 : 5 + count]))
    assert not report["real"]["patients_known"]
    assert any("split by image" in w for w in report["warnings"])
    assert (report["kernel_distance"]["value"] is None) == (count < 4)


@pytest.mark.slow
def test_identical_images_are_called_copies(tmp_path, eyes):
    real = lay(tmp_path / "real", eyes["DRUSEN"][:20], patients=10)
    report = run(tmp_path, real, real)
    assert report["memorisation"]["copied_share"] > 0.9
    assert any(line["answer"].startswith("yes: look") for line in verdict(report))
    collapsed = lay(tmp_path / "one", [eyes["DRUSEN"][22]] * 12)
    report = run(tmp_path, real, collapsed)
    assert any("only 1 of 12 synthetic files differ" in w for w in report["warnings"])
    assert report["coverage"]["value"]["recall"] < 0.5


@pytest.mark.slow
def test_wrong_folders_are_refused_in_words(tmp_path, eyes):
    real = lay(tmp_path / "real", eyes["DRUSEN"][:12], patients=4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image in it"):
        run(tmp_path, tmp_path / "empty", real)
    with pytest.raises(FileNotFoundError, match="no image in it"):
        run(tmp_path, real, tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        run(tmp_path, real, tmp_path / "nowhere")
    marked = PngInfo()
    marked.add_text("Synthetic", "true: made by a neural network; shows no patient")
    Image.fromarray(eyes["DRUSEN"][20]).save(real / "p0" / "fake.png", pnginfo=marked)
    with pytest.raises(ValueError, match="1 of its images are marked as synthetic"):
        run(tmp_path, real, lay(tmp_path / "made", eyes["DRUSEN"][12:16]))
    run(tmp_path, real, tmp_path / "made", allow_synthetic=True)


def test_without_a_run_all_real_scans_may_have_been_seen(tmp_path, eyes):
    real = lay(tmp_path / "real", eyes["DRUSEN"][:12], patients=6)
    made = lay(tmp_path / "made", eyes["DRUSEN"][12:])
    sides = read_sides(real, made, cache=tmp_path / "cache", size=64, progress=False)
    assert len(sides.real.seen) == 12 == len(sides.real.training) + len(sides.real.test)
    assert not set(sides.real.training.patients) & set(sides.real.test.patients)


def test_kinds_of_scans_are_told_at_one_size(tmp_path, eyes):
    real = lay(tmp_path / "real", eyes["DRUSEN"], patients=12)
    made = lay(tmp_path / "made", eyes["NORMAL"], size=32)
    sides = read_sides(real, made, cache=tmp_path / "cache", size=64, progress=False)
    parts = module.measure_distances(sides, Widths(), progress=False)
    assert parts["coverage"]["value"] == parts["coverage"]["floor"]
    assert parts["coverage"]["value"]["coverage"] == 1 and parts["consistency"]["left_out"] == 0


@pytest.mark.slow
def test_command_line(tmp_path, eyes, capsys, monkeypatch):
    monkeypatch.setenv("OCT_RUNS", str(tmp_path / "runs"))
    real = lay(tmp_path / "real", eyes["DRUSEN"][:24], patients=8)
    made = lay(tmp_path / "made", eyes["DRUSEN"][24:])
    sides = ["--real", str(real), "--synthetic", str(made), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(module.inception, "inception", lambda: (None, "no network"))
    main([*sides, "--classifier", "off"])
    out = capsys.readouterr().out
    assert "Are patients copied?" in out and "not measured: usefulness, left out" in out
    assert (tmp_path / "out" / "verdict.png").stat().st_size > 10_000
    with pytest.raises(SystemExit) as stopped:
        main(["--real", str(tmp_path / "no"), *sides[2:]])
    assert stopped.value.code == 1 and "neither a folder" in capsys.readouterr().err


def test_few_readable_scans_are_no_anatomy():
    measure = {"effect": 0.1, "low": -0.2, "high": 0.3}
    anatomy = {"measures": {"tilt": measure}, "usable": {"test": 1.0, "synthetic": 0.1}}
    for share, answer in ((0.1, "no: most of it"), (0.9, "no large shift was found")):
        anatomy["usable"]["synthetic"] = share
        lines = verdict(complete({"anatomy": anatomy}))
        assert next(x for x in lines if "anatomy" in x["question"])["answer"].startswith(answer)


def answer(report, question):
    return next(line for line in verdict(complete(report)) if question in line["question"])


def test_a_leak_and_a_volume_are_told_only_beyond_their_controls():
    auroc = {"value": 0.7, "low": 0.62, "high": 0.78}
    trace = {"n": 90, "attack": auroc, "control": auroc, "control_is": "real scans"}
    most = {"share": 0.2, "expected": 0.02, "p_value": 0.001, "scan": 4}
    volumes = {side: {"patients": 20, "stand_out": 0, "largest": most}
               for side in ("trained", "unseen")}  # fmt: skip
    part = {"copied_share": 0.0, "expected_share": 0.01, "excess": {"low": 0, "high": 0.02},
            "missed": {"blurred": {"value": 0.25}}}  # fmt: skip
    for low, leak, ours, theirs, again in (
        (-0.05, "not shown", 0, 0, "not found"), (0.05, "yes", 2, 0, "yes"),
        (None, "uncertain", 2, 2, "perhaps: others"),
    ):  # fmt: skip
        trace["excess"] = {"value": 0.0, "low": low, "high": 0.1}
        volumes["trained"]["stand_out"], volumes["unseen"]["stand_out"] = ours, theirs
        report = {"memorisation": part | {"pixels": {"membership": trace, "volumes": volumes}}}
        assert answer(report, "who was trained on")["answer"].startswith(leak)
        assert answer(report, "whole volume")["answer"].startswith(again)
    assert "25 % are missed where most are (blurred)" in answer(report, "copied")["beside"]
    alone = part | {"pixels": {"volumes": {"trained": None, "unseen": None}}}
    for question in ("whole volume", "who was trained on"):
        assert answer({"memorisation": alone}, question)["answer"] == "not measured"


def test_what_made_the_scans_and_who_is_left_out():
    run = {"weights": "ab12", "class": "DRUSEN", "step": 4, "data_manifest": None}
    assert answer({"run": run}, "how the scans")["answer"] == "partly"
    made = {"synthetic": {"marked": 0.0}, "run": None}
    assert answer(made, "how the scans")["answer"].startswith("no: a folder")
    part = {"left_out": 5, "floor": 1, "patients": 20, "n": 100}
    assert answer({"consistency": part}, "left out")["answer"] == "some"
    assert answer({}, "left out")["answer"] == "not measured"


def test_complete_names_what_is_missing():
    report = complete({"kernel_distance": {"value": 3.0}}, {"reading": "nobody read"})
    assert "kernel_distance" not in report["not_measured"]
    assert report["reading"] == {"readers": None, "reason": "nobody read"}
    json.dumps(report, allow_nan=False)


def test_a_generator_of_several_classes_is_judged_by_its_own_and_brings_its_contrast(
    eyes, tmp_path
):
    real, run = tmp_path / "real", tmp_path / "run"
    for condition, images in eyes.items():
        lay(real / condition, images, patients=12)
    torch.manual_seed(0)
    arguments = {"size": 64, "latent": 4, "width": 2, "blocks": 1, "classes": 2}
    about = {"network": "residual", "arguments": arguments, "class": "NORMAL",
             "classes": ["DRUSEN", "NORMAL"], "step": 1}  # fmt: skip
    run.mkdir()
    write_network(run / "generator.safetensors", Generator(**arguments).state_dict(), about)
    keep = dict(cache=tmp_path / "cache", size=64, n=4, progress=False)
    sides = read_sides(real, run, class_="NORMAL", control=run, **keep)
    assert (sides.synthetic.class_, sides.contrast) == ("NORMAL", "conditional")
    assert sides.real.class_ == "NORMAL" and sides.other_real.class_ == "DRUSEN"
    assert sides.other_synthetic.class_ == "DRUSEN"
    assert (sides.synthetic.images != sides.other_synthetic.images).any()
    assert sides.control.class_ == "NORMAL"  # what attacks are compared with, of the same class


def test_a_translator_is_not_judged_as_if_it_drew_from_noise(tmp_path):
    arguments = dict(kind="column", to=["oct"], size=64, width=4)
    about = {"network": "translator", "arguments": arguments}
    write_network(tmp_path / "a.safetensors", Translator(**arguments).state_dict(), about)
    with pytest.raises(ValueError, match="a.safetensors: translates photographs.*--from-dfe"):
        read_synthetic(tmp_path / "a.safetensors")


def test_an_out_that_is_a_file_is_refused_before_anything_is_measured(tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SystemExit):
        main(["--real", "nowhere", "--synthetic", "nowhere", "--out", str(tmp_path / "out")])
    assert "out: is a file; --out takes a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_privacy_is_asked_of_every_class_and_the_worst_answer_counts():
    part = {"copied_share": 0.0, "expected_share": 0.01, "excess": {"low": 0, "high": 0.02},
            "missed": {}, "class": "CNV"}  # fmt: skip
    leaks = part | {"class": "NORMAL", "copied_share": 0.3, "excess": {"low": 0.2, "high": 0.4}}
    unknown = {"class": "NORMAL", "copied_share": None, "reason": "no training scans are known"}

    def copied(one, *others):
        return answer({"memorisation": one | {"other_classes": others}}, "copied")

    line = copied(part, part, leaks)
    assert line["answer"].startswith("yes: look") and "NORMAL: 30.0 %" in line["measured"]
    line = copied(leaks, part)
    assert line["answer"].startswith("yes: look") and line["measured"].startswith("30.0 %")
    line = copied(part, unknown)
    assert line["answer"] == "not measured" and "NORMAL: no training scans" in line["beside"]


def test_a_generator_of_two_classes_has_seen_both_and_neither_chooses_with_unseen_patients(
    tmp_path,
):
    """The split of a run holds for every class that it learned, not for that alone it names."""
    settings = with_recipe(config.resolve(config.TrainGan, [
        "--data=simulated", "--n-simulated=8", "--classes=NORMAL,DRUSEN", "--size=64", "--steps=1",
        "--width=4", "--framing=aligned", "--conditional=1", f"--runs={tmp_path}", "--run=both",
    ], {}))  # fmt: skip
    run = train_gan(settings, Thumbnails(), progress=False)
    sides = read_sides("simulated", run.folder, n=4, cache=tmp_path / "cache", progress=False)
    assert (sides.contrast, sides.other_real.class_) == ("conditional", "NORMAL")
    for real in (sides.real, sides.other_real):
        assert real.seen is real.training
        sides_of = [set(part.patients) for part in (real.training, real.validation, real.test)]
        assert not any(a & b for a, b in combinations(sides_of, 2))
    found = measure_memorisation(sides, Pixels(), progress=False)
    (other,) = found["other_classes"]
    assert other["class"] == "NORMAL" and other["n_training"] == len(sides.other_real.training)
    turned = read_sides("simulated", run.folder, class_="normal", n=4, cache=tmp_path / "cache",
                        progress=False)  # fmt: skip
    assert turned.real.class_ == turned.synthetic.class_ == "NORMAL"
    assert turned.other_synthetic.class_ == "DRUSEN"
    for real in (turned.real, turned.other_real):
        assert real.seen is real.training and real.validation is not None


def test_a_third_class_is_searched_for_copies_and_none_is_its_own_contrast(tmp_path, eyes):
    for name, images in eyes.items():
        lay(tmp_path / "real" / name, images[:18], patients=6)
        lay(tmp_path / "made" / name, images[18:30])
    fresh = [make_eye(seed, "CNV", size=64, pictures=("oct",)).oct for seed in range(40, 76)]
    lay(tmp_path / "real" / "CNV", fresh[:18], patients=6)
    lay(tmp_path / "made" / "CNV", fresh[:18])  # copies
    keep = dict(cache=tmp_path / "cache", size=64, progress=False)
    sides = read_sides(tmp_path / "real", tmp_path / "made", class_="drusen", **keep)
    assert sides.synthetic.class_ == "DRUSEN" and sides.other_synthetic.class_ == "NORMAL"
    assert [made.class_ for _, made in sides.further] == ["CNV"]
    found = measure_memorisation(sides, Pixels(), progress=False)
    assert answer({"memorisation": found}, "copied")["answer"].startswith("yes")
    assert any("nobody says what the generator was trained on" in note for note in sides.notes)
    with pytest.raises(ValueError, match="has CNV, DRUSEN, NORMAL and no DME.*Say --class"):
        lay(tmp_path / "real" / "DME", fresh[18:], patients=6)
        read_sides(tmp_path / "real", tmp_path / "made", class_="DME", **keep)


def test_a_run_is_judged_in_the_framing_that_it_learned(tmp_path):
    settings = with_recipe(config.resolve(config.TrainGan, [
        "--data=simulated", "--n-simulated=4", "--class=DRUSEN", "--size=64", "--steps=1",
        "--width=4", "--framing=band", "--conditional=0", f"--runs={tmp_path}", "--run=band",
    ], {}))  # fmt: skip
    run = train_gan(settings, Thumbnails(), progress=False)
    keep = dict(n=4, cache=tmp_path / "cache", progress=False)
    found = read_sides("simulated", run.folder, **keep).real.seen.images
    whole = read_sides("simulated", run.folder, **keep, size=256).real.seen.images
    band = prepare("simulated", class_="DRUSEN", size=256, framing="band", n_simulated=4,
                   cache=tmp_path / "cache", progress=False)  # fmt: skip
    assert np.array_equal(found, band.train.images) and np.array_equal(whole, found)
