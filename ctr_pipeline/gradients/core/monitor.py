"""Follows a run step by step: norms every step, updates and dead units every N steps."""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.core.activations import dead_share, observed_activations
from ctr_pipeline.gradients.core.thresholds import HealthSummary

RING = 64
"""Records kept for the bundle, and the window of the running median."""

MIN_HISTORY = 20
"""Steps before a norm is compared with the median; the first steps of a run have no typical norm yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What happened in one step.

    Attributes:
        step: Steps taken before this one.
        epoch: Epoch, from 0.
        loss: The loss that was minimised.
        task_losses: Mean weighted cross-entropy of each task, without the task's loss weight.
        grad_norm: Global gradient norm before clipping.
        norm_ratio: The norm relative to the running median; None while there is too little history.
        clipped: Whether the gradient was scaled down.
        skipped: Whether the fp16 scaler skipped the update.
        learning_rate: Step size of the dense parameters.
        rows: Rows of the batch, over all processes.
    """

    step: int
    epoch: int
    loss: float
    task_losses: Mapping[str, float]
    grad_norm: float
    norm_ratio: float | None
    clipped: bool
    skipped: bool
    learning_rate: float
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """One flat JSON object, with loss_<task> for each task."""
        values = asdict(self)
        losses = values.pop("task_losses")
        return {**values, **{f"loss_{task}": value for task, value in losses.items()}}


class GradientMonitor:
    """Keeps the running statistics of a run, small enough to go into every checkpoint.

    Args:
        model: The model; its hidden activations are observed.
        every: Steps between detailed records (per-tensor norms, update ratios, dead units).
    """

    def __init__(self, model: nn.Module, every: int) -> None:
        self._model, self._every = model, every
        self._probing = False
        self._dead: dict[str, Tensor] = {}
        self._before: list[tuple[str, nn.Parameter, Tensor]] = []
        self.ring: deque[dict[str, Any]] = deque(maxlen=RING)
        self.rows: list[tuple[int, str, str, str, float]] = []
        self._norms: deque[float] = deque(maxlen=RING)
        self._recorded: list[float] = []
        self._totals: dict[str, float] = {
            "steps": 0, "nonfinite": 0, "skips": 0, "clipped": 0, "ratio": 0.0, "norm": 0.0, "update": 0.0, "identity": 0.0,
        }  # fmt: skip
        self._update_tensor = ""
        self._dead_share: dict[str, float] = {}

    def is_probe(self, step: int) -> bool:
        """Whether ``step`` gets a detailed record."""
        return step % self._every == 0

    def begin(self, step: int) -> None:
        """Call before the forward pass: arms the detailed record where one is due."""
        self._probing = self.is_probe(step)
        self._dead.clear()
        self._before.clear()

    @contextmanager
    def forward(self) -> Iterator[None]:
        """The block in which the step's forward pass runs."""
        if not self._probing:
            yield
            return
        with observed_activations(self._model) as found:
            yield
        self._dead = {activation.name: dead_share(activation) for activation in found}

    def norm_ratio(self, total: float) -> float | None:
        """``total`` relative to the median of the last norms; None while there are fewer than 20."""
        if len(self._norms) < MIN_HISTORY:
            return None
        typical = median(self._norms)
        return total / typical if typical > 0 else None

    def before_update(self, dense: Sequence[tuple[str, nn.Parameter]]) -> None:
        """Call before the optimizers step: keeps the weight matrices of ``dense`` for the update ratio."""
        if self._probing:
            self._before = [(name, p, p.detach().clone()) for name, p in dense if p.ndim >= 2]

    def after_update(self, record: StepRecord, names: Sequence[str], norms: Sequence[float], identity: float) -> None:
        """Call after the optimizers stepped.

        Args:
            record: The step.
            names: Parameters with a gradient.
            norms: Norm of each of their gradients.
            identity: Largest |r − 1| of the logit-gradient identity, 0 where not measured.
        """
        self._count(record)
        if not self._probing:
            return
        self._totals["identity"] = max(self._totals["identity"], identity)
        step = record.step
        if math.isfinite(record.grad_norm):
            self._recorded.append(record.grad_norm)
        self.rows += [(step, name, "gradient", "norm", norm) for name, norm in zip(names, norms, strict=True)]
        if self._before:
            old = [before for _, _, before in self._before]
            now = [parameter.detach() for _, parameter, _ in self._before]
            moved = torch._foreach_norm(torch._foreach_sub(now, old))
            size = torch._foreach_norm(old)
            host = torch.stack([torch.stack(moved), torch.stack(size)]).tolist()
            for (name, _, _), update, weight in zip(self._before, *host, strict=True):
                ratio = update / weight if weight > 0 else 0.0
                self.rows += [(step, name, "weight", "norm", weight), (step, name, "update", "ratio", ratio)]
                if ratio > self._totals["update"]:
                    self._totals["update"], self._update_tensor = ratio, name
        if self._dead:
            shares = torch.stack(list(self._dead.values())).tolist()
            self._dead_share = dict(zip(self._dead, shares, strict=True))
            self.rows += [(step, name, "activation", "dead_share", share) for name, share in self._dead_share.items()]
        self._before.clear()

    def _count(self, record: StepRecord) -> None:
        self.ring.append(record.to_dict())
        totals = self._totals
        totals["steps"] += 1
        if record.skipped:
            totals["skips"] += 1
            return
        totals["clipped"] += record.clipped
        totals["norm"] = max(totals["norm"], record.grad_norm)
        if record.norm_ratio is not None:
            totals["ratio"] = max(totals["ratio"], record.norm_ratio)
        self._norms.append(record.grad_norm)

    def count_nonfinite(self, record: StepRecord) -> None:
        """Note the step that is about to stop the run."""
        self.ring.append(record.to_dict())
        self._totals["steps"] += 1
        self._totals["nonfinite"] += 1

    def summary(self) -> HealthSummary:
        """The run so far."""
        totals = self._totals
        return HealthSummary(
            steps=int(totals["steps"]),
            nonfinite=int(totals["nonfinite"]),
            scaler_skips=int(totals["skips"]),
            max_norm_ratio=totals["ratio"],
            median_norm=median(self._recorded) if self._recorded else 0.0,
            max_norm=totals["norm"],
            max_update_ratio=totals["update"],
            max_update_tensor=self._update_tensor,
            dead_unit_share=dict(self._dead_share),
            clipped_share=totals["clipped"] / max(1.0, totals["steps"]),
            identity_error=totals["identity"],
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`load_state_dict` takes."""
        return {
            "ring": list(self.ring),
            "rows": list(self.rows),
            "norms": list(self._norms),
            "recorded": list(self._recorded),
            "totals": dict(self._totals),
            "update_tensor": self._update_tensor,
            "dead_share": dict(self._dead_share),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.ring = deque(state["ring"], maxlen=RING)
        self.rows = [(row[0], row[1], row[2], row[3], row[4]) for row in state["rows"]]
        self._norms = deque(state["norms"], maxlen=RING)
        self._recorded = list(state["recorded"])
        self._totals = dict(state["totals"])
        self._update_tensor = state["update_tensor"]
        self._dead_share = dict(state["dead_share"])
