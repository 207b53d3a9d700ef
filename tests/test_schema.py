"""Records: what bad input gets, and which numbers must never change."""

import doctest
import json
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import msgspec
import numpy as np
import pytest

from jobs.settings import Settings
from model.interest import MOST_EVENTS, MOST_INTERESTS, Interests, encode
from model.schema import (
    RAW_BYTES,
    RECORD_BYTES,
    Embedded,
    Event,
    Example,
    InvalidRecord,
    Item,
    Reason,
    Recommendation,
    RecommendedItem,
    Rejected,
    StateError,
    UserState,
    decode_embedded,
    decode_event,
    decode_item,
    decode_user_state,
    encode_json,
    encode_packed,
    encode_recommendation,
    event_key,
    item_key,
    rec_id,
)

NOW_MS = 1_700_000_000_000
GOOD = b'{"event_id":"e1","user_id":"u1","item_id":"m1","action":"click","event_time_ms":1650000000000}'


def changed(old: bytes, new: bytes) -> bytes:
    """The good event with one part of it replaced."""
    assert old in GOOD
    return GOOD.replace(old, new)


BAD_EVENTS = {
    "no value": (None, "the record has no value"),
    "no bytes": (b"", "Input data was truncated"),
    "no JSON": (b"nope", "JSON is malformed: invalid character (byte 4)"),
    "JSON cut short": (GOOD[:-1], "Input data was truncated"),
    "something after the object": (GOOD + b" x", "JSON is malformed: trailing characters (byte 96)"),
    "no object": (b"[]", "Expected `object`, got `array`"),
    "a field is missing": (changed(b'"event_id":"e1",', b""), "Object missing required field `event_id`"),
    "integer user id": (changed(b'"u1"', b"7"), "Expected `str`, got `int` - at `$.user_id`"),
    "integer item id": (changed(b'"m1"', b"7"), "Expected `str | null`, got `int` - at `$.item_id`"),
    "time as text": (
        changed(b":1650000000000", b':"1650000000000"'),
        "Expected `int`, got `str` - at `$.event_time_ms`",
    ),
    "time before 1970": (changed(b":1650000000000", b":-1"), "Expected `int` >= 0 - at `$.event_time_ms`"),
    "time past 48 bits": (
        changed(b":1650000000000", b":281474976710656"),
        "Expected `int` <= 281474976710655 - at `$.event_time_ms`",
    ),
    "empty id": (changed(b'"u1"', b'""'), "Expected `str` of length >= 1 - at `$.user_id`"),
    "long id": (changed(b"u1", b"u" * 257), "Expected `str` of length <= 256 - at `$.user_id`"),
    "an id with NUL": (changed(b"m1", b"m\\u00001"), r"Expected `str` matching regex '\\A[^\\0]*\\Z' - at `$.item_id`"),
    "unknown action": (changed(b"click", b"jump"), "Invalid enum value 'jump' - at `$.action`"),
    "far future": (
        changed(b":1650000000000", b":1700000301000"),
        "event_time_ms is 301 s in the future: at most 300 s are taken",
    ),
    "search without query": (changed(b"click", b"search"), "a search needs a query"),
    "search with an empty query": (
        changed(b"click", b'search","query":"'),
        "Expected `str` of length >= 1 - at `$.query`",
    ),
    "view without item": (
        b'{"event_id":"e","user_id":"u","action":"view","event_time_ms":1650000000000}',
        "a view needs an item_id",
    ),
    "view with item null": (changed(b'"m1","action":"click"', b'null,"action":"view"'), "a view needs an item_id"),
    "no UTF-8": (changed(b"u1", b"\xff"), "no UTF-8: invalid start byte at byte 28"),
    "no UTF-8 in a field that is not ours": (
        changed(b":1650000000000", b':1650000000000,"more":"\xff"'),
        "no UTF-8: invalid start byte at byte 102",
    ),
    "half a surrogate pair": (
        changed(b"e1", b"\\ud800"),
        "JSON is malformed: unexpected end of escaped utf-16 surrogate pair (byte 19)",
    ),
    "not a number": (
        changed(b":1650000000000", b':1650000000000,"value":NaN'),
        "JSON is malformed: invalid character (byte 102)",
    ),
    "endless number": (
        changed(b":1650000000000", b':1650000000000,"value":1e400'),
        "Number out of range - at `$.value`",
    ),
    "deep nesting": (
        changed(b":1650000000000", b':1650000000000,"context":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        "maximum recursion depth exceeded while deserializing an object",
    ),
    "deep nesting in a field that is not ours": (
        changed(b":1650000000000", b':1650000000000,"more":' + b"[" * 50_000 + b"]" * 50_000),
        "maximum recursion depth exceeded while deserializing an object",
    ),
}


@pytest.mark.parametrize("raw, reason", BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_a_bad_event_is_refused_with_its_reason(raw, reason):
    """Whatever the bytes, the answer is `InvalidRecord`, and its message says what is wrong and where."""
    with pytest.raises(InvalidRecord) as refused:
        decode_event(raw, NOW_MS)

    assert reason == str(refused.value)


def test_a_good_event_comes_through():
    """A field that is not given is None."""
    expected = Event("e1", "u1", "click", 1_650_000_000_000, "m1")

    assert expected == decode_event(GOOD, NOW_MS)


def test_an_event_that_is_too_large_is_refused_before_it_is_read():
    """The message names both sizes; a record of exactly the limit is taken."""
    with pytest.raises(InvalidRecord) as refused:
        decode_event(GOOD, NOW_MS, max_bytes=93)

    assert "94 bytes: at most 93 are taken" == str(refused.value)
    assert "e1" == decode_event(GOOD, NOW_MS, max_bytes=94).event_id


def test_a_clock_that_runs_a_little_ahead_is_forgiven():
    """An event is taken up to `max_future_s` ahead of now, that moment included."""
    event = decode_event(changed(b":1650000000000", b":1700000300000"), NOW_MS, max_future_s=300)

    assert NOW_MS + 300_000 == event.event_time_ms


def test_unknown_fields_are_ignored():
    """Producers may add fields of their own, of any kind."""
    raw = changed(b":1650000000000", b':1650000000000,"session":{"a":[1,null]},"user_agent":"x"')

    assert decode_event(GOOD, NOW_MS) == decode_event(raw, NOW_MS)


@pytest.mark.parametrize("action", ["forget", "impression"])
def test_an_event_that_is_about_no_item_needs_none(action):
    """`forget` and `impression` come without an item."""
    raw = b'{"event_id":"e","user_id":"u","action":"%s","event_time_ms":1650000000000}' % action.encode()

    assert None is decode_event(raw, NOW_MS).item_id


def test_any_event_that_is_taken_can_be_passed_on():
    """An integer of any length in `context` does not stop the job: the event is refused, or reaches the next step."""
    raw = changed(b":1650000000000", b':1650000000000,"context":{"n":123456789012345678901234567890}')
    try:
        event = decode_event(raw, NOW_MS)
    except InvalidRecord:
        return

    assert "e1" == decode_embedded(encode_packed(Embedded(event, 1, 1, b""))).event.event_id


BAD_ITEMS = {
    "no value": (None, "the record has no value"),
    "no JSON": (b"{", "Input data was truncated"),
    "no item id": (b"{}", "Object missing required field `item_id`"),
    "integer item id": (b'{"item_id":5}', "Expected `str`, got `int` - at `$.item_id`"),
    "title null": (b'{"item_id":"m1","title":null}', "Expected `str`, got `null` - at `$.title`"),
    "a category that is no text": (
        b'{"item_id":"m1","categories":["a",1]}',
        "Expected `str`, got `int` - at `$.categories[1]`",
    ),
    "an id with NUL": (b'{"item_id":"m\\u0000"}', r"Expected `str` matching regex '\\A[^\\0]*\\Z' - at `$.item_id`"),
    "too large": (b'{"item_id":"m1","text":"' + b"x" * 100 + b'"}', "126 bytes: at most 100 are taken"),
}


@pytest.mark.parametrize("raw, reason", BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_a_bad_item_is_refused_with_its_reason(raw, reason):
    """Items are checked as events are."""
    with pytest.raises(InvalidRecord) as refused:
        decode_item(raw, max_bytes=100)

    assert reason == str(refused.value)


def test_the_language_model_reads_what_is_there_of_an_item():
    """Title, categories and text, in this order; an empty part leaves no gap."""
    assert "Heat. crime, drama. Two men." == Item("m1", "Heat", "Two men.", ["crime", "drama"]).as_text()
    assert "Heat" == Item("m1", "Heat").as_text()
    assert "" == Item("m1").as_text()


def test_a_reason_always_has_its_items():
    """A consumer may loop over them; records of earlier releases, which left out an empty list, are still read."""
    assert b'{"signal":"popularity","share":0.5,"items":[]}' == encode_json(Reason("popularity", 0.5))
    assert b'{"item_id":"m1","probability":0.1,"reasons":[]}' == encode_json(RecommendedItem("m1", 0.1))
    assert Reason("popularity", 0.5) == msgspec.json.decode(b'{"signal":"popularity","share":0.5}', type=Reason)


def test_numbers_and_names_never_change():
    """State, models and consumers hold them: the golden values are those of the first release."""
    assert 6104225451280506833 == item_key("m1")
    assert 2358690390 == event_key("e1")
    assert "927dff193e5751a4e52c163e" == rec_id("u1", event_key("e1"), 1_000)


def test_any_id_has_a_number():
    """Text beyond ASCII, and even half a surrogate pair, gets a key other than 0."""
    ids = ["", "é", "日本", "\ud800", "x" * 256]

    assert len(ids) == len({item_key(item_id) for item_id in ids} - {0})


def test_lists_of_different_events_have_different_names():
    """User, event and time each count."""
    names = {rec_id("u1", 1, 2), rec_id("u2", 1, 2), rec_id("u1", 2, 2), rec_id("u1", 1, 3)}

    assert 4 == len(names)


def test_a_rejected_record_keeps_its_bytes():
    """`raw` is base64 in the JSON, so bytes of any kind survive; the position says where they came from."""
    record = Rejected.of("events", 2, 7, "no UTF-8", b"\xff\x00")
    digest = b"ea5dbf9596d187e9500f23e9a680109475341cf4e81f7e043f7d97152c10772f"

    assert record.as_json() == (
        b'{"source":"events","partition":2,"offset":7,"reason":"no UTF-8","raw":"/wA=","raw_bytes":2,"sha256":"'
        + digest
        + b'"}'
    )
    assert record == decode_embedded(encode_packed(record))


@pytest.mark.parametrize("raw", [b"\xff" * 900_000, b" " * 30_000_000, b"", None], ids=["900 KB", "30 MB", "0", "null"])
def test_whatever_is_refused_the_record_of_it_is_one_that_any_broker_takes(raw):
    """64 KB of it, the length and the hash of all of it, 300 characters of the reason, which can take 6 bytes each."""
    record = Rejected.of("t" * 249, 2**31 - 1, 2**63 - 1, "\x01" * 900_000, raw)

    assert len(record.as_json()) < 100_000
    assert ((raw or b"")[:RAW_BYTES], len(raw or b"")) == (record.raw, record.raw_bytes)
    assert sha256(raw or b"").hexdigest() == record.sha256


@pytest.mark.parametrize("ids, kept, with_reasons", [
    ("{:09}", 1_000, True), ("{:036}", 1_000, True), ("{:0256}", 1_000, False),
    ("\U0001f600" * 252 + "{:04}", 930, False),
    ("\x01" * 252 + "{:04}", 632, False),
])  # fmt: skip
def test_the_longest_list_is_a_record_that_any_broker_takes(ids, kept, with_reasons):
    """A thousand items with reasons; ids of 256 characters take up to 1,536 bytes. Reasons go first, then the last
    items.
    """
    names = [ids.format(number) for number in range(1_000)]
    reasons = [[Reason("popularity-20k", 0.5, 3, [name, name])] * 2 for name in names]
    items = [RecommendedItem(*item) for item in zip(names, [0.123456789012345] * 1_000, reasons)]
    user = "\U0001f600" * 256
    encoded = encode_recommendation(Recommendation("r" * 24, user, user, 2**48, 2**48, "v" * 256, "serving", items))
    listed = msgspec.json.decode(encoded, type=Recommendation).items

    assert len(encoded) <= RECORD_BYTES
    assert names[:kept] == [item.item_id for item in listed]
    assert (items if with_reasons else []) == [item for item in listed if item.reasons]


def test_the_longest_example_is_a_record_that_any_broker_takes():
    """The interests of a user at the largest settings, with a query of 4,096 dimensions, and the longest ids."""
    count = MOST_INTERESTS
    interests = Interests(
        vectors=np.ones((count, 64), np.float32), weights=np.ones(count, np.float32),
        touched_ms=np.zeros(count, np.uint64), edges=np.ones((count, count), np.float32),
        log=np.zeros(MOST_EVENTS, Interests().log.dtype), query=np.ones(4_096, np.float32),
    )  # fmt: skip
    longest = "\x01" * 256
    example = Example(longest, longest, 2**48, longest, "purchase", encode(interests), "s" * 24)

    assert len(encode_json(example)) < RECORD_BYTES / 4


LONGEST = dict.fromkeys(("event_id", "user_id", "item_id", "rec_id"), "\U0001f600" * 256)


def test_the_longest_event_is_taken():
    """Every field at its longest, and every character written as two escapes of six bytes."""
    event = LONGEST | {"query": "\U0001f600" * 4_096, "action": "impression", "event_time_ms": NOW_MS, "value": 1.5}
    raw = json.dumps(event).encode()

    assert 61_000 < len(raw) <= Settings().max_event_bytes
    assert event["query"] == decode_event(raw, NOW_MS, max_bytes=Settings().max_event_bytes).query


@pytest.mark.parametrize("time_ms", [0, 5, 19_700, 1_700_000_000, 99_999_999_999])
def test_a_time_that_is_no_milliseconds_is_refused_in_a_sentence(time_ms):
    """Seconds, and days since 1970; in milliseconds they would be before March 1973. The tests of other modules, which
    do not come this way, count from 0.
    """
    with pytest.raises(InvalidRecord) as refused:
        decode_event(changed(b"1650000000000", b"%d" % time_ms), NOW_MS)

    assert (
        f"event_time_ms {time_ms} looks like seconds: milliseconds since 1970 are wanted, "
        "at least 100000000000 (March 1973)" == str(refused.value)
    )


@pytest.mark.parametrize("time_ms", [100_000_000_000, 881_250_949_000, NOW_MS])
def test_a_time_since_march_1973_is_taken(time_ms):
    """MovieLens-100k is of 1997."""
    assert time_ms == decode_event(changed(b"1650000000000", b"%d" % time_ms), NOW_MS).event_time_ms


def modules_with_examples() -> list[str]:
    root = Path(__file__).parent.parent
    files = [
        file
        for layer in ("model", "udfs", "jobs", "serving", "scripts")
        for file in sorted((root / layer).rglob("*.py"))
    ]
    return [".".join(file.relative_to(root).with_suffix("").parts) for file in files if ">>> " in file.read_text()]


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples_in_docstrings_run(module):
    """A docstring's example gives what it says."""
    failed, tried = doctest.testmod(import_module(module))

    assert (0, True) == (failed, tried > 0)


def test_a_users_state_stays_readable_for_ever():
    """The bytes of the first release that kept it in one value; none are a new user, others are no state."""
    golden = b"\x92\xc4\x02ab\xc4\x01c"

    assert (UserState(b"ab", b"c"), golden) == (decode_user_state(golden), encode_packed(UserState(b"ab", b"c")))
    assert UserState() == decode_user_state(None)
    with pytest.raises(StateError, match="6 bytes of a user's state cannot be read"):
        decode_user_state(golden[:6])
