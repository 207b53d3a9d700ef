"""What the signals say in small worlds worked out by hand, and that computing them of a few items changes nothing."""

import copy

import numpy as np
import pytest
import torch
from msgspec import structs

from model.batch import CONTEXT, open_requests
from model.blend import Blend, blended, linear
from model.counts import _NEXT, Chosen, next_of
from model.finetune import Learner
from model.interest import Rules
from model.network import UNKNOWN
from model.schema import Example, Request, item_key
from model.score import Scorer
from model.signals import FAMILIES, RETRIEVING, SIGNALS, at, everywhere
from model.table import marked_by
from tests.test_score import ITEMS, make_catalogue, make_request

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
        everywhere(table, batch_of(catalogue, make_request(catalogue, [item])), ["next"])["next"][0] for item in ("i1", "i4")
    )
    assert rows["i4"] == after_1.argmax()
    assert after_1[rows["i4"]] - after_1[rows["i2"]] > 2
    assert torch.allclose(after_4, table.back_off.log(), atol=1e-5)


def test_pairs_of_what_came_next(monkeypatch):
    """Nearer ones weigh more; not beyond 2 s, not beyond the user, not an item with itself, not after a dislike."""
    rows, times = np.array([7, 1, 2, 3, 3, 4]), np.array([0, 0, 0, 2_000, 2_000, 2_001])
    positive = np.array([True, True, False, True, True, True])

    monkeypatch.setitem(_NEXT, "lately-next", (2_000, 1.0))
    chosen = Chosen(rows, times, positive, np.full(5, 1), np.arange(1, 6), np.arange(4, -1, -1))
    first, second, amounts = next_of(chosen, "next")
    _, _, faded = next_of(chosen, "lately-next")

    assert [(3, 1, 0.5), (3, 1, 0.25), (4, 3, 1.0), (4, 3, 0.5)] == list(zip(first, second, amounts[0]))
    assert [0.125, 0.125, 1.0, 0.5] == faded[0].tolist()


def test_a_live_list_does_not_know_the_gap(catalogue):
    """It is told apart from a list for an event that came in the same second; without a history nothing is unknown."""
    live = make_request(catalogue, ["i1"], at_ms=0)
    batch = batch_of(catalogue, structs.replace(live, live=False), live, make_request(catalogue, []))

    assert [0, UNKNOWN, 0] == batch.gaps[:, -1].tolist()
    assert batch.context[0].tolist() != batch.context[1].tolist()
    assert [0, 1, 1] == batch.context[:, -1].tolist()


def test_age_is_that_of_the_first_choice(catalogue, scorer):
    table = scorer.table(catalogue)
    ages = [table.age[catalogue.item_ids.index(name)].item() for name in ("i1", "i4", "i2", "i7")]

    assert ages == pytest.approx([np.log1p(36 - first) / 3 for first in (0, 1, 2)] + [0.0])


def test_a_forgotten_user_leaves_neither_an_age_nor_what_came_next(catalogue):
    """Two took i5 and i6 within a second: what is left when one is forgotten is the other's, and nothing when both are."""
    learner = Learner(catalogue)
    learner.add(Example(user, f"{user}-{item}", 1_000 * step, item, "click", b"") for user in "ab" for step, item in enumerate(("i5", "i6")))
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
    few = at(table, batch, everywhere(table, batch, scorer.blend.finding()), rows)
    for column, name in enumerate(SIGNALS):
        if name in every and few[..., column].any():
            assert torch.allclose(every[name].expand(2, ITEMS).gather(1, rows), few[..., column], atol=1e-5), name
    assert few[..., list(SIGNALS).index("interest")].all()


def test_what_finds_candidates_is_what_is_learnt(scorer):
    """Signals that only help to order the candidates find none: their weights there stay where they were."""
    assert [name for name, finds in zip(SIGNALS, RETRIEVING.tolist()) if not finds] == [
        "spread", "taste", "familiar", "apart", "ahead", "apart-at-once", "ahead-at-once", "interest", "next-interest"
    ]  # fmt: skip
    assert {"interest", "next-interest"} == set(Scorer.untrained(16).blend.finding())
    assert (scorer.blend.find.mean[~RETRIEVING] == 0).all()
    assert all(family.everywhere or family.at for family in FAMILIES)


def test_an_item_inherits_what_leads_to_items_with_texts_like_its_own(catalogue, scorer):
    """Nobody took i8; its text is like i4's and i2's, to which i1 leads, and unlike i1's odd kin."""
    table, batch = scorer.table(catalogue), batch_of(catalogue, make_request(catalogue, ["i1"]))
    rows = torch.tensor([[catalogue.item_ids.index(name) for name in ("i8", "i9")]])
    found = everywhere(table, batch, scorer.blend.finding())
    even, odd = at(table, batch, found, rows)[0, :, list(SIGNALS).index("spread")].tolist()

    assert even > odd + 1


def signal_of(name: str, catalogue, scorer: Scorer, request: Request, items: list[str]) -> list[float]:
    """What a signal says of these items."""
    table, batch = scorer.table(catalogue), batch_of(catalogue, request)
    rows = torch.tensor([[catalogue.item_ids.index(item) for item in items]])
    return at(table, batch, everywhere(table, batch, scorer.blend.finding()), rows)[0, :, list(SIGNALS).index(name)].tolist()


def test_taste_remembers_what_lies_far_behind(catalogue):
    """Users take nine even items or nine odd ones. What this one had long before the last events says which; i29, which
    nobody took, gets nothing."""
    learner, random = Learner(catalogue), np.random.default_rng(0)
    for user in range(60):
        items = random.permutation([f"i{2 * at + user % 2}" for at in range(10)])[:9]
        learner.add(Example(f"u{user}", f"{user}-{at}", 1_000 * at, item, "click", b"") for at, item in enumerate(items))
    scorer = learner.fine_tune()
    request = make_request(catalogue, [f"i{2 * at}" for at in range(9)] + ["i20"] * LAST)
    forgotten = structs.replace(request, consumed=b"")

    even, odd, never = signal_of("taste", catalogue, scorer, request, ["i18", "i19", "i29"])
    assert even > odd + 0.1
    assert never == 0.0
    assert [0.0, 0.0] == signal_of("taste", catalogue, scorer, forgotten, ["i18", "i19"])


def test_what_a_forgotten_user_added_to_taste_and_order_is_gone_with_the_next_event(catalogue):
    """Only one user took i20 and i22, in one second."""
    learner = Learner(catalogue)
    learner.add(Example("z", f"z-{item}", 1_000, item, "click", b"") for item in ("i20", "i22"))
    for user in range(60):
        learner.add(Example(f"u{user}", f"{user}-{at}", 60_000 * at, f"i{at}", "click", b"") for at in range(9))
    before = learner.fine_tune()
    learner.add([Example("z", "f", 9_000_000, forget=True), Example("u1", "last", 9_000_000, "i9", "click", b"")])
    after = learner.count()

    rows = [before.keys.tolist().index(np.uint64(item_key(item)).astype(np.int64)) for item in ("i20", "i22")]
    assert (before.neighbours("taste")[1][rows].abs().sum(1) > 0).all() and before.places[rows[0]] < before.places[rows[1]]
    assert (after.neighbours("taste")[1][rows] == 0).all() and after.places[rows].abs().max() < 1e-6


def test_familiar_is_the_share_of_the_nearest_texts_that_the_user_had(catalogue, scorer):
    """Even items are near to each other by text: who had them all finds the next one familiar."""
    had = make_request(catalogue, [f"i{number}" for number in range(0, 28, 2)])
    even, odd = signal_of("familiar", catalogue, scorer, had, ["i28", "i29"])

    assert even == pytest.approx(5.0, rel=0.1) and odd < 0.5
    assert [0.0] == signal_of("familiar", catalogue, scorer, make_request(catalogue, []), ["i28"])


def test_the_order_within_seconds_is_learnt(catalogue):
    """Everybody takes three items a second in the order i5, i2, i8, beginning anywhere."""
    learner, turn = Learner(catalogue), ["i5", "i2", "i8"]
    for user in range(60):
        items = turn[user % 2 : 2 + user % 2] + ["i7"]
        times = [1_000_000 * user, 1_000_000 * user, 1_000_000 * user + 500_000]
        learner.add(Example(f"u{user}", f"{user}-{at}", times[at], item, "click", b"") for at, item in enumerate(items))
        learner.add([Example(f"v{user}", f"v{user}-{at}", times[2] + 10_000 * at, f"i{10 + at}", "click", b"") for at in range(6)])
    scorer = learner.fine_tune()

    def after_2(name: str) -> list[float]:
        return signal_of(name, catalogue, scorer, make_request(catalogue, ["i2"]), ["i5", "i2", "i8"])

    before, here, then = after_2("ahead-at-once")
    assert before < -1 and 0.0 == here and then > 1
    assert [-before, 0.0, then] == after_2("apart-at-once")
    assert [0.0] == signal_of("ahead-at-once", catalogue, scorer, make_request(catalogue, []), ["i8"])


def test_a_mark_stands_for_the_item_most_chosen():
    keys = np.array([5, 65_536 + 5, 7, 2 * 65_536 + 5], np.uint64)
    marked = marked_by(keys, np.array([1.0, 3.0, 0.0, 2.0]))

    assert [1, 2, 4] == marked[[5, 7, 8]].tolist()


def test_the_order_of_first_choices_goes_on_from_the_last_item(catalogue, scorer):
    """i1, i4 and i2 were chosen first in this order, i7 never."""
    after_4 = make_request(catalogue, ["i4"])
    step = np.log1p(1)

    assert [step, step, 0.0, 0.0] == pytest.approx(signal_of("apart", catalogue, scorer, after_4, ["i1", "i2", "i4", "i7"]))
    assert [-step, step, 0.0, 0.0] == pytest.approx(signal_of("ahead", catalogue, scorer, after_4, ["i1", "i2", "i4", "i7"]))
    for nothing in ([], ["i7"], ["nowhere"]):
        assert [0.0, 0.0] == signal_of("ahead", catalogue, scorer, make_request(catalogue, nothing), ["i1", "i2"])


def test_ordering_moves_probability_among_the_candidates_only(scorer):
    """Together they weigh what the linear blend gave them; their order may change, and what is excluded stays so."""
    catalogue = make_catalogue(200)
    batch, table = batch_of(catalogue, make_request(catalogue, ["i1"]), make_request(catalogue, [])), scorer.table(catalogue)
    excluded = torch.zeros(2, 200, dtype=torch.bool)
    excluded[:, 5:90] = True
    blend = copy.deepcopy(scorer.blend)
    torch.nn.init.normal_(blend.mlp[-1].weight, generator=torch.Generator().manual_seed(0))
    before, after = linear(blend, table, batch, excluded), blended(blend, table, batch, excluded)
    candidates = before.candidates

    assert torch.equal(before.candidates, after.candidates)
    assert not torch.allclose(before.scores, after.scores)
    assert torch.equal(before.scores == -torch.inf, after.scores == -torch.inf)
    assert torch.allclose(*(one.scores.softmax(1).gather(1, candidates).sum(1) for one in (before, after)), atol=1e-5)


def test_before_anything_is_learnt_the_order_is_that_of_what_finds(catalogue):
    scorer = Scorer.untrained(16)
    table, batch = scorer.table(catalogue), batch_of(catalogue, make_request(catalogue, ["i0", "i3"]))
    excluded = torch.zeros(1, ITEMS, dtype=torch.bool)

    found, made = linear(scorer.blend, table, batch, excluded), blended(scorer.blend, table, batch, excluded)

    assert torch.allclose(found.scores, made.scores, atol=1e-4)


def test_the_spread_follows_the_signals_of_candidates():
    """It is their standard deviation around each request's mean, as a running average; one that never differs is no 0."""
    random, blend = torch.Generator().manual_seed(0), Blend()
    size = torch.arange(float(len(SIGNALS)))
    signals = 5.0 * torch.randn(64, 1, 1, generator=random) + size * torch.randn(64, 128, len(SIGNALS), generator=random)

    blend.measure(signals, 1.0)
    assert torch.allclose(blend.spread[1:], size[1:], rtol=0.05)
    assert 0 < blend.spread[0] < 0.1
    blend.measure(torch.zeros_like(signals), 0.5)
    assert torch.allclose(blend.spread[1:], size[1:] / 2**0.5, rtol=0.05)


def test_the_mlp_sees_signals_divided_by_their_spread():
    """A signal twice as large that spreads twice as far says the same to it."""
    random, blend = torch.Generator().manual_seed(0), Blend()
    blend.begin({})
    torch.nn.init.normal_(blend.mlp[-1].weight, generator=random)
    signals, context = torch.randn(3, 20, len(SIGNALS), generator=random), torch.zeros(3, CONTEXT)
    before = blend.ordered(signals, context)
    signals[..., 4] *= 2

    assert not torch.allclose(before, blend.ordered(signals, context), atol=1e-3)
    blend.spread[4] = 2.0
    assert torch.allclose(before, blend.ordered(signals, context), atol=1e-5)
