"""The measuring side of a replay: what became of every record, and whose list is asked."""

from types import SimpleNamespace

import pytest

from jobs.settings import Settings
from model.schema import POSITIVE, Recommendation, RecommendedItem, encode_json
from scripts import replay, watch

NOW_MS = 1_700_000_000_000


class FakeProducer:
    """Takes every record."""

    def __init__(self, **options):
        self.taken = []

    def send(self, topic, key, value):
        self.taken.append(value)


class SilentConsumer:
    """Topics of one partition on which nothing ever comes."""

    def __init__(self, **options):
        pass

    def partitions_for_topic(self, topic):
        return {0}

    def position(self, at):
        return 0

    def poll(self, timeout_ms):
        return {}

    def nothing(self, *partitions):
        pass

    assign = seek_to_end = seek_to_beginning = close = nothing


def row(action: str = "view", item_id: str | None = "a", user_id: str = "u1"):
    return SimpleNamespace(user_id=user_id, item_id=item_id, action=action, event_time_ms=NOW_MS, value=float("nan"))


@pytest.fixture
def feed(monkeypatch):
    monkeypatch.setattr(replay, "KafkaProducer", FakeProducer)
    return replay.Feed(Settings(), "run-")


@pytest.fixture
def seen(monkeypatch):
    monkeypatch.setattr(watch, "KafkaConsumer", SilentConsumer)
    seen = watch.Watch(Settings(), "run-")
    yield seen
    seen.close()


@pytest.mark.parametrize("action", ["view", "forget", "impression"])
def test_every_record_that_was_sent_is_accounted_for(feed, seen, action):
    """A view and a forget have one answer however often they are sent, an impression has none."""
    for number, event in enumerate((row(), row(action))):
        feed.event(number, event)
    feed.repeat(1, row(action))
    answered = [0] if action == "impression" else [0, 1, 1]
    for number in answered:
        answer = Recommendation(f"r{number}", "u1", f"run-{number}", NOW_MS, NOW_MS, "v1", "serving", [RecommendedItem("b", 0.5)])
        seen._take_list(encode_json(answer), 1.0)

    assert (3, 3) == (feed.read, len(seen.lists) + feed.unanswered)


def test_the_answer_to_a_forget_shows_no_version_live(seen):
    """No version made it, and it is no first list."""
    answer = Recommendation("r0", "u1", "run-0", NOW_MS, NOW_MS, "", "serving", [], forgotten=True)
    seen._take_list(encode_json(answer), 1.0)

    assert (["run-0"], set(), None) == (list(seen.lists), seen.versions, seen.first_s)


def test_after_a_forget_a_user_has_no_list_to_be_judged_by():
    """What was on the list before, or on the empty one that answers the forget, proves nothing; nor is anything consumed."""
    quality = watch.Quality(["a", "b"])
    events = [row(), row("forget", None), row(item_id="a"), row(item_id="b")]
    for number, event in enumerate(events):
        assert event.action in POSITIVE or event.action == "forget"
        quality.ask(event)
        quality.add(event, f"e{number}")

    assert {"hr_at_10": 1.0, "hr_at_10_popularity": 1.0} == quality.metrics({"e0": ["a"], "e1": [], "e2": ["b"], "e3": []})
