"""Values that the spec declares to mean a missing one: of all columns or of one, the same in every format and in requests."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.serving.request_values import BundleError, known_value
from ctr_pipeline.sources import ReadResult
from ctr_pipeline.sources.missing import null_texts, without_nulls

Maker = Callable[..., Any]
Reader = Callable[..., ReadResult]

NULLS = null_texts([-1, "NA", True, 2.5, "1900-01-01", ""])
MISSING: list[Any] = [-1, -1.0, "-1", " -1.00 ", "NA", " NA", True, "TRUE", 2.5, "2.5", "1900-01-01"]
PRESENT: list[Any] = [1, -1.5, "-01", "na", "N A", False, "2.50", "1900-01-02", 0.0]


@pytest.mark.parametrize(("value", "missing"), [(v, True) for v in MISSING] + [(v, False) for v in PRESENT])
def test_a_log_and_a_request_agree(value: Any, missing: bool) -> None:
    column = pl.Series("x", [value, None])
    found = column.to_frame().select(without_nulls(pl.col("x"), column.dtype, NULLS))["x"]
    assert found.dtype == column.dtype
    assert found.to_list() == [None if missing else value, None]
    assert known_value(value, NULLS, "here") == (None if missing else value)
    assert known_value([value, 7], NULLS, "here") == [None if missing else value, 7]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([date(1900, 1, 1), date(1900, 1, 2)], [None, date(1900, 1, 2)]),
        ([datetime(1900, 1, 1), datetime(1900, 1, 1, 1)], [None, datetime(1900, 1, 1, 1)]),
        ([datetime(1900, 1, 1, tzinfo=UTC)], [None]),
        ([[1, -1, None], [], None], [[1, None, None], [], None]),
        ([["NA", "a"]], [[None, "a"]]),
        ([None], [None]),
    ],
)
def test_times_and_lists(values: list[Any], kept: list[Any]) -> None:
    column = pl.Series("x", values)
    found = column.to_frame().select(without_nulls(pl.col("x"), column.dtype, NULLS))["x"]
    assert found.dtype == column.dtype
    assert found.to_list() == kept


def test_a_request_value_without_a_text() -> None:
    with pytest.raises(BundleError, match="here: found dict"):
        known_value({}, NULLS, "here")


ROWS = st.lists(
    st.tuples(
        st.sampled_from([-1.0, -2.0, 0.0, 3.5, None]),
        st.sampled_from(["unknown", "-", "-1", "x", "NA", None]),
        st.sampled_from([0, 1, 9, None]),
    ),
    min_size=1,
    max_size=8,
)
DECLARED = st.sampled_from(
    [
        {"price": [-1], "item": ["unknown", "-"], "clicked": [9]},
        ["NA", {"price": ["-1"], "clicked": ["9.0"]}],
        [-1, 9],
        [{"item": ["x"]}, {"item": ["NA"], "clicked": [9]}],
    ]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, declared=DECLARED)
def test_equal_content_gives_equal_tables(
    make_spec: Maker,
    make_log: Maker,
    read: Reader,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[Any, ...]],
    declared: Any,
) -> None:
    price, item, clicked = (list(column) for column in zip(*rows, strict=True))
    kinds = {"price": pl.Float64, "item": pl.String, "clicked": pl.Int64}
    values = {"price": price, "item": item, "clicked": clicked}
    log = make_log(
        rows=len(rows), **{name: pl.Series(value, dtype=kinds[name]) for name, value in values.items()}
    ).with_columns(pl.col("at").dt.to_string("%Y-%m-%dT%H:%M:%SZ"))
    folder: Path = tmp_path_factory.mktemp("logs")
    log.write_csv(folder / "log.csv")
    log.write_ndjson(folder / "log.ndjson")
    log.write_parquet(folder / "log.parquet")
    log.with_columns(pl.col("price", "clicked").cast(pl.String)).write_parquet(folder / "text.parquet")
    spec = make_spec(source={"impressions": {"paths": ["log"], "null_values": declared}})
    found = [read(spec, folder / name) for name in ("log.csv", "log.ndjson", "log.parquet", "text.parquet")]
    for other in found[1:]:
        assert other.kept.equals(found[0].kept)
        assert other.quarantined.drop("source_file", "value").equals(found[0].quarantined.drop("source_file", "value"))
    lists = [declared] if isinstance(declared, dict) else [x if isinstance(x, dict) else {None: [x]} for x in declared]

    def is_null(name: str, value: Any) -> bool:
        named = [text for entry in lists for key, texts in entry.items() if key in (None, name) for text in texts]
        return value is None or any(str(value).removesuffix(".0") == str(text).removesuffix(".0") for text in named)

    bad = [
        (not is_null("price", p) and p < 0) or (not is_null("clicked", c) and c == 9)
        for p, c in zip(price, clicked, strict=True)
    ]
    assert found[0].kept["item"].to_list() == [
        None if is_null("item", i) else i for i, wrong in zip(item, bad, strict=True) if not wrong
    ]
    assert found[0].quarantined.height == sum(bad)
