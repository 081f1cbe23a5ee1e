"""A line for each step of a drill."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients import StepRecord


class MetricsLog:
    """Lines for each step from hooks of the model and of the first optimizer."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._now: dict[str, float] = {}

    def watch(self, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        """Observes the first and the last layer, and gradients before each update."""
        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        for place, layer in (("first", linears[0]), ("last", linears[-1])):
            layer.register_forward_hook(self._noted(place))
        optimizers[0].register_step_pre_hook(lambda *_: self._gradients(model))

    def on_step(self, record: StepRecord, steps: int) -> None:  # noqa: ARG002
        """Adds the step's line."""
        values = {"loss": record.loss, "grad_norm": record.grad_norm} | self._now
        text = " ".join(f"{name}={value:.9g}" for name, value in sorted(values.items()))
        self.lines.append(f"step={record.step} {text}")
        self._now = {}

    def on_epoch(self, metrics: Any) -> None:
        """Adds the epoch's line."""
        ne = metrics.get("ne")
        self.lines.append(f"epoch={metrics['epoch']} validation_ne={'none' if ne is None else format(ne, '.9g')}")

    def on_refit(self, epochs: int) -> None:
        """Drills fit once."""

    def _noted(self, place: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            if torch.is_grad_enabled() and output.numel():
                values = output.detach().double()
                self._now[f"{place}_mean"], self._now[f"{place}_variance"] = (
                    float(values.mean()),
                    float(values.var(unbiased=False)),
                )

        return hook

    def _gradients(self, model: nn.Module) -> None:
        dense = [p.grad.flatten() for p in model.parameters() if p.grad is not None and not p.grad.is_sparse]
        self._now["gradient_mean"] = float(torch.cat(dense).double().mean())
