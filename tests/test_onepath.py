"""The evaluation and the job are one path: for the same stream and model version, the same lists."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pandas as pd
import pytest

from model.evaluate import Protocol, Users, evaluate
from model.interest import Rules
from model.schema import Embedded, Event, decode_packed_request, encode_packed, item_key
from model.score import score
from tests.test_evaluate import make_events
from tests.test_score import make_catalogue
from tests.test_udfs import FakeJob
from udfs.score import Score

K = 10


@pytest.fixture(scope="module")
def events() -> list[Event]:
    """Sixteen users who come and go, who dislike and skip, and items that nobody knows."""
    random = np.random.default_rng(4)
    events = [msgspec.structs.replace(event, user_id=f"u{random.integers(16)}") for event in make_events(24, 8)]
    actions = {3: "dislike", 7: "skip", 11: "purchase"}
    events = [msgspec.structs.replace(event, action=actions.get(at % 13, "view")) for at, event in enumerate(events)]
    return [msgspec.structs.replace(event, item_id="nowhere") if at % 17 == 5 else event for at, event in enumerate(events)]


def job_requests(events: list[Event], catalogue) -> dict[str, bytes]:
    """event_id -> what update-interest sends to be scored, after the event has gone through embed."""
    jobs: dict[str, FakeJob] = {}
    sent = {}
    for event in events:
        job, key = jobs.setdefault(event.user_id, FakeJob()), item_key(event.item_id)
        vector = catalogue.lookup(key)
        packed = b"" if vector is None else vector.astype("<f2").tobytes()
        told = job.update.process_element(encode_packed(Embedded(event, key, catalogue.encoder, packed)), job.context)
        sent[event.event_id] = next(one for one in told if isinstance(one, bytes))
    return sent


def job_lists(packed: list[bytes], catalogue, scorer) -> list[list[tuple[str, float]]]:
    """What the score UDF answers, with this scorer as the version that serves."""
    udf = Score(Rules(), K, True, "cpu", "nowhere:9092", "item-vectors", "/nowhere", 1)
    udf._score, udf._follower = score, SimpleNamespace(catalogue=catalogue, refresh=lambda: None)
    udf._scorers = SimpleNamespace(first=lambda versions, catalogue: ("v1", scorer, []))
    answers = udf.eval(pd.DataFrame({"request": packed}))["recommendation"]
    return [[(item["item_id"], item["probability"]) for item in msgspec.json.decode(answer)["items"]] for answer in answers]


def test_the_lists_of_the_job_are_those_of_the_evaluation(events):
    """The list that the job makes after an event is the one that the evaluation asks for, live, before the user's next event."""
    catalogue = make_catalogue()
    scorer = evaluate(events, catalogue, Protocol(fine_tune_every=60), methods=()).scorer
    sent, users, last = job_requests(events, catalogue), Users(catalogue, Protocol()), {}
    pairs = []
    for event in events:
        asked = users.ask(event)
        if event.user_id in last:
            pairs.append((sent[last[event.user_id]], asked.live().request))
        last[event.user_id] = event.event_id
    theirs = job_lists([packed for packed, _ in pairs], catalogue, scorer)
    ours = score(scorer, catalogue, [request for _, request in pairs], K)

    assert len(pairs) == len(events) - 16
    for (packed, request), job, evaluated in zip(pairs, theirs, ours):
        sent = decode_packed_request(packed)
        assert (sent.interests, sent.consumed, sent.event_time_ms) == (request.interests, request.consumed, request.event_time_ms)
        assert job == [(item.item_id, pytest.approx(item.probability, rel=1e-5)) for item in evaluated]
