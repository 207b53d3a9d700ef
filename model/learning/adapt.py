"""LoRA on the language model: items that users take one after the other come nearer to each other by their texts.

    what a user had last ─► their texts' vectors, the mean ─┐
    the item that came ───► its text's vector ──────────────┴► softmax over the items that came in the same batch

Adapters of a few thousand numbers a layer are trained and merged into the weights: the result is a folder like any
other encoder's, with a version of its own.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv:2106.09685; Yi et al.,
Sampling-bias-corrected neural modeling, 2019, doi:10.1145/3298689.3346996 (logQ).
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from model.encoder import folder_of
from model.pooling import MeanPooling
from model.schema import POSITIVE, Event, StateError

_TEMPERATURE = 0.05
_CLIP = 1.0
LEAST_PAIRS = 2


@dataclass(frozen=True)
class AdaptConfig:
    """How adapters are trained."""

    rank: int = 8
    rate: float = 5e-4
    steps: int = 100
    batch: int = 32  # pairs in a step
    history: int = 3  # items before the one that came
    max_tokens: int = 64  # of a text
    seed: int = 0


class Pair(NamedTuple):
    """The items that a user had last, the newest last, and the one that came."""

    before: tuple[str, ...]
    came: str


def pairs_of(events: Iterable[Event], texts: Mapping[str, str], history: int) -> list[Pair]:
    """What there is to learn from events in their order; items without a text teach nothing.

    >>> given = [Event(f"e{n}", "u", "view", n, item) for n, item in enumerate(["a", "b", "b", "c"])]
    >>> pairs_of(given, {"a": "A", "b": "B", "c": "C"}, 2)
    [Pair(before=('a',), came='b'), Pair(before=('a', 'b'), came='c')]
    """
    lately: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=history))
    pairs = []
    for event in events:
        item, had = event.item_id or "", lately[event.user_id]
        if event.action not in POSITIVE or not texts.get(item) or item in had:
            continue
        if had:
            pairs.append(Pair(tuple(had), item))
        had.append(item)
    return pairs


def adapt(
    encoder: str | Path,
    pairs: list[Pair],
    texts: Mapping[str, str],
    out: Path,
    config: AdaptConfig = AdaptConfig(),
    device: str = "cpu",
    progress: Callable[[int, int, float], None] = lambda done, of, loss: None,
) -> list[float]:
    """Train adapters on pairs, and write the encoder with them merged into a folder.

    Args:
        encoder: a Hugging Face encoder, a folder or a name.
        texts: of every item in the pairs, by id.
        progress: called with (steps done, of, loss).

    Returns:
        The loss of each step.

    Raises:
        StateError: there are too few pairs, or the encoder has no layer that takes adapters.
    """
    if len(pairs) < LEAST_PAIRS:
        raise StateError(f"{len(pairs)} pairs to adapt to: users with two items that have texts are wanted")
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(config.seed)
    folder = folder_of(encoder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = _with_adapters(AutoModel.from_pretrained(folder, dtype=torch.float32), config).to(device)
    pooled, losses = MeanPooling(model), _Losses(pairs, texts, tokenizer, config, device)
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(adapters, lr=config.rate)
    taken = []
    for step in range(config.steps):
        for group in adam.param_groups:
            group["lr"] = config.rate * (1 - step / config.steps)
        loss = losses.draw(pooled)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapters, _CLIP)
        adam.step()
        taken.append(loss.item())
        progress(step + 1, config.steps, taken[-1])
    merged = model.merge_and_unload()
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return taken


def _with_adapters(model: torch.nn.Module, config: AdaptConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=config.rank, lora_alpha=2 * config.rank, lora_dropout=0.0, target_modules="all-linear")
    try:
        return get_peft_model(model, lora).eval()  # adapters learn, nothing is dropped
    except ValueError as error:
        raise StateError(f"no adapters for this encoder: {str(error)[:200]}") from None


class _Losses:
    """Draws batches of pairs, and says how badly an encoder tells what came."""

    def __init__(
        self, pairs: list[Pair], texts: Mapping[str, str], tokenizer: Any, config: AdaptConfig, device: str
    ) -> None:
        self._pairs, self._texts, self._tokenizer = pairs, texts, tokenizer
        self._config, self._device = config, device
        self._random = np.random.default_rng(config.seed)
        self._came = Counter(one.came for one in pairs)

    def draw(self, encoder: MeanPooling) -> torch.Tensor:
        """The loss on some pairs; an item that a user had, or that came twice in the batch, is no negative."""
        drawn = [self._pairs[at] for at in self._random.integers(0, len(self._pairs), self._config.batch).tolist()]
        items = sorted({item for one in drawn for item in (*one.before, one.came)})
        row = {item: at for at, item in enumerate(items)}
        vectors = encoder(self._tokens([self._texts[item] for item in items]))  # (n, dim)
        had = torch.zeros(len(drawn), len(items), device=self._device)
        for at, one in enumerate(drawn):
            had[at, [row[item] for item in one.before]] = 1.0
        came = torch.tensor([row[one.came] for one in drawn], device=self._device)
        often = torch.tensor([self._came[one.came] / len(self._pairs) for one in drawn], device=self._device)
        users = F.normalize(had @ vectors, dim=1)
        scores = users @ vectors[came].T / _TEMPERATURE - often.log()  # (b, b)
        same = (came[:, None] == came) | (had[:, came] > 0)
        scores = scores.masked_fill(same & ~torch.eye(len(drawn), dtype=torch.bool, device=self._device), -torch.inf)
        return F.cross_entropy(scores, torch.arange(len(drawn), device=self._device))

    def _tokens(self, texts: list[str]) -> dict[str, torch.Tensor]:
        longest = self._config.max_tokens
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return {name: tensor.to(self._device) for name, tensor in tokens.items()}
