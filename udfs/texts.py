"""The texts of the items, for the joint scorer, and their categories, for quotas: followed from `items`, where on.

`item-vectors` carries vectors alone. Texts in it would be written, kept and read by every worker and the learner also
where nobody reads them, and a change of the switch would have to embed the catalogue anew; `items` has them already.
"""

import sys
from collections.abc import Sequence

from kafka.consumer.fetcher import ConsumerRecord

from model.schema import InvalidRecord, decode_item, deleted_item, item_key
from udfs.follow import TopicFollower

KEPT_CHARS = 200
"""So much is kept of a text; the joint scorer reads less."""
KEPT_CATEGORIES = 8
"""So many are kept of an item; quotas read as many."""


class TextsFollower:
    """`texts` and `categories` by item key, read up to the topic's end when made, then followed by a thread.

    A record that is no item is passed over: embed-items says so on `rejected-events`.
    """

    def __init__(self, bootstrap_servers: str, topic: str, max_bytes: int = 1_000_000) -> None:
        self.texts: dict[int, str] = {}
        self.categories: dict[int, tuple[str, ...]] = {}
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
            key = item_key(item.item_id)
            if item.deleted:
                self.texts.pop(key, None)
                self.categories.pop(key, None)
                continue
            self.texts[key] = item.as_text()[:KEPT_CHARS]
            self.categories[key] = tuple(sys.intern(name[:KEPT_CHARS]) for name in item.categories[:KEPT_CATEGORIES])

    def clear(self) -> None:
        self.texts.clear()
        self.categories.clear()

    def close(self) -> None:
        self._follower.close()
