"""Adds up what was read of a log in several intervals."""

from collections import Counter
from datetime import date

import polars as pl

from ctr_pipeline.sources.quarantine import QUARANTINE_SCHEMA, ReadResult

_NOTICES = {
    "clock_skew": "received before they happened, within source.max_clock_skew",
    "repeated_hour": "at a local time that occurs twice",
    "empty_file": "files without a row",
    "other_traffic": "of traffic that is neither random nor production",
    "cut_lists": "with a list longer than its max_length",
    "duplicate_event": "events stated again",
}
"""What each notice counts: rows, unless it says otherwise."""


class ReadTally:
    """Where the rows of a log went, over all intervals that were read so far."""

    def __init__(self) -> None:
        self.quarantined = pl.DataFrame(schema=QUARANTINE_SCHEMA)
        """The quarantined rows."""
        self.rows_in: Counter[date] = Counter()
        """Rows read, by day."""
        self.added: Counter[date] = Counter()
        """Impressions that rows stand for, beyond one each, by day."""
        self.filtered: Counter[date] = Counter()
        """Rows that the spec leaves out, by day."""
        self.notices: Counter[str] = Counter()
        """Rows by remark that is worth a look, and no more."""
        self.event_types: dict[date, Counter[str]] = {}
        """Events by day of arrival and type."""
        self.joins: dict[str, Counter[str]] = {}
        """Impressions by side table and by what became of them there."""
        self.attributions: dict[str, Counter[str]] = {}
        """Events that name no impression, by event log and by what became of them."""
        self.outcomes: dict[date, tuple[int, int]] = {}
        """Rows that state an outcome, by day: those quarantined, and all."""
        self.files: dict[date, set[str]] = {}
        """Paths of the files that rows of each day were found in."""
        self.total = 0
        """Rows read."""
        self.ignored = 0
        """Rows left out on purpose, such as those of other days."""
        self.undated = 0
        """Quarantined rows that belong to no day."""
        self.rows_in_log = 0
        """Rows of the whole log."""

    def add(self, result: ReadResult) -> None:
        """Adds what was read of one interval."""
        self.quarantined = pl.concat([self.quarantined, result.quarantined])
        self.rows_in.update(result.rows_in_by_day)
        self.added.update(result.added_by_day)
        self.filtered.update(result.filtered_by_day)
        self.notices.update(result.notices)
        self.outcomes.update(result.outcomes)
        for day, types in result.event_types.items():
            self.event_types.setdefault(day, Counter()).update(types)
        for table, fates in result.joins.items():
            self.joins.setdefault(table, Counter()).update(fates)
        for log, fates in result.attributions.items():
            self.attributions.setdefault(log, Counter()).update(fates)
        for day, paths in result.files.items():
            self.files.setdefault(day, set()).update(paths)
        self.total += result.rows_in
        self.ignored += result.ignored
        self.undated += result.undated
        # Each interval looks through the whole log.
        self.rows_in_log = max(self.rows_in_log, result.rows_in_log)

    def remarks(self, table: str) -> list[str]:
        """What a person should know of the rows that were kept: see the field ``notices`` of a ReadResult."""
        found = [f"{_NOTICES.get(notice, notice)}: {count:,}" for notice, count in self.notices.items() if count]
        return [f"{table}: {'; '.join(found)}."] if found else []

    def quarantined_by_day(self) -> dict[date, int]:
        """Quarantined rows by day."""
        return {day: int(rows) for day, rows in self.quarantined.group_by("day").len().iter_rows()}

    def reasons(self) -> dict[str, int]:
        """Quarantined rows by reason, in the order of the alphabet."""
        counts = self.quarantined.group_by("reason").len().sort("reason")
        return {str(reason): int(rows) for reason, rows in counts.iter_rows()}
