"""A made-up stream whose tastes change at a known moment: how long it takes until lists fit again.

Users have a favourite topic, and take its items one after the other, with some noise. At the moment of change every
topic's order is drawn anew and every user has another favourite. Learning comes in turn, and with a detector early too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model import user
from model.catalogue import Catalogue
from model.finetune import Learner
from model.interest import Rules
from model.learning.drift import Drift, surprises
from model.schema import Event, Example, ItemVector, item_key

TOPICS, SIZE, USERS, DIM = 40, 25, 300, 64
BEFORE, AFTER, TURN, EVERY = 8_500, 6_000, 100, 4_000
"""Events before the change and after it, of a turn of the learner, and of a fine-tuning that comes in turn."""
EARLY = 500
"""The fewest events of one that comes early: the gate's, and those that it judges on."""
RECOVERED, SMOOTH = 0.9, 5
"""Lists fit again where so many of the hits from before are back, on average over so many turns."""
_NOISE = 0.2


@dataclass(frozen=True)
class Outcome:
    """Hits at 10 of each turn, events from the change to where they are back (None: never), and when was learnt."""

    hits: list[float]
    recovered: int | None
    learnt_at: list[int]
    early: int


def stream(catalogue: Catalogue, random: np.random.Generator) -> list[Example]:
    """The examples of the job for such users."""
    rules, states, made = Rules(), dict[str, bytes](), []
    place = random.integers(0, SIZE, USERS)
    for number in range(BEFORE + AFTER):
        if number in (0, BEFORE):
            order = random.permuted(np.tile(np.arange(SIZE), (TOPICS, 1)), axis=1)
            favourites = random.integers(0, TOPICS, USERS)
        who = int(random.integers(USERS))
        place[who] += 1
        row = favourites[who] * SIZE + order[favourites[who], place[who] % SIZE]
        if random.random() < _NOISE:
            row = random.integers(TOPICS * SIZE)
        item, name = f"i{row}", f"u{who}"
        event = Event(f"e{number}", name, "click", 1_750_000_000_000 + number * 5_000, item)
        key = item_key(item)
        embedded = user.embedded(event, key, catalogue.encoder, catalogue.lookup(key))
        after = user.update(states.get(name), embedded, rules)
        states[name] = after.state
        made += [after.example] if after.example else []
    return made


def made_up_catalogue(random: np.random.Generator) -> Catalogue:
    topics, catalogue = random.standard_normal((TOPICS, DIM)), Catalogue()
    vectors = np.repeat(topics, SIZE, 0) + 1.5 * random.standard_normal((TOPICS * SIZE, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    catalogue.apply(
        [ItemVector(f"i{row}", "made-up", vector.astype("<f2").tobytes()) for row, vector in enumerate(vectors)]
    )
    return catalogue


WITHOUT, WITH, ANEW = "without", "with", "begins anew"
"""No detector, a detector, and a learner that knows the moment, begins anew then and learns early from there on: what
holds its lists back is not what was learnt before, but how little has come since.
"""


def follow(way: str, seed: int = 0, progress: Callable[[int], None] = lambda turns: None) -> Outcome:
    """Judge each turn by the version that serves, count it, and learn in turn or early."""
    random = np.random.default_rng(seed)
    catalogue = made_up_catalogue(random)
    examples, learner = stream(catalogue, random), Learner(catalogue, seed=seed)
    serving, drift, hits, learnt_at, since, early = None, Drift() if way == WITH else None, [], [], 0, 0
    for start in range(0, len(examples), TURN):
        turn, drifted = examples[start : start + TURN], False
        if serving is not None:
            hit = learner.judge(serving, turn).hit
            hits.append(float(hit.mean()))
            drifted = drift is not None and drift.watch(hit.tolist(), surprises(learner.statistics, turn))
        if way == ANEW and start >= BEFORE:
            learner, drifted = (Learner(catalogue, seed=seed) if start == BEFORE else learner), True
        learner.add(turn)
        learner.count()
        since += len(turn)
        if since >= (EARLY if drifted else EVERY) or serving is None:
            serving, since = learner.fine_tune(), 0
            learnt_at.append(start + len(turn))
            early += drifted and way == WITH
        progress(1)
    change = BEFORE // TURN - 1  # the first turn has nothing that serves
    return Outcome(hits, _recovered(hits, change), learnt_at, early)


def _recovered(hits: list[float], change: int) -> int | None:
    """Events after the change until hits are back."""
    wanted = RECOVERED * float(np.mean(hits[change // 2 : change]))
    for turn in range(change, len(hits) - SMOOTH + 1):
        if np.mean(hits[turn : turn + SMOOTH]) >= wanted:
            return (turn - change + SMOOTH) * TURN
    return None
