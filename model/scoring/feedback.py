"""What users say outright: searches, dislikes, low ratings, purchases. Terms of the score that are not learnt.

    newest search, fading ─────────────► search: how near the item's text is to the query
    dislikes, skips, low ratings ──────► disliked: how much nearer the item is to them than to what pulled
    likes, carts, purchases ───────────► liked: how near the item is to what said more than a view

Who rates one thing in a shop says more by it than who rates film after film: a low rating counts less by the square of
how much of a rater the user is among the last events. What is learnt does not know these terms, so data that does not
reward them cannot take them away. A user who only views has none of them.
"""

import torch

from model.scoring.batch import MicroBatch
from model.scoring.table import Table

SEARCH, DISLIKED, LIKED = 40.0, 15.0, 5.0
"""How much each counts, beside a log probability, where its cosine is 1."""
_RECENCY = 0.95  # what one event further back counts

Terms = dict[str, torch.Tensor]
"""Terms of every item by name: (B, n) each; only those that say something."""


@torch.inference_mode()
def feedback(table: Table, batch: MicroBatch) -> Terms:
    """What the users of a micro-batch have said outright, of every item."""
    terms = {"search": _search(table, batch), "disliked": _disliked(table, batch), "liked": _liked(table, batch)}
    return {name: term for name, term in terms.items() if term is not None}


TERMS = ("search", "disliked", "liked")


def _search(table: Table, batch: MicroBatch) -> torch.Tensor | None:
    if not len(batch.queries):
        return None
    texts = table.texts()
    term = texts.new_zeros(len(batch.history), len(texts))
    term[batch.query_owner] = SEARCH * batch.query_strengths[:, None] * (batch.queries @ texts.mT)
    return term


def _disliked(table: Table, batch: MicroBatch) -> torch.Tensor | None:
    if not (batch.strengths < 0).any():
        return None
    ratings, events = batch.rated.sum(1, keepdim=True), (batch.strengths != 0).sum(1, keepdim=True).clamp(min=1)
    rates = 1 + (ratings - 1).clamp(min=0) * ratings / events  # how much of a rater: 1 for who rates once, or seldom
    pushes = torch.where(batch.rated, -batch.strengths / rates.square(), -batch.strengths).clamp(min=0)
    pushed, pulled = _nearness(table, batch, pushes), _nearness(table, batch, batch.strengths.clamp(min=0))
    push = -DISLIKED * (pushed - pulled).clamp(min=0)
    push[batch.query_owner] *= (1 - batch.query_strengths)[:, None]  # who asks for something wants to see it
    return push


def _liked(table: Table, batch: MicroBatch) -> torch.Tensor | None:
    more = (batch.strengths - 1).clamp(min=0).masked_fill(batch.rated, 0.0)
    if not more.any():
        return None
    events = (batch.strengths != 0).sum(1, keepdim=True).clamp(min=1)
    return LIKED * _nearness(table, batch, more / events)


def _nearness(table: Table, batch: MicroBatch, amounts: torch.Tensor) -> torch.Tensor:
    """How near every item is to the events that amount to something, never below 0; amounts (B, T) -> (B, n)."""
    T = amounts.shape[1]
    recency = _RECENCY ** torch.arange(T - 1, -1, -1, device=amounts.device)
    sums = ((amounts * recency)[:, None] @ table.contrast[batch.events])[:, 0]  # (B, 64)
    return (sums @ table.contrast[:-1].mT).clamp(min=0)
