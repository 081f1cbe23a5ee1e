"""One number to minimise from the losses of several tasks."""

from torch import Tensor


def multi_task_loss(sums: Tensor, counts: Tensor, loss_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its parts.

    Args:
        sums: [T] this process's sums of each task's loss over its known labels.
        counts: [T] known labels over all processes. A task without any contributes exactly 0.
        loss_weights: [T] weights of the tasks.

    Returns:
        The scalar to minimise and [T] the mean loss of each task. With several processes both are shares: they
        become the whole when summed over the processes.
    """
    means = sums / counts.clamp_min(1).to(sums.dtype)
    return (means * loss_weights).sum(), means
