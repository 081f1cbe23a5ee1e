"""Times, orders and ids whose last digits a float, or six digits, cut off."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as arrow_parquet
import pytest

from ctr_pipeline.sources import SourceError

Maker = Callable[..., Any]
SECOND = 1_767_571_200


@pytest.mark.parametrize("kind", [pl.Float16, pl.Float32])
@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_times_in_single_precision_and_less_are_refused(
    make_spec: Maker, make_log: Maker, write: Maker, read: Maker, unit: str, kind: pl.DataType
) -> None:
    factor = {"s": 1, "ms": 10**3, "us": 10**6}[unit]
    at = pl.Series([(SECOND + 3600 * n) * factor for n in range(24)])
    spec = make_spec(impression={"id": "id", "time": "at", "time_unit": unit})
    with pytest.raises(SourceError, match=rf"column `at` has type {kind}, .* one {kind} stands for half a minute"):
        read(spec, write(make_log(at=at.cast(kind))))
    # In double precision a microsecond is a microsecond.
    assert read(spec, write(make_log(at=at.cast(pl.Float64)))).kept.height == 24


@pytest.mark.parametrize("name", ["log.csv", "log.ndjson"])
def test_times_of_six_digits_are_set_apart_and_a_column_of_them_is_refused(
    make_spec: Maker, make_log: Maker, write: Maker, read: Maker, name: str
) -> None:
    spec = make_spec(impression={"id": "id", "time": "at", "time_unit": "s"})
    at = [str(SECOND + 3600 * n) for n in range(24)]
    at[3], at[7] = "1.76757e+09", "1.767571200e+09"
    found = read(spec, write(make_log(at=at), name))
    assert found.quarantined["reason"].to_list() == ["inexact_time"]
    assert found.kept.height == 23
    with pytest.raises(SourceError, match=r"of one such as 1.7721e\+09 the last digits were cut off"):
        read(spec, write(make_log(at=["1.76757e+09"] * 24), name))


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("log.parquet", pl.Series([2**24 + n for n in range(24)]).cast(pl.Float32)),
        ("log.parquet", pl.Series([2**11 + n for n in range(24)]).cast(pl.Float16)),
        ("log.csv", pl.Series([f"1.7675{n:02}e+09" for n in range(24)])),
        ("log.ndjson", pl.Series([f"1.7675{n:02}e+09" for n in range(24)])),
    ],
)
def test_a_rounded_order_is_refused(
    make_spec: Maker, make_log: Maker, write: Maker, read: Maker, name: str, order: pl.Series
) -> None:
    spec = make_spec(impression={"id": "id", "order": {"column": "row", "rows_per_day": 12, "first_day": "2026-01-05"}})
    with pytest.raises(SourceError, match=r"24 values of column `row` are rounded .* order of their rows is lost"):
        read(spec, write(make_log(row=order), name))
    assert read(spec, write(make_log(row=list(range(24))), name)).kept.height == 24


@pytest.mark.parametrize(("kind", "limit"), [(pl.Float16, 2**11), (pl.Float32, 2**24), (pl.Float64, 2**53)])
@pytest.mark.parametrize("column", ["id", "who", "item"])
def test_ids_of_each_precision_are_set_apart_from_where_they_are_rounded(
    make_spec: Maker, make_log: Maker, write: Maker, read: Maker, column: str, kind: pl.DataType, limit: int
) -> None:
    values = pl.Series(
        [float(n) for n in range(20)] + [float(limit - 1), float(limit), float(limit + 2), -float(limit)]
    )
    found = read(make_spec(), write(make_log(**{column: values.cast(kind)})))
    assert found.quarantined.select("reason", "source_row").rows() == [("inexact_id", row) for row in (21, 22, 23)]


@pytest.mark.parametrize("written", ["1.152921504606847e+18", "9007199254740993.0", "1.5e19", "1e+18"])
def test_an_id_that_json_holds_as_a_float_is_set_apart(
    make_spec: Maker, make_log: Maker, tmp_path: Path, read: Maker, written: str
) -> None:
    lines = [row | {"at": row["at"].isoformat()} for row in make_log().iter_rows(named=True)]
    text = [json.dumps(line) for line in lines]
    text[5] = text[5].replace(json.dumps(lines[5]["who"]), written)
    # A whole number of as many digits is exact, and so is a large number that is no id.
    text[6] = (
        text[6].replace(json.dumps(lines[6]["who"]), "1152921504606846976").replace('"price": 6.0', '"price": 6e2')
    )
    (tmp_path / "log.ndjson").write_text("\n".join(text))
    found = read(make_spec(), tmp_path / "log.ndjson")
    assert found.quarantined.select("reason", "source_row", "value").rows() == [("inexact_id", 5, None)]
    assert found.kept.height == 23


def test_a_column_of_parquet_that_is_there_twice(
    make_spec: Maker, make_log: Maker, read: Maker, tmp_path: Path
) -> None:
    """It is refused where the spec names it, and nothing else is the matter otherwise."""
    rows = make_log().to_arrow()
    for name in ("price", "note"):
        twice = rows.append_column(name, pa.array([1.0] * 24)).append_column(name, pa.array([2.0] * 24))
        arrow_parquet.write_table(twice, tmp_path / f"{name}.parquet")
    with pytest.raises(SourceError, match=r"column `price` is there 3 times. Rename all but one"):
        read(make_spec(), tmp_path / "price.parquet")
    assert read(make_spec(), tmp_path / "note.parquet").kept.height == 24


@pytest.mark.parametrize("field", ["p", "q"])
def test_a_field_of_a_struct_that_is_there_twice(
    make_spec: Maker, make_log: Maker, read: Maker, tmp_path: Path, field: str
) -> None:
    """The structs of such a column cannot be read, those of other columns do not matter."""
    rows, values = make_log().to_arrow(), pa.array([1.0] * 24)
    twice = pa.StructArray.from_arrays([values] * 3, names=["p", "p", "q"])
    arrow_parquet.write_table(rows.append_column("d", twice), tmp_path / "log.parquet")
    spec = make_spec(features={"dense": [{"name": "price", "column": f"d.{field}"}]})
    with pytest.raises(SourceError, match=r"field `d\.p` is there more than once\. Rename all but one"):
        read(spec, tmp_path / "log.parquet")
    assert read(make_spec(), tmp_path / "log.parquet").kept.height == 24
