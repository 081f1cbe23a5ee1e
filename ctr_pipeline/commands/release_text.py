"""Releases as a person reads them."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ctr_pipeline.commands.release import Comparison, ReleaseStatus
from ctr_pipeline.orchestration.promotions import VersionFacts
from ctr_pipeline.serving.release import TrialMode

SHOWN = ("ne", "auc", "observed_over_expected")
"""Metrics of each task that are shown, where the versions have them."""


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Prints a version beside the champion."""
    found = [comparison.champion, comparison.candidate]
    _print_versions([facts for facts in found if facts is not None], console)
    if comparison.candidate.compared:
        _line(console, f"compared when it was made: {comparison.candidate.compared}")
    for note in comparison.notes:
        _line(console, note)


def print_status(status: ReleaseStatus, console: Console) -> None:
    """Prints aliases and trial."""
    if not status.versions:
        _line(console, "no version has an alias")
        return
    _print_versions(status.versions, console)
    trial, last = status.trial, status.last
    if trial is not None:
        share = f" for {trial.share:.2%} of the users" if trial.mode is TrialMode.CANARY else ""
        _line(console, f"version {trial.version} is tried as {trial.mode}{share} since {trial.started}")
    if last is not None:
        _line(console, f"the last trial, of version {last.version}, was {last.outcome} at {last.at}: {last.reason}")


def _print_versions(versions: Sequence[VersionFacts], console: Console) -> None:
    names = [name for name in versions[0].metrics if name.rpartition("/")[2] in SHOWN]
    table = Table("", *(f"version {facts.version}" for facts in versions))
    table.add_row("alias", *(", ".join(facts.aliases) or "-" for facts in versions))
    table.add_row("data up to", *(facts.day or "-" for facts in versions))
    table.add_row("SHA-256", *(facts.sha256[:12] or "-" for facts in versions))
    for name in names:
        table.add_row(
            f"test {name}",
            *(f"{facts.metrics[name]:.4f}" if name in facts.metrics else "-" for facts in versions),
        )
    if any(facts.rolled_back for facts in versions):
        table.add_row("rolled back", *(facts.rolled_back or "-" for facts in versions))
    console.print(table)


def _line(console: Console, text: str) -> None:
    console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)
