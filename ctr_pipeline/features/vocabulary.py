"""Vocabularies and statistics, from training rows only, and the arrays that they define."""

import math
from collections.abc import Callable, Collection
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.features.layout import (
    FIRST_VOCABULARY_ROW,
    MISSING_ROW,
    PADDING,
    UNKNOWN_ROW,
    EventList,
    Frequency,
    FromTime,
    Group,
    IdColumn,
    Layout,
    NumericColumn,
    ParentMean,
    Pooled,
)
from ctr_pipeline.features.number_encodings import fit_encoding
from ctr_pipeline.sources.missing import null_texts
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.encodings import EncodingSection
from ctr_pipeline.spec.features import CategoricalFeature, Missing, NumericFeature
from ctr_pipeline.spec.history import HistoryNumber, HistoryRate, HistorySequence
from ctr_pipeline.spec.null_values import null_values_of

VOCABULARY_SCHEMA = {
    "feature": pl.String,
    "key": pl.String,
    "row": pl.Int64,
    "count": pl.Int64,
    "first_day": pl.Date,
    "last_day": pl.Date,
}
"""Columns of the vocabulary table: embedding row of each value, its training rows, first and last training day."""

MOST_POSITIONS = 64
"""Positions that the model tells apart."""

_PIECE = 1 << 20
_TOGETHER = 16
"""Numbers of a vector that are in memory at a time."""
_Source: TypeAlias = NumericFeature | HistoryNumber | HistorySequence


def fit_layout(
    spec: Spec, training: pl.LazyFrame, with_history: Callable[[str], pl.LazyFrame] | None = None
) -> tuple[Layout, pl.DataFrame]:
    """Layout and vocabulary of the training rows ``training``; nothing else may be in it.

    A value enters the vocabulary of its feature with ``min_count`` training rows, or occurrences in the lists. Rows 0 and 1 are those of missing
    and of unknown or rare values; from row 2 on, the values are in order of falling count, then of their first time,
    then of their text.
    Mean and standard deviation are those of float32 values after fill and transform; edges of bins are values of the rows. One number is in memory at a
    time, some 8 bytes a row, and of a vector a few. The frequencies that are inputs are those of the training rows too.

    Args:
        spec: Features, tasks and embedding widths.
        training: Columns ``day``, every numeric and embedded feature and, without ``with_history``, every history
            feature (:func:`~ctr_pipeline.features.history.join_history`, :func:`gather_lists`).
        with_history: The training rows with the history feature of that name.

    Returns:
        The layout, and rows with :data:`VOCABULARY_SCHEMA`, sorted by feature (in the layout's order) and row.
    """

    def rows_with(name: str) -> pl.LazyFrame:
        return training if with_history is None else with_history(name)

    made = spec.features.history_embedded
    counts = [_counts(training, feature).collect(engine="streaming") for feature in spec.features.embedded]
    own = [one for one in made if one.table is None]
    counts += [_counts(rows_with(one.source.name), one.feature).collect(engine="streaming") for one in own]
    vocabulary = pl.concat([pl.DataFrame(schema=VOCABULARY_SCHEMA), *counts])
    frequencies = _frequencies(spec, training, counts)
    numeric: list[NumericColumn] = []
    for group, numbers, source in _numeric_sources(spec):
        rows = rows_with(source.name) if group == "history" else training
        for at in range(0, len(numbers), _TOGETHER):
            found = rows.select(numbers[at : at + _TOGETHER]).collect(engine="streaming")
            for place, column in enumerate(found.get_columns(), start=at):
                section = spec.features.encoding_of(source)
                numeric.append(_fit_numeric(column.name, group, source, section, _to_array(column), place == 0))
    categories: list[tuple[Group, CategoricalFeature]] = [
        ("categorical" if number < len(spec.features.categorical) else "contextual", feature)
        for number, feature in enumerate(spec.features.embedded)
    ]
    categories += [("history", one.feature) for one in made]
    table_of = {one.feature.name: one.table for one in made}
    owners = [feature.name for _, feature in categories if table_of.get(feature.name) is None]
    heights = {name: FIRST_VOCABULARY_ROW + frame.height for name, frame in zip(owners, counts, strict=True)}
    ids = tuple(
        IdColumn(
            name=feature.name,
            group=group,
            rows=heights[table_of.get(feature.name) or feature.name],
            dim=feature.embedding_dim or spec.model.embedding_dim,
            pooled=_pooled(feature),
            from_time=FromTime(feature.time, spec.time_part_zone(feature)) if feature.time else None,
            frequency=frequencies.get(feature.name),
            cold_start=ParentMean(feature.cold_start.parent, feature.cold_start.evidence)
            if feature.cold_start and feature.cold_start.parent
            else None,
            table=table_of.get(feature.name),
        )
        for group, feature in categories
    )
    names = [task.name for task in spec.tasks]
    parents = tuple(-1 if task.parent is None else names.index(task.parent) for task in spec.tasks)
    layout = Layout(
        numeric=tuple(numeric),
        ids=ids,
        tasks=tuple(names),
        parents=parents,
        null_values=_null_values(spec),
        positions=_positions(spec, training),
        event_lists=tuple(
            EventList(one.name, one.item, one.event, one.age, one.length) for one in spec.features.event_lists
        ),
    )
    return layout, vocabulary


def gather_lists(spec: Spec, rows: pl.LazyFrame, names: Collection[str] | None = None) -> pl.LazyFrame:
    """``rows`` with one list for each feature of the past that is a list, instead of a column for each of its places.

    Args:
        spec: The features.
        rows: With the columns of :func:`~ctr_pipeline.features.history.join_history`.
        names: Only these features.
    """
    gathered: dict[str, pl.Expr] = {}
    places: list[str] = []
    for feature in spec.features.listing:
        if not feature.lists or (names is not None and feature.name not in names):
            continue
        # Up to the last item: where the row of one was erased, the others stay beside their ages and kinds.
        there = [pl.when(pl.col(item).is_not_null()).then(n) for n, item in enumerate(feature.items, start=1)]
        length = pl.max_horizontal(*there).fill_null(0)
        for name, own in feature.lists.items():
            gathered[name] = pl.concat_list(own).list.head(length)
            places += own
    return rows.with_columns(**gathered).drop(places)


def _positions(spec: Spec, training: pl.LazyFrame) -> tuple[float, ...]:
    """Share of each position among the training rows that have one; those below :data:`MOST_POSITIONS` count as that."""
    if not spec.has_position_effect:
        return ()
    place = pl.col("position").clip(upper_bound=MOST_POSITIONS)
    counted = training.filter(pl.col("position") > 0).group_by(place=place).agg(pl.len()).collect(engine="streaming")
    rows = dict(counted.iter_rows())
    total = sum(rows.values())
    return tuple(rows.get(at, 0) / total for at in range(1, max(rows) + 1)) if rows else ()


def _null_values(spec: Spec) -> dict[str, tuple[str, ...]]:
    """By feature that a request holds as the log does, the texts of the values that mean a missing one."""
    hashed = spec.private_columns
    found = {
        feature.name: null_texts(null_values_of((table or spec.source.impressions).null_values, column))
        for table in (None, *spec.source.tables)
        for feature, column in spec.features_of(table)
        if feature.source_column not in hashed
    }
    return {name: texts for name, texts in found.items() if texts}


def number_columns(feature: NumericFeature) -> list[pl.Expr]:
    """The numbers of a feature (Float32, by the names in the layout): one, or those of a vector."""
    if feature.width is None:
        return [pl.col(feature.name).cast(pl.Float32)]
    values = pl.col(feature.name)
    return [values.list.get(place).cast(pl.Float32).alias(name) for place, name in enumerate(feature.inputs)]


def numeric_matrix(layout: Layout, frame: pl.DataFrame) -> NDArray[np.float32]:
    """[N, D] raw float32 values of the layout's numeric columns; NaN = missing."""
    matrix = np.empty((frame.height, len(layout.numeric)), dtype=np.float32)
    for number, column in enumerate(layout.numeric):
        matrix[:, number] = _to_array(frame.get_column(column.name))
    return matrix


def encode_ids(layout: Layout, vocabulary: pl.DataFrame, frame: pl.DataFrame) -> NDArray[np.int32]:
    """[N, F] int32 embedding rows of the layout's id array, looked up in ``vocabulary``."""
    return id_matrix(layout, frame.select(embedding_rows(layout, vocabulary)))


def embedding_rows(layout: Layout, vocabulary: pl.DataFrame, groups: Collection[Group] | None = None) -> list[pl.Expr]:
    """For each id column (of ``groups``), the embedding rows of its values (int32, by its name), looked up as text.

    Those of a list are a list: as many of its values as have a place; the row of a missing value where it is missing.
    """
    found = []
    missing = pl.lit(MISSING_ROW, dtype=pl.Int32)
    for column in layout.ids:
        if groups is not None and column.group not in groups:
            continue
        entries = vocabulary.filter(pl.col("feature") == column.vocabulary)
        value = pl.col(column.name)
        if column.pooled is None:
            text = value.cast(pl.String)
            rows = pl.when(text.is_null()).then(missing).otherwise(_looked_up(text, entries))
        else:
            text = pl.element()
            row = pl.when(text.is_null()).then(missing).otherwise(_looked_up(text, entries))
            rows = _read_values(value, column.pooled).list.eval(row)
            rows = pl.when(value.is_null()).then(pl.concat_list(missing)).otherwise(rows)
        found.append(rows.alias(column.name))
    return found


def _looked_up(text: pl.Expr, entries: pl.DataFrame) -> pl.Expr:
    rows = entries["row"].cast(pl.Int32)
    if not entries.height:
        return pl.lit(UNKNOWN_ROW, dtype=pl.Int32)
    return text.replace_strict(entries["key"], rows, default=UNKNOWN_ROW, return_dtype=pl.Int32)


def _read_values(values: pl.Expr, pooled: Pooled) -> pl.Expr:
    """The values of a list that have a place."""
    return values.list.tail(pooled.length) if pooled.keep == "last" else values.list.head(pooled.length)


def id_matrix(layout: Layout, rows: pl.DataFrame) -> NDArray[np.int32]:
    """[N, F] int32 of the :func:`embedding_rows` in ``rows``."""
    matrix = np.empty((rows.height, len(layout.id_columns)), dtype=np.int32)
    for column, places in zip(layout.ids, layout.id_places, strict=True):
        values = rows.get_column(column.name)
        if column.pooled is None:
            matrix[:, places.start] = values.to_numpy()
            continue
        lengths = values.list.len().to_numpy()
        filled = np.arange(column.places) < lengths[:, None]
        block = np.full(filled.shape, PADDING, dtype=np.int32)
        block[filled] = values.filter(lengths > 0).explode().to_numpy()
        matrix[:, places] = block
    return matrix


def signed_log1p(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """sign(x) · log(1 + abs(x))."""
    return np.sign(values) * np.log1p(np.abs(values))


def _numeric_sources(spec: Spec) -> list[tuple[Group, list[pl.Expr], _Source]]:
    """Every feature's numbers in the layout's order, with its group."""
    features = spec.features
    dense = len(features.dense)
    logged: list[tuple[Group, list[pl.Expr], _Source]] = [
        ("dense" if number < dense else "contextual", number_columns(feature), feature)
        for number, feature in enumerate(features.numeric)
    ]
    made = [(name, feature) for name, feature in features.history_numbers]
    return [*logged, *(("history", [pl.col(name).cast(pl.Float32)], feature) for name, feature in made)]


def _pooled(feature: CategoricalFeature) -> Pooled | None:
    declared = feature.list
    return None if declared is None else Pooled(declared.max_length, declared.pooling, declared.keep)


def _fit_numeric(
    name: str, group: Group, source: _Source, section: EncodingSection, values: NDArray[np.float32], first: bool
) -> NumericColumn:
    """The column of the numbers ``values``; ``first`` where it is the only number of its feature, or leads a vector."""
    if isinstance(source, NumericFeature):
        missing, transform = source.missing, source.transform
    else:
        # Counts and durations have heavy tails; rates do not.
        missing, transform = Missing(), "none" if isinstance(source, HistoryRate) else "signed_log1p"
    # Sorted, because a join returns its rows in any order and the rounding of a sum depends on the order. Zeros have one
    # sign, because they are equal and would keep that order.
    values += 0.0
    values.sort()
    present = values[: values.size - int(np.isnan(values).sum())]
    fill = _fill(missing, present)
    mean, std = _moments(values, lambda raw: _transformed(raw, fill, transform))
    return NumericColumn(
        name=name,
        group=group,
        transform=transform,
        fill=fill,
        # A vector is missing as a whole: one input says so.
        indicator=missing.indicator and first,
        mean=mean,
        std=_divisor(mean, std),
        encoding=fit_encoding(section, present),
    )


def _divisor(mean: float, std: float) -> float:
    """What standardising divides by."""
    # A constant's spread is rounding error at most; dividing by it would blow up the first other value.
    return 1.0 if std <= 1e-6 * max(1.0, abs(mean)) else std


def _transformed(raw: NDArray[np.float32], fill: float, transform: str) -> NDArray[np.float64]:
    exact = raw.astype(np.float64)
    exact[np.isnan(exact)] = fill
    return signed_log1p(exact) if transform == "signed_log1p" else exact


def _fill(missing: Missing, present: NDArray[np.float32]) -> float:
    """Value of a missing number; ``present`` ascends."""
    if missing.value is not None:
        return missing.value
    if not present.size:
        return 0.0
    if missing.fill == "median":
        middle = present[[(present.size - 1) // 2, present.size // 2]].astype(np.float64)
        return float(middle.mean())
    return _moments(present, lambda raw: raw.astype(np.float64))[0]


def _moments(
    values: NDArray[np.float32], exact: Callable[[NDArray[np.float32]], NDArray[np.float64]]
) -> tuple[float, float]:
    """Mean and population standard deviation of ``exact`` of the values, which are taken some at a time; 0 of none."""
    if not values.size:
        return 0.0, 0.0
    pieces = [values[at : at + _PIECE] for at in range(0, values.size, _PIECE)]
    mean = math.fsum(float(exact(piece).sum()) for piece in pieces) / values.size
    square = math.fsum(float(np.square(exact(piece) - mean).sum()) for piece in pieces) / values.size
    return mean, math.sqrt(square)


def _counts(training: pl.LazyFrame, feature: CategoricalFeature) -> pl.LazyFrame:
    """The vocabulary of one feature."""
    pooled = _pooled(feature)
    if pooled is None:
        rows = training.select("ts", "day", key=pl.col(feature.name).cast(pl.String))
    else:
        rows = training.select("ts", "day", key=_read_values(pl.col(feature.name), pooled)).explode("key")
    counted = (
        rows.drop_nulls("key")
        .group_by("key")
        .agg(
            count=pl.len().cast(pl.Int64),
            first_day=pl.col("day").min(),
            last_day=pl.col("day").max(),
            first=pl.col("ts").min(),
        )
        .filter(pl.col("count") >= feature.min_count)
        # By the text last: that of a user is a hash, and another key of the hashes is to make the same model.
        .sort("count", "first", "key", descending=[True, False, False])
        .with_row_index("row", offset=FIRST_VOCABULARY_ROW)
    )
    return counted.select(
        pl.lit(feature.name).alias("feature"), "key", pl.col("row").cast(pl.Int64), "count", "first_day", "last_day"
    )


def _frequencies(spec: Spec, training: pl.LazyFrame, counts: list[pl.DataFrame]) -> dict[str, Frequency]:
    """For each feature whose frequency is an input, how it is standardised.

    Args:
        spec: The features.
        training: The training rows.
        counts: The vocabularies of the embedded features of the log, in their order; others may follow.
    """
    wanted = [n for n, feature in enumerate(spec.features.embedded) if feature.frequency]
    if not wanted:
        return {}
    names = [spec.features.embedded[n].name for n in wanted]
    present = training.select(pl.col(names).count()).collect(engine="streaming")
    return {
        name: _frequency(counts[n]["count"].to_numpy().astype(np.float64), present.item(0, name))
        for n, name in zip(wanted, names, strict=True)
    }


def _frequency(known: NDArray[np.float64], present: int) -> Frequency:
    """Mean and deviation of log(rank), of the rows of each value of the vocabulary and of all rows with a value."""
    if not present:
        return Frequency(0.0, 1.0)
    rows = np.append(known, present - known.sum())
    logs = np.log(np.arange(1, rows.size + 1))
    mean = float(rows @ logs) / present
    return Frequency(mean, _divisor(mean, math.sqrt(float(rows @ np.square(logs - mean)) / present)))


def _to_array(column: pl.Series) -> NDArray[np.float32]:
    """float32 with NaN for missing; infinite values count as missing."""
    values: NDArray[np.float32] = column.cast(pl.Float32).fill_null(float("nan")).to_numpy().copy()
    values[~np.isfinite(values)] = np.nan
    return values
