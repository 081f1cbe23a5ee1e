"""How old the labels of training rows are, and how long their outcomes took: for losses that learn from open labels."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.datasets.split_parts import SplitBounds
from ctr_pipeline.labels import join_known


def label_ages(
    rows: pl.LazyFrame,
    labels: pl.LazyFrame,
    task: str,
    settled: NDArray[np.bool_],
    bounds: SplitBounds,
    delivered: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Age of each row's label and delay of its outcome, in seconds.

    Args:
        rows: day, impression_id and ts of N training rows, with their number in ``row``.
        labels: Rows of the labels table for the same days.
        task: A task that learns from open labels.
        settled: [N] whether the row has a settled label of the task.
        bounds: The split.
        delivered: Instant up to which its outcomes had been delivered, at most the first instant of the test.

    Returns:
        [N] seconds from the impression to ``delivered``, and [N] seconds until the outcome was known. NaN where training
        does not look at the pair, and NaN while no outcome is known.
    """
    found = join_known(rows, labels, task, delivered).sort("row").select("ts", "known").collect()
    ts = found["ts"].to_numpy()
    is_open = (ts >= bounds.tasks[task].settled_end) & (ts < min(bounds.test_start, delivered))
    seen = settled | is_open
    delay = (found["known"].cast(pl.Float64).fill_null(float("nan")).to_numpy() - ts) / 1e6
    elapsed = (delivered - ts) / 1e6
    return np.where(seen, elapsed, np.nan).astype(np.float32), np.where(seen, delay, np.nan).astype(np.float32)
