"""Keeps a worker's catalogue up with the `item-vectors` topic."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

from model.catalogue import COMPLETE, Catalogue, open_replica
from model.schema import Rejected

READ_TIMEOUT_MS = 500
REQUEST_TIMEOUT_MS = 10_000
"""A broker that does not answer for so long is away."""
METADATA_AGE_MS = 30_000
"""A new partition, or a topic that was made anew, is noticed after this time."""
CHECK_S = 5.0
RETRY_S = 5.0
"""Where reading fails, as while a broker is away, it is tried again after this time."""
SAY_S = 60.0
"""So often the log says how far another encoder version has come."""
MOST_WAITING = 1_000
"""So many batches wait for `refresh`; the next ones wait in Kafka."""

logger = logging.getLogger(__name__)


class CatalogueFollower:
    """A replica on local disk, read up to the topic's end when made, then followed by a thread.

    What the thread reads is taken over by `refresh`, so the catalogue never changes under a micro-batch. It changes in
    place: `catalogue` is one object for as long as the follower lives. While no broker answers, also at the start, the
    thread says so and tries again. A replica of another cluster or topic, or of the topic before it was made anew, is
    made anew too.
    """

    def __init__(self, bootstrap_servers: str, topic: str, folder: Path) -> None:
        self._replica, self._said = open_replica(folder), 0.0
        self._arrived: deque[Callable[[], None]] = deque()
        self._stop, self._read_to_end = threading.Event(), threading.Event()
        self._reader = TopicReader(bootstrap_servers, topic, self._replica.source, self._replica.offsets)
        self._thread = threading.Thread(target=self._follow, name="follow-item-vectors", daemon=True)
        self._thread.start()
        while not self._read_to_end.wait(0.02):
            self.refresh()
        self.refresh()

    @property
    def catalogue(self) -> Catalogue:
        return self._replica.catalogue

    @property
    def rejected(self) -> deque[Rejected]:
        """The newest records that could not be read; whoever tells them takes them out."""
        return self._replica.rejected

    def refresh(self) -> None:
        """Take over what has arrived since the last call."""
        while self._arrived:
            self._arrived.popleft()()
            self._say()

    def _say(self) -> None:
        """Say once in a while how far the largest version is that does not serve."""
        catalogue = self.catalogue
        if catalogue.others and time.monotonic() - self._said > SAY_S:
            self._said, other = time.monotonic(), max(catalogue.others.values(), key=len)
            logger.info(
                "%d items have come with encoder %s; %d of %s serve until it has %.0f %% of them%s",
                len(other), other.space.encoder_version, len(catalogue), catalogue.encoder_version, 100 * COMPLETE,
                f"; {catalogue.pinned} is pinned" if catalogue.pinned else "",
            )  # fmt: skip

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._reader.close()
        self._replica.close()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._read()
            except Exception as error:  # this thread is the only one that would notice
                logger.error(
                    "item-vectors cannot be read, tried again in %g s: %s: %s", RETRY_S, type(error).__name__, error
                )
                self._stop.wait(RETRY_S)

    def _read(self) -> None:
        if len(self._arrived) >= MOST_WAITING:
            self._stop.wait(READ_TIMEOUT_MS / 1_000)
            return
        if self._reader.check():
            self._arrived.append(partial(self._replica.clear, self._reader.source))
        if self._reader.has_reached_end():
            self._arrived.append(self._replica.settle)
            self._read_to_end.set()
        if records := self._reader.poll():
            self._arrived.append(partial(self._replica.apply, records))


class TopicReader:
    """Reads a topic from where it was left, and notices what becomes of the topic.

    Args:
        source: the topic that the offsets belong to, as `source` had it then.
        offsets: the next offset by partition.
    """

    def __init__(self, bootstrap_servers: str, topic: str, source: str, offsets: dict[int, int]) -> None:
        self._servers, self._topic = bootstrap_servers, topic
        self.source, self._offsets = source, dict(offsets)
        self._consumer: KafkaConsumer | None = None
        self._partitions: list[TopicPartition] = []
        self._ends: dict[TopicPartition, int] | None = None  # still to be reached; None: not known yet
        self._reached, self._went_back = False, False
        self._check_at = 0.0  # monotonic clock, s

    def check(self) -> bool:
        """Every `CHECK_S`, take in partitions that are new, and see that the topic is still the same.

        Returns:
            Whether it is another one, which is read from its beginning.

        Raises:
            Exception: no broker answers.
        """
        if time.monotonic() < self._check_at:
            return False
        self._consumer = self._consumer or self._connect()
        numbers = self._consumer.partitions_for_topic(self._topic) or ()
        partitions = [TopicPartition(self._topic, number) for number in sorted(numbers)]
        ends = self._consumer.end_offsets(partitions) if partitions else {}
        another = self._is_another(ends)
        if another or partitions != self._partitions:
            self._assign(partitions)
        if self._ends is None:
            self._ends = ends
        self._check_at = time.monotonic() + CHECK_S
        return another

    def _connect(self) -> KafkaConsumer:
        return KafkaConsumer(
            bootstrap_servers=self._servers.split(","),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            bootstrap_timeout_ms=REQUEST_TIMEOUT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            metadata_max_age_ms=METADATA_AGE_MS,
            reconnect_backoff_max_ms=1_000,
        )

    def _is_another(self, ends: dict[TopicPartition, int]) -> bool:
        """Whether the offsets belong to another topic, or lie behind the end of this one."""
        source = self._name() if ends else self.source  # a topic that is gone may come again
        behind = self._went_back or any(self._offsets.get(at.partition, 0) > end for at, end in ends.items())
        if source == self.source and not behind:
            return False
        if self.source or self._offsets:
            why = "the topic was made anew" if behind else f"it was read from {self.source or 'a topic without a name'}"
            logger.warning("the replica of %s is made anew: %s", source, why)
        self.source, self._offsets, self._ends = source, {}, None
        self._reached, self._went_back = False, False
        return True

    def _name(self) -> str:
        """The topic, its cluster and its own id, as far as the broker tells them."""
        cluster = getattr(self._consumer, "_cluster", None)  # a consumer has no public way to them
        ids = (cluster.cluster_id, cluster.topic_id(self._topic)) if cluster else ()
        return " ".join([self._topic, *(str(one) for one in ids if one)])

    def _assign(self, partitions: list[TopicPartition]) -> None:
        self._consumer.assign(partitions)
        for at in partitions:
            self._consumer.seek(at, self._offsets.get(at.partition, 0))
        if self._partitions and len(partitions) > len(self._partitions):
            logger.info("%s has %d partitions now", self._topic, len(partitions))
        self._partitions = partitions

    def poll(self) -> list[tuple[int, int, bytes | None]]:
        """The next (partition, offset, value) records."""
        batches = self._consumer.poll(timeout_ms=READ_TIMEOUT_MS)
        records = [(record.partition, record.offset, record.value) for batch in batches.values() for record in batch]
        if any(offset < self._offsets.get(partition, 0) for partition, offset, _ in records):
            self._went_back, self._check_at = True, 0.0  # our place is gone, so Kafka's consumer began anew by itself
            return []
        self._offsets |= {partition: offset + 1 for partition, offset, _ in records}
        return records

    def has_reached_end(self) -> bool:
        """Whether it has just come to what was the topic's end when it was opened."""
        if self._reached or self._ends is None:
            return False
        self._reached = all(self._consumer.position(at) >= end for at, end in self._ends.items())
        return self._reached

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
