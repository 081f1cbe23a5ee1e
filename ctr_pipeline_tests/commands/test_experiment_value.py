"""`ctr experiment value` on logs whose other policies are known: propensities, files, random pages, and what is refused."""

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from ctr_pipeline.cli import app
from ctr_pipeline.commands.experiment_rows import ExperimentError, terms_of
from ctr_pipeline.commands.experiment_value import RowsOut, value_of_file, value_of_ranking, value_of_uniform
from ctr_pipeline.deployment.deployment import Deployment, end_of_day_us
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.labels import TABLE_ORDER, label_table
from ctr_pipeline.lake import Lake
from ctr_pipeline_tests.labels.worlds import DAY_US

DAY = date(2026, 1, 5)
ITEMS = [f"item-{number}" for number in range(6)]
RATES = np.array([0.02, 0.05, 0.1, 0.15, 0.2, 0.3])


def rows(count: int, seed: int = 0) -> pl.DataFrame:
    """A policy that prefers good items, and a random one; items are clicked at their rates."""
    rng = np.random.default_rng(seed)
    random = rng.random(count) < 0.5
    chances = np.where(random[:, None], 1 / 6, RATES / RATES.sum())
    item = (rng.random(count)[:, None] > chances.cumsum(axis=1)).sum(axis=1).clip(max=5)
    return pl.DataFrame(
        {
            "day": [DAY] * count, "ts": end_of_day_us(DAY) - DAY_US + np.arange(count), "user": None, "session": None,
            "position": pl.Series(rng.integers(1, 4, count), dtype=pl.Int32),
            "traffic": np.where(random, "random", "production"), "propensity": chances[np.arange(count), item],
            "item": [ITEMS[code] for code in item], "clicked": rng.random(count) < RATES[item],
            "impression_id": [f"{number:032x}" for number in range(count)],
        },
        schema_overrides={"user": pl.String, "session": pl.String},
    ).with_columns(ingest_ts="ts")  # fmt: skip


def made(folder: Path, frame: pl.DataFrame, **changes: Any) -> Deployment:
    impression = {
        "id": "id", "time": "ts", "position": "slot", "propensity": "p",
        "traffic": {"column": "kind", "random": ["r"], "production": ["p"]},
    } | changes  # fmt: skip
    content = {
        "version": 1, "name": "shop", "source": {"impressions": {"paths": ["log.csv"]}, "events": [{"paths": ["e.csv"]}]},
        "impression": {name: value for name, value in impression.items() if value is not None},
        "days": {"first": str(DAY), "last": "2026-01-08"},
        "features": {"categorical": [{"name": "item"}]},
        "tasks": [{"name": "click", "window": "1h", "label": {"event": "click"}}],
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "spec.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    environment = {"CTR_SPEC": str(folder / "spec.yaml"), "CTR_DATA_ROOT": str(folder / "data")}
    found = Deployment.from_environment(Environment.of(environment))
    found.save()
    lake = Lake(found.paths.lake)
    lake.replace_days("impressions", frame.drop("clicked"), [DAY])
    events = frame.sort("ts").filter("clicked").select(
        "day", "impression_id", event=pl.lit("click"), kind=pl.lit("outcome"), event_ts="ts", ingest_ts="ts",
        source_log=pl.lit("outcome_events"),
    )  # fmt: skip
    # Events of the last day show that the log of outcomes goes on; they are long after the windows.
    last = date(2026, 1, 8)
    late = events.head(20).with_columns(
        day=pl.lit(last),
        event_ts=end_of_day_us(last) - pl.int_range(pl.len()),
        ingest_ts=end_of_day_us(last) - pl.int_range(pl.len()),
    )
    lake.replace_days("outcome_events", pl.concat([events, late]), [DAY, last])
    shown = lake.scan("impressions").select("day", "impression_id", "ts", "ingest_ts")
    labels = label_table(
        shown, lake.scan("outcome_events"), found.spec.tasks, end_of_day_us(date(2026, 1, 8))
    ).collect()
    lake.replace_days("labels", labels.sort("day", *TABLE_ORDER), [DAY])
    return found


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return made(tmp_path_factory.mktemp("value"), rows(20_000))


def holds(interval: dict[str, float], truth: float) -> bool:
    return interval["low"] <= truth <= interval["high"]


def test_the_uniform_policy_is_worth_what_the_random_traffic_shows(deployment: Deployment) -> None:
    found = value_of_uniform(deployment, terms_of(deployment.spec, None, None, False), "item", where={})
    truth = float(RATES.mean())
    for name in ("ipw", "snipw", "dr"):
        assert holds(found["value"][name], truth), name
    assert not holds(found["value"]["logged"], truth)
    assert holds(found["compared"]["value"], truth)
    assert found["value"]["rows"] + found["compared"]["rows"] == 20_000
    some = value_of_uniform(deployment, terms_of(deployment.spec, None, None, False), "item", where={"position": "2"})
    assert some["value"]["rows"] == pytest.approx(20_000 / 6, rel=0.1)


def test_a_policy_in_a_file_is_valued_by_its_probabilities(deployment: Deployment, tmp_path: Path) -> None:
    log = rows(20_000)
    best = log.select("impression_id", probability=(pl.col("item") == ITEMS[-1]).cast(pl.Float64))
    best.write_parquet(tmp_path / "best.parquet")
    terms = terms_of(deployment.spec, None, None, False)
    found = value_of_file(deployment, terms, tmp_path / "best.parquet", where={})["value"]
    assert holds(found["snipw"], RATES[-1])
    assert found["dr"] is None
    model = best.with_columns(shown=0.1, value=0.1)
    model.write_parquet(tmp_path / "model.parquet")
    with_model = value_of_file(deployment, terms, tmp_path / "model.parquet", where={})["value"]
    assert holds(with_model["dr"], RATES[-1])
    for content, message in (
        (best.rename({"probability": "p"}), "there is no column `probability`"),
        (best.with_columns(impression_id=pl.lit("f" * 32)), "none of its 20000 impressions is a settled one"),
    ):
        content.write_parquet(tmp_path / "wrong.parquet")
        with pytest.raises(ExperimentError, match=message):
            value_of_file(deployment, terms, tmp_path / "wrong.parquet", where={})
    with pytest.raises(ExperimentError, match=r"absent\.csv: no such file"):
        value_of_file(deployment, terms, tmp_path / "absent.csv", where={})


def test_a_log_that_says_nothing_of_other_policies_is_refused(tmp_path: Path) -> None:
    sure = rows(200).with_columns(propensity=1.0)
    own = made(tmp_path / "sure", sure)
    with pytest.raises(ExperimentError, match="every propensity is 1: the log always showed what it showed"):
        value_of_uniform(own, terms_of(own.spec, None, None, False), "item", where={})
    none = made(tmp_path / "none", rows(200).with_columns(propensity=pl.lit(None, pl.Float64)), propensity=None)
    with pytest.raises(ExperimentError, match=r"how likely it was shown: name the column in `impression\.propensity`"):
        value_of_uniform(none, terms_of(none.spec, None, None, False), "item", where={})
    with pytest.raises(ExperimentError, match=r"name the column in `impression\.session`"):
        value_of_ranking(none, terms_of(none.spec, None, None, False), "click", None)


def test_random_pages_are_ranked_by_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of three items in random order; positions are looked at less and less, and the score is the rate itself."""
    rng, pages = np.random.default_rng(3), 12_000
    items = np.argsort(rng.random((pages, 6)), axis=1)[:, :3]
    seen = np.array([1.0, 0.5, 0.25])
    frame = rows(pages * 3).with_columns(
        session=pl.Series([f"{number // 3:032x}" for number in range(pages * 3)]),
        position=pl.Series(np.tile([1, 2, 3], pages), dtype=pl.Int32),
        traffic=pl.lit("random"),
        item=pl.Series([ITEMS[code] for code in items.ravel()]),
        clicked=pl.Series(rng.random(pages * 3) < RATES[items.ravel()] * np.tile(seen, pages)),
    )
    own = made(tmp_path / "pages", frame, session="visit")
    scores = frame.select("impression_id", "day", score=pl.Series(RATES[items.ravel()]))
    monkeypatch.setattr("ctr_pipeline.commands.experiment_value._scores", lambda *_: (scores, "2026-01-08"))
    found = value_of_ranking(own, terms_of(own.spec, None, None, False), "click", None)["value"]
    truth = float((np.sort(RATES[items], axis=1)[:, ::-1] * seen).mean())
    for name in ("ipw", "snipw", "dr"):
        assert holds(found[name], truth), name
    assert found["logged"]["high"] < truth
    assert holds(found["mean_weight"], 1)


def test_replayed_rows_are_written_without_ids_and_with_what_was_known(deployment: Deployment, tmp_path: Path) -> None:
    terms, path = terms_of(deployment.spec, None, None, False), tmp_path / "rows.parquet"
    middle = end_of_day_us(DAY) - DAY_US + 10_000
    found = value_of_uniform(
        deployment, terms, "item", where={}, out=RowsOut(path, ["item", "position"], known_by=middle)
    )["value"]
    written = pl.read_parquet(path)
    assert written.columns == ["reward", "weight", "user", "item", "position", "reward_then"]
    assert (written["reward"] * written["weight"]).mean() == pytest.approx(found["ipw"]["value"])
    # Half of the rows were shown, and clicked, by then.
    assert written["reward_then"].sum() == pytest.approx(written["reward"].sum() / 2, rel=0.15)
    assert (written["reward_then"] <= written["reward"]).all()
    with pytest.raises(ExperimentError, match="column 'user' holds ids"):
        value_of_uniform(deployment, terms, "item", where={}, out=RowsOut(path, ["user"]))


def test_the_gap_of_files(deployment: Deployment, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "rows.parquet"
    kind = np.where(rng.random(4000) < 0.5, "mobile", "desktop")
    reward = (rng.random(4000) < np.where(kind == "mobile", 0.1, 0.3)).astype(float)
    frame = pl.DataFrame(
        {"reward": reward, "weight": np.where(reward > 0, 1.5, 0.9), "device": kind, "user": np.arange(4000)}
    )
    frame.write_parquet(path)
    reading: dict[str, Any] = {
        "reading": {"relative": {"value": 0.3, "low": 0.1, "high": 0.5}},
        "slices": [
            {"slice": "device", "value": "mobile", "impressions": 900}, {"slice": "device", "value": "desktop", "impressions": 100}
        ],
    }  # fmt: skip
    (tmp_path / "reading.json").write_text(json.dumps(reading), encoding="utf-8")
    run = ["experiment", "gap", str(tmp_path / "reading.json"), "--rows", str(path), "--population", "device"]
    done = CliRunner().invoke(app, [*run, "--json", str(tmp_path / "gap.json")])
    assert done.exit_code == 0, done.output
    assert "+ population" in done.output
    assert "Not looked at, as the rows say nothing of it: label maturity, skew, position." in " ".join(
        done.output.split()
    )
    found = json.loads((tmp_path / "gap.json").read_text())
    parts = sum(part["value"] for part in found["parts"].values())
    assert found["predicted"]["value"] + parts + found["unexplained"]["value"] == pytest.approx(0.3)
    for change, message in (
        (["--population", "geo"], "there is no column `geo`"),
        (["--rows", str(tmp_path / "absent.parquet")], "absent.parquet: no such file"),
    ):
        done = CliRunner().invoke(app, [*run, *change])
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())
    for wrong, message in (
        ({"slices": reading["slices"]}, "the reading has no relative effect"),
        ({**reading, "slices": []}, "has no slices by device"),
    ):
        (tmp_path / "reading.json").write_text(json.dumps(wrong), encoding="utf-8")
        done = CliRunner().invoke(app, run)
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())


def test_the_command_prints_estimates_and_refuses_two_candidates(deployment: Deployment) -> None:
    root = ["--data-root", str(deployment.data_root)]
    done = CliRunner().invoke(app, ["experiment", "value", "--uniform", "item", *root])
    assert done.exit_code == 0, done.output
    assert "each of 6 values of item equally often" in done.output
    assert "rate of the random traffic" in done.output
    for arguments, message in (
        (["--uniform", "item", "--day", "2026-01-08"], "give one of them"),
        (["--where", "item"], "expected COLUMN=VALUE"),
        (["--keep", "item"], "say what goes into the file of --rows"),
        (["--where", "item=a"], "--where goes with --uniform or --candidate"),
        (["--uniform", "thing"], "column 'thing' is not stored of impressions"),
    ):
        done = CliRunner().invoke(app, ["experiment", "value", *arguments, *root])
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())


def test_the_uniform_policy_of_a_real_log(shared_data: Path, tmp_path: Path) -> None:
    """Of the men's campaign both policies were logged on the same days: what one says of the other can be looked up."""
    log = pl.read_parquet(shared_data / "open_bandit.parquet").filter(pl.col("campaign") == "men")
    count = log.height
    frame = log.select(
        day=pl.lit(DAY), ts=pl.int_range(pl.len()) + end_of_day_us(DAY) - DAY_US, user=pl.lit(None, pl.String),
        session=pl.lit(None, pl.String), position=pl.col("position").cast(pl.Int32),
        traffic=pl.when(pl.col("policy") == "random").then(pl.lit("random")).otherwise(pl.lit("production")),
        propensity="propensity", item=pl.col("item_id").cast(pl.String), clicked=pl.col("clicked") == 1,
    ).with_columns(ingest_ts="ts", impression_id=pl.Series([f"{number:032x}" for number in range(count)]))  # fmt: skip
    own = made(tmp_path / "men", frame)
    found = value_of_uniform(own, terms_of(own.spec, None, None, False), "item", where={})
    rate = found["compared"]["value"]["value"]
    assert rate == pytest.approx(0.0046, abs=1e-6)
    assert holds(found["value"]["snipw"], rate)
    assert holds(found["value"]["dr"], rate)
    assert found["value"]["effective_rows"] == pytest.approx(656, abs=1)
    assert math.isfinite(found["value"]["dr"]["low"])
