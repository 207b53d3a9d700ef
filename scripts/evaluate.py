"""Prequential evaluation of any stream of events: Headrace beside the methods that one would use otherwise.

    scripts/evaluate.py --events events.csv --items items.csv
    scripts/evaluate.py --data ml-100k --baselines all --json results.json --plot curves.png        # or ml-latest-2016, inst-eval

    scripts/evaluate.py --data ml-100k --protocol leave-one-out        # beside RecBole's SASRec and GRU4Rec

Neither Flink nor Kafka is needed. The last line of stdout is the result as one line of JSON. Any setting of
jobs/settings.py can be given too (`--seed 1`); `--limit N` takes the first N events only; `--live` counts the lists that the job
makes too: right after a user's event, when nobody knows how long the next one will take.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).parent.parent))

from jobs.settings import Settings, load_or_exit
from model.catalogue import Catalogue
from model.baselines import POPULARITIES
from model.evaluate import METHODS, Outcome, Protocol, evaluate, leave_one_out
from model.interest import Rules
from model.schema import Event, Item, ItemVector
from scripts import data, offline, report

if TYPE_CHECKING:
    from model.encoder import Encoder

DEFAULT = "ml-100k"


def main(argv: list[str] | None = None) -> None:
    arguments, rest = _arguments(argv)
    settings = load_or_exit(rest, dict(os.environ))
    torch.set_num_threads(settings.learner_threads)
    try:
        result = _run(arguments, settings, rest)
    except data.DataError as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    report.show(result)
    line = json.dumps(result, allow_nan=False)
    if arguments.json:
        Path(arguments.json).write_text(line + "\n")
    print(line)


def _run(arguments: argparse.Namespace, settings: Settings, rest: list[str]) -> dict:
    if arguments.plot:
        report.check_drawing(arguments.plot)
    name, events, items = _read(arguments)
    encoder = encoder_of(settings, rest)
    valid, refused = check_events(events)
    if refused:
        print(f"headrace: {name}: rows that are no events are left out: {len(refused):,}; the first: {refused[0]}", file=sys.stderr)
    catalogue, protocol = embed(items, encoder, settings.seed), protocol_of(settings, arguments.live)
    began = time.perf_counter()
    outcome = (_leave_one_out if arguments.protocol == "leave-one-out" else _prequential)(arguments, valid, catalogue, protocol)
    seconds = time.perf_counter() - began
    if arguments.plot:
        report.draw(outcome, name, arguments.plot)
    return report.summarise(name, valid, len(refused), catalogue, outcome, seconds, report.explain(protocol, arguments.protocol))


def _prequential(arguments: argparse.Namespace, events: list[Event], catalogue: Catalogue, protocol: Protocol) -> Outcome:
    with _bar("evaluating", len(events)) as progress:
        return evaluate(events, catalogue, protocol, progress, methods=arguments.baselines)


def _leave_one_out(arguments: argparse.Namespace, events: list[Event], catalogue: Catalogue, protocol: Protocol) -> Outcome:
    with _bar("learning", len(events)) as progress:
        outcome = leave_one_out(events, catalogue, protocol, progress, arguments.baselines)
    if outcome.held and arguments.epochs:
        with _bar("RecBole: epochs", len(offline.MODELS) * arguments.epochs) as progress:
            offline.add_recbole(outcome, events, catalogue, protocol.seed, arguments.epochs, progress)
    return outcome


def _arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--data", help=f"a public data set: {', '.join(data.PUBLIC)} (without --events: {DEFAULT})")
    parser.add_argument("--events", help="CSV or Parquet: user_id, item_id, event_time_ms; action and value if there are")
    parser.add_argument("--items", help="CSV or Parquet: item_id, title; text and categories if there are")
    names = f"all, none, or some of {', '.join(METHODS)}"
    parser.add_argument("--baselines", type=_methods, default=POPULARITIES, metavar="NAMES", help=names)
    parser.add_argument("--protocol", choices=("prequential", "leave-one-out"), default="prequential")
    epochs = "of RecBole's models with leave-one-out, at most; 0: without them"
    parser.add_argument("--epochs", type=int, default=offline.EPOCHS, help=epochs)
    parser.add_argument("--json", help="write the result to this file too")
    parser.add_argument("--plot", help="draw HR@10 over time into this PNG file")
    parser.add_argument("--limit", type=int, help="take the first N events only")
    parser.add_argument("--live", action="store_true", help="count the lists of the job too, made right after an event")
    arguments, rest = parser.parse_known_args(argv)
    if bool(arguments.events) != bool(arguments.items) or arguments.data and arguments.events:
        parser.error("give --data NAME, or --events FILE and --items FILE")
    arguments.data = arguments.data or (None if arguments.events else DEFAULT)
    return arguments, rest


def _methods(given: str) -> tuple[str, ...]:
    """The names given to --baselines."""
    names = {"all": METHODS, "none": ()}.get(given) or tuple(name.strip() for name in given.split(",") if given != "none")
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no baseline {', '.join(unknown)}; there are all, none, {', '.join(METHODS)}")
    return names


def _read(arguments: argparse.Namespace) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    name = arguments.data or Path(arguments.events).name
    events, items = data.public(arguments.data) if arguments.data else data.read(arguments.events, arguments.items)
    return name, events.head(arguments.limit) if arguments.limit else events, items


def encoder_of(settings: Settings, rest: list[str]) -> "Encoder":
    from model.encoder import Encoder  # takes seconds: not before the files have been read

    given = "HEADRACE_ENCODER" in os.environ or any(word.partition("=")[0] == "--encoder" for word in rest)
    name = settings.encoder if given else str(data.language_model())
    try:
        return Encoder(name, settings.device, Path(settings.replica_dir) / "evaluate")
    except Exception as error:  # rocksdict raises a plain Exception while another evaluation holds the embeddings
        if "lock" not in str(error).lower():
            raise
        return Encoder(name, settings.device)


def check_events(events: pd.DataFrame) -> tuple[list[Event], list[str]]:
    """The rows as events, and why others are none (an unknown action, a time before 1970): `row N: what is wrong`."""
    valid: list[Event] = []
    refused: list[str] = []
    for number, row in enumerate(events.itertuples()):
        fields = {"event_id": f"e{number}", "user_id": row.user_id, "item_id": row.item_id, "action": row.action}
        fields |= {"event_time_ms": int(row.event_time_ms)} | ({"value": row.value} if row.value == row.value else {})
        try:
            valid.append(msgspec.convert(fields, Event))
        except msgspec.ValidationError as error:
            refused.append(f"row {row.Index + 1}: {error}")
    return valid, refused


def embed(items: pd.DataFrame, encoder: "Encoder", seed: int) -> Catalogue:
    """The catalogue of a table of items, its rows in an order drawn anew, so that ties do not follow the file's order."""
    items = items.drop_duplicates("item_id", keep="last")
    entries = [Item(row.item_id, row.title, row.text, row.categories) for row in items.itertuples(index=False)]
    entries = [entries[at] for at in np.random.default_rng(seed).permutation(len(entries))]
    catalogue = Catalogue()
    with _bar("embedding", len(entries)) as progress:
        for start in range(0, len(entries), 256):
            group = entries[start : start + 256]
            vectors = encoder.embed([item.as_text() for item in group]).astype("<f2")
            catalogue.apply(ItemVector(item.item_id, encoder.version, vector.tobytes()) for item, vector in zip(group, vectors))
            progress(start + len(group), len(entries))
    return catalogue


def protocol_of(settings: Settings, live: bool) -> Protocol:
    rules = Rules(settings.max_interests, settings.last_n, settings.half_life_s, settings.merge_similarity)
    given = {"exclude_consumed": settings.exclude_consumed, "max_consumed": settings.max_consumed, "seed": settings.seed}
    return Protocol(**given, live=live, rules=rules)


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, a line for every tenth where that is no terminal; gives the function that moves it to (done, of)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield _lines(what) if progress.disable else lambda done, of: progress.update(task, completed=done)


def _lines(what: str) -> Callable[[int, int], None]:
    tenth, began = 0, time.monotonic()

    def show(done: int, of: int) -> None:
        nonlocal tenth
        if 10 * done >= (tenth + 1) * of > 0:
            tenth = 10 * done // of
            print(f"{what}: {done:,} of {of:,} after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    main()
