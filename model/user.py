"""One user's state, and what an event does to it: (state, event) -> (state, what is asked, what is learnt).

The keyed operator of the job and the evaluation both go through here, so an action means the same to both.

    event ─► impression: nothing; forget: no state is left, and an empty list says so
         └─► interests (interest.py), consumed items (consumed.py) ─► a list is asked for; a positive one is an example
"""

from typing import NamedTuple

import msgspec
import numpy as np

from model import consumed, interest
from model.facts import of_context
from model.rules import Rules
from model.schema import (
    CONSUMING,
    POSITIVE,
    Embedded,
    Event,
    Example,
    Request,
    UserState,
    decode_user_state,
    encode_packed,
    rec_id,
)


class Update(NamedTuple):
    """What an event brings about: the user's state after it (empty: none), whether a list is wanted, and an example."""

    state: bytes
    answered: bool
    example: Example | None = None


def update(state: bytes | None, record: Embedded, rules: Rules) -> Update:
    """Fold an event into a user's state.

    Args:
        state: the bytes of a `UserState`; None or empty for a new user.

    Raises:
        StateError: the bytes cannot be read.
    """
    event = record.event
    if event.action == "forget":
        return Update(b"", True, Example(event.user_id, event.event_id, event.event_time_ms, forget=True))
    if event.action == "impression":
        return Update(state or b"", False)
    before = decode_user_state(state)
    interests = interest.update(
        before.interests, event, record.item_key, record.encoder, record.vector, record.query, rules
    )
    if interests is None:
        return Update(state or b"", False)
    after = UserState(interests, _consume(before.consumed, record, rules.max_consumed))
    return Update(encode_packed(after), True, _example(event, before.interests, record.facts))


def request(
    state: bytes | None, user_id: str, event_id: str, time_ms: int, live: bool = True, facts: bytes = b""
) -> Request:
    """What is asked for a user in this state; which version answers is for the caller to say."""
    known = decode_user_state(state)
    return Request(user_id, event_id, time_ms, [], "", known.interests, known.consumed, live, facts=facts)


def embedded(
    event: Event, item_key: int, encoder: int, vector: np.ndarray | None, query: np.ndarray | None = None
) -> Embedded:
    """An event as it travels from embed to update-interest: vectors in half precision, its context as facts.

    Shape: vector (64,) of its item or query in the interest space, query (dim,) as the encoder gave it.
    """
    facts = of_context(event.context)
    event = event if event.context is None else msgspec.structs.replace(event, context=None)
    packed, asked = (b"" if part is None else part.astype("<f2").tobytes() for part in (vector, query))
    return Embedded(event, item_key, encoder, vector=packed, query=asked, facts=facts)


def _consume(before: bytes, record: Embedded, most: int) -> bytes:
    event = record.event
    if event.action not in CONSUMING:
        consumed.opened(before)  # whoever scores cannot refuse one user of many
        return before
    return consumed.add(before, record.item_key, event.action, event.event_time_ms, most)


def _example(event: Event, before: bytes, facts: bytes) -> Example | None:
    if event.action not in POSITIVE or event.item_id is None:
        return None
    shown = _last_list(event.user_id, before)
    about = event.user_id, event.event_id, event.event_time_ms, event.item_id, event.action
    return Example(*about, before, shown, facts=facts)


def _last_list(user_id: str, interests: bytes) -> str:
    """The `rec_id` of the list that the user has now."""
    newest = interest.newest(interests)
    return rec_id(user_id, newest[2], interest.newest_event_ms(interests)) if newest else ""
