"""Evaluation and job are one path: from one stream and version the same lists and examples, by every action."""

import itertools
import json
from collections import deque
from threading import Lock
from types import SimpleNamespace
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd
import pytest

from model.bounds import StatisticsConfig
from model.evaluate import PrequentialStep, Protocol, Users, evaluate, new_learner
from model.interest import ACTIONS, Rules, interest_space
from model.schema import Event, Example, Request, encode_json, encode_packed
from model.score import score
from tests.test_evaluate import make_events
from tests.test_score import DIM, make_catalogue
from tests.test_udfs import FakeJob
from udfs.embed import Embed, EncoderConfig
from udfs.score import Follows, ListConfig, Score

K, BEGIN_MS = 10, 1_700_000_001_000
CYCLE = (
    "view", "click", "search", "cart", "purchase", "view", "rating", "like", "skip",
    "impression", "view", "dislike", "click", "search", "view", "rating",
)  # fmt: skip
"""One action after the other, so that every one of them comes before and after many others."""
RATINGS = (None, 1.0, 5.0, 3.0, 2.5)


def query_vector(query: str) -> np.ndarray:
    """Stands for the language model."""
    drawn = np.random.default_rng(list(query.encode())).standard_normal(DIM).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def of_action(event: Event, at: int, action: str) -> Event:
    """The event by another action, with what belongs to that; now and then on an item that nobody knows."""
    item_id = "nowhere" if at % 17 == 5 else event.item_id
    if action == "search":
        return msgspec.structs.replace(event, action=action, item_id=None, query=f"words {at % 5}")
    if action in ("impression", "forget"):
        return msgspec.structs.replace(event, action=action, item_id=None if at % 2 else item_id)
    value = RATINGS[at % len(RATINGS)] if action == "rating" else None
    return msgspec.structs.replace(event, action=action, item_id=item_id, value=value)


@pytest.fixture(scope="module")
def events() -> list[Event]:
    """Sixteen users do all that there is to do: some are forgotten, some events come again, some at one time."""
    random = np.random.default_rng(4)
    events = [msgspec.structs.replace(event, user_id=f"u{random.integers(16)}") for event in make_events(48, 8)]
    events = [
        of_action(event, at, "forget" if at % 41 == 40 else CYCLE[at % len(CYCLE)]) for at, event in enumerate(events)
    ]
    again = {at: at - int(random.integers(1, 30)) for at in range(60, len(events), 11)}
    events = [
        one for at, event in enumerate(events) for one in ([event, events[again[at]]] if at in again else [event])
    ]
    return [
        msgspec.structs.replace(event, event_time_ms=BEGIN_MS + event.event_time_ms - event.event_time_ms % 3_000)
        for event in events
    ]


@pytest.fixture(scope="module")
def catalogue():
    return make_catalogue()


class Sent(NamedTuple):
    """What the job makes of an event: a request, or none, and an example, or none."""

    request: Request | None
    example: Example | None


@pytest.fixture(scope="module")
def sent(events, catalogue) -> list[Sent]:
    """Every event through embed and update-interest, each in its own micro-batch."""
    embed = Embed(
        EncoderConfig("tiny", "cpu", 1), "nowhere:9092", "item-vectors", "/nowhere", max_future_s=300, max_bytes=10_000
    )
    embed._encoder = SimpleNamespace(
        version=catalogue.encoder_version, embed=lambda texts: np.stack([query_vector(text) for text in texts])
    )
    embed._number, embed._interest_space = catalogue.encoder, interest_space
    embed._follower = SimpleNamespace(catalogue=catalogue, refresh=lambda: None)
    jobs: dict[str, FakeJob] = {}
    made = []
    for at, event in enumerate(events):
        row = pd.DataFrame([(encode_json(event), "events", 0, at)], columns=["value", "topic", "partition", "offset"])
        [(user_id, payload)] = embed.eval(row).itertuples(index=False, name=None)
        job = jobs.setdefault(user_id, FakeJob(max_consumed=4_096))
        told = dict(job._told(job.update.process_element(payload, job.context)))
        made.append(Sent(told.get("main"), told.get("training-examples")))
    return made


@pytest.fixture(scope="module")
def asked(events, catalogue) -> list[PrequentialStep]:
    """Every event through the evaluation's users."""
    users = Users(catalogue, Rules(), query_vector)
    return [users.ask(event) for event in events]


@pytest.fixture(scope="module")
def pairs(events, sent, asked) -> list[tuple[Request, Request]]:
    """The list that the job asks for after an event, and that of the evaluation, live, before the user's next."""
    last, found = {}, []
    for event, job, evaluated in zip(events, sent, asked):
        if event.user_id in last:
            found.append((last[event.user_id], evaluated.live().request))
        if job.request is not None:
            last[event.user_id] = job.request
    return found


def job_lists(requests: list[Request], catalogue, scorer, statistics) -> list[list[tuple[str, float]]]:
    """What the score UDF answers, with this scorer as the version that serves and these statistics followed."""
    follows = Follows("nowhere:9092", "item-vectors", "training-examples", 1_000, StatisticsConfig(), 300.0)
    udf = Score(Rules(), ListConfig(K), "cpu", follows, "/nowhere", 1, "/nowhere")
    udf._score, udf._follower = score, SimpleNamespace(catalogue=catalogue, rejected=deque(), refresh=lambda: None)
    udf._scorers = SimpleNamespace(first=lambda versions, statistics, catalogue: ("v1", scorer, []))
    udf._statistics = SimpleNamespace(statistics=statistics, lock=Lock(), answered=lambda requests: None)
    answers = udf.eval(pd.DataFrame({"request": [encode_packed(request) for request in requests]}))["recommendation"]
    return [[(item["item_id"], item["probability"]) for item in json.loads(answer)["items"]] for answer in answers]


def test_every_action_comes_and_events_come_again(events):
    """What this file tries is all that there is: no action is left out, and some of each kind of trouble is in it."""
    ids = [(event.user_id, event.event_id) for event in events]

    assert set(ACTIONS) == {event.action for event in events}
    assert len(ids) - len(set(ids)) > 20
    assert any(event.item_id == "nowhere" for event in events)
    assert {1.0, 5.0, None} < {event.value for event in events if event.action == "rating"}
    assert any(
        one.event_time_ms == other.event_time_ms and one.user_id == other.user_id
        for one, other in itertools.pairwise(events)
    )


def test_the_requests_of_the_job_are_those_of_the_evaluation(pairs):
    """Byte by byte: interests, items had, and the time of the list. After a forget the user is a new one to both."""
    assert len(pairs) > 300
    for job, evaluated in pairs:
        assert (job.interests, job.consumed, job.event_time_ms) == (
            evaluated.interests,
            evaluated.consumed,
            evaluated.event_time_ms,
        )
        assert job.live and evaluated.live
    assert any(job.forget for job, _ in pairs)


def test_the_examples_of_the_job_are_those_of_the_evaluation(sent, asked):
    """What is learnt is the same: which events, with which interests, and which list was shown."""
    examples = [(job.example, evaluated.example) for job, evaluated in zip(sent, asked)]

    assert [job for job, _ in examples] == [evaluated for _, evaluated in examples]
    assert {"view", "click", "cart", "purchase", "rating", "like", ""} == {job.action for job, _ in examples if job}


def test_the_job_asks_for_a_list_where_the_evaluation_moves_on(events, sent, asked):
    """A repeated event and an impression ask for none, and the user's next list is as old as before."""
    silent = [at for at, job in enumerate(sent) if job.request is None]

    assert {"impression"} < {events[at].action for at in silent}
    assert all(job.example is None for job in sent if job.request is None)
    assert [job.request is None for job in sent] == [_repeated_or_shown(events, at) for at in range(len(events))]


def _repeated_or_shown(events: list[Event], at: int) -> bool:
    """Whether an event is an impression, or came before since the user was forgotten last."""
    event, before = events[at], []
    for one in events[:at]:
        if one.user_id == event.user_id:
            before = [] if one.action == "forget" else [*before, one.event_id]
    return event.action == "impression" or (event.action != "forget" and event.event_id in before)


def test_the_lists_of_the_job_are_those_of_the_evaluation(events, pairs, catalogue):
    """The same items with the same probabilities, by a version that learnt from all; who was forgotten gets none."""
    queries = {event.query: query_vector(event.query) for event in events if event.query}
    protocol = Protocol(fine_tune_every=120)
    learner = new_learner(catalogue, protocol)
    scorer = evaluate(events, catalogue, protocol, learner=learner, methods=(), queries=queries).scorer
    theirs = job_lists([job for job, _ in pairs], catalogue, scorer, learner.statistics)
    ours = score(scorer, learner.statistics, catalogue, [evaluated for _, evaluated in pairs], K)

    for (job, _), list_, evaluated in zip(pairs, theirs, ours):
        wanted = [] if job.forget else [(item.item_id, pytest.approx(item.probability, rel=1e-5)) for item in evaluated]
        assert list_ == wanted
