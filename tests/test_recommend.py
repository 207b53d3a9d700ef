"""The job's graph, built in a JVM of its own but not run."""

import json
import subprocess
import sys
from hashlib import sha256

import pytest

from scripts import jars, stack

pytestmark = pytest.mark.java


USERS = ["ann", "7", 'quo"te', "back\\slash", "{}", "über", "用户", "🙂", "a" * 256, "line\nend", "tab\t", " "]

BUILD = """
import json, sys
from py4j.protocol import Py4JError
from jobs.recommend import build
from jobs.settings import Settings

found = {}

def operator(transformation):
    try:
        return transformation.getOperatorFactory().getStreamOperatorClass(None).getSimpleName()
    except Py4JError:
        return ""

def walk(transformation):
    if transformation.getId() not in found:
        found[transformation.getId()] = (transformation.getName(), transformation.getUid(), operator(transformation))
        for before in transformation.getInputs():
            walk(before)

for transformation in build(Settings(), sys.argv[1:])._j_stream_execution_environment.getTransformations():
    walk(transformation)
print(json.dumps(list(found.values())))
"""


@pytest.fixture(scope="module")
def steps():
    """Every transformation of the job: [name, uid, class of its operator, if it tells]. A process of its own, because
    PyFlink never lets its JVM go.
    """
    stack.fetch_jars()
    addresses = [jar.as_uri() for jar in (jars.JARS / "flink").glob("*.jar")]
    done = subprocess.run(
        [sys.executable, "-c", BUILD, *addresses], capture_output=True, text=True, cwd=stack.ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


KEYED = """
import json, sys
from pyflink.table import DataTypes
from jobs.flow import environment, with_user_id
from jobs.settings import Settings
from model.schema import Example, encode_json

tables = environment(Settings(), [])[1]
rows = [(bytearray(encode_json(Example(user, "e", 1, "i", "view", b"x" * 999))),) for user in json.loads(sys.argv[1])]
examples = tables.from_elements(rows, DataTypes.ROW([DataTypes.FIELD("value", DataTypes.BYTES())]))
with with_user_id(examples).execute().collect() as found:
    print(json.dumps([[user, json.loads(bytes(value))["user_id"]] for user, value in found]))
"""


def test_an_example_is_keyed_by_its_user():
    """Whatever the id holds: a user's examples stay in one partition, in their order."""
    done = subprocess.run(
        [sys.executable, "-c", KEYED, json.dumps(USERS)], capture_output=True, text=True, cwd=stack.ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]

    assert [[user, user] for user in USERS] == json.loads(done.stdout.splitlines()[-1])


def test_every_step_has_a_name_and_a_uid(steps):
    """State is found again after a change of the job only where the uid stayed the same."""
    unnamed = [name for name, uid, _ in steps if uid is None]

    assert [] == unnamed


def test_no_two_steps_share_a_uid(steps):
    """Flink refuses a job in which two steps have one uid."""
    uids = [uid for _, uid, _ in steps if uid]

    assert sorted(set(uids)) == sorted(uids)


def test_the_steps_of_the_picture_are_there(steps):
    """What the docstring draws is what the job is made of."""
    uids = {uid for _, uid, _ in steps}

    assert {
        "read-events",
        "read-items",
        "read-model-versions",
        "read-ticks",
        "embed",
        "update-interest",
        "score",
        "embed-items",
    } <= uids
    assert {
        "write-recommendations", "write-item-vectors", "write-training-examples", "write-fine-tune-requests",
        "write-rejected-events",
    } <= uids  # fmt: skip


BOUNDED = r"""
import json, sys
from pyflink.table import EnvironmentSettings, TableEnvironment
from jobs import topics

tables = TableEnvironment.create(EnvironmentSettings.in_batch_mode())
columns = "`value` STRING, `topic` AS 't', `partition` AS 0, `offset` AS 0"
tables.execute_sql(
    f"CREATE TEMPORARY TABLE read_lines ({columns}) "
    f"WITH ('connector'='filesystem', 'path'='{sys.argv[1]}', 'format'='raw')"
)
rows = tables.execute_sql(topics.bounded("lines", 100_000)).collect()
print(json.dumps([[bytes(row[0]).hex(), row[4]] for row in rows]))
"""


def test_a_record_that_is_too_large_is_cut_inside_the_jvm(tmp_path):
    """Bytes that are no UTF-8 come through as they are; of what is cut, length and hash are those of all of it."""
    values = [b"\xff\xfe\xc3", "é".encode() * 100_000, b"\xff" * 100_001, "é".encode() * 100_001, b"x" * 5_000_000]
    (tmp_path / "lines").write_bytes(b"\n".join(values))
    command = [sys.executable, "-c", BOUNDED, (tmp_path / "lines").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=stack.ROOT, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    cut = {100_001: 65_536, 200_002: 131_072, 5_000_000: 65_536}
    expected = [
        [value[: cut.get(len(value))].hex(), f"{len(value)} {sha256(value).hexdigest()}" if len(value) in cut else None]
        for value in values
    ]

    assert sorted(map(str, expected)) == sorted(map(str, json.loads(done.stdout.splitlines()[-1])))


def test_python_runs_in_the_three_udfs_alone(steps):
    """What PyFlink puts behind a side output by itself is a call into Python for every record."""
    python = {uid for _, uid, operator in steps if "Python" in operator}

    assert {"embed-2", "score-2", "embed-items-2"} == python
