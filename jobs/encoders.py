"""The `item-vectors` topic as an operator sees it: of how many items which encoder's vectors came last, and a say in it."""

from collections import Counter

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from jobs.settings import Settings
from model.schema import ItemVector, decode_item_vector, decoded, encode_json

READ_TIMEOUT_MS = 500


class Encoders:
    """Which encoder versions the catalogue's items have vectors of."""

    def __init__(self, settings: Settings) -> None:
        self._servers, self._topic = settings.bootstrap_servers.split(","), settings.topic("item-vectors")

    def count(self) -> Counter[str]:
        """How many items came last with each encoder version."""
        newest: dict[str, str] = {}
        for value in self._values():
            item = decoded(value, decode_item_vector)
            if not isinstance(item, str) and item.item_id:
                newest[item.item_id] = "" if item.deleted else item.encoder_version
        return Counter(filter(None, newest.values()))

    def _values(self):
        """The values of the topic's records, up to its end of now."""
        consumer = KafkaConsumer(
            bootstrap_servers=self._servers, enable_auto_commit=False, isolation_level="read_committed"
        )
        partitions = [TopicPartition(self._topic, number) for number in consumer.partitions_for_topic(self._topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions) if partitions else {}
        while any(consumer.position(at) < end for at, end in ends.items()):
            for records in consumer.poll(timeout_ms=READ_TIMEOUT_MS).values():
                yield from (record.value for record in records)
        consumer.close()

    def pin(self, encoder_version: str) -> None:
        """Say that the vectors of this version serve; of none: those that are complete.

        No item has an empty id: under that key, the newest word stays when the topic is compacted.
        """
        producer = KafkaProducer(bootstrap_servers=self._servers, acks="all")
        record = ItemVector("", encoder_version, pinned=bool(encoder_version))
        producer.send(self._topic, key=b"", value=encode_json(record)).get(timeout=30)
        producer.close()
