"""Bytes that no topic should carry, for every topic: what any producer, or a broken one of ours, could write."""

import base64
import json

import numpy as np

DEEP = b'{"x":' + b"[" * 50_000
EVERYWHERE = {
    "no value": None,
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "null": b"null",
    "a number": b"1e400",
    "a list": b"[[]]",
    "an empty object": b"{}",
    "deep": DEEP,
    "a lone surrogate": b'{"event_id":"\\ud800","user_id":"\\ud800","item_id":"\\ud800","version":"\\ud800"}',
    "NUL": b'{"user_id":"\\u0000","event_id":"\\u0000","item_id":"\\u0000","event_time_ms":1}',
    "digits": b'{"event_time_ms":' + b"9" * 100_000 + b"}",
    "large": b"[" + b"0," * 450_000 + b"0]",
}
"""Name -> bytes that are wrong on any topic."""


def _json(**fields) -> bytes:
    return json.dumps(fields).encode()


def _vector(*numbers: float, times: int = 1) -> str:
    return base64.b64encode(np.array(numbers * times, "<f2").tobytes()).decode()


_EXAMPLE = {"user_id": "poison", "event_id": "p", "event_time_ms": 1_700_000_000_000}
_EVENT = _EXAMPLE | {"action": "view", "item_id": "space1"}

OF_TOPIC = {
    "item-vectors": {"no encoder": _json(item_id="poison", content_hash="0", encoder_version="", vector="ADwAPA==")},
    "events": {
        "seconds": _json(**_EVENT | {"event_time_ms": 1_700_000_000}),
        "far ahead": _json(**_EVENT | {"event_time_ms": 2**48 - 1}),
        "an unknown action": _json(**_EVENT | {"action": "teleport"}),
        "a search of nothing": _json(**_EVENT | {"action": "search"}),
        "a value that is none": b'{"event_id":"p","user_id":"p","action":"rating","item_id":"i","value":NaN}',
        "a long id": _json(**_EVENT | {"user_id": "u" * 900_000}),
        "a deep context": _json(**_EVENT)[:-1] + b',"context":{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}}",
        "large and right": _json(**_EVENT | {"context": {"x": "y" * 900_000}}),
    },
    "items": {
        "a title that is none": _json(item_id="poison", title=5),
        "no id": _json(title="nameless"),
        "a long text": _json(item_id="long", title="t", text="word " * 170_000),
        "deleted before it came": _json(item_id="never-there", deleted=True),
    },
    "recommendations": {
        "half a list": _json(rec_id="r", user_id="..", items=[{"item_id": 3}]),
        "a list for two dots": _json(
            rec_id="r",
            user_id="..",
            event_id="e",
            event_time_ms=-1,
            emitted_at_ms=2**63,
            model_version="v",
            variant="serving",
            items=[{"item_id": "i" * 10_000, "probability": 2.0, "reasons": []}] * 20,
        ),
    },
    "training-examples": {
        "nothing came": _json(**_EXAMPLE),
        "of another layout": _json(**_EXAMPLE, item_id="i", action="view", interests="/////////w=="),
        "cut short": _json(**_EXAMPLE, item_id="i", action="view", interests="AgEBAEAA"),
        "the end of time": _json(**_EXAMPLE | {"event_time_ms": 2**48 - 1}, item_id="space1", action="view"),
        "the beginning of time": _json(**_EXAMPLE | {"event_time_ms": 0}, item_id="space1", action="view"),
        "an unknown item": _json(**_EXAMPLE, item_id="never-there", action="view"),
        "a long name": _json(**_EXAMPLE | {"user_id": "u" * 900_000}, item_id="space1", action="view"),
        "a stranger forgotten": _json(**_EXAMPLE | {"user_id": "nobody"}, forget=True),
    },
    "fine-tune-requests": {
        "an unknown reason": _json(why="mood", examples=1, from_event_time_ms=0, to_event_time_ms=1),
        "less than nothing": _json(why="count", examples=-1, from_event_time_ms=5, to_event_time_ms=-5),
    },
    "model-versions": {
        "inside a zip": _json(version="z", path="zip://m::/etc/passwd", status="serving"),
        "a registry that does not answer": _json(version="z", path="http://127.0.0.1:9/v1", status="serving"),
        "above the registry": _json(version="..", path="/../../etc/passwd", status="serving"),
        "without a name": _json(version="", path="", status="serving"),
        "an unknown status": _json(version="z", path="/z", status="glorious"),
        "an epoch beyond": _json(version="z", path="/z", status="serving", epoch=2**60),
        "a long path": _json(version="z", path="/" + "z" * 100_000, status="serving"),
        "counts of nothing": _json(version="z", path="/z/counts-000001", status="counted"),
    },
    "rejected-events": {
        "a source that is none": _json(source=[], partition="x", offset=None, reason={}, raw="%"),
    },
}
"""Topic -> name -> bytes that are wrong on this one."""


def of(topic: str, encoder_version: str) -> dict[str, bytes | None]:
    """What must not be on a topic, of a stack whose items are embedded by this encoder."""
    vectors = _item_vectors("other-00000000") | _item_vectors(encoder_version) if topic == "item-vectors" else {}
    return EVERYWHERE | OF_TOPIC[topic] | vectors


def _item_vectors(encoder_version: str) -> dict[str, bytes]:
    """Vectors of one item that are none, and of an encoder of which there is no other item."""
    vectors = {
        "right but alone": _vector(1.0, times=384),
        "of another length": _vector(1.0, times=3),
        "of no numbers": _vector(float("nan"), times=384),
        "of half a number": "AAAA",
        "no base64": "%%%",
        "long": _vector(1.0, times=200_000),
    }
    return {
        f"{name}, {encoder_version}": _json(
            item_id="poison", content_hash="0", encoder_version=encoder_version, vector=vector
        )
        for name, vector in vectors.items()
    }
