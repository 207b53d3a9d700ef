"""What the README and the pages under docs/ say is what the code does: every example runs."""

import doctest
import json
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from starlette.testclient import TestClient

from jobs import settings
from model import schema
from model.evaluation.behaviour import PROBES
from model.signals import ALL
from scripts import behaviour, bench, data, models, options, stack
from scripts.processes import Place, Processes, Supervision
from serving import app
from serving.store import Store

ROOT = Path(__file__).parent.parent
DOCS = sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "model/README.md", *DOCS]
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
NOW_MS = 1_900_000_000_000


class Block(NamedTuple):
    """A fenced block: where, its language, its text, and what stood before it on the page."""

    page: str
    language: str
    text: str
    before: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0][:40]}"


BLOCKS = [
    Block(page, found[1], found[2], text[: found.start()])
    for page, text in TEXTS.items()
    for found in re.finditer(r"^```(\w*)\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)
]


def blocks(*languages: str, page: str = "") -> list[Block]:
    return [block for block in BLOCKS if block.language in languages and page in block.page]


def last(pattern: str, block: Block) -> str:
    """The last match of a pattern before a block."""
    return re.findall(pattern, block.before, re.MULTILINE)[-1]


LINES = [(block.page, line.split("  #")[0].strip()) for block in blocks("") for line in block.text.splitlines()]
PROGRAM = re.compile(r"make |python |\.venv/|flink |\.headrace/|kafka-topics|curl |pip |export ")
COMMANDS = [(page, line) for page, line in LINES if PROGRAM.match(line)]


# Records

DECODERS = {
    "events": lambda raw: schema.decode_event(raw, NOW_MS),
    "items": schema.decode_item,
    "users": schema.decode_user,
    "item-vectors": schema.decode_item_vector,
    "recommendations": schema.decode_recommendation,
    "descriptions": schema.decode_description,
    "training-examples": schema.decode_example,
    "fine-tune-requests": schema.decode_fine_tune_request,
    "model-versions": schema.decode_model_version,
    "rejected-events": msgspec.json.Decoder(
        msgspec.defstruct("Written", [(field.name, field.type) for field in msgspec.structs.fields(schema.Rejected)])
    ).decode,
}
RECORDS = [
    (last(r"(?:^\*\*|on )`([a-z-]+)`", block), block) for block in blocks("json") if "operations" not in block.page
]


@pytest.mark.parametrize("topic, block", RECORDS, ids=lambda value: str(value)[:40])
def test_the_record_of_a_topic_is_one(topic, block):
    """It decodes, has no field that does not exist, and every field that is always written."""
    record = DECODERS[topic](block.text.encode())

    assert json.loads(block.text) == json.loads(schema.encode_json(record))


def test_every_topic_has_a_record_a_row_and_the_command_that_creates_it():
    """Partitions and configuration are those of flink-conf/topics.txt."""
    page, created = TEXTS["docs/topics.md"], {}
    for block in blocks("", page="docs/topics.md"):
        for line in block.text.splitlines():
            given = shlex.split(line)
            value = {
                given[at]: given[at + 1] for at in range(len(given) - 1) if given[at] in ("--topic", "--partitions")
            }
            config = dict(given[at + 1].split("=") for at, word in enumerate(given) if word == "--config")
            created[value["--topic"]] = (int(value["--partitions"]), config)

    assert stack.topics() == created
    assert set(created) == {topic for topic, block in RECORDS if block.page == "docs/topics.md"}
    for name, (partitions, config) in created.items():
        assert re.search(
            rf"^\| `{name}` \| [\w ]+ \| {partitions} \| {config.get('cleanup.policy', 'delete')} \|",
            page,
            re.MULTILINE,
        )


@pytest.mark.parametrize("record, fields", [("events", schema.Event), ("items", schema.Item), ("users", schema.User)])
def test_every_field_that_a_producer_writes_is_told(record, fields):
    """Those of a list too; what nothing reads need not be written."""
    page = TEXTS["docs/topics.md"]
    unread = {"image", "audio"} | ({"attributes"} if record == "items" else set())
    told = re.search(rf"^\*\*`{record}`\*\*.*?(?=^\*\*`|^## )", page, re.DOTALL | re.MULTILINE)[0]

    assert [] == [name for name in fields.__struct_fields__ if f"| `{name}` |" not in told and name not in unread]
    for struct in (schema.Recommendation, schema.RecommendedItem, schema.Reason):
        assert [] == [
            name for name in struct.__struct_fields__ if not re.search(rf"\| .*`(\w+\[\]\.)*{name}`.* \|", page)
        ]


# Python, Node, files


class Kafka:
    """Stands for kafka-python: keeps what is sent, gives one list to read."""

    def __init__(self):
        self.sent = []
        self.KafkaProducer = lambda **given: self
        self.KafkaConsumer = lambda *topics, **given: [types.SimpleNamespace(value=LIST)]

    def send(self, topic, key=None, value=None):
        self.sent.append((topic, key, value))

    def flush(self):
        pass


LIST = next(block for topic, block in RECORDS if topic == "recommendations").text.encode()


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_runs(block, monkeypatch, capsys):
    """What a producer sends is taken by the job; what a consumer reads is a list."""
    if ">>> " in block.text:
        example = doctest.DocTestParser().get_doctest(block.text + "\n", {}, block.page, block.page, 0)
        assert (0, True) == (doctest.DocTestRunner().run(example).failed, bool(example.examples))
        return
    kafka = Kafka()
    monkeypatch.setitem(sys.modules, "kafka", kafka)
    exec(compile(block.text, block.page, "exec"), {})

    assert kafka.sent or json.loads(LIST)["user_id"] in capsys.readouterr().out
    check_sent(kafka.sent)


def check_sent(sent: list[tuple[str, bytes, bytes]]) -> None:
    """Every record is one of its topic, under its key."""
    for topic, key, value in sent:
        record = DECODERS[topic](value)
        assert key.decode() == (record.user_id if topic == "events" else record.item_id)


KAFKAJS = """
const list = process.env.LIST;
exports.Kafka = class {
  producer() {
    return { connect: async () => {}, disconnect: async () => {},
             send: async ({ topic, messages }) =>
               messages.forEach(m => console.log(JSON.stringify([topic, m.key, m.value]))) };
  }
  consumer() {
    return { connect: async () => {}, subscribe: async () => {},
             run: ({ eachMessage }) => eachMessage({ message: { value: Buffer.from(list) } }) };
  }
};
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node here")
@pytest.mark.parametrize(
    "block", blocks("js"), ids=lambda block: "producer" if ".producer()" in block.text else "consumer"
)
def test_node_runs(block, tmp_path):
    """On a stand-in for kafkajs, as Python does."""
    (tmp_path / "node_modules" / "kafkajs").mkdir(parents=True)
    (tmp_path / "node_modules" / "kafkajs" / "index.js").write_text(KAFKAJS)
    (tmp_path / "example.js").write_text(block.text)
    environ = {"LIST": LIST.decode(), "PATH": str(Path(shutil.which("node")).parent)}
    done = subprocess.run(["node", "example.js"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)

    assert (0, "") == (done.returncode, done.stderr)
    if ".producer()" in block.text:
        check_sent(
            [(topic, key.encode(), value.encode()) for topic, key, value in map(json.loads, done.stdout.splitlines())]
        )
    else:
        assert json.loads(LIST)["user_id"] in done.stdout


def test_the_files_of_the_readme_are_read(tmp_path, capsys):
    """Every row is an event, and nothing is passed over."""
    for block in blocks("csv"):
        (tmp_path / last(r"`(\w+\.csv)`", block)).write_text(block.text + "\n")
    events, items = data.read(tmp_path / "events.csv", tmp_path / "items.csv")
    valid, refused = data.check_events(events)

    assert (3, [], "") == (len(valid), refused, capsys.readouterr().err)
    assert ["Desk lamp, white", ["Lighting", "Office"]] == items[["title", "categories"]].iloc[0].tolist()


# REST


def make_store() -> Store:
    store = Store(clock=lambda: 1_795_677_000_000)
    item = schema.RecommendedItem("50", 0.5, [schema.Reason("network", 0.5, items=["lamp-7"])])
    made = schema.Recommendation("r", "ann", "e", 1, 2, "v00001", "serving", [item])
    store.apply("recommendations", b"ann", schema.encode_json(made), 1_795_677_000_001)
    figures = ("hr_at_10", "ndcg_at_10", "serving_hr_at_10", "serving_ndcg_at_10")
    metrics = dict.fromkeys((*figures, "examples", "judged_on", "judged_users", "seconds"), 1.0)
    store.apply(
        "model-versions",
        b"v00001",
        schema.encode_json(schema.ModelVersion("v00001", "p", metrics=metrics, status="serving")),
        1,
    )
    store.apply("rejected-events", None, schema.Rejected.of("events", 0, 1, "why", b"raw").as_json(), 1)
    return store


def shape(value):
    """The keys of an answer, and those of the first entry of each list in it."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return (
        [shape(value[0])]
        if isinstance(value, list) and value and isinstance(value[0], dict)
        else type(value).__name__ == "list"
    )


@pytest.mark.parametrize("block", blocks("json", page="operations"), ids=str)
def test_the_answer_of_a_rest_call_is_one(block, tmp_path):
    """The same fields, all the way down, as the page of a local stack answers."""
    Processes(tmp_path).note({"learner": Supervision()})
    path = last(r"^curl \"?http://127.0.0.1:8080(\S+?)\"?$", block)
    answer = TestClient(app.make_app(make_store(), run_dir=tmp_path), base_url="http://127.0.0.1:8080").get(path)

    assert 200 == answer.status_code
    assert shape(json.loads(block.text)) == shape(answer.json())


def test_every_rest_call_is_shown():
    routes = {route.path.partition("{")[0] for route in app.make_app(make_store()).routes} - {"/"}

    assert routes == {
        re.match(r"/\w+/?", line.split(":8080")[1].strip('"'))[0] for _, line in COMMANDS if line.startswith("curl")
    }


# Commands, flags, variables, files

HELP = {
    "jobs/recommend.py": settings.usage,
    "jobs/finetune.py": settings.usage,
    "jobs/describe.py": settings.usage,
    "scripts/models.py": lambda: models.USAGE + settings.usage(),
    "scripts/stack.py": stack.help_text,
}
OF_OTHERS = {
    "--savepointPath", "--build",
    "--create", "--if-not-exists", "--topic", "--partitions", "--config", "--bootstrap-server", "--replication-factor",
    "--reader-property",
}  # fmt: skip
"""Flags of Flink, Kafka and docker-compose."""


def own_flags(capsys) -> set[str]:
    for read in (
        lambda words_: options.evaluate(words_, ""),
        lambda words_: options.replay(words_, ""),
        lambda words_: options.learn(words_, ""),
        lambda words_: options.adapt(words_, ""),
        lambda words_: options.describe(words_, ""),
        app.arguments,
        behaviour.main,
    ):
        with pytest.raises(SystemExit):
            read(["--help"])
    told = capsys.readouterr().out + "".join(text() for text in HELP.values()) + "--help" + bench.__doc__
    return set(re.findall(r"--[a-z][\w-]*", told))


def test_every_flag_that_is_named_exists(capsys):
    known = own_flags(capsys) | OF_OTHERS
    named = {flag for text in TEXTS.values() for flag in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text)}

    assert set() == {
        flag for flag in named if flag not in known and flag.replace("-", "_").replace("__", "--", 1) not in known
    }


def test_every_variable_that_is_named_exists():
    named = {name for text in TEXTS.values() for name in re.findall(r"\b(?:HEADRACE|STACK)_[A-Z_]+[A-Z]\b", text)}
    known = {variable for variable, _, _ in Place.rows()} | {
        f"HEADRACE_{name.upper()}" for name in settings.Settings.__struct_fields__
    }

    assert {"HEADRACE_PORT"} == named - known and ["HEADRACE_PORT"] == settings.no_settings({"HEADRACE_PORT": ""})


def test_every_make_target_and_file_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page, text in TEXTS.items():
        named = re.findall(r"(?:^|`)make ([a-z-]+)(?= +(?:ARGS|#)|`|$)", text, re.MULTILINE)
        files = re.findall(
            r"\b((?:scripts|jobs|udfs|model|serving|docs|flink-conf|tests)/[\w-]+\.(?:py|md|txt|yaml))", text
        )

        assert set(named) <= targets, page
        assert [] == [name for name in files if not (ROOT / name).exists()], page


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        file, _, anchor = target.partition("#")
        there = (ROOT / page).parent / file
        assert there.exists(), target
        assert not anchor or re.search(rf"^#+ {anchor}$", there.read_text(), re.MULTILINE | re.IGNORECASE), target


@pytest.mark.parametrize("page, line", COMMANDS, ids=[line[:60] for _, line in COMMANDS])
def test_a_command_is_one(page, line):
    """Its options are taken by the program's own parser, its settings are settings, its words commands."""
    words_ = [word for word in shlex.split(line) if "=$PWD" not in word]
    if words_[0] == "make":
        _check_make(words_[1], shlex.split(words_[2].partition("=")[2]) if len(words_) > 2 else [])
        return
    program = next((word for word in words_ if word in (*HELP, "serving.app")), None)
    if program is None:
        assert words_[0].rpartition("/")[2] in ("kafka-topics.sh", "curl", "pip", "export", "flink", "python")
        return
    rest = words_[words_.index(program) + 1 :]
    if program == "scripts/models.py":
        assert re.search(rf"scripts/models.py {rest[0]}\b", models.USAGE) or rest == ["--help"]
        return
    settings.load(app.arguments(rest)[1] if program == "serving.app" else rest, {})


def _check_make(target: str, arguments: list[str]) -> None:
    if target in ("replay", "evaluate", "demo"):
        read = options.evaluate if target == "evaluate" else options.replay
        _, rest = read(["--data", "ml-100k", *arguments] if target == "demo" else arguments, "")
        settings.load(rest, {})
    elif target == "behaviour":
        settings.load(options.behaviour(arguments, "", PROBES)[1], {})
    elif target == "up":
        parts, given = stack.parts_and_settings(arguments)
        settings.load(given, {})
        assert set(parts) <= set(stack.PARTS)


# Tables


def test_every_setting_is_in_the_table():
    """The table of docs/operations.md is the one that the settings print."""
    missing = [row for row in settings.table().splitlines() if row not in TEXTS["docs/operations.md"]]

    assert [] == missing


def test_every_variable_of_a_stack_is_in_the_table():
    page = TEXTS["docs/operations.md"]

    assert [] == [
        name
        for name, default, meaning in Place.rows()
        if f"| `{name}` | `{default or chr(32)}` | {meaning} |" not in page
    ]


def test_every_signal_has_words_and_they_are_shown():
    """And no words are left of a signal that is gone; a term and exploration are reasons as a signal is."""
    page = TEXTS["docs/signals.md"]

    assert set(ALL) == set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE))
    for name, signal in ALL.items():
        assert re.search(
            rf"^\| `{name}` \| .+ \| {re.escape(signal.because.replace('{}', '…'))} \| {re.escape(signal.alone)} \|$",
            page,
            re.MULTILINE,
        ), name


def test_the_readme_is_one_page():
    """Its first screen shows one event in, one list out, and the two commands."""
    lines = TEXTS["README.md"].splitlines()

    assert len(lines) <= 150
    assert {"events", "recommendations"} == {topic for topic, block in RECORDS if block.page == "README.md"}
    assert ["demo", "test"] == re.findall(r"^make (\w+)", "\n".join(lines[:50]), re.MULTILINE)
