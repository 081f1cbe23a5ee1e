"""Weighted cross-entropy of binary outcomes, the default."""

from torch import Tensor, sigmoid
from torch.nn import functional

from ctr_pipeline.losses.masking import binary_target, keep_known, sum_known


class WeightedBinaryCrossEntropy:
    """w · (softplus(z) − y · z): its mean has the true probability as its minimum (a proper score)."""

    def task_sums(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[T] weighted sums over the known labels."""
        target = binary_target(labels, logits)
        each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return sum_known(each, labels, weights)

    def logit_gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[B, T] w · (σ(z) − y)."""
        return keep_known((sigmoid(logits) - binary_target(labels, logits)) * weights, labels)
