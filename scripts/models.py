"""Look at model versions, and decide which one serves.

    python scripts/models.py list
    python scripts/models.py promote VERSION      this version serves from now on
    python scripts/models.py rollback             the one before serves again, the present one is rejected

Settings are given as for the job: `--bootstrap_servers HOST:PORT`, or HEADRACE_BOOTSTRAP_SERVERS.
"""

import os
import sys

from jobs.settings import help_or_go_on, load_or_exit, usage

if __name__ == "__main__":
    help_or_go_on(sys.argv[1:], f"{__doc__}\n{usage()}")

from kafka.errors import KafkaError
from rich.console import Console
from rich.table import Table

from jobs.versions import Versions
from model import score
from model.schema import HeadraceError, ModelVersion, VersionError

USAGE = __doc__


def show(versions: Versions) -> None:
    """Print every version, the one that serves marked."""
    table = Table("version", "", "status", "parent", "HR@10", "NDCG@10", "reason")
    current = versions.current()
    for version in sorted(versions.known.values(), key=lambda one: one.version):
        figures = [f"{version.metrics[name]:.4f}" if name in version.metrics else "" for name in ("hr_at_10", "ndcg_at_10")]
        mark = "serves" if version == current else ""
        table.add_row(version.version, mark, version.status, version.parent, *figures, version.reason)
    Console(markup=False, emoji=False).print(table)


def promote(versions: Versions, name: str) -> ModelVersion:
    """Let a version serve, if it can be read.

    Raises:
        VersionError: there is no such version, or its files are missing or broken.
    """
    if name not in versions.known:
        raise VersionError(f"{name}: no such version; there are {', '.join(sorted(versions.known)) or 'none'}")
    version = versions.known[name]
    score.load(version.path)
    versions.serve(version, reason="promoted by hand")
    return version


def rollback(versions: Versions) -> ModelVersion:
    """Let the version before serve again, and reject the one that does now.

    Raises:
        VersionError: there is none before.
    """
    if len(versions.serving) < 2:
        raise VersionError("rollback: no version has served before the present one; `promote` one by name")
    before = next(version for version in versions.known.values() if version.path == versions.serving[1])
    score.load(before.path)
    versions.serve(before, before="rejected", reason="rolled back by hand")
    return before


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in ("list", "promote", "rollback") or (argv[0] == "promote" and len(argv) < 2):
        print(USAGE, file=sys.stderr)
        return 2
    given = argv[2:] if argv[0] == "promote" else argv[1:]
    settings = load_or_exit(given, os.environ, USAGE)
    try:
        versions = Versions(settings)
        if argv[0] == "list":
            show(versions)
        else:
            version = promote(versions, argv[1]) if argv[0] == "promote" else rollback(versions)
            print(f"{version.version} serves now")
    except KafkaError as error:
        print(f"models: no answer from {settings.bootstrap_servers}: {error}; start it with `make up`", file=sys.stderr)
        return 1
    except HeadraceError as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
