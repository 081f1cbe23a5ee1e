"""A batch of the packed arrays."""

from dataclasses import dataclass, fields

from torch import Tensor


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
    """

    numeric: Tensor
    ids: Tensor
    labels: Tensor
    weights: Tensor
    rows: Tensor
    position: Tensor

    def without_rows(self) -> "BatchView":
        """The batch with none of its rows."""
        return BatchView(**{field.name: getattr(self, field.name)[:0] for field in fields(self)})
