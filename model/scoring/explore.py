"""Exploration: a place in a list for an item that came after learning had begun and that hardly anybody has chosen yet.

What is learnt says of such an item only that nobody chose it. So one of the new ones that are nearest to a user's
interests, if it is near at all, is given the last of the first `PLACE` places, of a shorter list its last one; how it
does there is what is learnt of it. Where several are as near, each event draws one. Who searches is shown what was
searched. A catalogue to which nothing is added has no new items.
"""

import torch
import torch.nn.functional as F

from model.scoring.batch import MicroBatch
from model.scoring.table import Table

PLACE = 10
"""A new item that is near stands here at the latest."""
LEAST_K = 3
"""A shorter list has no place for what nobody knows."""
LEAST_NEAR = 0.3
"""Cosine, beside the mean of the catalogue, from which an item is near an interest."""
_AS_NEAR = 0.1  # cosines that differ by less are level
_LEAST_WEIGHT = 0.1  # an interest that weighs less is none to explore


@torch.inference_mode()
def explore(table: Table, batch: MicroBatch, scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lift the nearest new item of each user into the first places of a list of k, in place.

    Shape: scores (B, n), -inf for what must not be listed -> the item (B,), and whether it was lifted (B,) bool.
    """
    B, n = scores.shape
    new, place = table.new, min(k, PLACE)
    if not len(new) or n <= place or place < LEAST_K:
        nothing = torch.zeros(B, dtype=torch.int64, device=scores.device)
        return nothing, nothing.bool()
    interests = F.normalize(batch.interests - table.mean, dim=2)
    near = interests @ table.contrast[new].mT  # (B, I, new)
    near = near.masked_fill(batch.weights[..., None] < _LEAST_WEIGHT, -1.0).amax(1)  # (B, new)
    near.masked_fill_(scores[:, new] == -torch.inf, -1.0)
    best = near.amax(1)
    chosen = _drawn(near >= (best - _AS_NEAR)[:, None], batch.draw)
    items = new[chosen]
    last = scores.topk(place).values[:, -1]
    there = scores.gather(1, items[:, None])[:, 0]
    lifted = (best >= LEAST_NEAR) & (there < last) & ~batch.searching
    above = torch.nextafter(last, torch.full_like(last, torch.inf))
    scores.scatter_(1, items[:, None], torch.where(lifted, above, there)[:, None])
    return items, lifted


def _drawn(level: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
    """One of the columns that are level in each row; level (B, x) bool, draw (B,) from 0 to 1 -> (B,)."""
    wanted = (draw * level.sum(1)).long().clamp(max=level.shape[1] - 1)
    return (level.cumsum(1) > wanted[:, None]).int().argmax(1)
