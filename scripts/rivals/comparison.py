"""One way after the other at work: its topics, its processes or its job, and what is read of what it writes."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from msgspec.structs import replace

from jobs.settings import Settings
from model.schema import Event, ModelVersion, encode_json
from scripts.jars import topics
from scripts.processes import ROOT, Processes, tail
from scripts.replay import Feed
from scripts.rivals import workload
from scripts.rivals.figures import BURST_GAP_MS, CompareError, Run, delays_s, quantiles_ms, speed
from scripts.rivals.functions import VERSION
from scripts.rivals.ways import way_of
from scripts.stack import Stack
from scripts.watch import Watch

MODULES = {"confluent_kafka": "scripts.rivals.confluent", "quix": "scripts.rivals.quix"}
"""The ways that are processes of their own, as many as their parallelism says; the others are jobs."""
AT_HALF_LOAD = ("headrace", "headrace_exactly_once", "confluent_kafka")
START_S = 150.0
"""A way has failed whose first list has not come after this time; none is waited for longer after it."""
POLL_S = 0.2
WARM, WARM_UP = 64, "warm-up-"
"""Events, each of a user of its own, that a way answers before the backlog is sent; how these users are called."""
LEAD = 0.25
"""Share of the events at half load whose lists are not timed."""
PATIENCE_S = 30.0
LEAD_S = 3.0
"""So long there are lists, and no examples, before the first of these: what came before is counted meanwhile."""
KNOWN_EVERY_S = 0.2
"""An example is sent so often where it is measured how soon others' lists know of it."""
LEVELS = (0.5, 0.95, 0.99)


class Sizes(NamedTuple):
    """How much is done."""

    backlog: int  # events
    most_s: float  # of one way, after its first list; more where that was one burst
    repeats: int  # parts of what came in which speeds are taken
    at_half_load_s: float
    known: int  # examples of which it is timed when others' lists know of them
    users: int  # in the keyed state, of which checkpoints are taken


class Made(msgspec.Struct):
    """What is read of a list."""

    event_id: str
    model_version: str


def cpu_s(groups: Collection[int]) -> float:
    """Seconds of a core that the processes of some process groups have used."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = file.read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:13])) if int(fields[2]) in groups else 0
    return ticks / os.sysconf("SC_CLK_TCK")


class Comparison:
    """One comparison on a stack of its own, in which a broker and a cluster run.

    Args:
        show: called with (what is done now, done, of).

    Attributes:
        fresh: by way, freshness at half of Headrace's load, ms; known once Headrace has had its turn.
        known: from an event to another user's list that knows of it, ms.
        half_load: events/s.
    """

    def __init__(
        self, stack: Stack, work: workload.Workload, sizes: Sizes, show: Callable[[str, int, int], None]
    ) -> None:
        self._stack, self._work, self._sizes, self._show = stack, work, sizes, show
        self._processes = Processes(stack.run_dir)
        self._broker = stack.bootstrap_servers
        self.fresh: dict[str, dict[str, float]] = {}
        self.known: dict[str, float] = {}
        self.half_load = 0.0

    def run(self, name: str) -> Run:
        """Let a way answer the backlog, and some of them, at a steady rate, the events that follow."""
        if name == "bare_loop":
            return self._bare_loop()
        prefix = f"{name.replace('_', '-')}-"
        self._fill_topics(prefix)
        with self._started(name, prefix) as check:
            before = self._warm_up(name, prefix, check)
            self._send_all(prefix, self._work.backlog)
            cpu_ms = self._wait(name, prefix, check, before)
            run = Run(speed(self._times_ms(name, prefix), self._sizes.repeats), cpu_ms)
            if name == "headrace":
                self.half_load = run.per_s / 2
            if name in AT_HALF_LOAD and self.half_load:
                self.fresh[name] = self._freshness(name, prefix)
            if name == "headrace":
                self.known = self._known(prefix)
            return run

    def _bare_loop(self) -> Run:
        """The one way without Kafka tells its times itself."""
        again = "bare_loop" in self.fresh
        at_load_s = 0.0 if again else self._sizes.at_half_load_s
        words = [self._work.folder, self._sizes.most_s, self.half_load, at_load_s]
        command = [sys.executable, "-m", "scripts.rivals.bare", *map(str, words)]
        what = "bare_loop, again" if again else "bare_loop"
        self._show(what, 0, len(self._work.backlog))
        done = subprocess.run(command, cwd=ROOT, env=self._environment(), capture_output=True, text=True)
        if done.returncode:
            raise CompareError(f"bare_loop: exit code {done.returncode}: {done.stderr.strip()[-400:]}")
        told = json.loads(done.stdout)
        at_ms, lists, used_s = zip(*told["batches"])
        self._show(what, sum(lists), len(self._work.backlog))
        if late_s := told["late_s"]:
            self.fresh["bare_loop"] = quantiles_ms(late_s[int(len(late_s) * LEAD) :], LEVELS)
        cpu_ms = 1_000 * (used_s[-1] - used_s[0]) / sum(lists[1:])
        return Run(speed(np.repeat(at_ms, lists), self._sizes.repeats), cpu_ms)

    # Topics

    def make_topics(self, prefix: str) -> None:
        """Make the topics of one way. The broker stamps each list when it is appended."""
        admin = KafkaAdminClient(bootstrap_servers=self._broker)
        stamped = {"recommendations": {"message.timestamp.type": "LogAppendTime"}}
        admin.create_topics(
            [
                NewTopic(prefix + name, partitions, 1, topic_configs=config | stamped.get(name, {}))
                for name, (partitions, config) in topics().items()
            ]
        )
        admin.close()

    def _fill_topics(self, prefix: str) -> None:
        """Make the topics, and write what a way begins with: `WARM` events of as many users, in every partition."""
        self.make_topics(prefix)
        producer = KafkaProducer(bootstrap_servers=self._broker)
        if prefix.startswith("headrace"):
            for key, record in self._work.item_vectors:
                producer.send(f"{prefix}item-vectors", key=key, value=record)
            path = self._stack.registry / prefix / VERSION
            shutil.copytree(self._work.folder / VERSION, path)
            serving = ModelVersion(VERSION, str(path), status="serving")
            producer.send(f"{prefix}model-versions", key=VERSION.encode(), value=encode_json(serving))
        producer.flush()
        producer.close()
        warm = [f"{WARM_UP}{number}" for number in range(WARM)]
        self._send_all(
            prefix, [replace(one, user_id=name, event_id=name) for one, name in zip(self._work.backlog, warm)]
        )

    def _send_all(self, prefix: str, events: list[Event]) -> None:
        """Send events as fast as they go."""
        producer = KafkaProducer(bootstrap_servers=self._broker, linger_ms=20, batch_size=2**18)
        for event in events:
            producer.send(f"{prefix}events", key=event.user_id.encode(), value=encode_json(event))
        producer.flush()
        producer.close()

    @contextmanager
    def _reader(self, prefix: str) -> Iterator[tuple[KafkaConsumer, list[TopicPartition]]]:
        consumer = KafkaConsumer(bootstrap_servers=self._broker, enable_auto_commit=False)
        topic = f"{prefix}recommendations"
        yield consumer, [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.close()

    def _times_ms(self, name: str, prefix: str) -> np.ndarray:
        """When each list of the backlog was appended; one that came twice counts once, nearly all are the version's.

        The job loads the version while it makes the first lists.
        """
        times, strange = {}, 0
        with self._reader(prefix) as (consumer, partitions):
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            while any(consumer.position(at) < ends[at] for at in partitions):
                polled = consumer.poll(timeout_ms=1_000, max_records=5_000)
                for record in (record for records in polled.values() for record in records):
                    made = msgspec.json.decode(record.value, type=Made)
                    if made.event_id.startswith(WARM_UP):
                        continue
                    times.setdefault(made.event_id, record.timestamp)
                    strange += made.model_version != VERSION
        if strange > len(times) // 5:
            raise CompareError(f"{name}: {strange} of {len(times)} lists are not of {VERSION}: see its log")
        return np.array(list(times.values()), dtype=float)

    # Processes and jobs

    @contextmanager
    def _started(self, name: str, prefix: str) -> Iterator[Callable[[], None]]:
        """A way at work; what it gives raises where it has failed."""
        self._show(f"{name} starts", 0, len(self._work.backlog))
        names = self._processes_of(name)
        if names:
            command = [sys.executable, "-m", MODULES[way_of(name)[0]], str(self._work.folder), self._broker, prefix]
            try:
                for each in names:
                    state = str(self._stack.run_dir / "tmp" / each)
                    self._processes.start(each, [*command, state], self._environment())
                yield lambda: self._processes.check("a way that goes on", names)
            finally:
                for each in set(names) & set(self._processes.running()):
                    self._processes.kill(each)
        else:
            with self.submitted(self._job(name, prefix)) as job:
                yield lambda: self._stack.job_state(job)

    @contextmanager
    def submitted(self, command: list[str]) -> Iterator[str]:
        """The id of a job that runs."""
        job = self._stack.submit(command)
        try:
            yield job
        finally:
            self._stack.cancel(job)

    @staticmethod
    def _processes_of(name: str) -> list[str]:
        """The processes of a way that has its own; none of one that is a job."""
        way, parallelism = way_of(name)
        return [f"{name}-{number}" for number in range(1, parallelism + 1)] if way in MODULES else []

    def _job(self, name: str, prefix: str) -> list[str]:
        """The command that submits the job of a way."""
        way, parallelism = way_of(name)
        if way == "plain_pyflink":
            return self.script("scripts/rivals/plain_flink.py", prefix, parallelism=parallelism)
        command = self._stack.command("job")
        command[command.index("-p") + 1] = str(parallelism)
        delivery = "exactly-once" if way == "headrace_exactly_once" else "at-least-once"
        return [*command, "--topic_prefix", prefix, "--delivery", delivery]

    def script(self, file: str, prefix: str, *words: str, parallelism: int = 1) -> list[str]:
        """The command that submits a job of the comparison's own."""
        flink, *_ = self._stack.command("job")
        job = [flink, "run", "-d", "-p", str(parallelism), "-py", file]
        return [*job, str(self._work.folder), self._broker, prefix, *words]

    def _environment(self) -> dict[str, str]:
        return self._stack.environment() | {"OMP_NUM_THREADS": "1"}

    def _warm_up(self, name: str, prefix: str, check: Callable[[], None]) -> int:
        """Wait until all that works for a way does so: its workers have answered, the processes of a group share it.

        Returns:
            How many records there are by now where its lists go.
        """
        deadline, names = time.monotonic() + START_S, self._processes_of(name)
        with self._reader(prefix) as (consumer, partitions):
            while (came := sum(consumer.end_offsets(partitions).values())) < WARM or not self._shared(prefix, names):
                if time.monotonic() > deadline:
                    log = self._processes.log(names[0] if names else "taskmanager-1")
                    raise CompareError(f"{name}: {came} of {WARM} first lists in {START_S:g} s; {tail(log)}")
                check()
                time.sleep(POLL_S)
            return came

    def _shared(self, prefix: str, names: list[str]) -> bool:
        """Whether every process has its share of the partitions; the one that is there first has all for a while."""
        if len(names) < 2:
            return True
        admin = KafkaAdminClient(bootstrap_servers=self._broker)
        try:
            group = admin.describe_groups([f"{prefix}group"])[f"{prefix}group"]
        finally:
            admin.close()
        return group["group_state"] == "Stable" and len(group["members"]) == len(names)

    def _wait(self, name: str, prefix: str, check: Callable[[], None], before: int) -> float:
        """Wait until every event of the backlog has its list, or the way's time is over; -> ms of a core for a list."""
        began, wanted, first, burst = time.monotonic(), len(self._work.backlog), None, 0
        most_s = START_S if name in AT_HALF_LOAD else self._sizes.most_s  # nothing may wait before the steady rate
        with self._reader(prefix) as (consumer, partitions):
            while True:
                came, now = sum(consumer.end_offsets(partitions).values()) - before, time.monotonic()
                used_s = cpu_s(self._groups(name)) if came else 0.0
                first = first or ((now, came, used_s) if came else None)
                self._show(name, min(came, wanted), wanted)
                waited_s = now - first[0] if first else 0.0
                burst = came if waited_s < BURST_GAP_MS / 1_000 else burst
                enough = waited_s > most_s and (came > burst or waited_s > START_S)
                if came >= wanted or enough:
                    return 1_000 * (used_s - first[2]) / max(1, came - first[1])
                if not first and now - began > START_S:
                    raise CompareError(f"{name}: no list of the backlog in {START_S:g} s")
                check()
                time.sleep(POLL_S)

    def _groups(self, name: str) -> set[int]:
        """The process groups that do a way's work."""
        names = set(self._processes_of(name) or self._stack.taskmanagers)
        return {process.pid for each, process in self._processes.running().items() if each in names}

    # At half load

    def _freshness(self, name: str, prefix: str) -> dict[str, float]:
        """From an event's sending to its list's arrival at a consumer that reads what is committed."""
        events = self._work.later[: int(self.half_load * self._sizes.at_half_load_s)]
        feed, watch = self._sent(f"{name} at half load", prefix, events)
        timed = [event.event_id for event in events[int(len(events) * LEAD) :]]
        return quantiles_ms([watch.lists[one] - feed.sent[one] for one in timed], LEVELS)

    def _known(self, prefix: str) -> dict[str, float]:
        """From the sending of one user's event to the arrival of the first list of another user that knows of it.

        Both are measured by the client. At half load users skip items, which asks for a list and is no example; now and
        then one of them takes an item instead, which is one. A worker's `examples_seen` counts what it has applied to
        its item statistics, in the order of the log, so a list that says n more than before the first of these
        examples was made with the nth of them in its statistics. Lists of the example's own user do not count. What is
        left out: how long another user's next event lets wait, for somebody asks all the time; how much the example
        moves that list; and the counting of other examples, of which there are none.
        """
        events, every = self._work.later, max(1, int(self.half_load * KNOWN_EVERY_S))
        first = int(self.half_load * self._sizes.at_half_load_s)
        lead = int(LEAD_S * self.half_load)
        events = events[first : first + lead + every * (self._sizes.known + 5)]
        examples = {event.event_id for event in events[lead::every][: self._sizes.known]}
        given = [event if event.event_id in examples else replace(event, action="skip", value=None) for event in events]
        feed, watch = self._sent("headrace, known to others", prefix, given)
        settled = {watch.seen[event.event_id] for event in given[lead * 2 // 3 : lead]}
        if len(settled) != 1:
            raise CompareError(f"headrace: {len(settled)} numbers of examples are seen where none came: still counting")
        sent = [(feed.sent[event.event_id], event.user_id) for event in given if event.event_id in examples]
        lists = [(watch.lists[one.event_id], watch.seen[one.event_id], one.user_id) for one in given]
        return quantiles_ms(delays_s(sent, lists, settled.pop()), (0.5, 0.95))

    def _sent(self, what: str, prefix: str, events: list[Event]) -> tuple[Feed, Watch]:
        """Send events at half load; -> what was sent and what came of it, once all has."""
        settings = Settings(bootstrap_servers=self._broker, topic_prefix=prefix)
        feed = Feed(settings)
        watch = Watch(settings, feed.sent)
        try:
            began = time.monotonic()
            for at, event in enumerate(events):
                time.sleep(max(0.0, began + at / self.half_load - time.monotonic()))
                feed.event(event)
                if at % 100 == 0:
                    self._show(what, at, len(events))
            feed.flush()
            deadline = time.monotonic() + PATIENCE_S
            while len(watch.lists) < len(events) and time.monotonic() < deadline:
                time.sleep(POLL_S)
        finally:
            watch.close()
        if missing := len(events) - len(watch.lists):
            raise CompareError(f"{what}: {missing} of {len(events)} lists have not come, {self.half_load:.0f} events/s")
        self._show(what, len(events), len(events))
        return feed, watch
