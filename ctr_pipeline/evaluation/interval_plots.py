"""Values with intervals: by day, by position, and of many slices under each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ctr_pipeline.calibration.labelled import Float64s
from ctr_pipeline.evaluation.drawing import (
    BLUE,
    DASHED,
    GREY,
    MARKERS,
    ORANGE,
    SERIES,
    empty,
    font,
    legend,
    plain,
    png,
    report_figure,
    shortened,
)

MOST_TICKS = 6
MOST_LETTERS = 30
"""Letters of a slice's name."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """Values with their bounds, three sequences [K]; None or NaN where one is not known."""

    values: Sequence[float | None]
    lows: Sequence[float | None]
    highs: Sequence[float | None]

    @classmethod
    def of(cls, found: Sequence[Mapping[str, float | None] | None]) -> "Estimates":
        """From objects with ``value``, ``low`` and ``high``, or null, as the report has them."""
        of = [one or {} for one in found]
        return cls(*([one.get(name) for one in of] for name in ("value", "low", "high")))

    def arrays(self) -> tuple[Float64s, Float64s, Float64s]:
        """Values and bounds, NaN where one is not known."""
        value, low, high = (
            np.array([np.nan if one is None else one for one in of], dtype=np.float64)
            for of in (self.values, self.lows, self.highs)
        )
        value[~np.isfinite(value)] = np.nan
        return value, low, high


def days_plot(
    days: Sequence[str],
    series: Mapping[str, Estimates],
    *,
    reference: float,
    meaning: str,
    title: str,
    as_percent: bool = False,
) -> bytes:
    """A value of each task by day, with 95 % intervals.

    Args:
        days: [K], YYYY-MM-DD.
        series: By task, K values.
        reference: Where a dashed line is drawn, such as 1 for observed over expected.
        meaning: What the values are: the label of their axis.
        title: Title of the picture.
        as_percent: Whether values are shares.
    """
    figure, axes = report_figure(title, "day (UTC)", meaning)
    if not _draw(axes, np.arange(len(days), dtype=np.float64), series, joined=len(days) > 1):
        return png(empty(figure, axes, "No day has labels of both classes."))
    axes.axhline(reference, color=GREY, linewidth=1, linestyle=DASHED)
    step = -(-len(days) // MOST_TICKS)
    shown = range(0, len(days), step)
    axes.set_xticks(list(shown), [days[at][5:] for at in shown])
    axes.set_xlim(-0.5, len(days) - 0.5)
    if as_percent:
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{100 * value:+.3g}%" if abs(value) > 1e-12 else "0%")
        )
    axes.grid(visible=False, axis="x")
    legend(axes)
    return png(figure)


def position_curves(positions: Sequence[int], series: Mapping[str, Estimates], *, title: str) -> bytes:
    """What the position does, relative to the first, with 95 % intervals.

    Args:
        positions: [K], 1 the highest on the page.
        series: By curve, K values.
        title: Title of the picture.
    """
    figure, axes = report_figure(title, "position", "ratio")
    if not _draw(axes, np.array(positions, dtype=np.float64), series, joined=True):
        return png(empty(figure, axes, "No position has an estimate."))
    axes.axhline(1.0, color=GREY, linewidth=1, linestyle=DASHED)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.grid(visible=False, axis="x")
    legend(axes)
    return png(figure)


def forest_plot(
    names: Sequence[str], found: Estimates, marked: Sequence[bool], *, meaning: str, marked_as: str, title: str
) -> bytes:
    """Ratios of many slices under each other with 95 % intervals, those that stand out in another colour and shape.

    Args:
        names: [K]; what is too long is cut in the middle.
        found: K ratios.
        marked: [K]; which stand out.
        meaning: What the ratios are: the label of their axis.
        marked_as: What it means to stand out.
        title: Title of the picture.
    """
    value, low, high = found.arrays()
    figure, axes = report_figure(title, meaning, "", height=1.55 + 0.22 * max(len(names), 6))
    known = np.isfinite(value)
    if not known.any():
        return png(empty(figure, axes, "No slice has enough rows."))
    ends = np.concatenate([value[known & (value > 0)], low[known & (low > 0)], high[known & (high > 0)], [1.0]])
    # One slice of few rows must not make all the others look alike.
    left, right = max(ends.min() / 1.1, 0.2), min(ends.max() * 1.1, 5.0)
    at = np.arange(len(names), dtype=np.float64)
    axes.axvline(1.0, color=GREY, linewidth=1, linestyle=DASHED)
    for colour, marker, chosen, label in (
        (BLUE, "o", known & ~np.array(marked, dtype=np.bool_), "within chance"),
        (ORANGE, "D", known & np.array(marked, dtype=np.bool_), marked_as),
    ):
        if not chosen.any():
            continue
        bounds = np.nan_to_num(low[chosen], nan=left), np.nan_to_num(high[chosen], nan=right)
        axes.hlines(at[chosen], np.maximum(bounds[0], left), np.minimum(bounds[1], right), color=colour, linewidth=1.4)
        axes.plot(
            np.clip(value[chosen], left, right), at[chosen], linestyle="", marker=marker, markersize=5, color=colour,
            label=label, clip_on=False,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    subs = (1.0, 2.0, 5.0) if right / left > 8 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs) if right / left > 2.5 else MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(at, [plain(shortened(name, MOST_LETTERS)) for name in names], fontproperties=font(8.5))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    legend(axes)
    return png(figure)


def _draw(axes: Axes, at: Float64s, series: Mapping[str, Estimates], *, joined: bool) -> bool:
    """Draws each series with its intervals, beside each other; whether there was anything to draw."""
    drawn = False
    for place, (colour, marker, (name, of)) in enumerate(
        zip(cycle(SERIES), cycle(MARKERS), series.items(), strict=False)
    ):
        value, low, high = of.arrays()
        known = np.isfinite(value)
        if not known.any():
            continue
        drawn = True
        moved = at + 0.5 * ((place + 0.5) / len(series) - 0.5)
        margins = [np.nan_to_num(np.maximum(value - low, 0))[known], np.nan_to_num(np.maximum(high - value, 0))[known]]
        axes.errorbar(
            moved[known], value[known], yerr=margins, color=colour, marker=marker, markersize=4.5, capsize=2.5,
            elinewidth=1, linewidth=1.2 if joined else 0, label=name,
        )  # fmt: skip
    return drawn
