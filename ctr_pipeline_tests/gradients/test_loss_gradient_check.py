import pytest
import torch
from torch.nn import functional

from ctr_pipeline.gradients import LossView
from ctr_pipeline.gradients.core.loss_gradient_check import logit_gradient_ratio
from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy

B, T = 64, 2


def ratios(loss_of, loss_weights=(1.0, 3.0)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn((B, T), generator=generator, requires_grad=True)
    labels = torch.randint(-1, 2, (B, T), generator=generator).to(torch.int8)
    weights = torch.rand((B, T), generator=generator) + 0.5
    task_weights = torch.tensor(loss_weights)
    counts = (labels >= 0).sum(dim=0)
    loss = loss_of(logits, labels.clamp_min(0).float(), weights * (labels >= 0), task_weights, counts)
    (gradient,) = torch.autograd.grad(loss, logits)
    return ratio_of(logits.detach(), labels, weights, gradient, counts, task_weights)


def ratio_of(logits, labels, weights, gradient, counts, loss_weights) -> torch.Tensor:
    found = logit_gradient_ratio(
        LossView(
            logits=logits,
            labels=labels,
            weights=weights,
            gradient=gradient,
            counts=counts,
            loss_weights=loss_weights,
            formula=WeightedBinaryCrossEntropy(),
        )
    )
    assert found is not None
    return found


def bce(logits, targets):
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def test_one_for_the_weighted_mean_over_known_labels() -> None:
    found = ratios(lambda z, y, w, lw, n: ((bce(z, y) * w).sum(0) / n * lw).sum())
    assert len(found) > B
    assert (found - 1).abs().max() < 1e-4


def test_batch_size_for_a_sum() -> None:
    found = ratios(lambda z, y, w, lw, n: ((bce(z, y) * w).sum(0) * lw + 0 * n).sum())
    assert found.min() > 10


def test_minus_one_for_a_wrong_sign() -> None:
    found = ratios(lambda z, y, w, lw, n: -((bce(z, y) * w).sum(0) / n * lw).sum())
    assert (found + 1).abs().max() < 1e-4


def test_not_constant_for_a_second_sigmoid() -> None:
    found = ratios(lambda z, y, w, lw, n: ((bce(torch.sigmoid(z), y) * w).sum(0) / n * lw).sum())
    assert found.std() > 0.05


def test_a_task_that_the_loss_leaves_out_is_left_out() -> None:
    found = ratios(lambda z, y, w, lw, n: ((bce(z, y) * w).sum(0) / n * lw).sum(), (1.0, 0.0))
    assert 0 < len(found) < B
    assert (found - 1).abs().max() < 1e-4


@pytest.mark.parametrize("logit", [-60.0, 60.0])
def test_saturated_rows_are_left_out_where_they_say_nothing(logit: float) -> None:
    label = torch.tensor([[int(logit > 0)]], dtype=torch.int8)
    one = torch.ones((1, 1))
    assert len(ratio_of(torch.full((1, 1), logit), label, one, torch.zeros((1, 1)), one[0], one[0])) == 0
