"""The small types that the sections of a spec share: names, durations, days."""

import re
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationInfo,
)

MICROSECONDS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
"""Length of each duration unit in microseconds."""

DAY_US = MICROSECONDS["d"]

LONGEST_DURATION_US = 3_660 * DAY_US
"""Longest duration that a spec may name: ten years. Sums of a few of them still fit into 64 bits."""

FROM_FILE = "from_file"
"""Key of the validation context: the values come from a file that a person wrote."""

_DURATION = re.compile(r"([0-9]+)(us|ms|s|m|h|d)")


def added_field(default: Any, description: str, **limits: Any) -> Any:
    """A field that came after the first version of the format.

    While it has its default it is left out of the dumped spec. So the hash of a spec that does not use it, and
    the bundle of its model, stay what they were. ``limits`` are those of a pydantic field.
    """
    return Field(default=default, description=description, exclude_if=lambda value: value == default, **limits)


class Section(BaseModel):
    """A part of the spec: unknown keys are refused, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse_duration(value: object) -> int:
    """Microseconds in a duration such as ``30m``, ``24h``, ``14d`` or ``0s``.

    Raises:
        ValueError: ``value`` is not a whole number directly followed by us, ms, s, m, h or d, or is above ten years.
    """
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration is a whole number with a unit, such as 30m, 24h or 14d")
    return _within_limit(int(match[1]) * MICROSECONDS[match[2]])


def format_duration(microseconds: int) -> str:
    """The shortest duration text that :func:`parse_duration` reads back as ``microseconds``."""
    for unit in ("d", "h", "m", "s", "ms"):
        if microseconds % MICROSECONDS[unit] == 0:
            return f"{microseconds // MICROSECONDS[unit]}{unit}"
    return f"{microseconds}us"


def _within_limit(microseconds: int) -> int:
    if microseconds > LONGEST_DURATION_US:
        raise ValueError(f"a duration is at most {format_duration(LONGEST_DURATION_US)}")
    return microseconds


def _duration(value: object, info: ValidationInfo) -> int:
    # In code a duration is a number of microseconds. In a file a bare 24 is as likely to mean hours: ask for the unit.
    written_by_hand = bool(info.context and info.context.get(FROM_FILE))
    if type(value) is int and value >= 0 and not written_by_hand:
        return _within_limit(value)
    return parse_duration(value)


def _is_name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
        raise ValueError("a name starts with a lower-case letter and has only a-z, 0-9 and _")
    return value


def _is_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{value!r} is no IANA time zone such as UTC or Europe/Amsterdam") from error
    return value


Duration = Annotated[int, BeforeValidator(_duration), PlainSerializer(format_duration, return_type=str)]
"""A length of time: written as text in the spec, held in microseconds."""

Name = Annotated[str, StringConstraints(max_length=64), AfterValidator(_is_name)]
"""A name that the pipeline uses in tables, assets and files."""

Column = Annotated[str, StringConstraints(min_length=1)]
"""The name of a column in the user's log, in the user's spelling."""

TimeZone = Annotated[str, AfterValidator(_is_zone)]
"""The name of a time zone."""
