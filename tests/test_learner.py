"""The learner's turns: when it counts, when it makes a candidate, what becomes of it. Kafka is a fake, the rest is real."""

from pathlib import Path

import msgspec
import pytest

from jobs.finetune import KEPT_COUNTS, FineTune
from jobs.settings import Settings
from model import score
from model.finetune import Learner
from model.schema import ModelVersion
from model.versions import follow, name_of, trained_path
from tests.test_finetune import make_examples
from tests.test_score import make_catalogue, make_request


class FakeVersions:
    """The topic `model-versions`, as a list of what was said."""

    def __init__(self):
        self.said, self.known, self.serving = [], {}, []

    def refresh(self) -> None:
        pass

    def announce(self, version: ModelVersion) -> None:
        self.said.append((version.version, version.status))
        self.known[version.version] = version
        self.serving = follow(self.serving, version)

    def serve(self, version: ModelVersion) -> None:
        self.announce(msgspec.structs.replace(version, status="serving"))

    def current(self) -> ModelVersion | None:
        return next((one for one in self.known.values() if self.serving[:1] == [one.path]), None)


class World:
    """A learner over a small catalogue, and the examples that are still to come."""

    def __init__(self, registry: Path, **settings):
        self.catalogue, self.versions = make_catalogue(), FakeVersions()
        self.settings = Settings(registry=str(registry), holdout=20, gate_tolerance=1_000.0, **settings)
        self.learner = Learner(self.catalogue)
        self.step = FineTune(self.settings, self.learner, self.versions)
        self.examples = make_examples(self.catalogue, range(60))

    def take(self, count: int, why: str = "") -> str:
        """One turn with the next examples; what is still asked for."""
        now, self.examples = self.examples[:count], self.examples[count:]
        return self.step.turn(now, why)


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def test_before_a_version_serves_examples_wait_for_a_request(world):
    """There is nothing to count for; a request with one example has nothing to be judged on."""
    assert [False, False, True] == [world.step.due(*state) for state in ((50, "", 99.0), (1, "count", 99.0), (2, "count", 0.0))]


def test_a_candidate_is_judged_on_the_newest_examples_that_waited(world):
    """Half of what waited, at most `holdout`; the first candidate goes live at once, and it can be loaded."""
    assert "" == world.take(60, "count")

    version = world.versions.current()
    assert [("v00001", "serving")] == world.versions.said
    assert (60, 20) == (version.metrics["examples"], version.metrics["judged_on"])
    assert 30 == len(score.score(score.load(version.path), world.catalogue, [make_request(world.catalogue, [])], 40)[0])


def test_where_few_waited_a_candidate_is_judged_on_the_next_ones(world):
    """Those of the turns before were counted already, so they prove nothing; it goes live when enough have come."""
    world.take(60, "count")
    world.take(50)
    world.take(10, "count")
    said = list(world.versions.said)
    assert "age" == world.take(10, "age")  # one candidate at a time
    assert said == world.versions.said
    world.take(10)

    assert ("v00002", "serving") == world.versions.said[-1]
    assert 20 == world.versions.current().metrics["judged_on"]


def test_what_is_counted_goes_live_between_two_fine_tunings(world):
    """The version stays, its counts are new ones: popularity knows the examples of this turn, the networks do not."""
    world.take(60, "count")
    before = score.load(world.versions.current().path)
    assert world.step.due(1, "", world.settings.count_every_s)
    assert not world.step.due(1, "", world.settings.count_every_s / 2)
    world.take(40)
    current = world.versions.current()
    after = score.load(current.path)

    assert ("v00001", "v00001.1") == (current.version, name_of(current.path))
    assert (60, 100) == tuple(round(scorer.counts[0].sum().item()) for scorer in (before, after))
    assert before.network.project.weight.tolist() == after.network.project.weight.tolist()


def test_only_the_last_counts_are_kept(world):
    """Older ones are deleted from the registry, the version itself stays."""
    world.take(60, "count")
    for _ in range(KEPT_COUNTS + 3):
        world.take(5)

    kept = sorted(path.name for path in Path(trained_path(world.versions.current().path)).iterdir() if path.is_dir())
    assert [f"counts-{number:06d}" for number in range(4, KEPT_COUNTS + 4)] == kept


def test_nothing_is_counted_for_a_version_that_somebody_else_made(world, tmp_path):
    """After a rollback by hand the learner's counts would not fit the version that serves."""
    world.take(60, "count")
    other = score.save(world.learner.fine_tune(), str(tmp_path), "by-hand", {})
    world.versions.announce(ModelVersion("by-hand", other, status="serving"))
    world.take(20)

    assert [other, "v00001"] == [world.versions.serving[0], name_of(world.versions.serving[1])]


def test_new_items_wait_for_the_next_fine_tuning(world):
    """Counts have one row an item; those of a catalogue that has changed would not fit the version."""
    world.take(60, "count")
    serving = list(world.versions.serving)
    world.catalogue.revision += 1
    world.take(20)
    assert serving == world.versions.serving
    world.take(40, "count")

    assert "v00002" == world.versions.current().version


def test_a_worse_candidate_is_rejected_and_the_one_before_serves_on(tmp_path):
    """With the reason; the learner does not count for it."""
    world = World(tmp_path)
    world.take(200, "count")
    world.settings = msgspec.structs.replace(world.settings, gate_tolerance=0.0)
    world.step._settings = world.settings
    with score.torch.no_grad():
        for parameter in world.learner._scorer.parameters():
            parameter.fill_(-1.0)
    world.take(100, "count")
    world.take(20)

    assert ("v00002", "rejected") == world.versions.said[-1]
    assert "v00001 has" in world.versions.known["v00002"].reason
    assert "v00001" == world.versions.current().version
