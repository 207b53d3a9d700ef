"""Keeps a worker's catalogue up with the `item-vectors` topic."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kafka.consumer.fetcher import ConsumerRecord

from model.catalogue import COMPLETE, Catalogue, open_replica
from model.schema import Rejected
from udfs.follow import TopicFollower

SAY_S = 60.0
"""So often the log says how far another encoder version has come."""
MOST_WAITING = 100
"""So many batches of at most `udfs.reader.MAX_POLL_RECORDS` wait for `refresh`; the next ones wait in Kafka."""
WAIT_S = 0.05

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
        self._closed = threading.Event()
        self._follower = TopicFollower(
            bootstrap_servers,
            topic,
            self._replica.source,
            self._replica.offsets,
            take=self._take,
            restart=lambda source: self._arrived.append(partial(self._replica.clear, source)),
            reached=lambda: self._arrived.append(self._replica.settle),
        )
        while not self._follower.reached_end.wait(0.02):
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

    def close(self) -> None:
        self._closed.set()
        self._follower.close()
        self._replica.close()

    def _take(self, records: list[ConsumerRecord]) -> None:
        """Leave records to `refresh`, when there is room."""
        while len(self._arrived) >= MOST_WAITING and not self._closed.wait(WAIT_S):
            pass
        self._arrived.append(
            partial(self._replica.apply, [(record.partition, record.offset, record.value) for record in records])
        )

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
