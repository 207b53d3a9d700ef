"""Data in: public sets, how their packages are fetched, the shape that they all give; and files of one's own."""

import gzip
from datetime import date
from datetime import time as clock
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from model.schema import LEAST_TIME_MS, Event
from scripts import data, options

RATINGS = pd.DataFrame(
    {
        "movieId": [7, 3, 7],
        "title": ["Dumbo", None, "Dumbo"],
        "year": pd.array([1941, None, 1941], dtype="Int32"),
        "genres": pd.Categorical(["Animation|Children", "(no genres listed)", "Animation|Children"]),
        "userId": [1, 1, 2],
        "rating": [2.5, 3.0, 4.0],
        "timestamp": [30, 20, 10],
    },
    index=[1, 2, 3],
)


def test_movielens_2016_has_the_shape_of_every_data_set(monkeypatch):
    """In time order, in milliseconds; a film without a title, a year or a genre is one all the same."""
    monkeypatch.setattr(data, "_r_object", lambda package, name: RATINGS)
    events, items = data.public("ml-latest-2016")

    assert [("2", "7", 10_000), ("1", "3", 20_000), ("1", "7", 30_000)] == list(
        events[["user_id", "item_id", "event_time_ms"]].itertuples(index=False, name=None)
    )
    assert [["7", "Dumbo (1941)", ["Animation", "Children"], ""], ["3", "", [], ""]] == items.values.tolist()


def test_inst_eval_comes_semester_by_semester_and_student_by_student(monkeypatch):
    """`lectage` is how many semesters ago a lecture was rated; a student's ratings of one semester come together."""
    columns = {
        "s": [1, 2, 1, 2, 1, 2],
        "d": [7, 7, 8, 8, 9, 9],
        "dept": [4, 4, 5, 5, 4, 4],
        "y": [5, 1, 2, 3, 4, 5],
        "lectage": [1, 1, 6, 6, 1, 1],
    }
    monkeypatch.setattr(
        data, "_r_object", lambda package, name: pd.DataFrame(columns).astype({"lectage": "category", "s": "category"})
    )
    events, items = data.public("inst-eval")

    assert 6 == events["event_time_ms"].nunique() and events["event_time_ms"].is_monotonic_increasing
    assert events["event_time_ms"].min() >= LEAST_TIME_MS, "the topic would take them for seconds"
    assert ["lecturer 8"] * 2 == events["item_id"].tolist()[:2]
    assert (
        events["user_id"].iloc[2] == events["user_id"].iloc[3] != events["user_id"].iloc[4] == events["user_id"].iloc[5]
    )
    assert 2.0 == events.set_index(["user_id", "item_id"])["value"]["student 1", "lecturer 8"]
    assert ["lecturer 7", ["department 4"]] in items[["title", "categories"]].values.tolist()


def test_where_apt_has_no_lists_it_is_given_lists_of_our_own(monkeypatch, tmp_path):
    """The second download reads what `apt-get update` wrote below .headrace, so nobody has to be root."""
    asked = []

    def run(command, what, folder=None):
        asked.append(command)
        if len(asked) == 1:
            raise data.DataError("no lists")

    monkeypatch.setattr(data, "_run", run)
    monkeypatch.setattr(data, "DATA", tmp_path)
    data._download_debian("r-cran-dslabs", tmp_path)

    assert ["download", "update", "download"] == [
        next(word for word in command if word in ("download", "update")) for command in asked
    ]
    assert all(f"Dir::State={tmp_path}/apt" in command for command in asked[1:])


def test_where_there_is_no_apt_the_message_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(data, "DATA", tmp_path)
    with pytest.raises(
        data.DataError, match="r-cran-dslabs: cannot be fetched: there is no apt-get here; Debian or Ubuntu is needed"
    ):
        data.public("ml-latest-2016")
    assert not (tmp_path / "r-cran-dslabs").exists()


# Files of one's own

T = 1_700_000_000_000
ITEMS = "item_id,title\n1,Lamp\n2,Desk\n"


def read(tmp_path, events: str, items: str = ITEMS):
    """Read two CSV files with these texts."""
    (tmp_path / "events.csv").write_text(events)
    (tmp_path / "items.csv").write_text(items)
    return data.read(tmp_path / "events.csv", tmp_path / "items.csv")


def write_parquet(folder, events: dict, items: dict | None = None):
    items = items or {"item_id": ["1", "2"], "title": ["Lamp", "Desk"]}
    pd.DataFrame(events).to_parquet(folder / "events.parquet")
    pd.DataFrame(items).to_parquet(folder / "items.parquet")
    return folder / "events.parquet", folder / "items.parquet"


EVERYTHING = """event_id,user_id,item_id,action,event_time_ms,value,query,rec_id,page
a1,u1,1,view,1700000000000,,,r9,home
a2,u1,,search,1700000001000,,"desk, oak",,search
,u1,2,purchase,1700000002000,2,,,cart
"""


def test_every_field_of_an_event_is_read(tmp_path, capsys):
    """A search has a query and no item; an event without an id gets one; a column that is none of ours is named."""
    events, _ = read(tmp_path, EVERYTHING)
    valid, refused = data.check_events(events, "run-")

    assert [
        Event("a1", "u1", "view", T, "1", rec_id="r9"),
        Event("a2", "u1", "search", T + 1_000, query="desk, oak"),
        Event("run-2", "u1", "purchase", T + 2_000, "2", 2.0),
    ] == valid
    assert [] == refused
    assert f"{tmp_path}/events.csv: columns passed over: page\n" == capsys.readouterr().err


def test_a_column_of_items_that_nothing_reads_is_named(tmp_path, capsys):
    """Also one without a name, as pandas writes its index."""
    read(tmp_path, f"user_id,item_id,event_time_ms\nu,1,{T}\n", ",item_id,title,price,image\n0,1,Lamp,5,x.png\n")

    assert f"{tmp_path}/items.csv: columns passed over: (unnamed), price, image\n" == capsys.readouterr().err


def test_the_rules_are_those_of_the_topic(tmp_path):
    """What decode_event refuses is left out, with the number of its row; time order does not change the numbers."""
    rows = [
        f"u,1,view,{T + 9},",
        f"u,,view,{T + 8},",
        f"u,,search,{T + 7},",
        f",1,view,{T + 6},",
        f"u,1,hop,{T + 5},",
        f"u\0,1,view,{T + 4},",
        "u,1,view,9999999999999,",
    ]
    events, _ = read(tmp_path, "user_id,item_id,action,event_time_ms,query\n" + "\n".join(rows))
    valid, refused = data.check_events(events)

    assert ["e5"] == [event.event_id for event in valid]
    expected = {"row 6", "row 5", "row 4", "row 3", "row 2", "row 7"}
    told = dict(reason.split(": ", 1) for reason in refused)
    assert expected == set(told)
    assert ("a view needs an item_id", "a search needs a query") == (told["row 2"], told["row 3"])
    assert "Object missing required field `user_id`" == told["row 4"]
    assert "in the future" in told["row 7"]


def test_a_stream_of_which_no_row_is_an_event_is_refused(capsys):
    """Otherwise the count and the first one are told."""
    with pytest.raises(data.DataError, match="shop: no row is an event; the first: row 1: why"):
        data.tell_refused("shop", [], ["row 1: why", "row 2: why"])
    data.tell_refused("shop", [Event("e", "u", "view", T, "1")], ["row 3: why"])

    assert "headrace: shop: rows that are no events are left out: 1; the first: row 3: why\n" == capsys.readouterr().err


def test_text_is_text_and_only_an_empty_cell_is_empty(tmp_path):
    """A user called NA, an item called null, a film called None."""
    events, items = read(
        tmp_path,
        f"user_id,item_id,event_time_ms\nNA,null,{T}\nnan,null,{T}\nNone,NULL,{T}\n",
        'item_id,title,text\nnull,None,NA\nNULL,nan,""\nN/A,,#N/A\n',
    )

    assert [("NA", "null"), ("nan", "null"), ("None", "NULL")] == list(
        events[["user_id", "item_id"]].itertuples(index=False, name=None)
    )
    assert ["None", "nan", ""] == items["title"].tolist()
    assert ["NA", "", "#N/A"] == items["text"].tolist()


SHIFTED = {
    "one comma too many in the first row": (
        f"u,1,{T},view,\nu,1,{T},view\n",
        r"row 1 \(line 2\) has 5 cells, the header 4",
    ),
    "one comma too many in every row": (f"u,1,{T},view,\n" * 3, r"row 1 \(line 2\) has 5 cells, the header 4"),
    "an unquoted comma": (f"u,1,{T},view\nSmith, J.,1,{T},view\n", r"row 2 \(line 3\) has 5 cells.*quoted"),
    "a comma too few": (f"u,1,{T},view\n\nu,{T},view\n", r"row 2 \(line 4\) has 3 cells"),
    "a quote that is never closed": (f'u,1,{T},view\n"u,1,{T},view\nu,1,{T},view\n', r"cannot be read as CSV: row 2"),
    "something after a quote": (f'"u"x,1,{T},view\n', r"cannot be read as CSV: row 1"),
}


@pytest.mark.parametrize("rows, message", SHIFTED.values(), ids=SHIFTED)
def test_a_row_whose_columns_would_shift_is_refused_and_named(tmp_path, rows, message):
    with pytest.raises(data.DataError, match=f"events.csv: {message}"):
        read(tmp_path, f"user_id,item_id,event_time_ms,action\n{rows}")


def test_a_title_may_hold_commas_quotes_and_lines(tmp_path):
    _, items = read(
        tmp_path, f"user_id,item_id,event_time_ms\nu,1,{T}\n", 'item_id,title\n1,"Lamp, 5""\nwhite"\n2,5" disk\n'
    )

    assert ['Lamp, 5"\nwhite', '5" disk'] == items["title"].tolist()


def test_a_csv_may_be_compressed_and_begin_with_a_byte_order_mark(tmp_path):
    with gzip.open(tmp_path / "events.csv.gz", "wt", encoding="utf-8-sig") as file:
        file.write(f"user_id,item_id,event_time_ms\r\nu,1,{T}\r\n")
    (tmp_path / "[items] *.csv").write_text(ITEMS)
    events, _ = data.read(tmp_path / "events.csv.gz", tmp_path / "[items] *.csv")

    assert [("u", "1", T)] == list(events[["user_id", "item_id", "event_time_ms"]].itertuples(index=False, name=None))


def test_a_column_that_comes_twice_is_refused(tmp_path):
    with pytest.raises(data.DataError, match=r"events.csv: column user_id comes more than once"):
        read(tmp_path, f"user_id,user_id,item_id,event_time_ms\nu,v,1,{T}\n")


def test_a_file_with_other_separators_is_told_what_is_wanted(tmp_path):
    with pytest.raises(
        data.DataError, match=r"no column user_id, item_id, event_time_ms; .* in a CSV, commas separate the columns"
    ):
        read(tmp_path, f"user_id;item_id;event_time_ms\nu;1;{T}\n")


def test_whole_numbers_are_one_id_whatever_type_a_file_gives_them(tmp_path):
    """pandas makes an integer column a float as soon as one cell is empty, as a search without an item is."""
    files = write_parquet(
        tmp_path,
        {
            "user_id": [7, 8, 9],
            "item_id": [1.0, None, 2.0],
            "action": pd.Categorical(["view", "search", "like"]),
            "query": [None, "desk", None],
            "event_time_ms": [T, T + 1, T + 2],
            "value": pd.array([1, None, 3], dtype="Int64"),
        },
        {"item_id": pd.array([1, 2], dtype="int16"), "title": ["Lamp", None], "categories": [4, 5]},
    )
    events, items = data.read(*files)
    valid, refused = data.check_events(events)

    assert [] == refused
    assert [("7", "1", "view", 1.0), ("8", None, "search", None), ("9", "2", "like", 3.0)] == [
        (event.user_id, event.item_id, event.action, event.value) for event in valid
    ]
    assert [["1", "Lamp", "", ["4"]], ["2", "", "", ["5"]]] == items[
        ["item_id", "title", "text", "categories"]
    ].values.tolist()


@pytest.mark.parametrize(
    "cells, expected",
    [
        (["a|b", None], [["a", "b"], []]),
        ([["a", "b|c"], []], [["a", "b|c"], []]),
        ([[1, 2], [3]], [["1", "2"], ["3"]]),
        ([3.0, None], [["3"], []]),
        (pd.Categorical(["a|b", "c"]), [["a", "b"], ["c"]]),
    ],
)
def test_categories_are_lists_of_texts(tmp_path, cells, expected):
    """A bar separates the categories of a text; a list is one already; one number is one category."""
    events = {"user_id": ["u"], "item_id": ["1"], "event_time_ms": [T]}
    _, items = data.read(
        *write_parquet(tmp_path, events, {"item_id": ["1", "2"], "title": ["", ""], "categories": cells})
    )

    assert expected == items["categories"].tolist()


COLUMNS = {
    "text": ["1", "2"],
    "string": pd.array(["1", "2"], dtype="string"),
    "arrow string": pd.array(["1", "2"], dtype="string[pyarrow]"),
    "category": pd.Categorical(["1", "2"]),
    "category of integers": pd.Categorical([1, 2]),
    "int8": np.array([1, 2], "int8"),
    "uint64": np.array([1, 2], "uint64"),
    "Int64 with an empty cell": pd.array([1, None], dtype="Int64"),
    "float32": np.array([1, 2], "float32"),
    "float64 with an empty cell": [1.0, None],
    "fractions": [1.5, 2.5],
    "too large a float": [1e17, 2e17],
    "infinite": [float("inf"), 1.0],
    "bool": [True, False],
    "boolean": pd.array([True, None], dtype="boolean"),
    "Decimal": [Decimal(1), Decimal(2)],
    "Decimal with a fraction": [Decimal("1.5"), Decimal("2.5")],
    "dates": pd.to_datetime([T, T], unit="ms"),
    "dates of a zone": pd.to_datetime([T, T], unit="ms", utc=True),
    "days": [date(2024, 1, 1), date(2024, 1, 2)],
    "times of day": [clock(1, 2), clock(3, 4)],
    "durations": pd.to_timedelta([1, 2], unit="s"),
    "periods": pd.period_range("2024-01", periods=2, freq="M"),
    "intervals": pd.interval_range(0, 2),
    "bytes": [b"1", b"2"],
    "lists": [["1"], ["2"]],
    "lists of lists": [[["1"]], [["2"]]],
    "arrays": [np.array([1, 2]), np.array([3])],
    "dictionaries": [{"a": 1}, {"a": 2}],
    "nothing": [None, None],
}


@pytest.mark.parametrize("column", [*data.EVENT_COLUMNS, "title", "text", "categories"])
@pytest.mark.parametrize("kind", COLUMNS)
def test_any_column_that_pandas_writes_is_read_or_refused_in_a_sentence(tmp_path, kind, column):
    """Whatever a column holds, what comes is two tables or a DataError that names the file."""
    events = {"user_id": ["u", "v"], "item_id": ["1", "2"], "event_time_ms": [T, T + 1]}
    items = {"item_id": ["1", "2"], "title": ["Lamp", "Desk"]}
    (items if column in ("title", "text", "categories") else events)[column] = COLUMNS[kind]
    files = write_parquet(tmp_path, events, items)
    try:
        read_events, read_items = data.read(*files)
    except data.DataError as error:
        assert str(error).startswith(f"{tmp_path}/") and column in str(error)
        return
    valid, refused = data.check_events(read_events)

    assert 2 == len(valid) + len(refused) == len(read_items)


@pytest.mark.parametrize(
    "kind", ["int8", "uint64", "float32", "category of integers", "Decimal", "Int64 with an empty cell"]
)
def test_an_item_id_of_any_kind_of_number_meets_its_text(tmp_path, kind):
    events, _ = data.read(
        *write_parquet(tmp_path, {"user_id": ["u", "v"], "item_id": COLUMNS[kind], "event_time_ms": [T, T + 1]})
    )

    assert "1" == events["item_id"].iloc[0]


def test_a_stream_and_a_catalogue_that_share_no_item_are_refused(tmp_path):
    """pandas writes an integer column with an empty cell as 1.0 into a CSV, where text is text."""
    message = "events.csv: no item of any event is in .*items.csv: the events have '1.0', the items '1'"
    with pytest.raises(data.DataError, match=message):
        read(tmp_path, f"user_id,item_id,event_time_ms\nu,1.0,{T}\n")


def test_searches_alone_need_no_item(tmp_path):
    events, _ = read(tmp_path, f"user_id,item_id,action,query,event_time_ms\nu,,search,lamp,{T}\n")

    assert ([None], ["lamp"]) == (events["item_id"].tolist(), events["query"].tolist())


TIMES = {
    "seconds": (T // 1_000, "the middle one is 1700000000, in the year 1970 .* multiply them by 1,000"),
    "days": (19_675, "multiply them by 1,000 .days by 86,400,000."),
    "microseconds": (T * 1_000, "is no time in milliseconds since 1970; divide microseconds by 1,000"),
    "nanoseconds": (
        T * 1_000_000,
        "is no time in milliseconds since 1970; divide microseconds by 1,000 and nanoseconds by 1,000,000",
    ),
}


@pytest.mark.parametrize("time, message", TIMES.values(), ids=TIMES)
def test_times_in_another_unit_are_refused_with_the_factor(tmp_path, time, message):
    """One early event does not make a stream one in seconds."""
    with pytest.raises(data.DataError, match=message):
        read(tmp_path, f"user_id,item_id,event_time_ms\nu,1,{time}\nu,2,{time}\nu,2,{time}\n")
    events, _ = read(tmp_path, f"user_id,item_id,event_time_ms\nu,1,5\nu,2,{T}\nu,2,{T}\n")

    assert [5, T, T] == events["event_time_ms"].tolist()


def test_an_id_with_a_nul_byte_is_refused(tmp_path):
    with pytest.raises(data.DataError, match=r"items.csv: row 2: Expected `str` matching regex .* `\$.item_id`"):
        read(tmp_path, f"user_id,item_id,event_time_ms\nu,1,{T}\n", "item_id,title\n1,Lamp\n1\x002,Desk\n")


def test_the_names_of_the_public_data_sets_are_those_of_the_options():
    """They are written twice, so that `--help` need not import pandas."""
    assert options.PUBLIC == tuple(data.PUBLIC)


def test_a_file_that_no_codec_and_no_protocol_can_open_is_refused_in_a_sentence(tmp_path):
    """Each has errors of its own kind, and some need a package that is not there."""
    (tmp_path / "items.csv").write_text(ITEMS)
    rubbish = [tmp_path / f"events.csv.{ending}" for ending in ("xz", "zip", "bz2", "gz", "zst", "lzma")]
    for file in rubbish:
        file.write_bytes(b"rubbish" * 20)
    for file in (
        *rubbish,
        "s3://127.0.0.1:9/events.csv",
        "http://127.0.0.1:9/events.csv",
        "foo://events.csv",
        tmp_path,
    ):
        with pytest.raises(data.DataError, match=r"cannot be read as CSV or Parquet: .+\Z"):
            data.read(file, tmp_path / "items.csv")


ENDLESS = {
    "names of columns": ",".join(f"column{number}" for number in range(9_000)) + "\n",
    "one name": "x" * 90_000 + ",b\n1,2\n",
    "a name twice": f"user_id,item_id,event_time_ms,context.{'x' * 10**6},context.{'x' * 10**6}\nu,1,{T},1,2\n",
    "a name 10,000 times": f"user_id,item_id,event_time_ms{',user_id' * 10_000}\nu,1,{T}{',1' * 10_000}\n",
    "zeros": "\0" * 90_000,
    "rows of zeros": "user_id,item_id,event_time_ms\n" + "\0\n" * 9_000,
    "a time": f"user_id,item_id,event_time_ms\nu,1,{'z' * 90_000}\n",
    "an id": f"user_id,item_id,event_time_ms\nu,{'z' * 90_000},{T}\n",
}


@pytest.mark.parametrize("events", ENDLESS.values(), ids=ENDLESS)
def test_a_message_is_short_whatever_the_file_holds(tmp_path, events):
    """The beginning of what is wrong says as much."""
    with pytest.raises(data.DataError) as refused:
        read(tmp_path, events)

    assert len(str(refused.value)) < 1_000


def test_what_is_wrong_with_a_row_is_said_shortly(tmp_path):
    """An action of any length is cited by its beginning."""
    events, _ = read(tmp_path, f"user_id,item_id,action,event_time_ms\nu,1,{'z' * 90_000},{T}\n")

    assert len(data.check_events(events)[1][0]) < 400


def test_names_of_columns_are_printed_as_text(tmp_path):
    """A terminal takes no orders from a file."""
    with pytest.raises(data.DataError, match=r"there are 'a\\x1b\[31m', 'b\\nc'\Z"):
        read(tmp_path, 'a\x1b[31m,"b\nc"\n1,2\n')


def test_ids_in_half_precision_are_whole_numbers_like_others(tmp_path):
    """Without a warning of numpy's: 2^53 is more than half precision holds."""
    import pyarrow as pa
    from pyarrow import parquet

    table = {"user_id": pa.array([np.float16(7)]), "item_id": ["1"], "event_time_ms": [T]}
    parquet.write_table(pa.table(table), tmp_path / "events.parquet")
    (tmp_path / "items.csv").write_text(ITEMS)

    assert "7" == data.read(tmp_path / "events.parquet", tmp_path / "items.csv")[0]["user_id"].iloc[0]


def test_text_of_a_parquet_file_that_is_no_utf8_is_refused(tmp_path):
    """Arrow reads it without looking."""
    import pyarrow as pa
    from pyarrow import parquet

    offsets, text = pa.py_buffer(np.array([0, 1], "<i4").tobytes()), pa.py_buffer(b"\xff")
    broken = pa.Array.from_buffers(pa.string(), 1, [None, offsets, text])
    parquet.write_table(
        pa.table({"user_id": broken, "item_id": ["1"], "event_time_ms": [T]}), tmp_path / "events.parquet"
    )
    (tmp_path / "items.csv").write_text(ITEMS)
    with pytest.raises(data.DataError, match=r"events.parquet: column user_id cannot be read: .*utf-8"):
        data.read(tmp_path / "events.parquet", tmp_path / "items.csv")


WORDS = {
    "not a number": (["--liked-from", "nan"], "--liked-from: nan: a number is wanted"),
    "endless": (["--liked-from", "inf"], "--liked-from: inf: a number is wanted"),
    "digits of another script": (["--limit", "٣"], "--limit: ٣: a number from 1 on is wanted"),
    "thousands of digits": (["--limit", "9" * 5_000], "a number from 1 on is wanted"),
    "a name of 300 characters": (["--json", "n" * 300], "cannot be written: File name too long"),
    "where no file can be made": (["--json", "/proc/figures.json"], "/proc/figures.json: cannot be written"),
    "no name of a data set": (["--data", ""], "a name is wanted, not an empty text"),
    "no names of files": (["--events", "", "--items", ""], "a name is wanted, not an empty text"),
}


@pytest.mark.parametrize("words, message", WORDS.values(), ids=WORDS)
def test_an_option_that_cannot_be_meant_ends_the_program_before_anything_starts(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        options.evaluate(words, "")

    error = capsys.readouterr().err
    assert 2 == ended.value.code and message in error and len(error) < 1_500


def test_a_file_that_is_only_tried_is_left_as_it_was(tmp_path):
    """What is there keeps its bytes, what is not is not made."""
    (tmp_path / "old.json").write_text("kept")

    assert tmp_path / "old.json" == options.new_file(f"{tmp_path}/old.json")
    assert tmp_path / "new.json" == options.new_file(f"{tmp_path}/new.json")
    assert [("old.json", "kept")] == [(file.name, file.read_text()) for file in tmp_path.iterdir()]


BEHAVIOUR = {
    "a shop that is too small": (["--events", "300"], "300: a number from 12000 on is wanted"),
    "a shop below 0": (["--shop", "-1"], "-1: a number from 0 on is wanted"),
    "a folder": (["--json", "/"], "/: cannot be written; a file is wanted"),
    "no model": (["--encoder", "/nowhere"], "--encoder /nowhere: no such folder here"),
    "no such GPU": (["--device", "cuda:99"], "--device cuda:99: torch finds"),
}


@pytest.mark.parametrize("words, message", BEHAVIOUR.values(), ids=BEHAVIOUR)
def test_a_wrong_word_ends_behaviour_with_a_sentence(words, message, capsys):
    """Not with a traceback, after a minute or before."""
    from scripts import behaviour

    with pytest.raises(SystemExit) as ended:
        behaviour.main(words)

    assert 2 == ended.value.code
    assert message in capsys.readouterr().err
