"""Places: an order is found again from pairs of it, and where there is none nothing is made up."""

import numpy as np
import pytest

from model import places


def pairs(order: np.ndarray, count: int, swapped: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random pairs of an order, a share of them the wrong way round."""
    random = np.random.default_rng(0)
    at = np.sort([random.choice(len(order), 2, replace=False) for _ in range(count)], 1)
    at = np.where(random.random(count)[:, None] < swapped, at[:, ::-1], at)
    return order[at[:, 0]], order[at[:, 1]], np.ones(count)


@pytest.mark.parametrize(("swapped", "right"), [(0.0, 0.95), (0.2, 0.8)])
def test_an_order_is_found_again(swapped, right):
    """Of two items the one that comes first has the lower place, though a fifth of the pairs says otherwise."""
    order, found = np.random.default_rng(1).permutation(40), np.zeros(40, np.float32)
    for _ in range(3):
        places.fit(found, *pairs(order, 1_000, swapped))
    before, after = np.triu_indices(40, 1)

    assert (found[order[before]] < found[order[after]]).mean() > right


def test_what_comes_both_ways_has_one_place():
    found = np.zeros(3, np.float32)
    places.fit(found, np.array([0, 1]), np.array([1, 0]), np.array([5.0, 5.0]))

    assert [0.0, 0.0, 0.0] == pytest.approx(found.tolist())


def test_one_pair_says_less_than_many_and_no_pair_nothing():
    found = np.zeros(5, np.float32)
    places.fit(found, np.array([0, 2]), np.array([1, 3]), np.array([1.0, 100.0]))

    assert 0 < found[1] - found[0] < found[3] - found[2] < 30
    assert 0.0 == found[4]
    places.fit(found, *(np.zeros(0, int),) * 2, np.zeros(0))
    assert np.isfinite(found).all()
