"""Learning from examples as they come, at two speeds: what is counted follows within seconds, what is trained later.

    examples ─► memory (memory.py) ─► count:     blend looks (ranking.py) ─► counted (counts.py) ─► new counts
                                   └► fine_tune: blend and network (sequences.py) take steps ─────► a new scorer

An example is used three times, in this order: the blend takes the signals as they were before it; it is counted
(popularity, neighbours); the blend and the network take a few steps, on new examples and on replayed ones.
So the blend sees each signal at the strength that it has on events that are still to come.

The catalogue may change between any two calls: each begins with `_take_in`, and what had a number for each item before
that is given more.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from model.catalogue import Catalogue
from model.interest import Rules
from model.learning.config import TrainingConfig
from model.learning.counts import Counts
from model.learning.growth import Known, make_room, take_in
from model.learning.replay import BufferEntry, ReplayBuffer
from model.learning.train_network import NetworkTrainer
from model.learning.train_ranker import RankerTrainer
from model.metrics import K, gains, hits
from model.schema import Example
from model.score import Scorer, score
from model.scoring.signals import FIRST_WEIGHTS
from model.scoring.table import TRENDING

_LEAST_STEPS = 3  # of the network, for however few examples
_HEAP = 2_000  # examples; more at once are learnt in parts, between which the network learns


@dataclass(frozen=True)
class Judgement:
    """How a scorer did on some examples, one by one; shape (n,)."""

    ndcg: np.ndarray
    hit: np.ndarray

    def __add__(self, more: "Judgement") -> "Judgement":
        return Judgement(np.concatenate((self.ndcg, more.ndcg)), np.concatenate((self.hit, more.hit)))

    def metrics(self) -> dict[str, float]:
        """Means over the examples; none where nothing was judged."""
        return {"hr_at_10": float(self.hit.mean()), "ndcg_at_10": float(self.ndcg.mean())} if len(self.hit) else {}


NOBODY = Judgement(np.zeros(0), np.zeros(0))
"""Judged on nothing yet."""


def non_inferior(candidate: Judgement, serving: Judgement, tolerance: float) -> bool:
    """Whether the candidate's NDCG@10 trails by at most `tolerance` standard errors of the pairwise difference.

    One that was judged on fewer than two examples is not.

    >>> level = Judgement(np.array([0.5, 1.0]), np.ones(2))
    >>> non_inferior(level, level, 0.0)
    True
    """
    difference = candidate.ndcg - serving.ndcg
    if len(difference) < 2:
        return False
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() >= -tolerance * error)


class Learner:
    """Keeps the examples, and makes a new scorer from them whenever `fine_tune` is called.

    Args:
        catalogue: the learner's own replica; it may change between calls.
        scorer: whose weights to go on from, as `resume` does. None begins anew.
        replay_capacity: events kept, the newest ones.
        rules: as the job has them.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        scorer: Scorer | None = None,
        seed: int = 0,
        replay_capacity: int = 500_000,
        rules: Rules = Rules(),
        config: TrainingConfig = TrainingConfig(),
    ) -> None:
        self.catalogue, self.rules, self.config = catalogue, rules, config
        self.replay = ReplayBuffer(replay_capacity, rules.max_consumed, rules.last_n)
        self._seed, self._random = seed, np.random.default_rng(seed)
        self._scorer, self._known, self.counts = self._new_scorer(), Known(), Counts(self.config)
        self._there = np.zeros(0, bool)
        self._room_for: tuple[Catalogue, int] | None  # a catalogue, and the revision of it
        self._counted: list[BufferEntry] = []  # the network has not learnt from these yet
        self._before: torch.Tensor | None = None  # what was trending before them
        self.resume(scorer or self._scorer)

    def _new_scorer(self) -> Scorer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            scorer = Scorer.untrained(self.catalogue.vectors.shape[1])
        scorer.ranker.begin(FIRST_WEIGHTS)
        return scorer

    def resume(self, trained: Scorer) -> None:
        """Go on from the trained part of this scorer; what this learner has counted stays as it is."""
        make_room(self._scorer, trained.keys.numpy(), self.config)
        self._scorer = trained.with_counts(self._scorer.tables())
        self._scorer.network, self._scorer.ranker = copy.deepcopy((self._scorer.network, self._scorer.ranker))
        self._returned: Scorer | None = None
        self._room_for = None
        self._network = NetworkTrainer(self._scorer, self.config, self._random)
        self.ranker = RankerTrainer(self._scorer, self.config, self._random, self.rules)

    def add(self, examples: Sequence[Example]) -> None:
        """Take over examples in their order; one that came before is passed over, one that forgets is obeyed."""
        for example in examples:
            if example.forget:
                self.forget(example.user_id)
            else:
                self.replay.add(example)

    def forget(self, user_id: str) -> None:
        """Delete all that is held of a user: events, examples, and what they added to the counts."""
        user = self.replay.forget(user_id)
        self._counted = [one for one in self._counted if one.example.user_id != user_id]
        self.ranker.forget(user_id)
        if user is not None:
            self.counts.remove(self._scorer, user_id, user, self._known.row_of)

    def count(self) -> Scorer:
        """Count the examples since the last call, in milliseconds; what is trained stays as it was.

        Returns:
            The scorer that was returned last, with new counts; the ones returned before do not change.
        """
        with self._seeded():
            self._take_in()
            self._count(self.replay.take_new(), self.config.sample_rate)
            counted = {name: tensor.clone() for name, tensor in self._scorer.tables().items()}
            self._returned = (self._returned or copy.deepcopy(self._scorer)).with_counts(counted)
        return self._returned

    def catch_up(self) -> None:
        """Count the examples since the last call and learn nothing from them: others have learnt from them before."""
        self._take_in()
        new = self.replay.take_new()
        for start in range(0, len(new), _HEAP):
            self._count(new[start : start + _HEAP], share=0.0)
        self._counted, self._before = [], None

    def fine_tune(self, progress: Callable[[int, int], None] = lambda done, of: None) -> Scorer:
        """Learn from the examples since the last call and return a new scorer; the ones returned before do not change.

        Args:
            progress: called with (done, of) as the work goes on.
        """
        with self._seeded():
            self._take_in()
            new = self.replay.take_new()
            share = min(
                self.config.sample_rate, self.config.max_ranker_examples / max(1, len(new))
            )  # of them for the blend
            for start, end in self._parts(len(new)):
                for at in range(start, end, self.config.chunk):
                    self._count(new[at : min(end, at + self.config.chunk)], share)
                    self.ranker.learn(at_least=self.config.ranker_batch)
                    progress(min(end, at + self.config.chunk), len(new))
                self.ranker.learn()
                self._train(new[end:], (end - start) / max(1, len(new)))
        self._scorer.changed()
        self._returned = copy.deepcopy(self._scorer)
        return self._returned

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed * 1_000_003 + self.counts.learnt)
            yield

    def _take_in(self) -> None:
        """Make room for items that are new in the catalogue, if it changed; another encoder needs a new network."""
        if self._room_for and self._room_for[0] is self.catalogue and self._room_for[1] == self.catalogue.revision:
            return
        if not self._scorer.fits(self.catalogue):
            self.resume(self._new_scorer())
        self._known = take_in(self._scorer, self.catalogue, self._known, self.config)
        self._there = np.zeros(len(self._scorer.keys), bool)
        self._there[self._known.there.numpy()] = True
        self._room_for = self.catalogue, self.catalogue.revision

    def _count(self, examples: list[BufferEntry], share: float) -> None:
        """The blend looks at a share of the examples, then all are counted."""
        if not examples:
            return
        if share and self.counts.learnt and len(self.catalogue) > 1:
            self.ranker.look(self.catalogue, examples, share)
        if self._before is None:
            self._before = self._scorer.counts[TRENDING].clone()
        flat = self.replay.flatten(
            self._known.row_of, self._there, dict.fromkeys(one.example.user_id for one in examples)
        )
        spots = flat.spots(examples)
        for step, (one, spot) in enumerate(zip(examples, spots.tolist()), self.counts.learnt):
            one.user.steps[one.place] = step if spot >= 0 else -1  # an item that is not there is not counted
        self.counts.add(self._scorer, flat, spots)
        self._counted += [one.light() for one in examples]
        if len(self._counted) > self.replay.capacity:
            self._counted = [one for one in self._counted if one.place >= 0]

    def _train(self, later: list[BufferEntry], share: float) -> None:
        """The network learns from what was counted since the last call.

        Args:
            later: examples that it must not see yet.
            share: of the steps that one call may take.
        """
        flat = self.replay.flatten(self._known.row_of, self._there)
        hidden, new = flat.spots(later), flat.spots([one for one in self._counted if one.place >= 0])
        reach = np.append(flat.starts[1:], len(flat.rows))  # where the events of each user end that may be seen
        np.minimum.at(reach, flat.owner[hidden[hidden >= 0]], hidden[hidden >= 0])
        if self._before is not None:
            steps = self._steps(len(self._counted), share)
            before = F.pad(self._before, (0, len(self._scorer.keys) - len(self._before)))  # items that have come since
            self._network.learn(self._known, flat, new[new >= 0], reach, before, steps, self.counts.learnt)
            self._scorer.changed()
        self._counted, self._before = [], None

    def _parts(self, new: int) -> Iterator[tuple[int, int]]:
        """Where the parts start and end after which the network learns: one, or growing ones of a large heap."""
        done = 0
        while not done or done < new:
            part = max(1, new) if new <= _HEAP else max(self.config.chunk, new // 8, self.counts.learnt // 2)
            yield done, min(new, done + part)
            done += part

    def _steps(self, new: int, share: float) -> int:
        """Steps of the network for so many new examples."""
        epochs_per_event = (
            self.config.warm_up_epochs
            if self.counts.learnt <= self.config.warm_up_events
            else self.config.epochs_per_event
        )
        wanted = epochs_per_event * new / (self.config.window * self.config.windows)
        return max(_LEAST_STEPS, int(min(wanted, self.config.most_steps * share)))

    def judge(self, scorer: Scorer, examples: Sequence[Example]) -> Judgement:
        """Score examples as the job would have, when the event before each came, without what was consumed by then.

        Raises:
            VersionError: the scorer was made for another encoder than the catalogue's.
        """
        examples = [example for example in examples if not example.forget]
        requests = [self.replay.find(example).request(live=True) for example in examples]
        lists = score(scorer, self.catalogue, requests, K, self.rules, explained=False)
        ranks = [
            next((at for at, item in enumerate(list_) if item.item_id == one.item_id), -1)
            for list_, one in zip(lists, examples)
        ]
        found = np.array(ranks, np.int64)
        return Judgement(gains(found), hits(found).astype(float))
