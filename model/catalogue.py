"""Everything that can be recommended: matrices in memory, and a replica of the `item-vectors` topic on local disk.

item-vectors ─► the encoder version that serves ─► lists, interests, learning
             └► others that come: kept apart until one of them is complete, or is pinned by hand
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from itertools import groupby, islice, zip_longest
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec
import numpy as np

from model.cache import Cache, first_free
from model.interest import INTEREST_DIM, interest_space
from model.rows import Rows
from model.schema import ItemVector, Rejected, decode_item_vector, decoded, encode_json, item_key

COMPLETE = 0.9
"""Another encoder version serves as soon as it has this share of the items of the one that does."""
MEAGRE = 0.5
"""A replica that was built anew does not go on with a version that has less than this share of what the largest has."""
MOST_OTHERS = 3
"""So many encoder versions are kept beside the one that serves."""
MOST_DIMENSIONS = 16_384
_KEPT_CHANGES = 1_000  # calls: whoever has missed more of them looks at every row
MOST_CHARACTERS = 256
"""Of an item's id, and of an encoder's version."""

logger = logging.getLogger(__name__)


def encoder_number(encoder_version: str) -> int:
    """The 32-bit number that stands for an encoder version in state."""
    return crc32(encoder_version.encode())


class Space(NamedTuple):
    """Where vectors can be compared: of one encoder version and one size."""

    encoder_version: str
    dim: int


NOWHERE = Space("", 0)


def space_of(item: ItemVector) -> Space | None:
    """The space of an item's vector; None if it has none that can be read."""
    dim, odd = divmod(len(item.vector), 2)
    named = all(0 < len(name) <= MOST_CHARACTERS for name in (item.item_id, item.encoder_version))
    if odd or not named or not 0 < dim <= MOST_DIMENSIONS:
        return None
    return Space(item.encoder_version, dim) if np.isfinite(np.frombuffer(item.vector, "<f2")).all() else None


class Matrix:
    """The items that have a vector in one space, one row each. Only one that was `opened` has them in the interest
    space. `keywords` are those of the items that have some, by their keys.

    Shape: vectors (items, encoder dimensions); interest_vectors (items, 64); keys (items,) uint64, `item_key` of each.
    """

    def __init__(self, space: Space = NOWHERE) -> None:
        self.space = space
        self.item_ids: list[str] = []
        self.row_of = Rows()
        self.keywords: dict[int, list[str]] = {}
        self._keys = np.zeros(0, np.uint64)
        self._vectors = np.zeros((0, space.dim), np.float32)
        self._interest_vectors = np.zeros((0, INTEREST_DIM), np.float32)
        self._is_open = False

    def __len__(self) -> int:
        return len(self.item_ids)

    def opened(self) -> "Matrix":
        """This, with its vectors in the interest space from now on. A projection is kept for every size of vectors:
        none is made for whatever comes with a size of its own and never serves.
        """
        if not self._is_open:
            self._interest_vectors = interest_space(self._vectors)
        self._is_open = True
        return self

    @property
    def keys(self) -> np.ndarray:
        return self._keys[: len(self)]

    @property
    def vectors(self) -> np.ndarray:
        return self._vectors[: len(self)]

    @property
    def interest_vectors(self) -> np.ndarray:
        return self._interest_vectors[: len(self)]

    def put(self, item_ids: list[str], vectors: np.ndarray, keywords: Sequence[list[str]] = ()) -> np.ndarray:
        """Take over new and changed items; none comes twice. Returns their rows."""
        keys = np.array([item_key(item_id) for item_id in item_ids], np.uint64)
        rows = self.row_of.put(keys)
        for item_id, row in zip(item_ids, rows.tolist()):
            if row == len(self.item_ids):
                self.item_ids.append(item_id)
        self._reserve()
        self._vectors[rows] = vectors
        if self._is_open:
            self._interest_vectors[rows] = interest_space(vectors)
        self._keys[rows] = keys
        if any(keywords) or self.keywords:
            self._put_keywords(keys.tolist(), keywords)
        return rows

    def _put_keywords(self, keys: list[int], keywords: Sequence[list[str]]) -> None:
        for key, words in zip_longest(keys, keywords):
            if words:
                self.keywords[key] = words
            else:
                self.keywords.pop(key, None)

    def _reserve(self) -> None:
        if len(self) > len(self._keys):
            more = max(1_024, 2 * len(self))
            for name in self._arrays():
                old = getattr(self, name)
                new = np.zeros((more, *old.shape[1:]), old.dtype)
                new[: len(old)] = old
                setattr(self, name, new)

    def delete(self, key: int) -> bool:
        """Take an item out, if it is there; the last row moves into its place."""
        last = len(self) - 1
        row = self.row_of.pop(key, int(self._keys[last])) if len(self) else -1
        if row < 0:
            return False
        self.keywords.pop(key, None)
        last_id = self.item_ids.pop()
        if row != last:
            self.item_ids[row] = last_id
            for name in self._arrays():
                array = getattr(self, name)
                array[row] = array[last]
        return True

    def _arrays(self) -> tuple[str, ...]:
        return ("_keys", "_vectors", "_interest_vectors") if self._is_open else ("_keys", "_vectors")

    def shared_with(self, other: "Matrix") -> int:
        """How many items both have."""
        return int((other.row_of.find(self.keys) >= 0).sum())

    def without(self, others: Iterable["Matrix"]) -> "Matrix":
        """The items that none of the others has."""
        own = np.ones(len(self), bool)
        for other in others:
            own &= other.row_of.find(self.keys) < 0
        rest, rows = Matrix(self.space), np.flatnonzero(own)
        if len(rows):
            words = [self.keywords.get(key, []) for key in self.keys[rows].tolist()] if self.keywords else []
            rest.put([self.item_ids[row] for row in rows], self.vectors[rows], words)
        return rest


Place = tuple[Space, str]
"""A space, and an item in it."""


class Catalogue:
    """The items of the encoder version that serves; those of a few others are kept apart.

    The one that serves stays until another is *complete*: has `COMPLETE` of its items. A record with `pinned` and
    without an item id pins an encoder version: that one serves as soon as it has any item, whatever is complete, until
    another such record ends it. A deletion applies to every version. What serves changes in place, so that whoever
    holds the catalogue goes on with it.

    An item that comes with a version that does not serve belongs to that version alone, as it does on a compacted
    topic; only what serves keeps its vector of before. So the decision follows from the records in their order, however
    they are cut into calls of `apply`. The topic keeps an item's newest record only: a reader that comes late finds of
    the version that serves elsewhere what has not come again since. `settle` decides what it goes on with.

    `MOST_OTHERS` other versions are kept; where one more comes, the smallest goes. `revision` grows with every change
    of what serves, so whoever derives something from it knows when to do it again.
    """

    def __init__(self) -> None:
        self.serving, self.others = Matrix(), dict[Space, Matrix]()
        self.pinned = ""
        self.revision = 0
        self._changes: deque[tuple[int, np.ndarray]] = deque(maxlen=_KEPT_CHANGES)  # revision -> rows

    def __len__(self) -> int:
        return len(self.serving)

    @property
    def encoder_version(self) -> str:
        return self.serving.space.encoder_version

    @property
    def encoder(self) -> int:
        """The number that stands for the encoder version in a user's interests."""
        return encoder_number(self.encoder_version)

    @property
    def item_ids(self) -> list[str]:
        return self.serving.item_ids

    @property
    def keys(self) -> np.ndarray:
        return self.serving.keys

    @property
    def vectors(self) -> np.ndarray:
        return self.serving.vectors

    @property
    def interest_vectors(self) -> np.ndarray:
        return self.serving.interest_vectors

    @property
    def keywords(self) -> dict[int, list[str]]:
        """By item key, the keywords of the items that have some."""
        return self.serving.keywords

    def row(self, key: int) -> int:
        """The row of an item key, or -1."""
        return self.serving.row_of.row(key)

    def rows(self, keys: np.ndarray | Iterable[int]) -> np.ndarray:
        """The rows of many item keys, -1 where there is none; (n,) uint64 -> (n,) int64."""
        return self.serving.row_of.find(keys if isinstance(keys, np.ndarray) else np.fromiter(keys, np.uint64))

    def rows_of_fingerprints(self, wanted: np.ndarray) -> np.ndarray:
        """The rows of items known by their fingerprints (model/consumed.py), -1 for none; (n,) uint32 -> (n,) int64."""
        return self.serving.row_of.find_fingerprints(wanted)

    def changed_since(self, revision: int) -> np.ndarray | None:
        """The rows that have changed after a revision, also some that are gone; None where nobody knows any more."""
        if revision == self.revision:
            return np.zeros(0, np.int64)
        if not self._changes or self._changes[0][0] > revision + 1 or self._changes[-1][0] != self.revision:
            return None
        return np.unique(np.concatenate([rows for at, rows in self._changes if at > revision]))

    def _change(self, rows: np.ndarray | None) -> None:
        """Note that these rows have changed; None for all of them."""
        self.revision += 1
        if rows is None:
            self._changes.clear()
        else:
            self._changes.append((self.revision, rows))

    def lookup(self, key: int) -> np.ndarray | None:
        """The vector of an item key in the interest space, shape (64,), or None."""
        row = self.row(key)
        return self.interest_vectors[row] if row >= 0 else None

    def holds(self, space: Space, item_id: str) -> bool:
        """Whether the item has a vector in this space, be it the one that serves or another."""
        matrix = self.serving if space == self.serving.space else self.others.get(space)
        return matrix is not None and item_key(item_id) in matrix.row_of

    def apply(self, records: Iterable[ItemVector]) -> list[Place]:
        """Take over new, changed and deleted items and what is pinned, in their order.

        Returns:
            What was taken out on the way.
        """
        gone: list[Place] = []
        for what, run in groupby(records, _what):
            if isinstance(what, Space):
                gone += self._put(what, list(run)) + self._decide()
                continue
            for record in run if what else ():
                if what == "pin":
                    self.pinned = record.encoder_version if record.pinned else ""
                gone += (self._delete(record.item_id) if what == "delete" else []) + self._decide()
        return gone

    def settle(self) -> list[Place]:
        """Decide once more, where all of this comes from a compacted topic, read from its beginning to its end.

        The first that came serves, unless it is `MEAGRE`: then the topic has lost most of it, and the next one does.

        Returns:
            What was taken out on the way.
        """
        every = [self.serving, *self.others.values()]
        enough = MEAGRE * max(map(len, every))
        return self._serve(self._pinned() or next(one for one in every if len(one) >= enough))

    def restore(self, serving: Matrix, others: Iterable[Matrix], pinned: str) -> None:
        """Go on with what was here before."""
        self.serving, self.others, self.pinned = serving.opened(), {other.space: other for other in others}, pinned
        self._change(None)

    def clear(self) -> None:
        """Forget everything."""
        self.serving, self.others, self.pinned = Matrix(), {}, ""
        self._change(None)

    def _put(self, space: Space, run: list[ItemVector]) -> list[Place]:
        newest = {item.item_id: item for item in run}
        vectors = np.stack([np.frombuffer(item.vector, "<f2") for item in newest.values()]).astype(np.float32)
        gone = [] if space == self.serving.space else self._make_room(space)
        matrix = self.serving if space == self.serving.space else self.others[space]
        rows = matrix.put(list(newest), vectors, [item.keywords for item in newest.values()])
        if matrix is self.serving:
            self._change(rows)
        superseded = [other for other in self.others.values() if other is not matrix]
        for item_id in newest if superseded else ():
            key = item_key(item_id)
            gone += [(other.space, item_id) for other in superseded if other.delete(key)]
        return gone

    def _make_room(self, space: Space) -> list[Place]:
        """Keep one more space; the smallest goes where there are too many, the oldest of them if they are alike."""
        if space in self.others:
            return []
        gone = []
        while len(self.others) >= MOST_OTHERS:
            smallest = min(self.others.values(), key=len)
            gone += [(smallest.space, item_id) for item_id in smallest.item_ids]
            del self.others[smallest.space]
        self.others[space] = Matrix(space)
        return gone

    def _delete(self, item_id: str) -> list[Place]:
        key = item_key(item_id)
        if key in self.serving.row_of:  # the last row moves into its place
            self._change(np.array([self.row(key), len(self) - 1]))
        return [(one.space, item_id) for one in (self.serving, *self.others.values()) if one.delete(key)]

    def _decide(self) -> list[Place]:
        """Let another version serve if that is pinned or complete; what has no item left is not kept."""
        self.others = {space: other for space, other in self.others.items() if len(other)}
        complete = (other for other in self.others.values() if self._is_complete(other))
        return self._serve(self._pinned() or next(complete, self.serving))

    def _pinned(self) -> Matrix | None:
        """What is pinned, if there is any item of it."""
        every = (self.serving, *self.others.values())
        named = [one for one in every if len(one) and one.space.encoder_version == self.pinned]
        return max(named, key=len, default=None)

    def _is_complete(self, other: Matrix) -> bool:
        needed = COMPLETE * len(self.serving)
        return len(other) >= needed and other.shared_with(self.serving) >= needed

    def _serve(self, wanted: Matrix) -> list[Place]:
        """Let a version serve. What has come again belongs to the one before no longer."""
        former = self.serving
        if wanted is former:
            return []
        self.serving = self.others.pop(wanted.space).opened()
        self._change(None)
        rest = former.without([self.serving, *self.others.values()])
        if len(rest):
            self.others[former.space] = rest
        if len(former):
            now, before = wanted.space.encoder_version, former.space.encoder_version
            logger.warning("%d items of encoder %s serve now, after %d of %s", len(wanted), now, len(former), before)
        gone = rest.row_of.find(former.keys) < 0
        return [(former.space, former.item_ids[row]) for row in np.flatnonzero(gone)]


def _what(record: ItemVector) -> Space | str:
    """What a record does: puts an item into a space, deletes one, or pins; nothing if it cannot be read."""
    if record.pinned is not None:
        named = not record.pinned or 0 < len(record.encoder_version) <= MOST_CHARACTERS
        return "pin" if named and not record.item_id else ""
    if record.deleted:
        return "delete"
    return space_of(record) or ""


MOST_REJECTED = 20
"""So many records that were passed over wait to be told."""
_WANTED = f"1 to {MOST_DIMENSIONS} finite half-precision numbers of a named encoder are wanted"
LAYOUT = 1
_STATE, _ITEM = b"s", b"v"
_PREFIX = len(_ITEM) + 8
_CHUNK = 10_000
"""So many items are read from disk at once."""


class State(msgspec.Struct, frozen=True):
    """What a replica keeps beside the items; `source` is the topic that it follows, `settled` whether it has reached
    the topic's end.
    """

    layout: int
    source: str
    offsets: dict[int, int]
    serving: Space
    others: list[Space]
    pinned: str
    settled: bool


class Replica:
    """The `item-vectors` topic on local disk, with the offsets it has reached, and the catalogue made from it.

    A restart opens the replica, with the same versions serving and waiting, and reads from the topic only what is new.
    One that cannot be read is made anew. `rejected` are the newest records that were passed over, to be told.
    """

    def __init__(self, folder: Path) -> None:
        self.catalogue = Catalogue()
        self.source, self.offsets, self._settled = "", dict[int, int](), False
        self.rejected: deque[Rejected] = deque(maxlen=MOST_REJECTED)
        self._cache = Cache(folder)
        try:
            with closing(self._cache.items()) as entries:
                self._load(entries)
        except Exception as error:  # it is only a copy, whatever is wrong with it
            self._cache.rebuild(f"{type(error).__name__}: {error}")

    def _load(self, entries: Iterator[tuple[bytes, bytes]]) -> None:
        key, value = next(entries, (b"", b""))
        if not key:
            return
        if key != _STATE:
            raise ValueError("of another release")
        state = msgspec.json.decode(value, type=State)
        if state.layout != LAYOUT:
            raise ValueError(f"layout {state.layout}, {LAYOUT} is wanted")
        matrices = [Matrix(space) for space in (state.serving, *state.others)]
        by_prefix = {_key(matrix.space, ""): matrix for matrix in matrices}
        for prefix, part in groupby(entries, lambda entry: entry[0][:_PREFIX]):
            while chunk := list(islice(part, _CHUNK)):
                _read_into(by_prefix[prefix], chunk)
        self.catalogue.restore(matrices[0], matrices[1:], state.pinned)
        self.source, self.offsets, self._settled = state.source, state.offsets, state.settled

    def apply(self, records: Iterable[tuple[int, int, bytes | None]]) -> None:
        """Take over (partition, offset, value) records of `item-vectors`; one that cannot be read is passed over."""
        items = []
        for partition, offset, value in records:
            self.offsets[partition] = offset + 1
            item = decoded(value, decode_item_vector)
            reason = item if isinstance(item, str) else "" if _what(item) else f"no vector that can be read, {_WANTED}"
            if reason:
                self.rejected.append(Rejected.of("item-vectors", partition, offset, reason, value))
            elif not isinstance(item, str):
                items.append(item)
        self._keep(items, self.catalogue.apply(items))

    def settle(self) -> None:
        """The topic's end is reached; the first time, decide what serves of all that there is."""
        if not self._settled:
            self._settled = True
            self._keep([], self.catalogue.settle())

    def clear(self, source: str = "") -> None:
        """Forget everything, and follow this topic from its beginning."""
        self.catalogue.clear()
        self.source, self.offsets, self._settled = source, {}, False
        self._cache.write({_STATE: self._state()}, emptied=True)

    def _keep(self, items: Iterable[ItemVector], gone: Iterable[Place]) -> None:
        holds = self.catalogue.holds
        changes: dict[bytes, bytes | None] = {_key(*place): None for place in gone if not holds(*place)}
        for item in items:
            space = None if item.deleted else space_of(item)
            if space and holds(space, item.item_id):
                changes[_key(space, item.item_id)] = encode_json(item)
        self._cache.write(changes | {_STATE: self._state()})

    def _state(self) -> bytes:
        catalogue = self.catalogue
        about = catalogue.serving.space, list(catalogue.others), catalogue.pinned, self._settled
        return encode_json(State(LAYOUT, self.source, self.offsets, *about))

    def close(self) -> None:
        self._cache.close()


def open_replica(folder: Path) -> Replica:
    """The replica in the first folder under this one that no other process holds."""
    return first_free(folder, Replica)


def _key(space: Space, item_id: str) -> bytes:
    name = blake2b(f"{space.dim} {space.encoder_version}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return _ITEM + name + item_id.encode("utf-8", "surrogatepass")


def _read_into(matrix: Matrix, entries: list[tuple[bytes, bytes]]) -> None:
    items = [decode_item_vector(value) for _, value in entries]
    for (key, _), item in zip(entries, items):
        if space_of(item) != matrix.space or key != _key(matrix.space, item.item_id):
            raise ValueError(f"item {item.item_id!r} is not what its place is for")
    vectors = np.stack([np.frombuffer(item.vector, "<f2") for item in items])
    matrix.put([item.item_id for item in items], vectors, [item.keywords for item in items])
