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

from jobs.settings import Settings, check_encoder, help_or_go_on, load_or_exit, usage

if __name__ == "__main__":
    help_or_go_on(sys.argv[1:], f"{__doc__}\n{usage()}")

from pyflink.common import Types
from pyflink.datastream import CheckpointingMode, DataStream, KeyedStream, OutputTag, StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway
from pyflink.table import DataTypes, StreamTableEnvironment, Table
from pyflink.table.expressions import col
from pyflink.table.udf import udf

from jobs import topics
from model.schema import RECORD_BYTES
from udfs.embed import Embed, EmbedItems
from udfs.interest import UpdateInterest, serving_versions, side_output
from udfs.score import Score

BUFFER_TIMEOUT_MS = 10
"""How long a record may wait for others on its way to the next task; Flink's default is 100 ms."""
BYTES = Types.PRIMITIVE_ARRAY(Types.BYTE())


@dataclass(frozen=True)
class Outputs:
    """What the job makes, as tables of bytes."""

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

    embed = Embed(settings.encoder, settings.device, *kafka, *worker, settings.max_future_s, settings.max_event_bytes)
    embedded = step(
        tables.to_data_stream(events.map(vectorised(embed, user_id="STRING", payload="BYTES"))),
        "embed",
        source="read-events",
    )
    # (user_id, Embedded | Rejected)

    update = UpdateInterest(settings.rules(), settings.fine_tune_every, settings.fine_tune_max_age_s)
    by_user = key_by_user(embedded).connect(versions.broadcast(serving_versions()))
    requests = step(by_user.process(update, BYTES), "update-interest")
    # Request

    score = Score(settings.rules(), settings.k, settings.device, *kafka, *worker, settings.registry_path)
    queued = requests.rescale()  # scoring runs in a task of its own: a micro-batch fills while the one before is scored
    scored = tables.from_data_stream(queued).map(
        vectorised(score, user_id="STRING", recommendation="BYTES", rejected="BYTES")
    )
    lists = tables.from_data_stream(step(tables.to_data_stream(scored), "score"))
    # (user_id, Recommendation, Rejected or null)

    embed_items = EmbedItems(settings.encoder, settings.device, *worker, settings.max_event_bytes)
    vectors = items.map(vectorised(embed_items, item_id="STRING", item_vector="BYTES", rejected="BYTES"))
    vectors = tables.from_data_stream(step(tables.to_data_stream(vectors), "embed-items"))
    # (item_id, ItemVector or null, Rejected or null)

    def side(name: str) -> Table:
        return tables.from_data_stream(beside(requests, side_output(name))).alias("value")

    rejected = side("rejected-events").union_all(_present(lists, "rejected")).union_all(_present(vectors, "rejected"))
    return Outputs(
        recommendations=lists.select(lists.user_id, lists.recommendation),
        item_vectors=vectors.filter(vectors.item_vector.is_not_null).select(vectors.item_id, vectors.item_vector),
        training_examples=with_user_id(side("training-examples")),
        fine_tune_requests=side("fine-tune-requests"),
        rejected_events=rejected,
    )


def read_versions(tables: StreamTableEnvironment, settings: Settings) -> DataStream:
    """The (value, partition, offset, whole) rows of `model-versions`: no value, or no text, does not stop it."""
    table = tables.sql_query(topics.bounded("model-versions", RECORD_BYTES))
    stream = tables.to_data_stream(table.select(*map(col, ("value", "partition", "offset", "whole"))))
    row = Types.ROW([BYTES, Types.INT(), Types.LONG(), Types.STRING()])
    stream._j_data_stream.getTransformation().setOutputType(row.get_java_type_info())
    return step(stream, "model-versions", source="read-model-versions")


def with_ticks(tables: StreamTableEnvironment, items: Table) -> Table:
    """The items, and among them a row of nulls a second.

    Flink notices that a worker process has ended when it next has rows for it, and then restarts the job. There may be
    no item for days. The streams are joined outside SQL: its planner would give each of them a worker of its own.
    """
    columns = {"item_id": "BYTES", "value": "BYTES", "topic": "STRING", "partition": "INT", "offset": "BIGINT"}
    nulls = ", ".join(f"CAST(NULL AS {kind}) AS `{name}`" for name, kind in (columns | {"whole": "STRING"}).items())
    tables.execute_sql("CREATE TEMPORARY TABLE ticks (tick BIGINT) WITH ('connector'='datagen', 'rows-per-second'='1')")
    ticks = step(tables.to_data_stream(tables.sql_query(f"SELECT {nulls} FROM ticks")), "ticks", source="read-ticks")
    read = step(tables.to_data_stream(items), "items", source="read-items")
    return tables.from_data_stream(read.union(ticks))


def with_user_id(examples: Table) -> Table:
    """Examples beside the user's id, which the JVM reads out of their JSON: from the keyed operator come bare bytes,
    and a row of two fields would cost more.
    """
    user_id = examples.value.decode("UTF-8").json_value("$.user_id", DataTypes.STRING())
    return examples.select(user_id.alias("user_id"), examples.value)


def _present(table: Table, column: str) -> Table:
    kept = getattr(table, column)
    return table.filter(kept.is_not_null).select(kept.alias("value"))


def vectorised(function, **columns: str):
    """A pandas UDF whose calls are micro-batches: all columns of a table in, these columns out."""
    kinds = {"STRING": DataTypes.STRING(), "BYTES": DataTypes.BYTES()}
    row = DataTypes.ROW([DataTypes.FIELD(name, kinds[kind]) for name, kind in columns.items()])
    return udf(function, result_type=row, func_type="pandas")


def key_by_user(stream: DataStream) -> KeyedStream:
    """Key (user_id, payload) rows by their first field inside the JVM.

    `DataStream.key_by` would put a Python map before the keyed operator, in a task of its own that fights with it over
    the interpreter; this is what it does after that map.
    """
    row = Types.ROW([Types.STRING(), BYTES])
    stream._j_data_stream.getTransformation().setOutputType(row.get_java_type_info())
    selector = get_gateway().jvm.org.apache.flink.streaming.api.functions.python.KeyByKeySelector()
    key = Types.ROW([Types.STRING()]).get_java_type_info()
    return KeyedStream(stream._j_data_stream.keyBy(selector, key), row, stream)


def beside(stream: DataStream, tag: OutputTag) -> DataStream:
    """A side output as it is: `DataStream.get_side_output` would put a Python map behind it, a call a record."""
    return DataStream(stream._j_data_stream.getSideOutput(tag.get_java_output_tag()))


def step(stream: DataStream, name: str, source: str | None = None) -> DataStream:
    """Give a step its name and uid together; what the planner put before it is named after it, a source by its own."""
    waiting, number = [stream._j_data_stream.getTransformation()], 0
    while waiting:
        transformation = waiting.pop()
        if transformation.getUid() is None:
            inputs = list(transformation.getInputs())
            label = source if source and not inputs else f"{name}-{number}" if number else name
            transformation.setName(label)
            transformation.setUid(label)
            waiting, number = waiting + inputs[::-1], number + 1
    return stream


def write(
    tables: StreamTableEnvironment, env: StreamExecutionEnvironment, outputs: Outputs, settings: Settings
) -> None:
    """Connect the outputs to their topics."""
    jvm, j_env = get_gateway().jvm, env._j_stream_execution_environment
    keys = {"recommendations": "user_id", "training-examples": "user_id", "item-vectors": "item_id"}
    names = [field.name.replace("_", "-") for field in fields(outputs)]
    before = j_env.getTransformations().size()
    statements = tables.create_statement_set()
    for name, field in zip(names, fields(outputs)):
        tables.execute_sql(topics.sink(settings, name, keys.get(name)))
        statements.add_insert(topics.table_of("write", name), getattr(outputs, field.name))
    statements.attach_as_datastream()
    for name, sink in zip(names, list(j_env.getTransformations())[before:], strict=True):
        step(DataStream(jvm.org.apache.flink.streaming.api.datastream.DataStream(j_env, sink)), f"write-{name}")


def environment(settings: Settings, jars: list[str]) -> tuple[StreamExecutionEnvironment, StreamTableEnvironment]:
    """Flink with the settings that the job's speed and safety depend on."""
    env = StreamExecutionEnvironment.get_execution_environment()
    if jars:
        env.add_jars(*jars)
    env.enable_checkpointing(settings.checkpoint_interval_ms, CheckpointingMode.EXACTLY_ONCE)
    env.set_buffer_timeout(BUFFER_TIMEOUT_MS)
    tables = StreamTableEnvironment.create(env)
    tables.get_config().set("python.execution-mode", "thread")
    tables.get_config().set("python.fn-execution.bundle.time", str(settings.bundle_time_ms))
    tables.get_config().set("python.fn-execution.bundle.size", str(settings.micro_batch))
    tables.get_config().set("python.fn-execution.arrow.batch.size", str(settings.micro_batch))
    # A worker process for each UDF: in a shared one, embedding and scoring wait for each other's interpreter lock.
    tables.get_config().set("python.fn-execution.memory.managed", "false")
    return env, tables


def build(settings: Settings, jars: Sequence[str] = ()) -> StreamExecutionEnvironment:
    """The whole job with its real sources and sinks, ready to be executed.

    Args:
        jars: addresses of the connector's jars, where the cluster does not have them in `lib/`.
    """
    env, tables = environment(settings, jars)
    tables.execute_sql(topics.source(settings, "events"))
    tables.execute_sql(topics.source(settings, "items", startup="earliest-offset", key="item_id"))
    tables.execute_sql(topics.source(settings, "model-versions", startup="earliest-offset"))
    events = tables.sql_query(topics.bounded("events", settings.max_event_bytes))
    items = with_ticks(tables, tables.sql_query(topics.bounded("items", settings.max_event_bytes, key="item_id")))
    outputs = recommend(tables, events, items, read_versions(tables, settings), settings)
    write(tables, env, outputs, settings)
    return env


def main(argv: list[str]) -> None:
    build(load_or_exit(argv, os.environ, __doc__, check_encoder)).execute("headrace")


if __name__ == "__main__":
    main(sys.argv[1:])
