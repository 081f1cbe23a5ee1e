"""Were the labels settled when they were used?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register

LATE_SHARE = 0.001
"""Largest share of late positives that is taken as normal."""
LATE_SIGNIFICANCE = 0.01


@dataclass(frozen=True, slots=True)
class MaturityEvidence:
    """How many of the test labels were settled."""

    share: float
    """Share of test rows and tasks whose outcomes had been delivered past their maturity."""
    limit: float
    """Smallest share that is enough (`quality.min_mature_test_share`)."""
    stopped_logs: Mapping[str, str]
    """Logs of outcomes that have stopped, each with the instant up to which it was delivered."""
    one_class: Sequence[str] = ()
    """A sentence for each task and part of the dataset without both classes."""


@dataclass(frozen=True, slots=True)
class LateEvidence:
    """Outcomes by task."""

    late: Mapping[str, int]
    """Those first known after their label counted as settled."""
    positives: Mapping[str, int]
    """All that count, late ones included."""


def check_test_maturity(evidence: MaturityEvidence) -> Outcome:
    """Error when the share of settled labels among the test rows and tasks is below the limit."""
    passed = evidence.share >= evidence.limit
    stopped = ", ".join(f"`{log}` up to {instant}" for log, instant in evidence.stopped_logs.items())
    return Outcome(
        passed=passed,
        error=True,
        metadata={"mature_share": evidence.share, "limit": evidence.limit, "stopped_logs": stopped or "none"},
        description=None
        if passed
        else f"Only {evidence.share:.2%} of the test labels are past their maturity; at least {evidence.limit:.2%} is needed."
        + (
            f" Logs have stopped: delivered is {stopped}. Read what they have sent since, or wait for it."
            if stopped
            else ""
        ),
    )


def check_both_classes(evidence: MaturityEvidence) -> Outcome:
    """Error that names the tasks and parts whose labels have one class only."""
    found = evidence.one_class
    return Outcome(
        passed=not found,
        error=True,
        metadata={"parts_with_one_class": len(found)},
        description=" ".join(
            [
                *found,
                "Such a model is made, but not promoted. Run on a longer log, make that part of `split` longer, or leave "
                "the task out; look at `tasks[].label` if there should be outcomes.",
            ]
        )
        if found
        else None,
    )


def check_late_rate(evidence: LateEvidence) -> Outcome:
    """Warning when the share of late positives surely exceeds the limit (one-sided exact binomial test, 1 %)."""
    from scipy.special import bdtrc

    late, positives = evidence.late, evidence.positives
    high = [
        task
        for task, count in late.items()
        if count and bdtrc(count - 1, positives[task], LATE_SHARE) < LATE_SIGNIFICANCE
    ]
    listed = ", ".join(f"{task} {late[task]} of {positives[task]}" for task in high)
    shares = {f"late_share/{task}": late[task] / max(1, n) for task, n in positives.items()}
    return Outcome(
        passed=not high,
        metadata={**shares, "limit": LATE_SHARE},
        description=f"Outcomes arrive after their window closed: {listed}. Raise split.ingest_lag." if high else None,
    )


register(
    CheckDefinition(
        asset="training_dataset",
        name="test_rows_mature",
        question="The labels of the test rows are settled.",
        evaluate=check_test_maturity,
        blocking=True,
    ),
    CheckDefinition(
        asset="training_dataset",
        name="both_classes",
        question="Every part of the dataset has positives and negatives of every task.",
        evaluate=check_both_classes,
    ),
    CheckDefinition(
        asset="labels",
        name="late_positive_rate",
        question="Few outcomes arrive after their window closed.",
        evaluate=check_late_rate,
    ),
)
