"""Reasons in words: what a signal and the past events that carried it say to a reader."""

from collections.abc import Callable

from model.schema import Reason

PHRASES = {
    "network": ("because of {}", "fits the latest events"),
    "interest": ("close to an interest in {}", "close to an interest"),
    "next-interest": ("where an interest in {} leads", "where the interests lead"),
    "transitions": ("often follows {}", "often comes next"),
    "recent-transitions": ("lately follows {}", "lately comes next"),
    "next": ("came right after {}", "comes right next"),
    "ease": ("goes together with {}", "goes together with past events"),
    "neighbour-users": ("taken around {} by users alike", "taken by users alike"),
    "text": ("reads like {}", "reads like past events"),
    "spread": ("reads like what follows {}", "reads like what comes next"),
    "taste": ("goes with {} in whole histories", "goes with the whole history"),
    "familiar": ("of the kind of {}", "of a familiar kind"),
    "apart": ("first chosen around {}", "first chosen around the same time"),
    "ahead": ("first chosen after {}", "first chosen later"),
    "had": ("chosen often before, beside {}", "chosen often before"),
    "had-lately": ("chosen before, not long ago, beside {}", "chosen before, not long ago"),
    "had-near": ("chosen a few events ago, beside {}", "chosen a few events ago"),
    "age": ("how new it is, beside {}", "how new it is"),
    "popularity": ("popular with those of {}", "popular"),
    "popularity-20k": ("lately popular with those of {}", "lately popular"),
    "popularity-2k": ("trending with those of {}", "trending"),
    "popularity-200": ("trending now with those of {}", "trending now"),
    "search": ("fits the latest search, beside {}", "fits the latest search"),
    "disliked": ("unlike what was disliked, beside {}", "unlike what was disliked"),
    "liked": ("close to {}", "close to what was liked or bought"),
    "new": ("new, and close to an interest in {}", "new, and close to an interest"),
}
"""Signal, term or exploration -> (what is said with past events, what is said without)."""


def say(reason: Reason, title: Callable[[str], str]) -> str:
    """One reason in words; a signal that is not known here still names what carried it.

    >>> say(Reason("network", 0.4, items=["m1"]), {"m1": "Toy Story"}.get)
    'because of Toy Story'
    >>> say(Reason("popularity-200", 0.4), str)
    'trending now'
    >>> say(Reason("new", 1.0), str)
    'new, and close to an interest'
    >>> say(Reason("night-time", 0.4), str)
    'night time'
    """
    carried, alone = PHRASES.get(reason.signal, ("because of {}", reason.signal.replace("-", " ")))
    titles = " and ".join(title(item_id) for item_id in reason.items)
    return carried.format(titles) if titles else alone
