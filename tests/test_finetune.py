"""Learning in small worlds with a known answer, and what the learner keeps."""

import copy

import numpy as np
import pytest
import torch

from model import consumed, finetune
from model.evaluate import Users
from model.finetune import NOBODY, Judgement, Learner, non_inferior
from model.interest import Rules
from model.learning.config import TrainingConfig
from model.schema import Event, Example, ItemVector, item_key
from model.score import Scorer, score
from model.statistics import EVER
from tests.test_score import DIM, ITEMS, ids, make_catalogue, make_request

HALF = ITEMS // 2
torch.set_num_threads(1)  # the tensors are tiny


def make_examples(
    catalogue, users: range, taste=lambda user: user % 2, length: int = 8, seed: int = 0
) -> list[Example]:
    """Users who stay with the even or with the odd items, each in an order of their own."""
    random, examples = np.random.default_rng(seed), []
    for user in users:
        items = [f"i{2 * number + taste(user)}" for number in random.permutation(HALF)[:length]]
        for at in range(len(items)):
            request = make_request(catalogue, items[:at])
            examples.append(Example(f"u{user}", f"u{user}-{at + 1}", 1_000 * at, items[at], "click", request.interests))
    return examples


@pytest.fixture(scope="module")
def blind():
    """A catalogue whose texts say nothing of the tastes: what is learnt comes from the examples."""
    catalogue = make_catalogue()
    order = np.random.default_rng(5).permutation(ITEMS)
    for array in (catalogue.vectors, catalogue.interest_vectors):
        array[:] = array[order]
    return catalogue


def lists(learner: Learner, scorer: Scorer, requests: list, k: int = 5) -> list:
    """Lists of a scorer beside what the learner has counted."""
    return score(scorer, learner.statistics, learner.catalogue, requests, k)


def chosen(learner: Learner, item_id: str | None = None) -> float:
    """How often an item was chosen, or all of them."""
    popularity = learner.statistics.popularity()[:, EVER]
    if item_id is None:
        return round(float(popularity.sum()), 2)
    return round(float(popularity[learner.statistics.row_of[item_key(item_id)]]), 2)


def purity(learner: Learner, scorer: Scorer, taste: int) -> float:
    """The share of even or odd items in the first 5 places for a user of that taste."""
    items = [f"i{taste}", f"i{taste + 2}", f"i{taste + 6}"]
    (list_,) = lists(learner, scorer, [make_request(learner.catalogue, items)])
    return float(np.mean([int(item_id[1:]) % 2 == taste for item_id in ids(list_)]))


def learn(catalogue, *heaps: list[Example], **options) -> tuple[Learner, Scorer]:
    learner = Learner(catalogue, **options)
    for heap in heaps:
        learner.add(heap)
        scorer = learner.fine_tune()
    return learner, scorer


@pytest.fixture(scope="module")
def checkerboard(blind) -> tuple[Learner, Scorer]:
    return learn(blind, make_examples(blind, range(60)), make_examples(blind, range(60, 90)))


def test_two_tastes_are_told_apart(blind, checkerboard):
    """The checkerboard: who took even items is given even items, though no text says so."""
    assert purity(*checkerboard, 0) == 1
    assert purity(*checkerboard, 1) == 1


def test_the_seed_decides(blind):
    """The same examples and seed give the same weights, another seed gives others."""
    first, again, other = (
        learn(blind, make_examples(blind, range(20)), seed=seed)[1].state_dict() for seed in (1, 1, 2)
    )

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_scorer_that_was_returned_does_not_change(blind):
    """A version that serves is not touched by the learning that goes on."""
    learner, scorer = learn(blind, make_examples(blind, range(20)))
    before = {name: tensor.clone() for name, tensor in scorer.state_dict().items()}
    learner.add(make_examples(blind, range(20, 40)))
    newer = learner.fine_tune()

    assert all(torch.equal(before[name], tensor) for name, tensor in scorer.state_dict().items())
    assert not torch.equal(newer.network.ids, scorer.network.ids)


def test_counting_is_quick_and_leaves_what_is_trained(blind):
    """Two speeds: `count` moves the statistics alone."""
    learner, first = learn(blind, make_examples(blind, range(20)))
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    learner.add(make_examples(blind, range(20, 30)))
    counted = chosen(learner)
    learner.count()

    assert all(torch.equal(before[name], tensor) for name, tensor in first.state_dict().items())
    assert (160, 240) == (counted, chosen(learner))


def test_counting_often_counts_what_counting_once_counts(blind):
    """Every example is counted once and trained on once, however often the counts were refreshed between."""
    often, once = (Learner(blind) for _ in range(2))
    often.fine_tune(), once.fine_tune()
    examples = make_examples(blind, range(24))
    for start in range(0, len(examples), 32):
        often.add(examples[start : start + 32])
        often.count()
    once.add(examples)
    first, other = often.fine_tune(), once.fine_tune()

    assert often.statistics.popularity() == pytest.approx(once.statistics.popularity())
    every = np.arange(len(once.statistics))
    both = (one.statistics.partners("transitions", every, 8)[1] for one in (often, once))
    assert next(both) == pytest.approx(next(both), rel=1e-3)
    assert first.keys.tolist() == other.keys.tolist()
    assert not torch.equal(first.network.ids, torch.zeros_like(first.network.ids))


def test_counting_takes_in_a_catalogue_that_has_changed():
    """New items are counted at once; the network knows nothing of them yet, and all that it knew of the others."""
    catalogue = make_catalogue(10)
    learner, first = learn(catalogue, make_examples(make_catalogue(), range(2)))
    catalogue.apply([_vector("i12", make_catalogue().vectors[12])])
    before = chosen(learner, "i12") if item_key("i12") in learner.statistics.row_of else 0
    learner.add([Example("u", "u-1", 5, "i12", "click", b"")])
    learner.count()

    assert before + 1 == chosen(learner, "i12")
    assert 5 == len(lists(learner, first, [make_request(catalogue, ["i0"])])[0])


def test_counting_needs_no_fine_tuning(blind):
    """A learner that goes on from a version counts at once, and leaves its trained part as it is."""
    _, version = learn(blind, make_examples(blind, range(20)))
    learner = Learner(blind, version)
    learner.add(make_examples(blind, range(20, 22)))
    learner.count()

    assert torch.equal(version.network.ids, learner._scorer.network.ids)
    assert 16 == chosen(learner)


def test_what_came_before_this_learner_is_counted_and_not_learnt(blind):
    """A learner that starts again: others have trained on these examples."""
    _, version = learn(blind, make_examples(blind, range(20)))
    learner = Learner(blind, version)
    learner.add(make_examples(blind, range(20)))
    learner.catch_up()
    scorer = learner.fine_tune()

    assert 160 == chosen(learner)
    assert torch.equal(version.network.ids, scorer.network.ids)


def test_a_learner_goes_on_from_other_weights_with_its_own_counts(blind):
    """After a rollback: the trained part is that of the version that serves, what was counted stays."""
    learner, before = learn(blind, make_examples(blind, range(20)))
    learner.add(make_examples(blind, range(20, 40)))
    learner.fine_tune()
    learner.resume(before)
    learner.count()
    resumed = learner._scorer

    assert torch.equal(before.network.ids, resumed.network.ids) and torch.equal(
        before.ranker.find.mean, resumed.ranker.find.mean
    )
    assert 320 == chosen(learner)
    learner.add(make_examples(blind, range(40, 44)))
    assert not torch.equal(before.network.ids, learner.fine_tune().network.ids[: len(before.keys)])


def test_what_waits_to_be_learnt_is_bounded(blind):
    """Where nothing is fine-tuned for long, only what is still remembered waits for it."""
    learner = Learner(blind, replay_capacity=50, config=TrainingConfig(max_ranker_examples=20))
    for start in range(0, 60, 2):
        learner.add(make_examples(blind, range(start, start + 2)))
        learner.count()

    assert len(learner._counted) <= 50 + 16
    assert {b""} == {one.example.interests for one in learner._counted}
    assert sum(map(len, learner.ranker._fresh)) <= 20 + 16


def test_a_user_who_is_forgotten_takes_out_what_was_counted_and_no_more():
    """Also of items that were not in the catalogue then; twice in a row counts once."""
    catalogue, items = make_catalogue(10), ["i1", "i12", "i12", "i3"]
    learner = Learner(catalogue)
    for user in ("u", "v"):
        learner.add([Example(user, f"{user}{at}", at, item, "click", b"") for at, item in enumerate(items)])
        learner.count()
        catalogue.apply([_vector("i12", make_catalogue().vectors[12])])
    learner.add([Example("u", "f", 9, forget=True)])

    assert [1.0, 1.0] == [chosen(learner, item) for item in ("i1", "i12")]


class Shop:
    """A catalogue that changes at random, and users who go on all the while."""

    def __init__(self, seed: int) -> None:
        self.catalogue, self.random = make_catalogue(8), np.random.default_rng(seed)
        few = {
            "window": 8,
            "windows": 2,
            "most_steps": 3,
            "negatives": 16,
            "sample_rate": 0.3,
            "ranker_batch": 8,
            "ranker_replay": 32,
        }
        tiny = TrainingConfig(neighbours=8, ease_every=400, **few)
        self.learner = Learner(self.catalogue, replay_capacity=300, config=tiny)
        self.scorer, self.events, self.gone, self.recent = None, 0, [], []

    def change(self) -> None:
        """Add some, change the text of one, delete one, delete all, or bring some back."""
        here, how = list(self.catalogue.item_ids), self.random.choice(5, p=(0.35, 0.25, 0.2, 0.01, 0.19))
        drawn = [str(item) for item in self.random.choice(here, min(len(here), 3), replace=False)] if here else []
        news = [f"n{self.events}-{number}" for number in range(self.random.integers(1, 4))]
        taken = {0: [], 1: [], 2: drawn[:1], 3: here, 4: []}[how]
        put = {0: news if len(here) < 60 else [], 1: drawn[:1], 2: [], 3: [], 4: self.gone[-3:]}[how]
        self.gone = [item for item in self.gone + taken if item not in put][-80:]
        self.catalogue.apply(
            [ItemVector(item, deleted=True) for item in taken]
            + [_vector(item, self.random.standard_normal(DIM) / 4) for item in put]
        )

    def step(self) -> None:
        """Add some examples, on items that may be there, count, fine-tune, judge or forget."""
        match self.random.choice(5, p=(0.7, 0.18, 0.04, 0.04, 0.04)):
            case 0:
                self.recent = [self.example() for _ in range(self.random.integers(1, 8))]
                self.learner.add(self.recent)
            case 1:
                self.learner.count()
            case 2:
                self.scorer = self.learner.fine_tune()
            case 3 if self.scorer is not None:
                self.learner.judge(self.scorer, self.recent)
            case 4:
                self.learner.add([Example(f"u{self.random.integers(12)}", "f", 0, forget=True)])

    def chance(self, item_id: str, scorer: Scorer) -> float:
        """P(item) for a user who is new."""
        (list_,) = lists(self.learner, scorer, [make_request(self.catalogue, [])], len(self.catalogue))
        return sum(item.probability for item in list_ if item.item_id == item_id)

    def example(self, item: str = "", user: str = "") -> Example:
        self.events += 1
        item = item or str(self.random.choice([*self.catalogue.item_ids, *self.gone, "nowhere"]))
        user = user or f"u{self.random.integers(12)}"
        return Example(user, f"e{self.events}", 1_000 * self.events, item, "click", b"")


def test_the_catalogue_may_change_at_any_moment():
    """After 1,000 changes, between steps of any kind, the learner goes on and learns an item that is new."""
    shop = Shop(seed=0)
    for _ in range(1_000):
        shop.change()
        for _ in range(shop.random.integers(1, 4)):
            shop.step()
    shop.catalogue.apply([_vector(f"i{number}", vector) for number, vector in enumerate(make_catalogue().vectors)])
    shop.catalogue.apply([_vector("new", make_catalogue().vectors[0])])
    shop.learner.count()
    before = shop.chance("new", shop.learner._scorer)
    for _ in range(5):
        shop.learner.add([shop.example("new", f"new{shop.events}") for _ in range(12)])
        scorer = shop.learner.fine_tune()

    row = scorer.keys.tolist().index(np.uint64(item_key("new")).astype(np.int64))
    assert 60 == chosen(shop.learner, "new") and scorer.network.ids[row].any()
    assert shop.chance("new", scorer) > 3 * before


def test_a_new_item_between_counting_and_fine_tuning(blind):
    """What was trending before has no number for it: it was chosen by nobody then."""
    catalogue = make_catalogue(10)
    learner, _ = learn(catalogue, make_examples(catalogue, range(5), length=5))
    learner.add(make_examples(catalogue, range(5, 10), length=5))
    learner.count()
    catalogue.apply([_vector("i12", make_catalogue().vectors[12])])
    before = chosen(learner, "i12")
    learner.add([Example("u", "u-1", 5, "i12", "click", b"")])
    learner.fine_tune()

    assert before + 1 == chosen(learner, "i12")


def test_the_network_that_serves_is_an_average(blind):
    """Weights of single steps are noise; the scorer holds their running average, the learner the newest."""
    learner, scorer = learn(blind, make_examples(blind, range(20)))
    average, newest = scorer.network.ids, learner._network._network.ids

    assert average.shape == newest.shape
    assert 0 < (average - newest).abs().max() < newest.abs().max()


def test_a_change_of_taste_is_followed(blind, checkerboard):
    """The newest events count most: who went from even to odd items gets more odd ones than who went the other way."""
    even, odd = ["i0", "i2", "i4"], ["i1", "i3", "i5"]
    both = lists(*checkerboard, [make_request(blind, even + odd), make_request(blind, odd + even)], ITEMS)
    to_odd, to_even = (sum(item.probability for item in list_ if int(item.item_id[1:]) % 2) for list_ in both)

    assert to_odd > 0.5 > to_even


def test_without_examples_a_version_still_serves(blind):
    learner, scorer = learn(blind, [])
    assert 5 == len(lists(learner, scorer, [make_request(blind, ["i1"])])[0])


def test_an_empty_catalogue_can_be_learnt_on():
    """Examples that come before their items do no harm, and count from the time when the items are there."""
    empty = make_catalogue(0)
    learner = Learner(empty)
    learner.add(make_examples(make_catalogue(), range(3)))
    assert [[]] == lists(learner, learner.fine_tune(), [make_request(empty, [])])

    for item_id, vector in zip(make_catalogue().item_ids, make_catalogue().vectors):
        empty.apply([_vector(item_id, vector)])
    learner.add(make_examples(empty, range(10, 20)))
    assert 5 == len(lists(learner, learner.fine_tune(), [make_request(empty, ["i0"])])[0])


def _vector(item_id: str, vector: np.ndarray) -> ItemVector:
    return ItemVector(item_id, "enc-1", vector.astype("<f2").tobytes())


def test_new_items_are_taken_up_between_two_calls():
    """The catalogue grows: the next version has a row for a new item that was chosen."""
    catalogue = make_catalogue(10)
    learner, scorer = learn(catalogue, [])
    large = make_catalogue(14)
    for item_id, vector in list(zip(large.item_ids, large.vectors))[10:]:
        catalogue.apply([_vector(item_id, vector)])
    learner.add([Example("u", "u-1", 5, "i12", "click", b"")])
    newer = learner.fine_tune()

    assert (0, 1) == (len(scorer.keys), len(newer.keys)), "an item has a row once it was chosen"
    assert 1 == chosen(learner)


def test_a_catalogue_smaller_than_the_candidates_may_grow():
    """What the blend replays has as many candidates as there were items then: it is not mixed with longer lists."""
    catalogue = make_catalogue(12)
    learner, _ = learn(catalogue, *(make_examples(catalogue, range(start, start + 5), length=5) for start in (0, 5)))
    large = make_catalogue(ITEMS)
    catalogue.apply(_vector(item_id, vector) for item_id, vector in list(zip(large.item_ids, large.vectors))[12:])
    learner.add(make_examples(catalogue, range(10, 20)))

    assert 5 == len(lists(learner, learner.fine_tune(), [make_request(catalogue, ["i0"])])[0])


def test_another_encoder_begins_with_new_weights(blind):
    """Vectors of another size need a new network; what was counted has nothing to do with them and goes on."""
    catalogue = make_catalogue()
    learner, _ = learn(catalogue, make_examples(catalogue, range(6)))
    wide = make_catalogue(ITEMS, "wide", 24)
    catalogue.apply(
        ItemVector(item_id, "wide", vector.astype("<f2").tobytes())
        for item_id, vector in zip(wide.item_ids, wide.vectors)
    )
    learner.add(make_examples(catalogue, range(6, 12)))
    scorer = learner.fine_tune()

    assert (24, "wide", 96) == (scorer.sizes.dim, scorer.encoder_version, chosen(learner))
    assert 5 == len(lists(learner, scorer, [make_request(catalogue, ["i0"])])[0])


def many(catalogue) -> list[Example]:
    """More examples than what is fitted in closed form waits for."""
    return make_examples(catalogue, range(70))


def test_another_encoder_leaves_nothing_unfitted():
    """What is fitted in closed form needs no vectors: it is there in the first version of the new encoder."""
    catalogue = make_catalogue()
    learner, before = learn(catalogue, many(catalogue))
    wide = make_catalogue(ITEMS, "wide", 24)
    catalogue.apply(
        ItemVector(item_id, "wide", vector.astype("<f2").tobytes())
        for item_id, vector in zip(wide.item_ids, wide.vectors)
    )
    learner.add(make_examples(catalogue, range(70, 71)))
    scorer = learner.fine_tune()

    assert ITEMS == len(before.fitted_keys) == len(scorer.fitted_keys)
    assert scorer.ease_weights.any()


def test_who_goes_on_from_another_version_fits_anew(blind):
    """After a rollback to one from before there was enough to fit: the examples are all here."""
    learner, before = learn(blind, make_examples(blind, range(2)))
    learner.add(many(blind)[16:])
    fitted = learner.fine_tune()
    learner.resume(before)
    learner.add(make_examples(blind, range(70, 71)))

    assert [0, ITEMS, ITEMS] == [len(one.fitted_keys) for one in (before, fitted, learner.fine_tune())]


def test_who_is_forgotten_is_in_no_table_of_the_next_version(blind):
    """Two items that one user alone had together are no pair any more."""
    pair = [Example("z", f"z{at}", 10**6 + at, item, "click") for at, item in enumerate(["i0", "i1"] * 30)]
    learner, before = learn(blind, many(blind) + pair)
    learner.add([Example("z", "f", 10**7, forget=True)])
    after = learner.fine_tune()

    weights = []
    for scorer in (before, after):
        keys = scorer.fitted_keys.numpy().view(np.uint64).tolist()
        first, second = (keys.index(item_key(item)) for item in ("i0", "i1"))
        weights.append(float(scorer.ease_weights[first][scorer.ease_items[first] == second].sum()))
    assert weights[0] > 0 == weights[1]


def test_where_all_items_are_gone_there_is_nothing_to_fit():
    """And when they are back there is."""
    catalogue = make_catalogue()
    learner, _ = learn(catalogue, many(catalogue))
    catalogue.apply([ItemVector(item, deleted=True) for item in list(catalogue.item_ids)])
    learner.add([Example("u1", "f", 10**7, forget=True)])
    empty = learner.fine_tune()
    catalogue.apply(
        [_vector(item, vector) for item, vector in zip(make_catalogue().item_ids, make_catalogue().vectors)]
    )
    learner.add([Example("u2", "f", 10**7, forget=True), *make_examples(catalogue, range(90, 91))])
    full = learner.fine_tune()

    assert [0, ITEMS] == [len(one.fitted_keys) for one in (empty, full)]
    for scorer in (empty, full):
        assert 5 == len(lists(learner, scorer, [make_request(catalogue, ["i0"])])[0])


def test_a_version_with_its_items_in_another_order_means_the_same(blind):
    """Rows of the network, of the statistics and of the catalogue have nothing to do with each other."""
    _, version = learn(blind, make_examples(blind, range(60)))
    learner, turned = Learner(blind, version), copy.deepcopy(version)
    order = torch.arange(len(version.keys)).flip(0)
    turned.keys = version.keys[order]
    for name in ("ids", "bias"):
        getattr(turned.network, name).data = getattr(version.network, name).data[order]
    other = Learner(blind, turned)
    requests = [make_request(blind, items) for items in ([], ["i0", "i2"], ["i5"])]
    for one in (learner, other):
        one.add(make_examples(blind, range(60, 70)))
        one.count()

    expected, found = (
        [{item.item_id: item.probability for item in list_} for list_ in lists(one, scorer, requests, ITEMS)]
        for one, scorer in ((learner, version), (other, turned))
    )
    for first, again in zip(expected, found):
        assert first == pytest.approx(again, rel=1e-3)
    first, again = learner.fine_tune(), other.fine_tune()
    rows = [again.keys.tolist().index(key) for key in first.keys.tolist()]
    assert torch.allclose(first.network.ids, again.network.ids[rows], atol=1e-3)


def test_an_example_that_was_counted_before_the_learner_began_is_counted_once(blind):
    """The replay has no room for what the statistics know still: what they have counted is nothing new."""
    learner = Learner(blind, replay_capacity=10)
    examples = make_examples(blind, range(6))
    learner.add(examples)
    learner.count()
    looked = []
    learner.ranker.look = lambda statistics, catalogue, some, share: looked.extend(some)
    new = make_examples(blind, range(6, 7))
    learner.add(examples[:8] + new)
    learner.count()

    assert len(examples) + len(new) == learner.statistics.seen == chosen(learner)
    assert [one.event_id for one in new] == [one.example.event_id for one in looked]
    assert max(max(user.steps) for user in learner.replay.users.values()) < learner.statistics.seen


def test_the_network_sees_nothing_that_is_to_be_learnt_later(blind, monkeypatch):
    """Of a heap that is learnt in parts: a window ends before what the ranker has not looked at, also where an example
    came late, and stands before one that came in time.
    """
    monkeypatch.setattr(finetune, "_HEAP", 10)
    examples = written_by_the_job(blind, users=3, length=8)
    learner = Learner(blind, config=TrainingConfig(chunk=4))
    steps, asked = learner._network.learn, []
    learner._network.learn = lambda *given: (asked.append(given[1:4]), steps(*given))
    learner.add(read_by_partition(examples, 2)[12:] + read_by_partition(examples, 2)[:12])
    learner.fine_tune()

    assert len(asked) > 2
    for flat, new, reach in asked:
        assert (new < reach[flat.owner[new]]).all()
        assert (reach >= flat.starts).all()


def test_the_first_example_of_a_user_brings_the_history_before_it(blind):
    """A learner that starts late learns the sequence from the interests that the example carries."""
    learner = Learner(blind)
    learner.add([Example("u", "late", 10_000, "i8", "click", make_request(blind, ["i0", "i2", "i4"]).interests)])
    learner.fine_tune()

    assert 4 == len(learner.replay.users["u"].keys)
    assert 1 == chosen(learner), "only the example is counted"


def test_an_example_that_comes_twice_is_learnt_once(blind):
    examples = make_examples(blind, range(3))
    learner, _ = learn(blind, examples + examples)
    assert len(examples) == chosen(learner)


def test_forgetting_a_user_leaves_nothing(blind):
    """After `forget` the counts are those of a learner that never met the user, and no event of theirs is held."""
    ours, theirs = make_examples(blind, range(6)), make_examples(blind, range(90, 92))
    learner, _ = learn(blind, ours + theirs)
    learner.add([Example(f"u{user}", "f", 99, forget=True) for user in (90, 91)])
    learner.fine_tune()
    never, _ = learn(blind, ours)

    remembered = {*learner.replay.users, *learner.replay.order, *learner.ranker.kept.users}
    assert not {"u90", "u91"} & remembered
    assert chosen(never) == chosen(learner)
    for item in {example.item_id for example in ours}:
        assert chosen(never, item) == chosen(learner, item)


def test_only_the_newest_events_are_kept(blind):
    learner = Learner(blind, replay_capacity=10)
    learner.add(make_examples(blind, range(4)))
    learner.fine_tune()
    assert 10 == sum(len(user.keys) for user in learner.replay.users.values())


def test_judging_leaves_out_what_the_user_had(blind):
    """One number per example; an item that the user has already cannot be hit, the others are scored as in the job."""
    learner, scorer = learn(blind, make_examples(blind, range(40)))
    held_out = make_examples(blind, range(50, 60))
    learner.add(held_out)
    judgement = learner.judge(scorer, held_out)

    assert (len(held_out),) == judgement.ndcg.shape == judgement.hit.shape
    assert 0 <= judgement.metrics()["ndcg_at_10"] <= judgement.metrics()["hr_at_10"] <= 1
    assert judgement.metrics()["hr_at_10"] > 0.4
    assert {} == learner.judge(scorer, []).metrics(), "no figure for nothing"


def test_few_examples_do_not_turn_popularity_upside_down(blind):
    """The blend's first weights are worth some examples: a few dozen new ones move none of them far."""
    _, scorer = learn(blind, make_examples(blind, range(4)), make_examples(blind, range(4, 8)))
    first = Learner(blind).fine_tune().ranker

    for part in ("find", "order"):
        assert 0 < (getattr(scorer.ranker, part).mean - getattr(first, part).mean).abs().max() < 0.2


def test_the_blend_replays_the_newest_examples_only(blind):
    learner = Learner(blind, config=TrainingConfig(ranker_replay=10))
    for users in (range(4), range(4, 8)):
        learner.add(make_examples(blind, users))
        learner.fine_tune()

    assert 10 == len(learner.ranker.kept) == len(learner.ranker.kept.signals)
    assert {"u4", "u5", "u6", "u7"} >= set(learner.ranker.kept.users)


def test_examples_are_judged_as_the_job_asks(blind):
    """The job makes a list when an event comes: the time until the next one is 0 for it."""
    learner = Learner(blind)
    learner.add([Example("u", f"e{at}", 86_400_000 * at, f"i{at}", "click", b"") for at in (1, 2)])
    second = learner.replay.find(Example("u", "e2", 86_400_000 * 2, "i2", "click"))

    assert [2, 1] == [second.request(live).event_time_ms // 86_400_000 for live in (False, True)]
    assert second.request().consumed == consumed.add(b"", item_key("i1"), "click", 86_400_000, 4_096)


def test_the_learner_knows_what_the_user_had_as_the_job_does(blind):
    """An item taken twice is kept once; beyond the limit the ones had longest ago are dropped. What was said in
    between, of which no example tells, comes with the interests of the next example.
    """
    users = Users(blind, Rules(max_consumed=3))
    actions = ["click", "dislike", "view", "purchase", "search", "view", "skip", "rating", "like", "view"]
    items = ["i1", "i2", "i1", "i3", None, "i3", "i4", "i1", "i5", "i1"]
    asked = [
        users.ask(Event(f"e{at}", "u", action, 1_000 * at, item))
        for at, (action, item) in enumerate(zip(actions, items))
    ]
    learner = Learner(blind, rules=Rules(max_consumed=3))
    learner.add([one.example for one in asked if one.example])

    for one in asked:
        if one.example:
            assert one.request.consumed == learner.replay.find(one.example).request().consumed


def test_the_gate_lets_through_what_is_better_or_level():
    """A candidate may trail by so many standard errors of the pairwise difference, no more."""
    good, bad = (Judgement(np.array(values), np.zeros(4)) for values in ([1.0, 0.5, 1.0, 0.5], [0.0, 0.5, 0.0, 0.1]))

    assert non_inferior(good, bad, 0)
    assert non_inferior(bad, bad, 0)
    assert not non_inferior(bad, good, 1)
    assert non_inferior(bad, good, 100)
    assert not non_inferior(NOBODY, NOBODY, 100), "judged on nothing"


def test_progress_reaches_the_end(blind):
    calls = []
    learner = Learner(blind, config=TrainingConfig(chunk=10))
    learner.add(make_examples(blind, range(4)))
    learner.fine_tune(lambda done, of: calls.append((done, of)))
    assert (32, 32) == calls[-1]


def test_the_network_visits_the_first_events_more_often(blind):
    """An example is in about as many windows as the config says; of the later ones fewer."""
    learner = Learner(
        blind, config=TrainingConfig(windows=1, warm_up_epochs=64.0, epochs_per_event=16.0, warm_up_events=40)
    )
    steps, taken = learner._network.learn, []
    learner._network.learn = lambda *given: (taken.append(given[4]), steps(*given))
    for users in (range(4), range(4, 8)):
        learner.add(make_examples(blind, users))
        learner.fine_tune()

    assert 2 == len(taken) and taken[0] > 3 * taken[1]


# Examples that come in another order


def written_by_the_job(catalogue, users: int, length: int) -> list[Example]:
    """Examples of users who click in turn, with the interests that the job adds."""
    job = Users(catalogue)
    events = [
        Event(f"u{user}-{at}", f"u{user}", "click", 1_000 * at + user, f"i{(at + user) % ITEMS}")
        for at in range(length)
        for user in range(users)
    ]
    return [job.ask(event).example for event in events]


def read_by_partition(examples: list[Example], partitions: int) -> list[Example]:
    """As examples without a key lie on their topic, in turn, and are read, one partition after the other."""
    return [example for first in range(partitions) for example in examples[first::partitions]]


@pytest.mark.parametrize("partitions", [2, 3, 4, 8])
def test_every_example_is_counted_in_whatever_order_it_comes(blind, partitions):
    """An example brings its user's history; those that come after it are examples all the same, and stand in their
    place.
    """
    examples = written_by_the_job(blind, users=7, length=30)
    late, in_order = Learner(blind), Learner(blind)
    late.add(read_by_partition(examples, partitions))
    in_order.add(examples)

    assert len(examples) == len(late.replay.take_new())
    assert [user.events for user in in_order.replay.users.values()] == [
        late.replay.users[name].events for name in in_order.replay.users
    ]


def test_a_late_example_is_new_until_it_has_come(blind):
    """What only a later example's interests told of has not been learnt from."""
    first, second = written_by_the_job(blind, users=1, length=2)
    learner = Learner(blind)
    learner.add([second])

    assert [False, True] == [learner.replay.has(one) for one in (first, second)]
    learner.add([first])
    assert learner.replay.has(first) and 2 == len(learner.replay.take_new())


def test_a_late_example_is_taken_out_again_with_its_user(blind):
    """What a user's late examples added to the counts goes with a `forget`."""
    examples = written_by_the_job(blind, users=2, length=9)
    learner, _ = learn(blind, read_by_partition(examples, 2))
    learner.add([Example(f"u{user}", "f", 99, forget=True) for user in (0, 1)])

    learner.count()

    assert 0 == chosen(learner)


# Examples that come again


@pytest.mark.parametrize("later_ms", [0, 250, 86_400_000])
def test_an_event_that_is_among_the_last_ones_is_learnt_once_whatever_its_time(blind, later_ms):
    """The rule of the job."""
    learner = Learner(blind)
    learner.add([Example("u", "e", time_ms, "i1", "click") for time_ms in (5, 5 + later_ms)])

    assert 1 == len(learner.replay.take_new())


@pytest.mark.parametrize("last_n, learnt", [(3, 5), (4, 4)])
def test_an_event_beyond_the_last_ones_is_another_one(blind, last_n, learnt):
    """As it is for the job: `last_n` is one setting for both."""
    learner = Learner(blind, rules=Rules(last_n=last_n))
    learner.add([Example("u", f"e{number % 4}", number, f"i{number}", "click") for number in range(5)])

    assert learnt == len(learner.replay.take_new())


@pytest.mark.parametrize("length", [15, 100, 3_000])
def test_what_the_job_writes_again_after_a_failure_is_learnt_once(blind, length):
    """It goes back to its last checkpoint: the same examples, however many lie between."""
    examples = [Example("u", f"e{number}", number, f"i{number % ITEMS}", "click") for number in range(length)]
    learner = Learner(blind)
    learner.add(examples + examples)

    assert length == len(learner.replay.take_new())


# Examples that were made to do harm


def poisoned(catalogue, kind: str) -> list[Example]:
    """Examples of one user that can be read and mean ill."""
    whole = [f"i{number}" for number in range(ITEMS)]
    huge = make_request(catalogue, whole * 6).interests
    return {
        "from 1970": [Example("p", f"p{at}", 0, f"i{at % ITEMS}", "click", huge) for at in range(40)],
        "from the far future": [Example("p", f"p{at}", 2**48 - 1, f"i{at % ITEMS}", "click", huge) for at in range(40)],
        "back and forth": [Example("p", f"p{at}", (at % 2) * (2**48 - 1), "i1", "like", huge) for at in range(40)],
        "unknown items": [Example("p", f"p{at}", at, f"nowhere{at}", "view") for at in range(400)],
        "one user, one item": [Example("p", f"p{at}", at, "i1", "view") for at in range(1_000)],
        "one user, all items": [Example("p", f"p{at}", at, f"i{at % ITEMS}", "purchase", huge) for at in range(120)],
        "many at one moment": [Example(f"p{at}", "p", 5, "i1", "view") for at in range(400)],
    }[kind]


@pytest.mark.parametrize("kind", [
    "from 1970", "from the far future", "back and forth", "unknown items", "one user, one item", "one user, all items",
    "many at one moment",
])  # fmt: skip
def test_examples_that_mean_ill_leave_what_others_taught(blind, kind):
    """No weight is lost to a number that is none, and the two tastes are told apart all the same."""
    learner = Learner(blind, config=TrainingConfig(most_steps=60))
    examples = make_examples(blind, range(60))
    learner.add(examples[:240] + poisoned(blind, kind) + examples[240:])
    learner.count()
    scorer = learner.fine_tune()

    assert all(torch.isfinite(tensor).all() for tensor in scorer.state_dict().values() if tensor.is_floating_point())
    assert purity(learner, scorer, 0) > 0.5 and purity(learner, scorer, 1) > 0.5, "half is chance"
    learner.add([Example(name, "f", 1, forget=True) for name in list(learner.replay.users) if name.startswith("p")])
    learner.count()
    assert np.isfinite(learner.statistics.popularity()).all()
    assert all(np.isfinite(pairs.weight).all() for pairs in learner.statistics.pairs.values())
