"""Learning from examples as they come: counts, then the network, then the blend, in small steps.

    examples ─► memory (memory.py) ─┬─► blend learns (ranking.py) ─► counted (counts.py) ─► the next chunk
                                    └─► network learns (sequences.py) ─► a new scorer

An example is used three times, in this order: the blend learns from the signals as they were before it; it is counted
(popularity, neighbours); the network takes a few steps on windows of the users' events, half of them new, half replayed.
So the blend sees each signal at the strength that it has on events that are still to come.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.catalogue import Catalogue
from model.counts import Counts
from model.growth import Known, take_in
from model.interest import Rules
from model.memory import Flat, Memory, Remembered
from model.pace import Pace
from model.ranking import BlendLearner
from model.schema import Example
from model.score import Scorer, score
from model.sequences import NetworkLearner
from model.signals import FIRST_WEIGHTS, SIGNALS
from model.table import TRENDING

_JUDGED_AT = 10  # places of a list
_LEAST_STEPS = 3  # of the network, for however few examples


@dataclass
class Judgement:
    """How a scorer did on some examples, one by one; shape (n,)."""

    ndcg: np.ndarray
    hit: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Means over the examples, 0 without any."""
        count = max(1, len(self.hit))
        return {"hr_at_10": float(self.hit.sum() / count), "ndcg_at_10": float(self.ndcg.sum() / count)}


def better_or_level(candidate: Judgement, serving: Judgement, tolerance: float) -> bool:
    """Whether the candidate's NDCG@10 trails by at most `tolerance` standard errors of the pairwise difference.

    >>> level = Judgement(np.array([0.5, 1.0]), np.ones(2))
    >>> better_or_level(level, level, 0.0)
    True
    """
    difference = candidate.ndcg - serving.ndcg
    if len(difference) < 2:
        return True
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() >= -tolerance * error)


class Learner:
    """Keeps the examples, and makes a new scorer from them whenever `fine_tune` is called.

    Args:
        catalogue: the learner's own replica; it may change between calls.
        scorer: whose weights to go on from; what it counted is counted again, from the examples. None begins anew.
        replay_capacity: events kept, the newest ones.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        scorer: Scorer | None = None,
        seed: int = 0,
        replay_capacity: int = 500_000,
        rules: Rules = Rules(),
        exclude_consumed: bool = True,
        pace: Pace = Pace(),
    ) -> None:
        self.catalogue, self.rules, self.exclude_consumed, self.pace = catalogue, rules, exclude_consumed, pace
        self.memory = Memory(replay_capacity)
        self._seed, self._random = seed, np.random.default_rng(seed)
        self._begin(copy.deepcopy(scorer) if scorer is not None else self._new_scorer())

    def _new_scorer(self) -> Scorer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            scorer = Scorer.untrained(self.catalogue.vectors.shape[1])
        with torch.no_grad():
            scorer.blend.weights.copy_(torch.tensor([FIRST_WEIGHTS.get(name, 0.0) for name in SIGNALS]))
        return scorer

    def _begin(self, scorer: Scorer) -> None:
        """Go on with these weights; what was counted is counted anew."""
        self._scorer, self._known, self.counts = scorer, Known(), Counts(self.pace)
        self._network = NetworkLearner(scorer, self.pace, self._random)
        self.blend = BlendLearner(scorer, self.pace, self._random, self.rules, self.exclude_consumed)
        scorer.counts.zero_()

    def add(self, examples: Sequence[Example]) -> None:
        """Take over examples in their order; one that came before is passed over, one that forgets is obeyed."""
        for example in examples:
            if example.forget:
                self.forget(example.user_id)
            else:
                self.memory.add(example)

    def forget(self, user_id: str) -> None:
        """Delete all that is held of a user: events, examples, and what they added to the counts."""
        user = self.memory.forget(user_id)
        self.blend.forget(user_id)
        if user is not None:
            self.counts.remove(self._scorer, user, self._known.row_of)

    def fine_tune(self, progress: Callable[[int, int], None] = lambda done, of: None) -> Scorer:
        """Learn from the examples since the last call and return a new scorer; the ones returned before do not change.

        Args:
            progress: called with (done, of) as the work goes on.
        """
        if len(self.catalogue) and self._scorer.sizes.dim != self.catalogue.vectors.shape[1]:
            self._begin(self._new_scorer())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed * 1_000_003 + self.counts.learnt)
            self._known = take_in(self._scorer, self.catalogue, self._known, self.pace)
            self._learn(self.memory.take_new(), progress)
        self._scorer.changed()
        return copy.deepcopy(self._scorer)

    def _learn(self, new: list[Remembered], progress: Callable[[int, int], None]) -> None:
        """Learn part by part: the blend and the counts chunk by chunk, then the network."""
        scorer, flat = self._scorer, self._flatten()
        spots = flat.spots(new)
        reach = np.append(flat.starts[1:], len(flat.rows))  # where the events of each user end that are learnt already
        np.minimum.at(reach, flat.owner[spots[spots >= 0]], spots[spots >= 0])
        share = min(self.pace.ranked, self.pace.most_ranked / max(1, len(new)))  # of them for the blend
        done = 0
        while done < len(new):
            end = min(len(new), done + self._part(len(new)))
            before = scorer.counts[TRENDING].clone()
            for start in range(done, end, self.pace.chunk):
                chunk = slice(start, min(end, start + self.pace.chunk))
                self._learn_chunk(flat, spots[chunk], new[chunk], share)
                progress(chunk.stop, len(new))
            known = spots[done:end][spots[done:end] >= 0]
            np.maximum.at(reach, flat.owner[known], known + 1)
            steps = self._steps(end - done, len(new))
            self._network.learn(self._known, flat, known, reach, before, steps, self.counts.learnt)
            done = end

    def _flatten(self) -> Flat:
        there = np.zeros(len(self._scorer.keys), bool)
        there[self._known.there.numpy()] = True
        return self.memory.flatten(self._known.row_of, there)

    def _learn_chunk(self, flat: Flat, spots: np.ndarray, examples: list[Remembered], share: float) -> None:
        """The blend learns from a share of the examples, then all are counted."""
        if self.counts.learnt and len(self.catalogue) > 1:
            self.blend.learn(self.catalogue, examples, share)
        for step, one in enumerate(examples, self.counts.learnt):
            one.user.steps[one.place] = step
        self.counts.add(self._scorer, flat, spots)

    def _part(self, new: int) -> int:
        """Examples to learn from before the blend sees the network again: all, or growing parts of a large heap."""
        if new <= 4 * self.pace.chunk:
            return new
        return max(self.pace.chunk, new // 8, self.counts.learnt // 2)

    def _steps(self, part: int, new: int) -> int:
        """Steps of the network for a part of the new examples."""
        wanted = self.pace.visits * part / (self.pace.window * self.pace.windows)
        return max(_LEAST_STEPS, int(min(wanted, self.pace.most_steps * part / new)))

    def judge(self, scorer: Scorer, examples: Sequence[Example]) -> Judgement:
        """Score examples as the job would have, when the event before each came, without what was consumed by then.

        Raises:
            VersionError: the scorer was made for another encoder than the catalogue's.
        """
        examples = [example for example in examples if not example.forget]
        requests = [self.memory.find(example).request(live=True) for example in examples]
        lists = score(scorer, self.catalogue, requests, _JUDGED_AT, self.exclude_consumed, self.rules)
        ranks = [next((at for at, item in enumerate(list_) if item.item_id == one.item_id), -1) for list_, one in zip(lists, examples)]
        found = np.array(ranks, np.int64)
        return Judgement(np.where(found >= 0, 1 / np.log2(np.maximum(found, 0) + 2), 0.0), (found >= 0).astype(float))
