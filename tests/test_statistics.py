"""What is counted of items and users, beside the same in plain Python."""

import copy
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import counting, statistics
from model.bounds import StatisticsConfig
from model.schema import Example, StateError, item_key
from model.statistics import EVER, FIRST_5, FIRST_20, HALF_LIFE_2K, HALF_LIVES, LAYOUT, PAIRS, ItemStatistics

FEW = StatisticsConfig(most_events=1_000, most_partners=512, most_pairs=1_000_000)
T0 = 1_700_000_000_000


def example(user, item, number, time_ms=None):
    return Example(f"u{user}", f"e{number}", T0 + 5_000 * number if time_ms is None else time_ms, f"i{item}", "view")


def stream(count, users=7, items=12, seed=0):
    draw = np.random.default_rng(seed)
    each = zip(draw.integers(0, users, count).tolist(), (items * draw.random(count) ** 2).astype(int).tolist())
    return [example(user, item, number) for number, (user, item) in enumerate(each)]


class Plain:
    """The same, event by event, with dicts; nothing is cut off and nothing is forgotten."""

    def __init__(self):
        self.histories = defaultdict(list)  # user -> (item, time)
        self.chosen = defaultdict(lambda: np.zeros(len(HALF_LIVES)))
        self.share = defaultdict(lambda: np.zeros(len(HALF_LIVES)))
        self.pairs = {name: defaultdict(float) for name in PAIRS}
        self.totals = {name: defaultdict(float) for name in PAIRS}
        self.step = 0

    def fade(self):
        for part, half_life in [(self.pairs[name], rule.half_life) for name, rule in PAIRS.items()] + [
            (self.totals[name], rule.half_life) for name, rule in PAIRS.items()
        ]:
            for key in part:
                part[key] *= 0.5 ** (1 / half_life)
        for table in (self.chosen, self.share):
            for key in table:
                table[key] = table[key] * [0.5 ** (1 / half_life) for half_life in HALF_LIVES]

    def add(self, one):
        before, item = self.histories[one.user_id], one.item_id
        again = item in [earlier for earlier, _ in before[-counting.LAGS :]]
        sums = np.minimum(HALF_LIVES, 1e12) / np.log(2)
        most = counting.MOST_SHARE * sums * -np.expm1(-max(self.step, 1_000) / sums)
        first = np.array([len(before) < popularity.first for popularity in counting.POPULARITIES])
        added = np.zeros(len(HALF_LIVES)) if again else (most - self.share[one.user_id]).clip(0, 1) * first
        self.share[one.user_id] = self.share[one.user_id] + added
        self.chosen[item] = self.chosen[item] + added
        for name, rule in PAIRS.items():
            for lag, (other, time_ms) in enumerate(before[::-1][: rule.lags]):
                waited = one.event_time_ms - time_ms
                if other != item and (rule.within_ms < 0 or 0 < waited <= rule.within_ms):
                    for a, b in ((other, item), (item, other))[: 2 if rule.both_ways else 1]:
                        self.pairs[name][a, b] += rule.decay**lag
                        self.totals[name][a] += rule.decay**lag
        before.append((item, one.event_time_ms))
        self.step += 1
        self.fade()


def rows(counted, name):
    """(item, partner) -> share, as `partners` has it."""
    ids = {item_key(f"i{number}"): f"i{number}" for number in range(2_000)}
    names = [ids[key] for key in counted.keys.tolist()]
    found, shares = counted.partners(name, np.arange(len(counted)), 512)
    return {
        (names[row], names[partner]): float(share)
        for row in range(len(counted))
        for partner, share in zip(found[row].tolist(), shares[row].tolist())
        if partner >= 0 and share > 1e-9
    }


def test_popularities_and_pairs_are_those_of_plain_python():
    """Every half-life, every rule, one user's share; more events than a chunk."""
    counted, plain = ItemStatistics(FEW), Plain()
    for one in stream(700):
        plain.add(one)
    counted.apply(stream(700))

    ids = {item_key(item): at for at, item in enumerate(plain.chosen)}
    expected = np.stack([plain.chosen[item] for item in plain.chosen])
    assert 700 == counted.seen
    assert expected[[ids[key] for key in counted.keys.tolist()]] == pytest.approx(counted.popularity(), rel=1e-6)
    for name, rule in PAIRS.items():
        wanted = {
            pair: weight / (plain.totals[name][pair[0]] + rule.shrink)
            for pair, weight in plain.pairs[name].items()
            if weight > 1e-6
        }
        assert wanted == pytest.approx(
            {pair: share for pair, share in rows(counted, name).items() if pair in wanted}, rel=1e-3
        )


def test_partners_come_best_first():
    """Whatever was added in whatever order."""
    counted = ItemStatistics(FEW)
    counted.apply(stream(2_000, users=3, items=200))

    for name in PAIRS:
        _, shares = counted.partners(name, np.arange(len(counted)), 100)
        assert (np.diff(shares, axis=1) <= 1e-7).all()


def test_a_row_holds_the_strongest_partners_and_no_more_than_it_may():
    """The rows are bounded; a partner that comes again and again stays."""
    counted = ItemStatistics(StatisticsConfig(most_events=50_000, most_partners=8))
    events = []
    for number in range(3_000):
        events += [example(number % 50, 0, 3 * number), example(number % 50, 1, 3 * number + 1)]
        events.append(example(number % 50, 10 + number % 900, 3 * number + 2))
    counted.apply(events)

    used = counted.pairs["transitions"].used[: len(counted)]
    partners, _ = counted.partners("transitions", np.array([counted.row_of[item_key("i0")]]), 8)
    assert used.max() <= 8
    assert counted.row_of[item_key("i1")] == partners[0, 0]


def test_all_tables_together_hold_no_more_pairs_than_they_may():
    """Where there is no room for a larger row, its weakest partner makes room."""
    counted = ItemStatistics(StatisticsConfig(most_events=50_000, most_pairs=3 * 65_536))
    counted.apply(stream(20_000, users=40, items=2_000))

    assert 3 * 65_536 == sum(len(pairs.partner) for pairs in counted.pairs.values())


@pytest.mark.parametrize("most", [1, 1_000, 4 * 65_536])
def test_tables_that_grow_at_one_time_stay_within_their_bound_together(most):
    """Whether it is far below what a table begins with, or just above what all of them have."""
    counted = ItemStatistics(StatisticsConfig(most_events=50_000, most_pairs=most))
    counted.apply(stream(30_000, users=40, items=3_000))

    assert sum(len(pairs.partner) for pairs in counted.pairs.values()) <= most


@pytest.mark.parametrize("most", [1, 5, 100, 512])
def test_a_row_holds_no_more_partners_than_it_may_whatever_sizes_rows_have(most):
    """Rows grow in steps; the bound may stand between two of them."""
    counted = ItemStatistics(StatisticsConfig(most_partners=most))
    counted.apply(
        [
            one
            for number in range(700)
            for one in (example(number, 0, 2 * number), example(number, 1 + number, 2 * number + 1))
        ]
    )

    assert most == counted.pairs["transitions"].used.max()


def test_an_example_that_comes_again_counts_once():
    """Right after it, and after others of the user."""
    once, twice = ItemStatistics(FEW), ItemStatistics(FEW)
    once.apply(stream(100))
    twice.apply([one for one in stream(100) for _ in range(2)])
    twice.apply(stream(100)[-30:])

    assert once.seen == twice.seen
    assert once.popularity() == pytest.approx(twice.popularity())


def test_first_events_have_a_popularity_of_their_own():
    """Five users take items 0 to 7: what is taken fifth is among the first five, what is taken later is not."""
    counted = ItemStatistics(FEW)
    counted.apply([example(user, item, 10 * user + item) for item in range(8) for user in range(5)])
    of_first = counted.popularity()[:, FIRST_5]

    assert [True] * 5 + [False] * 3 == (of_first > 0).tolist()
    assert counted.popularity()[:5, HALF_LIFE_2K] == pytest.approx(of_first[:5])
    assert (counted.popularity()[:, FIRST_20] > 0).all()


def test_who_is_forgotten_takes_out_the_own_first_events_alone():
    """Also where the log has only the user's later ones: those were counted among no first events."""
    few = StatisticsConfig(most_events=12, most_partners=512, most_pairs=1_000_000)
    counted = ItemStatistics(few)
    counted.apply([example(0, item, item) for item in range(4)])
    counted.apply([example(1, item, 10 + item) for item in range(12)])  # the log has these alone
    counted.apply([example(2, 9, 30)])
    before = counted.popularity()[:, FIRST_5].copy()
    counted.forget("u1")
    after = counted.popularity()[:, FIRST_5]

    gone = np.flatnonzero(before - after > 1e-9).tolist()
    assert [1, 2, 3, 4] == gone  # its first one has left the log
    assert after[9] == pytest.approx(before[9])


@pytest.mark.parametrize("seed", range(4))
def test_who_is_forgotten_was_never_there(seed):
    """Of popularities, pairs and rows nothing is left that the user added."""
    events = stream(600, users=5, seed=seed)
    with_all, without = ItemStatistics(FEW), ItemStatistics(FEW)
    with_all.apply(events)
    without.apply([one for one in events if one.user_id != "u3"])
    with_all.forget("u3")

    assert -1 == with_all.user_row("u3")
    of_pairs = {pair: share for pair, share in rows(with_all, "transitions").items() if share > 1e-5}
    assert rows(without, "transitions") == pytest.approx(of_pairs, rel=1e-3)
    by_key = dict(zip(with_all.keys.tolist(), with_all.popularity()[:, EVER].tolist()))
    assert without.popularity()[:, EVER] == pytest.approx([by_key[key] for key in without.keys.tolist()], abs=1e-6)


def shares_of(counted, name):
    """(item, partner) -> share of what the row has."""
    return {pair: share for pair, share in rows(counted, name).items() if share > 1e-6}


@pytest.mark.parametrize("seed", range(3))
def test_who_is_forgotten_leaves_nothing_in_any_half_life(seed):
    """Whoever the others are, what they chose is worth what it would be had nobody but time been in between."""
    events = stream(900, users=6, seed=seed)
    counted, plain = ItemStatistics(FEW), Plain()
    for one in events:
        if one.user_id == "u3":
            plain.step += 1
            plain.fade()
        else:
            plain.add(one)
    counted.apply(events)
    counted.forget("u3")

    chosen = {item_key(item): values for item, values in plain.chosen.items()}
    expected = np.array([chosen[key] for key in counted.keys.tolist()])
    assert expected == pytest.approx(counted.popularity(), rel=1e-5, abs=1e-6)
    assert expected.sum(0) == pytest.approx(counted.items.totals * counted.factors()[: len(HALF_LIVES)], rel=1e-5)
    for name, rule in PAIRS.items():
        wanted = {
            pair: weight / (plain.totals[name][pair[0]] + rule.shrink)
            for pair, weight in plain.pairs[name].items()
            if weight / (plain.totals[name][pair[0]] + rule.shrink) > 1e-6
        }
        assert wanted == pytest.approx(shares_of(counted, name), rel=1e-3, abs=2e-6)


def test_what_only_a_forgotten_user_had_is_nobodys_partner():
    """No empty entry says that somebody once had both."""
    counted = ItemStatistics(FEW)
    counted.apply([example(1, 7, 0), example(1, 8, 1), example(2, 7, 2), example(2, 9, 3)])
    counted.forget("u1")

    assert [1, 0, 1] == counted.pairs["transitions"].used[:3].tolist()


def test_an_item_that_a_forgotten_user_chose_first_was_first_chosen_by_the_next_one():
    """And by nobody, where nobody else did; one whose share was used up counts as well."""
    counted = ItemStatistics(FEW)
    bot = [example(9, 100 + number, number) for number in range(80)]
    counted.apply([*bot, example(1, 7, 80), example(1, 8, 81), example(9, 7, 82), example(9, 7, 83)])
    counted.forget("u1")
    first = dict(zip(counted.keys.tolist(), counted.items.first.tolist()))

    assert [82, -1, 3] == [first[item_key(item)] for item in ("i7", "i8", "i103")]


def test_the_most_chosen_are_looked_for_again_after_a_user_is_forgotten():
    """At once, not after the next hundred examples."""
    counted = ItemStatistics(FEW)
    counted.apply([example(1, 7, 0), example(2, 8, 1)])
    before = counted.popular()
    counted.forget("u1")

    assert {item_key("i7"), item_key("i8")} == set(before)
    assert [item_key("i8")] == counted.popular()


def test_a_user_who_comes_back_after_being_forgotten_is_somebody_new():
    """Counts anew, with a whole share, and is known again."""
    counted = ItemStatistics(FEW)
    counted.apply([example(1, number, number) for number in range(100)])
    counted.forget("u1")
    counted.apply([example(1, 7, 100)])

    assert counted.user_row("u1") >= 0 and counted.has(example(1, 7, 100)) and not counted.has(example(1, 7, 7))
    assert [1.0] == [value for value in counted.popularity()[:, EVER].tolist() if value]


def test_who_was_never_there_can_be_forgotten():
    """Nothing happens."""
    counted = ItemStatistics(FEW)
    counted.forget("u1")
    counted.apply(stream(10))
    counted.forget("nobody")

    assert (10, 0) == (counted.seen, counted.forgotten)


def test_a_snapshot_names_nobody_who_was_forgotten():
    """Neither the user's number nor when and what."""
    counted = ItemStatistics(FEW)
    counted.apply(stream(300))
    counted.forget("u2")
    columns = counted.snapshot()

    assert item_key("u2") not in columns["user_keys"].tolist()
    gone = columns["log.user"] == -1
    assert gone.any() and not columns["log.time_ms"][gone].any() and not columns["log.event"][gone].any()


def test_the_log_is_a_ring_and_users_leave_with_their_last_event():
    """What is older than the log is in sums only."""
    counted = ItemStatistics(StatisticsConfig(most_events=5_000))
    counted.apply([example(0, 1, 0), *[example(1 + number % 50, number % 20, number) for number in range(1, 6_000)]])

    assert -1 == counted.user_row("u0")
    assert counted.user_row("u1") >= 0
    assert 5_000 == len(counted.log.item)
    assert 6_000 == counted.seen


@pytest.mark.parametrize("most", [1, 2, 10, 300])
def test_a_log_holds_no_more_events_than_it_may(most):
    """Also where that is less than it begins with; every user who is known has an event in it."""
    counted = ItemStatistics(StatisticsConfig(most_events=most))
    counted.apply(stream(1_000, users=40))

    assert most == len(counted.log.item)
    assert set(counted.log.user.tolist()) == set(counted._user_row.values())


@pytest.mark.parametrize("at_once", [1, 3, 256])
def test_who_comes_back_just_as_the_last_event_leaves_the_log_stays_known(at_once):
    """Within one chunk or in two: the same users are known, and forgetting one takes out the events."""
    counted = ItemStatistics(StatisticsConfig(most_events=20))
    events = [example(0, 1, 0), *[example(1 + number % 3, 2, number) for number in range(1, 25)]]
    events += [example(0, 3, 25), example(5, 4, 26), example(0, 4, 27)]
    for start in range(0, len(events), at_once):
        counted.apply(events[start : start + at_once])

    assert [True, True] == [counted.has(one) for one in (events[-3], events[-1])]
    assert 4 + 1 == len({counted.user_row(f"u{number}") for number in (0, 1, 2, 3, 5)})
    counted.forget("u0")
    assert 2 == (counted.log.user == -1).sum()
    assert 1 == pytest.approx(counted.popularity()[counted.row_of[item_key("i4")], EVER])
    assert 0 == pytest.approx(counted.popularity()[counted.row_of[item_key("i3")], EVER])


def test_how_many_are_counted_at_once_changes_nothing():
    """A worker counts a hundred at once, the learner as many as there are; a log that goes round."""
    config = StatisticsConfig(most_events=50)
    events = stream(2_000, users=60, items=30)
    whole, parts, draw = ItemStatistics(config), ItemStatistics(config), np.random.default_rng(0)
    whole.apply(events)
    start = 0
    while start < len(events):
        end = start + int(draw.integers(1, 90))
        parts.apply(events[start:end])
        start = end

    assert np.array_equal(whole.popularity(), parts.popularity())
    for name in PAIRS:
        assert rows(whole, name) == rows(parts, name)


def test_weights_stay_numbers_however_many_events_there_are(monkeypatch):
    """They are brought to a new base before they grow too large, and mean the same."""
    events = stream(4_000)
    expected = ItemStatistics(FEW)
    expected.apply(events)
    monkeypatch.setattr(statistics, "_MOST_EXPONENT", 0.5)
    counted = ItemStatistics(FEW)
    counted.apply(events)

    assert (counted.bases > 0).any()
    assert expected.popularity() == pytest.approx(counted.popularity(), rel=1e-6)
    assert rows(expected, "next") == pytest.approx(rows(counted, "next"), rel=1e-3)


moves = st.lists(
    st.one_of(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=40),
        st.tuples(st.just("forget"), st.integers(0, 4)),
        st.just("snapshot"),
    ),
    max_size=20,
)


def assert_same(one, other):
    """They have counted the same of the same items and users."""
    assert (one.seen, one.row_of, one._user_row.keys()) == (other.seen, other.row_of, other._user_row.keys())
    assert np.array_equal(one.popularity(), other.popularity())
    for name in one.items._fields:
        assert np.array_equal(getattr(one.items, name)[: len(one)], getattr(other.items, name)[: len(other)])
    for user in one._user_row:
        assert one.users.share[one._user_row[user]].tolist() == other.users.share[other._user_row[user]].tolist()
    for name in PAIRS:
        assert rows(one, name) == rows(other, name)


@pytest.mark.parametrize("most", [1, 30, 4_096])
@settings(max_examples=60, deadline=None)
@given(given_moves=moves)
def test_who_goes_on_from_a_snapshot_counts_as_if_nothing_had_happened(most, given_moves):
    """Wherever the break is, with users forgotten before and after it, and a log that goes round."""
    config, number = StatisticsConfig(most_events=most), 0
    straight, broken = ItemStatistics(config), ItemStatistics(config)
    for move in given_moves:
        if move == "snapshot":
            broken = ItemStatistics.restore(copy.deepcopy(broken.snapshot()), config)
        elif move[0] == "forget":
            straight.forget(f"u{move[1]}")
            broken.forget(f"u{move[1]}")
        else:
            events = [example(user, item, number + at) for at, (user, item) in enumerate(move)]
            number += len(events)
            straight.apply(events)
            broken.apply(events)

    assert_same(straight, broken)


def test_tables_that_were_small_or_empty_grow_on_from_a_snapshot():
    """Nothing is lost for want of room, however little there was."""
    events = stream(4_000, users=300, items=2_000)
    straight = ItemStatistics()
    straight.apply(events[:20])
    broken = ItemStatistics.restore(straight.snapshot())
    for counted in (straight, broken):
        counted.apply(events[20:])

    assert_same(straight, broken)


@pytest.mark.parametrize("before, after", [(20, 50), (50, 20), (200, 50), (50, 200), (50, 1), (1, 50), (4_096, 5_000)])
@pytest.mark.parametrize("count", [30, 500])
def test_a_log_of_another_length_holds_as_many_events_as_it_may(before, after, count):
    """Somebody has set another bound: of the newest events that were there none is lost, and it is a ring again."""
    events = stream(count + 300, users=20)
    written, meant = (ItemStatistics(StatisticsConfig(most_events=most)) for most in (before, after))
    written.apply(events[:count])
    opened = ItemStatistics.restore(written.snapshot(), StatisticsConfig(most_events=after))
    kept = min(before, after, count)

    assert [True] * kept == [opened.has(one) for one in events[count - kept : count]]
    assert {item_key(one.user_id) for one in events[count - kept : count]} == opened._user_row.keys()
    assert written.popularity() == pytest.approx(opened.popularity())
    meant.apply(events)
    opened.apply(events[count:])
    if after <= before or count <= before:
        assert meant._user_row.keys() == opened._user_row.keys()
    opened.forget("u3")
    assert not any(opened.has(one) for one in events if one.user_id == "u3")


@pytest.mark.parametrize("damage", ["numbers", "keys", "transitions.start", "log.item"])
def test_a_snapshot_without_a_column_is_refused(damage):
    """A column that is missing, or a layout that nobody knows."""
    counted = ItemStatistics(FEW)
    counted.apply(stream(50))
    columns = counted.snapshot()
    without = {name: column for name, column in columns.items() if name != damage}

    with pytest.raises(StateError):
        ItemStatistics.restore(without)
    with pytest.raises(StateError):
        ItemStatistics.restore(columns | {"numbers": np.array([99, 50])})


def damaged(columns, name):
    """Every kind of damage to a column that compiled loops would follow to where nothing is."""
    column = columns[name]
    for at in {0, len(column) // 2, len(column) - 1} if len(column) else ():
        for value in (-2, 10**6) if column.dtype.kind == "i" else (-1.0, np.nan, np.inf):
            wrong = column.copy()
            wrong[at] = value
            yield wrong
    yield column[:-1]
    yield np.concatenate((column, column[-1:]))
    yield column[:, None]
    yield column.astype(np.float16)


PLACES_AND_ROWS = (
    "log.item", "log.user", "log.before", "log.after", "log.before_item", "users.newest", "items.newest", "users.share",
    "items.chosen", "totals", *(f"{table}.{part}" for table in PAIRS for part in counting.Pairs._fields),
)  # fmt: skip


@pytest.mark.parametrize("name", PLACES_AND_ROWS)
def test_a_snapshot_that_leads_nowhere_is_refused(name):
    """A place, a row or a slot that is not there would end the process; a weight that is no number spreads."""
    counted = ItemStatistics(FEW)
    counted.apply(stream(200))
    columns = counted.snapshot()

    for wrong in damaged(columns, name):
        with pytest.raises(StateError, match="item statistics cannot be read"):
            ItemStatistics.restore(columns | {name: wrong})
    assert 200 == ItemStatistics.restore(columns).seen


@pytest.mark.parametrize("name, wrong", [
    ("keys", np.zeros(12, np.uint64)), ("user_keys", np.zeros(7, np.uint64)), ("bases", np.zeros(3, np.int64)),
    ("numbers", np.array([LAYOUT, 5])), ("numbers", np.array([LAYOUT, -5])), ("numbers", np.array([1])),
    ("items.changed", np.zeros(3, np.int64)), ("log.event", np.zeros(200, np.int64)),
])  # fmt: skip
def test_columns_that_do_not_fit_together_are_refused(name, wrong):
    """A key that comes twice, more events than were seen, other types and lengths."""
    counted = ItemStatistics(FEW)
    counted.apply(stream(200))

    with pytest.raises(StateError, match="item statistics cannot be read"):
        ItemStatistics.restore(counted.snapshot() | {name: wrong})
