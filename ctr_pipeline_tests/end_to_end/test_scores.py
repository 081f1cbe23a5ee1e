"""The table of scores after a run: the lines of docs/scores.md work, and give the figures of the report."""

import math
import re
from pathlib import Path

import duckdb
import pytest

from ctr_pipeline_tests.end_to_end.fixtures import Finished


@pytest.fixture(scope="module")
def lines(project: Path, finished: Finished) -> list[str]:
    """The queries of the page, of the data root of the test."""
    page = (project / "docs" / "scores.md").read_text(encoding="utf-8")
    found = [*re.findall(r'duckdb -c "(.*)"', page), *re.findall(r"```sql\n(.*?)```", page, re.DOTALL)]
    return [line.replace("data/ads", str(finished.data_root)) for line in found]


def test_the_lines_of_the_page_give_the_figures_of_the_report(finished: Finished, lines: list[str]) -> None:
    by_device, sums = lines
    test = finished.report["metrics"]["click"]["test"]
    rows = duckdb.sql(by_device).fetchall()
    assert len(rows) > 1
    assert sum(shown for _, shown, _, _ in rows) == test["rows"]
    assert sum(shown * ctr for _, shown, ctr, _ in rows) == pytest.approx(test["positives"])
    assert sum(shown * predicted for _, shown, _, predicted in rows) == pytest.approx(
        test["rows"] * test["mean_prediction"]
    )
    [found] = duckdb.sql(sums).fetchall()
    assert found == pytest.approx([test[name]["value"] for name in ("log_loss", "ne", "oe")], rel=1e-9)


def test_every_split_task_and_slice_is_that_of_the_report(finished: Finished) -> None:
    table = f"read_parquet('{finished.data_root}/lake/scores/day=*/*.parquet')"
    for task, splits in finished.report["metrics"].items():
        for split, metrics in splits.items():
            [counts] = duckdb.sql(
                f"SELECT count(*), count(label_{task}), sum(label_{task}) FROM {table} WHERE split = '{split}'"
            ).fetchall()
            assert counts == (metrics["rows"] + metrics["masked"], metrics["rows"], metrics["positives"]), (task, split)
        for found in finished.report["slices"][task]:
            if found["dimension"] != "ad age":
                continue
            [(observed, expected)] = duckdb.sql(
                f"SELECT sum(label_{task}), sum(logged_probability_{task}) FROM {table} "
                f"WHERE split = 'test' AND label_{task} IS NOT NULL AND slice_ad_age = '{found['value']}'"
            ).fetchall()
            assert math.isclose(observed / expected, found["oe"]["value"], rel_tol=1e-9)
    [versions] = duckdb.sql(
        f"SELECT DISTINCT model_sha256, mlflow_run_id, CAST(day AS VARCHAR) FROM {table}"
    ).fetchall()
    report = finished.report
    assert versions == (report["model"]["sha256"], report["mlflow"]["run_id"], report["days"]["last"])


def test_the_test_rows_are_looked_at_by_day_beside_other_models_and_by_search(finished: Finished) -> None:
    report = finished.report
    assert report["champion"] == {"version": None, "compared": False, "obstacle": None}
    assert set(report["test_references"]) == {"base_rate", "position_only"}
    for task, splits in report["metrics"].items():
        test, days = splits["test"], report["test_by_day"][task]
        assert [day["rows"] for day in days] == [
            found for (found,) in duckdb.sql(
                f"SELECT count(label_{task}) FROM read_parquet('{finished.data_root}/lake/scores/day=*/*.parquet') "
                "WHERE split = 'test' GROUP BY impression_day ORDER BY impression_day"
            ).fetchall()
        ]  # fmt: skip
        assert sum(day["positives"] for day in days) == test["positives"]
        assert report["test_references"]["base_rate"][task]["auc"]["value"] == 0.5
        assert 0.5 < report["test_references"]["position_only"][task]["auc"]["value"] < test["auc"]["value"]
        assert report["slices_found"][task]["proposed"] <= report["slices_found"][task]["searched"]
        assert (test["user_auc"]["key"], test["session_auc"]["key"]) == ("user", "session")
        assert test["settled_share"] == test["rows"] / (test["rows"] + test["masked"])
    assert report["ranking_revenue"]["all"]["regret"]["value"] > 0
    assert "beside other models on the same rows" in finished.stdout
