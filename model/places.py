"""Places: in which order items come where several come within seconds, learnt from pairs of which one came before the other.

Source: Bradley and Terry, Rank analysis of incomplete block designs, 1952: the log odds that one of two comes second are the
difference of their places.
"""

import numpy as np

_ROUNDS = 30  # from the places of the last call on
_DAMPING = 0.5  # of a Newton step of each place beside the others'
_RIDGE = 0.05  # pairs with an item at place 0: few pairs prove little
_STEEPEST = 30.0  # log odds


def fit(places: np.ndarray, before: np.ndarray, after: np.ndarray, amounts: np.ndarray) -> None:
    """Move the places to where they explain best what came before what.

    Shape: places (m,) float, written to; before, after, amounts (p,): so often did one item come before the other.
    """
    where = places.astype(np.float64)
    for _ in range(_ROUNDS):
        as_told = 1 / (1 + np.exp((where[before] - where[after]).clip(-_STEEPEST, _STEEPEST)))
        surprise, doubt = amounts * (1 - as_told), amounts * as_told * (1 - as_told)
        slope = np.bincount(after, surprise, len(where)) - np.bincount(before, surprise, len(where)) - _RIDGE * where
        bend = np.bincount(after, doubt, len(where)) + np.bincount(before, doubt, len(where)) + _RIDGE
        where += _DAMPING * slope / bend
    places[:] = where
