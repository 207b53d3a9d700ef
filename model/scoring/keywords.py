"""Keywords: what an item shares with the words of the user's last events; it needs no choice of the item by anybody.

    keywords of the last events, fading ─► weights of words ─┬─► items that have the heaviest: candidates
    how rare each word is ───────────────────────────────────┴─► how heavy an item's words are: the signal

An item is the unit vector of the idf of its words, the user the fading mean of those of the last events; the signal is
their product. What is in it is a catalogue's `keywords` (model/keywords.py), read again as they change.

Source: Salton and Buckley, Term-weighting approaches in automatic text retrieval, 1988 (idf, cosine).
"""

from weakref import WeakKeyDictionary

import numpy as np

from model.catalogue import Catalogue
from model.jit import njit
from model.schema import MOST_KEYWORDS
from model.scoring.batch import MicroBatch
from model.scoring.candidates import Candidates
from model.scoring.retrieve import TEXT_SCALE, _bound
from model.scoring.table import ItemTable
from model.scoring.threads import over_users

FOUND = 32
"""Candidates of a user that share the heaviest words."""
POSTED = 64
"""Newest items of a word among which they are looked for."""
WORDS = 3
"""Words told in a reason, at most."""
_DECAY = 0.85  # what one event further back counts
_MOST_GONE = 4_096  # words that no item has any more, before all are numbered anew


class KeywordIndex:
    """The keywords of a catalogue by row, and the items of each word; follows what changes.

    Shape: words (n, MOST_KEYWORDS) int32 numbers of words, -1 for none; count (v,) int32 items that have each; posted
    (v, POSTED) int32 rows of the newest of them, as a ring, -1 for none: a row may have lost the word since.
    """

    def __init__(self) -> None:
        self._revision = -1
        self._clear()

    def _clear(self) -> None:
        self._number: dict[str, int] = {}
        self.names: list[str] = []
        self.words = np.full((0, MOST_KEYWORDS), -1, np.int32)
        self.count = np.zeros(0, np.int32)
        self.posted, self._posts = np.full((0, POSTED), -1, np.int32), np.zeros(0, np.int32)

    def sync(self, catalogue: Catalogue) -> None:
        """Take in what has changed."""
        if self._revision == catalogue.revision:
            return
        changed = catalogue.changed_since(self._revision) if self._revision >= 0 else None
        self._revision = catalogue.revision
        if changed is None or (self.count[: len(self.names)] == 0).sum() > _MOST_GONE:
            self._clear()
            changed = np.arange(len(catalogue))
        self._take(catalogue, changed)

    def _take(self, catalogue: Catalogue, rows: np.ndarray) -> None:
        of_rows = np.full((len(rows), MOST_KEYWORDS), -1, np.int32)
        keys, there, keywords = catalogue.keys, len(catalogue), catalogue.keywords
        for at, row in enumerate(rows.tolist()):
            some = keywords.get(int(keys[row]), ()) if row < there else ()
            numbers = [self._number_of(word) for word in dict.fromkeys(some[:MOST_KEYWORDS])]
            of_rows[at, : len(numbers)] = numbers
        self.words = _grown(self.words, max(there, int(rows.max(initial=-1)) + 1))
        for name in ("count", "posted", "_posts"):
            setattr(self, name, _grown(getattr(self, name), len(self.names), -1 if name == "posted" else 0))
        _enter(rows, of_rows, self.words, self.count, self.posted, self._posts)

    def _number_of(self, word: str) -> int:
        number = self._number.setdefault(word, len(self.names))
        if number == len(self.names):
            self.names.append(word)
        return number


def _grown(array: np.ndarray, size: int, fill: int = -1) -> np.ndarray:
    if size <= len(array):
        return array
    room = np.full((max(1_024, size + size // 2), *array.shape[1:]), fill, array.dtype)
    room[: len(array)] = array
    return room


class Keywords:
    """The family of signals (`Optional` of model/scoring/signals.py)."""

    names: tuple[str, ...] = ("keywords",)

    def __init__(self) -> None:
        self._indices: WeakKeyDictionary[Catalogue, KeywordIndex] = WeakKeyDictionary()

    def index(self, catalogue: Catalogue) -> KeywordIndex:
        """The index of a catalogue, of which there is one, up to date."""
        found = self._indices.get(catalogue)
        if found is None:
            found = self._indices[catalogue] = KeywordIndex()
        found.sync(catalogue)
        return found

    def candidates(self, table: ItemTable, batch: MicroBatch) -> np.ndarray:
        """The items that share the heaviest words, -1 for none; (B, FOUND)."""
        index, given = self.index(table.index.catalogue), batch.host
        rows = np.full((len(given.history), FOUND), -1, np.int32)
        of_items = index.words, index.count, index.posted, len(table)
        over_users(_find, len(rows), given.history, *of_items, given.excluded, given.excluded_from, rows)
        return rows

    def signals(self, table: ItemTable, batch: MicroBatch, found: Candidates, into: np.ndarray) -> None:
        """How much of the user's words an item has."""
        index, history = self.index(table.index.catalogue), batch.host.history
        over_users(_weigh, len(into), history, found.host_rows, index.words, index.count, len(table), into)

    def carried(self, table: ItemTable, batch: MicroBatch, rows: np.ndarray) -> np.ndarray:
        """How much of an item's words each event has; (B, k) -> (B, k, T)."""
        index, history = self.index(table.index.catalogue), batch.host.history
        amounts = np.zeros((*rows.shape, history.shape[1]), np.float32)
        over_users(_carry, len(rows), history, rows, index.words, index.count, len(table), amounts)
        return amounts

    def words(self, table: ItemTable, batch: MicroBatch, b: int, row: int) -> list[str]:
        """The words that an item shares with the last events of user b, the heaviest first."""
        index, history = self.index(table.index.catalogue), batch.host.history[b]
        weights = np.zeros(MOST_KEYWORDS, np.float32)
        _told(history, index.words[row], index.words, index.count, len(table), weights)
        heaviest = np.argsort(-weights, kind="stable")[:WORDS]
        return [index.names[index.words[row, slot]] for slot in heaviest.tolist() if weights[slot] > 0]


@njit(cache=True, nogil=True)
def _enter(rows, of_rows, words, count, posted, posts):
    """Let rows have other words."""
    for at in range(len(rows)):
        row = rows[at]
        for slot in range(words.shape[1]):
            if words[row, slot] >= 0:
                count[words[row, slot]] -= 1
        for slot in range(words.shape[1]):
            word = of_rows[at, slot]
            if word < 0:
                continue
            count[word] += 1
            known = False
            for before in range(posted.shape[1]):
                known |= posted[word, before] == row
            if not known:
                posted[word, posts[word] % posted.shape[1]] = row
                posts[word] += 1
        words[row] = of_rows[at]


@njit(cache=True, inline="always")
def _idf(count, items):
    return np.float32(np.log((1.0 + items) / (1.0 + count)))


@njit(cache=True)
def _norm(words, count, items):
    total = np.float32(1e-12)
    for word in words:
        if word >= 0:
            total += _idf(count[word], items) ** 2
    return np.sqrt(total)


@njit(cache=True)
def _user_words(history, words, count, items, weights):
    """Add up the words of the last events, the newer the more."""
    recency, total = np.float32(1.0), np.float32(1e-12)
    for t in range(len(history) - 1, -1, -1):
        if history[t] >= 0:
            total += recency
            recency *= np.float32(_DECAY)
    recency = np.float32(1.0) / total
    for t in range(len(history) - 1, -1, -1):
        if history[t] >= 0:
            of_event = words[history[t]]
            norm = _norm(of_event, count, items)
            for word in of_event:
                if word >= 0:
                    weights[word] += recency * _idf(count[word], items) / norm
            recency *= np.float32(_DECAY)


@njit(cache=True)
def _told(history, of_item, words, count, items, weights):
    """How much each word of an item weighs in the last events, but for what is the same for all."""
    recency = np.float32(1.0)
    for t in range(len(history) - 1, -1, -1):
        if history[t] >= 0:
            of_event = words[history[t]]
            norm = _norm(of_event, count, items)
            for slot in range(len(of_item)):
                for word in of_event:
                    if 0 <= word == of_item[slot]:
                        weights[slot] += recency * _idf(count[word], items) / norm
            recency *= np.float32(_DECAY)


@njit(cache=True)
def _forget_words(history, words, weights):
    for row in history:
        if row >= 0:
            for word in words[row]:
                if word >= 0:
                    weights[word] = 0.0


@njit(cache=True)
def _shared(of_item, count, items, weights):
    total = np.float32(0)
    for word in of_item:
        if word >= 0 and weights[word] > 0:
            total += weights[word] * _idf(count[word], items)
    return total / _norm(of_item, count, items) if total > 0 else total


@njit(cache=True, nogil=True)
def _weigh(first, last, history, rows, words, count, items, into):
    weights = np.zeros(len(count), np.float32)
    for b in range(first, last):
        _user_words(history[b], words, count, items, weights)
        for c in range(rows.shape[1]):
            if rows[b, c] >= 0:
                into[b, c, 0] = np.float32(TEXT_SCALE) * _shared(words[rows[b, c]], count, items, weights)
        _forget_words(history[b], words, weights)


@njit(cache=True, nogil=True)
def _find(first, last, history, words, count, posted, items, excluded, excluded_from, into):
    weights, seen = np.zeros(len(count), np.float32), np.zeros(max(1, items), np.bool_)
    most = history.shape[1] * words.shape[1] * posted.shape[1]
    rows, amounts = np.zeros(most, np.int32), np.zeros(most, np.float32)
    for b in range(first, last):
        out = excluded[excluded_from[b] : excluded_from[b + 1]]
        seen[out] = True
        _user_words(history[b], words, count, items, weights)
        found = 0
        for row in history[b]:
            for slot in range(words.shape[1] if row >= 0 else 0):
                word = words[row, slot]
                if word < 0:
                    continue
                for other in posted[word]:
                    if 0 <= other < items and not seen[other]:
                        seen[other] = True
                        rows[found], amounts[found] = other, _shared(words[other], count, items, weights)
                        found += 1
        least, level = _bound(amounts[:found], into.shape[1])
        at = 0
        for one in range(found):
            seen[rows[one]] = False
            if amounts[one] > least or (amounts[one] == least and level > 0):
                level -= amounts[one] == least
                into[b, at] = rows[one]
                at += 1
        seen[out] = False
        _forget_words(history[b], words, weights)


@njit(cache=True, nogil=True)
def _carry(first, last, history, rows, words, count, items, amounts):
    weights = np.zeros(len(count), np.float32)
    for b in range(first, last):
        recency = np.float32(1.0)
        for t in range(history.shape[1] - 1, -1, -1):
            if history[b, t] < 0:
                continue
            one = history[b, t : t + 1]
            _user_words(one, words, count, items, weights)
            for j in range(rows.shape[1]):
                if rows[b, j] >= 0:
                    amounts[b, j, t] = recency * _shared(words[rows[b, j]], count, items, weights)
            _forget_words(one, words, weights)
            recency *= np.float32(_DECAY)
