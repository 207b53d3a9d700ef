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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import get_args

import numpy as np

from model.schema import NEGATIVE, Action, Event, StateError, event_key

INTEREST_DIM = 64
LEAST = 1e-6
"""A late event that has faded below this weight moves nothing."""
LAYOUT = 2
MOST_INTERESTS, MOST_EVENTS = 128, 255
"""What the layout can hold: the number of the last interest is a signed byte, the number of events a byte."""
ACTIONS = get_args(Action)
STRENGTHS = {"view": 1.0, "click": 1.0, "rating": 1.0, "search": 1.5, "cart": 2.0, "like": 2.0, "purchase": 3.0}
STRENGTHS |= {"skip": -0.5, "dislike": -2.0}
"""How much an event moves an interest; other actions move none, a rating with a value by `rating_strength`."""
IS_NEGATIVE = np.array([action in NEGATIVE for action in ACTIONS])
_MIDDLE_RATINGS = 3.0
"""Ratings of the middle of the scale that a user's mean begins with."""

_HEADER_1 = struct.Struct("<BBBbHIQ")  # layout, interests, events, last, dimensions, encoder, newest_ms
_HEADER = struct.Struct("<BBBbHIQHHe")  # and the query's dimensions, how many ratings there were, their mean
_INTEREST = np.dtype([("weight", "<f4"), ("touched_ms", "<u8"), ("scale", "<f2"), ("vector", "i1", INTEREST_DIM)])
_EVENT = np.dtype([("item_key", "<u8"), ("stamp", "<u8"), ("event_key", "<u4")])
_ROW = struct.Struct("<QQI")  # of _EVENT
_ACTION_BITS, _TIME_BITS = np.uint64(8), np.uint64(16)
_PENDING, _ACTION_MASK = np.uint64(1), np.uint64(0xFF)
_STRENGTH_BITS, _STRENGTH_MASK, _STRENGTH_UNIT = np.uint64(1), np.uint64(0x7F), 16
_STRENGTH_OF = np.array([round(_STRENGTH_UNIT * STRENGTHS.get(action, 0.0)) & 0x7F for action in ACTIONS], np.uint64)
_MOST_RATINGS = 0xFFFF
_MOST_EDGE = np.float32(np.finfo("<f2").max)
_MOST_WEIGHT = 1e9
"""More than any number of events makes of an interest, one a millisecond for a week."""


FOREVER = float("inf")
EXCLUDE_S = {"dislike": FOREVER, "skip": FOREVER, "rating": FOREVER, "purchase": 30 * 86_400.0}
"""How long an item is not listed after an action, in seconds, by default. After others it may come again: learnt."""


@dataclass(frozen=True)
class Rules:
    """How a user's state is kept and read; the defaults are those of the settings."""

    max_interests: int = 6
    last_n: int = 20
    half_life_s: float = 7 * 86_400.0
    merge_similarity: float = 0.5
    rating_scale: tuple[float, float] = (1.0, 5.0)
    max_consumed: int = 4_096
    exclude_s: Mapping[str, float] = field(default_factory=lambda: EXCLUDE_S)


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
    log: np.ndarray = field(default_factory=lambda: np.zeros(0, _EVENT))
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
        return self.log["stamp"] >> _TIME_BITS

    @property
    def actions(self) -> np.ndarray:
        """uint64, indices of `ACTIONS`."""
        return (self.log["stamp"] >> _ACTION_BITS) & _ACTION_MASK

    @property
    def strengths(self) -> np.ndarray:
        """float32: how much each event says; below 0 it pushes away."""
        bits = ((self.log["stamp"] >> _STRENGTH_BITS) & _STRENGTH_MASK).astype(np.int64)
        return ((bits ^ 0x40) - 0x40).astype(np.float32) / _STRENGTH_UNIT

    @property
    def pending(self) -> np.ndarray:
        """bool: the item had no vector when the event came."""
        return (self.log["stamp"] & _PENDING) > 0


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
    count = len(interests.weights)
    header = _HEADER.pack(
        LAYOUT, count, len(interests.log), interests.last, INTEREST_DIM, interests.encoder, interests.newest_ms,
        len(interests.query), interests.ratings, interests.mean_rating,
    )  # fmt: skip
    table = np.zeros(count, _INTEREST)
    table["weight"], table["touched_ms"] = interests.weights, interests.touched_ms
    table["scale"], table["vector"] = _quantised(interests.vectors)
    scale, query = (
        _quantised(interests.query[None]) if len(interests.query) else (np.zeros(0, "<f2"), np.zeros(0, np.int8))
    )
    edges = np.minimum(interests.edges, _MOST_EDGE).astype("<f2")
    return b"".join(
        (header, table.tobytes(), edges.tobytes(), scale.tobytes(), query.tobytes(), interests.log.tobytes())
    )


def _quantised(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A scale and whole numbers for each vector, for unit length; (n, dim) -> (n,) float16, (n, dim) int8."""
    peaks = np.abs(vectors).max(1, initial=1e-6)[:, None]
    rounded = np.rint(vectors * (127 / peaks))
    return (1 / np.sqrt((rounded * rounded).sum(1).clip(min=1))).astype("<f2"), rounded.astype(np.int8)


def decode(data: bytes | None) -> Interests:
    """Open the bytes of a user; no bytes are a new user.

    Raises:
        StateError: the bytes are of an unknown layout, cut short or damaged.
    """
    if not data:
        return Interests()
    if data[0] not in (1, LAYOUT):
        raise StateError(
            f"interests of layout {data[0]}: layouts 1 to {LAYOUT} can be read; use the release that wrote them"
        )
    header, nothing = (_HEADER, ()) if data[0] == LAYOUT else (_HEADER_1, (0, 0, 0.0))
    try:
        _, count, events, last, space, encoder, newest_ms, dim, ratings, mean_rating = (
            header.unpack_from(data) + nothing
        )
        at = header.size
        table = np.frombuffer(data, _INTEREST, count, at)
        at += table.nbytes
        edges = np.frombuffer(data, "<f2", count * count, at).reshape(count, count).astype(np.float32)
        at += edges.nbytes // 2
        edges = np.minimum(edges, _MOST_EDGE)  # earlier releases wrote larger ones as infinite
        query = _unit(np.frombuffer(data, np.int8, dim, at + 2)[None])[0] if dim else np.zeros(0, np.float32)
        at += 2 + dim if dim else 0
        log = np.frombuffer(data, _EVENT, events, at)
    except (ValueError, struct.error) as error:
        raise StateError(f"{len(data)} bytes of interests are cut short: {error}") from None
    if at + log.nbytes != len(data):
        raise StateError(f"{len(data)} bytes of interests: {at + log.nbytes} were wanted, as their header says")
    log = log if data[0] == LAYOUT else _with_strengths(log)
    weights, touched_ms = table["weight"].copy(), table["touched_ms"].copy()
    state = encoder, newest_ms, last, _unit(table["vector"]), weights, touched_ms, edges, log
    interests = Interests(*state, query, ratings, mean_rating)
    if space != INTEREST_DIM:
        raise StateError(f"the interests have {space} dimensions: {INTEREST_DIM} are wanted")
    _check(interests)
    return interests


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Shape: (n, dim) int8 -> (n, dim) float32 of unit length."""
    vectors = vectors.astype(np.float32)
    return vectors / np.maximum(np.sqrt((vectors * vectors).sum(1)), 1e-12)[:, None]


def _with_strengths(log: np.ndarray) -> np.ndarray:
    """The events of layout 1, with the strengths of their actions."""
    log = log.copy()
    actions = np.minimum(Interests(log=log).actions, len(ACTIONS) - 1)  # one that there is not is found by `_check`
    log["stamp"] |= _STRENGTH_OF[actions] << _STRENGTH_BITS
    return log


def _check(interests: Interests) -> None:
    """See whether interests hold what `fold` can have made of events, whoever wrote them.

    Raises:
        StateError: they do not.
    """
    numbers = interests.weights, interests.edges, np.float32(interests.mean_rating)
    if not all(np.isfinite(part).all() for part in numbers):
        raise StateError("the interests hold a number that is infinite or none")
    if (interests.weights < 0).any() or (interests.weights > _MOST_WEIGHT).any() or (interests.edges < 0).any():
        raise StateError(f"the interests hold a weight that is not 0 to {_MOST_WEIGHT:g}")
    if not -1 <= interests.last < len(interests.weights):
        raise StateError(f"the last interest is number {interests.last}, and there are {len(interests.weights)}")
    if (interests.actions >= len(ACTIONS)).any():
        raise StateError("the interests hold an action that this release does not know")
    if len(interests.query) and not (interests.actions == ACTIONS.index("search")).any():
        raise StateError("the interests hold a query without its search")


def latest_ms(interests: Interests) -> int:
    """The newest time that interests hold, 0 if none."""
    return max(interests.newest_ms, *interests.touched_ms.tolist(), *interests.times_ms.tolist(), 0)


def newest(data: bytes) -> tuple[int, str, int] | None:
    """The newest event in a user's bytes, the rest unopened: item key, action, event key; None if there is none."""
    if len(data) < _HEADER_1.size + _ROW.size or not data[2]:
        return None
    item_key, stamp, key = _ROW.unpack_from(data, len(data) - _ROW.size)
    return item_key, ACTIONS[stamp >> 8 & 0xFF], key


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
    log, times_ms, time_ms, key = interests.log, interests.times_ms, event.event_time_ms, event_key(event.event_id)
    if (log["event_key"] == key).any():
        return False
    strength = _strength(interests, event, rules)
    bits = round(_STRENGTH_UNIT * strength) & 0x7F
    stamp = time_ms << 16 | ACTIONS.index(event.action) << 8 | bits << 1 | (vector is None and item_key != 0)
    at = int(times_ms.searchsorted(time_ms, side="right"))
    row = _ROW.pack(item_key, stamp, key)
    interests.log = np.frombuffer(b"".join((log[:at].tobytes(), row, log[at:].tobytes())), _EVENT)[-rules.last_n :]
    _keep_query(interests, key, query)
    if vector is not None and strength:
        _move(interests, strength, time_ms, vector, rules)
    return True


def _strength(interests: Interests, event: Event, rules: Rules) -> float:
    """How much the event says; a rating is counted into the user's mean."""
    if event.action != "rating" or event.value is None:
        return STRENGTHS.get(event.action, 0.0)
    value = min(max(event.value, rules.rating_scale[0]), rules.rating_scale[1])
    strength = rating_strength(value, interests.ratings, interests.mean_rating, rules.rating_scale)
    interests.mean_rating = (interests.ratings * interests.mean_rating + value) / (interests.ratings + 1)
    interests.ratings = min(interests.ratings + 1, _MOST_RATINGS)
    return strength


def _keep_query(interests: Interests, key: int, query: np.ndarray | None) -> None:
    """Keep the query of the newest search, as long as that is among the events."""
    searches = interests.log["event_key"][interests.actions == ACTIONS.index("search")]
    if not len(searches):
        interests.query = interests.query[:0]
    elif query is not None and searches[-1] == key:
        interests.query = query


def since_search(interests: Interests) -> tuple[int, int] | None:
    """How many events came after the newest search, and when it was (ms); None if no query is kept."""
    if not len(interests.query):
        return None
    at = np.flatnonzero(interests.actions == ACTIONS.index("search"))[-1]
    return len(interests.log) - 1 - int(at), int(interests.times_ms[at])


def use_encoder(interests: Interests, encoder: int) -> None:
    """Make the interests belong to this encoder version; those of another are dropped, their events are pending."""
    if interests.encoder != encoder:
        empty = Interests()
        interests.encoder, interests.newest_ms, interests.last, interests.vectors = encoder, 0, -1, empty.vectors
        interests.weights, interests.touched_ms, interests.edges = empty.weights, empty.touched_ms, empty.edges
        interests.query = empty.query
        interests.log = interests.log.copy()
        interests.log["stamp"] |= (interests.item_keys != 0).astype(np.uint64)


def resolve(interests: Interests, lookup: Callable[[int], np.ndarray | None], rules: Rules) -> None:
    """Fold the pending events whose items have a vector by now, oldest first, in place.

    Args:
        lookup: item key -> vector in the interest space, or None.
    """
    waiting = np.flatnonzero(interests.pending)
    interests.log = interests.log.copy() if len(waiting) else interests.log
    for at in waiting:
        vector = lookup(int(interests.item_keys[at]))
        if vector is not None:
            interests.log["stamp"][at] &= ~_PENDING
            if interests.strengths[at]:
                _move(interests, float(interests.strengths[at]), int(interests.times_ms[at]), vector, rules)


def _move(interests: Interests, amount: float, time_ms: int, vector: np.ndarray, rules: Rules) -> None:
    late = time_ms < interests.newest_ms
    fade = 0.5 ** (abs(time_ms - interests.newest_ms) / (rules.half_life_s * 1_000))
    if late:
        amount *= fade
        if abs(amount) < LEAST:
            return
    else:
        interests.weights *= np.float32(fade)
        interests.edges *= np.float32(fade)
        interests.newest_ms = time_ms
    near = _nearest(interests, vector, rules.merge_similarity)
    if amount < 0:
        if near >= 0:
            _push_away(interests, near, -amount, vector)
        return
    near = near if near >= 0 else _open(interests, amount, vector, rules.max_interests, late)
    if near >= 0:
        _pull(interests, near, amount, time_ms, vector)
        if interests.last >= 0 and not late:
            interests.edges[interests.last, near] += amount
        interests.last = interests.last if late else near


def _nearest(interests: Interests, vector: np.ndarray, merge_similarity: float) -> int:
    if not len(interests.weights):
        return -1
    similarity = interests.vectors @ vector
    near = int(similarity.argmax())
    return near if similarity[near] >= merge_similarity else -1


def _open(interests: Interests, amount: float, vector: np.ndarray, max_interests: int, late: bool) -> int:
    """Make room for a new interest of weight 0 and return its number, or -1: late events drive out no stronger one."""
    count = len(interests.weights)
    if count < max_interests:
        interests.vectors = np.vstack((interests.vectors, vector[None]))
        interests.weights = np.append(interests.weights, np.float32(0))
        interests.touched_ms = np.append(interests.touched_ms, np.uint64(0))
        interests.edges = np.pad(interests.edges, (0, 1))
        return count
    weakest = int(interests.weights.argmin())
    if late and interests.weights[weakest] >= amount:
        return -1
    interests.vectors[weakest], interests.weights[weakest], interests.touched_ms[weakest] = vector, 0, 0
    interests.edges[weakest] = interests.edges[:, weakest] = 0
    interests.last = -1 if interests.last == weakest else interests.last
    return weakest


def _pull(interests: Interests, near: int, amount: float, time_ms: int, vector: np.ndarray) -> None:
    weight = interests.weights[near]
    moved = interests.vectors[near] + (amount / (weight + amount)) * (vector - interests.vectors[near])
    interests.vectors[near] = moved / max(float(np.sqrt(moved @ moved)), 1e-12)
    interests.weights[near] = weight + amount
    interests.touched_ms[near] = max(int(interests.touched_ms[near]), time_ms)


def _push_away(interests: Interests, near: int, amount: float, vector: np.ndarray) -> None:
    weight = interests.weights[near]
    moved = interests.vectors[near] - 0.5 * (amount / (weight + amount)) * vector
    interests.vectors[near] = moved / max(float(np.sqrt(moved @ moved)), 1e-12)
    interests.weights[near] = max(0.0, weight - amount)


assert NEGATIVE <= STRENGTHS.keys()
