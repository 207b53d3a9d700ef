"""Triples (head, relation, tail) of a knowledge graph, and which items share what in it.

    file ─► Triples, read once ─► Graph, of the items that the catalogue has now

Two items are near when they stand in the same relation to the same entity (item -r- entity -r- item), the rarer the
entity the more; or when a triple names both. An item's facts are its rarest `MOST_FACTS`.

Source: Di Noia et al., Linked open data to support content-based recommender systems, 2012 (idf of shared entities).
"""

import csv
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import fsspec
import numpy as np

from model.catalogue import Catalogue
from model.schema import HeadraceError, brief, item_key

COLUMNS = ("head", "relation", "tail")
MOST_TRIPLES = 10_000_000
EVERYWHERE, FEW, MANY = 0.05, 10, 2_000
"""An entity says nothing that more than this share of the items have, unless they are few, or that too many have."""
MOST_FACTS = 64

logger = logging.getLogger(__name__)


class TriplesError(HeadraceError):
    """A file of triples cannot be used: which, where in it, what was wanted."""


class Graph(NamedTuple):
    """The facts of the items of a catalogue. What items can share is an entity with a relation.

    Shape: starts (n + 1,) and facts (f,): those of row i begin at starts[i]; strength (f,), unit length for an item;
    item_starts (E + 1,) and items (f,): the rows that have a fact, ascending; idf (E,) its worth; relation (E,) the
    number of its relation, -1 where a triple names both items.
    """

    starts: np.ndarray
    facts: np.ndarray
    strength: np.ndarray
    item_starts: np.ndarray
    items: np.ndarray
    idf: np.ndarray
    relation: np.ndarray


class Triples:
    """All triples of a file, as numbers.

    Shape: heads, relations, tails (t,) int32; keys (nodes,) uint64, `item_key` of each node, 0 for one that is no item.
    """

    def __init__(self, triples: Iterable[tuple[str, ...]], item_of: Mapping[str, str] | None = None) -> None:
        nodes: dict[str, int] = {}
        names: dict[str, int] = {}
        numbered = [
            (nodes.setdefault(head, len(nodes)), names.setdefault(name, len(names)), nodes.setdefault(tail, len(nodes)))
            for head, name, tail in triples
        ]
        columns = np.array(numbered, np.int32).reshape(-1, 3)
        self.heads, relations, self.tails = columns.T.copy()
        ids = nodes if item_of is None else (item_of.get(node) for node in nodes)
        self.keys = np.array([0 if name is None else item_key(name) for name in ids], np.uint64)
        self.names = list(names)
        self.relations = self._without_inverses(relations)
        self._graphs: WeakKeyDictionary[Catalogue, tuple[int, np.ndarray, Graph]] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self.heads)

    def _without_inverses(self, relations: np.ndarray) -> np.ndarray:
        """Of two relations that join the same pairs of nodes, one: that of which more heads are items."""
        low, high = np.minimum(self.heads, self.tails), np.maximum(self.heads, self.tails)
        pairs = low.astype(np.int64) * len(self.keys) + high
        of_items = np.bincount(relations, self.keys[self.heads] > 0, len(self.names))
        same: dict[bytes, int] = {}
        becomes = np.arange(len(self.names), dtype=np.int32)
        for name in np.argsort(-of_items, kind="stable").tolist():
            digest = blake2b(np.unique(pairs[relations == name]).tobytes()).digest()
            becomes[name] = same.setdefault(digest, name)
        return becomes[relations]

    def unknown(self, known: Iterable[int]) -> np.ndarray:
        """Which triples name none of these items, by their keys."""
        there = np.isin(self.keys, np.fromiter(known, np.uint64)) & (self.keys > 0)
        return np.flatnonzero(~(there[self.heads] | there[self.tails]))

    def graph(self, catalogue: Catalogue) -> Graph:
        """What the items of the catalogue share; computed again when one that has triples came, moved or went."""
        revision, rows, graph = self._graphs.get(catalogue, (-1, np.zeros(0, np.int64), None))
        if graph is not None and revision == catalogue.revision:
            return graph
        if graph is None or len(graph.starts) != len(catalogue) + 1 or self._concerns(catalogue, revision, rows):
            rows = np.where(self.keys > 0, catalogue.rows(self.keys), -1)
            graph = self._made(rows, len(catalogue))
        self._graphs[catalogue] = catalogue.revision, rows, graph
        return graph

    def _concerns(self, catalogue: Catalogue, revision: int, rows: np.ndarray) -> bool:
        changed = catalogue.changed_since(revision)
        return changed is None or not np.array_equal(np.where(self.keys > 0, catalogue.rows(self.keys), -1), rows)

    def _made(self, rows: np.ndarray, items: int) -> Graph:
        """Shape: rows (nodes,) of the catalogue, -1 for none."""
        every = self._all_facts(rows)
        item, fact = np.divmod(np.unique(every), len(rows) * (len(self.names) + 1))
        which, fact, count = np.unique(fact, return_inverse=True, return_counts=True)
        says = (count > 1) & (count <= min(max(FEW, EVERYWHERE * items), MANY)) & (count < items)
        idf = np.log(items / count).astype(np.float32)
        kept = says[fact]
        item, fact = _rarest(item[kept], fact[kept], idf)
        relation = (which % (len(self.names) + 1)).astype(np.int32)
        relation[relation == len(self.names)] = -1
        norm = np.sqrt(np.bincount(item, idf[fact] ** 2, items)) if len(item) else np.ones(items)
        strength = (idf[fact] / norm[item]).astype(np.float32)
        by_fact = np.argsort(fact, kind="stable")
        starts, item_starts = (
            np.searchsorted(numbers, np.arange(size + 1)).astype(np.int32)
            for numbers, size in ((item, items), (fact[by_fact], len(which)))
        )
        facts, by = fact.astype(np.int32), item[by_fact].astype(np.int32)
        return Graph(starts, facts, strength, item_starts, by, idf, relation)

    def _all_facts(self, rows: np.ndarray) -> np.ndarray:
        """(row, entity, relation) of each item in one number; (f,) int64."""
        relations, parts = len(self.names) + 1, []
        head, tail = rows[self.heads], rows[self.tails]
        for item, entity in ((head, self.tails), (tail, self.heads)):
            there = item >= 0
            parts.append((item[there] * len(rows) + entity[there]) * relations + self.relations[there])
        both = (head >= 0) & (tail >= 0)
        entity = self.tails[both]  # which stands for both
        parts += [(item * len(rows) + entity) * relations + len(self.names) for item in (head[both], tail[both])]
        return np.concatenate(parts).astype(np.int64)


def _rarest(item: np.ndarray, fact: np.ndarray, idf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_FACTS` of each item, by item; (f,), (f,)."""
    order = np.lexsort((fact, -idf[fact], item))
    item, fact = item[order], fact[order]
    kept = np.arange(len(item)) - np.searchsorted(item, item) < MOST_FACTS
    return item[kept], fact[kept]


@lru_cache(maxsize=1)
def read(file: str) -> Triples:
    """Read CSV, TSV or Parquet with the columns head, relation, tail, or RecBole's `.kg` with the `.link` beside it.

    Raises:
        TriplesError: naming the file and the row.
    """
    if not file.endswith(".kg"):
        return Triples(_rows(file, COLUMNS))
    link = f"{file.removesuffix('.kg')}.link"
    return Triples(_rows(file, COLUMNS), {entity: item_id for item_id, entity in _rows(link, ("item", "entity"))})


def tell_unknown(file: str, triples: Triples, known: Mapping[int, str]) -> None:
    """Log once how many triples name no item that is known, and the first of them."""
    unknown = triples.unknown(list(known))
    if known and len(unknown) == len(triples):
        logger.warning(
            "%s: none of %s triples names one of %s items, so triples= changes nothing: `head` or `tail` has to be the "
            "item_id of an item", file, f"{len(triples):,}", f"{len(known):,}",
        )  # fmt: skip
    elif len(unknown):
        logger.warning(
            "%s: %s of %s triples name no item so far and are passed over until it comes; the first: row %s",
            file, f"{len(unknown):,}", f"{len(triples):,}", f"{unknown[0] + 1:,}",
        )  # fmt: skip


def _rows(file: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The wanted cells of each row; a column may be called `head`, `head_id` or `head_id:token`."""
    lines = _parquet(file) if file.lower().endswith((".parquet", ".pq")) else _text(file)
    header = [str(name).partition(":")[0].removesuffix("_id") for name in next(lines, [])]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise TriplesError(f"{file}: no column {', '.join(missing)} in its first line; {', '.join(wanted)} are wanted")
    at, row = [header.index(name) for name in wanted], 0
    for row, cells in enumerate(lines, 1):
        if len(cells) != len(header):
            raise TriplesError(f"{file}: row {row} has {len(cells)} cells, the header {len(header)}")
        found = tuple("" if cells[column] is None else str(cells[column]) for column in at)
        if not all(found):
            raise TriplesError(f"{file}: row {row}: {wanted[found.index('')]} is empty; every cell needs a text")
        if row > MOST_TRIPLES:
            raise TriplesError(f"{file}: more than {MOST_TRIPLES:,} rows: leave out what few items have")
        yield found
    if not row:
        raise TriplesError(f"{file}: no rows; at least one is needed, or triples= to switch it off")


def _text(file: str) -> Iterator[list[str]]:
    tabs = Path(file).suffix.lower() in (".tsv", ".tab", ".kg", ".link")
    form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    row = 0
    try:
        with fsspec.open(file, "rt", encoding="utf-8-sig", newline="", compression="infer") as text:
            for cells in csv.reader(text, **form):
                if cells:  # a line without anything is no row
                    row += 1
                    yield cells
    except Exception as error:  # every protocol and every compression has errors of its own
        raise _unreadable(file, "TSV" if tabs else "CSV", row, error) from None


def _parquet(file: str) -> Iterator[list]:
    from pyarrow import parquet

    try:
        table = parquet.read_table(file)
        yield table.column_names
        for cells in zip(*(column.to_pylist() for column in table.columns)):
            yield list(cells)
    except Exception as error:  # pyarrow's, the file system's, Python's
        raise _unreadable(file, "Parquet", 0, error) from None


def _unreadable(file: str, form: str, row: int, error: Exception) -> TriplesError:
    return TriplesError(
        f"{file}: cannot be read as {form} after row {row:,}: {brief(error)}; "
        f"CSV, TSV or Parquet with {', '.join(COLUMNS)}, or RecBole's .kg with its .link, is wanted"
    )
