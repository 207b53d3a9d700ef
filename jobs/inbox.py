"""What the learner reads: examples, in the order in which the job wrote them, and requests to learn from them.

What cannot be read is passed over, counted, and reported on `rejected-events`.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from jobs.settings import Settings
from jobs.writer import Writer
from model.schema import Example, Rejected, decode_fine_tune_request, decoded
from udfs.examples import ExampleReader
from udfs.reader import Place, Reader

REQUESTS = 1_000
"""So many of the newest requests are read at the start."""
GATHER_BYTES = 1 << 20
"""Examples are no hurry."""
REPORTED, REPORT_S = 20, 60.0
"""So many records at most are reported on `rejected-events` in so many seconds; the others are counted in the log."""
SEND_S = 1.0
"""A report waits no longer for a broker than this: the log has the reason too."""
logger = logging.getLogger("headrace.finetune")


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
    examples that a snapshot of the item statistics has counted already. `first` are the offsets of the first examples
    that were read, by partition.

    Args:
        counted: the offsets of the snapshot, by partition.
    """

    def __init__(self, settings: Settings, counted: Mapping[int, int] = {}) -> None:
        self._examples, self._requests = settings.topic("training-examples"), settings.topic("fine-tune-requests")
        newest = {self._examples: settings.replay_capacity, self._requests: REQUESTS}
        self._reader = Reader(settings.bootstrap_servers, newest, GATHER_BYTES, restart=self._restart)
        self._reports, self._read_example = Reports(settings), ExampleReader(settings.max_future_s).read
        self._counted = counted
        self.first: dict[int, int] = {}
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

    def _request(self, record: ConsumerRecord) -> None:
        request = decoded(record.value, decode_fine_tune_request)
        if isinstance(request, str):
            self._report("fine-tune-requests", record, request)
        else:
            self.why = request.why

    def _example(self, record: ConsumerRecord) -> None:
        self.first.setdefault(record.partition, record.offset)
        example = self._read_example(record)
        if isinstance(example, Example):
            known = record.offset < self._counted.get(record.partition, 0)
            (self.remembered if known else self.examples).append(example)
        elif example is not None:
            self._report("training-examples", record, example)

    def _restart(self, source: str) -> None:
        """A topic was made anew: nothing of it is counted."""
        if source.split(maxsplit=1)[0] == self._examples:
            self._counted = {}

    def _report(self, source: str, record: ConsumerRecord, reason: str) -> None:
        self._reports.report(Rejected.of(source, record.partition, record.offset, reason, record.value))


def examples_between(settings: Settings, place: Place, ends: Mapping[int, int]) -> Iterator[list[Example]]:
    """The examples from a place on, a few at a time; none at or after these offsets, by partition."""
    topic = settings.topic("training-examples")
    reader = Reader(settings.bootstrap_servers, {topic: place}, GATHER_BYTES)
    read, goal = ExampleReader(settings.max_future_s).read, {TopicPartition(topic, at): end for at, end in ends.items()}
    while reader.behind(goal):
        records = [record for record in reader.read() if record.offset < ends.get(record.partition, 0)]
        yield [example for example in map(read, records) if isinstance(example, Example)]
    reader.close()
