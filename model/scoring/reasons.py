"""Reasons: which signals put an item on a list, and which of the user's past events carried them."""

import numpy as np
import torch
import torch.nn.functional as F

from model.schema import Reason
from model.scoring.batch import MicroBatch
from model.scoring.feedback import TERMS
from model.scoring.network import EVENT
from model.scoring.ranker import Scores
from model.scoring.signals import FOLLOWING, SHARPNESS, SIGNALS, at_rows, led, recencies
from model.scoring.table import NEIGHBOURS, Table, padded

REASONS = 2
"""At most so many are given for an item."""
LEAST_SHARE = 0.05
"""A signal with a smaller share of the score is no reason."""
_EVENTS = 2  # past events named in a reason, at most
NAMES = [*SIGNALS, *TERMS]
_OF_WHAT_WAS_HAD = {
    "had",
    "had-lately",
    "had-near",
}  # that a user never had an item is no reason for it, though it lifts it
_CARRIED_BY = {"network": "items", "interest": "vectors", "next-interest": "vectors", "liked": "vectors"} | {
    name: name for name in (*FOLLOWING, "text")
}
"""How the past events that carry a signal are found; those that carry the others are not known."""


@torch.inference_mode()
def explain(
    table: Table, batch: MicroBatch, scored: Scores, rows: torch.Tensor, new: torch.Tensor, item_ids: list[str]
) -> list[list[list[Reason]]]:
    """Why these items: the signals that lift them most above the average item, and the past events that carried those.

    For the network these are the events nearest to the item among its own item vectors, for the interests those nearest
    by text, for a counted table those that it led from.

    An item that explores is there because it is new.

    Shape: rows (B, k), new (B, k) bool -> for each user and item its reasons.
    """
    share, signal = _strongest(scored, rows)  # (B, k, reasons)
    events = _carriers(table, batch, rows, signal)
    past = batch.history[:, None, None].expand(*signal.shape, -1)
    carried_by = torch.where(events >= 0, past.gather(3, events.clamp(min=0)), len(item_ids))
    reasons = _reasons(share, signal, _interest_numbers(table, batch, rows, signal), carried_by, item_ids)
    most, k = signal.shape[2], rows.shape[1]
    told = [
        reasons[at : at + count]
        for at, count in zip(range(0, len(reasons), most), (share >= LEAST_SHARE).sum(2).flatten().tolist())
    ]
    for at in new.flatten().nonzero()[:, 0].tolist():
        told[at] = [Reason("new", 1.0)]
    return [told[at : at + k] for at in range(0, len(told), k)]


def _strongest(scored: Scores, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The signals that lift items most above the average one, with their shares; (B, k) -> (B, k, reasons) each."""
    found = scored.found | scored.said
    columns = torch.tensor([NAMES.index(name) for name in found], device=rows.device)
    average = torch.stack([signal.mean(1).expand(len(rows)) for signal in found.values()], 1)  # (B, found)
    weights = F.pad(scored.weights, (0, len(TERMS)), value=1.0)[:, None, columns]
    signals = at_rows(found, rows)  # (B, k, found)
    lift = (signals - average[:, None]).mul_(weights).clamp_(min=0)
    lift.masked_fill_(
        torch.tensor([name in _OF_WHAT_WAS_HAD for name in found], device=rows.device) & (signals == 0), 0.0
    )
    most = (lift / lift.sum(2, keepdim=True).clamp(min=1e-12)).topk(min(REASONS, lift.shape[2]))
    return most.values, columns[most.indices]


def _reasons(
    share: torch.Tensor, signal: torch.Tensor, number: torch.Tensor, carried_by: torch.Tensor, item_ids: list[str]
) -> list[Reason]:
    """Put into words.

    Shape: share, signal, number (B, k, reasons), carried_by (B, k, reasons, 2) -> B * k * reasons.
    """
    first, second = np.array([*item_ids, ""], object)[carried_by.cpu().numpy()].reshape(-1, _EVENTS).T.tolist()
    carriers = [[a, b] if b and a != b else [a] if a else [] for a, b in zip(first, second)]
    names = np.array(NAMES, object)[signal.cpu().numpy()].ravel().tolist()
    shares = share.cpu().numpy().ravel().astype(float).round(3).tolist()
    numbers = number.flatten().tolist()
    return list(map(Reason, names, shares, (which if which >= 0 else None for which in numbers), carriers))


def _interest_numbers(table: Table, batch: MicroBatch, rows: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """The interest that speaks most for each item where the signal is one of interests, else -1; (B, k, reasons)."""
    near = (batch.interests @ table.vectors[rows].mT).mT * SHARPNESS  # (B, k, I)
    number = torch.full_like(signal, -1)
    for name, weights in (("interest", batch.weights), ("next-interest", batch.led_to)):
        best = (near + weights[:, None].log()).argmax(2)
        number = torch.where(signal == NAMES.index(name), best[..., None], number)
    return number


def _carriers(table: Table, batch: MicroBatch, rows: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """The past events that carry each signal most, -1 for none; (B, k), (B, k, reasons) -> (B, k, reasons, events)."""
    kinds = [_CARRIED_BY.get(name, "") for name in NAMES]
    places = _places(rows, len(table.bias))
    amounts = {kind: _amounts(table, batch, rows, places, kind) for kind in dict.fromkeys(kinds)}
    place = torch.tensor([list(amounts).index(kind) for kind in kinds], device=rows.device)
    stacked = torch.stack(list(amounts.values()), 2)  # (B, k, kinds, T)
    chosen = stacked.gather(2, place[signal][..., None].expand(-1, -1, -1, stacked.shape[3]))  # (B, k, reasons, T)
    chosen = chosen.masked_fill_((batch.kind != EVENT)[:, None, None], 0.0)
    best = F.pad(chosen, (0, 1)).topk(_EVENTS)
    return torch.where(best.values > 0, best.indices, -1)


def _amounts(table: Table, batch: MicroBatch, rows: torch.Tensor, places: torch.Tensor, kind: str) -> torch.Tensor:
    """How much each past event speaks for each item; (B, k), (B, n + 1) -> (B, k, T)."""
    if kind in NEIGHBOURS:
        return _led_from(table, batch, places, rows.shape[1], kind)
    if not kind:
        return torch.zeros(*rows.shape, batch.history.shape[1], device=rows.device)
    vectors = table.items if kind == "items" else padded(table.vectors)
    return vectors[rows] @ vectors[batch.history].mT


def _places(rows: torch.Tensor, n: int) -> torch.Tensor:
    """Where each item stands among the k listed, k for one that is not; (B, k) -> (B, n + 1) int16, small to read."""
    B, k = rows.shape
    places = torch.full((B, n + 1), k, dtype=torch.int16, device=rows.device)
    return places.scatter_(1, rows, torch.arange(k, dtype=torch.int16, device=rows.device).expand(B, -1))


def _led_from(table: Table, batch: MicroBatch, places: torch.Tensor, k: int, name: str) -> torch.Tensor:
    """How much of an item's sum in a counted table came from each past event; places (B, n + 1) -> (B, k, T)."""
    items, weights = led(table, batch, name)  # (B, T, c)
    B, T = batch.history.shape
    listed = places.gather(1, items.flatten(1)).view(B, T, -1).long()
    amount = weights.new_zeros(B, T, k + 1).scatter_add_(2, listed, weights)
    return (amount[..., :k] * recencies(T, places.device, name)[:, None]).mT
