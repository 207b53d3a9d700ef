"""Reasons: which signals put an item on a list, and which of the user's past events carried them."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from model.jit import njit
from model.schema import Reason
from model.scoring.batch import MicroBatch
from model.scoring.network import EVENT
from model.scoring.ranker import Scored
from model.scoring.retrieve import CHANNELS, carriers
from model.scoring.signals import SHARPNESS
from model.scoring.table import ItemTable
from model.scoring.threads import over_users
from model.signals import ALL, COLUMN, FINDING, NAMES, TERMS

REASONS = 2
"""At most so many are given for an item."""
LEAST_SHARE = 0.05
"""A signal with a smaller share of the score is no reason."""
_EVENTS = 2  # past events named in a reason, at most
_GIVEN = [*FINDING, *TERMS]  # what may be a reason
_GIVEN_COLUMNS = torch.tensor([COLUMN[name] for name in _GIVEN])
_HAD_ONLY = torch.tensor([ALL[name].had_only for name in _GIVEN])
_CHANNEL = np.array([CHANNELS.index(name) if ALL[name].carriers == "table" else -1 for name in NAMES])
_KINDS = ("", "table", "items", "vectors")
_ITEMS, _VECTORS = _KINDS.index("items"), _KINDS.index("vectors")
_KIND = np.array([_KINDS.index(ALL[name].carriers) for name in NAMES])


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
    share, signal = _strongest(scored, columns)  # (B, k, reasons)
    events = _carriers(table, batch, scored, rows.numpy(), signal.numpy())
    past = batch.host.history[:, None, None].repeat(rows.shape[1], 1).repeat(signal.shape[2], 2)
    carried_by = np.where(events >= 0, np.take_along_axis(past, events.clip(min=0), 3), -1)
    told = (share >= LEAST_SHARE).numpy()
    reasons = _reasons(told, share, signal, _interest_numbers(table, batch, rows, signal), carried_by, item_ids)
    ends, k = told.sum(2).cumsum().tolist(), rows.shape[1]
    each = [reasons[first:last] for first, last in zip([0, *ends], ends)]
    for at in (columns.flatten() == scored.rows.shape[1]).nonzero()[:, 0].tolist():
        each[at] = [Reason("new", 1.0)]
    return [each[at : at + k] for at in range(0, len(each), k)]


def _strongest(scored: Scored, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The signals that lift items most above the average one, with their shares; (B, k) -> (B, k, reasons) each."""
    given = _GIVEN_COLUMNS
    every = F.pad(torch.cat((scored.signals, scored.terms), 2), (0, 0, 0, 1))[..., given]
    signals = every.gather(1, columns[..., None].expand(-1, -1, len(given)))  # (B, k, given)
    weights = F.pad(scored.weights, (0, len(TERMS)), value=1.0)[:, None, given]
    average = scored.others.mean(1, keepdim=True) if scored.others.shape[1] else torch.zeros_like(weights)
    lift = (signals - average).mul_(weights).clamp_(min=0)
    lift.masked_fill_(_HAD_ONLY & (signals == 0), 0.0)
    most = (lift / lift.sum(2, keepdim=True).clamp(min=1e-12)).topk(min(REASONS, lift.shape[2]))
    return most.values, given[most.indices]


def _reasons(
    told: np.ndarray,
    share: torch.Tensor,
    signal: torch.Tensor,
    number: torch.Tensor,
    carried_by: np.ndarray,
    item_ids: list[str],
) -> list[Reason]:
    """Put those that are told into words, one after the other.

    Shape: told, share, signal, number (B, k, reasons), carried_by (B, k, reasons, 2).
    """
    a, b = carried_by[told].T.tolist()
    events = [[] if x < 0 else [item_ids[x]] if y < 0 or y == x else [item_ids[x], item_ids[y]] for x, y in zip(a, b)]
    names = [NAMES[at] for at in signal.numpy()[told].tolist()]
    shares = share.numpy()[told].astype(float).round(3).tolist()
    numbers = [which if which >= 0 else None for which in number.numpy()[told].tolist()]
    return list(map(Reason, names, shares, numbers, events))


def _interest_numbers(table: ItemTable, batch: MicroBatch, rows: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """The interest that speaks most for each item where the signal is one of interests, else -1; (B, k, reasons)."""
    near = (batch.interests @ _vectors(table, rows).mT).mT * SHARPNESS  # (B, k, I)
    number = torch.full_like(signal, -1)
    for name, weights in (("interest", batch.weights), ("next-interest", batch.led_to)):
        best = (near + weights[:, None].log()).argmax(2)
        number = torch.where(signal == COLUMN[name], best[..., None], number)
    return number


def _vectors(table: ItemTable, rows: torch.Tensor) -> torch.Tensor:
    """Vectors in the interest space; (...) rows -> (..., 64)."""
    return torch.from_numpy(table.index.catalogue.interest_vectors[rows.numpy()])


def _item_vectors(table: ItemTable, rows: torch.Tensor) -> torch.Tensor:
    """The network's; (...) rows -> (..., width)."""
    return torch.from_numpy(table.host_items)[rows]


def _carriers(table: ItemTable, batch: MicroBatch, scored: Scored, rows: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """The past events that carry each signal most, -1 for none; (B, k), (B, k, reasons) -> (B, k, reasons, events)."""
    history, kind = batch.host.history, _KIND[signal]
    amounts = np.zeros((*signal.shape, history.shape[1]), np.float32)
    over_users(carriers, len(history), scored.sources, history, rows.astype(np.int32), _CHANNEL[signal], amounts)
    past, listed = batch.history.masked_fill(batch.history == batch.none, 0), torch.from_numpy(rows)
    for number, vectors in ((_ITEMS, partial(_item_vectors, table)), (_VECTORS, partial(_vectors, table))):
        wanted = kind == number
        if wanted.any():
            near = (vectors(listed) @ vectors(past).mT).numpy()  # (B, k, T)
            amounts = np.where(wanted[..., None], near[:, :, None], amounts)
    best = np.full((*signal.shape, _EVENTS), -1, np.int64)
    over_users(_largest_two, len(history), amounts, batch.kind.numpy() == EVENT, best)
    return best


@njit(cache=True, nogil=True)
def _largest_two(first, last, amounts, is_event, best):
    """The past events with the two largest amounts above 0, the earlier one of two that are alike."""
    for b in range(first, last):
        for j in range(amounts.shape[1]):
            for r in range(amounts.shape[2]):
                largest, second = 0.0, 0.0
                for t in range(amounts.shape[3]):
                    amount = amounts[b, j, r, t] if is_event[b, t] else 0.0
                    if amount > largest:
                        second, best[b, j, r, 1] = largest, best[b, j, r, 0]
                        largest, best[b, j, r, 0] = amount, t
                    elif amount > second:
                        second, best[b, j, r, 1] = amount, t
