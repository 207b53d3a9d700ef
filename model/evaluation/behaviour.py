"""The contract of behaviour: what a user does must move the next lists, with an untrained and with a trained model.

Each probe lets visitors of a made-up shop (shop.py) do something and looks at the lists that answer them.
docs/behaviour.md is the contract in words.
"""

import operator
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from model import interest
from model.evaluate import Protocol
from model.evaluation.shop import DAY_MS, Shop, category, language
from model.evaluation.store import GAP_MS, Embed, Step, Store, open_store, train
from model.schema import POSITIVE, Event, Item, Request, item_key

SAMPLE = 40
"""Products or users of a probe."""
LONG = 20
"""The length of a list in the job."""
_HOLDS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_SEEN = 0.1  # of ten places: a difference that a user could see
_FURTHER = (1, 2, 3, 5, 10)  # views after a search
_LANGUAGES = {"de": "German", "en": "English", "zh": "Chinese"}
_NEW = {"de": "neu", "en": "new", "zh": "新款"}
_PULLS = (("view",), ("click",), ("cart",), ("purchase",), ("like",), ("rating", 5.0))
_PUSHES = (("rating", 1.0), ("dislike",), ("skip",))
_STRICT, _LENIENT = (2.0, 1.0, 2.0, 1.0, 2.0), (5.0, 5.0, 4.0, 5.0, 5.0)
_KEEPS = {"view": True, "click": True, "purchase": False, "rating": False, "dislike": False, "skip": False}
"""Whether a product may be listed again the next day after each action."""
_BOT_VIEWS = 500


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
        return _HOLDS[self.relation](self.figure, self.bound) if self.relation else None


@dataclass(frozen=True)
class Behaviour:
    """What the probes of a store found."""

    rows: list[Row]

    def figures(self) -> list[dict]:
        """The rows as JSON values."""
        about = ({"probe": row.probe, "name": row.name, "figure": round(row.figure, 4)} for row in self.rows)
        return [one | {"wanted": row.wanted, "holds": row.holds} for one, row in zip(about, self.rows)]

    def broken(self, probe: str | None = None) -> list[Row]:
        """The rows that do not hold, of all probes or of one."""
        return [row for row in self.rows if row.holds is False and probe in (None, row.probe)]


def measure(store: Store, seed: int = 0, probes: Sequence[str] = ()) -> Behaviour:
    """Run the probes, all of them where none are named; the store stays as it is.

    Args:
        seed: of who is asked, and for what.
    """
    rows = []
    for name in probes or PROBES:
        rows += [Row(name, *row) for row in PROBES[name](store.copy(), random.Random(f"{name} {seed}"))]
    return Behaviour(rows)


def compare(
    shop: Shop,
    embed: Embed,
    protocol: Protocol = Protocol(),
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Behaviour]:
    """What the probes find for a model that has learnt nothing and for one that has learnt from all of the shop."""
    untrained = open_store(shop, embed, protocol)
    stores = {"untrained": untrained, "trained": train(untrained, progress)}
    return {name: measure(store, seed) for name, store in stores.items()}


Found = Iterator[tuple[str, float] | tuple[str, float, str, float]]
"""The fields of a probe's rows, without its name."""


def search(store: Store, draw: random.Random) -> Found:
    """Users come back who have never touched a category, and search for a title of it, or for a word."""
    items = draw.sample(store.shop.items, SAMPLE)
    about = [category(item) for item in items]
    users = [_stranger(store, draw, item) for item in items]
    before = [store.users.request(_now(store, user)) for user in users]
    titles = [store.do(store.guest(user), [("search", item.title)]) for user, item in zip(users, items)]
    words = [
        store.do(store.guest(user), [("search", draw.choice(store.shop.words[one]))]) for user, one in zip(users, about)
    ]
    yield "title: the item in the first 10", store.share(titles, items), ">=", 0.9
    for spoken, name in _LANGUAGES.items():
        asked, of = zip(*[(asked, item) for asked, item in zip(titles, items) if language(item) == spoken])
        yield f"title in {name}: the item", store.share(asked, of)
    new = [store.do(store.guest(), [("search", item.title)]) for item in items]
    yield "title, a new user: the item", store.share(new, items), ">=", 0.9
    yield "no search: of the category", store.of_category(before, about)
    yield "title: of the category", store.of_category(titles, about), ">=", 6
    yield "word: of the category", store.of_category(words, about), ">=", 6


def fading(store: Store, draw: random.Random) -> Found:
    """Users search in the middle of a visit to a favourite category, and go on there: the search leads, then fades."""
    items = draw.sample(store.shop.items, SAMPLE)
    about, visits = [category(item) for item in items], []
    for item in items:
        user = _stranger(store, draw, item)
        few = _views(draw, store.shop.categories[store.shop.likes[user][0]], 6)  # so that the category is never used up
        views = [few[at % len(few)] for at in range(3 + _FURTHER[-1])]
        visits.append(store.requests(store.guest(user), [*views[:3], ("search", item.title), *views[3:]]))
    led = store.of_category([asked[3] for asked in visits], about)
    yield "just before: of the category", store.of_category([asked[2] for asked in visits], about)
    yield (
        "the search: the item in the first 10",
        store.share([asked[3] for asked in visits], items),
        ">=",
        0.9,
    )
    yield "the search: of the category", led, ">=", 6
    before = led
    for further in _FURTHER:
        left = store.of_category([asked[3 + further] for asked in visits], about)
        yield f"{further} other view{'s' * (further > 1)} later: of the category", left, "<=", before + 2 * _SEEN
        before = left
    yield "what is left of it after 10 views, share", left / max(led, 1e-9), "<=", 0.5


def _stranger(store: Store, draw: random.Random, item: Item) -> str:
    """A user with a history, but none in the item's category."""
    touched, likes, one = store.shop.touched, store.shop.likes, category(item)
    return draw.choice(
        [user for user in likes if touched[user].total() >= 5 and not touched[user][one] and one not in likes[user]]
    )


def _views(draw: random.Random, items: Sequence[Item], count: int) -> list[Step]:
    return [("view", item) for item in draw.sample(list(items), count)]


def _now(store: Store, user: str) -> Event:
    """An event that is not folded in: what would be asked now?"""
    return Event("now", user, "view", store.now_ms)


def single_action(store: Store, draw: random.Random) -> Found:
    """One action as the only event of a user; half of the products are of categories shown to a user without events."""
    nobody = store.users.request(_now(store, store.guest()))
    shown = {category(store.items[item]) for item in store.lists([nobody])[0]}
    near = [item for item in store.shop.items if category(item) in shown]
    items = [*draw.sample(near, SAMPLE // 2), *draw.sample(store.shop.items, SAMPLE // 2)]
    about = [category(item) for item in items]
    none = store.of_category([nobody] * len(items), about)
    yield "no event: of the category", none
    for step in (*_PULLS, ("rating", 3.0), *_PUSHES):
        action, *value = step
        asked = [store.do(store.guest(), [(action, item, value[0]) if value else (action, item)]) for item in items]
        wanted = (">", none + 2) if step in _PULLS else ("<", none) if step in _PUSHES else ()
        yield " ".join([action, *(f"{one:.0f}" for one in value)]), store.of_category(asked, about), *wanted


def strength(store: Store, draw: random.Random) -> Found:
    """A view in one category and an action in another, in both orders: the stronger action pulls more."""
    pairs = [draw.sample(sorted(store.shop.categories), 2) for _ in range(2 * SAMPLE)]
    items = [[draw.choice(store.shop.categories[one]) for one in pair] for pair in pairs]
    about, bound = [one for one, _ in pairs], None
    for action in ("view", "cart", "purchase"):
        visits = [[(action, one), ("view", other)][:: 1 if at % 2 else -1] for at, (one, other) in enumerate(items)]
        figure = store.of_category([store.do(store.guest(), steps) for steps in visits], about)
        yield f"{action} beside a view: of its category", figure, *((">", bound + _SEEN) if bound is not None else ())
        bound = figure


def opinions(store: Store, draw: random.Random) -> Found:
    """A view in a category, then a dislike of another thing there; and a rating of 3 by users who rate low, or high."""
    items = draw.sample(store.shop.items, SAMPLE)
    about = [category(item) for item in items]
    others = [
        draw.choice([other for other in store.shop.categories[one] if other is not item])
        for item, one in zip(items, about)
    ]
    viewed = store.of_category([store.do(store.guest(), [("view", item)]) for item in items], about)
    yield "a view: of the category", viewed
    for action, relation in (("dislike", "<"), ("skip", "<=")):
        asked = [store.do(store.guest(), [("view", item), (action, other)]) for item, other in zip(items, others)]
        yield f"a view, then a {action} of another: of it", store.of_category(asked, about), relation, viewed
    rated = {}
    for values in (_STRICT, _LENIENT):
        asked = []
        for item in items:
            earlier = draw.sample(
                [other for other in store.shop.items if category(other) != category(item)], len(values)
            )
            steps = [*(("rating", other, value) for other, value in zip(earlier, values)), ("rating", item, 3.0)]
            asked.append(store.do(store.guest(), steps))
        rated[values] = store.of_category(asked, about)
    yield "a 3 by who rates high: of the category", rated[_LENIENT]
    yield "a 3 by who rates low: of the category", rated[_STRICT], ">", rated[_LENIENT] + _SEEN


def repeats(store: Store, draw: random.Random) -> Found:
    """Whether a product comes again on one of the lists after five views of others in its category."""
    items = draw.sample(store.shop.items, SAMPLE)
    for action, keeps in _KEEPS.items():
        for days, when in ((1, "a day"), (90, "90 days")):
            asked = [_goes_on(store, random.Random(number), item, action, days) for number, item in enumerate(items)]
            lists = iter(store.lists([request for requests in asked for request in requests], LONG))
            again = fmean(any(item.item_id in next(lists) for _ in requests) for item, requests in zip(items, asked))
            wanted = (">", 0.0) if keeps or (action, days) == ("purchase", 90) else ("<=", 0.0)
            yield f"{action}: listed again after {when}", again, *wanted


def _goes_on(store: Store, draw: random.Random, item: Item, action: str, days: int) -> list[Request]:
    """A view and an action on the item; what is asked after each of five views in its category, so many days later."""
    user = store.guest()
    store.do(user, [("view", item), (action, item, 4.0) if action == "rating" else (action, item)])
    others = [other for other in store.shop.categories[category(item)] if other is not item]
    return store.requests(user, _views(draw, others, 5), store.now_ms + days * DAY_MS - 6 * GAP_MS)


def new_item(store: Store, draw: random.Random) -> Found:
    """A product comes that is much like one that is there; at first only its text is known, then five users view it."""
    like = {category(item): item for item in draw.sample(store.shop.items, SAMPLE)}
    new = [
        Item(f"{item.item_id}-new", f"{item.title} {_NEW[language(item)]}", item.text, item.categories)
        for item in like.values()
    ][:8]
    for item in new:
        store.put(item)
    near = {item.item_id: _nearest(store, item) for item in new}
    asked = [(user, item) for item in new for user in near[item.item_id]]
    learns = store.learner is not None
    # Before anything is learnt nothing is new: the item has its chance among the twenty of its category.
    yield from _listed(store, draw, asked, "its 10 nearest users", (">=", 0.5 if learns else 0.3))
    counted = (">=", 0.5) if learns else ()  # without a learner nobody counts
    for item in new:
        fans = _fans(store, item)
        for user in draw.sample(fans, min(5, len(fans))):
            store.learn(store.events(user, [("view", item)]))
    asked = []
    for item in new:
        others = [user for user in _fans(store, item) if user not in near[item.item_id]]
        asked += [(user, item) for user in draw.sample(others, min(10, len(others)))]
    yield from _listed(store, draw, asked, "10 others after 5 views", counted)
    store.fine_tune()
    yield from _listed(store, draw, asked, "10 others after fine-tuning", counted)


def _listed(store: Store, draw: random.Random, asked: list[tuple[str, Item]], name: str, wanted: tuple) -> Found:
    """How often the item is on the next list of these users, who view another one of its category."""
    requests = [
        store.do(store.guest(user), _views(draw, store.shop.categories[category(item)], 1)) for user, item in asked
    ]
    items = [item for _, item in asked]
    yield f"{name}: in the first 10", store.share(requests, items), *wanted
    yield f"{name}: in the first {LONG}", store.share(requests, items, LONG)


def _nearest(store: Store, item: Item, count: int = 10) -> list[str]:
    """The users of whom an interest, by its weight, is nearest to the item."""
    vector = store.catalogue.lookup(item_key(item.item_id))
    near: dict[str, float] = {}
    for user in store.shop.likes:
        held = interest.decode(store.users.request(_now(store, user)).interests)
        if held.weights.sum() > 0:
            near[user] = float((held.weights / held.weights.sum() * (held.vectors @ vector)).max())
    return sorted(near, key=near.__getitem__, reverse=True)[:count]


def _fans(store: Store, item: Item) -> list[str]:
    """Users who had to do with the item's category, more than once."""
    return sorted(user for user, touched in store.shop.touched.items() if touched[category(item)] >= 3)


def lists_differ(store: Store, draw: random.Random) -> Found:
    """Users with different favourite categories have different lists, and not what is most popular."""
    likes = store.shop.likes
    users = draw.sample([user for user, touched in store.shop.touched.items() if touched.total() >= 5], SAMPLE)
    asked = [store.do(store.guest(user), _views(draw, store.shop.categories[likes[user][0]], 1)) for user in users]
    lists = {user: set(one) for user, one in zip(users, store.lists(asked))}
    pairs = [(lists[one], lists[other]) for one, other in combinations(users, 2) if not {*likes[one]} & {*likes[other]}]
    chosen = Counter(event.item_id for event in store.shop.events if event.action in POSITIVE)
    popular = {item for item, _ in chosen.most_common(10)}
    yield (
        "overlap, other favourites (Jaccard)",
        fmean(len(one & other) / len(one | other) for one, other in pairs),
        "<=",
        0.1,
    )
    yield "share of the most popular 10", fmean(len(one & popular) / len(popular) for one in lists.values()), "<=", 0.3
    yield (
        "after a view: of the favourite category",
        store.of_category(asked, [likes[user][0] for user in users]),
        ">=",
        5,
    )


def bots(store: Store, draw: random.Random) -> Found:
    """One bot, then three, view a product 500 times each."""
    chosen = Counter(event.item_id for event in store.shop.events)
    item = draw.choice([item for item in store.shop.items if chosen[item.item_id] <= 20])
    audience = _audience(store, draw, item)
    yield from _reached(store, item, audience, "before")
    for when, more in {"1 bot": 1, "3 bots": 2}.items():
        for number in range(more):
            store.learn(
                store.events(f"{when} {number}", [("view", item)] * _BOT_VIEWS, store.now_ms - _BOT_VIEWS * GAP_MS)
            )
        yield from _reached(store, item, audience, when)
    store.fine_tune()
    yield from _reached(store, item, audience, "3 bots, fine-tuned")


def _audience(store: Store, draw: random.Random, item: Item) -> dict[str, list[Request]]:
    """What users ask for who have nothing to do with the item's category."""
    elsewhere = [other for other in store.shop.items if category(other) != category(item)]
    views = [[("view", other)] for other in draw.sample(elsewhere, 2 * SAMPLE)]
    old = draw.sample([user for user, touched in store.shop.touched.items() if not touched[category(item)]], SAMPLE)
    return {
        "users without any event": [store.users.request(_now(store, store.guest()))],
        "new users": [store.do(store.guest(), steps) for steps in views[:SAMPLE]],
        "old users": [store.do(store.guest(user), steps) for user, steps in zip(old, views[SAMPLE:])],
    }


def _reached(store: Store, item: Item, audience: dict[str, list[Request]], when: str) -> Found:
    """In which share of the lists the item is among the first 10."""
    for who, asked in audience.items():
        yield (
            f"{when}: on lists of {who}",
            store.share(asked, [item] * len(asked)),
            *(() if when == "before" else ("<", 0.05)),
        )


def gone(store: Store, draw: random.Random) -> Found:
    """A user who was forgotten is a new user; a deleted product is on no list."""
    items = draw.sample(store.shop.items, SAMPLE)
    views = [
        _views(draw, [other for other in store.shop.categories[category(item)] if other is not item], 2)
        for item in items
    ]
    fans = [draw.choice(_fans(store, item)) for item in items]
    asked = [store.do(store.guest(fan), steps) for fan, steps in zip(fans, views)]
    for item in items:
        store.delete(item)
    yield "deleted: on a next list", store.share(asked, items, LONG), "<=", 0.0
    for fan in fans:
        store.forget(fan)
    back = store.lists([store.do(fan, steps) for fan, steps in zip(dict.fromkeys(fans), views)], LONG)
    new = store.lists([store.do(store.guest(), steps) for _, steps in zip(dict.fromkeys(fans), views)], LONG)
    yield "forgotten: another list than a new user's", fmean(one != other for one, other in zip(back, new)), "<=", 0.0


PROBES: dict[str, Callable[[Store, random.Random], Found]] = {
    "search": search,
    "fading": fading,
    "single action": single_action,
    "strength": strength,
    "opinions": opinions,
    "repeats": repeats,
    "new item": new_item,
    "lists differ": lists_differ,
    "bots": bots,
    "gone": gone,
}
