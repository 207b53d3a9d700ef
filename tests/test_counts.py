"""What is counted, and how much of it one user can make: bots, forgetting, and what came next."""

import numpy as np
import pytest
import torch
from model.learning.counts import NEXT_MS, Chosen, Shares, next_of

from model.evaluate import Users
from model.finetune import Learner
from model.learning.config import TrainingConfig
from model.schema import Event, Example, item_key
from model.score import Scorer
from model.scoring.table import EVER, HALF_LIVES
from tests.test_score import make_catalogue

QUICK = TrainingConfig(warm_up_epochs=0.0, epochs_per_event=0.0, sample_rate=0.0)
"""Only what is counted is learnt."""
ITEMS = 40


@pytest.fixture(scope="module")
def catalogue():
    return make_catalogue(ITEMS)


def views(user: str, items: list[str], from_ms: int = 0) -> list[Example]:
    """A user views these items, one a minute."""
    return [Example(user, f"{user}-{at}", from_ms + 60_000 * at, item, "view", b"") for at, item in enumerate(items)]


def crowd(users: int, each: int = 5) -> list[Example]:
    """Users who take a few items each, all items alike."""
    return [
        one
        for user in range(users)
        for one in views(f"u{user}", [f"i{(user * each + at) % ITEMS}" for at in range(each)], 600_000 * user)
    ]


def counted(catalogue, *heaps: list[Example]) -> tuple[Learner, Scorer]:
    learner = Learner(catalogue, config=QUICK)
    for heap in heaps:
        learner.add(heap)
        scorer = learner.fine_tune()
    return learner, scorer


def count_of(scorer: Scorer, item_id: str, half_life: int = EVER) -> float:
    row = scorer.keys.tolist().index(np.uint64(item_key(item_id)).astype(np.int64))
    return scorer.counts[half_life, row].item()


# Popularity


def test_a_choice_counts_one_and_fades_with_each_half_life(catalogue):
    """Of four users, each an event: the first one's choice is three events old."""
    _, scorer = counted(catalogue, [one for user in range(4) for one in views(f"u{user}", [f"i{user}"])])

    assert [1.0] * 4 == [count_of(scorer, f"i{number}") for number in range(4)]
    assert [0.5 ** (3 / half_life) for half_life in HALF_LIVES] == pytest.approx(
        [count_of(scorer, "i0", at) for at in range(len(HALF_LIVES))]
    )


def test_one_user_who_takes_one_item_again_and_again_adds_one(catalogue):
    """A bot that takes one item 500 times makes it as popular as one user who takes it once."""
    _, scorer = counted(catalogue, crowd(20), views("bot", ["i7"] * 500, 10**9))
    _, once = counted(catalogue, crowd(20), views("bot", ["i7"], 10**9))

    assert count_of(once, "i7") == count_of(scorer, "i7")
    assert 1.0 == count_of(scorer, "i7") - count_of(counted(catalogue, crowd(20))[1], "i7")


def test_another_item_in_between_does_not_help(catalogue):
    """Two items in turn add one each: what was had among the last events is had again."""
    _, scorer = counted(catalogue, views("bot", ["i7", "i8"] * 250))

    assert (1.0, 1.0) == (count_of(scorer, "i7"), count_of(scorer, "i8"))


def test_who_comes_back_to_an_item_after_a_while_counts_again(catalogue):
    """After more than 20 other events it is a choice anew."""
    _, scorer = counted(catalogue, views("u", ["i0", *(f"i{number}" for number in range(1, 25)), "i0"]))

    assert (2.0, 1.0) == (count_of(scorer, "i0"), count_of(scorer, "i1"))


def test_one_user_makes_at_most_a_twentieth_of_each_popularity():
    """A bot takes 500 different items among 2,000 events of others: 5 % of the events is all that counts of it, whether
    old choices fade or not. Of the others every choice counts.
    """
    wide = make_catalogue(540)
    others, bot = crowd(400), views("bot", [f"i{number}" for number in range(ITEMS, 540)])
    mixed = [one for at, own in enumerate(bot) for one in (*others[4 * at : 4 * at + 4], own)]
    _, scorer = counted(wide, mixed)
    of_bot = np.array(
        [[count_of(scorer, f"i{number}", at) for number in range(ITEMS, 540)] for at in range(len(HALF_LIVES))]
    ).sum(1)
    rest = [sum(count_of(scorer, f"i{number}", at) for number in range(ITEMS)) for at in range(len(HALF_LIVES))]
    whole = np.array([sum(0.5 ** (age / half_life) for age in range(len(mixed))) for half_life in HALF_LIVES])

    assert (of_bot <= 0.05 * whole + 1).all() and (of_bot > 0.03 * whole).all()
    assert 2_000 == pytest.approx(rest[EVER])


def test_at_first_a_user_may_make_a_share_of_the_events_to_come(catalogue):
    """Where there are few events yet, the first users are not cut: up to 50 choices count, as for a stream of 1,000."""
    shares = Shares()
    added = np.stack([shares.take("u", step, False) for step in range(100)])

    assert 50 == pytest.approx(added[:, EVER].sum())
    assert added[:50, EVER] == pytest.approx(1)


def test_each_user_has_a_share_of_their_own():
    """What one makes is not taken from another; whoever is forgotten has made nothing."""
    shares = Shares()
    for step in range(100):
        shares.take("bot", step, False)

    assert 0 == shares.take("bot", 100, False)[EVER]
    assert 1 == shares.take("u", 100, False)[EVER]
    shares.forget("bot")
    shares.forget("nobody")
    assert 1 == shares.take("bot", 101, False)[EVER]


def test_what_has_faded_makes_room_for_new_choices():
    """A share of what counts now is soon used up by a quick user, and free again a thousand events later."""
    shares = Shares()
    for step in range(100):
        full = shares.take("u", step, False)

    assert (full[1:] < 1).any() and (shares.take("u", 5_000, False)[1:] == 1).all()


def test_who_is_kept_track_of_is_bounded(monkeypatch):
    """Whoever was there longest ago is dropped."""
    monkeypatch.setattr(Shares, "_USERS", 3)
    shares = Shares()
    for step, user in enumerate("abcade"):
        shares.take(user, step, False)

    assert ["a", "d", "e"] == list(shares._had)


@pytest.mark.parametrize("kind", ["one item", "all items", "some twice", "dislikes between"])
def test_forgetting_takes_out_exactly_what_was_counted(catalogue, kind):
    """Counts, pairs and what came next are those of a learner that never met the user, whatever had been cut of it."""
    items = {
        "one item": ["i7"] * 60,
        "all items": [f"i{at % ITEMS}" for at in range(120)],
        "some twice": ["i1", "i2", "i1", "i3", "i2", "i1"],
        "dislikes between": ["i1", "i2", "i3", "i1", "i4", "i3", "i5"],
    }[kind]
    users = Users(catalogue)
    actions = (
        ["view", "dislike", "view", "view", "skip", "view", "like"]
        if kind == "dislikes between"
        else ["view"] * len(items)
    )
    events = [
        Event(f"z{at}", "z", action, 10**9 + 5_000 * at, item) for at, (item, action) in enumerate(zip(items, actions))
    ]
    own = [one.example for one in map(users.ask, events) if one.example]
    learner, _ = counted(catalogue, crowd(20), own)
    learner.add([Example("z", "f", 10**10, forget=True)])
    after, (stranger, never) = learner.fine_tune(), counted(catalogue, crowd(20))

    faded = torch.tensor([0.5 ** (len(own) / half_life) for half_life in HALF_LIVES])[:, None]
    assert torch.allclose(after.counts, never.counts * faded, atol=1e-3)
    assert (after.first < 0).sum() == (never.first < 0).sum()
    for mine, theirs, half_lives in (
        (learner.counts.pairs, stranger.counts.pairs, 3),
        (learner.counts.next, stranger.counts.next, 1),
    ):
        theirs.fade(len(own))
        for (partners, weights), (others, their_weights) in zip(
            mine.rows(np.arange(ITEMS)), theirs.rows(np.arange(ITEMS))
        ):
            assert _dense(partners, weights, half_lives) == pytest.approx(
                _dense(others, their_weights, half_lives), abs=1e-3
            )


def _dense(partners: np.ndarray, weights: np.ndarray, half_lives: int) -> np.ndarray:
    """The weight of every item, 0 for one that is no partner; (half-lives, ITEMS)."""
    dense = np.zeros((half_lives, ITEMS))
    dense[:, partners] = weights
    return dense


# What came next


def chosen(
    rows: list[int], times_ms: list[int], positive: list[bool] | None = None, starts: list[int] | None = None
) -> Chosen:
    """All events are chosen, the newest last; they are of one user if not said otherwise."""
    count = len(rows)
    starts = np.array(starts or [0] * count)
    return Chosen(
        np.array(rows),
        np.array(times_ms),
        np.array(positive or [True] * count),
        starts,
        np.arange(count),
        np.zeros(count, int),
    )


def pairs(one: Chosen) -> list[tuple[int, int, float]]:
    """(second, first, amount), as `next_of` gives them."""
    first, second, amounts = next_of(one)
    return list(zip(first.tolist(), second.tolist(), amounts[0].tolist()))


def test_what_came_next_is_what_came_within_twenty_seconds():
    """The item before leads to it, those before that half as much, up to five of them."""
    assert [(2, 1, 1.0), (3, 2, 1.0), (3, 1, 0.5)] == pairs(chosen([1, 2, 3], [0, 1_000, NEXT_MS]))
    assert [(2, 1, 1.0)] == pairs(chosen([1, 2, 3], [0, NEXT_MS, 2 * NEXT_MS + 1]))
    assert 5 == sum(second == 9 for second, _, _ in pairs(chosen(list(range(10)), list(range(10)))))


def test_nothing_comes_next_within_one_time():
    """What came at one time came in no order: how rows were sorted teaches nothing; what came before leads to all."""
    assert [] == pairs(chosen([1, 2, 3, 4], [5_000] * 4))
    assert [(2, 1, 1.0), (3, 1, 0.5)] == pairs(chosen([1, 2, 3], [4_000, 5_000, 5_000]))


def test_what_came_next_stays_with_the_user_and_with_what_was_wanted():
    """Not beyond the user's first event, not an item with itself, not from or to what was searched for or refused."""
    assert [(3, 2, 1.0)] == pairs(chosen([1, 2, 3], [0, 1, 2], starts=[0, 1, 1]))
    assert [] == pairs(chosen([1, 1], [0, 1]))
    assert [(3, 1, 0.5)] == pairs(chosen([1, 2, 3], [0, 1, 2], positive=[True, False, True]))


def test_what_came_next_fades_with_the_events_since():
    """2,000 events later it counts half."""
    one = chosen([1, 2], [0, 1])._replace(ages=np.array([2_001, 2_000]))

    assert [(2, 1, 0.5)] == pairs(one)


def test_rows_of_one_time_teach_the_table_nothing(catalogue):
    """Users who rate three items in one second, always sorted by id: i1 does not lead to i2, nor i2 to i3."""
    heap = [
        Example(f"u{user}", f"{user}-{at}", 1_000_000 * user, f"i{at}", "rating", b"")
        for user in range(30)
        for at in (1, 2, 3)
    ]
    _, scorer = counted(catalogue, heap)

    assert 0 == scorer.neighbours("next")[1].abs().max()
    assert 0 < scorer.neighbours("transitions")[1].max()
