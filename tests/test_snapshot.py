"""Snapshots of the item statistics in the registry."""

from pathlib import Path

import pytest
import torch

from model import registry, snapshot
from model.bounds import StatisticsConfig
from model.statistics import LAYOUT, ItemStatistics
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


def changed(folder: Path, columns: dict, about: dict) -> None:
    """Write the newest snapshot anew with other columns, with a checksum that is right."""
    tensors, told = registry.read(str(folder))
    told = {name: value for name, value in told.items() if name not in ("version", "sha256")}
    registry.write(str(folder.parent), folder.name, tensors | columns, told | about)


@pytest.mark.parametrize("columns, about", [
    ({"log.item": torch.full((200,), 10**6, dtype=torch.int32)}, {}),
    ({"log.item": torch.zeros(200, dtype=torch.bfloat16)}, {}),
    ({"keys": torch.zeros(12, dtype=torch.float32)}, {}),
    ({"numbers": torch.tensor([LAYOUT + 1, 200])}, {}),
    ({}, {"offsets": [1, 2]}),
    ({}, {"offsets": {"one": 2}}),
    ({}, {"offsets": {"0": None}}),
])  # fmt: skip
def test_one_that_means_nothing_is_passed_over_though_its_checksum_is_right(tmp_path, counted, columns, about):
    """Another layout, rows that are not there, types that are no column's, offsets that are none."""
    for offset in (1, 2):
        snapshot.write(str(tmp_path), counted, "s", {0: offset})
    changed(tmp_path / "statistics-000002", columns, about)
    read, refused = snapshot.newest(str(tmp_path))

    assert ({0: 1}, 200) == (read.offsets, read.statistics.seen)
    assert ["statistics-000002"] == [why.partition(":")[0] for why in refused]


def test_where_all_are_broken_counting_begins_anew_and_the_next_one_is_read(tmp_path, counted):
    """A number is not given twice, so that nobody takes half of one for another."""
    (tmp_path / "statistics-000007").write_text("a file")
    (tmp_path / "statistics-000008").mkdir()
    read, refused = snapshot.newest(str(tmp_path))
    assert (0, 2) == (read.statistics.seen, len(refused))

    snapshot.write(str(tmp_path), counted, "s", {0: 5}, keep=1)
    assert ["statistics-000009"] == registry.inside(str(tmp_path))
    assert {0: 5} == snapshot.newest(str(tmp_path))[0].offsets


def test_who_goes_on_obeys_bounds_of_its_own(tmp_path, counted):
    """Not those of the process that wrote it."""
    snapshot.write(str(tmp_path), counted, "s", {})
    few = StatisticsConfig(most_events=50)
    read, _ = snapshot.newest(str(tmp_path), few)

    assert (few, 50, 200) == (read.statistics.config, len(read.statistics.log.item), read.statistics.seen)
