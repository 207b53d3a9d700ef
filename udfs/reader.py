"""Reads topics from a place on, and goes on whatever happens to the broker, to partitions and to the topics.

connect ─► which partitions are there? ─► read ─► a record ─► ...
   ▲            │ new: from their beginning; a topic made anew: from its beginning; none yet: it is waited for
   └─ failed ◄──┴──────────► said in the log, and tried again from where it was
"""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from heapq import merge
from typing import NamedTuple, TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, UnsupportedCodecError

CHECK_S = 2.0
"""So often the reader looks for new partitions and topics made anew, and whether the broker is there."""
RETRY_S = 2.0
SAY_S = 60.0
"""So often the log says that something still cannot be reached."""
TIMEOUT_MS = 5_000
REQUEST_TIMEOUT_MS = 10_000
"""A broker that does not answer for so long is away."""
METADATA_MAX_AGE_MS = 10_000
MAX_POLL_RECORDS = 5_000

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
                self.failed(error)
                time.sleep(RETRY_S)
            else:
                self.succeeded()
                return result

    def failed(self, error: Exception) -> str:
        """Say why an attempt failed, if that is new or was not said for a while, and return the reason."""
        reason = _reason(error)
        if reason != self._reason or time.monotonic() - self._said > SAY_S:
            self._reason, self._said = reason, time.monotonic()
            logger.warning("%s: %s; tried again every %g s", self._what, reason, RETRY_S)
        return reason

    def succeeded(self) -> None:
        """Say that it answers, if it did not."""
        if self._reason:
            logger.info("%s: it answers again", self._what)
        self._reason = ""


def _reason(error: Exception) -> str:
    said = str(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"
    return f"{said}; install lz4, zstandard or python-snappy" if isinstance(error, UnsupportedCodecError) else said


class Place(NamedTuple):
    """Where the reading of a topic is to go on.

    Args:
        source: the topic that the offsets belong to, as `Reader.source` had it then; empty where it was never read.
        offsets: the next offset by partition.
    """

    source: str
    offsets: Mapping[int, int]


class Reader:
    """Reads all partitions of some topics.

    Args:
        topics: topic -> where to begin: with so many of its newest records, with all (None), or at a place.
        gather_bytes, gather_ms: so much the broker gathers before it answers, or waits so long, where the records are
            many and no hurry.
        patient: wait for a broker that is away or a topic that is not there; else what the client raises is raised, and
            a topic that is not there is empty. After an error, `close` and go on: nothing is lost, nothing comes twice.
        restart: called with the new source where a topic is read from its beginning, because it was made anew or is not
            that of the place; before any of its records, and also for a place without a source.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topics: Mapping[str, int | Place | None],
        gather_bytes: int = 1,
        gather_ms: int = 400,
        patient: bool = True,
        restart: Callable[[str], None] = lambda source: None,
    ) -> None:
        self._servers, self._topics, self._restart = bootstrap_servers, topics, restart
        self._fetch = {"fetch_min_bytes": gather_bytes, "fetch_max_wait_ms": gather_ms}
        self._patience = Patience(f"{', '.join(topics)} at {bootstrap_servers}") if patient else None
        self._consumer: KafkaConsumer | None = None
        places = {topic: start for topic, start in topics.items() if isinstance(start, Place)}
        self._sources = {topic: place.source for topic, place in places.items()}
        self._offsets = {
            TopicPartition(topic, number): offset
            for topic, place in places.items()
            for number, offset in place.offsets.items()
        }
        self._went_back: set[str] = set()  # topics whose place was gone, so that the client began anew by itself
        self._checked = 0.0  # monotonic clock, s
        self._arrived: dict[TopicPartition, list[ConsumerRecord]] = defaultdict(list)
        self.ends: dict[TopicPartition, int] = {}  # when it was last looked
        self.missing: set[str] = set()

    def source(self, topic: str) -> str:
        """The topic, its cluster and its own id, as far as the broker told them; empty where it was never read."""
        return self._sources.get(topic, "")

    def offsets(self, topic: str) -> dict[int, int]:
        """The next offset by partition."""
        return {at.partition: offset for at, offset in self._offsets.items() if at.topic == topic}

    def read(self, timeout_ms: int = 500) -> list[ConsumerRecord]:
        """What has come since the last call, or comes within this time, in the order in which it was written."""
        self._call(lambda: self._read(timeout_ms))
        return self._take()

    def drain(self) -> list[ConsumerRecord]:
        """All that is there now and was not read before, in the order in which it was written."""
        self._call(self._drain)
        return self._take()

    def behind(self, ends: Mapping[TopicPartition, int]) -> int:
        """How many offsets there are to read before these; a topic may be gone by now, or be another one."""
        if self._consumer is None:
            return sum(ends.values())
        now = {at: min(end, self.ends[at]) for at, end in ends.items() if at in self.ends}
        return sum(max(0, end - (self._consumer.position(at, timeout_ms=TIMEOUT_MS) or 0)) for at, end in now.items())

    def close(self) -> None:
        """Let the connection go; the next call makes another one, and goes on."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(Exception):  # it is given up, in whatever state it is
                consumer.close()

    def _call(self, attempt: Callable[[], None]) -> None:
        if self._patience:
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
            if records[0].offset < self._offsets[at]:
                self._went_back.add(at.topic)
                self._checked = -math.inf
            else:
                self._arrived[at] += records
                self._offsets[at] = records[-1].offset + 1

    def _drain(self) -> None:
        self._check()
        wanted = self.ends
        while self.behind(wanted):
            self._read(500)

    def _check(self) -> None:
        """Take in partitions that are new, and topics that were made anew, and see where they end now."""
        if self._consumer is None:
            self._consumer = self._connect()
        consumer = self._consumer
        numbers = {topic: consumer.partitions_for_topic(topic) or () for topic in self._topics}
        self._say_missing({topic for topic, those in numbers.items() if not those})
        there = [TopicPartition(topic, number) for topic, those in numbers.items() for number in sorted(those)]
        ends = consumer.end_offsets(there, timeout_ms=TIMEOUT_MS) if there else {}
        anew = self._begin_anew(ends)
        new = self._begin(ends)
        if anew or new or set(there) != consumer.assignment():
            consumer.assign(there)
            for at in there:
                consumer.seek(at, self._offsets[at])
        self._checked, self.ends = time.monotonic(), ends

    def _connect(self) -> KafkaConsumer:
        return KafkaConsumer(
            bootstrap_servers=self._servers.split(","),
            bootstrap_timeout_ms=TIMEOUT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            reconnect_backoff_max_ms=1_000,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            auto_offset_reset="earliest",  # where Kafka has deleted what was to be read next
            enable_auto_commit=False,
            isolation_level="read_committed",
            max_poll_records=MAX_POLL_RECORDS,
            **self._fetch,
        )

    def _say_missing(self, missing: set[str]) -> None:
        for topic in sorted(missing - self.missing):
            logger.warning("the broker at %s has no topic %s: it is read when it is there", self._servers, topic)
        self.missing = missing

    def _begin_anew(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Go to the beginning of topics that are not what was read before, and whether there are any."""
        anew = [topic for topic in {at.topic for at in ends} if self._is_anew(topic, ends)]
        for topic in anew:
            self._offsets |= {at: 0 for at in self._offsets if at.topic == topic}
            self._went_back.discard(topic)
            self._restart(self._sources[topic])
        return bool(anew)

    def _is_anew(self, topic: str, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether it is another one than before, or ends before what was read of it."""
        cluster = self._consumer._cluster  # the client shows it nowhere else
        source = " ".join([topic, *(str(one) for one in (cluster.cluster_id, cluster.topic_id(topic)) if one)])
        before = self._sources.get(topic, source)
        behind = any(self._offsets.get(at, 0) > end for at, end in ends.items() if at.topic == topic)
        self._sources[topic] = source
        if source == before and not behind and topic not in self._went_back:
            return False
        if before or self.offsets(topic):
            logger.warning(
                "topic %s was made anew, or is another one: it is read from its beginning; before, it was read from %s",
                topic, before or "a topic without a name",
            )  # fmt: skip
        return True

    def _begin(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Find where to begin in partitions that were not read before, and whether there are any."""
        new = [at for at in ends if at not in self._offsets]
        first = self._consumer.beginning_offsets(new, timeout_ms=TIMEOUT_MS) if new else {}
        known = {at.topic for at in self._offsets}
        for topic in {at.topic for at in new}:
            start, those = self._topics[topic], [at for at in new if at.topic == topic]
            if isinstance(start, int) and topic not in known:
                self._offsets |= newest_offsets(self._consumer, first, {at: ends[at] for at in those}, start)
            else:  # all is wanted, or a partition was added
                self._offsets |= {at: first[at] for at in those}
        return bool(new)


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
