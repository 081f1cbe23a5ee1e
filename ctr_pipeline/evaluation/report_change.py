"""Section of a run's report about the champion: the gates, what differs from it, and why."""

from collections.abc import Mapping
from html import escape
from typing import Any

from ctr_pipeline.evaluation.html_page import Html, figures, link, listed, table
from ctr_pipeline.evaluation.report_cells import NONE, change, difference, interval, shown
from ctr_pipeline.evaluation.report_figures import ReportFiles, champion_figure
from ctr_pipeline.evaluation.report_metrics import by_day

CLASSES = {"passed": "good", "failed": "error", "undecided": "warning"}
"""Class of each status of a gate."""

MOST_CAUSES = 3
"""Causes that are listed; the page about them has all."""


def change_section(report: Mapping[str, Any], files: ReportFiles) -> str:
    """The causes first, as they are what a failed check is asked about; then gates, differences from the champion as a whole, by day."""
    return _cause(files) + _gates(files.release) + _differences(report, files.release) + _days(report)


def _gates(release: Mapping[str, Any]) -> str:
    rows = [
        (
            Html(
                f"{escape(str(gate['name']).replace('_', ' '))}<br>"
                f'<span class="{CLASSES.get(gate["status"], "")}">{escape(str(gate["status"]))}</span>'
            ),
            Html(listed(gate["reasons"])) if len(gate["reasons"]) > 1 else " ".join(gate["reasons"]),
        )
        for gate in release.get("gates", ())
    ]
    return table(("gate", "what was found"), rows, caption="Gates of the promotion")


def _differences(report: Mapping[str, Any], release: Mapping[str, Any]) -> str:
    by_task: Mapping[str, Mapping[str, Any]] = release.get("differences") or {}
    # Comparisons of earlier versions have NE alone.
    known = [
        (at, head)
        for at, head in (("auc", "of AUC"), ("ap", "of average precision"))
        if any(at in of for of in by_task.values())
    ]
    rows = [
        (
            task,
            f"{of.get('positives', 0):,}",
            change(of.get("relative_ne") or of.get("relative")),
            *(difference(of.get(at)) for at, _ in known),
        )
        for task, of in by_task.items()
    ]
    heads = ("task", "outcomes", "change of NE", *(head for _, head in known))
    caption = "The new model against the champion on the same test rows; NE below 0 is better"
    if rows:
        return table(heads, rows, numbers=range(1, len(heads)), caption=caption)
    obstacle = (report.get("champion") or {}).get("obstacle")
    if obstacle:
        return f"<p>{escape(str(obstacle))}</p>"
    if not release:
        return ""
    first = release.get("champion_before") is None
    return "<p>There was no champion to compare with.</p>" if first else "<p>Nothing was compared.</p>"


def _days(report: Mapping[str, Any]) -> str:
    """The difference from the champion by day."""
    found = {
        task: {day: (of.get("ne_against_champion") or {}).get("relative") for day, of in days.items()}
        for task, days in by_day(report).items()
    }
    if not any(one for days in found.values() for one in days.values()):
        return ""
    return figures([shown(champion_figure(found), "Below 0 the new model predicts the day better.")])


def _cause(files: ReportFiles) -> str:
    """The headline of why the model changed and the first causes, with the way to the page about them."""
    found = files.attribution
    if not found:
        return ""
    title = '<h3 id="cause">Why the model changed</h3>'
    if not found.get("headline"):
        return f"{title}<p>{escape(str(found['reason']))}</p>" if found.get("reason") else ""
    causes = [
        f"{cause['sentence']} ({cause['certainty']}: {cause.get('how') or NONE}"
        + (f"; share of the change {interval(cause['share'])})" if cause.get("share") else ")")
        for cause in (found.get("causes") or ())[:MOST_CAUSES]
    ]
    way = f"<p>{link(files.attribution_page, 'Causes, evidence and details')}</p>" if files.attribution_page else ""
    with_what = f"<p>Compared with {escape(str(found['compared_with']))}.</p>" if found.get("compared_with") else ""
    return f'{title}<p class="lead">{escape(str(found["headline"]))}</p>{with_what}{listed(causes)}{way}'
