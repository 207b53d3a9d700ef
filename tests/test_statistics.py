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
from model.statistics import EVER, HALF_LIVES, PAIRS, ItemStatistics

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
        added = np.zeros(len(HALF_LIVES)) if again else (most - self.share[one.user_id]).clip(0, 1)
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


def test_an_example_that_comes_again_counts_once():
    """Right after it, and after others of the user."""
    once, twice = ItemStatistics(FEW), ItemStatistics(FEW)
    once.apply(stream(100))
    twice.apply([one for one in stream(100) for _ in range(2)])
    twice.apply(stream(100)[-30:])

    assert once.seen == twice.seen
    assert once.popularity() == pytest.approx(twice.popularity())


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
        st.tuples(st.integers(0, 4), st.integers(0, 9)),
        st.tuples(st.integers(0, 4), st.just("forget")),
        st.tuples(st.just("snapshot"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(moves)
def test_who_goes_on_from_a_snapshot_counts_as_if_nothing_had_happened(given_moves):
    """Wherever the break is, with users forgotten before and after it, and a log that goes round."""
    config = StatisticsConfig(most_events=4_096)
    straight, broken = ItemStatistics(config), ItemStatistics(config)
    for number, (user, what) in enumerate(given_moves):
        if user == "snapshot":
            broken = ItemStatistics.restore(copy.deepcopy(broken.snapshot()), config)
            continue
        for one in (straight, broken):
            one.forget(f"u{user}") if what == "forget" else one.apply([example(user, what, number)])

    assert straight.seen == broken.seen
    assert straight.popularity() == pytest.approx(broken.popularity())
    for name in PAIRS:
        assert rows(straight, name) == pytest.approx(rows(broken, name))


@pytest.mark.parametrize("damage", ["numbers", "keys", "transitions.start", "log.item"])
def test_a_damaged_snapshot_is_refused(damage):
    """A column that is missing, or a layout that nobody knows."""
    counted = ItemStatistics(FEW)
    counted.apply(stream(50))
    columns = counted.snapshot()
    without = {name: column for name, column in columns.items() if name != damage}

    with pytest.raises(StateError):
        ItemStatistics.restore(without)
    with pytest.raises(StateError):
        ItemStatistics.restore(columns | {"numbers": np.array([99, 0, 0, 0])})
