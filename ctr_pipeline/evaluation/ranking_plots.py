"""How a ranking finds the outcomes: gain and lift by the share of the rows that are looked at."""

from collections.abc import Mapping
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ctr_pipeline.calibration.labelled import Float64s, Integers, Reals, labelled
from ctr_pipeline.evaluation.drawing import (
    DASHED,
    GREY,
    SERIES,
    empty,
    legend,
    percent,
    png,
    report_figure,
)
from ctr_pipeline.evaluation.metrics import class_sums, rank

LINES = ("-", (0, (6, 2)), (0, (2, 1.5)), "-.")
"""Beside the colours, for readers who see none."""

MOST_POINTS = 400
LEAST_ROWS = 20
"""Rows below which a lift is chance."""


def gain_curve(logits: Reals, labels: Integers) -> tuple[Float64s, Float64s] | None:
    """Share of the rows looked at, highest scores first, and share of the outcomes found there: two arrays from 0 to 1.

    Rows of equal scores have no order: between their first and last the outcomes are spread evenly. None without an outcome.

    Args:
        logits: [N].
        labels: [N] in {0, 1, -1}; rows with -1 are left out.
    """
    rows = labelled(logits, labels)
    if not rows.positives:
        return None
    hits, misses = class_sums(rows, rank(rows.logits))
    looked = np.concatenate([[0.0], (hits + misses) / len(rows)])
    found = np.concatenate([[0.0], hits / hits[-1]])
    return looked, found


def gain_plot(series: Mapping[str, tuple[Reals, Integers]], *, title: str) -> bytes:
    """Share of the outcomes that are found by the share of the rows that are looked at, one line a task.

    Args:
        series: By task, logits [N] and labels [N].
        title: Title of the picture.
    """
    figure, axes = report_figure(title, "rows looked at, highest scores first", "outcomes found")
    curves = _curves(series)
    if not curves:
        return png(empty(figure, axes, "No labelled row is positive."))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=DASHED, label="at random")
    grid = np.linspace(0, 1, MOST_POINTS)
    for colour, line, (task, (looked, found)) in zip(cycle(SERIES), cycle(LINES), curves.items(), strict=False):
        axes.plot(grid, np.interp(grid, looked, found), color=colour, linestyle=line, linewidth=1.7, label=task)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    legend(axes)
    return png(figure)


def lift_plot(series: Mapping[str, tuple[Reals, Integers]], *, title: str) -> bytes:
    """Rate of outcomes among the rows looked at over the base rate, one line a task, both axes logarithmic.

    Args:
        series: By task, logits [N] and labels [N].
        title: Title of the picture.
    """
    figure, axes = report_figure(title, "rows looked at, highest scores first", "lift (times the base rate)")
    curves = _curves(series)
    if not curves:
        return png(empty(figure, axes, "No labelled row is positive."))
    axes.axhline(1.0, color=GREY, linewidth=1, linestyle=DASHED, label="at random")
    least = 1.0
    for colour, line, (task, (looked, found)) in zip(cycle(SERIES), cycle(LINES), curves.items(), strict=False):
        rows = int(np.count_nonzero(series[task][1] >= 0))
        start = min(1.0, LEAST_ROWS / rows)
        least = min(least, start)
        grid = np.geomspace(start, 1, MOST_POINTS) if start < 1 else np.ones(1)
        axes.plot(
            grid, np.interp(grid, looked, found) / grid, color=colour, linestyle=line, linewidth=1.7, label=task
        )  # fmt: skip
    _log_axes(figure, axes, least)
    legend(axes)
    return png(figure)


def _curves(series: Mapping[str, tuple[Reals, Integers]]) -> dict[str, tuple[Float64s, Float64s]]:
    found = {task: gain_curve(*of) for task, of in series.items()}
    return {task: curve for task, curve in found.items() if curve is not None}


def _log_axes(figure: Figure, axes: Axes, least: float) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(least if least < 1 else 0.5, 1)
    figure.canvas.draw()
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.5), high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if least < 0.01 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
