"""Sections of a run's report about the model: metrics, calibration, ranking, days, slices."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ctr_pipeline.evaluation.html_page import figure, figures, folded, table
from ctr_pipeline.evaluation.report_figures import (
    Drawn,
    ReportFiles,
    days_figure,
    reliability_figure,
    slices_figure,
    test_metrics,
)

NONE = "–"
INTERVALS = {
    "auc": "AUC",
    "ap": "Average precision",
    "log_loss": "Log loss (nats)",
    "ne": "NE",
    "oe": "Observed / expected",
}
WITHIN = {"user_auc": "AUC within users", "session_auc": "AUC within sessions", "grouped_auc": "AUC within groups"}
OTHERWISE = {
    "uncalibrated": "without calibration",
    "logged_position": "scored with the logged position",
    "random_traffic": "rows in random order",
    "other_traffic": "rows in the order that was served",
    "ranking_score": "ranked by the ranking score",
}
MOST_ROWS = 40
"""Rows of a table of slices."""


def interval(found: Any, digits: int = 3) -> str:
    """A value with its interval, ``0.811 [0.796, 0.825]``; a dash for none."""
    if not isinstance(found, Mapping):
        return NONE if found is None else f"{found:.{digits}f}"
    value, low, high = (found.get(name) for name in ("value", "low", "high"))
    if value is None:
        return NONE
    bounds = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{bounds}"


def change(found: Any) -> str:
    """A relative difference with its interval, in percent."""
    value, low, high = ((found or {}).get(name) for name in ("value", "low", "high"))
    if value is None:
        return NONE
    return f"{value:+.2%}" + ("" if low is None or high is None else f" [{low:+.2%}, {high:+.2%}]")


def shown(drawn: Drawn, caption: str = "") -> str:
    """A picture, or the sentence that stands for it."""
    return f"<p>{escape(drawn.text)}</p>" if drawn.png is None else figure(drawn.png, drawn.text, caption)


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
        masked = found.get("masked", 0)
        settled = found["rows"] / max(found["rows"] + masked, 1)
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
    others = {name: of[task] for name, of in report.get("beside", {}).items() if task in of}
    base = dict(_of_base_rate(found)) | _known(others.get("base_rate"))
    position = _known(others.get("position")) or _of_position(report, task, found)
    champion = _known(others.get("champion"))
    columns = {"base rate": base, "position alone": position, "champion": champion}
    columns = {name: of for name, of in columns.items() if of}
    rows: list[Sequence[object]] = []
    for name, title, value in _values(found):
        rows.append((title, interval(value), *(interval(of.get(name)) for of in columns.values())))
    return ("metric", "this model", *columns), rows


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
        if of is not None:
            key = f" ({of['key']})" if of.get("key") else ""
            yield name, f"{title}{key}: {of['groups']:,} of {of['groups'] + of['left_out']:,}", of
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
    return {**found, **recalls, **{name: order[name] for name in ("ndcg", "mrr") if name in order}}


def calibration_section(report: Mapping[str, Any]) -> str:
    """Whether the probabilities hold."""
    metrics = test_metrics(report)
    if not metrics:
        return ""
    heads = (
        "task", "base rate", "mean prediction", "observed / expected", "calibration error", "saved by recalibration (nats)"
    )  # fmt: skip
    rows = [
        (
            task,
            _percent(found.get("base_rate")),
            _percent(found.get("mean_prediction")),
            interval(found.get("oe")),
            interval(found.get("ece", found.get("calibration_error"))),
            NONE if not found.get("log_loss_parts") else f"{found['log_loss_parts']['miscalibration']:.5f}",
        )
        for task, found in metrics.items()
    ]
    bins = "".join(_bins(task, found) for task, found in metrics.items())
    return (
        table(heads, rows, numbers=range(1, 6))
        + figures([shown(reliability_figure(metrics), "A point above the dashed line: more outcomes than predicted.")])
        + folded("The bins in numbers", bins)
    )


def _bins(task: str, found: Mapping[str, Any]) -> str:
    rows = [
        (f"{one['rows']:,}", f"{one['positives']:,}", _percent(one["predicted"]), _percent(one["observed"]),
         f"{_percent(one['low'])} to {_percent(one['high'])}")
        for one in found.get("bins", ())
    ]  # fmt: skip
    heads = "rows", "outcomes", "predicted", "observed", "95 % interval (Wilson)"
    return table(heads, rows, numbers=range(5), caption=task)


def ranking_section(report: Mapping[str, Any], files: ReportFiles) -> str:
    """How the outcomes are found."""
    metrics = test_metrics(report)
    if not metrics:
        return ""
    found = {task: ", ".join(_recalls(of)) for task, of in metrics.items()}
    recalls = "; ".join(f"{task}: {text}" for task, text in found.items() if text)
    texts = {
        "gain": f"Outcomes found by the share of rows looked at. {recalls}.",
        "lift": f"Lift by the share of rows looked at. {recalls}.",
    }
    for task, of in metrics.items():
        texts[f"precision_recall_{task}"] = (
            f"Precision against recall of {task} with lines of equal F1: average precision {interval(of.get('ap'))}, "
            f"base rate {_percent(of.get('base_rate'))}."
        )
        texts[f"scores_{task}"] = (
            f"Scores of the outcomes and of the other rows of {task}, as logits: AUC {interval(of.get('auc'))}."
        )
    images = [figure(files.images[name], text) for name, text in texts.items() if name in files.images]
    absent = "" if images else "<p>The pictures that need the rows are not given: the files of this model are gone.</p>"
    return figures(images) + absent + _thresholds(metrics) + _otherwise(report)


def _recalls(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{recall:.0%} of the outcomes in {float(share):.0%} of the rows"
        for share, recall in found.get("recall_at", {}).items()
    ]


def _thresholds(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The thresholds and their confusion tables."""
    rows = [
        (
            task, name, _percent(of["probability"]), _percent(of.get("precision")), _percent(of.get("recall")),
            interval(of.get("f1")), *(f"{of[count]:,}" for count in
            ("true_positives", "false_positives", "false_negatives", "true_negatives")),
        )
        for task, found in metrics.items()
        for name, of in (("largest F1", found.get("best_f1")), ("cost over value", found.get("cost_threshold")))
        if of
    ]  # fmt: skip
    heads = (
        "task", "threshold", "probability", "precision", "recall", "F1", "true positives", "false positives",
        "false negatives", "true negatives",
    )  # fmt: skip
    return folded("Thresholds and their confusion tables", table(heads, rows, numbers=range(2, 10)))


def _otherwise(report: Mapping[str, Any]) -> str:
    rows = [
        (
            OTHERWISE.get(how, how.replace("_", " ")),
            task,
            f"{of['positives']:,}",
            *(interval(of.get(name)) for name in ("auc", "ap", "ne", "oe")),
        )
        for how, by_task in report.get("test_otherwise", {}).items()
        for task, of in by_task.items()
    ]
    heads = "test rows", "task", "outcomes", "AUC", "average precision", "NE", "observed / expected"
    return folded("The test looked at otherwise", table(heads, rows, numbers=range(2, 7)))


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
    return {task: dict(days) for task, days in report.get("by_day", {}).items() if days}


def slices_section(report: Mapping[str, Any]) -> str:
    """Where the model is wrong although it is right on average."""
    by_task: Mapping[str, Sequence[Mapping[str, Any]]] = report.get("slices", {})
    if not any(by_task.values()):
        return ""
    off = [(task, one) for task, of in by_task.items() for one in of if one["miscalibrated"]]
    tested = sum(map(len, by_task.values()))
    sentence = (
        f"{len(off)} of {tested} slices stand out (5 % false discoveries, Benjamini and Hochberg, by task)."
        if off
        else f"None of {tested} slices stands out (5 % false discoveries, Benjamini and Hochberg, by task)."
    )
    every = [
        (task, one) for task, of in by_task.items() for one in sorted(of, key=lambda one: one["p_value"])[:MOST_ROWS]
    ]
    return (
        f"<p>{sentence}</p>"
        + _slice_table(off)
        + figures(shown(slices_figure(task, of)) for task, of in by_task.items())
        + folded("Slices in numbers, the least likely ones first", _slice_table(every))
    )


def _slice_table(found: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    heads = "task", "slice", "rows", "outcomes", "observed / expected", "NE", "p"
    rows = [
        (task, f"{one['dimension']}: {one['value']}", f"{one['rows']:,}", f"{one['positives']:,}", interval(one["oe"]),
         interval(one["ne"]), f"{one['p_value']:.2g}")
        for task, one in found
    ]  # fmt: skip
    return table(heads, rows, numbers=range(2, 7))


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.3g} %"
