"""The catalogue and its replica on disk: rows that always fit, and a restart that knows where it was."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rocksdict import Options, Rdict

from model import cache
from model.cache import first_free
from model.catalogue import MOST_OTHERS, Catalogue, Replica, encoder_number
from model.interest import _projection, interest_space
from model.schema import HeadraceError, ItemVector, encode_json, item_key

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
    """Whoever keeps something derived from the matrix sees that it is old; nothing new is no change, nor is an item of
    an encoder that does not serve, and an encoder that serves is one.
    """
    revisions = [catalogue.revision]
    for change in ([item("a", 5)], [gone("a")], [item("b", 1, "v2")], [], [gone("x")], [item("c", 1, "v2")]):
        before = catalogue.revision
        catalogue.apply(change)
        revisions.append(catalogue.revision > before)

    assert [True, True, False, False, False, True] == revisions[1:]


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


# Encoder versions


def items(count: int, version: str = "v1", dim: int = DIM, start: int = 0, seed: int = 0) -> list[ItemVector]:
    return [item(f"m{number}", seed + number, version, dim) for number in range(start, start + count)]


def serving(catalogue: Catalogue) -> tuple[str, int, int]:
    """Encoder version, items and dimensions of what serves."""
    return catalogue.encoder_version, *catalogue.vectors.shape


@pytest.fixture
def large():
    """1,000 items of v1."""
    catalogue = Catalogue()
    catalogue.apply(items(1_000))
    return catalogue


STRAY = {
    "one record": items(1, "v2"),
    "one record of a new item": [item("new", 1, "v2")],
    "of other dimensions": items(1, "v2", dim=12),
    "of other dimensions under its name": items(1, "v1", dim=12),
    "of one number": items(1, "v2", dim=1),
    "without a name": items(1_000, ""),
    "with a long name": items(1_000, "v" * 300),
    "of 10 MB": [ItemVector("m1", "v2", bytes(10_000_000))],
    "of 10 MB under its name": [ItemVector("m1", "v1", bytes(10_000_000))],
    "no numbers": [ItemVector(f"m{number}", "v2", np.full(DIM, np.inf, "<f2").tobytes()) for number in range(1_000)],
    "all but a few": items(899, "v2"),
    "as many items, all new": items(1_000, "v2", start=1_000),
    "more items, most of them new": items(5_000, "v2", start=200),
    "names without end": [item(f"m{number % 1_000}", number, f"x{number}") for number in range(3_000)],
    "names without end, of new items": [item(f"n{number}", number, f"x{number}") for number in range(3_000)],
}


@pytest.mark.parametrize("stray", STRAY.values(), ids=STRAY)
def test_the_encoder_that_serves_stays_until_another_is_complete(large, stray):
    """Whatever comes with other encoders: its items keep their rows and vectors, at once or one by one."""
    one_by_one = Catalogue()
    one_by_one.apply(items(1_000))
    large.apply(stray)
    for record in stray[:1_000]:
        one_by_one.apply([record])

    for catalogue in (large, one_by_one):
        assert len(catalogue.others) <= MOST_OTHERS
        check(catalogue, {f"m{number}": number for number in range(1_000)})


@pytest.mark.parametrize("dim", [DIM, 12])
def test_another_encoder_serves_when_it_is_complete(large, dim):
    """With nine of ten items that serve; the catalogue is the same object, and what comes later joins the others."""
    revision = large.revision
    large.apply(items(900, "v2", dim))

    assert ("v2", 900, dim) == serving(large)
    assert large.revision > revision

    large.apply(items(100, "v2", dim, start=900))

    assert ("v2", 1_000, dim, {}) == (*serving(large), large.others)


def test_an_encoder_that_served_comes_again_item_by_item(large):
    """What it had before does not count: a stray record of the old encoder does not bring it back."""
    large.apply(items(950, "v2"))
    large.apply(items(1, "v1"))

    assert ("v2", 950, DIM) == serving(large)

    large.apply(items(900, "v1"))

    assert ("v1", 950, DIM) == serving(large)  # 50 had never come with v2


def test_a_deletion_applies_to_every_encoder(large):
    """An item that was deleted does not come back when another encoder serves; fewer items may make one complete."""
    large.apply(items(890, "v2"))
    large.apply([gone(f"m{number}") for number in (0, 1, 2)])

    assert ("v1", 997, DIM) == serving(large)

    large.apply([gone(f"m{number}") for number in range(900, 950)])

    assert ("v2", 887, DIM) == serving(large)
    assert [-1, -1, -1] == large.rows([item_key(f"m{number}") for number in (0, 1, 2)]).tolist()


def test_what_is_kept_of_other_encoders_is_bounded(large):
    """The one that comes on survives 10,000 names with one record each, before and among its own."""
    for number in range(10_000):
        large.apply([item(f"m{number % 1_000}", number, f"before{number}")])
    for start in range(0, 900, 50):
        large.apply(items(50, "v2", start=start))
        large.apply([item(f"n{number}", number, f"x{start}-{number}") for number in range(50)])

        assert len(large.others) <= MOST_OTHERS

    assert "v2" == large.encoder_version


def test_nothing_is_kept_for_sizes_that_never_serve(large):
    """A record of every size from 1 to 1,000 numbers: no projection is made for them."""
    before = _projection.cache_info().currsize
    for dim in range(1, 1_000):
        large.apply([item("m1", dim, f"x{dim}", dim)])

    assert before == _projection.cache_info().currsize
    assert ("v1", 1_000, DIM) == serving(large)


def test_the_first_encoder_serves_at_once():
    """Also after the last item of the one before was deleted."""
    catalogue = Catalogue()
    catalogue.apply(items(1, "v2", dim=12))
    first = serving(catalogue)
    catalogue.apply([gone("m0"), *items(1, "v3")])

    assert (("v2", 1, 12), ("v3", 1, DIM)) == (first, serving(catalogue))


def pin(version: str, pinned: bool = True) -> ItemVector:
    return ItemVector("", version, pinned=pinned)


def test_an_encoder_is_pinned_by_hand(large):
    """It serves however few items it has, whatever is complete, until the next word; other junk says nothing."""
    large.apply([*items(3, "v2"), pin("v2")])
    pinned = serving(large)
    large.apply([*items(1_000, "v1"), ItemVector("", ""), ItemVector("", "v1"), pin(""), pin("v" * 300)])
    held = serving(large)
    large.apply([pin("", False)])

    assert (("v2", 3, DIM), ("v2", 3, DIM), ("v1", 1_000, DIM)) == (pinned, held, serving(large))


def test_what_is_pinned_before_it_is_there_serves_when_it_comes(large):
    """Nothing changes until then: a compacted topic may hold the word before the items."""
    large.apply([pin("v2")])
    before = serving(large)
    large.apply(items(1, "v2"))

    assert (("v1", 1_000, DIM), ("v2", 1, DIM)) == (before, serving(large))


def test_the_encoder_that_serves_can_be_pinned(large):
    """Then no other takes its place, even when it is complete."""
    large.apply([pin("v1"), *items(1_000, "v2")])
    held = serving(large)
    large.apply([pin("", False)])

    assert (("v1", 1_000, DIM), ("v2", 1_000, DIM)) == (held, serving(large))


def compacted(log: list[ItemVector]) -> list[ItemVector]:
    """What a compacted topic keeps: each key's newest record, in their order."""
    newest = {record.item_id: at for at, record in enumerate(log)}
    return [log[at] for at in sorted(newest.values())]


COMPACTED = {
    "a stray one": ([*items(100), *items(1, "v2")], ("v1", 99)),
    "under way": ([*items(100), *items(50, "v2")], ("v1", 50)),
    "complete": ([*items(100), *items(95, "v2")], ("v2", 95)),
    "nearly complete, and stuck": ([*items(100), *items(80, "v2")], ("v2", 80)),  # the topic has lost the other 80
    "and back": ([*items(100), *items(95, "v2"), *items(100)], ("v1", 100)),
    "pinned": ([*items(100), *items(30, "v2"), pin("v2")], ("v2", 30)),
    "pinned, and come again": ([*items(100), *items(30, "v2"), pin("v2"), *items(60, "v2")], ("v2", 60)),
    "the third": ([*items(100), *items(95, "v2"), *items(60, "v3", start=5)], ("v2", 35)),
}


@pytest.mark.parametrize("log, expected", COMPACTED.values(), ids=COMPACTED)
def test_who_reads_a_compacted_topic_comes_to_the_same(log, expected):
    """The same encoder serves, of the items that the topic still has; where those are few, the largest."""
    late = Catalogue()
    late.apply(compacted(log))
    late.settle()

    assert expected == serving(late)[:2]


def test_each_deletion_and_each_word_counts():
    """Nine of ten were there between two deletions, or two words: that version serves, at once or one by one."""
    deletions = [*items(21), *items(18, "v2"), gone("m20"), gone("m0"), gone("m1")]
    words = [*items(20), *items(5, "v2"), pin("v2"), pin("v1", False)]
    for log in (deletions, words):
        at_once, one_by_one = Catalogue(), Catalogue()
        at_once.apply(log)
        for record in log:
            one_by_one.apply([record])

        assert "v2" == at_once.encoder_version == one_by_one.encoder_version
        assert serving(at_once) == serving(one_by_one)


@pytest.mark.parametrize("seed", range(20))
def test_any_cut_of_the_records_leads_to_the_same(seed):
    """What serves and what waits follows from the records in their order, not from how many came at once."""
    draw = random.Random(seed)
    versions, log = ["v1", "v2", "v3", "v4", "v5", "v6"], []
    while len(log) < 400:
        version, number, kind = draw.choice(versions[: draw.randint(1, 6)]), draw.randrange(25), draw.random()
        if kind < 0.02:
            log += [pin(draw.choice(versions), draw.random() < 0.5) for _ in range(3)]
        elif kind < 0.1:
            log += [gone(f"m{draw.randrange(25)}") for _ in range(6)]
        elif kind < 0.2:
            log += [item(f"m{other}", draw.randrange(99), version) for other in draw.sample(range(25), 21)]
        else:
            log += [item(f"m{number}", draw.randrange(99), version)]
    whole, cut = Catalogue(), Catalogue()
    whole.apply(log)
    while log:
        size = draw.randint(1, 20)
        cut.apply(log[:size])
        log = log[size:]

    def state(catalogue: Catalogue) -> list:
        every = [catalogue.serving, *catalogue.others.values()]
        return [(one.space, dict(zip(one.item_ids, one.vectors.tolist()))) for one in every]

    assert state(whole) == state(cut)
    assert all(one.keys.tolist() == [item_key(item_id) for item_id in one.item_ids] for one in whole.others.values())


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


def contents(replica: Replica) -> tuple:
    """All that a replica knows."""
    catalogue = replica.catalogue
    every = [catalogue.serving, *catalogue.others.values()]
    held = [(one.space, dict(zip(one.item_ids, one.vectors.tolist()))) for one in every]
    return held, catalogue.pinned, dict(replica.offsets), replica.source


@pytest.mark.parametrize("seed", range(10))
def test_a_replica_is_reopened_with_every_encoder_that_it_had(replica, seed):
    """After any records, the one that serves and the others are those of a replica that was never closed."""
    draw, never_closed = random.Random(seed), Catalogue()
    opened = replica()
    opened.clear("cluster item-vectors")
    for start in range(0, 300, 30):
        batch = []
        for _ in range(30):
            version, number = f"v{draw.randint(1, 1 + start // 50)}", draw.randrange(12)
            kind, dim = draw.random(), draw.choice([DIM, DIM, DIM, 12])
            batch += [gone(f"m{number}")] if kind < 0.1 else [item(f"m{number}", draw.randrange(99), version, dim)]
            batch += [pin(version, draw.random() < 0.5)] if kind > 0.98 else []
        opened.apply(records(*batch, start=start))
        never_closed.apply(batch)
        before = contents(opened)
        opened = replica()

        assert before == contents(opened)
        assert [one.space for one in never_closed.others.values()] == list(opened.catalogue.others)
        assert never_closed.encoder_version == opened.catalogue.encoder_version


def test_a_stray_record_leaves_a_replica_as_it_is(replica):
    """After a restart too; and the disk forgets the encoders that nobody keeps."""
    first = replica()
    first.apply(records(*items(100)))
    for number in range(200):
        first.apply(records(item("m1", number, f"x{number}", dim=12), start=100 + number))
    again = replica()

    check(again.catalogue, {f"m{number}": number for number in range(100)})
    assert 100 + MOST_OTHERS + 1 >= sum(1 for _ in again._cache.items())


def test_a_new_replica_decides_once_it_has_read_all(replica):
    """Of what a compacted topic has left; what it decided then stays when the topic's end is reached again."""
    first = replica()
    first.apply(records(*items(20, start=80), *items(80, "v2")))
    first.settle()
    settled = serving(first.catalogue)
    first.apply(records(*items(70, "v3"), start=100))
    again = replica()
    again.settle()

    assert (("v2", 80, DIM), ("v2", 80, DIM)) == (settled, serving(again.catalogue))


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


HOLD = """
import sys
from rocksdict import Options, Rdict
held = Rdict(sys.argv[1], Options(raw_mode=True))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold():
    """`hold(folder)`: another process holds the lock of a RocksDB there."""
    others = []

    def hold(folder: Path) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        others.append(subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], **pipes))
        assert b"held\n" == others[-1].stdout.readline()

    yield hold
    for other in others:
        other.communicate()


@pytest.mark.parametrize("name", ["workers", "lock", "a locked LOCK: Resource temporarily unavailable"])
def test_a_folder_that_another_process_holds_is_left_to_it(tmp_path, hold, name):
    """Whatever the folder is called; what it holds stays."""
    kept = Replica(tmp_path / name / "0")
    kept.apply(records(*items(3)))
    kept.close()
    hold(tmp_path / name / "0")
    second = first_free(tmp_path / name, Replica)

    assert ["0", "1"] == sorted(folder.name for folder in (tmp_path / name).iterdir())
    assert 0 == len(second.catalogue)
    second.close()


def a_file(folder: Path) -> None:
    (folder / "0").write_text("lock")


def below_a_file(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("lock")


@pytest.mark.parametrize("trouble", [a_file, below_a_file])
def test_a_folder_that_cannot_be_made_is_said(tmp_path, trouble):
    """It is no lock, whatever its name: nobody looks for another folder for ever."""
    (tmp_path / "blocklock").mkdir()
    trouble(tmp_path / "blocklock")

    with pytest.raises(OSError, match=r"File exists.*blocklock"):
        first_free(tmp_path / "blocklock", Replica)


TROUBLES = [
    OSError(errno.ENOSPC, "no space left on device, the disk is locked"),
    PermissionError(errno.EACCES, "Permission denied", "/x/lock/0/LOCK"),
    Exception("IO error: While lock file: /x/0/LOCK: No locks available"),
    Exception("IO error: while open a file for lock: /x/0/LOCK: Permission denied"),
    Exception("Corruption: /x/0/LOCK: Resource temporarily unavailable"),
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_trouble_is_not_taken_for_a_lock(tmp_path, trouble):
    """Only what RocksDB says of a lock that is held leads to the next folder."""
    tried = []

    def fails(folder):
        tried.append(folder.name)
        raise trouble

    with pytest.raises(type(trouble)) as raised:
        first_free(tmp_path, fails)

    assert (trouble, ["0"]) == (raised.value, tried)


def test_the_search_for_a_folder_ends(tmp_path, monkeypatch):
    """With a sentence that says what to do."""
    monkeypatch.setattr(cache, "MOST_FOLDERS", 3)
    held = [first_free(tmp_path, Replica) for _ in range(3)]

    with pytest.raises(HeadraceError, match="the folders 0 to 2 are held by processes"):
        first_free(tmp_path, Replica)
    for replica in held:
        replica.close()


def each_file(pattern: str, change):
    """Harm: change the bytes of every file that fits."""

    def harm(folder: Path) -> None:
        for file in folder.glob(pattern):
            file.write_bytes(change(file.read_bytes()))

    return harm


def entries(**changes: bytes):
    """Harm: put something else under keys of the database."""

    def harm(folder: Path) -> None:
        disk = Rdict(str(folder), Options(raw_mode=True))
        for key, value in changes.items():
            disk[key.encode()] = value
        disk.close()

    return harm


def one_item(value: bytes | None):
    """Harm: another value under the key of an item; None for a key that is cut short."""

    def harm(folder: Path) -> None:
        disk = Rdict(str(folder), Options(raw_mode=True))
        key = max(disk.keys())
        disk[key if value is not None else key[:5]] = value or disk[key]
        disk.close()

    return harm


def middle(data: bytes) -> bytes:
    """Bytes changed inside: the file has its length, and its beginning and end are right."""
    at = len(data) // 2
    return data[:at] + bytes(byte ^ 0xFF for byte in data[at : at + 2_000]) + data[at + 2_000 :]


def removed(pattern: str):
    def harm(folder: Path) -> None:
        for file in folder.glob(pattern):
            file.unlink()

    return harm


HARMS = {
    "CURRENT is gone": removed("CURRENT"),
    "CURRENT is garbage": each_file("CURRENT", lambda data: b"garbage"),
    "the manifest is gone": removed("MANIFEST*"),
    "the manifest is garbage": each_file("MANIFEST*", lambda data: b"garbage" * 99),
    "tables are gone": removed("*.sst"),
    "tables are cut short": each_file("*.sst", lambda data: data[:-100]),
    "tables are garbage": each_file("*.sst", lambda data: b"garbage" * 99),
    "tables have changed inside": each_file("*.sst", middle),
    "everything is garbage": each_file("*", lambda data: os.urandom(500)),
    "everything is empty": each_file("*", lambda data: b""),
    "the state is garbage": entries(s=b"\xff"),
    "the state is empty": entries(s=b""),
    "the state is of another layout": entries(s=b'{"layout":99}'),
    "offsets are no numbers": entries(
        s=b'{"layout":1,"source":"","offsets":{"a":1},"serving":["v1",8],"others":[],"pinned":"","settled":true}'
    ),
    "the encoder is another": entries(
        s=b'{"layout":1,"source":"","offsets":{},"serving":["v7",8],"others":[],"pinned":"","settled":true}'
    ),
    "an entry of nobody": entries(x=b"garbage"),
    "of an earlier release": entries(i1=b'{"item_id":"1"}', o0=b"17"),
    "an item is garbage": one_item(b"garbage"),
    "an item has no vector": one_item(b'{"item_id":"m999"}'),
    "an item is another": one_item(encode_json(item("m1"))),
    "a key is cut short": one_item(None),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_broken_replica_is_made_anew(tmp_path, caplog, harm):
    """It is only a copy of the topic: it begins empty, in its folder, and the log says so."""
    first = first_free(tmp_path, Replica)
    first.apply(records(*items(1_000)))
    first.close()
    harm(tmp_path / "0")
    second = first_free(tmp_path, Replica)
    empty = contents(second)
    second.apply(records(*items(5)))
    second.close()
    third = first_free(tmp_path, Replica)

    assert ["0"] == sorted(folder.name for folder in tmp_path.iterdir())
    assert contents(Replica(tmp_path / "new")) == empty
    assert f"{tmp_path / '0'} cannot be used and is made anew" in caplog.text
    check(third.catalogue, {f"m{number}": number for number in range(5)})
    third.close()


def test_a_replica_goes_on_in_memory_where_the_disk_fails(replica, caplog, monkeypatch):
    """A restart then reads on from what was kept: items and offsets fit together."""
    first = replica()
    first.apply(records(*items(3)))
    disk = first._cache._disk

    class Full:
        close = disk.close

        def write(self, batch):
            raise Exception("IO error: No space left on device")

    monkeypatch.setattr(first._cache, "_disk", Full())
    first.apply(records(item("m0", 77), start=3))
    monkeypatch.setattr(first._cache, "_disk", disk)
    first.apply(records(item("m1", 88), start=4))

    check(first.catalogue, {"m0": 77, "m1": 88, "m2": 2})
    assert 1 == caplog.text.count("No space left on device")

    again = replica()

    assert {0: 3} == again.offsets
    check(again.catalogue, {"m0": 0, "m1": 1, "m2": 2})
