"""Where the words of a text stand, in any script; no language is set.

    Chinese              a dictionary and, for words that are not in it, a hidden Markov model (rjieba)
    Japanese             where the kind of letters changes; a particle behind a word is a word of its own
    Korean               between spaces; a particle behind a word is a word of its own
    Thai, Lao, Khmer, Burmese    the tokenizer's units: they cut words
    all others           between spaces and punctuation marks; hyphen and apostrophe join

Chinese and Japanese share letters: a text is Japanese where a tenth of them are kana.
"""

from collections.abc import Iterator
from typing import Any

import regex

Span = tuple[int, int]

_STOP_WORDS = """
about above across after again against all almost alone along already also although always among and another any
anyone anything anywhere are around because been before behind being below beneath beside besides between beyond
both but can cannot could did does doing done down during each either else ever every everyone everything except
few for from further had has have having her here hers herself him himself his how however into its itself just
least less many may me might mine more moreover most much must myself neither never nevertheless nobody none nor
not nothing nowhere off often once one only onto other others our ours ourselves out over own per perhaps please
quite rather really same several shall she should since some someone something sometimes somewhere still such than
that the their theirs them themselves then there therefore these they this those though through throughout thus
together too toward towards under unless until upon very via was well were what whatever when whenever where
whether which while who whole whom whose why will with within without would yet you your yours yourself
aren't can't couldn't didn't doesn't don't i'm isn't it's let's she's shouldn't that's there's they're wasn't we're
weren't what's who's won't wouldn't you're
an as at be by do go he if in is it my no of on or so to up us we am
的 了 和 与 與 在 是 之 及 或 等 也 就 都 而 把 被 让 讓 给 給 对 對 从 從 到 为 為 以 于 於 这 這 那 有 很 更 最
并 並 我 你 您 他 她 它 我们 我們 你们 你們 他们 他們 一个 一個 一种 一種 这个 這個 那个 那個 不
没有 沒有 以及
可以 由 向 用于 适合 適合
から まで より など という および または
에서 에게 으로 까지 부터 그리고 또는 위한 있는 하는
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Function words: a phrase neither begins nor ends with one. What is too short anyway need not be here."""

_LETTERS = r"\p{Han}\p{Hiragana}\p{Katakana}ー"
_WITHOUT_SPACES = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{_LETTERS}{_WITHOUT_SPACES}]]+"
_RUNS = regex.compile(
    rf"(?V1)(?P<cjk>[\p{{Latin}}\p{{Nd}}]*[{_LETTERS}][{_LETTERS}\p{{Latin}}\p{{Nd}}]*)"
    rf"|(?P<tokens>[{_WITHOUT_SPACES}]+)|(?P<word>{_WORD}(?:[-'\u2019]{_WORD})*)"
)
_PARTICLE = "(?:から|まで|より|など|[のとはをにでがもへや])"
_JAPANESE = regex.compile(
    r"[\p{Latin}\p{Nd}]+|[\p{Katakana}ー]+|[おご]?\p{Han}+(?:(?!" + _PARTICLE + r")\p{Hiragana})*"
    r"|(?<=[\p{Han}\p{Katakana}ー])" + _PARTICLE + r"|[\p{Hiragana}ー]+?(?=" + _PARTICLE + r"?(?![\p{Hiragana}ー]))"
)
_KANA, _HAN = regex.compile(r"[\p{Hiragana}\p{Katakana}]"), regex.compile(r"\p{Han}")
_HIRAGANA, _HANGUL = regex.compile(r"\p{Hiragana}+"), regex.compile(r"\p{Hangul}")
_KOREAN = regex.compile(r"(\p{Hangul}{2,}?)(에서|에게|까지|부터|으로|(?<!주)의|[을은과를는와])")
_UNSPACED, _UNIT = regex.compile(f"[{_LETTERS}{_WITHOUT_SPACES}]"), regex.compile(f"[{_WITHOUT_SPACES}]")
_MARKS = regex.compile(r"\p{M}*")


def words(tokenizer: Any, text: str) -> list[Span]:
    """Where the words stand that have a letter, in their order."""
    of_cjk = _japanese if is_japanese(text) else _chinese
    found: list[Span] = []
    for run in _RUNS.finditer(text):
        split = of_cjk if run["cjk"] else _spaced if run["word"] else lambda some: _tokens(tokenizer, some)
        found += [(run.start() + first, run.start() + last) for first, last in split(run[0])]
    return [(first, last) for first, last in found if any(map(str.isalpha, text[first:last]))]


def is_unspaced(word: str) -> bool:
    """Whether a word is of a script that puts no spaces between words."""
    return _UNSPACED.search(word) is not None


def is_unit(word: str) -> bool:
    """Whether a word is only a unit of the tokenizer, which may be a part of one."""
    return _UNIT.search(word) is not None


def says(word: str, japanese: bool = False) -> bool:
    """Whether a word says something by itself: it is no stop word, and has three letters at least of an alphabet or of
    hiragana, two Korean or Chinese ones, one of the other scripts.

    >>> says("本", japanese=True), says("本")
    (True, False)
    """
    if word.replace("\u2019", "'") in STOP_WORDS:
        return False
    if is_unspaced(word):
        is_cut = len(word) == 1 and not japanese and _HAN.match(word)  # off a longer one, as often as not
        return len(word) > 2 or not (is_cut or _HIRAGANA.fullmatch(word))
    return len(word) >= (2 if _HANGUL.match(word) else 3)


def is_japanese(text: str) -> bool:
    """Whether a tenth of the letters that Chinese and Japanese are written with are kana."""
    kana = len(_KANA.findall(text))
    return 10 * kana >= kana + len(_HAN.findall(text)) > 0


def _chinese(run: str) -> Iterator[Span]:
    import rjieba

    return ((first, last) for _, first, last in rjieba.tokenize(run))


def _japanese(run: str) -> Iterator[Span]:
    return (word.span() for word in _JAPANESE.finditer(run))


def _spaced(run: str) -> list[Span]:
    """The word; in Korean, its particle after it, where one can stand behind such a syllable."""
    found = _KOREAN.fullmatch(run)
    if found is None or not _fits(found[1][-1], found[2]):
        return [(0, len(run))]
    return [found.span(1), found.span(2)]


def _fits(syllable: str, particle: str) -> bool:
    """Whether a Korean particle can follow: some go with a final consonant, some without.

    >>> [_fits("책", "을"), _fits("마", "을")]
    [True, False]
    """
    has_final = (ord(syllable) - ord("가")) % 28 > 0
    return particle not in (("를", "는", "와") if has_final else ("을", "은", "과", "으로"))


def _tokens(tokenizer: Any, run: str) -> list[Span]:
    """Units of the tokenizer, which cut words, each with the marks after it, which one that strips accents leaves out.

    None where it does not say what stands where.
    """
    if not tokenizer.is_fast:
        return []
    given = tokenizer(run, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    ends = [_MARKS.match(run, last).end() for _, last in given]
    begins = [max(first, end) for (first, _), end in zip(given, [0, *ends])]
    return [(first, last) for first, last in zip(begins, ends) if first < last]
