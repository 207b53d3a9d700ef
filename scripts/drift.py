"""How long it takes until lists fit again after tastes have changed, with and without a detector of drift.

    python scripts/drift.py        takes no options; three minutes

A made-up stream (model/evaluation/drift.py): every topic's order and every user's favourite change at a known moment.
A third learner knows the moment and begins anew: nothing that is learnt from the stream can be much sooner.
The last line of stdout is one line of JSON. Needs the extra `drift`.
"""

import json
import sys
from importlib.util import find_spec

from jobs.settings import help_or_go_on

if __name__ == "__main__":
    help_or_go_on(sys.argv[1:], __doc__)

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

SEEDS = (0, 1)


def main() -> None:
    if find_spec("river") is None:
        print("headrace: river cannot be imported here: pip install '.[drift]'", file=sys.stderr)
        raise SystemExit(2)
    from model.device import use_threads
    from model.evaluation import drift

    use_threads(1)
    table = Table("seed", "a detector", "events until 90 % of the hits are back", "versions after the change", "early")
    recovered: dict[str, list[int | None]] = {way: [] for way in (drift.WITHOUT, drift.WITH, drift.ANEW)}
    turns = (drift.BEFORE + drift.AFTER) // drift.TURN
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("streams", total=len(recovered) * len(SEEDS) * turns)
        for seed in SEEDS:
            for name, found in recovered.items():
                outcome = drift.follow(name, seed, lambda done: progress.advance(task, done))
                found.append(outcome.recovered)
                after = sum(at > drift.BEFORE for at in outcome.learnt_at)
                table.add_row(str(seed), name, str(outcome.recovered), str(after), str(outcome.early))
    Console().print(table)
    print(json.dumps({"events_until_recovered": recovered}))


if __name__ == "__main__":
    main()
