"""A snapshot is compared with its table value by value, and differences are counted by feature."""

from datetime import timedelta
from pathlib import Path

import polars as pl

from ctr_pipeline.online.opened_snapshot import Snapshot
from ctr_pipeline.online.snapshot_writing import make_snapshot
from ctr_pipeline.online.store_layout import StoreLayout
from ctr_pipeline.online.table_comparison import compared_values
from ctr_pipeline_tests.features.pasts import EXACT, FIRST, SPEC, random_past

DAY = FIRST + timedelta(days=8)


def test_differences_are_found_in_numbers_items_and_kinds(tmp_path: Path) -> None:
    rows = random_past(5).history([DAY]).drop("day")
    opened = Snapshot.open(tmp_path, make_snapshot(tmp_path, SPEC, DAY, rows), StoreLayout.of(SPEC))
    stored = rows.filter(~pl.col("feature").is_in(EXACT))
    assert compared_values(opened, rows, 10_000, 0).differing == {}
    assert compared_values(opened, rows, 10_000, 0).compared == stored.height
    assert compared_values(opened, rows, 10, 0).compared <= 10
    name = pl.col("feature")
    value = pl.when(name == "seen").then(pl.col("value") + 1).otherwise("value")
    item = pl.when(name.is_in(["ads_top_1", "recent_2_event"])).then(pl.lit("other")).otherwise("item")
    found = compared_values(opened, rows.with_columns(value=value, item=item), 10_000, 0).differing
    counts = dict(rows["feature"].value_counts().iter_rows())
    assert found == {feature: counts[feature] for feature in ("ads_top_1", "recent_2_event", "seen")}
    gone = rows.with_columns(key=pl.lit("nobody"))
    assert sum(compared_values(opened, gone, 10_000, 0).differing.values()) == stored.height
