"""Places: in which order items come where several come within seconds, learnt from pairs of which one came before the other.

An item's place is what its text and the time of its first choice tell of it, and what only its own pairs tell: an item with
few pairs stands where others like it do.

Source: Bradley and Terry, Rank analysis of incomplete block designs, 1952: the log odds that one of two comes second are the
difference of their places.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model.adamw import AdamW

_STEPS, _RATE = 40, 0.2  # from the places of the last call on; the rate goes down from step to step
_RIDGE, _HINT_RIDGE = 0.01, 0.03  # few pairs prove little


class Places(nn.Module):
    """Fits the places of items, and goes on from them with the next call."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.hinted = nn.Parameter(torch.zeros(0)), nn.Parameter(torch.zeros(0))
        self._optimizer = AdamW(self, _RATE)

    def fit(self, before: torch.Tensor, after: torch.Tensor, amounts: torch.Tensor, hints: torch.Tensor) -> torch.Tensor:
        """The places that explain best what came before what.

        Shape: before, after, amounts (p,): so often did one item come before the other; hints (m, h) what is known of each
        item -> (m,).
        """
        self.own, self.hinted = (
            nn.Parameter(F.pad(old.data, (0, size - len(old)))) for old, size in zip((self.own, self.hinted), hints.shape)
        )
        for step in range(_STEPS):
            self._optimizer.lr = _RATE * (1 - step / _STEPS)
            with torch.enable_grad():
                self._optimizer.step(self._loss(before, after, amounts, hints), most=torch.inf)
        return (self.own + hints @ self.hinted).detach()

    def _loss(self, before: torch.Tensor, after: torch.Tensor, amounts: torch.Tensor, hints: torch.Tensor) -> torch.Tensor:
        places = self.own + hints @ self.hinted
        ridges = _RIDGE * self.own.square().sum() + _HINT_RIDGE * self.hinted.square().sum()
        return (amounts * F.softplus(places[before] - places[after])).sum() + ridges / 2


def hints(vectors: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """What may tell of an item's place: its text, and when it was chosen first, beside the other items.

    Shape: vectors (m, dim); first (m,), -1 for never -> (m, dim + 3).
    """
    chosen = first >= 0
    rank = torch.zeros(len(first))
    rank[chosen] = first[chosen].argsort().argsort() / max(1, int(chosen.sum()))
    numbers = torch.stack((rank, rank.square()), 1)
    numbers[chosen] -= numbers[chosen].mean(0)
    return torch.cat((vectors - vectors.mean(0), numbers, (~chosen)[:, None].float()), 1)
