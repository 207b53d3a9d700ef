"""How fast lists are made, on a made-up catalogue of any size: needs no Flink, no Kafka and no data.

Items belong to topics; each user has a few of them and takes their items by a power law. The scorer has counted the
events, its tables are fitted, its network has taken a few steps.
"""

import gc
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from model import user
from model.catalogue import Catalogue
from model.finetune import Learner
from model.interest import Rules
from model.learning.config import TrainingConfig
from model.schema import Event, Example, ItemVector, Request, encode_json, item_key
from model.score import Scorer, score
from model.scoring.batch import open_requests
from model.scoring.ranker import CANDIDATES, find
from model.snapshot import BYTES_AN_EXAMPLE
from model.statistics import ItemStatistics

DIM, TOPICS, USERS, EVENTS = 384, 500, 1_000, 30_000
K, HISTORY = 20, 20
NOW_MS = 1_750_000_000_000
RULES = Rules()
MOST_EXACT = 100_000
"""Items up to which what retrieval finds is held against the linear score of every item."""


@dataclass
class World:
    """A catalogue, what is counted of it, and a scorer that knows both."""

    catalogue: Catalogue
    statistics: ItemStatistics
    scorer: Scorer
    draw: Callable[[int], np.ndarray]
    seconds: dict[str, float]


def examples(draw: Callable[[int], np.ndarray], count: int, first: int = 0) -> list[Example]:
    """Views of users who take turns."""
    made, users = [], np.arange(first, first + count) % USERS
    of_user = {int(number): draw(int(number)) for number in np.unique(users)}
    for number, user_ in enumerate(users.tolist(), first):
        item = int(of_user[user_][number // USERS % len(of_user[user_])])
        made.append(Example(f"u{user_}", f"e{number}", NOW_MS + number * 1_000, f"i{item}", "view"))
    return made


def choices(items: int) -> Callable[[int], np.ndarray]:
    """What a user takes, in this order: of three topics, the first items of each most; -> (64,) item numbers."""

    def draw(number: int) -> np.ndarray:
        random = np.random.default_rng(number)
        topics = random.integers(0, min(TOPICS, items), 3)
        size = max(1, items // TOPICS)
        within = (size * random.random(64) ** 3).astype(int)
        return (topics[random.integers(0, 3, 64)] + TOPICS * within) % items

    return draw


def build(items: int, device: str) -> World:
    """A world of so many items; `seconds` says what its parts took."""
    random, seconds, began = np.random.default_rng(0), {}, time.perf_counter()
    catalogue, topics = Catalogue(), random.standard_normal((TOPICS, DIM)).astype(np.float32)
    for start in range(0, items, 50_000):
        numbers = np.arange(start, min(items, start + 50_000))
        vectors = topics[numbers % TOPICS] + random.standard_normal((len(numbers), DIM)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = zip(numbers.tolist(), vectors.astype("<f2"))
        catalogue.apply([ItemVector(f"i{number}", "bench", row.tobytes()) for number, row in rows])
    seconds["catalogue"] = time.perf_counter() - began
    draw, began = choices(items), time.perf_counter()
    learner = Learner(
        catalogue,
        config=TrainingConfig(warm_up_epochs=0.0, epochs_per_event=0.0, sample_rate=0.0, warm_up_sample_rate=0.0),
    )
    learner.add(examples(draw, EVENTS))
    scorer = learner.fine_tune().on(device)
    seconds["counted and fitted"] = time.perf_counter() - began
    began = time.perf_counter()
    scorer.table(learner.statistics, catalogue)
    seconds["table"] = time.perf_counter() - began
    return World(catalogue, learner.statistics, scorer, draw, seconds)


def request(world: World, number: int) -> Request:
    """What is asked for a user after the last events."""
    state, catalogue = b"", world.catalogue
    for at, item in enumerate(world.draw(number)[:HISTORY].tolist()):
        key = item_key(f"i{item}")
        event = Event(f"e{at}", f"u{number}", "view", NOW_MS + at * 60_000, f"i{item}")
        state = user.update(state, user.embedded(event, key, catalogue.encoder, catalogue.lookup(key)), RULES).state
    return user.request(state, f"u{number}", "e", NOW_MS + 2_000_000)


def ms_per_list(world: World, size: int, seconds: float = 2.0) -> float:
    """Median over micro-batches of this size, with reasons, after a first one; examples are counted between them."""
    requests = [request(world, number) for number in range(size)]
    times, first = [], EVENTS
    gc.collect()
    gc.freeze()  # as a worker does: what is loaded by now is never garbage
    score(world.scorer, world.statistics, world.catalogue, requests, K, RULES)
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(times) < 3:
        world.statistics.apply(examples(world.draw, size, first))  # as many as there are lists
        first += size
        start = time.perf_counter()
        score(world.scorer, world.statistics, world.catalogue, requests, K, RULES)
        times.append((time.perf_counter() - start) / size * 1e3)
    gc.unfreeze()
    return median(times)


def recall(world: World, users: int = 32) -> float:
    """Which share of the best `CANDIDATES` items by the linear score of every item retrieval finds."""
    scorer, catalogue = world.scorer, world.catalogue
    requests = [request(world, number) for number in range(users)]
    shares = []
    with torch.inference_mode():
        for one in requests:
            table = scorer.table(world.statistics, catalogue)
            batch = open_requests(catalogue, [one], RULES, scorer.sizes.last_n)
            found = find(scorer.ranker, table, batch, np.arange(len(catalogue))[None])
            first = found.linear.shape[1] - found.sampled
            dense = found.linear[0, first:].topk(min(CANDIDATES, len(catalogue))).indices.numpy()
            sparse = found.candidates.rows[0][found.best[0]].numpy()
            shares.append(len(np.intersect1d(dense, sparse)) / len(dense))
    return float(np.mean(shares))


def statistics_speed(world: World, count: int = 20_000) -> float:
    """Examples applied in a second."""
    more = examples(world.draw, count, 10_000_000)
    began = time.perf_counter()
    world.statistics.apply(more)
    return count / (time.perf_counter() - began)


def measure(items: int, device: str, micro_batches: tuple[int, ...]) -> dict[str, float]:
    """All figures of a catalogue of this size."""
    world = build(items, device)
    figures = {f"ms_per_list_by_{size}": ms_per_list(world, size) for size in micro_batches}
    figures |= {f"lists_per_s_by_{size}": 1e3 / figures[f"ms_per_list_by_{size}"] for size in micro_batches}
    figures["statistics_events_per_s"] = statistics_speed(world)
    figures["statistics_mb"] = world.statistics.used_bytes() / 1e6
    figures["memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if items <= MOST_EXACT:
        figures["recall_at_128"] = recall(world, 32 if items <= 10_000 else 8)
    began = time.perf_counter()
    columns = world.statistics.snapshot()
    figures["snapshot_mb"] = sum(column.nbytes for column in columns.values()) / 1e6
    ItemStatistics.restore(columns)
    figures["start_s"] = world.seconds["table"] + time.perf_counter() - began  # of a worker, its catalogue being there
    figures["bytes_per_event"] = written_per_event(world)
    return figures | {f"{name} s": seconds for name, seconds in world.seconds.items()}


def written_per_event(world: World) -> float:
    """Bytes of an example on its topic, and the share of snapshots that it pays for at most."""
    example = Example("u1", "e1", NOW_MS, "i1", "view", request(world, 1).interests)
    return len(encode_json(example)) + BYTES_AN_EXAMPLE
