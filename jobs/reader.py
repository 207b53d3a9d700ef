"""Reads topics from their past on, and goes on whatever happens to the broker.

connect ─► which partitions are there? ─► read ─► a record ─► ...
   ▲            │ new: from their beginning; a topic made anew: from its beginning; none yet: it is waited for
   └─ failed ◄──┴──────────► said in the log, and tried again from where it was
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from heapq import merge
from typing import TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, UnsupportedCodecError

CHECK_S = 10.0
"""So often the reader looks for new partitions, and whether the broker is there."""
RETRY_S = 2.0
SAY_S = 60.0
"""So often the log says that something still cannot be reached."""
TIMEOUT_MS = 5_000
METADATA_MAX_AGE_MS = 10_000
FETCH_WAIT_MS = 400
"""The broker waits so long at most for the bytes that are to be gathered before it answers."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Patience:
    """Calls until the call succeeds, and says so while it does not."""

    def __init__(self, what: str) -> None:
        self._what, self._said, self._reason = what, 0.0, ""

    def call(self, attempt: Callable[[], T], failed: Callable[[], None] = lambda: None) -> T:
        """The result of the first attempt that raises nothing; `failed` is called after one that does."""
        while True:
            try:
                result = attempt()
            except Exception as error:  # whatever a client of Kafka raises: there is nothing else to do than to go on
                failed()
                self._say(_reason(error))
                time.sleep(RETRY_S)
            else:
                if self._reason:
                    logger.info("%s: it answers again", self._what)
                self._reason = ""
                return result

    def _say(self, reason: str) -> None:
        if reason != self._reason or time.monotonic() - self._said > SAY_S:
            self._reason, self._said = reason, time.monotonic()
            logger.warning("%s: %s; tried again every %g s", self._what, reason, RETRY_S)


def _reason(error: Exception) -> str:
    said = str(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"
    return f"{said}; install lz4, zstandard or python-snappy" if isinstance(error, UnsupportedCodecError) else said


class Reader:
    """Reads all partitions of some topics, from their newest records on.

    Args:
        newest: topic -> with how many of its newest records to begin, None for all.
        gather_bytes: so much the broker gathers before it answers, where the records are many and no hurry.
        patient: wait for a broker that is away or a topic that is not there; else what the client raises is raised, and
            a topic that is not there is empty.
    """

    def __init__(
        self, bootstrap_servers: str, newest: Mapping[str, int | None], gather_bytes: int = 1, patient: bool = True
    ) -> None:
        self._servers, self._newest = bootstrap_servers, newest
        self._gather_bytes, self._patient = gather_bytes, patient
        self._patience = Patience(f"{', '.join(newest)} at {bootstrap_servers}")
        self._consumer: KafkaConsumer | None = None
        self._offsets: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}  # when it was last looked
        self._ids: dict[str, object] = {}
        self._missing: set[str] = set()
        self._checked = 0.0  # monotonic clock, s
        self._arrived: dict[TopicPartition, list[ConsumerRecord]] = defaultdict(list)

    def read(self, timeout_ms: int = 500) -> list[ConsumerRecord]:
        """What has come since the last call, or comes within this time."""
        self._call(lambda: self._read(timeout_ms))
        return self._take()

    def drain(self) -> list[ConsumerRecord]:
        """All that is there now and was not read before."""
        self._call(self._drain)
        return self._take()

    def close(self) -> None:
        """Let the connection go; the next call makes another one, and goes on."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _call(self, attempt: Callable[[], None]) -> None:
        if self._patient:
            self._patience.call(attempt, failed=self.close)
        else:
            attempt()

    def _take(self) -> list[ConsumerRecord]:
        arrived, self._arrived = self._arrived, defaultdict(list)
        return in_order(arrived)

    def _read(self, timeout_ms: int) -> None:
        if self._consumer is None or time.monotonic() - self._checked > CHECK_S:
            self._check()
        for at, records in self._consumer.poll(timeout_ms=timeout_ms).items():
            self._arrived[at] += records
            self._offsets[at] = records[-1].offset + 1

    def _drain(self) -> None:
        self._check()
        wanted = self._ends
        while any(self._is_behind(at, end) for at, end in wanted.items()):
            self._read(500)

    def _is_behind(self, at: TopicPartition, end: int) -> bool:
        """Whether there is more to read before this offset; its topic may be gone by now, or be another one."""
        return at in self._ends and self._consumer.position(at) < min(end, self._ends[at])

    def _check(self) -> None:
        """Take in partitions that are new, and topics that were made anew, and see where they end now."""
        if self._consumer is None:
            self._consumer = self._connect()
        consumer = self._consumer
        numbers = {topic: consumer.partitions_for_topic(topic) or () for topic in self._newest}
        self._say_missing({topic for topic, those in numbers.items() if not those})
        there = [TopicPartition(topic, number) for topic, those in numbers.items() for number in sorted(those)]
        ends = consumer.end_offsets(there, timeout_ms=TIMEOUT_MS) if there else {}
        new = self._begin(ends)
        if new or set(there) != consumer.assignment():
            consumer.assign(there)
            for at in there:
                consumer.seek(at, self._offsets[at])
        self._checked, self._ends = time.monotonic(), ends

    def _connect(self) -> KafkaConsumer:
        return KafkaConsumer(
            bootstrap_servers=self._servers.split(","),
            bootstrap_timeout_ms=TIMEOUT_MS,
            reconnect_backoff_max_ms=1_000,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            auto_offset_reset="earliest",  # where Kafka has deleted what was to be read next
            enable_auto_commit=False,
            isolation_level="read_committed",
            fetch_min_bytes=self._gather_bytes,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_poll_records=5_000,
        )

    def _say_missing(self, missing: set[str]) -> None:
        for topic in sorted(missing - self._missing):
            logger.warning("the broker at %s has no topic %s: it is read when it is there", self._servers, topic)
        self._missing = missing

    def _begin(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Find where to begin in what was not read before, and whether there is any."""
        anew = {topic for topic in {at.topic for at in ends} if self._is_anew(topic, ends)}
        for topic in anew:
            logger.warning("topic %s was made anew: it is read from its beginning", topic)
        self._offsets |= {at: 0 for at in self._offsets if at.topic in anew}
        new = [at for at in ends if at not in self._offsets]
        first = self._consumer.beginning_offsets(new, timeout_ms=TIMEOUT_MS) if new else {}
        for topic in {at.topic for at in new}:
            count, those = self._newest[topic], [at for at in new if at.topic == topic]
            if count is None or any(at.topic == topic for at in self._offsets):  # a partition was added
                self._offsets |= {at: first[at] for at in those}
            else:
                self._offsets |= newest_offsets(self._consumer, first, {at: ends[at] for at in those}, count)
        return bool(new or anew)

    def _is_anew(self, topic: str, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether it has another id than before, or ends before what was read of it."""
        id_ = self._consumer._cluster.topic_id(topic)  # the client shows it nowhere else
        before = self._ids.get(topic, id_)
        self._ids[topic] = id_
        return before != id_ or any(self._offsets.get(at, 0) > end for at, end in ends.items() if at.topic == topic)


def newest_offsets(
    consumer: KafkaConsumer, first: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int], count: int
) -> dict[TopicPartition, int]:
    """Where to begin in each partition, so that the newest `count` records of them all are read, and few others.

    Kafka knows which record of a partition was the first after a time, so the time is looked for after which there are
    so many.
    """

    def starts_at(time_ms: int) -> dict[TopicPartition, int]:
        found = consumer.offsets_for_times(dict.fromkeys(ends, time_ms), timeout_ms=TIMEOUT_MS)
        return {at: found[at].offset if found.get(at) else end for at, end in ends.items()}

    def records(starts: Mapping[TopicPartition, int]) -> int:
        return sum(end - starts[at] for at, end in ends.items())

    starts, low, high = dict(first), 0, int(time.time() * 1_000) + 1
    while high - low > 1 and records(starts) > count:
        middle = (low + high) // 2
        later = starts_at(middle)
        if records(later) < count:
            high = middle
        else:
            low, starts = middle, later
    return {at: max(first[at], starts[at], end - count) for at, end in ends.items()}


def in_order(arrived: Mapping[TopicPartition, list[ConsumerRecord]]) -> list[ConsumerRecord]:
    """Records of all partitions in the order in which they were written; those of a partition stay in theirs.

    The time is Kafka's, of the writing: the time of an event may lie years back, in whatever order they are replayed.
    """
    return [record for _, record in merge(*map(_timed, arrived.values()), key=lambda timed: timed[0])]


def _timed(records: list[ConsumerRecord]) -> list[tuple[int, ConsumerRecord]]:
    """Each with the time by which it was written; clocks that go back do not bring it before the one it follows."""
    latest, timed = 0, []
    for record in records:
        latest = max(latest, record.timestamp or 0)
        timed.append((latest, record))
    return timed
