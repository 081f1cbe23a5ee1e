"""Which files a log has, listed once: what is read is what is recorded.

A listing is made before anything is read, and everything that follows looks at it: the days of the log, each reading,
and the fingerprint that is stored with what was read. A file that lands meanwhile belongs to the next run, and one that
changes meanwhile is refused.
"""

import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctr_pipeline.sources.errors import SourceError, listed, near_miss
from ctr_pipeline.sources.formats import ENDINGS, format_of
from ctr_pipeline.sources.lake_folders import is_delta, live_files, refuse_other_tables, refuse_part_of_table
from ctr_pipeline.spec.source import EventLog, LogFiles, SideTable

_HIDDEN = (".", "_")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""As of object storage: s3://, gs://, abfss://, https://. A path loses its second slash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """One file of a log as it was when the log was listed."""

    path: Path
    label: str
    """Its place below the path that names the log: whatever other files come and go, it stays the same."""
    size: int
    modified: int
    """When it was last written, in nanoseconds."""

    @property
    def stamp(self) -> str:
        """Another one when the file was written since."""
        return f"{self.size}:{self.modified}"

    def require_unchanged(self) -> None:
        """Nothing was written to the file since it was listed.

        Raises:
            SourceError: it was, or the file is gone.
        """
        now = listed_file(self.path)
        if now.stamp != self.stamp:
            raise SourceError(
                f"{self.path}: was written to while its log was being read ({self.size} bytes when it was listed, "
                f"{now.size} now). Run again once it is complete. A file that is still being written belongs under "
                "a name that starts with a dot until it is."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of a log as they were at one moment."""

    files: tuple[ListedFile, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    """Path of what lies there and is not read, and why."""

    @property
    def stamps(self) -> dict[str, str]:
        """The stamp of each file, by its path."""
        return {str(file.path): file.stamp for file in self.files}

    @property
    def remarks(self) -> list[str]:
        """What of the log's folders is not read, a text for each reason."""
        by_reason: dict[str, list[str]] = {}
        for path, reason in self.left_out:
            by_reason.setdefault(reason, []).append(path)
        return [f"left out of the log: {listed(paths)} ({reason})." for reason, paths in by_reason.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """The files of all logs of a spec as they were at one moment."""

    impressions: Listing
    events: Mapping[str, Listing]
    """By the name of the event log."""
    tables: Mapping[str, Listing] = field(default_factory=dict)
    """By the name of the side table."""

    @property
    def stamps(self) -> dict[str, str]:
        """The stamp of each file of all logs, by its path."""
        return {path: stamp for listing in self._all for path, stamp in listing.stamps.items()}

    @property
    def files(self) -> tuple[ListedFile, ...]:
        """The files of all logs."""
        return tuple(file for listing in self._all for file in listing.files)

    @property
    def remarks(self) -> list[str]:
        """What of the logs' folders is not read."""
        return list(dict.fromkeys(remark for listing in self._all for remark in listing.remarks))

    @property
    def _all(self) -> tuple[Listing, ...]:
        others = (*sorted(self.events.items()), *sorted(self.tables.items()))
        return (self.impressions, *(listing for _, listing in others))


def listed_file(path: Path, label: str | None = None) -> ListedFile:
    """A file as it is now.

    Raises:
        SourceError: it is gone, or this user may not look at it.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file. Restore it, or correct the log's paths.") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}). Restore it or change the path.") from None
    return ListedFile(path=path, label=label or path.name, size=status.st_size, modified=status.st_mtime_ns)


def list_files(log: LogFiles, base: Path, overrides: Sequence[Path] = ()) -> Listing:
    """The files of a log: those of ``overrides`` if there are any, else those that the spec names.

    Args:
        log: The declared log.
        base: Folder against which relative paths of the spec are resolved.
        overrides: Files, folders or globs that replace those of the spec; relative ones start at the working folder.

    Returns:
        Files in order of name, each once: a link to a file of the log is that file. A folder stands for every log file
        below it; hidden files and those that start with ``_`` are left out.

    Raises:
        SourceError: a path does not exist, a folder or glob has no log file, or no path is declared.
    """
    for name in [str(path) for path in overrides] or log.paths:
        if _ADDRESS.match(name):
            raise SourceError(
                f"{name}: is an address, and only local paths are read. Copy the files, or mount what holds them, and name "
                "that folder."
            )
    patterns = [Path(path).expanduser() for path in overrides] or [base / Path(path).expanduser() for path in log.paths]
    if not patterns:
        raise SourceError(f"no log file is declared. Set {_paths_of(log)}.")
    left_out: dict[str, str] = {}
    found: dict[Path, str] = {}
    for pattern in patterns:
        for path, label in _expand(pattern, log, left_out):
            found.setdefault(path, label)
    return Listing(files=_each_once(found, left_out), left_out=tuple(sorted(left_out.items())))


def _paths_of(log: LogFiles) -> str:
    """Where the files of a log are named."""
    if isinstance(log, EventLog | SideTable):
        section = "events" if isinstance(log, EventLog) else "tables"
        return f"`paths` of `{log.name}` in `source.{section}` of the spec, or pass `--input {log.name}=PATH`"
    return "`source.impressions.paths` in the spec, or pass `--input PATH`"


def source_fingerprint(files: Iterable[ListedFile]) -> str:
    """Changes when a file is added, removed, renamed or written: a hash of labels, sizes and modification times."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.label}\0{file.stamp}\n".encode())
    return digest.hexdigest()[:16]


def _each_once(found: dict[Path, str], left_out: dict[str, str]) -> tuple[ListedFile, ...]:
    """The files of ``found`` in order of path; of several names of one file the one that is no link."""
    kept: dict[tuple[int, int], Path] = {}
    for path in sorted(found, key=lambda path: (path.is_symlink(), path)):
        status = path.stat()
        first = kept.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            left_out[str(path)] = f"another name of {first.name}"
    return tuple(listed_file(path, found[path]) for path in sorted(kept.values()))


def _expand(pattern: Path, log: LogFiles, left_out: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """The log files that ``pattern`` names, each with its label."""
    if os.path.lexists(pattern):
        yield from _at(pattern, log, left_out, pattern.name, below="")
        return
    if not glob.has_magic(str(pattern)):
        raise SourceError(f"{pattern}: no such file or folder.{_neighbours(pattern)} Correct the path.")
    matches = sorted(Path(match) for match in glob.glob(str(pattern), recursive=True))
    if not matches:
        raise SourceError(f"{pattern}: no file matches this pattern. Correct it, or put the log there.")
    fixed = next(parent for parent in pattern.parents if not glob.has_magic(str(parent)))
    for match in matches:
        label = match.relative_to(fixed).as_posix()
        yield from _at(match, log, left_out, label, below=f"{label}/")


def _at(path: Path, log: LogFiles, left_out: dict[str, str], label: str, below: str) -> Iterator[tuple[Path, str]]:
    """The log file at ``path``, called ``label``, or those below it, whose labels begin with ``below``."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreachable(path, error) from None
    if stat.S_ISDIR(mode):
        yield from _below(path, log, left_out, below)
        return
    if not stat.S_ISREG(mode):
        raise SourceError(f"{path}: this is a device, pipe or socket. Name a file or a folder.")
    refuse_part_of_table(path.absolute())
    yield path.absolute(), label


def _unreachable(path: Path, error: OSError) -> SourceError:
    if path.is_symlink():
        return SourceError(
            f"{path}: this link leads to no file ({error.strerror}). Restore what it pointed to, or correct the path."
        )
    return SourceError(f"{path}: this user may not look into it ({error.strerror}). Change its permissions.")


def _below(folder: Path, log: LogFiles, left_out: dict[str, str], prefix: str) -> Iterator[tuple[Path, str]]:
    """Log files in ``folder`` and its sub-folders, linked ones too."""
    none_found, seen = True, set[tuple[int, int]]()
    _is_new(folder.resolve(), seen)
    for place, names, found in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        refuse_other_tables(Path(place), names)
        if is_delta(Path(place)):
            for path in live_files(Path(place)):
                none_found = False
                yield path, prefix + path.relative_to(folder.absolute()).as_posix()
            names.clear()
            continue
        names[:] = sorted(name for name in names if not name.startswith(_HIDDEN) and _is_new(Path(place, name), seen))
        for name in sorted(found):
            path = Path(place, name)
            known = log.format is not None or format_of(path) is not None
            if name.startswith(_HIDDEN):
                if known and name.startswith("_"):
                    left_out[str(path)] = "their names start with _"
            elif known:
                none_found = False
                yield from _at(path, log, left_out, prefix + path.relative_to(folder).as_posix(), below="")
            else:
                left_out[str(path)] = (
                    f"a folder stands for its files that end in {', '.join(ENDINGS)}, each also with .gz; rename or "
                    "convert the others, or name them in `paths` with a `format`"
                )
    if none_found:
        raise SourceError(
            f"{folder}: no log file in this folder; looked for {', '.join(ENDINGS)}, each also with .gz. "
            "Put the log there, or set `format` in the spec when its files end differently."
        )


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
