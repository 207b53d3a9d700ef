"""Lists that are not simply the best: diverse, with quotas, exploring with propensities that are what they say."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from msgspec import UNSET, structs

import udfs.replica
import udfs.statistics
import udfs.texts
import udfs.worker
from jobs.settings import Settings, SettingsError
from jobs.settings import load as read_settings
from model.bounds import SlateConfig
from model.evaluate import ALONE, FROZEN, GREEDY, LIVE, NETWORK, Headrace, Protocol, Users, evaluate
from model.finetune import Learner
from model.interest import Rules
from model.learning import laplace
from model.metrics import intra_list_distance
from model.schema import Example, RecommendedItem, Request, VersionError, encode_json, item_key
from model.score import PRECISION, Scorer, load, save, score
from model.scoring.bandit import SAMPLES
from model.scoring.network import Sizes
from model.scoring.slate import Slate
from model.statistics import ItemStatistics
from tests.test_evaluate import make_events
from tests.test_score import DIM, ITEMS, click, ids, make_catalogue, make_request, request_after
from tests.test_udfs import DIM as UDF_DIM
from tests.test_udfs import FOLLOWS, VERSION, FakeFollower, FakeMetrics, FakeStatistics
from udfs.score import ListConfig, Score

K = 10
CATALOGUE = make_catalogue()
CATEGORIES = {item_key(f"i{number}"): ["even", "odd"][number % 2 : number % 2 + 1] for number in range(ITEMS)}
CHOSEN = [f"i{number}" for number in range(0, ITEMS, 3)]
"""Items that were chosen 30 times; nobody chose the others."""


@pytest.fixture(scope="module")
def learner() -> Learner:
    """Users stay with the even items or with the odd ones."""
    learner, examples = Learner(make_catalogue()), list[Example]()
    learner.use_uncertainty()
    random = np.random.default_rng(0)
    for user in range(60):
        items = [f"i{2 * number + user % 2}" for number in random.permutation(ITEMS // 2)[:8]]
        for at in range(1, len(items)):
            interests = make_request(CATALOGUE, items[:at]).interests
            examples.append(Example(f"u{user}", f"u{user}-{at}", 1_000 * at, items[at], "click", interests))
    learner.add(examples)
    learner.fine_tune()
    return learner


@pytest.fixture(scope="module")
def trained(learner) -> Scorer:
    return learner.fine_tune()


def statistics() -> ItemStatistics:
    made = ItemStatistics()
    made.apply([Example(f"v{user}", f"v{user}-{item}", 1_000, item, "view") for item in CHOSEN for user in range(30)])
    return made


def requests_of(events: int) -> list[Request]:
    """A user after two clicks on even items, asked after each of so many events."""
    request = make_request(CATALOGUE, ["i0", "i2"])
    return [structs.replace(request, event_id=f"event-{number}") for number in range(events)]


def known_user() -> list[Request]:
    """Of a user after five clicks on even items, who is new no more."""
    return [make_request(CATALOGUE, [f"i{number}" for number in range(0, 10, 2)])]


def listed(
    scorer: Scorer, config: SlateConfig | None, asked: list[Request], counted: ItemStatistics | None = None
) -> list[list[RecommendedItem]]:
    """Lists of K, made as a config says."""
    scorer.slate = None if config is None else Slate(config, CATEGORIES)
    try:
        return score(scorer, counted or ItemStatistics(), CATALOGUE, asked, K)
    finally:
        scorer.slate = None


def test_a_slate_that_asks_for_nothing_lists_what_is_best(trained):
    """To the last bit, propensities apart, of which there are none."""
    asked = requests_of(3)

    assert listed(trained, None, asked) == listed(trained, SlateConfig(), asked)
    assert all(item.propensity is UNSET for list_ in listed(trained, None, asked) for item in list_)
    assert b"propensity" not in encode_json(listed(trained, None, asked)[0][0])


def test_probabilities_are_the_models_whatever_is_listed(trained):
    [best] = score(trained, ItemStatistics(), CATALOGUE, requests_of(1), ITEMS)
    every = {item.item_id: item.probability for item in best}
    for config in (SlateConfig(diversity=0.5), SlateConfig(quota_category=0.5), SlateConfig(explore="epsilon")):
        [made] = listed(trained, config, requests_of(1))

        assert [item.probability for item in made] == pytest.approx([every[item.item_id] for item in made], rel=1e-4)


def test_the_more_diverse_the_further_apart(trained):
    """The best stays the first; every list is full and names an item once."""
    distances = []
    for diversity in (0.0, 0.3, 0.6, 1.0):
        [made] = listed(trained, SlateConfig(diversity=diversity), requests_of(1))
        assert K == len(set(ids(made)))
        assert ids(listed(trained, None, requests_of(1))[0])[0] == ids(made)[0]
        rows = CATALOGUE.rows(map(item_key, ids(made)))[None]
        distances.append(intra_list_distance(rows, CATALOGUE.vectors))

    assert distances == sorted(distances)
    assert distances[-1] > distances[0] + 0.2


def test_the_second_item_is_the_one_that_marginal_relevance_names(trained):
    """Recomputed from its definition: (1 - d) relevance - d cosine with the first, over the first 64 scores."""
    diversity = 0.4
    every = score(trained, ItemStatistics(), CATALOGUE, requests_of(1), ITEMS)[0]
    logs = np.log([item.probability for item in every])
    relevance = (logs - logs.min()) / (logs.max() - logs.min())
    vectors = CATALOGUE.interest_vectors - CATALOGUE.interest_vectors.mean(0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    of = vectors[CATALOGUE.rows(map(item_key, ids(every)))]
    value = (1 - diversity) * relevance - diversity * (of @ of[0])
    value[0] = -np.inf

    [made] = listed(trained, SlateConfig(diversity=diversity), requests_of(1))
    assert every[int(value.argmax())].item_id == made[1].item_id


@pytest.mark.parametrize("share, most", [(0.5, 5), (0.3, 3), (0.01, 1)])
def test_no_category_has_more_than_its_share(trained, share, most):
    """Where there are only two categories, a list is filled nevertheless."""
    counts = Counter(CATEGORIES[item_key(item)][0] for item in ids(listed(trained, None, requests_of(1))[0]))
    [made] = listed(trained, SlateConfig(quota_category=share), requests_of(1))
    kept = Counter(CATEGORIES[item_key(item)][0] for item in ids(made)[: 2 * most])

    assert max(counts.values()) > 5
    assert {"even": most, "odd": most} == kept
    assert K == len(set(ids(made)))


def test_an_item_without_a_category_fills_any_place(trained):
    trained.slate = Slate(SlateConfig(quota_category=0.1), {})
    [made] = score(trained, ItemStatistics(), CATALOGUE, requests_of(1), K)
    trained.slate = None

    assert listed(trained, None, requests_of(1))[0] == made


def test_so_many_items_are_hardly_ever_chosen():
    """They take the last places, and no more of them than must."""
    scorer, counted = Scorer.untrained(DIM), statistics()
    for least in (1, 3, K):
        made = ids(listed(scorer, SlateConfig(quota_new=least), known_user(), counted)[0])
        assert least <= sum(item not in CHOSEN for item in made)
        assert K == len(set(made))


def test_a_setting_says_what_is_hardly_ever_chosen():
    """Everything is, below more choices than anything has: then lists are the best ones."""
    scorer, counted = Scorer.untrained(DIM), statistics()
    [best] = listed(scorer, None, known_user(), counted)
    [made] = listed(scorer, SlateConfig(quota_new=K, quota_new_below=31), known_user(), counted)

    assert ids(best) == ids(made)
    assert set(CHOSEN) & set(ids(best))


def test_rarely_chosen_items_that_are_no_candidates_are_looked_for(monkeypatch):
    """Two items are candidates, and both were chosen often: one near to the interest follows, the last, as new."""
    monkeypatch.setattr("model.scoring.ranker.CANDIDATES", 1)
    scorer, counted = Scorer.untrained(DIM), ItemStatistics()
    [plain] = score(scorer, counted, CATALOGUE, known_user(), 2)
    often = [Example(f"v{user}", f"v{user}-{item}", 1_000, item, "view") for item in ids(plain) for user in range(30)]
    counted.apply(often)
    scorer.slate = Slate(SlateConfig(quota_new=1), {})
    [made] = score(scorer, counted, CATALOGUE, known_user(), 2)

    assert ids(plain)[0] == ids(made)[0]
    assert ids(made)[1] not in ids(plain)
    assert "even" == CATEGORIES[item_key(ids(made)[1])][0]
    assert 0 < made[1].probability < made[0].probability
    assert ["new"] == [reason.signal for reason in made[1].reasons]


def test_a_new_users_list_has_no_places_for_what_is_hardly_chosen():
    """Of a user with fewer than five events nobody knows which of them would be taken."""
    scorer, counted = Scorer.untrained(DIM), statistics()
    [best] = listed(scorer, None, requests_of(1), counted)

    assert [best] == listed(scorer, SlateConfig(quota_new=K), requests_of(1), counted)


def test_what_must_not_be_listed_is_not(trained):
    """What the user disliked stays away, however rare it is and however far from the rest."""
    request = request_after(CATALOGUE, [click("i0", 0), click("i2", 1), click("i5", 2, "dislike")])
    for config in (
        SlateConfig(diversity=1.0),
        SlateConfig(quota_new=K),
        SlateConfig(explore="epsilon", explore_share=1.0),
    ):
        asked = [structs.replace(request, event_id=f"x{number}") for number in range(40)]
        assert all("i5" not in ids(made) for made in listed(trained, config, asked))


@pytest.mark.parametrize("explore", ["epsilon", "thompson"])
def test_an_event_that_comes_again_has_the_same_list(trained, explore):
    config = SlateConfig(explore=explore, explore_share=1.0)
    asked = requests_of(20)
    made = listed(trained, config, asked)

    assert [ids(one) for one in made] == [ids(listed(trained, config, [one])[0]) for one in asked]
    assert len({tuple(ids(one)) for one in made}) > 1


def test_epsilon_says_how_likely_each_item_was_at_its_place(trained):
    """4,000 events of one user: what stands at a place stands there as often as the propensity says, four standard
    errors or so; the propensities of a place sum to 1.
    """
    asked = requests_of(4_000)
    seen, said = Counter(), {}
    for made in listed(trained, SlateConfig(explore="epsilon", explore_share=0.8), asked):
        for place, item in enumerate(made):
            seen[place, item.item_id] += 1
            said[place, item.item_id] = item.propensity

    for at, propensity in said.items():
        error = np.sqrt(propensity * (1 - propensity) / len(asked))
        assert abs(seen[at] / len(asked) - propensity) < 4.5 * error + 1e-3
    first = sum(propensity for (place, _), propensity in said.items() if place == 0)
    assert 0.99 < first <= 1 + 1e-9


def test_epsilon_leaves_the_lists_that_do_not_explore(trained):
    asked = requests_of(400)
    best = listed(trained, None, asked)
    made = listed(trained, SlateConfig(explore="epsilon", explore_share=0.1), asked)

    assert 20 < sum(ids(one) != ids(other) for one, other in zip(best, made)) < 60
    assert all(sum(a != b for a, b in zip(ids(one), ids(other))) <= 1 for one, other in zip(best, made))


def test_thompson_estimates_how_likely_an_item_was_at_its_place(trained):
    """On the average over many lists the estimate is what happens, but for the draw that made the list itself."""
    trained.precision, before = torch.full_like(trained.precision, 20.0), trained.precision
    asked = requests_of(2_000)
    made = listed(trained, SlateConfig(explore="thompson", explore_share=1.0), asked)
    trained.precision = before
    frequent = Counter(one[0].item_id for one in made)
    said = {item: np.mean([one[0].propensity for one in made if one[0].item_id == item]) for item in frequent}

    assert len(frequent) > 2
    for item, count in frequent.items():
        true = count / len(asked)
        assert said[item] == pytest.approx((true * (SAMPLES - 1) + 1) / SAMPLES, abs=0.02)


def test_the_surer_the_weights_the_less_is_explored(trained):
    asked, different = requests_of(50), []
    before = trained.precision
    for precision in (10.0, 1e3, 1e12):
        trained.precision = torch.full_like(before, precision)
        made = listed(trained, SlateConfig(explore="thompson", explore_share=1.0), asked)
        different.append(sum(ids(one) != ids(best) for one, best in zip(made, listed(trained, None, asked))))
    trained.precision = before

    assert different == sorted(different, reverse=True)
    assert different[0] > 25
    assert 0 == different[-1]


def test_before_anything_is_learnt_thompson_lists_the_best():
    scorer = Scorer.untrained(DIM)
    made = listed(scorer, SlateConfig(explore="thompson", explore_share=1.0), requests_of(5))

    assert [ids(one) for one in listed(scorer, None, requests_of(5))] == [ids(one) for one in made]
    assert {1.0} == {item.propensity for one in made for item in one}


def test_the_precision_grows_with_what_was_learnt_and_fades():
    """A signal that is the same for all candidates says nothing; 1,000 half-lives later nothing is left of the rest."""
    signals = torch.tensor([[[1.0, 3.0], [-1.0, 3.0]]]).repeat(100, 1, 1)
    once = laplace.observed(laplace.begin(2), signals, torch.zeros(100, 2))
    steady = once
    for _ in range(2_000):
        steady = laplace.observed(steady, signals, torch.zeros(100, 2))

    assert float(once[0]) == pytest.approx(101, rel=1e-4)
    assert float(once[1]) == laplace.PRIOR
    assert float(steady[0]) == pytest.approx(laplace.PRIOR + 100 / (1 - 0.5 ** (100 / laplace.HALF_LIFE)), rel=1e-3)


def test_a_version_keeps_the_precision_and_who_has_it_off_learns_on_without(trained, tmp_path):
    path = save(trained, str(tmp_path), "v1", {})
    again = load(path)

    assert torch.equal(trained.precision, again.precision)
    assert (trained.precision > laplace.PRIOR).any()
    assert ids(listed(again, None, requests_of(1))[0]) == ids(listed(trained, None, requests_of(1))[0])
    assert Learner(make_catalogue(), again).fine_tune().precision is None
    assert Learner(make_catalogue()).fine_tune().precision is None


def test_a_version_with_a_broken_precision_is_refused(trained, tmp_path):
    for at, broken in enumerate((torch.ones(3), -torch.ones_like(trained.precision))):
        before, trained.precision = trained.precision, broken
        path = save(trained, str(tmp_path), f"v{at}", {})
        trained.precision = before
        with pytest.raises(VersionError, match=PRECISION):
            load(path)


def test_settings_say_what_is_on_and_what_cannot_be():
    assert Settings().slate() is None
    assert SlateConfig(diversity=0.3) == read_settings(["--diversity", "0.3"], {}).slate()
    assert (
        SlateConfig(explore="thompson", explore_share=0.5)
        == read_settings(["--explore", "thompson", "--explore_share", "0.5"], {}).slate()
    )
    for words in (["--diversity", "1.5"], ["--quota_category", "0"], ["--explore", "ucb"], ["--explore_share", "2"]):
        with pytest.raises(SettingsError, match=words[0][2:]):
            read_settings(words, {})
    with pytest.raises(SettingsError, match="quota_new=30: a list has 20 items"):
        read_settings(["--quota_new", "30"], {})


def test_off_imports_nothing_of_it():
    asked = (
        "import sys, model.finetune, model.score, model.evaluate, jobs.settings; "
        "print([m for m in sys.modules if m.split('.')[-1] in ('slate', 'bandit', 'diversity', 'off_policy')])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", asked], cwd=root, capture_output=True, text=True, timeout=120)

    assert "[]\n" == done.stdout, done.stderr


def test_categories_follow_the_items(monkeypatch):
    """What cannot be read changes nothing; a deletion takes them away; no item has more than eight, nor long ones."""
    follower = SimpleNamespace(reached_end=SimpleNamespace(wait=lambda: True))
    monkeypatch.setattr(udfs.texts, "TopicFollower", lambda *_, **__: follower)
    followed = udfs.texts.TextsFollower("nowhere:9092", "items")
    many = encode_json({"item_id": "b", "title": "Up", "categories": ["x" * 999, *map(str, range(20))]})
    items = [b'{"item_id": "a", "title": "Heat", "categories": ["Crime"]}', many, b'{"item_id": "c", "categories": 7}']
    followed.take([SimpleNamespace(key=b"k", value=value) for value in items])

    assert {item_key("a"): ("Crime",), item_key("b"): ("x" * 200, *map(str, range(7)))} == followed.categories
    followed.take([SimpleNamespace(key=b"a", value=None)])
    assert [item_key("b")] == [*followed.categories]
    followed.clear()
    assert {} == followed.categories


@pytest.mark.parametrize(
    "config, follows", [(None, 0), (SlateConfig(diversity=0.5), 0), (SlateConfig(quota_category=0.5), 1)]
)
def test_a_scoring_worker_follows_items_only_where_quotas_read_them(config, follows, tmp_path, monkeypatch):
    opened = []
    follower = SimpleNamespace(texts={}, categories=CATEGORIES, close=lambda: None)
    monkeypatch.setattr(udfs.texts, "TextsFollower", lambda *_: opened.append(1) or follower)
    monkeypatch.setattr(udfs.worker, "prepare", lambda threads: None)
    monkeypatch.setattr(udfs.replica, "CatalogueFollower", lambda *_: FakeFollower("a", "b", "c"))
    monkeypatch.setattr(udfs.statistics, "StatisticsFollower", lambda *_: FakeStatistics())
    path = save(Scorer(Sizes(UDF_DIM), 0, VERSION), str(tmp_path), "v1", {})
    worker = Score(Rules(), ListConfig(2, slate=config), "cpu", FOLLOWS, str(tmp_path / "r"), 1, str(tmp_path))
    worker.open(SimpleNamespace(get_metric_group=FakeMetrics))
    made = worker._scorers._load(path, FakeFollower("a").catalogue), worker._scorers._untrained_for(UDF_DIM)
    worker._follower.close = lambda: None
    worker.close()

    assert follows == len(opened)
    assert [config] * 2 == [scorer.slate and scorer.slate.config for scorer in made]


def test_the_evaluation_puts_the_greedy_lists_beside_and_keeps_propensities():
    """Evaluated with and without exploration, the greedy lists are the same."""
    catalogue, events = make_catalogue(), make_events()
    protocol = Protocol(slate=Slate(SlateConfig(explore="epsilon", explore_share=1.0), {}))
    found = evaluate(events, catalogue, protocol, methods=()).results
    plain = evaluate(events, make_catalogue(), Protocol(), methods=()).results["headrace"]

    assert plain.lists == found[GREEDY].lists
    assert plain.lists != found["headrace"].lists
    assert len(found["headrace"].propensities) == len(plain.lists)


def test_no_row_of_an_evaluation_explores_beside_headrace_itself():
    """The others are fixed policies, with diversity and quotas: off-policy estimates take them for such."""
    catalogue = make_catalogue()
    fixed = Slate(SlateConfig(quota_new=2), {})
    explores = Slate(SlateConfig(quota_new=2, explore="epsilon", explore_share=1.0), {})
    learner = SimpleNamespace(catalogue=catalogue, statistics=ItemStatistics(), joint=object())
    steps = [step for step in map(Users(catalogue).ask, make_events()[:200]) if step.example is not None]
    found = {}
    for slate in (fixed, explores):
        torch.manual_seed(0)
        headrace = Headrace([NETWORK, FROZEN], learner, Protocol(slate=slate, live=True))
        headrace.ask(steps)
        found[slate] = headrace.results

    assert {"headrace", LIVE, ALONE, GREEDY, NETWORK, FROZEN} == {*found[explores]}
    for name, result in found[explores].items():
        is_fixed = result.lists == found[fixed][name].lists and not result.propensities
        assert (name not in ("headrace", LIVE)) == is_fixed, name
