"""How long learning takes: fine-tunings on the next events of a made-up stream, one after the other."""

import time
from statistics import median

from model.finetune import Learner
from model.schema import Event, Example, item_key
from scripts.benchmarks.scoring import EVENTS, RULES, World, examples

EVERY, ROUNDS = 500, 5
"""Events of a fine-tuning, as the evaluation has it, and how many are measured."""


def with_interests(world: World, given: list[Example]) -> list[Example]:
    """The same examples with what their users had done by then, as the job writes them."""
    from msgspec.structs import replace

    from model import user

    states: dict[str, bytes] = {}
    made, catalogue = [], world.catalogue
    for one in given:
        key = item_key(one.item_id)
        event = Event(one.event_id, one.user_id, "view", one.event_time_ms, one.item_id)
        after = user.update(
            states.get(one.user_id), user.embedded(event, key, catalogue.encoder, catalogue.lookup(key)), RULES
        )
        states[one.user_id] = after.state
        made.append(replace(one, interests=after.example.interests))
    return made


def seconds_per_1000(world: World) -> dict[str, float]:
    """Seconds that learning from 1,000 events takes, counting and the ranker's examples included."""
    learner = Learner(world.catalogue, seed=0, rules=RULES)
    stream = with_interests(world, examples(world.draw, EVENTS + EVERY * (ROUNDS + 1)))
    learner.add(stream[:EVENTS])
    learner.catch_up()
    times = []
    for round_ in range(ROUNDS + 1):
        first = EVENTS + round_ * EVERY
        learner.add(stream[first : first + EVERY])
        began = time.perf_counter()
        learner.fine_tune()
        times.append(time.perf_counter() - began)
    seconds = median(times[1:]) * 1_000 / EVERY
    return {"learning_s_per_1000": seconds, "learning_events_per_s": 1_000 / seconds}
