"""Days that are stored, and whose files were taken away since: they stay as they are, or the run is refused.

The files of a log come and go: they are rotated, packed, merged. What was stored of a day is replaced only by a reading
that has all of it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date

import polars as pl

from ctr_pipeline.sources.errors import SourceError, listed


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDay:
    """From what the stored rows of a day were read."""

    files: Mapping[str, str]
    """The stamp of each file that had rows of the day, by its path."""
    is_current: bool
    """Whether they were read as the spec now says, and hashed with the present key."""


def days_at_risk(stored: Mapping[date, StoredDay], stamps: Mapping[str, str], log_first: date) -> set[date]:
    """The stored days that the files of today may no longer hold whole.

    Args:
        stored: What is stored.
        stamps: The stamp of each file of today, by its path.
        log_first: First day that these hold.

    Returns:
        Days of files that are gone, those before ``log_first`` of files that were written again, and then that day too.
    """
    before = {
        day
        for day, found in stored.items()
        if day < log_first and any(stamps.get(path) != stamp for path, stamp in found.files.items())
    }
    gone = {day for day, found in stored.items() if any(path not in stamps for path in found.files)}
    emptied = any(path in stamps for day in before for path in stored[day].files)
    return before | gone | ({log_first} & stored.keys() if emptied else set())


def lost_days(stored: Mapping[date, StoredDay], before: pl.DataFrame, now: pl.DataFrame) -> set[date]:
    """The days of which rows are missing.

    Args:
        stored: What is stored.
        before: ``day`` and ``time`` of the stored rows.
        now: The same of what the files hold today.

    Returns:
        Days with a time that is stored more often than it is found; of days that were read in another way, those with
        fewer rows.
    """
    current = [day for day, found in stored.items() if found.is_current]
    alike = pl.when(pl.col("day").is_in(current)).then("time")
    before, now = before.with_columns(time=alike), now.with_columns(time=alike)
    keys = ["day", "time"]
    found = before.group_by(keys).len("stored")
    counts = found.join(now.group_by(keys).len("found"), on=keys, how="left", nulls_equal=True)
    return set(counts.filter(pl.col("found").fill_null(0) < pl.col("stored"))["day"].to_list())


def refuse_mixed_days(
    lost: Iterable[date],
    stored: Mapping[date, StoredDay],
    stamps: Mapping[str, str],
    found: Mapping[date, Collection[str]],
    has_ids: bool,
    has_clock: bool,
) -> None:
    """Lets ``lost`` days stay as they are stored, unless that would leave out what is new, or mix what does not fit.

    Args:
        lost: Stored days that the files of today do not hold whole.
        stored: What is stored.
        stamps: The stamp of each file of today, by its path.
        found: Paths of the files of today that hold rows of a day.
        has_ids: Whether the log has an id for each impression.
        has_clock: Whether it has times; without, the days of rows follow from counting them.

    Raises:
        SourceError: a day was read as the spec no longer says, is in new files too, or its rows are counted, or identified
            by a file that now holds others.
    """
    for day in sorted(lost):
        files = stored[day].files
        gone = [path for path in files if path not in stamps]
        was = f"rows of {day} were read before, and the files of today lack some of them"
        was += f" (gone: {listed(gone)})." if gone else "."
        if not stored[day].is_current:
            raise SourceError(
                f"{was} They cannot stay as they are: the spec, or the key of the hashes, has changed since, so that all "
                "days must be read again. Restore the files, or take back the change, or set `days.first` to the first "
                "day that is there."
            )
        if not has_clock:
            raise SourceError(
                f"{was} Without `impression.time` days are counted from the first row on, so all would shift. Restore "
                "the files, or start with another --data-root."
            )
        new = [path for path in sorted(found.get(day, ())) if files.get(path) != stamps[path]]
        if new:
            raise SourceError(
                f"{was} The day cannot stay as it is, since {listed(new)} has rows of it that are new. Restore the files, "
                "take the new one out of the log, or start with another --data-root."
            )
        reused = [path for path in files if stamps.get(path, files[path]) != files[path]]
        if reused and not has_ids:
            raise SourceError(
                f"{was} Without `impression.id` a row is identified by its file and place, and {listed(reused)} holds "
                "other rows now. Rotate files by giving them new names, restore what it held, or start with another "
                "--data-root."
            )


def kept_remark(table: str, days: Collection[date]) -> str:
    """What is said of days that stay as they are."""
    count = f"{len(days)} days from {min(days)} to {max(days)} stay" if len(days) > 1 else f"{min(days)} stays"
    return (
        f"{table}: {count} as read before, since their files are gone. To leave out days, set `days.first`; to begin "
        "anew, name another --data-root."
    )
