"""Vocabularies and statistics, from training rows only, and the arrays that they define."""

from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.features.layout import (
    FIRST_VOCABULARY_ROW,
    MISSING_ROW,
    UNKNOWN_ROW,
    Group,
    IdColumn,
    Layout,
    NumericColumn,
)
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.features import (
    CategoricalFeature,
    HistoryFeature,
    HistoryRate,
    Missing,
    NumericFeature,
)

VOCABULARY_SCHEMA = {
    "feature": pl.String,
    "key": pl.String,
    "row": pl.Int64,
    "count": pl.Int64,
    "first_day": pl.Date,
    "last_day": pl.Date,
}
"""Columns of the vocabulary table: embedding row of each value, its training rows, first and last training day."""

_Source: TypeAlias = NumericFeature | HistoryFeature


def fit_layout(spec: Spec, training: pl.LazyFrame) -> tuple[Layout, pl.DataFrame]:
    """Layout and vocabulary of the training rows ``training``; nothing else may be in it.

    A value enters the vocabulary of its feature with ``min_count`` training rows. Rows 0 and 1 are those of missing
    and of unknown or rare values; from row 2 on, the values are in order of falling count, then of their text.
    Mean and standard deviation are those of float32 values after fill and transform. Holds the numbers in memory:
    4 bytes a row and number.

    Args:
        spec: Features, tasks and embedding widths.
        training: Columns ``day``, every numeric and embedded feature, and every history feature
            (:func:`~ctr_pipeline.features.history.join_history`).

    Returns:
        The layout, and rows with :data:`VOCABULARY_SCHEMA`, sorted by feature (in the layout's order) and row.
    """
    sources = _numeric_sources(spec)
    numbers = training.select(pl.col(name).cast(pl.Float32) for _, name, _ in sources) if sources else None
    counts = [_counts(training, feature) for feature in spec.features.embedded]
    collected = pl.collect_all([*counts, *([numbers] if numbers is not None else [])])
    vocabulary = pl.concat([pl.DataFrame(schema=VOCABULARY_SCHEMA), *collected[: len(counts)]])
    numeric = tuple(
        _fit_numeric(group, source, _to_array(collected[-1].get_column(name))) for group, name, source in sources
    )
    ids = tuple(
        IdColumn(
            name=feature.name,
            group="categorical" if number < len(spec.features.categorical) else "contextual",
            rows=FIRST_VOCABULARY_ROW + frame.height,
            dim=feature.embedding_dim or spec.model.embedding_dim,
        )
        for number, (feature, frame) in enumerate(zip(spec.features.embedded, collected, strict=False))
    )
    names = [task.name for task in spec.tasks]
    parents = tuple(-1 if task.parent is None else names.index(task.parent) for task in spec.tasks)
    return Layout(numeric=numeric, ids=ids, tasks=tuple(names), parents=parents), vocabulary


def numeric_matrix(layout: Layout, frame: pl.DataFrame) -> NDArray[np.float32]:
    """[N, D] raw float32 values of the layout's numeric columns; NaN = missing."""
    matrix = np.empty((frame.height, len(layout.numeric)), dtype=np.float32)
    for number, column in enumerate(layout.numeric):
        matrix[:, number] = _to_array(frame.get_column(column.name))
    return matrix


def encode_ids(layout: Layout, vocabulary: pl.DataFrame, frame: pl.DataFrame) -> NDArray[np.int32]:
    """[N, F] int32 embedding rows of the layout's id columns, looked up in ``vocabulary`` by join, never by number."""
    matrix = np.empty((frame.height, len(layout.ids)), dtype=np.int32)
    for number, column in enumerate(layout.ids):
        rows = vocabulary.filter(pl.col("feature") == column.name).select("key", pl.col("row").cast(pl.Int32))
        values = frame.select(key=pl.col(column.name).cast(pl.String))
        row = (
            pl.when(pl.col("key").is_null())
            .then(pl.lit(MISSING_ROW, dtype=pl.Int32))
            .otherwise(pl.col("row").fill_null(UNKNOWN_ROW))
        )
        found = values.join(rows, on="key", how="left", maintain_order="left").select(row.alias("row"))
        matrix[:, number] = found.get_column("row").to_numpy()
    return matrix


def signed_log1p(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """sign(x) · log(1 + abs(x))."""
    return np.sign(values) * np.log1p(np.abs(values))


def _numeric_sources(spec: Spec) -> list[tuple[Group, str, _Source]]:
    """Every number in the layout's order, with its group."""
    features = spec.features
    dense = len(features.dense)
    logged: list[tuple[Group, str, _Source]] = [
        ("dense" if number < dense else "contextual", feature.name, feature)
        for number, feature in enumerate(features.numeric)
    ]
    return [*logged, *(("history", feature.name, feature) for feature in features.history)]


def _fit_numeric(group: Group, source: _Source, values: NDArray[np.float32]) -> NumericColumn:
    if isinstance(source, NumericFeature):
        missing, transform = source.missing, source.transform
    else:
        # Counts and durations have heavy tails; rates do not.
        missing, transform = Missing(), "none" if isinstance(source, HistoryRate) else "signed_log1p"
    # Sorted, because a join returns its rows in any order and the rounding of a sum depends on the order.
    exact = np.sort(values.astype(np.float64))
    absent = np.isnan(exact)
    fill = _fill(missing, exact[~absent])
    exact[absent] = fill
    if transform == "signed_log1p":
        exact = signed_log1p(exact)
    mean = float(exact.mean()) if exact.size else 0.0
    std = float(exact.std()) if exact.size else 0.0
    # A constant's spread is rounding error at most; dividing by it would blow up the first other value.
    constant = std <= 1e-6 * max(1.0, abs(mean))
    return NumericColumn(
        name=source.name,
        group=group,
        transform=transform,
        fill=fill,
        indicator=missing.indicator,
        mean=mean,
        std=1.0 if constant else std,
    )


def _fill(missing: Missing, present: NDArray[np.float64]) -> float:
    if missing.value is not None:
        return missing.value
    if not present.size:
        return 0.0
    return float(np.median(present) if missing.fill == "median" else present.mean())


def _counts(training: pl.LazyFrame, feature: CategoricalFeature) -> pl.LazyFrame:
    """The vocabulary of one feature."""
    key = pl.col(feature.name).cast(pl.String)
    counted = (
        training.select(key=key, day=pl.col("day"))
        .drop_nulls("key")
        .group_by("key")
        .agg(count=pl.len().cast(pl.Int64), first_day=pl.col("day").min(), last_day=pl.col("day").max())
        .filter(pl.col("count") >= feature.min_count)
        .sort(["count", "key"], descending=[True, False])
        .with_row_index("row", offset=FIRST_VOCABULARY_ROW)
    )
    return counted.select(
        pl.lit(feature.name).alias("feature"), "key", pl.col("row").cast(pl.Int64), "count", "first_day", "last_day"
    )


def _to_array(column: pl.Series) -> NDArray[np.float32]:
    """float32 with NaN for missing; infinite values count as missing."""
    values: NDArray[np.float32] = column.cast(pl.Float32).fill_null(float("nan")).to_numpy().copy()
    values[~np.isfinite(values)] = np.nan
    return values
