"""The explorer as one page: the generator as ONNX, crops placed back in JavaScript, the set."""

import base64
import csv
import io
import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from test_dials import generator_file
from test_reading_html import CHROMIUM

from helpers import generate
from helpers.data import shape
from helpers.data.shape import AT
from helpers.data.sources import says_synthetic
from helpers.gan import dcgan, flow
from helpers.gan.explorer import Aligned
from helpers.gan.explorer_html import to_onnx, write_html
from helpers.gan.sampling import draw_noise

# in place of onnxruntime-web: a "network" that shows its noise, brighter with more drusen
RUNTIME = """export const env = {wasm: {}};
export class Tensor { constructor(type, data, dims) { this.data = data; } }
export const InferenceSession = {create: async () => ({
  inputNames: ["z", "label", "look"],
  run: async ({z, look}) => ({crop: {data: z.data.slice(8).map(
    x => Math.max(-1, Math.min(1, x / 4 + look.data[3] / 8)))}})})};"""
# what a visitor does: three eyes go into the set, the last one moved and seen under new speckle
VISITOR = """<script>
hand = bytes => document.body.textContent = "SET" + btoa(String.fromCharCode(...bytes)) + "DONE";
const wait = setInterval(async () => {
  if (!at("said").textContent.startsWith("drawn")) return;
  clearInterval(wait);
  at("count").value = 2; await at("more").onclick();
  at("classes").children[1].click(); at("again").click();
  inputs.drusen.value = 0.5; inputs.drusen.oninput();
  inputs.tilt.value = 2; inputs.tilt.oninput();
  await at("add").onclick(); at("zip").click();
}, 50);
</script>"""


@pytest.fixture
def generator(tmp_path):
    """Untrained, of two classes, with dials; scans of 60 x 70 px and of various shapes."""
    generator = generate.load_generator(generator_file(tmp_path))
    values, rng = generator.shapes.values, np.random.default_rng(0)
    values[:, AT["height"]], values[:, AT["width"]] = 60, 70
    values[:, AT["tilt"]] = rng.uniform(-0.1, 0.1, len(values))
    values[40:, shape.DIALLED] = rng.uniform(0.1, 1, (40, 3))
    return generator


@pytest.fixture
def runtime(tmp_path):
    folder = tmp_path / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text('{"version": "1.2.3"}')
    (folder / "dist/ort.wasm.bundle.min.mjs").write_text(RUNTIME)
    (folder / "dist/ort-wasm-simd-threaded.wasm").write_bytes(b"wasm")
    return folder


def test_what_is_missing_is_named(generator, runtime, tmp_path, monkeypatch, capsys):
    page, file = tmp_path / "page.html", str(generator_file(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        generate.main([file, "--page", str(page)])
    assert "npm install --no-save onnxruntime-web" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        generate.main([file, "--page", str(page), "--class", "DRUSEN"])
    assert "leave out" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    for wrong, word in (["--page", str(tmp_path / "notes.txt")], "FILE.html"), (
        ["--page", str(page), "--shape", "same"], "--shape"
    ), (["--page", str(page), "--size", "20"], "64 px"):  # fmt: skip
        with pytest.raises(SystemExit):
            generate.main([file, *wrong, "--runtime", str(runtime)])
        assert word in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SystemExit):
        generate.main([file, "--page", str(page), "--runtime", str(runtime)])
    assert "pip install onnx" in capsys.readouterr().err
    generator.shapes = None
    with pytest.raises(ValueError, match="aligned crops"):
        write_html(generator, page, runtime)
    assert not page.exists()


def flow_of_two_classes():
    torch.manual_seed(0)
    generator = flow.Generator(64, 8, classes=2, looks=3, steps=2)
    for weights in generator.parameters():  # none of them begins at zero
        torch.nn.init.normal_(weights, 0, 0.05)
    return generator.eval().requires_grad_(False)


def plain_dcgan():
    torch.manual_seed(0)
    generator = dcgan.Generator(64, 10, 4)
    for weights in generator.parameters():
        torch.nn.init.normal_(weights, 0, 0.2)
    return generator.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["residual", "flow", "dcgan"])
def test_the_network_of_a_page_is_the_generator(kind, generator):
    from onnx.reference import ReferenceEvaluator

    generator = {"flow": flow_of_two_classes, "dcgan": plain_dcgan}.get(kind, lambda: generator)()
    network = ReferenceEvaluator(to_onnx(generator))
    z, look = next(draw_noise(1, generator.z_dim, 3)), torch.randn(1, generator.looks)
    given = {"z": z.numpy(), "label": np.array([1]), "look": look.numpy()}
    (crop,) = network.run(None, {name: given[name] for name in network.input_names})
    with torch.inference_mode():
        told = (torch.tensor([1]), look) if kind != "dcgan" else ()
        wanted = generator(z, *told).clamp(-1, 1).numpy()
    assert crop.shape == wanted.shape and np.abs(crop - wanted).max() < 1 / 127.5
    assert np.abs(crop - wanted).mean() < 0.1 / 127.5 and wanted.std() > 0.01


class Noise:
    """In place of numpy's: what the page draws under a speckle, which is torch's."""

    def __init__(self, *seeds):
        self.seeds = list(seeds)

    def standard_normal(self, size, _):
        source = torch.Generator().manual_seed(self.seeds.pop(0))
        return torch.randn(size[0] * size[1], generator=source).numpy().reshape(size)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; CHROMIUM=/path/to/it names one")
def test_a_browser_draws_what_python_draws_and_hands_out_a_labelled_set(
    generator, runtime, tmp_path
):
    narrow = {"bow": (99.0, 100.0)}
    with pytest.MonkeyPatch.context() as patch:
        ranges = Aligned.ranges
        patch.setattr(Aligned, "ranges", lambda eye, label: ranges(eye, label) | narrow)
        page = write_html(generator, tmp_path / "page.html", runtime, eyes=5)
    text = page.read_text()
    assert "shows no patient" in text and "Not for clinical use" in text and "1.2.3" in text
    assert not re.search(r"https?:|src=|href=\"|fetch\(|XMLHttpRequest", text)
    page.write_text(text.replace("</html>", VISITOR + "</html>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
               "--virtual-time-budget=60000", f"--user-data-dir={tmp_path / 'profile'}",
               page.as_uri()]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    content = base64.b64decode(re.search(r"SET(.*)DONE", shown, re.S)[1])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "set")
    with (tmp_path / "set/images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["eye"], row["speckle"]) for row in rows] == [
        ("DRUSEN/000000.png", "1", "0"), ("DRUSEN/000001.png", "2", "0"),
        ("NORMAL/000000.png", "2", "1")]  # fmt: skip
    assert float(rows[2]["drusen"]) == 0.5 and float(rows[2]["tilt"]) == 2
    for row in rows:
        name, eye, grain = row["class"], int(row["eye"]), int(row["speckle"])
        own = generator.shapes.draw(1, name, eye)[0]
        for field, times in (("highest", 1), ("bow", 100)):  # bow: beyond its slider's end
            assert float(row[field]) == pytest.approx(times * own[AT[field]], abs=0.006)
        if name == "NORMAL":
            own[AT["drusen"]], own[AT["tilt"]] = 0.5, 0.02
        told = shape.look(own[None], generator.metadata.get("louder", (1, 1, 1)))[0, 3]
        noise = next(draw_noise(1, generator.z_dim, eye))[:, 8:].reshape(1, 64, 64)
        crop = (noise / 4 + told / 8).clamp(-1, 1).numpy()
        speckle = eye + 5 * grain  # every eye's own
        wanted = shape._place_one(crop, own, 256, Noise(2**31 + speckle, 3 * 2**30 + speckle))
        path = tmp_path / "set" / row["file"]
        assert says_synthetic(path)
        with Image.open(path) as picture:
            about = json.loads(picture.info["Moved"])
            assert about == ({"drusen": 0.5, "tilt": 2} if name == "NORMAL" else {})
            away = np.abs(np.asarray(picture).astype(int) - wanted)
        assert away.max() <= 1 and (away > 0).mean() < 0.002, (away.max(), (away > 0).mean())
