"""Prequential evaluation: every event is predicted, then learnt from, by the same functions as in the job.

The first part of the stream only warms up. After it, for each event that has a target, the list that the user would
have had at that moment is scored with the version of that moment; the item that came is a hit if it is in the top 10.
Other methods (model/evaluation/baselines.py) are asked the same for the same events.

Source: Gama, Sebastião and Rodrigues, On evaluating stream learning algorithms, 2013, doi:10.1007/s10994-012-5320-9.
"""

import copy
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from msgspec import UnsetType, structs
from torch import nn

from model import consumed, user
from model.catalogue import Catalogue
from model.evaluation.baselines import BASELINES, HISTORY, POPULARITIES, World, best_rows
from model.evaluation.order import drawn_order
from model.facts import of_context
from model.finetune import Learner
from model.interest import ACTIONS, Rules, interest_space
from model.learning.config import TrainingConfig
from model.metrics import K
from model.schema import POSITIVE, Embedded, Event, Example, RecommendedItem, Request, item_key
from model.score import Scorer, score
from model.scoring.batch import exclusion, searches

if TYPE_CHECKING:
    from model.scoring.slate import Slate

LIVE = "headrace-live"
ALONE = "headrace-without-joint"
"""The same version without its joint scorer, where it has one; it explores nothing."""
GREEDY = "headrace-greedy"
"""The same version that simply lists the best: without diversity, quotas and exploration, where one of them is on."""
PARTS = NETWORK, FROZEN = "network", "headrace-frozen"
"""Headrace with no other signal than its network's, and without learning after the warm-up; they explore nothing."""
NOT_THERE, LEFT_OUT = "the item is not in the catalogue", "it is left out after a {}"
"""Why no list could hold an item that came."""
LEAST = 3
"""Positive events of a user of whom the last is left out: one to learn from, one to stop by, one to predict."""
METHODS = (*BASELINES, *PARTS)
"""All that Headrace can be compared with."""


@dataclass(frozen=True)
class Protocol:
    """How a stream is evaluated."""

    warm_up: float = 0.2  # this share of the events is learnt from and not counted
    fine_tune_every: int = 500  # events
    count_every: int = 100  # events; between two fine-tunings only what is counted is refreshed
    micro_batch: int = 256
    seed: int = 0
    live: bool = False  # count the lists that the job makes too: right after an event, not when the next one comes
    rules: Rules = Rules()
    training: TrainingConfig = TrainingConfig()
    order_seed: int | None = 0  # of the order of events that have one time; None: the order in which they are given
    liked_from: float | None = None  # ratings below it are learnt from and not predicted
    slate: "Slate | None" = None

    def counts(self, event: Event) -> bool:
        """Whether an event is predicted: what a user chose, and with `liked_from` liked."""
        return event.action in POSITIVE and (
            self.liked_from is None or event.value is None or event.value >= self.liked_from
        )


@dataclass
class Result:
    """What one method did: the place of each target, every list, and the time that lists and learning took; of
    Headrace's lists P of their items, and how likely each was at its place where anything explores.
    """

    ranks: list[int] = field(default_factory=list)
    lists: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0
    learning_s: float = 0.0
    learnt: int = 0  # events
    chances: list[list[float]] = field(default_factory=list)
    propensities: list[list[float]] = field(default_factory=list)

    def add(self, target: int, rows: np.ndarray) -> None:
        """Count a list: rows of the catalogue, best first, and the row that came (-1: not in the catalogue)."""
        listed = rows.tolist()
        self.ranks.append(listed.index(target) if target >= 0 and target in listed else -1)
        self.lists.append(listed + [-1] * (K - len(listed)))

    def add_chances(self, made: Sequence[RecommendedItem]) -> None:
        """Keep what calibration and off-policy evaluation need of a list."""
        none = K - len(made)
        self.chances.append([item.probability for item in made] + [0.0] * none)
        likely = [item.propensity for item in made if not isinstance(item.propensity, UnsetType)]
        if len(likely) == len(made):
            self.propensities.append(likely + [1.0] * none)


@dataclass
class Targets:
    """Who was asked for, by which action the item came, how often the user had chosen, and the item been chosen, by
    then, whether the user had had the item, and why no list could hold it ("" where one could); one entry a list.
    """

    users: list[int] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    user_events: list[int] = field(default_factory=list)
    item_events: list[int] = field(default_factory=list)
    again: list[bool] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)


class PrequentialStep(NamedTuple):
    """An event, what was asked before it, time and facts of the user's event before, and what it teaches."""

    event: Event
    request: Request
    last_ms: int
    example: Example | None
    last_facts: bytes = b""

    def live(self) -> "PrequentialStep":
        """As the job asks: right after the event before, when nobody knows how long the next one will take."""
        return self._replace(
            request=structs.replace(self.request, event_time_ms=self.last_ms, live=True, facts=self.last_facts)
        )


class Users:
    """What embed and the keyed operator of the job do: a state for each user, by the same functions.

    Args:
        embed_query: the encoder's vector of a query, (dim,), or None.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        rules: Rules = Rules(),
        embed_query: Callable[[str], np.ndarray | None] = lambda query: None,
    ) -> None:
        self._catalogue, self._rules, self._embed_query = catalogue, rules, embed_query
        self._states: dict[str, bytes] = {}
        self._last: dict[str, tuple[int, bytes]] = {}

    def ask(self, event: Event) -> PrequentialStep:
        """What is asked before this event; then the event is folded in."""
        last_ms, last_facts = self._last.get(event.user_id, (event.event_time_ms, b""))
        asked = self.request(event, live=False)
        after = user.update(self._states.get(event.user_id), self.embedded(event), self._rules)
        self._states[event.user_id] = after.state
        if after.answered:
            self._last[event.user_id] = event.event_time_ms, asked.facts
        return PrequentialStep(event, asked, last_ms, after.example, last_facts)

    def request(self, event: Event, live: bool = True) -> Request:
        """What is asked now, at the time of this event."""
        state, about = self._states.get(event.user_id), (event.user_id, event.event_id, event.event_time_ms)
        return user.request(state, *about, live, of_context(event.context))

    def embedded(self, event: Event) -> Embedded:
        """The event as it leaves the step embed of the job."""
        if event.action == "search":
            query = self._embed_query(event.query or "")
            vector = None if query is None else interest_space(query[None])[0]
            return user.embedded(event, 0, self._catalogue.encoder, vector, query)
        key = item_key(event.item_id) if event.item_id else 0
        return user.embedded(event, key, self._catalogue.encoder, self._catalogue.lookup(key))


class Comparison:
    """Baselines side by side: each is asked for every event that counts, then learns from it."""

    def __init__(self, names: Iterable[str], catalogue: Catalogue, protocol: Protocol) -> None:
        self._catalogue, self._protocol = catalogue, protocol
        world = World(catalogue.vectors, protocol.seed)
        self._methods = {name: BASELINES[name](world) for name in names}
        self._numbers: dict[str, int] = {}
        self._count = -1
        self._histories: dict[int, list[int]] = defaultdict(list)
        self._chosen: Counter[int] = Counter()
        self._had: Counter[int] = Counter()
        self.results = {name: Result() for name in self._methods}
        self.targets = Targets()

    def take(
        self,
        asked: Sequence[PrequentialStep],
        counts: bool,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        """Ask for each event, if they count; then learn from it."""
        for done, one in enumerate(asked):
            if counts and self._protocol.counts(one.event):
                self.ask(one)
            self.learn(one)
            progress(done, len(asked))

    def ask(self, asked: PrequentialStep) -> None:
        """The list of every method before this event."""
        user, history, target = self._open(asked)
        began = time.perf_counter()
        excluded, had = excluded_rows(self._catalogue, asked.request, self._protocol.rules)
        shared = time.perf_counter() - began
        self.targets.users.append(user)
        self.targets.actions.append(asked.event.action)
        self.targets.user_events.append(self._had[user])
        self.targets.item_events.append(self._chosen[target] if target >= 0 else 0)
        self.targets.again.append(target in had)
        self.targets.unreachable.append(
            NOT_THERE if target < 0 else LEFT_OUT.format(had[target]) if excluded[target] else ""
        )
        for name, method in self._methods.items():
            began = time.perf_counter()
            rows = best_rows(method.scores(user, history), excluded, K)
            self.results[name].seconds += shared + time.perf_counter() - began
            self.results[name].add(target, rows)

    def learn(self, asked: PrequentialStep) -> None:
        """Take in what was chosen; what is not in the catalogue teaches nothing."""
        if asked.event.action == "forget":
            self._numbers.pop(asked.event.user_id, None)
            return
        user, history, target = self._open(asked)
        self._had[user] += 1
        if target < 0:
            return
        for name, method in self._methods.items():
            began = time.perf_counter()
            method.learn(user, history, target)
            self.results[name].learning_s += time.perf_counter() - began
            self.results[name].learnt += 1
        self._chosen[target] += 1
        self._histories[user] = [*self._histories[user][1 - HISTORY :], target]

    def _open(self, asked: PrequentialStep) -> tuple[int, np.ndarray, int]:
        """The user's number, history (t,), and the row that came."""
        user = self._numbers.get(asked.event.user_id)
        if user is None:
            user = self._numbers[asked.event.user_id] = self._count = self._count + 1
        target = self._catalogue.row(item_key(asked.event.item_id or ""))
        return user, np.array(self._histories[user], np.int64), target


def excluded_rows(catalogue: Catalogue, request: Request, rules: Rules) -> tuple[np.ndarray, dict[int, str]]:
    """Which items must not be listed, (n,) bool, and all that the user had, each with what was said of it last."""
    had = consumed.opened(request.consumed)
    rows = catalogue.rows_of_fingerprints(had["fingerprint"])
    excluded = np.zeros(len(catalogue) + 1, bool)
    excluded[rows[consumed.excluded(had, request.event_time_ms / 1_000, exclusion(searches(request), rules))]] = True
    return excluded[:-1], dict(zip(rows.tolist(), (ACTIONS[action] for action in had["action"].tolist())))


class Headrace:
    """Headrace as it learns in the stream, and what is left of it without one of its parts."""

    def __init__(self, names: Iterable[str], learner: Learner, protocol: Protocol) -> None:
        self._learner, self._protocol = learner, protocol
        self.scorer = Scorer.untrained(learner.catalogue.vectors.shape[1])
        self.scorer.slate = protocol.slate
        self._frozen: Scorer | None = None
        live = [LIVE] * protocol.live + [ALONE] * (learner.joint is not None) + [GREEDY] * (protocol.slate is not None)
        self.results = {name: Result() for name in ("headrace", *live, *(name for name in PARTS if name in names))}

    def ask(self, asked: Sequence[PrequentialStep]) -> None:
        """The lists before these events, as far as they count, with the version of now."""
        asked = [one for one in asked if self._protocol.counts(one.event)]
        for name, result in self.results.items():
            group = [one.live() for one in asked] if name == LIVE else asked
            predict(result, self._scorer_of(name), self._learner, group, self._protocol)

    def _scorer_of(self, name: str) -> Scorer:
        """Off-policy evaluation wants fixed policies: none but Headrace itself explores."""
        if name in ("headrace", LIVE):
            return self.scorer
        if name == NETWORK:
            fixed = alone(self.scorer, NETWORK)
        else:
            fixed = copy.copy(self.scorer)
            fixed._table = self.scorer._table  # a copy has none, and a new one differs a little
        fixed.slate = None if fixed.slate is None or name == GREEDY else fixed.slate.fixed()
        if name == ALONE:
            fixed.joint = None
        if name == FROZEN:
            self._frozen = fixed = self._frozen or fixed
        return fixed

    def learn(
        self,
        asked: Sequence[PrequentialStep],
        fine_tunes: bool,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        """Make the next version from these events, or only count them into the one of now."""
        began = time.perf_counter()
        self._learner.add([one.example for one in asked if one.example is not None])
        if fine_tunes:
            self.scorer = self._learner.fine_tune(progress)
            self.scorer.slate = self._protocol.slate
        else:
            self._learner.count()
        seconds = time.perf_counter() - began
        for name, result in self.results.items():
            result.learnt += len(asked)
            result.learning_s += 0.0 if name == FROZEN and self._frozen else seconds


def alone(scorer: Scorer, signal: str) -> Scorer:
    """A copy whose blend is this one signal."""
    scorer = copy.deepcopy(scorer)
    for weights in scorer.ranker.parameters():
        nn.init.zeros_(weights)
    scorer.ranker.begin({signal: 1.0})
    scorer.changed()
    return scorer


def predict(
    result: Result, scorer: Scorer, learner: Learner, asked: Sequence[PrequentialStep], protocol: Protocol
) -> None:
    """Count the lists of a scorer, made in micro-batches."""
    catalogue = learner.catalogue
    for start in range(0, len(asked), protocol.micro_batch):
        group = asked[start : start + protocol.micro_batch]
        began = time.perf_counter()
        lists = score(scorer, learner.statistics, catalogue, [one.request for one in group], K, protocol.rules)
        result.seconds += time.perf_counter() - began
        for one, list_ in zip(group, lists):
            rows = catalogue.rows(item_key(item.item_id) for item in list_)
            result.add(catalogue.row(item_key(one.event.item_id or "")), rows)
            result.add_chances(list_)


@dataclass
class Outcome:
    """The results by method, on the same targets, and the scorer that was learnt last."""

    results: dict[str, Result]
    targets: Targets
    scorer: Scorer
    held: list[Event] = field(default_factory=list)  # with leave-one-out: the targets

    @property
    def predicted(self) -> int:
        return len(self.targets.users)


def new_learner(catalogue: Catalogue, protocol: Protocol) -> Learner:
    return Learner(catalogue, None, protocol.seed, rules=protocol.rules, config=protocol.training)


def evaluate(
    events: Sequence[Event],
    catalogue: Catalogue,
    protocol: Protocol = Protocol(),
    progress: Callable[[int, int], None] = lambda done, of: None,
    learner: Learner | None = None,
    methods: Sequence[str] = POPULARITIES,
    queries: Mapping[str, np.ndarray] = {},
) -> Outcome:
    """Predict every event after the warm-up, then learn from it.

    Args:
        events: in any order; only positive ones are predicted and learnt from, all of them are what the job makes of
            them.
        catalogue: every item that can be recommended.
        progress: called with (events done, of).
        methods: of METHODS, beside Headrace.
        queries: the encoder's vector of the query of every search, (dim,).
    """
    events = drawn_order(events, protocol.order_seed)
    users = Users(catalogue, protocol.rules, queries.get)
    headrace = Headrace(methods, learner or new_learner(catalogue, protocol), protocol)
    others = Comparison([name for name in methods if name in BASELINES], catalogue, protocol)
    warm = int(len(events) * protocol.warm_up)
    for start, end, fine_tunes in chunks(len(events), warm, protocol):
        asked = [one for one in map(users.ask, events[start:end]) if one.example is not None]

        def report(done: int, of: int, start: int = start, end: int = end) -> None:
            progress(start + (end - start) * done // max(1, of), len(events))

        if start >= warm:
            headrace.ask(asked)
        others.take(asked, start >= warm, lambda done, of: report(done, 2 * of))
        if end < len(events):
            headrace.learn(asked, fine_tunes, lambda done, of: report(of + done, 2 * of))
        progress(end, len(events))
    return Outcome(headrace.results | others.results, others.targets, headrace.scorer)


def chunks(events: int, warm: int, protocol: Protocol) -> list[tuple[int, int, bool]]:
    """The warm-up, then as many events as Headrace counts at once; start, end, and whether it fine-tunes after them."""
    fine_tuned = {*range(warm, events, protocol.fine_tune_every), events}
    bounds = sorted({0, *range(warm, events, protocol.count_every), *fine_tuned})
    return [(start, end, end in fine_tuned) for start, end in itertools.pairwise(bounds)]


def leave_one_out(
    events: Sequence[Event],
    catalogue: Catalogue,
    protocol: Protocol = Protocol(),
    progress: Callable[[int, int], None] = lambda done, of: None,
    methods: Sequence[str] = POPULARITIES,
    queries: Mapping[str, np.ndarray] = {},
    learner: Learner | None = None,
) -> Outcome:
    """Learn all but the last event of every user, in time order; then predict the last ones.

    What other users did after a user's last event has been learnt by then: the protocol of offline tables, not of a
    stream.

    Args: as for `evaluate`; there is no FROZEN, for nothing is learnt after the first target.
    """
    methods = [name for name in methods if name != FROZEN]
    events = drawn_order(events, protocol.order_seed)
    users = Users(catalogue, protocol.rules, queries.get)
    headrace = Headrace(methods, learner or new_learner(catalogue, protocol), protocol)
    others = Comparison([name for name in methods if name in BASELINES], catalogue, protocol)
    last, held = held_out(events, catalogue, protocol), []
    for start, end, fine_tunes in chunks(len(events), int(len(events) * protocol.warm_up), protocol):
        asked = [(at, users.ask(event)) for at, event in enumerate(events[start:end], start)]
        asked = [(at, one) for at, one in asked if one.example is not None]
        held += [one for at, one in asked if at in last]
        taught = [one for at, one in asked if at not in last]
        others.take(taught, False)
        headrace.learn(taught, fine_tunes)
        progress(end, len(events))
    headrace.ask(held)
    for one in held:
        others.ask(one)
    return Outcome(headrace.results | others.results, others.targets, headrace.scorer, [one.event for one in held])


def held_out(events: Sequence[Event], catalogue: Catalogue, protocol: Protocol) -> set[int]:
    """Where the last predicted event of every user stands, of those with `LEAST` such ones on known items."""
    places: dict[str, list[int]] = defaultdict(list)
    for at, event in enumerate(events):
        if protocol.counts(event) and catalogue.row(item_key(event.item_id or "")) >= 0:
            places[event.user_id].append(at)
    return {at[-1] for at in places.values() if len(at) >= LEAST}
