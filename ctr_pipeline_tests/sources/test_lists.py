"""Lists of categories and vectors of numbers: the same from every format, and broken ones set aside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import Pseudonymiser, ReadResult, SourceError
from ctr_pipeline.sources.contract import check_impressions

Maker = Callable[..., Any]
Reader = Callable[..., ReadResult]

PAST: list[list[str] | None] = [["i1", "i2", "i1"], [], None, ["i3"], ["é", "a b"], ["i1", "i9", "i2", "i3"]]


def listed(**options: Any) -> dict[str, Any]:
    return {"categorical": [{"name": "past", "list": options}]}


def spread(values: list[Any], rows: int = 30) -> list[Any]:
    return [values[n % len(values)] for n in range(rows)]


def write_log(log: pl.DataFrame, path: Path, separator: str = "|") -> Path:
    if path.suffix == ".csv":
        lists = [name for name, kind in log.schema.items() if isinstance(kind, pl.List)]
        log.with_columns(pl.col(lists).cast(pl.List(pl.String)).list.join(separator)).write_csv(path)
    elif path.suffix == ".ndjson":
        log.write_ndjson(path)
    else:
        log.write_parquet(path, row_group_size=7)
    return path


@pytest.mark.parametrize("name", ["log.parquet", "log.ndjson", "log.csv"])
def test_every_format_gives_the_same_lists(
    make_spec: Maker, make_log: Maker, tmp_path: Path, read: Reader, name: str
) -> None:
    past = spread(PAST if name != "log.csv" else [value or None for value in PAST])
    kept = read(
        make_spec(features=listed(separator="|")), write_log(make_log(rows=30, past=past), tmp_path / name)
    ).kept
    assert kept.schema["past"] == pl.List(pl.String)
    assert kept["past"].to_list() == past


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([[3, 1], None], pl.List(pl.Int64), [["3", "1"], None]),
        ([[3.0, 1.5], []], pl.List(pl.Float64), [["3", "1.5"], []]),
        ([[True, False]], pl.List(pl.Boolean), [["true", "false"]]),
        ([["a", None, ""]], pl.List(pl.String), [["a", None, None]]),
        ([["a", "b"]], pl.List(pl.Categorical), [["a", "b"]]),
        ([["a", "b"], None], pl.Array(pl.String, 2), [["a", "b"], None]),
        ([None], pl.List(pl.String), [None]),
        ([[2**53 + 1, 2**60]], pl.List(pl.Int64), [["9007199254740993", "1152921504606846976"]]),
    ],
)
def test_values_are_the_texts_that_they_are_alone(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, values: list[Any], kind: Any, expected: list[Any]
) -> None:
    log = make_log(rows=30).with_columns(pl.Series("past", spread(values), dtype=kind))
    assert read(make_spec(features=listed()), write(log)).kept["past"].to_list() == spread(expected)


@pytest.mark.parametrize(
    ("separator", "texts", "expected"),
    [
        ("|", ["a|b|c", "a", "", "a||b", "|"], [["a", "b", "c"], ["a"], None, ["a", None, "b"], [None, None]]),
        (" ", ["N1 N2  N3", " N1 ", "N1\tN2"], [["N1", "N2", "N3"], ["N1"], ["N1", "N2"]]),
        (";", ["a; b ;NA", "NA"], [["a", "b", None], None]),
        ("::", ["a::b:c"], [["a", "b:c"]]),
        (".", ["1.2"], [["1", "2"]]),
    ],
)
@pytest.mark.parametrize("name", ["log.csv", "log.ndjson"])
def test_text_is_separated(
    make_spec: Maker,
    make_log: Maker,
    write: Maker,
    read: Reader,
    name: str,
    separator: str,
    texts: list[str],
    expected: list[Any],
) -> None:
    spec = make_spec(
        source={"impressions": {"paths": ["x"], "null_values": ["", "NA"]}}, features=listed(separator=separator)
    )
    kept = read(spec, write(make_log(rows=30, past=spread(texts)), name)).kept
    assert kept["past"].to_list() == spread(expected)


def test_an_array_may_hold_the_separator(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    path = write(make_log(rows=30, past=spread([["a|b", "c"], []])), "log.ndjson")
    assert read(make_spec(features=listed(separator="|")), path).kept["past"].to_list() == spread([["a|b", "c"], []])


@pytest.mark.parametrize("name", ["log.parquet", "log.ndjson", "log.csv"])
def test_private_values_are_hashed_one_by_one(
    make_spec: Maker, make_log: Maker, tmp_path: Path, read: Reader, pseudonymiser: Pseudonymiser, name: str
) -> None:
    spec = make_spec(features=listed(separator="|"), privacy={"pseudonymise": ["past"]})
    kept = read(spec, write_log(make_log(rows=30, past=spread([["u1", "u2"], ["u2"], None])), tmp_path / name)).kept
    one, two = pl.select(
        pseudonymiser.of(pl.lit("u1")).alias("a"), pseudonymiser.of(pl.lit("u2")).alias("b")
    ).row(0)  # fmt: skip
    assert kept["past"].to_list() == spread([[one, two], [two], None])
    with pytest.raises(SourceError, match="past: <Check pseudonyms>"):
        check_impressions(spec, kept.with_columns(past=pl.lit(["u1"])))


def test_longer_lists_are_counted(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    path = write(make_log(rows=30, past=spread(PAST)))
    result = read(make_spec(features=listed(max_length=2)), path)
    assert result.notices["cut_lists"] == 10
    assert result.kept["past"].to_list() == spread(PAST)
    assert read(make_spec(features=listed()), path).notices["cut_lists"] == 0


@pytest.mark.parametrize(
    ("columns", "features", "message"),
    [
        ({"past": "a|b"}, listed(), r"`past` has type String.*`past` reads lists.*`list.separator`"),
        ({"past": 3}, listed(), r"`past` has type Int32.*`past` reads lists"),
        ({"past": [[["a"]]]}, listed(), r"`past` has type List"),
        ({"v": 0.5}, {"dense": [{"name": "v", "width": 2}]}, r"`v` has type Float64.*`width`.*vectors"),
        ({"v": [["a", "b"]]}, {"dense": [{"name": "v", "width": 2}]}, r"none of the 30.*'2 values: a, b'.*numbers"),
        (
            {"v": [[1.0, 2.0, 3.0]]},
            {"dense": [{"name": "v", "width": 2}]},
            r"none of the 30.*'3 values: 1.0.*2 numbers",
        ),
        ({"item": [["a"]]}, {"categorical": [{"name": "item"}]}, r"`item` has type List"),
    ],
)
def test_a_column_of_another_kind_is_refused(
    make_spec: Maker,
    make_log: Maker,
    write: Maker,
    read: Reader,
    columns: dict[str, Any],
    features: dict[str, Any],
    message: str,
) -> None:
    path = write(make_log(rows=30).with_columns(**{name: pl.lit(value) if not isinstance(value, list) else pl.Series(value * 30) for name, value in columns.items()}))  # fmt: skip
    with pytest.raises(SourceError, match=message):
        read(make_spec(features=features), path)


VECTOR = {"dense": [{"name": "v", "width": 2, "minimum": -10, "maximum": 10}]}


@pytest.mark.parametrize("name", ["log.parquet", "log.ndjson"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1.0], "wrong_width"),
        ([1.0, 2.0, 3.0], "wrong_width"),
        ([1.0, None], "non_finite"),
        ([None, None], "non_finite"),
        ([1.0, 3.5e38], "non_finite"),
        ([1.0, 11.0], "out_of_range"),
        ([-10.5, 0.0], "out_of_range"),
        ([1.0, float("inf")], "non_finite"),
        ([float("nan"), 1.0], "non_finite"),
        ([], ""),
        (None, ""),
        ([10.0, -10.0], ""),
    ],
)
def test_vectors(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, name: str, value: Any, reason: str
) -> None:
    if name == "log.ndjson" and value and any(x != x or x == float("inf") for x in value if x is not None):
        pytest.skip("JSON has no such numbers")
    vectors: list[Any] = [[0.5, -0.25]] * 30
    vectors[7] = value
    log = make_log(rows=30).with_columns(pl.Series("v", vectors, dtype=pl.List(pl.Float64)))
    result = read(make_spec(features=VECTOR), write(log, name))
    assert result.quarantined["reason"].to_list() == ([reason] if reason else [])
    assert result.kept.schema["v"] == pl.List(pl.Float64)
    if reason:
        assert result.kept["v"].to_list() == [[0.5, -0.25]] * 29
        assert (result.quarantined["column"][0], result.quarantined["source_row"][0]) == ("v", 7)
        assert result.quarantined["value"][0].startswith(f"{len(value)} values: ")
    else:
        assert result.kept["v"].to_list()[7] == (value or None)


@pytest.mark.parametrize("kind", [pl.Array(pl.Float32, 2), pl.List(pl.Int16), pl.List(pl.String), pl.List(pl.Boolean)])
def test_vectors_of_any_number(make_spec: Maker, make_log: Maker, write: Maker, read: Reader, kind: Any) -> None:
    log = make_log(rows=30).with_columns(pl.Series("v", [[1, 0]] * 30).cast(pl.List(pl.Int8)).alias("v"))
    inner = kind.inner
    cast = log.with_columns(pl.col("v").cast(pl.List(inner)) if kind == pl.List(inner) else pl.col("v").list.to_array(2).cast(kind))  # fmt: skip
    assert read(make_spec(features=VECTOR), write(cast)).kept["v"].to_list() == [[1.0, 0.0]] * 30


def test_broken_lists_are_set_apart(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    path = write(make_log(rows=60, past=spread([["a"], []], 60)), "log.ndjson")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[3]["past"], lines[5]["past"], lines[9]["past"] = {"a": 1}, [["a"]], ["a\0"]
    lines[12]["past"] = "one"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = read(make_spec(features=listed()), path)
    assert result.quarantined["reason"].to_list() == ["malformed_row"] * 3
    assert result.quarantined["source_row"].to_list() == [3, 5, 9]
    assert result.kept["past"].to_list()[12 - 3] == ["one"]


def test_inexact_values_are_set_apart(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    past: list[Any] = [[1.0, 2.0], []] * 15
    past[4] = [1.0, float(2**53)]
    result = read(make_spec(features=listed()), write(make_log(rows=30, past=past)))
    assert result.quarantined["reason"].to_list() == ["inexact_id"]
    assert result.kept.height == 29


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0|\n\r\"'"), min_size=1, max_size=6).filter(
    # Texts that stand for themselves: numbers and truth values have several.
    lambda text: (
        text == text.strip()
        and not text.replace(".", "").lstrip("+-").isdigit()
        and text.lower() not in ("true", "false")
    )
)


@given(lists=st.lists(st.none() | st.lists(TEXT, min_size=1, max_size=5), min_size=12, max_size=12))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_lists_are_the_same_in_every_format(
    make_spec: Maker, make_log: Maker, tmp_path: Path, read: Reader, lists: list[list[str] | None]
) -> None:
    log = make_log(rows=12).with_columns(pl.Series("past", lists, dtype=pl.List(pl.String)))
    spec = make_spec(features=listed(separator="|"))
    found = [read(spec, write_log(log, tmp_path / name)).kept for name in ("a.parquet", "a.ndjson", "a.csv")]
    assert found[0]["past"].to_list() == lists
    assert found[1].drop("impression_id").equals(found[0].drop("impression_id"))
    assert found[2].drop("impression_id").equals(found[0].drop("impression_id"))
