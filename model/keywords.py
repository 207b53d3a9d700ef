"""Keywords of an item: words of its own text whose embeddings are nearest to the item's, and unlike each other.

    text ─► tokenizer ─► words with their places ─► phrases of neighbours ─► the encoder's vector of each
                                                                                        │
    vector of the whole text ─────────────────────────────────────► MMR: near it, unlike those chosen

The tokenizer says where words begin and end. In scripts that put no spaces between words, its tokens are the units.

Sources: Grootendorst, KeyBERT, 2020, 10.5281/zenodo.4461265; Carbonell and Goldstein, The use of MMR, 1998 (MMR).
"""

import logging
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from model.encoder import Encoder
    from model.media.fusion import FusedEncoder

READ_CHARS, PHRASES, PHRASE_CHARS = 1_000, 48, 40
"""So much of a text is read; so many of its phrases are looked at, each so long at most."""
UNLIKE = 0.6
"""How much being like a chosen keyword counts against a phrase, beside being like the item for it."""
_SPACED, _UNSPACED = 2, 4  # units of a phrase at most
_SHORT = 3  # letters: a shorter word neither begins nor ends a phrase, where there are spaces
_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
_JOINS = (" ", "-", "'", "\u2019")
Span = tuple[int, int]

logger = logging.getLogger(__name__)


def keywords(
    encoder: "Encoder | FusedEncoder", texts: Sequence[str], vectors: np.ndarray, most: int
) -> list[list[str]]:
    """The keywords of each text, the one nearest to all of it first; none where no phrase of it is one, and where the
    tokenizer does not say what stands where.

    Shape: vectors (texts, dim), unit length.
    """
    if not texts:
        return []
    tokenizer = encoder.load().tokenizer
    if not tokenizer.is_fast:
        logger.warning("%s: its tokenizer has no fast form (tokenizer.json): no keywords", encoder.version)
        return [[] for _ in texts]
    found = [phrases(tokenizer, text) for text in texts]
    distinct = sorted({phrase for some in found for phrase in some})
    of_phrases = encoder.embed(distinct)
    row = {phrase: at for at, phrase in enumerate(distinct)}
    chosen = []
    for some, vector in zip(found, vectors):
        rows = [row[phrase] for phrase in some]
        chosen.append([some[at] for at in diverse(of_phrases[rows], vector, most)])
    return chosen


def phrases(tokenizer: Any, text: str) -> list[str]:
    """Words of a text and words that stand beside each other, in lower case, none twice."""
    read = text[:READ_CHARS]
    units = _units(tokenizer, read)
    found: dict[str, None] = {}
    for first in range(len(units)):
        for last in range(first, min(first + _UNSPACED, len(units))):
            if last > first and not _together(read, units[last - 1], units[last]):
                break
            phrase = read[units[first][0] : units[last][1]]
            if _is_phrase(read, units[first : last + 1], phrase):
                found.setdefault(" ".join(phrase.lower().split()))
        if len(found) >= PHRASES:
            break
    return [*found][:PHRASES]


def diverse(vectors: np.ndarray, like: np.ndarray, most: int) -> list[int]:
    """Which rows are near a vector and unlike each other, best first, by maximal marginal relevance.

    >>> east, north = [1.0, 0.0], [0.0, 1.0]
    >>> diverse(np.array([east, east, north]), np.array([0.8, 0.6]), 2)
    [0, 2]

    Shape: vectors (n, dim), like (dim,), unit length.
    """
    near, chosen = vectors @ like, list[int]()
    nearest_chosen = np.full(len(vectors), -np.inf, np.float32)
    while len(chosen) < min(most, len(vectors)):
        worth = near if not chosen else near - UNLIKE * nearest_chosen
        worth = np.where(np.isin(np.arange(len(vectors)), chosen), -np.inf, worth)
        chosen.append(int(worth.argmax()))
        nearest_chosen = np.maximum(nearest_chosen, vectors @ vectors[chosen[-1]])
    return chosen


def _units(tokenizer: Any, text: str) -> list[Span]:
    """Where words stand that have a letter; tokens in a script without spaces."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens = [(word, *span) for word, span in zip(found.word_ids(), found["offset_mapping"]) if span[0] < span[1]]
    units: list[Span] = []
    before = None
    for word, first, last in tokens:
        first += len(text[first:last]) - len(text[first:last].lstrip())  # some tokenizers give a word its space
        if word == before and units and not _is_unspaced(text[first]):
            units[-1] = (units[-1][0], last)
        elif first < last:
            units.append((first, last))
        before = word
    return [span for span in units if any(character.isalpha() for character in text[slice(*span)])]


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_WITHOUT_SPACES)


def _together(text: str, left: Span, right: Span) -> bool:
    """Whether nothing stands between two units but a space or a hyphen, where the script has spaces."""
    if left[1] == right[0]:
        return True
    return text[left[1] : right[0]] in _JOINS and not _is_unspaced(text[left[0]]) and not _is_unspaced(text[right[0]])


def _is_phrase(text: str, units: Sequence[Span], phrase: str) -> bool:
    if len(phrase) > PHRASE_CHARS:
        return False
    if any(_is_unspaced(text[first]) for first, _ in units):
        return len(phrase) > 1
    ends = [text[slice(*units[at])] for at in (0, -1)]
    joined = sum(text[left[1] : right[0]].isspace() for left, right in pairwise(units))
    return joined < _SPACED and all(len(end) >= _SHORT or "-" in phrase for end in ends)
