"""The house itself: floors without stairs up, few rooms, pages that point at what is there."""

import ast
import dataclasses
import re
import typing
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from helpers import config

ROOT = Path(__file__).parents[1]
# bottom first: a file may import from its own floor and from those below
FLOORS = ("config", "training", "data", "measures", "classifiers", "plots", "gan", "distillation",
          "translation", "generate", "evaluate")  # fmt: skip
PAGES = sorted(
    path
    for pattern in ("README.md", "helpers/README.md", "helpers/training/README.md",
                    "tests/README.md", "notebooks/results/*.md", "kaggle_kernel_metadata/README.md")
    for path in ROOT.glob(pattern)
)  # fmt: skip
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
each_notebook = pytest.mark.parametrize("cls", config.NOTEBOOKS)


# ---- imports --------------------------------------------------------------------------------


@cache
def modules() -> dict[str, ast.Module]:
    """What stands in each file of helpers, by the name that imports it."""
    found = {}
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


@cache
def arrows() -> list[tuple[str, int, str]]:
    """(file, line, file that it imports), wherever in the file the import stands."""
    found = []
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}:{node.lineno}: write the whole name"
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [each if each in modules() else node.module for each in inside]
            else:
                continue
            for target in targets:
                if target.split(".")[0] == "helpers":
                    assert target in modules(), f"{name}:{node.lineno}: there is no {target}"
                    found.append((name, node.lineno, target))
    return found


def floor(name: str) -> int:
    """Of helpers.X...; below all others is the package itself, which holds the version alone."""
    return FLOORS.index(name.split(".")[1]) if "." in name else -1


def test_no_arrow_points_up():
    assert len(arrows()) > 100
    assert [arrow for arrow in arrows() if floor(arrow[2]) > floor(arrow[0])] == []


def test_no_circle_between_files():
    below = {name: {target for one, _, target in arrows() if one == name} for name in modules()}
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_import_hides_in_a_string():
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                assert called not in ("import_module", "__import__"), f"{name}:{node.lineno}"


def test_few_names_at_the_top():
    rooms = {path.name for path in (ROOT / "helpers").iterdir()} - {"__pycache__"}
    assert len(rooms) <= 15, sorted(rooms)
    assert {name.split(".")[1] for name in modules() if "." in name} == set(FLOORS)


# ---- pages ----------------------------------------------------------------------------------


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200 and len(text.split()) <= 2000


def headings(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```$", "", text))
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@each_page
def test_links_lead_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in headings(target.read_text())):
            broken.append(link)
    assert broken == []


@each_page
def test_paths_in_the_text_exist(page):
    """Of this repository, from its root: in words, in commands, with * for some of the letters."""
    rooms = "helpers|notebooks|tests|kaggle_kernel_metadata"
    named = re.findall(rf"(?<![\w./-])(?:{rooms})/[\w./*-]*[\w/*]", page.read_text())
    assert sorted({path for path in named if not any(ROOT.glob(path.rstrip("/")))}) == []


@cache
def named_tests() -> dict[str, set[str]]:
    """The names of the tests in each file."""
    return {
        path.name: {node.name for node in ast.parse(path.read_text()).body
                    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
        for path in (ROOT / "tests").glob("test_*.py")
    }  # fmt: skip


@each_page
def test_tests_that_are_named_exist(page):
    everywhere = set().union(*named_tests().values())
    missing = []
    for file, name in re.findall(r"`(?:tests/)?(?:(test_\w+\.py)(?:::)?)?(test_\w+)?`",
                                 page.read_text()):  # fmt: skip
        if (file and file not in named_tests()) or (
            name and name not in (named_tests().get(file, ()) if file else everywhere)
        ):
            missing.append(f"{file}::{name}")
    assert missing == []


def test_every_test_file_has_its_line():
    text = (ROOT / "tests" / "README.md").read_text()
    assert {file for file in named_tests() if f"| `{file}` |" not in text} == set()


# ---- settings -------------------------------------------------------------------------------


@each_notebook
def test_every_setting_has_a_comment_and_is_described(cls):
    names = [field.name for field in dataclasses.fields(cls)]
    about, described = config.comments(cls), config.describe(cls)
    assert [name for name in names if not about.get(name)] == []
    options = [name.rstrip("_").replace("_", "-") for name in names]
    assert [option for option in options if f"  --{option}=" not in described] == []


def test_one_name_has_one_type_in_all_notebooks():
    """The environment is shared by all: what OCT_LR=1e-4 means must not depend on who reads it."""
    kinds = {}
    for cls in config.NOTEBOOKS:
        for field in dataclasses.fields(cls):
            kind = set(typing.get_args(field.type) or [field.type]) - {type(None)}
            kinds.setdefault(field.name, set()).update(kind)
    assert {name: kind for name, kind in kinds.items() if len(kind) > 1} == {}
