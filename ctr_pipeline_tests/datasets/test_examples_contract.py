"""The contract of examples keeps good days, and names the rule that a broken one breaks."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandera.errors import SchemaErrors

from ctr_pipeline.datasets import DatasetError
from ctr_pipeline.datasets import pack as packing
from ctr_pipeline.datasets.examples_contract import check_examples, examples_contract
from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline_tests.datasets.logs import SPEC, a_log, a_spec, pack

DAY = date(2026, 3, 1)
START = 1_772_323_200_000_000
FEATURES = """
  dense: [{name: price, minimum: 0.1, maximum: 0.3}, {name: depth}]
  categorical: [{name: ad}]
  history: [{name: ad_rate, kind: rate, key: ad, task: click, days: 2}, {name: seen, kind: recency, key: ad, days: 3}]
"""


@pytest.fixture(scope="module")
def spec() -> Spec:
    head, _, tail = SPEC.partition("features:\n")
    return parse_spec(f"{head}features:{FEATURES}{tail[tail.index('tasks:') :]}", "contract.yaml")


def examples(**replaced: Any) -> pl.DataFrame:
    columns: dict[str, Any] = {
        "day": [DAY] * 4,
        "impression_id": ["a", "b", "c", "d"],
        "ts": [START, START + 1, START + 2, START + 86_399_999_999],
        "position": pl.Series([0, 1, 2, 3], dtype=pl.Int32),
        "price": pl.Series([0.1, 0.3, 0.2, None], dtype=pl.Float32),
        "depth": pl.Series([-1e30, 0, None, 5], dtype=pl.Float32),
        "ad_rate": [0.0, 1.0, 0.5, None],
        "seen": [0.0, 1e9, None, 2.0],
        "y_click": pl.Series([1, 1, 0, None], dtype=pl.Int8),
        "y_buy": pl.Series([1, 0, None, None], dtype=pl.Int8),
        "w_click": pl.Series([1.0, 0.1, 10.0, 1.0], dtype=pl.Float32),
        "w_buy": pl.Series([1.0] * 4, dtype=pl.Float32),
    }
    return pl.DataFrame({name: value for name, value in (columns | replaced).items() if value is not None})


def with_value(column: str, value: object) -> pl.DataFrame:
    good = examples()
    values = [*good[column].to_list()[:-1], value]
    return good.with_columns(pl.Series(column, values, dtype=good.schema[column], strict=False))


def test_good_examples_pass_in_any_order_of_columns(spec: Spec) -> None:
    check_examples(spec, examples())
    check_examples(spec, examples().select(sorted(examples().columns)))
    examples_contract(spec).validate(examples(), lazy=True)


BROKEN = [
    (lambda: with_value("price", 0.31), "price is at most 0.3"),
    (lambda: with_value("price", 0.0), "price is at least 0.1"),
    (lambda: with_value("depth", float("inf")), "depth is finite"),
    (lambda: with_value("depth", float("nan")), "depth is finite"),
    (lambda: with_value("ad_rate", 1.01), "ad_rate is at most 1"),
    (lambda: with_value("seen", -0.1), "seen is finite and not negative"),
    (lambda: with_value("seen", float("nan")), "seen is finite and not negative"),
    (lambda: with_value("y_click", 2), "y_click is 0 or 1"),
    (lambda: with_value("y_click", -1), "y_click is 0 or 1"),
    (lambda: with_value("y_buy", 1), "y_buy is 1 only where y_click is"),
    (lambda: with_value("w_click", 0.0), "w_click is finite and above 0"),
    (lambda: with_value("w_buy", float("inf")), "w_buy is finite and above 0"),
    (lambda: with_value("w_buy", None), "w_buy: not_nullable"),
    (lambda: with_value("impression_id", "a"), "impression_id occurs once"),
    (lambda: with_value("impression_id", None), "impression_id: not_nullable"),
    (lambda: with_value("ts", START + 86_400_000_000), "ts lies on the day"),
    (lambda: with_value("position", -1), "position is at least 0"),
    (lambda: examples(price=pl.Series([0.2] * 4)), "price: dtype"),
    (lambda: examples(y_click=[True] * 4), "y_click: dtype"),
    (lambda: examples(depth=None), "column_in_dataframe"),
    (lambda: examples(extra=[1] * 4), "column_in_schema"),
]


@pytest.mark.parametrize(("make", "rule"), BROKEN, ids=[f"{n}: {rule}" for n, (_, rule) in enumerate(BROKEN)])
def test_broken_examples_are_refused_by_rule(spec: Spec, make: Callable[[], pl.DataFrame], rule: str) -> None:
    with pytest.raises(DatasetError, match="2026-03-01: 4 rows break their contract") as caught:
        check_examples(spec, make())
    assert rule in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(SchemaErrors):
        examples_contract(spec).validate(make(), lazy=True)


@given(value=st.floats(0.1, 0.3), low=st.floats(-1e6, 1e6), high=st.floats(-1e6, 1e6))
def test_a_value_within_its_limits_is_within_them_when_rounded(value: float, low: float, high: float) -> None:
    """Packing rounds to single precision, and so does the contract: no good row is refused for it."""
    low, high = sorted((low, high))
    inside = low + (high - low) * (value - 0.1) / 0.2
    inside = min(max(inside, low), high)
    assert np.float32(low) <= np.float32(inside) <= np.float32(high)


def test_packing_looks_at_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[pl.DataFrame] = []

    def check(spec: Spec, frame: pl.DataFrame) -> None:
        check_examples(spec, frame)
        seen.append(frame)

    monkeypatch.setattr(packing, "check_examples", check)
    packed = pack(tmp_path / "packed", a_log(), a_spec())
    assert sum(frame.height for frame in seen) == sum(len(split) for split in packed.splits.values())


def test_days_that_are_packed_together_are_packed_as_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = pack(tmp_path / "together", a_log(), a_spec())
    monkeypatch.setattr(packing, "FEW_ROWS", 1)
    alone = pack(tmp_path / "alone", a_log(), a_spec())
    assert together.manifest()["sha256"] == alone.manifest()["sha256"]
    assert together.manifest()["splits"] == alone.manifest()["splits"]


def test_an_id_may_occur_on_two_days_that_are_packed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []

    def check(spec: Spec, frame: pl.DataFrame) -> None:
        checked.append(frame["day"].n_unique())
        same = frame.with_columns(impression_id=pl.int_range(pl.len()).over("day").cast(pl.String))
        check_examples(spec, same)

    monkeypatch.setattr(packing, "check_examples", check)
    pack(tmp_path / "packed", a_log(), a_spec())
    assert max(checked) > 1
    assert 1 in checked


@pytest.mark.parametrize(
    ("rows", "groups"),
    [
        ({}, []),
        ({1: 3}, [[1]]),
        ({1: 3, 2: 4, 3: 3}, [[1, 2, 3]]),
        ({1: 3, 2: 4, 9: 4}, [[1, 2], [9]]),
        ({1: 30, 2: 1, 5: 30, 6: 1}, [[1], [2], [5], [6]]),
        ({1: 10, 2: 10}, [[1], [2]]),
    ],
)
def test_days_with_few_rows_are_packed_together(
    rows: dict[int, int], groups: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "FEW_ROWS", 10)
    found = packing._together({date(2026, 1, day): count for day, count in rows.items()})
    assert [[day.day for day in group] for group in found] == groups


def test_packing_stops_at_examples_that_break_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(spec: Spec, frame: pl.DataFrame) -> None:
        check_examples(spec, frame.with_columns(pl.lit(2, pl.Int8).alias("y_click")))

    monkeypatch.setattr(packing, "check_examples", broken)
    with pytest.raises(DatasetError, match="y_click is 0 or 1"):
        pack(tmp_path / "packed", a_log(), a_spec())
