"""The reference consumer: what it remembers, what it answers, how it follows a broker that comes and goes."""

import re
import subprocess
import sys
import time
from urllib.parse import quote, urlencode

import pytest
from kafka.errors import UnsupportedCodecError
from starlette.testclient import TestClient

from jobs.settings import Settings
from model.schema import (
    Description,
    Item,
    ModelVersion,
    Reason,
    Recommendation,
    RecommendedItem,
    Rejected,
    description_key,
    encode_json,
)
from scripts.processes import Processes, Supervision
from serving import app, follow
from serving.hosts import LOOPBACK
from serving.store import MOST_DESCRIBED, Limits, Store
from tests.brokers import Broker, Written
from udfs import reader

START_MS = 1_000_000
EVIL = "<script>alert('1')</script>"


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        self.ms = START_MS

    def __call__(self):
        return self.ms


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    return Store(clock=clock)


@pytest.fixture
def web(store):
    return TestClient(app.make_app(store), base_url="http://127.0.0.1:8080")


def recommendation(
    user_id="u1",
    rec_id="r1",
    items=(),
    emitted_at_ms=START_MS,
    version="v1",
    variant="serving",
    event_time_ms=5,
    forgotten=False,
):
    return Recommendation(
        rec_id, user_id, f"e-{rec_id}", event_time_ms, emitted_at_ms, version, variant, list(items), forgotten
    )


def recommend(store, timestamp_ms=START_MS, **about):
    made = recommendation(**about)
    store.apply("recommendations", made.user_id.encode(), encode_json(made), timestamp_ms)


def forget(store, user_id="u1", event_time_ms=5):
    recommend(
        store,
        user_id=user_id,
        rec_id=f"forget {user_id} {event_time_ms}",
        version="",
        event_time_ms=event_time_ms,
        forgotten=True,
    )


def delete_item(store, item_id, tombstone=False):
    store.apply("items", item_id.encode(), None if tombstone else encode_json(Item(item_id, deleted=True)), START_MS)


def add_item(store, item_id, title, *categories):
    store.apply("items", item_id.encode(), encode_json(Item(item_id, title, categories=list(categories))), START_MS)


def announce(store, version, status, registry="r", **about):
    made = ModelVersion(version, f"{registry}/{version}", status=status, **about)
    store.apply("model-versions", version.encode(), encode_json(made), START_MS)


def reject(store, reason, raw=b"{", source="events"):
    store.apply("rejected-events", None, Rejected(source, 0, 7, reason, raw, len(raw), "").as_json(), START_MS)


# Lists


def test_a_list_carries_titles_and_reasons_in_words(store):
    add_item(store, "m1", "Toy Story", "Animation", "Comedy")
    add_item(store, "m2", "Aladdin")
    why = Reason("network", 0.6, items=["m1"])
    recommend(store, items=[RecommendedItem("m2", 0.25, [why]), RecommendedItem("m1", 0.125)])

    first, second = store.list_of("u1")["items"]

    assert ("m2", "Aladdin", 0.25) == (first["item_id"], first["title"], first["probability"])
    assert "because of Toy Story" == first["reasons"][0]["words"]
    assert ["Animation", "Comedy"] == second["categories"]


def test_an_item_without_a_title_goes_by_its_id(store):
    add_item(store, "m1", "")
    recommend(
        store,
        items=[RecommendedItem("m1", 0.5), RecommendedItem("m2", 0.25, [Reason("ease", 1.0, items=["m1", "m9"])])],
    )

    first, second = store.list_of("u1")["items"]

    assert ("m1", "m2") == (first["title"], second["title"])
    assert "goes together with m1 and m9" == second["reasons"][0]["words"]


def test_the_newest_list_of_a_user_is_the_one_that_came_last(store):
    recommend(store, rec_id="r1")
    recommend(store, rec_id="r2")

    assert "r2" == store.list_of("u1")["rec_id"]
    assert 1 == store.status()["counts"]["users"]


def test_a_list_that_comes_twice_counts_once_and_does_not_come_back(store):
    for name in ("r1", "r2", "r1", "r2", "r1"):  # a replay after a failure
        recommend(store, rec_id=name)

    counts = store.status()["counts"]

    assert (2, 3) == (counts["lists"], counts["duplicates"])
    assert "r2" == store.list_of("u1")["rec_id"]


def test_users_are_listed_with_the_latest_first(store):
    for name, user in enumerate("abcab"):
        recommend(store, rec_id=str(name), user_id=user)

    assert ["b", "a", "c"] == [each["user_id"] for each in store.users(10)]
    assert ["b", "a"] == [each["user_id"] for each in store.users(2)]


def test_a_record_without_a_value_deletes_what_its_key_names(store):
    add_item(store, "m1", "Toy Story")
    recommend(store, items=[RecommendedItem("m1", 0.5)])
    announce(store, "v1", "serving")
    for topic, key in (("items", b"m1"), ("recommendations", b"u1"), ("model-versions", b"v1")):
        store.apply(topic, key, None, START_MS)

    status = store.status()

    assert store.list_of("u1") is None
    assert (0, 0, []) == (status["counts"]["users"], status["counts"]["items"], status["versions"])


def test_an_item_marked_as_deleted_loses_its_title(store):
    add_item(store, "m1", "Toy Story")
    store.apply("items", b"m1", encode_json(Item("m1", deleted=True)), START_MS)

    assert 0 == store.status()["counts"]["items"]


# Products that are deleted


def titles(store, user_id="u1"):
    return [item["title"] for item in store.list_of(user_id)["items"]]


@pytest.mark.parametrize("tombstone", [False, True], ids=["deleted", "tombstone"])
def test_a_deleted_product_leaves_the_lists_that_are_kept(store, tombstone):
    """At once, and not as an id; when it comes back it is shown again. One not read yet goes by its id."""
    for item_id in ("m1", "m2"):
        add_item(store, item_id, f"title of {item_id}")
    recommend(store, items=[RecommendedItem(item_id, 0.25) for item_id in ("m1", "m2", "unread")])
    delete_item(store, "m1", tombstone)

    assert ["title of m2", "unread"] == titles(store)
    assert 2 == store.users(1)[0]["items"]
    assert 1 == store.status()["counts"]["items"]

    add_item(store, "m1", "new title")

    assert ["new title", "title of m2", "unread"] == titles(store)
    assert 3 == store.users(1)[0]["items"]


def test_a_product_that_was_deleted_before_the_list_came_is_not_shown(store):
    """A list can be made while the deletion is on its way."""
    delete_item(store, "m1")
    recommend(store, items=[RecommendedItem("m1", 0.5), RecommendedItem("m2", 0.25)])

    assert ["m2"] == titles(store)


def test_a_deleted_product_is_no_reason(store):
    """What carried a signal is named without it; where nothing is left the signal speaks alone."""
    add_item(store, "m1", "Toy Story")
    add_item(store, "m2", "Aladdin")
    why = [Reason("ease", 0.5, items=["m1", "m2"]), Reason("network", 0.5, items=["m1"])]
    recommend(store, items=[RecommendedItem("m3", 0.5, why)])
    delete_item(store, "m1")

    both, alone = store.list_of("u1")["items"][0]["reasons"]

    assert (["m2"], "goes together with Aladdin") == (both["items"], both["words"])
    assert ([], "fits the latest events") == (alone["items"], alone["words"])


def test_deleted_products_are_remembered_up_to_a_bound(clock):
    store = Store(Limits(deleted=2), clock)
    recommend(store, items=[RecommendedItem(f"m{number}", 0.25) for number in range(3)])
    for number in range(3):
        delete_item(store, f"m{number}")

    assert ["m0"] == titles(store)


# Users who are forgotten


def test_the_list_of_a_forgotten_user_is_gone(web, store):
    """From the lists, the newest users and the counts; REST says why, and others keep theirs."""
    recommend(store, user_id="u1")
    recommend(store, user_id="u2", rec_id="r2")
    forget(store, "u1")

    answer = web.get("/recommendations", params={"user": "u1"})

    assert (404, {"message": "no list for user u1: the user was forgotten"}) == (answer.status_code, answer.json())
    assert ["u2"] == [each["user_id"] for each in web.get("/users").json()]
    assert (1, 2, 1) == tuple(web.get("/status").json()["counts"][name] for name in ("users", "lists", "forgotten"))
    assert ["v1"] == [each["version"] for each in store.status()["served"]]


def describe(store, item_id, text, user_id="u1"):
    about = Description(user_id, item_id, "r1", "m", text, "written", START_MS) if text else None
    store.apply("descriptions", description_key(user_id, item_id), about and encode_json(about), START_MS)


def described(web, user_id="u1"):
    return [item.get("description") for item in web.get(f"/recommendations/{user_id}").json()["items"]]


def test_a_description_stands_beside_its_item(web, store):
    """Of this user and item alone, the newest; cut where it is too long, and as text where it is markup."""
    recommend(store, items=[RecommendedItem("m1", 0.5), RecommendedItem("m2", 0.4), RecommendedItem("m3", 0.1)])
    describe(store, "m1", "old")
    describe(store, "m1", EVIL)
    describe(store, "m2", "x" * 4_000)
    describe(store, "m3", "not yours", "u2")
    store.apply("descriptions", b"{", b"{", START_MS)

    assert [EVIL, "x" * 799 + "…", None] == described(web)
    assert 1 == store.status()["counts"]["malformed"]
    assert "item.description" in app.PAGE.read_text()


def test_a_description_that_is_deleted_is_gone(web, store):
    """By itself, and with its user; what is kept of a user is bounded."""
    recommend(store, items=[RecommendedItem("m1", 0.5), RecommendedItem("m2", 0.4)])
    describe(store, "m1", "one")
    describe(store, "m2", "two")
    describe(store, "m1", None)
    assert [None, "two"] == described(web)

    forget(store, "u1")
    recommend(store, rec_id="r9", event_time_ms=9, items=[RecommendedItem("m2", 0.5)])
    assert [None] == described(web)

    for at in range(200):
        describe(store, f"m{at}", "text")
    assert MOST_DESCRIBED == len(store._descriptions["u1"])


def test_a_late_older_list_does_not_bring_a_forgotten_user_back(store):
    """Older, or of the same moment; what the user does after it makes a new list, which older ones do not replace."""
    forget(store, event_time_ms=100)
    for event_time_ms in (99, 100):
        recommend(store, rec_id=f"r{event_time_ms}", event_time_ms=event_time_ms)

    assert store.list_of("u1") is None

    for event_time_ms in (101, 98):
        recommend(store, rec_id=f"r{event_time_ms}", event_time_ms=event_time_ms)

    assert "r101" == store.list_of("u1")["rec_id"]


def test_a_forget_that_comes_late_still_forgets(store):
    """The job forgot the user when it came, whatever its time; and an earlier one takes nothing from a later one."""
    forget(store, event_time_ms=100)
    recommend(store, rec_id="r1", event_time_ms=150)
    forget(store, event_time_ms=50)
    recommend(store, rec_id="r2", event_time_ms=90)

    assert store.list_of("u1") is None


def test_a_replay_after_a_failure_does_not_forget_again(store):
    """What the user did since stays."""
    for _ in range(2):
        recommend(store, rec_id="r1", event_time_ms=1)
        forget(store, event_time_ms=2)
        recommend(store, rec_id="r3", event_time_ms=3)

    assert "r3" == store.list_of("u1")["rec_id"]
    assert (2, 1, 3) == tuple(store.status()["counts"][name] for name in ("lists", "forgotten", "duplicates"))


def test_rejected_bytes_of_a_forgotten_user_are_gone(store):
    """Of those that name the user; reasons and counts stay."""
    reject(store, "no item", b'{"user_id": "u1", "action": "view"}')
    reject(store, "no time", b'{"user_id": "u12", "action": "view"}')
    forget(store, "u1")

    assert ['{"user_id": "u12", "action": "view"}', "(of a user who was forgotten)"] == [
        each["raw"] for each in store.status()["rejected"]
    ]


def test_forgotten_users_are_remembered_up_to_a_bound(clock):
    store = Store(Limits(forgotten=2), clock)
    for user_id in "abc":
        forget(store, user_id)
        recommend(store, user_id=user_id, rec_id=user_id)
    for user_id in "abc":
        recommend(store, user_id=user_id, rec_id=f"late {user_id}")

    assert ["a"] == [each["user_id"] for each in store.users(10)]


# Records that cannot be read


@pytest.mark.parametrize("topic", ["recommendations", "items", "model-versions", "rejected-events"])
@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"rec_id": 1}', b"\xff\xfe", b"[" * 100_000, b'{"x":' + b"[" * 100_000, b'"\\ud800"']
)
def test_a_malformed_record_is_passed_over_and_counted(store, topic, raw):
    store.apply(topic, b"k", raw, START_MS)
    recommend(store)

    counts = store.status()["counts"]

    assert (1, 1, 0) == (counts["malformed"], counts["lists"], counts["rejected"])


def test_a_key_that_is_no_text_is_passed_over(store):
    store.apply("items", b"\xff", None, START_MS)

    assert 1 == store.status()["counts"]["malformed"]


# Bounds


def test_beyond_the_bound_the_user_who_was_quiet_longest_goes(clock):
    store = Store(Limits(users=3), clock)
    for name, user in enumerate("abcad"):
        recommend(store, rec_id=str(name), user_id=user)

    assert ["d", "a", "c"] == [each["user_id"] for each in store.users(10)]


def test_lists_are_bounded_in_bytes_too(clock):
    one = len(encode_json(recommendation(rec_id="00")))
    store = Store(Limits(list_bytes=2 * one), clock)
    for number in range(10):
        recommend(store, rec_id=f"{number:02}", user_id=f"u{number}")

    assert ["u9", "u8"] == [each["user_id"] for each in store.users(10)]

    for number in range(10, 20):
        recommend(store, rec_id=f"{number:02}", user_id="u9")

    assert ["u9", "u8"] == [each["user_id"] for each in store.users(10)]


def test_everything_else_is_bounded(clock):
    store = Store(Limits(rec_ids=2, items=2, versions=2, reasons=2), clock)
    for number in range(5):
        add_item(store, f"m{number}", "a title")
        announce(store, f"v{number}", "retired")
        reject(store, f"reason {number}")
        recommend(store, rec_id=str(number))
    recommend(store, rec_id="0")  # forgotten, so it counts again

    status = store.status()

    assert (2, 6, 5) == (status["counts"]["items"], status["counts"]["lists"], status["counts"]["rejected"])
    assert ["v4", "v3"] == [each["version"] for each in status["versions"]]
    assert ["reason 4", "reason 3"] == [each["reason"] for each in status["rejected"]]


def test_of_a_large_rejected_record_only_the_beginning_is_kept(store):
    reject(store, "10000000 bytes: at most 1000000 are taken", b"\xff" + b"a" * 10_000_000)

    assert "\ufffd" + "a" * 199 == store.status()["rejected"][0]["raw"]


def test_the_status_is_bounded_whatever_came(web, store):
    """Fifty kinds of long reasons were 45 MB; versions and their metrics are cut too."""
    for number in range(60):
        reject(store, f"{number} " + "x" * 900_000, b"\xff" * 900_000, source="s" * 900_000)
        metrics = {f"{metric} " + "m" * 10_000: 0.5 for metric in range(50)}
        announce(
            store, f"v{number:03} " + "v" * 250, "rejected", reason="y" * 9_000, parent="p" * 9_000, metrics=metrics
        )
        recommend(store, rec_id=str(number), version=f"v{number} " + "z" * 250)
    store.say(False, "no broker " * 9_000)

    answer = web.get("/status")
    status = answer.json()

    assert 50 == len(status["rejected"]) == len(status["versions"]) == len(status["served"])
    assert "59 " + "x" * 296 + "…" == status["rejected"][0]["reason"]
    assert "\ufffd" * 200 == status["rejected"][0]["raw"]
    assert "v059" == status["versions"][0]["version"][:4]
    assert len(answer.content) < 1_000_000


SECRET = "s3://key:sec/ret@models/headrace"


def test_no_address_is_shown_with_its_user_info(web, store):
    """Registries are named in what is rejected, in versions, and in what went wrong with the broker."""
    refused = f"{SECRET}/v1: there is no such version, write it again"
    reject(store, refused, f"{SECRET}/v1".encode(), source="model-versions")
    announce(store, "v1", "rejected", registry=SECRET, reason=refused)
    store.say(False, f"reading stopped: {SECRET}")

    status = web.get("/status").json()

    plain = "s3://models/headrace/v1"
    assert (plain, f"{plain}: there is no such version, write it again") == (
        status["rejected"][0]["raw"],
        status["rejected"][0]["reason"],
    )
    assert f"{plain}: there is no such version, write it again" == status["versions"][0]["reason"]
    assert "reading stopped: s3://models/headrace" == status["source"]["message"]
    assert "sec/ret" not in str(status) and "path" not in status["versions"][0]


def test_a_secret_is_taken_out_before_a_text_is_cut(store):
    """Else its first half would be shown."""
    secret = f"s3://key:{'s' * 500}@models/v1"
    reject(store, secret, secret.encode())

    assert ("s3://models/v1", "s3://models/v1") == tuple(
        store.status()["rejected"][0][name] for name in ("reason", "raw")
    )


# Numbers


def test_delivery_is_from_making_to_arrival(store, clock):
    for number, took_ms in enumerate([10, 20, 30, 40, 1_000]):
        clock.ms = START_MS + 5_000
        recommend(store, rec_id=str(number), emitted_at_ms=clock.ms - took_ms, timestamp_ms=clock.ms)

    assert {"median": 30, "p95": 40, "lists": 5} == store.status()["delivery_ms"]
    assert 1_000 == store.list_of("u1")["delivery_ms"]


def test_a_list_from_before_the_page_says_nothing_about_delivery_or_throughput(store, clock):
    recommend(store, timestamp_ms=START_MS - 1, emitted_at_ms=5)
    clock.ms += 1_000

    status = store.status()

    assert store.list_of("u1")["delivery_ms"] is None
    assert (1, None, 0) == (status["counts"]["lists"], status["delivery_ms"], sum(status["lists_per_s"]["each"]))


def test_throughput_is_that_of_the_last_full_seconds(store, clock):
    for second, lists in enumerate([3, 0, 7]):
        clock.ms = START_MS + 1_000 * second
        for number in range(lists):
            recommend(store, rec_id=f"{second} {number}")
    clock.ms = START_MS + 3_500

    rate = store.status()["lists_per_s"]

    assert [0, 3, 0, 7] == rate["each"][-4:]
    assert (60, 1.0) == (len(rate["each"]), rate["now"])

    clock.ms += 120_000

    assert 0 == sum(store.status()["lists_per_s"]["each"])


def test_what_made_the_recent_lists_is_counted_by_version_and_variant(clock):
    store = Store(Limits(recent=4), clock)
    for number, (version, variant) in enumerate([("v1", "a"), ("v2", "a"), ("v2", "b"), ("v2", "b"), ("v2", "a")]):
        recommend(store, rec_id=str(number), version=version, variant=variant)

    expected = [{"version": "v2", "variant": "a", "lists": 2}, {"version": "v2", "variant": "b", "lists": 2}]
    assert expected == store.status()["served"]


def test_a_model_version_lives_through_its_statuses(store):
    announce(store, "v1", "serving")
    announce(store, "v2", "candidate", metrics={"ndcg_at_10": 0.5})
    announce(store, "v2", "serving", metrics={"ndcg_at_10": 0.5})
    announce(store, "v1", "retired")

    newest, oldest = store.status()["versions"]

    assert ("v2", "serving", {"ndcg_at_10": 0.5}, START_MS) == tuple(
        newest[of] for of in ("version", "status", "metrics", "since_ms")
    )
    assert ("v1", "retired") == (oldest["version"], oldest["status"])


def test_one_version_serves_at_most(store):
    """After a rollback a candidate that came too late says that it serves; which one does follows from all records."""
    announce(store, "v1", "serving")
    announce(store, "v2", "serving", parent="v1")
    announce(store, "v1", "serving", epoch=1, pinned=True)
    announce(store, "v2", "rejected", epoch=1, reason="rolled back by hand")
    announce(store, "v3", "serving", parent="v2")

    shown = [(each["version"], each["status"], each["pinned"]) for each in store.status()["versions"]]
    assert [("v3", "retired", False), ("v2", "rejected", False), ("v1", "serving", True)] == shown


def test_new_counts_of_a_version_change_nothing_of_what_is_shown(store, clock):
    announce(store, "v1", "serving", metrics={"hr_at_10": 0.25, "judged_on": 200})
    before = store.status()["versions"]
    store.apply(
        "model-versions",
        b"v1.counts",
        encode_json(ModelVersion("v1", "r/v1/counts-000001", status="counted")),
        START_MS + 9_000,
    )

    assert before == store.status()["versions"]


def test_a_version_that_was_judged_on_nothing_has_no_figures(store):
    """An earlier release wrote 0.0 for it."""
    figures = {"hr_at_10": 0.0, "ndcg_at_10": 0.0, "serving_hr_at_10": 0.0, "examples": 2.0}
    announce(store, "v1", "serving", metrics=figures | {"judged_on": 0.0})
    announce(store, "v2", "serving", metrics=figures | {"judged_on": 200.0})

    judged, not_judged = (each["metrics"] for each in store.status()["versions"])
    assert {"examples": 2.0, "judged_on": 0.0} == not_judged
    assert 200.0 == judged["judged_on"] and 0.0 == judged["hr_at_10"]


def test_rejected_records_are_counted_by_reason(store):
    for reason in ("no user", "no item", "no user"):
        reject(store, reason, b'{"a": 1}')

    expected = [("no user", 2), ("no item", 1)]
    assert expected == [(each["reason"], each["count"]) for each in store.status()["rejected"]]
    assert '{"a": 1}' == store.status()["rejected"][0]["raw"]


# REST


def test_the_newest_list_is_answered(web, store):
    recommend(store, items=[RecommendedItem("m1", 0.5)])

    answer = web.get("/recommendations/u1")

    assert (200, "r1") == (answer.status_code, answer.json()["rec_id"])


def test_a_user_without_a_list_is_told_so(web):
    answer = web.get("/recommendations/nobody")

    expected = {"message": "no list for user nobody: none has come yet, or it had to make room for newer ones"}
    assert (404, expected) == (answer.status_code, answer.json())


USER_IDS = [
    "..",
    ".",
    "/",
    "//",
    "a/b",
    "a/../b",
    "%2e%2e",
    "%",
    " ",
    " u1 ",
    "a b",
    "a+b",
    "?",
    "#",
    "&user=x",
    "ä ö",
    "日本",
    "😀",
    "\n",
    "\\",
    '"',
    EVIL,
]


@pytest.mark.parametrize("user_id", USER_IDS)
def test_any_user_id_can_be_asked_for(web, store, user_id):
    """As the page asks: in the query, where a browser leaves `..` alone."""
    recommend(store, user_id=user_id)
    recommend(store, user_id="another", rec_id="r2")

    for query in (urlencode({"user": user_id}), f"user={quote(user_id, safe='')}"):
        assert user_id == web.get(f"/recommendations?{query}").json()["user_id"]


@pytest.mark.parametrize(
    "user_id, path", [("a/b", "a%2Fb"), ("ä ö", "%C3%A4%20%C3%B6"), (EVIL, "%3Cscript%3Ealert('1')%3C%2Fscript%3E")]
)
def test_a_user_can_be_asked_for_in_the_path(web, store, user_id, path):
    recommend(store, user_id=user_id)

    assert user_id == web.get(f"/recommendations/{path}").json()["user_id"]


@pytest.mark.parametrize("path", ["/recommendations", "/recommendations/", "/recommendations?user="])
def test_without_a_user_the_answer_says_what_is_wanted(web, path):
    answer = web.get(path)

    assert (400, "whose list? /recommendations?user=ID is wanted, the id percent-encoded") == (
        answer.status_code,
        answer.json()["message"],
    )


def test_the_page_asks_for_lists_in_the_query_alone():
    """In a path browsers resolve `..` before they ask: the page stopped while that user was among the newest."""
    page = app.PAGE.read_text()

    assert ["/recommendations?${new URLSearchParams({ user: user_id })}"] == re.findall(r"/recommendations[^`]*", page)


def test_users_and_status_are_answered(web, store):
    recommend(store)

    assert ["u1"] == [each["user_id"] for each in web.get("/users?k=3").json()]
    assert 1 == web.get("/status").json()["counts"]["lists"]


def test_the_processes_of_a_local_stack_are_shown_where_there_is_one(store, tmp_path):
    """Its supervisor has written down how often each was started again; without a stack there is nothing to show."""
    names = (*LOOPBACK, "testserver")
    web = TestClient(app.make_app(store, names, tmp_path))
    assert (
        []
        == web.get("/status").json()["processes"]
        == TestClient(app.make_app(store, names)).get("/status").json()["processes"]
    )
    noted = {"learner": Supervision(restarts=2, ended_at_ms=START_MS, last_line=EVIL), "page": Supervision()}
    Processes(tmp_path).note(noted)

    learner, page = web.get("/status").json()["processes"]
    assert {"name": "learner", "running": True, "restarts": 2, "ended_at_ms": START_MS, "last_line": EVIL} == learner
    assert ("page", 0) == (page["name"], page["restarts"])
    (tmp_path / "supervised.json").write_text("{")
    assert [] == web.get("/status").json()["processes"]


@pytest.mark.parametrize("k", ["0", "-1", "201", "many", "", "²", "9" * 19])
def test_a_wrong_k_is_refused(web, k):
    answer = web.get("/users", params={"k": k})

    assert (400, f"k={k}: a number from 1 to 200 is wanted (default 20)") == (
        answer.status_code,
        answer.json()["message"],
    )


def test_a_k_of_thousands_of_digits_is_refused(web):
    """Python refuses to read such a number."""
    answer = web.get("/users", params={"k": "9" * 5_000})

    assert (400, f"k={'9' * 19}…: a number from 1 to 200 is wanted (default 20)") == (
        answer.status_code,
        answer.json()["message"],
    )


# Who may ask


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8080",
        "localhost",
        "LocalHost:8080",
        "[::1]",
        "[::1]:8080",
        "shop.example",
        "shop.example:80",
    ],
)
def test_requests_for_a_name_of_this_machine_are_answered(store, host):
    """Loopback's names, and those that were given, on any port."""
    web = TestClient(app.make_app(store, [*LOOPBACK, "shop.example"]))

    assert 200 == web.get("/status", headers={"host": host}).status_code


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example@127.0.0.1",
        "[::1",
        "::1]",
        "",
        ":8080",
        "localhost:8080:8080",
    ],
)
@pytest.mark.parametrize("path", ["/", "/status", "/users", "/recommendations/u1", "/nothing"])
def test_requests_for_another_name_are_refused(web, host, path):
    """A site that points its name at this machine could else read what users watched through their browser."""
    answer = web.get(path, headers={"host": host})

    wanted = (
        "this page answers to localhost, 127.0.0.1, [::1] alone (start it with --allowed-host NAME for another name)"
    )
    expected = f"Host {host or 'is missing'}: {wanted}"
    assert (400, expected) == (answer.status_code, answer.json()["message"])


def test_two_names_at_once_are_refused(web):
    answer = web.get("/status", headers=[("host", "localhost"), ("host", "evil.example")])

    assert 400 == answer.status_code


def test_without_a_name_nothing_is_allowed(store):
    """An empty name among the allowed ones lets nothing in."""
    web = TestClient(app.make_app(store, [""]))

    assert 400 == web.get("/status", headers={"host": ""}).status_code


# Nothing from a topic becomes markup


def test_markup_in_a_title_is_only_ever_data(web, store):
    add_item(store, "m1", EVIL, EVIL)
    recommend(store, user_id="u1", items=[RecommendedItem("m1", 0.5, [Reason("text", 1.0, items=["m1"])])])

    answer = web.get("/recommendations/u1")

    assert EVIL == answer.json()["items"][0]["title"]
    assert "application/json" == answer.headers["content-type"]
    assert "nosniff" == answer.headers["x-content-type-options"]
    assert EVIL not in web.get("/").text


def test_the_page_has_no_way_to_make_markup_from_text():
    page = app.PAGE.read_text()

    ways = r"(?:inner|outer|insertAdjacent)HTML|document\.write|createContextualFragment|DOMParser|srcdoc"
    ways += r"|eval\(|new Function"
    assert [] == re.findall(ways, page)


def test_the_page_loads_nothing_from_elsewhere():
    page = app.PAGE.read_text()

    assert [] == re.findall(r"https?:|//[a-z]|@import|url\(", page)
    assert ["data:,"] == re.findall(r'(?:src|href)="([^"]*)"', page)


def test_the_browser_runs_the_pages_own_script_alone(web):
    answer = web.get("/")
    policy = answer.headers["content-security-policy"]

    assert "text/html; charset=utf-8" == answer.headers["content-type"]
    assert app.content_policy(answer.text) == policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert [] == re.findall(r' (?:on[a-z]+|style)="', answer.text)


# Following the topics


@pytest.fixture
def broker(monkeypatch):
    broker = Broker(*follow.TOPICS)
    monkeypatch.setattr(reader, "KafkaConsumer", broker.consumer)
    monkeypatch.setattr(reader, "CHECK_S", 0.01)
    monkeypatch.setattr(follow, "RETRY_S", 0.01)
    return broker


@pytest.fixture
def following(store, broker):
    """Start to follow; stops at the end of the test."""
    followers = []

    def begin(**settings):
        followers.append(follow.Follower(store, Settings(**settings)))
        followers[-1].start()

    yield begin
    for follower in followers:
        follower.stop()


def eventually(is_so):
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.002)


def lists(store):
    return store.status()["counts"]["lists"]


def source(store):
    return store.status()["source"]


def made(name, timestamp=START_MS):
    return Written(encode_json(recommendation(rec_id=name)), timestamp)


def test_a_broker_that_goes_and_comes_back_is_read_on(store, broker, following):
    topic = broker.topics["recommendations"][0]
    topic.append(made("r1"))
    following()
    expected = {"connected": True, "message": "reading from 127.0.0.1:9092", "behind": 0}
    eventually(lambda: lists(store) == 1 and source(store) == expected)

    broker.away = True
    eventually(lambda: not source(store)["connected"])
    assert "no broker at 127.0.0.1:9092: trying again until it answers" == source(store)["message"]

    topic.append(made("r2"))
    broker.away = False
    eventually(lambda: lists(store) == 2)
    assert 0 == store.status()["counts"]["duplicates"]


def test_a_broker_that_is_not_there_yet_is_waited_for_with_one_line_in_the_log(store, broker, following, caplog):
    broker.away = True
    following()
    eventually(lambda: source(store)["message"].startswith("no broker"))
    time.sleep(0.05)
    assert 1 == len(caplog.records)

    broker.away = False
    eventually(lambda: source(store)["connected"])


def test_a_topic_that_is_made_later_is_read(store, broker, following):
    del broker.topics["recommendations"]
    following()
    eventually(lambda: source(store)["connected"])
    assert "the broker at 127.0.0.1:9092 has no topic recommendations yet" == source(store)["message"]

    broker.topics["recommendations"] = {0: [made("r1")], 1: [made("r2")]}
    eventually(lambda: lists(store) == 2)


@pytest.mark.parametrize("first, expected", [(0, [None]), (3, ["told"])])
def test_descriptions_are_read_where_there_are_any(web, store, broker, following, first, expected):
    """A cluster without that topic is not asked for it."""
    about = Description("u1", "m1", "r1", "m", "told", "plain", START_MS)
    broker.topics["descriptions"] = {0: [Written(encode_json(about), START_MS, description_key("u1", "m1"))]}
    list_ = recommendation(items=[RecommendedItem("m1", 0.5)])
    broker.topics["recommendations"][0].append(Written(encode_json(list_), START_MS))
    following(describe_first=first)

    eventually(lambda: lists(store) == 1 and described(web) == expected)


def test_topics_go_by_their_prefix(store, broker, following):
    broker.topics = {f"shop-{name}": partitions for name, partitions in broker.topics.items()}
    broker.topics["shop-recommendations"][0].append(made("r1"))
    following(topic_prefix="shop-")

    eventually(lambda: lists(store) == 1)


def test_of_old_lists_only_the_newest_are_read(store, broker, following, monkeypatch):
    monkeypatch.setitem(follow.TOPICS, "recommendations", 4)
    broker.topics["recommendations"] = {
        part: [made(f"r{part} {number}", START_MS + number) for number in range(9)] for part in range(2)
    }
    following()

    eventually(lambda: source(store)["connected"] and lists(store) == 4)


def test_topics_that_are_made_anew_are_read_from_their_beginning(store, broker, following):
    broker.topics["recommendations"][0] += [made("r1"), made("r2")]
    following()
    eventually(lambda: lists(store) == 2)

    broker.away = True
    eventually(lambda: not source(store)["connected"])
    broker.topics["recommendations"][0] = [made("r3")]
    broker.away = False

    eventually(lambda: lists(store) == 3)


def test_a_topic_that_is_made_anew_while_it_is_read_is_told_by_its_id(store, broker, following):
    """Also where it has more records by then than were read before."""
    broker.topics["recommendations"][0].append(made("r1"))
    following()
    eventually(lambda: lists(store) == 1)
    broker.topics["recommendations"], broker.ids["recommendations"] = {0: [made("r2"), made("r3")]}, 1

    eventually(lambda: lists(store) == 3)


def test_a_partition_that_is_added_is_read_from_its_beginning(store, broker, following):
    broker.topics["recommendations"][0].append(made("r1"))
    following()
    eventually(lambda: lists(store) == 1)
    broker.topics["recommendations"][1] = [made("r2"), made("r3")]

    eventually(lambda: lists(store) == 3)


def test_a_codec_that_is_missing_is_no_broker_that_is_away(store, broker, following, monkeypatch):
    """The page says what to install, and reads on when it is there."""
    surprises = [UnsupportedCodecError("Libraries for lz4 compression codec not found")] * 3
    monkeypatch.setattr(broker, "check", lambda: surprises and (_ for _ in ()).throw(surprises.pop()))
    said, say = [], store.say
    monkeypatch.setattr(store, "say", lambda up, message, *more: said.append(message) or say(up, message, *more))
    broker.topics["recommendations"][0].append(made("r1"))
    following()
    eventually(lambda: lists(store) == 1)

    assert "UnsupportedCodecError: Libraries for lz4 compression codec not found" in said[0]
    assert not said[0].startswith("no broker")


def test_a_surprise_does_not_end_the_reading(store, broker, following, monkeypatch):
    surprises = [ValueError("what is this")]
    monkeypatch.setattr(broker, "check", lambda: surprises and (_ for _ in ()).throw(surprises.pop()))
    broker.topics["recommendations"][0].append(made("r1"))
    following()

    eventually(lambda: lists(store) == 1)


# The command


@pytest.mark.parametrize("words, message", [
    (["--port", "0"], "argument --port: 0: a number from 1 to 65535 is wanted (default 8080)"),
    (["--port", "http"], "argument --port: http: a number from 1 to 65535 is wanted (default 8080)"),
    (
        ["--allowed-host", "a b"],
        "argument --allowed-host: a b: a host name is wanted, as it stands in the page's address, such as shop.example",
    ),
    (["--k", "0"], "headrace: --k=0: Expected `int` >= 1 (k: items in a list; default 20)"),
    (["--colour", "red"], "headrace: --colour=red: no such setting"),
])  # fmt: skip
def test_a_wrong_word_stops_the_command_with_exit_code_2(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        app.main(words)

    assert 2 == stopped.value.code
    assert message in capsys.readouterr().err


def test_the_command_serves_this_machine_alone_unless_told():
    place, words = app.arguments(["--port", "9", "--bootstrap_servers", "kafka:9092", "--k=5"])

    assert ("127.0.0.1", 9, ["--bootstrap_servers", "kafka:9092", "--k=5"]) == (place.host, place.port, words)
    assert "0.0.0.0" == app.arguments(["--host", "0.0.0.0"])[0].host


def test_the_command_answers_to_loopback_to_its_address_and_to_the_names_that_are_given(monkeypatch):
    """The follower and the server are not started."""
    served = {}
    monkeypatch.setattr(app.Follower, "start", lambda self: None)
    monkeypatch.setattr(app.uvicorn, "run", lambda web, **about: served.update(about, web=TestClient(web)))
    app.main(["--host", "10.0.0.7", "--allowed-host", "Shop.example:80", "--allowed-host", "::2"])
    answers = [
        served["web"].get("/users", headers={"host": host}).status_code
        for host in ("localhost", "10.0.0.7:8080", "shop.example", "[::2]", "10.0.0.8")
    ]

    assert ("10.0.0.7", [200, 200, 200, 200, 400]) == (served["host"], answers)


def test_serving_needs_the_records_the_settings_which_versions_serve_and_the_reader():
    watched = ("model", "jobs", "udfs", "scripts", "torch", "pyflink")
    code = f"import sys, serving.app; print(sorted(n for n in sys.modules if n.split('.')[0] in {watched}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert (
        "['jobs', 'jobs.settings', 'model', 'model.bounds', 'model.rules', 'model.schema', 'model.signals', "
        "'model.versions', 'udfs', 'udfs.reader']" == done.stdout.strip()
    )


def test_digits_of_another_script_are_no_k(web):
    assert 400 == web.get("/users?k=%D9%A3").status_code


def test_a_title_of_any_length_is_shown_by_its_beginning(web, store):
    """Twenty items of 900 KB were a page of 18 MB."""
    item = Item("i", "t" * 400_000, categories=["c" * 5_000] * 90)
    store.apply("items", b"i", encode_json(item), START_MS)
    recommend(store, items=[RecommendedItem("i", 0.5)])
    shown = web.get("/recommendations?user=u1").json()["items"][0]

    assert ("t" * 299 + "…", ["c" * 299 + "…"] * 20) == (shown["title"], shown["categories"])


def test_names_that_no_record_of_ours_has_do_not_reach_the_page(web, store):
    """A user's id of 100 KB, times 200 users, was 24 MB."""
    recommend(store, user_id="u" * 257)
    recommend(store, version="v" * 257)

    assert 2 == store.status()["counts"]["malformed"]
    assert [] == web.get("/users").json()


def test_whoever_asks_for_a_long_name_is_not_sent_it_back(web):
    assert len(web.get(f"/recommendations?user={'u' * 50_000}").content) < 500


SECRETS = [
    "https://models/v1?token=S3CRET&part=1", "https://models/v1?X-Amz-Signature=S3CRET", "//user:S3CRET@models/v1",
    "user:S3CRET@kafka:9092", "sasl_plain_password=S3CRET", "password: S3CRET", "AccountKey=S3CRET",
    'sasl.jaas.config=Login required password="S3 S3CRET";', "Authorization: Bearer S3CRET", "HTTPS://u:S3CRET@models",
    '{"secret": "S3CRET"}', "AWS_SECRET_ACCESS_KEY=S3CRET",
]  # fmt: skip


@pytest.mark.parametrize("text", SECRETS)
def test_no_secret_is_shown_however_it_is_written(web, store, text):
    """In a reason, in a record's bytes, in what is said of the broker."""
    reject(store, text, text.encode(), source="model-versions")
    announce(store, "v1", "rejected", reason=text)
    store.say(False, text)

    assert "S3CRET" not in web.get("/status").text
