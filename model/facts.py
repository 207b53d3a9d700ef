"""What is known of a user and of the moment: attributes, hashed to the buckets of an embedding.

    {"age": 24, "occupation": "writer", "likes": ["jazz"]} ─► (name, kind, value) each ─► a bucket, 1 to BUCKETS - 1

A number falls into one of its bins, four to an octave; text, a truth and each text of a list stand for themselves. A
value of another kind is another fact, so an attribute may be a number today and a text tomorrow.

Source: Weinberger et al., Feature Hashing for Large Scale Multitask Learning, 2009, arXiv:0902.2206.
"""

import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from model.schema import Request, item_key

BUCKETS = 4_096
MOST = 16
"""Facts of a user, and of an event's context, at most: 2 bytes each."""
MOMENT = 2
"""Facts that follow from the time of a request: its hour and its weekday."""
COLUMNS = 2 * MOST + MOMENT
MOST_USERS = 1_000_000
"""Users of whom a worker holds facts, about 250 bytes each; beyond them those whose record is oldest are dropped."""
NAME_CHARS, TEXT_CHARS = 64, 256
_BINS = 4  # of an octave
_DAY_H, _HOUR_MS, _THURSDAY = 24, 3_600_000, 3  # 1970 began on one

logger = logging.getLogger(__name__)


def bucket(name: str, kind: str, value: object) -> int:
    """The bucket of a fact, from 1 on; 0 stands for none."""
    return 1 + item_key(f"{name}\0{kind}\0{value}") % (BUCKETS - 1)


def bin_of(number: float) -> int:
    """The bin of a number.

    >>> bin_of(0), bin_of(24), bin_of(25), bin_of(60), bin_of(-60)
    (0, 19, 19, 24, -24)
    """
    size = round(_BINS * math.log2(1 + abs(number)))
    return -size if number < 0 else size


def _of_value(name: str, value: object) -> list[int] | None:
    """The buckets of an attribute; None where it is of no known kind, or too long."""
    if isinstance(value, bool):
        return [bucket(name, "truth", value)]
    if isinstance(value, int | float):
        known = abs(value) <= 1e300  # neither is what is no number
        return [bucket(name, "number", bin_of(float(value)))] if known else None
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) and len(text) <= TEXT_CHARS for text in texts):
        return None
    return [bucket(name, "text", text) for text in dict.fromkeys(texts) if text]


class PassedOver:
    """Counts attributes that are passed over, by why, and says so in the log: the first, the tenth, the hundredth."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, why: str, name: str = "") -> None:
        self.counts[why] += 1
        count = self.counts[why]
        if str(count).strip("0") == "1":
            logger.warning("attributes passed over, %s: %d so far, the last %r", why, count, name[:NAME_CHARS])


PASSED_OVER = PassedOver()
"""Of this process."""


def features(attributes: object, of: str = "") -> bytes:
    """The facts of a user, or of an event's context, as little-endian uint16 buckets; at most MOST.

    >>> len(features({"age": 24, "occupation": "writer", "address": {"city": "Ulm"}, "vip": None}))
    4

    Args:
        attributes: by name: text, a number, a truth, a list of texts; null is as if it were not there. What is none of
            these, too long, or beyond the MOST first is passed over and counted.
        of: put before the names, so that a user's facts and a moment's are not the same.
    """
    if attributes is None:
        return b""
    if not isinstance(attributes, Mapping):
        PASSED_OVER.add("no object of names and values", str(attributes))
        return b""
    found: list[int] = []
    for name, value in attributes.items():
        if value is None:
            continue
        buckets = _of_value(of + name, value) if isinstance(name, str) and len(name) <= NAME_CHARS else None
        if buckets is None:
            PASSED_OVER.add("no text, number, truth or list of texts, or too long", str(name))
        elif len(found) + len(buckets) > MOST:
            PASSED_OVER.add(f"more than {MOST} facts", str(name))
        else:
            found += buckets
    return np.array(found, "<u2").tobytes()


def of_context(context: object) -> bytes:
    """The facts of an event's context."""
    return features(context, "@")


def _moment() -> np.ndarray:
    """The buckets of every hour of a week from Monday on; (168, MOMENT)."""
    hours = [(bucket("@", "hour", hour % _DAY_H), bucket("@", "weekday", hour // _DAY_H)) for hour in range(7 * _DAY_H)]
    return np.array(hours, np.int64)


_MOMENTS = _moment()


class Facts:
    """What is known of users: buckets by user id. It goes on changing; whoever scores with it shares it.

    >>> facts = Facts()
    >>> facts.put("ann", {"age": 24})
    >>> len(facts), facts.put("ann", {}), len(facts)
    (1, None, 0)
    """

    def __init__(self, most_users: int = MOST_USERS) -> None:
        self._of: OrderedDict[str, bytes] = OrderedDict()
        self._most = most_users

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._of

    def __deepcopy__(self, memo: dict) -> "Facts":
        return self

    def put(self, user_id: str, attributes: Mapping[str, Any]) -> None:
        """Hold the facts of a user in place of those of before."""
        self.forget(user_id)
        if found := features(attributes):
            self._of[user_id] = found
        while len(self._of) > self._most:
            self._of.popitem(last=False)

    def forget(self, user_id: str) -> None:
        self._of.pop(user_id, None)

    def clear(self) -> None:
        self._of.clear()

    def of_users(self, user_ids: Sequence[str]) -> np.ndarray:
        """Buckets, 0 for none; (B, MOST)."""
        return _laid_out(self._of.get(user_id, b"") for user_id in user_ids)

    def of_requests(self, requests: Sequence[Request]) -> np.ndarray:
        """Buckets of the user, then of the context, then of hour and weekday (UTC), 0 for none; (B, COLUMNS)."""
        users = self.of_users([request.user_id for request in requests])
        contexts = _laid_out(request.facts for request in requests)
        hours = np.array([request.event_time_ms for request in requests], np.int64) // _HOUR_MS
        moments = _MOMENTS[(hours + _THURSDAY * _DAY_H) % len(_MOMENTS)]
        return np.concatenate((users, contexts, moments), 1)


def _laid_out(packed: Iterable[bytes]) -> np.ndarray:
    """Shape: B times uint16 buckets -> (B, MOST) int64; what is no bucket, from a record of others, is none."""
    rows = [np.frombuffer(one[: len(one) // 2 * 2], "<u2")[:MOST] for one in packed]
    laid = np.zeros((len(rows), MOST), np.int64)
    for row, one in zip(laid, rows):
        row[: len(one)] = np.where(one < BUCKETS, one, 0)
    return laid
