"""What the signals say in small worlds worked out by hand, and that computing them of a few items changes nothing."""

import copy

import numpy as np
import pytest
import torch
from msgspec import structs

from model.finetune import Learner
from model.interest import Rules
from model.schema import Example, Request, item_key
from model.score import Scorer, score
from model.scoring.batch import CONTEXT, open_requests
from model.scoring.network import UNKNOWN
from model.scoring.ranker import Ranker, linear, rerank
from model.scoring.signals import FAMILIES, RETRIEVING, SIGNALS, at, everywhere
from tests.test_score import ITEMS, click, ids, make_catalogue, make_request, request_after

CPU = torch.device("cpu")
LAST = 20


@pytest.fixture(scope="module")
def catalogue():
    return make_catalogue()


@pytest.fixture(scope="module")
def scorer(catalogue) -> Scorer:
    """Everybody takes i1, and i4 within a second; i2 follows a minute later."""
    learner, examples = Learner(catalogue), []
    for user in range(12):
        for step, (item, at_ms) in enumerate([("i1", 0), ("i4", 1_000), ("i2", 61_000)]):
            examples.append(Example(f"u{user}", f"u{user}-{step}", 1_000_000 * user + at_ms, item, "click", b""))
    learner.add(examples)
    return learner.fine_tune()


def batch_of(catalogue, *requests: Request):
    return open_requests(catalogue, requests, Rules(), LAST, CPU)


def test_next_goes_one_way_and_not_beyond_seconds(catalogue, scorer):
    """Who took i1 is led to i4, not to i2, which came later; i4 leads neither back nor on."""
    table, rows = scorer.table(catalogue), {name: catalogue.item_ids.index(name) for name in ("i1", "i2", "i4")}
    after_1, after_4 = (
        everywhere(table, batch_of(catalogue, make_request(catalogue, [item])), ["next"])["next"][0]
        for item in ("i1", "i4")
    )
    assert rows["i4"] == after_1.argmax()
    assert after_1[rows["i4"]] - after_1[rows["i2"]] > 2
    assert torch.allclose(after_4, table.back_off.log(), atol=1e-5)


def test_a_live_list_does_not_know_the_gap(catalogue):
    """It is told apart from a list for an event that came in the same second; without a history nothing is unknown."""
    live = make_request(catalogue, ["i1"], at_ms=0)
    batch = batch_of(catalogue, structs.replace(live, live=False), live, make_request(catalogue, []))

    assert [0, UNKNOWN, 0] == batch.gaps[:, -1].tolist()
    assert batch.context[0].tolist() != batch.context[1].tolist()
    assert [0, 1, 1] == batch.context[:, -2].tolist()


def test_the_context_says_what_share_of_all_was_again(catalogue):
    """Five events on two items: three of them were again; dislikes count among all that the user did."""
    events = [click("i1", 0), click("i1", 1), click("i2", 2, "dislike"), click("i1", 3), click("i2", 4)]
    batch = batch_of(
        catalogue, request_after(catalogue, events), make_request(catalogue, ["i1", "i2"]), make_request(catalogue, [])
    )

    assert [pytest.approx(3 / 5), 0.0, 0.0] == batch.context[:, -1].tolist()


def test_age_is_that_of_the_first_choice(catalogue, scorer):
    table = scorer.table(catalogue)
    ages = [table.age[catalogue.item_ids.index(name)].item() for name in ("i1", "i4", "i2", "i7")]

    assert ages == pytest.approx([np.log1p(36 - first) / 3 for first in (0, 1, 2)] + [0.0])


def test_a_forgotten_user_leaves_neither_an_age_nor_what_came_next(catalogue):
    """Two took i5 and i6 within a second: when one is forgotten the other's is left, and nothing when both are."""
    learner = Learner(catalogue)
    learner.add(
        Example(user, f"{user}-{item}", 1_000 * step, item, "click", b"")
        for user in "ab"
        for step, item in enumerate(("i5", "i6"))
    )
    learner.fine_tune()
    i5 = catalogue.item_ids.index("i5")
    for user, left in (("a", 1 / 3), ("b", 0.0)):
        learner.add([Example(user, "f", 99, forget=True)])
        scorer = learner.fine_tune()

        assert scorer.neighbours("next")[1][i5].max().item() == pytest.approx(left)
    assert (scorer.first < 0).all()


@pytest.mark.parametrize("untrained", [True, False])
def test_a_signal_of_some_items_is_that_of_all(catalogue, scorer, untrained):
    """Interests are computed of every item before anything is learnt, of the candidates after it."""
    scorer = Scorer.untrained(16) if untrained else scorer
    table = scorer.table(catalogue)
    batch = batch_of(catalogue, make_request(catalogue, ["i0", "i3"]), make_request(catalogue, ["i5"]))
    rows = torch.tensor([[3, 0, 11], [4, 4, 29]])
    every = everywhere(table, batch, list(SIGNALS))
    few = at(table, batch, everywhere(table, batch, scorer.ranker.finding()), rows)
    for column, name in enumerate(SIGNALS):
        if name in every and few[..., column].any():
            assert torch.allclose(every[name].expand(2, ITEMS).gather(1, rows), few[..., column], atol=1e-5), name
    assert few[..., list(SIGNALS).index("interest")].all()


def test_what_finds_candidates_is_what_is_learnt(scorer):
    """Signals that only help to order the candidates find none: their weights there stay where they were."""
    assert [name for name, finds in zip(SIGNALS, RETRIEVING.tolist()) if not finds] == [
        "spread", "taste", "familiar", "apart", "ahead", "interest", "next-interest"
    ]  # fmt: skip
    assert {"had", "interest", "next-interest"} == set(Scorer.untrained(16).ranker.finding())
    assert (scorer.ranker.find.mean[~RETRIEVING] == 0).all()
    assert all(family.everywhere or family.at for family in FAMILIES)


def test_an_item_inherits_what_leads_to_items_with_texts_like_its_own(catalogue, scorer):
    """Nobody took i8; its text is like i4's and i2's, to which i1 leads, and unlike i1's odd kin."""
    table, batch = scorer.table(catalogue), batch_of(catalogue, make_request(catalogue, ["i1"]))
    rows = torch.tensor([[catalogue.item_ids.index(name) for name in ("i8", "i9")]])
    found = everywhere(table, batch, scorer.ranker.finding())
    even, odd = at(table, batch, found, rows)[0, :, list(SIGNALS).index("spread")].tolist()

    assert even > odd + 1


def signal_of(name: str, catalogue, scorer: Scorer, request: Request, items: list[str]) -> list[float]:
    """What a signal says of these items."""
    table, batch = scorer.table(catalogue), batch_of(catalogue, request)
    rows = torch.tensor([[catalogue.item_ids.index(item) for item in items]])
    return at(table, batch, everywhere(table, batch, scorer.ranker.finding()), rows)[
        0, :, list(SIGNALS).index(name)
    ].tolist()


def test_taste_remembers_what_lies_far_behind(catalogue):
    """Users take nine even items or nine odd ones. What this one had long before the last events says which; i29, which
    nobody took, gets nothing.
    """
    learner, random = Learner(catalogue), np.random.default_rng(0)
    for user in range(60):
        items = random.permutation([f"i{2 * at + user % 2}" for at in range(10)])[:9]
        learner.add(
            Example(f"u{user}", f"{user}-{at}", 1_000 * at, item, "click", b"") for at, item in enumerate(items)
        )
    scorer = learner.fine_tune()
    request = make_request(catalogue, [f"i{2 * at}" for at in range(9)] + ["i20"] * LAST)
    forgotten = structs.replace(request, consumed=b"")

    even, odd, never = signal_of("taste", catalogue, scorer, request, ["i18", "i19", "i29"])
    assert even > odd + 0.1
    assert never == 0.0
    assert [0.0, 0.0] == signal_of("taste", catalogue, scorer, forgotten, ["i18", "i19"])


def test_what_a_forgotten_user_added_to_taste_is_gone_with_the_next_event(catalogue):
    """Only one user took i20 and i22."""
    learner = Learner(catalogue)
    learner.add(Example("z", f"z-{item}", 1_000, item, "click", b"") for item in ("i20", "i22"))
    for user in range(60):
        learner.add(Example(f"u{user}", f"{user}-{at}", 60_000 * at, f"i{at}", "click", b"") for at in range(9))
    before = learner.fine_tune()
    learner.add([Example("z", "f", 9_000_000, forget=True), Example("u1", "last", 9_000_000, "i9", "click", b"")])
    after = learner.count()

    rows = [before.keys.tolist().index(np.uint64(item_key(item)).astype(np.int64)) for item in ("i20", "i22")]
    assert (before.neighbours("taste")[1][rows].abs().sum(1) > 0).all()
    assert (after.neighbours("taste")[1][rows] == 0).all()


def test_familiar_is_the_share_of_the_nearest_texts_that_the_user_had(catalogue, scorer):
    """Even items are near to each other by text: who had them all finds the next one familiar."""
    had = make_request(catalogue, [f"i{number}" for number in range(0, 28, 2)])
    even, odd = signal_of("familiar", catalogue, scorer, had, ["i28", "i29"])

    assert even == pytest.approx(5.0, rel=0.1) and odd < 0.5
    assert [0.0] == signal_of("familiar", catalogue, scorer, make_request(catalogue, []), ["i28"])


def of(names: tuple[str, ...], catalogue, scorer: Scorer, request: Request, items: list[str]) -> list[list[float]]:
    """What some signals say of these items, one row a signal."""
    return [signal_of(name, catalogue, scorer, request, items) for name in names]


HAD = ("had", "had-lately", "had-near")


def test_what_a_user_had_is_known_by_how_often_how_lately_and_how_near(catalogue, scorer):
    """i1 was had three times, lastly 100 s ago and two events back; i2 once, 99 s ago and last; i3 was never had."""
    events = [click(item, at) for at, item in enumerate(["i1", "i1", "i1", "i4", "i2"])]
    often, lately, near = of(HAD, catalogue, scorer, request_after(catalogue, events, 104_000), ["i1", "i2", "i3"])

    assert often == pytest.approx([np.log1p(3), np.log1p(1), 0.0])
    assert lately == pytest.approx([1 - np.log1p(102) / 20, 1 - np.log1p(100) / 20, 0.0])
    assert near == pytest.approx([0.8**2, 1.0, 0.0])


def test_what_was_had_long_ago_is_known_though_it_is_not_among_the_last_events(catalogue, scorer):
    """It is no longer near, but it was had; fifteen years later that is so long ago that it says nothing."""
    events = [click("i1", 0), *(click(f"i{3 + at % 5}", 1 + at) for at in range(LAST))]
    often, lately, near = of(
        HAD, catalogue, scorer, request_after(catalogue, events, 15 * 365 * 86_400_000), ["i1", "i3"]
    )

    assert often == pytest.approx([np.log1p(1), np.log1p(4)])
    assert near[0] == 0.0 < near[1]
    assert lately == pytest.approx([0.0, 0.0], abs=0.01)


def test_what_was_pushed_away_was_not_had_until_it_is_liked(catalogue, scorer):
    """A dislike or a skip is no having; a like after it is, and counts every time."""
    events = [click("i1", 0), click("i1", 1, "dislike"), click("i2", 2, "skip"), click("i3", 3), click("i2", 4, "like")]
    often = of(HAD, catalogue, scorer, request_after(catalogue, events), ["i1", "i2", "i3"])[0]

    assert often == pytest.approx([0.0, np.log1p(2), np.log1p(1)])


def test_who_had_nothing_has_no_signals_of_having(catalogue, scorer):
    """Also beside another user who had something."""
    table, rows = scorer.table(catalogue), torch.arange(3).expand(2, -1)
    batch = batch_of(catalogue, make_request(catalogue, ["i0"]), make_request(catalogue, []))
    columns = [list(SIGNALS).index(name) for name in HAD]
    both = at(table, batch, everywhere(table, batch, scorer.ranker.finding()), rows)[..., columns]

    assert (both[0, 0] > 0).all() and (both[0, 1:] == 0).all() and (both[1] == 0).all()
    assert [[0.0]] * 3 == of(HAD, catalogue, scorer, make_request(catalogue, []), ["i0"])


def test_before_anything_is_learnt_what_was_had_stands_behind_the_rest(catalogue):
    """In a small world of one taste: first all that the user has not had."""
    had = ["i0", "i2", "i4"]
    (list_,) = score(Scorer.untrained(16), catalogue, [make_request(catalogue, had)], ITEMS)
    even = [item for item in ids(list_) if int(item[1:]) % 2 == 0]

    assert set(had) == set(even[-3:])


def test_the_order_of_first_choices_goes_on_from_the_last_item(catalogue, scorer):
    """i1, i4 and i2 were chosen first in this order, i7 never."""
    after_4 = make_request(catalogue, ["i4"])
    step = np.log1p(1)

    assert [step, step, 0.0, 0.0] == pytest.approx(
        signal_of("apart", catalogue, scorer, after_4, ["i1", "i2", "i4", "i7"])
    )
    assert [-step, step, 0.0, 0.0] == pytest.approx(
        signal_of("ahead", catalogue, scorer, after_4, ["i1", "i2", "i4", "i7"])
    )
    for nothing in ([], ["i7"], ["nowhere"]):
        assert [0.0, 0.0] == signal_of("ahead", catalogue, scorer, make_request(catalogue, nothing), ["i1", "i2"])


def test_ordering_moves_probability_among_the_candidates_only(scorer):
    """Together they weigh what the linear blend gave them; their order may change, and what is excluded stays so."""
    catalogue = make_catalogue(200)
    batch, table = (
        batch_of(catalogue, make_request(catalogue, ["i1"]), make_request(catalogue, [])),
        scorer.table(catalogue),
    )
    excluded = torch.zeros(2, 200, dtype=torch.bool)
    excluded[:, 5:90] = True
    ranker = copy.deepcopy(scorer.ranker)
    torch.nn.init.normal_(ranker.mlp[-1].weight, generator=torch.Generator().manual_seed(0))
    before, after = linear(ranker, table, batch, excluded), rerank(ranker, table, batch, excluded)
    candidates = before.candidates

    assert torch.equal(before.candidates, after.candidates)
    assert not torch.allclose(before.scores, after.scores)
    assert torch.equal(before.scores == -torch.inf, after.scores == -torch.inf)
    assert torch.allclose(*(one.scores.softmax(1).gather(1, candidates).sum(1) for one in (before, after)), atol=1e-5)


def test_before_anything_is_learnt_the_order_is_that_of_what_finds(catalogue):
    scorer = Scorer.untrained(16)
    table, batch = scorer.table(catalogue), batch_of(catalogue, make_request(catalogue, ["i0", "i3"]))
    excluded = torch.zeros(1, ITEMS, dtype=torch.bool)

    found, made = linear(scorer.ranker, table, batch, excluded), rerank(scorer.ranker, table, batch, excluded)

    assert torch.allclose(found.scores, made.scores, atol=1e-4)


def test_the_spread_follows_the_signals_of_candidates():
    """It is their standard deviation around each request's mean, as a running average; one without any is no 0."""
    random, ranker = torch.Generator().manual_seed(0), Ranker()
    size = torch.arange(float(len(SIGNALS)))
    signals = 5.0 * torch.randn(64, 1, 1, generator=random) + size * torch.randn(
        64, 128, len(SIGNALS), generator=random
    )

    ranker.measure(signals, 1.0)
    assert torch.allclose(ranker.spread[1:], size[1:], rtol=0.05)
    assert 0 < ranker.spread[0] < 0.1
    ranker.measure(torch.zeros_like(signals), 0.5)
    assert torch.allclose(ranker.spread[1:], size[1:] / 2**0.5, rtol=0.05)


def test_the_mlp_sees_signals_divided_by_their_spread():
    """A signal twice as large that spreads twice as far says the same to it."""
    random, ranker = torch.Generator().manual_seed(0), Ranker()
    ranker.begin({})
    torch.nn.init.normal_(ranker.mlp[-1].weight, generator=random)
    signals, context = torch.randn(3, 20, len(SIGNALS), generator=random), torch.zeros(3, CONTEXT)
    before = ranker.ordered(signals, context)
    signals[..., 4] *= 2

    assert not torch.allclose(before, ranker.ordered(signals, context), atol=1e-3)
    ranker.spread[4] = 2.0
    assert torch.allclose(before, ranker.ordered(signals, context), atol=1e-5)
