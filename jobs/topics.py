"""Topics: how the job reads and writes them.

Sources and sinks are Kafka tables in raw format: bytes in, bytes out, keys and record positions included. All of it
runs inside the JVM, so no Python step stands between Kafka and the first UDF.
"""

from jobs.settings import Settings

POSITION = {
    "topic": "STRING METADATA VIRTUAL",
    "partition": "INT METADATA VIRTUAL",
    "offset": "BIGINT METADATA VIRTUAL",
}
MAX_REQUEST_BYTES = 33_554_432
DISCOVERY_S = 60
"""So often the job looks for new partitions of the topics that it reads; Flink's default is five minutes."""
LINGER_MS = 5
PATIENT_LINGER_MS = 100
"""How long a record waits for others on its way to Kafka: a list hardly, the learner's longer, in fewer requests."""
TRANSACTION_TIMEOUT_MS = 900_000
"""The broker's limit; Flink's own default, one hour, is above it and stops the job at start."""


def source(settings: Settings, name: str, startup: str = "group-offsets", key: str | None = None) -> str:
    """DDL of the table that reads the topic `name`: the key (if asked for), `value`, and the record's position."""
    columns = ({key: "BYTES"} if key else {}) | {"value": "BYTES"} | POSITION
    options = {"scan.startup.mode": startup, "properties.group.id": f"{settings.topic_prefix}headrace"}
    options["properties.auto.offset.reset"] = "earliest"
    options["scan.topic-partition-discovery.interval"] = f"{DISCOVERY_S} s"
    return _table(settings, name, f"read_{name}", columns, options, key)


def sink(settings: Settings, name: str, key: str | None = None) -> str:
    """DDL of the table that writes the topic `name`: the key (if given), `value`."""
    columns = ({key: "STRING"} if key else {}) | {"value": "BYTES"}
    options = {
        "sink.delivery-guarantee": settings.delivery,
        "sink.transactional-id-prefix": f"headrace-{settings.topic_prefix}{name}",
        "properties.max.request.size": str(MAX_REQUEST_BYTES),
        "properties.transaction.timeout.ms": str(TRANSACTION_TIMEOUT_MS),
        "properties.linger.ms": str(LINGER_MS if name == "recommendations" else PATIENT_LINGER_MS),
    }
    return _table(settings, name, f"write_{name}", columns, options, key)


def table_of(way: str, name: str) -> str:
    """The table that `source` ("read") or `sink` ("write") made for a topic."""
    return f"{way}_{name}".replace("-", "_")


def _table(
    settings: Settings, name: str, table: str, columns: dict[str, str], options: dict[str, str], key: str | None
) -> str:
    options |= {"connector": "kafka", "topic": settings.topic(name), "value.format": "raw"}
    options |= {"properties.bootstrap.servers": settings.bootstrap_servers}
    if key:
        options |= {"key.format": "raw", "key.fields": key, "value.fields-include": "EXCEPT_KEY"}
    fields = ", ".join(f"`{column}` {kind}" for column, kind in columns.items())
    pairs = ", ".join(f"'{option}' = '{value}'" for option, value in options.items())
    return f"CREATE TEMPORARY TABLE {table.replace('-', '_')} ({fields}) WITH ({pairs})"
