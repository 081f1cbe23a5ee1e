"""What the requests of a day show, as one HTML page that needs no other file."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from ctr_pipeline.online.skew_kinds import MEANINGS

if TYPE_CHECKING:
    from ctr_pipeline.online.skew_findings import DayReport, Finding

_STYLE = """
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #222; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #e3e3e3; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid #e3e3e3; vertical-align: top; }
td.number { text-align: right; white-space: nowrap; } .scroll { overflow-x: auto; }
.error { color: #c1272d; font-weight: 600; } .warning { color: #8a5200; }
img { max-width: 100%; height: auto; } .plots { display: flex; flex-wrap: wrap; gap: 1rem; } .plots img { flex: 1 1 24rem; min-width: 18rem; max-width: 36rem; }
"""


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
        '<div class="plots">' + "".join(_image(name, image) for name, image in images.items()) + "</div>",
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Skew: {report.day}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


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
    rows = "".join(_row(one) for one in findings)
    return (
        '<h2>Features</h2><div class="scroll"><table><tr>'
        + "".join(f"<th>{head}</th>" for head in heads)
        + f"</tr>{rows}</table></div>"
    )


def _new_ids(report: "DayReport") -> str:
    """How many rows had ids that the model does not know, by day, beside the training."""
    if not report.cold:
        return ""
    days = sorted({day for one in report.cold for day in one.days})
    heads = ("Feature", "New values begin as", "In training", *(day.strftime("%d %b") for day in days))
    rows = "".join(
        f"<tr><td>{escape(one.feature)}</td><td>{escape(_beginning(one.parent))}</td>"
        + "".join(f'<td class="number">{_percent(share)}</td>' for share in (one.training, *map(one.days.get, days)))
        + "</tr>"
        for one in report.cold
    )
    return (
        '<h2>Rows with new ids</h2><div class="scroll"><table><tr>'
        + "".join(f"<th>{head}</th>" for head in heads)
        + f"</tr>{rows}</table></div>"
    )


def _beginning(parent: str | None) -> str:
    return "all unknown ones" if parent is None else f"the mean of the same {parent}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"


def _row(one: "Finding") -> str:
    kind = f"{one.kind} ({one.detail})" if one.detail else one.kind
    grade = "error" if one.error else "warning"
    return (
        f'<tr><td class="{grade}">{escape(one.feature)}</td><td>{escape(kind)}</td>'
        f"<td>{escape(MEANINGS.get(one.kind, ''))}</td><td>{instant_text(one.since)}</td>"
        f'<td><code>{escape(one.request_id[:12])}</code></td><td class="number">{one.requests:,}</td>'
        f'<td class="number">{one.share:.1%}</td><td>{escape(one.comparison.replace("_", " "))}</td></tr>'
    )


def _image(name: str, image: bytes) -> str:
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
