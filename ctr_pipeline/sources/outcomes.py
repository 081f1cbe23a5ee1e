"""Event logs and label columns → rows of the table `outcome_events`.

All three label styles end in the same rows. Each belongs to the day on which it arrived.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import polars as pl

from ctr_pipeline.sources import values
from ctr_pipeline.sources.clock import INGEST, SKEWED, TS, Clock, Ranks, Scope, clock_of, event_clock, rank_rows
from ctr_pipeline.sources.contract import EVENT_SCHEMA, check_events
from ctr_pipeline.sources.errors import SourceError, listed, near_miss
from ctr_pipeline.sources.files import LogFile, open_log
from ctr_pipeline.sources.impressions import (
    declared_columns,
    declared_order,
    impression_key,
    mark_repeated,
    private_columns,
)
from ctr_pipeline.sources.pseudonyms import Pseudonymiser
from ctr_pipeline.sources.quarantine import (
    COLUMN,
    DAY,
    FILE,
    NAME,
    REASON,
    RULE,
    VALUE,
    ReadResult,
    count_by_day,
    diagnose,
    quarantine,
    with_malformed,
)
from ctr_pipeline.sources.rows import ENOUGH_TO_JUDGE, Schema, Select, read_rows
from ctr_pipeline.sources.text import ROW
from ctr_pipeline.sources.values import Check
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.source import EventLog
from ctr_pipeline.spec.tasks import Task

OUTCOME, CLOSED, UNKNOWN = "outcome", "closed", "unknown"
"""Kinds of rows: it happened; the case was closed without it; the log has no value."""

IMPRESSIONS = "impressions"
"""The log of outcomes that are columns of the impressions; event logs have names of their own."""

_SHOWN_TYPES = 20
_IGNORED = "__ignored"
_TYPE = "__type"
_LOG = "__log"

_UNITS = pl.Schema(
    {
        DAY: pl.Date,
        _LOG: pl.String,
        FILE: pl.Int32,
        NAME: pl.String,
        ROW: pl.Int64,
        "impression_id": pl.String,
        "event": pl.String,
        "kind": pl.String,
        "event_ts": pl.Int64,
        "ingest_ts": pl.Int64,
        SKEWED: pl.Boolean,
        REASON: pl.String,
        RULE: pl.String,
        COLUMN: pl.String,
        VALUE: pl.String,
        _IGNORED: pl.Boolean,
    }
)
# A unit is one statement of a log about one task: an event, a label's value, an outcome's time, a closing time.


def read_events(
    spec: Spec,
    impression_files: Sequence[Path],
    event_files: Mapping[str, Sequence[Path]],
    first: date,
    last: date,
    pseudonymiser: Pseudonymiser,
    log_first: date,
    now: int | None = None,
    known: pl.LazyFrame | None = None,
) -> ReadResult:
    """What arrived about outcomes on the days ``first`` to ``last`` (UTC, both included).

    Args:
        spec: Declares which columns mean what.
        impression_files: The files of the impression log, for tasks whose label is one of its columns.
        event_files: The files of each event log, by the log's name.
        first: First arrival day to read.
        last: Last arrival day to read.
        pseudonymiser: Hashes ids.
        log_first: First day of the log; rows that no day can be given to count as rows of this day.
        now: As for :func:`~ctr_pipeline.sources.impressions.read_impressions`.
        known: As there; the label of a repeated row is ignored.

    Returns:
        Rows in order of (ingest_ts, impression_id, event, kind, event_ts), with the place where each was read and
        the name of its log (:data:`IMPRESSIONS` for columns of the impressions). ``rows_in`` counts statements, not lines:
        an event that two tasks use counts twice, and an impression once for each task with a label column.
        Label values of 0 and events of types that no task uses are ``ignored``.

    Raises:
        SourceError: a file cannot be read as declared.
    """
    scope = Scope.of(first, last, log_first)
    logs = {log.name: log for log in spec.source.events}
    parts = [pl.DataFrame(schema=_UNITS)]
    foreign: dict[str, None] = {}
    rows_in_log = 0
    if any(task.label.event is not None for task in spec.tasks):
        for name, paths in event_files.items():
            if name not in logs and spec.source.simulator is None:
                raise SourceError(
                    f"event log `{name}` is not declared.{near_miss(name, list(logs))} "
                    f"Logs in `source.events`: {listed(list(logs)) or 'none'}. Correct the name."
                )
            # The simulator's event log has the default column names, and the time at which it received each event.
            log = logs.get(name) or EventLog(name=name, ingest_time="ingest_ts")
            clock = event_clock(spec, log, now)
            for file in open_log(log, paths):
                units, unused, lines = _event_units(spec, log, clock, file, scope, pseudonymiser)
                parts.append(units)
                foreign |= dict.fromkeys(unused)
                rows_in_log += lines
        _refuse_foreign_types(spec, pl.concat(parts), list(foreign), scope)
    parts += _label_units(spec, impression_files, scope, pseudonymiser, now, known)
    units = pl.concat(parts)
    undated = units.filter(pl.col(DAY).is_null() & pl.col(REASON).is_not_null()).height
    units = units.with_columns(pl.col(DAY).fill_null(log_first))
    broken, ignored = pl.col(REASON).is_not_null(), pl.col(_IGNORED)
    good = units.filter(~broken & ~ignored)
    kept = (
        good.with_columns(
            pl.col(DAY).alias("day"),
            pl.col(_LOG).alias("source_log"),
            pl.col(NAME).alias("source_file"),
            pl.col(ROW).alias("source_row"),
        )
        .sort("ingest_ts", "impression_id", "event", "kind", "event_ts", FILE, ROW)
        .select(EVENT_SCHEMA.names())
    )
    distinct = kept.select(pl.exclude("source_log", "source_file", "source_row")).n_unique()
    check_events(spec, kept)
    return ReadResult(
        kept=kept,
        quarantined=quarantine(units, "outcome_events"),
        rows_in=units.height,
        ignored=units.filter(~broken & ignored).height,
        rows_in_by_day=count_by_day(units[DAY]),
        undated=undated,
        rows_in_log=rows_in_log,
        notices={"clock_skew": int(good[SKEWED].sum()), "duplicate_event": kept.height - distinct},
    )


def _event_units(
    spec: Spec, log: EventLog, clock: Clock, file: LogFile, scope: Scope, pseudonymiser: Pseudonymiser
) -> tuple[pl.DataFrame, list[str], int]:
    """The statements of a file of events, types in it that no task uses, and the number of all its rows."""
    where = str(file.path)
    section = f"source.events.{log.name}"
    columns = {log.impression_id: f"{section}.impression_id", log.type: f"{section}.type"} | clock.columns(section)
    rows = read_rows(file, columns, clock.selection(scope, INGEST, where))
    text = values.id_text(log.impression_id, rows.schema[log.impression_id], where)
    kind = values.canonical_text(log.type, rows.schema[log.type], where)
    checks = (
        Check(
            broken=text.is_null(),
            reason="missing_id",
            rule=f"each event has the id of its impression in `{log.impression_id}`",
            column=log.impression_id,
        ),
        *values.exact_id(log.impression_id, rows.schema[log.impression_id]),
        Check(
            broken=kind.is_null(), reason="missing_type", rule=f"each event has a type in `{log.type}`", column=log.type
        ),
        *clock.checks(rows.schema),
    )
    private = {*private_columns(spec), log.impression_id}
    frame = diagnose(rows, checks, private, where).with_columns(
        pseudonymiser.of(text).alias("impression_id"), kind.alias(_TYPE)
    )
    if scope.with_undated:
        frame = with_malformed(frame, rows)
    used = [(task.label.event, task.name) for task in spec.tasks if task.label.event is not None]
    tasks = pl.DataFrame(used, schema={_TYPE: pl.String, "event": pl.String}, orient="row")
    frame = frame.join(tasks, on=_TYPE, how="left", maintain_order="left_right").with_columns(
        pl.col(TS).alias("event_ts"),
        pl.col(INGEST).alias("ingest_ts"),
        pl.lit(OUTCOME).alias("kind"),
        (pl.col("event").is_null() & pl.col(_TYPE).is_not_null()).alias(_IGNORED),
        pl.from_epoch(INGEST, time_unit="us").dt.date().alias(DAY),
    )
    # An event of no task's concern is ignored, whatever else is wrong with it.
    units = _units(frame.with_columns(pl.when(~pl.col(_IGNORED)).then(REASON).alias(REASON)), file, log.name)
    found = frame.filter(_IGNORED)[_TYPE].unique().sort()
    # Many different values are no types; they may be ids, and are not to be shown.
    return units, found.to_list() if len(found) <= min(_SHOWN_TYPES, frame.height // 2) else [], rows.lines


def _refuse_foreign_types(spec: Spec, units: pl.DataFrame, found: Sequence[str], scope: Scope) -> None:
    """Raises when no event is of a type that a task uses: every label would be negative.

    Checked where the log begins. A later day without outcomes is an outage, which the monitoring reports.
    """
    if not scope.with_undated or units.height < ENOUGH_TO_JUDGE or not units[_IGNORED].all():
        return
    wanted = [task.label.event for task in spec.tasks if task.label.event is not None]
    types = f"Types found: {listed(found)}. " if found else ""
    raise SourceError(
        f"event logs {listed([log.name for log in spec.source.events])}: none of the {units.height} events is of a "
        f"type that a task uses ({listed(wanted)}).{near_miss(wanted[0], found)} {types}Correct "
        "`tasks[].label.event`, or `type` of the event log, in the spec."
    )


def _label_units(
    spec: Spec,
    impression_files: Sequence[Path],
    scope: Scope,
    pseudonymiser: Pseudonymiser,
    now: int | None,
    known: pl.LazyFrame | None,
) -> list[pl.DataFrame]:
    flags = [task for task in spec.tasks if task.label.column is not None]
    timed = [task for task in spec.tasks if task.label.time_column is not None]
    if not flags and not timed:
        return []
    files = open_log(spec.source.impressions, impression_files)
    clock = clock_of(spec, now) or rank_rows(declared_order(spec), files, declared_columns(spec))
    parts = []
    if flags:
        parts += _flag_units(spec, flags, files, clock, scope, pseudonymiser, known)
    for file in files if timed else ():
        parts.append(_time_units(spec, timed, file, clock, scope, pseudonymiser))
    return parts


def _flag_units(
    spec: Spec,
    tasks: Sequence[Task],
    files: Sequence[LogFile],
    clock: Clock | Ranks,
    scope: Scope,
    pseudonymiser: Pseudonymiser,
    known: pl.LazyFrame | None,
) -> list[pl.DataFrame]:
    """Labels of 0, 1 or null: one unit for each impression that arrived and each task."""
    # Rows without a time are quarantined with their impression, and belong to no arrival day.
    dated = Scope(scope.first, scope.last, with_undated=False)
    columns = _identity_columns(spec) | {str(t.label.column): f"label of task {t.name}" for t in tasks}
    frames = []
    for file in files:
        where = str(file.path)
        rows = read_rows(file, columns, _selection(clock, file, dated, where))
        parsed = {t.name: values.label(str(t.label.column), rows.schema[str(t.label.column)], where) for t in tasks}
        diagnosed = {
            t.name: diagnose(rows, [parsed[t.name][1]], private_columns(spec), where).select(
                ROW, pl.struct(REASON, RULE, COLUMN, VALUE).alias(f"__problem_{t.name}")
            )
            for t in tasks
        }
        frame = rows.frame.with_columns(
            _identified(spec, file, rows.schema, pseudonymiser),
            *(parsed[t.name][0].alias(f"__label_{t.name}") for t in tasks),
            *[pl.lit(None, pl.String).alias(name) for name in (REASON, RULE, COLUMN, VALUE)],
            pl.lit(file.index, pl.Int32).alias(FILE),
            pl.lit(file.name).alias(NAME),
        )
        for t in tasks:
            frame = frame.join(diagnosed[t.name], on=ROW, how="left", maintain_order="left")
        frames.append(frame.select(pl.exclude("^raw:.*$")))
    rows_seen = mark_repeated(spec, pl.concat(frames), known)
    units = []
    for task in tasks:
        label, problem = pl.col(f"__label_{task.name}"), pl.col(f"__problem_{task.name}").struct
        # Without an id, or repeated: set aside with the impression, so of no use here.
        useless = pl.col("impression_id").is_null() | pl.col(REASON).is_not_null() | pl.col(TS).is_null()
        units.append(
            rows_seen.select(
                pl.from_epoch(INGEST, time_unit="us").dt.date().alias(DAY),
                pl.lit(IMPRESSIONS).alias(_LOG),
                FILE,
                NAME,
                ROW,
                "impression_id",
                pl.lit(task.name).alias("event"),
                pl.when(label.is_null()).then(pl.lit(UNKNOWN)).otherwise(pl.lit(OUTCOME)).alias("kind"),
                pl.col(TS).alias("event_ts"),
                pl.col(INGEST).alias("ingest_ts"),
                SKEWED,
                *(pl.when(~useless).then(problem.field(name)).alias(name) for name in (REASON, RULE, COLUMN, VALUE)),
                (useless | (label == 0).fill_null(False)).alias(_IGNORED),
            ).select(_UNITS.names())
        )
    return units


def _time_units(
    spec: Spec,
    tasks: Sequence[Task],
    file: LogFile,
    clock: Clock | Ranks,
    scope: Scope,
    pseudonymiser: Pseudonymiser,
) -> pl.DataFrame:
    """Outcome and closing times: one unit for each that lies in scope.

    Unreadable ones have no arrival day; their impressions are quarantined.
    """
    where, unit, zone = str(file.path), spec.impression.time_unit, spec.time_zone
    dated = Scope(scope.first, scope.last, with_undated=False)
    columns = _identity_columns(spec) | {c: f"label of task {task.name}" for task in tasks for c in task.label.columns}
    names = [(task, kind) for task in tasks for kind in (OUTCOME, CLOSED) if kind == OUTCOME or task.label.closed_by]

    def select(lazy: pl.LazyFrame, schema: Schema) -> pl.LazyFrame:
        def parsed(column: str) -> pl.Expr:
            return values.time_value(column, schema[column], where, unit, zone)

        times = []
        for task, kind in names:
            own = [str(task.label.time_column)] if kind == OUTCOME else task.label.closed_by
            times.append(pl.min_horizontal([parsed(column) for column in own]).alias(f"__{kind}_{task.name}"))
        in_scope = [dated.holds(pl.col(f"__{kind}_{task.name}")) for task, kind in names]
        kept = lazy.with_columns(times).filter(pl.any_horizontal(in_scope))
        return clock.timed(kept, schema, where) if isinstance(clock, Clock) else kept

    rows = read_rows(file, columns, select)
    frame = rows.frame
    if isinstance(clock, Ranks):
        frame = frame.join(clock.times[file.index], on=ROW, how="left", maintain_order="left")
    frame = frame.with_columns(_identified(spec, file, rows.schema, pseudonymiser))
    parts = [pl.DataFrame(schema=_UNITS)]
    for task, kind in names:
        moment = pl.col(f"__{kind}_{task.name}")
        # Set aside with their impressions.
        useless = pl.col("impression_id").is_null() | pl.col(TS).is_null()
        if kind == OUTCOME and isinstance(clock, Clock):
            useless |= clock.is_future(moment)
        parts.append(
            _units(
                frame.filter(dated.holds(moment)).with_columns(
                    pl.from_epoch(moment, time_unit="us").dt.date().alias(DAY),
                    pl.lit(task.name).alias("event"),
                    pl.lit(kind).alias("kind"),
                    moment.alias("event_ts"),
                    moment.alias("ingest_ts"),
                    pl.lit(False).alias(SKEWED),
                    *[pl.lit(None, pl.String).alias(name) for name in (REASON, RULE, COLUMN, VALUE)],
                    useless.alias(_IGNORED),
                ),
                file,
                IMPRESSIONS,
            )
        )
    return pl.concat(parts)


def _units(frame: pl.DataFrame, file: LogFile, log: str) -> pl.DataFrame:
    return frame.with_columns(
        pl.lit(log).alias(_LOG),
        pl.lit(file.index, pl.Int32).alias(FILE),
        pl.lit(file.name).alias(NAME),
        pl.col(SKEWED).fill_null(False),
        pl.col(_IGNORED).fill_null(False),
    ).select(_UNITS.names())


def _identity_columns(spec: Spec) -> dict[str, str]:
    """Id and time of the impression, with the fields of the spec that name them."""
    clock = clock_of(spec, None)
    columns = clock.columns("impression") if clock else {declared_order(spec).column: "impression.order.column"}
    return columns | ({spec.impression.id: "impression.id"} if spec.impression.id else {})


def _identified(spec: Spec, file: LogFile, schema: Schema, pseudonymiser: Pseudonymiser) -> pl.Expr:
    return impression_key(spec, file, schema, pseudonymiser).alias("impression_id")


def _selection(clock: Clock | Ranks, file: LogFile, scope: Scope, where: str) -> Select:
    if isinstance(clock, Clock):
        return clock.selection(scope, INGEST, where)
    return clock.selection(file, scope)
