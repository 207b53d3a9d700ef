"""What a user had, item by item: what was said of it and when, what is left out how long, what the bytes keep."""

import numpy as np
import pytest

from model import consumed
from model.catalogue import Catalogue
from model.consumed import ROW, SAYING, add, excluded, of_events, opened, packed
from model.interest import ACTIONS, EXCLUDE_S, FOREVER
from model.schema import CONSUMING, ItemVector, StateError, item_key
from tests.test_score import make_catalogue

DAY_S = 86_400


def user(*events: tuple[int, str, float], limit: int = 100) -> bytes:
    """What is kept of a user after (item key, action, time in seconds)."""
    kept = b""
    for key, action, time_s in events:
        kept = add(kept, key, action, round(1_000 * time_s), limit)
    return kept


def said(kept: bytes) -> list[tuple[int, str, int]]:
    """Of every item what the user said of it last, and when: (fingerprint, action, seconds)."""
    return [(row["fingerprint"], ACTIONS[row["action"]], row["said_s"]) for row in opened(kept)]


def left_out(kept: bytes, now_s: float, exclude_s=EXCLUDE_S) -> list[int]:
    """The fingerprints of the items that must not be listed now."""
    rows = opened(kept)
    return rows["fingerprint"][excluded(rows, now_s, exclude_s)].tolist()


# What is kept of an item


def test_a_user_who_had_nothing_has_no_bytes():
    """And no rows."""
    assert 0 == len(opened(None)) == len(opened(b""))
    assert b"" == packed(opened(b""))
    assert b"" == of_events(np.zeros(0, np.uint64), np.zeros(0, np.uint8), np.zeros(0, np.int64), 10)


def test_an_item_takes_fourteen_bytes():
    """And the layout's number one, for all of them."""
    assert 14 == ROW.itemsize
    assert [15, 29, 29] == [
        len(user(*events))
        for events in (
            [(7, "view", 1)],
            [(7, "view", 1), (8, "view", 2)],
            [(7, "view", 1), (8, "view", 2), (7, "view", 3)],
        )
    ]


def test_an_item_is_kept_once_with_how_often_and_when():
    """In the order in which the items came first; the newest time is the newest, however late an event came."""
    kept = user((7, "view", 10), (8, "click", 20), (7, "click", 40), (7, "view", 30))

    assert [7, 8] == opened(kept)["fingerprint"].tolist()
    assert [3, 1] == opened(kept)["times"].tolist()
    assert [40, 20] == opened(kept)["last_s"].tolist()


@pytest.mark.parametrize("action", sorted(SAYING))
def test_what_was_said_stands_though_the_item_is_seen_again(action):
    """A view after a purchase does not undo it: what stands is the purchase, at its own time."""
    kept = user((7, action, 10), (7, "view", 20), (7, "click", 30), (7, "cart", 40))

    assert [(7, action, 10)] == said(kept)
    assert (40, 4) == (opened(kept)["last_s"][0], opened(kept)["times"][0])


@pytest.mark.parametrize("before", ["view", "click", "cart"])
def test_what_is_said_takes_the_place_of_what_was_only_seen(before):
    assert [(7, "purchase", 20)] == said(user((7, before, 10), (7, "purchase", 20)))


def test_a_later_word_takes_the_place_of_an_earlier_one():
    """A like after a dislike brings the item back; a dislike after a like takes it out."""
    liked, disliked = user((7, "dislike", 10), (7, "like", 20)), user((7, "like", 10), (7, "dislike", 20))

    assert [(7, "like", 20)] == said(liked) and [(7, "dislike", 20)] == said(disliked)
    assert ([], [7]) == (left_out(liked, 30), left_out(disliked, 30))


def test_a_word_that_comes_late_does_not_take_the_place_of_a_newer_one():
    """What was said last goes by when it was said, not when the job learnt of it; in one second the later counts."""
    assert [(7, "like", 20)] == said(user((7, "like", 20), (7, "dislike", 10)))
    assert [(7, "dislike", 20)] == said(user((7, "like", 20), (7, "dislike", 20)))
    assert [(7, "skip", 5)] == said(user((7, "view", 20), (7, "skip", 5)))


def test_seeing_an_item_often_counts_up_to_255():
    """One byte: 255 stands for 255 or more."""
    kept = user(*((7, "view", at) for at in range(300)))

    assert [255] == opened(kept)["times"].tolist()
    assert kept == of_events(np.full(300, 7, np.uint64), np.zeros(300, np.uint8), 1_000 * np.arange(300), 100)


def test_a_time_beyond_32_bits_counts_as_the_last_there_is():
    """Of the times an event may have, the largest one breaks nothing."""
    [row] = opened(add(b"", 7, "purchase", 2**48 - 1, 10))

    assert (2**32 - 1, 2**32 - 1) == (row["last_s"], row["said_s"])


# What is left out


@pytest.mark.parametrize("action", ["dislike", "skip", "rating"])
def test_what_a_user_has_judged_is_left_out_for_ever(action):
    assert [[7], [7]] == [left_out(user((7, action, 10)), now_s) for now_s in (10, 10 + 36_500 * DAY_S)]


def test_a_purchase_is_left_out_for_thirty_days():
    """To the second, from when it was made; seeing the item again neither ends nor lengthens that."""
    kept = user((7, "purchase", 10), (7, "view", 10 + 20 * DAY_S))

    assert [[7], [7], []] == [left_out(kept, 10 + now_s) for now_s in (0, 30 * DAY_S - 1, 30 * DAY_S)]


@pytest.mark.parametrize("action", ["view", "click", "cart", "like"])
def test_what_was_looked_at_or_liked_may_come_again(action):
    """Whether it should is learnt, not ruled."""
    assert [] == left_out(user((7, action, 10)), 10)


def test_nothing_is_left_out_by_a_time_before_it_was_seen():
    """A list for an event that comes late is made for its time: items that were only looked at since are not left out,
    those that were bought since are.
    """
    kept = user((7, "view", 100), (8, "purchase", 100))

    assert [8] == left_out(kept, 50)


def test_how_long_follows_the_rules():
    """By action, each on its own; with no rule nothing is left out."""
    kept = user((1, "view", 0), (2, "cart", 0), (3, "purchase", 0), (4, "dislike", 0))

    assert [[1, 4], [4]] == [left_out(kept, now_s, {"view": 60.0, "dislike": FOREVER}) for now_s in (59, 60)]
    assert [] == left_out(kept, 0, {})


def test_each_row_may_have_a_time_of_its_own():
    """One user's list is made now, another's was made then."""
    rows = opened(user((1, "purchase", 0), (2, "purchase", 0)))

    assert [True, False] == excluded(rows, np.array([5, 65]), {"purchase": 60.0}).tolist()


# Limits


def test_past_the_limit_those_had_longest_ago_are_dropped():
    """The bytes never grow beyond 14 x limit + 1; one that is had again stays, in its place."""
    kept = user(*((key, "view", key) for key in range(1, 100)), limit=16)
    again = user(
        *((key, "view", key) for key in range(1, 17)), (3, "view", 50), (20, "view", 51), (21, "view", 52), limit=16
    )

    assert 1 + 14 * 16 == len(kept)
    assert list(range(84, 100)) == opened(kept)["fingerprint"].tolist()
    assert [3, *range(4, 17), 20, 21] == opened(again)["fingerprint"].tolist()


def test_an_item_that_comes_so_late_that_others_are_newer_is_the_one_dropped():
    assert [2, 3] == opened(user((2, "view", 20), (3, "view", 30), (1, "view", 10), limit=2))["fingerprint"].tolist()


def test_a_limit_of_zero_remembers_nothing():
    """`max_consumed` 0 switches it off."""
    assert b"" == add(b"", 7, "purchase", 10, 0)
    assert b"" == of_events(np.array([7], np.uint64), np.array([3], np.uint8), np.array([10]), 0)


def test_a_smaller_limit_holds_from_the_next_event_on():
    """A setting that was lowered: what was kept before is cut with the next item."""
    kept = user(*((key, "view", key) for key in range(1, 50)))

    assert [48, 49, 50] == opened(add(kept, 50, "view", 50_000, 3))["fingerprint"].tolist()


# Fingerprints


def test_items_are_told_apart_by_32_bits():
    """Two ids whose keys end in the same 16 bits are two items (F39): who saw one may well be shown the other."""
    first, second = 0x1111_2222_3333_4444, 0x1111_2222_5555_4444
    kept = user((first, "purchase", 10))

    assert [0x3333_4444] == left_out(kept, 20)
    assert [(0x3333_4444, "purchase", 10), (0x5555_4444, "view", 11)] == said(add(kept, second, "view", 11_000, 10))


def test_ids_chosen_so_that_their_low_16_bits_collide_are_two_items_of_a_catalogue():
    """The first two such ids that there are: the row of one is never the row of the other."""
    seen: dict[int, str] = {}
    for number in range(5_000):
        twin = seen.setdefault(item_key(f"i{number}") & 0xFFFF, f"i{number}")
        if twin != f"i{number}":
            break
    catalogue = make_catalogue(number + 1)
    kept = user((item_key(twin), "purchase", 10))
    rows = catalogue.rows_of_fingerprints(opened(kept)["fingerprint"])

    assert [twin] == [catalogue.item_ids[row] for row in rows]
    assert -1 == catalogue.rows_of_fingerprints(opened(user((item_key("nowhere"), "view", 10)))["fingerprint"])[0]
    assert [-1] == Catalogue().rows_of_fingerprints(np.array([7], np.uint32)).tolist()


def test_a_catalogue_that_changes_finds_its_items_by_their_new_rows():
    """An item that is deleted is found no more; the last one, which took its row, is."""
    catalogue = make_catalogue(4)
    marks = consumed.fingerprints(np.array([item_key(f"i{number}") for number in range(5)], np.uint64))
    assert [0, 1, 2, 3, -1] == catalogue.rows_of_fingerprints(marks).tolist()

    catalogue.apply([ItemVector("i1", deleted=True)])

    assert [0, -1, 2, 1, -1] == catalogue.rows_of_fingerprints(marks).tolist()


# One by one, and all at once


def random_events(random: np.random.Generator, count: int, in_order: bool) -> list[tuple[int, str, int]]:
    """Events of every consuming action on few items, some of whose keys differ in the high bits only."""
    keys = random.integers(1, 9, count) + (random.integers(0, 2, count) << 40)
    times = random.integers(0, 60 * DAY_S, count)
    actions = random.choice(sorted(CONSUMING), count)
    return list(zip(keys.tolist(), actions.tolist(), sorted(times.tolist()) if in_order else times.tolist()))


def at_once(events: list[tuple[int, str, int]], limit: int) -> bytes:
    keys, actions, times_s = zip(*events)
    numbers = np.array([ACTIONS.index(action) for action in actions], np.uint8)
    return of_events(np.array(keys, np.uint64), numbers, 1_000 * np.array(times_s, np.int64), limit)


@pytest.mark.parametrize("seed", range(40))
def test_many_events_at_once_give_what_one_after_the_other_gives(seed):
    """The learner rebuilds what the job kept, byte by byte: whatever the actions, in the order of time or not."""
    random = np.random.default_rng(seed)
    events = random_events(random, int(random.integers(1, 120)), in_order=seed % 2 == 0)

    assert user(*events) == at_once(events, 100)


@pytest.mark.parametrize("seed", range(20))
def test_past_the_limit_the_same_items_are_kept_with_what_was_said_of_them(seed):
    """In the order of time, one in a second. How often an item was had is counted anew once it has been dropped."""
    random = np.random.default_rng(seed)
    count = int(random.integers(20, 100))
    keys, actions = random.integers(1, 30, count).tolist(), random.choice(["view", "click", "cart"], count).tolist()
    events = list(zip(keys, actions, range(count)))
    kept, rebuilt = opened(user(*events, limit=8)), opened(at_once(events, 8))

    assert 8 >= len(kept) == len(rebuilt)
    by_item = (
        np.sort(rows[["fingerprint", "last_s", "said_s", "action"]], order="fingerprint").tolist()
        for rows in (kept, rebuilt)
    )
    assert next(by_item) == next(by_item)


def test_adding_leaves_the_bytes_that_it_was_given_alone():
    """What Flink holds as state is never written to."""
    kept = user((7, "view", 10), (8, "view", 20))
    before = bytes(bytearray(kept))
    add(kept, 7, "dislike", 30_000, 100)
    add(kept, 9, "view", 30_000, 100)

    assert before == kept
    with pytest.raises(ValueError, match="read-only"):
        opened(kept)["times"][0] = 3


# Bytes


def test_bytes_of_layout_1_can_be_read_for_ever():
    """A purchase and a look at another item, as this release writes them."""
    kept = bytes.fromhex("0144443333280000000a0000000203080000001400000014000000ff00")

    assert [(0x3333_4444, 40, 10, 2, 3), (8, 20, 20, 255, 0)] == opened(kept).tolist()
    assert kept == packed(opened(kept))
    assert kept[:15] == user((0x3333_4444, "purchase", 10), (0x3333_4444, "view", 40))


def test_an_unknown_layout_is_refused():
    """The message says which came and which can be read."""
    with pytest.raises(StateError) as error:
        opened(b"\x02" + user((7, "view", 10))[1:])

    assert "15 bytes of consumed items of layout 2: layout 1 can be read" == str(error.value)


def test_bytes_that_are_cut_short_are_refused():
    """Wherever the cut is, but between two items; an even number of bytes is taken for marks of release 0.1.0."""
    kept = user((7, "view", 10), (8, "view", 20))
    for length in set(range(1, len(kept), 2)) - {1, 15}:
        with pytest.raises(StateError):
            opened(kept[:length])


def test_an_action_that_there_is_not_is_refused():
    """Looking it up would stop the job, instead of costing this user's event."""
    with pytest.raises(StateError, match="consumed items are damaged: action 250: there are 11"):
        opened(user((7, "view", 10))[:-1] + b"\xfa")


def test_the_marks_of_release_0_1_0_are_passed_over():
    """They say neither when nor how the user had an item: nothing is known of it, and the next event begins anew."""
    for items in range(1, 200):
        marks = b"\x01" * 2 * items

        assert 0 == len(opened(marks))
    assert user((7, "view", 10)) == add(marks, 7, "view", 10_000, 10)


@pytest.mark.parametrize("action", ["purchase", "like", "dislike", "skip"])
def test_a_rating_does_not_undo_what_was_said(action):
    """Who buys coffee and praises it gets coffee again once the purchase is old enough."""
    events = (7, action, 10), (7, "rating", 20)
    at_once = of_events(
        np.array([7, 7], np.uint64),
        np.array([ACTIONS.index(one) for _, one, _ in events]),
        np.array([10_000, 20_000]),
        10,
    )

    assert [(7, action, 10)] == said(user(*events))
    assert at_once == user(*events)
