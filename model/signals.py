"""The registry of signals: every name by which a list says why an item is on it, in the order of the ranker's weights.

A signal says of an item how well it would go with a user now, in one way, on the scale of a log probability. To add
one: an entry here, and a function in model/scoring/signals.py. What is counted for it is a rule of model/statistics.py.
"""

import re
from dataclasses import dataclass

from model.schema import Reason


@dataclass(frozen=True)
class Signal:
    """One signal.

    Attributes:
        because: its words in a reason, with `{}` for the past events or categories that carry it.
        alone: its words where nothing is known that carries it.
        carriers: how the past events that carry it are found: by a table of partners ("table"), by the network's item
            vectors ("items"), by texts ("vectors"), or not at all ("").
        decay: how much less an event further back counts than the next newer one.
        untrained: its weight before anything is learnt.
        start: the weight from which learning sets out.
        finds: it is computed of all items that retrieval found; else of the best of them only.
        had_only: it lifts nothing that the user never had.
    """

    because: str
    alone: str
    carriers: str = ""
    decay: float = 1.0
    untrained: float = 0.0
    start: float = 0.0
    finds: bool = True
    had_only: bool = False


SIGNALS = {
    "network": Signal("because of {}", "fits the latest events", "items", start=0.8),
    "popularity": Signal("popular with those of {}", "popular"),
    "popularity-20k": Signal("lately popular with those of {}", "lately popular"),
    "popularity-2k": Signal("trending with those of {}", "trending", start=0.1),
    "popularity-200": Signal("trending now with those of {}", "trending now"),
    "popularity-first-5": Signal("what many begin with, and with {}", "what many begin with"),
    "popularity-first-20": Signal("chosen early by many, beside {}", "chosen early by many"),
    "age": Signal("how new it is, beside {}", "how new it is"),
    "transitions": Signal("often follows {}", "often comes next", "table", 0.85, start=0.1),
    "recent-transitions": Signal("lately follows {}", "lately comes next", "table", 0.85, start=0.1),
    "next": Signal("came right after {}", "comes right next", "table", 0.5, start=0.1),
    "ease": Signal("goes together with {}", "goes together with past events", "table", 0.85, start=0.1),
    "neighbour-users": Signal("taken around {} by users alike", "taken by users alike", start=0.1),
    "had": Signal("chosen often before, beside {}", "chosen often before", untrained=-5.0, start=-1.0, had_only=True),
    "had-lately": Signal("chosen before, not long ago, beside {}", "chosen before, not long ago", had_only=True),
    "had-near": Signal("chosen a few events ago, beside {}", "chosen a few events ago", had_only=True),
    "text": Signal("reads like {}", "reads like past events", "table", start=0.05),
    "interest": Signal("close to an interest in {}", "close to an interest", "vectors", untrained=1.0),
    "next-interest": Signal("where an interest in {} leads", "where the interests lead", "vectors", untrained=0.5),
    "spread": Signal("reads like what follows {}", "reads like what comes next", finds=False),
    "taste": Signal("goes with {} in whole histories", "goes with the whole history", finds=False),
    "familiar": Signal("of the kind of {}", "of a familiar kind", finds=False),
    "apart": Signal("first chosen around {}", "first chosen around the same time", finds=False),
    "ahead": Signal("first chosen after {}", "first chosen later", finds=False),
}
"""All that is learnt."""
TERMS = {
    "search": Signal("fits the latest search, beside {}", "fits the latest search"),
    "disliked": Signal("unlike what was disliked, beside {}", "unlike what was disliked"),
    "liked": Signal("close to {}", "close to what was liked or bought", "vectors"),
}
"""What users say outright (model/scoring/feedback.py): not learnt."""
OPTIONAL: dict[str, Signal] = {
    "image": Signal("looks like {}", "looks like past events", finds=False),
    "audio": Signal("sounds like {}", "sounds like past events", finds=False),
    "vector": Signal("near to {} by its own vector", "near to past events by its own vector", finds=False),
    "profile": Signal("reads like what was done lately, as {}", "reads like what was done lately"),
    "keywords": Signal("like {}", "like past events", had_only=True),
    "related": Signal("related to {}", "related to past events", finds=False),
    "related-spread": Signal("related to what follows {}", "related to what comes next", finds=False),
}
"""Learnt where they are switched on, each family by a setting of its own (`Optional` in model/scoring/signals.py); of
the best candidates only.
"""
EXPLORED = {"new": Signal("new, and close to an interest in {}", "new, and close to an interest")}
"""Why an item explores (model/scoring/explore.py)."""
ALL = SIGNALS | TERMS | OPTIONAL | EXPLORED
NAMES = [*SIGNALS, *TERMS]
POPULARITY = [name for name in SIGNALS if name.startswith("popularity")]
"""In the order in which they are counted."""
COLUMN = {name: at for at, name in enumerate(NAMES)}
FINDING = [name for name, signal in SIGNALS.items() if signal.finds]


def in_words(reason: Reason) -> str:
    """A reason in words, with `{}` for the titles of its past events; a signal that is not known goes by its name.

    >>> in_words(Reason("keywords", 0.4, items=["m1"], keywords=["space", "robots"]))
    'about space, robots, like {}'
    >>> in_words(Reason("related", 0.4, items=["m1"], relation="film.film.directed_by"))
    'directed by the same as {}'
    """
    signal = ALL.get(reason.signal) or Signal("because of {}", reason.signal.replace("-", " "))
    if reason.items and reason.relation:
        return _shared(reason.relation)
    said = signal.because if reason.items else signal.alone
    return f"about {', '.join(reason.keywords)}, {said}" if reason.keywords else said


def _shared(relation: str) -> str:
    """What two items of one relation have in common, by the last part of its name where that is a short noun.

    >>> _shared("director"), _shared("http://dbpedia.org/ontology/birthPlace")
    ('same director as {}', 'same birth place as {}')
    >>> _shared("film.film.written_by"), _shared("part_of")
    ('written by the same as {}', 'has something in common with {}')
    """
    last = re.split(r"[./#:]", relation.strip("./#: "))[-1]
    last = last.lower() if last.isupper() else re.sub("(?<=[a-z])[A-Z]", lambda sign: f" {sign[0].lower()}", last)
    words = last.replace("_", " ").strip()[: _NOUN_CHARS + 1]
    if _DONE_BY.fullmatch(words):
        return f"{words} the same as {{}}"
    noun = len(words) <= _NOUN_CHARS and _NOUN.fullmatch(words) and not _NO_NOUN.search(words)
    return f"same {words} as {{}}" if noun else "has something in common with {}"


_NOUN_CHARS, _NOUN = 30, re.compile(r"[^\W_]+(?:[ '-][^\W_]+){0,2}")
_DONE_BY = re.compile(r"(?:\w+e[dn]|made|built|shot|sung) by", re.IGNORECASE)
_NO_NOUN = re.compile(
    r"^(?:is|are|was|were|has|have|had|instance)\b|\b(?:of|in|on|at|by|to|for|from|with|as|a|an)$|^\w?\d+$",
    re.IGNORECASE,
)
