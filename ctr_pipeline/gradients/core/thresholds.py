"""A run's gradient health in numbers, and what to think of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

WARN_NORM_RATIO = 5.0
MAX_NORM_RATIO = 10.0
MAX_UPDATE_RATIO = 0.5
MAX_DEAD_SHARE = 0.5
MAX_CLIPPED_SHARE = 0.5
MAX_IDENTITY_ERROR = 1e-3

Severity = Literal["ok", "warn", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSummary:
    """What the monitor saw during a run.

    Attributes:
        steps: Steps seen.
        nonfinite: Steps with a loss or gradient that was not finite (skipped steps of the fp16 scaler not counted).
        scaler_skips: Steps that the fp16 loss scaler skipped.
        max_norm_ratio: Largest gradient norm relative to the running median before it.
        median_norm: Median gradient norm of the run's recorded steps.
        max_norm: Largest gradient norm.
        max_update_ratio: Largest ‖update‖/‖weights‖ over dense weight matrices and recorded steps.
        max_update_tensor: The matrix it was seen in.
        dead_unit_share: Share of each hidden layer's units through which no gradient passes, for all rows
            of the last recorded batch; empty when no hidden activation was observed.
        clipped_share: Share of the steps whose gradient was scaled down.
        identity_error: Largest |r − 1| of the logit-gradient identity over recorded steps.
    """

    steps: int
    nonfinite: int
    scaler_skips: int
    max_norm_ratio: float
    median_norm: float
    max_norm: float
    max_update_ratio: float
    max_update_tensor: str
    dead_unit_share: Mapping[str, float]
    clipped_share: float
    identity_error: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "dead_unit_share": dict(self.dead_unit_share)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HealthSummary":
        """Read what :meth:`to_dict` wrote."""
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Finding:
    """One judgement: a stable name, how bad it is, and a sentence with the numbers."""

    name: str
    severity: Severity
    message: str


def _grade(value: float, warn: float, error: float) -> Severity:
    return "error" if value > error else "warn" if value > warn else "ok"


def _dead_units(shares: Mapping[str, float]) -> Finding:
    if not shares:
        message = "dead units were not measured: no hidden activation was observed; expected only of a model without hidden layers"
        return Finding("dead_units", "warn", message)
    layer, dead = max(shares.items(), key=lambda item: item[1])
    return Finding(
        "dead_units",
        _grade(dead, MAX_DEAD_SHARE, float("inf")),
        f"{dead:.1%} of the units of {layer} let no gradient through on a whole batch "
        f"(warning above {MAX_DEAD_SHARE:.0%}); layers observed: {len(shares)}",
    )


def evaluate_health(summary: HealthSummary) -> list[Finding]:
    """Judge a run. Non-finite values are errors; the other limits are rules of thumb from healthy runs.

    Returns:
        One finding a rule, also where all is well.
    """
    never = float("inf")
    return [
        Finding(
            "nonfinite",
            "error" if summary.nonfinite else "ok",
            f"{summary.nonfinite} of {summary.steps} steps had a loss or gradient that was not finite",
        ),
        Finding(
            "norm_ratio",
            _grade(summary.max_norm_ratio, WARN_NORM_RATIO, MAX_NORM_RATIO),
            f"the gradient norm rose to {summary.max_norm_ratio:.3g} times its running median "
            f"(warning above {WARN_NORM_RATIO:g}, error above {MAX_NORM_RATIO:g})",
        ),
        Finding(
            "update_ratio",
            _grade(summary.max_update_ratio, MAX_UPDATE_RATIO, never),
            f"one update moved {summary.max_update_tensor or 'a weight matrix'} by {summary.max_update_ratio:.3g} of "
            f"its own norm (warning above {MAX_UPDATE_RATIO:g}: the learning rate may be too high)",
        ),
        _dead_units(summary.dead_unit_share),
        Finding(
            "clipped_steps",
            _grade(summary.clipped_share, MAX_CLIPPED_SHARE, never),
            f"{summary.clipped_share:.1%} of the steps were clipped (warning above {MAX_CLIPPED_SHARE:.0%}: "
            "the clip hides a gradient that is too large)",
        ),
        Finding(
            "logit_gradient_identity",
            _grade(summary.identity_error, MAX_IDENTITY_ERROR, MAX_IDENTITY_ERROR),
            f"the loss's gradient differed from weight · (σ(z) − y) / count by {summary.identity_error:.2g} at most "
            f"(error above {MAX_IDENTITY_ERROR:g}: the loss is not the mean cross-entropy)",
        ),
    ]
