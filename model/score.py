"""P(i | u, t) for a micro-batch: what is trained, the lists made with it, and its versions on disk.

    requests ─► micro-batch (batch.py) ──────────────────────────┐
    what is trained (Scorer) ──┐                                 ▼
    what is counted ───────────┼─► table (table.py) ─► retrieve, then rerank (ranker.py) ─► the k best items
    catalogue ─► its index ────┘                                 └─► exploration (explore.py), reasons (reasons.py)
                                                                   where it is on: diversity and the like (slate.py)

What is trained lives in `Scorer` and comes from model/finetune.py; what is counted in `ItemStatistics`.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import repeat
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from msgspec import UNSET
from torch import nn

from model import registry, user
from model.catalogue import Catalogue
from model.facts import Facts
from model.interest import Rules
from model.media.blocks import widths_of
from model.schema import Event, RecommendedItem, Request, VersionError, item_key
from model.scoring.batch import open_requests
from model.scoring.explore import explore
from model.scoring.index import CatalogueIndex
from model.scoring.network import Network, Sizes
from model.scoring.ranker import Ranker, fit_precision, fit_signals, rerank
from model.scoring.reasons import explain
from model.scoring.signals import Optional, optional_names
from model.scoring.table import ItemTable
from model.signals import OPTIONAL, SIGNALS
from model.statistics import ItemStatistics

if TYPE_CHECKING:
    from model.scoring.joint import CrossEncoder, Joint, Texts
    from model.scoring.slate import Slate

LAYOUT = 8
LARGEST = 1e12
"""No weight is beyond: what is computed from two of them is still a number."""
FITTED = ("ease", "taste")
"""Tables fitted in closed form: for an item the items that follow from it (taste: that lead to it), with weights."""
_GROUP, _GROUP_ON_A_CARD = 64, 1_024
"""Users scored at once: what a group needs stays in a processor's cache; a card wants many."""
FACTS = ".facts."
"""In the names of what is learnt of facts."""
JOINT = "joint."
"""Before the names of the joint scorer's tensors in a version; who has it off passes over them."""
PRECISION = "precision"
"""The name of the precision of the ranker's weights in a version; only Thompson sampling reads it."""
_INDICES: WeakKeyDictionary[Catalogue, CatalogueIndex] = WeakKeyDictionary()

logger = logging.getLogger(__name__)


class Switched(tuple[Optional, ...]):
    """The optional families of signals; what they read is shared by the copies of a scorer."""

    def __deepcopy__(self, memo: dict) -> "Switched":
        return self


class Scorer(nn.Module):
    """All that a model version holds: what is trained.

    Args:
        optional: the families of signals that are switched on; they are no part of a version.
        facts: what is known of users, where that is on; no part of a version either.

    Shape: keys (v,) int64 item keys of the network's ids; settled (s,) int64 keys of the items that were there when
    learning began; learnt () examples learnt from; fitted_keys (f,) int64 keys of the items in the tables of FITTED,
    per name in it: items (f, c) int32 rows among them, -1 for none, and weights (f, c).
    """

    keys: torch.Tensor
    settled: torch.Tensor
    learnt: torch.Tensor
    fitted_keys: torch.Tensor

    def __init__(
        self,
        sizes: Sizes,
        items: int = 0,
        encoder_version: str = "",
        optional: Sequence[Optional] = (),
        facts: Facts | None = None,
    ) -> None:
        super().__init__()
        self.sizes, self.encoder_version = sizes, encoder_version
        self.optional = Switched(optional)
        self.facts, knows = facts, facts is not None
        self.network = Network(sizes, items, widths_of(encoder_version, sizes.dim), knows)
        self.ranker = Ranker(optional_names(self), knows)
        self.register_buffer("keys", torch.zeros(items, dtype=torch.int64))
        self.register_buffer("settled", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("learnt", torch.zeros((), dtype=torch.int64))
        self.register_buffer("fitted_keys", torch.zeros(0, dtype=torch.int64))
        for name in FITTED:
            self.register_buffer(f"{name}_items", torch.full((0, 1), -1, dtype=torch.int32))
            self.register_buffer(f"{name}_weights", torch.zeros(0, 1))
        self._table: ItemTable | None = None
        self.joint: Joint | None = None
        self.slate: Slate | None = None
        self.precision: torch.Tensor | None = None
        self.eval()

    @classmethod
    def untrained(
        cls, dim: int, optional: Sequence[Optional] = (), encoder_version: str = "", facts: Facts | None = None
    ) -> "Scorer":
        """What serves before there is a version: interests and nothing learnt."""
        return cls(Sizes(max(1, dim)), encoder_version=encoder_version, optional=optional, facts=facts)

    @property
    def device(self) -> torch.device:
        """Of the network; what else there is, compiled loops read on the CPU."""
        return self.network.start.device

    def on(self, device: str | torch.device) -> "Scorer":
        """Bring the network to a device."""
        self.network.to(device)
        self._table = None
        return self

    @property
    def is_trained(self) -> bool:
        return bool(self.learnt > 0)

    def table(self, statistics: ItemStatistics, catalogue: Catalogue) -> ItemTable:
        """What this scorer knows of every item of the catalogue; what has changed since the last call is computed.

        Raises:
            VersionError: the scorer was made for another encoder than the catalogue's.
        """
        table = self._table
        if table is not None and table.is_of(statistics, catalogue):
            table.sync()
            return table
        self._check(catalogue)
        self._table = ItemTable(self, statistics, index_of(catalogue))
        return self._table

    def changed(self) -> None:
        """Drop what was computed from the weights of before."""
        self._table = None

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
        return self.__dict__ | {"_table": None}


def index_of(catalogue: Catalogue) -> CatalogueIndex:
    """The index of a catalogue, of which there is one for all scorers."""
    index = _INDICES.get(catalogue)
    if index is None:
        index = _INDICES[catalogue] = CatalogueIndex(catalogue)
    return index


def save(scorer: Scorer, registry_path: str, version: str, about: dict) -> str:
    """Write the scorer as a version of the registry and return its path."""
    shape = {
        "layout": LAYOUT,
        "sizes": asdict(scorer.sizes),
        "signals": scorer.ranker.names,
        "encoder_version": scorer.encoder_version,
    }
    tensors = scorer.state_dict()
    if scorer.joint is not None:
        tensors |= {f"{JOINT}{name}": tensor for name, tensor in scorer.joint.weights.items()}
        shape["joint_encoder"] = scorer.joint.encoder.version
    if scorer.precision is not None:
        tensors[PRECISION] = scorer.precision
    return registry.write(registry_path, version, tensors, about | shape)


def load(
    path: str,
    device: str | torch.device = "cpu",
    joint: "tuple[CrossEncoder, Texts] | None" = None,
    optional: Sequence[Optional] = (),
    facts: Facts | None = None,
) -> Scorer:
    """Read a version.

    Args:
        joint: with what a version's joint scorer reads; without it, and where it was learnt on another encoder, the
            lists are the ranker's.
        optional: the families of signals that are switched on; of one that the version has not learnt nothing is held,
            and what it learnt of others is passed over.
        facts: what is known of users, where that is on; a version that has learnt nothing of it begins at nothing.

    Raises:
        VersionError: it is broken, or was written by another layout of this module.
    """
    tensors, about = _read(path)
    trained = {name.removeprefix(JOINT): tensors.pop(name) for name in [*tensors] if name.startswith(JOINT)}
    precision = tensors.pop(PRECISION, None)
    try:
        sizes = Sizes(**{field.name: int(about["sizes"][field.name]) for field in fields(Sizes)})
        scorer = Scorer(sizes, len(tensors["keys"]), str(about["encoder_version"]), optional, facts)
        tensors.setdefault("ranker.temperature", torch.ones(2))  # of a version from before there was one
        fit_signals(tensors, about["signals"], scorer.ranker.names)
        _fit_facts(tensors, scorer)
        for name in tensors.keys() & dict(scorer.named_buffers(recurse=False)).keys():
            scorer.register_buffer(name, tensors[name])
        scorer.load_state_dict(tensors)
        scorer.precision = fit_precision(precision, about["signals"], scorer.ranker.names)
    except Exception as error:  # sizes may be anything, and torch raises whatever it likes
        raise VersionError(f"{path}: its tensors do not fit its sizes: {error}; write it again") from None
    _check_tables(path, scorer)
    if joint is not None and trained:
        scorer.joint = _joint(path, *joint, trained, str(about.get("joint_encoder")))
    return scorer.on(device)


def _fit_facts(tensors: dict[str, torch.Tensor], scorer: Scorer) -> None:
    """Let the tensors of facts be there exactly where the scorer has some; what is new begins at nothing."""
    wanted = {name: tensor for name, tensor in scorer.state_dict().items() if FACTS in name}
    for name in [name for name in tensors if FACTS in name and name not in wanted]:
        del tensors[name]
    for name in wanted.keys() - tensors.keys():
        tensors[name] = wanted[name]


def _joint(
    path: str, encoder: "CrossEncoder", texts: "Texts", trained: dict[str, torch.Tensor], version: str
) -> "Joint | None":
    from model.scoring.joint import Joint

    if version != encoder.version:
        logger.warning("%s: its joint scorer is of %s, joint_encoder is %s: not used", path, version, encoder.version)
        return None
    shapes = {name: tensor.shape for name, tensor in encoder.begin().items()}
    if shapes != {name: tensor.shape for name, tensor in trained.items()}:
        raise VersionError(f"{path}: the joint scorer's tensors do not fit {encoder.version}; write it again")
    return Joint(encoder, {name: tensor.to(encoder.device) for name, tensor in trained.items()}, texts)


def _read(path: str) -> tuple[dict[str, torch.Tensor], dict]:
    tensors, about = registry.read(path)
    broken = [
        name for name, tensor in tensors.items() if tensor.is_floating_point() and not (tensor.abs() <= LARGEST).all()
    ]
    if broken:
        names = ", ".join(broken)
        raise VersionError(
            f"{path}: {names} hold what is no number, or one beyond {LARGEST:g}: fine-tune a new version"
        )
    if about.get("layout") != LAYOUT or not _known(about.get("signals")):
        signals = ", ".join(map(str, about.get("signals") or []))
        raise VersionError(
            f"{path}: layout {about.get('layout')} with signals {signals}; layout {LAYOUT} with "
            f"{', '.join(SIGNALS)} can be read: fine-tune a new version with this release"
        )
    return tensors, about


def _known(signals: object) -> bool:
    """Whether these are the signals of the registry, with optional ones after them."""
    first = len(SIGNALS)
    return isinstance(signals, list) and signals[:first] == [*SIGNALS] and set(signals[first:]) <= OPTIONAL.keys()


def _check_tables(path: str, scorer: Scorer) -> None:
    """See that the tables have the shapes and types of a scorer's, and lead to rows that are there.

    A row that is not there is an error on a CPU, and on a GPU the end of the process.
    """
    empty, count = Scorer.untrained(1), scorer.fitted_keys.numel()
    tables = dict(scorer.named_buffers(recurse=False))
    wrong = [
        name
        for name, table in tables.items()
        if table.dtype != empty.get_buffer(name).dtype or table.ndim != empty.get_buffer(name).ndim
    ]
    for name in FITTED if not wrong else ():
        items, weights = tables[f"{name}_items"], tables[f"{name}_weights"]
        rows = not items.numel() or -1 <= items.min() <= items.max() < count
        if len(items) != count or items.shape != weights.shape or not rows:
            wrong.append(name)
    if wrong:
        raise VersionError(f"{path}: {', '.join(wrong)} are no tables of {count} items; write it again")


def try_out(scorer: Scorer, catalogue: Catalogue, k: int, rules: Rules) -> None:
    """Make lists of these items for a user without events and for one who viewed some of them.

    Raises:
        VersionError: they are no lists, or the scorer was made for another encoder.
    """
    state, now_ms = b"", time.time_ns() // 1_000_000
    for number, item_id in enumerate(catalogue.item_ids[:3]):
        event = Event(f"try-{number}", "try", "view", now_ms, item_id)
        key = item_key(item_id)
        state = user.update(state, user.embedded(event, key, catalogue.encoder, catalogue.lookup(key)), rules).state
    requests = [user.request(one, "try", "try", now_ms) for one in (b"", state)]
    lists = score(scorer, ItemStatistics(), catalogue, requests, k, rules)
    scorer.changed()  # what was computed of these items is not wanted again
    for list_ in lists:
        if len(list_) < min(k, len(catalogue)) or not all(item.probability <= 1 for item in list_):
            raise VersionError(f"its lists on {len(catalogue)} items are none: {str(list_)[:100]}; write it again")


def score(
    scorer: Scorer,
    statistics: ItemStatistics,
    catalogue: Catalogue,
    requests: Sequence[Request],
    k: int,
    rules: Rules = Rules(),
    explained: bool = True,
) -> list[list[RecommendedItem]]:
    """The k best items for each request, best first, with P(i | u, t) and, where they are `explained`, the reasons.

    P is a softmax of the score over the whole catalogue; what the items weigh that are no candidates is estimated.
    Items that must not be listed, by what the user said of them, are taken out before it is normalised: their
    probability is 0. The time t is the request's.

    Raises:
        VersionError: the scorer was made for another encoder than the catalogue's.
    """
    if not len(catalogue):
        return [[] for _ in requests]
    most = _GROUP if scorer.device.type == "cpu" else _GROUP_ON_A_CARD
    parts = max(1, -(-len(requests) // most))
    size = max(1, -(-len(requests) // parts))
    lists: list[list[RecommendedItem]] = []
    for start in range(0, len(requests), size):
        lists += _score(scorer, statistics, catalogue, requests[start : start + size], k, rules, explained)
    return lists


@torch.inference_mode()
def _score(
    scorer: Scorer,
    statistics: ItemStatistics,
    catalogue: Catalogue,
    requests: Sequence[Request],
    k: int,
    rules: Rules,
    explained: bool,
) -> list[list[RecommendedItem]]:
    table = scorer.table(statistics, catalogue)
    batch = open_requests(catalogue, requests, rules, scorer.sizes.last_n, scorer.facts)
    scored = rerank(scorer.ranker, table, batch, k)
    if scorer.joint is not None:
        scored.scores = scorer.joint.reranked(scored, batch.draw, requests, catalogue)
    explored, lifted = explore(table, batch, scored, k)
    was = torch.where((scored.rows == explored[:, None]) & (lifted > -torch.inf)[:, None], -torch.inf, scored.scores)
    every = torch.cat((was, lifted[:, None]), 1)
    rows, k, propensity = torch.cat((scored.rows, explored[:, None]), 1), min(k, len(catalogue), was.shape[1]), None
    if scorer.slate is None:
        scores, columns = every.topk(k)
        rows = rows.gather(1, columns)
    else:
        columns, rows, scores, propensity = scorer.slate.choose(table, batch, scored, every, rows, k)
    chances = scored.probabilities(scores, every)
    ids = catalogue.item_ids
    reasons = explain(table, batch, scored, columns, rows, ids) if explained else repeat(repeat([]))
    likely = repeat(repeat(UNSET)) if propensity is None else propensity.tolist()
    keys, words = catalogue.keys, catalogue.keywords
    return [
        [
            RecommendedItem(ids[row], chance, why, at_place, words.get(int(keys[row]), []) if words else [])
            for row, chance, why, at_place in zip(*one)
            if chance > 0
        ]
        for one in zip(rows.tolist(), chances.tolist(), reasons, likely)
    ]
