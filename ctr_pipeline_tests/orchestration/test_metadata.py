"""What a person reads on the page: few columns, three digits."""

import dagster as dg
import pytest

from ctr_pipeline.labels import LabelState
from ctr_pipeline.orchestration.assets.evaluation import other_rows, split_rows
from ctr_pipeline.orchestration.assets.evaluation import test_rows as rows_of_test
from ctr_pipeline.orchestration.metadata import STATE_COLUMNS, cell, interval, run_metadata, state_rows, table

MEASURED = {
    "rows": 100_000, "positives": 1058, "auc": {"value": 0.76812, "low": 0.7512, "high": 0.7839}, "ap": None,
    "ne": {"value": 0.86149, "low": None, "high": None}, "oe": {"value": 1.0741, "low": 0.998, "high": 1.156},
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.854464, 0.854), (0.00012345, 0.000123), (1234.56, 1235), (999.6, 1000), (3, 3), (None, "–"), (True, True), ("a", "a")],
)  # fmt: skip
def test_a_number_has_three_digits(value: float | str | None, shown: object) -> None:
    assert cell(value) == shown


def test_an_interval_is_broken_before_its_bracket_alone() -> None:
    text = interval(MEASURED["auc"])  # type: ignore[arg-type]
    assert text.split(" ") == ["0.768", "[0.751,\u00a00.784]"]
    assert interval(None) == "–"
    assert interval({"value": 0.5, "low": None, "high": None}) == "0.500"


def test_the_test_rows_have_a_line_a_metric() -> None:
    rows = rows_of_test({"click": MEASURED})
    assert [tuple(str(value).replace("\u00a0", " ") for value in row.values()) for row in rows] == [
        ("click", "positives", "1058", "of 100,000 rows"),
        ("click", "AUC", "0.768", "0.751 – 0.784"),
        ("click", "AP", "–", "–"),
        ("click", "NE", "0.861", "–"),
        ("click", "O/E", "1.074", "0.998 – 1.156"),
    ]


def test_other_ways_to_look_at_the_test_have_a_line_a_task() -> None:
    assert other_rows({"logged_position": {"click": MEASURED}}) == [
        {
            "test": "logged position",
            "task": "click",
            "AUC": "0.768",
            "AP": "–",
            "NE": "0.861",
            "O/E": "1.074",
        }
    ]


def test_the_splits_have_a_line_each() -> None:
    assert split_rows({"click": {"test": MEASURED}}) == [
        {"task": "click", "split": "test", "AUC": "0.768", "NE": "0.861", "O/E": "1.074"}
    ]


def test_each_state_of_a_label_has_a_column() -> None:
    assert set(STATE_COLUMNS) == {state.value for state in LabelState}
    [row] = state_rows({"click": {"POSITIVE": 3, "LATE_POSITIVE": 1}})
    assert row == {"task": "click", "positive": 3, "late": 1, "negative": 0, "outside": 0, "censored": 0}


def test_no_rows_are_a_word_and_a_run_without_a_page_has_no_link() -> None:
    assert table([]) == dg.MetadataValue.text("none")
    assert set(run_metadata("r", "")) == {"mlflow_run_id"}
    assert "(http://page/r)" in str(run_metadata("r", "http://page/r")["mlflow_run"].value)
