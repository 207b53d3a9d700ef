"""Prequential evaluation: every event is predicted, then learnt from, by the same functions as in the job.

The first part of the stream only warms up. After it, for each event that has a target, the list that the user would have
had at that moment is scored with the version of that moment; the item that came is a hit if it is in the top 10.

Source: Gama, Sebastião and Rodrigues, On evaluating stream learning algorithms, 2013, doi:10.1007/s10994-012-5320-9.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from msgspec import structs

from model import consumed, interest
from model.batch import excluded_items
from model.catalogue import Catalogue
from model.finetune import Learner
from model.interest import Rules
from model.schema import CONSUMING, POSITIVE, Event, Example, Request, event_key, item_key
from model.score import Scorer, score

K = 10
POPULARITIES = {"popularity": float("inf"), "decayed-popularity": 20_000.0}
POPULARITIES |= {"decayed-popularity-5k": 5_000.0, "decayed-popularity-2k": 2_000.0}
"""Baselines: popularity, and popularity whose counts halve in this many events."""


def hit_rate_at_k(ranks: np.ndarray, k: int = K) -> float:
    """The share of targets in the first k places.

    >>> hit_rate_at_k(np.array([0, 9, 10, -1]))
    0.5

    Args:
        ranks: place of each target in its list, 0 the first, -1 when it is not there.
    """
    return float(_found(ranks, k).mean()) if len(ranks) else 0.0


def ndcg_at_k(ranks: np.ndarray, k: int = K) -> float:
    """The mean of 1 / log2(place + 1), places from 1, 0 for a miss: there is one target.

    >>> ndcg_at_k(np.array([0, -1]))
    0.5
    """
    return float(np.where(_found(ranks, k), 1 / np.log2(np.maximum(ranks, 0) + 2), 0.0).mean()) if len(ranks) else 0.0


def mrr_at_k(ranks: np.ndarray, k: int = K) -> float:
    """The mean of 1 / place, places from 1, 0 for a miss.

    >>> mrr_at_k(np.array([1, -1]))
    0.25
    """
    return float(np.where(_found(ranks, k), 1 / (np.maximum(ranks, 0) + 1), 0.0).mean()) if len(ranks) else 0.0


def coverage(lists: np.ndarray, items: int) -> float:
    """The share of the catalogue that is in at least one list; lists hold rows of it, -1 for an empty place.

    >>> coverage(np.array([[0, 1], [1, -1]]), 4)
    0.5
    """
    return len(np.unique(lists[lists >= 0])) / items if items else 0.0


def _found(ranks: np.ndarray, k: int) -> np.ndarray:
    return (ranks >= 0) & (ranks < k)


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
    """What one method did: the place of each target, every list, and the time spent on the lists."""

    ranks: list[int] = field(default_factory=list)
    lists: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0

    def metrics(self, items: int) -> dict[str, float]:
        ranks = np.array(self.ranks, np.int64)
        return {
            "hr_at_10": round(hit_rate_at_k(ranks), 4),
            "ndcg_at_10": round(ndcg_at_k(ranks), 4),
            "mrr_at_10": round(mrr_at_k(ranks), 4),
            "coverage": round(coverage(np.array(self.lists, np.int64).reshape(-1, K), items), 4),
            "ms_per_list": round(1_000 * self.seconds / max(1, len(ranks)), 4),
        }

    def add(self, target: int, rows: np.ndarray) -> None:
        """Count a list: rows of the catalogue, best first, and the row that came (-1: not in the catalogue)."""
        rows = rows.tolist()
        self.ranks.append(rows.index(target) if target >= 0 and target in rows else -1)
        self.lists.append(rows + [-1] * (K - len(rows)))


class Asked(NamedTuple):
    """An event, what was asked at the moment before it, and the time of the user's event before."""

    event: Event
    request: Request
    last_ms: int

    def live(self) -> "Asked":
        """As the job asks: right after the event before, when nobody knows how long the next one will take."""
        return self._replace(request=structs.replace(self.request, event_time_ms=self.last_ms))

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
        user = event.user_id
        interests, eaten = self._interests.get(user, b""), self._consumed.get(user, b"")
        request = Request(user, event.event_id, event.event_time_ms, [], "", interests, eaten)
        asked = Asked(event, request, self._last_ms.get(user, event.event_time_ms))
        self._fold(event)
        return asked

    def _fold(self, event: Event) -> None:
        catalogue, protocol = self._catalogue, self._protocol
        self._last_ms[event.user_id] = event.event_time_ms
        key = item_key(event.item_id) if event.item_id else 0
        opened = interest.decode(self._interests.get(event.user_id))
        interest.use_encoder(opened, catalogue.encoder)
        named, vector = event_key(event.event_id), catalogue.lookup(key)
        if interest.fold(opened, event.action, key, named, event.event_time_ms, vector, protocol.rules):
            self._interests[event.user_id] = interest.encode(opened)
        if event.action in CONSUMING:
            self._consumed[event.user_id] = consumed.add(self._consumed.get(event.user_id), key, protocol.max_consumed)


class Popularity:
    """Baselines: the items chosen most often, with counts that halve in `half_lives` events."""

    def __init__(self, items: int, half_lives: Sequence[float]) -> None:
        self._half_lives, self._step = np.array(half_lives), 0
        self._counts = np.zeros((len(half_lives), items))

    def best(self, excluded: np.ndarray) -> list[np.ndarray]:
        """The rows of the K most popular items, for each half-life; excluded (n,) bool."""
        counts = np.where(excluded, -1.0, self._counts)
        k = min(K, counts.shape[1])
        best = np.argpartition(-counts, k - 1)[:, :k] if k else np.zeros((len(counts), 0), np.int64)
        values = np.take_along_axis(counts, best, 1)
        order = np.argsort(-values, kind="stable")
        return [rows[by][kept[by] >= 0] for rows, by, kept in zip(best, order, values)]

    def add(self, row: int) -> None:
        self._step += 1
        self._counts[:, row] += 2.0 ** (self._step / self._half_lives)
        if self._step > 500 * self._half_lives.min():
            self._counts *= 2.0 ** (-self._step / self._half_lives)[:, None]
            self._step = 0


@dataclass
class Outcome:
    """The results by method, and the scorer that was learnt last."""

    results: dict[str, Result]
    scorer: Scorer
    predicted: int


def evaluate(
    events: Sequence[Event],
    catalogue: Catalogue,
    protocol: Protocol = Protocol(),
    progress: Callable[[int, int], None] = lambda done, of: None,
    learner: Learner | None = None,
) -> Outcome:
    """Predict every event after the warm-up, then learn from it.

    Args:
        events: in time order; only positive ones are predicted and learnt from, all of them are history.
        catalogue: every item that can be recommended.
        progress: called with (events done, of).
    """
    learner = learner or Learner(catalogue, None, protocol.seed, rules=protocol.rules, exclude_consumed=protocol.exclude_consumed)
    users, scorer = Users(catalogue, protocol), Scorer.untrained(catalogue.vectors.shape[1])
    popular = Popularity(len(catalogue), list(POPULARITIES.values()))
    results = {name: Result() for name in ("headrace", *(["headrace-live"] if protocol.live else []), *POPULARITIES)}
    warm = int(len(events) * protocol.warm_up)
    fine_tuned = {*range(warm, len(events), protocol.fine_tune_every), len(events)}
    bounds = sorted({0, *range(warm, len(events), protocol.count_every), *fine_tuned})
    for start, end in zip(bounds, bounds[1:]):
        asked = [one for one in map(users.ask, events[start:end]) if one.event.action in POSITIVE]
        if start >= warm:
            _predict(results["headrace"], scorer, catalogue, asked, protocol)
            if protocol.live:
                _predict(results["headrace-live"], scorer, catalogue, [one.live() for one in asked], protocol)
        for one in asked:
            _predict_popular(results, popular, catalogue, one, protocol, start >= warm)
        learner.add([one.example() for one in asked])
        if end < len(events) and end not in fine_tuned:
            scorer = learner.count()
        elif end < len(events):
            scorer = learner.fine_tune(lambda done, of: progress(start + (end - start) * done // max(1, of), len(events)))
        progress(end, len(events))
    return Outcome(results, scorer, len(results["headrace"].ranks))


def _predict(result: Result, scorer: Scorer, catalogue: Catalogue, asked: Sequence[Asked], protocol: Protocol) -> None:
    for start in range(0, len(asked), protocol.micro_batch):
        group = asked[start : start + protocol.micro_batch]
        began = time.perf_counter()
        lists = score(scorer, catalogue, [one.request for one in group], K, protocol.exclude_consumed, protocol.rules)
        result.seconds += time.perf_counter() - began
        for one, list_ in zip(group, lists):
            rows = catalogue.rows(item_key(item.item_id) for item in list_)
            result.add(catalogue.row(item_key(one.event.item_id or "")), rows)


def _predict_popular(
    results: dict[str, Result], popular: Popularity, catalogue: Catalogue, asked: Asked, protocol: Protocol, counts: bool
) -> None:
    """Ask the baselines, if the event counts; then they learn from it."""
    target = catalogue.row(item_key(asked.event.item_id or ""))
    if counts:
        began = time.perf_counter()
        excluded = excluded_items(catalogue, [asked.request], protocol.exclude_consumed, torch.device("cpu"))[0].numpy()
        lists = popular.best(excluded)
        seconds = (time.perf_counter() - began) / len(lists)
        for name, rows in zip(POPULARITIES, lists):
            results[name].seconds += seconds
            results[name].add(target, rows)
    if target >= 0:
        popular.add(target)
