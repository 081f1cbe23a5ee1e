"""Days of a table that are read stretch by stretch, and become visible all at once."""

from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ctr_pipeline.engines.base import commit, new_files

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.lake import Lake
    from ctr_pipeline.sources import ReadResult


class StagedDays:
    """What was read of a table, stretch by stretch: its kept rows in files that nobody sees before the commit.

    Files that were not committed by the end of the block are removed.
    """

    def __init__(self, lake: "Lake", table: str) -> None:
        import polars as pl

        from ctr_pipeline.sources import QUARANTINE_SCHEMA

        self.lake, self.table = lake, table
        self.files: dict[date, Path] = {}
        self.quarantined = pl.DataFrame(schema=QUARANTINE_SCHEMA)
        self.empty = pl.DataFrame()
        self.kept: Counter[date] = Counter()
        self.rows_in: Counter[date] = Counter()
        self.notices: Counter[str] = Counter()
        self.total = self.ignored = self.undated = self.rows_in_log = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self.files.values():
            path.unlink(missing_ok=True)

    def add(self, result: "ReadResult") -> None:
        """Writes the rows of a stretch; it begins after the last one."""
        import polars as pl

        by_day = {day: rows for (day,), rows in result.kept.partition_by("day", as_dict=True).items()}
        files = new_files(self.lake, self.table, sorted(by_day))
        self.files |= files
        for day, path in files.items():
            by_day[day].drop("day").write_parquet(path, compression="zstd")
            self.kept[day] += by_day[day].height
        self.quarantined = pl.concat([self.quarantined, result.quarantined])
        self.empty = result.kept.clear()
        self.rows_in.update(result.rows_in_by_day)
        self.notices.update(result.notices)
        self.total += result.rows_in
        self.ignored += result.ignored
        self.undated += result.undated
        # Each stretch looks through the whole log.
        self.rows_in_log = max(self.rows_in_log, result.rows_in_log)

    def with_ids(self, known: "pl.LazyFrame | None", since: date) -> "pl.LazyFrame | None":
        """``known``, and the ids of the impressions that were written, from the day ``since`` on."""
        import polars as pl

        written = [path for day, path in self.files.items() if day >= since]
        if self.table != "impressions" or not written:
            return known
        ids = pl.scan_parquet(written, glob=False).select("impression_id", "ts", "ingest_ts")
        return ids if known is None else pl.concat([known, ids])

    def commit(self, days: Sequence[date]) -> int:
        """Makes what was written the content of ``days``; the version of the table."""
        files, self.files = self.files, {}
        if not files:
            return self.lake.replace_days(self.table, self.empty, days)
        return commit(self.lake, self.table, files, days)
