"""Reads the topics into a `Store`, in one background thread, for as long as the process lives."""

import logging
import threading
import time
from contextlib import closing

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, UnsupportedCodecError

from jobs.settings import Settings
from serving.store import Store

TOPICS = {"items": None, "model-versions": None, "recommendations": 20_000, "rejected-events": 1_000}
"""Topic -> how many of its newest records are read at the start, None for all."""
CHECK_S = 2.0
RETRY_S = 2.0
TIMEOUT_MS = 5_000
FETCH_BYTES, FETCH_WAIT_MS = 1 << 20, 100
"""The broker gathers so much, or waits so long, before it answers."""

logger = logging.getLogger(__name__)


def first_offset(end: int, newest: int | None, partitions: int) -> int:
    """Where to begin in a partition, so that about `newest` records of its topic are read.

    >>> first_offset(end=1_000, newest=400, partitions=4)
    900
    >>> first_offset(end=50, newest=400, partitions=4)
    0
    """
    return 0 if newest is None else max(0, end - newest // partitions)


class Follower:
    """Follows the topics; where the broker is away it says so, keeps trying, and goes on where it was."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._servers = store, settings.bootstrap_servers
        self._names = {settings.topic(name): name for name in TOPICS}
        self._offsets: dict[TopicPartition, int] = {}
        self._ids: dict[str, object] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow-topics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with closing(self._connect()) as consumer:
                    while not self._stop.is_set():
                        self._check(consumer)
                        self._read(consumer)
            except Exception as error:  # whatever it is, the lists have to come again after it
                self._lost(error)
                self._stop.wait(RETRY_S)

    def _connect(self) -> KafkaConsumer:
        return KafkaConsumer(
            bootstrap_servers=self._servers.split(","),
            bootstrap_timeout_ms=TIMEOUT_MS,
            reconnect_backoff_max_ms=1_000,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
            metadata_max_age_ms=30_000,
            fetch_min_bytes=FETCH_BYTES,
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )

    def _check(self, consumer: KafkaConsumer) -> None:
        """Take in partitions that are new, and say how far the reading is; a broker that is away is noticed here."""
        there = {topic: consumer.partitions_for_topic(topic) for topic in self._names}
        partitions = [TopicPartition(topic, number) for topic, numbers in there.items() for number in numbers]
        ends = consumer.end_offsets(partitions, timeout_ms=TIMEOUT_MS) if partitions else {}
        new = set(partitions) - consumer.assignment() | self._made_anew(consumer, ends)
        if new:
            consumer.assign(partitions)
        for at in new:
            consumer.seek(at, self._begin(at, ends[at], len(there[at.topic])))
        self._report(
            sum(end - consumer.position(at) for at, end in ends.items()), [topic for topic in there if not there[topic]]
        )

    def _made_anew(self, consumer: KafkaConsumer, ends: dict[TopicPartition, int]) -> set[TopicPartition]:
        """The partitions of topics that have another id than before, or end before what was read; that is forgotten."""
        ids = {at.topic: consumer._cluster.topic_id(at.topic) for at in ends}  # the client shows it nowhere else
        others = {topic for topic, id_ in ids.items() if self._ids.get(topic, id_) != id_}
        others |= {at.topic for at, end in ends.items() if self._offsets.get(at, 0) > end}
        self._ids |= ids
        self._offsets = {at: offset for at, offset in self._offsets.items() if at.topic not in others}
        return {at for at in ends if at.topic in others}

    def _begin(self, at: TopicPartition, end: int, partitions: int) -> int:
        """Where it was; or near the end, if it never was there or the topic was made anew."""
        if at not in self._offsets:
            self._offsets[at] = first_offset(end, TOPICS[self._names[at.topic]], partitions)
        return self._offsets[at]

    def _report(self, behind: int, missing: list[str]) -> None:
        message = f"reading from {self._servers}"
        if missing:
            message = f"the broker at {self._servers} has no topic {', '.join(missing)} yet"
        if self._store.say(True, message, behind):
            logger.info("%s", message)

    def _read(self, consumer: KafkaConsumer) -> None:
        until = time.monotonic() + CHECK_S
        while time.monotonic() < until and not self._stop.is_set():
            for at, records in consumer.poll(timeout_ms=200).items():
                for record in records:
                    self._store.apply(self._names[at.topic], record.key, record.value, record.timestamp)
                self._offsets[at] = records[-1].offset + 1

    def _lost(self, error: Exception) -> None:
        message = f"no broker at {self._servers}: trying again until it answers"
        if not isinstance(error, KafkaError) or isinstance(error, UnsupportedCodecError):
            message = f"reading from {self._servers} stopped: {type(error).__name__}: {error}; trying again"
        if self._store.say(False, message):
            logger.warning("%s (%s)", message, error)
