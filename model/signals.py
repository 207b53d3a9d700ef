"""Named signals: each says of every item how well it would go with a user now, in one way.

A family is one function from what is known of the items and a micro-batch to one or more signals, each a number per
user and item on the scale of a log probability. `FAMILIES` names them in the order in which the blend holds their
weights; a new signal is a new entry there.

Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data (EASE), 2019, arXiv:1905.03375 (one of the counted tables).
"""

from collections.abc import Callable

import torch

from model.batch import MicroBatch
from model.table import NEAR, Table

Family = Callable[[Table, MicroBatch], list[torch.Tensor]]
"""Gives its signals, each (B, n), or (1, n) where it is the same for every user."""
RECENCY = 0.85
"""An event counts this much less than the next one."""
SHARPNESS = 8.0
"""tau of the interest formula: cosines of 1 and 0 lie e**8 apart."""
_FOLLOWING = ("transitions", "recent-transitions", "ease")
_TEXT_SCALE = 5.0  # from a cosine to the scale of a log probability
_NO_INTEREST = 1e-9
_ALIKE = 0.9  # what a shared item counts for being alike, beside the next newer one
_SHARED = 128  # places of peers that are looked around, at most
_NEARER = 0.9  # what one place further away counts


def recencies(T: int, device: torch.device) -> torch.Tensor:
    """How much each of the last T events counts, the newest last; (T,)."""
    return RECENCY ** torch.arange(T - 1, -1, -1, device=device)


def led(table: Table, batch: MicroBatch, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each past event leads by a counted table, looked up once for a micro-batch.

    Shape: items (B, T, c) rows of the catalogue, n for none, and weights (B, T, c).
    """
    if name not in batch.led:
        batch.led[name] = table.led(name, batch.history)
    return batch.led[name]


def _network(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """What the network makes of the last events."""
    hidden = table.network(table.items[batch.history], batch.gaps, batch.actions, batch.kind, newest=True)[:, 0]  # (B, width)
    return [hidden @ table.items[:-1].mT + table.bias]


def _popularity(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """How often the item was chosen, old choices fading."""
    return list(table.log_counts[:, None])


def _following(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """How strongly the last events lead to the item, by a counted table; the newest event counts most."""
    recency = recencies(batch.history.shape[1], batch.history.device)[:, None]
    signals = []
    for name in _FOLLOWING:
        items, weights = led(table, batch, name)
        sums = weights.new_zeros(len(batch.history), len(table.bias) + 1)
        sums.scatter_add_(1, items.flatten(1), (weights * recency).flatten(1))
        signals.append(sums[:, :-1].add_(table.back_off).log_())
    return signals


def _peers(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """What stands near the user's last items in the histories of those who are most alike."""
    places = table.places(batch.history)  # (B, T, PLACES)
    (B, T, P), n = places.shape, len(table.bias)
    if not places.numel():
        return [table.back_off.log().expand(B, n)]
    recency = _ALIKE ** torch.arange(T - 1, -1, -1, device=places.device)
    weights = (recency * table.rarity[batch.history])[..., None].expand(B, T, P)
    shared, amounts = _most_alike(places.flatten(1), weights.flatten(1), *table.taken.shape)
    near, nearness = table.near(shared), _NEARER ** torch.arange(NEAR, device=places.device)
    votes = (amounts[..., None] * torch.cat((nearness, nearness))).flatten(1)  # (B, shared * 2 NEAR)
    votes = amounts.new_zeros(B, n + 1).scatter_add_(1, near.flatten(1), votes)[:, :-1]
    return [(votes / votes.sum(1, keepdim=True).clamp(min=1e-9)).add_(table.back_off).log_()]


def _most_alike(places: torch.Tensor, weights: torch.Tensor, u: int, L: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The shared places that say most, and how much: a place says the more, the more its peer shares with the user.

    Shape: places (B, s) of shared items in the histories of u peers, -1 for none, and weights (B, s) -> places (B, p),
    amounts (B, p), 0 for none.
    """
    owner = torch.where(places >= 0, places // L, u)  # (B, s)
    alike = weights.new_zeros(len(places), u + 1).scatter_add_(1, owner, weights)
    alike[:, u] = 0.0
    best = (weights * alike.gather(1, owner)).topk(min(_SHARED, places.shape[1]))
    return places.gather(1, best.indices).clamp_(min=0), best.values


def _text(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """The largest similarity of the item's text to one of the last events."""
    items, weights = led(table, batch, "text")
    best = weights.new_zeros(len(batch.history), len(table.bias) + 1)
    best.scatter_reduce_(1, items.flatten(1), weights.flatten(1), "amax")
    return [best[:, :-1].mul_(_TEXT_SCALE)]


def _interest(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """log sum_a w_a exp(tau h_a . h_i): how near the item is to the user's interests, to those that come next."""
    near = batch.interests.flatten(0, 1) @ (SHARPNESS * table.vectors.mT)
    near = near.exp_().view(*batch.weights.shape, -1)  # (B, I, n)
    weights = torch.stack((batch.weights, batch.led_to), 1)  # (B, 2, I)
    some = weights.sum(2, keepdim=True) > 0
    sums = torch.where(some, weights, 1.0) @ near  # (B, 2, n)
    return list(sums.add_(_NO_INTEREST).log_().mul_(some).unbind(1))


FAMILIES: tuple[tuple[Family, dict[str, float]], ...] = (
    (_network, {"network": 0.0}),
    (_popularity, {"popular": 0.0, "lately-popular": 0.0, "trending": 0.0, "trending-now": 0.0}),
    (_following, dict.fromkeys(_FOLLOWING, 0.0)),
    (_peers, {"peers": 0.0}),
    (_text, {"text": 0.0}),
    (_interest, {"interest": 1.0, "next-interest": 0.5}),
)
"""Function, and the names of its signals with their weights before anything is learnt."""
SIGNALS = {name: weight for _, names in FAMILIES for name, weight in names.items()}
"""All of them, in the blend's order."""
FIRST_WEIGHTS = {"network": 0.8, "trending": 0.1, "transitions": 0.1, "recent-transitions": 0.1, "ease": 0.1, "peers": 0.1, "text": 0.05}
"""Weights from which learning sets out; 0 for the others."""


def signals(table: Table, batch: MicroBatch) -> list[torch.Tensor]:
    """Every signal, in the order of `SIGNALS`; what is not a number counts as 0."""
    return [signal.nan_to_num(0.0) for family, _ in FAMILIES for signal in family(table, batch)]
