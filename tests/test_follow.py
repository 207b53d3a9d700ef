"""What a follower hands on of a topic, whatever happens to the topic, the broker and whoever takes it."""

import threading
import time
from collections.abc import Callable

import pytest

from jobs import writer
from jobs.writer import Writer
from tests.brokers import Broker, Written
from udfs import reader
from udfs.follow import TopicFollower
from udfs.reader import Place, Reader

TOPIC, SOURCE = "log", "log one 1"


@pytest.fixture
def broker(monkeypatch) -> Broker:
    broker = Broker(TOPIC)
    broker.ids[TOPIC] = 1
    monkeypatch.setattr(reader, "KafkaConsumer", broker.consumer)
    monkeypatch.setattr(writer, "KafkaProducer", broker.producer)
    monkeypatch.setattr(reader, "RETRY_S", 0.001)
    monkeypatch.setattr(reader, "CHECK_S", 0.0)
    return broker


def write(broker: Broker, *values: str, partition: int = 0, timestamp: int = 0) -> None:
    records = [Written(value, timestamp) for value in values]
    broker.topics.setdefault(TOPIC, {}).setdefault(partition, []).extend(records)


def make_anew(broker: Broker, *values: str, topic_id: int | None = 2) -> None:
    broker.topics[TOPIC], broker.ids[TOPIC] = {0: [Written(value) for value in values]}, topic_id


class Taker:
    """Notes what it is given in turn; `refuses` so many calls from now on."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.refuses = 0

    def take(self, records: list) -> None:
        self.answer()
        self.said += [record.value for record in records]

    def restart(self, source: str) -> None:
        self.answer()
        self.said.append(f"restart {source}")

    def reached(self) -> None:
        self.answer()
        self.said.append("end")

    def answer(self) -> None:
        if self.refuses:
            self.refuses -= 1
            raise ValueError("no room")


@pytest.fixture
def taker() -> Taker:
    return Taker()


@pytest.fixture
def follow(broker, taker):
    """Follow from a place on; what is opened is closed."""
    opened = []

    def follow(source: str = SOURCE, offsets: dict[int, int] | None = None) -> TopicFollower:
        opened.append(
            TopicFollower("b:9", TOPIC, source, offsets or {}, taker.take, taker.restart, reached=taker.reached)
        )
        return opened[-1]

    yield follow
    for follower in opened:
        follower.close()


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.002)


def test_a_topic_is_followed_from_its_offsets_on(broker, taker, follow):
    """All partitions, in the order of writing; the end is told once, and what comes later follows it."""
    write(broker, "a", timestamp=1)
    write(broker, "b", "d", timestamp=2)
    write(broker, "c", partition=1, timestamp=2)
    follower = follow(offsets={0: 1})
    assert follower.reached_end.wait(10)
    write(broker, "e", partition=1)
    eventually(lambda: {0: 3, 1: 2} == follower.offsets)

    assert ["b", "d", "c", "end", "e"] == taker.said


def test_who_has_no_place_is_told_the_source_first(broker, taker, follow, caplog):
    """It is what the offsets belong to that are kept from now on; nobody is warned."""
    write(broker, "a")
    assert follow(source="").reached_end.wait(10)

    assert [f"restart {SOURCE}", "a", "end"] == taker.said
    assert [] == caplog.records


def test_offsets_without_a_source_are_not_trusted(broker, taker, follow):
    """Of which topic they are nobody knows."""
    write(broker, "a", "b")
    assert follow(source="", offsets={0: 1}).reached_end.wait(10)

    assert [f"restart {SOURCE}", "a", "b", "end"] == taker.said


@pytest.mark.parametrize("again", [[], ["x"], ["x", "y", "z"]])
def test_a_topic_that_was_made_anew_is_restarted_before_its_first_record(broker, taker, follow, again):
    """And its end is told again. What was read of it before it was noticed is forgotten with the rest."""
    write(broker, "a", "b")
    follower = follow()
    eventually(lambda: ["a", "b", "end"] == taker.said)
    make_anew(broker, *again)
    expected = ["restart log one 2", *again, "end"]
    eventually(lambda: expected == taker.said[-len(expected) :])

    assert {0: len(again)} == follower.offsets


@pytest.mark.parametrize("later", [0, 3])
def test_what_a_taker_refuses_comes_again(broker, taker, follow, caplog, later):
    """From the start or later: nothing is lost and nothing comes twice. The log says why."""
    write(broker, "a")
    if not later:
        taker.refuses = 4
    follower = follow(source="")
    eventually(lambda: "end" in taker.said)
    taker.refuses = later
    write(broker, "b")
    eventually(lambda: {0: 2} == follower.offsets)

    assert [f"restart {SOURCE}", "a", "end", "b"] == taker.said
    assert "log at b:9: ValueError: no room; tried again every 0.001 s" in caplog.text


def test_a_restart_that_fails_comes_again_before_the_records(broker, taker, follow):
    """What was taken of the topic before would else stay."""
    write(broker, "a")
    follow()
    eventually(lambda: ["a", "end"] == taker.said)
    taker.refuses = 2
    make_anew(broker, "x")
    eventually(lambda: ["a", "end", "restart log one 2", "x", "end"] == taker.said)


def test_a_broker_that_is_away_is_waited_for(broker, taker, follow):
    """Whoever asks is told why nothing comes, and it goes on where it was."""
    broker.away = True
    write(broker, "a")
    follower = follow()
    eventually(lambda: "KafkaTimeoutError: nobody there" == follower.failed)
    assert not follower.reached_end.is_set()

    broker.away = False
    assert follower.reached_end.wait(10)
    broker.away = 3
    write(broker, "b")
    eventually(lambda: {0: 2} == follower.offsets)

    assert ["a", "end", "b"] == taker.said
    eventually(lambda: not follower.failed)


def test_a_topic_that_is_not_there_is_at_its_end(broker, taker, follow):
    """When it is made, all of it comes."""
    del broker.topics[TOPIC]
    assert follow(source="").reached_end.wait(10)
    write(broker, "a")
    eventually(lambda: ["end", f"restart {SOURCE}", "a", "end"] == taker.said)


def test_closing_waits_for_who_takes(broker, taker, follow, monkeypatch):
    """Nothing is taken afterwards."""
    working, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(taker, "take", lambda records: (working.set(), go_on.wait(10)))
    write(broker, "a")
    follower = follow()
    assert working.wait(10)
    closing = threading.Thread(target=follower.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()

    go_on.set()
    closing.join(10)

    assert [False, False] == [closing.is_alive(), follower._thread.is_alive()]


# The reader below it


def read_all(log: Reader) -> list[str]:
    return [record.value for record in log.drain()]


@pytest.mark.parametrize("where", ["read", "drain"])
def test_a_place_that_is_gone_is_noticed_between_two_checks(broker, monkeypatch, where):
    """Kafka's client begins anew by itself then: no record comes twice, and the restart is told before the first."""
    monkeypatch.setattr(reader, "CHECK_S", 1_000)
    told: list[str] = []
    broker.topics["other"] = {0: [Written("o")]}
    log = Reader("b:9", {TOPIC: Place(SOURCE, {}), "other": None}, restart=told.append)
    write(broker, "a", "b", "c")
    assert ["a", "b", "c", "o"] == sorted(read_all(log))

    make_anew(broker, "x", "y", topic_id=1)
    broker.topics["other"][0].append(Written("p"))
    found = [record.value for _ in range(2) for record in getattr(log, where)()]

    assert (["p", "x", "y"], [SOURCE]) == (sorted(found), told)


def test_after_an_error_nothing_is_lost(broker, monkeypatch):
    """Also of what the client had handed out of another topic before."""
    broker.at_once = 1
    write(broker, "a", "b", "c")
    log = Reader("b:9", {TOPIC: None}, patient=False)
    found = [record.value for record in log.read()]
    broker.refuses = [RuntimeError("no codec")]
    with pytest.raises(RuntimeError):
        log.read()
    log.close()

    assert ["a", "b", "c"] == found + read_all(log)


def test_a_place_in_a_topic_of_another_cluster_is_none(broker, caplog):
    """The same name, the same id, and as many records."""
    write(broker, "a", "b")
    log = Reader("b:9", {TOPIC: Place(SOURCE, {0: 1})})
    assert ["b"] == read_all(log)
    offsets = log.offsets(TOPIC)
    broker.cluster = "two"

    assert ["a", "b"] == read_all(Reader("b:9", {TOPIC: Place(log.source(TOPIC), offsets)}))
    assert f"before, it was read from {SOURCE}" in caplog.text


# Single records


class Stuck:
    """A producer whose records are never confirmed, and that cannot be closed."""

    def send(self, topic, key, value):
        return self

    def get(self, timeout):
        raise TimeoutError("not confirmed")

    def close(self, timeout):
        raise RuntimeError("cannot be closed")


def test_a_record_that_is_not_confirmed_is_an_error_and_the_next_has_a_new_connection(broker, monkeypatch):
    """The error is the record's, whatever becomes of the connection."""
    producers = [Stuck()]
    monkeypatch.setattr(
        writer, "KafkaProducer", lambda **options: producers.pop() if producers else broker.producer(**options)
    )
    log = Writer("b:9", TOPIC)
    with pytest.raises(TimeoutError):
        log.write(b"k", b"a")
    log.write(b"k", b"b")
    log.close()

    assert [b"b"] == [one.value for one in broker.topics[TOPIC][0]]


def test_the_client_gives_up_before_who_waits_for_it(broker, monkeypatch):
    """Else a record could be written after its connection was let go."""
    options = {}
    monkeypatch.setattr(writer, "KafkaProducer", lambda **given: options.update(given) or broker.producer(**given))
    Writer("a:1,b:2", TOPIC, timeout_s=2.5).write(None, b"a")

    assert (["a:1", "b:2"], 2_500, 2_500) == (
        options["bootstrap_servers"], options["delivery_timeout_ms"], options["max_block_ms"],
    )  # fmt: skip
