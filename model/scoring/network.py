"""The network: from a user's last events to a vector, beside the vectors of the items.

    item ─► projected text + gated id ─┐
    gap to the next event, action ─────┴► token ─► blocks of pointwise attention ─► hidden vector . item vectors

Source: Zhai et al., Actions Speak Louder than Words (HSTU), 2024, arXiv:2402.17152.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from model.interest import ACTIONS
from model.scoring.facts import Bag

GAPS = 40
"""Time gaps are told apart by log2 of their seconds; 2**38 s is longer than anybody waits."""
UNKNOWN = GAPS - 1
"""Stands for the gap to an event that has not come yet."""
NOTHING, EVENT, START = 0, 1, 2
"""What stands at a position of a history: nothing, an event, or the start of a user who has no earlier one."""
_GATE, _VALUE, _QUERY, _KEY = range(4)  # parts of what a block projects its input into
_DROPPED = 0.3
_SPREAD = 0.05  # standard deviation of the embeddings before anything is learnt


@dataclass(frozen=True)
class Sizes:
    """The shape of a scorer: `dim` of the language model's vectors, `width` of the network, `last_n` events seen."""

    dim: int
    width: int = 64
    layers: int = 2
    heads: int = 2
    last_n: int = 20


class Dropout(nn.Module):
    """As torch's, from a random byte for each number: less than a third of the time on a CPU.

    `rows` of a batch: the first one that is here, and how many the batch has, of which others have the rest; what is
    drawn is the same wherever it is cut.
    """

    rows: tuple[int, int] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        first, count = self.rows or (0, len(x))
        numel = count * math.prod(x.shape[1:])
        words = torch.empty(-(-numel // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        bytes_ = words.view(torch.uint8)[:numel].view(count, *x.shape[1:])[first : first + len(x)]
        kept = bytes_ >= round(256 * _DROPPED)
        return x * (kept / (1 - _DROPPED))


class Block(nn.Module):
    """Pointwise attention: SiLU in place of a softmax, a learned bias per distance, a gated output, no feed-forward."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads, self.last_n = sizes.heads, sizes.last_n
        self.norm, self.norm_out = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
        self.into, self.out = nn.Linear(sizes.width, 4 * sizes.width), nn.Linear(sizes.width, sizes.width)
        self.distance = nn.Parameter(torch.zeros(sizes.heads, sizes.last_n))
        self.drop = Dropout()

    def forward(self, x: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """The last S positions, as they see all T.

        Shape: x (B, T, width), visible (B, 1, S, T), 0 for what is not seen -> (B, S, width).
        """
        (B, T, C), S = x.shape, visible.shape[2]
        normed, x = self.norm(x), x[:, T - S :]
        u, q = self._project(normed[:, T - S :], _GATE, _QUERY)  # (B, S, C) each
        v, k = self._project(normed, _VALUE, _KEY)  # (B, T, C) each
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, H, S or T, C / H)
        apart = distances(T, x.device)[T - S :].clamp(0, self.last_n - 1)
        attention = F.silu(q @ k.mT + self.distance[:, apart]) * visible  # (B, H, S, T)
        seen = (attention @ v).transpose(1, 2).reshape(B, S, C)
        return x + self.drop(self.out(self.norm_out(seen) * u))

    def _project(self, x: torch.Tensor, *parts: int) -> tuple[torch.Tensor, ...]:
        """Shape: (B, T, width) -> one (B, T, width) for each part of `into`."""
        C, chosen = x.shape[2], list(parts)
        weight, bias = self.into.weight.view(4, C, C)[chosen], self.into.bias.view(4, C)[chosen]
        return F.silu(F.linear(x, weight.flatten(0, 1), bias.flatten())).split(C, dim=2)


class GatedProjection(nn.Linear):
    """Projects an item's vector as far as the gate of each of its parts is open: text, image, audio, a given vector.

    A gate knows the whole vector and which parts are there; before anything is learnt all are open alike.

    Source: Arevalo et al., Gated multimodal units for information fusion, 2017, arXiv:1702.01992.
    """

    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__(sum(widths), width, bias=False)
        self.widths = widths
        self.gates = nn.Linear(sum(widths) + len(widths), len(widths))
        nn.init.zeros_(self.gates.weight)
        nn.init.zeros_(self.gates.bias)

    def opened(self, vectors: torch.Tensor) -> torch.Tensor:
        """How far each gate is open, 1 where nothing is learnt, at most 2; (n, dim) -> (n, parts)."""
        there = [part.abs().amax(-1, keepdim=True) > 0 for part in vectors.split(self.widths, -1)]
        return 2 * torch.sigmoid(self.gates(torch.cat((vectors, *there), -1)))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Shape: (n, dim) -> (n, width)."""
        gates = self.opened(vectors).unbind(-1)
        parts = vectors.split(self.widths, -1)
        return super().forward(torch.cat([part * gate[:, None] for part, gate in zip(parts, gates)], -1))


class Network(nn.Module):
    """From the last events to a vector; its product with an item's vector is the item's score.

    An item is its text, projected, plus an embedding of its own that opens as the item is seen more often. With `facts`
    a history begins with what is known of its user.

    Args:
        parts: the widths of the parts of its vector, where that is of more than its text.
    """

    step: torch.Tensor | None

    def __init__(self, sizes: Sizes, items: int, parts: tuple[int, ...] = (), facts: bool = False) -> None:
        super().__init__()
        self.sizes = sizes
        self.facts = Bag(sizes.width) if facts else None
        alone = nn.Linear(sizes.dim, sizes.width, bias=False)
        self.project = GatedProjection(parts, sizes.width) if parts else alone
        self.ids = nn.Parameter(torch.zeros(items, sizes.width))
        self.register_buffer("step", None)  # (width,), of each dimension of `ids` where these are int8
        self.bias = nn.Parameter(torch.zeros(items))
        self.gate = nn.Parameter(torch.tensor([0.0, 0.5]))
        self.popularity = nn.Parameter(torch.tensor(0.5))
        self.gap, self.action = nn.Embedding(GAPS, sizes.width), nn.Embedding(len(ACTIONS), sizes.width)
        self.start = nn.Parameter(torch.zeros(sizes.width))
        self.norm, self.norm_out = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.drop = Dropout()
        for table in (self.gap, self.action):
            nn.init.normal_(table.weight, std=_SPREAD)

    def items(self, text: torch.Tensor, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Shape: text (n, width), the projected vectors, ids (n, width), counts (n,) -> (n, width)."""
        ids = ids if self.step is None else ids * self.step
        gate = torch.sigmoid(self.gate[0] + self.gate[1] * torch.log1p(counts) - 1)
        return text + gate[:, None] * ids

    def forward(
        self,
        tokens: torch.Tensor,
        gaps: torch.Tensor,
        actions: torch.Tensor,
        kind: torch.Tensor,
        newest: bool = False,
        facts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """A vector for what comes after each position, or with `newest` for what comes after the last one only.

        Shape: tokens (B, T, width) of items; gaps to the next event, actions, kind (B, T); facts (B, F) buckets of the
        user's -> (B, T or 1, width).
        """
        start = self.start
        if self.facts is not None and facts is not None:
            start = start + self.facts(facts)[:, None]
        x = self.norm(tokens) + self.action(actions)
        x = torch.where(kind[..., None] == START, start, x) + self.gap(gaps)
        apart = distances(tokens.shape[1], x.device)
        visible = (apart >= 0) & (apart < self.sizes.last_n) & (kind != NOTHING)[:, None, None, :]
        visible = visible.to(x.dtype) / self.sizes.last_n
        x = self.drop(x)
        for block in self.blocks[:-1]:
            x = block(x, visible)
        return self.norm_out(self.blocks[-1](x, visible[:, :, -1:] if newest else visible))


@torch.no_grad()
def quantise(network: Network) -> None:
    """Hold the items' own vectors in int8, with a step for each dimension, so that rows can be taken as before.

    They are all of the network that grows with the catalogue. The rest, 300 KB, stays float32: its products, a tenth of
    a list's time, were slower in int8 with torchao, and as fast as float32 with ONNX Runtime.
    """
    if network.step is not None:
        return
    largest = network.ids.abs().amax(0) if len(network.ids) else network.ids.new_zeros(network.sizes.width)
    network.step = largest.clamp(min=1e-12) / 127
    network.ids = nn.Parameter((network.ids / network.step).round_().to(torch.int8), requires_grad=False)


def distances(T: int, device: torch.device) -> torch.Tensor:
    """How far each position stands behind each other one.

    Shape: (T, T); negative for those that come later.
    """
    steps = torch.arange(T, device=device)
    return steps[:, None] - steps
