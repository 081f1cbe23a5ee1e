"""The files of a log as they were at one moment, wherever they lie."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ctr_pipeline.sources.errors import SourceError, listed
from ctr_pipeline.spec.addresses import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile(ABC):
    """One file of a log as it was when the log was listed."""

    path: Path | Address
    label: str
    """Its place below the path that names the log: whatever other files come and go, it stays the same."""
    size: int

    @property
    @abstractmethod
    def stamp(self) -> str:
        """Another one when the file was written since."""

    @abstractmethod
    def again(self) -> "ListedFile":
        """The file as it is now.

        Raises:
            SourceError: it is gone, or cannot be looked at.
        """

    @abstractmethod
    def stream(self) -> IO[bytes]:
        """The file from its first byte on."""

    @abstractmethod
    def random_access(self) -> Path | IO[bytes]:
        """What a reader takes that needs parts of the file only: its path, or a stream that fetches what is asked for."""

    def require_unchanged(self) -> None:
        """Nothing was written to the file since it was listed.

        Raises:
            SourceError: it was, or the file is gone.
        """
        now = self.again()
        if now.stamp != self.stamp:
            raise changed(self.path, f"{self.size} bytes when it was listed, {now.size} now")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile(ListedFile):
    """A file on this machine."""

    path: Path
    modified: int
    """When it was last written, in nanoseconds."""

    @property
    def stamp(self) -> str:
        """Its size and when it was written."""
        return f"{self.size}:{self.modified}"

    def again(self) -> "LocalFile":
        """The file as it is now."""
        return listed_file(self.path)

    def stream(self) -> IO[bytes]:
        """The file from its first byte on."""
        return self.path.open("rb")

    def random_access(self) -> Path:
        """Where it lies."""
        return self.path


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
    """By the name of the log of events, or of labels."""
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


def listed_file(path: Path, label: str | None = None) -> LocalFile:
    """A file of this machine as it is now.

    Raises:
        SourceError: it is gone, or this user may not look at it.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file. Restore it, or correct the log's paths.") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}). Restore it or change the path.") from None
    return LocalFile(path=path, label=label or path.name, size=status.st_size, modified=status.st_mtime_ns)


def changed(path: Path | Address, what: str) -> SourceError:
    """The error of a file that was written to since it was listed; ``what`` says what shows it."""
    return SourceError(
        f"{path}: was written to while its log was being read ({what}). Run again once it is complete. A file that is still "
        "being written belongs under a name that starts with a dot until it is."
    )


def source_fingerprint(files: Iterable[ListedFile]) -> str:
    """Changes when a file is added, removed, renamed or written: a hash of labels, sizes and modification times."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.label}\0{file.stamp}\n".encode())
    return digest.hexdigest()[:16]
