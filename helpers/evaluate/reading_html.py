"""The reading test as one html file that can be mailed: no server, no network, answers as a file.

python -m helpers.evaluate --make-reading-test --real DIR --synthetic DIR_OR_RUN --out FOLDER

The file holds what lies in FOLDER, pictures and questions, and no key: FOLDER-key.json stays with
the sender. What a reader sends back goes into FOLDER/readers, and ``python -m helpers.evaluate
--reading FOLDER ...`` reads it.
"""

import argparse
import base64
import json
from pathlib import Path

from helpers.evaluate.reading_test import CANNOT_TELL, FEATURES, BlindedTest, prepare_test
from helpers.evaluate.sides import read_sides

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Reading test</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
body { background: #1e1e1e; color: #d8d8d8; font: 16px/1.45 system-ui, sans-serif; margin: 1.5em; }
main { max-width: 1100px; margin: auto; } b { color: #fff; } progress { width: 100%; }
img { background: #000; border: 2px solid #000; width: 100%; display: block; }
#pictures { display: grid; gap: 8px; width: min(560px, 100%); }
#pictures.four { grid-template-columns: 1fr 1fr; width: min(760px, 100%, 100vh - 160px); }
#task { display: flex; flex-wrap: wrap; gap: 24px; } #questions { flex: 1; min-width: 300px; }
button { background: #3a3a3a; color: #eee; border: 1px solid #666; border-radius: 4px; margin: 2px;
         padding: 6px 12px; font: inherit; }
button.chosen { background: #e8e8e8; color: #111; } button.main { background: #2f6db5; }
button:disabled { opacity: .4; } input { font: inherit; padding: 6px; }
.four figure.chosen img { border-color: #e8e8e8; } figure { margin: 0; cursor: pointer; }
</style>
<main><div id="start">
<h2>Real or made by a computer?</h2>
<p>You will see OCT B-scans, each stretched to a square. Some are of patients; the others were made
by a computer and show nobody. <span id="parts"></span></p>
<p>Keys work too: the letters and digits in [brackets], then Enter. Every answer is kept in this
browser at once: close the page when you like, and open it again in the same browser under the same
name to go on. Nothing is sent anywhere. At the end, or before, press <b>Save answers</b> and send
the file to whoever sent you this page. The time for each picture is noted.</p>
<p><input id="name" placeholder="your name or initials"> <button id="go" class="main">Start</button>
<b id="said"></b></p></div>
<div id="reading" hidden><p><b id="where"></b> <button id="save">Save answers</button>
<button id="pause">Pause</button></p><progress id="progress"></progress>
<div id="task"><div id="pictures"></div><div id="questions"></div></div></div></main>
<script>
const TEST = @TEST@;
const at = id => document.getElementById(id);
let reader, answers, tasks, task, chosen, since;

function shuffled(list, salt) {  // in an order of each reader's own: fatigue falls on other scans
  let h = 2166136261;
  for (const c of TEST.test + salt) h = Math.imul(h ^ c.codePointAt(0), 16777619);
  const random = () => {
    h = Math.imul(h ^ (h >>> 15), h | 1); h ^= h + Math.imul(h ^ (h >>> 7), h | 61);
    return ((h ^ (h >>> 14)) >>> 0) / 4294967296;
  };
  const out = [...list];
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1)); [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}

const one = ["1", "2", "3", "4", "5"];
function questions(kind) {  // [name, text, choices]
  if (kind == "quartets") return [["image", "Which of the four is of a patient?", null]];
  if (kind == "ratings") return Object.entries(TEST.features).map(([name, text]) =>
    [name, text + " (1: impossible, 5: as in patients)", one]);
  const asked = [["answer", "real or synthetic?", ["real", "synthetic"]],
                 ["confidence", "how sure? 1 is a guess, 5 is certain", one]];
  if (TEST.diagnoses.length) asked.push(["diagnosis", "diagnosis", [...TEST.diagnoses, TEST.none]]);
  return asked;
}

function plan() {
  const of = (kind, list) => shuffled(list, kind + reader).map(item => ({kind, item}));
  return [...of("singles", TEST.images), ...of("quartets", TEST.quartets.map((_, i) => i)),
          ...of("ratings", TEST.rated)];
}

const key = () => "reading " + TEST.test + " " + reader;
const id = t => t.kind + " " + t.item;
function start() {
  const name = at("name").value.trim().replace(/\\s+/g, " ");
  if (!/[\\p{L}\\p{N}]/u.test(name)) return at("said").textContent = "Please give a name.";
  reader = name.toLowerCase();
  answers = JSON.parse(localStorage.getItem(key()) || "{}");
  tasks = plan();
  at("start").hidden = true; at("reading").hidden = false; show();
}

function show() {
  const left = tasks.filter(t => !(id(t) in answers)), done = tasks.length - left.length;
  at("progress").max = tasks.length; at("progress").value = done;
  at("pictures").replaceChildren(); at("questions").replaceChildren();
  task = left[0]; chosen = {}; since = performance.now();
  if (!task) {
    at("where").textContent = "Thank you: all " + tasks.length + " pictures are read. Now save the "
      + "answers, and send the file back.";
    return;
  }
  at("where").textContent = (done + 1) + " of " + tasks.length;
  const four = task.kind == "quartets";
  const names = four ? shuffled(TEST.quartets[task.item], reader + task.item) : [task.item];
  at("pictures").className = four ? "four" : "";
  names.forEach((name, i) => {
    const figure = document.createElement("figure"), picture = new Image();
    picture.src = "data:image/jpeg;base64," + TEST.pictures[name];
    figure.append(picture); at("pictures").append(figure);
    if (four) offer(figure, "image", name, "" + (i + 1), "[" + (i + 1) + "]");
  });
  const taken = new Set();
  for (const [name, text, choices] of questions(task.kind)) {
    const row = document.createElement("p"); row.textContent = text;
    row.append(document.createElement("br"));
    for (const choice of choices || []) {
      const letter = /^\\d$/.test(choice) ? choice : [...choice.toLowerCase()].find(
        c => /[a-z]/.test(c) && !taken.has(c)) || "";
      if (!/^\\d$/.test(choice)) taken.add(letter);
      const button = document.createElement("button");
      row.append(button);
      offer(button, name, choice, letter, letter == choice ? choice : choice + " [" + letter + "]");
    }
    at("questions").append(row);
  }
  const next = document.createElement("button");
  next.id = "next"; next.className = "main"; next.textContent = "Next [Enter]";
  next.disabled = true; next.onclick = record; at("questions").append(next);
}

function offer(element, name, value, letter, label) {
  Object.assign(element.dataset, {name, value, letter});
  element.append(label);
  element.onclick = () => {
    chosen[name] = value;
    for (const other of document.querySelectorAll("[data-name]"))
      if (other.dataset.name == name) other.classList.toggle("chosen", other == element);
    at("next").disabled = questions(task.kind).some(([asked]) => !(asked in chosen));
  };
}

function record() {
  if (at("next").disabled) return;
  answers[id(task)] = {...chosen, position: Object.keys(answers).length + 1,
    seconds: Math.round((performance.now() - since) / 100) / 10, time: new Date().toISOString()};
  localStorage.setItem(key(), JSON.stringify(answers));
  show();
}

function save() {
  const out = {schema: 1, test: TEST.test, reader: at("name").value.trim(), kind: "human",
               singles: [], quartets: [], ratings: []};
  for (const t of tasks.filter(t => id(t) in answers))
    out[t.kind].push({[t.kind == "quartets" ? "quartet" : "image"]: t.item, ...answers[id(t)]});
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(out, null, 1)]));
  const plain = reader.replace(/[^\\p{L}\\p{N}]+/gu, "_");
  link.download = "reading-" + TEST.test + "-" + plain + ".json";
  link.click();
}

document.onkeydown = event => {
  if (!task || at("reading").hidden || event.ctrlKey || event.metaKey) return;
  if (event.key == "Enter") { event.preventDefault(); return record(); }
  const fits = [...document.querySelectorAll("[data-letter]")].filter(
    e => e.dataset.letter == event.key.toLowerCase());
  const first = fits.find(e => !(e.dataset.name in chosen)) || fits[fits.length - 1];
  if (first) first.click();
};
at("go").onclick = start; at("save").onclick = save;
at("name").onkeydown = event => { if (event.key == "Enter") { event.stopPropagation(); start(); } };
at("pause").onclick = () => {
  at("pictures").replaceChildren(); at("reading").hidden = true; at("start").hidden = false;
};
at("parts").textContent = [
  [TEST.images.length, "one at a time: real or synthetic, how sure, which diagnosis?"],
  [TEST.quartets.length, "times four: which one is of a patient?"],
  [TEST.rated.length, "of the first again: how well are drusen drawn, in five features?"],
].filter(part => part[0]).map(part => part.join(" ")).join(" Then ");
</script></html>
"""


def write_html(test: BlindedTest, path) -> Path:
    """The test as one file: pictures, questions, script. It holds no key and asks for no network.

    The pictures are the test's own JPEGs, all of one length: as PNG each would be as long as its
    speckle is rough. Raises what ``BlindedTest.picture`` raises.
    """
    names = sorted({*test.images, *(name for four in test.quartets for name in four)})
    content = {
        "test": test.id,
        "diagnoses": test.diagnoses,
        "none": CANNOT_TELL,
        "features": FEATURES,
        "images": test.images,
        "quartets": test.quartets,
        "rated": test.rated,
        "pictures": {name: base64.b64encode(test.picture(name)).decode() for name in names},
    }
    path = Path(path)
    path.write_text(PAGE.replace("@TEST@", json.dumps(content).replace("</", "<\\/")))
    return path


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.evaluate --make-reading-test", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--real", required=True, help="a folder, a manifest.csv, simulated or oct2017")
    add("--synthetic", required=True, help="a run's folder, or a folder of images")
    add("--out", required=True, help="the test's folder; FOLDER.html beside it is to be mailed")
    add("--class", dest="class_", default="DRUSEN", help="where there are several (DRUSEN)")
    add("--n", type=int, default=20, help="real scans shown singly, and as many synthetic (20)")
    add("--quartets", type=int, default=10, help="of one real and three synthetic scans (10)")
    add("--rated", type=int, default=10, help="real scans rated by features of drusen (10)")
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    n, quartets, seed = options.n, options.quartets, options.seed
    try:
        sides = read_sides(options.real, options.synthetic, class_=options.class_, seed=seed,
                           n=2 * (n + 3 * quartets))  # fmt: skip
        real, made = sides.real, sides.synthetic
        test = prepare_test(
            list(real.test.images), list(made.images), options.out, n=n, quartets=quartets,
            rated=options.rated, real_labels=real.class_, synthetic_labels=real.class_,
            real_patients=real.test.patients, diagnoses=sorted(real.classes), seed=seed,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    page = write_html(test, f"{test.folder}.html")
    print(
        f"{page} can be mailed. Keep {test.key.name}; what comes back goes to {test.folder}/readers"
    )
