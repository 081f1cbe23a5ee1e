"""The training loss: cross-entropy of every task over the labels that are known."""

from torch import Tensor
from torch.nn import functional


def task_loss_sums(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """[T] weighted sums of binary cross-entropy over the known labels of each task.

    Args:
        logits: [B, T] float32 logits.
        labels: [B, T] 1, 0, or -1 where not known (masked).
        weights: [B, T] weights.
    """
    known = labels >= 0
    target = labels.clamp_min(0).to(logits.dtype)
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # where and not a product: a masked row must add exactly 0 even if its own term were not finite.
    return (each * weights).where(known, each.new_zeros(())).sum(dim=0)


def known_counts(labels: Tensor) -> Tensor:
    """[T] number of known labels of each task."""
    return (labels >= 0).sum(dim=0)


def multi_task_loss(sums: Tensor, counts: Tensor, loss_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its parts.

    Args:
        sums: [T] this process's sums of :func:`task_loss_sums`.
        counts: [T] known labels over all processes. A task without any contributes exactly 0.
        loss_weights: [T] weights of the tasks.

    Returns:
        The scalar to minimise and [T] the mean loss of each task. With several processes both are shares: they
        become the whole when summed over the processes.
    """
    means = sums / counts.clamp_min(1).to(sums.dtype)
    return (means * loss_weights).sum(), means
