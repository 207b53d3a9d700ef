"""What a user had, item by item: how often, when last, and what the user last said of it; 14 bytes an item.

    event ─► add ─► bytes in the user's state ─► opened ─► excluded items, signals of when and how often

An item is known by its fingerprint, the lowest 32 bits of its key. What a user says of an item (purchase, rating, like,
dislike, skip) stands until the user says something else: seeing it again does not undo it, nor does rating what was
bought, liked or disliked.

Layout: a version byte, then per item, in the order in which they came first, fingerprint u32, time of the newest event
u32 (seconds), time of what was said u32 (seconds), how often u8 (255: or more), action u8 (of model.interest.ACTIONS).
"""

import struct
from collections.abc import Mapping, Sequence

import numpy as np

from model.interest import ACTIONS
from model.schema import StateError

LAYOUT = 1
SAYING = frozenset({"purchase", "rating", "like", "dislike", "skip"})
"""Actions by which a user says something of an item, beside only looking at it."""
ROW = np.dtype([("fingerprint", "<u4"), ("last_s", "<u4"), ("said_s", "<u4"), ("times", "u1"), ("action", "u1")])

_HEADER = bytes([LAYOUT])
_LEVEL = [(action in SAYING) + (action in SAYING and action != "rating") for action in ACTIONS]
_KNOWN = bytes(range(len(ACTIONS)))
_ROW, _FINGERPRINT = struct.Struct("<IIIBB"), struct.Struct("<I")  # of ROW
_MOST_S, _MOST_TIMES = 0xFFFFFFFF, 0xFF


def fingerprints(item_keys: np.ndarray) -> np.ndarray:
    """What stands for these items; (n,) uint64 -> (n,) uint32."""
    return item_keys.astype(np.uint32)


def opened(consumed: bytes | None) -> np.ndarray:
    """One row for each item; (n,) of `ROW`, not to be written to.

    An even number of bytes are the marks of release 0.1.0, which do not say when or how: nothing is known of those
    items.

    Raises:
        StateError: the bytes are of an unknown layout, cut short, or hold an unknown action.
    """
    return np.frombuffer(consumed, ROW, offset=1) if consumed and _is_current(consumed) else np.zeros(0, ROW)


def opened_together(each: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The rows of many users, one user's after the other's, and whose each is: (n,) of `ROW`, (n,) int64.

    Raises:
        StateError: as `opened` does.
    """
    kept = [consumed[1:] if consumed and _is_current(consumed) else b"" for consumed in each]
    lengths = np.array([len(rows) for rows in kept], np.int64) // ROW.itemsize
    return np.frombuffer(b"".join(kept), ROW), np.repeat(np.arange(len(kept)), lengths)


def _is_current(consumed: bytes) -> bool:
    """Whether the bytes are rows, and not the marks of release 0.1.0."""
    if len(consumed) % 2 == 0:
        return False
    if consumed[0] != LAYOUT or len(consumed) % ROW.itemsize != 1:
        raise StateError(
            f"{len(consumed)} bytes of consumed items of layout {consumed[0]}: layout {LAYOUT} can be read"
        )
    if unknown := consumed[ROW.itemsize :: ROW.itemsize].translate(None, _KNOWN):
        raise StateError(f"consumed items are damaged: action {max(unknown)}: there are {len(ACTIONS)}")
    return True


def packed(rows: np.ndarray) -> bytes:
    return _HEADER + rows.tobytes() if len(rows) else b""


def add(consumed: bytes | None, item_key: int, action: str, time_ms: int, limit: int) -> bytes:
    """Add that a user had an item; past `limit` items those had longest ago are dropped.

    >>> once = add(b"", 7, "view", 1_000, 10)
    >>> len(once), opened(add(once, 7, "purchase", 2_000, 10)).tolist()
    (15, [(7, 2, 2, 2, 3)])
    """
    data = consumed if consumed and _is_current(consumed) else _HEADER
    fingerprint, time_s, said = item_key & 0xFFFFFFFF, min(time_ms // 1_000, _MOST_S), ACTIONS.index(action)
    at = _find(data, _FINGERPRINT.pack(fingerprint))
    _, last_s, said_s, times, before = _ROW.unpack_from(data, at) if at < len(data) else (0, 0, 0, 0, 0)
    stands = (_LEVEL[said], time_s) < (_LEVEL[before], said_s)
    what = (said_s, min(times + 1, _MOST_TIMES), before) if stands else (time_s, min(times + 1, _MOST_TIMES), said)
    row = _ROW.pack(fingerprint, max(last_s, time_s), *what)
    added = b"".join((data[:at], row, data[at + ROW.itemsize :]))
    return added if len(added) <= 1 + limit * ROW.itemsize else packed(_newest(opened(added), limit))


def _find(data: bytes, fingerprint: bytes) -> int:
    """Where an item's row begins; the end if it has none."""
    at = data.find(fingerprint, 1)
    while at >= 0 and (at - 1) % ROW.itemsize:
        at = data.find(fingerprint, at + 1)
    return at if at >= 0 else len(data)


def of_events(item_keys: np.ndarray, actions: np.ndarray, times_ms: np.ndarray, limit: int) -> bytes:
    """The same for many events at once, in their order; shape (n,) each, actions as indices of ACTIONS."""
    if not len(item_keys):
        return b""
    items, first, place = np.unique(fingerprints(item_keys), return_index=True, return_inverse=True)
    order = first.argsort().argsort()[place]  # of the event's item by its first event
    seconds = np.minimum(times_ms // 1_000, _MOST_S).astype(np.uint32)
    rows = np.zeros(len(items), ROW)
    rows["fingerprint"][order] = fingerprints(item_keys)
    np.maximum.at(rows["last_s"], order, seconds)
    rows["times"] = np.minimum(np.bincount(order), _MOST_TIMES)
    newest = np.lexsort((seconds, np.array(_LEVEL)[actions]))  # what says most last, of that the newest
    rows["said_s"][order[newest]], rows["action"][order[newest]] = seconds[newest], actions[newest]
    return packed(_newest(rows, limit))


def _newest(rows: np.ndarray, limit: int) -> np.ndarray:
    """Without those had longest ago, where they are too many."""
    if len(rows) <= limit:
        return rows
    if len(rows) == limit + 1:
        return np.delete(rows, rows["last_s"].argmin())
    return rows[np.sort(np.argsort(rows["last_s"], kind="stable")[len(rows) - limit :])]


def excluded(rows: np.ndarray, now_s: np.ndarray | float, exclude_s: Mapping[str, float]) -> np.ndarray:
    """Which items must not be listed now, by what the user said of them last.

    >>> rows = opened(add(b"", 7, "purchase", 1_000, 10))
    >>> [excluded(rows, now_s, {"purchase": 60.0}).tolist() for now_s in (2, 62)]
    [[True], [False]]

    Args:
        now_s: the time of the list, or of each row's list.
        exclude_s: action -> for so long.

    Shape: rows (n,) -> (n,) bool.
    """
    for_s = np.array([exclude_s.get(action, 0.0) for action in ACTIONS])[rows["action"]]
    return (for_s > 0) & (np.asarray(now_s, np.float64) - rows["said_s"] < for_s)
