"""Matrix factorisation that learns event by event: the comparison methods with a vector for every user and item.

Sources: Vinagre, Jorge and Gama, Fast Incremental Matrix Factorization for Recommendation with Positive-Only Feedback,
2014, doi:10.1007/978-3-319-08786-3_41 (ISGD). Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback,
2009, arXiv:1205.2618.
"""

import numpy as np

_FIRST = 0.1  # standard deviation of a new vector


class Vectors:
    """One vector a user, drawn when the user comes first."""

    def __init__(self, size: int, random: np.random.Generator) -> None:
        self.all, self._random, self._count = np.zeros((0, size)), random, 0

    def reach(self, user: int) -> None:
        """Make sure that there is a vector for this user and all before."""
        while user >= self._count:
            if self._count == len(self.all):
                more = np.zeros((max(64, 2 * len(self.all)), self.all.shape[1]))
                more[: len(self.all)] = self.all
                self.all = more
            self.all[self._count] = _FIRST * self._random.standard_normal(self.all.shape[1])
            self._count += 1


class Isgd:
    """Each event is a 1 to be approached by the product of two vectors; nothing is ever a 0."""

    def __init__(self, items: int, seed: int, size: int = 32, rate: float = 0.05, penalty: float = 0.01) -> None:
        random = np.random.default_rng(seed)
        self._users, self._items = Vectors(size, random), _FIRST * random.standard_normal((items, size))
        self._rate, self._penalty = rate, penalty

    def scores(self, user: int, history: np.ndarray) -> np.ndarray:
        self._users.reach(user)
        return self._items @ self._users.all[user]

    def learn(self, user: int, history: np.ndarray, row: int) -> None:
        self._users.reach(user)
        p, q = self._users.all[user], self._items[row]
        error = 1.0 - p @ q
        p += self._rate * (error * q - self._penalty * p)
        q += self._rate * (error * p - self._penalty * q)


class Bpr:
    """What was chosen ranks above what was not: steps on the new event and on some earlier ones, other items drawn."""

    def __init__(
        self,
        items: int,
        seed: int,
        size: int = 32,
        rate: float = 0.05,
        penalty: float = 0.002,
        replayed: int = 15,
        kept: int = 200_000,
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._users, self._items = Vectors(size, self._random), _FIRST * self._random.standard_normal((items, size))
        self._bias = np.zeros(items)
        self._rate, self._penalty, self._replayed = rate, penalty, replayed
        self._kept, self._count = np.zeros((kept, 2), np.int64), 0  # (user, row) of the newest events, in a ring

    def scores(self, user: int, history: np.ndarray) -> np.ndarray:
        self._users.reach(user)
        return self._items @ self._users.all[user] + self._bias

    def learn(self, user: int, history: np.ndarray, row: int) -> None:
        self._users.reach(user)
        self._kept[self._count % len(self._kept)] = user, row
        self._count += 1
        drawn = self._random.integers(0, min(self._count, len(self._kept)), self._replayed)
        users, rows = np.vstack(((user, row), self._kept[drawn])).T
        others = self._random.integers(0, len(self._items), len(rows))
        self._step(users[rows != others], rows[rows != others], others[rows != others])

    def _step(self, users: np.ndarray, rows: np.ndarray, others: np.ndarray) -> None:
        """Shape: users, rows, others (b,)."""
        p, q, o = self._users.all[users], self._items[rows], self._items[others]
        margin = ((q - o) * p).sum(1) + self._bias[rows] - self._bias[others]
        push = (1 / (1 + np.exp(np.clip(margin, -30, 30))))[:, None]  # (b, 1)
        rate, penalty = self._rate, self._penalty
        np.add.at(self._users.all, users, rate * (push * (q - o) - penalty * p))
        np.add.at(self._items, rows, rate * (push * p - penalty * q))
        np.add.at(self._items, others, rate * (-push * p - penalty * o))
        np.add.at(self._bias, rows, rate * (push[:, 0] - penalty * self._bias[rows]))
        np.add.at(self._bias, others, rate * (-push[:, 0] - penalty * self._bias[others]))
