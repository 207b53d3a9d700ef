"""Learning from examples as they come, at two speeds: what is counted follows within seconds, what is trained later.

    examples ─► replay buffer (replay.py) ─► count:     the ranker looks (train_ranker.py) ─► counted (statistics.py)
                                          └► fine_tune: ranker, network and fitted tables learn ─► a new scorer

An example is used three times, in this order: the ranker takes the signals as they were before it; it is counted; the
ranker and the network take a few steps, on new examples and on replayed ones. So the ranker sees each signal at the
strength that it has on events that are still to come.

The catalogue may change between any two calls.
"""

import ast
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from model import device as devices
from model.bounds import Switches
from model.catalogue import Catalogue
from model.facts import Facts
from model.interest import Rules
from model.learning import distributed
from model.learning.closed_form import fit
from model.learning.config import TrainingConfig
from model.learning.replay import BufferEntry, Flat, ReplayBuffer
from model.learning.train_network import NetworkTrainer, TrainingItems
from model.learning.train_ranker import RankerTrainer
from model.metrics import K, gains, hits
from model.schema import Example
from model.score import Scorer, score
from model.scoring.retrieve import UNSEEN
from model.scoring.signals import Optional
from model.signals import SIGNALS
from model.statistics import EVER, HALF_LIFE_2K, HALF_LIFE_20K, ItemStatistics

if TYPE_CHECKING:
    from model.learning.train_joint import JointTrainer
    from model.scoring.joint import CrossEncoder, Texts

_LEAST_STEPS = 3  # of the network, for however few examples
_FIRST_FIT = 500  # examples after which the tables are fitted for the first time
_FIT_GROWTH = 10  # they are fitted anew when a tenth of the examples is new
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
        statistics: what was counted before; nothing if not given.
        device: where network and ranker learn, and candidates are judged: auto, cpu, cuda, cuda:1.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        scorer: Scorer | None = None,
        seed: int = 0,
        replay_capacity: int = 500_000,
        rules: Rules = Rules(),
        config: TrainingConfig = TrainingConfig(),
        statistics: ItemStatistics | None = None,
        device: str = "cpu",
    ) -> None:
        self.optional: Sequence[Optional] = ()
        self.facts: Facts | None = None
        self.catalogue, self.rules, self.config = catalogue, rules, config
        self.device = devices.choose(device)
        self.statistics = ItemStatistics() if statistics is None else statistics
        self.replay = ReplayBuffer(replay_capacity, rules.max_consumed, rules.last_n)
        self._seed, self._random = seed, np.random.default_rng(seed)
        self._of_network = np.random.default_rng((seed, 1)) if config.own_draws else self._random
        self._counted: list[BufferEntry] = []  # the network has not learnt from these yet
        self._before: tuple[np.ndarray, np.ndarray] | None = None  # what was popular before them, with its item keys
        self.joint: JointTrainer | None = None
        self._uncertain = False
        self.resume(scorer or self._new_scorer())

    def _new_scorer(self) -> Scorer:
        with self._forked():
            torch.manual_seed(self._seed)
            dim, encoder_version = self.catalogue.vectors.shape[1], self.catalogue.encoder_version
            scorer = Scorer.untrained(dim, self.optional, encoder_version, self.facts)
        scorer.ranker.begin({name: signal.start for name, signal in SIGNALS.items() if signal.start})
        return scorer

    def resume(self, trained: Scorer) -> None:
        """Go on from what is trained in this scorer; what this learner has counted stays as it is."""
        self._scorer = copy.deepcopy(trained).on(self.device)
        self._row_of = dict(zip(self._scorer.keys.numpy().view(np.uint64).tolist(), range(len(self._scorer.keys))))
        self._network = NetworkTrainer(self._scorer, self.config, self._of_network)
        self.ranker = RankerTrainer(self._scorer, self.config, self._random, self.rules)
        if self._uncertain:
            self.ranker.keep_precision()
        else:
            self._scorer.precision = None
        self._fitted_at = 0  # examples seen when tables were fitted; this scorer's are of another time, or not there
        if self.joint is not None:
            self._begin_joint(self.joint)

    @property
    def scorer(self) -> Scorer:
        """What is learnt with, as it is now; it changes."""
        return self._scorer

    def training(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What `restore` goes on from, directly after a fine-tuning: tensors, and JSON values."""
        draws = str(self._of_network.bit_generator.state)
        network = self._network.state() if distributed.learns_network() else {}
        if distributed.size() > 1:
            network, draws = distributed.told((network, draws), by=1)
        ranker, about = self.ranker.state()
        tensors = {f"network.{name}": one for name, one in network.items()}
        tensors |= {f"ranker.{name}": one for name, one in ranker.items()}
        about |= {"random": [str(self._random.bit_generator.state), draws], "fitted_at": self._fitted_at}
        return tensors, about

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Go on with what `training` gave, after `resume` with the scorer that there was.

        Raises:
            KeyError, ValueError, TypeError: it does not fit the scorer.
        """
        parts = {
            part: {name.removeprefix(part): one for name, one in tensors.items() if name.startswith(part)}
            for part in ("network.", "ranker.")
        }
        states = [ast.literal_eval(text) for text in about["random"]]
        self._network.restore(parts["network."])
        if distributed.learns_ranker():
            self.ranker.restore(parts["ranker."], about)
        self._fitted_at = int(about["fitted_at"])
        for random, state in zip((self._random, self._of_network), states):
            random.bit_generator.state = state

    def switch_on(self, switches: Switches, texts: Callable[[], "Texts"], facts: Callable[[], Facts]) -> None:
        """Learn what is switched on too, from now on.

        Args:
            texts: opens the texts of the items by their keys; called where something reads them.
            facts: opens what is known of users; called where that is on.
        """
        if switches.facts:
            self.use_facts(facts())
        if switches.uncertainty:
            self.use_uncertainty()
        joint, families = switches.joint, switches.families
        read = texts() if joint or any(family.reads_texts for family in families) else {}
        if families:
            self.use_optional([family.open(read) for family in families])
        if joint is not None:
            from model.scoring.joint import open_encoder

            self.use_joint(open_encoder(joint), read)

    def use_optional(self, optional: Sequence[Optional]) -> None:
        """Learn the signals that are switched on too, from now on; a scorer to go on from was loaded with them."""
        self.optional = optional
        if not self._scorer.is_trained:
            self.resume(self._new_scorer())

    def use_uncertainty(self) -> None:
        """Learn how sure the ranker's weights are too, from now on."""
        self._uncertain = True
        self.ranker.keep_precision()

    def use_facts(self, facts: Facts) -> None:
        """Learn from what is known of users too, from now on; a scorer to go on from was loaded with them."""
        self.facts = facts
        if not self._scorer.is_trained:
            self.resume(self._new_scorer())

    def use_joint(self, encoder: "CrossEncoder", texts: "Texts") -> None:
        """Learn the joint scorer too, from now on."""
        from model.learning.train_joint import JointTrainer

        self.joint = JointTrainer(encoder, texts, np.random.default_rng(self._seed), self.rules)
        self._begin_joint(self.joint)

    def _begin_joint(self, joint: "JointTrainer") -> None:
        """What it learns of lists, it learns of the ranker's: this scorer has none."""
        joint.resume(self._scorer.joint)
        self._scorer.joint = None

    def add(self, examples: Sequence[Example]) -> None:
        """Take over examples in their order; one that came before is passed over, one that forgets is obeyed."""
        for example in examples:
            if example.forget:
                self.forget(example.user_id)
            else:
                self.replay.add(example)

    def forget(self, user_id: str) -> None:
        """Delete all that is held of a user: events, examples, and what they added to the statistics."""
        self.replay.forget(user_id)
        self._counted = [one for one in self._counted if one.example.user_id != user_id]
        self.ranker.forget(user_id)
        if self.joint is not None:
            self.joint.forget(user_id)
        self.statistics.forget(user_id)
        self._fitted_at = 0  # the user is still in what was fitted

    def count(self) -> None:
        """Count the examples since the last call, in milliseconds; what is trained stays as it was."""
        with self._seeded():
            self._begin()
            self._count(self.replay.take_new(), self._sample_rate())

    def catch_up(self) -> None:
        """Count the examples since the last call and learn nothing from them: others have learnt from them before."""
        self._begin()
        new = self.replay.take_new()
        for start in range(0, len(new), _HEAP):
            self._count(new[start : start + _HEAP], share=0.0)
        self._counted, self._before = [], None

    def remember(self, examples: Sequence[Example]) -> None:
        """Keep examples to replay that the statistics have counted before this learner began."""
        for example in examples:
            if example.forget:
                self.replay.forget(example.user_id)
            else:
                self.replay.add(example)
        new = self.replay.take_new()
        for step, one in enumerate(new, self.statistics.seen - len(new)):
            one.counted_at(max(0, step))

    def fine_tune(self, progress: Callable[[int, int], None] = lambda done, of: None) -> Scorer:
        """Learn from the examples since the last call and return a new scorer; the ones returned before do not change.

        Args:
            progress: called with (done, of) as the work goes on.
        """
        with self._seeded():
            self._begin()
            new = self.replay.take_new()
            share = min(self._sample_rate(), self.config.max_ranker_examples / max(1, len(new)))
            for start, end in self._parts(len(new)):
                for at in range(start, end, self.config.chunk):
                    self._count(new[at : min(end, at + self.config.chunk)], share)
                    self.ranker.learn(at_least=self.config.ranker_batch)
                    progress(min(end, at + self.config.chunk), len(new))
                self.ranker.learn()
                self._train(new[end:], (end - start) / max(1, len(new)))
        self._scorer.changed()
        made = copy.deepcopy(self._scorer)
        if self.joint is not None:
            self.joint.learn()
            made.joint = self.joint.version()
        return made

    def _forked(self) -> AbstractContextManager[None]:
        """What is drawn within changes no random numbers outside."""
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        with self._forked():
            torch.manual_seed(self._seed * 1_000_003 + self.statistics.seen)
            yield

    def _begin(self) -> None:
        """Another encoder needs a new network; what is in the catalogue when learning begins is not new."""
        if not self._scorer.fits(self.catalogue):
            self.resume(self._new_scorer())
        self._scorer.encoder_version = self.catalogue.encoder_version
        if not self._scorer.is_trained and len(self._scorer.settled) != len(self.catalogue):
            self._scorer.settled = torch.from_numpy(np.sort(self.catalogue.keys).view(np.int64).copy())
            self._scorer.changed()

    def _count(self, examples: list[BufferEntry], share: float) -> None:
        """The ranker looks at a share of the examples that were not counted before, then all of them are counted."""
        examples = [one for one in examples if not self.statistics.has(one.example)]
        if not examples:
            return
        if share and self.statistics.seen and len(self.catalogue) > 1 and distributed.learns_ranker():
            self.ranker.look(self.statistics, self.catalogue, examples, share)
            if self.joint is not None:
                self.joint.look(self._scorer, self.statistics, self.catalogue, examples)
        if self._before is None:
            self._before = self.statistics.keys.copy(), self.statistics.popularity()[:, HALF_LIFE_2K].copy()
        for step, one in enumerate(examples, self.statistics.seen):
            one.counted_at(step)
        self.statistics.apply([one.example for one in examples])
        self._scorer.learnt.fill_(self.statistics.seen)
        self._counted += [one.light() for one in examples]
        if len(self._counted) > self.replay.capacity:
            self._counted = [one for one in self._counted if one.place >= 0]

    def _train(self, later: list[BufferEntry], share: float) -> None:
        """The network learns from what was counted since the last call; what is fitted in closed form may be due.

        Args:
            later: examples that it must not see yet.
            share: of the steps that one call may take.
        """
        flat = self.replay.flatten(self._rows_of)
        hidden, new = flat.spots(later), flat.spots(self._counted)
        reach = np.append(flat.starts[1:], len(flat.rows))  # where the events of each user end that may be seen
        np.minimum.at(reach, flat.owner[hidden[hidden >= 0]], hidden[hidden >= 0])
        new = new[new >= 0]
        new = new[new < reach[flat.owner[new]]]  # not one before which another stands that came late
        if self._before is not None:
            steps = self._steps(len(self._counted), share)
            self._grow(flat)
            if distributed.learns_network():
                self._network.learn(self._items(*self._before), flat, new, reach, steps, self.statistics.seen)
        if self._fit_is_due() and distributed.learns_ranker():
            self._fitted_at = self.statistics.seen
            chosen = self._by_row(self.statistics.keys, self.statistics.popularity()[:, HALF_LIFE_20K])
            fit(self._scorer, flat, self.catalogue.keys, chosen, self.statistics.seen, self.config)
        if self._before is not None and distributed.size() > 1:
            distributed.take_network([*self._scorer.network.parameters()])
        self._scorer.changed()
        self._counted, self._before = [], None

    def _rows_of(self, keys: np.ndarray) -> np.ndarray:
        return self.catalogue.rows(keys.tolist())

    def _fit_is_due(self) -> bool:
        seen, since = self.statistics.seen, self.statistics.seen - self._fitted_at
        first = not self._fitted_at and seen >= _FIRST_FIT
        return first or since >= max(self.config.ease_every, seen // _FIT_GROWTH)

    def _grow(self, flat: Flat) -> None:
        """Give every item that was chosen a row in the network."""
        keys = self.catalogue.keys[np.unique(flat.rows)]
        new = [key for key in keys.tolist() if key not in self._row_of]
        if not new:
            return
        self._row_of |= dict(zip(new, range(len(self._row_of), len(self._row_of) + len(new))))
        network, scorer = self._scorer.network, self._scorer
        for name in ("ids", "bias"):
            old = getattr(network, name).data
            setattr(network, name, nn.Parameter(torch.cat((old, old.new_zeros(len(new), *old.shape[1:])))))
        scorer.keys = torch.cat((scorer.keys, torch.from_numpy(np.array(new, np.uint64).view(np.int64))))

    def _items(self, keys: np.ndarray, popularity: np.ndarray) -> TrainingItems:
        """The catalogue as the network's training sees it; keys, popularity (m,) of 2,000 events, before the new."""
        trained = np.full(len(self.catalogue), -1)
        rows = self._rows_of(self._scorer.keys.numpy().view(np.uint64))
        trained[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        chosen = self._by_row(self.statistics.keys, self.statistics.popularity()[:, EVER])
        before = np.log(self._by_row(keys, popularity) + UNSEEN)
        columns = (torch.from_numpy(chosen.astype(np.float32)), torch.from_numpy(before.astype(np.float32)))
        return TrainingItems(self.catalogue.vectors, torch.from_numpy(trained), *columns)

    def _by_row(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values of some items in the rows of the catalogue, 0 for the others; (m,) -> (n,)."""
        rows, column = self._rows_of(keys), np.zeros(len(self.catalogue))
        column[rows[rows >= 0]] = values[rows >= 0]
        return column

    def _parts(self, new: int) -> Iterator[tuple[int, int]]:
        """Where the parts start and end after which the network learns: one, or growing ones of a large heap."""
        done = 0
        while not done or done < new:
            part = max(1, new) if new <= _HEAP else max(self.config.chunk, new // 8, self.statistics.seen // 2)
            yield done, min(new, done + part)
            done += part

    def _sample_rate(self) -> float:
        """Share of the examples that the ranker learns from."""
        early = self.statistics.seen < self.config.warm_up_events
        return self.config.warm_up_sample_rate if early else self.config.sample_rate

    def _steps(self, new: int, share: float) -> int:
        """Steps of the network for so many new examples."""
        early = self.statistics.seen <= self.config.warm_up_events
        epochs = self.config.warm_up_epochs if early else self.config.epochs_per_event
        wanted = epochs * new / (self.config.window * self.config.windows)
        return max(_LEAST_STEPS, int(min(wanted, self.config.most_steps * share)))

    def judge(self, scorer: Scorer, examples: Sequence[Example]) -> Judgement:
        """Score examples as the job would have, when the event before each came, without what was consumed by then.

        Raises:
            VersionError: the scorer was made for another encoder than the catalogue's.
        """
        examples = [example for example in examples if not example.forget]
        requests = [self.replay.find(example).request(live=True) for example in examples]
        lists = score(scorer, self.statistics, self.catalogue, requests, K, self.rules, explained=False)
        ranks = [
            next((at for at, item in enumerate(list_) if item.item_id == one.item_id), -1)
            for list_, one in zip(lists, examples)
        ]
        found = np.array(ranks, np.int64)
        return Judgement(gains(found), hits(found).astype(float))
