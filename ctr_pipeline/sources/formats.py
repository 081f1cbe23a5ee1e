"""What the ending of a file's name says about it."""

from pathlib import PurePath
from typing import Literal

from ctr_pipeline.spec.addresses import Address

Format = Literal["parquet", "csv", "ndjson"]

ENDINGS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}


def is_compressed(path: PurePath | Address) -> bool:
    """Whether a file is packed with gzip, by its name."""
    return path.suffix.lower() == ".gz"


def ending_of(path: PurePath | Address) -> str:
    """The ending of a file's name, that of what is packed where it is packed."""
    suffix = path.suffix.lower()
    return PurePath(path.stem).suffix.lower() if suffix == ".gz" else suffix


def format_of(path: PurePath | Address) -> Format | None:
    """The format that a file's name says; None where it says none."""
    return ENDINGS.get(ending_of(path))
