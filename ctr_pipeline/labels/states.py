"""States of a label, and the rules that turn stored facts into a state at any earlier instant."""

from collections.abc import Sequence
from enum import StrEnum

import narwhals.stable.v2 as nw
from narwhals.stable.v2.typing import IntoLazyFrameT

from ctr_pipeline.spec.tasks import Task, maturity

NEVER = nw.lit(None).cast(nw.Int64)
"""An instant that has not come."""


class LabelState(StrEnum):
    """What is known, as of an instant, about the outcome of a task after an impression."""

    POSITIVE = "POSITIVE"
    """The outcome happened inside its window and was known by the maturity instant. Label 1."""
    LATE_POSITIVE = "LATE_POSITIVE"
    """The outcome happened inside its window but was first known after the maturity instant. Label 1."""
    NEGATIVE = "NEGATIVE"
    """Settled without an outcome. Label 0."""
    OUT_OF_WINDOW = "OUT_OF_WINDOW"
    """Settled; an outcome happened, but after the window. Label 0, kept apart for audit."""
    CENSORED = "CENSORED"
    """Not settled: the window is open, the case undecided, or the value unknown. No label."""


def label_maturity(tasks: Sequence[Task], name: str) -> int:
    """Microseconds after an impression at which ``name`` can be settled, without ingest lag.

    The longest of the task's own maturity and those of its ancestors: one and the same for every impression, whatever
    happened after it.
    """
    task = next(t for t in tasks if t.name == name)
    own = maturity(list(tasks), name)
    return own if task.parent is None else max(own, label_maturity(tasks, task.parent))


def mature_ts(tasks: Sequence[Task], name: str, ingest_lag: int) -> nw.Expr:
    """When the label of a row (columns ts, ingest_ts) can be settled: its maturity and lag after the impression.

    Never before the impression itself arrived.
    """
    return nw.max_horizontal(nw.col("ts") + (label_maturity(tasks, name) + ingest_lag), nw.col("ingest_ts"))


def settles_without_events(tasks: Sequence[Task], name: str) -> bool:
    """Whether time alone settles the label of an impression of which no further event arrives.

    It does not where a case must be closed first, unless the parent's label is settled by time.
    """
    task = next(t for t in tasks if t.name == name)
    if not task.label.needs_closing:
        return True
    return task.parent is not None and settles_without_events(tasks, task.parent)


def state_at(as_of: int) -> nw.Expr:
    """State as of ``as_of`` of a row with the fact columns of the labels table.

    Valid for every ``as_of`` up to that of the row.
    """
    known, settled, after = nw.col("known_ts"), nw.col("settled_ts"), nw.col("out_of_window_known_ts")
    positive = (
        nw.when(known <= nw.col("mature_ts"))
        .then(nw.lit(LabelState.POSITIVE.value))
        .otherwise(nw.lit(LabelState.LATE_POSITIVE.value))
    )
    negative = (
        nw.when(after <= as_of)
        .then(nw.lit(LabelState.OUT_OF_WINDOW.value))
        .otherwise(nw.lit(LabelState.NEGATIVE.value))
    )
    unsettled = nw.when(settled <= as_of).then(negative).otherwise(nw.lit(LabelState.CENSORED.value))
    return nw.when(known <= as_of).then(positive).otherwise(unsettled)


def value_at(as_of: int) -> nw.Expr:
    """The label as of ``as_of``: 1, 0, or null while it is not settled (Int8)."""
    return label_value(state_at(as_of))


def revision_at(as_of: int) -> nw.Expr:
    """How often the label had changed, by ``as_of``, after it was settled: 1 for a late positive, else 0 (Int8)."""
    late = (nw.col("known_ts") <= as_of) & (nw.col("known_ts") > nw.col("settled_ts"))
    return nw.when(late).then(nw.lit(1)).otherwise(nw.lit(0)).cast(nw.Int8)


def label_value(state: nw.Expr) -> nw.Expr:
    """The label of a state: 1, 0, or null where it is not settled (Int8)."""
    one = state.is_in([LabelState.POSITIVE.value, LabelState.LATE_POSITIVE.value])
    zero = state.is_in([LabelState.NEGATIVE.value, LabelState.OUT_OF_WINDOW.value])
    unknown = nw.when(zero).then(nw.lit(0)).otherwise(nw.lit(None))
    return nw.when(one).then(nw.lit(1)).otherwise(unknown).cast(nw.Int8)


def states_as_of(labels: IntoLazyFrameT, as_of: int) -> IntoLazyFrameT:
    """The states of a labels table as they were at the earlier instant ``as_of``.

    Equals labelling from scratch as of that instant: rows of impressions that had not arrived by then are left out.

    Args:
        labels: Rows of the labels table, labelled as of ``as_of`` or later.
        as_of: Microseconds since 1970-01-01 UTC.

    Returns:
        The columns day, impression_id, ts, ingest_ts, task, state, as_of.
    """
    return (
        nw.from_native(labels)
        .filter(nw.col("ingest_ts") <= as_of)
        .with_columns(state=state_at(as_of), as_of=nw.lit(as_of).cast(nw.Int64))
        .select("day", "impression_id", "ts", "ingest_ts", "task", "state", "as_of")
        .to_native()
    )


def state_counts(labels: IntoLazyFrameT) -> dict[str, dict[str, int]]:
    """Number of rows of ``labels`` by task and state; states without rows count 0."""
    counts: dict[str, dict[str, int]] = {}
    grouped = nw.from_native(labels).group_by("task", "state").agg(rows=nw.len()).sort("task", "state")
    for task, state, rows in grouped.collect(backend="polars").iter_rows():
        counts.setdefault(str(task), {s.value: 0 for s in LabelState})[str(state)] = int(rows)
    return counts
