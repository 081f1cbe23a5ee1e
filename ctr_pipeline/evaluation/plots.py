"""Pictures of one model: how its rates hold, how it ranks, how its training went. Small PNG files."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Reals, labelled
from ctr_pipeline.evaluation.drawing import (
    BLUE,
    DASHED,
    GREY,
    INK,
    MARKERS,
    ORANGE,
    RED,
    SERIES,
    SKY,
    empty,
    font,
    legend,
    new_figure,
    percent,
    png,
    report_figure,
)
from ctr_pipeline.evaluation.metrics import ap_of, class_sums, rank
from ctr_pipeline.evaluation.reliability import ReliabilityBin, wilson


def reliability_plot(series: Mapping[str, Sequence[ReliabilityBin]], *, title: str) -> bytes:
    """Observed against predicted rate on log axes, with Wilson intervals. One line each of ``series`` (name -> bins)."""
    figure, axes = report_figure(title, "predicted probability", "observed rate")
    shown = [(name, [b for b in bins if b.observed > 0 and b.predicted > 0]) for name, bins in series.items()]
    ends = [v for _, bins in shown for b in bins for v in (b.predicted, b.observed, b.low, b.high) if v > 0]
    if not ends:
        return png(empty(figure, axes, "No bin has positive rows."))
    low, high = min(ends) / 1.3, min(max(ends) * 1.3, 1.3)
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle=DASHED, label="perfect")
    for colour, marker, (name, bins) in zip(cycle(SERIES), cycle(MARKERS), shown, strict=False):
        observed = np.array([b.observed for b in bins])
        margins = [observed - [b.low for b in bins], [b.high for b in bins] - observed]
        axes.errorbar(
            [b.predicted for b in bins],
            observed,
            yerr=np.maximum(margins, 0),
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1.3,
            elinewidth=1,
            capsize=2.5,
            label=name,
        )
    for axis, scale, limits in (
        (axes.xaxis, axes.set_xscale, axes.set_xlim),
        (axes.yaxis, axes.set_yscale, axes.set_ylim),
    ):
        scale("log")
        limits(low, high)
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 2000 else (1.0,)))
        axis.set_major_formatter(FuncFormatter(percent))
        axis.set_minor_formatter(NullFormatter())
    legend(axes)
    return png(figure)


def precision_recall_plot(logits: Reals, labels: Integers, *, title: str) -> bytes:
    """Precision against recall, with lines of equal F1 and the base rate."""
    figure, axes = report_figure(title, "recall", "precision")
    rows = labelled(logits, labels)
    ranking = rank(rows.logits)
    ap = ap_of(rows, ranking)
    if ap is None:
        return png(empty(figure, axes, "No labelled row is positive."))
    hits, misses = class_sums(rows, ranking)
    recall, precision = hits / hits[-1], hits / (hits + misses)
    keep = _thin(recall, 600)
    base = rows.positives / len(rows)
    stable = recall >= min(0.01, 20 / rows.positives)
    top = float(min(1.0, 1.15 * max(np.max(precision[stable]), base)))
    best = int(np.argmax(2 * precision * recall / np.maximum(precision + recall, 1e-12)))
    best_f1 = 2 * precision[best] * recall[best] / (precision[best] + recall[best])
    grid = np.linspace(0.001, 1, 400)
    lowest = top
    for f1 in reversed(_round_levels(1.7 * float(best_f1))):
        curve = f1 * grid / np.maximum(2 * grid - f1, 1e-9)
        visible = (2 * grid > f1) & (curve <= top)
        axes.plot(grid[visible], curve[visible], color="#c9c9c9", linewidth=0.9)
        # Labels that would lie on each other are left out.
        if visible[-1] and lowest - curve[-1] > top / 20:
            lowest = float(curve[-1])
            axes.annotate(
                f"F1 {f1:.2g}",
                (1.0, float(curve[-1])),
                xytext=(3, 0),
                textcoords="offset points",
                fontproperties=font(8.5),
                color=GREY,
                va="center",
                annotation_clip=False,
            )
    axes.axhline(base, color=GREY, linewidth=1, linestyle=DASHED, label=f"base rate {percent(base)}")
    axes.plot(recall[keep], precision[keep], color=BLUE, linewidth=1.7, drawstyle="steps-pre", label=f"AP {ap:.3f}")
    axes.plot(recall[best], precision[best], "o", color=ORANGE, markersize=6, label=f"best F1 {best_f1:.3f}")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, top)
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    legend(axes)
    return png(figure)


def score_histogram(logits: Reals, labels: Integers, *, title: str) -> bytes:
    """Density of the logits of positives and negatives; the outermost 0.1 % of each class are not shown."""
    figure, axes = report_figure(title, "logit, and the probability that it means", "density")
    rows = labelled(logits, labels)
    if not len(rows):
        return png(empty(figure, axes, "No row has a settled label."))
    classes = [part for part in (rows.logits[rows.positive], rows.logits[~rows.positive]) if len(part)]
    low = min(float(np.quantile(part, 0.001)) for part in classes)
    high = max(float(np.quantile(part, 0.999)) for part in classes)
    edges = np.linspace(low, high if high > low else low + 1.0, 61)
    for name, colour, chosen in (("negative", BLUE, ~rows.positive), ("positive", ORANGE, rows.positive)):
        count = int(np.count_nonzero(chosen))
        if not count:
            continue
        bins = edges if count >= 2000 else edges[::3]
        density = np.histogram(rows.logits[chosen], bins)[0] / (count * np.diff(bins))
        axes.stairs(density, bins, fill=True, color=colour, alpha=0.22)
        axes.stairs(density, bins, color=colour, linewidth=1.5, label=f"{name} ({count:,} rows)")
    axes.set_ylim(bottom=0)
    axes.set_xlim(edges[0], edges[-1])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda z, _: f"{z:g}\n{100 * special.expit(z):.2g}%"))
    legend(axes)
    return png(figure)


def loss_curve(
    steps: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]] = (), *, title: str
) -> bytes:
    """Training loss by step, smoothed, with the validation loss of each epoch.

    Args:
        steps: Records with ``step`` and ``loss`` (null or not finite: left out).
        validation: Records with ``step`` and ``loss``.
        title: Title of the picture.
    """
    figure, axes = new_figure(title, "step", "log loss (nats)", size=(6.6, 4.2))
    step, loss = _points(steps, "loss")
    if not len(step):
        return png(empty(figure, axes, "No step has a finite loss."))
    window = max(1, len(loss) // 25)
    axes.plot(*_thinned(step, loss), color=SKY, linewidth=0.8, alpha=0.7, label="training")
    if window > 1:
        axes.plot(
            *_thinned(step, _moving_mean(loss, window)),
            color=BLUE,
            linewidth=1.8,
            label=f"mean of {window} records",
        )
    at, value = _points(validation, "loss")
    if len(at):
        axes.plot(
            at,
            value,
            color=ORANGE,
            marker="o",
            markersize=5,
            linewidth=1.4,
            label="validation",
            clip_on=False,
            zorder=3,
        )
    steady = loss[len(loss) // 50 :]
    values = np.concatenate([np.quantile(steady, [0.002, 0.998]), value])
    margin = 0.08 * (values.max() - values.min()) or 0.05
    axes.set_ylim(values.min() - margin, values.max() + margin)
    _step_axis(axes, step)
    legend(axes)
    return png(figure)


def gradient_norm_plot(steps: Sequence[Mapping[str, Any]], *, clip_norm: float | None, title: str) -> bytes:
    """Global gradient norm before clipping by step, on a log axis, with the clip limit.

    Args:
        steps: Records with ``step`` and ``grad_norm``; where it is not finite the step is marked.
        clip_norm: Largest norm let through; None for none.
        title: Title of the picture.
    """
    figure, axes = new_figure(title, "step", "global gradient norm (L2)", size=(6.6, 4.2))
    step, norm = _points(steps, "grad_norm")
    broken = [record["step"] for record in steps if not _is_finite(record.get("grad_norm"))]
    step, norm = step[norm > 0], norm[norm > 0]
    if len(step):
        axes.plot(*_thinned(step, norm), color=SKY, linewidth=0.9, alpha=0.8, label="each record")
        window = max(1, len(norm) // 25)
        if window > 1:
            smooth = np.exp(_moving_mean(np.log(norm), window))
            axes.plot(*_thinned(step, smooth), color=BLUE, linewidth=1.8, label=f"geometric mean of {window}")
        axes.set_yscale("log")
        limits = [norm.min() / 1.5, norm.max() * 1.8]
        if clip_norm is not None and clip_norm < norm.max() * 30:
            limits[1] = max(limits[1], clip_norm * 1.8)
            axes.axhline(clip_norm, color=ORANGE, linewidth=1.2, linestyle=DASHED, label=f"clipped at {clip_norm:g}")
        axes.set_ylim(*limits)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if limits[1] / limits[0] < 100 else (1.0,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    for index, at in enumerate(broken[:20]):
        axes.axvline(at, color=RED, linewidth=2, clip_on=False, label="not finite" if index == 0 else None)
    if not len(step) and not broken:
        return png(empty(figure, axes, "No gradient norm is recorded."))
    _step_axis(axes, np.append(step, broken).astype(np.float64))
    legend(axes)
    return png(figure)


def propensity_plot(
    positions: Sequence[int], impressions: Sequence[int], outcomes: Sequence[int], *, response: str, title: str
) -> bytes:
    """Rate of a response by position on randomised traffic, with 95 % Wilson intervals.

    Args:
        positions: Positions, 1 the highest on the page.
        impressions: Impressions in each.
        outcomes: Impressions with the response in each.
        response: Name of the response, such as ``click``.
        title: Title of the picture.
    """
    figure, axes = report_figure(title, "position", f"{response} rate")
    shown = [row for row in zip(positions, impressions, outcomes, strict=True) if row[1] > 0]
    if not shown:
        return png(empty(figure, axes, "No impression has a position."))
    at, trials, successes = (np.array(column, dtype=np.float64) for column in zip(*sorted(shown), strict=True))
    rates = successes / trials
    low, high = wilson(successes, trials)
    axes.bar(at, rates, width=0.72, color=BLUE, label=f"{response} rate")
    axes.errorbar(
        at,
        rates,
        yerr=[np.maximum(rates - low, 0), np.maximum(high - rates, 0)],
        fmt="none",
        ecolor=INK,
        elinewidth=1.1,
        capsize=3,
        label="95% interval",
    )
    overall = float(successes.sum() / trials.sum())
    axes.axhline(overall, color=ORANGE, linewidth=1.3, linestyle=DASHED, label=f"all positions {percent(overall)}")
    axes.set_ylim(0, float(high.max()) * 1.25 or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.grid(visible=False, axis="x")
    legend(axes)
    return png(figure)


def _step_axis(axes: Axes, steps: Float64s) -> None:
    axes.set_xlim(float(steps.min()), float(steps.max()) if steps.max() > steps.min() else float(steps.min()) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _round_levels(most: float) -> list[float]:
    """Three to six evenly spaced round levels of F1 up to ``most``."""
    most = min(most, 0.95)
    unit = 10.0 ** np.floor(np.log10(most / 3))
    gap = next(m * unit for m in (1, 2, 5, 10) if most / (m * unit) < 7)
    return [float(level) for level in np.arange(1, 7) * gap if level <= most]


def _thin(x: Float64s, most: int) -> Indices:
    """Indices of at most about ``most`` points of rising ``x`` in [0, 1], evenly spread over x, ends included."""
    return np.unique(np.concatenate([[0], np.searchsorted(x, np.linspace(0, x[-1], most)), [len(x) - 1]]))


def _thinned(step: Float64s, values: Float64s, most: int = 1200) -> tuple[Float64s, Float64s]:
    """At most about ``most`` points that keep the lowest and highest value of every part of the axis."""
    if len(step) <= most:
        return step, values
    parts = np.array_split(np.arange(len(step)), most // 2)
    keep = np.unique([part[pick(values[part])] for part in parts for pick in (np.argmin, np.argmax)])
    return step[keep], values[keep]


def _moving_mean(values: Float64s, window: int) -> Float64s:
    """Mean over up to ``window`` values around each value."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, last = np.maximum(at - window // 2, 0), np.minimum(at + (window - window // 2), len(values))
    means: Float64s = (sums[last] - sums[first]) / (last - first)
    return means


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _points(records: Sequence[Mapping[str, Any]], key: str) -> tuple[Float64s, Float64s]:
    """Steps and finite values of ``key``, in order of step."""
    pairs = sorted((float(r["step"]), float(r[key])) for r in records if _is_finite(r.get(key)))
    step, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return step, values
