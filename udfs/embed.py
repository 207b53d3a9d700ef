"""embed: raw records in; events with the vector of their item or query out.  embed-items: items in, vectors out.

Both are vectorised: one call is a micro-batch. torch lives here, in a worker process of its own, never in the JVM.
"""

import threading
import time
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from msgspec.structs import replace
from pyflink.table.udf import ScalarFunction

from model.bounds import MediaConfig
from model.schema import (
    Event,
    InvalidRecord,
    Item,
    ItemVector,
    Rejected,
    decode_event,
    decode_item,
    deleted_item,
    encode_json,
    encode_packed,
    item_key,
    too_large,
)
from model.user import embedded
from udfs import worker

if TYPE_CHECKING:
    from model.encoder import Encoder
    from model.media.fusion import FusedEncoder

WARM_UP_S, CALM_S, WARM_UP_AT_LATEST_S = 60.0, 1.0, 600.0
"""The language model of `embed` is loaded by the first search; or so long after the start, once there has been no event
for so long; or so long after the start, whatever comes. It takes 10 s of a processor, which first lists and a backlog
need more.
"""


@dataclass(frozen=True)
class EncoderConfig:
    """Which language model, and how it runs: the arguments of `model.encoder.Encoder`; and the media beside texts."""

    name: str
    device: str
    threads: int
    precision: str = "auto"
    media: MediaConfig | None = None

    def open(self, keep: Path) -> "Encoder | FusedEncoder":
        """The encoder that keeps its embeddings in this folder."""
        from model.encoder import Encoder

        encoder = Encoder(self.name, self.device, keep, self.threads, self.precision)
        if self.media is None:
            return encoder
        from model.media.fusion import FusedEncoder

        return FusedEncoder(encoder, self.media, keep.parent.with_name("media"))


class Embed(ScalarFunction):
    """(value, topic, partition, offset, whole) -> (user_id, payload): an `Embedded` event, or a `Rejected` record.

    `value` and `whole` are those of `jobs.topics.bounded`.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        bootstrap_servers: str,
        item_vectors: str,
        replica_dir: str,
        max_future_s: float,
        max_bytes: int,
    ) -> None:
        self._encoder_config, self._replica_dir = encoder, Path(replica_dir)
        self._kafka = (bootstrap_servers, item_vectors)
        self._max_future_s, self._max_bytes = max_future_s, max_bytes

    def open(self, function_context) -> None:
        from model.cache import first_free
        from model.catalogue import encoder_number
        from model.interest import interest_space
        from udfs.replica import CatalogueFollower

        worker.prepare()
        self._encoder = first_free(self._replica_dir / "queries", self._encoder_config.open)
        self._closed, self._busy_s = threading.Event(), time.monotonic()
        threading.Thread(target=self._warm_up, name="load-encoder", daemon=True).start()
        self._number = encoder_number(self._encoder.version)
        self._interest_space = interest_space
        self._follower = CatalogueFollower(*self._kafka, self._replica_dir / "embed")

    def close(self) -> None:
        self._closed.set()
        self._follower.close()
        self._encoder.close()

    def _warm_up(self) -> None:
        """Load the language model before the first search needs it, when no event waits for the processor."""
        began = time.monotonic()
        while not self._closed.wait(1.0):
            now = time.monotonic()
            calm = now - began >= WARM_UP_S and now - self._busy_s >= CALM_S
            if calm or now - began >= WARM_UP_AT_LATEST_S:
                self._encoder.load()
                return

    def eval(self, records: pd.DataFrame) -> pd.DataFrame:
        self._busy_s = time.monotonic()
        self._follower.refresh()
        records = list(records.itertuples(index=False, name=None))
        events = [self._decode(*record) for record in records]
        queries = self._embed_queries(
            [event.query for event in events if isinstance(event, Event) and event.action == "search"]
        )
        rows = [self._row(event, queries, *record[2:4]) for event, record in zip(events, records)]
        return pd.DataFrame(rows, columns=["user_id", "payload"])

    def _decode(
        self, value: bytes | None, topic: str, partition: int, offset: int, whole: str | None = None
    ) -> Event | Rejected:
        try:
            _check_size(whole, self._max_bytes)
            return decode_event(value, time.time_ns() // 1_000_000, self._max_future_s, self._max_bytes)
        except InvalidRecord as error:
            return Rejected.of(topic, int(partition), int(offset), str(error), value, whole)

    def _embed_queries(self, queries: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Each query's vector in the interest space, and as the encoder gave it."""
        distinct = sorted(set(queries))
        if not distinct:
            return {}
        vectors = self._encoder.embed(distinct)
        return dict(zip(distinct, zip(self._interest_space(vectors), vectors)))

    def _row(
        self, event: Event | Rejected, queries: dict[str, tuple[np.ndarray, np.ndarray]], partition: int, offset: int
    ) -> tuple[str, bytes]:
        if isinstance(event, Rejected):
            return f"\0rejected-{event.offset % 64}", encode_packed(event)
        catalogue = self._follower.catalogue
        number = catalogue.encoder if len(catalogue) else self._number
        if event.action == "search":
            # A query can be compared with the items of its own encoder only: until those serve, it says nothing.
            vectors = queries[event.query] if number == self._number else (None,)
            made = embedded(event, 0, number, *vectors)
        else:
            key = item_key(event.item_id) if event.item_id else 0
            made = embedded(event, key, number, catalogue.lookup(key))
        return event.user_id, encode_packed(replace(made, partition=int(partition), offset=int(offset)))


class EmbedItems(ScalarFunction):
    """(item_id, value, topic, partition, offset, whole) -> (item_id, item_vector, rejected).

    One of the last two is null, but for an item with media that cannot be used: that goes on without them. All are for
    a row of `jobs.flow.with_ticks`, which has no topic. `item_id` is the beginning of the record's key, `value` and
    `whole` are those of `jobs.topics.bounded`.
    """

    def __init__(self, encoder: EncoderConfig, replica_dir: str, max_bytes: int, keywords: int = 0) -> None:
        self._encoder_config, self._replica_dir, self._max_bytes = encoder, Path(replica_dir), max_bytes
        self._most_keywords = keywords  # of an item

    def open(self, function_context) -> None:
        from model.cache import first_free

        config = self._encoder_config
        worker.prepare(config.threads if config.media else None)  # pictures may come where all texts are kept
        self._encoder = first_free(self._replica_dir / "embeddings", config.open)

    def close(self) -> None:
        self._encoder.close()

    def eval(self, records: pd.DataFrame) -> pd.DataFrame:
        records = list(records.itertuples(index=False, name=None))
        items = [self._decode(*record) for record in records]
        if self._encoder_config.media is not None:
            return pd.DataFrame(self._fused(items, records), columns=["item_id", "item_vector", "rejected"])
        texts = {item.item_id: item.as_text() for item in items if isinstance(item, Item) and not item.deleted}
        vectors = dict(zip(texts, self._encoder.embed(list(texts.values()))))
        words = self._keywords(texts, vectors)
        rows = [self._row(item, texts, vectors, words) for item in items]
        return pd.DataFrame(rows, columns=["item_id", "item_vector", "rejected"])

    def _keywords(self, texts: dict[str, str], vectors: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """The keywords of each item, where they are on."""
        if not self._most_keywords or not texts:
            return {}
        from model.keywords import keywords

        of_items = np.stack([vectors[item_id] for item_id in texts])
        return dict(zip(texts, keywords(self._encoder, [*texts.values()], of_items, self._most_keywords)))

    def _decode(
        self,
        key: bytes | None,
        value: bytes | None,
        topic: str | None,
        partition: int,
        offset: int,
        whole: str | None = None,
    ) -> Item | Rejected | None:
        if topic is None:
            return None
        try:
            if value is None and key:
                return deleted_item(key)
            _check_size(whole, self._max_bytes)
            return decode_item(value, self._max_bytes, media=self._encoder_config.media is not None)
        except InvalidRecord as error:
            return Rejected.of(topic, int(partition), int(offset), str(error), value, whole)

    def _fused(self, items: list[Item | Rejected | None], records: list[tuple]) -> list[tuple]:
        """The rows of items with media, and what could not be used of them."""
        whole = [at for at, item in enumerate(items) if isinstance(item, Item) and not item.deleted]
        made = dict(zip(whole, self._encoder.embed_items([items[at] for at in whole])))
        texts = {items[at].item_id: items[at].as_text() for at in whole}
        words = self._keywords(texts, {items[at].item_id: made[at].vector for at in whole})
        rows = []
        for at, item in enumerate(items):
            if at not in made:
                rows.append(self._row(item, {}, {}, {}))
                continue
            (value, *position), fused = records[at][1:5], made[at]
            topic, partition, offset = position
            why = "; ".join(fused.reasons)
            told = Rejected.of(topic, int(partition), int(offset), why, value).as_json() if why else None
            rows.append((item.item_id, self._record(item, fused.vector, fused.content_hash, words), told))
        return rows

    def _record(self, item: Item, vector: np.ndarray, content_hash: str, words: dict[str, list[str]]) -> bytes:
        packed, some = vector.astype("<f2").tobytes(), words.get(item.item_id, [])
        return encode_json(ItemVector(item.item_id, self._encoder.version, packed, content_hash, keywords=some))

    def _row(
        self,
        item: Item | Rejected | None,
        texts: dict[str, str],
        vectors: dict[str, np.ndarray],
        words: dict[str, list[str]],
    ) -> tuple:
        if item is None:
            return None, None, None
        if isinstance(item, Rejected):
            return None, None, item.as_json()
        if item.deleted:
            return item.item_id, encode_json(ItemVector(item.item_id, self._encoder.version, deleted=True)), None
        text, vector = texts[item.item_id], vectors[item.item_id]
        content_hash = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        return item.item_id, self._record(item, vector, content_hash, words), None


def _check_size(whole: str | None, max_bytes: int) -> None:
    if whole:
        raise InvalidRecord(too_large(int(whole.split()[0]), max_bytes))
