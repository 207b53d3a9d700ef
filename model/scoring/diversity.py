"""Diversity: a list that is not ten times the same, and quotas of it; the places are filled one after the other.

Maximal marginal relevance: each place gets the candidate with the largest (1 - d) · relevance - d · nearness, where
relevance is the log score between that of the 64th candidate (0) and the first (1), and nearness the largest cosine,
beside the mean of the catalogue, with an item that is on the list already.

Source: Carbonell and Goldstein, The use of MMR, diversity-based reranking for reordering documents and producing
summaries, 1998, doi:10.1145/290941.291025.
"""

from typing import NamedTuple

import numpy as np

from model.jit import njit
from model.scoring.products import VECTORISED


class Places(NamedTuple):
    """What the places of a list are filled from.

    Shape: rows (B, c) of the vectors (n, d), unit length; codes (B, c, x) numbers of the categories of each candidate,
    -1 for none; rare (B, c) whether it was hardly ever chosen.
    """

    rows: np.ndarray
    vectors: np.ndarray
    codes: np.ndarray
    rare: np.ndarray
    categories: int
    diversity: float
    most: int  # items of one category
    least: int  # items that are rare
    span: int  # candidates, from the first to the last of which relevance falls from 1 to 0


@njit(cache=True, nogil=True, fastmath=VECTORISED)
def fill(first, last, order, scores, places, columns):
    """Where no candidate keeps to the quotas, that of categories is dropped first.

    Shape: order (B, p) columns of the candidates that may be listed, best first, k at least; scores (B, c), -inf for
    what must not be listed -> columns (B, k).
    """
    pool, k = order.shape[1], columns.shape[1]
    near, taken = np.empty(pool, np.float32), np.empty(pool, np.bool_)
    listed = np.empty(places.categories, np.int64)
    for b in range(first, last):
        near[:], taken[:], listed[:] = -1.0, False, 0
        top, bottom = _ends(b, order, scores, places.span)
        missing = _rares(b, order, scores, places)
        for place in range(k):
            needs = 0 < missing >= k - place
            at = _next(b, order, scores, places, near, taken, listed, top, bottom, needs, True)
            if at < 0:
                at = _next(b, order, scores, places, near, taken, listed, top, bottom, needs, False)
            if at < 0:
                at = _first_left(taken)
            column = columns[b, place] = order[b, at]
            taken[at] = True
            missing -= places.rare[b, column]
            for code in places.codes[b, column]:
                if code >= 0:
                    listed[code] += 1
            if places.diversity > 0:
                _compare(b, order, places, column, near)


@njit(cache=True, inline="always")
def _ends(b, order, scores, span):
    """The scores of the first and of the last one of those that relevance is measured by."""
    top = bottom = scores[b, order[b, 0]]
    for column in order[b, :span]:
        if scores[b, column] > -np.inf:
            bottom = scores[b, column]
    return top, bottom


@njit(cache=True, inline="always")
def _rares(b, order, scores, places):
    """How many rare items are wanted, at most as many as there are."""
    found = 0
    for column in order[b]:
        found += places.rare[b, column] and scores[b, column] > -np.inf
    return min(found, places.least)


@njit(cache=True, nogil=True)
def _next(b, order, scores, places, near, taken, listed, top, bottom, needs_rare, capped):
    """The best of those that are left, -1 for none."""
    best, largest = -1, -np.inf
    for at in range(order.shape[1]):
        column = order[b, at]
        if taken[at] or scores[b, column] == -np.inf or (needs_rare and not places.rare[b, column]):
            continue
        full = False
        for code in places.codes[b, column]:
            full |= code >= 0 and listed[code] >= places.most
        if full and capped:
            continue
        relevance = (scores[b, column] - bottom) / (top - bottom) if top > bottom else 1.0
        value = (1 - places.diversity) * relevance - places.diversity * near[at]
        if value > largest:
            best, largest = at, value
    return best


@njit(cache=True, inline="always")
def _first_left(taken):
    for at in range(len(taken)):
        if not taken[at]:
            return at
    return 0


@njit(cache=True, nogil=True, fastmath=VECTORISED)
def _compare(b, order, places, column, near):
    """Let `near` know of the item that has been listed."""
    vectors, row = places.vectors, places.rows[b, column]
    for at in range(order.shape[1]):
        other, cosine = places.rows[b, order[b, at]], np.float32(0)
        for d in range(vectors.shape[1]):
            cosine += vectors[row, d] * vectors[other, d]
        near[at] = max(near[at], cosine)
