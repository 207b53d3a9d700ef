"""How the blend learns: from the signals as they were before an example was counted, new examples and replayed ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from model.catalogue import Catalogue
from model.interest import Rules
from model.learning.adamw import AdamW
from model.learning.config import TrainingConfig
from model.learning.replay import BufferEntry
from model.schema import item_key
from model.score import Scorer
from model.scoring.batch import CONTEXT, excluded_items, open_requests
from model.scoring.ranker import linear
from model.scoring.signals import RETRIEVING, SIGNALS, at

_FIRST_RATE, _RATE, _SETTLED = 6e-3, 2e-3, 5_000  # learning rates, and after how many examples the second one holds
_CLIP = 10.0  # norm of the gradient
_DRAWN = 32  # of the candidates for each example, and as many items of the whole catalogue
_WIDTH = 1 + 2 * _DRAWN
_EXAMPLES, _CELLS = 64, 400_000  # examples, and examples x items, whose signals are computed at once
_FRESH = 4  # a quarter of the examples of every step is new, the others are drawn from those kept
_STEPS = 4  # for as many new examples as fit in one
_MEASURED = 5_000  # examples that the spread of the signals stands for
_PRIOR = 500  # examples that the weights at the start are worth: few new ones do not turn popularity upside down


@dataclass
class RankerExamples:
    """Examples with their signals: the item that came first, then some of the candidates, then some of all items.

    Shape: users (b,) of str; signals (b, _WIDTH, signals) half precision; context (b, CONTEXT); offset (b, _WIDTH), the
    log of how many items each stands for; found (b,) bool, whether what came is a candidate.
    """

    users: np.ndarray
    signals: torch.Tensor
    context: torch.Tensor
    offset: torch.Tensor
    found: torch.Tensor

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, rows: np.ndarray | slice) -> "RankerExamples":
        at = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        return RankerExamples(self.users[rows], self.signals[at], self.context[at], self.offset[at], self.found[at])


_NONE = RankerExamples(
    np.zeros(0, object),
    torch.zeros(0, _WIDTH, len(SIGNALS), dtype=torch.half),
    torch.zeros(0, CONTEXT),
    torch.zeros(0, _WIDTH),
    torch.zeros(0, dtype=torch.bool),
)


class RankerTrainer:
    """Takes steps with a scorer's blend; keeps the newest examples to replay them."""

    def __init__(self, scorer: Scorer, config: TrainingConfig, random: np.random.Generator, rules: Rules) -> None:
        self.config, self.rules = config, rules
        self.kept = _NONE
        self._fresh: list[RankerExamples] = []
        self._scorer, self._random, self._learnt = scorer, random, 0
        self._optimizer = AdamW(scorer.ranker, _FIRST_RATE)
        self._first = [part.mean.detach().clone() for part in (scorer.ranker.find, scorer.ranker.order)]

    def look(self, catalogue: Catalogue, examples: Sequence[BufferEntry], share: float) -> None:
        """Take the signals of a share of these examples; they must not have been counted yet."""
        wanted = [one for one in examples if catalogue.row(item_key(one.example.item_id)) >= 0]
        if share < 1:
            wanted = [one for one in wanted if self._random.random() < share]
        size = max(1, min(_EXAMPLES, _CELLS // max(1, len(catalogue))))
        groups = [self._rank(catalogue, wanted[start : start + size]) for start in range(0, len(wanted), size)]
        self._fresh += [group for group in groups if len(group)]
        while (
            sum(map(len, self._fresh[1:])) >= self.config.max_ranker_examples
        ):  # nobody has asked to learn for a long time
            del self._fresh[0]

    def learn(self, at_least: int = 1) -> None:
        """Take steps on the examples looked at since the last call, once they are enough, and on older ones."""
        if sum(map(len, self._fresh)) >= at_least:
            fresh = joined(self._fresh)
            self._fresh.clear()
            self._measure(fresh)
            self._step(fresh)
            self._learnt += len(fresh)
            self.kept = joined([self.kept, fresh])[-self.config.ranker_replay :]

    def forget(self, user_id: str) -> None:
        """Drop a user's examples."""
        self.kept = _without(self.kept, user_id)
        self._fresh = [group for group in (_without(group, user_id) for group in self._fresh) if len(group)]

    def _measure(self, fresh: RankerExamples) -> None:
        """Let the blend know how far the signals spread."""
        share = len(fresh) / (len(fresh) + min(self._learnt, _MEASURED))
        self._scorer.ranker.measure(fresh.signals[:, 1 : 1 + _DRAWN].float(), share)

    def _step(self, fresh: RankerExamples) -> None:
        batch = self.config.ranker_batch
        new = batch // _FRESH if len(self.kept) else batch
        self._optimizer.lr = _FIRST_RATE if self._learnt < _SETTLED else _RATE
        for _ in range(_STEPS * int(np.ceil(len(fresh) / batch))):
            drawn = [fresh[self._random.integers(0, len(fresh), new)]]
            if new < batch:
                drawn.append(self.kept[self._random.integers(0, len(self.kept), batch - new)])
            self._optimizer.step(self._loss(joined(drawn)), _CLIP)

    def _loss(self, ranked: RankerExamples) -> torch.Tensor:
        """Weights that find look for what came among all items, the others order the candidates where it is one."""
        ranker, signals, context, found = self._scorer.ranker, ranked.signals.float(), ranked.context, ranked.found
        came = torch.zeros(len(ranked), dtype=torch.int64)
        linear = (signals @ (ranker.find(context) * RETRIEVING)[..., None])[..., 0] + ranked.offset  # (b, _WIDTH)
        moved = sum((part.mean - first).square().sum() for part, first in zip((ranker.find, ranker.order), self._first))
        loss = _PRIOR / (_PRIOR + self._learnt) * moved + F.cross_entropy(linear, came)
        if not found.any():
            return loss
        ordered = ranker.ordered(signals[found, : 1 + _DRAWN], context[found]) + ranked.offset[found, : 1 + _DRAWN]
        return loss + F.cross_entropy(ordered, came[: len(ordered)])

    @torch.no_grad()
    def _rank(self, catalogue: Catalogue, examples: Sequence[BufferEntry]) -> RankerExamples:
        """Compute the signals of what came, of the candidates and of some others, where what came could be listed."""
        table, device = self._scorer.table(catalogue), self._scorer.keys.device
        live = self._random.random(len(examples)) < self.config.live
        requests = [one.request(now) for one, now in zip(examples, live.tolist())]
        target = torch.from_numpy(catalogue.rows(item_key(one.example.item_id) for one in examples))
        batch = open_requests(catalogue, requests, self.rules, self._scorer.sizes.last_n, device)
        excluded = excluded_items(batch, len(catalogue))
        allowed = ~excluded.gather(1, target[:, None])[:, 0]
        scored = linear(self._scorer.ranker, table, batch, excluded)
        found = (scored.candidates == target[:, None]).any(1)
        drawn = scored.candidates.gather(1, self._draw(len(target), scored.candidates.shape[1]))
        uniform = self._draw(len(target), len(catalogue))
        offset = offsets(target[:, None], scored.candidates, drawn, uniform, excluded)
        items = torch.cat((target[:, None], drawn, uniform), 1)
        users = np.array([one.example.user_id for one in examples], object)
        ranked = RankerExamples(users, at(table, batch, scored.found, items).half(), batch.context, offset, found)
        return ranked[np.flatnonzero(allowed.numpy())]

    def _draw(self, count: int, among: int) -> torch.Tensor:
        """Shape: (count, _DRAWN) of 0 to among - 1."""
        return torch.from_numpy(self._random.integers(0, among, (count, _DRAWN)))


def _without(ranked: RankerExamples, user_id: str) -> RankerExamples:
    return ranked[np.flatnonzero(ranked.users != user_id)]


def joined(groups: Sequence[RankerExamples]) -> RankerExamples:
    """One group after the other."""
    columns = (
        torch.cat([getattr(group, name) for group in groups]) for name in ("signals", "context", "offset", "found")
    )
    return RankerExamples(np.concatenate([group.users for group in groups]), *columns)


def offsets(
    target: torch.Tensor, candidates: torch.Tensor, drawn: torch.Tensor, uniform: torch.Tensor, excluded: torch.Tensor
) -> torch.Tensor:
    """The log of how many items each stands for, -inf for none: the item that came for itself, those drawn from the
    candidates for all others of them, those drawn from all items for those that are no candidates.

    Shape: target (b, 1), candidates (b, c), drawn, uniform (b, r), excluded (b, n) -> (b, 1 + 2 r).
    """
    (b, n), c, r = excluded.shape, candidates.shape[1], drawn.shape[1]
    is_candidate = torch.zeros(n).expand(b, n).scatter(1, candidates, 1.0).bool()
    of_candidates = torch.full(drawn.shape, np.log(c / r)).masked_fill_(
        excluded.gather(1, drawn) | (drawn == target), -torch.inf
    )
    none = excluded.gather(1, uniform) | is_candidate.gather(1, uniform) | (uniform == target)
    of_all = torch.full(uniform.shape, np.log(n / r)).masked_fill_(none, -torch.inf)
    return torch.cat((torch.zeros(b, 1), of_candidates, of_all), 1)
