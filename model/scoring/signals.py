"""Named signals: each says of an item how well it would go with a user now, in one way.

A family is one function from what is known of the items and a micro-batch to one or more signals, each a number per
user and item on the scale of a log probability. Most are computed of every item; those that cost more than they find
are computed of the candidates only. `FAMILIES` names them in the order in which the blend holds their weights; a new
signal is a new entry there.

Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data (EASE), 2019, arXiv:1905.03375 (one of the counted
tables).
"""

from collections.abc import Callable, Collection
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F

from model.scoring.batch import MicroBatch
from model.scoring.table import NEAR, Table

Found = dict[str, torch.Tensor]
"""Signals of every item by name: (B, n) each, or (1, n) where it is the same for every user."""


class Family(NamedTuple):
    """One function for one or more signals: `everywhere` gives them for all items, (B, n) or (1, n) each; `at` for some
    rows (B, c) only, from what was found of all items, (B, c) each. `weights` are those before anything is learnt.
    """

    weights: dict[str, float]
    everywhere: Callable[[Table, MicroBatch], list[torch.Tensor]] | None = None
    at: Callable[[Table, MicroBatch, Found, torch.Tensor], list[torch.Tensor]] | None = None


SHARPNESS = 8.0
"""tau of the interest formula: cosines of 1 and 0 lie e**8 apart."""
FOLLOWING = {"transitions": 0.85, "recent-transitions": 0.85, "next": 0.5, "ease": 0.85}
"""Counted tables, and how much less an event counts in each than the next one."""
_SPREADING = ("transitions", "recent-transitions")
_TEXT_SCALE = _TASTE_SCALE = 5.0  # from a cosine, or a share, to the scale of a log probability
_NO_INTEREST = 1e-9
_ALIKE = 0.9  # what a shared item counts for being alike, beside the next newer one
_SHARED = 128  # places of peers that are looked around, at most
_NEARER = 0.9  # what one place further away counts
_LONG_AGO = 20.0  # log of the seconds after which it hardly matters when
_STEP_BACK = 0.8  # what one event further back counts


def recencies(T: int, device: torch.device, name: str) -> torch.Tensor:
    """How much each of the last T events counts in a counted table, the newest last; (T,)."""
    return FOLLOWING.get(name, 1.0) ** torch.arange(T - 1, -1, -1, device=device)


def led(table: Table, batch: MicroBatch, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each past event leads by a counted table, looked up once for a micro-batch.

    Shape: items (B, T, c) rows of the catalogue, n for none, and weights (B, T, c).
    """
    if name not in batch.led:
        batch.led[name] = table.led(name, batch.history)
    return batch.led[name]


def _network(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """What the network makes of the last events."""
    hidden = table.network(table.items[batch.history], batch.gaps, batch.actions, batch.kind, newest=True)[
        :, 0
    ]  # (B, width)
    return [hidden @ table.items[:-1].mT + table.bias]


def _popularity(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """How often the item was chosen, old choices fading."""
    return list(table.log_counts[:, None].clone())


def _age(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """How long ago the item was chosen for the first time."""
    return [table.age[None]]


def _following(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """How strongly the last events lead to the item, by a counted table; the newest event counts most."""
    signals = []
    for name in FOLLOWING:
        items, weights = led(table, batch, name)
        recency = recencies(batch.history.shape[1], batch.history.device, name)[:, None]
        sums = weights.new_zeros(len(batch.history), len(table.bias) + 1)
        sums.scatter_add_(1, items.flatten(1), (weights * recency).flatten(1))
        signals.append(sums[:, :-1].add_(table.back_off).log_())
    return signals


def _peers(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """What stands near the user's last items in the histories of those who are most alike."""
    places = table.places(batch.history)  # (B, T, PLACES)
    (B, T, P), n = places.shape, len(table.bias)
    if not places.numel():
        return [table.back_off.log()[None]]
    recency = _ALIKE ** torch.arange(T - 1, -1, -1, device=places.device)
    weights = (recency * table.rarity[batch.history])[..., None].expand(B, T, P)
    shared, amounts = _most_alike(places.flatten(1), weights.flatten(1), *table.taken.shape)
    near, nearness = table.near(shared), _NEARER ** torch.arange(NEAR, device=places.device)
    votes = (amounts[..., None] * torch.cat((nearness, nearness))).flatten(1)  # (B, shared * 2 NEAR)
    votes = amounts.new_zeros(B, n + 1).scatter_add_(1, near.flatten(1), votes)[:, :-1]
    return [(votes / votes.sum(1, keepdim=True).clamp(min=1e-9)).add_(table.back_off).log_()]


def _most_alike(places: torch.Tensor, weights: torch.Tensor, u: int, L: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The shared places that say most, and how much: a place says the more, the more its peer shares with the user.

    Shape: places (B, s) of shared items in the histories of u peers, L to each, -1 for none, and weights (B, s) ->
    places (B, p), amounts (B, p), 0 for none.
    """
    owner = (places.div(L, rounding_mode="floor") + 1).long()  # (B, s), 0 for none
    alike = weights.new_zeros(len(places), u + 1).scatter_add_(1, owner, weights)
    alike[:, 0] = 0.0
    amounts = alike.gather(1, owner).mul_(weights)
    most = amounts.topk(min(_SHARED, amounts.shape[1]), sorted=False)
    return places.gather(1, most.indices).long().clamp_(min=0), most.values


def _text(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """The largest similarity of the item's text to one of the last events."""
    items, weights = led(table, batch, "text")
    largest = weights.new_zeros(len(batch.history), len(table.bias) + 1)
    largest.scatter_reduce_(1, items.flatten(1), weights.flatten(1), "amax")
    return [largest[:, :-1].mul_(_TEXT_SCALE)]


def _spread(table: Table, batch: MicroBatch, found: Found, rows: torch.Tensor) -> list[torch.Tensor]:
    """How strongly the last events lead to the items whose texts are nearest: what a new item inherits."""
    items, weights = table.alike(rows)  # (B, c, ALIKE)
    led_to = reduce(torch.add, (found[name].gather(1, items.flatten(1)).exp_() for name in _SPREADING))
    return [(led_to.view_as(weights).mul_(weights).sum(2) + table.back_off[rows]).log_()]


def _taste(table: Table, batch: MicroBatch, found: Found, rows: torch.Tensor) -> list[torch.Tensor]:
    """How much all that the user ever consumed speaks for the item, old and new alike: by who else took both, and the
    share of the items with the nearest texts that is among it.
    """
    had = torch.zeros(len(rows), len(table.bias) + 1, device=rows.device)
    had[batch.owner, batch.had] = 1.0
    (items, weights), (like, alike) = table.led("taste", rows), table.alike(rows)  # (B, c, partners), (B, c, ALIKE)
    taste = (had.gather(1, items.flatten(1)).view_as(weights) * weights).sum(2)
    familiar = (had.gather(1, like.flatten(1)).view_as(alike) * alike).sum(2) / (alike.sum(2) + 1e-6)
    return [taste.mul_(_TASTE_SCALE), familiar.mul_(_TASTE_SCALE)]


def _order(table: Table, batch: MicroBatch, found: Found, rows: torch.Tensor) -> list[torch.Tensor]:
    """How far the item stands from the last one in the order in which items were first chosen, and whether after it."""
    last = batch.history[:, -1:]
    steps, known = table.first[rows] - table.first[last], (table.first[rows] >= 0) & (table.first[last] >= 0)
    apart = torch.where(known, steps, 0.0).abs().log1p()
    return [apart, apart * steps.sign()]


def _had(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """How often the user had the item, how lately, and how many events ago; 0 for an item that the user never had."""
    if not len(batch.had):
        return [table.age.new_zeros(1, len(table.bias))] * 3
    often, lately, near = table.age.new_zeros(3, len(batch.history), len(table.bias) + 1)
    often[batch.owner, batch.had] = batch.had_times.log1p()
    lately[batch.owner, batch.had] = 1 - batch.had_gaps_s.log1p() / _LONG_AGO
    T = batch.history.shape[1]
    steps = _STEP_BACK ** torch.arange(T - 1, -1, -1, device=near.device)
    near.scatter_reduce_(1, batch.history, steps.expand(len(near), T).contiguous(), "amax")
    return [signal[:, :-1] for signal in (often, lately, near)]


def _interest(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """How near the item is to the user's interests, to those that come next."""
    return _nearness(batch, _contrast(table, batch).flatten(0, 1) @ table.contrast[:-1].mT)


def _interest_at(table: Table, batch: MicroBatch, found: Found, rows: torch.Tensor) -> list[torch.Tensor]:
    return _nearness(batch, _contrast(table, batch) @ table.contrast[rows].mT)


def _contrast(table: Table, batch: MicroBatch) -> torch.Tensor:
    """The interests beside the mean of all items: what two texts share as all texts do is no nearness; (B, I, 64)."""
    return F.normalize(batch.interests - table.mean, dim=2)


def _nearness(batch: MicroBatch, cosines: torch.Tensor) -> list[torch.Tensor]:
    """log sum_a w_a exp(tau h_a . h_i), for both kinds of weights; 0 for a user without interests.

    Shape: cosines (B * I, n) or (B, I, n) -> (B, n) each.
    """
    near = (SHARPNESS * cosines).exp_().view(*batch.weights.shape, -1)  # (B, I, n)
    weights = torch.stack((batch.weights, batch.led_to), 1)  # (B, 2, I)
    some = weights.sum(2, keepdim=True) > 0
    sums = torch.where(some, weights, 1.0) @ near  # (B, 2, n)
    return list(sums.add_(_NO_INTEREST).log_().mul_(some).unbind(1))


FAMILIES = (
    Family({"network": 0.0}, _network),
    Family({"popularity": 0.0, "popularity-20k": 0.0, "popularity-2k": 0.0, "popularity-200": 0.0}, _popularity),
    Family({"age": 0.0}, _age),
    Family(dict.fromkeys(FOLLOWING, 0.0), _following),
    Family({"neighbour-users": 0.0}, _peers),
    Family({"had": -5.0, "had-lately": 0.0, "had-near": 0.0}, _had),
    Family({"text": 0.0}, _text),
    Family({"spread": 0.0}, at=_spread),
    Family({"taste": 0.0, "familiar": 0.0}, at=_taste),
    Family({"apart": 0.0, "ahead": 0.0}, at=_order),
    Family({"interest": 1.0, "next-interest": 0.5}, _interest, _interest_at),
)
SIGNALS = {name: weight for family in FAMILIES for name, weight in family.weights.items()}
"""All signals with their weights before anything is learnt, in the blend's order."""
FIRST_WEIGHTS = {"network": 0.8, "popularity-2k": 0.1, "text": 0.05, "had": -1.0} | dict.fromkeys(
    (*FOLLOWING, "neighbour-users"), 0.1
)
"""Weights from which learning sets out; 0 for the others."""
RETRIEVING = torch.tensor([family.at is None for family in FAMILIES for _ in family.weights])
"""The signals whose weights are learnt: they find the candidates, the others help to order them; (signals,) bool."""


def everywhere(table: Table, batch: MicroBatch, wanted: Collection[str]) -> Found:
    """The signals of every item, of the families of which one is wanted; what is not a number counts as 0."""
    found: Found = {}
    for family in FAMILIES:
        if family.everywhere and not family.weights.keys().isdisjoint(wanted):
            signals = family.everywhere(table, batch)
            found |= {name: signal.nan_to_num_(0.0) for name, signal in zip(family.weights, signals)}
    return found


def at_rows(found: Found, rows: torch.Tensor) -> torch.Tensor:
    """Signals of every item, of some of them; rows (B, c) -> (B, c, found)."""
    return torch.stack(
        [signal[0][rows] if len(signal) == 1 else signal.gather(1, rows) for signal in found.values()], 2
    )


def at(table: Table, batch: MicroBatch, found: Found, rows: torch.Tensor) -> torch.Tensor:
    """Every signal of some items, 0 for one that is not known; rows (B, c) -> (B, c, signals)."""
    columns: list[torch.Tensor] = []
    for family in FAMILIES:
        names = list(family.weights)
        if names[0] in found:
            columns += at_rows({name: found[name] for name in names}, rows).unbind(2)
        elif family.at and found.keys() >= set(_SPREADING):
            columns += [signal.nan_to_num(0.0) for signal in family.at(table, batch, found, rows)]
        else:
            columns += [torch.zeros(rows.shape, device=rows.device)] * len(names)
    return torch.stack(columns, 2)
