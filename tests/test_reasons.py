"""Which signals are given as reasons, worked out by hand; what carried them is tried in tests/test_score.py."""

import pytest
import torch

from model.batch import open_requests
from model.blend import Scores
from model.interest import Rules
from model.reasons import explain
from model.score import Scorer
from model.signals import SIGNALS
from tests.test_score import DIM, make_catalogue, make_request


def given(popular: list[float], trending: list[float]) -> list[list[tuple[str, float]]]:
    """The reasons for each item of a catalogue of which two signals are known; both weigh the same and are 0 on average."""
    catalogue = make_catalogue(len(popular))
    batch = open_requests(catalogue, [make_request(catalogue, ["i0"])], Rules(), 20, torch.device("cpu"))
    found = {"popular": torch.tensor([popular]), "trending": torch.tensor([trending])}
    rows = torch.arange(len(popular))[None]
    scored = Scores(found, torch.ones(1, len(SIGNALS)), rows, sum(found.values()))
    [told] = explain(Scorer.untrained(DIM).table(catalogue), batch, scored, rows, catalogue.item_ids)
    return [[(reason.signal, reason.share) for reason in reasons] for reasons in told]


def test_a_signal_is_a_reason_from_a_twentieth_of_the_score_on():
    """One with less of it is none, though there would be room; the largest share comes first."""
    two, one, half, none = given(popular=[0.94, 0.96, 0.5, -2.4], trending=[0.06, 0.04, 0.5, -0.6])

    assert [("popular", pytest.approx(0.94)), ("trending", pytest.approx(0.06))] == two
    assert [("popular", pytest.approx(0.96))] == one
    assert {("popular", 0.5), ("trending", 0.5)} == set(half)
    assert [] == none


def test_a_signal_below_that_of_the_average_item_is_no_reason():
    """It does not take from the share of the other either."""
    lifted, low, rest = given(popular=[0.7, -0.9, 0.2], trending=[-0.1, 0.4, -0.3])

    assert [[("popular", 1.0)], [("trending", 1.0)], [("popular", 1.0)]] == [lifted, low, rest]
