"""How many events are learnt a second by one process and by two, on MovieLens-100k.

    python -m scripts.benchmarks.learning_scale [EVENTS] [PROCESSES]

Runs both ways, one after the other, one thread a process, and prints a line of JSON for each: events learnt a second by
the clock, seconds of processor time of each process, and the checksum of the version, which is the same. The first
third of the events only warms up. On a machine that others use, the processor time of the process that took most says
how long it would take alone.
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
    if distributed.learns_ranker():
        print(json.dumps(_lead(events)), flush=True)
    else:
        learner = leader.follow()  # as long as it warms up
        began = time.process_time()
        leader.follow(learner)
        for number in range(1, distributed.size()):
            distributed.told(time.process_time() - began, by=number)
    if distributed.size() > 1:
        distributed.leave()


def _lead(events: int) -> dict:
    from jobs.settings import Settings
    from model.learning import distributed, leader
    from model.learning.config import TrainingConfig
    from model.statistics import ItemStatistics
    from scripts import learn, options

    arguments, _ = options.learn(["--data", "ml-100k", "--limit", str(events)], None)
    source, warm = learn.read(arguments, Settings(), []), events // 3
    learner = leader.begin(source.catalogue, ItemStatistics(), config=TrainingConfig(own_draws=True))
    learner.add(source.examples[:warm])
    learner.fine_tune()
    _leave(learner)
    wall, cpu = time.perf_counter(), time.process_time()
    for first in range(warm, len(source.examples), EVERY):
        learner.add(source.examples[first : first + EVERY])
        scorer = learner.fine_tune()
    wall, cpus = time.perf_counter() - wall, [time.process_time() - cpu]
    _leave(learner)
    cpus += [distributed.told(by=number) for number in range(1, distributed.size())]
    learnt, tensors = len(source.examples) - warm, scorer.state_dict().values()
    version = sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()[:12]
    of_cpu = {"cpu_s": [round(one, 2) for one in cpus], "events_per_s_of_the_busiest": round(learnt / max(cpus), 1)}
    return {"processes": distributed.size(), "events_per_s": round(learnt / wall, 1), **of_cpu, "version": version}


def _leave(learner: object) -> None:
    """Let the other processes end their part, where there are some."""
    from model.learning import distributed

    if distributed.size() > 1:
        learner.leave()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(sys.argv[1:])
