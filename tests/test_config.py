import pytest

from helpers.config import Explore, TrainGan, resolve
from helpers.methods.gan import RECIPES, with_recipe


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


def test_a_recipe_fills_what_is_left_open():
    settings = with_recipe(resolve(TrainGan, ["--recipe=paper", "--width=16"], {}))
    assert settings.width == 16
    large = with_recipe(resolve(TrainGan, ["--recipe=paper", "--size=256"], {}))
    assert large.width == 8 * 512 // 256  # 512 channels at 4 px
    assert all(
        getattr(settings, name) == value
        for name, value in RECIPES["paper"].items()
        if name != "channels"
    )
    with pytest.raises(ValueError, match="recipe='worst'"):
        with_recipe(resolve(TrainGan, ["--recipe=worst"], {}))
