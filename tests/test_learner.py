"""The learner's turns: when it counts, when it makes a candidate, what becomes of it. Only Kafka is a fake."""

from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch

from jobs import finetune, writer
from jobs.finetune import FineTune
from jobs.settings import Settings
from jobs.versions import Versions
from model import registry, score
from model.catalogue import Catalogue
from model.finetune import Learner
from model.schema import Example, ItemVector, ModelVersion, decode_item_vector, decoded, encode_json, item_key
from model.versions import Serving
from scripts import models
from tests.brokers import Broker, Consumer
from tests.test_finetune import make_examples
from tests.test_score import make_catalogue, make_request
from udfs import reader

Record = namedtuple("Record", "key value")


class Topic(list):
    """The topic `model-versions`: its records, and as much of Kafka's clients as is used."""

    def producer(self, **_) -> SimpleNamespace:
        return SimpleNamespace(send=self.send, close=lambda timeout: None)

    def send(self, topic: str, key: bytes, value: bytes) -> SimpleNamespace:
        self.append(Record(key, value))
        return SimpleNamespace(get=lambda timeout: None)

    def consumer(self, **options) -> "Consumer":
        broker = Broker()
        names = ("model-versions", "item-vectors", "shop-model-versions", "b-model-versions")
        broker.topics = {name: {0: self} for name in names}
        return broker.consumer(**options)

    def compacted(self) -> "Topic":
        """What is left when the broker has kept the last record of every key."""
        last = {record.key: number for number, record in enumerate(self)}
        return Topic(record for number, record in enumerate(self) if last[record.key] == number)

    def said(self) -> list[tuple[str, str]]:
        """What was decided."""
        versions = [msgspec.json.decode(record.value, type=ModelVersion) for record in self]
        return [(version.version, version.status) for version in versions]


@pytest.fixture
def topic(monkeypatch) -> Topic:
    topic = Topic()
    read(topic, monkeypatch)
    return topic


def read(topic: Topic, monkeypatch) -> Versions:
    """What a program that starts now reads from a topic."""
    monkeypatch.setattr(writer, "KafkaProducer", topic.producer)
    monkeypatch.setattr(reader, "KafkaConsumer", topic.consumer)
    return Versions(Settings())


class World:
    """A learner over a small catalogue, and the examples that are still to come, of 60 users in turn."""

    def __init__(self, registry: Path, **settings):
        self.catalogue = make_catalogue()
        self.settings = Settings(
            **{"registry": str(registry), "holdout": 20, "gate_events": 20, "gate_tolerance": 1_000.0} | settings
        )
        self.examples = sorted(make_examples(self.catalogue, range(60)), key=lambda one: one.event_time_ms)
        self.start()

    def start(self) -> None:
        """A new process."""
        self.versions, self.learner = Versions(self.settings), Learner(self.catalogue)
        self.step = FineTune(self.settings, self.learner, self.versions)

    def take(self, count: int, why: str = "") -> str:
        """One turn with the next examples; what is still asked for."""
        now, self.examples = self.examples[:count], self.examples[count:]
        return self.step.turn(now, why)

    def current(self) -> str:
        self.versions.refresh()
        current = self.versions.current()
        return current.version if current else ""

    def accepts(self, tolerance: float) -> None:
        self.step._settings = msgspec.structs.replace(self.settings, gate_tolerance=tolerance)

    def lists(self, scorer: score.Scorer, k: int) -> list[str]:
        """The list of a user without events."""
        made = score.score(scorer, self.learner.statistics, self.catalogue, [make_request(self.catalogue, [])], k)
        return [item.item_id for item in made[0]]

    def spoil(self) -> None:
        """Make the learner's weights useless: what it makes from now on is worse."""
        with torch.no_grad():
            for parameter in self.learner._scorer.parameters():
                parameter.fill_(-1.0)


@pytest.fixture
def world(tmp_path, topic) -> World:
    return World(tmp_path)


# What can be read


@pytest.mark.parametrize(
    "raw", [None, b"\xff", b'{"x":' + b"[" * 50_000, b'{"version":"v9","path":"r/v9","epoch":1' + b"0" * 40 + b"}"]
)
def test_what_is_no_version_changes_nothing(topic, raw):
    """For the learner and for `models`; the records around it count."""
    topic += [Record(b"v1", encode_json(ModelVersion("v1", "r/v1", status="serving"))), Record(b"v9", raw)]
    versions = Versions(Settings())

    assert ["v1"] == list(versions.known)
    assert ["r/v1"] == versions.serving.paths


@pytest.mark.parametrize("path", ["zip://m::/etc/passwd", "/etc", "nosuch://x/y"])
def test_a_version_outside_the_registry_is_not_loaded_and_learning_goes_on(world, path):
    """Candidates are judged beside an untrained one."""
    world.versions.announce(ModelVersion("z", path, status="serving"))
    world.step.turn([], "")

    assert world.step._served.scorer is None


# When


def test_new_examples_are_counted_after_a_moment_and_those_that_were_asked_for_at_once(world):
    """Whether a version serves or not; a request with few examples has nothing to be judged on and waits."""
    states = [(50, "", 0.9), (50, "", 1.0), (0, "", 99.0), (19, "count", 0.0), (19, "count", 1.0), (20, "count", 0.0)]
    expected = [False, True, False, False, True, True]

    assert expected == [world.step.due(*state) for state in states]
    world.take(60, "count")
    assert expected == [world.step.due(*state) for state in states]


def test_what_was_asked_for_stays_asked_for_until_there_are_enough_examples(world):
    """In a quiet hour a request comes a minute: one or two examples are counted, and nothing is learnt from them."""
    world.take(60, "count")
    before = len(world.versions.known)
    assert ["age"] * 4 == [world.take(2, "age") for _ in range(4)]
    assert before == len(world.versions.known) and world.step._trial is None

    assert "" == world.take(12, "age")
    assert world.step._trial is not None


def test_examples_that_came_before_are_not_new(world):
    """After a failure the job writes some of them again: they prove nothing, and nothing is learnt from them."""
    world.take(60, "count")
    again = sorted(make_examples(world.catalogue, range(60)), key=lambda one: one.event_time_ms)[:60]

    assert "age" == world.step.turn(again, "age")


# The gate


def test_a_candidate_is_judged_on_the_newest_examples_that_waited(world, topic):
    """Half of what waited, at most `holdout`; the first candidate goes live at once, and it can be loaded."""
    assert "" == world.take(60, "count")

    version = world.versions.current()
    assert [("v00001", "serving")] == topic.said()
    assert (60, 20, 20) == tuple(version.metrics[name] for name in ("examples", "judged_on", "judged_users"))
    assert 30 == len(world.lists(score.load(version.path), 40))


def test_where_few_waited_a_candidate_is_judged_on_the_next_ones(world, topic):
    """Those of the turns before were counted already, so they prove nothing; it goes live when enough have come."""
    world.take(60, "count")
    world.take(50)
    world.take(10, "count")
    assert "age" == world.take(10, "age")  # one candidate at a time
    assert [("v00001", "serving")] == topic.said()
    world.take(10)

    assert [("v00002", "serving"), ("v00001", "retired")] == topic.said()[-2:]
    assert 20 == world.versions.current().metrics["judged_on"]


def test_the_first_candidate_waits_too(tmp_path, topic):
    """Nothing serves, but something that was judged on ten events shall not either."""
    world = World(tmp_path, gate_events=40)
    assert "" == world.take(40, "count")
    world.take(15)
    assert [] == topic.said()
    world.take(10)

    assert 40 == world.versions.current().metrics["judged_on"]


def test_one_user_does_not_decide(world, topic):
    """Of the examples a candidate is judged on, one in twenty, at least one, may be of one user: bots wait too."""
    world.take(60, "count")
    world.take(50)
    world.take(10, "count")
    world.step.turn(
        [Example("bot", f"bot-{number}", number, f"i{number % 30}", "click", b"") for number in range(100)], ""
    )

    assert [("v00001", "serving")] == topic.said()
    assert (1, 6) == (world.step._trial.by_user["bot"], len(world.step._trial.ours.hit))


def test_examples_on_items_that_are_not_there_prove_nothing(world, topic):
    """No list could have held them: a candidate judged on them alone would look like any other."""
    world.step.turn(
        [Example(f"u{number}", f"e{number}", number, "nowhere", "click", b"") for number in range(60)], "count"
    )
    assert [] == topic.said()
    world.take(60)

    assert world.versions.current().metrics["hr_at_10"] > 0


def test_a_worse_candidate_is_rejected_and_the_one_before_serves_on(world, topic):
    """With the reason, and the number of events that it is drawn from."""
    world.take(180, "count")
    world.accepts(0.0)
    world.spoil()
    world.take(100, "count")
    world.take(20)

    assert ("v00002", "rejected") == topic.said()[-1]
    assert "on 20 events; v00001 has" in world.versions.known["v00002"].reason
    assert "v00001" == world.current()


def test_both_are_judged_with_the_same_statistics_from_before_the_examples(world, monkeypatch):
    """What decides is what was learnt, not who has counted last."""
    world.take(60, "count")
    world.take(60)
    world.take(10, "count")
    trial, served, judged = world.step._trial.scorer, world.step._served.scorer, []
    scored = score.score
    monkeypatch.setattr(
        "model.finetune.score",
        lambda scorer, counted, *rest, **more: (
            judged.append((scorer, counted, counted.seen)) or scored(scorer, counted, *rest, **more)
        ),
    )
    world.take(10)

    counted = world.learner.statistics
    assert [(trial, counted, 130), (served, counted, 130)] == judged
    assert 140 == counted.seen
    assert not torch.equal(trial.network.ids, served.network.ids)


def test_another_encoder_ends_a_trial(world, topic):
    """The candidate cannot be judged on items of another encoder; the next one is learnt for it."""
    world.take(60, "count")
    world.take(50)
    world.take(10, "count")
    wide = make_catalogue(30, "wide", 24)
    texts = zip(wide.item_ids, wide.vectors.astype("<f2"))
    world.catalogue.apply(ItemVector(item_id, "wide", vector.tobytes()) for item_id, vector in texts)
    assert "age" == world.take(10, "age")
    assert world.step._trial is None
    world.take(60, "age")

    assert "wide" == score.load(world.versions.current().path).encoder_version


def test_two_prefixes_share_a_registry_and_no_version(tmp_path, topic):
    """Each learner writes into the folder of its prefix, and takes nothing from another's."""
    shop = World(tmp_path, topic_prefix="shop-")
    shop.take(60, "count")
    made = shop.versions.current()

    assert tmp_path / "shop-" / "v00001" == Path(made.path)

    used = {
        prefix: World(tmp_path, topic_prefix=prefix).step._served.scorer is not None for prefix in ("shop-", "", "b-")
    }

    assert {"shop-": True, "": False, "b-": False} == used


# Statistics


def test_what_is_counted_goes_on_between_two_fine_tunings(world, topic):
    """The statistics know the examples of this turn; the version stays as it is, and nobody is told."""
    world.take(60, "count")
    said, path = len(topic), world.versions.current().path
    before = score.load(path)
    world.take(40)

    assert (100, said, path) == (world.learner.statistics.seen, len(topic), world.versions.current().path)
    assert torch.equal(before.network.ids, world.step._served.scorer.network.ids)


def test_counting_goes_on_while_a_candidate_is_judged(world):
    """A trial may wait for a whole night."""
    world.take(60, "count")
    world.take(50)
    world.take(10, "count")
    world.take(5)

    assert world.step._trial is not None
    assert 125 == world.learner.statistics.seen


def test_counting_goes_on_before_any_version_serves(world):
    """Scoring workers count too, and their lists are made with it."""
    world.take(10)

    assert 10 == world.learner.statistics.seen and not world.current()


def test_counting_goes_on_after_a_change_of_the_catalogue(world):
    """An item that is new is counted at once, and listed by the version from before it."""
    world.take(60, "count")
    new = ItemVector("new", "enc-1", world.catalogue.vectors[0].astype("<f2").tobytes())
    world.catalogue.apply([new])
    world.step.turn([Example(f"u{number}", f"n{number}", 9_000, "new", "click", b"") for number in range(5)], "")
    counted = world.learner.statistics

    assert 5 == round(counted.popularity()[counted.row_of[item_key("new")], 0])
    assert "new" in world.lists(score.load(world.versions.current().path), 31)


def test_counting_goes_on_after_a_rejected_candidate(world):
    """The candidate's weights are not those that serve; what is counted is the same for both."""
    world.take(60, "count")
    before = score.load(world.versions.current().path)
    world.accepts(0.0)
    world.spoil()
    world.take(100, "count")
    world.take(20)
    after = score.load(world.versions.current().path)

    assert ("rejected", "v00001") == (world.versions.known["v00002"].status, world.current())
    assert torch.equal(before.network.ids, after.network.ids)
    assert 180 == world.learner.statistics.seen


def test_counting_goes_on_beside_a_version_that_somebody_else_made(world, tmp_path):
    """Learning goes on from that version's weights, and counting from what was counted."""
    world.take(60, "count")
    other = score.save(Learner(world.catalogue).fine_tune(), str(tmp_path), "by-hand", {})
    world.versions.announce(ModelVersion("by-hand", other, status="serving"))
    world.take(20)

    assert [other, f"{tmp_path}/v00001"] == world.versions.serving.paths
    assert (80, other) == (world.learner.statistics.seen, world.step._served.path)


# A new process


def test_a_learner_that_starts_again_counts_what_came_before_it_and_learns_nothing_from_it(world, topic):
    """The version that serves has learnt from it; counting goes on, unbroken; the next candidate waits for new ones."""
    past = world.examples[:100]
    world.take(60, "count")
    world.take(40)
    world.start()
    assert [] == world.step.recall(past)
    world.take(10)

    assert 110 == world.learner.statistics.seen
    assert not world.step.due(9, "count", 0.0) and world.step.due(10, "count", 0.0)


def test_examples_of_before_are_counted_however_few_of_them_are_remembered(world):
    """Those that have made room for newer ones in the replay are counted too."""
    past = world.examples[:200]
    world.take(60, "count")
    world.start()
    world.learner.replay.capacity = 50
    world.step.recall(past)

    assert 200 == world.learner.statistics.seen
    assert 50 == len(world.learner.replay.order)


@pytest.mark.parametrize("why", ["", "count"])
def test_examples_of_a_turn_are_counted_however_few_of_them_are_remembered(world, why):
    """Many may come while the learner is busy; a candidate is learnt from those that are still there."""
    world.learner.replay.capacity = 50
    assert "" == world.take(300, why)

    assert (300, 50) == (world.learner.statistics.seen, len(world.learner.replay.order))
    assert why == ("count" if world.current() else "")


def test_a_learner_that_starts_where_nothing_serves_learns_from_what_came_before_it(world):
    past = world.examples[:100]
    assert past == world.step.recall(past)


def test_an_error_ends_the_process_with_code_1_and_its_traceback(monkeypatch, caplog):
    """Whoever runs the learner starts it again; nobody would if it lived on without learning."""

    def fail(settings):
        raise RuntimeError("out of luck")

    ended = []
    monkeypatch.setattr(finetune, "learn", fail)
    monkeypatch.setattr(finetune.os, "_exit", ended.append)
    finetune.main([])

    assert [1] == ended
    assert "the learner ends: RuntimeError: out of luck" in caplog.text and "Traceback" in caplog.text


def test_a_card_that_is_not_there_is_refused_before_anything_starts(capsys):
    """The learner ends with code 2 and a sentence, before it asks the broker for anything."""
    with pytest.raises(SystemExit) as ended:
        finetune.main(["--learner_device", "cuda:99"])

    assert 2 == ended.value.code
    assert capsys.readouterr().err.startswith("headrace: --learner_device cuda:99: torch finds ")


# By hand


def serve(versions: Versions, registry: Path, *names: str) -> None:
    """Let versions go live one after the other, as a learner does."""
    for name in names:
        path = score.save(score.Scorer.untrained(8), str(registry), name, {})
        assert versions.serve(ModelVersion(name, path), versions.serving.epoch)


NAMES = [f"v{number:05d}" for number in range(1, 8)]


def test_a_rollback_goes_to_the_version_directly_before_and_again_to_the_one_before_that(topic, tmp_path):
    """Seven versions: back to the sixth, then to the fifth; what was rolled back is rejected and is no target."""
    versions = Versions(Settings())
    serve(versions, tmp_path, *NAMES)

    assert ["v00006", "v00005", "v00004"] == [models.rollback(versions).version for _ in range(3)]
    assert ["v00004", "v00003", "v00002", "v00001"] == [version.version for version in versions.lately()]
    assert "rejected" == versions.known["v00007"].status
    models.promote(versions, "v00007")
    assert "v00004" == models.rollback(versions).version


def test_a_rejected_candidate_is_no_target_of_a_rollback(topic, tmp_path):
    versions = Versions(Settings())
    serve(versions, tmp_path, "v00001", "v00002")
    versions.say(ModelVersion("v00003", str(tmp_path / "v00003")), status="rejected")
    serve(versions, tmp_path, "v00004")

    assert ["v00002", "v00001"] == [models.rollback(versions).version for _ in range(2)]


def test_a_rollback_holds(world, topic):
    """Neither a candidate that was learnt before it, nor one that comes now, takes its place."""
    world.take(60, "count")
    world.take(60, "count")
    assert "v00002" == world.current()
    world.take(50)
    world.take(10, "count")  # a trial is on
    models.rollback(Versions(world.settings))
    late = ModelVersion("v00009", "r/v00009", status="serving")  # of a learner that has not heard of it yet
    topic.send("model-versions", b"v00009", encode_json(late))

    assert "count" == world.take(60, "count")
    assert "v00001" == world.current()
    assert world.versions.serving.paths[0].endswith("/v00001")
    assert world.versions.serving.pinned and world.step._trial is None


def test_after_a_rollback_learning_goes_on_from_the_version_that_serves(world):
    """What is learnt when candidates may serve again comes from its weights, not from those that were rolled back."""
    world.take(60, "count")
    first = score.load(world.versions.current().path)
    world.spoil()
    world.take(60, "count")
    models.rollback(Versions(world.settings))
    world.take(10)

    assert torch.equal(first.network.project.weight, world.learner._scorer.network.project.weight)
    models.unpin(Versions(world.settings))
    world.take(10)
    assert torch.equal(first.network.project.weight, world.learner._scorer.network.project.weight)
    world.take(60, "count")
    assert "v00003" == world.current()
    assert (score.load(world.versions.current().path).network.project.weight.mean() > -0.5).item()


def test_a_pinned_version_stays_until_it_is_let_go(world, topic):
    """Counting goes on; what was asked for stays asked for."""
    world.take(60, "count")
    models.pin(Versions(world.settings), "v00001")
    assert "count" == world.take(100, "count")
    assert ("v00001", True) == (world.current(), world.versions.serving.pinned)
    assert 160 == world.learner.statistics.seen

    models.unpin(Versions(world.settings))
    world.take(0)
    world.take(60, "count")
    assert "v00002" == world.current()


def test_a_pin_in_the_middle_of_a_trial_ends_it(world, topic):
    world.take(60, "count")
    world.take(50)
    world.take(10, "count")
    models.pin(Versions(world.settings), "v00001")
    world.take(60)

    assert "v00001" == world.current() and world.step._trial is None


def test_a_decision_by_hand_while_a_candidate_is_written_is_not_overtaken(world, monkeypatch):
    """The learner hears of it when it announces the candidate: that one is rejected, with the reason."""
    world.take(60, "count")
    save = score.save

    def slow(*given):
        models.pin(Versions(world.settings), "v00001")
        return save(*given)

    monkeypatch.setattr(score, "save", slow)
    world.take(60, "count")

    assert "v00001" == world.current()
    assert ("rejected", "something else was decided by hand while it was judged") == (
        world.versions.known["v00002"].status, world.versions.known["v00002"].reason,
    )  # fmt: skip


def test_a_compacted_topic_says_the_same(world, topic, monkeypatch):
    """Whoever starts later reads the last record of every key: what serves, those before and the pin are the same."""
    for _ in range(4):
        world.take(60, "count")
        world.take(20)
    whole = Versions(world.settings)
    assert 4 == len(whole.serving.paths)
    assert whole.serving == read(topic.compacted(), monkeypatch).serving

    read(topic, monkeypatch)
    models.rollback(whole)
    models.pin(whole, "v00002")
    world.versions = world.step._versions = Versions(world.settings)
    world.take(20)
    whole.refresh()
    later = read(topic.compacted(), monkeypatch)
    assert ("v00002", True) == (whole.current().version, whole.serving.pinned)
    assert (whole.serving, whole.known) == (later.serving, later.known)


def test_records_of_an_earlier_release_are_read(topic):
    """They know no epoch, and a path may end in a folder of counts: the version is in the one above."""
    for name, path, status in [
        ("v00001", "r/v00001", "serving"), ("v00002", "r/v00002", "serving"), ("v00001", "r/v00001", "retired"),
        ("v00002", "r/v00002/counts-000001", "serving"), ("v00001", "r/v00001/counts-000009", "counted"),
    ]:  # fmt: skip
        topic.send("", name.encode(), msgspec.json.encode({"version": name, "path": path, "status": status}))
    versions = Versions(Settings())

    assert Serving(["r/v00002", "r/v00001"], led=True) == versions.serving
    assert [("v00002", "serving"), ("v00001", "retired")] == [(one.version, one.status) for one in versions.lately()]
    assert ["r/v00002", "r/v00001"] == [version.path for version in versions.lately()]


@pytest.mark.parametrize("words", [[], ["promote"], ["pin"], ["nonsense"]])
def test_the_command_says_how_it_is_used(words, capsys):
    assert 2 == models.main(words)
    assert "rollback" in capsys.readouterr().err


def test_the_command_shows_what_serves_is_pinned_and_on_how_much_it_was_judged(world, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    world.take(60, "count")
    world.take(60, "count")
    assert 0 == models.main(["rollback"])
    assert "v00001 serves now and is pinned" in capsys.readouterr().out
    assert 0 == models.main(["list"])
    first, second = [line for line in capsys.readouterr().out.splitlines() if "v0000" in line]

    assert "serves, pinned" in first and " 20 " in first
    assert "rejected" in second and "rolled back by hand" in second
    assert 0 == models.main(["unpin"])
    assert 1 == models.main(["unpin"])
    assert "nothing is pinned" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["rollback"], ["promote", "v9"], ["pin", "v9"], ["unpin"]])
def test_what_cannot_be_done_is_said(topic, words, capsys):
    assert 1 == models.main(words)
    assert "models: " in capsys.readouterr().err


# Encoders


@pytest.fixture
def vectors(monkeypatch) -> Topic:
    """The topic `item-vectors`: two items of one encoder, one of another, one deleted."""
    topic = Topic()
    monkeypatch.setattr(writer, "KafkaProducer", topic.producer)
    monkeypatch.setattr(reader, "KafkaConsumer", topic.consumer)
    for item_id, version in (("a", "v1"), ("b", "v1"), ("c", "v1"), ("d", "v1"), ("c", "v2")):
        topic.send("item-vectors", item_id.encode(), encode_json(ItemVector(item_id, version, bytes(8))))
    topic.send("item-vectors", b"d", encode_json(ItemVector("d", "v1", deleted=True)))
    topic += [Record(b"x", b"junk"), Record(b"y", None)]
    return topic


def follows(topic: Topic) -> tuple[str, str]:
    """What a catalogue serves that follows the topic, and what is pinned."""
    catalogue = Catalogue()
    items = (decoded(record.value, decode_item_vector) for record in topic)
    catalogue.apply(item for item in items if not isinstance(item, str))
    return catalogue.encoder_version, catalogue.pinned


def test_an_encoder_is_chosen_by_command(vectors, capsys):
    """Whoever follows the topic serves its vectors; with `auto` they stay, and may be replaced. The newest word stays
    when the topic is compacted.
    """
    said = [(follows(vectors), follows(vectors.compacted()))]
    for name in ("v2", "auto", "v1"):
        assert 0 == models.main(["encoder", name])
        said += [(follows(vectors), follows(vectors.compacted()))]

    assert [("v1", "v2", "v2", "v1"), ("", "v2", "", "v1")] == list(zip(*(long for long, _ in said)))
    assert [("v2", "v2"), ("v1", "v1")] == [said[1][1], said[3][1]]
    assert "the vectors of v2 serve now, of 1 items" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["v3", "", "V1"])
def test_an_encoder_that_no_item_has_is_not_chosen(vectors, capsys, name):
    """The message says which there are."""
    records = len(vectors)

    assert 1 == models.main(["encoder", name])
    assert "there are v1 (2 items), v2 (1 items)" in capsys.readouterr().err
    assert len(vectors) == records


def test_a_topic_without_vectors_has_no_encoder(vectors, capsys):
    """Nothing is chosen."""
    vectors.clear()

    assert 1 == models.main(["encoder", "v1"])
    assert "there are none" in capsys.readouterr().err


def test_who_chooses_otherwise_than_before_is_learnt_from_at_once(world):
    """With a detector that tells of drift a turn begins a candidate that nobody asked for; without one none does."""
    seen = []
    world.take(40, "count")
    world.take(60)
    before = len(world.versions.known)
    world.step._drift = SimpleNamespace(watch=lambda *given: seen.append(tuple(map(len, given))) or True)
    world.take(100)
    newest = max(world.versions.known.values(), key=lambda version: version.version)

    assert [(64, 64)] == seen
    assert before + 1 == len(world.versions.known)
    assert "drift" == registry.read(newest.path)[1]["why"]
