"""One value has one text in every type and format, and what a float rounded is seen in text too."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.privacy.identities import pseudonym_of
from ctr_pipeline.serving.request_values import category_text
from ctr_pipeline.sources import Pseudonymiser, ReadResult, read_events
from ctr_pipeline.sources.canonical import declared_texts, is_rounded, text_of

Maker = Callable[..., Any]
Reader = Callable[..., ReadResult]

FIRST = date(2026, 1, 5)

SAME: dict[str, list[Any]] = {
    "3": [3, 3.0, Decimal("3"), Decimal("3.00"), "3", "3.0", "3.00", " 3 ", "\t3.0"],
    "0": [0, 0.0, -0.0, Decimal("0.00"), "0", "-0", "-0.0"],
    "-12": [-12, -12.0, Decimal("-12.0"), "-12", "-12.000 "],
    "1000": [1000, 1000.0, Decimal("1000.00"), Decimal("1000"), "1000", "1000.0"],
    "3.5": [3.5, Decimal("3.5"), Decimal("3.50"), "3.5"],
    "true": [True, "true", "True", "TRUE", " True"],
    "false": [False, "false", "False", "FALSE"],
}
CODES = [
    "007",
    "007.0",
    "1e5",
    "1E+2",
    "1.10",
    "1.1",
    "tRUE",
    "+3",
    "3.",
    ".0",
    "a",
    "A",
    "1,0",
    "1",
    "e\u0301",
    "\u00e9",
]


@pytest.mark.parametrize(("text", "value"), [(text, value) for text, values in SAME.items() for value in values])
def test_one_text_for_one_value(text: str, value: Any) -> None:
    column = pl.Series("x", [value])
    found = text_of(pl.col("x"), column.dtype)
    assert found is not None
    assert column.to_frame().select(found).item() == text
    assert category_text(value, "here") == text
    if not isinstance(value, Decimal):
        assert declared_texts([value]) == [text]


@pytest.mark.parametrize("code", CODES)
def test_texts_that_may_be_codes_stay(code: str) -> None:
    assert declared_texts([code]) == [code]
    assert category_text(code, "here") == code


@pytest.mark.parametrize("value", [0.1, 1e-7, 2.5])
def test_a_float32_has_the_text_of_the_same_number(value: float) -> None:
    column = pl.Series("x", [value], dtype=pl.Float32)
    found = text_of(pl.col("x"), column.dtype)
    assert found is not None
    assert column.to_frame().select(found).item() == category_text(value, "here")


ROUNDED = {
    "1.2345678901234567e+18": True,
    "1.2345678901234568E17": True,
    "1e+20": True,
    "9007199254740992.0": True,
    "-9007199254740993.0": True,
    "1.7721e+09": True,
    "1.23457e+06": True,
    "1,15292E+18": True,
    "1,15292E18": True,
    "1,5E+01": False,
    "9007199254740991.0": False,
    "9007199254740993": False,
    "123456789012345678901234567890": False,
    "123e45": False,
    "1e5": False,
    "1.5e-7": False,
    "1.5e+01": False,
    "1.2345e+3": False,
    "item-9e+99": False,
    "inf": False,
    "": False,
}


@pytest.mark.parametrize(("text", "rounded"), ROUNDED.items())
def test_texts_of_rounded_floats(text: str, rounded: bool) -> None:
    found = is_rounded(pl.col("x"), pl.String())
    assert found is not None
    assert bool(pl.DataFrame({"x": [text]}).select(found.fill_null(False)).item()) is rounded


@pytest.mark.parametrize("name", ["log.parquet", "log.csv", "log.ndjson"])
@pytest.mark.parametrize("spelling", ["{}", "{}.0", " {}.00 "])
def test_an_id_has_one_pseudonym(
    make_spec: Maker,
    make_log: Maker,
    write: Maker,
    read: Reader,
    pseudonymiser: Pseudonymiser,
    name: str,
    spelling: str,
) -> None:
    ids = list(range(100, 112))
    log = write(make_log(rows=12, id=[spelling.format(n) for n in ids], who=[float(n) for n in ids]), name)
    kept = read(make_spec(), log).kept
    expected = [pseudonym_of(str(n), pseudonymiser) for n in ids]
    assert sorted(kept["impression_id"]) == sorted(kept["user"]) == sorted(expected)
    assert pseudonym_of("100.0", pseudonymiser) == expected[0]


@pytest.mark.parametrize("name", ["log.csv", "log.ndjson"])
def test_one_rounded_id_is_set_aside(make_spec: Maker, make_log: Maker, write: Maker, read: Reader, name: str) -> None:
    users = ["1.2345678901234567e+18", *(f"{n}.0" for n in range(23))]
    result = read(make_spec(), write(make_log(who=users), name))
    assert result.quarantined.select("reason", "column", "value").rows() == [("inexact_id", "who", None)]


def test_the_outcome_of_a_rounded_id_is_not_that_of_another_impression(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, pseudonymiser: Pseudonymiser
) -> None:
    ids = ["9007199254740992.0", "9007199254740992", *(str(n) for n in range(22))]
    path = write(make_log(id=ids, clicked=[1, 0, *[0] * 22]), "log.csv")
    result = read(make_spec(), path)
    assert result.quarantined.select("reason", "source_row").rows() == [("inexact_id", 0)]
    outcomes = read_events(make_spec(), [path], {}, FIRST, FIRST, pseudonymiser, FIRST)
    assert (outcomes.kept.height, outcomes.ignored) == (0, 24)


@pytest.mark.parametrize(("event", "types"), [("1.0", [1, 1.0, "1", "1.0 "]), ("True", [True, "true", "TRUE"])])
def test_events_join_whatever_the_spelling(
    make_spec: Maker, write: Maker, pseudonymiser: Pseudonymiser, event: str, types: list[Any]
) -> None:
    source = {"impressions": {"paths": ["log.parquet"]}, "events": [{"paths": ["events.csv"]}]}
    click = {"name": "click", "window": "24h", "label": {"event": event}}
    spec = make_spec(source=source, tasks=[click])
    when = ["2026-01-05T08:00:00Z"] * 2
    log = spec.source.events[0]
    for kind in types:
        for name, ids in (("events.csv", ["7.0", "8"]), ("events.parquet", [7.0, 8.0])):
            path = write(pl.DataFrame({log.impression_id: ids, log.type: [kind] * 2, log.time: when}), name)
            kept = read_events(spec, [], {log.name: [path]}, FIRST, FIRST, pseudonymiser, FIRST).kept
            assert sorted(kept["impression_id"]) == sorted(pseudonym_of(n, pseudonymiser) for n in ("7", "8"))
            assert kept["event"].to_list() == ["click"] * 2
