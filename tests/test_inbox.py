"""What the learner reads of its topics, in which order, and what it does while the broker is away. Kafka is a fake."""

import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError, UnsupportedCodecError
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from jobs import writer
from jobs.inbox import REPORTED, Inbox
from jobs.settings import Settings
from jobs.versions import Versions
from model import interest
from model.interest import Interests
from model.schema import Example, FineTuneRequest, ModelVersion, encode_json
from tests.brokers import Broker, Consumer, Written
from udfs import reader
from udfs.reader import Reader, newest_offsets

EXAMPLES, REQUESTS = "training-examples", "fine-tune-requests"
START_MS = 1_700_000_000_000


@pytest.fixture
def broker(monkeypatch) -> Broker:
    broker = Broker(EXAMPLES, REQUESTS)
    monkeypatch.setattr(reader, "KafkaConsumer", broker.consumer)
    monkeypatch.setattr(writer, "KafkaProducer", broker.producer)
    monkeypatch.setattr(reader, "RETRY_S", 0)
    monkeypatch.setattr(reader, "CHECK_S", 0)
    return broker


def write(broker: Broker, topic: str, partition: int, *records, timestamp: int = 0) -> None:
    raw = [Written(encode_json(record), timestamp) for record in records]
    broker.topics.setdefault(topic, {}).setdefault(partition, []).extend(raw)


def example(number: int, user: str = "u", time_ms: int | None = None, **more) -> Example:
    """The n-th event of a user."""
    time_ms = START_MS + number if time_ms is None else time_ms
    return Example(user, f"{user}-{number}", time_ms, f"i{number}", "view", **more)


def forget(user: str = "u", time_ms: int = START_MS) -> Example:
    return Example(user, "forget", time_ms, forget=True)


def drained(**settings) -> list[str]:
    """The events that a learner reads which starts now."""
    inbox = Inbox(Settings(**settings))
    inbox.drain()
    return [one.event_id for one in inbox.take()]


# In which order


def test_partitions_are_read_in_the_order_of_writing(broker):
    """Also of a topic without keys, on which a user's examples lie in all partitions."""
    for number in range(12):
        write(broker, EXAMPLES, number % 3, example(number), timestamp=START_MS + number)

    assert [f"u-{number}" for number in range(12)] == drained()


def test_within_a_partition_the_order_stays_whatever_the_clocks_say(broker):
    """A TaskManager's clock may be behind that of another."""
    for number, timestamp in enumerate((5, 3, 9)):
        write(broker, EXAMPLES, 0, example(number), timestamp=timestamp)
    write(broker, EXAMPLES, 1, example(3), timestamp=6)

    assert ["u-0", "u-1", "u-3", "u-2"] == drained()


def test_old_events_that_are_replayed_now_are_new(broker):
    """The time of writing counts: a history that is sent today is learnt from today."""
    write(broker, EXAMPLES, 0, example(1, time_ms=START_MS), timestamp=1)
    write(broker, EXAMPLES, 1, example(2, time_ms=5), timestamp=2)

    assert ["u-1", "u-2"] == drained()


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize(
    "clock", [lambda number: START_MS + number, lambda number: START_MS + number // 100, lambda number: START_MS]
)
def test_the_newest_examples_of_all_partitions_together_remain(broker, partitions, clock):
    """Not so many of each: what is read beyond them is no more than what was written in one millisecond."""
    for number in range(1_000):
        write(broker, EXAMPLES, number % partitions, example(number), timestamp=clock(number))
    names = drained(replay_capacity=100)

    at_once = sum(clock(number) == clock(0) for number in range(1_000))
    assert 100 <= len(names) <= min(100 + at_once - 1, 100 * partitions)
    assert len(set(range(900, 1_000)) & {int(name[2:]) for name in names}) >= (100 if clock(0) != clock(999) else 25)


def test_the_newest_records_of_a_topic_are_found_by_their_time(broker):
    """Of one busy and one quiet partition, few more than wanted are read."""
    for number in range(1_000):
        write(broker, "t", 0 if number % 10 else 1, example(number), timestamp=START_MS + number)
    consumer = Consumer(broker)
    at = [TopicPartition("t", 0), TopicPartition("t", 1)]
    starts = newest_offsets(consumer, dict.fromkeys(at, 0), consumer.end_offsets(at, 1), 100)

    assert [810, 90] == [starts[one] for one in at]


# Who is forgotten


@pytest.mark.parametrize("first", [0, 1])
def test_what_is_older_than_a_forget_is_not_learnt_wherever_it_lies(broker, first):
    """Told by the time of writing; at the start the forget comes after them, later it may come before them."""
    write(broker, EXAMPLES, first, forget(time_ms=0), timestamp=50)
    inbox = Inbox(Settings())
    inbox.drain()
    write(broker, EXAMPLES, 1 - first, example(1), example(1, "v"), timestamp=49)
    write(broker, EXAMPLES, 1 - first, example(2), timestamp=51)
    inbox.drain()

    assert ["forget", "v-1", "u-2"] == [one.event_id for one in inbox.take()]


def test_an_event_from_before_a_forget_is_older_whenever_it_is_written(broker):
    """Told by the time of the event, where the two lie in different partitions."""
    write(broker, EXAMPLES, 0, forget(time_ms=START_MS + 5), timestamp=1)
    write(broker, EXAMPLES, 1, example(4), example(6), timestamp=2)

    assert ["forget", "u-6"] == drained()


def test_who_comes_back_after_a_forget_is_learnt_from(broker):
    """In one partition, what follows is newer, whatever the times say: a late event of a user who began anew."""
    write(broker, EXAMPLES, 0, example(1), forget(time_ms=START_MS + 5), example(2), timestamp=7)

    assert ["u-1", "forget", "u-2"] == drained()


def test_nothing_that_comes_later_is_dropped_for_room(broker):
    """All of it is counted, and the learner may hold older examples of a user who is forgotten."""
    write(broker, EXAMPLES, 0, forget("v"))
    inbox = Inbox(Settings(replay_capacity=3))
    inbox.drain()
    write(broker, EXAMPLES, 0, *map(example, range(9)))
    inbox.drain()

    assert ["forget", *(f"u-{number}" for number in range(9))] == [one.event_id for one in inbox.take()]


# What can be read

GOLDEN = Path("tests/data/interests-v2.bin").read_bytes()
EXAMPLE = Example("u", "e", 1, "m1", "view", GOLDEN)


def spoilt(**change) -> bytes:
    """Interests of two that hold these numbers, and the bytes of them."""
    parts = {
        "vectors": np.eye(2, 64, dtype=np.float32),
        "weights": np.ones(2, np.float32),
        "touched_ms": np.ones(2, np.uint64),
        "edges": np.ones((2, 2), np.float32),
        "last": 1,
    }
    return interest.encode(Interests(**parts | change))


def reported(broker: Broker) -> list[tuple[str, dict]]:
    """What was written to `rejected-events`."""
    return [(topic, msgspec.json.decode(value)) for topic, value in broker.told]


UNREADABLE_EXAMPLES = [
    None, b"", b"nope", b"\xff\xfe", b'{"x":' + b"[" * 50_000, b'{"user_id":"u","event_id":"e","event_time_ms":1}',
    *(encode_json(msgspec.structs.replace(EXAMPLE, **change)) for change in (
        {"item_id": ""}, {"action": ""}, {"action": "jump"}, {"action": "dislike"}, {"event_time_ms": 2**63},
        {"user_id": ""}, {"event_id": ""}, {"user_id": "u" * 257}, {"item_id": "m" * 257}, {"event_time_ms": -1},
        {"event_time_ms": 2**48 - 1}, {"event_time_ms": int(time.time() * 1_000) + 3_600_000},
        {"interests": b"\x09" + GOLDEN[1:]}, {"interests": GOLDEN[:-1]}, {"interests": GOLDEN[:5]},
        {"interests": GOLDEN[:-11] + b"\xff" * 11}, {"interests": GOLDEN + b"\0"},
        {"interests": GOLDEN + b"\0" * 900_000},
        {"interests": spoilt(weights=np.array([np.nan, 1], np.float32))},
        {"interests": spoilt(weights=np.array([np.inf, 1], np.float32))},
        {"interests": spoilt(weights=np.array([-1, 1], np.float32))},
        {"interests": spoilt(weights=np.array([3e38, 3e38], np.float32))},
        {"interests": spoilt(edges=np.full((2, 2), np.nan, np.float32))},
        {"interests": spoilt(edges=np.full((2, 2), -1, np.float32))},
        {"interests": spoilt(last=2)}, {"interests": spoilt(last=-2)}, {"interests": spoilt(mean_rating=np.nan)},
        {"interests": spoilt(query=np.ones(384, np.float32))},
        {"interests": spoilt(newest_ms=2**48)}, {"interests": spoilt(touched_ms=np.full(2, 2**63, np.uint64))},
    )),
]  # fmt: skip


@pytest.mark.parametrize("raw", UNREADABLE_EXAMPLES)
def test_an_example_that_cannot_be_read_is_passed_over_counted_and_reported(broker, raw, caplog):
    """The log tells of the first at once, and not of each: the ones around it are learnt from."""
    values = encode_json(EXAMPLE), raw, raw, encode_json(Example("u", "f", 2, forget=True))
    broker.topics[EXAMPLES][0] += map(Written, values)
    inbox = Inbox(Settings())
    inbox.drain()

    assert ["e", "f"] == [one.event_id for one in inbox.take()]
    assert 2 == inbox.passed_over
    assert 1 == len(caplog.records)
    assert [("rejected-events", EXAMPLES, 0, 1), ("rejected-events", EXAMPLES, 0, 2)] == [
        (topic, said["source"], said["partition"], said["offset"]) for topic, said in reported(broker)
    ]
    assert all(said["reason"] for _, said in reported(broker))


def test_a_topic_full_of_what_cannot_be_read_floods_nothing(broker, caplog):
    """So many reports a minute, one line in the log, and every example is read."""
    broker.topics[EXAMPLES][0] += [Written(b"nope")] * 10_000
    write(broker, EXAMPLES, 0, example(1))
    inbox = Inbox(Settings())
    inbox.drain()

    assert (10_000, REPORTED, 1, 1) == (
        inbox.passed_over, len(broker.told), len(caplog.records), len(inbox.take()),
    )  # fmt: skip


def test_where_nothing_can_be_reported_learning_goes_on(broker, monkeypatch, caplog):
    """The log says what was refused, and that it was not reported."""

    def refuse(**_):
        raise KafkaTimeoutError("nobody there")

    monkeypatch.setattr(writer, "KafkaProducer", refuse)
    broker.topics[EXAMPLES][0] += [Written(b"nope")] * 9
    write(broker, EXAMPLES, 0, example(1))

    assert ["u-1"] == drained()
    assert 2 == len(caplog.records)


@pytest.mark.parametrize("raw", [None, b"{}", b'{"x":' + b"[" * 50_000])
def test_a_request_that_cannot_be_read_asks_for_nothing(broker, raw):
    """The one before it stands."""
    write(broker, REQUESTS, 0, FineTuneRequest("age", 1, 0, 0))
    broker.topics[REQUESTS][0].append(Written(raw))
    inbox = Inbox(Settings())
    inbox.drain()

    assert ("age", 1) == (inbox.why, inbox.passed_over)
    assert REQUESTS == reported(broker)[0][1]["source"]


# What happens to the broker


def test_a_broker_that_is_away_is_waited_for(broker, caplog):
    """At the start and later; one sentence says so, another that it is back, and nothing is read twice or lost."""
    caplog.set_level("INFO")
    broker.away = 3
    write(broker, EXAMPLES, 0, example(1))
    inbox = Inbox(Settings())
    inbox.drain()
    broker.away = 5
    write(broker, EXAMPLES, 0, example(2))
    inbox.drain()
    inbox.read()

    said = [record.getMessage() for record in caplog.records]
    assert ["u-1", "u-2"] == [one.event_id for one in inbox.take()]
    assert ["nobody there" in said[0], "answers again" in said[1], len(said)] == [True, True, 4]


def test_a_codec_that_is_missing_is_named_and_waited_for(broker, caplog):
    """The learner goes on with what it has."""
    write(broker, EXAMPLES, 0, example(1))
    broker.refuses = [UnsupportedCodecError("Libraries for lz4 compression codec not found")]

    assert 1 == len(Reader("b:9", {EXAMPLES: None}).drain())
    assert "lz4 compression codec not found; install lz4, zstandard or python-snappy" in caplog.text


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
def test_a_topic_may_be_compressed_by_any_of_kafkas_codecs(codec):
    """None, gzip, snappy, lz4 and zstd, also where a batch is larger than any buffer."""
    value = encode_json(EXAMPLE) * 4_000
    builder = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=1 << 24)
    builder.append(timestamp=1, key=None, value=value, headers=[])
    builder.close()

    assert [value] == [record.value for record in MemoryRecords(builder.buffer()).next_batch()]


def test_a_new_partition_is_read_from_its_beginning(broker):
    """Whatever `replay_capacity` says of the topic's past."""
    write(broker, EXAMPLES, 0, example(1))
    inbox = Inbox(Settings(replay_capacity=2))
    inbox.drain()
    write(broker, EXAMPLES, 1, example(2), example(3))
    inbox.read()

    assert ["u-1", "u-2", "u-3"] == [one.event_id for one in inbox.take()]


@pytest.mark.parametrize("again", [0, 1, 5])
def test_a_topic_that_was_made_anew_is_read_from_its_beginning(broker, again, caplog):
    """Told by its id, also where it has more records by then than were read before."""
    write(broker, EXAMPLES, 0, *map(example, range(2)))
    inbox = Inbox(Settings())
    inbox.drain()
    inbox.take()
    broker.topics[EXAMPLES], broker.ids[EXAMPLES] = {0: []}, 1
    write(broker, EXAMPLES, 0, *map(example, range(10, 10 + again)))
    inbox.drain()

    assert [f"u-{number}" for number in range(10, 10 + again)] == [one.event_id for one in inbox.take()]
    assert "topic training-examples was made anew" in caplog.text


def test_a_topic_that_is_not_there_yet_is_waited_for(broker, caplog):
    """One sentence; the other topic is read meanwhile."""
    del broker.topics[EXAMPLES]
    write(broker, REQUESTS, 0, FineTuneRequest("age", 1, 0, 0))
    inbox = Inbox(Settings())
    inbox.drain()
    inbox.drain()
    assert "age" == inbox.why
    assert ["the broker at 127.0.0.1:9092 has no topic training-examples: it is read when it is there"] == [
        record.getMessage() for record in caplog.records
    ]

    write(broker, EXAMPLES, 0, example(1))
    inbox.read()
    assert ["u-1"] == [one.event_id for one in inbox.take()]


def test_a_topic_that_is_deleted_while_it_is_read_does_not_stop_the_others(broker):
    """It is read again when it is there again."""
    write(broker, EXAMPLES, 0, example(1))
    inbox = Inbox(Settings())
    inbox.drain()
    del broker.topics[EXAMPLES]
    write(broker, REQUESTS, 0, FineTuneRequest("age", 1, 0, 0))
    inbox.drain()

    assert "age" == inbox.why


@pytest.mark.parametrize("left", [[], [example(9)]])
def test_a_topic_that_is_made_anew_while_it_is_drained_ends_where_it_ends_now(broker, monkeypatch, left):
    """It will never reach the end that it had when draining began; what comes twice is learnt once."""
    write(broker, EXAMPLES, 0, *map(example, range(5)))
    poll = Consumer.poll

    def anew(self, timeout_ms):
        if not broker.ids:
            broker.topics[EXAMPLES], broker.ids[EXAMPLES] = {0: []}, 1
            write(broker, EXAMPLES, 0, *left)
        return poll(self, timeout_ms)

    monkeypatch.setattr(Consumer, "poll", anew)

    assert [one.event_id for one in left] == list(dict.fromkeys(drained()))


# Versions


@pytest.fixture
def versions_topic(broker) -> Broker:
    broker.topics["model-versions"] = {0: []}
    return broker


def test_a_decision_is_announced_when_the_broker_is_back(versions_topic, caplog):
    """The learner waits at the start, as it reads and as it writes, and says so."""
    versions_topic.away = 2
    versions = Versions(Settings(), patient=True)
    versions_topic.away = 4
    assert versions.serve(ModelVersion("v1", "r/v1"), 0)
    versions_topic.away = 3
    versions.refresh()

    assert "v1" == versions.current().version
    assert 1 == len(versions_topic.topics["model-versions"][0])
    assert "writing to model-versions at 127.0.0.1:9092: KafkaTimeoutError: nobody there" in caplog.text


def test_a_command_does_not_wait_for_a_broker(versions_topic):
    """Who has typed it is told at once."""
    versions_topic.away = 1
    with pytest.raises(KafkaTimeoutError):
        Versions(Settings())
