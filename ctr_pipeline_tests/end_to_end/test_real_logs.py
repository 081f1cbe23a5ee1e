"""The bundled specs on real logs."""

from collections.abc import Callable

import pytest

from ctr_pipeline_tests.end_to_end.real_runs import RealRun

Runs = Callable[[str, str], RealRun]


def test_web_shop_sessions(real_run: Runs) -> None:
    report = real_run("ga4", "ga4_sessions.parquet").report
    assert report["rows"]["impressions"]["in"] == 63_362
    assert report["split"]["test"]["first"][:10] == "2021-01-02"
    test = report["metrics"]["purchase"]["test"]
    assert test["auc"]["value"] >= 0.75
    assert test["ne"]["value"] < 0.93


@pytest.mark.nightly
def test_display_ads_without_a_clock(real_run: Runs) -> None:
    report = real_run("criteo", "criteo_display_16k.parquet").report
    assert report["split"]["test"]["rows"] == 3_200
    assert report["metrics"]["click"]["test"]["auc"]["value"] >= 0.71


@pytest.mark.nightly
def test_the_loan_funnel_leaves_undecided_cases_out(real_run: Runs) -> None:
    report = real_run("loan_funnel", "loan_funnel.parquet").report
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


@pytest.mark.nightly
def test_two_policies_give_propensities_with_intervals(real_run: Runs) -> None:
    propensity = real_run("open_bandit", "open_bandit.parquet").report["propensity"]
    assert [row["position"] for row in propensity["positions"]] == [1, 2, 3]
    for row in propensity["positions"]:
        assert row["exposure_low"] < row["exposure_ratio"] < row["exposure_high"]
        assert row["examination_low"] <= row["examination"] <= row["examination_high"]
    [response] = propensity["responses"]
    assert response["usable"]
    assert 0 < response["ess_rows"] <= 1
    assert 0 < response["ess_positives"] <= 1
