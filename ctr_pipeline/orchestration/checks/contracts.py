"""Is the log what the spec says, and is every row accounted for?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import dagster as dg

ROWS_CONSERVED = "rows_conserved"
QUARANTINE_SHARE = "quarantine_share"
DAYS_NOT_EMPTY = "days_not_empty"
EVENT_REFERENCES = "event_references"

FEWEST_IN_A_FLOOD = 5
"""Fewer broken rows are a trickle, whatever their share: on a small day one row may be one in twenty."""

SHOWN_DAYS = 5


def ingest_check_specs(asset: str) -> list[dg.AssetCheckSpec]:
    """The checks of a table read from a raw log."""
    return [
        dg.AssetCheckSpec(
            ROWS_CONSERVED, asset=asset, blocking=True, description="Rows read = rows kept + quarantined + ignored."
        ),
        dg.AssetCheckSpec(
            QUARANTINE_SHARE, asset=asset, blocking=True, description="The share of quarantined rows is small."
        ),
        dg.AssetCheckSpec(DAYS_NOT_EMPTY, asset=asset, description="Every day has rows."),
    ]


def check_rows_conserved(asset: str, rows_in: int, kept: int, quarantined: int, ignored: int) -> dg.AssetCheckResult:
    """Blocking error when a row got lost or was made up."""
    lost = rows_in - kept - quarantined - ignored
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=ROWS_CONSERVED,
        passed=lost == 0,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"rows_in": rows_in, "kept": kept, "quarantined": quarantined, "ignored": ignored},
        description=None if lost == 0 else f"{lost} of {rows_in} rows are unaccounted for.",
    )


@dataclass(frozen=True, slots=True)
class Share:
    """Broken rows among rows."""

    broken: int
    of: int

    def is_flood(self, limit: float) -> bool:
        """Whether these are too many: above ``limit`` of the rows, and not a mere few."""
        return self.broken > limit * self.of and self.broken >= FEWEST_IN_A_FLOOD

    def __str__(self) -> str:
        return f"{self.broken} of {self.of}"


def floods(days: Mapping[date, Share], limit: float) -> dict[str, Share]:
    """The days above ``limit``; where no single one is, all of them together if they are.

    Args:
        days: Rows by day.
        limit: Largest share.
    """
    found = {str(day): share for day, share in sorted(days.items()) if share.is_flood(limit)}
    total = _sum(list(days.values()))
    return found or ({"all days together": total} if total.is_flood(limit) else {})


def check_quarantine_share(
    asset: str,
    rows_in: Mapping[date, int],
    quarantined: Mapping[date, int],
    reasons: Mapping[str, int],
    limit: float,
    undated: Share,
) -> dg.AssetCheckResult:
    """Blocking error when a day is above ``limit``; a warning while there is only a trickle.

    Args:
        asset: The table.
        rows_in: Rows read, by day.
        quarantined: Rows quarantined, by day.
        reasons: Rows quarantined, by reason.
        limit: Largest share of a day's rows.
        undated: Those of the quarantined rows that belong to no day, and are counted with the first, among all rows
            of the log: they are judged by themselves.
    """
    first = min(rows_in, default=None)
    days = {
        day: Share(quarantined.get(day, 0), rows)
        if day != first
        else Share(quarantined.get(day, 0) - undated.broken, rows - undated.broken)
        for day, rows in rows_in.items()
    }
    found = floods(days, limit) | ({"rows without a day": undated} if undated.is_flood(limit) else {})
    total, broken = sum(rows_in.values()), sum(quarantined.values())
    listed = ", ".join(f"{reason}: {rows}" for reason, rows in reasons.items())
    description = f"{broken} of {total} rows were quarantined ({listed}); see table {asset}_quarantine."
    if found:
        description += (
            f" Above quality.max_quarantine_share = {limit:.2%}: {_listed(found)}. Mend the log or raise the limit."
        )
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=QUARANTINE_SHARE,
        passed=broken == 0,
        severity=dg.AssetCheckSeverity.ERROR if found else dg.AssetCheckSeverity.WARN,
        metadata={
            "share": broken / total if total else 0.0,
            "limit": limit,
            "days_above": len(found),
            "rows_without_a_day": undated.broken,
            **{f"reason/{reason}": rows for reason, rows in reasons.items()},
        },
        description=description if broken else None,
    )


def check_days_not_empty(asset: str, rows_by_day: Mapping[date, int]) -> dg.AssetCheckResult:
    """Warning that names the days without rows."""
    empty = [day.isoformat() for day, rows in sorted(rows_by_day.items()) if rows == 0]
    shown = ", ".join(empty[:10]) + (f" and {len(empty) - 10} more" if len(empty) > 10 else "")
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=DAYS_NOT_EMPTY,
        passed=not empty,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"days": len(rows_by_day), "empty_days": len(empty)},
        description=f"No rows on {shown}: is the log complete?" if empty else None,
    )


def event_references_spec(asset: str) -> dg.AssetCheckSpec:
    """The check of the asset that looks up the impressions of events."""
    return dg.AssetCheckSpec(
        EVENT_REFERENCES,
        asset=asset,
        blocking=True,
        description="Events belong to impressions that the log holds, and do not come before them.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The events that arrived on one day."""

    early: Share
    """Those before their impression, among all."""
    orphans: Share
    """Those without an impression, among all."""
    judged: Share
    """Those without an impression, among events that cannot belong to an impression before the log."""


def check_event_references(
    asset: str, days: Mapping[date, References], max_orphans: float, max_early: float
) -> dg.AssetCheckResult:
    """Blocking error when events without an impression, or before it, are a flood; a warning for a trickle.

    Args:
        asset: Asset that holds them.
        days: What was found, by day of arrival.
        max_orphans: Largest share of events without an impression (`quality.max_orphan_share`).
        max_early: Largest share of events before their impression (`quality.max_quarantine_share`).
    """
    orphans = floods({day: found.judged for day, found in days.items()}, max_orphans)
    early = floods({day: found.early for day, found in days.items()}, max_early)
    lost, before = _sum([found.orphans for found in days.values()]), _sum([found.early for found in days.values()])
    judged = _sum([found.judged for found in days.values()])
    texts = [
        f"Of {lost.of} events, {lost.broken} have no impression in the log ({judged.broken} of them late enough to need "
        f"one there) and {before.broken} come before theirs: none of these counts. See table {asset}_quarantine."
    ]
    if orphans:
        texts.append(
            f"Without an impression, above quality.max_orphan_share = {max_orphans:.2%}: {_listed(orphans)}. Do the logs "
            "hold the same ids, and is the impression log complete? Mend them, or raise the limit."
        )
    if early:
        texts.append(
            f"Before their impression, above quality.max_quarantine_share = {max_early:.2%}: {_listed(early)}. Are the "
            "times of both logs in one zone and unit? Mend them, or raise the limit."
        )
    passed = lost.broken + before.broken == 0
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=EVENT_REFERENCES,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if orphans or early else dg.AssetCheckSeverity.WARN,
        metadata={
            "events": lost.of,
            "orphan_event": lost.broken,
            "orphan_event_judged": judged.broken,
            "event_before_impression": before.broken,
            "max_orphan_share": max_orphans,
            "days_above": len(orphans) + len(early),
        },
        description=None if passed else " ".join(texts),
    )


def _sum(shares: Sequence[Share]) -> Share:
    return Share(sum(share.broken for share in shares), sum(share.of for share in shares))


def _listed(found: Mapping[str, Share]) -> str:
    shown = ", ".join(f"{day} {share}" for day, share in list(found.items())[:SHOWN_DAYS])
    return shown + (f" and {len(found) - SHOWN_DAYS} more days" if len(found) > SHOWN_DAYS else "")
