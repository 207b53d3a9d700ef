"""The live twin by hand: hits, places, the window, and what is forgotten."""

import pytest

from model import consumed
from model.evaluation.online import LastList, OnlineMetrics, first_left
from model.interest import FOREVER
from model.schema import Request, item_key


def test_the_item_that_comes_is_looked_for_on_the_list_that_the_user_had():
    """First place, second place, and a miss; popularity is asked the same."""
    twin = OnlineMetrics()
    for user, came in (("ann", 1), ("bob", 2), ("eve", 9)):
        twin.show(user, LastList("v1", [1, 2, 3], [9, 1]))
        twin.come(user, came)

    assert {
        "events": 3,
        "hr_at_10": pytest.approx(2 / 3),
        "ndcg_at_10": pytest.approx((1 + 0.6309297535714575) / 3),
        "popularity_hr_at_10": pytest.approx(2 / 3),
        "popularity_ndcg_at_10": pytest.approx((0.6309297535714575 + 1) / 3),
    } == twin.figures("v1")


def test_a_list_is_judged_for_its_own_version_until_a_newer_one_comes():
    """By a second event too that had no list of its own; a user without a list is judged by none."""
    twin = OnlineMetrics()
    twin.show("ann", LastList("v1", [1], []))
    twin.show("ann", LastList("v2", [2], []))

    assert ["v2", "v2", None] == [twin.come("ann", 2), twin.come("ann", 2), twin.come("bob", 1)]
    assert (0, 2) == (twin.figures("v1")["events"], twin.figures("v2")["events"])


def test_a_user_who_was_forgotten_has_no_list():
    """What comes next is judged by none; forgetting a stranger does no harm."""
    twin = OnlineMetrics()
    twin.show("ann", LastList("v1", [1], []))
    twin.forget("ann")
    twin.forget("nobody")

    assert None is twin.come("ann", 1)
    assert 0 == twin.figures("v1")["events"]


def test_figures_are_of_the_newest_events():
    """Two hits leave the window as two misses come."""
    twin = OnlineMetrics(window=2)
    for came in (1, 1, 7, 7):
        twin.show("ann", LastList("v1", [1], [7]))
        twin.come("ann", came)

    assert (2, 0, 1) == tuple(twin.figures("v1")[name] for name in ("events", "hr_at_10", "popularity_hr_at_10"))


def test_what_is_kept_is_bounded():
    """Users whose lists came first, and versions that were shown first, make room."""
    twin = OnlineMetrics(users=2, versions=2)
    for user in ("ann", "bob", "eve"):
        twin.show(user, LastList(f"of {user}", [1], []))

    assert [None, "of bob", "of eve"] == [twin.come(user, 1) for user in ("ann", "bob", "eve")]
    twin.show("joe", LastList("of joe", [1], []))
    twin.come("joe", 1)
    assert [0, 1, 1] == [twin.figures(f"of {user}")["events"] for user in ("bob", "eve", "joe")]


def test_what_is_popular_is_shown_without_what_the_user_must_not_be_shown():
    """As one by one: what was bought a minute ago is left out for good, what was viewed for an hour only."""
    items = [item_key(f"i{number}") for number in range(30)]
    had = b""
    for number, (action, ago_s) in enumerate((("purchase", 60), ("view", 60), ("view", 7_200), ("like", 60))):
        had = consumed.add(had, items[number], action, 1_000 * (10_000 - ago_s), 100)
    requests = [Request("u", "e", 10_000_000, [], "", b"", bytes_) for bytes_ in (had, b"", had)]
    exclude_s = {"purchase": FOREVER, "view": 3_600.0}

    shown = first_left(requests, items, exclude_s, 4)

    assert [[items[number] for number in numbers] for numbers in ([2, 3, 4, 5], [0, 1, 2, 3], [2, 3, 4, 5])] == shown
    assert [[], [], []] == first_left(requests, [], exclude_s, 4)
