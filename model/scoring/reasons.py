"""Reasons: which signals put an item on a list, and which of the user's past events carried them."""

from collections.abc import Sequence

import numpy as np
import torch
from msgspec.structs import replace

from model.jit import njit
from model.schema import Reason
from model.scoring.batch import MicroBatch
from model.scoring.network import EVENT
from model.scoring.products import VECTORISED
from model.scoring.ranker import Scored
from model.scoring.retrieve import CHANNELS, carriers
from model.scoring.signals import SHARPNESS, Relating, optional_names
from model.scoring.table import ItemTable
from model.scoring.threads import over_users
from model.signals import ALL, COLUMN, FINDING, NAMES, SIGNALS, TERMS

REASONS = 2
"""At most so many are given for an item."""
LEAST_SHARE = 0.05
"""A signal with a smaller share of the score is no reason."""
_EVENTS = 2  # past events named in a reason, at most
_GIVEN = [*FINDING, *TERMS]  # what may be a reason; after them comes what is switched on
_GIVEN_COLUMNS = np.array([COLUMN[name] for name in _GIVEN])
# the last of both stands for what is switched on
_CHANNEL = np.array([CHANNELS.index(name) if ALL[name].carriers == "table" else -1 for name in NAMES] + [-1])
_KINDS = ("", "table", "items", "vectors")
_ITEMS, _VECTORS = _KINDS.index("items"), _KINDS.index("vectors")
_INTEREST, _NEXT_INTEREST = COLUMN["interest"], COLUMN["next-interest"]
_KIND = np.array([_KINDS.index(ALL[name].carriers) for name in NAMES] + [0])


@torch.inference_mode()
def explain(
    table: ItemTable, batch: MicroBatch, scored: Scored, columns: torch.Tensor, rows: torch.Tensor, item_ids: list[str]
) -> list[list[list[Reason]]]:
    """Why these items: the signals that lift them most above the average item, and the past events that carried those.

    For the network these are the events nearest to the item among its own item vectors, for the interests those nearest
    by text, for a table of partners those that it led from. An item that explores is there because it is new.

    Shape: columns (B, k) among the candidates, beyond them for an item that explores; rows (B, k) of the catalogue ->
    for each user and item its reasons.
    """
    k, listed = rows.shape[1], rows.numpy().astype(np.int32)
    optional = optional_names(table.scorer)
    share, signal = _strongest(scored, columns.numpy(), optional)  # (B, k, reasons)
    carried_by = _carried_by(table, batch, scored, listed, signal)
    told = share >= LEAST_SHARE
    reasons = _reasons(
        told, share, signal, _interest_numbers(table, batch, listed, signal), carried_by, item_ids, [*NAMES, *optional]
    )
    _tell_words(table, batch, listed, signal, told, reasons)
    _add_relations(table, listed, told, signal, carried_by, reasons)
    ends = told.sum(2).cumsum().tolist()
    each = [reasons[first:last] for first, last in zip([0, *ends], ends)]
    for at in (columns.flatten() == scored.rows.shape[1]).nonzero()[:, 0].tolist():
        each[at] = [Reason("new", 1.0)]
    return [each[at : at + k] for at in range(0, len(each), k)]


def _strongest(scored: Scored, columns: np.ndarray, optional: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The signals that lift items most above the average one, with their shares; (B, k) -> (B, k, reasons) each."""
    average = scored.others.mean(1) if scored.others.shape[1] else torch.zeros(len(columns), len(_GIVEN))
    average = torch.cat((average, scored.signals[..., len(SIGNALS) :].mean(1)), 1)
    which = np.append(_GIVEN_COLUMNS, len(NAMES) + np.arange(len(optional)))
    had_only = np.array([ALL[name].had_only for name in [*_GIVEN, *optional]])
    share = np.zeros((*columns.shape, REASONS), np.float32)
    signal = np.zeros((*columns.shape, REASONS), np.int64)
    given = (part.numpy() for part in (scored.signals, scored.terms, scored.weights, average))
    over_users(_strongest_of, len(columns), *given, len(SIGNALS), which, had_only, columns, share, signal)
    return share, signal


@njit(cache=True, nogil=True)
def _strongest_of(first, last, signals, terms, weights, average, learnt, given, had_only, columns, share, signal):
    names = learnt + terms.shape[2]
    for b in range(first, last):
        for j in range(columns.shape[1]):
            c, total = columns[b, j], np.float32(0)
            if c >= signals.shape[1]:
                continue
            for at in range(len(given)):
                which = given[at]
                if which < learnt:
                    value, weight = signals[b, c, which], weights[b, which]
                elif which < names:
                    value, weight = terms[b, c, which - learnt], np.float32(1)
                else:
                    at_optional = which - terms.shape[2]
                    value, weight = signals[b, c, at_optional], weights[b, at_optional]
                lift = (value - average[b, at]) * weight
                if lift <= 0 or (had_only[at] and value == 0):
                    continue
                total += lift
                if lift > share[b, j, 0]:
                    share[b, j, 1], signal[b, j, 1] = share[b, j, 0], signal[b, j, 0]
                    share[b, j, 0], signal[b, j, 0] = lift, which
                elif lift > share[b, j, 1]:
                    share[b, j, 1], signal[b, j, 1] = lift, which
            for r in range(share.shape[2]):
                share[b, j, r] /= max(total, np.float32(1e-12))


def _reasons(
    told: np.ndarray,
    share: np.ndarray,
    signal: np.ndarray,
    number: np.ndarray,
    carried_by: np.ndarray,
    item_ids: list[str],
    names: list[str],
) -> list[Reason]:
    """Put those that are told into words, one after the other.

    Shape: told, share, signal, number (B, k, reasons), carried_by (B, k, reasons, 2).
    """
    a, b = carried_by[told].T.tolist()
    events = [[] if x < 0 else [item_ids[x]] if y < 0 or y == x else [item_ids[x], item_ids[y]] for x, y in zip(a, b)]
    told_by = [names[at] for at in signal[told].tolist()]
    shares = share[told].astype(float).round(3).tolist()
    numbers = [which if which >= 0 else None for which in number[told].tolist()]
    return list(map(Reason, told_by, shares, numbers, events))


def _tell_words(
    table: ItemTable, batch: MicroBatch, rows: np.ndarray, signal: np.ndarray, told: np.ndarray, reasons: list[Reason]
) -> None:
    """Add the words that carry a signal, of a family that knows some.

    Shape: rows (B, k), signal, told (B, k, reasons), reasons one for each that is told.
    """
    first = len(NAMES)
    for family in table.scorer.optional:
        last = first + len(family.names)
        words = getattr(family, "words", None)
        if words is not None:
            b, j, _ = np.nonzero(told)
            for at in np.flatnonzero((first <= signal[told]) & (signal[told] < last)).tolist():
                reasons[at] = replace(reasons[at], keywords=words(table, batch, int(b[at]), int(rows[b[at], j[at]])))
        first = last


def _add_relations(
    table: ItemTable,
    rows: np.ndarray,
    told: np.ndarray,
    signal: np.ndarray,
    carried_by: np.ndarray,
    reasons: list[Reason],
) -> None:
    """By which relation an item is near to the events that carry it; one that goes by another is not named.

    Shape: rows (B, k), told and signal (B, k, reasons), carried_by (B, k, reasons, 2); reasons as many as are told.
    """
    first, places, which = len(NAMES), np.argwhere(told), signal[told]
    for family in table.scorer.optional:
        last = first + len(family.names)
        if isinstance(family, Relating):
            for number in np.flatnonzero((first <= which) & (which < last)).tolist():
                b, j, r = places[number]
                events = [row for row in dict.fromkeys(carried_by[b, j, r].tolist()) if row >= 0]
                said = [family.relation(table, int(rows[b, j]), row) for row in events]
                if said and said[0]:
                    items = [item for item, one in zip(reasons[number].items, said) if one == said[0]]
                    reasons[number] = replace(reasons[number], relation=said[0], items=items)
        first = last


def _interest_numbers(table: ItemTable, batch: MicroBatch, rows: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """The interest that speaks most for each item where the signal is one of interests, else -1; (B, k, reasons)."""
    number, vectors = np.full(signal.shape, -1), table.index.catalogue.interest_vectors
    weights = batch.weights.numpy(), batch.led_to.numpy()
    over_users(_nearest_interest, len(rows), rows, vectors, batch.interests.numpy(), *weights, signal, number)
    return number


@njit(cache=True, nogil=True)
def _nearest_interest(first, last, rows, vectors, interests, weights, led_to, signal, number):
    for b in range(first, last):
        for j in range(rows.shape[1]):
            for r in range(signal.shape[2]):
                if signal[b, j, r] != _INTEREST and signal[b, j, r] != _NEXT_INTEREST:
                    continue
                best = -np.inf
                for a in range(interests.shape[1]):
                    weight = weights[b, a] if signal[b, j, r] == _INTEREST else led_to[b, a]
                    near = SHARPNESS * _product(vectors[rows[b, j]], interests[b, a]) + np.log(weight)
                    if near > best or number[b, j, r] < 0:
                        best, number[b, j, r] = near, a


def _carried_by(
    table: ItemTable, batch: MicroBatch, scored: Scored, rows: np.ndarray, signal: np.ndarray
) -> np.ndarray:
    """The items of the past events that carry each signal most, -1 for none.

    Shape: rows (B, k), signal (B, k, reasons) -> (B, k, reasons, events) rows.
    """
    history, users = batch.host.history, len(rows)
    registered = signal.clip(max=len(NAMES))
    channel, kind = _CHANNEL[registered], _KIND[registered]
    amounts = np.zeros((*signal.shape, history.shape[1]), np.float32)
    over_users(carriers, users, scored.sources, history, rows, channel, amounts)
    vectors = table.host_items, table.index.catalogue.interest_vectors
    over_users(_nearest_events, users, history, rows, *vectors, kind, amounts)
    _carried_by_optional(table, batch, rows, signal, amounts)
    best = np.full((*signal.shape, _EVENTS), -1, np.int64)
    over_users(_largest_two, users, amounts, history, batch.kind.numpy() == EVENT, best)
    return best


def _carried_by_optional(
    table: ItemTable, batch: MicroBatch, rows: np.ndarray, signal: np.ndarray, amounts: np.ndarray
) -> None:
    """Shape: rows (B, k), signal (B, k, reasons), amounts (B, k, reasons, T)."""
    first = len(NAMES)
    for family in table.scorer.optional:
        last = first + len(family.names)
        b, j, r = ((first <= signal) & (signal < last)).nonzero()
        if len(b):
            amounts[b, j, r] = family.carried(table, batch, rows)[b, j]
        first = last


@njit(cache=True, inline="always")
def _product(a, b):
    total = np.float32(0)
    for d in range(len(a)):
        total += a[d] * b[d]
    return total


@njit(cache=True, nogil=True, fastmath=VECTORISED)
def _nearest_events(first, last, history, rows, items, vectors, kind, amounts):
    for b in range(first, last):
        for j in range(rows.shape[1]):
            for r in range(kind.shape[2]):
                if kind[b, j, r] != _ITEMS and kind[b, j, r] != _VECTORS:
                    continue
                for t in range(history.shape[1]):
                    if history[b, t] < 0:
                        continue
                    if kind[b, j, r] == _ITEMS:
                        amounts[b, j, r, t] = _product(items[rows[b, j]], items[history[b, t]])
                    else:
                        amounts[b, j, r, t] = _product(vectors[rows[b, j]], vectors[history[b, t]])


@njit(cache=True, nogil=True)
def _largest_two(first, last, amounts, history, is_event, best):
    """The items of the past events with the two largest amounts above 0, the earlier one of two that are alike."""
    for b in range(first, last):
        for j in range(amounts.shape[1]):
            for r in range(amounts.shape[2]):
                largest, second = np.float32(0), np.float32(0)
                for t in range(amounts.shape[3]):
                    amount = amounts[b, j, r, t] if is_event[b, t] else np.float32(0)
                    if amount > largest:
                        second, best[b, j, r, 1] = largest, best[b, j, r, 0]
                        largest, best[b, j, r, 0] = amount, history[b, t]
                    elif amount > second:
                        second, best[b, j, r, 1] = amount, history[b, t]
