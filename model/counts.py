"""What is counted into a scorer: popularities, which items follow each other, and EASE's weights.

    new events ─► popularities, old choices fading
               ├► pairs of items near each other ─► the strongest partners of each item: transitions
               │                                 └► EASE's weights, fitted anew now and then
               └► what came next within seconds ──► the strongest of it, and the order of all

Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data (EASE), 2019, arXiv:1905.03375.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from model.memory import IS_POSITIVE, Flat, User
from model.pace import Pace
from model.peers import Peers
from model.places import Places, hints
from model.score import Scorer
from model.signals import FOLLOWING
from model.table import EVER, HALF_LIVES, LATELY

LAGS = 20
"""Items at most so many events apart are a pair."""
_NEAR_LAGS = LAGS // 2  # for transitions
PAIR_HALF_LIVES = (float("inf"), 5_000.0, 30_000.0)
"""Pairs fade with these half-lives, in events: those of transitions, recent transitions and EASE's matrix."""
_TRANSITIONS = {"transitions": 5.0, "recent-transitions": 2.0}  # what is added to a row's sum: few pairs prove little
_NEXT = {"next": (2_000, float("inf")), "lately-next": (20_000, 2_000.0)}
"""One way only, what came within ms in the order in which it came: how many ms, and with which half-life pairs fade, in events."""
_NEXT_LAGS, _NEXT_SHRINK = 5, 2.0
_EASE = 2  # the row of PAIR_HALF_LIVES for it
_FIRST_EASE = 500  # examples
_LATE = 65_536  # pairs that stand apart at most
_EASE_GROWTH = 10  # fitted anew when a tenth is new


class Chosen(NamedTuple):
    """Items that were chosen, among the events of their users.

    Shape: rows, times ms, positive (e,) of the events; at (a,) where the chosen ones stand among them, starts (a,) where
    their users' events begin, ages (a,) how many events ago each was.
    """

    rows: np.ndarray
    times: np.ndarray
    positive: np.ndarray
    starts: np.ndarray
    at: np.ndarray
    ages: np.ndarray


class Pairs:
    """How often two items stood near each other, old pairs fading; sparse, each in the order of the item pair.

    Pairs seen for the first time stand apart until they are many: room among all is made once for all of them.

    Args:
        half_lives: in events; a pair has a weight for each.
        both_ways: whether the second item leads to the first too.

    Shape: in each of both parts pairs (p,) int64, first item << 32 | second; weights (half-lives, p).
    """

    def __init__(self, half_lives: tuple[float, ...] = PAIR_HALF_LIVES, both_ways: bool = True) -> None:
        none = np.zeros(0, np.int64), np.zeros((len(half_lives), 0), np.float32)
        self._all, self._late = none, none
        self._half_lives, self._both_ways = half_lives, both_ways

    def fade(self, events: int) -> None:
        for _, part in (self._all, self._late):
            for weights, half_life in zip(part, self._half_lives):
                if np.isfinite(half_life):
                    weights *= np.float32(0.5 ** (events / half_life))

    def add(self, first: np.ndarray, second: np.ndarray, amounts: np.ndarray) -> None:
        """Add that the second led to the first, never below 0; first, second (a,), amounts (half-lives, a)."""
        if not len(first):
            return
        led = second << 32 | first
        if self._both_ways:
            led, amounts = np.concatenate((led, first << 32 | second)), np.tile(amounts, 2)
        pairs, place = np.unique(led, return_inverse=True)
        amounts = np.stack([np.bincount(place, row, len(pairs)) for row in amounts]).astype(np.float32)
        for part in (self._all, self._late):
            at, known = _find(part[0], pairs)
            part[1][:, at[known]] = np.maximum(part[1][:, at[known]] + amounts[:, known], 0)
            pairs, amounts = pairs[~known], amounts[:, ~known]
        self._late = _with(self._late, pairs, np.maximum(amounts, 0))
        if len(self._late[0]) > _LATE:
            self.settled()

    def settled(self) -> tuple[np.ndarray, np.ndarray]:
        """All pairs and their weights side by side."""
        self._all, self._late = _with(self._all, *self._late), (self._late[0][:0], self._late[1][:, :0])
        return self._all

    def rows(self, items: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each item those that it leads to (p,) and their weights (half-lives, p)."""
        bounds = np.stack((items, items + 1)) << 32
        places = (np.searchsorted(pairs, bounds).T.tolist() for pairs, _ in (self._all, self._late))
        for (start, end), (late_start, late_end) in zip(*places):
            partners, weights = self._all[0][start:end], self._all[1][:, start:end]
            if late_start < late_end:
                partners = np.concatenate((partners, self._late[0][late_start:late_end]))
                weights = np.concatenate((weights, self._late[1][:, late_start:late_end]), axis=1)
            yield partners & 0xFFFFFFFF, weights


def _find(among: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each stands or would stand, and whether it is there; both sorted, (p,), (a,) -> (a,), (a,)."""
    at = np.searchsorted(among, wanted)
    known = at < len(among)
    known[known] = among[at[known]] == wanted[known]
    return at, known


def _with(part: tuple[np.ndarray, np.ndarray], pairs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A part and pairs that are not in it, in order."""
    at = np.searchsorted(part[0], pairs)
    return np.insert(part[0], at, pairs), np.insert(part[1], at, weights, axis=1)


class Counts:
    """Counts events into a scorer; `learnt` is how many there were."""

    def __init__(self, pace: Pace) -> None:
        self.pace, self.peers, self.places = pace, Peers(pace.peers), Places()
        self.pairs, self.next = Pairs(), {name: Pairs((half_life,), both_ways=False) for name, (_, half_life) in _NEXT.items()}
        self.learnt = self._since_fit = 0
        self._forgot = False  # somebody is still in what was fitted

    def add(self, scorer: Scorer, flat: Flat, spots: np.ndarray, vectors: torch.Tensor) -> None:
        """Count new events.

        Shape: spots (n,) their places in `flat`, -1 for an item that is not there; vectors (m, dim) of the scorer's items.
        """
        n, known = len(spots), spots >= 0
        names = list(flat.places)
        self.peers.add(scorer, [names[owner] for owner in flat.owner[spots[known]]], flat.rows[spots[known]].tolist())
        self.learnt += n
        spots, ages = spots[known], np.arange(n - 1, -1, -1)[known]
        for counts, half_life in zip(scorer.counts, HALF_LIVES):
            added = np.bincount(flat.rows[spots], 0.5 ** (ages / half_life), len(scorer.keys))
            counts.mul_(0.5 ** (n / half_life)).add_(torch.from_numpy(added))
        self._note_first(scorer, flat.rows[spots], self.learnt - 1 - ages)
        for pairs in (self.pairs, *self.next.values()):
            pairs.fade(n)
        self._add_pairs(scorer, Chosen(flat.rows, flat.times, flat.positive, flat.starts[flat.owner[spots]], spots, ages), 1)
        self._since_fit += n
        if self._fit_is_due():
            self._fit(scorer, vectors)
        scorer.counted()

    def _note_first(self, scorer: Scorer, rows: np.ndarray, steps: np.ndarray) -> None:
        """Keep when each item was chosen first; rows, steps (a,) in order."""
        rows, at = np.unique(rows, return_index=True)
        first = scorer.first.numpy()
        first[rows] = np.where(first[rows] < 0, steps[at], first[rows])

    def _fit_is_due(self) -> bool:
        first = self.learnt >= _FIRST_EASE and self._since_fit == self.learnt
        forgot = self._forgot and self.learnt >= _FIRST_EASE
        return first or forgot or self._since_fit >= max(self.pace.ease_every, self.learnt // _EASE_GROWTH)

    def remove(self, scorer: Scorer, user_id: str, user: User, row_of: dict[int, int]) -> None:
        """Take out what a user's events added; what is fitted on them is fitted anew with the next events."""
        self._forgot, self.places = True, Places()
        self.peers.forget(scorer, user_id)
        rows = np.array([row_of.get(key, -1) for key in user.keys], np.int64)
        known = rows >= 0
        rows, steps, times = rows[known], np.frombuffer(user.steps, np.int64)[known], np.frombuffer(user.times, np.int64)[known]
        positive = IS_POSITIVE[np.frombuffer(user.actions, np.uint8)[known]]
        spots = np.flatnonzero(steps >= 0)
        ages = self.learnt - 1 - steps[spots]
        for counts, half_life in zip(scorer.counts, HALF_LIVES):
            gone = np.bincount(rows[spots], 0.5 ** (ages / half_life), len(scorer.keys))
            counts.sub_(torch.from_numpy(gone)).clamp_(min=0)
        scorer.first[scorer.counts[EVER] < 0.5] = -1.0
        self._add_pairs(scorer, Chosen(rows, times, positive, np.zeros(len(spots), np.int64), spots, ages), -1)
        scorer.counted()

    def use_other_texts(self) -> None:
        """Forget what was fitted on the texts' vectors: another encoder has made them anew."""
        self.places = Places()

    def _add_pairs(self, scorer: Scorer, chosen: Chosen, sign: int) -> None:
        """Add, or with a sign of -1 take out, the pairs of the items chosen."""
        first, second, amounts = pairs_of(chosen)
        self.pairs.add(first, second, sign * amounts)
        self._refresh(scorer, self.pairs, _TRANSITIONS, np.unique(np.concatenate((first, second))))
        for name, pairs in self.next.items():
            first, second, amounts = next_of(chosen, name)
            pairs.add(first, second, sign * amounts)
            self._refresh(scorer, pairs, {name: _NEXT_SHRINK}, np.unique(second))

    def _refresh(self, scorer: Scorer, pairs: Pairs, shrinks: dict[str, float], changed: np.ndarray) -> None:
        """Write the strongest partners of these items into the scorer's tables."""
        tables = [[part.numpy() for part in scorer.neighbours(name)] for name in shrinks]
        width = tables[0][0].shape[1]
        for item, (all_partners, all_amounts) in zip(changed.tolist(), pairs.rows(changed)):
            for (items, weights), shrink, amounts in zip(tables, shrinks.values(), all_amounts):
                partners, scale = all_partners, amounts.sum() + shrink
                if len(partners) > width:
                    best = np.argpartition(-amounts, width)[:width]
                    partners, amounts = partners[best], amounts[best]
                items[item, : len(partners)], weights[item, : len(partners)] = partners, amounts / scale
                items[item, len(partners) :], weights[item, len(partners) :] = -1, 0

    def _fit(self, scorer: Scorer, vectors: torch.Tensor) -> None:
        self._since_fit, self._forgot = 0, False
        self._fit_ease(scorer)
        self._fit_taste(scorer)
        self._fit_places(scorer, vectors)

    def _fit_ease(self, scorer: Scorer) -> None:
        """Fit item-to-item weights in closed form on the pairs."""
        top, place = _most_chosen(scorer, self.pace.ease_items)
        pairs, weights = self.pairs.settled()
        first, second = place[pairs >> 32], place[pairs & 0xFFFFFFFF]
        inside = (first >= 0) & (second >= 0)
        gram = np.zeros((len(top), len(top)), np.float32)
        gram[first[inside], second[inside]] = weights[_EASE, inside]
        np.fill_diagonal(gram, scorer.counts[LATELY].numpy()[top] / (1 - FOLLOWING["ease"]) + self.pace.ease_ridge)
        _write(scorer, "ease", top, _fitted(torch.from_numpy(gram)).clamp(min=0))

    def _fit_taste(self, scorer: Scorer) -> None:
        """The same on all that peers took, however far apart; an item's row holds those that lead to it."""
        top, place = _most_chosen(scorer, self.pace.ease_items)
        taken = scorer.peers_taken.numpy()
        users, at = np.nonzero(taken >= 0)
        columns = place[taken[users, at]]
        chosen = torch.zeros(len(taken), len(top))
        chosen[users[columns >= 0], columns[columns >= 0]] = 1.0
        gram = chosen.T @ chosen
        gram.diagonal().add_(self.pace.ease_ridge)
        _write(scorer, "taste", top, _fitted(gram).T)

    def _fit_places(self, scorer: Scorer, vectors: torch.Tensor) -> None:
        """Fit the order in which items come within seconds."""
        pairs, weights = self.next["next"].settled()
        before, after = torch.from_numpy(pairs >> 32), torch.from_numpy(pairs & 0xFFFFFFFF)
        scorer.places.copy_(self.places.fit(before, after, torch.from_numpy(weights[0]), hints(vectors, scorer.first)))


def _most_chosen(scorer: Scorer, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the items most chosen lately, and for every row its place among them, -1 for none; (t,), (m,)."""
    top = scorer.counts[LATELY].topk(min(most, len(scorer.keys))).indices.sort().values.numpy()
    place = np.full(len(scorer.keys), -1)
    place[top] = np.arange(len(top))
    return top, place


def _fitted(gram: torch.Tensor) -> torch.Tensor:
    """EASE's weights from each item to each; (t, t) -> (t, t)."""
    inverted = inverse(gram)
    return (-inverted / inverted.diagonal()).fill_diagonal_(0)


def _write(scorer: Scorer, name: str, top: np.ndarray, fitted: torch.Tensor) -> None:
    """Write the largest weights of these items into a scorer's table, and nothing for the others; top (t,), fitted (t, t)."""
    items, weights = scorer.neighbours(name)
    best = fitted.abs().topk(min(items.shape[1], len(top))).indices
    items.fill_(-1), weights.zero_()
    items[top, : best.shape[1]] = torch.from_numpy(top)[best].int()
    weights[top, : best.shape[1]] = fitted.gather(1, best)


def inverse(matrix: torch.Tensor) -> torch.Tensor:
    """Of a symmetric matrix; in half the time where it is positive definite."""
    root, failed = torch.linalg.cholesky_ex(matrix)
    return torch.linalg.inv(matrix) if failed else torch.cholesky_inverse(root)


def pairs_of(chosen: Chosen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of each chosen item with those before it, nearer ones weighing more, as they weigh `ages` events later.

    Shape: first, second (p,), amounts (PAIR_HALF_LIVES, p).
    """
    lag = np.arange(1, LAGS + 1)
    before, keep = _before(chosen, LAGS)
    near = np.broadcast_to(FOLLOWING["transitions"] ** (lag - 1), before.shape)[keep]
    short = np.broadcast_to(lag <= _NEAR_LAGS, before.shape)[keep]
    age = np.broadcast_to(chosen.ages[:, None], before.shape)[keep]
    fades = [0.5 ** (age / half_life) for half_life in PAIR_HALF_LIVES]
    amounts = np.stack((near * short * fades[0], near * short * fades[1], near * fades[2]))
    return *_sides(chosen, before, keep), amounts


def next_of(chosen: Chosen, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for those that came within the time of a table of _NEXT before it; first, second (p,), amounts (1, p)."""
    most_ms, half_life = _NEXT[name]
    before, keep = _before(chosen, _NEXT_LAGS)
    keep &= chosen.times[chosen.at][:, None] - chosen.times[before] <= most_ms
    amounts = FOLLOWING[name] ** np.arange(_NEXT_LAGS) * 0.5 ** (chosen.ages / half_life)[:, None]
    return *_sides(chosen, before, keep), amounts[keep][None]


def _before(chosen: Chosen, lags: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the events before each stand, and which make a pair with it: positive ones on another item; (a, lags) each."""
    rows, positive, at = chosen.rows, chosen.positive, chosen.at
    before = at[:, None] - np.arange(1, lags + 1)
    keep = (before >= chosen.starts[:, None]) & positive[at][:, None]
    before = np.maximum(before, 0)
    return before, keep & positive[before] & (rows[before] != rows[at][:, None])


def _sides(chosen: Chosen, before: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The chosen item and the one before it of each pair that is kept; before, keep (a, lags) -> (p,) each."""
    return np.broadcast_to(chosen.rows[chosen.at][:, None], before.shape)[keep], chosen.rows[before][keep]
