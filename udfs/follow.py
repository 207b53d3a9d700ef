"""Follows a topic in a thread, for as long as the process lives.

read ─► restart, if it is another topic ─► take ─► reached, the first time at the end ─► read ...
  └────────── failed: said in the log, and tried again, with the same records ◄──────────┘
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from udfs import reader

READ_MS = 200


class TopicFollower:
    """Hands the records of a topic to a callback, in the follower's own thread, from its making until `close`.

    Args:
        source, offsets: where reading goes on, see `reader.Place`.
        take: gets the next records, in the order in which they were written. Nothing is read while it works, so it may
            wait where there is no room; what it raises is logged, and it gets the same records again.
        restart: gets the source where the topic is read from its beginning, because it was made anew or is not that of
            `source`; also once where `source` is empty. What was taken before is to be forgotten.
        newest: with so many of the newest records it begins where `source` is empty; with all if not given.
        reached: called when all is taken that was there at the start, also after each restart; a topic that is not
            there is empty.

    Attributes:
        offsets: the next offset by partition, after what `take` has taken. Whoever keeps what was taken together with
            its offsets notes those of the records in `take`, where both change together.
        reached_end: set when `reached` was called once.
        failed: why the last try failed; empty where it did not.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        source: str,
        offsets: Mapping[int, int],
        take: Callable[[list[ConsumerRecord]], None],
        restart: Callable[[str], None],
        *,
        reached: Callable[[], None] = lambda: None,
        gather_bytes: int = 1,
        newest: int | None = None,
    ) -> None:
        self._topic, self._take, self._restart, self._reached = topic, take, restart, reached
        self._restarts: deque[str] = deque()
        self._batch: list[ConsumerRecord] = []
        self._goal: dict[TopicPartition, int] | None = None  # the ends at the start
        self._is_at_end = False
        start = newest if newest is not None and not source else reader.Place(source, dict(offsets))
        self._reader = reader.Reader(
            bootstrap_servers, {topic: start}, gather_bytes, patient=False, restart=self._restarts.append,
        )  # fmt: skip
        self._patience = reader.Patience(f"{topic} at {bootstrap_servers}")
        self._stop = threading.Event()
        self.offsets, self.reached_end, self.failed = dict(offsets), threading.Event(), ""
        self._thread = threading.Thread(target=self._run, name=f"follow-{topic}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop when `take` has come to its end."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._turn()
            except Exception as error:  # this thread is the only one that would notice
                self._reader.close()
                self.failed = self._patience.failed(error)
                self._stop.wait(reader.RETRY_S)
            else:
                self._patience.succeeded()
                self.failed = ""
        self._reader.close()

    def _turn(self) -> None:
        self._batch = self._batch or self._reader.read(READ_MS)
        while self._restarts:
            self._restart(self._restarts[0])
            self._restarts.popleft()
            self._goal, self._is_at_end = None, False
        if self._batch:
            self._take(self._batch)
            self._batch = []
        self.offsets = self._reader.offsets(self._topic)
        self._look_for_end()

    def _look_for_end(self) -> None:
        if self._goal is None:
            self._goal = self._reader.ends
        if not self._is_at_end and not self._reader.behind(self._goal):
            self._reached()
            self._is_at_end = True
            self.reached_end.set()
