"""A batch of the packed arrays."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from torch import Tensor

from ctr_pipeline.losses.protocol import Delays


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch of rows of the packed arrays.

    Attributes:
        numeric: [B, D] raw numbers.
        ids: [B, F] vocabulary rows.
        labels: [B, T] 1, 0 or -1.
        weights: [B, T] weights.
        rows: [B] rows of the training arrays.
        position: [B] positions, 0 = not logged.
        elapsed: [B, T] age of each label in seconds, NaN where the pair is not looked at; None where no loss needs it.
        delay: [B, T] seconds until the outcome was known, NaN while none is; None likewise.
        faulty: Whether it has a value that no model may see; None where nobody has looked.
        content: A number of its content (:func:`content_hash`); None where nobody computed it.
    """

    numeric: Tensor
    ids: Tensor
    labels: Tensor
    weights: Tensor
    rows: Tensor
    position: Tensor
    elapsed: Tensor | None = None
    delay: Tensor | None = None
    faulty: bool | None = None
    content: int | None = None

    @property
    def delays(self) -> Delays | None:
        """Ages of the labels, where they were packed."""
        return None if self.elapsed is None or self.delay is None else Delays(self.elapsed, self.delay)

    def each(self, change: Callable[[Tensor], Tensor]) -> "BatchView":
        """The batch with ``change`` of each tensor."""
        changed: dict[str, Any] = {name: change(value) for name, value in self.tensors().items()}
        return replace(self, **changed)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, those that are there."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def without_rows(self) -> "BatchView":
        """The batch with none of its rows."""
        return self.each(lambda tensor: tensor[:0])


def content_hash(batch: BatchView) -> int:
    """CRC-32 of numbers, ids, labels and weights, in the order of the rows: equal content gives equal numbers.

    By numpy and zlib, some microseconds for a few hundred rows; meant for the thread that reads batches ahead.
    """
    found = 0
    for tensor in (batch.ids, batch.numeric, batch.labels, batch.weights):
        found = zlib.crc32(np.ascontiguousarray(tensor.numpy(force=True)).data, found)
    return found
