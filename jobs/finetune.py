"""The learner: examples in, model versions out. A process of its own, so learning never holds up the job.

    training-examples ─┬─► count (every second) ──► item statistics ──► now and then a snapshot in the registry
                       │                                   │
    fine-tune-requests ┴─► fine-tune ──► a candidate ──► judge beside the version that serves ──► model-versions
                                                                                            serving, or rejected

Every scoring worker counts the same examples by itself, and begins with the newest snapshot. Candidate and serving
version are judged with the statistics of that moment, on examples before they are counted: on the newest ones that
waited, and on the next ones that come until they are enough. Where something else serves than what this learner goes
on from, after a rollback, it begins again from that.

The topic is the learner's memory: one that starts takes the networks from the version that serves, the statistics from
the newest snapshot, and reads the newest `replay_capacity` examples again. Where the broker is away it says so and
waits (udfs/reader.py). What else goes wrong in a turn is logged with its traceback, and the process ends with code 1:
whoever runs it (the local stack's supervisor, a cluster's) starts it again, and it goes on as above.

With `--learner_processes 2` it starts itself again under torchrun: the first process does all of this, the others
learn what they are told to (model/learning/leader.py). torchrun may start it so too.

    python jobs/finetune.py [--SETTING VALUE ...]
"""

import logging
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jobs.settings import (
    Settings,
    SettingsError,
    check_joint,
    check_joint_opens,
    check_registry,
    check_triples,
    help_or_go_on,
    load_or_exit,
    usage,
)

if __name__ == "__main__":
    help_or_go_on(sys.argv[1:], f"{__doc__}\n{usage()}")

from jobs.inbox import Inbox, examples_between
from jobs.retention import remove_unneeded
from jobs.versions import Versions
from model import device, registry, score, snapshot
from model.catalogue import Catalogue
from model.facts import Facts
from model.finetune import NOBODY, Judgement, Learner, non_inferior
from model.learning import distributed, leader, state
from model.learning.drift import Drift, surprises
from model.schema import Example, ModelVersion, StateError, VersionError, item_key
from model.statistics import ItemStatistics
from model.versions import next_name
from udfs.loading import LOAD_S, limited, sample_of
from udfs.reader import Place
from udfs.replica import CatalogueFollower
from udfs.statistics import open_snapshot

LARGEST_SHARE = 0.05
"""Of the examples that a candidate is judged on, one user may bring this share, rounded up: few bots do not decide."""
SAY_S = 60.0
"""So often the log says how far a candidate is that waits to be judged."""
WATCHED = 64
"""Of the examples of a turn so many, the newest, are looked at for drift."""
RETRY_S = 30.0
"""A serving version that cannot be loaded is tried again after this time."""
WRITE_S = 600.0
"""The learner ends, and is started again, where a version or a snapshot is not written after this time."""

logger = logging.getLogger("headrace.finetune")


@dataclass
class Trial:
    """A candidate that is being judged, and how it and the version that serves have done so far.

    It is judged on `needed` examples, of one user on `LARGEST_SHARE` of them at most, at least one. Examples on items
    that are not in the catalogue say nothing about either and do not count.
    """

    scorer: score.Scorer
    parent: str  # the version that serves
    epoch: int  # in which it was learnt
    why: str
    examples: int  # learnt from since the last candidate
    needed: int  # examples to be judged on
    began: float  # monotonic clock, s
    ours: Judgement = NOBODY
    theirs: Judgement = NOBODY
    by_user: Counter = field(default_factory=Counter)

    def most(self) -> int:
        """So many examples of one user count."""
        return math.ceil(LARGEST_SHARE * self.needed)

    def take(self, examples: list[Example]) -> list[Example]:
        """Those of these examples that it is judged on."""
        taken = []
        for example in examples:
            if self.by_user.total() < self.needed and self.by_user[example.user_id] < self.most():
                self.by_user[example.user_id] += 1
                taken.append(example)
        return taken

    def is_over(self) -> bool:
        return len(self.ours.hit) >= self.needed

    def metrics(self) -> dict[str, float]:
        serving = {f"serving_{name}": value for name, value in self.theirs.metrics().items()}
        about = {
            "examples": float(self.examples),
            "judged_on": float(len(self.ours.hit)),
            "judged_users": float(len(self.by_user)),
        }
        return self.ours.metrics() | serving | about | {"seconds": round(time.monotonic() - self.began, 3)}


class ServingVersion:
    """The version that serves, loaded once.

    Args:
        path: empty where nothing serves.
        scorer: None where it cannot be used.
    """

    def __init__(self, path: str, scorer: score.Scorer | None) -> None:
        self.path, self.scorer, self._tried = path, scorer, time.monotonic()

    @classmethod
    def load(cls, version: ModelVersion, settings: Settings, learner: Learner) -> "ServingVersion":
        """Load a version where the learner learns, and try it on some items; one that fails or takes too long cannot
        be used.
        """
        path, items = version.path, sample_of(learner.catalogue)

        def read() -> score.Scorer:
            registry.check_inside(path, settings.registry_path)
            joint = learner.joint
            scorer = score.load(
                path,
                learner.device,
                None if joint is None else (joint.encoder, joint.texts),
                learner.optional,
                learner.facts,
            )
            if scorer.fits(items):
                score.try_out(scorer, items, settings.k, settings.rules())
            return scorer

        try:
            return cls(path, limited(path, "loaded", read, LOAD_S))
        except BaseException as error:  # what a path from a topic leads to may fail in any way
            if isinstance(error, KeyboardInterrupt):
                raise
            logger.error("the serving version cannot be used, candidates are judged beside an untrained one: %s", error)
            return cls(path, None)

    def should_be_tried_again(self) -> bool:
        return bool(self.path) and self.scorer is None and time.monotonic() - self._tried > RETRY_S


class Snapshots:
    """Writes the item statistics now and then: an example costs `snapshot.BYTES_AN_EXAMPLE` on average at most.

    After a user was forgotten the next one is written soon, whatever it costs, and none is kept from before.

    Args:
        seen: examples that a snapshot has counted already.
    """

    FORGET_S = 60.0

    def __init__(self, folder: str, seen: int) -> None:
        self._folder, self._paid, self._bytes = folder, seen, 0
        self._written, self._failed = time.monotonic(), -math.inf
        self.forgot = False

    def is_due(self, statistics: ItemStatistics) -> bool:
        now = time.monotonic()
        if now - self._failed < RETRY_S:
            return False
        soon = self.forgot and now - self._written > self.FORGET_S
        paid = (statistics.seen - self._paid) * snapshot.BYTES_AN_EXAMPLE
        return soon or paid >= max(self._bytes, statistics.used_bytes() // 2)

    def write(self, statistics: ItemStatistics, source: str, offsets: Mapping[int, int]) -> None:
        """Write one; what goes wrong is said, and tried again soon.

        Raises:
            VersionError: the registry does not answer. A thread still waits there to write statistics that change.
        """
        keep = 1 if self.forgot else snapshot.KEPT
        try:
            write = partial(snapshot.write, self._folder, statistics, source, offsets, keep)
            self._bytes = limited("a snapshot of the item statistics", "written", write, WRITE_S)
        except VersionError:
            raise
        except Exception as error:  # the log has it all: nothing is lost
            logger.error("a snapshot of the item statistics is not written, tried again soon: %s", error)
            self._failed = time.monotonic()
            return
        owed = 0 if self.forgot else -(-self._bytes // snapshot.BYTES_AN_EXAMPLE)  # what is larger waits to be paid
        self._paid = max(statistics.seen, self._paid + owed)
        self._written, self.forgot = time.monotonic(), False


class FineTune:
    """One learner. `turn` takes new examples: it judges, counts, and makes a candidate when one is asked for."""

    def __init__(self, settings: Settings, learner: Learner, versions: Versions) -> None:
        self._settings, self._learner, self._versions = settings, learner, versions
        self._trial: Trial | None = None
        self._since = 0  # examples since the last candidate
        self._said = 0.0  # monotonic clock, s
        self._served = ServingVersion("", None)
        self._drift = Drift() if settings.drift != "off" else None
        self._follow()

    def due(self, examples: int, why: str, waited_s: float) -> bool:
        """Whether it is time for a turn."""
        if self._may_begin(examples, why):
            return True
        return examples > 0 and waited_s >= self._settings.count_every_s

    def recall(self, examples: list[Example]) -> list[Example]:
        """Take the examples from before this learner started: those the serving version has learnt from are counted.

        Returns:
            Those that nobody has learnt from.
        """
        if self._served.scorer is None:
            return examples
        self._learner.add(examples)
        self._learner.catch_up()
        return []

    def turn(self, examples: list[Example], why: str) -> str:
        """Take new examples.

        Args:
            why: a candidate is asked for; empty if not.

        Returns:
            What is still asked for: nothing, if a candidate was made.
        """
        self._follow()
        if any(one.forget for one in examples):
            self._drop_states()
        examples = [one for one in examples if one.forget or not self._learner.replay.has(one)]
        why = why or self._drifted(examples)
        if self._may_begin(len(examples), why):
            examples, why = self._begin(examples, why), ""
        else:
            self._since += len(examples)
        if self._trial is not None:
            self._judge(self._trial, examples)
        self._learner.add(examples)
        self._learner.count()
        if self._trial is not None and self._trial.is_over():
            self._decide(self._trial)
        return why

    def _drifted(self, examples: list[Example]) -> str:
        """Why to learn at once: users choose otherwise than before; empty if not."""
        chosen = [one for one in examples if not one.forget][-WATCHED:] if self._drift else []
        if self._drift is None or not chosen:
            return ""
        hits = self._learner.judge(self._served.scorer, chosen).hit if self._fits(self._served.scorer) else []
        if not self._drift.watch(hits, surprises(self._learner.statistics, chosen)):
            return ""
        logger.info("users choose otherwise than before: learning begins as soon as there is enough to learn from")
        return "drift"

    def _may_begin(self, examples: int, why: str) -> bool:
        """Whether a candidate is asked for that there is enough for, and that may serve."""
        enough = self._since + examples >= max(2, self._settings.gate_events)
        return self._trial is None and bool(why) and enough and not self._versions.serving.pinned

    def _follow(self) -> None:
        """Read what was decided; where another version serves now, go on from that one."""
        self._versions.refresh()
        current = self._versions.current()
        path = current.path if current else ""
        if path != self._served.path or self._served.should_be_tried_again():
            self._served = (
                ServingVersion.load(current, self._settings, self._learner) if current else ServingVersion("", None)
            )
            if self._fits(self._served.scorer):
                self._learner.resume(self._served.scorer)
                self._restore(path)
                logger.info("learning goes on from %s", path)
        trial = self._trial
        if trial is not None and (trial.epoch != self._versions.serving.epoch or not self._fits(trial.scorer)):
            logger.info(
                "a candidate is given up: something else was decided by hand, or the items have another encoder"
            )
            self._trial = None

    def _restore(self, path: str) -> None:
        """Go on with what was kept with this version, where it was."""
        if self._settings.learner_state == "off":
            return
        training, refused = state.newest(self._settings.registry_path)
        try:
            if training is not None and registry.is_same(str(training.about.get("path")), path):
                state.restore(self._learner, training)
        except StateError as error:
            refused.append(str(error))
            self._learner.resume(self._served.scorer)
        for why in refused:
            logger.warning("what was kept of training is not used: %s", why)

    def _drop_states(self) -> None:
        """Whoever is forgotten is in no state of training; the next version that serves keeps one again."""
        folder = self._settings.registry_path
        try:
            limited("the states of training", "removed", lambda: state.remove(folder), WRITE_S)
        except VersionError:
            raise
        except Exception as error:
            logger.error("states of training in %s cannot be removed: %s; remove training-* by hand", folder, error)

    def _keep(self, path: str) -> None:
        """Keep what goes on with the version that serves now; where that fails, a restart begins without it."""
        if self._settings.learner_state == "off":
            return
        try:
            folder, about = self._settings.registry_path, {"path": path}
            limited("the state of training", "written", lambda: state.write(folder, self._learner, about), WRITE_S)
        except VersionError:
            raise
        except Exception as error:
            logger.error("the state of training is not kept: %s", error)

    def _fits(self, scorer: score.Scorer | None) -> bool:
        return scorer is not None and scorer.fits(self._learner.catalogue)

    def _begin(self, examples: list[Example], why: str) -> list[Example]:
        """Fine-tune on all but the newest examples.

        Returns:
            The newest ones, to be judged on; if they are not enough, the next ones that come are judged on too.
        """
        began, since = time.monotonic(), self._since + len(examples)
        needed = max(self._settings.gate_events, min(self._settings.holdout, since // 2))
        learnt = len(examples) - min(needed, len(examples) // 2)
        self._learner.add(examples[:learnt])
        candidate, self._since = self._learner.fine_tune(self._report), 0
        current = self._versions.current()
        self._trial = Trial(
            candidate, current.version if current else "", self._versions.serving.epoch, why, since, needed, began
        )
        logger.info("a candidate from %d examples is judged on %d that come now", since, needed)
        return examples[learnt:]

    def _judge(self, trial: Trial, examples: list[Example]) -> None:
        """Judge on as many as are needed of examples that nobody has counted."""
        catalogue = self._learner.catalogue
        wanted = trial.take([one for one in examples if not one.forget and catalogue.row(item_key(one.item_id)) >= 0])
        untrained = score.Scorer.untrained(catalogue.vectors.shape[1], self._learner.optional).on(self._learner.device)
        beside = self._served.scorer if self._fits(self._served.scorer) else untrained
        trial.ours += self._learner.judge(trial.scorer, wanted)
        trial.theirs += self._learner.judge(beside, wanted)
        if not trial.is_over() and time.monotonic() - self._said > SAY_S:
            self._said, judged, users = time.monotonic(), len(trial.ours.hit), len(trial.by_user)
            logger.info(
                "judged on %d of %d events so far, of %d users; %d of each count",
                judged,
                trial.needed,
                users,
                trial.most(),
            )

    def _decide(self, trial: Trial) -> None:
        """Write the candidate, and let it serve or reject it."""
        self._trial, metrics, name = None, trial.metrics(), next_name(self._versions.known)
        about = {"parent": trial.parent, "why": trial.why, "metrics": metrics}
        folder = self._settings.registry_path
        path = limited(name, "written", lambda: score.save(trial.scorer, folder, name, about), WRITE_S)
        version = ModelVersion(name, path, trial.parent, metrics)
        if not non_inferior(trial.ours, trial.theirs, self._settings.gate_tolerance):
            before = metrics["serving_ndcg_at_10"]
            ours = f"NDCG@10 {metrics['ndcg_at_10']:.4f} on {len(trial.ours.hit)} events"
            reason = f"{ours}; {trial.parent or 'untrained'} has {before:.4f}"
            self._versions.say(version, status="rejected", reason=reason)
        elif self._versions.serve(version, trial.epoch):
            self._served = ServingVersion(version.path, trial.scorer)
            self._keep(version.path)
        else:
            self._versions.say(
                version, status="rejected", reason="something else was decided by hand while it was judged"
            )
        logger.info("%s is %s: %s", name, self._versions.known[name].status, metrics)
        remove_unneeded(self._versions, folder, self._settings.keep_versions)

    @staticmethod
    def _report(done: int, of: int) -> None:
        logger.debug("fine-tuning: %d of %d", done, of)


def open_learner(settings: Settings, catalogue: Catalogue) -> tuple[Learner, Inbox]:
    """A learner that has counted what the newest snapshot has, and remembers it; what came after it is in the inbox."""
    opened = open_snapshot(settings.registry_path, settings.statistics())
    inbox = Inbox(settings, opened.offsets)
    inbox.drain()
    if _goes_on(inbox, opened):
        between = examples_between(settings, Place(opened.source, opened.offsets), inbox.offsets() | inbox.first)
        for examples in between:  # more have come since than are remembered
            opened.statistics.apply(examples)
    else:
        opened = snapshot.nothing(settings.statistics())
        inbox.examples, inbox.remembered = [*inbox.remembered, *inbox.examples], []
    learner = leader.begin(
        catalogue, opened.statistics, settings.learner_device, seed=settings.seed,
        replay_capacity=settings.replay_capacity, rules=settings.rules(), config=settings.training_config(),
    )  # fmt: skip
    learner.remember(inbox.remembered)
    inbox.remembered = []
    return learner, inbox


def _goes_on(inbox: Inbox, opened: snapshot.Snapshot) -> bool:
    """Whether what was read follows a snapshot: it is of the same topic, which does not end before it."""
    reached = inbox.offsets()
    return inbox.source() == opened.source and all(
        offset <= reached.get(partition, 0) for partition, offset in opened.offsets.items()
    )


def switch_on(settings: Settings, learner: Learner) -> None:
    """Let the learner learn what is switched on, by topics that it follows."""

    def texts() -> Mapping[int, str]:
        from udfs.texts import TextsFollower

        return TextsFollower(settings.bootstrap_servers, settings.topic("items")).texts

    def facts() -> Facts:
        from udfs.users import UsersFollower

        return UsersFollower(settings.bootstrap_servers, settings.topic("users")).facts

    learner.switch_on(settings.switches(settings.learner_device), texts, facts)


def learn(settings: Settings) -> None:
    """Take turns for as long as the process lives."""
    follower = CatalogueFollower(
        settings.bootstrap_servers, settings.topic("item-vectors"), Path(settings.replica_path) / "learner"
    )
    versions = Versions(settings, patient=True)
    learner, inbox = open_learner(settings, follower.catalogue)
    switch_on(settings, learner)
    snapshots = Snapshots(settings.registry_path, learner.statistics.seen)
    step = FineTune(settings, learner, versions)
    snapshots.forgot = any(example.forget for example in inbox.examples)
    inbox.examples = step.recall(inbox.take())
    inbox.why = inbox.why if inbox.examples else ""
    logger.info(
        "learner ready on %s: %d items, %d examples counted, %s serves",
        learner.device, len(follower.catalogue), learner.statistics.seen, versions.serving.paths[:1] or "no version",
    )  # fmt: skip
    turned = time.monotonic()
    while True:
        inbox.read()
        if step.due(len(inbox.examples), inbox.why, time.monotonic() - turned):
            inbox.drain()
            follower.refresh()
            examples = inbox.take()
            inbox.why = step.turn(examples, inbox.why)
            turned = time.monotonic()
            snapshots.forgot |= any(example.forget for example in examples)
        if snapshots.is_due(learner.statistics) and not inbox.examples:
            snapshots.write(learner.statistics, inbox.source(), inbox.offsets())


def check_device(settings: Settings) -> None:
    """Raise a SettingsError where a GPU is asked for that torch does not find here."""
    if why := device.missing(settings.learner_device):
        raise SettingsError(f"--learner_device {settings.learner_device}: {why}")


def main(argv: list[str]) -> None:
    """Learn until something goes wrong, and say what: the process ends with code 1, so that it is started again."""
    checks = check_device, check_joint, check_joint_opens, check_triples, check_registry
    settings = load_or_exit(argv, os.environ, __doc__, *checks)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    device.use_threads(settings.learner_threads)
    if settings.learner_processes > distributed.wanted() == 1:
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(settings.learner_processes)]
        os.execv(sys.executable, [sys.executable, *start, __file__, *argv])
    try:
        if distributed.wanted() > 1:
            distributed.join()
        learn(settings) if distributed.learns_ranker() else leader.follow()
    except Exception as error:
        logger.exception("the learner ends: %s: %s", type(error).__name__, error)
        logging.shutdown()
        os._exit(1)  # at once, whatever threads there are


if __name__ == "__main__":
    main(sys.argv[1:])
