"""Advertisers that misreport are found by their labels alone. The truth is read here, and by nothing that evaluates."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import yaml

from ctr_pipeline.datasets import SplitBounds, TaskBounds, fit_label_quality
from ctr_pipeline.labels import QualityTable, label_table
from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline_tests.simulator.conftest import Log


@pytest.fixture(scope="module")
def spec(project: Path) -> Spec:
    content = yaml.safe_load((project / "specs" / "credit.yaml").read_text(encoding="utf-8"))
    features = content["features"]["categorical"]
    if all(feature["name"] != "advertiser_id" for feature in features):
        features.append({"name": "advertiser_id"})
    content["label_quality"] = {"key": "advertiser_id"}
    return parse_spec(yaml.safe_dump(content), where="credit.yaml")


@pytest.fixture(scope="module")
def clicked(log: Log) -> pl.DataFrame:
    """The clicked impressions as the lake has them, with the truth about them."""
    ids = log.impressions.select(
        "impression_id",
        "advertiser_id",
        ts=pl.col("ts").dt.epoch("us"),
        ingest_ts=pl.col("ingest_ts").dt.epoch("us"),
    ).with_columns(day=pl.from_epoch("ts", "us").dt.date())
    truth = log.truth.drop("ts").filter(pl.col("click_ts").is_not_null())
    return ids.join(truth.with_columns(kind=pl.col("advertiser_noise").cast(pl.String)), on="impression_id")


def logged(log: Log) -> pl.DataFrame:
    return log.events.select(
        "impression_id",
        event="event_type",
        kind=pl.lit("outcome"),
        event_ts=pl.col("event_ts").dt.epoch("us"),
        ingest_ts=pl.col("ingest_ts").dt.epoch("us"),
    )


def true(clicked: pl.DataFrame, spec: Spec) -> pl.DataFrame:
    """What a log without misreporting would hold."""
    return pl.concat(
        clicked.filter(pl.col(f"{task.name}_ts").is_not_null()).select(
            "impression_id",
            event=pl.lit(task.name),
            kind=pl.lit("outcome"),
            event_ts=pl.col(f"{task.name}_ts").dt.epoch("us"),
            ingest_ts=pl.col(f"{task.name}_ts").dt.epoch("us"),
        )
        for task in spec.tasks
    )


def evaluate(spec: Spec, clicked: pl.DataFrame, events: pl.DataFrame) -> tuple[QualityTable, pl.DataFrame]:
    """As a retrain does, once the last label has settled. Rows without a click have no trial of a later step."""
    first = int(datetime.combine(clicked["day"].min(), datetime.min.time(), UTC).timestamp()) * 1_000_000  # type: ignore[arg-type]
    end = int(clicked["ts"].max()) + 1  # type: ignore[arg-type]
    as_of = end + spec.longest_maturity
    parts = TaskBounds(train_start=first, validation_start=end - 2, calibration_start=end - 1, settled_end=end)
    bounds = SplitBounds(
        tasks={task.name: parts for task in spec.tasks},
        test_start=as_of, test_end=as_of + DAY_US, as_of=as_of + DAY_US + spec.longest_maturity,
    )  # fmt: skip
    impressions = clicked.select("day", "impression_id", "ts", "ingest_ts", "advertiser_id").lazy()
    labels = label_table(impressions, events.lazy(), spec.tasks, as_of).collect()
    return fit_label_quality(spec, bounds, impressions, labels.lazy())


def test_those_who_misreport_are_found(log: Log, clicked: pl.DataFrame, spec: Spec) -> None:
    """6 advertisers fire conversions, 6 drop them, 4 report late, among 200; those with enough clicks are all named.

    In `benchmarks/label_quality.py` all that inflate are found from 20 clicks on, all but 1 in 60 that drop from 50 on.
    About 1.2 % of the honest are flagged for each of three steps, about 5 here; more than 14 has probability below .1 %.
    """
    table, found = evaluate(spec, clicked, logged(log))
    truth = clicked.group_by(key="advertiser_id").agg(pl.col("kind").first(), clicks=pl.len())
    each = found.group_by("key").agg(
        inflated=(pl.col("status") == "inflated").any(),
        dropped=(pl.col("status") == "dropped").any(),
        late=(pl.col("delay_z") > 2.5).any(),
        weight=pl.col("weight").min(),
    )
    each = truth.join(each, on="key")
    inflating = each.filter(pl.col("kind") == "inflate", pl.col("clicks") >= 20)
    dropping = each.filter(pl.col("kind") == "drop", pl.col("clicks") >= 50)
    late = each.filter(pl.col("kind") == "late", pl.col("clicks") >= 60)
    assert inflating.height >= 3
    assert inflating["inflated"].all()
    assert dropping.height >= 1
    assert dropping["dropped"].all()
    assert late["late"].all()
    honest = each.filter(~pl.col("kind").is_in(["inflate", "drop"]))
    wrongly = honest.filter(pl.col("inflated") | pl.col("dropped"))
    assert wrongly.height <= 14
    # Those flagged by chance lie near the threshold, and keep most of their weight.
    assert inflating["weight"].mean() < 0.65 < wrongly["weight"].min()  # type: ignore[operator]
    assert [task.task for task in table.tasks] == ["application", "conversion", "approval"]


def test_without_misreporting_few_are_flagged(clicked: pl.DataFrame, spec: Spec) -> None:
    """At 1.24 % of the evaluated: more than 3 % has probability below 1e-3 of some 400."""
    table, found = evaluate(spec, clicked, true(clicked, spec))
    evaluated = found.filter(pl.col("status") != "not evaluated")
    assert evaluated.height > 300
    share = float((evaluated["z"].abs() > 2.5).mean())
    assert share < 0.03
    assert float(evaluated["z"].std()) == pytest.approx(1, abs=0.15)  # type: ignore[arg-type]
    assert all(task.outlier_share is not None and task.outlier_share < 0.03 for task in table.tasks)
    punctual = found.drop_nulls("delay_z")
    assert float((punctual["delay_z"] > 2.5).mean()) < 0.04
