"""The Flink functions, with fakes in the places of Flink, Kafka and torch."""

import base64
import json
import threading
import time
from collections import deque
from hashlib import sha256
from types import SimpleNamespace
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pytest
from apache_beam.runners.worker.statesampler import StateSampler, get_current_tracker
from apache_beam.utils.counters import CounterFactory
from msgspec import structs

import udfs.loading
import udfs.score
from model import consumed, interest, user
from model.bounds import StatisticsConfig
from model.catalogue import Catalogue, Replica, encoder_number
from model.interest import Rules, interest_space
from model.schema import (
    RAW_BYTES,
    Embedded,
    Event,
    ItemVector,
    ModelVersion,
    RecommendedItem,
    Rejected,
    Request,
    UserState,
    VersionError,
    decode_embedded,
    decode_example,
    decode_fine_tune_request,
    decode_item_vector,
    decode_packed_request,
    decode_recommendation,
    decode_user_state,
    encode_json,
    encode_packed,
    event_key,
    item_key,
    rec_id,
)
from model.versions import Serving
from udfs import worker
from udfs.embed import Embed, EmbedItems, EncoderConfig
from udfs.interest import LearningPace, UpdateInterest
from udfs.loading import Scorers
from udfs.score import Follows, ListConfig, Score

DIM = 64
NOW_MS = 1_700_000_000_000
VERSION = "fake-1"
UNREADABLE_VERSIONS = [
    b"", b"nope", b"{}", b'{"version":"v1","path":"r/v1","status":"best"}', None, b"\xff\xfe",
    b'{"version":"\\ud800","path":"r"}', b"[" * 50_000, b'{"version":"v1","path":"r/v1","x":' + b"[" * 50_000,
    b'{"version":"v1","path":"r/v1","status":"' + b"x" * 50_000,
    b'{"version":"v1","path":"r/v1","epoch":1' + b"0" * 40 + b"}", b'{"version":"v1","path":"' + b"r" * 5_000 + b'"}',
]  # fmt: skip
"""What may stand on `model-versions` and is no version."""


class FakeEncoder:
    """Gives every text a vector of its own and notes what it was asked."""

    version = VERSION

    def __init__(self):
        self.calls = []

    def embed(self, texts: list[str]) -> np.ndarray:
        self.calls.append(list(texts))
        return np.stack([self.vector(text) for text in texts]) if texts else np.zeros((0, DIM), np.float32)

    @staticmethod
    def vector(text: str) -> np.ndarray:
        drawn = np.random.default_rng(list(text.encode())).standard_normal(DIM).astype(np.float32)
        return drawn / np.linalg.norm(drawn)


class FakeFollower:
    """A catalogue that holds some items, and changes on `refresh` only."""

    def __init__(self, *item_ids: str, version: str = VERSION):
        self.catalogue, self.rejected = Catalogue(), deque()
        self.arrived = [
            ItemVector(item_id, version, FakeEncoder.vector(item_id).astype("<f2").tobytes()) for item_id in item_ids
        ]

    def refresh(self) -> None:
        self.catalogue.apply(self.arrived)
        self.arrived = []


def event(action: str = "click", item_id: str | None = "a", event_id: str = "e1", at_ms: int = NOW_MS, **more) -> Event:
    return Event(event_id, "u1", action, at_ms, item_id, **more)


# embed


@pytest.fixture
def embed():
    embed = Embed(
        EncoderConfig("tiny", "cpu", 1), "nowhere:9092", "item-vectors", "/nowhere", max_future_s=300, max_bytes=10_000
    )
    embed._encoder, embed._number, embed._interest_space = FakeEncoder(), encoder_number(VERSION), interest_space
    embed._follower = FakeFollower("a", "b")
    return embed


def embedded(embed: Embed, *values: bytes | Event | None) -> list[tuple[str, Embedded | Rejected]]:
    raw = [encode_json(value) if isinstance(value, Event) else value for value in values]
    rows = [(value, "events", 3, 70 + at) for at, value in enumerate(raw)]
    answer = embed.eval(pd.DataFrame(rows, columns=["value", "topic", "partition", "offset"]))
    assert ["user_id", "payload"] == list(answer.columns)
    return [(user_id, decode_embedded(payload)) for user_id, payload in answer.itertuples(index=False, name=None)]


def test_an_event_gets_the_vector_of_its_item(embed):
    """In the space of interests, with the number of the encoder that made it; keyed by its user."""
    [(user_id, record)] = embedded(embed, event(item_id="b"))

    vector = interest_space(FakeEncoder.vector("b").astype("<f2")[None])[0]

    assert ("u1", event(item_id="b")) == (user_id, record.event)
    assert (item_key("b"), encoder_number(VERSION), 3, 70) == (
        *structs.astuple(record)[1:3],
        record.partition,
        record.offset,
    )
    assert np.allclose(vector, np.frombuffer(record.vector, "<f2"), atol=1e-3)


def test_an_event_on_an_unknown_item_goes_on_without_a_vector(embed):
    """It is not rejected: the item may still come."""
    [(_, record)] = embedded(embed, event(item_id="new"))

    assert (item_key("new"), b"") == (record.item_key, record.vector)


def test_an_event_goes_with_the_catalogue_that_serves(embed):
    """While that still comes from the encoder before, events have its vectors and its number; a query cannot be
    compared with them and says nothing.
    """
    embed._follower = FakeFollower("a", version="fake-0")
    click, search, other = embedded(
        embed, event(), event("search", None, "e2", query="hats"), event("view", "new", "e3")
    )

    assert [encoder_number("fake-0")] * 3 == [record.encoder for _, record in (click, search, other)]
    assert [2 * DIM, 0, 0] == [len(record.vector) for _, record in (click, search, other)]
    assert b"" == search[1].query


def test_before_there_is_a_catalogue_events_belong_to_the_encoder(embed):
    """The first searches count."""
    embed._follower = FakeFollower()
    [(_, record)] = embedded(embed, event("search", None, query="hats"))

    assert (encoder_number(VERSION), 2 * DIM) == (record.encoder, len(record.query))


def test_searches_are_embedded_in_one_call_a_micro_batch(embed):
    """Each distinct query once; a search carries no item."""
    records = embedded(
        embed,
        *(event("search", None, f"e{at}", query=query) for at, query in enumerate(["red shoes", "hats", "red shoes"])),
    )
    vector = interest_space(FakeEncoder.vector("red shoes")[None])[0]

    assert [["hats", "red shoes"]] == embed._encoder.calls
    assert [0, 0, 0] == [record.item_key for _, record in records]
    assert records[0][1].vector == records[2][1].vector != records[1][1].vector
    assert np.allclose(vector, np.frombuffer(records[0][1].vector, "<f2"), atol=1e-3)
    assert np.allclose(FakeEncoder.vector("hats"), np.frombuffer(records[1][1].query, "<f2"), atol=1e-3)


def test_without_a_search_the_language_model_rests(embed):
    """The query that an item was found by is no search."""
    records = embedded(embed, event(), event("view", "b", query="red shoes"))

    assert [] == embed._encoder.calls
    assert [b"", b""] == [record.query for _, record in records]


def test_a_bad_event_becomes_a_rejected_record_with_its_position(embed):
    """It goes the same way as the others, so that nothing is lost, under keys that spread over the workers."""
    good = event()
    records = embedded(embed, good, b"\xff", None, good)

    expected = [
        Rejected.of("events", 3, 71, "no UTF-8: invalid start byte at byte 0", b"\xff"),
        Rejected.of("events", 3, 72, "the record has no value", None),
    ]

    assert expected == [record for _, record in records[1:3]]
    assert ["u1", "\0rejected-7", "\0rejected-8", "u1"] == [user_id for user_id, _ in records]
    assert [good, good] == [records[at][1].event for at in (0, 3)]


def test_an_event_from_the_future_is_rejected(embed):
    """By this machine's clock."""
    [(_, record)] = embedded(embed, event(at_ms=time.time_ns() // 1_000_000 + 400_000))

    assert "at most 300 s are taken" in record.reason


def test_an_event_larger_than_the_setting_is_rejected(embed):
    """`max_event_bytes`."""
    [(_, record)] = embedded(embed, event(rec_id="y" * 10_000))

    assert record.reason.endswith("at most 10000 are taken")


def test_an_event_that_was_cut_is_rejected_with_the_length_and_the_hash_of_all_of_it(embed):
    """The JVM has cut it before it came here."""
    row = (b"x" * 5_000, "events", 3, 70, "30000000 ab12")
    answer = embed.eval(pd.DataFrame([row], columns=["value", "topic", "partition", "offset", "whole"]))
    record = decode_embedded(answer["payload"][0])

    reason = "30000000 bytes: at most 10000 are taken"
    assert Rejected("events", 3, 70, reason, b"x" * 5_000, 30_000_000, "ab12") == record


def test_what_is_kept_of_a_rejected_event_is_cut_before_it_is_passed_on(embed):
    """900 KB of bytes that are no event do not travel through the keyed operator."""
    [(_, record)] = embedded(embed, b"\xff" * 900_000)

    assert (RAW_BYTES, 900_000) == (len(record.raw), record.raw_bytes)
    assert sha256(b"\xff" * 900_000).hexdigest() == record.sha256


def test_an_event_without_an_item_passes(embed):
    """`forget` has neither an item nor a vector."""
    [(_, record)] = embedded(embed, event("forget", None))

    assert (0, b"") == (record.item_key, record.vector)


def test_an_empty_micro_batch_gives_an_empty_answer(embed):
    """With its two columns."""
    assert [] == embedded(embed)


# embed-items


@pytest.fixture
def embed_items():
    embed_items = EmbedItems(EncoderConfig("tiny", "cpu", 1), "/nowhere", max_bytes=10_000)
    embed_items._encoder = FakeEncoder()
    return embed_items


def item_rows(embed_items: EmbedItems, *records: tuple[bytes | None, bytes | None]) -> list[tuple]:
    """(item_id, ItemVector or None, rejected or None) of each (key, value)."""
    rows = [(key, value, "items", 1, 40 + at) for at, (key, value) in enumerate(records)]
    answer = embed_items.eval(pd.DataFrame(rows, columns=["item_id", "value", "topic", "partition", "offset"]))
    assert ["item_id", "item_vector", "rejected"] == list(answer.columns)
    return [
        (item_id, vector and decode_item_vector(vector), rejected and json.loads(rejected))
        for item_id, vector, rejected in answer.astype(object)
        .where(answer.notna(), None)
        .itertuples(index=False, name=None)
    ]


def test_a_new_item_gets_a_vector(embed_items):
    """Of its text, half precision, with the encoder's version; all items of a micro-batch are embedded in one call."""
    [(item_id, vector, rejected), _] = item_rows(
        embed_items, (b"m1", b'{"item_id":"m1","title":"Heat","categories":["crime"]}'), (b"m2", b'{"item_id":"m2"}')
    )

    assert [["Heat. crime", ""]] == embed_items._encoder.calls
    assert ("m1", "m1", VERSION, None) == (item_id, vector.item_id, vector.encoder_version, rejected)
    assert np.allclose(FakeEncoder.vector("Heat. crime"), np.frombuffer(vector.vector, "<f2"), atol=1e-3)


def test_the_content_hash_tells_whether_the_text_changed(embed_items):
    """Same text, same hash; what the language model does not read does not count."""
    hashes = [
        vector.content_hash
        for _, vector, _ in item_rows(
            embed_items,
            (b"m1", b'{"item_id":"m1","title":"Heat"}'),
            (b"m2", b'{"item_id":"m2","title":"Heat","image":"x.png"}'),
            (b"m3", b'{"item_id":"m3","title":"Cold"}'),
        )
    ]

    assert hashes[0] == hashes[1] != hashes[2]
    assert 16 == len(hashes[0])


@pytest.mark.parametrize("value", [None, b'{"item_id":"m1","deleted":true}'], ids=["tombstone", "deleted"])
def test_a_deleted_item_is_told_to_all_replicas(embed_items, value):
    """A tombstone on the compacted topic and `deleted` mean the same; nothing is embedded."""
    [(item_id, vector, rejected)] = item_rows(embed_items, (b"m1", value))

    assert ("m1", ItemVector("m1", VERSION, deleted=True), None) == (item_id, vector, rejected)
    assert [] == [text for call in embed_items._encoder.calls for text in call]


BAD_KEYS = [b"\xff", b"m\0", b"k" * 257, "é".encode() * 257, b"k" * 900_000]


@pytest.mark.parametrize("key", BAD_KEYS, ids=["no UTF-8", "NUL", "257", "257 of two bytes", "900 KB"])
def test_a_key_that_is_no_id_deletes_nothing(embed_items, key):
    """Its record on `item-vectors` could be larger than a broker takes."""
    [(item_id, vector, rejected), (_, beside, _)] = item_rows(embed_items, (key, None), (b"m2", None))

    assert (None, None, "m2") == (item_id, vector, beside.item_id)
    assert rejected["reason"].startswith("the key is no ")


def test_an_item_that_was_cut_is_rejected(embed_items):
    """The JVM has cut it before it came here."""
    row = (b"m1", b"x" * 5_000, "items", 1, 40, "30000000 ab12")
    names = ["item_id", "value", "topic", "partition", "offset", "whole"]
    record = json.loads(embed_items.eval(pd.DataFrame([row], columns=names))["rejected"][0])

    assert ("30000000 bytes: at most 10000 are taken", 30_000_000, "ab12") == tuple(
        record[name] for name in ("reason", "raw_bytes", "sha256")
    )


def test_a_bad_item_becomes_a_rejected_record_with_its_position(embed_items):
    """The items beside it get their vectors."""
    rows = item_rows(embed_items, (b"m1", b'{"item_id":"m1"}'), (b"m2", b"nope"), (None, None))

    expected = [
        Rejected.of("items", 1, 41, "JSON is malformed: invalid character (byte 4)", b"nope"),
        Rejected.of("items", 1, 42, "the record has no value", None),
    ]

    assert [json.loads(record.as_json()) for record in expected] == [rejected for _, _, rejected in rows[1:]]
    assert ["m1", None, None] == [vector and vector.item_id for _, vector, _ in rows]


def test_a_tick_is_no_item_and_no_rejected_record(embed_items):
    """It has to reach the worker process, no more: what has no topic came from none."""
    rows = [(None, None, None, None, None, None), (b"m1", b'{"item_id":"m1"}', "items", 1, 40, None)]
    names = ["item_id", "value", "topic", "partition", "offset", "whole"]
    answer = embed_items.eval(pd.DataFrame(rows, columns=names))

    assert [None, None, None] == answer.iloc[0].tolist()
    assert "m1" == answer["item_id"][1]


def test_an_item_that_comes_twice_in_a_micro_batch_ends_as_it_came_last(embed_items):
    """Also when it was deleted in between."""
    rows = item_rows(
        embed_items,
        (b"m1", b'{"item_id":"m1","title":"old"}'),
        (b"m1", None),
        (b"m1", b'{"item_id":"m1","title":"new"}'),
    )

    assert [False, True, False] == [vector.deleted for _, vector, _ in rows]
    assert np.allclose(FakeEncoder.vector("new"), np.frombuffer(rows[2][1].vector, "<f2"), atol=1e-3)


# update-interest


class FakeState:
    """Flink's value state for one key."""

    def __init__(self):
        self.held = None

    def value(self):
        return self.held

    def update(self, value):
        self.held = value

    def clear(self):
        self.held = None


class FakeJob:
    """`UpdateInterest` for one user, opened; `send` and `tell` give (topic or "main", record) pairs."""

    def __init__(self, every: int = 1_000, max_age_s: float = 1e9, max_consumed: int = 100):
        self.states, self.broadcast = {}, {}
        self.update = UpdateInterest(Rules(max_consumed=max_consumed), every, max_age_s)
        self.update.open(SimpleNamespace(get_state=lambda about: self.states.setdefault(about.name, FakeState())))
        state = SimpleNamespace(get=self.broadcast.get, put=self.broadcast.__setitem__)
        self.context = SimpleNamespace(get_broadcast_state=lambda about: state)

    def send(
        self, record: Event | Embedded | Rejected, vector: np.ndarray | None = None, query: np.ndarray | None = None
    ) -> list[tuple]:
        if isinstance(record, Event):
            key = item_key(record.item_id) if record.item_id else 0
            record = user.embedded(record, key, encoder_number(VERSION), vector, query)
        return self._told(self.update.process_element(encode_packed(record), self.context))

    def tell(self, version: ModelVersion | bytes | None) -> list[tuple]:
        value = encode_json(version) if isinstance(version, ModelVersion) else version
        return self._told(self.update.process_broadcast_element((value, 2, 7, None), self.context))

    @staticmethod
    def _told(yielded) -> list[tuple]:
        decode = {
            "training-examples": decode_example,
            "fine-tune-requests": decode_fine_tune_request,
            "rejected-events": json.loads,
        }
        return [
            (one[0].tag_id, decode[one[0].tag_id](one[1]))
            if isinstance(one, tuple)
            else ("main", decode_packed_request(one))
            for one in yielded
        ]

    def bytes_held(self) -> list[bytes | None]:
        return [state.held for state in self.states.values()]


AXES = np.eye(interest.INTEREST_DIM, dtype=np.float32)


def test_an_event_asks_for_a_list_and_gives_an_example():
    """The request carries all that the list depends on; the example carries the user as before the event."""
    job = FakeJob()
    [(main, request), (side, example)] = job.send(event(), AXES[0])

    held = interest.decode(request.interests)

    assert ("main", "training-examples") == (main, side)
    assert ("u1", "e1", NOW_MS, [], "serving") == tuple(
        getattr(request, name) for name in ("user_id", "event_id", "event_time_ms", "versions", "variant")
    )
    assert ([1.0], encoder_number(VERSION)) == (held.weights.tolist(), held.encoder)
    assert [(item_key("a") & 0xFFFF_FFFF, 1)] == consumed.opened(request.consumed)[["fingerprint", "times"]].tolist()
    assert ("u1", "e1", "a", "click", b"", "") == tuple(
        getattr(example, name) for name in ("user_id", "event_id", "item_id", "action", "interests", "shown")
    )


def test_an_example_holds_what_was_known_and_shown_before_it():
    """No example knows its own event: the interests are those of the request before, `shown` is that request's list."""
    job = FakeJob()
    first = job.send(event(), AXES[0])
    second = job.send(event("view", "b", "e2", NOW_MS + 5), AXES[1])

    request, example = first[0][1], second[1][1]

    assert request.interests == example.interests
    assert rec_id("u1", event_key("e1"), NOW_MS) == example.shown


def test_what_a_user_rejects_is_no_example_but_counts_as_consumed():
    """A dislike asks for a better list."""
    [(main, request)] = FakeJob().send(event("dislike"), AXES[0])

    assert ("main", [True]) == (
        main,
        consumed.excluded(consumed.opened(request.consumed), NOW_MS / 1_000, Rules().exclude_s).tolist(),
    )


def test_a_search_asks_for_a_list_and_consumes_nothing():
    """And it is no example: no item came. The encoder's own vector of its query travels with the interests."""
    [(main, request)] = FakeJob().send(
        event("search", None, query="red shoes"), AXES[0], FakeEncoder.vector("red shoes")
    )
    held = interest.decode(request.interests)

    assert ("main", b"", 1) == (main, request.consumed, len(held.weights))
    assert held.query @ FakeEncoder.vector("red shoes") > 0.999


def test_an_impression_asks_for_nothing_and_leaves_no_trace():
    """That a list was shown says nothing about the user yet."""
    job = FakeJob()

    assert [] == job.send(event("impression", None))
    assert [None] == job.bytes_held()


def test_an_event_that_comes_again_asks_for_nothing():
    """Kafka may deliver twice: the state stays as it is, byte by byte."""
    job = FakeJob()
    job.send(event(), AXES[0])
    held = job.bytes_held()

    assert [] == job.send(event(), AXES[0])
    assert held == job.bytes_held()


def test_an_event_on_an_unknown_item_still_asks_for_a_list():
    """The event is pending in the interests that travel."""
    [(_, request), _] = FakeJob().send(event())

    assert [True] == interest.decode(request.interests).pending.tolist()


def test_forget_deletes_the_user_and_tells_the_learner():
    """State and consumed items are gone, the answer carries nothing, and the next event is that of a new user."""
    job = FakeJob()
    job.send(event(), AXES[0])
    [(main, request), (side, example)] = job.send(event("forget", None, "e2", NOW_MS + 1))

    assert ("main", Request("u1", "e2", NOW_MS + 1, [], "serving", b"", b"", forget=True)) == (main, request)
    assert ("training-examples", True, "u1", b"") == (side, example.forget, example.user_id, example.interests)
    assert [None] == job.bytes_held()
    assert b"" == job.send(event(event_id="e3"), AXES[0])[1][1].interests


def test_a_rejected_record_goes_to_its_topic():
    """With its bytes in base64, and without touching any state."""
    job = FakeJob()
    [(side, record)] = job.send(Rejected.of("events", 3, 7, "no UTF-8", b"\xff"))
    where = {"source": "events", "partition": 3, "offset": 7, "reason": "no UTF-8"}

    assert ("rejected-events", where | {"raw": "/w==", "raw_bytes": 1, "sha256": sha256(b"\xff").hexdigest()}) == (
        side,
        record,
    )
    assert [None] == job.bytes_held()


UNREADABLE_STATES = [
    b"\xff", b"\x92\xc4", encode_packed(UserState(b"\x09")), encode_packed(UserState(b"\x02\x01")),
    encode_packed(UserState(b"", b"\x01\x02\x03")), encode_packed([1, 2]), encode_packed(UserState(b"", b"\x02" * 15)),
]  # fmt: skip


@pytest.mark.parametrize("held", UNREADABLE_STATES)
def test_an_event_of_a_user_whose_state_cannot_be_read_is_rejected_and_the_state_stays(held):
    """With the position of its record; after a `forget` the user is new."""
    job = FakeJob()
    job.send(event())
    job.states["user-state"].held = held
    came = event(event_id="e2")
    sent = structs.replace(user.embedded(came, item_key("a"), encoder_number(VERSION), AXES[0]), partition=3, offset=71)
    [(side, record)] = job.send(sent)

    assert ("rejected-events", "events", 3, 71) == (side, *(record[name] for name in ("source", "partition", "offset")))
    assert encode_json(came) == base64.b64decode(record["raw"])
    assert [held] == job.bytes_held()
    assert ["main", "training-examples"] == [side for side, _ in job.send(event("forget", None, event_id="e3"))]
    assert "main" == job.send(event(event_id="e4"))[0][0]


def test_consumed_items_are_bounded():
    """14 bytes each, `max_consumed` of them."""
    job = FakeJob(max_consumed=3)
    for number in range(5):
        [(_, request), _] = job.send(event("view", f"m{number}", f"e{number}", NOW_MS + 1_000 * number), AXES[0])

    assert 1 + 3 * 14 == len(request.consumed)


def serving(job: FakeJob) -> list[str]:
    """The versions that the next event's request carries."""
    number = len(interest.decode(decode_user_state(job.states["user-state"].held).interests).log)
    return job.send(event("view", "a", f"next-{number}", NOW_MS + number), AXES[0])[0][1].versions


def test_the_newest_serving_version_travels_on_the_request_and_the_ones_before_stand_in():
    """A candidate changes nothing; a rollback is one record; a retired or rejected version no more serves first."""
    job = FakeJob()
    seen = []
    for name, status in [
        ("v1", "serving"), ("v2", "candidate"), ("v2", "serving"), ("v3", "serving"),
        ("v2", "serving"), ("v3", "rejected"), ("v2", "retired"),
    ]:  # fmt: skip
        assert [] == job.tell(ModelVersion(name, f"r/{name}", status=status))
        seen.append(serving(job))

    assert [["r/v1"], ["r/v1"], ["r/v2", "r/v1"], ["r/v3", "r/v2", "r/v1"], ["r/v2", "r/v3", "r/v1"]] == seen[:5]
    assert ["r/v2", "r/v1"] == seen[5]
    assert "r/v1" == seen[6][0]


def test_what_serves_survives_a_restart_and_a_pin_with_it():
    """Old state, a list of paths, is read; three versions travel on the request, more are known to go back to."""
    job = FakeJob()
    job.broadcast["serving"] = ["r/v1/counts-000017"]
    job.send(event("view", "a", "first", NOW_MS), AXES[0])
    assert ["r/v1"] == serving(job)
    for number in range(2, 7):
        job.tell(ModelVersion(f"v{number}", f"r/v{number}", status="serving"))
    job.tell(ModelVersion("v5", "r/v5", status="serving", epoch=1, pinned=True))
    job.tell(ModelVersion("v6", "r/v6", status="rejected", epoch=1))
    restarted = FakeJob()
    restarted.broadcast.update(job.broadcast)
    restarted.states["user-state"].held = job.states["user-state"].held
    restarted.tell(ModelVersion("v7", "r/v7", status="serving", epoch=1))

    assert ["r/v5", "r/v4", "r/v3"] == serving(restarted)
    assert isinstance(job.broadcast["serving"], bytes)


def test_the_state_and_the_records_of_an_earlier_release_lead_to_the_versions_themselves():
    """It put the folder of the newest counts behind a version's path, and told of new ones: there are none now."""
    job = FakeJob()
    job.broadcast["serving"] = Serving(["r/v2/counts-000017", "r/v1/counts-000003"], led=True).encode()
    job.send(event("view", "a", "first", NOW_MS), AXES[0])
    seen = [serving(job)]
    for version in (
        ModelVersion("v1", "r/v1/counts-000004", status="counted"),
        ModelVersion("v1", "r/v1/counts-000004", status="serving"),
        ModelVersion("v2", "r/v2/counts-000017", status="rejected"),
    ):
        assert [] == job.tell(version)
        seen.append(serving(job))

    assert [["r/v2", "r/v1"], ["r/v2", "r/v1"], ["r/v1", "r/v2"], ["r/v1"]] == seen


@pytest.mark.parametrize("raw", UNREADABLE_VERSIONS)
def test_a_version_record_that_cannot_be_read_is_rejected_and_the_others_serve_on(raw):
    """The reason, the position and the first bytes are kept."""
    job = FakeJob()
    job.tell(ModelVersion("v1", "r/v1", status="serving"))
    [(side, record)] = job.tell(raw)

    assert ("rejected-events", "model-versions", 2, 7) == (
        side,
        record["source"],
        record["partition"],
        record["offset"],
    )
    assert 0 < len(record["reason"]) <= 300
    assert (raw or b"")[:RAW_BYTES] == base64.b64decode(record["raw"])
    assert ["r/v1"] == serving(job)


def test_every_so_many_examples_a_fine_tuning_is_asked_for():
    """The request says why, how many examples there were, and their span of event times."""
    job = FakeJob(every=3)
    told = [
        job.send(event("view", "a", f"e{number}", NOW_MS + time_ms), AXES[0])
        for number, time_ms in enumerate([20, 10, 30, 40])
    ]

    [request] = [record for answers in told for topic, record in answers if topic == "fine-tune-requests"]

    assert ("count", 3, NOW_MS + 10, NOW_MS + 30) == (
        request.why, request.examples, request.from_event_time_ms, request.to_event_time_ms
    )  # fmt: skip
    assert [2, 2, 3, 2] == [len(answers) for answers in told]


def test_after_an_age_a_fine_tuning_is_asked_for_with_what_there_is():
    """The age counts from the last request, or from the first example."""
    config = LearningPace(every=100, max_age_s=60)
    asked = [
        [(request.why, request.examples) for request in config.count(5, now_s)]
        for now_s in (1_000, 1_059, 1_060, 1_100, 1_121)
    ]

    assert [[], [], [("age", 3)], [], [("age", 2)]] == asked


# score


class FakeScorer:
    """A model version; it refuses catalogues where `fits` is false."""

    def __init__(self, name: str, fits: bool = True):
        self.name, self.fits = name, fits

    def table(self, statistics, catalogue):
        if not self.fits:
            raise VersionError(f"{self.name}: made for another encoder")


class FakeStatistics:
    """Item statistics that have counted seven examples, and follow nothing; `told` are events that were answered."""

    def __init__(self):
        self.lock, self.statistics, self.seen, self.passed_over, self.told = threading.Lock(), self, 7, 2, []

    def popular(self) -> list[int]:
        assert self.lock.locked()
        return [item_key(item_id) for item_id in "abc"]

    def used_bytes(self) -> int:
        return 1_000

    def answered(self, requests: list[Request]) -> None:
        assert self.lock.locked()
        self.told += [request.event_id for request in requests]

    def close(self) -> None:
        pass


class FakeMetrics:
    """A group of Flink's metrics, and the groups below it; `gauges` by the names of both and of the figure."""

    def __init__(self, names: tuple[str, ...] = (), gauges: dict | None = None):
        self.names, self.gauges = names, {} if gauges is None else gauges

    def add_group(self, name: str):
        return FakeMetrics((*self.names, name), self.gauges)

    def gauge(self, name: str, read) -> None:
        assert (*self.names, name) not in self.gauges
        self.gauges[*self.names, name] = read

    def read(self, group: str, name: str) -> int:
        return self.gauges["model_version", group, name]()


class FakeRegistry:
    """Loads every version but the broken ones and notes what was asked of it."""

    def __init__(self):
        self.asked, self.broken, self.unfit, self.odd, self.mad = [], set(), set(), set(), set()

    def load(self, path: str, items: Catalogue) -> FakeScorer:
        self.asked.append(path)
        if path in self.broken:
            raise VersionError(f"{path}: is broken")
        if path in self.odd:
            raise BadZipFile("x" * 10_000)
        if path in self.mad:
            raise SystemExit(1)
        return FakeScorer(path, path not in self.unfit)


@pytest.fixture
def registry():
    return FakeRegistry()


@pytest.fixture
def clock(monkeypatch):
    """The time that `Scorers` sees, in seconds."""
    clock = SimpleNamespace(now_s=1_000.0)
    monkeypatch.setattr(udfs.score, "time", SimpleNamespace(time_ns=lambda: 7_000_000))
    monkeypatch.setattr(udfs.loading, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    monkeypatch.setattr(udfs.loading, "FIRST_S", 0.01)
    return clock


FOLLOWS = Follows("nowhere:9092", "item-vectors", "training-examples", 1_000, StatisticsConfig(), 300.0)


class Loads:
    """Runs what is to be loaded at once, or, while `waiting`, when `go` is called."""

    def __init__(self):
        self.waiting, self.begun = False, []

    def begin(self, work) -> None:
        self.begun.append(work)
        if not self.waiting:
            self.go()

    def go(self) -> None:
        while self.begun:
            self.begun.pop(0)()


@pytest.fixture
def loads():
    return Loads()


@pytest.fixture
def score(registry, clock, loads):
    """`Score` whose lists hold one item: the version's path and how many requests were scored with it at once."""

    def rank(scorer, statistics, catalogue, requests, k, rules):
        assert statistics.lock.locked()
        calls.append([request.event_id for request in requests])
        return [[RecommendedItem(scorer.name, 1 / k)] for _ in requests]

    calls = []
    score = Score(Rules(), ListConfig(10), "cpu", FOLLOWS, "/nowhere", 1, "/nowhere")
    score._score, score._follower, score._statistics = rank, FakeFollower("a"), FakeStatistics()
    score._scorers = Scorers(registry.load, lambda dim: FakeScorer(f"untrained for {dim}"), loads.begin)
    score.calls = calls
    return score


def scored(score: Score, *versions: list[str]) -> tuple[list, list[str]]:
    """Lists and reasons of rejection for one request per list of versions; the n-th is of user un and event en."""
    packed = [
        encode_packed(Request(f"u{at}", f"e{at}", NOW_MS, paths, "serving", b"", b""))
        for at, paths in enumerate(versions)
    ]
    answer = score.eval(pd.DataFrame({"request": packed}))
    assert ["user_id", "recommendation", "rejected"] == list(answer.columns)
    lists = [decode_recommendation(value) for value in answer["recommendation"]]
    assert list(answer["user_id"]) == [one.user_id for one in lists]
    return lists, [json.loads(value)["reason"] for value in answer["rejected"] if value is not None]


def test_a_request_gets_its_list(score):
    """Named after its event alone, stamped with when it was made, by which version, and how much was counted."""
    [made], rejected = scored(score, ["r/v1"])

    assert (rec_id("u0", event_key("e0"), NOW_MS), "u0", "e0", NOW_MS) == (
        made.rec_id,
        made.user_id,
        made.event_id,
        made.event_time_ms,
    )
    assert (7, "v1", 7, "serving", [RecommendedItem("r/v1", 0.1)], []) == (
        made.emitted_at_ms, made.model_version, made.examples_seen, made.variant, made.items, rejected
    )  # fmt: skip


def test_what_is_counted_hears_of_every_list(score):
    """Under the lock, so that nothing is counted between a list and what came of its event."""
    scored(score, ["r/v1"], ["r/v2"])

    assert ["e0", "e1"] == score._statistics.told
    assert not score._statistics.lock.locked()


def test_the_requests_of_a_version_are_scored_together_and_every_list_says_its_version(score, registry):
    """A swap in the middle of a micro-batch never mixes versions within a list, nor the order of the lists."""
    lists, _ = scored(score, ["r/v1"], ["r/v2", "r/v1"], ["r/v1"], ["r/v2", "r/v1"], ["r/v1"])

    assert [["e0", "e2", "e4"], ["e1", "e3"]] == score.calls
    assert ["v1", "v2", "v1", "v2", "v1"] == [made.model_version for made in lists]
    assert ["r/v1", "r/v2", "r/v1", "r/v2", "r/v1"] == [made.items[0].item_id for made in lists]
    assert ["u0", "u1", "u2", "u3", "u4"] == [made.user_id for made in lists]
    assert ["r/v1", "r/v2"] == registry.asked


def test_a_version_is_loaded_once(score, registry):
    """As long as it serves."""
    for _ in range(3):
        scored(score, ["r/v1"])

    assert ["r/v1"] == registry.asked


def test_before_any_version_serves_lists_come_untrained(score):
    """The scorer is made for the catalogue's dimensions."""
    [made], rejected = scored(score, [])

    assert ("untrained", f"untrained for {DIM}", []) == (made.model_version, made.items[0].item_id, rejected)


@pytest.mark.parametrize("trouble", ["broken", "unfit", "odd", "mad"])
def test_where_a_version_cannot_be_used_the_next_one_serves(score, registry, trouble):
    """Broken, of another encoder, no version, or one that ends whoever loads it: rejected once; requests have lists."""
    getattr(registry, trouble).add("r/v2")
    first, rejected = scored(score, ["r/v2", "r/v1"], ["r/v2", "r/v1"])
    again, nothing = scored(score, ["r/v2", "r/v1"])

    assert ["v1", "v1", "v1"] == [made.model_version for made in first + again]
    assert (1, []) == (len(rejected), nothing)
    assert rejected[0].startswith("r/v2: ") and len(rejected[0]) <= 300
    assert 1 == registry.asked.count("r/v2")


def test_a_version_that_could_not_be_used_is_tried_again_later(score, registry, clock):
    """A registry may be away for a while; when the version is there, it serves."""
    registry.broken.add("r/v2")
    scored(score, ["r/v2", "r/v1"])
    registry.broken.clear()
    clock.now_s += udfs.loading.RETRY_S - 1
    [still], _ = scored(score, ["r/v2", "r/v1"])
    clock.now_s += 2
    [then], rejected = scored(score, ["r/v2", "r/v1"])

    assert ("v1", "v2", []) == (still.model_version, then.model_version, rejected)


@pytest.mark.parametrize("first, popularity", [("view", 500_000), ("purchase", 0)])
def test_flink_can_read_how_a_version_does_in_the_stream(score, first, popularity):
    """The list of the first event holds what the user does next, and not what comes after. Popularity is asked by the
    same rules: the item that comes back was popular all along, but is left out where it was bought.
    """
    metrics = FakeMetrics()
    score._gauges.register(metrics)
    score._score = lambda scorer, statistics, catalogue, requests, *rest: [
        [RecommendedItem("z", 0.1)] for _ in requests
    ]
    job, packed = FakeJob(), []
    for number, (action, item_id) in enumerate(((first, "a"), ("view", "z"), ("view", "a"))):
        [(_, request), _] = job.send(event(action, item_id, f"e{number}", NOW_MS + number), AXES[0])
        packed.append(encode_packed(structs.replace(request, versions=["r/v1"])))
    score.eval(pd.DataFrame({"request": packed}))
    names = ("version", "events", "hr_at_10_ppm", "popularity_hr_at_10_ppm")

    assert [1, 2, 500_000, popularity] == [metrics.read("serving", name) for name in names]


def test_flink_is_given_two_groups_however_many_versions_there_are(score):
    """The version that made the last list, and the one before it; registered once."""
    metrics = FakeMetrics()
    score._gauges.register(metrics)
    before = set(metrics.gauges)
    for number in range(50):
        scored(score, [f"r/v{number:05d}"])

    assert {"serving", "previous"} == {group for _, group, _ in before}
    assert before == set(metrics.gauges)
    assert [49, 48] == [metrics.read(group, "version") for group in ("serving", "previous")]


def test_flink_can_read_how_much_is_counted(score):
    """Examples, memory in bytes, and records that could not be read; also while lists are made."""
    metrics = FakeMetrics()
    score._gauges.register_statistics(metrics, score._statistics)
    with score._statistics.lock:
        read = {names: gauge() for names, gauge in metrics.gauges.items()}

    figures = {"examples": 7, "bytes": 1_000, "passed_over": 2}
    assert {("item_statistics", name): value for name, value in figures.items()} == read


def test_a_forget_is_answered_without_scoring(score, registry):
    """By a list without items that says so, made by no version, among the lists of others in their order."""
    requests = [Request(f"u{at}", f"e{at}", NOW_MS, ["r/v1"], "serving", b"", b"", forget=at == 1) for at in range(3)]
    answers = score.eval(pd.DataFrame({"request": [encode_packed(request) for request in requests]}))
    made = [json.loads(value) for value in answers["recommendation"]]

    assert [["e0", "e2"]] == score.calls
    assert ["u0", "u1", "u2"] == answers["user_id"].tolist() == [one["user_id"] for one in made]
    assert {
        "rec_id": rec_id("u1", event_key("e1"), NOW_MS), "user_id": "u1", "event_id": "e1", "event_time_ms": NOW_MS,
        "emitted_at_ms": 7, "model_version": "", "variant": "serving", "items": [], "forgotten": True,
    } == made[1]  # fmt: skip
    assert "forgotten" not in made[0].keys() | made[2].keys()


def test_the_list_of_a_forgotten_user_is_judged_no_more(score):
    """The live twin drops it, in the order of the requests: what the user had before is not known after."""
    job, packed = FakeJob(), []
    for number, action in enumerate(("view", "forget", "view")):
        [(_, request), *_] = job.send(
            event(action, None if action == "forget" else "z", f"e{number}", NOW_MS + number), AXES[0]
        )
        packed.append(encode_packed(request))
    score._score = lambda scorer, statistics, catalogue, requests, *rest: [
        [RecommendedItem("z", 0.1)] for _ in requests
    ]
    score.eval(pd.DataFrame({"request": packed}))

    assert 0 == score._twin.figures("untrained")["events"]


def test_the_newest_event_of_each_user_alone_is_answered_where_it_is_asked_for(score):
    """The last in the stream, whatever its time; a forget always; what is passed over is not scored."""
    score._answers = "newest"
    users = [("ann", 0), ("bob", 0), ("ann", 9), ("eve", 0), ("ann", 1), ("bob", 2), ("ann", 3)]
    packed = [
        encode_packed(Request(user, f"e{at}", NOW_MS + time_ms, ["r/v1"], "serving", b"", b"", forget=at == 5))
        for at, (user, time_ms) in enumerate(users)
    ]
    answers = score.eval(pd.DataFrame({"request": packed}))
    made = [value and decode_recommendation(value) for value in answers["recommendation"]]

    assert [user for user, _ in users] == answers["user_id"].tolist()
    assert [None, "e1", None, "e3", None, "e5", "e6"] == [one and one.event_id for one in made]
    assert [5] == [at for at, one in enumerate(made) if one and one.forgotten]
    assert [["e1", "e3", "e6"]] == score.calls


def test_a_refused_version_is_told_beside_an_event_that_is_not_answered(score, registry):
    """No record for `rejected-events` is lost with the list."""
    score._answers, registry.broken = "newest", {"r/v1"}
    packed = [encode_packed(Request("ann", f"e{at}", NOW_MS, ["r/v1"], "serving", b"", b"")) for at in range(2)]
    answers = score.eval(pd.DataFrame({"request": packed}))

    assert [True, False] == answers["recommendation"].isna().tolist()
    assert ["r/v1: is broken", None] == [value and json.loads(value)["reason"] for value in answers["rejected"]]


@pytest.mark.parametrize("answers, rate", [("every", 1.0), ("newest", 3 / 4)])
def test_an_event_that_is_not_answered_is_judged_by_the_last_list_that_the_user_had(score, answers, rate):
    """Every event but the first is judged: of 'a z z a z' in micro-batches of one, three and one, by lists that hold
    what came last.
    """
    score._answers = answers
    score._score = lambda scorer, statistics, catalogue, requests, *rest: [
        [RecommendedItem(last[request.event_id], 0.1)] for request in requests
    ]
    job, last, packed = FakeJob(), {}, []
    for number, item_id in enumerate("azzaz"):
        [(_, request), _] = job.send(event("view", item_id, f"e{number}", NOW_MS + number), AXES[0])
        last[f"e{number}"] = "zzaza"[number]
        packed.append(encode_packed(request))
    for start, end in ((0, 1), (1, 4), (4, 5)):
        score.eval(pd.DataFrame({"request": packed[start:end]}))
    figures = score._twin.figures("untrained")

    assert (4, rate) == (figures["events"], figures["hr_at_10"])


def test_where_no_version_can_be_used_lists_come_untrained(score, registry):
    """A list is better than none."""
    registry.broken.add("r/v1")
    [made], rejected = scored(score, ["r/v1"])

    assert ("untrained", ["r/v1: is broken"]) == (made.model_version, rejected)


def test_every_refused_version_is_told(score, registry):
    """Also when more are refused at once than there are lists to go with: the rest go with the next lists."""
    registry.broken |= {"r/v3", "r/v2"}
    _, now = scored(score, ["r/v3", "r/v2", "r/v1"])
    _, later = scored(score, ["r/v3", "r/v2", "r/v1"])

    assert ["r/v2: is broken", "r/v3: is broken"] == sorted(now + later)


def test_only_the_last_few_versions_stay_in_memory(score, registry):
    """The one that served longest ago makes room."""
    for number in range(udfs.loading.KEPT_VERSIONS + 1):
        scored(score, [f"r/v{number}"])
    registry.asked.clear()
    scored(score, [f"r/v{udfs.loading.KEPT_VERSIONS}"])
    scored(score, ["r/v0"])

    assert ["r/v0"] == registry.asked


def test_a_version_that_serves_all_the_time_is_never_loaded_again(score, registry):
    """Those that are tried beside it make room for each other, not in its place."""
    for number in range(udfs.loading.KEPT_VERSIONS + 1):
        scored(score, ["r/steady"], [f"r/v{number}"])

    assert 1 == registry.asked.count("r/steady")


def test_while_a_version_is_loaded_the_one_before_makes_the_lists(score, registry, loads):
    """Nothing waits for it, and nothing else is loaded in its place."""
    scored(score, ["r/v1"])
    loads.waiting = True
    [meanwhile], _ = scored(score, ["r/v2", "r/v1", "r/v0"])
    loads.go()
    [then], rejected = scored(score, ["r/v2", "r/v1", "r/v0"])

    assert ("v1", "v2", []) == (meanwhile.model_version, then.model_version, rejected)
    assert ["r/v1", "r/v2"] == registry.asked


def test_a_worker_that_starts_waits_a_little_for_its_first_version(score, loads):
    """And makes untrained lists if it has not come by then."""
    loads.waiting = True
    [at_first], _ = scored(score, ["r/v1"])
    loads.go()
    [then], rejected = scored(score, ["r/v1"])

    assert ("untrained", "v1", []) == (at_first.model_version, then.model_version, rejected)


def test_a_version_that_is_not_loaded_in_time_is_refused(score, loads, clock):
    """A registry that never answers holds up nothing; the version before serves on."""
    scored(score, ["r/v1"])
    loads.waiting = True
    scored(score, ["r/v2", "r/v1"])
    clock.now_s += udfs.loading.LOAD_S + 1
    [made], rejected = scored(score, ["r/v2", "r/v1"])

    assert "v1" == made.model_version
    assert ["r/v2: not loaded in 60 s; does the registry answer?"] == rejected


def test_threads_that_hang_are_few(score, registry, loads, clock):
    """Where several versions hang nothing more is begun; once they let go, versions are loaded again."""
    scored(score, ["r/v1"])
    loads.waiting = True
    for number in range(10):
        scored(score, [f"r/hangs{number}", "r/v1"])
        clock.now_s += udfs.loading.LOAD_S + 1
        [made], _ = scored(score, [f"r/hangs{number}", "r/v1"])
    assert (udfs.loading.MOST_LOADS, "v1") == (len(loads.begun), made.model_version)
    loads.go()
    scored(score, ["r/v2", "r/v1"])

    assert 1 == len(loads.begun)


def test_however_many_versions_are_bad_the_last_good_one_serves_on(score, registry):
    """Only the newest few travel on a request, and all of them may be bad."""
    scored(score, ["r/v1"])
    registry.broken |= {f"r/bad{number}" for number in range(9)}
    made = [scored(score, [f"r/bad{number + at}" for at in range(3)])[0][0].model_version for number in range(7)]

    assert ["v1"] * 7 == made


def test_versions_that_come_one_by_one_while_the_registry_hangs_wait_behind_few_threads(score, loads, clock):
    """The one that made the last list goes on, though no request names it any more."""
    scored(score, ["r/v1"])
    loads.waiting = True
    for number in range(2, 200):
        clock.now_s += 5
        [made], _ = scored(score, [f"r/v{number:05d}"])
        assert "v1" == made.model_version

    assert udfs.loading.MOST_LOADS == len(loads.begun)


def test_versions_that_are_announced_while_the_registry_hangs_wait_too(score, loads):
    """A hundred in a second: there is a thread for a few of them."""
    scored(score, ["r/v1"])
    loads.waiting = True
    for number in range(100):
        scored(score, [f"r/v{number:05d}", "r/v1"])

    assert udfs.loading.MOST_LOADS == len(loads.begun)


def test_versions_that_load_slower_than_new_ones_come_serve_all_the_same(score, loads, registry):
    """Those that are ready serve, although newer ones are asked for, and nothing piles up."""
    scored(score, ["r/v1"])
    loads.waiting, made = True, []
    for number in range(2, 12):
        made += scored(score, [f"r/v{number}", f"r/v{number - 1}", f"r/v{number - 2}"])[0]
        if number % 2:
            loads.go()

    assert ["v1", "v1", "v3", "v3", "v5"] == [one.model_version for one in made[:5]]
    most = udfs.loading.KEPT_VERSIONS + udfs.loading.MOST_LOADS
    assert len(score._scorers._loading) + len(score._scorers._loaded) <= most
    assert len(set(registry.asked)) == len(registry.asked)


def test_while_a_version_is_loaded_the_best_that_is_ready_serves(score, loads):
    """After a rollback that is not the one that made the last list."""
    scored(score, ["r/v1"])
    scored(score, ["r/v3", "r/v2", "r/v1"])
    loads.waiting = True
    [made], _ = scored(score, ["r/v2", "r/v1"])

    assert "v1" == made.model_version


def test_a_worker_whose_best_version_hangs_loads_those_that_stand_in(score, registry, loads):
    """It does not make untrained lists for as long as the best one may take."""
    work = []
    score._scorers = Scorers(
        registry.load, lambda dim: FakeScorer("untrained"), lambda one: work.append(one) if not work else one()
    )
    made = [scored(score, ["r/v3", "r/v2", "r/v1"])[0][0].model_version for _ in range(2)]

    assert "v2" == made[-1]
    assert ["r/v2", "r/v1"] == registry.asked


def test_a_version_is_refused_where_no_thread_can_be_had(score):
    """The process is at its limit: the one before serves on."""
    scored(score, ["r/v1"])

    def begin(work):
        raise RuntimeError("can't start new thread")

    score._scorers._begin_thread = begin
    [made], rejected = scored(score, ["r/v2", "r/v1"])

    assert "v1" == made.model_version
    assert ["r/v2: cannot be used: RuntimeError: can't start new thread"] == rejected


@pytest.mark.parametrize("error", [IndexError("row 9"), MemoryError(), VersionError("no numbers")])
def test_a_version_that_fails_at_a_list_is_refused_and_the_next_one_makes_it(score, error):
    """It did not when it was tried; every request has its list all the same."""

    def fails(scorer):
        if scorer.name == "r/v2":
            raise error

    rank = score._score
    score._score = lambda scorer, *rest: fails(scorer) or rank(scorer, *rest)
    made, rejected = scored(score, ["r/v2", "r/v1"], ["r/v2", "r/v1"])

    assert ["v1", "v1"] == [one.model_version for one in made]
    assert 1 == len(rejected)


def test_where_the_untrained_scorer_fails_too_no_version_is_to_blame(score):
    """Then it is an error of the job."""
    score._score = lambda *_: 1 / 0

    with pytest.raises(ZeroDivisionError):
        scored(score, ["r/v1"])


def test_without_items_no_version_is_tried(score, registry):
    """There would be nothing to try it on: it is loaded once there is."""
    score._follower.arrived.clear()
    [before], _ = scored(score, ["r/v1"])
    score._follower = FakeFollower("a")
    [then], _ = scored(score, ["r/v1"])

    assert ("untrained", "v1") == (before.model_version, then.model_version)
    assert ["r/v1"] == registry.asked


def test_a_worker_that_ends_waits_for_what_it_loads(score, monkeypatch):
    """A thread that is at work when the interpreter ends would end it badly; one that hangs is not waited for long."""
    monkeypatch.setattr(udfs.loading, "CLOSE_S", 0.01)
    go, over = threading.Event(), []
    score._scorers = Scorers(lambda *_: over.append(go.wait(10)), lambda dim: FakeScorer("untrained"))
    scored(score, ["r/v1"])
    score._scorers.close()
    assert [] == over
    go.set()
    monkeypatch.setattr(udfs.loading, "CLOSE_S", 10)
    score._scorers.close()

    assert [True] == over


def test_versions_are_loaded_by_a_thread_on_items_of_their_own():
    """What the job changes meanwhile does not reach the items on which a version is tried."""
    asked, go, follower = [], threading.Event(), FakeFollower("a", "b")
    follower.refresh()
    catalogue, follower.arrived = follower.catalogue, FakeFollower("late").arrived

    def load(path, items):
        go.wait(10)
        asked.append((threading.current_thread().name, len(items), items.encoder_version))
        return FakeScorer(path)

    scorers = Scorers(load, lambda dim: FakeScorer("untrained"))
    statistics = FakeStatistics()
    scorers.first([], statistics, catalogue)
    assert "untrained" == scorers.first(["r/v1"], statistics, catalogue)[0]
    follower.refresh()
    go.set()
    deadline = time.monotonic() + 10
    while "v1" != scorers.first(["r/v1"], statistics, catalogue)[0]:
        assert time.monotonic() < deadline

    assert 3 == len(catalogue)
    assert [("load-version", 2, VERSION)] == asked


def test_the_catalogue_is_brought_up_to_date_before_a_micro_batch(score):
    """And it never changes under one."""
    assert 0 == len(score._follower.catalogue)

    scored(score, ["r/v1"])

    assert 1 == len(score._follower.catalogue)


# From step to step


def test_interests_that_the_stream_kept_are_the_ones_that_are_scored(embed):
    """embed, update-interest and score mean the same by an encoder version, so nothing is dropped on the way.

    The user bought five times as much in the past as the log still holds: weights rebuilt from the log would be
    smaller.
    """
    from model.score import open_requests

    job = FakeJob()
    for number in range(100):
        [(_, record)] = embedded(embed, event("purchase", "a", f"e{number}", NOW_MS))
        [(_, request), *_] = job._told(job.update.process_element(encode_packed(record), job.context))
    [(_, record)] = embedded(embed, event("purchase", "b", "last", NOW_MS))
    [(_, request), *_] = job._told(job.update.process_element(encode_packed(record), job.context))

    batch = open_requests(embed._follower.catalogue, [request], Rules(), 20)

    assert np.allclose([100 / 101, 1 / 101], sorted(batch.weights[0].tolist(), reverse=True), atol=1e-4)


class Loading:
    """An encoder that only counts how often it is loaded."""

    loads = 0

    def load(self) -> None:
        self.loads += 1


@pytest.mark.parametrize("since_event_s, at_latest_s, loads", [(0.0, 600.0, 0), (2.0, 600.0, 1), (0.0, 0.0, 1)])
def test_the_language_model_is_loaded_when_nothing_waits(monkeypatch, since_event_s, at_latest_s, loads):
    """Not while events come; once they pause; or at last, whatever comes."""
    embed = Embed(EncoderConfig("", "cpu", 1), "", "", "", 60.0, 1_000)
    embed._encoder, embed._closed, turns = Loading(), threading.Event(), iter([False, False, True])
    monkeypatch.setattr(embed._closed, "wait", lambda _: next(turns))
    monkeypatch.setattr("udfs.embed.WARM_UP_S", 0.0)
    monkeypatch.setattr("udfs.embed.WARM_UP_AT_LATEST_S", at_latest_s)
    embed._busy_s = time.monotonic() - since_event_s
    embed._warm_up()

    assert loads == embed._encoder.loads


def test_a_micro_batch_does_not_wait_for_a_sampler():
    """Beam's thread that samples what a worker does is not started: nothing waits for it; twice is once."""
    worker.do_not_sample(), worker.do_not_sample()
    sampler, threads = StateSampler("step", CounterFactory()), threading.active_count()
    for _ in range(3):
        sampler.start()
        assert threads == threading.active_count()
        assert sampler is get_current_tracker()
        sampler.stop_if_still_running()
        assert get_current_tracker() is None
        sampler.reset()


def test_a_micro_batch_that_was_sampled_ends_as_it_began():
    """The first one begins before the worker is prepared: its thread is there, and is waited for."""
    sampler = StateSampler("step", CounterFactory())
    StateSampler.__mro__[1].start(sampler)  # what Beam does
    sampler.started = True
    worker.do_not_sample()
    sampler.stop_if_still_running()

    assert sampler.finished and not [thread for thread in threading.enumerate() if thread.name.endswith("(run)")]


def test_item_vectors_that_cannot_be_read_are_told(score, tmp_path):
    """By the scoring worker, with a list; the same record as every other topic's refused one."""
    replica = Replica(tmp_path)
    bad = [None, b"nope", encode_json(ItemVector("x", VERSION, b"abc")), encode_json(ItemVector("x", "", bytes(8)))]
    replica.apply((0, offset, value) for offset, value in enumerate(bad))
    score._follower.rejected = replica.rejected
    packed = [encode_packed(Request(f"u{at}", f"e{at}", NOW_MS, [], "serving", b"", b"")) for at in range(6)]
    told = [json.loads(value) for value in score.eval(pd.DataFrame({"r": packed}))["rejected"] if value is not None]
    replica.close()

    assert [("item-vectors", offset) for offset in range(4)] == [(one["source"], one["offset"]) for one in told]
    assert ["the record has no value", "JSON is malformed"] == [one["reason"][:23].split(":")[0] for one in told[:2]]
    assert all(one["reason"].startswith("no vector that can be read") for one in told[2:])
    assert not replica.rejected
