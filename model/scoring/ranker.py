"""The blend: how the signals make one score.

    signals of every item ─► weights that find ─► score of every item ─► best candidates ─► all their signals
                                                                               │                   ├► weights that order
                                                                               ─┐ │                   └► MLP
                                                                               ──────────── + ◄┘ └── what they weigh
                                                                               together ───────── = scores

Weights that find are learnt on the whole catalogue, those that order on the candidates: what tells an item that a user
may want from one that nobody wants is not what tells it from the best hundred.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from model.scoring.batch import CONTEXT, MicroBatch
from model.scoring.feedback import Terms, feedback
from model.scoring.signals import RETRIEVING, SIGNALS, Found, at, everywhere
from model.scoring.table import Table

CANDIDATES = 128
"""Items that the MLP looks at, the best ones by the linear score."""
_HIDDEN = 32
_LEAST_SPREAD = 0.05


class Weights(nn.Module):
    """A weight for each signal, that shifts with the context."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(list(SIGNALS.values())))
        self.shift = nn.Parameter(torch.zeros(CONTEXT, len(SIGNALS)))

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Shape: context (B, CONTEXT) -> (B, signals)."""
        return self.mean + context @ self.shift


class Ranker(nn.Module):
    """Weights that find the candidates; weights and an MLP that order them.

    Shape: spread (signals,), the standard deviation of each signal among the candidates.
    """

    spread: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.find, self.order = Weights(), Weights()
        first = nn.Linear(len(SIGNALS) + CONTEXT, _HIDDEN)
        hidden = nn.Linear(_HIDDEN, _HIDDEN)
        last = nn.Linear(_HIDDEN, 1)
        self.mlp = nn.Sequential(first, nn.GELU(), hidden, nn.GELU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("spread", torch.ones(len(SIGNALS)))

    @torch.no_grad()
    def begin(self, weights: dict[str, float]) -> None:
        """Set out from these weights; 0 for the signals that are not named."""
        for part in (self.find, self.order):
            part.mean.copy_(torch.tensor([weights.get(name, 0.0) for name in SIGNALS]))

    def finding(self) -> list[str]:
        """The signals that find the candidates; before anything is learnt, those that have a weight."""
        weighty = [name for name, weight in zip(SIGNALS, self.find.mean.tolist()) if weight]
        finding = [name for name, finds in zip(SIGNALS, RETRIEVING.tolist()) if finds]
        return weighty if set(weighty) - set(finding) else finding

    def ordered(self, signals: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The score of each candidate beside the others.

        Shape: signals (B, candidates, signals), context (B, CONTEXT) -> (B, candidates).
        """
        centred, first = signals - signals.mean(1, keepdim=True), cast(nn.Linear, self.mlp[0])
        of_signals, of_context = first.weight.split((len(SIGNALS), CONTEXT), 1)
        hidden = F.linear(centred, of_signals / self.spread) + F.linear(context, of_context, first.bias)[:, None]
        return self.mlp[1:](hidden).squeeze(2) + (centred @ self.order(context)[..., None]).squeeze(2)

    @torch.no_grad()
    def measure(self, signals: torch.Tensor, share: float) -> None:
        """Let `spread` follow the signals of some candidates; a share of it is theirs.

        Shape: signals (B, candidates, signals).
        """
        centred = signals - signals.mean(1, keepdim=True)
        self.spread.copy_((self.spread**2).lerp((centred**2).mean((0, 1)), share).sqrt().clamp(min=_LEAST_SPREAD))


@dataclass
class Scores:
    """Signals and scores of a micro-batch over the whole catalogue; excluded items score -inf.

    Shape: said (B, n) each, see feedback.py; weights (B, signals), those that order; candidates (B, c) in no
    order; scores (B, n).
    """

    found: Found
    said: Terms
    weights: torch.Tensor
    candidates: torch.Tensor
    scores: torch.Tensor


@torch.inference_mode()
def linear(ranker: Ranker, table: Table, batch: MicroBatch, excluded: torch.Tensor) -> Scores:
    """Compute the signals that find candidates, their weighted sum and the candidates; excluded (B, n) bool."""
    found, weights = everywhere(table, batch, ranker.finding()), ranker.find(batch.context)
    columns = {name: weights[:, column : column + 1] for column, name in enumerate(SIGNALS) if name in found}
    same = [name for name in found if len(found[name]) == 1]  # for every user: one product for all of them
    scores = torch.zeros(excluded.shape, device=excluded.device)
    if same:
        torch.mm(torch.cat([columns[name] for name in same], 1), torch.cat([found[name] for name in same]), out=scores)
    for name in found:
        if name not in same:
            scores.addcmul_(columns[name], found[name])
    said = feedback(table, batch)
    for term in said.values():
        scores += term
    scores.masked_fill_(excluded, -torch.inf)
    candidates = scores.topk(min(CANDIDATES, scores.shape[1]), sorted=False).indices
    return Scores(found, said, ranker.order(batch.context), candidates, scores)


@torch.inference_mode()
def rerank(ranker: Ranker, table: Table, batch: MicroBatch, excluded: torch.Tensor) -> Scores:
    """The same with the candidates in their order; what they weigh togetherbeside all other items stays as it was."""
    scored = linear(ranker, table, batch, excluded)
    before = scored.scores.gather(1, scored.candidates)
    after = ranker.ordered(at(table, batch, scored.found, scored.candidates), batch.context).nan_to_num(0.0)
    for term in scored.said.values():
        after += term.gather(1, scored.candidates)
    after.masked_fill_(before == -torch.inf, -torch.inf)
    moved = (before.logsumexp(1, keepdim=True) - after.logsumexp(1, keepdim=True)).nan_to_num(0.0)
    scored.scores.scatter_(1, scored.candidates, after + moved)
    return scored
