"""A lake at fixed versions, read only."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from ctr_pipeline.lake.tables import Lake, LakeError


@dataclass(frozen=True, slots=True)
class LakeSnapshot(Lake):
    """Shows each table of ``versions`` as it was at that version, unless another is asked for."""

    versions: Mapping[str, int]

    def scan(
        self, table: str, version: int | None = None, first: date | None = None, last: date | None = None
    ) -> pl.LazyFrame:
        """As :meth:`Lake.scan`, at the pinned version by default."""
        return Lake.scan(self, table, self._pinned(table, version), first, last)

    def files(
        self, table: str, version: int | None = None, first: date | None = None, last: date | None = None
    ) -> list[str]:
        """As :meth:`Lake.files`, at the pinned version by default."""
        return Lake.files(self, table, self._pinned(table, version), first, last)

    def rows_by_day(self, table: str, version: int | None = None) -> dict[date, int]:
        """As :meth:`Lake.rows_by_day`, at the pinned version by default."""
        return Lake.rows_by_day(self, table, self._pinned(table, version))

    def version(self, table: str) -> int | None:
        """The pinned version of ``table``."""
        return self._pinned(table, None)

    def replace_days(self, table: str, frame: pl.DataFrame | Iterable[pl.DataFrame], days: Sequence[date]) -> int:  # noqa: ARG002
        """Refuses.

        Raises:
            LakeError: always.
        """
        raise self._refusal(table)

    def commit_files(self, table: str, files: Mapping[date, Path], days: Sequence[date]) -> int:  # noqa: ARG002
        """Refuses.

        Raises:
            LakeError: always.
        """
        raise self._refusal(table)

    def _pinned(self, table: str, version: int | None) -> int:
        if version is None and table not in self.versions:
            raise LakeError(f"table {table}: none of its versions was recorded, so which one is meant is not known.")
        return self.versions[table] if version is None else version

    def _refusal(self, table: str) -> LakeError:
        return LakeError(f"table {table}: this view of the lake is read only.")
