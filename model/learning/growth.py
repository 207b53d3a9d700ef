"""Room in a scorer for every item of the catalogue, and the items whose texts are nearest to it."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model.catalogue import Catalogue
from model.learning.config import TrainingConfig
from model.score import Scorer
from model.scoring.table import NEIGHBOURS, find

_COMPARED = 1_024  # items compared with all others at once


@dataclass
class Known:
    """The items of the catalogue in a scorer's rows.

    Shape: row_of item key -> row; there (t,) rows of items that are in the catalogue; vectors (m, dim), zeros for the
    others.
    """

    row_of: dict[int, int] = field(default_factory=dict)
    there: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    vectors: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))


def take_in(scorer: Scorer, catalogue: Catalogue, before: Known, config: TrainingConfig) -> Known:
    """Give every item of the catalogue a row and its text neighbours.

    Args:
        before: what the last call returned; only items that are new or have changed are compared.
    """
    scorer.encoder_version = catalogue.encoder_version
    make_room(scorer, catalogue.keys.view(np.int64), config)
    keys = scorer.keys.numpy().view(np.uint64).tolist()
    where = catalogue.rows(keys)  # (m,) rows of the catalogue
    there, vectors = torch.from_numpy(np.flatnonzero(where >= 0)), torch.zeros(len(where), scorer.sizes.dim)
    if len(there):
        vectors[there] = torch.from_numpy(catalogue.vectors[where[where >= 0]])
    _compare(scorer, there, vectors, before.vectors)
    return Known(dict(zip(keys, range(len(keys)))), there, vectors)


def make_room(scorer: Scorer, keys: np.ndarray, config: TrainingConfig) -> None:
    """Give each of these items a row in every table, where it has none."""
    missing = keys[find(scorer.keys.numpy(), keys) == len(scorer.keys)]
    if len(missing):
        _grow(scorer, missing, config)


def _grow(scorer: Scorer, keys: np.ndarray, config: TrainingConfig) -> None:
    """Append a row to every table for each of these items."""
    network, more = scorer.network, len(keys)
    for name in ("ids", "bias"):
        old = getattr(network, name).data
        setattr(network, name, nn.Parameter(torch.cat((old, old.new_zeros(more, *old.shape[1:])))))
    scorer.counts = F.pad(scorer.counts, (0, more))
    scorer.first = F.pad(scorer.first, (0, more), value=-1.0)
    scorer.late = F.pad(scorer.late, (0, more), value=float(scorer.learnt > 0))
    scorer.peers_places = F.pad(scorer.peers_places, (0, 0, 0, more), value=-1)
    scorer.keys = torch.cat((scorer.keys, torch.from_numpy(keys.copy())))
    for name in NEIGHBOURS:
        items, weights = scorer.neighbours(name)
        wider = max(0, config.width(name) - items.shape[1])
        setattr(scorer, f"{name}_items", F.pad(items, (0, wider, 0, more), value=-1))
        setattr(scorer, f"{name}_weights", F.pad(weights, (0, wider, 0, more)))


def _compare(scorer: Scorer, there: torch.Tensor, vectors: torch.Tensor, old: torch.Tensor) -> None:
    """Find for every item those with the nearest texts, and the cosines; old (m', dim) the vectors of the last call."""
    old = F.pad(old, (0, vectors.shape[1] - old.shape[1], 0, len(vectors) - len(old)))
    changed = (vectors != old).any(1)  # (m,)
    items, weights = scorer.neighbours("text")
    items[changed] = -1
    items.masked_fill_(changed[items.long()], -1)
    weights.masked_fill_(items < 0, 0.0)
    new, same = there[changed[there]], there[~changed[there]]
    for rows, others in ((new, there), (same, new)):
        for start in range(0, len(rows) if len(others) else 0, _COMPARED):
            block = rows[start : start + _COMPARED]
            near = (vectors[block] @ vectors[others].T).topk(min(items.shape[1], len(others)))
            both = torch.cat((weights[block], near.values.clamp(min=0)), 1)
            best = both.topk(items.shape[1])
            items[block] = torch.cat((items[block], others[near.indices].int()), 1).gather(1, best.indices)
            weights[block] = best.values
