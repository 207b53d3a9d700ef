"""The metrics by hand, the protocol on a small world, and streams that are hardly any."""

import json

import numpy as np
import pandas as pd
import pytest

from model.evaluate import Popularity, Protocol, Users, coverage, evaluate, hit_rate_at_k, mrr_at_k, ndcg_at_k
from model.schema import Event
from scripts.evaluate import check_events, main, summarise
from tests.test_score import ITEMS, make_catalogue

RANKS = np.array([0, 1, 9, 10, -1])


def test_metrics_are_those_computed_by_hand():
    """Places 1, 2 and 10 are hits at 10, place 11 and a miss are none."""
    assert hit_rate_at_k(RANKS) == pytest.approx(3 / 5)
    assert ndcg_at_k(RANKS) == pytest.approx((1 + 0.6309297535714575 + 0.2890648263178879) / 5)
    assert mrr_at_k(RANKS) == pytest.approx((1 + 1 / 2 + 1 / 10) / 5)
    assert hit_rate_at_k(RANKS, 1) == pytest.approx(1 / 5)
    assert coverage(np.array([[0, 1], [1, -1]]), 8) == pytest.approx(1 / 4)


def test_metrics_of_nothing_are_zero():
    assert (0, 0, 0, 0) == (hit_rate_at_k(RANKS[:0]), ndcg_at_k(RANKS[:0]), mrr_at_k(RANKS[:0]), coverage(RANKS[:0], 0))


def test_decayed_popularity_prefers_what_is_chosen_now():
    """Three choices long ago against two of now; what is excluded is not given."""
    popular = Popularity(3, [float("inf"), 2.0])
    for row in (0, 0, 0, 1, 1):
        popular.add(row)

    assert [[0, 1, 2], [1, 0, 2]] == [rows.tolist() for rows in popular.best(np.zeros(3, bool))]
    assert [[0, 2], [0, 2]] == [rows.tolist() for rows in popular.best(np.array([False, True, False]))]
    assert [[], []] == [rows.tolist() for rows in Popularity(0, [1.0, 2.0]).best(np.zeros(0, bool))]


def make_events(users: int = 40, length: int = 8) -> list[Event]:
    """Users come one after the other; each stays with the even or with the odd items."""
    random, events = np.random.default_rng(1), []
    for user in range(users):
        for number in random.permutation(ITEMS // 2)[:length]:
            item = f"i{2 * number + user % 2}"
            events.append(Event(f"e{len(events)}", f"u{user}", "view", 1_000 * len(events), item_id=item))
    return events


def test_headrace_beats_popularity_where_there_are_tastes():
    """In the checkerboard popularity is blind, the learner is not; the same seed gives the same figures."""
    protocol = Protocol(fine_tune_every=130)
    first, again = (evaluate(make_events(), make_catalogue(), protocol).results for _ in range(2))

    assert first["headrace"].ranks == again["headrace"].ranks
    assert len(first["headrace"].ranks) == len(first["popularity"].ranks) == 256
    headrace, popularity = (hit_rate_at_k(np.array(first[name].ranks)) for name in ("headrace", "popularity"))
    assert headrace > 1.4 * popularity


def test_an_event_is_predicted_before_it_is_learnt():
    """One user, every item once: a method that had seen the target would hit, one that has not cannot know it."""
    events = [Event(f"e{at}", "u", "view", at, item_id=f"i{at}") for at in range(ITEMS)]
    results = evaluate(events, make_catalogue(), Protocol(warm_up=0.0, fine_tune_every=5)).results

    assert len(results["headrace"].ranks) == ITEMS
    assert results["popularity"].ranks[0] == int(np.flatnonzero(np.array(make_catalogue().item_ids[:10]) == "i0")[0])


def test_the_lists_of_the_job_are_counted_too():
    """A live list is made right after the event before: it holds the same as a late one as long as no gap was learnt from."""
    events = [Event(f"e{at}", "u", "view", 86_400_000 * at, item_id=f"i{at}") for at in range(20)]
    users = Users(make_catalogue(), Protocol())
    asked = [users.ask(event) for event in events]
    results = evaluate(events, make_catalogue(), Protocol(warm_up=0.0, live=True)).results

    assert [0, *range(0, 19)] == [one.live().request.event_time_ms // 86_400_000 for one in asked]
    assert results["headrace"].ranks == results["headrace-live"].ranks
    assert "headrace-live" not in evaluate(events, make_catalogue(), Protocol()).results


def view(at: int, user: str = "u", item: str | None = "i1", action: str = "view", time_ms: int = 7) -> Event:
    return Event(f"e{at}", user, action, time_ms, item_id=item)


STREAMS = {
    "nothing": [],
    "one event": [view(0)],
    "ten events at one time": [view(at, f"u{at % 3}", f"i{at}") for at in range(10)],
    "one user": [view(at, "u", f"i{at}", time_ms=at) for at in range(20)],
    "one item": [view(at, f"u{at}", "i1", time_ms=at) for at in range(20)],
    "the same item again and again": [view(at, time_ms=at) for at in range(20)],
    "items nobody knows": [view(at, f"u{at % 2}", f"nowhere{at % 3}", time_ms=at) for at in range(20)],
    "only dislikes": [view(at, f"u{at % 2}", f"i{at}", "dislike", at) for at in range(20)],
    "impressions without an item": [view(at, "u", None if at % 2 else "i3", "impression" if at % 2 else "view", at) for at in range(20)],
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("items", [0, 1, ITEMS])
def test_a_stream_that_is_hardly_one_gives_figures(name, items):
    """Whatever the stream, every figure is a number, and JSON can be written."""
    events, catalogue = STREAMS[name], make_catalogue(items)
    outcome = evaluate(events, catalogue, Protocol(fine_tune_every=7))
    result = summarise(name, events, 0, catalogue, outcome, 0.1)

    figures = [figure for method in result["methods"].values() for figure in method.values()]
    assert np.isfinite(figures).all()
    assert json.loads(json.dumps(result, allow_nan=False))["items"] == items


def test_dislikes_are_history_but_no_targets():
    events = [view(at, "u", f"i{at}", "dislike" if at % 2 else "view", at) for at in range(20)]
    assert 10 == evaluate(events, make_catalogue(), Protocol(warm_up=0.0)).predicted


def test_rows_that_are_no_events_are_counted():
    rows = [("u", "i", 5, "view", 1.0), ("u", "i", 5, "jump", 1.0), ("u", "i", -5, "view", float("nan")), ("", "i", 5, "view", 0.0)]
    valid, refused = check_events(pd.DataFrame(rows, columns=["user_id", "item_id", "event_time_ms", "action", "value"]))
    assert (1, 3) == (len(valid), refused)


def test_a_file_that_cannot_be_read_stops_the_script_with_a_message(tmp_path, capsys):
    """Exit code 2, the file and what is wrong on stderr, nothing on stdout."""
    (tmp_path / "e.csv").write_text("user_id,item_id\nu,i\n")
    (tmp_path / "i.csv").write_text("item_id,title\ni,Title\n")
    with pytest.raises(SystemExit) as stopped:
        main(["--events", f"{tmp_path}/e.csv", "--items", f"{tmp_path}/i.csv"])
    out, err = capsys.readouterr()

    assert (2, "") == (stopped.value.code, out)
    assert "e.csv: no column event_time_ms" in err
