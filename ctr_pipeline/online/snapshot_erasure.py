"""Takes a user out of every snapshot."""

import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from ctr_pipeline.features.history_definition import history_definition
from ctr_pipeline.online.opened_snapshot import Snapshot
from ctr_pipeline.online.snapshot_index import listed, write_list
from ctr_pipeline.online.snapshot_writing import store_records
from ctr_pipeline.online.store_layout import ITEMS, LISTS, StoreLayout
from ctr_pipeline.spec import Spec

PARTIAL = ".partial.*"
"""Folders that writers which were killed left behind."""


@dataclass(frozen=True, slots=True)
class _Erased:
    """What is to be removed of a snapshot."""

    keys: frozenset[bytes]
    """Keys of records."""
    hashed: str
    lists: frozenset[str] | None
    """Features whose items may be the user; None for all."""


def erase_from_snapshots(root: Path, spec: Spec, columns: Collection[str], hashed: str) -> list[str]:
    """Writes the snapshots that hold the user anew without them, and removes the old ones.

    Servers use the new ones from their next request on. A snapshot of other history features than the spec's may hold
    the user under any name: there the hash alone decides.

    Args:
        root: Folder of the snapshots.
        spec: The history features.
        columns: Key columns and items whose values are hashes of users.
        hashed: The user's hash.

    Returns:
        Days of the snapshots that held the user.

    Raises:
        StoreError: a snapshot cannot be read.
    """
    for folder in root.glob(PARTIAL):
        shutil.rmtree(folder)
    layout, definition = StoreLayout.of(spec), history_definition(spec)
    text, remaining, rewritten = hashed.encode(), [], list[str]()
    for facts in listed(root):
        own = facts.definition == definition
        places = [one.place for one in layout.keys if one.key in columns] if own else range(LISTS)
        lists = frozenset(f.name for one in layout.keys for f in one.lists if f.item in columns) if own else None
        keys = frozenset(bytes((kind + place,)) + text for place in places for kind in (0, LISTS))
        opened, erased = Snapshot.open(root, facts, layout), _Erased(keys, hashed, lists)
        held = {key for key, value in _records(opened) if _without(key, value, erased) != value}
        if held:
            kept = ((k, left) for k, v in _records(opened) if (left := _without(k, v, erased)) is not None)
            gone = len({key[0] % LISTS for key in held if key in keys})
            facts = store_records(
                root,
                kept,
                day=facts.day,
                definition=facts.definition,
                history_version=facts.history_version,
                keys=facts.keys - gone,
            )
            rewritten.append(facts.day.isoformat())
        remaining.append(facts)
    if rewritten:
        write_list(root, remaining)
    return rewritten


def _records(snapshot: Snapshot) -> Iterator[tuple[bytes, bytes]]:
    with snapshot.environment.begin() as transaction:
        yield from transaction.cursor()


def _without(key: bytes, value: bytes, erased: _Erased) -> bytes | None:
    """The value of a record without the user; None where the record is the user's."""
    if key in erased.keys:
        return None
    if key[0] < LISTS or erased.hashed.encode() not in value:
        return value
    content = orjson.loads(value)
    for name, lists in content.items():
        if (erased.lists is None or name in erased.lists) and erased.hashed in lists[ITEMS]:
            items = [None if item == erased.hashed else item for item in lists[ITEMS]]
            length = max((at for at, item in enumerate(items, 1) if item is not None), default=0)
            content[name] = [(items if part == ITEMS else one)[:length] for part, one in enumerate(lists)]
    return orjson.dumps(content)
