"""How fast the parts of an event's way are, each beside a simpler way of doing the same work.

Both ways take turns in the same run, so on a busy machine the ratios are worth more than the speeds.
"""

import json
import math
import pickle
import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import mul
from statistics import median
from typing import NamedTuple, get_args

import numpy as np

from model import interest
from model.interest import INTEREST_DIM, Rules
from model.schema import (
    Action,
    Event,
    InvalidRecord,
    decode_event,
    event_key,
    item_key,
)

REPEATS, DIM, RULES, ACTIONS = 5, 384, Rules(), frozenset(get_args(Action))
NOW_MS = 1_800_000_000_000
OPTIONAL = {"value": (int, float), "query": str, "rec_id": str, "context": dict}
random = np.random.default_rng(0)


class Pair(NamedTuple):
    """Two ways of doing the same work. Each takes the number of the repetition and returns how many units it did."""

    name: str
    unit: str
    ours: Callable[[int], int]
    other_way: str
    other: Callable[[int], int]


def units(*shape: int) -> np.ndarray:
    """Random vectors of unit length, float32."""
    vectors = random.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def updating() -> Iterator[Pair]:
    """One view after the other into the interests of 25 users with 8 tastes."""
    tastes, events = units(25, 8, INTEREST_DIM), []
    for at in range(1_000):
        vector = tastes[at % 25, random.integers(8)] + 0.5 * units(INTEREST_DIM)
        events.append((at % 25, view(f"i{at}", f"e{at}", NOW_MS + at * 60_000), vector / np.linalg.norm(vector)))
    plain = [
        (number, (event.event_time_ms, event_key(event.event_id), item_key(event.item_id)), vector.tolist())
        for number, event, vector in events
    ]
    packed = [(number, event, vector.astype("<f2").tobytes()) for number, event, vector in events]
    states: dict[int, bytes] = {}

    def run(update: Callable, events: list, _: int) -> int:
        states.clear()
        for number, event, vector in events:
            states[number] = update(states.get(number), event, vector)
        return len(events)

    sizes = [run(*way, 0) and len(states[0]) for way in ((update, packed), (update_plainly, plain))]
    way = f"pickled lists ({sizes[1]:,} bytes a user for {sizes[0]})"
    yield Pair("interest update", "events/s", partial(run, update, packed), way, partial(run, update_plainly, plain))


def view(item_id: str, event_id: str, time_ms: int) -> Event:
    return Event(event_id, "u", "view", time_ms, item_id)


def update(state: bytes | None, event: Event, vector: bytes) -> bytes:
    return interest.update(state, event, item_key(event.item_id), 1, vector, b"", RULES) or state


def update_plainly(state: bytes | None, event: tuple[int, int, int], vector: list[float]) -> bytes:
    """What `update` does where events come in time order, in plain Python, kept as a pickled dict of lists.

    Args:
        event: its time in ms, key, and the key of its item.
    """
    time_ms, key, item = event
    most = RULES.max_interests
    new = {"newest_ms": 0, "last": -1, "interests": [], "edges": [[0.0] * most] * most, "events": []}
    user = pickle.loads(state) if state else new
    if any(event[:2] == (time_ms, key) for event in user["events"]):
        return state
    fade = 0.5 ** ((time_ms - user["newest_ms"]) / (RULES.half_life_s * 1_000))
    interests, edges = user["interests"], [[edge * fade for edge in row] for row in user["edges"]]
    for one in interests:
        one["weight"] *= fade
    nearness = [sum(map(mul, one["vector"], vector)) for one in interests]
    near = max(range(len(interests)), key=nearness.__getitem__, default=-1)
    if near < 0 or nearness[near] < RULES.merge_similarity:
        near = len(interests)
        if near == most:
            near = min(range(most), key=lambda at: interests[at]["weight"])
            edges = [[0.0 if near in (a, b) else edge for b, edge in enumerate(row)] for a, row in enumerate(edges)]
            user["last"] = -1 if user["last"] == near else user["last"]
        interests[near : near + 1] = [{"vector": vector, "weight": 0.0, "touched_ms": 0}]
    weight = interests[near]["weight"] + 1
    moved = [old + (new - old) / weight for old, new in zip(interests[near]["vector"], vector)]
    length = math.sqrt(sum(map(mul, moved, moved)))
    interests[near] = {"vector": [value / length for value in moved], "weight": weight, "touched_ms": time_ms}
    if user["last"] >= 0:
        edges[user["last"]][near] += 1
    events = [*user["events"], (time_ms, key, item, "view", False)][-RULES.last_n :]
    return pickle.dumps({"newest_ms": time_ms, "last": near, "interests": interests, "edges": edges, "events": events})


def decoding() -> Iterator[Pair]:
    """10,000 events as they come from Kafka."""
    record = {
        "user_id": "u1",
        "item_id": "i7",
        "action": "rating",
        "value": 4.0,
        "context": {"page": "home", "rank": 3},
    }
    raw = [json.dumps({"event_id": f"e{at}", "event_time_ms": NOW_MS - at} | record).encode() for at in range(10_000)]
    ours, plainly = (
        lambda _: len([decode_event(one, NOW_MS) for one in raw]),
        lambda _: len([decode_plainly(one) for one in raw]),
    )
    yield Pair("decoding events", "events/s", ours, "json.loads, checks by hand", plainly)


def decode_plainly(raw: bytes) -> dict:
    """What `decode_event` checks of a rating, in plain Python."""
    event = json.loads(raw) if len(raw) <= 1_000_000 else {}
    for name in ("event_id", "user_id", "item_id"):
        if not (isinstance(event.get(name), str) and 1 <= len(event[name]) <= 256 and "\0" not in event[name]):
            raise InvalidRecord(f"{name}: 1 to 256 characters without NUL are wanted")
    for name, kind in OPTIONAL.items():
        if name in event and not isinstance(event[name], kind):
            raise InvalidRecord(f"{name}: another type is wanted")
    if type(event.get("event_time_ms")) is not int or not 0 <= event["event_time_ms"] <= NOW_MS + 300_000:
        raise InvalidRecord("event_time_ms: milliseconds, not in the future, are wanted")
    if event.get("action") not in ACTIONS:
        raise InvalidRecord("action: another is wanted")
    return event


def measure(pair: Pair, done: Callable[[], None]) -> tuple[float, float, float]:
    """(our speed, the other's, how many times ours is the other's): medians over the repetitions after a first one."""
    speeds = []
    for number in range(REPEATS + 1):
        turn = []
        for work in (pair.ours, pair.other):
            began = time.perf_counter()
            turn.append(work(number) / (time.perf_counter() - began))
        speeds.append((*turn, turn[0] / turn[1]))
        done()
    return tuple(map(median, zip(*speeds[1:])))
