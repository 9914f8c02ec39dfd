"""The explorer in a real browser. Not collected by pytest; run by hand after changes to it:

    pip install jupyterlab playwright && playwright install chromium
    python tests/support/browser_explorer.py OUT

CHROMIUM=/usr/bin/chromium takes an installed browser instead. Screenshots, the notebook and what
"save" writes go to OUT. The generator is an untrained one of 256 px, with steps in W of no meaning;
OUT/generator.safetensors and OUT/directions.json, if there, are explored instead. The "real" scan
is a simulated one.
"""

import io
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
from browser_reading import check, server
from PIL import Image

SETUP = """from pathlib import Path
import numpy as np, torch
from helpers.gan.styles.directions import Directions, load_directions
from helpers.gan.explorer import Explorer
from helpers.generate import load_generator
from helpers.gan.stylegan import Generator
from helpers.data.simulated.simulate import make_eye

if Path("generator.safetensors").exists():
    generator = load_generator("generator.safetensors")
    directions = load_directions("directions.json", generator)
else:
    torch.manual_seed(0)
    generator = Generator(256, 128, width=8).eval()
    names = ["drusen_count", "drusen_height", "retinal_thickness", "tilt", "component 1"]
    vectors = np.random.default_rng(0).normal(0, 0.3, (5, 128))
    report = {n: {"measure": n, "accepted": True} for n in names}
    report["component 1"]["measure"] = "retinal_thickness"
    directions = Directions(names, vectors, vectors, vectors, vectors[0], vectors[0], "", report)
scan = make_eye(1, "DRUSEN", size=generator.size).oct
with torch.inference_mode():
    styles = generator.styles(torch.randn(1, generator.latent))[0]"""
CELL = 'Explorer(generator, directions, {"simulated eye": (scan, styles)}, folder="explored")'
NAMES = ("real", "start", "changed", "difference")


def shown(page):
    """{name: (S, S) uint8} of the pictures, as the browser has them."""
    contents = page.locator(".explorer img").evaluate_all(
        "images => Promise.all(images.map(async i => i.offsetParent === null ? [] : "
        "[...new Uint8Array(await (await fetch(i.src)).arrayBuffer())]))"
    )
    return {name: np.asarray(Image.open(io.BytesIO(bytes(content))))
            for name, content in zip(NAMES, contents) if content}  # fmt: skip


def source(page, name):
    return page.locator(".explorer img").nth(NAMES.index(name)).get_attribute("src")


def wait_for_new(page, name, before):
    """Seconds until a picture is another than the one at address ``before``, and is loaded."""
    began = time.perf_counter()
    page.wait_for_function(
        "([n, old]) => { const i = document.querySelectorAll('.explorer img')[n];"
        " return i.src !== old && i.complete && i.naturalWidth }",
        arg=[NAMES.index(name), before], polling=5,
    )  # fmt: skip
    return time.perf_counter() - began


def after(page, name, action):
    """Do something; seconds until a picture is another."""
    before = source(page, name)
    began = time.perf_counter()
    action()
    wait_for_new(page, name, before)
    return time.perf_counter() - began


def button(page, name):
    return page.locator(".explorer").get_by_role("button", name=name)


def press(page, name):
    button(page, name).click()


def drive(out, playwright):
    shutil.rmtree(out / "explored", ignore_errors=True)
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in (SETUP, CELL)]
    )
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, out / "explorer.ipynb")
    browser = playwright.chromium.launch(
        executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"]
    )
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    sent = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda data: sent.append(data)))

    def picture(name):
        page.locator(".explorer").evaluate("kit => kit.scrollIntoView()")
        page.wait_for_timeout(400)
        page.screenshot(path=out / f"explorer-{name}.png")

    with server(out, "lab") as address:
        page.goto(address + "explorer.ipynb?reset")
        page.locator(".jp-Notebook .cm-content").first.click(timeout=120_000)
        page.wait_for_timeout(3000)
        page.keyboard.press("Shift+Enter")
        page.keyboard.press("Shift+Enter")
        page.get_by_text("drawn in").wait_for(timeout=120_000)
        page.wait_for_timeout(1000)
        picture("1-opened")
        first = shown(page)
        check(list(first) == ["start", "changed", "difference"], "three pictures, no real scan")
        check((first["difference"] == 128).all(), "nothing is changed yet")

        handle = page.locator(".explorer .noUi-handle").nth(1)  # the first is the truncation
        handle.focus()
        waits = [after(page, "changed", lambda: page.keyboard.press("ArrowRight"))
                 for _ in range(6)]  # fmt: skip
        page.wait_for_timeout(500)
        moved = shown(page)
        check((moved["changed"] != first["changed"]).any(), "arrow keys on a slider move the eye")
        check((moved["start"] == first["start"]).all(), "and leave the start alone")
        readout = page.locator(".explorer .widget-readout").nth(1).inner_text()
        check(readout == "+1.50", f"six keys are six steps: {readout}")
        times = ", ".join(f"{1000 * wait:.0f}" for wait in waits)
        check(statistics.median(waits) < 0.4, f"ms from key press to new picture: {times}")
        picture("2-moved")

        box = page.locator(".explorer .noUi-handle").nth(2).bounding_box()
        sent.clear()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        for step in range(80):
            page.mouse.move(x + 60 * np.sin(step / 6), y)
            page.wait_for_timeout(10)
        page.mouse.move(x + 40, y)
        page.mouse.up()
        began = time.perf_counter()
        page.wait_for_timeout(150)
        old = None
        while old != (old := source(page, "changed")):
            page.wait_for_timeout(250)
        settled = time.perf_counter() - began - 0.25
        number = sum("update" in str(part) for part in sent)
        check(settled < 1, f"80 moves of the mouse sent {number} changes; settled {settled:.2f} s "
              "after the last")  # fmt: skip

        wait = after(page, "start", lambda: press(page, "Another"))
        page.wait_for_timeout(500)
        other = shown(page)
        check((other["start"] != first["start"]).any(),
              f"another eye, {1000 * wait:.0f} ms after the click")  # fmt: skip
        press(page, "Save")
        page.get_by_text("Saved explored-0001.png").wait_for()
        press(page, "Save")
        page.get_by_text("Saved explored-0002.png").wait_for()
        picture("3-saved")
        saved = np.asarray(Image.open(out / "explored" / "explored-0001.png"))
        recipe = json.loads((out / "explored" / "explored-0001.json").read_text())
        check((saved == other["changed"]).all(), "what is saved is what the browser shows")
        check(recipe["seed"] == 1 and len(recipe["moved"]) == 2, f"its recipe: {recipe['moved']}")
        wait = after(page, "changed", lambda: press(page, "Reset"))
        page.wait_for_timeout(500)
        reset = shown(page)
        check((reset["changed"] == reset["start"]).all(), f"reset, {1000 * wait:.0f} ms")

        origin = page.locator(".explorer select").first
        after(page, "start", lambda: origin.select_option("real: simulated eye"))
        page.wait_for_timeout(500)
        real = shown(page)
        check(list(real) == list(NAMES), "a real start shows four pictures, the real one first")
        disabled = button(page, "Another").is_disabled()
        check(disabled, "and another seed cannot be asked for")
        handle.focus()
        after(page, "changed", lambda: page.keyboard.press("ArrowLeft"))
        picture("4-real")
        page.set_viewport_size({"width": 900, "height": 1000})
        picture("5-narrow")
        button(page, "Save").hover()
        page.wait_for_timeout(1200)
        picture("6-tooltip")
        beyond = page.locator(".explorer").evaluate(
            "kit => [...kit.querySelectorAll('*')].filter(part => part.offsetParent"
            " && part.getBoundingClientRect().right > kit.getBoundingClientRect().right + 1).length"
        )
        check(beyond == 0, "nothing is cut off at 900 px")
    browser.close()


if __name__ == "__main__":
    from playwright.sync_api import sync_playwright

    out = Path(sys.argv[1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        drive(out, playwright)
