"""The index of a catalogue: neighbours by text are those that comparing everything finds, whatever has changed."""

import numpy as np
import pytest

from model.catalogue import Catalogue
from model.interest import INTEREST_DIM
from model.schema import ItemVector
from model.scoring import index as index_module
from model.scoring.index import NEIGHBOURS, CatalogueIndex

DIM = 24


def item(number: int, at: int = 0, encoder: str = "e1", dim: int = DIM) -> ItemVector:
    """An item by its number, of one of five kinds; the vector that it has at some time."""
    kinds = np.random.default_rng(0).standard_normal((5, dim))
    vector = kinds[number % 5] + 0.7 * np.random.default_rng([number, at]).standard_normal(dim)
    return ItemVector(f"i{number}", encoder, (vector / np.linalg.norm(vector)).astype("<f2").tobytes())


def gone(number: int) -> ItemVector:
    return ItemVector(f"i{number}", deleted=True)


def make_catalogue(items: int) -> Catalogue:
    catalogue = Catalogue()
    catalogue.apply(item(number) for number in range(items))
    return catalogue


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def all_cosines(catalogue: Catalogue) -> np.ndarray:
    cosines = unit(catalogue.vectors) @ unit(catalogue.vectors).T
    np.fill_diagonal(cosines, 0.0)
    return cosines


def told(index: CatalogueIndex) -> list[dict[int, float]]:
    """The neighbours of every item that are in the tables, looked up as retrieval does; row -> cosine."""
    index.sync()
    rows = np.arange(len(index))
    index.look_up(rows)
    near, nearness = (table[: len(index)] for table in index.tables())
    for one, other in zip(index.neighbours(rows), (near, nearness)):
        assert np.array_equal(np.where(nearness > 0, one, 0), np.where(nearness > 0, other, 0))
    return [
        {int(row): float(cosine) for row, cosine in zip(*one) if cosine > 0} for one in zip(near.tolist(), nearness)
    ]


def assert_true(have: dict[int, float], cosines: np.ndarray, row: int) -> None:
    """What is found has its true cosines, and is not the item itself."""
    assert row not in have
    assert np.allclose(cosines[list(have)], list(have.values()), atol=1e-5)


def assert_exact(index: CatalogueIndex) -> None:
    """Every item has the neighbours that it has among all: the nearest NEIGHBOURS above 0, with their cosines."""
    wanted = all_cosines(index.catalogue)
    for row, have in enumerate(told(index)):
        best = np.sort(wanted[row][wanted[row] > 0])[::-1][:NEIGHBOURS]
        assert len(best) == len(have)
        assert np.allclose(best, sorted(have.values(), reverse=True), atol=1e-5)
        assert_true(have, wanted[row], row)


@pytest.mark.parametrize("items", [0, 1, 2, 5, NEIGHBOURS, NEIGHBOURS + 1, 200])
def test_neighbours_are_those_with_the_nearest_texts(items):
    """Fewer than there is room for where there are fewer; none of none."""
    catalogue = make_catalogue(items)
    assert_exact(CatalogueIndex(catalogue))


def test_neighbours_stay_exact_when_those_of_before_are_gone():
    """Items take the places of neighbours that are deleted or become something else, until few are left."""
    catalogue = make_catalogue(300)
    index = CatalogueIndex(catalogue)
    assert_exact(index)
    for start in range(0, 280, 40):
        catalogue.apply(gone(number) for number in range(start, start + 20))
        assert_exact(index)
        catalogue.apply(item(number, at=1) for number in range(start + 20, start + 40))
        assert_exact(index)


@pytest.mark.parametrize("seed", range(6))
def test_neighbours_are_exact_after_any_changes(seed):
    """Items come, change, go and come again, one at a time and many at once, seen by the index now and then."""
    random, catalogue = np.random.default_rng(seed), make_catalogue(40 * (seed % 3))
    index = CatalogueIndex(catalogue)
    for at in range(60):
        numbers = random.integers(0, 150, random.integers(1, 30) if random.random() < 0.2 else 1)
        deletes = random.random() < 0.45
        catalogue.apply([gone(number) if deletes else item(number, at) for number in numbers.tolist()])
        if random.random() < 0.3:
            index.sync()
        if at % 12 == 11:
            assert_exact(index)


def assert_centred(index: CatalogueIndex, atol: float = 1e-5) -> None:
    vectors = index.catalogue.interest_vectors
    assert np.allclose(unit(vectors - index.mean), index.contrast, atol=atol)


def test_another_encoder_leaves_nothing_of_the_one_before():
    """Also where another item comes before the index looks again: mean, contrast and neighbours are the new ones."""
    catalogue = make_catalogue(49)
    catalogue.apply([item(49)])
    index = CatalogueIndex(catalogue)
    index.sync()
    catalogue.apply(item(number, 5, "e2") for number in range(50))
    catalogue.apply([item(50, 5, "e2")])
    assert_exact(index)

    assert "e2" == catalogue.encoder_version
    assert np.allclose(catalogue.interest_vectors.mean(0), index.mean, atol=0.05)
    assert_centred(index)


def test_the_mean_is_that_of_the_items_up_to_a_tenth():
    """It follows what comes, what goes and what changes; who follows the changes learns that all vectors moved."""
    catalogue = make_catalogue(100)
    index = CatalogueIndex(catalogue)
    index.sync()
    for number in range(100):
        catalogue.apply([item(number, at=3, dim=DIM)])
        seen = index.changes
        mean = index.mean.copy()
        index.sync()
        assert_centred(index)
        changed = index.changed_since(seen)
        assert (len(index) if not np.array_equal(mean, index.mean) else 1) == len(changed)
    assert np.abs(catalogue.interest_vectors.mean(0) - index.mean).max() < 0.05
    for number in range(60):
        catalogue.apply([gone(number)])
        index.sync()
        assert_centred(index)
    assert np.abs(catalogue.interest_vectors.mean(0) - index.mean).max() < 0.05


def test_what_has_changed_is_told_since_any_moment():
    """The row of a deleted item holds another one; a row that is no more is not told of."""
    catalogue = make_catalogue(200)
    index = CatalogueIndex(catalogue)
    index.sync()
    first = index.changes
    catalogue.apply([item(7, at=1)])
    index.sync()
    second = index.changes
    catalogue.apply([gone(3), gone(198)])
    index.sync()

    assert [3, 7] == index.changed_since(first).tolist()
    assert [3] == index.changed_since(second).tolist()
    assert [] == index.changed_since(index.changes).tolist()
    assert list(range(198)) == index.changed_since(0).tolist()


@pytest.fixture
def cells(monkeypatch):
    """Indices keep cells from 100 items on, and compare no longer everything beyond 150."""
    monkeypatch.setattr(index_module, "CELLS_FROM", 100)
    monkeypatch.setattr(index_module, "EXACT", 150)


def recall(index: CatalogueIndex) -> float:
    """How many of the true neighbours are found; whatever is found has its true cosine."""
    wanted, found, there = all_cosines(index.catalogue), 0, 0
    for row, have in enumerate(told(index)):
        best = {other for other in np.argsort(-wanted[row])[:NEIGHBOURS].tolist() if wanted[row, other] > 0}
        assert_true(have, wanted[row], row)
        found, there = found + len(best & have.keys()), there + len(best)
    return found / there


def test_beyond_what_is_compared_neighbours_are_found_in_cells(cells):
    """Most of them, with their true cosines; in calls of so many items at most."""
    catalogue = make_catalogue(700)
    index = CatalogueIndex(catalogue)
    index.sync()
    assert not index.tables()[1].any()
    index.look_up(np.arange(700))
    assert index_module.LOOKUPS == (index.tables()[1][:700, 0] > 0).sum()
    for _ in range(700 // index_module.LOOKUPS + 1):
        index.look_up(np.arange(700))

    assert recall(index) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_in_cells_nothing_stale_is_ever_used(cells, seed):
    """Items come, change and go, and their number crosses both bounds: no neighbour is another item by now, and below
    the bound all of them are exact again.
    """
    random, catalogue = np.random.default_rng(seed), make_catalogue(90)
    index = CatalogueIndex(catalogue)
    for at, wanted in enumerate([120, 145, 400, 380, 420, 200, 155, 130, 90, 180, 140, 10, 160]):
        while len(catalogue) < wanted:
            catalogue.apply(item(number, at) for number in random.integers(0, 600, 10).tolist())
            index.sync()
        while len(catalogue) > wanted:
            left = [int(catalogue.item_ids[row][1:]) for row in random.permutation(len(catalogue))[:10]]
            catalogue.apply(gone(number) for number in left)
            index.sync()
        catalogue.apply(item(number, at + 50) for number in random.integers(0, 600, 3).tolist())
        for _ in range(0, len(catalogue), index_module.LOOKUPS):
            share = recall(index)
        assert share > 0.9
        if len(catalogue) <= 150:
            assert_exact(index)


def test_the_nearest_to_a_vector_are_found_with_and_without_cells(cells):
    """Exact below the bound; beyond it most are found, none that is gone, and each once."""
    for items, least in ((90, 1.0), (600, 0.8)):
        catalogue = make_catalogue(items)
        index = CatalogueIndex(catalogue)
        index.sync()
        catalogue.apply(gone(number) for number in range(0, items, 7))
        index.sync()
        vectors = unit(np.random.default_rng(1).standard_normal((20, INTEREST_DIM)).astype(np.float32))
        found, cosines = index.nearest(vectors, 10), vectors @ index.contrast.T
        best = np.argsort(-cosines, axis=1)[:, :10]

        assert found.max() < len(catalogue)
        assert all(len(set(one) - {-1}) == (one >= 0).sum() for one in found)
        assert np.mean([len(set(one) & set(other)) / 10 for one, other in zip(found, best)]) >= least


@pytest.mark.parametrize("items", [0, 3])
def test_there_are_no_more_nearest_than_items(items):
    catalogue = make_catalogue(items)
    index = CatalogueIndex(catalogue)
    index.sync()

    assert (2, items) == index.nearest(np.ones((2, INTEREST_DIM)), 10).shape
    assert (0, items) == index.nearest(np.ones((0, INTEREST_DIM)), 10).shape
