"""What users do to their lists in a made-up shop, for a model that has learnt nothing and for one that has.

    scripts/behaviour.py [--shop N] [--events N] [--trained | --untrained] [--probe NAME ...] [--json FILE]

Neither Flink nor Kafka is needed; docs/behaviour.md says what each figure is. Any setting of jobs/settings.py can be
given too (`--half_life_s 86400`, `--encoder NAME`). The exit code is 1 where a row does not hold.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from jobs.settings import check_encoder, check_media, load_or_exit
from model import device
from model.evaluate import Protocol
from model.evaluation.behaviour import PROBES, Behaviour, measure
from model.evaluation.shop import make_shop
from model.evaluation.store import open_store, train
from model.schema import HeadraceError
from scripts import options, report
from scripts.evaluate import check_device, encoder_of


def main(argv: list[str] | None = None) -> None:
    arguments, rest = options.behaviour(argv, __doc__, PROBES)
    settings = load_or_exit(rest, dict(os.environ), __doc__, check_encoder, check_media, check_device)
    device.use_threads(settings.learner_threads)
    began = time.perf_counter()
    shop = make_shop(arguments.shop, arguments.events)
    try:
        store = open_store(shop, encoder_of(settings, rest).embed, Protocol(seed=settings.seed, rules=settings.rules()))
    except HeadraceError as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    found: dict[str, Behaviour] = {}
    if not arguments.trained:
        found["untrained"] = measure(store, settings.seed, arguments.probe)
    if not arguments.untrained:
        found["trained"] = measure(train(store, _line), settings.seed, arguments.probe)
    size = f"{len(shop.items)} products, {len(shop.likes):,} users, {len(shop.events):,} events"
    report.show_behaviour(
        {name: one.figures() for name, one in found.items()},
        f"shop {arguments.shop}: {size}; of the category: items among the first 10",
    )
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({name: behaviour.figures() for name, behaviour in found.items()}) + "\n"
        )
    broken = {name: len(behaviour.broken()) for name, behaviour in found.items()}
    rows = ", ".join(f"{name} {count}" for name, count in broken.items())
    print(f"rows that do not hold: {rows}; {time.perf_counter() - began:.0f} s")
    raise SystemExit(int(any(broken.values())))


def _line(done: int, of: int) -> None:
    if done * 10 // of > (done - 100) * 10 // of:
        print(f"learning: {done:,} of {of:,}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
