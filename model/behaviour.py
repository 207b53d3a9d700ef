"""The contract of behaviour: what a user does must move the next lists, with an untrained and with a trained model.

Each probe lets visitors of a made-up shop (model/shop.py) do something and looks at the lists that answer them. docs/behaviour.md
is the contract in words.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np

from model import interest
from model.schema import POSITIVE, Item, Request, item_key
from model.shop import DAY_MS, Product
from model.store import GAP_MS, Step, Store

SAMPLE = 40
"""Products or users of a probe."""
LONG = 20
"""The length of a list in the job."""
_HOLDS = {">=": np.greater_equal, ">": np.greater, "<=": np.less_equal, "<": np.less}
_NEW = {"de": "neu", "en": "new", "zh": "新款"}
_LANGUAGES = {"de": "German", "en": "English", "zh": "Chinese"}
_FURTHER = (1, 2, 3, 5, 10)
_SLACK = 0.2  # of ten places: what fades may go up by chance
_CAN_LEARN = 8  # new products


@dataclass(frozen=True)
class Row:
    """A figure of a probe, and what the contract wants of it; without a relation it is only told."""

    probe: str
    name: str
    figure: float
    relation: str = ""
    bound: float = 0.0

    @property
    def wanted(self) -> str:
        return f"{self.relation} {self.bound:.3g}" if self.relation else ""

    @property
    def holds(self) -> bool | None:
        """None for a figure that is only told."""
        return bool(_HOLDS[self.relation](self.figure, self.bound)) if self.relation else None


@dataclass(frozen=True)
class Behaviour:
    """What all probes of a store found."""

    rows: list[Row]

    def broken(self, probe: str | None = None) -> list[Row]:
        """The rows that do not hold."""
        return [row for row in self.rows if row.holds is False and probe in (None, row.probe)]


Probe = Callable[[Store, random.Random], Iterator[Row]]


def measure(store: Store, seed: int = 0, probes: Sequence[str] = ()) -> Behaviour:
    """Run the probes, all of them where none are named; the store stays as it is."""
    rows = [row for name in probes or PROBES for row in PROBES[name](store.copy(), random.Random(f"{name} {seed}"))]
    return Behaviour(rows)


def search(store: Store, draw: random.Random) -> Iterator[Row]:
    """Users in the middle of a visit to another category search for a title, or for a word of a category."""
    products = draw.sample(store.shop.products, SAMPLE)
    visits = [_stranger(store, draw, product.category) for product in products]
    before, titles, words, after = [], [], [], {further: [] for further in _FURTHER}
    for product, (user, steps) in zip(products, visits):
        before.append(store.do(store.guest(user), steps[:3]))
        word = ("search", draw.choice(store.shop.words[product.category]))
        words.append(store.do(store.guest(user), [*steps[:3], word]))
        asked = store.requests(store.guest(user), [*steps[:3], ("search", product.item.title), *steps[3:]])
        titles.append(asked[3])
        for further in _FURTHER:
            after[further].append(asked[3 + further])
    items, categories = [product.item for product in products], [product.category for product in products]
    yield Row("search", "title: the item in the first 10", store.share(titles, items), ">=", 0.9)
    for language, name in _LANGUAGES.items():
        chosen = [at for at, product in enumerate(products) if product.language == language]
        share = store.share([titles[at] for at in chosen], [items[at] for at in chosen])
        yield Row("search", f"title in {name}: the item in the first 10", share)
    yield Row("search", "no search: of the category in the first 10", store.of_category(before, categories))
    led = store.of_category(titles, categories)
    yield Row("search", "title: of the category in the first 10", led, ">=", 6)
    yield Row("search", "word: of the category in the first 10", store.of_category(words, categories), ">=", 6)
    faded = [store.of_category(after[further], categories) for further in _FURTHER]
    for further, before, figure in zip(_FURTHER, [led, *faded], faded):
        yield Row("search", f"title, {further} views of another category later", figure, "<=", before + _SLACK)
    yield Row("search", "title, 10 views later, of what it was at once", faded[-1] / max(led, 1e-9), "<=", 0.5)


def _stranger(store: Store, draw: random.Random, category: str) -> tuple[str, list[Step]]:
    """A user who has never touched the category, and 13 views of a favourite one."""
    users = [user for user, had in store.had.items() if not had[category] and category not in store.shop.likes[user] and had.total() >= 5]
    user = draw.choice(users)
    few = _views(draw, store.shop.by_category()[store.shop.likes[user][0]], 6)  # so that the category is never used up
    return user, [few[at % len(few)] for at in range(3 + _FURTHER[-1])]


def _views(draw: random.Random, items: Sequence[Item], count: int) -> list[Step]:
    return [("view", item) for item in draw.sample(list(items), count)]


def alone(store: Store, draw: random.Random) -> Iterator[Row]:
    """One action as the only event of a user; half of the products are of categories that a user without any event is shown."""
    shown = {store.category_of[item] for item in store.lists([store.nothing()])[0]}
    near = [product for product in store.shop.products if product.category in shown]
    products = [*draw.sample(near, SAMPLE // 2), *draw.sample(store.shop.products, SAMPLE // 2)]
    categories = [product.category for product in products]
    none = store.of_category([store.nothing()] * len(products), categories)
    yield Row("alone", "no event: of the category in the first 10", none)
    pulls = [("view",), ("click",), ("cart",), ("purchase",), ("like",), ("rating", 5.0)]
    pushes = [("rating", 1.0), ("dislike",), ("skip",)]
    for action, *value in [*pulls, ("rating", 3.0), *pushes]:
        asked = [store.do(store.guest(), [(action, product.item, *value)]) for product in products]
        figure, name = store.of_category(asked, categories), " ".join([action, *(f"{one:.0f}" for one in value)])
        if (action, *value) in pulls:
            yield Row("alone", name, figure, ">", none + 2)
        elif (action, *value) in pushes:
            yield Row("alone", name, figure, "<", none)
        else:
            yield Row("alone", name, figure)


def strength(store: Store, draw: random.Random) -> Iterator[Row]:
    """A view in one category and an action in another, in both orders: the stronger action pulls more."""
    categories = store.shop.by_category()
    pairs = [draw.sample(sorted(categories), 2) for _ in range(2 * SAMPLE)]
    items = [(draw.choice(categories[one]), draw.choice(categories[other])) for one, other in pairs]
    figures = {}
    for action in ("view", "cart", "purchase"):
        asked = []
        for at, (one, other) in enumerate(items):
            steps = [(action, one), ("view", other)]
            asked.append(store.do(store.guest(), steps if at % 2 else steps[::-1]))
        figures[action] = store.of_category(asked, [one for one, _ in pairs])
    yield Row("strength", "view beside a view: of its category", figures["view"])
    yield Row("strength", "cart beside a view", figures["cart"], ">", figures["view"])
    yield Row("strength", "purchase beside a view", figures["purchase"], ">", figures["cart"])


def repeats(store: Store, draw: random.Random) -> Iterator[Row]:
    """Whether a product comes again on a list, while the user goes on in its category."""
    products = draw.sample(store.shop.products, SAMPLE)
    wanted = {"view": ">", "click": ">", "purchase": "<=", "rating": "<=", "dislike": "<=", "skip": "<="}
    for action, relation in wanted.items():
        for days, when in ((1, "a day"), (90, "90 days")):
            relation = ">" if (action, days) == ("purchase", 90) else relation
            lists = [_again(store, random.Random(number), product, action, days) for number, product in enumerate(products)]
            yield Row("repeats", f"{action}: listed again within {when}", fmean(lists), relation, 0.0)


def _again(store: Store, draw: random.Random, product: Product, action: str, days: int) -> bool:
    """Whether it is among the first 20 after one of five views of others in its category, so many days after the action."""
    user = store.guest()
    store.do(user, [("view", product.item), (action, product.item, *([4.0] if action == "rating" else []))])
    others = [item for item in store.shop.by_category()[product.category] if item is not product.item]
    asked = store.requests(user, _views(draw, others, 5), store.now_ms + days * DAY_MS - 6 * GAP_MS)
    return any(product.item.item_id in one for one in store.lists(asked, LONG))


def new_item(store: Store, draw: random.Random) -> Iterator[Row]:
    """A product comes that is much like one that is there; at first only its text is known, then five users view it."""
    likes = {product.category: product for product in draw.sample(store.shop.products, SAMPLE)}
    new = [_like(product) for product in list(likes.values())[:_CAN_LEARN]]
    for product in new:
        store.put(product.item, product.category)
    near = [(user, product) for product in new for user in _nearest(store, product.item)]
    yield from _listed(store, draw, near, "its 10 nearest users: in the first")
    for product in new:
        for user in draw.sample(_fans(store, product.category), 5):
            store.learn(store.events(user, [("view", product.item)]))
    seen = {user for user, _ in near}
    others = [(user, product) for product in new for user in _others(store, draw, product.category, seen)]
    yield from _listed(store, draw, others, "10 others after 5 views: in the first")
    store.fine_tune()
    yield from _listed(store, draw, others, "10 others after fine-tuning: in the first")


def _listed(store: Store, draw: random.Random, asked: list[tuple[str, Product]], name: str) -> Iterator[Row]:
    """How often the product is on the next list of these users, who view another one of its category."""
    categories = store.shop.by_category()
    requests = [store.do(store.guest(user), _views(draw, categories[product.category], 1)) for user, product in asked]
    items = [product.item for _, product in asked]
    yield Row("new item", f"{name} 10", store.share(requests, items), ">=", 0.5)
    yield Row("new item", f"{name} {LONG}", store.share(requests, items, LONG))


def _like(product: Product) -> Product:
    item = product.item
    return product._replace(item=Item(f"{item.item_id}-new", f"{item.title} {_NEW[product.language]}", item.text, item.categories))


def _nearest(store: Store, item: Item, count: int = 10) -> list[str]:
    """The users of whose interests one, by its weight, is nearest to the item."""
    vector = store.catalogue.lookup(item_key(item.item_id))
    near = {}
    for user in store.had:
        held = interest.decode(store.users.request(_at(store, user)).interests)
        if len(held.weights) and held.weights.sum() > 0:
            near[user] = float((held.weights / held.weights.sum() * (held.vectors @ vector)).max())
    return sorted(near, key=near.get, reverse=True)[:count]


def _at(store: Store, user: str):
    return store.events(user, [("view", store.shop.products[0].item)])[0]


def _fans(store: Store, category: str, least: int = 3) -> list[str]:
    """Users who had to do with the category, more than once."""
    return sorted(user for user, had in store.had.items() if had[category] >= least)


def _others(store: Store, draw: random.Random, category: str, seen: set[str]) -> list[str]:
    fans = [user for user in _fans(store, category) if user not in seen]
    return draw.sample(fans, min(10, len(fans)))


def tastes(store: Store, draw: random.Random) -> Iterator[Row]:
    """Users with different favourite categories have different lists, and not what is most popular."""
    users = draw.sample([user for user, had in store.had.items() if had.total() >= 5], SAMPLE)
    categories = store.shop.by_category()
    asked = [store.do(store.guest(user), _views(draw, categories[store.shop.likes[user][0]], 1)) for user in users]
    lists = [set(one) for one in store.lists(asked)]
    pairs = [(one, other) for one, other in combinations(range(SAMPLE), 2) if not {*store.shop.likes[users[one]]} & {*store.shop.likes[users[other]]}]
    alike = fmean(len(lists[one] & lists[other]) / len(lists[one] | lists[other]) for one, other in pairs)
    chosen = Counter(event.item_id for event in store.shop.events if event.action in POSITIVE)
    popular = {item for item, _ in chosen.most_common(10)}
    own = store.of_category(asked, [store.shop.likes[user][0] for user in users])
    yield Row("tastes", "overlap of users with other favourites (Jaccard)", alike, "<=", 0.1)
    yield Row("tastes", "share of the list that is most popular", fmean(len(one & popular) / 10 for one in lists), "<=", 0.3)
    yield Row("tastes", "of the favourite category, viewed last, in the first 10", own, ">=", 5)


def bots(store: Store, draw: random.Random) -> Iterator[Row]:
    """One bot, then three, view a product 500 times each."""
    chosen = Counter(event.item_id for event in store.shop.events)
    product = draw.choice([product for product in store.shop.products if chosen[product.item.item_id] <= 20])
    audience = _audience(store, draw, product)
    yield from _reached(store, product.item, audience, "before")
    for count in (1, 3):
        for bot in range(count if count == 1 else count - 1):
            store.learn(store.events(f"bot-{count}-{bot}", [("view", product.item)] * 500, store.now_ms - 500 * GAP_MS))
        yield from _reached(store, product.item, audience, f"{count} bot{'s' * (count > 1)}")
    store.fine_tune()
    yield from _reached(store, product.item, audience, "3 bots, fine-tuned")


def _audience(store: Store, draw: random.Random, product: Product) -> dict[str, list[Request]]:
    """What new and old users ask for who view something of another category."""
    elsewhere = [other for other in store.shop.products if other.category != product.category]
    views = [[("view", other.item)] for other in draw.sample(elsewhere, 2 * SAMPLE)]
    old = [user for user, had in store.had.items() if not had[product.category]]
    return {
        "new": [store.nothing(), *(store.do(store.guest(), steps) for steps in views[:SAMPLE])],
        "old": [store.do(store.guest(user), steps) for user, steps in zip(draw.sample(old, SAMPLE), views[SAMPLE:])],
    }


def _reached(store: Store, item: Item, audience: dict[str, list[Request]], when: str) -> Iterator[Row]:
    for who, asked in audience.items():
        relation = "" if when == "before" else "<"
        yield Row("bots", f"{when}: {who} users elsewhere with its product in the first 10", store.share(asked, [item] * len(asked)), relation, 0.05)


def gone(store: Store, draw: random.Random) -> Iterator[Row]:
    """A deleted product is on no list; a user who was forgotten is a new user."""
    products = draw.sample(store.shop.products, SAMPLE)
    categories = store.shop.by_category()
    steps = {product.item.item_id: _views(draw, [item for item in categories[product.category] if item is not product.item], 2) for product in products}
    fans = [draw.choice(_fans(store, product.category)) for product in products]
    new = [store.do(store.guest(), steps[product.item.item_id]) for product in products]
    guests = [store.guest(fan) for fan in fans]
    for guest in guests:
        store.do(guest, [("forget", products[0].item)])
    back = [store.do(guest, steps[product.item.item_id]) for guest, product in zip(guests, products)]
    changed = fmean(one != other for one, other in zip(store.lists(new, LONG), store.lists(back, LONG)))
    yield Row("gone", "forgotten: the list is not that of a new user", changed, "<=", 0.0)
    for product in products:
        store.delete(product.item)
    asked = [store.do(store.guest(fan), steps[product.item.item_id]) for fan, product in zip(fans, products)]
    yield Row("gone", "deleted: still on a next list", store.share(asked, [product.item for product in products], LONG), "<=", 0.0)


PROBES: dict[str, Probe] = {
    "search": search,
    "alone": alone,
    "strength": strength,
    "repeats": repeats,
    "new item": new_item,
    "tastes": tastes,
    "bots": bots,
    "gone": gone,
}
