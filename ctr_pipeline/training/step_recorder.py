"""What a step of a training does, seen from outside: module by module, at the loss, at each gradient, at each optimizer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.batch_tensors import tensors_of
from ctr_pipeline.training.step import StepState

ROWS = " (rows that are read)"
"""End of the name under which the rows stand that a table looks up."""

Outputs = list[tuple[str, list[Tensor]]]
"""Outputs of modules in the order in which they were computed: name, and copies of the tensors."""


@dataclass(slots=True)
class SparseGradient:
    """Rows of a table with a gradient, each once, and its values [R, d]."""

    rows: Tensor
    values: Tensor


Gradient = Tensor | SparseGradient


def gradient_of(parameter: Tensor) -> Gradient | None:
    """A copy of a parameter's gradient; None where it has none."""
    if parameter.grad is None:
        return None
    if parameter.grad.is_sparse:
        gradient = parameter.grad.detach().coalesce()
        return SparseGradient(gradient.indices()[0].clone(), gradient.values().clone())
    return parameter.grad.detach().clone()


def record_outputs(
    model: nn.Module, outputs: Outputs, active: Callable[[], bool], given: dict[str, tuple[Tensor, ...]] | None = None
) -> None:
    """Lets ``outputs`` receive what each part of ``model`` computes, while ``active``; also of its three stages.

    ``given`` receives what each part was given last, where that are tensors alone.
    """

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, inputs: Any, output: Any) -> None:
            if active():
                outputs.append((name, [tensor.detach().clone() for tensor in tensors_of(output)]))
                if given is not None and all(isinstance(value, Tensor) for value in inputs):
                    given[name] = tuple(value.detach() for value in inputs)

        return keep

    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(hook(name))
        if isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(_reading(f"{name}{ROWS}", outputs, active))
    for name in ("encode", "hidden", "score"):
        setattr(model, name, _kept(getattr(model, name), name, outputs, active))


def _reading(name: str, outputs: Outputs, active: Callable[[], bool]) -> Callable[[nn.Module, Any], None]:
    def keep(_: nn.Module, given: Any) -> None:
        if active():
            outputs.append((name, [tensor.detach().clone() for tensor in tensors_of(given)]))

    return keep


def _kept(inner: Callable[..., Any], name: str, outputs: Outputs, active: Callable[[], bool]) -> Callable[..., Any]:
    def run(*given: Any) -> Any:
        output = inner(*given)
        if active():
            outputs.append((f"{name}()", [tensor.detach().clone() for tensor in tensors_of(output)]))
        return output

    return run


@dataclass(slots=True)
class StepRecorder:
    """Records one step after the other; :meth:`begin` forgets the one before.

    Attributes:
        state: The training.
        active: Whether the step that runs is recorded.
        read: Numbers, ids and positions that the model was given.
        inner: Numbers and ids as its first parts were given them.
        outputs: What its parts computed.
        logits: [B, T] logits that the loss was given.
        labels: [B, T] labels that it was given beside them.
        weights: [B, T] weights that it was given beside them.
        logit_gradient: [B, T] gradient at the logits, times the loss scale; None where backward did not reach them.
        backward: Gradients as backward left them, by parameter.
        received: Gradients as optimizers received them.
        updates: Updates of each optimizer.
        settings: By parameter those of its group when the optimizer began its update.
        on_logits: Called when the loss of a recorded step is given its logits.
    """

    state: StepState
    active: bool = False
    read: tuple[Tensor, ...] = ()
    inner: dict[str, Tensor] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=list)
    logits: Tensor | None = None
    labels: Tensor | None = None
    weights: Tensor | None = None
    logit_gradient: Tensor | None = None
    backward: dict[str, Gradient] = field(default_factory=dict)
    received: dict[str, Gradient] = field(default_factory=dict)
    updates: dict[int, int] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    on_logits: Callable[[], None] = lambda: None
    _names: dict[int, str] = field(default_factory=dict)
    _handles: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Observes model, loss, parameters and optimizers, behind whatever observes or changes them already."""
        model, objectives = self.state.model, self.state.objectives
        self._names = {id(p): name for name, p in model.named_parameters()}
        record_outputs(model, self.outputs, self._is_active)
        model.numeric.register_forward_pre_hook(lambda _, given: self._entered("numeric", given))
        model.embeddings.register_forward_pre_hook(lambda _, given: self._entered("ids", given))
        setattr(model, "encode", self._reading(model.encode))  # noqa: B010
        setattr(objectives, "task_sums", self._losing(objectives.task_sums))  # noqa: B010
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                hook = self._accumulated(name)
                self._handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        for place, optimizer in enumerate(self.state.optimizers):
            optimizer.register_step_pre_hook(lambda own, *_, place=place: self._updating(own, place))

    def close(self) -> None:
        """Call when the training is over: Python cannot see the hooks of parameters, and would never free what they hold."""
        for handle in self._handles:
            handle.remove()

    def begin(self, *, active: bool) -> None:
        """Call before each step."""
        self.active = active
        self.outputs.clear()
        self.read, self.logits, self.labels, self.weights = (), None, None, None
        self.logit_gradient, self.inner = None, {}
        self.backward, self.received, self.updates, self.settings = {}, {}, {}, {}

    def _is_active(self) -> bool:
        return self.active and torch.is_grad_enabled()

    def _entered(self, name: str, given: tuple[Any, ...]) -> None:
        if self._is_active():
            self.inner[name] = given[0].detach().clone()

    def _reading(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def encode(*given: Any) -> Any:
            if self._is_active():
                self.read = tuple(tensor.detach().clone() for tensor in given if isinstance(tensor, Tensor))
            return inner(*given)

        return encode

    def _losing(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def task_sums(logits: Tensor, labels: Tensor, weights: Tensor, *rest: Any) -> Tensor:
            if self._is_active() and logits.requires_grad and self.logits is None:
                self.on_logits()
                self.logits = logits.detach().clone()
                self.labels, self.weights = labels.detach().clone(), weights.detach().clone()
                logits.register_hook(self._reached)  # type: ignore[no-untyped-call]
            return inner(logits, labels, weights, *rest)

        return task_sums

    def _reached(self, gradient: Tensor) -> None:
        # A balance that reads gradients runs backward more than once; the step's own is the last.
        self.logit_gradient = gradient.detach().clone()

    def _accumulated(self, name: str) -> Callable[[Tensor], None]:
        def keep(parameter: Tensor) -> None:
            if self.active and (gradient := gradient_of(parameter)) is not None:
                self.backward[name] = gradient

        return keep

    def _updating(self, optimizer: torch.optim.Optimizer, place: int) -> None:
        self.updates[place] = self.updates.get(place, 0) + 1
        if not self.active or self.updates[place] > 1:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = self._names.get(id(parameter))
                if name is None:
                    continue
                self.settings[name] = {key: value for key, value in group.items() if key != "params"}
                if (gradient := gradient_of(parameter)) is not None:
                    self.received[name] = gradient
