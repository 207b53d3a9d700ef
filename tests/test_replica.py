"""The catalogue's follower, with a fake broker in Kafka's place: what becomes of the broker and of the topic."""

import time
from collections.abc import Callable
from uuid import UUID

import numpy as np
import pytest
from kafka.cluster import ClusterMetadata

import udfs.replica
from model.schema import ItemVector, encode_json
from tests.brokers import Broker, Written
from udfs import reader
from udfs.replica import CatalogueFollower

TOPIC = "item-vectors"


class Topic(Broker):
    """A cluster with one topic of item vectors."""

    def __init__(self):
        super().__init__(TOPIC)
        self.ids, self.at_once = {TOPIC: UUID(int=1)}, 2

    def send(self, *item_ids: str, partition: int = 0, version: str = "v1") -> None:
        for item_id in item_ids:
            vector = np.full(8, 0.5, "<f2").tobytes()
            self.topics[TOPIC][partition].append(Written(encode_json(ItemVector(item_id, version, vector))))

    def make_anew(self, partitions: int = 1, topic_id: int | None = 2) -> None:
        self.topics[TOPIC] = {number: [] for number in range(partitions)}
        self.ids[TOPIC] = topic_id and UUID(int=topic_id)


@pytest.fixture
def broker(monkeypatch):
    broker = Topic()
    monkeypatch.setattr(reader, "KafkaConsumer", broker.consumer)
    monkeypatch.setattr(reader, "RETRY_S", 0.01)
    monkeypatch.setattr(reader, "CHECK_S", 0.0)
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
    """The names that `Reader` reads inside kafka-python: no public ones exist."""
    cluster = ClusterMetadata(bootstrap_servers=["127.0.0.1:1"])

    assert (None, None) == (cluster.cluster_id, cluster.topic_id(TOPIC))


def test_the_topic_is_read_to_its_end_before_anything_is_asked(broker, follow):
    """From every partition; a restart reads what is new only."""
    broker.make_anew(partitions=3)
    broker.send("a", "b", "c", "d", "e")
    broker.send("f", partition=2)

    assert list("abcdef") == ids(follow())

    broker.topics[TOPIC][0][0] = Written(b"read once more")
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
    broker.away = 5

    assert ["a"] == ids(follow())
    assert "item-vectors at nowhere:9092: KafkaTimeoutError: nobody there; tried again every 0.01 s" in caplog.text


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


def test_the_catalogue_is_followed_on_after_a_failure_to_read(broker, follow, caplog):
    """A record that cannot be unpacked, as where its codec is missing: it is said, and tried again."""
    broker.send("a")
    broker.refuses = [RuntimeError("no codec")]

    assert ["a"] == ids(follow())
    assert "RuntimeError: no codec" in caplog.text


def test_new_partitions_are_read(broker, follow):
    """From their beginning, while the job runs."""
    broker.send("a")
    follower = follow()
    broker.topics[TOPIC] |= {1: [], 2: []}
    broker.send("b", partition=2)
    broker.send("c")
    wait(follower, lambda: ["a", "b", "c"] == ids(follower))


def test_a_topic_that_is_not_there_yet_is_waited_for(broker, follow):
    """The job begins with an empty catalogue: it is the job that fills the topic."""
    del broker.topics[TOPIC]
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
    broker.ids[TOPIC] = UUID(int=1) if topic_id else None
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

    assert "topic item-vectors was made anew" in caplog.text
    assert not running or catalogue is follower.catalogue
    assert sorted(item_ids) == ids(follow())


def test_a_topic_that_is_gone_leaves_the_catalogue(broker, follow):
    """Until another one is there."""
    broker.send("a")
    follower = follow()
    logs = broker.topics.pop(TOPIC)
    time.sleep(0.05)
    follower.refresh()

    assert ["a"] == ids(follower)

    broker.topics[TOPIC] = logs
    broker.send("b")
    wait(follower, lambda: ["a", "b"] == ids(follower))


def test_a_replica_belongs_to_its_cluster(broker, follow, caplog):
    """Opened by another cluster's job, with as many records on its topic, it is cleared and read anew."""
    broker.send("a", "b")
    follow()
    broker.cluster, broker.topics[TOPIC] = "two", {0: []}
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
    assert "topic shop-item-vectors was made anew, or is another one" in caplog.text


def test_the_log_says_how_far_another_encoder_is(broker, follow, caplog):
    """Once in a while, however many records come."""
    caplog.set_level("INFO")
    broker.send(*"abcdefghij")
    broker.send(*"abcdefgh", version="v2")
    follow()
    said = [record.getMessage() for record in caplog.records if "have come with encoder" in record.getMessage()]

    assert 1 == len(said)
    assert "items have come with encoder v2; 10 of v1 serve until it has 90 % of them" in said[0]


def test_what_is_not_taken_over_waits_in_kafka(broker, follow, monkeypatch):
    """So many batches wait for `refresh`, and closing does not wait for it."""
    monkeypatch.setattr(udfs.replica, "MOST_WAITING", 3)
    monkeypatch.setattr(udfs.replica, "WAIT_S", 0.001)
    follower = follow()
    broker.send(*map(str, range(50)))
    deadline = time.monotonic() + 10
    while len(follower._arrived) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)

    assert 3 == len(follower._arrived)

    wait(follower, lambda: 50 == len(follower.catalogue))
    broker.send(*map(str, range(50, 100)))
    time.sleep(0.1)
