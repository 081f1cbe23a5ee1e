"""Polars over the lake's files: one process, quick where the data fits into memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from ctr_pipeline.engines.base import EngineName, commit, new_files

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.lake import Lake


@dataclass(frozen=True, slots=True)
class PolarsEngine:
    """One process, quick where the data fits into memory."""

    scratch: Path
    """Folder for rows between being computed and being sorted."""
    name: EngineName = "polars"

    def scan(
        self,
        lake: "Lake",
        table: str,
        version: int | None = None,
        first: date | None = None,
        last: date | None = None,
    ) -> "pl.LazyFrame":
        """See :meth:`Engine.scan`."""
        return lake.scan(table, version, first, last)

    def replace_days(
        self, lake: "Lake", table: str, frame: "pl.LazyFrame", days: Sequence[date], order: Sequence[str]
    ) -> int:
        """See :meth:`Engine.replace_days`."""
        import polars as pl

        from ctr_pipeline.lake import refuse_other_days

        pending = self.scratch / f"pending_{uuid4().hex}.parquet"
        try:
            frame.sink_parquet(pending, compression="lz4")
            rows = pl.scan_parquet(pending)
            found = rows.select(pl.col("day").unique().sort()).collect()["day"].to_list()
            refuse_other_days(table, found, days)
            if not found:
                return lake.replace_days(table, rows.collect(), days)
            files = new_files(lake, table, found)
            for day, path in files.items():
                mine = rows.filter(pl.col("day") == day).drop("day").sort(order, nulls_last=False)
                mine.sink_parquet(path, compression="zstd")
            return commit(lake, table, files, days)
        finally:
            pending.unlink(missing_ok=True)
