"""Writes single records, and knows that they are there."""

from contextlib import suppress

from kafka import KafkaProducer

TIMEOUT_S = 30.0
"""A broker that has not confirmed a record after this time is away."""
MARGIN_S = 1.0
"""The client gives up this much earlier than whoever waits for it, so nothing is on its way when it is closed."""


class Writer:
    """Writes to one topic. It connects with the first record, and anew after a failure."""

    def __init__(self, bootstrap_servers: str, topic: str, timeout_s: float = TIMEOUT_S) -> None:
        self._servers, self._topic, self._timeout_s = bootstrap_servers, topic, timeout_s
        self._producer: KafkaProducer | None = None

    def write(self, key: bytes | None, value: bytes | None) -> None:
        """Return when the broker has confirmed the record.

        Raises:
            Exception: whatever the client raises. The record may have been written nevertheless.
        """
        try:
            if self._producer is None:
                self._producer = self._connect()
            sent = self._producer.send(self._topic, key=key, value=value)
            sent.get(timeout=self._timeout_s + MARGIN_S)
        except Exception:
            self.close()
            raise

    def _connect(self) -> KafkaProducer:
        timeout_ms = int(1_000 * self._timeout_s)
        return KafkaProducer(
            bootstrap_servers=self._servers.split(","),
            acks="all",
            bootstrap_timeout_ms=timeout_ms,
            max_block_ms=timeout_ms,
            request_timeout_ms=timeout_ms,
            delivery_timeout_ms=timeout_ms,
        )

    def close(self) -> None:
        """Let the connection go; the next record makes another one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(Exception):  # it is given up, in whatever state it is
                producer.close(timeout=0)
