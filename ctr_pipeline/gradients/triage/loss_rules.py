"""What a training's loss says of causes: its gradient at made-up logits beside the one of the loss that is declared."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.core.loss_faults import FIT, name_loss_fault
from ctr_pipeline.gradients.core.loss_gradient_check import compare_loss_gradient
from ctr_pipeline.gradients.core.step_view import GradientFormula, LossView
from ctr_pipeline.gradients.triage.contract_rules import LOSS_FAULTS
from ctr_pipeline.gradients.triage.evidence import Clue

FAR = (30.0, 60.0)
UNCERTAIN = ("not_finite", "other_formula", "scaled", "scaled_by_task", "labels_exchanged", "unknown", "detached")
UNEQUAL = 20.0
"""Factor between the loss weights of two tasks above which one of them drowns the other."""

StepLoss = Callable[[Tensor, BatchView, Tensor], tuple[Tensor, Tensor]]
"""The loss as a step computes it: from logits [B, T], rows and known labels [T] the scalar, and each task's mean [T]."""


def loss_clues(
    loss: StepLoss, declared: GradientFormula, batch: BatchView, expected_weights: Tensor, tasks: Sequence[str]
) -> Iterator[Clue]:
    """Clues from the loss.

    Args:
        loss: The loss of the training.
        declared: The loss that its spec declares.
        batch: Some rows. Those whose labels are not known count.
        expected_weights: [T] weights of the tasks that its spec declares.
        tasks: [T] names.
    """
    generator = torch.Generator().manual_seed(7)
    shape = batch.labels.shape
    # Spread out: near 0, where an untrained model is, a second sigmoid looks like a factor. Weights that differ, so that it
    # shows whether they are applied.
    logits = 2 * torch.randn(shape, generator=generator)
    weights = 0.5 + torch.rand(shape, generator=generator)
    # Settled labels alone: of open ones the formula depends on their age.
    rows = BatchView(
        numeric=batch.numeric, ids=batch.ids, labels=batch.labels, weights=weights, rows=batch.rows, position=batch.position
    )  # fmt: skip
    counts = (rows.labels >= 0).sum(dim=0)
    gradient = _gradient(loss, logits, rows, counts)
    compared = compare_loss_gradient(
        LossView(
            logits=logits, labels=rows.labels, weights=weights, gradient=gradient, counts=counts,
            loss_weights=expected_weights, formula=declared,
        )
    )  # fmt: skip
    holds = True
    if compared is not None and len(compared.ratio):
        wrong = float((compared.ratio - 1).abs().max())
        stray = float(compared.unknown)
        if not wrong <= FIT:
            holds = False
            fault = name_loss_fault(compared, counts.tolist(), expected_weights.tolist(), len(logits))
            yield from _named(fault.name, fault.message)
        if not stray <= FIT:
            holds = holds and stray <= FIT
            text = f"labels that are not known have a gradient, {stray:.3g} times the largest one of those that are"
            # Where the others have another gradient too, the loss is another one.
            right = bool(wrong <= FIT)
            yield Clue(cause="unknown_as_zero", weight=0.9 if right else 0.5, text=text, separating=right)
    yield from _range_clues(loss, rows, counts, tasks, holds)
    yield from _empty_clues(loss, logits, rows, tasks, holds)


def step_loss_clues(loss: LossView, form: str) -> Iterator[Clue]:
    """Clues from a step whose gradient at the logits is not that of the declared loss.

    Args:
        loss: The step's logits, labels and weights, and the gradient that reached the logits.
        form: In which form it differs, a clause.
    """
    compared = compare_loss_gradient(loss)
    right = compared is not None and len(compared.ratio) and float((compared.ratio - 1).abs().max()) <= FIT
    if compared is not None and right and not float(compared.unknown) <= FIT:
        text = f"labels that are not known have a gradient, {float(compared.unknown):.3g} times the largest one of those that are"
        yield Clue(cause="unknown_as_zero", weight=0.9, text=text, separating=True)
    elif compared is not None and len(compared.ratio) and not float((compared.ratio - 1).abs().max()) <= FIT:
        fault = name_loss_fault(compared, loss.counts.tolist(), loss.loss_weights.tolist(), len(loss.logits))
        # Near 0, where a young model's logits are, another formula may look like a factor.
        narrow = float(loss.logits.std()) < 0.5 and fault.name in ("scaled", "scaled_by_task")
        sure = fault.name not in UNCERTAIN and not narrow
        text = f"the gradient at the logits of a step is not that of the declared loss: {fault.message}"
        cause = "loss_scaled" if fault.name == "scaled" else LOSS_FAULTS.get(fault.name, "loss_differs")
        yield Clue(cause=cause, weight=0.93 if sure else 0.7, text=text, separating=sure)
    else:
        text = f"the gradient at the logits of a step is not that of the declared loss: {form}"
        yield Clue(cause="loss_differs", weight=0.76, text=text)


def _named(name: str, message: str) -> Iterator[Clue]:
    text = f"the gradient at made-up logits is not that of the declared loss: {message}"
    cause = LOSS_FAULTS.get(name, "wrong_loss")
    sure = name not in UNCERTAIN
    if name == "scaled":
        cause = "loss_scaled"
    yield Clue(cause=cause, weight=0.93 if sure else 0.7, text=text, separating=sure)


def _gradient(loss: StepLoss, logits: Tensor, rows: BatchView, counts: Tensor) -> Tensor:
    own = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(own, rows, counts)[0], own, allow_unused=True)
    return torch.zeros_like(own) if found is None else found


def _range_clues(loss: StepLoss, rows: BatchView, counts: Tensor, tasks: Sequence[str], holds: bool) -> Iterator[Clue]:
    for size in FAR:
        for value in (size, -size):
            own = torch.full_like(rows.weights, value, requires_grad=True)
            total, means = loss(own, rows, counts)
            (gradient,) = torch.autograd.grad(total, own, allow_unused=True)
            if gradient is None:
                return
            wrong = (rows.labels == (0 if value > 0 else 1)) & (gradient == 0)
            bad = ~torch.isfinite(means) | ~torch.isfinite(gradient).all(dim=0) | wrong.any(dim=0)
            if bool(bad.any()):
                task = int(bad.nonzero()[0])
                what = (
                    f"{means[task].item():g}"
                    if not bool(torch.isfinite(means[task]))
                    else "flat where the prediction is wrong"
                )
                text = f"at logits of {value:g} the loss of task {tasks[task]} is {what}" + (
                    ", and at moderate ones it is the declared loss" if holds else ""
                )
                yield Clue(
                    cause="log0", weight=0.93 if holds else 0.5, text=text, location=tasks[task], separating=holds
                )
                return


def _empty_clues(loss: StepLoss, logits: Tensor, rows: BatchView, tasks: Sequence[str], holds: bool) -> Iterator[Clue]:
    for task, name in enumerate(tasks):
        labels = rows.labels.clone()
        labels[:, task] = -1
        emptied = BatchView(
            numeric=rows.numeric, ids=rows.ids, labels=labels, weights=rows.weights, rows=rows.rows, position=rows.position
        )  # fmt: skip
        own = logits.clone().requires_grad_()
        total, means = loss(own, emptied, (labels >= 0).sum(dim=0))
        (gradient,) = torch.autograd.grad(total, own, allow_unused=True)
        if gradient is None:
            return
        column = gradient[:, task].abs().max()
        if float(means[task].detach()) == 0 and float(column) == 0 and bool(torch.isfinite(gradient).all()):
            continue
        text = f"without a known label of task {name} its loss is {float(means[task].detach()):g}, and exactly 0 is expected"
        finite = bool(torch.isfinite(total)) and bool(torch.isfinite(gradient).all())
        yield Clue(
            cause="mask_empty", weight=0.9 if holds or not finite else 0.5, text=text, location=name, separating=holds
        )
        return


def task_weight_clues(found: Tensor, declared: Tensor, tasks: Sequence[str]) -> Iterator[Clue]:
    """Clues from the weights of the tasks in the loss, as they are used and as the spec declares them."""
    for task, own, wanted in zip(tasks, found.tolist(), declared.tolist(), strict=True):
        if abs(own - wanted) > 1e-6 * max(abs(wanted), 1):
            text = f"the loss weight of task {task} is {own:g}, and {wanted:g} is declared"
            yield Clue(cause="task_weight_huge", weight=0.9, text=text, location=task, separating=True)
            return
    positive = [value for value in found.tolist() if value > 0]
    if positive and max(positive) / min(positive) > UNEQUAL:
        at = int(found.argmax())
        text = f"the loss weight of task {tasks[at]} is {max(positive) / min(positive):.3g} times that of another one"
        yield Clue(cause="task_weight_huge", weight=0.85, text=text, location=tasks[at], separating=True)
