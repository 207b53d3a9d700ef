"""The local stack, as far as it can be tried without Java: lists, configuration, messages, processes."""

import os
import re
import shutil
import signal
import socket
import sys
import tomllib
from collections import namedtuple

import pytest
from msgspec import structs
from ruamel.yaml import YAML

from scripts import data, jars, processes, stack, supervisor
from scripts.processes import SUPERVISOR, Process, Processes, Supervision
from scripts.stack import ROOT, Job, Place, Stack, StackError
from scripts.supervisor import Supervisor

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = YAML(typ="safe").load(ROOT / "docker-compose.yml")
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture
def place(tmp_path):
    return Place(run_dir=str(tmp_path / "run"))


@pytest.fixture
def fake(place, monkeypatch):
    """A stack whose processes only sleep; `broken` ends at once."""
    commands = {"broken": ["sh", "-c", "echo out of luck; exit 1"]}
    monkeypatch.setattr(Stack, "command", lambda self, name: commands.get(name, ["sleep", "60"]))
    with Stack(place) as fake:
        fake.logs.mkdir(parents=True)
        yield fake


@pytest.fixture
def no_java_needed(monkeypatch):
    monkeypatch.setattr(jars, "java_command", lambda: "java")
    monkeypatch.setattr(jars, "fetched", lambda: True)


# Lists and configuration


def test_every_topic_of_the_flow_is_on_the_list():
    expected = {
        "events", "items", "users", "item-vectors", "recommendations",
        "training-examples", "fine-tune-requests", "model-versions", "rejected-events", "descriptions",
    }  # fmt: skip

    assert expected == set(stack.topics())


def test_a_stack_with_a_topic_prefix_has_topics_of_that_name(place):
    """`make up ARGS="--topic_prefix shop-"` makes what the job then reads."""
    assert stack.topics() == Stack(place).topics()
    assert {f"shop-{name}": about for name, about in stack.topics().items()} == Stack(
        place, ["--topic_prefix", "shop-"]
    ).topics()


def test_tables_are_compacted():
    compacted = {name for name, (_, config) in stack.topics().items() if config.get("cleanup.policy") == "compact"}

    assert {"items", "users", "item-vectors", "model-versions", "descriptions"} == compacted


def test_nothing_needs_other_limits_than_those_of_kafka(place):
    """A cluster of one's own has them, and what works here has to work there."""
    assert {"cleanup.policy"} == {key for _, config in stack.topics().values() for key in config}
    assert [] == re.findall(
        r"^.*(?:max\.(?:message|request)|fetch)\S*bytes.*$", jars.broker_config(place), re.MULTILINE
    )


def test_flinks_rest_interface_takes_no_jars_and_lets_no_other_origin_in(place):
    """Flink's own defaults are an upload for everybody and `*`; `flink run` and the stack's own calls need neither."""
    config = jars.flink_config(structs.replace(place, flink_port=18081))

    assert (False, False) == (config["web.submit.enable"], config["web.cancel.enable"])
    assert "http://127.0.0.1:18081" == config["web.access-control-allow-origin"]
    assert config["rest.bind-address"] == place.bind


def test_flink_listens_on_loopback_only(place):
    config = jars.flink_config(place)
    addresses = {key: value for key, value in config.items() if re.search(r"address$|host$", key)}

    assert {"127.0.0.1"} == set(addresses.values())
    assert {"jobmanager.bind-host", "taskmanager.bind-host", "rest.bind-address"} <= addresses.keys()


def test_the_broker_listens_on_loopback_only(place):
    hosts = re.findall(r"//([^:]*):", jars.broker_config(place))

    assert {"127.0.0.1"} == set(hosts)


def test_the_keyed_job_gets_thread_mode_rocksdb_and_one_slot(place):
    config = jars.flink_config(place)

    assert "thread" == config["python.execution-mode"]
    assert "rocksdb" == config["state.backend.type"]
    assert 1 == config["taskmanager.numberOfTaskSlots"]


def test_a_gpu_is_asked_for_only_when_wanted(place):
    assert "external-resources" not in jars.flink_config(place)
    assert "gpu" == jars.flink_config(Place(run_dir=place.run_dir, gpus=1))["external-resources"]


def test_settings_reach_every_process_and_more_can_be_given(place, monkeypatch):
    monkeypatch.setenv("HEADRACE_ENCODER", "my-encoder")
    there = Stack(place, ["--k", "10"])

    for name in ("job", "learner", "page"):
        line = " ".join(there.command(name))
        assert "--bootstrap_servers 127.0.0.1:9092" in line
        assert line.endswith("--encoder my-encoder --k 10")


def test_the_page_is_told_which_names_it_has(place, monkeypatch):
    """`STACK_PAGE_HOSTS`, for who opens it to other machines."""
    monkeypatch.setenv("HEADRACE_ENCODER", "my-encoder")
    named = structs.replace(place, page_hosts="shop.example,10.0.0.7")

    assert "--allowed-host" not in Stack(place).command("page")
    assert "--allowed-host shop.example --allowed-host 10.0.0.7 " in " ".join(Stack(named).command("page"))


@pytest.mark.parametrize(
    "about, parallelism", [({}, "1"), ({"taskmanagers": 2}, "2"), ({"taskmanagers": 2, "parallelism": 1}, "1")]
)
def test_the_job_runs_on_every_taskmanager_unless_told_otherwise(place, monkeypatch, about, parallelism):
    """A TaskManager has one slot."""
    monkeypatch.setenv("HEADRACE_ENCODER", "my-encoder")
    command = Stack(Place(run_dir=place.run_dir, **about)).command("job")

    assert ["flink", "run", "-d", "-p", parallelism, "-py"] == [command[0].rpartition("/")[2], *command[1:6]]


@pytest.mark.parametrize("words", [["--k", "10", "broker"], ["broker", "--k", "10"], ["broker", "--k=10"]])
def test_up_takes_parts_and_settings(place, monkeypatch, words):
    """In whatever order; `make up ARGS="--k 10"` reaches the job, the learner and the page."""
    monkeypatch.setenv("STACK_RUN_DIR", place.run_dir)
    started = []
    monkeypatch.setattr(
        Stack, "up", lambda self, parts, supervised: started.append((list(parts), self.arguments)) or self
    )
    stack.main(["up", *words])

    assert [(["broker"], [word for word in words if word != "broker"])] == started


@pytest.mark.parametrize(
    "words", [["--k", "0"], ["--k"], ["--nope=1"], ["--encoder", "/nowhere"], ["engine", "--k", "1"]]
)
def test_up_with_a_wrong_word_starts_nothing(place, monkeypatch, capsys, words):
    monkeypatch.setenv("STACK_RUN_DIR", place.run_dir)
    with pytest.raises(SystemExit, match="2"):
        stack.main(["up", *words])

    assert capsys.readouterr().err.startswith("headrace: ")
    assert not os.path.exists(place.run_dir)


def test_settings_for_a_stack_that_is_up_are_not_lost_in_silence(fake, capsys):
    fake.start("broker")
    Stack(fake.place, ["--k", "10"]).up()

    assert "up already in" in (said := capsys.readouterr().out) and "the settings given count after `make down`" in said


def test_the_learner_takes_only_what_the_others_leave_of_the_processor(place, monkeypatch):
    monkeypatch.setenv("HEADRACE_ENCODER", "my-encoder")

    assert ["chrt", "--idle", "0"] == Stack(place).command("learner")[:3]


# The containers run what the local stack runs


def test_the_image_has_the_python_and_the_java_of_the_project():
    python = re.search(r"FROM python:([\d.]+)-", DOCKERFILE)[1]

    assert PROJECT["requires-python"].startswith(f">={python},")
    assert f"openjdk-{jars.JAVA}-" in DOCKERFILE


def test_no_version_is_written_a_second_time():
    pinned = [coordinate.rsplit(":", 1)[1] for _, coordinate in jars.jars()]
    pinned += [requirement.split("==")[1] for requirement in PROJECT["dependencies"] if "==" in requirement]
    containers = DOCKERFILE + (ROOT / "docker-compose.yml").read_text()

    assert [] == [version for version in pinned if version in containers]
    assert {"headrace"} == {service["image"] for service in COMPOSE["services"].values()}


def test_every_container_runs_a_process_of_the_stack(place, monkeypatch):
    monkeypatch.setattr(jars, "java_command", lambda: "java")
    monkeypatch.setenv("HEADRACE_ENCODER", "my-encoder")
    names = {service["command"][0] for service in COMPOSE["services"].values()}

    assert {"broker", "topics", "jobmanager", "taskmanager-1", "job", "learner", "page"} == names
    for name in names - {"topics"}:
        assert Stack(place).command(name)


def test_containers_publish_their_ports_on_loopback_only():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]

    assert ports
    assert [] == [port for port in ports if not port.startswith("127.0.0.1:")]


# Messages


@pytest.mark.parametrize(
    "part, field",
    [("broker", "kafka_port"), ("broker", "controller_port"), ("cluster", "flink_port"), ("page", "page_port")],
)
def test_a_taken_port_is_named_with_its_variable(place, no_java_needed, part, field):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        there = Place(run_dir=place.run_dir, **{field: port})

        with pytest.raises(
            StackError, match=rf"STACK_{field.upper()}={port}: Address already in use; a free port is wanted"
        ):
            there.check_port(field)


def test_without_java_the_command_ends_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STACK_RUN_DIR", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SystemExit, match="2"):
        stack.main(["up"])

    assert "headrace: no Java here: Java 17 or newer is wanted" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["1.8.0_392", "11.0.21"])
def test_an_old_java_is_refused(tmp_path, monkeypatch, version):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))

    with pytest.raises(StackError, match=r"java is version (8|11): Java 17 or newer is wanted"):
        jars.java_command()


def test_without_maven_the_message_says_what_it_is_for(place, no_java_needed, monkeypatch):
    monkeypatch.setattr(jars, "fetched", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)

    with pytest.raises(StackError, match="no Maven here: mvn fetches Kafka's jars"):
        Stack(place).check(())


def test_maven_is_not_needed_when_the_jars_are_there(place, no_java_needed, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)

    Stack(place).check(())


def test_a_short_disk_is_told_in_gigabytes(place, no_java_needed, monkeypatch):
    usage = namedtuple("usage", "total used free")(10 * 2**30, 9 * 2**30, 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    with pytest.raises(StackError, match=r"1\.0 GB free in .*: 2 GB are wanted"):
        Stack(place).check(())


@pytest.mark.parametrize("value", ["nine", "0", "70000"])
def test_a_port_that_is_none_is_refused(value):
    with pytest.raises(StackError, match=rf"STACK_KAFKA_PORT={value}: Expected `int`.* \(default 9092\)"):
        Place.from_environ({"STACK_KAFKA_PORT": value})


def test_an_unknown_part_is_refused(place):
    with pytest.raises(StackError, match="engine: no such part; there are broker, cluster, job, learner, page"):
        Stack(place).up(["engine"])


def test_a_folder_with_other_things_in_it_is_never_emptied(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(StackError, match=r"STACK_RUN_DIR=.*: a folder with other things in it"):
        Processes(tmp_path).empty()

    assert (tmp_path / "thesis.txt").exists()


# Processes


def test_a_process_that_ends_while_starting_shows_the_end_of_its_log(fake):
    fake.start("broken")

    with pytest.raises(
        StackError, match=r"(?s)broken has ended, an answer was wanted; the end of .*broken\.log:\n    out of luck"
    ):
        fake._processes.wait("an answer", lambda: False, ["broken"])


def test_a_process_that_says_nothing_is_given_up(fake):
    fake.start("jobmanager")

    with pytest.raises(StackError, match=r"an answer: no answer in 0\.2 s"):
        fake._processes.wait("an answer", lambda: False, ["jobmanager"], patience_s=0.2)


def test_a_killed_process_can_be_started_again(fake):
    fake.start("taskmanager-1")
    first = fake.running()["taskmanager-1"]

    fake.kill("taskmanager-1")

    assert {} == fake.running()
    fake.start("taskmanager-1")
    assert first != fake.running()["taskmanager-1"]


def test_a_process_of_another_program_is_dead_when_kill_returns(fake):
    fake.start("taskmanager-1")
    other = Stack(fake.place)

    other.kill("taskmanager-1")

    assert {} == other.running()


def test_a_process_is_not_started_twice(fake):
    fake.start("broker")

    with pytest.raises(StackError, match=r"broker runs already in .*: kill it first"):
        fake.start("broker")


def test_down_ends_everything_and_leaves_the_logs(fake):
    fake.start("broker")
    fake.start("page")
    other = Stack(fake.place)  # `down` is another program than `up`
    assert {"broker", "page"} == other.running().keys()

    fake.down()

    assert {} == fake.running()
    assert ["logs"] == os.listdir(fake.run_dir)


def test_down_spares_a_program_that_got_the_pid_of_an_ended_process(fake):
    fake._processes.write({"broker": Process(os.getpid(), started=1)})

    fake.down()  # would end this test run


def test_up_leaves_a_stack_that_is_up_alone(fake, capsys):
    fake.start("broker")
    before = fake.running()

    fake.up()

    assert before == fake.running()
    assert "up already" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["page", "learner"])
def test_up_does_not_call_a_process_up_that_ends_at_once(tmp_path, monkeypatch, broken):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    commands = {"learner": ["sleep", "60"], "page": [sys.executable, "-m", "http.server", "-b", "127.0.0.1", str(port)]}
    commands[broken] = ["sh", "-c", "echo out of luck; exit 1"]
    monkeypatch.setattr(Stack, "command", lambda self, name: commands[name])
    monkeypatch.setattr(Stack, "check", lambda self, parts: None)
    for name in ("fetch_jars", "make_flink_home", "_encoder"):
        monkeypatch.setattr(stack, name, lambda *_: None)
    there = Stack(Place(run_dir=str(tmp_path / "run"), page_port=port))

    with pytest.raises(
        StackError, match=rf"(?s){broken} has ended, .* was wanted; the end of .*{broken}\.log:\n    out of luck"
    ):
        there.up(["learner", "page"])

    assert {} == there.running()


def test_up_beside_an_ended_process_says_which(fake):
    fake.start("broker")
    fake.start("learner")
    fake.kill("learner")

    with pytest.raises(StackError, match="learner has ended, the rest still runs"):
        fake.up()


def test_status_names_process_memory_and_log(fake):
    fake.start("broker")
    fake.start("page")
    fake.kill("page")

    broker, page = fake.status().splitlines()

    assert re.match(r"broker +\d+ +\d+ MB +/.*broker\.log", broker)
    assert re.match(r"page +ended +/.*page\.log", page)


# The supervisor


class Clock:
    """A time that goes on when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watching(fake, clock):
    """A supervisor of the fake stack; `broken` ends whenever it is started."""
    fake.start("learner")
    return Supervisor(fake, clock)


def end(fake, name):
    """As a crash would: the program is gone, and nobody has been told."""
    os.killpg(fake.processes()[name].pid, signal.SIGKILL)
    processes._until_ended(fake.processes()[name], 5)


def after(clock, watching, seconds):
    clock.now += seconds
    watching.turn()


def test_a_process_that_has_ended_is_started_again_after_a_second(fake, clock, watching):
    first = fake.running()["learner"]
    fake.log("learner").write_text("first\nout of luck\n\n")
    watching.turn()
    end(fake, "learner")
    watching.turn()
    noted = fake._processes.supervision()["learner"]
    assert (False, 0, "out of luck") == (noted.running, noted.restarts, noted.last_line)
    after(clock, watching, 0.9)
    assert {} == fake.running()

    after(clock, watching, 0.2)

    assert first != fake.running()["learner"]
    assert (True, 1) == (
        fake._processes.supervision()["learner"].running,
        fake._processes.supervision()["learner"].restarts,
    )
    assert re.search(
        r"learner +\d+ +\d+ MB +/.*learner\.log  restarted once, last end \d\d:\d\d:\d\d: out of luck$", fake.status()
    )


def test_the_pause_grows_up_to_half_a_minute_and_begins_again_once_it_lives(fake, clock, watching):
    pauses = []
    for _ in range(7):
        end(fake, "learner")
        watching.turn()
        began = clock.now
        while "learner" not in fake.running():
            after(clock, watching, 1.0)
        pauses.append(clock.now - began)
    assert [1, 2, 4, 8, 16, 30, 30] == pauses

    after(clock, watching, supervisor.SETTLED_S)
    end(fake, "learner")
    watching.turn()
    after(clock, watching, 1.0)
    assert "learner" in fake.running()


def test_what_an_ended_process_has_left_behind_is_ended_before_it_is_started_again(fake, clock, watching, monkeypatch):
    """A TaskManager's workers hold files that the next one needs."""
    monkeypatch.setattr(
        Stack, "command", lambda self, name: ["sh", "-c", f"sleep 60 & echo $! >> {fake.run_dir}/children; wait"]
    )
    fake.start("taskmanager-1")
    children = fake.run_dir / "children"
    while not (children.exists() and children.read_text().strip()):
        pass
    child = int(children.read_text())
    born = processes._stat(child)[1]
    os.kill(fake.processes()["taskmanager-1"].pid, signal.SIGKILL)  # not its group
    processes._until_ended(fake.processes()["taskmanager-1"], 5)
    assert processes.alive(Process(child, born))
    watching.turn()
    after(clock, watching, 1.0)
    processes._until_ended(Process(child, born), 5)

    assert not processes.alive(Process(child, born)) and "taskmanager-1" in fake.running()


def test_a_process_that_somebody_else_starts_again_is_left_alone(fake, clock, watching):
    fake.kill("learner")
    watching.turn()
    fake.start("learner")
    theirs = fake.running()
    after(clock, watching, 5.0)

    assert theirs == fake.running()
    assert (True, 0) == (
        fake._processes.supervision()["learner"].running,
        fake._processes.supervision()["learner"].restarts,
    )


def test_a_process_that_was_started_later_is_watched_too(fake, clock, watching):
    fake.start("page")
    watching.turn()
    end(fake, "page")
    watching.turn()
    after(clock, watching, 1.0)

    assert "page" in fake.running()


@pytest.fixture
def flink(fake, monkeypatch):
    """A cluster with one TaskManager and no job, as its REST interface says; what was submitted."""
    answers = {"/taskmanagers": {"taskmanagers": [{}]}, "/jobs": {"jobs": []}}
    submitted = []
    monkeypatch.setattr(Stack, "ask", lambda self, path: answers.get(path, {}))
    monkeypatch.setattr(Stack, "submit", lambda self, command, checkpoint: submitted.append((command, checkpoint)))
    fake._job.write_bytes(processes.msgspec.json.encode(Job("f" * 32, ["flink", "run"])))
    fake.start("jobmanager")
    return answers, submitted


def lose_the_jobmanager(fake, clock, watching):
    watching.turn()
    end(fake, "jobmanager")
    watching.turn()
    after(clock, watching, 1.0)


def test_the_job_that_is_gone_with_its_jobmanager_is_submitted_again_from_its_newest_checkpoint(
    fake, clock, watching, flink
):
    """One that is half there does not count; it waits for the TaskManager."""
    answers, submitted = flink
    checkpoints = fake.run_dir / "checkpoints" / ("f" * 32)
    for name in ("chk-9", "chk-10", "chk-11"):
        (checkpoints / name).mkdir(parents=True)
    for name in ("chk-9", "chk-10"):
        (checkpoints / name / "_metadata").touch()
    answers["/taskmanagers"] = {}
    lose_the_jobmanager(fake, clock, watching)
    assert [] == submitted

    answers["/taskmanagers"] = {"taskmanagers": [{}]}
    watching.turn()
    watching.turn()

    assert [(["flink", "run"], checkpoints / "chk-10")] == submitted
    assert "begun again from checkpoint chk-10" in fake._processes.supervision()["job"].last_line
    assert re.search(r"\njob .*restarted once", fake.status())


def test_without_a_checkpoint_the_log_says_that_state_is_lost(fake, clock, watching, flink, caplog):
    lose_the_jobmanager(fake, clock, watching)

    assert [(["flink", "run"], None)] == flink[1]
    assert "submitted again with empty state" in caplog.text


def test_where_a_job_runs_or_was_cancelled_none_is_submitted(fake, clock, watching, flink):
    answers, submitted = flink
    answers["/jobs"] = {"jobs": [{"id": "a", "status": "RESTARTING"}]}
    lose_the_jobmanager(fake, clock, watching)
    answers["/jobs"] = {"jobs": []}
    watching.turn()
    fake._job.unlink()
    lose_the_jobmanager(fake, clock, watching)

    assert [] == submitted


def test_down_ends_the_supervisor_first(fake, monkeypatch):
    """Else it would start again what has just been ended."""
    fake.start("broker")
    fake.start(SUPERVISOR)
    told, alive_then = [], []

    def note(process, number):
        told.append(process.pid)
        alive_then.append(SUPERVISOR in fake.running())
        send(process, number)

    send = processes._signal
    first = fake.processes()[SUPERVISOR].pid
    broker = fake.processes()["broker"].pid
    monkeypatch.setattr(processes, "_signal", note)
    fake.down()

    assert first == told[0]
    assert not any(alive for pid, alive in zip(told, alive_then) if pid == broker)


def test_up_starts_a_supervisor_only_where_it_is_asked_to(fake, monkeypatch):
    """A test that ends a process on purpose and starts it again would race with it."""
    monkeypatch.setattr(Stack, "check", lambda self, parts: None)
    for name in ("fetch_jars", "make_flink_home", "_encoder"):
        monkeypatch.setattr(stack, name, lambda *_: None)
    fake.up(["learner"])
    assert ["learner"] == list(fake.running())
    fake.down()

    fake.up(["learner"], supervised=True)
    assert ["learner", SUPERVISOR] == list(fake.running())
    fake.kill("learner")
    fake.up(["learner"], supervised=True)  # up already: what has ended is about to be started again


def test_the_describer_is_started_only_where_something_is_described(fake, monkeypatch):
    """Beside the learner, with the model of a package unless another is named."""
    monkeypatch.setattr(Stack, "check", lambda self, parts: None)
    monkeypatch.setattr(Stack, "_describer", lambda self: [])
    for name in ("fetch_jars", "make_flink_home", "_encoder"):
        monkeypatch.setattr(stack, name, lambda *_: None)
    for first, expected in (("0", ["learner"]), ("3", ["learner", "describer"])):
        fake.arguments = ["--describe_first", first]
        fake.up(["learner"])
        assert expected == list(fake.running())
        fake.down()


def test_the_describer_gets_the_model_of_a_package_unless_another_is_named(place, monkeypatch):
    monkeypatch.setattr(data, "describing_model", lambda: "/models/smollm2")
    monkeypatch.setattr(stack, "_encoder", lambda: "/models/minilm")

    command = Stack(place, ["--describe_first", "3"]).command("describer")
    assert ("jobs/describe.py", ["--describer", "/models/smollm2"]) == (command[4], command[-2:])
    assert "/models/smollm2" not in Stack(place, ["--describer", "/models/other"]).command("describer")


def test_the_supervisor_and_the_page_are_told_where_the_stack_is(tmp_path):
    place = Place(run_dir=str(tmp_path / "run"), kafka_port=19092, taskmanagers=2)

    assert place == Place.from_environ(Stack(place).environment())
    assert ["scripts/supervisor.py", "--k", "10"] == Stack(place, ["--k", "10"]).command(SUPERVISOR)[1:]


def test_a_supervised_process_in_words():
    assert "" == str(Supervision())
    assert str(Supervision(False, 0, 1_000, "no")).startswith("not restarted yet, last end ")
    assert str(Supervision(True, 3, 1_000, "no")).startswith("restarted 3 times, last end ")
