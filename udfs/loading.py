"""Which model version makes a list: versions are loaded and tried beside the calls that score.

versions of a request, best first ─┬─ ready ─────► makes the list
                                   ├─ unknown ───► a thread loads and tries it; the best that is ready makes this one
                                   └─ refused ───► the next one; it is tried again later
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from model.catalogue import Catalogue
from model.schema import ItemVector, Rejected, VersionError
from model.statistics import ItemStatistics
from model.versions import name_of

KEPT_VERSIONS = 4
RETRY_S = 30.0
"""A version that was refused is tried again after this time."""
LOAD_S = 60.0
"""A version that is not loaded after this time is refused."""
FIRST_S = 10.0
"""So long a worker that has just started waits for its first version, before it makes untrained lists."""
CLOSE_S = 2.0
"""So long a worker that ends waits for each version that is being loaded."""
MOST_LOADS = 4
"""So many threads may load at once; where all of them wait for a registry that does not answer, no more is tried."""
SAMPLE = 256
"""Items on which a version is tried."""

logger = logging.getLogger(__name__)

T = TypeVar("T")

Load = Callable[[str, Catalogue], Any]
"""(path, some items) -> a scorer that has been tried on them; whatever it raises refuses the version."""

Begin = Callable[[Callable[[], None]], None]
"""Runs some work beside the caller."""


def in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="load-version", daemon=True).start()


class Loading:
    """Work on a path, beside the caller, and what came of it."""

    def __init__(self, path: str, work: Callable[[], Any], begin: Begin = in_thread) -> None:
        self.path, self.result, self.error = path, None, None
        self._work, self._began, self._over = work, time.monotonic(), threading.Event()
        begin(self._run)

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # what a path from a topic leads to may fail in any way
            self.error = error
        self._over.set()

    def is_over(self, wait_s: float) -> bool:
        return self._over.wait(wait_s)

    def hangs(self) -> bool:
        return time.monotonic() - self._began > LOAD_S and not self._over.is_set()


_hung: list[Loading] = []  # by `limited`


def limited(path: str, done: str, work: Callable[[], T], limit_s: float) -> T:
    """Do some work on a path of the registry, which may never answer.

    Args:
        done: what shall be done with the path, as in "loaded".

    Raises:
        VersionError: it takes longer; or work on the path hangs already, or on too many others.
        BaseException: what the work raises.
    """
    _hung[:] = [one for one in _hung if not one.is_over(0)]
    if len(_hung) >= MOST_LOADS or any(one.path == path for one in _hung):
        hung = ", ".join(one.path for one in _hung)
        raise VersionError(f"{path}: not {done} while the registry does not answer for {hung}")
    loading = Loading(path, work)
    if not loading.is_over(limit_s):
        _hung.append(loading)
        raise VersionError(f"{path}: not {done} in {limit_s:g} s; does the registry answer?")
    if loading.error is not None:
        raise loading.error
    return loading.result


class Scorers:
    """The last few model versions, loaded; one that cannot be used is tried again after a while.

    Where none of a request's versions can, the one that made the last list goes on. Where that cannot either, all of
    them are loaded, not the best one alone.

    Args:
        load: from inside a thread.
        untrained: the scorer of so many dimensions that serves before there is a version.
    """

    def __init__(self, load: Load, untrained: Callable[[int], Any], begin: Begin = in_thread) -> None:
        self._load, self._untrained, self._begin_thread = load, untrained, begin
        self._loaded: dict[str, Any] = {}  # the one used last stands last
        self._loading: dict[str, Loading] = {}
        self._hung: list[Loading] = []
        self._refused: dict[str, float] = {}  # until when
        self._rejected: list[bytes] = []
        self._last = ""  # the path of the version that made the last list
        self._blank: tuple[int, Any] | None = None  # the untrained scorer, and of how many dimensions
        self._sample: tuple[tuple[str, int], Catalogue] | None = None
        self._patience_s = FIRST_S

    def first(
        self, paths: Sequence[str], statistics: ItemStatistics, catalogue: Catalogue
    ) -> tuple[str, Any, list[bytes]]:
        """The first of the versions that is ready for this catalogue; while it is loaded, what stands in.

        Returns:
            Its name, its scorer, and a `rejected-events` record for each version that was refused just now.
        """
        self._last = self._ready(paths, statistics, catalogue)
        self._patience_s = 0.0
        scorer = self._used(self._last) if self._last else self._untrained_for(catalogue.vectors.shape[1])
        rejected, self._rejected = self._rejected, []
        return name_of(self._last) if self._last else "untrained", scorer, rejected

    def refuse_last(self, error: Exception) -> bool:
        """Refuse the version that `first` has given, which failed at a list.

        Returns:
            Whether it was one: it is not the version's fault if the untrained scorer fails too.
        """
        refused = self._loaded.pop(self._last, None) is not None
        if refused:
            self._refuse(self._last, error)
        return refused

    def close(self) -> None:
        """Wait a little for what is on its way: torch ends a process badly in which a thread is at work."""
        for loading in self._loading.values():
            loading.is_over(CLOSE_S)

    def _ready(self, paths: Sequence[str], statistics: ItemStatistics, catalogue: Catalogue) -> str:
        """The path of what makes the list, empty for the untrained scorer."""
        self._collect()
        for path in paths:
            self._begin(path, catalogue)
            if self._can_serve(path, statistics, catalogue):
                return path
            if not self._is_refused(path):
                break  # it is on its way
        for path in (*paths, self._last) if paths else ():
            if path and self._can_serve(path, statistics, catalogue):
                return path
        for path in paths:
            self._begin(path, catalogue)
        return ""

    def _is_refused(self, path: str) -> bool:
        return self._refused.get(path, 0.0) >= time.monotonic()

    def _begin(self, path: str, catalogue: Catalogue) -> None:
        """Load a version that is new, without any item there is nothing to try it on."""
        if not len(catalogue) or path in self._loaded or self._is_refused(path):
            return
        if len(self._hung) >= MOST_LOADS:
            self._refuse(path, VersionError(f"{path}: not loaded while {MOST_LOADS} others hang; see the registry"))
        on_its_way = path in self._loading
        if on_its_way or len(self._loading) + len(self._hung) >= MOST_LOADS:
            return
        try:
            loading = Loading(path, partial(self._load, path, self._some_of(catalogue)), self._begin_thread)
        except Exception as error:  # there is no thread to be had
            self._refuse(path, error)
            return
        self._loading[path] = loading
        self._wait_for(loading)
        self._collect()

    def _wait_for(self, loading: Loading) -> None:
        """Where this worker has only just started, there is nothing else to do."""
        began = time.monotonic()
        over = loading.is_over(self._patience_s)
        self._patience_s = max(0.0, self._patience_s - (time.monotonic() - began)) if over else 0.0

    def _collect(self) -> None:
        """Take over what has been loaded, be it wanted still or not, and give up what hangs."""
        for path, loading in list(self._loading.items()):
            if loading.is_over(0):
                del self._loading[path]
                if loading.error is None:
                    self._keep(path, loading.result)
                else:
                    self._refuse(path, loading.error)
            elif loading.hangs():
                self._hung.append(self._loading.pop(path))
                self._refuse(path, VersionError(f"{path}: not loaded in {LOAD_S:g} s; does the registry answer?"))
        self._hung = [one for one in self._hung if not one.is_over(0)]

    def _can_serve(self, path: str, statistics: ItemStatistics, catalogue: Catalogue) -> bool:
        """Whether a version is loaded and knows the catalogue; what it knows of it is kept for the next lists."""
        if path not in self._loaded:
            return False
        try:
            self._loaded[path].table(statistics, catalogue)
        except Exception as error:  # as when it is tried
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

    def _keep(self, path: str, scorer: Any) -> None:
        """Keep a version that was loaded; the one used longest ago makes room, never the one that serves."""
        self._loaded[path] = scorer
        if self._last in self._loaded:
            self._used(self._last)
        while len(self._loaded) > KEPT_VERSIONS:
            del self._loaded[next(iter(self._loaded))]

    def _used(self, path: str) -> Any:
        self._loaded[path] = scorer = self._loaded.pop(path)
        return scorer

    def _untrained_for(self, dim: int) -> Any:
        if self._blank is None or self._blank[0] != dim:
            self._blank = dim, self._untrained(dim)
        return self._blank[1]

    def _some_of(self, catalogue: Catalogue) -> Catalogue:
        state = catalogue.encoder_version, min(SAMPLE, len(catalogue))
        if self._sample is None or self._sample[0] != state:
            self._sample = state, sample_of(catalogue)
        return self._sample[1]


def sample_of(catalogue: Catalogue) -> Catalogue:
    """Some items, apart from the catalogue, which may change meanwhile."""
    some, vectors = Catalogue(), catalogue.vectors[:SAMPLE].astype("<f2")
    ids = catalogue.item_ids[:SAMPLE]
    some.apply(ItemVector(id_, catalogue.encoder_version, vector.tobytes()) for id_, vector in zip(ids, vectors))
    return some
