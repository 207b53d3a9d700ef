"""How sure the ranker is of its linear weights: a diagonal Laplace approximation, followed online.

The precision of a weight is the sum, over the examples learnt from, of the variance of its signal among the candidates
under the ranker's softmax: the diagonal of the expected Hessian of the loss. Old examples fade, for what is true of a
stream changes, so a weight never becomes certain.

Source: Chapelle and Li, An empirical evaluation of Thompson sampling, 2011 (NIPS 24), algorithm 3.
"""

import torch

PRIOR = 1.0
"""Precision of a weight of which nothing has been learnt."""
HALF_LIFE = 2_000
"""Examples after which an example says half as much."""


def begin(signals: int) -> torch.Tensor:
    """The precision of so many weights before anything is learnt; (signals,)."""
    return torch.full((signals,), PRIOR)


def observed(precision: torch.Tensor, signals: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The precision after some more examples.

    >>> sure = observed(begin(2), torch.tensor([[[1.0, 5.0], [-1.0, 5.0]]]), torch.zeros(1, 2))
    >>> [round(float(one), 3) for one in sure]
    [2.0, 1.0]

    Shape: precision (signals,), signals (b, c, signals), logits (b, c) -> (signals,).
    """
    chances = logits.softmax(1)[..., None]
    mean = (chances * signals).sum(1, keepdim=True)
    variance = (chances * (signals - mean).square()).sum((0, 1)).cpu()
    return PRIOR + (precision - PRIOR) * 0.5 ** (len(signals) / HALF_LIFE) + variance
