"""Headrace beside other ways of doing the same: events from a Kafka, lists into the same Kafka, in lists a second.

    python scripts/compare.py [--quick] [--only NAME,...] [--json FILE]

Every way gets the same events as a backlog, and the same item vectors, model version and functions; they take turns,
the bare loop a second time at the end, which tells whether the machine was as fast then. At half of Headrace's load
some get more events, whose lists are timed. `keyed_state` is a job of the keyed operator alone: what checkpoints of
many users cost. All is done on a Kafka and a Flink of its own, on ports that are free, which are taken down again. The
last line of stdout is the figures as JSON.
"""

import sys

from scripts import options
from scripts.rivals.ways import ASKED_FOR, PARTS, QUICK_WAYS, STATE, WAYS

if __name__ == "__main__":
    options.compare(sys.argv[1:], __doc__, PARTS)  # ends here for --help and for a wrong option

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from model.schema import HeadraceError
from scripts.benchmarks import state
from scripts.jars import check_java, jars, java_command
from scripts.processes import ROOT, Place, Processes
from scripts.rivals import workload
from scripts.rivals.comparison import Comparison, Sizes
from scripts.rivals.figures import CompareError, Run, drift, ratios
from scripts.rivals.ways import way_of
from scripts.stack import Stack

FOLDER = ROOT / ".headrace" / "bench"
PACKAGES = {"confluent_kafka": "confluent-kafka", "quix": "quixstreams"}
FULL = Sizes(backlog=9_000, most_s=8.0, repeats=5, at_half_load_s=11.0, known=25, users=100_000)
QUICK = Sizes(backlog=4_000, most_s=5.0, repeats=2, at_half_load_s=4.0, known=10, users=10_000)


class Measured(msgspec.Struct):
    """All that a comparison has found out; what it did not look at is empty."""

    runs: dict[str, list[Run]] = {}
    fresh: dict[str, dict[str, float]] = {}
    half_load: float = 0.0
    known: dict[str, float] = {}
    state_bytes: dict[str, dict[str, float]] = {}
    checkpoint: dict[str, float] = {}


def measure(quick: bool = False, only: Sequence[str] | None = None, folder: Path = FOLDER) -> dict:
    """Bring up a broker and a cluster, let the ways take turns, and take all down again.

    Raises:
        HeadraceError: something is missing, or a way has failed.
    """
    wanted = check(quick, only)
    names = [name for name in WAYS if name in wanted]
    sizes, runs = QUICK if quick else FULL, {name: [] for name in names}
    again = ["bare_loop"] if "bare_loop" in names and not quick else []
    with progress() as show, stack(folder / "run") as place:
        work = workload.prepare(
            folder / "workload", sizes.backlog, folder / "embeddings", lambda done, of: show("the model", done, of)
        )
        comparison = Comparison(place, work, sizes, show)
        for name in names + again:
            runs[name].append(comparison.run(name))
        weighed, taken = {}, {}
        if STATE in wanted:
            known = state.users([*work.backlog, *work.later], work)
            weighed = state.bytes_per_user(known.states)
            checkpoints = state.Checkpoints(place, comparison, work, known, sizes.users)
            taken = checkpoints.measure(lambda done, of: show(f"checkpoints, {sizes.users:,} users", done, of))
    return figures(Measured(runs, comparison.fresh, comparison.half_load, comparison.known, weighed, taken))


def check(quick: bool, only: Sequence[str] | None = None) -> Sequence[str]:
    """What is to be measured.

    Raises:
        HeadraceError: Java or a rival's package is missing.
    """
    usual = [part for part in PARTS if part not in ASKED_FOR]
    wanted = only or ([*QUICK_WAYS, STATE] if quick else usual)
    check_packages(wanted)
    check_java()
    return wanted


def figures(measured: Measured) -> dict:
    """What was measured, as the last line of stdout has it."""
    runs = {name: each for name, each in measured.runs.items() if each}
    per_s = {name: median(run.per_s for run in each) for name, each in runs.items()}
    fresh = {
        f"{'' if name == 'headrace' else name.removeprefix('headrace_') + '_'}{level}": ms
        for name, levels in measured.fresh.items()
        for level, ms in levels.items()
    }
    found = {
        "kafka_to_kafka": {name: round(each, 1) for name, each in per_s.items()},
        "ratios": ratios(per_s),
        "cpu_ms_a_list": {name: round(median(run.cpu_ms for run in each), 2) for name, each in runs.items()},
        "drift": drift([run.per_s for run in runs.get("bare_loop", [])]),
        "half_load_per_s": round(measured.half_load, 1),
        "freshness_ms": fresh,
        "known_to_others_ms": measured.known,
        "state_bytes_a_user": measured.state_bytes,
        "checkpoint": measured.checkpoint,
    }
    found = {name: value for name, value in found.items() if value}
    return found | {"cores": len(os.sched_getaffinity(0)), "versions": versions()}


def versions() -> dict[str, str]:
    """Of what took part."""
    packages = ("apache-flink", "torch", "confluent-kafka", "quixstreams", "rocksdict")
    found = {"python": sys.version.split()[0]}
    found |= {name: version(name) for name in packages if find_spec(_module(name))}
    kafka = next(coordinate for folder, coordinate in jars() if folder == "kafka")
    java = subprocess.run([java_command(), "-version"], capture_output=True, text=True).stderr.split('"')
    return found | {"kafka": kafka.rsplit(":", 1)[1], "java": java[1]}


def _module(package: str) -> str:
    return {"apache-flink": "pyflink"}.get(package, package.replace("-", "_"))


def check_packages(names: Sequence[str]) -> None:
    """Raise CompareError where a rival's package is missing."""
    wanted = sorted({PACKAGES[way] for way, _ in map(way_of, names) if way in PACKAGES})
    missing = [package for package in wanted if find_spec(_module(package)) is None]
    if missing:
        raise CompareError(f"{', '.join(missing)}: not installed; `make bench` does, or pip install -e '.[bench]'")


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@contextmanager
def stack(run_dir: Path) -> Iterator[Stack]:
    """A broker and a cluster of two TaskManagers on ports of their own.

    Raises:
        CompareError: another comparison is at work in this folder.
    """
    if Processes(run_dir).are_up():
        raise CompareError(f"{run_dir}: a comparison is at work there; wait for it, or end it with its stack")
    names = ("kafka_port", "controller_port", "flink_port", "rpc_port", "page_port")
    place = Place(run_dir=str(run_dir), taskmanagers=2, **dict(zip(names, free_ports(len(names)))))
    with redirect_stdout(sys.stderr), Stack(place).up(parts=("broker", "cluster")) as started:
        yield started


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar; what it gives is called with (what is done now, done, of)."""
    columns = TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks = {}

        def show(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=of)
            bar.update(tasks[what], completed=done, total=of)

        yield show


def tables(result: dict) -> list[Table]:
    """What there is to print."""
    return [shown for shown in (table(result), details(result)) if shown.row_count]


def table(result: dict) -> Table:
    """The figures of the ways, to be printed."""
    found, times, cpu = (result.get(name, {}) for name in ("kafka_to_kafka", "ratios", "cpu_ms_a_list"))
    title = f"Kafka to Kafka: the same events, functions and model version, {result['cores']} cores"
    shown = Table("way", "lists/s", "ms of a core a list", "Headrace is", title=title)
    for name, what in WAYS.items():
        if name in found:
            ratio = f"{times[name]:.2f} x" if name in times else ""
            shown.add_row(what, f"{found[name]:,.0f}", f"{cpu[name]:.2f}", ratio)
    shown.caption = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return shown


FRESH = {
    "": "Headrace, at least once",
    "exactly_once_": "Headrace, exactly once",
    "bare_loop_": "the bare loop",
    "confluent_kafka_": "the consumer written by hand",
}


def details(result: dict) -> Table:
    """The other figures, a row each."""
    shown = Table("what", "figure", title="Beside the speed")
    fresh, known = result.get("freshness_ms", {}), result.get("known_to_others_ms")
    for begin, who in FRESH.items():
        if levels := {level: fresh[begin + level] for level in ("p50", "p95", "p99") if begin + level in fresh}:
            shown.add_row(f"event to list at {result['half_load_per_s']:,.0f} events/s: {who}", _ms(levels))
    if known:
        shown.add_row("event to another user's list that knows of it", _ms(known))
    for after, parts in result.get("state_bytes_a_user", {}).items():
        said = f"{parts['state']:,} bytes: interests {parts['interests']:,}, consumed {parts['consumed']:,}"
        shown.add_row(f"a user's state after {after} events", said)
    if taken := result.get("checkpoint"):
        for name, kind in (("whole", "all"), ("incremental", f"{state.CHANGED:.0%} changed")):
            said = f"{taken[f'{name}_s']:.2f} s, {taken[f'{name}_mb']:,.1f} MB"
            shown.add_row(f"checkpoint of {taken['users']:,} users, {kind}", said)
    if "drift" in result:
        shown.add_row("the bare loop at its best, beside its worst", f"{result['drift']:.2f} x")
    return shown


def _ms(levels: dict[str, float]) -> str:
    return ", ".join(f"{level} {ms:,.0f} ms" for level, ms in levels.items())


def main(argv: list[str]) -> int:
    given = options.compare(argv, __doc__, PARTS)
    try:
        result = measure(given.quick, given.only)
    except HeadraceError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    console = Console(width=120)
    console.print(*tables(result))
    if given.json:
        given.json.write_bytes(msgspec.json.encode(result))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
