"""The live twin of the prequential evaluation: was what a user did next on the list that the user had?

    a list is made ─► kept for its user ─► the user's next event ─► a hit? at which place? ─► its version's figures

Beside it stands what decayed popularity would have shown, without the items that the user had consumed. Figures are
means over a sliding window of events, one for each model version.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from model import consumed
from model.metrics import K, gains
from model.schema import Request

FIGURES = ("hr_at_10", "ndcg_at_10", "popularity_hr_at_10", "popularity_ndcg_at_10")
_GAINS = [*gains(np.arange(K)).tolist(), 0.0]  # of a place; the last one of a miss
_MISS = K


class LastList(NamedTuple):
    """The first K items of a list and of decayed popularity, as item keys, best first."""

    version: str
    items: Sequence[int]
    popular: Sequence[int]


class Window:
    """A version's newest events, each with the place of its item on the list and among the popular, or `_MISS`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: deque[tuple[int, int]] = deque()
        self._sums = np.zeros(4)  # hits, gains, and those of popularity

    def add(self, place: int, popular: int) -> None:
        self._places.append((place, popular))
        self._sums += _counted(place, popular)
        if len(self._places) > self._most:
            self._sums -= _counted(*self._places.popleft())

    def figures(self) -> dict[str, float]:
        """How many events, and the means over them."""
        means = (self._sums / max(1, len(self._places))).tolist()
        return {"events": float(len(self._places))} | dict(zip(FIGURES, means))


def _counted(place: int, popular: int) -> np.ndarray:
    return np.array([place < _MISS, _GAINS[place], popular < _MISS, _GAINS[popular]])


class OnlineMetrics:
    """Keeps the last list of each user, and the figures of the last few versions.

    Args:
        window: events that the figures are means over.
        users: whose lists are kept, those whose lists came last.
        versions: whose figures are kept, those that were shown last.
    """

    def __init__(self, window: int = 2_000, users: int = 100_000, versions: int = 4) -> None:
        self._window, self._most_users, self._most_versions = window, users, versions
        self._shown: OrderedDict[str, LastList] = OrderedDict()
        self._windows: OrderedDict[str, Window] = OrderedDict()

    def show(self, user_id: str, shown: LastList) -> None:
        """Keep the list that a user has now."""
        self._shown[user_id] = shown
        self._shown.move_to_end(user_id)
        if len(self._shown) > self._most_users:
            self._shown.popitem(last=False)

    def forget(self, user_id: str) -> None:
        """Drop the list of a user; the figures name nobody."""
        self._shown.pop(user_id, None)

    def come(self, user_id: str, item_key: int) -> str | None:
        """Judge the user's list by the item that came; the list stays until `show` brings a newer one.

        Returns:
            The version whose figures have changed, None if the user had no list.
        """
        shown = self._shown.get(user_id)
        if shown is None:
            return None
        window = self._windows.setdefault(shown.version, Window(self._window))
        self._windows.move_to_end(shown.version)
        if len(self._windows) > self._most_versions:
            self._windows.popitem(last=False)
        window.add(*(_place(item_key, items) for items in (shown.items, shown.popular)))
        return shown.version

    def figures(self, version: str) -> dict[str, float]:
        """The figures of a version; zeros for one that is not known."""
        return self._windows.get(version, Window(0)).figures()


def _place(item_key: int, items: Sequence[int]) -> int:
    return items.index(item_key) if item_key in items else _MISS


def first_left(
    requests: Sequence[Request], items: list[int], exclude_s: Mapping[str, float], k: int
) -> list[list[int]]:
    """For each request the first k of these item keys, without those of items that its user must not be shown now."""
    if not items:
        return [[] for _ in requests]
    rows, owner = consumed.opened_together([request.consumed for request in requests])
    now_s = np.array([request.event_time_ms for request in requests], np.int64)[owner] / 1_000
    out = consumed.excluded(rows, now_s, exclude_s)
    had, user, wanted = rows["fingerprint"][out], owner[out], consumed.fingerprints(np.array(items, np.uint64))
    order = np.argsort(wanted)
    column = order[np.searchsorted(wanted[order], had).clip(max=len(items) - 1)]
    same = wanted[column] == had
    left = np.ones((len(requests), len(items)), bool)
    left[user[same], column[same]] = False
    return [[items[at] for at in np.flatnonzero(row)[:k].tolist()] for row in left]
