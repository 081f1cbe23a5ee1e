"""The table `forgotten_users`: whom ingestion leaves out, without identifying them.

It holds digests of hashes: one for each forgotten user, and one for each impression of theirs that was deleted or left
out, since outcomes name the impression and not the user. A digest serves to recognise the hash, and for nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.lake import Lake
    from ctr_pipeline.sources import ReadResult
    from ctr_pipeline.spec import Spec

FORGOTTEN_TABLE = "forgotten_users"
USER, IMPRESSION = "user", "impression"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Digests known under the key in use, and how many users were forgotten under another one."""

    users: frozenset[str]
    impressions: frozenset[str]
    under_other_keys: int


def forgotten(lake: "Lake", key: str) -> Forgotten:
    """Whom the table names, as seen under the key with the fingerprint ``key``."""
    import polars as pl

    if not lake.exists(FORGOTTEN_TABLE):
        return Forgotten(frozenset(), frozenset(), 0)
    rows = lake.scan(FORGOTTEN_TABLE).collect()
    own = pl.col("key") == key

    def of(kind: str) -> frozenset[str]:
        return frozenset(rows.filter(own, pl.col("kind") == kind)["digest"].to_list())

    others = rows.filter(~own, pl.col("kind") == USER)["digest"].n_unique()
    return Forgotten(of(USER), of(IMPRESSION), others)


def remember(lake: "Lake", kind: str, hashes: "pl.DataFrame", key: str) -> None:
    """Adds digests of hashes to the table.

    Args:
        lake: The lake.
        kind: ``user`` or ``impression``.
        hashes: Columns ``day`` (the day of forgetting, or that of the impression) and ``hash``.
        key: Fingerprint of the key that the hashes were made with.
    """
    import polars as pl

    from ctr_pipeline.sources.forgotten import digests

    if hashes.is_empty():
        return
    added = hashes.select(
        "day",
        kind=pl.lit(kind),
        digest=pl.Series(digests(hashes["hash"].to_list()), dtype=pl.String),
        key=pl.lit(key),
    )
    days: list[date] = hashes["day"].unique().sort().to_list()
    held = [lake.scan(FORGOTTEN_TABLE, first=day, last=day).collect() for day in days if lake.exists(FORGOTTEN_TABLE)]
    rows = pl.concat([*held, added]).unique().sort("day", "kind", "key", "digest")
    if rows.height > sum(part.height for part in held):
        lake.replace_days(FORGOTTEN_TABLE, rows, days)


def leave_out_forgotten(
    lake: "Lake", spec: "Spec", table: str, result: "ReadResult", key: str, warn: Callable[[str], None]
) -> "ReadResult":
    """What was read of ``table``, without the rows of forgotten users; remembers their impressions.

    Args:
        lake: The lake.
        spec: Names the columns that hold a user.
        table: ``impressions`` or ``outcome_events``.
        result: What was read.
        key: Fingerprint of the key in use.
        warn: Receives a message about users who are not recognised under this key.
    """
    from ctr_pipeline.sources.forgotten import leave_out, user_columns

    known = forgotten(lake, key)
    if known.under_other_keys:
        warn(
            f"{known.under_other_keys} users were forgotten under another key of the hashes and are not recognised "
            "under this one: forget them again, or delete them from the log (docs/privacy.md)."
        )
    shown = table == "impressions"
    remaining, left_out = leave_out(result, user_columns(spec) if shown else (), known.users, known.impressions)
    if shown:
        remember(lake, IMPRESSION, left_out.select("day", hash="impression_id"), key)
    return remaining
