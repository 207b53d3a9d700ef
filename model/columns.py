"""What was read from a snapshot, checked before compiled loops go through it: they look at no bounds.

A snapshot has a checksum, so what is wrong here was written so: by another release, or by hand.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from model import counting
from model.counting import Items, Log, Pairs, Users


def check(rows: int, log: Log, users: Users, items: Items, tables: Iterable[Pairs]) -> None:
    """See that columns fit together and lead to places and rows that are there.

    Args:
        rows: of items.

    Raises:
        ValueError: they do not; the message names the column.
    """
    events = len(log.item)
    _check_kinds("log", log, counting.new_log(0), events)
    _check_kinds("users", users, counting.new_users(), len(users.newest))
    _check_kinds("items", items, counting.new_items(), rows, own=("totals",))
    _check_ends("log.item", log.item, 0, rows)
    _check_ends("log.user", log.user, -1, len(users.newest))
    for name in counting.LINKS:
        _check_ends(f"log.{name}", getattr(log, name), -1, events)
    for name, newest in (("users.newest", users.newest), ("items.newest", items.newest)):
        _check_ends(name, newest, -1, events)
    for pairs in tables:
        _check_pairs(pairs, rows)


def _check_pairs(pairs: Pairs, rows: int) -> None:
    _check_kinds("pairs", pairs, counting.new_pairs(0), rows, own=("partner", "weight", "top", "free"))
    slots = len(pairs.partner)
    if len(pairs.weight) != slots:
        raise ValueError(f"pairs hold {slots} partners, {len(pairs.weight)} weights")
    _check_ends("pairs.top", pairs.top, 0, slots + 1)
    _check_ends("pairs.free", pairs.free, -1, 0)
    _check_ends("pairs.room", pairs.room, 0, slots + 1)
    _check_ends("pairs.used", pairs.used, 0, pairs.room + 1)
    _check_ends("pairs.start", pairs.start, 0, slots + 1 - pairs.room)
    _check_ends("pairs.partner", pairs.partner, 0, max(1, rows))


def _check_kinds(of: str, columns: NamedTuple, empty: NamedTuple, rows: int, own: Iterable[str] = ()) -> None:
    """Types and shapes, one entry a row but for some that have a length of their own; weights of 0 or more."""
    for name, column, wanted in zip(columns._fields, columns, empty):
        is_like = column.dtype == wanted.dtype and column.shape[1:] == wanted.shape[1:] and column.ndim == wanted.ndim
        length = rows if name not in own else len(wanted) or len(column)
        if not is_like or len(column) != length:
            raise ValueError(f"{of}.{name} is {column.dtype} {column.shape}, not {wanted.dtype} of {length} rows")
        if column.dtype.kind == "f" and not (np.isfinite(column) & (column >= 0)).all():
            raise ValueError(f"{of}.{name} holds what is no number of 0 or more")


def _check_ends(name: str, column: np.ndarray, least: int, end: int | np.ndarray) -> None:
    wrong = column[(column < least) | (column >= end)]
    if len(wrong):
        raise ValueError(f"{name} holds {wrong[0]}, which leads nowhere")
