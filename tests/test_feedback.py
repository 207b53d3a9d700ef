"""What users say outright, in a tiny world whose answer is known: four kinds of things, each on an axis of its own."""

import numpy as np
import pytest
import torch
from msgspec import structs

from model.catalogue import Catalogue
from model.evaluate import Users
from model.finetune import Learner
from model.interest import Rules
from model.learning.config import TrainingConfig
from model.schema import Event, Example, ItemVector, Request
from model.score import Scorer, score
from model.scoring import feedback as feedback_module
from model.scoring.batch import MicroBatch, open_requests
from model.scoring.candidates import Candidates
from model.scoring.feedback import DISLIKED, LIKED, SEARCH, feedback, nearest_to_queries
from model.scoring.ranker import find
from model.signals import TERMS
from model.statistics import ItemStatistics
from tests.test_score import click, ids, request_after

KINDS = ("shoe", "hat", "tea", "lamp")
EACH, DIM = 8, 32
CPU, NOTHING = torch.device("cpu"), ItemStatistics()


def axis_of(kind: str) -> np.ndarray:
    return np.eye(DIM, dtype=np.float32)[KINDS.index(kind)]


def make_world() -> Catalogue:
    """Items shoe-0 to lamp-7: those of a kind have a cosine of about .9 to each other, the others of about 0."""
    random, catalogue = np.random.default_rng(2), Catalogue()
    for kind in KINDS:
        for number in range(EACH):
            noise = random.standard_normal(DIM - len(KINDS))
            vector = axis_of(kind) + 0.33 * np.concatenate((np.zeros(len(KINDS)), noise / np.linalg.norm(noise)))
            catalogue.apply(
                [ItemVector(f"{kind}-{number}", "enc", (vector / np.linalg.norm(vector)).astype("<f2").tobytes())]
            )
    return catalogue


@pytest.fixture(scope="module")
def world() -> Catalogue:
    return make_world()


@pytest.fixture(scope="module")
def untrained() -> Scorer:
    return Scorer.untrained(DIM)


def did(*events: str | tuple[str, str], user: str = "u") -> list[Event]:
    """Events in words, one a second: an item is viewed; ("like", item); ("search", kind)."""
    made = []
    for at, event in enumerate(events):
        action, what = ("view", event) if isinstance(event, str) else event
        made.append(
            Event(f"e{at}", user, action, 1_000 * at, query=what) if action == "search" else click(what, at, action)
        )
    return made


def asked(world: Catalogue, *events, at_s: float | None = None) -> Request:
    """What is asked for a user after these events; right after the last one if not said otherwise."""
    return request_after(
        world, did(*events), 1_000 * (len(events) - 1) if at_s is None else round(1_000 * at_s), embed=axis_of
    )


def opened(world: Catalogue, *requests: Request) -> MicroBatch:
    return open_requests(world, requests, Rules(), 20)


def terms(world: Catalogue, scorer: Scorer, *requests: Request) -> dict[str, torch.Tensor]:
    """Those that say anything, of every item; (B, n) each."""
    table, batch = scorer.table(NOTHING, world), opened(world, *requests)
    found = find(scorer.ranker, table, batch).candidates
    rows = np.tile(np.arange(len(world), dtype=np.int32), (len(requests), 1))
    there, sums = torch.ones(rows.shape, dtype=torch.bool), np.zeros((*rows.shape, found.sums.shape[2]), np.float32)
    every = Candidates(rows, there, sums, found.hidden, found.sources, found.space).open(table)
    return {name: term for name, term in zip(TERMS, feedback(table, batch, every).unbind(2)) if term.any()}


def by_kind(world: Catalogue, term: torch.Tensor) -> dict[str, float]:
    """The mean over the items of each kind; term (n,)."""
    return {
        kind: float(term[[row for row, item in enumerate(world.item_ids) if item.startswith(kind)]].mean())
        for kind in KINDS
    }


def of_item(world: Catalogue, term: torch.Tensor, item_id: str) -> float:
    return float(term[world.item_ids.index(item_id)])


# Searches


def test_a_search_lifts_what_is_near_its_query(world, untrained):
    """By its cosine times a constant, and nothing else."""
    term = terms(world, untrained, asked(world, "shoe-0", ("search", "tea")))["search"][0]

    assert by_kind(world, term) == pytest.approx(
        {"shoe": 0.0, "hat": 0.0, "tea": 0.95 * SEARCH, "lamp": 0.0}, abs=0.02 * SEARCH
    )


def test_a_search_leads_the_next_list(world, untrained):
    """Whatever the user looked at before; all that is searched for comes first."""
    (list_,) = score(
        untrained, NOTHING, world, [asked(world, *(f"shoe-{at}" for at in range(6)), ("search", "tea"))], EACH
    )

    assert {f"tea-{at}" for at in range(EACH)} == set(ids(list_))
    assert {"search"} <= {reason.signal for reason in list_[0].reasons}


def test_a_search_fades_with_the_events_after_it(world, untrained):
    """Each leaves 60 % of it; when it is no longer among the last events it says nothing."""
    requests = [
        asked(world, ("search", "tea"), *(f"shoe-{at % EACH}" for at in range(count))) for count in (0, 1, 2, 20)
    ]
    said = terms(world, untrained, *requests)["search"]
    tea = [by_kind(world, term)["tea"] for term in said]

    assert tea[1:] == pytest.approx([0.6 * tea[0], 0.36 * tea[0], 0.0], rel=0.01)


def test_a_search_fades_with_time(world, untrained):
    """Half is left a day later, a thousandth after ten."""
    day_s = 86_400
    said = terms(world, untrained, *(asked(world, ("search", "tea"), at_s=at_s) for at_s in (0, day_s, 10 * day_s)))[
        "search"
    ]
    tea = [by_kind(world, term)["tea"] for term in said]

    assert tea[1:] == pytest.approx([tea[0] / 2, tea[0] / 1_024], rel=0.01)


def test_the_newest_search_counts(world, untrained):
    """What was searched for before is seen in the interests only."""
    term = by_kind(world, terms(world, untrained, asked(world, ("search", "tea"), ("search", "hat")))["search"][0])

    assert term["hat"] > 0.9 * SEARCH and abs(term["tea"]) < 0.05 * SEARCH


def test_a_search_says_nothing_in_a_catalogue_of_another_size(world):
    """Its vector is of another encoder."""
    small = Catalogue()
    small.apply([ItemVector("a", "other", np.ones(8, "<f2").tobytes())])

    assert {} == terms(small, Scorer.untrained(8), asked(world, ("search", "tea")))


# Dislikes


@pytest.mark.parametrize("action", ["dislike", "skip"])
def test_what_is_near_to_what_was_pushed_away_falls(world, untrained, action):
    """The others stay where they were, and so does the rest of what the user looks at."""
    term = by_kind(world, terms(world, untrained, asked(world, "hat-0", "hat-1", (action, "shoe-0")))["disliked"][0])

    assert term["shoe"] < -0.1 * DISLIKED
    assert {"hat": 0.0, "tea": 0.0, "lamp": 0.0} == {kind: term[kind] for kind in ("hat", "tea", "lamp")}


def test_a_dislike_says_more_than_a_skip(world, untrained):
    """As their strengths do: four times as much."""
    dislike, skip = terms(
        world, untrained, *(asked(world, "hat-0", (action, "shoe-0")) for action in ("dislike", "skip"))
    )["disliked"]

    assert by_kind(world, dislike)["shoe"] == pytest.approx(4 * by_kind(world, skip)["shoe"], rel=1e-3)


@pytest.mark.parametrize("untrained_or_not", ["untrained", "learnt"])
def test_after_a_dislike_what_is_near_stands_below_where_it_was(world, untrained, learnt, untrained_or_not):
    """And further down with the next one; on a list it is the one that fell."""
    scorer = untrained if untrained_or_not == "untrained" else learnt
    viewed = ["hat-0", "tea-0", "shoe-0"]
    requests = [
        asked(world, *viewed, *events)
        for events in ([], [("dislike", "shoe-1")], [("dislike", "shoe-1"), ("dislike", "shoe-2")])
    ]
    chances = [
        {item.item_id: item.probability for item in list_}
        for list_ in score(scorer, NOTHING, world, requests, 4 * EACH)
    ]
    shoes = [sum(one.get(f"shoe-{at}", 0.0) for at in range(3, EACH)) for one in chances]

    assert shoes[0] > shoes[1] > shoes[2]
    assert {"shoe-1", "shoe-2"}.isdisjoint(chances[2])


def test_a_dislike_does_not_push_what_is_near_to_more_that_was_wanted(world, untrained):
    """Who looked at five shoes and disliked one wants another shoe: nothing is pushed while the pull is stronger."""
    viewed = [f"shoe-{at}" for at in range(5)]

    assert "disliked" not in terms(world, untrained, asked(world, *viewed, ("dislike", "shoe-6")))
    assert (
        by_kind(world, terms(world, untrained, asked(world, viewed[0], ("dislike", "shoe-6")))["disliked"][0])["shoe"]
        < 0
    )


def test_a_dislike_loses_its_force_as_other_events_follow(world, untrained):
    """Each of them takes a twentieth of it; a like of the same kind takes it away."""
    requests = [
        asked(world, ("dislike", "shoe-0"), *events) for events in ([], ["hat-0"] * 10, [("like", "shoe-1"), "shoe-2"])
    ]
    first, later, liked = (by_kind(world, term)["shoe"] for term in terms(world, untrained, *requests)["disliked"])

    assert later == pytest.approx(0.95**10 * first, rel=0.05)
    assert 0.0 == liked


def test_a_low_rating_pushes_and_no_rating_lifts(world, untrained):
    """As a dislike does; how much a high one says is left to what is learnt and to the interests."""
    rated = [[*did("hat-0"), click("shoe-0", 1, "rating", value=value)] for value in (1.0, 3.0, 5.0)]
    said = [terms(world, untrained, request_after(world, events, 1_000)) for events in rated]

    assert [{"disliked"}, set(), set()] == [set(one) for one in said]
    assert by_kind(world, said[0]["disliked"][0])["shoe"] < 0


def test_a_low_rating_says_less_the_more_a_user_rates(world, untrained):
    """Who rates all the time means less by it than who says it once."""
    once = [*did("hat-0"), click("shoe-0", 1, "rating", value=1.0)]
    often = [click("hat-0", at, "rating", value=3.0) for at in range(3)] + [click("shoe-0", 3, "rating", value=1.0)]
    pushes = [
        by_kind(world, terms(world, untrained, request_after(world, events, 1_000))["disliked"][0])["shoe"]
        for events in (once, often)
    ]

    assert pushes[0] < pushes[1] < 0


# Likes, carts, purchases


def test_what_says_more_than_a_view_lifts_what_is_near_the_more_it_says(world, untrained):
    """A purchase more than a cart or a like, of which each says the same; the other kinds are not lifted."""
    said = terms(
        world, untrained, *(asked(world, "hat-0", (action, "shoe-0")) for action in ("like", "cart", "purchase"))
    )["liked"]
    like, cart, purchase = (by_kind(world, term) for term in said)

    assert 0 < like["shoe"] == cart["shoe"] < purchase["shoe"]
    assert LIKED / 2 == pytest.approx(of_item(world, said[0], "shoe-0"), rel=0.01), (
        "one of two events says one more than a view"
    )
    assert {0.0} == {one[kind] for one in (like, cart, purchase) for kind in ("hat", "tea", "lamp")}


@pytest.mark.parametrize("action", ["like", "cart", "purchase", "search"])
def test_on_a_list_what_was_said_lifts_monotonically(world, untrained, learnt, action):
    """A view of a tea, then one word more: the teas have more of the list than with one more view, by both scorers."""
    what = "tea" if action == "search" else "tea-1"
    for scorer in (untrained, learnt):
        requests = [asked(world, "shoe-0", "tea-0", "shoe-1", one) for one in ("tea-1", (action, what))]
        lists = score(scorer, NOTHING, world, requests, 4 * EACH)
        viewed, said = (
            sum(item.probability for item in list_ if item.item_id in {f"tea-{at}" for at in range(2, EACH)})
            for list_ in lists
        )

        assert said > viewed


def test_who_only_views_and_clicks_has_no_term(world, untrained):
    """For them the score is what is learnt, to the bit; also beside others who said something."""
    viewer = asked(world, "shoe-0", ("click", "hat-1"), ("rating", "tea-1"))
    buyer = asked(world, ("purchase", "shoe-0"))

    assert {} == terms(world, untrained, viewer) == terms(world, untrained, asked(world))
    both = terms(world, untrained, viewer, buyer)
    assert {"liked"} == both.keys() and 0 == both["liked"][0].abs().max() < both["liked"][1].max()


def test_a_term_has_a_name_of_its_own(world, untrained):
    """Those that `TERMS` lists, in its order."""
    said = asked(world, "hat-0", ("like", "shoe-0"), ("dislike", "tea-0"), ("search", "lamp"), "hat-1")

    assert list(TERMS) == list(terms(world, untrained, said))


# Contracts


USERS = [
    (), ("shoe-0",), (("search", "tea"),), ("hat-0", ("dislike", "shoe-0")),
    (("purchase", "tea-1"), "tea-2", ("search", "lamp"), "hat-3"),
    ("nowhere", ("like", "nowhere"), ("dislike", "nowhere")), (("skip", "shoe-1"), ("cart", "lamp-2")),
]  # fmt: skip


def test_a_micro_batch_gives_what_one_by_one_gives(world, untrained):
    """Who else is in it changes nothing."""
    requests = [asked(world, *events) for events in USERS]
    together = terms(world, untrained, *requests)
    for row, request in enumerate(requests):
        alone = terms(world, untrained, request)
        for name, term in together.items():
            assert torch.allclose(alone[name][0] if name in alone else torch.zeros(len(world)), term[row], atol=1e-5), (
                name
            )


def test_what_is_unknown_says_nothing(world, untrained):
    """Likes and dislikes of items that are not in the catalogue."""
    said = terms(world, untrained, asked(world, ("like", "nowhere"), ("dislike", "nowhere"), "shoe-0"))

    assert all(0 == term.abs().max() for term in said.values())


def test_every_term_is_finite_in_a_catalogue_of_one_item(untrained):
    """Its text beside the mean of all is nothing."""
    one = Catalogue()
    one.apply([ItemVector("a", "enc", axis_of("tea").astype("<f2").tobytes())])
    said = terms(
        one, untrained, request_after(one, did(("like", "a"), ("search", "tea"), ("dislike", "a")), embed=axis_of)
    )

    assert all(torch.isfinite(term).all() for term in said.values())


# Beside what is learnt


def teach(world: Catalogue, users: range, rewarded: float = 0.0) -> list[Example]:
    """Users who take shoes and hats in turn, search for tea before the next shoe, and dislike something.

    Args:
        rewarded: this share of the searches is followed by a tea; with 0 nothing that is said comes true.
    """
    random, examples = np.random.default_rng(users.start), []
    for user in users:
        states, words = Users(world, embed_query=axis_of), []
        for kind in ("shoe", "hat") * 3:
            said = [("search", "tea"), ("dislike", f"shoe-{random.integers(EACH)}")]
            words += [
                f"{kind}-{random.integers(EACH)}",
                *said,
                *([f"tea-{random.integers(EACH)}"] if random.random() < rewarded else []),
            ]
        events = did(*words, user=f"u{user}")
        events = [
            structs.replace(
                one, event_id=f"{user}-{at}", user_id=f"u{user}", event_time_ms=10_000_000 * user + 1_000 * at
            )
            for at, one in enumerate(events)
        ]
        examples += [one.example for one in map(states.ask, events) if one.example]
    return examples


def learn(world: Catalogue, users: int, rewarded: float = 0.0) -> Scorer:
    learner = Learner(world, config=TrainingConfig(warm_up_epochs=1.0))
    for start in range(0, users, 10):
        learner.add(teach(world, range(start, start + 10), rewarded))
        scorer = learner.fine_tune()
    return scorer


@pytest.fixture(scope="module")
def learnt(world) -> Scorer:
    """A version that was learnt from users to whom searches and dislikes meant something half of the time."""
    return learn(world, 40, 0.5)


ASKED = (
    [("search", "tea")],
    ["shoe-0", ("search", "tea")],
    ["shoe-0", "hat-0", ("dislike", "lamp-1"), ("like", "hat-2"), ("search", "tea")],
    ["shoe-0", ("search", "tea"), "hat-1"],
)


def teas(world: Catalogue, scorer: Scorer) -> list[int]:
    """How many of the first eight are teas, after each of `ASKED`."""
    lists = score(scorer, NOTHING, world, [asked(world, *events) for events in ASKED], EACH)
    return [sum(item_id.startswith("tea") for item_id in ids(list_)) for list_ in lists]


def test_learning_leaves_the_terms_as_they_are(world, untrained, learnt):
    """They are not learnt: the same to the bit before and after."""
    request = asked(world, *ASKED[2], "shoe-1")
    before, after = terms(world, untrained, request), terms(world, learnt, request)

    assert set(TERMS) == before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in TERMS)


def test_a_search_leads_the_list_of_a_version_that_has_learnt(world, learnt):
    """From some 480 examples, half of which rewarded it."""
    assert [EACH] * len(ASKED) == teas(world, learnt)


@pytest.mark.parametrize("rewarded", [0.5, 0.0])
def test_learning_does_not_unlearn_what_is_said_outright(world, rewarded):
    """A search leads the list after 1,000 examples as well, however often it was followed by something else."""
    assert [EACH] * len(ASKED) == teas(world, learn(world, 120, rewarded))


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_nearest_to_a_search_is_found(world, untrained, monkeypatch, exact):
    """By the encoder's own vectors, of whatever length; in a large catalogue by the index."""
    monkeypatch.setattr(feedback_module, "EXACT_SEARCH", 1_000 if exact else 1)
    table = untrained.table(NOTHING, world)
    batch = opened(world, asked(world, ("search", "tea")), asked(world, "shoe-0"), asked(world, ("search", "hat")))
    found = [{world.item_ids[row] for row in one} for one in nearest_to_queries(table, batch, EACH).tolist()]

    assert [{f"{kind}-{at}" for at in range(EACH)} for kind in ("tea", "hat")] == found


# Several things said


@pytest.mark.parametrize("before_s", [1, 50 * 86_400])
def test_a_search_leads_whatever_of_its_kind_was_disliked_before(world, untrained, before_s):
    """Who asks for tea wants to see tea; what was disliked itself stays away."""
    events = did(*(("dislike", f"tea-{at}") for at in range(3)))
    search = Event("e9", "u", "search", 1_000 * (before_s + 9), query="tea")
    (list_,) = score(
        untrained, NOTHING, world, [request_after(world, [*events, search], search.event_time_ms, embed=axis_of)], 5
    )

    assert {f"tea-{at}" for at in range(3, EACH)} == set(ids(list_))


def test_a_dislike_fades_with_time(world, untrained):
    """Half of what it pushes is left after the half-life of interests."""
    requests = [asked(world, ("dislike", "shoe-0"), at_s=wait_s) for wait_s in (0, Rules().half_life_s)]
    now, later = (by_kind(world, term)["shoe"] for term in terms(world, untrained, *requests)["disliked"])

    assert now / 2 == pytest.approx(later, rel=0.02)


def test_a_search_finds_what_was_bought_lately(world, untrained):
    """It is left out of other lists for a time; what was disliked is not found."""
    events = did(("purchase", "tea-0"), ("dislike", "tea-1"), "shoe-0")
    searched = [*events, Event("e9", "u", "search", 9_000, query="tea")]
    other, found = (
        ids(score(untrained, NOTHING, world, [request_after(world, one, 9_000, embed=axis_of)], 40)[0])
        for one in (events, searched)
    )

    assert (False, False) == ("tea-0" in other, "tea-1" in other)
    assert (True, False) == ("tea-0" in found, "tea-1" in found)
