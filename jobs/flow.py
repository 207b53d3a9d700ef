"""What PyFlink lacks: keying and side outputs without a call into Python, vectorised steps, names with uids.

Names and uids are for ever: a savepoint finds its state by them.
"""

from collections.abc import Mapping, Sequence

from pyflink.common import Types
from pyflink.common.typeinfo import RowTypeInfo, TypeInformation
from pyflink.datastream import CheckpointingMode, DataStream, KeyedStream, OutputTag, StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway
from pyflink.table import DataTypes, StreamTableEnvironment, Table
from pyflink.table.expressions import col
from pyflink.table.udf import udf

from jobs import topics
from jobs.settings import Settings

BUFFER_TIMEOUT_MS = 10
"""How long a record may wait for others on its way to the next task; Flink's default is 100 ms."""
BYTES = Types.PRIMITIVE_ARRAY(Types.BYTE())
SOURCE_ROW = {"value": BYTES, "partition": Types.INT(), "offset": Types.LONG(), "whole": Types.STRING()}


def environment(settings: Settings, jars: Sequence[str]) -> tuple[StreamExecutionEnvironment, StreamTableEnvironment]:
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
    row = _typed(stream, [Types.STRING(), BYTES])
    selector = get_gateway().jvm.org.apache.flink.streaming.api.functions.python.KeyByKeySelector()
    key = Types.ROW([Types.STRING()]).get_java_type_info()
    return KeyedStream(stream._j_data_stream.keyBy(selector, key), row, stream)


def beside(stream: DataStream, tag: OutputTag) -> DataStream:
    """A side output as it is: `DataStream.get_side_output` would put a Python map behind it, a call a record."""
    return DataStream(stream._j_data_stream.getSideOutput(tag.get_java_output_tag()))


def read_rows(tables: StreamTableEnvironment, name: str, most: int) -> DataStream:
    """The (value, partition, offset, whole) rows of a topic: no value, or no text, does not stop it."""
    table = tables.sql_query(topics.bounded(name, most))
    stream = tables.to_data_stream(table.select(*map(col, SOURCE_ROW)))
    _typed(stream, [*SOURCE_ROW.values()])
    return step(stream, name, source=f"read-{name}")


def _typed(stream: DataStream, kinds: Sequence[TypeInformation]) -> RowTypeInfo:
    """Tell Flink what a stream's rows hold, which a table does not tell in types that Python's operators read."""
    row = Types.ROW(kinds)
    stream._j_data_stream.getTransformation().setOutputType(row.get_java_type_info())
    return row


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


def present(table: Table, column: str) -> Table:
    """The values of a column that are not null."""
    kept = getattr(table, column)
    return table.filter(kept.is_not_null).select(kept.alias("value"))


def write(
    tables: StreamTableEnvironment, env: StreamExecutionEnvironment, outputs: Mapping[str, Table], settings: Settings
) -> None:
    """Write (key, value) or (value) tables to the topics of these names; the key's column is named as in the table."""
    jvm, j_env = get_gateway().jvm, env._j_stream_execution_environment
    before = j_env.getTransformations().size()
    statements = tables.create_statement_set()
    for name, table in outputs.items():
        *key, _ = table.get_schema().get_field_names()
        tables.execute_sql(topics.sink(settings, name, *key))
        statements.add_insert(topics.table_of("write", name), table)
    statements.attach_as_datastream()
    for name, sink in zip(outputs, list(j_env.getTransformations())[before:], strict=True):
        step(DataStream(jvm.org.apache.flink.streaming.api.datastream.DataStream(j_env, sink)), f"write-{name}")
