"""A part of the local time of one instant: the scalar form of what reading a log does to a column."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from ctr_pipeline.spec.time_parts import TimePart

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_part_of(time: int, part: TimePart, zone: str) -> str:
    """A part of the local date and time of ``time`` (microseconds since 1970 UTC), as text without leading zeros."""
    local = (_EPOCH + timedelta(microseconds=time)).astimezone(ZoneInfo(zone))
    found = {
        "hour": local.hour,
        "hour_of_week": local.weekday() * 24 + local.hour,
        "weekday": local.isoweekday(),
        "day": local.day,
        "month": local.month,
    }
    return str(found[part])
