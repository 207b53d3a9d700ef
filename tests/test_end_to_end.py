"""Through real Kafka and Flink: the job is submitted with `flink run`, records go in, and what comes out is read."""

import base64
import json
import socket
import time
import urllib.request
from hashlib import sha256

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from model.schema import RAW_BYTES, ModelVersion, encode_json
from scripts.stack import ROOT, Place, Stack
from tests import poison

pytestmark = pytest.mark.java

PATIENCE_S = 120
NOW_MS = int(time.time() * 1000)
FILMS = {f"space{n}": ("Space battle", "science fiction, space ships") for n in range(10)}
FILMS |= {f"love{n}": ("Wedding summer", "romance, love story") for n in range(10)}


class World:
    """A stack, a producer, and everything that was written to the topics since the start."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.producer = KafkaProducer(
            bootstrap_servers=stack.bootstrap_servers, max_request_size=2**25, compression_type="gzip"
        )
        self.consumer = KafkaConsumer(bootstrap_servers=stack.bootstrap_servers, isolation_level="read_committed")
        self.partitions: list[TopicPartition] = []
        self.seen: dict[str, list[dict]] = {}
        self.number = 0
        self.prefix = ""

    def watch(self, *topics: str) -> None:
        """Read these topics from now on."""
        for topic in topics:
            self.partitions += [TopicPartition(topic, n) for n in self.consumer.partitions_for_topic(topic) or {0}]
            self.seen[topic] = []
        self.consumer.assign(self.partitions)
        self.consumer.seek_to_beginning()

    def item(self, item_id: str, title: str = "", text: str = "", **more) -> None:
        record = {"item_id": item_id, "title": title, "text": text} | more
        self.producer.send(self.prefix + "items", key=item_id.encode(), value=json.dumps(record).encode())
        self.producer.flush()

    def send(self, raw: bytes, key: bytes | None = None) -> None:
        self.producer.send(self.prefix + "events", key=key, value=raw)
        self.producer.flush()

    def event(
        self, user_id: str, action: str = "view", item_id: str | None = None, event_id: str | None = None, **more
    ) -> str:
        """Send an event and return its event_id."""
        self.number += 1
        event_id = event_id or f"e{self.number}"
        record = {
            "event_id": event_id,
            "user_id": user_id,
            "action": action,
            "event_time_ms": NOW_MS + self.number,
        } | more
        self.send(json.dumps(record | ({"item_id": item_id} if item_id else {})).encode(), user_id.encode())
        return event_id

    def poll(self) -> None:
        for at, records in self.consumer.poll(timeout_ms=100).items():
            self.seen[at.topic] += [record for record in map(_json, records) if record is not None]

    def wait(self, topic: str, wanted, what: str) -> dict:
        """The first record of a topic for which `wanted` holds."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for record in self.seen[topic]:
                if _holds(wanted, record):
                    return record
            self.poll()
        raise AssertionError(
            f"{what}: not on {topic} within {PATIENCE_S} s; {len(self.seen[topic])} records came, "
            f"logs in {self.stack.logs}"
        )

    def list_for(self, event_id: str) -> dict:
        topic = self.prefix + "recommendations"
        return self.wait(topic, lambda record: record["event_id"] == event_id, f"the list that answers {event_id}")

    def items_for(self, event_id: str) -> list[str]:
        return [item["item_id"] for item in self.list_for(event_id)["items"]]

    def rejected(self, reason: str) -> dict:
        return self.wait(
            "rejected-events", lambda record: reason in record["reason"], f"a record rejected for {reason!r}"
        )


def _json(record) -> dict | None:
    """What a record says, None for one that says nothing."""
    try:
        said = json.loads(record.value or b"null")
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _holds(wanted, record: dict) -> bool:
    try:
        return bool(wanted(record))
    except (KeyError, TypeError):  # poison that lacks the field
        return False


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def world():
    names = ("kafka_port", "controller_port", "flink_port", "rpc_port", "page_port")
    place = Place(run_dir=str(ROOT / ".headrace" / "test-run"), **dict(zip(names, free_ports(5))))
    config = [
        "--fine_tune_every",
        "60",
        "--holdout",
        "20",
        "--gate_events",
        "20",
        "--gate_tolerance",
        "1000",
        "--k",
        "5",
        "--checkpoint_interval_ms",
        "1000",
    ]
    stack = Stack(place, config)
    with stack.up(parts=("broker", "cluster", "learner", "page")):
        world = World(stack)
        world.job = stack.submit()
        world.watch("recommendations", "rejected-events", "training-examples", "model-versions", "item-vectors")
        for item_id, (title, text) in FILMS.items():
            world.item(item_id, f"{title} {item_id[-1]}", text)
        world.wait("item-vectors", lambda record: record["item_id"] == "love9", "the last item's vector")
        yield world
        world.consumer.close()
        world.producer.close()


def test_an_event_is_answered_by_a_list(world):
    """A view is answered by k items, best first, nearest in meaning to what was seen."""
    answer = world.list_for(world.event("ann", "view", "space0"))
    probabilities = [item["probability"] for item in answer["items"]]

    assert "ann" == answer["user_id"]
    assert "untrained" == answer["model_version"]
    assert 5 == len(answer["items"])
    assert sorted(probabilities, reverse=True) == probabilities
    assert {"space"} == {item["item_id"][:5] for item in answer["items"]}
    assert "space0" not in [item["item_id"] for item in answer["items"]]


def test_a_search_is_understood_in_the_stream(world):
    """A search carries text and no item, and the next list is near to it."""
    found = world.items_for(world.event("bob", "search", query="a romantic love story"))

    assert {"love"} == {item_id[:4] for item_id in found}


def test_bad_records_are_rejected_with_their_bytes_and_the_job_goes_on(world):
    """Each bad record becomes one rejected record with the reason, the bytes and where it came from."""
    bad = {
        "JSON is malformed": b"{nonsense",
        "missing required field `user_id`": b'{"event_id": "x"}',
        "Expected `str`, got `int`": b'{"event_id":"x","user_id":1,"item_id":"i","action":"view","event_time_ms":1}',
        "Invalid enum value 'jump'": b'{"event_id":"x","user_id":"u","item_id":"i","action":"jump","event_time_ms":1}',
        "in the future": b'{"event_id":"x","user_id":"u","item_id":"i","action":"view","event_time_ms":99999999999999}',
        "no UTF-8": b'{"event_id":"x","user_id":"\xff","item_id":"i","action":"view","event_time_ms":1}',
        "like seconds": b'{"event_id":"x","user_id":"u","item_id":"i","action":"view","event_time_ms":1700000000}',
        "900000 bytes": b"\xff" * 900_000,
        "30000000 bytes": b" " * 30_000_000,  # as gzip it is small, and no limit of Kafka's keeps it away
    }
    for raw in bad.values():
        world.send(raw)
    answer = world.list_for(world.event("ann", "view", "space1"))

    assert 5 == len(answer["items"])
    for reason, raw in bad.items():
        record = world.rejected(reason)
        assert raw[:RAW_BYTES] == base64.b64decode(record["raw"])
        assert (len(raw), sha256(raw).hexdigest()) == (record["raw_bytes"], record["sha256"])
        assert ("events", int) == (record["source"], type(record["offset"]))
    assert len(bad) == len([record for record in world.seen["rejected-events"] if record["source"] == "events"])


def test_a_repeated_event_has_one_list(world):
    """An event_id that was seen before changes nothing and calls for no second list."""
    first = world.event("rob", "view", "space2", event_time_ms=NOW_MS)
    before = world.items_for(first)
    world.event("rob", "view", "space2", event_id=first, event_time_ms=NOW_MS)
    after = world.items_for(world.event("rob", "search", query="space"))

    assert 1 == len([record for record in world.seen["recommendations"] if record["event_id"] == first])
    assert set(before) & set(after)


def test_an_item_that_arrives_late_starts_to_matter(world):
    """An event on an unknown item is no error; once the item is there, it is a reason for what is recommended."""
    world.list_for(world.event("eve", "view", "late0"))
    world.item("late0", "Haunted house", "horror, ghosts")
    world.item("late1", "Haunted castle", "horror, ghosts")
    world.wait("item-vectors", lambda record: record["item_id"] == "late1", "the new item's vector")
    time.sleep(1)
    answer = world.list_for(world.event("eve", "view", "unheard-of"))

    assert "late1" == answer["items"][0]["item_id"]
    assert "late0" in [item_id for reason in answer["items"][0]["reasons"] for item_id in reason.get("items", [])]


def test_a_deleted_item_is_on_no_later_list(world):
    """Deleting an item takes effect in the next lists, without a restart."""
    world.item("late1", deleted=True)
    world.wait("item-vectors", lambda record: record["item_id"] == "late1" and record.get("deleted"), "the deletion")
    time.sleep(1)

    assert "late1" not in world.items_for(world.event("eve", "search", query="haunted castle, horror"))


def test_a_forgotten_user_is_new_again(world):
    """After `forget` what the user disliked is no longer known, and the learner is told."""
    world.list_for(world.event("joe", "dislike", "love3"))
    assert "love3" not in world.items_for(world.event("joe", "search", query="Wedding summer 3"))

    farewell = world.list_for(world.event("joe", "forget"))

    assert ("joe", [], True) == (farewell["user_id"], farewell["items"], farewell["forgotten"])
    assert "love3" in world.items_for(world.event("joe", "search", query="Wedding summer 3"))
    assert (
        world.wait("training-examples", lambda record: record.get("forget"), "the forget example")["user_id"] == "joe"
    )


def test_a_version_is_learnt_and_goes_live_without_a_restart(world):
    """After enough examples the learner announces a version, and the lists that follow carry it."""
    for number in range(120):
        world.event(f"u{number % 40}", "view", f"{'space' if number % 2 else 'love'}{number // 12}")
    deadline, version, number = time.monotonic() + 90, None, 0
    while version is None:  # a candidate waits for events of enough users: they go on coming
        assert time.monotonic() < deadline, "no version serves"
        world.event(f"w{number}", "view", f"{'space' if number % 2 else 'love'}{number % 10}")
        number += 1
        time.sleep(0.2)
        world.poll()
        version = next((record for record in world.seen["model-versions"] if record["status"] == "serving"), None)
    deadline = time.monotonic() + 30
    while world.list_for(world.event("ann", "search", query="space"))["model_version"] == "untrained":
        assert time.monotonic() < deadline, "no list carries the version"

    stamp = world.list_for(world.event("ann", "search", query="space"))["model_version"]
    assert version["version"] == stamp.partition(".")[0]
    assert "RUNNING" == world.stack.job_state(world.job)


def test_flink_tells_how_a_version_does_in_the_stream(world):
    """The live twin's figures are among the metrics of the step `score`."""
    [vertex] = [
        one["id"] for one in world.stack.ask(f"/jobs/{world.job}")["vertices"] if one["name"].startswith("score")
    ]
    deadline, wanted = time.monotonic() + 60, {}
    while not wanted:
        assert time.monotonic() < deadline, "no metric of a model version"
        for item_id in ("space3", "love4"):
            world.list_for(world.event("zoe", "view", item_id))
        metrics = world.stack.ask(f"/jobs/{world.job}/vertices/{vertex}/subtasks/metrics")
        wanted = {one["id"] for one in metrics if "model_version.serving" in one["id"]}
        time.sleep(1)

    names, figures = {name.rpartition(".")[2] for name in wanted}, ("hr_at_10_ppm", "ndcg_at_10_ppm")
    assert {"version", "events", *figures, *(f"popularity_{name}" for name in figures)} == names


def test_a_broken_version_is_refused_and_the_old_one_serves_on(world):
    """A version whose files are missing is refused with a message, and lists keep coming from the one before."""
    bad = ModelVersion("v99999", str(world.stack.registry / "v99999"), status="serving")
    world.producer.send("model-versions", key=b"v99999", value=encode_json(bad))
    world.producer.flush()
    refused = None
    while refused is None:
        answer = world.list_for(world.event("ann", "search", query="space"))
        world.poll()
        refused = next((record for record in world.seen["rejected-events"] if "v99999" in record["reason"]), None)

    assert "model-versions" == refused["source"]
    assert "there is no such version" in refused["reason"]
    assert answer["model_version"].startswith("v0")
    assert 5 == len(answer["items"])


def test_what_is_no_version_is_rejected_and_neither_job_nor_learner_restarts(world):
    """Brackets 50,000 deep, a record without a value, bytes that are no text, on a topic that the whole job reads."""
    for raw, reason in ((b'{"x":' + b"[" * 50_000, "recursion"), (None, "has no value"), (b"\xff\xfe", "no UTF-8")):
        world.producer.send("model-versions", key=b"poison", value=raw)
        world.producer.flush()
        refused = world.wait(
            "rejected-events",
            lambda record, why=reason: record["source"] == "model-versions" and why in record["reason"],
            reason,
        )
        assert refused["offset"] >= 0
        assert (raw or b"")[:RAW_BYTES] == base64.b64decode(refused["raw"])
    answer = world.list_for(world.event("ann", "search", query="space"))

    assert answer["model_version"].startswith("v0")
    assert "RUNNING" == world.stack.job_state(world.job)
    assert [] == world.stack.ask(f"/jobs/{world.job}/exceptions")["exceptionHistory"]["entries"]


@pytest.mark.parametrize("topic", list(poison.OF_TOPIC))
def test_nothing_that_a_topic_carries_stops_anything(world, topic):
    """Poison on every topic, the internal ones too: the job does not restart, the learner and the page live, and the
    next event is answered by a full list of a trained version.
    """
    before = world.list_for(world.event("ann", "search", query="space"))
    encoder = world.seen["item-vectors"][0]["encoder_version"]
    for raw in poison.of(topic, encoder).values():
        world.producer.send(topic, key=b"poison", value=raw)
    world.producer.flush()
    sent = time.monotonic()
    after = world.list_for(world.event("ann", "view", "space0"))
    print(f"poison on {topic}: the next event answered after {time.monotonic() - sent:.2f} s")
    for number in range(20):  # what is bad only once it is acted on
        after = world.list_for(world.event(f"after{number}", "view", f"space{number % 10}"))
        time.sleep(0.1)

    if topic not in ("recommendations", "rejected-events"):  # nothing but the page reads these
        world.wait("rejected-events", lambda record: record["source"] == topic, f"a reason for what is on {topic}")
    assert 5 == len(after["items"])
    assert "untrained" not in (before["model_version"], after["model_version"])
    assert {"learner", "page"} <= world.stack.running().keys()
    assert [] == world.stack.ask(f"/jobs/{world.job}/exceptions")["exceptionHistory"]["entries"]
    assert 200 == urllib.request.urlopen(f"{world.stack.page}/status").status


def test_exactly_once_shows_lists_once_they_are_committed(world):
    """With exactly-once delivery a second job in the same cluster answers each event once, at a checkpoint."""
    from kafka import KafkaAdminClient
    from kafka.admin import NewTopic

    from scripts.stack import topics

    world.stack.cancel(world.job)
    world.prefix = "once-"
    admin = KafkaAdminClient(bootstrap_servers=world.stack.bootstrap_servers)
    admin.create_topics(
        [NewTopic("once-" + name, 1, 1, topic_configs=config) for name, (_, config) in topics().items()]
    )
    admin.close()
    command = [*world.stack.command("job"), "--topic_prefix", "once-", "--delivery", "exactly-once"]
    world.job = world.stack.submit(command)
    world.watch("once-recommendations", "once-item-vectors")
    for item_id in ("space0", "space1", "love0"):
        world.item(item_id, *FILMS[item_id])
    world.wait("once-item-vectors", lambda record: record["item_id"] == "love0", "the last item's vector")
    events = [world.event("kim", "view", "space0")] + [world.event(f"k{n}", "view", "love0") for n in range(20)]
    for event_id in events:
        world.list_for(event_id)
    time.sleep(2)
    world.poll()

    assert sorted(events) == sorted(record["event_id"] for record in world.seen["once-recommendations"])
    assert "space1" == world.items_for(events[0])[0]
