"""What users do to their lists in a made-up shop, for a model that has learnt nothing and for one that has.

    scripts/behaviour.py [--seed N] [--events N] [--trained | --untrained] [--probe NAME ...]

Neither Flink nor Kafka is needed; docs/behaviour.md says what each figure is. The exit code is 1 where a row does not hold.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from model.behaviour import PROBES, Behaviour, measure
from model.shop import make_shop
from model.store import open_store, train
from scripts import data

_WIDTH = 110  # of the table, where there is no terminal


def main(argv: list[str] | None = None) -> None:
    from model.encoder import Encoder  # takes seconds: not before the arguments have been read

    arguments = _arguments(argv)
    torch.set_num_threads(arguments.threads)
    began = time.perf_counter()
    encoder = Encoder(data.language_model(), "cpu")
    which = ["untrained"] if arguments.untrained else ["trained"] if arguments.trained else BOTH
    found = run(encoder.embed, arguments.events, arguments.seed, which, arguments.probe, _line)
    show(figures(found), f"A made-up shop: {arguments.events:,} events (seed {arguments.seed})")
    print(f"{time.perf_counter() - began:.0f} s")
    raise SystemExit(any(behaviour.broken() for behaviour in found.values()))


BOTH = ("untrained", "trained")
EVENTS = 12_000
"""Of the shop that `evaluate` and `replay` measure."""


def run(
    embed: Callable, events: int = EVENTS, seed: int = 1, which: Sequence[str] = BOTH, probes: Sequence[str] = (), progress=lambda done, of: None
) -> dict[str, Behaviour]:
    """What users do to their lists, by model."""
    untrained = open_store(make_shop(seed, events), embed)
    stores = {name: untrained if name == "untrained" else train(untrained, progress) for name in which}
    return {name: measure(store, seed, probes) for name, store in stores.items()}


def figures(found: dict[str, Behaviour]) -> list[dict]:
    """The figures as JSON values: what was measured, and for each model the figure, what is wanted, and whether it holds."""
    rows = zip(*(behaviour.rows for behaviour in found.values()))
    return [
        {"probe": same[0].probe, "name": same[0].name}
        | {model: {"figure": round(row.figure, 3), "wanted": row.wanted, "holds": row.holds} for model, row in zip(found, same)}
        for same in rows
    ]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=1, help="of the shop and of who is asked (default 1)")
    parser.add_argument("--events", type=int, default=30_000, help="of the shop's users (default 30,000)")
    parser.add_argument("--probe", nargs="+", choices=PROBES, default=(), help="only these")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--trained", action="store_true", help="only the model that has learnt")
    only.add_argument("--untrained", action="store_true", help="only the one that has not")
    return parser.parse_args(argv)


def _line(done: int, of: int) -> None:
    if done == of or done % 5_000 < 100:
        print(f"learning: {done:,} of {of:,}", file=sys.stderr, flush=True)


def show(rows: list[dict], title: str) -> None:
    """Print every figure beside what the contract wants, one column for each model."""
    console = Console()
    console.width = console.width if console.is_terminal else _WIDTH
    models = [name for name in BOTH if rows and name in rows[0]]
    table = Table("probe", "what", *(column for name in models for column in (name, "wanted")), title=title)
    for column in table.columns[2:]:
        column.justify, column.no_wrap = "right", True
    for row in rows:
        cells = [cell for name in models for cell in (_figure(row[name]), row[name]["wanted"])]
        table.add_row(row["probe"], row["name"], *cells)
    console.print(table, highlight=False)


def _figure(cell: dict) -> str:
    return f"{cell['figure']:.3f}{' ✗' if cell['holds'] is False else ''}"


def summary(rows: list[dict]) -> str:
    """How many rows of the contract hold, and which do not.

    >>> summary([{"probe": "search", "name": "title", "trained": {"figure": 0.1, "wanted": ">= 0.9", "holds": False}}])
    'behaviour: 0 of 1 rows of the contract hold; not: search, title (trained .100)'
    """
    cells = [(row, name, row[name]) for row in rows for name in BOTH if name in row and row[name]["holds"] is not None]
    broken = [f"{row['probe']}, {row['name']} ({name} {cell['figure']:.3f})".replace(" 0.", " .") for row, name, cell in cells if not cell["holds"]]
    return f"behaviour: {len(cells) - len(broken)} of {len(cells)} rows of the contract hold" + "; not: ".join(["", *broken[:5]])


if __name__ == "__main__":
    main()
