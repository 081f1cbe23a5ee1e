"""The truth report: ceilings in order, effects recovered, scores compared; and nobody else reads the truth."""

import hashlib
import json
import math
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.simulator import SimulatorError, log_paths, truth_file, truth_report, write_days
from ctr_pipeline.simulator.expected import ceiling
from ctr_pipeline.simulator.laws import DEVICE_SHARES, EXAMINATION
from ctr_pipeline.simulator.observables import conditional_mean
from ctr_pipeline.spec import load_spec
from ctr_pipeline_tests.simulator.conftest import Log


@pytest.fixture(scope="module")
def report(log: Log) -> dict[str, Any]:
    return truth_report(log.root, log.first, log.last)


def test_the_report_is_plain_json(report: dict[str, Any], log: Log) -> None:
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["rows"] == len(log.impressions) == 14 * 20_000 * 5
    assert report["days"] == {"first": "2026-01-01", "last": "2026-01-14"}


def test_ceilings_fall_as_less_is_known(report: dict[str, Any]) -> None:
    bayes, blind, seen = (report["ceilings"][name] for name in ("bayes", "position_unknown", "observables"))
    assert bayes["auc"] > blind["auc"] > seen["auc"] > 0.75
    assert bayes["ap"] > blind["ap"] > seen["ap"] > 0.1
    assert bayes["ne"] < blind["ne"] < seen["ne"] < 0.9
    assert set(report["steps"]) == {"application", "conversion", "approval"}
    rates = [bayes["rate"], *(report["steps"][step]["rate"] for step in ("application", "conversion", "approval"))]
    np.testing.assert_allclose(np.divide(rates[1:], rates[:-1]), (0.45, 0.50, 0.45), atol=0.02)


def test_positions_are_known_and_found(report: dict[str, Any]) -> None:
    """8 comparisons at 3 standard errors; chance of a false failure below 2.2 %."""
    positions = report["positions"]
    assert [row["position"] for row in positions] == [1, 2, 3, 4, 5]
    mixture = np.array(DEVICE_SHARES) @ np.array(EXAMINATION)
    for row, law in zip(positions, mixture, strict=True):
        assert row["examination"] == pytest.approx(law, abs=0.02)
        if row["position"] > 1:
            assert abs(row["observed"] - row["examination"]) <= 3 * row["observed_error"]
            relative = row["observed_error"] / row["observed"]
            assert abs(math.log(row["observed_ips"] / row["ips"])) <= 3 * relative
    ips = [row["ips"] for row in positions]
    assert ips == sorted(ips)  # production puts the best ads first, so the correction grows down the page
    assert ips[0] < 0.7 < ips[-1]


def test_delays_and_noise_are_counted(report: dict[str, Any], log: Log) -> None:
    delays = report["delays"]
    assert delays["click"]["happened"] == log.truth["click_ts"].count()
    assert delays["click"]["since_previous"]["quantiles"]["0.5"] == pytest.approx(8.5, rel=0.1)
    assert delays["application"]["since_previous"]["cdf"]["86400"] == pytest.approx(0.962, abs=0.01)
    assert delays["conversion"]["out_of_window_share"] == pytest.approx(0.05, abs=0.02)
    assert delays["ingest_lag"]["quantiles"]["0.5"] == pytest.approx(30, rel=0.1)
    noise = report["noise"]
    assert noise["clicks"] == log.truth["click_ts"].count() == sum(noise["clicks_by_advertiser_noise"].values())
    assert noise["fired"] == log.truth["fired"].sum() > 0
    assert noise["lost"] == log.truth["lost"].sum() > 0
    assert report["incidents"] == {}


def test_true_probabilities_capture_everything_and_a_constant_nothing(log: Log) -> None:
    ids, p = log.truth["impression_id"], log.truth["click_probability"].cast(pl.Float64)
    perfect = truth_report(log.root, log.first, log.first, pl.DataFrame({"impression_id": ids, "score": p}))["scores"]
    assert perfect["rows"] == 100_000
    assert perfect["excess_ne"] == pytest.approx(0, abs=1e-12)
    assert perfect["captured"] == pytest.approx(1)
    assert perfect["model"] == perfect["bayes"]
    first_day = p[:100_000]
    flat = pl.DataFrame({"impression_id": ids[:100_000], "score": np.full(100_000, first_day.mean())})
    constant = truth_report(log.root, log.first, log.first, flat)["scores"]
    assert constant["captured"] == pytest.approx(0, abs=1e-9)
    assert constant["model"]["auc"] == pytest.approx(0.5)
    assert constant["excess_ne"] == pytest.approx(1 - constant["bayes"]["ne"])


def test_hashed_ids_are_matched(log: Log) -> None:
    few = log.truth.head(1_000)
    hashed = [hashlib.sha256(i.encode()).hexdigest() for i in few["impression_id"]]
    scores = pl.DataFrame({"impression_id": hashed, "score": few["click_probability"].cast(pl.Float64)})

    def hash_ids(column: str) -> pl.Expr:
        return pl.col(column).map_elements(lambda i: hashlib.sha256(i.encode()).hexdigest(), return_dtype=pl.String)

    found = truth_report(log.root, log.first, log.first, scores, truth_ids=hash_ids)["scores"]
    assert found["rows"] == 1_000
    assert found["captured"] == pytest.approx(1)
    with pytest.raises(SimulatorError, match="none of the scored impressions is in the truth"):
        truth_report(log.root, log.first, log.first, scores)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"impression_id": ["20260101-000000000"]}, r"scores have the columns \['impression_id'\]"),
        ({"impression_id": ["20260101-000000000"], "score": [1.0]}, "score 1.0 of row 0 is not between 0 and 1"),
        ({"impression_id": ["20260101-000000000"], "score": [float("nan")]}, "score nan of row 0 is not between"),
    ],
)
def test_unusable_scores_are_refused(log: Log, scores: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(SimulatorError, match=message):
        truth_report(log.root, log.first, log.first, pl.DataFrame(scores))


def test_days_without_truth_are_refused(log: Log) -> None:
    with pytest.raises(SimulatorError, match="the truth of 2026-01-15 is not there"):
        truth_report(log.root, log.last, log.last + timedelta(days=2))


def test_conditional_means_recover_a_known_curve() -> None:
    random = np.random.default_rng(4)
    index = random.standard_normal(200_000)
    device = random.integers(0, 2, len(index)).astype(np.int32)
    law = np.exp(-3 + index) * (1 + device)
    p = law * random.uniform(0.5, 1.5, len(index))
    found = conditional_mean(index, p, device)
    middle = np.abs(index) < 2
    np.testing.assert_allclose(found[middle], law[middle], rtol=0.12)
    assert found.mean() == pytest.approx(p.mean(), rel=0.01)


def test_the_default_spec_has_the_intended_difficulty(project: Path, tmp_path: Path) -> None:
    """CTR 1.1 % ± .05, Bayes AUC ≥ .85 and AP ≥ .22 over the whole period of specs/ads.yaml."""
    spec = load_spec(project / "specs" / "ads.yaml")
    settings = spec.source.simulator
    assert settings is not None
    days = [settings.first_day + timedelta(days=n) for n in range(0, settings.days, 3)]
    write_days(settings, spec.seed, days, tmp_path)
    found = ceiling(pl.read_parquet(tmp_path / "truth" / "*.parquet")["click_probability"].to_numpy())
    assert 0.0105 <= found["rate"] <= 0.0115
    assert found["auc"] >= 0.85
    assert found["ap"] >= 0.22


def _sources(project: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((project / "ctr_pipeline").rglob("*.py")):
        name = path.relative_to(project / "ctr_pipeline")
        # `ctr oracle` is the one command that shows the truth; see ctr_pipeline_tests/commands/test_oracle.py.
        if name.parts[0] not in ("simulator", "cli") and name.as_posix() != "commands/oracle.py":
            yield str(path), path.read_text(encoding="utf-8")


def test_nothing_of_the_pipeline_reads_the_truth(project: Path, log: Log) -> None:
    reading = ("truth_file", "truth_report", "simulator.truth", "simulator.world", '"truth"', "'truth'")
    readers = [path for path, text in _sources(project) if any(word in text for word in reading)]
    assert readers == []
    logs = {file for glob in log_paths(log.root) for file in glob.parent.glob(glob.name)}
    assert len(logs) == 28
    assert truth_file(log.root, date(2026, 1, 1)).exists()
    assert not any("truth" in file.parts for file in logs)
