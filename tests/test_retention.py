"""Which versions stay in the registry, and that nothing else is ever deleted."""

import threading

import pytest

from jobs.retention import remove_unneeded, unneeded
from jobs.settings import Settings
from jobs.versions import Versions
from model import registry
from model.schema import ModelVersion
from scripts import models
from tests.test_learner import World, topic, world  # noqa: F401  fixtures
from udfs import loading


def announced(topic, folder, *statuses: str, path: str = "") -> Versions:  # noqa: F811
    """What is known of v00001, v00002 and so on after these records, each with a folder in the registry."""
    versions = Versions(Settings())
    for number, status in enumerate(statuses, 1):
        name = f"v{number:05d}"
        (folder / name / "counts-000001").mkdir(parents=True)
        versions.say(ModelVersion(name, path or f"{folder}/{name}"), status=status)
    return versions


def folders(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_versions_and_those_that_served_last_stay(topic, tmp_path):  # noqa: F811
    """Candidates that were rejected since do not push out the versions to which one can go back."""
    versions = announced(topic, tmp_path, *["serving"] * 5, *["rejected"] * 5)
    remove_unneeded(versions, str(tmp_path), 3)

    assert ["v00003", "v00004", "v00005", "v00008", "v00009", "v00010"] == folders(tmp_path)
    assert [("v00001", "removed"), ("v00002", "removed"), ("v00006", "removed"), ("v00007", "removed")] == topic.said()[
        10:
    ]
    assert ["v00005", "v00004", "v00003"] == [one.version for one in versions.lately()]
    assert [] == unneeded(versions, 3)


def test_the_version_that_serves_stays_however_old_it_is(topic, tmp_path):  # noqa: F811
    """Pinned while a hundred candidates came, and with new counts all the time."""
    versions = announced(topic, tmp_path, "serving", *["rejected"] * 20)
    versions.say(ModelVersion("v00001", f"{tmp_path}/v00001/counts-000001"), status="counted")
    remove_unneeded(versions, str(tmp_path), 3)

    assert ["v00001", "v00019", "v00020", "v00021"] == folders(tmp_path)


@pytest.mark.parametrize("name", ["..", ".", "", "v00001/../..", "by-hand", "v1", "v00001x"])
def test_only_what_a_learner_wrote_into_the_registry_is_ever_deleted(topic, tmp_path, name):  # noqa: F811
    """Whatever a record says its name or its path is."""
    home, outside = tmp_path / "registry", tmp_path / "precious"
    home.mkdir(), outside.mkdir(), (home / "by-hand").mkdir()
    versions = announced(topic, home, "rejected", path=str(outside))
    versions.say(ModelVersion(name, f"{home}/{name}"), status="rejected")
    for number in range(2, 10):
        versions.say(ModelVersion(f"v{number:05d}", f"{home}/v{number:05d}"), status="rejected")
    remove_unneeded(versions, str(home), 3)

    assert ["precious", "registry"] == folders(tmp_path)
    assert ["by-hand", "v00001"] == folders(home)


def test_a_registry_that_lets_nothing_be_deleted_does_not_end_learning(topic, tmp_path, monkeypatch, caplog):  # noqa: F811
    """It is said, and tried again after the next version."""
    versions = announced(topic, tmp_path, *["rejected"] * 4)
    with monkeypatch.context() as away:
        away.setattr(registry, "remove", lambda path: 1 / 0)
        remove_unneeded(versions, str(tmp_path), 3)
    assert "v00001 cannot be removed" in caplog.text
    remove_unneeded(versions, str(tmp_path), 3)

    assert ["v00002", "v00003", "v00004"] == folders(tmp_path)


@pytest.mark.parametrize("command", [models.promote, models.pin])
def test_one_cannot_go_back_to_a_version_that_was_removed(topic, tmp_path, command):  # noqa: F811
    """The command says why."""
    versions = announced(topic, tmp_path, *["serving"] * 4)
    remove_unneeded(versions, str(tmp_path), 3)

    with pytest.raises(models.VersionError, match="v00001: was removed from the registry; keep_versions says"):
        command(versions, "v00001")


def test_the_learner_removes_what_it_needs_no_more(tmp_path, topic):  # noqa: F811
    """After each candidate: of five that served in turn the last three are there."""
    world = World(tmp_path, keep_versions=3)
    while world.current() != "v00005":
        world.take(60, "count")
        world.take(30)

    assert ["v00003", "v00004", "v00005"] == folders(tmp_path)
    assert ["v00001", "v00002"] == [name for name, status in topic.said() if status == "removed"]


def test_a_registry_that_never_answers_does_not_hold_up_the_learner(world, monkeypatch, caplog):  # noqa: F811
    """Candidates are judged beside an untrained scorer; it is not asked again while it has not answered."""
    go, asked = threading.Event(), []
    monkeypatch.setattr("jobs.finetune.LOAD_S", 0.01)
    monkeypatch.setattr("model.score.load", lambda path: asked.append(path) or go.wait(10) and 1 / 0)
    monkeypatch.setattr("jobs.finetune.RETRY_S", 0.0)
    world.versions.say(ModelVersion("v00001", f"{world.settings.registry}/v00001"), status="serving")
    for _ in range(3):
        world.take(10)
    go.set()

    assert 1 == len(asked)
    assert "v00001: not loaded in 0.01 s" in caplog.text
    assert loading.LOAD_S > 1
