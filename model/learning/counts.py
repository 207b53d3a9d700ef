"""What is counted into a scorer: popularities, which items follow each other, and EASE's weights.

    new events ─► popularities, old choices fading
               ├► pairs of items near each other ─► the strongest partners of each item: transitions
               │                                 └► EASE's weights, fitted anew now and then
               └► what came next within seconds ──► the strongest of it

Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data (EASE), 2019, arXiv:1905.03375.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from model.interest import IS_NEGATIVE
from model.learning.config import TrainingConfig
from model.learning.peers import Peers
from model.learning.replay import IS_POSITIVE, Flat, User
from model.score import Scorer
from model.scoring.signals import FOLLOWING
from model.scoring.table import EVER, HALF_LIVES, LATELY

LAGS = 20
"""Items at most so many events apart are a pair."""
_NEAR_LAGS = LAGS // 2  # for transitions
PAIR_HALF_LIVES = (float("inf"), 5_000.0, 30_000.0)
"""Pairs fade with these half-lives, in events: those of transitions, recent transitions and EASE's matrix."""
_TRANSITIONS = {"transitions": 5.0, "recent-transitions": 2.0}  # what is added to a row's sum: few pairs prove little
NEXT_MS, _NEXT_LAGS, _NEXT_HALF_LIFE, _NEXT_SHRINK = 20_000, 5, 2_000.0, 2.0
"""What came next, one way only: at most so many ms and events later, with which half-life in events."""
_EASE = 2  # the row of PAIR_HALF_LIVES for it
_FIRST_EASE = 500  # examples
_FEW = 1_000  # events: a user may make a share of so many at first
_LATE = 65_536  # pairs that stand apart at most
_EASE_GROWTH = 10  # fitted anew when a tenth is new


class Shares:
    """Bounds how much of each popularity one user makes: at most `MOST` of all that has not faded.

    A user who takes an item again within the last events adds nothing to its popularity.
    """

    MOST = 0.05
    _FADES = np.array([0.5 ** (1 / half_life) for half_life in HALF_LIVES])
    _SUMS = np.minimum(HALF_LIVES, 1e12) / np.log(2)  # of what has not faded, after very many events
    _USERS = 100_000

    def __init__(self) -> None:
        self._had: dict[str, tuple[int, np.ndarray]] = {}  # by user: when, and how much had not faded then

    def take(self, user: str, step: int, again: bool) -> np.ndarray:
        """How much the user's choice at this step adds; (HALF_LIVES,) of 0 to 1."""
        last, had = self._had.pop(user, (step, np.zeros(len(HALF_LIVES))))
        had = had * self._FADES ** (step - last)
        most = self.MOST * self._SUMS * -np.expm1(-max(step, _FEW) / self._SUMS)
        added = np.zeros(len(HALF_LIVES)) if again else (most - had).clip(0, 1)
        self._had[user] = step, had + added
        if len(self._had) > self._USERS:
            del self._had[next(iter(self._had))]
        return added

    def forget(self, user: str) -> None:
        self._had.pop(user, None)


class Chosen(NamedTuple):
    """Items that were chosen, among the events of their users.

    Shape: rows, times ms, positive (e,) of the events; at (a,) where the chosen ones stand among them, starts (a,)
    where their users' events begin, ages (a,) how many events ago each was.
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

    def __init__(self, config: TrainingConfig) -> None:
        self.config, self.peers = config, Peers(config.peers)
        self.pairs, self.next, self.shares = Pairs(), Pairs((_NEXT_HALF_LIFE,), both_ways=False), Shares()
        self.learnt = self._since_fit = 0
        self._forgot = False  # somebody is still in what was fitted

    def add(self, scorer: Scorer, flat: Flat, spots: np.ndarray) -> None:
        """Count new events.

        Shape: spots (n,) their places in `flat`, -1 for an item that is not there.
        """
        n, known = len(spots), spots >= 0
        names = list(flat.places)
        self.peers.add(scorer, [names[owner] for owner in flat.owner[spots[known]]], flat.rows[spots[known]].tolist())
        self.learnt += n
        spots, ages = spots[known], np.arange(n - 1, -1, -1)[known]
        chosen = Chosen(flat.rows, flat.times, flat.positive, flat.starts[flat.owner[spots]], spots, ages)
        users, again = [names[owner] for owner in flat.owner[spots]], _again(chosen)
        added = [self.shares.take(*one) for one in zip(users, (self.learnt - 1 - ages).tolist(), again.tolist())]
        for counts, half_life, weights in zip(scorer.counts, HALF_LIVES, np.reshape(added, (-1, len(HALF_LIVES))).T):
            sums = np.bincount(flat.rows[spots], weights * 0.5 ** (ages / half_life), len(scorer.keys))
            counts.mul_(0.5 ** (n / half_life)).add_(torch.from_numpy(sums))
        scorer.learnt.fill_(self.learnt)
        self._note_first(scorer, flat.rows[spots], self.learnt - 1 - ages)
        self.pairs.fade(n)
        self.next.fade(n)
        self._add_pairs(scorer, chosen, 1)
        self._since_fit += n
        if self._fit_is_due():
            self._fit(scorer)
        scorer.counted()

    def _note_first(self, scorer: Scorer, rows: np.ndarray, steps: np.ndarray) -> None:
        """Keep when each item was chosen first; rows, steps (a,) in order."""
        rows, at = np.unique(rows, return_index=True)
        first = scorer.first.numpy()
        first[rows] = np.where(first[rows] < 0, steps[at], first[rows])

    def _fit_is_due(self) -> bool:
        first = self.learnt >= _FIRST_EASE and self._since_fit == self.learnt
        forgot = self._forgot and self.learnt >= _FIRST_EASE
        return first or forgot or self._since_fit >= max(self.config.ease_every, self.learnt // _EASE_GROWTH)

    def remove(self, scorer: Scorer, user_id: str, user: User, row_of: dict[int, int]) -> None:
        """Take out what a user's events added; what is fitted on them is fitted anew with the next events."""
        self._forgot = True
        self.peers.forget(scorer, user_id)
        rows, actions = (
            np.array([row_of.get(key, -1) for key in user.keys], np.int64),
            np.frombuffer(user.actions, np.uint8),
        )
        known = (rows >= 0) & ~IS_NEGATIVE[actions]  # as `ReplayBuffer.flatten` had them when they were counted
        rows, steps, times = (
            rows[known],
            np.frombuffer(user.steps, np.int64)[known],
            np.frombuffer(user.times, np.int64)[known],
        )
        positive = IS_POSITIVE[actions[known]]
        spots = np.flatnonzero(steps >= 0)
        ages = self.learnt - 1 - steps[spots]
        chosen = Chosen(rows, times, positive, np.zeros(len(spots), np.int64), spots, ages)
        self.shares.forget(user_id)
        shares = Shares()
        weights = [shares.take(user_id, *one) for one in zip(steps[spots].tolist(), _again(chosen).tolist())]
        for counts, half_life, taken in zip(scorer.counts, HALF_LIVES, np.reshape(weights, (-1, len(HALF_LIVES))).T):
            gone = np.bincount(rows[spots], taken * 0.5 ** (ages / half_life), len(scorer.keys))
            counts.sub_(torch.from_numpy(gone)).clamp_(min=0)
        scorer.first[scorer.counts[EVER] < 0.5] = -1.0
        self._add_pairs(scorer, chosen, -1)
        scorer.counted()

    def _add_pairs(self, scorer: Scorer, chosen: Chosen, sign: int) -> None:
        """Add, or with a sign of -1 take out, the pairs of the items chosen."""
        first, second, amounts = pairs_of(chosen)
        self.pairs.add(first, second, sign * amounts)
        self._refresh(scorer, self.pairs, _TRANSITIONS, np.unique(np.concatenate((first, second))))
        first, second, amounts = next_of(chosen)
        self.next.add(first, second, sign * amounts)
        self._refresh(scorer, self.next, {"next": _NEXT_SHRINK}, np.unique(second))

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

    def _fit(self, scorer: Scorer) -> None:
        self._since_fit, self._forgot = 0, False
        self._fit_ease(scorer)
        self._fit_taste(scorer)

    def _fit_ease(self, scorer: Scorer) -> None:
        """Fit item-to-item weights in closed form on the pairs."""
        top, place = _most_chosen(scorer, self.config.ease_items)
        pairs, weights = self.pairs.settled()
        first, second = place[pairs >> 32], place[pairs & 0xFFFFFFFF]
        inside = (first >= 0) & (second >= 0)
        gram = np.zeros((len(top), len(top)), np.float32)
        gram[first[inside], second[inside]] = weights[_EASE, inside]
        np.fill_diagonal(gram, scorer.counts[LATELY].numpy()[top] / (1 - FOLLOWING["ease"]) + self.config.ease_ridge)
        _write(scorer, "ease", top, _fitted(torch.from_numpy(gram)).clamp(min=0))

    def _fit_taste(self, scorer: Scorer) -> None:
        """The same on all that peers took, however far apart; an item's row holds those that lead to it."""
        top, place = _most_chosen(scorer, self.config.ease_items)
        taken = scorer.peers_taken.numpy()
        users, at = np.nonzero(taken >= 0)
        columns = place[taken[users, at]]
        chosen = torch.zeros(len(taken), len(top))
        chosen[users[columns >= 0], columns[columns >= 0]] = 1.0
        gram = chosen.T @ chosen
        gram.diagonal().add_(self.config.ease_ridge)
        _write(scorer, "taste", top, _fitted(gram).T)


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
    """Write the largest weights of these items into a scorer's table, nothing for others; top (t,), fitted (t, t)."""
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


def next_of(chosen: Chosen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for those that came a short time before it, at an earlier one; first, second (p,), amounts (1, p)."""
    before, keep = _before(chosen, _NEXT_LAGS)
    waited = chosen.times[chosen.at][:, None] - chosen.times[before]
    keep &= (waited > 0) & (waited <= NEXT_MS)
    amounts = FOLLOWING["next"] ** np.arange(_NEXT_LAGS) * 0.5 ** (chosen.ages / _NEXT_HALF_LIFE)[:, None]
    return *_sides(chosen, before, keep), amounts[keep][None]


def _again(chosen: Chosen) -> np.ndarray:
    """Which of the chosen items the user had among the last events already; (a,) bool."""
    before = chosen.at[:, None] - np.arange(1, LAGS + 1)
    same = chosen.rows[np.maximum(before, 0)] == chosen.rows[chosen.at][:, None]
    return (same & (before >= chosen.starts[:, None])).any(1)


def _before(chosen: Chosen, lags: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the events before each are, and which make a pair with it: positive, on another item; (a, lags) each."""
    rows, positive, at = chosen.rows, chosen.positive, chosen.at
    before = at[:, None] - np.arange(1, lags + 1)
    keep = (before >= chosen.starts[:, None]) & positive[at][:, None]
    before = np.maximum(before, 0)
    return before, keep & positive[before] & (rows[before] != rows[at][:, None])


def _sides(chosen: Chosen, before: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The chosen item and the one before it of each pair that is kept; before, keep (a, lags) -> (p,) each."""
    return np.broadcast_to(chosen.rows[chosen.at][:, None], before.shape)[keep], chosen.rows[before][keep]
