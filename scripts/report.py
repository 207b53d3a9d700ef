"""What an evaluation says: figures as JSON values, a table, a picture of the curves over time."""

import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from model.catalogue import Catalogue
from model.evaluate import GREEDY, LEAST, LIVE, PARTS, Outcome, Protocol, Result, Targets
from model.evaluation import off_policy
from model.metrics import (
    DRAWS,
    K,
    calibration_error,
    coverage,
    gains,
    hit_rate_at_k,
    hits,
    interval,
    intra_list_distance,
    mrr_at_k,
    ndcg_at_k,
    sliding,
    user_bootstrap,
)
from model.rules import FOREVER
from model.schema import Event, item_key
from scripts.data import DataError

NEW = 5
"""A user with fewer earlier events is new, and so is an item."""
PICTURES = (".png", ".pdf", ".svg", ".jpg")
_WINDOWS = 20  # a point of a curve is the mean over this part of the stream
_OWN = ("headrace", GREEDY, LIVE, *PARTS)
_LINES = ("-", "--", ":")
_WIDTH = 150  # of the table, where there is no terminal


def explain(protocol: Protocol, name: str = "prequential") -> str:
    """How the figures come about, in a paragraph."""
    lengths = protocol.rules.exclude_s.items()
    left_out = [
        f"a {action} ({'for ever' if length == FOREVER else f'{length / 86_400:g} days'})" for action, length in lengths
    ]
    out = (
        f"without what is left out after {', '.join(left_out)}"
        if left_out
        else "the user's own earlier items among them"
    )
    liked = "" if protocol.liked_from is None else f", but ratings below {protocol.liked_from:g} are only learnt from"
    order = {
        "prequential": "Prequential: events in time order, those of one time in an order that is drawn, for every "
        f"method alike; the first {protocol.warm_up:.0%} are learnt from and not counted; then each event is predicted "
        f"and after that learnt from (Headrace learns every {protocol.fine_tune_every} events).",
        "leave-one-out": f"Leave-one-out: all events but the last of every user with {LEAST} or more are learnt "
        "from, in time order, then the last ones are predicted; RecBole's models are trained on all but the last two, "
        "and stop by the last but one.",
    }[name]
    return (
        f"{order} The whole catalogue is ranked, {out}; a hit is the item that came among the first {K}. "
        f"Every positive action counts alike{liked}; a user's past is always visible. "
        f"New: fewer than {NEW} earlier events. Intervals: 95 % of {DRAWS:,} draws of the users."
    )


def summarise(
    name: str,
    events: Sequence[Event],
    refused: int,
    catalogue: Catalogue,
    outcome: Outcome,
    seconds: float,
    protocol: str = "",
) -> dict:
    """The result as JSON values."""
    return _off_policy(outcome) | {
        "data": name,
        "events": len(events),
        "refused": refused,
        "users": len({event.user_id for event in events}),
        "items": len(catalogue),
        "unknown_items": sum(
            event.item_id is not None and catalogue.row(item_key(event.item_id)) < 0 for event in events
        ),
        "predicted": outcome.predicted,
        "targets": _targets(outcome.targets),
        "protocol": protocol,
        "methods": _methods(outcome, catalogue),
        "seconds": round(seconds, 1),
    }


def _off_policy(outcome: Outcome) -> dict:
    """HR@10 of the other methods as estimated from Headrace's lists, whose propensities are known, beside what it is.

    Returns:
        Nothing where nothing explores.
    """
    own, greedy = outcome.results["headrace"], outcome.results.get(GREEDY)
    if greedy is None or len(own.propensities) != len(own.lists):
        return {}
    came = np.array([list_[rank] if rank >= 0 else -2 for list_, rank in zip(own.lists, own.ranks)])
    items, base, chances = np.array(own.lists), np.array(greedy.lists), np.array(greedy.chances)
    users = np.unique(outcome.targets.users, return_inverse=True)[1]
    expected = off_policy.expected_of(items, base, chances)
    log = off_policy.Log(items, np.array(own.propensities), items == came[:, None], expected, users)
    found = {}
    for name, result in outcome.results.items():
        if name in ("headrace", LIVE):
            continue
        lists = np.array(result.lists)
        policy = off_policy.Policy(lists, off_policy.expected_of(lists, base, chances))
        found[name] = {"is": round(hit_rate_at_k(np.array(result.ranks)), 4)}
        found[name] |= off_policy.estimates(log, policy, base)
    return {"off_policy": found}


def _show_off_policy(found: dict[str, dict]) -> None:
    title = "HR@10 as estimated from Headrace's lists and their propensities (± standard error)"
    table = Table("policy", "is", "naive", "IPS", "self-normalised", "doubly robust", "weight", title=title)
    for name, one in found.items():
        cells = [f"{one[figure]:.4f} ± {one[f'{figure}_error']:.4f}" for figure in ("naive", "ips", "snips", "dr")]
        table.add_row(name, f"{one['is']:.4f}", *cells, f"{one['weight']:.3f}")
    console = Console()
    console.width = console.width if console.is_terminal else _WIDTH
    console.print(table, highlight=False)


def _targets(targets: Targets) -> dict:
    """How many targets no list could hold, by why, and how many the user had had before."""
    unreachable = Counter(why for why in targets.unreachable if why)
    return {
        "had_before": sum(targets.again),
        "unreachable": dict(unreachable),
        "by_action": dict(Counter(targets.actions)),
    }


def told(predicted: int, targets: dict) -> list[str]:
    """The same in sentences.

    >>> told(4, {"had_before": 2, "unreachable": {"it is left out after a rating": 2}, "by_action": {"rating": 4}})
    ['of 4 targets 2 (50 %) the user had had before; 2 (50 %) no list could hold: it is left out after a rating 2']
    """
    count, had = sum(targets["unreachable"].values()), targets["had_before"]
    why = ", ".join(f"{why} {number:,}" for why, number in targets["unreachable"].items())
    text = f"of {predicted:,} targets {had:,} ({had / max(1, predicted):.0%}) the user had had before; ".replace(
        "%", " %"
    )
    return [
        text
        + f"{count:,} ({count / max(1, predicted):.0%})".replace("%", " %")
        + f" no list could hold{': ' if why else ''}{why}"
    ]


def _methods(outcome: Outcome, catalogue: Catalogue) -> dict[str, dict]:
    """Every method's figures, each with an interval; `behind_headrace`: the interval of what its HR@10 lacks."""
    ranks = {name: np.array(result.ranks, np.int64) for name, result in outcome.results.items()}
    methods = {name: _over_all(result, catalogue) for name, result in outcome.results.items()}
    for group, chosen in _groups(outcome.targets).items():
        users = np.array(outcome.targets.users, np.int64)[chosen]
        values = [figure(all_ranks[chosen]) for all_ranks in ranks.values() for figure in (hits, gains)]
        draws = user_bootstrap(users, np.array(values, float))
        draws = draws.reshape(-1, len(ranks), 2)  # (draws, methods, HR and NDCG)
        for at, (method, all_ranks) in enumerate(ranks.items()):
            figures = _figures(all_ranks[chosen]) | _intervals(draws[:, at])
            if group == "all":
                behind = draws[:, list(ranks).index("headrace"), 0] - draws[:, at, 0]
                methods[method] = figures | methods[method] | {"behind_headrace": interval(behind)}
            else:
                methods[method][group] = {"events": len(users)} | figures
    return methods


def _groups(targets: Targets) -> dict[str, np.ndarray]:
    """Which targets belong to a group; (n,) bool each."""
    new_user, new_item = np.array(targets.user_events, int) < NEW, np.array(targets.item_events, int) < NEW
    every = np.ones(len(new_user), bool)
    groups = {"all": every, "new_users": new_user, "new_items": new_item, "rest": ~new_user & ~new_item}
    groups["reachable"] = np.array([not why for why in targets.unreachable], bool)
    return groups | {
        action: np.array([one == action for one in targets.actions], bool) for action in sorted(set(targets.actions))
    }


def _figures(ranks: np.ndarray) -> dict[str, float]:
    figures = {"hr_at_10": hit_rate_at_k, "ndcg_at_10": ndcg_at_k, "mrr_at_10": mrr_at_k}
    return {name: round(figure(ranks), 4) for name, figure in figures.items()}


def _intervals(draws: np.ndarray) -> dict[str, list[float]]:
    """Shape: draws (draws, 2) of HR@10 and NDCG@10."""
    return {f"{name}_interval": interval(draws[:, at]) for at, name in enumerate(("hr_at_10", "ndcg_at_10"))}


def _calibration(result: Result) -> dict[str, float]:
    """How many hits P promises, and how far it is from them; nothing of a method that has no P."""
    if not result.chances:
        return {}
    chances, hit = np.array(result.chances).sum(1), hits(np.array(result.ranks, np.int64))
    expected, error = float(chances.mean()), calibration_error(chances, hit)
    return {"expected_hr_at_10": round(expected, 4), "calibration_error": round(error, 4)}


def _over_all(result: Result, catalogue: Catalogue) -> dict[str, float]:
    lists = np.array(result.lists, np.int64).reshape(-1, K)
    return _calibration(result) | {
        "coverage": round(coverage(lists, len(catalogue)), 4),
        "intra_list_distance": round(intra_list_distance(lists, catalogue.vectors), 4),
        "ms_per_list": round(1_000 * result.seconds / max(1, len(lists)), 4),
        "learning_s_per_1000_events": round(1_000 * result.learning_s / max(1, result.learnt), 4),
    }


def show(result: dict) -> None:
    """Print the protocol and a table, the best method first."""
    console = Console(markup=False, emoji=False)  # a file's name is text, whatever it holds
    console.width = console.width if console.is_terminal else _WIDTH
    title = f"{result['data']}: {result['events']:,} events, {result['users']:,} users, {result['items']:,} items"
    columns = (
        "HR@10",
        "95 %",
        "NDCG@10",
        "MRR@10",
        "new users",
        "new items",
        "rest",
        "coverage",
        "distance",
        "ms a list",
        "learning",
    )
    table = Table(
        "method",
        *columns,
        title=title,
        caption="HR@10 of new users, new items and the rest; learning: s per 1,000 events",
    )
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for method, figures in sorted(result["methods"].items(), key=lambda one: -one[1]["hr_at_10"]):
        table.add_row(method, *_cells(figures))
    console.print(result["protocol"], table, sep="\n", highlight=False)
    counts = f"{result['predicted']:,} events predicted, {result['refused']:,} rows refused"
    unknown = f"{result['unknown_items']:,} events on items that are not in the catalogue"
    print(f"{counts}, {unknown}, {result['seconds']:.0f} s")
    print(*told(result["predicted"], result["targets"]), sep="\n")
    _show_actions(result)
    print(calibration(result["methods"]["headrace"]))
    print(beside(result["methods"]))
    if "off_policy" in result:
        _show_off_policy(result["off_policy"])
    if result.get("behaviour"):
        show_behaviour(result["behaviour"], "What users do to their lists, in a made-up shop (docs/behaviour.md)")


def _show_actions(result: dict) -> None:
    """The figures of each action, where there are several, and of what could be hit."""
    actions = result["targets"]["by_action"]
    groups = [*(actions if len(actions) > 1 else ()), *(["reachable"] if result["targets"]["unreachable"] else [])]
    if not groups:
        return
    table = Table(
        "HR@10 over", "events", *result["methods"], title="HR@10 by what the user did, and of what could be hit"
    )
    for group in groups:
        cells = [figures[group] for figures in result["methods"].values() if group in figures]
        if cells:
            table.add_row(group, f"{cells[0]['events']:,}", *(f"{cell['hr_at_10']:.4f}" for cell in cells))
    console = Console()
    console.width = console.width if console.is_terminal else _WIDTH
    console.print(table, highlight=False)


def calibration(figures: dict) -> str:
    """How far P(i | u, t) is from what happens.

    >>> calibration({"hr_at_10": 0.25, "expected_hr_at_10": 0.24, "calibration_error": 0.0123})
    'P of the first 10 together: .240 on average, hits .250; calibration error .012 (ten bins with as many lists)'
    """
    if "calibration_error" not in figures:
        return "P of the first 10 together: no list"
    values = figures["expected_hr_at_10"], figures["hr_at_10"], figures["calibration_error"]
    expected, hit, error = (f"{value:.3f}".removeprefix("0") for value in values)
    return (
        f"P of the first {K} together: {expected} on average, hits {hit}; "
        f"calibration error {error} (ten bins with as many lists)"
    )


def beside(methods: dict[str, dict]) -> str:
    """How many times the best single method's HR@10 Headrace's is, and item kNN's.

    >>> beside({"headrace": {"hr_at_10": 0.3}, "ease": {"hr_at_10": 0.2}, "item-knn": {"hr_at_10": 0.1}})
    'HR@10 of headrace: 1.50 times that of ease, the best of the others; 3.00 times that of item-knn'
    """
    others = {
        name: figures["hr_at_10"] for name, figures in methods.items() if name not in _OWN and figures["hr_at_10"]
    }
    if not others:
        return "HR@10 of headrace: nothing to put beside it"
    best, ours = max(others, key=others.get), methods["headrace"]["hr_at_10"]
    text = f"HR@10 of headrace: {ours / others[best]:.2f} times that of {best}, the best of the others"
    return text + (
        f"; {ours / others['item-knn']:.2f} times that of item-knn"
        if "item-knn" in others and best != "item-knn"
        else ""
    )


def _cells(figures: dict) -> list[str]:
    low, high = figures["hr_at_10_interval"]
    groups = [
        f"{figures[group]['hr_at_10']:.4f}" if group in figures else "" for group in ("new_users", "new_items", "rest")
    ]
    first = [
        f"{figures['hr_at_10']:.4f}",
        f"{low:.3f}-{high:.3f}",
        f"{figures['ndcg_at_10']:.4f}",
        f"{figures['mrr_at_10']:.4f}",
    ]
    last = [f"{figures['coverage']:.3f}", f"{figures['intra_list_distance']:.3f}"]
    return [*first, *groups, *last, f"{figures['ms_per_list']:.3f}", f"{figures['learning_s_per_1000_events']:.2f}"]


def show_behaviour(found: dict[str, list[dict]], title: str) -> None:
    """Print every figure of the probes beside what the contract wants, by model, and how many rows hold; ✗: does not.

    Args:
        found: model -> `Behaviour.figures`.
    """
    console = Console()
    console.width = console.width if console.is_terminal else _WIDTH
    table = Table("probe", "what", *(column for name in found for column in (name, "wanted")), title=title)
    for column in table.columns[2:]:
        column.justify, column.no_wrap = "right", True
    for rows in zip(*found.values()):
        figures = [(f"{row['figure']:.3f}{' ✗' if row['holds'] is False else ''}", row["wanted"]) for row in rows]
        table.add_row(rows[0]["probe"], rows[0]["name"], *(cell for figure in figures for cell in figure))
    console.print(table, highlight=False)
    print(contract(found))


def contract(found: dict[str, list[dict]]) -> str:
    """How many rows of the contract hold.

    >>> contract({"trained": [{"probe": "search", "name": "title", "figure": 0.1, "wanted": ">= 0.9", "holds": False}]})
    'behaviour: trained 0 of 1 rows hold; not: search, title'
    """
    parts = []
    for name, rows in found.items():
        wanted = [row for row in rows if row["holds"] is not None]
        broken = [f"{row['probe']}, {row['name']}" for row in wanted if not row["holds"]]
        parts.append(f"{name} {len(wanted) - len(broken)} of {len(wanted)} rows hold" + "; not: ".join(["", *broken]))
    return f"behaviour: {', '.join(parts)}"


def check_drawing(file: str | Path) -> None:
    """Raise a DataError where no picture can be drawn: before the work, not after it."""
    if Path(file).suffix not in ("", *PICTURES):
        raise DataError(f"--plot {file}: no picture has this ending; there are {', '.join(PICTURES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise DataError(f"--plot {file}: matplotlib is needed: `make setup`, or pip install 'headrace[evaluate]'")
    if not Path(file).absolute().parent.is_dir():
        raise DataError(f"--plot {file}: there is no such folder")


def draw(outcome: Outcome, title: str, file: str | Path) -> None:
    """HR@10 of every method over a window that slides along the stream, as a picture."""
    from matplotlib.figure import Figure  # of the extra `evaluate`

    window = max(1, outcome.predicted // _WINDOWS)
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.add_subplot(xlabel="events predicted", ylabel=f"HR@{K} over {window:,} events", title=title)
    order = sorted(outcome.results, key=lambda name: -hit_rate_at_k(np.array(outcome.results[name].ranks)))
    for at, name in enumerate(order):
        curve = sliding(hits(np.array(outcome.results[name].ranks, np.int64)).astype(float), window)
        look = {"color": f"C{at % 10}", "linestyle": _LINES[at // 10 % len(_LINES)], "linewidth": 1.2}
        look = {"color": "black", "linewidth": 2.5} if name == "headrace" else look
        axes.plot(np.arange(len(curve)) + window, curve, label=name, **look)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(file, dpi=110)
