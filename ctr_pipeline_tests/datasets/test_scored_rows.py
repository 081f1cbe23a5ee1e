"""The impressions behind the packed rows: in their order, with their keys, and none others."""

import numpy as np
import polars as pl
import polars_hash as plh
import pytest

from ctr_pipeline.datasets import DatasetError, PackedDataset
from ctr_pipeline.datasets.scored_rows import row_keys, scored_rows
from ctr_pipeline_tests.datasets.logs import Log, a_spec


@pytest.mark.parametrize("split", ["validation", "calibration", "test"])
def test_rows_are_those_that_were_packed(log: Log, packed: PackedDataset, split: str) -> None:
    rows, bounds = packed.splits[split], log.bounds(a_spec())
    pieces = list(scored_rows(bounds, split, log.impressions.lazy(), rows.ts))
    assert [at.start for at, _ in pieces[1:]] == [at.stop for at, _ in pieces[:-1]]
    found = pl.concat([frame for _, frame in pieces])
    assert found.height == len(rows)
    assert all(frame["day"].n_unique() == 1 for _, frame in pieces)
    of = log.impressions.select("impression_id", "position", "user", "session")
    joined = found.select("impression_id", "ts", code="user").join(
        of, on="impression_id", how="left", maintain_order="left"
    )
    assert np.array_equal(joined["ts"].to_numpy(), rows.ts)
    assert np.array_equal(joined["position"].fill_null(0).to_numpy(), rows.position)
    # Where a row has a user, the packed cluster is that user.
    known = joined["user"].is_not_null().to_numpy()
    assert known.any()
    assert np.array_equal(joined["code"].to_numpy()[known], rows.user[known])
    keys = row_keys(bounds, split, log.impressions.lazy(), rows.ts)
    sessions = joined.select(
        plh.col("session").nchash.xxhash64(seed=0) & pl.lit(2**63 - 1, dtype=pl.UInt64)
    ).to_series()
    assert np.array_equal(keys["session"], sessions.cast(pl.Int64).fill_null(-1).to_numpy())


def test_a_key_that_no_row_has_is_left_out(log: Log, packed: PackedDataset) -> None:
    without = log.impressions.with_columns(session=pl.lit(None, dtype=pl.String))
    assert set(row_keys(log.bounds(a_spec()), "test", without.lazy(), packed.splits["test"].ts)) == {"user"}


def test_other_impressions_are_refused(log: Log, packed: PackedDataset) -> None:
    ts, bounds = packed.splits["test"].ts, log.bounds(a_spec())
    with pytest.raises(DatasetError, match="split test: its impressions are not those"):
        list(scored_rows(bounds, "test", log.impressions.lazy(), ts[1:]))
    moved = ts.copy()
    moved[0] += 1
    with pytest.raises(DatasetError, match="Materialise `examples`"):
        list(scored_rows(bounds, "test", log.impressions.lazy(), moved))
