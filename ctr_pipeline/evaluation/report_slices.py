"""Section of a run's report about the slices: declared ones, and those that a search found."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ctr_pipeline.evaluation.html_page import figures, folded, table
from ctr_pipeline.evaluation.report_cells import change, interval, shown
from ctr_pipeline.evaluation.report_figures import slices_figure

MOST_ROWS = 40
"""Rows of a table of slices."""


def slices_section(report: Mapping[str, Any]) -> str:
    """Where the model is wrong although it is right on average."""
    by_task: Mapping[str, Sequence[Mapping[str, Any]]] = report.get("slices", {})
    searched = _searched(report.get("slices_found") or {})
    if not any(by_task.values()):
        return searched
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
        + searched
        + folded("Slices in numbers, the least likely ones first", _slice_table(every))
    )


def _searched(by_task: Mapping[str, Mapping[str, Any]]) -> str:
    """What the search over features and their pairs found."""
    if not by_task:
        return ""
    rows = [
        (
            task, " and ".join(f"{of['feature']}: {of['value']}" for of in one["conditions"]), f"{one['rows']:,}",
            f"{one['positives']:,}", interval(one["oe"]), f"{one['relative']:.3f}",
            change((one.get("ne_against_champion") or {}).get("relative")),
        )
        for task, search in by_task.items()
        for one in search["found"]
    ]  # fmt: skip
    tried = "; ".join(
        f"{task} {of['searched']:,} searched, {of['proposed']:,} proposed" for task, of in by_task.items()
    )
    sentence = (
        f"<h3>Found by search</h3><p>Values of features and of their pairs; one half of the users proposes, the other confirms. "
        f"{escape(tried)}. {'Confirmed:' if rows else 'None was confirmed.'}</p>"
    )
    heads = (
        "task",
        "slice",
        "rows",
        "outcomes",
        "observed / expected",
        "over that of all rows",
        "NE against the champion",
    )
    return sentence + table(heads, rows, numbers=range(2, 7))


def _slice_table(found: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    heads = "task", "slice", "rows", "outcomes", "observed / expected", "NE", "p"
    rows = [
        (task, f"{one['dimension']}: {one['value']}", f"{one['rows']:,}", f"{one['positives']:,}", interval(one["oe"]),
         interval(one["ne"]), f"{one['p_value']:.2g}")
        for task, one in found
    ]  # fmt: skip
    return table(heads, rows, numbers=range(2, 7))
