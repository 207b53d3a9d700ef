"""score: packed requests in, top-k lists out; one call is a micro-batch on the GPU, or the CPU where there is none."""

import gc
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from pyflink.table.udf import ScalarFunction

from model import interest
from model.bounds import FamilyConfig, JointConfig, SlateConfig, StatisticsConfig
from model.catalogue import Catalogue
from model.evaluation.online import LastList, OnlineMetrics, first_left
from model.metrics import K
from model.schema import (
    POSITIVE,
    Recommendation,
    RecommendedItem,
    Request,
    decode_packed_request,
    encode_recommendation,
    event_key,
    item_key,
    rec_id,
)
from udfs import worker
from udfs.gauges import Gauges
from udfs.loading import Scorers

if TYPE_CHECKING:
    from udfs.users import UsersFollower

MOST_REFUSED = 100
"""So many refused versions and item vectors wait for a list to go with."""


class Follows(NamedTuple):
    """What a scoring worker follows: topics of a broker, and where the item statistics begin and end."""

    bootstrap_servers: str
    item_vectors: str
    training_examples: str
    newest: int  # examples that are counted where there is no snapshot
    statistics: StatisticsConfig
    max_future_s: float
    items: str = ""  # whose texts the joint scorer reads, and whose categories quotas do
    users: str = ""  # of whom something is known, where `user_facts` is on


@dataclass(frozen=True)
class ListConfig:
    """How lists are made: of `k` items, which events are answered, how the network's vectors of items are held,
    and the joint scorer, families of signals and making of slates that are on.
    """

    k: int
    answers: str = "every"
    network_precision: str = "float32"
    joint: JointConfig | None = None
    families: tuple[FamilyConfig, ...] = ()
    slate: SlateConfig | None = None


class Score(ScalarFunction):
    """(request) -> (user_id, recommendation, rejected); `rejected` is a model version that could not be loaded, or a
    record of `item-vectors` that could not be read.

    A request that forgets a user is answered without scoring.
    """

    _users: "UsersFollower | None" = None

    def __init__(
        self,
        rules: interest.Rules,
        lists: ListConfig,
        device: str,
        follows: Follows,
        replica_dir: str,
        threads: int,
        registry: str,
    ) -> None:
        self._rules, self._device, self._follows = rules, device, follows
        self._k, self._answers, self._precision = lists.k, lists.answers, lists.network_precision
        self._joint, self._families, self._slate = lists.joint, lists.families, lists.slate
        self._replica_dir, self._threads, self._registry = Path(replica_dir), threads, registry
        self._refused: deque[bytes] = deque()
        self._twin = OnlineMetrics()
        self._gauges = Gauges(self._twin)

    def open(self, function_context) -> None:
        worker.prepare(self._threads)
        from model import device, registry, score
        from model.scoring import network
        from udfs.replica import CatalogueFollower
        from udfs.statistics import StatisticsFollower

        self._score = score.score
        self._gauges.register(function_context.get_metric_group())
        servers, item_vectors, examples, newest, config, max_future_s = self._follows[:6]
        self._follower = CatalogueFollower(servers, item_vectors, self._replica_dir / "score")
        self._statistics = StatisticsFollower(servers, examples, self._registry, newest, config, max_future_s)
        self._gauges.register_statistics(function_context.get_metric_group(), self._statistics)

        chosen, texts = device.choose(self._device), self._open_texts()
        joint = self._open_joint(texts)
        optional = [family.open(texts) for family in self._families]
        facts, slate = self._open_facts(), self._open_slate()

        def load(path: str, items: Catalogue) -> score.Scorer:
            registry.check_inside(path, self._registry)
            scorer = score.load(path, chosen, joint, optional, facts)
            scorer.slate = slate
            if self._precision == "int8":
                network.quantise(scorer.network)
            score.try_out(scorer, items, self._k, self._rules)
            return scorer

        def untrained(dim: int) -> score.Scorer:
            scorer = score.Scorer.untrained(dim, optional, facts=facts).on(chosen)
            scorer.slate = slate
            return scorer

        self._scorers = Scorers(load, untrained)
        gc.freeze()  # what is loaded by now is never garbage: collections need not look at it

    def _open_facts(self):
        """What is known of users; None where it is off."""
        if not self._follows.users:
            return None
        from udfs.users import UsersFollower

        self._users = UsersFollower(self._follows.bootstrap_servers, self._follows.users)
        return self._users.facts

    def _open_texts(self) -> Mapping[int, str]:
        """The texts of the items, where something reads them."""
        self._texts = None
        categories = self._slate is not None and self._slate.quota_category < 1
        if self._joint is None and not categories and not any(family.reads_texts for family in self._families):
            return {}
        from udfs.texts import TextsFollower

        self._texts = TextsFollower(self._follows.bootstrap_servers, self._follows.items)
        return self._texts.texts

    def _open_slate(self):
        """What makes lists of scored candidates; None where they are simply the best."""
        if self._slate is None:
            return None
        from model.scoring.slate import Slate

        return Slate(self._slate, {} if self._texts is None else self._texts.categories)

    def _open_joint(self, texts: Mapping[int, str]):
        """The joint scorer's encoder and what it reads; None where it is off."""
        if self._joint is None:
            return None
        from model.scoring.joint import CrossEncoder

        return CrossEncoder(self._joint), texts

    def close(self) -> None:
        self._scorers.close()
        if self._texts is not None:
            self._texts.close()
        if self._users is not None:
            self._users.close()
        self._statistics.close()
        self._follower.close()

    def eval(self, frame: pd.DataFrame) -> pd.DataFrame:
        self._follower.refresh()
        requests = [decode_packed_request(packed) for packed in frame.iloc[:, 0]]
        with self._statistics.lock:  # what is counted does not change under a micro-batch
            lists = self._lists(requests)
            self._statistics.answered(requests)
        for told in (self._follower, *filter(None, [self._users])):
            while told.rejected and len(self._refused) < MOST_REFUSED:
                self._refused.append(told.rejected.popleft().as_json())
        refused = [self._refused.popleft() if self._refused else None for _ in requests]
        made = [encode_recommendation(lists[at]) if at in lists else None for at in range(len(requests))]
        rows = list(zip([request.user_id for request in requests], made, refused))
        return pd.DataFrame(rows, columns=["user_id", "recommendation", "rejected"])

    def _lists(self, requests: list[Request]) -> dict[int, Recommendation]:
        """Score the requests of each version together; those that are not answered have no list."""
        groups, lists, popular = defaultdict(list), {}, {}
        answered = newest_of(requests) if self._answers == "newest" else set(range(len(requests)))
        for at, request in enumerate(requests):
            if request.forget:
                lists[at] = _recommendation(request, "", [], time.time_ns() // 1_000_000, 0)
            elif at in answered:
                groups[tuple(request.versions)].append(at)
        for versions, places in groups.items():
            asked = [requests[at] for at in places]
            version, answers, most_chosen = self._rank(versions, asked)
            now_ms, seen = time.time_ns() // 1_000_000, self._statistics.statistics.seen
            for at, items in zip(places, answers):
                lists[at] = _recommendation(requests[at], version, items, now_ms, seen)
            popular |= zip(places, first_left(asked, most_chosen, self._rules.exclude_s, K))
        for at, request in enumerate(requests):
            if request.forget:
                self._twin.forget(request.user_id)
                continue
            self._judge(request)
            if at in answered:
                self._show(request, lists[at], popular[at])
        return lists

    def _judge(self, request: Request) -> None:
        """Tell the live twin what came: the list that the user had is judged by it, however many events ago it came."""
        item, action, event = interest.newest(request.interests) or (0, "", 0)
        if action in POSITIVE and event == event_key(request.event_id):
            self._twin.come(request.user_id, item)

    def _show(self, request: Request, made: Recommendation, popular: list[int]) -> None:
        """Tell the live twin which list the user has from now on."""
        items = [item_key(item.item_id) for item in made.items[:K]]
        self._twin.show(request.user_id, LastList(made.model_version, items, popular))
        self._gauges.show(made.model_version)

    def _rank(
        self, versions: tuple[str, ...], requests: list[Request]
    ) -> tuple[str, list[list[RecommendedItem]], list[int]]:
        """The version that makes the lists, the lists, and the keys of the items most chosen lately.

        A version may fail at a list though it did not when it was tried: then the next one makes it.
        """
        catalogue, statistics = self._follower.catalogue, self._statistics.statistics
        while True:
            version, scorer, refused = self._scorers.first(versions, statistics, catalogue)
            self._refused += refused
            try:
                lists = self._score(scorer, statistics, catalogue, requests, self._k, self._rules)
                return version, lists, statistics.popular()
            except Exception as error:
                if not self._scorers.refuse_last(error):
                    raise


def newest_of(requests: Sequence[Request]) -> set[int]:
    """The places of the requests that are answered where only the newest of each user is: the last one in the stream,
    which knows of the others; a request that forgets a user is always answered.
    """
    newest = {request.user_id: at for at, request in enumerate(requests) if not request.forget}
    return set(newest.values()) | {at for at, request in enumerate(requests) if request.forget}


def _recommendation(
    request: Request, version: str, items: list[RecommendedItem], now_ms: int, seen: int
) -> Recommendation:
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
        seen,
    )
