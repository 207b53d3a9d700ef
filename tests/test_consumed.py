"""What a user has consumed, in 2 bytes an item."""

import numpy as np

from model import consumed
from model.schema import item_key


def test_an_item_takes_two_bytes():
    """The first item makes the set: a user who has none has no bytes."""
    assert 2 == len(consumed.add(None, item_key("m1"), 10))
    assert 4 == len(consumed.add(consumed.add(b"", 1, 10), 2, 10))


def test_a_consumed_item_is_found_again():
    """Every item that was added counts as consumed, the others do not."""
    seen = consumed.add(consumed.add(b"", 7, 10), 70_000, 10)

    found = consumed.contains(seen, np.array([7, 8, 70_000, 2**64 - 1], np.uint64))

    assert [True, False, True, False] == found.tolist()


def test_an_item_consumed_twice_is_kept_once():
    """Adding it again gives the same bytes."""
    once = consumed.add(b"", 7, 10)

    assert once == consumed.add(once, 7, 10)


def test_past_the_limit_the_first_ones_are_dropped():
    """The set never grows beyond 2 bytes x limit and holds the newest."""
    seen = b""
    for key in range(100):
        seen = consumed.add(seen, key, 16)

    found = consumed.contains(seen, np.arange(100, dtype=np.uint64))

    assert 32 == len(seen)
    assert list(range(84, 100)) == np.flatnonzero(found).tolist()


def test_a_limit_of_zero_remembers_nothing():
    """`max_consumed` 0 switches the set off."""
    assert b"" == consumed.add(b"", 7, 0)
    assert [False] == consumed.contains(b"", np.array([7], np.uint64)).tolist()


def test_two_items_with_the_same_low_bits_do_not_break_apart():
    """A mark is found on item borders only: the second byte of one and the first of the next are no mark."""
    seen = consumed.add(consumed.add(b"", 0x0102, 10), 0x0304, 10)

    found = consumed.contains(seen, np.array([0x0102, 0x0304, 0x0401], np.uint64))

    assert [True, True, False] == found.tolist()
    assert 6 == len(consumed.add(seen, 0x0401, 10))


def test_few_items_count_as_consumed_by_mistake():
    """With n items consumed, another one counts as such with probability near n / 65,536."""
    rng = np.random.default_rng(7)
    keys = rng.integers(1, 2**64, 2_000, dtype=np.uint64)
    seen = b""
    for key in keys.tolist():
        seen = consumed.add(seen, key, 4_096)

    rate = consumed.contains(seen, rng.integers(1, 2**64, 200_000, dtype=np.uint64)).mean()

    assert consumed.contains(seen, keys).all()
    assert abs(rate - 2_000 / 65_536) < 0.003
