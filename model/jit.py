"""numba's compiler for all compiled loops, importable inside Flink's workers too.

What it has compiled is kept. numba itself would know it by the time and size of the function's own file; what the
function calls, and every constant that it names, was compiled into it too, from whatever file. Here it is known by the
text of its module and of all that this imports of the package, so nothing stale is ever run.

It is kept in NUMBA_CACHE_DIR where that is set, else beside the code. Where this can only be read, as in an image that
another user runs, what was compiled there is copied to the user's cache, or to a temporary folder, and kept on there.

A worker of Flink replaces the built-in `print` by a function of its own, which is not where its module says that it is.
numba looks it up there, and fails.
"""

import ast
import os
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import FunctionType

_where = sys.modules.get(print.__module__)
if _where is not None and not hasattr(_where, print.__name__):
    setattr(_where, print.__name__, print)

from numba import config, njit  # noqa: E402, for what is above
from numba.core.caching import CacheImpl, _CacheLocator  # noqa: E402

__all__ = ["njit"]

_PACKAGE = Path(__file__).resolve().parent


class SourceLocator(_CacheLocator):  # type: ignore[misc]  # numba says no types
    """Tells numba where it keeps what it compiles of this package, and what that was compiled from."""

    def __init__(self, function: FunctionType, file: Path) -> None:
        self._line, self._stamp = function.__code__.co_firstlineno, stamp(file)
        self._folder = folder_of(file, self._stamp)

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return self._stamp

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: FunctionType, py_file: str) -> "SourceLocator | None":
        file = Path(py_file).resolve()
        return cls(py_func, file) if _PACKAGE in file.parents else None


@cache
def stamp(file: Path) -> str:
    """A hash of a file of this package and of all others that it is loaded with."""
    waiting, found = [file], {file}
    while waiting:
        new = imported(waiting.pop()) - found
        found |= new
        waiting += new
    texts = sha256(str(file.relative_to(_PACKAGE)).encode())
    for one in sorted(found):
        texts.update(sha256(one.read_bytes()).digest())
    return texts.hexdigest()


@cache
def imported(file: Path) -> frozenset[Path]:
    """The files of this package that a file of it imports whenever it is loaded."""
    names = set()
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{one.name}" for one in node.names)}
    files = (_PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py") for name in names)
    return frozenset(one for one in files if _PACKAGE in one.parents and one.is_file())


def folder_of(file: Path, stamp_: str) -> Path:
    """Where what is compiled of a file is kept: the first folder that can be written."""
    beside, given, name = file.parent / "__pycache__", config.CACHE_DIR, Path("headrace") / stamp_[:16]
    if not given and is_writable(beside):
        return beside
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    homes = [home] if os.path.isabs(home) else []  # there may be none
    wanted = [Path(root).absolute() / name for root in ([given] if given else []) + homes]
    folder = next(filter(is_writable, wanted), None) or _temporary() / name
    folder.mkdir(parents=True, exist_ok=True)
    _copy(beside, folder, file.stem)
    return folder


@cache
def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


@cache
def _temporary() -> Path:
    """This user's folder among the temporary ones. What it holds is run, so it has to be the user's alone."""
    folder = Path(tempfile.gettempdir()) / f"headrace-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    about = folder.lstat()
    safe = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022
    return folder if safe else Path(tempfile.mkdtemp(prefix="headrace-"))


@cache
def _copy(beside: Path, folder: Path, module: str) -> None:
    """Copy what is kept of a module and is not there yet: the indices last, which name the others. What cannot be
    copied is compiled anew.
    """
    for file in (file for ending in ("nbc", "nbi") for file in beside.glob(f"{module}.*.{ending}")):
        if not (folder / file.name).exists():
            part = folder / f"{file.name}.{os.getpid()}.part"
            with suppress(OSError):
                shutil.copyfile(file, part)
                part.replace(folder / file.name)


if SourceLocator not in CacheImpl._locator_classes:
    CacheImpl._locator_classes.insert(0, SourceLocator)
