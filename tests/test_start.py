"""A training that begins where another ended."""

import shutil

import pytest
import torch
from support import methods
from support.methods import CLASSES, METHODS, aligned_gan

from helpers.gan import start
from helpers.gan.start import start_from
from helpers.generate import load_generator
from helpers.training import checkpoint
from helpers.training.loop import train
from helpers.training.network_file import network_bytes, read_network, write_network

ALIGNED = METHODS["gan aligned"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(*ALIGNED(tmp_path_factory.mktemp("runs"), steps=3))


@pytest.fixture(scope="module")
def ended(run):
    """What the run ended with: weights of its generator, of its discriminator, and its metadata."""
    state = checkpoint.load_best(run.checkpoints)[1]
    weights, about = read_network(run.generator)
    return weights, state["networks"]["discriminator"], about


def test_what_ships_is_found_beside_what_it_drew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "simulated").mkdir()  # as generate --out simulated makes it
    assert start.generator_file("simulated") == start.SHIPPED / "simulated.safetensors"


def test_all_weights_are_taken_over(run, ended, tmp_path):
    weights, discriminator, about = ended
    method = aligned_gan(tmp_path, seed=1)[0]
    before = {n: network.state_dict()["embedding.weight"].clone()
              for n, network in method.networks.items()}  # fmt: skip
    words = start_from(method, run.folder)
    assert str(run.folder) in words and words.endswith("which knows DRUSEN, NORMAL.")
    for name, known in (("generator", weights), ("discriminator", discriminator)):
        state = method.networks[name].state_dict()
        assert all(torch.equal(value, known[key]) for key, value in state.items())
        assert not torch.equal(before[name], state["embedding.weight"])
    assert method.gamma == about["gamma"]  # found by balance, and exported with the weights
    fixed = aligned_gan(tmp_path / "fixed", gamma=3)[0]
    start_from(fixed, run.folder / "generator.safetensors")
    assert fixed.gamma == 3  # asked for


def test_classes_are_matched_by_name_and_a_new_one_begins_as_the_mean(run, ended, tmp_path):
    method = aligned_gan(tmp_path, classes=("CNV", "NORMAL", "DRUSEN"))[0]
    words = start_from(method, run.folder)
    assert words.endswith("new to it: CNV.")
    for name, known in zip(("generator", "discriminator"), ended):
        rows, known = method.networks[name].embedding.weight, known["embedding.weight"]
        assert CLASSES == ("DRUSEN", "NORMAL") and not torch.equal(*known)
        assert torch.equal(rows[1], known[1]) and torch.equal(rows[2], known[0])
        torch.testing.assert_close(rows[0], known.mean(0))


def test_a_style_based_generator_has_its_classes_in_the_mapping(tmp_path):
    settings = dict(**methods.STYLE, steps=1)
    run = train(*aligned_gan(tmp_path / "a", **settings))
    method = aligned_gan(tmp_path / "b", classes=CLASSES[::-1], **settings)[0]
    start_from(method, run.folder)
    known = read_network(run.generator)[0]["mapping.embedding.weight"]
    assert torch.equal(method.networks["generator"].mapping.embedding.weight, known.flip(0))


def test_a_class_is_known_however_it_is_spelled(run, tmp_path):
    method = aligned_gan(tmp_path)[0]
    method.architecture["classes"] = ["Drusen", "Normal"]
    assert "new to it" not in start_from(method, run.folder)


OTHERS = {
    "size=64, this training size=128. Set OCT_SIZE=64": dict(size=128),
    "model=residual, this training model=stylegan": dict(**methods.STYLE),
    "model=residual, this training model=dcgan": dict(model="dcgan", conditional=0),
    "framing=aligned, this training framing=stretch": None,
    "conditional=1, this training conditional=0": dict(conditional=0),
    "width=4, this training width=8. Set OCT_WIDTH=4": dict(width=8),
    "z_dim=64, this training z_dim=32. Set OCT_Z_DIM=64": dict(z_dim=32),
}


@pytest.mark.parametrize("words", OTHERS)
def test_what_does_not_fit_is_named_by_its_setting(run, tmp_path, words):
    changes = OTHERS[words]
    if changes is None:
        method = methods.gan(tmp_path, model="residual", conditional=1)[0]
    else:
        method = ALIGNED(tmp_path, **changes)[0]
    with pytest.raises(ValueError, match=f"start=.*{words}.*OCT_START"):
        start_from(method, run.folder)


@pytest.mark.parametrize("model", [{}, methods.STYLE])
def test_new_dials_change_no_picture_and_known_ones_are_not_dropped(tmp_path, model):
    run = train(*aligned_gan(tmp_path / "run", steps=1, **model))
    method = aligned_gan(tmp_path / "told", dials=1, **model)[0]
    start_from(method, run.folder)
    known, mine = load_generator(run.folder), method.networks["generator"].eval()
    z, label, look = torch.randn(2, known.z_dim), torch.tensor([0, 1]), torch.randn(2, mine.looks)
    with torch.no_grad():
        torch.testing.assert_close(mine(z, label, look), known(z, label, look[:, : known.looks]))
    write_network(tmp_path / "told.safetensors", mine.state_dict(), method.architecture)
    with pytest.raises(ValueError, match="dials=1, this training dials=0.*OCT_DIALS=1"):
        start_from(aligned_gan(tmp_path / "not", **model)[0], tmp_path / "told.safetensors")


def test_a_discriminator_that_does_not_fit_is_said(run, tmp_path):
    """One of an older version, say, of which no setting tells."""
    method = ALIGNED(tmp_path)[0]
    method.networks["discriminator"].height = None
    with pytest.raises(ValueError, match="height.* of its discriminator does not fit.*OCT_START"):
        start_from(method, run.folder)


def test_without_its_checkpoints_or_a_run_there_is_no_start(run, tmp_path):
    method = aligned_gan(tmp_path)[0]
    (tmp_path / "bare").mkdir()
    shutil.copy(run.generator, tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="bare.checkpoints: no checkpoint.*discriminator"):
        start_from(method, tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="nowhere: no such run"):
        start_from(method, tmp_path / "nowhere")


def test_what_ships_brings_its_discriminator(run, ended, tmp_path, monkeypatch):
    shipped = tmp_path / "weights"
    (shipped / "discriminators").mkdir(parents=True)
    shutil.copy(run.generator, shipped / "eyes.safetensors")
    (shipped / "discriminators" / "eyes.safetensors").write_bytes(network_bytes(ended[1], {}))
    monkeypatch.setattr(start, "SHIPPED", shipped)
    monkeypatch.chdir(tmp_path)
    method = aligned_gan(tmp_path, seed=1)[0]
    assert start_from(method, "eyes").startswith("Begins from eyes, which knows DRUSEN")
    state = method.networks["discriminator"].state_dict()
    assert all(torch.equal(value, ended[1][key]) for key, value in state.items())
    (shipped / "discriminators" / "eyes.safetensors").rename(tmp_path / "gone.safetensors")
    with pytest.raises(FileNotFoundError, match="start=eyes: it ships without its discriminator"):
        start_from(method, "eyes")
