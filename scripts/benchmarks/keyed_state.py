"""update-interest alone, as the job has it: the same function, key, state and state backend. For its checkpoints.

flink run -py scripts/benchmarks/keyed_state.py FOLDER BROKER PREFIX STATES USERS

`events` holds packed `Embedded` records, keyed by user. A user who is new here has the state of a MovieLens user after
nine events, which the file STATES of FOLDER has, so the first event is the tenth. A record on `fine-tune-requests` says
that USERS events are in the state.
"""

import sys
from pathlib import Path

import msgspec

from jobs import flow, topics
from jobs.settings import Settings
from model.rules import Rules
from model.schema import RECORD_BYTES
from udfs.interest import UpdateInterest, serving_versions, side_output

NEVER_MS = 86_400_000
"""Checkpoints come when they are asked for."""


class KnownUsers(UpdateInterest):
    """`UpdateInterest` among users of whom nine events are known.

    Args:
        states: of users; user `u7` begins with the eighth, and so on from the first again.
    """

    def __init__(self, states: list[bytes], rules: Rules, users: int) -> None:
        super().__init__(rules, fine_tune_every=users, fine_tune_max_age_s=float(NEVER_MS))
        self._states = states

    def open(self, runtime_context) -> None:
        from model.schema import decode_embedded  # this class travels by value, and a decoder cannot be pickled

        super().open(runtime_context)
        self._decode = decode_embedded

    def process_element(self, value, ctx):
        if not self._state.value():
            number = int(self._decode(value).event.user_id.removeprefix("u"))
            self._state.update(self._states[number % len(self._states)])
        for output in super().process_element(value, ctx):
            if isinstance(output, tuple) and output[0] is self._requests:  # the others are read by nobody here
                yield output


def main(folder: str, broker: str, prefix: str, file: str, users: str) -> None:
    settings = Settings(bootstrap_servers=broker, topic_prefix=prefix, checkpoint_interval_ms=NEVER_MS)
    states = msgspec.msgpack.decode((Path(folder) / file).read_bytes(), type=list[bytes])
    env, tables = flow.environment(settings, ())
    tables.execute_sql(topics.source(settings, "events", key="user_id"))
    tables.execute_sql(topics.source(settings, "model-versions", startup="earliest-offset"))
    read = topics.table_of("read", "events")
    events = tables.to_data_stream(tables.sql_query(f"SELECT user_id, CAST(`value` AS BYTES) AS payload FROM {read}"))
    by_user = flow.key_by_user(flow.step(events, "events", source="read-events"))
    versions = flow.read_rows(tables, "model-versions", RECORD_BYTES).broadcast(serving_versions())
    update = KnownUsers(states, settings.rules(), int(users))
    requests = flow.step(by_user.connect(versions).process(update, flow.BYTES), "update-interest")
    done = tables.from_data_stream(flow.beside(requests, side_output("fine-tune-requests"))).alias("value")
    flow.write(tables, env, {"fine-tune-requests": done}, settings)
    env.execute("keyed-state")


if __name__ == "__main__":
    main(*sys.argv[1:])
