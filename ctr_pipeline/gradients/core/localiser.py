"""Where in a computation the first value arises that is not finite: for any module, in one replay.

State is looked at before the computation, in the order in which it enters: parameters, buffers, state of optimizers, inputs.
Then every operation of torch is observed, first of the forward pass and then of backward. An operation is an origin where its
output is not finite although everything that it read was, or where a constant that is not finite enters. Values that are masked out later, such as missing numbers, are
origins that lead nowhere: each value that is not finite is followed from its origin, and the origin that counts is that of the
loss, or of a gradient.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ctr_pipeline.gradients.core.module_paths import running_modules

CONSTANTS = frozenset(
    {"lift_fresh", "copy_", "fill_", "full", "full_like", "scalar_tensor", "empty", "empty_like", "new_empty"}
)
"""Operations that bring a constant or memory without values: the origin is what computes with it."""

Place = Literal["parameter", "buffer", "optimizer_state", "input", "forward", "backward"]

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__))


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The first value that was not finite.

    Attributes:
        place: Where in the computation it is.
        name: Name of the parameter, buffer, optimizer's state (``parameter.key``) or input; of an operation, its name.
        index: Where in the tensor it is; of a sparse gradient, the row and what follows.
        value: The value.
        module: Path of the module that computed it; empty for one of the loss, or where none did.
        source: File and line of the operation, in the code that is not torch's; empty where it is not known.
        edge: Name of autograd's node, in the backward pass; of a leaf, the parameter.
        shape: Shape of the tensor.
        share: Share of the entries along its first dimension that have such a value.
        parameter: Name of the parameter that an operation of the forward pass read, where it read nothing else: a cast.
    """

    place: Place
    name: str
    index: tuple[int, ...]
    value: float
    module: str = ""
    source: str = ""
    edge: str = ""
    shape: tuple[int, ...] = ()
    share: float = 1.0
    parameter: str = ""


def localise(
    model: nn.Module,
    loss: Callable[[], Tensor],
    inputs: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer] = (),
    missing: Sequence[str] = (),
) -> Origin | None:
    """The first value of a step that is not finite; None where all are.

    Gradients of the parameters are those of before the call afterwards; generators are the caller's to set back.

    Args:
        model: The model, with the weights of the step's start.
        loss: Computes the scalar from which backward starts, as the step did.
        inputs: Tensors of the batch by name.
        optimizers: Those that update the model.
        missing: Names of inputs in which NaN is a missing value and no fault.
    """
    if (found := state_origin(model, optimizers)) is not None:
        return found
    for name, tensor in inputs.items():
        if (found := _first("input", name, tensor, allow_nan=name in missing)) is not None:
            return found
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        with running_modules(model) as stack:
            given = [inputs[name] for name in missing if first_wrong(inputs[name]) is not None]
            parameters = {_memory(parameter): name for name, parameter in model.named_parameters()}
            observer = _Observer(stack, parameters, given)
            with torch.enable_grad(), observer, torch.autograd.set_detect_anomaly(True, check_nan=False):
                value = loss()
                found = observer.origin_of(value)
                if found is not None or not value.requires_grad:
                    return found
                observer.enter_backward({id(parameter): name for name, parameter in model.named_parameters()})
                torch.autograd.backward(value)
            return observer.first_in_backward if _has_bad_gradient(model) else None
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


def first_wrong(tensor: Tensor, *, allow_nan: bool = False) -> tuple[tuple[int, ...], float] | None:
    """Index and value of the first element that is not finite; None where there is none."""
    if not tensor.is_floating_point():
        return None
    values = tensor.detach()
    if values.is_sparse:
        values = values.coalesce()
        indices, values = values.indices(), values.values()
    else:
        indices = None
    bad = torch.isinf(values) if allow_nan else ~torch.isfinite(values)
    if not bool(bad.any()):
        return None
    at = [int(place) for place in bad.nonzero()[0]]
    value = float(values[tuple(at)])
    return (tuple(at) if indices is None else (*(int(i) for i in indices[:, at[0]]), *at[1:])), value


def _first(place: Place, name: str, tensor: Tensor, *, allow_nan: bool = False) -> Origin | None:
    found = first_wrong(tensor, allow_nan=allow_nan)
    return (
        None
        if found is None
        else Origin(place=place, name=name, index=found[0], value=found[1], shape=tuple(tensor.shape))
    )


def state_origin(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> Origin | None:
    """The first value of the parameters, buffers and states of optimizers that is not finite; None where all are."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    states = [
        (f"{names.get(id(parameter), 'unknown')}.{key}", value)
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    ]
    groups: list[tuple[Place, list[tuple[str, Tensor]]]] = [
        ("parameter", list(model.named_parameters())),
        ("buffer", [(name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point()]),
        ("optimizer_state", states),
    ]
    for place, named in groups:
        wanted = [(name, tensor) for name, tensor in named if tensor.is_floating_point() and tensor.numel()]
        if not wanted:
            continue
        # One pass over all of them: the largest absolute value is not finite exactly if one of them is not.
        largest = torch._foreach_norm([tensor.detach() for _, tensor in wanted], float("inf"))
        for (name, tensor), size in zip(wanted, largest, strict=True):
            if not bool(torch.isfinite(size)) and (found := _first(place, name, tensor)) is not None:
                return found
    return None


def _has_bad_gradient(model: nn.Module) -> bool:
    return any(p.grad is not None and first_wrong(p.grad) is not None for p in model.parameters())


class _Observer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows values that are not finite from the operation in which they arose."""

    def __init__(self, modules: Sequence[str], parameters: Mapping[int, str], missing: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._modules, self._by_memory = modules, parameters
        # Of a missing value there is no origin.
        self._origins: dict[int, Origin | None] = {_memory(tensor): None for tensor in missing}
        # While a tensor is kept, no other one can have its memory.
        self._kept: list[Tensor] = []
        self._parameters: Mapping[int, str] | None = None
        self.first_in_backward: Origin | None = None

    def enter_backward(self, parameters: Mapping[int, str]) -> None:
        """What follows is the backward pass; names of the parameters by identity."""
        self._parameters = parameters

    def origin_of(self, tensor: Tensor) -> Origin | None:
        """Where the value of ``tensor`` that is not finite comes from."""
        return None if first_wrong(tensor) is None else self._origins.get(_memory(tensor))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # Before the call: in place, it overwrites what it reads.
        read = [tensor for tensor in _tensors((args, kwargs or {})) if tensor.is_floating_point()]
        wrong = [
            memory for memory in (_memory(t) for t in read if first_wrong(t) is not None) if memory in self._origins
        ]
        earlier = next((origin for memory in wrong if (origin := self._origins[memory]) is not None), None)
        result = func(*args, **(kwargs or {}))
        if not wrong and func.__name__.split(".")[0] in CONSTANTS:
            return result
        for output in _tensors(result):
            found = first_wrong(output)
            if found is not None:
                self._origins[_memory(output)] = earlier if wrong else self._new(func, found, read, output)
                self._kept.append(output)
        return result

    def _new(self, func: Any, found: tuple[tuple[int, ...], float], read: Sequence[Tensor], output: Tensor) -> Origin:
        name, shape = func.__name__.split(".")[0], tuple(output.shape)
        if self._parameters is None:
            module = self._modules[-1] if self._modules else ""
            source = _source(traceback.extract_stack())
            owners = [self._by_memory.get(_memory(tensor), "") for tensor in read]
            parameter = owners[0] if owners and all(owner == owners[0] for owner in owners) else ""
            return Origin(
                place="forward", name=name, index=found[0], value=found[1], module=module, source=source, shape=shape,
                share=_share(output), parameter=parameter,
            )  # fmt: skip
        node: Any = torch._C._current_autograd_node()
        edge, source = (node.name() if node is not None else ""), ""
        if node is not None:
            variable = getattr(node, "variable", None)
            edge = self._parameters.get(id(variable), edge) if variable is not None else edge
            lines = node.metadata.get("traceback_", [])
            source = _own_line("".join(lines).splitlines())
        origin = Origin(
            place="backward",
            name=name,
            index=found[0],
            value=found[1],
            source=source,
            edge=edge,
            shape=shape,
            share=_share(output),
        )
        self.first_in_backward = self.first_in_backward or origin
        return origin


def _share(tensor: Tensor) -> float:
    """Share of the entries along the first dimension that have a value that is not finite."""
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    if not values.ndim or not values.numel():
        return 1.0
    return float((~torch.isfinite(values.detach())).reshape(values.shape[0], -1).any(dim=1).double().mean())


def _memory(tensor: Tensor) -> int:
    return (tensor._values() if tensor.is_sparse else tensor).untyped_storage().data_ptr()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _source(frames: Sequence[traceback.FrameSummary]) -> str:
    """Where the innermost frame is that is neither torch's nor of this file."""
    for frame in reversed(frames):
        if not frame.filename.startswith((_TORCH, _HERE)):
            return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line or frame.name}"
    return ""


def _own_line(lines: Sequence[str]) -> str:
    """The same, of a formatted traceback."""
    for place in range(len(lines) - 1, -1, -1):
        words = lines[place].strip()
        if words.startswith('File "') and not words.startswith((f'File "{_TORCH}', f'File "{_HERE}')):
            path, number = words.split('"')[1], words.split("line ")[1].split(",")[0]
            code = lines[place + 1].strip() if place + 1 < len(lines) else ""
            return f"{Path(path).name}:{number}: {code}"
    return ""
