"""The bare loop: the same functions in one process, without Kafka, Flink or a store. No way can be faster on one core.

python -m scripts.rivals.bare FOLDER SECONDS [EVENTS_PER_S AT_THAT_LOAD_S]

Prints JSON: `batches`, [ms, lists, CPU seconds] of every micro-batch of the backlog; `late_s`, how long after an event
was due its list was made, where the events that follow come at a steady rate.
"""

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from scripts.rivals.functions import EVENTS, LATER, MICRO_BATCH, Functions, answer


class Loop:
    """The loop and the states of its users."""

    def __init__(self, functions: Functions) -> None:
        self._functions, self._states = functions, dict[str, bytes]()

    def run(self, raws: Iterator[bytes], size: int = MICRO_BATCH) -> Iterator[list[tuple[str, bytes]]]:
        """The lists of one micro-batch after the other."""
        while micro_batch := list(islice(raws, size)):
            yield answer(self._functions, self._states, micro_batch)

    def at_load(self, raws: list[bytes], per_s: float) -> list[float]:
        """Answer what is due, again and again; -> how late each list is, s. It does not wait for a batch to fill."""
        late_s, began = [], time.monotonic()
        while (first := len(late_s)) < len(raws):
            time.sleep(max(0.0, began + first / per_s - time.monotonic()))
            due = min(int((time.monotonic() - began) * per_s) + 1, first + MICRO_BATCH, len(raws))
            answer(self._functions, self._states, raws[first:due])
            now = time.monotonic() - began
            late_s += [now - at / per_s for at in range(first, due)]
        return late_s


def main(folder: str, seconds: str, per_s: str = "0", at_load_s: str = "0") -> None:
    raws = iter((Path(folder) / EVENTS).read_bytes().splitlines())
    loop, batches, began = Loop(Functions(Path(folder))), [], time.monotonic()
    for lists in loop.run(raws):
        batches.append((time.time() * 1_000, len(lists), time.process_time()))
        if time.monotonic() - began > float(seconds):
            break
    later = (Path(folder) / LATER).read_bytes().splitlines()[: int(float(per_s) * float(at_load_s))]
    print(json.dumps({"batches": batches, "late_s": loop.at_load(later, float(per_s)) if later else []}))


if __name__ == "__main__":
    main(*sys.argv[1:])
