"""Is the log what the spec says, and is every row accounted for?"""

from collections.abc import Mapping
from datetime import date

import dagster as dg

ROWS_CONSERVED = "rows_conserved"
QUARANTINE_SHARE = "quarantine_share"
DAYS_NOT_EMPTY = "days_not_empty"


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


def check_quarantine_share(
    asset: str,
    rows_in: Mapping[date, int],
    quarantined: Mapping[date, int],
    reasons: Mapping[str, int],
    limit: float,
) -> dg.AssetCheckResult:
    """Blocking error when a day is above ``limit``; a warning while there is only a trickle.

    Args:
        asset: The table.
        rows_in: Rows read, by day.
        quarantined: Rows quarantined, by day.
        reasons: Rows quarantined, by reason.
        limit: Largest share of a day's rows.
    """
    floods = {day: rows for day, rows in quarantined.items() if rows > limit * rows_in.get(day, 0)}
    total, broken = sum(rows_in.values()), sum(quarantined.values())
    listed = ", ".join(f"{reason}: {rows}" for reason, rows in reasons.items())
    shown = ", ".join(f"{day} {floods[day]} of {rows_in.get(day, 0)}" for day in sorted(floods)[:5])
    description = f"{broken} of {total} rows were quarantined ({listed}); see table {asset}_quarantine."
    if floods:
        description += (
            f" Above quality.max_quarantine_share = {limit:.2%}: {shown}"
            + (f" and {len(floods) - 5} more days" if len(floods) > 5 else "")
            + ". Mend the log or raise the limit."
        )
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=QUARANTINE_SHARE,
        passed=broken == 0,
        severity=dg.AssetCheckSeverity.ERROR if floods else dg.AssetCheckSeverity.WARN,
        metadata={
            "share": broken / total if total else 0.0,
            "limit": limit,
            "days_above": len(floods),
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
