from dataclasses import replace

import pytest
import torch

from ctr_pipeline.gradients import GradientMonitor, HealthSummary, StepRecord, evaluate_health
from ctr_pipeline.ranker import build_ranker
from ctr_pipeline.spec.model import Model


def record(step: int, norm: float, *, clipped: bool = False, skipped: bool = False, ratio: float | None = None):
    return StepRecord(
        step=step, epoch=0, loss=0.5, task_losses={"click": 0.5}, grad_norm=norm, norm_ratio=ratio, clipped=clipped,
        skipped=skipped, learning_rate=1e-3, rows=12,
    )  # fmt: skip


def follow(monitor: GradientMonitor, norms: list[float], start: int = 0) -> None:
    for step, norm in enumerate(norms, start):
        monitor.begin(step)
        monitor.after_update(record(step, norm, ratio=monitor.norm_ratio(norm)), ["w"], [norm], 0.0)


def test_ratio_is_to_the_median_of_the_last_norms(case) -> None:
    monitor = GradientMonitor(case.model, 10)
    follow(monitor, [1.0] * 10 + [3.0] * 9)
    assert monitor.norm_ratio(4.0) is None
    follow(monitor, [3.0], 19)
    assert monitor.norm_ratio(4.0) == pytest.approx(4.0 / 2.0)
    follow(monitor, [5.0] * 64, 20)
    assert monitor.norm_ratio(10.0) == pytest.approx(2.0)


def test_update_ratio_is_measured_on_the_weights(case) -> None:
    monitor = GradientMonitor(case.model, 1)
    monitor.begin(0)
    dense = [(n, p) for n, p in case.model.named_parameters() if "table" not in n]
    monitor.before_update(dense)
    with torch.no_grad():
        case.model.head.weight.mul_(1.25)
    monitor.after_update(record(0, 1.0), [], [], 0.0)
    summary = monitor.summary()
    assert summary.max_update_ratio == pytest.approx(0.25, rel=1e-5)
    assert summary.max_update_tensor == "head.weight"
    ratios = {row[1]: row[4] for row in monitor.rows if row[2:4] == ("update", "ratio")}
    assert ratios["tower.0.weight"] == 0.0


def forward(monitor: GradientMonitor, case, step: int) -> None:
    monitor.begin(step)
    with monitor.forward():
        case.model(case.batch.numeric, case.batch.ids)
    monitor.after_update(record(step, 1.0), [], [], 0.0)


def test_dead_units_are_those_dead_on_all_rows(case) -> None:
    first = case.model.tower[0]
    with torch.no_grad():
        # Of eight units two never pass a gradient, three always do, and three for some rows only.
        first.weight[:5] = 0.0
        first.bias[:] = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    monitor = GradientMonitor(case.model, 2)
    outputs = first(case.model.encode(case.batch.numeric, case.batch.ids)[0])
    mixed = outputs[:, 5:] > 0
    assert bool((mixed.any(dim=0) & ~mixed.all(dim=0)).all())
    for step in (0, 1):
        forward(monitor, case, step)
    assert monitor.summary().dead_unit_share["tower.1"] == 2 / 8
    assert set(monitor.summary().dead_unit_share) == {"tower.1", "tower.4"}
    assert {row[0] for row in monitor.rows} == {0}


def test_dead_units_of_any_activation_are_counted(case) -> None:
    case.model.tower[1] = torch.nn.GELU()
    with torch.no_grad():
        case.model.tower[0].weight.zero_()
        case.model.tower[0].bias.fill_(-20.0)
    monitor = GradientMonitor(case.model, 1)
    forward(monitor, case, 0)
    assert monitor.summary().dead_unit_share["tower.1"] == 1.0
    finding = next(f for f in evaluate_health(monitor.summary()) if f.name == "dead_units")
    assert (finding.severity, "100.0% of the units of tower.1" in finding.message) == ("warn", True)


def test_an_ablated_tower_is_not_reported_as_healthy(case) -> None:
    model = build_ranker(case.layout, Model(embedding_dim=4, hidden=[]), 1)
    monitor = GradientMonitor(model, 1)
    monitor.begin(0)
    with monitor.forward():
        model(case.batch.numeric, case.batch.ids)
    monitor.after_update(record(0, 1.0), [], [], 0.0)
    finding = next(f for f in evaluate_health(monitor.summary()) if f.name == "dead_units")
    assert finding.severity == "warn"
    assert "not measured" in finding.message


def test_counts(case) -> None:
    monitor = GradientMonitor(case.model, 1)
    steps = [record(0, 1.0, clipped=True), record(1, float("inf"), skipped=True), record(2, 2.0)]
    for one in steps:
        monitor.begin(one.step)
        monitor.after_update(one, [], [], 2e-4 if one.step == 2 else 0.0)
    monitor.count_nonfinite(record(3, float("nan")))
    summary = monitor.summary()
    assert (summary.steps, summary.nonfinite, summary.scaler_skips, summary.max_norm) == (4, 1, 1, 2.0)
    assert summary.clipped_share == 1 / 4
    assert summary.median_norm == 1.5
    assert summary.identity_error == 2e-4


def test_state_continues_exactly(case) -> None:
    whole, first, second = (GradientMonitor(case.model, 3) for _ in range(3))
    norms = [0.5 + (7 * i % 11) / 11 for i in range(90)]
    follow(whole, norms)
    follow(first, norms[:50])
    second.load_state_dict(first.state_dict())
    follow(second, norms[50:], 50)
    assert second.summary() == whole.summary()
    assert list(second.ring) == list(whole.ring)
    assert second.rows == whole.rows
    assert len(whole.ring) == 64


HEALTHY = HealthSummary(
    steps=100, nonfinite=0, scaler_skips=0, max_norm_ratio=2.0, median_norm=0.1, max_norm=0.2, max_update_ratio=0.01,
    max_update_tensor="w", dead_unit_share={"tower.1": 0.1}, clipped_share=0.0, identity_error=1e-6,
)  # fmt: skip


def test_a_healthy_run_passes_every_rule() -> None:
    findings = evaluate_health(HEALTHY)
    assert {finding.severity for finding in findings} == {"ok"}
    assert len({finding.name for finding in findings}) == 6
    assert HealthSummary.from_dict(HEALTHY.to_dict()) == HEALTHY


@pytest.mark.parametrize(
    ("change", "name", "severity"),
    [
        ({"nonfinite": 1}, "nonfinite", "error"),
        ({"max_norm_ratio": 5.1}, "norm_ratio", "warn"),
        ({"max_norm_ratio": 10.1}, "norm_ratio", "error"),
        ({"max_update_ratio": 0.51}, "update_ratio", "warn"),
        ({"dead_unit_share": {"tower.1": 0.1, "tower.4": 0.51}}, "dead_units", "warn"),
        ({"dead_unit_share": {}}, "dead_units", "warn"),
        ({"clipped_share": 0.51}, "clipped_steps", "warn"),
        ({"identity_error": 0.0011}, "logit_gradient_identity", "error"),
    ],
)
def test_each_rule_judges_its_own_number(change, name: str, severity: str) -> None:
    findings = {finding.name: finding for finding in evaluate_health(replace(HEALTHY, **change))}
    assert findings.pop(name).severity == severity
    assert {finding.severity for finding in findings.values()} == {"ok"}
