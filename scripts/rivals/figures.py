"""What the comparison makes of times: speeds, ratios, quantiles. Nothing here needs Kafka or Flink."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from model.schema import HeadraceError
from scripts.rivals.ways import way_of

BURST_GAP_MS = 1_000.0
"""A way that writes nothing for so long, again and again, writes in bursts."""


class CompareError(HeadraceError):
    """The comparison cannot be made: what is in the way, what to do."""


class Run(NamedTuple):
    """What came of one way: lists a second, and how long they kept a core busy, the broker's work left out."""

    per_s: float
    cpu_ms: float  # a list


def speed(times_ms: Sequence[float] | np.ndarray, repeats: int) -> float:
    """Lists a second: the median over so many equal parts of what came after the first fifth, which is a warm-up.

    >>> speed([0, 900, *range(1_000, 9_000, 1_000)], repeats=2)
    1.0

    Where lists come in bursts, as PyFlink's bundles do in process mode, it is what came from the first burst's end to
    the last one's: two tasks take turns with theirs, so the time from one to the next tells nothing.

    >>> speed([0, 1, 2_000, 2_001, 4_000, 4_001, 6_000, 6_001], repeats=2)
    1.0

    Raises:
        CompareError: too few lists came.
    """
    times = np.sort(np.asarray(times_ms, dtype=float))
    ends = _burst_ends(times)[[0, -1]] if len(_burst_ends(times)) else np.zeros(0, int)
    if not len(ends):
        ends = np.linspace(len(times) // 5, len(times) - 1, repeats + 1).astype(int)
    if len(ends) < 2 or len(times) <= repeats or not (np.diff(times[ends]) > 0).all():
        raise CompareError(f"{len(times)} lists came: too few to tell a speed")
    return median((np.diff(ends) / np.diff(times[ends]) * 1_000).tolist())


def _burst_ends(times: np.ndarray) -> np.ndarray:
    """The last list of each burst; empty where lists come all the time."""
    gaps = np.diff(times)
    long = gaps >= BURST_GAP_MS
    if gaps[long].sum() <= 0.5 * gaps.sum():
        return np.zeros(0, int)
    return np.append(np.flatnonzero(long), len(times) - 1)


def ratios(per_s: dict[str, float]) -> dict[str, float]:
    """How many times as fast as each of the others Headrace is at the same parallelism.

    >>> ratios({"headrace": 300.0, "quix": 100.0, "bare_loop": 400.0, "quix_parallelism_2": 150.0})
    {'quix': 3.0, 'bare_loop': 0.75}
    """
    ours = {parallelism: per_s.get(name) for name in per_s for way, parallelism in [way_of(name)] if way == "headrace"}
    others = {name: ours.get(way_of(name)[1]) for name in per_s if not name.startswith("headrace")}
    return {name: round(headrace / per_s[name], 2) for name, headrace in others.items() if headrace}


def quantiles_ms(seconds: Sequence[float], levels: Sequence[float]) -> dict[str, float]:
    """Quantiles of times, in ms, by name.

    >>> quantiles_ms([0.1, 0.2, 0.3], (0.5, 0.99))
    {'p50': 200.0, 'p99': 298.0}
    """
    found = np.quantile(np.asarray(seconds) * 1_000, levels).tolist()
    return {f"p{level * 100:g}": round(one, 1) for level, one in zip(levels, found)}


def drift(per_s: Sequence[float]) -> float:
    """How many times as fast the machine was at its best as at its worst, by a way that was run again and again.

    >>> drift([1_500.0, 1_200.0, 1_400.0])
    1.25

    Returns:
        0 where it was run once.
    """
    return round(max(per_s) / min(per_s), 2) if len(per_s) > 1 else 0.0


def delays_s(sent: Sequence[tuple[float, str]], lists: Iterable[tuple[float, int, str]], before: int) -> list[float]:
    """How long after each example was sent the first list of another user came that knows of it.

    The examples are the only ones that were sent, so a list knows of the first n of them where its statistics have
    counted n more than before.

    Args:
        sent: when and of which user, in this order.
        lists: arrival, `examples_seen`, user.
        before: examples that had been counted before the first of these.

    >>> delays_s([(0.0, "a"), (1.0, "b")], [(0.5, 10, "c"), (0.7, 11, "a"), (0.9, 11, "c"), (1.25, 12, "c")], 10)
    [0.9, 0.25]

    Raises:
        CompareError: there is an example of which no list knows.
    """
    found, lists = [], sorted(lists)
    for number, (at, user) in enumerate(sent, 1):
        known = [arrival for arrival, seen, whose in lists if seen >= before + number and whose != user]
        if not known:
            raise CompareError(f"example {number} of {len(sent)}: no list of another user knows of it")
        found.append(known[0] - at)
    return found
