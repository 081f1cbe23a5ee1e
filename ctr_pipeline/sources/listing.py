"""Which files a log has, listed once: what is read is what is recorded.

A listing is made before anything is read, and everything that follows looks at it: the days of the log, each reading,
and the fingerprint that is stored with what was read. A file that lands meanwhile belongs to the next run, and one that
changes meanwhile is refused.
"""

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from ctr_pipeline.sources.errors import SourceError, listed, near_miss
from ctr_pipeline.sources.folders import HIDDEN, no_log_file, why_left_out
from ctr_pipeline.sources.lake_folders import is_delta, live_files, refuse_other_tables, refuse_part_of_table
from ctr_pipeline.sources.listed_files import ListedFile, Listing, LocalFile, listed_file
from ctr_pipeline.sources.object_listing import list_objects
from ctr_pipeline.spec.addresses import is_address, parse_address
from ctr_pipeline.spec.source import EventLog, LogFiles, SideTable


def list_files(log: LogFiles, base: Path, overrides: Sequence[str | Path] = ()) -> Listing:
    """The files of a log: those of ``overrides`` if there are any, else those that the spec names.

    Args:
        log: The declared log.
        base: Folder against which relative paths of the spec are resolved.
        overrides: Files, folders, globs or addresses that replace those of the spec; relative paths start at the working
            folder.

    Returns:
        Files in order of name, those of addresses last, each once: a link to a file of the log is that file. A folder
        stands for every log file below it; hidden files and those that start with ``_`` are left out.

    Raises:
        SourceError: a path does not exist, a folder or glob has no log file, an address cannot be looked at, or no path is
            declared.
    """
    names = [str(path) for path in overrides] or log.paths
    if not names:
        raise SourceError(f"no log file is declared. Set {_paths_of(log)}.")
    left_out: dict[str, str] = {}
    found: dict[Path, str] = {}
    objects: dict[str, ListedFile] = {}
    for name in names:
        if is_address(name):
            for file in list_objects(parse_address(name), log, left_out):
                objects.setdefault(str(file.path), file)
            continue
        pattern = Path(name).expanduser()
        for path, label in _expand(pattern if overrides else base / pattern, log, left_out):
            found.setdefault(path, label)
    # In the order of paths, which goes by the names of folders.
    others = [objects[address] for address in sorted(objects, key=lambda address: address.split("/"))]
    return Listing(files=(*_each_once(found, left_out), *others), left_out=tuple(sorted(left_out.items())))


def _paths_of(log: LogFiles) -> str:
    """Where the files of a log are named."""
    if isinstance(log, EventLog | SideTable):
        section = "events" if isinstance(log, EventLog) else "tables"
        return f"`paths` of `{log.name}` in `source.{section}` of the spec, or pass `--input {log.name}=PATH`"
    return "`source.impressions.paths` in the spec, or pass `--input PATH`"


def _each_once(found: dict[Path, str], left_out: dict[str, str]) -> tuple[LocalFile, ...]:
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
        yield from _at(match, log, left_out, label, below="" if label == "." else f"{label}/")


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
        names[:] = sorted(name for name in names if not name.startswith(HIDDEN) and _is_new(Path(place, name), seen))
        for name in sorted(found):
            path, why = Path(place, name), why_left_out(name, log)
            if why is None:
                none_found = False
                yield from _at(path, log, left_out, prefix + path.relative_to(folder).as_posix(), below="")
            elif why:
                left_out[str(path)] = why
    if none_found:
        raise no_log_file(folder)


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
