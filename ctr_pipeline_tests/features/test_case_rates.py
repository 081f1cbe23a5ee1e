"""Rates of an outcome that a case must be closed without, before its absence says anything."""

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.features import history_for_days
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.features.leaks import LEAKS, LeakError, Log, assert_future_invariant
from ctr_pipeline_tests.features.pasts import DAY, FIRST, SPEC_TEXT, random_past, start
from ctr_pipeline_tests.labels.naive import Event, Story, World, answers_as_of, maturities, replay

HOUR = DAY // 24
HEAD = SPEC_TEXT[: SPEC_TEXT.index("    - {name: ad_rate,")]
# Without the model, which reads lists that are no part of this history.
REST = SPEC_TEXT[SPEC_TEXT.index("tasks:") : SPEC_TEXT.index("model:")]
SPEC = parse_spec(
    f"""{HEAD}
    - {{name: daily, kind: rate, key: ad, task: buy, days: 3, smoothing: 5}}
    - {{name: exact, kind: rate, key: ad, task: buy, days: 3, smoothing: 5, exact: true}}
{REST.replace("label: {event: buy}", "label: {time_column: sold_at, closed_by: [closed_at]}")}""",
    "cases.yaml",
)
TASKS, LAG = SPEC.tasks, SPEC.split.ingest_lag
LAG_DAYS = 3  # 20 h + 30 h + 3 h


def a_log(seed: int) -> Log:
    """A random past in which half of the cases are closed, some long after their windows."""
    past, pick = random_past(seed, 260), random.Random(seed)
    closed = []
    for row in past.rows:
        if pick.random() < 0.5:
            at = row.ts + pick.choice([0, 30 * HOUR, 53 * HOUR, 53 * HOUR + 1, 5 * DAY]) + pick.choice([0, HOUR])
            closed.append((row.name, "buy", "closed", at, at + pick.choice([0, 0, HOUR, 2 * DAY])))
    outcomes = past.outcome_events().collect()
    closings = pl.DataFrame(closed, schema=["impression_id", "event", "kind", "event_ts", "ingest_ts"], orient="row")
    return Log(past.impressions().collect(), pl.concat([outcomes, closings.select(outcomes.columns)]))


def history(log: Log, instant: int, backfill: int) -> pl.DataFrame:
    """The values of the day that begins at the instant and of the days after it, computed together."""
    day = FIRST + timedelta(days=(instant - start(FIRST)) // DAY)
    days = [day + timedelta(days=number) for number in range(backfill + 1)]
    return history_for_days(SPEC, log.impressions.lazy(), log.events.lazy(), days).collect()


@dataclass(frozen=True)
class Life:
    """An impression and what its label went through, by replay; instants in microseconds since 1970."""

    row: dict[str, Any]
    story: Story

    def positive(self, before: int) -> bool | None:
        """The label as of just before an instant; None where it is not settled."""
        state = answers_as_of(self.story, before - 1 - self.row["ts"]).get("buy")
        return None if state is None or state.state == "CENSORED" else "POSITIVE" in state.state

    @property
    def settled(self) -> tuple[int, bool] | None:
        """First instant at which the label is both mature and settled, and the label then."""
        for instant, answers in self.story:
            if instant >= answers["buy"].mature_ts and answers["buy"].state != "CENSORED":
                return self.row["ts"] + instant, "POSITIVE" in answers["buy"].state
        return None


def lives(log: Log) -> list[Life]:
    matures = maturities(TASKS, LAG)
    events: dict[str, list[dict[str, Any]]] = {}
    for event in log.events.iter_rows(named=True):
        events.setdefault(event["impression_id"], []).append(event)
    found = []
    for row in log.impressions.iter_rows(named=True):
        own = [
            Event(event["event"], event["kind"], event["event_ts"] - row["ts"], event["ingest_ts"] - row["ts"])
            for event in events.get(row["impression_id"], [])
        ]
        found.append(Life(row, replay(TASKS, World(row["ingest_ts"] - row["ts"], tuple(own)), matures)))
    return found


def smoothed(mine: list[bool], everybody: list[bool]) -> float:
    """With weight 5 for the rate of everybody, if there is anybody."""
    weight = 5 if everybody else 0
    overall = sum(everybody) / len(everybody) if everybody else 0
    return (sum(mine) + weight * overall) / (len(mine) + weight)


@pytest.mark.parametrize("seed", range(3))
def test_rates_of_cases_are_those_of_a_replay(seed: int) -> None:
    log = a_log(seed)
    replayed = lives(log)
    undecided = 0
    # From the first day on whose past is the whole log.
    history_of_all = history(log, start(FIRST + timedelta(days=6)), backfill=5)
    for number in range(6, 12):
        began = start(FIRST + timedelta(days=number))
        cohort = [life for life in replayed if began - 6 * DAY <= life.row["ts"] < began - LAG_DAYS * DAY]
        labels = [(life.row["ad"], life.positive(before=began)) for life in cohort]
        undecided += sum(label is None for _, label in labels)
        everybody = [label for _, label in labels if label is not None]
        daily = {
            ad: smoothed([label for other, label in labels if other == ad and label is not None], everybody)
            for ad in {ad for ad, label in labels if ad is not None and label is not None}
        }
        found = history_of_all.filter(pl.col("day") == FIRST + timedelta(days=number))
        rows = found.filter(pl.col("feature") == "daily")
        assert dict(rows.select("key", "value").rows()) == pytest.approx(daily, rel=1e-12)

        # What is settled later than that is in no window: an interval of the past would not suffice to know it.
        patience = (LAG_DAYS + 1) * DAY
        settled = [
            (life.row["ad"], *life.settled)
            for life in replayed
            if life.settled is not None and life.settled[0] <= life.row["ts"] + patience
        ]
        everybody = [label for _, at, label in settled if began - 3 * DAY <= at < began]
        exact = {}
        for row in log.impressions.filter(pl.col("ts").is_between(began, began + DAY, closed="left")).iter_rows(
            named=True
        ):
            mine = [label for ad, at, label in settled if ad == row["ad"] and row["ts"] - 3 * DAY <= at < row["ts"]]
            if mine and row["ad"] is not None:
                exact[row["impression_id"]] = smoothed(mine, everybody)
        rows = found.filter(pl.col("feature") == "exact")
        assert len(exact) > 5
        assert dict(rows.select("key", "value").rows()) == pytest.approx(exact, rel=1e-12)
    assert undecided > 20


def at_probes(log: Log, instant: int) -> pl.DataFrame:
    """Both rates for an impression of each ad at the instant, computed with the days after it."""
    asked = pl.DataFrame({"ad": ["a", "b", "c"]}).with_columns(
        impression_id=pl.format("probe {}", "ad"), user=pl.lit("u1"), ts=pl.lit(instant), ingest_ts=pl.lit(instant)
    )
    asked = asked.with_columns(day=pl.from_epoch("ts", "us").dt.date(), price=pl.lit(1.0))
    shown = pl.concat([log.impressions, asked.select(log.impressions.columns)])
    found = history(Log(shown, log.events), instant, backfill=3)
    return found.filter(
        pl.col("day") == asked["day"][0], (pl.col("feature") == "daily") | pl.col("key").str.starts_with("probe")
    )


WORLDS = [(a_log(seed), start(FIRST + timedelta(days=7 + seed))) for seed in range(4)]


def test_rates_of_cases_do_not_know_the_future() -> None:
    assert_future_invariant(at_probes, WORLDS)


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_planted_in_a_rate_of_cases_is_found(leak: str) -> None:
    with pytest.raises(LeakError, match="future was"):
        assert_future_invariant(LEAKS[leak](at_probes), WORLDS)
