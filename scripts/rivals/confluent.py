"""A consumer written by hand: confluent-kafka, states in rocksdict, micro-batches, the same functions. At least once.

python -m scripts.rivals.confluent FOLDER BROKER PREFIX STATE_FOLDER
"""

import sys
import time
from pathlib import Path

from scripts.rivals.functions import MICRO_BATCH, Functions, States, answer

FILL_S = 0.02
"""So long a micro-batch fills: as in Headrace."""
COMMIT_S = 5.0


def step(functions: Functions, states: States, consumer, producer, topic: str) -> int:
    """Answer one micro-batch and return how many lists it got."""
    messages = [message for message in consumer.consume(MICRO_BATCH, FILL_S) if message.error() is None]
    lists = answer(functions, states, [message.value() for message in messages]) if messages else []
    for user_id, made in lists:
        producer.produce(topic, made, user_id)
    producer.poll(0)
    return len(lists)


def commit(consumer, producer) -> None:
    """The lists are at the broker before their events count as read."""
    producer.flush()
    consumer.commit(asynchronous=False)


def main(folder: str, broker: str, prefix: str, state_folder: str) -> None:
    from confluent_kafka import Consumer, KafkaException, Producer
    from rocksdict import Rdict

    functions, states = Functions(Path(folder)), Rdict(state_folder)
    where = {"bootstrap.servers": broker}
    reading = {"group.id": f"{prefix}group", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer, producer = Consumer(where | reading), Producer(where | {"linger.ms": 5})
    consumer.subscribe([f"{prefix}events"])
    committed, answered = time.monotonic(), 0
    while True:
        answered += step(functions, states, consumer, producer, f"{prefix}recommendations")
        if answered and time.monotonic() - committed > COMMIT_S:
            try:
                commit(consumer, producer)
            except KafkaException as error:  # the next one may succeed
                print(error, file=sys.stderr)
            committed, answered = time.monotonic(), 0


if __name__ == "__main__":
    main(*sys.argv[1:])
