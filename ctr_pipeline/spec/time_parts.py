"""Parts of a local date and time that a feature may be."""

from typing import Literal

TimePart = Literal["hour", "hour_of_week", "weekday", "day", "month"]
"""Hour 0–23; hour of the week 0–167, from Monday 00:00 on; weekday 1–7, Monday first; day of the month 1–31; month 1–12."""
