"""How much is learnt from how much."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingConfig:
    """How much is learnt from how much; the defaults are measured on ml-100k and ml-latest-2016."""

    window: int = 32  # events
    windows: int = 16  # of new events in a step, and as many replayed
    warm_up_epochs: float = 16.0  # of each new event by a step of the network
    epochs_per_event: float = 8.0  # the same once there were many
    warm_up_events: int = 20_000  # events that are many
    most_steps: int = 600  # of the network in one call
    live: float = 0.25  # share of what is learnt as the job asks: right after an event, not when the next one comes
    negatives: int = 1_024  # items that each target of a step is held against
    chunk: int = 100  # examples counted at once, where many come together
    neighbours: int = 128  # kept for an item in EASE's table
    ease_every: int = 5_000  # examples
    ease_items: int = 2_000  # those most chosen; of taste too
    ease_ridge: float = 200.0  # choices; of taste too
    taste_partners: int = 32  # kept for an item
    sample_rate: float = 0.4  # share of the examples that the ranker learns from
    warm_up_sample_rate: float = 0.75  # the same until there were many
    max_ranker_examples: int = 6_000  # examples for the ranker in one call
    ranker_replay: int = 6_000  # examples that the ranker replays
    ranker_batch: int = 128  # examples in one of its steps
    accumulate: int = 1  # parts of a step of the network, one after the other: less memory, the same step
    own_draws: bool = False  # ranker and network draw from generators of their own, as they do in several processes
    precision: str = "float32"  # of the network's steps; bfloat16: by autocast, weights stay float32


THOROUGH = TrainingConfig(epochs_per_event=16.0, warm_up_sample_rate=1.0, sample_rate=1.0, max_ranker_examples=20_000)
"""The ranker learns from every example, and the network sees each twice as often."""
