"""Labels drawn towards their base rate: where the minimum lies, what it keeps, and which tasks and figures it leaves alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.losses.focal import FocalLoss
from ctr_pipeline.losses.label_smoothing import SmoothedBinaryCrossEntropy, base_rates
from ctr_pipeline.losses.multi_task import TaskObjectives
from ctr_pipeline.spec.losses import Focal
from ctr_pipeline.spec.objectives import Binary

TASKS = 3


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    labels = torch.randint(-1, 2, (50, TASKS)).to(torch.int8)
    return torch.randn((50, TASKS), dtype=torch.float64) * 3, labels, torch.rand((50, TASKS), dtype=torch.float64)


def minimiser(loss: SmoothedBinaryCrossEntropy, labels: Tensor, weights: Tensor) -> float:
    """The probability of least loss for rows that the model cannot tell apart, found by halving an interval."""
    low, high = torch.tensor(-30.0).double(), torch.tensor(30.0).double()
    for _ in range(100):
        middle = ((low + high) / 2).requires_grad_()
        loss.task_sums(middle.expand(len(labels), 1), labels, weights).sum().backward()
        assert middle.grad is not None
        low, high = (low, middle.detach()) if middle.grad > 0 else (middle.detach(), high)
    return float(torch.sigmoid(low))


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.4])
@pytest.mark.parametrize(("positives", "base"), [(3, 0.01), (3, 0.6), (0, 0.2), (20, 0.2), (5, 0.25)])
def test_the_minimum_is_between_the_rate_and_the_base_rate(smoothing: float, positives: int, base: float) -> None:
    labels = torch.tensor([[1]] * positives + [[0]] * (20 - positives) + [[-1]] * 5, dtype=torch.int8)
    found = minimiser(SmoothedBinaryCrossEntropy(smoothing, [base]), labels, torch.ones((25, 1)).double())
    rate = positives / 20
    assert found == pytest.approx(rate * (1 - smoothing) + smoothing * base, abs=1e-9)
    if rate == base:
        assert found == pytest.approx(rate, abs=1e-9)


def test_predictions_stay_calibrated_in_the_mean_of_the_weighted_rows() -> None:
    draw = np.random.default_rng(4)
    labels = draw.integers(-1, 2, (200, 1)).astype(np.int8)
    weights = np.where(labels == 1, 0.2, draw.random((200, 1))).astype(np.float32)
    smoothed = SmoothedBinaryCrossEntropy(0.3, base_rates(labels, weights))
    found = minimiser(smoothed, torch.from_numpy(labels), torch.from_numpy(weights).double())
    known = labels >= 0
    assert found == pytest.approx(np.average(labels[known] == 1, weights=weights[known]), abs=1e-6)


def test_base_rates_by_hand() -> None:
    labels = np.array([[1, 0, -1, 1], [0, 0, -1, 1], [-1, 0, -1, -1], [0, 0, -1, 1]], dtype=np.int8)
    weights = np.array([[2.0] * 4, [1.0] * 4, [9.0] * 4, [5.0] * 4], dtype=np.float32)
    assert base_rates(labels, weights) == [0.25, 0.0, 0.0, 1.0]


def test_base_rates_of_many_rows_are_those_of_all() -> None:
    labels = np.zeros(((1 << 20) + 3, 1), dtype=np.int8)
    labels[-3:] = labels[:1] = 1
    assert base_rates(labels, np.ones(labels.shape, dtype=np.float32)) == [4 / len(labels)]


def test_values_are_those_of_the_mixed_labels(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    """The cross-entropy is linear in its target, so that of the mixed label is the mix of those of both labels."""
    logits, labels, weights = batch
    plain = WeightedBinaryCrossEntropy()
    known = labels >= 0
    ones, zeros = torch.where(known, 1, labels), torch.where(known, 0, labels)
    rates = torch.tensor([0.1, 0.7, 0.3], dtype=torch.float64)
    of = [plain.task_sums(logits, of_labels, weights) for of_labels in (labels, ones, zeros)]
    found = SmoothedBinaryCrossEntropy(0.2, rates.tolist()).task_sums(*batch)
    torch.testing.assert_close(found, 0.8 * of[0] + 0.2 * (rates * of[1] + (1 - rates) * of[2]))


def test_other_losses_and_validation_are_as_without(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    sections = [Binary(), Binary(loss=Focal()), Binary()]
    rates = [0.1, 0.2, 0.3]
    objectives, plain = TaskObjectives(sections, None, 0.25, rates), TaskObjectives(sections)
    sums, gradient = objectives.task_sums(*batch), objectives.logit_gradient(*batch)
    assert gradient is not None
    for column, loss in enumerate([SmoothedBinaryCrossEntropy(0.25, [0.1]), FocalLoss(2.0), SmoothedBinaryCrossEntropy(0.25, [0.3])]):  # fmt: skip
        own = [tensor[:, column : column + 1] for tensor in batch]
        torch.testing.assert_close(sums[column], loss.task_sums(*own)[0])
        torch.testing.assert_close(gradient[:, column], loss.logit_gradient(*own)[:, 0])
    found, expected = (o.validation_metrics(o.validation_sums(*batch[:2])) for o in (objectives, plain))
    assert found == expected
    labels = batch[1].numpy()
    assert objectives.starting_rates(labels) == plain.starting_rates(labels)
    assert torch.equal(objectives.known_counts(batch[1]), plain.known_counts(batch[1]))
    assert torch.equal(TaskObjectives(sections, None, 0.0).task_sums(*batch), plain.task_sums(*batch))
