"""What a scorer knows of every item of a catalogue, in the rows of the catalogue."""

import numpy as np
import torch
import torch.nn.functional as F

from model.catalogue import Catalogue
from model.scoring.network import Network

HALF_LIVES = (float("inf"), 20_000.0, 2_000.0, 200.0)
"""Popularity is counted with these half-lives, in events."""
EVER, LATELY, TRENDING, NOW = range(len(HALF_LIVES))
NEIGHBOURS = ("transitions", "recent-transitions", "next", "ease", "taste", "text")
"""Counted tables: for every item the items that follow from it (taste: that lead to it), best first, with weights."""
LENGTH = 512
"""Newest items kept of a peer."""
PLACES = 256
"""Newest places kept of an item in the histories of peers."""
NEAR = 10
"""Items at most so far apart in a history stand near each other."""
ALIKE = 16
"""Items with the nearest texts from which an item inherits."""
KNOWN = 20
"""Choices after which an item that came late is one like the others."""
UNSEEN = 0.05
"""Choices that an item is given before it is chosen, so that every count has a logarithm."""
_BACK_OFF = 0.02  # what popularity adds to a counted table, so that no item is impossible


class Table:
    """What a scorer knows of the items of one catalogue revision; row n of the padded tables stands for no item.

    Counted tables are not copied: `led` looks up the rows that a micro-batch needs, so a table is made in milliseconds.

    Args:
        network: of the scorer, as `items` and `bias` are computed with it.
        text: the catalogue's vectors, projected by the network; None computes them.
        counted: what the scorer has counted, its `tables`.

    Shape: text (n, width), counted by the scorer's m items -> rows (n + 1,) of the scorer, m for none; back (m + 1,)
    rows of the catalogue, n for none; items (n + 1, width); bias (n,); log_counts (HALF_LIVES, n); first (n + 1,), -1
    for never; back_off, age (n,); vectors (n, 64), mean (64,) of them, contrast (n + 1, 64) the same without their
    mean, unit length; new (x,) rows of items that came late and were hardly chosen; taken (u, LENGTH) rows of the
    catalogue, n for none; rarity (n + 1,).
    """

    @torch.no_grad()
    def __init__(
        self, network: Network, text: torch.Tensor | None, counted: dict[str, torch.Tensor], catalogue: Catalogue
    ) -> None:
        keys = counted["keys"]
        self._device, n, m = keys.device, len(catalogue), len(keys)
        self.network, self._counted, self._catalogue = network, counted, catalogue
        rows = torch.from_numpy(find(keys.cpu().numpy(), catalogue.keys.view(np.int64))).to(self._device)
        self.rows = F.pad(rows, (0, 1), value=m)
        self.back = torch.full((m + 1,), n, device=self._device)
        self.back[rows] = torch.arange(n, device=self._device)
        self.back[m] = n
        self._back = F.pad(self.back, (1, 0), value=n)  # from -1 on: looked up by the million
        counts = padded(counted["counts"].mT)[rows].mT  # (HALF_LIVES, n)
        self.text = network.project(self._encoded()) if text is None else text
        self.items = padded(network.items(self.text, padded(network.ids)[rows], counts[EVER]))
        self.log_counts = torch.log(counts + UNSEEN) - torch.log(counts.sum(1, keepdim=True) + UNSEEN * n)
        self.bias = padded(network.bias)[rows] + network.popularity * self.log_counts[TRENDING]
        self.back_off = _BACK_OFF * self.log_counts[LATELY].exp() + 1e-6
        self.rarity = 1 / torch.log(2 + padded(counts[EVER]))
        self._open_times(counts[EVER])
        self.vectors = torch.from_numpy(catalogue.interest_vectors).to(self._device)
        self.mean = self.vectors.mean(0)
        self.contrast = padded(F.normalize(self.vectors - self.mean, dim=1))
        items, cosines = (part[:, :ALIKE] for part in self.led("text", torch.arange(n, device=self._device)))
        self._alike = items.clamp(max=max(0, n - 1)), cosines**4
        self.taken, self._places = self.back[counted["peers_taken"].long()], counted["peers_places"]
        self._texts: torch.Tensor | None = None

    def _open_times(self, chosen: torch.Tensor) -> None:
        """When each item was chosen first, and which are new; chosen (n,) how often."""
        learnt, late = int(self._counted["learnt"]), padded(self._counted["late"])[self.rows[:-1]].bool()
        self.first = F.pad(self._counted["first"], (0, 1), value=-1.0)[self.rows]
        first = self.first[:-1]
        self.age = torch.where(first < 0, 0.0, torch.log1p((learnt - first).clamp(min=0)) / 3)
        unknown = self.rows[:-1] == len(self._counted["keys"])
        is_new = (unknown | late & (chosen < KNOWN)) & (learnt > 0)
        self.new = is_new.nonzero()[:, 0]

    def _encoded(self) -> torch.Tensor:
        """The encoder's vectors; (n, dim)."""
        vectors = self._catalogue.vectors.reshape(len(self._catalogue), self.network.sizes.dim)
        return torch.from_numpy(vectors).to(self._device)

    def texts(self) -> torch.Tensor:
        """The encoder's vectors, unit length; made when the first search needs them; (n, dim)."""
        if self._texts is None:
            self._texts = F.normalize(self._encoded(), dim=1)
        return self._texts

    def led(self, name: str, history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each past event leads by a counted table.

        Shape: history (B, T) rows of the catalogue, n for none -> items (B, T, c), likewise, and weights (B, T, c).
        """
        items, weights = self._counted[f"{name}_items"], self._counted[f"{name}_weights"]
        if not len(items):
            shape = (*history.shape, 0)
            return history.new_zeros(shape), weights.new_zeros(shape)
        rows = self.rows[history]
        none = rows == len(items)
        rows, shape = rows.masked_fill(none, 0).flatten(), (*history.shape, items.shape[1])
        led = self._back.index_select(0, items.index_select(0, rows).add_(1).flatten()).view(shape)
        return led, weights.index_select(0, rows).view(shape).masked_fill_(none[..., None], 0.0)

    def alike(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The items with the nearest texts, and how much each counts, 0 for none; (B, c) -> (B, c, ALIKE) each."""
        items, weights = (part.index_select(0, rows.flatten()).view(*rows.shape, part.shape[1]) for part in self._alike)
        return items, weights

    def places(self, history: torch.Tensor) -> torch.Tensor:
        """Where peers have past events' items in `taken`, counted through, or -1; (B, T) -> (B, T, PLACES) int32."""
        if not len(self._places) or not len(self.taken):
            return self._places.new_full((*history.shape, 0), -1)
        rows = self.rows[history]
        none = rows == len(self._places)
        places = self._places.index_select(0, rows.masked_fill(none, 0).flatten()).view(*history.shape, -1)
        return places.masked_fill_(none[..., None], -1)

    def near(self, places: torch.Tensor) -> torch.Tensor:
        """The items before and after each place in a peer's ring, the nearest first; (B, p) -> (B, p, 2 NEAR)."""
        length, step = self.taken.shape[1], torch.arange(1, NEAR + 1, device=places.device)
        ring = (places % length)[..., None] + torch.cat((-step, step))
        at = (places - places % length)[..., None] + ring.remainder_(length)
        return self.taken.flatten().index_select(0, at.flatten()).view(at.shape)


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
