"""Which model versions serve: a fold over the records of `model-versions`, the same for the job, the learner and `models`."""

from collections.abc import Iterable

from model.schema import ModelVersion

KEPT = 3
"""The version that serves, and those that stand in where it cannot be loaded."""


def follow(serving: list[str], version: ModelVersion) -> list[str]:
    """The paths that serve after this record, best first.

    >>> follow(["r/v1"], ModelVersion("v2", "r/v2", status="serving"))
    ['r/v2', 'r/v1']
    >>> follow(["r/v2", "r/v1"], ModelVersion("v1", "r/v1", status="serving"))
    ['r/v1', 'r/v2']

    A retired version stands in for the others, a rejected one never does.

    >>> follow(["r/v2", "r/v1"], ModelVersion("v2", "r/v2", status="retired"))
    ['r/v1', 'r/v2']
    >>> follow(["r/v2", "r/v1"], ModelVersion("v2", "r/v2", status="rejected"))
    ['r/v1']
    """
    others = [path for path in serving if path != version.path]
    match version.status:
        case "serving":
            return [version.path, *others][:KEPT]
        case "retired":
            return others + [version.path] * (version.path in serving)
        case "rejected":
            return others
    return serving


def next_name(versions: Iterable[str]) -> str:
    """The name of the version after all these.

    >>> next_name(["v00001", "v00009", "by-hand"])
    'v00010'
    """
    numbers = [int(name[1:]) for name in versions if name[:1] == "v" and name[1:].isdigit()]
    return f"v{max(numbers, default=0) + 1:05d}"
