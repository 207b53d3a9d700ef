"""The texts of the items, for the joint scorer, and their categories, for quotas: followed from `items`, where on.

`item-vectors` carries vectors alone. Texts in it would be written, kept and read by every worker and the learner also
where nobody reads them, and a change of the switch would have to embed the catalogue anew; `items` has them already.
"""

import sys
from collections.abc import Sequence

from kafka.consumer.fetcher import ConsumerRecord

from model.schema import InvalidRecord, Item, decode_item, deleted_item, item_key
from udfs.follow import TopicFollower

KEPT_CHARS = 200
"""So much is kept of a text; the joint scorer reads less."""
KEPT_CATEGORIES = 8
"""So many are kept of an item; quotas read as many."""


class ItemsFollower:
    """Follows `items`: read up to the topic's end when made, then by a thread.

    A record that is no item is passed over: embed-items says so on `rejected-events`.
    """

    def __init__(self, bootstrap_servers: str, topic: str, max_bytes: int = 1_000_000) -> None:
        self._max_bytes = max_bytes
        self._follower = TopicFollower(
            bootstrap_servers, topic, "", {}, take=self.take, restart=lambda source: self.clear()
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
            if item.deleted:
                self.drop(item.item_id)
            else:
                self.keep(item)

    def keep(self, item: Item) -> None:
        """Keep what is wanted of an item."""
        raise NotImplementedError

    def drop(self, item_id: str) -> None:
        """Drop what is kept of an item."""
        raise NotImplementedError

    def clear(self) -> None:
        """Drop all."""
        raise NotImplementedError

    def close(self) -> None:
        self._follower.close()


class TextsFollower(ItemsFollower):
    """`texts` and `categories` by item key."""

    def __init__(self, bootstrap_servers: str, topic: str, max_bytes: int = 1_000_000) -> None:
        self.texts: dict[int, str] = {}
        self.categories: dict[int, tuple[str, ...]] = {}
        super().__init__(bootstrap_servers, topic, max_bytes)

    def keep(self, item: Item) -> None:
        key = item_key(item.item_id)
        self.texts[key] = item.as_text()[:KEPT_CHARS]
        self.categories[key] = _categories(item)

    def drop(self, item_id: str) -> None:
        key = item_key(item_id)
        self.texts.pop(key, None)
        self.categories.pop(key, None)

    def clear(self) -> None:
        self.texts.clear()
        self.categories.clear()


def _categories(item: Item) -> tuple[str, ...]:
    return tuple(sys.intern(name[:KEPT_CHARS]) for name in item.categories[:KEPT_CATEGORIES])


Name = tuple[str, tuple[str, ...]]
"""Title and categories."""


class NamesFollower(ItemsFollower):
    """`names` holds title and categories by item id: what a description names."""

    def __init__(self, bootstrap_servers: str, topic: str, max_bytes: int = 1_000_000) -> None:
        self.names: dict[str, Name] = {}
        super().__init__(bootstrap_servers, topic, max_bytes)

    def keep(self, item: Item) -> None:
        self.names[item.item_id] = item.title[:KEPT_CHARS], _categories(item)

    def drop(self, item_id: str) -> None:
        self.names.pop(item_id, None)

    def clear(self) -> None:
        self.names.clear()
