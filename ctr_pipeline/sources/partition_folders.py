"""Columns that a log has in the names of its folders: ``dt=2026-03-01/country=DE/part-0.parquet``.

Spark, Hive and Delta write them so, and leave them out of the files.
"""

from pathlib import Path
from urllib.parse import unquote

from ctr_pipeline.spec.addresses import Address

_MISSING = "__HIVE_DEFAULT_PARTITION__"


def folder_values(path: Path | Address) -> dict[str, str | None]:
    """The columns in the names of the folders that ``path`` lies in, with their values as text; None where missing."""
    found: dict[str, str | None] = {}
    for part in path.parent.parts:
        name, equals, value = part.partition("=")
        if equals and name:
            found[unquote(name)] = None if value == _MISSING else unquote(value)
    return found
