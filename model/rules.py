"""The rules by which a user's state is kept and read. They are settings: whoever reads those loads nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field

MOST_INTERESTS, MOST_EVENTS = 128, 255
"""What the layout can hold: the number of the last interest is a signed byte, the number of events a byte."""
FOREVER = float("inf")
EXCLUDE_S = {"dislike": FOREVER, "skip": FOREVER, "rating": FOREVER, "purchase": 30 * 86_400.0}
"""How long an item is not listed after an action, in seconds, by default. After others it may come again: learnt."""


@dataclass(frozen=True)
class Rules:
    """How a user's state is kept and read; the defaults are those of the settings."""

    max_interests: int = 6
    last_n: int = 20
    half_life_s: float = 7 * 86_400.0
    merge_similarity: float = 0.5
    rating_scale: tuple[float, float] = (1.0, 5.0)
    max_consumed: int = 4_096
    exclude_s: Mapping[str, float] = field(default_factory=lambda: EXCLUDE_S)
