"""Quix Streams with the same functions: a stateful `apply`, which sees one event at a time. At least once.

python -m scripts.rivals.quix FOLDER BROKER PREFIX STATE_FOLDER
"""

import sys
from pathlib import Path

from scripts.rivals.functions import Functions, answer


class UserState:
    """Quix's state, which is that of the event's user, in a dict's words."""

    def __init__(self, state) -> None:
        self._state = state

    def get(self, user_id: str) -> bytes | None:
        return self._state.get_bytes("user")

    def __setitem__(self, user_id: str, packed: bytes) -> None:
        self._state.set_bytes("user", packed)


def recommend(functions: Functions, raw: bytes, state) -> list[bytes]:
    """The list that answers an event, none where none is wanted."""
    return [made for _, made in answer(functions, UserState(state), [raw])]


def main(folder: str, broker: str, prefix: str, state_folder: str) -> None:
    from quixstreams import Application

    functions = Functions(Path(folder))
    app = Application(broker, consumer_group=f"{prefix}group", auto_offset_reset="earliest", state_dir=state_folder)
    events = app.topic(f"{prefix}events", value_deserializer="bytes")
    lists = app.topic(f"{prefix}recommendations", value_serializer="bytes")
    stream = app.dataframe(events)
    stream = stream.apply(lambda raw, state: recommend(functions, raw, state), stateful=True, expand=True)
    stream.to_topic(lists)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
