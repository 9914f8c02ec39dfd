"""Which lesions a condition brings: drusen, diabetic macular oedema (DME), neovascular AMD (CNV).

Everything is drawn in nasal coordinates (um from the fovea) at a grade between 0 and 1; the grade
sets how many there are, how wide and how high.
"""

from __future__ import annotations

import numpy as np

from helpers.data.simulated.anatomy import Lesion


def drusen(rng, grade, count=None) -> list[Lesion]:
    """Drusen between RPE and BM: several are cut by the scan line, the rest lie about it."""
    found = []
    line = 2 + rng.poisson(1 + 7 * grade) if count is None else count
    for index in range(line + rng.poisson(6 + 30 * grade)):
        width = rng.lognormal(np.log(150 + 170 * grade), 0.42)
        width = float(np.clip(width, 80, 900))
        height = float(np.clip(width * rng.uniform(0.1, 0.24) * (0.8 + 0.4 * grade), 12, 110))
        if index < line:
            x = rng.normal(0, 850)
            y = rng.uniform(-0.28, 0.28) * width
        else:
            angle, away = rng.uniform(0, 2 * np.pi), 2300 * np.sqrt(rng.uniform(0.01, 1))
            x, y = away * np.cos(angle), away * np.sin(angle)
        found.append(Lesion("druse", x, y, width, height))
    for _ in range(rng.poisson(60 + 140 * grade)):  # small hard ones, which roughen the RPE
        width = rng.uniform(50, 130)
        x, y = rng.normal(0, 1100), rng.normal(0, 500)
        found.append(Lesion("druse", x, y, width, rng.uniform(5, 16)))
    return found


def oedema(rng, grade) -> list[Lesion]:
    """DME: thickening, cystoid spaces in INL, OPL and ONL, hard exudates, haemorrhages."""
    x, y = rng.normal(0, 450), rng.normal(0, 250)
    found = [
        Lesion("thickening", x, y, rng.uniform(2500, 5500), 50 + rng.uniform(110, 320) * grade)
    ]
    high = 0.6 + 0.7 * grade
    for _ in range(rng.integers(1, 4)):  # the large spaces beside and under the fovea
        width = rng.uniform(160, 480) * (0.5 + 0.8 * grade)
        height = width * rng.uniform(0.45, 0.85)
        found.append(Lesion("cyst", x + rng.normal(0, 260), 0.0, width, height, 0.48))
    for _ in range(6 + rng.poisson(8 + 26 * grade)):
        width = rng.lognormal(np.log(95), 0.4)
        where = x + rng.normal(0, 750)
        level = rng.choice([0.38, 0.5, 0.68], p=[0.35, 0.3, 0.35]) + rng.normal(0, 0.04)
        height = width * rng.uniform(0.5, 1.1) * high
        found.append(Lesion("cyst", where, rng.uniform(-0.3, 0.3) * width, width, height, level))
    cx, cy, away = x + rng.normal(0, 700), y + rng.normal(0, 600), rng.uniform(350, 900)
    for _ in range(4 + rng.poisson(22 * grade)):
        angle = rng.uniform(0, 2 * np.pi)
        width = rng.uniform(35, 110)
        here = away * rng.normal(1, 0.2)
        found.append(Lesion("exudate", cx + here * np.cos(angle), cy + here * np.sin(angle),
                            width, rng.uniform(18, 40), rng.normal(0.45, 0.08)))  # fmt: skip
    found += [Lesion("exudate", x + rng.normal(0, 700), rng.uniform(-9, 9), rng.uniform(30, 70),
                     rng.uniform(15, 35), rng.normal(0.48, 0.1))
              for _ in range(rng.poisson(4 * grade))]  # fmt: skip
    found += [Lesion("haemorrhage", rng.normal(0, 2300), rng.normal(0, 2000),
                     rng.lognormal(np.log(90), 0.6), 0.0)
              for _ in range(4 + rng.poisson(18 * grade))]  # fmt: skip
    if rng.uniform() < 0.05 + 0.2 * grade:
        width, height = rng.uniform(700, 1500), rng.uniform(30, 60 + 70 * grade)
        found.append(Lesion("subretinal_fluid", x, 0.0, width, height))
    return found


def neovascular(rng, grade) -> list[Lesion]:
    """CNV: pigment epithelial detachment, hyperreflective tissue, fluid, haemorrhage, drusen."""
    x = rng.normal(0, 550)
    width = rng.uniform(1200, 3400) * (0.6 + 0.4 * grade)
    found = [
        Lesion("detachment", x, 0.0, width, 25 + rng.uniform(20, 130) * grade),
        Lesion("tissue", x + rng.normal(0, 0.2) * width, 0.0, width * rng.uniform(0.7, 1.2),
               20 + rng.uniform(20, 110) * grade),
    ]  # fmt: skip
    if rng.uniform() < 0.75:
        found.append(Lesion("subretinal_fluid", x + rng.normal(0, 0.3) * width, 0.0,
                            width * rng.uniform(0.6, 1.2),
                            20 + rng.uniform(10, 140) * grade))  # fmt: skip
    found.append(Lesion("thickening", x, 0.0, 1.4 * width, rng.uniform(0, 90) * (0.3 + grade)))
    if rng.uniform() < 0.4:
        for _ in range(1 + rng.poisson(5 * grade)):
            size = rng.lognormal(np.log(85), 0.4)
            where = x + rng.normal(0, 0.3) * width
            found.append(Lesion("cyst", where, 0.0, size, size * rng.uniform(0.6, 1.1), 0.55))
    found += [Lesion("exudate", x + rng.normal(0, 0.4) * width, rng.normal(0, 200),
                     rng.uniform(25, 60), rng.uniform(15, 30), rng.uniform(0.2, 0.6))
              for _ in range(rng.poisson(5))]  # fmt: skip
    found += [Lesion("haemorrhage", x + rng.normal(0, 0.5) * width, rng.normal(0, 0.5) * width,
                     rng.uniform(250, 500 + 900 * grade), 0.0)
              for _ in range(1 + rng.poisson(3 * grade))]  # fmt: skip
    return found + drusen(rng, 0.5 * grade, count=rng.poisson(4))


def draw_lesions(condition, grade, rng) -> list[Lesion]:
    """The lesions of one patient, in nasal coordinates."""
    if condition == "DRUSEN":
        return drusen(rng, grade)
    if condition == "DME":
        return oedema(rng, grade)
    if condition == "CNV":
        return neovascular(rng, grade)
    return []
