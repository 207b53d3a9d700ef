"""What the signals say in small worlds worked out by hand, and that computing them of a few items changes nothing."""

import copy

import numpy as np
import pytest
import torch
from msgspec import structs

from model.finetune import Learner
from model.interest import Rules
from model.learning import train_ranker
from model.schema import Example, Request, item_key
from model.score import Scorer, score
from model.scoring.batch import CONTEXT, MicroBatch, open_requests
from model.scoring.network import UNKNOWN
from model.scoring.ranker import CANDIDATES, Ranker, find, rerank
from model.scoring.signals import BEST, FAMILIES, computed
from model.scoring.table import ItemTable, back_off
from model.signals import COLUMN, FINDING, SIGNALS
from model.statistics import HALF_LIFE_20K, ItemStatistics
from tests.test_score import ITEMS, click, ids, make_catalogue, make_request, request_after

CPU = torch.device("cpu")
LAST = 20


@pytest.fixture(scope="module")
def catalogue():
    return make_catalogue()


@pytest.fixture(scope="module")
def learner(catalogue) -> Learner:
    """Everybody takes i1, and i4 within a second; i2 follows a minute later."""
    learner, examples = Learner(catalogue), []
    for user in range(12):
        for step, (item, at_ms) in enumerate([("i1", 0), ("i4", 1_000), ("i2", 61_000)]):
            examples.append(Example(f"u{user}", f"u{user}-{step}", 1_000_000 * user + at_ms, item, "click", b""))
    learner.add(examples)
    return learner


@pytest.fixture(scope="module")
def scorer(learner) -> Scorer:
    return learner.fine_tune()


@pytest.fixture(scope="module")
def statistics(learner, scorer) -> ItemStatistics:
    return learner.statistics


def batch_of(catalogue, *requests: Request):
    return open_requests(catalogue, requests, Rules(), LAST)


def signals_at(table: ItemTable, batch: MicroBatch, rows: np.ndarray) -> torch.Tensor:
    """What all signals say of these items; (B, r) -> (B, r, SIGNALS)."""
    found, r = find(table.scorer.ranker, table, batch, rows), rows.shape[1]
    first = found.linear.shape[1] - r
    some = found.candidates.some(torch.arange(first, first + r).expand(len(rows), -1))
    return torch.cat((found.signals[:, first:], computed(BEST, table, batch, some)), 2)


def signal_of(
    name: str, catalogue, scorer: Scorer, statistics: ItemStatistics, request: Request, items: list[str]
) -> list[float]:
    """What a signal says of these items."""
    rows = np.array([[catalogue.item_ids.index(item) for item in items]])
    table = scorer.table(statistics, catalogue)
    return signals_at(table, batch_of(catalogue, request), rows)[0, :, COLUMN[name]].tolist()


def test_next_goes_one_way_and_not_beyond_seconds(catalogue, scorer, statistics):
    """Who took i1 is led to i4, not to i2, which came later; i4 leads neither back nor on."""
    everything, table = catalogue.item_ids, scorer.table(statistics, catalogue)
    after_1, after_4 = (
        signal_of("next", catalogue, scorer, statistics, make_request(catalogue, [item]), everything)
        for item in ("i1", "i4")
    )
    popularity = table.log_popularity(np.arange(ITEMS)[None])[0, :, HALF_LIFE_20K]

    assert everything.index("i4") == np.argmax(after_1)
    assert after_1[everything.index("i4")] - after_1[everything.index("i2")] > 2
    assert np.log(back_off(popularity)).tolist() == pytest.approx(after_4, abs=1e-5)


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


def test_age_is_that_of_the_first_choice(catalogue, scorer, statistics):
    ages = signal_of("age", catalogue, scorer, statistics, make_request(catalogue, []), ["i1", "i4", "i2", "i7"])

    assert ages == pytest.approx([np.log1p(36 - first) / 3 for first in (0, 1, 2)] + [0.0])


def test_a_forgotten_user_leaves_neither_an_age_nor_what_came_next(catalogue):
    """Two took i5 and i6 within a second: when one is forgotten the other's is left, and nothing when both are."""
    statistics, scorer = ItemStatistics(), Scorer.untrained(16)
    statistics.apply(
        Example(user, f"{user}-{item}", 1_000 * step, item, "click", b"")
        for user in "ab"
        for step, item in enumerate(("i5", "i6"))
    )
    asked = make_request(catalogue, ["i5"])
    nothing = signal_of("next", catalogue, scorer, ItemStatistics(), asked, ["i6"])[0]
    for user, left in (("", 2 / 4), ("a", 1 / 3), ("b", 0.0)):
        statistics.forget(user)
        (led,) = signal_of("next", catalogue, scorer, statistics, asked, ["i6"])

        assert np.exp(led) == pytest.approx(left, abs=0.02)
        if not left:
            assert led == pytest.approx(nothing)
    assert [0.0, 0.0] == signal_of("age", catalogue, scorer, statistics, asked, ["i5", "i6"])


@pytest.mark.parametrize("untrained", [True, False])
def test_a_signal_of_some_items_is_that_of_all(catalogue, scorer, statistics, untrained):
    """Who else is asked about, and where an item stands, changes nothing; nor whether retrieval found it."""
    scorer = Scorer.untrained(16) if untrained else scorer
    table = scorer.table(statistics, catalogue)
    batch = batch_of(catalogue, make_request(catalogue, ["i0", "i3"]), make_request(catalogue, ["i5"]))
    rows = np.array([[3, 0, 11], [4, 4, 29]])
    every = signals_at(table, batch, np.arange(ITEMS)[None].repeat(2, 0))
    few = signals_at(table, batch, rows)
    found = find(scorer.ranker, table, batch)
    there, of_found = found.candidates.there[:, :ITEMS], found.candidates.rows[:, :ITEMS]

    assert torch.allclose(every[torch.arange(2)[:, None], rows], few, atol=1e-5)
    assert few[..., COLUMN["interest"]].all()
    assert there.all()
    wanted = every[torch.arange(2)[:, None], of_found][..., : len(FINDING)]
    assert torch.allclose(wanted, found.signals[:, :ITEMS], atol=1e-5)


def test_the_families_are_the_registry(scorer):
    """Each signal is computed once, in its order; what is computed of the best only has a weight that orders, none
    that finds.
    """
    assert list(SIGNALS) == [name for names in (*FAMILIES, *BEST) for name in names]
    assert FINDING == [name for names in FAMILIES for name in names]
    assert ["spread", "taste", "familiar", "apart", "ahead"] == [name for name in SIGNALS if name not in FINDING]
    assert (scorer.ranker.find.mean[len(FINDING) :] == 0).all()


def test_an_item_inherits_what_leads_to_items_with_texts_like_its_own(catalogue, scorer, statistics):
    """Nobody took i8; its text is like i4's and i2's, to which i1 leads, and unlike i1's odd kin."""
    even, odd = signal_of("spread", catalogue, scorer, statistics, make_request(catalogue, ["i1"]), ["i8", "i9"])

    assert even > odd + 1


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
    scorer, statistics = learner.fine_tune(), learner.statistics
    request = make_request(catalogue, [f"i{2 * at}" for at in range(9)] + ["i20"] * LAST)
    forgotten = structs.replace(request, consumed=b"")

    even, odd, never = signal_of("taste", catalogue, scorer, statistics, request, ["i18", "i19", "i29"])
    assert even > odd + 0.1
    assert never == 0.0
    assert [0.0, 0.0] == signal_of("taste", catalogue, scorer, statistics, forgotten, ["i18", "i19"])


def test_what_a_forgotten_user_added_to_taste_is_gone_with_the_next_version(catalogue):
    """Only one user took i20 and i22."""
    learner = Learner(catalogue)
    learner.add(Example("z", f"z-{item}", 1_000, item, "click", b"") for item in ("i20", "i22"))
    for user in range(60):
        learner.add(Example(f"u{user}", f"{user}-{at}", 60_000 * at, f"i{at}", "click", b"") for at in range(9))
    before = learner.fine_tune()
    learner.add([Example("z", "f", 9_000_000, forget=True), Example("u1", "last", 9_000_000, "i9", "click", b"")])
    after = learner.fine_tune()

    assert [True, True, False, False] == [
        fitted_of("taste", version, item) for version in (before, after) for item in ("i20", "i22")
    ]


def fitted_of(name: str, scorer: Scorer, item: str) -> bool:
    """Whether a fitted table says anything of an item, or leads to it."""
    keys = scorer.fitted_keys.tolist()
    row = keys.index(np.uint64(item_key(item)).astype(np.int64)) if np.int64(item_key(item)) in keys else -1
    weights, items = scorer.get_buffer(f"{name}_weights"), scorer.get_buffer(f"{name}_items")
    return row >= 0 and bool(weights[row].any() or weights[items == row].any())


def test_familiar_is_the_share_of_the_nearest_texts_that_the_user_had(catalogue, scorer, statistics):
    """Even items are near to each other by text: who had them all finds the next one familiar."""
    had = make_request(catalogue, [f"i{number}" for number in range(0, 28, 2)])
    even, odd = signal_of("familiar", catalogue, scorer, statistics, had, ["i28", "i29"])

    assert even == pytest.approx(5.0, rel=0.1) and odd < 0.5
    assert [0.0] == signal_of("familiar", catalogue, scorer, statistics, make_request(catalogue, []), ["i28"])


def of(
    names: tuple[str, ...], catalogue, scorer: Scorer, statistics: ItemStatistics, request: Request, items: list[str]
) -> list[list[float]]:
    """What some signals say of these items, one row a signal."""
    return [signal_of(name, catalogue, scorer, statistics, request, items) for name in names]


HAD = ("had", "had-lately", "had-near")


def test_what_a_user_had_is_known_by_how_often_how_lately_and_how_near(catalogue, scorer, statistics):
    """i1 was had three times, lastly 100 s ago and two events back; i2 once, 99 s ago and last; i3 was never had."""
    events = [click(item, at) for at, item in enumerate(["i1", "i1", "i1", "i4", "i2"])]
    often, lately, near = of(
        HAD, catalogue, scorer, statistics, request_after(catalogue, events, 104_000), ["i1", "i2", "i3"]
    )

    assert often == pytest.approx([np.log1p(3), np.log1p(1), 0.0])
    assert lately == pytest.approx([1 - np.log1p(102) / 20, 1 - np.log1p(100) / 20, 0.0])
    assert near == pytest.approx([0.8**2, 1.0, 0.0])


def test_what_was_had_long_ago_is_known_though_it_is_not_among_the_last_events(catalogue, scorer, statistics):
    """It is no longer near, but it was had; fifteen years later that is so long ago that it says nothing."""
    events = [click("i1", 0), *(click(f"i{3 + at % 5}", 1 + at) for at in range(LAST))]
    often, lately, near = of(
        HAD, catalogue, scorer, statistics, request_after(catalogue, events, 15 * 365 * 86_400_000), ["i1", "i3"]
    )

    assert often == pytest.approx([np.log1p(1), np.log1p(4)])
    assert near[0] == 0.0 < near[1]
    assert lately == pytest.approx([0.0, 0.0], abs=0.01)


def test_what_was_pushed_away_was_not_had_until_it_is_liked(catalogue, scorer, statistics):
    """A dislike or a skip is no having; a like after it is, and counts every time."""
    events = [click("i1", 0), click("i1", 1, "dislike"), click("i2", 2, "skip"), click("i3", 3), click("i2", 4, "like")]
    often = of(HAD, catalogue, scorer, statistics, request_after(catalogue, events), ["i1", "i2", "i3"])[0]

    assert often == pytest.approx([0.0, np.log1p(2), np.log1p(1)])


def test_who_had_nothing_has_no_signals_of_having(catalogue, scorer, statistics):
    """Also beside another user who had something."""
    table, rows = scorer.table(statistics, catalogue), np.arange(3)[None].repeat(2, 0)
    batch = batch_of(catalogue, make_request(catalogue, ["i0"]), make_request(catalogue, []))
    both = signals_at(table, batch, rows)[..., [COLUMN[name] for name in HAD]]

    assert (both[0, 0] > 0).all() and (both[0, 1:] == 0).all() and (both[1] == 0).all()
    assert [[0.0]] * 3 == of(HAD, catalogue, scorer, statistics, make_request(catalogue, []), ["i0"])


def test_before_anything_is_learnt_what_was_had_stands_behind_the_rest(catalogue):
    """In a small world of one taste: first all that the user has not had."""
    had = ["i0", "i2", "i4"]
    (list_,) = score(Scorer.untrained(16), ItemStatistics(), catalogue, [make_request(catalogue, had)], ITEMS)
    even = [item for item in ids(list_) if int(item[1:]) % 2 == 0]

    assert set(had) == set(even[-3:])


def test_the_order_of_first_choices_goes_on_from_the_last_item(catalogue, scorer, statistics):
    """i1, i4 and i2 were chosen first in this order, i7 never."""
    after_4 = make_request(catalogue, ["i4"])
    step = np.log1p(1)

    assert [step, step, 0.0, 0.0] == pytest.approx(
        signal_of("apart", catalogue, scorer, statistics, after_4, ["i1", "i2", "i4", "i7"])
    )
    assert [-step, step, 0.0, 0.0] == pytest.approx(
        signal_of("ahead", catalogue, scorer, statistics, after_4, ["i1", "i2", "i4", "i7"])
    )
    for nothing in ([], ["i7"], ["nowhere"]):
        assert [0.0, 0.0] == signal_of(
            "ahead", catalogue, scorer, statistics, make_request(catalogue, nothing), ["i1", "i2"]
        )


def test_ordering_moves_probability_among_the_candidates_only(scorer, statistics):
    """Together they weigh what the linear score gave them; their order may change, and what is excluded stays so."""
    catalogue = make_catalogue(300)
    excluded = request_after(catalogue, [click(f"i{number}", number, "dislike") for number in range(5, 90)])
    batch, table = (
        batch_of(catalogue, excluded, make_request(catalogue, ["i1"]), make_request(catalogue, [])),
        scorer.table(statistics, catalogue),
    )
    ranker = copy.deepcopy(scorer.ranker)
    torch.nn.init.normal_(ranker.mlp[-1].weight, generator=torch.Generator().manual_seed(0))
    before, after = find(ranker, table, batch), rerank(ranker, table, batch)
    linear = before.linear.gather(1, before.best)

    assert (3, CANDIDATES) == after.scores.shape
    assert torch.equal(before.candidates.rows.gather(1, before.best), after.rows)
    assert not torch.allclose(linear, after.scores)
    assert torch.equal(linear == -torch.inf, after.scores == -torch.inf)
    assert torch.allclose(linear.logsumexp(1), after.scores.logsumexp(1), atol=1e-4)
    assert not {f"i{number}" for number in range(5, 90)} & {
        catalogue.item_ids[row] for row in after.rows[0][after.scores[0] > -torch.inf].tolist()
    }


def test_before_anything_is_learnt_the_order_is_that_of_what_finds(catalogue):
    scorer = Scorer.untrained(16)
    table, batch = scorer.table(ItemStatistics(), catalogue), batch_of(catalogue, make_request(catalogue, ["i0", "i3"]))
    found, made = find(scorer.ranker, table, batch), rerank(scorer.ranker, table, batch)

    assert torch.allclose(found.linear.gather(1, found.best), made.scores, atol=1e-4)


def test_what_is_no_candidate_moves_no_score(scorer, statistics):
    """The MLP sees signals beside their mean over the candidates that there are, not over places without one."""
    ranker, random = copy.deepcopy(scorer.ranker), torch.Generator().manual_seed(0)
    torch.nn.init.normal_(ranker.mlp[-1].weight, generator=random)
    signals, context = torch.randn(2, 9, len(SIGNALS), generator=random), torch.zeros(2, CONTEXT)
    there = torch.ones(2, 9, dtype=torch.bool)
    there[:, 6:] = False

    assert torch.allclose(
        ranker.ordered(signals[:, :6], context), ranker.ordered(signals, context, there)[:, :6], atol=1e-4
    )


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


def test_temperatures_make_scores_what_happens(catalogue):
    """What comes is drawn by half of the scores: both temperatures find the half, from examples not learnt from."""
    trainer, random = Learner(catalogue).ranker, torch.Generator().manual_seed(0)
    ranker, width, weight = trainer._ranker, train_ranker._WIDTH, 2.0
    ranker.begin({"popularity": weight})
    for _ in range(60):
        values = torch.randn(200, width, generator=random)
        came = (0.5 * weight * values[:, : 1 + train_ranker._DRAWN]).softmax(1).multinomial(1, generator=random)
        first = values[:, :1].clone()
        values[:, :1] = values.gather(1, came)
        values.scatter_(1, came, first)
        signals = torch.zeros(200, width, len(SIGNALS), dtype=torch.half)
        signals[..., COLUMN["popularity"]] = values.half()
        offset = torch.zeros(200, width)
        offset[:, 1 + train_ranker._DRAWN :] = -torch.inf
        users, context = np.array(["u"] * 200, object), torch.zeros(200, CONTEXT)
        trainer._calibrate(train_ranker.RankerExamples(users, signals, context, offset, torch.ones(200).bool()))
        trainer._learnt += 200

    assert torch.allclose(ranker.temperature, torch.full((2,), 0.5), atol=0.05)


def test_a_temperature_moves_p_and_no_order(catalogue, scorer, statistics):
    """The list stays; half of the score makes P of its first item smaller."""
    softer = copy.deepcopy(scorer)
    softer.ranker.temperature.mul_(0.5)
    request = make_request(catalogue, ["i1"])
    sharp, soft = (score(one, statistics, catalogue, [request], 5)[0] for one in (scorer, softer))

    assert ids(sharp) == ids(soft)
    assert soft[0].probability < sharp[0].probability
