"""Label quality of a retrain: counted and evaluated on what was known before the test began."""

from collections.abc import Mapping

import polars as pl

from ctr_pipeline.datasets.examples import in_interval, rows_before_test, settled_labels
from ctr_pipeline.datasets.packed import DatasetError
from ctr_pipeline.datasets.split_parts import SplitBounds
from ctr_pipeline.labels import facts_in, join_labels, label_column
from ctr_pipeline.labels.quality import QualityTable, label_quality
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.tasks import Task

_ROW = ["day", "impression_id", "ts"]


def fit_label_quality(
    spec: Spec,
    bounds: SplitBounds,
    impressions: pl.LazyFrame,
    labels: pl.LazyFrame,
    watermarks: Mapping[str, int] | None = None,
) -> tuple[QualityTable, pl.DataFrame]:
    """Whose labels are implausible among the rows that are settled at the first instant of the test.

    ``watermarks`` are those of that instant (:func:`~ctr_pipeline.labels.table.join_labels`).

    Returns:
        The table, and all keys (see :func:`~ctr_pipeline.labels.quality.label_quality`).

    Raises:
        DatasetError: the spec does not declare whose labels are to be evaluated.
    """
    section = spec.label_quality
    if section is None:
        raise DatasetError("label quality: the spec has no section `label_quality`. Declare one, with a `key`.")
    evaluated = [task for task in spec.tasks if task.name in section.evaluated_tasks(spec.tasks)]
    as_of = bounds.label_as_of("train")
    shown = rows_before_test(bounds, impressions).select(*_ROW, "ingest_ts", key=pl.col(section.key)).drop_nulls("key")
    stored = in_interval(labels, bounds.train_start, bounds.settled_end)
    counted = {name: None for task in evaluated for name in (task.parent, task.name) if name is not None}
    rows = join_labels(shown, stored, spec.tasks, list(counted), as_of, spec.split.ingest_lag, watermarks)
    rows = rows.with_columns(settled_labels(bounds, counted))
    return label_quality(
        section.key,
        _counts(rows, evaluated),
        pl.concat(
            [_delays(shown.filter(bounds.settled(task.name)), facts_in(stored), task, as_of) for task in evaluated]
        ).collect(),
        {task.name: task.parent for task in evaluated},
        min_trials=section.min_trials,
        threshold=section.threshold,
        floor=section.floor,
    )


def _counts(rows: pl.LazyFrame, tasks: list[Task]) -> pl.DataFrame:
    """Trials and positives by task and key, in one pass over the rows."""

    def trial(task: Task) -> pl.Expr:
        settled = pl.col(label_column(task.name)).is_not_null()
        return settled if task.parent is None else settled & (pl.col(label_column(task.parent)) == 1)

    sums = rows.group_by("key").agg(
        *(trial(task).sum().alias(f"trials:{task.name}") for task in tasks),
        *((trial(task) & (pl.col(label_column(task.name)) == 1)).sum().alias(f"positives:{task.name}") for task in tasks),
    )  # fmt: skip
    wide = sums.collect()
    return pl.concat(
        wide.select(
            "key",
            pl.lit(task.name).alias("task"),
            pl.col(f"trials:{task.name}").alias("trials"),
            pl.col(f"positives:{task.name}").alias("positives"),
        )
        for task in tasks
    )


def _delays(shown: pl.LazyFrame, facts: pl.LazyFrame, task: Task, as_of: int) -> pl.LazyFrame:
    """Microseconds from the parent's outcome (or the impression) until each outcome of ``task`` was known.

    None for a 0/1 column, which has no times.
    """
    known = facts.filter(pl.col("task") == task.name, pl.col("known_ts") <= as_of).select(*_ROW, "known_ts")
    if task.label.column is not None:
        known = known.head(0)
    started = pl.col("ts")
    if task.parent is not None:
        parents = facts.filter(pl.col("task") == task.parent).select(*_ROW, parent_ts=pl.col("event_ts"))
        known, started = known.join(parents, on=_ROW, how="inner"), pl.col("parent_ts")
    return known.join(shown, on=_ROW, how="inner").select(
        "key", pl.lit(task.name).alias("task"), (pl.col("known_ts") - started).alias("delay")
    )
