"""Keywords of an item: words of its own text whose embeddings are nearest to the item's, and unlike each other.

    text ─► words with their places (model/segmentation.py) ─► phrases of neighbours ─► the encoder's vector of each
                                                                                                    │
    vector of the whole text ─────────────────────────────────► MMR: near it, unlike those chosen

Sources: Grootendorst, KeyBERT, 2020, 10.5281/zenodo.4461265; Carbonell and Goldstein, The use of MMR, 1998 (MMR).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from model.segmentation import Span, is_japanese, is_unit, is_unspaced, says, words

if TYPE_CHECKING:
    from model.encoder import Encoder
    from model.media.fusion import FusedEncoder

READ_CHARS, PHRASES, PHRASE_CHARS = 1_000, 48, 40
"""So much of a text is read; so many of its phrases are looked at, out of all of it, each so long at most."""
UNLIKE = 0.6
"""How much being like a chosen keyword counts against a phrase, beside being like the item for it."""
_WORDS, _MOST_UNITS = 2, 4  # of a phrase, at most; with stop words, or where words are cut
Words = tuple[str, ...]


def keywords(
    encoder: "Encoder | FusedEncoder", texts: Sequence[str], vectors: np.ndarray, most: int
) -> list[list[str]]:
    """The keywords of each text, the one nearest to all of it first; none where no phrase of it is one.

    Shape: vectors (texts, dim), unit length.
    """
    if not texts:
        return []
    tokenizer = encoder.load().tokenizer
    found = [phrases(tokenizer, text) for text in texts]
    distinct = sorted({phrase for some in found for phrase in some})
    of_phrases = encoder.embed(distinct)
    row = {phrase: at for at, phrase in enumerate(distinct)}
    chosen = []
    for some, vector in zip(found, vectors):
        names, rows = [*some], [row[phrase] for phrase in some]
        chosen.append([names[at] for at in diverse(of_phrases[rows], vector, most, [*some.values()])])
    return chosen


def phrases(tokenizer: Any, text: str) -> dict[str, Words]:
    """Words of a text and words that stand beside each other, in lower case, each phrase with its words. Where there
    are more than `PHRASES`, those of some words, which stand evenly in the text.
    """
    read, seen = text[:READ_CHARS], dict[str, Words]()
    spans, of_words = words(tokenizer, read), list[dict[str, Words]]()
    tells = partial(says, japanese=is_japanese(read))
    for at in range(len(spans)):
        new = {name: some for name, some in _beginning(read, spans[at : at + _MOST_UNITS], tells) if name not in seen}
        seen |= new
        of_words += [new] if new else []
    if len(seen) <= PHRASES:
        return seen
    even = np.linspace(0, len(of_words) - 1, len(of_words) * PHRASES // len(seen)).astype(int)
    return dict([phrase for at in even for phrase in of_words[at].items()][:PHRASES])


def diverse(vectors: np.ndarray, like: np.ndarray, most: int, phrases: Sequence[Words]) -> list[int]:
    """Which rows are near a vector and unlike each other, best first, by maximal marginal relevance; of two phrases of
    which one has all words of the other, one at most.

    >>> east, north = [1.0, 0.0], [0.0, 1.0]
    >>> diverse(np.array([east, east, north]), np.array([0.8, 0.6]), 2, [("toy",), ("robot",), ("space",)])
    [0, 2]
    >>> diverse(np.array([east, east, north]), np.array([0.8, 0.6]), 3, [("toy",), ("robot",), ("toy", "robot")])
    [0, 1]

    Shape: vectors (n, dim), like (dim,), unit length; phrases (n,).
    """
    near, chosen = vectors @ like, list[int]()
    nearest_chosen, free = np.zeros(len(vectors), np.float32), np.ones(len(vectors), np.bool_)
    while len(chosen) < most and free.any():
        chosen.append(int(np.where(free, near - UNLIKE * nearest_chosen, -np.inf).argmax()))
        like_it = vectors @ vectors[chosen[-1]]
        nearest_chosen = np.maximum(nearest_chosen, like_it) if len(chosen) > 1 else like_it
        free &= ~np.array([_has_all(phrases[chosen[-1]], other) for other in phrases])
    return chosen


def _beginning(text: str, spans: Sequence[Span], tells: Callable[[str], bool]) -> Iterator[tuple[str, Words]]:
    """The phrases that begin with the first of these words."""
    for last in range(len(spans)):
        if last and not _together(text, spans[last - 1], spans[last]):
            return
        some = tuple(text[slice(*span)].lower() for span in spans[: last + 1])
        phrase = text[spans[0][0] : spans[last][1]].lower()
        if _is_phrase(phrase, some, tells):
            yield phrase, some


def _together(text: str, left: Span, right: Span) -> bool:
    """Whether nothing stands between two words but a space, where the script has spaces."""
    between = text[left[1] : right[0]]
    return not between or (between == " " and not any(is_unspaced(text[slice(*span)]) for span in (left, right)))


def _is_phrase(phrase: str, some: Words, tells: Callable[[str], bool]) -> bool:
    most = _MOST_UNITS if is_unit(some[0]) else _WORDS
    fits = 1 < len(phrase) <= PHRASE_CHARS and phrase.count(" ") < _WORDS
    return fits and tells(some[0]) and tells(some[-1]) and sum(map(tells, some)) <= most


def _has_all(one: Words, other: Words) -> bool:
    """Whether one of two phrases has all words of the other, in their order.

    >>> _has_all(("toy",), ("toy", "story")), _has_all(("toy", "story"), ("toys",))
    (True, False)
    """
    space = "" if is_unspaced(one[0]) else " "
    first, second = (space + space.join(some) + space for some in (one, other))
    return first in second or second in first
