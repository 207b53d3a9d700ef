"""The ways that are compared."""

_TWO = "_parallelism_2"
_ONE = {
    "quix": "Quix Streams: stateful, event by event",
    "plain_pyflink": "plain PyFlink: process mode, pickled state, torch for each event",
    "headrace": "Headrace",
    "bare_loop": "the functions in a loop: one process, no Kafka, Flink or store (the limit of a core)",
    "confluent_kafka": "a consumer written by hand: confluent-kafka, rocksdict, micro-batches",
    "headrace_exactly_once": "Headrace, exactly once",
}
_AT_TWO = {
    "headrace": "Headrace at parallelism 2: two TaskManagers of one slot",
    "confluent_kafka": "the consumer written by hand: two processes of a group",
    "quix": "Quix Streams: two processes of a group",
    "plain_pyflink": "plain PyFlink at parallelism 2",
}
WAYS = _ONE | {f"{name}{_TWO}": what for name, what in _AT_TWO.items()}
"""The ways, in the order in which they take turns. Those that are asked at half of Headrace's load come after it."""
STATE = "keyed_state"
"""What is measured beside the ways: checkpoints of many users."""
PARTS = (*WAYS, STATE)
QUICK_WAYS = ["headrace", "bare_loop"]
ASKED_FOR = ("plain_pyflink_parallelism_2", "quix_parallelism_2")
"""Slow ways whose second process tells nothing new: by `--only`, so that all else takes less than eight minutes."""


def way_of(name: str) -> tuple[str, int]:
    """A way, and its parallelism.

    >>> way_of("quix_parallelism_2"), way_of("quix")
    (('quix', 2), ('quix', 1))
    """
    return name.removesuffix(_TWO), 2 if name.endswith(_TWO) else 1
