"""What is counted of items and of users alike, from the log `training-examples`, by whoever needs it.

    an example ─► the log of the newest events ─┬─► popularities, old choices fading
                  (who, what, when; who before) ├─► pairs of items near each other ─► the strongest partners of each
                                                └─► who else had an item lately, and what stands around it (session kNN)

The scoring workers, the learner and the evaluation each keep their own `ItemStatistics`: they read the same log and
count by the same code, so nothing of it travels with a model version. One that starts takes the newest snapshot and
reads on from the log's offsets that are in it.

Memory follows what is active: an item has rows once it was chosen, a row grows with its partners up to `most_partners`,
and the log holds the newest `most_events`. An example is counted in microseconds (model/counting.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from model import columns as checked
from model import counting
from model.bounds import StatisticsConfig
from model.counting import POPULARITIES, Items, Log, Pairs, Rule, Users
from model.schema import Example, StateError, event_key, item_key

HALF_LIVES = tuple(one.half_life for one in POPULARITIES)
"""Popularity is counted with these half-lives, in events."""
EVER, HALF_LIFE_20K, HALF_LIFE_2K, HALF_LIFE_200, FIRST_5, FIRST_20 = range(len(POPULARITIES))
PAIRS = {
    "transitions": Rule(half_life=float("inf"), lags=10, decay=0.85, shrink=5.0),
    "recent-transitions": Rule(half_life=5_000.0, lags=10, decay=0.85, shrink=2.0),
    "next": Rule(half_life=2_000.0, lags=5, decay=0.5, shrink=2.0, both_ways=False, within_ms=20_000),
}
"""Counted tables of pairs, by name."""
LAYOUT = 2
_FIRST_ROWS, _FIRST_SLOTS, _FIRST_EVENTS = 1_024, 1 << 16, 4_096
_CHUNK = 256  # examples counted between two looks at the room that is left
_POPULAR_FOR = 100  # examples, after which what is popular is looked for again
_MOST_EXPONENT = 60.0  # weights are kept as of a base event, and brought to a new one before they grow beyond 2**60


class Counted(NamedTuple):
    """Examples as numbers, one entry each; item and user keys are 64-bit hashes of their ids."""

    items: list[int]
    users: list[int]
    events: list[int]
    times_ms: list[int]


class ItemStatistics:
    """Everything counted of items and of users alike. Not for two threads at once.

    `seen` is how many examples it has counted; one that comes again is passed over. `forgotten` is how many users were
    taken out: only then does any popularity fall that did not fade.

    Shape: keys (m,) uint64 of the items that were chosen, in the order in which they came.
    """

    def __init__(self, config: StatisticsConfig = StatisticsConfig()) -> None:
        self.config = config
        self.seen = self.revision = self.forgotten = 0
        self._popular: tuple[int, list[int]] | None = None
        self.row_of: dict[int, int] = {}
        self._user_row: dict[int, int] = {}
        self._free_users: list[int] = []
        self._keys = np.zeros(_FIRST_ROWS, np.uint64)
        self._user_keys = np.zeros(_FIRST_ROWS, np.uint64)
        self.log = counting.new_log(min(_FIRST_EVENTS, config.most_events))
        self.users, self.items = counting.new_users(), counting.new_items()
        self.pairs = {name: counting.new_pairs(min(_FIRST_SLOTS, config.most_pairs // len(PAIRS))) for name in PAIRS}
        self.bases = np.zeros(len(HALF_LIVES) + len(PAIRS), np.int64)
        """The event as of which each popularity and each table is kept."""

    @property
    def keys(self) -> np.ndarray:
        return self._keys[: len(self.row_of)]

    def __len__(self) -> int:
        return len(self.row_of)

    def user_row(self, user_id: str) -> int:
        """The row of a user, -1 for one who is not known."""
        return self._user_row.get(item_key(user_id), -1)

    def apply(self, examples: Iterable[Example]) -> None:
        """Count examples in their order; one that forgets its user takes out all that the user added."""
        waiting = Counted([], [], [], [])
        for example in examples:
            if example.forget:
                self._count(waiting)
                waiting = Counted([], [], [], [])
                self.forget(example.user_id)
            else:
                waiting.items.append(item_key(example.item_id))
                waiting.users.append(item_key(example.user_id))
                waiting.events.append(event_key(example.event_id))
                waiting.times_ms.append(example.event_time_ms)
        self._count(waiting)

    def has(self, example: Example) -> bool:
        """Whether an example was counted, as far as the log goes back."""
        user = self.user_row(example.user_id)
        event = event_key(example.event_id)
        return user >= 0 and bool(
            counting.find(self.log, self.users, self.seen, user, event, example.event_time_ms) >= 0
        )

    def _count(self, new: Counted) -> None:
        for start in range(0, len(new.items), _CHUNK):
            self._count_some(Counted(*(column[start : start + _CHUNK] for column in new)))

    def _count_some(self, new: Counted) -> None:
        for key in new.items:
            self.row_of.setdefault(key, len(self.row_of))
        self._reserve(len(new.items))
        items = np.array([self.row_of[key] for key in new.items], np.int32)
        self._keys[items] = new.items
        users = np.array([self._row_for_user(key) for key in new.users], np.int32)
        events = np.array(new.events, np.uint32)
        times = np.array(new.times_ms, np.int64)
        gone = np.zeros(len(items) + 1, np.int32)
        self.seen = counting.apply(
            self.log, self.users, self.items, tuple(self.pairs.values()), tuple(PAIRS.values()),
            self.bases, self.seen, self.config.most_partners, items, users, events, times, gone,
        )  # fmt: skip
        for user in gone[1 : 1 + gone[0]].tolist():  # whose last event has left the log
            if self.users.newest[user] < 0:  # and who did not come back since
                self._drop_user(user)
        self.revision += 1

    def _row_for_user(self, key: int) -> int:
        row = self._user_row.get(key)
        if row is None:
            row = self._free_users.pop() if self._free_users else len(self._user_row)
            self._user_row[key], self._user_keys[row] = row, key
        return row

    def _drop_user(self, row: int) -> None:
        if self._user_row.pop(int(self._user_keys[row]), None) is not None:
            counting.clear_user(self.users, row)
            self._free_users.append(row)

    def forget(self, user_id: str) -> None:
        """Take out all that a user added, as far as the log goes back; what is older is in sums only, and fades."""
        row = self.user_row(user_id)
        if row >= 0:
            counting.forget(
                self.log, self.users, self.items, tuple(self.pairs.values()), tuple(PAIRS.values()),
                self.bases, self.seen, row,
            )  # fmt: skip
            self._drop_user(row)
            self._popular = None
            self.revision += 1
            self.forgotten += 1

    def _reserve(self, examples: int) -> None:
        """Room for what so many examples may add; weights are brought to a new base before they grow too large."""
        self._keys = grown(self._keys, len(self.row_of))
        self._user_keys = grown(self._user_keys, len(self._user_row) + examples)
        self.users = Users(
            *(grown(column, len(self._user_keys), _EMPTY_USER[name]) for name, column in named(self.users))
        )
        self.items = self.items._replace(
            **{name: grown(getattr(self.items, name), len(self._keys), empty) for name, empty in _EMPTY_ITEM.items()}
        )
        for name, pairs in self.pairs.items():
            self.pairs[name] = self._with_room(pairs)
        if self.seen + examples > len(self.log.item) and len(self.log.item) < self.config.most_events:
            room = min(self.config.most_events, 2 * (len(self.log.item) + examples))
            if self.seen <= len(self.log.item):  # it has not gone round yet: a place is the number of its event
                self.log = Log(*(resized(column, room) for column in self.log))
        self._rebase()

    def _with_room(self, pairs: Pairs) -> Pairs:
        """Rows for all items, and slots for new partners while all tables together have less than `most_pairs`."""
        rows = Pairs(
            *(grown(column, len(self._keys)) if name in _PAIR_ROWS else column for name, column in named(pairs))
        )
        slots, left = len(rows.partner), self.config.most_pairs - sum(len(one.partner) for one in self.pairs.values())
        if slots - int(rows.top[0]) > max(slots, 2 * _FIRST_SLOTS) // 4 or left <= 0:
            return rows
        more = slots + min(left, max(_FIRST_SLOTS, slots))
        return rows._replace(partner=resized(rows.partner, more), weight=resized(rows.weight, more))

    def _rebase(self) -> None:
        half_lives = (*HALF_LIVES, *(rule.half_life for rule in PAIRS.values()))
        for at, half_life in enumerate(half_lives):
            exponent = (self.seen - self.bases[at]) / half_life
            if exponent > _MOST_EXPONENT:
                factor = 0.5**exponent
                for column in self._faded_columns(at):
                    column *= column.dtype.type(factor)
                self.bases[at] = self.seen

    def _faded_columns(self, at: int) -> Sequence[np.ndarray]:
        if at < len(HALF_LIVES):
            return self.items.chosen[:, at], self.items.totals[at : at + 1]
        pairs = list(self.pairs.values())[at - len(HALF_LIVES)]
        return pairs.weight, pairs.total

    def factors(self) -> np.ndarray:
        """What turns what is kept of each popularity and each table into its weight now; (HALF_LIVES + PAIRS,)."""
        half_lives = np.array([*HALF_LIVES, *(rule.half_life for rule in PAIRS.values())])
        return 0.5 ** ((self.seen - self.bases) / half_lives)

    def popularity(self) -> np.ndarray:
        """How often each item was chosen, old choices fading; (m, HALF_LIVES) float64."""
        return self.items.chosen[: len(self)] * self.factors()[: len(HALF_LIVES)]

    def partners(self, name: str, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The strongest partners of items in a table, best first; rows (r,) -> items (r, width) int32, -1 for none, and
        their shares of all that the row has (r, width) float32.
        """
        rule, place = PAIRS[name], len(HALF_LIVES) + list(PAIRS).index(name)
        return counting.partners(self.pairs[name], rows, width, self.factors()[place], rule.shrink)

    def changed_since(self, seen: int) -> np.ndarray:
        """The rows of items of which something was counted at or after this example; (c,)."""
        return np.flatnonzero(self.items.changed[: len(self)] >= seen)

    def popular(self, most: int = 500) -> list[int]:
        """The keys of the items most chosen lately, best first; of a moment ago at most."""
        if self._popular is None or self.seen - self._popular[0] > _POPULAR_FOR:
            chosen = self.items.chosen[: len(self), HALF_LIFE_20K]
            best = np.argsort(-chosen, kind="stable")[:most]
            self._popular = self.seen, self.keys[best[chosen[best] > 0]].tolist()
        return self._popular[1]

    def used_bytes(self) -> int:
        """Memory that the columns take."""
        columns = [*self.log, *self.users, *self.items, self._keys, self._user_keys]
        columns += [column for pairs in self.pairs.values() for column in pairs]
        return sum(column.nbytes for column in columns)

    def snapshot(self) -> dict[str, np.ndarray]:
        """Columns from which `restore` goes on, by name."""
        items, events = len(self.row_of), min(self.seen, len(self.log.item))
        known = np.array([*self._user_row.values()], np.int64)
        number = np.full(len(self._user_keys) + 1, -1, np.int32)  # rows without gaps; the last entry is for nobody's
        number[known] = np.arange(len(known))
        columns: dict[str, np.ndarray] = {"keys": self._keys[:items], "user_keys": self._user_keys[known]}
        columns |= {"numbers": np.array([LAYOUT, self.seen], np.int64), "bases": self.bases}
        columns |= {f"log.{name}": column[:events] for name, column in named(self.log)}
        columns["log.user"] = number[columns["log.user"]]
        columns |= {f"users.{name}": column[known] for name, column in named(self.users)}
        columns |= {f"items.{name}": getattr(self.items, name)[:items] for name in _EMPTY_ITEM}
        columns["totals"] = self.items.totals
        for table, pairs in self.pairs.items():
            columns |= {f"{table}.{name}": part for name, part in named(counting.packed(pairs, items))}
        return {name: np.ascontiguousarray(column) for name, column in columns.items()}

    @classmethod
    def restore(
        cls, columns: Mapping[str, np.ndarray], config: StatisticsConfig = StatisticsConfig()
    ) -> "ItemStatistics":
        """Go on from a snapshot.

        Raises:
            StateError: it is of another layout, or does not fit together.
        """
        self = cls(config)
        try:
            layout, seen = columns["numbers"].tolist()
            if layout != LAYOUT:
                raise StateError(f"item statistics of layout {layout}: layout {LAYOUT} can be read")
            self._restore(columns, seen)
        except (KeyError, ValueError, IndexError, TypeError, OverflowError, MemoryError) as error:
            raise StateError(f"item statistics cannot be read: {type(error).__name__}: {error}") from None
        self.revision += 1
        return self

    def _restore(self, columns: Mapping[str, np.ndarray], seen: int) -> None:
        self.seen, self.bases = seen, columns["bases"].copy()
        self._keys, self._user_keys = columns["keys"].copy(), columns["user_keys"].copy()
        self.row_of, self._user_row = _numbered(self._keys), _numbered(self._user_keys)
        self.log = Log(*(columns[f"log.{name}"].copy() for name in Log._fields))
        self.users = Users(*(columns[f"users.{name}"].copy() for name in Users._fields))
        of_items = {name: columns[f"items.{name}"].copy() for name in _EMPTY_ITEM}
        self.items = Items(**of_items, totals=columns["totals"].copy())
        self.pairs = {name: Pairs(*(columns[f"{name}.{part}"].copy() for part in Pairs._fields)) for name in PAIRS}
        self._check()
        self._fit_log()

    def _check(self) -> None:
        """See that what was restored fits together."""
        if len(self._user_row) != len(self.users.newest):
            raise ValueError(f"{len(self._user_row)} users have {len(self.users.newest)} rows")
        if self.bases.dtype != np.int64 or self.bases.shape != (len(HALF_LIVES) + len(PAIRS),):
            raise ValueError(f"bases are {self.bases.dtype} {self.bases.shape}")
        if not min(1, self.seen) <= len(self.log.item) <= self.seen:
            raise ValueError(f"{len(self.log.item)} events of {self.seen}")
        checked.check(len(self.row_of), self.log, self.users, self.items, self.pairs.values())

    def _fit_log(self) -> None:
        """Where the bound is another one than that of who wrote the snapshot, keep as many events as it allows."""
        places, most = len(self.log.item), self.config.most_events
        if self.seen == places and places <= most:  # it has not gone round yet, and may grow
            first = max(places, min(_FIRST_EVENTS, most))
            self.log = Log(*(resized(column, first) for column in self.log))
        elif places != most:
            self.log, moved = counting.with_length(self.log, self.seen, most)
            for newest in (self.users.newest, self.items.newest):
                newest[:] = counting.follow(moved, newest)
        for row in [row for row in self._user_row.values() if self.users.newest[row] < 0]:
            self._drop_user(row)


_EMPTY_USER: dict[str, int] = {"newest": -1, "step": 0, "events": 0, "share": 0}
_EMPTY_ITEM: dict[str, int] = {"newest": -1, "chosen": 0, "first": -1, "changed": -1}
_PAIR_ROWS = {"start", "used", "room", "total"}


def named(columns: NamedTuple) -> Iterable[tuple[str, np.ndarray]]:
    return columns._asdict().items()


def grown(column: np.ndarray, wanted: int, empty: int = 0) -> np.ndarray:
    """The column with room for so many rows, twice as many where it has to grow."""
    return column if wanted <= len(column) else resized(column, max(_FIRST_ROWS, 2 * wanted), empty)


def resized(column: np.ndarray, rows: int, empty: int = 0) -> np.ndarray:
    larger = np.full((rows, *column.shape[1:]), empty, column.dtype)
    larger[: len(column)] = column
    return larger


def _numbered(keys: np.ndarray) -> dict[int, int]:
    return dict(zip(keys.tolist(), range(len(keys))))
