"""Events that name no impression, in the ingest: stored alike however their days are read, counted, and refused."""

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
from ctr_pipeline.orchestration.checks.touches import TouchEvidence, check_touches
from ctr_pipeline.orchestration.in_process import PipelineError, run_days
from ctr_pipeline.orchestration.records import newest_metadata
from ctr_pipeline.spec.source import EventLog

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = [date(2026, 1, n) for n in (1, 2, 3)]
ORDERS = {
    "name": "orders",
    "paths": ["orders"],
    "impression_id": None,
    "attribute": {"by": {"user": "customer", "item": "sku"}, "within": "1d"},
    "type": "what",
    "time": "at",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty impressions of three users and two items in three days; each of some orders follows one by 30 h at most."""
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef")
    spec = {
        "version": 1,
        "name": "shop",
        "days": {"first": DAYS[0], "last": DAYS[-1]},
        "source": {"impressions": {"paths": ["shown"]}, "events": [ORDERS]},
        "impression": {"id": "id", "time": "time", "user": "user"},
        "features": {"categorical": [{"name": "item"}]},
        "tasks": [{"name": "order", "window": "1d", "label": {"event": "order"}}],
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    write_impressions(tmp_path / "shown" / "a.parquet", [n for n in range(60) if n != 36])
    orders = [(n, 0.5 * (n % 7) * 10) for n in range(0, 50, 3)]
    (tmp_path / "orders").mkdir()
    times = [START + timedelta(hours=1.2 * n + later) for n, later in orders]
    pl.DataFrame(
        {
            "customer": [f"u{n % 3}" for n, _ in orders] + [None],
            "sku": [n % 2 for n, _ in orders] + [0],
            "at": [*times, START],
            "what": "order",
        }
    ).write_parquet(tmp_path / "orders" / "a.parquet")
    return tmp_path


def write_impressions(path: Path, numbers: list[int]) -> None:
    path.parent.mkdir(exist_ok=True)
    pl.DataFrame(
        {
            "id": [f"i{n}" for n in numbers],
            "time": [START + timedelta(hours=1.2) * n for n in numbers],
            "user": [f"u{n % 3}" for n in numbers],
            "item": [n % 2 for n in numbers],
        }
    ).write_parquet(path)


def stored(folder: Path, name: str, *steps: list[date]) -> pl.DataFrame:
    """What is stored under a data root when the days are read in ``steps``."""
    where = {"CTR_SPEC": str(folder / "spec.yaml"), "CTR_DATA_ROOT": str(folder / name)}
    settings = Deployment.from_environment(Environment.of(where))
    with dg.instance_for_test() as instance:
        for days in steps:
            run_days(build_definitions(settings), instance, "daily_ingest", ("impressions", "outcome_events"), days)
        found = newest_metadata(instance, "outcome_events")[DAYS[-1]]
    assert found["attribution/orders"]["events"] == sum(
        found["attribution/orders"][fate] for fate in ("attributed", "unattributed", "without_key")
    )
    assert any(text.startswith("event log orders: ") for text in found["remarks"])
    return Lake(settings.paths.lake).scan("outcome_events").collect()


def test_days_read_apart_and_late_impressions_give_the_same(folder: Path) -> None:
    together = stored(folder, "data", DAYS)
    assert 5 < together.height < 17
    assert stored(folder, "apart", DAYS[:1], DAYS[1:]).equals(together)
    write_impressions(folder / "shown" / "b.parquet", [36])
    again = stored(folder, "data", DAYS)
    assert not again.equals(together)
    assert stored(folder, "from_scratch", DAYS).equals(again)


def test_orders_of_other_users_are_refused(folder: Path) -> None:
    path = folder / "orders" / "a.parquet"
    pl.read_parquet(path).with_columns(customer=pl.lit("someone")).write_parquet(path)
    with pytest.raises(PipelineError, match=r"outcome_events refused.*`sku` with `item`, `customer` with `user`"):
        stored(folder, "refused", DAYS)


@pytest.mark.parametrize(
    ("fates", "passed"),
    [({"unattributed": 9}, True), ({"unattributed": 10}, False), ({"unattributed": 999, "ambiguous": 1}, True)],
)
def test_a_log_is_refused_when_no_event_has_an_impression(fates: dict[str, int], passed: bool) -> None:
    found = TouchEvidence(log=EventLog.model_validate(ORDERS), fates=fates)
    result = check_touches([found])
    assert (result.passed, result.error) == (passed, True)
    assert result.metadata["orders/attributed"] == fates.get("ambiguous", 0)
