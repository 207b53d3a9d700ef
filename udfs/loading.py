"""Which model version makes a list: versions are loaded and tried beside the calls that score.

versions of a request, best first ─┬─ ready ─────► makes the list
                                   ├─ unknown ───► a thread loads and tries it; what made the last list makes this one
                                   └─ refused ───► the next one; it is tried again later
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from model.catalogue import Catalogue
from model.schema import ItemVector, Rejected, VersionError
from model.versions import name_of, trained_path

KEPT_VERSIONS = 4
RETRY_S = 30.0
"""A version that was refused is tried again after this time."""
LOAD_S = 60.0
"""A version that is not loaded after this time is refused."""
FIRST_S = 10.0
"""So long a worker that has just started waits for its first version, before it makes untrained lists."""
MOST_HUNG = 4
"""So many threads may wait for a registry that does not answer; while they do, nothing more is loaded."""
SAMPLE = 256
"""Items on which a version is tried."""

logger = logging.getLogger(__name__)

Load = Callable[[str, Catalogue], Any]
"""(path, some items) -> a scorer that has been tried on them; whatever it raises refuses the version."""


Begin = Callable[[Callable[[], None]], None]
"""Runs some work beside the caller."""


def in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="load-version", daemon=True).start()


class Loading:
    """A version on its way, and what came of it."""

    def __init__(self, path: str, items: Catalogue, load: Load, begin: Begin = in_thread) -> None:
        self.path, self.scorer, self.error = path, None, None
        self._items, self._load = items, load
        self._began, self._over = time.monotonic(), threading.Event()
        begin(self._run)

    def _run(self) -> None:
        try:
            self.scorer = self._load(self.path, self._items)
        except BaseException as error:  # what a path from a topic leads to may fail in any way
            self.error = error
        self._over.set()

    def is_over(self, wait_s: float) -> bool:
        return self._over.wait(wait_s)

    def hangs(self) -> bool:
        return time.monotonic() - self._began > LOAD_S and not self._over.is_set()


class Scorers:
    """The last few model versions, loaded; one that cannot be used is tried again after a while.

    Where what was counted since a version was trained cannot be used, the version itself serves. Where none of a
    request's versions can, the one that made the last list goes on.

    Args:
        load: from inside a thread.
        untrained: the scorer of so many dimensions that serves before there is a version.
    """

    def __init__(self, load: Load, untrained: Callable[[int], Any], begin: Begin = in_thread) -> None:
        self._load, self._untrained, self._begin = load, untrained, begin
        self._loaded: dict[str, Any] = {}  # the one used last stands last
        self._loading: dict[str, Loading] = {}
        self._hung: list[Loading] = []
        self._refused: dict[str, float] = {}  # until when
        self._rejected: list[bytes] = []
        self._last = ""  # the path of the version that made the last list
        self._sample: tuple[tuple[str, int], Catalogue] | None = None

    def first(self, paths: Sequence[str], catalogue: Catalogue) -> tuple[str, Any, list[bytes]]:
        """The first of the versions that is ready for this catalogue; while it is loaded, what stands in.

        Returns:
            Its name, its scorer, and a `rejected-events` record for each version that was refused just now.
        """
        path = next(filter(None, self._usable(paths, catalogue)), "")
        dim = catalogue.vectors.shape[1]
        scorer = self._kept(path) if path else self._kept(f"untrained {dim}", lambda: self._untrained(dim))
        self._last = path
        rejected, self._rejected = self._rejected, []
        return name_of(path) if path else "untrained", scorer, rejected

    def _usable(self, paths: Sequence[str], catalogue: Catalogue):
        """The paths of versions that can make a list now, best first."""
        wanted = list(dict.fromkeys(path for one in paths for path in (one, trained_path(one))))
        for path in wanted:
            if self._is_refused(path):
                continue
            if path not in self._loaded and not self._has_come(path, catalogue):
                if path in self._loading:
                    break
                continue
            if self._fits(path, catalogue):
                yield path
        for path in (self._last, *wanted) if paths else ():
            if path in self._loaded and self._fits(path, catalogue):
                yield path

    def _is_refused(self, path: str) -> bool:
        return self._refused.get(path, 0.0) >= time.monotonic()

    def _has_come(self, path: str, catalogue: Catalogue) -> bool:
        """Whether a version is loaded by now; it is begun with if it is new."""
        self._hung = [one for one in self._hung if not one.is_over(0)]
        if path not in self._loading:
            if len(self._hung) >= MOST_HUNG:
                self._refuse(path, VersionError(f"{path}: not loaded while {MOST_HUNG} others hang; see the registry"))
                return False
            self._loading[path] = Loading(path, self._some_of(catalogue), self._load, self._begin)
        loading = self._loading[path]
        if not loading.is_over(0 if self._loaded else FIRST_S):
            if loading.hangs():
                self._hung.append(self._loading.pop(path))
                self._refuse(path, VersionError(f"{path}: not loaded in {LOAD_S:g} s; does the registry answer?"))
            return False
        del self._loading[path]
        if loading.error is not None:
            self._refuse(path, loading.error)
            return False
        self._kept(path, lambda: loading.scorer)
        return True

    def _fits(self, path: str, catalogue: Catalogue) -> bool:
        """Whether a version knows the catalogue; what it knows of it is kept for the lists that follow."""
        try:
            self._loaded[path].table(catalogue)
        except Exception as error:  # as above
            del self._loaded[path]
            self._refuse(path, error)
            return False
        return True

    def _refuse(self, path: str, error: BaseException) -> None:
        reason = str(error)
        if not isinstance(error, VersionError):
            reason = f"{path}: cannot be used: {type(error).__name__}: {error}"
        now = time.monotonic()
        self._refused = {one: until for one, until in self._refused.items() if until >= now} | {path: now + RETRY_S}
        logger.error("model version refused, the one before serves on: %s", reason)
        self._rejected.append(Rejected.of("model-versions", 0, -1, reason, path.encode()).as_json())

    def _kept(self, name: str, make: Callable[[], Any] | None = None):
        scorer = self._loaded.pop(name) if name in self._loaded else make()
        self._loaded[name] = scorer
        while len(self._loaded) > KEPT_VERSIONS:
            del self._loaded[next(iter(self._loaded))]
        return scorer

    def _some_of(self, catalogue: Catalogue) -> Catalogue:
        """Some items, apart from the catalogue, which may change meanwhile."""
        state = catalogue.encoder_version, min(SAMPLE, len(catalogue))
        if self._sample is None or self._sample[0] != state:
            some, vectors = Catalogue(), catalogue.vectors[:SAMPLE].astype("<f2")
            ids = catalogue.item_ids[:SAMPLE]
            some.apply(ItemVector(id_, state[0], vector.tobytes()) for id_, vector in zip(ids, vectors))
            self._sample = state, some
        return self._sample[1]
