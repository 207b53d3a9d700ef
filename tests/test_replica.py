"""The catalogue's follower, with a fake broker in Kafka's place: what becomes of the broker and of the topic."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pytest
from kafka.cluster import ClusterMetadata
from kafka.errors import KafkaConnectionError, KafkaTimeoutError

import udfs.replica
from model.schema import ItemVector, encode_json
from udfs.replica import CatalogueFollower

TOPIC = "item-vectors"


class Broker:
    """A cluster with one topic; `away`: nobody answers."""

    def __init__(self, cluster: str = "one", partitions: int = 1):
        self.cluster, self.topic_id, self.away, self.consumers = cluster, UUID(int=1), False, 0
        self.logs: dict[int, list[bytes]] = {number: [] for number in range(partitions)}

    def send(self, *item_ids: str, partition: int = 0, version: str = "v1") -> None:
        for item_id in item_ids:
            vector = np.full(8, 0.5, "<f2").tobytes()
            self.logs[partition].append(encode_json(ItemVector(item_id, version, vector)))

    def make_anew(self, partitions: int = 1, topic_id: int | None = 2) -> None:
        self.logs, self.topic_id = {number: [] for number in range(partitions)}, topic_id and UUID(int=topic_id)

    def answer(self, error: type[Exception] = KafkaTimeoutError) -> None:
        if self.away:
            raise error(f"{self.cluster} does not answer")


class Consumer:
    """Kafka's, as far as it is used. It hands out two records at once, and begins anew where its place is gone."""

    def __init__(self, broker: Broker, **options):
        assert "earliest" == options["auto_offset_reset"]
        self._broker, self._positions = broker, {}
        broker.answer(KafkaConnectionError)
        broker.consumers += 1

    @property
    def _cluster(self):
        return SimpleNamespace(cluster_id=self._broker.cluster, topic_id={TOPIC: self._broker.topic_id}.get)

    def partitions_for_topic(self, topic):
        return set(self._broker.logs) if topic == TOPIC else None

    def end_offsets(self, partitions):
        self._broker.answer()
        return {at: len(self._broker.logs[at.partition]) for at in partitions}

    def assign(self, partitions):
        self._positions = dict.fromkeys(partitions)

    def seek(self, at, offset):
        assert at in self._positions
        self._positions[at] = offset

    def position(self, at):
        return self._positions[at]

    def poll(self, timeout_ms):
        time.sleep(0.001)
        batches = {}
        for at, position in self._positions.items() if not self._broker.away else ():
            log = self._broker.logs.get(at.partition, [])
            position = position if position <= len(log) else 0
            self._positions[at] = min(len(log), position + 2)
            batches[at] = [
                SimpleNamespace(partition=at.partition, offset=position + number, value=value)
                for number, value in enumerate(log[position : position + 2])
            ]
        return {at: batch for at, batch in batches.items() if batch}

    def close(self):
        pass


@pytest.fixture
def broker(monkeypatch):
    broker = Broker()
    monkeypatch.setattr(udfs.replica, "KafkaConsumer", lambda **options: Consumer(broker, **options))
    monkeypatch.setattr(udfs.replica, "RETRY_S", 0.01)
    monkeypatch.setattr(udfs.replica, "CHECK_S", 0.0)
    return broker


@pytest.fixture
def follow(tmp_path, broker):
    """`follow()` opens the replica; the one before is closed."""
    opened = []

    def follow() -> CatalogueFollower:
        close()
        opened.append(CatalogueFollower("nowhere:9092", TOPIC, tmp_path))
        return opened[0]

    def close() -> None:
        if opened:
            opened.pop().close()

    yield follow
    close()


def wait(follower: CatalogueFollower, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not until() and time.monotonic() < deadline:
        time.sleep(0.005)
        follower.refresh()
    assert until()


def ids(follower: CatalogueFollower) -> list[str]:
    return sorted(follower.catalogue.item_ids)


def test_a_consumer_tells_what_a_replica_is_tied_to():
    """The names that `TopicReader` reads inside kafka-python: no public ones exist."""
    cluster = ClusterMetadata(bootstrap_servers=["127.0.0.1:1"])

    assert (None, None) == (cluster.cluster_id, cluster.topic_id(TOPIC))


def test_the_topic_is_read_to_its_end_before_anything_is_asked(broker, follow):
    """From every partition; a restart reads what is new only."""
    broker.make_anew(partitions=3)
    broker.send("a", "b", "c", "d", "e")
    broker.send("f", partition=2)

    assert list("abcdef") == ids(follow())

    broker.logs[0][0] = b"read once more"
    broker.send("g", partition=1)

    assert list("abcdefg") == ids(follow())


def test_what_comes_later_is_taken_over_when_it_is_asked_for(broker, follow):
    """The catalogue never changes between two calls of `refresh`, and stays the same object."""
    broker.send("a")
    follower = follow()
    catalogue = follower.catalogue
    broker.send("b")
    time.sleep(0.1)

    assert ["a"] == ids(follower)

    wait(follower, lambda: ["a", "b"] == ids(follower))

    assert catalogue is follower.catalogue


def test_an_encoder_that_becomes_complete_serves_in_place(broker, follow):
    """Whoever holds the catalogue, as the learner does, goes on with what serves; a stray record changes nothing."""
    broker.send(*"abcdefghij")
    follower = follow()
    catalogue = follower.catalogue
    broker.send("a", version="v2")
    wait(follower, lambda: 1 == sum(map(len, catalogue.others.values())))

    assert ("v1", 10) == (catalogue.encoder_version, len(catalogue))

    broker.send(*"bcdefghi", version="v2")
    wait(follower, lambda: "v2" == catalogue.encoder_version)

    assert catalogue is follower.catalogue


def test_a_topic_that_was_compacted_serves_what_it_has_most_of(broker, follow):
    """A new replica decides when it has read all."""
    broker.send(*"ab")
    broker.send(*"cdefghij", version="v2")

    assert list("cdefghij") == ids(follow())


def test_a_broker_that_is_away_at_the_start_is_waited_for(broker, follow, caplog):
    """It is said, and tried again."""
    broker.send("a")
    broker.away, came = True, []

    def come(*_) -> bool:
        came.append(1)
        broker.away = len(came) < 5
        return False

    broker.answer = lambda error=KafkaTimeoutError, answer=broker.answer: come() or answer(error)

    assert ["a"] == ids(follow())
    assert "item-vectors cannot be read, tried again in 0.01 s: KafkaConnectionError" in caplog.text


def test_a_broker_that_goes_away_is_followed_when_it_is_back(broker, follow, caplog):
    """What is there serves on; what came meanwhile is read."""
    broker.send("a")
    follower = follow()
    broker.away = True
    wait(follower, lambda: "KafkaTimeoutError" in caplog.text)
    broker.send("b")

    assert ["a"] == ids(follower)

    broker.away = False
    wait(follower, lambda: ["a", "b"] == ids(follower))


def test_new_partitions_are_read(broker, follow):
    """From their beginning, while the job runs."""
    broker.send("a")
    follower = follow()
    broker.logs |= {1: [], 2: []}
    broker.send("b", partition=2)
    broker.send("c")
    wait(follower, lambda: ["a", "b", "c"] == ids(follower))


def test_a_topic_that_is_not_there_yet_is_waited_for(broker, follow):
    """The job begins with an empty catalogue: it is the job that fills the topic."""
    broker.logs = {}
    follower = follow()

    assert [] == ids(follower)

    broker.make_anew()
    broker.send("a")
    wait(follower, lambda: ["a"] == ids(follower))


ANEW = {
    "shorter": (["x"], None),
    "as long": (["x", "y", "z"], 2),
    "longer": (["x", "y", "z", "q"], 2),
    "empty": ([], 2),
    "empty, without ids": ([], None),
}


@pytest.mark.parametrize("item_ids, topic_id", ANEW.values(), ids=ANEW)
@pytest.mark.parametrize("running", [True, False])
def test_a_topic_that_was_made_anew_is_read_anew(broker, follow, caplog, running, item_ids, topic_id):
    """While it is followed and between two starts; by its own id, or, without one, where its end lies before ours."""
    broker.topic_id = UUID(int=1) if topic_id else None
    broker.send("a", "b", "c")
    follower = follow()
    catalogue = follower.catalogue
    if not running:
        follower.close()
        follower.close = lambda: None
    broker.make_anew(topic_id=topic_id)
    broker.send(*item_ids)
    follower = follower if running else follow()
    wait(follower, lambda: item_ids == sorted(ids(follower)) or sorted(item_ids) == ids(follower))

    assert "is made anew" in caplog.text
    assert not running or catalogue is follower.catalogue
    assert sorted(item_ids) == ids(follow())


def test_a_topic_that_is_gone_leaves_the_catalogue(broker, follow):
    """Until another one is there."""
    broker.send("a")
    follower = follow()
    logs, broker.logs = broker.logs, {}
    time.sleep(0.05)
    follower.refresh()

    assert ["a"] == ids(follower)

    broker.logs = logs
    broker.send("b")
    wait(follower, lambda: ["a", "b"] == ids(follower))


def test_a_replica_belongs_to_its_cluster(broker, follow, caplog):
    """Opened by another cluster's job, with as many records on its topic, it is cleared and read anew."""
    broker.send("a", "b")
    follow()
    broker.cluster, broker.logs = "two", {0: []}
    broker.send("x", "y", "z")

    assert ["x", "y", "z"] == ids(follow())
    assert "it was read from item-vectors one" in caplog.text


def test_a_replica_belongs_to_its_topic(broker, follow, monkeypatch, caplog):
    """A prefix makes another topic."""
    broker.send("a", "b")
    follow()
    monkeypatch.setitem(globals(), "TOPIC", "shop-item-vectors")
    broker.make_anew(topic_id=1)
    broker.send("x", "y", "z")

    assert ["x", "y", "z"] == ids(follow())
    assert "is made anew" in caplog.text


def test_the_log_says_how_far_another_encoder_is(broker, follow, caplog):
    """Once in a while, however many records come."""
    caplog.set_level("INFO")
    broker.send(*"abcdefghij")
    broker.send(*"abcdefgh", version="v2")
    follow()
    said = [record.getMessage() for record in caplog.records if "have come with encoder" in record.getMessage()]

    assert 1 == len(said)
    assert "items have come with encoder v2; 10 of v1 serve until it has 90 % of them" in said[0]
