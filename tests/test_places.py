"""Places: an order is found again from pairs of it, and where there is none nothing is made up."""

import numpy as np
import pytest
import torch

from model.places import Places, hints


NO_HINTS = torch.zeros(40, 0)


def pairs(order: np.ndarray, count: int, swapped: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random pairs of an order, a share of them the wrong way round."""
    random = np.random.default_rng(0)
    at = np.sort([random.choice(len(order), 2, replace=False) for _ in range(count)], 1)
    at = np.where(random.random(count)[:, None] < swapped, at[:, ::-1], at)
    return torch.from_numpy(order[at[:, 0]]), torch.from_numpy(order[at[:, 1]]), torch.ones(count)


@pytest.mark.parametrize(("swapped", "right"), [(0.0, 0.95), (0.2, 0.8)])
def test_an_order_is_found_again(swapped, right):
    """Of two items the one that comes first has the lower place, though a fifth of the pairs says otherwise."""
    order, places = np.random.default_rng(1).permutation(40), Places()
    found = [places.fit(*pairs(order, 1_000, swapped), NO_HINTS) for _ in range(3)][-1]
    before, after = np.triu_indices(40, 1)

    assert (found[order[before]] < found[order[after]]).float().mean() > right


def test_what_comes_both_ways_has_one_place():
    found = Places().fit(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([5.0, 5.0]), torch.zeros(3, 0))

    assert [0.0, 0.0, 0.0] == pytest.approx(found.tolist())


def test_one_pair_says_less_than_many_and_no_pair_nothing():
    places, none = Places(), torch.zeros(0, dtype=torch.int64)
    found = places.fit(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([1.0, 100.0]), torch.zeros(5, 0))

    assert 0 < found[1] - found[0] < found[3] - found[2] < 30
    assert 0.0 == found[4]
    assert places.fit(none, none, torch.zeros(0), torch.zeros(6, 2)).isfinite().all()


def test_an_item_without_pairs_stands_where_others_of_its_kind_do():
    """Texts tell it: those of the second half point elsewhere, and all of them but one have come after those of the first."""
    vectors = torch.eye(2)[(torch.arange(40) >= 20).long()] + 0.1 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    first = torch.where(torch.arange(40) == 39, -1.0, 0.0)
    found = Places().fit(torch.arange(19), torch.arange(20, 39), torch.ones(19), hints(vectors, first))

    assert found[39] > found[:20].max()
    assert found[39] > 0.3 * found[20:39].mean() > 0


def test_when_an_item_was_chosen_first_tells_of_its_place():
    first = torch.tensor([2.0, 7.0, -1.0, 40.0, 90.0])
    known = hints(torch.zeros(5, 3), first)

    assert (5, 6) == known.shape
    assert [True] * 3 == (known[[0, 1, 3, 4], 3].diff() > 0).tolist()
    assert 0 == known[2, 3]
    assert [0, 0, 1, 0, 0] == known[:, 5].tolist()
    assert hints(torch.zeros(2, 3), torch.full((2,), -1.0)).isfinite().all()
