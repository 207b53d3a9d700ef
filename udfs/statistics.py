"""Keeps the item statistics of a worker up with the log `training-examples`.

newest snapshot ─► read on from its offsets ─► counted in the follower's thread, a little at a time
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

from kafka.consumer.fetcher import ConsumerRecord

from model import snapshot
from model.bounds import StatisticsConfig
from model.schema import Example, Request
from model.statistics import ItemStatistics
from udfs.examples import ExampleReader
from udfs.follow import TopicFollower
from udfs.loading import limited

LOAD_S = 120.0
"""A snapshot that is not read after this time is not waited for: counting begins with the newest examples."""
CATCH_UP_S = 30.0
"""So long a worker that starts waits until it has read what was there; then it makes lists with what it has.

Flink waits as long: a checkpoint behind the first micro-batch is late, and after 10 minutes it is given up and the job
starts again (execution.checkpointing.timeout). The catalogue's replica and the table of its items, minutes for ten
million of them, take their time out of the same 10.
"""
COUNTED_AT_ONCE = 100
"""Examples counted between two lists: a millisecond or two."""
HELD_S = 60.0
"""So long an example waits at most for the list that answers its event."""
MOST_HELD, MOST_USERS = 100_000, 100_000
"""So many examples wait; so many answers and users are remembered, the newest."""

logger = logging.getLogger(__name__)

Key = tuple[str, str]
"""A user and an event."""


def open_snapshot(registry: str, config: StatisticsConfig) -> snapshot.Snapshot:
    """The newest snapshot that can be read; an empty one where there is none, or the registry does not answer."""
    try:
        opened, refused = limited(registry, "read", lambda: snapshot.newest(registry, config), LOAD_S)
    except Exception as error:  # the log has it all
        logger.error("snapshots of the item statistics cannot be read: %s", error)
        return snapshot.nothing(config)
    for why in refused:
        logger.error("a snapshot of the item statistics is passed over: %s", why)
    logger.warning("item statistics begin with %d examples", opened.statistics.seen)
    return opened


class StatisticsFollower:
    """Item statistics that follow the log in a thread. Whoever reads them holds the `lock`.

    Args:
        registry: where snapshots are.
        newest: so many of the newest examples are counted where there is no snapshot.
        max_future_s: how far the job lets events lie in the future.

    Attributes:
        passed_over: records that could not be read.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        registry: str,
        newest: int,
        config: StatisticsConfig,
        max_future_s: float,
    ) -> None:
        self._config, self.lock, self.passed_over = config, threading.Lock(), 0
        self._read, self._max_future_s = ExampleReader(max_future_s).read, max_future_s
        self._held: OrderedDict[Key, tuple[float, Example]] = OrderedDict()
        self._answered: OrderedDict[Key, None] = OrderedDict()
        self._users: OrderedDict[str, None] = OrderedDict()
        opened = open_snapshot(registry, config)
        self.statistics = opened.statistics
        self._follower = TopicFollower(
            bootstrap_servers, topic, opened.source, opened.offsets, self._take, self._restart, newest=newest
        )
        if not self._follower.reached_end.wait(CATCH_UP_S):
            logger.warning("%s is not read to its end after %g s: lists are made meanwhile", topic, CATCH_UP_S)

    def _restart(self, source: str) -> None:
        """The log is another one than that of the snapshot."""
        with self.lock:
            self._read = ExampleReader(self._max_future_s).read
            self._held.clear()
            if self.statistics.seen:
                self.statistics = ItemStatistics(self._config)

    def _take(self, records: list[ConsumerRecord]) -> None:
        for start in range(0, len(records), COUNTED_AT_ONCE):
            examples = [self._read(record) for record in records[start : start + COUNTED_AT_ONCE]]
            good = [example for example in examples if isinstance(example, Example)]
            self.passed_over += sum(isinstance(example, str) for example in examples)
            with self.lock:
                self.statistics.apply([example for example in good if not self._hold(example)])
            time.sleep(0)  # whoever waits for the lock comes first

    def answered(self, requests: Sequence[Request]) -> None:
        """Lists are made for these: what came of their events is counted. To be called with the `lock`."""
        ready = []
        for request in requests:
            key = request.user_id, request.event_id
            if key in self._held:
                ready.append(self._held.pop(key)[1])
            else:
                _remember(self._answered, key, MOST_HELD)
            _remember(self._users, request.user_id, MOST_USERS)
        late = time.monotonic() - HELD_S
        while self._held and (len(self._held) > MOST_HELD or next(iter(self._held.values()))[0] < late):
            ready.append(self._held.popitem(last=False)[1][1])
        self.statistics.apply(ready)

    def _hold(self, example: Example) -> bool:
        """Whether an example has to wait: its user's lists are made here, and the one that answers it is not yet."""
        key = example.user_id, example.event_id
        if example.forget:
            self._held = OrderedDict((at, one) for at, one in self._held.items() if at[0] != example.user_id)
            return False
        if example.user_id not in self._users or key in self._answered:
            self._answered.pop(key, None)
            return False
        self._held[key] = time.monotonic(), example
        return True

    def close(self) -> None:
        self._follower.close()


def _remember(kept: OrderedDict, key: object, most: int) -> None:
    """Keep the newest keys."""
    kept[key] = None
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)
