"""What users say outright: searches, dislikes, low ratings, purchases. Terms of the score that are not learnt.

    newest search, fading ─────────────► search: how near the item's text is to the query
    dislikes, skips, low ratings ──────► disliked: how much nearer the item is to them than to what pulled
    likes, carts, purchases ───────────► liked: how near the item is to what said more than a view

Who rates one thing in a shop says more by it than who rates film after film: a low rating counts less by how much
of a rater the user is among the last events, to the power `_RATER`. What is learnt does not know these terms, so data
that does not reward them cannot take them away. A user who only views has none of them.
"""

import numpy as np
import torch
import torch.nn.functional as F

from model.catalogue import Catalogue
from model.interest import interest_space
from model.media.blocks import widths_of
from model.scoring.batch import MicroBatch
from model.scoring.candidates import Candidates
from model.scoring.products import products
from model.scoring.table import ItemTable
from model.scoring.threads import over_users
from model.signals import TERMS

SEARCH, DISLIKED, LIKED = 40.0, 15.0, 5.0
"""How much each counts, beside a log probability, where its cosine is 1."""
EXACT_SEARCH = 65_536
"""Items up to which a query is compared with every text."""
_RATER = 1.5  # with 2 a rater of few things said nothing to what is trained any more
_RECENCY = 0.95  # what one event further back counts


@torch.inference_mode()
def feedback(table: ItemTable, batch: MicroBatch, found: Candidates) -> torch.Tensor:
    """What the users of a micro-batch have said outright, of the candidates; (B, c, TERMS)."""
    terms = (_search(table, batch, found), _disliked(table, batch, found), _liked(table, batch, found))
    nothing = torch.zeros(found.there.shape)
    assert len(terms) == len(TERMS)
    return torch.stack([nothing if term is None else term for term in terms], 2)


def nearest_to_queries(table: ItemTable, batch: MicroBatch, k: int) -> np.ndarray:
    """The items whose texts are nearest to each newest search, best first; (q, at most k) rows."""
    queries, catalogue = batch.queries.numpy(), table.index.catalogue
    if len(catalogue) <= EXACT_SEARCH:
        width = _width_of_texts(catalogue)
        texts = catalogue.vectors[:, :width]
        norms = np.maximum(np.linalg.norm(texts, axis=1), 1e-12)
        cosines = torch.from_numpy(queries[:, :width] @ texts.T / norms)
        return cosines.topk(min(k, len(catalogue))).indices.numpy()
    apart = interest_space(queries) - table.index.mean
    return table.index.nearest(apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-12), k)


def _search(table: ItemTable, batch: MicroBatch, found: Candidates) -> torch.Tensor | None:
    if not len(batch.queries):
        return None
    asking, catalogue = batch.query_owner, table.index.catalogue
    width = _width_of_texts(catalogue)
    texts = torch.from_numpy(catalogue.vectors[found.rows[asking].numpy()])[..., :width]
    cosines = (F.normalize(texts, dim=2) @ batch.queries[:, :width, None])[..., 0]  # (q, c)
    term = torch.zeros(found.there.shape)
    term[asking] = SEARCH * batch.query_strengths[:, None] * cosines
    return term


def _width_of_texts(catalogue: Catalogue) -> int:
    """A query is a text: it is held against that part of an item's vector, whatever pictures the item has."""
    dim = catalogue.vectors.shape[1]
    return (widths_of(catalogue.encoder_version, dim) or (dim,))[0]


def _disliked(table: ItemTable, batch: MicroBatch, found: Candidates) -> torch.Tensor | None:
    if not (batch.strengths < 0).any():
        return None
    ratings, events = batch.rated.sum(1, keepdim=True), (batch.strengths != 0).sum(1, keepdim=True).clamp(min=1)
    rates = 1 + (ratings - 1).clamp(min=0) * ratings / events  # how much of a rater: 1 for who rates once, or seldom
    pushes = torch.where(batch.rated, -batch.strengths / rates**_RATER, -batch.strengths).clamp(min=0)
    pushed = _nearness(table, batch, found, pushes)
    push = -DISLIKED * (pushed - _nearness(table, batch, found, batch.strengths.clamp(min=0))).clamp(min=0)
    push[batch.query_owner] *= (1 - batch.query_strengths)[:, None]  # who asks for something wants to see it
    return push


def _liked(table: ItemTable, batch: MicroBatch, found: Candidates) -> torch.Tensor | None:
    more = (batch.strengths - 1).clamp(min=0).masked_fill(batch.rated, 0.0)
    if not more.any():
        return None
    events = (batch.strengths != 0).sum(1, keepdim=True).clamp(min=1)
    return LIKED * _nearness(table, batch, found, more / events)


def _nearness(table: ItemTable, batch: MicroBatch, found: Candidates, amounts: torch.Tensor) -> torch.Tensor:
    """How near items are to the events that amount to something, never below 0; amounts (B, T) -> (B, c)."""
    T, none = amounts.shape[1], batch.events == batch.none
    recency = _RECENCY ** torch.arange(T - 1, -1, -1)
    events = table.contrast_at(batch.events.masked_fill(none, 0))  # (B, T, 64)
    sums = ((amounts * recency).masked_fill(none, 0.0)[:, None] @ events)[:, 0]  # (B, 64)
    near = np.empty(found.host_rows.shape, np.float32)
    over_users(products, len(near), found.host_rows, table.index.contrast, sums.numpy(), near)
    return torch.from_numpy(near).clamp_(min=0)
