"""What the language model and the network gain and lose with fewer bits: speed, size, and what the lists are worth.

On one core. The precisions take turns, so on a busy machine what matters is how they compare. The last line of stdout
is the rows as one line of JSON.

    python scripts/bench.py --only compression
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import NamedTuple

import numpy as np
from rich.table import Table

from model.catalogue import Catalogue
from model.encoder import Encoder
from model.evaluate import PrequentialStep, Protocol, Users, new_learner
from model.evaluation.order import drawn_order
from model.schema import Event
from model.score import Scorer, score
from model.scoring.network import Network, Sizes, quantise
from model.statistics import ItemStatistics
from scripts import data
from scripts.evaluate import embed

PRECISIONS = ("float32", "bfloat16", "int8")
REPEATS, TEXTS, BATCH, USERS, K = 5, 256, 32, 64, 10
LEARNT, PREDICTED = 10_000, 2_000
"""The newest events are predicted by what was learnt from those before them."""
MANY = 100_000
"""Items of the network whose size is told."""


@dataclass(frozen=True)
class Compression:
    """A model at a precision: how fast, how large, how near to float32, and how good the lists made with it are."""

    model: str
    precision: str
    per_s: float  # texts, or lists
    ms: float  # for one text, or the lists of `USERS` users
    mb: float
    cosine: float | None = None  # mean, of texts' vectors with those of float32
    overlap_at_10: float | None = None  # share of a list that is on the list of float32
    hr_at_10: float | None = None


def compression() -> Iterator[Compression]:
    """The rows, as they are measured: two minutes.

    Raises:
        HeadraceError: the language model or the data cannot be had.
    """
    events, items = data.public("ml-100k")
    valid, _ = data.check_events(events)
    newest = drawn_order(valid, 0)[-LEARNT - PREDICTED :]
    encoders = [Encoder(data.language_model(), "cpu", threads=1, precision=precision) for precision in PRECISIONS]
    worlds = [learnt(newest, embed(items, encoder, 0)) for encoder in encoders]
    yield from language_models(encoders, sorted(items.title.head(TEXTS).tolist(), key=len), worlds)
    yield from networks(worlds[0])


def language_models(encoders: list[Encoder], titles: list[str], worlds: list["World"]) -> Iterator[Compression]:
    """Speed without what is kept; lists by a scorer that learnt from these very vectors."""
    exact = forward(encoders[0], titles)
    many_s = seconds_of(*(partial(forward, encoder, titles) for encoder in encoders))
    one_s = seconds_of(*(partial(forward, encoder, titles[:1]) for encoder in encoders))
    for at, encoder in enumerate(encoders):
        yield Compression(
            "language model",
            PRECISIONS[at],
            len(titles) / many_s[at],
            1_000 * one_s[at],
            encoder.load().size_bytes / 1e6,
            cosine=float((exact * forward(encoder, titles)).sum(1).mean()),
            hr_at_10=hit_rate(lists(worlds[at]), worlds[at].steps),
        )


def forward(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """Vectors that are computed, not remembered."""
    model = encoder.load()
    return np.concatenate([model.forward(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)])


def networks(world: "World") -> Iterator[Compression]:
    """One version, as it is and with its network's vectors of items in int8."""
    held = world._replace(scorer=copy.deepcopy(world.scorer))
    quantise(held.scorer.network)
    held.scorer.changed()
    exact, some = lists(world), [step.request for step in world.steps[:USERS]]
    seconds = seconds_of(*(partial(score, *one[:3], some, K) for one in (world, held)))
    for precision, one, took_s in zip(("float32", "int8"), (world, held), seconds):
        made = lists(one)
        yield Compression(
            "network",
            precision,
            USERS / took_s,
            1_000 * took_s,
            size_mb(precision),
            overlap_at_10=float(np.mean([len(set(a) & set(b)) / K for a, b in zip(made, exact)])),
            hr_at_10=hit_rate(made, one.steps),
        )


def size_mb(precision: str) -> float:
    """Of a network that knows `MANY` items."""
    network = Network(Sizes(384), MANY)
    if precision == "int8":
        quantise(network)
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers())) / 1e6


class World(NamedTuple):
    """A scorer that learnt from all but the newest events, and what is asked before each of these."""

    scorer: Scorer
    statistics: ItemStatistics
    catalogue: Catalogue
    steps: list[PrequentialStep]


def learnt(events: Sequence[Event], catalogue: Catalogue) -> World:
    users, learner = Users(catalogue), new_learner(catalogue, Protocol())
    steps = [step for step in map(users.ask, events) if step.example is not None]
    learner.add([step.example for step in steps[:-PREDICTED] if step.example is not None])
    return World(learner.fine_tune(), learner.statistics, catalogue, steps[-PREDICTED:])


def lists(world: World) -> list[list[str]]:
    """The items of each list, best first."""
    made = score(*world[:3], [step.request for step in world.steps], K, explained=False)
    return [[item.item_id for item in one] for one in made]


def hit_rate(made: list[list[str]], steps: list[PrequentialStep]) -> float:
    return float(np.mean([step.event.item_id in one for one, step in zip(made, steps)]))


def seconds_of(*works: Callable[[], object]) -> list[float]:
    """The median time of each; they take turns, after a first one."""
    times = [[elapsed_s(work) for work in works] for _ in range(REPEATS + 1)]
    return [median(each) for each in zip(*times[1:])]


def elapsed_s(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def show(rows: list[Compression]) -> Table:
    """A row each, with how it compares with float32."""
    title = f"Fewer bits, on one core; the network's size with {MANY:,} items"
    table = Table("model", "precision", "per s", "", "ms", "MB", "cosine", "overlap@10", "HR@10", title=title)
    single = {row.model: row for row in rows if row.precision == "float32"}
    for row in rows:
        quality = ("" if value is None else f"{value:.4f}" for value in (row.cosine, row.overlap_at_10, row.hr_at_10))
        ratio = row.per_s / single[row.model].per_s
        table.add_row(
            row.model, row.precision, f"{row.per_s:,.0f}", f"{ratio:.2f} x", f"{row.ms:.1f}", f"{row.mb:.1f}", *quality
        )
    return table
