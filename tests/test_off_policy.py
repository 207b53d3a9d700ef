"""What another policy would have earned: a made-up world whose truth is known, and estimates that find it."""

import numpy as np
import pytest

from model.evaluation.off_policy import (
    Estimate,
    Log,
    Policy,
    doubly_robust,
    estimates,
    expected_of,
    ips,
    naive,
    snips,
    weights,
)

ITEMS, N = 8, 4_000


class Bandit:
    """Contexts with a reward for each item; the log prefers what earns little, the other policy what earns much."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.random = random
        self.chance = random.uniform(0.05, 0.95, (50, ITEMS))  # of a reward, by context and item
        logging = np.exp(-2 * self.chance) + 0.05
        self.logging = logging / logging.sum(1, keepdims=True)
        self.target = self.chance.argmax(1)
        self.truth = float(self.chance.max(1).mean())

    def log(self, model: np.ndarray) -> tuple[Log, Policy]:
        """N lists of one item, and what a model expects."""
        context = self.random.integers(0, len(self.chance), N)
        drawn = (self.random.random((N, 1)) > self.logging[context].cumsum(1)).sum(1).clip(max=ITEMS - 1)
        reward = self.random.random(N) < self.chance[context, drawn]
        columns = (drawn, self.logging[context, drawn], reward, model[context, drawn], context)
        items, propensity, reward, expected, users = columns
        log = Log(items[:, None], propensity[:, None], reward[:, None].astype(float), expected[:, None], users)
        target = self.target[context]
        return log, Policy(target[:, None], model[context, target][:, None])


def all_estimates(model_error: float, runs: int = 30) -> tuple[float, dict[str, np.ndarray]]:
    bandit = Bandit()
    found = {"naive": [], "ips": [], "snips": [], "dr": []}
    for _ in range(runs):
        model = np.clip(bandit.chance + model_error * bandit.random.standard_normal(bandit.chance.shape), 0, 1)
        log, policy = bandit.log(model)
        w = weights(log, policy)
        found["naive"].append(naive(log, policy).value)
        found["ips"].append(ips(log, w).value)
        found["snips"].append(snips(log, w).value)
        found["dr"].append(doubly_robust(log, policy, w).value)
    return bandit.truth, {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("model_error", [0.0, 0.5])
def test_inverse_propensities_and_doubly_robust_find_the_truth_and_naive_does_not(model_error):
    """Over 30 logs their mean is the truth, within four standard errors of it, however wrong the model is."""
    truth, found = all_estimates(model_error)
    for name in ("ips", "dr", "snips"):
        values = found[name]
        assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / np.sqrt(len(values)) + 1e-3
    assert abs(found["naive"].mean() - truth) > 0.5


def test_a_good_model_makes_doubly_robust_surer_than_inverse_propensities():
    _, found = all_estimates(0.0)

    assert found["dr"].std() < 0.7 * found["ips"].std()


def test_wrong_propensities_are_not_put_right_by_a_wrong_model():
    """The test above can fail: with propensities that are none, and expectations that are none, nothing is found."""
    bandit = Bandit()
    log, policy = bandit.log(np.zeros_like(bandit.chance))
    level = Log(log.items, np.full_like(log.propensity, 0.5), log.reward, log.expected, log.users)
    w = weights(level, policy)

    assert abs(ips(level, w).value - bandit.truth) > 0.1
    assert abs(doubly_robust(level, policy, w).value - bandit.truth) > 0.1


def test_a_standard_error_is_how_far_estimates_lie_from_the_truth():
    """In nine of ten logs at least within two of them."""
    bandit, near = Bandit(), []
    for _ in range(40):
        log, policy = bandit.log(bandit.chance)
        log = Log(log.items, log.propensity, log.reward, log.expected, np.arange(N))
        estimate = ips(log, weights(log, policy))
        near.append(abs(estimate.value - bandit.truth) < 2 * estimate.error)

    assert np.mean(near) >= 0.9


def test_lists_that_explore_one_place_tell_what_another_list_would_have_hit():
    """Lists of three of six items, one place drawn from the others: the base, one that shares two items with it in
    another order, and one of which an item is nowhere in the log.
    """
    random, share = np.random.default_rng(1), 0.9
    base, chance = np.array([0, 1, 2]), np.array([0.3, 0.2, 0.1, 0.15, 0.05, 0.2])
    n = 60_000
    items = np.tile(base, (n, 1))
    place, other = random.integers(0, 3, n), random.integers(3, 6, n)
    explores = random.random(n) < share
    items[explores, place[explores]] = other[explores]
    propensity = np.where(items < 3, 1 - share / 3, share / 9)
    came = random.choice(6, n, p=chance)
    log = Log(items, propensity, (items == came[:, None]).astype(float), np.zeros(items.shape), np.arange(n))
    bases = np.tile(base, (n, 1))
    for wanted, full in (([0, 1, 2], True), ([5, 0, 2], True), ([4, 3, 5], True), ([7, 0, 1], False)):
        policy = Policy(np.tile(wanted, (n, 1)), np.zeros((n, 3)))
        w = weights(log, policy, bases)
        estimate, truth = ips(log, w), sum(chance[item] for item in wanted if item < 6)
        assert abs(estimate.value - truth) < 4 * estimate.error
        assert w.mean() == pytest.approx(1.0 if full else 2 / 3, abs=0.03)
        assert abs(naive(log, policy).value - truth) > 0.1 or wanted == [7, 0, 1]


def test_of_another_order_only_what_stands_at_its_place_counts():
    log = Log(np.array([[1, 2, -1]]), np.array([[0.5, 0.25, 1.0]]), np.ones((1, 3)), np.zeros((1, 3)), np.zeros(1, int))

    assert [[2.0, 0.0, 0.0]] == weights(log, Policy(np.array([[1, 3, -1]]), np.zeros((1, 3)))).tolist()


def test_a_log_without_lists_says_nothing():
    none = np.zeros((0, 10))
    log = Log(none.astype(int), none, none, none, np.zeros(0, int))
    found = estimates(log, Policy(none.astype(int), none))

    assert Estimate(0.0, 0.0) == ips(log, weights(log, Policy(none.astype(int), none)))
    assert set(found.values()) == {0.0}


def test_an_expectation_is_the_same_on_any_list():
    known, chances = np.array([[4, 5]]), np.array([[0.4, 0.5]])

    assert [[0.5, 0.0, 0.4]] == expected_of(np.array([[5, 6, 4]]), known, chances).tolist()
