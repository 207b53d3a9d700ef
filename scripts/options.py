"""The options of the scripts that have some. Reading them imports nothing that takes seconds; a wrong one ends them."""

import argparse
import os
from collections.abc import Iterable
from math import isfinite, nan
from pathlib import Path

from jobs.settings import usage

PUBLIC = ("ml-100k", "ml-latest-2016", "inst-eval")
"""The names of the public data sets that scripts/data.py can fetch."""
DEFAULT = "ml-100k"
RECBOLE_EPOCHS = 15
LEAST_SHOP_EVENTS = 12_000
"""With fewer, products of the made-up shop have too few buyers to measure anything."""
_DIGITS = 18  # of a number: more are none that is wanted
_EVENTS = "CSV or Parquet: user_id, item_id, event_time_ms; event_id, action, value, query, rec_id, context if there"
_USERS = "CSV or Parquet: user_id and any columns, what is known of users; read with `--user_facts on`"
_ITEMS = "CSV or Parquet: item_id, title; text, categories (`A|B`) if there are"


def evaluate(argv: list[str] | None, about: str) -> tuple[argparse.Namespace, list[str]]:
    """The options of scripts/evaluate.py, and the words that are settings."""
    parser = _parser(about)
    _add_source(parser, f" (without --events: {DEFAULT})")
    parser.add_argument("--users", metavar="FILE", help=_USERS)
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
    parser.add_argument("--liked-from", type=_finite, metavar="X", help=liked)
    shop = "measure what users do to their lists in a made-up shop, too (a minute; default yes)"
    parser.add_argument("--behaviour", action=argparse.BooleanOptionalAction, default=True, help=shop)
    parser.add_argument("--live", action="store_true", help="count the lists of the job too, made right after an event")
    ranks = "write the rank of every target in Headrace's list, -1 where it is not on it, and its user (.npz)"
    parser.add_argument("--ranks", type=new_file, metavar="FILE", help=ranks)
    switches = "all, or some, comma separated: each beside the default; without --data on two streams"
    parser.add_argument("--switches", metavar="NAMES", help=switches)
    given, rest = parser.parse_known_args(argv)
    if given.events is given.items is given.data is None and given.switches is None:
        given.data = DEFAULT
    if given.switches is None or given.data or given.events or given.items:
        _one_source(parser, given)
    return given, rest


def learn(argv: list[str] | None, about: str | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of scripts/learn.py, and the words that are settings."""
    parser = _parser(about)
    _add_source(parser)
    parser.add_argument("--limit", type=_from(1), metavar="N", help="take the first N events only")
    parser.add_argument("--version", default="learnt", metavar="NAME", help="its name in the registry (default learnt)")
    parser.add_argument("--state", metavar="FOLDER", help="keep the state of learning here, and go on from it")
    given, rest = parser.parse_known_args(argv)
    _one_source(parser, given)
    return given, rest


def describe(argv: list[str] | None, about: str | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of scripts/describe.py, and the words that are settings."""
    parser = _parser(about)
    parser.add_argument("--sentences", type=_from(1), default=100, metavar="N", help="so many (default 100)")
    parser.add_argument("--data", choices=PUBLIC, default=DEFAULT, help=f"a public stream (default {DEFAULT})")
    events = "learn from the first N events only (default 20000)"
    parser.add_argument("--limit", type=_from(1), default=20_000, metavar="N", help=events)
    parser.add_argument("--free", action="store_true", help="let the model write what it likes")
    parser.add_argument("--show", action="store_true", help="print facts and sentences")
    return parser.parse_known_args(argv)


def adapt(argv: list[str] | None, about: str | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of scripts/adapt.py, and the words that are settings."""
    parser = _parser(about)
    _add_source(parser)
    parser.add_argument("--limit", type=_from(1), metavar="N", help="take the first N events only")
    parser.add_argument(
        "--first", type=_share, default=1.0, metavar="X", help="learn from this share of them (default 1)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where the adapted encoder is written"
    )
    parser.add_argument("--steps", type=_from(1), default=100, metavar="N", help="of training (default 100)")
    parser.add_argument("--batch", type=_from(2), default=32, metavar="N", help="pairs in a step (default 32)")
    parser.add_argument("--rank", type=_from(1), default=8, metavar="N", help="of the adapters (default 8)")
    given, rest = parser.parse_known_args(argv)
    _one_source(parser, given)
    return given, rest


def _share(text: str) -> float:
    number = _finite(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text[:100]}: a share is wanted, more than 0 and at most 1")
    return number


def replay(argv: list[str] | None, about: str) -> tuple[argparse.Namespace, list[str]]:
    """The options of scripts/replay.py, and the words that are settings."""
    parser = _parser(about)
    _add_source(parser)
    parser.add_argument("--users", metavar="FILE", help=_USERS)
    parser.add_argument(
        "--speed", type=_speed, default=200.0, metavar="N", help="events a second of the steady part (default 200)"
    )
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures to this file too")
    drawn = "seed of the order in which events of one time come (default 0)"
    parser.add_argument("--order-seed", type=_from(0), default=0, metavar="N", help=drawn)
    shop = "measure what users do to their lists in a made-up shop, too (a minute; default yes)"
    parser.add_argument("--behaviour", action=argparse.BooleanOptionalAction, default=True, help=shop)
    given, rest = parser.parse_known_args(argv)
    _one_source(parser, given)
    return given, rest


def behaviour(argv: list[str] | None, about: str, probes: Iterable[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of scripts/behaviour.py, and the words that are settings."""
    parser = _parser(about)
    shop = "which shop: the seed of its categories, products and users (default 1)"
    parser.add_argument("--shop", type=_from(0), default=1, metavar="N", help=shop)
    events = f"of the shop's users, at least {LEAST_SHOP_EVENTS:,} (default 30,000)"
    parser.add_argument("--events", type=_from(LEAST_SHOP_EVENTS), default=30_000, metavar="N", help=events)
    parser.add_argument("--probe", nargs="+", choices=probes, default=(), help="only these")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures to this file too")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--trained", action="store_true", help="only the model that has learnt")
    only.add_argument("--untrained", action="store_true", help="only the one that has not")
    return parser.parse_known_args(argv)


def compare(argv: list[str] | None, about: str, ways: Iterable[str]) -> argparse.Namespace:
    """The options of scripts/compare.py."""
    ways = tuple(ways)
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="fewer events, and not all ways: two minutes")
    some = f"only these ways, comma separated: {', '.join(ways)}"
    parser.add_argument("--only", type=_some_of(ways), metavar="NAME,...", help=some)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures to this file too")
    return parser.parse_args(argv)


def _some_of(names: tuple[str, ...]):
    def some(text: str) -> list[str]:
        wanted = [name for name in text.split(",") if name]
        for name in wanted or [text]:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name[:100]!r}: no such way; there are {', '.join(names)}")
        return wanted

    return some


def _add_source(parser: argparse.ArgumentParser, otherwise: str = "") -> None:
    """The options that say where events and items come from."""
    parser.add_argument("--data", metavar="NAME", help=f"a public data set: {', '.join(PUBLIC)}{otherwise}")
    parser.add_argument("--events", metavar="FILE", help=_EVENTS)
    parser.add_argument("--items", metavar="FILE", help=_ITEMS)


def _one_source(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """End the program where the events come from nowhere, or from two places, or a file has no name."""
    if getattr(given, "users", None) == "":
        parser.error("--users: the name of a file is wanted, not an empty text")
    files = given.events, given.items
    if (None in files and files != (None, None)) or (given.data is None) == (files == (None, None)):
        parser.error("give --data NAME, or --events FILE and --items FILE")
    if "" in (given.data, *files):
        parser.error("--data, --events, --items: a name is wanted, not an empty text")


def _parser(about: str | None) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=about, epilog=usage(), formatter_class=raw, allow_abbrev=False)


def new_file(text: str) -> Path:
    """A file that can be written, for argparse: checked before the work, not after it."""
    file = Path(text)
    folder = file.absolute().parent
    try:
        if not folder.is_dir():
            raise argparse.ArgumentTypeError(f"{text}: there is no such folder: {folder}")
        there = file.exists()
        if file.is_dir() or not os.access(file if there else folder, os.W_OK):
            raise argparse.ArgumentTypeError(f"{text}: cannot be written; a file is wanted")
        with file.open("ab"):  # /proc, a disk mounted read-only: only trying tells
            pass
        if not there:
            file.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text[:100]}: cannot be written: {error.strerror}") from None
    return file


def _from(least: int):
    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text[:100]}: a number from {least} on is wanted")
        return int(text)

    return number


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not isfinite(number):
        raise argparse.ArgumentTypeError(f"{text[:100]}: a number is wanted")
    return number


def _speed(text: str) -> float:
    number = _finite(text)
    if not 0 < number <= 100_000:
        raise argparse.ArgumentTypeError(f"{text}: events a second, more than 0 and at most 100,000")
    return number
