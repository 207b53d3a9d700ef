"""The bare loop: the same functions in one process, without Kafka, Flink or a store. No way can be faster on one core.

python -m scripts.rivals.bare FOLDER SECONDS        prints [ms, lists, CPU seconds] of every micro-batch, as JSON
"""

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from scripts.rivals.functions import EVENTS, MICRO_BATCH, Functions, answer


def run(functions: Functions, raws: Iterator[bytes], size: int = MICRO_BATCH) -> Iterator[list[tuple[str, bytes]]]:
    """The lists of one micro-batch after the other."""
    states: dict[str, bytes] = {}
    while micro_batch := list(islice(raws, size)):
        yield answer(functions, states, micro_batch)


def main(folder: str, seconds: str) -> None:
    raws = iter((Path(folder) / EVENTS).read_bytes().splitlines())
    times, functions, began = [], Functions(Path(folder)), time.monotonic()
    for lists in run(functions, raws):
        times.append((time.time() * 1_000, len(lists), time.process_time()))
        if time.monotonic() - began > float(seconds):
            break
    print(json.dumps(times))


if __name__ == "__main__":
    main(*sys.argv[1:])
