"""The reading test as a widget: plain ipywidgets, for JupyterLab, classic, Colab and Voila."""

import html
import time
from string import ascii_lowercase

import ipywidgets

from helpers.evaluate.reading_test import CANNOT_TELL, CONFIDENCE, BlindedTest, Reader

STYLE = """<style>
.reading {background: #1e1e1e; color: #d8d8d8; padding: 16px 20px; border-radius: 6px;}
.reading .widget-html-content, .reading .widget-label {color: #d8d8d8; line-height: 1.45;}
.reading .widget-html-content h3 {margin: 0 0 8px; font-size: 18px; color: #fff;}
.reading .widget-html-content li {margin-bottom: 4px;}
.reading .widget-html-content b {color: #fff;}
.reading .reading-warning {color: #ffb08a;}
.reading kbd {background: #3a3a3a; color: #fff; border: 1px solid #666; border-radius: 3px;
 padding: 0 5px; font-family: inherit; box-shadow: none;}
.reading button {background: #3a3a3a; color: #e8e8e8; border: 1px solid #555; border-radius: 4px;}
.reading button:hover:enabled:not(.mod-active):not(.mod-primary) {background: #4a4a4a;}
.reading .widget-toggle-button.mod-active {background: #e8e8e8; color: #111; font-weight: 600;}
.reading button.mod-primary {background: #2f6db5; border-color: #2f6db5; color: #fff;
 font-weight: 600;}
.reading button:disabled {opacity: .4;}
.reading input, .reading textarea {background: #2a2a2a; color: #eee; border: 1px solid #555;
 border-radius: 4px;}
.reading .reading-keys textarea {color: transparent; caret-color: transparent; resize: none;
 overflow: hidden; cursor: pointer;}
.reading .reading-keys textarea::placeholder {color: #aaa;}
.reading .reading-keys textarea:focus {border-color: #2f6db5; box-shadow: 0 0 0 2px #2f6db5;}
.reading .widget-toggle-buttons {margin-bottom: 12px;}
.reading img {border: 1px solid #000; background: #000;}
.reading .widget-inline-hbox.widget-hprogress {height: 10px; margin-bottom: 12px;}
.reading .progress {background: #3a3a3a;}
.reading .progress-bar {background: #2f6db5;}
</style>"""
ENTER = " \n"  # the keys for "next": the space bar too
_OPEN = {}  # readers' files and the widgets of this process that write them


class ReadingTest(ipywidgets.VBox):
    """A blinded reading test, shown where it is the last line of a cell.

    test: from ``reading_test.prepare_test`` or ``open_test``; display: px on the screen, side of
    the picture. Asks for a name, goes on where that name stopped, and writes every answer at once
    to the reader's CSV (``reading_test.Reader``). It never opens the key.

    ipywidgets knows no keys, so a text field takes them: what is typed into it are answers.
    It is never emptied while one reads, because emptying races with what is being typed.
    """

    def __init__(self, test: BlindedTest, *, display=560):
        self.test, self.reader, self._typed = test, None, ""
        questions = {
            "real or synthetic?": {"real": "real", "synthetic": "synthetic"},
            "how sure? 1 is a guess, 5 is certain": {str(c): c for c in CONFIDENCE},
        }
        if test.diagnoses:
            names = [*test.diagnoses, CANNOT_TELL]
            questions["diagnosis"] = {name: name for name in names}
        self.letters, self.choices, blocks = {}, [], []
        for question, options in questions.items():
            letters = _letters(options, self.letters)
            choice = ipywidgets.ToggleButtons(
                options=[(_with_key(name, key), options[name]) for name, key in letters.items()],
                value=None,
                style={"button_width": "56px" if question.startswith("how") else "128px"},
            )
            choice.observe(self._chosen, "value")
            self.letters |= {key: (choice, options[name]) for name, key in letters.items()}
            self.choices.append(choice)
            blocks += [ipywidgets.HTML(f"<b>{question}</b>"), choice]

        self.name = ipywidgets.Text(placeholder="your name or initials", layout={"width": "260px"})
        self.start = _button("Start", self._start, primary=True)
        self.go_on = _button("", self._go_on, primary=True, width="auto")
        self.other = _button("Choose another name", self._other, width="auto")
        self.next = _button("Next  [space]", self._next, primary=True)
        self.pause = _button("Pause", lambda _: self.leave("Paused. Press Start to go on."))
        self.message, self.status = ipywidgets.HTML(), ipywidgets.HTML()
        self.progress = ipywidgets.IntProgress(max=len(test), layout={"width": "100%"})
        self.picture = ipywidgets.Image(
            format="jpeg", layout={"width": f"{display}px", "height": f"{display}px"}
        )
        self.typing = ipywidgets.Textarea(
            placeholder="keys go into this field", rows=1,
            layout={"width": "272px", "height": "34px"},
        )  # fmt: skip
        self.typing.add_class("reading-keys")
        self.typing.observe(self._type, "value")
        side = ipywidgets.VBox(
            [self.status, self.progress, *blocks, ipywidgets.HBox([self.next, self.pause]),
             self.typing],
            layout={"width": "320px", "margin": "0 0 0 24px"},
        )  # fmt: skip
        self._reading = ipywidgets.HBox([self.picture, side], layout={"flex_flow": "row wrap"})
        self._welcome = ipywidgets.HTML(_instructions(test))
        self._ask_name = ipywidgets.HBox([self.name, self.start])
        self._ask_whether = ipywidgets.HBox([self.go_on, self.other])
        style = ipywidgets.HTML(STYLE, layout={"display": "none"})
        super().__init__([style, self._reading, self._welcome, self._ask_name, self.message,
                          self._ask_whether])  # fmt: skip
        self.add_class("reading")
        self._turn_to(self._welcome, self._ask_name)

    def _turn_to(self, *shown):
        """Show a page. All of them stay in the browser, so that keys find their field at once."""
        for part in (self._reading, self._welcome, self._ask_name, self._ask_whether):
            part.layout.display = None if part in shown else "none"

    def leave(self, message=""):
        """Back to the first page: the picture is gone, the clock stands, the name is free."""
        if self.reader:
            _OPEN.pop(self.reader.path, None)
            self.reader.close()
        self.reader, self.picture.value = None, b""
        self._say(message)
        self._turn_to(self._welcome, self._ask_name)

    def _say(self, text, warning=False):
        kind = "reading-warning" if warning else ""
        self.message.value = f'<div class="{kind}">{html.escape(text)}</div>' if text else ""

    def _start(self, _):
        try:
            path = self.test.reader_file(self.name.value)
            if path in _OPEN:  # a cell that was run again, after the page was reloaded, say
                _OPEN[path].leave("This reading goes on where it was opened last.")
            self.reader = Reader(self.test, self.name.value)
        except (OSError, RuntimeError, ValueError) as error:
            return self._say(str(error), warning=True)
        _OPEN[path] = self
        name, done, total = self.reader.name, len(self.reader.rows), len(self.test)
        if not self.reader.left:
            self.leave(f"{name} has finished this test, all {total} scans. Thank you. "
                       "Another reader takes another name.")  # fmt: skip
        elif done:
            when = self.reader.rows[-1]["time"].replace("T", " ")[:16]
            self._say(
                f"{name} has answered {done} of {total} scans in this test, last on {when} UTC. "
                "If that was you, go on. If not, choose another name."
            )
            self.go_on.description = f"Go on as {name}"
            self._turn_to(self._welcome, self._ask_whether)
        else:
            self._go_on(None)

    def _other(self, _):
        self.name.value = ""
        self.leave()

    def _go_on(self, _):
        self._say("")
        self._turn_to(self._reading)
        self._show()

    def _show(self):
        """The next scan, nothing chosen yet, and the clock starts."""
        done = len(self.reader.rows)
        if not self.reader.left:
            self.name.value, name = "", self.reader.name
            return self.leave(f"Thank you, {name}: all {done} scans are read and saved.")
        try:
            content = self.test.picture(self.reader.left[0])
        except (OSError, ValueError) as error:
            self.leave()
            return self._say(str(error), warning=True)
        for choice in self.choices:
            choice.value = None
        self.picture.value = content
        self.progress.value = done
        self.status.value = (
            f"<b>Scan {done + 1} of {len(self.test)}</b> &nbsp; {html.escape(self.reader.name)}"
        )
        self._say("Every answer is saved at once.")
        self._shown = time.monotonic()
        self._chosen()

    def _chosen(self, _=None):
        self.next.disabled = any(choice.value is None for choice in self.choices)
        # Keys must not go elsewhere: in a notebook, "d d" deletes the cell. ipywidgets 7 cannot.
        if self.reader and hasattr(self.typing, "focus"):
            self.typing.focus()

    def _type(self, change):
        """What is new in the key field is a list of keys."""
        before, now = self._typed, change["new"]
        self._typed = now
        if not self.reader or self.picture.value == b"":
            return
        same = next((i for i, (a, b) in enumerate(zip(before, now)) if a != b), len(before))
        for key in now[same : same + max(0, len(now) - len(before))].lower():
            if key in ENTER:
                self._next(None)
            elif key in self.letters:
                choice, value = self.letters[key]
                choice.value = value

    def _next(self, _):
        values = [choice.value for choice in self.choices]
        if not self.reader or None in values:
            return
        answer, confidence, diagnosis = [*values, None][:3]
        try:
            seconds = time.monotonic() - self._shown
            self.reader.record(self.reader.left[0], answer, confidence, diagnosis, seconds)
        except (OSError, ValueError) as error:
            return self._say(f"Not saved: {error}", warning=True)
        self._show()


def _button(text, action, primary=False, width="132px"):
    button = ipywidgets.Button(description=text, button_style="primary" if primary else "",
                               layout={"width": width})  # fmt: skip
    button.on_click(action)
    return button


def _letters(names, taken):
    """{name: the key for it}: a digit for itself, else its first letter that is still free."""
    letters = {}
    for name in names:
        wanted = name if name.isdigit() else (name + ascii_lowercase).lower()
        letters[name] = next(
            key for key in wanted
            if key.isascii() and key.isalnum() and key not in {*taken, *letters.values()}
        )  # fmt: skip
    return letters


def _with_key(name, key):
    return name if name == key else f"{name}  [{key}]"


def _instructions(test):
    asked = ["whether it is <b>real</b> or <b>synthetic</b>", "how <b>sure</b> you are"]
    asked += ["the <b>diagnosis</b>, whichever it is"] if test.diagnoses else []
    return f"""<h3>Real or synthetic?</h3>
You will see {len(test)} OCT B-scans, one at a time, each stretched to a square. Half are of
patients; the other half were made by a computer and show nobody. For each, give
<ul>{"".join(f"<li>{item}</li>" for item in asked)}</ul>
Until you press <b>Next</b>, choices may be changed; afterwards not. By keys: press the letters in
[brackets], then <kbd>space</kbd> or <kbd>Enter</kbd>.<br>
Each answer is saved at once. Pause when you like, or close the page; the same name goes on where it
stopped. The time for each scan is noted. You are not told which answers were right.<br>&nbsp;"""
