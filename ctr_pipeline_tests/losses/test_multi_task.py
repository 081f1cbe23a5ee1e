"""Tasks with equal objectives are computed together, others apart; the columns keep their order."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ctr_pipeline.losses import register_loss
from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.losses.focal import FocalLoss
from ctr_pipeline.losses.multi_task import TaskObjectives
from ctr_pipeline.spec.losses import LOSSES, Focal
from ctr_pipeline.spec.objectives import Binary

SEEN: list[tuple[int, ...]] = []


class WithoutFormula(WeightedBinaryCrossEntropy):
    def task_sums(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        SEEN.append(tuple(logits.shape))
        return super().task_sums(logits, labels, weights)

    def logit_gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> None:  # type: ignore[override]  # noqa: ARG002
        return None


MIXED = [Binary(loss=Focal()), Binary(), Binary(loss=Focal()), Binary()]


@pytest.fixture
def without(own_losses: None) -> Binary:
    """An objective whose loss has no formula for its gradient."""
    register_loss("without_formula", WithoutFormula)
    return Binary(loss=LOSSES.sections["without_formula"]())


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    labels = torch.randint(-1, 2, (40, 4)).to(torch.int8)
    return torch.randn((40, 4), dtype=torch.float64), labels, torch.rand((40, 4), dtype=torch.float64)


def test_each_task_has_its_own_loss(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    objectives = TaskObjectives(MIXED)
    focal, plain = FocalLoss(2.0), WeightedBinaryCrossEntropy()
    for column, loss in enumerate([focal, plain, focal, plain]):
        own = [tensor[:, column : column + 1] for tensor in batch]
        torch.testing.assert_close(objectives.task_sums(*batch)[column], loss.task_sums(*own)[0])
        gradient = objectives.logit_gradient(*batch)
        assert gradient is not None
        torch.testing.assert_close(gradient[:, column], loss.logit_gradient(*own)[:, 0])


def test_a_gradient_flows_to_the_column_that_it_belongs_to(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    objectives = TaskObjectives(MIXED)
    logits = batch[0].clone().requires_grad_()
    scale = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    (objectives.task_sums(logits, *batch[1:]) * scale).sum().backward()
    expected = objectives.logit_gradient(*batch)
    assert expected is not None
    torch.testing.assert_close(logits.grad, expected * scale)


def test_equal_objectives_are_computed_at_once_and_to_the_bit_as_without(
    batch: tuple[Tensor, Tensor, Tensor], without: Binary
) -> None:
    SEEN.clear()
    found = TaskObjectives([without] * 4).task_sums(*batch)
    assert SEEN == [(40, 4)]
    assert torch.equal(found, WeightedBinaryCrossEntropy().task_sums(*batch))
    SEEN.clear()
    TaskObjectives([without, Binary(), without, without]).task_sums(*batch)
    assert SEEN == [(40, 3)]


def test_a_task_without_a_formula_has_no_gradient_to_compare(
    batch: tuple[Tensor, Tensor, Tensor], without: Binary
) -> None:
    assert TaskObjectives([without] * 4).logit_gradient(*batch) is None
    found = TaskObjectives([Binary(), without, Binary(), Binary()]).logit_gradient(*batch)
    assert found is not None
    assert torch.count_nonzero(found, dim=0).tolist()[1] == 0
    assert (torch.count_nonzero(found, dim=0) > 0).tolist() == [True, False, True, True]


def test_validation_is_that_of_the_log_loss_whatever_was_trained(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, _ = batch
    labels = labels.clone()
    labels[:, 2], labels[:, 3] = -1, 0
    objectives = TaskObjectives(MIXED)
    halves = [objectives.validation_sums(logits[part], labels[part]) for part in (slice(0, 7), slice(7, 40))]
    found = objectives.validation_metrics([a + b for a, b in zip(*halves, strict=True)])
    for column, (loss, entropy) in enumerate(found[:2]):
        known = labels[:, column] >= 0
        y, p = labels[known, column].double(), torch.sigmoid(logits[known, column])
        expected = float(-(y * p.log() + (1 - y) * (1 - p).log()).mean())
        rate = float(y.mean())
        assert loss == pytest.approx(expected)
        assert entropy == pytest.approx(expected / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))
    assert found[2] == (None, None)
    assert found[3][1] is None
    assert found[3][0] is not None


def test_starting_rates_are_those_of_the_known_labels() -> None:
    labels = np.array([[1, 0, -1, -1], [0, 0, 1, -1], [-1, 0, 1, -1]], dtype=np.int8)
    assert TaskObjectives(MIXED).starting_rates(labels) == [0.5, 0.0, 1.0, 0.0]
    assert TaskObjectives([Binary()] * 4).known_counts(torch.from_numpy(labels)).tolist() == [2, 3, 2, 0]
    assert TaskObjectives(MIXED).known_counts(torch.from_numpy(labels)).tolist() == [2, 3, 2, 0]
