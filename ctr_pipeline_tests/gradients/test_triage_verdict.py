"""The finding of triage: sure of a cause is an error, a likely one is a warning, no cause is fine."""

import pytest

from ctr_pipeline.gradients.triage.causes import CAUSES
from ctr_pipeline.gradients.triage.hypothesis import Hypothesis, Triage
from ctr_pipeline.gradients.triage.verdict import NAME, WARN_SCORE, triage_finding


def named(score: float, *, sure: bool = False) -> Triage:
    top = Hypothesis(
        cause="hash_clip", score=score, evidence=("row 59 has 40 %", "more"), fix="build it", location="ad"
    )
    return Triage(hypotheses=(top,), sure=sure)


@pytest.mark.parametrize(
    ("found", "severity"),
    [
        (named(0.95, sure=True), "error"),
        (named(0.95), "warn"),
        (named(WARN_SCORE), "warn"),
        (named(WARN_SCORE - 0.01), "ok"),
        (Triage(), "ok"),
        (Triage(differing=("forward",)), "error"),
        (None, "warn"),
    ],
)
def test_severities(found: Triage | None, severity: str) -> None:
    finding = triage_finding(found, "no triage: KeyError: 1")
    assert (finding.name, finding.finding.severity) == (NAME, severity)


def test_it_says_cause_place_evidence_and_fix() -> None:
    finding = triage_finding(named(0.95, sure=True)).finding
    assert finding.message == (
        f"triage is sure of hash_clip at ad (score 0.95), {CAUSES['hash_clip'].meaning}: row 59 has 40 %. Fix: build it"
    )
    assert (finding.value, finding.limit, finding.tensor) == (0.95, WARN_SCORE, "ad")
    assert triage_finding(None, "no triage: KeyError: 1").finding.message == "no triage: KeyError: 1"
