"""The label history as a person reads it."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_overview(report: Mapping[str, Any], console: Console) -> None:
    """Prints the states of all labels for a person."""
    console.print(
        f"\n[bold]{report['spec']}[/]  labels as of {report['as_of']}: {report['impressions']:,} impressions, "
        f"table version {report['labels_version']}, made of what had arrived by {report['known_as_of']}",
        highlight=False,
    )
    states = sorted({state for task in report["tasks"].values() for state in task["states"]})
    columns = ("task", *(state.lower() for state in states), "positives then", "known now", "share", "late rate")
    table = Table(*columns)
    for name, task in report["tasks"].items():
        table.add_row(
            name,
            *(f"{task['states'][state]:,}" for state in states),
            f"{task['positives']:,}",
            f"{task['positives_known_now']:,}",
            _percent(task["completeness"]),
            _percent(task["late_rate"]),
        )
    console.print(table)
    if older := report["days_labelled_before"]:
        console.print(
            f"  {len(older)} days, the first {older[0]}, were last labelled before that instant and count as of then.",
            highlight=False,
        )


def print_impression(report: Mapping[str, Any], console: Console) -> None:
    """Prints the labels of one impression for a person."""
    shown = report["impression"]
    console.print(
        f"\n[bold]{report['spec']}[/]  impression {shown['hash']} of {shown['at']}, arrived {shown['arrived']}; "
        f"known up to {report['known_as_of']}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("task", "from (UTC)", "state", "value", "undecided for", "revision", "held by labels version")
    for task, intervals in report["tasks"].items():
        for interval in intervals:
            table.add_row(
                task,
                interval["from"],
                interval["state"],
                _value(interval["value"]),
                _duration(interval["elapsed_seconds"]),
                str(interval["revision"]),
                ", ".join(str(version) for version in interval["versions"]) or "none",
            )
    console.print(table)
    label = report["label_as_of"]
    console.print(f"Labels as of {label['as_of']}:", highlight=False)
    for task, found in label["tasks"].items():
        text = "not arrived yet" if found is None else f"{found['state']}, value {_value(found['value'])}"
        console.print(f"  {task}: {text}", highlight=False)
    console.print(f"  {label['held_by']}", highlight=False, soft_wrap=True)


def _value(value: int | None) -> str:
    return "null" if value is None else str(value)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds / 86_400:.2f} d" if seconds >= 86_400 else f"{seconds / 3600:.2f} h"
