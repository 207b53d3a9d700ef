"""The table of switches: which there are, and what is said of each beside the default; evaluations are made up."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from jobs.settings import load
from scripts import switches
from scripts.data import DataError
from scripts.switches import DEFAULT, SWITCHES, Measured, Switch, chosen, compare

FIGURES = {
    "hr_at_10": 0.5,
    "ndcg_at_10": 0.3,
    "coverage": 0.1,
    "ms_per_list": 0.4,
    "learning_s_per_1000_events": 0.8,
    "new_users": {"events": 2, "hr_at_10": 0.25},
}
ARGUMENTS = Namespace(data="ml-100k", events=None, items=None, users=None, limit=None, order_seed=0, switches="all")


def measured(ranks: list[int]) -> Measured:
    result = {"data": "x", "predicted": len(ranks), "methods": {"headrace": FIGURES}}
    return Measured(result, np.array(ranks), np.arange(len(ranks)), 1_000.4)


@pytest.fixture
def asked(monkeypatch) -> list:
    """What was evaluated; a switch hits all of 40 targets, the default every second one."""
    asked = []

    def measure(arguments, stream, settings):
        asked.append((stream, *settings))
        return measured([0] * 40 if len(settings) > 1 else [0, -1] * 20)

    monkeypatch.setattr(switches, "_measure", measure)
    made = {"a": Switch(("--a", "1"), "a.md"), "b": Switch(("--b", "1"), "b.md", ("s",))}
    monkeypatch.setattr(switches, "SWITCHES", made)
    return asked


def test_each_switch_is_evaluated_beside_the_default_where_it_can_be(asked, capsys):
    """`b` reads what this stream has not; settings that are given hold for all."""
    found = compare(ARGUMENTS, ["--seed=1"])

    assert [("ml-100k", "--seed=1"), ("ml-100k", "--seed=1", "--a", "1")] == asked
    assert [DEFAULT, "a"] == [*found["ml-100k"]]
    assert "docs/a.md" in capsys.readouterr().out


def test_a_gain_has_an_interval_of_the_same_targets(asked):
    """Half of the targets are gained, give or take what 40 users leave open; the default gains nothing on itself."""
    rows = compare(ARGUMENTS, [])["ml-100k"]
    low, high = rows["a"]["gained"]["hr_at_10"]

    assert 0.3 < low < 0.5 < high < 0.7
    assert [0.0, 0.0] == rows[DEFAULT]["gained"]["hr_at_10"]
    assert (0.25, None, 1_000) == (rows["a"]["new_users"], rows["a"]["new_items"], rows["a"]["memory_mib"])


def test_without_data_there_are_two_streams(asked):
    compare(Namespace(**vars(ARGUMENTS) | {"data": None}), [])

    assert ["ml-100k", "ml-100k", "ml-latest-2016", "ml-latest-2016"] == [stream for stream, *_ in asked]


def test_a_name_that_is_no_switch_ends_it_before_the_work(asked):
    with pytest.raises(DataError, match="no switch c; there are all, a, b"):
        compare(Namespace(**vars(ARGUMENTS) | {"switches": "a,c"}), [])

    assert [] == asked


@pytest.mark.parametrize("names", ["", ",", " ", "a,", ",,b"])
def test_a_switch_without_a_name_is_told_with_those_there_are(asked, names):
    with pytest.raises(DataError, match="no switch without a name; there are all, a, b"):
        compare(Namespace(**vars(ARGUMENTS) | {"switches": names}), [])

    assert [] == asked


def test_names_that_come_twice_are_measured_once(asked):
    compare(Namespace(**vars(ARGUMENTS) | {"switches": "a, a"}), [])

    assert ["--a"] == [settings[0] for _, *settings in asked if settings]


def test_a_switch_that_no_stream_has_anything_for_is_refused(asked):
    """It would be passed over in silence; of `all` those are measured that can be."""
    with pytest.raises(DataError, match="--switches b: it is measured on s only: --data s is wanted"):
        compare(Namespace(**vars(ARGUMENTS) | {"switches": "a,b"}), [])
    with pytest.raises(DataError, match="leave --users out"):
        compare(Namespace(**vars(ARGUMENTS) | {"users": "u.csv"}), [])

    assert [] == asked


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_settings_that_there_are_and_has_a_page(name):
    """Each differs from the default."""
    assert load(SWITCHES[name].settings, {}) != load([], {})
    assert (Path("docs") / SWITCHES[name].page).is_file()
    assert chosen(name) == [name]
