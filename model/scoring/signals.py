"""What each signal of the registry (model/signals.py) says of the candidates of a micro-batch.

A family is one function for one or more signals: (table, micro-batch, candidates) -> a number for each user and
candidate, on the scale of a log probability. The first families are computed of all that retrieval found, `BEST` of the
best of them only.

Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data (EASE), 2019, arXiv:1905.03375 (`ease`, `taste`).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from model.jit import njit
from model.scoring.batch import MicroBatch
from model.scoring.candidates import Candidates
from model.scoring.retrieve import CHANNELS, TEXT, TEXT_SCALE, _clear, _enter, look_around, slot_of
from model.scoring.table import ItemTable, back_off
from model.scoring.threads import over_users
from model.signals import FINDING, SIGNALS
from model.statistics import HALF_LIFE_2K, HALF_LIFE_20K

Signal = Callable[[ItemTable, MicroBatch, Candidates], list[torch.Tensor]]
SHARPNESS = 8.0
"""tau of the interest formula: cosines of 1 and 0 lie e**8 apart."""
ALIKE = 16
"""Items with the nearest texts from which an item inherits."""
_NO_INTEREST = 1e-9
_LONG_AGO = 20.0  # log of the seconds after which it hardly matters when
_STEP_BACK = 0.8  # what one event further back counts


def _network(table: ItemTable, batch: MicroBatch, found: Candidates) -> list[torch.Tensor]:
    """What the network makes of the last events."""
    products = (table.items_at(found.rows) @ found.hidden[:, :, None])[..., 0]
    return [products + table.bias(found.host_rows, found.log_popularity[..., HALF_LIFE_2K].cpu().numpy())]


def _popularity(table: ItemTable, batch: MicroBatch, found: Candidates) -> list[torch.Tensor]:
    """How often the item was chosen, old choices fading."""
    return list(found.log_popularity.unbind(2))


def _age(table: ItemTable, batch: MicroBatch, found: Candidates) -> list[torch.Tensor]:
    """How long ago the item was chosen for the first time."""
    first = torch.from_numpy(table.first(found.host_rows)).to(found.rows.device)
    ago = (table.statistics.seen - first).clamp(min=0).float()
    return [torch.where(first < 0, 0.0, torch.log1p(ago) / 3)]


def _sums(table: ItemTable, batch: MicroBatch, found: Candidates) -> list[torch.Tensor]:
    """How strongly the last events, or users alike, lead to the item, by tables of partners."""
    more = back_off(found.log_popularity[..., HALF_LIFE_20K])
    return [(found.sums[..., at] + more).log() for at in range(TEXT)]


def _text(table: ItemTable, batch: MicroBatch, found: Candidates) -> list[torch.Tensor]:
    """The largest similarity of the item's text to one of the last events."""
    return [TEXT_SCALE * found.sums[..., TEXT]]


def _had(table: ItemTable, batch: MicroBatch, found: Candidates) -> list[torch.Tensor]:
    """How often the user had the item, how lately, and how many events ago; 0 for an item that the user never had."""
    shape = found.host_rows.shape
    often, lately, near = (np.zeros(shape, np.float32) for _ in range(3))
    given = batch.host
    had = given.had, given.had_from, given.had_times, given.had_gaps_s
    over_users(_had_at, len(given.history), found.host_rows, *had, given.history, often, lately, near)
    return [torch.from_numpy(part).to(found.rows.device) for part in (often, lately, near)]


@njit(cache=True, nogil=True)
def _had_at(first, last, candidates, had, had_from, times, gaps_s, history, often, lately, near):
    slots, rows = np.full(1 << 14, -1, np.int32), np.zeros(1 << 13, np.int32)
    nothing = np.zeros((1 << 13, 0), np.float32)
    for b in range(first, last):
        count = 0
        for at in range(had_from[b], had_from[b + 1]):
            _, count = _enter(slots, rows, nothing, count, had[at])
        for c in range(candidates.shape[1]):
            item = candidates[b, c]
            at = slot_of(slots, rows, item) if item >= 0 else -1
            if at >= 0:
                often[b, c] = np.log1p(times[had_from[b] + at])
                lately[b, c] = 1 - np.log1p(gaps_s[had_from[b] + at]) / _LONG_AGO
            recency = 1.0
            for t in range(history.shape[1] - 1, -1, -1):
                if item >= 0 and history[b, t] == item:
                    near[b, c] = recency
                    break
                recency *= _STEP_BACK
        _clear(slots, rows, count)


def _interest(table: ItemTable, batch: MicroBatch, found: Candidates) -> list[torch.Tensor]:
    """How near the item is to the user's interests, and to those that come next.

    log sum_a w_a exp(tau h_a . h_i), for both kinds of weights; 0 for a user without interests.
    """
    interests = F.normalize(batch.interests - table.mean, dim=2)  # (B, I, 64): what all texts share is no nearness
    near = (SHARPNESS * (interests @ found.contrast(table).mT)).exp_()  # (B, I, c)
    weights = torch.stack((batch.weights, batch.led_to), 1)  # (B, 2, I)
    some = weights.sum(2, keepdim=True) > 0
    sums = torch.where(some, weights, 1.0) @ near  # (B, 2, c)
    return list(sums.add_(_NO_INTEREST).log_().mul_(some).unbind(1))


def _whole_history(table: ItemTable, batch: MicroBatch, found: Candidates) -> list[torch.Tensor]:
    """How strongly the last events lead to the items whose texts are nearest (what a new item inherits); how much all
    that the user ever consumed speaks for the item, by who else took both; and by the nearest texts among it.
    """
    rows = found.host_rows
    spread, taste, familiar = (np.zeros(rows.shape, np.float32) for _ in range(3))
    table.index.look_up(np.unique(rows))
    over_users(
        look_around, len(rows), found.sources, found.space, rows, (table.fitted_row, *table.fitted["taste"]),
        batch.host.had, batch.host.had_from, ALIKE, spread, taste, familiar,
    )  # fmt: skip
    inherited, tasted, known = (torch.from_numpy(part).to(found.rows.device) for part in (spread, taste, familiar))
    more = back_off(found.log_popularity[..., HALF_LIFE_20K])
    return [(inherited + more).log(), TEXT_SCALE * tasted, TEXT_SCALE * known]


def _order(table: ItemTable, batch: MicroBatch, found: Candidates) -> list[torch.Tensor]:
    """How far the item stands from the last one in the order in which items were first chosen, and whether after it."""
    first, last = table.first(found.host_rows), table.first(batch.host.history[:, -1:])
    steps = np.where((first >= 0) & (last >= 0), first - last, 0).astype(np.float32)
    apart = np.log1p(np.abs(steps))
    return [torch.from_numpy(part).to(found.rows.device) for part in (apart, apart * np.sign(steps))]


FAMILIES: dict[tuple[str, ...], Signal] = {
    ("network",): _network,
    ("popularity", "popularity-20k", "popularity-2k", "popularity-200"): _popularity,
    ("age",): _age,
    CHANNELS[:TEXT]: _sums,
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
    columns = [column for family in families.values() for column in family(table, batch, found)]
    return torch.stack(columns, 2).nan_to_num_(0.0, 0.0, 0.0)
