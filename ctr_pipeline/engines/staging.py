"""Days of a table that are read one interval after the other, and become visible all at once."""

from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ctr_pipeline.engines.base import commit, write_days

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.lake import Lake


class StagedDays:
    """Rows of a table in files that no reader sees before the commit.

    Files that were not committed by the end of the block are removed.
    """

    def __init__(self, lake: "Lake", table: str) -> None:
        import polars as pl

        self.lake, self.table = lake, table
        self.files: dict[date, Path] = {}
        self.rows: Counter[date] = Counter()
        """Rows written, by day."""
        self.empty = pl.DataFrame()
        """A frame with the columns of the table and no rows."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self.files.values():
            path.unlink(missing_ok=True)

    def add(self, rows: "pl.DataFrame") -> None:
        """Writes the rows of an interval (column ``day``, which the files do not hold); it begins after the last one."""
        self.files |= write_days(self.lake, self.table, rows)
        self.rows.update(dict(rows.group_by("day").len().iter_rows()))
        self.empty = rows.clear()

    def written(self, since: date) -> list[Path]:
        """The files of the days from ``since`` on."""
        return [path for day, path in self.files.items() if day >= since]

    def commit(self, days: Sequence[date]) -> int:
        """Makes what was written the content of ``days``; the version of the table."""
        files, self.files = self.files, {}
        if not files:
            return self.lake.replace_days(self.table, self.empty, days)
        return commit(self.lake, self.table, files, days)
