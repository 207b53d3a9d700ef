"""Families of signals that a setting switches on: a made-up one that knows a partner of every item."""

import numpy as np
import pytest
import torch

from model import signals
from model.finetune import Learner
from model.schema import Example, VersionError
from model.score import Scorer, load, save, score
from model.signals import SIGNALS, Signal
from tests.test_finetune import blind  # noqa: F401
from tests.test_score import DIM, ITEMS, make_catalogue, make_request

NAME = "partner"


class Partner:
    """An item's partner is the other one of its pair: i0 and i1, i2 and i3, ..."""

    names = (NAME,)

    def candidates(self, table, batch):
        return np.full((len(batch.history), 0), -1)

    def signals(self, table, batch, found, into):
        numbers = np.array([int(item_id[1:]) for item_id in table.index.catalogue.item_ids])
        for b, c in np.argwhere(found.host_rows >= 0):
            into[b, c, 0] = self._are(numbers, found.host_rows[b, c], batch.host.history[b]).any()

    def carried(self, table, batch, rows):
        numbers = np.array([int(item_id[1:]) for item_id in table.index.catalogue.item_ids])
        return np.array(
            [[self._are(numbers, row, history) for row in some] for some, history in zip(rows, batch.host.history)],
            np.float32,
        )

    def _are(self, numbers, row, history):
        return (history >= 0) & (numbers[row] ^ 1 == numbers[history])


@pytest.fixture
def named(monkeypatch):
    signal = Signal("the partner of {}", "a partner", had_only=True)
    monkeypatch.setitem(signals.OPTIONAL, NAME, signal)
    monkeypatch.setitem(signals.ALL, NAME, signal)


def untrained(weight: float) -> Scorer:
    """A scorer in which the signal orders the candidates."""
    scorer = Scorer.untrained(DIM, [Partner()])
    with torch.no_grad():
        scorer.ranker.order.mean[-1] = weight
    return scorer


def best(scorer: Scorer, items: list[str], learner: Learner | None = None):
    catalogue = make_catalogue()
    statistics = Learner(catalogue).statistics if learner is None else learner.statistics
    (list_,) = score(scorer, statistics, catalogue, [make_request(catalogue, items)], 3)
    return list_[0]


def test_a_signal_that_is_switched_on_orders_the_list_and_is_its_reason(named):
    first = best(untrained(9.0), ["i0", "i2", "i7"])

    assert "i6" == first.item_id
    assert (NAME, ["i7"]) == (first.reasons[0].signal, first.reasons[0].items)


def test_what_is_switched_on_and_weighs_nothing_changes_no_list(named):
    catalogue = make_catalogue()
    requests = [make_request(catalogue, ["i0", "i3"]), make_request(catalogue, [])]
    plain, more = (
        score(scorer, Learner(catalogue).statistics, catalogue, requests, 5)
        for scorer in (Scorer.untrained(DIM), untrained(0.0))
    )

    assert plain == more


class Ahead(Partner):
    """The n-th event of a user goes n items further: no pair of items tells that."""

    def signals(self, table, batch, found, into):
        numbers = np.array([int(item_id[1:]) for item_id in table.index.catalogue.item_ids])
        for b, c in np.argwhere(found.host_rows >= 0):
            history = batch.host.history[b]
            if history[-1] >= 0:
                comes = (numbers[history[-1]] + (history >= 0).sum()) % ITEMS
                into[b, c, 0] = numbers[found.host_rows[b, c]] == comes


def test_it_is_learnt(named, blind):  # noqa: F811
    """Where it tells what comes and nothing else does, it lifts that."""
    learner, random = Learner(blind), np.random.default_rng(0)
    learner.use_optional([Ahead()])
    for start in (0, 40, 80):
        for user in range(start, start + 40):
            items = [int(random.integers(ITEMS))]
            for at in range(1, 8):
                items.append((items[-1] + at) % ITEMS)
            ids = [f"i{number}" for number in items]
            requests = [make_request(blind, ids[:at]) for at in range(8)]
            for at, request in enumerate(requests):
                event = f"u{user}", f"u{user}-{at}", 60_000 * at
                learner.add([Example(*event, ids[at], "click", request.interests)])
        scorer = learner.fine_tune()

    assert [*SIGNALS, NAME] == scorer.ranker.names
    assert scorer.ranker.order.mean[-1] > 0.1


def test_a_version_is_read_with_and_without_it(named, tmp_path):
    """What it learnt comes back; who has it off passes over it; who has it on and finds none begins at nothing."""
    with_it = save(untrained(9.0), str(tmp_path), "v00001", {})
    without = save(Scorer.untrained(DIM), str(tmp_path), "v00002", {})

    assert 9.0 == load(with_it, optional=[Partner()]).ranker.order.mean[-1]
    assert [*SIGNALS] == load(with_it).ranker.names
    assert 0.0 == load(without, optional=[Partner()]).ranker.order.mean[-1]
    assert "i6" == best(load(with_it, optional=[Partner()]), ["i0", "i2", "i7"]).item_id


def test_a_version_with_a_signal_that_nobody_knows_is_refused(named, tmp_path, monkeypatch):
    path = save(untrained(9.0), str(tmp_path), "v00001", {})
    monkeypatch.delitem(signals.OPTIONAL, NAME)

    with pytest.raises(VersionError, match=f"with signals .*{NAME}"):
        load(path)
