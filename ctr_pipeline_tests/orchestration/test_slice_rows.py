"""The table of slices on Dagster's page: what is off stands first, and rows that differ read differently."""

from typing import Any

from ctr_pipeline.orchestration.assets.slices import MOST_LETTERS, slice_rows


def found(dimension: str, value: str, *, off: bool = False) -> dict[str, Any]:
    return {"dimension": dimension, "value": value, "positives": 3, "oe": {"value": 1.2}, "miscalibrated": off}


def test_long_names_are_cut_where_they_do_not_differ() -> None:
    by_task = {
        "click": [
            found("missing time_since_last_purchase", "missing"),
            found("missing time_since_last_purchase", "present"),
            found("ad age", "[2, 7)", off=True),
            found("c", "a value that is longer than all of the room there is"),
        ]
    }
    rows = slice_rows(by_task)
    assert [row["slice"] for row in rows] == [
        "ad age: [2, 7)", "missing time_sin…: missing", "missing time_sin…: present", "c: a value that is longer…",
    ]  # fmt: skip
    assert max(len(row["slice"]) for row in rows) <= MOST_LETTERS
    assert [row["O/E"] for row in rows] == ["1.200 (off)", "1.200", "1.200", "1.200"]
