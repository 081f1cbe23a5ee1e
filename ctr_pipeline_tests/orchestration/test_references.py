"""The asset `event_references` on a real Dagster instance: a few warn, too many refuse, a log's start is spared."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.deployment.raw_logs import list_logs
from ctr_pipeline.lake import Lake
from ctr_pipeline.orchestration.assets.references import REFERENCES
from ctr_pipeline.orchestration.build import build_definitions
from ctr_pipeline.orchestration.checks.contracts import (
    IngestEvidence,
    ReferenceEvidence,
    References,
    Share,
    check_event_references,
    check_quarantine_share,
    check_rows_conserved,
)
from ctr_pipeline.orchestration.in_process import PipelineError, run_days
from ctr_pipeline.sources import Pseudonymiser, read_events, read_impressions

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = [date(2026, 1, n) for n in range(1, 9)]
A_DAY = 300
Maker = Callable[..., Deployment]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """A log of eight days, 300 impressions each, and an event an hour after every third of them."""
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef")

    def make(events: Callable[[pl.DataFrame], pl.DataFrame]) -> Deployment:
        step = timedelta(days=1) / A_DAY
        shown = pl.DataFrame(
            {
                "id": [f"i{n}" for n in range(A_DAY * len(DAYS))],
                "time": [START + n * step for n in range(A_DAY * len(DAYS))],
            }
        )
        happened = shown.gather_every(3).select(
            impression_id="id", event_type=pl.lit("click"), event_ts=pl.col("time") + timedelta(hours=1)
        )
        shown.with_columns(price=1.0).write_parquet(tmp_path / "shown.parquet")
        events(happened).write_parquet(tmp_path / "events.parquet")
        spec = {
            "version": 1,
            "name": "shop",
            "days": {"first": DAYS[0], "last": DAYS[-1]},
            "source": {"impressions": {"paths": ["shown.parquet"]}, "events": [{"paths": ["events.parquet"]}]},
            "impression": {"id": "id", "time": "time"},
            "features": {"dense": [{"name": "price"}]},
            "tasks": [{"name": "click", "window": "2d", "label": {"event": "click"}}],
        }
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
        where = {"CTR_SPEC": str(tmp_path / "spec.yaml"), "CTR_DATA_ROOT": str(tmp_path / "data")}
        settings = Deployment.from_environment(Environment.of(where))
        ingest(settings)
        return settings

    return make


def ingest(settings: Deployment) -> None:
    """Stores what the raw tables would hold."""
    key, days = Pseudonymiser(b"0123456789abcdef"), (DAYS[0], DAYS[-1])
    shown = read_impressions(settings.spec, list_logs(settings).impressions.files, *days, key, DAYS[0])
    happened = read_events(
        settings.spec,
        [],
        {name: found.files for name, found in list_logs(settings).events.items()},
        *days,
        key,
        DAYS[0],
    )
    Lake(settings.paths.lake).replace_days("impressions", shown.kept, DAYS)
    Lake(settings.paths.lake).replace_days("outcome_events", happened.kept, DAYS)


def outcome(settings: Deployment, instance: dg.DagsterInstance, days: list[date] = DAYS) -> Any:
    """Checks the references of ``days``, and gives the check."""
    try:
        run_days(build_definitions(settings), instance, "daily_ingest", (REFERENCES,), days)
    finally:
        entries = instance.all_logs(
            instance.get_runs(limit=1)[0].run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        )
        checks = [entry.dagster_event.asset_check_evaluation_data for entry in entries if entry.dagster_event]
    return checks[0]


def stored(settings: Deployment) -> pl.DataFrame:
    return Lake(settings.paths.lake).scan("event_references_quarantine").collect()


def orphaned(rows: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Events whose id no impression has, where ``rows`` (of the row number) holds."""
    number = pl.int_range(pl.len())
    return lambda events: events.with_columns(
        impression_id=pl.when(rows).then(pl.format("nobody-{}", number)).otherwise("impression_id")
    )


NUMBER = pl.int_range(pl.len())


def test_events_in_order_pass_and_those_of_old_impressions_are_none_of_orphans(shop: Maker) -> None:
    """A click a week after its impression is far out of its window, but its impression is known."""
    late = pl.when(NUMBER == 5).then(timedelta(days=6)).otherwise(timedelta())
    settings = shop(lambda events: events.with_columns(event_ts=pl.col("event_ts") + late))
    with dg.instance_for_test() as instance:
        check = outcome(settings, instance)
        assert check.passed
        assert check.metadata["events"].value == 796  # the last four events come after the last day
        assert instance.get_materialized_partitions(dg.AssetKey(REFERENCES)) == {str(day) for day in DAYS}
    assert stored(settings).is_empty()


def test_a_few_warn_and_are_listed(shop: Maker) -> None:
    early = pl.when(NUMBER == 450).then(timedelta(hours=-2)).otherwise(timedelta())
    lost = orphaned(NUMBER.is_in([310, 590]))
    settings = shop(lambda events: lost(events.with_columns(event_ts=pl.col("event_ts") + early)))
    with dg.instance_for_test() as instance:
        check = outcome(settings, instance)
        assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "2 have no impression in the log (2 of them late enough to need one there) and 1 come before" in str(
            check.description
        )
        assert instance.get_materialized_partitions(dg.AssetKey(REFERENCES)) == {str(day) for day in DAYS}
    assert stored(settings).select("source_file", "source_row", "reason", "value").sort("source_row").rows() == [
        ("events.parquet", 310, "orphan_event", None),
        ("events.parquet", 450, "event_before_impression", None),
        ("events.parquet", 590, "orphan_event", None),
    ]
    assert "nobody" not in stored(settings).write_ndjson()


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (orphaned((NUMBER >= 400) & (NUMBER < 410)), "quality.max_orphan_share = 1.00%: 2026-01-05 10 of 100"),
        (orphaned(NUMBER % 40 == 0), "quality.max_orphan_share = 1.00%: all days together 15 of 600"),
        (
            lambda events: events.with_columns(event_ts=pl.col("event_ts") - timedelta(hours=2)),
            "quality.max_quarantine_share = 1.00%: 2026-01-01 ",
        ),
    ],
    ids=["one day", "a little every day", "another time zone"],
)
def test_too_many_refuse_before_anything_counts_as_made(
    shop: Maker, events: Callable[[pl.DataFrame], pl.DataFrame], words: str
) -> None:
    settings = shop(events)
    with dg.instance_for_test() as instance:
        for _ in range(2):
            with pytest.raises(PipelineError) as caught:
                outcome(settings, instance)
            assert "event_references: event_references: Of " in str(caught.value)
            assert words in str(caught.value)
        assert instance.get_materialized_partitions(dg.AssetKey(REFERENCES)) == set()
    assert stored(settings).height >= 10  # for those who want to look


def test_the_first_days_of_a_log_are_listed_and_not_evaluated(shop: Maker) -> None:
    """A log that starts in the middle of things: all events of its first two days are of older impressions."""
    settings = shop(orphaned(NUMBER < 190))
    with dg.instance_for_test() as instance:
        check = outcome(settings, instance)
        assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert check.metadata["orphan_event"].value == 190
        assert check.metadata["orphan_event_evaluated"].value == 0
    assert stored(settings).height == 190


def test_days_one_by_one_find_what_they_find_together(shop: Maker) -> None:
    settings = shop(orphaned(NUMBER.is_in([310, 590])))
    with dg.instance_for_test() as instance:
        outcome(settings, instance)
        together = stored(settings)
        for day in (DAYS[3], DAYS[5]):
            Lake(settings.paths.lake).replace_days("event_references_quarantine", together.clear(), [day])
            outcome(settings, instance, [day])
    assert stored(settings).equals(together)
    assert together["source_row"].to_list() == [310, 590]


def evidence(days: dict[date, References]) -> ReferenceEvidence:
    return ReferenceEvidence(table=REFERENCES, days=days, max_orphan_share=0.01, max_early_share=0.01)


def day(broken: int, of: int) -> Share:
    return Share(broken, of)


def test_few_rows_warn_and_many_days_of_them_are_too_many() -> None:
    def severity(days: dict[date, Share]) -> str:
        found = {d: References(early=Share(0, s.of), orphans=s, evaluated=s) for d, s in days.items()}
        return "ERROR" if check_event_references(evidence(found)).error else "WARN"

    assert severity({DAYS[0]: day(4, 20)}) == "WARN"
    assert severity({DAYS[0]: day(5, 20)}) == "ERROR"
    assert severity({DAYS[0]: day(5, 500)}) == "WARN"
    assert severity({d: day(4, 20) for d in DAYS}) == "ERROR"
    assert check_event_references(evidence({})).passed


def test_rows_without_a_day_are_evaluated_among_all_rows_of_the_log() -> None:
    """They are counted with the first day, which is no worse for it."""
    rows = dict.fromkeys(DAYS, 1000)
    result = check_quarantine_share(ingested({**rows, DAYS[0]: 1050}, 50, "bad_time", day(50, 8050)))
    assert (result.passed, result.error) == (False, False)
    many = check_quarantine_share(ingested({**rows, DAYS[0]: 1100}, 100, "bad_time", day(100, 8100)))
    assert many.error
    assert "rows without a day 100 of 8100" in str(many.description)
    dated = check_quarantine_share(ingested(rows, 11, "bad_label", day(0, 8000)))
    assert dated.error


@pytest.mark.parametrize(
    ("outcomes", "error", "words"),
    [
        ({}, False, ""),
        ({DAYS[0]: day(16, 100)}, True, "2026-01-01 16 of 100"),
        ({DAYS[0]: day(5, 400)}, True, "2026-01-01 5 of 400"),
        ({DAYS[0]: day(5, 500)}, False, ""),
        ({DAYS[0]: day(4, 20)}, False, ""),
        ({d: day(2, 20) for d in DAYS}, True, "all days together 16 of 160"),
    ],
    ids=["no outcomes", "many", "just above", "at the limit", "too few to count", "a few on every day"],
)
def test_quarantined_outcomes_are_evaluated_among_outcomes(
    outcomes: dict[date, Share], error: bool, words: str
) -> None:
    """The rows alone are far below the limit: 16 of 80,000."""
    found = ingested(dict.fromkeys(DAYS, 10_000), 16, "bad_label", day(0, 80_000))
    result = check_quarantine_share(replace(found, outcomes=outcomes))
    assert (result.passed, result.error) == (False, error)
    assert words in str(result.description)
    assert ("state an outcome" in str(result.description)) == error


@pytest.mark.parametrize(("kept", "lost"), [(20, 0), (19, 1), (21, -1)])
def test_rows_and_what_they_stand_for_are_conserved(kept: int, lost: int) -> None:
    """12 rows: 2 quarantined, 3 filtered, 1 ignored, and 6 that stand for 20 impressions."""
    found = ingested({DAYS[0]: 12}, 2, "bad_count", Share(0, 12))
    counted = replace(found, kept={DAYS[0]: kept}, filtered={DAYS[0]: 3}, added={DAYS[0]: 14}, ignored=1)
    result = check_rows_conserved(counted)
    assert (result.passed, result.error) == (lost == 0, True)
    assert (result.metadata["filtered"], result.metadata["impressions_added"]) == (3, 14)


def ingested(rows_in: dict[date, int], quarantined: int, reason: str, undated: Share) -> IngestEvidence:
    """A log with quarantined rows on its first day."""
    return IngestEvidence(
        table="impressions",
        rows_in=rows_in,
        kept={},
        quarantined={DAYS[0]: quarantined},
        reasons={reason: quarantined},
        total=sum(rows_in.values()),
        ignored=0,
        undated=undated,
        max_quarantine_share=0.01,
    )
