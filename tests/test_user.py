"""One user's state, action by action: what is asked for, what is learnt from, and what is kept."""

import numpy as np
import pytest

from model import consumed, interest
from model.interest import ACTIONS, INTEREST_DIM, Rules
from model.schema import (
    CONSUMING,
    POSITIVE,
    Event,
    Example,
    StateError,
    UserState,
    decode_user_state,
    encode_packed,
    event_key,
    item_key,
    rec_id,
)
from model.user import Update, embedded, request, update

AXES = np.eye(INTEREST_DIM, dtype=np.float32)
QUERY = np.ones(96, np.float32) / np.sqrt(np.float32(96))
ENCODER, START_MS, RULES = 77, 1_700_000_000_000, Rules()


def take(
    state: bytes | None, action: str, number: int = 1, item_id: str | None = "a", vector=AXES[0], rules=RULES, **more
) -> Update:
    """The n-th event of a user, n seconds after the start."""
    item_id = None if action in ("search", "forget", "impression") else item_id
    event = Event(f"e{number}", "u", action, START_MS + 1_000 * number, item_id, **more)
    query = QUERY if action == "search" else None
    return update(state, embedded(event, item_key(item_id) if item_id else 0, ENCODER, vector, query), rules)


def opened(state: bytes) -> tuple[interest.Interests, np.ndarray]:
    known = decode_user_state(state)
    return interest.decode(known.interests), consumed.opened(known.consumed)


BEFORE = take(take(None, "view", 1).state, "purchase", 2, "b", AXES[1]).state
"""A user who looked at one item and bought another."""


# By action


@pytest.mark.parametrize("action", ACTIONS)
def test_an_event_of_any_action_asks_for_a_list_but_an_impression(action):
    """Also for a new user; that a list was shown says nothing yet."""
    for state in (None, b"", BEFORE):
        assert (action != "impression") == take(
            state, action, 9, query="red shoes" if action == "search" else None
        ).answered


@pytest.mark.parametrize("action", ACTIONS)
def test_what_a_user_wants_is_an_example(action):
    """With the user as before the event and the list shown; a dislike, a skip, a search are none; a forget is told."""
    example = take(BEFORE, action, 9).example
    wanted = Example(
        "u",
        "e9",
        START_MS + 9_000,
        "a",
        action,
        decode_user_state(BEFORE).interests,
        rec_id("u", event_key("e2"), START_MS + 2_000),
    )
    forget = Example("u", "e9", START_MS + 9_000, forget=True)

    assert {**dict.fromkeys(POSITIVE, wanted), "forget": forget}.get(action) == example


@pytest.mark.parametrize("action", sorted(CONSUMING))
def test_every_event_on_an_item_is_kept_as_one_the_user_had(action):
    """With what was said of it; the item had before stays as it was."""
    rows = opened(take(BEFORE, action, 9, "c", AXES[2]).state)[1]

    assert [("view", 1), ("purchase", 1), (action, 1)] == [(ACTIONS[row["action"]], row["times"]) for row in rows]
    assert START_MS // 1_000 + 9 == rows["last_s"][2]


@pytest.mark.parametrize("action", sorted(set(ACTIONS) - {"impression", "forget"}))
def test_every_event_is_kept_among_the_last_ones(action):
    """In its place in time, by its action and with its strength; an interest moves by that."""
    before, after = opened(BEFORE)[0], opened(take(BEFORE, action, 9, "a", AXES[2]).state)[0]

    assert ["view", "purchase", action] == [ACTIONS[number] for number in after.actions]
    assert interest.STRENGTHS[action] == after.strengths[-1]
    assert max(0.0, interest.STRENGTHS[action]) == pytest.approx(after.weights.sum() - before.weights.sum(), abs=1e-3)


def test_an_impression_leaves_no_trace():
    """Not a byte, whether the user is new or not."""
    assert [b"", b"", BEFORE] == [take(state, "impression", 9).state for state in (None, b"", BEFORE)]
    assert take(BEFORE, "impression", 9).example is None


def test_a_forget_leaves_nothing():
    """A list is asked for, an empty one; the learner is told; what comes next is done by a new user."""
    after = take(BEFORE, "forget", 9)
    next_ = take(after.state, "view", 10)

    assert (b"", True, True) == (after.state, after.answered, after.example.forget)
    assert (b"", "") == (next_.example.interests, next_.example.shown)
    assert next_.state == take(None, "view", 10).state


def test_forgetting_a_user_who_is_not_known_is_answered_too():
    """Their lists may be kept elsewhere."""
    assert Update(b"", True, Example("u", "e9", START_MS + 9_000, forget=True)) == take(None, "forget", 9)


def test_a_search_is_kept_with_its_query_and_consumes_nothing():
    """The interest moves too; the items that the user had stay as they were."""
    interests, rows = opened(take(BEFORE, "search", 9, vector=AXES[2], query="red shoes").state)

    assert interests.query @ QUERY > 0.999
    assert 2 == len(rows)
    assert 3 == len(interests.weights)


def test_a_rating_says_what_its_value_says_by_the_scale_that_is_set():
    """5 of 5 pulls as 5 of 10 does not."""
    of_5, of_10 = (
        opened(take(None, "rating", value=5.0, rules=Rules(rating_scale=(0.0, most))).state)[0] for most in (5.0, 10.0)
    )

    assert [2.0, 1.0] == [of_5.strengths[0], of_10.strengths[0]]
    assert [1, 5.0] == [of_5.ratings, of_5.mean_rating]


def test_an_event_on_an_unknown_item_waits_and_is_learnt_from():
    """It is pending until the item has a vector; the user had the item all the same."""
    after = take(None, "like", vector=None)
    interests, rows = opened(after.state)

    assert ([True], 0, 1) == (interests.pending.tolist(), len(interests.weights), len(rows))
    assert "a" == after.example.item_id


def test_an_item_id_on_an_event_that_needs_none_changes_nothing():
    """An impression or a forget may name an item."""
    for action in ("impression", "forget"):
        event = Event("e9", "u", action, START_MS, "a")
        after = update(BEFORE, embedded(event, item_key("a"), ENCODER, AXES[0]), RULES)

        assert after.state == take(BEFORE, action, 9).state


# Events that come again


@pytest.mark.parametrize("action", sorted(set(ACTIONS) - {"impression", "forget"}))
def test_an_event_that_comes_again_brings_nothing_about(action):
    """Kafka may deliver twice: no list, no example, and not a byte of the state."""
    once = take(BEFORE, action, 9, value=2.0).state

    assert Update(once, False) == take(once, action, 9, value=2.0)


def test_an_event_that_comes_again_late_is_told_as_long_as_it_is_among_the_last_ones():
    """The one before it in time too. Beyond the last N it counts once more: how often the item was had says so."""
    rules, state = Rules(last_n=3), None
    for number in (1, 2, 3):
        state = take(state, "view", number, rules=rules).state
    assert Update(state, False) == take(state, "view", 1, rules=rules)

    state = take(state, "view", 4, rules=rules).state
    after = take(state, "view", 1, rules=rules)
    assert after.answered and [5] == opened(after.state)[1]["times"].tolist()


@pytest.mark.parametrize("later_ms", [-86_400_000, -1, 250, 5_000, 86_400_000])
@pytest.mark.parametrize("action", sorted(set(ACTIONS) - {"impression", "forget"}))
def test_one_id_at_another_time_is_one_event(action, later_ms):
    """A shop that sends again stamps it anew, or says something else of it: the first one stands."""
    state = take(BEFORE, action, 9, value=2.0).state
    again = Event("e9", "u", "view", START_MS + 9_000 + later_ms, "c")

    assert Update(state, False) == update(state, embedded(again, item_key("c"), ENCODER, AXES[2]), RULES)


def test_two_ids_at_one_time_are_two_events():
    """An event is told by its `event_id` alone."""
    first = take(None, "view", 1).state
    other = Event("e5", "u", "view", START_MS + 1_000, "a")

    assert update(first, embedded(other, item_key("a"), ENCODER, AXES[0]), RULES).answered


# What is asked


def test_what_is_asked_for_is_all_that_a_list_depends_on():
    """The user's bytes as they are, the event and its time; which version answers is for the job to say."""
    asked, known = request(BEFORE, "u", "e2", START_MS + 2_000), decode_user_state(BEFORE)

    assert ("u", "e2", START_MS + 2_000, [], "", known.interests, known.consumed, True, False, b"") == tuple(
        getattr(asked, name) for name in asked.__struct_fields__
    )
    assert (b"", b"") == (request(None, "u", "e", 1).interests, request(b"", "u", "e", 1).consumed)
    assert not request(BEFORE, "u", "e", 1, live=False).live


def test_an_example_is_shown_the_list_of_the_newest_event():
    """In time: an event that came late was answered too, but the user's newest list is that of the newest event."""
    state = take(take(None, "view", 5).state, "view", 3).state

    assert rec_id("u", event_key("e5"), START_MS + 5_000) == take(state, "view", 9).example.shown


def test_vectors_travel_in_half_precision():
    """That is near enough: an interest lies within a thousandth of the item's direction."""
    vector = np.linspace(-1, 1, INTEREST_DIM, dtype=np.float32)
    vector /= np.linalg.norm(vector)

    assert opened(take(None, "view", vector=vector).state)[0].vectors[0] @ vector > 0.999


def test_another_encoder_drops_interests_and_query_and_keeps_what_was_had():
    """The events wait for their items' new vectors."""
    state = take(BEFORE, "search", 3, vector=AXES[2], query="red shoes").state
    event = Event("e9", "u", "view", START_MS + 9_000, "c")
    interests, rows = opened(update(state, embedded(event, item_key("c"), ENCODER + 1, AXES[4]), RULES).state)

    assert (ENCODER + 1, 1, 0, 3) == (interests.encoder, len(interests.weights), len(interests.query), len(rows))
    assert [True, True, False, False] == interests.pending.tolist()


@pytest.mark.parametrize(
    "state", [b"\xff", b"\x92\xc4", encode_packed(UserState(b"\x09")), encode_packed(UserState(b"", b"\x09"))]
)
def test_a_state_that_cannot_be_read_stops_with_the_reason(state):
    """It is not taken for a new user: whose state it is would be lost."""
    with pytest.raises(StateError):
        take(state, "view", 9)


def test_updating_leaves_the_state_it_was_given_alone():
    """Whatever the action."""
    before = bytes(bytearray(BEFORE))
    for number, action in enumerate(ACTIONS, 9):
        take(BEFORE, action, number, value=1.0)

    assert before == BEFORE
