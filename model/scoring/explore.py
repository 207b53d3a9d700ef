"""Exploration: a place in a list for an item that came after learning had begun and that hardly anybody has chosen yet.

What is learnt says of such an item only that nobody chose it. So one of the new ones that are nearest to a user's
interests, if it is near at all, is given the last of the first `PLACE` places, of a shorter list its last one; how it
does there is what is learnt of it. Where several are as near, each event draws one. Who searches is shown what was
searched. A catalogue to which nothing is added has no new items.
"""

import numpy as np
import torch
import torch.nn.functional as F

from model.scoring.batch import MicroBatch
from model.scoring.ranker import Scored
from model.scoring.table import ItemTable

PLACE = 10
"""A new item that is near stands here at the latest."""
LEAST_K = 3
"""A shorter list has no place for what nobody knows."""
LEAST_NEAR = 0.3
"""Cosine, beside the mean of the catalogue, from which an item is near an interest."""
_AS_NEAR = 0.1  # cosines that differ by less are level
_LEAST_WEIGHT = 0.1  # an interest that weighs less is none to explore


@torch.inference_mode()
def explore(table: ItemTable, batch: MicroBatch, scored: Scored, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest new item of each user, and the score that lifts it into the first places of a list of k.

    Shape: items (B,) rows of the catalogue, scores (B,), -inf where none is lifted.
    """
    B, place = len(scored.rows), min(k, PLACE)
    nothing = scored.scores.new_full((B,), -torch.inf)
    if not len(table.new) or len(table) <= place or place < LEAST_K:
        return torch.zeros(B, dtype=torch.int64), nothing
    new = torch.from_numpy(table.new.astype(np.int64))
    interests = F.normalize(batch.interests - table.mean, dim=2)
    near = interests @ table.contrast_at(new).mT  # (B, I, new)
    near = near.masked_fill(batch.weights[..., None] < _LEAST_WEIGHT, -1.0).amax(1)  # (B, new)
    near[_excluded(table.new, batch)] = -1.0
    best = near.amax(1)
    items = new[_drawn(near >= (best - _AS_NEAR)[:, None], batch.draw)]
    first = scored.scores.topk(min(place, scored.scores.shape[1]))
    last = first.values[:, -1]
    listed = ((scored.rows.gather(1, first.indices) == items[:, None]) & (first.values > -torch.inf)).any(1)
    lifted = (best >= LEAST_NEAR) & ~listed & ~batch.searching
    return items, torch.where(lifted, torch.nextafter(last, torch.full_like(last, torch.inf)), nothing)


def _excluded(new: np.ndarray, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Which users must not be shown which of the new items; rows sorted, (x,) -> users, columns."""
    given = batch.host
    owner = np.repeat(np.arange(len(given.history)), np.diff(given.excluded_from))
    at = np.searchsorted(new, given.excluded).clip(max=len(new) - 1)
    same = new[at] == given.excluded
    return torch.from_numpy(owner[same]), torch.from_numpy(at[same])


def _drawn(level: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
    """One of the columns that are level in each row; level (B, x) bool, draw (B,) from 0 to 1 -> (B,)."""
    wanted = (draw * level.sum(1)).long().clamp(max=level.shape[1] - 1)
    return (level.cumsum(1) > wanted[:, None]).int().argmax(1)
