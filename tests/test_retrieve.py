"""Retrieval: its sums are those of plain loops, its candidates those that a look at every item would choose, and P is
the softmax over the catalogue.
"""

import math
from collections import defaultdict
from threading import Thread

import numpy as np
import pytest
import torch

from model.catalogue import Catalogue
from model.finetune import Learner
from model.interest import Rules
from model.learning.config import TrainingConfig
from model.schema import Example, ItemVector, Request, item_key
from model.score import Scorer, score
from model.scoring import retrieve as loops
from model.scoring import table as table_module
from model.scoring.batch import open_requests
from model.scoring.network import Sizes
from model.scoring.ranker import CANDIDATES, _space, find, rerank
from model.scoring.retrieve import CHANNELS, EASE, NEWEST, TABLES, TEXT, USERS
from model.scoring.table import KNOWN, SAMPLE, UNSEEN, ItemTable
from model.signals import SIGNALS
from model.statistics import (
    EVER,
    FIRST_5,
    FIRST_20,
    HALF_LIFE_2K,
    HALF_LIFE_20K,
    HALF_LIFE_200,
    HALF_LIVES,
    PAIRS,
    ItemStatistics,
)
from tests.test_score import click, ids, make_request, request_after

CPU, DIM, LAST = torch.device("cpu"), 16, 20
QUICK = TrainingConfig(warm_up_epochs=0.5)


def item(number: int, at: int = 0, encoder: str = "enc") -> ItemVector:
    """One of six kinds of texts."""
    kinds = np.random.default_rng(0).standard_normal((6, DIM))
    vector = kinds[number % 6] + 0.5 * np.random.default_rng([number, at]).standard_normal(DIM)
    return ItemVector(f"i{number}", encoder, (vector / np.linalg.norm(vector)).astype("<f2").tobytes())


def make_catalogue(items: int) -> Catalogue:
    catalogue = Catalogue()
    catalogue.apply(item(number) for number in range(items))
    return catalogue


def histories(users: int, items: int, most: int, seed: int = 0) -> dict[str, list[int]]:
    """What users took, one after the other: they walk from item to item, mostly a few steps on."""
    random, made = np.random.default_rng(seed), {}
    for user in range(users):
        steps = np.where(random.random(most) < 0.8, random.integers(1, 4, most), random.integers(0, items, most))
        made[f"u{user}"] = ((random.integers(items) + steps.cumsum()) % items)[: random.integers(2, most)].tolist()
    return made


def examples_of(taken: dict[str, list[int]], seed: int = 0) -> list[Example]:
    """In turns, some of them within seconds."""
    waiting, random, made = [user for user, items in taken.items() for _ in items], np.random.default_rng(seed), []
    at: dict[str, int] = defaultdict(int)
    for number, user in enumerate(random.permutation(waiting).tolist()):
        made.append(Example(user, f"{user}-{at[user]}", 4_000 * number, f"i{taken[user][at[user]]}", "click", b""))
        at[user] += 1
    return made


def with_fitted(scorer: Scorer, catalogue: Catalogue, seed: int = 0) -> Scorer:
    """Fitted tables of the first items, of random numbers."""
    random, n = np.random.default_rng(seed), min(30, len(catalogue))
    scorer.fitted_keys = torch.from_numpy(catalogue.keys[:n].view(np.int64).copy())
    for name in ("ease", "taste"):
        leads = torch.from_numpy(random.integers(-1, n, (n, 6)).astype(np.int32))
        setattr(scorer, f"{name}_items", leads)
        setattr(scorer, f"{name}_weights", torch.from_numpy(random.random((n, 6)).astype(np.float32)))
    return scorer


def batch_of(catalogue: Catalogue, requests: list[Request], rules: Rules = Rules()):
    return open_requests(catalogue, requests, rules, LAST)


def sums_of(scorer: Scorer, statistics: ItemStatistics, catalogue: Catalogue, request: Request) -> np.ndarray:
    """What retrieval adds up for every item; (n, CHANNELS)."""
    everything = np.arange(len(catalogue), dtype=np.int32)[None]
    table = scorer.table(statistics, catalogue)
    found = find(scorer.ranker, table, batch_of(catalogue, [request]), everything)
    return found.candidates.sums[0, -len(catalogue) :]


# The same sums by plain loops


def plain_sums(
    scorer: Scorer, statistics: ItemStatistics, catalogue: Catalogue, taken: list[tuple[str, int]], history: list[int]
) -> np.ndarray:
    """Dictionaries and loops: what the last items lead to.

    Args:
        taken: (user, item) in the order in which they were counted.
        history: items, the newest last.
    """
    sums, newest_first = np.zeros((len(catalogue), len(CHANNELS))), history[::-1]
    for channel, (name, rule) in enumerate(PAIRS.items()):
        for back, number in enumerate(newest_first):
            row = statistics.row_of.get(item_key(f"i{number}"), -1)
            if row >= 0:
                partners, shares = statistics.partners(
                    name, np.array([row]), loops.WIDE if back < NEWEST else loops.NARROW
                )
                for partner, share in zip(partners[0], shares[0]):
                    into = catalogue.row(int(statistics.keys[partner])) if partner >= 0 else -1
                    if into >= 0:
                        sums[into, channel] += rule.decay**back * share
    rows = catalogue.rows(scorer.fitted_keys.numpy().view(np.uint64)).tolist()
    for back, number in enumerate(newest_first):
        row = catalogue.row(item_key(f"i{number}"))
        if row in rows:
            at = rows.index(row)
            for partner, weight in zip(scorer.ease_items[at].tolist(), scorer.ease_weights[at].tolist()):
                if partner >= 0 and rows[partner] >= 0:
                    sums[rows[partner], EASE] += SIGNALS["ease"].decay ** back * weight
    for row, share in plain_users(statistics, catalogue, taken, newest_first).items():
        sums[row, USERS] = share
    vectors = catalogue.vectors / np.linalg.norm(catalogue.vectors, axis=1, keepdims=True)
    for number in history:
        row = catalogue.row(item_key(f"i{number}"))
        cosines = np.where(np.arange(len(catalogue)) == row, 0.0, vectors @ vectors[row])
        for other in np.argsort(-cosines)[:32].tolist():
            sums[other, TEXT] = max(sums[other, TEXT], cosines[other])
    return sums


def plain_users(
    statistics: ItemStatistics, catalogue: Catalogue, taken: list[tuple[str, int]], newest_first: list[int]
) -> dict[int, float]:
    """What stands around the last items in the histories of users who had them too; the shares make 1."""
    shared = []  # (number of the event, what it says)
    for back, number in enumerate(newest_first):
        places = [at for at, (_, other) in enumerate(taken) if other == number][::-1]
        row = statistics.row_of.get(item_key(f"i{number}"), -1)
        rarity = 1 / math.log(2 + statistics.popularity()[row, EVER]) if row >= 0 else 0.0
        places = places[: loops.USERS_WIDE if back < NEWEST else loops.USERS_NARROW]
        shared += [(place, loops._ALIKE**back * rarity) for place in places]
    alike: dict[str, float] = defaultdict(float)
    for place, weight in shared:
        alike[taken[place][0]] += weight
    best = sorted(((weight * alike[taken[place][0]], place) for place, weight in shared), key=lambda one: -one[0])
    votes, total = defaultdict(float), 0.0
    for weight, place in best[: loops.SHARED]:
        user = taken[place][0]
        before = [number for other, number in taken[:place] if other == user][::-1][: loops.AROUND]
        after = [number for other, number in taken[place + 1 :] if other == user][: loops.AROUND]
        for side in (before, after):
            for apart, number in enumerate(side):
                total += weight * loops._NEARER**apart
                row = catalogue.row(item_key(f"i{number}"))
                if row >= 0:
                    votes[row] += weight * loops._NEARER**apart
    return {row: vote / total for row, vote in votes.items()}


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_those_of_plain_loops(seed):
    """For every channel and item of a small world; items without a vector and items that came twice are among them."""
    taken = histories(users=5, items=28, most=14, seed=seed)
    examples, catalogue = examples_of(taken, seed), make_catalogue(25)
    catalogue.apply([ItemVector("i3", deleted=True)])  # counted, and not in the catalogue, as are i25 to i27
    statistics = ItemStatistics()
    statistics.apply(examples)
    scorer = with_fitted(Scorer(Sizes(DIM)), catalogue, seed)
    counted = [(example.user_id, int(example.item_id[1:])) for example in examples]
    for history in ([5], [2, 7, 2, 9], [24, 1, 8, 8, 20, 11, 13, 5, 0, 4, 10], []):
        made = sums_of(scorer, statistics, catalogue, make_request(catalogue, [f"i{number}" for number in history]))
        wanted = plain_sums(scorer, statistics, catalogue, counted, history)

        assert len(CHANNELS) == made.shape[1]
        for channel, name in enumerate(CHANNELS):
            assert np.allclose(wanted[:, channel], made[:, channel], atol=2e-4), (name, history)
    assert (wanted == 0).all()


def test_the_sums_of_a_counted_table_do_not_go_beyond_its_strongest_partners():
    """Of an item among the newest more of them are read than of one before: the tables keep their width."""
    catalogue, statistics = make_catalogue(150), ItemStatistics()
    for user in range(130):
        statistics.apply(examples_of({f"u{user}": [0, 1 + user]}))
    scorer = Scorer.untrained(DIM)
    newest = sums_of(scorer, statistics, catalogue, make_request(catalogue, ["i0"]))
    older = sums_of(scorer, statistics, catalogue, make_request(catalogue, ["i0"] + ["i149"] * NEWEST))

    assert (loops.WIDE, loops.NARROW) == ((newest[:, 0] > 0).sum(), (older[:, 0] > 0).sum())


def test_who_is_most_alike_is_looked_at_first_however_many_are_level():
    """A hundred users took i0 alone with something; the one who took i1 too, long before them, says most."""
    catalogue, statistics = make_catalogue(300), ItemStatistics()
    statistics.apply(examples_of({"alike": [1, 0, 280]}))
    for user in range(110):
        statistics.apply(examples_of({f"u{user}": [0, 10 + user]}))
    sums = sums_of(Scorer.untrained(DIM), statistics, catalogue, make_request(catalogue, ["i1", "i0"]))

    assert catalogue.row(item_key("i280")) == np.where(np.arange(300) < 2, 0, sums[:, USERS]).argmax()


def test_the_largest_are_taken_though_others_are_level_before_them():
    """As many as are wanted, of those that are level the first."""
    for values, most, wanted in (
        ([5, 5, 5, 9], 2, [5, 9]), ([1, 2, 3], 5, [1, 2, 3]), ([7, 7], 1, [7]), ([1, 2], 0, []), ([], 3, []),
        ([3, 9, 3, 9, 1, 3], 4, [3, 9, 3, 9]),
    ):  # fmt: skip
        least, level = loops._bound(np.array(values, np.float32), most)
        taken = []
        for value in values:
            if value > least or (value == least and level > 0):
                level -= value == least
                taken.append(value)

        assert wanted == taken


# Candidates


class World:
    """A learnt world: users walk through 700 items."""

    def __init__(self, items: int = 700, users: int = 150) -> None:
        self.catalogue = make_catalogue(items)
        self.learner = Learner(self.catalogue, config=QUICK)
        self.learner.add(examples_of(histories(users, items, 30)))
        self.scorer = self.learner.fine_tune()
        self.statistics = self.learner.statistics
        self.requests = [
            make_request(self.catalogue, [f"i{number}" for number in taken[:LAST]])
            for taken in histories(60, items, 25, seed=1).values()
        ]

    @property
    def table(self) -> ItemTable:
        return self.scorer.table(self.statistics, self.catalogue)

    def batch(self):
        return batch_of(self.catalogue, self.requests)

    def dense(self, requests: list[Request]) -> torch.Tensor:
        """The linear score of every item, asked for as a sample; (B, n)."""
        n = len(self.catalogue)
        every = np.broadcast_to(np.arange(n, dtype=np.int32), (len(requests), n))
        return find(self.scorer.ranker, self.table, batch_of(self.catalogue, requests), every).linear[:, -n:]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_the_candidates_are_nearly_all_that_a_look_at_every_item_would_choose(world):
    """Of the dense best 128 most are among the candidates, and of the best twenty all but a few."""
    dense, found = world.dense(world.requests), rerank(world.scorer.ranker, world.table, world.batch())
    shares = {}
    for k in (20, CANDIDATES):
        best = dense.topk(k).indices
        hit = (best[:, :, None] == found.rows.masked_fill(~found.there, -1)[:, None]).any(2)
        shares[k] = float(hit.float().mean())

    assert shares[CANDIDATES] > 0.9
    assert shares[20] > 0.98


def test_what_is_found_of_an_item_is_what_the_sample_says_of_it(world):
    """The score of a candidate is that of the same item asked for as one of the sample."""
    dense, found = world.dense(world.requests), find(world.scorer.ranker, world.table, world.batch())
    C = found.linear.shape[1] - found.sampled
    rows, linear = found.candidates.rows[:, :C], found.linear[:, :C]
    there = found.candidates.there[:, :C]

    assert torch.allclose(dense.gather(1, rows)[there], linear[there], atol=1e-4)
    assert all(len(set(one[is_there].tolist())) == is_there.sum() for one, is_there in zip(rows, there))


# P(i | u, t)


def scaled(world: World) -> torch.Tensor:
    """The linear scores of all items, for P by its temperature."""
    return world.dense(world.requests) * world.scorer.ranker.temperature[0]


def exact_rest(world: World, scored) -> torch.Tensor:
    """The log of what all items weigh that are no candidates; (B,)."""
    dense, rows = scaled(world), scored.rows.masked_fill(~scored.there, len(world.catalogue))
    none = torch.full((len(dense), 1), -torch.inf)
    return torch.cat((dense, none), 1).scatter(1, rows, -torch.inf).logsumexp(1)


def test_with_every_item_in_the_sample_p_is_the_softmax_over_the_catalogue(world, monkeypatch):
    """What the candidates and the others weigh together is what the linear scores of all items make."""
    monkeypatch.setattr(table_module, "SAMPLE", len(world.catalogue))
    table = ItemTable(world.scorer, world.statistics, world.table.index)
    scored, dense = rerank(world.scorer.ranker, table, world.batch()), scaled(world)

    assert torch.allclose(exact_rest(world, scored), scored.rest, atol=1e-4)
    assert torch.allclose(dense.logsumexp(1), torch.logaddexp(scored.scores.logsumexp(1), scored.rest), atol=1e-4)
    inside = scored.probabilities(scored.scores, scored.scores).sum(1)
    assert torch.allclose((scored.rest - dense.logsumexp(1)).exp(), 1 - inside, atol=1e-4)


def test_the_sample_estimates_what_all_others_weigh(world):
    """On average over users and samples the log of it is a tenth from the exact one at most, for one user a half."""
    exact, errors = exact_rest(world, rerank(world.scorer.ranker, world.table, world.batch())), []
    random = np.random.default_rng(0)
    for _ in range(20):
        table = ItemTable(world.scorer, world.statistics, world.table.index)
        table.sample = np.sort(random.permutation(len(world.catalogue))[:SAMPLE]).astype(np.int32)
        errors.append(rerank(world.scorer.ranker, table, world.batch()).rest - exact)

    assert abs(float(torch.stack(errors).mean())) < 0.1
    assert float(torch.stack(errors).abs().mean()) < 0.5


def test_probabilities_make_one_over_what_may_be_listed():
    """In a world of which every item is a candidate, with items left out."""
    world = World(items=90, users=30)
    request = request_after(world.catalogue, [click(f"i{at}", at, "purchase") for at in range(40)])
    (list_,) = score(world.scorer, world.statistics, world.catalogue, [request], 90)

    assert {f"i{at}" for at in range(40, 90)} == set(ids(list_))
    assert sum(one.probability for one in list_) == pytest.approx(1, abs=1e-4)


def test_a_list_alone_is_the_list_in_a_micro_batch(world):
    """Bit by bit where it is read, to the last digits where it is multiplied."""
    users = [*world.requests, make_request(world.catalogue, []), make_request(world.catalogue, ["nowhere"])]
    together = score(world.scorer, world.statistics, world.catalogue, users, 20)
    for request, list_ in zip(users[::7], together[::7]):
        (alone,) = score(world.scorer, world.statistics, world.catalogue, [request], 20)
        by_id = {one.item_id: one.probability for one in alone}

        assert [one.probability for one in alone] == pytest.approx([one.probability for one in list_], rel=1e-3)
        assert all(
            by_id[one.item_id] == pytest.approx(one.probability, rel=1e-3) for one in list_ if one.item_id in by_id
        )
        assert len(by_id.keys() & set(ids(list_))) >= 19


# What must not be listed


def test_what_must_not_be_listed_is_not(world, monkeypatch):
    """Also what the network puts first, what is near, what is popular, what was had last, what is in the sample, and
    what a search asks for.
    """
    monkeypatch.setattr(table_module, "SAMPLE", len(world.catalogue))
    table = ItemTable(world.scorer, world.statistics, world.table.index)
    first = score(world.scorer, world.statistics, world.catalogue, world.requests[:10], 50)
    for list_ in first:
        events = [click(f"i{number}", number, "purchase") for number in range(40)]
        events += [click(item_id, 90 + at, "dislike") for at, item_id in enumerate(ids(list_))]
        search = click("i1", 200, "search", query="anything")
        for done in (events, [*events, search]):
            asked = request_after(world.catalogue, done, embed=lambda query: world.catalogue.vectors[0])
            scored = rerank(world.scorer.ranker, table, batch_of(world.catalogue, [asked]))
            disliked = world.catalogue.rows(item_key(item_id) for item_id in ids(list_))
            listed = scored.rows[0][scored.scores[0] > -torch.inf].tolist()
            (made,) = score(world.scorer, world.statistics, world.catalogue, [asked], 700)

            assert not set(disliked.tolist()) & set(listed)
            assert not set(ids(list_)) & set(ids(made))
            assert 20 == len(score(world.scorer, world.statistics, world.catalogue, [asked], 20)[0])
            assert done is not events or not {f"i{number}" for number in range(40)} & set(ids(made))


# The hash table


def colliding(count: int) -> list[int]:
    """Items that would all stand in one of a few slots next to each other, also around the end of the table."""
    rows = np.arange(60_000_000 // 50)
    slots = (rows * 2654435761 >> 12) & (loops._SLOTS - 1)
    return rows[(slots < 3) | (slots >= loops._SLOTS - 3)][:count].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_the_hash_table_finds_every_item_and_is_empty_once_it_is_cleared(seed):
    """However many items want the same slots; cleared and filled again and again."""
    random = np.random.default_rng(seed)
    slots, rows = np.full(loops._SLOTS, -1, np.int32), np.zeros(loops._MOST, np.int32)
    sums, many = np.zeros((loops._MOST, 1), np.float32), colliding(400)
    for _ in range(5):
        wanted = random.permutation([*random.choice(many, 250, replace=False), *random.integers(0, 10**6, 3_000)])
        places, count = {}, 0
        for row in wanted.tolist():
            at, count = loops._enter(slots, rows, sums, count, row)
            assert at == places.setdefault(row, len(places))
            sums[at] += 1
        assert count == len(places)
        assert all(places[row] == loops.slot_of(slots, rows, row) for row in places)
        assert all(-1 == loops.slot_of(slots, rows, row) for row in many if row not in places)
        assert sums[:count, 0].tolist() == [(wanted == row).sum() for row in places]
        loops._clear(slots, rows, count)
        assert (slots == -1).all()


def test_a_full_hash_table_takes_no_more():
    """What is in it is still found; what is not is told to have no place."""
    slots, rows = np.full(loops._SLOTS, -1, np.int32), np.zeros(loops._MOST, np.int32)
    sums, count = np.zeros((loops._MOST, 1), np.float32), 0
    for row in range(loops._MOST + 5):
        at, count = loops._enter(slots, rows, sums, count, row)
        assert at == (row if row < loops._MOST else -1)

    assert loops._MOST == count
    assert -1 == loops.slot_of(slots, rows, loops._MOST)
    assert 7 == loops._enter(slots, rows, sums, count, 7)[0]
    assert 0 <= loops._hash(2**31 - 1) < loops._SLOTS


def test_each_thread_has_a_workspace_of_its_own():
    """Versions are tried beside the lists: neither may write into the sums of the other."""
    others: list = []
    thread = Thread(target=lambda: others.append(_space(3)))
    thread.start()
    thread.join()

    assert _space(3) is _space(2)
    assert others[0] is not _space(3)


# The table of the items


def random_scorer(catalogue: Catalogue, seed: int) -> Scorer:
    """Random weights, ids for some items, fitted tables, some items that were there when learning began."""
    torch.manual_seed(seed)
    scorer = Scorer(Sizes(DIM, width=8), 20)
    for weight in scorer.network.parameters():
        torch.nn.init.normal_(weight)
    scorer.keys = torch.from_numpy(catalogue.keys[10:30].view(np.int64).copy())
    scorer.settled = torch.from_numpy(np.sort(catalogue.keys[:40]).view(np.int64).copy())
    scorer.learnt.fill_(1)
    return with_fitted(scorer, catalogue, seed)


def plain_row(table: ItemTable, row: int) -> dict[str, object]:
    """What a table must hold of an item, from the scorer, the statistics and the catalogue themselves."""
    scorer, statistics, catalogue = table.scorer, table.statistics, table.index.catalogue
    key = int(catalogue.keys[row])
    counted = statistics.row_of.get(key, -1)
    trained = scorer.keys.numpy().view(np.uint64).tolist()
    trained = trained.index(key) if key in trained else -1
    network, chosen = scorer.network, statistics.popularity()[counted] if counted >= 0 else np.zeros(len(HALF_LIVES))
    vector = network.project(torch.from_numpy(catalogue.vectors[row]))
    if trained >= 0:
        vector = network.items(vector[None], network.ids[trained][None], torch.tensor([chosen[EVER]]).float())[0]
    raw = statistics.items.chosen[counted, HALF_LIFE_2K] if counted >= 0 else 0.0
    bias = network.popularity.item() * math.log(raw + table._unseen)
    return {
        "statistics_row": counted, "trained_row": trained, "_keys": key,
        "_late": key not in scorer.settled.numpy().view(np.uint64).tolist(), "_items": vector.detach().numpy(),
        "_bias": bias + (network.bias[trained].item() if trained >= 0 else 0.0),
    }  # fmt: skip


def assert_as_anew(table: ItemTable) -> None:
    """Column by column what plain loops make, and what a table holds that is made now."""
    table.sync()
    anew, n, catalogue = ItemTable(table.scorer, table.statistics, table.index), len(table), table.index.catalogue
    assert n == len(anew) == len(catalogue)
    for row in range(n):
        for name, value in plain_row(table, row).items():
            assert np.allclose(value, getattr(table, name)[row], atol=1e-4) and value == pytest.approx(
                getattr(table, name)[row], abs=1e-3
            ), (name, row)
    statistics, popularity = table.statistics, table.statistics.popularity()
    assert catalogue.rows(statistics.keys).tolist() == table.catalogue_row[: len(statistics)].tolist()
    for name in ("sample", "new"):
        assert getattr(anew, name).tolist() == getattr(table, name).tolist()
    late = [row for row in range(n) if table._late[row]]
    hardly = [row for row in late if table.chosen(np.array([row]), EVER)[0] < KNOWN]
    assert (hardly if table.scorer.is_trained else []) == table.new.tolist()
    assert anew.fitted_row[:n].tolist() == table.fitted_row[:n].tolist()
    assert all(np.array_equal(*pair) for name in anew.fitted for pair in zip(anew.fitted[name], table.fitted[name]))
    rows = table.statistics_row[table.heads]
    assert (rows >= 0).all() and len(set(table.heads.tolist())) == len(table.heads)
    there = table.catalogue_row[: len(statistics)] >= 0
    for by in (HALF_LIFE_20K, HALF_LIFE_2K, HALF_LIFE_200, FIRST_5, FIRST_20):
        wanted = np.sort(popularity[there, by])[::-1][: table_module.HEADS]
        assert np.allclose(np.sort(popularity[rows, by])[::-1][: len(wanted)], wanted, rtol=1e-9)
    if table.searched is not None:
        assert np.array_equal(np.unique(table.searched), table.searched) and table.searched.max() < n
        assert len(table.searched_items()) == len(table.searched) == table_module.EXACT_NETWORK


@pytest.mark.parametrize("seed", range(8))
def test_a_table_that_followed_is_one_made_anew(seed, monkeypatch):
    """Items come, change, go and come again, examples of known and unknown items are counted, users are forgotten, in
    any order, seen by the table now and then: nothing of before is left in it.
    """
    monkeypatch.setattr(table_module, "HEADS", 6)
    monkeypatch.setattr(table_module, "EXACT_NETWORK", 60 if seed % 2 else 10_000)
    random, catalogue, statistics = np.random.default_rng(seed), make_catalogue(50), ItemStatistics()
    scorer, number = random_scorer(catalogue, seed), 0
    table = scorer.table(statistics, catalogue)
    for step in range(80):
        some = random.integers(0, 110, random.integers(1, 12)).tolist()
        done = random.choice(["put", "delete", "count", "count", "count", "forget"])
        if done == "put":
            catalogue.apply(item(one, at=step) for one in some)
        elif done == "delete":
            catalogue.apply(ItemVector(f"i{one}", deleted=True) for one in some)
        elif done == "forget":
            statistics.forget(f"u{random.integers(8)}")
        else:
            for one in some * (20 if step % 16 == 15 else 1):
                statistics.apply([Example(f"u{random.integers(8)}", f"e{number}", 9_000 * number, f"i{one}", "", b"")])
                number += 1
        if random.random() < 0.4:
            assert table is scorer.table(statistics, catalogue)
        if step % 10 == 9:
            assert_as_anew(table)


def test_a_table_follows_beyond_the_events_after_which_weights_have_a_new_base():
    """Weights of popularities are brought to a new base now and then, and what every item is given fades."""
    catalogue, statistics = make_catalogue(40), ItemStatistics()
    scorer = random_scorer(catalogue, 0)
    table = scorer.table(statistics, catalogue)
    for start in range(0, 30_000, 1_500):
        statistics.apply(
            Example(f"u{at % 700}", f"e{at}", 9_000 * at, f"i{at * 7 % 45}", "", b"")
            for at in range(start, start + 1_500)
        )
        table.sync()
        assert_as_anew(table)
        unseen = UNSEEN / statistics.factors()[HALF_LIFE_2K]
        assert 0.5 <= table._unseen / unseen <= 1.0


def test_a_table_of_another_encoder_is_another_one():
    catalogue, statistics = make_catalogue(30), ItemStatistics()
    scorer = Scorer.untrained(DIM)
    before = scorer.table(statistics, catalogue)
    catalogue.apply(item(number, 1, "other") for number in range(30))
    after = scorer.table(statistics, catalogue)

    assert before is not after
    assert_as_anew(after)


def test_every_counted_table_is_a_channel():
    assert tuple(PAIRS) == CHANNELS[:TABLES]
