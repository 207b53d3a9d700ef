"""The compiled loops of model/statistics.py: what one example adds, and what forgetting takes out.

Columns are plain arrays in named tuples. Weights are kept as of a base event: what is added at a later event is worth
more, so nothing is ever multiplied by what it fades.
"""

from typing import NamedTuple

import numpy as np

from model.jit import njit

LAGS = 20
"""So many of a user's last events are looked through for the item, and for the event itself."""
REMEMBERED = 256
"""An event that comes again is told by its key and time among so many."""
MOST_SHARE = 0.05
"""One user makes at most this share of what has not faded of a popularity."""
_FEW = 1_000  # events: a user may make a share of so many at first
_ROUNDING = 1e-5  # of what is taken out of a weight: what is left below it is none
_ROOMS = np.array([8, 32, 128, 512, 2_048])  # slots of a row: it grows from one to the next


class Popularity(NamedTuple):
    """How often items are chosen, old choices fading: by everyone, or among the first events of each user."""

    half_life: float = np.inf  # events
    first: float = np.inf  # events of a user


POPULARITIES = (
    Popularity(),
    Popularity(20_000.0),
    Popularity(2_000.0),
    Popularity(200.0),
    Popularity(2_000.0, first=5),
    Popularity(2_000.0, first=20),
)
_HALF_LIVES, _FIRST = (np.array(column) for column in zip(*POPULARITIES))
_SUMS = np.minimum(_HALF_LIVES, 1e12) / np.log(2)


class Rule(NamedTuple):
    """Which items make a pair, and how much it weighs; `decay` is what one event further apart counts."""

    half_life: float
    lags: int
    decay: float
    shrink: float  # what is added to a row's sum: few pairs prove little
    both_ways: bool = True
    within_ms: int = -1  # apart, and not at one time; -1 for any


class Log(NamedTuple):
    """The newest events in a ring: event number s stands at s modulo its length. Rows of items and users, -1 for a user
    who was forgotten; places of the events before and after it of the same user, and before it of the same item.
    """

    item: np.ndarray
    user: np.ndarray
    event: np.ndarray
    time_ms: np.ndarray
    before: np.ndarray
    after: np.ndarray
    before_item: np.ndarray


class Users(NamedTuple):
    """Where a user's newest event stands, its number, how many there were of the user, and how much of each popularity
    is the user's, as of the newest.
    """

    newest: np.ndarray
    step: np.ndarray
    events: np.ndarray
    share: np.ndarray


class Items(NamedTuple):
    """Where an item's newest event stands, its popularities, the events that chose it first and changed it last;
    `totals` are the popularities of all items together.
    """

    newest: np.ndarray
    chosen: np.ndarray
    first: np.ndarray
    changed: np.ndarray
    totals: np.ndarray


class Pairs(NamedTuple):
    """For each item a row of partners, the strongest first, somewhere in `partner` and `weight`; `total` is the sum of
    all that was added, dropped partners too. `top` is the first slot never used, `free` the first free row of a size.
    """

    start: np.ndarray
    used: np.ndarray
    room: np.ndarray
    total: np.ndarray
    partner: np.ndarray
    weight: np.ndarray
    top: np.ndarray
    free: np.ndarray


LINKS = ("before", "after", "before_item")
"""Columns of the log that hold places."""


def new_log(places: int) -> Log:
    i4 = np.int32
    return Log(*(np.zeros(places, kind) for kind in (i4, i4, np.uint32, np.int64, i4, i4, i4)))


def with_length(log: Log, seen: int, places: int) -> tuple[Log, np.ndarray]:
    """The newest events in a ring of another length, and where each place is now, -1 for one that is gone."""
    steps = np.arange(max(0, seen - min(places, len(log.item))), seen)
    old, new, moved = steps % len(log.item), steps % places, np.full(len(log.item), -1, np.int32)
    moved[old] = new
    other = new_log(places)
    other.user[:] = -1  # where there is no event
    for name, column in log._asdict().items():
        getattr(other, name)[new] = follow(moved, column[old]) if name in LINKS else column[old]
    return other, moved


def follow(moved: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Where places are now, -1 for none."""
    return np.where(places >= 0, moved[places], -1).astype(np.int32)


def new_users() -> Users:
    return Users(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros((0, len(_SUMS))))


def new_items() -> Items:
    rows = np.zeros(0, np.int32), np.zeros((0, len(_SUMS))), np.zeros(0, np.int64), np.zeros(0, np.int64)
    return Items(*rows, np.zeros(len(_SUMS)))


def new_pairs(slots: int) -> Pairs:
    rows = np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0)
    return Pairs(*rows, np.zeros(slots, np.int32), np.zeros(slots, np.float32), np.zeros(1, np.int64), np.full(5, -1))


@njit(cache=True)
def step_at(place, seen, length):
    """The number of the event that stands at a place."""
    return seen - 1 - (seen - 1 - place) % length


@njit(cache=True, inline="always")
def _is_older(place, than, seen, length):
    """Whether the event at a place came before that at another: the ring goes on after the newest event of all."""
    begin = seen % length  # the same for all: the compiler takes it out of loops
    return (place - begin + length * (place < begin)) < (than - begin + length * (than < begin))


@njit(cache=True, inline="always")
def earlier(links, same, seen, place):
    """The place that a link leads back to, of the same user or item; -1 where that event is not there any more.

    Columns instead of a `Log`: a named tuple that is passed on costs more than the step itself.
    """
    before, length = links[place], len(links)
    if before < 0 or same[before] != same[place]:
        return -1
    return before if _is_older(before, place, seen, length) else -1


@njit(cache=True, inline="always")
def later(links, same, seen, place):
    """The place that a link leads on to, likewise."""
    after, length = links[place], len(links)
    if after < 0 or same[after] != same[place]:
        return -1
    return after if _is_older(place, after, seen, length) else -1


@njit(cache=True)
def previous(log, seen, place):
    """Where the event before stands of the same user, -1 where there is none any more."""
    return earlier(log.before, log.user, seen, place)


@njit(cache=True)
def find(log, users, seen, user, event, time_ms):
    """Where an event of a user stands, -1 for nowhere: by its key among the last ones, before them by its time too."""
    place = users.newest[user]
    for back in range(REMEMBERED):
        if place < 0:
            return -1
        if log.event[place] == event and (back < LAGS or log.time_ms[place] == time_ms):
            return place
        place = previous(log, seen, place)
    return -1


@njit(cache=True)
def apply(log, users, items, tables, rules, bases, seen, most, item_rows, user_rows, events, times_ms, gone):
    """Count examples that were not counted before; how many were seen by then.

    gone[0] is how often a user's last event left, gone[1:] their rows; they may have come back since.
    """
    gone[0] = 0
    for at in range(len(item_rows)):
        user, item = user_rows[at], item_rows[at]
        if find(log, users, seen, user, events[at], times_ms[at]) >= 0:
            continue
        place = seen % len(log.item)
        _leave(log, users, items, seen, place, gone)
        again = _had(log, users, seen, user, item)
        _enter(log, users, items, place, item, user, events[at], times_ms[at])
        seen += 1
        _choose(users, items, bases, seen - 1, user, item, users.events[user], again, 1.0)
        users.events[user] += 1
        for table in range(len(tables)):
            _pair(log, items, tables[table], rules[table], bases[len(_SUMS) + table], seen, place, most, 1.0)
    return seen


@njit(cache=True)
def _leave(log, users, items, seen, place, gone):
    """Let the oldest event make room."""
    if seen < len(log.item):
        return
    user, item = log.user[place], log.item[place]
    if user >= 0 and users.newest[user] == place:
        clear_user(users, user)
        gone[0] += 1
        gone[gone[0]] = user
    if items.newest[item] == place:
        items.newest[item] = -1


@njit(cache=True)
def _enter(log, users, items, place, item, user, event, time_ms):
    before = users.newest[user]
    log.item[place], log.user[place], log.event[place], log.time_ms[place] = item, user, event, time_ms
    log.before[place], log.after[place], log.before_item[place] = before, -1, items.newest[item]
    if before >= 0:
        log.after[before] = place
    users.newest[user] = place
    items.newest[item] = place


@njit(cache=True)
def _had(log, users, seen, user, item):
    """Whether the user had the item among the last events."""
    place = users.newest[user]
    for _ in range(LAGS):
        if place < 0:
            return False
        if log.item[place] == item:
            return True
        place = previous(log, seen, place)
    return False


@njit(cache=True)
def _choose(users, items, bases, step, user, item, number, again, sign):
    """Add a choice, the `number`th of the user from 0, to every popularity, or take it out: none of an item that the
    user had lately, and no more than the user's share.
    """
    since = step - users.step[user]
    for at in range(len(_SUMS)):
        half_life = _HALF_LIVES[at]
        had = users.share[user, at] * 0.5 ** (since / half_life)
        most = MOST_SHARE * _SUMS[at] * -np.expm1(-max(step, _FEW) / _SUMS[at])
        added = 0.0 if again or number >= _FIRST[at] else min(max(most - had, 0.0), 1.0)
        users.share[user, at] = had + added
        amount = sign * added * 2.0 ** ((step - bases[at]) / half_life)
        before = items.chosen[item, at]
        items.chosen[item, at] = max(before + amount, 0.0)
        items.totals[at] = max(items.totals[at] + items.chosen[item, at] - before, 0.0)
    users.step[user] = step
    items.changed[item] = max(items.changed[item], step)
    if sign > 0 and items.first[item] < 0:
        items.first[item] = step


@njit(cache=True)
def _pair(log, items, pairs, rule, base, seen, place, most, sign):
    """Add the pairs of an event with those before it, or take them out."""
    item, step, time_ms = log.item[place], step_at(place, seen, len(log.item)), log.time_ms[place]
    amount = sign * 2.0 ** ((step - base) / rule.half_life)
    other = previous(log, seen, place)
    for _ in range(rule.lags):
        if other < 0:
            break
        waited = time_ms - log.time_ms[other]
        near = rule.within_ms < 0 or 0 < waited <= rule.within_ms
        partner = log.item[other]
        if partner != item and near:
            _add(pairs, partner, item, amount, most)
            items.changed[partner] = max(items.changed[partner], step)
            if rule.both_ways:
                _add(pairs, item, partner, amount, most)
        amount *= rule.decay
        other = previous(log, seen, other)


@njit(cache=True)
def _add(pairs, item, partner, amount, most):
    """Add to the weight with which an item leads to a partner; the row stays in order."""
    pairs.total[item] = max(pairs.total[item] + amount, 0.0)
    start, used = pairs.start[item], pairs.used[item]
    at = -1
    for slot in range(used):
        if pairs.partner[start + slot] == partner:
            at = slot
            break
    if at < 0:
        if amount <= 0:
            return
        if used == pairs.room[item] and used < most:
            _grow(pairs, item)
            start = pairs.start[item]
        if used < min(pairs.room[item], most):
            at = used
            pairs.used[item] = used + 1
        elif used:
            at = used - 1  # the weakest makes room
        else:
            return
        pairs.partner[start + at], pairs.weight[start + at] = partner, 0.0
    weight = pairs.weight[start + at] + np.float32(amount)
    _place(pairs, start, pairs.used[item], at, partner, weight if weight > -_ROUNDING * amount else np.float32(0.0))
    while pairs.used[item] and pairs.weight[start + pairs.used[item] - 1] <= 0:
        pairs.used[item] -= 1


@njit(cache=True)
def _place(pairs, start, used, at, partner, weight):
    """Move a partner from its slot to where its weight belongs."""
    while at > 0 and pairs.weight[start + at - 1] < weight:
        pairs.partner[start + at], pairs.weight[start + at] = (
            pairs.partner[start + at - 1],
            pairs.weight[start + at - 1],
        )
        at -= 1
    while at + 1 < used and pairs.weight[start + at + 1] > weight:
        pairs.partner[start + at], pairs.weight[start + at] = (
            pairs.partner[start + at + 1],
            pairs.weight[start + at + 1],
        )
        at += 1
    pairs.partner[start + at], pairs.weight[start + at] = partner, weight


@njit(cache=True)
def _grow(pairs, item):
    """Move a row to one of the next size, if there is room for one."""
    size = 0
    while size < len(_ROOMS) and _ROOMS[size] <= pairs.room[item]:
        size += 1
    if size == len(_ROOMS):
        return
    room, start = _ROOMS[size], pairs.free[size]
    if start >= 0:
        pairs.free[size] = pairs.partner[start]
    elif pairs.top[0] + room <= len(pairs.partner):
        start = pairs.top[0]
        pairs.top[0] += room
    else:
        return
    old, used = pairs.start[item], pairs.used[item]
    for slot in range(used):
        pairs.partner[start + slot], pairs.weight[start + slot] = pairs.partner[old + slot], pairs.weight[old + slot]
    if size:
        pairs.partner[old] = pairs.free[size - 1]
        pairs.free[size - 1] = old
    pairs.start[item], pairs.room[item] = start, room


@njit(cache=True)
def forget(log, users, items, tables, rules, bases, seen, user):
    """Take out what a user's events added, the newest first, and the events themselves."""
    count, place = 0, users.newest[user]
    while place >= 0:
        count += 1
        place = previous(log, seen, place)
    places = np.zeros(count, np.int32)
    place = users.newest[user]
    for at in range(count - 1, -1, -1):
        places[at] = place
        place = previous(log, seen, place)
    for at in range(count):
        for table in range(len(tables)):
            _pair(log, items, tables[table], rules[table], bases[len(_SUMS) + table], seen, places[at], 0, -1.0)
    users.share[user] = 0.0
    for at in range(count):
        item, step, again = log.item[places[at]], step_at(places[at], seen, len(log.item)), False
        for before in range(max(0, at - LAGS), at):
            again = again or log.item[places[before]] == item
        users.step[user] = step if at == 0 else users.step[user]
        _choose(users, items, bases, step, user, item, users.events[user] - count + at, again, -1.0)
        items.changed[item] = seen
    for place in places:
        log.user[place], log.event[place], log.time_ms[place] = -1, 0, 0
    for place in places:
        if items.first[log.item[place]] == step_at(place, seen, len(log.item)):
            items.first[log.item[place]] = _first(log, items, seen, log.item[place])


@njit(cache=True)
def _first(log, items, seen, item):
    """The oldest event in the log that chose an item, -1 for none; of those who were forgotten none counts."""
    first, place = -1, items.newest[item]
    while place >= 0:
        if log.user[place] >= 0:
            first = step_at(place, seen, len(log.item))
        place = earlier(log.before_item, log.item, seen, place)
    return first


@njit(cache=True)
def clear_user(users, row):
    users.newest[row], users.step[row], users.events[row] = -1, 0, 0
    users.share[row] = 0.0


@njit(cache=True)
def partners(pairs, rows, width, factor, shrink):
    """The strongest partners of some items, and their shares."""
    found, shares = np.full((len(rows), width), -1, np.int32), np.zeros((len(rows), width), np.float32)
    for at in range(len(rows)):
        row = rows[at]
        start, scale = pairs.start[row], factor / (pairs.total[row] * factor + shrink)
        for slot in range(min(width, pairs.used[row])):
            found[at, slot] = pairs.partner[start + slot]
            shares[at, slot] = pairs.weight[start + slot] * scale
    return found, shares


def packed(pairs: Pairs, items: int) -> Pairs:
    """The rows of the first items side by side, without gaps."""
    used, room = pairs.used[:items], pairs.room[:items]
    start = np.cumsum(room, dtype=np.int64) - room
    partner, weight = np.zeros(int(room.sum()), np.int32), np.zeros(int(room.sum()), np.float32)
    _copy_rows(pairs.start, start, used, pairs.partner, pairs.weight, partner, weight)
    top = np.array([len(partner)], np.int64)
    return Pairs(start, used, room, pairs.total[:items], partner, weight, top, np.full(len(_ROOMS), -1))


@njit(cache=True)
def _copy_rows(old, new, used, old_partner, old_weight, partner, weight):
    for row in range(len(used)):
        for slot in range(used[row]):
            partner[new[row] + slot], weight[new[row] + slot] = (
                old_partner[old[row] + slot],
                old_weight[old[row] + slot],
            )
