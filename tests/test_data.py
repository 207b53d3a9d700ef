"""Public data sets: how their packages are fetched, and the shape that they all give."""

import pandas as pd
import pytest

from scripts import data

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
    columns = {"s": [1, 2, 1, 2, 1, 2], "d": [7, 7, 8, 8, 9, 9], "dept": [4, 4, 5, 5, 4, 4], "y": [5, 1, 2, 3, 4, 5], "lectage": [1, 1, 6, 6, 1, 1]}
    monkeypatch.setattr(data, "_r_object", lambda package, name: pd.DataFrame(columns).astype({"lectage": "category", "s": "category"}))
    events, items = data.public("inst-eval")

    assert 6 == events["event_time_ms"].nunique() and events["event_time_ms"].is_monotonic_increasing
    assert ["lecturer 8"] * 2 == events["item_id"].tolist()[:2]
    assert events["user_id"].iloc[2] == events["user_id"].iloc[3] != events["user_id"].iloc[4] == events["user_id"].iloc[5]
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

    assert ["download", "update", "download"] == [next(word for word in command if word in ("download", "update")) for command in asked]
    assert all(f"Dir::State={tmp_path}/apt" in command for command in asked[1:])


def test_where_there_is_no_apt_the_message_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(data, "DATA", tmp_path)
    with pytest.raises(data.DataError, match="r-cran-dslabs: cannot be fetched: there is no apt-get here; Debian or Ubuntu is needed"):
        data.public("ml-latest-2016")
    assert not (tmp_path / "r-cran-dslabs").exists()
