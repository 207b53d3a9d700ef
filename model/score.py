"""P(i | u, t) for a micro-batch: what is learnt, the lists made with it, and its versions on disk.

    requests ─► micro-batch (batch.py) ─┬─► signals (signals.py) ─► blend (ranker.py) ─► softmax ─► the k best items
    catalogue ─► table (table.py) ──────┘                                               └─► reasons (reasons.py)

What is learnt lives in `Scorer`: the network (network.py) and the blend are trained, popularities and neighbours of
items are counted (counts.py). It comes from model/finetune.py.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import repeat
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from model import registry, user
from model.catalogue import Catalogue
from model.interest import Rules
from model.schema import Event, RecommendedItem, Request, VersionError, item_key
from model.scoring.batch import excluded_items, open_requests
from model.scoring.explore import explore
from model.scoring.network import Network, Sizes
from model.scoring.ranker import Ranker, rerank
from model.scoring.reasons import explain
from model.scoring.signals import SIGNALS
from model.scoring.table import HALF_LIVES, LATELY, LENGTH, NEIGHBOURS, PLACES, Table, find, padded
from model.versions import counts_path, trained_path

LAYOUT = 7
LARGEST = 1e12
"""No weight and no count is beyond: what is computed from two of them is still a number."""
_POPULAR = 500  # items most chosen: enough for a list without what a user has consumed
_USERS, _CELLS = 64, 700_000
"""Users, and users x items, scored at once: what a group needs stays in the processor's cache."""
T = TypeVar("T")


class Scorer(nn.Module):
    """All that a model version holds. Item tables have one row per item that the version knows.

    Shape: keys (m,) int64 item keys; counts (HALF_LIVES, m); first (m,) event that chose the item, counted through, -1
    for none; late (m,) 1 for an item that came after learning had begun; learnt () events counted; per name in
    NEIGHBOURS: items (m, c) int32 rows of this table, -1 for none, and weights (m, c); peers_taken (u, LENGTH) int32
    rows of this table, -1 for none; peers_places (m, PLACES) int32 places in it, counted through, -1 for none.
    """

    keys: torch.Tensor
    counts: torch.Tensor
    first: torch.Tensor
    late: torch.Tensor
    learnt: torch.Tensor
    peers_taken: torch.Tensor
    peers_places: torch.Tensor

    def __init__(self, sizes: Sizes, items: int = 0, encoder_version: str = "") -> None:
        super().__init__()
        self.sizes, self.encoder_version = sizes, encoder_version
        self.network, self.ranker = Network(sizes, items), Ranker()
        self.register_buffer("keys", torch.zeros(items, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(len(HALF_LIVES), items))
        self.register_buffer("first", torch.full((items,), -1.0))
        self.register_buffer("late", torch.zeros(items))
        self.register_buffer("learnt", torch.zeros((), dtype=torch.int64))
        for name in NEIGHBOURS:
            self.register_buffer(f"{name}_items", torch.full((items, 0), -1, dtype=torch.int32))
            self.register_buffer(f"{name}_weights", torch.zeros(items, 0))
        self.register_buffer("peers_taken", torch.full((0, LENGTH), -1, dtype=torch.int32))
        self.register_buffer("peers_places", torch.full((items, PLACES), -1, dtype=torch.int32))
        self._text: tuple[Catalogue, int, torch.Tensor] | None = None
        self._table: tuple[Catalogue, int, Table] | None = None
        self._popular: list[int] | None = None
        self.eval()

    @classmethod
    def untrained(cls, dim: int) -> "Scorer":
        """What serves before there is a version: interests and nothing learnt."""
        return cls(Sizes(max(1, dim)))

    def neighbours(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A counted table: items and weights, (m, c) each."""
        return self.get_buffer(f"{name}_items"), self.get_buffer(f"{name}_weights")

    def table(self, catalogue: Catalogue) -> Table:
        """What this scorer knows of every item of the catalogue, computed once per revision.

        Raises:
            VersionError: the scorer was made for another encoder than the catalogue's.
        """
        table = _computed(self._table, catalogue)
        if table is None:
            self._check(catalogue)
            table = Table(self.network, _computed(self._text, catalogue), self.tables(), catalogue)
            self._text = catalogue, catalogue.revision, table.text
            self._table = catalogue, catalogue.revision, table
        return table

    def popular(self) -> list[int]:
        """The keys of the items most chosen lately, best first; computed once."""
        if self._popular is None:
            chosen = self.counts[LATELY]
            best = chosen.topk(min(_POPULAR, int((chosen > 0).sum()))).indices
            self._popular = self.keys[best].cpu().numpy().view(np.uint64).tolist()
        return self._popular

    def tables(self) -> dict[str, torch.Tensor]:
        """What is counted, by name; the buffers of the blend belong to what is trained."""
        return dict(self.named_buffers(recurse=False))

    def counted(self) -> None:
        """Drop what was computed from the counts of before."""
        self._table = self._popular = None

    def changed(self) -> None:
        """Drop what was computed from the weights and counts of before."""
        self._text = self._table = self._popular = None

    def with_counts(self, counted: dict[str, torch.Tensor]) -> "Scorer":
        """This scorer's network and blend beside other counts; both share the trained part.

        The counts may be of more items, or of others: an item that was not there in training has zeros in the network.

        Args:
            counted: the `tables` of a scorer.
        """
        scorer = Scorer(self.sizes, 0, self.encoder_version)
        scorer.network = _of_items(self.network, self.keys, counted["keys"])
        scorer.ranker = self.ranker
        scorer._text = self._text
        for name, tensor in counted.items():
            scorer.register_buffer(name, tensor)
        return scorer

    def fits(self, catalogue: Catalogue) -> bool:
        """Whether this scorer was made for the catalogue's encoder; any fits where there is no item."""
        same = self.sizes.dim == catalogue.vectors.shape[1] and self.encoder_version in ("", catalogue.encoder_version)
        return same or not len(catalogue)

    def _check(self, catalogue: Catalogue) -> None:
        if not self.fits(catalogue):
            have, dim = catalogue.encoder_version, catalogue.vectors.shape[1]
            raise VersionError(
                f"the version was made for vectors of {self.encoder_version or 'any encoder'} ({self.sizes.dim} "
                f"dimensions), the catalogue has those of {have} ({dim}): fine-tune a version with this encoder"
            )

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_text": None, "_table": None, "_popular": None}


def _of_items(network: Network, keys: torch.Tensor, wanted: torch.Tensor) -> Network:
    """The network with a row for each wanted item, of zeros where it has none; all other weights are shared.

    Shape: keys (m,) of the rows that it has, wanted (w,).
    """
    if torch.equal(keys, wanted):
        return network
    rows = torch.from_numpy(find(keys.cpu().numpy(), wanted.cpu().numpy())).to(keys.device)
    other = copy.copy(network)
    other._parameters = dict(network._parameters)
    for name in ("ids", "bias"):
        setattr(other, name, nn.Parameter(padded(getattr(network, name).data)[rows]))
    return other


def _computed(kept: tuple[Catalogue, int, T] | None, catalogue: Catalogue) -> T | None:
    """What was computed for the catalogue as it is now, if it was."""
    return kept[2] if kept is not None and kept[0] is catalogue and kept[1] == catalogue.revision else None


def save(scorer: Scorer, registry_path: str, version: str, about: dict) -> str:
    """Write the scorer as a version of the registry and return its path."""
    shape = {
        "layout": LAYOUT,
        "sizes": asdict(scorer.sizes),
        "signals": list(SIGNALS),
        "encoder_version": scorer.encoder_version,
    }
    return registry.write(registry_path, version, scorer.state_dict(), about | shape)


def save_counts(scorer: Scorer, path: str, number: int) -> str:
    """Write what the scorer has counted beside the version at `path`, and return where: `load` reads both."""
    trained, _, name = counts_path(path, number).rpartition("/")
    return registry.write(trained, name, scorer.tables(), {"layout": LAYOUT, "signals": list(SIGNALS)})


def load(path: str, device: str = "cpu", trained: Scorer | None = None) -> Scorer:
    """Read a version, and what has been counted since if the path says so.

    Args:
        trained: the version as it was loaded before, on this device and with any counts: where the path is one of
            counts, only these are read.

    Raises:
        VersionError: it is broken, or was written by another layout of this module.
    """
    if path == trained_path(path):
        return _load_trained(path).to(device)
    tensors, _ = _read(path)
    if trained is None or not _has_all(trained, tensors.get("keys")):
        trained = _load_trained(trained_path(path)).to(device)  # it may know more items than the counts of before
    if tensors.keys() != trained.tables().keys():
        raise VersionError(
            f"{path}: counts of {', '.join(sorted(tensors))}: those of this release are wanted; write them again"
        )
    _check_tables(path, tensors)
    return trained.with_counts({name: tensor.to(device) for name, tensor in tensors.items()})


def _has_all(trained: Scorer, keys: torch.Tensor | None) -> bool:
    return keys is not None and bool(torch.isin(keys, trained.keys.cpu()).all())


def _read(path: str) -> tuple[dict[str, torch.Tensor], dict]:
    tensors, about = registry.read(path)
    broken = [name for name, tensor in tensors.items() if not (tensor.abs() <= LARGEST).all() and name != "keys"]
    if broken:
        names = ", ".join(broken)
        raise VersionError(
            f"{path}: {names} hold what is no number, or one beyond {LARGEST:g}: fine-tune a new version"
        )
    if about.get("layout") != LAYOUT or about.get("signals") != list(SIGNALS):
        signals = ", ".join(map(str, about.get("signals") or []))
        raise VersionError(
            f"{path}: layout {about.get('layout')} with signals {signals}; layout {LAYOUT} with "
            f"{', '.join(SIGNALS)} can be read: fine-tune a new version with this release"
        )
    return tensors, about


def _load_trained(path: str) -> Scorer:
    tensors, about = _read(path)
    try:
        sizes = Sizes(**{field.name: int(about["sizes"][field.name]) for field in fields(Sizes)})
        scorer = Scorer(sizes, len(tensors["keys"]), str(about["encoder_version"]))
        for name in tensors.keys() & scorer.tables().keys():
            scorer.register_buffer(name, tensors[name])
        scorer.load_state_dict(tensors)
    except Exception as error:  # sizes may be anything, and torch raises whatever it likes
        raise VersionError(f"{path}: its tensors do not fit its sizes: {error}; write it again") from None
    _check_tables(path, scorer.tables())
    return scorer


def _check_tables(path: str, tables: dict[str, torch.Tensor]) -> None:
    """See that what is counted has the shapes and types of a scorer's tables, and leads to rows that are there.

    A row that is not there is an error on a CPU, and on a GPU the end of the process.
    """
    items, places = tables["keys"].numel(), tables["peers_taken"].numel()
    empty = Scorer.untrained(1).tables()  # 0 where any other has its items
    shapes = {name: [length or items for length in table.shape] for name, table in empty.items()}
    free = {"peers_taken": 0} | {f"{name}_{part}": 1 for name in NEIGHBOURS for part in ("items", "weights")}
    for name, dimension in free.items():
        shapes[name][dimension] = tables[name].shape[dimension] if tables[name].ndim == 2 else -1
    rows = {"peers_taken": items, "peers_places": places} | {f"{name}_items": items for name in NEIGHBOURS}
    wrong = [
        name
        for name, table in tables.items()
        if table.dtype != empty[name].dtype
        or list(table.shape) != shapes[name]
        or (name in rows and table.numel() and not -1 <= table.min() <= table.max() < max(rows[name], 1))
    ]
    wrong += [name for name in NEIGHBOURS if tables[f"{name}_items"].shape != tables[f"{name}_weights"].shape]
    if wrong:
        raise VersionError(f"{path}: {', '.join(wrong)} are no tables of {items} items; write it again")


def try_out(scorer: Scorer, catalogue: Catalogue, k: int, rules: Rules) -> None:
    """Make lists of these items for a user without events and for one who viewed some of them.

    Raises:
        VersionError: they are no lists, or the scorer was made for another encoder.
    """
    scorer = scorer.with_counts(scorer.tables())  # keeps what it computes of these items to itself
    state, now_ms = b"", time.time_ns() // 1_000_000
    for number, item_id in enumerate(catalogue.item_ids[:3]):
        event = Event(f"try-{number}", "try", "view", now_ms, item_id)
        key = item_key(item_id)
        state = user.update(state, user.embedded(event, key, catalogue.encoder, catalogue.lookup(key)), rules).state
    requests = [user.request(one, "try", "try", now_ms) for one in (b"", state)]
    scorer.popular()
    for list_ in score(scorer, catalogue, requests, k, rules):
        if len(list_) < min(k, len(catalogue)) or not all(item.probability <= 1 for item in list_):
            raise VersionError(f"its lists on {len(catalogue)} items are none: {str(list_)[:100]}; write it again")


def score(
    scorer: Scorer,
    catalogue: Catalogue,
    requests: Sequence[Request],
    k: int,
    rules: Rules = Rules(),
    explained: bool = True,
) -> list[list[RecommendedItem]]:
    """The k best items for each request, best first, with P(i | u, t) and, where they are `explained`, the reasons.

    P is a softmax of the score over the whole catalogue. Items that must not be listed, by what the user said of them,
    are taken out before it is normalised: their probability is 0 and the others' sum to 1. The time t is the request's.

    Raises:
        VersionError: the scorer was made for another encoder than the catalogue's.
    """
    if not len(catalogue):
        return [[] for _ in requests]
    parts = max(-(-len(requests) * len(catalogue) // _CELLS), -(-len(requests) // _USERS), 1)
    size = max(1, -(-len(requests) // parts))
    lists: list[list[RecommendedItem]] = []
    for start in range(0, len(requests), size):
        lists += _score(scorer, catalogue, requests[start : start + size], k, rules, explained)
    return lists


def _score(
    scorer: Scorer, catalogue: Catalogue, requests: Sequence[Request], k: int, rules: Rules, explained: bool
) -> list[list[RecommendedItem]]:
    table, device = scorer.table(catalogue), scorer.keys.device
    batch = open_requests(catalogue, requests, rules, scorer.sizes.last_n, device)
    scored = rerank(scorer.ranker, table, batch, excluded_items(batch, len(catalogue)))
    explored, lifted = explore(table, batch, scored.scores, k)
    best = scored.scores.topk(min(k, len(catalogue)))
    chances = torch.exp(best.values - scored.scores.logsumexp(1, keepdim=True)).nan_to_num(0.0)
    new = torch.where(lifted[:, None], best.indices == explored[:, None], False)
    reasons = explain(table, batch, scored, best.indices, new, catalogue.item_ids) if explained else repeat(repeat([]))
    return [
        [RecommendedItem(catalogue.item_ids[row], chance, why) for row, chance, why in zip(*one) if chance > 0]
        for one in zip(best.indices.tolist(), chances.tolist(), reasons)
    ]
