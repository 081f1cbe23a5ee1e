"""Side tables: each impression has the latest row of its id from before its time, and no later one changes anything."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import (
    Pseudonymiser,
    ReadResult,
    SideRows,
    SourceError,
    read_impressions,
    read_side_table,
)
from ctr_pipeline.spec import Spec

START = datetime(2026, 1, 5, tzinfo=UTC)
FIRST, LAST = date(2026, 1, 5), date(2026, 1, 8)
KEY = Pseudonymiser(b"0123456789abcdef")
SPECIAL: dict[str, Any] = {"name": "items", "key": "sku", "impression_column": "item", "valid_from": "since"}
FEATURES: dict[str, Any] = {
    "dense": [{"name": "cost", "column": "items.cost", "minimum": 0}],
    "categorical": [{"name": "brand", "column": "items.brand"}],
}
Write = Callable[[pl.DataFrame, str], Path]

ids = st.sampled_from([1, 2, 3])
minutes = st.integers(0, 6)
rows_of_table = st.lists(
    st.tuples(ids, minutes, st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 5.5]))), min_size=1, max_size=14
)
shown = st.lists(st.tuples(st.one_of(st.none(), st.integers(1, 4)), minutes), min_size=1, max_size=10)


def spec_of(tables: Sequence[dict[str, Any]] = (SPECIAL,), features: dict[str, Any] | None = None, **more: Any) -> Spec:
    content = {
        "version": 1,
        "name": "shop",
        "source": {"impressions": {"paths": ["log.parquet"]}, "tables": list(tables)},
        "impression": {"id": "id", "time": "at", "user": "who"},
        "features": features or FEATURES,
        "tasks": [{"name": "click", "window": "0s", "label": {"column": "clicked"}}],
    }
    return Spec.model_validate(content | more)


def log_of(rows: Sequence[tuple[Any, int]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"i{n}" for n in range(len(rows))],
            "at": [START + timedelta(minutes=minute) for _, minute in rows],
            "who": [f"u{n}" for n in range(len(rows))],
            "item": [item for item, _ in rows],
            "clicked": [n % 2 for n in range(len(rows))],
        },
        schema_overrides={"item": pl.Int64},
    )


def table_of(rows: Sequence[tuple[Any, int, float | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "sku": [sku for sku, _, _ in rows],
            "since": [START + timedelta(minutes=minute) for _, minute, _ in rows],
            "cost": [cost for _, _, cost in rows],
            "brand": [None if cost is None else f"b{cost:g}" for _, _, cost in rows],
        },
        schema_overrides={"sku": pl.Int64, "cost": pl.Float64, "brand": pl.String},
    )


def joined(spec: Spec, log: Path, *files: Path) -> tuple[ReadResult, SideRows]:
    side = read_side_table(spec, spec.source.tables[0], files, KEY, FIRST, [log])
    return read_impressions(spec, [log], FIRST, LAST, KEY, FIRST, tables={side.table.name: side}), side


def by_id(result: ReadResult, *columns: str) -> dict[str, tuple[Any, ...]]:
    names = {KEY_OF[n]: f"i{n}" for n in range(len(KEY_OF))}
    return {names[row[0]]: row[1:] for row in result.kept.select("impression_id", *columns).iter_rows()}


KEY_OF = pl.DataFrame({"id": [f"i{n}" for n in range(40)]}).select(KEY.of(pl.col("id")))["id"].to_list()


def expected_row(
    item: int | None, at: int, table: Sequence[tuple[int, int, float | None]]
) -> tuple[float | None, str | None]:
    """The values of an impression, by a loop over the rows of the table."""
    latest = max((since for sku, since, _ in table if sku == item and since < at), default=None)
    costs = {cost for sku, since, cost in table if (sku, since) == (item, latest)}
    if latest is None or len(costs) > 1 or -1.0 in costs:
        return None, None
    (cost,) = costs
    return cost, None if cost is None else f"b{cost:g}"


@settings(max_examples=60, deadline=None)
@given(table=rows_of_table, log=shown, at=st.integers(0, 14))
def test_every_impression_has_the_latest_row_before_it(
    tmp_path_factory: pytest.TempPathFactory, table: list[Any], log: list[Any], at: int
) -> None:
    """Whatever the order of the rows, and whether ids are numbers of Parquet or texts of CSV."""
    folder = tmp_path_factory.mktemp("join")
    frame = table_of(table)
    log_of(log).write_parquet(folder / "log.parquet")
    frame.head(at).write_csv(folder / "a.csv")
    frame.slice(at).write_parquet(folder / "b.parquet")
    result, side = joined(spec_of(), folder / "log.parquet", folder / "a.csv", folder / "b.parquet")
    assert by_id(result, "cost", "brand") == {
        f"i{n}": expected_row(item, minute, table) for n, (item, minute) in enumerate(log)
    }
    assert sum(result.joins["items"].values()) == len(log)
    assert result.joins["items"].get("without_id", 0) == sum(item is None for item, _ in log)
    good = [row for row in table if row[2] != -1.0]
    wrong = {(sku, since) for sku, since, cost in table if cost == -1.0}
    several = {key for key in {row[:2] for row in good} if len({cost for *of, cost in good if tuple(of) == key}) > 1}
    conflicting = sum(row[:2] in wrong | several for row in good)
    reasons = dict(side.reasons.iter_rows())
    assert reasons.get("out_of_range", 0) == len(table) - len(good)
    assert reasons.get("conflicting_row", 0) == conflicting
    kept = [row for row in good if row[:2] not in wrong | several]
    assert side.repeated == len(kept) - len(set(kept))


@settings(max_examples=40, deadline=None)
@given(table=rows_of_table, added=rows_of_table, log=shown, now=minutes)
def test_what_is_valid_from_an_impression_on_changes_nothing_for_it(
    tmp_path_factory: pytest.TempPathFactory, table: list[Any], added: list[Any], log: list[Any], now: int
) -> None:
    folder = tmp_path_factory.mktemp("ahead")
    log_of(log).write_parquet(folder / "log.parquet")
    past = [row for row in table if row[1] < now]
    # One row of the past, so that the files are never empty.
    known = [*past, (9, 0, 1.0)]
    table_of(known).write_parquet(folder / "before.parquet")
    table_of([*(row for row in added if row[1] >= now), *known]).write_parquet(folder / "after.parquet")
    before, after = (
        by_id(joined(spec_of(), folder / "log.parquet", folder / name)[0], "cost", "brand")
        for name in ("before.parquet", "after.parquet")
    )
    assert [before[f"i{n}"] for n, (_, at) in enumerate(log) if at <= now] == [
        after[f"i{n}"] for n, (_, at) in enumerate(log) if at <= now
    ]


def test_a_row_that_is_set_aside_is_not_replaced_by_an_older_one(write: Write) -> None:
    log = write(log_of([(1, 1), (1, 3), (1, 5), (2, 9), (None, 9), (7, 9)]), "log.parquet")
    rows = [(1, 0, 1.0), (1, 2, -1.0), (1, 4, 4.0), (2, 9, 2.0)]
    result, side = joined(spec_of(), log, write(table_of(rows), "t.parquet"))
    assert [by_id(result, "cost")[f"i{n}"] for n in range(6)] == [(1.0,), (None,), (4.0,), (None,), (None,), (None,)]
    assert result.joins["items"] == {
        "matched": 2,
        "row_set_aside": 1,
        "before_first_row": 1,
        "without_id": 1,
        "unknown_id": 1,
    }
    assert side.quarantined.select("table", "reason", "source_row", "value").rows() == [
        ("items", "out_of_range", 1, "-1.0")
    ]


def test_a_table_without_a_time_holds_for_every_impression(write: Write) -> None:
    spec = spec_of([SPECIAL | {"valid_from": None}])
    log = write(log_of([(1, 0), (2, 0), (3, 9)]), "log.parquet")
    table = table_of([(1, 5, 1.0), (1, 6, 1.0), (3, 8, 3.0), (2, 0, 2.0), (2, 0, 4.0)])
    result, side = joined(spec, log, write(table, "t.csv"))
    assert by_id(result, "cost") == {"i0": (1.0,), "i1": (None,), "i2": (3.0,)}
    assert side.repeated == 1
    assert dict(side.reasons.iter_rows()) == {"conflicting_row": 2}


def test_lists_and_vectors_of_a_table(write: Write) -> None:
    features = {
        "dense": [{"name": "place", "column": "items.where", "width": 2}],
        "categorical": [{"name": "tags", "column": "items.tags", "list": {"pooling": "mean"}}],
    }
    table = pl.DataFrame({"sku": ["1"], "since": [START], "where": [[1.0, 2.0]], "tags": [["a", None, "b"]]})
    log = write(log_of([(1, 1), (1, 0)]), "log.parquet")
    result, _ = joined(spec_of(features=features), log, write(table, "t.ndjson"))
    assert by_id(result, "place", "tags") == {"i0": ([1.0, 2.0], ["a", None, "b"]), "i1": (None, None)}


def test_ids_of_users_are_hashed_and_never_shown(write: Write) -> None:
    users = {"name": "users", "key": "who", "valid_from": "since"}
    features = {
        "dense": [{"name": "age", "column": "users.age", "minimum": 0}],
        "categorical": [{"name": "same", "column": "users.who"}, {"name": "house", "column": "users.house"}],
    }
    spec = spec_of([users], features, privacy={"pseudonymise": ["users.house"]})
    table = pl.DataFrame(
        {"who": ["u0", "u1", "u1"], "since": [START] * 3, "age": [30, -1, 31], "house": ["north-7", "south", "south"]}
    )
    log = write(log_of([(1, 1), (1, 1)]), "log.parquet")
    result, side = joined(spec, log, write(table, "t.parquet"))
    first = result.kept.filter(impression_id=KEY_OF[0])
    assert first["same"].to_list() == first["user"].to_list()
    house = pl.DataFrame({"house": ["north-7"]}).select(KEY.of(pl.col("house"))).item()
    assert first.select("age", "house").rows() == [(30.0, house)]
    assert result.joins["users"] == {"matched": 1, "row_set_aside": 1}
    assert side.quarantined["column"].to_list() == ["age", "who"]
    assert side.quarantined["value"].to_list() == ["-1", None]


def test_no_message_shows_the_id_of_a_user(write: Write) -> None:
    users = {"name": "users", "key": "who", "valid_from": "since"}
    spec = spec_of([users], {"dense": [{"name": "age", "column": "users.age"}]})
    wrong = 8.25e17
    table = pl.DataFrame({"who": [wrong] * 12, "since": [START] * 12, "age": [30] * 12})
    log = write(log_of([(1, 1)]), "log.parquet")
    with pytest.raises(SourceError, match="none of the 12 values of column `who` can be used: `who` holds") as caught:
        joined(spec, log, write(table, "t.parquet"))
    assert not any(digits in str(caught.value) for digits in ("825000", "8.25"))


def test_of_a_local_time_that_occurs_twice_the_later_is_meant(write: Write) -> None:
    spec = spec_of([SPECIAL | {"time_zone": "Europe/Amsterdam"}])
    table = pl.DataFrame({"sku": [1], "since": ["2026-10-25 02:30:00"], "cost": [1.0], "brand": ["x"]})
    log = log_of([(1, 0), (1, 0)]).with_columns(
        at=pl.Series([datetime(2026, 10, 25, 1, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 31, tzinfo=UTC)])
    )
    path = write(log, "log.parquet")
    side = read_side_table(spec, spec.source.tables[0], [write(table, "t.csv")], KEY, FIRST, [path])
    day = date(2026, 10, 25)
    result = read_impressions(spec, [path], day, day, KEY, day, tables={"items": side})
    assert by_id(result, "cost") == {"i0": (None,), "i1": (1.0,)}


@pytest.mark.parametrize("name", ["log.parquet", "log.csv", "log.ndjson"])
def test_a_column_of_the_log_that_is_called_like_one_of_the_table_is_refused(write: Write, name: str) -> None:
    log = write(log_of([(1, 1)]).with_columns(pl.lit("x").alias("items.cost")), name)
    with pytest.raises(SourceError, match=r"the impression log has `items\.cost`.* Give the table another `name`"):
        joined(spec_of(), log, write(table_of([(1, 0, 1.0)]), "t.parquet"))


def test_rows_and_missing_values_of_a_table_are_those_that_it_declares(write: Write) -> None:
    special = SPECIAL | {"rows": [{"column": "kind", "keep": ["live"]}], "null_values": {"cost": [0]}}
    table = table_of([(1, 0, 1.0), (1, 0, 5.0), (2, 0, 0.0)]).with_columns(kind=pl.Series(["live", "draft", "live"]))
    log = write(log_of([(1, 1), (2, 1)]), "log.parquet")
    result, side = joined(spec_of([special]), log, write(table, "t.parquet"))
    assert by_id(result, "cost", "brand") == {"i0": (1.0, "b1"), "i1": (None, "b0")}
    assert side.rows_in == 2


def test_ids_that_a_float_rounded_are_in_no_row(write: Write) -> None:
    table = pl.DataFrame({"sku": [2.0**60, 1.0], "since": [START] * 2, "cost": [1.0, 2.0], "brand": ["a", "b"]})
    log = write(log_of([(2**60, 1), (1, 1)]), "log.parquet")
    result, side = joined(spec_of(), log, write(table, "t.parquet"))
    assert by_id(result, "cost") == {"i0": (None,), "i1": (2.0,)}
    assert dict(side.reasons.iter_rows()) == {"inexact_id": 1}


def test_a_missing_column_of_the_table_is_named(write: Write) -> None:
    log = write(log_of([(1, 1)]), "log.parquet")
    table = table_of([(1, 0, 1.0)]).rename({"cost": "costs"})
    with pytest.raises(
        SourceError, match=r"t\.parquet: there is no column `cost`, which `column of feature cost` names"
    ):
        joined(spec_of(), log, write(table, "t.parquet"))
