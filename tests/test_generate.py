"""A generator file is enough to sample again; exported pictures say what they are."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import generate
from helpers.data.sources import says_synthetic
from helpers.gan import residual, start
from helpers.gan.dcgan import Generator
from helpers.gan.sampling import classes_of, draw_noise, sample
from helpers.training.network_file import file_hash, write_network

ARGUMENTS = {"size": 64, "z_dim": 10, "width": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    network = Generator(**ARGUMENTS)
    with torch.no_grad():
        for weight in network.parameters():  # fresh weights make nearly uniform pictures
            weight.mul_(8 if weight.ndim == 4 else 1)
        for _ in range(20):  # BatchNorm's statistics
            network(torch.randn(16, 10))
    folder = tmp_path_factory.mktemp("runs") / "dcgan"
    folder.mkdir()
    metadata = {"network": "dcgan", "arguments": ARGUMENTS, "class": "DRUSEN", "step": 20}
    write_network(folder / "generator.safetensors", network.state_dict(), metadata)
    return folder


SAMPLE = """
import sys, numpy
from helpers.gan.sampling import sample
from helpers.generate import load_generator
numpy.save(sys.argv[2], sample(load_generator(sys.argv[1]), 5, seed=3).numpy())
"""


@pytest.mark.slow
def test_same_pixels_in_a_fresh_process(run, tmp_path):
    path = tmp_path / "images.npy"
    subprocess.run([sys.executable, "-c", SAMPLE, str(run), str(path)], check=True)
    here = sample(generate.load_generator(run / "generator.safetensors"), 5, seed=3)
    assert np.array_equal(np.load(path), here.numpy())
    assert here.shape == (5, 1, 64, 64) and here.std() > 0.05 and here.abs().max() <= 1


def test_pictures_depend_on_seed_and_index_alone(run):
    generator = generate.load_generator(run)
    images = sample(generator, 20, seed=1)
    torch.testing.assert_close(sample(generator, 20, seed=1, batch=3), images)
    torch.testing.assert_close(sample(generator, 7, seed=1), images[:7])
    assert not torch.allclose(sample(generator, 20, seed=2), images, atol=0.01)
    assert (images[0] - images[1]).abs().max() > 0.01
    with pytest.raises(ValueError, match="n=0"):
        sample(generator, 0)


def test_a_class_that_it_does_not_draw_is_named(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        generate.main([str(run), "--class=NORMAL", "--n=2", f"--out={tmp_path / 'set'}"])
    assert "class NORMAL: this generator draws DRUSEN" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_command_line_writes_a_labelled_set(run, tmp_path, capsys):
    out = tmp_path / "set"
    generate.main([str(run), "--n", "9", "--out", str(out), "--seed", "4", "--exact"])
    with open(out / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"DRUSEN/{i:06d}.png" for i in range(9)]
    digest = file_hash(run / "generator.safetensors")
    assert {(r["class"], r["seed"], r["weights_sha256"], r["size"]) for r in rows} == {
        ("DRUSEN", "4", digest, "64")
    }
    expected = sample(generate.load_generator(run), 9, seed=4)
    for row, image in zip(rows, expected, strict=True):
        with Image.open(out / row["file"]) as picture:
            assert picture.mode == "L" and picture.size == (64, 64)
            assert picture.text["Synthetic"].startswith("true")
            assert picture.text["WeightsSHA256"] == digest and picture.text["Seed"] == "4"
            difference = np.asarray(picture) - (image[0].numpy() + 1) * 127.5
            assert np.abs(difference).max() < 0.51
        assert says_synthetic(out / row["file"])
    assert "9 images" in capsys.readouterr().out


def test_only_the_same_set_is_written_again(run, tmp_path):
    generator, out = generate.load_generator(run), tmp_path / "set"
    first = [p.read_bytes() for p in generate.export(generator, out, 4, progress=False)]
    (out / "DRUSEN/000002.png").unlink()
    again = [p.read_bytes() for p in generate.export(generator, out, 4, progress=False)]
    assert first == again
    for other in ({"n": 5}, {"seed": 1}, {"class_name": "CNV"}, {"weights_hash": "0" * 64}):
        with pytest.raises(FileExistsError, match="not empty"):
            generate.export(generator, out, **{"n": 4, **other}, progress=False)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").touch()
    with pytest.raises(FileExistsError, match="photos"):
        generate.export(generator, tmp_path / "photos", 4, progress=False)
    assert len(list((tmp_path / "photos").iterdir())) == 1
    with pytest.raises(ValueError, match="n=0"):
        generate.export(generator, tmp_path / "none", 0)
    assert not (tmp_path / "none").exists()


def test_an_interrupted_export_goes_on(run, tmp_path, monkeypatch):
    generator, out = generate.load_generator(run), tmp_path / "set"

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generate, "write_png", stop)
        generate.export(generator, out, 4, progress=False)
    assert not (out / "images.csv").exists()
    generate.export(generator, out, 4, progress=False)
    assert sorted(p.name for p in out.iterdir()) == ["DRUSEN", "images.csv"]


def test_help_is_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        generate.main(["--help"])
    assert stopped.value.code == 0 and "area=% of the scan" in " ".join(
        capsys.readouterr().out.split()
    )


def test_missing_and_unknown_generators_are_explained(run, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(SystemExit) as stopped:
        generate.main([str(tmp_path), "--out", str(tmp_path / "set")])
    message = capsys.readouterr().err
    assert stopped.value.code == 1 and "metrics.jsonl" in message and str(tmp_path) in message
    with pytest.raises(FileNotFoundError, match="no such run"):
        generate.load_generator(tmp_path / "none")
    write_network(tmp_path / "generator.safetensors", {}, {"network": "vae"})
    with pytest.raises(ValueError, match="'vae' is unknown; known: dcgan"):
        generate.load_generator(tmp_path)


def test_real_pictures_are_not_called_synthetic(tmp_path):
    for name in ("scan.png", "scan.jpg"):
        Image.new("L", (8, 8)).save(tmp_path / name)
        assert not says_synthetic(tmp_path / name)
    (tmp_path / "text.png").write_text("no picture")
    assert not says_synthetic(tmp_path / "text.png")


CLASSES = ["CNV", "DRUSEN", "NORMAL"]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The file of a conditional residual generator of three classes."""
    torch.manual_seed(0)
    arguments = {"size": 64, "latent": 6, "width": 4, "blocks": 1, "classes": 3}
    network = residual.Generator(**arguments)
    path = tmp_path_factory.mktemp("runs") / "residual" / "generator.safetensors"
    path.parent.mkdir()
    metadata = {"network": "residual", "arguments": arguments, "class": "DRUSEN",
                "classes": CLASSES, "step": 20}  # fmt: skip
    write_network(path, network.state_dict(), metadata)
    (noise,) = draw_noise(5, network.z_dim, seed=3)
    with torch.no_grad():
        drawn = [network(noise, torch.full((5,), i)).clamp(-1, 1) for i in range(3)]
    return path, dict(zip(CLASSES, drawn))


def test_every_class_can_be_asked_for_and_a_wrong_one_is_named(three):
    path, drawn = three
    generator = generate.load_generator(path.parent)
    for name in CLASSES:
        images = sample(generator, 5, seed=3, class_name=name)
        torch.testing.assert_close(images, drawn[name])
    torch.testing.assert_close(sample(generator, 5, seed=3), drawn["DRUSEN"])
    with pytest.raises(ValueError, match="class DME: this generator draws CNV, DRUSEN, NORMAL"):
        sample(generator, 5, class_name="DME")
    assert classes_of(generator) == CLASSES


def test_what_is_not_asked_to_be_exact_is_rounded_by_less_than_a_grey_level(run, tmp_path):
    generator = generate.load_generator(run)
    written = [generate.export(generator, tmp_path / str(exact), 16, exact=exact, progress=False)
               for exact in (True, False)]  # fmt: skip
    exact, fast = (np.stack([np.asarray(Image.open(p), float) for p in paths]) for paths in written)
    assert exact.std() > 0 and np.abs(exact - fast).mean() < 1


def rows_of(out):
    with open(out / "images.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_set_of_several_classes_has_as_many_of_each(three, tmp_path, capsys):
    path, drawn = three
    out, more = tmp_path / "set", 70  # more than one batch of each
    generate.main([str(path), "--n", "70", "--out", str(out), "--seed", "3", "--exact"])
    assert "210 images" in capsys.readouterr().out
    rows = rows_of(out)
    assert [row["class"] for row in rows] == [c for c in CLASSES for _ in range(more)]
    assert [row["file"] for row in rows] == [f"{c}/{i:06d}.png" for c in CLASSES
                                             for i in range(more)]  # fmt: skip
    assert {p.name for p in out.iterdir()} == {*CLASSES, "images.csv"}
    for name in CLASSES:
        assert len(list((out / name).iterdir())) == more
        for index, image in enumerate(drawn[name]):
            with Image.open(out / f"{name}/{index:06d}.png") as picture:
                assert picture.text["Class"] == name and picture.text["Index"] == str(index)
                difference = np.asarray(picture) - (image[0].numpy() + 1) * 127.5
                assert np.abs(difference).max() < 0.51
    with Image.open(out / "NORMAL/000069.png") as picture:
        assert (picture.text["Class"], picture.text["Index"]) == ("NORMAL", "69")


def test_one_class_of_several_is_written_alone(three, tmp_path, capsys):
    path, out = three[0], tmp_path / "set"
    generate.main([str(path), "--n", "3", "--out", str(out), "--class", "NORMAL"])
    assert [row["class"] for row in rows_of(out)] == ["NORMAL"] * 3
    assert {p.name for p in out.iterdir()} == {"NORMAL", "images.csv"}
    with pytest.raises(SystemExit) as stopped:
        generate.main([str(path), "--out", str(tmp_path / "none"), "--class", "DME"])
    assert stopped.value.code == 1 and "draws CNV, DRUSEN, NORMAL" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_what_comes_with_helpers_is_found_by_name(three, run, tmp_path, monkeypatch, capsys):
    shipped, here = tmp_path / "weights", tmp_path / "here"
    shipped.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(start, "SHIPPED", shipped)
    for name in ("simulated", "amd"):
        (shipped / f"{name}.safetensors").write_bytes(three[0].read_bytes())
    generate.main(["simulated", "--n", "1", "--out", "set"])
    assert "3 images" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        generate.main(["simulatde", "--out", "none"])
    assert stopped.value.code == 1
    assert "simulatde: no such run or file; with helpers come: amd, simulated" in (
        capsys.readouterr().err
    )
    (here / "simulated").symlink_to(run)  # one's own run of that name comes first
    assert generate.load_generator("simulated").metadata["network"] == "dcgan"


def test_what_comes_with_helpers_can_be_sampled():
    generator = generate.load_generator("simulated")
    assert generator.size == 256 and start.generator_file("simulated").stat().st_size < 10e6
    assert {"NORMAL", "DRUSEN"} <= set(classes_of(generator))
    one, other = (sample(generator, 2, class_name=name) for name in ("NORMAL", "DRUSEN"))
    assert one.std() > 0.1 and not torch.allclose(one, other, atol=0.05)


@pytest.mark.parametrize("seed", [-1, 10**20])
def test_a_seed_that_is_none_is_named(run, tmp_path, capsys, seed):
    with pytest.raises(SystemExit):
        generate.main([str(run), "--n", "1", "--out", str(tmp_path / "set"), f"--seed={seed}"])
    assert f"seed={seed}: choose a whole number" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
