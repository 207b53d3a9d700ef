"""One user's interests, compiled: bytes -> arrays, an event folded in, arrays -> bytes. What it means: interest.py.

An event costs microseconds here and tens of them in numpy, whose calls cost more than the work in arrays this small.
What is compiled calls only what stands here with it, and is given whatever other modules decide: actions, strengths,
rules. So a change elsewhere does not have it compiled again (model/jit.py).
"""

import math
from typing import NamedTuple

import numpy as np

from model.jit import njit

INTEREST_DIM = 64
LEAST = 1e-6
"""A late event that has faded below this weight moves nothing."""
LAYOUT = 2
MOST_WEIGHT = 1e9
"""More than any number of events makes of an interest, one a millisecond for a week."""
HEADER = np.dtype([
    ("layout", "u1"), ("interests", "u1"), ("events", "u1"), ("last", "i1"), ("space", "<u2"), ("encoder", "<u4"),
    ("newest_ms", "<u8"), ("dim", "<u2"), ("ratings", "<u2"), ("mean_rating", "<u2"),
])  # fmt: skip
INTEREST = np.dtype([("weight", "<f4"), ("touched_ms", "<u8"), ("scale", "<u2"), ("vector", "i1", INTEREST_DIM)])
EVENT = np.dtype([("item_key", "<u8"), ("stamp", "<u8"), ("event_key", "<u4")])
"""Numba knows no half precision: `mean_rating` and `scale` are the bits of such numbers."""
SIZE, CUT_SHORT, DIMENSIONS, NOT_FINITE, WEIGHT, LAST, ACTION, QUERY, TIME = range(1, 10)
"""What can be wrong with bytes."""
SEEN = -1
"""Nothing is; the event is among the last ones already."""

_HEADER_BYTES, _INTEREST_BYTES, _EVENT_BYTES = HEADER.itemsize, INTEREST.itemsize, EVENT.itemsize
_MOST_EDGE, _INFINITE = np.float32(65_504), 0x7C00  # of half precision
_ACTION_BITS, _TIME_BITS = np.uint64(8), np.uint64(16)
_PENDING, _ACTION_MASK = np.uint64(1), np.uint64(0xFF)
_STRENGTH_BITS, _STRENGTH_MASK, _STRENGTH_UNIT = np.uint64(1), np.uint64(0x7F), 16


class User(NamedTuple):
    """`model.interest.Interests` as compiled functions take and give them."""

    encoder: np.int64
    newest_ms: np.int64
    last: np.int64
    vectors: np.ndarray
    weights: np.ndarray
    touched_ms: np.ndarray
    edges: np.ndarray
    log: np.ndarray
    query: np.ndarray
    ratings: np.int64
    mean_rating: float


class Graph(NamedTuple):
    """The interests while events move them, in place; there is room for more than there are.

    Shape: state (3,) int64: how many there are, and the user's `newest_ms` and `last`.
    """

    state: np.ndarray
    vectors: np.ndarray
    weights: np.ndarray
    touched_ms: np.ndarray
    edges: np.ndarray


_COUNT, _NEWEST_MS, _LAST = range(3)


class Folding(NamedTuple):
    """Those of `model.interest.Rules` by which an event is folded in, and the number of the action `search`."""

    last_n: int
    max_interests: int
    half_life_ms: float
    merge_similarity: float
    search: int


# Numbers


@njit
def _half(bits):
    """The number that these bits are in half precision."""
    bits = np.int64(bits)
    sign, exponent, fraction = -1.0 if bits & 0x8000 else 1.0, (bits >> 10) & 0x1F, bits & 0x3FF
    if exponent == 0x1F:
        return math.nan if fraction else sign * math.inf
    return sign * (math.ldexp(float(fraction + 1_024), exponent - 25) if exponent else math.ldexp(float(fraction), -24))


@njit
def _half_bits(number):
    """The bits of a number in half precision, rounded to even; those of no number beyond 65,504 either way."""
    sign, number = 0x8000 if number < 0 else 0, abs(float(number))
    if not number < 65_520:  # the first that rounds to infinity
        return 0x7E00
    exponent = max(math.frexp(number)[1], -13) if number else -13
    return sign | ((exponent + 13) << 10) + np.int64(np.rint(math.ldexp(number, 11 - exponent)))


@njit
def _halves(data):
    """The same for many, where none is infinite or none: those come out as 65,536 and more.

    Shape: (2 n,) uint8 -> (n,) float32.
    """
    bits = np.empty(len(data) // 2, np.uint32)
    for at in range(len(bits)):
        half = np.uint32(data[2 * at]) | np.uint32(data[2 * at + 1]) << 8
        bits[at] = (half & 0x8000) << 16 | (half & 0x7FFF) << 13
    return bits.view(np.float32) * np.float32(2.0**112)  # the exponent of a single counts from 112 below


@njit(fastmath={"reassoc"})
def _dot(one, other):
    total = np.float32(0)
    for at in range(len(one)):
        total += one[at] * other[at]
    return total


@njit
def _unit(whole, vector):
    """Write whole numbers as a vector of unit length."""
    for at in range(len(vector)):
        vector[at] = whole[at]
    _normalise(vector)


@njit
def _normalise(vector):
    length = max(np.sqrt(_dot(vector, vector)), np.float32(1e-12))
    for at in range(len(vector)):
        vector[at] /= length


@njit
def _quantise(vector, whole):
    """Write a vector as whole numbers, and return the bits of their scale, for unit length."""
    peak, total = np.float32(1e-6), np.float32(0)
    for number in vector:
        peak = max(peak, abs(number))
    for at in range(len(vector)):
        rounded = np.rint(vector[at] * (np.float32(127) / peak))
        total += rounded * rounded
        whole[at] = np.int8(rounded)
    return _half_bits(np.float32(1) / np.sqrt(max(total, np.float32(1))))


# Bytes


@njit
def _action(stamp):
    return (stamp >> _ACTION_BITS) & _ACTION_MASK


@njit
def _header(data):
    return data[:_HEADER_BYTES].view(HEADER)[0]


@njit
def _places(header):
    """Where the edges, the query and the events begin, and where these end."""
    edges_at = _HEADER_BYTES + _INTEREST_BYTES * np.int64(header.interests)
    query_at = edges_at + 2 * np.int64(header.interests) ** 2
    log_at = query_at + (2 + np.int64(header.dim) if header.dim else 0)
    return edges_at, query_at, log_at, log_at + _EVENT_BYTES * np.int64(header.events)


@njit(cache=True)
def fault(data, actions, search):
    """See whether bytes of this layout hold what `fold` can have made of events, whoever wrote them.

    Args:
        data: at least a header.
        actions: how many there are.
        search: the number of that one.

    Returns:
        What is wrong with them; 0 if nothing is.
    """
    header = _header(data)
    edges_at, query_at, log_at, end = _places(header)
    if len(data) != end:
        return CUT_SHORT if len(data) < end else SIZE
    if header.space != INTEREST_DIM:
        return DIMENSIONS
    if header.newest_ms >> 48:
        return TIME
    if not -1 <= header.last < header.interests:
        return LAST
    if not math.isfinite(_half(header.mean_rating)):
        return NOT_FINITE
    wrong = _fault_in_weights(data[_HEADER_BYTES:edges_at].view(INTEREST), data[edges_at:query_at])
    return wrong or _fault_in_log(data[log_at:].view(EVENT), actions, search if header.dim else actions)


@njit
def _fault_in_weights(table, edges):
    for one in table:
        if not math.isfinite(one.weight):
            return NOT_FINITE
        if not 0 <= one.weight <= MOST_WEIGHT:
            return WEIGHT
    for at in range(0, len(edges), 2):
        bits = np.int64(edges[at + 1]) << 8 | edges[at]
        if bits & 0x7FFF > _INFINITE:  # earlier releases wrote large ones as infinite
            return NOT_FINITE
        if bits > 0x8000:
            return WEIGHT
    return 0


@njit
def _fault_in_log(log, actions, wanted):
    """`wanted` is an action that must be among them, if it is one."""
    found = wanted == actions
    for event in log:
        if _action(event.stamp) >= actions:
            return ACTION
        found |= _action(event.stamp) == wanted
    return 0 if found else QUERY


@njit(cache=True)
def unpack(data):
    """Open bytes that have no fault."""
    header = _header(data)
    edges_at, query_at, log_at, _ = _places(header)
    table, count = data[_HEADER_BYTES:edges_at].view(INTEREST), np.int64(header.interests)
    weights, touched_ms = np.empty(count, np.float32), np.empty(count, np.uint64)
    vectors, query = np.empty((count, INTEREST_DIM), np.float32), np.empty(np.int64(header.dim), np.float32)
    for number in range(count):
        weights[number], touched_ms[number] = table[number].weight, table[number].touched_ms
        _unit(table[number].vector, vectors[number])
    if len(query):
        _unit(data[query_at + 2 : log_at].view(np.int8), query)
    edges = np.empty((count, count), np.float32)
    _read_edges(data[edges_at:query_at], edges)
    return User(
        np.int64(header.encoder), np.int64(header.newest_ms), np.int64(header.last), vectors, weights, touched_ms,
        edges, data[log_at:].copy().view(EVENT), query, np.int64(header.ratings), _half(header.mean_rating),
    )  # fmt: skip


@njit
def _read_edges(data, edges):
    halves = _halves(data)
    for at in range(len(halves)):
        edges[at // len(edges), at % len(edges)] = min(halves[at], _MOST_EDGE)


@njit(cache=True)
def pack(user):
    """Shape: -> (bytes,) uint8."""
    head = np.zeros(1, HEADER)
    header = head[0]
    header.layout, header.interests, header.events = LAYOUT, len(user.weights), len(user.log)
    header.last, header.space, header.encoder, header.newest_ms = user.last, INTEREST_DIM, user.encoder, user.newest_ms
    header.dim, header.ratings, header.mean_rating = len(user.query), user.ratings, _half_bits(user.mean_rating)
    edges_at, query_at, log_at, end = _places(header)
    data = np.empty(end, np.uint8)
    _copy(head.view(np.uint8), data)
    _copy(user.log.view(np.uint8), data[log_at:])
    table = data[_HEADER_BYTES:edges_at].view(INTEREST)
    for number in range(len(table)):
        one = table[number]
        one.weight, one.touched_ms = user.weights[number], user.touched_ms[number]
        one.scale = _quantise(user.vectors[number], one.vector)
    _write_edges(user.edges, data[edges_at:query_at])
    if len(user.query):
        _put_half(data, query_at, _quantise(user.query, data[query_at + 2 : log_at].view(np.int8)))
    return data


@njit
def _copy(data, into):
    for at in range(len(data)):  # assigning a slice takes numba three seconds more
        into[at] = data[at]


@njit
def _write_edges(edges, data):
    for at in range(edges.size):
        edge = min(edges[at // len(edges), at % len(edges)], _MOST_EDGE)
        _put_half(data, 2 * at, _half_bits(edge) if edge else 0)


@njit
def _put_half(data, at, bits):
    data[at], data[at + 1] = bits & 0xFF, bits >> 8


# Events


@njit(cache=True)
def use_encoder(user, encoder):
    """The user in the space of this encoder version: interests of another are dropped, their events are pending."""
    if user.encoder == encoder:
        return user
    log = user.log.copy()
    for event in log:
        if event.item_key:
            event.stamp |= _PENDING
    return User(
        encoder, np.int64(0), np.int64(-1), user.vectors[:0], user.weights[:0], user.touched_ms[:0],
        np.empty((0, 0), np.float32), log, user.query[:0], user.ratings, user.mean_rating,
    )  # fmt: skip


@njit
def _graph(user, room):
    """Shape: room for so many interests more."""
    count = len(user.weights)
    vectors, edges = (
        np.empty((count + room, INTEREST_DIM), np.float32),
        np.empty((count + room, count + room), np.float32),
    )
    weights, touched_ms = np.empty(count + room, np.float32), np.empty(count + room, np.uint64)
    for a in range(count):
        weights[a], touched_ms[a] = user.weights[a], user.touched_ms[a]
        for at in range(INTEREST_DIM):
            vectors[a, at] = user.vectors[a, at]
        for b in range(count):
            edges[a, b] = user.edges[a, b]
    return Graph(np.array([count, user.newest_ms, user.last]), vectors, weights, touched_ms, edges)


@njit
def _with_graph(user, graph):
    count, edges = graph.state[_COUNT], graph.edges
    if len(edges) > count:
        edges = edges[:count, :count].copy()
    return User(
        user.encoder, graph.state[_NEWEST_MS], graph.state[_LAST], graph.vectors[:count], graph.weights[:count],
        graph.touched_ms[:count], edges, user.log, user.query, user.ratings, user.mean_rating,
    )  # fmt: skip


@njit(cache=True)
def fold(user, row, strength, vector, query, rating, folding):
    """The user after an event that is not among the last ones.

    Args:
        row: the event, (1,) of `EVENT`.
        vector: (64,), or (0,) for none; query (dim,), or (0,).
        rating: how many ratings the user has given, this one too, and their mean.
    """
    log = _insert(user.log, row, folding.last_n)
    searched = _newest_of(log, folding.search)
    if searched < 0:
        query = user.query[:0]
    elif not len(query) or log[searched].event_key != row[0].event_key:
        query = user.query
    after = User(
        user.encoder, user.newest_ms, user.last, user.vectors, user.weights, user.touched_ms, user.edges, log, query,
        rating[0], rating[1],
    )  # fmt: skip
    if not len(vector) or not strength:
        return after
    graph = _graph(after, 1)
    _move(graph, strength, _time_ms(row[0].stamp), vector, folding)
    return _with_graph(after, graph)


@njit
def _newest_of(log, action):
    """Where the newest event with this action is; -1 if there is none."""
    at = len(log) - 1
    while at >= 0 and _action(log[at].stamp) != action:
        at -= 1
    return at


@njit
def _time_ms(stamp):
    return np.int64(stamp >> _TIME_BITS)


@njit
def _insert(log, row, last_n):
    """The last events with one more, after those that came earlier or at once."""
    at, longer = len(log), np.empty(len(log) + 1, EVENT)
    while at and _time_ms(log[at - 1].stamp) > _time_ms(row[0].stamp):
        at -= 1
    for event in range(len(longer)):
        longer[event] = log[event] if event < at else row[0] if event == at else log[event - 1]
    return longer[max(0, len(longer) - last_n) :]


@njit(cache=True)
def resolve(user, rows, vectors, folding):
    """Fold the pending events whose items have a vector by now, oldest first.

    Shape: rows (events,) of `vectors` (n, 64), -1 for none.
    """
    room = 0
    for event in range(len(rows)):
        room += rows[event] >= 0 and user.log[event].stamp & _PENDING > 0
    if not room:
        return user
    graph = _graph(user, room)
    for event in range(len(rows)):
        stamp = user.log[event].stamp
        if stamp & _PENDING and rows[event] >= 0:
            user.log[event].stamp = stamp & ~_PENDING
            if strength_of(stamp):
                _move(graph, strength_of(stamp), _time_ms(stamp), vectors[rows[event]], folding)
    return _with_graph(user, graph)


@njit
def strength_of(stamp):
    """How much an event says; below 0 it pushes away."""
    return ((np.int64((stamp >> _STRENGTH_BITS) & _STRENGTH_MASK) ^ 0x40) - 0x40) / _STRENGTH_UNIT


@njit
def _move(graph, amount, time_ms, vector, folding):
    newest_ms, last = graph.state[_NEWEST_MS], graph.state[_LAST]
    late = time_ms < newest_ms
    fade = 0.5 ** (abs(time_ms - newest_ms) / folding.half_life_ms)
    if late:
        amount *= fade
        if abs(amount) < LEAST:
            return
    else:
        _fade(graph, np.float32(fade))
        graph.state[_NEWEST_MS] = time_ms
    near = _nearest(graph, vector, folding.merge_similarity)
    if amount < 0:
        if near >= 0:
            _push_away(graph, near, -amount, vector)
        return
    near = near if near >= 0 else _open(graph, amount, vector, folding.max_interests, late)
    if near >= 0:
        _pull(graph, near, amount, time_ms, vector)
        last = graph.state[_LAST]
        if not late:
            if last >= 0:
                graph.edges[last, near] += np.float32(amount)
            graph.state[_LAST] = near


@njit
def _fade(graph, fade):
    for a in range(graph.state[_COUNT]):
        graph.weights[a] *= fade
        for b in range(graph.state[_COUNT]):
            graph.edges[a, b] *= fade


@njit
def _nearest(graph, vector, merge_similarity):
    near, most = -1, np.float32(-np.inf)
    for number in range(graph.state[_COUNT]):
        similarity = _dot(graph.vectors[number], vector)
        if similarity > most:
            near, most = number, similarity
    return near if most >= merge_similarity else -1


@njit
def _open(graph, amount, vector, max_interests, late):
    """Make room for a new interest of weight 0; its number, or -1: late events drive out no stronger one."""
    near = count = graph.state[_COUNT]
    if count >= max_interests:
        near = 0
        for number in range(1, count):
            near = number if graph.weights[number] < graph.weights[near] else near
        if late and graph.weights[near] >= amount:
            return -1
        graph.state[_LAST] = -1 if graph.state[_LAST] == near else graph.state[_LAST]
    graph.state[_COUNT] = max(count, near + 1)
    graph.weights[near], graph.touched_ms[near] = 0, 0
    for at in range(INTEREST_DIM):
        graph.vectors[near, at] = vector[at]
    for other in range(graph.state[_COUNT]):
        graph.edges[near, other] = graph.edges[other, near] = 0
    return near


@njit
def _pull(graph, near, amount, time_ms, vector):
    weight, own = graph.weights[near], graph.vectors[near]
    share = np.float32(amount / (weight + amount))
    for at in range(INTEREST_DIM):
        own[at] += share * (vector[at] - own[at])
    _normalise(own)
    graph.weights[near] = weight + np.float32(amount)
    graph.touched_ms[near] = max(graph.touched_ms[near], np.uint64(time_ms))


@njit
def _push_away(graph, near, amount, vector):
    weight, own = graph.weights[near], graph.vectors[near]
    share = np.float32(0.5 * (amount / (weight + amount)))
    for at in range(INTEREST_DIM):
        own[at] -= share * vector[at]
    _normalise(own)
    graph.weights[near] = max(np.float32(0), weight - np.float32(amount))


@njit(cache=True)
def update(  # noqa: PLR0913 - numba takes a number in no time, and a tuple in microseconds
    joined, size, vector_size, encoder, strength, ratings, mean_rating,
    last_n, max_interests, half_life_ms, merge_similarity, actions, search,
):  # fmt: skip
    """`fold` from bytes to bytes: what every event of the job goes through.

    Args:
        joined: `size` bytes of a user, the event's row, `vector_size` bytes of its vector, those of its query; the
            vectors in half precision.
        actions: how many there are.

    Returns:
        What is wrong with the user's bytes, or `SEEN`; and the bytes after.
    """
    data, vector_at = joined[:size], size + _EVENT_BYTES
    wrong = fault(data, actions, search)
    if wrong:
        return wrong, joined[:0]
    row = joined[size:vector_at].view(EVENT)
    user = use_encoder(unpack(data), encoder)
    for event in user.log:
        if event.event_key == row[0].event_key:
            return SEEN, joined[:0]
    vector, query = _halves(joined[vector_at : vector_at + vector_size]), _halves(joined[vector_at + vector_size :])
    folding = Folding(last_n, max_interests, half_life_ms, merge_similarity, search)
    return 0, pack(fold(user, row, strength, vector, query, (ratings, mean_rating), folding))


# Many users


@njit(cache=True)
def survey(joined, starts, encoder, actions, search):
    """What there is of each user, in bytes that stand one user's after the other's.

    Returns:
        Who is the first with a fault, and which; (users, 3) int64: how many interests, events, and numbers of a query,
        those of another encoder left out.
    """
    sizes = np.zeros((len(starts) - 1, 3), np.int64)
    for user in range(len(sizes)):
        data = joined[starts[user] : starts[user + 1]]
        wrong = fault(data, actions, search)
        if wrong:
            return user, wrong, sizes
        header = _header(data)
        sizes[user, 1] = header.events
        if header.encoder == encoder:
            sizes[user, 0], sizes[user, 2] = header.interests, header.dim
    return 0, 0, sizes


@njit(cache=True)
def logs(joined, starts, log_starts, encoder):
    """The events of each user, those of another encoder pending; (events,) of `EVENT`."""
    log = np.empty(log_starts[-1], EVENT)
    for user in range(len(starts) - 1):
        data = joined[starts[user] : starts[user + 1]]
        own, first, pending = _log(data), log_starts[user], _header(data).encoder != encoder
        for event in range(len(own)):
            log[first + event] = own[event]
            if pending and own[event].item_key:
                log[first + event].stamp |= _PENDING
    return log


@njit
def _log(data):
    return data[_places(_header(data))[2] :].view(EVENT)


@njit(cache=True)
def open_users(  # noqa: PLR0913 - see `update`
    joined, starts, log_starts, encoder, rows, item_vectors, folding, vectors, weights, led_to
):
    """Lay the interests of users side by side, after what was pending is folded in.

    Args:
        vectors, weights, led_to: where to; what a user has not stays as it is.

    Shape: rows (events,) of `item_vectors` (n, 64), -1 for none; vectors (users, most, 64); weights (users, most);
    led_to (users, most): the edges from the last interest, the weights where none leads on.

    Returns:
        The most interests that a user has.
    """
    most = 0
    for user in range(len(starts) - 1):
        opened = use_encoder(unpack(joined[starts[user] : starts[user + 1]]), encoder)
        opened = resolve(opened, rows[log_starts[user] : log_starts[user + 1]], item_vectors, folding)
        most = max(most, len(opened.weights))
        walked = np.float32(0)
        for other in range(len(opened.weights)):
            walked += opened.edges[opened.last, other] if opened.last >= 0 else 0
        for number in range(len(opened.weights)):
            _copy(opened.vectors[number], vectors[user, number])
            weights[user, number] = opened.weights[number]
            led_to[user, number] = opened.edges[opened.last, number] if walked > 0 else opened.weights[number]
    return most


@njit(cache=True)
def queries(joined, starts, users, dim):
    """The newest searches of some users; (users,) -> (users, dim)."""
    vectors = np.empty((len(users), dim), np.float32)
    for number in range(len(users)):
        data = joined[starts[users[number]] : starts[users[number] + 1]]
        _, query_at, log_at, _ = _places(_header(data))
        _unit(data[query_at + 2 : log_at].view(np.int8), vectors[number])
    return vectors
