"""The interests of the users who ask, opened together: a few compiled loops over the bytes of all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from model import compiled, interest
from model.catalogue import Catalogue
from model.interest import INTEREST_DIM, Interests, Rules


class Users(NamedTuple):
    """What is known of a group of users, of the encoder version that serves; pending events that have a vector by now
    are folded in.

    Shape: vectors (B, I, 64), weights (B, I), led_to (B, I): where the edges lead from the last interest, the weights
    where none leads on; log (e,) of `EVENT`, one user's events after the other's, oldest first, rows (e,) of their
    items in the catalogue, -1 for none; ends (B,) of each user's events; queries (q, dim) of newest searches, and whose
    they are, asking (q,).
    """

    vectors: np.ndarray
    weights: np.ndarray
    led_to: np.ndarray
    log: np.ndarray
    rows: np.ndarray
    ends: np.ndarray
    queries: np.ndarray
    asking: np.ndarray


def open_users(catalogue: Catalogue, every: Sequence[bytes], rules: Rules) -> Users:
    """Open the bytes of many users: what `decode`, `use_encoder` and `resolve` of model.interest do for one.

    Raises:
        StateError: the bytes of one of them are of an unknown layout, cut short or damaged.
    """
    data = [interest.current(one) for one in every]
    joined, starts = np.frombuffer(bytearray().join(data), np.uint8), _starts([len(one) for one in data])
    faulty, wrong, sizes = compiled.survey(joined, starts, catalogue.encoder, *interest.KINDS)
    if wrong:
        interest.refuse(data[faulty], wrong)
    log_starts, dim = _starts(sizes[:, 1]), catalogue.vectors.shape[1]
    log = compiled.logs(joined, starts, log_starts, catalogue.encoder)
    rows = catalogue.rows(log["item_key"])
    room = _room(sizes, np.where(Interests(log=log).pending, rows, -1), log_starts, rules.max_interests)
    vectors = np.zeros((len(data), room, INTEREST_DIM), np.float32)
    weights, led_to = np.zeros((2, len(data), room), np.float32)
    most = compiled.open_users(
        joined, starts, log_starts, catalogue.encoder, rows, catalogue.interest_vectors, interest.folding(rules),
        vectors, weights, led_to,
    )  # fmt: skip
    asking = np.flatnonzero((sizes[:, 2] == dim) & (dim > 0))
    queries = compiled.queries(joined, starts, asking, dim)
    vectors, weights, led_to = (np.ascontiguousarray(part[:, : max(1, most)]) for part in (vectors, weights, led_to))
    return Users(vectors, weights, led_to, log, rows, log_starts[1:], queries, asking)


def _starts(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


def _room(sizes: np.ndarray, waiting: np.ndarray, log_starts: np.ndarray, max_interests: int) -> int:
    """The most interests that a user may have once the events with `waiting` rows are folded in."""
    more = np.diff(np.concatenate(([0], np.cumsum(waiting >= 0)))[log_starts])
    return max(1, int(np.maximum(sizes[:, 0], np.minimum(sizes[:, 0] + more, max_interests)).max(initial=0)))
