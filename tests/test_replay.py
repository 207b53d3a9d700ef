"""What a replay sends, and how it prints what comes back; a list of records stands for the broker."""

import io

import msgspec
import pytest

from jobs.settings import Settings
from model.schema import Event, ModelVersion, decode_event
from model.versions import Serving
from scripts import models, replay
from scripts.watch import Place, Quality, Top, Watch

T = 1_700_000_000_000


class Producer:
    """Keeps what is sent."""

    def __init__(self, **_):
        self.sent = []

    def send(self, topic, key=None, value=None):
        self.sent.append((topic, key, value))

    def flush(self):
        pass


@pytest.fixture
def feed(monkeypatch):
    monkeypatch.setattr(replay, "KafkaProducer", Producer)
    return replay.Feed(Settings())


@pytest.fixture
def screen(monkeypatch):
    """What was printed on the console."""
    printed = io.StringIO()
    console = replay.console
    monkeypatch.setattr(console, "file", printed)
    return printed


def test_every_field_of_an_event_is_sent_on(feed):
    """A search without an item too; the record is the event."""
    events = [
        Event("a1", "u1", "purchase", T, "m1", 2.0, rec_id="r9"),
        Event("a2", "u1", "search", T + 1, query="desk"),
    ]
    for event in events:
        feed.event(event)

    assert events == [decode_event(value, T + 5) for _, _, value in feed._producer.sent]
    assert [("events", b"u1")] * 2 == [(topic, key) for topic, key, _ in feed._producer.sent]
    assert (2, 0) == (feed.read, feed.unanswered)


def test_events_that_call_for_no_list_are_counted(feed):
    """An impression, and an event whose id was sent before; the first sending is timed. A forget is answered."""
    feed.event(Event("a1", "u1", "view", T, "m1"))
    first = feed.sent["a1"]
    for event in (
        Event("a1", "u1", "view", T, "m1"),
        Event("a2", "u1", "impression", T),
        Event("a3", "u1", "forget", T),
    ):
        feed.event(event)

    assert (4, 2, first) == (feed.read, feed.unanswered, feed.sent["a1"])


def test_events_that_a_later_one_is_answered_for_are_counted(monkeypatch):
    """With `answers=newest`, once a list of a later event of their user came; the last one waits for its list."""
    monkeypatch.setattr(replay, "KafkaProducer", Producer)
    feed = replay.Feed(Settings(answers="newest"))
    for event_id, user_id, action in (
        ("a1", "ann", "view"), ("a2", "ann", "view"), ("b1", "bob", "view"), ("a3", "ann", "impression"),
        ("a4", "ann", "view"), ("b1", "bob", "view"), ("a5", "ann", "forget"),
    ):  # fmt: skip
        feed.event(Event(event_id, user_id, action, T, None if action in ("impression", "forget") else "m1"))
    counted = []
    for lists in ([], ["a4"], ["b1", "a5"], ["a1"]):
        feed.answered(lists)
        counted.append(feed.unanswered)

    assert [2, 4, 4, 3] == counted


def test_where_every_event_is_answered_none_is_passed_over(feed):
    """One whose list is late waits for it."""
    for event_id in ("a1", "a2"):
        feed.event(Event(event_id, "ann", "view", T, "m1"))
    feed.answered(["a2"])

    assert 0 == feed.unanswered


def test_lists_of_events_that_somebody_else_sent_are_passed_over():
    """The ids of a file are its own, so a list is known by the event that it answers."""
    watch = object.__new__(Watch)
    watch._sent, watch.lists, watch.tops, watch.versions, watch.first_s = {"a1": 5.0}, {}, {}, set(), None
    watch.seen = {}
    for event_id in ("a1", "other", "a1"):
        watch._take_list(msgspec.json.encode(Top(event_id, "u", "v1", [Place("m1", 0.5)])), 7.0)

    assert ({"a1": 7.0}, {"a1": ["m1"]}, {"v1"}) == (watch.lists, watch.tops, watch.versions)


def test_hits_are_asked_of_the_list_before():
    """Also where that list answers a search."""
    quality, search = Quality(["m1", "m2"]), Event("a2", "u1", "search", T + 1, query="desk")
    for event in (Event("a1", "u1", "view", T, "m1"), search, Event("a3", "u1", "view", T + 2, "m2")):
        quality.ask(event)
        quality.add(event)

    assert 1.0 == quality.metrics({"a2": ["m2"]})["hr_at_10"]


def test_a_file_that_is_replayed_is_read_as_the_topic_reads_it(tmp_path, capsys):
    """Rows that are no events are told and not sent; an event keeps its id, one without gets one of this replay."""
    rows = f"a1,u,1,{T},view\n,u,1,{T + 1},hop\n,u,1,{T + 2},view\n"
    (tmp_path / "e.csv").write_text(f"event_id,user_id,item_id,event_time_ms,action\n{rows}")
    (tmp_path / "i.csv").write_text("item_id,title\n1,Lamp\n")
    arguments, _ = replay.options.replay(["--events", f"{tmp_path}/e.csv", "--items", f"{tmp_path}/i.csv"], "")
    events, items = replay._read(arguments, Settings())

    assert ["a1", "2"] == [event.event_id.rpartition("-")[2] for event in events]
    assert events[1].event_id.endswith("-2") and ["Lamp"] == items["title"].tolist()
    assert (
        "rows that are no events are left out: 1; the first: row 2: Invalid enum value 'hop'" in capsys.readouterr().err
    )


def test_after_a_forget_a_user_has_no_list_to_be_judged_by():
    """What was on the list before, or on the empty one that answers the forget, proves nothing; nothing is consumed."""
    quality = Quality(["a", "b"])
    actions = ("view", "a"), ("forget", None), ("view", "a"), ("view", "b")
    for number, (action, item) in enumerate(actions):
        event = Event(f"e{number}", "u1", action, T + number, item)
        quality.ask(event)
        quality.add(event)

    assert {"hr_at_10": 1.0, "hr_at_10_popularity": 1.0, "judged": 1} == quality.metrics(
        {"e0": ["a"], "e1": [], "e2": ["b"], "e3": []}
    )


EVIL = "[/] [bold]x[/x] :smile:"


def test_titles_and_ids_are_printed_as_text(screen):
    """A title in brackets is no markup, and no word between colons a picture."""
    made = object.__new__(replay.Replay)
    made._titles = {"m1": EVIL}
    made.watch = type("Watch", (), {"newest": Top("e", "[/x]", "[/]", [Place("m1", 0.5), Place("[/m2]", 0.25)])})
    made.print_newest()

    assert f"[/]  user   [/x]  {EVIL} 50.0% · [/m2] 25.0%" in screen.getvalue()


def test_a_folder_in_brackets_is_printed_as_text(screen):
    """The stack that runs is told with its folder."""
    place = type("Place", (), {"running": lambda self: {"job": 1}, "run_dir": "/tmp/[/x]"})()
    with replay.running(place):
        pass

    assert "/tmp/[/x]" in screen.getvalue()


def test_the_figures_of_a_replay_are_printed_as_text(capsys):
    """A version's name may be anything."""
    made = object.__new__(replay.Replay)
    made.backlog_per_s, made.watch = 100.0, type("Watch", (), {"versions": {"[/v1]"}})
    figures = dict.fromkeys(("read", "emitted", "rejected", "unanswered", "model_versions_live", "judged"), 1)
    figures |= dict.fromkeys(("hr_at_10", "hr_at_10_popularity", "freshness_ms_p50", "freshness_ms_p99"), 0.5)
    replay.report(figures, made, None, 0, 200.0)

    assert "[/v1]" in capsys.readouterr().out


def test_model_versions_are_printed_as_text(capsys):
    """A reason may name a path in brackets."""
    version = ModelVersion("[/v1]", "p", parent="[/]", reason="[x]y[/x] :smile:")
    models.show(
        type(
            "Versions", (), {"known": {"[/v1]": version}, "serving": Serving(["p"]), "current": lambda self: version}
        )()
    )
    out = capsys.readouterr().out

    assert all(text in out for text in ("[/v1]", "[/]", "[x]y[/x]", ":smile:"))


def test_a_file_of_users_that_would_not_be_read_is_refused_before_anything_starts(capsys):
    """What to add is said."""
    assert 2 == replay.main(["--events", "e.csv", "--items", "i.csv", "--users", "u.csv"])
    assert "replay: --users u.csv: it is read with `--user_facts on` only: add that" in capsys.readouterr().err
