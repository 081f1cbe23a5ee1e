"""Limits that replace rules of thumb, and the comparison with the last good run."""

import pytest

from ctr_pipeline.gradients import StepRecord, registered_detectors
from ctr_pipeline.gradients.core.monitor import GradientMonitor
from ctr_pipeline.gradients.core.soft_limit import SoftLimit
from ctr_pipeline.gradients.detectors import DeadUnits, Departure, NormRatio


def follow(monitor: GradientMonitor, losses: list[float], norms: list[float]) -> None:
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        monitor.begin(step)
        record = StepRecord(
            step=step, epoch=0, loss=loss, task_losses={}, grad_norm=norm, norm_ratio=monitor.norm_ratio(norm),
            clipped=False, skipped=False, learning_rate=1e-3, rows=4096,
        )  # fmt: skip
        monitor.after_update(record, [], [], None)


@pytest.mark.parametrize(("limit", "severity"), [(None, "ok"), (3.0, "warn"), (6.0, "ok"), (20.0, "ok")])
def test_a_calibrated_limit_replaces_the_rule_of_thumb(case, limit: float | None, severity: str) -> None:
    monitor = GradientMonitor(case.model, 10**6, [NormRatio()])
    if limit is not None:
        monitor.calibrate({"norm_ratio": limit, "of_another": 1.0}, 20)
    follow(monitor, [0.5] * 40, [1.0] * 39 + [4.0])
    finding = monitor.report().finding("norm_ratio")
    assert (finding.severity, finding.limit) == (severity, 5.0 if limit is None else limit)
    assert ("calibrated on 20 healthy runs" in finding.message) == (limit is not None)


def test_an_error_needs_twice_the_calibrated_limit_where_that_is_more_than_the_rule() -> None:
    assert SoftLimit(5.0).error(10.0) == 10.0
    assert SoftLimit(2.0, 20).error(10.0) == 10.0
    assert SoftLimit(8.0, 20).error(10.0) == 16.0


def test_a_limit_of_dead_units_stays_below_that_of_its_error() -> None:
    detector = DeadUnits()
    detector.calibrate(SoftLimit(1.0, 20))
    assert detector._limit.value == 0.99


def test_soft_detectors_have_a_rule_and_findings_with_a_limit() -> None:
    soft = [made for made in registered_detectors() if hasattr(made, "calibrate")]
    assert {made.name for made in soft} == {"norm_ratio", "update_ratio", "dead_units", "clipped_steps", "departure"}
    for made in soft:
        assert made.rule > 0
        assert not made.blocking


@pytest.mark.parametrize(
    ("loss", "norm", "what", "severity"),
    [
        (1.0, 1.0, "loss", "ok"),
        (1.3, 4.0, "loss", "ok"),
        (1.6, 1.0, "loss", "warn"),
        (0.6, 1.0, "loss", "warn"),
        (1.0, 6.0, "grad_norm", "warn"),
        (1.0, 0.1, "grad_norm", "ok"),
    ],
)
def test_medians_at_the_same_steps_are_compared(case, loss: float, norm: float, what: str, severity: str) -> None:
    records = [{"step": step, "loss": 0.7 - step / 1000, "grad_norm": 2.0} for step in range(100)]
    records[7] = {"step": 7, "loss": None, "grad_norm": 2.0}
    monitor = GradientMonitor(case.model, 10**6, [Departure()])
    monitor.compare_with(records)
    # One wild step is no departure.
    losses = [loss * (0.7 - step / 1000) * (100.0 if step == 60 else 1.0) for step in range(120)]
    follow(monitor, losses, [2.0 * norm] * 120)
    finding = monitor.report().finding("departure")
    assert finding.severity == severity
    if severity == "warn":
        assert finding.tensor == what
        again = GradientMonitor(case.model, 10**6, [Departure()])
        again.load_state_dict(monitor.state_dict())
        assert again.report() == monitor.report()


def test_a_model_without_hidden_layers_has_no_dead_units(case) -> None:
    for hidden, severity in ((True, "warn"), (False, "ok")):
        monitor = GradientMonitor(case.model, 1, [DeadUnits()], hidden=hidden)
        follow(monitor, [0.5], [1.0])
        assert monitor.report().finding("dead_units").severity == severity
