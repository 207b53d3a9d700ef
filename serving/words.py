"""Reasons in words: what a signal and the past events that carried it say to a reader."""

from collections.abc import Callable

from model.schema import Reason

PHRASES = {
    "network": ("because of {}", "fits the latest events"),
    "popular": ("popular with those of {}", "popular"),
    "lately-popular": ("lately popular with those of {}", "lately popular"),
    "trending": ("trending with those of {}", "trending"),
    "trending-now": ("trending now with those of {}", "trending now"),
    "age": ("how new it is, beside {}", "how new it is"),
    "transitions": ("often follows {}", "often comes next"),
    "recent-transitions": ("lately follows {}", "lately comes next"),
    "next": ("came right after {}", "comes right next"),
    "ease": ("goes together with {}", "goes together with past events"),
    "peers": ("taken around {} by users alike", "taken by users alike"),
    "had": ("had before, as {}", "had before"),
    "had-lately": ("had lately, as {}", "had lately"),
    "had-near": ("had just now, as {}", "had just now"),
    "text": ("reads like {}", "reads like past events"),
    "spread": ("like what follows {}", "like what often comes next"),
    "taste": ("taken by those who had {}", "taken by those who had the same"),
    "familiar": ("like much that was had, as {}", "like much that was had"),
    "apart": ("from the time of {}", "from the time of past events"),
    "ahead": ("newer than {}", "newer than past events"),
    "interest": ("close to an interest in {}", "close to an interest"),
    "next-interest": ("where an interest in {} leads", "where the interests lead"),
    "search": ("fits the search, as {}", "fits the search"),
    "disliked": ("unlike {}", "unlike what was disliked"),
    "liked": ("close to what was liked, as {}", "close to what was liked"),
    "new": ("new, and close to {}", "new, and close to an interest"),
}
"""Signal -> (what is said with past events, what is said without)."""


def say(reason: Reason, title: Callable[[str], str]) -> str:
    """One reason in words; a signal that is not known here still names what carried it.

    >>> say(Reason("network", 0.4, items=["m1"]), {"m1": "Toy Story"}.get)
    'because of Toy Story'
    >>> say(Reason("trending-now", 0.4), str)
    'trending now'
    >>> say(Reason("new", 1.0), str)
    'new, and close to an interest'
    >>> say(Reason("night-time", 0.4), str)
    'night time'
    """
    carried, alone = PHRASES.get(reason.signal, ("because of {}", reason.signal.replace("-", " ")))
    titles = " and ".join(title(item_id) for item_id in reason.items)
    return carried.format(titles) if titles else alone
