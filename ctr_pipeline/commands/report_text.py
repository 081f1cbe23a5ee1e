"""The report of a pipeline run as a person reads it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctr_pipeline.commands.controls_text import print_comparisons
from ctr_pipeline.commands.report_worth_text import print_worth
from ctr_pipeline.deployment.failed_trainings import failure_text

FLAGGED_KEYS_SHOWN = 10
"""Keys with implausible labels that are printed."""

REFERENCES = {"base_rate": "the base rate", "position_only": "the position", "champion": "the champion"}
"""Other models on the test rows, by their names in the report."""

MEASURED = {
    "logged_position": "scored with the logged position",
    "random_traffic": "rows in random order",
    "ranking_score": "ranked by the ranking score",
}
"""Other ways to look at the test that are printed, by their names in the report."""


def print_reading(report: dict[str, Any], console: Console) -> None:
    """Prints what was read, and what was not."""
    days = report["days"]
    console.print(f"\n[bold]{report['spec']['name']}[/]  {days['first']} to {days['last']}", highlight=False)
    for name, rows in report["rows"].items():
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in rows["reasons"].items())
        console.print(
            f"  {name}: {rows['in']:,} rows in{_stood_for(rows)}, {rows['kept']:,} kept, {rows['quarantined']:,} quarantined"
            + (f" ({reasons})" if reasons else "")
            + (f", {rows['filtered']:,} filtered" if rows.get("filtered") else ""),
            highlight=False,
        )
    if ignored := report.get("ignored_types"):
        listed = ", ".join(f"{f'`{kind}`' if kind else 'other types'} {events:,}" for kind, events in ignored.items())
        console.print(f"  events that no task uses: {listed}", markup=False, highlight=False, soft_wrap=True)
    for remark in report.get("remarks", []):
        console.print(f"  {remark}", markup=False, highlight=False, soft_wrap=True)


def _stood_for(rows: dict[str, Any]) -> str:
    added = rows.get("added")
    return f", which stand for {rows['in'] + added:,} impressions" if added else ""


def print_report(report: dict[str, Any], console: Console) -> None:
    """Prints the report for a person."""
    print_reading(report, console)
    for found, render in (("labels", _label_table), ("split", _split_table)):
        if report[found]:
            console.print(render(report))
    _print_awaiting_data(report, console)
    if report["metrics"]:
        console.print(_metric_table({task: splits["test"] for task, splits in report["metrics"].items()}, "Test"))
    for how, title in MEASURED.items():
        if metrics := report.get("test_otherwise", {}).get(how):
            console.print(_metric_table(metrics, f"Test, {title}"))
    _print_references(report, console)
    _print_slices(report.get("slices", {}), console)
    print_worth(report, console)
    if report["propensity"].get("positions"):
        console.print(_propensity_table(report))
    for response in report["propensity"].get("responses", []):
        if response["usable"]:
            console.print(
                f"  {response['response']}: effective sample size {response['ess_rows']:.1%} of the rows, "
                f"{response['ess_positives']:.1%} of the outcomes",
                highlight=False,
            )
    if "controls" in report:
        print_comparisons(report["controls"], console)
    _print_label_quality(report.get("label_quality", {}), console)
    _print_checks(report, console)
    model, mlflow = report["model"], report["mlflow"]
    outcome = "champion" if model["promoted"] else "not promoted"
    _print_failure(report, console)
    _print_branches(model.get("branches", []), console)
    named = f"Model version {model['version']} ({outcome})" if model["version"] else "Nothing was promoted"
    console.print(f"{named}: {' '.join(model['reasons'])}", markup=False, highlight=False, soft_wrap=True)
    if mlflow:
        console.print(f"MLflow run {mlflow['run_id']}; files in {model['folder']}", highlight=False, soft_wrap=True)
    if report["seconds"]:
        total = sum(report["seconds"].values())
        slowest = sorted(report["seconds"].items(), key=lambda item: -item[1])[:4]
        listed = ", ".join(f"{asset} {seconds:.1f} s" for asset, seconds in slowest)
        console.print(f"Assets took {total:.0f} s: {listed}, …", highlight=False)
    elif report.get("outcome", {}).get("reason") is None:
        console.print("Everything was up to date.")


def _print_references(report: dict[str, Any], console: Console) -> None:
    """Prints AUC and NE of the test beside those of other models; nothing for reports of before they were measured."""
    references = report.get("test_references")
    if not references:
        return
    columns = [f"{title} of {REFERENCES[name]}" for name in references for title in ("AUC", "NE")]
    table = Table(
        "task", "AUC", "NE", *columns, title="Test, beside other models on the same rows", title_justify="left"
    )
    for task, splits in report["metrics"].items():
        found = [splits["test"], *(of.get(task, {}) for of in references.values())]
        table.add_row(task, *(_value(of.get(name)) for of in found for name in ("auc", "ne")))
    console.print(table)
    if obstacle := report.get("champion", {}).get("obstacle"):
        console.print(f"  The champion is not beside it: {obstacle}", markup=False, highlight=False, soft_wrap=True)


def _value(metric: Mapping[str, Any] | None) -> str:
    return "–" if not metric or metric.get("value") is None else f"{metric['value']:.3f}"


def _print_slices(by_task: dict[str, list[dict[str, Any]]], console: Console) -> None:
    """Prints the parts of the test whose rates are off; nothing where none stand out."""
    for task, slices in by_task.items():
        for found in (of for of in slices if of["miscalibrated"]):
            oe = found["oe"]
            console.print(
                f"  {task}, {found['dimension']} {found['value']}: observed/expected {oe['value']:.3f} "
                f"[{oe['low']:.3f}, {oe['high']:.3f}], {found['positives']:,} of {found['rows']:,} rows",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip


def _label_table(report: dict[str, Any]) -> Table:
    states = sorted({state for counts in report["labels"].values() for state in counts})
    table = Table("task", *(state.lower() for state in states), title="Labels", title_justify="left")
    for task, counts in report["labels"].items():
        table.add_row(task, *(f"{counts.get(state, 0):,}" for state in states))
    return table


def _split_table(report: dict[str, Any]) -> Table:
    counts = ("rows", "settled", "censored", "positives")
    table = Table("split", "task", "from", "before", *counts, title="Split, by task", title_justify="left")
    for name, split in report["split"].items():
        for task, found in split["tasks"].items():
            table.add_row(
                name, task, found["start"][:16], found["end"][:16], *(f"{found[count]:,}" for count in counts)
            )
    return table


def _print_awaiting_data(report: dict[str, Any], console: Console) -> None:
    """Prints which labels were left out because a log had stopped; nothing where none were."""
    for name, split in report["split"].items():
        found = {task: rows for task, rows in split.get("awaiting_data", {}).items() if rows}
        if found:
            listed = ", ".join(f"{task} {rows:,}" for task, rows in found.items())
            console.print(
                f"  {name}: {listed} negatives have no label, since a log that stopped may have missed their outcome",
                highlight=False,
            )


def _metric_table(by_task: dict[str, dict[str, Any]], title: str) -> Table:
    columns = {"auc": "AUC", "ap": "AP", "ne": "NE", "oe": "observed/expected"}
    if any("grouped_auc" in metrics for metrics in by_task.values()):
        keys = {metrics["grouped_auc"].get("key", "group") for metrics in by_task.values() if "grouped_auc" in metrics}
        title_of_groups = f"AUC within {' or '.join(sorted(keys))}"
        columns = {"auc": "AUC", "grouped_auc": title_of_groups, "ap": "AP", "ne": "NE", "oe": "observed/expected"}
    table = Table(
        "task", "rows", "positives", *columns.values(), title=f"{title}, with 95 % intervals", title_justify="left"
    )
    for task, metrics in by_task.items():
        numbers = (_interval(metrics[key]) for key in columns)
        table.add_row(task, _rows(metrics), f"{metrics['positives']:,}", *numbers)
    return table


def _rows(metrics: Mapping[str, Any]) -> str:
    """Rows that were measured; with their share where some are not settled."""
    share = metrics.get("settled_share")
    return f"{metrics['rows']:,}" + (f" ({share:.1%} settled)" if share is not None and share < 1 else "")


def _propensity_table(report: dict[str, Any]) -> Table:
    columns = ("response", "position", "examination", "exposure ratio", "weight")
    table = Table(*columns, title="Position propensity, with 95 % intervals", title_justify="left")
    for row in report["propensity"]["positions"]:
        table.add_row(
            row["response"],
            str(row["position"]),
            *(
                f"{row[value]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
                for value, name in (("examination", "examination"), ("exposure_ratio", "exposure"))
            ),
            f"{row['weight']:.3f}",
        )
    return table


def _print_label_quality(found: dict[str, Any], console: Console) -> None:
    flagged = found.get("flagged", [])[:FLAGGED_KEYS_SHOWN]
    if flagged:
        columns = (str(found["key"]), "task", "trials", "outcomes", "rate", "expected", "z", "status", "weight")
        table = Table(*columns, title="Implausible outcome rates", title_justify="left")
        for row in flagged:
            expected, z = row["expected_rate"], row["z"]
            table.add_row(
                Text(row["key"]), row["task"], f"{row['trials']:,}", f"{row['positives']:,}", f"{row['rate']:.1%}",
                "–" if expected is None else f"{expected:.1%}", "–" if z is None else f"{z:+.1f}",
                row["status"], f"{row['weight']:.2f}",
            )  # fmt: skip
        console.print(table)
    for task in found.get("tasks", []):
        console.print(
            f"  {task['task']}: {task['inflated']} inflated, {task['dropped']} dropped, {task['late']} late of "
            f"{task['evaluated']:,} evaluated and {task['keys']:,} known by {found['key']}",
            highlight=False,
        )


def _print_checks(report: dict[str, Any], console: Console) -> None:
    failing = [check for check in report["checks"] if not check["passed"]]
    console.print(f"Checks: {len(report['checks']) - len(failing)} of {len(report['checks'])} passed", highlight=False)
    for check in failing:
        style = "red" if check["severity"] == "ERROR" else "yellow"
        console.print(f"  [{style}]{check['severity']}[/] {check['asset']}.{check['check']}: ", end="", highlight=False)
        console.print(check["description"] or "failed", markup=False, highlight=False, soft_wrap=True)


def _print_failure(report: dict[str, Any], console: Console) -> None:
    """Prints why the training failed, its strongest findings and where the evidence lies; nothing where it did not."""
    if failure := report.get("training_failure"):
        console.print("[red bold]The training failed[/]", highlight=False)
        console.print(failure_text(failure), markup=False, highlight=False, soft_wrap=True)


def _print_branches(branches: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The validation of each branch by itself."""
    if not branches:
        return
    tasks = [name.removeprefix("ne_") for name in branches[0] if name.startswith("ne_")]
    table = Table("branch", *tasks, "stopped", title="Normalised entropy of each branch, validation")
    for branch in branches:
        values = [branch[f"ne_{task}"] for task in tasks]
        epoch = branch["stopped_after_epoch"]
        stopped = "" if epoch is None else f"after epoch {epoch + 1}"
        table.add_row(branch["name"], *("" if value is None else f"{value:.4f}" for value in values), stopped)
    console.print(table)


def _interval(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        if value["value"] is None:
            return "–"
        if value.get("low") is None or value.get("high") is None:
            return f"{value['value']:.3f}"
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value:.3f}"
