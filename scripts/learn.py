"""Learn a version from files, without Flink and Kafka: a backlog at scale, by several processes, resumed after a kill.

    scripts/learn.py --events events.csv --items items.csv --learner_processes 2 --state learning
    scripts/learn.py --data ml-100k --version first --registry models

The events are learnt in their order, as the job's learner does, `--fine_tune_every` of them at a time. With
`--state FOLDER` all that it takes to go on is written there after each of these steps, whole or not at all; the same
command goes on from the newest one. The version lies in the registry then; the last line of stdout is one line of JSON.
Any setting of jobs/settings.py can be given too.
"""

import json
import os
import sys
import time
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts import options

if __name__ == "__main__":
    options.learn(sys.argv[1:], __doc__)  # ends here for --help and for a wrong option

from jobs.settings import Settings, SettingsError, check_encoder, load_or_exit
from model import device, score
from model.bounds import Switches
from model.catalogue import Catalogue
from model.evaluate import Users
from model.evaluation.order import drawn_order
from model.finetune import Learner
from model.learning import distributed, leader, state
from model.schema import Event, Example, HeadraceError
from model.score import Scorer
from model.statistics import ItemStatistics
from scripts import data
from scripts.evaluate import embed, encoder_of, read_source


@dataclass(frozen=True)
class Source:
    """What is learnt from; examples as the job would have made them of the events."""

    name: str
    catalogue: Catalogue
    examples: list[Example]


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    arguments, rest = options.learn(words, __doc__)
    settings = load_or_exit(rest, os.environ, __doc__, check_encoder, check_switches)
    device.use_threads(settings.learner_threads)
    if settings.learner_processes > distributed.wanted() == 1:
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(settings.learner_processes)]
        os.execv(sys.executable, [sys.executable, *start, __file__, *words])
    if distributed.wanted() > 1:
        distributed.join()
    try:
        if distributed.learns_ranker():
            print(json.dumps(_lead(arguments, settings, rest)))
        else:
            leader.follow()
    except HeadraceError as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def check_switches(settings: Settings) -> None:
    """Raise a SettingsError where something is switched on that is not learnt here."""
    if settings.switches("cpu") != Switches():
        raise SettingsError(
            "joint_first, user_facts, explore=thompson and signals that are on are learnt by the job's learner "
            "(jobs/finetune.py) and not from files: leave them out"
        )


def _lead(arguments: Namespace, settings: Settings, rest: list[str]) -> dict:
    source = read(arguments, settings, rest)
    learner, done = begin(source, settings, arguments.state)
    began, from_, scorer = time.perf_counter(), done, learner.scorer
    while done < len(source.examples):
        scorer = step(source, learner, done, arguments.state, settings)
        done = min(len(source.examples), done + settings.fine_tune_every)
        seconds = time.perf_counter() - began
        print(f"learning: {done:,} of {len(source.examples):,} after {seconds:.0f} s", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - began
    about = {"parent": "", "why": f"learnt from {source.name}", "metrics": {"examples": float(done)}}
    path = score.save(scorer, settings.registry_path, arguments.version, about)
    if distributed.size() > 1:
        learner.leave()  # type: ignore[attr-defined]
    rate = round((done - from_) / seconds, 1) if done > from_ else None
    return {"version": path, "examples": done, "from": from_, "processes": distributed.size(), "events_per_s": rate}


def read(arguments: Namespace, settings: Settings, rest: list[str]) -> Source:
    """The events of the options, as examples.

    Raises:
        DataError: the files cannot be read, or hold no event.
    """
    name, events, items = read_source(arguments)
    valid, refused = data.check_events(events, max_future_s=settings.max_future_s)
    data.tell_refused(name, valid, refused)
    encoder = encoder_of(settings, rest)
    catalogue = embed(items, encoder, settings.seed)
    return Source(name, catalogue, examples_of(drawn_order(valid, 0), catalogue, settings))


def examples_of(events: list[Event], catalogue: Catalogue, settings: Settings) -> list[Example]:
    """What the job teaches by these events."""
    users = Users(catalogue, settings.rules())
    return [one.example for one in map(users.ask, events) if one.example is not None]


def begin(source: Source, settings: Settings, folder: str | None) -> tuple[Learner, int]:
    """A learner, and how many of the examples it has learnt from: those of the newest state in the folder.

    Raises:
        StateError: the state is of other events, another encoder or another number of processes.
    """
    training, refused = state.newest(folder) if folder else (None, [])
    for why in refused:
        print(f"headrace: warning: passed over: {why}", file=sys.stderr)
    counted = (
        state.statistics_of(training, settings.statistics()) if training else ItemStatistics(settings.statistics())
    )
    config = replace(settings.training_config(), own_draws=settings.learner_processes > 1)
    learner = leader.begin(
        source.catalogue, counted, settings.learner_device, seed=settings.seed,
        replay_capacity=settings.replay_capacity, rules=settings.rules(), config=config,
    )  # fmt: skip
    if training is None:
        return learner, 0
    done = int(training.about["examples"])
    state.check(training, _about(source, done, settings), folder or "")
    learner.remember(source.examples[:done])
    learner.resume(state.scorer_of(training))
    state.restore(learner, training)
    print(f"learning goes on after {done:,} examples", file=sys.stderr, flush=True)
    return learner, done


def step(source: Source, learner: Learner, done: int, folder: str | None, settings: Settings) -> Scorer:
    """Learn from the next examples, and keep the state where there is a folder for it."""
    given = source.examples[done : done + settings.fine_tune_every]
    learner.add(given)
    scorer = learner.fine_tune()
    if folder:
        state.write(folder, learner, _about(source, done + len(given), settings), whole=True)
    return scorer


def _about(source: Source, done: int, settings: Settings) -> dict:
    """Of what a state is."""
    last = source.examples[done - 1] if 0 < done <= len(source.examples) else None
    return {
        "examples": done,
        "last": [last.user_id, last.event_id] if last else None,
        "seed": settings.seed,
        "own_draws": settings.learner_processes > 1,
    }


if __name__ == "__main__":
    main()
