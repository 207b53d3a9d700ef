"""Reads the log `training-examples`, for whoever counts it or learns from it: both take the same examples."""

import math
import time
from typing import NamedTuple

from kafka.consumer.fetcher import ConsumerRecord

from model import interest
from model.schema import Example, InvalidRecord, decode_example, decoded

FORGOTTEN = 100_000
"""So many of the users who were forgotten last are known, so that what was written before it cannot come after it."""


def read_example(raw: bytes, latest_ms: float = math.inf) -> Example:
    """Decode one record of `training-examples` and see whether its interests can be learnt from.

    Args:
        latest_ms: nothing that the job lets in is later.

    Raises:
        InvalidRecord: nothing can be learnt from it.
        StateError: its interests are of another layout, cut short, or hold what no job has written.
    """
    example = decode_example(raw)
    newest_ms = max(example.event_time_ms, interest.latest_ms(interest.decode(example.interests)))
    if newest_ms > latest_ms:
        raise InvalidRecord(
            f"the example tells of {newest_ms} ms, which is in the future: {latest_ms:.0f} is the latest"
        )
    return example


class Forgotten(NamedTuple):
    """When a user was forgotten, and in which partition it is written."""

    partition: int
    timestamp: int
    event_time_ms: int

    def covers(self, record: ConsumerRecord, example: Example) -> bool:
        """Whether an example that is read after it is older: it lies in another partition, and one of its times says
        so. In its own partition what follows it is newer.
        """
        older = record.timestamp <= self.timestamp or example.event_time_ms <= self.event_time_ms
        return record.partition != self.partition and older


class ExampleReader:
    """Reads records in the order in which they come, and knows who was forgotten.

    Args:
        max_future_s: how far the job lets events lie in the future.
    """

    def __init__(self, max_future_s: float) -> None:
        self._max_future_ms = max_future_s * 1_000
        self._forgotten: dict[str, Forgotten] = {}

    def read(self, record: ConsumerRecord) -> Example | str | None:
        """The example; why it cannot be read; or None where it is older than what forgot its user."""
        latest_ms = time.time() * 1_000 + 2 * self._max_future_ms  # twice: the job's clock may be ahead of this one
        example = decoded(record.value, lambda raw: read_example(raw, latest_ms))
        if isinstance(example, str):
            return example
        forgotten = self._forgotten.get(example.user_id)
        if forgotten is not None and not example.forget and forgotten.covers(record, example):
            return None
        if example.forget:
            self._forget(record, example)
        return example

    def _forget(self, record: ConsumerRecord, example: Example) -> None:
        self._forgotten.pop(example.user_id, None)
        self._forgotten[example.user_id] = Forgotten(record.partition, record.timestamp, example.event_time_ms)
        if len(self._forgotten) > FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]
