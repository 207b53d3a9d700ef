"""The protocol on a small world, and streams that are hardly any."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from msgspec import structs

from jobs.settings import Settings, SettingsError
from model.evaluate import METHODS, PARTS, Protocol, Users, alone, drawn_order, evaluate, leave_one_out, new_learner
from model.interest import FOREVER, Rules
from model.metrics import hit_rate_at_k
from model.schema import Event, item_key
from model.score import score
from model.scoring.batch import open_requests
from model.scoring.ranker import find
from model.signals import FINDING
from scripts.evaluate import _bar, check_events, encoder_of, main
from scripts.report import explain, summarise
from tests.test_score import ITEMS, make_catalogue


def make_events(users: int = 40, length: int = 8) -> list[Event]:
    """Users come one after the other; each stays with the even or with the odd items."""
    random, events = np.random.default_rng(1), []
    for user in range(users):
        for number in random.permutation(ITEMS // 2)[:length]:
            item = f"i{2 * number + user % 2}"
            events.append(Event(f"e{len(events)}", f"u{user}", "view", 1_000 * len(events), item_id=item))
    return events


def test_headrace_beats_popularity_where_there_are_tastes():
    """In the checkerboard popularity is blind, the learner is not; the same seed gives the same figures."""
    protocol = Protocol(fine_tune_every=130)
    first, again = (evaluate(make_events(), make_catalogue(), protocol).results for _ in range(2))

    assert first["headrace"].ranks == again["headrace"].ranks
    assert len(first["headrace"].ranks) == len(first["popularity"].ranks) == 256
    headrace, popularity = (hit_rate_at_k(np.array(first[name].ranks)) for name in ("headrace", "popularity"))
    assert headrace > 1.4 * popularity


def test_an_event_is_predicted_before_it_is_learnt():
    """One user, every item once: a method that had seen the target would hit, one that has not cannot know it."""
    events = [Event(f"e{at}", "u", "view", at, item_id=f"i{at}") for at in range(ITEMS)]
    results = evaluate(events, make_catalogue(), Protocol(warm_up=0.0, fine_tune_every=5)).results

    assert len(results["headrace"].ranks) == ITEMS
    assert results["popularity"].ranks[0] == int(np.flatnonzero(np.array(make_catalogue().item_ids[:10]) == "i0")[0])


def test_the_lists_of_the_job_are_counted_too():
    """A live list is made right after the event before: it holds the same as a late one until a gap is learnt from."""
    events = [Event(f"e{at}", "u", "view", 86_400_000 * at, item_id=f"i{at}") for at in range(20)]
    users = Users(make_catalogue())
    asked = [users.ask(event) for event in events]
    results = evaluate(events, make_catalogue(), Protocol(warm_up=0.0, live=True)).results

    assert [0, *range(19)] == [one.live().request.event_time_ms // 86_400_000 for one in asked]
    assert results["headrace"].ranks == results["headrace-live"].ranks
    assert "headrace-live" not in evaluate(events, make_catalogue(), Protocol()).results


def view(at: int, user: str = "u", item: str | None = "i1", action: str = "view", time_ms: int = 7) -> Event:
    return Event(f"e{at}", user, action, time_ms, item_id=item)


STREAMS = {
    "nothing": [],
    "one event": [view(0)],
    "ten events at one time": [view(at, f"u{at % 3}", f"i{at}") for at in range(10)],
    "one user": [view(at, "u", f"i{at}", time_ms=at) for at in range(20)],
    "one item": [view(at, f"u{at}", "i1", time_ms=at) for at in range(20)],
    "the same item again and again": [view(at, time_ms=at) for at in range(20)],
    "items nobody knows": [view(at, f"u{at % 2}", f"nowhere{at % 3}", time_ms=at) for at in range(20)],
    "only dislikes": [view(at, f"u{at % 2}", f"i{at}", "dislike", at) for at in range(20)],
    "impressions without an item": [
        view(at, "u", None if at % 2 else "i3", "impression" if at % 2 else "view", at) for at in range(20)
    ],
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("items", [0, 1, ITEMS])
def test_a_stream_that_is_hardly_one_gives_figures(name, items):
    """Whatever the stream, every figure is a number, and JSON can be written."""
    events, catalogue = STREAMS[name], make_catalogue(items)
    outcome = evaluate(events, catalogue, Protocol(fine_tune_every=7), methods=METHODS)
    result = summarise(name, events, 0, catalogue, outcome, 0.1)

    assert set(METHODS) < set(result["methods"])
    assert json.loads(json.dumps(result, allow_nan=False))["items"] == items


def test_every_method_is_asked_for_the_same_targets():
    """One rank a method and target; new users and new items by what had happened before."""
    outcome = evaluate(make_events(6, 8), make_catalogue(), Protocol(warm_up=0.25, live=True), methods=METHODS)

    assert {"headrace", "headrace-live", *METHODS} == set(outcome.results)
    assert {36} == {len(result.ranks) for result in outcome.results.values()} | {outcome.predicted}
    assert [4, 5, 6, 7, 0, 1] == outcome.targets.user_events[:6]
    assert [row // 8 for row in range(12, 48)] == outcome.targets.users
    result = summarise("tiny", make_events(6, 8), 0, make_catalogue(), outcome, 0.1, explain(Protocol()))
    rest = result["methods"]["headrace"]["rest"]
    assert 21 == result["methods"]["headrace"]["new_users"]["events"] and rest["events"] <= 36 - 21


def test_frozen_is_what_had_been_learnt_by_the_end_of_the_warm_up():
    """The same lists as Headrace's until that learns again."""
    protocol = Protocol(fine_tune_every=64)
    results = evaluate(make_events(), make_catalogue(), protocol, methods=PARTS).results
    ours, frozen = results["headrace"].lists, results["headrace-frozen"].lists

    assert ours[:64] == frozen[:64] and ours[64:] != frozen[64:]


def test_the_network_alone_orders_as_its_signal_does():
    """The copy's P is the softmax of the network's logits, and the scorer itself is left as it was."""
    events, catalogue = make_events(), make_catalogue()
    learner = new_learner(catalogue, Protocol())
    scorer = evaluate(events, catalogue, methods=(), learner=learner).scorer
    users, statistics = Users(catalogue), learner.statistics
    request = [users.ask(event).request for event in events][-1]
    before = score(scorer, statistics, catalogue, [request], 5)
    network = alone(scorer, "network")
    only = score(network, statistics, catalogue, [request], ITEMS)[0]
    table = network.table(statistics, catalogue)
    batch = open_requests(catalogue, [request], Protocol().rules, scorer.sizes.last_n)
    found = find(network.ranker, table, batch)
    rows = found.candidates.rows[0].tolist()
    logits = dict(zip(rows, found.signals[0, :, FINDING.index("network")].tolist()))

    wanted = [logits[catalogue.row(item_key(item.item_id))] for item in only]
    assert wanted == sorted(wanted, reverse=True)
    assert np.diff(wanted) == pytest.approx(np.diff(np.log([item.probability for item in only])), abs=1e-4)
    assert before == score(scorer, statistics, catalogue, [request], 5)


def test_dislikes_are_history_but_no_targets():
    events = [view(at, "u", f"i{at}", "dislike" if at % 2 else "view", at) for at in range(20)]
    assert 10 == evaluate(events, make_catalogue(), Protocol(warm_up=0.0)).predicted


def test_leave_one_out_learns_all_but_the_last_events():
    """Six users with eight events each: six targets, the last ones, asked with seven events behind them."""
    events = [*make_events(6, 8), view(900, "short", time_ms=10**6), view(901, "short", time_ms=10**6)]
    outcome = leave_one_out(events, make_catalogue(), methods=METHODS)

    assert [events[at].event_id for at in range(7, 48, 8)] == [event.event_id for event in outcome.held]
    assert [7] * 6 == outcome.targets.user_events
    assert {"headrace", *METHODS} - {"headrace-frozen"} == set(outcome.results)
    assert {6} == {len(result.ranks) for result in outcome.results.values()}
    assert {44} == {result.learnt for name, result in outcome.results.items() if name != "headrace"}


def test_leave_one_out_of_users_with_too_few_events_gives_figures():
    events = [view(at, f"u{at}", time_ms=at) for at in range(4)]
    outcome = leave_one_out(events, make_catalogue())
    assert json.dumps(summarise("few", events, 0, make_catalogue(), outcome, 0.1), allow_nan=False)
    assert 0 == outcome.predicted


def test_rows_that_are_no_events_are_left_out_and_told():
    """The row is the one in the file, whatever the order in time."""
    rows = [
        ("u", "i", 1_700_000_000_000, "view", 1.0),
        ("u", "i", 1_700_000_000_000, "jump", 1.0),
        ("u", "i", -5, "view", float("nan")),
        ("", "i", 1_700_000_000_000, "view", 0.0),
    ]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "event_time_ms", "action", "value"])
    valid, refused = check_events(events.iloc[::-1])

    assert 1 == len(valid)
    assert ["row 4", "row 3", "row 2"] == [reason.partition(":")[0] for reason in refused]
    assert "$.action" in refused[2] and "$.event_time_ms" in refused[1]


# The order of events that came at one time


NOT_AGAIN = Rules(exclude_s={"view": FOREVER})


def at_once(users: int, times: int, items: int) -> list[Event]:
    """Users who view five random items in a second, some times; in the file the rows of a second are sorted by item."""
    random, events = np.random.default_rng(6), []
    for user in range(users):
        chosen = random.permutation(items)[: 5 * times].reshape(times, 5)
        for at, five in enumerate(np.sort(chosen, axis=1)):
            time_ms = 1_000_000 * user + 100_000 * at
            events += [Event(f"{user}-{item}", f"u{user}", "view", time_ms, f"i{item}") for item in five]
    return events


def test_how_the_rows_of_one_time_are_sorted_wins_nothing():
    """In random choices there is nothing to be learnt but the order of the rows, and that is drawn: no list is better
    than that of popularity. Taken as the rows stand, HR@10 would be .60 beside .45.
    """
    protocol = Protocol(fine_tune_every=500, rules=NOT_AGAIN)
    results = evaluate(at_once(400, 3, 30), make_catalogue(), protocol, methods=("popularity",)).results
    headrace, popularity = (hit_rate_at_k(np.array(results[name].ranks)) for name in ("headrace", "popularity"))

    assert abs(headrace - popularity) < 0.03, f"{headrace:.3f} beside {popularity:.3f}"


def test_events_are_drawn_within_their_time_only():
    """Those of another time stay before or after; whatever the file's order, none comes first most often."""
    events = [view(at, time_ms=5 + at // 3) for at in range(9)]
    orders = [[event.event_id for event in drawn_order(events[::way], seed)] for seed in range(600) for way in (1, -1)]
    first = Counter(order[0] for order in orders)

    assert all(
        sorted(order[at : at + 3]) == [f"e{at}", f"e{at + 1}", f"e{at + 2}"] for order in orders for at in (0, 3, 6)
    )
    assert {"e0", "e1", "e2"} == first.keys() and min(first.values()) > 340
    assert drawn_order(events, 3) == drawn_order(events, 3) != drawn_order(events, 4)
    assert [] == drawn_order([], 0)


def test_events_of_different_times_have_one_order():
    """However the file is sorted, and whatever the seed: the same figures."""
    events = make_events(12)
    shuffled = [events[at] for at in np.random.default_rng(0).permutation(len(events))]
    first, other = (
        evaluate(rows, make_catalogue(), Protocol(order_seed=seed)).results
        for rows, seed in ((events, 0), (shuffled, 1))
    )

    assert {name: result.ranks for name, result in first.items()} == {
        name: result.ranks for name, result in other.items()
    }


# What no list could hold


@pytest.mark.parametrize("protocol", [evaluate, leave_one_out])
def test_what_no_list_could_hold_is_counted_with_its_reason(protocol):
    """Every row twice: the second time the item is left out, rated, by every method; an unknown item is in no list."""
    once = [
        Event(f"{user}-{at}", f"u{user}", "rating", 1_000 * (4 * user + at), f"i{user}{at}" if at < 3 else "nowhere")
        for user in (1, 2)
        for at in range(4)
    ]
    twice = [
        structs.replace(event, event_id=f"{event.event_id} {again}", event_time_ms=event.event_time_ms + again)
        for event in once
        for again in (0, 1)
    ]
    outcome = protocol(twice, make_catalogue(), Protocol(warm_up=0.0), methods=("popularity", "text"))
    left_out, not_there = "it is left out after a rating", "the item is not in the catalogue"

    wanted = ["", left_out] * 3 + [not_there] * 2 if protocol is evaluate else [left_out]
    assert wanted * 2 == outcome.targets.unreachable
    for result in outcome.results.values():
        assert all(rank < 0 for rank, reason in zip(result.ranks, outcome.targets.unreachable) if reason)


def test_what_may_come_again_can_be_held():
    """A view, or a purchase a month ago, leaves nothing out; one of yesterday does, and so does what the rules say."""
    day_ms = 86_400_000
    events = [
        Event(f"e{at}", "u", action, at * day_ms, "i1")
        for at, action in ((0, "view"), (1, "purchase"), (2, "view"), (40, "view"))
    ]
    reasons = {
        name: evaluate(events, make_catalogue(), Protocol(warm_up=0.0, rules=rules)).targets.unreachable
        for name, rules in (("default", Rules()), ("views", NOT_AGAIN))
    }

    assert ["", "", "it is left out after a purchase", ""] == reasons["default"]
    assert ["", "it is left out after a view", "", ""] == reasons["views"]


# What is predicted


@pytest.mark.parametrize("protocol, predicted", [(evaluate, 6), (leave_one_out, 2)])
def test_ratings_below_a_bound_are_learnt_from_and_not_predicted(protocol, predicted):
    """With `liked_from`: a 4 and a 5 are, and what has no value; 1 to 3 are not. All of them are learnt."""
    values = (4.0, 1.0, 5.0, 3.9, None, 2.0)
    events = [
        Event(f"{user}-{at}", f"u{user}", "rating", 10 * user + at, f"i{user}{at}", value)
        for user in (1, 2)
        for at, value in enumerate(values)
    ]
    outcome = protocol(events, make_catalogue(), Protocol(warm_up=0.0, liked_from=4.0), methods=("popularity",))
    everything = protocol(events, make_catalogue(), Protocol(warm_up=0.0), methods=("popularity",))
    liked = outcome.targets

    assert (
        predicted
        == outcome.predicted
        == len(outcome.results["headrace"].ranks)
        == len(outcome.results["popularity"].ranks)
    )
    assert [2, 4] == sorted({at for at in liked.user_events if at}) or protocol is leave_one_out
    assert everything.predicted == (12 if protocol is evaluate else 2)
    assert 12 - (predicted if protocol is leave_one_out else 0) == outcome.results["popularity"].learnt


# Sessions


def click_sessions(clicks: int, items: int) -> list[Event]:
    """Sessions of a shop, each a user of its own: few items are popular; from each, a Markov chain leads to six others;
    every third click goes back to an item of the session.
    """
    random = np.random.default_rng(7)
    popular = 1 / (np.arange(items) + 3.0)
    popular /= popular.sum()
    leads = np.stack([random.choice(items, 6, replace=False, p=popular) for _ in range(items)])
    events: list[Event] = []
    for session in range(clicks):
        time_ms, past = 1_700_000_000_000 + 30_000 * session, [int(random.choice(items, p=popular))]
        for _ in range(random.geometric(0.2)):
            kind = random.random()
            if kind < 0.35:
                past.append(past[random.integers(len(past))])
            elif kind < 0.8:
                past.append(int(leads[past[-1]][random.choice(6, p=(0.4, 0.25, 0.15, 0.1, 0.06, 0.04))]))
            else:
                past.append(int(random.choice(items, p=popular)))
        for at, item in enumerate(past):
            time_ms += int(random.exponential(20_000))
            events.append(Event(f"{session}-{at}", f"s{session}", "click", time_ms, f"i{item}"))
        if len(events) >= clicks:
            break
    return events


def test_in_click_sessions_headrace_is_ahead_of_transitions():
    """At the defaults, where a third of the clicks are on items that the session had: nobody is kept from repeats."""
    events = click_sessions(6_000, 200)
    outcome = evaluate(
        events, make_catalogue(200), Protocol(fine_tune_every=2_000), methods=("popularity", "transitions-10")
    )
    rates = {name: hit_rate_at_k(np.array(result.ranks)) for name, result in outcome.results.items()}
    print({name: round(rate, 3) for name, rate in rates.items()})

    assert {""} == set(outcome.targets.unreachable)
    assert rates["headrace"] > rates["transitions-10"] + 0.02 > rates["popularity"] + 0.02


# Files


class Hashed:
    """Stands for the language model: a vector of its own for every text, the empty one too."""

    version, dim = "hashed-1", 16

    def embed(self, texts: list[str]) -> np.ndarray:
        vectors = np.stack([np.random.default_rng(list(text.encode())).standard_normal(self.dim) for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def run(monkeypatch, tmp_path, capsys, events: str, items: str, *options: str) -> tuple[dict, str]:
    """Evaluate two CSV files; the line of JSON, and what stderr said."""
    monkeypatch.setattr("scripts.evaluate.encoder_of", lambda settings, rest: Hashed())
    (tmp_path / "e.csv").write_text(events)
    (tmp_path / "i.csv").write_text(items)
    main(["--events", f"{tmp_path}/e.csv", "--items", f"{tmp_path}/i.csv", "--no-behaviour", *options])
    out, err = capsys.readouterr()
    return json.loads(out.splitlines()[-1], parse_constant=pytest.fail), err


T, HEAD = 1_700_000_000_000, "user_id,item_id,event_time_ms"
CATALOGUE = "item_id,title\n" + "".join(f"i{at},Title {at}\n" for at in range(6))
TWELVE = "".join(f"u{at % 3},i{at % 6},{T + at}\n" for at in range(12))
FILES = {
    "all times equal": ("".join(f"u{at % 3},i{at % 6},{T}\n" for at in range(12)), CATALOGUE),
    "items without text": (TWELVE, "item_id,title\n" + "".join(f"i{at}, \n" for at in range(6))),
    "items without a title": (TWELVE, "item_id,title\ni1,\ni2,\n"),
    "one user": ("".join(f"u,i{at % 6},{T + at}\n" for at in range(12)), CATALOGUE),
    "one item": ("".join(f"u{at},i0,{T + at}\n" for at in range(12)), "item_id,title\ni0,Title\n"),
    "one event": (f"u,i0,{T}\n", CATALOGUE),
    "an item that comes twice": (TWELVE, CATALOGUE + "i0,Other\n"),
}


@pytest.mark.parametrize("protocol", ["prequential", "leave-one-out"])
@pytest.mark.parametrize("name", FILES)
def test_files_that_are_hardly_a_stream_give_figures(monkeypatch, tmp_path, capsys, name, protocol):
    """The last line is JSON without a NaN, one entry a method."""
    rows, items = FILES[name]
    options = ("--baselines", "popularity,text,ease,network", "--protocol", protocol, "--epochs", "0")
    result, _ = run(monkeypatch, tmp_path, capsys, f"{HEAD}\n{rows}", items, *options)

    assert {"headrace", "popularity", "text", "ease", "network"} == set(result["methods"])
    assert {"events", "hr_at_10", "ndcg_at_10", "mrr_at_10"} < set(result["methods"]["headrace"]["new_items"])


def test_where_there_is_no_terminal_progress_is_a_line_for_every_tenth(capsys):
    with _bar("evaluating", 40) as show:
        for done in range(41):
            show(done, 40)
    lines = capsys.readouterr().err.splitlines()

    assert [f"evaluating: {done} of 40 after" for done in range(4, 41, 4)] == [
        line.rpartition(" after")[0] + " after" for line in lines
    ]


def test_what_was_left_out_is_told(monkeypatch, tmp_path, capsys):
    """How many rows are no events, which the first one is, and how many events are on items that nobody knows."""
    rows = f"u,i0,{T + 5},view\nu,i1,{T + 3},hop\nu,nowhere,{T + 7},view\n"
    result, err = run(monkeypatch, tmp_path, capsys, f"{HEAD},action\n{rows}", CATALOGUE, "--baselines", "none")

    assert "e.csv: rows that are no events are left out: 1; the first: row 2: Invalid enum value 'hop'" in err
    assert (1, 1, {"headrace"}) == (result["refused"], result["unknown_items"], set(result["methods"]))


WRONG = {
    "e.csv: cannot be read as CSV or Parquet": ("", CATALOGUE),
    "e.csv: no rows": (f"{HEAD}\n", CATALOGUE),
    "e.csv: no column event_time_ms; there are user_id, item_id": ("user_id,item_id\nu,i\n", CATALOGUE),
    "i.csv: no column title; there are item_id, name": (f"{HEAD}\nu,i0,{T}\n", "item_id,name\ni0,Title\n"),
    "e.csv: column event_time_ms, row 2: 'noon' is no number": (f"{HEAD}\nu,i0,{T}\nu,i1,noon\n", CATALOGUE),
    "e.csv: column event_time_ms, row 1: 'inf' is no number": (f"{HEAD}\nu,i0,inf\n", CATALOGUE),
    "e.csv: column event_time_ms, row 2: '1e30' is no time in milliseconds": (
        f"{HEAD}\nu,i0,{T}\nu,i0,1e30\n",
        CATALOGUE,
    ),
    "e.csv: no row is an event; the first: row 1: a view needs an item_id": (f"{HEAD}\nu,,{T}\n", CATALOGUE),
    "e.csv: no row is an event; the first: row 1: Expected `int` >= 0": (f"{HEAD}\nu,i0,-5\n", CATALOGUE),
    "e.csv: no item of any event is in": (f"{HEAD}\nu,x1,{T}\n", CATALOGUE),
    "i.csv: column item_id, row 2: empty": (f"{HEAD}\nu,i0,{T}\n", "item_id,title\ni0,T\n,T\n"),
    "e.csv: column value, row 1: 'much' is no number": (f"{HEAD},value\nu,i0,{T},much\n", CATALOGUE),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_file_that_cannot_be_read_stops_the_script_with_a_message(monkeypatch, tmp_path, capsys, message):
    """Exit code 2, the file, the column and the row on stderr, nothing on stdout."""
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, tmp_path, capsys, *WRONG[message])
    out, err = capsys.readouterr()

    assert (2, "") == (stopped.value.code, out)
    assert message in err


def test_events_without_items_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--events", "e.csv"])
    assert "give --data NAME, or --events FILE and --items FILE" in capsys.readouterr().err


def test_a_baseline_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--data", "ml-100k", "--baselines", "popularity,svd"])
    assert "no baseline svd; there are all, none, popularity" in capsys.readouterr().err


USERS = {
    "users.csv: it is read with `--user_facts on` only: add that": ("user_id,age\nu,3\n", []),
    "users.csv: no column user_id; there are id, age": ("id,age\nu,3\n", ["--user_facts", "on"]),
    "a file with the columns user_id is wanted": ("", ["--user_facts", "on"]),
}


@pytest.mark.parametrize("message", USERS)
def test_a_file_of_users_that_would_not_be_read_is_refused_before_the_work(monkeypatch, tmp_path, capsys, message):
    """Nothing is embedded."""
    file, options = tmp_path / "users.csv", USERS[message][1]
    file.write_text(USERS[message][0])
    monkeypatch.setattr("scripts.evaluate.embed", lambda *_: pytest.fail("embedded"))
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, tmp_path, capsys, f"{HEAD}\nu,i0,{T}\n", CATALOGUE, "--users", str(file), *options)
    out, err = capsys.readouterr()

    assert (2, "") == (stopped.value.code, out)
    assert message in err and str(file) in err


def test_a_folder_that_cannot_be_written_is_told_by_its_setting(tmp_path):
    """Not as a fault of the encoder."""
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"^--replica_dir .*/file/x: cannot be written \(.*\); a local folder"):
        encoder_of(Settings(replica_dir=str(tmp_path / "file" / "x")), ["--encoder", "nosuch"])


@pytest.mark.parametrize(
    "words", [["--baselines", ""], ["--switches", ""], ["--switches", ","], ["--limit", "0"], ["--users", ""]]
)
def test_an_option_without_a_meaning_is_refused(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*words, *([] if "--switches" in words else ["--data", "ml-100k"])])
    err = capsys.readouterr().err

    assert 2 == stopped.value.code
    assert words[0] in err and ("there are all, " in err or "is wanted" in err)


def test_what_is_switched_on_and_has_nothing_to_read_is_told_once(monkeypatch, tmp_path, capsys, caplog):
    """And the run goes on: media of no item, triples of no item."""
    (tmp_path / "t.csv").write_text("head,relation,tail\nfilm 1,director,d\n")
    options = ["--vector_dim", "3", "--media_prefix", str(tmp_path), "--triples", str(tmp_path / "t.csv")]
    monkeypatch.setattr("jobs.settings.find_spec", lambda _: object())
    options += ["--baselines", "none"]
    result, err = run(monkeypatch, tmp_path, capsys, f"{HEAD}\nu,i0,{T}\nu,i1,{T + 1}\n", CATALOGUE, *options)

    assert 1 == err.count(
        "headrace: warning: no item has image or audio or vector, so what is switched on for it changes nothing: "
        "columns image, audio, vector of the items are wanted, or image_encoder=none, audio_encoder=none, vector_dim=0"
    )
    assert 1 == caplog.text.count("none of 1 triples names one of 6 items, so triples= changes nothing")
    assert "headrace" in result["methods"]
