"""Lists do not depend on where they are made: CPU or card, single or half precision."""

import copy

import numpy as np
import pytest
import torch

from model import device, registry
from model import score as scoring
from model.finetune import Learner
from model.learning.config import TrainingConfig
from model.learning.train_network import NetworkTrainer, TrainingItems, Windows
from model.learning.train_ranker import RankerExamples, RankerTrainer
from model.score import Scorer, score
from model.scoring import network
from model.scoring.batch import CONTEXT
from model.scoring.network import EVENT
from model.signals import SIGNALS
from scripts.benchmarks.scoring import DIM, RULES, K, build, examples, request

CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no card")
USERS = 48
ELSEWHERE = "meta"
"""A device of torch's on every machine: what is computed there has no values, and nothing of the CPU may take part."""


@pytest.fixture(scope="module")
def world():
    return build(2_500, "cpu")  # so many that cells of the index are used


def lists(world, scorer):
    requests = [request(world, number) for number in range(USERS)]
    made = score(scorer, world.statistics, world.catalogue, requests, K, RULES)
    return [[item.item_id for item in one] for one in made], [[item.probability for item in one] for one in made]


def overlap(one, other):
    return sum(len(set(a) & set(b)) for a, b in zip(one, other)) / sum(map(len, one))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_vectors_in_half_precision_make_the_same_lists(world, monkeypatch, dtype):
    """A card keeps item vectors in half precision: nearly every item of every list is the same, in the same order."""
    ids, chances = lists(world, copy.deepcopy(world.scorer))
    monkeypatch.setattr(device, "dtype", lambda of: dtype)

    scorer = copy.deepcopy(world.scorer)
    half, half_chances = lists(world, scorer)

    assert dtype == scorer.table(world.statistics, world.catalogue).items.dtype
    assert overlap(ids, half) >= 0.99
    assert max(abs(a[0] - b[0]) for a, b in zip(chances, half_chances)) < 0.01


def test_copies_follow_what_changes(world, monkeypatch):
    """Copied columns take changed rows: after more examples they are those of a table made anew."""
    monkeypatch.setattr(device, "dtype", lambda of: torch.float16)
    followed = copy.deepcopy(world.scorer)
    followed.table(world.statistics, world.catalogue)
    statistics = copy.deepcopy(world.statistics)
    followed.table(statistics, world.catalogue)
    statistics.apply(examples(world.draw, 500, 5_000_000))

    table, anew = followed.table(statistics, world.catalogue), copy.deepcopy(world.scorer)
    expected = anew.table(statistics, world.catalogue)
    assert torch.equal(expected.items, table.items)
    assert torch.equal(expected.biases, table.biases)


@CARD
def test_a_card_makes_the_same_lists_as_a_processor(world):
    """The same items in the same order, but for ties that rounding decides."""
    ids, chances = lists(world, copy.deepcopy(world.scorer))
    on_card, card_chances = lists(world, copy.deepcopy(world.scorer).on("cuda"))

    assert overlap(ids, on_card) >= 0.99
    assert max(abs(a[0] - b[0]) for a, b in zip(chances, card_chances)) < 0.01


def test_the_network_learns_on_the_device_of_its_scorer():
    """What the loss is computed of is there, all of it: torch refuses operations on tensors of two devices."""
    items, users, T = 50, 4, 8
    trainer = NetworkTrainer(
        Scorer(network.Sizes(DIM), items).on(ELSEWHERE), TrainingConfig(negatives=16), np.random.default_rng(0)
    )
    rows = torch.arange(users * T).view(users, T)
    events = torch.zeros_like(rows)
    windows = Windows(rows, events, events, torch.full_like(rows, EVENT), rows.flip(1))
    vectors = np.ones((items, DIM), np.float32)
    loss = next(
        trainer._losses(TrainingItems(vectors, torch.arange(items), torch.ones(items), torch.zeros(items)), windows)
    )
    loss.backward()

    assert ELSEWHERE == loss.device.type
    assert {ELSEWHERE} == {one.grad.device.type for one in trainer._network.parameters() if one.grad is not None}


def ranked(count: int) -> RankerExamples:
    """Examples for a ranker, on the CPU, where they are kept; every second one's item is a candidate."""
    width = 1 + 2 * 32
    found = torch.arange(count) % 2 == 0
    signals = torch.ones(count, width, len(SIGNALS), dtype=torch.half)
    return RankerExamples(
        np.full(count, "u", object), signals, torch.zeros(count, CONTEXT), torch.zeros(count, width), found
    )


@pytest.mark.parametrize("count", [1, 6])
def test_the_ranker_learns_on_the_device_of_its_scorer(count):
    """Its loss and what it measures are there; what is kept to replay is on the CPU."""
    trainer = RankerTrainer(Scorer(network.Sizes(DIM)).on(ELSEWHERE), TrainingConfig(), np.random.default_rng(0), RULES)
    trainer._measure(ranked(count))
    loss = trainer._loss(ranked(count))
    loss.backward()

    assert ELSEWHERE == loss.device.type == trainer._ranker.spread.device.type
    assert {ELSEWHERE} == {one.grad.device.type for one in trainer._ranker.parameters() if one.grad is not None}
    assert "cpu" == trainer.kept.signals.device.type


def learnt(world, where: str) -> tuple[Learner, Scorer]:
    """A learner that has learnt from some users, on this device."""
    learner = Learner(world.catalogue, rules=RULES, device=where)
    learner.add(examples(world.draw, 4_000))
    return learner, learner.fine_tune()


@CARD
def test_what_a_card_learns_is_what_a_processor_learns(world, monkeypatch, tmp_path):
    """Nothing dropped, the same draws: what is counted and fitted is the same, lists and judgements nearly so; and the
    version is read on a machine without a card.
    """
    monkeypatch.setattr(network, "_DROPPED", 0.0)
    (learner, ours), (on_card, theirs) = learnt(world, "cpu"), learnt(world, "cuda")
    read = scoring.load(scoring.save(theirs, str(tmp_path), "v00001", {}))
    tensors, _ = registry.read(f"{tmp_path}/v00001")

    assert ("cuda", "cpu") == (theirs.device.type, read.device.type)
    assert {"cpu"} == {tensor.device.type for tensor in tensors.values()}
    assert torch.equal(ours.keys, theirs.keys.cpu()) and torch.equal(ours.learnt, theirs.learnt.cpu())
    for name in ("ease_weights", "taste_weights"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name).cpu(), atol=1e-4)
    new = examples(world.draw, 500, 4_000)
    judged, judged_on_card = (one.judge(scorer, new) for one, scorer in ((learner, ours), (on_card, theirs)))
    assert abs(judged.ndcg.mean() - judged_on_card.ndcg.mean()) < 0.02
