"""Which row an item has, found for many items at once: a hash table that grows and shrinks with the items.

Open addressing with linear probing, compiled. An item's place follows from the lower half of its key alone, so the
same table finds an item by its key and by its fingerprint (model/consumed.py).
"""

import numpy as np

from model.jit import njit

_LEAST_BITS = 6


class Rows:
    """Item key -> row.

    Shape: slots (2 ** bits, 2) uint64: a key, 0 for none, and its row; half of them are free, or more.
    """

    def __init__(self) -> None:
        self._slots = np.zeros((1 << _LEAST_BITS, 2), np.uint64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: int) -> bool:
        return self.row(key) >= 0

    def row(self, key: int) -> int:
        """The row of one item, -1 if it has none."""
        return int(_find(self._slots, np.array([key], np.uint64))[0])

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The rows of items, -1 for none; (n,) uint64 -> (n,) int64."""
        return _find(self._slots, np.ascontiguousarray(keys, np.uint64))

    def find_fingerprints(self, fingerprints: np.ndarray) -> np.ndarray:
        """The rows of items known by the lower halves of their keys, -1 for none; (n,) uint32 -> (n,) int64."""
        return _find_fingerprints(self._slots, np.array(fingerprints, np.uint32))  # a copy may be written to

    def put(self, keys: np.ndarray) -> np.ndarray:
        """The rows of items; those that have none get the next ones; (n,) uint64 -> (n,) int64."""
        bits = max(_LEAST_BITS, (2 * (self._count + len(keys))).bit_length())
        if len(self._slots) < 1 << bits:
            slots = np.zeros((1 << bits, 2), np.uint64)
            _move(self._slots, slots)
            self._slots = slots
        rows = _put(self._slots, np.ascontiguousarray(keys, np.uint64), self._count)
        self._count = max(self._count, int(rows.max(initial=-1)) + 1)
        return rows

    def pop(self, key: int, last: int) -> int:
        """Take an item out and return its row, -1 if it has none; the item `last`, in the last row, gets that row."""
        row = int(_pop(self._slots, np.uint64(key), np.uint64(last)))
        self._count -= row >= 0
        return row


@njit
def _first(slots, key):
    """Where an item is looked for first (Fibonacci hashing)."""
    return np.int64((np.uint64(key) * np.uint64(0x9E3779B1) & np.uint64(0xFFFFFFFF)) * np.uint64(len(slots)) >> 32)


@njit
def _slot(slots, key):
    """Where an item is, or would be."""
    at = _first(slots, key)
    while slots[at, 0] and slots[at, 0] != key:
        at = (at + 1) & (len(slots) - 1)
    return at


@njit(cache=True)
def _find(slots, keys):
    rows = np.full(len(keys), -1)
    for number in range(len(keys)):
        at = _slot(slots, keys[number])
        if slots[at, 0]:
            rows[number] = slots[at, 1]
    return rows


@njit(cache=True)
def _find_fingerprints(slots, fingerprints):
    rows = np.full(len(fingerprints), -1)
    for number in range(len(fingerprints)):
        at = _first(slots, fingerprints[number])
        while slots[at, 0] and np.uint32(slots[at, 0]) != fingerprints[number]:
            at = (at + 1) & (len(slots) - 1)
        if slots[at, 0]:
            rows[number] = slots[at, 1]
    return rows


@njit(cache=True)
def _move(slots, larger):
    for old in range(len(slots)):
        if slots[old, 0]:
            at = _slot(larger, slots[old, 0])
            larger[at, 0], larger[at, 1] = slots[old, 0], slots[old, 1]


@njit(cache=True)
def _put(slots, keys, count):
    rows = np.empty(len(keys), np.int64)
    for number in range(len(keys)):
        at = _slot(slots, keys[number])
        if not slots[at, 0]:
            slots[at, 0], slots[at, 1] = keys[number], count
            count += 1
        rows[number] = slots[at, 1]
    return rows


@njit(cache=True)
def _pop(slots, key, last):
    """Those that come after move up, where their way leads past the slot that becomes free."""
    free = _slot(slots, key)
    if not slots[free, 0]:
        return -1
    row = np.int64(slots[free, 1])
    slots[_slot(slots, last), 1] = row
    at = (free + 1) & (len(slots) - 1)
    while slots[at, 0]:
        way = (at - _first(slots, slots[at, 0])) & (len(slots) - 1)
        if way >= (at - free) & (len(slots) - 1):
            slots[free, 0], slots[free, 1] = slots[at, 0], slots[at, 1]
            free = at
        at = (at + 1) & (len(slots) - 1)
    slots[free, 0] = 0
    return row
