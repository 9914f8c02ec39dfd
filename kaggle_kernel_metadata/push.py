"""Check the notebooks' Kaggle metadata without a network, or push one notebook to Kaggle.

    python kaggle_kernel_metadata/push.py                     make kaggle-check
    python kaggle_kernel_metadata/push.py 02 --user name      make kaggle NB=02 KAGGLE_USER=name

Kaggle's client validates a kernel only while it pushes one, and merely prints some of what it
finds wrong. So a check is a push with the network taken out, in which every printed word counts.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import links

ROOT = Path(__file__).resolve().parents[1]
USER = "KAGGLE_USER"  # stands in the committed files where a user's name goes
OFFLINE = "synthetic-retinal-oct"  # the data set that brings helpers where there is no internet
SHAPE = "NvidiaTeslaT4"  # Kaggle's name for the machine with two T4
SOURCES = ("dataset_sources", "competition_sources", "kernel_sources", "model_sources")
SWITCHES = ("is_private", "enable_gpu", "enable_tpu", "enable_internet")
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


def fill_in(stem, user, folder, *, settings="", offline=False, attach="", root=ROOT) -> None:
    """Write into ``folder`` what is pushed: the metadata with ``user``, and the notebook.

    ``settings`` ("OCT_PRESET=kaggle OCT_HOURS=11") are set at the end of the notebook's first code
    cell. ``offline`` switches the internet off and attaches the user's data set with helpers;
    ``attach`` is the stem of the notebook whose last output is attached (its own: to go on).
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
        metadata["dataset_sources"].append(f"{user}/{OFFLINE}")
    if attach:
        metadata["kernel_sources"].append(f"{user}/{attach.replace('_', '-')}")
    metadata["code_file"] = f"{stem}.ipynb"
    (folder / "kernel-metadata.json").write_text(json.dumps(metadata, indent=2))
    (folder / metadata["code_file"]).write_text(json.dumps(notebook))


def push(stem: str, user: str, *, settings="", offline=False, attach="", root=ROOT) -> str:
    """Push one notebook and return its address; ValueError says why Kaggle would not run it."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]+", user):
        raise ValueError(
            f"KAGGLE_USER={user!r}: your name as in kaggle.com/NAME, of lower-case letters, digits "
            "and dashes."
        )
    from helpers import config

    config.resolve(config.Explore, [], dict(pair.split("=", 1) for pair in settings.split()))
    if not offline:
        published(root)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fill_in(stem, user, folder, settings=settings, offline=offline, attach=attach, root=root)
        from kaggle.api.kaggle_api_extended import KaggleApi

        _, said = dry_push(folder)
        if said:
            raise ValueError(said)
        api = KaggleApi()
        api.authenticate()  # prints how to get a token, and exits, if there is none
        answer = api.kernels_push(str(folder))
    invalid = [*answer.invalid_dataset_sources, *answer.invalid_kernel_sources]
    if answer.error or invalid:
        raise ValueError(answer.error or f"Kaggle could not attach {', '.join(invalid)}.")
    return answer.url


def published(root=ROOT) -> None:
    """ValueError unless the tag from which the notebooks install helpers is there to be fetched."""
    address, tag = links.address(root), links.tag(root)
    command = ["git", "ls-remote", "--exit-code", "--tags", f"https://github.com/{address}", tag]
    environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    if subprocess.run(command, env=environ, capture_output=True).returncode:
        raise ValueError(
            f"The notebook installs helpers from github.com/{address} at {tag}, which cannot be "
            "read. Publish that tag (`make links REPO=owner/name` sets the address), or push with "
            f"OFFLINE=1 and attach helpers as the data set {OFFLINE}."
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
    given = parser.parse_args(argv)
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


if __name__ == "__main__":
    main()
