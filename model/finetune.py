"""Learning from examples as they come: counts, then the network, then the blend, in small steps.

An example is used three times, in this order: the blend learns from the signals as they were before it; it is counted
(popularity, neighbours); the network takes a few steps on windows of the users' events, half of them new, half replayed.
So the blend sees each signal at the strength that it has on events that are still to come.

Source: Yi et al., Sampling-bias-corrected neural modeling, 2019, doi:10.1145/3298689.3346996 (logQ); Steck, EASE, 2019,
arXiv:1905.03375; Loshchilov and Hutter, AdamW, 2019, arXiv:1711.05101.
"""

import copy
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model import interest
from model.catalogue import Catalogue
from model.interest import ACTIONS, Rules
from model.schema import CONSUMING, POSITIVE, Example, Request, event_key, item_key
from model.score import FIRST_WEIGHTS, HALF_LIVES, NEIGHBOURS, SIGNALS, Scorer, blend, excluded_items, find, gap_number, open_requests, score

_LAGS, _RECENCY = 20, 0.85
_PAIR_HALF_LIVES = (float("inf"), 5_000.0, 30_000.0)  # events; of transitions, recent transitions, EASE's matrix
_SHRINK = (5.0, 2.0)
_UNIFORM = 64  # items drawn from the whole catalogue for each example of the blend
_POSITIVE = np.array([action in POSITIVE for action in ACTIONS])
_CONSUMING = np.array([action in CONSUMING for action in ACTIONS])


@dataclass(frozen=True)
class Pace:
    """How much is learnt from how much; the defaults are measured on ml-100k."""

    window: int = 32
    windows: int = 64  # of new events in a step, and as many replayed
    visits: float = 8.0  # of each new event by a step of the network
    most_steps: int = 300  # of the network in one call
    negatives: int = 512
    chunk: int = 500  # examples between two refreshes of the counts
    neighbours: int = 128
    text_neighbours: int = 32
    ease_every: int = 5_000
    ease_items: int = 3_000
    ease_ridge: float = 200.0
    most_ranked: int = 6_000  # examples for the blend in one call
    kept_ranked: int = 12_000
    ranked_batch: int = 256


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


class AdamW:
    """Adam with decoupled weight decay; a table may get more rows on the way. (torch.optim takes 5 s to import.)"""

    def __init__(self, module: nn.Module, lr: float, weight_decay: float = 0.0) -> None:
        self.module, self.lr, self.weight_decay = module, lr, weight_decay
        self._moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._steps = 0

    @torch.no_grad()
    def step(self, loss: torch.Tensor, most: float = 1.0) -> None:
        """Take one step down the loss, its gradient clipped to norm `most`."""
        self.module.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), most)
        self._steps += 1
        rate = self.lr * (1 - 0.999**self._steps) ** 0.5 / (1 - 0.9**self._steps)
        for name, parameter in self.module.named_parameters():
            if parameter.grad is None:
                continue
            mean, square = self._moments_of(name, parameter)
            mean.lerp_(parameter.grad, 0.1)
            square.mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=0.001)
            parameter.mul_(1 - self.lr * self.weight_decay)
            parameter.addcdiv_(mean, square.sqrt().add_(1e-8), value=-rate)

    def _moments_of(self, name: str, parameter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        old = self._moments.get(name, (parameter.new_zeros(0, *parameter.shape[1:]),) * 2 if parameter.dim() else None)
        if old is None:
            old = torch.zeros_like(parameter), torch.zeros_like(parameter)
        elif parameter.dim() and len(old[0]) < len(parameter):
            more = parameter.new_zeros(len(parameter) - len(old[0]), *parameter.shape[1:])
            old = torch.cat((old[0], more)), torch.cat((old[1], more))
        self._moments[name] = old
        return old


@dataclass
class _User:
    """A user's events as the learner knows them, oldest first; `step` is when an event was counted, -1 if not yet."""

    keys: array = field(default_factory=lambda: array("Q"))
    times: array = field(default_factory=lambda: array("q"))
    actions: array = field(default_factory=lambda: array("B"))
    events: array = field(default_factory=lambda: array("I"))
    steps: array = field(default_factory=lambda: array("q"))
    dropped: int = 0

    def append(self, key: int, time_ms: int, action: int, event: int) -> None:
        for column, value in zip((self.keys, self.times, self.actions, self.events, self.steps), (key, time_ms, action, event, -1)):
            column.append(value)

    def drop_first(self) -> None:
        for column in (self.keys, self.times, self.actions, self.events, self.steps):
            del column[0]
        self.dropped += 1


class Pairs:
    """How often two items stood near each other, old pairs fading; sparse, in the order of the item pair.

    Shape: pairs (p,) int64, first item << 32 | second; weights (_PAIR_HALF_LIVES, p).
    """

    def __init__(self) -> None:
        self.pairs = np.zeros(0, np.int64)
        self.weights = np.zeros((len(_PAIR_HALF_LIVES), 0), np.float32)

    def fade(self, events: int) -> None:
        for weights, half_life in zip(self.weights, _PAIR_HALF_LIVES):
            if np.isfinite(half_life):
                weights *= np.float32(0.5 ** (events / half_life))

    def add(self, first: np.ndarray, second: np.ndarray, amounts: np.ndarray) -> None:
        """Add to both directions; first, second (a,), amounts (_PAIR_HALF_LIVES, a)."""
        if not len(first):
            return
        both = np.concatenate((first << 32 | second, second << 32 | first))
        pairs, place = np.unique(both, return_inverse=True)
        amounts = np.stack([np.bincount(place, np.tile(row, 2), len(pairs)) for row in amounts]).astype(np.float32)
        at = np.searchsorted(self.pairs, pairs)
        known = at < len(self.pairs)
        known[known] = self.pairs[at[known]] == pairs[known]
        self.weights[:, at[known]] += amounts[:, known]
        self.pairs = np.insert(self.pairs, at[~known], pairs[~known])
        self.weights = np.insert(self.weights, at[~known], amounts[:, ~known], axis=1)

    def row(self, item: int, kind: int) -> tuple[np.ndarray, np.ndarray]:
        """The partners of an item and their weights."""
        start, end = np.searchsorted(self.pairs, (item << 32, (item + 1) << 32))
        return self.pairs[start:end] & 0xFFFFFFFF, self.weights[kind, start:end]


@dataclass
class _Flat:
    """All users' events side by side; only events on items with a vector.

    Shape: rows, times, actions, steps (e,); starts, ends (users,); place of a user's i-th event: places[user][i].
    """

    rows: np.ndarray
    times: np.ndarray
    actions: np.ndarray
    starts: np.ndarray
    positive: np.ndarray
    owner: np.ndarray


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
        self.replay_capacity = replay_capacity
        self.learnt = 0
        self._scorer = copy.deepcopy(scorer) if scorer is not None else None
        if self._scorer is not None:
            self._scorer.counts.zero_()
        self._seed, self._random = seed, np.random.default_rng(seed)
        self._users: dict[str, _User] = {}
        self._order: deque[str] = deque()
        self._new: list[tuple[Example, int]] = []
        self._pairs = Pairs()
        self._since_ease, self._blended = 0, 0
        self._rows: dict[int, int] = {}
        self._vectors = torch.zeros(0, 1)
        self._ranked: deque[dict] = deque()
        self._optimizers: tuple[AdamW, AdamW] | None = None

    def add(self, examples: Sequence[Example]) -> None:
        """Take over examples in their order; one that came before is passed over, one that forgets is obeyed."""
        for example in examples:
            if example.forget:
                self.forget(example.user_id)
            else:
                self._append(example)
        while len(self._order) > self.replay_capacity:
            user = self._users.get(self._order.popleft())
            if user is not None and len(user.keys):
                user.drop_first()

    def _append(self, example: Example) -> None:
        """Append what the user did since the last example, as far as the example's interests hold it, and the example."""
        user = self._users.setdefault(example.user_id, _User())
        event = event_key(example.event_id)
        if event in user.events[-4 * _LAGS :]:
            return
        log = interest.decode(example.interests).log
        events = log["event_key"].tolist()
        last = user.events[-1] if len(user.events) else None
        since = len(events) - events[::-1].index(last) if last in events else 0
        if since < len(events):
            self._catch_up(example.user_id, user, log[since:])
        user.append(item_key(example.item_id), example.event_time_ms, ACTIONS.index(example.action), event)
        self._order.append(example.user_id)
        self._new.append((example, user.dropped + len(user.keys) - 1))

    def _catch_up(self, user_id: str, user: _User, log: np.ndarray) -> None:
        newest = user.times[-1] if len(user.times) else -1
        stamps, seen = log["stamp"], set(user.events[-4 * _LAGS :])
        times, actions = (stamps >> np.uint64(16)).tolist(), ((stamps >> np.uint64(8)) & np.uint64(0xFF)).tolist()
        for key, time_ms, action, event in zip(log["item_key"].tolist(), times, actions, log["event_key"].tolist()):
            if time_ms >= newest and event not in seen:
                user.append(key, time_ms, action, event)
                self._order.append(user_id)

    def forget(self, user_id: str) -> None:
        """Delete all that is held of a user: events, examples, and what they added to the counts."""
        user = self._users.pop(user_id, None)
        self._new = [(example, at) for example, at in self._new if example.user_id != user_id]
        self._order = deque(owner for owner in self._order if owner != user_id)
        for ranked in self._ranked:
            keep = torch.tensor([owner != user_id for owner in ranked["users"]], dtype=torch.bool)
            ranked["users"] = [owner for owner in ranked["users"] if owner != user_id]
            ranked |= {name: value[keep] for name, value in ranked.items() if name != "users"}
        self._ranked = deque(ranked for ranked in self._ranked if ranked["users"])
        if user is not None and self._scorer is not None:
            self._uncount(user)

    def fine_tune(self, progress: Callable[[int, int], None] = lambda done, of: None) -> Scorer:
        """Learn from the examples since the last call and return a new scorer; the ones returned before do not change.

        Args:
            progress: called with (done, of) as the work goes on.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed * 1_000_003 + self.learnt)
            self._prepare()
            self._learn([one for one in self._new if self._holds(*one)], progress)
        self._new = []
        self._scorer.eval()._kept = None
        return copy.deepcopy(self._scorer)

    def _learn(self, new: list[tuple[Example, int]], progress: Callable[[int, int], None]) -> None:
        flat, places = self._flatten()
        spots = np.array([places[one.user_id][at - self._users[one.user_id].dropped] for one, at in new], np.int64)
        reach = np.append(flat.starts[1:], len(flat.rows))  # where the events of each user end that are learnt already
        np.minimum.at(reach, flat.owner[spots[spots >= 0]], spots[spots >= 0])
        done = 0
        while done < len(new):
            end = min(len(new), done + self._part(len(new)))
            before = self._scorer.counts[2].clone()
            for start in range(done, end, self.pace.chunk):
                chunk = slice(start, min(end, start + self.pace.chunk))
                self._learn_blend(new[chunk], self.pace.most_ranked / len(new))
                self._count(flat, spots[chunk], new[chunk])
                progress(chunk.stop, len(new))
            known = spots[done:end][spots[done:end] >= 0]
            np.maximum.at(reach, flat.owner[known], known + 1)
            self._learn_network(flat, known, reach, before, self._steps(end - done, len(new)))
            done = end

    def _part(self, new: int) -> int:
        """Examples to learn from before the blend sees the network again: all, or growing parts of a large heap."""
        if new <= 4 * self.pace.chunk:
            return new
        return max(self.pace.chunk, new // 8, self.learnt // 2)

    def _steps(self, part: int, new: int) -> int:
        wanted = self.pace.visits * part / (self.pace.window * self.pace.windows)
        return max(3, int(min(wanted, self.pace.most_steps * part / new)))

    def _holds(self, example: Example, at: int) -> bool:
        return example.user_id in self._users and at >= self._users[example.user_id].dropped

    # What is known of the items

    def _prepare(self) -> None:
        """Begin a scorer if there is none; give every item of the catalogue a row and its text neighbours."""
        if self._scorer is None:
            dim = self.catalogue.vectors.shape[1] if len(self.catalogue) else 1
            self._scorer = Scorer.untrained(dim)
            with torch.no_grad():
                self._scorer.blend.weights.copy_(torch.tensor([FIRST_WEIGHTS.get(name, 0.0) for name in SIGNALS]))
        scorer = self._scorer
        if len(self.catalogue) and scorer.sizes.dim != self.catalogue.vectors.shape[1]:
            self._scorer, self.learnt = None, 0
            self._pairs, self._optimizers, self._ranked, self._vectors = Pairs(), None, deque(), torch.zeros(0, 0)
            return self._prepare()
        scorer.encoder_version = self.catalogue.encoder_version
        keys = self.catalogue.keys.view(np.int64)
        missing = keys[find(scorer.keys.numpy(), keys) == len(scorer.keys)]
        if len(missing):
            self._grow(missing)
        if self._optimizers is None:
            self._optimizers = AdamW(scorer.network, 3e-3, 0.01), AdamW(scorer.blend, 6e-3)
        self._rows = dict(zip(scorer.keys.numpy().view(np.uint64).tolist(), range(len(scorer.keys))))
        where = self.catalogue.rows(scorer.keys.numpy().view(np.uint64).tolist())  # (m,) rows of the catalogue
        self._there = torch.from_numpy(np.flatnonzero(where >= 0))
        old, self._vectors = self._vectors, torch.zeros(len(where), scorer.sizes.dim)
        if len(self._there):
            self._vectors[self._there] = torch.from_numpy(self.catalogue.vectors[where[where >= 0]])
        self._text_neighbours(old)

    def _grow(self, keys: np.ndarray) -> None:
        scorer, more = self._scorer, len(keys)
        network = scorer.network
        for owner, name, dim in ((network, "ids", 0), (network, "bias", 0), (scorer, "counts", 1)):
            old = getattr(owner, name)
            new = torch.cat((old.data, old.data.new_zeros([more if at == dim else size for at, size in enumerate(old.shape)])), dim)
            setattr(owner, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
        scorer.keys = torch.cat((scorer.keys, torch.from_numpy(keys.copy())))
        for name in NEIGHBOURS:
            width = self.pace.text_neighbours if name == "text" else self.pace.neighbours
            items, weights = getattr(scorer, f"{name}_items"), getattr(scorer, f"{name}_weights")
            wider, more_rows = max(width, items.shape[1]) - items.shape[1], more
            setattr(scorer, f"{name}_items", F.pad(items, (0, wider, 0, more_rows), value=-1))
            setattr(scorer, f"{name}_weights", F.pad(weights, (0, wider, 0, more_rows)))

    def _text_neighbours(self, old: torch.Tensor) -> None:
        """For every item the ones with the nearest texts, and the cosines; old (m', dim) the vectors of the last call."""
        scorer, there, vectors = self._scorer, self._there, self._vectors
        changed = (vectors != F.pad(old, (0, vectors.shape[1] - old.shape[1], 0, len(vectors) - len(old)))).any(1)  # (m,)
        scorer.text_items[changed] = -1
        scorer.text_items.masked_fill_(changed[scorer.text_items.long()], -1)
        scorer.text_weights.masked_fill_(scorer.text_items < 0, 0.0)
        new, same = there[changed[there]], there[~changed[there]]
        for rows, others in ((new, there), (same, new)):
            for start in range(0, len(rows) if len(others) else 0, 1_024):
                block = rows[start : start + 1_024]
                near = (vectors[block] @ vectors[others].T).topk(min(scorer.text_items.shape[1], len(others)))
                weights = torch.cat((scorer.text_weights[block], near.values.clamp(min=0)), 1)
                items = torch.cat((scorer.text_items[block], others[near.indices].int()), 1)
                best = weights.topk(scorer.text_items.shape[1])
                scorer.text_weights[block], scorer.text_items[block] = best.values, items.gather(1, best.indices)

    def _flatten(self) -> tuple[_Flat, dict[str, np.ndarray]]:
        """Lay all users' events side by side, without those on items that have no vector."""
        users = list(self._users.values())
        lengths = np.array([len(user.keys) for user in users], np.int64)
        columns = [np.concatenate([np.zeros(0, kind), *(np.frombuffer(getattr(user, name), kind) for user in users)]) for name, kind in
                   (("keys", np.uint64), ("times", np.int64), ("actions", np.uint8))]
        rows = np.fromiter((self._rows.get(key, -1) for key in columns[0].tolist()), np.int64, len(columns[0]))
        inside = np.zeros(len(self._scorer.keys) + 1, bool)
        inside[self._there.numpy()] = True
        known = inside[rows]
        place = np.where(known, np.cumsum(known) - 1, -1)
        owner = np.repeat(np.arange(len(users)), lengths)[known]
        starts = np.searchsorted(owner, np.arange(len(users)))
        actions = columns[2][known].astype(np.int64)
        flat = _Flat(rows[known], columns[1][known], actions, starts, _POSITIVE[actions], owner)
        return flat, dict(zip(self._users, np.split(place, np.cumsum(lengths)[:-1]))) if users else {}

    # Counts

    def _count(self, flat: _Flat, spots: np.ndarray, new: list[tuple[Example, int]]) -> None:
        """Count new events: spots (n,) their places in `flat`, -1 for an item without a vector."""
        scorer, n = self._scorer, len(spots)
        ages = np.arange(n - 1, -1, -1)
        for (example, at), step in zip(new, range(self.learnt, self.learnt + n)):
            user = self._users[example.user_id]
            user.steps[at - user.dropped] = step
        self.learnt += n
        known = spots >= 0
        rows = flat.rows[spots[known]]
        for counts, half_life in zip(scorer.counts, HALF_LIVES):
            added = np.bincount(rows, 0.5 ** (ages[known] / half_life), len(scorer.keys))
            counts.mul_(0.5 ** (n / half_life)).add_(torch.from_numpy(added))
        first, second, amounts = _pairs(flat.rows, flat.positive, flat.starts[flat.owner[spots[known]]], spots[known], ages[known])
        self._pairs.fade(n)
        self._pairs.add(first, second, amounts)
        self._refresh(np.unique(np.concatenate((first, second))))
        self._since_ease += n
        scorer._kept = None
        if self._since_ease >= max(self.pace.ease_every, self.learnt // 10) or (self.learnt >= 500 and self._since_ease == self.learnt):
            self._since_ease = 0
            self._fit_ease()

    def _uncount(self, user: _User) -> None:
        steps = np.frombuffer(user.steps, np.int64)
        rows = np.array([self._rows.get(key, -1) for key in user.keys], np.int64)
        actions = np.frombuffer(user.actions, np.uint8)
        known = rows >= 0
        rows, steps, positive = rows[known], steps[known], _POSITIVE[actions[known]]
        spots = np.flatnonzero(steps >= 0)
        ages = self.learnt - 1 - steps[spots]
        for counts, half_life in zip(self._scorer.counts, HALF_LIVES):
            gone = np.bincount(rows[spots], 0.5 ** (ages / half_life), len(self._scorer.keys))
            counts.sub_(torch.from_numpy(gone)).clamp_(min=0)
        first, second, amounts = _pairs(rows, positive, np.zeros(len(spots), np.int64), spots, ages)
        self._pairs.add(first, second, -amounts)
        np.maximum(self._pairs.weights, 0, out=self._pairs.weights)
        self._refresh(np.unique(np.concatenate((first, second))))
        self._scorer._kept = None

    def _refresh(self, changed: np.ndarray) -> None:
        """Write the strongest partners of these items into the scorer's tables."""
        width = self.pace.neighbours
        for kind, name in enumerate(("transitions", "recent-transitions")):
            items, weights = (self._scorer.get_buffer(f"{name}_{part}").numpy() for part in ("items", "weights"))
            for item in changed.tolist():
                partners, amounts = self._pairs.row(item, kind)
                scale = amounts.sum() + _SHRINK[kind]
                if len(partners) > width:
                    best = np.argpartition(-amounts, width)[:width]
                    partners, amounts = partners[best], amounts[best]
                items[item], weights[item] = -1, 0
                items[item, : len(partners)], weights[item, : len(partners)] = partners, amounts / scale

    def _fit_ease(self) -> None:
        """Fit item-to-item weights in closed form on the pairs, for the items most chosen."""
        scorer = self._scorer
        top = scorer.counts[1].topk(min(self.pace.ease_items, len(scorer.keys))).indices.sort().values.numpy()
        place = np.full(len(scorer.keys), -1)
        place[top] = np.arange(len(top))
        first, second = place[self._pairs.pairs >> 32], place[self._pairs.pairs & 0xFFFFFFFF]
        inside = (first >= 0) & (second >= 0)
        gram = np.zeros((len(top), len(top)), np.float32)
        gram[first[inside], second[inside]] = self._pairs.weights[2, inside]
        np.fill_diagonal(gram, scorer.counts[1].numpy()[top] / (1 - _RECENCY) + self.pace.ease_ridge)
        inverse = torch.linalg.inv(torch.from_numpy(gram))
        weights = -inverse / inverse.diagonal()
        best = weights.fill_diagonal_(0).topk(min(self.pace.neighbours, len(top)))
        width = best.values.shape[1]
        scorer.ease_items.fill_(-1), scorer.ease_weights.zero_()
        scorer.ease_items[top, :width] = torch.from_numpy(top)[best.indices].int()
        scorer.ease_weights[top, :width] = best.values.clamp(min=0)

    # The network

    def _learn_network(self, flat: _Flat, new: np.ndarray, reach: np.ndarray, before: torch.Tensor, steps: int) -> None:
        """Take steps on windows around new events and as many windows from before.

        Shape: new (n,) places in `flat`; reach (users,) ends of what may be seen; before (m,) counts without the new.
        """
        if not len(new) or len(self._there) < 2:
            return
        network, optimizer, size = self._scorer.network, self._optimizers[0], min(self.pace.windows, 4 + len(new) // 4)
        past = np.cumsum(reach - flat.starts)
        popularity = torch.log(before + 0.05)
        optimizer.lr = 3e-3 if self.learnt <= 10_000 else 2e-3
        network.train()
        for _ in range(steps):
            fresh = self._random.choice(new, size)
            fresh = np.minimum(fresh + self._random.integers(0, self.pace.window // 2, size), reach[flat.owner[fresh]] - 1)
            draws = self._random.integers(0, past[-1], size)
            user = np.searchsorted(past, draws, side="right")
            ends = np.concatenate((fresh, reach[user] - past[user] + draws))
            optimizer.step(self._loss(*self._windows(flat, ends), popularity))
        network.eval()

    def _windows(self, flat: _Flat, ends: np.ndarray) -> list[torch.Tensor]:
        """The events up to each end; in half of the windows the order of events at the same time is drawn anew.

        Shape: (b,) -> rows, gaps, actions, kind, targets, each (b, window); target -1 where there is none.
        """
        at = ends[:, None] + np.arange(-self.pace.window, 1)  # (b, window + 1)
        starts = flat.starts[flat.owner[ends]][:, None]
        kind = np.where(at >= starts, 1, np.where(at == starts - 1, 2, 0))
        at = np.where(kind == 1, at, 0)
        shaken = self._random.random(at.shape) * 0.5 * (self._random.random((len(at), 1)) < 0.5)
        order = np.argsort(np.where(kind == 1, flat.times[at] + shaken, kind - 3), axis=1, kind="stable")
        at, kind = np.take_along_axis(at, order, 1), np.take_along_axis(kind, order, 1)
        rows, actions = flat.rows[at], flat.actions[at]
        gaps = np.where((kind == 1)[:, :-1], gap_number(np.diff(flat.times[at], axis=1)), 0)
        targets = np.where((flat.positive[at] & (kind == 1))[:, 1:] & (kind[:, :-1] > 0), rows[:, 1:], -1)
        return [torch.from_numpy(part) for part in (rows[:, :-1], gaps, actions[:, :-1], kind[:, :-1], targets)]

    def _loss(self, rows: torch.Tensor, gaps: torch.Tensor, actions: torch.Tensor, kind: torch.Tensor, targets: torch.Tensor,
              popularity: torch.Tensor) -> torch.Tensor:
        """Sampled softmax: each target against shared negatives, half of them uniform, half other targets of the batch.

        A negative drawn with probability q among S counts as 1 / (S q) items, so the sum stands for the whole catalogue.
        """
        network, wanted = self._scorer.network, targets[targets >= 0]  # (w,)
        half = self.pace.negatives // 2
        uniform = self._there[torch.from_numpy(self._random.integers(0, len(self._there), half))]
        drawn = wanted[torch.from_numpy(self._random.integers(0, len(wanted), half))]
        negatives = torch.cat((uniform, drawn))  # (S,)
        used, place = torch.unique(torch.cat((rows.flatten(), wanted, negatives)), return_inverse=True)
        items = network.items(self._vectors[used], network.ids[used], self._scorer.counts[0][used])  # (used, width)
        bias = network.bias[used] + network.popularity * popularity[used]
        at_rows, at_wanted, at_negatives = place.split((rows.numel(), len(wanted), len(negatives)))
        hidden = network(items[at_rows].view(*rows.shape, -1), gaps, actions, kind)[targets >= 0]  # (w, width)
        often = torch.bincount(at_wanted, minlength=len(used))[at_negatives] / len(wanted)
        expected = half * (1 / len(self._there) + often)
        against = hidden @ items[at_negatives].T + bias[at_negatives] - expected.log()  # (w, S)
        against = against.masked_fill(wanted[:, None] == negatives, -torch.inf)
        right = (hidden * items[at_wanted]).sum(1) + bias[at_wanted]
        return (torch.cat((right[:, None], against), 1).logsumexp(1) - right).mean()

    # The blend

    def _learn_blend(self, examples: list[tuple[Example, int]], share: float) -> None:
        """Take steps on a share of these examples, with the signals as they are before the examples are counted."""
        if not self.learnt or len(self.catalogue) < 2:
            return
        wanted = [one for one in examples if self.catalogue.row(item_key(one[0].item_id)) >= 0]
        if share < 1:
            wanted = [one for one in wanted if self._random.random() < share]
        size = max(1, 400_000 // len(self.catalogue))
        for start in range(0, len(wanted), size):
            self._rank(wanted[start : start + size])

    def _rank(self, examples: list[tuple[Example, int]]) -> None:
        fresh = self._signals_of(examples)
        if fresh is None:
            return
        batch = self.pace.ranked_batch
        optimizer, count = self._optimizers[1], len(fresh["users"])
        optimizer.lr = 6e-3 if self._blended < 5_000 else 2e-3
        for _ in range(3 * int(np.ceil(count / batch))):
            groups = [fresh] + [self._ranked[at] for at in self._random.integers(0, len(self._ranked), 3 if self._ranked else 0)]
            rows = [torch.from_numpy(self._random.integers(0, len(group["users"]), batch // len(groups))) for group in groups]
            signals, context, offset, label = (torch.cat([group[name][row] for group, row in zip(groups, rows)]) for name in
                                               ("signals", "context", "offset", "label"))
            optimizer.step(self._blend_loss(signals.float(), context, offset, label), 10.0)
        self._blended += count
        self._ranked.append(fresh)
        while sum(len(group["users"]) for group in self._ranked) > self.pace.kept_ranked:
            self._ranked.popleft()

    def _blend_loss(self, signals: torch.Tensor, context: torch.Tensor, offset: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The linear blend has to find the candidates, the MLP to order them: both are held to the same target."""
        weigh = self._scorer.blend
        linear = (signals @ weigh.of(context)[..., None])[..., 0] + offset  # (b, 1 + c + r)
        candidates = signals.shape[1] - 1 - _UNIFORM
        added = weigh.reorder(signals[:, 1 : 1 + candidates], context)
        return F.cross_entropy(linear, label) + F.cross_entropy(linear + F.pad(added, (1, _UNIFORM)), label)

    @torch.no_grad()
    def _signals_of(self, examples: list[tuple[Example, int]]) -> dict | None:
        """Signals of the item that came next (first), the candidates, and some items drawn from all.

        Shape: signals (b, 1 + c + r, signals) half precision; context (b, CONTEXT); offset (b, 1 + c + r), the log of
        how many items each stands for; label (b,).
        """
        if not examples:
            return None
        table = self._scorer.table(self.catalogue)
        requests = [self._request(example, at) for example, at in examples]
        target = torch.from_numpy(self.catalogue.rows(item_key(example.item_id) for example, _ in examples))
        excluded = excluded_items(self.catalogue, requests, self.exclude_consumed, target.device)
        allowed = ~excluded.gather(1, target[:, None])[:, 0]
        if not allowed.any():
            return None
        opened = open_requests(self.catalogue, requests, self.rules, self._scorer.sizes.last_n, target.device)
        scored = blend(self._scorer, table, opened, excluded)
        n, c = scored.scores.shape[1], scored.candidates.shape[1]
        drawn = torch.from_numpy(self._random.integers(0, n, (len(target), _UNIFORM)))
        items = torch.cat((target[:, None], scored.candidates, drawn), 1)
        offset = torch.zeros(items.shape)
        offset[:, 1 + c :] = np.log(max(n - c, 1) / _UNIFORM)
        is_candidate = torch.zeros(n).expand(len(target), n).scatter(1, scored.candidates, 1.0).bool()
        hit = scored.candidates == target[:, None]
        label = torch.where(hit.any(1), hit.int().argmax(1) + 1, 0)
        offset[hit.any(1), 0] = -torch.inf
        offset[:, 1:].masked_fill_(excluded.gather(1, items[:, 1:]), -torch.inf)
        offset[:, 1 + c :].masked_fill_(is_candidate.gather(1, drawn) | (drawn == target[:, None]), -torch.inf)
        kept = {"signals": scored.at(items).half(), "context": opened.context, "offset": offset, "label": label}
        users = [example.user_id for (example, _), keep in zip(examples, allowed.tolist()) if keep]
        return {name: value[allowed] for name, value in kept.items()} | {"users": users}

    def _request(self, example: Example, at: int) -> Request:
        """What the job would have asked just before this example; `at` is its place in the user's events."""
        consumed = b""
        user = self._users.get(example.user_id)
        if user is not None:
            place = max(0, at - user.dropped)
            keys = np.frombuffer(user.keys[:place], np.uint64)[_CONSUMING[np.frombuffer(user.actions[:place], np.uint8)]]
            consumed = (keys & np.uint64(0xFFFF)).astype("<u2").tobytes()
        return Request(example.user_id, example.event_id, example.event_time_ms, [], "", example.interests, consumed)

    def judge(self, scorer: Scorer, examples: Sequence[Example]) -> Judgement:
        """Score examples as the job would have, without what the user had consumed before, as far as is known here.

        Raises:
            VersionError: the scorer was made for another encoder than the catalogue's.
        """
        examples = [example for example in examples if not example.forget]
        requests = [self._request(example, self._place(example)) for example in examples]
        lists = score(scorer, self.catalogue, requests, 10, self.exclude_consumed, self.rules)
        ranks = [next((at for at, item in enumerate(list_) if item.item_id == one.item_id), -1) for list_, one in zip(lists, examples)]
        found = np.array(ranks, np.int64)
        return Judgement(np.where(found >= 0, 1 / np.log2(np.maximum(found, 0) + 2), 0.0), (found >= 0).astype(float))

    def _place(self, example: Example) -> int:
        """Where an example stands among its user's events; after them all if it is not there."""
        user = self._users.get(example.user_id)
        if user is None:
            return 0
        events = user.events.tolist()
        event = event_key(example.event_id)
        return user.dropped + (len(events) - 1 - events[::-1].index(event) if event in events else len(events))


def _pairs(rows: np.ndarray, positive: np.ndarray, starts: np.ndarray, at: np.ndarray, ages: np.ndarray) -> tuple[np.ndarray, ...]:
    """The pairs of each chosen item with those before it, nearer ones weighing more, as they weigh `ages` events later.

    Shape: rows, positive (e,); starts, at, ages (a,) -> first, second (p,), amounts (_PAIR_HALF_LIVES, p).
    """
    lag = np.arange(1, _LAGS + 1)
    before = at[:, None] - lag  # (a, lags)
    keep = (before >= starts[:, None]) & positive[at][:, None]
    before = np.maximum(before, 0)
    keep &= positive[before] & (rows[before] != rows[at][:, None])
    near = np.broadcast_to(_RECENCY ** (lag - 1), before.shape)[keep]
    short = np.broadcast_to(lag <= _LAGS // 2, before.shape)[keep]
    age = np.broadcast_to(ages[:, None], before.shape)[keep]
    fades = [0.5 ** (age / half_life) for half_life in _PAIR_HALF_LIVES]
    amounts = np.stack((near * short * fades[0], near * short * fades[1], near * fades[2]))
    return np.broadcast_to(rows[at][:, None], before.shape)[keep], rows[before][keep], amounts
