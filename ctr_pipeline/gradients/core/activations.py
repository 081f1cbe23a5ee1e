"""Observes hidden activations: they are found where they are computed, whatever the module that computes them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ctr_pipeline.gradients.core.module_paths import running_modules

CAN_SATURATE = frozenset(
    {
        "celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish",
        "prelu", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh", "tanhshrink",
        "threshold",
    }
)  # fmt: skip
"""torch's element-wise activations that are flat somewhere, or may be (``leaky_relu`` and ``prelu`` with slope 0).

``rrelu`` is not among them: its slope is never 0, and to ask for it a second time would draw random numbers.
"""


SAMPLE = 1024
"""Values of an activation, at most, from which its quantiles are taken."""


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation function as a forward pass computed it.

    Attributes:
        name: Path of the module that computed it; the second of one module ends in ``#2``.
        slope: [..., units] derivative of the function at each input: the share of a gradient that it lets through; of a ReLU
            as truth values.
        sample: [K] some of the function's values, evenly spread over rows and units, in single precision; None where they
            were not kept.
    """

    name: str
    slope: Tensor
    sample: Tensor | None = None


@contextmanager
def observed_activations(model: nn.Module) -> Iterator[list[Activation]]:
    """Collects the activations that ``model`` computes inside the block; costs a small part of a forward pass.

    Modules (``nn.GELU``) and functions (``torch.relu``) are both seen. Nothing that the model computes is changed.
    """
    found: list[Activation] = []
    with running_modules(model) as path, _Observer(path, found):
        yield found


class ActivationObserver:
    """Observes the activations of one model again and again.

    The first time every function that the forward pass calls is looked at. Where all activations were found in modules of
    torch that are nothing else, only these are hooked from then on, at a tenth of the cost.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known: list[tuple[str, nn.Module]] | None = None
        self._searched = False

    @contextmanager
    def observe(self) -> Iterator[list[Activation]]:
        """As :func:`observed_activations`."""
        if self._known is None:
            with observed_activations(self._model) as found:
                yield found
            if not self._searched:
                self._searched, self._known = True, self._own_modules(found)
            return
        noted: list[Activation] = []
        handles = [
            module.register_forward_hook(_note_relu(name, noted))
            if type(module) is nn.ReLU
            else module.register_forward_pre_hook(_note_slope(name, noted))
            for name, module in self._known
        ]
        try:
            yield noted
        finally:
            for handle in handles:
                handle.remove()

    def _own_modules(self, found: Sequence[Activation]) -> list[tuple[str, nn.Module]] | None:
        modules = dict(self._model.named_modules())
        known = [(one.name, modules.get(one.name)) for one in found]
        own = [(name, module) for name, module in known if type(module).__module__ == "torch.nn.modules.activation"]
        return (
            [(name, module) for name, module in own if module is not None] if found and len(own) == len(known) else None
        )


def _sample(output: Tensor) -> Tensor:
    """[K] at most :data:`SAMPLE` values of [..., units], with a step that meets every unit."""
    flat, units = output.detach().reshape(-1), output.shape[-1] if output.ndim else 1
    step = -(-flat.numel() // SAMPLE)
    while math.gcd(step, units) > 1:
        step += 1
    return flat[::step].float()


def _note_relu(name: str, noted: list[Activation]) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    def note(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        if output.numel():
            # Where the output is positive the slope is 1; also where the function works in place.
            noted.append(Activation(name, output.detach() > 0, _sample(output)))

    return note


def _note_slope(name: str, noted: list[Activation]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def note(module: nn.Module, given: tuple[Any, ...]) -> None:
        entered = given[0].detach()
        if not entered.numel():
            return
        with torch.enable_grad():
            leaf = entered.clone().requires_grad_()
            # Not by calling the module: that would run its hooks, this one among them. In place, it writes into the copy.
            output = module.forward(leaf.clone())
            (slope,) = torch.autograd.grad(output.sum(), leaf)
        noted.append(Activation(name, slope, _sample(output)))

    return note


class _Observer(TorchFunctionMode):
    def __init__(self, path: Sequence[str], found: list[Activation]) -> None:
        super().__init__()
        self._path, self._found = path, found

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        # `Tensor.relu_` and `functional._threshold` are known without their underscores.
        if getattr(func, "__name__", "").strip("_") in CAN_SATURATE:
            # Before the call: in place, it overwrites its input.
            self._note(func, args, named)
        return func(*args, **named)

    def _note(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        entered = args[0] if args else named["input"]
        if not isinstance(entered, Tensor) or not entered.is_floating_point() or not entered.numel():
            return
        with torch.enable_grad():
            leaf = entered.detach().requires_grad_()
            output = func(leaf.clone(), *args[1:], **named) if args else func(**{**named, "input": leaf.clone()})
            # The function is element-wise: the gradient of the sum is each element's own derivative.
            (slope,) = torch.autograd.grad(output.sum(), leaf)
        name = self._path[-1] if self._path and self._path[-1] else "model"
        earlier = sum(activation.name.split("#")[0] == name for activation in self._found)
        self._found.append(Activation(f"{name}#{earlier + 1}" if earlier else name, slope, _sample(output)))


FLAT = 1e-3
"""Slopes up to it count as 0: smooth functions only approach their flat part (GELU's slope at −4 is −0.0005)."""


def dead_share(activation: Activation) -> Tensor:
    """[] share of the units whose slope is flat for every row: nothing can reach the weights before such a unit.

    For ReLU these are the units whose output is 0 on all rows. A unit is one index of the last dimension.
    """
    slope = activation.slope
    steep = slope if slope.dtype == torch.bool else ~(slope.abs() <= FLAT)
    units = steep.shape[-1] if steep.ndim > 1 else 1
    return 1 - steep.reshape(-1, units).any(dim=0).double().mean()
