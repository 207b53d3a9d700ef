"""The interests of one user: a few weighted vectors, the edges between them, and the last events.

An event moves the nearest interest towards its item (or away from it, for a dislike) or opens a new one. Weights and
edges fade with a half-life; an edge a -> b says how strongly interest a led to interest b. All weights are kept as of
`newest_ms`, the time of the newest event, so folding late events in any order gives the same weights, and an older
event never outweighs a newer equal one.

The vectors live in a 64-dimensional space (`interest_space`) of one encoder version. An event whose item is not known
yet is kept as *pending*: it counts as soon as the item has a vector (`resolve`), as do all events after the encoder
has changed.

Layout, version 1, little-endian: a header of 18 bytes, then per interest weight f32, last touched u64 ms, scale f16 and
int8 x 64; the edges, f16; per event, oldest first: item key u64, stamp u64 (time in ms << 16 | action << 8 | pending),
event key u32. With 6 interests and 20 events that is 958 bytes.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from model.schema import Action, NEGATIVE, StateError

INTEREST_DIM = 64
LEAST = 1e-6
"""A late event that has faded below this weight moves nothing."""
LAYOUT = 1
ACTIONS = get_args(Action)
WEIGHTS = {"view": 1.0, "click": 1.0, "rating": 1.0, "search": 1.5, "cart": 2.0, "like": 2.0, "purchase": 3.0}
WEIGHTS |= {"skip": -0.5, "dislike": -2.0}
"""How much an event moves an interest; other actions move none."""

_HEADER = struct.Struct("<BBBbHIQ")  # layout, interests, events, last, dimensions, encoder, newest_ms
_INTEREST = np.dtype([("weight", "<f4"), ("touched_ms", "<u8"), ("scale", "<f2"), ("vector", "i1", INTEREST_DIM)])
_EVENT = np.dtype([("item_key", "<u8"), ("stamp", "<u8"), ("event_key", "<u4")])
_ROW = struct.Struct("<QQI")  # of _EVENT
_ACTION_BITS, _TIME_BITS = np.uint64(8), np.uint64(16)
_PENDING, _ACTION_MASK = np.uint64(1), np.uint64(0xFF)


@dataclass(frozen=True)
class Rules:
    """How interests are kept; the defaults are those of the settings."""

    max_interests: int = 6
    last_n: int = 20
    half_life_s: float = 7 * 86_400.0
    merge_similarity: float = 0.5


@dataclass
class Interests:
    """A user's interests, opened up for work.

    Shape: vectors (interests, 64) unit length; weights, touched_ms (interests,); edges (interests, interests); log
    (events,), oldest first, and what is read from it: item_keys, times_ms, actions, pending (events,).
    """

    encoder: int = 0
    newest_ms: int = 0
    last: int = -1
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, INTEREST_DIM), np.float32))
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    touched_ms: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    edges: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    log: np.ndarray = field(default_factory=lambda: np.zeros(0, _EVENT))

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
    def pending(self) -> np.ndarray:
        """bool: the item had no vector when the event came."""
        return (self.log["stamp"] & _PENDING) > 0


def interest_space(vectors: np.ndarray) -> np.ndarray:
    """Bring an encoder's vectors into the space of interests: a fixed random projection, then unit length.

    Shape: (n, encoder dimensions) -> (n, 64), float32.
    """
    reduced = vectors.astype(np.float32) @ _projection(vectors.shape[1])
    return reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)


def _projection(dim: int, _kept: dict[int, np.ndarray] = {}) -> np.ndarray:
    if dim not in _kept:
        square = np.random.Generator(np.random.PCG64(dim)).standard_normal((max(dim, INTEREST_DIM), INTEREST_DIM))
        _kept[dim] = np.linalg.qr(square)[0][:dim].astype(np.float32)
    return _kept[dim]


def encode(interests: Interests) -> bytes:
    """Pack interests into versioned bytes."""
    count = len(interests.weights)
    header = _HEADER.pack(
        LAYOUT, count, len(interests.log), interests.last, INTEREST_DIM, interests.encoder, interests.newest_ms
    )
    table = np.empty(count, _INTEREST)
    table["weight"], table["touched_ms"] = interests.weights, interests.touched_ms
    peaks = np.abs(interests.vectors).max(1, initial=1e-6)[:, None]
    vectors = np.rint(interests.vectors * (127 / peaks))
    table["vector"], table["scale"] = vectors, 1 / np.sqrt((vectors * vectors).sum(1))
    return b"".join((header, table.tobytes(), interests.edges.astype("<f2").tobytes(), interests.log.tobytes()))


def decode(data: bytes | None) -> Interests:
    """Open the bytes of a user; no bytes are a new user.

    Raises:
        StateError: the bytes are of an unknown layout or cut short.
    """
    if not data:
        return Interests()
    if data[0] != LAYOUT:
        raise StateError(f"interests of layout {data[0]}: layout {LAYOUT} can be read; use the release that wrote them")
    try:
        _, count, events, last, _, encoder, newest_ms = _HEADER.unpack_from(data)
        at = _HEADER.size
        table = np.frombuffer(data, _INTEREST, count, at)
        at += table.nbytes
        edges = np.frombuffer(data, "<f2", count * count, at).reshape(count, count).astype(np.float32)
        log = np.frombuffer(data, _EVENT, events, at + count * count * 2)
    except (ValueError, struct.error) as error:
        raise StateError(f"{len(data)} bytes of interests are cut short: {error}") from None
    vectors = table["vector"].astype(np.float32)
    vectors /= np.maximum(np.sqrt((vectors * vectors).sum(1)), 1e-12)[:, None]
    weights, touched_ms = table["weight"].copy(), table["touched_ms"].copy()
    return Interests(encoder, newest_ms, last, vectors, weights, touched_ms, edges, log)


def newest(data: bytes) -> tuple[int, str, int] | None:
    """The newest event in the bytes of a user, without opening the rest: item key, action, event key; None if there is none."""
    if len(data) < _HEADER.size + _ROW.size or not data[2]:
        return None
    item_key, stamp, key = _ROW.unpack_from(data, len(data) - _ROW.size)
    return item_key, ACTIONS[stamp >> 8 & 0xFF], key


def fold(interests: Interests, action: str, item_key: int, key: int, time_ms: int, vector: np.ndarray | None, rules: Rules) -> bool:
    """Fold one event into the interests, in place.

    Args:
        item_key: `model.schema.item_key` of the event's item; 0 for a search.
        key: `model.schema.event_key` of the event.
        vector: its item or query in the interest space, shape (64,); None while the item is not known.

    Returns:
        False if the event is among the last N already: nothing has changed.
    """
    log, times_ms = interests.log, interests.times_ms
    if (log["event_key"][times_ms == time_ms] == key).any():
        return False
    stamp = time_ms << 16 | ACTIONS.index(action) << 8 | (vector is None and item_key != 0)
    at = int(times_ms.searchsorted(time_ms, side="right"))
    row = _ROW.pack(item_key, stamp, key)
    interests.log = np.frombuffer(b"".join((log[:at].tobytes(), row, log[at:].tobytes())), _EVENT)[-rules.last_n :]
    if vector is not None and action in WEIGHTS:
        _move(interests, WEIGHTS[action], time_ms, vector, rules)
    return True


def use_encoder(interests: Interests, encoder: int) -> None:
    """Make the interests belong to this encoder version; those of another are dropped, their events are pending."""
    if interests.encoder != encoder:
        empty = Interests()
        interests.encoder, interests.newest_ms, interests.last, interests.vectors = encoder, 0, -1, empty.vectors
        interests.weights, interests.touched_ms, interests.edges = empty.weights, empty.touched_ms, empty.edges
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
        action = ACTIONS[interests.actions[at]]
        if vector is not None:
            interests.log["stamp"][at] &= ~_PENDING
            if action in WEIGHTS:
                _move(interests, WEIGHTS[action], int(interests.times_ms[at]), vector, rules)


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
    """Make room for a new interest of weight 0 and return its number, or -1: a late event does not drive out a stronger one."""
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


assert NEGATIVE <= WEIGHTS.keys()
