"""The states of a label over time."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import narwhals.stable.v2 as nw
from narwhals.stable.v2.typing import IntoLazyFrameT

from ctr_pipeline.labels.labelling import labels_of
from ctr_pipeline.labels.states import NEVER, LabelState, label_value
from ctr_pipeline.spec.tasks import Task

REVISION_COLUMNS = (
    "day",
    "impression_id",
    "ts",
    "task",
    "from_ts",
    "until_ts",
    "state",
    "value",
    "elapsed",
    "revision",
)
"""Columns of :func:`revisions`, in order."""

Frame: TypeAlias = nw.LazyFrame[Any]


def revisions(
    impressions: IntoLazyFrameT, facts: IntoLazyFrameT, tasks: Sequence[Task], as_of: int, ingest_lag: int = 0
) -> IntoLazyFrameT:
    """The states that each label went through up to ``as_of``: one row for each interval of time with one state.

    The intervals of an impression and task follow each other without a gap, from the arrival of the impression on.
    At every instant up to ``as_of`` the state, value and revision of the interval that contains it are those of
    :func:`~ctr_pipeline.labels.labelling.label_impressions` as of that instant.

    Args:
        impressions: Rows of the impressions table.
        facts: What :func:`~ctr_pipeline.labels.labelling.label_facts` found about them as of ``as_of`` or later.
        tasks: Tasks of the spec, parents first.
        as_of: Microseconds since 1970-01-01 UTC.
        ingest_lag: Microseconds added to every maturity.

    Returns:
        Rows with :data:`REVISION_COLUMNS` on the engine of the inputs, in no order. ``from_ts`` is the first instant
        of the interval and ``until_ts`` the first after it, null for the state as of ``as_of``. ``elapsed`` is the
        time from the impression to the end of a censored interval, or to ``as_of`` where it has none; null for other
        states. ``revision`` is 1 for a label that had been settled otherwise before, else 0.
    """
    labels = nw.from_native(labels_of(impressions, facts, tasks, as_of, ingest_lag))
    known, settled = nw.col("known_ts"), nw.col("settled_ts")
    labels = labels.with_columns(
        decided_ts=nw.min_horizontal("known_ts", "settled_ts"),
        # An outcome after the window has no effect before the label is settled.
        after_ts=nw.when(~settled.is_null() & ~nw.col("out_of_window_known_ts").is_null())
        .then(nw.max_horizontal("settled_ts", "out_of_window_known_ts"))
        .otherwise(NEVER),
    )
    late = nw.lit(LabelState.LATE_POSITIVE.value)
    positive = nw.when(known <= nw.col("mature_ts")).then(nw.lit(LabelState.POSITIVE.value)).otherwise(late)
    intervals = [
        _interval(labels, nw.col("ingest_ts"), nw.col("decided_ts"), nw.lit(LabelState.CENSORED.value)),
        _interval(labels, settled, nw.min_horizontal("after_ts", "known_ts"), nw.lit(LabelState.NEGATIVE.value)),
        _interval(labels, nw.col("after_ts"), known, nw.lit(LabelState.OUT_OF_WINDOW.value)),
        _interval(labels, known, NEVER, positive),
    ]
    rows = nw.concat(intervals, how="vertical")
    value = label_value(nw.col("state"))
    end = nw.when(nw.col("until_ts").is_null()).then(nw.lit(as_of)).otherwise(nw.col("until_ts"))
    revised = ~nw.col("settled_ts").is_null() & (nw.col("from_ts") > nw.col("settled_ts")) & (value == 1)
    found: IntoLazyFrameT = (
        rows.with_columns(
            value=value,
            elapsed=nw.when(value.is_null()).then(end - nw.col("ts")).otherwise(NEVER),
            revision=nw.when(revised).then(nw.lit(1)).otherwise(nw.lit(0)).cast(nw.Int8),
        )
        .select(REVISION_COLUMNS)
        .to_native()
    )
    return found


def _interval(labels: Frame, start: nw.Expr, end: nw.Expr, state: nw.Expr) -> Frame:
    """The labels that were in ``state`` from ``start`` to ``end``, if only for a microsecond."""
    rows = labels.select("day", "impression_id", "ts", "task", "settled_ts", from_ts=start, until_ts=end, state=state)
    return rows.filter(
        ~nw.col("from_ts").is_null(), nw.col("until_ts").is_null() | (nw.col("until_ts") > nw.col("from_ts"))
    )
