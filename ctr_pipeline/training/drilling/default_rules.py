"""Built-in rules in the manner of Amazon SageMaker Debugger, with their documented defaults, at every step.

Written from the public description of the rules ("List of Debugger built-in rules", AWS documentation), not from their code.
They are here to be compared with.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients import StepRecord
from ctr_pipeline.training.drilling.drilled_run import Drill
from ctr_pipeline.training.drilling.generic_alarms import Alarm, ended_by_a_value

VANISHING = 1e-7
"""vanishing_gradient: mean of the absolute values of some gradient below it."""
LOSS_STEPS, LOSS_PERCENT = 10, 0.1
"""loss_not_decreasing: within so many steps the loss fell by less than so many per cent."""
INACTIVE, INACTIVE_LAYER = 0.01, 0.5
"""dead_relu, saturated_activation: a unit that is active, or not saturated, on less than this share of the rows; this share
of a layer."""
OVERFIT = 0.1
"""overfit: the validation loss exceeds that of the training by this share of it."""
WEIGHT_SPREAD, WEIGHT_RANGE, INITIAL_STEPS, INITIAL_PATIENCE = 10.0, 1e-3, 10, 5
"""poor_weight_initialization: ratio of the largest and the smallest variance of the layers' weights; distance of their 5th and
95th percentiles; within the first 10 steps, once the loss has not fallen for 5."""
UNCHANGED_STEPS = 3
"""unchanged_tensor: a weight that is the same, to 1e-5 of it, over so many steps."""
LARGE_UPDATE, SMALL_UPDATE = 10.0, 1e-8
"""weight_update_ratio: mean of the absolute updates over that of the weights."""

RIGHT_FOR: Mapping[str, tuple[str, ...]] = {
    "dead_relu": ("dead_relu",),
    "poor_weight_initialization": ("bad_init_large", "bad_init_const", "new_embedding_huge"),
    "weight_update_ratio": ("huge_lr", "optimizer_misses_table", "stale_optimizer", "schedule_stuck", "epsilon_one"),
    "unchanged_tensor": ("optimizer_misses_table", "stale_optimizer", "frozen_tower", "schedule_stuck"),
    "vanishing_gradient": ("detached_tower", "amp_no_scaling", "clipped_before_unscale"),
    "all_zero": ("detached_tower", "dead_relu"),
    "exploding_tensor": ("log_of_negative", "mask_empty", "infinite_feature", "refactor_incident"),
}
"""For which faults the name of a rule may pass for a cause."""


class DefaultRules:
    """Raises each rule once, at the first step where it holds."""

    def __init__(self) -> None:
        self.alarms: list[Alarm] = []
        self._raised: set[str] = set()
        self._step = 0
        self._losses: list[float] = []
        self._initial: bool | None = None
        self._unchanged: dict[str, int] = {}
        self._before: dict[str, Tensor] = {}
        self._model: nn.Module | None = None

    def watch(self, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        """Hooks activations, gradients and updates."""
        self._model = model
        for module in model.modules():
            if isinstance(module, nn.ReLU | nn.Tanh | nn.Sigmoid):
                module.register_forward_hook(self._activation)
        optimizers[0].register_step_pre_hook(lambda *_: self._gradients())
        optimizers[-1].register_step_post_hook(lambda *_: self._updates())

    def on_step(self, record: StepRecord, steps: int) -> None:  # noqa: ARG002
        """Looks at the loss."""
        self._losses.append(record.loss)
        if len(self._losses) > LOSS_STEPS:
            earlier = self._losses[-1 - LOSS_STEPS]
            if earlier - record.loss < LOSS_PERCENT / 100 * abs(earlier):
                self._raise("loss_not_decreasing")
        recent = self._losses[-INITIAL_PATIENCE:]
        if self._initial and INITIAL_PATIENCE <= len(self._losses) <= INITIAL_STEPS and recent[-1] >= recent[0]:
            self._raise("poor_weight_initialization")
        self._step = record.step + 1

    def on_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Compares the losses of the validation with those of the epoch."""
        values = [value for name, value in metrics.items() if name.startswith("log_loss_") and value is not None]
        taken = max(1, len(self._losses) // (int(metrics["epoch"]) + 1))
        trained = sum(self._losses[-taken:]) / taken if self._losses else 0.0
        if values and trained > 0 and sum(values) - trained > OVERFIT * trained:
            self._raise("overfit")

    def on_refit(self, epochs: int) -> None:
        """Drills fit once."""

    def finish(self, drill: Drill) -> None:
        """Adds the alarm of a run that ended with a value that is not finite."""
        if drill.crash or ended_by_a_value(drill):
            self._raise("exploding_tensor")

    def _raise(self, name: str) -> None:
        if name not in self._raised:
            self._raised.add(name)
            self.alarms.append(Alarm(name, self._step))

    def _activation(self, module: nn.Module, _: Any, output: Tensor) -> None:
        # Validation is not looked at.
        if not torch.is_grad_enabled() or output.ndim != 2 or not len(output):
            return
        output = output.detach()
        if isinstance(module, nn.ReLU):
            active, name = output > 0, "dead_relu"
        elif isinstance(module, nn.Tanh):
            active, name = output.abs() < 0.95, "saturated_activation"
        else:
            active, name = (output - 0.5).abs() < 0.45, "saturated_activation"
        if float((active.float().mean(dim=0) < INACTIVE).float().mean()) > INACTIVE_LAYER:
            self._raise(name)

    @torch.no_grad()
    def _gradients(self) -> None:
        named = self._weights()
        if self._initial is None:
            layers = [] if self._model is None else [m for m in self._model.modules() if isinstance(m, nn.Linear)]
            matrices = [m.weight.double() for m in layers if m.weight.numel() > 1]
            variances = [float(p.var()) for p in matrices]
            ranges = [float(p.flatten().quantile(0.95) - p.flatten().quantile(0.05)) for p in matrices]
            self._initial = bool(variances) and (
                max(variances) > WEIGHT_SPREAD * min(variances) or min(ranges) < WEIGHT_RANGE
            )
        for parameter in named.values():
            gradient = parameter.grad
            if gradient is None:
                continue
            values = gradient.coalesce().values() if gradient.is_sparse else gradient
            if not values.numel():
                continue
            if float(values.abs().mean()) < VANISHING:
                self._raise("vanishing_gradient")
            if not bool(values.any()):
                self._raise("all_zero")
        self._before = {name: parameter.detach().clone() for name, parameter in named.items()}

    @torch.no_grad()
    def _updates(self) -> None:
        for name, parameter in self._weights().items():
            before = self._before.get(name)
            if before is None or not parameter.numel():
                continue
            moved, size = float((parameter - before).abs().mean()), float(before.abs().mean())
            # Weights that begin as zeros have no ratio.
            if parameter.ndim == 2 and size and (moved > LARGE_UPDATE * size or moved < SMALL_UPDATE * size):
                self._raise("weight_update_ratio")
            same = torch.allclose(parameter, before, rtol=1e-5, atol=1e-8)
            self._unchanged[name] = self._unchanged.get(name, 0) + 1 if same else 0
            if self._unchanged[name] >= UNCHANGED_STEPS:
                self._raise("unchanged_tensor")

    def _weights(self) -> dict[str, nn.Parameter]:
        return {} if self._model is None else dict(self._model.named_parameters())
