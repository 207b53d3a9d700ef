"""P(i | u, t) for a micro-batch: named signals over the whole catalogue, a learned blend of them, the reasons.

    history, interests ─► signals (micro-batch, signals, items) ─► linear blend ─► best candidates ─► small MLP ─► softmax

A signal is one function from a micro-batch to a number per user and item, on the scale of a log probability. `SIGNALS`
names them in the order in which the blend holds their weights; a new one is a new entry there. What is learnt lives in
`Scorer`: the network and the blend are trained, popularities and neighbours of items are counted (model/finetune.py).

Source: Zhai et al., Actions Speak Louder than Words (HSTU), 2024, arXiv:2402.17152 (the network); Steck, Embarrassingly
Shallow Autoencoders for Sparse Data (EASE), 2019, arXiv:1905.03375 (one of the counted neighbours).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model import interest, registry
from model.catalogue import Catalogue
from model.consumed import contains
from model.interest import ACTIONS, INTEREST_DIM, Interests, Rules
from model.schema import Reason, RecommendedItem, Request, VersionError

LAYOUT = 1
HALF_LIVES = (float("inf"), 20_000.0, 2_000.0, 200.0)
"""Popularity is counted with these half-lives, in events."""
NEIGHBOURS = ("transitions", "recent-transitions", "ease", "text")
"""Counted tables: for every item the items that follow from it, best first, with a weight each."""
CONTEXT = 6
GAPS = 40
CANDIDATES = 128
_CELLS = 700_000  # users x items scored at once: the signals of a micro-batch stay in the processor's cache
_RECENCY = 0.85
_SHARPNESS = 8.0  # tau of the interest formula
_BACK_OFF = 0.02


@dataclass(frozen=True)
class Sizes:
    """The shape of a scorer: `dim` of the language model's vectors, `width` of the network, `last_n` events seen."""

    dim: int
    width: int = 64
    layers: int = 2
    heads: int = 2
    last_n: int = 20


class Block(nn.Module):
    """Pointwise attention: SiLU in place of a softmax, a learned bias per distance, a gated output, no feed-forward."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads, self.last_n = sizes.heads, sizes.last_n
        self.norm, self.norm_out = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
        self.into, self.out = nn.Linear(sizes.width, 4 * sizes.width), nn.Linear(sizes.width, sizes.width)
        self.distance = nn.Parameter(torch.zeros(sizes.heads, sizes.last_n))
        self.drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Shape: x (B, T, width), visible (B, 1, T, T) -> (B, T, width)."""
        B, T, C = x.shape
        u, v, q, k = F.silu(self.into(self.norm(x))).split(C, dim=2)  # (B, T, C) each
        q, k, v = (part.view(B, T, self.heads, -1).transpose(1, 2) for part in (q, k, v))  # (B, H, T, C / H)
        steps = torch.arange(T, device=x.device)
        apart = (steps[:, None] - steps).clamp(0, self.last_n - 1)
        attention = F.silu(q @ k.mT + self.distance[:, apart]) * visible / self.last_n  # (B, H, T, T)
        seen = (attention @ v).transpose(1, 2).reshape(B, T, C)
        return x + self.drop(self.out(self.norm_out(seen) * u))


class Network(nn.Module):
    """From the last events to a vector; its product with an item's vector is the item's score.

    An item is its text, projected, plus an embedding of its own that opens as the item is seen more often.
    """

    def __init__(self, sizes: Sizes, items: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.project = nn.Linear(sizes.dim, sizes.width, bias=False)
        self.ids = nn.Parameter(torch.zeros(items, sizes.width))
        self.bias = nn.Parameter(torch.zeros(items))
        self.gate = nn.Parameter(torch.tensor([0.0, 0.5]))
        self.popularity = nn.Parameter(torch.tensor(0.5))
        self.gap, self.action = nn.Embedding(GAPS, sizes.width), nn.Embedding(len(ACTIONS), sizes.width)
        self.start = nn.Parameter(torch.zeros(sizes.width))
        self.norm, self.norm_out = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.drop = nn.Dropout(0.2)
        for table in (self.gap, self.action):
            nn.init.normal_(table.weight, std=0.05)

    def items(self, vectors: torch.Tensor, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Shape: vectors (n, dim), ids (n, width), counts (n,) -> (n, width)."""
        gate = torch.sigmoid(self.gate[0] + self.gate[1] * torch.log1p(counts) - 1)
        return self.project(vectors) + gate[:, None] * ids

    def forward(self, tokens: torch.Tensor, gaps: torch.Tensor, actions: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        """Shape: tokens (B, T, width) of items; gaps, actions, kind (B, T), kind 0 nothing, 1 an event, 2 the start -> (B, T, width)."""
        T = tokens.shape[1]
        x = self.norm(tokens) + self.action(actions)
        x = torch.where(kind[..., None] == 2, self.start, x) + self.gap(gaps)
        steps = torch.arange(T, device=x.device)
        apart = steps[:, None] - steps
        visible = ((apart >= 0) & (apart < self.sizes.last_n) & (kind > 0)[:, None, None, :]).to(x.dtype)
        x = self.drop(x)
        for block in self.blocks:
            x = block(x, visible)
        return self.norm_out(x)


class Blend(nn.Module):
    """How the signals make one score: weights that shift with the context, then an MLP that reorders the best."""

    def __init__(self) -> None:
        super().__init__()
        signals = len(SIGNALS)
        self.weights = nn.Parameter(torch.tensor([untrained for _, untrained in SIGNALS.values()]))
        self.shift = nn.Parameter(torch.zeros(CONTEXT, signals))
        self.mlp = nn.Sequential(nn.Linear(signals + CONTEXT, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1))
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


class Scorer(nn.Module):
    """All that a model version holds. Item tables have one row per item that the version knows.

    Shape: keys (m,) int64 item keys; counts (HALF_LIVES, m); per name in NEIGHBOURS: items (m, c) int32 rows of this
    table, -1 for none, and weights (m, c).
    """

    def __init__(self, sizes: Sizes, items: int = 0, encoder_version: str = "") -> None:
        super().__init__()
        self.sizes, self.encoder_version = sizes, encoder_version
        self.network, self.blend = Network(sizes, items), Blend()
        self.register_buffer("keys", torch.zeros(items, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(len(HALF_LIVES), items))
        for name in NEIGHBOURS:
            self.register_buffer(f"{name}_items", torch.full((items, 0), -1, dtype=torch.int32))
            self.register_buffer(f"{name}_weights", torch.zeros(items, 0))
        self._kept: tuple | None = None
        self.eval()

    @classmethod
    def untrained(cls, dim: int) -> "Scorer":
        """What serves before there is a version: interests and nothing learnt."""
        return cls(Sizes(max(1, dim)))

    def table(self, catalogue: Catalogue) -> "Table":
        """What this scorer knows of every item of the catalogue, computed once per revision."""
        if self._kept is None or self._kept[0] is not catalogue or self._kept[1] != catalogue.revision:
            self._kept = (catalogue, catalogue.revision, Table(self, catalogue))
        return self._kept[2]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_kept": None}


def save(scorer: Scorer, registry_path: str, version: str, about: dict) -> str:
    """Write the scorer as a version of the registry and return its path."""
    shape = {"layout": LAYOUT, "sizes": asdict(scorer.sizes), "signals": list(SIGNALS), "encoder_version": scorer.encoder_version}
    return registry.write(registry_path, version, scorer.state_dict(), about | shape)


def load(path: str, device: str = "cpu") -> Scorer:
    """Read a version.

    Raises:
        VersionError: it is broken, or was written by another layout of this module.
    """
    tensors, about = registry.read(path)
    if about.get("layout") != LAYOUT or about.get("signals") != list(SIGNALS):
        signals = ", ".join(map(str, about.get("signals") or []))
        raise VersionError(
            f"{path}: layout {about.get('layout')} with signals {signals}; layout {LAYOUT} with {', '.join(SIGNALS)} can be "
            "read: fine-tune a new version with this release"
        )
    try:
        sizes = Sizes(**{field.name: int(about["sizes"][field.name]) for field in fields(Sizes)})
        scorer = Scorer(sizes, len(tensors["keys"]), str(about["encoder_version"]))
        for name in tensors.keys() & dict(scorer.named_buffers()).keys():
            scorer.register_buffer(name, tensors[name])
        scorer.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise VersionError(f"{path}: its tensors do not fit its sizes: {error}; write it again") from None
    return scorer.to(device)


class Table:
    """A scorer's knowledge of the items of one catalogue revision, in the catalogue's rows; row n stands for no item.

    Shape: rows (n,) rows of the scorer, m for none; items (n + 1, width); bias (n,); log_counts (HALF_LIVES, n).
    """

    @torch.no_grad()
    def __init__(self, scorer: Scorer, catalogue: Catalogue) -> None:
        device = scorer.keys.device
        _check(scorer, catalogue)
        n, m = len(catalogue), len(scorer.keys)
        self.rows = torch.from_numpy(find(scorer.keys.cpu().numpy(), catalogue.keys.view(np.int64))).to(device)
        counts = _padded(scorer.counts.mT)[self.rows].mT  # (HALF_LIVES, n)
        network = scorer.network
        vectors = torch.from_numpy(catalogue.vectors.reshape(n, scorer.sizes.dim)).to(device)
        self.items = _padded(network.items(vectors, _padded(network.ids)[self.rows], counts[0]))
        self.log_counts = torch.log(counts + 0.05) - torch.log(counts.sum(1, keepdim=True) + 0.05 * n)
        self.bias = _padded(network.bias)[self.rows] + network.popularity * self.log_counts[2]
        self.back_off = _BACK_OFF * self.log_counts[1].exp() + 1e-6
        self.neighbours = {name: self._neighbours(scorer, name, n, m) for name in NEIGHBOURS}
        self.vectors = torch.from_numpy(catalogue.interest_vectors).to(device)

    def _neighbours(self, scorer: Scorer, name: str, n: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Shape: (n + 1, c) int64 rows of the catalogue, n for none, and their weights."""
        items, weights = getattr(scorer, f"{name}_items"), getattr(scorer, f"{name}_weights")
        back = torch.full((m + 1,), n, device=items.device)
        back[self.rows] = torch.arange(n, device=items.device)
        back[m] = n
        items = torch.where(items < 0, m, items.long())
        items = F.pad(items, (0, 0, 0, 1), value=m)[F.pad(self.rows, (0, 1), value=m)]
        weights = F.pad(weights, (0, 0, 0, 1))[F.pad(self.rows, (0, 1), value=m)]
        return back[items], weights


def _check(scorer: Scorer, catalogue: Catalogue) -> None:
    have, dim = catalogue.encoder_version, catalogue.vectors.shape[1]
    if len(catalogue) and (scorer.sizes.dim != dim or scorer.encoder_version not in ("", have)):
        raise VersionError(
            f"the version was made for vectors of {scorer.encoder_version or 'any encoder'} ({scorer.sizes.dim} dimensions), "
            f"the catalogue has those of {have} ({dim}): fine-tune a version with this encoder"
        )


def find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted key stands in `keys`, len(keys) if nowhere; (n,) int64."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    order = np.argsort(keys)
    at = np.searchsorted(keys, wanted, sorter=order)
    rows = order[at.clip(max=len(keys) - 1)]
    return np.where(keys[rows] == wanted, rows, len(keys))


def _padded(table: torch.Tensor) -> torch.Tensor:
    """One more row, of zeros."""
    return torch.cat((table, table.new_zeros(1, *table.shape[1:])))


@dataclass
class MicroBatch:
    """A group of requests, opened up; T = last_n, I = most interests of a user, n stands for no item.

    Shape: history, gaps, actions, kind (B, T), the newest event last; context (B, CONTEXT); interests (B, I, 64);
    weights, led_to (B, I), sums of 1 or 0.
    """

    history: torch.Tensor
    gaps: torch.Tensor
    actions: torch.Tensor
    kind: torch.Tensor
    context: torch.Tensor
    interests: torch.Tensor
    weights: torch.Tensor
    led_to: torch.Tensor
    near: torch.Tensor | None = None

    def nearness(self, table: "Table") -> torch.Tensor:
        """exp(tau h_a . h_i) of every interest and item, computed once; (B, I, n)."""
        if self.near is None:
            near = self.interests.flatten(0, 1) @ (_SHARPNESS * table.vectors.mT)
            self.near = near.exp_().view(*self.weights.shape, -1)
        return self.near


def gap_number(gap_ms: np.ndarray) -> np.ndarray:
    """The number of a time gap's embedding: log2 of the seconds; (...) int64 ms -> (...) int64."""
    return np.log2(1 + np.maximum(gap_ms, 0) / 1_000).astype(np.int64).clip(max=GAPS - 1)


def open_requests(catalogue: Catalogue, requests: Sequence[Request], rules: Rules, last_n: int, device: torch.device) -> MicroBatch:
    """Decode the interests of every request, fold what was pending, and lay the histories side by side."""
    users = [_open(catalogue, request.interests, rules) for request in requests]
    log = np.concatenate([user.log[-last_n:] for user in users])
    lengths = np.array([min(len(user.log), last_n) for user in users])
    rows = catalogue.rows(log["item_key"].tolist())
    user = np.repeat(np.arange(len(users)), lengths)[rows >= 0]
    known = np.bincount(user, minlength=len(users))
    column = np.arange(len(user)) + np.repeat(last_n - np.cumsum(known), known)
    stamps = log["stamp"][rows >= 0]
    B, T = len(users), last_n
    history, actions, kind = np.full((B, T), len(catalogue)), np.zeros((B, T), np.int64), np.zeros((B, T), np.int64)
    times = np.zeros((B, T + 1), np.int64)
    times[:, T] = [request.event_time_ms for request in requests]
    history[user, column], kind[user, column] = rows[rows >= 0], 1
    times[user, column] = (stamps >> np.uint64(16)).astype(np.int64)
    actions[user, column] = ((stamps >> np.uint64(8)) & np.uint64(0xFF)).astype(np.int64)
    fresh = np.flatnonzero(known < last_n)
    kind[fresh, T - 1 - known[fresh]] = np.where(known[fresh] < lengths[fresh], 0, 2)
    kind[known == 0, T - 1] = 2
    gaps = np.where(kind > 0, gap_number(np.diff(times)), 0)
    gaps[kind == 2] = 0
    last_gap_s = np.where(known > 0, np.maximum(times[:, T] - times[:, T - 1], 0) / 1_000, 0)
    tensors = (history, gaps, actions, kind, _context(known, last_gap_s), *_interests(users))
    return MicroBatch(*(torch.from_numpy(tensor).to(device) for tensor in tensors))


def _open(catalogue: Catalogue, data: bytes, rules: Rules) -> Interests:
    opened = interest.decode(data)
    interest.use_encoder(opened, catalogue.encoder)
    if len(opened.log) and (opened.log["stamp"] & np.uint64(1)).any():
        interest.resolve(opened, catalogue.lookup, rules)
    return opened


def _context(known: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
    """Shape: (B,), (B,) -> (B, CONTEXT)."""
    parts = (known == 0, known < 5, np.log1p(known) / 3, np.log1p(gap_s) / 10, (gap_s == 0) & (known > 0), gap_s > 1_800)
    return np.stack(parts, 1).astype(np.float32)


def _interests(users: list[Interests]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shape: vectors (B, I, 64), weights (B, I), led_to (B, I): where the edges lead from the last interest."""
    most = max(1, max(len(user.weights) for user in users))
    vectors = np.zeros((len(users), most, INTEREST_DIM), np.float32)
    weights = np.zeros((2, len(users), most), np.float32)
    for at, user in enumerate(users):
        count = len(user.weights)
        if count:
            vectors[at, :count] = user.vectors
            weights[0, at, :count] = user.weights
            led = user.edges[user.last] if user.last >= 0 else user.weights
            weights[1, at, :count] = led if led.sum() > 0 else user.weights
    weights /= np.maximum(weights.sum(2, keepdims=True), 1e-12)
    return vectors, weights[0], weights[1]


def _network(scorer: Scorer, table: Table, batch: MicroBatch) -> torch.Tensor:
    """What the network makes of the last events."""
    hidden = scorer.network(table.items[batch.history], batch.gaps, batch.actions, batch.kind)[:, -1]  # (B, width)
    return hidden @ table.items[:-1].mT + table.bias


def _popularity(half_life: int):
    def popularity(scorer: Scorer, table: Table, batch: MicroBatch) -> torch.Tensor:
        """How often the item was chosen, old choices fading."""
        return table.log_counts[half_life : half_life + 1]

    return popularity


def _following(name: str):
    def following(scorer: Scorer, table: Table, batch: MicroBatch) -> torch.Tensor:
        """How strongly the last events lead to the item, by a counted table; the newest event counts most."""
        items, weights = table.neighbours[name]
        B, n = len(batch.history), len(table.bias)
        recency = _RECENCY ** torch.arange(batch.history.shape[1] - 1, -1, -1, device=weights.device)
        sums = weights.new_zeros(B, n + 1)
        sums.scatter_add_(1, items[batch.history].flatten(1), (weights[batch.history] * recency[:, None]).flatten(1))
        return sums[:, :n].add_(table.back_off).log_()

    return following


def _text(scorer: Scorer, table: Table, batch: MicroBatch) -> torch.Tensor:
    """The largest similarity of the item's text to one of the last events."""
    items, weights = table.neighbours["text"]
    best = weights.new_zeros(len(batch.history), len(table.bias) + 1)
    best.scatter_reduce_(1, items[batch.history].flatten(1), weights[batch.history].flatten(1), "amax")
    return best[:, :-1].mul_(5)


def _interest(weights_of: str):
    def similar(scorer: Scorer, table: Table, batch: MicroBatch) -> torch.Tensor:
        """log sum_i w_i exp(tau h_a . h_i): how near the item is to the user's interests."""
        weights = getattr(batch, weights_of)
        some = weights.sum(1, keepdim=True) > 0
        sums = (torch.where(some, weights, 1.0)[:, None] @ batch.nearness(table))[:, 0]  # (B, n)
        return sums.add_(1e-9).log_().mul_(some)

    return similar


SIGNALS = {
    "network": (_network, 0.0),
    "popular": (_popularity(0), 0.0),
    "lately-popular": (_popularity(1), 0.0),
    "trending": (_popularity(2), 0.0),
    "trending-now": (_popularity(3), 0.0),
    "transitions": (_following("transitions"), 0.0),
    "recent-transitions": (_following("recent-transitions"), 0.0),
    "ease": (_following("ease"), 0.0),
    "text": (_text, 0.0),
    "interest": (_interest("weights"), 1.0),
    "next-interest": (_interest("led_to"), 0.5),
}
"""Name -> (function, its weight before anything is learnt)."""
FIRST_WEIGHTS = {"network": 0.8, "trending": 0.1, "transitions": 0.1, "recent-transitions": 0.1, "ease": 0.1, "text": 0.05}
"""Weights from which learning sets out; 0 for the others."""


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
        return torch.stack([gather(signal, rows) for signal in self.signals], 2)


def gather(signal: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Shape: signal (B or 1, n), rows (B, c) -> (B, c)."""
    return signal[0][rows] if len(signal) == 1 else signal.gather(1, rows)


@torch.no_grad()
def blend(scorer: Scorer, table: Table, batch: MicroBatch, excluded: torch.Tensor) -> Scores:
    """Compute the signals and the score; excluded (B, n) bool."""
    signals = [signal(scorer, table, batch).nan_to_num_(0.0) for signal, _ in SIGNALS.values()]
    weights = scorer.blend.of(batch.context)
    scores = torch.zeros(excluded.shape, device=excluded.device)
    for at, signal in enumerate(signals):
        scores.addcmul_(weights[:, at : at + 1], signal)
    scores.masked_fill_(excluded, -torch.inf)
    candidates = scores.topk(min(CANDIDATES, scores.shape[1])).indices
    scored = Scores(signals, weights, candidates, scores)
    scores.scatter_add_(1, candidates, scorer.blend.reorder(scored.at(candidates), batch.context).nan_to_num(0.0))
    return scored


def excluded_items(catalogue: Catalogue, requests: Sequence[Request], exclude_consumed: bool, device: torch.device) -> torch.Tensor:
    """Shape: (B, n) bool."""
    excluded = np.zeros((len(requests), len(catalogue)), bool)
    if exclude_consumed:
        for at, request in enumerate(requests):
            if request.consumed:
                excluded[at] = contains(request.consumed, catalogue.keys)
    return torch.from_numpy(excluded).to(device)


def score(
    scorer: Scorer, catalogue: Catalogue, requests: Sequence[Request], k: int, exclude_consumed: bool = True, rules: Rules = Rules()
) -> list[list[RecommendedItem]]:
    """The k best items for each request, best first, with P(i | u, t) and the reasons.

    P is a softmax of the learned score over the whole catalogue. Items that the user has consumed are taken out before
    it is normalised (`exclude_consumed`): their probability is 0 and the others' sum to 1. The time t is the request's.

    Raises:
        VersionError: the scorer was made for another encoder than the catalogue's.
    """
    if not len(catalogue):
        return [[] for _ in requests]
    parts = -(-len(requests) * len(catalogue) // _CELLS)  # at least 1 where there are requests
    size = max(1, -(-len(requests) // max(1, parts)))
    lists: list[list[RecommendedItem]] = []
    for start in range(0, len(requests), size):
        lists += _score(scorer, catalogue, requests[start : start + size], k, exclude_consumed, rules)
    return lists


def _score(
    scorer: Scorer, catalogue: Catalogue, requests: Sequence[Request], k: int, exclude_consumed: bool, rules: Rules
) -> list[list[RecommendedItem]]:
    table, device = scorer.table(catalogue), scorer.keys.device
    batch = open_requests(catalogue, requests, rules, scorer.sizes.last_n, device)
    scored = blend(scorer, table, batch, excluded_items(catalogue, requests, exclude_consumed, device))
    best = scored.scores.topk(min(k, len(catalogue)))
    chances = torch.exp(best.values - scored.scores.logsumexp(1, keepdim=True)).nan_to_num(0.0)
    lists, reasons = [], iter(explain(table, batch, scored, best.indices, catalogue.item_ids))
    for rows, probabilities in zip(best.indices.cpu().numpy().tolist(), chances.cpu().numpy().tolist()):
        listed = (
            RecommendedItem(catalogue.item_ids[row], chance, [reason for reason in why if reason])
            for row, chance, why in zip(rows, probabilities, zip(reasons, reasons))
        )
        lists.append([item for item in listed if item.probability > 0])
    return lists


_CARRIED_BY = {"network": "items", "interest": "vectors", "next-interest": "vectors"} | {name: name for name in NEIGHBOURS}
_PARTS = 2  # reasons given for an item, and past events given for a reason


@torch.no_grad()
def explain(table: Table, batch: MicroBatch, scored: Scores, rows: torch.Tensor, item_ids: list[str]) -> list[Reason | None]:
    """Why these items: the signals that lift them most above the average item, and the past events that carried those.

    For the network these are the events nearest to the item among its own item vectors, for the interests those nearest
    by text, for a counted table those that it led from.

    Shape: rows (B, k) -> B * k * parts reasons, None for one that would say little.
    """
    average = torch.stack([signal.mean(1).expand(len(rows)) for signal in scored.signals], 1)  # (B, signals)
    lift = ((scored.at(rows) - average[:, None]) * scored.weights[:, None]).clamp_(min=0)  # (B, k, signals)
    share, signal = (lift / lift.sum(2, keepdim=True).clamp(min=1e-12)).topk(_PARTS)  # (B, k, parts)
    events = _carriers(table, batch, rows, signal)
    number = _interest_numbers(table, batch, rows, signal)
    past = batch.history[:, None, None].expand(*signal.shape, -1)
    carried_by = torch.where(events >= 0, past.gather(3, events.clamp(min=0)), len(item_ids)).cpu().numpy()
    ids = np.array([*item_ids, ""], object)[carried_by]  # (B, k, parts, 2)
    names = np.array(list(SIGNALS), object)[signal.cpu().numpy()].ravel().tolist()
    shares = share.cpu().numpy().ravel().astype(float).round(3).tolist()
    columns = names, shares, number.cpu().numpy().ravel().tolist(), ids[..., 0].ravel().tolist(), ids[..., 1].ravel().tolist()
    return [
        Reason(name, part, which if which >= 0 else None, [a, b] if b and a != b else [a] if a else []) if part >= 0.05 else None
        for name, part, which, a, b in zip(*columns)
    ]


def _interest_numbers(table: Table, batch: MicroBatch, rows: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """The interest that speaks most for each item where the signal is one of interests, else -1; (B, k, parts)."""
    near = (batch.interests @ table.vectors[rows].mT).mT * _SHARPNESS  # (B, k, I)
    number = torch.full_like(signal, -1)
    for name, weights in (("interest", batch.weights), ("next-interest", batch.led_to)):
        best = (near + weights[:, None].log()).argmax(2)
        number = torch.where(signal == list(SIGNALS).index(name), best[..., None], number)
    return number


def _carriers(table: Table, batch: MicroBatch, rows: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """The past events that carried each signal most, -1 for none; rows (B, k), signal (B, k, parts) -> (B, k, parts, events)."""
    kinds = [_CARRIED_BY.get(name, "") for name in SIGNALS]
    amounts = {kind: _amounts(table, batch, rows, kind) for kind in dict.fromkeys(kinds)}
    place = torch.tensor([list(amounts).index(kind) for kind in kinds], device=rows.device)
    stacked = torch.stack(list(amounts.values()), 2)  # (B, k, kinds, T)
    chosen = stacked.gather(2, place[signal][..., None].expand(-1, -1, -1, stacked.shape[3]))  # (B, k, parts, T)
    chosen = chosen.masked_fill_((batch.kind != 1)[:, None, None], 0.0)
    best = F.pad(chosen, (0, 1)).topk(_PARTS)
    return torch.where(best.values > 0, best.indices, -1)


def _amounts(table: Table, batch: MicroBatch, rows: torch.Tensor, kind: str) -> torch.Tensor:
    """How much each past event speaks for each item; (B, k) -> (B, k, T)."""
    if kind in table.neighbours:
        return _led_from(table, batch, rows, kind)
    if not kind:
        return torch.zeros(*rows.shape, batch.history.shape[1], device=rows.device)
    vectors = table.items if kind == "items" else _padded(table.vectors)
    return vectors[rows] @ vectors[batch.history].mT


def _led_from(table: Table, batch: MicroBatch, rows: torch.Tensor, name: str) -> torch.Tensor:
    """How much of an item's sum in a counted table came from each past event; (B, k) -> (B, k, T)."""
    items, weights = table.neighbours[name]
    B, k = rows.shape
    T, n = batch.history.shape[1], len(table.bias)
    place = torch.full((B, n + 1), k, device=rows.device)
    place.scatter_(1, rows, torch.arange(k, device=rows.device).expand(B, -1))
    places = place.gather(1, items[batch.history].flatten(1)).view(B, T, -1)  # (B, T, c)
    amount = weights.new_zeros(B, T, k + 1).scatter_add_(2, places, weights[batch.history])
    recency = _RECENCY ** torch.arange(T - 1, -1, -1, device=rows.device)
    return (amount[..., :k] * recency[:, None]).mT
