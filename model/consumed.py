"""What a user has consumed, as a compact set: the lowest 16 bits of each item key, 2 bytes an item.

With n items consumed, an item that was not consumed counts as such with probability n / 65,536.
"""

import numpy as np

MARKS = 65_536
"""Different marks that an item can have."""


def add(consumed: bytes | None, item_key: int, limit: int) -> bytes:
    """Add an item; past `limit` items the ones added first are dropped.

    >>> add(add(b"", 7, 2), 7, 2) == add(b"", 7, 2)
    True
    """
    mark, consumed = item_key % MARKS, consumed or b""
    if (marks(consumed) == mark).any():
        return consumed
    return (consumed + mark.to_bytes(2, "little"))[-2 * limit :] if limit else b""


def marks(consumed: bytes) -> np.ndarray:
    """What is kept of each item, the one consumed first standing first; (n,) uint16."""
    return np.frombuffer(consumed, "<u2")


def marks_of(item_keys: np.ndarray) -> np.ndarray:
    """What would be kept of these items; (n,) uint64 -> (n,) uint16."""
    return (item_keys & np.uint64(MARKS - 1)).astype("<u2")


def contains(consumed: bytes, item_keys: np.ndarray) -> np.ndarray:
    """Which of the items count as consumed.

    Shape: (n,) uint64 -> (n,) bool.
    """
    there = np.zeros(MARKS, bool)
    there[marks(consumed)] = True
    return there[marks_of(item_keys)]
