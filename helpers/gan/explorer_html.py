"""The explorer as one html file that can be mailed: the generator itself runs in the browser.

python -m helpers.generate RUN --page explorer.html

The file holds the generator (ONNX, weights in fp16, computed in fp32), onnxruntime-web that runs
it, and shapes of eyes drawn here; explorer.html beside this file places crops back as
``data.shape`` does. Eye N has the noise and the shape of the first scan of ``generate --seed N``,
and the speckle of its own.
"""

import base64
import copy
import gzip
import io
import json
import warnings
from pathlib import Path

import numpy as np
import torch

from helpers.data import shape
from helpers.data.marks import describe_png
from helpers.data.scan import folder_name
from helpers.gan.explorer import Aligned
from helpers.gan.sampling import classes_of, has_dials, whole_size

PAGE = Path(__file__).with_name("explorer.html")
EYES = 500  # of each class
RUNTIME = "node_modules/onnxruntime-web"
SMALL = 64  # numbers at most, of a tensor that stays in fp32


def write_html(generator, path, runtime=RUNTIME, *, size=0, eyes=EYES) -> Path:
    """The page of a generator of aligned crops, from ``generate.load_generator``, to ``path``.

    runtime: the folder of the npm package onnxruntime-web; size: px of the whole scans, as in
    ``sampling.sample_batches``; eyes: so many of each class can be chosen by number, from 0 on.
    Raises ValueError for a generator of whole scans, FileNotFoundError without onnxruntime-web,
    ModuleNotFoundError without the package onnx, and each says what to do.
    """
    if getattr(generator, "shapes", None) is None:
        raise ValueError("A page is of a generator of aligned crops (OCT_FRAMING=aligned); this "
                         "one draws whole scans.")  # fmt: skip
    runtime, eye = Path(runtime), Aligned(generator)
    parts = [runtime / "dist" / name
             for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")]  # fmt: skip
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{runtime}: no {' and no '.join(missing)}. Run `npm install --no-save "
            "onnxruntime-web`, or name its folder by --runtime."
        )
    network = to_onnx(generator)
    version = json.loads((runtime / "package.json").read_text())["version"]
    names = classes_of(generator)
    labels = [name if generator.classes else None for name in names]
    drawn = [generator.shapes.draw(1, label, seed)[0] for label in labels for seed in range(eyes)]
    marks = {"WeightsSHA256": generator.weights_hash, "Precision": "fp32 of fp16", "Shape": "drawn"}
    if hasattr(generator, "guidance"):
        marks |= {"Guidance": f"{generator.guidance:g}", "Steps": generator.steps}
    words = {name: about["description"].partition(", ") for name, about in eye.sliders().items()}
    about = {
        "classes": names, "folders": [folder_name(name) for name in names],
        "usual": generator.metadata.get("class"), "weights": generator.weights_hash,
        "texts": [data.decode("latin-1") for _, data, *_ in describe_png(**marks).chunks],
        "eyes": eyes, "size": whole_size(generator, size), "z_dim": generator.z_dim,
        "rows": getattr(generator, "rows", generator.size), "columns": generator.size,
        "looks": getattr(generator, "looks", 0), "fields": shape.FIELDS,
        "dials": shape.DIALS if has_dials(generator) else [],
        "louder": generator.metadata.get("louder", [1, 1, 1]),
        "sliders": {name: (text, unit, name, eye.fields[name][1])
                    for name, (text, _, unit) in words.items()},
        "ranges": [{name: np.round(ends, 2).tolist() for name, ends in eye.ranges(label).items()}
                   for label in labels],
        "above": shape.ABOVE, "below": shape.BELOW, "black": shape.BLACK, "white": shape.WHITE,
        "over": shape.OVER, "under": shape.UNDER, "lags": shape.LAGS, "fade": shape.FADE,
        "carried": shape.CARRIED, "normal": shape.NORMAL.tolist(),
    }  # fmt: skip
    page = PAGE.read_text()
    for name, content in {
        "ABOUT": json.dumps(about).replace("</", "<\\/"),
        "FOOT": f"Generator {generator.weights_hash[:8]}; run by onnxruntime-web {version} "
        "(Microsoft, MIT license).",
        "RUNTIME": _packed(parts[0].read_bytes()),
        "WASM": _packed(parts[1].read_bytes()),
        "NETWORK": _packed(network),
        "EYES": _packed(np.stack(drawn).astype("<f4").tobytes()),
    }.items():
        page = page.replace(f"@{name}@", content)
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def to_onnx(generator) -> bytes:
    """What draws crops, as an ONNX file: ``z`` (1, z_dim) float32, and of those that take them
    ``label`` (1,) int64 and ``look`` (1, looks) float32, to ``crop`` (1, 1, rows, size) in [-1, 1].

    Weights are kept in fp16 and computed with in fp32. ModuleNotFoundError names the package.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("A page needs the package onnx: pip install onnx") from error
    crop = _Crop(copy.deepcopy(generator)).cpu().to(memory_format=torch.contiguous_format)
    given = [torch.zeros(1, generator.z_dim), torch.zeros(1, dtype=torch.long),
             torch.zeros(1, getattr(generator, "looks", 0))]  # fmt: skip
    file = io.BytesIO()
    with warnings.catch_warnings():  # the newer exporter takes minutes for a flow, and two packages
        warnings.simplefilter("ignore")
        torch.onnx.export(crop, tuple(given), file, input_names=["z", "label", "look"],
                          output_names=["crop"], dynamo=False)  # fmt: skip
    network = onnx.load_from_string(file.getvalue())
    for tensor in network.graph.initializer:
        values, name = numpy_helper.to_array(tensor), tensor.name
        if values.dtype == np.float32 and values.size > SMALL:
            half = numpy_helper.from_array(values.astype(np.float16), f"{name} in fp16")
            tensor.CopyFrom(half)
            cast = onnx.helper.make_node("Cast", [half.name], [name], to=onnx.TensorProto.FLOAT)
            network.graph.node.insert(0, cast)
    return network.SerializeToString()


class _Crop(torch.nn.Module):
    """A generator as ``sampling.render_crops`` asks it."""

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def forward(self, z, label, look):
        told = (label,) if self.generator.classes else ()
        if getattr(self.generator, "looks", 0):
            told = (told or (None,)) + (look,)
        return self.generator(z, *told).clamp(-1, 1)


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()
