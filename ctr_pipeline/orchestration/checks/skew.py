"""Do models get, while they serve, what training would give them?"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register
from ctr_pipeline.orchestration.metadata import table

if TYPE_CHECKING:
    from ctr_pipeline.online.cold_rows import ColdShare
    from ctr_pipeline.online.skew_findings import DayReport

QUESTIONS = {
    "score_replay": "Logged inputs through the logged model give the logged scores.",
    "feature_replay": "Logged inputs are those that training makes of the same impressions.",
    "distribution": "Logged inputs are distributed as in the training and on the days before.",
}
"""Name of each comparison, and what holds where it finds nothing."""

SHOWN = 5


@dataclass(frozen=True, slots=True)
class SkewEvidence:
    """The reports of the days of a step that have requests."""

    reports: "Sequence[DayReport]"


def _check(comparison: str) -> CheckDefinition:
    """Error when values are broken, warning when they only have other shares; days without requests pass."""

    def evaluate(evidence: SkewEvidence) -> Outcome:
        found = [one for report in evidence.reports for one in report.findings if one.comparison == comparison]
        absent = sorted({sha[:12] for report in evidence.reports for sha in report.absent_models})
        texts = [f"{one.text}." for one in found[:SHOWN]]
        if len(found) > SHOWN:
            others = dict.fromkeys(one.feature for one in found[SHOWN:])
            texts.append(f"Also {', '.join(others)}.")
        if absent and comparison == "score_replay":
            texts.append(f"Not replayed, as their files are gone: the models {', '.join(absent)}.")
        return Outcome(
            passed=not found,
            error=any(one.error for one in found),
            description=" ".join(texts) or None,
            metadata={
                "days_with_requests": len(evidence.reports),
                "requests": sum(report.requests for report in evidence.reports),
                "rows": sum(_rows(report, comparison) for report in evidence.reports),
                "findings": table(
                    {
                        "day": one.day.isoformat(),
                        "feature": one.feature,
                        "kind": f"{one.kind} {one.detail}".strip(),
                        "requests": one.requests,
                    }
                    for one in found
                ),
                **_new_ids(evidence, comparison),
            },
        )

    return CheckDefinition(asset="skew_report", name=comparison, question=QUESTIONS[comparison], evaluate=evaluate)


def cold_rows(shares: "Sequence[ColdShare]", day: date) -> list[dict[str, Any]]:
    """Rows of a table: how many rows of the day had unknown ids, beside the days before and the training."""
    return [
        {
            "feature": one.feature,
            "parent": one.parent or "–",
            "rows": f"{one.share(day):.2%}",
            "days_before": _share(_before(one, day)),
            "training": _share(one.training),
        }
        for one in shares
    ]


def _before(one: "ColdShare", day: date) -> float | None:
    earlier = [share for of, share in one.days.items() if of != day]
    return sum(earlier) / len(earlier) if earlier else None


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _new_ids(evidence: SkewEvidence, comparison: str) -> dict[str, Any]:
    """The table of the newest day with requests, as part of the distribution."""
    if comparison != "distribution" or not evidence.reports:
        return {}
    newest = max(evidence.reports, key=lambda report: report.day)
    return {"new_ids": table(cold_rows(newest.cold, newest.day))}


def _rows(report: "DayReport", comparison: str) -> int:
    return {
        "score_replay": report.replayed_scores,
        "feature_replay": report.replayed_features,
        "distribution": report.compared_distributions,
    }[comparison]


register(*(_check(comparison) for comparison in QUESTIONS))
