"""What a recommender would be without a network: simple methods that learn event by event, to be compared with.

Each says of every item how good it would be for a user now (`scores`), and takes in what the user then chose (`learn`).
A user is a number from 0; a history is the rows of the items that the user chose, newest last, at most `HISTORY` of
them.

Sources: Steck, Embarrassingly Shallow Autoencoders for Sparse Data (EASE), 2019, arXiv:1905.03375. Jannach and Ludewig,
When Recurrent Neural Networks meet the Neighborhood for Session-Based Recommendation, 2017,
doi:10.1145/3109859.3109872.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

import numpy as np

from model.evaluation.factors import Bpr, Isgd

HISTORY = 50
_BACK_OFF = 1e-6  # what popularity adds where a method says nothing of an item
_SHRINK = 5.0  # choices, so that an item with few of them says little
_FIRST_FIT = 250  # events
_TEXT_CELLS = 100_000_000  # similarities kept at once


@dataclass(frozen=True)
class World:
    """What is known before the first event; vectors (n, d) of the items' texts, unit length."""

    vectors: np.ndarray
    seed: int = 0

    @property
    def items(self) -> int:
        return len(self.vectors)


class Baseline(Protocol):
    """What every method does. Shape: history (t,) rows, newest last -> scores (n,), finite, higher is better."""

    def scores(self, user: int, history: np.ndarray) -> np.ndarray: ...

    def learn(self, user: int, history: np.ndarray, row: int) -> None: ...


def best_rows(scores: np.ndarray, excluded: np.ndarray, k: int) -> np.ndarray:
    """The rows of the k best items, best first, without excluded ones.

    >>> best_rows(np.array([1.0, 3.0, 2.0]), np.array([False, True, False]), 2).tolist()
    [2, 0]

    Shape: scores (n,), excluded (n,) bool -> (at most k,).
    """
    k = min(k, len(scores))
    if not k:
        return np.zeros(0, np.int64)
    scores = np.where(excluded, -np.inf, scores)
    best = np.argpartition(-scores, k - 1)[:k]
    best = best[np.argsort(-scores[best], kind="stable")]
    return best[scores[best] > -np.inf]


class Popularity:
    """How often an item was chosen; a choice counts half after `half_life` events."""

    def __init__(self, world: World, half_life: float = float("inf")) -> None:
        self.counts, self._half_life, self._step = np.zeros(world.items), half_life, 0

    def scores(self, user: int, history: np.ndarray) -> np.ndarray:
        return self.counts

    def learn(self, user: int, history: np.ndarray, row: int) -> None:
        self._step += 1
        self.counts[row] += 2.0 ** (self._step / self._half_life)
        if self._step > 500 * self._half_life:
            self.counts *= 2.0 ** (-self._step / self._half_life)
            self._step = 0

    def now(self) -> np.ndarray:
        """The counts as they are worth now; (n,)."""
        return self.counts * 2.0 ** (-self._step / self._half_life)


class Pairs:
    """Weights of pairs of items in sparse rows, both ways or only from the earlier; halved after `half_life` steps."""

    def __init__(self, items: int, half_life: float = float("inf"), both_ways: bool = True) -> None:
        self.sums, self._half_life, self._both_ways, self._step = np.zeros(items), half_life, both_ways, 0
        self._places: list[dict[int, int]] = [{} for _ in range(items)]
        self._ids = [array("i") for _ in range(items)]
        self._weights = [array("d") for _ in range(items)]

    def add(self, row: int, history: np.ndarray, weights: np.ndarray) -> None:
        """Count `row` beside each item of a history, with a weight each; then time goes on."""
        growth = 2.0 ** (self._step / self._half_life)
        for other, weight in zip(history.tolist(), (growth * weights).tolist()):
            self._put(other, row, weight)
            if self._both_ways and other != row:
                self._put(row, other, weight)
        self._step += 1
        if self._step > 500 * self._half_life:
            self._rescale(2.0 ** (-self._step / self._half_life))

    def _put(self, row: int, other: int, weight: float) -> None:
        places = self._places[row]
        at = places.setdefault(other, len(places))
        self.sums[row] += weight
        if at == len(self._ids[row]):
            self._ids[row].append(other)
            self._weights[row].append(weight)
        else:
            self._weights[row][at] += weight

    def _rescale(self, by: float) -> None:
        self.sums *= by
        self._weights = [array("d", np.asarray(weights) * by) for weights in self._weights]
        self._step = 0

    def row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The partners of an item and their weights now."""
        return np.asarray(self._ids[row]), np.asarray(self._weights[row]) * 2.0 ** (-self._step / self._half_life)

    def follow(self, history: np.ndarray, weights: np.ndarray, shrink: float) -> np.ndarray:
        """The partners of all items of a history: sum of weight * pair / (all pairs of that item + shrink); (n,)."""
        now = 2.0 ** (-self._step / self._half_life)
        shares = weights * now / (self.sums[history] * now + shrink)
        ids = np.concatenate([np.zeros(0, np.int32), *(self._ids[row] for row in history.tolist())])
        parts = [np.asarray(self._weights[row]) * share for row, share in zip(history.tolist(), shares.tolist())]
        return np.bincount(ids, np.concatenate([np.zeros(0), *parts]), len(self.sums))


class Transitions:
    """What comes within `lag` places of the last items; nearer ones count more: by `recency`, then `read`."""

    def __init__(
        self, world: World, lag: int, recency: float, read: float | None = None, both_ways: bool = True
    ) -> None:
        self._pairs, self._popular = Pairs(world.items, both_ways=both_ways), Popularity(world)
        self._weights = recency ** np.arange(lag)  # (lag,), the newest first
        self._read = self._weights if read is None else read ** np.arange(lag)

    def scores(self, user: int, history: np.ndarray) -> np.ndarray:
        near = history[::-1][: len(self._read)]
        return self._pairs.follow(near, self._read[: len(near)], _SHRINK) + backed_off(self._popular)

    def learn(self, user: int, history: np.ndarray, row: int) -> None:
        near = history[::-1][: len(self._weights)]
        self._pairs.add(row, near, self._weights[: len(near)])
        self._popular.learn(user, history, row)


def backed_off(popular: Popularity) -> np.ndarray:
    """A little of popularity, so that no item is without a score; (n,)."""
    return popular.counts * (_BACK_OFF / max(1.0, popular.counts.sum()))


class Ease:
    """A ridge regression of every item on the others, over pairs within 20 events, fitted anew every `every` events.

    At first sooner: whenever there are twice as many events as at the last fit.
    """

    def __init__(
        self, world: World, every: int = 5_000, most: int = 3_000, ridge: float = 200.0, half_life: float = 30_000.0
    ) -> None:
        self._pairs, self._popular = Pairs(world.items, half_life), Popularity(world, half_life)
        self._every, self._most, self._ridge, self._step, self._next = every, most, ridge, 0, _FIRST_FIT
        self._weights = 0.85 ** np.arange(20)
        self._rows, self._slot = np.zeros(0, np.int64), np.full(world.items, -1)
        self._fitted = np.zeros((0, 0), np.float32)

    def scores(self, user: int, history: np.ndarray) -> np.ndarray:
        scores, near = backed_off(self._popular), history[::-1][: len(self._weights)]
        slots, weights = self._slot[near], self._weights[: len(near)]
        scores[self._rows] += weights[slots >= 0].astype(np.float32) @ self._fitted[slots[slots >= 0]]
        return scores

    def learn(self, user: int, history: np.ndarray, row: int) -> None:
        near = history[::-1][: len(self._weights)]
        self._pairs.add(row, near, self._weights[: len(near)])
        self._popular.learn(user, history, row)
        self._step += 1
        if self._step >= self._next:
            self._fit()
            self._next = min(2 * self._step, self._step + self._every)

    def _fit(self) -> None:
        counts = self._popular.now()
        self._rows = np.argsort(-counts, kind="stable")[: min(self._most, int((counts > 0).sum()))]
        self._slot[:] = -1
        self._slot[self._rows] = np.arange(len(self._rows))
        inverse = np.linalg.inv(self._gram(counts).astype(np.float32))
        self._fitted = inverse / -np.diag(inverse)
        np.fill_diagonal(self._fitted, 0.0)

    def _gram(self, counts: np.ndarray) -> np.ndarray:
        """Pairs of the items that are fitted; on the diagonal all that an item's choices weigh, and the ridge."""
        gram = np.zeros((len(self._rows), len(self._rows)))
        for at, row in enumerate(self._rows.tolist()):
            ids, weights = self._pairs.row(row)
            slots = self._slot[ids]
            gram[at, slots[slots >= 0]] = weights[slots >= 0]
        np.fill_diagonal(gram, counts[self._rows] / (1 - 0.85) + self._ridge)
        return gram


class Sessions:
    """What the users who had the same items had near them (session kNN)."""

    def __init__(self, world: World, latest: int = 400, users: int = 100, near: int = 10) -> None:
        self._latest, self._users, self._near = latest, users, near
        self._popular = Popularity(world)
        self._events_of = [array("i") for _ in range(world.items)]  # newest last
        self._last: dict[int, int] = {}  # of a user
        columns = {"item": 0, "user": 0, "before": -1, "after": -1}  # the user's next events, -1 for none
        self._columns = {name: np.full(1_024, value, np.int32) for name, value in columns.items()}
        self._count = 0

    def learn(self, user: int, history: np.ndarray, row: int) -> None:
        at, last = self._count, self._last.get(user, -1)
        if at + 1 >= len(self._columns["item"]):
            self._columns = {name: np.concatenate((column, column)) for name, column in self._columns.items()}
        for name, value in {"item": row, "user": user, "before": last, "after": -1}.items():
            self._columns[name][at] = value
        if last >= 0:
            self._columns["after"][last] = at
        self._last[user], self._count = at, at + 1
        events = self._events_of[row]
        events.append(at)
        if len(events) > 2 * self._latest:
            del events[: -self._latest]
        self._popular.learn(user, history, row)

    def scores(self, user: int, history: np.ndarray) -> np.ndarray:
        matches, weights = self._matches(user, history[::-1][:20])
        scores = backed_off(self._popular)
        for column in ("before", "after"):
            at, vote = matches, weights
            for distance in range(self._near):
                at = self._columns[column][at]
                at, vote = at[at >= 0], vote[at >= 0]
                scores += np.bincount(self._columns["item"][at], vote * 0.9**distance, len(scores))
        return scores

    def _matches(self, user: int, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Events of the most similar users on the same items, and the square of how similar their users are."""
        found = [np.asarray(self._events_of[row][-self._latest :]) for row in near.tolist()]
        events = np.concatenate([np.zeros(0, np.int32), *found])
        weights = 0.9 ** np.arange(len(near)) / np.log(2 + self._popular.counts[near])
        weights = np.repeat(weights, [len(one) for one in found]) if found else np.zeros(0)
        users = self._columns["user"][events]
        events, weights, users = events[users != user], weights[users != user], users[users != user]
        similar = np.bincount(users, weights)
        if len(similar) > self._users:
            similar[np.argpartition(-similar, self._users)[self._users :]] = 0.0
        return events[similar[users] > 0], np.square(similar[users][similar[users] > 0])


class Text:
    """The largest cosine between an item's text and one of the last 50."""

    def __init__(self, world: World) -> None:
        vectors = world.vectors.astype(np.float32)
        most = max(HISTORY, _TEXT_CELLS // max(1, world.items))
        self._none = np.zeros(world.items, np.float32)
        self._similar = lru_cache(most)(lambda row: vectors @ vectors[row])

    def scores(self, user: int, history: np.ndarray) -> np.ndarray:
        return np.maximum.reduce([self._similar(row) for row in history.tolist()]) if len(history) else self._none

    def learn(self, user: int, history: np.ndarray, row: int) -> None:
        pass


BASELINES: dict[str, Callable[[World], Baseline]] = {
    "popularity": Popularity,
    "decayed-popularity": partial(Popularity, half_life=20_000.0),
    "decayed-popularity-5k": partial(Popularity, half_life=5_000.0),
    "decayed-popularity-2k": partial(Popularity, half_life=2_000.0),
    "decayed-popularity-200": partial(Popularity, half_life=200.0),
    "transitions-1": partial(Transitions, lag=1, recency=1.0, both_ways=False),
    "transitions-10": partial(Transitions, lag=10, recency=0.85),
    "item-knn": partial(Transitions, lag=HISTORY, recency=1.0, read=0.9),
    "ease": Ease,
    "session-knn": Sessions,
    "isgd": lambda world: Isgd(world.items, world.seed),
    "bpr": lambda world: Bpr(world.items, world.seed),
    "text": Text,
}
"""Name on the command line -> how it is made."""
POPULARITIES = tuple(name for name in BASELINES if "popularity" in name and name != "decayed-popularity-200")
"""Those that every evaluation shows."""
