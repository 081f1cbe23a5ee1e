"""Labels of impressions all of whose window is over, positives included: rates of them are not those of early positives."""

from collections.abc import Mapping, Sequence

import polars as pl

from ctr_pipeline.labels.states import label_maturity
from ctr_pipeline.labels.table import join_labels, label_column
from ctr_pipeline.spec.tasks import Task


def join_settled(
    impressions: pl.LazyFrame,
    table: pl.LazyFrame,
    tasks: Sequence[Task],
    names: Sequence[str],
    as_of: int,
    ingest_lag: int,
    watermarks: Mapping[str, int],
) -> pl.DataFrame:
    """``impressions`` with the label of each of ``names``, null until the whole window is over and its outcomes have arrived.

    Whether a label is there depends on the time of the impression alone, and not on what happened after it: so early
    clicks are not counted before late absences, and two arms are compared at the same maturity. Arguments are those of
    :func:`~ctr_pipeline.labels.table.join_labels`.
    """
    rows = join_labels(impressions, table, tasks, names, as_of, ingest_lag, watermarks).collect()
    for name in names:
        window = label_maturity(tasks, name)
        over = (pl.col("ts") + window + ingest_lag <= as_of) & (pl.col("ts") + window <= watermarks[name])
        rows = rows.with_columns(pl.when(over).then(pl.col(label_column(name))).alias(label_column(name)))
    return rows
