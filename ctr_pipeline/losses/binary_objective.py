"""The objective of an outcome that happens or not."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.losses.masking import known_counts
from ctr_pipeline.losses.protocol import Loss


class BinaryObjective:
    """The probability of a 0/1 outcome, σ(logit).

    Args:
        loss: The loss that training minimises.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._log_loss = WeightedBinaryCrossEntropy()

    @property
    def loss(self) -> Loss:
        """The loss that training minimises."""
        return self._loss

    def known_counts(self, labels: Tensor) -> Tensor:
        """[T] number of labels that are 0 or 1."""
        return known_counts(labels)

    def validation_sums(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[3, T] log loss, known labels, positives."""
        ones = torch.ones_like(logits, dtype=torch.float64)
        log_loss = self._log_loss.task_sums(logits.double(), labels, ones)
        return torch.stack([log_loss, known_counts(labels).double(), (labels == 1).sum(dim=0).double()])

    def validation_metric(self, sums: Sequence[float]) -> tuple[float | None, float | None]:
        """Log loss, and log loss / entropy of the labels' own positive rate (He et al., ADKDD 2014)."""
        loss, count, positives = sums
        if not count:
            return None, None
        rate = positives / count
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate)) if 0 < rate < 1 else 0.0
        return loss / count, loss / count / entropy if entropy else None

    def starting_rate(self, labels: NDArray[np.int8]) -> float:
        """Share of positives among the known labels; 0 when none is known."""
        positives, known = int((labels == 1).sum()), int((labels >= 0).sum())
        return positives / known if known else 0.0
