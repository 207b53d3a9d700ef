"""The rivals of the comparison make the lists of the bare loop, and the figures are what they say."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

from model import score
from model.schema import Event, ItemVector, decode_recommendation, encode_json
from scripts import compare
from scripts.rivals import bare, confluent, quix
from scripts.rivals.functions import EVENTS, ITEM_VECTORS, VERSION, Functions
from scripts.rivals.ways import QUICK_WAYS, WAYS

NOW_MS = 1_700_000_000_000
RAWS = [
    encode_json(Event(f"e{n}", f"u{n % 3}", "impression" if n == 7 else "view", NOW_MS + n, f"i{n * 7 % 12}"))
    for n in range(20)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `workload.prepare` writes, of twelve items and a model that has learnt nothing."""
    folder, random = tmp_path_factory.mktemp("workload"), np.random.default_rng(0)
    units = random.standard_normal((12, 64))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    vectors = [ItemVector(f"i{n}", "test-1", unit.astype("<f2").tobytes()) for n, unit in enumerate(units)]
    (folder / ITEM_VECTORS).write_bytes(b"".join(encode_json(vector) + b"\n" for vector in vectors))
    (folder / EVENTS).write_bytes(b"".join(raw + b"\n" for raw in RAWS))
    score.save(score.Scorer.untrained(64), str(folder), VERSION, {})
    return folder


def bare_lists(folder, size: int) -> list[tuple]:
    return [(user, plain(made)) for lists in bare.run(Functions(folder), iter(RAWS), size) for user, made in lists]


def plain(made: bytes):
    """A list without the time at which it was made."""
    return replace(decode_recommendation(made), emitted_at_ms=0)


class Message(SimpleNamespace):
    """confluent-kafka's: methods where one expects attributes."""

    def value(self):
        return self.raw

    def error(self):
        return None if self.raw else "the partition has no more"


class FakeKafka:
    """confluent-kafka's consumer and producer in one: gives messages, keeps what is produced, notes the rest."""

    def __init__(self, raws, most: int):
        self.waiting, self.most, self.produced, self.called = list(raws), most, [], []

    def consume(self, most, timeout):
        taken, self.waiting = self.waiting[: self.most], self.waiting[self.most :]
        return [Message(raw=raw) for raw in taken]

    def produce(self, topic, value, key):
        self.produced.append((topic, key, plain(value)))

    def poll(self, timeout):
        self.called.append("poll")

    def flush(self):
        self.called.append("flush")

    def commit(self, asynchronous):
        self.called.append("commit")


def test_the_bare_loop_answers_every_event_that_wants_a_list(folder):
    """In the order of the events; an impression wants none. Each list is of the version that all ways have."""
    lists = bare_lists(folder, 8)

    assert [f"e{n}" for n in range(20) if n != 7] == [made.event_id for _, made in lists]
    assert {VERSION} == {made.model_version for _, made in lists}
    assert all(made.items and made.items[0].reasons for _, made in lists)


def test_the_consumer_written_by_hand_makes_the_lists_of_the_bare_loop(folder):
    """In micro-batches of the same events, keyed by user; a message that is an error is passed over."""
    kafka, functions, states = FakeKafka([*RAWS[:8], *RAWS[8:16], *RAWS[16:], None], 8), Functions(folder), {}
    answered = [confluent.step(functions, states, kafka, kafka, "lists") for _ in range(4)]

    assert [7, 8, 4, 0] == answered
    assert [("lists", user, made) for user, made in bare_lists(folder, 8)] == kafka.produced
    assert {"u0", "u1", "u2"} == set(states)


def test_the_consumer_written_by_hand_commits_what_the_broker_has(folder):
    """Else a crash loses the lists of events that count as read."""
    kafka = FakeKafka([], 8)
    confluent.commit(kafka, kafka)

    assert ["flush", "commit"] == kafka.called


class QuixState:
    def __init__(self):
        self.held = {}

    def get_bytes(self, key):
        return self.held.get(key)

    def set_bytes(self, key, value):
        self.held[key] = value


def test_quix_streams_makes_the_lists_of_the_bare_loop(folder):
    """Of a loop that takes one event at a time, as its stateful `apply` does; its state is one user's."""
    functions, states = Functions(folder), {}
    made = [
        plain(one)
        for raw in RAWS
        for one in quix.recommend(functions, raw, states.setdefault(functions.decode(raw).user_id, QuixState()))
    ]

    assert [made for _, made in bare_lists(folder, 1)] == made


def test_the_plain_job_makes_the_lists_of_the_bare_loop(folder):
    """Of a loop that takes one event at a time; its state is a dict for each user."""
    from scripts.rivals.plain_flink import Recommend

    job, users, made, current = Recommend(str(folder)), {}, [], ""
    state = SimpleNamespace(value=lambda: users.get(current), update=lambda user: users.update({current: user}))
    job.open(SimpleNamespace(get_state=lambda about: state))

    for raw in RAWS:
        current = Functions.decode(raw).user_id
        made += [plain(one.encode()) for one in job.process_element(raw.decode(), None)]

    assert [made for _, made in bare_lists(folder, 1)] == made
    assert {"u0": 7, "u1": 7, "u2": 6} == {user_id: user["events"] for user_id, user in users.items()}


def test_the_bare_loop_tells_when_it_made_how_many_lists(folder):
    """A record a micro-batch: time in ms, lists, seconds of a core so far."""
    command = [sys.executable, "-m", "scripts.rivals.bare", str(folder), "60"]
    done = subprocess.run(command, cwd=compare.ROOT, capture_output=True, text=True, timeout=120)

    assert (0, "") == (done.returncode, done.stderr)
    [[at_ms, lists, used_s]] = compare.json.loads(done.stdout)
    assert lists == 19 and at_ms > NOW_MS and used_s > 0


# Arithmetic


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_the_speed_is_that_of_the_middle_part_and_not_of_the_start(slow):
    """100 lists at the start take as long as they like; of three parts one may be slow."""
    times = [0.0] * 100
    for part in range(3):
        times += (times[-1] + np.arange(1, 134) * (50 if part == slow else 10)).tolist()

    assert 100 == pytest.approx(compare.speed(times, 3), rel=0.01)
    assert 100 == pytest.approx(compare.speed(times[::-1], 3), rel=0.01)


def test_the_speed_of_bursts_counts_the_time_between_them():
    """1,000 lists at once every 10 s are 100 a second, however fast they come once they come."""
    times = np.concatenate([10_000 * burst + np.arange(1_000) * 0.1 for burst in range(5)])

    assert 100 == pytest.approx(compare.speed(times, 5), rel=0.01)


@pytest.mark.parametrize("times", [[], [1], [1, 2, 3], [5] * 100], ids=["none", "one", "three", "at once"])
def test_too_few_lists_tell_no_speed(times):
    with pytest.raises(compare.CompareError, match=f"{len(times)} lists came: too few to tell a speed"):
        compare.speed(times, 5)


def test_the_time_of_a_core_is_that_of_the_groups_asked_for():
    """This process has used some; a group that is not there none."""
    before = compare.cpu_s({os.getpgid(0)})
    deadline = before + 0.2
    while compare.cpu_s({os.getpgid(0)}) < deadline:
        pass

    assert 0 == compare.cpu_s({2**31 - 1})


RUNS = {"bare_loop": compare.Run(2_000.0, 0.5), "quix": compare.Run(100.0, 10.0), "headrace": compare.Run(1_000.0, 1.5)}
FRESH = {"headrace": {"p50": 80.0, "p95": 120.0, "p99": 150.0}, "quix": {}}


def test_the_figures_hold_every_way_that_took_part():
    """Ratios are Headrace's speed by the other's; freshness at exactly once has names of its own."""
    once = {"headrace_exactly_once": {"p50": 5_000.0, "p95": 9_000.0, "p99": 9_900.0}}
    found = compare.figures(RUNS, FRESH | once)

    assert {"bare_loop": 2_000.0, "quix": 100.0, "headrace": 1_000.0} == found["kafka_to_kafka"]
    assert {"bare_loop": 0.5, "quix": 10.0} == found["ratios"]
    assert {"bare_loop": 0.5, "quix": 10.0, "headrace": 1.5} == found["cpu_ms_a_list"]
    fresh = FRESH["headrace"] | {"exactly_once_p50": 5_000.0, "exactly_once_p95": 9_000.0, "exactly_once_p99": 9_900.0}
    assert fresh == found["freshness_ms"]
    assert len(os.sched_getaffinity(0)) == found["cores"]


def test_without_headrace_there_is_nothing_to_hold_it_against():
    assert {} == compare.figures({"quix": RUNS["quix"]}, {})["ratios"]


def test_the_table_has_a_row_a_way_and_a_guarantee():
    rows = list(zip(*[column.cells for column in compare.table(compare.figures(RUNS, FRESH)).columns]))

    assert [
        (WAYS["bare_loop"], "2,000", "0.50", "0.50 x"),
        (WAYS["quix"], "100", "10.00", "10.00 x"),
        (WAYS["headrace"], "1,000", "1.50", ""),
        ("freshness at half load, at least once", "p50 80 ms, p95 120 ms, p99 150 ms", "", ""),
    ] == [tuple(map(str, row)) for row in rows]


# The command line


def start(*words: str) -> subprocess.CompletedProcess:
    """Run the program where neither Java nor Maven is found."""
    environ = {"PATH": "/nowhere", "PYTHONPATH": str(compare.ROOT), "HOME": os.environ.get("HOME", "/")}
    command = [sys.executable, "scripts/compare.py", *words]
    return subprocess.run(command, cwd=compare.ROOT, env=environ, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("words", ["flink", "headrace,flink", ""])
def test_a_wrong_name_is_refused_with_those_there_are(words):
    """In a sentence, with exit code 2, before anything starts."""
    done = start("--only", words)
    wrong = "flink" if words else ""

    assert (2, "") == (done.returncode, done.stdout)
    assert f"argument --only: '{wrong}': no such way; there are {', '.join(WAYS)}\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_java_it_says_what_is_missing():
    done = start("--quick", "--only", "headrace")

    assert (2, "") == (done.returncode, done.stdout)
    assert "compare: no Java here: " in done.stderr


def test_a_package_that_is_missing_is_named_with_what_installs_it(monkeypatch):
    """Before anything starts, and only for the ways that were asked for."""
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    compare.check_packages(["headrace", "bare_loop"])

    with pytest.raises(compare.CompareError, match="confluent-kafka, quixstreams: not installed; `make bench` does"):
        compare.check_packages(QUICK_WAYS)
