"""Tables fitted in closed form on the examples that are kept: EASE between near items, and between whole histories.

Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data (EASE), 2019, arXiv:1905.03375.
"""

import numpy as np
import torch

from model.jit import njit
from model.learning.config import TrainingConfig
from model.learning.replay import Flat
from model.score import Scorer
from model.signals import SIGNALS

LAGS = 20
"""Items at most so many events apart are a pair."""
HALF_LIFE = 30_000.0
"""Pairs fade with it, in events."""
MOST_USERS = 4_096
"""Whole histories are those of so many users, of whom the newest examples are."""


def fit(scorer: Scorer, flat: Flat, keys: np.ndarray, chosen: np.ndarray, seen: int, config: TrainingConfig) -> None:
    """Fit both tables anew for the items most chosen.

    Args:
        seen: examples so far.

    Shape: keys (n,) uint64 of the catalogue's items, chosen (n,) how often lately.
    """
    top = np.sort(np.argsort(-chosen, kind="stable")[: config.ease_items])
    top = top[chosen[top] > 0]
    place = np.full(len(keys), -1)
    place[top] = np.arange(len(top))
    scorer.fitted_keys = torch.from_numpy(keys[top].view(np.int64).copy())
    decay = SIGNALS["ease"].decay
    gram = np.zeros((len(top), len(top)), np.float32)
    _add_pairs(gram, place[flat.rows], flat.positive, flat.steps, flat.owner, seen, decay)
    np.fill_diagonal(gram, chosen[top] / (1 - decay) + config.ease_ridge)
    _write(scorer, "ease", fitted(torch.from_numpy(gram)).clamp(min=0), config.neighbours)
    histories = _histories(flat, place, len(top))
    shared = histories.T @ histories
    shared.diagonal().add_(config.ease_ridge)
    _write(scorer, "taste", fitted(shared).T, config.taste_partners)


@njit(cache=True)
def _add_pairs(gram, places, positive, steps, owner, seen, decay):
    """Add the pairs of each example with the events before it."""
    for at in range(len(places)):
        if steps[at] < 0 or places[at] < 0 or not positive[at]:
            continue
        amount = 0.5 ** ((seen - 1 - steps[at]) / HALF_LIFE)
        for before in range(at - 1, max(-1, at - 1 - LAGS), -1):
            if owner[before] != owner[at]:
                break
            if places[before] >= 0 and positive[before] and places[before] != places[at]:
                gram[places[at], places[before]] += np.float32(amount)
                gram[places[before], places[at]] += np.float32(amount)
            amount *= decay


def _histories(flat: Flat, place: np.ndarray, items: int) -> torch.Tensor:
    """Which items each of the newest users had; (users, items) of 0 and 1."""
    newest = np.full(len(flat.starts), -1, np.int64)
    np.maximum.at(newest, flat.owner, flat.steps)
    users = np.argsort(-newest, kind="stable")[:MOST_USERS]
    number = np.full(len(newest), -1)
    number[users] = np.arange(len(users))
    wanted = (place[flat.rows] >= 0) & (number[flat.owner] >= 0) & (flat.steps >= 0)
    had = torch.zeros(len(users), items)
    had[number[flat.owner[wanted]], place[flat.rows[wanted]]] = 1.0
    return had


def fitted(gram: torch.Tensor) -> torch.Tensor:
    """EASE's weights from each item to each; (t, t) -> (t, t)."""
    inverted = inverse(gram)
    return (-inverted / inverted.diagonal()).fill_diagonal_(0)


def inverse(matrix: torch.Tensor) -> torch.Tensor:
    """Of a symmetric matrix; in half the time where it is positive definite."""
    root, failed = torch.linalg.cholesky_ex(matrix)
    return torch.linalg.inv(matrix) if failed else torch.cholesky_inverse(root)


def _write(scorer: Scorer, name: str, weights: torch.Tensor, width: int) -> None:
    """Keep the largest weights of each item; weights (t, t)."""
    best = weights.abs().topk(min(width, len(weights))).indices
    setattr(scorer, f"{name}_items", best.int())
    setattr(scorer, f"{name}_weights", weights.gather(1, best))
