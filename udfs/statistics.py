"""Keeps the item statistics of a worker up with the log `training-examples`.

newest snapshot ─► read on from its offsets ─► counted in the follower's thread, a little at a time
"""

import logging
import threading
import time

from kafka.consumer.fetcher import ConsumerRecord

from model import snapshot
from model.bounds import StatisticsConfig
from model.schema import Example, decode_example, decoded
from model.statistics import ItemStatistics
from udfs.follow import TopicFollower
from udfs.loading import limited

LOAD_S = 120.0
"""A snapshot that is not read after this time is not waited for: counting begins with the newest examples."""
CATCH_UP_S = 30.0
"""So long a worker that starts waits until it has read what was there; then it makes lists with what it has."""
COUNTED_AT_ONCE = 100
"""Examples counted between two lists: a millisecond or two."""

logger = logging.getLogger(__name__)


class StatisticsFollower:
    """Item statistics that follow the log in a thread. Whoever reads them holds the `lock`.

    Args:
        registry: where snapshots are.
        newest: so many of the newest examples are counted where there is no snapshot.
    """

    def __init__(
        self, bootstrap_servers: str, topic: str, registry: str, newest: int, config: StatisticsConfig
    ) -> None:
        self._config, self.lock, self.passed_over = config, threading.Lock(), 0
        opened = self._open(registry)
        self.statistics = opened.statistics
        self._follower = TopicFollower(
            bootstrap_servers, topic, opened.source, opened.offsets, self._take, self._restart, newest=newest
        )
        if not self._follower.reached_end.wait(CATCH_UP_S):
            logger.warning("%s is not read to its end after %g s: lists are made meanwhile", topic, CATCH_UP_S)

    def _open(self, registry: str) -> snapshot.Snapshot:
        try:
            opened, refused = limited(registry, "read", lambda: snapshot.newest(registry, self._config), LOAD_S)
        except Exception as error:  # the log has it all
            logger.error("snapshots of the item statistics cannot be read: %s", error)
            return snapshot.nothing(self._config)
        for why in refused:
            logger.error("a snapshot of the item statistics is passed over: %s", why)
        logger.warning("item statistics begin with %d examples", opened.statistics.seen)
        return opened

    def _restart(self, source: str) -> None:
        """The log is another one than that of the snapshot."""
        with self.lock:
            if self.statistics.seen:
                self.statistics = ItemStatistics(self._config)

    def _take(self, records: list[ConsumerRecord]) -> None:
        for start in range(0, len(records), COUNTED_AT_ONCE):
            examples = [decoded(record.value, decode_example) for record in records[start : start + COUNTED_AT_ONCE]]
            good = [example for example in examples if isinstance(example, Example)]
            self.passed_over += len(examples) - len(good)
            with self.lock:
                self.statistics.apply(good)
            time.sleep(0)  # whoever waits for the lock comes first

    def close(self) -> None:
        self._follower.close()
