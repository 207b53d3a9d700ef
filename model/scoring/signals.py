"""What each signal of the registry (model/signals.py) says of the candidates of a micro-batch.

A family is one function for one or more signals: (table, micro-batch, candidates, into), where `into` (B, c, signals)
gets a number for each user and candidate, on the scale of a log probability. The first families are computed of all
that retrieval found, `BEST` of the best of them only. They are compiled loops, on a CPU: they pick a few rows out of
many, and what they do with them costs less than the way to a card.

Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data (EASE), 2019, arXiv:1905.03375 (`ease`, `taste`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F

from model.jit import njit
from model.scoring.batch import MicroBatch
from model.scoring.candidates import Candidates
from model.scoring.products import VECTORISED, products
from model.scoring.retrieve import CHANNELS, TEXT, TEXT_SCALE, _clear, _enter, look_around, slot_of
from model.scoring.table import ItemTable, back_off
from model.scoring.threads import over_users
from model.signals import FINDING, POPULARITY, SIGNALS
from model.statistics import HALF_LIFE_2K, HALF_LIFE_20K

Signal = Callable[[ItemTable, MicroBatch, Candidates, np.ndarray], None]
if TYPE_CHECKING:
    from model.score import Scorer


class Optional(Protocol):
    """A family of signals that a setting switches on, with what it reads; it may find candidates of its own. One that
    has `words(table, batch, user, row)` tells which words carry its signal.

    Attributes:
        names: of its signals, as in the registry's `OPTIONAL`.
    """

    names: tuple[str, ...]

    def candidates(self, table: ItemTable, batch: MicroBatch) -> np.ndarray:
        """Rows (B, F) of items that should be among the candidates, -1 for none."""

    def signals(self, table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
        """As any family."""

    def carried(self, table: ItemTable, batch: MicroBatch, rows: np.ndarray) -> np.ndarray:
        """How much each of the last events speaks for an item by these signals; rows (B, k) -> (B, k, T) float32."""


@runtime_checkable
class Relating(Protocol):
    """A family that can say by which relation two items are near; a reason then has it as its `relation`."""

    def relation(self, table: ItemTable, row: int, other: int) -> str:
        """Its name; empty where there is none."""


SHARPNESS = 8.0
"""tau of the interest formula: cosines of 1 and 0 lie e**8 apart."""
ALIKE = 16
"""Items with the nearest texts from which an item inherits."""
_NO_INTEREST = 1e-9
_LONG_AGO = 20.0  # log of the seconds after which it hardly matters when
_STEP_BACK = 0.8  # what one event further back counts


def _network(table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
    """What the network makes of the last events."""
    rows, popularity = found.host_rows, found.log_popularity
    over_users(_network_at, len(into), rows, popularity, table.host_items, found.hidden, *table.bias_parts, into)


@njit(cache=True, nogil=True)
def _network_at(first, last, candidates, log_popularity, items, hidden, popularity, own, into):
    products(first, last, candidates, items, hidden, into[:, :, 0])
    for b in range(first, last):
        for c in range(candidates.shape[1]):
            if candidates[b, c] >= 0:
                into[b, c, 0] += popularity * log_popularity[b, c, HALF_LIFE_2K] + own[candidates[b, c]]


def _counted(table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
    """How often the item was chosen, old choices fading; how long ago for the first time; how strongly the last events,
    or users alike, lead to it by tables of partners.
    """
    of_items = table.statistics_row, table.statistics.items.first, table.statistics.seen
    over_users(_counted_at, len(into), found.host_rows, found.log_popularity, found.sums, *of_items, into)


@njit(cache=True, nogil=True)
def _counted_at(first, last, candidates, log_popularity, sums, statistics_row, chosen_first, seen, into):
    popularities = log_popularity.shape[2]
    for b in range(first, last):
        for c in range(candidates.shape[1]):
            row = statistics_row[candidates[b, c]] if candidates[b, c] >= 0 else -1
            for by in range(popularities):
                into[b, c, by] = log_popularity[b, c, by]
            if row >= 0 and chosen_first[row] >= 0:
                into[b, c, popularities] = np.log(np.float32(1 + max(0, seen - chosen_first[row]))) / 3
            more = back_off(log_popularity[b, c, HALF_LIFE_20K])
            for at in range(TEXT):
                into[b, c, popularities + 1 + at] = np.log(sums[b, c, at] + more)


def _text(table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
    """The largest similarity of the item's text to one of the last events."""
    np.multiply(found.sums[..., TEXT], TEXT_SCALE, out=into[..., 0])


def _had(table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
    """How often the user had the item, how lately, and how many events ago; 0 for an item that the user never had."""
    given = batch.host
    had = given.had, given.had_from, given.had_times, given.had_gaps_s
    over_users(_had_at, len(into), found.host_rows, *had, given.history, into)


@njit(cache=True, nogil=True)
def _had_at(first, last, candidates, had, had_from, times, gaps_s, history, into):
    slots, rows = np.full(1 << 14, -1, np.int16), np.zeros(1 << 13, np.int32)
    nothing = np.zeros((1 << 13, 0), np.float32)
    for b in range(first, last):
        count = 0
        for at in range(had_from[b], had_from[b + 1]):
            _, count = _enter(slots, rows, nothing, count, had[at])
        for c in range(candidates.shape[1]):
            item = candidates[b, c]
            at = slot_of(slots, rows, item) if item >= 0 else -1
            if at >= 0:
                into[b, c, 0] = np.log1p(times[had_from[b] + at])
                into[b, c, 1] = 1 - np.log1p(gaps_s[had_from[b] + at]) / _LONG_AGO
            recency = 1.0
            for t in range(history.shape[1] - 1, -1, -1):
                if item >= 0 and history[b, t] == item:
                    into[b, c, 2] = recency
                    break
                recency *= _STEP_BACK
        _clear(slots, rows, count)


def _interest(table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
    """How near the item is to the user's interests, and to those that come next.

    log sum_a w_a exp(tau h_a . h_i), for both kinds of weights; 0 for a user without interests.
    """
    interests = F.normalize(batch.interests - table.mean, dim=2).numpy()  # what all texts share is no nearness
    weights = batch.weights.numpy(), batch.led_to.numpy()
    over_users(_near_at, len(into), found.host_rows, table.index.contrast, interests, *weights, into)


@njit(cache=True, nogil=True, fastmath=VECTORISED)
def _near_at(first, last, candidates, contrast, interests, weights, led_to, into):
    for b in range(first, last):
        some, leads = weights[b].max() > 0, led_to[b].max() > 0
        for c in range(candidates.shape[1]):
            row, total, next_total = candidates[b, c], np.float32(_NO_INTEREST), np.float32(_NO_INTEREST)
            if row < 0 or not (some or leads):
                continue
            for a in range(interests.shape[1]):
                if weights[b, a] > 0 or led_to[b, a] > 0:
                    near = np.float32(0)
                    for d in range(interests.shape[2]):
                        near += interests[b, a, d] * contrast[row, d]
                    lifted = np.exp(np.float32(SHARPNESS) * near)
                    total += weights[b, a] * lifted
                    next_total += led_to[b, a] * lifted
            if some:
                into[b, c, 0] = np.log(total)
            if leads:
                into[b, c, 1] = np.log(next_total)


def _whole_history(table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
    """How strongly the last events lead to the items whose texts are nearest (what a new item inherits); how much all
    that the user ever consumed speaks for the item, by who else took both; and by the nearest texts among it.
    """
    rows = found.host_rows
    table.index.look_up(rows.ravel())
    over_users(
        look_around, len(rows), found.sources, found.space, rows, (table.fitted_row, *table.fitted["taste"]),
        batch.host.had, batch.host.had_from, ALIKE, into,
    )  # fmt: skip
    over_users(_scaled, len(rows), found.log_popularity, into)


@njit(cache=True, nogil=True)
def _scaled(first, last, log_popularity, into):
    for b in range(first, last):
        for c in range(into.shape[1]):
            into[b, c, 0] = np.log(into[b, c, 0] + back_off(log_popularity[b, c, HALF_LIFE_20K]))
            into[b, c, 1] *= np.float32(TEXT_SCALE)
            into[b, c, 2] *= np.float32(TEXT_SCALE)


def _order(table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
    """How far the item stands from the last one in the order in which items were first chosen, and whether after it."""
    of_items = table.statistics_row, table.statistics.items.first
    over_users(_order_at, len(into), found.host_rows, batch.host.history, *of_items, into)


@njit(cache=True, nogil=True)
def _order_at(first, last, candidates, history, statistics_row, chosen_first, into):
    for b in range(first, last):
        newest = statistics_row[history[b, -1]] if history[b, -1] >= 0 else -1
        for c in range(candidates.shape[1]):
            row = statistics_row[candidates[b, c]] if candidates[b, c] >= 0 else -1
            if row >= 0 and newest >= 0 and chosen_first[row] >= 0 and chosen_first[newest] >= 0:
                steps = chosen_first[row] - chosen_first[newest]
                apart = np.log(np.float32(1 + abs(steps)))
                into[b, c, 0], into[b, c, 1] = apart, apart * np.sign(steps)


FAMILIES: dict[tuple[str, ...], Signal] = {
    ("network",): _network,
    (*POPULARITY, "age", *CHANNELS[:TEXT]): _counted,
    ("had", "had-lately", "had-near"): _had,
    ("text",): _text,
    ("interest", "next-interest"): _interest,
}
"""Of all that retrieval found, in the order of the registry."""
BEST: dict[tuple[str, ...], Signal] = {
    ("spread", "taste", "familiar"): _whole_history,
    ("apart", "ahead"): _order,
}
"""Of the best of them."""
assert [name for names in FAMILIES for name in names] == FINDING
assert [name for names in (*FAMILIES, *BEST) for name in names] == list(SIGNALS)


def computed(
    families: dict[tuple[str, ...], Signal], table: ItemTable, batch: MicroBatch, found: Candidates
) -> torch.Tensor:
    """The signals of these families, 0 for what is no number; (B, c, signals)."""
    columns = np.zeros((*found.host_rows.shape, sum(map(len, families))), np.float32)
    at = 0
    for names, family in families.items():
        family(table, batch, found, columns[..., at : at + len(names)])
        at += len(names)
    return torch.from_numpy(columns).nan_to_num_(0.0, 0.0, 0.0)


def optional_names(scorer: "Scorer") -> list[str]:
    """The names of the signals that are switched on, in the order of the ranker's weights."""
    return [name for family in scorer.optional for name in family.names]


def of_the_best(table: ItemTable, batch: MicroBatch, found: Candidates) -> torch.Tensor:
    """The signals that are computed of the best only, and those that are switched on; (B, c, signals)."""
    return computed(BEST | {family.names: family.signals for family in table.scorer.optional}, table, batch, found)
