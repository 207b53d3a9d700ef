"""Exploration with known propensities: what else might have stood at each place, and how likely what stands there was.

Epsilon: a share of the lists has one place, drawn uniformly, whose item is drawn from the candidates that are not on
the list, by softmax of their scores. So an item of the list stands at its place with 1 - share / k, and another one at
any place with share / k times its softmax: exact.

Thompson sampling: a share of the lists is made with weights of the ranker drawn from what is known of them, a normal
distribution with a diagonal precision (model/learning/laplace.py). How likely an item was at its place is estimated by
`SAMPLES` draws, the one that made the list among them.

All is drawn from the event: one that comes again has the same list.

Sources: Chapelle and Li, An empirical evaluation of Thompson sampling, 2011 (NIPS 24); McInerney et al., Explore,
exploit, and explain: personalizing explainable recommendations with bandits, 2018, doi:10.1145/3240323.3240354.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

SAMPLES = 32
"""Draws of the weights; no propensity is below this part of the share."""


class Explored(NamedTuple):
    """Lists, and how likely each item was at its place; columns (B, k) int64, propensity (B, k) float64."""

    columns: np.ndarray
    propensity: np.ndarray


def randoms(draw: np.ndarray) -> list[np.random.Generator]:
    """The random numbers of each event; draw (B,) from 0 to 1."""
    return [np.random.default_rng(int(seed)) for seed in draw.astype(np.float64) * 2**32]


def epsilon(columns: np.ndarray, scores: np.ndarray, share: float, draw: np.ndarray) -> Explored:
    """Draw another item for one place of a share of the lists.

    Shape: columns (B, k), scores (B, c), -inf for what must not be listed, draw (B,).
    """
    columns, propensity = columns.copy(), np.ones(columns.shape)
    for b, random in enumerate(randoms(draw)):
        length = int((scores[b, columns[b]] > -np.inf).sum())
        others = scores[b].astype(np.float64)
        others[columns[b]] = -np.inf
        if not length or others.max() == -np.inf:
            continue
        chances = np.exp(others - others.max())
        chances /= chances.sum()
        propensity[b, :length] = 1 - share / length
        explores, place, point = random.random(3)
        if explores < share:
            place = int(place * length)
            at = min(int(np.searchsorted(chances.cumsum(), point, side="right")), int(chances.nonzero()[0][-1]))
            columns[b, place], propensity[b, place] = at, share / length * chances[at]
    return Explored(columns, propensity)


def thompson(
    make: Callable[[torch.Tensor], np.ndarray],
    scores: torch.Tensor,
    signals: torch.Tensor,
    precision: torch.Tensor,
    share: float,
    draw: np.ndarray,
) -> Explored:
    """Make a share of the lists with weights that are drawn.

    Args:
        make: scores (B, c) -> the columns of a list (B, k).

    Shape: scores (B, c), signals (B, at most c, signals) of the first candidates, precision (signals,), draw (B,).
    """
    generators = randoms(draw)
    explores = np.array([random.random() < share for random in generators])
    drawn = np.array([random.standard_normal((SAMPLES, len(precision)), np.float32) for random in generators])
    shifts = torch.from_numpy(drawn) / precision.sqrt()  # (B, SAMPLES, signals)
    centred = signals - signals.mean(1, keepdim=True)
    sampled = scores[:, None].repeat(1, SAMPLES, 1)  # (B, SAMPLES, c)
    sampled[..., : signals.shape[1]] += shifts @ centred.mT
    greedy = make(scores)
    lists = np.stack([make(sampled[:, at]) for at in range(SAMPLES)])  # (SAMPLES, B, k)
    shown = np.where(explores[:, None], lists[0], greedy)
    return Explored(shown, (1 - share) * (shown == greedy) + share * (lists == shown).mean(0))
