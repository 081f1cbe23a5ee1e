"""Rows of users who are to be forgotten are left out when the log is read again."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import polars as pl
import polars_hash  # noqa: F401  (registers the expression namespace `chash`)

from ctr_pipeline.sources.pseudonyms import PSEUDONYM_LENGTH
from ctr_pipeline.sources.quarantine import ReadResult
from ctr_pipeline.spec import Spec

FORGOTTEN = "forgotten"
"""Notice of a :class:`ReadResult`: rows left out."""


def user_columns(spec: Spec) -> list[str]:
    """Columns of the impressions table that hold the hash of a user: ``user``, and each feature made of that column.

    Where the spec names no user, these are the features that ``privacy.pseudonymise`` hashes.
    """
    user = spec.impression.user
    personal = {user} if user is not None else set(spec.privacy.pseudonymise)
    return ["user", *(feature.name for feature in spec.features.embedded if feature.source_column in personal)]


def digests(hashes: Sequence[str]) -> list[str]:
    """SHA-256 of each hash, cut like the hash itself: what is kept of a forgotten one, to recognise it."""
    return pl.DataFrame({"hash": hashes}, schema={"hash": pl.String}).select(_digest("hash"))["hash"].to_list()


def leave_out(
    result: ReadResult, columns: Sequence[str], users: Collection[str], impressions: Collection[str]
) -> tuple[ReadResult, pl.DataFrame]:
    """``result`` without the kept rows of forgotten users, which then count as ignored.

    Args:
        result: What was read.
        columns: Columns of its rows that hold the hash of a user; none for rows of another table.
        users: Digests of forgotten users (:func:`digests`).
        impressions: Digests of their impressions.

    Returns:
        The remaining result, whose notice :data:`FORGOTTEN` counts the rows left out, and those rows.
    """
    tests = [_digest(column).is_in(list(users)) for column in columns if users]
    tests += [_digest("impression_id").is_in(list(impressions))] if impressions else []
    if not tests or result.kept.is_empty():
        return result, result.kept.clear()
    marked = result.kept.with_columns(pl.any_horizontal(test.fill_null(False) for test in tests).alias("__forgotten"))
    left_out = marked.filter("__forgotten").drop("__forgotten")
    if left_out.is_empty():
        return result, left_out
    remaining = replace(
        result,
        kept=marked.filter(~pl.col("__forgotten")).drop("__forgotten"),
        ignored=result.ignored + left_out.height,
        notices={**result.notices, FORGOTTEN: left_out.height},
    )
    return remaining, left_out


def _digest(column: str) -> pl.Expr:
    hashed: pl.Expr = pl.col(column).cast(pl.String).chash.sha2_256()  # type: ignore[attr-defined]
    return hashed.str.head(PSEUDONYM_LENGTH)
