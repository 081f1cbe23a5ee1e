"""Dagster's event log in SQLite, which takes the events of many days in one go."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as db
from dagster import DagsterEventType
from dagster._core.events import ASSET_EVENTS
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster_shared.record import replace
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
    from dagster._core.events.log import EventLogEntry
    from dagster._serdes import ConfigurableClassData

BATCH_VARIABLE, BATCH_EVENTS = "DAGSTER_EVENT_BATCH_SIZE", "1000"
"""Variable by which Dagster hands over the events of a step's partitions together, and how many at most."""


class BatchedEventLogStorage(SqliteEventLogStorage):
    """As the storage that it extends, file by file and row by row, but with one transaction for many events.

    A step of 1,500 days has as many materialisations. One by one each of them opens two files, four times in all.
    """

    def __init__(self, base_dir: str, inst_data: "ConfigurableClassData | None" = None) -> None:
        # An engine holds the statements that it has compiled; the connections are closed after each use.
        self._engines: dict[str, db.Engine] = {}
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(
        cls, inst_data: "ConfigurableClassData | None", config_value: Any
    ) -> "BatchedEventLogStorage":
        """The storage that a `dagster.yaml` describes."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[db.Connection]:
        with self._db_lock:
            engine = self._engines.get(shard)
            if engine is None:
                engine = self._engines[shard] = db.create_engine(
                    self.conn_string_for_shard(shard),
                    poolclass=NullPool,
                    connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS},
                )
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    @property
    def supports_partition_subset_in_asset_materialization_planned_events(self) -> bool:
        """That a run will make many days of an asset comes as one event, which is stored as one of each day."""
        return True

    def store_event(self, event: "EventLogEntry") -> None:
        """Stores one event."""
        if _planned_days(event):
            self._store_asset_events([event])
        else:
            super().store_event(event)

    def store_event_batch(self, events: "Sequence[EventLogEntry]") -> None:
        """Stores events of one run, those of assets together."""
        together = [event for event in events if event.dagster_event_type in ASSET_EVENTS]
        if together:
            self._store_asset_events(together)
        for event in events:
            if event.dagster_event_type not in ASSET_EVENTS:
                self.store_event(event)

    def _store_asset_events(self, events: "Sequence[EventLogEntry]") -> None:
        each = [(event, row) for event in events for row in self._rows_of(event)]
        rows = [row for _, row in each]
        with self.run_connection(events[0].run_id) as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)
        with self.index_transaction() as connection:
            number = SqlEventLogStorageTable.c.id
            inserted = SqlEventLogStorageTable.insert().returning(number, sort_by_parameter_order=True)
            ids = [int(found) for (found,) in connection.execute(inserted, rows)]
            self._store_asset_event_tags(connection, [event for event, _ in each], ids)
            # What is known of the asset itself comes from its last event of each type.
            last = {(row["asset_key"], row["dagster_event_type"]): place for place, row in enumerate(rows)}
            for place in sorted(last.values()):
                self._store_asset_event(connection, each[place][0], ids[place])

    def _rows_of(self, event: "EventLogEntry") -> list[dict[str, Any]]:
        """The rows of an event: more than one where it says that a run will make many days."""
        days = _planned_days(event)
        if not days:
            return [self._event_to_row(event)]
        planned = event.get_dagster_event().asset_materialization_planned_data
        one = planned._replace(partitions_subset=None, partition=days[0])
        dagster_event = event.get_dagster_event()._replace(event_specific_data=one)
        row = self._event_to_row(event._replace(dagster_event=dagster_event))
        # Made once and not for each day: the rows differ in nothing else.
        before, found, after = row["event"].partition(f'"partition": {json.dumps(days[0])}')
        if not found:
            raise ValueError(f"Dagster no longer writes the partition of a planned event as before: {row['event']}")
        return [{**row, "partition": day, "event": f'{before}"partition": {json.dumps(day)}{after}'} for day in days]

    def _store_asset_check_evaluation_planned(self, event: "EventLogEntry", event_id: int | None) -> None:
        """Notes that a check is to come, once and not for each day of the run.

        A check here judges all days of its run, and its result has no partition: notes of single days would wait for
        theirs for ever.
        """
        dagster_event = event.get_dagster_event()
        planned: AssetCheckEvaluationPlanned = dagster_event.event_specific_data  # type: ignore[assignment]
        if planned.partitions_subset is not None:
            whole = dagster_event._replace(event_specific_data=replace(planned, partitions_subset=None))
            event = event._replace(dagster_event=whole)
        super()._store_asset_check_evaluation_planned(event, event_id)


def _planned_days(event: "EventLogEntry") -> list[str]:
    """The days of an event that says that a run will make many of an asset; none of other events."""
    if event.dagster_event_type != DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
        return []
    subset = event.get_dagster_event().asset_materialization_planned_data.partitions_subset
    return [] if subset is None else list(subset.get_partition_keys())
