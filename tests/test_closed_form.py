"""Tables fitted in closed form, beside the same written down with dense matrices."""

import numpy as np
import pytest
import torch

from model.learning import closed_form
from model.learning.closed_form import HALF_LIFE, LAGS, fit, fitted, inverse
from model.learning.config import TrainingConfig
from model.learning.replay import Flat, ReplayBuffer
from model.schema import Example, item_key
from model.score import Scorer
from model.signals import SIGNALS

ITEMS = 8
CONFIG = TrainingConfig(ease_ridge=5.0, neighbours=ITEMS, taste_partners=ITEMS)
KEYS = np.arange(100, 100 + ITEMS, dtype=np.uint64)


def flat_of(histories: list[list[int]], known: int = ITEMS) -> Flat:
    """Users who took these items in turn, the first one first; items from `known` on are in no catalogue."""
    buffer, keys = ReplayBuffer(10_000), {item_key(f"i{item}"): item for item in range(known)}
    for user, items in enumerate(histories):
        for at, item in enumerate(items):
            buffer.add(Example(f"u{user}", f"u{user}-{at}", 1_000 * at, f"i{item}", "view"))
    for step, one in enumerate(buffer.take_new()):
        one.counted_at(step)
    return buffer.flatten(lambda wanted: np.array([keys.get(key, -1) for key in wanted.tolist()], np.int64))


def histories(users: int, length: int, seed: int = 0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, ITEMS, int(draw.integers(1, length))).tolist() for _ in range(users)]


def chosen_of(taken: list[list[int]]) -> np.ndarray:
    return np.bincount(np.concatenate(taken), minlength=ITEMS).astype(float)


def dense(scorer: Scorer, name: str) -> np.ndarray:
    """The weight from each fitted item to each."""
    items, weights = (getattr(scorer, f"{name}_{part}") for part in ("items", "weights"))
    return torch.zeros(len(items), len(items)).scatter_(1, items.long(), weights).numpy()


def ease(gram: np.ndarray) -> np.ndarray:
    """Steck's equation 8: off the diagonal -P_ij / P_jj."""
    P = np.linalg.inv(gram)
    B = -P / np.diag(P)
    np.fill_diagonal(B, 0.0)
    return B


def gram_of(taken: list[list[int]], chosen: np.ndarray, seen: int) -> np.ndarray:
    """How often two items are near each other, both ways; less the further apart and the longer ago."""
    decay, gram, step = SIGNALS["ease"].decay, np.zeros((ITEMS, ITEMS)), 0
    for items in taken:
        for at, item in enumerate(items):
            for lag in range(1, min(at, LAGS) + 1):
                other = items[at - lag]
                if other != item:
                    amount = decay ** (lag - 1) * 0.5 ** ((seen - 1 - step) / HALF_LIFE)
                    gram[item, other] += amount
                    gram[other, item] += amount
            step += 1
    np.fill_diagonal(gram, chosen / (1 - decay) + CONFIG.ease_ridge)
    return gram


def shared_of(taken: list[list[int]]) -> np.ndarray:
    """How many users had both items."""
    had = np.array([[item in items for item in range(ITEMS)] for items in taken], float)
    return had.T @ had + CONFIG.ease_ridge * np.eye(ITEMS)


@pytest.mark.parametrize("seed", range(5))
def test_tables_are_those_of_dense_matrices(seed):
    """EASE between near items, no weight below 0, and between whole histories: from there to here."""
    taken = histories(40, 30, seed)
    scorer, chosen, seen = Scorer.untrained(4), chosen_of(taken), sum(map(len, taken))
    fit(scorer, flat_of(taken), KEYS, chosen, seen, CONFIG)

    assert KEYS.tolist() == scorer.fitted_keys.tolist()
    assert ease(gram_of(taken, chosen, seen)).clip(min=0) == pytest.approx(dense(scorer, "ease"), abs=1e-5)
    assert ease(shared_of(taken)).T == pytest.approx(dense(scorer, "taste"), abs=1e-5)


def test_pairs_fade_with_the_examples_since():
    """Half a weight after the half-life."""
    taken, chosen = [[0, 1], [2, 3]], np.ones(ITEMS)
    scorer, old = Scorer.untrained(4), int(HALF_LIFE) + 2
    fit(scorer, flat_of(taken), KEYS, chosen, old, CONFIG)
    gram = gram_of(taken, chosen, old)

    assert 0.5 == pytest.approx(gram[1, 0], rel=1e-3)
    assert ease(gram).clip(min=0) == pytest.approx(dense(scorer, "ease"), abs=1e-6)


def test_nobodys_pair_is_of_two_users():
    """The last item of one user and the first of the next one have nothing to do with each other."""
    scorer = Scorer.untrained(4)
    fit(scorer, flat_of([[0], [1], [2], [3]]), KEYS, np.ones(ITEMS), 4, CONFIG)

    assert not dense(scorer, "ease").any() and not dense(scorer, "taste").any()


def test_what_was_not_chosen_lately_is_not_fitted_and_of_many_the_most_chosen_are():
    """Rows of the tables are those of `fitted_keys`, whatever rows the items have in the catalogue."""
    taken = histories(40, 30)
    chosen = np.array([0, 5, 9, 0, 7, 8, 1, 6], float)
    scorer = Scorer.untrained(4)
    fit(scorer, flat_of(taken), KEYS, chosen, 500, TrainingConfig(ease_items=4, ease_ridge=5.0))

    rows = [2, 4, 5, 7]
    gram = gram_of(taken, chosen, 500)[np.ix_(rows, rows)]
    assert ease(gram).clip(min=0) == pytest.approx(dense(scorer, "ease"), abs=1e-5)
    assert KEYS[rows].tolist() == scorer.fitted_keys.tolist()
    assert ease(shared_of(taken)[np.ix_(rows, rows)]).T == pytest.approx(dense(scorer, "taste"), abs=1e-5)


def test_few_partners_are_the_strongest():
    """In the table between histories a strong weight may be below 0."""
    taken = histories(40, 30)
    whole, few = Scorer.untrained(4), Scorer.untrained(4)
    for scorer, config in ((whole, CONFIG), (few, TrainingConfig(ease_ridge=5.0, neighbours=3, taste_partners=2))):
        fit(scorer, flat_of(taken), KEYS, chosen_of(taken), 500, config)

    for name, width in (("ease", 3), ("taste", 2)):
        expected = -np.sort(-np.abs(dense(whole, name)), axis=1)[:, :width]
        assert expected == pytest.approx(np.abs(getattr(few, f"{name}_weights").numpy()))


def test_where_there_is_nothing_to_fit_the_tables_are_empty():
    """No item chosen, nobody remembered, or an empty catalogue."""
    for flat, keys, chosen in (
        (flat_of(histories(5, 5)), KEYS, np.zeros(ITEMS)),
        (ReplayBuffer(10).flatten(lambda keys: np.zeros(0, np.int64)), KEYS[:0], np.zeros(0)),
    ):
        scorer = Scorer.untrained(4)
        fit(scorer, flat, keys, chosen, 500, CONFIG)

        assert [0, 0, 0] == [len(scorer.fitted_keys), len(scorer.ease_items), len(scorer.taste_weights)]
    scorer = Scorer.untrained(4)
    fit(scorer, ReplayBuffer(10).flatten(lambda keys: np.zeros(0, np.int64)), KEYS, np.ones(ITEMS), 500, CONFIG)
    assert ITEMS == len(scorer.fitted_keys) and not dense(scorer, "ease").any() and not dense(scorer, "taste").any()


def test_whole_histories_are_those_of_the_newest_users(monkeypatch):
    """Of many users those count who came last."""
    monkeypatch.setattr(closed_form, "MOST_USERS", 15)
    taken = histories(40, 30)
    scorer = Scorer.untrained(4)
    fit(scorer, flat_of(taken), KEYS, chosen_of(taken), 500, CONFIG)

    assert ease(shared_of(taken[-15:])).T == pytest.approx(dense(scorer, "taste"), abs=1e-5)


def test_an_item_that_left_the_catalogue_is_in_no_table():
    """The items around it come nearer to each other; it counts for nothing."""
    taken = histories(40, 30)
    without = [[item for item in items if item < 6] for items in taken]
    scorer = Scorer.untrained(4)
    fit(scorer, flat_of(taken, known=6), KEYS[:6], chosen_of(taken)[:6], 500, CONFIG)

    assert KEYS[:6].tolist() == scorer.fitted_keys.tolist()
    assert ease(gram_of(without, chosen_of(taken), 500)[:6, :6]).clip(min=0) == pytest.approx(
        dense(scorer, "ease"), abs=1e-3
    )
    assert ease(shared_of(without)[:6, :6]).T == pytest.approx(dense(scorer, "taste"), abs=1e-5)


@pytest.mark.parametrize("least", [1.0, -1.0])
def test_inverse_of_a_symmetric_matrix_whether_positive_or_not(least):
    """Half the time where it is, and the same."""
    turned = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0))).Q
    matrix = turned @ torch.diag(torch.tensor([least, 2.0, 3.0, 4.0, 5.0])) @ turned.T

    assert torch.allclose(torch.eye(5), inverse((matrix + matrix.T) / 2) @ matrix, atol=1e-4)


def test_an_item_tells_nothing_of_itself():
    """The diagonal is 0: that is what EASE is about."""
    gram = torch.tensor([[4.0, 2.0, 0.0], [2.0, 5.0, 1.0], [0.0, 1.0, 3.0]])

    assert [0.0, 0.0, 0.0] == fitted(gram).diagonal().tolist()
    assert ease(gram.numpy()) == pytest.approx(fitted(gram).numpy(), abs=1e-6)
