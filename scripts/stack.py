"""The local stack: Kafka, a Flink cluster, the topics, the job, the learner and the page, on this machine alone.

With `describe_first` the learner has the describer beside it (jobs/describe.py).

    python scripts/stack.py up [PART ...] [--SETTING VALUE ...]
                                           start all parts, or some: broker cluster job learner page
    python scripts/stack.py status         what runs, its memory, its log, how often it was started again
    python scripts/stack.py down           stop; the logs stay
    python scripts/stack.py prepare        fetch and write what `run` needs: what an image holds
    python scripts/stack.py run NAME       one process in the foreground, or `topics`: what a container does

Or, in a test:

    with Stack(Place(run_dir=folder, kafka_port=19092)).up(parts=("broker", "cluster")) as stack:
        ...

What `up` has started is started again when it ends, by one more process: see scripts/supervisor.py. `Stack.up` starts
it where it is asked to. Everything lives under `.headrace/`: `jars/` is fetched once, `run/` begins empty at each `up`.
The servers listen on 127.0.0.1 only. Where the stack lives is read from the environment, `STACK_KAFKA_PORT=19092`: see
`Place`.
"""

import json
import os
import re
import sys
import time
import urllib.request
from collections.abc import Iterable
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Self

import msgspec

from jobs.settings import CHECKS, Settings, check_describer, help_or_go_on, load, load_or_exit, usage
from model.schema import HeadraceError
from scripts.jars import broker_config, check_java, fetch_jars, flink_config, kafka_command, make_flink_home, topics
from scripts.processes import ROOT, SUPERVISOR, Place, Process, Processes, StackError, answers, tail

PARTS = ("broker", "cluster", "job", "learner", "page")
PORTS = {"broker": ("kafka_port", "controller_port"), "cluster": ("flink_port", "rpc_port"), "page": ("page_port",)}


class Job(msgspec.Struct, frozen=True):
    """The job that was submitted last."""

    job_id: str
    command: list[str]


class Stack:
    """A stack at a place. Each step is a method, and `up` is all of them."""

    def __init__(self, place: Place | None = None, arguments: Iterable[str] = ()):
        """
        Args:
            place: folder, ports and addresses; by default what the environment says.
            arguments: further settings for the job, the learner and the page, `["--k", "10"]`.
        """
        self.place = place or Place.from_environ(os.environ)
        self.arguments = list(arguments)
        self.run_dir = Path(self.place.run_dir).resolve()
        self._processes = Processes(self.run_dir)
        self.logs = self._processes.logs
        self.home = self.run_dir / "flink"
        self.registry, self._job = self.run_dir / "registry", self.run_dir / "job.json"
        self.bootstrap_servers = f"{self.place.kafka_host}:{self.place.kafka_port}"
        self.rest = f"http://{self.place.flink_host}:{self.place.flink_port}"
        self.page = f"http://{self.place.bind}:{self.place.page_port}"

    # All of it

    def up(self, parts: Iterable[str] = PARTS, supervised: bool = False) -> Self:
        """Start the parts, in a fresh folder; a stack that is up already is left alone.

        Args:
            supervised: what ends is started again.

        Raises:
            StackError: something is missing or has not started; nothing is left running.
        """
        parts = _known(parts)
        if self._processes.are_up():
            late = "; the settings given count after `make down`" if self.arguments else ""
            print(f"stack: up already in {self.run_dir}{late}")
            return self
        self.check(parts)
        with _step("jars"):
            fetch_jars()
        self._processes.empty()
        try:
            self._start(parts)
            if supervised:
                self.start(SUPERVISOR)
        except BaseException:
            self.down()
            raise
        return self

    def _start(self, parts: tuple[str, ...]) -> None:
        self.prepare()
        if "cluster" in parts:  # the slowest to start: it does so while the broker does
            for name in ("jobmanager", *self.taskmanagers):
                self.start(name)
        if "broker" in parts:
            with _step("broker"):
                self.broker()
        if "cluster" in parts:
            with _step("cluster"):
                self.wait_for_cluster()
        if {"job", "learner", "page"} & set(parts):
            with _step("language model"):
                _encoder()
        for name in ("learner", "page"):
            if name in parts:
                self.start(name)
        if "learner" in parts and self._describes():
            with _step("describing model"):
                self._describer()
            self.start("describer")
        if "job" in parts:
            with _step("job"):
                self.submit()
        if "page" in parts:
            with _step("page"):
                self._processes.wait(
                    f"the page on {self.page}", lambda: answers(self.place.bind, self.place.page_port), ["page"]
                )
        self._processes.check("a stack that stays up", list(self.processes()))

    def down(self) -> None:
        """Stop every process of the stack, and delete all but the logs."""
        self._processes.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.down()

    # Before anything starts

    def check(self, parts: Iterable[str] = PARTS) -> None:
        """Raise StackError where Java, Maven, room on the disk or a free port is missing."""
        check_java()
        for part in parts:
            for field in PORTS.get(part, ()):
                self.place.check_port(field)

    # Files

    def prepare(self) -> None:
        """Write the run folder: a Flink home and the configuration of this place."""
        for folder in ("logs/flink", "conf", "registry", "replica", "checkpoints", "tmp", "kafka"):
            (self.run_dir / folder).mkdir(parents=True, exist_ok=True)
        make_flink_home(self.home, self.run_dir / "conf")
        config = "".join(f"{key}: {json.dumps(value)}\n" for key, value in flink_config(self.place).items())
        (self.run_dir / "conf" / "config.yaml").write_text(config)
        (self.run_dir / "server.properties").write_text(broker_config(self.place))

    # Processes

    @property
    def taskmanagers(self) -> list[str]:
        return [f"taskmanager-{number}" for number in range(1, self.place.taskmanagers + 1)]

    def command(self, name: str) -> list[str]:
        """The command line of a process: broker, jobmanager, taskmanager-1, job, learner, describer or page."""
        match name.partition("-")[0]:
            case "broker":
                return [*kafka_command("kafka.Kafka"), str(self.run_dir / "server.properties")]
            case "jobmanager" | "taskmanager" as script:
                return [str(self.home / "bin" / f"{script}.sh"), "start-foreground"]
            case "job":
                parallelism = str(self.place.parallelism or self.place.taskmanagers)
                return [
                    str(self.home / "bin" / "flink"),
                    "run",
                    "-d",
                    "-p",
                    parallelism,
                    "-py",
                    "jobs/recommend.py",
                    *self.settings(),
                ]
            case "learner":
                # Only what the others leave of the processor (SCHED_IDLE): merely nice, lists came twice as late.
                return ["chrt", "--idle", "0", sys.executable, "jobs/finetune.py", *self.settings()]
            case "describer":
                return [
                    *("chrt", "--idle", "0", sys.executable, "jobs/describe.py"),
                    *self.settings(),
                    *self._describer(),
                ]
            case "supervisor":
                return [sys.executable, "scripts/supervisor.py", *self.arguments]
            case "page":
                address = ["--host", self.place.bind, "--port", str(self.place.page_port)]
                hosts = [word for host in self.place.page_hosts.split(",") if host for word in ("--allowed-host", host)]
                return ["nice", "-n", "10", sys.executable, "-m", "serving.app", *address, *hosts, *self.settings()]
        raise StackError(
            f"{name}: no such process; there are broker, jobmanager, taskmanager-1, job, learner, describer, page, "
            "supervisor"
        )

    def settings(self) -> list[str]:
        """The settings that the job, the learner and the page share. `HEADRACE_…` variables reach them too."""
        given = {
            "bootstrap_servers": self.bootstrap_servers,
            "registry": self.registry,
            "replica_dir": self.run_dir / "replica",
            "encoder": _encoder(),
        }
        return [word for name, value in given.items() for word in (f"--{name}", str(value))] + self.arguments

    def _describes(self) -> bool:
        return load(self.arguments, os.environ).describe_first > 0

    def _describer(self) -> list[str]:
        """The describing model where none is given: that of the package that carries it."""
        if load(self.arguments, os.environ).describer != Settings().describer:
            return []
        from scripts.data import describing_model

        return ["--describer", str(describing_model())]

    def environment(self) -> dict[str, str]:
        """Where Flink's scripts and Python find things, the page and the supervisor this place.

        The PATH is that of an activated virtual environment.

        The interpreter inside the TaskManager's JVM takes its packages from the first python3 on the PATH.
        """
        return (
            os.environ
            | self.place.as_environ()
            | {
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
                "FLINK_HOME": str(self.home),
                "FLINK_CONF_DIR": str(self.run_dir / "conf"),
                "FLINK_LOG_DIR": str(self.logs / "flink"),
                "FLINK_PID_DIR": str(self.run_dir / "tmp"),
                "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
                "PYTHONUNBUFFERED": "1",
            }
        )

    def start(self, name: str) -> None:
        """Start a process, of which none runs yet."""
        self._processes.start(name, self.command(name), self.environment())

    def kill(self, name: str) -> None:
        """End a process and its children at once (-9), as a lost machine would. `start(name)` brings it back."""
        self._processes.kill(name)

    def log(self, name: str) -> Path:
        return self._processes.log(name)

    def processes(self) -> dict[str, Process]:
        """Every process that was started, alive or not."""
        return self._processes.all()

    def running(self) -> dict[str, Process]:
        return self._processes.running()

    def status(self) -> str:
        """A table: process, pid, resident memory in MB with that of its children, log, how often it was restarted."""
        return self._processes.table()

    def resident_mb(self) -> int:
        """Resident memory of the whole stack, MB; pages that two processes share count twice."""
        return self._processes.resident_mb()

    # Kafka

    def broker(self) -> None:
        """Start the broker and make the topics."""
        self.format_broker()
        self.start("broker")
        self.make_topics()

    def format_broker(self) -> None:
        """Prepare the broker's data folder, once."""
        java, *line = kafka_command("kafka.tools.StorageTool")
        self._processes.run("format", [
            java, "-XX:TieredStopAtLevel=1", *line, "format", "--standalone", "--ignore-formatted",
            "--cluster-id", "SGVhZHJhY2VMb2NhbA", "--config", str(self.run_dir / "server.properties"),
        ], self.environment())  # fmt: skip

    def make_topics(self) -> None:
        """Make the topics of flink-conf/topics.txt, under the names that the settings give them, where they are not."""
        from kafka import KafkaAdminClient
        from kafka.admin import NewTopic

        wanted = self.topics()
        host, port = self.place.kafka_host, self.place.kafka_port
        self._processes.wait(f"the broker on {self.bootstrap_servers}", lambda: answers(host, port), ["broker"])
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        try:
            there = set(admin.list_topics())
            admin.create_topics(
                [
                    NewTopic(name, partitions, 1, topic_configs=config)
                    for name, (partitions, config) in wanted.items()
                    if name not in there
                ]
            )
        finally:
            admin.close()

    def topics(self) -> dict[str, tuple[int, dict[str, str]]]:
        """The topics of this stack: number of partitions and configuration by name."""
        settings = load(self.arguments, os.environ)
        return {settings.topic(name): about for name, about in topics().items()}

    # Flink

    def wait_for_cluster(self) -> None:
        """Wait until every TaskManager has registered."""
        wanted = len(self.taskmanagers)
        self._processes.wait(
            f"the Flink cluster on {self.rest}",
            lambda: len(self.ask("/taskmanagers").get("taskmanagers", ())) >= wanted,
            ["jobmanager", *self.taskmanagers],
        )

    def submit(self, command: list[str] | None = None, checkpoint: Path | None = None) -> str:
        """Submit a job with `flink run`, by default jobs/recommend.py, and wait until it runs.

        Args:
            checkpoint: to go on from.

        Returns:
            The job's id.
        """
        command = command or self.command("job")
        flink, run, *rest = command
        resumed = [flink, run, "-s", checkpoint.as_uri(), *rest] if checkpoint else command
        output = self._processes.run("job", resumed, self.environment())
        match = re.search(r"JobID ([0-9a-f]{32})", output)
        if match is None:
            raise StackError(f"flink run named no job; {tail(self.log('job'))}")
        self._processes.wait("the job to run", lambda: self.job_state(match[1]) == "RUNNING", ["jobmanager"])
        self._job.write_bytes(msgspec.json.encode(Job(match[1], command)))
        return match[1]

    def submitted(self) -> Job | None:
        """The job that was submitted last, unless it was cancelled."""
        return msgspec.json.decode(self._job.read_bytes(), type=Job) if self._job.exists() else None

    def job_state(self, job_id: str) -> str:
        """RUNNING when every task runs, else STARTING or Flink's word for it.

        Raises:
            StackError: the job has failed.
        """
        job = self.ask(f"/jobs/{job_id}")
        if job.get("state") in ("FAILED", "CANCELED"):
            raise StackError(f"job {job_id}: {job['state']}; {tail(self.log('jobmanager'))}")
        tasks = {vertex["status"] for vertex in job.get("vertices", ())}
        state = job.get("state", "")
        return "STARTING" if state == "RUNNING" and tasks != {"RUNNING"} else state

    def cancel(self, job_id: str) -> None:
        """Cancel a job, and wait until its slot is free."""
        if (job := self.submitted()) and job.job_id == job_id:
            self._job.unlink()
        request = urllib.request.Request(f"{self.rest}/jobs/{job_id}?mode=cancel", method="PATCH")
        urllib.request.urlopen(request, timeout=10).close()
        self._processes.wait(
            "the job to end", lambda: self.ask(f"/jobs/{job_id}").get("state") == "CANCELED", ["jobmanager"]
        )

    def ask(self, path: str) -> dict:
        """Ask the JobManager's REST interface; {} while it does not answer."""
        try:
            with urllib.request.urlopen(self.rest + path, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return {}

    # What the commands show

    def foreground(self, name: str) -> None:
        """Become one process of the stack, as a container does; `topics` and `job` do their work and return."""
        self.prepare()
        if name == "topics":
            self.make_topics()
        elif name == "job":
            self.wait_for_cluster()
            print(self.submit())
        else:
            if name == "broker":
                self.format_broker()
            command = self.command(name)
            os.chdir(ROOT)
            os.execvpe(command[0], command, self.environment())


def _known(parts: Iterable[str]) -> tuple[str, ...]:
    parts = tuple(parts)
    for part in parts:
        if part not in PARTS:
            raise StackError(f"{part}: no such part; there are {', '.join(PARTS)}")
    return parts


def _encoder() -> str:
    """The language model: what the environment says, or the package that carries it."""
    from scripts.data import language_model

    return os.environ.get("HEADRACE_ENCODER") or str(language_model())


@contextmanager
def _step(name: str):
    begin = time.monotonic()
    yield
    print(f"stack: {name:<14} {time.monotonic() - begin:5.1f} s", flush=True)


def help_text() -> str:
    """How the commands are used, every variable of a place, every setting."""
    variables = [f"  {variable:<22} {meaning} (default {default})" for variable, default, meaning in Place.rows()]
    return "\n".join([__doc__.strip(), "", "variables of the environment:", *variables, "", usage()])


def parts_and_settings(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Tell the parts from the settings, in whatever order they are given.

    >>> parts_and_settings(["broker", "--k", "10", "cluster", "--seed=1"])
    (['broker', 'cluster'], ['--k', '10', '--seed=1'])
    """
    parts, settings, words = [], [], iter(words)
    for word in words:
        if not word.startswith("--"):
            parts.append(word)
        else:
            settings += [word] if "=" in word else [word, *islice(words, 1)]
    return parts, settings


def main(argv: list[str]) -> None:
    """Run a command. What is wrong is printed, with exit code 2."""
    help_or_go_on(argv, help_text())
    try:
        match argv:
            case ["up", *words]:
                parts, settings = parts_and_settings(words)
                load_or_exit(settings, os.environ, "", *CHECKS, check_describer)
                stack = Stack(arguments=settings).up(parts or PARTS, supervised=True)
                print(
                    f"stack: Kafka {stack.bootstrap_servers}, Flink {stack.rest}, page {stack.page}, logs {stack.logs}"
                )
            case ["status"]:
                print(Stack().status())
            case ["down"]:
                Stack().down()
                print("stack: down")
            case ["prepare"]:
                fetch_jars()
                _encoder()
                Stack().prepare()
            case ["run", name]:
                Stack().foreground(name)
            case _:
                print(help_text(), file=sys.stderr)
                raise SystemExit(2)
    except HeadraceError as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main(sys.argv[1:])
