"""Where compiled loops are kept, and when they are compiled again: a small package in the place of model/."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model import jit

INNER = """from model.constants import FACTOR
from model.jit import njit

@njit(cache=True)
def scaled(x):
    return FACTOR * x
"""
OUTER = """from model.inner import scaled
from model.jit import njit

@njit(cache=True)
def one_more(x):
    return scaled(x) + 1
"""
RUN = """
import json, sys
from pathlib import Path
import model.jit

read_only = Path(model.jit.__file__).parent / "__pycache__"
writable = model.jit.is_writable
if "read-only" in sys.argv:
    model.jit.is_writable = lambda folder: folder != read_only and writable(folder)
from model.outer import one_more

answer = one_more(float(sys.argv[1]) if "." in sys.argv[1] else int(sys.argv[1]))
found = sum(one_more.stats.cache_hits.values()), sum(one_more.stats.cache_misses.values())
print(json.dumps([answer, *found, one_more.stats.cache_path]))
"""
FOUND, COMPILED = (1, 0), (0, 1)


class Package:
    """A package `model` of its own, with a loop that calls one of another file, which names a constant of a third."""

    def __init__(self, folder: Path) -> None:
        self.root, self.folder = folder, folder / "model"
        self.folder.mkdir()
        shutil.copy(jit.__file__, self.folder)
        for name, text in (("__init__", ""), ("constants", "FACTOR = 2\n"), ("inner", INNER), ("outer", OUTER)):
            self.write(name, text)
        self.write("other", "ANYTHING = 1\n")

    def write(self, name: str, text: str) -> None:
        """With one time for all: what was edited in the second in which it was compiled has it too."""
        file = self.folder / f"{name}.py"
        file.write_text(text)
        os.utime(file, (1_700_000_000, 1_700_000_000))

    def run(self, *words: str, **environment: str) -> tuple[float, tuple[int, int], Path]:
        """Call the loop in a fresh process: what it says, whether it was found or compiled, where it is kept."""
        done = subprocess.run(
            [sys.executable, "-B", "-c", RUN, *words], cwd=self.root, text=True, capture_output=True, check=True,
            env=os.environ | {"PYTHONPATH": str(self.root)} | environment,
        )  # fmt: skip
        answer, hits, misses, kept = json.loads(done.stdout)
        return answer, (hits, misses), Path(kept)


@pytest.fixture
def package(tmp_path) -> Package:
    return Package(tmp_path)


def test_what_was_compiled_is_found_again_whatever_the_time_of_its_file(package):
    """A clone or an image has the same text with other times."""
    beside = package.folder / "__pycache__"
    first = package.run("5")
    package.write("other", "ANYTHING = 2\n")
    for file in package.folder.glob("*.py"):
        os.utime(file)

    assert (11, COMPILED, beside) == first
    assert (11, FOUND, beside) == package.run("5")


@pytest.mark.parametrize(
    "name, text",
    [("inner", INNER.replace("* x", "* x * 10")), ("constants", "FACTOR = 20\n")],
    ids=["callee", "constant"],
)
def test_what_an_edited_file_has_part_in_is_compiled_again(package, name, text):
    """A callee, or a constant that the callee names: both were compiled into the caller, which did not change."""
    before = package.run("5")
    package.write(name, text)

    assert (11, COMPILED) == before[:2]
    assert (101, COMPILED) == package.run("5")[:2]


def test_where_the_code_can_only_be_read_what_was_compiled_there_is_found(package, tmp_path):
    """An image that another user runs: nothing is compiled again but what is new, and that is kept."""
    package.run("5")
    beside = sorted(file.name for file in (package.folder / "__pycache__").glob("*.nb?"))
    home = {"XDG_CACHE_HOME": str(tmp_path / "home")}
    answer, found, kept = package.run("5", "read-only", **home)

    assert (11, FOUND) == (answer, found)
    assert tmp_path / "home" / "headrace" == kept.parent
    assert [(12.0, COMPILED, kept), (12.0, FOUND, kept)] == [package.run("5.5", "read-only", **home) for _ in range(2)]
    assert beside == sorted(file.name for file in (package.folder / "__pycache__").glob("*.nb?"))


def test_a_folder_that_is_given_comes_first(package, tmp_path):
    """NUMBA_CACHE_DIR, as numba has it."""
    given = {"NUMBA_CACHE_DIR": str(tmp_path / "given")}

    assert tmp_path / "given" / "headrace" == package.run("5", **given)[2].parent
    assert FOUND == package.run("5", **given)[1]
    assert not list(package.folder.rglob("*.nb?"))


# Where nothing else can be written


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder for temporary files, the only one that can be written."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    writable = jit.is_writable
    monkeypatch.setattr(jit, "is_writable", lambda wanted: folder in wanted.parents and writable(wanted))
    monkeypatch.setattr(jit.tempfile, "tempdir", str(folder))
    monkeypatch.setattr(jit, "_temporary", jit._temporary.__wrapped__)
    return folder


def test_at_last_a_temporary_folder_of_the_users_own_is_taken(temporary):
    """The same one at each start, and nobody else may write there: what it holds is run."""
    file = Path(jit.__file__).parent / "rows.py"
    kept = jit.folder_of(file, jit.stamp(file))

    assert temporary / f"headrace-{os.getuid()}" / "headrace" == kept.parent
    assert 0o700 == (temporary / f"headrace-{os.getuid()}").stat().st_mode & 0o777
    assert kept == jit.folder_of(file, jit.stamp(file))


@pytest.mark.parametrize("trap", ["open", "link", "file"])
def test_a_temporary_folder_in_which_others_may_write_is_not_trusted(temporary, trap):
    """Somebody was there first: a new folder is made."""
    own = temporary / f"headrace-{os.getuid()}"
    if trap == "open":
        own.mkdir()
        own.chmod(0o777)
    elif trap == "file":
        own.touch()
    else:
        (temporary / "theirs").mkdir()
        own.symlink_to(temporary / "theirs")
    file = Path(jit.__file__).parent / "rows.py"
    kept = jit.folder_of(file, jit.stamp(file))

    assert own not in kept.parents
    assert temporary / "theirs" not in kept.resolve().parents
    assert 0o700 == kept.parents[1].stat().st_mode & 0o777


def test_a_file_is_known_by_what_it_is_loaded_with():
    """Retrieval calls loops of the item statistics; what only a type checker imports takes no part."""
    model = Path(jit.__file__).parent

    assert model / "counting.py" in jit.imported(model / "scoring" / "retrieve.py")
    assert model / "score.py" not in jit.imported(model / "scoring" / "table.py")
