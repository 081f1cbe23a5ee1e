"""What a log states about one task: an event, a label's value, an outcome's time, a closing time."""

import polars as pl

from ctr_pipeline.sources.clock import SKEWED
from ctr_pipeline.sources.files import LogFile
from ctr_pipeline.sources.quarantine import COLUMN, DAY, FILE, NAME, REASON, RULE, VALUE
from ctr_pipeline.sources.text import ROW

OUTCOME, CLOSED, UNKNOWN = "outcome", "closed", "unknown"
"""Kinds of rows: it happened; the case was closed without it; the log has no value."""

IMPRESSIONS = "impressions"
"""The log of outcomes that are columns of the impressions; event logs have names of their own."""

IGNORED, LOG = "__ignored", "__log"
"""Whether a unit is of no use to its task; the name of its log."""

UNITS = pl.Schema(
    {
        DAY: pl.Date,
        LOG: pl.String,
        FILE: pl.Int32,
        NAME: pl.String,
        ROW: pl.Int64,
        "impression_id": pl.String,
        "event": pl.String,
        "kind": pl.String,
        "event_ts": pl.Int64,
        "ingest_ts": pl.Int64,
        SKEWED: pl.Boolean,
        REASON: pl.String,
        RULE: pl.String,
        COLUMN: pl.String,
        VALUE: pl.String,
        IGNORED: pl.Boolean,
    }
)
"""Columns of units: each is one statement of a log about one task."""


def as_units(frame: pl.DataFrame, file: LogFile, log: str) -> pl.DataFrame:
    """``frame``, read of ``file``, with the columns of :data:`UNITS`; missing marks are false."""
    return frame.with_columns(
        pl.lit(log).alias(LOG),
        pl.lit(file.index, pl.Int32).alias(FILE),
        pl.lit(file.name).alias(NAME),
        pl.col(SKEWED).fill_null(False),
        pl.col(IGNORED).fill_null(False),
    ).select(UNITS.names())
