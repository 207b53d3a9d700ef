"""Retrieve, then rerank: the candidates of a micro-batch, their signals, and the scores that order them.

    last events ─► retrieve.py, the network's best, nearest to interests ─► a few hundred items ─► signals
                                                                                                 │
           a sample of all others: what they weigh ◄───────── linear score, weights that find ◄──┤
                                        │                               │ the best `CANDIDATES`  │
                                        ▼                               ▼                        ▼
                            P(i | u, t) of the candidates ◄── weights that order and an MLP, on all signals

Weights that find are learnt on the whole catalogue, those that order on the candidates: what tells an item that a user
may want from one that nobody wants is not what tells it from the best hundred.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from threading import local
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model.facts import MOST
from model.jit import njit
from model.scoring.batch import CONTEXT, MicroBatch
from model.scoring.candidates import Candidates, at_columns
from model.scoring.facts import Bag
from model.scoring.feedback import feedback, nearest_to_queries
from model.scoring.retrieve import CHANNELS, Asked, Sources, Workspace, retrieve, workspace
from model.scoring.signals import FAMILIES, computed, of_the_best
from model.scoring.table import ItemTable
from model.scoring.threads import over_users
from model.signals import ALL, COLUMN, FINDING, POPULARITY, SIGNALS

FOUND = 256
"""Items that retrieval finds for a user."""
CANDIDATES = 128
"""Items that the ranker orders, the best of those found by the linear score."""
NETWORK_BEST, NEAR_INTEREST, HAD = 48, 16, 48
"""Items found by the network, near the strongest interest, and among those that the user had last."""
UNTRAINED_NEAR = 64
"""Items near each interest where nothing is learnt: then they are all that there is."""
_HIDDEN = 32
_LEAST_SPREAD = 0.05
_RETRIEVING = (*CHANNELS, *POPULARITY, "age")
_CHUNKS = 1_024  # of items, in which a card looks for the network's best


class Weights(nn.Module):
    """A weight for each signal, that shifts with the context, and with `facts` (model/facts.py) where they are on."""

    def __init__(self, names: Sequence[str], facts: bool = False) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([ALL[name].untrained for name in names]))
        self.shift = nn.Parameter(torch.zeros(CONTEXT, len(names)))
        self.facts = Bag(len(names)) if facts else None

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Shape: context (B, CONTEXT), or with the buckets of facts behind it -> (B, signals)."""
        if self.facts is None:
            return self.mean + context @ self.shift
        return self.mean + context[:, :CONTEXT] @ self.shift + self.facts(context[:, CONTEXT:].long())


class Ranker(nn.Module):
    """Weights that find the candidates; weights and an MLP that order them.

    Args:
        optional: signals that are learnt after those of the registry.
        facts: weights shift with them too.

    Shape: spread (signals,), the standard deviation of each signal among the candidates; temperature (2,), by which the
    linear score and the score that orders are multiplied for P to be what happens.
    """

    spread: torch.Tensor
    temperature: torch.Tensor

    def __init__(self, optional: Sequence[str] = (), facts: bool = False) -> None:
        super().__init__()
        self.names = [*SIGNALS, *optional]
        self.find, self.order = (Weights(self.names, facts) for _ in range(2))
        first = nn.Linear(len(self.names) + CONTEXT, _HIDDEN)
        hidden = nn.Linear(_HIDDEN, _HIDDEN)
        last = nn.Linear(_HIDDEN, 1)
        self.mlp = nn.Sequential(first, nn.GELU(), hidden, nn.GELU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("spread", torch.ones(len(self.names)))
        self.register_buffer("temperature", torch.ones(2))

    @torch.no_grad()
    def begin(self, weights: dict[str, float]) -> None:
        """Set out from these weights; 0 for the signals that are not named."""
        for part in (self.find, self.order):
            part.mean.copy_(torch.tensor([weights.get(name, 0.0) for name in self.names]))

    def ordered(self, signals: torch.Tensor, context: torch.Tensor, there: torch.Tensor | None = None) -> torch.Tensor:
        """The score of each candidate beside the others.

        Shape: signals (B, candidates, signals), context (B, CONTEXT), there (B, candidates) bool -> (B, candidates).
        """
        if there is None:
            mean = signals.mean(1, keepdim=True)
        else:
            weights = there[..., None] / there.sum(1).clamp(min=1)[:, None, None]
            mean = (signals * weights).sum(1, keepdim=True)
        centred, first = signals - mean, cast(nn.Linear, self.mlp[0])
        of_signals = first.weight[:, : len(self.names)]
        hidden = F.linear(centred, of_signals / self.spread) + self._of_context(context)[:, None]
        return self.mlp[1:](hidden).squeeze(2) + (centred @ self.order(context)[..., None]).squeeze(2)

    def _of_context(self, context: torch.Tensor) -> torch.Tensor:
        """What the context says to the MLP; (B, CONTEXT or more) -> (B, hidden)."""
        first = cast(nn.Linear, self.mlp[0])
        return F.linear(context[:, :CONTEXT], first.weight[:, len(self.names) :], first.bias)

    @torch.no_grad()
    def measure(self, signals: torch.Tensor, share: float) -> None:
        """Let `spread` follow the signals of some candidates; a share of it is theirs.

        Shape: signals (B, candidates, signals).
        """
        centred = signals - signals.mean(1, keepdim=True)
        self.spread.copy_((self.spread**2).lerp((centred**2).mean((0, 1)), share).sqrt().clamp(min=_LEAST_SPREAD))


def fit_signals(tensors: dict[str, torch.Tensor], had: Sequence[str], wanted: Sequence[str]) -> None:
    """Let the ranker's tensors of a version that has some signals be those of others: what is new begins at nothing."""
    if list(had) == list(wanted):
        return
    columns = _columns(had, wanted)
    for part in ("find", "order"):
        for name in ("mean", "shift"):
            tensors[f"ranker.{part}.{name}"] = _picked(tensors[f"ranker.{part}.{name}"], columns, 0.0)
        if (facts := f"ranker.{part}.facts.into") in tensors:
            tensors[facts] = _picked(tensors[facts], columns, 0.0)
    tensors["ranker.spread"] = _picked(tensors["ranker.spread"], columns, 1.0)
    first = tensors["ranker.mlp.0.weight"]
    of_signals, of_context = first.split((len(had), first.shape[1] - len(had)), 1)
    tensors["ranker.mlp.0.weight"] = torch.cat((_picked(of_signals, columns, 0.0), of_context), 1)


def fit_precision(precision: torch.Tensor | None, had: Sequence[str], wanted: Sequence[str]) -> torch.Tensor | None:
    """The precision of the weights of a version that has some signals, for others: of what is new nothing is known.

    Raises:
        ValueError: it is none of so many weights.
    """
    if precision is None:
        return None
    if precision.shape != (len(had),) or precision.dtype != torch.float32 or not (precision > 0).all():
        raise ValueError(f"precision {tuple(precision.shape)}: {len(had)} numbers above 0 are wanted")
    return _picked(precision, _columns(had, wanted), 1.0)


def _columns(had: Sequence[str], wanted: Sequence[str]) -> torch.Tensor:
    """Where each signal that is wanted stands among those that there are, -1 for nowhere."""
    at = {name: column for column, name in enumerate(had)}
    return torch.tensor([at.get(name, -1) for name in wanted])


def _picked(values: torch.Tensor, columns: torch.Tensor, missing: float) -> torch.Tensor:
    """Columns of the last dimension, `missing` for -1."""
    return values[..., columns.clamp(min=0)].masked_fill(columns < 0, missing)


@dataclass
class Scored:
    """The best candidates of a micro-batch with their signals and scores, and some items of the whole catalogue.

    Shape: rows (B, c), 0 where `there` (B, c) is false; signals (B, c, signals); terms (B, c, TERMS), see feedback.py;
    scores (B, c), -inf for what must not be listed; weights (B, signals), those that order; others (B, R, names) of
    the sample; rest (B,), the log of what all items weigh that are no candidates, estimated.
    """

    rows: torch.Tensor
    there: torch.Tensor
    signals: torch.Tensor
    terms: torch.Tensor
    scores: torch.Tensor
    weights: torch.Tensor
    others: torch.Tensor
    rest: torch.Tensor
    sources: Sources
    found: Candidates

    def probabilities(self, scores: torch.Tensor, every: torch.Tensor) -> torch.Tensor:
        """P(i | u, t) of items with these scores, over the whole catalogue: beside `every` candidate and the rest.

        Shape: scores (B, k), every (B, c) -> (B, k).
        """
        total = torch.logaddexp(every.logsumexp(1), self.rest)
        return torch.exp(scores - total[:, None]).nan_to_num(0.0)


@dataclass
class Found:
    """What retrieval found, with the linear score; the sample's columns come last.

    Shape: rows, there (B, C + R); signals (B, C + R, finding); terms (B, C + R, TERMS); linear (B, C + R), -inf for
    what must not be listed; best (B, c) columns of the candidates; sampled, as many as the last columns.
    """

    candidates: Candidates
    signals: torch.Tensor
    terms: torch.Tensor
    linear: torch.Tensor
    best: torch.Tensor
    sampled: int


_kept = local()
"""Each thread's workspace: a version is tried beside the lists."""


@torch.inference_mode()
def find(ranker: Ranker, table: ItemTable, batch: MicroBatch, sample: np.ndarray | None = None, k: int = 0) -> Found:
    """Retrieve, and score linearly.

    Args:
        sample: rows (B, R) whose signals are wanted too; those of the table if not given.
        k: there are so many candidates at least, where there are as many items.
    """
    B, weights = len(batch.history), ranker.find(batch.context)
    sample = np.broadcast_to(table.sample, (B, len(table.sample))) if sample is None else sample
    hidden = hidden_of(table, batch)
    most = min(max(FOUND, 2 * k), max(1, len(table)))
    wanted = [family.candidates(table, batch) for family in table.scorer.optional]
    rows, sums, allowed, sources, space = _retrieve(table, batch, hidden, weights, sample, most, wanted)
    there = torch.from_numpy(np.concatenate((rows >= 0, allowed), 1))
    every = np.concatenate((rows, sample), 1).astype(np.int32)
    found = Candidates(every, there, sums, hidden.cpu().numpy(), sources, space).open(table)
    signals, terms = computed(FAMILIES, table, batch, found), feedback(table, batch, found)
    linear = (signals @ weights[:, : len(FINDING), None])[..., 0] + terms.sum(2)
    linear = linear.masked_fill(~there, -torch.inf)
    best = _best(linear[:, : rows.shape[1]], rows, wanted, max(CANDIDATES, k))
    return Found(found, signals, terms, linear, best, sample.shape[1])


def _best(linear: torch.Tensor, rows: np.ndarray, wanted: list[np.ndarray], count: int) -> torch.Tensor:
    """The columns of the items that the linear score puts first, and of those that families want: it does not know
    their signals.

    Shape: linear, rows (B, C), wanted (B, F) rows each -> (B, at most count + all F).
    """
    more = sum(some.shape[1] for some in wanted)
    if more:
        places = (rows[..., None] == np.concatenate(wanted, 1)[:, None]).any(2) & (rows >= 0)
        linear = linear.masked_fill(torch.from_numpy(places) & (linear > -torch.inf), torch.inf)
    return linear.topk(min(count + more, rows.shape[1]), sorted=False).indices


def hidden_of(table: ItemTable, batch: MicroBatch) -> torch.Tensor:
    """What the network makes of the last events, on its device; (B, width)."""
    network, none = table.scorer.network, batch.host.history < 0
    tokens = table.host_items[batch.host.history]
    tokens[none] = 0.0
    events = (part.to(table.device) for part in (torch.from_numpy(tokens), batch.gaps, batch.actions, batch.kind))
    facts = None if network.facts is None else batch.context[:, CONTEXT : CONTEXT + MOST].long().to(table.device)
    return network(*events, newest=True, facts=facts)[:, 0]


def _retrieve(
    table: ItemTable,
    batch: MicroBatch,
    hidden: torch.Tensor,
    weights: torch.Tensor,
    sample: np.ndarray,
    most: int,
    wanted: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Sources, Workspace]:
    B = len(batch.history)
    table.index.look_up(batch.host.history.ravel())
    forced = np.concatenate([*_forced(table, batch, hidden), *wanted], 1).astype(np.int32)
    asked = Asked(
        batch.host.history, weights[:, [COLUMN[name] for name in _RETRIEVING]].numpy(), forced,
        table.heads, np.ascontiguousarray(sample, dtype=np.int32), batch.host.excluded, batch.host.excluded_from,
        len(table),
    )  # fmt: skip
    sources, space = table.sources(), _space(B)
    rows = np.zeros((B, most), np.int32)
    sums = np.zeros((B, rows.shape[1] + sample.shape[1], len(CHANNELS)), np.float32)
    allowed = np.zeros(sample.shape, bool)
    over_users(retrieve, B, sources, asked, space, rows, sums, allowed)
    return rows, sums, allowed, sources, space


def _space(users: int) -> Workspace:
    """A workspace for so many users, made once for each thread."""
    kept: Workspace | None = getattr(_kept, "space", None)
    if kept is None or len(kept.slots) < users:
        kept = _kept.space = workspace(users)
    return kept


def _forced(table: ItemTable, batch: MicroBatch, hidden: torch.Tensor) -> list[np.ndarray]:
    """Candidates that no table of partners finds: the network's best, what is near an interest or a query, what the
    user had last; (B, F) rows each, -1 for none.
    """
    parts = [_near_interests(table, batch), _had_last(batch)]
    if table.scorer.is_trained:
        parts.append(_network_best(table, batch, hidden))
    if len(batch.queries):
        queries = np.full((len(batch.history), FOUND // 4), -1)
        near = nearest_to_queries(table, batch, FOUND // 4)
        queries[batch.query_owner.numpy(), : near.shape[1]] = near
        parts.insert(0, queries)
    return parts


def _near_interests(table: ItemTable, batch: MicroBatch) -> np.ndarray:
    trained = table.scorer.is_trained
    count, k = (1, NEAR_INTEREST) if trained else (batch.interests.shape[1], UNTRAINED_NEAR)
    strongest = batch.weights.topk(min(count, batch.weights.shape[1])).indices  # (B, I)
    vectors = batch.interests.gather(1, strongest[..., None].expand(-1, -1, batch.interests.shape[2])) - table.mean
    near = table.index.nearest(F.normalize(vectors, dim=2).flatten(0, 1).numpy(), k)
    near = np.where((batch.weights.gather(1, strongest) > 0).numpy().reshape(-1, 1), near, -1)
    return near.reshape(len(batch.history), -1)


def _had_last(batch: MicroBatch) -> np.ndarray:
    """The items that each user had last; (B, HAD)."""
    given = batch.host
    owner = np.repeat(np.arange(len(given.history)), np.diff(given.had_from))
    order = np.lexsort((given.had_gaps_s, owner))
    at = np.arange(len(order)) - given.had_from[owner]
    rows = np.full((len(given.history), HAD), -1)
    rows[owner[at < HAD], at[at < HAD]] = given.had[order[at < HAD]]
    return rows


def _network_best(table: ItemTable, batch: MicroBatch, hidden: torch.Tensor) -> np.ndarray:
    """The items that the network puts first, without those that must not be listed; (B, NETWORK_BEST)."""
    searched = table.searched
    if searched is None:
        scores = _products(hidden, table.items, table.biases)
        owner, excluded = batch.excluded_owner, batch.excluded
    else:
        scores = _products(hidden, table.searched_items(), table.biases[torch.from_numpy(searched)])
        at = np.searchsorted(searched, batch.host.excluded).clip(max=max(0, len(searched) - 1))
        same = torch.from_numpy(searched[at] == batch.host.excluded)
        owner, excluded = batch.excluded_owner[same], torch.from_numpy(at)[same]
    scores[owner.to(table.device), excluded.to(table.device)] = -torch.inf
    rows = _topk(scores, min(NETWORK_BEST, scores.shape[1]))
    return rows if searched is None else np.where(rows >= 0, searched[rows], -1)


def _products(hidden: torch.Tensor, items: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The network's scores of items; (B, width), (n, width), (n,) -> (B, n)."""
    if items.dtype == torch.float32:
        return torch.addmm(bias, hidden, items.mT)
    return (hidden.to(items.dtype) @ items.mT).float().add_(bias)


def _topk(scores: torch.Tensor, k: int) -> np.ndarray:
    """The columns of the largest of each row, in any order, -1 for those of -inf; (B, n) -> (B, k).

    A card looks among the chunks that hold the largest: it costs more to look for them than to compute them all.
    """
    B, n = scores.shape
    if scores.device.type == "cpu":
        columns = np.full((B, k), -1, np.int64)
        over_users(_largest, B, scores.numpy(), columns)
        return columns
    best = scores.topk(k, sorted=False) if n < _CHUNKS * k else _topk_of_chunks(scores, k)
    return torch.where(best[0] > -torch.inf, best[1], -1).cpu().numpy()


def _topk_of_chunks(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    B, n = scores.shape
    width = -(-n // _CHUNKS)
    chunks = F.pad(scores, (0, _CHUNKS * width - n), value=-torch.inf).view(B, _CHUNKS, width)
    largest = chunks.amax(2).topk(k).indices  # (B, k): the k best are in these chunks
    best = chunks.gather(1, largest[..., None].expand(-1, -1, width)).flatten(1).topk(k)
    return best.values, largest.gather(1, best.indices // width) * width + best.indices % width


@njit(cache=True, nogil=True)
def _largest(first, last, scores, columns):
    """By a heap of the largest so far, the least of them on top."""
    k = columns.shape[1]
    for b in range(first, last):
        heap = [(np.float32(-np.inf), -1)] * k
        least = heap[0][0]
        for column in range(scores.shape[1]):
            if scores[b, column] > least:
                heapq.heapreplace(heap, (scores[b, column], column))
                least = heap[0][0]
        for at in range(k):
            columns[b, at] = heap[at][1]


@torch.inference_mode()
def rerank(ranker: Ranker, table: ItemTable, batch: MicroBatch, k: int = 0) -> Scored:
    """Retrieve, and order the candidates, k at least; what they weigh together beside all others is by the linear
    score.
    """
    found = find(ranker, table, batch, k=k)
    found.linear *= ranker.temperature[0]
    given, best = found.candidates, found.best
    C = found.linear.shape[1] - found.sampled
    chosen = given.some(best)
    signals = torch.cat((at_columns(found.signals, best), of_the_best(table, batch, chosen)), 2)
    terms, before = at_columns(found.terms, best), found.linear.gather(1, best)
    chosen.there &= before > -torch.inf
    after = ranker.ordered(signals, batch.context, chosen.there).nan_to_num(0.0) + terms.sum(2)
    after *= ranker.temperature[1]
    after = after.masked_fill(~chosen.there, -torch.inf)
    moved = (before.logsumexp(1, keepdim=True) - after.logsumexp(1, keepdim=True)).nan_to_num(0.0)
    rest = rest_of(found, chosen, C, len(table))
    others = torch.cat((found.signals[:, C:], found.terms[:, C:]), 2)
    weights = ranker.order(batch.context)
    return Scored(
        chosen.rows, chosen.there, signals, terms, after + moved, weights, others, rest, given.sources, chosen
    )


def rest_of(found: Found, chosen: Candidates, first: int, items: int) -> torch.Tensor:
    """The log of what the items weigh that are no candidates, from a sample of all; exact where all are in it; (B,)."""
    sampled, candidates = found.candidates.host_rows[:, first:], chosen.host_rows
    linear = found.linear[:, first:].clone()
    over_users(_leave_out, len(sampled), sampled, candidates, chosen.there.numpy(), linear.numpy())
    return linear.logsumexp(1) + float(np.log(max(1, items) / max(1, sampled.shape[1])))


@njit(cache=True, nogil=True)
def _leave_out(first, last, sampled, candidates, there, linear):
    """Sampled items that are candidates weigh nothing here."""
    for b in range(first, last):
        for c in range(candidates.shape[1]):
            for r in range(sampled.shape[1]):
                if there[b, c] and candidates[b, c] == sampled[b, r]:
                    linear[b, r] = -np.inf
