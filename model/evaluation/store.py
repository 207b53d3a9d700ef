"""A made-up shop with all that serves in it, without Flink and Kafka: users' state, scorer, learner if trained.

What an event does to a user and which list answers it is computed by the functions of the job.
"""

import copy
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from model.catalogue import Catalogue
from model.evaluate import PrequentialStep, Protocol, Users, chunks, new_learner
from model.evaluation.shop import DAY_MS, Shop, category
from model.finetune import Learner
from model.metrics import K
from model.schema import Action, Event, Example, Item, ItemVector, Request
from model.score import Scorer, score
from model.statistics import ItemStatistics

Embed = Callable[[list[str]], np.ndarray]
Step = tuple[str, Item | str] | tuple[str, Item, float]
"""An action, and the item or the query; of a rating its value too."""
GAP_MS = 60_000
"""Between two steps of a visitor."""


class Visitors(Users):
    """What embed and the keyed operator of the job make of what users do."""

    def act(self, event: Event) -> Request:
        """Fold an event in; the request that it sends to be scored."""
        self.ask(event)
        return self.request(event)

    def like(self, user_id: str, guest: str) -> None:
        """Let a guest begin with all that is held of a user."""
        if user_id in self._states:
            self._states[guest] = self._states[user_id]
        if user_id in self._last:
            self._last[guest] = self._last[user_id]


@dataclass
class Store:
    """A shop in which lists are made.

    Attributes:
        items: by id; new ones among them.
        asked: what was asked before each event of the shop.
    """

    shop: Shop
    embed: Embed
    protocol: Protocol
    catalogue: Catalogue
    users: Visitors
    scorer: Scorer
    asked: list[PrequentialStep]
    items: dict[str, Item]
    learner: Learner | None = None
    numbers: itertools.count = field(default_factory=itertools.count)

    @property
    def statistics(self) -> ItemStatistics:
        """What is counted; nothing without a learner."""
        return self.learner.statistics if self.learner is not None else ItemStatistics()

    @property
    def now_ms(self) -> int:
        """An hour after the last event of the shop."""
        return self.shop.events[-1].event_time_ms + DAY_MS // 24

    def copy(self) -> "Store":
        """One that can be changed while this one stays."""
        catalogue, users, scorer, learner = copy.deepcopy((self.catalogue, self.users, self.scorer, self.learner))
        return replace(
            self,
            catalogue=catalogue,
            users=users,
            scorer=scorer,
            learner=learner,
            items=dict(self.items),
            numbers=itertools.count(next(self.numbers)),
        )

    def guest(self, like: str | None = None) -> str:
        """The name of a visitor who is new, or who has done all that a user did."""
        name = f"guest-{next(self.numbers)}"
        if like is not None:
            self.users.like(like, name)
        return name

    def do(self, user: str, steps: Sequence[Step], at_ms: int | None = None) -> Request:
        """Let a user do something, one step a minute; what is asked right after the last one."""
        return self.requests(user, steps, at_ms)[-1]

    def requests(self, user: str, steps: Sequence[Step], at_ms: int | None = None) -> list[Request]:
        """The same, after every step."""
        return [self.users.act(event) for event in self.events(user, steps, at_ms)]

    def events(self, user: str, steps: Sequence[Step], at_ms: int | None = None) -> list[Event]:
        """The events of these steps; nobody has heard of them yet."""
        start_ms, made = self.now_ms if at_ms is None else at_ms, []
        for number, (action, what, *value) in enumerate(steps):
            about = (
                {"query": what}
                if isinstance(what, str)
                else {"item_id": what.item_id, "value": value[0] if value else None}
            )
            at, event_id = start_ms + number * GAP_MS, f"step-{next(self.numbers)}"
            made.append(Event(event_id, user, cast(Action, action), at, **about))
        return made

    def lists(self, requests: Sequence[Request], k: int = K) -> list[list[str]]:
        """The ids of the k best items for each."""
        lists = score(self.scorer, self.statistics, self.catalogue, requests, k, self.protocol.rules, explained=False)
        return [[item.item_id for item in one] for one in lists]

    def share(self, requests: Sequence[Request], items: Sequence[Item], k: int = K) -> float:
        """How many of the lists hold the item that belongs to them, as a share."""
        lists = self.lists(requests, k)
        return float(np.mean([item.item_id in one for one, item in zip(lists, items)]))

    def of_category(self, requests: Sequence[Request], categories: Sequence[str]) -> float:
        """How many of the first ten are of the category that belongs to the list, on average."""
        lists = self.lists(requests)
        return float(
            np.mean([sum(category(self.items[item]) == one for item in list_) for list_, one in zip(lists, categories)])
        )

    def learn(self, events: Sequence[Event]) -> None:
        """What users did is folded in and counted; without a learner nobody counts."""
        asked = [self.users.ask(event) for event in events]
        if self.learner is not None:
            self.learner.add([one.example for one in asked if one.example is not None])
            self.learner.count()

    def forget(self, user: str) -> None:
        """A user wants to be forgotten, by the job and by the learner."""
        event = Event(f"step-{next(self.numbers)}", user, "forget", self.now_ms)
        self.users.act(event)
        if self.learner is not None:
            self.learner.add([Example(user, event.event_id, event.event_time_ms, forget=True)])
            self.learner.count()

    def fine_tune(self) -> None:
        """The next version of the model; without a learner there is none."""
        if self.learner is not None:
            self.scorer = self.learner.fine_tune()

    def put(self, item: Item) -> None:
        """A new product."""
        _put(self.catalogue, [item], self.embed)
        self.items[item.item_id] = item

    def delete(self, item: Item) -> None:
        """A product that is no longer sold."""
        self.catalogue.apply([ItemVector(item.item_id, deleted=True)])


def open_store(shop: Shop, embed: Embed, protocol: Protocol = Protocol()) -> Store:
    """Fold what the users of a shop did; nothing is learnt.

    Args:
        embed: texts -> unit vectors, shape (texts, dim).
    """
    embed_once = _keeping(embed)
    embed_once([event.query for event in shop.events if event.query])
    catalogue = Catalogue()
    _put(catalogue, random.Random(protocol.seed).sample(shop.items, len(shop.items)), embed_once)
    users = Visitors(catalogue, protocol.rules, lambda query: embed_once([query])[0])
    asked = [users.ask(event) for event in shop.events]
    items = {item.item_id: item for item in shop.items}
    return Store(
        shop, embed_once, protocol, catalogue, users, Scorer.untrained(catalogue.vectors.shape[1]), asked, items
    )


def _keeping(embed: Embed) -> Embed:
    """The same, each text once."""
    kept: dict[str, np.ndarray] = {}

    def embed_once(texts: list[str]) -> np.ndarray:
        new = list(dict.fromkeys(text for text in texts if text not in kept))
        kept.update(zip(new, embed(new)) if new else {})
        return np.stack([kept[text] for text in texts])

    return embed_once


def train(store: Store, progress: Callable[[int, int], None] = lambda done, of: None) -> Store:
    """A store whose model has learnt from all that happened in it, as `model.evaluate.evaluate` teaches it."""
    trained = store.copy()
    learner = new_learner(trained.catalogue, trained.protocol)
    events = len(store.asked)
    for start, end, fine_tunes in chunks(events, int(events * store.protocol.warm_up), store.protocol):
        learner.add([one.example for one in store.asked[start:end] if one.example is not None])
        if fine_tunes:
            trained.scorer = learner.fine_tune()
        else:
            learner.count()
        progress(end, events)
    trained.learner = learner
    return trained


def _put(catalogue: Catalogue, items: Sequence[Item], embed: Embed) -> None:
    vectors = embed([item.as_text() for item in items]).astype("<f2")
    catalogue.apply([ItemVector(item.item_id, "shop", vector.tobytes()) for item, vector in zip(items, vectors)])
