"""How good lists are: whether and where the item that came is on them, how varied they are, how sure a figure is."""

import numpy as np

K = 10
DRAWS = 1_000
_CHUNK = 500  # lists whose vectors are laid side by side at once


def hit_rate_at_k(ranks: np.ndarray, k: int = K) -> float:
    """The share of targets in the first k places.

    >>> hit_rate_at_k(np.array([0, 9, 10, -1]))
    0.5

    Args:
        ranks: place of each target in its list, 0 the first, -1 when it is not there.
    """
    return _mean(hits(ranks, k))


def ndcg_at_k(ranks: np.ndarray, k: int = K) -> float:
    """The mean of 1 / log2(place + 1), places from 1, 0 for a miss: there is one target.

    >>> ndcg_at_k(np.array([0, -1]))
    0.5
    """
    return _mean(gains(ranks, k))


def mrr_at_k(ranks: np.ndarray, k: int = K) -> float:
    """The mean of 1 / place, places from 1, 0 for a miss.

    >>> mrr_at_k(np.array([1, -1]))
    0.25
    """
    return _mean(hits(ranks, k) / (np.maximum(ranks, 0) + 1))


def hits(ranks: np.ndarray, k: int = K) -> np.ndarray:
    """Which targets are in the first k places; (n,) bool."""
    return (ranks >= 0) & (ranks < k)


def gains(ranks: np.ndarray, k: int = K) -> np.ndarray:
    """1 / log2(place + 1) of each target, 0 for a miss; (n,)."""
    return np.where(hits(ranks, k), 1 / np.log2(np.maximum(ranks, 0) + 2), 0.0)


def calibration_error(chances: np.ndarray, hit: np.ndarray, bins: int = 10) -> float:
    """How far probabilities are from what happens: the mean over bins with as many events of |mean chance - hits|.

    >>> calibration_error(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 0]), bins=2)
    0.25

    Shape: chances, hit (n,). Source: Naeini, Cooper and Hauskrecht, Obtaining Well Calibrated Probabilities Using
    Bayesian Binning, 2015 (ECE; bins of equal size).
    """
    parts = np.array_split(np.argsort(chances, kind="stable"), bins)
    apart = [len(part) * abs(chances[part].mean() - hit[part].mean()) for part in parts if len(part)]
    return float(sum(apart) / max(1, len(chances)))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def coverage(lists: np.ndarray, items: int) -> float:
    """The share of the catalogue that is in at least one list; lists hold rows of it, -1 for an empty place.

    >>> coverage(np.array([[0, 1], [1, -1]]), 4)
    0.5
    """
    return len(np.unique(lists[lists >= 0])) / items if items else 0.0


def intra_list_distance(lists: np.ndarray, vectors: np.ndarray) -> float:
    """The mean cosine distance between two items of a list, over the lists that have two: 0 when all are alike.

    >>> intra_list_distance(np.array([[0, 1], [0, 0], [1, -1]]), np.eye(2))
    0.5

    Shape: lists (n, k) rows of the vectors, -1 for an empty place; vectors (items, d).
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    no_item = np.zeros((1, vectors.shape[1]), vectors.dtype)
    units = np.concatenate((vectors / np.maximum(lengths, 1e-12), no_item))
    lists = np.where(lists >= 0, lists, len(vectors))[(lists >= 0).sum(1) > 1]
    squares = np.square(units).sum(1)
    parts = [_distances(lists[start : start + _CHUNK], units, squares) for start in range(0, len(lists), _CHUNK)]
    return _mean(np.concatenate(parts)) if parts else 0.0


def _distances(lists: np.ndarray, units: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """|sum of u|^2 = sum of |u|^2 + the cosines of all pairs, both ways; lists (n, k), squares |u|^2 -> (n,)."""
    count = (lists < len(units) - 1).sum(1)
    cosines = np.square(units[lists].sum(1)).sum(1) - squares[lists].sum(1)
    return 1 - cosines / (count * (count - 1))


def user_bootstrap(users: np.ndarray, values: np.ndarray, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Means of some figures when as many users as there are are drawn with replacement, again and again.

    >>> user_bootstrap(np.array([0, 0, 1]), np.ones((1, 3)), draws=2).tolist()
    [[1.0], [1.0]]

    Shape: users (n,), numbers from 0; values (figures, n) -> (draws, figures), 0 where there is no event.
    """
    if not len(users):
        return np.zeros((draws, len(values)))
    numbers = np.unique(users, return_inverse=True)[1]
    sums = np.stack([np.bincount(numbers, row) for row in (*values, np.ones(len(users)))])  # (figures + 1, users)
    random, count = np.random.default_rng(seed), sums.shape[1]
    drawn = np.stack([sums @ np.bincount(random.integers(0, count, count), minlength=count) for _ in range(draws)])
    return drawn[:, :-1] / drawn[:, -1:]


def interval(draws: np.ndarray) -> list[float]:
    """Where 95 % of the draws lie: lowest and highest; (draws,)."""
    return [round(float(bound), 4) for bound in np.quantile(draws, [0.025, 0.975])]


def sliding(values: np.ndarray, window: int) -> np.ndarray:
    """The mean over the last `window` values at each place that has as many before it; (n,) -> (n - window + 1,).

    >>> sliding(np.array([0.0, 1.0, 1.0]), 2).tolist()
    [0.5, 1.0]
    """
    sums = np.concatenate(([0.0], np.cumsum(values)))
    return (sums[window:] - sums[:-window]) / window
