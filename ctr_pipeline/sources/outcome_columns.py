"""Outcomes that are columns of the impressions: 0/1 labels, and times of outcomes and closings."""

from collections.abc import Sequence

import polars as pl

from ctr_pipeline.sources import values
from ctr_pipeline.sources.clock import INGEST, SKEWED, TS, Clock, Ranks, Scope, clock_of, impression_form
from ctr_pipeline.sources.files import Files, LogFile, open_log
from ctr_pipeline.sources.impressions import (
    clock_or_ranks,
    impression_filters,
    impression_key,
    label_value,
    mark_repeated,
)
from ctr_pipeline.sources.pseudonyms import Pseudonymiser
from ctr_pipeline.sources.quarantine import COLUMN, DAY, FILE, NAME, REASON, RULE, VALUE, diagnose
from ctr_pipeline.sources.rows import Schema, Select, read_rows
from ctr_pipeline.sources.shows import SHOWS, as_impressions, shows_value
from ctr_pipeline.sources.statements import CLOSED, IGNORED, IMPRESSIONS, LOG, OUTCOME, UNITS, UNKNOWN, as_units
from ctr_pipeline.sources.text import ROW
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.tasks import Task


def label_units(
    spec: Spec,
    impression_files: Files,
    scope: Scope,
    pseudonymiser: Pseudonymiser,
    now: int | None,
    known: pl.LazyFrame | None,
) -> list[pl.DataFrame]:
    """The units of all tasks whose label is a column of the impressions; arguments as for
    :func:`~ctr_pipeline.sources.outcomes.read_events`.
    """
    flags = [task for task in spec.tasks if task.label.impression_column is not None]
    timed = [task for task in spec.tasks if task.label.time_column is not None]
    if not flags and not timed:
        return []
    files = open_log(spec.source.impressions, impression_files)
    clock = clock_or_ranks(spec, files, now)
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
    filters = impression_filters(spec)
    columns = filters.columns | identity_columns(spec) | {str(t.label.column): f"label of task {t.name}" for t in tasks}
    columns |= {spec.impression.shows: "impression.shows"} if spec.impression.shows else {}
    frames = []
    for file in files:
        where = str(file.path)
        rows = read_rows(file, columns, filters.passing(selection_of(clock, file, dated, where), where))
        parsed = {t.name: label_value(spec, t, rows.schema, where) for t in tasks}
        diagnosed = {
            t.name: diagnose(rows, parsed[t.name][1], spec.private_columns, where).select(
                ROW, pl.struct(REASON, RULE, COLUMN, VALUE).alias(f"__problem_{t.name}")
            )
            for t in tasks
        }
        frame = rows.frame.with_columns(
            _identified(spec, file, rows.schema, pseudonymiser),
            shows_value(spec, rows.schema, where).alias(SHOWS),
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
        useless |= pl.col(SHOWS).is_null()
        stated = rows_seen
        if spec.impression.shows is not None:
            # An outcome for each impression that has one; where it is not known, for each that may.
            count = pl.when(label.is_null()).then(SHOWS).otherwise(pl.max_horizontal(label, 1))
            broken = useless | problem.field(REASON).is_not_null()
            stated = as_impressions(rows_seen, pseudonymiser, pl.when(broken).then(1).otherwise(count))
        units.append(
            stated.select(
                pl.from_epoch(INGEST, time_unit="us").dt.date().alias(DAY),
                pl.lit(IMPRESSIONS).alias(LOG),
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
                (useless | (label == 0).fill_null(False)).alias(IGNORED),
            ).select(UNITS.names())
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
    where, form = str(file.path), impression_form(spec)
    dated = Scope(scope.first, scope.last, with_undated=False)
    filters = impression_filters(spec)
    labels = {column: f"label of task {task.name}" for task in tasks for column in task.label.columns}
    names = [(task, kind) for task in tasks for kind in (OUTCOME, CLOSED) if kind == OUTCOME or task.label.closed_by]

    def select(lazy: pl.LazyFrame, schema: Schema) -> pl.LazyFrame:
        if isinstance(clock, Clock):
            lazy = clock.timed(lazy, schema, where)

        def parsed(column: str) -> pl.Expr:
            first = values.time_value(column, schema[column], where, form)
            if not isinstance(clock, Clock) or form.zone == "UTC":
                return first
            # In the hour that occurs twice, an outcome comes after its impression.
            second = values.time_value(column, schema[column], where, form, second=True)
            return pl.when((first < pl.col(TS)) & (second >= pl.col(TS))).then(second).otherwise(first)

        times = []
        for task, kind in names:
            own = [str(task.label.time_column)] if kind == OUTCOME else task.label.closed_by
            times.append(pl.min_horizontal([parsed(column) for column in own]).alias(f"__{kind}_{task.name}"))
        in_scope = [dated.holds(pl.col(f"__{kind}_{task.name}")) for task, kind in names]
        return lazy.with_columns(times).filter(pl.any_horizontal(in_scope))

    rows = read_rows(file, filters.columns | identity_columns(spec) | labels, filters.passing(select, where))
    frame = rows.frame
    if isinstance(clock, Ranks):
        frame = frame.join(clock.times[file.index], on=ROW, how="left", maintain_order="left")
    frame = frame.with_columns(_identified(spec, file, rows.schema, pseudonymiser))
    parts = [pl.DataFrame(schema=UNITS)]
    for task, kind in names:
        moment = pl.col(f"__{kind}_{task.name}")
        # Set aside with their impressions, or of impressions that the spec leaves out.
        useless = pl.col("impression_id").is_null() | pl.col(TS).is_null() | _left_out(spec)
        if kind == OUTCOME and isinstance(clock, Clock):
            useless |= clock.is_future(moment)
        parts.append(
            as_units(
                frame.filter(dated.holds(moment)).with_columns(
                    pl.from_epoch(moment, time_unit="us").dt.date().alias(DAY),
                    pl.lit(task.name).alias("event"),
                    pl.lit(kind).alias("kind"),
                    moment.alias("event_ts"),
                    moment.alias("ingest_ts"),
                    pl.lit(False).alias(SKEWED),
                    *[pl.lit(None, pl.String).alias(name) for name in (REASON, RULE, COLUMN, VALUE)],
                    useless.alias(IGNORED),
                ),
                file,
                IMPRESSIONS,
            )
        )
    return pl.concat(parts)


def _left_out(spec: Spec) -> pl.Expr:
    """Whether the impression lies outside the declared days, so that the table `impressions` will never hold it."""
    day = pl.from_epoch(TS, time_unit="us").dt.date()
    outside = pl.lit(False)
    if spec.days.first is not None:
        outside |= day < spec.days.first
    if spec.days.last is not None:
        outside |= day > spec.days.last
    return outside.fill_null(False)


def identity_columns(spec: Spec) -> dict[str, str]:
    """Id and time of the impression, with the fields of the spec that name them."""
    clock, order = clock_of(spec, None), spec.impression.order
    ordering = {order.column: "impression.order.column"} if order and order.column else {}
    columns = clock.columns("impression") if clock else ordering
    return columns | ({spec.impression.id: "impression.id"} if spec.impression.id else {})


def _identified(spec: Spec, file: LogFile, schema: Schema, pseudonymiser: Pseudonymiser) -> pl.Expr:
    return impression_key(spec, file, schema, pseudonymiser).alias("impression_id")


def selection_of(clock: Clock | Ranks, file: LogFile, scope: Scope, where: str) -> Select:
    """Keeps the impressions of ``file`` that arrived in ``scope``, and adds their times."""
    if isinstance(clock, Clock):
        return clock.selection(scope, INGEST, where)
    return clock.selection(file, scope)
