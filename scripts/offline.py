"""SASRec and GRU4Rec, as RecBole has them, on the split that `evaluate --protocol leave-one-out` makes.

RecBole 1.2.1 needs numpy 1, which the rest cannot have, so it lives in an environment of its own below .headrace and
runs as a process of its own (scripts/recbole_run.py), on the CPU. It ranks the items that somebody chose: others it
does not know.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from model.catalogue import Catalogue
from model.evaluate import Outcome, Result
from model.schema import POSITIVE, Event, item_key
from scripts.data import DATA, RECBOLE, DataError

MODELS = {"sasrec": "SASRec", "gru4rec": "GRU4Rec"}
_NEEDS = (RECBOLE, "numpy<2", "pandas<2.3", "setuptools<81")
_SCRIPT = Path(__file__).with_name("recbole_run.py")
_HOME = DATA.parent / "recbole"


def add_recbole(
    outcome: Outcome,
    events: Sequence[Event],
    catalogue: Catalogue,
    seed: int,
    epochs: int,
    progress: Callable[[int, int], None],
) -> None:
    """Train RecBole's models and put their lists beside the others'.

    Raises:
        DataError: the environment cannot be made, or a model cannot be trained.
    """
    python = _environment()
    with tempfile.TemporaryDirectory() as folder:
        _write_events(events, catalogue, Path(folder))
        for number, (name, model) in enumerate(MODELS.items()):
            for line in _run(python, folder, model, epochs, seed):
                done = epochs if "lists" in line else line["epoch"]
                progress(number * epochs + done, len(MODELS) * epochs)
            outcome.results[name] = _result(line, outcome, catalogue, events)


def _environment() -> Path:
    """The Python that has RecBole; made the first time."""
    python = _HOME / "bin" / "python"
    if not (_HOME / "ready").exists():
        print(f"making an environment for {RECBOLE} in {_HOME} (torch is the largest part)", file=sys.stderr)
        uv = _uv()
        make = [uv, "venv", "-q", "--clear", "--python", sys.executable, _HOME]
        fill = [uv, "pip", "install", "-q", "--python", python]
        for command in (make, [*fill, *_NEEDS]):
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
            if done.returncode:
                raise DataError(f"{RECBOLE}: no environment can be made in {_HOME}: {done.stderr.strip()[-400:]}")
        (_HOME / "ready").touch()
    return python


def _uv() -> str:
    """uv as `make setup` found or installed it."""
    ours = DATA.parent / "uv" / "bin" / "uv"
    found = shutil.which("uv") or (str(ours) if ours.exists() else None)
    if found is None:
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--target", str(ours.parents[1]), "uv"], capture_output=True
        )
        found = str(ours)
    return found


def _write_events(events: Sequence[Event], catalogue: Catalogue, folder: Path) -> None:
    """RecBole's file: what every user did, numbered in order, so that it splits as we do; items by their row."""
    rows = catalogue.rows(item_key(event.item_id or "") for event in events).tolist()
    known = [(event.user_id, row) for event, row in zip(events, rows) if event.action in POSITIVE and row >= 0]
    table = pd.DataFrame(known, columns=["user_id:token", "item_id:token"])
    table["user_id:token"] = table["user_id:token"].map(_numbers(events))
    table["timestamp:float"] = table.groupby("user_id:token").cumcount().astype(float)
    (folder / "events").mkdir()
    table.to_csv(folder / "events" / "events.inter", sep="\t", index=False)


def _run(python: Path, folder: str, model: str, epochs: int, seed: int) -> Iterator[dict]:
    """The lines of JSON that the process prints, as they come; the last one holds the lists."""
    command = [str(python), str(_SCRIPT), folder, model, str(epochs), str(seed)]
    last: dict = {}
    with open(Path(folder) / "errors", "w+") as errors:
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            for line in process.stdout or ():
                if line.startswith("{"):
                    last = json.loads(line)
                    yield last
        if process.returncode or "lists" not in last:
            errors.seek(0)
            raise DataError(f"{model} of {RECBOLE} stopped with {process.returncode}: {errors.read().strip()[-600:]}")


def _numbers(events: Sequence[Event]) -> dict[str, int]:
    return {user_id: number for number, user_id in enumerate(dict.fromkeys(event.user_id for event in events))}


def _result(line: dict, outcome: Outcome, catalogue: Catalogue, events: Sequence[Event]) -> Result:
    """Its lists on the same targets as the others'."""
    result = Result(seconds=line["lists_s"], learning_s=line["learning_s"], learnt=len(events))
    numbers = _numbers(events)
    for event in outcome.held:
        rows = np.array([int(row) for row in line["lists"][str(numbers[event.user_id])]], np.int64)
        result.add(catalogue.row(item_key(event.item_id or "")), rows)
    return result
