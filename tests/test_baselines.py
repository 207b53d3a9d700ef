"""Every baseline keeps the same contract; each is right on a world whose answer is known."""

import numpy as np
import pytest

from model.evaluation.baselines import (
    BASELINES,
    HISTORY,
    Ease,
    Pairs,
    Popularity,
    Sessions,
    Text,
    Transitions,
    World,
    best_rows,
)
from model.evaluation.factors import Bpr, Isgd

ITEMS, USERS = 12, 30
EVERY = pytest.mark.parametrize("name", BASELINES)


def make_world(items: int = ITEMS) -> World:
    """Even items have one text, odd ones another."""
    return World(np.eye(2, dtype=np.float32)[np.arange(items) % 2])


def checkerboard(length: int = 5) -> list[tuple[int, int]]:
    """(user, row): even users choose even rows, odd users odd ones, all at the same time."""
    random = np.random.default_rng(2)
    chosen = [2 * random.permutation(ITEMS // 2)[:length] + user % 2 for user in range(USERS)]
    return [(user, int(chosen[user][at])) for at in range(length) for user in range(USERS)]


def learn(method, events: list[tuple[int, int]]) -> dict[int, np.ndarray]:
    """Teach a method, and return the histories of the users."""
    histories: dict[int, list[int]] = {}
    for user, row in events:
        history = histories.setdefault(user, [])
        method.learn(user, np.array(history[-HISTORY:], np.int64), row)
        history.append(row)
    return {user: np.array(history, np.int64) for user, history in histories.items()}


def mask(rows, items: int = ITEMS) -> np.ndarray:
    return np.isin(np.arange(items), rows)


@EVERY
def test_a_list_is_bounded_and_holds_nothing_excluded(name):
    """k items at most, none twice, none of the user's own; every score is a number."""
    method = BASELINES[name](make_world())
    for user, history in learn(method, checkerboard()).items():
        scores = method.scores(user, history)
        best = best_rows(scores, mask(history), 4)

        assert np.isfinite(scores).all() and scores.shape == (ITEMS,)
        assert 4 == len(set(best.tolist()) - set(history.tolist()))
        assert ITEMS - len(history) == len(best_rows(scores, mask(history), 1_000))


@EVERY
def test_the_seed_decides(name):
    first, again = (BASELINES[name](make_world()) for _ in range(2))
    histories = learn(first, checkerboard())
    learn(again, checkerboard())

    assert all(
        np.array_equal(first.scores(user, history), again.scores(user, history)) for user, history in histories.items()
    )


@EVERY
def test_asking_changes_nothing(name):
    """Neither the scores nor the history are touched by being asked for."""
    method = BASELINES[name](make_world())
    history = learn(method, checkerboard())[3]
    first, copied = method.scores(3, history).copy(), history.copy()
    method.scores(4, history[:1])

    assert np.array_equal(first, method.scores(3, history)) and np.array_equal(copied, history)


@EVERY
def test_a_new_user_has_a_list(name):
    method = BASELINES[name](make_world())
    learn(method, checkerboard())
    assert 5 == len(best_rows(method.scores(USERS + 70, np.zeros(0, np.int64)), mask([]), 5))


@EVERY
def test_where_there_is_no_item_there_is_no_list(name):
    scores = BASELINES[name](make_world(0)).scores(0, np.zeros(0, np.int64))
    assert [] == best_rows(scores, np.zeros(0, bool), 10).tolist()


@EVERY
def test_a_world_of_one_item(name):
    """The same item again and again: it is the list, or nothing where it is excluded."""
    method = BASELINES[name](make_world(1))
    history = learn(method, [(at % 3, 0) for at in range(30)])[0]

    assert np.isfinite(method.scores(0, history)).all()
    assert [[0], []] == [best_rows(method.scores(0, history), np.array([out]), 10).tolist() for out in (False, True)]


PERSONAL = ["transitions-1", "transitions-10", "item-knn", "ease", "session-knn", "bpr", "text"]


@pytest.mark.parametrize("name", PERSONAL)
def test_tastes_are_found_where_there_are_some(name):
    """The only even item that an even user does not have yet comes first, and so for odd ones; for nearly everyone."""
    methods = {"ease": lambda world: Ease(world, ridge=1.0), "bpr": lambda world: Bpr(world.items, 0, replayed=200)}
    method = methods.get(name, BASELINES[name])(make_world())
    histories = learn(method, checkerboard() * (2 if name == "ease" else 1))
    right = [
        best_rows(method.scores(user, history), mask(history), 1)[0] % 2 == user % 2
        for user, history in histories.items()
    ]

    assert np.mean(right) > 0.8


def test_decayed_popularity_prefers_what_is_chosen_now():
    """Three choices long ago against two of now."""
    for half_life, wanted in {float("inf"): [0, 1, 2], 2.0: [1, 0, 2]}.items():
        method = Popularity(make_world(3), half_life)
        learn(method, [(0, row) for row in (0, 0, 0, 1, 1)])
        assert wanted == best_rows(method.scores(0, np.zeros(0)), mask([], 3), 3).tolist()


@pytest.mark.parametrize("half_life", [1.0, 3.0])
def test_a_decay_goes_on_for_ever(half_life):
    """After thousands of half-lives the counts are still numbers, and the last choice weighs what it should."""
    popular, pairs = Popularity(make_world(2), half_life), Pairs(2, half_life)
    for _ in range(4_000):
        popular.learn(0, np.zeros(0), 1)
        pairs.add(1, np.array([0]), np.ones(1))

    limit = 1 / (1 - 0.5 ** (1 / half_life))
    assert limit == pytest.approx(popular.now()[1])
    assert limit * 0.5 ** (1 / half_life) == pytest.approx(pairs.row(0)[1][0])


def test_pairs_are_counted_both_ways():
    """Rows 0 then 1 then 2: 2 follows 1 at full weight and 0 at half of it."""
    pairs = Pairs(3)
    pairs.add(1, np.array([0]), np.array([1.0]))
    pairs.add(2, np.array([1, 0]), np.array([1.0, 0.5]))

    assert ([0, 2], [1.0, 1.0]) == tuple(part.tolist() for part in pairs.row(1))
    assert [0.5, 0.0, 0.5] == pairs.follow(np.array([1]), np.array([2.0]), 2.0).tolist()


def test_nearer_items_lead_more():
    """1 came after 0, and 3 after 2; whoever had 0 first and 2 just now goes to 3."""
    method = Transitions(make_world(4), lag=3, recency=0.5)
    learn(method, [(0, 0), (0, 1), (1, 2), (1, 3)])
    assert [3, 1] == best_rows(method.scores(5, np.array([0, 2])), mask([0, 2], 4), 2).tolist()


def test_sessions_vote_for_what_stood_near():
    """One other user had 4 right beside the shared item, and 5 far away from it."""
    method = Sessions(make_world(8), near=2)
    learn(method, [(0, row) for row in (1, 4, 6, 5)] + [(1, 7)])
    best = best_rows(method.scores(9, np.array([1])), mask([1], 8), 2)

    assert [4, 6] == best.tolist()


def test_a_session_does_not_vote_for_its_own_user():
    method = Sessions(make_world(4))
    learn(method, [(0, 0), (0, 1), (0, 2)])
    assert method.scores(0, np.array([0])).max() < 1e-3 < method.scores(1, np.array([0])).max()


def test_text_looks_at_the_nearest_of_the_last_items():
    assert [1.0, 1.0, 1.0, 1.0] == Text(make_world(4)).scores(0, np.array([0, 1])).tolist()
    assert [1.0, 0.0, 1.0, 0.0] == Text(make_world(4)).scores(0, np.array([0])).tolist()


def test_isgd_comes_nearer_to_one_with_every_event():
    method = Isgd(3, 0)
    scores = []
    for _ in range(300):
        method.learn(0, np.zeros(0), 1)
        scores.append(method.scores(0, np.zeros(0))[1])
    assert scores[0] < 0.1 and 0.9 < scores[-1] < 1.0
