"""Rates of keys by their number of trials, inside the funnel that chance alone would fill."""

from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from ctr_pipeline.evaluation.drawing import BLUE, GREY, ORANGE, PURPLE, empty, legend, new_figure, percent, png
from ctr_pipeline.labels.population import RatePopulation

MOST_POINTS = 3000
"""Keys that are drawn; of the plausible ones those with the most trials."""


def funnel_plot(
    trials: NDArray[np.integer[Any]],
    positives: NDArray[np.integer[Any]],
    population: RatePopulation | None,
    *,
    threshold: float,
    least: int,
    counted: str,
    title: str,
) -> bytes:
    """A point a key: its rate against its trials, with the limits at |z| = ``threshold``.

    Args:
        trials: [K] trials of each key.
        positives: [K] outcomes of each key.
        population: The honest keys; None where none was fitted, which the picture then states.
        threshold: |z| at which a key is flagged.
        least: Trials below which keys are not evaluated, and not drawn.
        counted: What a trial is, such as ``click``.
        title: Title of the picture.
    """
    figure, axes = new_figure(title, f"trials ({counted})", "rate", size=(6.4, 4.4))
    enough = trials >= least
    if population is None or not enough.any():
        return png(empty(figure, axes, "No key has been evaluated."))
    n, k = trials[enough].astype(np.int64), positives[enough].astype(np.int64)
    z = population.z(n, k)
    grid = np.unique(np.geomspace(least, max(int(n.max()), least + 1), 120).astype(np.int64))
    low, high = population.limits(grid, threshold)
    axes.fill_between(grid, low, high, color=BLUE, alpha=0.1, linewidth=0, label=f"|z| up to {threshold:g}")
    axes.axhline(
        population.rate, color=GREY, linewidth=1, linestyle=(0, (4, 3)), label=f"expected {percent(population.rate)}"
    )
    plausible = np.flatnonzero(np.abs(z) <= threshold)
    plausible = plausible[np.argsort(-n[plausible], kind="stable")][:MOST_POINTS]
    for name, colour, chosen, size in (
        ("fine", BLUE, plausible, 12),
        ("inflated", ORANGE, np.flatnonzero(z > threshold), 26),
        ("dropped", PURPLE, np.flatnonzero(z < -threshold), 26),
    ):
        axes.scatter(n[chosen], k[chosen] / n[chosen], s=size, color=colour, linewidths=0, label=name, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_ylim(bottom=0)
    legend(axes)
    return png(figure)
