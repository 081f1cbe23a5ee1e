"""The causes that may have broken a training, as a person reads them in a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

MOST_EVIDENCE = 4
"""Sentences for a hypothesis that are printed; the page has all of them."""

COLOURS = {"cures": "green", "masks": "yellow", "no effect": "dim", "not replayed": "dim"}


def print_why(found: Mapping[str, Any], console: Console) -> None:
    """Prints what `ctr why` found."""

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=True)

    triage, run = found["triage"], found["run"]
    line(f"\n{run['folder']}{'  ' + run['day'] if run['day'] else ''}", "bold")
    stop = found["stop"].get("message")
    line(f"  stopped: {stop}" if stop else f"  no stop is recorded; {found['steps_taken']} steps")
    line(f"\n{headline(triage)}", "bold")
    for place, hypothesis in enumerate(triage["hypotheses"], 1):
        verdict = hypothesis["verdict"]
        where = f" at {hypothesis['location']}" if hypothesis["location"] else ""
        replayed = (
            "" if verdict == "not replayed" else f"  the fix {verdict if verdict != 'no effect' else 'has no effect'}"
        )
        line(
            f"{place}. {hypothesis['cause']}{where}  {hypothesis['score']:.2f}{replayed}",
            COLOURS[verdict] if replayed else "",
        )
        line(f"   {hypothesis['meaning']}")
        for text in hypothesis["evidence"][:MOST_EVIDENCE]:
            line(f"   for: {text}")
        for text in hypothesis["against"][:MOST_EVIDENCE]:
            line(f"   against: {text}")
        line(f"   fix: {hypothesis['fix']}")
    if triage["remedies"]:
        line("\nReplays, one remedy at a time", "bold")
        for tried in triage["remedies"]:
            line(f"  {tried['verdict']:<10} {tried['name']}: {tried['found']}", COLOURS[tried["verdict"]])
    if triage["compared"]:
        line("\nBeside the last good training", "bold")
        for fact in triage["compared"]:
            line(f"  {fact}")
    line(f"\nLooked at: {', '.join(triage['looked_at']) or 'nothing'}")
    for note in found["notes"]:
        line(f"Note: {note}", "yellow")
    line("Next", "bold")
    for text in found["next"]:
        line(f"  {text}")


def headline(triage: Mapping[str, Any]) -> str:
    """What the triage comes to, a sentence."""
    if triage["unknown"]:
        return "Unknown: nothing that was looked at separates causes."
    top = triage["hypotheses"][0]
    return f"{'Sure' if triage['sure'] else 'Likely, not sure'}: {top['cause']}, {top['meaning']}."
