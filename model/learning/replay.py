"""What the learner remembers: the newest events of every user, in their order."""

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np

from model import interest
from model.consumed import of_events
from model.interest import ACTIONS, IS_NEGATIVE, Interests
from model.schema import CONSUMING, POSITIVE, Example, Request, event_key, item_key

IS_POSITIVE = np.array([action in POSITIVE for action in ACTIONS])
_IS_CONSUMING = np.array([action in CONSUMING for action in ACTIONS])
_SEARCHED = 4_096
"""So many of a user's newest events are looked through for one that comes again."""
_TOLD = -2
"""In `steps`: the interests of an example told of the event; no example of it has come yet."""
_COLUMNS = {"keys": "Q", "times": "q", "actions": "B", "events": "I", "steps": "q"}


@dataclass
class User:
    """A user's events, oldest first, in columns; `steps` says when an event was counted, below 0 if it was not."""

    keys: array = field(default_factory=lambda: array("Q"))
    times: array = field(default_factory=lambda: array("q"))
    actions: array = field(default_factory=lambda: array("B"))
    events: array = field(default_factory=lambda: array("I"))
    steps: array = field(default_factory=lambda: array("q"))
    facts: dict[int, bytes] = field(default_factory=dict)  # of contexts, by event
    dropped: int = 0
    max_consumed: int = 4_096

    def append(self, key: int, time_ms: int, action: int, event: int, step: int = -1) -> None:
        for column, value in zip(self._columns(), (key, time_ms, action, event, step)):
            column.append(value)

    def find(self, event: int, time_ms: int, last_n: int) -> int:
        """Where an event is, -1 if it is not here.

        One is told by its key among the last N, as in the job; before them by its time too: after a failure the job
        writes the same example again, however many came in between.
        """
        skipped = max(0, len(self.events) - _SEARCHED)
        found = np.flatnonzero(np.frombuffer(self.events, np.uint32)[skipped:] == event) + skipped
        for place in found[::-1].tolist():
            if place >= len(self.events) - last_n or self.times[place] == time_ms:
                return place
        return -1

    def drop_first(self) -> None:
        self.facts.pop(self.events[0], None)
        for column in self._columns():
            del column[0]
        self.dropped += 1

    def consumed(self, before: int) -> bytes:
        """The items consumed by the first events, as the job keeps them: see model.consumed."""
        actions = np.frombuffer(self.actions[:before], np.uint8)
        taken = _IS_CONSUMING[actions]
        keys, times = np.frombuffer(self.keys[:before], np.uint64), np.frombuffer(self.times[:before], np.int64)
        return of_events(keys[taken], actions[taken], times[taken], self.max_consumed)

    def _columns(self) -> tuple[array, ...]:
        return self.keys, self.times, self.actions, self.events, self.steps


class BufferEntry(NamedTuple):
    """An example, its user, and its place among all events that the user ever had."""

    example: Example
    user: User
    at: int

    @property
    def place(self) -> int:
        """Where it stands among the user's events that are still here; below 0 when it is gone."""
        return self.at - self.user.dropped

    def counted_at(self, step: int) -> None:
        """Note as which example it was counted."""
        if self.place >= 0:
            self.user.steps[self.place] = step

    def light(self) -> "BufferEntry":
        """The same without the interests of that time, most of what it weighs."""
        return self._replace(example=msgspec.structs.replace(self.example, interests=b""))

    def request(self, live: bool = False) -> Request:
        """What the job would have asked just before this example, or with `live` when the event before it came."""
        example, before, facts = self.example, max(0, self.place), self.example.facts
        time_ms = self.user.times[before - 1] if live and before else example.event_time_ms
        if live and before:
            facts = self.user.facts.get(self.user.events[before - 1], b"")
        about, consumed = (example.user_id, example.event_id, time_ms), self.user.consumed(before)
        return Request(*about, [], "", example.interests, consumed, live, facts=facts)


@dataclass
class Flat:
    """All users' events side by side; only events on items of the catalogue, and none that pushes an item away.

    Shape: rows of the catalogue, times, actions, positive, steps (the number of the example, below 0 for none), owner
    (e,); starts (users,); places: for each user and event its place here, -1 for one that is not.
    """

    rows: np.ndarray
    times: np.ndarray
    actions: np.ndarray
    positive: np.ndarray
    steps: np.ndarray
    owner: np.ndarray
    starts: np.ndarray
    places: dict[str, np.ndarray]

    def spots(self, examples: Sequence[BufferEntry]) -> np.ndarray:
        """Where examples stand, -1 where their item is not there or they are gone; (n,)."""
        places = [self.places[one.example.user_id][one.place] if one.place >= 0 else -1 for one in examples]
        return np.array(places, np.int64)


class ReplayBuffer:
    """The newest `capacity` events of all users, and the examples that nothing has been learnt from yet."""

    def __init__(self, capacity: int, max_consumed: int = 4_096, last_n: int = 20) -> None:
        self.capacity, self.max_consumed, self.last_n = capacity, max_consumed, last_n
        self.users: dict[str, User] = {}
        self.order: deque[str] = deque()
        self._new: list[BufferEntry] = []

    def add(self, example: Example) -> None:
        """Append what the user did since the last example, as far as the example's interests hold it, and the example.

        One that came before is passed over. One that comes late, after the interests of a later one have told of its
        event, stands where that event is.
        """
        user = self.users.setdefault(example.user_id, User(max_consumed=self.max_consumed))
        place = self._place(user, example)
        if place < 0:
            self._catch_up(example.user_id, user, interest.decode(example.interests))
            place = len(user.keys)
            self._append(example.user_id, user, _event(example), -1)
        elif user.steps[place] != _TOLD:
            return
        user.steps[place] = -1
        if example.facts:
            user.facts[user.events[place]] = example.facts
        self._new.append(BufferEntry(example, user, user.dropped + place))
        while len(self.order) > self.capacity:
            self._drop_first(self.order.popleft())

    def _place(self, user: User, example: Example) -> int:
        return user.find(event_key(example.event_id), example.event_time_ms, self.last_n)

    def _append(self, user_id: str, user: User, event: tuple[int, int, int, int], step: int) -> None:
        user.append(*event, step)
        self.order.append(user_id)

    def _drop_first(self, user_id: str) -> None:
        user = self.users[user_id]
        user.drop_first()
        if not len(user.keys):
            del self.users[user_id]

    def _catch_up(self, user_id: str, user: User, known: Interests) -> None:
        events = known.log["event_key"].tolist()
        last = user.events[-1] if len(user.events) else None
        since = len(events) - events[::-1].index(last) if last in events else 0
        if since == len(events):
            return
        newest = user.times[-1] if len(user.times) else -1
        columns = known.item_keys, known.times_ms, known.actions, known.log["event_key"]
        for event in zip(*(column[since:].tolist() for column in columns)):
            if event[1] >= newest and user.find(event[3], event[1], self.last_n) < 0:
                self._append(user_id, user, event, _TOLD)

    def forget(self, user_id: str) -> User | None:
        """Delete all that is held of a user, and return it."""
        self._new = [one for one in self._new if one.example.user_id != user_id]
        self.order = deque(owner for owner in self.order if owner != user_id)
        return self.users.pop(user_id, None)

    def take_new(self) -> list[BufferEntry]:
        """The examples since the last call; of more than there is room for, the events of the oldest are gone."""
        new, self._new = self._new, []
        return new

    def has(self, example: Example) -> bool:
        """Whether an example came before."""
        user = self.users.get(example.user_id, User())
        place = self._place(user, example)
        return place >= 0 and user.steps[place] != _TOLD

    def find(self, example: Example) -> BufferEntry:
        """An example that was added before; one that was not stands after all events of its user."""
        user = self.users.get(example.user_id, User())
        place = self._place(user, example)
        return BufferEntry(example, user, user.dropped + (place if place >= 0 else len(user.keys)))

    def flatten(self, rows_of: Callable[[np.ndarray], np.ndarray]) -> Flat:
        """Lay users' events side by side.

        Args:
            rows_of: item keys -> rows of the catalogue, -1 for none.
        """
        names, users = list(self.users), list(self.users.values())
        keys, times, actions, steps = (_joined(users, name) for name in ("keys", "times", "actions", "steps"))
        distinct, place = np.unique(keys, return_inverse=True)
        rows = rows_of(distinct)[place] if len(distinct) else np.zeros(0, np.int64)
        known = (rows >= 0) & ~IS_NEGATIVE[actions]
        lengths = np.array([len(user.keys) for user in users], np.int64)
        place = np.where(known, np.cumsum(known) - 1, -1)
        owner = np.repeat(np.arange(len(users)), lengths)[known]
        places = dict(zip(names, np.split(place, np.cumsum(lengths)[:-1]))) if users else {}
        actions = actions[known].astype(np.int64)
        starts = np.searchsorted(owner, np.arange(len(users)))
        return Flat(rows[known], times[known], actions, IS_POSITIVE[actions], steps[known], owner, starts, places)


def _event(example: Example) -> tuple[int, int, int, int]:
    """The columns of the event that an example is about: item, time, action, event."""
    action = ACTIONS.index(example.action)
    return item_key(example.item_id), example.event_time_ms, action, event_key(example.event_id)


def _joined(users: list[User], name: str) -> np.ndarray:
    kind = np.dtype(_COLUMNS[name])
    return np.concatenate([np.zeros(0, kind), *(np.frombuffer(getattr(user, name), kind) for user in users)])
