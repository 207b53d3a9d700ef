"""Topics: how the job reads and writes them.

Sources and sinks are Kafka tables in raw format: bytes in, bytes out, keys and record positions included. All of it
runs inside the JVM, so no Python step stands between Kafka and the first UDF.

Nothing here needs other limits than Kafka's own. A producer may still send 30 MB that compress to less: so few records
are fetched at once, and what is too large is cut (`bounded`) before it reaches Python.
"""

from jobs.settings import Settings
from model.schema import RAW_BYTES

POSITION = {
    "topic": "STRING METADATA VIRTUAL",
    "partition": "INT METADATA VIRTUAL",
    "offset": "BIGINT METADATA VIRTUAL",
}
MAX_POLL_RECORDS = 1
"""How many records the source takes from Kafka's client at once. Several such sets wait in the TaskManager's heap of
half a gigabyte, and Kafka's own default is 500, of whatever size they have when they are unpacked.
"""
COUNTED_CHARS = 4_000_000
"""Of a larger record characters are counted, not bytes."""
KEY_CHARS = 257
"""So much of a record's key is read: one character more than an id may have."""
DISCOVERY_S = 60
"""So often the job looks for new partitions of the topics that it reads; Flink's default is five minutes."""
LINGER_MS = 5
PATIENT_LINGER_MS = 100
"""How long a record waits for others on its way to Kafka: a list hardly, the learner's longer, in fewer requests."""
TRANSACTION_TIMEOUT_MS = 900_000
"""The broker's limit; Flink's own default, one hour, is above it and stops the job at start."""


def source(settings: Settings, name: str, startup: str = "group-offsets", key: str | None = None) -> str:
    """DDL of the table that reads the topic `name`: the key (if asked for), `value`, and the record's position.

    Both are of type STRING, and yet hold the record's bytes as they are, UTF-8 or not: the raw format looks into
    neither, and SQL has functions for STRING that it has not for BYTES. `bounded` makes bytes of them.
    """
    columns = ({key: "STRING"} if key else {}) | {"value": "STRING"} | POSITION
    options = {"scan.startup.mode": startup, "properties.group.id": f"{settings.topic_prefix}headrace"}
    options |= {"properties.auto.offset.reset": "earliest", "properties.max.poll.records": str(MAX_POLL_RECORDS)}
    options["scan.topic-partition-discovery.interval"] = f"{DISCOVERY_S} s"
    return _table(settings, name, f"read_{name}", columns, options, key)


def bounded(name: str, most: int, key: str | None = None) -> str:
    """A query of the records of `source`, of which none is large: (key, `value`, topic, partition, offset, `whole`).

    A value of more than `most` characters (of at most 4 bytes) is cut to its beginning, and `whole` says how many bytes
    it had, and their SHA-256; null where `value` is whole. Bytes are counted as characters of ISO-8859-1, which takes
    several copies of them; of more than `COUNTED_CHARS`, which only compression can bring, a character counts once.
    """
    large = f"CHAR_LENGTH(`value`) > {most}"
    octets = "CHAR_LENGTH(DECODE(CAST(`value` AS BYTES), 'ISO-8859-1'))"
    length = f"CASE WHEN CHAR_LENGTH(`value`) > {COUNTED_CHARS} THEN CHAR_LENGTH(`value`) ELSE {octets} END"
    columns = [f"CAST(SUBSTRING(`{key}`, 1, {KEY_CHARS}) AS BYTES) AS `{key}`"] if key else []
    columns += [
        f"CAST(CASE WHEN {large} THEN SUBSTRING(`value`, 1, {RAW_BYTES}) ELSE `value` END AS BYTES) AS `value`",
        *(f"`{column}`" for column in POSITION),
        f"CASE WHEN {large} THEN CONCAT(CAST({length} AS STRING), ' ', SHA256(`value`)) END AS `whole`",
    ]
    return f"SELECT {', '.join(columns)} FROM {table_of('read', name)}"


def sink(settings: Settings, name: str, key: str | None = None) -> str:
    """DDL of the table that writes the topic `name`: the key (if given), `value`."""
    columns = ({key: "STRING"} if key else {}) | {"value": "BYTES"}
    options = {
        "sink.delivery-guarantee": settings.delivery,
        "sink.transactional-id-prefix": f"headrace-{settings.topic_prefix}{name}",
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
