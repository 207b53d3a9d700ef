"""Versions on disk, loaded by the scoring worker: what serves, what is refused."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import udfs.replica
import udfs.statistics
import udfs.worker
from model import snapshot
from model.interest import Rules
from model.schema import item_key
from model.score import Scorer, save
from model.scoring.network import Sizes
from model.statistics import ItemStatistics
from tests.test_udfs import DIM, FOLLOWS, VERSION, FakeFollower, FakeMetrics, FakeStatistics, scored
from udfs.score import ListConfig, Score


class Still(FakeStatistics):
    """Real item statistics that have counted nothing."""

    def __init__(self):
        super().__init__()
        self.statistics = ItemStatistics()


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A worker that was opened as Flink opens it, over three items and a registry on disk."""
    monkeypatch.setattr(udfs.worker, "prepare", lambda threads: None)
    monkeypatch.setattr(udfs.replica, "CatalogueFollower", lambda *_: FakeFollower("a", "b", "c"))
    monkeypatch.setattr(udfs.statistics, "StatisticsFollower", lambda *_: Still())
    score = Score(Rules(), ListConfig(2), "cpu", FOLLOWS, str(tmp_path / "replica"), 1, str(tmp_path))
    score.open(SimpleNamespace(get_metric_group=FakeMetrics))
    yield score
    score._follower.close = lambda: None
    score.close()


def served(score: Score, *paths: str) -> tuple[str, list[str]]:
    """The version of the first list that is made when nothing is on its way, and all that was refused until then."""
    told = []
    while True:
        [made], rejected = scored(score, list(paths))
        told += rejected
        if not score._scorers._loading and not rejected:
            return made.model_version, told
        for loading in list(score._scorers._loading.values()):
            assert loading.is_over(30)


def save_version(folder, name: str, number: float = 0.0) -> str:
    """Write a version that knows the three items, with this number among its weights."""
    scorer = Scorer(Sizes(DIM), 3, VERSION)
    scorer.keys = torch.from_numpy(np.array([item_key(item_id) for item_id in "abc"], np.uint64).view(np.int64))
    scorer.network.bias.data[0] = number
    return save(scorer, str(folder), name, {})


def test_versions_on_disk_serve_whatever_is_announced_beside_them(worker, tmp_path):
    """A good one; then no numbers, half a file, another address, a folder that is gone, a snapshot of statistics."""
    good, mad, half, gone = (
        save_version(tmp_path, f"v{number:05d}", weight) for number, weight in enumerate((0.0, math.nan, 0.0, 0.0), 1)
    )
    Path(half, "model.safetensors").write_bytes(b"half")
    statistics = snapshot.write(str(tmp_path), ItemStatistics(), "log", {}) and f"{tmp_path}/statistics-000001"
    assert ("v00001", []) == served(worker, good)
    shutil.rmtree(gone)
    bad = {
        mad: "no number",
        half: "write it again",
        gone: "no such version",
        f"zip://m::{good}": "outside the registry",
        f"{good}/counts-000001": "outside the registry",
        statistics: "layout None",
    }
    for path, reason in bad.items():
        version, [why] = served(worker, path, good)
        assert ("v00001", True) == (version, reason in why)


def test_a_version_is_held_in_int8_where_it_is_asked_for_and_saved_in_float32(worker, tmp_path):
    """It makes lists, and its folder stays as it was."""
    worker._precision = "int8"
    good = save_version(tmp_path, "v00001")
    before = Path(good, "model.safetensors").read_bytes()

    assert ("v00001", []) == served(worker, good)
    assert [(torch.int8, 3)] == [
        (held.network.ids.dtype, len(held.network.ids)) for held in worker._scorers._loaded.values()
    ]
    assert before == Path(good, "model.safetensors").read_bytes()
