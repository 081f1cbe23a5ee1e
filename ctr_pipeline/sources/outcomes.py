"""Event logs and label columns → rows of the table `outcome_events`.

All three label styles end in the same rows. Each belongs to the day on which it arrived.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import polars as pl

from ctr_pipeline.sources import values
from ctr_pipeline.sources.canonical import declared_texts
from ctr_pipeline.sources.clock import INGEST, SKEWED, TS, Clock, Scope, event_clock
from ctr_pipeline.sources.contract import EVENT_SCHEMA, check_events
from ctr_pipeline.sources.errors import SourceError, listed, near_miss
from ctr_pipeline.sources.event_types import count_types
from ctr_pipeline.sources.files import Files, LogFile, open_log
from ctr_pipeline.sources.impressions import filtered_ids
from ctr_pipeline.sources.label_logs import read_label_log
from ctr_pipeline.sources.last_touch import (
    FATE,
    UNATTRIBUTED,
    WITHOUT_KEY,
    attribute_events,
    key_fields,
    private_keys,
)
from ctr_pipeline.sources.outcome_columns import label_units
from ctr_pipeline.sources.pseudonyms import Pseudonymiser
from ctr_pipeline.sources.quarantine import (
    DAY,
    FILE,
    NAME,
    REASON,
    ReadResult,
    count_by_day,
    diagnose,
    files_of_days,
    quarantine,
    quarantined_by_day,
    with_malformed,
)
from ctr_pipeline.sources.row_filtering import Filters, days_of
from ctr_pipeline.sources.rows import ENOUGH_TO_JUDGE, Schema, read_rows
from ctr_pipeline.sources.statements import IGNORED, IMPRESSIONS, LOG, OUTCOME, UNITS, as_units
from ctr_pipeline.sources.text import ROW
from ctr_pipeline.sources.values import Check
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.log_columns import event_columns
from ctr_pipeline.spec.source import EventLog

_SHOWN_TYPES = 20
_TYPE = "__type"


def read_events(
    spec: Spec,
    impression_files: Files,
    event_files: Mapping[str, Files],
    first: date,
    last: date,
    pseudonymiser: Pseudonymiser,
    log_first: date,
    now: int | None = None,
    known: pl.LazyFrame | None = None,
    shown: pl.LazyFrame | None = None,
) -> ReadResult:
    """What arrived about outcomes on the days ``first`` to ``last`` (UTC, both included).

    Args:
        spec: Declares which columns mean what.
        impression_files: The files of the impression log, for tasks whose label is one of its columns.
        event_files: The files of each log of events and of labels, by the log's name.
        first: First arrival day to read.
        last: Last arrival day to read.
        pseudonymiser: Hashes ids.
        log_first: First day of the log; rows that no day can be given to count as rows of this day.
        now: As for :func:`~ctr_pipeline.sources.impressions.read_impressions`.
        known: As there; the label of a repeated row is ignored.
        shown: The table `impressions`, of which events that name no impression belong to one; None where it is empty.

    Returns:
        Rows in order of (ingest_ts, impression_id, event, kind, event_ts), with the place where each was read and
        the name of its log (:data:`IMPRESSIONS` for columns of the impressions). ``rows_in`` counts statements, not lines:
        an event that two tasks use counts twice, and an impression, or a row of labels, once for each task with a column.
        Label values of 0, events of types that no task uses, and those that belong to no impression are ``ignored``.

    Raises:
        SourceError: a file cannot be read as declared.
    """
    scope = Scope.of(first, last, log_first)
    logs = {log.name: log for log in spec.source.events}
    labels = {log.name: log for log in spec.source.labels}
    parts = [pl.DataFrame(schema=UNITS)]
    foreign: dict[str, None] = {}
    types: list[pl.DataFrame] = []
    filtered = [pl.Series("day", [], dtype=pl.Date)]
    attributions: dict[str, Counter[str]] = {}
    rows_in_log = empty = 0
    reads_events = any(task.label.event is not None for task in spec.tasks)
    elsewhere = pl.Series("id", [], dtype=pl.String)
    if reads_events or labels:
        elsewhere = filtered_ids(spec, impression_files)
    if reads_events:
        for name, paths in event_files.items():
            if name in labels:
                continue
            if name not in logs and spec.source.simulator is None:
                raise SourceError(
                    f"event log `{name}` is not declared.{near_miss(name, list(logs))} "
                    f"Logs in `source.events`: {listed(list(logs)) or 'none'}. Correct the name."
                )
            # The simulator's event log has the default column names, and the time at which it received each event.
            log = logs.get(name) or EventLog(name=name, ingest_time="ingest_ts")
            clock = event_clock(spec, log, now)
            opened, filters = open_log(log, paths), _event_filters(spec, log, clock)
            for file in opened:
                found = _read_events(spec, log, clock, filters, elsewhere, file, scope, pseudonymiser, shown)
                if log.attribute is not None:
                    attributions.setdefault(name, Counter()).update(found.fates)
                parts.append(found.units)
                types.append(found.types)
                filtered.append(found.filtered)
                foreign |= dict.fromkeys(found.unused)
                rows_in_log += found.lines
                empty += found.lines == 0
            if scope.with_undated and not any(part.height for part in parts[-len(opened) :]):
                filters.refuse_nothing_left(opened, event_columns(log))
        _refuse_foreign_types(spec, pl.concat(parts), list(foreign), scope)
    for log_of_labels in labels.values():
        part = read_label_log(
            spec,
            log_of_labels,
            event_files[log_of_labels.name],
            impression_files,
            scope,
            pseudonymiser,
            now,
            known,
            elsewhere,
        )
        parts.append(part.units)
        filtered.append(part.filtered)
        rows_in_log += sum(part.lines)
        empty += sum(lines == 0 for lines in part.lines)
    parts += label_units(spec, impression_files, scope, pseudonymiser, now, known)
    units = pl.concat(parts)
    undated = units.filter(pl.col(DAY).is_null() & pl.col(REASON).is_not_null()).height
    read_from = _files_of_days(units.drop_nulls(DAY), {**event_files, IMPRESSIONS: impression_files})
    # Labels of impressions are counted with these. Whether a row without a type is an outcome cannot be known.
    stated = units.filter(
        pl.col(LOG) != IMPRESSIONS,
        pl.col("event").is_not_null(),
        (pl.col("kind") == OUTCOME) | pl.col(REASON).is_not_null(),
    )
    units = units.with_columns(pl.col(DAY).fill_null(log_first))
    left_out = pl.concat(filtered).fill_null(log_first)
    broken, ignored = pl.col(REASON).is_not_null(), pl.col(IGNORED)
    good = units.filter(~broken & ~ignored)
    kept = (
        good.with_columns(
            pl.col(DAY).alias("day"),
            pl.col(LOG).alias("source_log"),
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
        rows_in=units.height + len(left_out),
        ignored=units.filter(~broken & ignored).height,
        rows_in_by_day=count_by_day(pl.concat([units[DAY].rename("day"), left_out])),
        filtered_by_day=count_by_day(left_out),
        undated=undated,
        rows_in_log=rows_in_log,
        outcomes=quarantined_by_day(stated),
        files=read_from,
        notices={
            "clock_skew": int(good[SKEWED].sum()),
            "duplicate_event": kept.height - distinct,
            "empty_file": empty if scope.with_undated else 0,
        },
        attributions=attributions,
        event_types=count_types(types, {task.label.event for task in spec.tasks if task.label.event is not None}),
    )


def _files_of_days(units: pl.DataFrame, files: Mapping[str, Files]) -> dict[date, set[str]]:
    """Paths of the files of all logs that the statements of each day are in."""
    found: dict[date, set[str]] = {}
    for (log,), of_log in units.partition_by(LOG, as_dict=True).items():
        for day, paths in files_of_days(of_log, files[str(log)]).items():
            found.setdefault(day, set()).update(paths)
    return found


def _event_filters(spec: Spec, log: EventLog, clock: Clock) -> Filters:
    """Which rows of an event log are of interest."""
    return Filters(
        declared=tuple(log.rows),
        section=f"source.events.{log.name}.rows",
        form=clock.form,
        private=frozenset(_private(spec, log)),
    )


def _private(spec: Spec, log: EventLog) -> set[str]:
    """Columns of an event log with ids that are never shown."""
    own = private_keys(spec, log.attribute) if log.attribute is not None else {str(log.impression_id)}
    return {*spec.private_columns, *own}


@dataclass(frozen=True, slots=True)
class _Part:
    """What was read of one file of events."""

    units: pl.DataFrame
    """Its statements."""
    unused: list[str]
    """Types in it that no task uses."""
    types: pl.DataFrame
    """Day and type of each event in scope."""
    filtered: pl.Series
    """The day of each event in scope that the spec leaves out, by itself or with its impression; null without one."""
    lines: int
    """All its rows."""
    fates: Mapping[str, int]
    """Events that name no impression by what became of them: see ``last_touch``."""


def _read_events(
    spec: Spec,
    log: EventLog,
    clock: Clock,
    filters: Filters,
    elsewhere: pl.Series,
    file: LogFile,
    scope: Scope,
    pseudonymiser: Pseudonymiser,
    shown: pl.LazyFrame | None,
) -> _Part:
    where = str(file.path)
    read = read_rows(file, event_columns(log), filters.marking(clock.selection(scope, INGEST, where), where))
    rows, left_out = filters.split(read)
    fields = _identity(spec, log, rows.schema, where, pseudonymiser)
    if len(elsewhere) and log.impression_id is not None:
        text = values.id_text(log.impression_id, rows.schema[log.impression_id], where)
        of_others = rows.frame.select(text.is_in(elsewhere.implode()).fill_null(False).alias("others"))["others"]
        left_out = pl.concat([left_out, rows.frame.filter(of_others)])
        rows = replace(rows, frame=rows.frame.filter(~of_others), total=rows.total - int(of_others.sum()))
    events = [task.label.event for task in spec.tasks if task.label.event is not None]
    # A type has the spelling of the spec, whatever the log's.
    spelt = dict(zip(declared_texts(events), events, strict=True))
    kind = values.canonical_text(log.type, rows.schema[log.type], where).replace(spelt)
    checks = (
        *filters.checks(rows.schema, where),
        *(check for field in fields for check in field.checks),
        Check(
            broken=kind.is_null(), reason="missing_type", rule=f"each event has a type in `{log.type}`", column=log.type
        ),
        *clock.checks(rows.schema),
    )
    private = _private(spec, log)
    frame = diagnose(rows, checks, private, where).with_columns(*(field.value for field in fields), kind.alias(_TYPE))
    types = frame.select(pl.from_epoch(INGEST, time_unit="us").dt.date().alias("day"), pl.col(_TYPE).alias("type"))
    if log.type in private:
        types = types.clear()
    if scope.with_undated:
        frame = with_malformed(frame, rows)
    if log.attribute is not None:
        wanted = pl.col(REASON).is_null() & pl.col(_TYPE).is_in(events)
        frame = attribute_events(spec, log.attribute, frame, wanted, shown)
        counts = frame[FATE].drop_nulls().value_counts()
        fates = {str(fate): int(number) for fate, number in counts.iter_rows()}
    else:
        frame, fates = frame.with_columns(pl.lit(None, pl.String).alias(FATE)), {}
    used = [(task.label.event, task.name) for task in spec.tasks if task.label.event is not None]
    tasks = pl.DataFrame(used, schema={_TYPE: pl.String, "event": pl.String}, orient="row")
    frame = frame.join(tasks, on=_TYPE, how="left", maintain_order="left_right").with_columns(
        pl.col(TS).alias("event_ts"),
        pl.col(INGEST).alias("ingest_ts"),
        pl.lit(OUTCOME).alias("kind"),
        (_is_foreign() | pl.col(FATE).is_in([UNATTRIBUTED, WITHOUT_KEY]).fill_null(False)).alias(IGNORED),
        pl.from_epoch(INGEST, time_unit="us").dt.date().alias(DAY),
    )
    # An event of no task's concern is ignored, whatever else is wrong with it.
    units = as_units(frame.with_columns(pl.when(~pl.col(IGNORED)).then(REASON).alias(REASON)), file, log.name)
    found = frame.filter(_is_foreign())[_TYPE].unique().sort()
    # Many different values are no types; they may be ids, and are not to be shown.
    unused = found.to_list() if len(found) <= min(_SHOWN_TYPES, frame.height // 2) else []
    return _Part(units, unused, types, days_of(left_out, INGEST), read.lines, fates)


def _is_foreign() -> pl.Expr:
    """Whether an event, which each task that uses it was joined to, has a type of no task."""
    return pl.col("event").is_null() & pl.col(_TYPE).is_not_null()


def _identity(
    spec: Spec, log: EventLog, schema: Schema, where: str, pseudonymiser: Pseudonymiser
) -> list[values.Field]:
    """The id of the impression that an event names, or the ids by which it is attributed to one."""
    if log.attribute is not None:
        return key_fields(spec, log.attribute, schema, where, pseudonymiser)
    column = str(log.impression_id)
    text = values.id_text(column, schema[column], where)
    missing = Check(
        broken=text.is_null(),
        reason="missing_id",
        rule=f"each event has the id of its impression in `{column}`",
        column=column,
    )
    value = pseudonymiser.of(text).alias("impression_id")
    return [values.Field(value, (missing, *values.exact_id(column, schema[column])))]


def _refuse_foreign_types(spec: Spec, units: pl.DataFrame, found: Sequence[str], scope: Scope) -> None:
    """Raises when no event is of a type that a task uses: every label would be negative.

    Checked where the log begins. A later day without outcomes is an outage, which the monitoring reports.
    """
    if (
        not scope.with_undated
        or units.height < ENOUGH_TO_JUDGE
        or units["event"].is_not_null().any()
        or not units[IGNORED].all()
    ):
        return
    wanted = [task.label.event for task in spec.tasks if task.label.event is not None]
    types = f"Types found: {listed(found)}. " if found else ""
    raise SourceError(
        f"event logs {listed([log.name for log in spec.source.events])}: none of the {units.height} events is of a "
        f"type that a task uses ({listed(wanted)}).{near_miss(wanted[0], found)} {types}Correct "
        "`tasks[].label.event`, or `type` of the event log, in the spec."
    )
