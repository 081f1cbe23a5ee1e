"""Is the model good enough to take over?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register

if TYPE_CHECKING:
    from ctr_pipeline.evaluation import Floor
    from ctr_pipeline.serving.latency import Latency

CALIBRATED_LOW, CALIBRATED_HIGH = 0.9, 1.1
"""Observed over expected outcomes between which a task counts as calibrated."""


@dataclass(frozen=True, slots=True)
class EvaluationEvidence:
    """How the model predicts the test rows."""

    normalised_entropy: Mapping[str, float | None]
    """By task, on the test rows; None where their labels are not of both classes."""
    not_better: Sequence[str]
    """A sentence for each task that is not shown to be predicted better than by its base rate."""
    observed_over_expected: Mapping[str, tuple[float, float, float]]
    """By task: value and 95 % interval."""
    metrics: Mapping[str, Mapping[str, Mapping[str, object]]]
    """Every metric, by task and split, as evaluation.json has them."""
    floor: "Floor"
    """How the model compares with what it has to beat."""
    errors: Sequence[str] = ()
    """A sentence for each check of an earlier asset of the same day that has an error."""


@dataclass(frozen=True, slots=True)
class BundleEvidence:
    """Largest differences between the exported graph and the trained model, and how long a request takes it."""

    passed: bool
    """Whether all differences are within their limits."""
    logit: float
    probability: float
    batch: float
    """Of a row's probability alone and in a batch."""
    latency: "Latency"
    """Of a request of the spec's size."""
    budget_ms: float | None
    """The spec's; None for no limit."""
    storage: "StoredEmbeddings"
    """What storing embeddings in fewer bytes changes."""


@dataclass(frozen=True, slots=True)
class StoredEmbeddings:
    """How embeddings are stored, and the largest change of a probability by that."""

    kind: str
    change: float
    most: float
    """The spec's limit."""


def check_informative(evidence: EvaluationEvidence) -> Outcome:
    """Error when a task is not shown to be predicted better than by its base rate."""
    found = evidence.not_better
    return Outcome(
        passed=not found,
        error=True,
        metadata={f"ne/{task}": ne for task, ne in evidence.normalised_entropy.items() if ne is not None},
        description=" ".join(found) or None,
    )


def check_validation(evidence: EvaluationEvidence) -> Outcome:
    """Error when the chosen epoch does not predict the validation rows better than the base rate."""
    found, mean = evidence.floor.validation_reasons, evidence.floor.validation_ne
    return Outcome(
        passed=not found,
        error=True,
        metadata={} if mean is None else {"validation_ne": mean},
        description=" ".join(found) or None,
    )


def check_position(evidence: EvaluationEvidence) -> Outcome:
    """Error when a task is not shown to be predicted better than by its position alone."""
    found, differences = evidence.floor.position_reasons, evidence.floor.position
    return Outcome(
        passed=not found,
        error=True,
        metadata={
            f"{name}/{task}": value
            for task, of in differences.items()
            if of is not None
            for name, value in (("ne_change", of.relative.value), ("outcomes", of.positives))
        },
        description=" ".join(found) or None,
    )


def check_earlier(evidence: EvaluationEvidence) -> Outcome:
    """Error when a check of an earlier asset of the same day has one."""
    return Outcome(passed=not evidence.errors, error=True, description=" ".join(evidence.errors) or None)


def check_calibrated(evidence: EvaluationEvidence) -> Outcome:
    """Warning when the interval of a task's observed/expected lies outside the limits."""
    intervals = evidence.observed_over_expected
    off = {task: oe for task, oe in intervals.items() if oe[2] < CALIBRATED_LOW or oe[1] > CALIBRATED_HIGH}
    listed = ", ".join(f"{task} {oe[0]:.3f} [{oe[1]:.3f}, {oe[2]:.3f}]" for task, oe in off.items())
    return Outcome(
        passed=not off,
        metadata={f"observed_over_expected/{task}": oe[0] for task, oe in intervals.items()},
        description=f"Outcomes are not as many as predicted: {listed}." if off else None,
    )


def check_parity(evidence: BundleEvidence) -> Outcome:
    """Error when the exported graph and the trained model disagree, or a row's score depends on its batch."""
    return Outcome(
        passed=evidence.passed,
        error=True,
        metadata={"logit": evidence.logit, "probability": evidence.probability, "batch": evidence.batch},
        description=f"logits differ by up to {evidence.logit:.1e}, probabilities by {evidence.probability:.1e}, "
        f"alone and in a batch by {evidence.batch:.1e}",
    )


def check_latency(evidence: BundleEvidence) -> Outcome:
    """Error when a request takes longer than the spec allows."""
    found, budget = evidence.latency, evidence.budget_ms
    took = f"{found.p99:.2f} ms of one core at the 99th percentile for {found.candidates:,} impressions"
    advice = (
        f"; the spec allows {budget:g} (`serving.budget_ms`). Choose a smaller `model`, or fewer `serving.candidates`"
        if not found.within(budget)
        else f" of the {budget:g} that the spec allows"
        if budget is not None
        else ""
    )
    return Outcome(
        passed=found.within(budget),
        error=True,
        metadata={"p50_ms": found.p50, "p99_ms": found.p99, "candidates": found.candidates},
        description=f"a request takes {took}{advice}",
    )


def check_storage(evidence: BundleEvidence) -> Outcome:
    """Error when the embeddings as they are stored change a probability by more than the spec allows."""
    found = evidence.storage
    passed = found.change <= found.most
    return Outcome(
        passed=passed,
        error=True,
        metadata={"probability": found.change},
        description=f"embeddings in {found.kind} change a probability by up to {found.change:.1e}; the spec allows {found.most:g} "
        "(`serving.max_storage_difference`)"
        + ("" if passed else ". Choose another `serving.embedding_storage`: fp16 changes less than int8, fp32 nothing"),
    )


register(
    CheckDefinition(
        asset="evaluation",
        name="no_earlier_errors",
        question="No check of the same day has an error.",
        evaluate=check_earlier,
        blocking=True,
    ),
    CheckDefinition(
        asset="evaluation",
        name="better_on_validation",
        question="The chosen epoch predicts the validation rows better than the base rate.",
        evaluate=check_validation,
        blocking=True,
    ),
    CheckDefinition(
        asset="evaluation",
        name="better_than_position",
        question="Every task is predicted better than by the rates of its logged positions.",
        evaluate=check_position,
        blocking=True,
    ),
    CheckDefinition(
        asset="evaluation",
        name="better_than_base_rate",
        question="The interval of every task's normalised entropy lies below 1.",
        evaluate=check_informative,
        blocking=True,
    ),
    CheckDefinition(
        asset="evaluation",
        name="observed_over_expected",
        question="Observed over expected outcomes is near 1 on the test.",
        evaluate=check_calibrated,
    ),
    CheckDefinition(
        asset="serving_bundle",
        name="export_parity",
        question="The exported graph scores as the trained model does.",
        evaluate=check_parity,
        blocking=True,
    ),
    CheckDefinition(
        asset="serving_bundle",
        name="stored_embeddings",
        question="Embeddings in fewer bytes change probabilities by no more than the spec allows.",
        evaluate=check_storage,
        blocking=True,
    ),
    CheckDefinition(
        asset="serving_bundle",
        name="latency_budget",
        question="Scoring a request stays within the spec's latency budget.",
        evaluate=check_latency,
        blocking=True,
    ),
)
