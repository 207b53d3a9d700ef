"""Which model versions serve: a fold over the records of `model-versions`, for job, learner, page and command.

    serving, epoch 0 ─► serving, epoch 0 ─► by hand: serving, epoch 1, pinned ─► serving, epoch 0: too late, no effect

A decision by hand begins a new epoch, and every record says in which epoch it was written. So a candidate that was
learnt before a rollback cannot undo it, whenever its record comes. An epoch also outlives the compaction of the topic,
of which a comparison with the version before would lose one side.
"""

import re
from collections.abc import Collection

import msgspec
from msgspec import Struct

from model.schema import ModelVersion, trained_path

KEPT = 12
"""So many versions are known in the order in which they went live: as often can one go back."""
STAND_INS = 3
"""The version that serves, and those that stand in where it cannot be loaded: they travel on every request."""

_NAME = re.compile("v[0-9]{5,9}")


class Serving(Struct, frozen=True, array_like=True):
    """What serves: paths, best first, the others in the order in which they served; whether candidates have to wait.

    `led` is whether one was said to serve: the first records of a compacted topic say only what has served.
    """

    paths: list[str] = []
    epoch: int = 0
    pinned: bool = False
    led: bool = False

    def encode(self) -> bytes:
        """The bytes that the job's state holds."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, state: bytes | list[str] | None) -> "Serving":
        """Open what `encode` made; a list of paths is what an earlier release kept.

        >>> Serving.decode(["r/v1"]) == Serving.decode(Serving(["r/v1"], led=True).encode())
        True
        >>> Serving.decode(["r/v1/counts-000017"]).paths
        ['r/v1']
        """
        serving = _decode(state) if isinstance(state, bytes) else cls(list(state or []), led=bool(state))
        return msgspec.structs.replace(serving, paths=list(dict.fromkeys(map(trained_path, serving.paths))))


_decode = msgspec.msgpack.Decoder(Serving).decode


def name_of(path: str) -> str:
    """What a list is stamped with.

    >>> name_of("r/v00003")
    'v00003'
    """
    return path.rsplit("/", 1)[-1]


def follow(serving: Serving, version: ModelVersion) -> Serving:
    """What serves after this record.

    >>> after = follow(Serving(["r/v1"]), ModelVersion("v2", "r/v2", status="serving"))
    >>> after.paths
    ['r/v2', 'r/v1']

    By hand v1 serves again, and stays: what is learnt from now on has to wait, and what was learnt before comes too
    late.

    >>> after = follow(after, ModelVersion("v1", "r/v1", status="serving", epoch=1, pinned=True))
    >>> after = follow(after, ModelVersion("v3", "r/v3", status="serving"))
    >>> after = follow(after, ModelVersion("v4", "r/v4", status="serving", epoch=1))
    >>> after
    Serving(paths=['r/v1', 'r/v2'], epoch=1, pinned=True, led=True)

    A retired version stands in for the others, a rejected one never does.

    >>> follow(Serving(["r/v2", "r/v1"], led=True), ModelVersion("v2", "r/v2", status="retired")).paths
    ['r/v1', 'r/v2']
    >>> follow(Serving(["r/v2", "r/v1"], led=True), ModelVersion("v2", "r/v2", status="rejected")).paths
    ['r/v1']
    """
    if version.epoch < serving.epoch or version.status == "counted":
        return serving
    waits = serving.pinned and version.epoch == serving.epoch and _place(serving.paths, version) != 0
    if version.status == "serving" and waits:
        return serving
    pinned = version.pinned if version.epoch > serving.epoch else serving.pinned
    return Serving(_paths(serving, version), version.epoch, pinned, serving.led or version.status == "serving")


def _paths(serving: Serving, version: ModelVersion) -> list[str]:
    paths, place = serving.paths, _place(serving.paths, version)
    others = [path for path in paths if path != version.path]
    match version.status:
        case "serving":
            paths = [version.path, *others]
        case "retired":
            place = max(place or 0, int(serving.led))  # where its earlier records are gone, it was the last that served
            paths = [*others[:place], version.path, *others[place:]]
        case "rejected" | "removed":
            paths = others
    return paths[:KEPT]


def _place(paths: list[str], version: ModelVersion) -> int | None:
    """Where a version stands, None for nowhere."""
    return paths.index(version.path) if version.path in paths else None


def is_name(name: str) -> bool:
    """Whether a learner gave this name: others are those of folders that people made.

    >>> is_name("v00010"), is_name("by-hand"), is_name("../v00010")
    (True, False, False)
    """
    return _NAME.fullmatch(name) is not None


def next_name(versions: Collection[str]) -> str:
    """The name of the version after all these.

    >>> next_name(["v00001", "v00009", "by-hand"])
    'v00010'
    """
    number = max((int(name[1:]) for name in versions if is_name(name)), default=0) + 1
    while f"v{number:05d}" in versions:  # by somebody who counts further than any learner will
        number += 1
    return f"v{number:05d}"
