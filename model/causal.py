"""A causal language model: prompts in, what it would write next out.

Any Hugging Face folder or name. What all prompts begin with is read once: its keys and values are kept, and every batch
goes on from there. At the start one prompt is answered with and without; where the answers differ, as with networks
that have no such cache, every prompt is read from its beginning.
"""

import copy
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LogitsProcessor, LogitsProcessorList
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.utils import logging as transformers_logging

from model import device as devices
from model.encoder import fingerprint, folder_of

BATCH = 16
PROMPT_TOKENS = 2_048
"""A longer prompt is not read: its answer is empty."""

LIKELIEST = 64
"""So many tokens are looked at first for one that may follow; then the end of the answer, then all others."""

logger = logging.getLogger(__name__)


May = Callable[[int, bytes], bool]
"""Whether the answer to a prompt, by its number, may begin so: UTF-8, which may end within a character."""
_BYTES = {sign: bytes([byte]) for byte, sign in bytes_to_unicode().items()}


def _of(may: May, numbers: Sequence[int], at: int, text: bytes) -> bool:
    return may(numbers[at], text)


def _raw(token: str) -> bytes:
    """The bytes of a token by its name, where each sign of it is a byte, or it is one byte, or text.

    >>> _raw("Ġå").hex(), _raw("<0xE5>").hex(), _raw("東").hex()
    ('20e5', 'e5', 'e69db1')
    """
    if byte := re.fullmatch("<0x([0-9A-F]{2})>", token):
        return bytes.fromhex(byte[1])
    return b"".join(_BYTES.get(sign, sign.encode()) for sign in token)


class Held(LogitsProcessor):
    """Leaves of each row's next tokens the likeliest one with which the answer may go on or end; else its end.

    Args:
        longest: tokens of the prompts.
    """

    def __init__(self, tokenizer: Any, longest: int, ends: list[int], may: May) -> None:
        self._tokenizer, self._longest, self._ends, self._may = tokenizer, longest, ends, may

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Shape: input_ids (B, T), scores (B, tokens) -> (B, tokens)."""
        likeliest = scores.topk(min(LIKELIEST, scores.shape[1])).indices.tolist()
        chosen = [
            self._next(at, row.tolist(), chain(likeliest[at], self._ends, _by_likelihood(scores[at])))
            for at, row in enumerate(input_ids[:, self._longest :])
        ]
        held = torch.full_like(scores, -torch.inf)
        held[torch.arange(len(chosen)), chosen] = 0.0
        return held  # type: ignore[return-value]

    def _next(self, at: int, written: list[int], tokens: Iterable[int]) -> int:
        """A token that is no end and adds nothing, as a special one does, leads nowhere."""
        end, so_far = next(iter(self._ends), 0), self._text(written)
        if written[-1:] != [end] and self._may(at, so_far):
            for token in tokens:
                text = so_far + b"\n" if token in self._ends else self._text([*written, token])
                if text != so_far and self._may(at, text):
                    return token
        return end

    def _text(self, tokens: list[int]) -> bytes:
        """A part of a character is U+FFFD as text, whichever part: then it is what the tokens' names say."""
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            return text.encode()
        last = self._tokenizer.convert_ids_to_tokens(tokens[-1:], skip_special_tokens=True)
        return self._text(tokens[:-1]) + b"".join(map(_raw, filter(None, last)))


def _by_likelihood(scores: torch.Tensor) -> Iterator[int]:
    """All tokens, sorted only where somebody asks."""
    yield from scores.argsort(descending=True).tolist()


class CausalModel:
    """A tokenizer and a network, on their device.

    Args:
        name: a folder, or a name of Hugging Face's hub.
        device: auto, cpu, cuda, cuda:1.

    Attributes:
        version: names the weights.
    """

    def __init__(self, name: str, device: str = "auto") -> None:
        transformers_logging.disable_progress_bar()
        folder = folder_of(name)
        self.version = f"{Path(name).name}-{fingerprint(folder)}"
        self.device = devices.choose(device)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._network: Any = network.eval().to(self.device, devices.dtype(self.device))
        ends = self._network.generation_config.eos_token_id
        self._ends = [ends] if isinstance(ends, int) else list(ends or [])
        if self._tokenizer.eos_token_id is not None and self._tokenizer.eos_token_id not in self._ends:
            self._ends.append(self._tokenizer.eos_token_id)
        self._pad = next(iter([*self._ends, 0]))
        self._cache_name = "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"
        self._head: list[int] = []
        self._kept: DynamicCache | None = None

    def chat(self, turns: Sequence[tuple[str, str]], answer: str) -> str:
        """A prompt: questions with their answers, the last answer only begun.

        A model without a template for chats gets the turns as paragraphs.
        """
        if self._tokenizer.chat_template is None:
            return "\n\n".join(f"{question}\n{reply}" for question, reply in turns)
        messages = []
        for question, reply in turns:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        begun: Any = self._tokenizer.apply_chat_template(
            messages[:-1], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return f"{begun}{answer}"

    def keep_head(self, one: str, another: str, most_tokens: int = 16) -> None:
        """Read what these two prompts, and so all that follow, begin with."""
        self._head, self._kept = [], None
        try:
            ids = self._ids([one, another])
            same = next((at for at, (a, b) in enumerate(zip(*ids)) if a != b), 0)
            alone, kept = self._answers(ids[:1], most_tokens), DynamicCache(config=self._network.config)
            with torch.inference_mode():
                self._network(input_ids=torch.tensor([ids[0][:same]], device=self.device), **{self._cache_name: kept})
            self._head, self._kept = ids[0][:same], kept
            if self._answers(ids[:1], most_tokens) != alone:
                raise ValueError("the answers differ")
        except Exception as error:  # whatever a network that has no such cache makes of it
            logger.warning("every prompt is read from its beginning: %s: %s", type(error).__name__, error)
            self._head, self._kept = [], None

    def write(self, prompts: Sequence[str], most_tokens: int, may: May = lambda at, text: True) -> list[str]:
        """What the model writes next, greedily: for each prompt until its end or so many tokens.

        Args:
            may: whether the answer may begin so, or be so before a line end; asked of the likeliest tokens, one after
                the other. Where none may follow the answer ends.
        """
        ids = self._ids(prompts)
        readable = [at for at, tokens in enumerate(ids) if 0 < len(tokens) <= PROMPT_TOKENS]
        readable.sort(key=lambda at: len(ids[at]))
        texts = [""] * len(ids)
        for start in range(0, len(readable), BATCH):
            batch = readable[start : start + BATCH]
            for at, text in zip(batch, self._answers([ids[at] for at in batch], most_tokens, partial(_of, may, batch))):
                texts[at] = text
        return texts

    def _ids(self, prompts: Sequence[str]) -> list[list[int]]:
        special = self._tokenizer.chat_template is None
        return self._tokenizer(list(prompts), add_special_tokens=special)["input_ids"]

    def _answers(self, ids: list[list[int]], most_tokens: int, may: May = lambda at, text: True) -> list[str]:
        """Shape: (B) lists of tokens, padded on the left, behind the head that is kept."""
        head = len(self._head) if all(one[: len(self._head)] == self._head for one in ids) else 0
        longest = max(map(len, ids))
        rows = [one[:head] + [self._pad] * (longest - len(one)) + one[head:] for one in ids]
        seen = [[1] * head + [0] * (longest - len(one)) + [1] * (len(one) - head) for one in ids]
        given: dict[str, Any] = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(seen)}
        given = {name: tensor.to(self.device) for name, tensor in given.items()}
        if head:
            kept = copy.deepcopy(self._kept)
            assert kept is not None
            kept.batch_repeat_interleave(len(ids))
            given[self._cache_name] = kept
        with torch.inference_mode():
            made = self._network.generate(
                **given, max_new_tokens=most_tokens, do_sample=False, num_beams=1, pad_token_id=self._pad,
                eos_token_id=self._ends or None,
                logits_processor=LogitsProcessorList([Held(self._tokenizer, longest, self._ends, may)]),
            )  # fmt: skip
        return self._tokenizer.batch_decode(made[:, longest:], skip_special_tokens=True)
