"""Everything that can be recommended: a matrix in memory, and a replica of the `item-vectors` topic on local disk."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar, cast
from zlib import crc32

import numpy as np
from rocksdict import Options, Rdict

from model.consumed import fingerprints
from model.interest import interest_space
from model.schema import ItemVector, decode_item_vector, decoded, encode_json, item_key

T = TypeVar("T")


def encoder_number(encoder_version: str) -> int:
    """The 32-bit number that stands for an encoder version in state."""
    return crc32(encoder_version.encode())


class Catalogue:
    """The items that have a vector of the current encoder version, one row each.

    `revision` grows with every change, so whoever derives something from the matrix knows when to do it again. When an
    item comes with another encoder version than the ones before, the older items wait until they come again.

    Shape: vectors (items, encoder dimensions); interest_vectors (items, 64); keys (items,) uint64, `item_key` of each.
    """

    def __init__(self) -> None:
        self.encoder_version = ""
        self.revision = 0
        self.item_ids: list[str] = []
        self._rows: dict[int, int] = {}
        self._keys = np.zeros(0, np.uint64)
        self._vectors = np.zeros((0, 0), np.float32)
        self._interest_vectors = np.zeros((0, 0), np.float32)
        self._by_fingerprint: tuple[int, np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def encoder(self) -> int:
        """The number that stands for the encoder version in a user's interests."""
        return encoder_number(self.encoder_version)

    @property
    def keys(self) -> np.ndarray:
        return self._keys[: len(self)]

    @property
    def vectors(self) -> np.ndarray:
        return self._vectors[: len(self)]

    @property
    def interest_vectors(self) -> np.ndarray:
        return self._interest_vectors[: len(self)]

    def row(self, key: int) -> int:
        """The row of an item key, or -1."""
        return self._rows.get(key, -1)

    def rows(self, keys: Iterable[int]) -> np.ndarray:
        """The rows of many item keys, -1 where there is none; (n,) -> (n,) int64."""
        return np.fromiter((self._rows.get(key, -1) for key in keys), np.int64)

    def rows_of_fingerprints(self, wanted: np.ndarray) -> np.ndarray:
        """The rows of items known by their fingerprints (model/consumed.py), -1 for none; (n,) uint32 -> (n,) int64."""
        if not len(self):
            return np.full(len(wanted), -1)
        if self._by_fingerprint is None or self._by_fingerprint[0] != self.revision:
            all_of_them = fingerprints(self.keys)
            order = all_of_them.argsort()
            self._by_fingerprint = self.revision, all_of_them[order], order
        _, known, order = self._by_fingerprint
        at = np.searchsorted(known, wanted).clip(max=len(known) - 1)
        return np.where(known[at] == wanted, order[at], -1)

    def lookup(self, key: int) -> np.ndarray | None:
        """The vector of an item key in the interest space, shape (64,), or None."""
        row = self._rows.get(key, -1)
        return self._interest_vectors[row] if row >= 0 else None

    def apply(self, items: Iterable[ItemVector]) -> None:
        """Take over new, changed and deleted items, in their order."""
        newest = {item.item_id: item for item in items if item.deleted or _readable(item)}
        changed = [item for item in newest.values() if not item.deleted]
        for item in newest.values():
            if item.deleted:
                self._delete(item_key(item.item_id))
        if changed:
            self._put([item for item in changed if item.encoder_version == changed[-1].encoder_version])
        self.revision += bool(newest)

    def takes(self, item: ItemVector) -> bool:
        """Whether the item's vector fits beside the ones that are here."""
        fits = item.encoder_version == self.encoder_version and len(item.vector) == 2 * self._vectors.shape[1]
        return fits and _readable(item)

    def _put(self, items: list[ItemVector]) -> None:
        same = items[0].encoder_version == self.encoder_version
        octets = 2 * self._vectors.shape[1] if same else len(items[-1].vector)
        items = [item for item in items if len(item.vector) == octets]
        if not items:
            return
        vectors = np.stack([np.frombuffer(item.vector, "<f2") for item in items]).astype(np.float32)
        if not same:
            self.__dict__.update(Catalogue().__dict__, revision=self.revision)
            self.encoder_version = items[0].encoder_version
        rows = np.array([self._row_for(item.item_id) for item in items])
        self._reserve(vectors.shape[1])
        self._vectors[rows], self._interest_vectors[rows] = vectors, interest_space(vectors)
        self._keys[rows] = [item_key(item.item_id) for item in items]

    def _row_for(self, item_id: str) -> int:
        row = self._rows.setdefault(item_key(item_id), len(self.item_ids))
        if row == len(self.item_ids):
            self.item_ids.append(item_id)
        return row

    def _reserve(self, dim: int) -> None:
        if len(self) > len(self._keys):
            more = max(1_024, 2 * len(self))
            for name, shape in {"_keys": (more,), "_vectors": (more, dim), "_interest_vectors": (more, 64)}.items():
                old = getattr(self, name)
                new = np.zeros(shape, old.dtype)
                new[: len(old)] = old.reshape(len(old), *shape[1:])
                setattr(self, name, new)

    def _delete(self, key: int) -> None:
        """Take an item out; the last row moves into its place."""
        row = self._rows.pop(key, -1)
        if row < 0:
            return
        last_id = self.item_ids.pop()
        last = len(self.item_ids)
        if row != last:
            self.item_ids[row] = last_id
            self._rows[item_key(last_id)] = row
            for array in (self._keys, self._vectors, self._interest_vectors):
                array[row] = array[last]


def _readable(item: ItemVector) -> bool:
    """Whether an item's vector is one: some numbers, all finite."""
    return (
        bool(item.vector) and len(item.vector) % 2 == 0 and bool(np.isfinite(np.frombuffer(item.vector, "<f2")).all())
    )


class Replica:
    """The `item-vectors` topic on local disk, with the offsets it has reached, and the catalogue made from it.

    A restart opens the replica and reads from the topic only what is new.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._disk = Rdict(str(folder), Options(raw_mode=True))
        self.catalogue = Catalogue()
        self.offsets: dict[int, int] = {}
        stored = cast(list[tuple[bytes, bytes]], list(self._disk.items()))  # `raw_mode`: nothing but bytes
        self.catalogue.apply(decode_item_vector(value) for key, value in stored if key[:1] == b"i")
        self.offsets = {int(key[1:]): int(value) for key, value in stored if key[:1] == b"o"}

    def apply(self, records: Iterable[tuple[int, int, bytes | None]]) -> None:
        """Take over (partition, offset, value) records of `item-vectors`; one that cannot be read is passed over."""
        items = []
        for partition, offset, value in records:
            self.offsets[partition] = offset + 1
            item = decoded(value, decode_item_vector)
            if not isinstance(item, str):
                items.append(item)
        before = self.catalogue.encoder_version
        self.catalogue.apply(items)
        if self.catalogue.encoder_version != before:
            self._drop_items()
        for item in items:
            key = b"i" + item.item_id.encode("utf-8", "surrogatepass")
            if item.deleted:
                self._disk.delete(key)
            elif self.catalogue.takes(item):
                self._disk[key] = encode_json(item)
        for partition, offset in self.offsets.items():
            self._disk[b"o%d" % partition] = b"%d" % offset

    def _drop_items(self) -> None:
        for key in cast(list[bytes], list(self._disk.keys())):
            if key[:1] == b"i":
                del self._disk[key]

    def clear(self) -> None:
        """Forget everything: the topic was made anew."""
        for key in list(self._disk.keys()):
            del self._disk[key]
        self.catalogue, self.offsets = Catalogue(), {}

    def close(self) -> None:
        self._disk.close()


def first_free(folder: Path, make: Callable[[Path], T]) -> T:
    """Make something that keeps a RocksDB, in the first folder under `folder` that no other process holds."""
    number = 0
    while True:
        try:
            return make(folder / str(number))
        except Exception as error:  # rocksdict raises a plain Exception for a lock that is held
            if "lock" not in str(error).lower():
                raise
        number += 1
