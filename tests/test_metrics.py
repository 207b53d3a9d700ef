"""The figures of an evaluation, beside those computed by hand."""

import numpy as np
import pytest

from model.metrics import (
    coverage,
    hit_rate_at_k,
    interval,
    intra_list_distance,
    mrr_at_k,
    ndcg_at_k,
    sliding,
    user_bootstrap,
)

RANKS = np.array([0, 1, 9, 10, -1])


def test_metrics_are_those_computed_by_hand():
    """Places 1, 2 and 10 are hits at 10, place 11 and a miss are none."""
    assert hit_rate_at_k(RANKS) == pytest.approx(3 / 5)
    assert ndcg_at_k(RANKS) == pytest.approx((1 + 0.6309297535714575 + 0.2890648263178879) / 5)
    assert mrr_at_k(RANKS) == pytest.approx((1 + 1 / 2 + 1 / 10) / 5)
    assert hit_rate_at_k(RANKS, 1) == pytest.approx(1 / 5)
    assert coverage(np.array([[0, 1], [1, -1]]), 8) == pytest.approx(1 / 4)


def test_metrics_of_nothing_are_zero():
    """No event, no item, no list: 0, never a NaN."""
    assert (0, 0, 0, 0) == (hit_rate_at_k(RANKS[:0]), ndcg_at_k(RANKS[:0]), mrr_at_k(RANKS[:0]), coverage(RANKS[:0], 0))
    assert 0 == intra_list_distance(np.zeros((0, 10), int), np.zeros((0, 4)))
    assert [0, 0] == interval(user_bootstrap(RANKS[:0], np.zeros((1, 0)), draws=3)[:, 0])


def test_intra_list_distance_is_the_mean_over_all_pairs():
    """Three items: two alike, one at a right angle; a list of one item has no pair and does not count."""
    vectors = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])

    assert 2 / 3 == pytest.approx(intra_list_distance(np.array([[0, 1, 2, -1], [2, -1, -1, -1]]), vectors))
    assert 1.0 == pytest.approx(intra_list_distance(np.array([[3, 0]]), vectors))


def test_whole_users_are_drawn():
    """One user who always hits, one who never does: half of the draws hold one of each."""
    users, hit = np.repeat([7, 2], 50), np.repeat([1.0, 0.0], 50)
    draws = user_bootstrap(users, hit[None], draws=400)[:, 0]

    assert {0.0, 0.5, 1.0} == set(draws.tolist())
    assert 0.4 < (draws == 0.5).mean() < 0.6
    assert [0.0, 1.0] == interval(draws)


def test_a_sliding_mean_has_a_point_for_every_full_window():
    assert [0.5, 1.0, 0.5] == sliding(np.array([0.0, 1.0, 1.0, 0.0]), 2).tolist()
    assert [] == sliding(np.zeros(0), 1).tolist()
