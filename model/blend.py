"""The blend: how the signals make one score.

    signals ─► weights that shift with the context ─► score of every item ─► best candidates ─► MLP reorders them
"""

from dataclasses import dataclass

import torch
from torch import nn

from model.batch import CONTEXT, MicroBatch
from model.signals import SIGNALS, signals
from model.table import Table

CANDIDATES = 128
"""Items that the MLP looks at, the best ones by the linear score."""
_HIDDEN = 32


class Blend(nn.Module):
    """Weights that shift with the context, then an MLP that reorders the best."""

    def __init__(self) -> None:
        super().__init__()
        size = len(SIGNALS)
        self.weights = nn.Parameter(torch.tensor(list(SIGNALS.values())))
        self.shift = nn.Parameter(torch.zeros(CONTEXT, size))
        layers = nn.Linear(size + CONTEXT, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, 1)
        self.mlp = nn.Sequential(*layers)
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def of(self, context: torch.Tensor) -> torch.Tensor:
        """Shape: context (B, CONTEXT) -> weights (B, signals)."""
        return self.weights + context @ self.shift

    def reorder(self, signals: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """What the MLP adds to the score of each candidate.

        Shape: signals (B, candidates, signals), context (B, CONTEXT) -> (B, candidates).
        """
        centred = (signals - signals.mean(1, keepdim=True)) / 2
        context = context[:, None].expand(-1, centred.shape[1], -1)
        return self.mlp(torch.cat((centred, context), 2)).squeeze(2)


@dataclass
class Scores:
    """Signals and scores of a micro-batch over the whole catalogue; excluded items score -inf.

    Shape: signals, one each, (B, n), or (1, n) where it is the same for all; weights (B, signals); candidates (B, c);
    scores (B, n).
    """

    signals: list[torch.Tensor]
    weights: torch.Tensor
    candidates: torch.Tensor
    scores: torch.Tensor

    def at(self, rows: torch.Tensor) -> torch.Tensor:
        """The signals of some items; rows (B, c) -> (B, c, signals)."""
        return torch.stack([signal[0][rows] if len(signal) == 1 else signal.gather(1, rows) for signal in self.signals], 2)


@torch.inference_mode()
def linear(blend: Blend, table: Table, batch: MicroBatch, excluded: torch.Tensor) -> Scores:
    """Compute the signals, their weighted sum and the candidates; excluded (B, n) bool."""
    every, weights = signals(table, batch), blend.of(batch.context)
    scores = torch.zeros(excluded.shape, device=excluded.device)
    for at, signal in enumerate(every):
        scores.addcmul_(weights[:, at : at + 1], signal)
    scores.masked_fill_(excluded, -torch.inf)
    return Scores(every, weights, scores.topk(min(CANDIDATES, scores.shape[1])).indices, scores)


@torch.inference_mode()
def blended(blend: Blend, table: Table, batch: MicroBatch, excluded: torch.Tensor) -> Scores:
    """The same with the candidates reordered."""
    scored = linear(blend, table, batch, excluded)
    candidates = scored.candidates
    scored.scores.scatter_add_(1, candidates, blend.reorder(scored.at(candidates), batch.context).nan_to_num(0.0))
    return scored
