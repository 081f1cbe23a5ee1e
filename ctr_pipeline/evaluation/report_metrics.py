"""Sections of a run's report about the metrics: of the whole test beside what has to be beaten, and by day."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ctr_pipeline.evaluation.html_page import figures, folded, table
from ctr_pipeline.evaluation.report_cells import interval, shown
from ctr_pipeline.evaluation.report_figures import days_figure, test_metrics

INTERVALS = {
    "auc": "AUC",
    "ap": "Average precision",
    "log_loss": "Log loss (nats)",
    "ne": "NE",
    "oe": "Observed / expected",
    "ece": "Calibration error (ECE)",
}
WITHIN = {"user_auc": "AUC within users", "session_auc": "AUC within sessions", "grouped_auc": "AUC within groups"}
REFERENCES = {"base_rate": "base rate", "position_only": "position alone", "champion": "champion"}
"""Models that stand beside, by their names in the report."""


def metrics_section(report: Mapping[str, Any]) -> str:
    """Each task's metrics on the test rows, beside what has to be beaten."""
    metrics = test_metrics(report)
    if not metrics:
        return ""
    parts = [
        "<p>On the test rows, calibrated and without the position, as the model is served. In brackets: 95 % intervals. NE: log loss "
        "over that of the base rate.</p>"
    ]
    for task, found in metrics.items():
        settled = found["rows"] / max(found["rows"] + found.get("masked", 0), 1)
        parts.append(
            f"<h3>{escape(task)}</h3><p>{found['positives']:,} outcomes of {found['rows']:,} rows with a settled label "
            f"({settled:.1%} of this part), {found['clusters']:,} independent users.</p>"
        )
        parts.append(table(*_beside(report, task, found), numbers=range(1, 5)))
        if found.get("undefined"):
            listed = "; ".join(f"{name}: {why}" for name, why in found["undefined"].items())
            parts.append(f"<p>Not given: {escape(listed)}.</p>")
    return "\n".join(parts)


def _beside(
    report: Mapping[str, Any], task: str, found: Mapping[str, Any]
) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Heads and rows: the model's metrics beside those of the base rate, of the position alone and of the champion."""
    others = {name: of[task] for name, of in report.get("test_references", {}).items() if task in of}
    columns = {
        "base_rate": {**dict(_of_base_rate(found)), **_known(others.get("base_rate"))},
        "position_only": _known(others.get("position_only")) or _of_position(report, task, found),
        "champion": _known(others.get("champion")),
    }
    columns = {name: of for name, of in columns.items() if of}
    rows: list[Sequence[object]] = []
    for name, title, value in _values(found):
        rows.append((title, interval(value), *(_value(of.get(name)) for of in columns.values())))
    return ("metric", "this model", *(REFERENCES[name] for name in columns)), rows


def _value(found: Any) -> str:
    """A figure of another model, without its interval: what counts is the difference, and that is not in it."""
    return interval(found.get("value") if isinstance(found, Mapping) else found)


def _values(found: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Name, title and value of each metric that has one."""
    for name, title in INTERVALS.items():
        if found.get(name) is not None:
            yield name, title, found[name]
    for name, title in (("lift", "Lift of average precision"), ("rig", "Information gain, 1 − NE")):
        if found.get(name) is not None:
            yield name, title, found[name]
    for share, recall in found.get("recall_at", {}).items():
        yield f"recall_at_{share}", f"Recall, top {float(share):.0%}", recall
    for name, title in WITHIN.items():
        of = found.get(name)
        if of is None:
            continue
        # Reports of earlier versions have the value alone, or no counts.
        counts = isinstance(of, Mapping) and "groups" in of
        key = f" ({of['key']})" if counts and of.get("key") else ""
        yield name, f"{title}{key}: {of['groups']:,} of {of['groups'] + of['left_out']:,}" if counts else title, of
    order = found.get("group_order")
    if order:
        yield "ndcg", f"nDCG at {order['k']}", order["ndcg"]
        yield "mrr", "MRR", order["mrr"]


def _of_base_rate(found: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What a model that gives each row the base rate of these very rows would have."""
    rate = found.get("base_rate")
    if rate is None or not 0 < rate < 1:
        return
    yield from {"auc": 0.5, "ap": rate, "ne": 1.0, "oe": 1.0, "lift": 1.0, "rig": 0.0, "user_auc": 0.5}.items()
    yield from {"session_auc": 0.5, "grouped_auc": 0.5}.items()
    yield "log_loss", -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
    for share in found.get("recall_at", {}):
        yield f"recall_at_{share}", float(share)


def _of_position(report: Mapping[str, Any], task: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """NE of the model that knows the position alone, from the difference from it."""
    compared = (report.get("floor", {}).get("position") or {}).get(task)
    known = report.get("test_otherwise", {}).get("logged_position", {}).get(task, found)
    if not compared or not known.get("ne"):
        return {}
    return {"ne": known["ne"]["value"] - compared["absolute"]["value"]}


def _known(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metrics of another model on the same rows, by the names of :func:`_values`."""
    if not found:
        return {}
    recalls = {f"recall_at_{share}": value for share, value in (found.get("recall_at") or {}).items()}
    order = found.get("group_order") or {}
    known = {**found, **recalls, **{name: order[name] for name in ("ndcg", "mrr") if name in order}}
    return {name: value for name, value in known.items() if value is not None}


def days_section(report: Mapping[str, Any]) -> str:
    """Metrics of the test days."""
    by_task = by_day(report)
    if not by_task:
        return ""
    heads = "task", "day", "rows", "outcomes", "AUC", "NE", "observed / expected"
    rows = [
        (
            task,
            day,
            f"{of['rows']:,}",
            f"{of['positives']:,}",
            *(interval(of.get(name)) for name in ("auc", "ne", "oe")),
        )
        for task, days in by_task.items()
        for day, of in sorted(days.items())
    ]
    drawn = [
        days_figure(by_task, "ne", "normalised entropy"),
        days_figure(by_task, "oe", "observed / expected"),
    ]  # fmt: skip
    return figures(map(shown, drawn)) + folded("The days in numbers", table(heads, rows, numbers=range(2, 7)))


def by_day(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Metrics of the test rows by task and day; empty in reports of before they were measured."""
    found: Mapping[str, Sequence[Mapping[str, Any]]] = report.get("test_by_day") or {}
    return {task: {str(of["day"]): dict(of) for of in days} for task, days in found.items() if days}
