"""The interests of one user: a few weighted vectors, the edges between them, and the last events.

An event moves the nearest interest towards its item (or away from it, for a dislike) or opens a new one. Weights and
edges fade with a half-life; an edge a -> b says how strongly interest a led to interest b. All weights are kept as of
`newest_ms`, the time of the newest event, so folding late events in any order gives the same weights, and an older
event never outweighs a newer equal one.

The vectors live in a 64-dimensional space (`interest_space`) of one encoder version. An event whose item is not known
yet is kept as *pending*: it counts as soon as the item has a vector (`resolve`), as do all events after the encoder
has changed.

How much an event says is its *strength*: by action, and for a rating by its value beside the user's own mean; below 0
it pushes away. The newest search is kept with the whole vector of its query, as long as it is among the last events.

Layout, version 2, little-endian: a header of 24 bytes, then per interest weight f32, last touched u64 ms, scale f16 and
int8 x 64; the edges, f16; the query, scale f16 and int8 x its dimensions; per event, oldest first: item key u64, stamp
u64 (time in ms << 16 | action << 8 | strength x 16, a signed number of 7 bits, << 1 | pending), event key u32. With 6
interests and 20 events that is 964 bytes, and 386 more with a query of 384 dimensions. Version 1 had a shorter header,
no query and no strengths: they follow from the actions.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import NoReturn, get_args

import numpy as np

from model import compiled
from model.compiled import EVENT, INTEREST, INTEREST_DIM, LAYOUT, LEAST, SEEN
from model.rules import EXCLUDE_S, FOREVER, MOST_EVENTS, MOST_INTERESTS, Rules
from model.schema import NEGATIVE, Action, Event, StateError, event_key

__all__ = ["EXCLUDE_S", "FOREVER", "INTEREST_DIM", "LAYOUT", "LEAST", "MOST_EVENTS", "MOST_INTERESTS", "Rules"]

ACTIONS = get_args(Action)
STRENGTHS = {"view": 1.0, "click": 1.0, "rating": 1.0, "search": 1.5, "cart": 2.0, "like": 2.0, "purchase": 3.0}
STRENGTHS |= {"skip": -0.5, "dislike": -2.0}
"""How much an event moves an interest; other actions move none, a rating with a value by `rating_strength`."""
IS_NEGATIVE = np.array([action in NEGATIVE for action in ACTIONS])
_MIDDLE_RATINGS = 3.0
"""Ratings of the middle of the scale that a user's mean begins with."""

_HEADER_1 = struct.Struct("<BBBbHIQ")  # layout, interests, events, last, dimensions, encoder, newest_ms
_HEADER = struct.Struct("<BBBbHIQHHe")  # and the query's dimensions, how many ratings there were, their mean
_SIZES = struct.Struct("<BBBbHIQH")
_RATINGS, _RATINGS_AT = struct.Struct("<He"), 20
_ROW = struct.Struct("<QQI")  # of EVENT
_NUMBER = {action: number for number, action in enumerate(ACTIONS)}
KINDS = len(ACTIONS), _NUMBER["search"]
"""How many actions there are, and which of them is a search."""
_STRENGTH_UNIT, _MOST_RATINGS = 16, 0xFFFF
_STRENGTH_OF = np.array([round(_STRENGTH_UNIT * STRENGTHS.get(action, 0.0)) & 0x7F for action in ACTIONS], np.uint64)
_NO_VECTOR = np.zeros(0, np.float32)
_NOBODY = _HEADER.pack(LAYOUT, 0, 0, -1, INTEREST_DIM, 0, 0, 0, 0, 0.0)
"""The bytes of a new user."""


@dataclass
class Interests:
    """A user's interests, opened up for work.

    Shape: vectors (interests, 64) unit length; weights, touched_ms (interests,); edges (interests, interests); query
    (dim,) the encoder's vector of the newest search, unit length, (0,) if none is among the events; log (events,),
    oldest first, and what is read from it: item_keys, times_ms, actions, strengths, pending (events,).
    """

    encoder: int = 0
    newest_ms: int = 0
    last: int = -1
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, INTEREST_DIM), np.float32))
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    touched_ms: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    edges: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    log: np.ndarray = field(default_factory=lambda: np.zeros(0, EVENT))
    query: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    ratings: int = 0
    mean_rating: float = 0.0

    @property
    def item_keys(self) -> np.ndarray:
        """uint64; 0 for a search."""
        return self.log["item_key"]

    @property
    def times_ms(self) -> np.ndarray:
        """uint64."""
        return self.log["stamp"] >> np.uint64(16)

    @property
    def actions(self) -> np.ndarray:
        """uint64, indices of `ACTIONS`."""
        return (self.log["stamp"] >> np.uint64(8)) & np.uint64(0xFF)

    @property
    def strengths(self) -> np.ndarray:
        """float32: how much each event says; below 0 it pushes away."""
        bits = ((self.log["stamp"] >> np.uint64(1)) & np.uint64(0x7F)).astype(np.int64)
        return ((bits ^ 0x40) - 0x40).astype(np.float32) / _STRENGTH_UNIT

    @property
    def pending(self) -> np.ndarray:
        """bool: the item had no vector when the event came."""
        return (self.log["stamp"] & np.uint64(1)) > 0


def interest_space(vectors: np.ndarray) -> np.ndarray:
    """Bring an encoder's vectors into the space of interests: a fixed random projection, then unit length.

    Shape: (n, encoder dimensions) -> (n, 64), float32.
    """
    reduced = vectors.astype(np.float32) @ _projection(vectors.shape[1])
    return reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)


@cache
def _projection(dim: int) -> np.ndarray:
    square = np.random.Generator(np.random.PCG64(dim)).standard_normal((max(dim, INTEREST_DIM), INTEREST_DIM))
    return np.linalg.qr(square)[0][:dim].astype(np.float32)


def encode(interests: Interests) -> bytes:
    """Pack interests into versioned bytes."""
    return compiled.pack(_user(interests)).tobytes()


def decode(data: bytes | None) -> Interests:
    """Open the bytes of a user; no bytes are a new user.

    Raises:
        StateError: the bytes are of an unknown layout, cut short or damaged.
    """
    data = current(data)
    packed = np.frombuffer(bytearray(data), np.uint8)
    if wrong := compiled.fault(packed, *KINDS):
        refuse(data, wrong)
    return Interests(*compiled.unpack(packed))


def current(data: bytes | None) -> bytes:
    """The bytes of a user in the layout of now; they may have a fault.

    Raises:
        StateError: the bytes are of an unknown layout.
    """
    if not data:
        return _NOBODY
    if data[0] == LAYOUT:
        return data if len(data) >= _HEADER.size else refuse(data, compiled.CUT_SHORT)
    if data[0] != 1:
        raise StateError(
            f"interests of layout {data[0]}: layouts 1 to {LAYOUT} can be read; use the release that wrote them"
        )
    if len(data) < _HEADER_1.size:
        refuse(data, compiled.CUT_SHORT)
    _, count, events, *more = _HEADER_1.unpack_from(data)
    log_at = _HEADER_1.size + INTEREST.itemsize * count + 2 * count * count
    if len(data) != log_at + EVENT.itemsize * events:
        refuse(data, compiled.CUT_SHORT if len(data) < log_at + EVENT.itemsize * events else compiled.SIZE)
    header = _HEADER.pack(LAYOUT, count, events, *more, 0, 0, 0.0)
    return b"".join((header, data[_HEADER_1.size : log_at], _with_strengths(np.frombuffer(data, EVENT, offset=log_at))))


def _with_strengths(log: np.ndarray) -> bytes:
    """The events of layout 1, with the strengths of their actions."""
    log = log.copy()
    actions = np.minimum(Interests(log=log).actions, len(ACTIONS) - 1)  # one that there is not is found as a fault
    log["stamp"] |= _STRENGTH_OF[actions] << np.uint64(1)
    return log.tobytes()


def refuse(data: bytes, wrong: int) -> NoReturn:
    """Say what `model.compiled.fault` has found in bytes.

    Raises:
        StateError: always.
    """
    _, count, events, last, space, *_, dim = _SIZES.unpack(data[: _SIZES.size].ljust(_SIZES.size, b"\0"))
    header, dim = (_HEADER.size, dim) if data[0] == LAYOUT else (_HEADER_1.size, 0)
    size = header + INTEREST.itemsize * count + 2 * count**2 + (2 + dim if dim else 0) + EVENT.itemsize * events
    raise StateError({
        compiled.CUT_SHORT: f"{len(data)} bytes of interests are cut short: {size} were wanted, as their header says",
        compiled.SIZE: f"{len(data)} bytes of interests: {size} were wanted, as their header says",
        compiled.DIMENSIONS: f"the interests have {space} dimensions: {INTEREST_DIM} are wanted",
        compiled.NOT_FINITE: "the interests hold a number that is infinite or none",
        compiled.WEIGHT: f"the interests hold a weight that is not 0 to {compiled.MOST_WEIGHT:g}",
        compiled.LAST: f"the last interest is number {last}, and there are {count}",
        compiled.ACTION: "the interests hold an action that this release does not know",
        compiled.QUERY: "the interests hold a query without its search",
        compiled.TIME: "the interests hold a time that is no event's",
    }[wrong])  # fmt: skip


def latest_ms(interests: Interests) -> int:
    """The newest time that interests hold, 0 if none."""
    return max(interests.newest_ms, *interests.touched_ms.tolist(), *interests.times_ms.tolist(), 0)


def newest(data: bytes) -> tuple[int, str, int] | None:
    """The newest event in a user's bytes, the rest unopened: item key, action, event key; None if there is none."""
    row = _newest_row(data)
    return (row[0], ACTIONS[row[1] >> 8 & 0xFF], row[2]) if row else None


def newest_event_ms(data: bytes) -> int:
    """When the newest event in a user's bytes was; 0 if there is none."""
    row = _newest_row(data)
    return row[1] >> 16 if row else 0


def _newest_row(data: bytes) -> tuple[int, int, int] | None:
    if len(data) < _HEADER_1.size + _ROW.size or not data[2]:
        return None
    return _ROW.unpack_from(data, len(data) - _ROW.size)


def rating_strength(value: float, ratings: int, mean: float, scale: tuple[float, float]) -> float:
    """How much a rating says beside the user's own mean: 2 is the most, 1 is one like the others, below 0 pushes away.

    >>> [rating_strength(value, 0, 0.0, (1.0, 5.0)) for value in (5.0, 4.0, 3.0, 2.0, 1.0)]
    [2.0, 1.5, 1.0, -0.5, -2.0]
    >>> rating_strength(3.0, 1_000, 3.0, (1.0, 5.0)) > rating_strength(3.0, 1_000, 4.5, (1.0, 5.0))
    True

    Args:
        ratings, mean: how many the user has given before, and their mean.
        scale: the lowest and the highest rating.
    """
    low, high = scale
    own = (_MIDDLE_RATINGS * (low + high) / 2 + ratings * mean) / (_MIDDLE_RATINGS + ratings)
    above = min(1.0, max(-1.0, (value - own) / ((high - low) / 2)))
    return 1 + above if above >= 0 else 1 + 3 * above


def update(
    data: bytes | None, event: Event, item_key: int, encoder: int, vector: bytes, query: bytes, rules: Rules
) -> bytes | None:
    """`decode`, `use_encoder`, `fold` and `encode` in one compiled step: what every event of the job goes through.

    Args:
        vector: of its item or query in the interest space, half precision; empty while the item is not known.
        query: the encoder's own vector of a search, half precision.

    Returns:
        The bytes after; None if the event is among the last N already: nothing has changed.

    Raises:
        StateError: the bytes are of an unknown layout, cut short or damaged.
    """
    data = current(data)
    ratings, mean = _RATINGS.unpack_from(data, _RATINGS_AT)
    strength, ratings, mean = _strength(event, ratings, mean, rules)
    joined = bytearray().join((data, _row(event, item_key, strength, bool(vector)), vector, query))
    wrong, after = compiled.update(
        np.frombuffer(joined, np.uint8), len(data), len(vector), encoder, strength, ratings, mean,
        rules.last_n, rules.max_interests, rules.half_life_s * 1_000.0, float(rules.merge_similarity), *KINDS,
    )  # fmt: skip
    if wrong and wrong != SEEN:
        refuse(data, wrong)
    return None if wrong else after.tobytes()


def prepare() -> None:
    """Compile what an event goes through: that takes seconds the first time, then it is in numba's cache."""
    update(None, Event("", "", "view", 0), 1, 0, bytes(2 * INTEREST_DIM), b"", Rules())


def fold(
    interests: Interests,
    event: Event,
    item_key: int,
    vector: np.ndarray | None,
    rules: Rules,
    query: np.ndarray | None = None,
) -> bool:
    """Fold one event into the interests, in place.

    Args:
        item_key: `model.schema.item_key` of the event's item; 0 for a search.
        vector: its item or query in the interest space, shape (64,); None while the item is not known.
        query: the encoder's own vector of a search, shape (dim,).

    Returns:
        False if the event is among the last N already, at whatever time: nothing has changed.
    """
    if (interests.log["event_key"] == event_key(event.event_id)).any():
        return False
    strength, *rating = _strength(event, interests.ratings, interests.mean_rating, rules)
    row = np.frombuffer(bytearray(_row(event, item_key, strength, vector is not None)), EVENT)
    near, asked = (_NO_VECTOR if part is None else np.asarray(part, np.float32) for part in (vector, query))
    _keep(interests, compiled.fold(_user(interests), row, strength, near, asked, tuple(rating), folding(rules)))
    return True


def _row(event: Event, item_key: int, strength: float, known: bool) -> bytes:
    """The event as it stands in the log."""
    bits = round(_STRENGTH_UNIT * strength) & 0x7F
    stamp = event.event_time_ms << 16 | _NUMBER[event.action] << 8 | bits << 1 | (not known and item_key != 0)
    return _ROW.pack(item_key, stamp, event_key(event.event_id))


def _strength(event: Event, ratings: int, mean: float, rules: Rules) -> tuple[float, int, float]:
    """How much the event says, and how many ratings the user has given then, and their mean."""
    if event.action != "rating" or event.value is None:
        return STRENGTHS.get(event.action, 0.0), ratings, mean
    value = min(max(event.value, rules.rating_scale[0]), rules.rating_scale[1])
    strength = rating_strength(value, ratings, mean, rules.rating_scale)
    return strength, min(ratings + 1, _MOST_RATINGS), (ratings * mean + value) / (ratings + 1)


def _user(interests: Interests) -> compiled.User:
    return compiled.User(*(getattr(interests, name) for name in compiled.User._fields))


def _keep(interests: Interests, user: compiled.User) -> None:
    for name, value in zip(user._fields, user):
        setattr(interests, name, value)


def folding(rules: Rules) -> compiled.Folding:
    return compiled.Folding(
        rules.last_n, rules.max_interests, rules.half_life_s * 1_000.0, float(rules.merge_similarity), _NUMBER["search"]
    )


def since_search(interests: Interests) -> tuple[int, int] | None:
    """How many events came after the newest search, and when it was (ms); None if no query is kept."""
    if not len(interests.query):
        return None
    at = np.flatnonzero(interests.actions == _NUMBER["search"])[-1]
    return len(interests.log) - 1 - int(at), int(interests.times_ms[at])


def use_encoder(interests: Interests, encoder: int) -> None:
    """Make the interests belong to this encoder version; those of another are dropped, their events are pending."""
    _keep(interests, compiled.use_encoder(_user(interests), encoder))


def resolve(interests: Interests, lookup: Callable[[int], np.ndarray | None], rules: Rules) -> None:
    """Fold the pending events whose items have a vector by now, oldest first, in place.

    Args:
        lookup: item key -> vector in the interest space, or None.
    """
    waiting = (lookup(int(key)) if pending else None for key, pending in zip(interests.item_keys, interests.pending))
    found = {event: vector for event, vector in enumerate(waiting) if vector is not None}
    rows, vectors = np.full(len(interests.log), -1), np.zeros((len(found), INTEREST_DIM), np.float32)
    rows[list(found)], vectors[:] = np.arange(len(found)), list(found.values()) or 0
    _keep(interests, compiled.resolve(_user(interests), rows, vectors, folding(rules)))


assert NEGATIVE <= STRENGTHS.keys()
