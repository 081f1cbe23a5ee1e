"""The report of a run as one HTML page that needs no other file, in the order in which a person asks.

Sections that nothing is known of are left out, so that reports of earlier versions, of a step in between and of runs that
failed are pages too.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

from ctr_pipeline.evaluation.html_page import document, folded, listed, table
from ctr_pipeline.evaluation.report_cells import interval
from ctr_pipeline.evaluation.report_change import change_section
from ctr_pipeline.evaluation.report_data import checks_section, data_section, propensity_section, provenance_section
from ctr_pipeline.evaluation.report_figures import ReportFiles, test_metrics
from ctr_pipeline.evaluation.report_metrics import days_section, metrics_section
from ctr_pipeline.evaluation.report_ranking import calibration_section, ranking_section
from ctr_pipeline.evaluation.report_slices import slices_section

OUTCOMES = {
    "promoted": ("good", "promoted"),
    "not_promoted": ("warning", "not promoted, the champion stays"),
    "refused": ("error", "refused: the model must not be served"),
    "failed": ("error", "failed"),
    "evaluated": ("warning", "evaluated, not released yet"),
}
"""Class and words of how a run ended."""

FIRST_MODEL = "There is no champion yet."
"""The reason of a promotion without a comparison."""

_STYLE = """
.lead { font-size: 1.1rem; margin: .4rem 0 1rem; } nav { margin: .8rem 0; } nav a { margin-right: .9rem; white-space: nowrap; display: inline-block; padding: .15rem 0; }
"""


def report_page(report: Mapping[str, Any], files: ReportFiles) -> str:
    """The page.

    Args:
        report: As `ctr run --json` writes it; keys may be absent.
        files: What the folder of the retrain holds beside it.
    """
    sections = {
        "outcome": ("Outcome", _outcome(report)),
        "change": ("What changed", change_section(report, files)),
        "metrics": ("Metrics", metrics_section(report)),
        "calibration": ("Calibration", calibration_section(report)),
        "ranking": ("Ranking", ranking_section(report, files)),
        "days": ("By day", days_section(report)),
        "slices": ("Slices", slices_section(report)),
        "data": ("Data", data_section(report, files)),
        "propensity": ("Position", propensity_section(report)),
        "checks": ("Checks", checks_section(report)),
        "provenance": ("Provenance", provenance_section(report, files)),
    }
    known = {name: of for name, of in sections.items() if of[1]}
    spec, day = report["spec"]["name"], report["days"]["last"]
    kind, words = OUTCOMES.get(_status(report), ("warning", _status(report)))
    parts = [
        f'<header><h1>{escape(spec)}, {escape(day)}: <span class="{kind}">{escape(words)}</span></h1></header>',
        f'<p class="lead">{escape(_sentence(report))}</p>',
        '<nav aria-label="Sections">'
        + " ".join(f'<a href="#{at}">{title}</a>' for at, (title, _) in known.items())
        + "</nav>",
        "<main>",
        *(f'<section id="{at}"><h2>{title}</h2>\n{content}\n</section>' for at, (title, content) in known.items()),
        "</main>",
    ]
    return document(f"{spec} {day}: {words}", parts, _STYLE)


def _status(report: Mapping[str, Any]) -> str:
    status = (report.get("outcome") or {}).get("status")
    if status:
        return str(status)
    # Reports of before the key.
    return "promoted" if report.get("model", {}).get("promoted") else "not_promoted"


def _reasons(report: Mapping[str, Any]) -> list[str]:
    outcome, model = report.get("outcome") or {}, report.get("model") or {}
    return [str(reason) for reason in model.get("reasons") or ([outcome["reason"]] if outcome.get("reason") else [])]


def _sentence(report: Mapping[str, Any]) -> str:
    """How the run ended and why."""
    outcome, model, status = report.get("outcome") or {}, report.get("model") or {}, _status(report)
    reasons = _reasons(report)
    why = reasons[0] if reasons else ""
    if status == "promoted":
        first = why == FIRST_MODEL
        return (
            f"Version {model.get('version')} is the champion. {'There was none before it.' if first else why}".strip()
        )
    if status == "not_promoted":
        return f"Version {model.get('version')} does not replace the champion. {why}".strip()
    if status == "evaluated":
        return "The model is evaluated. Whether it may go live is decided by the step `champion`."
    step = f"The step {outcome['step']} ended the run. " if outcome.get("step") else ""
    return f"{step}{outcome.get('reason') or why}"


def _outcome(report: Mapping[str, Any]) -> str:
    metrics = test_metrics(report)
    rows = [
        (task, f"{of['positives']:,}", *(interval(of.get(name)) for name in ("auc", "ap", "ne", "oe")))
        for task, of in metrics.items()
    ]
    heads = "task", "outcomes", "AUC", "average precision", "NE", "observed / expected"
    failed = [check for check in report.get("checks", ()) if not check["passed"]]
    errors = sum(check["severity"] == "ERROR" for check in failed)
    noted = (
        f'<p><a href="#checks">Checks that failed: {errors} with an error, {len(failed) - errors} with a warning</a></p>'
        if failed
        else ""
    )
    return (
        table(
            heads,
            rows,
            numbers=range(1, 6),
            caption="Test rows, with 95 % intervals; NE below 1 is better than the base rate",
        )
        + noted
        + _failure(report.get("training_failure") or {})
        + folded("All reasons", listed(_reasons(report)))
    )


def _failure(failure: Mapping[str, Any]) -> str:
    if not failure:
        return ""
    cause = failure.get("cause") or {}
    facts = [
        (name, str(cause[name])) for name in ("kind", "tensor", "feature", "row", "step") if cause.get(name) is not None
    ]
    findings = [f"{one['severity']} {one['name']}: {one['message']}" for one in failure.get("findings") or ()]
    return (
        f"<h3>Why the training failed</h3><p>{escape(str(failure.get('reason', '')))}</p>"
        + table(("cause", "value"), facts)
        + listed(findings)
        + (f"<p>Evidence: <code>{escape(str(failure['evidence']))}</code></p>" if failure.get("evidence") else "")
    )
