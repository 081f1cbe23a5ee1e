"""What a service asks of a store of history features, and tells it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ctr_pipeline.errors import UserError

IMPRESSION = "impression"
"""What an event that is an impression is called; the others are called as their task."""


class FullError(UserError):
    """The store of events has no room left; nothing of what was to be stored is."""


@dataclass(frozen=True, slots=True)
class Event:
    """An impression, or an outcome of one."""

    kind: str
    """:data:`IMPRESSION`, or the name of a task."""
    impression: str
    """Keyed hash of the impression's id."""
    ts: int
    """When it happened, microseconds since 1970 UTC."""
    arrived: int
    """When it was known."""
    keys: Mapping[str, str | None] = field(default_factory=dict)
    """Of an impression, its key columns as the history table has them."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How many events are new, were stored before, and are too old to be looked at."""

    accepted: int
    repeated: int
    too_old: int = 0


class EventSink(Protocol):
    """Stores events; several processes may do so at once."""

    @property
    def identity(self) -> str:
        """Two sinks with the same one are the same."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """Key columns that an impression should have."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the tasks whose outcomes are stored."""
        ...

    def append_all(
        self, batches: Sequence[Sequence[Event]], now: int, places: Mapping[str, bytes | None] | None = None
    ) -> list[Stored]:
        """Stores all events of all batches, or none; what it returns of is on disk.

        Args:
            batches: The events.
            now: Microseconds since 1970 UTC.
            places: By name, how far a source of events has been read with these events, stored together with them; None
                for one that is gone.

        Raises:
            FullError: there is no room.
        """
        ...

    def places(self, prefix: str) -> Mapping[str, bytes]:
        """The stored places whose names begin with ``prefix``."""
        ...


@dataclass(frozen=True, slots=True)
class FoundHistory:
    """What a look-up of N rows found."""

    columns: Mapping[str, list[Any]]
    """By input of the model N values, as a request would hold them; ids are pseudonyms already."""
    unknown: int
    """Keys without a past."""
    late: int
    """Rows for which there was no snapshot of their own day: that of an earlier day was used, or none."""
    snapshots: tuple[str, ...] = ()
    """Ids of the snapshots that were used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreState:
    """What a store would use for a request of now."""

    snapshot: str | None
    """Id; None where there is none."""
    day: str | None
    """Day (YYYY-MM-DD) that its values are of."""
    late: bool
    """Whether that is not today, or there is none."""
    problem: str | None
    """What stands in the way of using the newest snapshot; None for nothing."""

    @property
    def ready(self) -> bool:
        """Whether there is something to look up."""
        return self.snapshot is not None


class HistoryStore(Protocol):
    """Looks up history features by key."""

    @property
    def inputs(self) -> Mapping[str, tuple[tuple[str, ...], ...]]:
        """By key column (``user``, or the name of a categorical feature) the model's inputs that are looked up with it.

        Inputs of one group, such as the items and ages of one list, belong together.
        """
        ...

    def look_up(
        self, key: str, texts: Sequence[str | None], times: Sequence[int], names: Collection[str]
    ) -> FoundHistory:
        """The inputs ``names`` of N rows, as the store was at the last :meth:`refresh`.

        Args:
            key: A key column.
            texts: [N] its values as the history table has them: canonical, private ones hashed; None where missing.
            times: [N] instants of the rows, microseconds since 1970 UTC.
            names: Inputs that are looked up with ``key``; groups as a whole.
        """
        ...

    def refresh(self) -> None:
        """Uses what is in the store now; a request does so once, before its look-ups."""
        ...

    def state(self, now: int) -> StoreState:
        """What would be used for a request at ``now``, microseconds since 1970 UTC."""
        ...
