"""What comes back from the system, and how good it is: the measuring side of a replay."""

import threading
import time
from collections.abc import Container, Iterable

import msgspec
import numpy as np
from kafka import KafkaConsumer, TopicPartition

from jobs.settings import Settings
from model.evaluation.baselines import best_rows
from model.rules import EXCLUDE_S
from model.schema import POSITIVE, Event, ModelVersion, decode_item_vector, decode_model_version

TOP = 10


class Place(msgspec.Struct):
    """An item of a list, without its reasons."""

    item_id: str
    probability: float


class Top(msgspec.Struct):
    """What a replay needs of a list; the rest is skipped unread, for the client must not slow down what it measures."""

    event_id: str
    user_id: str
    model_version: str
    items: list[Place]
    examples_seen: int = 0


_decode_top = msgspec.json.Decoder(Top).decode


class Watch:
    """Reads what the job writes, from now on, in a thread of its own.

    `lists` is {event_id: arrival time, s}; a list that comes twice counts once. `tops` keeps the first ten of each,
    `seen` how many examples its item statistics had counted.

    Args:
        sent: the event_ids whose lists count, as they are sent; those of others are passed over.
    """

    def __init__(self, settings: Settings, sent: Container[str]) -> None:
        self._sent = sent
        servers = settings.bootstrap_servers.split(",")
        self._topics = {
            settings.topic(name): name
            for name in ("recommendations", "rejected-events", "model-versions", "item-vectors")
        }
        self._consumer = KafkaConsumer(
            bootstrap_servers=servers, enable_auto_commit=False, isolation_level="read_committed"
        )
        partitions = [
            TopicPartition(topic, n)
            for topic in self._topics
            for n in self._consumer.partitions_for_topic(topic) or {0}
        ]
        self._consumer.assign(partitions)
        self._consumer.seek_to_end()
        self._consumer.seek_to_beginning(*[at for at in partitions if self._topics[at.topic] == "item-vectors"])
        for at in partitions:
            self._consumer.position(at)  # fixes where reading begins before anything is sent
        self.lists: dict[str, float] = {}
        self.tops: dict[str, list[str]] = {}
        self.seen: dict[str, int] = {}
        self.embedded: set[str] = set()
        self.versions: set[str] = set()
        self.rejected = self.learnt = 0
        self._learnt: dict[str, int] = {}
        self.newest: Top | None = None
        self.first_s: float | None = None
        self._last_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="watch", daemon=True)
        self._thread.start()

    def busy_s(self, began: float) -> float:
        """Seconds from `began`, or from the first list with items if later, to the newest one; monotonic clock."""
        return self._last_s - max(began, self.first_s or began)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _read(self) -> None:
        takers = {
            "recommendations": self._take_list,
            "rejected-events": self._take_rejected,
            "model-versions": self._take_version,
            "item-vectors": self._take_vector,
        }
        while not self._stop.is_set():
            for at, records in self._consumer.poll(timeout_ms=100).items():
                take, now = takers[self._topics[at.topic]], time.time()
                for record in records:
                    take(record.value, now)

    def _take_list(self, value: bytes, now: float) -> None:
        made = _decode_top(value)
        if made.event_id in self.lists or made.event_id not in self._sent:
            return
        self.lists[made.event_id] = now
        self.seen[made.event_id] = made.examples_seen
        self.tops[made.event_id] = [item.item_id for item in made.items[:TOP]]
        self.newest, self._last_s = made, time.monotonic()
        if made.items:
            self.first_s = self.first_s or self._last_s
        if made.model_version not in ("", "untrained"):
            self.versions.add(made.model_version)

    def _take_rejected(self, value: bytes, now: float) -> None:
        self.rejected += msgspec.json.decode(value)["source"].endswith("events")

    def _take_version(self, value: bytes, now: float) -> None:
        version: ModelVersion = decode_model_version(value)
        if version.status != "counted":
            self._learnt[version.version] = int(version.metrics.get("examples", 0))
        self.learnt = sum(self._learnt.values())

    def _take_vector(self, value: bytes, now: float) -> None:
        self.embedded.add(decode_item_vector(value).item_id)


class Quality:
    """Was what a user did next on the list that the user had?

    The list is the one that answers the user's event before: what the user would have been shown if the stream ran at
    its own pace, not at the replay's. The most popular items are asked the same, for the same events, without the items
    after which nothing is listed again.

    Args:
        excluding: actions after which an item is left out.
    """

    def __init__(self, item_ids: Iterable[str], excluding: Container[str] = EXCLUDE_S) -> None:
        self._excluding = excluding
        self._rows = {item_id: row for row, item_id in enumerate(item_ids)}
        self._chosen = np.zeros(len(self._rows))  # how often, by now
        self._had: dict[str, list[int]] = {}
        self._list_of: dict[str, str] = {}
        self.timed: list[str] = []
        self._asked: list[tuple[str, str, bool]] = []  # (event before, item that came, whether it was popular)

    def add(self, event: Event, timed: bool = False) -> None:
        """Count an event that was sent; after a `forget` the user is new."""
        if timed:
            self.timed.append(event.event_id)
        if event.action == "forget":
            self._had.pop(event.user_id, None)
            self._list_of.pop(event.user_id, None)
            return
        row = self._rows.get(event.item_id, -1)
        if row >= 0:
            if event.action in self._excluding:
                self._had.setdefault(event.user_id, []).append(row)
            if event.action in POSITIVE:
                self._chosen[row] += 1
        self._list_of[event.user_id] = event.event_id

    def ask(self, event: Event) -> None:
        """Note what came, before the event is added."""
        before = self._list_of.get(event.user_id)
        if before is not None and event.action in POSITIVE:
            excluded = np.zeros(len(self._rows), bool)
            excluded[self._had.get(event.user_id, [])] = True
            popular = self._rows.get(event.item_id, -1) in best_rows(self._chosen, excluded, TOP)
            self._asked.append((before, event.item_id, popular))

    def metrics(self, tops: dict[str, list[str]]) -> dict[str, float]:
        """Hit rates over the events whose user had a list.

        Args:
            tops: event_id -> the first ten items of its list.
        """
        hits = [(item_id in tops[before], popular) for before, item_id, popular in self._asked if before in tops]
        rates = np.array(hits, float).reshape(-1, 2).mean(0) if hits else (0.0, 0.0)
        return {
            "hr_at_10": round(float(rates[0]), 4),
            "hr_at_10_popularity": round(float(rates[1]), 4),
            "judged": len(hits),
        }
