"""Drift: what is told from a change, what is no drift, and that the learner learns at once."""

import numpy as np
import pytest

from jobs.settings import SettingsError, load
from model.evaluation import drift as made_up
from model.learning.drift import UNSETTLED, Drift, surprises
from model.schema import Example
from model.statistics import ItemStatistics

river = pytest.importorskip("river", reason="the extra `drift` is not installed")


def watched(drift: Drift, hits: np.ndarray, surprise: np.ndarray) -> list[int]:
    """The turns of 50 in which it asks for learning."""
    turns = zip(np.split(hits, len(hits) // 50), np.split(surprise, len(hits) // 50))
    return [turn for turn, (some, other) in enumerate(turns) if drift.watch(some.tolist(), other.tolist())]


def test_nothing_is_told_while_everything_stays_the_same():
    """10,000 events of one hit rate and one mix of items."""
    random = np.random.default_rng(0)

    assert [] == watched(Drift(), random.random(10_000) < 0.2, random.normal(6, 1, 10_000))


@pytest.mark.parametrize("what", ["hits", "surprises"])
def test_what_gets_worse_is_told_soon_and_for_as_long_as_it_takes_to_learn(what):
    """A third of the hits, or items that were rare before: within 500 events, and until things have settled."""
    random = np.random.default_rng(0)
    after = np.arange(10_000) >= 5_000
    hits = random.random(10_000) < np.where(after & (what == "hits"), 0.07, 0.2)
    told = watched(Drift(), hits, random.normal(np.where(after & (what == "surprises"), 8, 6), 1))

    assert 100 <= told[0] <= 110
    assert list(range(told[0], told[-1] + 1)) == told
    assert told[-1] - told[0] >= UNSETTLED // 50 - 1


def test_what_gets_better_is_no_drift():
    """Learning brings more hits; items become less surprising as they are counted."""
    random = np.random.default_rng(0)
    after = np.arange(10_000) >= 5_000
    drift = Drift()

    assert [] == watched(
        drift, random.random(10_000) < np.where(after, 0.4, 0.2), random.normal(np.where(after, 4, 6), 1)
    )
    assert 0 == drift.detected


def test_an_item_is_as_surprising_as_it_was_rare():
    """Nothing counted: all alike. Then the one that was chosen most is least of all, one that never was is most."""
    statistics = ItemStatistics()
    chosen = [
        Example(f"u{number}", f"e{number}", 1_000 * number, f"i{number % 3 and 1}", "view") for number in range(30)
    ]
    nothing = surprises(statistics, chosen[:2])
    statistics.apply(chosen)
    often, seldom, never = surprises(statistics, [Example("u", "e", 1, item, "view") for item in ("i1", "i0", "i9")])

    assert nothing[0] == nothing[1]
    assert often < seldom < never
    assert [] == surprises(statistics, [])


def test_learning_comes_early_where_a_change_is_told(monkeypatch):
    """A small stream: without a detector nothing is learnt until its turn comes; with one soon after the change."""
    sizes = {"TOPICS": 20, "SIZE": 12, "USERS": 60, "BEFORE": 1_300, "AFTER": 900, "EVERY": 1_100}
    for name, value in sizes.items():
        monkeypatch.setattr(made_up, name, value)
    without, told, anew = (made_up.follow(way) for way in (made_up.WITHOUT, made_up.WITH, made_up.ANEW))

    assert (0, [100, 1_200]) == (without.early, without.learnt_at)
    assert told.early >= 1
    assert any(1_300 < at <= 2_000 for at in told.learnt_at)
    assert [1_400, 1_800] <= [at for at in anew.learnt_at if at > 1_300]


def test_it_is_off_and_wants_its_package(monkeypatch):
    """Without river the programs that are asked for it do not start; without the setting nobody looks for it."""
    monkeypatch.setattr("jobs.settings.find_spec", lambda name: None)

    assert "off" == load([], {}).drift
    with pytest.raises(SettingsError, match=r"drift=adwin: river cannot be imported here: pip install '\.\[drift\]'"):
        load(["--drift", "adwin"], {})
