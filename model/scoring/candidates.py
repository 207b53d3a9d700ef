"""The candidates of a micro-batch, and what its signals are computed from."""

from dataclasses import dataclass, field

import numpy as np
import torch

from model.scoring.retrieve import Sources, Workspace
from model.scoring.table import ItemTable


@dataclass
class Candidates:
    """Items of each user whose signals are wanted, in any order.

    Shape: host_rows (B, c) int32 of the catalogue, -1 for none; there (B, c) bool, whether it may be listed; sums
    (B, c, CHANNELS), what retrieval added up; hidden (B, width), what the network makes of the last events;
    log_popularity (B, c, HALF_LIVES).
    """

    host_rows: np.ndarray
    there: torch.Tensor
    sums: np.ndarray
    hidden: np.ndarray
    sources: Sources
    space: Workspace
    log_popularity: np.ndarray = field(init=False)

    @property
    def rows(self) -> torch.Tensor:
        """The rows as torch takes them, 0 for none; (B, c) int64."""
        return torch.from_numpy(self.host_rows.clip(min=0).astype(np.int64))

    def open(self, table: ItemTable) -> "Candidates":
        """Look up what several signals need."""
        self.log_popularity = table.log_popularity(self.host_rows)
        return self

    def some(self, columns: torch.Tensor) -> "Candidates":
        """Some of them; columns (B, c)."""
        rows, there = torch.from_numpy(self.host_rows).gather(1, columns), self.there.gather(1, columns)
        sums, popularity = (at_columns(torch.from_numpy(of), columns) for of in (self.sums, self.log_popularity))
        chosen = Candidates(rows.numpy(), there, sums.numpy(), self.hidden, self.sources, self.space)
        chosen.log_popularity = popularity.numpy()
        return chosen


def at_columns(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Shape: values (B, n, s), columns (B, c) -> (B, c, s)."""
    return values.gather(1, columns[..., None].expand(-1, -1, values.shape[2]))
