"""The online feature store: looks up what a request does not say of the past, in the snapshot of the request's day."""

import math
import os
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from ctr_pipeline.features.history_definition import history_definition
from ctr_pipeline.online.event_store import EventStore
from ctr_pipeline.online.opened_snapshot import Lists, Snapshot
from ctr_pipeline.online.snapshot_index import INDEX, SnapshotFacts, StoreError, listed
from ctr_pipeline.online.store_layout import INSTANTS, ITEMS, KINDS, KeyLayout, StoreLayout, list_inputs
from ctr_pipeline.serving.history_lookup import FoundHistory, StoreState
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.history import HistoryFirstSeen, HistoryList, HistoryRecency, HistorySequence

_EPOCH = date(1970, 1, 1)

_MOST_DAYS = 1000
"""Days of requests whose snapshots are remembered."""

_SECOND = 1e-6
"""Seconds in a microsecond, by which the features of training are multiplied too: a division rounds otherwise."""


@dataclass(slots=True)
class FeatureStore:
    """The snapshots below one folder, for one definition of the history features.

    A snapshot that is listed while the store is open is used from the next :meth:`refresh` on. Of a request at an instant the
    snapshot of its UTC day is used, else the one of the last day before: a later one would know what the request may
    not know.

    Args:
        root: Folder of the snapshots.
        spec: The spec that the model was built from.
        events: Where features with ``exact`` are looked up; None for nowhere.
        definition: That of the history features which the model was trained with; by default that of the spec.
    """

    root: Path
    spec: Spec
    definition: str = ""
    events: EventStore | None = None
    layout: StoreLayout = field(init=False)
    _keys: dict[str, KeyLayout] = field(init=False)
    _index: str = field(init=False)
    _inputs: dict[str, tuple[tuple[str, ...], ...]] = field(init=False)
    _stamp: tuple[int, int] = field(init=False, default=(0, 0))
    _listed: tuple[SnapshotFacts, ...] = field(init=False, default=())
    _opened: dict[str, Snapshot] = field(init=False, default_factory=dict)
    _of_days: dict[int, Snapshot] = field(init=False, default_factory=dict)
    """By day since 1970 the snapshot that was found last, as long as the list is the same."""
    _failure: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.definition = self.definition or history_definition(self.spec)
        self.layout = StoreLayout.of(self.spec)
        self._keys = {one.key: one for one in self.layout.keys}
        exact = self.events.features if self.events is not None else ()
        self._inputs = {one.key: one.inputs for one in self.layout.keys}
        sequences = self.events.sequences if self.events is not None else ()
        for feature, names in [*((f, (f.name,)) for f in exact), *((f, list_inputs(f)) for f in sequences)]:
            self._inputs[feature.key] = (*self._inputs.get(feature.key, ()), names)
        # As text: to join paths takes longer than to ask for the file, and each request does.
        self._index = str(self.root / INDEX)
        self.refresh()

    @property
    def inputs(self) -> Mapping[str, tuple[tuple[str, ...], ...]]:
        """As :attr:`~ctr_pipeline.serving.history_lookup.HistoryStore.inputs`."""
        return self._inputs

    def refresh(self) -> None:
        """Reads the list of snapshots where it has changed. One that cannot be read leaves all as it is."""
        try:
            found = os.stat(self._index)
        except OSError:
            return
        stamp = (found.st_mtime_ns, found.st_ino)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            every = listed(self.root)
        except StoreError as error:
            self._failure = str(error)
            return
        self._failure = None
        self._of_days = {}
        self._listed = tuple(one for one in every if one.definition == self.definition)
        if every and not self._listed:
            self._failure = (
                f"{self.root}: its snapshots have other history features ({every[-1].definition}) than the model "
                f"({self.definition})."
            )
        kept = {one.id for one in self._listed}
        self._opened = {name: snapshot for name, snapshot in self._opened.items() if name in kept}

    def state(self, now: int) -> StoreState:
        """What would be used for a request at ``now`` (microseconds since 1970 UTC)."""
        self.refresh()
        today = now // DAY_US
        snapshot = self._of_day(today)
        return StoreState(
            snapshot=None if snapshot is None else snapshot.facts.id,
            day=None if snapshot is None else snapshot.facts.day.isoformat(),
            late=snapshot is None or _is_before(snapshot, today),
            problem=self._failure if self._failure or snapshot else f"{self.root}: no snapshot of today or before.",
        )

    def refuse_other_features(self) -> None:
        """Refuses a store whose snapshots are all of other history features than the model's.

        Raises:
            StoreError: they are.
        """
        found = {one.definition for one in listed(self.root)}
        if found and self.definition not in found:
            raise StoreError(
                f"{self.root}: its snapshots have other history features (definition {', '.join(sorted(found))}) than the "
                f"model ({self.definition}): it would be given values of another meaning. Make one of the model's with "
                "`ctr snapshot`, or serve the model that they were made for."
            )

    def look_up(
        self, key: str, texts: Sequence[str | None], times: Sequence[int], names: Collection[str]
    ) -> FoundHistory:
        """Inputs of N rows, from the snapshots that were listed at the last :meth:`refresh`.

        Args:
            key: A key column.
            texts: [N] its values, as the history table has them; None where missing.
            times: [N] instants of the rows, microseconds since 1970 UTC.
            names: The inputs that are wanted, of those that are looked up with ``key``.

        Returns:
            By input its N values, as a request would hold them.
        """
        wanted = frozenset(names)
        looked_up = {} if self.events is None else _of_events(self.events, key, texts, times, wanted)
        if looked_up:
            daily = wanted - looked_up.keys()
            others = self.look_up(key, texts, times, daily) if daily else FoundHistory({}, 0, 0)
            return replace(others, columns={**others.columns, **looked_up})
        first, last = (min(times) // DAY_US, max(times) // DAY_US) if times else (0, 0)
        if first == last:
            return self._on_day(first, key, texts, times, wanted)
        columns: dict[str, list[Any]] = {name: [None] * len(texts) for name in wanted}
        unknown, late, snapshots = 0, 0, dict[str, None]()
        for day, rows in self._rows_by_day(times).items():
            found = self._on_day(day, key, [texts[row] for row in rows], [times[row] for row in rows], wanted)
            for name, values in found.columns.items():
                for row, value in zip(rows, values, strict=True):
                    columns[name][row] = value
            unknown += found.unknown
            late += max(found.late, sum(times[row] // DAY_US > day for row in rows))
            snapshots |= dict.fromkeys(found.snapshots)
        return FoundHistory(columns, unknown, late, tuple(snapshots))

    def _rows_by_day(self, times: Sequence[int]) -> dict[int, list[int]]:
        """Which of N rows are looked up on which day: that of the last snapshot before them.

        So there are no more look-ups than snapshots, however many days the rows are of.
        """
        days = sorted({_days_since_1970(one.day) for one in self._listed})
        found: dict[int, list[int]] = {}
        for row, time in enumerate(times):
            place = bisect_right(days, time // DAY_US)
            found.setdefault(days[place - 1] if place else -1, []).append(row)
        return dict(sorted(found.items()))

    def _on_day(
        self, day: int, key: str, texts: Sequence[str | None], times: Sequence[int], wanted: frozenset[str]
    ) -> FoundHistory:
        snapshot, of = self._of_day(day), self._keys[key]
        if snapshot is None:
            columns = self._without_past(of, texts)
            found = {name: values for name, values in columns.items() if name in wanted}
            return FoundHistory(found, sum(text is not None for text in texts), len(texts))
        columns, absent = {}, []
        numbers = [(at, feature) for at, feature in enumerate(of.numbers) if feature.name in wanted]
        if numbers:
            values, none = snapshot.numbers(of, texts)
            absent.append(none)
            for at, feature in numbers:
                column = values[at]
                if isinstance(feature, HistoryRecency | HistoryFirstSeen):
                    column = [(time - instant) * _SECOND for time, instant in zip(times, column, strict=True)]
                columns[feature.name] = column
        lists = [listing for listing in of.lists if not wanted.isdisjoint(list_inputs(listing))]
        if lists:
            found_lists, none = snapshot.lists(of, texts)
            absent.append(none)
            for listing in lists:
                columns |= _listed(listing, found_lists, times)
        late = len(texts) if _is_before(snapshot, day) else 0
        return FoundHistory(columns, sum(map(all, zip(*absent, strict=True))), late, (snapshot.facts.id,))

    @staticmethod
    def _without_past(of: KeyLayout, texts: Sequence[str | None]) -> dict[str, list[Any]]:
        """The inputs of keys of which nothing is known."""
        columns: dict[str, list[Any]] = {
            feature.name: [math.nan if text is None else value for text in texts]
            for feature, value in zip(of.numbers, of.without_past, strict=True)
        }
        for listing in of.lists:
            columns |= _listed(listing, [{}] * len(texts), [0] * len(texts))
        return columns

    def _of_day(self, day: int) -> Snapshot | None:
        """The opened snapshot of ``day`` (since 1970), or of the last day before it that has one."""
        found = self._of_days.get(day)
        if found is None:
            found = self._newest_until(day)
            # After a failure the next request tries again.
            if found is not None and self._failure is None:
                if len(self._of_days) == _MOST_DAYS:
                    self._of_days.clear()
                self._of_days[day] = found
        return found

    def _newest_until(self, day: int) -> Snapshot | None:
        early = [one for one in self._listed if _days_since_1970(one.day) <= day]
        while early:
            facts = max(early, key=lambda one: one.day)
            try:
                return self._open(facts)
            except StoreError as error:
                # Its file was removed since the list was read, or is broken: the one before it is used, and said so.
                self._failure = str(error)
                early.remove(facts)
        return None

    def _open(self, facts: SnapshotFacts) -> Snapshot:
        found = self._opened.get(facts.id)
        if found is None:
            found = self._opened[facts.id] = Snapshot.open(self.root, facts, self.layout)
        return found


def _of_events(
    events: EventStore, key: str, texts: Sequence[str | None], times: Sequence[int], wanted: frozenset[str]
) -> dict[str, list[Any]]:
    """The inputs that events make."""
    columns: dict[str, list[Any]] = {
        f.name: events.values(f, texts, np.array(times)).tolist() for f in events.features if f.name in wanted
    }
    for sequence in events.sequences:
        if sequence.key == key and not wanted.isdisjoint(list_inputs(sequence)):
            lists = [{sequence.name: found} for found in events.lists(sequence, texts, times)]
            columns |= _listed(sequence, lists, times)
    return columns


def _days_since_1970(day: date) -> int:
    return (day - _EPOCH).days


def _is_before(snapshot: Snapshot, day: int) -> bool:
    return _days_since_1970(snapshot.facts.day) < day


def _listed(feature: HistoryList, found: Sequence[Lists], times: Sequence[int]) -> dict[str, list[Any]]:
    """The inputs of a listing feature for N rows."""
    empty: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    rows = [lists.get(feature.name, empty) for lists in found]
    items = [row[ITEMS] for row in rows]
    if not isinstance(feature, HistorySequence):
        return {feature.name: items}
    ages = [
        [None if instant is None else (float(ts) - instant) * _SECOND for instant in row[INSTANTS]]
        for row, ts in zip(rows, times, strict=True)
    ]
    if feature.events is not None:
        kinds = {} if feature.event is None else {feature.event: [row[KINDS] for row in rows]}
        return {feature.name: items, feature.age: ages, **kinds}
    places = enumerate(zip(feature.items, feature.ages, strict=True))
    return {
        name: [row[at] if at < len(row) else None for row in values]
        for at, names in places
        for name, values in zip(names, (items, ages), strict=True)
    }
