"""The local stack: Kafka, a Flink cluster, the topics, the job, the learner and the page, on this machine alone.

    python scripts/stack.py up [PART ...]     start (all parts, or some: broker cluster job learner page)
    python scripts/stack.py status            what runs, its memory, its log
    python scripts/stack.py down              stop; the logs stay
    python scripts/stack.py prepare           fetch and write what `run` needs: what an image holds
    python scripts/stack.py run NAME          one process in the foreground, or `topics`: what a container does

Or, in a test:

    with Stack(Place(run_dir=folder, kafka_port=19092)).up(parts=("broker", "cluster")) as stack:
        ...

Everything lives under `.headrace/`: `jars/` is fetched once, `run/` begins empty at each `up`. The servers listen on
127.0.0.1 only. Where the stack lives is read from the environment, `STACK_KAFKA_PORT=19092`: see `Place`.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Self

import msgspec
from msgspec import Meta, Struct

from model.schema import HeadraceError

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "flink-conf"
JARS = ROOT / ".headrace" / "jars"
PARTS = ("broker", "cluster", "job", "learner", "page")
JAVA = 17
FREE_GB = 2

Port = Annotated[int, Meta(ge=1, le=65_535)]
Count = Annotated[int, Meta(ge=0)]


class StackError(HeadraceError):
    """The local stack cannot start: what is in the way, what was wanted, what to do."""


class Place(Struct, frozen=True, kw_only=True):
    """Where a stack lives. Two stacks need two folders and no port in common."""

    run_dir: str = str(ROOT / ".headrace" / "run")
    kafka_port: Port = 9092
    controller_port: Port = 9093
    flink_port: Port = 8081
    rpc_port: Port = 6123
    page_port: Port = 8080
    taskmanagers: Annotated[int, Meta(ge=1)] = 1
    gpus: Count = 0
    bind: str = "127.0.0.1"
    kafka_host: str = "127.0.0.1"
    flink_host: str = "127.0.0.1"

    @classmethod
    def from_environ(cls, environ: dict[str, str]) -> Self:
        """Read `STACK_<FIELD>` for every field.

        >>> Place.from_environ({"STACK_KAFKA_PORT": "19092"}).kafka_port
        19092

        Raises:
            StackError: a value is wrong.
        """
        values = {}
        for field in msgspec.structs.fields(cls):
            variable = _variable(field.name)
            if variable in environ:
                try:
                    values[field.name] = msgspec.convert(environ[variable], field.type, strict=False)
                except msgspec.ValidationError as error:
                    raise StackError(f"{variable}={environ[variable]}: {error} (default {field.default})") from None
        return cls(**values)


class Process(Struct, frozen=True):
    """A process that the stack started. `started` tells it from a later one that got the same pid."""

    pid: int
    started: int


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
        self.logs = self.run_dir / "logs"
        self.home = self.run_dir / "flink"
        self.registry = self.run_dir / "registry"
        self.bootstrap_servers = f"{self.place.kafka_host}:{self.place.kafka_port}"
        self.rest = f"http://{self.place.flink_host}:{self.place.flink_port}"
        self.page = f"http://{self.place.bind}:{self.place.page_port}"
        self._children: dict[str, subprocess.Popen] = {}  # of this Python: they have to be waited for

    # All of it

    def up(self, parts: Iterable[str] = PARTS) -> Self:
        """Start the parts, in a fresh folder; a stack that is up already is left alone.

        Raises:
            StackError: something is missing or has not started; nothing is left running.
        """
        parts = _known(parts)
        if self._is_up():
            print(f"stack: up already in {self.run_dir}")
            return self
        self.check(parts)
        with _step("jars"):
            fetch_jars()
        self._empty()
        try:
            self._start(parts)
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
        if "job" in parts:
            with _step("job"):
                self.submit()

    def down(self) -> None:
        """Stop every process of the stack, and delete all but the logs."""
        started = self.processes()
        for process in started.values():
            _signal(process, signal.SIGTERM)
        for name, process in started.items():
            self._end(name, process, patience_s=10)
        if (self.run_dir / "processes.json").exists():
            for path in self.run_dir.iterdir():
                if path != self.logs:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.down()

    # Before anything starts

    def check(self, parts: Iterable[str] = PARTS) -> None:
        """Raise StackError where Java, Maven, room on the disk or a free port is missing."""
        java_command()
        if shutil.which("mvn") is None and not _fetched():
            raise StackError("no Maven here: mvn fetches Kafka's jars; install it (Debian: apt-get install maven)")
        free_gb = shutil.disk_usage(ROOT).free / 2**30
        if free_gb < FREE_GB:
            raise StackError(f"{free_gb:.1f} GB free in {ROOT}: {FREE_GB} GB are wanted; free some space")
        ports = {
            "broker": ("kafka_port", "controller_port"),
            "cluster": ("flink_port", "rpc_port"),
            "page": ("page_port",),
        }
        for part in parts:
            for field in ports.get(part, ()):
                self._check_port(field)

    def _check_port(self, field: str) -> None:
        port = getattr(self.place, field)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.place.bind, port))
            except OSError as error:
                raise StackError(
                    f"{_variable(field)}={port}: {error.strerror}; a free port is wanted: stop the program that listens "
                    f"there, or choose another, such as {_variable(field)}={port + 10_000}"
                ) from None

    def _empty(self) -> None:
        """Make the run folder anew; a folder that is not a stack's is never deleted."""
        if self.run_dir.exists() and any(self.run_dir.iterdir()):
            if not self.logs.exists():
                raise StackError(f"STACK_RUN_DIR={self.run_dir}: a folder with other things in it; an empty one is wanted")
            shutil.rmtree(self.run_dir)

    # Files

    def prepare(self) -> None:
        """Write the run folder: a Flink home and the configuration of this place."""
        for folder in ("logs/flink", "conf", "registry", "replica", "checkpoints", "tmp", "kafka"):
            (self.run_dir / folder).mkdir(parents=True, exist_ok=True)
        wheel = Path(find_spec("pyflink").submodule_search_locations[0])
        if not self.home.exists():
            # A copy, because Flink's scripts follow a symbolic link back to the wheel; hard links make it cheap.
            for folder in ("bin", "lib", "opt", "plugins"):
                shutil.copytree(wheel / folder, self.home / folder, copy_function=_link)
            # In lib/, Python is loaded once for all jobs; from opt/, the second job in a TaskManager fails.
            for jar in [*(wheel / "opt").glob("flink-python*.jar"), *(JARS / "flink").glob("*.jar")]:
                _link(jar, self.home / "lib" / jar.name)
        for file in (wheel / "conf").glob("log4j*.properties"):
            shutil.copy(file, self.run_dir / "conf")
        config = "".join(f"{key}: {json.dumps(value)}\n" for key, value in self.flink_config().items())
        (self.run_dir / "conf" / "config.yaml").write_text(config)
        (self.run_dir / "server.properties").write_text(self.broker_config())

    def flink_config(self) -> dict[str, str | int]:
        """flink-conf/config.yaml and what depends on the place."""
        from ruamel.yaml import YAML

        place = self.place
        gpus = {"external-resources": "gpu", "external-resource.gpu.amount": place.gpus} if place.gpus else {}
        return YAML(typ="safe").load(CONF / "config.yaml") | {
            "jobmanager.rpc.address": place.flink_host,
            "jobmanager.rpc.port": place.rpc_port,
            "jobmanager.bind-host": place.bind,
            "rest.address": place.flink_host,
            "rest.port": place.flink_port,
            "rest.bind-address": place.bind,
            "taskmanager.host": "127.0.0.1" if place.bind == "127.0.0.1" else socket.gethostbyname(socket.gethostname()),
            "taskmanager.bind-host": place.bind,
            "execution.checkpointing.dir": (self.run_dir / "checkpoints").as_uri(),
            "io.tmp.dirs": str(self.run_dir / "tmp"),
            "python.executable": sys.executable,
            "python.client.executable": sys.executable,
        } | gpus

    def broker_config(self) -> str:
        """flink-conf/server.properties and what depends on the place."""
        place = self.place
        controller = f"{place.kafka_host}:{place.controller_port}"
        return (CONF / "server.properties").read_text() + (
            f"log.dirs={self.run_dir / 'kafka'}\n"
            f"listeners=PLAINTEXT://{place.bind}:{place.kafka_port},CONTROLLER://{place.bind}:{place.controller_port}\n"
            f"advertised.listeners=PLAINTEXT://{self.bootstrap_servers},CONTROLLER://{controller}\n"
            f"controller.quorum.bootstrap.servers={controller}\n"
        )

    # Processes

    @property
    def taskmanagers(self) -> list[str]:
        return [f"taskmanager-{number}" for number in range(1, self.place.taskmanagers + 1)]

    def command(self, name: str) -> list[str]:
        """The command line of a process: broker, jobmanager, taskmanager-1, job, learner or page."""
        match name.split("-")[0]:
            case "broker":
                return [*self._kafka("kafka.Kafka"), str(self.run_dir / "server.properties")]
            case "jobmanager" | "taskmanager" as script:
                return [str(self.home / "bin" / f"{script}.sh"), "start-foreground"]
            case "job":
                return [str(self.home / "bin" / "flink"), "run", "-d", "-py", "jobs/recommend.py", *self.settings()]
            case "learner":
                return ["nice", "-n", "10", sys.executable, "jobs/finetune.py", *self.settings()]
            case "page":
                address = ["--host", self.place.bind, "--port", str(self.place.page_port)]
                return [sys.executable, "-m", "serving.app", *address, *self.settings()]
        raise StackError(f"{name}: no such process; there are broker, jobmanager, taskmanager-1, job, learner, page")

    def settings(self) -> list[str]:
        """The settings that the job, the learner and the page share. `HEADRACE_…` variables reach them too."""
        given = {
            "bootstrap_servers": self.bootstrap_servers,
            "registry": self.registry,
            "replica_dir": self.run_dir / "replica",
            "encoder": _encoder(),
        }
        return [word for name, value in given.items() for word in (f"--{name}", str(value))] + self.arguments

    def environment(self) -> dict[str, str]:
        """Where Flink's scripts and Python find things. The PATH is that of an activated virtual environment.

        The interpreter inside the TaskManager's JVM takes its packages from the first python3 on the PATH.
        """
        return os.environ | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "FLINK_HOME": str(self.home),
            "FLINK_CONF_DIR": str(self.run_dir / "conf"),
            "FLINK_LOG_DIR": str(self.logs / "flink"),
            "FLINK_PID_DIR": str(self.run_dir / "tmp"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, name: str) -> None:
        """Start a process in a group of its own, so that what it starts ends with it."""
        if name in self.running():
            raise StackError(f"{name} runs already in {self.run_dir}: kill it first")
        if name in self._children:
            self._children.pop(name).wait()
        with self.log(name).open("a") as log:
            child = subprocess.Popen(
                self.command(name), cwd=ROOT, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._children[name] = child
        self._write(self.processes() | {name: Process(child.pid, _stat(child.pid)[1])})

    def kill(self, name: str) -> None:
        """End a process and its children at once (-9), as a lost machine would. `start(name)` brings it back."""
        self._end(name, self.running()[name], patience_s=0)

    def _end(self, name: str, process: Process, patience_s: float) -> None:
        _until_ended(process, patience_s)
        _signal(process, signal.SIGKILL)  # what it has started, too
        _until_ended(process, patience_s=10)
        if name in self._children:
            self._children.pop(name).wait()

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def processes(self) -> dict[str, Process]:
        """Every process that was started, alive or not."""
        path = self.run_dir / "processes.json"
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Process]) if path.exists() else {}

    def running(self) -> dict[str, Process]:
        return {name: process for name, process in self.processes().items() if _alive(process)}

    def _write(self, processes: dict[str, Process]) -> None:
        (self.run_dir / "processes.json").write_bytes(msgspec.json.encode(processes))

    def _is_up(self) -> bool:
        running, started = self.running(), self.processes()
        dead = ", ".join(name for name in started if name not in running)
        if running and dead:
            raise StackError(f"{dead} has ended, the rest still runs in {self.run_dir}: see its log, then `make down`")
        return bool(running)

    # Kafka

    def _kafka(self, main: str) -> list[str]:
        return [java_command(), "-Xmx512m", "-Dlog4j2.level=INFO", "-cp", f"{JARS / 'kafka'}/*", main]

    def broker(self) -> None:
        """Start the broker and make the topics."""
        self.format_broker()
        self.start("broker")
        self.make_topics()

    def format_broker(self) -> None:
        """Prepare the broker's data folder, once."""
        java, *line = self._kafka("kafka.tools.StorageTool")
        self._run("format", [
            java, "-XX:TieredStopAtLevel=1", *line, "format", "--standalone", "--ignore-formatted",
            "--cluster-id", "SGVhZHJhY2VMb2NhbA", "--config", str(self.run_dir / "server.properties"),
        ])  # fmt: skip

    def make_topics(self) -> None:
        """Make the topics of flink-conf/topics.txt that are not there yet."""
        from kafka import KafkaAdminClient
        from kafka.admin import NewTopic

        address = (self.place.kafka_host, self.place.kafka_port)
        self._wait(f"the broker on {self.bootstrap_servers}", lambda: _answers(address), ["broker"])
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        try:
            there = set(admin.list_topics())
            admin.create_topics([
                NewTopic(name, partitions, 1, topic_configs=config)
                for name, (partitions, config) in topics().items()
                if name not in there
            ])
        finally:
            admin.close()

    # Flink

    def wait_for_cluster(self) -> None:
        """Wait until every TaskManager has registered."""
        wanted = len(self.taskmanagers)
        self._wait(
            f"the Flink cluster on {self.rest}",
            lambda: len(self.ask("/taskmanagers").get("taskmanagers", ())) >= wanted,
            ["jobmanager", *self.taskmanagers],
        )

    def submit(self, command: list[str] | None = None) -> str:
        """Submit a job with `flink run`, by default jobs/recommend.py, and wait until it runs.

        Returns:
            The job's id.
        """
        output = self._run("job", command or self.command("job"))
        match = re.search(r"JobID ([0-9a-f]{32})", output)
        if match is None:
            raise StackError(f"flink run named no job; {_tail(self.log('job'))}")
        self._wait("the job to run", lambda: self.job_state(match[1]) == "RUNNING", ["jobmanager"])
        return match[1]

    def job_state(self, job_id: str) -> str:
        """RUNNING when every task runs, else STARTING or Flink's word for it.

        Raises:
            StackError: the job has failed.
        """
        job = self.ask(f"/jobs/{job_id}")
        if job.get("state") in ("FAILED", "CANCELED"):
            raise StackError(f"job {job_id}: {job['state']}; {_tail(self.log('jobmanager'))}")
        tasks = {vertex["status"] for vertex in job.get("vertices", ())}
        state = job.get("state", "")
        return "STARTING" if state == "RUNNING" and tasks != {"RUNNING"} else state

    def cancel(self, job_id: str) -> None:
        """Cancel a job, and wait until its slot is free."""
        request = urllib.request.Request(f"{self.rest}/jobs/{job_id}?mode=cancel", method="PATCH")
        urllib.request.urlopen(request, timeout=10).close()
        self._wait("the job to end", lambda: self.ask(f"/jobs/{job_id}").get("state") == "CANCELED", ["jobmanager"])

    def ask(self, path: str) -> dict:
        """Ask the JobManager's REST interface; {} while it does not answer."""
        try:
            with urllib.request.urlopen(self.rest + path, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return {}

    # Waiting

    def _wait(self, what: str, ready: Callable[[], bool], names: list[str], patience_s: float = 180) -> None:
        """Wait for something that the named processes bring about; say which one ended, if one does."""
        deadline = time.monotonic() + patience_s
        while not ready():
            mine = {name: process for name, process in self.processes().items() if name in names}
            for name, process in mine.items():
                if not _alive(process):
                    raise StackError(f"{name} has ended, {what} was wanted; {_tail(self.log(name))}")
            if time.monotonic() > deadline:
                where = "; ".join(_tail(self.log(name)) for name in mine)
                raise StackError(f"{what}: no answer in {patience_s:g} s; the machine may be too busy; {where}")
            time.sleep(0.1)

    def _run(self, name: str, command: list[str]) -> str:
        """Run a command to its end and return what it printed, which goes to its log too."""
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment(), stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        with self.log(name).open("a") as log:
            log.write(done.stdout)
        if done.returncode:
            raise StackError(f"{name}: exit code {done.returncode}; {_tail(self.log(name))}")
        return done.stdout

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

    def status(self) -> str:
        """A table: process, pid, resident memory in MB with that of its children, log."""
        running = self.running()
        rows = [
            f"{name:<14} {process.pid:>8} {_resident_mb(process):>6} MB  {self.log(name)}"
            if name in running else f"{name:<14} {'ended':>8} {'':>9}  {self.log(name)}"
            for name, process in self.processes().items()
        ]  # fmt: skip
        return "\n".join(rows) or f"stack: nothing runs in {self.run_dir}"


    def resident_mb(self) -> int:
        """Resident memory of the whole stack, MB; pages that two processes share count twice."""
        return sum(_resident_mb(process) for process in self.running().values())


# Lists in flink-conf/


def topics() -> dict[str, tuple[int, dict[str, str]]]:
    """Topic -> (partitions, configuration), as flink-conf/topics.txt says."""
    return {
        name: (int(partitions), dict(option.split("=") for option in options))
        for name, partitions, *options in _table("topics.txt")
    }


def jars() -> list[tuple[str, str]]:
    """(folder, group:artifact:version) of flink-conf/jars.txt."""
    return [(folder, coordinate) for folder, coordinate in _table("jars.txt")]


def _table(file: str) -> list[list[str]]:
    lines = (line.partition("#")[0].split() for line in (CONF / file).read_text().splitlines())
    return [line for line in lines if line]


# Java and its jars


def java_command() -> str:
    """The Java that Flink's scripts take: JAVA_HOME's, or the one on the PATH.

    Raises:
        StackError: there is none, or it is too old.
    """
    java = shutil.which("java", path=os.path.join(os.environ.get("JAVA_HOME") or "/none", "bin")) or shutil.which("java")
    hint = f"Java {JAVA} or newer is wanted (Debian: apt-get install openjdk-17-jdk-headless), on the PATH or as JAVA_HOME"
    if java is None:
        raise StackError(f"no Java here: {hint}")
    says = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', says)
    if version is None or int(version[1]) < JAVA:
        raise StackError(f"{java} is version {version[1] if version else 'unknown'}: {hint}")
    return java


def fetch_jars() -> None:
    """Fetch what flink-conf/jars.txt lists, with all that it needs, unless it is there."""
    if _fetched():
        return
    shutil.rmtree(JARS, ignore_errors=True)
    for folder in dict(jars()):
        _fetch(folder, [coordinate for each, coordinate in jars() if each == folder])
    (JARS / "jars.txt").write_text((CONF / "jars.txt").read_text())


def _fetched() -> bool:
    done = JARS / "jars.txt"
    return done.exists() and done.read_text() == (CONF / "jars.txt").read_text()


def _fetch(folder: str, coordinates: list[str]) -> None:
    """Let Maven fill a folder: it copies what a project of that name would need to run."""
    target = JARS / folder
    target.mkdir(parents=True)
    wanted = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *coordinate.split(":")
        )
        for coordinate in coordinates
    )
    (target / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>headrace</groupId>"
        f"<artifactId>{folder}</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{wanted}</dependencies></project>"
    )
    command = ["mvn", "-q", "-B", "-f", str(target / "pom.xml"), "dependency:copy-dependencies"]
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-10:])
        raise StackError(f"{', '.join(coordinates)}: Maven could not fetch them; is the network there?\n{last}")


# Small things


def _variable(field: str) -> str:
    return f"STACK_{field.upper()}"


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


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


def _stat(pid: int) -> tuple[str, int, int, int]:
    """(state, start time, process group, resident pages) of a process. Raises OSError when it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[19]), int(fields[2]), int(fields[21])


def _alive(process: Process) -> bool:
    try:
        state, started, *_ = _stat(process.pid)
    except OSError:
        return False
    return started == process.started and state not in "ZX"


def _until_ended(process: Process, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while _alive(process) and time.monotonic() < deadline:
        time.sleep(0.05)


def _signal(process: Process, number: signal.Signals) -> None:
    """Signal a process and its children, unless its pid has gone to another program."""
    try:
        if _stat(process.pid)[1] != process.started:
            return
    except OSError:
        pass  # it has ended, its children may not have; their group keeps its number
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _resident_mb(process: Process) -> int:
    pages = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            _, _, group, resident = _stat(int(folder.name))
        except OSError:
            continue
        pages += resident if group == process.pid else 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def _tail(log: Path, lines: int = 15) -> str:
    """Where a log is, and its last lines."""
    last = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return "\n".join([f"the end of {log}:", *(f"    {line}" for line in last)])


def main(argv: list[str]) -> None:
    """Run a command. What is wrong is printed, with exit code 2."""
    try:
        match argv:
            case ["up", *parts]:
                stack = Stack().up(parts or PARTS)
                print(f"stack: Kafka {stack.bootstrap_servers}, Flink {stack.rest}, page {stack.page}, logs {stack.logs}")
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
                print(__doc__.strip(), file=sys.stderr)
                raise SystemExit(2)
    except HeadraceError as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main(sys.argv[1:])
