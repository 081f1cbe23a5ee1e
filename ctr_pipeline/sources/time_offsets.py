"""Times that the log gives by another time and a distance to it, such as a booking by arrival and lead time."""

import polars as pl

from ctr_pipeline.sources.times import from_local, in_zone, plausible
from ctr_pipeline.sources.values import Check, is_given, number
from ctr_pipeline.spec.fields import MICROSECONDS
from ctr_pipeline.spec.source import TimeOffset


def moved(time: pl.Expr, offset: TimeOffset, kind: pl.DataType, where: str, zone: str) -> pl.Expr:
    """``time`` (microseconds), moved by what the row's offset says; null where it has none.

    Days are those of the calendar: five days before midnight is midnight, also when clocks were set in between.

    Raises:
        SourceError: the column's type cannot hold numbers.
    """
    parsed, _ = number(offset.column, kind, where)
    distance = (parsed.fill_nan(None) * MICROSECONDS[offset.unit] * (-1 if offset.subtract else 1)).round()
    step = distance.cast(pl.Int64, strict=False)
    if offset.unit != "d" or zone == "UTC":
        return plausible(time + step)
    return plausible(from_local(in_zone(time, zone) + pl.duration(microseconds=step), zone))


def offset_checks(offset: TimeOffset, kind: pl.DataType) -> tuple[Check, ...]:
    """Each row has a finite number to move its time by."""
    column = offset.column
    given = is_given(column, kind)
    parsed, no_number = number(column, kind, "")
    rule = f"each row has a number in `{column}`, which `impression.time_offset` names"
    return (
        Check(broken=~given, reason="missing_time", rule=rule, column=column),
        Check(
            broken=given & (no_number | ~parsed.is_finite()),
            reason="bad_time",
            rule=f"`{column}` holds finite numbers, by which `impression.time_offset` moves the time",
            column=column,
            unreadable=True,
        ),
    )
