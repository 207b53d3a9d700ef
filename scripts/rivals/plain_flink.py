"""The PyFlink job that one writes first: a Python process, keyed state with a pickled dict, torch for each event.

flink run -py scripts/rivals/plain_flink.py FOLDER BROKER PREFIX
"""

import json
import sys
from pathlib import Path

from pyflink.common import Configuration, SimpleStringSchema, Types, WatermarkStrategy
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import (
    KafkaOffsetsInitializer,
    KafkaRecordSerializationSchema,
    KafkaSink,
    KafkaSource,
)
from pyflink.datastream.functions import KeyedProcessFunction
from pyflink.datastream.state import ValueStateDescriptor

CHECKPOINT_MS = 10_000


class Recommend(KeyedProcessFunction):
    """JSON of an event, keyed by user -> JSON of the list that answers it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def open(self, runtime_context) -> None:
        from scripts.rivals.functions import Functions

        self._functions = Functions(Path(self._folder))
        self._state = runtime_context.get_state(ValueStateDescriptor("user", Types.PICKLED_BYTE_ARRAY()))

    def process_element(self, value: str, ctx):
        event = self._functions.decode(value.encode())
        user = self._state.value() or {"state": None, "events": 0}
        user["state"], request = self._functions.update(user["state"], event)
        user["events"] += 1
        self._state.update(user)
        for _, made in self._functions.score([request] if request else []):
            yield made.decode()


def main(folder: str, broker: str, prefix: str) -> None:
    config = Configuration()
    config.set_string("python.execution-mode", "process")
    env = StreamExecutionEnvironment.get_execution_environment(config)
    env.enable_checkpointing(CHECKPOINT_MS)
    source = (
        KafkaSource.builder()
        .set_bootstrap_servers(broker)
        .set_topics(f"{prefix}events")
        .set_group_id(f"{prefix}group")
        .set_starting_offsets(KafkaOffsetsInitializer.earliest())
        .set_value_only_deserializer(SimpleStringSchema())
        .build()
    )
    record = (
        KafkaRecordSerializationSchema.builder()
        .set_topic(f"{prefix}recommendations")
        .set_value_serialization_schema(SimpleStringSchema())
        .build()
    )
    sink = (
        KafkaSink.builder()
        .set_bootstrap_servers(broker)
        .set_record_serializer(record)
        .set_delivery_guarantee(DeliveryGuarantee.AT_LEAST_ONCE)
        .build()
    )
    events = env.from_source(source, WatermarkStrategy.no_watermarks(), "events")
    by_user = events.key_by(lambda raw: json.loads(raw)["user_id"], key_type=Types.STRING())
    by_user.process(Recommend(folder), output_type=Types.STRING()).sink_to(sink)
    env.execute("plain-pyflink")


if __name__ == "__main__":
    main(*sys.argv[1:])
