"""Signals of media: how near an item's image, audio or given vector is to those of the user's last events.

Fixed scales make one vector of all parts of an item; here each part speaks for itself, and the ranker learns how much,
for whom. Parts are compared beside their mean in the catalogue, as texts are. What is nearest to the last events is a
candidate too, up to `EXACT` items.
"""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from model.catalogue import Catalogue
from model.media.blocks import blocks_of
from model.scoring.batch import MicroBatch
from model.scoring.candidates import Candidates
from model.scoring.index import EXACT
from model.scoring.signals import SHARPNESS
from model.scoring.table import ItemTable

NEAR = 16
"""Nearest items of each part that become candidates."""
_RECENCY = 0.85  # what one event further back counts


class Part(NamedTuple):
    """Where a part stands in the vectors, its mean, and up to `EXACT` items all of them beside it, a row of zeros last.

    Shape: mean (d,); contrast (n + 1, d), or (0, d).
    """

    at: slice
    mean: np.ndarray
    contrast: np.ndarray


class MediaSignals:
    """One signal for each kind of media."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.names = kinds
        self._parts: WeakKeyDictionary[Catalogue, tuple[int, dict[str, Part]]] = WeakKeyDictionary()

    def candidates(self, table: ItemTable, batch: MicroBatch) -> np.ndarray:
        """Shape: (B, at most NEAR for each kind)."""
        catalogue, history = table.index.catalogue, batch.host.history
        found = [np.full((len(history), 0), -1)]
        for part in self._of(catalogue).values():
            k = min(NEAR, len(part.contrast) - 1)
            if k < 1:
                continue
            profiles = _weights(history)[:, None] @ part.contrast[history]  # (B, 1, d)
            scores = profiles[:, 0] @ part.contrast[:-1].T
            best = np.argpartition(-scores, k - 1, 1)[:, :k]
            found.append(np.where(np.take_along_axis(scores, best, 1) > 0, best, -1))
        return np.concatenate(found, 1)

    def signals(self, table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
        """As any family: the last events, each as far as it is near, on the scale of a log probability."""
        weights = _weights(batch.host.history)[:, None]
        for column, near in self._nearness(table, batch, found.host_rows):
            into[..., column] = np.log((weights * np.exp(SHARPNESS * near)).sum(2) + (1 - weights.sum(2)))

    def carried(self, table: ItemTable, batch: MicroBatch, rows: np.ndarray) -> np.ndarray:
        """Shape: rows (B, k) -> (B, k, T)."""
        amounts = np.zeros((*rows.shape, batch.host.history.shape[1]), np.float32)
        for _, near in self._nearness(table, batch, rows):
            amounts += np.maximum(near, 0)
        return amounts * _weights(batch.host.history)[:, None]

    def _nearness(self, table: ItemTable, batch: MicroBatch, rows: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """The cosine of each item's part and that of each last event, 0 where one has none; (column, (B, c, T))."""
        catalogue, history = table.index.catalogue, batch.host.history
        parts = self._of(catalogue)
        return [
            (
                column,
                _beside(catalogue, parts[name], rows) @ _beside(catalogue, parts[name], history).transpose(0, 2, 1),
            )
            for column, name in enumerate(self.names)
            if name in parts
        ]

    def _of(self, catalogue: Catalogue) -> dict[str, Part]:
        """The parts of a catalogue; computed again when it has changed."""
        revision, parts = self._parts.get(catalogue, (-1, {}))
        if revision != catalogue.revision:
            parts = _parts(catalogue)
            self._parts[catalogue] = catalogue.revision, parts
        return parts


def _parts(catalogue: Catalogue) -> dict[str, Part]:
    blocks, vectors = blocks_of(catalogue.encoder_version), catalogue.vectors
    at, found = vectors.shape[1] - sum(block.dim for block in blocks), {}
    for block in blocks:
        place = slice(at, at + block.dim)
        some = vectors[:EXACT, place]
        there = some.any(1)
        mean = some[there].mean(0) if there.any() else np.zeros(block.dim, np.float32)
        kept = np.zeros((len(some) + 1, block.dim), np.float32)
        kept[:-1] = _contrasted(some, mean)
        found[block.kind] = Part(place, mean, kept if len(vectors) <= EXACT else kept[:0])
        at += block.dim
    return found


def _contrasted(vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Beside the mean, unit length; zeros where there is nothing."""
    beside = np.where(vectors.any(-1, keepdims=True), vectors - mean, 0)
    return beside / np.maximum(np.linalg.norm(beside, axis=-1, keepdims=True), 1e-6)


def _beside(catalogue: Catalogue, part: Part, rows: np.ndarray) -> np.ndarray:
    """The part of some items beside its mean, zeros for row -1; (B, c) -> (B, c, d)."""
    if len(part.contrast):
        return part.contrast[rows]
    found = _contrasted(catalogue.vectors[:, part.at][rows], part.mean)
    return np.where((rows >= 0)[..., None], found, np.float32(0))


def _weights(history: np.ndarray) -> np.ndarray:
    """How much each of the last events counts, 1 together; (B, T), 0 for none."""
    recency = _RECENCY ** np.arange(history.shape[1] - 1, -1, -1, dtype=np.float32)
    weights = np.where(history >= 0, recency, np.float32(0))
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-6)
