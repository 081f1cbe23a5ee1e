"""Examples: impressions with their history and labels, as a lazy join that is computed only when packed."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta

import narwhals.stable.v2 as nw
import polars as pl
from narwhals.stable.v2.typing import IntoLazyFrameT

from ctr_pipeline.datasets.split_parts import SplitBounds
from ctr_pipeline.features import Layout, fit_layout, gather_lists, join_history
from ctr_pipeline.labels import join_labels, label_column
from ctr_pipeline.propensity import PropensityTable, position_propensity
from ctr_pipeline.spec import Spec


def build_examples(
    spec: Spec,
    impressions: IntoLazyFrameT,
    labels: IntoLazyFrameT,
    history: IntoLazyFrameT,
    as_of: int,
    watermarks: Mapping[str, int] | None = None,
) -> IntoLazyFrameT:
    """One row an impression that had arrived by ``as_of``, with history features and one label column a task.

    Args:
        spec: Features and tasks.
        impressions: Rows of the impressions table.
        labels: Rows of the labels table for the same days, labelled as of ``as_of`` or later.
        history: Rows of the history table for the same days.
        as_of: Instant as of which the labels are taken, microseconds.
        watermarks: As for :func:`~ctr_pipeline.labels.table.join_labels`.

    Returns:
        The impressions' columns, a float64 column a history feature, and the column
        :func:`~ctr_pipeline.labels.table.label_column` of each task (Int8).
    """
    shown = nw.from_native(impressions).filter(nw.col("ingest_ts") <= as_of)
    examples = join_history(spec, shown.to_native(), history)
    names = [task.name for task in spec.tasks]
    return join_labels(examples, labels, spec.tasks, names, as_of, spec.split.ingest_lag, watermarks)


def in_interval(frame: pl.LazyFrame, start: int, end: int) -> pl.LazyFrame:
    """Rows of ``frame`` (columns day and ts) from ``start`` to before ``end``; only the files of those days are read."""
    first, last = utc_day(start), utc_day(end - 1)
    return frame.filter(pl.col("day").is_between(first, last), pl.col("ts").is_between(start, end, closed="left"))


def rows_of(bounds: SplitBounds, split: str, impressions: pl.LazyFrame) -> pl.LazyFrame:
    """The impressions of ``split`` that had arrived when its labels are taken."""
    known = pl.col("ingest_ts") <= bounds.label_as_of(split)
    return in_interval(impressions, *bounds.intervals[split]).filter(bounds.rows_of(split), known)


def rows_before_test(bounds: SplitBounds, impressions: pl.LazyFrame) -> pl.LazyFrame:
    """The impressions that may be looked at before the test, and had arrived by then."""
    known = pl.col("ingest_ts") <= bounds.label_as_of("train")
    shown = in_interval(impressions, bounds.train_start, bounds.settled_end)
    return shown.filter(bounds.rows_before_test(), known)


def utc_day(instant: int) -> date:
    """The UTC day of an instant in microseconds."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(instant))).date()


def settled_labels(bounds: SplitBounds, tasks: Iterable[str]) -> list[pl.Expr]:
    """The label columns of ``tasks`` for the rows before the test, null where only an early outcome could be known."""
    return [pl.when(bounds.settled(task)).then(pl.col(label_column(task))).alias(label_column(task)) for task in tasks]


def fit_vocabulary(
    spec: Spec, bounds: SplitBounds, impressions: pl.LazyFrame, history: pl.LazyFrame
) -> tuple[Layout, pl.DataFrame]:
    """Layout and vocabulary of the training interval: its rows that had arrived when the test began, and no others."""
    shown = rows_of(bounds, "train", impressions)
    keys = shown.select("day", "ts", "impression_id", *sorted({feature.key for feature in spec.features.history}))
    return fit_layout(spec, shown, lambda name: gather_lists(spec, join_history(spec, keys, history, [name]), [name]))


def fit_propensity(
    spec: Spec,
    bounds: SplitBounds,
    impressions: pl.LazyFrame,
    labels: pl.LazyFrame,
    watermarks: Mapping[str, int] | None = None,
) -> PropensityTable:
    """The position propensities of the rows whose labels are settled at the first instant of the test.

    ``watermarks`` are those of that instant (:func:`~ctr_pipeline.labels.table.join_labels`).
    """
    as_of = bounds.label_as_of("train")
    responses = spec.propensity.responses or [task.name for task in spec.tasks]
    shown = rows_before_test(bounds, impressions)
    rows = join_labels(
        shown.select("day", "impression_id", "ts", "ingest_ts", "session", "position", "traffic"),
        in_interval(labels, bounds.train_start, bounds.settled_end),
        spec.tasks,
        responses,
        as_of,
        spec.split.ingest_lag,
        watermarks,
    )
    return position_propensity(
        rows.with_columns(settled_labels(bounds, responses)).drop("impression_id", "ts", "ingest_ts").collect(),
        responses,
        {task.name: task.parent for task in spec.tasks},
        smoothing=spec.propensity.smoothing,
        clip=spec.propensity.clip,
        seed=spec.seed,
    )
