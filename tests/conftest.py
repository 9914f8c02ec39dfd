"""What runs side by side: tests of one file share their fixtures, and notebooks use what earlier
ones left. So of several workers (pytest-xdist, --dist loadgroup) one takes all of a file, and one
all notebooks, in their order and first, since they take longest."""

import pytest

NOTEBOOKS = "notebooks"


def group(item) -> str:
    return NOTEBOOKS if item.path.suffix == ".ipynb" else item.path.stem


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: group(item) != NOTEBOOKS)
