"""How many events are learnt a second by one process and by two, on MovieLens-100k.

    python -m scripts.benchmarks.learning_scale [EVENTS] [PROCESSES]

Runs both ways, one after the other, one thread a process, and prints a line of JSON for each: `wall` and `cpu` seconds
(of each process), and whether all of them learnt the same version. The first third of the events only warms up. On a
machine that others use, the processor time of the process that took most says how long it would take alone.
"""

import json
import os
import subprocess
import sys
import time
from hashlib import sha256

EVENTS, PROCESSES, EVERY = 12_000, 2, 2_000


def main(argv: list[str]) -> None:
    if argv[:1] == ["--measure"]:
        measure(int(argv[1]))
        return
    events, processes = (*map(int, argv), *(EVENTS, PROCESSES)[len(argv) :])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for count in (1, processes):
        start = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "-m"] if count > 1 else ["-m"]
        command = [sys.executable, *start, "scripts.benchmarks.learning_scale", "--measure", str(events)]
        subprocess.run(command, check=True, env=environment)


def measure(events: int) -> None:
    """Learn from the events, as one process of those that torchrun started."""
    from model.learning import distributed, leader

    if distributed.wanted() > 1:
        distributed.join()
    if distributed.rank():
        learner = leader.follow()
        began = time.process_time()
        leader.follow(learner)
        distributed.told(by=0)
        for number in range(1, distributed.size()):
            distributed.told(time.process_time() - began, by=number)
        distributed.leave()
        return
    print(json.dumps(_lead(events)), flush=True)
    if distributed.size() > 1:
        distributed.leave()


def _lead(count: int) -> dict:
    from model.learning import distributed, leader
    from model.learning.config import TrainingConfig
    from model.statistics import ItemStatistics
    from scripts.learn import catalogue_of, examples_of

    source = catalogue_of("ml-100k")
    given = examples_of(source, count)
    learner = leader.begin(source.catalogue, ItemStatistics(), config=TrainingConfig(own_draws=True))
    warm = count // 3
    learner.add(given[:warm])
    learner.fine_tune()
    if distributed.size() > 1:
        learner.leave()
    wall, cpu = time.perf_counter(), time.process_time()
    for first in range(warm, len(given), EVERY):
        learner.add(given[first : first + EVERY])
        scorer = learner.fine_tune()
    wall, cpus = time.perf_counter() - wall, [time.process_time() - cpu]
