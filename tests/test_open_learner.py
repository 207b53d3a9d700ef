"""What a learner knows that starts, and the snapshots of what it counts. Only Kafka and the clock are fakes."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jobs import finetune, inbox, writer
from jobs.finetune import RETRY_S, Snapshots, open_learner
from jobs.inbox import Inbox
from jobs.settings import Settings
from model import registry, snapshot
from model.catalogue import Catalogue
from model.finetune import Learner
from model.schema import Example, ItemVector, VersionError, encode_json
from model.statistics import ItemStatistics
from tests.brokers import Broker
from tests.test_score import make_catalogue
from tests.test_statistics_follower import LOG, SOURCE, counted, example, forget, same, write
from udfs import loading, reader

MORE = [example(number) for number in range(200)]


@pytest.fixture
def broker(monkeypatch) -> Broker:
    broker = Broker("training-examples", "fine-tune-requests", "item-vectors", "model-versions")
    broker.ids["training-examples"] = 1
    monkeypatch.setattr(reader, "KafkaConsumer", broker.consumer)
    monkeypatch.setattr(writer, "KafkaProducer", broker.producer)
    monkeypatch.setattr(reader, "RETRY_S", 0)
    monkeypatch.setattr(reader, "CHECK_S", 0)
    monkeypatch.setattr(loading, "_hung", [])
    return broker


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(registry=str(tmp_path / "registry"), replica_dir=str(tmp_path / "replica"), replay_capacity=100)


def opened(settings: Settings) -> tuple[Learner, Inbox]:
    return open_learner(settings, make_catalogue())


def counted_after(learner: Learner, box: Inbox) -> ItemStatistics:
    """The statistics when what is in the inbox is counted too."""
    learner.add(box.take())
    learner.count()
    return learner.statistics


def remembered(learner: Learner) -> int:
    return sum(len(user.keys) for user in learner.replay.users.values())


# From a snapshot


def test_a_learner_goes_on_from_a_snapshot_and_remembers_what_it_holds(broker, settings):
    """What came after it is new; what came before is there to be replayed, and no news."""
    snapshot.write(settings.registry_path, counted(LOG[:30]), SOURCE, {0: 30})
    write(broker, *LOG)
    learner, box = opened(settings)

    assert same(counted(LOG[:30]), learner.statistics)
    assert (30, LOG[30:], []) == (remembered(learner), box.examples, box.remembered)
    assert same(counted(LOG), counted_after(learner, box))
    assert 50 == remembered(learner)


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("before", [0, 1, 90, 99, 100, 120, 199, 200])
def test_nothing_is_counted_twice_or_lost_however_long_the_learner_was_away(broker, settings, partitions, before):
    """Also what came since the snapshot and is more than is remembered."""
    offsets = {}
    for number, one in enumerate(MORE):
        at = number % partitions
        write(broker, one, partition=at, timestamp=one.event_time_ms)
        offsets[at] = offsets.get(at, 0) + (number < before)
    snapshot.write(settings.registry_path, counted(MORE[:before]), SOURCE, offsets)
    learner, box = opened(settings)
    statistics = counted_after(learner, box)

    assert 200 == statistics.seen
    assert all(statistics.has(one) for one in MORE)
    assert 100 == remembered(learner)


@pytest.mark.parametrize("quiet", [0, 1])
def test_a_partition_in_which_nothing_is_new_enough_is_counted_too(broker, settings, quiet):
    """All that is remembered lies in the other one."""
    for number, one in enumerate(MORE):
        write(broker, one, partition=quiet if number < 60 else 1 - quiet, timestamp=one.event_time_ms)
    snapshot.write(settings.registry_path, counted(MORE[:10]), SOURCE, {quiet: 10, 1 - quiet: 0})
    learner, box = opened(settings)

    assert 100 == learner.statistics.seen == len(box.examples)
    assert 200 == counted_after(learner, box).seen


def test_a_forget_that_came_while_the_learner_was_away_is_obeyed(broker, settings):
    """Whether the user's examples are in the snapshot, between it and what is remembered, or after it."""
    snapshot.write(settings.registry_path, counted(MORE[:40]), SOURCE, {0: 40})
    write(broker, *MORE[:150], forget("u1", 500), *MORE[150:])
    learner, box = opened(settings)
    statistics = counted_after(learner, box)

    gone = [one for one in MORE[:150] if one.user_id == "u1"]
    assert not any(statistics.has(one) for one in gone)
    assert all(statistics.has(one) for one in MORE if one not in gone)


@pytest.mark.parametrize(
    "source, offset", [("other one 1", 30), ("training-examples one 2", 30), (SOURCE, 51)],
    ids=["topic", "made anew", "longer"],
)  # fmt: skip
def test_the_snapshot_of_another_topic_is_not_used(broker, settings, source, offset):
    """All that is there is new."""
    others = (example(number, "other") for number in range(60))
    snapshot.write(settings.registry_path, counted(others), source, {0: offset})
    write(broker, *LOG)
    learner, box = opened(settings)

    assert (0, 0, LOG) == (learner.statistics.seen, remembered(learner), box.examples)
    assert same(counted(LOG), counted_after(learner, box))


def test_without_a_snapshot_the_settings_bound_the_statistics(broker, settings):
    """As they do with one."""
    small = Settings(registry=settings.registry, statistics_events=17, statistics_pairs=1_000_000)
    write(broker, *LOG)
    first, box = opened(small)
    assert small.statistics() == first.statistics.config
    snapshot.write(small.registry_path, counted_after(first, box), SOURCE, {0: 50})

    assert small.statistics() == opened(small)[0].statistics.config


def test_a_topic_that_is_made_anew_later_has_new_examples(broker, settings):
    """Their offsets are those of examples that were counted once: they are others."""
    snapshot.write(settings.registry_path, counted(LOG[:30]), SOURCE, {0: 30})
    write(broker, *LOG)
    _, box = opened(settings)
    box.take()
    broker.topics["training-examples"], broker.ids["training-examples"] = {0: []}, 2
    write(broker, *MORE[100:110])
    box.drain()

    assert (MORE[100:110], []) == (box.examples, box.remembered)


def test_a_registry_that_does_not_answer_does_not_hold_up_the_start(broker, settings, monkeypatch, caplog):
    """The newest examples are counted, as a worker does."""
    monkeypatch.setattr(snapshot, "newest", lambda *_: 1 / 0)
    write(broker, *LOG)
    learner, box = opened(settings)

    assert same(counted(LOG), counted_after(learner, box))
    assert "snapshots of the item statistics cannot be read" in caplog.text


# When a snapshot is written


class Clock:
    def __init__(self, monkeypatch) -> None:
        self.now_s = 1_000.0
        monkeypatch.setattr(finetune, "time", SimpleNamespace(monotonic=lambda: self.now_s))


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def stream(count: int, items: int, users: int) -> Iterable[list[Example]]:
    """Heaps of 500 examples."""
    random = np.random.default_rng(7)
    for start in range(0, count, 500):
        yield [
            Example(f"u{random.integers(users)}", f"e{at}", 1_000 * at, f"i{random.integers(items)}", "view")
            for at in range(start, start + 500)
        ]


@pytest.mark.parametrize("items, users", [(20, 5), (2_000, 300), (20_000, 20_000)])
def test_a_snapshot_costs_an_example_no_more_than_it_may(tmp_path, clock, monkeypatch, items, users):
    """On average, before each one is written: however fast the statistics grow. None is put off for ever."""
    sizes, folder = [], str(tmp_path)
    write_ = snapshot.write
    monkeypatch.setattr(snapshot, "write", lambda *given: sizes.append(write_(*given)) or sizes[-1])
    statistics, snapshots = ItemStatistics(), Snapshots(folder, 0)
    for heap in stream(80_000, items, users):
        statistics.apply(heap)
        if snapshots.is_due(statistics):
            snapshots.write(statistics, SOURCE, {0: statistics.seen})
            assert sum(sizes[:-1]) <= snapshot.BYTES_AN_EXAMPLE * statistics.seen
        assert not snapshots.is_due(statistics)

    assert len(sizes) >= 2
    assert 0 < snapshot.newest(folder)[0].statistics.seen <= statistics.seen


def test_where_nothing_is_new_no_snapshot_is_due(tmp_path, clock):
    """Nor after a restart, for what the snapshot holds."""
    statistics = counted(LOG)
    snapshots = Snapshots(str(tmp_path), statistics.seen)
    clock.now_s += 1e6

    assert not snapshots.is_due(statistics)
    assert not Snapshots(str(tmp_path), 0).is_due(ItemStatistics())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_soon_after_a_forget_no_snapshot_knows_the_user(tmp_path, clock):
    """Once a minute, whatever was counted; those from before are deleted."""
    statistics, snapshots = counted(LOG), Snapshots(str(tmp_path), 50)
    for _ in range(2):
        snapshots.write(statistics, SOURCE, {0: 50})
    assert ["statistics-000001", "statistics-000002"] == names(tmp_path)
    statistics.forget("u1")
    snapshots.forgot = True
    assert not snapshots.is_due(statistics)
    clock.now_s += 61
    assert snapshots.is_due(statistics)
    snapshots.write(statistics, SOURCE, {0: 51})

    assert ["statistics-000003"] == names(tmp_path)
    assert -1 == snapshot.newest(str(tmp_path))[0].statistics.user_row("u1")
    clock.now_s += 61
    assert not snapshots.is_due(statistics)


@pytest.mark.parametrize("call", ["write", "remove"])
def test_a_forget_that_cannot_be_written_stays_due(tmp_path, clock, monkeypatch, caplog, call):
    """It is said, and tried again, not at once; in the end nothing is left from before."""
    statistics, snapshots = counted(LOG), Snapshots(str(tmp_path), 50)
    snapshots.write(statistics, SOURCE, {0: 50})
    statistics.forget("u1")
    snapshots.forgot = True
    clock.now_s += 61
    with monkeypatch.context() as full:
        full.setattr(registry, call, lambda *_: 1 / 0)
        snapshots.write(statistics, SOURCE, {0: 51})
    assert "a snapshot of the item statistics is not written, tried again soon: division by zero" in caplog.text
    assert "statistics-000001" in names(tmp_path) and not snapshots.is_due(statistics)
    clock.now_s += RETRY_S
    assert snapshots.is_due(statistics)
    snapshots.write(statistics, SOURCE, {0: 51})

    assert 1 == len(names(tmp_path)) and "statistics-000001" not in names(tmp_path)
    assert -1 == snapshot.newest(str(tmp_path))[0].statistics.user_row("u1")


def test_a_registry_that_hangs_ends_the_learner(tmp_path, monkeypatch):
    """A thread would write statistics later that had changed by then, with the offsets of before."""
    import threading

    go = threading.Event()
    monkeypatch.setattr(loading, "_hung", [])
    monkeypatch.setattr(finetune, "WRITE_S", 0.01)
    monkeypatch.setattr(snapshot, "write", lambda *_: go.wait(10))
    with pytest.raises(VersionError, match=r"not written in 0\.01 s; does the registry answer\?"):
        Snapshots(str(tmp_path), 0).write(counted(LOG), SOURCE, {0: 50})
    go.set()


# All together


class Over(Exception):
    """The test has seen enough."""


def run(settings: Settings, monkeypatch, turns: int, more=lambda turn: None) -> None:
    """Let a learner take some turns; `more` happens before each."""
    read, taken = Inbox.read, iter(range(turns))

    def turn(box: Inbox, timeout_ms: int = 500) -> None:
        at = next(taken, None)
        if at is None:
            raise Over
        more(at)
        read(box, timeout_ms)

    with monkeypatch.context() as patched:
        patched.setattr(inbox.Inbox, "read", turn)
        with pytest.raises(Over):
            finetune.learn(settings)


@pytest.fixture
def quick(tmp_path, broker, settings, monkeypatch) -> Settings:
    """A learner that counts and writes at every turn."""
    monkeypatch.setattr(snapshot, "BYTES_AN_EXAMPLE", 1e12)
    monkeypatch.setattr(Snapshots, "FORGET_S", -1.0)
    catalogue: Catalogue = make_catalogue()
    for item_id, vector in zip(catalogue.item_ids, catalogue.vectors.astype("<f2")):
        raw = encode_json(ItemVector(item_id, "enc-1", vector.tobytes()))
        broker.topics["item-vectors"][0].append(SimpleNamespace(value=raw, timestamp=0, key=item_id.encode()))
    return Settings(
        registry=settings.registry, replica_dir=settings.replica_dir, replay_capacity=100, count_every_s=1e-9
    )


def test_a_learner_writes_what_it_has_counted_and_the_next_one_goes_on(broker, quick, monkeypatch):
    """Each example once, in three lives of the learner; the last is away for longer than it remembers."""
    write(broker, *MORE[:20])
    for end in (30, 60, 190):
        run(quick, monkeypatch, 4, lambda turn, end=end: turn or write(broker, *MORE[_length(broker) : end]))
        read, refused = snapshot.newest(quick.registry_path)
        assert (end, {0: end}, SOURCE, []) == (read.statistics.seen, read.offsets, read.source, refused)
        if end == 60:
            write(broker, *MORE[60:189])

    assert all(read.statistics.has(one) for one in MORE[:190])


def _length(broker: Broker) -> int:
    return len(broker.topics["training-examples"][0])


def test_a_forget_that_a_learner_reads_at_its_start_is_soon_in_no_snapshot(broker, quick, monkeypatch):
    """The one before it ended between the two."""
    snapshot.write(quick.registry_path, counted(LOG), SOURCE, {0: 50})
    write(broker, *LOG, forget("u1", 60))
    monkeypatch.setattr(snapshot, "BYTES_AN_EXAMPLE", 0)
    run(quick, monkeypatch, 3)

    assert ["statistics-000002"] == registry.inside(quick.registry_path)
    assert -1 == snapshot.newest(quick.registry_path)[0].statistics.user_row("u1")
