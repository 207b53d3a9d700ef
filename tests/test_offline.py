"""RecBole's part of a leave-one-out evaluation: what it is given, how its lists come back. RecBole is not run."""

import sys
from pathlib import Path

import pytest

from model.evaluate import leave_one_out
from scripts import offline
from scripts.data import DataError
from tests.test_evaluate import make_events
from tests.test_score import make_catalogue

PRINTS_THE_LAST_ITEM = """
import collections, json, sys
rows = [line.split() for line in open(sys.argv[1] + "/events/events.inter")][1:]
last = {user: [item] for user, item, _ in rows}
print("RecBole says something")
print(json.dumps({"epoch": 1, "valid": 0.5}))
print(json.dumps({"lists": last, "learning_s": 2.0, "lists_s": 1.0}))
"""


def given(monkeypatch, tmp_path: Path, script: str) -> None:
    """This Python and this script in the place of RecBole's."""
    (tmp_path / "script.py").write_text(script)
    monkeypatch.setattr(offline, "_SCRIPT", tmp_path / "script.py")
    monkeypatch.setattr(offline, "_environment", lambda: Path(sys.executable))


def test_the_split_is_ours_and_the_lists_stand_beside_the_others(monkeypatch, tmp_path):
    """A model that cheats, and names the last item of every user: all of its lists are hits."""
    given(monkeypatch, tmp_path, PRINTS_THE_LAST_ITEM)
    events, catalogue, done = make_events(6, 8), make_catalogue(), []
    outcome = leave_one_out(events, catalogue, methods=())
    offline.add_recbole(outcome, events, catalogue, 0, 4, lambda at, of: done.append((at, of)))

    assert [0] * 6 == outcome.results["sasrec"].ranks == outcome.results["gru4rec"].ranks
    assert [(1, 8), (4, 8), (5, 8), (8, 8)] == done
    assert (2.0, 1.0) == (outcome.results["sasrec"].learning_s, outcome.results["sasrec"].seconds)


def test_where_recbole_stops_the_message_holds_its_error(monkeypatch, tmp_path):
    given(monkeypatch, tmp_path, "raise SystemExit('no such model')")
    outcome = leave_one_out(make_events(2, 4), make_catalogue(), methods=())

    with pytest.raises(DataError, match=r"SASRec of recbole==1.2.1 stopped with 1: no such model"):
        offline.add_recbole(outcome, make_events(2, 4), make_catalogue(), 0, 4, lambda at, of: None)
