"""The candidates of a micro-batch, and what its signals are computed from."""

from dataclasses import dataclass, field

import numpy as np
import torch

from model.scoring.retrieve import Sources, Workspace
from model.scoring.table import ItemTable


@dataclass
class Candidates:
    """Items of each user whose signals are wanted, in any order.

    Shape: rows (B, c) of the catalogue, 0 where there is none; there (B, c) bool; sums (B, c, CHANNELS), what
    retrieval added up; hidden (B, width), what the network makes of the last events; log_popularity (B, c, HALF_LIVES).
    """

    rows: torch.Tensor
    there: torch.Tensor
    sums: torch.Tensor
    hidden: torch.Tensor
    sources: Sources
    space: Workspace
    log_popularity: torch.Tensor = field(init=False)
    host_rows: np.ndarray = field(init=False)
    """The rows on the CPU, -1 for none."""
    _vectors: torch.Tensor | None = None

    def open(self, table: ItemTable, rows: np.ndarray) -> "Candidates":
        """Look up what several signals need; rows (B, c), -1 for none."""
        self.host_rows = rows
        self.log_popularity = torch.from_numpy(table.log_popularity(rows)).to(self.rows.device)
        return self

    def contrast(self, table: ItemTable) -> torch.Tensor:
        """Their texts in the interest space, beside the mean; (B, c, 64)."""
        if self._vectors is None:
            self._vectors = table.contrast_at(self.rows)
        return self._vectors
