"""Outcomes shortly before their impression count within `source.max_early`, also across a midnight."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.lake import Lake
from ctr_pipeline.orchestration.build import build_definitions
from ctr_pipeline.orchestration.in_process import run_days
from ctr_pipeline.orchestration.stages import stage

DAYS = [date(2026, 1, n) for n in (1, 2, 3)]
SECOND = timedelta(seconds=1)
MIDNIGHT = datetime(2026, 1, 2, tzinfo=UTC)
SHOWN = [MIDNIGHT + n * timedelta(hours=4) for n in range(6)]
LEAD = [2 * SECOND, 5 * SECOND, 6 * SECOND, -SECOND, 0 * SECOND, timedelta(hours=2)]
"""How long each event comes before its impression: the first one on the day before."""


@pytest.mark.parametrize(
    ("tolerance", "counting"), [("0s", [3, 4]), ("1s", [3, 4]), ("5s", [0, 1, 3, 4]), ("1d", [0, 1, 2, 3, 4, 5])]
)
def test_early_outcomes_count_within_the_tolerance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerance: str, counting: list[int]
) -> None:
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef")
    ids = [f"i{n}" for n in range(6)]
    pl.DataFrame({"id": ids, "time": SHOWN, "price": 1.0}).write_parquet(tmp_path / "log.parquet")
    happened = [shown - lead for shown, lead in zip(SHOWN, LEAD, strict=True)]
    pl.DataFrame({"impression_id": ids, "event_type": "click", "event_ts": happened}).write_parquet(
        tmp_path / "events.parquet"
    )
    spec = {
        "version": 1,
        "name": "shop",
        "days": {"first": DAYS[0], "last": DAYS[-1]},
        "source": {
            "impressions": {"paths": ["log.parquet"]},
            "events": [{"paths": ["events.parquet"]}],
            "max_early": tolerance,
        },
        "impression": {"id": "id", "time": "time"},
        "features": {"dense": [{"name": "price"}]},
        "tasks": [{"name": "click", "window": "1h", "label": {"event": "click"}}],
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    where = {"CTR_SPEC": str(tmp_path / "spec.yaml"), "CTR_DATA_ROOT": str(tmp_path / "data")}
    settings = Deployment.from_environment(Environment.of(where))
    definitions = build_definitions(settings)
    with dg.instance_for_test() as instance:
        run_days(definitions, instance, stage("impressions").job, ("impressions", "outcome_events"), DAYS)
        # Of this day alone: what arrived the day before is read because of the tolerance.
        run_days(definitions, instance, stage("labels").job, ("labels",), [DAYS[1]])
    facts = Lake(settings.paths.lake).scan("labels").filter(pl.col("known_ts").is_not_null()).collect()
    expected = [int(SHOWN[n].timestamp()) * 1_000_000 for n in counting]
    assert sorted(facts["ts"]) == expected
    late = int((SHOWN[3] + SECOND).timestamp()) * 1_000_000
    assert sorted(facts["event_ts"]) == [late if n == 3 else ts for n, ts in zip(counting, expected, strict=True)]
