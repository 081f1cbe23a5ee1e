"""From one day of the history table to a snapshot: an LMDB environment that is never changed once it is there."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import orjson

from ctr_pipeline.features.history_definition import history_definition
from ctr_pipeline.online.snapshot_index import SnapshotFacts, add_to_list
from ctr_pipeline.online.store_layout import (
    INSTANTS,
    ITEMS,
    KINDS,
    LISTS,
    NUMBERS,
    KeyLayout,
    StoreLayout,
    record_key,
    wide_rows,
)
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.history import HistoryList, HistorySequence

if TYPE_CHECKING:
    import polars as pl

MOST_BYTES = 2**40
"""Address space of the file while it is written; it is as large as its content."""

_TOGETHER = 100_000
"""Records that are written in one go."""


def make_snapshot(
    root: Path, spec: Spec, day: date, rows: "pl.DataFrame", history_version: int | None = None
) -> SnapshotFacts:
    """Writes the snapshot of one day and lists it. The same values give the same snapshot.

    Readers see it whole or not at all.

    Args:
        root: Folder of the snapshots.
        spec: The history features.
        day: Day on whose requests the values are to be used.
        rows: ``feature``, ``key``, ``value`` and ``item`` of that day of the history table.
        history_version: Version of the table that they were read from; None where they are not in it.

    Returns:
        What was made.
    """
    root.mkdir(parents=True, exist_ok=True)
    layout = StoreLayout.of(spec)
    made = store_records(
        root,
        _records(layout, rows),
        day=day,
        definition=history_definition(spec),
        history_version=history_version,
        keys=_count(layout, rows),
    )
    add_to_list(root, made)
    return made


def store_records(
    root: Path,
    records: Iterable[tuple[bytes, bytes]],
    *,
    day: date,
    definition: str,
    history_version: int | None,
    keys: int,
) -> SnapshotFacts:
    """Writes a snapshot from its records, without listing it: in a folder of its own, renamed once it is on disk.

    Args:
        root: Folder of the snapshots.
        records: Keys and values, in the order of :func:`make_snapshot`.
        day: As :attr:`SnapshotFacts.day`, and so on.
        definition: See there.
        history_version: See there.
        keys: See there.
    """
    partial = root / f".partial.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        digest = _write(partial, records)
        name = hashlib.sha256(f"{definition} {day} {digest}".encode()).hexdigest()[:16]
        size = (partial / "data.mdb").stat().st_size
        if not (root / name).is_dir():
            partial.rename(root / name)
            _sync_folder(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return SnapshotFacts(
        id=name, day=day, definition=definition, history_version=history_version, keys=keys, bytes=size
    )


def _write(folder: Path, records: Iterable[tuple[bytes, bytes]]) -> str:
    """Writes the records, and returns their digest."""
    found, remaining = hashlib.sha256(), iter(records)
    with lmdb.open(str(folder), map_size=MOST_BYTES, lock=False) as environment:
        while several := list(islice(remaining, _TOGETHER)):
            for key, value in several:
                found.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
            with environment.begin(write=True) as transaction:
                transaction.cursor().putmulti(several)
    return found.hexdigest()


def _records(layout: StoreLayout, rows: "pl.DataFrame") -> Iterator[tuple[bytes, bytes]]:
    for one in layout.keys:
        if one.numbers:
            keys, values = wide_rows(one, rows)
            for key, numbers in zip(keys, values, strict=True):
                yield record_key(NUMBERS, one.place, key), numbers.tobytes()
    for one in layout.keys:
        if one.lists:
            yield from _lists(one, rows)


def _lists(layout: KeyLayout, rows: "pl.DataFrame") -> Iterator[tuple[bytes, bytes]]:
    """Of each key by feature its items, kinds and instants, in the order of their places.

    A list ends with its last item; an item that was erased is null between the others.
    """
    import polars as pl

    places = {name: (f.name, part, at) for f in layout.lists for name, part, at in _stored(f)}
    columns = {"feature": list(places), **{name: [of[at] for of in places.values()] for at, name in enumerate("lpa")}}
    placed = rows.join(pl.DataFrame(columns), on="feature")
    grouped = placed.group_by("key").agg("l", "p", "a", "item", "value").sort("key")
    lengths = {feature.name: feature.length for feature in layout.lists}
    sequences = {feature.name: feature for feature in layout.lists if isinstance(feature, HistorySequence)}
    for key, names, parts, ats, items, values in grouped.iter_rows():
        found: dict[str, list[list[Any]]] = {}
        for name, part, at, item, value in zip(names, parts, ats, items, values, strict=True):
            lists = found.setdefault(name, [[None] * lengths[name] for _ in range(3)])
            lists[part][at] = item
            if part == ITEMS and name in sequences:
                lists[INSTANTS][at] = value
        content = {name: _shortened(found[name], sequences.get(name)) for name in sorted(found)}
        yield record_key(LISTS, layout.place, key), orjson.dumps(content)


def _stored(feature: HistoryList) -> Iterator[tuple[str, int, int]]:
    """Each name in the history table, what its items are, and their place."""
    yield from ((name, ITEMS, at) for at, name in enumerate(feature.items))
    if isinstance(feature, HistorySequence):
        yield from ((name, KINDS, at) for at, name in enumerate(feature.kinds))


def _shortened(lists: list[list[Any]], sequence: HistorySequence | None) -> list[list[Any]]:
    """The lists up to the last item; only those that the feature has."""
    length = max((at for at, item in enumerate(lists[ITEMS], 1) if item is not None), default=0)
    kept = [ITEMS] if sequence is None else [ITEMS, INSTANTS, *([KINDS] if sequence.kinds else [])]
    return [one[:length] if part in kept else [] for part, one in enumerate(lists)]


def _count(layout: StoreLayout, rows: "pl.DataFrame") -> int:
    """Keys with a past, over all key columns."""
    import polars as pl

    names = [
        [*(f.name for f in one.numbers), *(name for f in one.lists for name, _, _ in _stored(f))] for one in layout.keys
    ]
    return sum(rows.filter(pl.col("feature").is_in(of))["key"].n_unique() for of in names)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
