"""How long outcomes take to become known: the share that is known at an age, from outcomes whose window has closed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FEWEST_OUTCOMES = 10
"""Settled outcomes below which no curve is fitted: then nothing is known at any age, and open labels are left out."""

_BELOW_1 = 1 - 1e-6

_STEEPEST = 50.0
"""Largest shape of a Weibull curve: delays that hardly differ have none that could be fitted, and are a step of the curve."""


class DelayBuckets:
    """Share of the outcomes in each of some intervals of delay: no shape is assumed.

    Args:
        delays: [M] seconds from the impression until each settled outcome was known.
        edges: Ends of the intervals in seconds, ascending; what is known later counts when its window has closed.
    """

    def __init__(self, delays: NDArray[np.floating[Any]], edges: Sequence[float]) -> None:
        counts = np.histogram(delays, [0.0, *edges])[0] if len(delays) >= FEWEST_OUTCOMES else np.zeros(len(edges))
        shares = np.minimum(np.cumsum(counts) / max(1, len(delays)), _BELOW_1)
        self._edges = torch.tensor([*edges], dtype=torch.float64)
        self._shares = torch.tensor([0.0, *shares], dtype=torch.float64)

    def share(self, elapsed: Tensor) -> Tensor:
        """P(known by now | it happens) at ages ``elapsed`` (seconds), in [0, 1): that of the intervals that are over."""
        over = torch.bucketize(elapsed.double(), self._edges.to(elapsed.device), right=True)
        return self._shares.to(elapsed.device)[over].to(elapsed.dtype)

    def is_known(self, delay: Tensor, elapsed: Tensor) -> Tensor:
        """Whether an outcome with that delay counts as known: once its interval is over, as for those that have none."""
        edges = torch.cat([self._edges, self._edges.new_tensor([float("inf")])]).to(delay.device)
        end = edges[torch.bucketize(delay.double(), self._edges.to(delay.device))]
        usable = self._shares[-1] > 0
        return (end <= elapsed.double()) & torch.isfinite(delay) & usable.to(delay.device)


class WeibullDelays:
    """Weibull-distributed delays, cut off at the longest that was seen: F(e) = 1 - exp(-(e/λ)^k).

    Args:
        delays: [M] seconds from the impression until each settled outcome was known.
    """

    def __init__(self, delays: NDArray[np.floating[Any]]) -> None:
        from scipy.stats import weibull_min

        self._usable = len(delays) >= FEWEST_OUTCOMES
        self._shape, self._scale = 1.0, 1.0
        times = np.maximum(np.asarray(delays, dtype=np.float64), 1.0)
        if self._usable:
            logs = np.log(times)
            self._shape, self._scale = _STEEPEST, float(np.exp(logs.mean()))
            # The logarithm of a Weibull variable has the standard deviation π / (√6 · shape).
            if logs.std() * _STEEPEST > np.pi / np.sqrt(6):
                shape, _, scale = weibull_min.fit(times, floc=0)
                self._shape, self._scale = min(float(shape), _STEEPEST), float(scale)
        longest = float(np.max(times)) if self._usable else np.inf
        self._whole = -float(np.expm1(-((longest / self._scale) ** self._shape)))

    def share(self, elapsed: Tensor) -> Tensor:
        """P(known by now | it happens) at ages ``elapsed`` (seconds), in [0, 1)."""
        if not self._usable:
            return torch.zeros_like(elapsed)
        raised = (elapsed.clamp_min(0).double() / self._scale) ** self._shape
        return (-torch.expm1(-raised) / self._whole).clamp(max=_BELOW_1).to(elapsed.dtype)

    def is_known(self, delay: Tensor, elapsed: Tensor) -> Tensor:
        """Whether an outcome with that delay is known."""
        return (delay <= elapsed) & torch.isfinite(delay) & self._usable
