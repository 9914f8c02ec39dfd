"""Explore a style-based generator by hand: one eye, and what each direction in W does to it.

What is shown is a *recipe*, a dict of plain values: where it starts (a seed, or the projection of a
real scan), under which speckle, and how far it is moved along which direction.
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
from helpers.gan.sampling import classes_of, draw_noise
from helpers.gan.styles import projection
from helpers.gan.styles.directions import WORDS, Directions, check_weights, needs_styles, render

FARTHEST, STEP = 3.0, 0.25  # of the sliders, standard deviations of W
HIGHEST_SEED = 2**31 - 1
NO_CHANGE = 128  # grey level of the difference where nothing changed


class Explorer(ipywidgets.VBox):
    """Sliders that move an eye along directions in W, shown where it is the last line of a cell.

    generator: a stylegan, from ``generate.load_generator``. directions: from ``directions.fit`` and
    ``accept``; only accepted ones get a slider. scans: {name: (scan uint8 (S, S) or (1, S, S),
    styles (levels, latent))}, real scans and their projections, to start from. folder: where "save"
    writes numbered PNGs and recipes. display: px on the screen, widest a picture gets.

    Raises ValueError if the generator has no styles, if the directions are of other weights, or if
    a scan or its styles have another shape than the generator's.

    Sliders draw while they are dragged. That cannot queue up: the browser's side of ipywidgets
    keeps one message under way and merges what comes meanwhile into the next (``msg_throttle``).
    """

    def __init__(
        self, generator, directions: Directions | None = None, scans=None, *, folder="explored",
        display=320,
    ):  # fmt: skip
        needs_styles(generator)
        if directions is not None:
            check_weights(directions, generator)
        self.generator, self.directions, self.folder = generator, directions, Path(folder)
        scans = (scans or {}).items()
        self.scans = {name: _checked(generator, name, *both) for name, both in scans}
        self._means, self._drawn, self._waiting = {}, None, False
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
        chosen = [self.origin, *([self.class_] if generator.classes else []),
                  ipywidgets.HBox([self.seed, self.another]), self.grain_seed,
                  self.truncation]  # fmt: skip
        none = "No direction was accepted" if directions is not None else "No directions were given"
        moved = list(self.sliders.values()) or [ipywidgets.HTML(
            f"{none}, so there is none to move along. Seeds and truncation can still be changed."
        )]  # fmt: skip
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
        accepted = self.directions.accepted if self.directions is not None else []
        labels = {name: _label(self.directions, name) for name in accepted}
        width = 7 * max(map(len, labels.values()), default=0)  # px
        self.sliders = {
            name: ipywidgets.FloatSlider(
                value=0, min=-FARTHEST, max=FARTHEST, step=STEP, description=label,
                readout_format="+.2f", style={"description_width": f"{width}px"},
                layout={"width": f"{width + 270}px", "max_width": "98%"},
            ) for name, label in labels.items()
        }  # fmt: skip
        for slider in self.sliders.values():
            _explain(slider, "In standard deviations of what this generator draws; 0 is unchanged.")
        self.another = _button("Another", "The next seed", self._another)
        self.reset = _button("Reset", "All sliders to zero", self._reset)
        where = f"The changed scan and its recipe, to the folder {self.folder.name}"
        self.save = _button("Save", where, self._save)
        for control in (self.origin, self.class_, self.seed, self.grain_seed, self.truncation,
                        *self.sliders.values()):  # fmt: skip
            control.observe(self._update, "value")

    def _say(self, text, warning=False):
        colour = ' style="color: #c8501e"' if warning else ""
        self.message.value = f'<div role="status"{colour}>{html.escape(text)}</div>'

    def _recipe(self):
        """What the controls say. Of a real scan's projection there is no seed and no class."""
        start, random = self.origin.value or None, not self.origin.value
        moved = {name: slider.value for name, slider in self.sliders.items() if slider.value}
        return {
            "weights_sha256": getattr(self.generator, "weights_hash", ""),
            "start": start,
            "seed": self.seed.value if random else None,
            "grain_seed": self.grain_seed.value,
            "truncation": self.truncation.value if random else None,
            "class": self.class_.value if random and self.generator.classes else None,
            "moved": moved,
            "size": self.generator.size,
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
        eye = [recipe[key] for key in ("start", "seed", "grain_seed", "truncation", "class")]
        if self._drawn is None or self._drawn[0] != eye:  # the start is drawn once
            styles, grain = _start(self.generator, recipe, self.scans, self._means)
            self._drawn = eye, styles, grain, render(self.generator, styles, grain)[0, 0]
        _, styles, grain, drawn = self._drawn
        changed = drawn
        if moved:
            styles = projection.moved(styles, self.directions, moved)
            changed = render(self.generator, styles, grain)[0, 0]
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

    def _reset(self, _):
        self._waiting = True  # one drawing, not one per slider
        for slider in self.sliders.values():
            slider.value = 0
        self._waiting = False
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
             "GrainSeed": "grain_seed", "Truncation": "truncation"}  # fmt: skip
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


def _start(generator, recipe, scans, means):
    """W+ (1, levels, latent) and grain (1, size^2) of a recipe before anything is moved.

    means: {class: mean style}, filled as needed, since it takes a third of the time of a drawing.
    The first scan of ``generate --seed N`` has seed N, grain seed N and truncation 1.
    """
    device = next(generator.parameters()).device

    def noise(seed):
        return next(draw_noise(1, generator.z_dim, seed)).to(device)

    grain = noise(recipe["grain_seed"])[:, generator.latent :]
    if recipe["start"] is not None:
        return scans[recipe["start"]][1][None].float().to(device), grain
    name, labels = recipe["class"], None
    if generator.classes:
        labels = torch.tensor([classes_of(generator).index(name)], device=device)
    if name not in means:
        means[name] = generator.mean_style(labels)
    full = generator.styles(noise(recipe["seed"]), labels)
    return torch.lerp(means[name], full, recipe["truncation"]), grain


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
