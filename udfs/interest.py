"""update-interest: keyed by user, in thread mode; all state of the job is here.

What it decides travels on the request: the user's interests, what is left out, and which model version serves.
"""

import logging
import os
import time

import msgspec
import numpy as np
from pyflink.common import Types
from pyflink.datastream import OutputTag
from pyflink.datastream.functions import KeyedBroadcastProcessFunction
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from model import consumed, interest
from model.schema import (
    CONSUMING, POSITIVE, Embedded, Event, Example, FineTuneRequest, Rejected, Request, UserState,
    decode_embedded, decode_model_version, decode_user_state, encode_json, encode_packed, event_key, rec_id,
)  # fmt: skip
from model.versions import STAND_INS, Serving, follow

SERVING = "serving"

logger = logging.getLogger(__name__)


def side_output(name: str) -> OutputTag:
    """The side output that is written to the topic `name`; its records are JSON bytes."""
    return OutputTag(name, Types.PRIMITIVE_ARRAY(Types.BYTE()))


def serving_versions() -> MapStateDescriptor:
    """Broadcast state: under "serving", the bytes of `Serving`; an earlier release kept its paths alone."""
    return MapStateDescriptor("serving-versions", Types.STRING(), Types.PICKLED_BYTE_ARRAY())


class UpdateInterest(KeyedBroadcastProcessFunction):
    """payload, keyed by user -> packed `Request`; side outputs for what is rejected, to be learnt, and when to learn."""

    def __init__(self, rules: interest.Rules, max_consumed: int, fine_tune_every: int, fine_tune_max_age_s: float) -> None:
        self._rules, self._max_consumed = rules, max_consumed
        self._pace = (fine_tune_every, fine_tune_max_age_s)

    def open(self, runtime_context) -> None:
        self._state = runtime_context.get_state(ValueStateDescriptor("user-state", Types.PICKLED_BYTE_ARRAY()))
        self._versions, self._serving = serving_versions(), None
        self._rejected = side_output("rejected-events")
        self._examples = side_output("training-examples")
        self._requests = side_output("fine-tune-requests")
        self._learning = LearningPace(*self._pace)
        logger.warning("update-interest runs in %s", os.readlink("/proc/self/exe"))

    def process_element(self, value, ctx):
        record = decode_embedded(value)
        if isinstance(record, Rejected):
            yield self._rejected, record.as_json()
        elif record.event.action == "forget":
            yield self._examples, self._forget(record.event)
        elif record.event.action != "impression":
            yield from self._update(record, ctx)

    def process_broadcast_element(self, value, ctx):
        try:
            version = decode_model_version(value)
        except msgspec.DecodeError as error:
            yield self._rejected, Rejected("model-versions", 0, -1, str(error), value.encode()).as_json()
            return
        state = ctx.get_broadcast_state(self._versions)
        serving = follow(Serving.decode(state.get(SERVING)), version)
        state.put(SERVING, serving.encode())
        self._serving = serving.paths[:STAND_INS]
        logger.warning("model-versions: %s is %s; serving: %s", version.version, version.status, self._serving)

    def _update(self, record: Embedded, ctx):
        event, before = record.event, decode_user_state(self._state.value())
        interests = interest.decode(before.interests)
        shown = self._last_list(event.user_id, interests)
        if not self._fold(interests, record):
            return
        after = UserState(interest.encode(interests), self._consume(before.consumed, record))
        self._state.update(encode_packed(after))
        if self._serving is None:  # just started: what was broadcast before is in the state
            self._serving = Serving.decode(ctx.get_broadcast_state(self._versions).get(SERVING)).paths[:STAND_INS]
        request = Request(
            event.user_id, event.event_id, event.event_time_ms, self._serving, "serving", after.interests, after.consumed
        )
        yield encode_packed(request)
        if event.action in POSITIVE:
            yield self._examples, encode_json(self._example(event, before.interests, shown))
            for request in self._learning.count(event.event_time_ms, time.monotonic()):
                yield self._requests, encode_json(request)

    def _consume(self, before: bytes, record: Embedded) -> bytes:
        return consumed.add(before, record.item_key, self._max_consumed) if record.event.action in CONSUMING else before

    def _fold(self, interests: interest.Interests, record: Embedded) -> bool:
        event = record.event
        vector = np.frombuffer(record.vector, "<f2").astype(np.float32) if record.vector else None
        interest.use_encoder(interests, record.encoder)
        key = event_key(event.event_id)
        return interest.fold(interests, event.action, record.item_key, key, event.event_time_ms, vector, self._rules)

    def _forget(self, event: Event) -> bytes:
        self._state.clear()
        return encode_json(Example(event.user_id, event.event_id, event.event_time_ms, forget=True))

    @staticmethod
    def _last_list(user_id: str, interests: interest.Interests) -> str:
        if not len(interests.log):
            return ""
        return rec_id(user_id, int(interests.log["event_key"][-1]), int(interests.times_ms[-1]))

    @staticmethod
    def _example(event: Event, before: bytes, shown: str) -> Example:
        return Example(event.user_id, event.event_id, event.event_time_ms, event.item_id, event.action, before, shown)


class LearningPace:
    """When to ask for fine-tuning: after so many examples, or so long after the last request."""

    def __init__(self, every: int, max_age_s: float) -> None:
        self._every, self._max_age_s = every, max_age_s
        self._times_ms: list[int] = []
        self._since_s: float | None = None

    def count(self, event_time_ms: int, now_s: float):
        """Count one example; yield a `FineTuneRequest` if it is time."""
        self._since_s = now_s if self._since_s is None else self._since_s
        self._times_ms.append(event_time_ms)
        full, old = len(self._times_ms) >= self._every, now_s - self._since_s >= self._max_age_s
        if full or old:
            why = "count" if full else "age"
            yield FineTuneRequest(why, len(self._times_ms), min(self._times_ms), max(self._times_ms))
            self._times_ms, self._since_s = [], now_s
