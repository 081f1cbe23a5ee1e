"""Batches of any form: a tensor, or tensors in tuples, lists, mappings and dataclasses."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


def map_tensors(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``batch`` with ``change`` of each of its tensors; all else stays as it is."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(value, change) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, change) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(value, change) for value in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{f.name: map_tensors(getattr(batch, f.name), change) for f in fields(batch) if f.init})
    return batch


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """The tensors of ``batch``."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(batch, keep)
    return iter(found)


def select_rows(batch: Any, rows: Tensor, count: int) -> Any:
    """``batch`` with the ``rows`` [R] of each tensor whose first size is ``count``, the number of samples."""

    def chosen(tensor: Tensor) -> Tensor:
        return tensor[rows.to(tensor.device)] if tensor.ndim and tensor.shape[0] == count else tensor

    return map_tensors(batch, chosen)


def in_double(batch: Any) -> Any:
    """``batch`` with its floating-point tensors in float64."""
    return map_tensors(batch, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def same_tensors(first: Any, second: Any) -> bool:
    """Whether two batches hold the same tensors, NaN being equal to NaN."""
    pairs = zip(tensors_of(first), tensors_of(second), strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)
