"""The catalogue and its replica on disk: rows that always fit, and a restart that knows where it was."""

import numpy as np
import pytest

from model.catalogue import Catalogue, Replica, encoder_number, first_free
from model.interest import interest_space
from model.schema import ItemVector, encode_json, item_key

DIM = 8


def vector(seed: int, dim: int = DIM) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal(dim)
    return (drawn / np.linalg.norm(drawn)).astype("<f2")


def item(item_id: str, seed: int = 0, version: str = "v1", dim: int = DIM) -> ItemVector:
    return ItemVector(item_id, version, vector(seed, dim).tobytes())


def gone(item_id: str) -> ItemVector:
    return ItemVector(item_id, "v1", deleted=True)


def records(*items: ItemVector | bytes | None, start: int = 0, partition: int = 0) -> list[tuple[int, int, bytes]]:
    values = [encode_json(one) if isinstance(one, ItemVector) else one for one in items]
    return [(partition, offset, value) for offset, value in enumerate(values, start)]


def check(catalogue: Catalogue, expected: dict[str, int]) -> None:
    """The catalogue holds exactly these items, with the vectors of these seeds, and finds each at its row."""
    assert (
        len(expected)
        == len(catalogue)
        == len(catalogue.keys)
        == len(catalogue.vectors)
        == len(catalogue.interest_vectors)
    )
    assert set(expected) == set(catalogue.item_ids)
    if not expected:
        return
    ids = list(expected)
    rows = catalogue.rows([item_key(item_id) for item_id in ids])
    wanted = np.stack([vector(seed) for seed in expected.values()]).astype(np.float32)
    assert ids == [catalogue.item_ids[row] for row in rows]
    assert rows.tolist() == [catalogue.row(item_key(item_id)) for item_id in ids]
    assert [item_key(item_id) for item_id in ids] == catalogue.keys[rows].tolist()
    assert wanted.tolist() == catalogue.vectors[rows].tolist()
    assert np.allclose(interest_space(wanted), [catalogue.lookup(item_key(item_id)) for item_id in ids], atol=1e-6)


@pytest.fixture
def catalogue():
    catalogue = Catalogue()
    catalogue.apply([item("a", 1), item("b", 2), item("c", 3)])
    return catalogue


@pytest.fixture
def replica(tmp_path):
    """Reopens itself: `replica()` closes the one before."""
    opened = []

    def reopen() -> Replica:
        if opened:
            opened.pop().close()
        opened.append(Replica(tmp_path / "replica"))
        return opened[0]

    yield reopen
    opened[0].close()


# In memory


def test_an_empty_catalogue_has_no_rows():
    """Whatever is asked of it."""
    catalogue = Catalogue()

    check(catalogue, {})
    assert (-1, None) == (catalogue.row(1), catalogue.lookup(1))
    assert [-1, -1] == catalogue.rows([1, 2]).tolist()


def test_items_come_change_and_go(catalogue):
    """A changed item keeps its row, the last item moves into the place of one that is deleted."""
    check(catalogue, {"a": 1, "b": 2, "c": 3})

    catalogue.apply([item("b", 9), gone("a"), item("d", 4)])

    check(catalogue, {"c": 3, "b": 9, "d": 4})
    assert -1 == catalogue.row(item_key("a"))


def test_the_newest_word_on_an_item_counts(catalogue):
    """Also when an item comes several times at once."""
    catalogue.apply([item("a", 7), gone("a"), gone("b"), item("b", 8), item("c", 9), item("c", 10)])

    check(catalogue, {"b": 8, "c": 10})


def test_an_item_that_was_never_there_can_be_deleted(catalogue):
    """Nothing happens."""
    catalogue.apply([gone("x")])

    check(catalogue, {"a": 1, "b": 2, "c": 3})


def test_the_revision_grows_with_every_change(catalogue):
    """Whoever keeps something derived from the matrix sees that it is old; nothing new is no change."""
    revisions = [catalogue.revision]
    for change in ([item("a", 5)], [gone("a")], [item("z", 1, "v2")], []):
        catalogue.apply(change)
        revisions.append(catalogue.revision)

    assert [1, 2, 3, 4, 4] == revisions


def test_a_catalogue_grows_beyond_its_first_room():
    """3,000 items, in steps, each found at its row."""
    catalogue = Catalogue()
    for start in range(0, 3_000, 300):
        catalogue.apply([item(f"m{number}", number) for number in range(start, start + 300)])

    check(catalogue, {f"m{number}": number for number in range(3_000)})


@pytest.mark.parametrize("seed", range(5))
def test_any_changes_leave_every_item_at_its_row(seed):
    """A plain dict says what should be there after each of 60 random batches."""
    rng = np.random.default_rng(seed)
    catalogue, expected = Catalogue(), {}
    for _ in range(60):
        batch = []
        for number in rng.integers(0, 40, rng.integers(0, 12)).tolist():
            item_id, drawn = f"m{number}", int(rng.integers(1_000))
            if rng.random() < 0.4:
                batch.append(gone(item_id))
                expected.pop(item_id, None)
            else:
                batch.append(item(item_id, drawn))
                expected[item_id] = drawn
        catalogue.apply(batch)

        check(catalogue, expected)


def test_another_encoder_starts_a_new_catalogue(catalogue):
    """Its vectors may have other dimensions; the older items wait until they come again."""
    catalogue.apply([item("b", 2, "v2", dim=12)])

    assert (["b"], "v2", (1, 12)) == (catalogue.item_ids, catalogue.encoder_version, catalogue.vectors.shape)
    assert -1 == catalogue.row(item_key("a"))

    catalogue.apply([item("a", 1, "v2", dim=12)])

    assert ["b", "a"] == catalogue.item_ids


def test_vectors_of_two_encoders_never_stand_side_by_side():
    """In one batch the last item says which encoder counts."""
    catalogue = Catalogue()
    catalogue.apply([item("a", 1), item("b", 2, "v2", dim=12), item("c", 3), item("d", 4, "v2", dim=12)])

    assert (["b", "d"], "v2") == (catalogue.item_ids, catalogue.encoder_version)


def test_an_encoder_version_has_one_number():
    """It stands for the version in a user's interests, wherever it is computed; 32 bits."""
    catalogue = Catalogue()
    catalogue.apply([item("a", 1, "minilm-1")])

    assert encoder_number("minilm-1") == catalogue.encoder < 2**32
    assert encoder_number("minilm-1") != encoder_number("minilm-2")


# On disk


def test_a_replica_is_reopened_where_it_was(replica):
    """Items, changes, deletions and the offsets of every partition survive; only what is new need be read."""
    first = replica()
    first.apply(records(item("a", 1), item("b", 2), item("c", 3)))
    first.apply(records(item("d", 4), item("a", 9), start=40, partition=1))
    first.apply(records(gone("b"), start=3))
    again = replica()

    assert {0: 4, 1: 42} == again.offsets
    check(again.catalogue, {"a": 9, "c": 3, "d": 4})


def test_a_new_replica_starts_at_nothing(replica):
    """No items, no offsets."""
    new = replica()

    assert {} == new.offsets
    check(new.catalogue, {})


def test_a_reopened_replica_stays_with_the_newer_encoder(replica):
    """Items that have not come again since the encoder changed wait, after a restart as before it."""
    first = replica()
    first.apply(records(item("a", 1), item("z", 2)))
    first.apply(records(item("a", 3, "v2", dim=12), start=2))
    again = replica()

    assert ("v2", ["a"]) == (again.catalogue.encoder_version, again.catalogue.item_ids)


BAD = {
    "no JSON": b"nope",
    "no object": b"[]",
    "nothing": b"",
    "no item id": b"{}",
    "a tombstone": None,
    "no vector": b'{"item_id":"q","encoder_version":"v1"}',
    "half a number": b'{"item_id":"q","encoder_version":"v1","vector":"AAAA"}',
    "fewer dimensions": b'{"item_id":"q","encoder_version":"v1","vector":"AAA="}',
    "an update with fewer dimensions": b'{"item_id":"a","encoder_version":"v1","vector":"AAA="}',
    "not a number": encode_json(ItemVector("q", "v1", np.full(DIM, np.nan, "<f2").tobytes())),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_record_that_cannot_be_used_is_passed_over(replica, bad):
    """The items around it count, its offset is done with, and a restart does not stumble over it."""
    first = replica()
    first.apply(records(item("a", 1)))
    first.apply(records(item("b", 2), bad, item("c", 3), start=1))

    check(first.catalogue, {"a": 1, "b": 2, "c": 3})

    again = replica()

    assert {0: 4} == again.offsets
    check(again.catalogue, {"a": 1, "b": 2, "c": 3})


def test_a_cleared_replica_has_forgotten_everything(replica):
    """On disk too: the topic was made anew, and its offsets start at 0."""
    first = replica()
    first.apply(records(item("a", 1)))
    first.clear()

    assert {} == first.offsets
    check(first.catalogue, {})

    again = replica()

    assert {} == again.offsets
    check(again.catalogue, {})


def test_an_item_may_have_any_id(replica):
    """Text beyond ASCII, and names that look like ours."""
    names = ["é", "日本", "o0", "i", "a b/c"]
    replica().apply(records(*(item(name, seed) for seed, name in enumerate(names))))

    check(replica().catalogue, {name: seed for seed, name in enumerate(names)})


def test_two_workers_keep_their_replicas_in_different_folders(tmp_path):
    """Each takes the first folder that no other holds; one that was closed is taken again, with what it knew."""
    first, second = first_free(tmp_path, Replica), first_free(tmp_path, Replica)
    first.apply(records(item("a", 1)))
    second.apply(records(item("b", 2)))

    assert ["0", "1"] == sorted(folder.name for folder in tmp_path.iterdir())

    first.close()
    third = first_free(tmp_path, Replica)

    assert ["0", "1"] == sorted(folder.name for folder in tmp_path.iterdir())
    check(third.catalogue, {"a": 1})
    second.close()
    third.close()


def test_another_trouble_with_a_folder_is_not_taken_for_a_lock(tmp_path):
    """A disk that is full is no reason to look for another folder for ever."""

    def full(folder):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        first_free(tmp_path, full)
