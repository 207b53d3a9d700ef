"""A fake broker in Kafka's place, and as much of kafka-python's consumer and producer as is used."""

import time
from collections import namedtuple
from types import SimpleNamespace

from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

Written = namedtuple("Written", "value timestamp key", defaults=(0, None))
Read = namedtuple("Read", "topic partition offset timestamp key value")


class Broker:
    """Topics as lists of what was written, by partition.

    Attributes:
        ids: what tells a topic from the one before it was made anew.
        away: nobody answers; or so many calls from now on.
        refuses: what the next polls raise.
        at_once: so many records of a partition a poll hands out.
        told: records that were written by a producer, to a topic that is not kept here.
    """

    def __init__(self, *topics: str) -> None:
        self.topics: dict[str, dict[int, list]] = {topic: {0: []} for topic in topics}
        self.ids: dict[str, object] = {}
        self.cluster: str | None = "one"
        self.away: bool | int = False
        self.refuses: list[Exception] = []
        self.at_once: int | None = None
        self.told: list[tuple[str, bytes]] = []

    def consumer(self, **options) -> "Consumer":
        assert ("earliest", "read_committed") == (options["auto_offset_reset"], options["isolation_level"])
        self.check()
        return Consumer(self)

    def producer(self, **options) -> "Producer":
        assert "all" == options["acks"]
        self.check()
        return Producer(self)

    def check(self) -> None:
        if self.away:
            self.away = self.away if self.away is True else self.away - 1
            raise KafkaTimeoutError("nobody there")

    def records(self, at: TopicPartition) -> list:
        return self.topics.get(at.topic, {}).get(at.partition, [])


class Consumer:
    """Kafka's: it begins anew by itself where its place is gone."""

    def __init__(self, broker: Broker) -> None:
        self.broker, self.positions = broker, {}

    @property
    def _cluster(self):
        return SimpleNamespace(cluster_id=self.broker.cluster, topic_id=self.broker.ids.get)

    def partitions_for_topic(self, topic):
        return set(self.broker.topics.get(topic, ())) or None

    def beginning_offsets(self, partitions, timeout_ms):
        self.broker.check()
        return dict.fromkeys(partitions, 0)

    def end_offsets(self, partitions, timeout_ms):
        self.broker.check()
        return {at: len(self.broker.records(at)) for at in partitions}

    def offsets_for_times(self, times, timeout_ms):
        found = {}
        for at, time_ms in times.items():
            offsets = [number for number, one in enumerate(self.broker.records(at)) if one.timestamp >= time_ms]
            found[at] = SimpleNamespace(offset=offsets[0]) if offsets else None
        return found

    def assignment(self):
        return set(self.positions)

    def assign(self, partitions):
        self.positions = {at: self.positions.get(at) for at in partitions}

    def seek(self, at, offset):
        assert at in self.positions, f"{at} is not assigned"
        self.positions[at] = offset

    def position(self, at, timeout_ms):
        return self.positions[at]

    def poll(self, timeout_ms):
        time.sleep(0.0005)
        self.broker.check()
        if self.broker.refuses:
            raise self.broker.refuses.pop(0)
        found = {}
        for at, position in self.positions.items():
            log = self.broker.records(at)
            first = position if position <= len(log) else 0
            records = log[first:][: self.broker.at_once]
            self.positions[at] = first + len(records)
            if records:
                found[at] = [
                    Read(*at, number, getattr(one, "timestamp", 0), getattr(one, "key", None), one.value)
                    for number, one in enumerate(records, first)
                ]
        return found

    def close(self):
        pass


class Producer:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def send(self, topic: str, key: bytes | None, value: bytes) -> SimpleNamespace:
        self._broker.check()
        if topic in self._broker.topics:
            self._broker.topics[topic][0].append(Written(value, key=key))
        else:
            self._broker.told.append((topic, value))
        return SimpleNamespace(get=lambda timeout: None)

    def close(self, timeout: float) -> None:
        pass
