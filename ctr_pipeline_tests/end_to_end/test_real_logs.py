"""The bundled specs on real logs."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(
    ctr: Ctr, project: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], dict[str, Any]]:
    """Under one key: training rows are shuffled by their hashed ids, so each key trains another model."""
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef0123")

    def run(spec: str, log: str) -> dict[str, Any]:
        out = tmp_path / "report.json"
        ctr(
            "run", "--spec", project / "specs" / f"{spec}.yaml", "--input", shared_data / log,
            "--data-root", tmp_path / "data", "--json", out,
        )  # fmt: skip
        report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        for rows in report["rows"].values():
            assert rows["in"] == rows["kept"] + rows["quarantined"]
        return report

    return run


def test_web_shop_sessions(run: Callable[[str, str], dict[str, Any]]) -> None:
    report = run("ga4", "ga4_sessions.parquet")
    assert report["rows"]["impressions"]["in"] == 63_362
    assert report["split"]["test"]["first"][:10] == "2021-01-02"
    test = report["metrics"]["purchase"]["test"]
    assert test["auc"]["value"] >= 0.75
    assert test["ne"]["value"] < 0.93


def test_display_ads_without_a_clock(run: Callable[[str, str], dict[str, Any]]) -> None:
    report = run("criteo", "criteo_display_16k.parquet")
    assert report["split"]["test"]["rows"] == 3_200
    assert report["metrics"]["click"]["test"]["auc"]["value"] >= 0.71


def test_the_loan_funnel_leaves_undecided_cases_out(run: Callable[[str, str], dict[str, Any]]) -> None:
    report = run("loan_funnel", "loan_funnel.parquet")
    tasks = ["preaccepted", "accepted", "papers_returned", "approved"]
    assert list(report["metrics"]) == tasks
    for task in tasks:
        assert report["labels"][task]["CENSORED"] > 0
        test, states = report["metrics"][task]["test"], report["split"]["test"]["states"][task]
        assert test["masked"] == states["CENSORED"]
        assert test["rows"] == report["split"]["test"]["rows"] - states["CENSORED"]
        assert test["positives"] == states["POSITIVE"] + states["LATE_POSITIVE"]
    reached = [report["metrics"][task]["test"]["positives"] for task in tasks]
    assert reached == sorted(reached, reverse=True)


def test_two_policies_give_propensities_with_intervals(run: Callable[[str, str], dict[str, Any]]) -> None:
    propensity = run("open_bandit", "open_bandit.parquet")["propensity"]
    assert [row["position"] for row in propensity["positions"]] == [1, 2, 3]
    for row in propensity["positions"]:
        assert row["exposure_low"] < row["exposure_ratio"] < row["exposure_high"]
        assert row["examination_low"] <= row["examination"] <= row["examination_high"]
    [response] = propensity["responses"]
    assert response["usable"]
    assert 0 < response["ess_rows"] <= 1
    assert 0 < response["ess_positives"] <= 1
