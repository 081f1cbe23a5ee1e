"""Detectors of batches that are no random samples, and of learning rates that are not those of the schedule."""

import numpy as np
import pytest
import torch

from ctr_pipeline.gradients import AppliedRate, Finding, LossView, Probe, StepRecord, StepView
from ctr_pipeline.gradients.detectors import BatchComposition, LearningRate


def view(step: int, labels: torch.Tensor) -> StepView:
    loss = LossView(
        logits=torch.zeros(labels.shape), labels=labels, weights=torch.ones(labels.shape), gradient=torch.zeros(labels.shape),
        counts=(labels >= 0).sum(dim=0), loss_weights=torch.ones(labels.shape[1]), formula=None,  # type: ignore[arg-type]
    )  # fmt: skip
    record = StepRecord(
        step=step, epoch=0, loss=0.5, task_losses={"click": 0.4, "cart": 0.1}, grad_norm=1.0, norm_ratio=1.0, clipped=False,
        skipped=False, learning_rate=0.1, rows=len(labels),
    )  # fmt: skip
    return StepView(
        record=record, stopped=False, names=(), norms=(), probe=Probe(loss=loss, activations=(), updates=()),
        read=lambda values, receive: receive(values.tolist()), note=lambda *_: None,
    )  # fmt: skip


def observed(labels: np.ndarray, size: int) -> Finding:
    detector = BatchComposition()
    for step, start in enumerate(range(0, len(labels), size)):
        detector.observe(view(step, torch.from_numpy(labels[start : start + size])))
    again = BatchComposition()
    again.load_state_dict(detector.state_dict())
    assert again.finding() == detector.finding()
    return detector.finding()


def drawn(rates: tuple[float, float], seed: int, count: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 2)) < rates).astype(np.int8)
    labels[rng.random(count) < 0.2, 1] = -1
    return labels


@pytest.mark.parametrize("rates", [(0.25, 0.1), (0.01, 0.0005), (0.5, 0.0)])
@pytest.mark.parametrize("size", [20, 64, 2000])
def test_shuffled_rows_of_any_rate_and_batch_are_fine(rates: tuple[float, float], size: int) -> None:
    found = [observed(drawn(rates, seed), size).severity for seed in range(5)]
    assert found == ["ok"] * 5


def test_rows_in_the_order_of_their_outcome_are_an_error() -> None:
    labels = drawn((0.01, 0.004), 1)
    found = observed(labels[np.argsort(labels[:, 0], kind="stable")], 500)
    assert (found.severity, found.tensor) == ("error", "click")
    assert found.value is not None
    assert found.value > 100


def test_rates_that_follow_the_day_are_a_warning_at_least() -> None:
    rng = np.random.default_rng(1)
    rate = 0.1 * (1 + 0.5 * np.sin(np.arange(40_000) / 4000))
    labels = (rng.random(40_000) < rate).astype(np.int8)[:, None].repeat(2, axis=1)
    assert observed(labels, 500).severity != "ok"
    assert observed(rng.permutation(labels), 500).severity == "ok"


def test_without_steps_in_detail_nothing_is_said() -> None:
    assert BatchComposition().finding().severity == "ok"


@pytest.mark.parametrize(("wrong", "severity"), [(0, "ok"), (1, "warn"), (3, "error")])
def test_a_rate_that_is_not_that_of_the_schedule_is_found(wrong: int, severity: str) -> None:
    detector = LearningRate()
    for step in range(10):
        low = 0.0 if step >= 10 - wrong else 0.1
        detector.applied(step, [AppliedRate("AdamW", 0.1, low, 0.1), AppliedRate("SGD", 0.0, 0.0, 0.0)])
    found = detector.finding()
    assert found.severity == severity
    if wrong:
        assert (found.step, found.value) == (10 - wrong, 0.0)
        assert f"from step {10 - wrong} on: AdamW 0 times it" in found.message
    again = LearningRate()
    again.load_state_dict(detector.state_dict())
    assert again.finding() == found
