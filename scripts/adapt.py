"""Adapt the language model to what users take one after the other: LoRA, merged into a folder of its own.

    scripts/adapt.py --events events.csv --items items.csv --out adapted
    scripts/adapt.py --data ml-100k --first 0.2 --out adapted        # then: scripts/evaluate.py --encoder adapted

Give the folder to the job with `--encoder adapted`: it embeds the items anew, and the new vectors serve as soon as they
are complete (docs/operations.md#encoder). Needs the extra `lora`. Any setting of jobs/settings.py can be given too:
`--encoder` to begin with, `--seed`, `--device`.
"""

import json
import os
import sys
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts import options

if __name__ == "__main__":
    options.adapt(sys.argv[1:], __doc__)  # ends here for --help and for a wrong option

from jobs.settings import Settings, SettingsError, check_encoder, load_or_exit
from model import device
from model.encoder import Encoder
from model.evaluation.order import drawn_order
from model.learning.adapt import AdaptConfig, adapt, pairs_of
from model.schema import HeadraceError, Item
from scripts import data
from scripts.evaluate import encoder_of, read_source

TOLD_EVERY = 10  # steps


def main(argv: list[str] | None = None) -> None:
    arguments, rest = options.adapt(argv, __doc__)
    settings = load_or_exit(rest, os.environ, __doc__, check_encoder, check_peft, check_texts_alone)
    device.use_threads(settings.learner_threads)
    try:
        print(json.dumps(_adapt(arguments, settings, rest)))
    except HeadraceError as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def check_peft(settings: Settings) -> None:
    """Raise a SettingsError where adapters cannot be made."""
    if find_spec("peft") is None:
        raise SettingsError("peft cannot be imported here: pip install '.[lora]'")


def check_texts_alone(settings: Settings) -> None:
    """Raise a SettingsError where media are on: adapters are learnt of texts."""
    if settings.media() is not None:
        raise SettingsError("media_prefix, vector_dim: adapters are learnt of texts alone: leave them out")


def _adapt(arguments: Namespace, settings: Settings, rest: list[str]) -> dict:
    name, events, items = read_source(arguments)
    valid, refused = data.check_events(events, max_future_s=settings.max_future_s)
    data.tell_refused(name, valid, refused)
    valid = drawn_order(valid, 0)
    texts = {
        row.item_id: Item(row.item_id, row.title, row.text, row.categories).as_text() for row in items.itertuples()
    }
    config = AdaptConfig(seed=settings.seed, steps=arguments.steps, rank=arguments.rank, batch=arguments.batch)
    pairs = pairs_of(valid[: round(arguments.first * len(valid))], texts, config.history)
    begun = encoder_of(settings, rest)
    losses = adapt(begun.folder, pairs, texts, arguments.out, config, str(device.choose(settings.device)), _tell)
    first, last = losses[: len(losses) // 4 or 1], losses[-(len(losses) // 4 or 1) :]
    return {
        "encoder": str(arguments.out),
        "version": Encoder(arguments.out).version,
        "from": begun.version,
        "pairs": len(pairs),
        "loss": [round(sum(part) / len(part), 4) for part in (first, last)],
    }


def _tell(done: int, of: int, loss: float) -> None:
    if done % TOLD_EVERY == 0 or done == of:
        print(f"adapting: {done} of {of} steps, loss {loss:.3f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
