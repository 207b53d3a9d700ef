"""A micro-batch: the interests of a group of requests, decoded and laid side by side as tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from model import consumed, interest
from model.catalogue import Catalogue
from model.facts import Facts
from model.interest import ACTIONS, FOREVER, IS_NEGATIVE, Interests, Rules
from model.schema import Request, event_key
from model.scoring.network import EVENT, NOTHING, START, UNKNOWN
from model.scoring.users import Users, open_users

CONTEXT = 8
"""Numbers that describe a request: see `_context`; the last one is what share of all that the user did was again."""
NEW_USER = 5
"""A user with fewer events is new."""
LONG_GAP_S = 1_800
"""A user who was away for longer begins a new session."""
QUERY_LEFT, QUERY_HALF_LIFE_S = 0.6, 86_400.0
"""What each event after a search leaves of what it says, and after how many seconds half is left."""


class Host(NamedTuple):
    """What compiled loops read of a micro-batch, on the CPU: rows of the catalogue.

    Shape: history (B, T) int32, the newest last, -1 for none; had, had_times, had_gaps_s (p,), those of user b from
    had_from[b] on, (B + 1,); excluded (x,), likewise from excluded_from[b] on.
    """

    history: np.ndarray
    had: np.ndarray
    had_times: np.ndarray
    had_gaps_s: np.ndarray
    had_from: np.ndarray
    excluded: np.ndarray
    excluded_from: np.ndarray


@dataclass
class MicroBatch:
    """A group of requests, opened up; T = last_n, I = most interests of a user.

    Shape: history (B, T) rows of the catalogue, the newest event last, `none` for none, without events that push
    away; gaps, actions, kind (B, T); context (B, CONTEXT), or with facts (B, CONTEXT + COLUMNS), their buckets
    (model/facts.py) last; interests (B, I, 64); weights, led_to (B, I): how much each interest weighs, and how
    strongly the last one led to it; both sum to 1, or to 0 where there is none; events (B, T) rows, all of them,
    strengths (B, T) how much each says now, and rated (B, T) whether it is a rating; searching (B,) whether the
    newest event is a search; draw (B,) a number from 0 to 1 of the event; queries (q, dim) of newest searches,
    query_strengths (q,), and query_owner (q,) by whom; had (p,) rows of items that users had and did not push away, n
    for none, had_times, had_gaps_s (p,) how often and how long ago, and owner (p,) by whom; excluded (x,) rows that
    must not be listed, and excluded_owner (x,).
    """

    none: int
    host: Host
    history: torch.Tensor
    gaps: torch.Tensor
    actions: torch.Tensor
    kind: torch.Tensor
    context: torch.Tensor
    interests: torch.Tensor
    weights: torch.Tensor
    led_to: torch.Tensor
    events: torch.Tensor
    strengths: torch.Tensor
    rated: torch.Tensor
    searching: torch.Tensor
    draw: torch.Tensor
    queries: torch.Tensor
    query_strengths: torch.Tensor
    query_owner: torch.Tensor
    had: torch.Tensor
    had_times: torch.Tensor
    had_gaps_s: torch.Tensor
    owner: torch.Tensor
    excluded: torch.Tensor
    excluded_owner: torch.Tensor

    @property
    def is_new(self) -> np.ndarray:
        """Which users have fewer than `NEW_USER` events; (B,)."""
        return self.context[:, 1].numpy() > 0


def gap_number(gap_ms: np.ndarray) -> np.ndarray:
    """The number of a time gap's embedding: log2 of the seconds; (...) int64 ms -> (...) int64."""
    return np.log2(1 + np.maximum(gap_ms, 0) / 1_000).astype(np.int64).clip(max=UNKNOWN - 1)


def open_requests(
    catalogue: Catalogue, requests: Sequence[Request], rules: Rules, last_n: int, facts: Facts | None = None
) -> MicroBatch:
    """Decode the interests of every request, fold what was pending, and lay the histories side by side.

    Args:
        facts: whose buckets are put behind the context, where they are on.
    """
    users = open_users(catalogue, [request.interests for request in requests], rules)
    now_ms = np.array([request.event_time_ms for request in requests], np.int64)
    live = np.array([request.live for request in requests], bool)
    searching, queries = _searches(users, now_ms)
    draw = np.array([event_key(request.event_id) / 2**32 for request in requests], np.float32)
    had, again = _consumed(catalogue, requests, now_ms, searching, rules)
    logs, none = _logs(users, last_n), len(catalogue)
    histories = _histories(logs, none, now_ms, live, last_n)
    ages_s = np.maximum(now_ms[logs.owner] - logs.times_ms, 0) / 1_000
    faded = logs._replace(strengths=logs.strengths * (0.5 ** (ages_s / rules.half_life_s)).astype(np.float32))
    said = *_events(faded, len(requests), none, last_n), searching, draw, *queries
    known = () if facts is None else (facts.of_requests(requests),)
    context = np.column_stack((histories[-1], again, *known))
    tensors = (*histories[:-1], context.astype(np.float32), *_interests(users), *said, *had)
    host = _host(histories[0], none, *had)
    columns = map(torch.from_numpy, tensors)
    return MicroBatch(none, host, *columns)


def _host(history: np.ndarray, none: int, *consumed: np.ndarray) -> Host:
    had, had_times, had_gaps_s, owner, out, out_owner = consumed
    starts = np.arange(len(history) + 1)
    rows = np.where(history == none, -1, history).astype(np.int32)
    had_from, out_from = np.searchsorted(owner, starts), np.searchsorted(out_owner, starts)
    return Host(rows, had.astype(np.int32), had_times, had_gaps_s, had_from, out.astype(np.int32), out_from)


class Logs(NamedTuple):
    """The last events of a group of users, one user after the other: rows of the catalogue, -1 for an unknown item.

    Shape: rows, owner, times_ms, actions, strengths (e,).
    """

    rows: np.ndarray
    owner: np.ndarray
    times_ms: np.ndarray
    actions: np.ndarray
    strengths: np.ndarray


def _logs(users: Users, last_n: int) -> Logs:
    lengths = np.diff(users.ends, prepend=0)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    last = np.flatnonzero(np.arange(len(owner)) >= users.ends[owner] - last_n)
    events = Interests(log=users.log[last])
    times_ms, actions = events.times_ms.astype(np.int64), events.actions.astype(np.int64)
    return Logs(users.rows[last], owner[last], times_ms, actions, events.strengths)


def _to_the_right(owner: np.ndarray, users: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The column of each event if those of a user end at the last, and how many a user has; (e,) -> (e,), (users,)."""
    count = np.bincount(owner, minlength=users)
    return np.arange(len(owner)) + np.repeat(width - np.cumsum(count), count), count


def _events(logs: Logs, users: int, none: int, last_n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All last events on items of the catalogue, those that push away too; rows, strengths, rated, (B, T) each."""
    there = logs.rows >= 0
    owner = logs.owner[there]
    column, _ = _to_the_right(owner, users, last_n)
    rows = np.full((users, last_n), none)
    strengths = np.zeros((users, last_n), np.float32)
    rated = np.zeros((users, last_n), bool)
    rows[owner, column], strengths[owner, column] = logs.rows[there], logs.strengths[there]
    rated[owner, column] = logs.actions[there] == ACTIONS.index("rating")
    return rows, strengths, rated


def _histories(logs: Logs, none: int, now_ms: np.ndarray, live: np.ndarray, last_n: int) -> tuple[np.ndarray, ...]:
    """The last events on items of the catalogue that do not push away; where there is room, the start comes first.

    Shape: now_ms, live (B,) -> history, gaps, actions, kind (B, T), context (B, CONTEXT - 1).
    """
    B, T = len(now_ms), last_n
    pulls = ~IS_NEGATIVE[logs.actions]
    there = (logs.rows >= 0) & pulls
    user = logs.owner[there]
    column, known = _to_the_right(user, B, T)  # known (B,): events on items of the catalogue
    lengths = np.bincount(logs.owner[pulls], minlength=B)
    history, actions, kind = np.full((B, T), none), np.zeros((B, T), np.int64), np.full((B, T), NOTHING)
    times = np.zeros((B, T + 1), np.int64)
    times[:, T] = now_ms
    history[user, column], kind[user, column] = logs.rows[there], EVENT
    times[user, column], actions[user, column] = logs.times_ms[there], logs.actions[there]
    starts = (known == lengths) & (known < T)
    kind[starts, T - 1 - known[starts]] = START
    kind[known == 0, T - 1] = START
    gaps = np.where(kind == EVENT, gap_number(np.diff(times)), 0)
    gaps[:, -1] = np.where(live & (known > 0), UNKNOWN, gaps[:, -1])
    gap_s = np.where((known > 0) & ~live, np.maximum(times[:, T] - times[:, T - 1], 0) / 1_000, 0)
    return history, gaps, actions, kind, _context(known, gap_s, live)


def _context(known: np.ndarray, gap_s: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Shape: events known, seconds since the newest, 0 if unknown, (B,) each -> (B, CONTEXT - 1), about 0 to 1."""
    at_once = (gap_s == 0) & (known > 0) & ~live
    parts = (known == 0, known < NEW_USER, np.log1p(known) / 3, np.log1p(gap_s) / 10, at_once, gap_s > LONG_GAP_S, live)
    return np.stack(parts, 1).astype(np.float32)


def _interests(users: Users) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shape: vectors (B, I, 64), weights (B, I), led_to (B, I)."""
    shares = (part / np.maximum(part.sum(1, keepdims=True), 1e-12) for part in (users.weights, users.led_to))
    return users.vectors, *shares


def _searches(users: Users, now_ms: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Whose newest event is a search; the newest searches, how much each still says, and by whom; (q, dim), (q,), (q,).

    Shape: now_ms (B,) -> (B,) bool.
    """
    log, asking, ends = Interests(log=users.log), users.asking, users.ends
    is_search = np.append(log.actions == ACTIONS.index("search"), False)
    newest = np.maximum.accumulate(np.where(is_search, np.arange(len(is_search)), 0))[ends[asking] - 1]
    waited_s = np.maximum(now_ms[asking] - log.times_ms[newest].astype(np.int64), 0) / 1_000
    strengths = QUERY_LEFT ** (ends[asking] - 1 - newest) * 0.5 ** (waited_s / QUERY_HALF_LIFE_S)
    searching = is_search[ends - 1] & (np.diff(ends, prepend=0) > 0)
    return searching, (users.queries, strengths.astype(np.float32), asking)


def searches(request: Request) -> bool:
    """Whether the newest event is a search."""
    newest = interest.newest(request.interests)
    return newest is not None and newest[1] == "search"


def exclusion(searching: bool, rules: Rules) -> Mapping[str, float]:
    """How long an item is left out after each action. Who searches may find what was left out for a time only."""
    if not searching:
        return rules.exclude_s
    return {action: for_s for action, for_s in rules.exclude_s.items() if for_s == FOREVER}


def _consumed(
    catalogue: Catalogue, requests: Sequence[Request], now_ms: np.ndarray, searching: np.ndarray, rules: Rules
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """What users had and did not push away, what must not be listed, and what share of all that a user did was again.

    Shape: (had, had_times, had_gaps_s, owner (p,); excluded, excluded_owner (x,)), again (B,).
    """
    rows, owner = consumed.opened_together([request.consumed for request in requests])
    items = catalogue.rows_of_fingerprints(rows["fingerprint"])
    now_s = now_ms[owner] / 1_000
    left_out, found = (consumed.excluded(rows, now_s, exclusion(searched, rules)) for searched in (False, True))
    out = np.where(searching[owner], found, left_out) & (items >= 0)
    had = (items >= 0) & ~IS_NEGATIVE[rows["action"]]
    gaps_s = np.maximum(now_s - rows["last_s"], 0)[had].astype(np.float32)
    events, distinct = np.bincount(owner, rows["times"], len(now_ms)), np.bincount(owner, minlength=len(now_ms))
    again = (events - distinct) / np.maximum(events, 1)
    return (items[had], rows["times"][had].astype(np.float32), gaps_s, owner[had], items[out], owner[out]), again
