"""Each fault of a loss, made by autograd from a wrong loss, is called by its own name."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ctr_pipeline.gradients import LossView
from ctr_pipeline.gradients.core.loss_faults import LossFault, name_loss_fault
from ctr_pipeline.gradients.core.loss_gradient_check import compare_loss_gradient
from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy

B, T, CAP = 96, 2, 1.4


class Given(NamedTuple):
    """Logits, labels, limited and raw weights (0 where not known), weights and counts of the tasks, known labels."""

    z: Tensor
    y: Tensor
    w: Tensor
    raw: Tensor
    lw: Tensor
    n: Tensor
    known: Tensor


def bce(z: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(z, y, reduction="none")


def fault_of(
    loss: Callable[["Given"], Tensor], seed: int = 2, scale: float = 1.0, loss_weights=(1.0, 3.0)
) -> LossFault:
    """The fault of ``loss``; the right one is the weighted mean over known labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn((B, T), generator=generator) * scale).requires_grad_()
    labels = torch.randint(-1, 2, (B, T), generator=generator).to(torch.int8)
    raw = torch.rand((B, T), generator=generator) + 0.6
    weights, known = raw.clamp(max=CAP), labels >= 0
    counts, of_tasks = known.sum(dim=0), torch.tensor(loss_weights)
    target = labels.clamp_min(0).float()
    value = loss(Given(logits, target, weights * known, raw * known, of_tasks, counts, known))
    (gradient,) = torch.autograd.grad(value, logits)
    compared = compare_loss_gradient(
        LossView(
            logits=logits.detach(), labels=labels, weights=weights, gradient=gradient, counts=counts,
            loss_weights=of_tasks, formula=WeightedBinaryCrossEntropy(),
        )
    )  # fmt: skip
    assert compared is not None
    return name_loss_fault(compared, counts.tolist(), of_tasks.tolist(), B)


def mean(each: Tensor, lw: Tensor, n: Tensor) -> Tensor:
    return (each.sum(0) / n * lw).sum()


def shifted(y: Tensor) -> Tensor:
    return y.roll(1, 0)


FAULTS = {
    "sum_reduction": lambda c: ((bce(c.z, c.y) * c.w).sum(0) * c.lw).sum(),
    "sign_flip": lambda c: -mean(bce(c.z, c.y) * c.w, c.lw, c.n),
    "detached": lambda c: mean(bce(c.z.detach(), c.y) * c.w, c.lw, c.n) + 0 * c.z.sum(),
    "mean_over_rows": lambda c: ((bce(c.z, c.y) * c.w).mean(0) * c.lw).sum(),
    "task_weight_twice": lambda c: mean(bce(c.z, c.y) * c.w, c.lw * c.lw, c.n),
    "task_weight_missing": lambda c: mean(bce(c.z, c.y) * c.w, torch.ones(2), c.n),
    "loss_scale": lambda c: 65536 * mean(bce(c.z, c.y) * c.w, c.lw, c.n),
    "accumulation": lambda c: 4 * mean(bce(c.z, c.y) * c.w, c.lw, c.n),
    "scaled": lambda c: 0.37 * mean(bce(c.z, c.y) * c.w, c.lw, c.n),
    "weights_twice": lambda c: mean(bce(c.z, c.y) * c.w * c.w, c.lw, c.n),
    "weights_missing": lambda c: mean(bce(c.z, c.y) * c.known, c.lw, c.n),
    "weights_unclipped": lambda c: mean(bce(c.z, c.y) * c.raw, c.lw, c.n),
    "double_sigmoid": lambda c: mean(bce(torch.sigmoid(c.z), c.y) * c.w, c.lw, c.n),
    "squared_error": lambda c: mean((torch.sigmoid(c.z) - c.y).square() / 2 * c.w, c.lw, c.n),
    "clamped": lambda c: mean(bce(c.z.clamp(-1, 1), c.y) * c.w, c.lw, c.n),
    "labels_dropped": lambda c: mean(bce(c.z, c.y) * c.w * (torch.arange(B) % 3 > 0).unsqueeze(1), c.lw, c.n),
    "class_weights": lambda c: mean(bce(c.z, c.y) * c.w * (1 + 4 * c.y), c.lw, c.n),
    "labels_exchanged": lambda c: mean(bce(c.z, shifted(c.y)) * c.w, c.lw, c.n),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_own_name(name: str, seed: int) -> None:
    found = fault_of(FAULTS[name], seed)
    assert found.name == name, found


def test_messages_differ() -> None:
    messages = {name: fault_of(loss).message for name, loss in FAULTS.items()}
    assert len(set(messages.values())) == len(FAULTS)


@pytest.mark.parametrize("name", FAULTS)
def test_with_equal_task_weights_too(name: str) -> None:
    if not name.startswith("task_weight"):
        assert fault_of(FAULTS[name], 7, loss_weights=(1.0, 1.0)).name == name


def test_what_has_no_shape_is_called_unknown() -> None:
    noise = torch.rand((B, T), generator=torch.Generator().manual_seed(5)) + 0.5
    assert fault_of(lambda c: mean(bce(c.z, c.y) * c.w * noise, c.lw, c.n)).name == "unknown"


def test_a_logarithm_of_nothing() -> None:
    found = fault_of(
        lambda c: mean(
            -(c.y * torch.log(torch.sigmoid(c.z)) + (1 - c.y) * torch.log(1 - torch.sigmoid(c.z))) * c.w, c.lw, c.n
        ),
        scale=60.0,
    )
    assert found.name == "not_finite"


def test_a_gradient_of_unknown_labels_is_seen() -> None:
    def compared(closed: bool):
        generator = torch.Generator().manual_seed(4)
        logits = torch.randn((B, T), generator=generator)
        labels = torch.randint(-1, 2, (B, T), generator=generator).to(torch.int8)
        counts = (labels >= 0).sum(dim=0) + (0 if closed else 1)
        gradient = torch.full((B, T), 0.01)
        view = LossView(
            logits=logits, labels=labels, weights=torch.ones((B, T)), gradient=gradient, counts=counts,
            loss_weights=torch.ones(T), formula=WeightedBinaryCrossEntropy(),
        )  # fmt: skip
        found = compare_loss_gradient(view)
        assert found is not None
        return float(found.unknown)

    assert compared(closed=True) > 0.1
    # A loss of open labels counts more labels than are known.
    assert compared(closed=False) == 0.0
