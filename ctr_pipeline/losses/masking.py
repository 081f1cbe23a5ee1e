"""Sums over the labels that are known."""

from torch import Tensor


def known_counts(labels: Tensor) -> Tensor:
    """[T] number of known labels of each task.

    Args:
        labels: [B, T] 1, 0, or -1 where not known.
    """
    return (labels >= 0).sum(dim=0)


def sum_known(each: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """[T] weighted sums of ``each`` over the known labels.

    Args:
        each: [B, T] loss of each label; any value where not known.
        labels: [B, T] 1, 0, or -1 where not known.
        weights: [B, T] weights.
    """
    return keep_known(each * weights, labels).sum(dim=0)


def keep_known(values: Tensor, labels: Tensor) -> Tensor:
    """[B, T] ``values`` where the label is known, else exactly 0."""
    # where and not a product: a masked row must add exactly 0 even if its own term were not finite.
    return values.where(labels >= 0, values.new_zeros(()))


def binary_target(labels: Tensor, like: Tensor) -> Tensor:
    """[B, T] labels as numbers of the type of ``like``, 0 where not known."""
    return labels.clamp_min(0).to(like.dtype)
