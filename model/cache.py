"""A folder of RocksDB that belongs to one process and can be thrown away: what it holds can be made again.

A folder that cannot be read is emptied, and the log says so. One that another process holds is left to it.
"""

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from rocksdict import Options, Rdict, WriteBatch

from model.schema import HeadraceError

T = TypeVar("T")

MOST_FOLDERS = 1_024
"""So many processes of a machine may have a folder of one kind."""
_HELD = re.compile(
    r"IO error: (lock hold by current process,|While lock file: .*/LOCK: Resource temporarily unavailable\Z)", re.DOTALL
)
"""What RocksDB says where this process, or another one, holds the folder's lock; rocksdict raises a plain Exception."""
_BROKEN = "BROKEN"
"""A file of this name in a folder says that it has to be emptied: it was found broken while it was in use."""

logger = logging.getLogger(__name__)


def is_held(error: Exception) -> bool:
    """Whether RocksDB could not open a folder because a process holds it.

    >>> is_held(Exception("IO error: While lock file: /a/0/LOCK: Resource temporarily unavailable"))
    True
    >>> is_held(OSError("the disk is locked"))
    False
    """
    return _HELD.match(str(error)) is not None


def first_free(folder: Path, make: Callable[[Path], T]) -> T:
    """Make something that keeps a `Cache`, in the first folder under `folder` that no process holds.

    One process at a time looks for its folder, so that none empties what another has just opened.

    Raises:
        HeadraceError: `MOST_FOLDERS` are held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for number in range(MOST_FOLDERS):
            try:
                return make(folder / str(number))
            except Exception as error:
                if not is_held(error):
                    raise
    raise HeadraceError(f"{folder}: the folders 0 to {MOST_FOLDERS - 1} are held by processes; end those that are old")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Cache:
    """Bytes by bytes in a folder. Where the disk fails later, what is asked is not there and nothing more is kept.

    Raises:
        Exception: as `is_held` tells, a process holds the folder; or it can be neither read nor emptied.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._disk = self._open()
            self.is_kept = True
            broken = (folder / _BROKEN).exists() and "it was found broken before"
        except Exception as error:
            if is_held(error):
                raise
            self._disk = None  # type: ignore[assignment]  # until `rebuild` opens it
            broken = str(error)
        if broken:
            self.rebuild(broken)

    def _open(self) -> Rdict:
        return Rdict(str(self._folder), Options(raw_mode=True))

    def rebuild(self, reason: str) -> None:
        """Begin with an empty folder. For whoever has just opened it: see `first_free`."""
        logger.warning("%s cannot be used and is made anew: %s", self._folder, reason)
        self.close()
        for path in self._folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self._disk, self.is_kept = self._open(), True

    def items(self) -> Generator[tuple[bytes, bytes], None, None]:
        """All that is kept. Whoever does not read it to the end closes it: as long as it is open, so is the folder.

        Raises:
            Exception: a part of it cannot be read.
        """
        entries = self._disk.iter()
        entries.seek_to_first()
        try:
            while entries.valid():
                yield entries.key(), entries.value()
                entries.next()
            entries.status()  # raises where the iteration ended too early
        finally:
            del entries  # a traceback would hold it

    def get(self, key: bytes) -> bytes | None:
        """What is kept, or None."""
        if not self.is_kept:
            return None
        try:
            return self._disk.get(key)
        except Exception as error:
            self._give_up(error)
            with suppress(OSError):
                (self._folder / _BROKEN).touch()
            return None

    def write(self, changes: dict[bytes, bytes | None], emptied: bool = False) -> None:
        """Keep these, and delete where there is None: all of it or nothing.

        Args:
            emptied: delete first all keys below 255.
        """
        if not self.is_kept:
            return
        batch = WriteBatch(raw_mode=True)
        if emptied:
            batch.delete_range(b"", b"\xff")
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        try:
            self._disk.write(batch)
        except Exception as error:  # a full disk: what is kept so far stays as it is
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.is_kept = False
        logger.error("%s fails, nothing more is kept there until the next start: %s", self._folder, error)

    def close(self) -> None:
        """Let go of the folder."""
        if self._disk is not None:
            self._disk.close()
