"""Reasons in words: what a signal and the past events that carried it say to a reader."""

from collections.abc import Callable

from model.schema import Reason
from model.signals import ALL, Signal


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
    signal = ALL.get(reason.signal) or Signal("because of {}", reason.signal.replace("-", " "))
    titles = " and ".join(title(item_id) for item_id in reason.items)
    if titles and reason.relation:
        return f"{_same(reason.relation)} as {titles}"
    said = signal.because.format(titles) if titles else signal.alone
    return f"about {', '.join(reason.keywords)}, {said}" if reason.keywords else said


def _same(relation: str) -> str:
    """A relation of a knowledge graph as words: the last part of its name.

    >>> _same("director"), _same("film.film.written_by")
    ('same director', 'written by the same')
    """
    words = relation.rsplit(".", maxsplit=1)[-1].rsplit("/", maxsplit=1)[-1].replace("_", " ").strip() or relation
    return f"{words} the same" if words.endswith(" by") else f"same {words}"
