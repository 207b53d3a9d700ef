"""Snapshots of the item statistics in the registry."""

from pathlib import Path

import pytest

from model import registry, snapshot
from model.statistics import ItemStatistics
from tests.test_statistics import stream


@pytest.fixture
def counted():
    one = ItemStatistics()
    one.apply(stream(200))
    return one


def test_what_is_read_goes_on_where_the_log_was(tmp_path, counted):
    """Statistics, the topic, and the next offset of each partition."""
    size = snapshot.write(str(tmp_path), counted, "examples of a cluster", {0: 150, 3: 50})
    read, refused = snapshot.newest(str(tmp_path))

    assert [] == refused
    assert ("examples of a cluster", {0: 150, 3: 50}, 200) == (read.source, read.offsets, read.statistics.seen)
    assert 0 < size <= 1.1 * sum(column.nbytes for column in counted.snapshot().values())


def test_where_there_is_none_nothing_is_counted(tmp_path):
    """Also where there is no registry yet."""
    read, refused = snapshot.newest(str(tmp_path / "nowhere"))

    assert (0, "", {}, []) == (read.statistics.seen, read.source, read.offsets, refused)


def test_few_are_kept_and_what_else_is_there_is_left_alone(tmp_path, counted):
    """Model versions, and whatever people put there."""
    registry.write(str(tmp_path), "v00001", {}, {})
    (tmp_path / "statistics-notes.txt").write_text("mine")
    for _ in range(4):
        snapshot.write(str(tmp_path), counted, "s", {})

    assert ["statistics-000003", "statistics-000004", "statistics-notes.txt", "v00001"] == registry.inside(
        str(tmp_path)
    )


def test_after_a_user_was_forgotten_none_is_kept_from_before(tmp_path, counted):
    """What was written before still names the user."""
    snapshot.write(str(tmp_path), counted, "s", {})
    counted.forget("u1")
    snapshot.write(str(tmp_path), counted, "s", {}, keep=1)

    assert ["statistics-000002"] == registry.inside(str(tmp_path))


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_broken_one_is_passed_over_for_the_one_before(tmp_path, counted, name):
    """Cut short, or half there; it is said why."""
    snapshot.write(str(tmp_path), counted, "s", {0: 1})
    snapshot.write(str(tmp_path), counted, "s", {0: 2})
    broken = Path(tmp_path) / "statistics-000002" / name
    broken.write_bytes(broken.read_bytes()[:20])
    read, refused = snapshot.newest(str(tmp_path))

    assert {0: 1} == read.offsets
    assert ["statistics-000002"] == [why.partition(":")[0] for why in refused]
