"""The impression log → rows of the table `impressions`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from ctr_pipeline.sources import values
from ctr_pipeline.sources.canonical import is_rounded
from ctr_pipeline.sources.clock import (
    INGEST,
    SKEWED,
    TS,
    TWICE,
    Clock,
    Ranks,
    Scope,
    clock_of,
    impression_form,
    rank_rows,
)
from ctr_pipeline.sources.contract import check_impressions, impressions_schema
from ctr_pipeline.sources.errors import SourceError, listed, near_miss
from ctr_pipeline.sources.feature_fields import feature_fields, list_columns
from ctr_pipeline.sources.files import Files, LogFile, open_log
from ctr_pipeline.sources.lists import cut_lists
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
    files_of_days,
    quarantine,
    quarantined_by_day,
    with_malformed,
)
from ctr_pipeline.sources.row_filtering import Filters, days_of
from ctr_pipeline.sources.rows import ENOUGH_TO_JUDGE, Schema, raw, read_rows
from ctr_pipeline.sources.shows import (
    SHOWS,
    as_impressions,
    positives_checks,
    positives_value,
    shows_checks,
    shows_value,
)
from ctr_pipeline.sources.side_tables import SideRows, join_side_tables, joining_fields, joining_key
from ctr_pipeline.sources.text import ROW
from ctr_pipeline.sources.time_features import time_features
from ctr_pipeline.sources.values import Check, Field
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.source import Order
from ctr_pipeline.spec.tasks import Task

_KNOWN, _KNOWN_INGEST, _REPEATED = "__known", "__known_ingest", "__repeated"
_HAS_OUTCOME = "__has_outcome"
_SHOWN_KINDS = 20


def read_impressions(
    spec: Spec,
    files: Files,
    first: date,
    last: date,
    pseudonymiser: Pseudonymiser,
    log_first: date,
    now: int | None = None,
    known: pl.LazyFrame | None = None,
    tables: Mapping[str, SideRows] | None = None,
) -> ReadResult:
    """The impressions of the days ``first`` to ``last`` (UTC, both included).

    Args:
        spec: Declares which columns mean what.
        files: The files of the impression log, all of them.
        first: First day to read.
        last: Last day to read.
        pseudonymiser: Hashes ids.
        log_first: First day of the log; rows that no day can be given to count as rows of this day.
        now: The instant of reading in microseconds: a time more than a day later, and after `days.last`, is of the
            future, and none. None for no limit, where times are made up.
        known: Columns ``impression_id``, ``ts`` and ``ingest_ts`` of the impressions of other days, where these were
            read before: a row that repeats an id of them is quarantined.
        tables: What was read of the side tables, each by its name; None only where the spec declares none.

    Returns:
        Impressions in order of (ts, impression_id). Of rows with the same id the first to arrive, by (ingest time,
        time, file, row), is kept; the others are quarantined.

    Raises:
        SourceError: a file cannot be read as declared.
    """
    scope = Scope.of(first, last, log_first)
    opened = open_log(spec.source.impressions, files)
    clock = clock_or_ranks(spec, opened, now)
    parts = [_read_file(spec, file, scope, clock, pseudonymiser) for file in opened]
    filtered = pl.concat([part.filtered for part in parts]).fill_null(log_first)
    rows = mark_repeated(spec, pl.concat([part.frame for part in parts]), known).with_columns(
        pl.from_epoch(TS, time_unit="us").dt.date().fill_null(log_first).alias(DAY)
    )
    if scope.with_undated and rows.is_empty() and len(filtered):
        impression_filters(spec).refuse_nothing_left(opened, spec.impression_columns)
    if scope.with_undated:
        _refuse_unknown_traffic(spec, opened, rows)
    good = rows.filter(pl.col(REASON).is_null())
    shown = good if spec.impression.shows is None else as_impressions(good, pseudonymiser, pl.col(SHOWS))
    shown, joins = join_side_tables(spec, shown, tables or {})
    kept = (
        shown.with_columns(pl.col(DAY).alias("day"), pl.col(TS).alias("ts"), pl.col(INGEST).alias("ingest_ts"))
        .select(impressions_schema(spec).names())
        .sort("ts", "impression_id")
    )
    check_impressions(spec, kept)
    return ReadResult(
        kept=kept,
        quarantined=quarantine(rows, "impressions"),
        rows_in=rows.height + len(filtered),
        ignored=0,
        rows_in_by_day=count_by_day(pl.concat([rows[DAY].rename("day"), filtered])),
        filtered_by_day=count_by_day(filtered),
        added_by_day=_sum_by_day(good, pl.col(SHOWS) - 1),
        undated=rows[TS].null_count(),
        rows_in_log=sum(part.lines for part in parts),
        outcomes=quarantined_by_day(
            rows.filter(_HAS_OUTCOME, pl.col(TS).is_not_null(), pl.col(REASON).ne_missing("duplicate_id"))
        ),
        files=files_of_days(rows.filter(pl.col(TS).is_not_null()), files),
        joins=joins,
        notices={
            "clock_skew": int(good[SKEWED].sum()),
            "repeated_hour": int(good[TWICE].sum()),
            "empty_file": sum(part.lines == 0 for part in parts) if scope.with_undated else 0,
            "other_traffic": good.height - good[values.OTHER_TRAFFIC].null_count(),
            **({"cut_lists": cut_lists(spec.features.embedded, kept)} if spec.features.lists else {}),
        },
    )


def impression_key(spec: Spec, file: LogFile, schema: Schema, pseudonymiser: Pseudonymiser) -> pl.Expr:
    """The pseudonym that identifies an impression: of its id, or of file name and row number where it has none.

    Null for an id that a float rounded: it may be that of another impression.
    """
    column = spec.impression.id
    if column is None:
        return pseudonymiser.of(pl.format(file.label.replace("{", "{{").replace("}", "}}") + ":{}", pl.col(ROW)))
    known = values.identity(column, schema[column], str(file.path), pseudonymiser)
    rounded = is_rounded(raw(column), schema[column])
    return known if rounded is None else pl.when(~rounded.fill_null(False)).then(known)


def declared_order(spec: Spec) -> Order:
    """The order of an impression log without a clock."""
    assert spec.impression.order is not None, "a spec has a time or an order"
    return spec.impression.order


def clock_or_ranks(spec: Spec, files: Sequence[LogFile], now: int | None) -> Clock | Ranks:
    """When each impression happened: by the clock of the log, or by its order; arguments as for :func:`clock_of`.

    Raises:
        SourceError: a file cannot be read as declared.
    """
    clock = clock_of(spec, now)
    if clock is not None:
        return clock
    return rank_rows(declared_order(spec), files, spec.impression_columns, impression_filters(spec))


def impression_filters(spec: Spec) -> Filters:
    """Which rows of the impression log are of interest."""
    return Filters(
        declared=tuple(spec.source.impressions.rows),
        section="source.impressions.rows",
        form=impression_form(spec),
        private=spec.private_columns,
    )


def filtered_ids(spec: Spec, files: Files) -> pl.Series:
    """The ids of impressions that the spec leaves out, as the texts under which events name them; not to be stored.

    An id that a row of interest has too is none of them.

    Raises:
        SourceError: a file cannot be read as declared.
    """
    filters, column = impression_filters(spec), spec.impression.id
    ids = [pl.DataFrame(schema={"id": pl.String, "kept": pl.Boolean})]
    for file in open_log(spec.source.impressions, files) if filters.declared and column else ():
        where = str(file.path)

        def marked(lazy: pl.LazyFrame, schema: Schema, where: str = where) -> pl.LazyFrame:
            text = values.id_text(str(column), schema[str(column)], where)
            return lazy.select(text.alias("id"), filters.passes(schema, where).fill_null(True).alias("kept"))

        columns = {**filters.columns, str(column): "impression.id"}
        ids.append(read_rows(file, columns, marked, spec.impression_columns).frame)
    found = pl.concat(ids).drop_nulls("id").group_by("id").agg(pl.col("kept").any())
    return found.filter(~pl.col("kept"))["id"]


def mark_repeated(spec: Spec, rows: pl.DataFrame, known: pl.LazyFrame | None) -> pl.DataFrame:
    """Marks each row whose impression id had arrived before, even if that row is broken.

    By arrival, and not by time: a repetition that arrives later with an earlier time changes nothing that was known,
    and used in training, before it came.

    Args:
        spec: Names the column.
        rows: What was read.
        known: Columns ``impression_id``, ``ts`` and ``ingest_ts`` of impressions that were read before.

    Returns:
        ``rows`` in order of (ingest time, time, file, row).
    """
    rows = rows.sort(INGEST, TS, FILE, ROW, nulls_last=True)
    identified = pl.col(TS).is_not_null() & pl.col("impression_id").is_not_null()
    repeated = ~pl.col("impression_id").is_first_distinct()
    if known is not None:
        wanted = rows.lazy().select("impression_id").drop_nulls()
        stored = known.select("impression_id", pl.col("ts").alias(_KNOWN), pl.col("ingest_ts").alias(_KNOWN_INGEST))
        found = stored.join(wanted, on="impression_id", how="semi").collect(engine="streaming")
        found = found.sort(_KNOWN_INGEST, _KNOWN).unique("impression_id", keep="first")
        rows = rows.join(found, on="impression_id", how="left", maintain_order="left")
        # A label that arrives the day after its impression finds the impression itself among the stored ones.
        itself = pl.col(_KNOWN).eq_missing(pl.col(TS)) & pl.col(_KNOWN_INGEST).eq_missing(pl.col(INGEST))
        repeated |= pl.col(_KNOWN).is_not_null() & ~itself
    rows = rows.with_columns((repeated & identified).alias(_REPEATED)).drop(_KNOWN, _KNOWN_INGEST, strict=False)
    again = pl.col(_REPEATED)
    return rows.with_columns(
        pl.when(again).then(pl.lit("duplicate_id")).otherwise(REASON).alias(REASON),
        pl.when(again)
        .then(pl.lit("an impression id occurs once; the row that arrived first is kept"))
        .otherwise(RULE)
        .alias(RULE),
        pl.when(again).then(pl.lit(spec.impression.id, pl.String)).otherwise(COLUMN).alias(COLUMN),
        pl.when(~again).then(VALUE).alias(VALUE),
    ).drop(_REPEATED)


@dataclass(frozen=True, slots=True)
class _Part:
    """What was read of one file."""

    frame: pl.DataFrame
    """The rows in scope: canonical columns, TS, INGEST, SKEWED, and reason, rule, column and value of what is wrong."""
    filtered: pl.Series
    """The day of each row in scope that the spec leaves out; null where it has none."""
    lines: int
    """All rows of the file."""


def _read_file(spec: Spec, file: LogFile, scope: Scope, clock: Clock | Ranks, pseudonymiser: Pseudonymiser) -> _Part:
    where, filters = str(file.path), impression_filters(spec)
    select = clock.selection(scope, TS, where) if isinstance(clock, Clock) else clock.selection(file, scope)
    found = read_rows(file, spec.impression_columns, filters.marking(select, where), lists=list_columns(spec))
    rows, left_out = filters.split(found)
    schema, private = rows.schema, spec.private_columns
    fields = _fields(spec, file, schema, pseudonymiser)
    checks = [
        *filters.checks(schema, where),
        *id_checks(spec, schema, where),
        *clock.checks(schema),
        *shows_checks(spec, schema, where),
        *(check for field in fields for check in field.checks),
        *_label_checks(spec, clock, schema, where),
    ]
    frame = diagnose(rows, checks, private, where).with_columns(
        *(field.value for field in fields),
        shows_value(spec, schema, where).alias(SHOWS),
        _has_outcome(spec, schema, where).alias(_HAS_OUTCOME),
    )
    if scope.with_undated:
        frame = with_malformed(frame, rows)
    canonical = dict(impressions_schema(spec))
    later = {"day", "ts", "ingest_ts"} | {f.name for table in spec.source.tables for f, _ in spec.features_of(table)}
    keys = [joining_key(table) for table in spec.source.tables]
    names = [*(name for name in canonical if name not in later), values.OTHER_TRAFFIC, *keys]
    absent = [pl.lit(None, canonical.get(name, pl.String)).alias(name) for name in names if name not in frame.columns]
    frame = frame.with_columns(absent).select(
        pl.lit(file.index, pl.Int32).alias(FILE),
        pl.lit(file.name).alias(NAME),
        ROW,
        TS,
        INGEST,
        pl.col(SKEWED, TWICE, _HAS_OUTCOME).fill_null(False),
        SHOWS,
        *names,
        REASON,
        RULE,
        COLUMN,
        VALUE,
    )
    return _Part(frame, days_of(left_out, TS), found.lines)


def _fields(spec: Spec, file: LogFile, schema: Schema, pseudonymiser: Pseudonymiser) -> list[Field]:
    where, declared = str(file.path), spec.impression
    fields = [Field(impression_key(spec, file, schema, pseudonymiser).alias("impression_id"))]
    for name, column in (("user", declared.user), ("session", declared.session), *spec.key_columns.items()):
        if column is not None:
            value = values.identity(column, schema[column], where, pseudonymiser)
            fields.append(Field(value.alias(name), values.exact_id(column, schema[column])))
    if declared.position is not None:
        fields.append(values.position(declared.position, schema[declared.position], where, declared.first_position))
    if declared.traffic is not None:
        fields += values.traffic(declared.traffic, schema[declared.traffic.column], where)
    if declared.propensity is not None:
        fields.append(values.propensity(declared.propensity, schema[declared.propensity], where))
    if declared.weight is not None:
        fields.append(values.row_weight(declared.weight, schema[declared.weight], where))
    if declared.arm is not None:
        fields.append(values.arm(declared.arm, schema[declared.arm.column], where))
    fields += [*feature_fields(spec, schema, where, pseudonymiser), *joining_fields(spec, schema, where)]
    return [*fields, *time_features(spec)]


def id_checks(spec: Spec, schema: Schema, where: str) -> tuple[Check, ...]:
    """Each impression has an id, where the log has ids."""
    column = spec.impression.id
    if column is None:
        return ()
    missing = values.id_text(column, schema[column], where).is_null()
    rule = f"each impression has an id in `{column}`"
    return (
        Check(broken=missing, reason="missing_id", rule=rule, column=column),
        *values.exact_id(column, schema[column]),
    )


def _sum_by_day(rows: pl.DataFrame, value: pl.Expr) -> dict[date, int]:
    """The sum of ``value`` of each day, where it is not 0."""
    sums = rows.group_by(DAY).agg(value.sum().alias("sum")).filter(pl.col("sum") != 0).sort(DAY)
    return dict(sums.iter_rows())


def _refuse_unknown_traffic(spec: Spec, files: Sequence[LogFile], rows: pl.DataFrame) -> None:
    """Raises where the log begins, when no row has a kind of traffic that the spec knows: nothing could be weighted."""
    found, declared = rows[values.OTHER_TRAFFIC].drop_nulls(), spec.impression.traffic
    if declared is None or len(found) < ENOUGH_TO_JUDGE or rows["traffic"].null_count() < rows.height:
        return
    wanted = [str(value) for value in (*declared.random, *declared.production)]
    kinds = found.value_counts(sort=True)[values.OTHER_TRAFFIC].head(_SHOWN_KINDS).to_list()
    shown = f"; most often {kinds[0]!r}" if found.n_unique() <= _SHOWN_KINDS else ""
    hints = [hint for name in wanted if shown and (hint := near_miss(name, kinds))]
    raise SourceError(
        f"column `{declared.column}` (files: {listed([file.name for file in files])}): none of its {len(found)} values "
        f"is a declared kind of traffic ({listed(wanted)}){shown}.{(hints or [''])[0]} Correct "
        "`impression.traffic` in the spec."
    )


def _has_outcome(spec: Spec, schema: Schema, where: str) -> pl.Expr:
    """Whether a row states an outcome of any task, or may do so because the label cannot be read."""
    found = [pl.lit(False)]
    for task in spec.tasks:
        if task.label.impression_column is not None:
            parsed, checks = label_value(spec, task, schema, where)
            found += [(parsed > 0).fill_null(False), *(check.broken.fill_null(False) for check in checks)]
        if task.label.time_column is not None:
            found.append(values.is_given(task.label.time_column, schema[task.label.time_column]))
    return pl.any_horizontal(found)


def label_value(spec: Spec, task: Task, schema: Schema, where: str) -> tuple[pl.Expr, tuple[Check, ...]]:
    """How many impressions of a row have the outcome of a label column, null where not known, and its checks.

    Of a row that stands for one impression, that is 0 or 1.
    """
    if spec.impression.shows is None:
        return values.label(task.label, schema[str(task.label.column)], where)
    return positives_value(task, schema, where), positives_checks(task, spec, schema, where)


def _label_checks(spec: Spec, clock: Clock | Ranks, schema: Schema, where: str) -> list[Check]:
    """An unreadable label quarantines the whole row: without it, it would count as a negative."""
    checks: list[Check] = []
    for task in spec.tasks:
        if task.label.impression_column is not None:
            checks.extend(label_value(spec, task, schema, where)[1])
        for column in (task.label.time_column, *task.label.closed_by):
            if column is not None:
                form = impression_form(spec)
                parsed = values.time_value(column, schema[column], where, form)
                if column == task.label.time_column and isinstance(clock, Clock):
                    # An outcome cannot be known ahead; a closing may be planned.
                    checks.append(values.future_check(column, clock.is_future(parsed)))
                checks.extend(values.time_checks(column, schema[column], parsed, form, required=False))
    return checks
