"""Why a model changed, as a person reads it in a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

MOST_CAUSES, MOST_EVIDENCE = 6, 4
COLOURS = {"shown": "green", "likely": "yellow", "possible": "dim"}


def print_change(found: Mapping[str, Any], console: Console) -> None:
    """Prints what `ctr explain RUN_A RUN_B` found."""

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=True)

    line(f"\n{found['headline']}", "bold")
    line(f"  before: {found['old']['folder']}")
    line(f"  now:    {found['new']['folder']}")
    for change in found["ne"].values():
        interval = change["change"]
        bounds = ", ".join("–" if interval[name] is None else f"{interval[name]:+.4f}" for name in ("low", "high"))
        chance = "" if change["significant"] else "  within chance"
        line(
            f"  NE of {change['task']}: {change['old']:.4f} → {change['new']:.4f}, change {interval['value']:+.4f} [{bounds}]{chance}"
        )
    line("\nCauses, the first one first", "bold")
    for place, cause in enumerate(found["causes"][:MOST_CAUSES], 1):
        share = cause["share"]
        part = "" if share is None else f"  {share['value']:.0%} of the change"
        line(f"{place}. {cause['certainty']}: {cause['sentence']}{part}", COLOURS[cause["certainty"]])
        line(f"   {cause['how']}")
        for text in cause["evidence"][:MOST_EVIDENCE]:
            line(f"   for: {text}")
        for text in cause["against"][:MOST_EVIDENCE]:
            line(f"   against: {text}")
    if more := len(found["causes"]) - MOST_CAUSES:
        line(f"   and {more} more: see --html" if more > 0 else "")
    for note in found["notes"]:
        line(f"Note: {note}", "yellow")
    line(f"Looked at: {'; '.join(found['compared']['looked_at'])}")
