"""Dagster's event log in SQLite, which takes the events of many days in one go."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as db
from dagster._core.events import ASSET_EVENTS
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
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

    def store_event_batch(self, events: "Sequence[EventLogEntry]") -> None:
        """Stores events of one run, those of assets together."""
        together = [event for event in events if event.dagster_event_type in ASSET_EVENTS]
        if together:
            self._store_asset_events(together)
        for event in events:
            if event.dagster_event_type not in ASSET_EVENTS:
                self.store_event(event)

    def _store_asset_events(self, events: "Sequence[EventLogEntry]") -> None:
        rows = [self._event_to_row(event) for event in events]
        with self.run_connection(events[0].run_id) as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)
        with self.index_transaction() as connection:
            number = SqlEventLogStorageTable.c.id
            inserted = SqlEventLogStorageTable.insert().returning(number, sort_by_parameter_order=True)
            ids = [int(found) for (found,) in connection.execute(inserted, rows)]
            self._store_asset_event_tags(connection, events, ids)
            # What is known of the asset itself comes from its last event of each type.
            last = {(row["asset_key"], row["dagster_event_type"]): place for place, row in enumerate(rows)}
            for place in sorted(last.values()):
                self._store_asset_event(connection, events[place], ids[place])
