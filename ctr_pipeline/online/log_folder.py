"""The files of a folder of logs that are appended to, rotated, renamed, truncated and removed meanwhile."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
"""Files that are not read: what was packed was read before, under its own name."""

MOST_OPEN = 64
"""Files that are kept open, those that were read last."""

CHECKED = 256
"""Bytes before a place by which a file is recognised as the one that was read."""


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file of the folder, or one that was there and is still open."""

    id: str
    """Device and inode: it stays when the file is renamed."""
    name: str
    size: int
    modified: int
    """When its content was changed, nanoseconds since 1970."""
    changed: int
    """When anything of it was changed, such as who may read it."""
    removed: bool = False


@dataclass(slots=True)
class LogFolder:
    """The folder, and those of its files that are open.

    A file that was read of late stays open, so that the rest of it is read also when it has been packed or removed.

    Args:
        path: The folder.
    """

    path: Path
    _open: dict[str, tuple[int, str]] = field(init=False, default_factory=dict)
    """Descriptor and name by id, the one that was read last at the end."""

    def files(self) -> list[LogFile]:
        """All files that may have something to read, the one that was modified first at the beginning.

        Raises:
            OSError: the folder cannot be read.
        """
        there = {found.id: found for found in self._listed()}
        for id_, (descriptor, name) in self._open.items():
            if id_ not in there:
                found = os.fstat(descriptor)
                there[id_] = _file(found, name, removed=True)
        return sorted(there.values(), key=lambda one: (not one.removed, one.modified, one.name))

    def read(self, file: LogFile, offset: int, size: int) -> bytes | None:
        """At most ``size`` bytes of a file from ``offset`` on; None where its name has come to mean another file.

        Raises:
            OSError: it cannot be read.
        """
        kept = self._open.pop(file.id, None)
        if kept is None:
            descriptor = os.open(self.path / file.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            if _id(os.fstat(descriptor)) != file.id:
                os.close(descriptor)
                return None
        else:
            descriptor = kept[0]
        self._open[file.id] = descriptor, file.name
        while len(self._open) > MOST_OPEN:
            self.close(next(iter(self._open)))
        return os.pread(descriptor, size, offset)

    def close(self, id_: str) -> None:
        """Closes a file, where it is open."""
        kept = self._open.pop(id_, None)
        if kept is not None:
            os.close(kept[0])

    def close_all(self) -> None:
        """Closes all files."""
        for id_ in list(self._open):
            self.close(id_)

    def _listed(self) -> Iterator[LogFile]:
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.endswith(PACKED):
                    continue
                try:
                    found = entry.stat()
                except FileNotFoundError:
                    # It was renamed or removed since.
                    continue
                if S_ISREG(found.st_mode):
                    yield _file(found, entry.name)


def _file(found: os.stat_result, name: str, *, removed: bool = False) -> LogFile:
    return LogFile(_id(found), name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, removed)


def _id(found: os.stat_result) -> str:
    return f"{found.st_dev:x}:{found.st_ino:x}"
