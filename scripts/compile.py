"""Compile the loops of model/ and keep what comes out, so that no worker has to when it makes its first list.

    python scripts/compile.py        takes no options; half a minute the first time, a few seconds after it

It is kept beside the code, or in NUMBA_CACHE_DIR (model/jit.py), and made for this processor.
"""

import sys
import time

from jobs.settings import help_or_go_on

if __name__ == "__main__":
    help_or_go_on(sys.argv[1:], __doc__)

import numpy as np

from model.schema import Example
from model.score import Scorer, score
from model.statistics import ItemStatistics
from scripts.benchmarks.scoring import DIM, RULES, K, build, request


def main() -> None:
    began = time.perf_counter()
    world = build(300, "cpu")
    requests = [request(world, number) for number in range(3)]
    for scorer in (Scorer.untrained(DIM), world.scorer):
        score(scorer, world.statistics, world.catalogue, requests, K, RULES)
    statistics = ItemStatistics.restore(world.statistics.snapshot())
    statistics.has(Example("u1", "e", 1, "i1", "view"))
    statistics.partners("transitions", np.zeros(1, np.int32), 2)
    statistics.forget("u1")
    print(f"setup: loops compiled in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
