"""An opened snapshot: values by key, read from the file that the operating system maps into memory."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import local
from typing import Any, Self
from weakref import WeakValueDictionary

import lmdb
import orjson

from ctr_pipeline.online.snapshot_index import SnapshotFacts, StoreError
from ctr_pipeline.online.store_layout import LISTS, LONGEST_KEY, NUMBERS, KeyLayout, StoreLayout, record_key

Lists = Mapping[str, tuple[list[str | None], list[str | None], list[float | None]]]
"""By listing feature of a key its items, their kinds and their instants in microseconds."""


_ENVIRONMENTS: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""Those that are open in this process, by path: LMDB allows one of a path, and stores of several models share it."""


def _environment(path: Path) -> Any:
    name, size = str(path.resolve()), (path / "data.mdb").stat().st_size
    found = _ENVIRONMENTS.get(name)
    if found is None:
        # What was written once is never written again, so readers need no locks.
        found = lmdb.open(
            name, readonly=True, lock=False, create=False, map_size=size, readahead=False, max_spare_txns=4
        )
        _ENVIRONMENTS[name] = found
    return found


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The history values of one day, for as many readers as there are. It is not for use across a fork."""

    facts: SnapshotFacts
    layout: StoreLayout
    environment: Any
    """LMDB's."""
    _readers: local = field(default_factory=local)
    """A transaction for each thread, kept open: what was written once is never written again."""

    @classmethod
    def open(cls, root: Path, facts: SnapshotFacts, layout: StoreLayout) -> Self:
        """The snapshot ``facts.id`` below ``root``.

        Args:
            root: Folder of the snapshots.
            facts: As the list has them.
            layout: That of the spec which it was made of.

        Raises:
            StoreError: its file is absent or broken.
        """
        path = root / facts.id
        try:
            environment = _environment(path)
        except (OSError, lmdb.Error) as error:
            raise StoreError(f"{path}: the snapshot of {facts.day} cannot be opened ({error}).") from error
        return cls(facts, layout, environment)

    def numbers(self, of: KeyLayout, keys: Sequence[str | None]) -> tuple[list[list[float]], list[bool]]:
        """The features of one number of N keys.

        Args:
            of: The key column.
            keys: N keys as the history table has them; None where the key is missing.

        Returns:
            N values of each feature in the order of the layout, and [N] whether the key has none of them. Counts of such
            a key are 0, its other values NaN; those of a missing key are all NaN. Instants are in microseconds since 1970
            UTC.
        """
        nothing, missing, width = of.nothing, of.missing, len(of.numbers)
        head, longest, get = bytes((NUMBERS + of.place,)), LONGEST_KEY // 4, self._reader().get
        # A text of so many characters has no more bytes than a key may have.
        found = [
            missing
            if key is None
            else get(head + key.encode() if len(key) <= longest else record_key(NUMBERS, of.place, key), nothing)
            for key in keys
        ]
        # Plain lists: for the one key of a user numpy would take longer than the look-up.
        values = array("d", b"".join(found))
        return [values[at::width].tolist() for at in range(width)], [value is nothing for value in found]

    def lists(self, of: KeyLayout, keys: Sequence[str | None]) -> tuple[list[Lists], list[bool]]:
        """The listing features of N keys, and [N] whether the key has none; of those there is nothing."""
        get = self._reader().get
        found = [None if key is None else get(record_key(LISTS, of.place, key)) for key in keys]
        absent = [key is not None and value is None for key, value in zip(keys, found, strict=True)]
        return [{} if value is None else orjson.loads(value) for value in found], absent

    def _reader(self) -> Any:
        """The transaction of this thread."""
        try:
            return self._readers.transaction
        except AttributeError:
            self._readers.transaction = self.environment.begin()
            return self._readers.transaction
