"""History is the same on DuckDB, Polars and Spark, to the bit: values, types and the order of the stored rows."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ctr_pipeline.engines.base import Engine
from ctr_pipeline.features import HISTORY_COLUMNS, HISTORY_ORDER, history_for_days, join_history
from ctr_pipeline.lake import Lake
from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline_tests.engine_sessions import Session, bits, collected
from ctr_pipeline_tests.features.pasts import FIRST, SPEC, SPEC_TEXT, random_past

DAYS = [FIRST + timedelta(days=number) for number in range(16)]
KEYS = {"u1": "", "u2": "é\n", "u3": "日本", "a": "", "b": "B", "c": "b"}
# Cases that time alone does not settle: another kind of cohort.
CASES = parse_spec(
    SPEC_TEXT.replace("{name: click, window: 20h, label: {event: click}}", "{name: click, window: 20h, label: "
                      "{time_column: clicked_at, closed_by: [closed_at]}}"),
    "cases.yaml",
)  # fmt: skip
# One feature of each kind: Spark takes seconds to plan each pair of key and task.
KINDS = ("ad_rate", "last_click", "seen", "age", "recent", "ads_top", "seen_before", "ads_before")
FEW = SPEC.model_copy(
    update={
        "features": SPEC.features.model_copy(
            update={
                "history": [
                    # Outcomes of one more task take as long again.
                    feature.model_copy(update={"events": ["impression", "click"]})
                    if feature.name == "recent"
                    else feature
                    for feature in SPEC.features.history
                    if feature.name in KINDS
                ]
            }
        )
    }
)


def lake_of(folder: Path, seed: int) -> Lake:
    """A past with keys that are empty, unicode or differ in case only, and numbers at their limits beside them."""
    past = random_past(seed, 500)
    shown = past.impressions().collect().with_columns(pl.col("user", "ad").replace(KEYS))
    edges = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), None, -1.5, 5e-324]
    shown = shown.with_columns(price=pl.Series((edges * shown.height)[: shown.height]))
    events = past.outcome_events().collect()
    # Twice, of no impression, and undecided or closed ones.
    more = [events[::5], events.head(3).with_columns(impression_id=pl.lit("orphan"))]
    more += [events[n::7].with_columns(kind=pl.lit(kind)) for n, kind in ((0, "closed"), (1, "unknown"))]
    events = pl.concat([events, *more]).with_columns(day=pl.from_epoch("ingest_ts", "us").dt.date())
    lake = Lake(folder)
    lake.replace_days("impressions", shown, shown["day"].unique().to_list())
    lake.replace_days("outcome_events", events, events["day"].unique().to_list())
    return lake


def history(engine: Engine, lake: Lake, spec: Spec, days: Sequence[date]) -> dict[str, pl.DataFrame]:
    """The stored table and what joining it to the impressions gives."""
    shown, events = engine.scan(lake, "impressions"), engine.scan(lake, "outcome_events")
    values = history_for_days(spec, shown, events, days)
    engine.replace_days(lake, engine.name, values, days, HISTORY_ORDER)
    joined = collected(join_history(spec, shown, engine.scan(lake, engine.name)))
    return {"history": bits(lake.scan(engine.name).collect()), "joined": bits(joined).sort("impression_id")}


def written(spec: Spec) -> set[str]:
    """What the column ``feature`` says: what is listed has a name for each place."""
    listed = {name for feature in spec.features.listing for name in feature.stored}
    return {f.name for f in spec.features.history if f not in spec.features.listing} | listed


def assert_same(found: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    for name, frame in found.items():
        assert frame.schema == expected[name].schema, name
        assert_frame_equal(frame, expected[name])


@pytest.mark.parametrize("spec", [SPEC, CASES], ids=["by time", "by closing"])
@pytest.mark.parametrize("seed", [1, 2])
def test_duckdb_and_polars_agree(tmp_path: Path, sessions: Session, seed: int, spec: Spec) -> None:
    assert CASES.tasks != SPEC.tasks
    lake = lake_of(tmp_path, seed)
    expected = history(sessions("polars"), lake, spec, DAYS)
    assert expected["history"].columns == list(HISTORY_COLUMNS)
    assert set(expected["history"]["feature"]) == written(spec)
    assert "" in expected["history"]["key"]
    assert_same(history(sessions("duckdb"), lake, spec, DAYS), expected)


def test_spark_agrees(tmp_path: Path, sessions: Session) -> None:
    lake = lake_of(tmp_path, 3)
    expected = history(sessions("polars"), lake, FEW, DAYS[6:10])
    assert expected["history"].select("day", "feature").n_unique() == 4 * len(written(FEW))
    assert_same(history(sessions("spark"), lake, FEW, DAYS[6:10]), expected)


@pytest.mark.nightly
@pytest.mark.parametrize("spec", [SPEC, CASES], ids=["by time", "by closing"])
def test_spark_agrees_on_all_features(tmp_path: Path, sessions: Session, spec: Spec) -> None:
    lake, days = lake_of(tmp_path, 4), DAYS[5:9]
    assert_same(history(sessions("spark"), lake, spec, days), history(sessions("polars"), lake, spec, days))
