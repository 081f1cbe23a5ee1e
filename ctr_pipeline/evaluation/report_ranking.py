"""Sections of a run's report about probabilities and ranking: calibration, thresholds, revenue."""

from collections.abc import Mapping
from typing import Any

from ctr_pipeline.evaluation.html_page import figure, figures, folded, table
from ctr_pipeline.evaluation.report_cells import NONE, interval, percent, shown
from ctr_pipeline.evaluation.report_figures import ReportFiles, reliability_figure, test_metrics

OTHERWISE = {
    "uncalibrated": "without calibration",
    "logged_position": "scored with the logged position",
    "random_traffic": "rows in random order",
    "other_traffic": "rows in the order that was served",
    "ranking_score": "ranked by the ranking score",
}
REVENUE = {
    "model": "this model",
    "expected": "this model expects",
    "logged": "as logged",
    "random": "at random",
    "oracle": "best possible",
    "gain": "gain over as logged",
    "regret": "regret",
}


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
            percent(found.get("base_rate")),
            percent(found.get("mean_prediction")),
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
        (f"{one['rows']:,}", f"{one['positives']:,}", percent(one["predicted"]), percent(one["observed"]),
         f"{percent(one['low'])} to {percent(one['high'])}")
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
            f"base rate {percent(of.get('base_rate'))}."
        )
        texts[f"scores_{task}"] = (
            f"Scores of the outcomes and of the other rows of {task}, as logits: AUC {interval(of.get('auc'))}."
        )
    images = [figure(files.images[name], text) for name, text in texts.items() if name in files.images]
    absent = "" if images else "<p>The pictures that need the rows are not given: the files of this model are gone.</p>"
    return figures(images) + absent + _revenue(report) + _thresholds(metrics) + _otherwise(report)


def _recalls(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{recall:.0%} of the outcomes in {float(share):.0%} of the rows"
        for share, recall in found.get("recall_at", {}).items()
    ]


def _thresholds(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The thresholds and their confusion tables."""
    rows = [
        (
            task, name, percent(of["probability"]), percent(of.get("precision")), percent(of.get("recall")),
            interval(of.get("f1")), *(f"{of[count]:,}" for count in
            ("true_positives", "false_positives", "false_negatives", "true_negatives")),
        )
        for task, found in metrics.items()
        for name, of in (("largest F1", found.get("best_f1")), ("cost over value", found.get("decision")))
        if of
    ]  # fmt: skip
    heads = (
        "task", "threshold", "probability", "precision", "recall", "F1", "true positives", "false positives",
        "false negatives", "true negatives",
    )  # fmt: skip
    return _decisions(metrics) + folded(
        "Thresholds and their confusion tables", table(heads, rows, numbers=range(2, 10))
    )


def _decisions(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """What acting on the rows above cost over value gains."""
    rows = [
        (task, f"{of['cost']:g}", f"{of['value']:g}", percent(of["probability"]), interval(of.get("gain_per_1000"), 2),
         interval(of.get("gain_of_all_per_1000"), 2), interval(of.get("regret_per_1000"), 2))
        for task, found in metrics.items()
        if (of := found.get("decision"))
    ]  # fmt: skip
    heads = "task", "cost", "value", "threshold", "gain a 1,000 rows", "of acting on all rows", "regret"
    return table(heads, rows, numbers=range(1, 7), caption="Acting where the probability is at least cost over value")


def _revenue(report: Mapping[str, Any]) -> str:
    """What the ranking score earns."""
    found: Mapping[str, Mapping[str, Any]] = report.get("ranking_revenue") or {}
    rows = [(title, *(interval(of.get(name), 2) for of in found.values())) for name, title in REVENUE.items() if found]
    heads = (
        "order",
        *(
            f"{OTHERWISE.get(name, 'all rows')}: {of['groups']:,} of {of['groups'] + of['left_out']:,} groups"
            for name, of in found.items()
        ),
    )
    caption = "Revenue of 1,000 impressions, each the first of its group, by the order of the ranking score"
    return table(heads, rows, numbers=range(1, len(heads)), caption=caption)


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
