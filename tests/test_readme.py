"""What the README says is what the code does."""

import json
import re
from pathlib import Path

import pytest

from jobs import settings
from model import schema

README = (Path(__file__).parent.parent / "README.md").read_text()
RECORDS = dict(re.findall(r"^\*\*`([a-z-]+)`\*\*.*?```json\n(.*?)\n```", README, re.S | re.M))
TYPES = {
    "events": schema.Event,
    "items": schema.Item,
    "item-vectors": schema.ItemVector,
    "recommendations": schema.Recommendation,
    "training-examples": schema.Example,
    "fine-tune-requests": schema.FineTuneRequest,
    "model-versions": schema.ModelVersion,
}


def test_every_setting_is_in_the_table():
    """The README's table is the one that the settings print."""
    missing = [row for row in settings.table().splitlines() if row not in README]

    assert [] == missing


@pytest.mark.parametrize("topic", [*TYPES, "rejected-events"])
def test_the_record_of_a_topic_is_one(topic):
    """The README shows one record of each topic, and it can be read as such, with no field that does not exist."""
    record = json.loads(RECORDS[topic])
    if topic == "rejected-events":
        assert {"source", "partition", "offset", "reason", "raw"} == record.keys()
        return
    read = schema.msgspec.convert(record, TYPES[topic])

    assert record.keys() <= set(read.__struct_fields__)


def test_the_commands_exist():
    """Every `make` target and every script that the README names is there."""
    root = Path(__file__).parent.parent
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.M))
    scripts = set(re.findall(r"\b((?:scripts|jobs|udfs|model)/[a-z]+\.py)", README))

    assert set(re.findall(r"^make ([a-z-]+)", README, re.M)) <= targets
    assert [] == [name for name in scripts if not (root / name).exists()]
