"""How the blend learns: from the signals as they were before an example was counted, new examples and replayed ones."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from model.catalogue import Catalogue
from model.facts import COLUMNS as FACTS
from model.interest import Rules
from model.learning import laplace
from model.learning.adamw import AdamW
from model.learning.config import TrainingConfig
from model.learning.replay import BufferEntry
from model.schema import item_key
from model.score import Scorer
from model.scoring.batch import CONTEXT, open_requests
from model.scoring.candidates import Candidates, at_columns
from model.scoring.ranker import Found, find
from model.scoring.signals import of_the_best
from model.signals import FINDING
from model.statistics import ItemStatistics

_FIRST_RATE, _RATE, _SETTLED = 6e-3, 2e-3, 5_000  # learning rates, and after how many examples the second one holds
_TEMPERATURES = (0.1, 10.0)  # the least and the largest
_CLIP = 10.0  # norm of the gradient
_DRAWN = 32  # of the candidates for each example, and as many items of the whole catalogue
_WIDTH = 1 + 2 * _DRAWN
_EXAMPLES = 64  # whose signals are computed at once
_FRESH = 4  # a quarter of the examples of every step is new, the others are drawn from those kept
_STEPS = 4  # for as many new examples as fit in one
_MEASURED = 5_000  # examples that the spread of the signals stands for
_PRIOR = 500  # examples that the weights at the start are worth: few new ones do not turn popularity upside down


COLUMNS = ("signals", "context", "offset", "found")


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


def no_examples(signals: int, context: int = CONTEXT) -> RankerExamples:
    """None, of so many signals and numbers of a context."""
    nothing = torch.zeros(0, _WIDTH, signals, dtype=torch.half)
    of_lists = torch.zeros(0, context), torch.zeros(0, _WIDTH), torch.zeros(0, dtype=torch.bool)
    return RankerExamples(np.zeros(0, object), nothing, *of_lists)


class RankerTrainer:
    """Takes steps with a scorer's ranker, where its network is; keeps the newest examples to replay them.

    It learns with a ranker of its own, from which the scorer's takes what was learnt. The examples are kept on the CPU:
    a card gets those of a step.
    """

    def __init__(self, scorer: Scorer, config: TrainingConfig, random: np.random.Generator, rules: Rules) -> None:
        self.config, self.rules = config, rules
        self.kept = no_examples(len(scorer.ranker.names), CONTEXT + (0 if scorer.facts is None else FACTS))
        self._fresh: list[RankerExamples] = []
        self._scorer, self._random, self._learnt = scorer, random, 0
        self._ranker, self._device = copy.deepcopy(scorer.ranker).to(scorer.device), scorer.device
        self._optimizer = AdamW(self._ranker, _FIRST_RATE)
        self._finding = torch.tensor([name in FINDING for name in scorer.ranker.names])
        self._uncertain = False
        self._first = [part.mean.detach().clone() for part in (self._ranker.find, self._ranker.order)]

    def look(
        self, statistics: ItemStatistics, catalogue: Catalogue, examples: Sequence[BufferEntry], share: float
    ) -> None:
        """Take the signals of a share of these examples; they must not have been counted yet."""
        wanted = [one for one in examples if catalogue.row(item_key(one.example.item_id)) >= 0]
        if share < 1:
            wanted = [one for one in wanted if self._random.random() < share]
        parts = [wanted[start : start + _EXAMPLES] for start in range(0, len(wanted), _EXAMPLES)]
        groups = [self._rank(statistics, catalogue, part) for part in parts]
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
            self._calibrate(fresh)
            self._step(fresh)
            self._observe(fresh)
            self._scorer.ranker.load_state_dict(self._ranker.state_dict())
            self._learnt += len(fresh)
            self.kept = joined([self.kept, fresh])[-self.config.ranker_replay :]

    def keep_precision(self) -> None:
        """Learn how sure the weights are too, from now on."""
        self._uncertain = True
        if self._scorer.precision is None:
            self._scorer.precision = laplace.begin(len(self._ranker.names))

    @torch.no_grad()
    def _observe(self, fresh: RankerExamples) -> None:
        precision = self._scorer.precision
        if not self._uncertain or precision is None:
            return
        fresh = fresh[torch.where(fresh.found)[0].numpy()]
        for start in range(0, len(fresh), self.config.ranker_batch):
            part = fresh[start : start + self.config.ranker_batch]
            signals, offset = part.signals[:, : 1 + _DRAWN].to(self._device).float(), part.offset[:, : 1 + _DRAWN]
            logits = self._ranker.ordered(signals, part.context.to(self._device)) + offset.to(self._device)
            precision = laplace.observed(precision, signals, logits)
        self._scorer.precision = precision

    def forget(self, user_id: str) -> None:
        """Drop a user's examples."""
        self.kept = _without(self.kept, user_id)
        self._fresh = [group for group in (_without(group, user_id) for group in self._fresh) if len(group)]

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What a trainer of the same scorer goes on from: tensors, and JSON values."""
        tensors = self._optimizer.state() | {f"first.{at}": one for at, one in enumerate(self._first)}
        users = {}
        for name, group in (("kept", self.kept), ("fresh", joined([no_examples(self._width), *self._fresh]))):
            tensors |= {f"{name}.{column}": getattr(group, column) for column in COLUMNS}
            users[name] = group.users.tolist()
        return tensors, {"learnt": self._learnt, "users": users}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Go on with what `state` gave.

        Raises:
            KeyError, ValueError: it is of another ranker.
        """
        groups = {}
        for name, users in about["users"].items():
            columns = [tensors[f"{name}.{column}"] for column in COLUMNS]
            if columns[0].shape[2] != self._width or any(len(one) != len(users) for one in columns):
                raise ValueError("examples of other signals")
            groups[name] = RankerExamples(np.array(users, object), *columns)
        self._optimizer.restore(tensors)
        self._first = [tensors[f"first.{at}"].to(self._device) for at in range(len(self._first))]
        self.kept, self._learnt = groups["kept"], int(about["learnt"])
        self._fresh = [groups["fresh"]] if len(groups["fresh"]) else []

    @property
    def _width(self) -> int:
        """Signals of an example."""
        return self.kept.signals.shape[2]

    def _measure(self, fresh: RankerExamples) -> None:
        """Let the ranker know how far the signals spread."""
        share = len(fresh) / (len(fresh) + min(self._learnt, _MEASURED))
        self._ranker.measure(fresh.signals[:, 1 : 1 + _DRAWN].to(self._device).float(), share)

    @torch.no_grad()
    def _calibrate(self, fresh: RankerExamples) -> None:
        """Let the temperatures follow examples that nothing has been learnt from: a Newton step each on their loss."""
        share = len(fresh) / (len(fresh) + min(self._learnt, _MEASURED))
        for at, (scores, offset) in enumerate(self._scores(fresh)):
            temperature = self._ranker.temperature[at]
            chance = (temperature * scores + offset).softmax(1)
            mean = (chance * scores).sum(1)
            slope, bend = (mean - scores[:, 0]).mean(), ((chance * scores**2).sum(1) - mean**2).mean()
            if bend > 0:
                temperature.sub_(share * slope / bend).clamp_(*_TEMPERATURES)

    def _scores(self, ranked: RankerExamples) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The scores of all, by the weights that find, and those of the candidates where what came is one, with their
        offsets; what came is the first column.
        """
        ranker, parts = self._ranker, (ranked.signals, ranked.context, ranked.offset, torch.where(ranked.found)[0])
        signals, context, offset, found = (part.to(self._device) for part in parts)
        signals = signals.float()
        finding = ranker.find(context) * self._finding.to(self._device)
        scores = [((signals @ finding[..., None])[..., 0], offset)]  # (b, _WIDTH)
        if len(found):
            few = signals[found, : 1 + _DRAWN], context[found]
            scores.append((ranker.ordered(*few), offset[found, : 1 + _DRAWN]))
        return scores

    def _step(self, fresh: RankerExamples) -> None:
        batch = self.config.ranker_batch
        new = batch // _FRESH if len(self.kept) else batch
        self._optimizer.lr = _FIRST_RATE if self._learnt < _SETTLED else _RATE
        for _ in range(_STEPS * int(np.ceil(len(fresh) / batch))):
            drawn = [fresh[self._random.integers(0, len(fresh), new)]]
            if new < batch:
                drawn.append(self.kept[self._random.integers(0, len(self.kept), batch - new)])
            self._optimizer.step([self._loss(joined(drawn))], _CLIP)

    def _loss(self, ranked: RankerExamples) -> torch.Tensor:
        """Weights that find look for what came among all items, the others order the candidates where it is one."""
        parts = zip((self._ranker.find, self._ranker.order), self._first)
        moved = sum((part.mean - first).square().sum() for part, first in parts)
        came = torch.zeros(len(ranked), dtype=torch.int64, device=self._device)
        losses = [F.cross_entropy(scores + offset, came[: len(scores)]) for scores, offset in self._scores(ranked)]
        return _PRIOR / (_PRIOR + self._learnt) * moved + torch.stack(losses).sum()

    @torch.no_grad()
    def _rank(
        self, statistics: ItemStatistics, catalogue: Catalogue, examples: Sequence[BufferEntry]
    ) -> RankerExamples:
        """Compute the signals of what came, of the candidates and of some others, where what came could be listed."""
        scorer, B = self._scorer, len(examples)
        table = scorer.table(statistics, catalogue)
        live = self._random.random(B) < self.config.live
        requests = [one.request(now) for one, now in zip(examples, live.tolist())]
        target = catalogue.rows(item_key(one.example.item_id) for one in examples)
        batch = open_requests(catalogue, requests, self.rules, scorer.sizes.last_n, scorer.facts)
        uniform = self._random.integers(0, len(catalogue), (B, _DRAWN))
        found = find(scorer.ranker, table, batch, np.concatenate((target[:, None], uniform), 1))
        columns, offset, is_found = self._drawn(found, torch.from_numpy(target), len(catalogue))
        some = found.candidates.some(columns)
        signals = torch.cat((at_columns(found.signals, columns), of_the_best(table, batch, some)), 2)
        users = np.array([one.example.user_id for one in examples], object)
        ranked = RankerExamples(users, signals.half(), batch.context, offset, is_found)
        return ranked[np.flatnonzero(found.candidates.there[:, -1 - _DRAWN].numpy())]

    def _drawn(self, found: Found, target: torch.Tensor, items: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What is learnt from: the columns of what came, of some candidates and of the items drawn from all; the log of
        how many items each stands for; and whether what came is a candidate.

        Shape: target (b,) -> (b, _WIDTH), (b, _WIDTH), (b,).
        """
        b, best = found.best.shape
        drawn = found.best.gather(1, torch.from_numpy(self._random.integers(0, best, (b, _DRAWN))))
        first = found.linear.shape[1] - 1 - _DRAWN
        columns = torch.cat(
            (torch.full((b, 1), first), drawn, torch.arange(first + 1, first + 1 + _DRAWN).expand(b, -1)), 1
        )
        candidates = _listed(found.candidates, found.best)
        rows, listed = found.candidates.rows.gather(1, columns), found.linear.gather(1, columns) > -torch.inf
        offset = offsets(target[:, None], candidates, rows, listed, items)
        return columns, offset, (candidates == target[:, None]).any(1)


def _listed(found: Candidates, columns: torch.Tensor) -> torch.Tensor:
    """The rows of the candidates, -1 for none; (b, c)."""
    return found.rows.gather(1, columns).masked_fill(~found.there.gather(1, columns), -1)


def _without(ranked: RankerExamples, user_id: str) -> RankerExamples:
    return ranked[np.flatnonzero(ranked.users != user_id)]


def joined(groups: Sequence[RankerExamples]) -> RankerExamples:
    """One group after the other."""
    columns = (torch.cat([getattr(group, name) for group in groups]) for name in COLUMNS)
    return RankerExamples(np.concatenate([group.users for group in groups]), *columns)


def offsets(
    target: torch.Tensor, candidates: torch.Tensor, rows: torch.Tensor, listed: torch.Tensor, items: int
) -> torch.Tensor:
    """The log of how many items each stands for, -inf for none: the item that came for itself, those drawn from the
    candidates for all others of them, those drawn from all items for those that are no candidates.

    Shape: target (b, 1), candidates (b, c) rows, -1 for none; rows (b, 1 + 2 r) of what came, of those drawn from the
    candidates and of those drawn from all, listed likewise whether they could be -> (b, 1 + 2 r).
    """
    r = (rows.shape[1] - 1) // 2
    drawn, uniform = rows[:, 1 : 1 + r], rows[:, 1 + r :]
    of_candidates = torch.full(drawn.shape, float(np.log(candidates.shape[1] / r)))
    of_candidates.masked_fill_(~listed[:, 1 : 1 + r] | (drawn == target), -torch.inf)
    is_candidate = (uniform[..., None] == candidates[:, None]).any(2)
    none = ~listed[:, 1 + r :] | is_candidate | (uniform == target)
    of_all = torch.full(uniform.shape, float(np.log(items / r))).masked_fill_(none, -torch.inf)
    return torch.cat((torch.zeros(len(rows), 1), of_candidates, of_all), 1)
