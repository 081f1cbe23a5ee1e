"""Files with the outcomes of impressions in columns, a row an impression → rows of the table `outcome_events`.

A value that means yes is an outcome, one that means no closes the case, and a missing one says nothing. So an impression
of which no row says anything is undecided, and never a negative.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

import polars as pl

from ctr_pipeline.sources import values
from ctr_pipeline.sources.clock import INGEST, SKEWED, TS, Clock, Scope, label_clock
from ctr_pipeline.sources.files import Files, LogFile, open_log
from ctr_pipeline.sources.impressions import clock_or_ranks, impression_filters, impression_key
from ctr_pipeline.sources.outcome_columns import identity_columns, selection_of
from ctr_pipeline.sources.pseudonyms import Pseudonymiser
from ctr_pipeline.sources.quarantine import COLUMN, DAY, FILE, REASON, RULE, VALUE, diagnose, with_malformed
from ctr_pipeline.sources.row_filtering import Filters, days_of
from ctr_pipeline.sources.rows import Rows, Schema, Select, read_rows
from ctr_pipeline.sources.statements import CLOSED, IGNORED, OUTCOME, UNITS, UNKNOWN, as_units
from ctr_pipeline.sources.text import ROW
from ctr_pipeline.sources.times import TimeForm
from ctr_pipeline.sources.values import Check
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.log_columns import label_columns
from ctr_pipeline.spec.source import LabelLog
from ctr_pipeline.spec.tasks import Task

_ID = "__id"
_ALWAYS = Scope(date(1980, 1, 1), date(2199, 12, 31), with_undated=False)


@dataclass(frozen=True, slots=True)
class LabelPart:
    """What was read of a log of labels."""

    units: pl.DataFrame
    """Its statements: one for each row and task."""
    filtered: pl.Series
    """The day of each row that the spec leaves out, by itself or with its impression; null where it has none."""
    lines: Sequence[int]
    """The number of rows of each file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReader:
    """How the rows of a log of labels are read."""

    spec: Spec
    log: LabelLog
    tasks: Sequence[Task]
    """Those whose label is in this log."""
    clock: Clock | None
    """The clock of the log; None where a label has the time of its impression."""
    shown: pl.DataFrame | None
    """Where there is no clock: ``impression_id``, TS and INGEST of all impressions."""
    elsewhere: pl.Series
    """Ids of impressions that the spec leaves out."""
    pseudonymiser: Pseudonymiser

    def read(self, files: Files, scope: Scope) -> LabelPart:
        """The statements in ``scope``.

        Raises:
            SourceError: a file cannot be read as declared.
        """
        opened, filters = open_log(self.log, files), self._filters()
        parts = [self._read_file(file, filters, scope) for file in opened]
        units = pl.concat([pl.DataFrame(schema=UNITS), *(units for units, _, _ in parts)])
        if scope.with_undated and units.is_empty():
            filters.refuse_nothing_left(opened, label_columns(self.log, self.tasks))
        return LabelPart(
            units=self._without_conflicts(units),
            filtered=pl.concat([left_out for _, left_out, _ in parts]),
            lines=[lines for _, _, lines in parts],
        )

    def _filters(self) -> Filters:
        return Filters(
            declared=tuple(self.log.rows),
            section=f"source.labels.{self.log.name}.rows",
            form=self.clock.form if self.clock else TimeForm(zone=self.spec.zone_of(self.log)),
            private=self.spec.private_columns | {self.log.impression_id},
        )

    def _read_file(self, file: LogFile, filters: Filters, scope: Scope) -> tuple[pl.DataFrame, pl.Series, int]:
        where, column = str(file.path), self.log.impression_id
        select = filters.marking(self._selection(scope, where), where)
        read = read_rows(file, label_columns(self.log, self.tasks), select)
        rows, left_out = filters.split(read)
        of_others = pl.col(_ID).is_in(self.elsewhere.implode()).fill_null(False)
        left_out = pl.concat([left_out, rows.frame.filter(of_others)])
        kept = rows.frame.filter(~of_others)
        rows = replace(rows, frame=kept, total=rows.total - (rows.frame.height - kept.height))
        private = {*self.spec.private_columns, column}
        base = diagnose(rows, self._checks(rows.schema, filters, where), private, where)
        units = [
            as_units(self._stated(rows, base, task, task is self.tasks[0], private, where), file, self.log.name)
            for task in self.tasks
        ]
        if scope.with_undated and read.malformed.height:
            lines = with_malformed(pl.DataFrame(schema=UNITS), read)
            units.append(as_units(lines, file, self.log.name))
        return pl.concat(units), days_of(left_out, INGEST), read.lines

    def _selection(self, scope: Scope, where: str) -> Select:
        """Keeps the rows in scope, by the time of their arrival or that of their impression, and adds that and their id."""

        def selected(lazy: pl.LazyFrame, schema: Schema) -> pl.LazyFrame:
            text = values.id_text(self.log.impression_id, schema[self.log.impression_id], where)
            lazy = lazy.with_columns(text.alias(_ID), self.pseudonymiser.of(text).alias("impression_id"))
            if self.clock is not None:
                return self.clock.selection(scope, INGEST, where)(lazy, schema)
            assert self.shown is not None
            timed = lazy.join(self.shown.lazy(), on="impression_id", how="left", maintain_order="left")
            return timed.with_columns(pl.lit(False).alias(SKEWED)).filter(scope.holds(pl.col(INGEST)))

        return selected

    def _checks(self, schema: Schema, filters: Filters, where: str) -> tuple[Check, ...]:
        column = self.log.impression_id
        missing = Check(
            broken=pl.col(_ID).is_null(),
            reason="missing_id",
            rule=f"each label has the id of its impression in `{column}`",
            column=column,
        )
        orphan = Check(
            broken=pl.col(TS).is_null(),
            reason="orphan_label",
            rule="a label belongs to an impression of the log that has a time",
            column=column,
            unreadable=True,
            remedy="Do both logs hold the same ids?",
        )
        timed = (orphan,) if self.clock is None else self.clock.checks(schema)
        return (*filters.checks(schema, where), missing, *values.exact_id(column, schema[column]), *timed)

    def _stated(
        self, rows: Rows, base: pl.DataFrame, task: Task, first: bool, private: set[str], where: str
    ) -> pl.DataFrame:
        """What each row states of ``task``. One that is broken as a whole is set aside once, with the first task."""
        label, checks = values.label(task.label, rows.schema[str(task.label.column)], where)
        own = diagnose(rows, checks, private, where).select(
            label.alias("label"), *(pl.col(name).alias(f"{name}own") for name in (REASON, RULE, COLUMN, VALUE))
        )
        broken, known = pl.col(REASON).is_not_null(), pl.col("label")
        problem = [
            pl.when(broken).then(pl.col(name) if first else None).otherwise(pl.col(f"{name}own")).alias(name)
            for name in (REASON, RULE, COLUMN, VALUE)
        ]
        return pl.concat([base, own], how="horizontal").select(
            pl.from_epoch(INGEST, time_unit="us").dt.date().alias(DAY),
            ROW,
            "impression_id",
            pl.lit(task.name).alias("event"),
            pl.when(known == 1)
            .then(pl.lit(OUTCOME))
            .when(known == 0)
            .then(pl.lit(CLOSED))
            .otherwise(pl.lit(UNKNOWN))
            .alias("kind"),
            pl.col(TS).alias("event_ts"),
            pl.col(INGEST).alias("ingest_ts"),
            SKEWED,
            *problem,
            # A missing value says nothing; a row that is broken as a whole is counted with the first task.
            (pl.when(broken).then(not first).otherwise(known.is_null() & pl.col(f"{REASON}own").is_null())).alias(
                IGNORED
            ),
        )

    def _without_conflicts(self, units: pl.DataFrame) -> pl.DataFrame:
        """Sets aside what states, of one impression, task and time, that it happened and that it did not."""
        states = pl.col(REASON).is_null() & ~pl.col(IGNORED) & pl.col("event").is_not_null()
        kinds = pl.col("kind").filter(states).n_unique().over("impression_id", "event", "event_ts")
        columns = {task.name: str(task.label.column) for task in self.tasks}
        marked = units.with_columns((states & (kinds > 1)).alias("__conflict"))
        conflict, column = pl.col("__conflict"), pl.col("event").replace(columns)
        rule = pl.format("rows of one impression state one value in `{}`; these contradict each other", column)
        return marked.with_columns(
            pl.when(conflict).then(pl.lit("conflicting_label")).otherwise(REASON).alias(REASON),
            pl.when(conflict).then(rule).otherwise(RULE).alias(RULE),
            pl.when(conflict).then(column).otherwise(COLUMN).alias(COLUMN),
        ).select(UNITS.names())


def read_label_log(
    spec: Spec,
    log: LabelLog,
    files: Files,
    impression_files: Files,
    scope: Scope,
    pseudonymiser: Pseudonymiser,
    now: int | None,
    known: pl.LazyFrame | None,
    elsewhere: pl.Series,
) -> LabelPart:
    """What ``log`` states about the tasks that read it; other arguments as for
    :func:`~ctr_pipeline.sources.outcomes.read_events`.

    Args:
        spec: Declares which columns mean what.
        log: The log.
        files: Its files.
        impression_files: The files of the impression log, for a log without times.
        scope: The days of arrival.
        pseudonymiser: Hashes ids.
        now: The instant of reading.
        known: Impressions that were read before.
        elsewhere: Ids of impressions that the spec leaves out.

    Raises:
        SourceError: a file cannot be read as declared.
    """
    clock = label_clock(spec, log, now)
    return LabelReader(
        spec=spec,
        log=log,
        tasks=[task for task in spec.tasks if task.label.log == log.name],
        clock=clock,
        shown=_impression_times(spec, impression_files, pseudonymiser, now, known) if clock is None else None,
        elsewhere=elsewhere,
        pseudonymiser=pseudonymiser,
    ).read(files, scope)


def _impression_times(
    spec: Spec, files: Files, pseudonymiser: Pseudonymiser, now: int | None, known: pl.LazyFrame | None
) -> pl.DataFrame:
    """``impression_id``, TS and INGEST of all impressions; of rows with one id those of the first to arrive."""
    opened, filters = open_log(spec.source.impressions, files), impression_filters(spec)
    clock = clock_or_ranks(spec, opened, now)
    order = ("impression_id", TS, INGEST, FILE, ROW)
    parts = []
    if known is not None:
        stored = known.select("impression_id", pl.col("ts").alias(TS), pl.col("ingest_ts").alias(INGEST)).collect()
        parts.append(stored.with_columns(pl.lit(-1, pl.Int32).alias(FILE), pl.lit(0, pl.Int64).alias(ROW)))
    for file in opened:
        select = selection_of(clock, file, _ALWAYS, str(file.path))
        rows = read_rows(file, filters.columns | identity_columns(spec), filters.passing(select, str(file.path)))
        key = impression_key(spec, file, rows.schema, pseudonymiser).alias("impression_id")
        parts.append(rows.frame.select(key, TS, INGEST, pl.lit(file.index, pl.Int32).alias(FILE), ROW))
    found = pl.concat([part.select(order) for part in parts]).drop_nulls("impression_id")
    return found.sort(INGEST, TS, FILE, ROW).unique("impression_id", keep="first").select("impression_id", TS, INGEST)
