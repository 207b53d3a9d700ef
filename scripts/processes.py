"""The processes of a stack: where they live, how they are started, watched and ended.

A process leads a group of its own, so that what it starts ends with it. `processes.json` in the run folder names every
process that was started, so another program than the one that started them can end them, or start one again: the
supervisor, which notes in `supervised.json` what became of each.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Self

import msgspec
from msgspec import Meta, Struct

from model.schema import HeadraceError

ROOT = Path(__file__).resolve().parent.parent

SUPERVISOR = "supervisor"
"""The process that starts the others again; ended first."""
LINE_SHOWN = 120
"""Characters of a log's last line in the table of `status`."""


def _port(meaning: str):
    return Annotated[int, Meta(description=meaning, ge=1, le=65_535)]


def _count(meaning: str, ge: int = 0):
    return Annotated[int, Meta(description=meaning, ge=ge)]


def _text(meaning: str):
    return Annotated[str, Meta(description=meaning)]


class StackError(HeadraceError):
    """The local stack cannot start: what is in the way, what was wanted, what to do."""


class Place(Struct, frozen=True, kw_only=True):
    """Where a stack lives. Two stacks need two folders and no port in common."""

    run_dir: _text("folder of this stack: its data, its configuration, its logs") = str(ROOT / ".headrace" / "run")
    kafka_port: _port("Kafka's port, for producers and consumers") = 9092
    controller_port: _port("port of Kafka's controller") = 9093
    flink_port: _port("port of Flink's REST interface and web page") = 8081
    rpc_port: _port("port on which the JobManager is reached by the TaskManagers") = 6123
    page_port: _port("port of the live page and its REST interface") = 8080
    taskmanagers: _count("TaskManagers, one slot each", ge=1) = 1
    parallelism: _count("parallelism of the job; 0: the number of TaskManagers") = 0
    gpus: _count("GPUs that each TaskManager offers to the job") = 0
    bind: _text("address on which every server listens") = "127.0.0.1"
    kafka_host: _text("host name of the broker") = "127.0.0.1"
    flink_host: _text("host name of the JobManager") = "127.0.0.1"
    page_hosts: _text("names, comma separated, that the page answers to besides loopback's and `bind`") = ""

    @classmethod
    def rows(cls) -> list[tuple[str, str, str]]:
        """(variable, default, meaning) of every field, for tables."""
        fields = msgspec.structs.fields(cls)
        home = f"{ROOT}{os.sep}"
        return [
            (_variable(field.name), str(field.default).removeprefix(home), field.type.__metadata__[0].description)
            for field in fields
        ]

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

    def as_environ(self) -> dict[str, str]:
        """The variables from which `from_environ` makes this place."""
        values = msgspec.structs.asdict(self) | {"run_dir": Path(self.run_dir).resolve()}
        return {_variable(field): str(value) for field, value in values.items()}

    def check_port(self, field: str) -> None:
        """Raise StackError where another program listens on a port of this place, `kafka_port`."""
        port = getattr(self, field)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.bind, port))
            except OSError as error:
                raise StackError(
                    f"{_variable(field)}={port}: {error.strerror}; a free port is wanted: stop the program that "
                    f"listens there, or choose another, such as {_variable(field)}={port + 10_000}"
                ) from None


def _variable(field: str) -> str:
    return f"STACK_{field.upper()}"


class Process(Struct, frozen=True):
    """A process that the stack started. `started` tells it from a later one that got the same pid."""

    pid: int
    started: int


class Supervision(Struct, frozen=True):
    """How often a process was started again, and its last end: when, and the last line of its log."""

    running: bool = True
    restarts: int = 0
    ended_at_ms: int = 0
    last_line: str = ""

    def __str__(self) -> str:
        """
        >>> str(Supervision(restarts=1, ended_at_ms=1_000, last_line="out of luck")).partition(",")[0]
        'restarted once'
        """
        if not self.ended_at_ms:
            return ""
        times = {0: "not restarted yet", 1: "restarted once"}.get(self.restarts, f"restarted {self.restarts} times")
        ended = time.strftime("%H:%M:%S", time.localtime(self.ended_at_ms / 1_000))
        return f"{times}, last end {ended}: {self.last_line[:LINE_SHOWN]}"


class Processes:
    """Every process that was started in a run folder, and what each has said, in `logs/`."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.logs = run_dir, run_dir / "logs"
        self._file, self._supervised = run_dir / "processes.json", run_dir / "supervised.json"
        self._children: dict[str, subprocess.Popen] = {}  # of this Python: they have to be waited for

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def all(self) -> dict[str, Process]:
        """Every process that was started, alive or not."""
        return msgspec.json.decode(self._file.read_bytes(), type=dict[str, Process]) if self._file.exists() else {}

    def running(self) -> dict[str, Process]:
        return {name: process for name, process in self.all().items() if alive(process)}

    def ended(self) -> list[str]:
        """The processes that were started and are gone."""
        return [name for name, process in self.all().items() if not alive(process)]

    def are_up(self) -> bool:
        """Whether they run, all of them.

        Raises:
            StackError: some run, some have ended.
        """
        running, ended = self.running(), self.ended()
        if running and ended and SUPERVISOR not in running:
            raise StackError(
                f"{', '.join(ended)} has ended, the rest still runs in {self.run_dir}: see its log, then `make down`"
            )
        return bool(running)

    def write(self, processes: dict[str, Process]) -> None:
        _write(self._file, processes)

    def supervision(self) -> dict[str, Supervision]:
        """What the supervisor has noted of each process; nothing where there is none."""
        file = self._supervised
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Supervision]) if file.exists() else {}

    def note(self, supervision: dict[str, Supervision]) -> None:
        """Keep what became of each process."""
        _write(self._supervised, supervision)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else starts a process meanwhile."""
        with (self.run_dir / "processes.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # Starting and ending

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """Start a process in a group of its own, so that what it starts ends with it."""
        with self._alone(), self.log(name).open("a") as log:
            if name in self.running():
                raise StackError(f"{name} runs already in {self.run_dir}: kill it first")
            if name in self._children:
                self._children.pop(name).wait()
            child = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
            self._children[name] = child
            self.write(self.all() | {name: Process(child.pid, _stat(child.pid)[1])})

    def run(self, name: str, command: list[str], environment: dict[str, str]) -> str:
        """Run a command to its end and return what it printed, which goes to its log too."""
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        with self.log(name).open("a") as log:
            log.write(done.stdout)
        if done.returncode:
            raise StackError(f"{name}: exit code {done.returncode}; {tail(self.log(name))}")
        return done.stdout

    def kill(self, name: str) -> None:
        """End a process and its children at once (-9), as a lost machine would."""
        self._end(name, self.running()[name], patience_s=0)

    def end_rest(self, name: str) -> None:
        """End what a process that has ended left behind."""
        _signal(self.all()[name], signal.SIGKILL)

    def end(self) -> None:
        """End every process, the supervisor first, and delete all of the run folder but the logs."""
        if SUPERVISOR in self.running():
            _signal(self.all()[SUPERVISOR], signal.SIGTERM)
            self._end(SUPERVISOR, self.all()[SUPERVISOR], patience_s=10)
        started = self.all()
        for process in started.values():
            _signal(process, signal.SIGTERM)
        for name, process in started.items():
            self._end(name, process, patience_s=10)
        if self._file.exists():
            for path in self.run_dir.iterdir():
                if path != self.logs:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _end(self, name: str, process: Process, patience_s: float) -> None:
        _until_ended(process, patience_s)
        _signal(process, signal.SIGKILL)  # what it has started, too
        _until_ended(process, patience_s=10)
        if name in self._children:
            self._children.pop(name).wait()

    def empty(self) -> None:
        """Delete the run folder; one that is not a stack's is never deleted."""
        if self.run_dir.exists() and any(self.run_dir.iterdir()):
            if not self.logs.exists():
                raise StackError(
                    f"STACK_RUN_DIR={self.run_dir}: a folder with other things in it; an empty one is wanted"
                )
            shutil.rmtree(self.run_dir)

    # Watching

    def wait(self, what: str, ready: Callable[[], bool], names: list[str], patience_s: float = 180) -> None:
        """Wait for something that the named processes bring about; say which one ended, if one does."""
        deadline = time.monotonic() + patience_s
        while not ready():
            self.check(what, names)
            if time.monotonic() > deadline:
                where = "; ".join(tail(self.log(name)) for name in self.all() if name in names)
                raise StackError(f"{what}: no answer in {patience_s:g} s; the machine may be too busy; {where}")
            time.sleep(0.1)

    def check(self, what: str, names: list[str]) -> None:
        """Raise StackError, with the end of its log, where one of the named processes has ended."""
        for name in self.ended():
            if name in names:
                raise StackError(f"{name} has ended, {what} was wanted; {tail(self.log(name))}")

    def table(self) -> str:
        """A line a process: name, pid, resident memory in MB, its children's too, log, how often it was restarted."""
        running, supervision = self.running(), self.supervision()
        rows = [
            f"{name:<14} {process.pid:>8} {_resident_mb(process):>6} MB  {self.log(name)}"
            if name in running else f"{name:<14} {'ended':>8} {'':>9}  {self.log(name)}"
            for name, process in self.all().items()
        ]  # fmt: skip
        rows += [f"{name:<14} {'':>18}  {self.log(name)}" for name in supervision if name not in self.all()]
        about = [supervision.get(row.split()[0], Supervision()) for row in rows]
        return (
            "\n".join(f"{row}  {each}".rstrip() for row, each in zip(rows, about))
            or f"stack: nothing runs in {self.run_dir}"
        )

    def resident_mb(self) -> int:
        """Resident memory of all of them, MB; pages that two processes share count twice."""
        return sum(_resident_mb(process) for process in self.running().values())


def alive(process: Process) -> bool:
    try:
        state, started, *_ = _stat(process.pid)
    except OSError:
        return False
    return started == process.started and state not in "ZX"


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def last_line(log: Path) -> str:
    """The last line that says something."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4_096))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def tail(log: Path, lines: int = 15) -> str:
    """Where a log is, and its last lines."""
    last = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return "\n".join([f"the end of {log}:", *(f"    {line}" for line in last)])


def _write(file: Path, content: dict) -> None:
    """Write a file whole, or not at all: others may read it meanwhile."""
    part = file.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(content))
    part.replace(file)


def _stat(pid: int) -> tuple[str, int, int, int]:
    """(state, start time, process group, resident pages) of a process. Raises OSError when it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[19]), int(fields[2]), int(fields[21])


def _until_ended(process: Process, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while alive(process) and time.monotonic() < deadline:
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
