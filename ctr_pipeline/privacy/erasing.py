"""The part of `ctr forget` that concerns the tables: which rows are a user's, and taking them out."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ctr_pipeline.privacy.forgotten_users import FORGOTTEN_TABLE

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.lake import Lake
    from ctr_pipeline.spec import Spec


def impressions_of(lake: "Lake", columns: Sequence[str], hashed: str) -> "pl.DataFrame":
    """Day, id and time of every impression of the user in any file of any version.

    One that has another user, or none, in the newest version is not among them.
    """
    import polars as pl

    from ctr_pipeline.lake.erasure import stored_values

    rows = stored_values(lake, "impressions", [*columns, "impression_id", "ts"])
    held = [column for column in columns if column in rows.columns]
    if not held:
        return pl.DataFrame(schema={"day": pl.Date, "impression_id": pl.String, "ts": pl.Int64})
    theirs = rows.filter(_is_user(held, hashed)).select("day", "impression_id", "ts").unique()
    newest = lake.scan("impressions") if lake.exists("impressions") else rows.clear().lazy()
    present = [column for column in held if column in newest.collect_schema().names()]
    ids = theirs["impression_id"].unique().implode()
    others = newest.filter(pl.col("impression_id").is_in(ids), ~_is_user(present, hashed)).select("impression_id")
    return theirs.join(others.collect(), on="impression_id", how="anti").sort("ts", "impression_id")


def _is_user(columns: Sequence[str], hashed: str) -> "pl.Expr":
    import polars as pl

    return pl.any_horizontal((pl.col(column) == hashed).fill_null(False) for column in columns)


def listed_users(spec: "Spec") -> list[str]:
    """Features made of the past that list users, such as the last ones whom an ad was shown to."""
    from ctr_pipeline.sources.forgotten import user_columns

    columns = user_columns(spec)
    return [name for listing in spec.features.listing if listing.item in columns for name in listing.items]


def erase_user(spec: "Spec", lake: "Lake", hashed: str, shown: "pl.DataFrame") -> dict[str, dict[str, int]]:
    """Removes the user's rows from the newest version of every table; the impressions, which name the user, last.

    Args:
        spec: Says which columns and features hold users.
        lake: The lake.
        hashed: Hash of the user.
        shown: Their impressions (:func:`impressions_of`).

    Returns:
        For each table that lost rows their number, and that of the days.
    """
    import polars as pl

    from ctr_pipeline.lake.erasure import erase_rows, tables_of
    from ctr_pipeline.sources.forgotten import user_columns

    columns, ids = user_columns(spec), shown["impression_id"].unique().implode()
    removed: dict[str, dict[str, int]] = {}
    for table in sorted(tables_of(lake), key=lambda name: (name == "impressions", name)):
        if table == FORGOTTEN_TABLE:
            continue
        present = lake.scan(table).collect_schema().names()
        tests = [pl.col(column) == hashed for column in {"user", *columns} if column in present]
        if "impression_id" in present:
            tests.append(pl.col("impression_id").is_in(ids))
        if table == "history":
            tests += _of_history(spec, hashed, ids, "item" in present)
        if table == "profile":
            tests.append((pl.col("bin") == hashed) & pl.col("name").is_in(columns))
        if not tests:
            continue
        theirs = pl.any_horizontal(test.fill_null(False) for test in tests)
        if table == "labels":
            found = erase_rows(lake, table, theirs, _recount(lake, ids), shown["day"].unique().to_list())
        else:
            found = erase_rows(lake, table, theirs)
        if found.rows:
            removed[table] = {"rows": found.rows, "days": len(found.days)}
    return removed


def _of_history(spec: "Spec", hashed: str, ids: "pl.Series", has_items: bool) -> "list[pl.Expr]":
    """Which rows of history are the user's; equal texts of other kinds have the same hash, so the feature decides.

    Rows of features that the spec no longer has may be of any kind: there the hash alone decides.
    """
    import polars as pl

    from ctr_pipeline.sources.forgotten import user_columns
    from ctr_pipeline.spec.history import is_exact

    features, columns = spec.features, user_columns(spec)
    stored = {feature.name: feature for feature in features.history if feature not in features.listing}
    listed = {name: listing for listing in features.listing for name in listing.stored}
    unknown = ~pl.col("feature").is_in([*stored, *listed])
    exact = [name for name, feature in {**stored, **listed}.items() if is_exact(feature)]
    keyed = [
        name
        for name, feature in {**stored, **listed}.items()
        if feature.key in {"user", *columns} and name not in exact
    ]
    tests = [
        (pl.col("key") == hashed) & (pl.col("feature").is_in(keyed) | unknown),
        pl.col("key").is_in(ids) & (pl.col("feature").is_in(exact) | unknown),
    ]
    if has_items:
        tests.append((pl.col("item") == hashed) & (pl.col("feature").is_in(listed_users(spec)) | unknown))
    return tests


def _recount(lake: "Lake", ids: "pl.Series") -> "Callable[[pl.DataFrame], pl.DataFrame]":
    """Corrects the header of a day of labels, which holds the number of its impressions."""
    import polars as pl

    def correct(rows: pl.DataFrame) -> pl.DataFrame:
        header = rows.filter(pl.col("impression_id").is_null())
        if header.is_empty():
            return rows
        day, as_of, held = header.select("day", "as_of", "impressions").row(0)
        theirs = pl.col("impression_id").is_in(ids)
        arrived = lake.scan("impressions", first=day, last=day).filter(pl.col("ingest_ts") <= as_of)
        erased, every = arrived.select(theirs.sum(), pl.len().alias("rows")).collect().row(0)
        # A call that was interrupted may have corrected it already.
        count = held if held == every - erased else held - erased
        is_header = pl.col("impression_id").is_null()
        corrected = rows.with_columns(impressions=pl.when(is_header).then(count).otherwise(pl.col("impressions")))
        return corrected.filter(~is_header | (pl.col("impressions") > 0))

    return correct
