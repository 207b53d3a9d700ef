"""What users do to their lists in a made-up shop, for a model that has learnt nothing and for one that has.

    scripts/behaviour.py [--seed N] [--events N] [--trained | --untrained] [--probe NAME ...]

Neither Flink nor Kafka is needed; docs/behaviour.md says what each figure is. The exit code is 1 where a row does not hold.
"""

import argparse
import sys
import time
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
    shop = make_shop(arguments.seed, arguments.events)
    untrained = open_store(shop, encoder.embed)
    stores = {} if arguments.trained else {"untrained": untrained}
    if not arguments.untrained:
        stores["trained"] = train(untrained, _line)
    found = {name: measure(store, arguments.seed, arguments.probe) for name, store in stores.items()}
    show(found, f"A shop of {len(shop.items)} products, {len(shop.likes):,} users, {len(shop.events):,} events (seed {arguments.seed})")
    print(f"{time.perf_counter() - began:.0f} s")
    raise SystemExit(any(behaviour.broken() for behaviour in found.values()))


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


def show(found: dict[str, Behaviour], title: str) -> None:
    """Print every figure beside what the contract wants, one column for each model."""
    console = Console()
    console.width = console.width if console.is_terminal else _WIDTH
    table = Table("probe", "what", *(column for name in found for column in (name, "wanted")), title=title)
    for column in table.columns[2:]:
        column.justify, column.no_wrap = "right", True
    for rows in zip(*(behaviour.rows for behaviour in found.values())):
        cells = [cell for row in rows for cell in (_figure(row.figure, row.holds), row.wanted)]
        table.add_row(rows[0].probe, rows[0].name, *cells)
    console.print(table, highlight=False)


def _figure(figure: float, holds: bool | None) -> str:
    mark = {None: "", True: "", False: " ✗"}[holds]
    return f"{figure:.3f}{mark}"


if __name__ == "__main__":
    main()
