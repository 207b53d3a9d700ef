"""Prequential evaluation of any stream of events: Headrace beside popularity.

    scripts/evaluate.py --events events.csv --items items.csv
    scripts/evaluate.py --data ml-100k --json results.json        # or ml-latest-2016

Neither Flink nor Kafka is needed. The last line of stdout is the result as one line of JSON. Any setting of
jobs/settings.py can be given too (`--seed 1`); `--limit N` takes the first N events only; `--live` counts the lists that the job
makes too: right after a user's event, when nobody knows how long the next one will take.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from jobs.settings import Settings, load_or_exit
from model.catalogue import Catalogue
from model.evaluate import Outcome, Protocol, evaluate
from model.interest import Rules
from model.schema import Event, Item, ItemVector
from scripts import data

if TYPE_CHECKING:
    from model.encoder import Encoder


def main(argv: list[str] | None = None) -> None:
    arguments, rest = _arguments(argv)
    settings = load_or_exit(rest, dict(os.environ))
    torch.set_num_threads(settings.learner_threads)
    try:
        name, events, items = _read(arguments)
        encoder = _encoder(settings, rest)
    except data.DataError as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    valid, refused = check_events(events)
    catalogue = embed(items, encoder, settings.seed)
    began = time.perf_counter()
    outcome = _evaluate(valid, catalogue, settings, arguments.live)
    seconds = time.perf_counter() - began
    result = summarise(name, valid, refused, catalogue, outcome, seconds)
    _show(result)
    line = json.dumps(result, allow_nan=False)
    if arguments.json:
        Path(arguments.json).write_text(line + "\n")
    print(line)


def _arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--data", help=f"a public data set: {', '.join(data.PUBLIC)}")
    parser.add_argument("--events", help="CSV or Parquet: user_id, item_id, event_time_ms; action and value if there are")
    parser.add_argument("--items", help="CSV or Parquet: item_id, title; text and categories if there are")
    parser.add_argument("--json", help="write the result to this file too")
    parser.add_argument("--limit", type=int, help="take the first N events only")
    parser.add_argument("--live", action="store_true", help="count the lists of the job too, made right after an event")
    arguments, rest = parser.parse_known_args(argv)
    if not arguments.data and not (arguments.events and arguments.items):
        parser.error("give --data NAME, or --events FILE and --items FILE")
    return arguments, rest


def _read(arguments: argparse.Namespace) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    name = arguments.data or Path(arguments.events).name
    events, items = data.public(arguments.data) if arguments.data else data.read(arguments.events, arguments.items)
    return name, events.head(arguments.limit) if arguments.limit else events, items


def _encoder(settings: Settings, rest: list[str]) -> "Encoder":
    from model.encoder import Encoder  # takes seconds: not before the files have been read

    given = "HEADRACE_ENCODER" in os.environ or any(word.partition("=")[0] == "--encoder" for word in rest)
    name = settings.encoder if given else str(data.language_model())
    try:
        return Encoder(name, settings.device, Path(settings.replica_dir) / "evaluate")
    except Exception as error:  # rocksdict raises a plain Exception while another evaluation holds the embeddings
        if "lock" not in str(error).lower():
            raise
        return Encoder(name, settings.device)


def check_events(events: pd.DataFrame) -> tuple[list[Event], int]:
    """The rows as events, and how many rows are none (an unknown action, a time before 1970)."""
    valid, refused = [], 0
    for number, row in enumerate(events.itertuples(index=False)):
        fields = {"event_id": f"e{number}", "user_id": row.user_id, "item_id": row.item_id, "action": row.action}
        fields |= {"event_time_ms": int(row.event_time_ms)} | ({"value": row.value} if row.value == row.value else {})
        try:
            valid.append(msgspec.convert(fields, Event))
        except msgspec.ValidationError:
            refused += 1
    return valid, refused


def embed(items: pd.DataFrame, encoder: "Encoder", seed: int) -> Catalogue:
    """The catalogue of a table of items, its rows in an order drawn anew, so that ties do not follow the file's order."""
    items = items.drop_duplicates("item_id", keep="last")
    entries = [Item(row.item_id, row.title, row.text, row.categories) for row in items.itertuples(index=False)]
    entries = [entries[at] for at in np.random.default_rng(seed).permutation(len(entries))]
    catalogue = Catalogue()
    with _bar("embedding") as progress:
        task = progress.add_task("embedding", total=len(entries))
        for start in range(0, len(entries), 256):
            group = entries[start : start + 256]
            vectors = encoder.embed([item.as_text() for item in group]).astype("<f2")
            catalogue.apply(ItemVector(item.item_id, encoder.version, vector.tobytes()) for item, vector in zip(group, vectors))
            progress.advance(task, len(group))
    return catalogue


def _evaluate(events: list[Event], catalogue: Catalogue, settings: Settings, live: bool) -> Outcome:
    rules = Rules(settings.max_interests, settings.last_n, settings.half_life_s, settings.merge_similarity)
    protocol = Protocol(
        exclude_consumed=settings.exclude_consumed, max_consumed=settings.max_consumed, seed=settings.seed, live=live, rules=rules
    )
    with _bar("evaluating") as progress:
        task = progress.add_task("evaluating", total=len(events))
        return evaluate(events, catalogue, protocol, lambda done, of: progress.update(task, completed=done))


def _bar(what: str) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def summarise(name: str, events: list[Event], refused: int, catalogue: Catalogue, outcome: Outcome, seconds: float) -> dict:
    """The result as JSON values."""
    return {
        "data": name,
        "events": len(events),
        "refused": refused,
        "users": len({event.user_id for event in events}),
        "items": len(catalogue),
        "predicted": outcome.predicted,
        "methods": {method: result.metrics(len(catalogue)) for method, result in outcome.results.items()},
        "seconds": round(seconds, 1),
    }


def _show(result: dict) -> None:
    title = f"{result['data']}: {result['events']:,} events, {result['users']:,} users, {result['items']:,} items"
    table = Table("method", "HR@10", "NDCG@10", "MRR@10", "coverage", "ms a list", title=title)
    for method, figures in result["methods"].items():
        table.add_row(method, *(f"{value:.4f}" for value in list(figures.values())[:-1]), f"{figures['ms_per_list']:.3f}")
    Console().print(table)
    print(f"{result['predicted']:,} events predicted, {result['refused']:,} rows refused, {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
