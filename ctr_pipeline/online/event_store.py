"""Events as they happen, for the features that look back from the request itself: one LMDB file for all processes.

What is told to be stored is on disk. No key is stored as such, only digests; what sequences list is stored as tables have it.
"""

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import orjson
from numpy.typing import NDArray

from ctr_pipeline.features.exact_windows import ExactFeature
from ctr_pipeline.labels.states import label_maturity
from ctr_pipeline.online.event_facts import Arrived, known_outcomes, patience
from ctr_pipeline.online.event_sequences import (
    exact_sequences,
    latest_events,
    listed_name,
    listed_value,
    with_item,
)
from ctr_pipeline.online.event_sums import MOMENTS, SPANS, MomentTables
from ctr_pipeline.online.shared_environment import keys_with_prefix, opened_environment
from ctr_pipeline.serving.history_lookup import IMPRESSION, Event, FullError, Stored
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.history import HistoryCount, HistoryRate, HistoryRecency, HistorySequence

FOLDER = "events"
"""Folder of the store below that of the snapshots."""

MOST_BYTES = 4 * 2**30
"""Size of the file beyond which nothing is stored any more."""

FORMAT = 2
"""Of what is stored. A store of an earlier one is left alone: beside it a new one is filled from the tables."""

MOST_OF_IMPRESSION = 200
"""Outcomes of one impression that are stored: its record is read and written with each of them."""

_EXPIRED_AT_ONCE = 200
"""Old entries that are removed, beside as many as are added, with each commit."""

_REMOVED_AT_ONCE = 10_000
"""Old entries that are removed when there is no room."""

_TIME, _TOTAL = struct.Struct(">q"), struct.Struct(">qq")
_DIGEST, _SHORT = 16, 8
_TABLES = ("seen", "impressions", MOMENTS, *SPANS, "totals", "times", "places", "listed")


def exact_features(spec: Spec) -> tuple[ExactFeature, ...]:
    """The numbers that events make: those with ``exact``, where all tasks are of outcome events."""
    if any(task.label.event is None for task in spec.tasks):
        return ()
    return tuple(f for f in spec.features.history if isinstance(f, ExactFeature) and f.exact)


def is_made_of_events(spec: Spec) -> bool:
    """Whether events make any feature."""
    return bool(exact_features(spec) or exact_sequences(spec))


class EventStore:
    """The events of one definition of history features.

    A moment is an instant at which something of a key became known, in the sense of
    :mod:`ctr_pipeline.features.exact_windows`: an impression, an outcome that counts, or a label that is mature. Each is
    found once its last part has arrived, and never changes: what arrives later is known later.

    Args:
        root: Folder of the store; made when absent.
        spec: The features and tasks.
        most_bytes: Size of the file at most.
    """

    def __init__(self, root: Path, spec: Spec, most_bytes: int = MOST_BYTES) -> None:
        self.spec, self.features, self.sequences = spec, exact_features(spec), exact_sequences(spec)
        self._items = {f.item for f in self.sequences}
        self._environment = opened_environment(root, most_bytes, len(_TABLES))
        self._tables = {name: self._environment.open_db(name.encode()) for name in _TABLES}
        self._moments = MomentTables(self._tables)
        self._groups = {group: at for at, group in enumerate(sorted({_group(f) for f in self.features}, key=str))}
        self._patience = {task: patience(spec, task) for task in (None, *(task.name for task in spec.tasks))}
        longest = max((f.days for f in (*self.features, *self.sequences)), default=0) * DAY_US
        self._retention = longest + max(self._patience.values()) + DAY_US

    @property
    def identity(self) -> str:
        """Path of its file."""
        return str(self._environment.path())

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that an impression should have: keys of its features, and what its sequences list."""
        return tuple(sorted({f.key for f in (*self.features, *self.sequences)} | self._items))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the tasks: of all, as an outcome may wait for its parent."""
        return tuple(task.name for task in self.spec.tasks)

    def oldest(self, now: int) -> int:
        """The earliest time of an event that a look-up from ``now`` on can meet; earlier ones are not stored."""
        return now - self._retention

    def append(self, events: Sequence[Event], now: int) -> Stored:
        """As :meth:`append_all`, of one batch."""
        return self.append_all([events], now)[0]

    def append_all(
        self, batches: Sequence[Sequence[Event]], now: int, places: Mapping[str, bytes | None] | None = None
    ) -> list[Stored]:
        """Stores events, all or none. When it returns they are on disk, and each process finds them.

        An event that was stored before changes nothing: an impression, or an outcome of the same kind, impression and time.

        Args:
            batches: The events.
            now: Microseconds since 1970 UTC; what is too old to be looked at any more is removed.
            places: As for :meth:`~ctr_pipeline.serving.history_lookup.EventSink.append_all`.

        Returns:
            What became of each batch.

        Raises:
            FullError: there is no room.
        """
        before = self.oldest(now)
        try:
            return self._append(batches, before, places or {})
        except lmdb.MapFullError:
            # What is too old is removed beside what is added: where there is no room for that, it is removed first.
            self._make_room(before)
        try:
            return self._append(batches, before, places or {})
        except lmdb.MapFullError as error:
            raise FullError(
                f"the store of events has more than {self._environment.info()['map_size']} bytes: nothing was stored."
            ) from error

    def _append(
        self, batches: Sequence[Sequence[Event]], before: int, places: Mapping[str, bytes | None]
    ) -> list[Stored]:
        stored = list[Stored]()
        with self._environment.begin(write=True) as transaction:
            for events in batches:
                # Of what is removed it is not known any more whether it was there.
                young = [event for event in events if event.ts >= before]
                accepted = sum([self._add(transaction, event) for event in young])
                stored.append(Stored(accepted, len(young) - accepted, len(events) - len(young)))
            added = sum(one.accepted for one in stored)
            self._expire(transaction, before, _EXPIRED_AT_ONCE + 8 * added)
            for name, place in places.items():
                if place is None:
                    transaction.delete(name.encode(), db=self._tables["places"])
                else:
                    transaction.put(name.encode(), place, db=self._tables["places"])
        return stored

    def _make_room(self, before: int) -> None:
        """Removes what is too old, at most :data:`_REMOVED_AT_ONCE` entries, in small steps: to remove takes room, too."""
        removed, step = 0, _EXPIRED_AT_ONCE
        while removed < _REMOVED_AT_ONCE and step:
            try:
                with self._environment.begin(write=True) as transaction:
                    found = self._expire(transaction, before, step)
            except lmdb.MapFullError:
                step //= 4
                continue
            removed += found
            if found < step:
                return

    def places(self, prefix: str) -> Mapping[str, bytes]:
        """As :meth:`~ctr_pipeline.serving.history_lookup.EventSink.places`."""
        with self._environment.begin() as transaction:
            table = self._tables["places"]
            names = keys_with_prefix(transaction.cursor(db=table), prefix.encode())
            return {name.decode(): transaction.get(name, db=table) for name in names}

    def values(
        self, feature: ExactFeature, keys: Sequence[str | None], times: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """[N] values of a feature for N keys at N instants, as :func:`join_history` gives them."""
        found = np.full(len(keys), np.nan)
        with self._environment.begin() as transaction:
            for at, (key, time) in enumerate(zip(keys, times.tolist(), strict=True)):
                if key is not None:
                    found[at] = self._value(transaction, feature, key, time)
        return found

    def lists(
        self, feature: HistorySequence, keys: Sequence[str | None], times: Sequence[int]
    ) -> list[tuple[list[str | None], list[str | None], list[float | None]]]:
        """Of a sequence, items, kinds and instants for N keys at N instants, the latest first."""
        place = self.sequences.index(feature)
        with self._environment.begin(db=self._tables["listed"]) as transaction:
            return [
                ([], [], []) if key is None else latest_events(transaction.cursor(), place, _digest(key), time, feature)
                for key, time in zip(keys, times, strict=True)
            ]

    def size(self) -> int:
        """Bytes in use."""
        info, stat = self._environment.info(), self._environment.stat()
        return int((info["last_pgno"] + 1) * stat["psize"])

    def forget(self, key: str) -> None:
        """Removes what is stored of the impressions of a user, all moments of the key, and the user where one is listed.

        Args:
            key: The user's hash.
        """
        digest = _digest(key)
        with self._environment.begin(write=True) as transaction:
            table = self._tables["impressions"]
            for name, content in list(transaction.cursor(db=table)):
                record = orjson.loads(content)
                if digest.hex() in record["keys"].values() or key in record.get("items", {}).values():
                    transaction.delete(name, db=table)
            # Of whatever definition the store is.
            for place in range(256):
                for table in (self._tables[name] for name in (MOMENTS, *SPANS, "listed")):
                    for name in keys_with_prefix(transaction.cursor(db=table), bytes((place,)) + digest):
                        transaction.delete(name, db=table)
            for name in with_item(transaction.cursor(db=self._tables["listed"]), key):
                transaction.delete(name, db=self._tables["listed"])

    def _add(self, transaction: Any, event: Event) -> bool:
        """Adds an event and the moments that it completes; False where it was there before, or too many others."""
        impression = _digest(event.impression)
        content = transaction.get(impression, db=self._tables["impressions"])
        record = orjson.loads(content) if content else {"shown": None, "keys": {}, "events": [], "known": {}}
        if event.kind != IMPRESSION and len(record["events"]) >= MOST_OF_IMPRESSION:
            return False
        # An impression is shown once.
        when = 0 if event.kind == IMPRESSION else event.ts
        seen = _digest(f"{event.kind} {event.impression} {when}")
        if not transaction.put(seen, b"", db=self._tables["seen"], overwrite=False):
            return False
        self._remember(transaction, event.arrived, "seen", seen)
        if not content:
            self._remember(transaction, event.arrived, "impressions", impression)
        if event.kind == IMPRESSION:
            record["shown"] = [event.ts, event.arrived]
            texts = {name: event.keys.get(name) for name in self.keys}
            record["keys"] = {name: None if text is None else _digest(text).hex() for name, text in texts.items()}
            record["items"] = {name: texts[name] for name in self._items}
        else:
            record["events"].append([event.kind, event.ts, event.arrived])
        if record["shown"] is not None:
            self._complete(transaction, event.impression, record, is_new=event.kind == IMPRESSION)
        transaction.put(impression, orjson.dumps(record), db=self._tables["impressions"])
        return True

    def _complete(self, transaction: Any, impression: str, record: dict[str, Any], *, is_new: bool) -> None:
        """Writes the moments that have come to be known of an impression."""
        ts, arrived = record["shown"]
        events = [Arrived(*event) for event in record["events"]]
        facts = known_outcomes(self.spec.tasks, ts, arrived, events, self.spec.source.max_early)
        if is_new:
            self._moment(transaction, impression, record, None, arrived, ts)
            for task in {f.task for f in self.features if isinstance(f, HistoryRate)}:
                self._settle(transaction, impression, record, task, hit=False)
        for task, fact in facts.items():
            if task in record["known"]:
                continue
            record["known"][task] = fact.known
            self._moment(transaction, impression, record, task, fact.known, fact.ts)
            if fact.known <= self._mature(task, ts, arrived):
                self._settle(transaction, impression, record, task, hit=True)

    def _moment(
        self, transaction: Any, impression: str, record: dict[str, Any], task: str | None, known: int, moment: int
    ) -> None:
        if known - record["shown"][0] > self._patience[task]:
            return
        for (key, of, is_rate), place in self._groups.items():
            if of == task and not is_rate and record["keys"].get(key) is not None:
                self._put(transaction, place, record["keys"][key], known, impression, moment, 0)
        for place, feature in enumerate(self.sequences):
            key, item = record["keys"].get(feature.key), record.get("items", {}).get(feature.item)
            if task in feature.tasks and key is not None and item is not None:
                kind = feature.tasks.index(task)
                name = listed_name(place, bytes.fromhex(key), moment, impression, kind)
                transaction.put(name, listed_value(known, item), db=self._tables["listed"])
                self._remember(transaction, known, "listed", name)

    def _settle(self, transaction: Any, impression: str, record: dict[str, Any], task: str, *, hit: bool) -> None:
        """The label of an impression, at the instant at which it is mature; what made it positive came before that."""
        ts, arrived = record["shown"]
        mature = self._mature(task, ts, arrived)
        groups = [(key, place) for (key, of, is_rate), place in self._groups.items() if of == task and is_rate]
        if mature - ts > self._patience[task] or not groups:
            return
        for key, place in groups:
            if record["keys"].get(key) is not None:
                self._put(transaction, place, record["keys"][key], mature, impression, 0, int(hit))
        name = task.encode() + b" " + _TIME.pack(mature - mature % DAY_US)
        rows, hits = _TOTAL.unpack(transaction.get(name, _TOTAL.pack(0, 0), db=self._tables["totals"]))
        transaction.put(name, _TOTAL.pack(rows + (not hit), hits + hit), db=self._tables["totals"])

    def _put(self, transaction: Any, place: int, key: str, known: int, impression: str, moment: int, hit: int) -> None:
        head, own = bytes((place,)) + bytes.fromhex(key), _digest(impression)[:_SHORT]
        # A label that was taken for negative is written again when it has become positive in time.
        for table, name in self._moments.add(transaction, head, known, own, moment, hit):
            self._remember(transaction, known, table, name)

    def _mature(self, task: str, ts: int, arrived: int) -> int:
        return max(ts + label_maturity(self.spec.tasks, task) + self.spec.split.ingest_lag, arrived)

    def _value(self, transaction: Any, feature: ExactFeature, key: str, time: int) -> float:
        head = bytes((self._groups[_group(feature)],)) + _digest(key)
        found = self._moments.between(transaction, head, time - feature.days * DAY_US, time)
        if isinstance(feature, HistoryCount):
            return float(found.number)
        if not found.number:
            return math.nan
        if isinstance(feature, HistoryRecency):
            return (float(time) - float(found.latest)) * 1e-6
        rows, hits = self._totals(transaction, feature, time)
        weight = feature.smoothing if rows else 0.0
        lean = hits / rows * feature.smoothing if rows else 0.0
        return float((found.hits + lean) / (found.number + weight))

    def _totals(self, transaction: Any, feature: HistoryRate, time: int) -> tuple[int, int]:
        """Mature impressions and outcomes among them, of all keys, on the days of the feature before the day of ``time``."""
        began, rows, hits = time - time % DAY_US, 0, 0
        for day in range(1, feature.days + 1):
            name = feature.task.encode() + b" " + _TIME.pack(began - day * DAY_US)
            found = transaction.get(name, db=self._tables["totals"])
            if found is not None:
                more, positive = _TOTAL.unpack(found)
                rows, hits = rows + more, hits + positive
        return rows, hits

    def _remember(self, transaction: Any, time: int, table: str, name: bytes) -> None:
        """Notes when an entry may be removed."""
        entry = _TIME.pack(time) + bytes((_TABLES.index(table),)) + name
        transaction.put(entry, b"", db=self._tables["times"])

    def _expire(self, transaction: Any, before: int, most: int) -> int:
        """Removes old entries; how many there were."""
        times, end = self._tables["times"], _TIME.pack(max(0, before))
        cursor = transaction.cursor(db=times)
        if not cursor.first():
            return 0
        old = list(takewhile(lambda entry: entry < end, islice(cursor.iternext(keys=True, values=False), most)))
        for entry in old:
            transaction.delete(entry[_TIME.size + 1 :], db=self._tables[_TABLES[entry[_TIME.size]]])
            transaction.delete(entry, db=times)
        return len(old)


def _group(feature: ExactFeature) -> tuple[str, str | None, bool]:
    """Features of one group are made of the same moments."""
    return feature.key, feature.task, isinstance(feature, HistoryRate)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST).digest()
