"""What a scoring worker counts of the log: where it begins, what it passes over, and when it stands still."""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

import udfs.statistics
from model import registry, snapshot
from model.bounds import StatisticsConfig
from model.schema import Example, Request, encode_json
from model.statistics import ItemStatistics
from tests.brokers import Broker, Written
from udfs import loading, reader
from udfs.statistics import COUNTED_AT_ONCE, HELD_S, StatisticsFollower

TOPIC, SOURCE = "training-examples", "training-examples one 1"
START_MS = 1_700_000_000_000


def example(number: int, user: str = "", **more) -> Example:
    """The n-th example of the log, of five users in turn."""
    user, item_id = user or f"u{number % 5}", f"i{number % 7}"
    return Example(user, f"e{number}", START_MS + 1_000 * number, item_id, "view", **more)


def forget(user: str, number: int) -> Example:
    return Example(user, f"e{number}", START_MS + 1_000 * number, forget=True)


def counted(examples: Iterable[Example]) -> ItemStatistics:
    statistics = ItemStatistics()
    statistics.apply(examples)
    return statistics


def same(one: ItemStatistics, other: ItemStatistics) -> bool:
    """Whether the same was counted in the same order."""
    columns, others = one.snapshot(), other.snapshot()
    return one.seen == other.seen and all(np.array_equal(columns[name], others[name]) for name in columns)


@pytest.fixture
def broker(monkeypatch) -> Broker:
    broker = Broker(TOPIC)
    broker.ids[TOPIC] = 1
    monkeypatch.setattr(reader, "KafkaConsumer", broker.consumer)
    monkeypatch.setattr(reader, "RETRY_S", 0.001)
    monkeypatch.setattr(reader, "CHECK_S", 0.0)
    monkeypatch.setattr(loading, "_hung", [])
    return broker


def write(broker: Broker, *examples: Example | bytes | None, partition: int = 0, timestamp: int | None = None) -> None:
    """Each is written a second after the one before."""
    log = broker.topics.setdefault(TOPIC, {}).setdefault(partition, [])
    for one in examples:
        at_ms = START_MS + 1_000 * len(log) if timestamp is None else timestamp
        log.append(Written(encode_json(one) if isinstance(one, Example) else one, at_ms))


@pytest.fixture
def follow(broker, tmp_path):
    """Follow the log as a worker does; what is opened is closed."""
    opened = []

    def follow(newest: int = 1_000) -> StatisticsFollower:
        opened.append(StatisticsFollower("b:9", TOPIC, str(tmp_path), newest, StatisticsConfig(), 300.0))
        return opened[-1]

    yield follow
    for follower in opened:
        follower.close()


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.002)


def request(one: Example) -> Request:
    return Request(one.user_id, one.event_id, one.event_time_ms, [], "serving", b"", b"")


LOG = [example(number) for number in range(50)]


# Where it begins


def test_counting_goes_on_from_a_snapshot_at_its_offsets(broker, follow, tmp_path):
    """What is before them in the log is not read again; what comes later is counted as it comes."""
    snapshot.write(str(tmp_path), counted(LOG[:30]), SOURCE, {0: 30})
    write(broker, *[b"not read"] * 30, *LOG[30:40])
    follower = follow()
    assert same(counted(LOG[:40]), follower.statistics)
    write(broker, *LOG[40:])
    eventually(lambda: 50 == follower.statistics.seen)

    assert same(counted(LOG), follower.statistics)
    assert 0 == follower.passed_over


def test_without_a_snapshot_the_newest_examples_are_counted(broker, follow):
    """As many as the learner remembers."""
    write(broker, *LOG)

    assert same(counted(LOG[30:]), follow(newest=20).statistics)


@pytest.mark.parametrize(
    "source, offset", [("other one 1", 30), ("training-examples two 1", 30), ("training-examples one 2", 30),
                       (SOURCE, 51)],
    ids=["topic", "cluster", "made anew", "longer"],
)  # fmt: skip
def test_beside_a_snapshot_of_another_topic_all_is_counted_anew(broker, follow, tmp_path, source, offset):
    """Of what was counted of the other one nothing is left."""
    snapshot.write(str(tmp_path), counted(example(number, "other") for number in range(60)), source, {0: offset})
    write(broker, *LOG)

    assert same(counted(LOG), follow().statistics)


def test_a_log_that_is_made_anew_is_counted_anew(broker, follow):
    """Also what waited for its list is dropped."""
    write(broker, *LOG)
    follower = follow()
    with follower.lock:
        follower.answered([request(LOG[0])])
    write(broker, example(50))  # of the same user
    eventually(lambda: len(follower._held) == 1)
    broker.topics[TOPIC], broker.ids[TOPIC] = {0: []}, 2
    write(broker, *LOG[:3])
    eventually(lambda: 3 == follower.statistics.seen)

    assert same(counted(LOG[:3]), follower.statistics)
    assert not follower._held


def test_a_snapshot_that_hangs_is_not_waited_for(broker, follow, monkeypatch, caplog):
    """The newest examples are counted; whoever opens a version there meanwhile is not held up either."""
    go = threading.Event()
    monkeypatch.setattr(snapshot, "newest", lambda *_: go.wait(10) and 1 / 0)
    monkeypatch.setattr(udfs.statistics, "LOAD_S", 0.01)
    write(broker, *LOG)

    assert same(counted(LOG), follow().statistics)
    go.set()
    assert "snapshots of the item statistics cannot be read" in caplog.text
    assert "not read in 0.01 s; does the registry answer?" in caplog.text


def break_files(folder: Path, how: str) -> None:
    model, about = folder / "model.safetensors", folder / "model.json"
    match how:
        case "cut short":
            model.write_bytes(model.read_bytes()[:-9])
        case "never completed":
            about.unlink()
        case "no JSON":
            about.write_text("nope")
        case "no offsets":
            about.write_text(about.read_text().replace('"offsets"', '"others"'))
        case "offsets of nothing":
            about.write_text(about.read_text().replace('"0": 30', '"x": "y"'))
        case "of no topic":
            about.write_text(about.read_text().replace(SOURCE, ""))
        case "offsets before the beginning":
            about.write_text(about.read_text().replace('"0": 30', '"0": -30'))


DAMAGES = [
    "cut short", "never completed", "no JSON",
    "no offsets", "of no topic", "offsets of nothing", "offsets before the beginning",
]  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_snapshot_is_passed_over(broker, follow, tmp_path, caplog, how):
    """The one before it is taken; where there is none, the newest examples. The log says what is wrong with it."""
    for before in (20, 30):
        snapshot.write(str(tmp_path), counted(LOG[:before]), SOURCE, {0: before})
    write(broker, *LOG)
    break_files(tmp_path / "statistics-000002", how)
    assert same(counted(LOG), follow(newest=10).statistics)
    assert "statistics-000002" in caplog.text
    registry.remove(f"{tmp_path}/statistics-000001")

    assert same(counted(LOG[40:]), follow(newest=10).statistics)


def test_a_registry_that_cannot_be_listed_leaves_the_log(broker, follow, monkeypatch, caplog):
    """Lists are made with what is counted of the newest examples."""
    monkeypatch.setattr(registry, "inside", lambda path: 1 / 0)
    write(broker, *LOG)

    assert same(counted(LOG), follow().statistics)
    assert "cannot be read: division by zero" in caplog.text


def test_lists_are_made_while_a_broker_is_away(broker, follow, monkeypatch, caplog):
    """A worker that starts does not wait for ever; when the broker answers, it counts."""
    monkeypatch.setattr(udfs.statistics, "CATCH_UP_S", 0.01)
    broker.away = True
    write(broker, *LOG)
    follower = follow()
    assert 0 == follower.statistics.seen
    assert "is not read to its end after 0.01 s: lists are made meanwhile" in caplog.text
    broker.away = False

    eventually(lambda: 50 == follower.statistics.seen)


# What is counted


UNREADABLE = {
    "nothing": None,
    "no JSON": b"nope",
    "a dislike": encode_json(Example("u", "e", START_MS, "i", "dislike")),
    "no user": encode_json(Example("", "e", START_MS, "i", "view")),
    "the year 10889": encode_json(Example("u", "e", 2**48 - 1, "i", "view")),
    "in an hour": encode_json(Example("u", "e", int(time.time() * 1_000) + 3_600_000, "i", "view")),
    "no interests": encode_json(example(9, interests=b"\x09")),
    "deep": b'{"x":' + b"[" * 50_000,
}


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE)
def test_a_record_that_cannot_be_read_is_passed_over_and_counted(broker, follow, raw):
    """By the rules of the learner, so that both count the same; those around it are counted."""
    write(broker, LOG[0], raw, LOG[1], raw, raw, LOG[2])
    follower = follow()

    assert same(counted(LOG[:3]), follower.statistics)
    assert 3 == follower.passed_over


def test_an_example_that_comes_twice_is_counted_once(broker, follow):
    """After a failure the job writes some of them again."""
    write(broker, *LOG[:20], *LOG[10:30])

    assert same(counted(LOG[:30]), follow().statistics)


def test_a_user_who_is_forgotten_is_taken_out(broker, follow):
    """And may come back; what lies in another partition from before stays out, whenever it is read."""
    write(broker, *LOG[:20], forget("u1", 60))
    follower = follow()
    assert -1 == follower.statistics.user_row("u1")
    write(broker, example(41), partition=1, timestamp=START_MS)
    write(broker, example(42), partition=1, timestamp=START_MS)
    eventually(lambda: 21 == follower.statistics.seen)
    assert -1 == follower.statistics.user_row("u1")
    write(broker, example(46))
    eventually(lambda: 22 == follower.statistics.seen)

    assert 0 <= follower.statistics.user_row("u1")
    assert 0 == follower.passed_over


# When it stands still


def test_what_is_counted_stands_still_under_a_list(broker, follow):
    """Whoever holds the lock sees nothing change; what came meanwhile is counted afterwards."""
    write(broker, *LOG[:20])
    follower = follow()
    with follower.lock:
        before = follower.statistics.revision
        write(broker, *LOG[20:])
        time.sleep(0.05)
        assert (20, before) == (follower.statistics.seen, follower.statistics.revision)
    eventually(lambda: 50 == follower.statistics.seen)


def test_a_list_waits_for_few_examples_only(broker, follow, monkeypatch):
    """However many there are to count, the lock is let go after each handful."""
    heaps, apply = [], ItemStatistics.apply

    def noted(statistics, examples):
        heaps.append(len(examples))
        apply(statistics, examples)

    monkeypatch.setattr(ItemStatistics, "apply", noted)
    write(broker, *(example(number) for number in range(5 * COUNTED_AT_ONCE + 1)))
    follower = follow()

    assert [COUNTED_AT_ONCE] * 5 + [1] == heaps
    assert 5 * COUNTED_AT_ONCE + 1 == follower.statistics.seen


def test_what_cannot_be_counted_is_tried_again_and_counted_once(broker, follow, monkeypatch):
    """A worker that is out of memory for a moment loses nothing."""
    apply, fails = ItemStatistics.apply, iter([False, True, True, False])

    def sometimes(statistics, examples):
        if next(fails, False):
            raise MemoryError
        apply(statistics, examples)

    monkeypatch.setattr(ItemStatistics, "apply", sometimes)
    many = [example(number) for number in range(3 * COUNTED_AT_ONCE)]
    write(broker, *many)

    assert same(counted(many), follow().statistics)


def test_closing_ends_the_thread(broker, follow):
    """Nothing is counted afterwards."""
    write(broker, *LOG[:20])
    follower = follow()
    follower.close()
    write(broker, *LOG[20:])
    time.sleep(0.02)

    assert 20 == follower.statistics.seen
    assert not follower._follower._thread.is_alive()


# The list that answers an event is made before the event is counted


@pytest.fixture
def follower(broker, follow) -> StatisticsFollower:
    """One whose worker makes the lists of u0."""
    write(broker, *LOG[:20])
    follower = follow()
    follower.answered([request(LOG[0])])
    return follower


def test_an_example_waits_for_the_list_that_answers_it(broker, follower):
    """Of a user whose lists are made here; those of others are counted as they come."""
    write(broker, *LOG[20:23])
    eventually(lambda: 22 == follower.statistics.seen)
    assert not follower.statistics.has(LOG[20])
    with follower.lock:
        follower.answered([request(LOG[20])])

    assert 23 == follower.statistics.seen and follower.statistics.has(LOG[20])


def test_an_example_that_comes_after_its_list_does_not_wait(broker, follower):
    """The log may be slower than the lists."""
    with follower.lock:
        follower.answered([request(LOG[20])])
    write(broker, LOG[20])

    eventually(lambda: 21 == follower.statistics.seen)


def test_an_example_whose_list_does_not_come_is_counted_after_a_while(broker, follower, monkeypatch):
    """Its user's lists are made elsewhere by now."""
    write(broker, LOG[20])
    eventually(lambda: len(follower._held) == 1)
    now = time.monotonic()
    monkeypatch.setattr(udfs.statistics.time, "monotonic", lambda: now + HELD_S + 1)
    with follower.lock:
        follower.answered([request(LOG[41])])

    assert 21 == follower.statistics.seen and not follower._held


def test_who_is_forgotten_waits_no_more(broker, follower):
    """What waited for a list is dropped with the rest."""
    write(broker, LOG[20])
    eventually(lambda: len(follower._held) == 1)
    write(broker, forget("u0", 60))
    eventually(lambda: -1 == follower.statistics.user_row("u0"))
    with follower.lock:
        follower.answered([request(LOG[20])])

    assert 20 == follower.statistics.seen and not follower._held
