"""What `ctr forget` removed, as a person reads it."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_forgotten(report: Mapping[str, Any], console: Console) -> None:
    """Prints what was removed for a person."""
    known = "was forgotten before" if report["known_before"] else "is left out by every later reading of the log"
    console.print(f"\nUser {report['hash']} {known}.", highlight=False)
    table = Table("table", "rows removed", "days", "old files removed")
    for name, removed in report["tables"].items():
        table.add_row(name, f"{removed['rows']:,}", str(removed["days"]), f"{removed['old_files']:,}")
    if report["tables"]:
        console.print(table)
    for what, label in (
        ("datasets", "packed datasets removed"),
        ("views", "views of table versions removed"),
        ("failed_steps", "batches of failed trainings removed"),
        ("snapshots", "snapshots for servers rewritten, of"),
        ("vocabularies", "vocabularies rewritten"),
        ("bundles", "bundles with a new manifest"),
        ("texts", "texts blanked"),
        ("databases", "databases blanked"),
    ):
        if report[what]:
            console.print(f"  {label}: {', '.join(report[what])}", highlight=False, soft_wrap=True)
    if report["logged_requests"]:
        console.print(
            f"  logged requests removed from files not fetched yet: {report['logged_requests']}", highlight=False
        )
    if report["open_log_files"]:
        console.print(
            f"  [yellow]A server is writing {report['open_log_files']} log files[/]: call this again in a minute, when they are "
            "complete.", highlight=False, soft_wrap=True,
        )  # fmt: skip
    for model in report["models"]:
        console.print(
            f"  [yellow]trained on {model['training_rows']} of the rows[/]: MLflow run {model['run_id']} of {model['day']}"
            + (f", version {model['version']}" if model["version"] else "")
            + (f" ({', '.join(model['aliases'])})" if model["aliases"] else ""),
            highlight=False,
            soft_wrap=True,
        )
    if not any(
        report[what]
        for what in ("tables", "datasets", "failed_steps", "snapshots", "vocabularies", "texts", "databases")
    ):
        console.print("  Nothing was stored of them.", highlight=False)
    if any(report[what] for what in ("tables", "datasets", "vocabularies")):
        console.print("Run `ctr run` to train the newest model again without the user.")
    if report["not_searched"]:
        console.print(f"  [yellow]not searched[/]: {report['not_searched']}", highlight=False, soft_wrap=True)
    for path in report["remaining_files"]:
        console.print(f"  [red]still holds the hash[/]: {path}", highlight=False, soft_wrap=True)
