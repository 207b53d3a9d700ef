"""Peers: the newest items of other users, kept so that a scorer finds who had the same, and what they took around it.

    last items ─► who had them too, lately ─► those most alike ─► what stands near the shared items in their histories

Source: Ludewig and Jannach, Evaluation of session-based recommendation algorithms, 2018, arXiv:1803.09587 (session
kNN).
"""

import numpy as np
import torch.nn.functional as F

from model.score import Scorer
from model.scoring.table import LENGTH, NEAR, PLACES


class Peers:
    """Writes users' newest items into a scorer: a ring of items for each user, a ring of places for each item.

    Args:
        most: users kept, those who were there last.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._row_of: dict[str, int] = {}  # who was there last stands last
        self._taken: list[int] = []  # by each of them, in all
        self._free: list[int] = []
        self._seen = np.zeros(0, np.int64)  # how often each item was, in all

    def add(self, scorer: Scorer, users: list[str], items: list[int]) -> None:
        """Write that each user took the item, in this order."""
        self._reserve(scorer, len(set(users)))
        taken, places = scorer.peers_taken.numpy(), scorer.peers_places.numpy()
        self._seen = np.pad(self._seen, (0, len(places) - len(self._seen)))
        for user, item in zip(users, items):
            row = self._row(scorer, user)
            at = self._taken[row] % LENGTH
            taken[row, at] = item
            self._empty(taken, places, row, (at + NEAR) % LENGTH)  # the oldest items do not follow the newest
            places[item, self._seen[item] % PLACES] = row * LENGTH + at
            self._taken[row] += 1
            self._seen[item] += 1

    def _reserve(self, scorer: Scorer, more: int) -> None:
        """Room for so many more users, or for all that may be kept."""
        wanted = min(self._most, len(self._taken) + more)
        if wanted > len(scorer.peers_taken):
            rows = min(self._most, 2 * wanted) - len(scorer.peers_taken)
            scorer.peers_taken = F.pad(scorer.peers_taken, (0, 0, 0, rows), value=-1)

    def _row(self, scorer: Scorer, user: str) -> int:
        """The user's row; a new user may take that of the one who was there longest ago."""
        if user not in self._row_of:
            if not self._free and len(self._taken) >= self._most:
                self.forget(scorer, next(iter(self._row_of)))
            if not self._free:
                self._free.append(len(self._taken))
                self._taken.append(0)
            self._row_of[user] = self._free.pop()
        self._row_of[user] = row = self._row_of.pop(user)
        return row

    @staticmethod
    def _empty(taken: np.ndarray, places: np.ndarray, row: int, at: int) -> None:
        """Delete what a user took at one time, in both rings."""
        item = taken[row, at]
        if item >= 0:
            places[item][places[item] == row * LENGTH + at] = -1
            taken[row, at] = -1

    def forget(self, scorer: Scorer, user_id: str) -> None:
        """Delete a user's items, and the places that led to them."""
        row = self._row_of.pop(user_id, None)
        if row is not None:
            taken, places = scorer.peers_taken.numpy(), scorer.peers_places.numpy()
            for at in np.flatnonzero(taken[row] >= 0):
                self._empty(taken, places, row, at)
            self._taken[row] = 0
            self._free.append(row)
