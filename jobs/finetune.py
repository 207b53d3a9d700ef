"""The learner: examples in, model versions out. A process of its own, so learning never holds up the job.

    training-examples ─┬─► count (every few seconds) ──► the version that serves, with new counts ──► model-versions
                       │                                       serving, or rejected
    fine-tune-requests ┴─► fine-tune ──► a candidate ──► judge beside the version that serves ──────► model-versions

A candidate is judged on examples before they are counted: on the newest ones that waited, and if those were few on the next
ones that come. The topic is the learner's memory: one that starts takes the networks from the version that serves and counts
the newest `replay_capacity` examples again.

    python jobs/finetune.py [--SETTING VALUE ...]
"""

import logging
import os
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from jobs.settings import Settings, help_or_go_on, load_or_exit, usage

if __name__ == "__main__":
    help_or_go_on(sys.argv[1:], f"{__doc__}\n{usage()}")

import msgspec
import torch
from kafka import KafkaConsumer, TopicPartition

from jobs.versions import Versions
from model import registry, score
from model.finetune import NOBODY, Judgement, Learner, better_or_level
from model.schema import Example, ModelVersion, VersionError, decode_example, decode_fine_tune_request
from model.versions import next_name, trained_path
from udfs.replica import CatalogueFollower

KEPT_COUNTS = 4
"""So many counts of a version stay in the registry: whoever loads is a little behind whoever writes."""

FETCH_BYTES, FETCH_WAIT_MS = 1 << 20, 400
"""The broker gathers so much, or waits so long, before it answers: examples are no hurry."""

logger = logging.getLogger("headrace.finetune")


class Inbox:
    """Reads the newest examples, and the requests, from the topics' past on."""

    def __init__(self, settings: Settings) -> None:
        self._requests = settings.topic("fine-tune-requests")
        servers = settings.bootstrap_servers.split(",")
        gathered = {"fetch_min_bytes": FETCH_BYTES, "fetch_max_wait_ms": FETCH_WAIT_MS, "max_poll_records": 5_000}
        self._consumer = KafkaConsumer(
            bootstrap_servers=servers, enable_auto_commit=False, isolation_level="read_committed", **gathered
        )
        self._partitions = [
            TopicPartition(topic, number)
            for topic in (settings.topic("training-examples"), self._requests)
            for number in self._consumer.partitions_for_topic(topic) or {0}
        ]
        self._consumer.assign(self._partitions)
        first = self._consumer.beginning_offsets(self._partitions)
        for at, end in self._consumer.end_offsets(self._partitions).items():
            self._consumer.seek(at, max(first[at], end - settings.replay_capacity))
        self.examples: list[Example] = []
        self.why = ""

    def read(self, timeout_ms: int = 500) -> None:
        """Read on; `examples` grows, and `why` is the reason of the newest request that was not acted on."""
        for at, records in self._consumer.poll(timeout_ms=timeout_ms).items():
            for record in records:
                self._take(at.topic, record.value)

    def _take(self, topic: str, value: bytes) -> None:
        try:
            if topic == self._requests:
                self.why = decode_fine_tune_request(value).why
            else:
                self.examples.append(decode_example(value))
        except msgspec.DecodeError as error:
            logger.warning("a record on %s is passed over: %s", topic, error)

    def drain(self) -> None:
        """Read all that is there now."""
        ends = self._consumer.end_offsets(self._partitions)
        while any(self._consumer.position(at) < end for at, end in ends.items()):
            self.read()


@dataclass
class Trial:
    """A candidate that is being judged, and how it and the version that serves have done so far."""

    scorer: score.Scorer
    beside: score.Scorer
    why: str
    examples: int  # learnt from since the last candidate
    needed: int  # examples to be judged on
    began: float  # monotonic clock, s
    ours: Judgement = NOBODY
    theirs: Judgement = NOBODY

    def metrics(self) -> dict[str, float]:
        serving = {f"serving_{name}": value for name, value in self.theirs.metrics().items()}
        return self.ours.metrics() | serving | {"examples": float(self.examples), "judged_on": float(len(self.ours.hit))}


class FineTune:
    """One learner. `turn` takes new examples: it judges, counts, and makes a candidate when one is asked for."""

    def __init__(self, settings: Settings, learner: Learner, versions: Versions) -> None:
        self._settings, self._learner, self._versions = settings, learner, versions
        self._trial: Trial | None = None
        self._since = 0  # examples since the last candidate
        self._ours = ""  # the path of the version that this learner trained last, if it was accepted
        self._written: deque[str] = deque()  # where its counts lie, the newest last
        self._number = 0  # of the newest counts

    def due(self, examples: int, why: str, waited_s: float) -> bool:
        """Whether it is time for a turn."""
        if self._trial is None and why and examples > 1:
            return True
        return examples > 0 and (self._trial is not None or self._serves()) and waited_s >= self._settings.count_every_s

    def turn(self, examples: list[Example], why: str) -> str:
        """Take new examples.

        Args:
            why: a candidate is asked for; empty if not.

        Returns:
            What is still asked for: nothing, if a candidate was made.
        """
        self._since += len(examples)
        if self._trial is None and why:
            self._begin(examples, why)
            why = ""
        elif self._trial is not None:
            self._judge(examples)
        else:
            self._learner.add(examples)
            self._publish_counts()
        if self._trial is not None and len(self._trial.ours.hit) >= self._trial.needed:
            self._decide(self._trial)
        return why

    def _serves(self) -> bool:
        """Whether the version that serves is the one that this learner would count for."""
        current = self._versions.current()
        return bool(self._ours) and current is not None and trained_path(current.path) == self._ours

    def _begin(self, examples: list[Example], why: str) -> None:
        """Fine-tune on all but the newest examples, and judge on those."""
        began, needed = time.monotonic(), min(self._settings.holdout, self._since // 2)
        held_out = min(needed, len(examples) // 2)
        self._learner.add(examples[: len(examples) - held_out])
        candidate = self._learner.fine_tune(self._report)
        self._versions.refresh()
        beside = self._scorer_of(self._versions.current())
        self._trial, self._since = Trial(candidate, beside, why, self._since, needed, began), 0
        self._judge(examples[len(examples) - held_out :])

    def _judge(self, examples: list[Example]) -> None:
        """Judge on as many as are needed of examples that nobody has counted, then count all of them."""
        trial = self._trial
        wanted = examples[: trial.needed - len(trial.ours.hit)]
        trial.ours = trial.ours + self._learner.judge(trial.scorer, wanted)
        trial.theirs = trial.theirs + self._learner.judge(trial.beside, wanted)
        self._learner.add(examples)
        if self._learner.can_count():
            trial.scorer = self._learner.count()

    def _decide(self, trial: Trial) -> None:
        """Write the candidate, and let it serve or reject it."""
        self._trial, serving = None, self._versions.current()
        metrics = trial.metrics() | {"seconds": round(time.monotonic() - trial.began, 3)}
        accepted = better_or_level(trial.ours, trial.theirs, self._settings.gate_tolerance)
        parent, name = serving.version if serving else "", next_name(self._versions.known)
        about = {"parent": parent, "why": trial.why, "metrics": metrics}
        version = ModelVersion(name, score.save(trial.scorer, self._settings.registry, name, about), parent, metrics)
        if accepted:
            self._versions.serve(version)
        else:
            reason = f"NDCG@10 {metrics['ndcg_at_10']:.4f} on the newest events; {parent} has {metrics['serving_ndcg_at_10']:.4f}"
            self._versions.announce(msgspec.structs.replace(version, status="rejected", reason=reason))
        self._ours, self._written = version.path if accepted else "", deque()
        logger.info("%s is %s: %s", name, "serving" if accepted else "rejected, worse than the one that serves", metrics)

    def _publish_counts(self) -> None:
        """Let the version that serves go on with what has been counted since."""
        self._versions.refresh()
        if not self._serves() or not self._learner.can_count():
            return
        self._number += 1
        self._written.append(score.save_counts(self._learner.count(), self._ours, self._number))
        self._versions.announce(msgspec.structs.replace(self._versions.current(), path=self._written[-1]))
        while len(self._written) > KEPT_COUNTS:
            registry.remove(self._written.popleft())

    def _scorer_of(self, version: ModelVersion | None) -> score.Scorer:
        if version is not None:
            try:
                scorer = score.load(version.path)
                scorer.table(self._learner.catalogue)  # refuses a catalogue of another encoder
                return scorer
            except VersionError as error:
                logger.error("the serving version cannot be used, the candidate is judged beside an untrained one: %s", error)
        return score.Scorer.untrained(max(1, self._learner.catalogue.vectors.shape[1]))

    @staticmethod
    def _report(done: int, of: int) -> None:
        logger.debug("fine-tuning: %d of %d", done, of)


def begin(settings: Settings, versions: Versions, follower: CatalogueFollower) -> Learner:
    """A learner that goes on from the version that serves, or anew where there is none that can be read."""
    scorer, serving = None, versions.current()
    if serving is not None:
        try:
            scorer = score.load(serving.path)
        except VersionError as error:
            logger.error("learning begins anew: %s", error)
    return Learner(follower.catalogue, scorer, settings.seed, settings.replay_capacity, settings.rules())


def main(argv: list[str]) -> None:
    settings = load_or_exit(argv, os.environ, __doc__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    torch.set_num_threads(settings.learner_threads)
    follower = CatalogueFollower(settings.bootstrap_servers, settings.topic("item-vectors"), Path(settings.replica_dir) / "learner")
    versions, inbox = Versions(settings), Inbox(settings)
    step = FineTune(settings, begin(settings, versions, follower), versions)
    logger.info("learner ready: %d items, %s serves", len(follower.catalogue), versions.serving[:1] or "no version")
    turned = time.monotonic()
    while True:
        inbox.read()
        if step.due(len(inbox.examples), inbox.why, time.monotonic() - turned):
            inbox.drain()
            follower.refresh()
            examples, inbox.examples = inbox.examples, []
            inbox.why = step.turn(examples, inbox.why)
            turned = time.monotonic()


if __name__ == "__main__":
    main(sys.argv[1:])
