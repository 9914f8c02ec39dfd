"""`make gpu`, all of it at sizes a CPU does in seconds: the first real run must meet no typo."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from bench import materials, steps
from gpu import __main__ as command
from gpu import judge, result, sanity, speed, tables, translation
from PIL import Image
from support.methods import Thumbnails

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
SCRIPTS = ROOT / "tests", ROOT / "notebooks" / "results"


# without torch, which a busy machine takes longer to import than a part has here
TABLE = """
import json, pathlib
class Table:
    def __init__(self, folder, name):
        self.path = pathlib.Path(folder) / f"{name}.json"
    def add(self, what, **values):
        rows = [{"what": what, **values}]
        self.path.write_text(json.dumps({"machine": "", "rows": rows}))
"""


def rows(folder, name):
    return {row["what"]: row for row in json.loads((folder / f"{name}.json").read_text())["rows"]}


def test_parts_run_one_by_one_and_fail_alone(tmp_path, monkeypatch, capfd):
    """What a part found before it failed or ran out of time stays, and the next one runs."""
    monkeypatch.setenv("OCT_RUNS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (tmp_path, ROOT, *SCRIPTS))))
    package = tmp_path / "gpu"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tables.py").write_text(TABLE)
    begin = (
        "import sys\nfrom gpu.tables import Table\nt = Table(sys.argv[1], %r)\nt.add('a', n=1.5)\n"
    )
    (package / "sanity.py").write_text(begin % "sanity" + "raise SystemExit('broken')")
    (package / "speed.py").write_text(begin % "speed" + "import time\ntime.sleep(60)")
    (package / "two.py").write_text(begin % "two")
    monkeypatch.setattr(command, "ENDING", 1)
    arguments = ["gpu", "--minutes", "0.4", "--parts", "sanity,speed two"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(command, "SHARES", {"sanity": 1, "speed": 1, "two": 1})
    assert command.main() == 1
    said = (tmp_path / "gpu" / "gpu.md").read_text()
    assert "- sanity: FAILED" in said and "- speed: out of time" in said and "- two: done" in said
    assert said.count("| a | 1.5 |") == 3 and "broken" in (tmp_path / "gpu/sanity.log").read_text()
    assert "broken" in capfd.readouterr().out
    monkeypatch.setattr(sys, "argv", ["gpu", "--parts", "sped"])
    with pytest.raises(SystemExit):
        command.main()
    assert "no part sped: there are sanity, speed" in capfd.readouterr().err


def test_make_gpu_asks_for_no_environment_of_its_own():
    """It takes the torch that is there; with .venv, that one."""
    given = ["MINUTES=1", "PARTS=sanity two", "DATA=x"]
    done = subprocess.run(["make", "-n", "gpu", *given], cwd=ROOT, capture_output=True, text=True)
    assert "pip install" not in done.stdout
    assert '-m gpu --minutes 1 --parts "sanity two" --data "x"' in " ".join(
        done.stdout.replace("\\", " ").split()
    )


def test_sanity_trains_exports_and_survives_a_kill(tmp_path):
    table = tables.Table(tmp_path, "sanity")
    sanity.exported(table, tmp_path / "run")
    sanity.killed(table, tmp_path / "killed")
    found = rows(tmp_path, "sanity")
    assert found["export, drawn on the CPU and here"]["grey_levels_apart"] == 0  # one machine
    killed = found["kill -9, continued"]
    assert killed["ok"] and 0 < killed["killed_after"] < killed["ended_at"] == 60


@pytest.mark.parametrize("name", ["gan aligned", "cut", "distillation, all at once"])
def test_sanity_compares_a_step_with_the_cpus(name):
    """On the CPU itself, whose losses must be the same; on a GPU the table says how far off."""
    reference = sanity.first_losses(name, "fp32", "cpu")
    found = sanity.first_losses(name, "fp32", "gpu")
    assert any(key.startswith("loss") for key in reference)
    for key, value in reference.items():
        assert found[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


@pytest.fixture
def kept(tmp_path):
    """The folder that stays; what is too large for it lies beside it."""
    folder = tmp_path / "gpu"
    folder.mkdir()
    return folder


def test_the_result_is_trained_judged_and_shown(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(result, "PATIENTS", 9)
    monkeypatch.setattr(result, "JUDGED", 6)
    monkeypatch.setattr(result, "Features", Thumbnails)  # of the training; the judge has its own
    data = tmp_path / "scans"
    for label in ("DRUSEN", "NORMAL"):
        for k, scan in enumerate(judge.eyes(label, 14, 50)[:, 0]):
            (data / label / f"p{k}").mkdir(parents=True)
            Image.fromarray(scan).save(data / label / f"p{k}" / "1.png")
    result.main(kept, 1.0, str(data))  # no time: a few steps of each
    found = rows(kept, "result")
    for what in ("simulated", "data"):
        assert found[f"{what}: trained"]["images"] >= 8
        assert 0 <= found[what]["AUROC from synthetic"] <= 1
        assert found[f"{what}, DRUSEN"]["distance"] > found[f"{what}, DRUSEN"]["floor"]
        assert Image.open(kept / f"{what}.jpg").size[0] in (3 * 256, 4 * 256)
    assert (kept / "data.safetensors").exists()
    assert (kept / "discriminators" / "data.safetensors").exists()
    assert "| simulated |" in tables.markdown(kept)
    assert sum(file.stat().st_size for file in kept.rglob("*") if file.is_file()) < 60e6


def test_the_judge_tells_the_disease_from_its_absence(tmp_path, monkeypatch):
    """Real scans of drusen pass for drusen; healthy ones called drusen do not."""
    monkeypatch.setattr(judge, "Features", partial(judge.Features, cache=tmp_path))  # asked twice
    test, real = ({k: judge.eyes(k, 16, first) for k in ("NORMAL", "DRUSEN")}
                  for first in (judge.UNSEEN, judge.OTHERS))  # fmt: skip
    good = judge.judge(real, test, real)
    empty = judge.judge({**real, "DRUSEN": judge.eyes("NORMAL", 16, 77)}, test, real)
    assert good["AUROC from synthetic"] == good["AUROC from real"] > 0.8
    assert empty["AUROC from synthetic"] < 0.7
    assert abs(good["drusen_count"][2]) < 0.5 and empty["drusen_count"][2] < -0.7


def test_speed_has_a_row_for_each_method(tmp_path, monkeypatch):
    """One of the cases; test_bench.py takes a step of all."""
    every = steps.cases("auto", speed.SIZE)
    for word in ("DCGAN", "aligned", "CycleGAN", "CUT", "pix2pix", "distillation", "stylegan"):
        assert any(word in name for name in every)
    chosen = {name: every[name] for name in every if "pix2pix" in name}
    monkeypatch.setattr(steps, "cases", lambda *_: chosen)
    monkeypatch.setattr(steps, "IMAGES", 60)
    monkeypatch.setattr(materials, "EYES", 12)
    monkeypatch.setattr(materials, "EXPORT", materials.SMALL)
    monkeypatch.setattr(materials, "PHOTOGRAPH", 192)
    monkeypatch.setattr(speed, "TURN", 0.0)
    table, place = tables.Table(tmp_path, "speed"), tmp_path / "place"
    speed.methods(table, place, kinds=("bf16",), eager=False)
    for part in (speed.where_time_goes, speed.loading):
        part(table, place)
    found = rows(tmp_path, "speed")
    for name in chosen:
        assert found[f"{name}, images/s"]["plain"] > 0
        assert found[f"{name}, images/s"]["best / plain"] > 0
    assert found["batches of 16, images/s"]["images/s"] > 0


def test_translation_is_measured(kept, monkeypatch):
    monkeypatch.setattr(translation, "CONTENDERS",
                        {"pix2pix column": translation.CONTENDERS["pix2pix column"]})  # fmt: skip
    translation.main(kept, "1")
    (row,) = rows(kept, "translation").values()
    assert row["images"] > 0 and np.isfinite(row["distance"])


def test_tables_are_readable(tmp_path):
    table = tables.Table(tmp_path, "one")
    table.add("a", x=1234.5, y=(0.123456, 2))
    table.add("b", z="words")
    (tmp_path / "settings.json").write_text('["--size=256"]')  # what patience.py keeps beside it
    said = tables.markdown(tmp_path)
    assert "| a | 1,234 | (0.123, 2) |" in said and "| b | words |" in said
    assert str(torch.__version__) in said
