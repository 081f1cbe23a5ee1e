"""What the impressions of a canary led to, by arm: mature outcomes beside what was predicted when they were shown."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl

from ctr_pipeline.labels import LabelDay, join_settled, label_column, label_days, task_watermarks
from ctr_pipeline.lake import Lake
from ctr_pipeline.serving.release import Arm, Outcomes, TaskOutcomes
from ctr_pipeline.spec import Spec

SERVING_LOG = "serving_log"


def canary_outcomes(spec: Spec, lake: Lake, arms: Mapping[Arm, str], since: int) -> list[TaskOutcomes]:
    """Observed and expected outcomes of the impressions that the arms of a canary scored, by task and day.

    An impression counts once its whole window is over and its outcomes have arrived, so that early clicks are not counted
    before late absences. One that was logged several times counts once; in the shadow it counts for both arms.

    Args:
        spec: Tasks and their windows.
        lake: Holds `serving_log`, `impressions`, `outcome_events` and `labels`.
        arms: SHA-256 of the bundle of the champion, and of the challenger or the shadow; what other models scored is left out.
        since: When the canary began, microseconds since 1970 UTC.

    Returns:
        For each task, the challenger's and the champion's outcomes by day; empty where nothing was logged.
    """
    if not lake.exists(SERVING_LOG) or not lake.exists("labels"):
        return []
    first = datetime.fromtimestamp(since / 1_000_000, UTC).date()
    logged = _logged(lake, arms, since, first)
    days = {day: header for day, header in label_days(lake.scan("labels", first=first)).items() if day >= first}
    parts = [_day(spec, lake, logged, day, header) for day, header in days.items()] if logged.height else []
    found = []
    for place, task in enumerate(spec.tasks):
        batches = [_batch(part, place, task.name) for part in parts]
        found.append(
            TaskOutcomes(task=task.name, batches=[batch for batch in batches if any(side.expected for side in batch)])
        )
    return found


def _logged(lake: Lake, arms: Mapping[Arm, str], since: int, first: date) -> pl.DataFrame:
    """The scored impressions: id, arm and probabilities, the earliest log of each."""
    own = [(pl.col("arm") == arm) & (pl.col("model_sha") == sha256) for arm, sha256 in arms.items()]
    rows = (
        # A request is logged on the day of its time, which may be that of an earlier impression.
        lake.scan(SERVING_LOG, first=first - timedelta(days=1))
        .filter(pl.col("ts") >= since, pl.col("impression_id").is_not_null(), pl.any_horizontal(own))
        .select("ts", "impression_id", "arm", "probabilities")
        .collect()
    )
    # In the shadow both arms score the same impression; in a canary a user may have changed arms with its share.
    once = ["impression_id", "arm"] if Arm.SHADOW in arms else ["impression_id"]
    return rows.sort("ts").unique(once, keep="first", maintain_order=True).drop("ts")


def _day(spec: Spec, lake: Lake, logged: pl.DataFrame, day: date, header: LabelDay) -> pl.DataFrame:
    """The logged impressions of a day with their labels; null where these are not mature."""
    tasks, as_of = spec.tasks, header.as_of
    shown = lake.scan("impressions", first=day, last=day).filter(pl.col("ingest_ts") <= as_of)
    own = shown.select("day", "impression_id", "ts", "ingest_ts").join(logged.lazy(), on="impression_id").collect()
    names = [task.name for task in tasks]
    marks = task_watermarks(lake.scan("outcome_events"), tasks, as_of)
    table = lake.scan("labels", first=day, last=day)
    return join_settled(own.lazy(), table, tasks, names, as_of, spec.split.ingest_lag, marks)


def _batch(rows: pl.DataFrame, place: int, task: str) -> tuple[Outcomes, Outcomes]:
    """A day's outcomes of the challenger and of the champion."""
    labelled, champion = rows.filter(pl.col(label_column(task)).is_not_null()), pl.col("arm") == Arm.CHAMPION
    return _side(labelled.filter(~champion), place, task), _side(labelled.filter(champion), place, task)


def _side(own: pl.DataFrame, place: int, task: str) -> Outcomes:
    predicted: Sequence[float] = own["probabilities"].list.get(place).cast(pl.Float64).to_list()
    return Outcomes(observed=int(own[label_column(task)].cast(pl.Int64).sum()), expected=float(np.sum(predicted)))
