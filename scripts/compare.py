"""Headrace beside other ways of doing the same: events from a Kafka, lists into the same Kafka, in lists a second.

    python scripts/compare.py [--quick] [--only NAME,...] [--json FILE]

Every way gets the same events as a backlog, and the same item vectors, model version and functions; they take turns. It
brings up a Kafka and a Flink of its own, and takes them down. The last line of stdout is the figures as JSON.
"""

import sys

from scripts import options
from scripts.rivals.ways import QUICK_WAYS, WAYS

if __name__ == "__main__":
    options.compare(sys.argv[1:], __doc__, WAYS)  # ends here for --help and for a wrong option

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jobs.settings import Settings
from model.schema import Event, HeadraceError, ModelVersion, encode_json
from scripts.jars import jars, java_command, topics
from scripts.processes import ROOT, Place, Processes, tail
from scripts.replay import Feed
from scripts.rivals import workload
from scripts.rivals.functions import VERSION
from scripts.stack import Stack
from scripts.watch import Watch

FOLDER = ROOT / ".headrace" / "bench"
PACKAGES = {"confluent_kafka": "confluent-kafka", "quix": "quixstreams"}
PARALLELISM = {"headrace_parallelism_2": 2}
START_S = 150.0
"""A way whose first list has not come after this time has failed."""
POLL_S = 0.2
BURST_GAP_MS = 1_000.0
"""A way that writes nothing for so long, again and again, writes in bursts."""
LEAD = 0.25
"""Share of the events at half load whose lists are not timed."""
PATIENCE_S = 30.0


class CompareError(HeadraceError):
    """The comparison cannot be made: what is in the way, what to do."""


class Sizes(NamedTuple):
    """How much is done."""

    backlog: int  # events
    most_s: float  # of one way, after its first list; more where that was one burst
    repeats: int  # parts of what came in which speeds are taken
    at_half_load_s: float


FULL, QUICK = Sizes(15_000, 25.0, 5, 15.0), Sizes(5_000, 10.0, 2, 6.0)


class Made(msgspec.Struct):
    """What is read of a list."""

    event_id: str
    model_version: str


class Run(NamedTuple):
    """What came of one way: lists a second, and how long they kept a core busy, the broker's work left out."""

    per_s: float
    cpu_ms: float  # a list


# Arithmetic


def speed(times_ms: Sequence[float] | np.ndarray, repeats: int) -> float:
    """Lists a second: the median over so many equal parts of what came after the first fifth, which is a warm-up.

    >>> speed([0, 900, *range(1_000, 9_000, 1_000)], repeats=2)
    1.0

    Where lists come in bursts, as PyFlink's bundles do in process mode, a part is from one burst's end to the next's.

    >>> speed([0, 1, 2_000, 2_001, 4_000, 4_001, 6_000, 6_001], repeats=2)
    1.0

    Raises:
        CompareError: too few lists came.
    """
    times = np.sort(np.asarray(times_ms, dtype=float))
    ends = _burst_ends(times)
    if not len(ends):
        ends = np.linspace(len(times) // 5, len(times) - 1, repeats + 1).astype(int)
    if len(ends) < 2 or len(times) <= repeats or not (np.diff(times[ends]) > 0).all():
        raise CompareError(f"{len(times)} lists came: too few to tell a speed")
    return median((np.diff(ends) / np.diff(times[ends]) * 1_000).tolist())


def _burst_ends(times: np.ndarray) -> np.ndarray:
    """The last list of each burst; empty where lists come all the time."""
    gaps = np.diff(times)
    long = gaps >= BURST_GAP_MS
    if gaps[long].sum() <= 0.5 * gaps.sum():
        return np.zeros(0, int)
    return np.append(np.flatnonzero(long), len(times) - 1)


def ratios(per_s: dict[str, float]) -> dict[str, float]:
    """How many times as fast as each of the others Headrace at parallelism 1 is.

    >>> ratios({"headrace": 300.0, "quix": 100.0, "bare_loop": 400.0})
    {'quix': 3.0, 'bare_loop': 0.75}
    """
    ours = per_s.get("headrace")
    return {name: round(ours / other, 2) for name, other in per_s.items() if name != "headrace"} if ours else {}


def quantiles_ms(seconds: Sequence[float], levels: Sequence[float]) -> dict[str, float]:
    """Quantiles of times, in ms, by name.

    >>> quantiles_ms([0.1, 0.2, 0.3], (0.5, 0.99))
    {'p50': 200.0, 'p99': 298.0}
    """
    found = np.quantile(np.asarray(seconds) * 1_000, levels).tolist()
    return {f"p{level * 100:g}": round(one, 1) for level, one in zip(levels, found)}


def cpu_s(groups: Collection[int]) -> float:
    """Seconds of a core that the processes of some process groups have used."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = file.read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:13])) if int(fields[2]) in groups else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


# The ways


class Comparison:
    """One comparison on a stack of its own, in which a broker and a cluster run.

    Args:
        show: called with (what is done now, done, of).
    """

    def __init__(
        self, stack: Stack, work: workload.Workload, sizes: Sizes, show: Callable[[str, int, int], None]
    ) -> None:
        self._stack, self._work, self._sizes, self._show = stack, work, sizes, show
        self._processes = Processes(stack.run_dir)
        self._broker = stack.bootstrap_servers

    def run(self, name: str) -> tuple[Run, dict[str, float]]:
        """Let a way answer the backlog; Headrace is asked at half of that load too.

        Returns:
            What came, and freshness in ms.
        """
        if name == "bare_loop":
            return self._bare_loop(), {}
        prefix = f"{name.replace('_', '-')}-"
        self._fill_topics(prefix)
        with self._started(name, prefix) as check:
            cpu_ms = self._wait(name, prefix, check)
            run = Run(speed(self._times_ms(name, prefix), self._sizes.repeats), cpu_ms)
            fresh = name in ("headrace", "headrace_exactly_once")
            return run, self._freshness(name, prefix, run.per_s / 2) if fresh else {}

    def _bare_loop(self) -> Run:
        """The one way without Kafka tells its times itself."""
        command = [sys.executable, "-m", "scripts.rivals.bare", str(self._work.folder), str(self._sizes.most_s)]
        self._show("bare_loop", 0, len(self._work.backlog))
        done = subprocess.run(command, cwd=ROOT, env=self._environment(), capture_output=True, text=True)
        if done.returncode:
            raise CompareError(f"bare_loop: exit code {done.returncode}: {done.stderr.strip()[-400:]}")
        at_ms, lists, used_s = zip(*json.loads(done.stdout))
        self._show("bare_loop", sum(lists), len(self._work.backlog))
        cpu_ms = 1_000 * (used_s[-1] - used_s[0]) / sum(lists[1:])
        return Run(speed(np.repeat(at_ms, lists), self._sizes.repeats), cpu_ms)

    # Topics

    def _fill_topics(self, prefix: str) -> None:
        """Make the topics of one way, and write what waits in them. The broker stamps each list when it is appended."""
        admin = KafkaAdminClient(bootstrap_servers=self._broker)
        stamped = {"recommendations": {"message.timestamp.type": "LogAppendTime"}}
        admin.create_topics(
            [
                NewTopic(prefix + name, partitions, 1, topic_configs=config | stamped.get(name, {}))
                for name, (partitions, config) in topics().items()
            ]
        )
        admin.close()
        producer = KafkaProducer(bootstrap_servers=self._broker, linger_ms=20, batch_size=2**18)
        if prefix.startswith("headrace"):
            for key, record in self._work.item_vectors:
                producer.send(f"{prefix}item-vectors", key=key, value=record)
            path = self._stack.registry / prefix / VERSION
            shutil.copytree(self._work.folder / VERSION, path)
            serving = ModelVersion(VERSION, str(path), status="serving")
            producer.send(f"{prefix}model-versions", key=VERSION.encode(), value=encode_json(serving))
        for event in self._work.backlog:
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
        """When each list was appended; one that came twice counts once, and all but the first are the version's.

        The job learns of the version and of the first events at the same time.
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
        if name in PACKAGES:
            module = "scripts.rivals." + {"confluent_kafka": "confluent", "quix": "quix"}[name]
            command = [sys.executable, "-m", module, str(self._work.folder), self._broker, prefix]
            self._processes.start(name, [*command, str(self._stack.run_dir / "tmp" / name)], self._environment())
            try:
                yield lambda: self._processes.check("a way that goes on", [name])
            finally:
                if name in self._processes.running():
                    self._processes.kill(name)
        else:
            job = self._stack.submit(self._job(name, prefix))
            try:
                yield lambda: self._stack.job_state(job)
            finally:
                self._stack.cancel(job)

    def _job(self, name: str, prefix: str) -> list[str]:
        """The command that submits the job of a way."""
        flink, *_ = command = self._stack.command("job")
        if name == "plain_pyflink":
            words = [str(self._work.folder), self._broker, prefix]
            return [flink, "run", "-d", "-p", "1", "-py", "scripts/rivals/plain_flink.py", *words]
        command[command.index("-p") + 1] = str(PARALLELISM.get(name, 1))
        delivery = "exactly-once" if name == "headrace_exactly_once" else "at-least-once"
        return [*command, "--topic_prefix", prefix, "--delivery", delivery]

    def _environment(self) -> dict[str, str]:
        return self._stack.environment() | {"OMP_NUM_THREADS": "1"}

    def _wait(self, name: str, prefix: str, check: Callable[[], None]) -> float:
        """Wait until every event of the backlog has its list, or the way's time is over; -> ms of a core for a list."""
        began, wanted, first, burst = time.monotonic(), len(self._work.backlog), None, 0
        with self._reader(prefix) as (consumer, partitions):
            while True:
                came, now = sum(consumer.end_offsets(partitions).values()), time.monotonic()
                used_s = cpu_s(self._groups(name)) if came else 0.0
                first = first or ((now, came, used_s) if came else None)
                self._show(name, min(came, wanted), wanted)
                waited_s = now - first[0] if first else 0.0
                burst = came if waited_s < BURST_GAP_MS / 1_000 else burst
                enough = waited_s > self._sizes.most_s and (came > burst or waited_s > START_S)
                if came >= wanted or enough:
                    return 1_000 * (used_s - first[2]) / max(1, came - first[1])
                if not first and now - began > START_S:
                    raise CompareError(f"{name}: no list in {START_S:g} s; {tail(self._processes.log(name))}")
                check()
                time.sleep(POLL_S)

    def _groups(self, name: str) -> set[int]:
        """The process groups that do a way's work."""
        names = {name} if name in PACKAGES else set(self._stack.taskmanagers)
        return {process.pid for each, process in self._processes.running().items() if each in names}

    def _freshness(self, name: str, prefix: str, per_s: float) -> dict[str, float]:
        """From an event's sending to its list's arrival at a consumer that reads what is committed."""
        settings = Settings(bootstrap_servers=self._broker, topic_prefix=prefix)
        feed = Feed(settings)
        watch = Watch(settings, feed.sent)
        events = self._work.later[: int(per_s * self._sizes.at_half_load_s)]
        try:
            self._send(feed, events, per_s, lambda done: self._show(f"{name} at half load", done, len(events)))
            deadline = time.monotonic() + PATIENCE_S
            while len(watch.lists) < len(events) and time.monotonic() < deadline:
                time.sleep(POLL_S)
        finally:
            watch.close()
        timed = [event.event_id for event in events[int(len(events) * LEAD) :]]
        missing = sum(event_id not in watch.lists for event_id in timed)
        if missing or not timed:
            raise CompareError(f"{name}: {missing} of {len(timed)} lists have not come at {per_s:.0f} events/s")
        return quantiles_ms([watch.lists[one] - feed.sent[one] for one in timed], (0.5, 0.95, 0.99))

    @staticmethod
    def _send(feed: Feed, events: list[Event], per_s: float, show: Callable[[int], None]) -> None:
        began = time.monotonic()
        for at, event in enumerate(events):
            time.sleep(max(0.0, began + at / per_s - time.monotonic()))
            feed.event(event)
            if at % 100 == 0:
                show(at)
        feed.flush()


# All of it


def measure(quick: bool = False, only: Sequence[str] | None = None, folder: Path = FOLDER) -> dict:
    """Bring up a broker and a cluster, let the ways take turns, and take all down again.

    Raises:
        HeadraceError: something is missing, or a way has failed.
    """
    names = [name for name in WAYS if name in (only or (QUICK_WAYS if quick else WAYS))]
    check_packages(names)
    sizes, runs, fresh = QUICK if quick else FULL, {}, {}
    with progress() as show, stack(folder / "run") as place:
        work = workload.prepare(
            folder / "workload", sizes.backlog, folder / "embeddings", lambda done, of: show("the model", done, of)
        )
        comparison = Comparison(place, work, sizes, show)
        for name in names:
            runs[name], fresh[name] = comparison.run(name)
    return figures(runs, fresh)


def figures(runs: dict[str, Run], fresh: dict[str, dict[str, float]]) -> dict:
    """What was measured, as the last line of stdout has it."""
    per_s = {name: run.per_s for name, run in runs.items()}
    once = {f"exactly_once_{level}": ms for level, ms in fresh.get("headrace_exactly_once", {}).items()}
    return {
        "kafka_to_kafka": {name: round(each, 1) for name, each in per_s.items()},
        "ratios": ratios(per_s),
        "cpu_ms_a_list": {name: round(run.cpu_ms, 2) for name, run in runs.items()},
        "freshness_ms": fresh.get("headrace", {}) | once,
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what took part."""
    packages = ("apache-flink", "torch", "confluent-kafka", "quixstreams", "rocksdict")
    found = {"python": sys.version.split()[0]}
    found |= {name: version(name) for name in packages if find_spec(_module(name))}
    kafka = next(coordinate for folder, coordinate in jars() if folder == "kafka")
    java = subprocess.run([java_command(), "-version"], capture_output=True, text=True).stderr.split('"')
    return found | {"kafka": kafka.rsplit(":", 1)[1], "java": java[1]}


def _module(package: str) -> str:
    return {"apache-flink": "pyflink"}.get(package, package.replace("-", "_"))


def check_packages(names: Sequence[str]) -> None:
    """Raise CompareError where a rival's package is missing."""
    missing = [PACKAGES[name] for name in names if name in PACKAGES and find_spec(_module(PACKAGES[name])) is None]
    if missing:
        raise CompareError(f"{', '.join(missing)}: not installed; `make bench` does, or pip install -e '.[bench]'")


@contextmanager
def stack(run_dir: Path) -> Iterator[Stack]:
    """A broker and a cluster of two TaskManagers on ports of their own."""
    names = ("kafka_port", "controller_port", "flink_port", "rpc_port", "page_port")
    place = Place(run_dir=str(run_dir), taskmanagers=2, **dict(zip(names, free_ports(len(names)))))
    with redirect_stdout(sys.stderr), Stack(place).up(parts=("broker", "cluster")) as started:
        yield started


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar; what it gives is called with (what is done now, done, of)."""
    columns = TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks = {}

        def show(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=of)
            bar.update(tasks[what], completed=done, total=of)

        yield show


def table(result: dict) -> Table:
    """The figures, to be printed."""
    found, times, fresh = result["kafka_to_kafka"], result["ratios"], result["freshness_ms"]
    cpu = result["cpu_ms_a_list"]
    title = f"Kafka to Kafka: the same events, functions and model version, {result['cores']} cores"
    shown = Table("way", "lists/s", "ms of a core a list", "Headrace is", title=title)
    for name, what in WAYS.items():
        if name in found:
            ratio = f"{times[name]:.2f} x" if name in times else ""
            shown.add_row(what, f"{found[name]:,.0f}", f"{cpu[name]:.2f}", ratio)
    for begin, name in (("", "at least once"), ("exactly_once_", "exactly once")):
        levels = [(level, fresh[begin + level]) for level in ("p50", "p95", "p99") if begin + level in fresh]
        if levels:
            said = ", ".join(f"{level} {ms:,.0f} ms" for level, ms in levels)
            shown.add_row(f"freshness at half load, {name}", said, "", "")
    shown.caption = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return shown


def main(argv: list[str]) -> int:
    given = options.compare(argv, __doc__, WAYS)
    try:
        result = measure(given.quick, given.only)
    except HeadraceError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    Console(width=120).print(table(result))
    if given.json:
        given.json.write_bytes(msgspec.json.encode(result))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
