"""The options of `evaluate` and `replay`. Reading them imports nothing that takes seconds; a wrong one ends them."""

import argparse
import os
from pathlib import Path

from jobs.settings import usage

PUBLIC = ("ml-100k", "ml-latest-2016", "inst-eval")
"""The names of the public data sets that scripts/data.py can fetch."""
DEFAULT = "ml-100k"
RECBOLE_EPOCHS = 15
_EVENTS = "CSV or Parquet: user_id, item_id, event_time_ms; event_id, action, value, query, rec_id if there are"
_ITEMS = "CSV or Parquet: item_id, title; text, categories (`A|B`) if there are"


def evaluate(argv: list[str] | None, about: str) -> tuple[argparse.Namespace, list[str]]:
    """The options of scripts/evaluate.py, and the words that are settings."""
    parser = _parser(about)
    parser.add_argument(
        "--data", metavar="NAME", help=f"a public data set: {', '.join(PUBLIC)} (without --events: {DEFAULT})"
    )
    parser.add_argument("--events", metavar="FILE", help=_EVENTS)
    parser.add_argument("--items", metavar="FILE", help=_ITEMS)
    names = "all, none, or some, comma separated; a wrong name lists those there are (default: the popularities)"
    parser.add_argument("--baselines", metavar="NAMES", help=names)
    parser.add_argument("--protocol", choices=("prequential", "leave-one-out"), default="prequential")
    epochs = f"of RecBole's models with leave-one-out, at most; 0: without them (default {RECBOLE_EPOCHS})"
    parser.add_argument("--epochs", type=_from(0), default=RECBOLE_EPOCHS, metavar="N", help=epochs)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the result to this file too")
    parser.add_argument("--plot", type=new_file, metavar="FILE", help="draw HR@10 over time into this PNG file")
    parser.add_argument("--limit", type=_from(1), metavar="N", help="take the first N events only")
    drawn = "seed of the order in which events of one time come (default 0)"
    parser.add_argument("--order-seed", type=_from(0), default=0, metavar="N", help=drawn)
    liked = "predict only ratings of at least this value, and what was chosen without a rating; all are learnt from"
    parser.add_argument("--liked-from", type=float, metavar="X", help=liked)
    shop = "measure what users do to their lists in a made-up shop, too (a minute; default yes)"
    parser.add_argument("--behaviour", action=argparse.BooleanOptionalAction, default=True, help=shop)
    parser.add_argument("--live", action="store_true", help="count the lists of the job too, made right after an event")
    given, rest = parser.parse_known_args(argv)
    if bool(given.events) != bool(given.items) or (given.data and given.events):
        parser.error("give --data NAME, or --events FILE and --items FILE")
    given.data = given.data or (None if given.events else DEFAULT)
    return given, rest


def replay(argv: list[str] | None, about: str) -> tuple[argparse.Namespace, list[str]]:
    """The options of scripts/replay.py, and the words that are settings."""
    parser = _parser(about)
    parser.add_argument("--data", metavar="NAME", help=f"a public data set: {', '.join(PUBLIC)}")
    parser.add_argument("--events", metavar="FILE", help=_EVENTS)
    parser.add_argument("--items", metavar="FILE", help=_ITEMS)
    parser.add_argument(
        "--speed", type=_speed, default=200.0, metavar="N", help="events a second of the steady part (default 200)"
    )
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures to this file too")
    drawn = "seed of the order in which events of one time come (default 0)"
    parser.add_argument("--order-seed", type=_from(0), default=0, metavar="N", help=drawn)
    shop = "measure what users do to their lists in a made-up shop, too (a minute; default yes)"
    parser.add_argument("--behaviour", action=argparse.BooleanOptionalAction, default=True, help=shop)
    given, rest = parser.parse_known_args(argv)
    if bool(given.events) != bool(given.items) or bool(given.data) == bool(given.events):
        parser.error("give --data NAME, or --events FILE and --items FILE")
    return given, rest


def _parser(about: str) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=about, epilog=usage(), formatter_class=raw, allow_abbrev=False)


def new_file(text: str) -> Path:
    """A file that can be written, for argparse: checked before the work, not after it."""
    file = Path(text)
    folder = file.absolute().parent
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no such folder: {folder}")
    if file.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: cannot be written; a file is wanted")
    return file


def _from(least: int):
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: a number from {least} on is wanted")
        return int(text)

    return number


def _speed(text: str) -> float:
    number = float(text)
    if not 0 < number <= 100_000:
        raise argparse.ArgumentTypeError(f"{text}: events a second, more than 0 and at most 100,000")
    return number
