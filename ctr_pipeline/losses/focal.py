"""The focal loss of binary outcomes."""

from torch import Tensor, exp, sigmoid
from torch.nn.functional import logsigmoid

from ctr_pipeline.losses.masking import binary_target, keep_known, sum_known


class FocalLoss:
    """−w · α_y · (1 − p_y)^γ · log p_y, p_y the predicted probability of the outcome that came (Lin et al., ICCV 2017).

    It is no proper score: for γ > 0 its minimum lies nearer to ½ than the true probability, so its predictions are
    probabilities only after calibration. With γ = 0 and without α it is the binary cross-entropy.

    Everything is computed from log σ(±s), s = z for a positive and −z for a negative: p_y itself rounds to 1, and
    1 − p_y to 0, from |z| = 17 on in single precision.

    Args:
        gamma: Exponent γ ≥ 0.
        alpha: α of positives, 1 − α of negatives; without it both are 1.
    """

    def __init__(self, gamma: float, alpha: float | None = None) -> None:
        self._gamma, self._alpha = gamma, alpha

    def task_sums(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[T] weighted sums over the known labels."""
        signed = logits * _sign(labels, logits)
        each = -exp(self._gamma * logsigmoid(-signed)) * logsigmoid(signed)
        return sum_known(each, labels, weights * self._balance(labels, logits))

    def logit_gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[B, T] ± w · α_y · (1 − p_y)^γ · (γ · p_y · log p_y − (1 − p_y)), + for positives."""
        sign = _sign(labels, logits)
        signed = logits * sign
        slope = self._gamma * sigmoid(signed) * logsigmoid(signed) - sigmoid(-signed)
        each = sign * exp(self._gamma * logsigmoid(-signed)) * slope
        return keep_known(each * weights * self._balance(labels, logits), labels)

    def _balance(self, labels: Tensor, like: Tensor) -> Tensor:
        if self._alpha is None:
            return like.new_ones(())
        positive = binary_target(labels, like)
        return self._alpha * positive + (1 - self._alpha) * (1 - positive)


def _sign(labels: Tensor, like: Tensor) -> Tensor:
    return 2 * binary_target(labels, like) - 1
