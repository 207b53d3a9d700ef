"""The `item-vectors` topic as an operator sees it: of how many items which encoder's vectors came last, and a say."""

from collections import Counter

from jobs.settings import Settings
from jobs.writer import Writer
from model.schema import ItemVector, decode_item_vector, decoded, encode_json
from udfs.reader import Reader


class Encoders:
    """Which encoder versions the catalogue's items have vectors of."""

    def __init__(self, settings: Settings) -> None:
        self._servers, self._topic = settings.bootstrap_servers, settings.topic("item-vectors")
        self._reader = Reader(self._servers, {self._topic: None}, patient=False)

    def count(self) -> Counter[str]:
        """How many items came last with each encoder version."""
        newest: dict[str, str] = {}
        for record in self._reader.drain():
            item = decoded(record.value, decode_item_vector)
            if not isinstance(item, str) and item.item_id:
                newest[item.item_id] = "" if item.deleted else item.encoder_version
        return Counter(filter(None, newest.values()))

    def pin(self, encoder_version: str) -> None:
        """Say that the vectors of this version serve; of none: those that are complete.

        No item has an empty id: under that key, the newest word stays when the topic is compacted.
        """
        writer = Writer(self._servers, self._topic)
        writer.write(b"", encode_json(ItemVector("", encoder_version, pinned=bool(encoder_version))))
        writer.close()
