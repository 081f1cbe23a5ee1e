"""Values of a batch that no model may see."""

import numpy as np
import torch

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.core.diagnosis import Diagnosis


class InputCheck:
    """Looks for a value of a batch that no model may see: an infinite number, a row outside a table, a bad weight.

    Args:
        layout: The packed layout.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lowest, self._highest = (rows.astype(np.int32) for rows in layout.id_rows)

    def fault(self, batch: BatchView, step: int) -> Diagnosis | None:
        """The first such value; None where there is none."""
        faulty = self.is_faulty(batch) if batch.faulty is None else batch.faulty
        return input_fault(batch, self._layout, step) if faulty else None

    def is_faulty(self, batch: BatchView) -> bool:
        """Whether there is one; for the thread that reads batches ahead. By numpy, which is several times as fast as torch on a batch of some hundred rows."""
        numeric, ids, weights = (tensor.numpy(force=True) for tensor in (batch.numeric, batch.ids, batch.weights))
        return bool(
            (numeric.size and np.isinf(numeric).any())
            or (ids.size and ((ids < self._lowest).any() or (ids > self._highest).any()))
            # Written so that NaN, which no comparison holds for, is found.
            or (weights.size and not (weights.min() >= 0 and weights.max() < np.inf))
        )


def input_fault(batch: BatchView, layout: Layout, step: int) -> Diagnosis | None:
    """The first value of ``batch`` that no model may see, with its feature and row; :class:`InputCheck` is faster."""
    infinite = torch.isinf(batch.numeric)
    if bool(infinite.any()):
        at, column = (int(v) for v in infinite.nonzero()[0])
        name, row = layout.numeric[column].name, int(batch.rows[at])
        value = float(batch.numeric[at, column])
        return Diagnosis(
            kind="input", tensor="numeric", feature=name, row=row, step=step,
            message=f"step {step}: feature {name} is {value} in row {row} of the training arrays; "
            "a number must be finite or missing",
        )  # fmt: skip
    lowest, highest = (torch.from_numpy(rows).to(batch.ids.device, batch.ids.dtype) for rows in layout.id_rows)
    outside = (batch.ids < lowest) | (batch.ids > highest)
    if bool(outside.any()):
        at, column = (int(v) for v in outside.nonzero()[0])
        id_column, row = layout.id_columns[column], int(batch.rows[at])
        return Diagnosis(
            kind="input", tensor="ids", feature=id_column.name, row=row, step=step,
            message=f"step {step}: feature {id_column.name} has id {int(batch.ids[at, column])} in row {row} of the "
            f"training arrays, but its table has {id_column.rows} rows; pack the dataset again",
        )  # fmt: skip
    bad = ~torch.isfinite(batch.weights) | (batch.weights < 0)
    if bool(bad.any()):
        at, task = (int(v) for v in bad.nonzero()[0])
        row = int(batch.rows[at])
        return Diagnosis(
            kind="input", tensor="weights", feature=None, row=row, step=step,
            message=f"step {step}: the weight of task {layout.tasks[task]} is {float(batch.weights[at, task])} in row "
            f"{row} of the training arrays; a weight must be finite and not negative",
        )  # fmt: skip
    return None
