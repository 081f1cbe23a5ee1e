"""Features that are a part of the local time of the impression."""

import polars as pl

from ctr_pipeline.sources.clock import TS
from ctr_pipeline.sources.times import in_zone
from ctr_pipeline.sources.values import Field
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.time_parts import TimePart


def time_features(spec: Spec) -> list[Field]:
    """The features with ``time``, as text."""
    return [
        Field(time_part(pl.col(TS), feature.time, spec.time_part_zone(feature)).alias(feature.name))
        for feature in spec.features.embedded
        if feature.time is not None
    ]


def time_part(time: pl.Expr, part: TimePart, zone: str) -> pl.Expr:
    """A part of the local date and time of an instant (microseconds since 1970 UTC), as text without leading zeros."""
    local = in_zone(time, zone).dt
    if part == "hour":
        found = local.hour()
    elif part == "hour_of_week":
        found = (local.weekday().cast(pl.Int16) - 1) * 24 + local.hour()
    elif part == "weekday":
        found = local.weekday()
    elif part == "day":
        found = local.day()
    else:
        found = local.month()
    return found.cast(pl.String)
