"""The learner of several processes: the one of rank 0 tells the others what to do, so that all of them learn alike.

    jobs/finetune.py ─► Leader ─┬─► its own learner
                                └─► told: a call, and what has changed in the catalogue ─► the learners of the others

What reads and changes nothing, as judging, the leader does alone.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from model.catalogue import Catalogue, Matrix, Space
from model.finetune import Learner
from model.learning import distributed
from model.learning.config import TrainingConfig
from model.learning.distributed import told
from model.schema import ItemVector
from model.score import Scorer
from model.statistics import ItemStatistics

_TOLD = ("add", "forget", "count", "catch_up", "remember", "fine_tune", "resume", "training", "restore")
_BEGIN, _CATALOGUE, _ITEMS, _LEAVE = "begin", "catalogue", "items", "leave"


def begin(catalogue: Catalogue, statistics: ItemStatistics, device: str = "cpu", **about: Any) -> Learner:
    """A learner that has learnt nothing; where there are several processes, the one that leads the others.

    Args:
        about: what else `Learner` takes.
    """
    if distributed.size() > 1:
        about |= {"config": replace(about.get("config", TrainingConfig()), own_draws=True)}
    learner = Learner(catalogue, None, statistics=statistics, device=distributed.local(device), **about)
    return cast(Learner, Leader(learner, device, about)) if distributed.size() > 1 else learner


class Leader:
    """Stands for its learner; every call that changes it is told to the others first."""

    def __init__(self, learner: Learner, device: str, about: dict[str, Any]) -> None:
        self._learner, self._sent, self._ids = learner, -1, list[str]()
        self._space: Space | None = None
        self._sync()
        counted = learner.statistics
        told((_BEGIN, (counted.snapshot(), counted.config, device, about)))

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, name) if name in _TOLD else getattr(self._learner, name)

    def leave(self) -> None:
        """Let the others end."""
        told((_LEAVE, ()))

    def _call(self, name: str, *arguments: Any) -> Any:
        self._sync()
        told((name, () if name == "fine_tune" else tuple(map(_plain, arguments))))
        return getattr(self._learner, name)(*arguments)

    def _sync(self) -> None:
        """Tell what has changed in the catalogue: items one by one, or all after a deletion or another encoder."""
        catalogue = self._learner.catalogue
        if catalogue.revision == self._sent:
            return
        rows = self._new_rows(catalogue) if self._space == catalogue.serving.space else None
        ids, vectors = catalogue.item_ids, catalogue.vectors
        if rows is None:
            told((_CATALOGUE, (catalogue.serving.space, ids, vectors)))
        else:
            told((_ITEMS, (catalogue.serving.space, [ids[row] for row in rows.tolist()], vectors[rows])))
        self._sent, self._space, self._ids = catalogue.revision, catalogue.serving.space, list(ids)

    def _new_rows(self, catalogue: Catalogue) -> np.ndarray | None:
        """New and changed rows; None where items have moved, so that more than they has to be told."""
        rows, before = catalogue.changed_since(self._sent), len(self._ids)
        if rows is None or len(catalogue) < before:
            return None
        grown = np.array_equal(rows[rows >= before], np.arange(before, len(catalogue)))
        stayed = all(self._ids[row] == catalogue.item_ids[row] for row in rows[rows < before].tolist())
        return rows if grown and stayed else None


def _plain(argument: Any) -> Any:
    """A scorer as others can read it: on the CPU, without a joint scorer, which the leader alone learns."""
    if not isinstance(argument, Scorer):
        return argument
    bare = copy.copy(argument)
    bare.joint = None
    return copy.deepcopy(bare).on("cpu")


def follow(learner: Learner | None = None) -> Learner | None:
    """Do what the leader says until it leaves; the learner with which it could go on."""
    catalogue = Catalogue() if learner is None else learner.catalogue
    while True:
        name, arguments = told()
        if name == _LEAVE:
            return learner
        if name == _BEGIN:
            learner = _begun(catalogue, *arguments)
        elif name == _CATALOGUE:
            _restore(catalogue, *arguments)
        elif name == _ITEMS:
            _put(catalogue, *arguments)
        else:
            getattr(learner, name)(*arguments)


def _begun(
    catalogue: Catalogue, columns: dict[str, np.ndarray], config: Any, device: str, about: dict[str, Any]
) -> Learner:
    statistics = ItemStatistics.restore(columns, replace(config, most_pairs=0))  # popularities are all that it reads
    return Learner(catalogue, None, statistics=statistics, device=distributed.local(device), **about)


def _restore(catalogue: Catalogue, space: Space, ids: Sequence[str], vectors: np.ndarray) -> None:
    matrix = Matrix(space)
    if ids:
        matrix.put(list(ids), vectors)
    catalogue.restore(matrix, [], "")


def _put(catalogue: Catalogue, space: Space, ids: Sequence[str], vectors: np.ndarray) -> None:
    halves = vectors.astype("<f2")  # as they came
    catalogue.apply(ItemVector(one, space.encoder_version, half.tobytes()) for one, half in zip(ids, halves))
