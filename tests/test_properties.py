"""Whatever bytes a topic carries become a record or a reason; whatever table pandas writes is read or refused in a
sentence.

Inputs are drawn by hypothesis, the same ones in every run: 12,265 in all, `inputs` says how many each test takes.
"""

import json
import tempfile
import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, configuration, given, settings
from hypothesis import strategies as st

from model import consumed, interest, user
from model.catalogue import Catalogue
from model.interest import Rules
from model.schema import (
    REASON_CHARS,
    Event,
    ItemVector,
    ModelVersion,
    StateError,
    UserState,
    decode_embedded,
    decode_event,
    decode_fine_tune_request,
    decode_item,
    decode_item_vector,
    decode_model_version,
    decode_recommendation,
    decode_user_state,
    decoded,
    encode_packed,
)
from model.score import Scorer, score
from model.statistics import ItemStatistics
from model.versions import Serving, follow, name_of, next_name
from scripts import data
from serving.store import Store
from tests import poison
from udfs.examples import read_example

NOW_MS = 1_800_000_000_000
configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "headrace-hypothesis")  # not in the repository
EVERYTHING = settings(
    deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)  # fmt: skip


def inputs(count: int):
    return settings(EVERYTHING, max_examples=count)


# Bytes

VALID = {
    "events": {
        "event_id": "e", "user_id": "u", "item_id": "i0", "action": "rating", "event_time_ms": NOW_MS, "value": 3.5,
        "query": "q", "rec_id": "r", "context": {"a": [1]},
    },
    "items": {"item_id": "i", "title": "t", "text": "x", "categories": ["c"], "attributes": {"a": 1}, "deleted": False},
    "item-vectors": {
        "item_id": "i", "encoder_version": "m", "vector": "ADwAPA==", "content_hash": "h", "deleted": False,
    },
    "recommendations": {
        "rec_id": "r", "user_id": "u", "event_id": "e", "event_time_ms": 1, "emitted_at_ms": 2, "model_version": "v",
        "variant": "s", "items": [{"item_id": "i", "probability": 0.5, "reasons": [{"signal": "s", "share": 1.0}]}],
    },
    "training-examples": {
        "user_id": "u", "event_id": "e", "event_time_ms": NOW_MS, "item_id": "i", "action": "view",
        "interests": "AgEBAEAA1FnU1VjNY83LAAAAAAABAABEAADAP1jNY83LAAAA", "shown": "r",
    },
    "fine-tune-requests": {"why": "count", "examples": 1, "from_event_time_ms": 1, "to_event_time_ms": 2},
    "model-versions": {
        "version": "v00001", "path": "/m/v00001/counts-000001", "parent": "v0", "metrics": {"hr": 0.5},
        "status": "serving", "reason": "x", "epoch": 1, "pinned": True,
    },
    "rejected-events": {"source": "events", "partition": 0, "offset": 1, "reason": "bad", "raw": "AAAA"},
}  # fmt: skip
"""Topic -> a record that is right."""

DECODERS = {
    "events": lambda raw: decode_event(raw, NOW_MS),
    "items": decode_item,
    "item-vectors": decode_item_vector,
    "recommendations": decode_recommendation,
    "training-examples": read_example,
    "fine-tune-requests": decode_fine_tune_request,
    "model-versions": decode_model_version,
}

ODD_TEXT = st.one_of(
    st.text(max_size=20),
    st.text(alphabet=st.characters(codec=None), max_size=5),  # surrogates too
    st.sampled_from(
        ["", "..", "\0", "v²", "v" + "9" * 300, "/counts-²", "/m/v1/counts-" + "9" * 3_000, "ADwAPA==", "NaN"]
    ),
)
ODD_NUMBER = st.one_of(
    st.integers(), st.floats(), st.sampled_from([2**48 - 1, 2**48, 2**53, 2**63, 2**64, -1, 0, 10**400, 1e308])
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | ODD_NUMBER | ODD_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_TEXT, inner, max_size=3),
    max_leaves=4,
)


def as_json(value) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


@st.composite
def nearly_right(draw, topic: str) -> bytes:
    """A record of this topic with one or two fields dropped or changed, or with some of its bytes."""
    record = dict(VALID[topic])
    for name in draw(st.lists(st.sampled_from(sorted(record)), min_size=1, max_size=2)):
        if draw(st.booleans()):
            record[name] = draw(ANYTHING)
        else:
            record.pop(name, None)
    raw = bytearray(as_json(record))
    match draw(st.integers(0, 5)):
        case 0:
            raw = raw[: draw(st.integers(0, len(raw)))]
        case 1:
            raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
        case 2:
            at = draw(st.integers(0, len(raw)))
            raw[at:at] = draw(st.binary(max_size=4))
    return bytes(raw)


def any_bytes(topic: str):
    poisons = [raw for raw in poison.of(topic, "m").values() if raw is None or len(raw) < 10_000]
    return st.one_of(
        nearly_right(topic),
        nearly_right(topic),
        ANYTHING.map(as_json),
        st.binary(max_size=60),
        st.sampled_from(poisons),
    )


@pytest.mark.parametrize("topic", DECODERS)
def test_poison_is_refused_for_a_reason_or_does_no_harm(topic):
    """The large ones too, which are not drawn."""
    for raw in poison.of(topic, "m").values():
        said = decoded(raw, DECODERS[topic])
        assert not isinstance(said, str) or 0 < len(said) <= REASON_CHARS


@pytest.mark.parametrize("topic", DECODERS)
def test_any_bytes_are_a_record_or_a_reason(topic):
    """On every topic; the reason is short, and printed as it is."""

    @inputs(800)
    @given(any_bytes(topic))
    def check(raw):
        said = decoded(raw, DECODERS[topic])
        assert not isinstance(said, str) or 0 < len(said) <= REASON_CHARS

    check()


@inputs(150)
@given(st.lists(any_bytes("events"), max_size=6), st.binary(max_size=80))
def test_what_is_an_event_can_be_folded_into_a_user(raws, state):
    """And what a user has come to can be stored, read again and asked for; a state that is none is a StateError."""
    for first in (b"", state):
        kept = first
        for raw in raws:
            event = decoded(raw, lambda raw: decode_event(raw, NOW_MS))
            if isinstance(event, str):
                continue
            vector, query = (np.full(64, 0.125, "f4"), np.ones(4, "f4")) if event.item_id else (None, np.ones(4, "f4"))
            record = decode_embedded(encode_packed(user.embedded(event, 7, 1, vector, query)))
            try:
                kept = user.update(kept, record, Rules()).state
                encode_packed(user.request(kept, event.user_id, event.event_id, event.event_time_ms))
            except StateError:
                assert first and kept == first
                break
            interest.decode(decode_user_state(kept).interests)


@inputs(3_000)
@given(
    st.binary(max_size=120)
    | st.binary(max_size=60).map(lambda tail: Path("tests/data/interests-v2.bin").read_bytes()[:40] + tail)
)
def test_any_bytes_are_a_state_or_no_state(raw):
    """Of a user, of its interests, of what it consumed."""
    for read in (decode_user_state, interest.decode, consumed.opened):
        try:
            read(raw)
        except StateError as error:
            assert str(error)


def used() -> tuple[bytes, bytes]:
    """The two parts of the state of a user who has done a little of everything."""
    kept = b""
    for number, action in enumerate(("view", "purchase", "rating", "search", "dislike", "view")):
        event = Event(f"e{number}", "u", action, 1_000 * number, f"i{number}", 3.0, "q")
        vector = np.eye(64, dtype="f4")[number % 3]
        kept = user.update(kept, user.embedded(event, number + 1, 1, vector, np.ones(4, "f4")), Rules()).state
    known = decode_user_state(kept)
    return known.interests, known.consumed


WRITTEN = st.tuples(
    st.integers(0, 1),
    st.integers(0, 10_000),
    st.sampled_from([b"\xff", b"\x7f", b"\xff\xff\x7f\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\xc0\xff", b"\x00\xfc"])
    | st.binary(min_size=1, max_size=2),
)
"""Which part of a state, where in it, and what somebody wrote over it."""


@inputs(600)
@given(st.lists(WRITTEN, min_size=1, max_size=3))
def test_a_state_that_can_be_read_can_be_gone_on_with(changes):
    """Whatever became of its bytes: who can be read can be folded into, and what comes of it is finite."""
    parts = [bytearray(part) for part in used()]
    for part, at, octets in changes:
        at %= len(parts[part])
        parts[part][at : at + len(octets)] = octets[: len(parts[part]) - at]
    state = encode_packed(UserState(*map(bytes, parts)))
    try:
        for number, action in enumerate(("view", "impression", "dislike", "search")):
            event = Event(f"x{number}", "u", action, 3_000 * number, "i1", query="q")
            state = user.update(
                state, user.embedded(event, 2, 1, np.eye(64, dtype="f4")[1], np.ones(4, "f4")), Rules()
            ).state
    except StateError:
        return
    known = decode_user_state(state)
    found = interest.decode(known.interests)
    consumed.excluded(consumed.opened(known.consumed), 1.0, Rules().exclude_s)

    assert all(np.isfinite(part).all() for part in (found.vectors, found.weights, found.edges, found.query))
    assert interest.newest(known.interests)


@inputs(15)
@given(st.lists(any_bytes("events"), min_size=1, max_size=4))
def test_whoever_did_whatever_gets_a_list_of_probabilities(raws):
    """From an untrained scorer: as many as there are items that may be listed, falling, each from 0 to 1."""
    catalogue = Catalogue()
    vectors = np.eye(8, dtype="<f2")
    catalogue.apply(ItemVector(f"i{row}", "m", vector.tobytes()) for row, vector in enumerate(vectors))
    state = b""
    for raw in raws:
        event = decoded(raw, lambda raw: decode_event(raw, NOW_MS))
        if isinstance(event, str):
            continue
        record = user.embedded(event, 7, catalogue.encoder, np.full(64, 0.125, "f4"), vectors[0].astype("f4"))
        state = user.update(state, record, Rules()).state
    [list_] = score(
        Scorer.untrained(8), ItemStatistics(), catalogue, [user.request(state, "u", "e", NOW_MS)], 5, Rules()
    )
    chances = [item.probability for item in list_]

    assert chances == sorted(chances, reverse=True) and all(0 < chance <= 1 for chance in chances) and len(chances) >= 3


@inputs(150)
@given(st.lists(any_bytes("item-vectors"), max_size=6))
def test_a_catalogue_takes_whatever_comes(raws):
    """And holds vectors of one length, all finite."""
    catalogue = Catalogue()
    for raw in raws:
        item = decoded(raw, decode_item_vector)
        catalogue.apply([] if isinstance(item, str) else [item])

    assert np.isfinite(catalogue.vectors).all() and np.isfinite(catalogue.interest_vectors).all()
    assert len(catalogue.item_ids) == len(catalogue.vectors) == len(set(catalogue.item_ids))


@inputs(250)
@given(st.lists(any_bytes("model-versions").map(lambda raw: decoded(raw, decode_model_version)), max_size=8))
def test_whatever_is_announced_few_versions_serve_and_a_pin_holds(records):
    """The fold never fails, its state can be stored, and only a later decision by hand ends a pin."""
    serving, names = Serving(), []
    for version in records:
        if isinstance(version, str):
            continue
        before, serving = serving, follow(serving, version)
        names.append(version.version)
        assert len(serving.paths) == len(set(serving.paths)) <= 12
        assert serving == Serving.decode(serving.encode())
        assert all(isinstance(name_of(path), str) for path in serving.paths)
        if before.pinned and serving.epoch == before.epoch and version.status == "serving":
            assert before.paths[:1] == serving.paths[:1] or version.epoch == before.epoch
    name = next_name(names)

    assert name not in names and decoded(as_json({"version": name, "path": name}), decode_model_version)
    assert follow(serving, ModelVersion(name, name, status="serving", epoch=serving.epoch + 1)).paths[0] == name


@pytest.mark.parametrize("topic", ["recommendations", "items", "model-versions", "rejected-events"])
def test_the_page_takes_whatever_comes(topic):
    """And can be asked for everything it shows, as JSON of a bounded size."""

    @inputs(100)
    @given(
        st.lists(st.tuples(st.none() | st.binary(max_size=10), st.none() | any_bytes(topic)), max_size=6),
        st.integers(0, 2**60),
    )
    def check(records, timestamp_ms):
        store = Store()
        for key, value in records:
            store.apply(topic, key, value, timestamp_ms)
        for view in (store.status(), store.users(50), store.list_of("u")):
            assert len(json.dumps(view, allow_nan=False)) < 2_000_000

    check()


# Files

CELLS = st.one_of(
    st.text(max_size=8), st.integers(), st.floats(), st.booleans(), st.none(), st.decimals(), st.binary(max_size=4),
    st.dates(), st.datetimes(), st.timedeltas(), st.lists(st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(
        ["1", "1.0", "NA", "null", "", " ", "\0", "a|b", "a,b", '"', "\r\n", "=1", "007", "[/]", "٣", "1_000"],
    ),
)  # fmt: skip
TIMES = st.sampled_from(
    [NOW_MS, 875_000_000_000, str(NOW_MS), float(NOW_MS), NOW_MS // 1000, Decimal(NOW_MS), None, "", "soon"]
)
DTYPES = ["int8", "int64", "uint64", "float16", "float32", "float64", "bool", "datetime64[ns]", "datetime64[ms]",
          "timedelta64[s]", "string", "category", "Int64", "boolean", "Float64", "object"]  # fmt: skip


@st.composite
def columns(draw, rows: int, usual) -> pd.Series:
    """A column of one kind of cells, or of any."""
    if draw(st.integers(0, 2)):
        return pd.Series(draw(st.lists(usual, min_size=rows, max_size=rows)), dtype=object)
    if draw(st.booleans()):
        return pd.Series(draw(st.lists(CELLS, min_size=rows, max_size=rows)), dtype=object)
    numbers = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    return pd.Series(numbers, dtype="int64").astype(draw(st.sampled_from(DTYPES)))


@st.composite
def tables(draw) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events and items, nearly right most of the time."""
    rows, ids = draw(st.integers(0, 4)), st.sampled_from(["1", "2", 1, 2.0])
    usual = {
        "user_id": ids, "item_id": ids, "event_time_ms": TIMES,
        "action": st.sampled_from(["view", "rating", "", None, "x"]),
        "value": st.floats() | st.none(), "query": st.text(max_size=3), "event_id": ids, "rec_id": ids,
    }  # fmt: skip
    names = ["user_id", "item_id", "event_time_ms", *draw(st.lists(st.sampled_from(sorted(usual)), max_size=2))]
    events = {name: draw(columns(rows, usual[name])) for name in names if draw(st.integers(0, 30))}
    usual = {
        "item_id": ids,
        "title": st.text(max_size=5),
        "text": st.text(max_size=5),
        "categories": st.sampled_from(["a|b", ["a"], None, 3]),
    }
    rows = draw(st.integers(0, 3))
    items = {name: draw(columns(rows, kind)) for name, kind in usual.items() if draw(st.integers(0, 30))}
    return pd.DataFrame(events), pd.DataFrame(items)


def written(table: pd.DataFrame, file: Path) -> bool:
    """Whether pandas can write the table as this kind of file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table.to_parquet(file) if file.suffix == ".parquet" else table.to_csv(file, index=False, encoding="utf-8")
    except Exception:  # whatever pandas and pyarrow say of it: then there is no such file
        return False
    return True


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_any_table_that_pandas_writes_is_read_or_refused_in_a_sentence(tmp_path, suffix, capsys):
    """What is read has text for ids, whole milliseconds for times, and as many rows as the file."""
    files = tmp_path / f"events{suffix}", tmp_path / f"items{suffix}"

    @inputs(300)
    @given(tables())
    def check(both):
        if not all(written(table, file) for table, file in zip(both, files)):
            return
        try:
            events, items = data.read(*files)
            valid, refused = data.check_events(events)
        except data.DataError as error:
            assert str(error).startswith(f"{tmp_path}/") and str(error).isprintable()
            return
        assert len(events) == len(valid) + len(refused) == len(both[0])
        assert len(items) == len(both[1])
        assert all(
            (isinstance(one.user_id, str) and not one.user_id.endswith(".0")) or suffix == ".csv" for one in valid
        )
        assert all(isinstance(item_id, str) for item_id in items["item_id"])

    check()
    capsys.readouterr()


@inputs(500)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_file_or_refused_in_a_sentence(tmp_path, raw):
    """As CSV, as Parquet, compressed or not, behind a header or not."""
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n1,Lamp\n")
    for name, head in (
        ("a.csv", b""), ("b.csv", b"user_id,item_id,event_time_ms\n"), ("c.parquet", b"PAR1"),
        ("d.csv.gz", b"\x1f\x8b\x08"),
    ):  # fmt: skip
        events = tmp_path / name
        events.write_bytes(head + raw)
        try:
            data.check_events(data.read(events, items)[0])
        except data.DataError as error:
            said = str(error)
            assert said.startswith(f"{tmp_path}/") and said.isprintable() and len(said) < len(str(tmp_path)) * 2 + 900


# Words


@inputs(1_000)
@given(
    st.lists(
        st.sampled_from(["--k", "--device", "--seed", "--encoder", "--max_interests", "--exclude_after", "--x"])
        | ODD_TEXT,
        max_size=5,
    ),
    st.dictionaries(
        st.sampled_from(["HEADRACE_K", "HEADRACE_SEED", "HEADRACE_PORT", "HEADRACE_RATING_SCALE", "HEADRACE_"]),
        ODD_TEXT,
        max_size=2,
    ),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_words_are_settings_or_refused_in_a_sentence(words, environ):
    """A refusal is one printable line of a bounded length, that begins with the word as it was given."""
    from jobs.settings import SettingsError, load

    try:
        load(words, environ)
    except SettingsError as error:
        said = str(error)
        names = [word.partition("=")[0] for word in words] + [*environ, "exclude_after", "rating_scale"]
        assert said.isprintable() and len(said) < 1_500
        assert any(said.startswith((name if name.isprintable() else repr(name)[1:-1])[:100]) for name in names)
