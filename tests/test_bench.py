"""What `make bench` prints, whatever the sections measure."""

import json
import os

import pytest

from scripts import bench
from scripts.benchmarks import plots


def test_the_last_line_holds_every_section_the_cores_and_all_versions(monkeypatch, capsys):
    """A section that knows of further versions adds them."""
    monkeypatch.setattr(bench, "learning", lambda given, console: {"learning_s_per_1000": 0.5})
    monkeypatch.setattr(bench, "parts", lambda given, console: {"parts": {}, "versions": {"kafka": "4.4.0"}})

    bench.main(["--only", "learning,parts"])

    first, *_, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert (0.5, {}) == (found["learning_s_per_1000"], found["parts"])
    assert len(os.sched_getaffinity(0)) == found["cores"]
    assert {"python", "torch", "numpy", "kafka"} <= set(found["versions"])
    assert first.startswith(f"{found['cores']} cores; python {found['versions']['python']}")


@pytest.mark.parametrize(
    "words, sections", [([], bench.DEFAULT), (["--only", "compression,joint"], ["compression", "joint"])]
)
def test_compression_is_measured_where_it_is_named(words, sections):
    """It takes three minutes, and compares precisions, not systems; the joint scorer is off by default."""
    assert list(sections) == bench.options(words).sections


def test_each_question_has_a_picture(tmp_path):
    figures = {
        "ms_per_list": {"10000": 0.7, "100000": 0.9},
        "kafka_to_kafka": {"headrace": 800.0, "quix": 100.0},
        "half_load_per_s": 400.0,
        "freshness_ms": {"p50": 80.0, "p99": 150.0, "bare_loop_p50": 5.0, "bare_loop_p99": 9.0},
        "state_bytes_a_user": {"1": {"state": 144, "interests": 124, "consumed": 15}},
    }
    drawn = plots.draw(figures, tmp_path / "plots")

    assert ["list.png", "systems.png", "freshness.png", "state.png"] == [file.name for file in drawn]
    assert all(file.stat().st_size > 5_000 for file in drawn)
