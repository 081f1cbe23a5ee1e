"""Servers of a day look up what training will join, and a check says when that has changed."""

from datetime import date

from ctr_pipeline.online.table_comparison import Comparison
from ctr_pipeline.orchestration.checks import check_results
from ctr_pipeline.orchestration.checks.feature_snapshot import SnapshotEvidence

DAY = date(2026, 3, 4)
GOOD = Comparison(100, {})


def results(**changes: object) -> dict[str, tuple[bool, str, str]]:
    evidence = SnapshotEvidence(**{"made": GOOD, "served": GOOD, "newest": DAY, "needed": DAY, **changes})  # type: ignore[arg-type]
    found = check_results("feature_snapshot", evidence)
    return {one.check_name: (one.passed, one.severity.value, one.description or "") for one in found}


def test_a_snapshot_like_its_table_passes() -> None:
    assert all(passed for passed, _, _ in results().values())
    assert all(passed for passed, _, _ in results(served=None).values())
    assert set(results()) == {"values_as_made", "values_as_served", "snapshot_of_today"}


def test_other_values_than_the_tables_are_an_error() -> None:
    passed, severity, text = results(made=Comparison(100, {"ad_rate": 3}))["values_as_made"]
    assert (passed, severity) == (False, "ERROR")
    assert "3 of ad_rate of 100" in text


def test_values_that_late_logs_changed_are_a_warning() -> None:
    passed, severity, text = results(served=Comparison(50, {"seen": 2, "ad_rate": 1}))["values_as_served"]
    assert (passed, severity) == (False, "WARN")
    assert "2 of seen, 1 of ad_rate" in text


def test_a_missing_day_is_a_warning() -> None:
    for newest in (None, date(2026, 3, 3)):
        passed, severity, text = results(newest=newest)["snapshot_of_today"]
        assert (passed, severity) == (False, "WARN")
        assert "2026-03-04" in text
