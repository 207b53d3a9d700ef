"""Which model versions serve: a fold over the records of `model-versions`, the same for the job, the learner and `models`."""

from collections.abc import Iterable

from model.schema import ModelVersion

KEPT = 3
"""The version that serves, and those that stand in where it cannot be loaded."""


_COUNTS = "/counts-"
"""A version is refreshed by what has been counted since: `<version>/counts-<number>` in the registry."""


def counts_path(path: str, number: int) -> str:
    """Where the counts of a version lie.

    >>> counts_path("r/v00003", 17)
    'r/v00003/counts-000017'
    """
    return f"{trained_path(path)}{_COUNTS}{number:06d}"


def trained_path(path: str) -> str:
    """The version without what has been counted since.

    >>> trained_path("r/v00003/counts-000017"), trained_path("r/v00003")
    ('r/v00003', 'r/v00003')
    """
    trained, _, number = path.rpartition(_COUNTS)
    return trained if number.isdigit() and trained else path


def name_of(path: str) -> str:
    """What a list is stamped with.

    >>> name_of("r/v00003/counts-000017"), name_of("r/v00003")
    ('v00003.17', 'v00003')
    """
    trained = trained_path(path)
    number = path.removeprefix(trained).removeprefix(_COUNTS)
    return trained.rsplit("/", 1)[-1] + (f".{int(number)}" if number else "")


def follow(serving: list[str], version: ModelVersion) -> list[str]:
    """The paths that serve after this record, best first.

    >>> follow(["r/v1"], ModelVersion("v2", "r/v2", status="serving"))
    ['r/v2', 'r/v1']
    >>> follow(["r/v2", "r/v1"], ModelVersion("v1", "r/v1", status="serving"))
    ['r/v1', 'r/v2']

    New counts take the place of the ones before.

    >>> follow(["r/v2/counts-000001", "r/v1"], ModelVersion("v2", "r/v2/counts-000002", status="serving"))
    ['r/v2/counts-000002', 'r/v1']

    A retired version stands in for the others, a rejected one never does.

    >>> follow(["r/v2", "r/v1"], ModelVersion("v2", "r/v2", status="retired"))
    ['r/v1', 'r/v2']
    >>> follow(["r/v2", "r/v1"], ModelVersion("v2", "r/v2", status="rejected"))
    ['r/v1']
    """
    others = [path for path in serving if trained_path(path) != trained_path(version.path)]
    match version.status:
        case "serving":
            return [version.path, *others][:KEPT]
        case "retired":
            return others + [version.path] * (len(others) < len(serving))
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
