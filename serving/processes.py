"""The processes of the local stack that the page is part of, as its supervisor has noted them down."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

SUPERVISED = "supervised.json"
"""What the supervisor writes into the run folder: see scripts/supervisor.py."""
LINE_SHOWN = 300
"""Characters of a log's last line that are shown."""


class Supervision(Struct):
    """A process, how often it was started again, and its last end: when, and the last line of its log."""

    running: bool = True
    restarts: int = 0
    ended_at_ms: int = 0
    last_line: str = ""


_decode = msgspec.json.Decoder(dict[str, Supervision]).decode


def read_processes(run_dir: Path | None) -> list[dict[str, Any]]:
    """The processes by name; none where there is no supervisor."""
    if run_dir is None:
        return []
    try:
        found = _decode((run_dir / SUPERVISED).read_bytes())
    except (OSError, msgspec.DecodeError):
        return []
    return [
        {"name": name} | msgspec.structs.asdict(each) | {"last_line": each.last_line[:LINE_SHOWN]}
        for name, each in found.items()
    ]
