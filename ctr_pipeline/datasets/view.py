"""A dataset's tables at fixed versions: reading them, and the test rows as another model sees them."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.datasets.examples import build_examples, in_interval, rows_of
from ctr_pipeline.datasets.pack import Tables
from ctr_pipeline.datasets.split_parts import SplitBounds
from ctr_pipeline.engines.base import FEW_ROWS
from ctr_pipeline.features import Layout, encode_ids, gather_lists, number_columns, numeric_matrix
from ctr_pipeline.lake import Lake
from ctr_pipeline.spec import Spec


def read_tables(lake: Lake, versions: Mapping[str, int | None], first: date, last: date) -> Tables:
    """The tables from ``first`` to ``last`` at ``versions``, not read yet but where they have few rows.

    Raises:
        LakeError: a table or version does not exist.
    """
    found = {
        name: scan_for_uses(lake, name, versions[name], first, last) for name in ("impressions", "labels", "history")
    }
    return Tables(**found)


def scan_for_uses(lake: Lake, table: str, version: int | None, first: date | None, last: date | None) -> pl.LazyFrame:
    """As :meth:`Lake.scan`, for a table that is used more than once: one with few rows is read once.

    Each use of a scan opens the file of each day again, which costs more than the rows of sparse days.

    Raises:
        LakeError: the table or version does not exist.
    """
    rows = lake.scan(table, version, first, last)
    few = sum(lake.rows_by_day(table, version).values()) <= FEW_ROWS
    return rows.collect().lazy() if few else rows


def other_models_test_rows(
    spec: Spec, bounds: SplitBounds, tables: Tables, layout: Layout, vocabulary: Path
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The test rows as the inputs of a model with another layout and vocabulary, in the order of the packed rows.

    Args:
        spec: The spec of the rows.
        bounds: Where the test begins and ends.
        tables: The tables.
        layout: Layout of the other model.
        vocabulary: Its vocabulary file.

    Returns:
        Numbers [N, D] and ids [N, F].

    Raises:
        KeyError: the other model needs a feature that the spec does not have, or has as a list where it needs one value.
    """
    refuse_other_features(spec, layout)
    labels = in_interval(tables.labels, *bounds.intervals["test"])
    shown = rows_of(bounds, "test", tables.impressions)
    examples = build_examples(spec, shown, labels, tables.history, bounds.as_of)
    rows = gather_lists(spec, examples).sort("ts", "impression_id").collect()
    return model_inputs(spec, rows, layout, pl.read_parquet(vocabulary))


def refuse_other_features(spec: Spec, layout: Layout) -> None:
    """Refuses a layout that needs what the spec does not have.

    Raises:
        KeyError: names a feature that the spec does not have, or has as a list where the layout needs one value.
    """
    known, lists = set(spec.features.inputs), {f.name for f in spec.features.embedded if f.list is not None}
    lists |= {made.feature.name for made in spec.features.history_embedded if made.feature.list is not None}
    for name in (*(column.name for column in layout.numeric), *(column.name for column in layout.ids)):
        if name not in known:
            raise KeyError(name)
    for column in layout.ids:
        if (column.pooled is not None) != (column.name in lists):
            raise KeyError(column.name)


def model_inputs(
    spec: Spec, rows: pl.DataFrame, layout: Layout, vocabulary: pl.DataFrame
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Rows of examples as the inputs of a model.

    Args:
        spec: The spec of the rows.
        rows: Impressions with their history, its lists gathered.
        layout: Layout of the model.
        vocabulary: Columns feature, key and row.

    Returns:
        Numbers [N, D] and ids [N, F].
    """
    vectors = [f for f in spec.features.numeric if f.width is not None]
    numbers = rows.with_columns(column for feature in vectors for column in number_columns(feature))
    return numeric_matrix(layout, numbers), encode_ids(layout, vocabulary, rows)


def delivered_share(spec: Spec, watermarks: Mapping[str, Mapping[str, int]], test_ts: NDArray[np.int64]) -> float:
    """Share of test rows and tasks whose window closed before the watermark of the task's logs.

    The split ensures that every window is closed by the clock; this measures whether the logs kept up with the clock.

    Args:
        spec: Tasks and their windows.
        watermarks: By split and task, up to when outcomes had been delivered; empty where that was not recorded.
        test_ts: [N] times of the test rows, microseconds.
    """
    if "test" not in watermarks:
        return 1.0
    closing = [watermarks["test"][task.name] - spec.maturity(task.name) for task in spec.tasks]
    return float(sum((test_ts <= instant).mean() for instant in closing) / len(closing))
