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
        drawn.append(_bars(folder / "systems.png", result["kafka_to_kafka"], "events/s", "Kafka to Kafka"))
    return drawn


def _line(file: Path, values: dict[str, float], x: str, y: str, title: str) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([int(at) for at in values], list(values.values()), marker="o")
    axes.set(xscale="log", xlabel=x, ylabel=y, title=title, ylim=(0, None))
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return file


def _bars(file: Path, values: dict[str, float], y: str, title: str) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    bars = axes.barh(list(values), list(values.values()))
    axes.bar_label(bars, fmt="{:,.0f}")
    axes.set(xlabel=y, title=title)
    axes.invert_yaxis()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return file
