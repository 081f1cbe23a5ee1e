"""Labels as a pure function of impressions, events and an instant."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import narwhals.stable.v2 as nw
from narwhals.stable.v2.typing import IntoLazyFrameT

from ctr_pipeline.labels.states import label_maturity, state_at
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
    "as_of",
)
"""Columns of the labels table, in order."""

Frame: TypeAlias = nw.LazyFrame[Any]

_NEVER = nw.lit(None).cast(nw.Int64)
_ROW = ["impression_id", "ts"]
_FACTS = ("event_ts", "known_ts", "closed_ts", "unknown_ts", "out_of_window_ts", "out_of_window_known_ts")


def label_impressions(
    impressions: IntoLazyFrameT, events: IntoLazyFrameT, tasks: Sequence[Task], as_of: int, ingest_lag: int = 0
) -> IntoLazyFrameT:
    """Labels of ``impressions`` as of ``as_of``: one row an impression and task.

    Sees only rows with ``ingest_ts <= as_of``. Order and duplicates of events do not matter.

    *What counts.* An outcome counts when it happened inside its window, both ends included. The window starts at the
    impression or, with ``window_from``, at an outcome of that task that itself counts; with several such outcomes,
    inside the window of any of them. A task with a parent needs a parent outcome that counts, so a child is never
    positive without its parent; until the parent is known its outcome waits. Events before the impression, and those
    of impressions that are not in ``impressions``, never count.

    *When it is known.* ``known_ts`` is the first instant at which impression, outcome, window start and parent had all
    arrived. ``event_ts`` is the time of the outcome that was known first, so neither changes when more events arrive.

    *When a negative is settled.* ``mature_ts`` is ``ts`` plus :func:`label_maturity` plus ``ingest_lag``, or the
    arrival of the impression if that is later. It is the same stretch for every impression: a conversion label of an
    impression without a click matures no earlier than that of a clicked one. A plain task is settled at ``mature_ts``.
    A task with ``closed_by`` is settled only once, besides, its closing or an outcome after its window is known: an
    undecided case stays censored, however old. An unknown value that arrived by then is never settled by itself. In
    all cases a parent that was settled as negative settles the child too, at the child's ``mature_ts`` or when the
    parent was. A settled negative changes only into LATE_POSITIVE.

    Args:
        impressions: Rows of the impressions table (day, impression_id, ts, ingest_ts are read).
        events: Rows of the outcome_events table that arrived from the first of these days on.
        tasks: Tasks of the spec, parents first.
        as_of: Microseconds since 1970-01-01 UTC.
        ingest_lag: Microseconds added to every maturity.

    Returns:
        Rows with :data:`LABEL_COLUMNS`, on the engine of the inputs. Of these, ``known_ts``, ``settled_ts``,
        ``mature_ts`` and ``out_of_window_known_ts`` determine the state at every instant up to ``as_of``
        (:func:`~ctr_pipeline.labels.states.states_as_of`).
    """
    shown = nw.from_native(impressions).filter(nw.col("ingest_ts") <= as_of)
    shown = shown.select("day", "impression_id", "ts", "ingest_ts")
    seen = _visible(shown, nw.from_native(events), as_of)
    hits: dict[str, Frame] = {}
    facts: dict[str, Frame] = {}
    wide = shown
    for task in tasks:
        placed = _placed(seen.filter(nw.col("event") == task.name), task, hits, facts)
        hits[task.name] = placed.filter(~nw.col("hit_ts").is_null())
        facts[task.name] = _facts(placed)
        wide = wide.join(facts[task.name].rename(_columns_of(task)), on=_ROW, how="left")
        mature = nw.col("ts") + label_maturity(tasks, task.name) + ingest_lag
        wide = wide.with_columns(nw.max_horizontal(mature, nw.col("ingest_ts")).alias(f"mature_ts:{task.name}"))
        wide = wide.with_columns(_settled(task, as_of).alias(f"settled_ts:{task.name}"))
    labels: IntoLazyFrameT = _long(wide, tasks, as_of).to_native()
    return labels


def _visible(shown: Frame, events: Frame, as_of: int) -> Frame:
    """Events that had arrived, each with its impression; ``known_ts`` = when both had."""
    arrived = events.filter(nw.col("ingest_ts") <= as_of)
    arrived = arrived.select("impression_id", "event", "kind", "event_ts", known_ts=nw.col("ingest_ts"))
    rows = shown.select("impression_id", "ts", shown_ts=nw.col("ingest_ts"))
    joined = arrived.join(rows, on="impression_id", how="inner")
    joined = joined.filter((nw.col("kind") == "unknown") | (nw.col("event_ts") >= nw.col("ts")))
    return joined.with_columns(known_ts=nw.max_horizontal("known_ts", "shown_ts")).drop("shown_ts")


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
    return placed.select(
        *_ROW,
        "kind",
        "event_ts",
        "known_ts",
        hit_ts=nw.when(outcome & inside & parent_known).then(hit).otherwise(_NEVER),
        after_ts=nw.when(outcome & ~inside).then(known).otherwise(_NEVER),
    )


def _facts(placed: Frame) -> Frame:
    """One row an impression that has any event of the task; a fact that is absent is null."""

    def when(condition: nw.Expr, column: str) -> nw.Expr:
        return nw.when(condition).then(nw.col(column)).otherwise(_NEVER).min()

    # Of the outcomes that count, the one known first (of several, the earliest): later arrivals cannot change it.
    first = placed.with_columns(first_ts=nw.col("hit_ts").min().over(*_ROW))
    return first.group_by(_ROW).agg(
        event_ts=when(nw.col("hit_ts") == nw.col("first_ts"), "event_ts"),
        known_ts=nw.col("hit_ts").min(),
        closed_ts=when(nw.col("kind") == "closed", "known_ts"),
        unknown_ts=when(nw.col("kind") == "unknown", "known_ts"),
        out_of_window_ts=when(~nw.col("after_ts").is_null(), "event_ts"),
        out_of_window_known_ts=nw.col("after_ts").min(),
    )


def _settled(task: Task, as_of: int) -> nw.Expr:
    """When the label was settled as negative; null if it was not, by ``as_of``."""

    def fact(name: str, of: str = task.name) -> nw.Expr:
        return nw.col(f"{name}:{of}")

    mature, known, unknown = fact("mature_ts"), fact("known_ts"), fact("unknown_ts")
    own = mature
    if task.label.closed_by:
        decided = nw.min_horizontal(fact("closed_ts"), fact("out_of_window_known_ts"))
        own = nw.when(~decided.is_null()).then(nw.max_horizontal(mature, decided)).otherwise(_NEVER)
    settled = nw.when(unknown <= own).then(_NEVER).otherwise(own)
    if task.parent is not None:
        parent = fact("settled_ts", task.parent)
        inherited = nw.when(~parent.is_null()).then(nw.max_horizontal(mature, parent)).otherwise(_NEVER)
        settled = nw.min_horizontal(settled, inherited)
    was_negative = (settled <= as_of) & (known.is_null() | (known > settled))
    return nw.when(was_negative).then(settled).otherwise(_NEVER)


def _columns_of(task: Task) -> dict[str, str]:
    return {fact: f"{fact}:{task.name}" for fact in _FACTS}


def _long(wide: Frame, tasks: Sequence[Task], as_of: int) -> Frame:
    """One row an impression and task, of one row an impression."""
    # A list that is exploded reads `wide` once; a union of one selection a task would compute it once a task.
    rows = wide.with_columns(task=nw.lit(",".join(task.name for task in tasks)).str.split(",")).explode("task")

    def of_task(name: str) -> nw.Expr:
        value = _NEVER
        for task in tasks:
            value = nw.when(nw.col("task") == task.name).then(nw.col(f"{name}:{task.name}")).otherwise(value)
        return value

    facts = {name: of_task(name) for name in (*_FACTS, "mature_ts", "settled_ts")}
    rows = rows.select("day", "impression_id", "ts", "ingest_ts", "task", **facts)
    return rows.with_columns(
        unknown=~nw.col("unknown_ts").is_null(), state=state_at(as_of), as_of=nw.lit(as_of).cast(nw.Int64)
    ).select(LABEL_COLUMNS)
