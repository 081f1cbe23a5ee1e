"""What the requests of a day show, as one HTML page that needs no other file."""

from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from ctr_pipeline.evaluation.html_page import Html, document, image, plots, table
from ctr_pipeline.online.skew_kinds import MEANINGS

if TYPE_CHECKING:
    from ctr_pipeline.online.skew_findings import DayReport, Finding


def skew_page(report: "DayReport", images: Mapping[str, bytes]) -> str:
    """The page of a day.

    Args:
        report: What was found.
        images: PNG images by name.
    """
    named = list(dict.fromkeys(one.feature for one in report.findings))
    headline = f"{', '.join(named)} served otherwise than trained" if named else "Served as trained"
    parts = [
        f"<h1>{escape(report.day.isoformat())}: {escape(headline)}</h1>",
        f"<p>{report.requests:,} requests with {report.rows:,} candidates were looked at. Scores of {report.replayed_scores:,} "
        f"were computed again (largest difference {report.largest_score_difference:.2g}), inputs of {report.replayed_features:,}; "
        f"{report.compared_distributions:,} were compared with the training.</p>",
        _absent(report),
        _table(report.findings) if report.findings else "",
        _new_ids(report),
        plots(image(drawn, name) for name, drawn in images.items()),
    ]
    return document(f"Skew: {report.day}", parts)


def instant_text(instant: int) -> str:
    """An instant in microseconds as UTC date and time."""
    return datetime.fromtimestamp(instant // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _absent(report: "DayReport") -> str:
    if not report.absent_models:
        return ""
    listed = ", ".join(escape(sha[:12]) for sha in report.absent_models)
    return f"<p>The files of these models are gone, so that their requests were not looked at: {listed}.</p>"


def _table(findings: "tuple[Finding, ...]") -> str:
    heads = (
        "Feature",
        "Likely kind",
        "What that means",
        "Since (UTC)",
        "First request",
        "Requests",
        "Share of rows",
        "Seen by",
    )
    return "<h2>Features</h2>" + table(heads, map(_row, findings), numbers=(5, 6))


def _new_ids(report: "DayReport") -> str:
    """How many rows had ids that the model does not know, by day, beside the training."""
    if not report.cold:
        return ""
    days = sorted({day for one in report.cold for day in one.days})
    heads = ("Feature", "New values begin as", "In training", *(day.strftime("%d %b") for day in days))
    rows = (
        (one.feature, _beginning(one.parent), *map(_percent, (one.training, *map(one.days.get, days))))
        for one in report.cold
    )
    return "<h2>Rows with new ids</h2>" + table(heads, rows, numbers=range(2, len(heads)))


def _beginning(parent: str | None) -> str:
    return "all unknown ones" if parent is None else f"the mean of the same {parent}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"


def _row(one: "Finding") -> tuple[object, ...]:
    kind = f"{one.kind} ({one.detail})" if one.detail else one.kind
    grade = "error" if one.error else "warning"
    return (
        Html(f'<span class="{grade}">{escape(one.feature)}</span>'),
        kind,
        MEANINGS.get(one.kind, ""),
        instant_text(one.since),
        Html(f"<code>{escape(one.request_id[:12])}</code>"),
        f"{one.requests:,}",
        f"{one.share:.1%}",
        one.comparison.replace("_", " "),
    )
