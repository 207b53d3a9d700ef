"""Peers: who had the same items and what they took around them, whatever has been overwritten or forgotten since."""

import numpy as np
import pytest
import torch
from model.learning.peers import Peers

from model.finetune import Learner
from model.interest import Rules
from model.learning.config import TrainingConfig
from model.schema import Example
from model.score import Scorer
from model.scoring.batch import open_requests
from model.scoring.signals import everywhere
from model.scoring.table import LENGTH, NEAR, PLACES
from tests.test_score import DIM, make_catalogue, make_request

torch.set_num_threads(1)  # the tensors are tiny


def make_scorer(items: int) -> Scorer:
    return Scorer(Scorer.untrained(DIM).sizes, items)


def taken(scorer: Scorer) -> list[list[int]]:
    """The items of each peer that has some, in the order of the ring."""
    return [[item for item in row if item >= 0] for row in scorer.peers_taken.tolist() if max(row) >= 0]


@pytest.fixture
def learnt() -> tuple[Learner, Scorer]:
    """Users who took i0, i2, i4, i6, and others who took i1, i3, i5, i7, all in this order."""
    catalogue = make_catalogue()
    learner = Learner(catalogue)
    for user in range(8):
        items = [f"i{2 * at + user % 2}" for at in range(4)]
        requests = [make_request(catalogue, items[:at]) for at in range(4)]
        learner.add(
            Example(f"u{user}", f"{user}-{at}", 1_000 * at, items[at], "click", requests[at].interests)
            for at in range(4)
        )
    return learner, learner.fine_tune()


def of_peers(learner: Learner, scorer: Scorer, history: list[str]) -> dict[str, float]:
    """The signal of each item."""
    catalogue = learner.catalogue
    batch = open_requests(
        catalogue, [make_request(catalogue, history)], Rules(), scorer.sizes.last_n, torch.device("cpu")
    )
    signal = everywhere(scorer.table(catalogue), batch, ["neighbour-users"])["neighbour-users"]
    return dict(zip(catalogue.item_ids, signal[0].tolist()))


def test_what_users_alike_took_next_comes_first(learnt):
    signal = of_peers(*learnt, ["i0", "i2"])

    assert min(signal["i4"], signal["i6"]) > max(signal["i5"], signal["i7"], signal["i20"])
    assert signal["i4"] > signal["i6"], "it stands nearer to what is shared"


def test_without_a_history_peers_say_what_popularity_says(learnt):
    signal = of_peers(*learnt, [])
    assert signal["i0"] == pytest.approx(signal["i6"], abs=1e-2) and signal["i0"] > signal["i20"]


def test_a_user_who_is_forgotten_leads_nowhere():
    scorer, peers = make_scorer(5), Peers(10)
    peers.add(scorer, ["a", "b", "a"], [1, 2, 3])
    peers.forget(scorer, "a")
    peers.forget(scorer, "nobody")

    assert [[2]] == taken(scorer)
    peers.add(scorer, ["c"], [4])
    assert [[4], [2]] == taken(scorer), "the row is used again"


def test_the_user_who_was_there_longest_ago_makes_room():
    scorer, peers = make_scorer(9), Peers(2)
    peers.add(scorer, ["a", "b", "a", "c", "d"], [1, 2, 3, 4, 5])
    assert [[5], [4]] == taken(scorer)
    assert 2 == len(scorer.peers_taken)


def test_rings_keep_the_newest_and_do_not_join_the_oldest_to_it():
    scorer, peers = make_scorer(2 * LENGTH), Peers(2)
    peers.add(scorer, ["a"] * (LENGTH + 3), list(range(LENGTH + 3)))
    (row,) = scorer.peers_taken[:1].tolist()

    assert [LENGTH, LENGTH + 1, LENGTH + 2] == row[:3]
    assert [-1] * NEAR == row[3 : 3 + NEAR]
    peers.add(scorer, ["b"] * (PLACES + 1), [7] * (PLACES + 1))
    assert (scorer.peers_places[7] >= LENGTH).all()


def test_counting_in_small_parts_gives_the_same_peers(learnt):
    """The tables do not depend on how many examples are counted at once."""
    catalogue, (_, scorer) = learnt[0].catalogue, learnt
    other = Learner(catalogue, config=TrainingConfig(chunk=3))
    for user in range(8):
        items = [f"i{2 * at + user % 2}" for at in range(4)]
        other.add([Example(f"u{user}", f"{user}-{at}", 1_000 * at, items[at], "click", b"") for at in range(4)])
    again = other.fine_tune()

    assert np.array_equal(scorer.peers_places, again.peers_places)
    assert taken(scorer) == taken(again)


def test_a_place_of_an_item_always_holds_the_item():
    """Whatever was overwritten, emptied or forgotten: nobody has to look whether a place is still what it was."""
    random, scorer, peers = np.random.default_rng(0), make_scorer(300), Peers(3)
    for _ in range(5):
        users = [f"u{number}" for number in random.integers(0, 5, 2 * LENGTH)]
        peers.add(scorer, users, random.integers(0, 300, len(users)).tolist())
        peers.forget(scorer, users[0])
        places, taken = scorer.peers_places.numpy(), scorer.peers_taken.numpy().ravel()

        item, ring = np.nonzero(places >= 0)
        assert (taken[places[item, ring]] == item).all() and len(item)
