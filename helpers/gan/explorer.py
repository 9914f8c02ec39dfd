"""Explore a generator by hand: one eye, and what each slider makes of it.

What is shown is a *recipe*, a dict of plain values: where it starts (a seed, or the projection of a
real scan), under which speckle, and what is moved. What can be moved is an eye's affair: ``Styled``
of a style-based generator, ``Aligned`` of one that draws aligned crops.
"""

import html
import io
import json
import time
from itertools import count
from pathlib import Path

import ipywidgets
import numpy as np
import torch
from PIL import Image

from helpers import __version__
from helpers.data.marks import describe_png, write_png
from helpers.data.shape import AT, DIALS, place_back
from helpers.gan.sampling import classes_of, draw_noise, has_dials, render_crops, whole_size
from helpers.gan.styles import projection
from helpers.gan.styles.directions import WORDS, Directions, check_weights, needs_styles, render

FLOW = ("guidance", "steps")  # how a flow draws
FARTHEST, STEP = 3.0, 0.25  # of the sliders, standard deviations of W
HIGHEST_SEED = 2**31 - 1
NO_CHANGE = 128  # grey level of the difference where nothing changed
# what can be moved of an eye of aligned crops, and what it is called; % are of the scan
SHAPED = {"thickness": "thickness of the retina, % of the height", "place": "RPE, % from the top",
          "tilt": "tilt, % of the height", "bow": "bow, % of the height"}  # fmt: skip
DIALLED = {"drusen": "drusen", "highest": "highest druse, % of the height",
           "area": "area of drusen, % of the scan"}  # fmt: skip


class Explorer(ipywidgets.VBox):
    """Sliders that change an eye, shown where it is the last line of a cell.

    generator: from ``generate.load_generator``, one of aligned crops or a stylegan. directions, of
    a stylegan: from ``directions.fit`` and ``accept``; only accepted ones get a slider. scans:
    {name: (scan uint8 (S, S) or (1, S, S), styles (levels, latent))}, real scans and their
    projections, to start from. folder: where "save" writes numbered PNGs and recipes. display: px
    on the screen, widest a picture gets.

    Raises ValueError if the generator has neither styles nor shapes, or no styles and directions or
    scans are given, if the directions are of other weights, or if a scan or its styles have another
    shape than the generator's.

    Sliders draw while they are dragged. That cannot queue up: the browser's side of ipywidgets
    keeps one message under way and merges what comes meanwhile into the next (``msg_throttle``).
    """

    def __init__(
        self, generator, directions: Directions | None = None, scans=None, *, folder="explored",
        display=320,
    ):  # fmt: skip
        aligned = getattr(generator, "shapes", None) is not None and not (directions or scans)
        self.eye = Aligned(generator) if aligned else Styled(generator, directions, scans)
        self.generator, self.scans, self.folder = generator, self.eye.scans, Path(folder)
        self._drawn, self._waiting, self._unmoved = None, False, {}
        self._make_controls()

        self.titles, self.pictures, shown = {}, {}, []
        for name in ("real", "start", "changed", "difference"):
            self.titles[name] = ipywidgets.HTML(f"<b>{name}</b>")
            self.pictures[name] = ipywidgets.Image(
                format="png", layout={"width": "100%", "height": "auto"}
            )
            box = {"flex": "1 1 0%", "max_width": f"{display}px", "margin": "0 6px 0 0",
                   "overflow": "hidden"}  # fmt: skip
            shown.append(ipywidgets.VBox([self.titles[name], self.pictures[name]], layout=box))
        self._real_box = shown[0]
        self.notice, self.status, self.message = (ipywidgets.HTML() for _ in range(3))
        chosen = [*([] if aligned else [self.origin]),
                  *([self.class_] if generator.classes else []),
                  ipywidgets.HBox([self.seed, self.another]), self.grain_seed,
                  *([] if aligned else [self.truncation])]  # fmt: skip
        moved = list(self.sliders.values()) or [ipywidgets.HTML(self.eye.nothing)]
        controls = [ipywidgets.VBox(chosen, layout={"margin": "0 32px 0 0"}),
                    ipywidgets.VBox(moved, layout={"max_width": "100%"})]  # fmt: skip
        super().__init__([
            ipywidgets.HBox(shown), self.notice,
            ipywidgets.HBox(controls, layout={"flex_flow": "row wrap"}),
            ipywidgets.HBox([self.reset, self.save, self.status]), self.message,
        ])  # fmt: skip
        self.add_class("explorer")
        self._update()

    def _make_controls(self):
        style, wide = {"description_width": "84px"}, {"width": "340px"}
        self.origin = ipywidgets.Dropdown(
            options=[("a random eye", ""), *((f"real: {name}", name) for name in self.scans)],
            description="start from", style=style, layout=wide,
        )  # fmt: skip
        classes = classes_of(self.generator)
        usual = getattr(self.generator, "metadata", {}).get("class")
        self.class_ = ipywidgets.Dropdown(
            options=classes, value=usual if usual in classes else classes[0],
            description="class", style=style, layout=wide,
        )  # fmt: skip
        self.seed, self.grain_seed = (
            ipywidgets.BoundedIntText(
                value=0, min=0, max=HIGHEST_SEED, description=name, style=style,
                layout={"width": "220px"},
            ) for name in ("seed", "grain seed")
        )  # fmt: skip
        _explain(self.seed, "Which eye: every whole number is another one.")
        _explain(self.grain_seed, "Which speckle: the same eye as if it were scanned again.")
        self.truncation = ipywidgets.FloatSlider(
            value=0.8, min=0, max=1.2, step=0.05, description="truncation", style=style, layout=wide
        )
        _explain(self.truncation, "How far from the average eye: 0 draws the average eye for every "
                 "seed, 1 all the variety that was learned; less is safer and more alike, above 1 "
                 "is exaggerated.")  # fmt: skip
        sliders = self.eye.sliders()
        width = 7 * max((len(about["description"]) for about in sliders.values()), default=0)  # px
        self.sliders = {
            name: ipywidgets.FloatSlider(
                **about, style={"description_width": f"{width}px"},
                layout={"width": f"{width + 270}px", "max_width": "98%"},
            ) for name, about in sliders.items()
        }  # fmt: skip
        for slider in self.sliders.values():
            _explain(slider, self.eye.explains)
        self.another = _button("Another", "The next seed", self._another)
        self.reset = _button("Reset", "All sliders to where they were", self._reset)
        where = f"The changed scan and its recipe, to the folder {self.folder.name}"
        self.save = _button("Save", where, self._save)
        for control in (self.origin, self.class_, self.seed):
            control.observe(self._another_eye, "value")
        for control in (self.grain_seed, self.truncation, *self.sliders.values()):
            control.observe(self._update, "value")
        self._set(self.eye.values(self._recipe()))

    def _say(self, text, warning=False):
        colour = ' style="color: #c8501e"' if warning else ""
        self.message.value = f'<div role="status"{colour}>{html.escape(text)}</div>'

    def _recipe(self):
        """What the controls say. Of a real scan's projection there is no seed and no class."""
        start, random = self.origin.value or None, not self.origin.value
        truncated = random and isinstance(self.eye, Styled)
        moved = {name: slider.value for name, slider in self.sliders.items()
                 if slider.value != self._unmoved.get(name)}  # fmt: skip
        return {
            "weights_sha256": getattr(self.generator, "weights_hash", ""),
            "start": start,
            "seed": self.seed.value if random else None,
            "grain_seed": self.grain_seed.value,
            "truncation": self.truncation.value if truncated else None,
            "class": self.class_.value if random and self.generator.classes else None,
            **{name: getattr(self.generator, name, None) for name in FLOW},
            "moved": moved,
            "size": whole_size(self.generator),
            "version": __version__,
        }

    def _update(self, _=None):
        """Draw what the controls say; if that fails, all pictures stay and the message says why."""
        if self._waiting:
            return
        began = time.perf_counter()
        self._say("")
        try:
            self._draw(self._recipe())
        except (RuntimeError, ValueError) as error:  # a GPU without memory, say
            return self._say(f"Not drawn: {error}", warning=True)
        self.seconds = time.perf_counter() - began
        self.status.value = f"drawn in {1000 * self.seconds:.0f} ms"

    @torch.inference_mode()
    def _draw(self, recipe):
        start, moved = recipe["start"], recipe["moved"]
        eye = [recipe[key] for key in ("start", "seed", "grain_seed", "truncation", "class", *FLOW)]
        if self._drawn is None or self._drawn[0] != eye:  # the start is drawn once
            about = self.eye.begin(recipe)
            self._drawn = eye, about, self.eye.draw(about, {})
        _, about, drawn = self._drawn
        changed = self.eye.draw(about, moved) if moved else drawn
        difference = (changed.astype(np.int16) - drawn + NO_CHANGE).clip(0, 255).astype(np.uint8)

        self.start, self.changed, self.recipe = drawn, changed, recipe
        for name, levels in (("start", drawn), ("changed", changed), ("difference", difference)):
            self.pictures[name].value = _png(levels)
        self.pictures["real"].value = _png(self.scans[start][0]) if start is not None else b""
        self._real_box.layout.display = None if start is not None else "none"
        self.titles["start"].value = "<b>start</b>" if start is None else "<b>its projection</b>"
        kind = "Synthetic: shows no patient" if start is None else "An edited copy of a real scan"
        self.notice.value = (
            f"Not for clinical use. {kind}. In the difference, mid-grey means no change."
        )
        for control in (self.class_, self.seed, self.another, self.truncation):
            control.disabled = start is not None

    def _another(self, _):
        self.seed.value = (self.seed.value + 1) % HIGHEST_SEED

    def _another_eye(self, _):
        """Sliders that say what an eye has begin where the new one is; others stay."""
        values = self.eye.values(self._recipe())
        if values:
            self._set(values)
        self._update()

    def _set(self, values):
        waiting, self._waiting = self._waiting, True  # one drawing, not one per slider
        for name, (low, high) in self.eye.ranges(self.class_.value).items():
            slider = self.sliders[name]
            if low > slider.max:  # a slider takes no least value above its largest
                slider.max = high
            slider.min, slider.max = low, high
        for name, value in values.items():
            self.sliders[name].value = value
        self._unmoved = {name: slider.value for name, slider in self.sliders.items()}
        self._waiting = waiting

    def _reset(self, _):
        self._set(self._unmoved)
        self._update()

    def _save(self, _):
        try:
            picture = save(self.changed, self.recipe, self.folder)
        except OSError as error:
            return self._say(f"Not saved: {error}", warning=True)
        self._say(f"Saved {picture.name} and its recipe {picture.stem}.json in {self.folder}.")


def save(levels: np.ndarray, recipe: dict, folder) -> Path:
    """Write the picture uint8 (S, S) of a recipe, and the recipe, under the next free number.

    Returns the PNG's path; the recipe lies next to it, as JSON. Raises OSError, and then leaves
    nothing behind, if either cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stems = (folder / f"explored-{number:04d}" for number in count(1))
    paths = ((stem.with_suffix(".png"), stem.with_suffix(".json")) for stem in stems)
    picture, beside = next(both for both in paths if not any(path.exists() for path in both))
    names = {"WeightsSHA256": "weights_sha256", "Class": "class", "Seed": "seed",
             "GrainSeed": "grain_seed", "Truncation": "truncation", "Guidance": "guidance",
             "Steps": "steps"}  # fmt: skip
    about = {name: recipe[key] for name, key in names.items() if recipe[key] is not None}
    likeness = recipe["start"] and f"edited from a projection of a real scan: {recipe['start']}"
    text = describe_png(likeness, **about, Moved=json.dumps(recipe["moved"]))
    with beside.open("x") as file:  # x: nothing is overwritten, whoever else writes here
        try:
            file.write(json.dumps(recipe, indent=1) + "\n")
            file.flush()
            write_png(levels[..., None], picture, text)
        except OSError:
            beside.unlink()
            picture.unlink(missing_ok=True)
            raise
    return picture


class Styled:
    """An eye of a style-based generator of whole scans: moved along directions in W, in standard
    deviations of what the generator draws."""

    explains = "In standard deviations of what this generator draws; 0 is unchanged."

    def __init__(self, generator, directions, scans):
        needs_styles(generator)
        if directions is not None:
            check_weights(directions, generator)
        self.generator, self.directions, self._means = generator, directions, {}
        self.scans = {
            name: _checked(generator, name, *both) for name, both in (scans or {}).items()
        }
        none = "No direction was accepted" if directions is not None else "No directions were given"
        self.nothing = (
            f"{none}, so there is none to move along. Seeds and truncation can still be changed."
        )

    def sliders(self) -> dict[str, dict]:
        accepted = self.directions.accepted if self.directions is not None else []
        return {name: {"description": _label(self.directions, name), "min": -FARTHEST,
                       "max": FARTHEST, "step": STEP, "value": 0.0, "readout_format": "+.2f"}
                for name in accepted}  # fmt: skip

    def ranges(self, _) -> dict:
        return {}

    def values(self, _) -> dict[str, float]:
        """Where sliders begin with another eye: they stay where they are."""
        return {}

    def begin(self, recipe):
        """W+ (1, levels, latent) and grain (1, size^2) of a recipe before anything is moved.

        The mean style of a class is kept, since it takes a third of the time of a drawing. The
        first scan of ``generate --seed N`` has seed N, grain seed N and truncation 1.
        """
        generator = self.generator
        device = next(generator.parameters()).device
        grain = _noise(generator, recipe["grain_seed"]).to(device)[:, generator.latent :]
        if recipe["start"] is not None:
            return self.scans[recipe["start"]][1][None].float().to(device), grain
        name, labels = recipe["class"], None
        if generator.classes:
            labels = torch.tensor([classes_of(generator).index(name)], device=device)
        if name not in self._means:
            self._means[name] = generator.mean_style(labels)
        full = generator.styles(_noise(generator, recipe["seed"]).to(device), labels)
        return torch.lerp(self._means[name], full, recipe["truncation"]), grain

    def draw(self, about, moved) -> np.ndarray:
        styles, grain = about
        if moved:
            styles = projection.moved(styles, self.directions, moved)
        return render(self.generator, styles, grain)[0, 0]


class Aligned:
    """An eye of a generator of aligned crops: its shape, and with dials its drusen, in numbers that
    can be read; each begins where this eye was drawn, and goes as far as scans of its class do."""

    explains = (
        "What scans of this class have; reset goes back to what was drawn. Drusen are drawn if "
        "their number, height and area are all above 0."
    )
    nothing, scans = "", {}

    def __init__(self, generator):
        self.generator = generator
        names = [*SHAPED, *(DIALS if has_dials(generator) else ())]
        self.fields = {name: (AT[name], 100.0 if name in SHAPED else 1.0) for name in names}

    def sliders(self) -> dict[str, dict]:
        return {name: {"description": (SHAPED | DIALLED)[name], "min": -1e3, "max": 1e3,
                       "step": 0.01, "readout_format": ".2f"}
                for name in self.fields}  # fmt: skip

    def ranges(self, label) -> dict[str, tuple[float, float]]:
        own = self.generator.shapes.of(label if self.generator.classes else None)
        return {name: (times * float(own[:, at].min()), times * float(own[:, at].max()))
                for name, (at, times) in self.fields.items()}  # fmt: skip

    def values(self, recipe) -> dict[str, float]:
        shape, ranges = self._shape(recipe), self.ranges(recipe["class"])
        return {name: round(float(np.clip(times * shape[at], *ranges[name])), 2)
                for name, (at, times) in self.fields.items()}  # fmt: skip

    def _shape(self, recipe) -> np.ndarray:
        return self.generator.shapes.draw(1, recipe["class"], recipe["seed"])[0]

    def begin(self, recipe):
        """Noise, label, shape and the number of the speckle: those of the first scan of ``generate
        --seed N``, where grain seed and seed are N."""
        label = recipe["class"] and classes_of(self.generator).index(recipe["class"])
        return (_noise(self.generator, recipe["seed"]), label, self._shape(recipe),
                recipe["grain_seed"])  # fmt: skip

    def draw(self, about, moved) -> np.ndarray:
        noise, label, shape, grain = about
        shape = shape.copy()
        for name, value in moved.items():
            at, times = self.fields[name]
            shape[at] = value / times
        crop = render_crops(self.generator, noise, label, shape[None], True)
        return place_back(crop.numpy(), shape[None], whole_size(self.generator), grain)[0]


def _noise(generator, seed) -> torch.Tensor:
    return next(draw_noise(1, generator.z_dim, seed))


def _checked(generator, name, scan, styles):
    """A real scan as uint8 (S, S) and its styles without a gradient, or ValueError."""
    scan, size = np.asarray(scan), generator.size
    if scan.dtype != np.uint8 or scan.shape not in ((size, size), (1, size, size)):
        raise ValueError(f"{name}: {scan.dtype} {scan.shape}; give uint8 ({size}, {size}).")
    if tuple(styles.shape) != (generator.levels, generator.latent):
        raise ValueError(f"{name}: styles {tuple(styles.shape)}; this generator's are "
                         f"({generator.levels}, {generator.latent}).")  # fmt: skip
    return scan.reshape(size, size), styles.detach()


def _label(directions, name):
    """What a clinician calls a direction."""
    return WORDS.get(name) or f"{name} (mostly {WORDS[directions.report[name]['measure']]})"


def _button(text, tooltip, action):
    button = ipywidgets.Button(description=text, tooltip=tooltip, layout={"width": "96px"})
    button.on_click(action)
    return button


def _explain(control, text):
    """A tooltip, by its name in ipywidgets 8 or 7."""
    setattr(control, "tooltip" if control.has_trait("tooltip") else "description_tooltip", text)


def _png(levels):
    """uint8 (S, S) to the bytes of a PNG."""
    content = io.BytesIO()
    Image.fromarray(levels).save(content, "png", compress_level=1)
    return content.getvalue()
