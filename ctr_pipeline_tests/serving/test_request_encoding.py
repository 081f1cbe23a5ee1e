"""Columns of a request encode as its rows do, one value at a time, by the functions that read one value."""

import datetime
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.features.layout import (
    PADDING,
    FromTime,
    IdColumn,
    Layout,
    NumericColumn,
    Pooled,
)
from ctr_pipeline.serving.category_rows import CategoryRows, Vocabulary
from ctr_pipeline.serving.request_encoding import RequestEncoder
from ctr_pipeline.serving.request_values import BundleError, category_text, category_texts, finite_number

KEYS = ["a", "7", "0", "1", "-3", "0.5", "1.10", "true", "false", "NA", "é", "123456789012345678", "1e20", "2026-01-02"]
VOCABULARY = {key: row for row, key in enumerate(KEYS, 2)}
LAYOUT = Layout(
    numeric=(
        NumericColumn("price", "dense", "none", 0.0, True, 0.0, 1.0),
        NumericColumn("seen", "dense", "none", 0.0, True, 0.0, 1.0),
    ),
    ids=(
        IdColumn("ad", "categorical", len(KEYS) + 2, 4),
        IdColumn("device", "categorical", len(KEYS) + 2, 4, table="ad"),
        IdColumn("hour", "contextual", 5, 2, from_time=FromTime("hour", "Europe/Berlin")),
        IdColumn("tags", "categorical", len(KEYS) + 2, 4, table="ad", pooled=Pooled(3, "mean", "first")),
    ),
    tasks=("click",),
    parents=(-1,),
    null_values={"device": ("NA", "0", "none"), "seen": ("-1", "unknown"), "tags": ("false",)},
)
ENCODER = RequestEncoder.of(LAYOUT, Vocabulary({"ad": VOCABULARY, "hour": {"10": 2, "11": 3, "12": 4}}))

VALUES = st.one_of(
    st.none(), st.sampled_from(KEYS), st.sampled_from([f" {key}\t" for key in KEYS]), st.text(max_size=3), st.booleans(),
    st.integers(-5, 10), st.sampled_from([123456789012345678, 10**20, 2**70, np.int64(7), np.float32(0.5), np.bool_(True)]),
    st.sampled_from([0.0, -0.0, 1.0, 7.0, 0.5, 1.1, 1e20, math.nan, 0.1, 123456789012345678.0]), st.floats(allow_infinity=False),
    st.sampled_from([Decimal("7.0"), Decimal("0.50"), Decimal(1), datetime.date(2026, 1, 2)]),
)  # fmt: skip


def row_of(value: Any, nulls: Sequence[str] = ()) -> int:
    """What the vocabulary has for one value, by the function that reads one."""
    text = category_text(value, "")
    return 0 if text is None or text in nulls else VOCABULARY.get(text, 1)


@given(st.lists(VALUES, max_size=8), st.sampled_from([(), ("0",), ("true", "7"), ("0.5", "none")]))
def test_a_column_has_the_rows_of_its_values(values: list[Any], nulls: Sequence[str]) -> None:
    found = CategoryRows(VOCABULARY, nulls).rows(values, "feature 'ad'")
    assert found.tolist() == [row_of(value, nulls) for value in values]


@given(st.lists(st.none() | st.lists(VALUES, max_size=5), max_size=5), st.integers(1, 4), st.booleans(), st.booleans())
def test_lists_keep_their_first_or_last_values(
    lists: list[list[Any] | None], length: int, last: bool, empty: bool
) -> None:
    found = CategoryRows(VOCABULARY).lists(lists, length, last=last, empty=empty)
    for given_list, row in zip(lists, found.tolist(), strict=True):
        read = ([] if empty else [None]) if given_list is None else given_list
        kept = [row_of(value) for value in (read[-length:] if last else read[:length])]
        assert row == [*kept, *[PADDING] * (length - len(kept))]
    assert found.shape == (len(lists), length)


NUMBERS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_infinity=False), st.sampled_from([-1, -1.0, 3.5e38])
)  # fmt: skip


@given(
    st.lists(
        st.tuples(NUMBERS, NUMBERS | st.just(" unknown"), VALUES, VALUES, st.lists(VALUES, max_size=4)), max_size=6
    )
)
def test_columns_encode_as_rows_do(rows: list[tuple[Any, ...]]) -> None:
    names = ("price", "seen", "ad", "device", "tags")
    mappings = [dict(zip(names, row, strict=True)) for row in rows]
    columns = {name: [row[name] for row in mappings] for name in names}
    numeric, ids = ENCODER.columns(columns, len(rows))
    for at, row in enumerate(mappings):
        seen = None if category_text(row["seen"], "") in ("-1", "unknown") else row["seen"]
        wanted = np.array([finite_number(row["price"], ""), finite_number(seen, "")])
        wanted[np.abs(wanted) > np.finfo(np.float32).max] = np.nan
        assert np.array_equal(numeric[at], wanted.astype(np.float32), equal_nan=True)
        assert ids[at, :2].tolist() == [row_of(row["ad"]), row_of(row["device"], LAYOUT.null_values["device"])]
        tags = [row_of(text, ("false",)) for text in (category_texts(row["tags"], "") or [])[:3]]
        assert ids[at, 3:].tolist() == [*tags, *[PADDING] * (3 - len(tags))]
    again = ENCODER.rows(mappings)
    assert np.array_equal(again[0], numeric, equal_nan=True)
    assert np.array_equal(again[1], ids)


def test_parts_of_the_time_are_made_unless_they_are_given() -> None:
    noon = datetime.datetime(2026, 3, 1, 10, 30, tzinfo=datetime.UTC)
    assert ENCODER.columns({"ts": [noon, None]}, 2)[1][:, 2].tolist() == [3, 0]
    assert ENCODER.columns({"ts": [noon], "hour": [None]}, 1)[1][:, 2].tolist() == [0]
    assert ENCODER.rows([{"ts": noon}, {"ts": noon, "hour": 12}, {"hour": "10"}])[1][:, 2].tolist() == [3, 4, 2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"price": [1.0]}, "feature 'price': found 1 values; expected 2"),
        ({"price": 1.0}, "feature 'price': found float; expected a list of 2 values"),
        ({"ad": "a7"}, "feature 'ad': found str; expected a list"),
        ({"price": [1.0, "3"]}, "row 1: feature 'price': found str; expected a number"),
        ({"price": [1.0, math.inf]}, "row 1: feature 'price': found inf; expected a finite number"),
        ({"price": [1.0, 10**400]}, "row 1: feature 'price': found a whole number of 1329 bits; expected"),
        ({"ad": ["a", 10**5000]}, "row 1: feature 'ad': found a whole number of 16610 bits"),
        ({"ad": ["a", ["a"]]}, "row 1: feature 'ad': found list; expected text"),
        ({"ad": ["a", 1j]}, "row 1: feature 'ad': found complex"),
        ({"tags": [["a"], "a"]}, "row 1: feature 'tags': found str; expected a list of categories"),
        ({"tags": [["a"], ["a", {}]]}, "row 1: feature 'tags': found dict"),
        ({"pric": [1.0, 2.0]}, "did you mean 'price'"),
    ],
)  # fmt: skip
def test_a_wrong_column_is_refused_by_name(columns: Mapping[str, Any], message: str) -> None:
    with pytest.raises(BundleError) as error:
        ENCODER.columns(columns, 2)
    assert message in str(error.value)
