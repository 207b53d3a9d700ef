"""Every switch beside the default, on the same events: what it gains and what it costs.

    scripts/evaluate.py --switches all                      # each, on ml-100k and ml-latest-2016: hours
    scripts/evaluate.py --switches joint,int8 --data ml-100k --limit 20000

A switch is some settings. Each is evaluated in a process of its own, one after the other, so that the memory and the
time are its own. Differences are of the same targets, with an interval from draws of the users.
"""

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from model.metrics import gains, hits, interval, user_bootstrap
from scripts.data import DATA, RECBOLE, DataError

TRIPLES = str(DATA / RECBOLE.replace("==", "-") / "recbole/dataset_example/ml-100k/ml-100k.kg")
"""Of Freebase, for the items of ml-100k; there as soon as that was read."""
STREAMS = ("ml-100k", "ml-latest-2016")
DEFAULT = "default"
_WIDTH = 150


@dataclass(frozen=True)
class Switch:
    """Some settings, and the public streams that have what it reads; `page` says more.

    Attributes:
        settings: words of a command line.
        page: of docs/.
        streams: where it can be measured; every one if empty.
    """

    settings: tuple[str, ...]
    page: str
    streams: tuple[str, ...] = ()


SWITCHES = {
    "joint": Switch(("--joint_first", "20", "--joint_share", "0.1"), "joint.md"),
    "joint-listwise": Switch(("--joint_first", "20", "--joint_share", "0.1", "--joint_loss", "listwise"), "joint.md"),
    "thorough": Switch(("--training", "thorough"), "operations.md"),
    "diversity": Switch(("--diversity", "0.3"), "diversity.md"),
    "quotas": Switch(("--quota_category", "0.5", "--quota_new", "1"), "diversity.md"),
    "explore-epsilon": Switch(("--explore", "epsilon"), "diversity.md"),
    "explore-thompson": Switch(("--explore", "thompson"), "diversity.md"),
    "profile": Switch(("--text_profile", "mean"), "text-profile.md"),
    "keywords": Switch(("--keywords", "5"), "text-profile.md"),
    "profile+keywords": Switch(("--text_profile", "mean", "--keywords", "5"), "text-profile.md"),
    "user-facts": Switch(("--user_facts", "on"), "user-facts.md", ("ml-100k",)),
    "triples": Switch(("--triples", TRIPLES), "knowledge-graph.md", ("ml-100k",)),
    "encoder-int8": Switch(("--encoder_precision", "int8"), "operations.md"),
}


@dataclass(frozen=True)
class Measured:
    """One evaluation: its result, the ranks of its targets with their users, and the most memory it had, in MiB."""

    result: dict
    ranks: np.ndarray
    users: np.ndarray
    memory_mib: float

    @property
    def figures(self) -> dict:
        return self.result["methods"]["headrace"]


def chosen(names: str) -> list[str]:
    """The switches of `all`, or of names separated by commas, each once.

    Raises:
        DataError: there is no such switch.
    """
    wanted = list(SWITCHES) if names.strip() == "all" else [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in SWITCHES]
    if unknown:
        what = ", ".join(dict.fromkeys(name or "without a name" for name in unknown))[:100]
        raise DataError(f"--switches: no switch {what}; there are all, {', '.join(SWITCHES)}")
    return list(dict.fromkeys(wanted))


def _check_streams(names: Iterable[str], streams: Sequence[str]) -> None:
    """Raise a DataError where a switch is named that none of the streams has anything for."""
    for name in names:
        its = SWITCHES[name].streams
        if its and not set(its) & set(streams):
            raise DataError(f"--switches {name}: it is measured on {', '.join(its)} only: --data {its[0]} is wanted")


def compare(arguments: Namespace, rest: Sequence[str]) -> dict:
    """Evaluate the default and each switch on each stream, and print a table for each.

    Args:
        rest: settings for all of them.

    Returns:
        Figures by stream and switch, as JSON values.
    """
    found: dict[str, dict] = {}
    names, streams = chosen(arguments.switches), _streams(arguments)
    if arguments.users:
        raise DataError("--users: --switches measures `user-facts` on ml-100k, by its own table: leave --users out")
    if arguments.switches.strip() != "all":
        _check_streams(names, streams)
    for stream in streams:
        default = _measure(arguments, stream, rest)
        rows = {DEFAULT: _row(default, default)}
        for name in names:
            switch = SWITCHES[name]
            if not switch.streams or stream in switch.streams:
                rows[name] = _row(_measure(arguments, stream, [*rest, *switch.settings]), default)
        found[stream] = rows
        _show(stream, default.result, rows)
    return found


def _streams(arguments: Namespace) -> list[str]:
    """The names of public streams, or "" for the files given."""
    if arguments.events:
        return [""]
    return [arguments.data] if arguments.data else [*STREAMS]


def _measure(arguments: Namespace, stream: str, settings: Sequence[str]) -> Measured:
    """Raises: DataError: the evaluation did not end well; it has said why."""
    source = ["--data", stream] if stream else ["--events", arguments.events, "--items", arguments.items]
    limit = ["--limit", str(arguments.limit)] if arguments.limit else []
    with tempfile.TemporaryDirectory() as folder:
        result, ranks = Path(folder) / "result.json", Path(folder) / "ranks.npz"
        out = ["--json", str(result), "--ranks", str(ranks), "--order-seed", str(arguments.order_seed)]
        words = [*source, *limit, *out, "--baselines", "none", "--no-behaviour", *settings]
        print(f"evaluating {' '.join([*source, *limit, *settings])}", file=sys.stderr)
        command = [sys.executable, str(Path(__file__).with_name("evaluate.py")), *words]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise DataError(f"--switches: {' '.join(words)[:300]} ended with {child.returncode}: its message is above")
        kept = np.load(ranks)
        return Measured(json.loads(result.read_text()), kept["ranks"], kept["users"], used.ru_maxrss / 1024)


def _row(measured: Measured, default: Measured) -> dict:
    """What is shown of a switch, as JSON values; `gained`: the interval of HR@10 and NDCG@10 above the default's."""
    figures = measured.figures
    values = [figure(measured.ranks) * 1.0 - figure(default.ranks) for figure in (hits, gains)]
    draws = user_bootstrap(measured.users, np.array(values))
    names = "hr_at_10", "ndcg_at_10", "coverage", "ms_per_list", "learning_s_per_1000_events"
    return {
        **{name: figures[name] for name in names},
        **{group: figures.get(group, {}).get("hr_at_10") for group in ("new_users", "new_items")},
        "gained": {name: interval(draws[:, at]) for at, name in enumerate(("hr_at_10", "ndcg_at_10"))},
        "memory_mib": round(measured.memory_mib),
    }


def _show(stream: str, result: dict, rows: dict[str, dict]) -> None:
    title = f"{stream or result['data']}: {result['predicted']:,} targets"
    columns = "HR@10", "above the default, 95 %", "NDCG@10", "new users", "new items", "coverage", "ms a list"
    caption = "HR@10 of new users and new items (fewer than 5 earlier events); learning: s per 1,000 events"
    table = Table("switch", *columns, "learning", "MiB", "page", title=title, caption=caption)
    for column in table.columns[1:-1]:
        column.justify, column.no_wrap = "right", True
    for name, row in rows.items():
        low, high = row["gained"]["hr_at_10"]
        groups = [f"{row[group]:.4f}" if row[group] is not None else "" for group in ("new_users", "new_items")]
        table.add_row(
            name, f"{row['hr_at_10']:.4f}", "" if name == DEFAULT else f"{low:+.4f} to {high:+.4f}",
            f"{row['ndcg_at_10']:.4f}", *groups, f"{row['coverage']:.3f}", f"{row['ms_per_list']:.2f}",
            f"{row['learning_s_per_1000_events']:.2f}", f"{row['memory_mib']:,}",
            f"docs/{SWITCHES[name].page}" if name in SWITCHES else "",
        )  # fmt: skip
    console = Console()
    console.width = console.width if console.is_terminal else _WIDTH
    console.print(table, highlight=False)
