"""Which row an item has: a table that follows the items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.rows import Rows

KEYS = st.one_of(st.integers(1, 40), st.integers(1, 4).map(lambda number: number << 32 | 7), st.integers(1, 2**64 - 1))
STEPS = st.lists(st.tuples(st.booleans(), st.lists(KEYS, max_size=30)), max_size=30)


@settings(deadline=None)  # the first time it is compiled
@given(STEPS)
def test_it_finds_what_a_dict_finds(steps):
    """After whatever was put and taken out, in whatever order, some of it again and some with one fingerprint."""
    rows, known = Rows(), {}
    for is_put, keys in steps:
        if is_put:
            assert [known.setdefault(key, len(known)) for key in keys] == rows.put(np.array(keys, np.uint64)).tolist()
        for key in () if is_put else keys:
            last = max(known, key=known.get, default=1)
            row = known.pop(key, -1)
            assert row == rows.pop(key, last)
            if last in known and row >= 0:
                known[last] = row
    every = np.array([*known, *range(50)], np.uint64)

    assert len(known) == len(rows)
    assert [known.get(key, -1) for key in every.tolist()] == rows.find(every).tolist()
    found = rows.find_fingerprints(every.astype(np.uint32)).tolist()
    assert all(row in of_fingerprint(known, key) for key, row in zip(every.tolist(), found))


def of_fingerprint(known: dict[int, int], key: int) -> list[int]:
    """The rows that the lower half of a key may mean."""
    return [row for other, row in known.items() if other & 0xFFFFFFFF == key & 0xFFFFFFFF] or [-1]


@pytest.mark.parametrize("key", [0, 1, 2**64 - 1])
def test_nothing_is_found_where_there_is_nothing(key):
    """0 is the key of a search, which is no item."""
    rows = Rows()
    rows.put(np.array([5], np.uint64))

    assert [-1] == rows.find(np.array([key], np.uint64)).tolist()
    assert (-1, False, True) == (rows.row(key), key in rows, 5 in rows)
