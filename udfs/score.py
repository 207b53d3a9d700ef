"""score: packed requests in, top-k lists out; one call is a micro-batch on the GPU, or the CPU where there is none."""

import gc
import logging
import time
from collections import defaultdict, deque
from pathlib import Path

import pandas as pd
from pyflink.table.udf import ScalarFunction

from model import consumed, interest
from model.metrics import K
from model.schema import (
    POSITIVE, Recommendation, RecommendedItem, Rejected, Request, VersionError,
    decode_packed_request, encode_recommendation, event_key, item_key, rec_id,
)  # fmt: skip
from model.twin import FIGURES, Shown, Twin
from model.versions import name_of, trained_path
from udfs import worker

KEPT_VERSIONS = 4
RETRY_S = 30.0

logger = logging.getLogger(__name__)


class Score(ScalarFunction):
    """(request) -> (user_id, recommendation, rejected); `rejected` names a model version that could not be loaded.

    A request that forgets a user is answered without scoring.
    """

    def __init__(
        self,
        rules: interest.Rules,
        k: int,
        device: str,
        bootstrap_servers: str,
        item_vectors: str,
        replica_dir: str,
        threads: int,
        registry: str,
    ) -> None:
        self._rules, self._k, self._device = rules, k, device
        self._kafka = (bootstrap_servers, item_vectors)
        self._replica_dir, self._threads, self._registry = Path(replica_dir), threads, registry
        self._refused: deque[bytes] = deque()
        self._twin, self._metrics, self._measured = Twin(), None, set()

    def open(self, function_context) -> None:
        worker.prepare(self._threads)
        from model import device, registry, score
        from udfs.replica import CatalogueFollower

        self._score, self._metrics = score.score, function_context.get_metric_group()
        self._follower = CatalogueFollower(*self._kafka, self._replica_dir / "score")

        def load(path: str, device):
            registry.check_inside(path, self._registry)
            return score.load(path, device)

        self._scorers = Scorers(load, score.Scorer.untrained, device.choose(self._device))
        gc.freeze()  # what is loaded by now is never garbage: collections need not look at it

    def close(self) -> None:
        self._follower.close()

    def eval(self, frame: pd.DataFrame) -> pd.DataFrame:
        self._follower.refresh()
        requests = [decode_packed_request(packed) for packed in frame.iloc[:, 0]]
        lists = self._lists(requests)
        refused = [self._refused.popleft() if self._refused else None for _ in requests]
        rows = [(request.user_id, encode_recommendation(lists[at]), refused[at]) for at, request in enumerate(requests)]
        return pd.DataFrame(rows, columns=["user_id", "recommendation", "rejected"])

    def _lists(self, requests: list[Request]) -> dict[int, Recommendation]:
        """Score the requests of each version together."""
        groups, lists, popular = defaultdict(list), {}, {}
        for at, request in enumerate(requests):
            if request.forget:
                lists[at] = _recommendation(request, "", [], time.time_ns() // 1_000_000)
            else:
                groups[tuple(request.versions)].append(at)
        for versions, places in groups.items():
            version, scorer, refused = self._scorers.first(versions, self._follower.catalogue)
            self._refused += refused
            answers = self._rank(scorer, [requests[at] for at in places])
            now_ms = time.time_ns() // 1_000_000
            for at, items in zip(places, answers):
                lists[at] = _recommendation(requests[at], version, items, now_ms)
                popular[at] = scorer.popular
        for at, request in enumerate(requests):
            if request.forget:
                self._twin.forget(request.user_id)
            else:
                self._judge(request, lists[at], popular[at]())
        return lists

    def _judge(self, request: Request, made: Recommendation, popular: list[int]) -> None:
        """Tell the live twin what came, and which list answers it."""
        item, action, event = interest.newest(request.interests) or (0, "", 0)
        if action in POSITIVE and event == event_key(request.event_id):
            self._measure(self._twin.come(request.user_id, item))
        rows = consumed.opened(request.consumed)
        had = set(
            rows["fingerprint"][consumed.excluded(rows, request.event_time_ms / 1_000, self._rules.exclude_s)].tolist()
        )
        others = (key for key in popular if key & 0xFFFFFFFF not in had)
        items = [item_key(item.item_id) for item in made.items[:K]]
        self._twin.show(
            request.user_id,
            Shown(made.model_version.partition(".")[0], items, [key for key, _ in zip(others, range(K))]),
        )

    def _measure(self, version: str | None) -> None:
        """Let Flink read the figures of a version, in millionths: a gauge of Flink's Python holds whole numbers."""
        if version is None or version in self._measured or self._metrics is None:
            return
        self._measured.add(version)
        group = self._metrics.add_group("model_version", version)
        group.gauge("events", lambda: int(self._twin.figures(version)["events"]))
        for name in FIGURES:
            group.gauge(f"{name}_ppm", lambda name=name: int(1e6 * self._twin.figures(version)[name]))

    def _rank(self, scorer, requests: list[Request]) -> list[list[RecommendedItem]]:
        return self._score(scorer, self._follower.catalogue, requests, self._k, self._rules)


def _recommendation(request: Request, version: str, items: list[RecommendedItem], now_ms: int) -> Recommendation:
    name = rec_id(request.user_id, event_key(request.event_id), request.event_time_ms)
    return Recommendation(
        name,
        request.user_id,
        request.event_id,
        request.event_time_ms,
        now_ms,
        version,
        request.variant,
        items,
        request.forget,
    )


class Scorers:
    """The last few model versions, loaded; one that cannot be used is tried again after a while.

    Where what was counted since a version was trained cannot be used, the version itself serves.
    """

    def __init__(self, load, untrained, device) -> None:
        self._load, self._untrained, self._device = load, untrained, device
        self._loaded: dict[str, object] = {}
        self._failed: dict[str, float] = {}

    def first(self, paths: tuple[str, ...], catalogue) -> tuple[str, object, list[bytes]]:
        """The first of the versions that can be used with this catalogue, or the untrained one.

        Returns:
            Its name, its scorer, and a `rejected-events` record for each version that was refused just now.
        """
        refused = []
        for path in dict.fromkeys(path for one in paths for path in (one, trained_path(one))):
            if self._failed.get(path, 0.0) < time.monotonic():
                try:
                    return name_of(path), self._ready(path, catalogue), refused
                except Exception as error:  # what a path from a topic leads to may fail in any way
                    self._failed[path] = time.monotonic() + RETRY_S
                    self._loaded.pop(path, None)
                    reason = (
                        str(error)
                        if isinstance(error, VersionError)
                        else f"{path}: cannot be used: {type(error).__name__}: {error}"
                    )
                    logger.error("model version refused, the one before serves on: %s", reason)
                    refused.append(Rejected.of("model-versions", 0, -1, reason, path.encode()).as_json())
        dim = catalogue.vectors.shape[1]
        return "untrained", self._kept(f"untrained {dim}", lambda: self._untrained(dim).to(self._device)), refused

    def _ready(self, path: str, catalogue):
        scorer = self._kept(path, lambda: self._load(path, self._device))
        scorer.table(catalogue)  # refuses a catalogue of another encoder; kept for the lists that follow
        return scorer

    def _kept(self, name: str, make):
        scorer = self._loaded.pop(name, None) or make()
        self._loaded[name] = scorer
        while len(self._loaded) > KEPT_VERSIONS:
            del self._loaded[next(iter(self._loaded))]
        return scorer
