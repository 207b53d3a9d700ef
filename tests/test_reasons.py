"""Which signals are given as reasons, worked out by hand; what carried them is tried in tests/test_score.py."""

import pytest
import torch

from model.interest import Rules
from model.schema import Reason
from model.score import Scorer
from model.scoring.batch import open_requests
from model.scoring.ranker import Scored, find
from model.scoring.reasons import explain
from model.signals import ALL, COLUMN, FINDING, NAMES, OPTIONAL, SIGNALS, TERMS
from model.statistics import ItemStatistics
from serving.words import say
from tests.test_score import DIM, make_catalogue, make_request


def given(
    popular: list[float], trending: list[float], said=None, explored=(), **more: list[float]
) -> list[list[tuple[str, float]]]:
    """The reasons for each item of a catalogue of which two signals are known; both weigh the same and average 0.

    Args:
        more: further signals; `had` weighs as much as the others, against the item.
        said: terms of what the user said outright.
        explored: the numbers of items that explore.
    """
    catalogue, n = make_catalogue(len(popular)), len(popular)
    batch = open_requests(catalogue, [make_request(catalogue, ["i0"])], Rules(), 20)
    table = Scorer.untrained(DIM).table(ItemStatistics(), catalogue)
    names = torch.zeros(1, n, len(NAMES))
    for name, values in {"popularity": popular, "popularity-2k": trending, **more, **(said or {})}.items():
        names[0, :, COLUMN[name]] = torch.tensor(values)
    signals, terms = names.split((len(SIGNALS), len(TERMS)), 2)
    rows, there = torch.arange(n)[None], torch.ones(1, n, dtype=torch.bool)
    weights = torch.tensor([[-1.0 if name == "had" else 1.0 for name in SIGNALS]])
    scores = (signals @ weights[..., None])[..., 0] + terms.sum(2)
    found = find(table.scorer.ranker, table, batch).candidates
    average, rest = names[..., [COLUMN[name] for name in (*FINDING, *TERMS)]], torch.full((1,), -torch.inf)
    scored = Scored(rows, there, signals, terms, scores, weights, average, rest, found.sources, found)
    columns = torch.tensor([[n if number in explored else number for number in range(n)]])
    [told] = explain(table, batch, scored, columns, rows, catalogue.item_ids)
    return [[(reason.signal, reason.share) for reason in reasons] for reasons in told]


def test_a_signal_is_a_reason_from_a_twentieth_of_the_score_on():
    """One with less of it is none, though there would be room; the largest share comes first."""
    two, one, half, none = given(popular=[0.94, 0.96, 0.5, -2.4], trending=[0.06, 0.04, 0.5, -0.6])

    assert [("popularity", pytest.approx(0.94)), ("popularity-2k", pytest.approx(0.06))] == two
    assert [("popularity", pytest.approx(0.96))] == one
    assert {("popularity", 0.5), ("popularity-2k", 0.5)} == set(half)
    assert [] == none


def test_a_signal_below_that_of_the_average_item_is_no_reason():
    """It does not take from the share of the other either."""
    lifted, low, rest = given(popular=[0.7, -0.9, 0.2], trending=[-0.1, 0.4, -0.3])

    assert [[("popularity", 1.0)], [("popularity-2k", 1.0)], [("popularity", 1.0)]] == [lifted, low, rest]


def test_what_a_user_said_outright_is_a_reason_beside_the_signals():
    """A search that lifts an item by three times what its popularity does has three quarters of it, whatever the
    signals weigh; what it pushes down has no reason from it.
    """
    near, far = given(popular=[0.5, -0.5], trending=[0.0, 0.0], said={"search": [1.5, -1.5]})

    assert [("search", 0.75), ("popularity", 0.25)] == near
    assert [] == far


def test_an_item_that_explores_is_there_because_it_is_new():
    """Whatever its signals say: that is its one reason. The others keep theirs."""
    first, second = given(popular=[0.7, -0.7], trending=[0.3, -0.3], explored=[1])

    assert [("new", 1.0)] == second
    assert ["popularity", "popularity-2k"] == [name for name, _ in first]
    assert [("new", 1.0)] == given(popular=[0.7, -0.7], trending=[0.3, -0.3], explored=[0])[0]


def test_every_signal_and_every_term_has_a_name_of_its_own():
    """What is said outright is told apart from what is learnt, and from `new`."""
    assert len(set(NAMES)) == len(NAMES) == len(SIGNALS) + len(TERMS)
    assert "new" not in NAMES


def test_that_a_user_never_had_an_item_is_no_reason_for_it():
    """It lifts the item above one that was had, but says nothing of it; to be had again is one, where that lifts."""
    never, had = given(popular=[0.1, -0.1], trending=[0.0, 0.0], had=[0.0, 0.7])
    again, _ = given(popular=[0.1, -0.1], trending=[0.0, 0.0], **{"had-lately": [0.9, 0.0]})

    assert ([("popularity", 1.0)], []) == (never, had)
    assert "had-lately" == again[0][0]


def test_every_reason_can_be_said_in_words():
    """Each signal, each term and `new`, with past events and without; there are no words for what no longer exists."""
    assert sorted([*NAMES, *OPTIONAL, "new"]) == sorted(ALL)
    for name in ALL:
        assert "Heat and Alien" in say(Reason(name, 0.5, items=["m1", "m2"]), {"m1": "Heat", "m2": "Alien"}.get)
        assert say(Reason(name, 0.5), str) and "{}" not in say(Reason(name, 0.5), str)
