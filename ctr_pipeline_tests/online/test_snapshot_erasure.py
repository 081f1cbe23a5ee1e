"""A forgotten user is in no snapshot: neither under a key, nor among what another key met."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl

from ctr_pipeline.online.feature_store import FeatureStore
from ctr_pipeline.online.snapshot_erasure import erase_from_snapshots
from ctr_pipeline.online.snapshot_index import listed
from ctr_pipeline.online.snapshot_writing import make_snapshot
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.features.pasts import FIRST, SPEC_TEXT, start

ADDED = """    - {name: visitors, kind: sequence, key: ad, item: visitor, length: 3, days: 4}
tasks:"""
TEXT = SPEC_TEXT.replace("{name: ad}]", "{name: ad}, {name: visitor, column: u}]").replace("tasks:", ADDED)
SPEC = parse_spec(TEXT, "small.yaml")
COLUMNS = ["user", "visitor"]
ANNA, BEN, CLEO = (letter * 32 for letter in "abc")
DAY = FIRST + timedelta(days=3)


def history() -> pl.DataFrame:
    rows = [
        ("seen", ANNA, 3.0, None),
        ("seen", BEN, 2.0, None),
        ("ads_top_1", ANNA, 1.0, "ad1"),
        # An ad that is called as a user's hash is not the user.
        ("ad_rate", ANNA, 0.25, None),
        ("visitors_1", "ad1", 30.0, BEN),
        ("visitors_2", "ad1", 20.0, ANNA),
        ("visitors_3", "ad1", 10.0, CLEO),
        ("visitors_1", "ad2", 30.0, ANNA),
    ]
    return pl.DataFrame(rows, schema=["feature", "key", "value", "item"], orient="row")


def test_the_user_is_gone_and_the_others_stay(tmp_path: Path) -> None:
    made = make_snapshot(tmp_path, SPEC, DAY, history())
    other = make_snapshot(tmp_path, SPEC, FIRST, history().filter(pl.col("key") == BEN))
    (tmp_path / ".partial.9").mkdir()
    (tmp_path / ".partial.9" / "data.mdb").write_text(ANNA)
    store, now = FeatureStore(tmp_path, SPEC), np.array([start(DAY)] * 2)
    assert store.look_up("user", [ANNA, BEN], now.tolist(), ["seen"]).columns["seen"] == [3.0, 2.0]
    assert erase_from_snapshots(tmp_path, SPEC, COLUMNS, ANNA) == [DAY.isoformat()]
    store.refresh()
    # As ads may be called so, the hash is looked for as the key of a user.
    found = store.look_up("user", [ANNA, BEN], now.tolist(), ["seen", "ads_top"])
    assert found.columns == {"seen": [0.0, 2.0], "ads_top": [[], []]}
    names = [f"visitors_{place}" for place in (1, 2, 3)]
    visitors = store.look_up("ad", ["ad1", "ad2"], now.tolist(), [*names, "visitors_3_age"]).columns
    assert [visitors[name] for name in names] == [[BEN, None], [None, None], [CLEO, None]]
    assert visitors["visitors_3_age"] == [(start(DAY) - 10.0) * 1e-6, None]
    assert store.look_up("ad", [ANNA], now[:1].tolist(), ["ad_rate"]).columns["ad_rate"] == [0.25]
    facts = {one.day: one for one in listed(tmp_path)}
    assert facts[FIRST] == other
    assert facts[DAY].id != made.id
    assert facts[DAY].keys == made.keys - 1
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {one.id for one in facts.values()}
    assert erase_from_snapshots(tmp_path, SPEC, COLUMNS, ANNA) == []


def test_no_byte_of_the_user_is_left_and_other_definitions_are_searched_too(tmp_path: Path) -> None:
    rows = history().filter(pl.col("feature") != "ad_rate")
    make_snapshot(tmp_path, SPEC, DAY, rows)
    changed = parse_spec(TEXT.replace("name: seen, kind: count, key: user, days: 4", "name: seen, kind: count, key: user, days: 5"), "t")  # fmt: skip
    assert erase_from_snapshots(tmp_path, changed, COLUMNS, ANNA) == [DAY.isoformat()]
    assert all(ANNA.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert any(BEN.encode() in path.read_bytes() for path in tmp_path.rglob("*.mdb"))


def test_without_snapshots_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert erase_from_snapshots(tmp_path / "online", SPEC, COLUMNS, ANNA) == []
