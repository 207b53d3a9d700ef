"""Prequential evaluation of any stream of events: Headrace beside the methods that one would use otherwise.

    scripts/evaluate.py --events events.csv --items items.csv
    scripts/evaluate.py --data ml-100k --baselines all --json results.json --plot curves.png        # or ml-latest-2016,
    inst-eval

    scripts/evaluate.py --data ml-100k --protocol leave-one-out        # beside RecBole's SASRec and GRU4Rec

Neither Flink nor Kafka is needed. The last line of stdout is the result as one line of JSON. Any setting of
jobs/settings.py can be given too (`--seed 1`); `--limit N` takes the first N events only; `--order-seed N` draws the
order of events that have one time, `--liked-from X` predicts liked items alone; `--live` counts the lists that the job
makes too: right after a user's event, when nobody knows how long the next one will take; `--switches all` puts every
switch beside the default (scripts/switches.py).
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts import options

if __name__ == "__main__":
    options.evaluate(sys.argv[1:], __doc__)  # ends here for --help and for a wrong option

import numpy as np
import pandas as pd
from msgspec import structs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jobs.settings import CHECKS, Settings, SettingsError, check_joint_opens, load_or_exit
from model import device
from model.catalogue import Catalogue
from model.evaluate import METHODS, Outcome, Protocol, evaluate, leave_one_out, new_learner
from model.evaluation.baselines import POPULARITIES
from model.evaluation.behaviour import compare
from model.evaluation.order import drawn_order
from model.evaluation.shop import make_shop
from model.facts import Facts
from model.finetune import Learner
from model.keywords import keywords
from model.schema import Event, HeadraceError, Item, ItemVector, User, item_key
from scripts import data, offline, report, switches
from scripts.data import check_events

if TYPE_CHECKING:
    from model.encoder import Encoder
    from model.media.fusion import FusedEncoder
    from model.scoring.slate import Slate

SHOP, SHOP_EVENTS = 1, 12_000
"""The made-up shop that is measured beside the data."""


def main(argv: list[str] | None = None) -> None:
    arguments, rest = options.evaluate(argv, __doc__)
    settings = load_or_exit(rest, os.environ, __doc__, *CHECKS, check_device, check_joint_opens)
    device.use_threads(settings.learner_threads)
    try:
        data.check_users(arguments.users, settings.user_facts == "on")
        if arguments.switches is not None:
            result = switches.compare(arguments, rest)
        else:
            result = _run(arguments, settings, rest)
            report.show(result)
    except HeadraceError as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    line = json.dumps(result, allow_nan=False)
    if arguments.json:
        Path(arguments.json).write_text(line + "\n")
    print(line)


def _run(arguments: argparse.Namespace, settings: Settings, rest: list[str]) -> dict:
    if arguments.plot:
        report.check_drawing(arguments.plot)
    arguments.baselines = _methods(arguments.baselines)
    name, events, items = read_source(arguments, media=settings.media() is not None)
    users = data.users(arguments.data, arguments.users) if settings.user_facts == "on" else []
    data.tell_unused(settings, items)
    encoder = encoder_of(settings, rest)
    valid, refused = check_events(events, max_future_s=settings.max_future_s)
    data.tell_refused(name, valid, refused)
    catalogue = embed(items, encoder, settings.seed, settings.keywords)
    protocol = _protocol(settings, arguments, items)
    began = time.perf_counter()
    run = _leave_one_out if arguments.protocol == "leave-one-out" else _prequential
    settings = structs.replace(settings, encoder=_encoder_name(settings, rest))
    learner = _learner(users, settings, catalogue, items, protocol)
    outcome = run(arguments, valid, learner, protocol, _queries(valid, encoder))
    seconds = time.perf_counter() - began
    if arguments.plot:
        report.draw(outcome, name, arguments.plot)
    if arguments.ranks:
        ranks, users = outcome.results["headrace"].ranks, outcome.targets.users
        np.savez(arguments.ranks, ranks=np.array(ranks, np.int64), users=np.array(users, np.int64))
    result = report.summarise(
        name, valid, len(refused), catalogue, outcome, seconds, report.explain(protocol, arguments.protocol)
    )
    if arguments.behaviour:
        result["behaviour"] = behaviour_of(encoder, Protocol(seed=settings.seed, rules=settings.rules()))
    return result


def behaviour_of(encoder: "Encoder | FusedEncoder", protocol: Protocol) -> dict[str, list[dict]]:
    """What users do to their lists in a made-up shop, as JSON values by model."""
    shop = make_shop(SHOP, SHOP_EVENTS)
    with _bar("learning in a made-up shop", len(shop.events)) as progress:
        found = compare(shop, encoder.embed, protocol, protocol.seed, progress)
    return {name: behaviour.figures() for name, behaviour in found.items()}


def _learner(
    users: list[User], settings: Settings, catalogue: Catalogue, items: pd.DataFrame, protocol: Protocol
) -> Learner:
    """A learner that has seen nothing, with what is switched on."""

    def texts() -> dict[int, str]:
        return {item_key(row.item_id): data.as_item(row).as_text() for row in items.itertuples(index=False)}

    learner = new_learner(catalogue, protocol)
    learner.switch_on(settings.switches(settings.device), texts, lambda: _facts(users))
    return learner


def _facts(users: list[User]) -> Facts:
    """What is known of users."""
    facts = Facts()
    for user in users:
        facts.put(user.user_id, user.attributes)
    return facts


Queries = dict[str, np.ndarray]


def _queries(events: list[Event], encoder: "Encoder | FusedEncoder") -> Queries:
    """The encoder's vector of every query."""
    texts = sorted({event.query for event in events if event.query})
    return dict(zip(texts, encoder.embed(texts))) if texts else {}


def _prequential(
    arguments: argparse.Namespace, events: list[Event], learner: Learner, protocol: Protocol, queries: Queries
) -> Outcome:
    with _bar("evaluating", len(events)) as progress:
        return evaluate(events, learner.catalogue, protocol, progress, learner, arguments.baselines, queries)


def _leave_one_out(
    arguments: argparse.Namespace, events: list[Event], learner: Learner, protocol: Protocol, queries: Queries
) -> Outcome:
    events = drawn_order(events, protocol.order_seed)
    protocol = replace(protocol, order_seed=None)
    with _bar("learning", len(events)) as progress:
        outcome = leave_one_out(events, learner.catalogue, protocol, progress, arguments.baselines, queries, learner)
    if outcome.held and arguments.epochs:
        with _bar("RecBole: epochs", len(offline.MODELS) * arguments.epochs) as progress:
            offline.add_recbole(outcome, events, learner.catalogue, protocol.seed, arguments.epochs, progress)
    return outcome


def _methods(given: str | None) -> tuple[str, ...]:
    """The names given to --baselines.

    Raises:
        DataError: there is no such method.
    """
    if given is None:
        return POPULARITIES
    names = {"all": METHODS, "none": ()}.get(given) or tuple(
        name.strip() for name in given.split(",") if given != "none"
    )
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise data.DataError(
            f"--baselines: no baseline {', '.join(name or 'without a name' for name in unknown)[:100]}; "
            f"there are all, none, {', '.join(METHODS)}"
        )
    return names


def read_source(arguments: argparse.Namespace, media: bool = False) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """The name of what the options say is read, its events and its items."""
    name = arguments.data or Path(arguments.events).name
    if arguments.data:
        events, items = data.public(arguments.data)
    else:
        events, items = data.read(arguments.events, arguments.items, media=media)
    return name, events.head(arguments.limit) if arguments.limit else events, items


def check_device(settings: Settings) -> None:
    """Raise a SettingsError where a GPU is asked for that torch does not find here."""
    if why := device.missing(settings.device):
        raise SettingsError(f"--device {settings.device}: {why}")


def encoder_of(settings: Settings, rest: list[str]) -> "Encoder | FusedEncoder":
    """The encoder of the items: of their texts, and of their media where they are on."""
    text, media = _text_encoder(settings, rest), settings.media()
    if media is None:
        return text
    from model.media.fusion import FusedEncoder

    try:
        return FusedEncoder(text, media, Path(settings.replica_path) / "media")
    except (OSError, ValueError, KeyError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError(f"--image_encoder, --audio_encoder: one cannot be read: {why}") from None


def _text_encoder(settings: Settings, rest: list[str]) -> "Encoder":
    from model.cache import is_held
    from model.encoder import Encoder  # takes seconds: not before the files have been read

    name, kept = _encoder_name(settings, rest), Path(settings.replica_path) / "evaluate"
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"cannot be written ({error.strerror}); a local folder is wanted"
        raise SettingsError(f"--replica_dir {settings.replica_dir}: {why}") from None
    try:
        return Encoder(name, settings.device, kept, precision=settings.encoder_precision)
    except (OSError, ValueError, KeyError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        wanted = "the folder of a model or a name of Hugging Face's hub is wanted"
        raise SettingsError(f"--encoder {name}: cannot be read: {why}; {wanted}") from None
    except Exception as error:
        if not is_held(error):  # by another evaluation
            raise
        return Encoder(name, settings.device, precision=settings.encoder_precision)


def _encoder_name(settings: Settings, rest: list[str]) -> str:
    given = "HEADRACE_ENCODER" in os.environ or any(word.partition("=")[0] == "--encoder" for word in rest)
    return settings.encoder if given else str(data.language_model())


def embed(items: pd.DataFrame, encoder: "Encoder | FusedEncoder", seed: int, most_keywords: int = 0) -> Catalogue:
    """The catalogue of a table of items, its rows in an order drawn anew, so that ties do not follow the file's.

    Args:
        most_keywords: of an item.
    """
    items = items.drop_duplicates("item_id", keep="last")
    given = [data.as_item(row) for row in items.itertuples(index=False)]
    entries = [given[at] for at in np.random.default_rng(seed).permutation(len(given))]
    catalogue, refused = Catalogue(), dict[str, list[str]]()
    with _bar("embedding", len(entries)) as progress:
        for start in range(0, len(entries), 256):
            group = entries[start : start + 256]
            vectors, texts = _vectors(group, encoder, refused), [item.as_text() for item in group]
            words = keywords(encoder, texts, vectors, most_keywords) if most_keywords else [[] for _ in texts]
            catalogue.apply(
                ItemVector(item.item_id, encoder.version, vector.astype("<f2").tobytes(), keywords=some)
                for item, vector, some in zip(group, vectors, words)
            )
            progress(start + len(group), len(entries))
    if reasons := [f"item {item.item_id!r}: {why}" for item in given for why in refused.get(item.item_id, ())]:
        print(f"headrace: items go on without {len(reasons):,} media; the first: {reasons[0]}", file=sys.stderr)
    return catalogue


def _vectors(items: list[Item], encoder: "Encoder | FusedEncoder", refused: dict[str, list[str]]) -> np.ndarray:
    """Shape: (items, dim); why an item's media cannot be used is put into `refused`, by the item."""
    if not hasattr(encoder, "embed_items"):
        return encoder.embed([item.as_text() for item in items])
    made = encoder.embed_items(items)
    refused |= {item.item_id: one.reasons for item, one in zip(items, made) if one.reasons}
    return np.stack([one.vector for one in made])


def _slate(settings: Settings, items: pd.DataFrame) -> "Slate | None":
    config = settings.slate()
    if config is None:
        return None
    from model.scoring.slate import Slate

    return Slate(config, {item_key(row.item_id): row.categories for row in items.itertuples(index=False)})


def _protocol(settings: Settings, arguments: argparse.Namespace, items: pd.DataFrame) -> Protocol:
    asked = {"live": arguments.live, "order_seed": arguments.order_seed, "liked_from": arguments.liked_from}
    made = {"training": settings.training_config(), "slate": _slate(settings, items)}
    return Protocol(seed=settings.seed, rules=settings.rules(), **made, **asked)


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, on no terminal a line a tenth; gives the function that moves it to (done, of)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
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
