"""One picture a question, of what the benchmarks measured."""

from pathlib import Path


def draw(result: dict, folder: Path) -> list[Path]:
    """Draw what there is; the files."""
    import matplotlib as mpl

    mpl.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if "ms_per_list" in result:
        drawn.append(_line(folder / "list.png", result["ms_per_list"], "items", "ms a list", "What a list costs"))
    if "memory_gib" in result:
        drawn.append(_line(folder / "memory.png", result["memory_gib"], "items", "GiB", "What a worker holds"))
    if "kafka_to_kafka" in result:
        drawn.append(_bars(folder / "systems.png", {"": result["kafka_to_kafka"]}, "lists/s", "Kafka to Kafka"))
    if "freshness_ms" in result:
        title = f"From an event to its list, at {result['half_load_per_s']:,.0f} events/s"
        drawn.append(_bars(folder / "freshness.png", by_level(result["freshness_ms"]), "ms", title, log=True))
    if "state_bytes_a_user" in result:
        drawn.append(_bars(folder / "state.png", by_part(result["state_bytes_a_user"]), "bytes", "A user's state"))
    return drawn


def by_level(freshness_ms: dict[str, float]) -> dict[str, dict[str, float]]:
    """What is measured of each way, by quantile.

    >>> by_level({"p50": 80.0, "p99": 150.0, "bare_loop_p50": 5.0, "bare_loop_p99": 9.0})
    {'p50': {'headrace': 80.0, 'bare_loop': 5.0}, 'p99': {'headrace': 150.0, 'bare_loop': 9.0}}
    """
    found: dict[str, dict[str, float]] = {}
    for name, ms in freshness_ms.items():
        way, _, level = name.rpartition("_")
        found.setdefault(level, {})[way or "headrace"] = ms
    return found


def by_part(weighed: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Bytes after so many events, by part of the state.

    >>> by_part({"1": {"state": 144, "consumed": 15}, "10": {"state": 623, "consumed": 141}})
    {'state': {'after 1': 144, 'after 10': 623}, 'consumed': {'after 1': 15, 'after 10': 141}}
    """
    parts = next(iter(weighed.values()))
    return {part: {f"after {count}": each[part] for count, each in weighed.items()} for part in parts}


def _line(file: Path, values: dict[str, float], x: str, y: str, title: str) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([int(at) for at in values], list(values.values()), marker="o")
    axes.set(xscale="log", xlabel=x, ylabel=y, title=title, ylim=(0, None))
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return file


def _bars(file: Path, groups: dict[str, dict[str, float]], x: str, title: str, log: bool = False) -> Path:
    """Bars of each name, one for each group."""
    from matplotlib import pyplot

    names = list(next(iter(groups.values())))
    height = 0.8 / len(groups)
    figure, axes = pyplot.subplots(figsize=(7, 1.2 + 0.3 * len(names) * len(groups)), layout="constrained")
    for number, (group, values) in enumerate(groups.items()):
        places = [at + (number - (len(groups) - 1) / 2) * height for at in range(len(names))]
        bars = axes.barh(places, [values[name] for name in names], height, label=group)
        axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.set(xlabel=x, title=title, xscale="log" if log else "linear", yticks=range(len(names)), yticklabels=names)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    if len(groups) > 1:
        axes.legend()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return file
