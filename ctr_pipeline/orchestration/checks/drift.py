"""Does a day look like the days before it? One check a symptom; docs/monitoring.md documents them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register
from ctr_pipeline.orchestration.metadata import table

if TYPE_CHECKING:
    from ctr_pipeline.features.drift_detection import Finding

SYMPTOMS = {
    "outcome_gap": "Outcomes arrive at every hour as they usually do.",
    "late_arrivals": "Few outcomes arrive more than 6 hours late.",
    "duplicate_delivery": "Impressions and outcomes are delivered once.",
    "feature_scale": "Numbers have their usual magnitude.",
    "missing_values": "Features have values as often as usual.",
    "unseen_categories": "Categories have values that were seen before.",
    "traffic_mix": "Positions, devices and other categories have their usual shares.",
    "anomalous_users": "No few users have much of the traffic, or outcomes that no person has.",
}
"""Name of each symptom that is looked for, and what holds where it is absent."""

SHOWN_DAYS, SHOWN_FINDINGS = 5, 3


@dataclass(frozen=True, slots=True)
class DriftEvidence:
    """What was found on the days of a step, and how many days had enough days before them to be compared with."""

    findings: "Sequence[Finding]"
    days_evaluated: int


def _check(symptom: str) -> CheckDefinition:
    """Whether a symptom is absent; the metadata lists the failing days. A warning: an unusual day may be a true one."""

    def evaluate(evidence: DriftEvidence) -> Outcome:
        found = [finding for finding in evidence.findings if finding.symptom == symptom]
        days = sorted({finding.day.isoformat() for finding in found})
        return Outcome(
            passed=not found,
            metadata={
                "failing_days": dg.MetadataValue.json(days),
                "days_evaluated": evidence.days_evaluated,
                "findings": table(
                    {"day": f.day.isoformat(), "name": f.name, "value": f.value, "usual": f.usual, "message": f.message}
                    for f in found
                ),
            },
            description=_description(days, found) if found else None,
        )

    return CheckDefinition(asset="profile", name=symptom, question=SYMPTOMS[symptom], evaluate=evaluate)


def _description(days: Sequence[str], found: "Sequence[Finding]") -> str:
    texts = []
    for day in days[:SHOWN_DAYS]:
        of_day = [finding.message for finding in found if finding.day.isoformat() == day]
        more = f"; and {len(of_day) - SHOWN_FINDINGS} more" if len(of_day) > SHOWN_FINDINGS else ""
        texts.append(f"{day}: {'; '.join(of_day[:SHOWN_FINDINGS])}{more}.")
    if len(days) > SHOWN_DAYS:
        texts.append(f"Also {', '.join(days[SHOWN_DAYS:])}.")
    return " ".join(texts)


register(*(_check(symptom) for symptom in SYMPTOMS))
