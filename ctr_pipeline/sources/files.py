"""Which files make up a log, and how each is read."""

import glob
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ctr_pipeline.sources.errors import SourceError, listed, near_miss
from ctr_pipeline.spec.source import LogFiles

_HIDDEN = (".", "_")

Format = Literal["parquet", "csv", "ndjson"]

_ENDINGS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """One file of a log and how to read it."""

    path: Path
    index: int
    """Place in the log's list of files."""
    label: str
    """The file's name, made unique within the log: with the row number it identifies an impression."""
    format: Format
    compressed: bool
    separator: str
    null_values: tuple[str, ...]
    log: tuple[Path, ...]
    """All files of the log."""

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.name


def log_files(log: LogFiles, base: Path, overrides: Sequence[Path] = ()) -> tuple[Path, ...]:
    """The files of a log: those of ``overrides`` if there are any, else those that the spec names.

    Args:
        log: The declared log.
        base: Folder against which relative paths of the spec are resolved.
        overrides: Files, folders or globs that replace those of the spec; relative ones start at the working folder.

    Returns:
        Files in order of name, each once. A folder stands for every log file below it; hidden files and those that
        start with ``_`` are left out.

    Raises:
        SourceError: a path does not exist, a folder or glob has no log file, or no path is declared.
    """
    patterns = [Path(path).expanduser() for path in overrides] or [base / Path(path).expanduser() for path in log.paths]
    if not patterns:
        raise SourceError(
            "no log file is declared. Set `source.impressions.paths` in the spec, or pass `--input PATH`."
        )
    found = {file for pattern in patterns for file in _expand(pattern, log)}
    return tuple(sorted(found))


def open_log(log: LogFiles, files: Sequence[Path]) -> tuple[LogFile, ...]:
    """How each of ``files`` is read.

    Raises:
        SourceError: neither a file's ending nor the spec determines its format.
    """
    if not files:
        raise SourceError("the log has no files. Set `paths` in the spec, or pass `--input PATH`.")
    seen: Counter[str] = Counter()
    opened = []
    for index, path in enumerate(files):
        seen[path.name] += 1
        namesakes = seen[path.name]
        kind = log.format or _format(path)
        if kind is None:
            raise SourceError(
                f"{path}: the ending {path.suffix or '(none)'} does not determine its format; known endings are "
                f"{', '.join(_ENDINGS)}, each also with .gz. Rename the file, or set `format` in the spec."
            )
        opened.append(
            LogFile(
                path=path,
                log=tuple(files),
                index=index,
                label=path.name if namesakes == 1 else f"{path.name}#{namesakes}",
                format=kind,
                compressed=is_compressed(path),
                separator="\t" if _ending(path) == ".tsv" else log.separator,
                null_values=tuple(log.null_values),
            )
        )
    return tuple(opened)


def source_fingerprint(files: Sequence[Path]) -> str:
    """Changes when a file is added, removed, renamed or written: a hash of names, sizes and modification times.

    Raises:
        SourceError: a file is gone.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            status = path.stat()
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror}). Restore it or change the path.") from None
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def is_compressed(path: Path) -> bool:
    """Whether a file is packed with gzip, by its name."""
    return path.suffix.lower() == ".gz"


def _ending(path: Path) -> str:
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def _format(path: Path) -> Format | None:
    return _ENDINGS.get(_ending(path))


def _expand(pattern: Path, log: LogFiles) -> Iterator[Path]:
    if os.path.lexists(pattern):
        yield from _at(pattern, log)
        return
    if not glob.has_magic(str(pattern)):
        raise SourceError(f"{pattern}: no such file or folder.{_neighbours(pattern)} Correct the path.")
    matches = sorted(Path(match) for match in glob.glob(str(pattern), recursive=True))
    if not matches:
        raise SourceError(f"{pattern}: no file matches this pattern. Correct it, or put the log there.")
    for match in matches:
        yield from _at(match, log)


def _at(path: Path, log: LogFiles) -> list[Path]:
    """The log file at ``path``, or those below it."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreachable(path, error) from None
    if stat.S_ISDIR(mode):
        return _below(path, log)
    if not stat.S_ISREG(mode):
        raise SourceError(f"{path}: this is a device, pipe or socket. Name a file or a folder.")
    return [path.absolute()]


def _unreachable(path: Path, error: OSError) -> SourceError:
    if path.is_symlink():
        return SourceError(
            f"{path}: this link leads to no file ({error.strerror}). Restore what it pointed to, or correct the path."
        )
    return SourceError(f"{path}: this user may not look into it ({error.strerror}). Change its permissions.")


def _below(folder: Path, log: LogFiles) -> list[Path]:
    """Log files in ``folder`` and its sub-folders, linked ones too."""
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()
    _is_new(folder.resolve(), seen)
    for place, names, found in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith(_HIDDEN) and _is_new(Path(place, name), seen))
        paths = [Path(place, name) for name in sorted(found) if not name.startswith(_HIDDEN)]
        files += [
            file for path in paths if log.format is not None or _format(path) is not None for file in _at(path, log)
        ]
    if not files:
        raise SourceError(
            f"{folder}: no log file in this folder; looked for {', '.join(_ENDINGS)}, each also with .gz. "
            "Put the log there, or set `format` in the spec when its files end differently."
        )
    return [path.absolute() for path in files]


def _refuse_folder(error: OSError) -> None:
    raise _unreachable(Path(str(error.filename)), error) from None


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder is to be looked into: not reached before, through a link."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    known = identity in seen
    seen.add(identity)
    return not known


def _neighbours(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    except PermissionError:
        return f" This user may not look into the folder {path.parent}."
    except OSError:
        return f" The folder {path.parent} does not exist either."
    return near_miss(path.name, names) or (f" That folder has: {listed(names)}." if names else " That folder is empty.")
