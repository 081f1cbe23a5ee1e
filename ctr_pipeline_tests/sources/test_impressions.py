"""Impressions: right values from every format, and each broken row set aside with its reason."""

import gzip
import hashlib
import hmac
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.sources import ReadResult, log_range

FIRST, LAST = date(2026, 1, 5), date(2026, 1, 8)
MIDNIGHT_US = 1_767_571_200_000_000
HOUR_US = 3_600_000_000

Maker = Callable[..., Any]
Reader = Callable[..., ReadResult]


def hashed(text: str) -> str:
    return hmac.new(b"0123456789abcdef", text.encode(), hashlib.sha256).hexdigest()[:32]


def test_a_row_has_the_canonical_columns(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    kept = read(make_spec(), write(make_log(rows=3, secret=["a", "b", "c"]))).kept
    assert kept.schema == {
        "day": pl.Date,
        "impression_id": pl.String,
        "ts": pl.Int64,
        "ingest_ts": pl.Int64,
        "user": pl.String,
        "session": pl.String,
        "position": pl.Int32,
        "traffic": pl.String,
        "propensity": pl.Float64,
        "price": pl.Float64,
        "item": pl.String,
    }
    ts = MIDNIGHT_US + HOUR_US
    row = (FIRST, hashed("imp-1"), ts, ts, hashed("user-1"), None, None, None, None, 1.0, "item-1")
    assert kept.row(1) == row


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.ndjson", "log.csv.gz", "log.ndjson.gz", "log.parquet.gz"])
def test_every_format_gives_the_same_rows(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, tmp_path: Path, name: str
) -> None:
    log = make_log(rows=40).with_columns(
        item=pl.when(pl.int_range(40) == 7).then(pl.lit('two "words",\n and é')).otherwise("item"),
        price=pl.when(pl.int_range(40) % 5 != 0).then("price"),
    )
    expected = read(make_spec(), write(log)).kept
    path = write(log, name.removesuffix(".gz"))
    if name.endswith(".gz"):
        packed = tmp_path / name
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    # This writer quotes texts in tab-separated files too.
    quoting = {"quote": '"'} if name.endswith(".tsv") else {}
    spec = make_spec(source={"impressions": {"paths": [name], **quoting}})
    assert read(spec, path).kept.equals(expected)
    assert log_range(spec, [path]) == (FIRST, date(2026, 1, 6))


@pytest.mark.parametrize("name", ["log.csv", "log.ndjson", "log.parquet"])
@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([0.25, 0.0, 20.0], [0.25, 0.0, 20.0]),
        (["0.5", " 3 ", "1e3"], [0.5, 3.0, 1000.0]),
        ([True, False, True], [1.0, 0.0, 1.0]),
        ([2, 1, 2**40], [2.0, 1.0, 2.0**40]),
    ],
)
def test_weights_of_rows_are_stored(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, name: str, values: list[Any], stored: list[float]
) -> None:
    spec = make_spec(impression={"id": "id", "time": "at", "weight": "load"})
    kept = read(spec, write(make_log(rows=3, load=values), name)).kept
    assert kept["weight"].to_list() == stored
    assert kept.columns[8:10] == ["propensity", "weight"]


def test_days_are_read_one_by_one_as_together(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    log = make_log(rows=80, price=["x" if n % 9 == 0 else str(n) for n in range(80)])
    for name in ("log.parquet", "log.csv"):
        path = write(log, name)
        together = read(make_spec(), path)
        apart = [read(make_spec(), path, first=day, last=day) for day in pl.date_range(FIRST, LAST, eager=True)]
        assert pl.concat([part.kept for part in apart]).equals(together.kept)
        assert pl.concat([part.quarantined for part in apart]).equals(together.quarantined)
        assert {day: n for part in apart for day, n in part.rows_in_by_day.items()} == together.rows_in_by_day
        assert together.rows_in == 80


def test_rows_without_a_time_belong_to_the_first_day_of_the_log(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader
) -> None:
    times = [None if n in (3, 30) else datetime(2026, 1, 5) + timedelta(hours=n) for n in range(48)]
    path = write(make_log(rows=48, at=times))
    tuesday = date(2026, 1, 6)
    assert read(make_spec(), path, first=FIRST, last=FIRST).rows_in_by_day == {FIRST: 23 + 2}
    assert read(make_spec(), path, first=tuesday, last=tuesday).rows_in_by_day == {tuesday: 23}
    # The partition may start after the log does: rows before it are not of this run's concern.
    late = read(make_spec(), path, first=tuesday, last=tuesday, log_first=tuesday)
    assert late.rows_in_by_day == {tuesday: 23 + 2}


BROKEN = [
    ("id", ["imp-0", None, "imp-2"], "missing_id", "each impression has an id in `id`", None),
    ("id", ["imp-0", "", "imp-2"], "missing_id", "each impression has an id in `id`", None),
    ("at", ["2026-01-05", None, "2026-01-05"], "missing_time", "each row has a time in `at`", None),
    ("at", ["2026-01-05", "noon", "2026-01-05"], "bad_time", "2026-01-31T08:15:00Z, or a number since 1970", "noon"),
    ("at", [MIDNIGHT_US, 12, MIDNIGHT_US], "bad_time", "between 1980 and 2200", "12"),
    ("price", ["1", "1,5", "2"], "not_a_number", "`price` holds numbers (a text that means missing", "1,5"),
    ("price", [1.0, float("inf"), 2.0], "non_finite", "finite numbers", "inf"),
    ("price", ["1", "-1e999", "2"], "non_finite", "finite numbers", "-1e999"),
    ("price", [1, -1, 2], "out_of_range", "`price` is 0 to 1000, as feature `price` declares", "-1"),
    ("price", [1, 1001, 2], "out_of_range", "0 to 1000", "1001"),
    ("clicked", ["0", "maybe", "1"], "bad_label", "`clicked` is 0, 1, true, false or missing", "maybe"),
    ("clicked", [0, 2, 1], "bad_label", "0, 1", "2"),
    ("slot", [1, 0, 2], "bad_position", "whole number from 1", "0"),
    ("slot", [1.0, 1.5, 2.0], "bad_position", "whole number from 1", "1.5"),
    ("slot", ["1", "top", "2"], "bad_position", "whole number from 1", "top"),
    ("probability", [0.5, 0.0, 1.0], "bad_propensity", "above 0 and at most 1", "0.0"),
    ("probability", [0.5, 1.1, 1.0], "bad_propensity", "above 0 and at most 1", "1.1"),
    ("load", [1.0, -0.5, 2.0], "bad_weight", "`load` is a finite number from 0", "-0.5"),
    ("load", [1.0, float("inf"), 2.0], "bad_weight", "finite number", "inf"),
    ("load", [1.0, float("nan"), 2.0], "bad_weight", "in each row (1 where a row counts once)", "NaN"),
    ("load", [1.0, None, 2.0], "bad_weight", "in each row", None),
    ("load", ["1", "heavy", "2"], "bad_weight", "finite number", "heavy"),
    ("load", ["1", "-1e-9", "2"], "bad_weight", "finite number from 0", "-1e-9"),
    ("load", [1.0, 1e31, 2.0], "bad_weight", "finite number", "1e+31"),
    ("received", ["2026-01-06", "late", "2026-01-06"], "bad_time", "`received` holds a date", "late"),
    ("received", ["2026-01-06", None, "2026-01-06"], "missing_time", "a time in `received`", None),
]


def test_arms_are_stored_by_their_names(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    arm = {"column": "variant", "control": [0], "treatment": [1, "new"]}
    spec = make_spec(impression={"id": "id", "time": "at", "arm": arm})
    kept = read(spec, write(make_log(rows=5, variant=["0", "1", "new", "other", None]))).kept
    assert kept["arm"].to_list() == ["control", "treatment", "treatment", None, None]
    assert kept.columns[8:10] == ["propensity", "arm"]


@pytest.mark.parametrize(("column", "values", "reason", "rule", "value"), BROKEN)
def test_a_broken_row_is_set_aside_with_its_reason(
    make_spec: Maker,
    make_log: Maker,
    write: Maker,
    read: Reader,
    column: str,
    values: list[object],
    reason: str,
    rule: str,
    value: str | None,
) -> None:
    extra = {"slot": "position", "probability": "propensity", "received": "ingest_time", "load": "weight"}
    declared = {"id": "id", "time": "at", "user": "who"} | ({extra[column]: column} if column in extra else {})
    path = write(make_log(rows=3, **{column: pl.Series(values)}))
    result = read(make_spec(impression=declared), path)
    assert result.kept.height == 2
    found = result.quarantined.row(0, named=True)
    assert rule in found.pop("rule")
    assert found == {
        "day": FIRST,
        "table": "impressions",
        "reason": reason,
        "column": column,
        "source_file": "log.parquet",
        "source_row": 1,
        "value": value,
    }


def test_missing_values_are_kept_as_missing(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    declared = {"id": "id", "time": "at", "position": "slot", "propensity": "p"}
    log = make_log(
        rows=4,
        price=[float("nan"), None, 1.0, 2.0],
        item=["", None, " ", "x"],
        clicked=[None, float("nan"), 1.0, 0.0],
        slot=[None, float("nan"), 1.0, 2.0],
        p=[None, float("nan"), 1.0, 0.25],
    )
    kept = read(make_spec(impression=declared), write(log)).kept
    assert kept["price"].to_list() == [None, None, 1.0, 2.0]
    assert kept["item"].to_list() == [None, None, None, "x"]
    assert kept["position"].to_list() == [None, None, 1, 2]
    assert kept["propensity"].to_list() == [None, None, 1.0, 0.25]


def test_null_values_of_a_csv_file_are_missing(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    spec = make_spec(source={"impressions": {"paths": ["log.csv"], "null_values": ["NA"]}})
    kept = read(spec, write(make_log(rows=3, price=["NA", "", "1"], item=["NA", "b", ""]), "log.csv")).kept
    assert kept["price"].to_list() == [None, None, 1.0]
    assert kept["item"].to_list() == [None, "b", None]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False, None], ["true", "false", None]),
        ([3, -4, 2**62], ["3", "-4", str(2**62)]),
        ([3.0, -4.0, float("nan")], ["3", "-4", None]),
        ([0.1, -0.0, 1e-300], ["0.1", "0", "1e-300"]),
        (["3.0", "True", "é"], ["3", "true", "é"]),
        ([Decimal("3.50"), Decimal("1.00"), None], ["3.5", "1", None]),
        ([date(2026, 1, 5), None, date(1999, 12, 31)], ["2026-01-05", None, "1999-12-31"]),
        (pl.Series(["a", "b", None], dtype=pl.Categorical), ["a", "b", None]),
        (pl.Series([b"a", b"\xc3\xa9", None]), ["a", "é", None]),
        ([None, None, None], [None, None, None]),
    ],
)
def test_categories_have_one_text_each(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, values: object, expected: list[str | None]
) -> None:
    assert read(make_spec(), write(make_log(rows=3, item=values))).kept["item"].to_list() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False, None], [1.0, 0.0, None]),
        (["true", "FALSE", " 12 "], [1.0, 0.0, 12.0]),
        (["1e2", "+3", "nan"], [100.0, 3.0, None]),
        ([Decimal("3.50"), Decimal("1.25"), None], [3.5, 1.25, None]),
        (pl.Series([1, 2, 3], dtype=pl.UInt8), [1.0, 2.0, 3.0]),
        ([None, None, None], [None, None, None]),
    ],
)
def test_numbers_come_in_many_types(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, values: object, expected: list[float | None]
) -> None:
    assert read(make_spec(), write(make_log(rows=3, price=values))).kept["price"].to_list() == expected


def test_equal_ids_of_different_types_are_one_id(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    numbers = write(make_log(rows=3, id=[1, 2, 3], who=[7.0, 8.0, None]), "a.parquet")
    texts = write(make_log(rows=3, id=["4", "2", "5"], who=["7", "8", ""]), "b.csv")
    result = read(make_spec(), numbers, texts)
    assert result.quarantined.select("reason", "source_file", "source_row").rows() == [("duplicate_id", "b.csv", 1)]
    assert result.kept["user"].to_list().count(hashed("7")) == 2


def test_ids_made_of_file_and_row_differ_between_namesakes(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader
) -> None:
    spec = make_spec(impression={"id": None, "time": "at"})
    files = [write(make_log(rows=2), f"day={n}/part-0.parquet") for n in (1, 2)]
    result = read(spec, *files)
    assert set(result.kept["impression_id"]) == {
        hashed(text) for text in ("part-0.parquet:0", "part-0.parquet:1", "part-0.parquet#2:0", "part-0.parquet#2:1")
    }
    day = read(spec, *files, first=FIRST, last=FIRST).kept
    assert set(day["impression_id"]) <= set(result.kept["impression_id"])


def test_ids_are_hashed_wherever_they_are_used(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    spec = make_spec(
        impression={"id": "id", "time": "at", "user": "who", "session": "visit"},
        features={
            "categorical": [
                {"name": "user_id", "column": "who"},
                {"name": "session_id", "column": "visit"},
                {"name": "mail"},
                {"name": "item"},
            ]
        },
        privacy={"pseudonymise": ["mail"]},
    )
    log = make_log(rows=3, visit=["user-0_1", "user-1_2", None], mail=["a@b.example", "", "c@d.example"])
    for name in ("log.parquet", "log.csv", "log.ndjson"):
        kept = read(spec, write(log, name)).kept
        assert kept["user_id"].to_list() == kept["user"].to_list() == [hashed(f"user-{n}") for n in range(3)]
        assert (
            kept["session_id"].to_list() == kept["session"].to_list() == [hashed("user-0_1"), hashed("user-1_2"), None]
        )
        assert kept["mail"].to_list() == [hashed("a@b.example"), None, hashed("c@d.example")]
        assert kept["item"].to_list() == ["item-0", "item-1", "item-2"]


def test_traffic_is_told_by_its_values(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    traffic = {"column": "policy", "random": ["uniform", 1, True], "production": ["ranker", 0]}
    spec = make_spec(impression={"id": "id", "time": "at", "traffic": traffic})
    for values, expected in (
        (["uniform", "ranker", "holdout", None], ["random", "production", None, None]),
        ([1, 0, 2, None], ["random", "production", None, None]),
        ([True, False, None, True], ["random", None, None, "random"]),
    ):
        assert read(spec, write(make_log(rows=4, policy=values))).kept["traffic"].to_list() == expected


def test_an_ingest_time_before_the_event_is_corrected_and_counted(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader
) -> None:
    spec = make_spec(impression={"id": "id", "time": "at", "ingest_time": "got", "time_unit": "us"})
    times = [MIDNIGHT_US + n * HOUR_US for n in range(3)]
    result = read(spec, write(make_log(rows=3, at=times, got=[times[0] - 1, times[1], times[2] + 5])))
    assert result.kept["ingest_ts"].to_list() == [times[0], times[1], times[2] + 5]
    assert result.notices == {"clock_skew": 1, "other_traffic": 0, "repeated_hour": 0, "empty_file": 0}


@pytest.mark.parametrize("kind", ["integers", "texts", "dates", "words"])
def test_a_log_without_a_clock_gets_days_by_its_order(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, kind: str
) -> None:
    order = {"column": "n", "rows_per_day": 4, "first_day": FIRST.isoformat()}
    spec = make_spec(impression={"id": "id", "order": order})
    ranks = [7, 2, 9, 4, 0, 5, 8, 1, 3, 6]
    places: dict[str, list[object]] = {
        "integers": [10 * rank for rank in ranks],
        "texts": [str(10 * rank) for rank in ranks],
        "dates": [FIRST + timedelta(days=rank) for rank in ranks],
        "words": [f"row {rank}" for rank in ranks],
    }
    paths = [
        write(make_log(rows=6, id=[f"imp-{r}" for r in ranks[:6]], n=places[kind][:6]), "a.parquet"),
        write(
            make_log(rows=4, id=[f"imp-{r}" for r in ranks[6:]], n=places[kind][6:]),
            "b.csv" if kind == "texts" else "b.parquet",
        ),
    ]
    result = read(spec, *paths)
    assert result.kept["impression_id"].to_list() == [hashed(f"imp-{rank}") for rank in range(10)]
    assert result.kept["ts"].to_list() == [
        MIDNIGHT_US + (rank // 4) * 24 * HOUR_US + (rank % 4) * 6 * HOUR_US for rank in range(10)
    ]
    assert log_range(spec, paths) == (FIRST, date(2026, 1, 7))
    middle = date(2026, 1, 6)
    assert read(spec, *paths, first=middle, last=middle).kept.equals(result.kept.filter(pl.col("day") == middle))


def test_rows_without_a_place_in_the_order_are_set_aside(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader
) -> None:
    spec = make_spec(impression={"id": "id", "order": {"column": "n", "rows_per_day": 4, "first_day": "2026-01-05"}})
    result = read(spec, write(make_log(rows=5, n=["3", "", "x", "1", "2"]), "log.csv"))
    assert result.quarantined.select("reason", "source_row", "value").rows() == [
        ("missing_time", 1, None),
        ("bad_time", 2, "x"),
    ]
    assert result.kept["impression_id"].to_list() == [hashed(f"imp-{n}") for n in (3, 4, 0)]


def test_ties_of_the_order_follow_file_and_row(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    spec = make_spec(impression={"id": "id", "order": {"column": "n", "rows_per_day": 9, "first_day": "2026-01-05"}})
    files = [
        write(make_log(rows=3, id=[f"{name}{n}" for n in range(3)], n=[1, 1, 0]), f"{name}.parquet") for name in "ab"
    ]
    expected = ["a2", "b2", "a0", "a1", "b0", "b1"]
    assert read(spec, *files).kept["impression_id"].to_list() == [hashed(text) for text in expected]
