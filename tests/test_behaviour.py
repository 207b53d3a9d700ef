"""The contract of behaviour, held on a made-up shop: what a user does moves the next lists, learnt or not."""

from collections import Counter

import numpy as np
import pytest
import torch

from model.encoder import Encoder
from model.evaluation.behaviour import PROBES, Behaviour, Row, measure
from model.evaluation.shop import category, language, make_shop
from model.evaluation.store import Store, open_store, train
from model.schema import decode_packed_request, encode_packed
from scripts.data import language_model
from scripts.report import show_behaviour
from tests.test_udfs import FakeJob

SEED, EVENTS = 1, 12_000


@pytest.fixture(scope="module")
def untrained() -> Store:
    """A shop whose users' interests are all that is known."""
    torch.set_num_threads(1)
    return open_store(make_shop(SEED, EVENTS), Encoder(language_model(), "cpu").embed)


@pytest.fixture(scope="module")
def stores(untrained) -> dict[str, Store]:
    return {"untrained": untrained, "trained": train(untrained)}


@pytest.mark.parametrize("model", ["untrained", "trained"])
@pytest.mark.parametrize("probe", PROBES)
def test_what_a_user_does_moves_the_lists(stores, model, probe):
    """Every row of the contract holds: see docs/behaviour.md."""
    broken = measure(stores[model], SEED, [probe]).broken()

    assert [] == [f"{row.name}: {row.figure:.3f}, wanted {row.wanted}" for row in broken]


def test_a_product_that_comes_while_counts_are_live_does_not_end_the_learner(stores):
    """Views are counted, a product comes, more views are counted: the learner goes on."""
    store = stores["trained"].copy()
    item, fan = store.shop.items[0], next(iter(store.shop.likes))
    store.learn(store.events(fan, [("view", item)] * 5))
    store.put(type(item)("SKU-new", f"{item.title} neu", item.text, item.categories))
    store.learn(store.events(fan, [("view", store.items["SKU-new"])] * 5, store.now_ms + 3_600_000))

    assert store.statistics.seen == stores["trained"].statistics.seen + 10


def test_visitors_hold_what_the_job_holds_of_its_users(untrained):
    """The same events, searches and a change of mind among them, make the same requests in the keyed operator."""
    store, job = untrained.copy(), FakeJob()
    steps = [
        ("view", store.shop.items[3]),
        ("search", "Yogamatte"),
        ("dislike", store.shop.items[9]),
        ("skip", store.shop.items[9]),
    ]
    steps += [("rating", store.shop.items[40], 2.0), ("purchase", store.shop.items[77])]
    steps += [("search", "不锈钢保温杯"), ("view", store.shop.items[3])]
    for event in store.events(store.guest(), steps):
        ours, embedded = store.users.act(event), store.users.embedded(event)
        told = [
            one for one in job.update.process_element(encode_packed(embedded), job.context) if isinstance(one, bytes)
        ]
        theirs = decode_packed_request(told[0])

        assert (theirs.interests, theirs.consumed, theirs.event_time_ms) == (
            ours.interests,
            ours.consumed,
            ours.event_time_ms,
        )
        assert theirs.live == ours.live


def test_a_probe_leaves_the_store_as_it_is(untrained):
    """A deleted product is there again for the next probe, and the same seed finds the same."""
    before = untrained.catalogue.item_ids[:]
    first, again = (measure(untrained, SEED, ["gone", "opinions"]) for _ in range(2))

    assert before == untrained.catalogue.item_ids
    assert first == again


def test_a_store_that_breaks_the_contract_is_found_out(untrained, monkeypatch):
    """Products that stay after they are deleted, and users who are not forgotten."""
    monkeypatch.setattr(Store, "delete", lambda store, item: None)
    monkeypatch.setattr(Store, "forget", lambda store, user: None)

    assert 2 == len(measure(untrained, SEED, ["gone"]).broken("gone"))


def test_a_row_holds_or_not_or_is_only_told():
    rows = [Row("p", "a", 0.9, ">=", 0.9), Row("p", "b", 0.9, ">", 0.9), Row("q", "c", 0.0)]

    assert [True, False, None] == [row.holds for row in rows]
    assert [">= 0.9", "> 0.9", ""] == [row.wanted for row in rows]
    assert ([rows[1]], []) == (Behaviour(rows).broken(), Behaviour(rows).broken("q"))


def test_the_table_marks_what_does_not_hold(capsys):
    found = {"untrained": [Row("p", "a", 0.9, ">", 0.9)], "trained": [Row("p", "a", 0.95, ">", 0.9)]}
    show_behaviour({name: Behaviour(rows).figures() for name, rows in found.items()}, "a shop")
    line = next(line for line in capsys.readouterr().out.splitlines() if "0.900" in line)

    assert ["p", "a", "0.900 ✗", "> 0.9", "0.950", "> 0.9"] == [cell.strip() for cell in line.strip("│").split("│")]


@pytest.fixture(scope="module")
def shop():
    return make_shop(SEED)


def test_a_seed_makes_a_shop_and_another_one_another(shop):
    """The same products and events for the same seed; other categories, in the same languages, for another."""
    other = make_shop(SEED + 1)

    assert shop == make_shop(SEED)
    assert 10 < len(shop.categories.keys() & other.categories.keys()) < 35
    assert (
        {"de": 320, "en": 320, "zh": 160} == Counter(map(language, shop.items)) == Counter(map(language, other.items))
    )


def test_a_shop_is_as_large_as_asked_for(shop):
    assert (800, 40, 2_470, 30_000) == (len(shop.items), len(shop.categories), len(shop.likes), len(shop.events))
    assert 800 == len({item.item_id for item in shop.items}) == len({item.title for item in shop.items})
    times = [event.event_time_ms for event in shop.events]
    assert times == sorted(times) and times[-1] - times[0] > 55 * 86_400_000


def test_users_of_a_shop_have_tastes(shop):
    """Most that they do is in their one to three favourite categories; elsewhere they rate lower and dislike more."""
    category_of = {item.item_id: category(item) for item in shop.items}
    liked = [category_of[event.item_id] in shop.likes[event.user_id] for event in shop.events if event.item_id]
    ratings = [
        (event.value, category_of[event.item_id] in shop.likes[event.user_id])
        for event in shop.events
        if event.action == "rating"
    ]
    low, high = (np.mean([value for value, like in ratings if like is liked_]) for liked_ in (False, True))

    assert {1, 2, 3} == {len(likes) for likes in shop.likes.values()}
    assert 0.75 < np.mean(liked) < 0.95
    assert low < 2.8 and high > 3.9 and 3.5 < np.mean([value for value, _ in ratings]) < 4.1


def test_after_a_search_users_view_what_they_searched(shop):
    """The next event of the user is a view in the category of the words."""
    of_word = {word: name for name, words in shop.words.items() for word in words} | {
        item.title: category(item) for item in shop.items
    }
    category_of = {item.item_id: category(item) for item in shop.items}
    last, followed = {}, []
    for event in shop.events:
        if event.user_id in last:
            followed.append(event.item_id is not None and category_of[event.item_id] == last.pop(event.user_id))
        if event.action == "search":
            last[event.user_id] = of_word[event.query]

    assert len(followed) > 400 and np.mean(followed) > 0.95


def test_a_few_products_are_popular(shop):
    """The tenth most viewed is viewed many times as often as the median product."""
    views = sorted(Counter(event.item_id for event in shop.events if event.action == "view").values(), reverse=True)

    assert views[10] > 5 * views[len(views) // 2]
