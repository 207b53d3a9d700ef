"""Snapshots of the item statistics in the registry, from which a reader of the log goes on.

<registry>/statistics-000017/   columns, and the offsets of the log up to which they are counted
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from model import registry
from model.bounds import StatisticsConfig
from model.schema import HeadraceError, StateError
from model.statistics import ItemStatistics

BYTES_AN_EXAMPLE = 500
"""Snapshots are written so seldom that no example pays for more, on average."""
KEPT = 2
"""So many are kept: whoever reads one is a little behind whoever writes."""
_NAME = re.compile("statistics-([0-9]{6,18})")


class Snapshot(NamedTuple):
    """Statistics, and where the log goes on: the topic that the offsets belong to, the next offset by partition."""

    statistics: ItemStatistics
    source: str
    offsets: dict[int, int]


def nothing(config: StatisticsConfig = StatisticsConfig()) -> Snapshot:
    """Where no log was read."""
    return Snapshot(ItemStatistics(config), "", {})


def write(folder: str, statistics: ItemStatistics, source: str, offsets: Mapping[int, int], keep: int = KEPT) -> int:
    """Write a snapshot, delete all but the newest ones, and return its size in bytes."""
    numbers = _numbers(folder)
    columns = {name: torch.from_numpy(plain(column)) for name, column in statistics.snapshot().items()}
    about = {"source": source, "offsets": {str(partition): offset for partition, offset in offsets.items()}}
    registry.write(folder, _name(max(numbers, default=0) + 1), columns, about | {"seen": statistics.seen})
    for number in numbers[: max(0, len(numbers) + 1 - keep)]:
        registry.remove(f"{folder.rstrip('/')}/{_name(number)}")
    return sum(column.numel() * column.element_size() for column in columns.values())


def newest(folder: str, config: StatisticsConfig = StatisticsConfig()) -> tuple[Snapshot, list[str]]:
    """The newest snapshot that can be read, an empty one if there is none, and why newer ones cannot be."""
    refused: list[str] = []
    for number in reversed(_numbers(folder)):
        try:
            tensors, about = registry.read(f"{folder.rstrip('/')}/{_name(number)}")
            columns = {name: opened(name, tensor.numpy()) for name, tensor in tensors.items()}
            return Snapshot(ItemStatistics.restore(columns, config), *_place(about)), refused
        except (HeadraceError, KeyError, ValueError, TypeError, AttributeError) as error:
            refused.append(f"{_name(number)}: {error}")
    return nothing(config), refused


def _place(about: dict) -> tuple[str, dict[int, int]]:
    source, offsets = str(about["source"]), {int(number): int(offset) for number, offset in about["offsets"].items()}
    if not source or min(offsets.values(), default=0) < 0:
        raise StateError(f"no place in a topic: {source!r}, {offsets}")
    return source, offsets


def _numbers(folder: str) -> list[int]:
    found = (_NAME.fullmatch(name) for name in registry.inside(folder))
    return sorted(int(match[1]) for match in found if match)


def _name(number: int) -> str:
    return f"statistics-{number:06d}"


def plain(column: np.ndarray) -> np.ndarray:
    """A type that every reader of safetensors knows: unsigned numbers as signed ones of the same bits."""
    return column.view(f"i{column.dtype.itemsize}") if column.dtype.kind == "u" else column


def opened(name: str, column: np.ndarray) -> np.ndarray:
    """A column as it was before `plain`."""
    return column.view(f"u{column.dtype.itemsize}") if name in ("keys", "user_keys", "log.event") else column
