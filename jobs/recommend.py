"""The main job: behaviour events in, top-k lists out.

events ──► embed ──► key by user ──► update-interest ──► score ──► recommendations
                                      │   ▲     │          └─────► rejected-events
model-versions ── broadcast ──────────┼───┘     ├────────────────► training-examples
                                      │         └────────────────► fine-tune-requests
                                      └──────────────────────────► rejected-events
items ───► embed-items ──────────────────────────────────────────► item-vectors, rejected-events

flink run -py jobs/recommend.py [--SETTING VALUE ...]
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields

from jobs.settings import CHECKS, Settings, help_or_go_on, load_or_exit, usage

if __name__ == "__main__":
    help_or_go_on(sys.argv[1:], f"{__doc__}\n{usage()}")

from pyflink.datastream import DataStream, StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment, Table

from jobs import flow, topics
from jobs.flow import present, step, vectorised
from model.schema import RECORD_BYTES
from udfs.embed import Embed, EmbedItems, EncoderConfig
from udfs.interest import UpdateInterest, serving_versions, side_output
from udfs.score import Follows, ListConfig, Score


@dataclass(frozen=True)
class Outputs:
    """What the job makes, as tables of bytes, each for the topic of its name."""

    recommendations: Table  # user_id, value
    item_vectors: Table  # item_id, value
    training_examples: Table  # user_id, value
    fine_tune_requests: Table  # value
    rejected_events: Table  # value


def recommend(
    tables: StreamTableEnvironment, events: Table, items: Table, versions: DataStream, settings: Settings
) -> Outputs:
    """The topology, from streams to streams.

    Args:
        events, items: (value, topic, partition, offset, whole), items with their item_id before it: `topics.bounded`.
        versions: (value, partition, offset, whole), JSON of `ModelVersion`.
    """
    kafka = (settings.bootstrap_servers, settings.topic("item-vectors"))
    worker = (settings.replica_path, settings.udf_threads)
    precision, media = settings.encoder_precision, settings.media()
    encoder = EncoderConfig(settings.encoder, settings.device, settings.udf_threads, precision, media)

    embed = Embed(encoder, *kafka, settings.replica_path, settings.max_future_s, settings.max_event_bytes)
    embedded = tables.to_data_stream(events.map(vectorised(embed, user_id="STRING", payload="BYTES")))
    embedded = step(embedded, "embed", source="read-events")
    # (user_id, Embedded | Rejected)

    update = UpdateInterest(settings.rules(), settings.fine_tune_every, settings.fine_tune_max_age_s)
    by_user = flow.key_by_user(embedded).connect(versions.broadcast(serving_versions()))
    requests = step(by_user.process(update, flow.BYTES), "update-interest")
    # Request

    examples = settings.topic("training-examples"), settings.replay_capacity
    follows = Follows(*kafka, *examples, settings.statistics(), settings.max_future_s, settings.topic("items"))
    switched = settings.joint(), settings.families(), settings.slate()
    if settings.user_facts == "on":
        follows = follows._replace(users=settings.topic("users"))
    made = ListConfig(settings.k, settings.answers, settings.network_precision, *switched)
    score = Score(settings.rules(), made, settings.device, follows, *worker, settings.registry_path)
    queued = requests.rescale()  # scoring runs in a task of its own: a micro-batch fills while the one before is scored
    scored = tables.from_data_stream(queued).map(
        vectorised(score, user_id="STRING", recommendation="BYTES", rejected="BYTES")
    )
    lists = tables.from_data_stream(step(tables.to_data_stream(scored), "score"))
    # (user_id, Recommendation or null, Rejected or null)

    embed_items = EmbedItems(encoder, settings.replica_path, settings.max_event_bytes, settings.keywords)
    vectors = items.map(vectorised(embed_items, item_id="STRING", item_vector="BYTES", rejected="BYTES"))
    vectors = tables.from_data_stream(step(tables.to_data_stream(vectors), "embed-items"))
    # (item_id, ItemVector or null, Rejected or null; both where media cannot be used)

    def side(name: str) -> Table:
        return tables.from_data_stream(flow.beside(requests, side_output(name))).alias("value")

    rejected = side("rejected-events").union_all(present(lists, "rejected")).union_all(present(vectors, "rejected"))
    return Outputs(
        recommendations=lists.filter(lists.recommendation.is_not_null).select(lists.user_id, lists.recommendation),
        item_vectors=vectors.filter(vectors.item_vector.is_not_null).select(vectors.item_id, vectors.item_vector),
        training_examples=flow.with_user_id(side("training-examples")),
        fine_tune_requests=side("fine-tune-requests"),
        rejected_events=rejected,
    )


def build(settings: Settings, jars: Sequence[str] = ()) -> StreamExecutionEnvironment:
    """The whole job with its real sources and sinks, ready to be executed.

    Args:
        jars: addresses of the connector's jars, where the cluster does not have them in `lib/`.
    """
    env, tables = flow.environment(settings, jars)
    tables.execute_sql(topics.source(settings, "events"))
    tables.execute_sql(topics.source(settings, "items", startup="earliest-offset", key="item_id"))
    tables.execute_sql(topics.source(settings, "model-versions", startup="earliest-offset"))
    events = tables.sql_query(topics.bounded("events", settings.max_event_bytes))
    items = tables.sql_query(topics.bounded("items", settings.max_event_bytes, key="item_id"))
    items = flow.with_ticks(tables, items)
    versions = flow.read_rows(tables, "model-versions", RECORD_BYTES)
    outputs = recommend(tables, events, items, versions, settings)
    by_topic = {field.name.replace("_", "-"): getattr(outputs, field.name) for field in fields(outputs)}
    flow.write(tables, env, by_topic, settings)
    return env


def main(argv: list[str]) -> None:
    build(load_or_exit(argv, os.environ, __doc__, *CHECKS)).execute("headrace")


if __name__ == "__main__":
    main(sys.argv[1:])
