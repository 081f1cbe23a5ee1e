"""LMDB environments that several parts of a process write to, and reading their tables."""

from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb

_ENVIRONMENTS: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""Those that are open in this process, by path: LMDB allows one of a path, and the models of a service share it."""


def opened_environment(root: Path, most_bytes: int, tables: int) -> Any:
    """The LMDB environment in a folder, which is made where it is absent.

    Args:
        root: The folder.
        most_bytes: Size of its file at most.
        tables: Tables at most.
    """
    root.mkdir(parents=True, exist_ok=True)
    name = str(root.resolve())
    found = _ENVIRONMENTS.get(name)
    if found is None:
        found = lmdb.open(name, map_size=most_bytes, max_dbs=tables, max_readers=512)
        _ENVIRONMENTS[name] = found
    return found


def keys_with_prefix(cursor: Any, prefix: bytes) -> list[bytes]:
    """Keys that begin with ``prefix``."""
    if not cursor.set_range(prefix):
        return []
    return list(takewhile(lambda key: key.startswith(prefix), cursor.iternext(keys=True, values=False)))


def values_between(cursor: Any, first: bytes, end: bytes, most: int) -> Iterator[bytes]:
    """Values of the first ``most`` keys from ``first`` to before ``end``."""
    if not cursor.set_range(first):
        return
    for key, value in islice(cursor.iternext(), most):
        if key >= end:
            return
        yield value
