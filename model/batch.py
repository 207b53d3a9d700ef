"""A micro-batch: the interests of a group of requests, decoded and laid side by side as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from model import interest
from model.catalogue import Catalogue
from model.consumed import contains, marks
from model.interest import INTEREST_DIM, Interests, Rules
from model.network import EVENT, GAPS, NOTHING, START, UNKNOWN
from model.schema import Request

CONTEXT = 7
"""Numbers that describe a request: see `_context`."""
NEW_USER = 5
"""A user with fewer events is new."""
LONG_GAP_S = 1_800
"""A user who was away for longer begins a new session."""


@dataclass
class MicroBatch:
    """A group of requests, opened up; T = last_n, I = most interests of a user.

    Shape: history (B, T) rows of the catalogue, the newest event last, n for none; gaps, actions, kind (B, T); context
    (B, CONTEXT); interests (B, I, 64); weights, led_to (B, I): how much each interest weighs, and how strongly the last
    one led to it; both sum to 1, or to 0 where there is none; consumed (p,) marks of all that was ever consumed, see
    model/consumed.py, and owner (p,) by whom; led: see model.signals.led.
    """

    history: torch.Tensor
    gaps: torch.Tensor
    actions: torch.Tensor
    kind: torch.Tensor
    context: torch.Tensor
    interests: torch.Tensor
    weights: torch.Tensor
    led_to: torch.Tensor
    consumed: torch.Tensor
    owner: torch.Tensor
    led: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


def gap_number(gap_ms: np.ndarray) -> np.ndarray:
    """The number of a time gap's embedding: log2 of the seconds; (...) int64 ms -> (...) int64."""
    return np.log2(1 + np.maximum(gap_ms, 0) / 1_000).astype(np.int64).clip(max=UNKNOWN - 1)


def open_requests(catalogue: Catalogue, requests: Sequence[Request], rules: Rules, last_n: int, device: torch.device) -> MicroBatch:
    """Decode the interests of every request, fold what was pending, and lay the histories side by side."""
    users = [_open(catalogue, request.interests, rules) for request in requests]
    now_ms = np.array([request.event_time_ms for request in requests], np.int64)
    live = np.array([request.live for request in requests], bool)
    tensors = (*_histories(catalogue, users, now_ms, live, last_n), *_interests(users), *_consumed(requests))
    return MicroBatch(*(torch.from_numpy(tensor).to(device) for tensor in tensors))


def _open(catalogue: Catalogue, data: bytes, rules: Rules) -> Interests:
    opened = interest.decode(data)
    interest.use_encoder(opened, catalogue.encoder)
    if opened.pending.any():
        interest.resolve(opened, catalogue.lookup, rules)
    return opened


def _histories(
    catalogue: Catalogue, users: list[Interests], now_ms: np.ndarray, live: np.ndarray, last_n: int
) -> tuple[np.ndarray, ...]:
    """The last events on items of the catalogue, to the right; where there is room, the start stands before them.

    Shape: now_ms, live (B,) -> history, gaps, actions, kind (B, T), context (B, CONTEXT).
    """
    B, T, n = len(users), last_n, len(catalogue)
    logs = [user.log[-T:] for user in users]
    lengths = np.array([len(log) for log in logs])
    joined = Interests(log=np.concatenate(logs))
    rows = catalogue.rows(joined.item_keys.tolist())
    there = rows >= 0
    user = np.repeat(np.arange(B), lengths)[there]
    known = np.bincount(user, minlength=B)  # (B,) events on items of the catalogue
    column = np.arange(len(user)) + np.repeat(T - np.cumsum(known), known)
    history, actions, kind = np.full((B, T), n), np.zeros((B, T), np.int64), np.full((B, T), NOTHING)
    times = np.zeros((B, T + 1), np.int64)
    times[:, T] = now_ms
    history[user, column], kind[user, column] = rows[there], EVENT
    times[user, column], actions[user, column] = joined.times_ms[there], joined.actions[there]
    kind[(known == lengths) & (known < T), T - 1 - known[(known == lengths) & (known < T)]] = START
    kind[known == 0, T - 1] = START
    gaps = np.where(kind == EVENT, gap_number(np.diff(times)), 0)
    gaps[:, -1] = np.where(live & (known > 0), UNKNOWN, gaps[:, -1])
    gap_s = np.where((known > 0) & ~live, np.maximum(times[:, T] - times[:, T - 1], 0) / 1_000, 0)
    return history, gaps, actions, kind, _context(known, gap_s, live)


def _context(known: np.ndarray, gap_s: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Shape: events known, seconds since the newest one, 0 where they are not known, (B,) each -> (B, CONTEXT), about 0 to 1."""
    at_once = (gap_s == 0) & (known > 0) & ~live
    parts = (known == 0, known < NEW_USER, np.log1p(known) / 3, np.log1p(gap_s) / 10, at_once, gap_s > LONG_GAP_S, live)
    return np.stack(parts, 1).astype(np.float32)


def _interests(users: list[Interests]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shape: vectors (B, I, 64), weights (B, I), led_to (B, I): where the edges lead from the last interest."""
    most = max(1, max(len(user.weights) for user in users))
    vectors = np.zeros((len(users), most, INTEREST_DIM), np.float32)
    weights = np.zeros((2, len(users), most), np.float32)
    for at, user in enumerate(users):
        count = len(user.weights)
        if count:
            vectors[at, :count] = user.vectors
            weights[0, at, :count] = user.weights
            led = user.edges[user.last] if user.last >= 0 else user.weights
            weights[1, at, :count] = led if led.sum() > 0 else user.weights
    weights /= np.maximum(weights.sum(2, keepdims=True), 1e-12)
    return vectors, weights[0], weights[1]


def _consumed(requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
    """The marks of what all users consumed, and whose each is; (p,) each."""
    each = [marks(request.consumed) for request in requests]
    return np.concatenate(each).astype(np.int64), np.repeat(np.arange(len(each)), [len(one) for one in each])


def excluded_items(catalogue: Catalogue, requests: Sequence[Request], exclude_consumed: bool, device: torch.device) -> torch.Tensor:
    """Which items must not be on a list: those that the user has consumed; (B, n) bool."""
    excluded = np.zeros((len(requests), len(catalogue)), bool)
    if exclude_consumed:
        for at, request in enumerate(requests):
            if request.consumed:
                excluded[at] = contains(request.consumed, catalogue.keys)
    return torch.from_numpy(excluded).to(device)
