"""How fast Headrace is, beside simpler ways of doing the same work in the same run.

    python scripts/bench.py [--quick] [--only SECTION,...] [--plots FOLDER]
    python scripts/bench.py --scoring [--items N,...] [--device cpu|cuda] [--threads N] [--micro-batches N,...]

Sections: parts (of an event's way), scoring (a list, by the size of the catalogue), learning, systems (Kafka to Kafka,
beside other ways of building the same, and what checkpoints cost; needs Java), and, only where they are named,
compression (fewer bits, three minutes) and joint (lists that the joint scorer reranks). `--scoring` alone needs neither
Flink nor Kafka nor data. Nothing is asserted. The last line of stdout is one line of JSON. QUICK=1 is --quick.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from jobs.settings import help_or_go_on

if __name__ == "__main__":
    help_or_go_on(sys.argv[1:], __doc__)

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from model.schema import HeadraceError

SECTIONS = ("parts", "scoring", "learning", "compression", "joint", "systems")
DEFAULT = tuple(name for name in SECTIONS if name not in ("compression", "joint"))
ITEMS, QUICK_ITEMS = (1_700, 10_000, 100_000, 1_000_000), (10_000,)
MICRO_BATCHES = (64, 256)
VERSIONS = ("apache-flink", "torch", "numpy", "numba", "faiss-cpu")
_LEARNING_ITEMS = 10_000


class BenchError(HeadraceError):
    """An option that cannot be meant."""


def options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK", "0") not in ("", "0"))
    parser.add_argument("--only", default="")
    parser.add_argument("--scoring", action="store_true")
    parser.add_argument("--items", default="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro-batches", default=",".join(map(str, MICRO_BATCHES)))
    parser.add_argument("--plots", metavar="FOLDER", type=Path)
    given = parser.parse_args(argv)
    wanted = [name for name in given.only.split(",") if name] or list(DEFAULT)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        raise BenchError(f"--only: no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    given.sections = ["scoring"] if given.scoring else wanted
    given.sizes = numbers("--items", given.items) or (QUICK_ITEMS if given.quick else ITEMS)
    given.groups = numbers("--micro-batches", given.micro_batches)
    if given.threads < 1:
        raise BenchError(f"--threads {given.threads}: 1 or more is wanted")
    return given


def numbers(option: str, words: str) -> tuple[int, ...]:
    """Whole numbers, comma separated."""
    try:
        found = tuple(int(word) for word in words.replace("_", "").split(",") if word)
    except ValueError:
        raise BenchError(f"{option} {words}: whole numbers are wanted, comma separated") from None
    if any(number < 1 for number in found):
        raise BenchError(f"{option} {words}: numbers of 1 or more are wanted")
    return found


def score_size(items: int, device: str, threads: int, groups: tuple[int, ...]) -> dict[str, float]:
    """Figures of a catalogue of this size, in a process of its own, so that its memory is its own."""
    from model.device import use_threads
    from scripts.benchmarks import scoring

    use_threads(threads)
    return scoring.measure(items, device, groups)


def scoring(given: argparse.Namespace, console: Console) -> dict:
    """A list, by the size of the catalogue."""
    table = Table("items", "ms a list", "lists/s", "recall@128", "examples/s counted", "MiB counted", "GiB", "start s",
                  title=f"Scoring on {device_name(given.device)}, threads: {given.threads}")  # fmt: skip
    every: dict[int, dict[str, float]] = {}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for items in given.sizes:
            every[items] = one = pool.apply(score_size, (items, given.device, given.threads, given.groups))
            table.add_row(
                f"{items:,}",
                " / ".join(f"{one[f'ms_per_list_by_{size}']:.2f}" for size in given.groups),
                " / ".join(f"{one[f'lists_per_s_by_{size}']:,.0f}" for size in given.groups),
                f"{one['recall_at_128']:.3f}" if "recall_at_128" in one else "",
                f"{one['statistics_events_per_s']:,.0f}",
                f"{one['statistics_mb']:.0f}",
                f"{one['memory_gib']:.1f}",
                f"{one['start_s']:.1f}",
            )
    console.print(table)
    first = given.groups[0]

    def by_items(name: str) -> dict[str, float]:
        return {str(items): round(one[name], 4) for items, one in every.items() if name in one}

    return {
        "ms_per_list": by_items(f"ms_per_list_by_{first}"),
        "lists_per_s": {str(size): by_items(f"lists_per_s_by_{size}") for size in given.groups},
        "recall_at_128": by_items("recall_at_128"),
        "statistics_events_per_s": round(min(one["statistics_events_per_s"] for one in every.values())),
        "bytes_per_event": by_items("bytes_per_event"),
        "snapshot_mb": by_items("snapshot_mb"),
        "start_s": by_items("start_s"),
        "memory_gib": by_items("memory_gib"),
    }


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"a CPU ({os.cpu_count()} cores)"


def parts(given: argparse.Namespace, console: Console) -> dict:
    """The parts of an event's way, beside plain Python."""
    from scripts.benchmarks import parts as benchmarks

    table = Table("what", "speed", "beside", "speed", "ratio", title="Parts of an event's way")
    ratios = {}
    for pair in (*benchmarks.updating(), *benchmarks.decoding()):
        ours, other, ratio = benchmarks.measure(pair, lambda: None)
        table.add_row(pair.name, f"{ours:,.0f} {pair.unit}", pair.other_way, f"{other:,.0f}", f"{ratio:.2f} x")
        ratios[pair.name.replace(" ", "_")] = round(ratio, 2)
    console.print(table)
    return {"parts": ratios}


def learning(given: argparse.Namespace, console: Console) -> dict:
    """What learning from 1,000 events takes."""
    from model.device import use_threads
    from scripts.benchmarks import learning as benchmarks
    from scripts.benchmarks.scoring import build

    use_threads(given.threads)
    figures = benchmarks.seconds_per_1000(build(_LEARNING_ITEMS, "cpu"))
    table = Table("items", "s per 1,000 events", "events/s", title="Learning, one thread")
    table.add_row(f"{_LEARNING_ITEMS:,}", *(f"{value:,.2f}" for value in figures.values()))
    console.print(table)
    return {name: round(value, 3) for name, value in figures.items()}


def compression(given: argparse.Namespace, console: Console) -> dict:
    """Fewer bits: what they gain and what they lose."""
    from model.device import use_threads
    from scripts.benchmarks import compression as benchmarks

    use_threads(given.threads)
    rows = list(benchmarks.compression())
    console.print(benchmarks.show(rows))
    return {"compression": [asdict(row) for row in rows]}


def joint(given: argparse.Namespace, console: Console) -> dict:
    """The joint scorer, with drawn weights in the sizes of MiniLM-L6."""
    from model.device import use_threads
    from scripts.benchmarks import joint as benchmarks

    use_threads(given.threads)
    found = benchmarks.measure(given.device, None, requests=given.groups[0], first=20)
    table = Table("what", "figure", title=f"The joint scorer on {device_name(given.device)}, threads: {given.threads}")
    for name, value in found.items():
        table.add_row(name.replace("_", " "), f"{value:,.1f}")
    console.print(table)
    return {"joint": {name: round(value, 1) for name, value in found.items()}}


def systems(given: argparse.Namespace, console: Console) -> dict:
    """Kafka to Kafka."""
    from scripts import compare

    result = compare.measure(given.quick)
    console.print(*compare.tables(result))
    return result


def main(argv: list[str]) -> None:
    console = Console(width=140)
    versions = {name: metadata.version(name) for name in VERSIONS if installed(name)}
    result: dict = {"cores": len(os.sched_getaffinity(0)), "versions": {"python": platform.python_version()} | versions}
    try:
        given = options(argv)
        if "systems" in given.sections:  # before minutes are spent on the others
            from scripts import compare

            compare.check(given.quick)
        told = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        console.print(f"{result['cores']} cores; {told}")
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True)
        ) as progress:
            task = progress.add_task("", total=len(given.sections))
            for name in given.sections:
                progress.update(task, description=name)
                found = globals()[name](given, console)
                result |= found | {"versions": result["versions"] | found.get("versions", {})}
                progress.advance(task)
        if given.plots:
            from scripts.benchmarks import plots

            for file in plots.draw(result, given.plots):
                console.print(f"drawn: {file}")
    except HeadraceError as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(json.dumps(result))


def installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
