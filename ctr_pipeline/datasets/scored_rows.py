"""Which impression each packed row is, and whose: packed arrays hold neither ids nor sessions."""

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.datasets.examples import rows_of
from ctr_pipeline.datasets.packed import DatasetError
from ctr_pipeline.datasets.row_codes import code
from ctr_pipeline.datasets.split_parts import SplitBounds

KEYS = ("user", "session")
"""Keys of the table `impressions` that every log may have."""


def scored_rows(
    bounds: SplitBounds, split: str, impressions: pl.LazyFrame, ts: NDArray[np.int64]
) -> Iterator[tuple[slice, pl.DataFrame]]:
    """The impressions of a split that is not learnt from, in the order of its packed rows, a day at a time.

    Args:
        bounds: The split.
        split: ``validation``, ``calibration`` or ``test``.
        impressions: The table at the version that was packed.
        ts: [N] times of the packed rows, to compare with.

    Yields:
        Where the rows of a day stand among the packed ones, and ``day``, ``ts``, ``impression_id``, ``traffic``, and the codes
        ``user`` and ``session`` (-1 = none).

    Raises:
        DatasetError: the impressions are not those that were packed.
    """
    shown = rows_of(bounds, split, impressions)
    counts = shown.group_by("day").len().sort("day").collect()
    if int(counts["len"].sum()) != len(ts):
        raise _other_rows(split)
    at = 0
    for day, rows in counts.iter_rows():
        found = (
            shown.filter(pl.col("day") == day)
            .select("day", "ts", "impression_id", "traffic", *(code(name).alias(name) for name in KEYS))
            .sort("ts", "impression_id")
            .collect()
        )
        if not np.array_equal(found["ts"].to_numpy(), ts[at : at + rows]):
            raise _other_rows(split)
        yield slice(at, at + rows), found
        at += rows


def row_keys(
    bounds: SplitBounds, split: str, impressions: pl.LazyFrame, ts: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """By key of :data:`KEYS` its code in each packed row [N], -1 for none; a key that no row has is left out.

    Raises:
        DatasetError: as :func:`scored_rows`.
    """
    found = {name: np.full(len(ts), -1, dtype=np.int64) for name in KEYS}
    for at, rows in scored_rows(bounds, split, impressions, ts):
        for name in KEYS:
            found[name][at] = rows[name].to_numpy()
    return {name: codes for name, codes in found.items() if (codes >= 0).any()}


def _other_rows(split: str) -> DatasetError:
    return DatasetError(
        f"split {split}: its impressions are not those that were packed. Materialise `examples` and `training_dataset` of this "
        "day again."
    )
