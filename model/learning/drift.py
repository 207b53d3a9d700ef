"""Drift: tells when what users choose is no longer what it was, so that learning need not wait for its turn.

    hits of the version that serves, on examples before they are counted ──► fewer than before? ──┐
    how surprising the item that came is, beside what was chosen lately ───► more than before? ───┴─► learn now

Each stream of numbers goes through ADWIN of river, which keeps a window as long as its mean stays the same. A change
for the better, as learning itself brings one, is no drift.

Source: Bifet and Gavaldà, Learning from Time-Changing Data, 2007, doi:10.1137/1.9781611972771.42 (ADWIN).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from model.schema import Example, item_key
from model.scoring.retrieve import UNSEEN
from model.statistics import HALF_LIFE_2K, ItemStatistics

UNSETTLED = 3_000
"""Examples after a change that are learnt from as soon as there are enough for a version."""
_SURE = 0.002  # ADWIN's delta: how likely a false alarm is, at each look
_STEP = 32  # numbers between two looks
_LEAST = 1e-3  # a change of a mean by less is none


class Mean:
    """The mean of a stream of numbers since it changed last."""

    def __init__(self) -> None:
        from river.drift import ADWIN

        self._window = ADWIN(delta=_SURE, clock=_STEP)

    def moved(self, numbers: Iterable[float]) -> float:
        """Take more numbers; by how much the mean went up or down where it changed, 0 where it did not."""
        moved = 0.0
        for number in numbers:
            before = self._window.estimation
            self._window.update(number)
            if self._window.drift_detected:
                moved += self._window.estimation - before
        return moved


class Drift:
    """Watches hits and surprises; `detected` counts how often either got worse."""

    def __init__(self) -> None:
        self._hits, self._surprises, self.detected = Mean(), Mean(), 0
        self._unsettled = 0  # examples for which learning is still to come early

    def watch(self, hits: Sequence[float], surprises: Sequence[float]) -> bool:
        """Take what came of some examples, in their order; whether to learn early: things were not what they had been,
        now or at most `UNSETTLED` examples ago, for the first ones after a change are too few to learn it from.
        """
        worse = self._hits.moved(hits) < -_LEAST
        worse |= self._surprises.moved(surprises) > _LEAST
        self.detected += worse
        self._unsettled = UNSETTLED if worse else max(0, self._unsettled - len(surprises))
        return self._unsettled > 0


def surprises(statistics: ItemStatistics, examples: Sequence[Example]) -> list[float]:
    """For each item that came, -log of its share of the last 2,000 choices, old ones fading, as counted by now."""
    rows = np.array([statistics.row_of.get(item_key(one.item_id), -1) for one in examples], np.int64)
    factor = statistics.factors()[HALF_LIFE_2K]
    chosen = np.zeros(len(rows))
    chosen[rows >= 0] = statistics.items.chosen[rows[rows >= 0], HALF_LIFE_2K] * factor
    total = statistics.items.totals[HALF_LIFE_2K] * factor + UNSEEN * max(1, len(statistics))
    return (-np.log((chosen + UNSEEN) / total)).tolist()
