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
from numba import njit

from model.counting import Items, Log, Pairs, following, previous, previous_of_item

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
_SLOTS, _MOST = 1 << 14, 1 << 13  # of a hash table; items in it
_USER_SLOTS = 1 << 12


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
    and ease_weights (t, w), -1 for none; near, nearness (n, NEIGHBOURS).
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
    fades: np.ndarray  # (HALF_LIVES,) what turns what is kept of a popularity into its weight now
    total: float  # of the popularity that backs off, with what every item is given


class Asked(NamedTuple):
    """What is wanted of a micro-batch.

    Shape: history (B, T) rows of the catalogue, the newest last, -1 for none; weights (B, CHANNELS + 5) of the linear
    score: of every sum, the popularities, and the age; forced (B, F) rows that are candidates anyway, -1 for none;
    heads (h,), sample (B, R) rows; excluded (x,) rows, those of user b from excluded_from[b] on, (B + 1,).
    """

    history: np.ndarray
    weights: np.ndarray
    forced: np.ndarray
    heads: np.ndarray
    sample: np.ndarray
    excluded: np.ndarray
    excluded_from: np.ndarray


def workspace(users: int) -> Workspace:
    return Workspace(
        np.full((users, _SLOTS), -1, np.int32),
        np.zeros((users, _MOST), np.int32),
        np.zeros((users, _MOST, len(CHANNELS)), np.float32),
        np.zeros(users, np.int32),
    )


@njit(cache=True, fastmath=True)
def _log(x):
    """The natural logarithm to three digits."""
    bits = np.float32(x).view(np.int32)
    exponent = np.float32((bits >> 23) - 127)
    m = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32)
    return np.float32(0.6931472) * (exponent + ((np.float32(-0.33582878) * m + 2) * m - np.float32(1.65871022)))


@njit(cache=True)
def _hash(row):
    return (row * np.int64(2654435761) >> 12) & (_SLOTS - 1)


@njit(cache=True)
def slot_of(slots, rows, row):
    """Where an item stands among the sums of a user, -1 for nowhere."""
    at = _hash(row)
    while slots[at] >= 0:
        if rows[slots[at]] == row:
            return slots[at]
        at = (at + 1) & (_SLOTS - 1)
    return -1


@njit(cache=True)
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
    recency, seen_items = 1.0, 0
    for t in range(len(history) - 1, -1, -1):
        item = history[t]
        if item >= 0:
            row = statistics_row[item]
            if row >= 0 and pairs.used[row] > 0:
                scale = np.float32(recency * factor / (pairs.total[row] * factor + shrink))
                start, width = pairs.start[row], min(pairs.used[row], WIDE if seen_items < NEWEST else NARROW)
                for slot in range(start, start + width):
                    partner = catalogue_row[pairs.partner[slot]]
                    if partner >= 0:
                        at, count = _enter(slots, rows, sums, count, partner)
                        if at >= 0:
                            sums[at, channel] += pairs.weight[slot] * scale
            seen_items += 1
        recency *= decay
    return count


@njit(cache=True)
def _add_fitted(space, b, count, sources, history):
    """EASE's weights: sums of what the last items lead to."""
    slots, rows, sums = space.slots[b], space.rows[b], space.sums[b]
    recency, decay, seen_items = 1.0, sources.decays[TABLES], 0
    for t in range(len(history) - 1, -1, -1):
        item = history[t]
        if item >= 0:
            row = sources.ease_row[item]
            if row >= 0:
                width = min(sources.ease_items.shape[1], WIDE if seen_items < NEWEST else NARROW)
                for slot in range(width):
                    partner = sources.ease_items[row, slot]
                    if partner >= 0:
                        at, count = _enter(slots, rows, sums, count, partner)
                        if at >= 0:
                            sums[at, EASE] += np.float32(recency) * sources.ease_weights[row, slot]
            seen_items += 1
        recency *= decay
    return count


@njit(cache=True)
def _add_texts(space, b, count, sources, history):
    """The largest similarity of a text to one of the last items."""
    slots, rows, sums = space.slots[b], space.rows[b], space.sums[b]
    for t in range(len(history) - 1, -1, -1):
        item = history[t]
        if item >= 0:
            for slot in range(sources.near.shape[1]):
                nearness = sources.nearness[item, slot]
                if nearness > 0:
                    at, count = _enter(slots, rows, sums, count, sources.near[item, slot])
                    if at >= 0 and sums[at, TEXT] < nearness:
                        sums[at, TEXT] = nearness
    return count


@njit(cache=True)
def _shared_events(sources, history, places, weights, owners):
    """Events of others on the last items, the newest of each item: where they stand, how much they say, whose."""
    log, found, seen_items, recency = sources.log, 0, 0, 1.0
    for t in range(len(history) - 1, -1, -1):
        item = history[t]
        if item >= 0:
            row = sources.statistics_row[item]
            if row >= 0:
                rarity = 1.0 / np.log(2.0 + sources.items.chosen[row, 0])
                place, left = sources.items.newest[row], USERS_WIDE if seen_items < NEWEST else USERS_NARROW
                while place >= 0 and left > 0 and found < len(places):
                    if log.user[place] >= 0:
                        places[found], weights[found], owners[found] = place, recency * rarity, log.user[place]
                        found += 1
                        left -= 1
                    place = previous_of_item(log, sources.seen, place)
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
def _add_users(space, b, count, sources, history, scratch):
    """What stands near the last items in the histories of those who are most alike; its sums make 1."""
    slots, rows, sums, log = space.slots[b], space.rows[b], space.sums[b], sources.log
    places, weights, owners, user_slots, users, alike = scratch
    found = _shared_events(sources, history, places, weights, owners)
    if not found:
        return count
    _alike(owners, weights, found, user_slots, users, alike)
    least = np.partition(weights[:found], found - SHARED)[found - SHARED] if found > SHARED else 0.0
    votes, used = 0.0, 0
    for at in range(found):
        if weights[at] < least or used == SHARED:
            continue
        used += 1
        for direction in range(2):
            place, vote = places[at], weights[at]
            for _ in range(AROUND):
                place = previous(log, sources.seen, place) if direction else following(log, sources.seen, place)
                if place < 0:
                    break
                item = sources.catalogue_row[log.item[place]]
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


@njit(cache=True)
def _linear(sources, sums, row, weights):
    """The part of the linear score that retrieval knows."""
    chosen = sources.statistics_row[row]
    lately = UNSEEN + (sources.items.chosen[chosen, 1] * sources.fades[1] if chosen >= 0 else 0.0)
    back_off = np.float32(BACK_OFF * lately / sources.total + LEAST)
    nothing, score = _log(back_off), np.float32(0.0)
    for channel in range(TEXT):
        score += weights[channel] * (_log(sums[channel] + back_off) if sums[channel] > 0 else nothing)
    score += weights[TEXT] * np.float32(TEXT_SCALE) * sums[TEXT]
    for at in range(4):
        count = sources.items.chosen[chosen, at] * sources.fades[at] if chosen >= 0 else 0.0
        score += weights[TEXT + 1 + at] * _log(count + UNSEEN)
    if chosen >= 0 and sources.items.first[chosen] >= 0:
        score += weights[TEXT + 5] * _log(1.0 + sources.seen - sources.items.first[chosen]) / np.float32(3.0)
    return score


@njit(cache=True, nogil=True)
def retrieve(sources, asked, space, first, last, found, sums, allowed):
    """Find the candidates of users first to last of a micro-batch, and the sums of them and of the sampled items.

    Shape: found (B, C) rows, -1 for none; sums (B, C + R, CHANNELS); allowed (B, R) bool: not excluded.
    """
    scratch, scores, chosen = _scratch(), np.zeros(_MOST, np.float32), np.zeros(_MOST, np.int8)
    for b in range(first, last):
        _clear(space.slots[b], space.rows[b], space.counts[b])
        count = _sum_up(sources, asked, space, b, scratch)
        slots, rows = space.slots[b], space.rows[b]
        excluded = asked.excluded[asked.excluded_from[b] : asked.excluded_from[b + 1]]
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
def _best(sources, weights, space, b, count, chosen, scores, into, found, sums):
    """Fill up the candidates with those that the linear score puts first."""
    known, room = 0, found.shape[1] - into
    for at in range(count):
        if chosen[at] == 0:
            scores[known] = _linear(sources, space.sums[b, at], space.rows[b, at], weights)
            known += 1
    least = np.float32(-np.inf)
    if known > room > 0:
        least = np.partition(scores[:known], known - room)[known - room]
    known = 0
    for at in range(count):
        if chosen[at] == 0:
            if scores[known] >= least and into < found.shape[1]:
                found[b, into], sums[b, into] = space.rows[b, at], space.sums[b, at]
                into += 1
            known += 1
    found[b, into:] = -1
    sums[b, into : found.shape[1]] = 0.0


@njit(cache=True, nogil=True)
def look_around(sources, space, candidates, first, last, taste, had, had_from, alike, spread, tasted, familiar):
    """What is computed of the candidates alone, from the sums of others: `spread`, the share of what the nearest texts'
    items are led to by; `tasted` and `familiar`, what all that the user ever had says for an item.

    Args:
        taste: (taste_row (n,), items (t, w), weights (t, w)).
        had: rows (p,) of items that users had, those of user b from had_from[b] on.
        alike: so many of the nearest texts are looked at.

    Shape: candidates (B, c), -1 for none -> spread, tasted, familiar (B, c).
    """
    taste_row, taste_items, taste_weights = taste
    slots, rows = np.full(_SLOTS, -1, np.int32), np.zeros(_MOST, np.int32)
    nothing = np.zeros((_MOST, 0), np.float32)
    for b in range(first, last):
        count = 0
        for row in had[had_from[b] : had_from[b + 1]]:
            _, count = _enter(slots, rows, nothing, count, row)
        for c in range(candidates.shape[1]):
            item = candidates[b, c]
            if item < 0:
                continue
            weight, shared, led = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for slot in range(alike):
                nearness = sources.nearness[item, slot]
                if nearness <= 0:
                    continue
                fourth = nearness * nearness * nearness * nearness
                other = sources.near[item, slot]
                weight += fourth
                at = slot_of(space.slots[b], space.rows[b], other)
                led += fourth * _led(sources, space, b, at, other)
                if slot_of(slots, rows, other) >= 0:
                    shared += fourth
            spread[b, c] = led
            familiar[b, c] = shared / (weight + np.float32(1e-6))
            row = taste_row[item]
            if row >= 0:
                for slot in range(taste_items.shape[1]):
                    partner = taste_items[row, slot]
                    if partner >= 0 and slot_of(slots, rows, partner) >= 0:
                        tasted[b, c] += taste_weights[row, slot]
        _clear(slots, rows, count)


@njit(cache=True)
def _led(sources, space, b, at, row):
    """What the last items lead to an item by, in both tables of transitions, with what popularity adds."""
    chosen = sources.statistics_row[row]
    lately = UNSEEN + (sources.items.chosen[chosen, 1] * sources.fades[1] if chosen >= 0 else 0.0)
    back_off = np.float32(2 * (BACK_OFF * lately / sources.total + LEAST))
    return back_off + space.sums[b, at, 0] + space.sums[b, at, 1] if at >= 0 else back_off


@njit(cache=True, nogil=True)
def carriers(sources, history, rows, channels, amounts):
    """How much each past event speaks for an item in one of the tables.

    Shape: history (B, T), rows (B, k, r), channels (B, k, r) of CHANNELS, below 0 for none -> amounts (B, k, r, T).
    """
    tables = (sources.transitions, sources.recent, sources.next)
    for b in range(len(history)):
        for j in range(rows.shape[1]):
            for r in range(rows.shape[2]):
                channel = channels[b, j, r]
                if channel < 0 or channel == USERS:
                    continue
                recency, decay = 1.0, sources.decays[channel] if channel < TEXT - 1 else 1.0
                for t in range(history.shape[1] - 1, -1, -1):
                    item = history[b, t]
                    if item >= 0:
                        amounts[b, j, r, t] = recency * _led_from(sources, tables, channel, item, rows[b, j, r])
                    recency *= decay


@njit(cache=True)
def _led_from(sources, tables, channel, item, wanted):
    if channel < TABLES:
        row, partner = sources.statistics_row[item], sources.statistics_row[wanted]
        if row < 0 or partner < 0:
            return 0.0
        pairs = tables[channel]
        for slot in range(pairs.start[row], pairs.start[row] + min(pairs.used[row], WIDE)):
            if pairs.partner[slot] == partner:
                factor = sources.factors[channel]
                return pairs.weight[slot] * factor / (pairs.total[row] * factor + sources.shrinks[channel])
        return 0.0
    if channel == EASE:
        row = sources.ease_row[item]
        for slot in range(sources.ease_items.shape[1] if row >= 0 else 0):
            if sources.ease_items[row, slot] == wanted:
                return sources.ease_weights[row, slot]
        return 0.0
    for slot in range(sources.near.shape[1]):
        if sources.near[item, slot] == wanted and sources.nearness[item, slot] > 0:
            return sources.nearness[item, slot]
    return 0.0
