"""Reasons in words: what a signal and the past events that carried it say to a reader."""

from collections.abc import Callable

from model.schema import Reason
from model.signals import in_words


def say(reason: Reason, title: Callable[[str], str]) -> str:
    """One reason in words; a signal that is not known here still names what carried it.

    >>> say(Reason("network", 0.4, items=["m1"]), {"m1": "Toy Story"}.get)
    'because of Toy Story'
    >>> say(Reason("popularity-200", 0.4), str)
    'trending now'
    >>> say(Reason("new", 1.0), str)
    'new, and close to an interest'
    >>> say(Reason("keywords", 0.4, items=["m1"], keywords=["space", "robots"]), {"m1": "Toy Story"}.get)
    'about space, robots, like Toy Story'
    >>> say(Reason("night-time", 0.4), str)
    'night time'
    >>> say(Reason("related", 0.4, items=["Heat"], relation="film.film.directed_by"), str)
    'directed by the same as Heat'
    """
    return in_words(reason).replace("{}", " and ".join(map(title, reason.items)))
