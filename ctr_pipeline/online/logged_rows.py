"""The table `serving_log`: one row a candidate of a logged request, made of the segments of all processes."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ctr_pipeline.online.cold_rows import COLD, COLD_PARENTS
from ctr_pipeline.online.log_records import LoggedRequest, Segment, read_segment
from ctr_pipeline.spec.fields import DAY_US

_NUMBERS = pl.List(pl.Float32)

SERVING_LOG_SCHEMA: dict[str, pl.DataType] = {
    "day": pl.Date(),
    "ts": pl.Int64(),
    "request_id": pl.String(),
    "slot": pl.Int32(),
    "arm": pl.String(),
    "model_sha": pl.String(),
    "snapshot": pl.String(),
    "impression_id": pl.String(),
    "numeric": _NUMBERS,
    "ids": pl.List(pl.Int32()),
    "logits": _NUMBERS,
    "probabilities": _NUMBERS,
    "segment": pl.String(),
    "record": pl.Int32(),
    COLD: pl.List(pl.String),
    COLD_PARENTS: pl.List(pl.String),
}
"""Columns of `serving_log`.

``slot`` is the place of the candidate in its request, from 0 on. ``numeric`` and ``ids`` are in the order of the layout of
the model ``model_sha``, ``logits`` and ``probabilities`` in that of its tasks. ``segment`` and ``record`` identify the
request: its own id may come twice. ``cold`` and ``cold_parents`` are of :mod:`ctr_pipeline.online.cold_rows`: segments do
not have them, as they follow from the ids.
"""

SERVING_LOG_ORDER = ("ts", "segment", "record", "slot")
"""Order of the rows of a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What the segments hold of some days."""

    rows: pl.DataFrame
    """With the columns of :data:`SERVING_LOG_SCHEMA`."""
    other_days: Mapping[str, Mapping[date, int]]
    """By name of a segment, the other days that it has rows of, and how many."""
    unread_bytes: int
    """Of records that were torn or damaged."""
    segments: Sequence[Segment]
    """All that were read."""


def fetch_segments(found: Iterable[Segment], days: Collection[date]) -> Fetched:
    """The rows of ``days`` in the segments ``found``; one that is gone meanwhile has none."""
    wanted, parts, others, unread, read = set(days), [], {}, 0, []
    for segment in found:
        try:
            content = read_segment(segment.path)
        except FileNotFoundError:
            continue
        rows = rows_of(content.requests, segment.name)
        parts.append(rows.filter(pl.col("day").is_in(wanted)))
        counts = rows.filter(~pl.col("day").is_in(wanted)).group_by("day").len()
        others[segment.name] = dict(counts.iter_rows())
        unread += content.unread_bytes if segment.sealed else 0
        read.append(segment)
    rows = pl.concat(parts) if parts else pl.DataFrame(schema=SERVING_LOG_SCHEMA)
    return Fetched(rows=rows, other_days=others, unread_bytes=unread, segments=read)


def rows_of(requests: Sequence[LoggedRequest], segment: str) -> pl.DataFrame:
    """The requests of a segment, in order, as rows of the table."""
    if not requests:
        return pl.DataFrame(schema=SERVING_LOG_SCHEMA)
    sizes = np.array([len(request.numeric) for request in requests])

    def repeated(values: Sequence[Any], kind: pl.DataType) -> pl.Series:
        return pl.Series(values, dtype=kind).gather(np.repeat(np.arange(len(requests)), sizes))

    ts = np.concatenate([np.asarray(request.ts, np.int64) for request in requests])
    impressions: list[str | None] = []
    for request, size in zip(requests, sizes, strict=True):
        impressions += request.impression_ids or [None] * int(size)
    columns: dict[str, Any] = {
        "day": (ts // DAY_US).astype(np.int32),
        "ts": ts,
        "request_id": repeated([request.request_id for request in requests], pl.String()),
        "slot": np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
        "arm": repeated([request.arm for request in requests], pl.String()),
        "model_sha": repeated([request.model_sha for request in requests], pl.String()),
        "snapshot": repeated([request.snapshot for request in requests], pl.String()),
        "impression_id": pl.Series(impressions, dtype=pl.String),
        **{
            name: _lists([getattr(request, name) for request in requests])
            for name in ("numeric", "ids", "logits", "probabilities")
        },
        "segment": pl.repeat(segment, len(ts), dtype=pl.String, eager=True),
        "record": repeated([request.record for request in requests], pl.Int32()),
        **{name: pl.repeat(None, len(ts), dtype=pl.List(pl.String), eager=True) for name in (COLD, COLD_PARENTS)},
    }
    return pl.DataFrame(columns).with_columns(pl.col("day").cast(pl.Date)).cast(SERVING_LOG_SCHEMA)  # type: ignore[arg-type]


def merged_rows(stored: pl.DataFrame, fetched: pl.DataFrame) -> pl.DataFrame:
    """The rows of both, each once, in the table's order; columns that ``stored`` does not have yet are null."""
    key = ["segment", "record", "slot"]
    had = stored.select([name for name in SERVING_LOG_SCHEMA if name in stored.columns])
    both = pl.concat([had, fetched], how="diagonal").select(list(SERVING_LOG_SCHEMA))
    return both.unique(key, keep="first").sort(SERVING_LOG_ORDER)


def remove_segments(found: Fetched, stored: Mapping[tuple[str, date], int], kept_after: float) -> int:
    """Removes sealed segments whose rows are all in the table, and those of before ``kept_after``.

    Args:
        found: What was read, and its rows committed.
        stored: Rows of the table by segment and day, of the other days.
        kept_after: Seconds since 1970; a sealed segment that was last written before is of days that nobody asks for.

    Returns:
        How many were removed.
    """
    removed = 0
    for segment in found.segments:
        if not segment.sealed:
            continue
        try:
            others = found.other_days[segment.name].items()
            whole = all(stored.get((segment.name, day), 0) >= rows for day, rows in others)
            if whole or segment.path.stat().st_mtime < kept_after:
                segment.path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed


def matrix_of(lists: pl.Series, width: int, kind: type[np.generic]) -> NDArray[Any]:
    """[N, width] of a column of lists.

    Raises:
        ValueError: a list has another length.
    """
    lengths = lists.list.len()
    if (lengths != width).any():
        raise ValueError(f"{lists.name}: expected lists of {width} values")
    return lists.explode(empty_as_null=False).to_numpy().astype(kind, copy=False).reshape(len(lists), width)


def _lists(arrays: Sequence[NDArray[Any]]) -> pl.Series:
    widths = np.repeat([array.shape[1] for array in arrays], [len(array) for array in arrays])
    offsets = np.concatenate([[0], np.cumsum(widths)])
    values = np.concatenate([array.ravel() for array in arrays])
    made = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values))
    found = pl.from_arrow(made)
    assert isinstance(found, pl.Series), "an array is a column"
    return found
