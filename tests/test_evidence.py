"""What images say of each column, learned from the classes of whole images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from support.methods import METHODS, Thumbnails, make_domains

from helpers import config
from helpers.data.pixels import to_float
from helpers.data.scan import Scan
from helpers.data.split import Split
from helpers.data.two_modalities import Domains
from helpers.generate import load_generator
from helpers.training.loop import train
from helpers.translation import figures
from helpers.translation.evidence import Evidence
from helpers.translation.networks import Translator
from helpers.translation.pix2pix import Pix2pix
from helpers.translation.through_evidence import ThroughEvidence

CLASSES = ("NORMAL", "DRUSEN")


def eyes(count, side, seed):
    """Images uint8 of 64 px of two classes by turns, and where the second is ill, (N, 64) of 0, 1.

    Of a photograph two spots on the scan line and one beside it; of a scan two bumps of a bright
    band. All stand on noise.
    """
    rng = np.random.default_rng(seed)
    channels, columns = {"dfe": 3, "oct": 1}[side], np.arange(64)
    images = rng.normal(90, 12, (count, channels, 64, 64))
    ill, scans = np.zeros((count, 64), bool), []
    for k in range(count):
        if k % 2:
            for place in rng.choice(np.arange(6, 58), 2, replace=False):
                ill[k] |= abs(columns - place) <= 2
        rows = np.arange(64)[:, None]
        if side == "dfe":
            images[k] += 70 * (abs(rows - 31.5) < 6) * ill[k]
            if k % 2:
                images[k, :, 4:14, rng.integers(6, 52) :][..., :6] += 70
        else:
            images[k] += 100 * (abs(rows - 40 + 6 * ill[k]) < 2)
        scans.append(Scan(f"{side}{k}", side, "toy", CLASSES[k % 2], f"{side}-{seed}-{k}"))
    return Split(images.clip(0, 255).astype(np.uint8), scans), ill


@pytest.fixture(scope="module")
def learned():
    domains = make_domains(paired=False)
    sides = {side: replace(getattr(domains, side), train=eyes(80, side, 1)[0])
             for side in ("dfe", "oct")}  # fmt: skip
    domains = Domains(**sides, classes=CLASSES, paired=False)
    evidence = Evidence(2)
    before = torch.get_rng_state()
    evidence.learn(domains, 40, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    return domains, evidence


@pytest.mark.parametrize("side", ["dfe", "oct"])
def test_places_are_found_though_only_whole_images_have_a_class(learned, side):
    split, ill = eyes(40, side, 2)
    said = learned[1](to_float(split.images), side)[:, 1].numpy()
    assert said.shape == (40, 64) and np.abs(said).max() <= 1
    sick = ill.any(1)
    assert np.mean(said[ill]) > np.mean(said[sick][~ill[sick]]) + 0.3
    assert roc_auc_score(ill[sick].ravel(), said[sick].ravel()) > 0.9  # by chance 0.5


def test_a_spot_beside_the_scan_line_says_nothing_of_the_scan(learned):
    split, ill = eyes(40, "dfe", 3)
    images = to_float(split.images)
    hidden = images.clone()
    hidden[:, :, :20] = hidden[:1, :, :20]
    a, b = (learned[1](shown, "dfe")[:, 1].numpy() for shown in (images, hidden))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.95


def test_both_modalities_speak_on_one_scale(learned):
    domains, evidence = learned
    said = [evidence(to_float(getattr(domains, side).train.images), side)[:, 1].flatten()
            for side in ("dfe", "oct")]  # fmt: skip
    shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    photographs, scans = (values.quantile(shares) for values in said)
    assert torch.allclose(photographs, scans, atol=0.05)


def test_it_is_learned_alike_everywhere_and_stays_so(learned):
    both = []
    for seed in (5, 6):  # of a process
        torch.manual_seed(seed)
        both.append(Evidence(2))
        both[-1].learn(learned[0], 3, seed=0)
    for name, value in both[0].state_dict().items():
        assert torch.equal(value, both[1].state_dict()[name]), name
    assert not both[0].train().networks["oct"].layers[1].training
    assert not any(p.requires_grad for p in both[0].parameters())


@pytest.mark.parametrize("size", [64, 128])
def test_a_picture_of_it_has_the_size_of_the_image_and_one_value_for_a_column(learned, size):
    picture = learned[1].picture(torch.zeros(2, 3, size, size), "dfe")
    assert picture.shape == (2, 2, size, size)
    assert (picture == picture[:, :, :1]).all()


@pytest.mark.parametrize("simulated", ["dfe", "oct"])
def test_eyes_of_which_one_modality_alone_is_simulated_are_shown(learned, simulated):
    """OCT_DATA is somebody's folder and OCT_DFE is left as it is."""
    domains, evidence = learned
    for side in ("dfe", "oct"):
        split = getattr(domains, side).test
        names = [f"simulated/DRUSEN/P{k:05}_OS" if side == simulated else f"/data/ill/P{k}/{k}.png"
                 for k in range(len(split))]  # fmt: skip
        scans = [replace(scan, path=name, dataset=name.split("/")[0])
                 for scan, name in zip(split.scans, names)]  # fmt: skip
        own = replace(getattr(domains, side), test=Split(split.images, scans))
        domains = replace(domains, **{side: own})
    figure = figures.evidence_along(evidence, domains, [0, 1])
    assert len(figure.axes) == 8 + 2  # the rise of the RPE of two eyes besides


def test_no_photograph_teaches_the_generator(tmp_path):
    method, draw, _, _ = METHODS["evidence"](tmp_path)
    (photographs, labels), scans = next(iter(draw()))
    shown = []
    for seen in ((photographs, labels), (None, None)):
        torch.manual_seed(0)
        shown.append(method.pairs((seen, scans))[0])
    assert shown[0].shape == (8, 2, 64, 64) and torch.equal(*shown)
    generator = method.networks["generator"].eval()
    drawn = generator(photographs)
    evidence = generator.evidence.picture(photographs, "dfe")
    assert torch.equal(drawn, generator.generators["oct"](evidence))


def test_what_is_exported_draws_photographs_by_itself(tmp_path):
    method, draw, run, settings = METHODS["evidence"](tmp_path, steps=2, ema_half_life=0)
    train(method, draw, run, settings)
    photographs = to_float(make_domains(paired=False).dfe.test.images)
    own, loaded = method.networks["generator"].eval(), load_generator(run.folder)
    with torch.no_grad():
        assert torch.allclose(own(photographs), loaded(photographs), atol=1e-5)


def test_grain_varies_while_it_learns_and_not_afterwards(learned):
    generator = Translator("column", size=128, width=4, evidence=2)
    generator.evidence.load_state_dict(learned[1].state_dict())
    photographs = F.interpolate(to_float(eyes(3, "dfe", 4)[0].images), 128)
    with torch.no_grad():
        learning = [generator.train()(photographs) for _ in range(2)]
        used = [generator.eval()(photographs) for _ in range(2)]
        alone = generator(photographs[:1])
    assert not torch.equal(*learning) and torch.equal(*used)
    assert torch.allclose(used[0][:1], alone, atol=1e-5)
    plain = Translator("column", size=64, width=4, evidence=2).state_dict()
    assert not any("loudness" in name for name in plain)  # at 64 px evidence knows every column


@pytest.mark.parametrize("size", [64, 256])
def test_grain_costs_nothing_where_evidence_is_coarser(tmp_path, size):
    method, *_ = METHODS["evidence"](tmp_path)
    scans = torch.rand(2, 1, size, size) - 0.5
    grain = 0.2 * (torch.arange(size) % 2 - 0.5).expand(size, size)  # by turns, of mean 0
    error = method.error(scans + grain, scans)
    assert error == pytest.approx({64: 0.1, 256: 0.0}[size], abs=1e-6)
    assert Pix2pix.error(method, scans + grain, scans) == pytest.approx(0.1, abs=1e-6)
    level = method.error(scans + 0.3, scans)  # what is not grain costs what it does in pix2pix
    assert level == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("lacking, word", [("classes", "OCT_CLASSES"), ("place", "dfe_framing")])
def test_what_it_cannot_do_is_refused_by_the_setting(lacking, word):
    domains = make_domains(paired=False)
    if lacking == "classes":
        domains = replace(domains, classes=("DRUSEN",))
    given = ["--preset=tiny", "--model=evidence"]
    if lacking == "place":
        given.append("--dfe-framing=full")
    settings = config.resolve(config.TrainCyclegan, given, {})
    with pytest.raises(ValueError, match=word):
        ThroughEvidence(settings, domains, Thumbnails())
