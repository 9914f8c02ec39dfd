"""Kaggle's metadata, by Kaggle's own client with its network taken out; the repository's links."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest
from requests.exceptions import ConnectionError, HTTPError

import helpers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "kaggle_kernel_metadata"))
import links  # noqa: E402
import push  # noqa: E402

STEMS = push.stems()


def copy_of_the_repository(target):
    """A copy of what git would publish, as it is in the working tree."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def first_cell(path):
    return next(cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code")


# ---- metadata -------------------------------------------------------------------------------


def test_every_notebook_has_metadata_and_the_reverse():
    folders = {path.parent.name for path in ROOT.glob("kaggle_kernel_metadata/*/*.json")}
    assert set(STEMS) <= folders <= {path.stem for path in ROOT.glob("notebooks/*.py")} and STEMS


@pytest.mark.parametrize("stem", STEMS)
def test_kaggles_own_client_takes_the_metadata_without_a_word(stem):
    assert push.problems(stem) == []
    request, said = push.dry_push(ROOT / "kaggle_kernel_metadata" / stem)
    assert said == "" and request.machine_shape == "NvidiaTeslaT4" and request.enable_gpu
    assert request.enable_internet is True and request.is_private is True
    cells = json.loads(request.text)["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # it strips them


@pytest.mark.parametrize(
    "change, finding",
    [
        (dict(title="02 Train another"), "does not resolve to the specified id"),  # only printed
        (dict(title="02"), "at least five characters"),
        (dict(id="KAGGLE_USER/other"), "id is"),
        (dict(code_file="../../notebooks/gone.ipynb"), "Source file not found"),
        (dict(dataset_sources=["kermany2018"]), "Dataset must be specified"),
        (dict(kernel_sources=["me/x"]), "at least five characters"),
        (dict(language="pyton"), "valid language"),
        (dict(machine_shape="NvidiaTeslaP100"), "machine_shape is"),
        (dict(enable_gpu="true"), "neither true nor false"),
        (dict(enable_internet=None), "enable_internet is neither"),
        (dict(enable_interent=True), "unknown field enable_interent"),  # the client ignores it
    ],
)
def test_the_check_finds(change, finding, tmp_path):
    stem = "02_train_dcgan"
    for folder in (f"kaggle_kernel_metadata/{stem}", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    path = tmp_path / "kaggle_kernel_metadata" / stem / "kernel-metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert finding in "\n".join(push.problems(stem, tmp_path))
    metadata = json.loads(path.read_text())
    del metadata["enable_internet"]
    path.write_text(json.dumps(metadata))
    assert "no field enable_internet" in "\n".join(push.problems(stem, tmp_path))


def test_the_check_needs_neither_a_network_nor_a_token(tmp_path):
    code = (
        "import runpy, socket, sys\n"
        "def refuse(*_): raise SystemExit('the network was used')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "sys.argv = sys.argv[1:]\n"
        "sys.path.insert(0, 'kaggle_kernel_metadata')\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, "kaggle_kernel_metadata/push.py"]
    environ = {**os.environ, "KAGGLE_API_TOKEN": "not-a-token", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"Kaggle's client would take all {len(STEMS)}")
    assert not list(tmp_path.iterdir())  # nor does it leave a .kaggle folder


# ---- push -----------------------------------------------------------------------------------


@pytest.fixture
def pushed(monkeypatch):
    """Requests that would have gone to Kaggle; ``pushed.answer`` is what Kaggle would say."""
    with push.without_credentials():
        from kaggle.api.kaggle_api_extended import KaggleApi, ResumableUploadResult
        from kagglesdk.blobs.types.blob_api_service import ApiStartBlobUploadResponse
        from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetResponse
        from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelResponse
    pushed = SimpleNamespace(requests=[], answer=ApiSaveKernelResponse(), sets=[], files=[])
    pushed.answer.url = "https://www.kaggle.com/code/jane/02-train-dcgan"

    def save_kernel(request):
        pushed.requests.append(request)
        return pushed.answer

    def status(request):
        if not pushed.sets:
            raise HTTPError("404")
        return SimpleNamespace(status=SimpleNamespace(name="READY"))

    def keep(kind):
        def called(request):
            pushed.sets.append((kind, request))
            return ApiCreateDatasetResponse()

        return called

    def begin(request):
        answer = ApiStartBlobUploadResponse()
        answer.token, answer.create_url = f"token of {request.name}", "https://nowhere"
        return answer

    def upload(self, path, url, quiet, resume=False):
        pushed.files.append((Path(path).name, zipfile.ZipFile(path).namelist()))
        return ResumableUploadResult.COMPLETE

    kernels = SimpleNamespace(kernels_api_client=SimpleNamespace(save_kernel=save_kernel))
    datasets = SimpleNamespace(dataset_api_client=SimpleNamespace(
        get_dataset_status=status, create_dataset=keep("new"),
        create_dataset_version=keep("version"),
    ))  # fmt: skip
    blobs = SimpleNamespace(blob_api_client=SimpleNamespace(start_blob_upload=begin))
    client = nullcontext(SimpleNamespace(kernels=kernels, datasets=datasets, blobs=blobs))
    monkeypatch.setattr(KaggleApi, "build_kaggle_client", lambda self: client)
    monkeypatch.setattr(KaggleApi, "authenticate", lambda self: None)
    monkeypatch.setattr(KaggleApi, "upload_complete", upload)
    monkeypatch.setattr(KaggleApi, "config_values", {"username": "jane"}, raising=False)
    return pushed


@pytest.fixture
def addressed(monkeypatch):
    """The repository as if it had an address at which its tag can be read."""
    monkeypatch.setattr(push, "published", lambda root: None)
    monkeypatch.setattr(push, "PLACEHOLDER", "nobody")


def test_push_fills_in_the_user_and_the_settings(pushed, addressed):
    address = push.push("02_train_dcgan", "jane", settings="OCT_PRESET=kaggle OCT_HOURS=11")
    assert address == pushed.answer.url
    (request,) = pushed.requests
    assert request.slug == "jane/02-train-dcgan" and request.new_title == "02 train dcgan"
    assert request.dataset_data_sources == ["paultimothymooney/kermany2018"]
    assert request.enable_internet is True and request.kernel_data_sources == []
    assert "KAGGLE_USER" not in request.slug
    first = next(c for c in json.loads(request.text)["cells"] if c["cell_type"] == "code")
    environ = {}
    exec(first["source"].splitlines()[-1], {"os": SimpleNamespace(environ=environ)})
    assert environ == {"OCT_PRESET": "kaggle", "OCT_HOURS": "11"}


@pytest.mark.slow
def test_push_from_a_clone_alone_brings_helpers_along(pushed):
    """Without an address helpers becomes a data set of the user, first new, then a version."""
    for kind in ("new", "version"):
        pushed.requests.clear(), pushed.files.clear()
        push.push("02_train_dcgan", "jane")
        (name, inside), (request,) = pushed.files[0], pushed.requests
        assert name == "synthetic-retinal-oct.zip" and pushed.sets[-1][0] == kind
        assert {"helpers/__init__.py", "helpers/gan/weights/simulated.safetensors"} <= {
            path.removeprefix("synthetic-retinal-oct/") for path in inside
        }
        assert not any("__pycache__" in path for path in inside)
        assert request.dataset_data_sources[-1] == "jane/synthetic-retinal-oct"
        assert request.enable_internet is True
        first = next(c for c in json.loads(request.text)["cells"] if c["cell_type"] == "code")
        assert first["source"] == push.FIND
    new = pushed.sets[0][1]
    assert (new.owner_slug, new.slug, new.is_private) == ("jane", "synthetic-retinal-oct", True)


@pytest.mark.slow
def test_a_data_set_that_kaggle_refuses_is_said(pushed, monkeypatch):
    pushed.sets.append(None)
    monkeypatch.setattr(push, "PATIENCE", -1)
    from kaggle.api.kaggle_api_extended import KaggleApi

    monkeypatch.setattr(KaggleApi, "dataset_status", lambda self, name: "pending")
    with pytest.raises(ValueError, match="jane/synthetic-retinal-oct is pending"):
        push.push("02_train_dcgan", "jane")
    assert not pushed.requests


@pytest.mark.slow
def test_push_without_internet_and_push_to_go_on(pushed):
    push.push("02_train_dcgan", "jane", offline=True, attach="02_train_dcgan")
    (request,) = pushed.requests
    assert request.enable_internet is False
    assert request.dataset_data_sources[-1] == "jane/synthetic-retinal-oct"
    assert request.kernel_data_sources == ["jane/02-train-dcgan"]


def test_push_from_the_command_line(pushed, addressed, capsys):
    push.main(["02", "--user", "jane", "--settings", "OCT_SIZE=64", "--attach", ""])
    push.main(["01", "--user", "jane", "--attach", "02"])
    assert [request.slug for request in pushed.requests] == [
        "jane/02-train-dcgan", "jane/01-explore-data"
    ]  # fmt: skip
    assert [r.kernel_data_sources for r in pushed.requests] == [[], ["jane/02-train-dcgan"]]
    assert capsys.readouterr().out.split() == [pushed.answer.url] * 2
    for wrong, said in ((["", "--user", "jane"], "NB=: choose one of 01_explore"),
                        (["02", "--user", "Jane Doe"], "KAGGLE_USER="),
                        (["02", "--user", "jane", "--attach", "77"], "ATTACH=77")):  # fmt: skip
        with pytest.raises(SystemExit, match=said):
            push.main(wrong)


def test_push_refuses_what_would_fail_later(pushed, addressed):
    with pytest.raises(ValueError, match="KAGGLE_USER=''"):
        push.push("02_train_dcgan", "")
    for wrong, said in (
        ("OCT_HUORS=1", "huors"),
        ("OCT_SIZE=big", "size"),
        ("OCT_SIZE", "OCT_SIZE"),
        ("SIZE=64", "'SIZE=64' is no OCT_NAME=value"),  # nobody would read it
        ("OCT_NCE=2", "nce"),
    ):  # fmt: skip  a setting of notebook 03
        with pytest.raises(ValueError, match=said):
            push.push("02_train_dcgan", "jane", settings=wrong)
    push.push("03_train_cyclegan", "jane", settings="OCT_NCE=2")
    pushed.requests.clear()
    assert not pushed.requests
    pushed.answer.invalid_dataset_sources = ["paultimothymooney/kermany2018"]
    with pytest.raises(ValueError, match="could not attach paultimothymooney"):
        push.push("02_train_dcgan", "jane")
    pushed.answer.error = "Maximum weekly GPU quota reached"
    with pytest.raises(ValueError, match="weekly GPU quota"):
        push.push("02_train_dcgan", "jane")


@pytest.mark.slow
def test_what_kaggle_or_the_network_refuses_is_said(pushed, monkeypatch):
    from kaggle.api.kaggle_api_extended import KaggleApi

    def refuse(self, name):
        raise error

    def new(*_, **__):
        raise AssertionError("that it cannot be asked for does not make it new")

    monkeypatch.setattr(KaggleApi, "dataset_status", refuse)
    monkeypatch.setattr(KaggleApi, "dataset_create_new", new)
    for error in (HTTPError("401 Unauthorized", response=SimpleNamespace(status_code=401)),
                  ConnectionError("no route")):  # fmt: skip
        with pytest.raises(SystemExit, match=f"cannot be reached, or refuses: {error}"):
            push.main(["02", "--user", "jane"])


def test_push_wants_the_tag_to_be_published(monkeypatch):
    answers = {}

    def run(command, **_):
        assert command[:3] == ["git", "ls-remote", "--exit-code"]
        assert command[-2:] == [links.project()["urls"]["Repository"], links.tag()]
        return SimpleNamespace(returncode=answers["code"])

    monkeypatch.setattr(push.subprocess, "run", run)
    answers["code"] = 0
    push.published()
    answers["code"] = 2
    with pytest.raises(ValueError, match="make links REPO=owner/name"):
        push.published()


# ---- links ----------------------------------------------------------------------------------


def holds_together(root, address, tag):
    """Badges, first cells and pyproject.toml say the same, and nothing else says it."""
    assert links.address(root) == address
    readme = (root / "README.md").read_text()
    stems = sorted(path.stem for path in root.glob("notebooks/*.py"))
    for stem in stems:
        path = f"{address}/blob/main/notebooks/{stem}.ipynb"
        assert f"(https://kaggle.com/kernels/welcome?src=https://github.com/{path})" in readme
        assert f"(https://colab.research.google.com/github/{path})" in readme
    assert len(re.findall(r"/blob/main/notebooks/", readme)) == 2 * len(stems)
    first = {first_cell(path) for path in root.glob("notebooks/*.[pi][yp]*")}
    assert len(first) == 1  # the same in every notebook, .py and .ipynb
    (cell,) = first
    assert f'ADDRESS = "git+https://github.com/{address}@{tag}"\n' in cell
    binary = (".png", ".safetensors")
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix not in binary]
    named = {path for path in files if address in path.read_text()}
    assert named <= {root / "pyproject.toml", *links.places(root)}


def test_the_address_stands_in_one_place_and_everything_follows(tmp_path):
    root = copy_of_the_repository(tmp_path)
    with (root / "README.md").open("a") as readme:
        readme.write(f"pip install git+https://github.com/{links.address()}@{links.tag()}\n")
    assert links.tag() == f"v{helpers.__version__}"
    holds_together(root, links.address(), links.tag())
    assert links.write(root) == []  # `make links` has been run
    old = {path: path.read_text() for path in root.glob("notebooks/*.ipynb")}
    changed = links.write(root, "jane-doe/oct.suite")
    assert {root / "README.md", *root.glob("notebooks/*.[pi][yp]*")} <= set(changed)
    holds_together(root, "jane-doe/oct.suite", links.tag())
    for path in links.places(root):
        assert links.address() not in path.read_text()
    for path, text in old.items():  # figures and all
        assert path.read_text() == text.replace(links.address(), "jane-doe/oct.suite")
    pyproject = root / "pyproject.toml"
    pyproject.write_text(re.sub(r"(?m)^version = .*", 'version = "0.2.0"', pyproject.read_text()))
    links.write(root, links.address())
    holds_together(root, links.address(), "v0.2.0")
    assert f"git+https://github.com/{links.address()}@v0.2.0\n" in (root / "README.md").read_text()
    assert "\nversion: 0.2.0\n" in (root / "CITATION.cff").read_text()
    for wrong in ("https://github.com/jane/oct", "jane/oct.git"):
        with pytest.raises(ValueError, match="owner/name"):
            links.write(root, wrong)
