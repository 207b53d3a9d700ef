"""The order of a stream of past events."""

from collections.abc import Sequence

import numpy as np

from model.schema import Event


def drawn_order(events: Sequence[Event], seed: int | None) -> Sequence[Event]:
    """The events in time order; what came at one time came in no order: it is drawn.

    >>> [event.event_id for event in drawn_order([Event(name, "u", "view", 5, "i") for name in "abcd"], 0)]
    ['d', 'c', 'b', 'a']
    """
    if seed is None:
        return events
    drawn = np.random.default_rng(seed).random(len(events))
    times = np.array([event.event_time_ms for event in events], np.int64)
    return [events[at] for at in np.lexsort((drawn, times)).tolist()]
