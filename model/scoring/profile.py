"""The text profile: what a user did lately as one text, in the language model's own space, beside the interests.

    last events ─► "rating: title, categories; click: ..." ─► language model ─┐
              └──► fading mean of the items' own vectors ─────────────────────┴─► profile ─► near texts: candidates
                                                                                         └─► cosine: the signal

`mean` takes the second way, which costs no call of the language model; `read` the first. An interest has 64 dimensions
and one theme; a profile has all of the encoder's and all that was done lately.
"""

from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from model.catalogue import Catalogue
from model.interest import ACTIONS, interest_space
from model.jit import njit
from model.scoring.batch import MicroBatch
from model.scoring.candidates import Candidates
from model.scoring.products import VECTORISED
from model.scoring.retrieve import TEXT_SCALE
from model.scoring.table import ItemTable
from model.scoring.threads import over_users

if TYPE_CHECKING:
    from model.encoder import Encoder

FOUND = 32
"""Candidates of a user that read most like the profile."""
EVENTS, EVENT_CHARS = 8, 60
"""So many of the newest events are read, and so much of each item's text."""
KEPT = 20_000
"""Profiles that were read are kept, those that were wanted last."""
_TOGETHER = 32  # texts that go through the language model at once
_DECAY = 0.85  # what one event further back counts
_OLD_MEAN = 0.1  # the mean of all texts is computed anew when this share of the items has changed


class Reader:
    """What users did lately, read by the language model; what was read before is kept by its text."""

    def __init__(self, encoder: "Encoder", texts: Mapping[int, str]) -> None:
        self._encoder, self._texts = encoder, texts
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = Lock()  # a version is tried beside the lists

    def vectors(self, batch: MicroBatch, catalogue: Catalogue) -> np.ndarray:
        """The vector of each user's last events, 0 where no text of them is known; (B, dim)."""
        found = np.zeros((len(batch.history), catalogue.vectors.shape[1]), np.float32)
        if not catalogue.encoder_version.startswith(self._encoder.version):  # media may follow: zeros there
            return found
        said = history_texts(batch, catalogue, self._texts)
        with self._lock:
            self._read([text for text in dict.fromkeys(said) if text and text not in self._kept])
            for b, text in enumerate(said):
                if text:
                    self._kept.move_to_end(text)
                    found[b, : self._kept[text].shape[0]] = self._kept[text]
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    def _read(self, texts: list[str]) -> None:
        texts.sort(key=len)
        for start in range(0, len(texts), _TOGETHER):
            group = texts[start : start + _TOGETHER]
            self._kept.update(zip(group, self._encoder.load().forward(group)))


def history_texts(batch: MicroBatch, catalogue: Catalogue, texts: Mapping[int, str]) -> list[str]:
    """What each user did lately, as text, the newest last; empty where no text of it is known."""
    keys, said = catalogue.keys, []
    for rows, actions in zip(batch.host.history.tolist(), batch.actions.tolist()):
        parts = [
            f"{ACTIONS[action]}: {text[:EVENT_CHARS]}"
            for row, action in zip(rows, actions)
            if row >= 0 and (text := texts.get(int(keys[row])))
        ]
        said.append("; ".join(parts[-EVENTS:]))
    return said


class TextProfile:
    """The family of signals (`Optional` of model/scoring/signals.py)."""

    names: tuple[str, ...] = ("profile",)

    def __init__(self, reader: Reader | None = None) -> None:
        self._reader = reader
        self._means: WeakKeyDictionary[Catalogue, Mean] = WeakKeyDictionary()

    def profiles(self, table: ItemTable, batch: MicroBatch) -> np.ndarray:
        """Each user's profile beside the mean of all texts, unit length, 0 for who did nothing; (B, dim)."""
        catalogue = table.index.catalogue
        if self._reader is not None:
            made = self._reader.vectors(batch, catalogue)
        else:
            made = np.zeros((len(batch.history), catalogue.vectors.shape[1]), np.float32)
            over_users(_fading_mean, len(made), batch.host.history, catalogue.vectors, made)
        return _unit(np.where(made.any(1, keepdims=True), made - self._mean(catalogue), 0.0))

    def _mean(self, catalogue: Catalogue) -> np.ndarray:
        mean = self._means.get(catalogue)
        if mean is None:
            mean = self._means[catalogue] = Mean()
        return mean.of(catalogue)

    def candidates(self, table: ItemTable, batch: MicroBatch) -> np.ndarray:
        """The items nearest to the profile in the interest space, -1 for none; (B, FOUND)."""
        profiles = self.profiles(table, batch) + self._mean(table.index.catalogue)
        apart = _unit(interest_space(profiles) - table.index.mean)
        near = table.index.nearest(apart, FOUND)
        return np.where((batch.host.history >= 0).any(1, keepdims=True), near, -1)

    def signals(self, table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
        """The cosine of the profile and the item's text, both beside the mean of all texts."""
        catalogue = table.index.catalogue
        given = catalogue.vectors, self._mean(catalogue), self.profiles(table, batch)
        over_users(_near, len(into), found.host_rows, *given, into)

    def carried(self, table: ItemTable, batch: MicroBatch, rows: np.ndarray) -> np.ndarray:
        """How near each event is to an item; (B, k) -> (B, k, T)."""
        catalogue, history = table.index.catalogue, batch.host.history
        mean = self._mean(catalogue)
        items = _unit(catalogue.vectors[rows] - mean)
        events = _unit(catalogue.vectors[history.clip(min=0)] - mean) * (history >= 0)[..., None]
        return np.einsum("bkd,btd->bkt", items, events).astype(np.float32)


class Mean:
    """The mean of a catalogue's vectors, computed anew when many of them have changed."""

    def __init__(self) -> None:
        self._revision, self._changed, self._mean = -1, 0, np.zeros(0, np.float32)

    def of(self, catalogue: Catalogue) -> np.ndarray:
        if self._revision != catalogue.revision:
            changed = catalogue.changed_since(self._revision) if self._revision >= 0 else None
            self._changed += len(catalogue) + 1 if changed is None else len(changed)
            self._revision = catalogue.revision
            if self._changed > _OLD_MEAN * len(catalogue):
                self._changed, self._mean = 0, catalogue.vectors.mean(0)
        return self._mean


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@njit(cache=True, nogil=True)
def _fading_mean(first, last, history, vectors, into):
    for b in range(first, last):
        recency, total = np.float32(1.0), np.float32(0.0)
        for t in range(history.shape[1] - 1, -1, -1):
            if history[b, t] >= 0:
                for d in range(vectors.shape[1]):
                    into[b, d] += recency * vectors[history[b, t], d]
                total += recency
                recency *= np.float32(_DECAY)
        if total > 0:
            into[b] /= total


@njit(cache=True, nogil=True, fastmath=VECTORISED)
def _near(first, last, rows, vectors, mean, profiles, into):
    for b in range(first, last):
        for c in range(rows.shape[1]):
            row, product, length = rows[b, c], np.float32(0), np.float32(1e-12)
            if row < 0:
                continue
            for d in range(vectors.shape[1]):
                apart = vectors[row, d] - mean[d]
                product += apart * profiles[b, d]
                length += apart * apart
            into[b, c, 0] = np.float32(TEXT_SCALE) * product / np.sqrt(length)
