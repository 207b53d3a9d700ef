"""The supervisor of a local stack: what has ended is started again, and what became of it is noted down.

    processes.json ─► every second: who has ended? ─► a pause: 1 s, 2 s … 30 s ─► start ─► supervised.json ─► status

With the JobManager its job is gone. The one that was submitted last is submitted again, from its newest checkpoint
where there is one; else with empty state, which the log says. A job that was cancelled stays so. On a cluster of your
own, Kubernetes or Flink's high availability does all of this.

    python scripts/supervisor.py [--SETTING VALUE ...]      a part of the stack, with which it starts and ends
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from scripts.processes import SUPERVISOR, Place, Processes, StackError, Supervision, alive, last_line
from scripts.stack import Job, Stack

EVERY_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
SETTLED_S = 60.0
"""A process that has lived so long begins again with the first pause."""
JOB, JOBMANAGER = "job", "jobmanager"
ENDED = ("FINISHED", "FAILED", "CANCELED")

logger = logging.getLogger("headrace.supervisor")


@dataclass
class Watch:
    """A process: when it was seen alive first, how long the next pause is, and when it is due to be started again."""

    since: float
    pause_s: float = FIRST_PAUSE_S
    due: float | None = None


class Supervisor:
    """Watches the processes of a stack; `turn` is to be called every second.

    Args:
        clock: the time, s, from any beginning.
    """

    def __init__(self, stack: Stack, clock: Callable[[], float] = time.monotonic) -> None:
        self._stack, self._clock = stack, clock
        self._processes = Processes(stack.run_dir)
        self._watched: dict[str, Watch] = {}
        self._noted = {name: Supervision() for name in stack.processes() if name != SUPERVISOR}
        self._processes.note(self._noted)
        self._job: Watch | None = None  # one that is gone
        self._unusable: set[Path] = set()  # checkpoints

    def turn(self) -> None:
        """Start what has ended and is due."""
        for name, process in self._stack.processes().items():
            if name == SUPERVISOR:
                continue
            watched = self._watched.setdefault(name, Watch(self._clock()))
            if alive(process):
                self._is_alive(name, watched)
            elif watched.due is None:
                self._has_ended(name, watched)
            elif self._clock() >= watched.due:
                self._start(name, watched)
        if self._job is not None and self._clock() >= self._job.due:
            self._submit_again(self._job)

    def _is_alive(self, name: str, watched: Watch) -> None:
        if watched.due is not None or name not in self._noted:  # somebody else has started it
            watched.due, watched.since = None, self._clock()
            self._note(name, running=True)
        elif self._clock() - watched.since >= SETTLED_S:
            watched.pause_s = FIRST_PAUSE_S

    def _has_ended(self, name: str, watched: Watch) -> None:
        line = last_line(self._stack.log(name))
        logger.warning("%s has ended, it is started again in %g s; its last line: %s", name, watched.pause_s, line)
        self._note(name, running=False, ended_at_ms=time.time_ns() // 1_000_000, last_line=line)
        self._wait(watched)

    def _wait(self, watched: Watch) -> None:
        watched.due, watched.pause_s = self._clock() + watched.pause_s, min(LONGEST_PAUSE_S, 2 * watched.pause_s)

    def _start(self, name: str, watched: Watch) -> None:
        self._processes.end_rest(name)
        try:
            self._stack.start(name)
        except (StackError, OSError) as error:
            logger.error("%s: %s", name, error)
            self._wait(watched)
            return
        watched.due, watched.since = None, self._clock()
        self._note(name, running=True, restarts=self._noted[name].restarts + 1)
        if name == JOBMANAGER:
            self._job = Watch(self._clock(), due=self._clock())

    def _note(self, name: str, **changes) -> None:
        self._noted[name] = msgspec.structs.replace(self._noted.get(name, Supervision()), **changes)
        self._processes.note(self._noted)

    def _submit_again(self, watched: Watch) -> None:
        """Submit the job that is gone with its JobManager, once every TaskManager has registered."""
        job = self._stack.submitted()
        if job is None or any(each["status"] not in ENDED for each in self._stack.ask("/jobs").get("jobs", ())):
            self._job = None
            return
        if len(self._stack.ask("/taskmanagers").get("taskmanagers", ())) < len(self._stack.taskmanagers):
            return
        checkpoint = self._checkpoint(job)
        began = f"from checkpoint {checkpoint.name}" if checkpoint else "with empty state: there is no checkpoint"
        logger.warning("the job %s is gone with its JobManager, it is submitted again %s", job.job_id, began)
        self._note(
            JOB,
            running=False,
            ended_at_ms=time.time_ns() // 1_000_000,
            last_line=f"gone with its JobManager; begun again {began}",
        )
        try:
            self._stack.submit(job.command, checkpoint)
        except (StackError, OSError) as error:
            logger.error("the job cannot be submitted: %s", error)
            self._unusable |= {checkpoint} if checkpoint else set()
            self._wait(watched)
            return
        self._job = None
        self._note(JOB, running=True, restarts=self._noted[JOB].restarts + 1)

    def _checkpoint(self, job: Job) -> Path | None:
        """The newest one that is whole."""
        whole = {file.parent for file in (self._stack.run_dir / "checkpoints" / job.job_id).glob("chk-*/_metadata")}
        return max(whole - self._unusable, key=lambda folder: int(folder.name.partition("-")[2]), default=None)


def main(argv: list[str]) -> None:
    """Watch until ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))  # between two turns: what was started is noted down
    supervisor = Supervisor(Stack(Place.from_environ(os.environ), argv))
    while not ended:
        supervisor.turn()
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main(sys.argv[1:])
