"""Every call into the model that the rivals make, and the folder that holds what all of them are given."""

import gc
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from jobs.settings import Settings
from model import device, interest, score, user
from model.catalogue import Catalogue
from model.schema import (
    Event,
    Recommendation,
    Request,
    decode_event,
    decode_item_vector,
    encode_recommendation,
    event_key,
    item_key,
    rec_id,
)
from model.statistics import ItemStatistics

EVENTS, LATER, ITEM_VECTORS, VERSION = "events.jsonl", "later.jsonl", "item-vectors.jsonl", "v00001"
MICRO_BATCH = Settings().micro_batch


class States(Protocol):
    """Users' states by user_id: a dict, or a store with the same words."""

    def get(self, user_id: str, /) -> Any: ...

    def __setitem__(self, user_id: str, state: Any, /) -> None: ...


class Functions:
    """The functions of Headrace's job in one process: decode, update, score.

    An example is counted once the list that answers its event is made, as in the job. Nothing is written to the log of
    examples, from which Headrace's learner and its other workers learn.

    Args:
        folder: `workload.prepare` wrote it.
    """

    def __init__(self, folder: Path) -> None:
        device.use_threads(1)
        interest.prepare()
        self._rules, self._k = Settings().rules(), Settings().k
        self._catalogue, self._statistics = Catalogue(), ItemStatistics()
        self._catalogue.apply(map(decode_item_vector, (folder / ITEM_VECTORS).read_bytes().splitlines()))
        self._scorer = score.load(str(folder / VERSION))
        score.try_out(self._scorer, self._catalogue, self._k, self._rules)
        self._examples = []
        gc.freeze()  # as the job's workers do

    @staticmethod
    def decode(raw: bytes) -> Event:
        return decode_event(raw, time.time_ns() // 1_000_000)

    def update(self, state: bytes | None, event: Event) -> tuple[bytes, Request | None]:
        """The user's state after the event, and what is asked, if a list is wanted."""
        key = item_key(event.item_id) if event.item_id else 0
        record = user.embedded(event, key, self._catalogue.encoder, self._catalogue.lookup(key))
        after = user.update(state, record, self._rules)
        if after.example is not None:
            self._examples.append(after.example)
        if not after.answered:
            return after.state, None
        return after.state, user.request(after.state, event.user_id, event.event_id, event.event_time_ms)

    def score(self, requests: list[Request]) -> list[tuple[str, bytes]]:
        """(user_id, record of `recommendations`) for each request."""
        lists = score.score(self._scorer, self._statistics, self._catalogue, requests, self._k, self._rules)
        now_ms = time.time_ns() // 1_000_000
        records = [(one.user_id, self._record(one, items, now_ms)) for one, items in zip(requests, lists)]
        self._statistics.apply(self._examples)
        self._examples = []
        return records

    def _record(self, asked: Request, items: list, now_ms: int) -> bytes:
        name = rec_id(asked.user_id, event_key(asked.event_id), asked.event_time_ms)
        about = (name, asked.user_id, asked.event_id, asked.event_time_ms, now_ms, VERSION, "serving")
        return encode_recommendation(Recommendation(*about, items, examples_seen=self._statistics.seen))


def answer(functions: Functions, states: States, raws: Iterable[bytes]) -> list[tuple[str, bytes]]:
    """Answer a micro-batch: (user_id, record of `recommendations`) for each event that wants a list."""
    requests = []
    for raw in raws:
        event = functions.decode(raw)
        states[event.user_id], request = functions.update(states.get(event.user_id), event)
        if request is not None:
            requests.append(request)
    return functions.score(requests)
