"""The pictures of the skew report, as small PNG files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from ctr_pipeline.evaluation.drawing import BLUE, GREY, ORANGE, SERIES, empty, legend, new_figure, percent, png
from ctr_pipeline.features.input_profile import QUANTILES
from ctr_pipeline.spec.fields import MICROSECONDS

if TYPE_CHECKING:
    from ctr_pipeline.online.skew_findings import DayReport

MOST_SHOWN = 20
MOST_DISTRIBUTIONS = 4


def requests_plot(ts: NDArray[np.int64], arms: Sequence[str]) -> bytes:
    """Logged requests by UTC hour, one line an arm."""
    figure, axes = new_figure("Logged requests", "hour (UTC)", "requests", size=(6.4, 3.4))
    hours, names = ts // MICROSECONDS["h"] % 24, np.array(arms)
    for colour, name in zip(SERIES, sorted(set(arms)), strict=False):
        counts = np.bincount(hours[names == name], minlength=24)
        axes.stairs(counts, np.arange(25), color=colour, linewidth=1.6, label=name)
    axes.set_xlim(0, 24)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    legend(axes)
    return png(figure)


def report_plots(report: "DayReport") -> dict[str, bytes]:
    """By name: differing rows by feature, and the distributions of numbers that are named."""
    images = {"recomputed": mismatch_plot(report)}
    for name, (served, usual) in list(report.shown.items())[:MOST_DISTRIBUTIONS]:
        images[f"values_{name}"] = quantile_plot(name, served, usual)
    if report.cold:
        images["new_ids"] = new_ids_plot(report)
    return images


def new_ids_plot(report: "DayReport") -> bytes:
    """Share of the rows whose id is a new one, by hour of the day; the training's as a dashed line."""
    figure, axes = new_figure(
        "Rows with new ids; dashed: in training", "hour (UTC)", "share of the rows", size=(6.4, 3.8)
    )
    for colour, one in zip(SERIES, report.cold, strict=False):
        label = one.feature if one.parent is None else f"{one.feature} (as {one.parent})"
        axes.plot(
            list(one.hours),
            list(one.hours.values()),
            color=colour,
            linewidth=1.6,
            marker="o",
            markersize=3,
            label=label,
        )
        if one.training is not None:
            axes.axhline(one.training, color=colour, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 23)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    legend(axes)
    return png(figure)


def mismatch_plot(report: "DayReport") -> bytes:
    """Share of the recomputed rows that differ, by feature: the worst of them."""
    figure, axes = new_figure(
        "Served inputs that differ from recomputed ones", "share of the rows", "", size=(6.4, 4.4)
    )
    worst = sorted(report.mismatches.items(), key=lambda item: -item[1])[:MOST_SHOWN][::-1]
    if not worst:
        return png(empty(figure, axes, "No request named its impressions, or they are not in the lake."))
    named = {one.feature for one in report.findings}
    axes.barh(
        [name for name, _ in worst],
        [share for _, share in worst],
        color=[ORANGE if name in named else BLUE for name, _ in worst],
        height=0.7,
    )
    axes.set_xlim(0, max(0.01, 1.05 * worst[-1][1]))
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    return png(figure)


def quantile_plot(name: str, served: NDArray[np.float64], usual: NDArray[np.float64]) -> bytes:
    """Quantiles of the served values beside those of the training."""
    figure, axes = new_figure(f"{name}, served and in training", "quantile", "value", size=(6.4, 3.8))
    present = served[np.isfinite(served)]
    missing = 1 - len(present) / max(1, len(served))
    axes.plot(QUANTILES, usual, color=GREY, linewidth=1.6, linestyle=(0, (4, 3)), label="training")
    if len(present):
        found: Any = np.quantile(present, QUANTILES)
        axes.plot(QUANTILES, found, color=ORANGE, linewidth=1.8, label=f"served ({missing:.1%} missing)")
    axes.set_yscale("symlog", linthresh=max(1e-6, float(np.abs(usual).max()) / 100))
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    legend(axes)
    return png(figure)
