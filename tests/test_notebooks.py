"""The .py is reviewed, the .ipynb is opened: they must be the same notebook."""

import json
import re
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
STEMS = sorted(path.stem for path in NOTEBOOKS.glob("*.py"))
HEADINGS = ["What this does, and what to expect", "Setup", "Settings", "Data", "Model", "Loss",
            "Train", "Look", "Measure", "Limits"]  # fmt: skip


def cells(path):
    return [(cell.cell_type, cell.source.strip()) for cell in jupytext.read(path).cells]


def test_there_are_notebooks_and_every_one_has_both_forms():
    assert STEMS
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == STEMS


@pytest.mark.parametrize("stem", STEMS)
def test_pair_is_equal_cell_by_cell(stem):
    assert cells(NOTEBOOKS / f"{stem}.py") == cells(NOTEBOOKS / f"{stem}.ipynb"), "make notebooks"


@pytest.mark.parametrize("stem", STEMS)
def test_committed_outputs_are_whole(stem):
    path = NOTEBOOKS / f"{stem}.ipynb"
    assert path.stat().st_size < 1_500_000
    notebook = nbformat.read(path, as_version=4)
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 5
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run from top to bottom: make notebooks"
    text = path.read_text()
    assert not re.search(r"/(home|root|work|Users)/", text), "an output shows a machine's path"


@pytest.mark.parametrize("stem", STEMS)
def test_headings_come_in_one_order(stem):
    found = [
        line[3:]
        for kind, source in cells(NOTEBOOKS / f"{stem}.py")
        if kind == "markdown"
        for line in source.splitlines()
        if line.startswith("## ")
    ]
    assert [heading for heading in HEADINGS if heading in found] == found
    assert {"Setup", "Settings", "Data", "Limits"} <= set(found)


@pytest.mark.parametrize("stem", STEMS)
def test_kaggle_metadata_names_the_notebook(stem):
    folder = NOTEBOOKS.parent / "kaggle_kernel_metadata" / stem
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    assert (folder / metadata["code_file"]).resolve() == (NOTEBOOKS / f"{stem}.ipynb").resolve()
    slug = re.sub(r"[^a-z0-9]+", "-", metadata["title"].lower())
    assert metadata["id"].split("/")[1] == slug  # Kaggle only prints a word when they differ
    assert metadata["enable_internet"] is True


@pytest.mark.parametrize("stem", STEMS)
def test_first_code_cell_installs_on_kaggle_and_colab_without_touching_torch(stem, monkeypatch):
    (first,) = [source for kind, source in cells(NOTEBOOKS / f"{stem}.py") if kind == "code"][:1]
    calls = []
    monkeypatch.setattr("subprocess.run", lambda command, **_: calls.append(command))
    monkeypatch.setattr("os.path.isdir", lambda path: False)
    exec(first, {})
    assert not calls  # at home: nothing
    for place in ("/kaggle/working", "/content/sample_data"):
        calls.clear()
        monkeypatch.setattr("os.path.isdir", lambda path, place=place: path == place)
        exec(first, {})
        (command,) = calls
        assert command[1:4] == ["-m", "pip", "install"] and command[-1].startswith("git+https://")
    project = tomllib.loads((NOTEBOOKS.parent / "pyproject.toml").read_text())["project"]
    assert command[-1] == "git+" + project["urls"]["Repository"]
    names = {re.split(r"[<>=]", dependency)[0] for dependency in project["dependencies"]}
    assert names.isdisjoint({"torch", "torchvision"})
