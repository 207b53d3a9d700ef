"""Prequential evaluation: every event is predicted, then learnt from, by the same functions as in the job.

The first part of the stream only warms up. After it, for each event that has a target, the list that the user would have
had at that moment is scored with the version of that moment; the item that came is a hit if it is in the top 10. Other
methods (model/baselines.py) are asked the same for the same events.

Source: Gama, Sebastião and Rodrigues, On evaluating stream learning algorithms, 2013, doi:10.1007/s10994-012-5320-9.
"""

import copy
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from msgspec import structs
from torch import nn

from model import consumed, interest
from model.baselines import BASELINES, HISTORY, POPULARITIES, World, best_rows
from model.batch import excluded_items
from model.catalogue import Catalogue
from model.finetune import Learner
from model.interest import Rules
from model.metrics import K
from model.schema import CONSUMING, POSITIVE, Event, Example, Request, event_key, item_key
from model.score import Scorer, score

LIVE = "headrace-live"
PARTS = NETWORK, FROZEN = "network", "headrace-frozen"
"""Headrace with no other signal than its network's, and without learning after the warm-up."""
LEAST = 3
"""Positive events of a user of whom the last is left out: one to learn from, one to stop by, one to predict."""
METHODS = (*BASELINES, *PARTS)
"""All that Headrace can be compared with."""


@dataclass(frozen=True)
class Protocol:
    """How a stream is evaluated."""

    warm_up: float = 0.2  # this share of the events is learnt from and not counted
    fine_tune_every: int = 500  # events
    count_every: int = 100  # events; between two fine-tunings only what is counted is refreshed
    micro_batch: int = 256
    max_consumed: int = 4_096
    exclude_consumed: bool = True
    seed: int = 0
    live: bool = False  # count the lists that the job makes too: right after an event, not when the next one comes
    rules: Rules = Rules()


@dataclass
class Result:
    """What one method did: the place of each target, every list, and the time that lists and learning took."""

    ranks: list[int] = field(default_factory=list)
    lists: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0
    learning_s: float = 0.0
    learnt: int = 0  # events

    def add(self, target: int, rows: np.ndarray) -> None:
        """Count a list: rows of the catalogue, best first, and the row that came (-1: not in the catalogue)."""
        rows = rows.tolist()
        self.ranks.append(rows.index(target) if target >= 0 and target in rows else -1)
        self.lists.append(rows + [-1] * (K - len(rows)))


@dataclass
class Targets:
    """Who was asked for, and how often the user had chosen, and the item been chosen, by then; one entry a list."""

    users: list[int] = field(default_factory=list)
    user_events: list[int] = field(default_factory=list)
    item_events: list[int] = field(default_factory=list)

    def add(self, user: int, user_events: int, item_events: int) -> None:
        self.users.append(user)
        self.user_events.append(user_events)
        self.item_events.append(item_events)


class Asked(NamedTuple):
    """An event, what was asked at the moment before it, and the time of the user's event before."""

    event: Event
    request: Request
    last_ms: int

    def live(self) -> "Asked":
        """As the job asks: right after the event before, when nobody knows how long the next one will take."""
        return self._replace(request=structs.replace(self.request, event_time_ms=self.last_ms, live=True))

    def example(self) -> Example:
        """What is learnt from it."""
        event = self.event
        return Example(event.user_id, event.event_id, event.event_time_ms, event.item_id or "", event.action, self.request.interests)


class Users:
    """What the keyed operator of the job holds: interests and consumed items of each user."""

    def __init__(self, catalogue: Catalogue, protocol: Protocol) -> None:
        self._catalogue, self._protocol = catalogue, protocol
        self._interests: dict[str, bytes] = {}
        self._consumed: dict[str, bytes] = {}
        self._last_ms: dict[str, int] = {}

    def ask(self, event: Event) -> Asked:
        """What is asked before this event; then the event is folded in."""
        asked = Asked(event, self.request(event, live=False), self._last_ms.get(event.user_id, event.event_time_ms))
        self._fold(event)
        return asked

    def request(self, event: Event, live: bool = True) -> Request:
        """What the job would ask now, at the time of this event."""
        user = event.user_id
        interests, eaten = self._interests.get(user, b""), self._consumed.get(user, b"")
        return Request(user, event.event_id, event.event_time_ms, [], "", interests, eaten, live)

    def forget(self, user_id: str) -> None:
        """Delete all that is held of a user."""
        for held in (self._interests, self._consumed, self._last_ms):
            held.pop(user_id, None)

    def _vector(self, event: Event) -> np.ndarray | None:
        """The vector of what the event is about, in the interest space; shape (64,)."""
        return self._catalogue.lookup(item_key(event.item_id)) if event.item_id else None

    def _fold(self, event: Event) -> None:
        catalogue, protocol = self._catalogue, self._protocol
        self._last_ms[event.user_id] = event.event_time_ms
        key = item_key(event.item_id) if event.item_id else 0
        opened = interest.decode(self._interests.get(event.user_id))
        interest.use_encoder(opened, catalogue.encoder)
        named, vector = event_key(event.event_id), self._vector(event)
        vector = None if vector is None else vector.astype("<f2").astype(np.float32)  # as it travels in the job
        if interest.fold(opened, event.action, key, named, event.event_time_ms, vector, protocol.rules):
            self._interests[event.user_id] = interest.encode(opened)
        if event.action in CONSUMING:
            self._consumed[event.user_id] = consumed.add(self._consumed.get(event.user_id), key, protocol.max_consumed)


class Comparison:
    """Baselines side by side: each is asked for every event that counts, then learns from it."""

    def __init__(self, names: Iterable[str], catalogue: Catalogue, protocol: Protocol) -> None:
        self._catalogue, self._protocol = catalogue, protocol
        world = World(catalogue.vectors, protocol.seed)
        self._methods = {name: BASELINES[name](world) for name in names}
        self._numbers: dict[str, int] = {}
        self._histories: dict[int, list[int]] = defaultdict(list)
        self._chosen: Counter[int] = Counter()
        self._had: Counter[int] = Counter()
        self.results = {name: Result() for name in self._methods}
        self.targets = Targets()

    def take(self, asked: Sequence[Asked], counts: bool, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Ask for each event, if they count; then learn from it."""
        for done, one in enumerate(asked):
            if counts:
                self.ask(one)
            self.learn(one)
            progress(done, len(asked))

    def ask(self, asked: Asked) -> None:
        """The list of every method before this event."""
        user, history, target = self._open(asked)
        self.targets.add(user, self._had[user], self._chosen[target] if target >= 0 else 0)
        if not self._methods:
            return
        began = time.perf_counter()
        excluded = excluded_items(self._catalogue, [asked.request], self._protocol.exclude_consumed, torch.device("cpu"))[0].numpy()
        shared = time.perf_counter() - began
        for name, method in self._methods.items():
            began = time.perf_counter()
            rows = best_rows(method.scores(user, history), excluded, K)
            self.results[name].seconds += shared + time.perf_counter() - began
            self.results[name].add(target, rows)

    def learn(self, asked: Asked) -> None:
        """Take in what was chosen; what is not in the catalogue teaches nothing."""
        user, history, target = self._open(asked)
        self._had[user] += 1
        if target < 0:
            return
        for name, method in self._methods.items():
            began = time.perf_counter()
            method.learn(user, history, target)
            self.results[name].learning_s += time.perf_counter() - began
            self.results[name].learnt += 1
        self._chosen[target] += 1
        self._histories[user] = [*self._histories[user][1 - HISTORY :], target]

    def _open(self, asked: Asked) -> tuple[int, np.ndarray, int]:
        """The user's number, history (t,), and the row that came."""
        user = self._numbers.setdefault(asked.event.user_id, len(self._numbers))
        target = self._catalogue.row(item_key(asked.event.item_id or ""))
        return user, np.array(self._histories[user], np.int64), target


class Headrace:
    """Headrace as it learns in the stream, and what is left of it without one of its parts."""

    def __init__(self, names: Iterable[str], learner: Learner, protocol: Protocol) -> None:
        self._learner, self._protocol = learner, protocol
        self.scorer, self._frozen = Scorer.untrained(learner.catalogue.vectors.shape[1]), None
        live = [LIVE] if protocol.live else []
        self.results = {name: Result() for name in ("headrace", *live, *(name for name in PARTS if name in names))}

    def ask(self, asked: Sequence[Asked]) -> None:
        """The lists before these events, with the version of now."""
        for name, result in self.results.items():
            group = [one.live() for one in asked] if name == LIVE else asked
            predict(result, self._scorer_of(name), self._learner.catalogue, group, self._protocol)

    def _scorer_of(self, name: str) -> Scorer:
        if name == FROZEN:
            self._frozen = self._frozen or self.scorer
            return self._frozen
        return alone(self.scorer, NETWORK) if name == NETWORK else self.scorer

    def learn(self, asked: Sequence[Asked], fine_tunes: bool, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Make the next version from these events, or only count them into the one of now."""
        began = time.perf_counter()
        self._learner.add([one.example() for one in asked])
        self.scorer = self._learner.fine_tune(progress) if fine_tunes else self._learner.count()
        seconds = time.perf_counter() - began
        for name, result in self.results.items():
            result.learnt += len(asked)
            result.learning_s += 0.0 if name == FROZEN and self._frozen else seconds


def alone(scorer: Scorer, signal: str) -> Scorer:
    """A copy whose blend is this one signal."""
    scorer = copy.deepcopy(scorer)
    for weights in scorer.blend.parameters():
        nn.init.zeros_(weights)
    scorer.blend.begin({signal: 1.0})
    scorer.changed()
    return scorer


def predict(result: Result, scorer: Scorer, catalogue: Catalogue, asked: Sequence[Asked], protocol: Protocol) -> None:
    """Count the lists of a scorer, made in micro-batches."""
    for start in range(0, len(asked), protocol.micro_batch):
        group = asked[start : start + protocol.micro_batch]
        began = time.perf_counter()
        lists = score(scorer, catalogue, [one.request for one in group], K, protocol.exclude_consumed, protocol.rules)
        result.seconds += time.perf_counter() - began
        for one, list_ in zip(group, lists):
            rows = catalogue.rows(item_key(item.item_id) for item in list_)
            result.add(catalogue.row(item_key(one.event.item_id or "")), rows)


@dataclass
class Outcome:
    """The results by method, on the same targets, and the scorer that was learnt last."""

    results: dict[str, Result]
    targets: Targets
    scorer: Scorer
    held: list[Event] = field(default_factory=list)  # with leave-one-out: the targets

    @property
    def predicted(self) -> int:
        return len(self.targets.users)


def new_learner(catalogue: Catalogue, protocol: Protocol) -> Learner:
    job = {"rules": protocol.rules, "exclude_consumed": protocol.exclude_consumed, "max_consumed": protocol.max_consumed}
    return Learner(catalogue, None, protocol.seed, **job)


def evaluate(
    events: Sequence[Event],
    catalogue: Catalogue,
    protocol: Protocol = Protocol(),
    progress: Callable[[int, int], None] = lambda done, of: None,
    learner: Learner | None = None,
    methods: Sequence[str] = POPULARITIES,
) -> Outcome:
    """Predict every event after the warm-up, then learn from it.

    Args:
        events: in time order; only positive ones are predicted and learnt from, all of them are history.
        catalogue: every item that can be recommended.
        progress: called with (events done, of).
        methods: of METHODS, beside Headrace.
    """
    users, headrace = Users(catalogue, protocol), Headrace(methods, learner or new_learner(catalogue, protocol), protocol)
    others = Comparison([name for name in methods if name in BASELINES], catalogue, protocol)
    warm = int(len(events) * protocol.warm_up)
    for start, end, fine_tunes in chunks(len(events), warm, protocol):
        asked = [one for one in map(users.ask, events[start:end]) if one.event.action in POSITIVE]

        def report(done: int, of: int) -> None:
            progress(start + (end - start) * done // max(1, of), len(events))

        if start >= warm:
            headrace.ask(asked)
        others.take(asked, start >= warm, lambda done, of: report(done, 2 * of))
        if end < len(events):
            headrace.learn(asked, fine_tunes, lambda done, of: report(of + done, 2 * of))
        progress(end, len(events))
    return Outcome(headrace.results | others.results, others.targets, headrace.scorer)


def chunks(events: int, warm: int, protocol: Protocol) -> list[tuple[int, int, bool]]:
    """The warm-up, then as many events as Headrace counts at once; start, end, and whether it fine-tunes after them."""
    fine_tuned = {*range(warm, events, protocol.fine_tune_every), events}
    bounds = sorted({0, *range(warm, events, protocol.count_every), *fine_tuned})
    return [(start, end, end in fine_tuned) for start, end in zip(bounds, bounds[1:])]


def leave_one_out(
    events: Sequence[Event],
    catalogue: Catalogue,
    protocol: Protocol = Protocol(),
    progress: Callable[[int, int], None] = lambda done, of: None,
    methods: Sequence[str] = POPULARITIES,
) -> Outcome:
    """Learn all but the last event of every user, in time order; then predict the last ones.

    What other users did after a user's last event has been learnt by then: the protocol of offline tables, not of a stream.

    Args: as for `evaluate`; there is no FROZEN, for nothing is learnt after the first target.
    """
    methods = [name for name in methods if name != FROZEN]
    users, headrace = Users(catalogue, protocol), Headrace(methods, new_learner(catalogue, protocol), protocol)
    others = Comparison([name for name in methods if name in BASELINES], catalogue, protocol)
    last, held = held_out(events, catalogue), []
    for start, end, fine_tunes in chunks(len(events), int(len(events) * protocol.warm_up), protocol):
        asked = [(at, users.ask(event)) for at, event in enumerate(events[start:end], start) if event.action in POSITIVE]
        held += [one for at, one in asked if at in last]
        taught = [one for at, one in asked if at not in last]
        others.take(taught, False)
        headrace.learn(taught, fine_tunes)
        progress(end, len(events))
    headrace.ask(held)
    for one in held:
        others.ask(one)
    return Outcome(headrace.results | others.results, others.targets, headrace.scorer, [one.event for one in held])


def held_out(events: Sequence[Event], catalogue: Catalogue) -> set[int]:
    """Where the last event of every user stands who has `LEAST` positive ones on items of the catalogue."""
    places: dict[str, list[int]] = defaultdict(list)
    for at, event in enumerate(events):
        if event.action in POSITIVE and catalogue.row(item_key(event.item_id or "")) >= 0:
            places[event.user_id].append(at)
    return {at[-1] for at in places.values() if len(at) >= LEAST}
