"""The `model-versions` topic: what each version is, which one serves, and how to say so."""

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

import msgspec

from jobs.settings import Settings
from model.schema import ModelVersion, decode_model_version, encode_json
from model.versions import follow


class Versions:
    """Every model version that was announced. `refresh` reads on to the topic's end."""

    def __init__(self, settings: Settings) -> None:
        servers = settings.bootstrap_servers.split(",")
        self._topic = settings.topic("model-versions")
        self._producer = KafkaProducer(bootstrap_servers=servers, acks="all")
        self._consumer = KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, isolation_level="read_committed")
        self._partitions = [TopicPartition(self._topic, number) for number in self._consumer.partitions_for_topic(self._topic) or {0}]
        self._consumer.assign(self._partitions)
        self._consumer.seek_to_beginning()
        self.known: dict[str, ModelVersion] = {}
        self.serving: list[str] = []
        self.refresh()

    def refresh(self) -> None:
        """Read on; a record that cannot be read is passed over."""
        ends = self._consumer.end_offsets(self._partitions)
        while any(self._consumer.position(at) < end for at, end in ends.items()):
            for records in self._consumer.poll(timeout_ms=500).values():
                for record in records:
                    self._take(record.value)

    def _take(self, value: bytes | None) -> None:
        try:
            version = decode_model_version(value or b"")
        except msgspec.DecodeError:
            return
        self.known[version.version] = version
        self.serving = follow(self.serving, version)

    def announce(self, version: ModelVersion) -> None:
        """Say what a version is now; whoever follows the topic acts on it."""
        self._producer.send(self._topic, key=version.version.encode(), value=encode_json(version)).get(timeout=30)
        self.refresh()

    def serve(self, version: ModelVersion, before: str = "retired", reason: str = "") -> None:
        """Make a version the one that serves; the one that did becomes `before`."""
        old = self.current()
        self.announce(msgspec.structs.replace(version, status="serving", reason=reason))
        if old is not None and old.version != version.version:
            self.announce(msgspec.structs.replace(old, status=before, reason=reason))

    def current(self) -> ModelVersion | None:
        """The version that serves now."""
        path = self.serving[0] if self.serving else None
        return next((version for version in self.known.values() if version.path == path), None)

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()
