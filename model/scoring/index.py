"""What can be said of a catalogue's items by their texts alone: which are near each other, and near an interest.

    catalogue ─► contrast: the vectors beside their mean ─┬─► nearest to an interest or a query
                                                          └─► nearest texts of an item, exact or by an index

Up to `EXACT` items all vectors are compared; beyond, faiss keeps them in cells, and what it finds is compared exactly.
Neighbours of an item are looked up when they are needed first, and kept; an item that comes later enters the rows of
those to which it is near.
"""

from weakref import ref

import faiss
import numpy as np

from model.catalogue import Catalogue
from model.interest import INTEREST_DIM

EXACT = 16_384
"""Items up to which every text is compared with all others: a few seconds of one thread, once."""
CELLS_FROM = 2_048
"""Items from which what is nearest to an interest is looked for in cells: comparing all takes longer."""
NEIGHBOURS = 32
"""Nearest texts kept of an item."""
LOOKUPS = 16
"""Beyond `EXACT` items, neighbours of so many items are looked up in one call at most; the others have to wait."""
_COMPARED = 1_024  # items compared with all others at once
_PROBED, _CELLS, _MOST_CELLS, _TRAINED_ON = 8, 2.0, 2_048, 40
_FOUND = 3 * NEIGHBOURS // 2  # by the index, of which the nearest by the whole vectors are kept
_OLD_MEAN = 0.1  # the mean is computed anew when this share of the items has come, gone or changed


class CatalogueIndex:
    """Follows a catalogue, which whoever asks holds; `sync` takes in what has changed.

    Shape: contrast (n, 64) the interest vectors without their `mean` (64,), unit length; near (n, NEIGHBOURS) int32
    rows, -1 for none, and nearness (n, NEIGHBOURS), their cosines.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = ref(catalogue)
        self.mean = np.zeros(INTEREST_DIM, np.float32)
        self._revision, self._unlike_mean, self._count = -1, 0, 0
        self._contrast = np.zeros((0, INTEREST_DIM), np.float32)
        self._near = np.zeros((0, NEIGHBOURS), np.int32)
        self._nearness = np.zeros((0, NEIGHBOURS), np.float32)
        self._seen = np.zeros((0, NEIGHBOURS), np.int32)  # the generation of each neighbour when it was found
        self._generation = np.zeros(0, np.int32)  # of a row: how often another vector has come into it
        self._known = np.zeros(0, bool)
        self._fresh = np.zeros(0, bool)  # whose neighbours were looked at since another vector came into a row
        self._cells: faiss.IndexIVFFlat | None = None
        self.changes = 0  # grows with every change of any row
        self._changed_at = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self._count

    @property
    def catalogue(self) -> Catalogue:
        catalogue = self._catalogue()
        assert catalogue is not None, "the catalogue of this index is gone"
        return catalogue

    @property
    def contrast(self) -> np.ndarray:
        return self._contrast[: self._count]

    def is_of(self, catalogue: Catalogue) -> bool:
        return self._catalogue() is catalogue

    def sync(self) -> None:
        """Take in what has changed in the catalogue."""
        catalogue = self.catalogue
        if self._revision == catalogue.revision:
            return
        changed = catalogue.changed_since(self._revision) if self._revision >= 0 else None
        n, before = len(catalogue), self._count
        rows = np.arange(max(n, before)) if changed is None else changed
        self._reserve(n)
        self._generation[rows[rows < len(self._generation)]] += 1
        self._forget(rows[rows < len(self._known)])
        if (rows < before).any():
            self._fresh[:] = False
        self._count, self._revision = n, catalogue.revision
        there = rows[rows < n]
        moved = self._center(rows, anew=changed is None)
        self.changes += 1
        self._changed_at[np.arange(n) if moved else there] = self.changes
        self._update_cells(rows, before)
        if n <= EXACT:
            self._known[:n] &= before <= EXACT  # what was found in cells may not be all
            self._compare(there)
        else:
            self._tell(there)

    def changed_since(self, changes: int) -> np.ndarray:
        """The rows that have changed after so many changes."""
        return np.flatnonzero(self._changed_at[: self._count] > changes)

    def _forget(self, rows: np.ndarray) -> None:
        """Other items stand in these rows, or with other vectors: their neighbours are not known."""
        self._known[rows], self._nearness[rows] = False, 0.0

    def _reserve(self, n: int) -> None:
        if n <= len(self._contrast):
            return
        room = max(1_024, 2 * n if n < EXACT else n + n // 4)
        for name in ("_contrast", "_near", "_nearness", "_seen", "_generation", "_known", "_fresh", "_changed_at"):
            old = getattr(self, name)
            new = np.zeros((room, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def _center(self, rows: np.ndarray, anew: bool) -> bool:
        """Compute what is beside the mean; the mean of a few other items is the mean of before. Whether it moved."""
        vectors, there = self.catalogue.interest_vectors, rows[rows < self._count]
        contrast = _unit(vectors[there] - self.mean)
        self._unlike_mean += len(rows) - len(there) + int((contrast != self._contrast[there]).any(1).sum())
        anew |= self._unlike_mean > _OLD_MEAN * self._count
        if anew:
            self.mean = vectors.mean(0) if self._count else np.zeros(INTEREST_DIM, np.float32)
            self._unlike_mean, self._cells = 0, None
            there, contrast = np.arange(self._count), _unit(vectors - self.mean)
        self._contrast[there] = contrast
        return anew

    def _update_cells(self, rows: np.ndarray, before: int) -> None:
        """Keep the index up with the items, where there are so many that there is one."""
        if self._count < CELLS_FROM:
            self._cells = None
        elif self._cells is None:
            self._cells = _cells_of(self.contrast)
        else:
            self._cells.remove_ids(faiss.IDSelectorBatch(rows[rows < before]))
            there = rows[rows < self._count]
            self._cells.add_with_ids(self.contrast[there], there)

    def nearest(self, vectors: np.ndarray, k: int) -> np.ndarray:
        """The rows whose contrast is nearest to each vector, -1 where there are fewer; (q, 64) -> (q, k) int64."""
        k = min(k, self._count)
        vectors = np.ascontiguousarray(vectors, np.float32)
        if not len(vectors) or not k:
            return np.full((len(vectors), k), -1)
        if self._cells is not None:
            return self._cells.search(vectors, k)[1]
        cosines = vectors @ self.contrast.T
        return np.argpartition(-cosines, k - 1, axis=1)[:, :k]

    def neighbours(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items with the nearest texts, best first, and their cosines, 0 for none; rows (r,) -> (r, NEIGHBOURS)."""
        near, nearness = self._near[rows], self._nearness[rows]
        stale = self._generation[near] != self._seen[rows]
        return near, np.where(stale, 0.0, nearness).astype(np.float32)

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of all rows, for compiled loops; what is stale is deleted first by `look_up`."""
        return self._near, self._nearness

    def look_up(self, rows: np.ndarray) -> None:
        """Find the neighbours of these items, of those that have none yet; beyond `EXACT` of `LOOKUPS` at most."""
        rows = rows[(rows >= 0) & (rows < self._count)]
        rows = rows[~(self._fresh[rows] & self._known[rows])]
        if not len(rows):
            return
        rows = np.unique(rows)
        self._fresh[rows] = True
        stale = (self._generation[self._near[rows]] != self._seen[rows]) & (self._nearness[rows] > 0)
        if stale.any():
            self._nearness[rows] = np.where(stale, 0.0, self._nearness[rows])
            self._known[rows[stale.mean(1) > 0.25]] = False
        if self._count <= EXACT or self._cells is None:
            return
        missing = rows[~self._known[rows]][:LOOKUPS]
        if not len(missing):
            return
        self._keep(missing, *self._search(missing))

    def _search(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The neighbours of these items by the cells, best first, and their cosines, 0 for none."""
        assert self._cells is not None
        found = self._cells.search(self.contrast[rows], _FOUND)[1]
        vectors = _unit(self.catalogue.vectors[rows])
        others = _unit(self.catalogue.vectors[found.clip(min=0)].reshape(-1, vectors.shape[1]))
        cosines = np.einsum("rd,rfd->rf", vectors, others.reshape(*found.shape, -1))
        cosines[(found < 0) | (found == rows[:, None])] = 0.0
        order = np.argsort(-cosines, axis=1)[:, :NEIGHBOURS]
        return np.take_along_axis(found, order, 1).clip(min=0), np.take_along_axis(cosines, order, 1)

    def _tell(self, changed: np.ndarray) -> None:
        """Items to which a changed one is nearer than the furthest of their neighbours are looked up anew."""
        if len(changed) > _OLD_MEAN * self._count:
            self._known[:] = False
            return
        for start in range(0, len(changed), LOOKUPS):
            near, cosines = self._search(changed[start : start + LOOKUPS])
            self._known[near[cosines > self._nearness[near].min(2)]] = False

    def _keep(self, rows: np.ndarray, near: np.ndarray, nearness: np.ndarray) -> None:
        width = near.shape[1]
        self._near[rows], self._nearness[rows] = 0, 0.0
        self._near[rows, :width], self._nearness[rows, :width] = near, np.maximum(nearness, 0)
        self._seen[rows] = self._generation[self._near[rows]]
        self._known[rows] = True

    def _compare(self, changed: np.ndarray) -> None:
        """Find the neighbours of changed items, and of those that have lost one, among all; let the changed ones enter
        the rows of the others.
        """
        n = self._count
        if not n:
            return
        vectors = _unit(self.catalogue.vectors)
        lost = (self._generation[self._near[:n]] != self._seen[:n]) & (self._nearness[:n] > 0)
        is_anew = lost.any(1) | ~self._known[:n]
        anew, same = np.flatnonzero(is_anew), np.flatnonzero(~is_anew)
        for start in range(0, len(anew), _COMPARED):
            block = anew[start : start + _COMPARED]
            cosines = vectors[block] @ vectors.T
            cosines[np.arange(len(block)), block] = 0.0
            self._keep(block, *_largest(cosines))
        for start in range(0, len(same) if len(changed) else 0, _COMPARED):
            block = same[start : start + _COMPARED]
            found, cosines = _largest(vectors[block] @ vectors[changed].T)
            both = np.concatenate((self._nearness[block], cosines), 1)
            order = np.argsort(-both, axis=1, kind="stable")[:, :NEIGHBOURS]
            items = np.concatenate((self._near[block], changed[found]), 1)
            self._keep(block, np.take_along_axis(items, order, 1), np.take_along_axis(both, order, 1))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _largest(cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The columns of the largest of each row, best first, and their values; (r, n) -> (r, at most NEIGHBOURS)."""
    k = min(NEIGHBOURS, cosines.shape[1])
    best = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(cosines, best, 1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, 1)
    return best, np.take_along_axis(cosines, best, 1)


def _cells_of(contrast: np.ndarray) -> faiss.IndexIVFFlat:
    count = min(_MOST_CELLS, int(_CELLS * np.sqrt(len(contrast))), len(contrast) // _TRAINED_ON)
    cells = faiss.IndexIVFFlat(faiss.IndexFlatIP(INTEREST_DIM), INTEREST_DIM, count, faiss.METRIC_INNER_PRODUCT)
    cells.nprobe = _PROBED
    drawn = np.random.default_rng(0).choice(len(contrast), min(len(contrast), _TRAINED_ON * count), replace=False)
    cells.train(contrast[drawn])
    cells.add_with_ids(contrast, np.arange(len(contrast)))
    return cells
