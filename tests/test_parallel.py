"""The job on two TaskManagers, through real Kafka and Flink: parallelism 2, and one of the two is lost."""

import time
from collections import defaultdict

import pytest
from kafka import TopicPartition

from scripts.stack import ROOT, Place, Stack
from tests.test_end_to_end import FILMS, PATIENCE_S, World, free_ports

pytestmark = pytest.mark.java

USERS = [f"u{number}" for number in range(40)]
ROUNDS = 4


@pytest.fixture(scope="module")
def world():
    names = ("kafka_port", "controller_port", "flink_port", "rpc_port", "page_port")
    place = Place(
        run_dir=str(ROOT / ".headrace" / "test-run-parallel"), taskmanagers=2, **dict(zip(names, free_ports(5)))
    )
    stack = Stack(place, ["--k", "5", "--checkpoint_interval_ms", "1000"])
    with stack.up(parts=("broker", "cluster")):
        world = World(stack)
        for item_id, (title, text) in FILMS.items():
            world.item(item_id, f"{title} {item_id[-1]}", text)
        world.job = stack.submit()
        world.watch("recommendations", "training-examples", "item-vectors")
        world.wait("item-vectors", lambda record: record["item_id"] == "love9", "the last item's vector")
        yield world
        world.consumer.close()
        world.producer.close()


def views(world: World, rounds: range) -> dict[str, list[str]]:
    """Every user views an item in every round, in turn: the ids of the events of each user, in their order."""
    sent, items = defaultdict(list), list(FILMS)
    for turn in rounds:
        for number, user_id in enumerate(USERS):
            sent[user_id].append(world.event(user_id, "view", items[(turn + number) % len(items)]))
    return sent


def answers(world: World, sent: dict[str, list[str]]) -> dict[str, list[dict]]:
    """The lists that answer these events, by user, in the order of the topic; waits until every event has one."""
    wanted = {event_id for events in sent.values() for event_id in events}
    deadline, lists = time.monotonic() + PATIENCE_S, []
    while missing := wanted - {one["event_id"] for one in lists}:
        assert time.monotonic() < deadline, (
            f"{len(missing)} of {len(wanted)} events have no list: {sorted(missing)[:5]}"
        )
        world.poll()
        lists = [one for one in world.seen["recommendations"] if one["event_id"] in wanted]
    return {user_id: [one for one in lists if one["user_id"] == user_id] for user_id in sent}


def records_of_each_worker(world: World) -> list[int]:
    """How many records came to each of the subtasks that score."""
    [score] = [
        one["id"] for one in world.stack.ask(f"/jobs/{world.job}")["vertices"] if one["name"].startswith("score")
    ]
    subtasks = world.stack.ask(f"/jobs/{world.job}/vertices/{score}")["subtasks"]
    return [one["metrics"]["read-records"] for one in subtasks]


def counted(world: World) -> set[int]:
    """How many examples the workers have counted that answer a search of every user; a search is no example."""
    lists = answers(world, {user_id: [world.event(user_id, "search", query="space")] for user_id in USERS})
    return {one["examples_seen"] for made in lists.values() for one in made}


def wait_for_the_same(world: World, examples: int) -> None:
    """Wait until all lists are made with so many examples."""
    deadline, seen = time.monotonic() + 30, set()
    while {examples} != seen:
        assert time.monotonic() < deadline, f"lists are made with {sorted(seen)} examples, {examples} were wanted"
        seen = counted(world)


def test_every_event_is_answered_once_and_a_users_lists_keep_their_order(world):
    """Whichever of the two workers scores a user, by however many partitions the events came."""
    sent = views(world, range(ROUNDS))
    lists = answers(world, sent)
    for _ in range(10):  # a second list would have come by then
        world.poll()
    lists = answers(world, sent)

    assert sent == {user_id: [one["event_id"] for one in made] for user_id, made in lists.items()}
    assert len(USERS) * ROUNDS == len({one["rec_id"] for made in lists.values() for one in made})
    partitions = [TopicPartition("events", number) for number in world.consumer.partitions_for_topic("events")]
    assert sum(offset > 0 for offset in world.consumer.end_offsets(partitions).values()) >= 2


def test_both_workers_score_and_have_counted_the_same_examples(world):
    """Each counts every example of the log, whoever's worker the user's events went to."""
    wait_for_the_same(world, len(USERS) * ROUNDS)

    assert 2 == len(world.stack.ask("/taskmanagers")["taskmanagers"])
    deadline, records = time.monotonic() + 30, []
    while not records or not all(records):  # Flink gathers its metrics now and then
        assert time.monotonic() < deadline, f"records of the workers that score: {records}"
        records = records_of_each_worker(world)
    assert 2 == len(records)


def test_no_event_is_lost_with_a_taskmanager(world):
    """One is killed while events come and another is started: every event has a list, each under one id, and both
    workers have counted the same again.
    """
    before = views(world, range(ROUNDS, ROUNDS + 1))
    world.stack.kill("taskmanager-2")
    after = views(world, range(ROUNDS + 1, ROUNDS + 2))
    world.stack.start("taskmanager-2")
    sent = {user_id: before[user_id] + after[user_id] for user_id in USERS}
    lists = answers(world, sent)

    for user_id, made in lists.items():
        names = {one["event_id"]: one["rec_id"] for one in made}
        assert sent[user_id] == list(names)
        assert set(names.items()) == {(one["event_id"], one["rec_id"]) for one in made}
    wait_for_the_same(world, len(USERS) * (ROUNDS + 2))
    assert "RUNNING" == world.stack.job_state(world.job)
    assert [] != world.stack.ask(f"/jobs/{world.job}/exceptions")["exceptionHistory"]["entries"]
