"""Cross-entropy of labels that are drawn towards their task's base rate."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, sigmoid
from torch.nn import functional

from ctr_pipeline.losses.masking import binary_target, keep_known, sum_known

_PIECE = 1 << 20
"""Rows whose weights are summed at a time: the arrays of a large log do not fit into memory."""


class SmoothedBinaryCrossEntropy:
    """Cross-entropy with the target y · (1 - s) + s · p in place of the outcome y (Szegedy et al., CVPR 2016, section 7).

    They name the prior over the classes as what labels are drawn towards, and take 1/K for K classes of like frequency.
    Outcomes are rare: towards 1/2, those with a rate of 1 % would at s = 0.1 be predicted at 6 %. Towards the base rate p
    the mean of the targets is that of the outcomes, so predictions stay calibrated in the mean and come nearer to each
    other: where the rate is q, the minimum is at q · (1 - s) + s · p.

    Args:
        smoothing: s, from 0 on and below 1/2.
        rates: [T] base rate p of each task.
    """

    def __init__(self, smoothing: float, rates: Sequence[float]) -> None:
        self._smoothing = smoothing
        self._rates = torch.tensor(rates, dtype=torch.float64)

    def task_sums(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[T] weighted sums over the known labels."""
        target = self._target(labels, logits)
        each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return sum_known(each, labels, weights)

    def logit_gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[B, T] w · (σ(z) - target)."""
        return keep_known((sigmoid(logits) - self._target(labels, logits)) * weights, labels)

    def _target(self, labels: Tensor, like: Tensor) -> Tensor:
        return binary_target(labels, like) * (1 - self._smoothing) + (self._smoothing * self._rates).to(like)


def base_rates(labels: NDArray[np.int8], weights: NDArray[np.float32]) -> list[float]:
    """For each task the weighted share of positives among the known labels [N, T]; 0 where none is known.

    Weighted as the loss is, because the mean that is to stay is that of the weighted rows.
    """
    known, positive = np.zeros(labels.shape[1]), np.zeros(labels.shape[1])
    for at in range(0, len(labels), _PIECE):
        own, weight = labels[at : at + _PIECE], weights[at : at + _PIECE]
        known += weight.sum(axis=0, where=own >= 0, dtype=np.float64)
        positive += weight.sum(axis=0, where=own == 1, dtype=np.float64)
    return [float(p / k) if k else 0.0 for p, k in zip(positive, known, strict=True)]
