"""Number, hits and latest moment of a key between two instants, at the cost of some hundred entries however many there are.

Moments are summed by hour and by minute as they are stored. Between two instants there are whole hours, whole minutes before and
behind these, and single moments at both ends.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctr_pipeline.online.shared_environment import values_between

MOMENTS = "moments"
SPANS = {"hours": 3_600_000_000, "minutes": 60_000_000}
"""Table of the sums of each span to its microseconds, the longest first."""

MOST_PER_MINUTE = 5_000
"""Moments of one key that are read of each minute at an end."""

_MOST_SPANS = 10_000
"""Sums that are read; there are fewer."""

_TIME, _VALUE, _SUM = struct.Struct(">q"), struct.Struct(">qB"), struct.Struct(">qqq")


@dataclass(frozen=True, slots=True)
class MomentSum:
    """Moments between two instants.

    Attributes:
        number: How many.
        hits: How many of them are outcomes that came.
        latest: The latest of them, microseconds since 1970 UTC; 0 without one.
    """

    number: int = 0
    hits: int = 0
    latest: int = 0

    def __add__(self, other: "MomentSum") -> "MomentSum":
        return MomentSum(self.number + other.number, self.hits + other.hits, max(self.latest, other.latest))


@dataclass(frozen=True, slots=True)
class MomentTables:
    """The tables of moments and their sums.

    Attributes:
        tables: LMDB's by name: :data:`MOMENTS`, and those of :data:`SPANS`.
    """

    tables: Mapping[str, Any]

    def add(
        self, transaction: Any, head: bytes, known: int, name: bytes, moment: int, hit: int
    ) -> list[tuple[str, bytes]]:
        """Stores a moment; one that is there already becomes the hit that it turned out to be.

        Args:
            transaction: One that writes.
            head: Begins the names of the key.
            known: When it became known.
            name: Ends its name, so that several may become known at one instant.
            moment: When it happened.
            hit: 1 for an outcome that came.

        Returns:
            Table and name of each entry that is new.
        """
        own = head + _TIME.pack(known) + name
        is_new = transaction.replace(own, _VALUE.pack(moment, hit), db=self.tables[MOMENTS]) is None
        new = [(MOMENTS, own)] if is_new else []
        for table, span in SPANS.items():
            of_span = head + _TIME.pack(known - known % span)
            content = transaction.get(of_span, db=self.tables[table])
            before = MomentSum(*_SUM.unpack(content)) if content else MomentSum()
            after = before + MomentSum(int(is_new), hit, moment)
            transaction.put(of_span, _SUM.pack(after.number, after.hits, after.latest), db=self.tables[table])
            if not content:
                new.append((table, of_span))
        return new

    def between(self, transaction: Any, head: bytes, first: int, end: int) -> MomentSum:
        """The moments that became known from ``first`` to before ``end``, of the key whose names begin with ``head``."""
        return self._between(transaction, head, first, end, tuple(SPANS.items()))

    def _between(
        self, transaction: Any, head: bytes, first: int, end: int, spans: tuple[tuple[str, int], ...]
    ) -> MomentSum:
        if not spans:
            return self._of_moments(transaction, head, first, end)
        (table, span), *shorter = spans
        began, ended = first + -first % span, end - end % span
        if began >= ended:
            return self._between(transaction, head, first, end, tuple(shorter))
        found = MomentSum()
        cursor = transaction.cursor(db=self.tables[table])
        for value in values_between(cursor, head + _TIME.pack(began), head + _TIME.pack(ended), _MOST_SPANS):
            found += MomentSum(*_SUM.unpack(value))
        for start, stop in ((first, began), (ended, end)):
            if start < stop:
                found += self._between(transaction, head, start, stop, tuple(shorter))
        return found

    def _of_moments(self, transaction: Any, head: bytes, first: int, end: int) -> MomentSum:
        number = hits = latest = 0
        cursor = transaction.cursor(db=self.tables[MOMENTS])
        for value in values_between(cursor, head + _TIME.pack(first), head + _TIME.pack(end), MOST_PER_MINUTE):
            moment, hit = _VALUE.unpack(value)
            number, hits, latest = number + 1, hits + hit, max(latest, moment)
        return MomentSum(number, hits, latest)
