"""Columns of lists: several categories in one value, and vectors of numbers."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from ctr_pipeline.sources import values
from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.pseudonyms import Pseudonymiser
from ctr_pipeline.sources.rows import RAW, raw
from ctr_pipeline.sources.values import Check, Field
from ctr_pipeline.spec.features import CategoricalFeature, NumericFeature

_MADE = "__made"


def list_feature(
    feature: CategoricalFeature, kind: pl.DataType, where: str, pseudonymiser: Pseudonymiser | None
) -> Field:
    """Several categories as texts, or as pseudonyms where ``pseudonymiser`` is given: each as if it stood alone.

    A missing one is null, as a missing list is; an empty list stays one.

    Raises:
        SourceError: the column holds no lists, or lists of other things than categories.
    """
    column = feature.source_column
    if kind == pl.Null:
        return Field(pl.lit(None, pl.List(pl.String)).alias(feature.name))
    inner = _inner(kind)
    if inner is None:
        remedy = (
            "Text needs `list.separator` in the spec: what stands between the values."
            if kind == pl.String
            else "Take `list` out of the feature, or convert the column."
        )
        raise SourceError(
            f"{where}: column `{column}` has type {kind}, but feature `{feature.name}` reads lists. {remedy}"
        )
    assert column is not None, "one that is made of the time holds no lists"
    alone = CategoricalFeature(name=feature.name, column=column)
    field = values.embedded_feature(alone, inner, where, pseudonymiser)
    return Field(
        _each(column, field.value, pl.String()).alias(feature.name), tuple(_any(check) for check in field.checks)
    )


def vector_feature(feature: NumericFeature, kind: pl.DataType, where: str) -> Field:
    """``width`` finite float64 within the declared bounds, or null; an empty list is a missing vector.

    Raises:
        SourceError: the column holds no lists of numbers.
    """
    column = feature.source_column
    if kind == pl.Null:
        return Field(pl.lit(None, pl.List(pl.Float64)).alias(feature.name))
    inner = _inner(kind)
    if inner is None:
        raise SourceError(
            f"{where}: column `{column}` has type {kind}, but feature `{feature.name}` has `width`: it reads vectors, "
            "which are lists of numbers in Parquet or NDJSON. Take `width` out, or write the log in one of these."
        )
    alone = feature.model_copy(update={"width": None})
    field = values.numeric_feature(alone, inner, where)
    numbers = _each(column, field.value, pl.Float64())
    vector = pl.when(raw(column).list.len() > 0).then(numbers)
    whole = (
        Check(
            broken=vector.list.len() != feature.width,
            reason="wrong_width",
            rule=f"`{column}` holds {feature.width} numbers in each row, as feature `{feature.name}` declares, or none",
            column=column,
            unreadable=True,
        ),
        *(_any(check) for check in field.checks),
        # After the others: these say better what is wrong where a text is no number.
        Check(
            broken=vector.list.eval(pl.element().is_null()).list.any(),
            reason="non_finite",
            rule=f"`{column}` holds a finite number in each of its places; one of them is missing or NaN",
            column=column,
        ),
    )
    return Field(vector.alias(feature.name), whole)


def _inner(kind: pl.DataType) -> pl.DataType | None:
    if not isinstance(kind, pl.List):
        return None
    return kind.inner if isinstance(kind.inner, pl.DataType) else kind.inner()


def _any(check: Check) -> Check:
    """The check of one value, for a list of them."""
    assert check.column is not None, "the check of a value names its column"
    return Check(
        broken=_each(check.column, check.broken, pl.Boolean()).list.any(),
        reason=check.reason,
        rule=check.rule,
        column=check.column,
        unreadable=check.unreadable,
    )


def _each(column: str, value: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """Lists of what ``value``, an expression on the log's column ``column``, makes of each value in its lists."""

    def made(lists: pl.Series) -> pl.Series:
        lengths = lists.list.len().fill_null(0)
        inner = pl.DataFrame([lists.filter(lengths > 0).explode().alias(RAW + column)])
        # Beside the values: of an expression without a column there is one value, whatever their number.
        flat = inner.with_columns(value.cast(kind).alias(_MADE))[_MADE]
        ends = np.concatenate([[0], np.cumsum(lengths.to_numpy(), dtype=np.int64)])
        found = pa.LargeListArray.from_arrays(
            pa.array(ends), flat.to_arrow(), mask=pa.array(lists.is_null().to_numpy())
        )
        return pl.Series(lists.name, pl.from_arrow(found), dtype=pl.List(kind))

    return raw(column).map_batches(made, return_dtype=pl.List(kind))


def cut_lists(features: Sequence[CategoricalFeature], rows: pl.DataFrame) -> int:
    """Rows in which a list is longer than what the model reads of it."""
    longer = [
        pl.col(feature.name).list.len() > feature.list.max_length for feature in features if feature.list is not None
    ]
    return int(rows.select(pl.any_horizontal(longer).fill_null(False).sum()).item()) if longer else 0
