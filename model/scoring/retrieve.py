"""Retrieval: the few hundred items that are worth a closer look, found without looking at the others.

    last items ─► their strongest partners in the counted and fitted tables ─┐
              ├─► nearest texts ─────────────────────────────────────────────┤ sums in a hash table, by item and table
              └─► users alike ─► what stands around it in their histories ───┘           │
    heads of the popularities, items that the ranker found elsewhere ────────────────────┴─► the best by a linear score

What it costs depends on how many partners are read, not on how many items there are. The loops are compiled and hold no
lock of the interpreter; the sums stay in the `Workspace`, where signals of the candidates look them up.

Source: Ludewig and Jannach, Evaluation of session-based recommendation algorithms, 2018, arXiv:1803.09587 (kNN).
"""

from typing import NamedTuple

import numpy as np

from model.counting import POPULARITIES, Items, Log, Pairs, earlier, later
from model.jit import njit

CHANNELS = ("transitions", "recent-transitions", "next", "ease", "neighbour-users", "text")
"""Sums that retrieval makes of an item, in this order; the first ones are the counted tables of pairs."""
TABLES, EASE, USERS, TEXT = 3, 3, 4, 5
NEWEST, WIDE, NARROW = 6, 96, 32
"""Partners read of the newest items, and of those before."""
USERS_WIDE, USERS_NARROW = 128, 32
"""Newest events on an item that are looked at for users alike, likewise."""
AROUND, SHARED = 10, 96
"""Items at most so far apart in a history stand near each other; so many events of users alike are looked around."""
_ALIKE, _NEARER = 0.9, 0.9  # what a shared item counts beside the next newer one; what one place further away counts
BACK_OFF, LEAST, UNSEEN = 0.02, 1e-6, 0.05
TEXT_SCALE = 5.0
STANDING = len(POPULARITIES) + 3
"""What retrieval knows of an item, whoever asks: the logs of its popularities and its age, what popularity adds to its
share of a table (back-off), and the log of that.
"""
_BACK_OFF, _LOG_BACK_OFF = STANDING - 2, STANDING - 1
_SLOTS, _MOST = 1 << 14, 1 << 13  # of a hash table; items in it
_USER_SLOTS = 1 << 12
_MARKS = 1 << 12


class Workspace(NamedTuple):
    """Sums of each user of a micro-batch: a hash table of items, and what is in it.

    Shape: slots (B, _SLOTS) places in the others, -1 for none; rows (B, _MOST), sums (B, _MOST, CHANNELS), counts (B,).
    """

    slots: np.ndarray
    rows: np.ndarray
    sums: np.ndarray
    counts: np.ndarray


class Sources(NamedTuple):
    """Where partners come from. Rows of statistics become rows of the catalogue by `catalogue_row`, -1 for none.

    Shape: statistics_row (n,), catalogue_row (m,); factors, shrinks, decays (TABLES,); ease_row (n,) rows of ease_items
    and ease_weights (t, w), -1 for none; near, nearness (n, NEIGHBOURS); standing (n, STANDING).
    """

    statistics_row: np.ndarray
    catalogue_row: np.ndarray
    transitions: Pairs
    recent: Pairs
    next: Pairs
    factors: np.ndarray
    shrinks: np.ndarray
    decays: np.ndarray
    ease_row: np.ndarray
    ease_items: np.ndarray
    ease_weights: np.ndarray
    near: np.ndarray
    nearness: np.ndarray
    log: Log
    items: Items
    seen: int
    standing: np.ndarray


class Asked(NamedTuple):
    """What is wanted of a micro-batch.

    Shape: history (B, T) rows of the catalogue, the newest last, -1 for none; weights (B, CHANNELS + POPULARITIES + 1)
    of the linear score: of every sum, the popularities, and the age; forced (B, F) rows that are candidates anyway, -1
    for none; heads (h,), sample (B, R) rows; excluded (x,) rows, those of user b from excluded_from[b] on, (B + 1,);
    items, how many there are.
    """

    history: np.ndarray
    weights: np.ndarray
    forced: np.ndarray
    heads: np.ndarray
    sample: np.ndarray
    excluded: np.ndarray
    excluded_from: np.ndarray
    items: int


def workspace(users: int) -> Workspace:
    return Workspace(
        np.full((users, _SLOTS), -1, np.int16),
        np.zeros((users, _MOST), np.int32),
        np.zeros((users, _MOST, len(CHANNELS)), np.float32),
        np.zeros(users, np.int32),
    )


@njit(cache=True, inline="always")
def _log(x):
    """The natural logarithm to three digits."""
    bits = np.float32(x).view(np.int32)
    exponent = np.float32((bits >> 23) - 127)
    m = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32)
    return np.float32(0.6931472) * (exponent + ((np.float32(-0.33582878) * m + 2) * m - np.float32(1.65871022)))


@njit(cache=True, inline="always")
def _hash(row):
    return (row * np.int64(2654435761) >> 12) & (_SLOTS - 1)


@njit(cache=True, inline="always")
def slot_of(slots, rows, row):
    """Where an item stands among the sums of a user, -1 for nowhere."""
    at = _hash(row)
    while slots[at] >= 0:
        if rows[slots[at]] == row:
            return slots[at]
        at = (at + 1) & (_SLOTS - 1)
    return -1


@njit(cache=True, inline="always")
def _enter(slots, rows, sums, count, row):
    """The place of an item among the sums, a new one if it has none, -1 without room; and how many there are."""
    at = _hash(row)
    while slots[at] >= 0:
        if rows[slots[at]] == row:
            return slots[at], count
        at = (at + 1) & (_SLOTS - 1)
    if count == _MOST:
        return -1, count
    slots[at], rows[count] = count, row
    sums[count] = 0.0
    return count, count + 1


@njit(cache=True)
def _clear(slots, rows, count):
    """Empty the hash table of a user."""
    for at in range(count):
        spot = _hash(rows[at])
        while slots[spot] >= 0:
            slots[spot] = -1
            spot = (spot + 1) & (_SLOTS - 1)


@njit(cache=True)
def _add_pairs(space, b, count, pairs, channel, statistics_row, catalogue_row, history, factor, shrink, decay):
    slots, rows, sums = space.slots[b], space.rows[b], space.sums[b]
    starts, used, total, partners, weights = pairs.start, pairs.used, pairs.total, pairs.partner, pairs.weight
    recency, seen_items = 1.0, 0
    for t in range(len(history) - 1, -1, -1):
        item = history[t]
        if item >= 0:
            row = statistics_row[item]
            if row >= 0 and used[row] > 0:
                scale = np.float32(recency * factor / (total[row] * factor + shrink))
                start, width = starts[row], min(used[row], WIDE if seen_items < NEWEST else NARROW)
                for slot in range(start, start + width):
                    partner = catalogue_row[partners[slot]]
                    if partner >= 0:
                        at, count = _enter(slots, rows, sums, count, partner)
                        if at >= 0:
                            sums[at, channel] += weights[slot] * scale
            seen_items += 1
        recency *= decay
    return count


@njit(cache=True)
def _add_fitted(space, b, count, sources, history):
    """EASE's weights: sums of what the last items lead to."""
    slots, rows, sums = space.slots[b], space.rows[b], space.sums[b]
    items, weights = sources.ease_items, sources.ease_weights
    recency, decay, seen_items = 1.0, sources.decays[TABLES], 0
    for t in range(len(history) - 1, -1, -1):
        item = history[t]
        if item >= 0:
            row = sources.ease_row[item]
            if row >= 0:
                width = min(items.shape[1], WIDE if seen_items < NEWEST else NARROW)
                for slot in range(width):
                    partner = items[row, slot]
                    if partner >= 0:
                        at, count = _enter(slots, rows, sums, count, partner)
                        if at >= 0:
                            sums[at, EASE] += np.float32(recency) * weights[row, slot]
            seen_items += 1
        recency *= decay
    return count


@njit(cache=True)
def _add_texts(space, b, count, sources, history):
    """The largest similarity of a text to one of the last items."""
    slots, rows, sums = space.slots[b], space.rows[b], space.sums[b]
    near, nearnesses = sources.near, sources.nearness
    for t in range(len(history) - 1, -1, -1):
        item = history[t]
        if item >= 0:
            for slot in range(near.shape[1]):
                nearness = nearnesses[item, slot]
                if nearness > 0:
                    at, count = _enter(slots, rows, sums, count, near[item, slot])
                    if at >= 0 and sums[at, TEXT] < nearness:
                        sums[at, TEXT] = nearness
    return count


@njit(cache=True)
def _shared_events(sources, history, places, weights, owners):
    """Events of others on the last items, the newest of each item: where they stand, how much they say, whose."""
    found, seen_items, recency, seen = 0, 0, 1.0, sources.seen
    log_item, log_user, links = sources.log.item, sources.log.user, sources.log.before_item
    for t in range(len(history) - 1, -1, -1):
        item = history[t]
        if item >= 0:
            row = sources.statistics_row[item]
            if row >= 0:
                rarity = 1.0 / np.log(2.0 + sources.items.chosen[row, 0])
                place, left = sources.items.newest[row], USERS_WIDE if seen_items < NEWEST else USERS_NARROW
                while place >= 0 and left > 0 and found < len(places):
                    if log_user[place] >= 0:
                        places[found], weights[found], owners[found] = place, recency * rarity, log_user[place]
                        found += 1
                        left -= 1
                    place = earlier(links, log_item, seen, place)
            seen_items += 1
        recency *= _ALIKE
    return found


@njit(cache=True)
def _alike(owners, weights, found, slots, users, alike):
    """Multiply what each event says by how much its user shares with the one who asks."""
    count = 0
    for at in range(found):
        spot = (owners[at] * np.int64(2654435761) >> 12) & (_USER_SLOTS - 1)
        while slots[spot] >= 0 and users[slots[spot]] != owners[at]:
            spot = (spot + 1) & (_USER_SLOTS - 1)
        if slots[spot] < 0:
            slots[spot], users[count], alike[count] = count, owners[at], 0.0
            count += 1
        alike[slots[spot]] += weights[at]
        owners[at] = spot
    for at in range(found):
        weights[at] *= alike[slots[owners[at]]]
    for at in range(found):
        slots[owners[at]] = -1


@njit(cache=True)
def _bound(values, most):
    """The least of the largest values, at most so many, and how many of those that equal it are among them."""
    if most <= 0:
        return values.dtype.type(np.inf), 0
    if len(values) <= most:
        return values.dtype.type(-np.inf), most
    least = np.partition(values, len(values) - most)[len(values) - most]
    return least, most - np.sum(values > least)


@njit(cache=True)
def _add_users(space, b, count, sources, history, scratch):
    """What stands near the last items in the histories of those who are most alike; its sums make 1."""
    slots, rows, sums, seen = space.slots[b], space.rows[b], space.sums[b], sources.seen
    log_item, log_user, before, after = sources.log.item, sources.log.user, sources.log.before, sources.log.after
    catalogue_row = sources.catalogue_row
    places, weights, owners, user_slots, users, alike = scratch
    found = _shared_events(sources, history, places, weights, owners)
    if not found:
        return count
    _alike(owners, weights, found, user_slots, users, alike)
    least, level = _bound(weights[:found], SHARED)
    votes = 0.0
    for at in range(found):
        if weights[at] < least or (weights[at] == least and level == 0):
            continue
        level -= weights[at] == least
        for direction in range(2):
            place, vote = places[at], weights[at]
            for _ in range(AROUND):
                if direction:
                    place = earlier(before, log_user, seen, place)
                else:
                    place = later(after, log_user, seen, place)
                if place < 0:
                    break
                item = catalogue_row[log_item[place]]
                votes += vote
                if item >= 0:
                    into, count = _enter(slots, rows, sums, count, item)
                    if into >= 0:
                        sums[into, USERS] += np.float32(vote)
                vote *= _NEARER
    if votes > 0:
        for at in range(count):
            sums[at, USERS] /= np.float32(votes)
    return count


@njit(cache=True)
def _scratch():
    most = NEWEST * USERS_WIDE + 32 * USERS_NARROW
    return (
        np.zeros(most, np.int32), np.zeros(most), np.zeros(most, np.int64),
        np.full(_USER_SLOTS, -1, np.int32), np.zeros(most, np.int64), np.zeros(most),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def retrieve(first, last, sources, asked, space, found, sums, allowed):
    """Find the candidates of users first to last of a micro-batch, and the sums of them and of the sampled items.

    Shape: found (B, C) rows, -1 for none; sums (B, C + R, CHANNELS); allowed (B, R) bool: not excluded.
    """
    scratch, scores, chosen = _scratch(), np.zeros(_MOST, np.float32), np.zeros(_MOST, np.int8)
    for b in range(first, last):
        _clear(space.slots[b], space.rows[b], space.counts[b])
        count = _sum_up(sources, asked, space, b, scratch)
        slots, rows = space.slots[b], space.rows[b]
        excluded = asked.excluded[asked.excluded_from[b] : asked.excluded_from[b + 1]]
        count = _fill_up(space, b, count, excluded, asked.items, found.shape[1])
        chosen[:count] = 0
        for row in excluded:
            at = slot_of(slots, rows, row)
            if at >= 0:
                chosen[at] = -1
        into = 0
        for row in asked.forced[b]:
            at = slot_of(slots, rows, row) if row >= 0 else -1
            if at >= 0 and chosen[at] == 0 and into < found.shape[1]:
                chosen[at] = 1
                found[b, into], sums[b, into] = row, space.sums[b, at]
                into += 1
        _best(sources, asked.weights[b], space, b, count, chosen, scores, into, found, sums)
        for r in range(asked.sample.shape[1]):
            at = slot_of(slots, rows, asked.sample[b, r])
            if at >= 0:
                sums[b, found.shape[1] + r] = space.sums[b, at]
            else:
                sums[b, found.shape[1] + r] = 0.0
            allowed[b, r] = at < 0 or chosen[at] >= 0
        for row in excluded:
            for r in range(asked.sample.shape[1]):
                if asked.sample[b, r] == row:
                    allowed[b, r] = False


@njit(cache=True)
def _sum_up(sources, asked, space, b, scratch):
    """All sums of a user, in the hash table; how many items there are."""
    history, count = asked.history[b], 0
    count = _add_pairs(
        space, b, count, sources.transitions, 0, sources.statistics_row, sources.catalogue_row, history,
        sources.factors[0], sources.shrinks[0], sources.decays[0],
    )  # fmt: skip
    count = _add_pairs(
        space, b, count, sources.recent, 1, sources.statistics_row, sources.catalogue_row, history,
        sources.factors[1], sources.shrinks[1], sources.decays[1],
    )  # fmt: skip
    count = _add_pairs(
        space, b, count, sources.next, 2, sources.statistics_row, sources.catalogue_row, history,
        sources.factors[2], sources.shrinks[2], sources.decays[2],
    )  # fmt: skip
    count = _add_fitted(space, b, count, sources, history)
    count = _add_users(space, b, count, sources, history, scratch)
    count = _add_texts(space, b, count, sources, history)
    for row in asked.heads:
        _, count = _enter(space.slots[b], space.rows[b], space.sums[b], count, row)
    for row in asked.forced[b]:
        if row >= 0:
            _, count = _enter(space.slots[b], space.rows[b], space.sums[b], count, row)
    for row in history:
        if row >= 0:
            _, count = _enter(space.slots[b], space.rows[b], space.sums[b], count, row)
    space.counts[b] = count
    return count


@njit(cache=True)
def _fill_up(space, b, count, excluded, items, wanted):
    """Where fewer are found than are wanted, the items that came last join them: no list is short while there are more
    that may be on it.
    """
    slots, rows, sums, listed = space.slots[b], space.rows[b], space.sums[b], count
    for row in excluded:
        listed -= slot_of(slots, rows, row) >= 0
    if listed >= wanted:
        return count
    for row in excluded:
        _, count = _enter(slots, rows, sums, count, row)
    for row in range(items - 1, -1, -1):
        if listed == wanted:
            break
        before = count
        _, count = _enter(slots, rows, sums, count, row)
        listed += count - before
    space.counts[b] = count
    return count


@njit(cache=True)
def _best(sources, weights, space, b, count, chosen, scores, into, found, sums):
    """Fill up the candidates with those that the linear score puts first."""
    _score(sources.standing, weights, space.rows[b], space.sums[b], count, chosen, scores)
    known, room = 0, found.shape[1] - into
    for at in range(count):
        if chosen[at] == 0:
            scores[known] = scores[at]
            known += 1
    least, level = _bound(scores[:known], room)
    known, rows = 0, space.rows[b]
    for at in range(count):
        if chosen[at] == 0:
            if scores[known] > least or (scores[known] == least and level > 0):
                level -= scores[known] == least
                found[b, into] = rows[at]
                sums[b, into] = space.sums[b, at]
                into += 1
            known += 1
    found[b, into:] = -1
    sums[b, into : found.shape[1]] = 0.0


@njit(cache=True)
def _score(standing, weights, rows, sums, count, chosen, scores):
    """The part of the linear score that retrieval knows, of every item with sums."""
    for at in range(count):
        if chosen[at] != 0:
            continue
        row, score = rows[at], np.float32(0.0)
        back_off, nothing = standing[row, _BACK_OFF], standing[row, _LOG_BACK_OFF]
        for channel in range(TEXT):
            amount = sums[at, channel]
            score += weights[channel] * (_log(amount + back_off) if amount > 0 else nothing)
        score += weights[TEXT] * np.float32(TEXT_SCALE) * sums[at, TEXT]
        for part in range(_BACK_OFF):
            score += weights[TEXT + 1 + part] * standing[row, part]
        scores[at] = score


@njit(cache=True, nogil=True)
def look_around(first, last, sources, space, candidates, taste, had, had_from, alike, into):
    """What is computed of the candidates alone, from the sums of others: what the items with the nearest texts are led
    to by; and what all that the user ever had says for an item, by who took both and by the nearest texts.

    Args:
        taste: (taste_row (n,), items (t, w), weights (t, w)).
        had: rows (p,) of items that users had, those of user b from had_from[b] on.
        alike: so many of the nearest texts are looked at.

    Shape: candidates (B, c), -1 for none -> into (B, c, 3).
    """
    taste_row, taste_items, taste_weights = taste
    near, nearnesses, standing = sources.near, sources.nearness, sources.standing
    slots, rows = np.full(_SLOTS, -1, np.int16), np.zeros(_MOST, np.int32)
    nothing, mark = (
        np.zeros((_MOST, 0), np.float32),
        np.zeros(_MARKS, np.bool_),
    )  # most items are in no table: see first
    for b in range(first, last):
        found_slots, found_rows, found_sums = space.slots[b], space.rows[b], space.sums[b]
        count = 0
        for row in had[had_from[b] : had_from[b + 1]]:
            _, count = _enter(slots, rows, nothing, count, row)
            mark[row & (_MARKS - 1)] = True
        for c in range(candidates.shape[1]):
            item, tasted = candidates[b, c], np.float32(0.0)
            if item < 0:
                continue
            weight, shared, led = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for slot in range(alike):
                nearness = nearnesses[item, slot]
                if nearness <= 0:
                    continue
                fourth = nearness * nearness * nearness * nearness
                other = near[item, slot]
                weight += fourth
                amount = np.float32(2.0) * standing[other, _BACK_OFF]  # in both tables of transitions
                at = slot_of(found_slots, found_rows, other)
                if at >= 0:
                    amount += found_sums[at, 0] + found_sums[at, 1]
                led += fourth * amount
                if mark[other & (_MARKS - 1)] and slot_of(slots, rows, other) >= 0:
                    shared += fourth
            row = taste_row[item]
            if row >= 0:
                for slot in range(taste_items.shape[1]):
                    partner = taste_items[row, slot]
                    if partner >= 0 and mark[partner & (_MARKS - 1)] and slot_of(slots, rows, partner) >= 0:
                        tasted += taste_weights[row, slot]
            into[b, c, 0], into[b, c, 1], into[b, c, 2] = led, tasted, shared / (weight + np.float32(1e-6))
        for row in had[had_from[b] : had_from[b + 1]]:
            mark[row & (_MARKS - 1)] = False
        _clear(slots, rows, count)


@njit(cache=True, nogil=True)
def carriers(first, last, sources, history, rows, channels, amounts):
    """How much each past event speaks for an item in one of the tables.

    Shape: history (B, T), rows (B, k), channels (B, k, r) of CHANNELS, below 0 for none -> amounts (B, k, r, T).
    """
    places, every = np.zeros(_MARKS, np.int16), np.zeros(0, np.int32)
    factors, shrinks, decays = sources.factors, sources.shrinks, sources.decays
    for b in range(first, last):
        counted = np.empty_like(rows[b])
        for j in range(len(counted)):
            counted[j] = sources.statistics_row[rows[b, j]]
        given = history[b], counted, channels[b], places, amounts[b]
        _carried_by_pairs(*given, sources.transitions, sources.statistics_row, 0, factors[0], shrinks[0], decays[0])
        _carried_by_pairs(*given, sources.recent, sources.statistics_row, 1, factors[1], shrinks[1], decays[1])
        _carried_by_pairs(*given, sources.next, sources.statistics_row, 2, factors[2], shrinks[2], decays[2])
        given = history[b], rows[b], channels[b], places, amounts[b]
        _carried_by_rows(*given, sources.ease_row, sources.ease_items, sources.ease_weights, EASE, decays[EASE])
        _carried_by_rows(*given, every, sources.near, sources.nearness, TEXT, 1.0)


@njit(cache=True)
def _enter_wanted(places, rows, channels, channel):
    """Enter the items that are wanted of a channel into a hash table of their places, plus 1; whether there are any."""
    some = False
    for j in range(len(rows)):
        wanted = False
        for r in range(channels.shape[1]):
            wanted |= channels[j, r] == channel
        if wanted and rows[j] >= 0:
            at, some = rows[j] & (_MARKS - 1), True
            while places[at]:
                at = (at + 1) & (_MARKS - 1)
            places[at] = j + 1
    return some


@njit(cache=True)
def _leave(places, rows):
    """Empty the hash table."""
    for row in rows:
        at = row & (_MARKS - 1)
        while row >= 0 and places[at]:
            places[at] = 0
            at = (at + 1) & (_MARKS - 1)


@njit(cache=True, inline="always")
def _tell(item, places, rows, channels, channel, amounts, t, amount):
    """An event speaks so much for an item, if that is wanted."""
    at = item & (_MARKS - 1)
    while places[at]:
        j = places[at] - 1
        if rows[j] == item:
            for r in range(channels.shape[1]):
                if channels[j, r] == channel and amount > amounts[j, r, t]:
                    amounts[j, r, t] = amount
        at = (at + 1) & (_MARKS - 1)


@njit(cache=True)
def _carried_by_pairs(history, rows, channels, places, amounts, pairs, statistics_row, channel, factor, shrink, decay):
    if not _enter_wanted(places, rows, channels, channel):
        return
    starts, used, total, partners, weights = pairs.start, pairs.used, pairs.total, pairs.partner, pairs.weight
    recency = 1.0
    for t in range(len(history) - 1, -1, -1):
        row = statistics_row[history[t]] if history[t] >= 0 else -1
        if row >= 0:
            start, scale = starts[row], recency * factor / (total[row] * factor + shrink)
            for slot in range(start, start + min(used[row], WIDE)):
                _tell(partners[slot], places, rows, channels, channel, amounts, t, weights[slot] * scale)
        recency *= decay
    _leave(places, rows)


@njit(cache=True)
def _carried_by_rows(history, rows, channels, places, amounts, row_of, items, weights, channel, decay):
    if not _enter_wanted(places, rows, channels, channel):
        return
    recency = 1.0
    for t in range(len(history) - 1, -1, -1):
        row = history[t]
        if row >= 0 and len(row_of):
            row = row_of[row]
        if row >= 0:
            for slot in range(items.shape[1]):
                if items[row, slot] >= 0:
                    _tell(items[row, slot], places, rows, channels, channel, amounts, t, recency * weights[row, slot])
        recency *= decay
    _leave(places, rows)
