"""What an evaluation prints and draws."""

import pytest

from model.evaluate import Outcome, Protocol, Result, Targets
from model.score import Scorer
from scripts.data import DataError
from scripts.report import check_drawing, draw, explain, show, summarise
from tests.test_score import make_catalogue

HIT, MISS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]


def make_outcome() -> Outcome:
    """Two users with four targets each: Headrace hits all of the second one's, popularity one in all."""
    headrace = Result([-1] * 4 + [0] * 4, [MISS] * 4 + [HIT] * 4, seconds=0.8, learning_s=2.0, learnt=1_000)
    popular = Result([-1] * 7 + [9], [MISS] * 7 + [HIT])
    targets = Targets(
        [0] * 4 + [1] * 4, ["view"] * 8, [0, 1, 2, 3, 6, 7, 8, 9], [9] * 6 + [0, 0], [False] * 8, [""] * 8
    )
    return Outcome({"popularity": popular, "headrace": headrace}, targets, Scorer.untrained(16))


def test_figures_are_told_for_all_new_users_new_items_and_the_rest():
    """The first user is new, the last two items are; two targets are neither."""
    methods = summarise("two users", [], 0, make_catalogue(), make_outcome(), 1.0)["methods"]
    headrace = methods["headrace"]

    assert (0.5, 100.0, 2.0) == (headrace["hr_at_10"], headrace["ms_per_list"], headrace["learning_s_per_1000_events"])
    groups = [headrace[group] for group in ("new_users", "new_items", "rest")]
    assert [(4, 0.0), (2, 1.0), (2, 1.0)] == [(group["events"], group["hr_at_10"]) for group in groups]
    assert [0.0, 1.0] == headrace["hr_at_10_interval"]
    assert ([0.0, 0.0], [0.0, 0.75]) == (headrace["behind_headrace"], methods["popularity"]["behind_headrace"])


def test_the_table_has_the_best_method_first_and_the_protocol_above_it(capsys):
    show(summarise("two users", [], 0, make_catalogue(), make_outcome(), 1.0, explain(Protocol())))
    out = capsys.readouterr().out

    assert out.startswith(
        "Prequential: events in time order, those of one time in an order that is drawn, for every method alike; "
        "the first 20%"
    )
    assert 0 < out.index("headrace") < out.index("popularity")
    assert out.endswith("HR@10 of headrace: 4.00 times that of popularity, the best of the others\n")
    assert "8 events predicted, 0 rows refused, 0 events on items that are not in the catalogue" in out


def test_the_name_of_a_file_is_printed_as_text(capsys):
    """Brackets are no markup, and a word between colons is no picture."""
    show(summarise("[/] [bold]x :smile:.csv", [], 0, make_catalogue(), make_outcome(), 1.0))

    assert "[/] [bold]x :smile:.csv: 0 events" in capsys.readouterr().out


def test_the_curves_are_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    draw(make_outcome(), "two users", tmp_path / "curves.png")
    assert b"\x89PNG" == (tmp_path / "curves.png").read_bytes()[:4]


def test_where_nothing_can_be_drawn_it_is_said_before_the_work(monkeypatch, tmp_path):
    """Another ending, no matplotlib, or no such folder."""
    with pytest.raises(DataError, match=r"--plot c.xlsx: no picture has this ending; there are .png, .pdf, .svg, .jpg"):
        check_drawing("c.xlsx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"--plot c.png: matplotlib is needed: `make setup`"):
        check_drawing("c.png")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(DataError, match="there is no such folder"):
        check_drawing(tmp_path / "nowhere" / "c.png")
