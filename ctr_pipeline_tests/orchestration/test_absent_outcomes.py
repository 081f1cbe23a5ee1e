"""A task whose event never occurs is refused before training, by a message that names what does occur."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.lake import Lake
from ctr_pipeline.orchestration.absent_outcomes import AbsentOutcomesError, absent_text, require_outcomes
from ctr_pipeline.orchestration.build import build_definitions
from ctr_pipeline.orchestration.in_process import run_days

FIRST, LAST = date(2026, 3, 1), date(2026, 3, 9)
FILES = {"actions": ["a.parquet", "b.parquet"]}
DAYS = [date(2026, 1, n) for n in (1, 2, 3)]
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("absent", "types", "words"),
    [
        (
            {"buy": "order"},
            {"click": 9, "Order": 4, "view": 20},
            (
                "task buy: its event `order` does not occur from 2026-03-01 to 2026-03-09 in event log `actions` (files: "
                "a.parquet, b.parquet)",
                "Did you mean `Order`?",
                "Types found, with their events: `view` 20, `click` 9, `Order` 4. Correct",
            ),
        ),
        ({"buy": "order"}, {}, ("negative. Correct `tasks[].label.event`",)),
        ({"buy": "order"}, {"": 30}, ("negative. Correct `tasks[].label.event`",)),
        ({"buy": "order"}, {"zap": 3, "": 30}, ("`zap` 3 and 30 events of other types.",)),
        ({"buy": "order", "like": "likes"}, {"like": 3}, ("task buy: its", "task like: its", "Did you mean `like`?")),
        ({"buy": "order"}, {f"type{n:02}": n + 1 for n in range(30)}, ("`type10` 11 and 55 events of other types.",)),
    ],
    ids=["another spelling", "no types known", "no types named", "some named", "two tasks", "many types"],
)
def test_the_message_names_what_there_is(
    absent: Mapping[str, str], types: Mapping[str, int], words: tuple[str, ...]
) -> None:
    text = absent_text(absent, FILES, {FIRST: types}, FIRST, LAST)
    for word in words:
        assert word in text


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """Clicks on each day, and orders on the last one."""
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef")
    times = [START + timedelta(hours=0.8) * n for n in range(90)]
    pl.DataFrame({"id": [f"i{n}" for n in range(90)], "time": times, "price": 1.0}).write_parquet(
        tmp_path / "log.parquet"
    )
    kinds = ["order" if n == 80 else "Like" if n % 5 == 0 else "click" for n in range(90)]
    pl.DataFrame({"impression_id": [f"i{n}" for n in range(90)], "event_type": kinds, "event_ts": times}).write_parquet(
        tmp_path / "events.parquet"
    )
    names = ("click", "order", "like")
    spec = {
        "version": 1,
        "name": "shop",
        "days": {"first": DAYS[0], "last": DAYS[-1]},
        "source": {"impressions": {"paths": ["log.parquet"]}, "events": [{"paths": ["events.parquet"]}]},
        "impression": {"id": "id", "time": "time"},
        "features": {"dense": [{"name": "price"}]},
        "tasks": [{"name": name, "window": "1h", "label": {"event": name}} for name in names],
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    where = {"CTR_SPEC": str(tmp_path / "spec.yaml"), "CTR_DATA_ROOT": str(tmp_path / "data")}
    return Deployment.from_environment(Environment.of(where))


def test_only_events_up_to_the_last_day_are_outcomes(settings: Deployment) -> None:
    with dg.instance_for_test() as instance:
        for days in (DAYS[:2], DAYS[2:]):  # what was recorded of days that were read before counts too
            run_days(build_definitions(settings), instance, "daily_ingest", ("outcome_events",), days)
        store = Lake(settings.paths.lake)
        with pytest.raises(AbsentOutcomesError) as whole:
            require_outcomes(instance, settings, store, DAYS[2])
        with pytest.raises(AbsentOutcomesError) as earlier:
            require_outcomes(instance, settings, store, DAYS[1])
    assert "task order" not in str(whole.value)
    assert "task like: its event `like` does not occur from 2026-01-01 to 2026-01-03" in str(whole.value)
    assert "Did you mean `Like`? Types found, with their events: `click` 72, `Like` 17, `order` 1." in str(whole.value)
    assert "task order: its event `order` does not occur from 2026-01-01 to 2026-01-02" in str(earlier.value)
    assert "(files: events.parquet)" in str(earlier.value)


def test_tasks_without_events_are_not_asked(settings: Deployment, tmp_path: Path) -> None:
    tasks = [
        task.model_copy(update={"label": task.label.model_copy(update={"event": None})}) for task in settings.spec.tasks
    ]
    flags = settings.spec.model_copy(update={"tasks": tasks})
    with dg.instance_for_test() as instance:
        require_outcomes(instance, replace(settings, spec=flags), Lake(tmp_path / "no lake"), DAYS[2])
