"""What the page knows: a bounded memory of what the topics said. No Kafka here, and no clock but the one given.

    topic, key, value, timestamp ─► Store.apply ─► list_of, users, status

Every view is a plain dictionary, ready for JSON. A record that comes twice counts once; one that cannot be read is
passed over and counted.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import islice
from statistics import median_low
from threading import Lock
from typing import Any

import msgspec
from msgspec import Struct

from model.schema import (
    Count,
    InvalidRecord,
    Item,
    ModelVersion,
    Reason,
    Recommendation,
    RecommendedItem,
    decode_description,
    decode_description_key,
    decode_item,
    decode_model_version,
    decode_recommendation,
    encode_json,
)
from model.versions import Serving, follow
from serving.redact import cut, shown, shown_raw
from serving.words import say

RATE_S = 60
"""Seconds of throughput that are shown."""
NOW_S = 10
"""Seconds that the rate of now is a mean over."""
VERSIONS_SHOWN, METRICS_SHOWN, METRIC_CHARS = 50, 30, 64
"""Model versions in `status`, and metrics of each and characters of their names, at most."""
CATEGORIES_SHOWN = 20
"""Of an item, at most."""
MOST_DESCRIBED = 128
"""Items of a user with a description, at most: what `describe_first` allows."""
DESCRIPTION_SHOWN = 800
"""Characters."""
FORGOTTEN = "(of a user who was forgotten)"
"""Stands where bytes of a rejected record named a user who was forgotten."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Limits(Struct, frozen=True, kw_only=True):
    """How much is remembered; beyond it the oldest goes."""

    users: int = 20_000
    list_bytes: int = 128 * 2**20
    rec_ids: int = 200_000
    forgotten: int = 200_000
    items: int = 500_000
    deleted: int = 500_000
    versions: int = 1_000
    reasons: int = 50
    recent: int = 1_000


class Bounded(dict):
    """A dictionary in order of the last `put`, that drops the oldest beyond `most` entries.

    >>> kept = Bounded(2)
    >>> for name in "abac":
    ...     kept.put(name, 1)
    >>> list(kept)
    ['a', 'c']
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def put(self, key, value) -> None:
        self.pop(key, None)
        self[key] = value
        while len(self) > self.most:
            self.drop_oldest()

    def drop_oldest(self):
        return self.pop(next(iter(self)))


class Kept(Struct, frozen=True):
    """A user's newest list, as it came; `delivery_ms` is None for a list from before this process."""

    raw: bytes
    arrived_at_ms: int
    delivery_ms: int | None


class Refused(Struct, frozen=True):
    """A record of `rejected-events`."""

    source: str
    partition: Count
    offset: Count
    reason: str
    raw: bytes


class Said(Struct, frozen=True):
    """A model version's newest record, and when the broker got it."""

    version: ModelVersion
    since_ms: int


_decode_refused = msgspec.json.Decoder(Refused).decode


class Store:
    """A bounded memory of five topics. `apply` is for one thread, the views are for any."""

    def __init__(self, limits: Limits = Limits(), clock: Callable[[], int] = now_ms) -> None:
        """
        Args:
            clock: the time now, Unix epoch ms.
        """
        self._clock, self._lock = clock, Lock()
        self._started_ms = clock()
        self._source = {"connected": False, "message": "looking for the broker", "behind": 0}
        self._counts = dict.fromkeys(("lists", "duplicates", "forgotten", "rejected", "malformed"), 0)
        self._lists: Bounded = Bounded(limits.users)
        self._list_bytes, self._most_list_bytes = 0, limits.list_bytes
        self._rec_ids, self._forgotten = Bounded(limits.rec_ids), Bounded(limits.forgotten)
        self._items, self._deleted = Bounded(limits.items), Bounded(limits.deleted)
        self._versions, self._reasons = Bounded(limits.versions), Bounded(limits.reasons)
        self._descriptions = Bounded(limits.users)  # user -> item -> text
        self._serving = Serving()
        self._recent: deque[tuple[str, str, int | None]] = deque(maxlen=limits.recent)
        self._per_second = Bounded(2 * RATE_S)
        self._take = {
            "recommendations": self._take_list,
            "descriptions": self._take_description,
            "items": self._take_item,
            "model-versions": self._take_version,
            "rejected-events": self._take_rejected,
        }

    # In

    def apply(self, topic: str, key: bytes | None, value: bytes | None, timestamp_ms: int) -> None:
        """Take one record; without a value it deletes what its key names.

        Args:
            topic: the topic's name, without the prefix.
            timestamp_ms: the record's timestamp, Unix epoch ms; a record older than this store has no delivery time.
        """
        with self._lock:
            try:
                self._take[topic](key, value, timestamp_ms)
            except (InvalidRecord, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._counts["malformed"] += 1

    def say(self, connected: bool, message: str, behind: int = 0) -> bool:
        """Note how the reading goes; `behind` counts the records that are still to be read. True if this is news."""
        with self._lock:
            news = self._source["message"] != shown(message)
            self._source = {"connected": connected, "message": shown(message), "behind": behind}
        return news

    def _take_list(self, key: bytes | None, value: bytes | None, timestamp_ms: int) -> None:
        if value is None:
            self._drop_list(_name(key))
            return
        made = decode_recommendation(value)
        if made.rec_id in self._rec_ids:
            self._counts["duplicates"] += 1
            return
        self._rec_ids.put(made.rec_id, None)
        if made.forgotten:
            self._forget(made.user_id, made.event_time_ms)
            return
        self._counts["lists"] += 1
        kept = self._stamp(made, value, live=timestamp_ms >= self._started_ms)
        self._recent.append((shown(made.model_version), shown(made.variant), kept.delivery_ms))
        if made.event_time_ms > self._forgotten.get(made.user_id, -1):
            self._keep_list(made.user_id, kept)

    def _forget(self, user_id: str, event_time_ms: int) -> None:
        """Drop what is held of a user, and note up to when: an older list that comes late is not kept."""
        self._counts["forgotten"] += 1
        self._drop_list(user_id)
        self._descriptions.pop(user_id, None)
        self._forgotten.put(user_id, max(event_time_ms, self._forgotten.get(user_id, -1)))
        name = encode_json(user_id).decode()
        for about, refused in self._reasons.items():
            if name in refused["raw"]:
                self._reasons[about] = refused | {"raw": FORGOTTEN}

    def _stamp(self, made: Recommendation, raw: bytes, live: bool) -> Kept:
        """Note when a list arrived; one from before this store says nothing about delivery or throughput."""
        arrived = self._clock()
        if not live:
            return Kept(raw, arrived, None)
        second = arrived // 1_000
        self._per_second.put(second, self._per_second.get(second, 0) + 1)
        return Kept(raw, arrived, arrived - made.emitted_at_ms)

    def _keep_list(self, user_id: str, kept: Kept) -> None:
        self._drop_list(user_id)
        while self._lists and (
            len(self._lists) >= self._lists.most or self._list_bytes + len(kept.raw) > self._most_list_bytes
        ):
            self._list_bytes -= len(self._lists.drop_oldest().raw)
        self._lists.put(user_id, kept)
        self._list_bytes += len(kept.raw)

    def _drop_list(self, user_id: str) -> None:
        kept = self._lists.pop(user_id, None)
        self._list_bytes -= len(kept.raw) if kept else 0

    def _take_item(self, key: bytes | None, value: bytes | None, timestamp_ms: int) -> None:
        item = Item(_name(key), deleted=True) if value is None else decode_item(value)
        if item.deleted:
            self._items.pop(item.item_id, None)
            self._deleted.put(item.item_id, None)
        else:
            self._deleted.pop(item.item_id, None)
            categories = [cut(category) for category in item.categories[:CATEGORIES_SHOWN]]
            self._items.put(item.item_id, (cut(item.title) or item.item_id, categories))

    def _take_description(self, key: bytes | None, value: bytes | None, timestamp_ms: int) -> None:
        user_id, item_id = decode_description_key(key or b"")
        of_user = self._descriptions.pop(user_id, {})
        if value is None:
            of_user.pop(item_id, None)
        elif len(of_user) < MOST_DESCRIBED or item_id in of_user:
            of_user[item_id] = cut(decode_description(value).text, DESCRIPTION_SHOWN)
        if of_user:
            self._descriptions.put(user_id, of_user)

    def _take_version(self, key: bytes | None, value: bytes | None, timestamp_ms: int) -> None:
        if value is None:
            self._versions.pop(_name(key), None)
            return
        version = decode_model_version(value)
        self._serving = follow(self._serving, version)
        if version.status != "counted":  # new counts of a version decide nothing
            self._versions.put(version.version, Said(version, timestamp_ms))

    def _take_rejected(self, key: bytes | None, value: bytes | None, timestamp_ms: int) -> None:
        refused = _decode_refused(value or b"")
        self._counts["rejected"] += 1
        about = (shown(refused.source), shown(refused.reason))
        count = self._reasons[about]["count"] if about in self._reasons else 0
        self._reasons.put(about, {
            "source": about[0],
            "reason": about[1],
            "count": count + 1,
            "latest_at_ms": timestamp_ms,
            "partition": refused.partition,
            "offset": refused.offset,
            "raw": shown_raw(refused.raw),
        })  # fmt: skip

    # Out

    def list_of(self, user_id: str) -> dict[str, Any] | None:
        """The user's newest list with titles and reasons in words; None if there is none."""
        with self._lock:
            kept = self._lists.get(user_id)
            return self._show(kept) if kept else None

    def was_forgotten(self, user_id: str) -> bool:
        """Whether the user is among those who were forgotten, whatever came since."""
        with self._lock:
            return user_id in self._forgotten

    def users(self, k: int) -> list[dict[str, Any]]:
        """The k users whose lists came last, the newest first."""
        with self._lock:
            newest = [kept for _, kept in zip(range(k), reversed(self._lists.values()))]
            return [self._head(kept, decode_recommendation(kept.raw)) for kept in newest]

    def status(self) -> dict[str, Any]:
        """Counts, rates, delivery, model versions and rejected records."""
        with self._lock:
            now = self._clock()
            per_second = self._rates(now // 1_000)
            return {
                "now_ms": now,
                "started_ms": self._started_ms,
                "source": self._source,
                "counts": self._counts | {"users": len(self._lists), "items": len(self._items)},
                "lists_per_s": {"now": sum(per_second[-NOW_S:]) / NOW_S, "each": per_second},
                "delivery_ms": self._delivery(),
                "served": self._served(),
                "versions": self._timeline(),
                "rejected": list(reversed(self._reasons.values())),
            }

    def _show(self, kept: Kept) -> dict[str, Any]:
        made = decode_recommendation(kept.raw)
        return self._head(kept, made) | {"items": [self._show_item(made.user_id, item) for item in self._there(made)]}

    def _head(self, kept: Kept, made: Recommendation) -> dict[str, Any]:
        """A list as it came, its items only counted, and when it came."""
        about = msgspec.structs.asdict(made) | {"items": len(self._there(made))}
        del about["forgotten"]  # of what is kept nothing is
        return about | {"arrived_at_ms": kept.arrived_at_ms, "delivery_ms": kept.delivery_ms}

    def _there(self, made: Recommendation) -> list[RecommendedItem]:
        """The items of a list that have not been deleted since."""
        return [item for item in made.items if item.item_id not in self._deleted]

    def _show_item(self, user_id: str, item: RecommendedItem) -> dict[str, Any]:
        """With a `description` where there is one."""
        title, categories = self._items.get(item.item_id, (item.item_id, []))
        reasons = [self._show_reason(reason) for reason in item.reasons]
        text = self._descriptions.get(user_id, {}).get(item.item_id)
        return {
            "item_id": item.item_id,
            "title": title,
            "categories": categories,
            "probability": item.probability,
            "reasons": reasons,
            **({"keywords": item.keywords} if item.keywords else {}),
            **({"description": text} if text else {}),
        }

    def _show_reason(self, reason: Reason) -> dict[str, Any]:
        there = [item_id for item_id in reason.items if item_id not in self._deleted]
        reason = msgspec.structs.replace(reason, items=there)
        about = msgspec.structs.asdict(reason) | {"words": say(reason, self._title)}
        if not reason.keywords:
            del about["keywords"]
        if not reason.relation:
            del about["relation"]
        return about

    def _title(self, item_id: str) -> str:
        return self._items.get(item_id, (item_id,))[0]

    def _rates(self, second: int) -> list[int]:
        """Lists that came in each of the last full seconds, the oldest first."""
        return [self._per_second.get(at, 0) for at in range(second - RATE_S, second)]

    def _delivery(self) -> dict[str, int] | None:
        """From a list's making to its arrival here, over the recent lists; None before the first."""
        times = sorted(ms for _, _, ms in self._recent if ms is not None)
        if not times:
            return None
        return {"median": median_low(times), "p95": times[int(0.95 * (len(times) - 1))], "lists": len(times)}

    def _served(self) -> list[dict[str, Any]]:
        """Which version, under which variant, made how many of the recent lists, the most first."""
        counts = Counter((version, variant) for version, variant, _ in self._recent).most_common(VERSIONS_SHOWN)
        return [{"version": version, "variant": variant, "lists": lists} for (version, variant), lists in counts]

    def _timeline(self) -> list[dict[str, Any]]:
        """The versions by name, the highest first: a version's record may come again after those of its successors."""
        said = sorted(self._versions.values(), key=lambda said: said.version.version, reverse=True)
        return [self._show_version(each) for each in said[:VERSIONS_SHOWN]]

    def _show_version(self, said: Said) -> dict[str, Any]:
        """A version as it stands, without its path: one serves at most, one judged on nothing has no figures."""
        version = said.version
        paths = self._serving.paths[:1]
        serves = version.path in paths
        judged = version.metrics.get("judged_on") != 0
        metrics = {
            shown(name, METRIC_CHARS): value
            for name, value in version.metrics.items()
            if judged or not name.endswith("_at_10")
        }
        return {
            "version": shown(version.version),
            "parent": shown(version.parent),
            "metrics": dict(islice(metrics.items(), METRICS_SHOWN)),
            "status": "serving" if serves else "retired" if version.status == "serving" else version.status,
            "pinned": serves and self._serving.pinned,
            "reason": shown(version.reason),
            "since_ms": said.since_ms,
        }


def _name(key: bytes | None) -> str:
    return (key or b"").decode()
