"""What scoring asks of a store of history features."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


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
        self, key: str, texts: Sequence[str | None], times: NDArray[np.int64], names: Collection[str]
    ) -> FoundHistory:
        """The inputs ``names`` of N rows.

        Args:
            key: A key column.
            texts: [N] its values as the history table has them: canonical, private ones hashed; None where missing.
            times: [N] instants of the rows, microseconds since 1970 UTC.
            names: Inputs that are looked up with ``key``; groups as a whole.
        """
        ...

    def state(self, now: int) -> StoreState:
        """What would be used for a request at ``now``, microseconds since 1970 UTC."""
        ...
