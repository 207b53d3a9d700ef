"""What a scorer knows of every item of a catalogue, in the rows of the catalogue."""

import numpy as np
import torch
import torch.nn.functional as F

from model.catalogue import Catalogue
from model.network import Network

HALF_LIVES = (float("inf"), 20_000.0, 2_000.0, 200.0)
"""Popularity is counted with these half-lives, in events."""
EVER, LATELY, TRENDING, NOW = range(len(HALF_LIVES))
NEIGHBOURS = ("transitions", "recent-transitions", "ease", "text")
"""Counted tables: for every item the items that follow from it, best first, with a weight each."""
UNSEEN = 0.05
"""Choices that an item is given before it is chosen, so that every count has a logarithm."""
_BACK_OFF = 0.02  # what popularity adds to a counted table, so that no item is impossible


class Table:
    """What a scorer knows of the items of one catalogue revision; row n of the padded tables stands for no item.

    Args:
        network: of the scorer, as `items` and `bias` are computed with it.
        keys: of the scorer's items.
        counts: their popularities.
        neighbours: name -> (items, weights) of a counted table.

    Shape: keys (m,), counts (HALF_LIVES, m), neighbours (m, c) -> rows (n,) of the scorer, m for none; items
    (n + 1, width); bias (n,); log_counts (HALF_LIVES, n); back_off (n,); vectors (n, 64); neighbours (n + 1, c).
    """

    @torch.no_grad()
    def __init__(
        self,
        network: Network,
        keys: torch.Tensor,
        counts: torch.Tensor,
        neighbours: dict[str, tuple[torch.Tensor, torch.Tensor]],
        catalogue: Catalogue,
    ) -> None:
        device, n = keys.device, len(catalogue)
        self.network = network
        self.rows = torch.from_numpy(find(keys.cpu().numpy(), catalogue.keys.view(np.int64))).to(device)
        counts = padded(counts.mT)[self.rows].mT  # (HALF_LIVES, n)
        vectors = torch.from_numpy(catalogue.vectors.reshape(n, network.sizes.dim)).to(device)
        self.items = padded(network.items(vectors, padded(network.ids)[self.rows], counts[EVER]))
        self.log_counts = torch.log(counts + UNSEEN) - torch.log(counts.sum(1, keepdim=True) + UNSEEN * n)
        self.bias = padded(network.bias)[self.rows] + network.popularity * self.log_counts[TRENDING]
        self.back_off = _BACK_OFF * self.log_counts[LATELY].exp() + 1e-6
        self.neighbours = {name: self._in_rows(*table, n, len(keys)) for name, table in neighbours.items()}
        self.vectors = torch.from_numpy(catalogue.interest_vectors).to(device)

    def _in_rows(self, items: torch.Tensor, weights: torch.Tensor, n: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A counted table, with rows of the catalogue in place of those of the scorer.

        Shape: (m, c) -> (n + 1, c) int64, n for none, and their weights.
        """
        back = torch.full((m + 1,), n, device=items.device)
        back[self.rows] = torch.arange(n, device=items.device)
        back[m] = n
        items = torch.where(items < 0, m, items.long())
        items = F.pad(items, (0, 0, 0, 1), value=m)[F.pad(self.rows, (0, 1), value=m)]
        return back[items], padded(weights)[F.pad(self.rows, (0, 1), value=m)]


def find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted key stands in `keys`, len(keys) if nowhere; (n,) int64."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    order = np.argsort(keys)
    at = np.searchsorted(keys, wanted, sorter=order)
    rows = order[at.clip(max=len(keys) - 1)]
    return np.where(keys[rows] == wanted, rows, len(keys))


def padded(table: torch.Tensor) -> torch.Tensor:
    """One more row, of zeros; (m, ...) -> (m + 1, ...)."""
    return torch.cat((table, table.new_zeros(1, *table.shape[1:])))
