"""Off-policy evaluation: what another policy's lists would have earned, from a log of lists with their propensities.

A reward that is a sum over the items of a list (whether the item that came is on it, clicks) is estimated item by item:

    IPS       the mean of the sum of w · reward, w = pi(item at its place) / propensity
    SNIPS     the same by the mean of w instead of 1: less variance, a bias that vanishes with the number of lists
    DR        the mean of the sum of expected(item) over the other policy's list + the sum of w · (reward - expected)

IPS and DR are unbiased where every item that the other policy lists could have stood at its place. `weight` tells: it
is the mean of w, 1 where all could; an item that could not counts as no reward in IPS, and as expected in DR.

Sources: Horvitz and Thompson, 1952, doi:10.2307/2280784; Swaminathan and Joachims, The self-normalized estimator for
counterfactual learning, 2015 (NIPS 28); Dudík, Langford and Li, Doubly robust policy evaluation and learning, 2011,
arXiv:1103.4601; Li et al., Offline evaluation of ranking policies with click models, 2018, arXiv:1804.10488, whose
item-position model this is.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Log:
    """What was listed and what came of it.

    Shape: items (n, k), -1 for an empty place; propensity, reward, expected (n, k): how likely each item was at its
    place, what it earned, and what a model had expected; users (n,), numbers from 0.
    """

    items: np.ndarray
    propensity: np.ndarray
    reward: np.ndarray
    expected: np.ndarray
    users: np.ndarray


@dataclass(frozen=True)
class Policy:
    """What another policy would have listed, each time; items (n, k), -1 for an empty place, expected (n, k).

    `expected` is of the model of the log's: `expected_of` looks it up for both.
    """

    items: np.ndarray
    expected: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """The mean reward of a list, and the standard error of it: of means over users, whose lists are alike."""

    value: float
    error: float


def weights(log: Log, policy: Policy, base: np.ndarray | None = None) -> np.ndarray:
    """pi(item at its place) / propensity of what was listed; (n, k).

    Args:
        base: the lists (n, k) from which the log's policy set out. Where the order of a list earns nothing, an item
            that the other policy shares with them may as well stand where it stands there, and any other at each
            place with the same chance: then much more could have been listed. None: the other policy's order counts.
    """
    there = log.items >= 0
    if base is None:
        return np.where(there & (log.items == policy.items), 1 / log.propensity, 0.0)
    wanted, length = _on(log.items, policy.items), np.maximum((base >= 0).sum(1, keepdims=True), 1)
    chance = np.where(log.items == base, 1.0, np.where(_on(log.items, base), 0.0, 1 / length))
    return np.where(there & wanted, chance / log.propensity, 0.0)


def expected_of(items: np.ndarray, known: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """What a model expects of some items, 0 where it says nothing: the same of an item on any list.

    >>> expected_of(np.array([[3, 5, -1]]), np.array([[5, 4, -1]]), np.array([[0.5, 0.25, 0.0]])).tolist()
    [[0.0, 0.5, 0.0]]

    Shape: items (n, k), known (n, j) with chances (n, j) -> (n, k).
    """
    same = (items[:, :, None] == known[:, None]) & (items[:, :, None] >= 0)
    return (same * chances[:, None]).sum(2)


def _on(items: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of a list's items are on the other list; (n, k), (n, j) -> (n, k) bool."""
    return ((items[:, :, None] == others[:, None]) & (items[:, :, None] >= 0)).any(2)


def naive(log: Log, policy: Policy) -> Estimate:
    """What the other policy's items earned where they were listed, as if it had listed nothing else: biased."""
    return _mean((log.reward * _on(log.items, policy.items)).sum(1), log.users)


def ips(log: Log, w: np.ndarray) -> Estimate:
    """Inverse propensity scores; w (n, k) of `weights`."""
    return _mean((w * log.reward).sum(1), log.users)


def snips(log: Log, w: np.ndarray) -> Estimate:
    """Self-normalised: by the weight that there is, for a list of k items; its error by the delta method."""
    k, total = log.items.shape[1], w.sum(1)
    if not len(total):
        return Estimate(0.0, 0.0)
    weight = max(total.mean() / k, 1e-12)
    value = float((w * log.reward).sum(1).mean() / weight)
    error = _mean(((w * log.reward).sum(1) - value * total / k) / weight, log.users).error
    return Estimate(value, error)


def doubly_robust(log: Log, policy: Policy, w: np.ndarray) -> Estimate:
    """The model's expectation of the other policy's lists, put right by what was seen."""
    expected = np.where(policy.items >= 0, policy.expected, 0.0).sum(1)
    return _mean(expected + (w * (log.reward - log.expected)).sum(1), log.users)


def _mean(values: np.ndarray, users: np.ndarray) -> Estimate:
    """The mean of some lists' values, its error from the sums of the users; (n,), (n,)."""
    n = len(values)
    if not n:
        return Estimate(0.0, 0.0)
    sums = np.bincount(users, values - values.mean())
    return Estimate(float(values.mean()), float(np.sqrt(np.square(sums).sum()) / n))


def estimates(log: Log, policy: Policy, base: np.ndarray | None = None) -> dict[str, float]:
    """All of them, each with its standard error, as JSON values."""
    w = weights(log, policy, base)
    found = {
        "naive": naive(log, policy),
        "ips": ips(log, w),
        "snips": snips(log, w),
        "dr": doubly_robust(log, policy, w),
    }
    figures = {name: round(one.value, 4) for name, one in found.items()}
    errors = {f"{name}_error": round(one.error, 4) for name, one in found.items()}
    return figures | errors | {"weight": round(float(w.mean()), 4) if w.size else 0.0}
