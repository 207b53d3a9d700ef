"""Training of the joint scorer: the lists that the ranker made before an example came, and what came.

    example ─► its list, before it is counted (`look`) ─► later: Adam on pairs, then `mix` on whole lists (`learn`)

The head and the last layer learn to tell what came from what else the list held; `mix`, how much that says beside the
ranker's log score, is fitted on the lists that held what came, before the encoder has learnt from them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from model.catalogue import Catalogue
from model.interest import Rules
from model.learning.replay import BufferEntry
from model.schema import item_key
from model.score import Scorer, score
from model.scoring.joint import ITEM_CHARS, CrossEncoder, Joint, Texts, history
from model.statistics import ItemStatistics

LISTS, LISTS_ON_A_CARD, BATCH, NEGATIVES = 64, 512, 8, 7
"""Lists that one fine-tuning learns from at most, lists in a step, and items beside what came in each."""
RATE, HEAD_RATE, MIX_RATE = 1e-4, 1e-3, 0.02
MIX_LISTS, MIX_STEPS, MOST_MIX = 512, 20, 2.0
LEAST_SEEN = 500
"""Before so many examples the ranker's lists say little."""


class Looked(NamedTuple):
    """A list as it was before an example came; `scores` (n,) are log probabilities, `target` -1 where it did not hold
    what came.
    """

    user_id: str
    did: str
    texts: list[str]
    scores: np.ndarray
    came: str
    target: int


class JointTrainer:
    """Learns weights of the joint scorer as a stream goes on, by the loss of its configuration: `bce`, what came
    against each of the others, or `listwise`, a softmax over them.
    """

    def __init__(
        self,
        encoder: CrossEncoder,
        texts: Texts,
        random: np.random.Generator,
        rules: Rules = Rules(),
    ) -> None:
        self.encoder, self.texts, self._random, self._rules = encoder, texts, random, rules
        self._most = LISTS if encoder.device.type == "cpu" else LISTS_ON_A_CARD
        self._waiting: list[Looked] = []
        self._judged: list[tuple[str, np.ndarray, np.ndarray, int]] = []  # user, scores, g, target
        self.resume(None)

    def resume(self, trained: Joint | None) -> None:
        """Go on from a version; from the beginning where there is none."""
        begun = self.encoder.begin() if trained is None else trained.weights
        self.weights = {name: tensor.detach().clone().requires_grad_(name != "mix") for name, tensor in begun.items()}
        groups = [
            {"params": [one for name, one in self.weights.items() if name.startswith("model.")], "lr": RATE},
            {"params": [one for name, one in self.weights.items() if name.startswith("head.")], "lr": HEAD_RATE},
        ]
        self._adam = torch.optim.Adam(groups)
        self._judged = []

    def forget(self, user_id: str) -> None:
        self._waiting = [one for one in self._waiting if one.user_id != user_id]
        self._judged = [one for one in self._judged if one[0] != user_id]

    def look(
        self, scorer: Scorer, statistics: ItemStatistics, catalogue: Catalogue, examples: Sequence[BufferEntry]
    ) -> None:
        """Keep the lists of some examples that are about to be counted."""
        room = self._most - len(self._waiting)
        if statistics.seen < LEAST_SEEN or not scorer.is_trained or not examples or room < 1:
            return
        most = max(1, min(room, self._most // 4, len(examples)))
        chosen = [examples[at] for at in self._random.choice(len(examples), most, replace=False)]
        requests = [one.request(live=True) for one in chosen]
        first = self.encoder.config.first
        lists = score(scorer, statistics, catalogue, requests, first, self._rules, explained=False)
        for one, request, list_ in zip(chosen, requests, lists):
            came, did = self.texts.get(item_key(one.example.item_id)), history(request, self.texts)
            ids = [item.item_id for item in list_]
            texts = [self.texts.get(item_key(name), "")[:ITEM_CHARS] for name in ids]
            if came and did and len(ids) > 1:
                target = ids.index(one.example.item_id) if one.example.item_id in ids else -1
                scores = np.log(np.maximum([item.probability for item in list_], 1e-12)).astype(np.float32)
                self._waiting.append(Looked(request.user_id, did, texts, scores, came[:ITEM_CHARS], target))

    def learn(self) -> None:
        """Judge the lists that wait, then learn from them; `mix` follows from the newest lists that were judged."""
        waiting, self._waiting = self._waiting, []
        if self.weights["head.weight"].any():
            self._judge([one for one in waiting if one.target >= 0])
        self._judged = self._judged[-MIX_LISTS:]
        self._fit_mix()
        for start in range(0, len(waiting), BATCH):
            self._step(waiting[start : start + BATCH])

    def _judge(self, lists: Sequence[Looked]) -> None:
        g = self.version().logits([(one.did, text) for one in lists for text in one.texts])
        ends = np.cumsum([len(one.texts) for one in lists])
        self._judged += [
            (one.user_id, one.scores, g[end - len(one.texts) : end], one.target) for one, end in zip(lists, ends)
        ]

    def version(self) -> Joint:
        """What is learnt by now, to serve."""
        return Joint(self.encoder, {name: one.detach().clone() for name, one in self.weights.items()}, self.texts)

    def _step(self, lists: Sequence[Looked]) -> None:
        pairs, labels = [], []
        for one in lists:
            others = [text for at, text in enumerate(one.texts) if at != one.target and text]
            drawn = self._random.permutation(len(others))[:NEGATIVES]
            pairs += [(one.did, one.came), *((one.did, others[at]) for at in drawn)]
            labels.append(1 + len(drawn))
        logits = self.encoder.logits(self.weights, self.encoder.encoded(pairs))
        parts = logits.split(labels)
        if self.encoder.config.loss == "listwise":
            loss = torch.stack([part.logsumexp(0) - part[0] for part in parts]).mean()
        else:
            came = torch.cat([F.one_hot(torch.tensor(0), size).float() for size in labels]).to(logits.device)
            loss = F.binary_cross_entropy_with_logits(logits, came)
        self._adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([one for one in self.weights.values() if one.requires_grad], 1.0)
        self._adam.step()

    def _fit_mix(self) -> None:
        """Find the weight of g under which what came is likeliest, a list at a time; 0 to MOST_MIX."""
        if not self._judged:
            return
        grid = np.linspace(0.0, MOST_MIX, MIX_STEPS + 1)
        losses = np.zeros(len(grid))
        for _, scores, g, target in self._judged:
            mixed = scores[None] + grid[:, None] * g[None]
            losses += np.logaddexp.reduce(mixed, axis=1) - mixed[:, target]
        self.weights["mix"].fill_(float(grid[losses.argmin()]))
