"""How often each type of event occurs on each day, those that no task uses included."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import date

import polars as pl

UNNAMED = ""
"""Stands for all ignored types whose names are not given: rarer ones, or too many for them to be types."""

MOST_TYPES = 100
"""More different ignored values are no types. They may be ids, and are not to be shown."""

_NAMED = 50
_LONGEST_NAME = 40

TypeCounts = Mapping[date, Mapping[str, int]]
"""Events by day of arrival and type."""


def count_types(types: Iterable[pl.DataFrame], used: Collection[str]) -> TypeCounts:
    """Counts events by day and type.

    Args:
        types: Columns ``day`` and ``type``, a row for each event; rows where one is missing are left out.
        used: The types that tasks use. Others are ignored, and only the most frequent of them named.
    """
    frames = [frame.drop_nulls().group_by("day", "type").len() for frame in types]
    counted = pl.concat([pl.DataFrame(schema={"day": pl.Date, "type": pl.String, "len": pl.UInt32}), *frames])
    totals = counted.group_by("type").agg(pl.col("len").sum()).sort("len", "type", descending=[True, False])
    ignored = totals.filter(~pl.col("type").is_in(list(used)))["type"].to_list()
    are_types = len(ignored) <= min(MOST_TYPES, int(totals["len"].sum()) // 2)
    named = {*used, *(ignored[:_NAMED] if are_types else ())}
    found: dict[date, Counter[str]] = {}
    for day, kind, events in counted.sort("day", "type").iter_rows():
        found.setdefault(day, Counter())[_shown(kind, used) if kind in named else UNNAMED] += events
    return found


def ignored_types(counts: TypeCounts, used: Collection[str]) -> dict[str, int]:
    """Events of each type that no task uses, the most frequent first; :data:`UNNAMED` comes last."""
    totals: Counter[str] = Counter()
    for of_day in counts.values():
        totals.update({kind: events for kind, events in of_day.items() if kind not in used})
    return dict(sorted(totals.items(), key=lambda item: (item[0] == UNNAMED, -item[1], item[0])))


def _shown(kind: str, used: Collection[str]) -> str:
    return kind if kind in used or len(kind) <= _LONGEST_NAME else kind[: _LONGEST_NAME - 1] + "…"
