"""Labels as a pure function of impressions, events and an instant."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import narwhals.stable.v2 as nw
from narwhals.stable.v2.typing import IntoLazyFrameT

from ctr_pipeline.labels.holding import held
from ctr_pipeline.labels.states import (
    NEVER,
    mature_ts,
    revision_at,
    settles_without_events,
    state_at,
    value_at,
)
from ctr_pipeline.spec.tasks import Task

LABEL_COLUMNS = (
    "day",
    "impression_id",
    "ts",
    "ingest_ts",
    "task",
    "event_ts",
    "known_ts",
    "closed_ts",
    "unknown",
    "out_of_window_ts",
    "out_of_window_known_ts",
    "mature_ts",
    "settled_ts",
    "state",
    "elapsed",
    "revision",
    "as_of",
)
"""Columns of labels, in order."""

FACT_COLUMNS = (
    "day",
    "impression_id",
    "ts",
    "ingest_ts",
    "task",
    "event_ts",
    "known_ts",
    "closed_ts",
    "unknown_ts",
    "out_of_window_ts",
    "out_of_window_known_ts",
    "settled_ts",
    "as_of",
)
"""Columns of label facts, in order."""

Frame: TypeAlias = nw.LazyFrame[Any]

_ROW = ["impression_id", "ts"]
_FACTS = ("event_ts", "known_ts", "closed_ts", "unknown_ts", "out_of_window_ts", "out_of_window_known_ts")
_KNOWN_WITH = {
    "event_ts": "known_ts",
    "known_ts": "known_ts",
    "closed_ts": "closed_ts",
    "unknown_ts": "unknown_ts",
    "out_of_window_ts": "out_of_window_known_ts",
    "out_of_window_known_ts": "out_of_window_known_ts",
    "settled_ts": "settled_ts",
}
"""When each fact came to be known."""


def label_impressions(
    impressions: IntoLazyFrameT,
    events: IntoLazyFrameT,
    tasks: Sequence[Task],
    as_of: int,
    ingest_lag: int = 0,
    max_early: int = 0,
) -> IntoLazyFrameT:
    """Labels of ``impressions`` as of ``as_of``: one row an impression and task.

    Sees only rows with ``ingest_ts <= as_of``. Order and duplicates of events do not matter.

    *What counts.* An outcome counts when it happened inside its window, both ends included. The window starts at the
    impression or, with ``window_from``, at an outcome of that task that itself counts; with several such outcomes,
    inside the window of any of them. A task with a parent needs a parent outcome that counts, so a child is never
    positive without its parent; until the parent is known its outcome waits. Events before the impression count as at
    the impression when they are at most ``max_early`` before it, since clocks differ; earlier ones, and those of
    impressions that are not in ``impressions``, never count.

    *When it is known.* ``known_ts`` is the first instant at which impression, outcome, window start and parent had all
    arrived. ``event_ts`` is the time of the outcome that was known first, so neither changes when more events arrive;
    likewise ``out_of_window_known_ts`` and ``out_of_window_ts`` of an outcome after its window (with several starts,
    outside the windows of all that were known then: a start that arrives later cannot take back what was known).

    *When a negative is settled.* ``mature_ts`` is ``ts`` plus :func:`label_maturity` plus ``ingest_lag``, or the
    arrival of the impression if that is later. It is the same interval for every impression: a conversion label of an
    impression without a click matures no earlier than that of a clicked one. A plain task is settled at ``mature_ts``.
    A task with ``closed_by`` is settled only once, besides, its closing or an outcome after its window is known: an
    undecided case stays censored, however old. An unknown value that arrived by then is never settled by itself. In
    all cases a parent that is settled as negative settles the child too, at the child's ``mature_ts`` or when the
    parent was, unless the parent has become positive by then. A settled negative changes only into LATE_POSITIVE.

    Args:
        impressions: Rows of the impressions table (day, impression_id, ts, ingest_ts are read).
        events: Rows of the outcome_events table that arrived from the first of these days on, less ``max_early``.
        tasks: Tasks of the spec, parents first.
        as_of: Microseconds since 1970-01-01 UTC.
        ingest_lag: Microseconds added to every maturity.
        max_early: Microseconds by which an event may come before its impression.

    Returns:
        Rows with :data:`LABEL_COLUMNS`, on the engine of the inputs. ``elapsed`` is the time since the impression
        while the label is censored (null once it is settled); ``revision`` is 1 once a label has changed after it was
        settled, else 0. ``known_ts``, ``settled_ts``, ``mature_ts`` and ``out_of_window_known_ts`` determine the state
        at every instant up to ``as_of`` (:func:`~ctr_pipeline.labels.states.states_as_of`).
    """
    facts = label_facts(impressions, events, tasks, as_of, ingest_lag, max_early=max_early)
    return labels_of(impressions, facts, tasks, as_of, ingest_lag)


def label_facts(
    impressions: IntoLazyFrameT,
    events: IntoLazyFrameT,
    tasks: Sequence[Task],
    as_of: int,
    ingest_lag: int = 0,
    beside: Sequence[str] = (),
    max_early: int = 0,
) -> IntoLazyFrameT:
    """What is known about those impressions of which something is known: a row for each of them and each task.

    All other impressions are settled by time alone, so that these few rows and the impressions determine all labels
    (:func:`labels_of`).

    Args:
        impressions: As for :func:`label_impressions`.
        events: As for :func:`label_impressions`.
        tasks: Tasks of the spec, parents first.
        as_of: Microseconds since 1970-01-01 UTC.
        ingest_lag: Microseconds added to every maturity.
        beside: Columns of ``impressions`` to be carried along: joining them later would read all impressions again.
        max_early: As for :func:`label_impressions`.

    Returns:
        Rows with :data:`FACT_COLUMNS` and a column ``beside:<name>`` for each of ``beside``, on the engine of the
        inputs.
    """
    shown = nw.from_native(impressions).filter(nw.col("ingest_ts") <= as_of)
    carried = {f"beside:{name}": nw.col(name) for name in beside}
    shown = shown.select("day", "impression_id", "ts", "ingest_ts", **carried)
    # Every task reads it; unless it is held, each of them joins all impressions again.
    seen = held(_visible(shown, nw.from_native(events), tasks, as_of, max_early))
    wide = seen.select("day", "impression_id", "ts", "ingest_ts", *carried).unique()
    hits: dict[str, Frame] = {}
    facts: dict[str, Frame] = {}
    for task in tasks:
        placed = _placed(seen.filter(nw.col("event") == task.name), task, hits, facts)
        hits[task.name] = placed.filter(~nw.col("hit_ts").is_null())
        facts[task.name] = _facts(placed)
        wide = wide.join(facts[task.name].rename(_columns_of(task)), on=_ROW, how="left")
        wide = wide.with_columns(mature_ts(tasks, task.name, ingest_lag).alias(f"mature_ts:{task.name}"))
        wide = wide.with_columns(_settled(task, as_of).alias(f"settled_ts:{task.name}"))
    long = {
        name: _of_task(tasks, {task.name: nw.col(f"{name}:{task.name}") for task in tasks})
        for name in (*_FACTS, "settled_ts")
    }
    rows = _each_task(wide, tasks).select("day", "impression_id", "ts", "ingest_ts", "task", *carried, **long)
    found: IntoLazyFrameT = (
        rows.with_columns(as_of=nw.lit(as_of).cast(nw.Int64)).select(*FACT_COLUMNS, *carried).to_native()
    )  # fmt: skip
    return found


def labels_of(
    impressions: IntoLazyFrameT, facts: IntoLazyFrameT, tasks: Sequence[Task], as_of: int, ingest_lag: int = 0
) -> IntoLazyFrameT:
    """The labels of ``impressions`` as of ``as_of``, from facts that were found as of that instant or later.

    Args:
        impressions: Rows of the impressions table.
        facts: What :func:`label_facts` found about them, with the same tasks and lag.
        tasks: Tasks of the spec, parents first.
        as_of: Microseconds since 1970-01-01 UTC, no later than that of ``facts``.
        ingest_lag: Microseconds added to every maturity.

    Returns:
        The same rows as :func:`label_impressions` as of ``as_of``.
    """
    shown = nw.from_native(impressions).filter(nw.col("ingest_ts") <= as_of)
    rows = _each_task(shown.select("day", "impression_id", "ts", "ingest_ts"), tasks)
    mature = _of_task(tasks, {task.name: mature_ts(tasks, task.name, ingest_lag) for task in tasks})
    known = nw.from_native(facts).select(*_ROW, "task", *_FACTS, "settled_ts", fact_task=nw.col("task"))
    rows = rows.with_columns(mature_ts=mature).join(known, on=[*_ROW, "task"], how="left")
    by_time = _of_task(
        tasks, {t.name: nw.col("mature_ts") if settles_without_events(tasks, t.name) else NEVER for t in tasks}
    )
    settled = nw.when(nw.col("fact_task").is_null()).then(by_time).otherwise(nw.col("settled_ts"))
    rows = rows.with_columns(settled_ts=settled)
    # What became known later is not known yet.
    rows = rows.with_columns(
        **{name: nw.when(nw.col(with_ts) <= as_of).then(nw.col(name)).otherwise(NEVER)
           for name, with_ts in _KNOWN_WITH.items()}
    )  # fmt: skip
    censored = value_at(as_of).is_null()
    labels: IntoLazyFrameT = (
        rows.with_columns(
            unknown=~nw.col("unknown_ts").is_null(),
            state=state_at(as_of),
            elapsed=nw.when(censored).then(as_of - nw.col("ts")).otherwise(NEVER),
            revision=revision_at(as_of),
            as_of=nw.lit(as_of).cast(nw.Int64),
        )
        .select(LABEL_COLUMNS)
        .to_native()
    )
    return labels


def _visible(shown: Frame, events: Frame, tasks: Sequence[Task], as_of: int, max_early: int) -> Frame:
    """Events that had arrived, each with its impression; ``known_ts`` = when both had.

    Events that come before their impression by no more than ``max_early`` have its time.
    """
    arrived = events.filter(nw.col("ingest_ts") <= as_of, nw.col("event").is_in([task.name for task in tasks]))
    arrived = arrived.select("impression_id", "event", "kind", "event_ts", arrived_ts=nw.col("ingest_ts"))
    joined = arrived.join(shown, on="impression_id", how="inner")
    if max_early:
        early = (nw.col("event_ts") < nw.col("ts")) & (nw.col("event_ts") >= nw.col("ts") - max_early)
        joined = joined.with_columns(event_ts=nw.when(early).then(nw.col("ts")).otherwise(nw.col("event_ts")))
    joined = joined.filter((nw.col("kind") == "unknown") | (nw.col("event_ts") >= nw.col("ts")))
    return joined.with_columns(known_ts=nw.max_horizontal("arrived_ts", "ingest_ts")).drop("arrived_ts")


def _placed(events: Frame, task: Task, hits: dict[str, Frame], facts: dict[str, Frame]) -> Frame:
    """The task's events beside each start of a window.

    ``hit_ts`` = when an outcome that counts was known; ``after_ts`` = when an outcome after the window was.
    """
    if task.window_from == "impression":
        placed = events.with_columns(from_ts=nw.col("ts"), from_known_ts=nw.col("known_ts"))
    else:
        starts = hits[task.window_from].select(*_ROW, from_ts=nw.col("event_ts"), from_known_ts=nw.col("hit_ts"))
        placed = events.join(starts, on=_ROW, how="left")
    known = nw.max_horizontal("known_ts", "from_known_ts")
    hit, parent_known = known, nw.lit(True)
    if task.parent is not None:
        parents = facts[task.parent].select(*_ROW, parent_known_ts=nw.col("known_ts"))
        placed = placed.join(parents, on=_ROW, how="left")
        hit = nw.max_horizontal("known_ts", "from_known_ts", "parent_known_ts")
        parent_known = ~nw.col("parent_known_ts").is_null()
    outcome = (nw.col("kind") == "outcome") & (nw.col("event_ts") >= nw.col("from_ts"))
    inside = nw.col("event_ts") <= nw.col("from_ts") + task.window
    placed = placed.select(
        *_ROW,
        "kind",
        "event_ts",
        "known_ts",
        hit_ts=nw.when(outcome & inside & parent_known).then(hit).otherwise(NEVER),
        inside_ts=nw.when(outcome & inside).then(known).otherwise(NEVER),
        after_ts=nw.when(outcome & ~inside).then(known).otherwise(NEVER),
    )
    if task.window_from != "impression":
        # After one window, but inside another that was known no later: not after the window.
        placed = placed.with_columns(inside_ts=nw.col("inside_ts").min().over(*_ROW, "event_ts", "known_ts"))
        missed = nw.col("inside_ts").is_null() | (nw.col("after_ts") < nw.col("inside_ts"))
        placed = placed.with_columns(after_ts=nw.when(missed).then(nw.col("after_ts")).otherwise(NEVER))
    return placed.drop("inside_ts")


def _facts(placed: Frame) -> Frame:
    """One row an impression that has any event of the task; a fact that is absent is null."""

    def when(condition: nw.Expr, column: str) -> nw.Expr:
        return nw.when(condition).then(nw.col(column)).otherwise(NEVER).min()

    # Of several outcomes, the one known first (of several, the earliest): later arrivals cannot change it.
    first = placed.with_columns(
        first_ts=nw.col("hit_ts").min().over(*_ROW), first_after_ts=nw.col("after_ts").min().over(*_ROW)
    )
    return first.group_by(_ROW).agg(
        event_ts=when(nw.col("hit_ts") == nw.col("first_ts"), "event_ts"),
        known_ts=nw.col("hit_ts").min(),
        closed_ts=when(nw.col("kind") == "closed", "known_ts"),
        unknown_ts=when(nw.col("kind") == "unknown", "known_ts"),
        out_of_window_ts=when(nw.col("after_ts") == nw.col("first_after_ts"), "event_ts"),
        out_of_window_known_ts=nw.col("after_ts").min(),
    )


def _settled(task: Task, as_of: int) -> nw.Expr:
    """When the label was settled as negative; null if it was not, by ``as_of``."""

    def fact(name: str, of: str = task.name) -> nw.Expr:
        return nw.col(f"{name}:{of}")

    mature, known, unknown = fact("mature_ts"), fact("known_ts"), fact("unknown_ts")
    own = mature
    if task.label.needs_closing:
        decided = nw.min_horizontal(fact("closed_ts"), fact("out_of_window_known_ts"))
        own = nw.when(~decided.is_null()).then(nw.max_horizontal(mature, decided)).otherwise(NEVER)
    settled = nw.when(unknown <= own).then(NEVER).otherwise(own)
    if task.parent is not None:
        parent, parent_known = fact("settled_ts", task.parent), fact("known_ts", task.parent)
        failed = nw.max_horizontal(mature, parent)
        # A parent that became positive after all, before its child could be settled, settles nothing.
        fails = ~parent.is_null() & (parent_known.is_null() | (parent_known > failed))
        inherited = nw.when(fails).then(failed).otherwise(NEVER)
        settled = nw.min_horizontal(settled, inherited)
    was_negative = (settled <= as_of) & (known.is_null() | (known > settled))
    return nw.when(was_negative).then(settled).otherwise(NEVER)


def _columns_of(task: Task) -> dict[str, str]:
    return {fact: f"{fact}:{task.name}" for fact in _FACTS}


def _each_task(rows: Frame, tasks: Sequence[Task]) -> Frame:
    """Each row once for each task, with its name in the column ``task``."""
    # A list that is exploded reads `rows` once; a union of one selection a task would compute it once a task.
    return rows.with_columns(task=nw.lit(",".join(task.name for task in tasks)).str.split(",")).explode("task")


def _of_task(tasks: Sequence[Task], values: Mapping[str, nw.Expr]) -> nw.Expr:
    """The value of the row's own task."""
    value = NEVER
    for task in tasks:
        value = nw.when(nw.col("task") == task.name).then(values[task.name]).otherwise(value)
    return value
