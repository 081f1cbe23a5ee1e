"""Weights of the tasks' losses: fixed, or following the losses or gradients of the steps before."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.losses.gradient_weighting import GradientWeighting
from ctr_pipeline.spec.balancing import BalanceSection, DwaBalance, GradientBalance, StaticBalance, UncertaintyBalance


def needs_rates(section: BalanceSection) -> bool:
    """Whether the base rates of the training labels decide on the weights."""
    return isinstance(section, UncertaintyBalance) or (isinstance(section, StaticBalance) and section.normalise)


class TaskBalance:
    """The weights [T] of the tasks' losses in the next step; they are changed in place.

    With L_t the mean loss of task t in a step, λ_t its declared weight and H_t the entropy of its base rate:

    - ``static``: λ_t; normalised λ_t · H/H_t, H the largest of them, so that the task with the most frequent outcome keeps
      its weight and the size of gradients stays what it is.
    - ``uncertainty``: λ_t · 2H · exp(−s_t). The s_t minimise Σ exp(−s_t) L_t + s_t/2 (Kendall et al., CVPR 2018, for
      classification) by gradient descent along with the model, from log 2H_t: the weights of normalised ``static``.
    - ``dwa``: λ_t · T · softmax(r_t/τ), r_t the mean of L_t over the last window by that over the one before
      (Liu et al., CVPR 2019, there epochs); λ_t in the first two windows.
    - ``gradient``: λ_t times what :mod:`ctr_pipeline.losses.gradient_weighting` finds for the step.

    Args:
        section: The spec's section.
        declared: [T] the tasks' own weights.
        rates: [T] base rates of the training labels; empty where they do not matter (:func:`needs_rates`).
        device: Where the weights are.
    """

    def __init__(
        self, section: BalanceSection, declared: Sequence[float], rates: Sequence[float], device: torch.device
    ) -> None:
        self._section, self._declared = section, list(declared)
        self._entropies = _entropies(rates, len(declared)) if needs_rates(section) else [1.0] * len(declared)
        self._logs = [math.log(2 * entropy) for entropy in self._entropies]
        self._windows: deque[list[float]] = deque(maxlen=2)
        self._sums, self._counts = [0.0] * len(declared), [0] * len(declared)
        self._steps = 0
        self._gradients = GradientWeighting(section.aggregator) if isinstance(section, GradientBalance) else None
        self.weights = torch.tensor(self._start(), dtype=torch.float32, device=device)

    @property
    def moves(self) -> bool:
        """Whether the weights may differ between steps."""
        return not isinstance(self._section, StaticBalance)

    @property
    def reads_gradients(self) -> bool:
        """Whether :meth:`from_gradients` has to be called before a step's loss is computed."""
        return self._gradients is not None

    def from_gradients(self, losses: Tensor, shared: Sequence[nn.Parameter]) -> None:
        """Set the weights of this step from the tasks' gradients; the graph is kept.

        Args:
            losses: [T] mean losses of the tasks, or these times one number.
            shared: What the tasks share.
        """
        if self._gradients is not None:
            declared = self.weights.new_tensor(self._declared)
            self.weights.copy_(declared * self._gradients(losses * declared, shared))

    def observe(self, losses: Sequence[float], known: Sequence[int]) -> None:
        """Set the weights of the next step from [T] mean losses of this one over [T] known labels."""
        if isinstance(self._section, UncertaintyBalance):
            for task, (loss, count) in enumerate(zip(losses, known, strict=True)):
                if count:
                    self._logs[task] += self._section.rate * (math.exp(-self._logs[task]) * loss - 0.5)
            self._set(self._from_logs())
        elif isinstance(self._section, DwaBalance):
            for task, (loss, count) in enumerate(zip(losses, known, strict=True)):
                self._sums[task] += loss if count else 0.0
                self._counts[task] += 1 if count else 0
            self._steps += 1
            if self._steps == self._section.window:
                self._close_window(self._section.temperature)

    def state_dict(self) -> dict[str, Any]:
        """All from which the weights follow."""
        return {
            "weights": self.weights.tolist(), "logs": list(self._logs), "windows": [list(w) for w in self._windows],
            "sums": list(self._sums), "counts": list(self._counts), "steps": self._steps,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._set(state["weights"])
        self._logs, self._sums, self._counts = list(state["logs"]), list(state["sums"]), list(state["counts"])
        self._windows = deque([list(window) for window in state["windows"]], maxlen=2)
        self._steps = int(state["steps"])

    def _start(self) -> list[float]:
        if needs_rates(self._section):
            return self._from_logs()
        return list(self._declared)

    def _from_logs(self) -> list[float]:
        largest = max(self._entropies)
        return [own * 2 * largest * math.exp(-log) for own, log in zip(self._declared, self._logs, strict=True)]

    def _close_window(self, temperature: float) -> None:
        means = [total / count if count else 0.0 for total, count in zip(self._sums, self._counts, strict=True)]
        self._windows.append(means)
        self._sums, self._counts, self._steps = [0.0] * len(means), [0] * len(means), 0
        if len(self._windows) < 2:
            return
        before, last = self._windows
        ratios = [new / old if old > 0 else 1.0 for new, old in zip(last, before, strict=True)]
        powers = [math.exp(min(ratio, 50.0) / temperature) for ratio in ratios]
        scale = len(powers) / sum(powers)
        self._set([own * scale * power for own, power in zip(self._declared, powers, strict=True)])

    def _set(self, weights: Sequence[float]) -> None:
        with torch.no_grad():
            self.weights.copy_(self.weights.new_tensor(weights))


def _entropies(rates: Sequence[float], tasks: int) -> list[float]:
    """[T] entropies of the base rates in nats; of a task whose labels are all alike the largest one of the others."""
    if len(rates) != tasks:
        raise ValueError(f"{tasks} base rates expected, found {len(rates)}")
    own = [-(p * math.log(p) + (1 - p) * math.log(1 - p)) if 0 < p < 1 else 0.0 for p in rates]
    largest = max(own) or 1.0
    return [entropy or largest for entropy in own]
