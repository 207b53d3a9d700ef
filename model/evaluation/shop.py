"""A made-up shop: products in three languages and what its users did for two months; a seed makes one, another another.

Users come back to their one to three favourite categories and look around elsewhere: there they skip, dislike and rate
low.
"""

import random
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeVar

from model.evaluation.words import BRANDS, CATEGORIES, SENTENCES, SHARES, Category
from model.schema import Event, Item

T = TypeVar("T")
BEGIN_MS = 1_788_220_800_000
"""1 September 2026."""
DAY_MS = 86_400_000
DAYS = 60
_EVENTS_PER_USER = 30_000 / 2_470
_TEXTS, _BRANDS = 0.4, 0.3  # of the items that have a text, and a brand in the title
_FAVOURED = 0.85  # of the sessions are about a favourite category
_GAP_S = 40.0  # between two events of a session, on average
# Chances; of a click and a cart after a view, of a purchase after a cart:
_SEARCHES, _CLICKS, _CARTS, _PURCHASES = 0.12, 0.2, 0.12, 0.4
_AGAIN, _EARLIER = 0.1, 0.1  # a view is of what was viewed last, or of something that the user comes back to
_ON = 0.72  # a session goes on after a view
_RATED = {True: (0.05, 4.2), False: (0.08, 2.2)}  # by whether the user likes the category: how often, and the mean
_SHOWN = {True: (("like", 0.03), ("skip", 0.01)), False: (("dislike", 0.06), ("skip", 0.06))}


@dataclass(frozen=True)
class Shop:
    """Products, and events in time order.

    Attributes:
        words: by category, what users call its things.
        likes: by user, the favourite categories.
    """

    items: list[Item]
    events: list[Event]
    words: dict[str, tuple[str, ...]]
    likes: dict[str, list[str]]

    @cached_property
    def categories(self) -> dict[str, list[Item]]:
        """The items of each category."""
        found = defaultdict(list)
        for item in self.items:
            found[category(item)].append(item)
        return dict(found)

    @cached_property
    def touched(self) -> dict[str, Counter[str]]:
        """By user, how many events were on items of each category."""
        category_of = {item.item_id: category(item) for item in self.items}
        found: dict[str, Counter[str]] = {user: Counter() for user in self.likes}
        for event in self.events:
            if event.item_id:
                found[event.user_id][category_of[event.item_id]] += 1
        return found


def category(item: Item) -> str:
    """The category of a shop's item."""
    return item.categories[0]


def language(item: Item) -> str:
    """The language of a shop's item: de, en or zh."""
    return item.attributes["language"]


def make_shop(seed: int, events: int = 30_000, items: int = 800, categories: int = 40) -> Shop:
    """Make a shop.

    Args:
        events: about so many; there are as many users as come with them, 2,470 for 30,000.
    """
    draw = random.Random(seed)
    chosen = [
        (spoken, one)
        for spoken, share in SHARES.items()
        for one in draw.sample(CATEGORIES[spoken], round(share * categories))
    ]
    draw.shuffle(chosen)
    made = _items(draw, chosen, items)
    words = {one.name: one.nouns for _, one in chosen}
    crowd = _Crowd(draw, made, words)
    likes = {f"user-{number:04d}": crowd.favourites() for number in range(round(events / _EVENTS_PER_USER))}
    return Shop(made, _events(draw, crowd, likes, events), words, likes)


def title(draw: random.Random, spoken: str, one: Category) -> str:
    """A title such as a shop would write."""
    noun, quality, size = draw.choice(one.nouns), draw.choice(one.qualities), draw.choice(one.sizes)
    brand = draw.choice(BRANDS[spoken]) if draw.random() < _BRANDS else ""
    if spoken == "de":
        return " ".join(filter(None, (brand, noun, quality, size)))
    if spoken == "zh":
        return f"{brand}{quality}{noun} {size}"
    words = " ".join(filter(None, (brand, noun)))
    return f"{words[0].upper()}{words[1:]}, {quality}, {size}"


def _items(draw: random.Random, chosen: list[tuple[str, Category]], count: int) -> list[Item]:
    """As many of each category, no title twice in it."""
    made: list[Item] = []
    for at, (spoken, one) in enumerate(chosen):
        wanted = count // len(chosen) + (at < count % len(chosen))
        titles: set[str] = set()
        while len(titles) < wanted:
            text = draw.choice(SENTENCES[spoken]) if draw.random() < _TEXTS else ""
            name = title(draw, spoken, one)
            if name not in titles:
                titles.add(name)
                made.append(Item(f"SKU-{len(made):05d}", name, text, [one.name], {"language": spoken}))
    return made


class _Crowd:
    """What the users of a shop have in common: what is popular, and what things are called."""

    def __init__(self, draw: random.Random, items: list[Item], words: dict[str, tuple[str, ...]]) -> None:
        self.draw, self.words = draw, words
        self.items: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            self.items[category(item)].append(item)
        self._popular = list(accumulate(1 / (rank + 3) for rank in range(len(self.items))))
        self._categories = list(self.items)
        self._sold = {
            name: list(accumulate(1 / (rank + 2) for rank in range(len(items)))) for name, items in self.items.items()
        }

    def category(self) -> str:
        """Any category, popular ones more often."""
        return _pick(self.draw, self._categories, self._popular)

    def favourites(self) -> list[str]:
        """One to three categories."""
        return list(dict.fromkeys(self.category() for _ in range(self.draw.choice((1, 2, 2, 3)))))

    def item(self, about: str) -> Item:
        """Any item of a category, popular ones more often."""
        return _pick(self.draw, self.items[about], self._sold[about])


def _pick(draw: random.Random, among: list[T], weights: list[float]) -> T:
    """One of them, by cumulative weights."""
    return among[bisect(weights, draw.random() * weights[-1], hi=len(among) - 1)]


def _events(draw: random.Random, crowd: _Crowd, likes: dict[str, list[str]], count: int) -> list[Event]:
    """Sessions of all users, until there are enough events; everybody comes once at least."""
    users = list(likes)
    busy = list(accumulate(draw.lognormvariate(0, 1) for _ in users))
    past: dict[str, list[Item]] = defaultdict(list)
    when: list[tuple[int, dict]] = []
    number = 0
    while len(when) < count or number < len(users):
        user = users[number] if number < len(users) else _pick(draw, users, busy)
        at_s = draw.random() * (DAYS - 0.1) * DAY_MS / 1_000
        for fields in _Visit(crowd, likes[user], past[user]).steps():
            at_s += 1 + draw.expovariate(1 / _GAP_S)
            when.append((BEGIN_MS + int(1_000 * at_s), fields | {"user_id": user}))
        number += 1
    when.sort(key=lambda one: one[0])
    return [
        Event(event_id=f"e{at}", event_time_ms=time_ms, **fields) for at, (time_ms, fields) in enumerate(when[:count])
    ]


@dataclass
class _Visit:
    """One session of a user."""

    crowd: _Crowd
    likes: list[str]
    past: list[Item]
    last: Item | None = None

    def steps(self) -> Iterator[dict]:
        """The fields of each event, without its time."""
        draw = self.crowd.draw
        about = draw.choice(self.likes) if draw.random() < _FAVOURED else self.crowd.category()
        item = self._next(about)
        if draw.random() < _SEARCHES:
            yield {"action": "search", "query": draw.choice((*self.crowd.words[about], item.title))}
        yield from self._look(item)
        while draw.random() < _ON:
            yield from self._look(self._next(about))

    def _next(self, about: str) -> Item:
        draw, chance = self.crowd.draw, self.crowd.draw.random()
        if self.last is not None and chance < _AGAIN:
            return self.last
        earlier = [item for item in self.past[-20:] if category(item) == about] if chance > 1 - _EARLIER else []
        return draw.choice(earlier) if earlier else self.crowd.item(about)

    def _look(self, item: Item) -> Iterator[dict]:
        """A view, and what follows from it."""
        draw, liked = self.crowd.draw, category(item) in self.likes
        self.last = item
        yield _on("view", item)
        if draw.random() < _CLICKS:
            yield _on("click", item)
        for action, chance in _SHOWN[liked]:
            if draw.random() < chance:
                yield _on(action, item)
        often, mean = _RATED[liked]
        if draw.random() < often:
            yield _on("rating", item) | {"value": float(min(5, max(1, round(draw.gauss(mean, 0.9)))))}
        if liked and draw.random() < _CARTS:
            yield _on("cart", item)
            if draw.random() < _PURCHASES:
                yield _on("purchase", item)
        if liked:
            self.past.append(item)


def _on(action: str, item: Item) -> dict:
    return {"action": action, "item_id": item.item_id}
