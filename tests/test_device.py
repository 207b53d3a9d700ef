"""Lists do not depend on where they are made: CPU or card, single or half precision."""

import copy

import pytest
import torch

from model import device
from model.score import score
from scripts.benchmarks.scoring import RULES, K, build, request

CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no card")
USERS = 48


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
    from scripts.benchmarks.scoring import examples

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
