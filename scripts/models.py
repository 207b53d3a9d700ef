"""Look at model versions, and decide which one serves.

    python scripts/models.py list
    python scripts/models.py promote VERSION      this version serves, until a candidate that is not worse does
    python scripts/models.py pin VERSION          this version serves, and candidates wait
    python scripts/models.py rollback             the one before serves again, pinned; the present one is rejected
    python scripts/models.py unpin                candidates may take its place again
    python scripts/models.py encoder VERSION      the items' vectors of this encoder serve, however many have come
    python scripts/models.py encoder auto         those that serve stay, until another encoder's are complete

Settings are given as for the job: `--bootstrap_servers HOST:PORT`, or HEADRACE_BOOTSTRAP_SERVERS.
"""

import os
import sys

from jobs.settings import Settings, help_or_go_on, load_or_exit, usage

if __name__ == "__main__":
    help_or_go_on(sys.argv[1:], f"{__doc__}\n{usage()}")

from kafka.errors import KafkaError
from rich.console import Console
from rich.table import Table

from jobs.encoders import Encoders
from jobs.versions import Versions
from model import score
from model.schema import HeadraceError, ModelVersion, VersionError

USAGE = __doc__
NAMED = ("promote", "pin", "encoder")  # these commands name a version


def show(versions: Versions) -> None:
    """Print every version, the one that serves marked."""
    table = Table("version", "", "status", "parent", "HR@10", "NDCG@10", "judged on", "reason")
    current = versions.current()
    mark = "serves, pinned" if versions.serving.pinned else "serves"
    for version in sorted(versions.known.values(), key=lambda one: one.version):
        about, serves = version.metrics, current is not None and version.version == current.version
        figures = [f"{about[name]:.4f}" if name in about else "" for name in ("hr_at_10", "ndcg_at_10")]
        judged = f"{about['judged_on']:.0f}" if "judged_on" in about else ""
        table.add_row(
            version.version, mark if serves else "", version.status, version.parent, *figures, judged, version.reason
        )
    Console(markup=False, emoji=False).print(table)


def promote(versions: Versions, name: str) -> ModelVersion:
    """Let a version serve, if it can be read.

    Raises:
        VersionError: there is no such version, or its files are missing or broken.
    """
    version = _readable(versions, name)
    versions.decide(version, "promoted by hand")
    return version


def pin(versions: Versions, name: str) -> ModelVersion:
    """Let a version serve, and no other until the next decision by hand.

    Raises:
        VersionError: there is no such version, or its files are missing or broken.
    """
    version = _readable(versions, name)
    versions.decide(version, "pinned by hand", pinned=True)
    return version


def rollback(versions: Versions) -> ModelVersion:
    """Let the version directly before serve again, pinned, and reject the one that does now.

    Raises:
        VersionError: there is none before, or its files are missing or broken.
    """
    lately = versions.lately()
    if len(lately) < 2:
        raise VersionError("rollback: no version has served before the present one; `promote` one by name")
    _check(versions, lately[1])
    versions.decide(lately[1], "rolled back by hand", pinned=True, before="rejected")
    return lately[1]


def unpin(versions: Versions) -> ModelVersion:
    """Let candidates take the place of the version that serves.

    Raises:
        VersionError: nothing is pinned.
    """
    current = versions.current()
    if current is None or not versions.serving.pinned:
        raise VersionError("unpin: nothing is pinned; `list` shows what serves")
    versions.decide(current, "unpinned by hand")
    return current


def choose_encoder(encoders: Encoders, name: str) -> str:
    """Let the vectors of an encoder serve, or `auto`: those that are complete.

    Raises:
        VersionError: no item has a vector of it.
    """
    items = encoders.count()
    if name == "auto":
        encoders.pin("")
        return "encoder: what serves stays until another encoder's vectors are complete"
    if name not in items:
        there = ", ".join(f"{version} ({count} items)" for version, count in items.most_common())
        raise VersionError(f"{name}: no item has a vector of this encoder; there are {there or 'none'}")
    encoders.pin(name)
    return f"encoder: the vectors of {name} serve now, of {items[name]} items, until `encoder auto` or another is named"


def _readable(versions: Versions, name: str) -> ModelVersion:
    if name not in versions.known:
        raise VersionError(f"{name}: no such version; there are {', '.join(sorted(versions.known)) or 'none'}")
    _check(versions, versions.known[name])
    return versions.known[name]


def _check(versions: Versions, version: ModelVersion) -> None:
    """See that a version is there and can be read."""
    name = version.version
    if name in versions.known and versions.known[name].status == "removed":
        raise VersionError(f"{name}: was removed from the registry; keep_versions says how many stay")
    score.load(version.path)


COMMANDS = {"promote": promote, "pin": pin, "rollback": rollback, "unpin": unpin}


def main(argv: list[str]) -> int:
    command, *words = argv or [""]
    if command not in ("list", "encoder", *COMMANDS) or (command in NAMED and not words):
        print(USAGE, file=sys.stderr)
        return 2
    names, given = (words[:1], words[1:]) if command in NAMED else ([], words)
    settings = load_or_exit(given, os.environ, USAGE)
    try:
        _run(command, names, settings)
    except KafkaError as error:
        print(f"models: no answer from {settings.bootstrap_servers}: {error}; start it with `make up`", file=sys.stderr)
        return 1
    except HeadraceError as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    return 0


def _run(command: str, names: list[str], settings: Settings) -> None:
    if command == "encoder":
        print(choose_encoder(Encoders(settings), *names))
        return
    versions = Versions(settings)
    if command == "list":
        show(versions)
        return
    version = COMMANDS[command](versions, *names)
    wait = " and is pinned: candidates wait until `unpin` or `promote`" if versions.serving.pinned else ""
    print(f"{version.version} serves now{wait}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
