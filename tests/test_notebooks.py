"""The .py is reviewed, the .ipynb is opened: they must be the same notebook."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
HELPERS = NOTEBOOKS.parent / "helpers"
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
def test_sources_that_outputs_show_are_todays(stem):
    known = "\n".join(path.read_text() for path in HELPERS.rglob("*.py"))
    notebook = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    shown = [o.data["text/markdown"] for cell in notebook.cells for o in cell.get("outputs", [])
             if o.get("data", {}).get("text/markdown", "").startswith("```python")]  # fmt: skip
    for code in shown:
        for part in code.removeprefix("```python\n").removesuffix("```").split("\n\n"):
            assert part.rstrip() in known, "make notebooks"


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
