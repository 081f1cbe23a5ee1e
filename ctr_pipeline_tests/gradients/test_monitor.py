import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from ctr_pipeline.gradients import Finding, StepRecord, StepStart, StepView, Update
from ctr_pipeline.gradients.core.measurements import Block
from ctr_pipeline.gradients.core.monitor import GradientMonitor


def record(step: int, norm: float, *, clipped: bool = False, skipped: bool = False, ratio: float | None = None):
    return StepRecord(
        step=step, epoch=0, loss=0.5, task_losses={"click": 0.5}, grad_norm=norm, norm_ratio=ratio, clipped=clipped,
        skipped=skipped, learning_rate=1e-3, rows=12,
    )  # fmt: skip


def follow(monitor: GradientMonitor, norms: list[float], start: int = 0) -> None:
    for step, norm in enumerate(norms, start):
        monitor.begin(step)
        monitor.after_update(record(step, norm, ratio=monitor.norm_ratio(norm)), ["w"], [norm], None)


def test_ratio_is_to_the_median_of_the_last_norms(case) -> None:
    monitor = GradientMonitor(case.model, 10)
    follow(monitor, [1.0] * 10 + [3.0] * 9)
    assert monitor.norm_ratio(4.0) is None
    follow(monitor, [3.0], 19)
    assert monitor.norm_ratio(4.0) == pytest.approx(4.0 / 2.0)
    follow(monitor, [5.0] * 64, 20)
    assert monitor.norm_ratio(10.0) == pytest.approx(2.0)


def test_skipped_steps_are_no_history(case) -> None:
    monitor = GradientMonitor(case.model, 10)
    follow(monitor, [2.0] * 20)
    for step in range(20, 60):
        monitor.begin(step)
        monitor.after_update(record(step, float("inf"), skipped=True), [], [], None)
    assert monitor.norm_ratio(4.0) == pytest.approx(2.0)


def test_update_ratio_is_measured_on_the_weights(case) -> None:
    monitor = GradientMonitor(case.model, 1)
    monitor.begin(0)
    dense = [(n, p, p.detach().clone()) for n, p in case.model.named_parameters() if p.ndim == 2 and "table" not in n]
    with torch.no_grad():
        case.model.head.weight.mul_(1.25)
    updates = [Update(name, before, parameter.detach()) for name, parameter, before in dense]
    monitor.after_update(record(0, 1.0), [], [], None, updates)
    finding = monitor.report().finding("update_ratio")
    assert finding.numbers["max_update_ratio"] == pytest.approx(0.25, rel=1e-5)
    assert finding.numbers["max_update_tensor"] == "head.weight"
    ratios = {row[1]: row[4] for row in monitor.rows if row[2:4] == ("update", "ratio")}
    assert ratios["tower.0.linear.weight"] == 0.0
    assert ratios["head.weight"] == pytest.approx(0.25, rel=1e-5)
    sizes = {row[1]: row[4] for row in monitor.rows if row[2:4] == ("weight", "norm")}
    assert sizes["tower.0.linear.weight"] == pytest.approx(
        float(case.model.tower[0].linear.weight.detach().norm()), rel=1e-5
    )


def test_counts(case) -> None:
    monitor = GradientMonitor(case.model, 1)
    steps = [record(0, 1.0, clipped=True), record(1, float("inf"), skipped=True), record(2, 2.0, ratio=1.5)]
    for one in steps:
        monitor.begin(one.step)
        monitor.after_update(one, [], [], None)
    monitor.stop(record(3, float("nan")))
    report = monitor.report()
    numbers = report.numbers
    assert report.steps == numbers["steps"] == 4
    assert (numbers["nonfinite"], numbers["scaler_skips"], numbers["max_grad_norm"]) == (1, 1, 2.0)
    assert (numbers["clipped_share"], numbers["median_grad_norm"], numbers["max_norm_ratio"]) == (1 / 4, 1.5, 1.5)
    assert report.finding("nonfinite").severity == "error"
    assert "1 of 4 steps" in report.finding("nonfinite").message
    assert [one["step"] for one in monitor.ring] == [0, 1, 2, 3]


def test_the_ring_has_the_norms_of_each_tensor_and_the_record_those_of_logged_steps(case) -> None:
    monitor = GradientMonitor(case.model, 10, [], 1000)
    for step in range(70):
        monitor.begin(step)
        monitor.after_update(record(step, 1.0), ["a.weight", "b.weight"], [0.5, float(step)], None)
    ring = monitor.ring
    assert len(ring) == 64
    assert (ring[-1]["step"], ring[-1]["norms"]) == (69, {"a.weight": 0.5, "b.weight": 69.0})
    logged = [row for row in monitor.rows if row[1:4] == ("b.weight", "gradient", "norm")]
    assert logged == [(step, "b.weight", "gradient", "norm", float(step)) for step in range(0, 70, 10)]
    again = GradientMonitor(case.model, 10, [], 1000)
    again.load_state_dict(monitor.state_dict())
    assert again.ring == ring


def test_details_come_sooner_in_the_beginning(case) -> None:
    monitor = GradientMonitor(case.model, 20, [], 100)
    assert [step for step in range(250) if monitor.is_probe(step)] == [0, 5, 10, 20, 50, 100, 200]
    assert [step for step in range(12) if GradientMonitor(case.model, 4).is_probe(step)] == [0, 4, 8]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_statistic_that_is_no_number_is_an_error(case, value: float) -> None:
    monitor = GradientMonitor(case.model, 1)
    monitor.begin(0)
    block = Block("activation", [("tower.0", "q50")], torch.tensor([value]))
    monitor.after_update(record(0, 1.0), [], [], None, (), [block])
    finding = monitor.report().finding("nonfinite")
    assert (finding.severity, finding.step) == ("error", 0)
    assert f"q50 of activation tower.0 was {value} at step 0" in finding.message
    skipped = GradientMonitor(case.model, 1)
    skipped.begin(0)
    skipped.after_update(record(0, float("inf"), skipped=True), [], [], None, (), [block])
    assert skipped.report().finding("nonfinite").severity == "ok"


@pytest.mark.parametrize("loss", [0.5, float("nan"), float("-inf"), 1e300])
@pytest.mark.parametrize("ratio", [None, 1.25])
def test_a_line_of_the_log_is_the_record_as_json(loss: float, ratio: float | None) -> None:
    one = replace(
        record(3, 0.1, clipped=True, ratio=ratio), loss=loss, known_labels={"click": 7, "cart": 0}, batch_hash=12,
        task_losses={"click": 1 / 3, "cart": 1e-300},
    )  # fmt: skip
    assert one.to_json() == json.dumps(one.to_dict())


def test_state_continues_exactly(case) -> None:
    whole, first, second = (GradientMonitor(case.model, 3) for _ in range(3))
    norms = [0.5 + (7 * i % 11) / 11 for i in range(90)]
    follow(whole, norms)
    follow(first, norms[:50])
    second.load_state_dict(first.state_dict())
    follow(second, norms[50:], 50)
    assert second.report() == whole.report()
    assert list(second.ring) == list(whole.ring)
    assert second.rows == whole.rows
    assert len(whole.ring) == 64


class Reader:
    """Reads two tensors at every probed step."""

    name, question, blocking = "reader", "It reads.", False

    def __init__(self) -> None:
        self.received: list[list[float]] = []
        self.started: list[StepStart] = []

    def begin(self, start: StepStart) -> None:
        self.started.append(start)

    def observe(self, step: StepView) -> None:
        if step.probe is not None:
            step.read(torch.tensor([1.0, 2.0]), self.received.append)
            step.read(torch.full((2, 2), 7, dtype=torch.int8), self.received.append)

    def finding(self) -> Finding:
        return Finding("ok", "read", {"steps": -1})

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def test_what_detectors_read_comes_in_one_copy(case, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = [Reader(), Reader()]
    monitor = GradientMonitor(case.model, 2, readers)
    copies = []
    inner = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: copies.append(1) or inner(tensor))
    follow(monitor, [1.0, 1.0, 1.0])
    assert [reader.received for reader in readers] == [[[1.0, 2.0], [7.0] * 4] * 2] * 2
    assert len(copies) == 2
    assert readers[0].started == [StepStart(step=step, probed=step != 1) for step in range(3)]
    # Of equal names the first keeps the name alone.
    assert monitor.report().numbers == {"steps": 3, "reader.steps": -1}
