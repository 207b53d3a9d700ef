"""The ways that are compared."""

WAYS = {
    "bare_loop": "the functions in a loop: one process, no Kafka, Flink or store (the limit of a core)",
    "confluent_kafka": "a consumer written by hand: confluent-kafka, rocksdict, micro-batches",
    "quix": "Quix Streams: stateful, event by event",
    "plain_pyflink": "plain PyFlink: process mode, pickled state, torch for each event",
    "headrace": "Headrace",
    "headrace_parallelism_2": "Headrace at parallelism 2",
    "headrace_exactly_once": "Headrace, exactly once",
}
"""The ways, in the order in which they take turns."""
QUICK_WAYS = [name for name in WAYS if name not in ("headrace_parallelism_2", "headrace_exactly_once")]
