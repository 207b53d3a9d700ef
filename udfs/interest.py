"""update-interest: keyed by user, in thread mode; all state of the job is here.

What it decides travels on the request: the user's interests, what is left out, and which model version serves.
"""

import logging
import os
import time

from msgspec.structs import replace
from pyflink.common import Types
from pyflink.datastream import OutputTag
from pyflink.datastream.functions import KeyedBroadcastProcessFunction
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from model.interest import Rules, prepare
from model.schema import (
    RECORD_BYTES,
    Embedded,
    FineTuneRequest,
    Rejected,
    StateError,
    decode_embedded,
    decode_model_version,
    decoded,
    encode_json,
    encode_packed,
    too_large,
)
from model.user import request, update
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
    """payload, keyed by user -> packed `Request`; side outputs for what is rejected, what to learn, and when."""

    def __init__(self, rules: Rules, fine_tune_every: int, fine_tune_max_age_s: float) -> None:
        self._rules = rules
        self._pace = (fine_tune_every, fine_tune_max_age_s)

    def open(self, runtime_context) -> None:
        self._state = runtime_context.get_state(ValueStateDescriptor("user-state", Types.PICKLED_BYTE_ARRAY()))
        self._versions, self._serving = serving_versions(), None
        self._rejected = side_output("rejected-events")
        self._examples = side_output("training-examples")
        self._requests = side_output("fine-tune-requests")
        self._learning = LearningPace(*self._pace)
        prepare()
        logger.warning("update-interest runs in %s", os.readlink("/proc/self/exe"))

    def process_element(self, value, ctx):
        record = decode_embedded(value)
        if isinstance(record, Rejected):
            yield self._rejected, record.as_json()
        else:
            try:
                yield from self._update(record, ctx)
            except StateError as error:  # this user's alone: the state stays as it is, and a `forget` clears it
                yield self._rejected, self._refused(record, error)

    def process_broadcast_element(self, value, ctx):
        raw, partition, offset, whole = value
        version = too_large(int(whole.split()[0]), RECORD_BYTES) if whole else decoded(raw, decode_model_version)
        if isinstance(version, str):
            logger.warning(
                "model-versions: the record at partition %d, offset %d is passed over: %s", partition, offset, version
            )
            yield self._rejected, Rejected.of("model-versions", partition, offset, version, raw, whole).as_json()
            return
        state = ctx.get_broadcast_state(self._versions)
        serving = follow(Serving.decode(state.get(SERVING)), version)
        state.put(SERVING, serving.encode())
        self._serving = serving.paths[:STAND_INS]
        logger.warning("model-versions: %s is %s; serving: %s", version.version, version.status, self._serving)

    def _update(self, record: Embedded, ctx):
        event, before = record.event, self._state.value()
        after = update(before, record, self._rules)
        if not after.state:
            self._state.clear()
        elif after.state != before:
            self._state.update(after.state)
        if after.answered:
            asked = request(after.state, event.user_id, event.event_id, event.event_time_ms)
            forget = event.action == "forget"
            yield encode_packed(replace(asked, versions=self._serving_now(ctx), variant="serving", forget=forget))
        if after.example is not None:
            yield self._examples, encode_json(after.example)
        if after.example is not None and not after.example.forget:
            for wanted in self._learning.count(event.event_time_ms, time.monotonic()):
                yield self._requests, encode_json(wanted)

    @staticmethod
    def _refused(record: Embedded, error: StateError) -> bytes:
        event = encode_json(record.event)
        return Rejected.of("events", record.partition, record.offset, str(error), event).as_json()

    def _serving_now(self, ctx) -> list[str]:
        if self._serving is None:  # just started: what was broadcast before is in the state
            self._serving = Serving.decode(ctx.get_broadcast_state(self._versions).get(SERVING)).paths[:STAND_INS]
        return self._serving


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
