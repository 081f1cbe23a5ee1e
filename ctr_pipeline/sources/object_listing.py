"""Which objects an address stands for: one, those of a folder, or those of a pattern, by the rules for local files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import has_magic
from itertools import takewhile

from ctr_pipeline.sources.errors import SourceError, listed, near_miss
from ctr_pipeline.sources.folders import HIDDEN, no_log_file, why_left_out
from ctr_pipeline.sources.lake_folders import DELTA_LOG, live_keys, other_table, part_of_table
from ctr_pipeline.sources.object_storage import Storage, StoredObject
from ctr_pipeline.sources.storage_errors import AccessDeniedError
from ctr_pipeline.spec.addresses import Address
from ctr_pipeline.spec.source import LogFiles

_Parts = tuple[str, ...]


def list_objects(address: Address, log: LogFiles, left_out: dict[str, str]) -> Iterator[StoredObject]:
    """The objects that an address stands for, each with its label.

    Args:
        address: One object, a folder, or a pattern.
        log: The log that it belongs to.
        left_out: Gets the text of the address of what is not read, and why.

    Raises:
        SourceError: nothing lies there, nothing there is a log file, or it cannot be looked at.
    """
    storage = Storage(address)
    if address.is_web:
        found = storage.find(address, address.name)
        if found is None:
            raise SourceError(f"{address}: no such file. Correct the address.")
        yield found
        return
    yield from _Finder(address.at(address.key.strip("/")), storage, log, left_out).find(address.key.endswith("/"))


@dataclass(slots=True)
class _Finder:
    """Looks for what an address stands for; each folder is listed once."""

    address: Address
    storage: Storage
    log: LogFiles
    left_out: dict[str, str]
    tables: dict[_Parts, bool] = field(default_factory=dict)
    """Whether a folder is a Delta table, for those that were looked at."""

    def find(self, is_folder: bool) -> Iterator[StoredObject]:
        """What the address stands for; ``is_folder`` where it says so by a slash at its end."""
        key = self.address.key
        found = self.storage.find(self.address, self.address.name) if key and not is_folder else None
        # Some tools mark a folder by an object without content that has its name.
        if found is not None and (found.size or not self._below(_parts(key))):
            self._refuse_part_of_table(_parts(key))
            yield found
            return
        below = self._below(_parts(key))
        if below:
            yield from self._of_folder(_parts(key), below, "")
        elif has_magic(key):
            yield from self._of_pattern(_parts(key))
        else:
            raise SourceError(f"{self.address}: no such object or folder.{self._neighbours()} Correct the address.")

    def _below(self, folder: _Parts) -> dict[_Parts, StoredObject]:
        objects = self.storage.below(self.address.at("/".join(folder)))
        found = {_parts(item.path.key): item for item in objects}
        # A marker of a folder is no file of it.
        folders = {parts[:end] for parts in found for end in range(len(parts))}
        return {
            parts: item
            for parts, item in sorted(found.items())
            if len(parts) > len(folder) and not (item.size == 0 and parts in folders)
        }

    def _of_pattern(self, pattern: _Parts) -> Iterator[StoredObject]:
        fixed = tuple(takewhile(lambda part: not has_magic(part), pattern))
        below, folders = self._below(fixed), dict[_Parts, dict[_Parts, StoredObject]]()
        self._note_tables(fixed, below)
        named = [parts for parts in below if _matches(parts, pattern)]
        for parts, item in below.items():
            for end in range(len(fixed), len(parts)):
                if _matches(parts[:end], pattern):
                    folders.setdefault(parts[:end], {})[parts] = item
        if not named and not folders:
            raise SourceError(f"{self.address}: no object matches this pattern. Correct it, or put the log there.")
        for parts in named:
            self._refuse_part_of_table(parts)
            yield _called(below[parts], parts[len(fixed) :])
        for folder, objects in folders.items():
            yield from self._of_folder(folder, objects, "/".join((*folder[len(fixed) :], "")))

    def _of_folder(self, folder: _Parts, below: Mapping[_Parts, StoredObject], prefix: str) -> Iterator[StoredObject]:
        """The log files of a folder, whose labels begin with ``prefix``."""
        none_found = True
        tables = self._tables(folder, below)
        for table in tables:
            for parts, item in self._live(table, below):
                none_found = False
                yield _called(item, parts[len(folder) :], prefix)
        for parts, item in below.items():
            if _is_hidden(parts[len(folder) : -1]) or any(parts[: len(table)] == table for table in tables):
                continue
            why = why_left_out(parts[-1], self.log)
            if why is None:
                none_found = False
                self._refuse_part_of_table(parts)
                yield _called(item, parts[len(folder) :], prefix)
            elif why:
                self.left_out[str(item.path)] = why
        if none_found:
            raise no_log_file(self.address.at("/".join(folder)))

    def _tables(self, folder: _Parts, below: Mapping[_Parts, StoredObject]) -> list[_Parts]:
        """The Delta tables among the folders, none within another.

        Raises:
            SourceError: a folder is a table of another kind.
        """
        for parts in below:
            inside = parts[len(folder) : -1]
            metadata_file = parts[-1].endswith(".metadata.json") and inside[-1:] == ("metadata",)
            kind = "Hudi" if ".hoodie" in inside else "Iceberg" if metadata_file else None
            place = parts[: parts.index(".hoodie", len(folder))] if kind == "Hudi" else parts[:-2]
            if kind is not None and not _is_hidden(place[len(folder) :]):
                raise other_table(self.address.at("/".join(place)), kind)
        self._note_tables(folder, below)
        found: list[_Parts] = []
        for place in sorted(place for place, is_table in self.tables.items() if is_table):
            within = any(place[: len(outer)] == outer for outer in found)
            if place[: len(folder)] == folder and not within and not _is_hidden(place[len(folder) :]):
                found.append(place)
        return found

    def _note_tables(self, folder: _Parts, below: Iterable[_Parts]) -> None:
        """Remembers which folders are Delta tables, of those whose objects are all ``below``."""
        for parts in below:
            for end in range(len(folder), len(parts)):
                is_table = parts[end] == DELTA_LOG and end < len(parts) - 1
                self.tables[parts[:end]] = is_table or self.tables.get(parts[:end], False)

    def _live(self, table: _Parts, below: Mapping[_Parts, StoredObject]) -> Iterator[tuple[_Parts, StoredObject]]:
        for key in live_keys(self.address.at("/".join(table))):
            place = self.address.at(key)
            item = below.get(_parts(key)) or self.storage.find(place, key)
            if item is None:
                raise SourceError(
                    f"{place}: belongs to the newest version of a Delta table, and is not there. Restore it, or the table."
                )
            yield _parts(key), item

    def _refuse_part_of_table(self, parts: _Parts) -> None:
        """Raises SourceError for an object that belongs to a Delta table: read by itself, deleted rows would come back."""
        for end in range(len(parts) - 1, -1, -1):
            folder = parts[:end]
            if folder not in self.tables:
                self.tables[folder] = self._is_table(folder)
            if self.tables[folder]:
                raise part_of_table(self.address.at("/".join(parts)), self.address.at("/".join(folder)))
            if not folder or "=" not in folder[-1]:
                return

    def _is_table(self, folder: _Parts) -> bool:
        try:
            return bool(self.storage.below(self.address.at("/".join((*folder, DELTA_LOG)))))
        except AccessDeniedError:
            # Who may read the objects, but not list them, has named each one.
            return False

    def _neighbours(self) -> str:
        parent = self.address.at("/".join(_parts(self.address.key)[:-1]))
        names = [name for name in self.storage.names_in(parent) if not name.startswith(".")]
        if not names:
            return f" Nothing lies in {parent} either."
        return near_miss(self.address.name, names) or f" Beside it lie: {listed(names)}."


def _is_hidden(folders: _Parts) -> bool:
    return any(folder.startswith(HIDDEN) for folder in folders)


def _parts(key: str) -> _Parts:
    return tuple(part for part in key.split("/") if part)


def _called(item: StoredObject, parts: Sequence[str], prefix: str = "") -> StoredObject:
    return item.called(prefix + "/".join(parts))


def _matches(parts: _Parts, pattern: _Parts) -> bool:
    """Whether a key is one that a pattern stands for; ``**`` is any number of folders."""
    if not pattern:
        return not parts
    first, *rest = pattern
    if first == "**":
        return _matches(parts, tuple(rest)) or (
            bool(parts) and not parts[0].startswith(".") and _matches(parts[1:], pattern)
        )
    if not parts or (parts[0].startswith(".") and not first.startswith(".")):
        return False
    return fnmatchcase(parts[0], first) and _matches(parts[1:], tuple(rest))
