"""The reading test in a real browser. Not collected by pytest; run by hand after changes to it:

    pip install jupyterlab nbclassic voila playwright && playwright install chromium
    python tests/support/browser_reading.py OUT lab          # or classic, or voila

CHROMIUM=/usr/bin/chromium takes an installed browser instead. Screenshots, the notebook and the
readers' files go to OUT. The scans are simulated eyes and blurred ones; OUT/scans.npz with arrays
`real` and `synthetic`, if there, is shown instead (do not publish pictures of it).
"""

import csv
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
from scipy.ndimage import gaussian_filter

from helpers.data.prepare import prepare
from helpers.evaluate import reading_analysis

N = 6  # of each kind
CELL = """from helpers.evaluate import reading_analysis as reading
from helpers.evaluate.reading_widget import ReadingTest
ReadingTest(reading.open_test("test"))"""
ROOT = Path(__file__).parents[2]
PATHS = {"lab": "lab/tree/", "classic": "notebooks/", "voila": "voila/render/"}


def scans(out):
    if (out / "scans.npz").exists():
        with np.load(out / "scans.npz") as file:
            return file["real"], file["synthetic"]
    data = prepare("simulated", size=128, n_simulated=20, cache=out / "cache").train.images
    return data[::2], gaussian_filter(data[1::2], (0, 0, 1, 1))


@contextmanager
def server(out, where):
    """A notebook server on a free port; yields the address of a notebook in OUT."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "nbclassic" if where == "classic" else "jupyterlab", "--no-browser",
        "--allow-root", f"--ServerApp.root_dir={out}", f"--port={port}",
        "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (out / f"server-{where}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        for _ in range(240):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.25)
        yield f"http://127.0.0.1:{port}/{PATHS[where]}"
    finally:
        process.terminate()
        process.wait()


def open_kit(page, address, where):
    """Open the notebook, or open it again, and run its cell: the kit on its first page."""
    page.goto(address + ("?reset" if where == "lab" else ""))  # no tabs of another page
    if where == "lab":
        page.locator(".jp-Notebook .cm-content").first.click(timeout=120_000)
        page.wait_for_timeout(3000)
        page.keyboard.press("Shift+Enter")
        page.mouse.move(700, 5)
    elif where == "classic":
        page.locator(".CodeMirror").first.click(timeout=120_000)
        page.wait_for_timeout(3000)
        page.keyboard.press("Shift+Enter")
    page.get_by_placeholder("your name").wait_for(timeout=120_000)


def enter(page, name):
    page.get_by_placeholder("your name").fill(name)
    press(page, "Start")


def press(page, name):
    page.locator(".reading").get_by_role("button", name=name).click()


def at(page, number):
    """Wait for a scan to be shown; the kit's HTML without what must differ between scans."""
    page.get_by_text(f"Scan {number} of {2 * N}").wait_for(timeout=20_000)
    page.wait_for_function(
        "[...document.images].some(i => i.src.startsWith('blob') && i.width > 9)"
    )
    page.wait_for_timeout(200)
    text = page.locator(".reading").evaluate("kit => kit.outerHTML")
    for changing in (r'src="blob:[^"]*"', r"Scan \d+ of", r"width: [\d.]+%", ' disabled=""'):
        text = re.sub(changing, "", text)
    return text


def shown(page):
    """The bytes of the picture as the browser has them."""
    content = page.locator(".reading img").evaluate(
        "async i => [...new Uint8Array(await (await fetch(i.src)).arrayBuffer())]"
    )
    return bytes(content)


def check(true, what):
    print("ok  " if true else "FAIL", what, flush=True)
    if not true:
        raise SystemExit(1)


def rows(test, name):
    with test.reader_file(name).open() as file:
        return list(csv.DictReader(file))


def drive(out, where, playwright):
    shutil.rmtree(out / "test", ignore_errors=True)
    test = reading_analysis.prepare_test(
        *scans(out), out / "test", n=N, size=128, real_labels="DRUSEN", synthetic_labels="DRUSEN",
        diagnoses=("DRUSEN", "CNV", "DME", "NORMAL"),
    )  # fmt: skip
    for name in ("reading.ipynb", "second.ipynb"):
        cells = [nbformat.v4.new_code_cell(CELL)]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), out / name)
    browser = playwright.chromium.launch(
        executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"]
    )
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    sent = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda data: sent.append(data)))
    page.on("dialog", lambda dialog: dialog.accept())

    def picture(name):
        page.screenshot(path=out / f"{where}-{name}.png")

    with server(out, where) as address:
        open_kit(page, address + "reading.ipynb", where)
        picture("1-start")
        enter(page, " ")
        page.get_by_text("Please give a name").wait_for()
        check(True, "an empty name is refused")
        enter(page, "Ann")
        at(page, 1)
        picture("2-first-scan")
        for number, (answer, sure) in enumerate(
            (("real", "3"), ("synthetic", "5"), ("real", "1")), 2
        ):
            for button in (f"{answer} ", sure, "CNV "):
                page.locator(".reading").get_by_role(
                    "button", name=button, exact=False
                ).first.click()
            if number == 2:
                page.wait_for_timeout(300)
                picture("3-answered")
            press(page, "Next")
            at(page, number)
        given = [(r["answer"], r["confidence"], r["diagnosis"]) for r in rows(test, "Ann")]
        check(given == [("real", "3", "CNV"), ("synthetic", "5", "CNV"), ("real", "1", "CNV")],
              "three answers by buttons are on disk")  # fmt: skip
        page.keyboard.type("s4d ", delay=60)
        at(page, 5)
        page.keyboard.type("r2n", delay=0)
        page.keyboard.press("Enter")
        at(page, 6)
        given = [(r["answer"], r["confidence"], r["diagnosis"]) for r in rows(test, "Ann")[3:]]
        check(given == [("synthetic", "4", "DRUSEN"), ("real", "2", "NORMAL")],
              "two by keys, one of them as fast as the browser types")  # fmt: skip
        press(page, "synthetic ")
        page.wait_for_timeout(400)
        page.keyboard.type("3a ", delay=40)  # the field has the keyboard again after a click
        at(page, 7)
        check(rows(test, "Ann")[5]["diagnosis"] == "cannot tell", "button and keys mixed")
        picture("4-keys")

        if where == "lab":
            second = browser.new_page(viewport={"width": 1400, "height": 900})
            open_kit(second, address + "second.ipynb", where)
            enter(second, "ANN")
            second.get_by_text("right now").wait_for()
            second.screenshot(path=out / f"{where}-5-in-use.png")
            check(True, "another notebook may not answer as Ann at the same time")
            second.close()

        open_kit(page, address + "reading.ipynb", where)  # left in the middle, never saved
        enter(page, "ann")
        page.get_by_text(f"Ann has answered 6 of {2 * N}").wait_for()
        page.wait_for_timeout(300)
        picture("6-resume")
        press(page, "Go on")
        at(page, 7)
        check(shown(page) == test.picture(reading_analysis.reading_order(test, "Ann")[6]),
              "the page opened again goes on at the same scan")  # fmt: skip
        press(page, "Pause")
        page.get_by_text("Paused").wait_for()
        gone = "[...document.querySelectorAll('.reading img')].every(i => i.offsetParent === null)"
        check(page.evaluate(gone), "a pause hides the scan")
        press(page, "Start")
        press(page, "Go on")
        pages = [at(page, 7)]
        for number in range(8, 2 * N + 1):
            page.keyboard.type("s1n ")
            pages.append(at(page, number))
        page.keyboard.type("s1n ")
        page.get_by_text(f"all {2 * N} scans are read").wait_for()
        page.wait_for_timeout(300)
        picture("7-finished")
        enter(page, "Ann")
        page.get_by_text("has finished").wait_for()
        check(True, "a reader who has finished is told so")
        if where == "lab":
            page.keyboard.press("Control+s")
            page.wait_for_timeout(2000)

    check(len(set(pages)) == 1, f"the HTML of all {len(pages)} scans is the same but for picture "
          "and progress")  # fmt: skip
    said = "".join(part if isinstance(part, str) else part.decode("latin1") for part in sent)
    secret = [*test.images, "truth"]
    check(len(said) > 10_000 and not any(word in said for word in secret),
          f"{len(said) // 1000} kB sent to the browser name no scan and no truth")  # fmt: skip
    check(not any(word in (out / "reading.ipynb").read_text() for word in secret),
          "nor does the saved notebook")  # fmt: skip
    answers = rows(test, "Ann")
    check([int(r["position"]) for r in answers] == list(range(1, 2 * N + 1)), "the CSV is complete")
    check(len({r["image"] for r in answers}) == 2 * N, "every scan once")
    check(all(0 < float(r["seconds"]) < 60 for r in answers), "with seconds per scan")
    check(
        reading_analysis.analyse(test)["readers"]["Ann"]["missing"] == 0,
        "and the analysis reads it",
    )
    browser.close()


if __name__ == "__main__":
    from playwright.sync_api import sync_playwright

    out = Path(sys.argv[1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        drive(out, sys.argv[2] if len(sys.argv) > 2 else "lab", playwright)
