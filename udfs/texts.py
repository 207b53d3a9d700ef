"""The texts of the items, for the joint scorer: followed from `items`, where it is on.

`item-vectors` carries vectors alone. Texts in it would be written, kept and read by every worker and the learner also
where nobody reads them, and a change of the switch would have to embed the catalogue anew; `items` has them already.
"""

from collections.abc import Hashable, Sequence
from typing import Any

from kafka.consumer.fetcher import ConsumerRecord

from model.schema import InvalidRecord, Item, decode_item, deleted_item, item_key
from udfs.follow import TopicFollower

KEPT_CHARS = 200
"""So much is kept of a text; the joint scorer reads less."""
KEPT_CATEGORIES = 8
"""Of an item."""


class TextsFollower:
    """`texts` by item key, read up to the topic's end when made, then followed by a thread.

    A record that is no item is passed over: embed-items says so on `rejected-events`.
    """

    def __init__(self, bootstrap_servers: str, topic: str, max_bytes: int = 1_000_000) -> None:
        self.texts: dict[Any, Any] = {}
        self._max_bytes = max_bytes
        self._follower = TopicFollower(
            bootstrap_servers, topic, "", {}, take=self.take, restart=lambda source: self.texts.clear()
        )
        self._follower.reached_end.wait()

    def take(self, records: Sequence[ConsumerRecord]) -> None:
        """Take over records of `items`."""
        for record in records:
            try:
                deleted = record.value is None
                item = deleted_item(record.key or b"") if deleted else decode_item(record.value, self._max_bytes)
            except InvalidRecord:
                continue
            key = self.key(item.item_id)
            if item.deleted:
                self.texts.pop(key, None)
            else:
                self.texts[key] = self.kept(item)

    def key(self, item_id: str) -> Hashable:
        """By what an item is found."""
        return item_key(item_id)

    def kept(self, item: Item) -> Any:
        """What is kept of an item."""
        return item.as_text()[:KEPT_CHARS]

    def close(self) -> None:
        self._follower.close()


Name = tuple[str, tuple[str, ...]]
"""Title and categories."""


class NamesFollower(TextsFollower):
    """`texts` holds title and categories by item id: what a description names."""

    def key(self, item_id: str) -> str:
        return item_id

    def kept(self, item: Item) -> Name:
        return item.title[:KEPT_CHARS], tuple(one[:KEPT_CHARS] for one in item.categories[:KEPT_CATEGORIES])
