"""Users opened together: what each of them is when opened alone."""

from pathlib import Path

import numpy as np
import pytest

from model import consumed, interest, user
from model.catalogue import Catalogue
from model.interest import ACTIONS, INTEREST_DIM, Interests, Rules
from model.schema import Event, ItemVector, Request, StateError, item_key
from model.scoring.batch import open_requests
from model.scoring.users import open_users

GOLDEN = Path(__file__).parent / "data"
START_MS, DIM = 1_700_000_000_000, 48
RULES = Rules(last_n=12, max_interests=4)
DONE = [action for action in ACTIONS if action not in ("impression", "forget")]


@pytest.fixture(scope="module")
def catalogue():
    rng, items = np.random.default_rng(0), Catalogue()
    vectors = rng.standard_normal((40, DIM)).astype("<f2")
    items.apply(ItemVector(f"i{at}", "e1", vector.tobytes()) for at, vector in enumerate(vectors))
    return items


def random_request(catalogue: Catalogue, rng: np.random.Generator, number: int) -> Request:
    """Someone with 0 to 30 events: some pending though their items have vectors by now, some on items that have none,
    some searches, dislikes and ratings, some late; now and then of another encoder, or with marks of release 0.1.0.
    """
    state, encoder = b"", catalogue.encoder if rng.random() < 0.8 else 7
    for at in range(rng.integers(0, 31)):
        action, item = str(rng.choice(DONE)), f"i{rng.integers(44)}"
        key = 0 if action == "search" else item_key(item)
        vector = catalogue.lookup(key) if rng.random() < 0.7 else None
        query = rng.standard_normal(DIM) if not key and rng.random() < 0.8 else None
        vector = rng.standard_normal(INTEREST_DIM) / 8 if query is not None else vector
        time_ms = START_MS + at * 3_600_000 - int(rng.integers(2)) * int(rng.integers(10**8))
        event = Event(
            f"e{number}-{at}", f"u{number}", action, time_ms, item if key else None, float(rng.integers(1, 6))
        )
        state = user.update(state, user.embedded(event, key, encoder, vector, query), RULES).state
    asked = user.request(state, f"u{number}", f"e{number}", START_MS + 10**8, live=bool(rng.random() < 0.5))
    marks = b"ab" * int(rng.integers(5)) if rng.random() < 0.1 else asked.consumed
    return Request(*(getattr(asked, name) for name in Request.__struct_fields__[:6]), marks, asked.live)


def alone(catalogue: Catalogue, data: bytes) -> Interests:
    opened = interest.decode(data)
    interest.use_encoder(opened, catalogue.encoder)
    interest.resolve(opened, catalogue.lookup, RULES)
    return opened


@pytest.mark.parametrize("seed", range(8))
def test_users_opened_together_are_what_each_is_alone(catalogue, seed):
    """Number by number: interests, where the last one leads, events, and the newest search."""
    rng = np.random.default_rng(seed)
    every = [random_request(catalogue, rng, number).interests for number in range(24)]
    every += [b"", *(file.read_bytes() for file in GOLDEN.glob("interests-*.bin"))]
    users, ends = open_users(catalogue, every, RULES), [0]
    for at, data in enumerate(every):
        one, ends = alone(catalogue, data), [*ends, int(users.ends[at])]
        count, log = len(one.weights), users.log[slice(*ends[-2:])]
        led = one.edges[one.last] if one.last >= 0 else one.weights
        assert one.vectors.tolist() == users.vectors[at, :count].tolist()
        assert one.weights.tolist() == users.weights[at, :count].tolist()
        assert (led if led.sum() > 0 else one.weights).tolist() == users.led_to[at, :count].tolist()
        assert not users.vectors[at, count:].any() and not users.weights[at, count:].any()
        assert (one.item_keys.tolist(), one.times_ms.tolist()) == (
            log["item_key"].tolist(),
            Interests(log=log).times_ms.tolist(),
        )
        assert catalogue.rows(one.item_keys).tolist() == users.rows[slice(*ends[-2:])].tolist()
        if at in users.asking:
            assert one.query.tolist() == users.queries[users.asking.tolist().index(at)].tolist()
        else:
            assert len(one.query) != DIM


@pytest.mark.parametrize("seed", range(4))
def test_a_micro_batch_holds_what_micro_batches_of_one_hold(catalogue, seed):
    """Row by row, all of it: who else asks changes nothing but how far the rows are padded."""
    rng = np.random.default_rng(100 + seed)
    requests = [random_request(catalogue, rng, number) for number in range(12)]
    batch = open_requests(catalogue, requests, RULES, 12)
    for at, asked in enumerate(requests):
        one = open_requests(catalogue, [asked], RULES, 12)
        for name in (
            "history",
            "gaps",
            "actions",
            "kind",
            "context",
            "events",
            "strengths",
            "rated",
            "searching",
            "draw",
        ):
            assert getattr(one, name)[0].tolist() == getattr(batch, name)[at].tolist(), name
        for name in ("interests", "weights", "led_to"):
            narrow = getattr(one, name)[0]
            assert narrow.tolist() == getattr(batch, name)[at, : len(narrow)].tolist(), name
        for owner, names in {
            "owner": ("had", "had_times", "had_gaps_s"), "excluded_owner": ("excluded",),
            "query_owner": ("queries", "query_strengths"),
        }.items():  # fmt: skip
            own = getattr(batch, owner) == at
            for name in names:
                assert getattr(one, name).tolist() == getattr(batch, name)[own].tolist(), name


def test_one_damaged_user_of_many_is_told_of(catalogue):
    """As when that user is opened alone."""
    golden = (GOLDEN / "interests-v2.bin").read_bytes()
    with pytest.raises(StateError, match=f"^{len(golden) - 1} bytes of interests are cut short"):
        open_users(catalogue, [golden, golden[:-1], golden], RULES)


@pytest.mark.parametrize("seed", range(4))
def test_consumed_items_opened_together_are_what_each_user_has(catalogue, seed):
    rng = np.random.default_rng(seed)
    each = [random_request(catalogue, rng, number).consumed for number in range(12)]
    rows, owner = consumed.opened_together(each)

    assert [consumed.opened(one).tolist() for one in each] == [rows[owner == at].tolist() for at in range(len(each))]
