"""Removing rows for good: from the newest version, from every earlier one, and from the table's log."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
from deltalake import DeltaTable

from ctr_pipeline.lake.tables import DAY, Lake, LakeError


@dataclass(frozen=True, slots=True)
class Erased:
    """What was removed from one table."""

    rows: int
    days: tuple[date, ...]


def tables_of(lake: Lake) -> list[str]:
    """Names of the tables in ``lake``, sorted."""
    return sorted(path.parent.name for path in lake.root.glob("*/_delta_log"))


def erase_rows(
    lake: Lake,
    table: str,
    removed: pl.Expr,
    correct: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    corrected_days: Collection[date] = (),
) -> Erased:
    """Removes rows from the newest version of ``table``; the other rows keep their order.

    One commit a day, so that one day at a time is in memory. Earlier versions still show the rows until
    :func:`purge_history`.

    Args:
        lake: The lake.
        table: Name of the table.
        removed: True for the rows to remove; null counts as false.
        correct: Corrects the remaining rows of a day that lost some.
        corrected_days: Days to correct even where they lost none.
    """
    gone = removed.fill_null(False)
    counts = lake.scan(table).filter(gone).group_by(DAY).len().sort(DAY).collect()
    for day in sorted({*counts[DAY], *corrected_days}):
        rows = lake.scan(table, first=day, last=day).collect()
        left = rows.filter(~gone)
        left = left if correct is None else correct(left)
        if not left.equals(rows):
            lake.replace_days(table, left, [day])
    return Erased(int(counts["len"].sum()), tuple(counts[DAY]))


def purge_history(lake: Lake, table: str) -> int:
    """Makes the newest version of ``table`` the only one: removes every file that it does not need.

    That includes files that a killed process left uncommitted, and the log of the earlier versions: its entries hold
    the smallest and largest values of each column of each file, ids among them. No other process may use the table meanwhile.

    Returns:
        The number of data files that were removed.

    Raises:
        LakeError: files of the newest version are absent.
    """
    path = lake.root / table
    before = _data_files(path)
    needed = {Path(file).resolve() for file in lake.files(table)}
    absent = needed - {file.resolve() for file in before}
    if absent:
        raise LakeError(f"table {table}: {len(absent)} of its files are absent, so nothing is removed. Restore them.")
    delta = DeltaTable(str(path))
    delta.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    # What vacuum keeps, such as the folder of a day that has no rows any more.
    for file in _data_files(path):
        if file.resolve() not in needed:
            file.unlink()
    delta = DeltaTable(str(path))
    newest = int(delta.version())
    delta.create_checkpoint()
    for entry in (path / "_delta_log").iterdir():
        version = entry.name.partition(".")[0]
        if version.isdigit() and int(version) < newest:
            entry.unlink()
    return len(before) - len(_data_files(path))


def stored_values(lake: Lake, table: str, columns: list[str]) -> pl.DataFrame:
    """Distinct rows of ``columns`` and ``day`` in all files of ``table``, whichever version they belong to, if any.

    A column that a file lacks is null.
    """
    found = [
        pl.read_parquet(file, columns=[name for name in columns if name in present], hive_partitioning=False)
        .unique()
        .with_columns(pl.lit(date.fromisoformat(file.parent.name.removeprefix(f"{DAY}="))).alias(DAY))
        for file in _data_files(lake.root / table)
        if (present := set(pl.read_parquet_schema(file)))
    ]
    empty = pl.DataFrame(schema={DAY: pl.Date})
    return pl.concat([empty, *found], how="diagonal").unique()


def _data_files(path: Path) -> list[Path]:
    return sorted(path.glob(f"{DAY}=*/*.parquet"))
