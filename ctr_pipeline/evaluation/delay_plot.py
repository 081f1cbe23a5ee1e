"""How long outcomes take, beside the windows in which they count."""

from collections.abc import Mapping
from itertools import cycle

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from ctr_pipeline.evaluation.drawing import GREY, SERIES, empty, legend, percent, png, report_figure
from ctr_pipeline.evaluation.ranking_plots import LINES
from ctr_pipeline.labels.outcome_delays import EDGES, OutcomeDelays

TICKS = {
    "1 s": 1, "10 s": 10, "1 min": 60, "10 min": 600, "1 h": 3600, "6 h": 21600, "1 d": 86400, "7 d": 604800,
    "30 d": 2592000, "180 d": 15552000,
}  # fmt: skip
MOST_TICKS = 7


def delay_plot(delays: Mapping[str, OutcomeDelays], *, title: str) -> bytes:
    """Share of the outcomes that had happened by each delay, one line a task; a vertical line is the end of its window.

    Args:
        delays: By task.
        title: Title of the picture.
    """
    figure, axes = report_figure(title, "time since the start of the window", "outcomes that had happened")
    shown = {task: of for task, of in delays.items() if of.outcomes}
    if not shown:
        return png(empty(figure, axes, "No outcome of a mature impression is known."))
    first, last = 1e8, 1.0
    for colour, line, (task, of) in zip(cycle(SERIES), cycle(LINES), shown.items(), strict=False):
        ends = np.maximum(EDGES[1 : len(of.counts) + 1], 1.0)
        share = np.cumsum(of.counts) / of.outcomes
        axes.plot(ends, share, color=colour, linestyle=line, linewidth=1.7, label=f"{task} ({of.outcomes:,})")
        axes.axvline(of.window, color=colour, linestyle=line, linewidth=0.9, alpha=0.8)
        first = min(first, float(ends[int(np.argmax(share > 0.005))]))
        last = max(last, float(ends[-1]), of.window)
    axes.set_xscale("log")
    axes.set_xlim(first / 1.3, last * 1.5)
    axes.set_ylim(0, 1.02)
    within = {name: at for name, at in TICKS.items() if first / 1.3 <= at <= last * 1.5}
    step = -(-len(within) // MOST_TICKS) or 1
    names = {at: name for name, at in list(within.items())[::step]}
    axes.xaxis.set_major_locator(FixedLocator(list(names)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: names.get(round(at), "")))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.plot([], [], color=GREY, linewidth=0.9, label="vertical: end of the window")
    legend(axes)
    return png(figure)
