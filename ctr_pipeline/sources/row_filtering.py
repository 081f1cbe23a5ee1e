"""Rows that a spec leaves out: they are recognised before anything else is looked at, and counted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import polars as pl

from ctr_pipeline.sources.canonical import declared_texts
from ctr_pipeline.sources.errors import SourceError, listed, near_miss
from ctr_pipeline.sources.files import LogFile
from ctr_pipeline.sources.rows import Rows, Schema, Select, read_rows
from ctr_pipeline.sources.times import TimeForm
from ctr_pipeline.sources.values import Check, canonical_text, is_given, number, time_value
from ctr_pipeline.spec.row_filters import RowFilter

_PASSES = "__passes"
_SHOWN_VALUES = 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What the rows of a log have to pass."""

    declared: tuple[RowFilter, ...]
    section: str
    """The field of the spec that declares them."""
    form: TimeForm
    """How the log writes times."""
    private: frozenset[str]
    """Columns whose values must not be shown."""

    @property
    def columns(self) -> dict[str, str]:
        """Columns to read, with the field of the spec that names them."""
        return {one.column: self.section for one in self.declared}

    def passes(self, schema: Schema, where: str) -> pl.Expr:
        """Whether a row is of interest; null where that cannot be told, since a value is not of the kind of its bounds.

        Raises:
            SourceError: a column holds lists, or other values that cannot be compared.
        """
        return pl.all_horizontal([pl.lit(True), *(self._passes(one, schema, where) for one in self.declared)])

    def passing(self, select: Select, where: str) -> Select:
        """``select``, without the rows that are left out."""

        def selected(lazy: pl.LazyFrame, schema: Schema) -> pl.LazyFrame:
            # First, so that conditions on stored values reach the scan.
            kept = lazy.filter(self.passes(schema, where).fill_null(True)) if self.declared else lazy
            return select(kept, schema)

        return selected

    def marking(self, select: Select, where: str) -> Select:
        """``select``, with a mark for :meth:`split`."""

        def selected(lazy: pl.LazyFrame, schema: Schema) -> pl.LazyFrame:
            found = select(lazy, schema)
            return (
                found.with_columns(self.passes(schema, where).fill_null(True).alias(_PASSES))
                if self.declared
                else found
            )

        return selected

    def split(self, rows: Rows) -> tuple[Rows, pl.DataFrame]:
        """The rows of interest, and those that are left out, of what was read with :meth:`marking`."""
        if not self.declared:
            return rows, rows.frame.clear()
        kept, left_out = rows.frame.filter(_PASSES).drop(_PASSES), rows.frame.filter(~pl.col(_PASSES)).drop(_PASSES)
        return replace(rows, frame=kept, total=rows.total - left_out.height), left_out

    def checks(self, schema: Schema, where: str) -> tuple[Check, ...]:
        """Values that are compared with bounds are of their kind."""
        return tuple(
            Check(
                broken=is_given(one.column, schema[one.column]) & self._compared(one, schema, where).is_null(),
                reason="bad_filter_value",
                rule=f"`{one.column}` holds {'times' if self._is_time(one) else 'numbers'}, as `{self.section}` declares",
                column=one.column,
                unreadable=True,
            )
            for one in self.declared
            if one.is_range
        )

    def refuse_nothing_left(self, files: Sequence[LogFile], declared: dict[str, str]) -> None:
        """Raises SourceError when no row of the log passes; names the values that were found, where they are no ids."""
        frames: list[pl.DataFrame] = []
        for file in files:
            where = str(file.path)

            def compared(lazy: pl.LazyFrame, schema: Schema, where: str = where) -> pl.LazyFrame:
                found = [
                    (
                        self._compared(one, schema, where)
                        if one.is_range
                        else canonical_text(one.column, schema[one.column], where)
                    )
                    .cast(pl.Float64 if one.is_range else pl.String)
                    .alias(str(place))
                    for place, one in enumerate(self.declared)
                ]
                return lazy.select(*found, self.passes(schema, where).fill_null(True).alias(_PASSES))

            frames.append(read_rows(file, self.columns, compared, declared).frame)
        rows = pl.concat(frames)
        if rows.is_empty() or rows[_PASSES].any():
            return
        found = "; ".join(self._described(one, rows[str(place)]) for place, one in enumerate(self.declared))
        raise SourceError(
            f"{listed([file.name for file in files])}: `{self.section}` leaves out all {rows.height} rows. {found} "
            "Correct the filter."
        )

    def _passes(self, one: RowFilter, schema: Schema, where: str) -> pl.Expr:
        if one.is_range:
            value, given = self._compared(one, schema, where), is_given(one.column, schema[one.column])
            inside = pl.lit(True)
            if one.at_least is not None:
                inside &= value >= self._number(one.at_least)
            if one.below is not None:
                inside &= value < self._number(one.below)
            return pl.when(given).then(inside).otherwise(False)
        values = one.keep or one.drop
        text = canonical_text(one.column, schema[one.column], where)
        named = text.is_in(declared_texts([value for value in values if value is not None])).fill_null(None in values)
        return named if one.keep else ~named

    def _compared(self, one: RowFilter, schema: Schema, where: str) -> pl.Expr:
        """The value that is compared with the bounds; null where it is missing or of another kind."""
        kind = schema[one.column]
        if self._is_time(one):
            return time_value(one.column, kind, where, self.form)
        return number(one.column, kind, where)[0].fill_nan(None)

    def _is_time(self, one: RowFilter) -> bool:
        return isinstance(one.at_least if one.at_least is not None else one.below, str)

    def _number(self, bound: int | float | str) -> int | float:
        if not isinstance(bound, str):
            return bound
        time = datetime.fromisoformat(bound)
        known = time if time.tzinfo is not None else time.replace(tzinfo=ZoneInfo(self.form.zone))
        return round((known - _EPOCH).total_seconds() * 1e6)

    def _described(self, one: RowFilter, values: pl.Series) -> str:
        """What a filter asks for, and what its column holds."""
        parts = {"keep": one.keep, "drop": one.drop, "at_least": one.at_least, "below": one.below}
        asked = ", ".join(f"{name} {_spelt(value)}" for name, value in parts.items() if value not in (None, []))
        known = values.drop_nulls()
        if one.column in self.private or known.is_empty():
            return f"`{one.column}`: {asked}" + ("; no row has a value." if known.is_empty() else ".")
        if one.is_range:
            low, high = float(known.min()), float(known.max())  # type: ignore[arg-type]
            ends = [
                datetime.fromtimestamp(end / 1e6, UTC).isoformat() if self._is_time(one) else f"{end:g}"
                for end in (low, high)
            ]
            return f"`{one.column}`: {asked}; its values are {ends[0]} to {ends[1]}."
        counts = known.value_counts(sort=True)
        if counts.height > _SHOWN_VALUES:
            return f"`{one.column}`: {asked}; it has {counts.height} different values."
        found = counts[values.name].to_list()
        hints = [hint for value in one.keep if (hint := near_miss(str(value), found))]
        return f"`{one.column}`: {asked}; its values are {listed(found)}.{(hints or [''])[0]}"


def _spelt(value: object) -> str:
    if isinstance(value, list):
        return ", ".join("null" if part is None else str(part) for part in value)
    return str(value)


def days_of(left_out: pl.DataFrame, time: str) -> pl.Series:
    """The day of each row that is left out, by the column ``time`` (microseconds); null where it has none."""
    return left_out.select(pl.from_epoch(time, time_unit="us").dt.date().alias("day"))["day"]
