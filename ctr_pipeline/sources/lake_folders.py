"""Folders that are tables: which of their files are live is written in a log of the table, not in the folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ctr_pipeline.sources.errors import SourceError, listed
from ctr_pipeline.sources.object_storage import delta_options, repeated
from ctr_pipeline.sources.partition_folders import folder_values
from ctr_pipeline.spec.addresses import Address

DELTA_LOG = "_delta_log"
"""Folder that makes the folder it lies in a Delta table."""

_READABLE_FEATURES = frozenset({"timestampNtz"})
"""Features of Delta tables that do not change which rows of its files are live, or what their columns are called."""


def is_delta(folder: Path) -> bool:
    """Whether a folder is a Delta table."""
    return (folder / DELTA_LOG).is_dir()


def live_files(folder: Path) -> Iterator[Path]:
    """The files of the newest version of a Delta table, in order of path. Files of deleted rows are none of them.

    Raises:
        SourceError: the table cannot be opened, its files alone do not determine its rows, or one of them is not there.
    """
    _, uris, partitions = _opened(str(folder), folder, None)
    # The table's own paths have no links in them; the user's may.
    root = folder.resolve()
    for stored in sorted(Path(uri) for uri in uris):
        if not stored.is_relative_to(root):
            raise _elsewhere(folder)
        path = folder.absolute() / stored.relative_to(root)
        _require_folders(path, partitions)
        if not path.is_file():
            raise SourceError(
                f"{path}: no such file, and the Delta table {folder} has rows in it. Restore it, or restore the table to a "
                "version whose files are all there."
            )
        yield path


def live_keys(folder: Address) -> list[str]:
    """The same of a Delta table in object storage: the keys of its files, in order.

    Raises:
        SourceError: as for :func:`live_files`, and when files of it lie elsewhere.
    """
    root, uris, partitions = _opened(str(folder), folder, delta_options())
    keys = []
    for uri in sorted(uris):
        inside = uri.removeprefix(f"{root.rstrip('/')}/")
        if inside == uri:
            raise _elsewhere(folder)
        keys.append(f"{folder.key}/{inside}".removeprefix("/"))
        _require_folders(folder.at(keys[-1]), partitions)
    return keys


def _elsewhere(folder: Path | Address) -> SourceError:
    return SourceError(
        f"{folder}: is a Delta table with files that lie elsewhere, as a shallow clone has them. Write the table out as "
        "Parquet files and name those."
    )


def _opened(
    place: str, folder: Path | Address, options: dict[str, str] | None
) -> tuple[str, Sequence[str], Sequence[str]]:
    """Where delta-rs says that a table lies, its files, and the columns that it is partitioned by."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = repeated(lambda: DeltaTable(place, storage_options=options))
        protocol, uris, partitions = table.protocol(), table.file_uris(), table.metadata().partition_columns
    except (DeltaError, OSError, ValueError) as error:
        again = "" if options is None else " Run again, should the storage have been out of reach."
        raise SourceError(
            f"{folder}: is a Delta table ({DELTA_LOG}), but cannot be opened ({type(error).__name__}).{again} Restore its log, "
            "or write the table out as Parquet files and name those."
        ) from None
    others = sorted(set(protocol.reader_features or ()) - _READABLE_FEATURES)
    if protocol.min_reader_version == 2:
        others.append("columnMapping")
    if others:
        raise SourceError(
            f"{folder}: is a Delta table with {listed(others)}, so its files alone are not its rows. Write the table out as "
            "Parquet files and name those, or rewrite it without (REORG TABLE … APPLY (PURGE) removes deletion vectors)."
        )
    return table.table_uri, uris, partitions


def _require_folders(path: Path | Address, partitions: Sequence[str]) -> None:
    unnamed = [name for name in partitions if name not in folder_values(path)]
    if unnamed:
        raise SourceError(
            f"{path}: belongs to a Delta table that is partitioned by {listed(unnamed)}, but lies in no folder of "
            "that name. Write the table out as Parquet files that have the column, and name those."
        )


def refuse_other_tables(folder: Path, names: Sequence[str]) -> None:
    """Raises SourceError when the folder, whose sub-folders are ``names``, is a table of another kind."""
    kind = None
    if ".hoodie" in names:
        kind = "Hudi"
    elif "metadata" in names and any((folder / "metadata").glob("*.metadata.json")):
        kind = "Iceberg"
    if kind is not None:
        raise other_table(folder, kind)


def other_table(folder: Path | Address, kind: str) -> SourceError:
    """The error of a folder that is a table of a kind that is not read."""
    return SourceError(
        f"{folder}: is {'an' if kind == 'Iceberg' else 'a'} {kind} table, and these are not read: its folder also "
        "holds files of deleted and replaced rows. Write the table out as Parquet files, and name those."
    )


def refuse_part_of_table(path: Path) -> None:
    """Raises SourceError when ``path`` is a file of a Delta table: read by itself, deleted rows would come back."""
    for folder in path.parents:
        if is_delta(folder):
            raise part_of_table(path, folder)
        if "=" not in folder.name:
            return


def part_of_table(path: Path | Address, folder: Path | Address) -> SourceError:
    """The error of a file that belongs to a Delta table."""
    return SourceError(
        f"{path}: is a file of the Delta table {folder}, and may hold rows that were deleted. Name the folder of "
        "the table."
    )
