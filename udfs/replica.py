"""Keeps a worker's catalogue up with the `item-vectors` topic."""

import logging
import threading
from collections import deque
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

from model.catalogue import Catalogue, Replica, first_free

READ_TIMEOUT_MS = 500
RETRY_S = 5.0
"""Where reading fails, as while a broker is away, it is tried again after this time."""

logger = logging.getLogger(__name__)


class CatalogueFollower:
    """A replica on local disk, read up to the topic's end when made, then followed by a thread.

    What the thread reads is taken over by `refresh`, so the catalogue never changes under a micro-batch.
    """

    def __init__(self, bootstrap_servers: str, topic: str, folder: Path) -> None:
        self._replica = first_free(folder, Replica)
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap_servers.split(","), enable_auto_commit=False, isolation_level="read_committed"
        )
        self._arrived: deque = deque()
        self._stop = threading.Event()
        self._read_to_end(topic)
        self._thread = threading.Thread(target=self._follow, name="follow-item-vectors", daemon=True)
        self._thread.start()

    @property
    def catalogue(self) -> Catalogue:
        return self._replica.catalogue

    def refresh(self) -> None:
        """Take over what has arrived since the last call."""
        while self._arrived:
            self._replica.apply(self._arrived.popleft())

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()
        self._replica.close()

    def _read_to_end(self, topic: str) -> None:
        partitions = [TopicPartition(topic, number) for number in self._consumer.partitions_for_topic(topic) or {0}]
        ends = self._consumer.end_offsets(partitions)
        if any(self._replica.offsets.get(at.partition, 0) > end for at, end in ends.items()):
            self._replica.clear()  # the topic was made anew
        self._consumer.assign(partitions)
        for at in partitions:
            self._consumer.seek(at, self._replica.offsets.get(at.partition, 0))
        while any(self._consumer.position(at) < end for at, end in ends.items()):
            self._replica.apply(self._poll())

    def _poll(self) -> list[tuple[int, int, bytes]]:
        batches = self._consumer.poll(timeout_ms=READ_TIMEOUT_MS)
        return [(record.partition, record.offset, record.value) for batch in batches.values() for record in batch]

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                records = self._poll()
            except Exception as error:  # this thread is the only one that would notice
                logger.error(
                    "item-vectors cannot be read, tried again in %g s: %s: %s", RETRY_S, type(error).__name__, error
                )
                self._stop.wait(RETRY_S)
                continue
            if records:
                self._arrived.append(records)
