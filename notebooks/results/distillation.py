"""Measures distillation, stage by stage; run by hand.

    python notebooks/results/distillation.py OUT demo
    python notebooks/results/distillation.py OUT STAGE ... -- --data=M.csv --dfe=M.csv --classes=...

Stages: screen, reverse, temperature, map, overlaps, finetune, table. What stands behind -- are
settings of notebook 04. Each stage leaves one JSON in OUT, a fine-tuned student one .npz, and none
is done twice. `finetune` with --seed=1 --seeds=1 does one seed, so that two can run side by side;
one thread each. `demo`: simulated eyes, every stage in small, some minutes.
"""

import argparse
import json
import sys
import time
import warnings
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from helpers import config
from helpers.classifiers.networks import load_classifier
from helpers.distillation.distillation import distil
from helpers.distillation.partners import eyes_of, images_of, modalities, prepare_both
from helpers.distillation.report import chosen_of, compared, prevalence_of
from helpers.distillation.study import (
    ALONE,
    ARMS,
    head_start,
    out_of_fold,
    pull_of,
    screening,
    teach,
)
from helpers.distillation.world import gain_map, overlaps, simulate_world
from helpers.measures.features import PACKAGED, Features

DEMO = ["--n_simulated=60", "--size=96", "--dfe_framing=macula", "--steps=60", "--seeds=1",
        "--screen_steps=100"]  # fmt: skip


class Study:
    def __init__(self, out, given):
        self.out, self.settings = out, config.resolve(config.Distil, given, {})
        self.features = Features(cache=out / "features")

    @cached_property
    def domains(self):
        return prepare_both(self.settings, progress=False)

    def rows(self, modality, *sides):
        part = images_of(self.domains, modality, *sides, multilabel=self.settings.multilabel)
        return replace(part, images=self.features(part.images))

    def screen(self, arms=None):
        """All arms on frozen features, out of fold, over training and validation patients."""
        s, domains = screening(self.settings, PACKAGED[0]), self.domains
        teacher, student = modalities(s)
        pupils, masters = self.rows(student, "train", "validation"), self.rows(teacher, "train")
        found = out_of_fold(pupils, masters, domains.classes, s, arms, progress=False)
        prevalence = prevalence_of(pupils, domains.classes)
        arms = compared(pupils, found, domains.classes, s, prevalence=prevalence)
        return {"arms": arms, "classes": domains.classes, "n": len(pupils),
                "patients": len(set(pupils.patients))}  # fmt: skip

    def reverse(self):
        """The paper's direction, or the other one."""
        there = {"oct_to_dfe": "dfe_to_oct", "dfe_to_oct": "oct_to_dfe"}[self.settings.direction]
        other = Study(self.out, [])
        other.settings = replace(self.settings, direction=there)
        return other.screen([ALONE, "label smoothing", "KD", "CPM", "CSA", "FDDM (CPM + CSA)"])

    def temperature(self):
        s = screening(self.settings, PACKAGED[0])
        teacher, student = modalities(s)
        return pull_of(self.rows(student, "train"), self.rows(teacher, "train"),
                       self.domains.classes, s)  # fmt: skip

    @cached_property
    def world(self):
        demo = self.settings.n_simulated < 100
        return simulate_world(
            self.features, patients=60 if demo else 300, oct_shows=(0.2, 1.0),
            dfe_shows=(0.0, 0.3, 1.0) if demo else (0.0, 0.1, 0.25, 0.5, 1.0), progress=False,
        )  # fmt: skip

    def map(self):
        labelled = (5, 20) if len(self.world.labels) < 900 else (5, 20, 80)
        s = replace(screening(self.settings, PACKAGED[0]), steps=200)  # few labels need few steps
        return gain_map(self.world, s, labelled=labelled, progress=False)

    def overlaps(self):
        return overlaps(self.world, screening(self.settings, PACKAGED[0]))

    def kept(self, name, make):
        """A classifier, made unless an earlier call left it."""
        file = self.out / f"{name}.safetensors"
        if not file.exists():
            began = time.time()
            make().save(file)
            print(name, round(time.time() - began), "s", flush=True)
        return load_classifier(file)

    def finetune(self):
        """Student alone, KD and the chosen arm end to end, where every image has one label; the
        teachers' features are made once."""
        s, domains = self.settings, self.domains
        teacher, student = modalities(s)
        chosen = s.arm or chosen_of(json.loads((self.out / "screen.json").read_text())["arms"])
        masters = images_of(domains, teacher, "train")
        pupils = images_of(domains, student, "train", "validation")
        test = images_of(domains, student, "test")
        for seed in range(s.seed, s.seed + s.seeds):
            names = dict.fromkeys([ALONE, "KD", chosen])
            jobs = {name: self.out / f"finetune {name} {seed}.npz" for name in names}
            if all(file.exists() for file in jobs.values()):
                continue
            own = replace(s, seed=seed)

            def taught(own=own):
                begun = head_start(masters, domains.classes, own, backbone=own.teacher_backbone)
                return teach(masters, domains.classes, own, seed=own.seed, start=begun)

            master = self.kept(f"finetune teacher {seed}", taught)
            both = np.concatenate([masters.images, masters.images[..., ::-1]])
            shown, labels = master.features(both), np.tile(masters.labels, 2)
            start = self.kept(
                f"finetune start {seed}", partial(head_start, pupils, domains.classes, own)
            )
            np.savez(self.out / f"finetune start {seed}.npz", p=start(test.images))
            for name, file in jobs.items():
                if file.exists():
                    continue
                began = time.time()
                changed = replace(s, seed=seed, **ARMS[name])
                made = distil(
                    pupils.images, pupils.labels, domains.classes, changed,
                    master if changed.losses else None, shown, labels, start=start,
                )  # fmt: skip
                seconds = time.time() - began
                made.save(file.with_suffix(".safetensors"))
                np.savez(file, p=made(test.images), seconds=seconds)
                print(name, seed, round(seconds), "s", flush=True)
        return None

    def table(self):
        """The fine-tuned students, and their teachers, on test patients, eyes pooled."""
        s, domains = self.settings, self.domains
        teacher, student = modalities(s)
        test, seconds = images_of(domains, student, "test"), {}
        learned = images_of(domains, student, "train", "validation")
        found = {}
        for name in ["start", *ARMS]:
            files = [np.load(f) for f in sorted(self.out.glob(f"finetune {name} ?.npz"))]
            if files:
                found[name] = np.stack([file["p"] for file in files])
                seconds[name] = [float(file["seconds"]) for file in files if "seconds" in file]
        eyes = eyes_of(getattr(domains, student).test.scans)
        arms = compared(test, found, domains.classes, s, eyes=eyes,
                        prevalence=prevalence_of(learned, domains.classes))  # fmt: skip
        own = images_of(domains, teacher, "test")
        masters = [
            load_classifier(f) for f in sorted(self.out.glob("finetune teacher *.safetensors"))
        ]
        said = {"teacher": np.stack([master(own.images) for master in masters])}
        eyes = eyes_of(getattr(domains, teacher).test.scans)
        prevalence = prevalence_of(images_of(domains, teacher, "train"), domains.classes)
        own = compared(
            own, said, domains.classes, s, prevalence=prevalence, eyes=eyes, base="teacher"
        )
        return {"arms": arms, "seconds": seconds, "teacher": own["teacher"], "n": len(test),
                "patients": len(set(test.patients))}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("stages", nargs="+")
    here = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, given = parser.parse_args(sys.argv[1:here]), sys.argv[here + 1 :]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    stages = arguments.stages
    if stages == ["demo"]:
        stages = ["screen", "reverse", "temperature", "map", "overlaps", "finetune", "table"]
        given = [*DEMO, *given]
    arguments.out.mkdir(parents=True, exist_ok=True)
    study = Study(arguments.out, given)
    for stage in stages:
        file = arguments.out / f"{stage}.json"
        if file.exists():
            continue
        began = time.time()
        report = getattr(study, stage)()
        print(stage, round(time.time() - began), "s", flush=True)
        if report is not None:
            file.write_text(json.dumps(report, indent=1, default=list) + "\n")


if __name__ == "__main__":
    main()
