"""Reads the topics into a `Store`, in one background thread, for as long as the process lives."""

import logging
import threading

from kafka.errors import KafkaError, UnsupportedCodecError

from jobs.settings import Settings
from serving.store import Store
from udfs.reader import Reader

TOPICS = {"items": None, "model-versions": None, "recommendations": 20_000, "rejected-events": 1_000}
"""Topic -> how many of its newest records are read at the start, None for all."""
RETRY_S = 2.0
READ_MS = 200
GATHER_BYTES, GATHER_MS = 1 << 20, 100
"""The broker gathers so much, or waits so long, before it answers."""

logger = logging.getLogger(__name__)


class Follower:
    """Follows the topics; where the broker is away it says so, keeps trying, and goes on where it was."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._servers = store, settings.bootstrap_servers
        topics = TOPICS | ({"descriptions": None} if settings.describe_first else {})
        self._names = {settings.topic(name): name for name in topics}
        newest = {topic: topics[name] for topic, name in self._names.items()}
        self._reader = Reader(self._servers, newest, GATHER_BYTES, GATHER_MS, patient=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow-topics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._read()
            except Exception as error:  # whatever it is, the lists have to come again after it
                self._lost(error)
                self._reader.close()
                self._stop.wait(RETRY_S)
        self._reader.close()

    def _read(self) -> None:
        for record in self._reader.read(READ_MS):
            self._store.apply(self._names[record.topic], record.key, record.value, record.timestamp)
        message = f"reading from {self._servers}"
        if self._reader.missing:
            message = f"the broker at {self._servers} has no topic {', '.join(sorted(self._reader.missing))} yet"
        if self._store.say(True, message, self._reader.behind(self._reader.ends)):
            logger.info("%s", message)

    def _lost(self, error: Exception) -> None:
        message = f"no broker at {self._servers}: trying again until it answers"
        if not isinstance(error, KafkaError) or isinstance(error, UnsupportedCodecError):
            message = f"reading from {self._servers} stopped: {type(error).__name__}: {error}; trying again"
        if self._store.say(False, message):
            logger.warning("%s (%s)", message, error)
