"""A place for new items: an item that came late, that hardly anybody chose, and that is near to what a user likes."""

import copy

import numpy as np
import pytest
import torch
from msgspec import structs

from model.catalogue import Catalogue
from model.finetune import Learner
from model.interest import Rules
from model.learning.config import TrainingConfig
from model.schema import Event, Example, ItemVector, RecommendedItem, Request
from model.score import Scorer, load, save, score
from model.scoring.batch import open_requests
from model.scoring.explore import PLACE, explore
from model.scoring.ranker import rerank
from model.scoring.table import KNOWN, ItemTable
from model.statistics import ItemStatistics
from tests.test_feedback import KINDS, axis_of
from tests.test_score import click, ids, make_request, request_after

EACH, DIM, K = 12, 32, 20
QUICK = TrainingConfig(warm_up_epochs=0.0, epochs_per_event=0.0)


def vector_of(kind: str, number: int) -> bytes:
    """Near to all of its kind, far from the others."""
    noise = np.random.default_rng(number).standard_normal(DIM - len(KINDS))
    vector = axis_of(kind) + 0.33 * np.concatenate((np.zeros(len(KINDS)), noise / np.linalg.norm(noise)))
    return (vector / np.linalg.norm(vector)).astype("<f2").tobytes()


def put(catalogue: Catalogue, *item_ids: str) -> None:
    """Add items, as shoe-3."""
    catalogue.apply(
        ItemVector(item_id, "enc", vector_of(item_id.split("-")[0], int(item_id.split("-")[1]))) for item_id in item_ids
    )


def views(user: str, *item_ids: str, from_ms: int = 0) -> list[Example]:
    return [
        Example(user, f"{user}-{from_ms}-{at}", from_ms + 60_000 * at, item, "view", b"")
        for at, item in enumerate(item_ids)
    ]


class World:
    """A shop of shoes, hats, teas and lamps that has been learnt from; things may be added to it."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        put(self.catalogue, *(f"{kind}-{number}" for kind in KINDS for number in range(EACH)))
        self.learner = Learner(self.catalogue, None, seed=2, config=QUICK)  # whose network does not list what is new
        for user in range(40):
            items = (f"{KINDS[(user + at // 4) % 4]}-{(user + at) % EACH}" for at in range(8))
            self.learner.add(views(f"u{user}", *items, from_ms=1_000_000 * user))
        self.scorer = self.learner.fine_tune()

    def add(self, *item_ids: str) -> None:
        """Items come, and the learner makes room for them."""
        put(self.catalogue, *item_ids)
        self.scorer = self.learner.fine_tune()

    def chosen(self, item_id: str, times: int, begin: int = 0) -> None:
        """So many users take an item."""
        for number in range(begin, begin + times):
            self.learner.add(views(f"{item_id} {number}", item_id, from_ms=10**9 + 1_000 * number))
        self.scorer = self.learner.fine_tune()

    @property
    def statistics(self) -> ItemStatistics:
        return self.learner.statistics

    @property
    def table(self) -> ItemTable:
        return self.scorer.table(self.statistics, self.catalogue)

    def score(self, requests: list[Request], k: int, rules: Rules = Rules()) -> list[list[RecommendedItem]]:
        return score(self.scorer, self.statistics, self.catalogue, requests, k, rules)

    def list_of(self, *viewed: str, rules: Rules = Rules(), k: int = K):
        [list_] = self.score([make_request(self.catalogue, list(viewed))], k, rules)
        return list_


LIKES_SHOES = ("shoe-1", "shoe-2", "shoe-3", "shoe-4")


@pytest.fixture(scope="module")
def shop() -> World:
    return World()


@pytest.fixture
def world(shop) -> World:
    """A copy that may be changed."""
    return copy.deepcopy(shop)


def new_by(learner: Learner, scorer: Scorer) -> list[int]:
    """The rows of the items that are new to a version."""
    return scorer.table(learner.statistics, learner.catalogue).new.tolist()


def reasons(list_, item_id: str) -> list[tuple[str, float]]:
    [item] = [item for item in list_ if item.item_id == item_id]
    return [(reason.signal, reason.share) for reason in item.reasons]


def test_an_item_that_came_late_and_is_near_takes_the_tenth_place_at_the_latest(world):
    """Nobody has chosen it yet; it is there because it is new, and nothing else is a reason."""
    world.add("shoe-90")
    list_ = world.list_of(*LIKES_SHOES)

    assert ids(list_).index("shoe-90") < PLACE
    assert [("new", 1.0)] == reasons(list_, "shoe-90")


def test_an_item_takes_the_tenth_place_before_the_learner_knows_of_it(world):
    """It is in the catalogue, but in no version: it came after all of them."""
    put(world.catalogue, "shoe-90")
    list_ = world.list_of(*LIKES_SHOES)

    assert ids(list_).index("shoe-90") < PLACE


def explored(world: World, request: Request, order: list[int], k: int = K) -> tuple[list[int], bool]:
    """The rows in this order of scores, after exploring, and whether an item was lifted."""
    batch = open_requests(world.catalogue, [request], Rules(), 20)
    scored = rerank(world.scorer.ranker, world.table, batch)
    scored.rows, scored.there = torch.tensor([order]), torch.ones(1, len(order), dtype=torch.bool)
    scored.scores = -torch.arange(float(len(order)))[None]
    [item], [lifted] = (one.tolist() for one in explore(world.table, batch, scored, k))
    is_lifted = lifted > -np.inf
    scores = {row: lifted if row == item and is_lifted else -float(place) for place, row in enumerate(order)}
    return sorted(order, key=scores.__getitem__, reverse=True), is_lifted


def test_an_item_that_stands_further_up_anyway_stays_there(world):
    """Exploring lifts into the first ten; from there it takes no item down, and it is not there because it is new."""
    world.add("shoe-90")
    row = world.catalogue.item_ids.index("shoe-90")
    for place in (0, 8, 9, 10, 40):
        order = [number for number in range(len(world.catalogue)) if number != row]
        order.insert(place, row)
        after, lifted = explored(world, make_request(world.catalogue, list(LIKES_SHOES)), order)

        assert min(place, 9) == after.index(row)
        assert lifted == (place > 9)
        assert [number for number in after if number != row] == [number for number in order if number != row]


def test_an_item_that_is_no_candidate_is_lifted_too(world):
    """Nothing that is learnt leads to it. Where fewer candidates are left than the first ten, it joins them."""
    world.add("shoe-90")
    row, request = world.catalogue.item_ids.index("shoe-90"), make_request(world.catalogue, list(LIKES_SHOES))
    batch = open_requests(world.catalogue, [request], Rules(), 20)
    for left in (30, 10):
        scored = rerank(world.scorer.ranker, world.table, batch)
        scored.scores = scored.scores.masked_fill(scored.rows == row, -torch.inf)
        scored.there = scored.there & (scored.rows != row)
        scored.scores[0, scored.scores[0].argsort(descending=True)[left:]] = -torch.inf
        [item], [score_] = explore(world.table, batch, scored, K)

        assert row == item
        assert PLACE - 1 == (scored.scores[0] > score_).sum()


def test_only_the_nearest_new_item_is_lifted(world):
    """A list explores with one item: the one whose text is nearest to an interest of the user."""
    world.add("shoe-90", "shoe-91", "hat-92")
    list_ = world.list_of(*LIKES_SHOES)
    new = [item.item_id for item in list_ if [reason.signal for reason in item.reasons] == ["new"]]
    table = world.table
    interests = open_requests(
        world.catalogue, [make_request(world.catalogue, list(LIKES_SHOES))], Rules(), 20
    ).interests
    nearness = {
        item: (interests[0, 0] - table.mean) @ table.contrast_at(torch.tensor(world.catalogue.item_ids.index(item)))
        for item in ("shoe-90", "shoe-91")
    }

    assert [max(nearness, key=nearness.get)] == new


def test_an_item_that_is_far_does_not(world):
    """A new hat is nothing for who looks at shoes; for who looks at both it is."""
    world.add("hat-90")
    only_shoes, both = world.list_of(*LIKES_SHOES), world.list_of("shoe-1", "hat-2", "shoe-3", "hat-4")

    assert "new" not in [reason.signal for item in only_shoes for reason in item.reasons]
    assert [("new", 1.0)] == reasons(both, "hat-90")


def test_a_new_user_explores_nothing(world):
    """There is no interest for an item to be near to."""
    world.add("shoe-90")

    assert "new" not in [reason.signal for item in world.list_of() for reason in item.reasons]


def test_an_item_that_must_not_be_listed_does_not(world):
    """Who disliked it is never shown it; the next new one takes the place."""
    world.add("shoe-90")
    request = request_after(
        world.catalogue, [*(click(item, at) for at, item in enumerate(LIKES_SHOES)), click("shoe-90", 9, "dislike")]
    )
    [list_] = world.score([request], 100)
    world.add("shoe-91")
    [then] = world.score([request], 100)

    assert "shoe-90" not in ids(list_) + ids(then)
    assert "new" not in [reason.signal for item in list_ for reason in item.reasons]
    assert ids(then).index("shoe-91") < PLACE


def test_an_item_that_was_chosen_twenty_times_is_new_no_more(world):
    """Up to 19 times it is; from then on what is learnt of it counts."""
    world.add("shoe-90")
    row = world.catalogue.item_ids.index("shoe-90")
    world.chosen("shoe-90", KNOWN - 1)
    before = world.table.new.tolist()
    world.chosen("shoe-90", 1, begin=KNOWN)
    after = world.table.new.tolist()

    assert ([row], []) == (before, after)


def test_nothing_is_new_where_nothing_was_added(world):
    """Also an item that nobody has chosen since it was there from the start."""
    put(world.catalogue, "tea-3")  # it comes again
    world.scorer = world.learner.fine_tune()
    unchosen = Learner(world.catalogue, config=QUICK)
    unchosen.add(views("u", "shoe-1", "hat-2"))

    for learner in (world.learner, unchosen):
        assert [] == new_by(learner, learner.fine_tune())
    assert "new" not in [reason.signal for item in world.list_of(*LIKES_SHOES) for reason in item.reasons]


def test_nothing_is_new_before_anything_is_learnt(world):
    """All items came before the first event: with the untrained scorer, and with a version that has counted none."""
    nothing_yet = Learner(world.catalogue, config=QUICK)
    nothing_yet.fine_tune()
    put(world.catalogue, "shoe-90")

    for scorer in (Scorer.untrained(DIM), nothing_yet.fine_tune()):
        assert [] == new_by(nothing_yet, scorer)


def test_an_item_that_came_before_the_first_example_was_learnt_is_not_new(world):
    """A catalogue that is loaded in parts, while the learner waits: it has counted nothing yet."""
    learner = Learner(world.catalogue, config=QUICK)
    learner.fine_tune()
    put(world.catalogue, "shoe-90")
    learner.add(views("u", "shoe-1", "hat-2"))

    assert [] == new_by(learner, learner.fine_tune())


@pytest.mark.parametrize("kinds", [("shoe",), ("shoe", "hat"), KINDS])
def test_probabilities_still_fall_from_place_to_place(world, kinds):
    """And sum to 1 over the whole catalogue, with a lifted item among them; whatever the length of the list."""
    world.add(*(f"{kind}-{number}" for kind in kinds for number in (90, 91)))
    request = make_request(world.catalogue, [f"{kind}-{number}" for number in range(4) for kind in kinds])
    lists = [world.score([request], k)[0] for k in (5, PLACE, K, len(world.catalogue))]

    for list_ in lists:
        chances = [item.probability for item in list_]
        assert chances == sorted(chances, reverse=True) and min(chances) > 0
    assert 1 == pytest.approx(sum(item.probability for item in lists[-1]), abs=1e-4)
    assert ids(lists[-1])[:K] == ids(lists[2])
    assert ids(lists[1]) == ids(lists[2])[:PLACE]
    assert len(set(ids(lists[-1]))) == len(world.catalogue)


@pytest.mark.parametrize("k", [3, 5, 9])
def test_a_short_list_shows_a_new_item_in_its_last_place(world, k):
    """Lists of five are explored as lists of twenty are; those of one or two are not."""
    world.add("shoe-90")
    request = make_request(world.catalogue, LIKES_SHOES)

    assert "shoe-90" == ids(world.score([request], k)[0])[-1]
    assert "shoe-90" not in ids(world.score([request], 2)[0])


def test_a_catalogue_of_ten_items_or_fewer_explores_nothing(world):
    """All of it is on the list anyway."""
    small = Catalogue()
    put(small, "shoe-1", "shoe-2", "hat-1")
    learner = Learner(small, config=QUICK)
    learner.add(views("u", "shoe-1", "hat-1"))
    learner.fine_tune()
    put(small, "shoe-90")
    scorer = learner.fine_tune()
    [list_] = score(scorer, learner.statistics, small, [make_request(small, ["shoe-1", "shoe-2"])], 10)

    assert 4 == len(list_) and "new" not in [reason.signal for item in list_ for reason in item.reasons]


def test_where_all_but_a_few_items_are_left_out_nothing_breaks(world):
    """Fewer than ten can be listed: the new one is among them, with a probability that is a number."""
    world.add("shoe-90")
    everything = [item for item in world.catalogue.item_ids if item not in ("shoe-90", "shoe-0", "hat-0")]
    request = request_after(
        world.catalogue,
        [click(item, at, "dislike" if item[:4] != "shoe" else "purchase") for at, item in enumerate(everything)],
    )
    [list_] = world.score([request], K)

    assert {"shoe-90", "shoe-0", "hat-0"} == set(ids(list_))
    assert 1 == pytest.approx(sum(item.probability for item in list_), abs=1e-4)


def test_a_micro_batch_gives_what_one_by_one_gives(world):
    """Each user explores for themselves."""
    world.add("shoe-90", "hat-91")
    requests = [
        make_request(world.catalogue, items)
        for items in (list(LIKES_SHOES), ["hat-1", "hat-2", "hat-3"], [], ["tea-1"])
    ]
    together = world.score(requests, K)

    assert [ids(world.score([request], K)[0]) for request in requests] == [ids(list_) for list_ in together]
    assert [["shoe-90"], ["hat-91"], [], []] == [
        [item.item_id for item in list_ if item.reasons and item.reasons[0].signal == "new"] for list_ in together
    ]


def test_which_items_are_new_is_saved_with_the_version(world, tmp_path):
    """A version knows which items were there when learning began."""
    world.add("shoe-90")
    path = save(world.scorer, str(tmp_path), "v1", {})

    assert [world.catalogue.item_ids.index("shoe-90")] == new_by(world.learner, load(path))


def test_what_must_not_be_listed_is_not_lifted(world):
    """Who disliked the only new item that is near sees what there was without it."""
    world.add("shoe-90")
    events = [click(item, at) for at, item in enumerate(LIKES_SHOES)]
    request = request_after(world.catalogue, [*events, click("shoe-90", 9, "dislike")])
    order = [row for row in range(len(world.catalogue)) if world.catalogue.item_ids[row] != "shoe-90"]

    assert (order, False) == explored(world, request, order)
    assert explored(world, request_after(world.catalogue, events), order)[1]


def test_who_searches_is_not_shown_a_new_item_instead(world):
    """The place is left to what was searched."""
    world.add("shoe-50")
    request = structs.replace(
        request_after(world.catalogue, [click("shoe-0", 0), click("shoe-1", 1)], 2_000), event_id="s"
    )
    searching = [click("shoe-0", 0), click("shoe-1", 1), Event("s", "u", "search", 2_000, query="tea")]
    (explored,), (searched,) = (
        world.score([one], K) for one in (request, request_after(world.catalogue, searching, 2_000, embed=axis_of))
    )

    assert "shoe-50" in ids(explored)[:PLACE]
    assert "shoe-50" not in ids(searched)[:PLACE]


def test_new_items_that_are_as_near_take_turns(world):
    """Each event draws one of them, always the same one for the same event."""
    world.add(*(f"shoe-{number}" for number in range(50, 54)))
    asked = [
        structs.replace(
            request_after(world.catalogue, [click("shoe-0", 0), click("shoe-1", 1)], 2_000), event_id=f"e{at}"
        )
        for at in range(60)
    ]
    lists, again = ([ids(one)[:PLACE] for one in world.score(asked, K)] for _ in range(2))
    shown = {item for one in lists for item in one if item in {f"shoe-{number}" for number in range(50, 54)}}

    assert lists == again
    assert len(shown) > 1
