"""Lists and vectors in layout, vocabulary, statistics and arrays."""

from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.features import (
    PROFILE_SCHEMA,
    IdColumn,
    Layout,
    LayoutError,
    NumericColumn,
    Pooled,
    encode_ids,
    find_drift,
    fit_layout,
    number_columns,
    numeric_matrix,
    profile_days,
    profiled_columns,
)
from ctr_pipeline.spec import Spec, parse_spec

SPEC = """
version: 1
name: small
source: {{impressions: {{paths: [x.parquet]}}}}
impression: {{id: i, time: t, user: u}}
features:
  dense: [{{name: v, width: 3, missing: {missing}}}, {{name: price}}]
  categorical: [{{name: past, min_count: 2, list: {values}}}, {{name: ad, min_count: 1}}]
tasks: [{{name: click, window: 0s, label: {{column: y}}}}]
model: {{embedding_dim: 5}}
"""
DAY = date(2026, 1, 1)
PAST: list[list[str | None] | None] = [["a", "b", "a"], None, [], ["c", None], ["b", "z", "a", "b"]]
VECTORS = [[1.0, 10.0, 0.0], None, [3.0, 20.0, 0.0], [2.0, -30.0, 0.0], None]


def a_spec(values: str = "{}", missing: str = "{}") -> Spec:
    return parse_spec(SPEC.format(values=values, missing=missing), "small.yaml")


def rows() -> pl.DataFrame:
    columns: dict[str, Any] = {
        "day": [DAY] * 5,
        "ts": [0] * 5,
        "v": pl.Series(VECTORS, dtype=pl.List(pl.Float64)),
        "price": [1.0, 2.0, None, 4.0, 5.0],
        "past": pl.Series(PAST, dtype=pl.List(pl.String)),
        "ad": ["x", "y", "x", None, "x"],
    }
    return pl.DataFrame(columns)


def test_a_vector_is_its_numbers_with_one_indicator() -> None:
    layout, _ = fit_layout(a_spec(), rows().lazy())
    assert [(c.name, c.feature, c.is_element, c.indicator) for c in layout.numeric] == [
        ("v[0]", "v", True, True),
        ("v[1]", "v", True, False),
        ("v[2]", "v", True, False),
        ("price", "price", False, True),
    ]
    assert [c.fill for c in layout.numeric[:3]] == [2.0, 10.0, 0.0]
    filled = np.array([[1, 10], [2, 10], [3, 20], [2, -30], [2, 10]])
    assert [c.mean for c in layout.numeric[:2]] == pytest.approx(filled.mean(axis=0).tolist())
    assert [c.std for c in layout.numeric[:2]] == pytest.approx(filled.std(axis=0).tolist())
    assert layout.numeric[2].std == 1.0
    assert layout.number_places == {"v": slice(0, 3), "price": slice(3, 4)}
    without, _ = fit_layout(a_spec(missing="{fill: constant, value: -1, indicator: false}"), rows().lazy())
    assert [(c.fill, c.indicator) for c in without.numeric[:3]] == [(-1.0, False)] * 3


def test_wide_vectors_are_fitted_some_numbers_at_a_time() -> None:
    wide = np.random.default_rng(0).normal(size=(9, 40)).astype(np.float32)
    spec = parse_spec(SPEC.format(values="{}", missing="{}").replace("width: 3", "width: 40"), "x")
    frame = pl.concat([rows(), rows().head(4)]).with_columns(
        v=pl.Series(wide.tolist(), dtype=pl.List(pl.Float64))
    )  # fmt: skip
    layout, _ = fit_layout(spec, frame.lazy())
    assert [c.name for c in layout.numeric[:40]] == [f"v[{place}]" for place in range(40)]
    assert [c.mean for c in layout.numeric[:40]] == pytest.approx(wide.mean(axis=0, dtype=np.float64).tolist())
    assert [c.indicator for c in layout.numeric[:40]] == [True] + [False] * 39
    numbers = frame.select(column for feature in spec.features.numeric for column in number_columns(feature))
    np.testing.assert_array_equal(numeric_matrix(layout, numbers)[:, :40], wide)


def test_vocabulary_counts_the_values_that_are_read() -> None:
    layout, vocabulary = fit_layout(a_spec(), rows().lazy())
    past = vocabulary.filter(pl.col("feature") == "past")
    assert past.select("key", "row", "count").rows() == [("a", 2, 3), ("b", 3, 3)]
    assert layout.ids == (
        IdColumn("past", "categorical", 4, 5, Pooled(50, "mean", "last")),
        IdColumn("ad", "categorical", 4, 5),
    )
    _, first = fit_layout(a_spec("{max_length: 1, keep: first}"), rows().lazy())
    assert first.filter(pl.col("feature") == "past").height == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("{max_length: 4}", [[2, 3, 2, -1], [0, -1, -1, -1], [-1] * 4, [1, 0, -1, -1], [3, 1, 2, 3]]),
        ("{max_length: 2}", [[3, 2], [0, -1], [-1, -1], [1, 0], [2, 3]]),
        ("{max_length: 2, keep: first}", [[2, 3], [0, -1], [-1, -1], [1, 0], [3, 1]]),
    ],
)
def test_lists_are_padded(values: str, expected: list[list[int]]) -> None:
    _, vocabulary = fit_layout(a_spec(), rows().lazy())
    layout, _ = fit_layout(a_spec(values), rows().lazy())
    ids = encode_ids(layout, vocabulary, rows())
    assert ids.dtype == np.int32
    assert ids[:, :-1].tolist() == expected
    assert ids[:, -1].tolist() == [2, 3, 2, 0, 2]
    lowest, _ = layout.id_rows
    assert lowest.tolist() == [-1] * (len(lowest) - 1) + [0]
    assert layout.lone(1).tolist() == [1, *[-1] * (len(lowest) - 2), 1]


def test_lists_without_a_vocabulary_are_unknown_or_missing() -> None:
    spec = a_spec("{max_length: 2}")
    layout, vocabulary = fit_layout(spec, rows().lazy().filter(pl.lit(False)))
    assert encode_ids(layout, vocabulary, rows())[:, :2].tolist() == [[1, 1], [0, -1], [-1, -1], [1, 0], [1, 1]]
    assert encode_ids(layout, vocabulary, rows().clear()).shape == (0, 3)


def test_layout_of_lists_is_read_back() -> None:
    layout, _ = fit_layout(a_spec("{pooling: max, keep: first, max_length: 7}"), rows().lazy())
    assert Layout.from_json(layout.to_json()) == layout
    assert layout.to_json().count("pooled") == 1
    assert len(layout.id_columns) == 8
    assert layout.id_places == (slice(0, 7), slice(7, 8))


def test_layout_without_lists_keeps_its_text() -> None:
    plain = Layout(
        (NumericColumn("x", "dense", "none", 0.0, True, 0.0, 1.0),),
        (IdColumn("ad", "categorical", 3, 2),),
        ("y",),
        (-1,),
    )
    assert "pooled" not in plain.to_json()
    with pytest.raises(LayoutError, match="at least one place"):
        Layout((), (IdColumn("ad", "categorical", 3, 2, Pooled(0, "mean", "last")),), ("y",), (-1,))


def test_profile_says_how_many_lists_are_missing() -> None:
    spec = a_spec()
    shown = rows().with_columns(
        impression_id=pl.int_range(5).cast(pl.String),
        ts=pl.lit(1_767_225_600_000_000),
        user=pl.lit("u"),
        session=pl.lit("s"),
        position=pl.lit(1, pl.Int32),
        traffic=pl.lit(None, pl.String),
    )
    outcomes = pl.DataFrame(
        schema={
            "day": pl.Date, "impression_id": pl.String, "event": pl.String, "kind": pl.String,
            "event_ts": pl.Int64, "ingest_ts": pl.Int64,
        }
    )  # fmt: skip
    quarantined = pl.DataFrame(schema={"day": pl.Date, "reason": pl.String})
    profile = profile_days(spec, shown.select(profiled_columns(spec)), outcomes, quarantined, [DAY])
    assert profile.schema == PROFILE_SCHEMA
    found = profile.filter(pl.col("name").is_in(["past", "v"])).select("measure", "name", "value").rows()
    assert sorted(found) == [
        ("missing", "past", 1.0),
        ("missing", "v", 2.0),
        ("values", "past", 5.0),
        ("values", "v", 5.0),
    ]
    days = [date(2026, 1, day) for day in range(1, 21)]
    usual = pl.concat([profile.with_columns(day=pl.lit(day), value=100 * pl.col("value")) for day in days])
    gone = (pl.col("day") == days[-1]) & (pl.col("name") == "past") & (pl.col("measure") == "missing")
    drifted = usual.with_columns(value=pl.when(gone).then(450.0).otherwise("value"))
    assert [(f.symptom, f.name) for f in find_drift(drifted, [days[-1]])] == [("missing_values", "past")]
