"""The learner: examples in, model versions out. A process of its own, so learning never holds up the job.

    training-examples ──► new examples ──► fine-tune on the older ones ──► judge on the newest ──► model-versions
    fine-tune-requests ─► when               (model/finetune.py)            beside the version      serving, or rejected
                                                                            that serves now

The newest examples are held out: a candidate is judged on them beside the serving version, and learns them the next
time. The topic is the learner's memory: one that starts takes the networks from the version that serves and counts the
newest `replay_capacity` examples again.

    python jobs/finetune.py [--SETTING VALUE ...]
"""

import logging
import os
import sys
import time
from pathlib import Path

import msgspec
import torch
from kafka import KafkaConsumer, TopicPartition

from jobs.settings import Settings, load_or_exit
from jobs.versions import Versions
from model import score
from model.finetune import Judgement, Learner, better_or_level
from model.interest import Rules
from model.schema import Example, ModelVersion, VersionError, decode_example, decode_fine_tune_request
from model.versions import next_name
from udfs.replica import CatalogueFollower

logger = logging.getLogger("headrace.finetune")


class Inbox:
    """Reads the newest examples, and the requests, from the topics' past on."""

    def __init__(self, settings: Settings) -> None:
        self._requests = settings.topic("fine-tune-requests")
        servers = settings.bootstrap_servers.split(",")
        self._consumer = KafkaConsumer(
            bootstrap_servers=servers, enable_auto_commit=False, isolation_level="read_committed", max_poll_records=5_000
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


class FineTune:
    """One learner: `once` makes a candidate, judges it, and announces what became of it."""

    def __init__(self, settings: Settings, learner: Learner, versions: Versions) -> None:
        self._settings, self._learner, self._versions = settings, learner, versions

    def once(self, examples: list[Example], why: str) -> list[Example]:
        """Learn from all but the newest examples, judge on those, and return them: they are learnt the next time."""
        began = time.monotonic()
        held_out = min(self._settings.holdout, len(examples) // 2)
        older, newest = examples[: len(examples) - held_out], examples[len(examples) - held_out :]
        self._learner.add(older)
        candidate = self._learner.fine_tune(self._report)
        self._versions.refresh()
        serving = self._versions.current()
        ours, theirs = self._learner.judge(candidate, newest), self._learner.judge(self._scorer_of(serving), newest)
        accepted = better_or_level(ours, theirs, self._settings.gate_tolerance)
        about = {"why": why, "examples": len(older), "judged_on": len(newest), "seconds": time.monotonic() - began}
        self._announce(candidate, serving, accepted, ours, theirs, about)
        return newest

    def _announce(self, candidate, serving: ModelVersion | None, accepted: bool, ours: Judgement, theirs: Judgement, about: dict) -> None:
        metrics = ours.metrics() | {f"serving_{name}": value for name, value in theirs.metrics().items()}
        metrics |= {name: round(float(value), 3) for name, value in about.items() if name != "why"}
        parent = serving.version if serving else ""
        name = next_name(self._versions.known)
        path = score.save(candidate, self._settings.registry, name, {"parent": parent, "metrics": metrics} | about)
        version = ModelVersion(name, path, parent, metrics)
        if accepted:
            self._versions.serve(version)
        else:
            reason = f"NDCG@10 {metrics['ndcg_at_10']:.4f} on the newest events; {parent} has {metrics['serving_ndcg_at_10']:.4f}"
            self._versions.announce(msgspec.structs.replace(version, status="rejected", reason=reason))
        logger.info("%s is %s: %s", name, "serving" if accepted else "rejected, worse than the one that serves", metrics)

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
    rules = Rules(settings.max_interests, settings.last_n, settings.half_life_s, settings.merge_similarity)
    return Learner(follower.catalogue, scorer, settings.seed, settings.replay_capacity, rules, settings.exclude_consumed)


def main(argv: list[str]) -> None:
    settings = load_or_exit(argv, os.environ)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    torch.set_num_threads(settings.learner_threads)
    follower = CatalogueFollower(settings.bootstrap_servers, settings.topic("item-vectors"), Path(settings.replica_dir) / "learner")
    versions, inbox = Versions(settings), Inbox(settings)
    step = FineTune(settings, begin(settings, versions, follower), versions)
    logger.info("learner ready: %d items, %s serves", len(follower.catalogue), versions.serving[:1] or "no version")
    while True:
        inbox.read()
        if inbox.why and len(inbox.examples) > 1:
            inbox.drain()
            follower.refresh()
            examples, why = inbox.examples, inbox.why
            inbox.examples, inbox.why = [], ""
            inbox.examples = step.once(examples, why)


if __name__ == "__main__":
    main(sys.argv[1:])
