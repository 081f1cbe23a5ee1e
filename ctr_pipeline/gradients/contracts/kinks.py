"""Which side of its kinks a computation is on: where a function has a kink, a finite difference across it means nothing."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def _above(values: Tensor, *knots: Any) -> list[Tensor]:
    return [values > knot for knot in knots if knot is not None]


_KINKED: Mapping[str, Callable[..., list[Tensor]]] = {
    "relu": lambda x, *_, **__: _above(x, 0),
    "leaky_relu": lambda x, *_, **__: _above(x, 0),
    "_prelu_kernel": lambda x, *_, **__: _above(x, 0),
    "elu": lambda x, *_, **__: _above(x, 0),
    "abs": lambda x, *_, **__: _above(x, 0),
    "sgn": lambda x, *_, **__: _above(x, 0),
    "sign": lambda x, *_, **__: _above(x, 0),
    "threshold": lambda x, knot, *_, **__: _above(x, knot),
    "hardtanh": lambda x, low=-1.0, high=1.0, **__: _above(x, low, high),
    "hardsigmoid": lambda x, *_, **__: _above(x, -3, 3),
    "hardswish": lambda x, *_, **__: _above(x, -3, 3),
    "hardshrink": lambda x, knot=0.5, **__: _above(x, -knot, knot),
    "softshrink": lambda x, knot=0.5, **__: _above(x, -knot, knot),
    "clamp": lambda x, min=None, max=None: _above(x, min, max),
    "clamp_min": lambda x, min: _above(x, min),
    "clamp_max": lambda x, max: _above(x, max),
    "maximum": lambda x, y: [x > y],
    "minimum": lambda x, y: [x > y],
    "amax": lambda x, dim=(), *_, **__: [x == torch.amax(x, dim, keepdim=True)],
    "amin": lambda x, dim=(), *_, **__: [x == torch.amin(x, dim, keepdim=True)],
}
"""torch's operations with a kink, and from their arguments on which side each element is."""

_STEPS = frozenset({"round", "floor", "ceil", "trunc"})

_NOT_WRITTEN = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
"""What they return holds whatever was in memory, and decides nothing before it is written."""


class _Decisions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        name = func.overloadpacket.__name__
        # Before the call: in place, it overwrites its input. `relu_` is known without its last underscore.
        if (sides := _KINKED.get(name.removesuffix("_"))) is not None:
            self.found += sides(*args, **named)
        output = func(*args, **named)
        if name in _NOT_WRITTEN:
            return output
        for value in output if isinstance(output, tuple | list) else (output,):
            # A comparison, an arg max, an order: they decide what is computed next.
            if isinstance(value, Tensor) and (not value.is_floating_point() or name in _STEPS) and not value.is_sparse:
                self.found.append(value.detach().clone())
        return output


@contextmanager
def observed_decisions() -> Iterator[list[Tensor]]:
    """Collects what the operations inside the block decide: sides of kinks, comparisons, orders, roundings."""
    mode = _Decisions()
    with mode:
        yield mode.found


def same_decisions(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether two computations decided alike throughout."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
