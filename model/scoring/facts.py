"""What facts add to something that is learnt: the mean of their embeddings, projected."""

import torch
from torch import nn

from model.facts import BUCKETS

WIDTH = 8


class Bag(nn.Module):
    """An embedding bag over buckets (model/facts.py); before anything is learnt it adds nothing.

    It draws from no random numbers of others, so with it and without it the rest begins the same.

    Args:
        out: how many numbers it adds.
    """

    def __init__(self, out: int) -> None:
        super().__init__()
        drawn = torch.randn(WIDTH, out, generator=torch.Generator().manual_seed(0))
        self.rows = nn.Parameter(torch.zeros(BUCKETS, WIDTH))
        self.into = nn.Parameter(drawn / WIDTH**0.5)

    def forward(self, buckets: torch.Tensor) -> torch.Tensor:
        """Shape: buckets (B, F) int64, 0 for none -> (B, out)."""
        there = buckets > 0
        summed = (self.rows[buckets] * there[..., None]).sum(1)
        return summed / there.sum(1, keepdim=True).clamp(min=1) @ self.into
