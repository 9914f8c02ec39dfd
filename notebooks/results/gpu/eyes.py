"""Simulated eyes into the cache, by the CPU: python -m gpu.eyes FOLDER."""

import sys
import warnings

from gpu.result import settings
from gpu.speed import place_of
from helpers.data.prepare import prepare


def main(folder: str) -> None:
    warnings.simplefilter("ignore")
    s = settings(folder)
    about = dict(n_simulated=s.n_simulated, cache=f"{s.runs}/cache", progress=False)
    prepare(s.data, class_="all", size=s.size, framing="aligned", **about)
    prepare(s.data, class_=s.class_, size=max(256, s.size), framing="stretch", **about)
    prepare(s.data, class_="all", size=max(256, s.size), framing="stretch", sides=("validation",),
            most=2000, **about)  # fmt: skip
    place_of(folder)


if __name__ == "__main__":
    main(sys.argv[1])
