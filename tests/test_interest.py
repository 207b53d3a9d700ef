"""The interests of one user: what an event does to them, and what their bytes keep."""

from pathlib import Path

import numpy as np
import pytest

from model.interest import (
    ACTIONS,
    INTEREST_DIM,
    LAYOUT,
    MOST_EVENTS,
    MOST_INTERESTS,
    STRENGTHS,
    Interests,
    Rules,
    decode,
    encode,
    fold,
    interest_space,
    newest,
    rating_strength,
    resolve,
    since_search,
    use_encoder,
)
from model.schema import Event, StateError, event_key

DATA = Path(__file__).parent / "data"
GOLDEN_1, GOLDEN = DATA / "interests-v1.bin", DATA / "interests-v2.bin"
START_MS = 1_700_000_000_000
HALF_LIFE_MS = 7 * 86_400_000
RULES = Rules()
AXES = np.eye(INTEREST_DIM, dtype=np.float32)
"""Tastes that have nothing in common: the tiny world in which every answer is known."""


def between(axis: int, other: int, similarity: float) -> np.ndarray:
    """A unit vector at this cosine from one axis, leaning towards the other."""
    return (similarity * AXES[axis] + np.sqrt(1 - similarity**2) * AXES[other]).astype(np.float32)


def take(
    interests: Interests,
    action: str,
    number: int,
    after_ms: int,
    vector: np.ndarray | None,
    rules: Rules = RULES,
    **more,
) -> bool:
    """Fold event e<number> on item <number>, so many ms after the start; `value` of a rating, `query` of a search."""
    event = Event(f"e{number}", "u", action, START_MS + after_ms, value=more.get("value"))
    return fold(interests, event, 0 if action == "search" else number, vector, rules, more.get("query"))


def user(*events: tuple, rules: Rules = RULES) -> Interests:
    """Interests after (action, vector or None, ms after the start, value, query); event n is on item n, from 1."""
    interests = Interests()
    for number, (action, vector, after_ms, *more) in enumerate(events, 1):
        take(interests, action, number, after_ms, vector, rules, **dict(zip(("value", "query"), more)))
    return interests


def weight_of(interests: Interests, axis: int) -> float:
    """The weight of the interest that is nearest to an axis, 0 if none is near."""
    near = interests.vectors @ AXES[axis] > 0.5 if len(interests.weights) else np.zeros(0, bool)
    return float(interests.weights[near].sum())


def random_events(rng: np.random.Generator, count: int, span_ms: int = 30 * 86_400_000) -> list[tuple]:
    vectors = interest_space(rng.standard_normal((count, 48)))
    actions = rng.choice([action for action in ACTIONS if action not in ("impression", "forget")], count)
    known = rng.random(count) < 0.8
    times = rng.integers(0, span_ms, count)
    return [
        (str(action), vector if there or action == "search" else None, int(time))
        for action, vector, there, time in zip(actions, vectors, known, times)
    ]


# Bytes


QUERY = np.linspace(-1, 1, 384, dtype=np.float32) / np.linalg.norm(np.linspace(-1, 1, 384))
"""A search as the encoder gave it."""


def golden() -> Interests:
    """The user whose bytes are in tests/data/interests-v2.bin.

    The file was made once, by

        PYTHONPATH=. python -c "from tests.test_interest import *; GOLDEN.write_bytes(encode(golden()))"

    and is never made again: a new layout gets a new file beside it.
    """
    interests = user(
        ("click", AXES[0], 0),
        ("purchase", AXES[1], 0),
        ("rating", AXES[0], HALF_LIFE_MS, 5.0),
        ("view", None, HALF_LIFE_MS + 1),
        ("search", AXES[2], 2 * HALF_LIFE_MS, None, QUERY),
        ("rating", AXES[1], 2 * HALF_LIFE_MS, 2.0),
    )
    interests.encoder = 0x1234ABCD
    return interests


def test_bytes_of_layout_1_can_be_read_for_ever():
    """The golden file holds a user with three interests and five events, one of them pending and one a search.

    It was written before there were strengths, ratings and queries: strengths are those of the actions, the others
    none.
    """
    interests = decode(GOLDEN_1.read_bytes())

    assert (0x1234ABCD, START_MS + 2 * HALF_LIFE_MS, 2) == (interests.encoder, interests.newest_ms, interests.last)
    assert AXES[:3].tolist() == interests.vectors.tolist()
    assert [1.25, 0.75, 1.5] == interests.weights.tolist()
    assert [START_MS + HALF_LIFE_MS, START_MS, START_MS + 2 * HALF_LIFE_MS] == interests.touched_ms.tolist()
    assert [[0, 0.75, 1.5], [1, 0, 0], [0, 0, 0]] == interests.edges.tolist()
    assert [1, 2, 3, 4, 0] == interests.item_keys.tolist()
    assert [1, 2, 3, 4, 5] == interests.log["event_key"].tolist()
    assert ["click", "purchase", "like", "view", "search"] == [ACTIONS[action] for action in interests.actions]
    assert [False, False, False, True, False] == interests.pending.tolist()
    after_ms = [0, 0, HALF_LIFE_MS, HALF_LIFE_MS + 1, 2 * HALF_LIFE_MS]
    assert [START_MS + ms for ms in after_ms] == interests.times_ms.tolist()
    assert [1.0, 3.0, 2.0, 1.0, 1.5] == interests.strengths.tolist()
    assert (0, 0.0, 0, None) == (
        interests.ratings,
        interests.mean_rating,
        len(interests.query),
        since_search(interests),
    )


def test_a_user_of_layout_1_goes_on_in_the_one_of_now():
    """What was read is written as layout 2 and reads the same; the next event is folded in as into any other."""
    old = decode(GOLDEN_1.read_bytes())
    new = decode(encode(old))
    take(new, "dislike", 6, 2 * HALF_LIFE_MS, AXES[0])

    assert (1, 2) == (GOLDEN_1.read_bytes()[0], encode(old)[0])
    assert [*old.log.tolist()] == new.log.tolist()[:5]
    assert [1.0, 3.0, 2.0, 1.0, 1.5, -2.0] == new.strengths.tolist()
    assert "dislike" == newest(encode(new))[1]


def test_the_newest_event_of_layout_1_is_read_without_opening_the_rest():
    assert (0, "search", 5) == newest(GOLDEN_1.read_bytes())


def test_bytes_of_layout_2_can_be_read_for_ever():
    """The golden file holds two ratings beside the mean of the scale and a search with its query."""
    interests = decode(GOLDEN.read_bytes())

    assert (0x1234ABCD, START_MS + 2 * HALF_LIFE_MS, 2) == (interests.encoder, interests.newest_ms, interests.last)
    assert AXES[0].tolist() == interests.vectors[0].tolist()
    assert ["click", "purchase", "rating", "view", "search", "rating"] == [
        ACTIONS[action] for action in interests.actions
    ]
    assert [1, 2, 3, 4, 0, 6] == interests.item_keys.tolist()
    assert [event_key(f"e{number}") for number in range(1, 7)] == interests.log["event_key"].tolist()
    assert [False, False, False, True, False, False] == interests.pending.tolist()
    assert [1.0, 3.0, 2.0, 1.0, 1.5, -1.25] == interests.strengths.tolist()
    assert (2, 3.5) == (interests.ratings, interests.mean_rating)
    assert interests.query @ QUERY > 0.999
    assert (1, START_MS + 2 * HALF_LIFE_MS) == since_search(interests)


def test_the_layout_that_is_written_is_the_one_of_the_golden_file():
    """Whoever changes a byte of the layout raises its number and adds a golden file."""
    assert 2 == LAYOUT
    assert GOLDEN.read_bytes() == encode(golden())


def test_actions_keep_their_numbers():
    """State holds an action by its place, so new ones go to the end."""
    first = ("view", "click", "cart", "purchase", "rating", "like", "dislike", "skip", "search", "impression", "forget")

    assert first == ACTIONS[: len(first)]


def test_a_user_takes_at_most_a_thousand_bytes():
    """At the default settings, however many events came; a search still known takes one byte a dimension more."""
    interests = user(*random_events(np.random.default_rng(1), 100))
    searched = user(*random_events(np.random.default_rng(1), 100), ("search", None, 31 * 86_400_000, None, QUERY))

    assert (6, 20) == (len(interests.weights), len(interests.log))
    assert 964 == len(encode(interests)) <= 1_000
    assert 964 + 2 + 384 == len(encode(searched))


@pytest.mark.parametrize("seed", range(5))
def test_what_is_read_is_written_back_the_same(seed):
    """Opening and packing a user changes no byte, so a user who rests never drifts."""
    rng = np.random.default_rng(seed)
    ratings = [
        ("rating", AXES[1], 50 * 86_400_000 + at, float(value)) for at, value in enumerate(rng.integers(1, 6, 5))
    ]
    search = ("search", AXES[2], 60 * 86_400_000, None, rng.standard_normal(32).astype(np.float32))
    data = encode(user(*random_events(rng, 40), *ratings, search))

    assert data == encode(decode(data)) == encode(decode(encode(decode(data))))


def test_packing_costs_little_of_a_vector():
    """int8 keeps the direction to a thousandth."""
    interests = user(*random_events(np.random.default_rng(2), 40))

    cosines = np.einsum("id,id->i", interests.vectors, decode(encode(interests)).vectors)

    assert cosines.min() > 0.999


@pytest.mark.parametrize("data", [None, b""])
def test_a_user_without_bytes_is_new(data):
    """No interests, no events, nothing to fade."""
    interests = decode(data)

    assert (0, 0, -1) == (len(interests.weights), len(interests.log), interests.last)
    assert 0 == len(decode(encode(interests)).log)


def test_an_unknown_layout_is_refused():
    """The message says which layout came, which can be read, and what to do."""
    with pytest.raises(StateError) as error:
        decode(b"\x03" + GOLDEN.read_bytes()[1:])

    assert "interests of layout 3: layouts 1 to 2 can be read; use the release that wrote them" == str(error.value)


@pytest.mark.parametrize("golden", [GOLDEN_1, GOLDEN], ids=lambda path: path.stem)
def test_bytes_that_are_cut_short_are_refused(golden):
    """Wherever the cut is: in the header, the interests, the edges, the query or the events."""
    data = golden.read_bytes()
    for length in range(1, len(data)):
        with pytest.raises(StateError) as error:
            decode(data[:length])

        assert str(error.value).startswith(f"{length} bytes of interests are cut short: ")


@pytest.mark.parametrize("count", [2, MOST_INTERESTS])
def test_as_many_interests_can_be_kept_as_the_settings_allow(count):
    """Each of its own direction; the last of them is the one that the user came from."""
    vectors, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((INTEREST_DIM, INTEREST_DIM)))
    directions = np.vstack((vectors, -vectors)).astype(np.float32)
    rules, data = Rules(max_interests=count, last_n=MOST_EVENTS, merge_similarity=0.9), b""
    for number in range(MOST_EVENTS + 50):
        interests = decode(data)
        take(interests, "purchase", number, number, directions[number % len(directions)], rules)
        data = encode(interests)
    held = decode(data)

    assert (count, MOST_EVENTS) == (len(held.weights), len(held.log))
    assert data == encode(decode(data))
    if count == MOST_INTERESTS:
        last = (MOST_EVENTS + 49) % len(directions)
        assert held.vectors[held.last] @ directions[last] > 0.999
        assert INTEREST_DIM * 2 == MOST_INTERESTS == 1 + max(decode(data).last, 127)


def test_an_edge_stays_a_number_however_often_it_is_walked():
    """Half precision ends at 65,504: a bot that goes on buying, with weights that do not fade, gets there."""
    rules = Rules(half_life_s=1e300)
    interests = user(("purchase", AXES[0], 0), ("purchase", AXES[0], 1))
    interests.edges[:] = 70_000
    take(interests, "purchase", 3, 2, AXES[0], rules)

    assert [[65_504]] == decode(encode(interests)).edges.tolist()


def damaged(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


NAN_4, NAN_2 = np.float32("nan").tobytes(), np.float16("nan").tobytes()
COUNT = GOLDEN.read_bytes()[1]
DAMAGED = {
    "another layout": (0, b"\x03"),
    "more interests": (1, bytes([COUNT + 1])), "fewer interests": (1, bytes([COUNT - 1])),
    "more events": (2, b"\xff"), "fewer events": (2, b"\x01"), "a last interest that is none": (3, b"\x7f"),
    "and one below": (3, b"\x80"), "vectors of another space": (4, b"\x20\x00"), "a longer query": (18, b"\xff\x7f"),
    "no mean rating": (22, NAN_2),
    "a weight that is no number": (24, NAN_4), "an endless weight": (24, b"\x00\x00\x80\x7f"),
    "a negative weight": (24, b"\x00\x00\x80\xbf"), "an edge that is no number": (24 + 78 * COUNT, NAN_2),
    "an action that there is not": (-11, b"\xfa"),
}  # fmt: skip


@pytest.mark.parametrize("at, new", DAMAGED.values(), ids=DAMAGED)
def test_bytes_that_no_release_has_written_are_refused(at, new):
    """As a StateError, which costs that user's event and no other's."""
    data = GOLDEN.read_bytes()
    with pytest.raises(
        StateError,
        match=r"^(interests of layout 3|the (last )?interests? |[0-9]+ bytes of interests)",
    ):
        decode(damaged(data, at % len(data), new))


def test_bytes_that_are_too_many_are_refused():
    with pytest.raises(StateError, match=r"bytes of interests: [0-9]+ were wanted, as their header says"):
        decode(GOLDEN.read_bytes() + b"\0")


@pytest.mark.parametrize("golden", [GOLDEN_1, GOLDEN], ids=lambda path: path.stem)
def test_whatever_a_byte_is_changed_to_the_state_can_be_folded_on_or_is_refused(golden):
    """No other error comes of it: that would stop the job."""
    data, refused = golden.read_bytes(), 0
    for at in range(len(data)):
        for new in (b"\x00", b"\x7f", b"\x80", b"\xff"):
            try:
                interests = decode(damaged(data, at, new))
            except StateError:
                refused += 1
                continue
            take(interests, "view", 99, HALF_LIFE_MS, AXES[3])
            assert decode(encode(interests)).log["item_key"][-1] >= 0

    assert 0 < refused < 4 * len(data)


def test_folding_leaves_the_bytes_and_the_vectors_it_was_given_alone():
    """What Flink holds as state is never written to, nor is a row of the catalogue."""
    data, vector = GOLDEN.read_bytes(), between(0, 1, 0.8)
    kept, kept_vector = bytes(bytearray(data)), vector.copy()
    interests = decode(data)

    newest_ms = interests.newest_ms - START_MS
    take(interests, "click", 19, newest_ms + 1, vector)
    take(interests, "dislike", 18, newest_ms + 2, vector)
    take(interests, "click", 17, newest_ms + 3, AXES[9], Rules(max_interests=3))
    take(interests, "search", 16, newest_ms + 4, AXES[8], query=QUERY)
    resolve(interests, lambda key: vector, RULES)
    use_encoder(interests, 1)
    resolve(interests, lambda key: vector, RULES)
    take(interests, "dislike", 15, newest_ms + 5, vector)

    assert kept == data
    assert kept_vector.tolist() == vector.tolist()


# What an event does


def test_the_first_event_opens_an_interest():
    """It points where the item is and weighs as much as the action says."""
    interests = user(("purchase", AXES[3], 0))

    assert [AXES[3].tolist()] == interests.vectors.tolist()
    assert ([3.0], 0) == (interests.weights.tolist(), interests.last)


def test_a_near_event_moves_the_nearest_interest():
    """The interest turns towards the item by the event's share of the weight; the others stay where they are."""
    interests = user(("click", AXES[0], 0), ("click", AXES[1], 0), ("click", between(0, 2, 0.8), 0))

    expected = (AXES[0] + between(0, 2, 0.8)) / np.linalg.norm(AXES[0] + between(0, 2, 0.8))

    assert np.allclose(expected, interests.vectors[0])
    assert AXES[1].tolist() == interests.vectors[1].tolist()
    assert [2.0, 1.0] == interests.weights.tolist()


def test_a_far_event_opens_an_interest():
    """Below `merge_similarity` the item belongs to no interest that is there."""
    events = [("click", AXES[0], 0), ("click", between(0, 1, 0.49), 1)]

    assert 2 == len(user(*events).weights)
    assert 1 == len(user(*events, rules=Rules(merge_similarity=0.48)).weights)


def test_the_weakest_interest_makes_room():
    """Its edges go with it, and the place it had belongs to the new one."""
    rules = Rules(max_interests=2)
    interests = user(("purchase", AXES[0], 0), ("click", AXES[1], 0), ("like", AXES[2], 0), rules=rules)

    assert AXES[[0, 2]].tolist() == interests.vectors.tolist()
    assert [3.0, 2.0] == interests.weights.tolist()
    assert 0 == interests.edges.sum()


def test_a_late_event_does_not_drive_out_a_stronger_interest():
    """What the user liked long ago finds no room among what the user likes now."""
    rules = Rules(max_interests=1)
    interests = user(("click", AXES[0], HALF_LIFE_MS), ("click", AXES[1], 0), rules=rules)

    assert (1.0, 0.0) == (weight_of(interests, 0), weight_of(interests, 1))


def test_weights_halve_in_the_half_life():
    """An event that moves another interest shows how the first has faded; after another half-life it is a quarter."""
    rules = Rules(half_life_s=60)
    interests = user(("click", AXES[0], 0), ("click", AXES[1], 60_000), ("click", AXES[2], 120_000), rules=rules)

    assert [0.25, 0.5, 1.0] == interests.weights.tolist()


@pytest.mark.parametrize("action, left", [("skip", 1.5), ("dislike", 0.0)])
def test_what_a_user_does_not_like_pushes_away_and_weakens(action, left):
    """The interest turns away from the item and loses the action's weight, at most all of it."""
    disliked = between(0, 1, 0.8)
    before = user(("like", AXES[0], 0))
    after = user(("like", AXES[0], 0), (action, disliked, 0))

    assert after.vectors[0] @ disliked < before.vectors[0] @ disliked
    assert [left] == after.weights.tolist()


def test_not_liking_something_new_opens_no_interest():
    """There is nothing to push away; the event is remembered all the same."""
    interests = user(("dislike", AXES[0], 0))

    assert (0, 1) == (len(interests.weights), len(interests.log))


def test_edges_grow_with_every_move_and_fade():
    """An edge a -> b says how strongly a led to b; staying in an interest is an edge to itself."""
    rules = Rules(half_life_s=60)
    moves = [("click", AXES[0], 0), ("click", AXES[1], 0), ("click", AXES[0], 0), ("purchase", AXES[1], 0)]

    assert [[0, 4], [1, 0]] == user(*moves, rules=rules).edges.tolist()
    assert [[0, 2], [0.5, 1]] == user(*moves, ("click", AXES[1], 60_000), rules=rules).edges.tolist()


def test_a_search_moves_interests_and_carries_no_item():
    """It counts 1.5 and is no pending event, whether it had words to embed or not."""
    interests = user(("search", AXES[4], 0), ("search", None, 1))

    assert np.isclose(1.5, weight_of(interests, 4))
    assert ([0, 0], [False, False]) == (interests.item_keys.tolist(), interests.pending.tolist())


def test_the_last_events_are_kept_in_the_order_of_their_times():
    """However they came; past `last_n` the oldest goes."""
    rules = Rules(last_n=3)
    interests = user(*(("click", AXES[0], after_ms) for after_ms in (50, 20, 40, 10, 30)), rules=rules)

    assert [START_MS + after_ms for after_ms in (30, 40, 50)] == interests.times_ms.tolist()


# Ratings


def strengths(*values: float, scale: tuple[float, float] = (1.0, 5.0)) -> list[float]:
    """How much each of these ratings says, one after the other."""
    events = [("rating", AXES[0], at, value) for at, value in enumerate(values)]
    return user(*events, rules=Rules(rating_scale=scale)).strengths.tolist()


def test_a_rating_says_what_its_value_says():
    """The first one is held against the middle of the scale: the best says as much as a like, the middle as much as a
    view, and the lowest pushes away as a dislike does.
    """
    assert [2.0, 1.5, 1.0, -0.5, -2.0] == [strengths(value)[0] for value in (5.0, 4.0, 3.0, 2.0, 1.0)]
    assert STRENGTHS["like"] == strengths(5.0)[0] and STRENGTHS["dislike"] == strengths(1.0)[0]


def test_a_rating_without_a_value_says_that_the_item_was_had():
    """It is no word on how it was, and is not counted into the mean."""
    interests = user(("rating", AXES[0], 0, None), ("rating", AXES[0], 1))

    assert ([1.0, 1.0], 0) == (interests.strengths.tolist(), interests.ratings)


def test_a_rating_is_held_against_the_users_own_mean():
    """3 of 5 is praise from who gives 2s, and blame from who gives 5s; so much for 3 of 5 after ten ratings."""
    mild, harsh = strengths(*[5.0] * 10, 3.0)[-1], strengths(*[2.0] * 10, 3.0)[-1]

    assert mild < 0
    assert harsh > 1
    assert [1.0] == strengths(*[3.0] * 10, 3.0)[-1:]


def test_the_mean_is_that_of_all_ratings_however_long_ago():
    """Not only of the last N events; three ratings of the middle of the scale stand before the first one."""
    interests = user(*(("rating", AXES[0], at, 4.0) for at in range(30)), rules=Rules(last_n=5))
    kept = decode(encode(interests))

    assert (30, 4.0, 5) == (kept.ratings, kept.mean_rating, len(kept.log))
    assert rating_strength(4.0, 30, 4.0, (1.0, 5.0)) == pytest.approx(1 + (4 - (3 * 3 + 30 * 4) / 33) / 2)


def test_a_low_rating_pushes_an_interest_away_and_a_high_one_pulls():
    """As a dislike and a like do."""
    for value, action in ((1.0, "dislike"), (5.0, "like")):
        rated, said = (
            user(("like", AXES[0], 0), event)
            for event in (("rating", between(0, 1, 0.8), 1, value), (action, between(0, 1, 0.8), 1))
        )

        assert np.allclose(said.vectors, rated.vectors)
        assert said.weights.tolist() == rated.weights.tolist()


def test_any_scale_may_be_set():
    """From 0.5 to 10 in halves, or a thumb; what lies outside of it counts as its end."""
    assert [2.0, 1.0, -2.0] == [strengths(value, scale=(0.0, 10.0))[0] for value in (10.0, 5.0, 0.0)]
    assert [2.0, -2.0] == [strengths(value, scale=(-1.0, 1.0))[0] for value in (1.0, -1.0)]
    assert strengths(5.0, 5.0) == strengths(99.0, 99.0)
    assert strengths(1.0, 1.0) == strengths(-99.0, -99.0)


# Searches


def test_the_newest_search_is_kept_with_its_query():
    """As the encoder gave it, of unit length to a thousandth; an older one that comes late does not take its place."""
    first, second = AXES[3], QUERY
    interests = user(("search", None, 10, None, first), ("click", AXES[0], 20))
    assert (1, START_MS + 10) == since_search(interests)
    take(interests, "search", 7, 30, None, query=second)
    take(interests, "search", 8, 5, None, query=first)
    kept = decode(encode(interests))

    assert kept.query @ QUERY > 0.999 and np.isclose(1, np.linalg.norm(kept.query))
    assert (0, START_MS + 30) == since_search(kept)


def test_a_query_goes_when_its_search_is_no_longer_among_the_last_events():
    """It is kept for as long as the search is, and takes no byte afterwards."""
    interests, rules = user(("search", None, 0, None, QUERY), rules=Rules(last_n=4)), Rules(last_n=4)
    for number in range(2, 5):
        take(interests, "view", number, number, AXES[0], rules)

        assert (number - 1, START_MS) == since_search(interests)
    take(interests, "view", 5, 5, AXES[0], rules)

    assert (0, None) == (len(interests.query), since_search(interests))
    assert len(encode(interests)) == len(encode(decode(encode(interests)))) < 384


def test_a_search_that_drops_out_leaves_the_one_after_it():
    """Of two searches the newest is the one that is kept, until it drops out itself."""
    interests, rules = Interests(), Rules(last_n=3)
    take(interests, "search", 1, 1, None, rules, query=AXES[5])
    take(interests, "search", 2, 2, None, rules, query=QUERY)
    for number in (3, 4):
        take(interests, "view", number, number, AXES[0], rules)

        assert QUERY.astype(np.float32).tolist() == interests.query.tolist()
    take(interests, "view", 5, 5, AXES[0], rules)

    assert 0 == len(interests.query)


def test_a_query_of_another_encoder_is_dropped():
    """Its vector means nothing beside the new ones; the search stays among the events."""
    interests = user(("search", AXES[2], 0, None, QUERY))
    use_encoder(interests, 7)

    assert (0, None, ["search"]) == (
        len(interests.query),
        since_search(interests),
        [ACTIONS[action] for action in interests.actions],
    )


# Events that come again, or late


def test_an_event_that_comes_again_changes_nothing():
    """A repeated event among the last N is told by its id: the bytes stay the same."""
    events = random_events(np.random.default_rng(3), 40)
    interests = user(*events)
    before = encode(interests)

    for number, (action, vector, after_ms) in enumerate(events, 1):
        if event_key(f"e{number}") in interests.log["event_key"]:
            assert not take(interests, action, number, after_ms, vector)

    assert before == encode(interests)


def test_two_events_at_one_moment_both_count():
    """An event is told by its id, not by its time."""
    interests = user(("click", AXES[0], 0))

    assert take(interests, "click", 2, 0, AXES[0])
    assert not take(interests, "click", 1, 1, AXES[0])
    assert 2 == len(interests.log)


def test_a_rating_that_comes_again_is_not_counted_into_the_mean():
    """Nor does a search that comes again bring its query back."""
    interests = user(("rating", AXES[0], 0, 5.0))
    before = encode(interests)

    assert not take(interests, "rating", 1, 0, AXES[0], value=5.0)
    assert before == encode(interests)


@pytest.mark.parametrize("seed", range(30))
def test_late_events_in_any_order_give_the_same_weights(seed):
    """What a user likes follows from what the user did and when, not from when the job learnt of it."""
    rng = np.random.default_rng(seed)
    actions = rng.choice(["view", "click", "cart", "like", "purchase", "rating"], 12)
    events = [
        (str(action), AXES[axis], int(after_ms))
        for action, axis, after_ms in zip(actions, rng.integers(0, 4, 12), rng.integers(0, 8 * HALF_LIFE_MS, 12))
    ]
    in_order = user(*sorted(events, key=lambda event: event[2]))
    shuffled = user(*(events[at] for at in rng.permutation(12)))

    expected = [weight_of(in_order, axis) for axis in range(4)]

    assert np.allclose(expected, [weight_of(shuffled, axis) for axis in range(4)], rtol=1e-4, atol=1e-6)
    assert in_order.newest_ms == shuffled.newest_ms
    assert in_order.times_ms.tolist() == shuffled.times_ms.tolist()


@pytest.mark.parametrize("seed", range(30))
def test_an_older_event_never_outweighs_a_newer_equal_one(seed):
    """Whichever of the two comes first."""
    rng = np.random.default_rng(seed)
    older, newer = sorted(rng.integers(0, 4 * HALF_LIFE_MS, 2).tolist())
    events = [("click", AXES[0], older), ("click", AXES[1], newer)]

    for interests in (user(*events), user(*events[::-1])):
        assert weight_of(interests, 0) <= weight_of(interests, 1)


@pytest.mark.parametrize("action", ["click", "dislike"])
@pytest.mark.parametrize("vector", [AXES[0], AXES[1]], ids=["near", "far"])
@pytest.mark.parametrize("half_lives", [100, 160, 2_000])
def test_an_event_from_long_ago_leaves_the_interests_sound(action, vector, half_lives):
    """A time in seconds instead of milliseconds is such an event (1970): its weight is nothing, and nothing breaks."""
    interests = user(("click", AXES[0], 0), (action, vector, -half_lives * 60_000), rules=Rules(half_life_s=60))

    assert np.isfinite(interests.vectors).all()
    assert np.isclose(1.0, weight_of(interests, 0))
    assert 2 == len(interests.log)


def test_interests_that_faded_to_nothing_can_wake_up():
    """A user comes back after years: the old interests weigh nothing, and nothing breaks."""
    rules = Rules(half_life_s=1)
    interests = user(
        ("click", AXES[0], 0), ("click", AXES[1], HALF_LIFE_MS), ("dislike", AXES[0], HALF_LIFE_MS), rules=rules
    )

    assert [0.0, 1.0] == interests.weights.tolist()
    assert [0.0, 2.0] == user(
        ("click", AXES[0], 0), ("click", AXES[1], HALF_LIFE_MS), ("click", AXES[1], HALF_LIFE_MS), rules=rules
    ).weights.tolist()


# Events that wait for their items, and a new encoder


def test_an_event_on_an_unknown_item_counts_as_soon_as_the_item_is_known():
    """Until then it is pending; when the item has come it counts once, with the weight of its time."""
    interests = user(("click", None, 0), ("click", AXES[1], HALF_LIFE_MS))

    assert ([True, False], 0.0) == (interests.pending.tolist(), weight_of(interests, 0))

    for _ in range(2):
        resolve(interests, {1: AXES[0]}.get, RULES)

    assert ([False, False], 0.5) == (interests.pending.tolist(), weight_of(interests, 0))


def test_an_item_that_stays_unknown_keeps_its_events_waiting():
    """Nothing changes for them."""
    interests = user(("click", None, 0), ("click", AXES[1], 1))
    before = encode(interests)

    resolve(interests, {}.get, RULES)

    assert before == encode(interests)


def test_waiting_does_not_change_the_weights():
    """Events that were pending weigh as if their items had been known all along."""
    known = [("like", AXES[0], 0), ("click", AXES[1], HALF_LIFE_MS), ("purchase", AXES[0], 2 * HALF_LIFE_MS)]
    waited = user(*((action, None, after_ms) for action, _, after_ms in known))
    resolve(waited, {1: AXES[0], 2: AXES[1], 3: AXES[0]}.get, RULES)

    expected = [weight_of(user(*known), axis) for axis in (0, 1)]

    assert np.allclose(expected, [weight_of(waited, axis) for axis in (0, 1)])
    assert user(*known).edges.tolist() == waited.edges.tolist()


def test_another_encoder_keeps_the_events_and_drops_the_vectors():
    """Vectors of two encoders have nothing in common; the events wait for the items' new ones. A search has none."""
    interests = golden()
    use_encoder(interests, 7)

    assert (7, 0, -1, (0, 0)) == (interests.encoder, len(interests.weights), interests.last, interests.edges.shape)
    assert [1, 2, 3, 4, 0, 6] == interests.item_keys.tolist()
    assert [True, True, True, True, False, True] == interests.pending.tolist()
    assert golden().strengths.tolist() == interests.strengths.tolist()


def test_the_same_encoder_changes_nothing():
    """Not a byte."""
    interests = golden()
    use_encoder(interests, golden().encoder)

    assert encode(golden()) == encode(interests)


def test_interests_are_rebuilt_from_the_last_events_when_the_encoder_changes():
    """In the new space, weights and edges are those of a user who was in it from the start."""
    events = [("click", AXES[0], 0), ("purchase", AXES[1], 5), ("click", AXES[0], HALF_LIFE_MS)]
    interests = user(*events)
    use_encoder(interests, 7)
    resolve(interests, {1: AXES[5], 2: AXES[6], 3: AXES[5]}.get, RULES)

    expected = user(*((action, AXES[5 + number % 2], after_ms) for number, (action, _, after_ms) in enumerate(events)))

    assert expected.vectors.tolist() == interests.vectors.tolist()
    assert np.allclose(expected.weights, interests.weights)
    assert np.allclose(expected.edges, interests.edges)
    assert expected.last == interests.last


# Contracts


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_interests_stay_sound(seed):
    """Vectors have unit length, weights and edges are finite and not below 0, no more is kept than the rules say."""
    rng = np.random.default_rng(100 + seed)
    rules = Rules(
        max_interests=int(rng.integers(1, 8)),
        last_n=int(rng.integers(1, 30)),
        half_life_s=float(rng.choice([3e5, 1e6])),
    )
    interests = Interests()
    for number, (action, vector, after_ms) in enumerate(random_events(rng, 120), 1):
        query = interest_space(rng.standard_normal((1, 48)))[0] if number % 3 else None
        take(
            interests,
            action,
            number,
            after_ms,
            vector,
            rules,
            value=float(rng.normal(3, 2)) if number % 2 else None,
            query=query,
        )
        if number % 7 == 0:
            interests = decode(encode(interests))
        if number % 11 == 0:
            resolve(interests, lambda key: interest_space(rng.standard_normal((1, 48)))[0], rules)
        if number % 50 == 0:
            use_encoder(interests, number)

        assert np.allclose(1, np.linalg.norm(interests.vectors, axis=1), atol=1e-3)
        assert np.isfinite(interests.weights).all() and (interests.weights >= 0).all()
        assert np.isfinite(interests.edges).all() and (interests.edges >= 0).all()
        assert len(interests.weights) <= rules.max_interests and len(interests.log) <= rules.last_n
        assert -1 <= interests.last < max(1, len(interests.weights))
        assert (np.diff(interests.times_ms.astype(np.int64)) >= 0).all()
        assert ((interests.strengths >= -2) & (interests.strengths <= 3)).all()
        assert rules.rating_scale[0] <= interests.mean_rating <= rules.rating_scale[1] or not interests.ratings
        assert not len(interests.query) or since_search(interests)[0] < len(interests.log)


def test_every_process_sees_the_same_interest_space():
    """The projection is fixed by the encoder's dimensions alone: golden values of the first release."""
    reduced = interest_space(np.ones((1, 384), np.float32))[0]

    assert np.allclose(1, np.linalg.norm(reduced), atol=1e-5)
    assert np.allclose([-0.0982, 0.1764, 0.1471, -0.0096], reduced[:4], atol=1e-4)


@pytest.mark.parametrize("dim", [8, 64, 384])
def test_near_items_stay_near_in_the_interest_space(dim):
    """Up to 64 dimensions angles are kept as they are; above, they are kept roughly."""
    rng = np.random.default_rng(dim)
    vectors = rng.standard_normal((50, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[1::2] = vectors[::2] + 0.3 * vectors[1::2]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    reduced = interest_space(vectors)

    off = np.abs(vectors @ vectors.T - reduced @ reduced.T)

    assert off.max() < (1e-5 if dim <= 64 else 0.5)
    assert np.einsum("id,id->i", reduced[::2], reduced[1::2]).min() > 0.8


def test_the_newest_event_is_read_without_opening_the_rest():
    """A late event does not become the newest; nobody has none."""
    interests = Interests()
    take(interests, "view", 7, 2_000, None)
    take(interests, "skip", 8, 1_000, None)

    assert [None, None, (7, "view", event_key("e7"))] == [
        newest(b""),
        newest(encode(Interests())),
        newest(encode(interests)),
    ]
