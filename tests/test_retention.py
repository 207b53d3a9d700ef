"""Which versions stay in the registry, and that nothing else is ever deleted."""

import threading
from types import SimpleNamespace

import fsspec
import pytest

from jobs.retention import remove_unneeded, unneeded
from jobs.settings import Settings
from jobs.versions import KNOWN_REMOVED, Versions
from model import registry
from model.schema import ModelVersion, VersionError, encode_json
from model.versions import next_name
from scripts import models
from tests.test_learner import World, read, topic, world
from udfs import loading


@pytest.fixture(autouse=True)
def nothing_hangs(monkeypatch):
    """What a test leaves hanging is not that of the next one."""
    monkeypatch.setattr(loading, "_hung", [])


def announced(topic, folder, *statuses: str, path: str = "") -> Versions:
    """What is known of v00001, v00002 and so on after these records, each with a folder in the registry."""
    versions = Versions(Settings())
    for number, status in enumerate(statuses, 1):
        name = f"v{number:05d}"
        (folder / name / "more").mkdir(parents=True)
        versions.say(ModelVersion(name, path or f"{folder}/{name}"), status=status)
    return versions


def folders(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_versions_and_those_that_served_last_stay(topic, tmp_path):
    """Candidates that were rejected since do not push out the versions to which one can go back."""
    versions = announced(topic, tmp_path, *["serving"] * 5, *["rejected"] * 5)
    remove_unneeded(versions, str(tmp_path), 3)

    assert ["v00003", "v00004", "v00005", "v00008", "v00009", "v00010"] == folders(tmp_path)
    assert [("v00001", "removed"), ("v00002", "removed"), ("v00006", "removed"), ("v00007", "removed")] == topic.said()[
        10:
    ]
    assert ["v00005", "v00004", "v00003"] == [one.version for one in versions.lately()]
    assert [] == unneeded(versions, 3)


def test_the_version_that_serves_stays_however_old_it_is(topic, tmp_path):
    """Pinned while a hundred candidates came; by a record of an earlier release too, which told of new counts."""
    versions = announced(topic, tmp_path, "serving", *["rejected"] * 20)
    versions.say(ModelVersion("v00001", f"{tmp_path}/v00001/counts-000001"), status="counted")
    remove_unneeded(versions, str(tmp_path), 3)

    assert ["v00001", "v00019", "v00020", "v00021"] == folders(tmp_path)


def test_a_decision_by_hand_comes_before_a_removal(topic, tmp_path, monkeypatch):
    """Someone lets an old version serve in the moment in which the learner says that it is removed."""
    versions, hand = announced(topic, tmp_path, *["serving"] * 4), Versions(Settings())
    monkeypatch.setattr("jobs.retention.unneeded", lambda versions, keep: promoted() or [versions.known["v00001"]])

    def promoted():
        hand.refresh()
        hand.decide(hand.known["v00001"], "by hand", pinned=True)

    remove_unneeded(versions, str(tmp_path), 3)
    late = [Versions(Settings()), read(topic.compacted(), monkeypatch)]

    assert "v00001" in folders(tmp_path)
    assert [("v00001", "serving", True)] * 2 == [
        (one.current().version, one.known["v00001"].status, one.serving.pinned) for one in late
    ]


def test_a_decision_by_hand_outlives_what_came_too_late_for_it(topic, tmp_path, monkeypatch):
    """A learner that knows of no decision yet retires the version that was just chosen: of both records compaction
    keeps the learner's.
    """
    versions, hand = announced(topic, tmp_path, "serving"), Versions(Settings())
    send, late = topic.send, ModelVersion("v00001", f"{tmp_path}/v00001", status="retired")

    def sent_late(name, key, value):
        monkeypatch.setattr(topic, "send", send)
        hand.decide(hand.known["v00001"], "by hand", pinned=True)
        return send(name, key, value)

    versions.serve(ModelVersion("v00002", f"{tmp_path}/v00002"), 0)
    hand.refresh()
    monkeypatch.setattr(versions._writer, "_producer", SimpleNamespace(send=sent_late))
    versions.announce(late)

    assert ["v00001", "v00001"] == [
        one.current().version for one in (versions, read(topic.compacted(), monkeypatch)) if one.serving.pinned
    ]


def test_what_was_said_to_be_removed_is_deleted_in_the_end(topic, tmp_path):
    """By the next removal, where a learner ended in between, or somebody wrote into the folder once more."""
    versions = announced(topic, tmp_path, *["serving"] * 4)
    versions.say(versions.known["v00001"], status="removed")
    assert "v00001" in folders(tmp_path)
    remove_unneeded(versions, str(tmp_path), 3)
    (tmp_path / "v00001" / "more").mkdir(parents=True)
    remove_unneeded(versions, str(tmp_path), 3)

    assert ["v00002", "v00003", "v00004"] == folders(tmp_path)
    assert 1 == topic.said().count(("v00001", "removed"))


@pytest.mark.parametrize(
    "path",
    [
        "{folder}/v00001",
        "file://{folder}/v00001",
        "{folder}/v00001/counts-1/counts-2",
        "{folder}/v00001/more",
    ],
)
def test_what_serves_is_not_deleted_however_its_path_is_written(topic, tmp_path, path):
    """By hand a version serves under another name and another address of the same folder."""
    versions = announced(topic, tmp_path, *["rejected"] * 5)
    versions.decide(ModelVersion("by-hand", path.format(folder=tmp_path)), "by hand")
    remove_unneeded(versions, str(tmp_path), 3)

    assert ["v00001", "v00003", "v00004", "v00005"] == folders(tmp_path)


def test_a_version_of_an_earlier_release_is_removed_with_its_counts(topic, tmp_path):
    """Its last record names the folder of its newest counts; the version is the folder above."""
    versions = announced(topic, tmp_path, *["rejected"] * 5)
    (tmp_path / "v00001" / "counts-000017").mkdir()
    old = ModelVersion("v00001", f"{tmp_path}/v00001/counts-000017", status="retired")
    topic.send("model-versions", b"v00001", encode_json(old))
    versions.decide(ModelVersion("v00005", f"{tmp_path}/v00005"), "by hand")
    for number in range(6, 20):  # as many serve after it as are kept
        versions.say(ModelVersion(f"v{number:05d}", f"{tmp_path}/v{number:05d}"), status="serving")
    remove_unneeded(versions, str(tmp_path), 3)

    assert not (tmp_path / "v00001").exists()


def test_snapshots_of_the_item_statistics_are_no_versions(topic, tmp_path):
    """Whoever writes them deletes the old ones."""
    versions = announced(topic, tmp_path, *["rejected"] * 5)
    (tmp_path / "statistics-000001").mkdir()
    versions.announce(ModelVersion("statistics-000001", f"{tmp_path}/statistics-000001", status="rejected"))
    remove_unneeded(versions, str(tmp_path), 3)

    assert "statistics-000001" in folders(tmp_path)


@pytest.mark.parametrize("path", ["/nowhere/v00001", "{folder}/v00002", "{folder}/../v00001", "", "zip://v00001::/m"])
def test_a_removal_that_a_stranger_announces_deletes_nothing(topic, tmp_path, path):
    """Where its path is not that of the name in the registry, whatever is there is somebody's."""
    versions = announced(topic, tmp_path, *["rejected"] * 3)
    versions.announce(ModelVersion("v00001", path.format(folder=tmp_path), status="removed"))
    remove_unneeded(versions, str(tmp_path), 3)

    assert ["v00001", "v00002", "v00003"] == folders(tmp_path)


def test_versions_are_removed_from_an_object_store(topic):
    """As any that fsspec knows: there are no folders but what lies in them."""
    files, versions = fsspec.filesystem("memory"), Versions(Settings())
    for status in ("serving", *["rejected"] * 4):
        name = next_name(versions.known)
        files.pipe_file(f"/kept/{name}/more/model.json", b"{}")
        versions.say(ModelVersion(name, f"memory://kept/{name}"), status=status)
    remove_unneeded(versions, "memory://kept/", 2)

    assert ["v00001", "v00004", "v00005"] == registry.inside("memory://kept")


def test_of_versions_that_were_removed_only_the_newest_are_known(topic):
    """A year of them does not fill the learner's memory; new names go on from the last."""
    versions = Versions(Settings())
    for number in range(1, KNOWN_REMOVED + 31):
        versions.announce(ModelVersion(f"v{number:05d}", f"r/v{number:05d}", status="removed"))

    assert KNOWN_REMOVED == len(versions.known)
    assert f"v{KNOWN_REMOVED + 31:05d}" == next_name(versions.known)


@pytest.mark.parametrize("count", [1, 2, 3, 30, 60])
def test_whatever_the_number_of_removed_versions_the_others_are_known(topic, count):
    """And the removed ones as far as there is room for them."""
    versions = Versions(Settings())
    versions.say(ModelVersion("v00001", "r/v00001"), status="serving")
    for number in range(2, count + 2):
        versions.announce(ModelVersion(f"v{number:05d}", f"r/v{number:05d}", status="removed"))

    assert 1 + min(count, KNOWN_REMOVED) == len(versions.known)
    assert "v00001" == versions.current().version


@pytest.mark.parametrize("name", ["..", ".", "", "v00001/../..", "by-hand", "v1", "v00001x"])
def test_only_what_a_learner_wrote_into_the_registry_is_ever_deleted(topic, tmp_path, name):
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


def test_a_registry_that_lets_nothing_be_deleted_does_not_end_learning(topic, tmp_path, monkeypatch, caplog):
    """It is said, and tried again after the next version."""
    versions = announced(topic, tmp_path, *["rejected"] * 4)
    with monkeypatch.context() as away:
        away.setattr(registry, "remove", lambda path: 1 / 0)
        remove_unneeded(versions, str(tmp_path), 3)
    assert "v00001 cannot be removed" in caplog.text
    remove_unneeded(versions, str(tmp_path), 3)

    assert ["v00002", "v00003", "v00004"] == folders(tmp_path)


@pytest.mark.parametrize("command", [models.promote, models.pin])
def test_one_cannot_go_back_to_a_version_that_was_removed(topic, tmp_path, command):
    """The command says why."""
    versions = announced(topic, tmp_path, *["serving"] * 4)
    remove_unneeded(versions, str(tmp_path), 3)

    with pytest.raises(models.VersionError, match="v00001: was removed from the registry; keep_versions says"):
        command(versions, "v00001")


def test_the_learner_removes_what_it_needs_no_more(tmp_path, topic):
    """After each candidate: of five that served in turn the last three are there."""
    learner = World(tmp_path, keep_versions=3)
    while learner.current() != "v00005":
        learner.take(60, "count")
        learner.take(30)

    assert ["v00003", "v00004", "v00005"] == folders(tmp_path)
    assert ["v00001", "v00002"] == [name for name, status in topic.said() if status == "removed"]


def test_versions_that_are_chosen_while_the_registry_hangs_do_not_pile_up(world, monkeypatch, caplog):
    """One decides by hand again and again, and every one of them hangs."""
    go, asked = threading.Event(), []
    monkeypatch.setattr("jobs.finetune.LOAD_S", 0.01)
    monkeypatch.setattr("model.score.load", lambda path, *on: asked.append(path) or (go.wait(10) and 1 / 0))
    for number in range(1, 10):
        world.versions.decide(ModelVersion(f"v{number:05d}", f"{world.settings.registry}/v{number:05d}"), "by hand")
        world.take(2)
    go.set()

    assert loading.MOST_LOADS == len(asked)
    assert "v00009: not loaded while the registry does not answer for" in caplog.text


def test_a_serving_version_that_makes_no_lists_does_not_end_learning(world, caplog, monkeypatch):
    """It is tried when it is loaded: candidates are judged beside an untrained one."""
    world.take(60, "count")
    world.take(30)
    monkeypatch.setattr("model.score.score", lambda *_: [[]])
    world.start()
    world.take(30)

    assert "v00001" == world.current()
    assert "the serving version cannot be used" in caplog.text and "are none" in caplog.text


def test_a_registry_that_takes_nothing_ends_the_learner_with_a_reason(world, monkeypatch):
    """Whoever runs it starts it again; it does not stand still."""
    go = threading.Event()
    monkeypatch.setattr("jobs.finetune.WRITE_S", 0.01)
    monkeypatch.setattr(registry, "write", lambda *_: go.wait(10))
    with pytest.raises(VersionError, match=r"v00001: not written in 0\.01 s; does the registry answer\?"):
        world.take(60, "count")
    go.set()


def test_a_registry_that_never_answers_does_not_hold_up_the_learner(world, monkeypatch, caplog):
    """Candidates are judged beside an untrained scorer; it is not asked again while it has not answered."""
    go, asked = threading.Event(), []
    monkeypatch.setattr("jobs.finetune.LOAD_S", 0.01)
    monkeypatch.setattr("model.score.load", lambda path, *on: asked.append(path) or (go.wait(10) and 1 / 0))
    monkeypatch.setattr("jobs.finetune.RETRY_S", 0.0)
    world.versions.say(ModelVersion("v00001", f"{world.settings.registry}/v00001"), status="serving")
    for _ in range(3):
        world.take(10)
    go.set()

    assert 1 == len(asked)
    assert "v00001: not loaded in 0.01 s" in caplog.text
    assert loading.LOAD_S > 1
