"""What the learner reads: examples, in the order in which the job wrote them, and requests to learn from them.

What cannot be read is passed over, counted, and reported on `rejected-events`.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kafka.consumer.fetcher import ConsumerRecord

from jobs.settings import Settings
from jobs.writer import Writer
from model import interest
from model.schema import (
    Example,
    FineTuneRequest,
    InvalidRecord,
    Rejected,
    decode_example,
    decode_fine_tune_request,
    decoded,
)
from udfs.reader import Reader

REQUESTS = 1_000
"""So many of the newest requests are read at the start."""
GATHER_BYTES = 1 << 20
"""Examples are no hurry."""
REPORTED, REPORT_S = 20, 60.0
"""So many records at most are reported on `rejected-events` in so many seconds; the others are counted in the log."""
SEND_S = 1.0
"""A report waits no longer for a broker than this: the log has the reason too."""
FORGOTTEN = 100_000
"""So many of the users who were forgotten last are known, so that what was written before it cannot come after it."""

logger = logging.getLogger("headrace.finetune")


def read_example(raw: bytes, latest_ms: float = math.inf) -> Example:
    """Decode one record of `training-examples` and see whether its interests can be learnt from.

    Args:
        latest_ms: nothing that the job lets in is later.

    Raises:
        InvalidRecord: nothing can be learnt from it.
        StateError: its interests are of another layout, cut short, or hold what no job has written.
    """
    example = decode_example(raw)
    newest_ms = max(example.event_time_ms, interest.latest_ms(interest.decode(example.interests)))
    if newest_ms > latest_ms:
        raise InvalidRecord(
            f"the example tells of {newest_ms} ms, which is in the future: {latest_ms:.0f} is the latest"
        )
    return example


class Forgotten(NamedTuple):
    """When a user was forgotten, and in which partition it is written."""

    partition: int
    timestamp: int
    event_time_ms: int

    def covers(self, record: ConsumerRecord, example: Example) -> bool:
        """Whether an example that is read after it is older: it lies in another partition, and one of its times says
        so. In its own partition what follows it is newer.
        """
        older = record.timestamp <= self.timestamp or example.event_time_ms <= self.event_time_ms
        return record.partition != self.partition and older


class Reports:
    """Writes to `rejected-events` what could not be read, a bounded number a minute, and counts the rest in the log."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topic("rejected-events")
        self._writer = Writer(settings.bootstrap_servers, self._topic, SEND_S)
        self._since, self._reported = -math.inf, 0
        self.refused = 0

    def report(self, rejected: Rejected) -> None:
        self.refused += 1
        if time.monotonic() - self._since > REPORT_S:
            self._since, self._reported = time.monotonic(), 0
            logger.warning(
                "%d records were passed over since the start; the newest is on %s, partition %d, offset %d: %s",
                self.refused, rejected.source, rejected.partition, rejected.offset, rejected.reason,
            )  # fmt: skip
        if self._reported < REPORTED:
            self._reported += 1
            self._send(rejected.as_json())

    def _send(self, value: bytes) -> None:
        try:
            self._writer.write(None, value)
        except Exception as error:  # whatever it is, learning goes on
            self._reported = REPORTED  # nothing more is tried for a while
            logger.warning("%s: nothing can be reported there: %s: %s", self._topic, type(error).__name__, error)


class Inbox:
    """Reads the newest examples of all partitions together, and the requests.

    `why` is the reason of the newest request that was not acted on; empty where there is none. `remembered` are the
    examples that a snapshot of the item statistics has counted already.

    Args:
        counted: the offsets of the snapshot, by partition.
    """

    def __init__(self, settings: Settings, counted: Mapping[int, int] = {}) -> None:
        self._examples, self._requests = settings.topic("training-examples"), settings.topic("fine-tune-requests")
        self._capacity, self._max_future_ms = settings.replay_capacity, settings.max_future_s * 1_000
        newest = {self._examples: self._capacity, self._requests: REQUESTS}
        self._reader, self._reports = Reader(settings.bootstrap_servers, newest, GATHER_BYTES), Reports(settings)
        self._forgotten: dict[str, Forgotten] = {}
        self._counted = counted
        self.examples: list[Example] = []
        self.remembered: list[Example] = []
        self.why = ""

    def source(self) -> str:
        """The topic of the examples, as its reader knows it."""
        return self._reader.source(self._examples)

    def offsets(self) -> dict[int, int]:
        """Up to where examples were read, by partition."""
        return self._reader.offsets(self._examples)

    @property
    def passed_over(self) -> int:
        """So many records could not be read."""
        return self._reports.refused

    def read(self, timeout_ms: int = 500) -> None:
        """Read on; `examples` grows by what has come."""
        self._take_all(self._reader.read(timeout_ms))

    def drain(self) -> None:
        """Read all that is there now."""
        self._take_all(self._reader.drain())

    def take(self) -> list[Example]:
        """The examples that have come since the last call."""
        examples, self.examples = self.examples, []
        return examples

    def _take_all(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            if record.topic == self._requests:
                self._request(record)
            else:
                self._example(record)
        more = len(self.examples) - self._capacity
        if more > 0:  # what is to be forgotten stays: the learner may hold older ones of the user
            self.examples = [one for one in self.examples[:more] if one.forget] + self.examples[more:]

    def _request(self, record: ConsumerRecord) -> None:
        request = self._decoded(record, decode_fine_tune_request)
        if isinstance(request, FineTuneRequest):
            self.why = request.why

    def _example(self, record: ConsumerRecord) -> None:
        latest_ms = time.time() * 1_000 + 2 * self._max_future_ms  # twice: the job's clock may be ahead of this one
        example = self._decoded(record, lambda raw: read_example(raw, latest_ms))
        if not isinstance(example, Example):
            return
        forgotten = self._forgotten.get(example.user_id)
        if forgotten is not None and not example.forget and forgotten.covers(record, example):
            return
        if example.forget:
            self._forget(record, example)
        known = record.offset < self._counted.get(record.partition, 0)
        (self.remembered if known else self.examples).append(example)

    def _forget(self, record: ConsumerRecord, example: Example) -> None:
        self._forgotten.pop(example.user_id, None)
        self._forgotten[example.user_id] = Forgotten(record.partition, record.timestamp, example.event_time_ms)
        if len(self._forgotten) > FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]

    def _decoded(self, record: ConsumerRecord, decode: Callable[[bytes], object]) -> object | None:
        """The record, or None where it cannot be read: that is reported."""
        read = decoded(record.value, decode)
        if isinstance(read, str):
            source = "training-examples" if record.topic == self._examples else "fine-tune-requests"
            self._reports.report(Rejected.of(source, record.partition, record.offset, read, record.value))
            return None
        return read
