"""Reading and replacing the days of Delta tables.

delta-rs writes the commits. It is not fork-safe: processes that use a lake must be spawned.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from ctr_pipeline.errors import UserError

DAY = "day"
"""The partition column of every table."""

STORED_TYPES = (
    *(pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Float32, pl.Float64, pl.String, pl.Date),
    *(pl.List(pl.String), pl.List(pl.Float64)),
)
"""Types of columns that Delta and every engine hold alike."""

_ATTEMPTS = 6
_FIRST_PAUSE_SECONDS = 0.05
# Reproducing a past training reads old versions, so the log keeps them all.
_CONFIGURATION: dict[str, str | None] = {"delta.enableExpiredLogCleanup": "false"}


class LakeError(UserError):
    """A table that cannot be read or written as asked; the message names it, the cause, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """What a version of a table holds."""

    id: str
    """Id of the table, which it keeps as long as it exists."""
    schema: pl.Schema
    """Columns and their types."""
    rows: int
    first_day: date | None
    """None for a table without rows."""
    last_day: date | None


@dataclass(frozen=True, slots=True)
class Lake:
    """The Delta tables below one folder.

    Every table has a column ``day`` (date, UTC) and is partitioned by it. A day without rows is legal.
    """

    root: Path
    """Folder of the tables; made at the first write."""

    def replace_days(self, table: str, frame: pl.DataFrame | Iterable[pl.DataFrame], days: Sequence[date]) -> int:
        """Replaces, in one atomic commit, everything that ``table`` holds for ``days``.

        Rows are stored in the order given, a day's rows together. The table is made when absent. Columns that the
        table does not have yet are added to it; columns that ``frame`` lacks become null.

        Args:
            table: Name of the table.
            frame: The new rows, with a column ``day``; several frames are stored one after the other. Days of
                ``days`` that it lacks become empty.
            days: The days to replace.

        Returns:
            The Delta version that this commit made.

        Raises:
            LakeError: ``frame`` has rows of other days or a column of another type than the table, or another
                writer kept changing the same days.
        """
        rows = frame if isinstance(frame, pl.DataFrame) else pl.concat(frame)
        wanted = sorted(set(days))
        found = rows.schema.get(DAY)
        if found != pl.Date:
            raise LakeError(f"table {table}: expected a column {DAY} of dates, found {found or 'none'}. Add it.")
        refuse_other_days(table, rows[DAY].unique().to_list(), wanted)
        return _retried(table, wanted, lambda: self._commit(table, rows, wanted))

    def commit_files(self, table: str, files: Mapping[date, Path], days: Sequence[date]) -> int:
        """Makes Parquet files that an engine has written the content of ``days``, in one atomic commit.

        The table is made when absent, and new columns are added to it, as by :meth:`replace_days`. No reader sees
        the files before the commit. Where the process ends before it, they stay behind, unused.

        Args:
            table: Name of the table.
            files: One file a day, ``<root>/<table>/day=<day>/<any name>.parquet``, without the column ``day``.
            days: The days to replace; those without a file become empty.

        Returns:
            The Delta version that this commit made.

        Raises:
            LakeError: a file is of a day that is not to be replaced, lies elsewhere, or has columns of other types
                than the table; or another writer kept changing the table.
        """
        wanted = sorted(set(days))
        refuse_other_days(table, list(files), wanted)
        made: pl.Schema | None = None
        schemas: dict[pa.Schema, pl.Schema] = {}
        adds, folder = [], Path(self._path(table)).resolve()
        for day, path in sorted(files.items()):
            if path.parent.resolve() != folder / f"{DAY}={day}":
                raise LakeError(
                    f"table {table}: {path} was to hold {day}, so it must lie in {folder / f'{DAY}={day}'}."
                )
            content = pq.read_metadata(path)
            stored = content.schema.to_arrow_schema().remove_metadata()
            # Most files of a commit have one schema.
            if stored not in schemas:
                schemas[stored] = _schema_of_file(table, path)
            made = made or schemas[stored]
            if schemas[stored] != made:
                raise LakeError(f"table {table}: the new files of {min(files)} and {day} differ in their columns.")
            adds.append(_add_action(day, path, content.num_rows))
        return _retried(table, wanted, lambda: self._commit_files(table, adds, made, wanted))

    def scan(
        self, table: str, version: int | None = None, first: date | None = None, last: date | None = None
    ) -> pl.LazyFrame:
        """The rows of ``table`` from ``first`` to ``last`` (both included), as of ``version`` (newest by default).

        Days ascend; within a day the rows have the order in which they were written.

        Raises:
            LakeError: the table or version does not exist.
        """
        delta = self._open(table, version)
        schema = _schema(delta)
        columns = [DAY, *(name for name in schema if name != DAY)]
        files = _files(delta, first, last)
        if not files:
            return pl.LazyFrame(schema={name: schema[name] for name in columns})
        stored = {name: kind for name, kind in schema.items() if name != DAY}
        return pl.scan_parquet(
            files,
            schema=stored,
            hive_schema={DAY: pl.Date},
            hive_partitioning=True,
            missing_columns="insert",
            glob=False,
        ).select(columns)

    def files(
        self, table: str, version: int | None = None, first: date | None = None, last: date | None = None
    ) -> list[str]:
        """Paths of the Parquet files that hold those rows, by day; an empty list when there are no rows.

        The files lack the column ``day``, which is in their paths. DuckDB reads them with
        ``read_parquet(files, hive_partitioning = true, union_by_name = true)``.

        Raises:
            LakeError: the table or version does not exist.
        """
        return _files(self._open(table, version), first, last)

    def version(self, table: str) -> int | None:
        """The newest version of ``table``; None when the table does not exist."""
        try:
            return int(DeltaTable(self._path(table), without_files=True).version())
        except TableNotFoundError:
            return None

    def facts(self, table: str, version: int) -> TableFacts:
        """What ``table`` holds at ``version``, from its log; no row is read.

        Raises:
            LakeError: the table or version does not exist.
        """
        delta = self._open(table, version)
        days = _rows_by_day(delta)
        return TableFacts(
            id=str(delta.metadata().id),
            schema=_schema(delta),
            rows=sum(days.values()),
            first_day=min(days, default=None),
            last_day=max(days, default=None),
        )

    def rows_by_day(self, table: str, version: int | None = None) -> dict[date, int]:
        """Rows of each day that has some, from the log of ``table``; no row is read.

        Raises:
            LakeError: the table or version does not exist.
        """
        return _rows_by_day(self._open(table, version))

    def exists(self, table: str) -> bool:
        """Whether ``table`` has been written."""
        return self.version(table) is not None

    def _path(self, table: str) -> str:
        if set("[]%") & set(str(self.root)):
            raise LakeError(
                f"{self.root}: Delta tables cannot lie below a folder with [, ] or % in its name. Choose another."
            )
        return str(self.root / table)

    def _open(self, table: str, version: int | None) -> DeltaTable:
        try:
            return DeltaTable(self._path(table), version=version)
        except TableNotFoundError as error:
            raise LakeError(f"table {table}: not found in {self.root}. Materialise it first.") from error
        except DeltaError as error:
            newest = self.version(table)
            raise LakeError(
                f"table {table}: version {version} cannot be read; versions go from 0 to {newest}. "
                f"Name one of those, or none for the newest."
            ) from error

    def _commit(self, table: str, rows: pl.DataFrame, days: list[date]) -> int:
        self.root.mkdir(parents=True, exist_ok=True)
        # One batch: the writer spreads several over its threads, in no fixed order.
        arrow = rows.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        delta = DeltaTable.create(
            self._path(table), arrow.schema, mode="ignore", partition_by=[DAY], configuration=_CONFIGURATION
        )
        before = _schema(delta)
        _refuse_other_types(table, before, rows.schema)
        write_deltalake(
            delta,
            arrow,
            mode="overwrite",
            predicate=_predicate(days),
            schema_mode="merge" if set(before) != set(rows.columns) else None,
            writer_properties=WriterProperties(compression="ZSTD"),
        )
        return int(delta.version())

    def _commit_files(self, table: str, adds: Sequence[AddAction], schema: pl.Schema | None, days: list[date]) -> int:
        if schema is None:
            delta = self._open(table, None)
            merged = delta.schema()
        else:
            self.root.mkdir(parents=True, exist_ok=True)
            made = {DAY: pl.Date(), **schema}
            delta = DeltaTable.create(
                self._path(table), _delta_schema(made), mode="ignore", partition_by=[DAY], configuration=_CONFIGURATION
            )
            before = _schema(delta)
            _refuse_other_types(table, before, made)
            added = {name: kind for name, kind in made.items() if name not in before}
            merged = _delta_schema({**before, **added}) if added else delta.schema()
        version = int(delta.version())
        delta.create_write_transaction(
            list(adds),
            mode="overwrite",
            schema=merged,
            partition_by=[DAY],
            partition_filters=[(DAY, "in", [day.isoformat() for day in days])],
            # Without this, two writers that both found a day empty would both succeed.
            commit_properties=CommitProperties(max_commit_retries=0),
        )
        return version + 1


def refuse_other_days(table: str, found: Sequence[date | None], days: Sequence[date]) -> None:
    """Refuses rows of days that are not among ``days``.

    Raises:
        LakeError: ``days`` is empty, or ``found`` has others, or a null.
    """
    if not days:
        raise LakeError(f"table {table}: no days to replace. Name at least one.")
    others = sorted({str(day) for day in set(found) - set(days)})
    if others:
        raise LakeError(
            f"table {table}: has rows of {', '.join(others[:3])}, but {_span(sorted(days))} are to be replaced. "
            f"Filter the rows or name those days too."
        )


def _retried(table: str, days: list[date], commit: Callable[[], int]) -> int:
    for attempt in range(_ATTEMPTS):
        try:
            return commit()
        except CommitFailedError:
            # Another process committed first: start again from its version.
            time.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
    raise LakeError(
        f"table {table}: another process kept changing {_span(days)} while this one tried to replace them "
        f"({_ATTEMPTS} attempts). Let only one process write a day at a time, then run this step again."
    )


def _refuse_other_types(table: str, before: pl.Schema, rows: Mapping[str, pl.DataType]) -> None:
    for name, kind in rows.items():
        if name in before and before[name] != kind:
            raise LakeError(
                f"table {table}: column {name} holds {before[name]}, but the new rows have {kind}. "
                f"Use another column name, or start a new data root."
            )


def _schema_of_file(table: str, path: Path) -> pl.Schema:
    schema = pl.read_parquet_schema(path)
    if DAY in schema:
        raise LakeError(f"table {table}: {path} has a column {DAY}, which the name of its folder holds. Leave it out.")
    for name, kind in schema.items():
        if kind not in STORED_TYPES:
            known = ", ".join(str(known) for known in STORED_TYPES)
            raise LakeError(f"table {table}: column {name} has type {kind}. Cast it to one of {known}.")
    return pl.Schema(schema)


def _add_action(day: date, path: Path, rows: int) -> AddAction:
    found = path.stat()
    return AddAction(
        path=f"{DAY}={day}/{path.name}",
        size=found.st_size,
        partition_values={DAY: day.isoformat()},
        modification_time=found.st_mtime_ns // 1_000_000,
        data_change=True,
        stats=json.dumps({"numRecords": rows}),
    )


def _delta_schema(schema: Mapping[str, pl.DataType]) -> Schema:
    return Schema.from_arrow(pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema)


def _files(delta: DeltaTable, first: date | None, last: date | None) -> list[str]:
    bounds = [(">=", first), ("<=", last)]
    filters = [(DAY, sign, day.isoformat()) for sign, day in bounds if day is not None]
    # Delta names files as parts of a URL.
    return sorted(unquote(file) for file in delta.file_uris(partition_filters=filters or None))


def _rows_by_day(delta: DeltaTable) -> dict[date, int]:
    rows: dict[date, int] = {}
    files = pl.DataFrame(delta.get_add_actions(flatten=True))
    if files.height:
        for day, count in files.select(f"partition.{DAY}", "num_records").iter_rows():
            rows[date.fromisoformat(str(day))] = rows.get(date.fromisoformat(str(day)), 0) + int(count)
    return rows


def _schema(delta: DeltaTable) -> pl.Schema:
    """The table's columns and types, in polars' terms."""
    return pl.Schema(delta.schema())


def _predicate(days: list[date]) -> str:
    """SQL that is true for the rows of ``days`` (ascending)."""
    if days[-1] - days[0] == timedelta(days=len(days) - 1):
        return f"{DAY} >= '{days[0]}' AND {DAY} <= '{days[-1]}'"
    listed = ", ".join(f"'{day}'" for day in days)
    return f"{DAY} IN ({listed})"


def _span(days: list[date]) -> str:
    return f"day {days[0]}" if len(days) == 1 else f"days {days[0]} to {days[-1]}"
