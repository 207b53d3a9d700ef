"""From scored candidates to the items of a list, where it is not simply the best: diversity, quotas, exploration.

    candidates, scored ─┬─► rarely chosen ones beside them (quota_new)
                        └─► fill the places (diversity.py) ─► explore (bandit.py) ─► the list, with propensities

The probabilities are those of the model, whatever is listed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from model.bounds import SlateConfig
from model.scoring import bandit
from model.scoring.batch import MicroBatch
from model.scoring.diversity import Places, fill
from model.scoring.ranker import Scored
from model.scoring.table import ItemTable
from model.scoring.threads import over_users
from model.statistics import EVER

POOL = 64
"""Of so many candidates, the best ones, a list is made; of k if that is more."""
MOST_CATEGORIES = 8
"""Of an item, that count."""
_NEAREST = 256  # texts among which rarely chosen items are looked for
_SLACK = 1e-9

Categories = Mapping[int, Sequence[str]]
"""Of the items, by their keys."""


class Listed(NamedTuple):
    """The items of lists: their columns among the candidates, as many as these for one that is none; rows of the
    catalogue; scores; and how likely each was at its place, where anything is explored. (B, k) each.
    """

    columns: torch.Tensor
    rows: torch.Tensor
    scores: torch.Tensor
    propensity: np.ndarray | None


class Slate:
    """Makes lists as the settings say; shared by the copies of a scorer.

    Args:
        categories: of the items by their keys; they go on changing.
    """

    def __init__(self, config: SlateConfig, categories: Categories) -> None:
        self.config, self._categories = config, categories
        self._codes: dict[str, int] = {}

    def __deepcopy__(self, memo: dict) -> "Slate":
        return self

    def fixed(self) -> "Slate":
        """The same, without exploration."""
        return Slate(replace(self.config, explore="off"), self._categories)

    def choose(
        self, table: ItemTable, batch: MicroBatch, scored: Scored, scores: torch.Tensor, rows: torch.Tensor, k: int
    ) -> Listed:
        """Shape: scores (B, c), -inf for what must not be listed, rows (B, c) of the catalogue."""
        known = scored.rows.shape[1]
        if self.config.quota_new:
            rows, scores = _with_rare(table, batch, rows, scores, self.config)
        places = self._places(table, batch, rows, k)
        draw = batch.draw.numpy()
        precision = table.scorer.precision

        def make(wanted: torch.Tensor) -> np.ndarray:
            return self._best(places, wanted, k)

        propensity = None
        if self.config.explore == "thompson" and precision is not None:
            explored = bandit.thompson(make, scores, scored.signals, precision, self.config.explore_share, draw)
        else:
            explored = bandit.Explored(make(scores), np.ones((len(scores), k)))
        if self.config.explore == "epsilon":
            explored = bandit.epsilon(explored.columns, scores.numpy(), self.config.explore_share, draw)
        if self.config.explore != "off":
            propensity = explored.propensity
        columns = torch.from_numpy(explored.columns)
        return Listed(columns.clamp(max=known), rows.gather(1, columns), scores.gather(1, columns), propensity)

    def _best(self, places: Places | None, scores: torch.Tensor, k: int) -> np.ndarray:
        """The columns of the lists, without exploration; scores (B, c) -> (B, k)."""
        if places is None:
            return scores.topk(k).indices.numpy()
        pool = scores.shape[1] if self.config.quota_new else min(max(POOL, k), scores.shape[1])
        order, columns = scores.topk(pool).indices.numpy(), np.empty((len(scores), k), np.int64)
        over_users(fill, len(scores), order, scores.numpy(), places, columns)
        return columns

    def _places(self, table: ItemTable, batch: MicroBatch, rows: torch.Tensor, k: int) -> Places | None:
        """What the places are filled from; None where the best are simply listed."""
        config, host = self.config, rows.numpy()
        if not (config.diversity or config.quota_new or config.quota_category < 1):
            return None
        codes, most = self._codes_of(table, host), max(1, int(config.quota_category * k + _SLACK))
        rare = np.zeros(host.shape, bool)
        if config.quota_new:
            rare = (table.chosen(host.ravel(), EVER) < config.quota_new_below).reshape(host.shape)
            rare[batch.is_new] = False  # there is no telling yet which of them such a user would take
        vectors = table.index.contrast
        return Places(host, vectors, codes, rare, len(self._codes), config.diversity, most, config.quota_new, POOL)

    def _codes_of(self, table: ItemTable, rows: np.ndarray) -> np.ndarray:
        """Numbers of the categories of items, -1 for none; (B, c) -> (B, c, x)."""
        if self.config.quota_category >= 1:
            return np.zeros((*rows.shape, 0), np.int32)
        unique, at = np.unique(rows, return_inverse=True)
        codes = np.full((len(unique), MOST_CATEGORIES), -1, np.int32)
        for one, key in zip(codes, table.index.catalogue.keys[unique].tolist()):
            named = dict.fromkeys(self._categories.get(key, ()))
            numbers = [self._codes.setdefault(name, len(self._codes)) for name in named][:MOST_CATEGORIES]
            one[: len(numbers)] = numbers
        return codes[at].reshape(*rows.shape, MOST_CATEGORIES)


def _with_rare(
    table: ItemTable, batch: MicroBatch, rows: torch.Tensor, scores: torch.Tensor, config: SlateConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates, and after them rarely chosen items near to a user's strongest interest that are none.

    They have the score of the last candidate, a hair less: none of them is among the best by the linear score.

    Shape: rows, scores (B, c) -> (B, c + quota_new), score -inf where there is none.
    """
    wanted, strongest = config.quota_new, batch.weights.argmax(1)
    interests = batch.interests[torch.arange(len(rows)), strongest] - table.mean
    near = table.index.nearest(F.normalize(interests, dim=1).numpy(), _NEAREST)
    rare = (table.chosen(near.clip(min=0).ravel(), EVER) < config.quota_new_below).reshape(near.shape) & (near >= 0)
    rare &= (batch.weights.amax(1) > 0).numpy()[:, None] & ~batch.is_new[:, None]
    more = np.zeros((len(rows), wanted), np.int64)
    level = np.full((len(rows), wanted), -np.inf, np.float32)
    lowest = scores.masked_fill(scores.isneginf(), torch.inf).amin(1).numpy()
    given, host = batch.host, rows.numpy()
    for b in range(len(rows)):
        out = given.excluded[given.excluded_from[b] : given.excluded_from[b + 1]]
        found = near[b, rare[b]]
        found = found[~np.isin(found, out) & ~np.isin(found, host[b])][:wanted]
        more[b, : len(found)] = found
        level[b, : len(found)] = np.nextafter(lowest[b], np.float32(-np.inf)) if np.isfinite(lowest[b]) else -np.inf
    return torch.cat((rows, torch.from_numpy(more)), 1), torch.cat((scores, torch.from_numpy(level)), 1)
