import pytest
import torch
import torch.nn.functional as F

from helpers.config import Explore, TrainGan, resolve
from helpers.gan.losses import zero_centred_penalty
from helpers.gan.recipes import ALIGNED, ALIGNED_GAMMA, RECIPES, penalty_weight, with_recipe


def test_order_default_preset_environment_argument():
    assert resolve(TrainGan, [], {}).size == 128  # the demo preset
    assert resolve(TrainGan, [], {"OCT_PRESET": "kaggle"}).size == 256  # the default
    assert resolve(TrainGan, [], {"OCT_PRESET": "tiny", "OCT_SIZE": "256"}).size == 256
    assert resolve(TrainGan, ["--size=512"], {"OCT_SIZE": "128"}).size == 512


def test_class_is_spelled_without_its_underscore():
    assert resolve(TrainGan, [], {"OCT_CLASS": "CNV"}).class_ == "CNV"
    assert resolve(TrainGan, ["--class=DME"], {}).class_ == "DME"


def test_types():
    settings = resolve(TrainGan, ["--mirror=1", "--lr=1e-4", "--steps=7"], {})
    assert (settings.mirror, settings.lr, settings.steps) == (True, 1e-4, 7)
    with pytest.raises(ValueError, match="OCT_SIZE='big'.*whole number"):
        resolve(TrainGan, [], {"OCT_SIZE": "big"})
    with pytest.raises(ValueError, match="OCT_HOURS='inf'.*a finite number"):
        resolve(TrainGan, [], {"OCT_HOURS": "inf"})
    with pytest.raises(ValueError, match="--mirror='maybe'.*1 or 0"):
        resolve(TrainGan, ["--mirror=maybe"], {})


def test_unknown_names():
    with pytest.raises(ValueError, match="OCT_SIEZ: no notebook has this setting.*size"):
        resolve(TrainGan, [], {"OCT_SIEZ": "64"})
    with pytest.raises(ValueError, match="--field=value"):
        resolve(TrainGan, ["size", "64"], {})
    with pytest.raises(ValueError, match="preset='huge'"):
        resolve(TrainGan, ["--preset=huge"], {})
    # another notebook's setting is no error: the environment is shared
    assert resolve(Explore, [], {"OCT_LR": "1e-4"}).size == 256


def test_relative_paths_start_at_the_root(tmp_path, monkeypatch):
    (tmp_path / "helpers").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "notebooks")
    settings = resolve(TrainGan, ["--data=scans/mine"], {})
    assert settings.runs == str(tmp_path / "runs")
    assert settings.data == str(tmp_path / "scans/mine")
    assert resolve(TrainGan, ["--data=oct2017"], {}).data == "oct2017"
    (tmp_path / "simulated").mkdir()  # as generate --out simulated makes it
    assert resolve(TrainGan, [], {}).data == "simulated"
    assert resolve(TrainGan, ["--data=./simulated"], {}).data == str(tmp_path / "simulated")
    assert resolve(TrainGan, ["--start=simulated"], {}).start == "simulated"


def test_a_recipe_fills_what_is_left_open():
    paper = ["--model=dcgan", "--framing=stretch", "--recipe=paper"]
    settings = with_recipe(resolve(TrainGan, [*paper, "--width=16"], {}))
    assert settings.width == 16
    large = with_recipe(resolve(TrainGan, [*paper, "--size=256"], {}))
    assert large.width == 8 * 512 // 256  # 512 channels at 4 px
    assert all(
        getattr(settings, name) == value
        for name, value in RECIPES["dcgan"]["paper"].items()
        if name != "channels"
    )
    with pytest.raises(ValueError, match="recipe='worst'"):
        with_recipe(resolve(TrainGan, ["--recipe=worst"], {}))


def test_networks_of_crops_are_as_wide_as_those_of_scans_with_as_many_rows():
    """A crop of 256 px has 128 rows, and its penalty the weight of as many pixels in a square."""
    crops = with_recipe(resolve(TrainGan, ["--size=256"], {}))
    assert (crops.model, crops.framing, crops.conditional) == ("residual", "aligned", None)
    channels = RECIPES["residual"]["best"]["channels"]
    assert crops.width == residual("--size=128").width == channels * 8 // 128
    assert crops.gamma == pytest.approx(ALIGNED_GAMMA * penalty_weight(256) / 2)
    assert crops.lr == ALIGNED["residual"]["lr"] > residual().lr
    small = with_recipe(resolve(TrainGan, ["--size=64"], {}))
    assert small.width == residual("--size=64").width
    assert small.gamma == pytest.approx(ALIGNED_GAMMA * penalty_weight(64))
    assert with_recipe(resolve(TrainGan, ["--model=dcgan"], {})).conditional is False
    with pytest.raises(ValueError, match="framing='whole': choose one of aligned, stretch"):
        with_recipe(resolve(TrainGan, ["--framing=whole"], {}))


def residual(*arguments):
    given = ["--model=residual", "--framing=stretch", *arguments]
    return with_recipe(resolve(TrainGan, given, {}))


def test_the_residual_recipe_fills_what_is_left_open():
    settings = residual("--size=256")
    for name, value in RECIPES["residual"]["best"].items():
        if name != "channels":
            assert getattr(settings, name) == value
    assert settings.width == 8 * RECIPES["residual"]["best"]["channels"] // 256
    assert settings.gamma == penalty_weight(256)
    for chosen, adapted_to in (("3", 0), ("3 --balance=0.4", 0.4)):
        settings = residual(*f"--gamma={chosen}".split())
        assert (settings.gamma, settings.balance) == (3, adapted_to)
    assert residual("--loss=bce").balance == 0  # what it is adapted by is another loss
    chosen = residual("--blocks=2", "--penalty_every=7", "--z_dim=9", "--conditional=1")
    assert (chosen.blocks, chosen.penalty_every, chosen.z_dim, chosen.conditional) == (2, 7, 9, 1)


def test_the_penalty_weighs_the_same_scans_alike_at_every_size():
    torch.manual_seed(0)
    judge = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64**2, 1))
    weighted = []
    for size in (64, 128, 256):
        scans = torch.randn(3, 1, size, size, requires_grad=True)
        logits = judge(F.avg_pool2d(scans, size // 64))[:, 0]
        weighted.append(penalty_weight(size) * zero_centred_penalty(logits, scans).item())
    assert weighted == pytest.approx([weighted[0]] * 3, rel=1e-4)


WRONG = {
    "--norm=batch": "norm='batch': choose one of none",
    "--recipe=paper": "recipe='paper': choose one of best",
    "--blocks=0": "blocks=0: choose at least 1",
    "--penalty_every=0": "penalty_every=0: choose at least 1",
    "--penalty_fine=2": "penalty_fine=2.0: choose a weight between 0 and 1",
    "--augment=1.5": "augment=1.5: choose a share between 0",
    "--balance=0.7": "balance=0.7: choose 0.*below log 2",
    "--balance=0.5 --loss=hinge": "balance=0.5: gamma is adapted for loss=relativistic",
    "--balance=0.5 --gamma=0": "balance=0.5.*from a gamma above 0",
    "--size=96": "size=96",
    "--model=residual2": "model='residual2': choose one of dcgan, residual, stylegan",
    "--model=dcgan --conditional=1": "conditional=1: only residual and stylegan",
    "--dials=1 --framing=stretch": "dials=1 with .*framing=stretch",
    "--dials=1 --model=dcgan": "dials=1 with model=dcgan",
    "--model=dcgan --penalty_every=0": "penalty_every=0",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_what_the_residual_model_cannot_do_is_named(arguments):
    with pytest.raises(ValueError, match=WRONG[arguments]):
        residual(*arguments.split())


def test_what_only_the_residual_model_has_is_no_error_elsewhere():
    settings = with_recipe(resolve(TrainGan, ["--model=dcgan"], {}))
    assert settings.blocks == 0 and settings.conditional is False
    assert residual("--augment=1").augment == 1
