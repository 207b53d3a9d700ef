"""BERT(u, i, t): a cross-encoder that reads what the user did lately and an item's text together.

    last events, as text ─┐
                          ├─► one sequence ─► encoder ─► means of both parts ─► linear head ─► g(u, i, t)
    text of the item ─────┘
    P of the first N: their mass stays; it is shared by softmax(ranker's log score + mix · g)

A version holds what was trained: the head, the encoder's last layer and the learnt weight `mix`. The rest of the
encoder is one for all versions of a process (`CrossEncoder`). It is imported only where `joint_first` is above 0.

Source: Nogueira and Cho, Passage Re-ranking with BERT, 2019, arXiv:1901.04085.
"""

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from model import device as devices
from model import interest
from model.bounds import JointConfig
from model.catalogue import Catalogue
from model.encoder import fingerprint, folder_of, unreadable
from model.interest import ACTIONS
from model.schema import Request
from model.scoring.ranker import Scored

EVENTS, EVENT_CHARS, ITEM_CHARS = 5, 60, 160
"""How much is read: the newest events, and characters of an event's and of the item's text."""
HISTORY_TOKENS, ITEM_TOKENS = 32, 16
"""What is left of both texts; a pair has three tokens more in most encoders."""
_KEPT_TEXTS = 100_000
"""So many texts of items have their tokens kept, about 300 bytes each."""
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
Weights = dict[str, torch.Tensor]
Tokens = tuple[list[int], list[int]]
"""Of a pair: the ids of the first and of the second text."""
Texts = Mapping[int, str]
"""By `item_key`, the text of an item."""


def age(seconds: float) -> str:
    """How long ago, in words.

    >>> age(5), age(90), age(200_000)
    ('now', '1 minute ago', '2 days ago')
    """
    for unit, name in _UNITS:
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "now"


def history(request: Request, texts: Texts) -> str:
    """What the user did lately, as text, the newest first; empty where no text of it is known.

    Action and age stand where they change: `rating, now: Heat; Up; click, 2 days ago: Brazil`.
    """
    known = interest.decode(request.interests)
    said: list[str] = []
    before = ""
    for key, action, time_ms in zip(known.item_keys[::-1], known.actions[::-1], known.times_ms[::-1]):
        if text := texts.get(int(key)):
            ago = age((request.event_time_ms - int(time_ms)) / 1_000)
            how = f"{ACTIONS[int(action)]}, {ago}: "
            said.append(("" if how == before else how) + text[:EVENT_CHARS])
            before = how
        if len(said) == EVENTS:
            break
    return "; ".join(said)


class Frame(NamedTuple):
    """What a tokenizer puts around the two texts of a pair; `types` are the types of both, where it has some."""

    before: list[int]
    between: list[int]
    after: list[int]
    pad: int
    types: tuple[int, int] | None

    @staticmethod
    def of(tokenizer: Any) -> "Frame":
        """Read off a pair: what is neither of the first text nor of the second."""
        found = tokenizer("1", "2")
        ids, parts = found["input_ids"], found.sequence_ids(0)
        ends = [(parts.index(part), len(parts) - parts[::-1].index(part)) for part in (0, 1)]
        (left, left_end), (right, right_end) = ends
        types = found.get("token_type_ids")
        return Frame(
            ids[:left],
            ids[left_end:right],
            ids[right_end:],
            tokenizer.pad_token_id or 0,
            None if types is None else (types[left], types[right]),
        )


class CrossEncoder:
    """A Hugging Face encoder that reads pairs of texts, loaded when it is first needed.

    `version` names its weights: what was trained on top of others does not fit.
    """

    def __init__(self, config: JointConfig) -> None:
        self.config = config
        self._folder = folder_of(config.encoder)
        self.version = f"{Path(config.encoder).name}-{fingerprint(self._folder)}"
        self.dim = int(json.loads((self._folder / "config.json").read_text())["hidden_size"])
        self.device = devices.choose("cpu" if config.precision == "int8" else config.device)
        self._of_item: dict[str, list[int]] = {}

    @property
    def precision(self) -> str:
        """In which lists are made: `auto` is half on a card, int8 on a CPU that torch has kernels for."""
        wanted = self.config.precision
        if wanted == "auto" and self.device.type == "cpu" and torch.backends.quantized.engine != "none":
            wanted = "int8"
        return wanted

    @cached_property
    def tokenizer(self) -> Any:
        """Raises a ValueError where it has no fast form, which tells the two texts of a pair."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self._folder)
        if not tokenizer.is_fast:
            raise ValueError(f"{self._folder}: its tokenizer has no fast form (tokenizer.json), which is wanted")
        return tokenizer

    @cached_property
    def model(self) -> nn.Module:
        from transformers import AutoModel

        model = AutoModel.from_pretrained(self._folder, dtype=torch.float32).eval().to(self.device)
        return model.requires_grad_(False)

    @cached_property
    def trained_names(self) -> list[str]:
        """The parameters of the encoder's last layer: of the longest list of modules, the last."""
        lists = {name: part for name, part in self.model.named_modules() if isinstance(part, nn.ModuleList)}
        name, layers = max(lists.items(), key=lambda one: len(one[1]))
        begin = f"{name}.{len(layers) - 1}."
        return [parameter for parameter, _ in self.model.named_parameters() if parameter.startswith(begin)]

    def begin(self) -> Weights:
        """What training sets out from: the encoder as it is, and a head that says nothing."""
        of_model = dict(self.model.named_parameters())
        weights = {f"model.{name}": of_model[name].detach().clone() for name in self.trained_names}
        head = {"head.weight": torch.zeros(2 * self.dim), "head.bias": torch.zeros(()), "mix": torch.zeros(())}
        return weights | {name: tensor.to(self.device) for name, tensor in head.items()}

    @cached_property
    def frame(self) -> Frame:
        return Frame.of(self.tokenizer)

    def encoded(self, pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
        """The tokens of pairs of texts; a history is read once a call, an item's text once for all calls."""
        histories = list(dict.fromkeys(did for did, _ in pairs))
        of_history = dict(zip(histories, self._ids(histories, HISTORY_TOKENS)))
        new = [text for text in dict.fromkeys(text for _, text in pairs) if text not in self._of_item]
        if len(self._of_item) + len(new) > _KEPT_TEXTS:
            self._of_item, new = {}, list(dict.fromkeys(text for _, text in pairs))
        self._of_item |= zip(new, self._ids(new, ITEM_TOKENS))
        return [(of_history[did], self._of_item[text]) for did, text in pairs]

    def _ids(self, texts: list[str], most: int) -> list[list[int]]:
        if not texts:
            return []
        found = self.tokenizer(texts, add_special_tokens=False, truncation=True, max_length=most)
        return found["input_ids"]

    def batch(self, pairs: Sequence[Tokens]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Shape: each of (pairs, tokens); parts (pairs, 2, tokens): which tokens are of the first and second text."""
        frame = self.frame
        rows = [frame.before + left + frame.between + right + frame.after for left, right in pairs]
        ends = np.array([len(row) for row in rows])[:, None]
        lefts = len(frame.before) + np.array([len(left) for left, _ in pairs])[:, None]
        ids, at = np.full((len(rows), int(ends.max())), frame.pad), np.arange(ends.max())
        ids[at < ends] = list(chain.from_iterable(rows))
        rights = lefts + len(frame.between)
        first, second = (at >= len(frame.before)) & (at < lefts), (at >= rights) & (at < ends - len(frame.after))
        given = {"input_ids": ids, "attention_mask": (at < ends).astype(np.int64)}
        if frame.types is not None:
            given["token_type_ids"] = np.where((at >= rights) & (at < ends), frame.types[1], frame.types[0])
        parts = torch.from_numpy(np.stack((first, second), 1).astype(np.float32))
        return {name: torch.from_numpy(array).to(self.device) for name, array in given.items()}, parts.to(self.device)

    def logits(self, weights: Weights, pairs: Sequence[Tokens], model: nn.Module | None = None) -> torch.Tensor:
        """g of pairs that go through the encoder together; (pairs,).

        Args:
            model: one that has the weights already.
        """
        tokens, parts = self.batch(pairs)
        if model is None:
            own = {name: weights[f"model.{name}"] for name in self.trained_names}
            hidden = functional_call(self.model, own, kwargs=tokens).last_hidden_state
        else:
            hidden = model(**tokens).last_hidden_state
        user, item = nn.functional.normalize(parts @ hidden.float(), dim=2).unbind(1)
        scale = self.dim**0.5  # of unit vectors, so that the head's inputs are about 1
        return torch.cat((user * item * scale**2, item * scale), 1) @ weights["head.weight"] + weights["head.bias"]


@lru_cache(maxsize=1)
def open_encoder(config: JointConfig) -> CrossEncoder:
    """The encoder with its tokenizer, a first pair read by it: what else would fail does so here, before the work.

    Raises:
        EncoderError: it is none.
    """
    try:
        encoder = CrossEncoder(config)
        with torch.no_grad():
            encoder.logits(encoder.begin(), encoder.encoded([("one", "other")]))
    except Exception as error:  # transformers', the hub's, the file system's
        raise unreadable("joint_encoder", config.encoder, "an encoder with its tokenizer", error) from error
    return encoder


class Joint:
    """One version of the joint scorer: a shared encoder, the weights that were trained, and the items' texts."""

    def __init__(self, encoder: CrossEncoder, weights: Weights, texts: Texts) -> None:
        self.encoder, self.weights, self.texts = encoder, weights, texts
        self._serving: nn.Module | None = None

    def __deepcopy__(self, memo: dict) -> "Joint":
        return Joint(self.encoder, {name: tensor.clone() for name, tensor in self.weights.items()}, self.texts)

    def _model(self) -> nn.Module:
        """The encoder with this version's weights in the precision that serves: half on a card, or int8."""
        if self._serving is None:
            model, precision = copy.deepcopy(self.encoder.model), self.encoder.precision
            trained = {name.removeprefix("model."): tensor for name, tensor in self.weights.items()}
            model.load_state_dict({name: trained[name] for name in self.encoder.trained_names}, strict=False)
            if precision == "int8":
                with warnings.catch_warnings():  # torch means to move it to a package of its own
                    warnings.simplefilter("ignore")
                    model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
            else:
                model = model.to(devices.dtype(self.encoder.device, precision))
            self._serving = model
        return self._serving

    @torch.inference_mode()
    def logits(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """g of pairs of texts, in batches of like length; (pairs,) float32."""
        tokens, size = self.encoder.encoded(pairs), 2 * devices.batch_size(self.encoder.device)
        order = sorted(range(len(pairs)), key=lambda at: len(tokens[at][0]) + len(tokens[at][1]))
        batches = [[tokens[at] for at in order[start : start + size]] for start in range(0, len(order), size)]
        logits = [self.encoder.logits(self.weights, batch, self._model()).float() for batch in batches]
        found = np.zeros(len(pairs), np.float32)
        if logits:
            found[order] = torch.cat(logits).cpu().numpy()
        return found

    def reranked(
        self, scored: Scored, draw: torch.Tensor, requests: Sequence[Request], catalogue: Catalogue
    ) -> torch.Tensor:
        """The scores, with those of the first N shared anew; their total mass is the same.

        A user of whom nothing is known that has a text, and a list that is not drawn, keep theirs. An item without a
        text has the mean of the others.

        Shape: scores (B, c), draw (B,) from 0 to 1 -> (B, c).
        """
        scores = scored.scores.clone()
        mix = float(self.weights["mix"])
        first = min(self.encoder.config.first, scores.shape[1])
        if not mix or first < 2:
            return scores
        best = scores.topk(first).indices
        keys = catalogue.keys[scored.rows.gather(1, best).numpy()]
        pairs, places = self._pairs(requests, draw.numpy(), keys)
        if not pairs:
            return scores
        g = np.full(best.shape, np.nan, np.float32)
        g[tuple(np.array(places).T)] = self.logits(pairs)
        for b in sorted({place[0] for place in places}):
            logits = torch.from_numpy(g[b]).nan_to_num(float(np.nanmean(g[b])))
            scores[b, best[b]] = shared(scores[b, best[b]], logits, mix)
        return scores

    def _pairs(
        self, requests: Sequence[Request], draw: np.ndarray, keys: np.ndarray
    ) -> tuple[list[tuple[str, str]], list[tuple[int, int]]]:
        pairs, places = [], []
        for b, request in enumerate(requests):
            did = history(request, self.texts) if draw[b] < self.encoder.config.share else ""
            for at, key in enumerate(keys[b].tolist() if did else ()):
                if text := self.texts.get(key):
                    pairs.append((did, text[:ITEM_CHARS]))
                    places.append((b, at))
        return pairs, places


def shared(scores: torch.Tensor, logits: torch.Tensor, mix: float) -> torch.Tensor:
    """The log scores of some items, their sum of exponentials shared by softmax(score + mix · g); (N,) each -> (N,).

    >>> before = torch.tensor([0.0, -1.0])
    >>> after = shared(before, torch.tensor([-2.0, 2.0]), 1.0)
    >>> bool(after[1] > after[0]), bool(torch.isclose(after.logsumexp(0), before.logsumexp(0)))
    (True, True)
    """
    if scores.isneginf().all():
        return scores
    return torch.log_softmax(scores + mix * logits, 0) + scores.logsumexp(0)
