"""The checks that forbid a promotion are those of the retrain's own day."""

from collections.abc import Iterator

import dagster as dg
import pytest

from ctr_pipeline.orchestration.checks.newest import errors_of_day
from ctr_pipeline.orchestration.gates import errors_before

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-01-10")
SPECS = [dg.AssetCheckSpec("norm_ratio", asset="ranker"), dg.AssetCheckSpec("dead_units", asset="ranker")]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        yield found


def train(instance: dg.DagsterInstance, day: str, *, error: bool = False, stops: bool = False) -> None:
    """Materialises a stand-in for the ranker; one that ``stops`` has evaluated its checks and made nothing."""

    @dg.asset(partitions_def=DAYS, check_specs=SPECS)
    def ranker(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        results = [
            dg.AssetCheckResult(
                passed=not error, check_name="norm_ratio", asset_key="ranker", severity=dg.AssetCheckSeverity.ERROR,
                description=f"{context.partition_key}: 205 times its median",
            ),
            dg.AssetCheckResult(
                passed=False, check_name="dead_units", asset_key="ranker", severity=dg.AssetCheckSeverity.WARN
            ),
        ]  # fmt: skip
        if stops:
            yield from results
            raise dg.Failure("stopped")
        yield dg.MaterializeResult(check_results=results)

    dg.materialize([ranker], instance=instance, partition_key=day, raise_on_error=False)


def test_an_error_of_the_day_counts_and_a_warning_does_not(instance: dg.DagsterInstance) -> None:
    train(instance, "2026-01-02", error=True)
    assert errors_of_day(instance, "2026-01-02", ["ranker", "evaluation"]) == {
        "ranker.norm_ratio": "2026-01-02: 205 times its median"
    }
    [sentence] = errors_before(instance, "2026-01-02", "evaluation")
    assert sentence == "The check ranker.norm_ratio has an error: 2026-01-02: 205 times its median"
    assert errors_before(instance, "2026-01-02", "ranker") == []


def test_a_later_training_of_another_day_neither_hides_an_error_nor_adds_one(instance: dg.DagsterInstance) -> None:
    train(instance, "2026-01-02", error=True)
    train(instance, "2026-01-03")
    assert set(errors_of_day(instance, "2026-01-02", ["ranker"])) == {"ranker.norm_ratio"}
    train(instance, "2026-01-04", error=True)
    assert errors_of_day(instance, "2026-01-03", ["ranker"]) == {}


def test_the_newest_training_of_the_day_decides(instance: dg.DagsterInstance) -> None:
    train(instance, "2026-01-02", error=True)
    train(instance, "2026-01-02")
    assert errors_of_day(instance, "2026-01-02", ["ranker"]) == {}
    # One that made nothing changes nothing of what is there.
    train(instance, "2026-01-02", error=True, stops=True)
    assert errors_of_day(instance, "2026-01-02", ["ranker"]) == {}
