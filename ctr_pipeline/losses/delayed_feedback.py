"""Losses that learn from labels which are still open: what is not known may still happen."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, logaddexp, sigmoid
from torch.nn.functional import logsigmoid

from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.losses.protocol import Delays

LARGEST_WEIGHT = 20.0
"""Of an early outcome in :class:`ImportanceWeightedLoss`; one that is known within minutes would count thousands. Labels so
young that an outcome would weigh more are left out, known or not: to cap the weight alone would teach too low a rate."""


class DelayCurve(Protocol):
    """When outcomes become known."""

    def share(self, elapsed: Tensor) -> Tensor:
        """P(known by now | it happens) at ages ``elapsed`` [B, T] in seconds."""

    def is_known(self, delay: Tensor, elapsed: Tensor) -> Tensor:
        """Whether an outcome with that delay (NaN for none) counts as known at that age."""


MakeCurve: TypeAlias = Callable[[NDArray[np.floating[Any]]], DelayCurve]


class _OpenLabels(ABC):
    """Cross-entropy of settled labels, and a term of their own for open ones.

    An open label is one that is not settled and has an age. Without ages, as in validation, it counts for nothing.

    Args:
        make_curve: When outcomes become known, from the delays of settled ones.
        curve: The curve, once it is made.
    """

    least_share = 0.0
    """Share of the outcomes that must be known at an age for labels of that age to count."""

    def __init__(self, make_curve: MakeCurve, curve: DelayCurve | None = None) -> None:
        self._make_curve, self._curve = make_curve, curve
        self._settled = WeightedBinaryCrossEntropy()

    def fit(self, delays: NDArray[np.floating[Any]]) -> Self:
        """The loss of one task (:class:`~ctr_pipeline.losses.protocol.DelayedLoss`)."""
        return type(self)(self._make_curve, self._make_curve(delays))

    def task_sums(self, logits: Tensor, labels: Tensor, weights: Tensor, delays: Delays | None = None) -> Tensor:
        """[T] weighted sums over settled and open labels."""
        settled = self._settled.task_sums(logits, labels, weights)
        if delays is None or self._curve is None:
            return settled
        known, share, is_open = self._seen(self._curve, labels, delays, logits)
        each = self._open_loss(logits, known, share) * weights
        return settled + torch.where(is_open, each, each.new_zeros(())).sum(dim=0)

    def logit_gradient(self, logits: Tensor, labels: Tensor, weights: Tensor, delays: Delays | None = None) -> Tensor:
        """[B, T] derivatives by formula."""
        settled = self._settled.logit_gradient(logits, labels, weights)
        if delays is None or self._curve is None:
            return settled
        known, share, is_open = self._seen(self._curve, labels, delays, logits)
        each = self._open_gradient(logits, known, share) * weights
        return settled + torch.where(is_open, each, each.new_zeros(()))

    def _seen(self, curve: DelayCurve, labels: Tensor, delays: Delays, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T] whether the outcome is known, the share that is at this age, and whether the label is open and counts."""
        is_open = open_labels(labels, delays)
        elapsed = torch.where(is_open, delays.elapsed, 0.0)
        share = curve.share(elapsed).to(like.dtype)
        return curve.is_known(delays.delay, elapsed), share, is_open & (share >= self.least_share)

    @abstractmethod
    def _open_loss(self, logits: Tensor, known: Tensor, share: Tensor) -> Tensor:
        """[B, T] loss of an open label: whether its outcome is known, and the share of those that are by its age."""

    @abstractmethod
    def _open_gradient(self, logits: Tensor, known: Tensor, share: Tensor) -> Tensor:
        """[B, T] derivative of :meth:`_open_loss` by the logits, by formula."""


class CureModelLoss(_OpenLabels):
    """-log p for an outcome that is known, -log(1 - p · F(e)) while none is at age e (Chapelle, KDD 2014).

    p is the probability that the outcome ever happens and F(e) the share of those that are known by then. Its
    expectation has the true p as its minimum, whatever the age.
    """

    def _open_loss(self, logits: Tensor, known: Tensor, share: Tensor) -> Tensor:
        return torch.where(known, -logsigmoid(logits), -self._log_unknown(logits, share))

    def _open_gradient(self, logits: Tensor, known: Tensor, share: Tensor) -> Tensor:
        unknown = share * torch.exp(logsigmoid(logits) + logsigmoid(-logits) - self._log_unknown(logits, share))
        return torch.where(known, -sigmoid(-logits), unknown)

    @staticmethod
    def _log_unknown(logits: Tensor, share: Tensor) -> Tensor:
        """log(1 - p · F) = log((1 - p) + p · (1 - F))."""
        return logaddexp(logsigmoid(-logits), torch.log1p(-share) + logsigmoid(logits))


class ImportanceWeightedLoss(_OpenLabels):
    """Cross-entropy with what is known so far as the label, weighted so that its expectation is that of the final one.

    A known outcome weighs 1/F(e), none so far P(none ever | none so far) =
    (1 - p)/(1 - p · F(e)), in which p is the model's own prediction, held fixed (FSIW, Yasui et al., WWW 2020, who train
    a model for each of the two weights).
    """

    least_share = 1 / LARGEST_WEIGHT

    def _open_loss(self, logits: Tensor, known: Tensor, share: Tensor) -> Tensor:
        early, none = self._weights(logits, share)
        return torch.where(known, -early * logsigmoid(logits), -none * logsigmoid(-logits))

    def _open_gradient(self, logits: Tensor, known: Tensor, share: Tensor) -> Tensor:
        early, none = self._weights(logits, share)
        return torch.where(known, -early * sigmoid(-logits), none * sigmoid(logits))

    @staticmethod
    def _weights(logits: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        held = logits.detach()
        none = torch.exp(logsigmoid(-held) - CureModelLoss._log_unknown(held, share))
        return (1 / share.clamp_min(1 / LARGEST_WEIGHT)), none


def open_labels(labels: Tensor, delays: Delays) -> Tensor:
    """[B, T] whether a label is not settled and its age is known."""
    return (labels < 0) & torch.isfinite(delays.elapsed)
