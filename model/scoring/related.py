"""Signals of a knowledge graph: what an item shares with the user's last items, and what the last items lead to.

    last items ─► their facts (entity, relation), fading ─► `related` of a candidate, and candidates of their own
    what the tables of transitions lead to ─► its facts ─► `related-spread`: what a new item inherits from its like

A fact is worth its idf (model/triples.py). The sums are over facts, so no table of neighbours is kept: a list costs
what the facts of its items are, at most 64 each.
"""

import numpy as np

from model.jit import njit
from model.scoring.batch import MicroBatch
from model.scoring.candidates import Candidates
from model.scoring.retrieve import EASE, slot_of
from model.scoring.table import ItemTable, back_off
from model.scoring.threads import over_users
from model.statistics import HALF_LIFE_20K
from model.triples import Triples

NEAR = 32
"""Items that become candidates: those that share most with the last ones, whether anybody chose them or not."""
_NEWEST = 8  # events whose facts are followed to candidates
_RECENCY = np.float32(0.85)  # what one event further back counts
_SCALE = np.float32(20)  # related = log(1 + scale x cosines)


class Related:
    """`related`: the cosines of an item's facts and those of the last events, fading."""

    names: tuple[str, ...] = ("related",)

    def __init__(self, triples: Triples) -> None:
        self._triples = triples

    def candidates(self, table: ItemTable, batch: MicroBatch) -> np.ndarray:
        """Shape: (B, NEAR), -1 for none."""
        graph, given = self._triples.graph(table.index.catalogue), batch.host
        rows = np.full((len(given.history), NEAR), -1, np.int32)
        out = given.excluded, given.excluded_from
        over_users(_nearest, len(rows), given.history, *out, *graph[:5], len(graph.starts) - 1, rows)
        return rows

    def signals(self, table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
        """As any family; 0 for an item that shares nothing."""
        graph = self._triples.graph(table.index.catalogue)
        history = batch.host.history
        over_users(_related, len(into), history, found.host_rows, *graph[:3], len(graph.idf), into)

    def carried(self, table: ItemTable, batch: MicroBatch, rows: np.ndarray) -> np.ndarray:
        """Shape: rows (B, k) -> (B, k, T)."""
        graph, history = self._triples.graph(table.index.catalogue), batch.host.history
        amounts = np.zeros((*rows.shape, history.shape[1]), np.float32)
        over_users(_shared, len(rows), history, rows, *graph[:3], len(graph.idf), amounts)
        return amounts

    def relation(self, table: ItemTable, row: int, other: int) -> str:
        """By which relation two items are nearest to each other; empty where a triple names both, or where none is."""
        graph = self._triples.graph(table.index.catalogue)
        one, two = (slice(*graph.starts[at : at + 2]) for at in (row, other))
        shared, at, _ = np.intersect1d(graph.facts[one], graph.facts[two], return_indices=True)
        if not len(shared):
            return ""
        worth: dict[int, float] = {}
        for number, strength in zip(graph.relation[shared].tolist(), graph.strength[one][at].tolist()):
            worth[number] = worth.get(number, 0.0) + strength**2
        best = max(worth, key=worth.__getitem__)
        return self._triples.names[best] if best >= 0 else ""


class RelatedSpread:
    """`related-spread`: how strongly the last events lead to the items that share its facts."""

    names: tuple[str, ...] = ("related-spread",)

    def __init__(self, triples: Triples) -> None:
        self._triples = triples

    def candidates(self, table: ItemTable, batch: MicroBatch) -> np.ndarray:
        """None: what is led to is among the candidates, and `Related` finds its like."""
        return np.full((len(batch.host.history), 0), -1)

    def signals(self, table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
        """As any family."""
        graph, given = self._triples.graph(table.index.catalogue), (found.host_rows, found.log_popularity)
        over_users(
            _inherited, len(into), found.space, *given, graph.starts, graph.facts, graph.item_starts, graph.idf, into
        )

    def carried(self, table: ItemTable, batch: MicroBatch, rows: np.ndarray) -> np.ndarray:
        """No single event carries it; rows (B, k) -> (B, k, T)."""
        return np.zeros((*rows.shape, batch.host.history.shape[1]), np.float32)


@njit(cache=True, nogil=True)
def _related(first, last, history, candidates, starts, facts, strength, size, into):
    profile = np.zeros(size, np.float32)
    for b in range(first, last):
        _profile(history[b], history.shape[1], starts, facts, strength, profile, True)
        for c in range(candidates.shape[1]):
            item, total, recency = candidates[b, c], np.float32(0), np.float32(1)
            if item < 0:
                continue
            for at in range(starts[item], starts[item + 1]):
                total += profile[facts[at]] * strength[at]
            for t in range(history.shape[1] - 1, -1, -1):  # without what it shares with itself
                if history[b, t] == item and starts[item] < starts[item + 1]:
                    total -= recency
                recency *= _RECENCY
            into[b, c, 0] = np.log(1 + _SCALE * max(total, np.float32(0)))
        _profile(history[b], history.shape[1], starts, facts, strength, profile, False)


@njit(cache=True)
def _profile(history, newest, starts, facts, strength, profile, add):
    """Add the facts of the newest events, fading; or forget them."""
    recency = np.float32(1)
    for t in range(len(history) - 1, len(history) - 1 - newest, -1):
        if history[t] >= 0:
            for at in range(starts[history[t]], starts[history[t] + 1]):
                profile[facts[at]] = profile[facts[at]] + recency * strength[at] if add else np.float32(0)
        recency *= _RECENCY


@njit(cache=True, nogil=True)
def _shared(first, last, history, rows, starts, facts, strength, size, amounts):
    marks = np.zeros(size, np.float32)
    for b in range(first, last):
        for j in range(rows.shape[1]):
            item, recency = rows[b, j], np.float32(1)
            if item < 0:
                continue
            for at in range(starts[item], starts[item + 1]):
                marks[facts[at]] = strength[at]
            for t in range(history.shape[1] - 1, -1, -1):
                if history[b, t] >= 0 and history[b, t] != item:
                    for at in range(starts[history[b, t]], starts[history[b, t] + 1]):
                        amounts[b, j, t] += recency * marks[facts[at]] * strength[at]
                recency *= _RECENCY
            for at in range(starts[item], starts[item + 1]):
                marks[facts[at]] = 0


@njit(cache=True, nogil=True)
def _nearest(first, last, history, excluded, out_from, starts, facts, strength, item_starts, items, count, rows):
    sums, touched = np.zeros(count, np.float32), np.zeros(count, np.int32)
    for b in range(first, last):
        some, recency = 0, np.float32(1)
        for t in range(history.shape[1] - 1, max(-1, history.shape[1] - 1 - _NEWEST), -1):
            item = history[b, t]
            for at in range(starts[item], starts[item + 1]) if item >= 0 else range(0):
                for place in range(item_starts[facts[at]], item_starts[facts[at] + 1]):
                    other = items[place]
                    if sums[other] == 0:
                        touched[some] = other
                        some += 1
                    sums[other] += recency * strength[at] * strength[at]
            recency *= _RECENCY
        for at in range(out_from[b], out_from[b + 1]):
            sums[excluded[at]] = 0
        for t in range(history.shape[1]):
            if history[b, t] >= 0:
                sums[history[b, t]] = 0
        least = np.float32(0)
        if some > rows.shape[1]:
            least = np.partition(sums[touched[:some]], some - rows.shape[1])[some - rows.shape[1]]
        into = 0
        for at in range(some):
            if sums[touched[at]] > 0 and sums[touched[at]] >= least and into < rows.shape[1]:
                rows[b, into] = touched[at]
                into += 1
        sums[touched[:some]] = 0


@njit(cache=True, nogil=True)
def _inherited(first, last, space, candidates, log_popularity, starts, facts, item_starts, idf, into):
    """The mean of what the other items with a fact are led to by, over an item's facts, by their worth."""
    sums = np.zeros(len(idf), np.float32)
    for b in range(first, last):
        for at in range(space.counts[b]):
            row, amount = space.rows[b, at], _led(space.sums[b, at])
            for place in range(starts[row], starts[row + 1]) if amount > 0 else range(0):
                sums[facts[place]] += amount
        for c in range(candidates.shape[1]):
            item, total, worth = candidates[b, c], np.float32(0), np.float32(1e-6)
            if item < 0:
                continue
            at = slot_of(space.slots[b], space.rows[b], item)
            own = _led(space.sums[b, at]) if at >= 0 else np.float32(0)
            for place in range(starts[item], starts[item + 1]):
                fact = facts[place]
                others = item_starts[fact + 1] - item_starts[fact] - 1
                total += idf[fact] * max(sums[fact] - own, np.float32(0)) / max(others, 1)
                worth += idf[fact]
            into[b, c, 0] = np.log(total / worth + back_off(log_popularity[b, c, HALF_LIFE_20K]))
        for at in range(space.counts[b]):
            row = space.rows[b, at]
            for place in range(starts[row], starts[row + 1]):
                sums[facts[place]] = 0


@njit(cache=True, inline="always")
def _led(sums):
    return sums[0] + sums[1] + max(sums[EASE], np.float32(0))
