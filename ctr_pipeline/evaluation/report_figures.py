"""The pictures of a run's report: those that its figures alone determine, and the texts for who does not see them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctr_pipeline.evaluation.reliability import ReliabilityBin
from ctr_pipeline.labels.outcome_delays import OutcomeDelays

MOST_SLICES = 20
"""Slices of a task that are drawn: those that are least likely by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A picture with the text that stands for it; without data the text alone, which then says what is missing."""

    text: str
    png: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFiles:
    """What the folder of a retrain holds beside the figures of its report; empty where it is gone, or of another model.

    Attributes:
        images: PNG files of what was drawn from rows, by name.
        delays: Delays of the outcomes, by task.
        provenance: From what the model was made.
        release: What became of the model, with the comparison with the champion.
        attribution: Why the model changed.
        attribution_page: Address of the page about that, relative to the report's; empty where there is none.
    """

    images: Mapping[str, bytes] = field(default_factory=dict)
    delays: Mapping[str, OutcomeDelays] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    release: Mapping[str, Any] = field(default_factory=dict)
    attribution: Mapping[str, Any] = field(default_factory=dict)
    attribution_page: str = ""


def test_metrics(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Metrics of the test rows by task."""
    return {task: splits["test"] for task, splits in report.get("metrics", {}).items() if "test" in splits}


def reliability_figure(metrics: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """Observed against predicted rates of all tasks."""
    from ctr_pipeline.evaluation.plots import reliability_plot

    bins = {task: [ReliabilityBin(**one) for one in found.get("bins", ())] for task, found in metrics.items()}
    if not any(b.positives for of in bins.values() for b in of):
        return Drawn(text="There is no picture of the calibration, since no test row has an outcome.")
    parts = [
        f"{task}: predicted {_share(of[0].predicted)} to {_share(of[-1].predicted)}, observed {_share(of[0].observed)} to "
        f"{_share(of[-1].observed)}, the perfect rate within {sum(b.low <= b.predicted <= b.high for b in of)} of {len(of)} intervals"
        for task, of in bins.items()
        if of
    ]
    text = f"Observed rate against predicted probability by ten bins, on logarithmic axes. {'; '.join(parts)}."
    return Drawn(text=text, png=reliability_plot(bins, title="Reliability on the test rows"))


def slices_figure(task: str, slices: Sequence[Mapping[str, Any]]) -> Drawn:
    """Observed over expected of the slices that are least likely by chance."""
    from ctr_pipeline.evaluation.interval_plots import Estimates, forest_plot

    worst = sorted(slices, key=lambda one: (not one["miscalibrated"], one["p_value"]))[:MOST_SLICES]
    if not worst:
        return Drawn(text=f"{task}: the test rows were not divided into slices.")
    names = [f"{one['dimension']}: {one['value']}" for one in worst]
    found, marked = Estimates.of([one["oe"] for one in worst]), [bool(one["miscalibrated"]) for one in worst]
    listed = [f"{name} {one['oe']['value']:.3f}" for name, one, mark in zip(names, worst, marked, strict=True) if mark]
    text = f"Observed over expected outcomes of {task}, the {len(worst)} least likely of {len(slices)} slices. " + (
        f"Stand out: {', '.join(listed)}." if listed else "None stands out."
    )
    png = forest_plot(
        names, found, marked, meaning="observed / expected", marked_as="stands out", title=f"Slices of {task}"
    )  # fmt: skip
    return Drawn(text=text, png=png)


def days_figure(by_task: Mapping[str, Mapping[str, Mapping[str, Any]]], metric: str, meaning: str) -> Drawn:
    """A metric of each task by day.

    Args:
        by_task: By task and day, the metrics.
        metric: Which of them, with ``value``, ``low`` and ``high``.
        meaning: What it is.
    """
    from ctr_pipeline.evaluation.interval_plots import Estimates, days_plot

    days = sorted({day for of in by_task.values() for day in of})
    found = {task: [of.get(day, {}).get(metric) for day in days] for task, of in by_task.items()}
    if not any(one and one.get("value") is not None for of in found.values() for one in of):
        return Drawn(text=f"There is no picture of the {meaning} by day, since no day has labels of both classes.")
    parts = []
    for task, of in found.items():
        values = [one["value"] for one in of if one and one.get("value") is not None]
        if values:
            parts.append(f"{task} {min(values):.3f} to {max(values):.3f}")
    png = days_plot(
        days, {task: Estimates.of(of) for task, of in found.items()}, reference=1.0, meaning=meaning,
        title=f"{meaning[0].upper()}{meaning[1:]} by day",
    )  # fmt: skip
    return Drawn(text=f"{meaning[0].upper()}{meaning[1:]} on {len(days)} test days: {'; '.join(parts)}.", png=png)


def champion_figure(by_task: Mapping[str, Mapping[str, Mapping[str, Any] | None]]) -> Drawn:
    """Relative difference in NE from the champion by day.

    Args:
        by_task: By task and day ``value``, ``low`` and ``high``; null for a day without labels of both classes.
    """
    from ctr_pipeline.evaluation.interval_plots import Estimates, days_plot

    days = sorted({day for of in by_task.values() for day in of})
    found = {task: [of.get(day) for day in days] for task, of in by_task.items()}
    known = {task: [one["value"] for one in of if one and one.get("value") is not None] for task, of in found.items()}
    if not any(known.values()):
        return Drawn(text="The champion was not compared by day.")
    parts = [f"{task} better on {sum(value < 0 for value in of)} of {len(of)} days" for task, of in known.items() if of]
    png = days_plot(
        days, {task: Estimates.of(of) for task, of in found.items()}, reference=0.0,
        meaning="difference in NE, below 0 is better", title="Against the champion by day", as_percent=True,
    )  # fmt: skip
    return Drawn(text=f"Difference in normalised entropy from the champion by day: {'; '.join(parts)}.", png=png)


def propensity_figures(propensity: Mapping[str, Any]) -> list[Drawn]:
    """What the position does to each response, with intervals."""
    from ctr_pipeline.evaluation.interval_plots import Estimates, position_curves

    drawn = []
    for response in dict.fromkeys(row["response"] for row in propensity.get("positions", ())):
        rows = [row for row in propensity["positions"] if row["response"] == response]
        curves = {
            "examination": Estimates.of([_bounds(row, "examination", "examination") for row in rows]),
            "exposure ratio": Estimates.of([_bounds(row, "exposure_ratio", "exposure") for row in rows]),
        }
        last = rows[-1]
        text = (
            f"Examination and exposure ratio of {response} by position, with intervals: at position {last['position']} "
            f"examination {last['examination']:.2f}, exposure ratio {last['exposure_ratio']:.2f}."
        )
        positions = [row["position"] for row in rows]
        drawn.append(Drawn(text=text, png=position_curves(positions, curves, title=f"Position and {response}")))
    return drawn


def delays_figure(delays: Mapping[str, OutcomeDelays]) -> Drawn:
    """How long outcomes take."""
    from ctr_pipeline.evaluation.delay_plot import delay_plot

    known = {task: of for task, of in delays.items() if of.outcomes}
    if not known:
        return Drawn(text="There is no picture of the delays, since no outcome of a mature impression has a time.")
    parts = [
        f"{task} {1 - of.outside / of.outcomes:.1%} within its window of {_hours(of.window)}"
        for task, of in known.items()
    ]
    text = f"Share of the outcomes that had happened by each time since the start of the window: {'; '.join(parts)}."
    return Drawn(text=text, png=delay_plot(known, title="Time until an outcome"))


def _bounds(row: Mapping[str, Any], value: str, name: str) -> dict[str, float | None]:
    return {"value": row.get(value), "low": row.get(f"{name}_low"), "high": row.get(f"{name}_high")}


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.3g} hours" if hours < 72 else f"{hours / 24:.3g} days"
