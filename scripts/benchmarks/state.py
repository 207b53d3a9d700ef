"""What a user's state weighs, and what a checkpoint of many users costs.

Bytes are those that `update-interest` keeps for a user: what `model.user.update` returns. Flink adds the key, RocksDB
its own; a checkpoint's size has them. Users and events are MovieLens-100k's.
"""

import json
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import NamedTuple

import msgspec
from kafka import KafkaConsumer, KafkaProducer
from msgspec.structs import replace

from model.schema import Embedded, Event, decode_user_state, encode_packed
from scripts.processes import tail
from scripts.rivals.comparison import Comparison
from scripts.rivals.figures import CompareError
from scripts.rivals.workload import Workload, updates
from scripts.stack import Stack

AFTER = (1, 10, 100)
"""Events after which a user's state is weighed."""
PREFIX, STATES = "keyed-state-", "states.msgpack"
KNOWN = 9
"""Events that each user of the checkpoints has when the job begins."""
WHOLE, CHANGES = "FULL", "CONFIGURED"
"""Flink's words for kinds of checkpoints: the state backend is configured to write what has changed."""
ROUNDS, CHANGED = 3, 0.01
"""Checkpoints of a kind, and the share of the users who do something between two of them."""
PATIENCE_S = 150.0


class Users(NamedTuple):
    """Users of at least so many events: their states after each of them, and what the operator is given next."""

    states: list[list[bytes]]  # [user][events - 1]
    records: list[list[Embedded]]  # [user][event]


def users(events: Sequence[Event], work: Workload, most: int = max(AFTER)) -> Users:
    """Follow the first `most` events of every user who has so many."""
    by_user = defaultdict(list)
    for event in events:
        by_user[event.user_id].append(event)
    found = Users([], [])
    for own in by_user.values():
        if len(own) >= most:
            records, made = zip(*updates(own[:most], work.catalogue))
            found.records.append(list(records))
            found.states.append([after.state for after in made])
    return found


def bytes_per_user(states: Sequence[Sequence[bytes]], after: Sequence[int] = AFTER) -> dict[str, dict[str, float]]:
    """Median bytes of a state after so many events: of all of it, of its interests, of what was consumed.

    >>> bytes_per_user([[b""], [b""]], [1])
    {'1': {'state': 0, 'interests': 0, 'consumed': 0}}
    """
    weighed = {}
    for count in after:
        parts = [(len(each), *map(len, _parts(each))) for each in (own[count - 1] for own in states)]
        weighed[str(count)] = dict(zip(("state", "interests", "consumed"), map(_whole, map(median, zip(*parts)))))
    return weighed


def _parts(state: bytes) -> tuple[bytes, bytes]:
    known = decode_user_state(state)
    return known.interests, known.consumed


def _whole(number: float) -> int:
    return round(number)


# Checkpoints


class Checkpoints:
    """A job of the keyed operator alone, with as many users as are wanted, and its checkpoints."""

    def __init__(self, stack: Stack, comparison: Comparison, work: Workload, known: Users, count: int) -> None:
        self._stack, self._comparison, self._work = stack, comparison, work
        self._known, self._count, self._broker = known, count, stack.bootstrap_servers

    def measure(self, show: Callable[[int, int], None]) -> dict[str, float]:
        """Bring the users in, and take checkpoints: whole ones, and ones of what has changed, in turns.

        Returns:
            users, whole_s, whole_mb, incremental_s, incremental_mb, bytes_a_user: medians. Seconds are from the
            JobManager's trigger to the last acknowledgement, sizes what is written for this checkpoint.
        """
        states = [own[KNOWN - 1] for own in self._known.states]
        (self._work.folder / STATES).write_bytes(msgspec.msgpack.encode(states))
        self._comparison.make_topics(PREFIX)
        words = self._comparison.script("scripts/benchmarks/keyed_state.py", PREFIX, STATES, str(self._count))
        with ThreadPoolExecutor(1) as pool:  # the job starts meanwhile
            sending = pool.submit(self._send, range(self._count), KNOWN)
            with self._comparison.submitted(words) as job:
                show(0, 2 * ROUNDS)
                sending.result()
                self._wait(job)
                taken = list(self._take(job, show))
        return summary(self._count, taken)

    def _take(self, job: str, show: Callable[[int, int], None]) -> Iterator[tuple[str, float, int]]:
        """(kind, seconds, bytes) of one checkpoint after the other."""
        taken = []
        for number, kind in enumerate((WHOLE, CHANGES) * ROUNDS):
            self._send(range(number, self._count, round(1 / CHANGED)), KNOWN + 1 + number)
            taken.append((kind, self._checkpoint(job, kind)))
            show(number + 1, 2 * ROUNDS)
        for kind, number in taken:
            about = self._ask(f"/jobs/{job}/checkpoints/details/{number}", "COMPLETED", lambda told: told.get("status"))
            yield kind, about["end_to_end_duration"] / 1_000, about["checkpointed_size"]

    def _send(self, numbers: range, at: int) -> None:
        """Send the event `at` of these users, each that of a user of MovieLens."""
        producer = KafkaProducer(bootstrap_servers=self._broker, linger_ms=20, batch_size=2**18)
        for number in numbers:
            record = self._known.records[number % len(self._known.records)][at]
            user_id = f"u{number}"
            record = replace(record, event=replace(record.event, user_id=user_id))
            producer.send(f"{PREFIX}events", key=user_id.encode(), value=encode_packed(record))
        producer.flush()
        producer.close()

    def _wait(self, job: str) -> None:
        """Wait until every user's event is in the state: the operator asks for a fine-tuning after so many."""
        consumer = KafkaConsumer(
            f"{PREFIX}fine-tune-requests", bootstrap_servers=self._broker, auto_offset_reset="earliest"
        )
        deadline = time.monotonic() + PATIENCE_S
        while not consumer.poll(timeout_ms=200):
            if time.monotonic() > deadline:
                why = f"the job is {self._stack.job_state(job)}; {tail(self._stack.log('taskmanager-1'))}"
                raise CompareError(f"{self._count:,} users are not in the keyed state after {PATIENCE_S:g} s: {why}")
        consumer.close()

    def _checkpoint(self, job: str, kind: str) -> int:
        """The number of a checkpoint that is taken now."""
        body = json.dumps({"checkpointType": kind}).encode()
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{self._stack.rest}/jobs/{job}/checkpoints", body, headers, method="POST")
        with urllib.request.urlopen(asked, timeout=10) as answer:
            trigger = json.load(answer)["request-id"]
        path = f"/jobs/{job}/checkpoints/{trigger}"
        told = self._ask(path, "COMPLETED", lambda told: told.get("status", {}).get("id"))
        if "checkpointId" not in told["operation"]:
            raise CompareError(f"a checkpoint has failed: {json.dumps(told)[:400]}")
        return told["operation"]["checkpointId"]

    def _ask(self, path: str, wanted: str, found: Callable[[dict], str | None]) -> dict:
        """What Flink tells once it tells what is wanted; it tells of checkpoints a few seconds late."""
        deadline = time.monotonic() + PATIENCE_S
        while found(told := self._stack.ask(path)) != wanted:
            if time.monotonic() > deadline:
                raise CompareError(f"{path}: {told} after {PATIENCE_S:g} s: {wanted} is wanted")
            time.sleep(0.1)
        return told


def summary(count: int, taken: Sequence[tuple[str, float, int]]) -> dict[str, float]:
    """Medians by kind.

    >>> summary(1_000, [("FULL", 0.5, 2_000_000), ("CONFIGURED", 0.25, 500_000)])
    {'users': 1000, 'whole_s': 0.5, 'whole_mb': 2.0, 'incremental_s': 0.25, 'incremental_mb': 0.5, 'bytes_a_user': 2000}
    """
    found: dict[str, float] = {"users": count}
    for name, wanted in (("whole", WHOLE), ("incremental", CHANGES)):
        times, sizes = zip(*[(seconds, size) for kind, seconds, size in taken if kind == wanted])
        found |= {f"{name}_s": round(median(times), 3), f"{name}_mb": round(median(sizes) / 1e6, 2)}
    return found | {"bytes_a_user": round(found["whole_mb"] * 1e6 / count)}
