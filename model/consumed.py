"""What a user has consumed, as a compact set: the lowest 16 bits of each item key, 2 bytes an item.

With n items consumed, an item that was not consumed counts as such with probability n / 65,536.
"""

import numpy as np


def add(consumed: bytes | None, item_key: int, limit: int) -> bytes:
    """Add an item; past `limit` items the ones added first are dropped.

    >>> add(add(b"", 7, 2), 7, 2) == add(b"", 7, 2)
    True
    """
    mark, consumed = item_key & 0xFFFF, consumed or b""
    if (np.frombuffer(consumed, "<u2") == mark).any():
        return consumed
    return (consumed + mark.to_bytes(2, "little"))[-2 * limit :] if limit else b""


def contains(consumed: bytes, item_keys: np.ndarray) -> np.ndarray:
    """Which of the items count as consumed.

    Shape: (n,) uint64 -> (n,) bool.
    """
    marks = np.zeros(65_536, bool)
    marks[np.frombuffer(consumed, "<u2")] = True
    return marks[(item_keys & np.uint64(0xFFFF)).astype(np.int64)]
