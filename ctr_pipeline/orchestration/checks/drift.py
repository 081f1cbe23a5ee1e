"""Does a day look like the days before it? One check a symptom; docs/monitoring.md says what each sees."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from ctr_pipeline.orchestration.metadata import table

if TYPE_CHECKING:
    from ctr_pipeline.features.drift import Finding

SYMPTOMS = {
    "outcome_gap": "Outcomes arrive at every hour as they usually do.",
    "late_arrivals": "Few outcomes arrive more than 6 hours late.",
    "duplicate_delivery": "Impressions and outcomes are delivered once.",
    "feature_scale": "Numbers have their usual magnitude.",
    "missing_values": "Features have values as often as usual.",
    "unseen_categories": "Categories have values that were seen before.",
    "traffic_mix": "Positions, devices and other categories have their usual shares.",
    "suspicious_users": "No few users have much of the traffic, or outcomes that no person has.",
}
"""Name of each symptom that is looked for, and what holds where it is absent."""

SHOWN_DAYS, SHOWN_FINDINGS = 5, 3


def drift_check_specs(asset: str) -> list[dg.AssetCheckSpec]:
    """A warning for each symptom: nothing is stopped, since an unusual day may be a true one."""
    return [dg.AssetCheckSpec(name, asset=asset, description=text) for name, text in SYMPTOMS.items()]


def drift_checks(asset: str, findings: Iterable["Finding"], judged: int) -> list[dg.AssetCheckResult]:
    """The verdict on each symptom; its metadata lists the failing days in ``failing_days``.

    Args:
        asset: Asset that holds the profiles.
        findings: What was found on the days of the step.
        judged: Days that had enough days before them to be compared with.
    """
    found = list(findings)
    return [_check(asset, symptom, [f for f in found if f.symptom == symptom], judged) for symptom in SYMPTOMS]


def _check(asset: str, symptom: str, found: "Sequence[Finding]", judged: int) -> dg.AssetCheckResult:
    days = sorted({finding.day.isoformat() for finding in found})
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=symptom,
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "failing_days": dg.MetadataValue.json(days),
            "days_judged": judged,
            "findings": table(
                {"day": f.day.isoformat(), "name": f.name, "value": f.value, "usual": f.usual, "message": f.message}
                for f in found
            ),
        },
        description=_description(days, found) if found else None,
    )


def _description(days: Sequence[str], found: "Sequence[Finding]") -> str:
    texts = []
    for day in days[:SHOWN_DAYS]:
        of_day = [finding.message for finding in found if finding.day.isoformat() == day]
        more = f"; and {len(of_day) - SHOWN_FINDINGS} more" if len(of_day) > SHOWN_FINDINGS else ""
        texts.append(f"{day}: {'; '.join(of_day[:SHOWN_FINDINGS])}{more}.")
    if len(days) > SHOWN_DAYS:
        texts.append(f"Also {', '.join(days[SHOWN_DAYS:])}.")
    return " ".join(texts)
