"""What a training loss must be able to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Protocol):
    """A loss of binary outcomes, given their logits. A task's loss depends on its own logits only.

    Both methods take:
        logits: [B, T] logits, float32 in training, float64 in checks; at most some tens in absolute value.
        labels: [B, T] int8: 1, 0, or -1 where the outcome is not known.
        weights: [B, T] finite weights of the rows, in the type of the logits.
    """

    def task_sums(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[T] weighted sums over the known labels of each task, differentiable by the logits.

        Sums and not means: several processes add theirs, and the trainer divides by the number of known labels in all
        of them. An unknown label adds exactly 0 to the sum and to every gradient
        (:func:`~ctr_pipeline.losses.masking.sum_known` sees to it).
        """

    def logit_gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor | None:
        """[B, T] derivative of the task's sum by each logit, by formula and without autograd; 0 where not known.

        The check of the loss gradient compares it with what autograd brought to the logits while training, so it must
        not be computed by autograd. None when there is no formula: then that check cannot be made.
        """
