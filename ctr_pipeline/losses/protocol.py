"""What a training loss and a task's objective must be able to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class Delays(NamedTuple):
    """Ages of the labels of a batch, for losses that learn from open ones.

    Attributes:
        elapsed: [B, T] seconds from the impression to the instant as of which the labels are taken; NaN where the pair
            of row and task is not looked at.
        delay: [B, T] seconds from the impression until the outcome was known; NaN while none is.
    """

    elapsed: Tensor
    delay: Tensor


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


@runtime_checkable
class DelayedLoss(Protocol):
    """A :class:`Loss` that learns from open labels too, once it has seen how long outcomes take."""

    def fit(self, delays: NDArray[np.floating[Any]]) -> DelayedLoss:
        """The loss of one task.

        Args:
            delays: [M] seconds from the impression until each outcome was known, of settled labels of training.
        """

    def task_sums(self, logits: Tensor, labels: Tensor, weights: Tensor, delays: Delays | None = None) -> Tensor:
        """[T] weighted sums over settled labels and, with ``delays``, over open ones."""

    def logit_gradient(self, logits: Tensor, labels: Tensor, weights: Tensor, delays: Delays | None = None) -> Tensor:
        """[B, T] derivative of the sums by formula; 0 where a label is not looked at."""


class Objective(Protocol):
    """What a task's labels mean to training: which are known, the loss, the validation metric, the start.

    All methods take the columns of one or several tasks that share the objective.
    """

    @property
    def loss(self) -> Loss:
        """The loss that training minimises."""

    def known_counts(self, labels: Tensor) -> Tensor:
        """[T] number of labels [B, T] that are known."""

    def validation_sums(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[S, T] float64 sums over the known labels from which the validation metric follows; S is the objective's.

        They add up over batches and processes.
        """

    def validation_metric(self, sums: Sequence[float]) -> tuple[float | None, float | None]:
        """From a task's S sums its mean loss and its loss relative to that of the best constant.

        Both do not depend on the training loss, so that runs with different losses compare. None where the labels
        cannot tell.
        """

    def starting_rate(self, labels: NDArray[np.int8]) -> float:
        """The constant that predicts a task's labels [N] best; the untrained model starts from it."""
