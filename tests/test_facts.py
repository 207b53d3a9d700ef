"""User facts: how attributes are hashed, carried, learnt, loaded and forgotten."""

import datetime
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import udfs.replica
import udfs.score
import udfs.statistics
import udfs.users
import udfs.worker
from jobs.settings import SettingsError
from jobs.settings import load as load_settings
from model import facts as facts_module
from model import user
from model.evaluate import Users
from model.facts import COLUMNS, MOST, Facts, PassedOver, features, of_context
from model.finetune import Learner
from model.interest import Rules
from model.learning.replay import ReplayBuffer
from model.schema import Event, Example, Request, encode_packed
from model.score import Scorer, load, save, score
from model.scoring.batch import CONTEXT
from model.scoring.network import Sizes
from scripts import data
from tests.test_finetune import blind  # noqa: F401
from tests.test_score import DIM, ITEMS, make_catalogue, make_request
from tests.test_udfs import FOLLOWS, FakeFollower, FakeMetrics, FakeStatistics
from udfs.score import ListConfig, Score

NEW_MS = 10_000_000


@pytest.fixture
def passed_over(monkeypatch):
    counter = PassedOver()
    monkeypatch.setattr(facts_module, "PASSED_OVER", counter)
    return counter


# Hashing


def buckets(attributes: object) -> list[int]:
    return np.frombuffer(features(attributes), "<u2").tolist()


@pytest.mark.parametrize("one, other", [(24, "24"), (1, True), ("a", "b"), (20, 60), (5, -5), (True, False)])
def test_another_value_or_kind_is_another_fact(one, other):
    assert buckets({"age": one}) != buckets({"age": other})


@pytest.mark.parametrize("one, other", [(24, 24.0), (24, 25), ("a", ["a"]), (["a", "a"], ["a"]), (None, "")])
def test_what_is_alike_is_one_fact(one, other):
    assert buckets({"age": one}) == buckets({"age": other})


def test_a_name_is_part_of_a_fact_and_a_context_is_no_user():
    assert buckets({"a": "x"}) != buckets({"b": "x"})
    assert features({"a": "x"}) != of_context({"a": "x"})


def test_hashes_are_stable():
    """A version is read by other processes, and by later releases."""
    assert [1197, 1536, 1816] == buckets({"age": 24, "gender": "F", "member": True})


@pytest.mark.parametrize(
    "value", [{"city": "Ulm"}, [1, 2], [["a"]], "x" * 257, float("nan"), float("inf"), 10**400, ["x" * 257]]
)
def test_what_is_of_no_kind_is_passed_over_and_counted(value, passed_over):
    assert buckets({"a": 1}) == buckets({"bad": value, "a": 1})
    assert 1 == passed_over.counts.total()


@pytest.mark.parametrize("attributes", ["text", 7, ["a"], True])
def test_attributes_that_are_no_object_are_passed_over(attributes, passed_over):
    assert b"" == of_context(attributes)
    assert 1 == passed_over.counts.total()


def test_more_facts_than_there_is_room_for_are_passed_over(passed_over):
    many = {f"n{at}": at for at in range(MOST + 3)}

    assert buckets({name: many[name] for name in list(many)[:MOST]}) == buckets(many)
    assert {f"more than {MOST} facts": 3} == passed_over.counts
    assert [] == buckets({"likes": [str(at) for at in range(MOST + 1)]})


def test_the_log_says_so_now_and_then(passed_over, caplog):
    for _ in range(25):
        features({"address": {}})

    assert [1, 10] == [record.args[1] for record in caplog.records]


# What is held


def test_of_most_users_the_oldest_are_dropped():
    facts = Facts(most_users=2)
    for name in ("a", "b", "a", "c"):
        facts.put(name, {"n": 1})

    assert [False, True, True] == [name in facts for name in "bac"]


def test_a_record_takes_the_place_of_the_one_before():
    facts = Facts()
    facts.put("a", {"age": 3, "city": "Ulm"})
    facts.put("a", {"age": "three"})

    assert buckets({"age": "three"}) == facts.of_users(["a"])[0, :1].tolist()
    assert 0 == facts.of_users(["a"])[0, 1:].sum() == facts.of_users(["nobody"]).sum()


def test_hour_and_weekday_follow_from_the_time():
    facts, monday = Facts(), datetime.datetime(2026, 11, 23, 10, tzinfo=datetime.UTC)

    def moment(days: int = 0, hours: int = 0) -> list[int]:
        at = monday + datetime.timedelta(days=days, hours=hours)
        asked = Request("u", "e", int(at.timestamp() * 1_000), [], "", b"", b"")
        return facts.of_requests([asked])[0, 2 * MOST :].tolist()

    assert [facts_module.bucket("@", "hour", 10), facts_module.bucket("@", "weekday", 0)] == moment()
    assert moment() == moment(days=7) != moment(hours=1)
    assert facts_module.bucket("@", "weekday", 6) == moment(days=6)[1]


@pytest.mark.parametrize("facts", [b"\xff", b"\xff\xff", b"\x01\x00" * 100])
def test_facts_that_nobody_has_hashed_harm_nothing(facts):
    laid = Facts().of_requests([Request("u", "e", 0, [], "", b"", b"", facts=facts)])

    assert (1, COLUMNS) == laid.shape
    assert laid.max() < facts_module.BUCKETS


# On the way


def test_a_context_travels_as_facts_on_request_and_example():
    users, context = Users(make_catalogue()), {"device": "phone"}
    step = users.ask(Event("e1", "u", "click", 1_000, "i0", context=context))
    record = user.embedded(Event("e1", "u", "click", 1_000, "i0", context=context), 1, 0, None)

    assert of_context(context) == step.request.facts == step.example.facts == record.facts
    assert record.event.context is None
    later = users.ask(Event("e2", "u", "click", 2_000, "i1"))
    assert (b"", of_context(context)) == (later.request.facts, later.live().request.facts)


def test_the_learner_asks_as_the_job_did():
    """Of a live list the context is that of the event before; of another it is the example's own."""
    users, replay, contexts = Users(make_catalogue()), ReplayBuffer(100), [{"n": "a"}, {"n": "b"}]
    for at, context in enumerate(contexts):
        replay.add(users.ask(Event(f"e{at}", "u", "click", 1_000 * at, f"i{at}", context=context)).example)
    _, second = replay.take_new()

    assert [of_context(context) for context in contexts] == [second.request(live).facts for live in (True, False)]


# Learning


def taught(facts: Facts | None, catalogue, rounds: int = 1) -> tuple[Learner, Scorer]:
    """Users of taste 0 take even items, those of taste 1 odd ones; each takes one only."""
    random, learner = np.random.default_rng(0), Learner(catalogue)
    if facts is not None:
        learner.use_facts(facts)
    for part in range(rounds):
        for at in range(600 * part, 600 * (part + 1)):
            if facts is not None:
                facts.put(f"u{at}", {"taste": f"t{at % 2}"})
            item = f"i{2 * random.integers(0, ITEMS // 2) + at % 2}"
            learner.add([Example(f"u{at}", f"e{at}", 1_000_000 + 1_000 * at, item, "click")])
        scorer = learner.fine_tune()
    return learner, scorer


def even_share(learner: Learner, scorer: Scorer, user_id: str) -> float:
    asked = Request(user_id, "e", NEW_MS, [], "", b"", b"")
    (list_,) = score(scorer, learner.statistics, learner.catalogue, [asked], 10)
    return np.mean([int(item.item_id[1:]) % 2 == 0 for item in list_])


@pytest.fixture(scope="module")
def learnt():
    facts, catalogue = Facts(), make_catalogue()
    order = np.random.default_rng(5).permutation(ITEMS)
    for array in (catalogue.vectors, catalogue.interest_vectors):
        array[:] = array[order]
    facts.put("even", {"taste": "t0"})
    facts.put("odd", {"taste": "t1"})
    return taught(facts, catalogue, rounds=4)


def test_a_user_without_events_gets_what_users_like_her_take(learnt):
    learner, scorer = learnt

    assert even_share(learner, scorer, "even") >= 0.8
    assert even_share(learner, scorer, "odd") <= 0.2


def test_whoever_is_forgotten_has_the_list_of_anybody(learnt):
    learner, scorer = learnt
    learner.facts.put("gone", {"taste": "t0"})
    asked = [Request(name, "e", NEW_MS, [], "", b"", b"") for name in ("gone", "nobody")]
    known, nobody = score(scorer, learner.statistics, learner.catalogue, asked, 10)
    assert [item.item_id for item in known] != [item.item_id for item in nobody]

    learner.facts.forget("gone")
    known, nobody = score(scorer, learner.statistics, learner.catalogue, asked, 10)
    chances = [[item.probability for item in list_] for list_ in (known, nobody)]
    assert chances[0] == pytest.approx(chances[1], rel=1e-4)


# Versions


def test_off_a_scorer_has_nothing_of_it(tmp_path):
    scorer = Scorer(Sizes(DIM), 3, "enc-1")

    assert [] == [name for name in scorer.state_dict() if "facts" in name]
    assert CONTEXT == len(scorer.ranker.find.shift)


def test_a_version_from_without_loads_and_its_lists_are_the_same(tmp_path, blind):  # noqa: F811
    learner, scorer = taught(None, blind)
    path, facts = save(scorer, str(tmp_path), "v1", {}), Facts()
    facts.put("u", {"taste": "t0"})
    asked = [make_request(blind, ["i1", "i2"]), make_request(blind, [])]
    off, on = (score(load(path, facts=given), learner.statistics, blind, asked, 5) for given in (None, facts))

    assert off == on


def test_a_version_from_with_loads_with_and_without(tmp_path, learnt):
    learner, scorer = learnt
    path = save(scorer, str(tmp_path), "v1", {})
    loaded = load(path, facts=learner.facts)

    assert even_share(learner, loaded, "even") == even_share(learner, scorer, "even")
    assert even_share(learner, load(path), "even") == even_share(learner, load(path), "odd")


def test_with_it_the_rest_of_a_scorer_begins_the_same():
    """Its own weights are drawn apart, so the same seed gives the same network and ranker."""
    states = []
    for facts in (None, Facts()):
        torch.manual_seed(0)
        states.append(Scorer(Sizes(DIM), 3, facts=facts).state_dict())

    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert states[1].keys() - states[0].keys() == {
        f"{part}.facts.{name}" for part in ("network", "ranker.find", "ranker.order") for name in ("rows", "into")
    }


# Workers


@pytest.fixture
def followed(monkeypatch):
    follower = SimpleNamespace(reached_end=SimpleNamespace(wait=lambda: True), close=lambda: None)
    monkeypatch.setattr(udfs.users, "TopicFollower", lambda *_, **__: follower)
    return udfs.users.UsersFollower("nowhere:9092", "users")


def record(value: bytes | None, key: bytes = b"k") -> SimpleNamespace:
    return SimpleNamespace(key=key, value=value, partition=0, offset=7)


def test_facts_follow_the_topic(followed):
    followed.take([record(b'{"user_id": "%s", "attributes": {"n": 1}}' % name) for name in (b"a", b"b", b"c")])
    assert 3 == len(followed.facts)

    followed.take([record(None, b"a"), record(b'{"user_id": "b", "deleted": true}'), record(b'{"user_id": "c"}')])
    assert 0 == len(followed.facts)
    assert not followed.rejected


@pytest.mark.parametrize(
    "value, reason",
    [
        (b"{", "truncated"),
        (b'{"attributes": {}}', "user_id"),
        (b'{"user_id": "a", "attributes": [1]}', "attributes"),
        (b'{"user_id": "", "attributes": {}}', "user_id"),
        (b'{"user_id": "a", "deleted": "yes"}', "deleted"),
        (b"\xff", "UTF-8"),
        (b" " * 2_000_000, "bytes: at most"),
        (b'{"user_id": "a", "attributes": {"x":' + b"[" * 100_000, "recursion"),
    ],
)
def test_a_record_that_is_no_user_has_a_reason(followed, value, reason):
    followed.take([record(value), record(b'{"user_id": "b", "attributes": {"n": 1}}')])

    (refused,) = followed.rejected
    assert reason.lower() in refused.reason.lower()
    assert ("users", 7, 1) == (refused.source, refused.offset, len(followed.facts))


def test_a_scoring_worker_that_has_it_on_scores_with_facts_and_tells_what_is_refused(
    followed, learnt, tmp_path, monkeypatch
):
    monkeypatch.setattr(udfs.users, "UsersFollower", lambda *_: followed)
    monkeypatch.setattr(udfs.worker, "prepare", lambda threads: None)
    monkeypatch.setattr(udfs.replica, "CatalogueFollower", lambda *_: FakeFollower("a", "b", "c"))
    monkeypatch.setattr(udfs.statistics, "StatisticsFollower", lambda *_: FakeStatistics())
    path = save(learnt[1], str(tmp_path), "v1", {})
    monkeypatch.setattr("model.score.try_out", lambda *_: None)
    for users, there in (("users", True), ("", False)):
        follows = FOLLOWS._replace(users=users)
        worker = Score(Rules(), ListConfig(2), "cpu", follows, str(tmp_path / "r"), 1, str(tmp_path))
        worker.open(SimpleNamespace(get_metric_group=FakeMetrics))
        assert there == (worker._scorers._load(path, FakeFollower("a").catalogue).facts is followed.facts)
        if there:
            followed.take([record(b"{")])
            packed = encode_packed(Request("u", "e", NEW_MS, [], "serving", b"", b"", forget=True))
            (told,) = worker.eval(pd.DataFrame({"request": [packed]}))["rejected"]
            assert "users" == json.loads(told)["source"]
        worker._follower.close = lambda: None
        worker.close()


# Files and settings


def test_a_file_of_users_is_read(tmp_path):
    file = tmp_path / "users.csv"
    file.write_text("user_id,age,city,zip,likes\n7,24,Ulm,01234,jazz|tea\n8,,,,\n")

    first, second = data.users(None, file)
    assert ("7", {"age": 24.0, "city": "Ulm", "zip": "01234", "likes": ["jazz", "tea"]}) == (
        first.user_id, first.attributes,
    )  # fmt: skip
    assert ("8", {}) == (second.user_id, second.attributes)


def test_types_of_a_parquet_file_stay(tmp_path):
    file = tmp_path / "users.parquet"
    pd.DataFrame({"user_id": ["a"], "age": [3.5], "vip": [True], "zip": ["12"]}).to_parquet(file)

    assert {"age": 3.5, "vip": True, "zip": 12.0} == data.users(None, file)[0].attributes


def test_odd_values_of_a_file_of_users_are_facts_or_passed_over(tmp_path, passed_over):
    """What is no number in a CSV is a text; of many columns the first 16 count; nothing ends the reading."""
    file, wide = tmp_path / "users.csv", [f"c{number}" for number in range(10_000)]
    for head, cells, facts in (
        ("a,b,c,d", "nan,inf,-Infinity,1e999", 4), ("a\0,b", "\0,x\0y", 2),
        (",".join(wide), ",".join(["1"] * 10_000), 16),
        ("x" * 1_000, "1", 0), ("a", "x" * 1_000, 0), ("a", "1" * 400, 0), (",a", "1,2", 1),
    ):  # fmt: skip
        file.write_text(f"user_id,{head}\nu,{cells}\n")
        (user,) = data.users(None, file)
        assert facts == len(buckets(user.attributes)), (head[:9], cells[:9])


def test_odd_columns_of_a_parquet_file_are_facts_passed_over_or_told(tmp_path, passed_over):
    file = tmp_path / "users.parquet"
    half = np.array([1.5], np.float16)
    for column, facts in (
        (half, 1), ([float("nan")], 0), ([float("inf")], 0), ([2**63], 1), ([[1, 2]], 0), ([["a", "b"]], 2),
        ([None], 0),
    ):  # fmt: skip
        pd.DataFrame({"user_id": ["u"], "a": column}).to_parquet(file)
        (user,) = data.users(None, file)
        assert facts == len(buckets(user.attributes)), column
    pd.DataFrame({"user_id": ["u"], "x" * 1_000_000: [{"city": "Ulm"}]}).to_parquet(file)
    with pytest.raises(data.DataError, match=r"users.parquet: column 'x+… holds struct.*; text or numbers") as refused:
        data.users(None, file)
    assert len(str(refused.value)) < 400


def test_a_context_that_is_nested_too_deeply_is_told(tmp_path):
    events, items = tmp_path / "events.csv", tmp_path / "items.csv"
    items.write_text("item_id,title\na,A\n")
    deep = '{""a"":' * 5_000 + "1" + "}" * 5_000
    events.write_text(f'user_id,item_id,event_time_ms,context\nu,a,1700000000000,"{deep}"\n')

    with pytest.raises(data.DataError, match="is no JSON object, or is nested too deeply") as refused:
        data.read(events, items)
    assert len(str(refused.value)) < 400


def test_a_file_of_users_without_an_id_is_refused(tmp_path):
    file = tmp_path / "users.csv"
    file.write_text("user_id,age\n,24\n")

    with pytest.raises(data.DataError, match=r"users.csv: row 1: .*user_id"):
        data.users(None, file)


@pytest.mark.parametrize(
    "head, cells",
    [("context", '"{""device"": ""phone"", ""n"": 2}"'), ("context.device,context.n", "phone,2")],
)
def test_contexts_are_read_from_a_file_of_events(tmp_path, head, cells):
    events, items = tmp_path / "events.csv", tmp_path / "items.csv"
    items.write_text("item_id,title\na,A\n")
    empty = "," * head.count(",")
    events.write_text(f"user_id,item_id,event_time_ms,{head}\nu,a,1700000000000,{cells}\nu,a,1700000001000,{empty}\n")
    (first, second), refused = data.check_events(data.read(events, items)[0])

    assert ({"device": "phone", "n": 2}, None, []) == (first.context, second.context, refused)


def test_a_context_that_is_no_json_is_told(tmp_path):
    events, items = tmp_path / "events.csv", tmp_path / "items.csv"
    items.write_text("item_id,title\na,A\n")
    events.write_text("user_id,item_id,event_time_ms,context\nu,a,1700000000000,phone\n")

    with pytest.raises(data.DataError, match="column context, row 1: 'phone' is no JSON object"):
        data.read(events, items)


def test_the_setting_is_off_or_on():
    assert "off" == load_settings([], {}).user_facts
    with pytest.raises(SettingsError, match="user_facts"):
        load_settings(["--user_facts", "yes"], {})
