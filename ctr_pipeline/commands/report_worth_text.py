"""The parts of a report that say where a model is off and what it is worth, as a person reads them."""

from typing import Any

from rich.console import Console

FOUND_SHOWN = 5
"""Slices of a task that are printed, of those that a search found."""


def print_worth(report: dict[str, Any], console: Console) -> None:
    """Prints the slices that were found by search, what acting on probabilities gains, and what the ranking earns."""
    lines = [*_found_slices(report), *_decisions(report), *_revenue(report)]
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _found_slices(report: dict[str, Any]) -> list[str]:
    lines = []
    for task, search in report.get("slices_found", {}).items():
        for found in search["found"][:FOUND_SHOWN]:
            named = " and ".join(f"{of['feature']} {of['value']}" for of in found["conditions"])
            lines.append(
                f"{task}, found among {search['searched']:,} parts: {named}: observed/expected {_interval(found['oe'])}, "
                f"{found['positives']:,} of {found['rows']:,} rows"
            )
    return lines


def _decisions(report: dict[str, Any]) -> list[str]:
    lines = []
    for task, splits in report.get("metrics", {}).items():
        if found := splits["test"].get("decision"):
            lines.append(
                f"{task}, acting from a probability of {found['probability']:.3g} on (cost {found['cost']:g}, value "
                f"{found['value']:g}): gains {_interval(found['gain_per_1000'], 1)} per 1000 rows; all rows "
                f"{found['gain_of_all_per_1000']:.1f}, the outcomes alone {found['gain_of_oracle_per_1000']:.1f}"
            )
    return lines


def _revenue(report: dict[str, Any]) -> list[str]:
    titles = {"all": "Ranking score", "random_traffic": "Ranking score, rows in random order"}
    return [
        f"{titles[name]}: the first of each {found['key']} earned {_interval(found['model'], 1)} per 1000; the logged order "
        f"{found['logged']['value']:.1f}, the best {found['oracle']['value']:.1f}"
        for name, found in report.get("ranking_revenue", {}).items()
    ]


def _interval(found: dict[str, Any], digits: int = 3) -> str:
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:.{digits}f}"
    return f"{found['value']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
