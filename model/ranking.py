"""How the blend learns: from the signals as they were before an example was counted, new examples and replayed ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from model.adamw import AdamW
from model.batch import excluded_items, open_requests
from model.blend import linear
from model.catalogue import Catalogue
from model.interest import Rules
from model.memory import Remembered
from model.pace import Pace
from model.schema import item_key
from model.score import Scorer
from model.signals import RETRIEVING, at

_FIRST_RATE, _RATE, _SETTLED = 6e-3, 2e-3, 5_000  # learning rates, and after how many examples the second one holds
_CLIP = 10.0  # norm of the gradient
_UNIFORM = 32  # items drawn from the whole catalogue for each example
_EXAMPLES, _CELLS = 64, 400_000  # examples, and examples x items, whose signals are computed at once
_FRESH = 4  # a quarter of the examples of every step is new, the others are drawn from those kept
_STEPS = 4  # for as many new examples as fit in one
_MEASURED = 5_000  # examples that the spread of the signals stands for
_PRIOR = 500  # examples that the weights at the start are worth: few new ones do not turn popularity upside down


@dataclass
class Ranked:
    """Examples with their signals: the item that came first, then the candidates, then items drawn from all.

    Shape: users (b,) of str; signals (b, 1 + c + r, signals) half precision; context (b, CONTEXT); offset (b, 1 + c + r), the
    log of how many items each stands for; label (b,), the place of the item that came.
    """

    users: np.ndarray
    signals: torch.Tensor
    context: torch.Tensor
    offset: torch.Tensor
    label: torch.Tensor

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, rows: np.ndarray | slice) -> "Ranked":
        at = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        return Ranked(self.users[rows], self.signals[at], self.context[at], self.offset[at], self.label[at])


_NONE = Ranked(np.zeros(0, object), *(torch.zeros(0, 0) for _ in range(4)))


class BlendLearner:
    """Takes steps with a scorer's blend; keeps the newest examples to replay them."""

    def __init__(self, scorer: Scorer, pace: Pace, random: np.random.Generator, rules: Rules, exclude_consumed: bool) -> None:
        self.pace, self.rules, self.exclude_consumed = pace, rules, exclude_consumed
        self.kept = _NONE
        self._fresh: list[Ranked] = []
        self._scorer, self._random, self._learnt = scorer, random, 0
        self._optimizer = AdamW(scorer.blend, _FIRST_RATE)
        self._first = [part.mean.detach().clone() for part in (scorer.blend.find, scorer.blend.order)]

    def look(self, catalogue: Catalogue, examples: Sequence[Remembered], share: float) -> None:
        """Take the signals of a share of these examples; they must not have been counted yet."""
        wanted = [one for one in examples if catalogue.row(item_key(one.example.item_id)) >= 0]
        if share < 1:
            wanted = [one for one in wanted if self._random.random() < share]
        size = max(1, min(_EXAMPLES, _CELLS // max(1, len(catalogue))))
        groups = [self._rank(catalogue, wanted[start : start + size]) for start in range(0, len(wanted), size)]
        self._fresh += [group for group in groups if len(group)]

    def learn(self, at_least: int = 1) -> None:
        """Take steps on the examples that were looked at since the last call, once they are enough, and on some from before."""
        if sum(map(len, self._fresh)) >= at_least:
            width = self._fresh[-1].signals.shape[1]  # grows as long as the catalogue is smaller than the candidates
            fresh = joined([group for group in self._fresh if group.signals.shape[1] == width])
            self._fresh.clear()
            kept = self.kept if self.kept.signals.shape[1] == width else fresh[:0]
            self._measure(fresh)
            self._step(fresh, kept)
            self._learnt += len(fresh)
            self.kept = joined([kept, fresh])[-self.pace.kept_ranked :]

    def forget(self, user_id: str) -> None:
        """Drop a user's examples."""
        self.kept = _without(self.kept, user_id)
        self._fresh = [group for group in (_without(group, user_id) for group in self._fresh) if len(group)]

    def _measure(self, fresh: Ranked) -> None:
        """Let the blend know how far the signals spread."""
        share = len(fresh) / (len(fresh) + min(self._learnt, _MEASURED))
        self._scorer.blend.measure(fresh.signals[:, 1:-_UNIFORM].float(), share)

    def _step(self, fresh: Ranked, kept: Ranked) -> None:
        batch = self.pace.ranked_batch
        new = batch // _FRESH if len(kept) else batch
        self._optimizer.lr = _FIRST_RATE if self._learnt < _SETTLED else _RATE
        for _ in range(_STEPS * int(np.ceil(len(fresh) / batch))):
            drawn = [fresh[self._random.integers(0, len(fresh), new)]]
            if new < batch:
                drawn.append(kept[self._random.integers(0, len(kept), batch - new)])
            self._optimizer.step(self._loss(joined(drawn)), _CLIP)

    def _loss(self, ranked: Ranked) -> torch.Tensor:
        """Weights that find have to find what came among all items, the others to order the candidates where it is one of them."""
        blend, signals, context = self._scorer.blend, ranked.signals.float(), ranked.context
        linear = (signals @ (blend.find(context) * RETRIEVING)[..., None])[..., 0] + ranked.offset  # (b, 1 + c + r)
        moved = sum((part.mean - first).square().sum() for part, first in zip((blend.find, blend.order), self._first))
        loss = _PRIOR / (_PRIOR + self._learnt) * moved + F.cross_entropy(linear, ranked.label)
        candidates, found = slice(1, signals.shape[1] - _UNIFORM), (ranked.label > 0).nonzero()[:, 0]
        if not len(found):
            return loss
        ordered = blend.ordered(signals[found, candidates], context[found]) + ranked.offset[found, candidates]
        return loss + F.cross_entropy(ordered, ranked.label[found] - 1)

    @torch.no_grad()
    def _rank(self, catalogue: Catalogue, examples: Sequence[Remembered]) -> Ranked:
        """Compute the signals of what came, of the candidates and of some other items, where what came could be on a list."""
        table, device = self._scorer.table(catalogue), self._scorer.keys.device
        live = self._random.random(len(examples)) < self.pace.live
        requests = [one.request(now) for one, now in zip(examples, live.tolist())]
        target = torch.from_numpy(catalogue.rows(item_key(one.example.item_id) for one in examples))
        excluded = excluded_items(catalogue, requests, self.exclude_consumed, device)
        allowed = ~excluded.gather(1, target[:, None])[:, 0]
        batch = open_requests(catalogue, requests, self.rules, self._scorer.sizes.last_n, device)
        scored = linear(self._scorer.blend, table, batch, excluded)
        drawn = torch.from_numpy(self._random.integers(0, len(catalogue), (len(target), _UNIFORM)))
        items = torch.cat((target[:, None], scored.candidates, drawn), 1)
        offset, label = _offsets(items, scored.candidates, drawn, excluded)
        users = np.array([one.example.user_id for one in examples], object)
        ranked = Ranked(users, at(table, batch, scored.found, items).half(), batch.context, offset, label)
        return ranked[np.flatnonzero(allowed.numpy())]


def _without(ranked: Ranked, user_id: str) -> Ranked:
    return ranked[np.flatnonzero(ranked.users != user_id)]


def joined(groups: Sequence[Ranked]) -> Ranked:
    """One group after the other; they must be equally wide."""
    columns = (torch.cat([getattr(group, name) for group in groups]) for name in ("signals", "context", "offset", "label"))
    return Ranked(np.concatenate([group.users for group in groups]), *columns)


def _offsets(
    items: torch.Tensor, candidates: torch.Tensor, drawn: torch.Tensor, excluded: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The log of how many items each stands for (-inf: none), and the place of the item that came.

    Shape: items (b, 1 + c + r) = target, candidates (b, c), drawn (b, r); excluded (b, n) -> (b, 1 + c + r), (b,).
    """
    (b, n), c, target = excluded.shape, candidates.shape[1], items[:, :1]
    offset = torch.zeros(items.shape)
    offset[:, 1 + c :] = np.log(max(n - c, 1) / _UNIFORM)
    hit = candidates == target
    label = torch.where(hit.any(1), hit.int().argmax(1) + 1, 0)
    offset[hit.any(1), 0] = -torch.inf
    offset[:, 1:].masked_fill_(excluded.gather(1, items[:, 1:]), -torch.inf)
    is_candidate = torch.zeros(n).expand(b, n).scatter(1, candidates, 1.0).bool()
    offset[:, 1 + c :].masked_fill_(is_candidate.gather(1, drawn) | (drawn == target), -torch.inf)
    return offset, label
