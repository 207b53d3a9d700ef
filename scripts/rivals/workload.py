"""What every way is given: the same events, item vectors and model version, in a folder."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from jobs.settings import Settings
from model import score, user
from model.catalogue import Catalogue
from model.encoder import Encoder
from model.evaluation.order import drawn_order
from model.finetune import Learner
from model.learning.config import TrainingConfig
from model.schema import Embedded, Event, Example, Item, ItemVector, encode_json, item_key
from scripts import data
from scripts.rivals.functions import EVENTS, ITEM_VECTORS, LATER, VERSION

TRAINED_ON = 5_000
MOST_LATER = 30_000
LIGHTLY = TrainingConfig(warm_up_epochs=0.5, epochs_per_event=0.5, sample_rate=0.1, warm_up_sample_rate=0.1)
"""What the weights say does not change what a list costs."""


class Workload(NamedTuple):
    """The events that wait when a way starts, and those that come after them; the rest is in the folder."""

    folder: Path
    backlog: list[Event]
    later: list[Event]
    catalogue: Catalogue

    @property
    def item_vectors(self) -> list[tuple[bytes, bytes]]:
        """(key, record) of the topic `item-vectors`."""
        lines = (self.folder / ITEM_VECTORS).read_bytes().splitlines()
        return [(msgspec.json.decode(line)["item_id"].encode(), line) for line in lines]


def prepare(folder: Path, count: int, keep: Path, progress: Callable[[int, int], None]) -> Workload:
    """Write MovieLens-100k's first events, the vectors of its items, and a version that has learnt from some of them.

    Args:
        count: of the events that wait.
        keep: a folder where embeddings outlive this call.
    """
    table, items = data.public("ml-100k")
    events, _ = data.check_events(table, "", Settings().max_future_s)
    events = drawn_order(events, 0)
    vectors = _embed(items, keep)
    catalogue = Catalogue()
    catalogue.apply(vectors)
    learner = Learner(catalogue, config=LIGHTLY)
    learner.add(_examples(events[:TRAINED_ON], catalogue))
    folder.mkdir(parents=True, exist_ok=True)
    score.save(learner.fine_tune(progress), str(folder), VERSION, {})
    _write(folder / EVENTS, events[:count])
    _write(folder / LATER, events[count : count + MOST_LATER])
    _write(folder / ITEM_VECTORS, vectors)
    return Workload(folder, events[:count], events[count:], catalogue)


def _embed(items, keep: Path) -> list[ItemVector]:
    encoder = Encoder(data.language_model(), "cpu", keep)
    named = [Item(row.item_id, row.title, row.text, row.categories) for row in items.itertuples()]
    vectors = encoder.embed([item.as_text() for item in named]).astype("<f2")
    encoder.close()
    return [ItemVector(item.item_id, encoder.version, vector.tobytes()) for item, vector in zip(named, vectors)]


def _examples(events: list[Event], catalogue: Catalogue) -> list[Example]:
    return [after.example for _, after in updates(events, catalogue) if after.example]


def updates(events: Iterable[Event], catalogue: Catalogue) -> Iterator[tuple[Embedded, user.Update]]:
    """What `update-interest` is given for each event, and what it makes of its user's state."""
    states, rules = dict[str, bytes](), Settings().rules()
    for event in events:
        key = item_key(event.item_id)
        record = user.embedded(event, key, catalogue.encoder, catalogue.lookup(key))
        after = user.update(states.get(event.user_id), record, rules)
        states[event.user_id] = after.state
        yield record, after


def _write(file: Path, records: list) -> None:
    file.write_bytes(b"".join(encode_json(record) + b"\n" for record in records))
