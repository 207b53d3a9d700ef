"""The rivals of the comparison make the lists of the bare loop, and the figures are what they say."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

from model import score
from model.catalogue import Catalogue
from model.schema import Event, ItemVector, decode_item_vector, decode_recommendation, encode_json
from scripts import compare
from scripts.benchmarks import state
from scripts.rivals import bare, comparison, confluent, figures, quix
from scripts.rivals.comparison import Comparison, cpu_s
from scripts.rivals.figures import CompareError, Run
from scripts.rivals.functions import EVENTS, ITEM_VECTORS, LATER, VERSION, Functions
from scripts.rivals.ways import PARTS, WAYS
from scripts.rivals.workload import Workload

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
    for file in (EVENTS, LATER):
        (folder / file).write_bytes(b"".join(raw + b"\n" for raw in RAWS))
    score.save(score.Scorer.untrained(64), str(folder), VERSION, {})
    return folder


def bare_lists(folder, size: int) -> list[tuple]:
    return [(user, plain(made)) for lists in bare.Loop(Functions(folder)).run(iter(RAWS), size) for user, made in lists]


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
    """A record a micro-batch: time in ms, lists, seconds of a core so far; how late a list is where events are due."""
    command = [sys.executable, "-m", "scripts.rivals.bare", str(folder), "60", "100", "0.1"]
    done = subprocess.run(command, cwd=compare.ROOT, capture_output=True, text=True, timeout=120)

    assert (0, "") == (done.returncode, done.stderr)
    told = compare.json.loads(done.stdout)
    [[at_ms, lists, used_s]] = told["batches"]
    assert lists == 19 and at_ms > NOW_MS and used_s > 0
    assert len(told["late_s"]) == 10 and min(told["late_s"]) > 0


def test_the_bare_loop_is_late_where_it_cannot_keep_up(monkeypatch):
    """Ten events a second, and a micro-batch takes a fifth of one: what is due meanwhile is answered together."""
    now, taken = [0.0], []

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(bare, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))

    def answer(functions, states, raws):
        taken.append(len(raws))
        now[0] += 0.2

    monkeypatch.setattr(bare, "answer", answer)
    late_s = bare.Loop(None).at_load([b""] * 8, per_s=10)

    assert [1, 2, 2, 2, 1] == taken
    assert pytest.approx([0.2, 0.3, 0.2, 0.3, 0.2, 0.3, 0.2, 0.3]) == late_s


# Arithmetic


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_the_speed_is_that_of_the_middle_part_and_not_of_the_start(slow):
    """100 lists at the start take as long as they like; of three parts one may be slow."""
    times = [0.0] * 100
    for part in range(3):
        times += (times[-1] + np.arange(1, 134) * (50 if part == slow else 10)).tolist()

    assert 100 == pytest.approx(figures.speed(times, 3), rel=0.01)
    assert 100 == pytest.approx(figures.speed(times[::-1], 3), rel=0.01)


def test_the_speed_of_bursts_counts_the_time_between_them():
    """1,000 lists at once every 10 s are 100 a second, however fast they come once they come."""
    times = np.concatenate([10_000 * burst + np.arange(1_000) * 0.1 for burst in range(5)])

    assert 100 == pytest.approx(figures.speed(times, 5), rel=0.01)


def test_the_speed_of_two_tasks_that_burst_in_turns_is_that_of_both():
    """Each writes 1,000 lists every 10 s, the second 2 s after the first."""
    times = np.concatenate(
        [10_000 * burst + late + np.arange(1_000) * 0.1 for burst in range(5) for late in (0, 2_000)]
    )

    assert 9_000 / 42 == pytest.approx(figures.speed(times, 5), rel=0.01)


@pytest.mark.parametrize("times", [[], [1], [1, 2, 3], [5] * 100], ids=["none", "one", "three", "at once"])
def test_too_few_lists_tell_no_speed(times):
    with pytest.raises(CompareError, match=f"{len(times)} lists came: too few to tell a speed"):
        figures.speed(times, 5)


def test_the_time_of_a_core_is_that_of_the_groups_asked_for():
    """This process has used some; a group that is not there none."""
    before = cpu_s({os.getpgid(0)})
    deadline = before + 0.2
    while cpu_s({os.getpgid(0)}) < deadline:
        pass

    assert 0 == cpu_s({2**31 - 1})


def test_lists_know_of_an_example_once_its_worker_has_counted_it():
    """Not by the list of the example's own user, nor by one that came before it was counted."""
    sent = [(10.0, "ann"), (11.0, "bob")]
    lists = [(10.1, 7, "eve"), (10.2, 8, "ann"), (10.5, 8, "bob"), (11.1, 8, "eve"), (11.3, 9, "eve"), (11.9, 9, "ann")]

    assert pytest.approx([0.5, 0.3]) == figures.delays_s(sent, lists[::-1], before=7)


def test_an_example_that_no_list_knows_of_is_no_figure():
    with pytest.raises(CompareError, match="example 2 of 2: no list of another user knows of it"):
        figures.delays_s([(1.0, "ann"), (2.0, "bob")], [(1.5, 1, "eve"), (2.5, 2, "bob")], before=0)


RUNS = {
    "headrace": [Run(1_000.0, 1.5)],
    "bare_loop": [Run(2_200.0, 0.4), Run(1_800.0, 0.6)],
    "quix": [Run(100.0, 10.0)],
    "headrace_parallelism_2": [Run(1_500.0, 1.6)],
    "quix_parallelism_2": [Run(150.0, 10.0)],
}
FRESH = {
    "headrace": {"p50": 80.0, "p95": 120.0, "p99": 150.0},
    "bare_loop": {"p50": 5.0, "p95": 7.0, "p99": 9.0},
    "headrace_exactly_once": {"p50": 5_000.0, "p95": 9_000.0, "p99": 9_900.0},
}
MEASURED = compare.Measured(
    runs=RUNS,
    fresh=FRESH,
    half_load=500.04,
    known={"p50": 90.0, "p95": 140.0},
    state_bytes={"1": {"state": 230, "interests": 200, "consumed": 15}},
    checkpoint=state.summary(1_000, [(state.WHOLE, 0.5, 2_000_000), (state.CHANGES, 0.25, 500_000)]),
)


def test_the_figures_hold_every_way_that_took_part():
    """A way that was run twice has the median; ratios are Headrace's speed by the other's at the same parallelism."""
    found = compare.figures(MEASURED)

    assert dict(zip(RUNS, (1_000.0, 2_000.0, 100.0, 1_500.0, 150.0))) == found["kafka_to_kafka"]
    assert {"bare_loop": 0.5, "quix": 10.0, "quix_parallelism_2": 10.0} == found["ratios"]
    assert {"headrace": 1.5, "bare_loop": 0.5} == {
        name: found["cpu_ms_a_list"][name] for name in ("headrace", "bare_loop")
    }
    assert 1.22 == found["drift"]
    assert len(os.sched_getaffinity(0)) == found["cores"]


def test_freshness_of_the_others_has_names_of_its_own():
    """Headrace at least once has the bare ones: p50, p95, p99."""
    fresh = compare.figures(MEASURED)["freshness_ms"]

    assert FRESH["headrace"] == {level: fresh[level] for level in ("p50", "p95", "p99")}
    assert (9_900.0, 9.0) == (fresh["exactly_once_p99"], fresh["bare_loop_p99"])
    assert 9 == len(fresh)


def test_what_was_not_measured_is_not_among_the_figures():
    """Without Headrace there is nothing to hold the others against."""
    found = compare.figures(compare.Measured(runs={"quix": RUNS["quix"], "headrace": []}))

    assert {"kafka_to_kafka", "cpu_ms_a_list", "cores", "versions"} == set(found)
    assert {"quix": 100.0} == found["kafka_to_kafka"]


def cells(table) -> list[tuple[str, ...]]:
    return [tuple(map(str, row)) for row in zip(*[column.cells for column in table.columns])]


def test_the_table_has_a_row_a_way():
    assert [
        (WAYS["quix"], "100", "10.00", "10.00 x"),
        (WAYS["headrace"], "1,000", "1.50", ""),
        (WAYS["bare_loop"], "2,000", "0.50", "0.50 x"),
        (WAYS["headrace_parallelism_2"], "1,500", "1.60", ""),
        (WAYS["quix_parallelism_2"], "150", "10.00", "10.00 x"),
    ] == cells(compare.table(compare.figures(MEASURED)))


def test_a_table_without_rows_is_not_printed():
    only_speed = compare.figures(compare.Measured(runs={"quix": RUNS["quix"]}))

    assert [1] == [shown.row_count for shown in compare.tables(only_speed)]
    assert [5, 8] == [shown.row_count for shown in compare.tables(compare.figures(MEASURED))]


def test_the_other_figures_have_a_row_each():
    assert [
        ("event to list at 500 events/s: Headrace, at least once", "p50 80 ms, p95 120 ms, p99 150 ms"),
        ("event to list at 500 events/s: Headrace, exactly once", "p50 5,000 ms, p95 9,000 ms, p99 9,900 ms"),
        ("event to list at 500 events/s: the bare loop", "p50 5 ms, p95 7 ms, p99 9 ms"),
        ("event to another user's list that knows of it", "p50 90 ms, p95 140 ms"),
        ("a user's state after 1 events", "230 bytes: interests 200, consumed 15"),
        ("checkpoint of 1,000 users, all", "0.50 s, 2.0 MB"),
        ("checkpoint of 1,000 users, 1% changed", "0.25 s, 0.5 MB"),
        ("the bare loop at its best, beside its worst", "1.22 x"),
    ] == cells(compare.details(compare.figures(MEASURED)))


# Users' states


def test_users_of_enough_events_are_followed_event_by_event(folder):
    """u0 and u1 have seven events of four items, one of them an impression, which changes nothing; u2 has only six."""
    catalogue = Catalogue()
    catalogue.apply(map(decode_item_vector, (folder / ITEM_VECTORS).read_bytes().splitlines()))
    events = [Functions.decode(raw) for raw in RAWS]
    known = state.users(events, Workload(folder, [], [], catalogue), most=7)

    assert [["u0"] * 7, ["u1"] * 7] == [[record.event.user_id for record in own] for own in known.records]
    assert known.states[1][1] == known.states[1][2], "u1's third event is the impression"
    weighed = state.bytes_per_user(known.states, (1, 7))
    assert (15, 1 + 4 * 14) == (weighed["1"]["consumed"], weighed["7"]["consumed"])
    assert all(parts["state"] > parts["interests"] + parts["consumed"] for parts in weighed.values())
    assert weighed["1"]["interests"] < weighed["7"]["interests"] < 964


# Processes


@pytest.mark.parametrize(
    "name, processes",
    [("quix", ["quix-1"]), ("quix_parallelism_2", ["quix_parallelism_2-1", "quix_parallelism_2-2"]), ("headrace", [])],
)
def test_a_way_at_parallelism_2_is_two_processes_or_a_job(name, processes):
    assert processes == Comparison._processes_of(name)


@pytest.mark.parametrize(
    "names, state, members, shared",
    [
        (["quix-1"], "unasked", 0, True),
        (["quix-1", "quix-2"], "Stable", 1, False),
        (["quix-1", "quix-2"], "PreparingRebalance", 2, False),
        (["quix-1", "quix-2"], "Stable", 2, True),
    ],
)
def test_the_backlog_waits_until_each_process_has_its_share(monkeypatch, names, state, members, shared):
    """The process that is there first has all partitions for a while."""
    group = {"x-group": {"group_state": state, "members": [{}] * members}}
    admin = SimpleNamespace(describe_groups=lambda asked: group, close=lambda: None)
    monkeypatch.setattr(comparison, "KafkaAdminClient", lambda bootstrap_servers: admin)
    stack = SimpleNamespace(run_dir=compare.FOLDER, bootstrap_servers="broker")

    assert shared == Comparison(stack, None, compare.QUICK, None)._shared("x-", names)


def test_the_lists_of_the_first_events_are_not_timed(monkeypatch):
    """They only tell that a way is at work; a list that comes twice is timed once."""
    at, ids = comparison.TopicPartition("x-recommendations", 0), [f"{comparison.WARM_UP}3", "e1", "e2", "e1"]
    records = [
        SimpleNamespace(value=encode_json(comparison.Made(event_id, VERSION)), timestamp=number)
        for number, event_id in enumerate(ids)
    ]
    read = []

    class Consumer(SimpleNamespace):
        def poll(self, timeout_ms, max_records):
            read.extend(records)
            return {at: records}

    consumer = Consumer(
        assign=lambda partitions: None,
        seek_to_beginning=lambda *partitions: None,
        end_offsets=lambda partitions: {at: 4},
        position=lambda at: len(read),
        partitions_for_topic=lambda topic: {0},
        close=lambda: None,
    )
    monkeypatch.setattr(comparison, "KafkaConsumer", lambda **options: consumer)
    stack = SimpleNamespace(run_dir=compare.FOLDER, bootstrap_servers="broker")

    assert [1, 2] == Comparison(stack, None, compare.QUICK, None)._times_ms("x", "x-").tolist()


@pytest.mark.parametrize(
    "name, words",
    [
        ("headrace", ["-p", "1", "--topic_prefix", "x-", "--delivery", "at-least-once"]),
        ("headrace_parallelism_2", ["-p", "2", "--topic_prefix", "x-", "--delivery", "at-least-once"]),
        ("headrace_exactly_once", ["-p", "1", "--topic_prefix", "x-", "--delivery", "exactly-once"]),
        ("plain_pyflink_parallelism_2", ["-p", "2", "scripts/rivals/plain_flink.py", "x-"]),
    ],
)
def test_a_job_is_submitted_at_its_parallelism(name, words):
    """The cluster has two TaskManagers of one slot each."""
    stack = SimpleNamespace(
        command=lambda name: ["flink", "run", "-d", "-p", "9", "-py", "jobs/recommend.py"],
        run_dir=compare.FOLDER,
        bootstrap_servers="broker",
    )
    job = Comparison(stack, SimpleNamespace(folder="folder"), compare.QUICK, None)._job(name, "x-")

    assert words == [word for word in job if word in words]


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
    assert f"argument --only: '{wrong}': no such way; there are {', '.join(PARTS)}\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_java_it_says_what_is_missing():
    done = start("--quick", "--only", "headrace")

    assert (2, "") == (done.returncode, done.stdout)
    assert "compare: no Java here: " in done.stderr


def test_a_second_comparison_leaves_the_first_one_alone(monkeypatch, tmp_path):
    """They would share a stack, which the one that is done first takes down."""
    monkeypatch.setattr(compare.Processes, "are_up", lambda self: True)

    with pytest.raises(CompareError, match=f"{tmp_path}/run: a comparison is at work there; wait for it"):
        compare.measure(only=["bare_loop"], folder=tmp_path)


def test_a_package_that_is_missing_is_named_with_what_installs_it(monkeypatch):
    """Before anything starts, and only for the ways that were asked for."""
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    compare.check_packages(["headrace", "bare_loop", "plain_pyflink_parallelism_2"])

    with pytest.raises(CompareError, match="confluent-kafka, quixstreams: not installed; `make bench` does"):
        compare.check_packages(WAYS)
