"""What a list is: a probability over the catalogue, an order, reasons, whatever the requests look like."""

import copy
import gc
import math
import weakref

import numpy as np
import pytest
import torch
from msgspec import structs

from model import registry
from model.catalogue import Catalogue
from model.evaluate import Users
from model.finetune import Learner
from model.interest import Rules
from model.schema import Event, Example, ItemVector, RecommendedItem, Request, VersionError
from model.score import FITTED, Scorer, index_of, load, save, score, try_out
from model.scoring.batch import gap_number
from model.signals import SIGNALS
from model.statistics import PAIRS, ItemStatistics

DIM, ITEMS = 16, 30
NOTHING = ItemStatistics()
"""Nobody has chosen anything."""
torch.set_num_threads(1)  # the tensors are tiny


def make_catalogue(items: int = ITEMS, version: str = "enc-1", dim: int = DIM) -> Catalogue:
    """Items i0, i1, ...: even ones are near to each other by text, and so are odd ones."""
    random = np.random.default_rng(3)
    tastes = np.linalg.qr(random.standard_normal((dim, 2)))[0].T
    catalogue = Catalogue()
    for number in range(items):
        vector = tastes[number % 2] + 0.2 * random.standard_normal(dim) / np.sqrt(dim)
        catalogue.apply([ItemVector(f"i{number}", version, (vector / np.linalg.norm(vector)).astype("<f2").tobytes())])
    return catalogue


def make_request(catalogue: Catalogue, items: list[str], at_ms: int = 1_000_000, user: str = "u") -> Request:
    """A user who clicked these items, one a second; items without a vector stay pending."""
    return request_after(catalogue, [click(item_id, number) for number, item_id in enumerate(items)], at_ms, user)


def click(item_id: str, number: int, action: str = "click", **more) -> Event:
    """The n-th event of a user, n seconds after the start."""
    return Event(f"e{number}", "u", action, 1_000 * number, item_id, **more)


def request_after(
    catalogue: Catalogue, events: list[Event], at_ms: int = 1_000_000, user_id: str = "u", embed=None
) -> Request:
    """What is asked for a user after these events; `embed` gives the encoder's vector of a query."""
    users = Users(catalogue, embed_query=embed or (lambda query: None))
    for event in events:
        users.ask(event)
    asked = users.request(Event(f"e{len(events)}", "u", "view", at_ms, "i0"))
    return structs.replace(asked, user_id=user_id, versions=["v1"], variant="a")


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return make_catalogue()


@pytest.fixture(scope="module")
def learner(catalogue: Catalogue) -> Learner:
    """It has learnt from users who stay with the even items and users who stay with the odd ones."""
    random, learner, examples = np.random.default_rng(0), Learner(catalogue), list[Example]()
    for user in range(60):
        items = [f"i{2 * number + user % 2}" for number in random.permutation(ITEMS // 2)[:8]]
        for at in range(1, len(items)):
            request = make_request(catalogue, items[:at])
            examples.append(Example(f"u{user}", f"u{user}-{at}", 1_000 * at, items[at], "click", request.interests))
    learner.add(examples)
    learner.fine_tune()
    return learner


@pytest.fixture(scope="module")
def trained(learner: Learner) -> Scorer:
    return learner.fine_tune()


@pytest.fixture(scope="module")
def statistics(learner: Learner) -> ItemStatistics:
    return learner.statistics


@pytest.fixture(scope="module")
def requests(catalogue: Catalogue) -> list[Request]:
    histories = [["i0", "i2"], [], ["i1"], ["nowhere"], ["i3", "nowhere", "i5"], [f"i{number}" for number in range(25)]]
    return [make_request(catalogue, items, user=f"u{at}") for at, items in enumerate(histories)]


def ids(list_) -> list[str]:
    return [item.item_id for item in list_]


@pytest.mark.parametrize("which", ["untrained", "trained"])
def test_a_list_holds_probabilities_best_first(which, catalogue, trained, statistics, requests):
    """The whole catalogue's probabilities sum to 1, are never NaN, and fall from place to place."""
    scorer = trained if which == "trained" else Scorer.untrained(DIM)
    for list_ in score(scorer, statistics, catalogue, requests, 2 * ITEMS):
        chances = [item.probability for item in list_]

        assert all(math.isfinite(chance) and chance > 0 for chance in chances)
        assert sum(chances) == pytest.approx(1, abs=1e-4)
        assert chances == sorted(chances, reverse=True)


def test_what_a_user_said_outright_is_left_out_before_the_probabilities_are_normalised(catalogue, trained, statistics):
    """Items that were bought or disliked are not on the list, and the others share the whole probability; one that was
    only clicked may come again, and where nothing is left out all of them do.
    """
    request = request_after(catalogue, [click("i0", 0), click("i2", 1, "purchase"), click("i4", 2, "dislike")])
    (without,), (with_,) = (
        score(trained, statistics, catalogue, [request], ITEMS, rules) for rules in (Rules(), Rules(exclude_s={}))
    )

    assert set(catalogue.item_ids) - {"i2", "i4"} == set(ids(without))
    assert len(with_) == ITEMS
    assert sum(item.probability for item in without) == pytest.approx(1, abs=1e-4)


def test_what_was_bought_comes_back_when_its_time_is_over(catalogue, trained, statistics):
    """A purchase is left out for 30 days from when it was made, by the time of the list; a dislike for ever."""
    events, day_ms = [click("i2", 0, "purchase"), click("i4", 1, "dislike")], 86_400_000
    requests = [request_after(catalogue, events, days * day_ms) for days in (29, 31, 9_999)]

    assert [{"i2", "i4"}, {"i4"}, {"i4"}] == [
        set(catalogue.item_ids) - set(ids(list_)) for list_ in score(trained, statistics, catalogue, requests, ITEMS)
    ]


def test_a_user_who_bought_everything_gets_an_empty_list(catalogue, trained, statistics):
    everything = [click(item_id, at, "purchase") for at, item_id in enumerate(catalogue.item_ids)]
    assert [[]] == score(trained, statistics, catalogue, [request_after(catalogue, everything)], 5)


@pytest.mark.parametrize("which", ["untrained", "trained"])
def test_a_micro_batch_gives_what_one_by_one_gives(which, catalogue, trained, statistics, requests):
    """Who else is in the micro-batch changes nothing."""
    scorer = trained if which == "trained" else Scorer.untrained(DIM)
    together = score(scorer, statistics, catalogue, requests, 5)
    alone = [score(scorer, statistics, catalogue, [request], 5)[0] for request in requests]
    for one, other in zip(together, alone):
        assert [item.probability for item in one] == pytest.approx([item.probability for item in other], rel=1e-4)
        assert ids(one) == ids(other) or len({round(item.probability, 5) for item in one}) < 5


def test_lists_are_the_same_with_and_without_reasons(catalogue, trained, statistics, requests):
    """Who only judges asks for no reasons, and gets the same items and probabilities."""
    explained, plain = (
        score(trained, statistics, catalogue, requests, 5, explained=wanted) for wanted in (True, False)
    )

    assert [[(item.item_id, item.probability) for item in list_] for list_ in explained] == [
        [(item.item_id, item.probability) for item in list_] for list_ in plain
    ]
    assert any(item.reasons for list_ in explained for item in list_)
    assert not any(item.reasons for list_ in plain for item in list_)


def test_scoring_changes_neither_requests_nor_scorer(catalogue, trained, statistics, requests):
    """The input is unchanged, and the same call gives the same lists, reasons and all."""
    before, weights = list(requests), copy.deepcopy(trained.state_dict())
    first = score(trained, statistics, catalogue, requests, 5)

    assert first == score(trained, statistics, catalogue, requests, 5)
    assert before == requests
    assert all(torch.equal(weights[name], tensor) for name, tensor in trained.state_dict().items())


def test_an_empty_catalogue_gives_empty_lists(requests):
    assert [[]] * len(requests) == score(Scorer.untrained(DIM), NOTHING, Catalogue(), requests, 5)
    assert [] == score(Scorer.untrained(DIM), NOTHING, make_catalogue(2), [], 5)
    assert 0 == len(Scorer.untrained(0).table(NOTHING, Catalogue()))


def test_one_item_is_certain():
    catalogue = make_catalogue(1)
    ((item,),) = score(Scorer.untrained(DIM), NOTHING, catalogue, [make_request(catalogue, [])], 5)

    assert ("i0", 1.0) == (item.item_id, pytest.approx(1))


def test_a_list_is_as_long_as_is_asked_for_whatever_is_known():
    """A new user before anything is counted, after a little is, and one who had and bought much of the catalogue: each
    is told of k items while there are as many that may be listed, also of more than are ordered otherwise.
    """
    catalogue, statistics = make_catalogue(400), ItemStatistics()
    statistics.apply([Example(f"u{at}", f"e{at}", 1_000 * at, f"i{at % 3}", "click", b"") for at in range(9)])
    bought = request_after(catalogue, [click(f"i{at}", at, "purchase") for at in range(390, 190, -1)])
    requests = [make_request(catalogue, []), make_request(catalogue, ["i0", "nowhere"]), bought]
    for counted in (NOTHING, statistics):
        for k, wanted in ((20, [20, 20, 20]), (200, [200, 200, 200]), (1_000, [400, 400, 200])):
            lists = score(Scorer.untrained(DIM), counted, catalogue, requests, k)

            assert wanted == [len(list_) for list_ in lists]
            assert all(len(set(ids(list_))) == len(list_) for list_ in lists)
            assert not {f"i{at}" for at in range(191, 391)} & set(ids(lists[2]))
            try_out(Scorer.untrained(DIM), catalogue, k, Rules())


def test_before_any_version_text_alone_finds_the_taste(catalogue):
    """The untrained scorer recommends even items to who clicked even ones, and says which interest and event did it."""
    (list_,) = score(Scorer.untrained(DIM), NOTHING, catalogue, [make_request(catalogue, ["i0", "i2"])], 5)

    assert all(int(item.item_id[1:]) % 2 == 0 for item in list_)
    assert list_[0].reasons[0].signal == "interest"
    assert list_[0].reasons[0].interest == 0
    assert set(list_[0].reasons[0].items) <= {"i0", "i2"}


def test_a_new_item_is_found_by_its_text(trained, statistics):
    """An item that came after the version was learnt is recommended to the taste that it belongs to."""
    catalogue = make_catalogue(ITEMS + 2)
    (list_,) = score(trained, statistics, catalogue, [make_request(catalogue, ["i0", "i2", "i4"])], ITEMS + 2)

    assert ids(list_).index(f"i{ITEMS}") < ids(list_).index(f"i{ITEMS + 1}")


def test_events_on_unknown_items_are_skipped(catalogue, trained, statistics):
    """A history with an unknown item gives the list of the history without it."""
    known, unknown = (make_request(catalogue, items) for items in (["i1", "i3"], ["i1", "i3", "nowhere"]))
    assert ids(score(Scorer.untrained(DIM), NOTHING, catalogue, [known], 5)[0]) == ids(
        score(Scorer.untrained(DIM), NOTHING, catalogue, [unknown], 5)[0]
    )


def test_an_item_that_got_its_vector_late_counts_as_soon_as_it_has_it():
    """A pending event is resolved against the catalogue before scoring; so are all after a change of encoder."""
    small, large = make_catalogue(2), make_catalogue(ITEMS)
    pending = make_request(small, ["i9", "i11"])
    (list_,) = score(Scorer.untrained(DIM), NOTHING, large, [pending], 5)
    assert all(int(item.item_id[1:]) % 2 == 1 for item in list_)

    other = make_catalogue(ITEMS, "enc-2")
    (rebuilt,) = score(Scorer.untrained(DIM), NOTHING, other, [make_request(large, ["i9", "i11"])], 5)
    assert all(int(item.item_id[1:]) % 2 == 1 for item in rebuilt)


def test_reasons_name_signals_and_the_users_own_events(catalogue, trained, statistics):
    """Shares are of the whole score; the items given are of the user's history."""
    history = ["i0", "i2", "i4"]
    (list_,) = score(trained, statistics, catalogue, [make_request(catalogue, history)], 5)
    for item in list_:
        assert item.reasons
        for reason in item.reasons:
            assert reason.signal in SIGNALS
            assert 0 < reason.share <= 1
            assert set(reason.items) <= set(history)


def test_a_saved_version_gives_the_same_lists(tmp_path, catalogue, trained, statistics, requests):
    path = save(trained, str(tmp_path), "v1", {"parent": ""})
    assert score(trained, statistics, catalogue, requests, 5) == score(load(path), statistics, catalogue, requests, 5)
    untrained = save(Scorer.untrained(DIM), str(tmp_path), "v0", {})
    assert len(score(load(untrained), statistics, catalogue, requests, 5)) == len(requests)


def test_a_version_that_cannot_be_read_says_why(tmp_path, catalogue, trained, statistics):
    """Cut short, of another layout, of another shape, of another encoder: each names the path and what to do."""
    path = save(trained, str(tmp_path), "v1", {})
    tensors, about = registry.read(path)
    registry.write(str(tmp_path), "layout", tensors, about | {"layout": 99})
    with pytest.raises(VersionError, match=r"layout 99 .* can be read: fine-tune a new version"):
        load(f"{tmp_path}/layout")
    registry.write(str(tmp_path), "shape", tensors | {"network.bias": torch.zeros(3)}, about)
    with pytest.raises(VersionError, match="its tensors do not fit its sizes"):
        load(f"{tmp_path}/shape")
    registry.write(str(tmp_path), "empty", {"other": torch.zeros(3)}, about)
    with pytest.raises(VersionError, match="its tensors do not fit its sizes"):
        load(f"{tmp_path}/empty")
    (tmp_path / "v1" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(VersionError, match="write it again"):
        load(path)
    with pytest.raises(
        VersionError, match=r"vectors of enc-1 \(16 dimensions\), the catalogue has those of wide \(24\)"
    ):
        score(trained, statistics, make_catalogue(4, "wide", 24), [make_request(catalogue, [])], 3)
    with pytest.raises(VersionError, match="fine-tune a version with this encoder"):
        trained.table(statistics, make_catalogue(4, "enc-2"))


def test_the_item_table_follows_the_catalogue_and_is_made_once():
    """What changes is taken in; another catalogue or other statistics have a table of their own."""
    scorer, other, statistics = Scorer.untrained(DIM), make_catalogue(4), ItemStatistics()
    first = scorer.table(statistics, other)
    other.apply([ItemVector("i0", deleted=True)])

    assert first is scorer.table(statistics, other)
    assert 3 == len(first) == len(first.items)
    assert first is not scorer.table(ItemStatistics(), other)
    assert first is not scorer.table(statistics, make_catalogue(4))


def test_a_table_made_from_weights_of_before_is_dropped(catalogue, trained, statistics):
    """Whoever has changed the weights says so; what a copy of a scorer computes is its own."""
    scorer = copy.deepcopy(trained)
    before = scorer.table(statistics, catalogue)
    scorer.network.project.weight.data *= 2
    scorer.changed()
    after = scorer.table(statistics, catalogue)

    assert before is not after
    assert torch.allclose(2 * torch.from_numpy(before._text[:ITEMS]), torch.from_numpy(after._text[:ITEMS]), atol=1e-5)


def test_there_is_one_index_of_a_catalogue_and_it_goes_with_it():
    """All scorers share it; when nobody holds the catalogue any more both are gone."""
    catalogue = make_catalogue(4)
    tables = [Scorer.untrained(DIM).table(NOTHING, catalogue) for _ in range(2)]
    gone = weakref.ref(catalogue)

    assert tables[0].index is tables[1].index is index_of(catalogue)
    del catalogue, tables
    gc.collect()
    assert gone() is None


def test_gaps_are_numbered_by_their_logarithm():
    assert [0, 0, 1, 2, 38] == gap_number(np.array([-5, 0, 1_000, 3_000, 2**62])).tolist()


def test_every_counted_and_every_fitted_table_has_a_signal():
    assert {*PAIRS, *FITTED} <= set(SIGNALS)


def test_what_makes_lists_passes_its_trial(catalogue, trained, statistics):
    """A trained version and an untrained one, with items or with none yet, whatever the length of a list."""
    for scorer in (trained, Scorer.untrained(DIM)):
        for items, k in ((catalogue, 10), (catalogue, 1_000), (Catalogue(), 10)):
            try_out(scorer, items, k, Rules())


@pytest.mark.parametrize("chances", [[], [0.5] * 9, [math.nan] * 10, [0.5] * 9 + [1.5]])
def test_a_version_that_makes_no_lists_fails_its_trial(catalogue, trained, statistics, monkeypatch, chances):
    """None, too short, or with what is no probability: it is refused before anybody has seen a list of it."""
    list_ = [RecommendedItem(f"i{number}", chance) for number, chance in enumerate(chances)]
    monkeypatch.setattr(
        "model.score.score", lambda scorer, statistics, catalogue, requests, *rest: [list_ for _ in requests]
    )

    with pytest.raises(VersionError, match="its lists on 30 items are none"):
        try_out(trained, catalogue, 10, Rules())


@pytest.mark.parametrize("number", [math.nan, math.inf, -1e30])
def test_a_version_with_weights_that_are_no_numbers_is_refused(tmp_path, trained, statistics, number):
    """And those that are so large that nothing can be computed from them: an item may have them that is not among those
    on which a version is tried.
    """
    for name in ("network.bias", "network.ids", "ease_weights"):
        broken = with_fitted(trained)
        broken.state_dict()[name].flatten()[0] = number

        with pytest.raises(VersionError, match=f"{name} hold what is no number"):
            load(save(broken, str(tmp_path), "v1", {}))


def with_fitted(scorer: Scorer) -> Scorer:
    """A copy with fitted tables: each of two items leads to the other."""
    copied = copy.deepcopy(scorer)
    copied.fitted_keys = copied.keys[:2].clone()
    for name in FITTED:
        setattr(copied, f"{name}_items", torch.tensor([[1, -1], [0, -1]], dtype=torch.int32))
        setattr(copied, f"{name}_weights", torch.tensor([[0.5, 0.0], [0.25, 0.0]]))
    return copied


BROKEN = {
    "keys": lambda table: table.float(), "settled": lambda table: table.float(), "learnt": lambda table: table[None],
    "fitted_keys": lambda table: table[:-1], "ease_items": lambda table: table - 2,
    "taste_items": lambda table: table + 1, "ease_weights": lambda table: table[:, :-1],
    "taste_weights": lambda table: table.double(),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_version_whose_tables_lead_nowhere_is_refused(tmp_path, trained, name):
    """Rows that are not there, other shapes, other types: on a GPU they end the process, on none they make lists."""
    path = save(with_fitted(trained), str(tmp_path), "v1", {})
    load(path)
    tensors, about = registry.read(path)
    registry.write(str(tmp_path), "v1", tensors | {name: BROKEN[name](tensors[name]).contiguous()}, about)

    told = {"fitted_keys": "ease"}.get(name, name.removesuffix("_items").removesuffix("_weights"))
    with pytest.raises(VersionError, match=f"v1: {told}.* (no tables of|hold what is no number)"):
        load(path)


@pytest.mark.parametrize("sizes", [{"heads": 0}, {"dim": -1}, {"width": 3}, {"layers": "x"}, {"dim": 10**30}, [], None])
def test_a_version_of_impossible_sizes_is_refused(tmp_path, trained, statistics, sizes):
    """Whatever torch says of them."""
    tensors, about = registry.read(save(trained, str(tmp_path), "v1", {}))
    sizes = about["sizes"] | sizes if isinstance(sizes, dict) else sizes
    registry.write(str(tmp_path), "v1", tensors, about | {"sizes": sizes})

    with pytest.raises(VersionError, match="its tensors do not fit its sizes"):
        load(f"{tmp_path}/v1")
