"""The blend: how the signals make one score.

    signals of every item ─► weights that shift with the context ─► score of every item ─► best candidates ─► all their signals
                                                                           │                                      └► MLP ─┐
                                                                           └────────────────── + ◄────────────────────────┘
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from model.batch import CONTEXT, MicroBatch
from model.device import best
from model.signals import RETRIEVING, SIGNALS, Found, at, everywhere
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

    def finding(self) -> list[str]:
        """The signals that find the candidates; before anything is learnt, those that have a weight."""
        weighty = [name for name, weight in zip(SIGNALS, self.weights.tolist()) if weight]
        finding = [name for name, finds in zip(SIGNALS, RETRIEVING.tolist()) if finds]
        return weighty if set(finding).isdisjoint(weighty) else finding

    def of(self, context: torch.Tensor) -> torch.Tensor:
        """Shape: context (B, CONTEXT) -> weights (B, signals)."""
        return self.weights + context @ self.shift

    def reorder(self, signals: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """What the MLP adds to the score of each candidate.

        Shape: signals (B, candidates, signals), context (B, CONTEXT) -> (B, candidates).
        """
        centred, first = (signals - signals.mean(1, keepdim=True)) / 2, self.mlp[0]
        of_signals, of_context = first.weight.split((len(SIGNALS), CONTEXT), 1)
        hidden = F.linear(centred, of_signals) + F.linear(context, of_context, first.bias)[:, None]
        return self.mlp[1:](hidden).squeeze(2)


@dataclass
class Scores:
    """Signals and scores of a micro-batch over the whole catalogue; excluded items score -inf.

    Shape: weights (B, signals); candidates (B, c) in no order; scores (B, n).
    """

    found: Found
    weights: torch.Tensor
    candidates: torch.Tensor
    scores: torch.Tensor


@torch.inference_mode()
def linear(blend: Blend, table: Table, batch: MicroBatch, excluded: torch.Tensor) -> Scores:
    """Compute the signals that find candidates, their weighted sum and the candidates; excluded (B, n) bool."""
    found, weights = everywhere(table, batch, blend.finding()), blend.of(batch.context)
    columns = {name: weights[:, column : column + 1] for column, name in enumerate(SIGNALS) if name in found}
    same = [name for name in found if len(found[name]) == 1]  # for every user: one product for all of them
    scores = torch.zeros(excluded.shape, device=excluded.device)
    if same:
        torch.mm(torch.cat([columns[name] for name in same], 1), torch.cat([found[name] for name in same]), out=scores)
    for name in found:
        if name not in same:
            scores.addcmul_(columns[name], found[name])
    scores.masked_fill_(excluded, -torch.inf)
    return Scores(found, weights, best(scores, CANDIDATES), scores)


@torch.inference_mode()
def blended(blend: Blend, table: Table, batch: MicroBatch, excluded: torch.Tensor) -> Scores:
    """The same with the candidates reordered; what they weigh together, beside all other items, stays as it was."""
    scored = linear(blend, table, batch, excluded)
    before = scored.scores.gather(1, scored.candidates)
    after = before + blend.reorder(at(table, batch, scored.found, scored.candidates), batch.context).nan_to_num(0.0)
    moved = (before.logsumexp(1, keepdim=True) - after.logsumexp(1, keepdim=True)).nan_to_num(0.0)
    scored.scores.scatter_(1, scored.candidates, after + moved)
    return scored
