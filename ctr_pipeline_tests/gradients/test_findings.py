"""NaN breaks every limit, and findings are named by what explains most."""

import math

import pytest

from ctr_pipeline.gradients import Finding, HealthReport, NamedFinding, exceeds, grade, registered_detectors, strongest
from ctr_pipeline.gradients.detectors import Divergence


@pytest.mark.parametrize(
    ("value", "severity"), [(0.9, "ok"), (1.1, "warn"), (2.1, "error"), (math.inf, "error"), (math.nan, "error")]
)
def test_no_limit_holds_for_nan(value: float, severity: str) -> None:
    assert grade(value, 1.0, 2.0) == severity
    # Not even where only warnings are given.
    assert grade(value, 1.0) == ("error" if math.isnan(value) else "warn" if value > 1 else "ok")


def test_nan_is_worse_than_any_number_and_stays() -> None:
    assert exceeds(math.nan, math.inf)
    assert exceeds(2.0, 1.0)
    assert not exceeds(1.0, 1.0)
    assert not exceeds(math.inf, math.nan)
    assert not exceeds(math.nan, math.nan)


def named(name: str, severity, value: float | None, limit: float | None, *, consequence: bool = False) -> NamedFinding:
    return NamedFinding(
        name=name, finding=Finding(severity, name, value=value, limit=limit, tensor="w"), consequence=consequence
    )


def test_causes_come_before_consequences_errors_before_warnings_and_the_stronger_first() -> None:
    findings = (
        named("fine", "ok", 0.1, 1.0),
        named("not_finite", "error", 1.0, 0.0, consequence=True),
        named("mild", "warn", 50.0, 1.0),
        named("norm", "error", 205.0, 5.0),
        named("update", "error", 1940.0, 0.5),
        named("nothing_compared", "warn", None, None),
    )
    expected = ["update", "norm", "mild", "nothing_compared", "not_finite"]
    assert [found.name for found in strongest(findings)] == expected
    report = HealthReport(steps=3, findings=findings)
    assert [found.name for found in report.strongest] == expected
    assert findings[4].to_dict() == {
        "name": "update", "severity": "error", "message": "update", "step": None, "tensor": "w", "value": 1940.0,
        "limit": 0.5,
    }  # fmt: skip
    assert findings[2].finding.strength == 50.0
    assert named("n", "error", math.nan, 1.0).finding.strength == math.inf


@pytest.mark.parametrize(
    ("losses", "severity", "task"),
    [
        ([{"click": 0.8, "cart": 1.1}], "ok", "cart"),
        ([{"click": 1.4, "cart": None}], "warn", "click"),
        ([{"click": 47.0, "cart": 49.0}], "error", "cart"),
        ([{"click": 47.0, "cart": 49.0}, {"click": 0.9, "cart": 0.8}], "ok", "click"),
        ([{"click": math.nan, "cart": 0.9}], "error", "click"),
    ],
)
def test_the_best_validation_decides_on_divergence(losses, severity: str, task: str) -> None:
    detector, again = Divergence(), Divergence()
    assert detector.finding().severity == "ok"
    for step, relative in enumerate(losses, 1):
        detector.validated(step, relative)
    finding = detector.finding()
    assert (finding.severity, finding.tensor, finding.step) == (severity, task, len(losses))
    again.load_state_dict(detector.state_dict())
    assert again.finding() == finding


def test_which_detectors_stop_a_training() -> None:
    stopping = {d.name for d in registered_detectors() if getattr(d, "stops", False)}
    assert stopping == {"loss_gradient", "update_ratio", "learning_rate"}
