"""What an evaluation says: figures as JSON values, a table, a picture of the curves over time."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from model.behaviour import Behaviour
from model.catalogue import Catalogue
from model.evaluate import LEAST, LIVE, PARTS, Outcome, Protocol, Result, Targets
from model.metrics import DRAWS, K, coverage, gains, hit_rate_at_k, hits, interval
from model.metrics import intra_list_distance, mrr_at_k, ndcg_at_k, sliding, user_bootstrap
from model.schema import Event, item_key
from scripts.data import DataError

NEW = 5
"""A user with fewer earlier events is new, and so is an item."""
_WINDOWS = 20  # a point of a curve is the mean over this part of the stream
_OWN = ("headrace", LIVE, *PARTS)
_LINES = ("-", "--", ":")
_WIDTH = 150  # of the table, where there is no terminal


def explain(protocol: Protocol, name: str = "prequential") -> str:
    """How the figures come about, in a paragraph."""
    out = "without the user's own earlier items" if protocol.exclude_consumed else "the user's own earlier items among them"
    order = {
        "prequential": f"Prequential: events in time order; the first {protocol.warm_up:.0%} are learnt from and not counted; then each "
        f"event is predicted and after that learnt from (Headrace learns every {protocol.fine_tune_every} events).",
        "leave-one-out": f"Leave-one-out: all events but the last of every user with {LEAST} or more are learnt from, in time order, then "
        "the last ones are predicted; RecBole's models are trained on all but the last two, and stop by the last but one.",
    }[name]
    return (
        f"{order} Ranked is the whole catalogue, {out}; a hit is the item that came among the first {K}. Every positive action counts "
        f"alike; a user's past is always visible. New: fewer than {NEW} earlier events. Intervals: 95 % of {DRAWS:,} draws of the users."
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
    return {
        "data": name,
        "events": len(events),
        "refused": refused,
        "users": len({event.user_id for event in events}),
        "items": len(catalogue),
        "unknown_items": sum(catalogue.row(item_key(event.item_id or "")) < 0 for event in events),
        "predicted": outcome.predicted,
        "protocol": protocol,
        "methods": _methods(outcome, catalogue),
        "seconds": round(seconds, 1),
    }


def _methods(outcome: Outcome, catalogue: Catalogue) -> dict[str, dict]:
    """Every method's figures, each with an interval; `behind_headrace`: the interval of what its HR@10 lacks."""
    ranks = {name: np.array(result.ranks, np.int64) for name, result in outcome.results.items()}
    methods = {name: _over_all(result, catalogue) for name, result in outcome.results.items()}
    for group, chosen in _groups(outcome.targets).items():
        users = np.array(outcome.targets.users, np.int64)[chosen]
        values = [figure(all_ranks[chosen]) for all_ranks in ranks.values() for figure in (hits, gains)]
        draws = user_bootstrap(users, np.array(values, float)).reshape(-1, len(ranks), 2)  # (draws, methods, HR and NDCG)
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
    return {"all": every, "new_users": new_user, "new_items": new_item, "rest": ~new_user & ~new_item}


def _figures(ranks: np.ndarray) -> dict[str, float]:
    figures = {"hr_at_10": hit_rate_at_k, "ndcg_at_10": ndcg_at_k, "mrr_at_10": mrr_at_k}
    return {name: round(figure(ranks), 4) for name, figure in figures.items()}


def _intervals(draws: np.ndarray) -> dict[str, list[float]]:
    """Shape: draws (draws, 2) of HR@10 and NDCG@10."""
    return {f"{name}_interval": interval(draws[:, at]) for at, name in enumerate(("hr_at_10", "ndcg_at_10"))}


def _over_all(result: Result, catalogue: Catalogue) -> dict[str, float]:
    lists = np.array(result.lists, np.int64).reshape(-1, K)
    return {
        "coverage": round(coverage(lists, len(catalogue)), 4),
        "intra_list_distance": round(intra_list_distance(lists, catalogue.vectors), 4),
        "ms_per_list": round(1_000 * result.seconds / max(1, len(lists)), 4),
        "learning_s_per_1000_events": round(1_000 * result.learning_s / max(1, result.learnt), 4),
    }


def show(result: dict) -> None:
    """Print the protocol and a table, the best method first."""
    console = Console()
    console.width = console.width if console.is_terminal else _WIDTH
    title = f"{result['data']}: {result['events']:,} events, {result['users']:,} users, {result['items']:,} items"
    columns = ("HR@10", "95 %", "NDCG@10", "MRR@10", "new users", "new items", "rest", "coverage", "distance", "ms a list", "learning")
    table = Table("method", *columns, title=title, caption="HR@10 of new users, new items and the rest; learning: s per 1,000 events")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for method, figures in sorted(result["methods"].items(), key=lambda one: -one[1]["hr_at_10"]):
        table.add_row(method, *_cells(figures))
    console.print(result["protocol"], table, sep="\n", highlight=False)
    counts = f"{result['predicted']:,} events predicted, {result['refused']:,} rows refused"
    print(f"{counts}, {result['unknown_items']:,} events without an item of the catalogue, {result['seconds']:.0f} s")
    print(beside(result["methods"]))


def beside(methods: dict[str, dict]) -> str:
    """How many times the best single method's HR@10 Headrace's is, and item kNN's.

    >>> beside({"headrace": {"hr_at_10": 0.3}, "ease": {"hr_at_10": 0.2}, "item-knn": {"hr_at_10": 0.1}})
    'HR@10 of headrace: 1.50 times that of ease, the best of the others; 3.00 times that of item-knn'
    """
    others = {name: figures["hr_at_10"] for name, figures in methods.items() if name not in _OWN and figures["hr_at_10"]}
    if not others:
        return "HR@10 of headrace: nothing to put beside it"
    best, ours = max(others, key=others.get), methods["headrace"]["hr_at_10"]
    text = f"HR@10 of headrace: {ours / others[best]:.2f} times that of {best}, the best of the others"
    return text + (f"; {ours / others['item-knn']:.2f} times that of item-knn" if "item-knn" in others and best != "item-knn" else "")


def _cells(figures: dict) -> list[str]:
    low, high = figures["hr_at_10_interval"]
    groups = [f"{figures[group]['hr_at_10']:.4f}" if group in figures else "" for group in ("new_users", "new_items", "rest")]
    first = [f"{figures['hr_at_10']:.4f}", f"{low:.3f}-{high:.3f}", f"{figures['ndcg_at_10']:.4f}", f"{figures['mrr_at_10']:.4f}"]
    last = [f"{figures['coverage']:.3f}", f"{figures['intra_list_distance']:.3f}"]
    return [*first, *groups, *last, f"{figures['ms_per_list']:.3f}", f"{figures['learning_s_per_1000_events']:.2f}"]


def show_behaviour(found: dict[str, Behaviour], title: str) -> None:
    """Print every figure of the probes beside what the contract wants, for each model; ✗ marks what does not hold."""
    console = Console()
    console.width = console.width if console.is_terminal else _WIDTH
    table = Table("probe", "what", *(column for name in found for column in (name, "wanted")), title=title)
    for column in table.columns[2:]:
        column.justify, column.no_wrap = "right", True
    for rows in zip(*(behaviour.rows for behaviour in found.values())):
        figures = [(f"{row.figure:.3f}{' ✗' if row.holds is False else ''}", row.wanted) for row in rows]
        table.add_row(rows[0].probe, rows[0].name, *(cell for figure in figures for cell in figure))
    console.print(table, highlight=False)


def check_drawing(file: str | Path) -> None:
    """Raise a DataError where no picture can be drawn: before the work, not after it."""
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
