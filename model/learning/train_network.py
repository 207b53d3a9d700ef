"""How the network learns: steps on windows of events, half of them new, half replayed.

Source: Yi et al., Sampling-bias-corrected neural modeling, 2019, doi:10.1145/3298689.3346996 (logQ).
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model.learning import distributed
from model.learning.adamw import AdamW
from model.learning.config import TrainingConfig
from model.learning.replay import Flat
from model.score import Scorer
from model.scoring.batch import gap_number
from model.scoring.network import EVENT, NOTHING, START, UNKNOWN, Dropout

_FIRST_RATE, _RATE, _SETTLED = 5e-3, 4e-3, 10_000  # learning rates, and after how many examples the second one holds
_WEIGHT_DECAY = 0.2
_AVERAGED = 0.975  # what a step leaves of the average of the weights before
_SHUFFLED = 0.5
"""In this share of the windows the order of events at one time is drawn anew: they came in no order."""
_MOST_AGAIN = 3
"""An item that a window has held so often is no target: who takes it hundreds of times teaches nobody anything."""
_SAME_TIME_MS = 0.5  # events less far apart may change places


class TrainingItems(NamedTuple):
    """The items of the catalogue as training sees them.

    Shape: vectors (n, dim); trained_row (n,) rows of the network's ids, -1 for none; chosen (n,) how often;
    log_popularity (n,), before the new events.
    """

    vectors: np.ndarray
    trained_row: torch.Tensor
    chosen: torch.Tensor
    log_popularity: torch.Tensor


class Windows(NamedTuple):
    """Some users' events in a row, and what comes after each, -1 for nothing; (b, window) each; facts (b, F)."""

    rows: torch.Tensor
    gaps: torch.Tensor
    actions: torch.Tensor
    kind: torch.Tensor
    targets: torch.Tensor
    facts: torch.Tensor | None = None


class Negatives(NamedTuple):
    """Items that the targets of a step are held against, log Q of each, and how many targets the step has."""

    rows: torch.Tensor
    log_q: torch.Tensor
    targets: int


class NetworkTrainer:
    """Takes steps with a network of its own; the scorer's network is the running average of its weights.

    It learns where the scorer's network is. What leads to rows of numpy's columns stays on the CPU: a card, which would
    have to be waited for, gets what was chosen.

    Source: Izmailov et al., Averaging weights leads to wider optima and better generalization, 2018, arXiv:1803.05407.
    """

    def __init__(self, scorer: Scorer, config: TrainingConfig, random: np.random.Generator) -> None:
        self.config = config
        self._scorer, self._random = scorer, random
        self._network = copy.deepcopy(scorer.network)
        self._device = scorer.device
        self._optimizer = AdamW(self._network, _FIRST_RATE, _WEIGHT_DECAY, shared=distributed.member()[1] > 1)

    def learn(
        self,
        items: TrainingItems,
        flat: Flat,
        new: np.ndarray,
        reach: np.ndarray,
        steps: int,
        learnt: int,
    ) -> None:
        """Take steps on windows around new events and as many windows from before.

        Args:
            learnt: how many examples there were in all.

        Shape: new (n,) places in `flat`; reach (users,) ends of what may be seen.
        """
        if not len(new) or len(items.vectors) < 2:
            return
        network, size = self._network, min(self.config.windows, 4 + len(new) // 4)
        self._grow()
        self._optimizer.lr = _FIRST_RATE if learnt <= _SETTLED else _RATE
        network.train()
        for _ in range(steps):
            windows = self._windows(flat, self._ends(flat, new, reach, size))
            if (windows.targets >= 0).any():
                self._optimizer.step(self._losses(items, windows))
        network.eval()
        self._average(_AVERAGED**steps)

    def state(self) -> dict[str, torch.Tensor]:
        """What a trainer of the same scorer goes on from."""
        return self._optimizer.state()

    def restore(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Go on with what `state` gave.

        Raises:
            KeyError, ValueError: it is of another network.
        """
        self._optimizer.restore(kept)

    @torch.no_grad()
    def _grow(self) -> None:
        """Take over the rows of items that are new in the scorer."""
        for name in ("ids", "bias"):
            mine, grown = getattr(self._network, name), getattr(self._scorer.network, name)
            if len(mine) < len(grown):
                setattr(self._network, name, nn.Parameter(torch.cat((mine, grown[len(mine) :]))))

    @torch.no_grad()
    def _average(self, kept: float) -> None:
        for average, newest in zip(self._scorer.network.parameters(), self._network.parameters()):
            average.lerp_(newest, 1 - kept)

    def _ends(self, flat: Flat, new: np.ndarray, reach: np.ndarray, size: int) -> np.ndarray:
        """Where windows end: as many a little after a new event as anywhere; (2 * size,) places in `flat`."""
        past = np.cumsum(reach - flat.starts)
        fresh = self._random.choice(new, size)
        fresh = np.minimum(
            fresh + self._random.integers(0, self.config.window // 2, size), reach[flat.owner[fresh]] - 1
        )
        draws = self._random.integers(0, past[-1], size)
        user = np.searchsorted(past, draws, side="right")
        return np.concatenate((fresh, reach[user] - past[user] + draws))

    def _windows(self, flat: Flat, ends: np.ndarray) -> Windows:
        """The events up to each end, (b,); for some the gap to the next one is unknown, as it is to the job."""
        at = ends[:, None] + np.arange(-self.config.window, 1)  # (b, window + 1)
        starts = flat.starts[flat.owner[ends]][:, None]
        kind = np.where(at >= starts, EVENT, np.where(at == starts - 1, START, NOTHING))
        at, kind = self._shuffled(flat, np.where(kind == EVENT, at, 0), kind)
        rows, actions = flat.rows[at], flat.actions[at]
        live = self._random.random((len(at), self.config.window)) < self.config.live
        gaps = np.where(live, UNKNOWN, gap_number(np.diff(flat.times[at], axis=1))) * (kind == EVENT)[:, :-1]
        wanted = flat.positive[at] & (kind == EVENT) & ~_worn_out(rows, kind)
        targets = np.where(wanted[:, 1:] & (kind[:, :-1] != NOTHING), rows[:, 1:], -1)
        parts = rows[:, :-1], gaps, actions[:, :-1], kind[:, :-1], targets
        return Windows(*(torch.from_numpy(part) for part in parts))._replace(facts=self._facts(flat, ends))

    def _facts(self, flat: Flat, ends: np.ndarray) -> torch.Tensor | None:
        """What is known of the windows' users, where that is on; (b, F) buckets."""
        facts = self._scorer.facts
        if facts is None:
            return None
        names = list(flat.places)
        return torch.from_numpy(facts.of_users([names[user] for user in flat.owner[ends].tolist()])).to(self._device)

    def _shuffled(self, flat: Flat, at: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """In some windows, draw the order of events at the same time anew; (b, window + 1) each."""
        moved = self._random.random(at.shape) * _SAME_TIME_MS * (self._random.random((len(at), 1)) < _SHUFFLED)
        order = np.argsort(np.where(kind == EVENT, flat.times[at] + moved, kind - 3), axis=1, kind="stable")
        return np.take_along_axis(at, order, 1), np.take_along_axis(kind, order, 1)

    def _losses(self, items: TrainingItems, windows: Windows) -> Iterator[torch.Tensor]:
        """This process's parts of the loss of a step, `accumulate` of them; over all processes they add up to it."""
        negatives = self._negatives(items, windows)
        member, members = distributed.member()
        parts, first, count = members * self.config.accumulate, member * self.config.accumulate, len(windows.rows)
        state = _random_state(self._device) if self.config.accumulate > 1 else None
        for number in range(first, first + self.config.accumulate):
            if state is not None:  # every part draws what the whole draws, and takes its rows of it
                _set_random_state(self._device, state)
            rows = distributed.part(count, number, parts)
            if parts > 1:
                self._cut(rows.start, count)
            yield self._loss(items, windows, negatives, rows)

    def _cut(self, first: int, count: int) -> None:
        """Rows from the first one on are here, of so many in a step."""
        for module in self._network.modules():
            if isinstance(module, Dropout):
                module.rows = first, count

    def _negatives(self, items: TrainingItems, windows: Windows) -> Negatives:
        """What all targets of a step are held against: half uniform, half other targets."""
        count, target = len(items.vectors), windows.targets[windows.targets >= 0]  # (w,)
        half = self.config.negatives // 2
        uniform = torch.from_numpy(self._random.integers(0, count, half))
        drawn = target[torch.from_numpy(self._random.integers(0, len(target), half))]
        negatives = torch.cat((uniform, drawn))  # (S,)
        distinct, chosen = target.unique(return_counts=True)
        place = torch.searchsorted(distinct, negatives).clamp(max=len(distinct) - 1)
        often = torch.where(distinct[place] == negatives, chosen[place], 0) / len(target)
        return Negatives(negatives, (half * (1 / count + often)).log(), len(target))

    def _loss(self, items: TrainingItems, windows: Windows, drawn: Negatives, part: slice) -> torch.Tensor:
        """Sampled softmax of the targets of some windows, as their share of the mean over all of them."""
        rows, gaps, actions, kind, targets = (column[part] for column in windows[:-1])
        facts = None if windows.facts is None else windows.facts[part]
        negatives, log_q, every = drawn
        network, at_targets = self._network, torch.where(targets.flatten() >= 0)[0]
        target = targets.flatten()[at_targets]  # (w,)
        used, place = torch.unique(torch.cat((rows.flatten(), target, negatives)), return_inverse=True)
        vectors, bias = self._items(items, used)
        at_rows, at_target, at_negatives = place.split((rows.numel(), len(target), len(negatives)))
        at_rows, at_target, at_negatives, at_targets, log_q, gaps, actions, kind = (
            part.to(self._device) for part in (at_rows, at_target, at_negatives, at_targets, log_q, gaps, actions, kind)
        )
        with self._autocast():
            hidden = network(vectors[at_rows].view(*rows.shape, -1), gaps, actions, kind, facts=facts)
            hidden = hidden.flatten(0, 1)[at_targets]
            if not len(target):
                return hidden.sum() * 0.0
            loss = sampled_softmax_loss(hidden, vectors, bias, at_target, at_negatives, log_q)
        return loss * (len(target) / every)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, getattr(torch, self.config.precision))

    def _items(self, items: TrainingItems, used: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's vectors and biases of some items; used (u,) -> (u, width), (u,), on its device."""
        network, text = self._network, torch.from_numpy(items.vectors[used.numpy()])
        columns = (text, items.trained_row[used], items.chosen[used], items.log_popularity[used])
        text, trained, chosen, log_popularity = (part.to(self._device) for part in columns)
        has = (trained >= 0)[:, None]
        ids = torch.where(has, network.ids[trained.clamp(min=0)], 0.0)
        bias = torch.where(has[:, 0], network.bias[trained.clamp(min=0)], 0.0)
        return network.items(network.project(text), ids, chosen), bias + network.popularity * log_popularity


def _random_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _worn_out(rows: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Which events are on an item that the window has held `_MOST_AGAIN` times before; (b, T) each -> (b, T) bool."""
    items = np.where(kind == EVENT, rows, -1 - np.arange(rows.shape[1]))  # what is no event is like nothing else
    before = np.tri(rows.shape[1], k=-1, dtype=bool)
    return ((items[:, :, None] == items[:, None]) & before).sum(2) >= _MOST_AGAIN


def sampled_softmax_loss(
    hidden: torch.Tensor,
    items: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
    negatives: torch.Tensor,
    log_q: torch.Tensor,
) -> torch.Tensor:
    """The cross-entropy of a softmax over all items, from the targets and some negatives alone.

    A negative that is expected Q times among the negatives drawn stands for 1 / Q items: with this sampling correction
    the sum over the negatives other than the target is, on average, that over all items other than the target.

    Args:
        target, negatives: rows of `items`; a row may be among the negatives several times.
        log_q: log Q of each negative.

    Shape: hidden (w, width), items (n, width), bias (n,), target (w,), negatives, log_q (S,) -> ().
    """
    sampling_correction = -log_q
    against = torch.addmm(bias[negatives] + sampling_correction, hidden, items[negatives].T)  # (w, S)
    against[_same(target, negatives)] = -torch.inf
    right = (hidden * items[target]).sum(1) + bias[target]
    return F.cross_entropy(torch.cat((right[:, None], against), 1), torch.zeros_like(target))


def _same(target: torch.Tensor, negatives: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | torch.Tensor:
    """Where a target is the negative: (w,), (S,) -> a mask (w, S) on a card, rows and columns of the few on a CPU."""
    if target.device.type != "cpu":  # a card would have to be waited for to know how many they are
        return target[:, None] == negatives
    ordered, order = target.sort(stable=True)
    first, last = torch.searchsorted(ordered, negatives), torch.searchsorted(ordered, negatives, right=True)
    often = last - first
    columns = torch.arange(len(negatives)).repeat_interleave(often)
    before = (often.cumsum(0) - often - first)[columns]
    return order[torch.arange(len(columns)) - before], columns
