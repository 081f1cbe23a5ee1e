"""Codes of what rows belong to: their cluster for resampling, their group for ranking."""

import polars as pl
import polars_hash as plh

from ctr_pipeline.spec import Spec


def key_column(key: str, stored: str) -> str:
    """The column of the table `impressions` that holds a key which the spec names; ``stored`` for one of the log."""
    return key if key in ("user", "session") else stored


def cluster(spec: Spec) -> pl.Expr:
    """The declared key; without one the user or, where that is missing, the session."""
    if spec.evaluation.cluster_by is not None:
        return pl.col(key_column(spec.evaluation.cluster_by, "cluster_key"))
    return pl.coalesce(pl.col("user").cast(pl.String), pl.col("session").cast(pl.String))


def code(column: str) -> pl.Expr:
    """Non-negative code of a text; -1 where it is missing."""
    hashed: pl.Expr = plh.col(column).nchash.xxhash64(seed=0)
    return (hashed & pl.lit(2**63 - 1, dtype=pl.UInt64)).cast(pl.Int64).fill_null(-1)
