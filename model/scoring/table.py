"""What a scorer knows of every item of a catalogue: what is trained, what is counted, what its text says.

    the version ───────┐
    item statistics ───┼─► a row for each item of the catalogue; `sync` computes what has changed since, no more
    catalogue's index ─┘

Columns live in numpy, where compiled loops read them; what a card needs of them it has a copy of.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch

from model import device
from model.catalogue import Catalogue
from model.jit import njit
from model.scoring.index import CatalogueIndex
from model.scoring.retrieve import BACK_OFF, LEAST, STANDING, UNSEEN, Sources
from model.scoring.threads import over_users
from model.signals import SIGNALS
from model.statistics import (
    EVER,
    FIRST_5,
    FIRST_20,
    HALF_LIFE_2K,
    HALF_LIFE_20K,
    HALF_LIFE_200,
    HALF_LIVES,
    PAIRS,
    ItemStatistics,
)

if TYPE_CHECKING:
    from model.score import Scorer

HEADS = 48
"""So many of the items most chosen, by each popularity that fades, are always looked at."""
KNOWN = 20
"""Choices after which an item that came late is one like the others."""
SAMPLE = 32
"""Items drawn that stand for all that are no candidates."""
EXACT_NETWORK = 16_384
"""On a CPU the network looks for its best among so many items, those most chosen."""
SEARCHED_FOR = 1_000
"""Examples after which it is looked again which items these are."""
MOST_NEW = 4_096
"""So many new items are looked at for exploration, those that came last."""
_HEADS_BY = (HALF_LIFE_20K, HALF_LIFE_2K, HALF_LIFE_200, FIRST_5, FIRST_20)


class ItemTable:
    """Rows of the catalogue's items as a scorer sees them.

    Shape: items (n, width) the network's vectors; statistics_row, trained_row (n,) rows of the statistics and of the
    network's ids, -1 for none; new (x,) rows of items that came late and were hardly chosen; heads (h,), sample (R,)
    rows; searched (s,) rows among which the network looks for its best, None for all.
    """

    statistics_row: np.ndarray
    trained_row: np.ndarray
    _items: np.ndarray
    _text: np.ndarray
    _keys: np.ndarray
    _late: np.ndarray
    _own: np.ndarray
    _bias: np.ndarray
    _standing: np.ndarray

    def __init__(self, scorer: "Scorer", statistics: ItemStatistics, index: CatalogueIndex) -> None:
        self.scorer, self.statistics, self.index = scorer, statistics, index
        self.device, self.encoder_version = scorer.device, index.catalogue.encoder_version
        self.dtype = device.dtype(self.device)
        self._has_copy = self.device.type != "cpu" or self.dtype != torch.float32
        self._changes, self._seen, self._revision, self._count = -1, -1, -1, 0
        self._room = self._forgotten = 0
        self._trained = _sorted(scorer.keys.numpy().view(np.uint64))
        self._popularity = float(scorer.network.popularity.detach())
        self._biases_of_ids = scorer.network.bias.detach().cpu().numpy()
        self._settled = np.sort(scorer.settled.numpy().view(np.uint64))
        self.catalogue_row = np.full(1, -1, np.int32)
        self._statistics = 0  # rows of it that are mapped
        self.heads = self.sample = np.zeros(0, np.int32)
        self.new = np.zeros(0, np.int64)
        self._unseen, self._unseen_of = UNSEEN, (-1, -1)
        self.searched: np.ndarray | None = None
        self._searched_at = 0
        self._searched_items: torch.Tensor | None = None
        self._make_room(0)
        self.sync()

    def __len__(self) -> int:
        return self._count

    def is_of(self, statistics: ItemStatistics, catalogue: Catalogue) -> bool:
        """Whether it follows these, and the encoder is still the same."""
        same = self.statistics is statistics and self.index.is_of(catalogue)
        return same and self.encoder_version == catalogue.encoder_version

    def _make_room(self, n: int) -> None:
        if n <= self._room and self._room:
            return
        width, dim = self.scorer.sizes.width, 1 if n < 1_024 else n // 4
        self._room = n + max(1_024, dim)
        for name, shape, kind, empty in (
            ("_items", (width,), np.float32, 0),
            ("_text", (width,), np.float32, 0),
            ("_keys", (), np.uint64, 0),
            ("statistics_row", (), np.int32, -1),
            ("trained_row", (), np.int32, -1),
            ("_late", (), bool, False),
            ("_own", (), np.float32, 0),
            ("_bias", (), np.float32, 0),
            ("_standing", (STANDING,), np.float32, 0),
        ):
            new = np.full((self._room, *shape), empty, kind)
            old = getattr(self, name, new[:0])
            new[: len(old)] = old
            setattr(self, name, new)
        self._card: dict[str, torch.Tensor] = {}

    def sync(self) -> None:
        """Take in what has changed in the catalogue and in the statistics since the last call."""
        statistics, index = self.statistics, self.index
        index.sync()
        if (index.changes, statistics.seen, statistics.revision) == (self._changes, self._seen, self._revision):
            return
        rows = index.changed_since(self._changes) if self._changes >= 0 else np.arange(len(index))
        catalogue_changed = self._changes != index.changes
        if catalogue_changed:
            self._take_in(rows)
        counted = self._take_in_statistics()
        stale = np.unique(np.concatenate((rows, counted))) if len(counted) else rows
        if self._unseen_is_old():
            stale = np.arange(self._count)
        self._update_items(stale)
        if catalogue_changed or statistics.revision != self._revision:
            self._follow_popularity(catalogue_changed)
        self._changes, self._seen, self._revision = index.changes, statistics.seen, statistics.revision

    @torch.inference_mode()
    def _take_in(self, rows: np.ndarray) -> None:
        """Map the items of these rows, and those that were there before."""
        catalogue, n = self.index.catalogue, len(self.index)
        gone = np.concatenate((rows[rows < self._count], np.arange(n, self._count)))
        before = self.statistics_row[gone]
        self.catalogue_row[before[before >= 0]] = -1
        self._make_room(n)
        self._count = n
        keys = catalogue.keys[rows]
        self._keys[rows] = keys
        row_of = self.statistics.row_of
        known = np.fromiter((row_of.get(key, -1) for key in keys.tolist()), np.int32, len(keys))
        self.statistics_row[rows] = np.where(known < self._statistics, known, -1)
        there = (known >= 0) & (known < self._statistics)
        self.catalogue_row[known[there]] = rows[there]
        self.trained_row[rows] = trained = _find(*self._trained, keys)
        self._own[rows] = np.where(trained >= 0, np.append(self._biases_of_ids, 0.0)[trained], 0.0)
        at = np.searchsorted(self._settled, keys).clip(max=max(0, len(self._settled) - 1))
        self._late[rows] = self._settled[at] != keys if len(self._settled) else True
        self._text[rows] = self._projected(catalogue.vectors[rows])
        self._open_fitted()

    def _projected(self, vectors: np.ndarray) -> np.ndarray:
        network = self.scorer.network
        wanted = torch.from_numpy(np.ascontiguousarray(vectors)).view(len(vectors), network.sizes.dim)
        return network.project(wanted.to(self.device)).float().cpu().numpy()

    def _open_fitted(self) -> None:
        """The tables fitted in closed form, in rows of the catalogue."""
        rows = self.index.catalogue.rows(self.scorer.fitted_keys.numpy().view(np.uint64).tolist())
        padded = np.append(rows, -1).astype(np.int32)
        self.fitted_row = np.full(self._room, -1, np.int32)
        self.fitted_row[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        self.fitted = {
            name: (
                np.ascontiguousarray(padded[getattr(self.scorer, f"{name}_items").numpy()]),
                getattr(self.scorer, f"{name}_weights").numpy(),
            )
            for name in ("ease", "taste")
        }

    def _take_in_statistics(self) -> np.ndarray:
        """Map items that were chosen for the first time; the rows of the catalogue whose counts have changed."""
        statistics = self.statistics
        if len(statistics) > len(self.catalogue_row):
            grown = np.full(2 * len(statistics), -1, np.int32)
            grown[: len(self.catalogue_row)] = self.catalogue_row
            self.catalogue_row = grown
        new = np.arange(self._statistics, len(statistics), dtype=np.int32)
        at = self.index.catalogue.rows(statistics.keys[new].tolist())
        self.catalogue_row[new] = at
        self.statistics_row[at[at >= 0]] = new[at >= 0]
        self._statistics = len(statistics)
        if self._seen < 0:
            return np.zeros(0, np.int64)
        changed = self.catalogue_row[statistics.changed_since(self._seen - 1)]
        return changed[changed >= 0].astype(np.int64)

    @torch.inference_mode()
    def _update_items(self, rows: np.ndarray) -> None:
        """The network's vectors of these items: their text, and an embedding that opens as they are chosen."""
        if not len(rows):
            return
        network, trained = self.scorer.network, self.trained_row[rows]
        has = trained >= 0
        self._items[rows] = self._text[rows]
        if has.any():
            counts = torch.from_numpy(self.chosen(rows[has], EVER).astype(np.float32)).to(self.device)
            ids = network.ids[torch.from_numpy(trained[has].astype(np.int64)).to(self.device)]
            text = torch.from_numpy(self._text[rows[has]]).to(self.device)
            vectors = network.items(text, ids, counts)
            self._items[rows[has]] = vectors.float().cpu().numpy()
        self._bias[rows] = self._biases(rows)
        self._standing[rows] = self._stand(rows)
        self._copy_rows(rows)

    def _unseen_is_old(self) -> bool:
        """Whether what every item is given, beside choices that are worth more with every event, has to be less now.

        Between two such moments only what was chosen changes: the order of all others stays as it is.
        """
        every = HALF_LIVES[HALF_LIFE_200 if self._count <= EXACT_NETWORK else HALF_LIFE_2K]
        now = int(self.statistics.bases[HALF_LIFE_2K]), int(self.statistics.seen // every)
        if now == self._unseen_of:
            return False
        self._unseen_of = now
        self._unseen = UNSEEN / float(self.statistics.factors()[HALF_LIFE_2K])
        return True

    def _stand(self, rows: np.ndarray) -> np.ndarray:
        """What retrieval knows of items whoever asks; as of the last change, or of 2,000 events ago at most."""
        logs, first = self.log_popularity(rows[:, None])[:, 0], self.first(rows)
        age = np.where(first < 0, 0.0, np.log1p(np.maximum(self.statistics.seen - first, 0)) / 3)
        more = back_off(logs[:, HALF_LIFE_20K])
        return np.column_stack((logs, age, more, np.log(more))).astype(np.float32)

    def _biases(self, rows: np.ndarray) -> np.ndarray:
        """The network's bias of items, up to a number that is the same for all; (r,)."""
        at = self.statistics_row[rows]
        counts = (
            self.statistics.items.chosen[at.clip(min=0), HALF_LIFE_2K] if len(self.statistics) else np.zeros(len(at))
        )
        popularity = np.log(np.where(at >= 0, counts, 0.0) + self._unseen)
        return self._popularity * popularity + self._own[rows]

    def _copy_rows(self, rows: np.ndarray) -> None:
        """Bring changed rows to the card."""
        if not self._has_copy:
            return
        columns = {"items": self._items, "bias": self._bias}
        at = torch.from_numpy(rows).to(self.device)
        for name, column in columns.items():
            there = self._card.get(name)
            if there is None or len(there) < self._room:
                self._card[name] = torch.zeros(
                    self._room, *column.shape[1:], device=self.device, dtype=self._dtype_of(name)
                )
                self._card[name][: self._count] = torch.from_numpy(column[: self._count]).to(self._card[name])
            else:
                there[at] = torch.from_numpy(column[rows]).to(self.device, there.dtype)

    def _column(self, name: str, column: np.ndarray) -> torch.Tensor:
        return self._card[name] if self._has_copy else torch.from_numpy(column)

    def _dtype_of(self, name: str) -> torch.dtype:
        """Vectors are kept in half precision on a card, where lists stay the same; what is added to products is not."""
        return torch.float32 if name == "bias" else self.dtype

    @property
    def items(self) -> torch.Tensor:
        """Shape: (n, width)."""
        return self._column("items", self._items)[: self._count]

    @property
    def host_items(self) -> np.ndarray:
        """The same where compiled loops read them, single precision; (n, width)."""
        return self._items[: self._count]

    def contrast_at(self, rows: torch.Tensor) -> torch.Tensor:
        """Their texts in the interest space, beside the mean; rows (...) -> (..., 64)."""
        return torch.from_numpy(self.index.contrast)[rows]

    @property
    def biases(self) -> torch.Tensor:
        """The network's bias of every item, up to a number that is the same for all; (n,)."""
        return self._column("bias", self._bias)[: self._count]

    @property
    def mean(self) -> torch.Tensor:
        return torch.from_numpy(self.index.mean)

    def chosen(self, rows: np.ndarray, by: int) -> np.ndarray:
        """How often items were chosen, old choices fading; (r,)."""
        at = self.statistics_row[rows]
        counts = self.statistics.items.chosen[at, by] if len(self.statistics) else np.zeros(len(at))
        return np.where(at >= 0, counts * self.statistics.factors()[by], 0.0)

    def _follow_popularity(self, anew: bool) -> None:
        """The heads of the popularities, what is drawn, and what is new; their order changes only by what is added."""
        n, statistics = self._count, self.statistics
        if anew:
            drawn = np.random.default_rng(0).permutation(n)[:SAMPLE]
            self.sample = np.sort(drawn).astype(np.int32)
        counted = self.catalogue_row[: len(statistics)]
        if anew or self._seen < 0 or self._forgotten != statistics.forgotten:
            rows = np.flatnonzero(counted >= 0)
        else:
            rows = np.concatenate((statistics.changed_since(self._seen - 1), self.statistics_row[self.heads]))
            rows = np.unique(rows[(rows >= 0) & (counted[rows] >= 0)]) if len(rows) else rows
        heads: Iterable[np.ndarray] = (_largest(statistics.items.chosen[rows, by], HEADS) for by in _HEADS_BY)
        self.heads = (
            np.unique(np.concatenate([counted[rows[at]] for at in heads])) if len(rows) else np.zeros(0, np.int32)
        )
        self._forgotten = statistics.forgotten
        self._find_searched(anew)
        late = np.flatnonzero(self._late[:n])[-MOST_NEW:] if self.scorer.is_trained else np.zeros(0, np.int64)
        self.new = late[self.chosen(late, EVER) < KNOWN]

    def searched_items(self) -> torch.Tensor:
        """The network's vectors of the items `searched`, side by side; of a moment ago at most; (s, width)."""
        if self._searched_items is None:
            self._searched_items = self.items[torch.from_numpy(self.searched)]
        return self._searched_items

    def _find_searched(self, anew: bool) -> None:
        if self.device.type != "cpu" or self._count <= EXACT_NETWORK:
            self.searched = None
        elif anew or self.searched is None or self.statistics.seen > self._searched_at + SEARCHED_FOR:
            counts = np.zeros(self._count)
            counted = self.catalogue_row[: len(self.statistics)]
            there = counted >= 0
            counts[counted[there]] = self.statistics.items.chosen[: len(counted)][there, HALF_LIFE_20K]
            self.searched = np.sort(_largest(counts, EXACT_NETWORK)).astype(np.int64)
            self._searched_at = self.statistics.seen
            self._searched_items = None

    def sources(self) -> Sources:
        """What retrieval reads."""
        statistics, factors = self.statistics, self.statistics.factors()
        near, nearness = self.index.tables()
        transitions, recent, following = statistics.pairs.values()
        rules = list(PAIRS.values())
        return Sources(
            self.statistics_row, self.catalogue_row, transitions, recent, following,
            factors[len(HALF_LIVES) :], np.array([rule.shrink for rule in rules]),
            np.array([*(rule.decay for rule in rules), SIGNALS["ease"].decay]),
            self.fitted_row, *self.fitted["ease"], near, nearness, statistics.log, statistics.items, statistics.seen,
            self._standing,
        )  # fmt: skip

    def _total(self, by: int) -> float:
        """A popularity of all items, with what each is given."""
        return float(self.statistics.items.totals[by] * self.statistics.factors()[by] + UNSEEN * max(1, self._count))

    @property
    def bias_parts(self) -> tuple[float, np.ndarray]:
        """The network's bias of an item is its popularity of 2,000 events times this, and this of its row; (), (n,)."""
        return self._popularity, self._own

    def log_popularity(self, rows: np.ndarray) -> np.ndarray:
        """Log shares of the popularities; rows (B, c) of the catalogue -> (B, c, HALF_LIVES) float32."""
        totals = np.array([self._total(by) for by in range(len(HALF_LIVES))], np.float32)
        logs = np.empty((*rows.shape, len(HALF_LIVES)), np.float32)
        chosen, factors = self.statistics.items.chosen, self.statistics.factors()[: len(HALF_LIVES)]
        over_users(_log_popularity, len(rows), rows, self.statistics_row, chosen, factors, np.log(totals), logs)
        return logs

    def first(self, rows: np.ndarray) -> np.ndarray:
        """The event that chose each item first, -1 for none; (r,)."""
        at = self.statistics_row[rows]
        return np.where(at >= 0, self.statistics.items.first[at], -1) if len(self.statistics) else np.full(at.shape, -1)


@njit(cache=True, nogil=True)
def _log_popularity(first, last, rows, statistics_row, chosen, factors, log_totals, logs):
    for b in range(first, last):
        for c in range(rows.shape[1]):
            row = statistics_row[rows[b, c]] if rows[b, c] >= 0 else -1
            for by in range(len(factors)):
                count = np.float32(chosen[row, by] * factors[by]) if row >= 0 else np.float32(0)
                logs[b, c, by] = np.log(count + np.float32(UNSEEN)) - log_totals[by]


@njit(cache=True, inline="always")
def back_off(log_popularity_20k):
    """What popularity adds to the share of an item in a counted table, so that none is impossible."""
    return np.float32(BACK_OFF) * np.exp(log_popularity_20k) + np.float32(LEAST)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    k = min(k, len(values))
    return np.argpartition(-values, k - 1)[:k] if k else np.zeros(0, np.int64)


def _sorted(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys)
    return keys[order], order


def _find(keys: np.ndarray, order: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The rows of keys, -1 for those that are not there; (w,) -> (w,) int32."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int32)
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, order[at], -1).astype(np.int32)
