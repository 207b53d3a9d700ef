"""What Flink's metrics say of the model version that serves, of the one before it, and of the item statistics."""

from typing import TYPE_CHECKING

from model.evaluation.online import FIGURES, OnlineMetrics

if TYPE_CHECKING:  # it loads a compiler
    from udfs.statistics import StatisticsFollower

GROUPS = ("serving", "previous")


class Gauges:
    """Two fixed groups, `model_version.serving` and `model_version.previous`, however many versions there will be.

    Figures are in millionths: a gauge of Flink's Python holds whole numbers.
    """

    def __init__(self, twin: OnlineMetrics) -> None:
        self._twin = twin
        self._shown = ["", ""]

    def show(self, version: str) -> None:
        """A list of this version was made."""
        if version != self._shown[0]:
            self._shown = [version, self._shown[0]]

    def register(self, metrics) -> None:
        for place, name in enumerate(GROUPS):
            group = metrics.add_group("model_version").add_group(name)
            group.gauge("version", lambda place=place: number_of(self._shown[place]))
            group.gauge("events", lambda place=place: int(self._figures(place)["events"]))
            for figure in FIGURES:
                group.gauge(f"{figure}_ppm", lambda place=place, figure=figure: int(1e6 * self._figures(place)[figure]))

    @staticmethod
    def register_statistics(metrics, follower: "StatisticsFollower") -> None:
        """Group `item_statistics`; what is read may be a moment old, so nobody waits for the lock."""
        group = metrics.add_group("item_statistics")
        group.gauge("examples", lambda: follower.statistics.seen)
        group.gauge("bytes", lambda: int(follower.statistics.used_bytes()))
        group.gauge("passed_over", lambda: follower.passed_over)

    def _figures(self, place: int) -> dict[str, float]:
        return self._twin.figures(self._shown[place])


def number_of(version: str) -> int:
    """The number in a version's name, 0 where there is none.

    >>> number_of("v00017"), number_of("untrained")
    (17, 0)
    """
    return int("".join(filter(str.isdecimal, version))[:9] or 0)
