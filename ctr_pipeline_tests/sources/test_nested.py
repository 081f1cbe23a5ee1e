"""Fields of objects by `a.b`: the same rows as from a flat log, in Parquet and NDJSON."""

import json
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.sources import Pseudonymiser, ReadResult, SourceError, read_events
from ctr_pipeline.sources.nested import fields_beside, object_paths, schema_paths, stored_column

Maker = Callable[..., Any]
Reader = Callable[..., ReadResult]

NESTED = {
    "impression": {"id": "key.id", "time": "key.seen.at", "user": "person.id"},
    "features": {
        "dense": [{"name": "price", "column": "offer.price"}],
        "categorical": [{"name": "item", "column": "offer.item"}],
    },
    "tasks": [{"name": "click", "window": "0s", "label": {"column": "outcome.clicked"}}],
}


def nest(log: pl.DataFrame) -> pl.DataFrame:
    """A flat log of conftest as objects; every third person is missing altogether."""
    person = pl.struct(id="who")
    return log.select(
        key=pl.struct(id="id", seen=pl.struct(at="at")),
        person=pl.when(pl.int_range(pl.len()) % 3 != 0).then(person),
        offer=pl.struct("price", "item"),
        outcome=pl.struct("clicked"),
    )


@pytest.mark.parametrize("name", ["log.parquet", "log.ndjson"])
def test_fields_are_columns(make_spec: Maker, make_log: Maker, write: Maker, read: Reader, name: str) -> None:
    log = make_log(rows=30)
    flat = log.with_columns(who=pl.when(pl.int_range(30) % 3 != 0).then("who"))
    expected = read(make_spec(), write(flat))
    found = read(make_spec(**NESTED), write(nest(log), "nested/" + name))
    assert found.kept.equals(expected.kept)
    assert found.kept.height == 30
    assert found.rows_in == expected.rows_in


@pytest.mark.parametrize("name", ["log.parquet", "log.ndjson"])
@pytest.mark.parametrize(
    ("columns", "column"),
    [
        ({"offer.item": "literal", "offer": {"item": "field"}}, "offer.item"),
        ({"offer.item": "literal", "offer": "plain"}, "offer.item"),
        ({"offer": {"item": "literal"}}, "offer.item"),
        ({"a": {"b": {"c": "literal", "d": "other"}, "b2": "x"}}, "a.b.c"),
        ({"a": {"b": {"c": {"d": "literal"}}}}, "a.b.c.d"),
        ({"größe": {"fünf": "literal"}}, "größe.fünf"),
    ],
)
def test_a_column_that_is_called_so_wins(
    make_spec: Maker, make_log: Maker, tmp_path: Path, read: Reader, name: str, columns: Mapping[str, Any], column: str
) -> None:
    rows = [{**row, "at": str(row["at"])[:19], "item": None, **columns} for row in make_log(rows=12).to_dicts()]
    path = tmp_path / name
    if name.endswith("parquet"):
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = make_spec(features={"categorical": [{"name": "item", "column": column}]})
    assert set(read(spec, path).kept["item"]) == {"literal"}


def test_literal_and_nested_keys_may_alternate_by_line(
    make_spec: Maker, make_log: Maker, tmp_path: Path, read: Reader
) -> None:
    rows = [{**row, "at": str(row["at"])[:19]} for row in make_log(rows=12).to_dicts()]
    for number, row in enumerate(rows):
        row |= {"device": {"os": f"os {number}"}} if number % 2 else {"device": None}
    (tmp_path / "log.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = make_spec(features={"categorical": [{"name": "os", "column": "device.os"}]})
    kept = read(spec, tmp_path / "log.ndjson").kept
    assert kept["os"].to_list() == [f"os {number}" if number % 2 else None for number in range(12)]


@pytest.mark.parametrize("value", ['"text"', "[1]", "3", '{"item": {"deeper": 1}}', '{"item": [1, 2]}'])
def test_a_value_where_an_object_was_declared_is_set_apart(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, value: str
) -> None:
    path = write(nest(make_log(rows=60)), "log.ndjson")
    lines = path.read_text().splitlines()
    row = json.loads(lines[7])
    row["offer"] = json.loads(value)
    lines[7] = json.dumps(row)
    path.write_text("\n".join(lines))
    result = read(make_spec(**NESTED), path)
    assert (result.kept.height, result.quarantined["reason"].to_list()) == (59, ["malformed_row"])
    assert "an object where the spec names a field of it" in result.quarantined["rule"][0]


@pytest.mark.parametrize("name", ["log.parquet", "log.ndjson"])
@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("offer.itm", ["`offer.itm`", "`offer` has the fields price, item.", "Did you mean `offer.item`?"]),
        ("offer.colour", ["`offer.colour`", "`offer` has the fields price, item."]),
        ("key.seen.add", ["`key.seen` has the fields at.", "Did you mean `key.seen.at`?"]),
        ("ofer.item", ["`ofer.item`", "Did you mean `offer.item`?"]),
    ],
)
def test_a_missing_field_is_named_with_those_beside_it(
    make_spec: Maker,
    make_log: Maker,
    write: Maker,
    read: Reader,
    name: str,
    column: str,
    expected: list[str],
) -> None:
    path = write(nest(make_log(rows=30)), name)
    spec = make_spec(**{**NESTED, "features": {"categorical": [{"name": "item", "column": column}]}})
    with pytest.raises(SourceError) as caught:
        read(spec, path)
    assert all(part in str(caught.value) for part in [*expected, "feature item", str(path)])
    assert "imp-" not in str(caught.value)
    assert "user-" not in str(caught.value)


def test_an_object_itself_is_no_value(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    path = write(nest(make_log(rows=30)))
    spec = make_spec(**{**NESTED, "features": {"categorical": [{"name": "item", "column": "offer"}]}})
    with pytest.raises(SourceError, match="column `offer` has type Struct"):
        read(spec, path)


@pytest.mark.parametrize("name", ["events.parquet", "events.ndjson"])
def test_fields_of_an_event_log(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser, name: str
) -> None:
    log = make_log(rows=30)
    events = log.select(
        ref=pl.struct(imp="id"), what=pl.struct(kind=pl.lit("click")), at=pl.col("at") + timedelta(minutes=1)
    )
    source = {
        "impressions": {"paths": ["log.parquet"]},
        "events": [{"name": "clicks", "impression_id": "ref.imp", "type": "what.kind", "time": "at"}],
    }
    tasks = [{"name": "click", "window": "1h", "label": {"event": "click"}}]
    spec = make_spec(source=source, tasks=tasks)
    first, last = date(2026, 1, 5), date(2026, 1, 8)
    files = {"clicks": [write(events, name)]}
    result = read_events(spec, [write(log)], files, first, last, pseudonymiser, first)
    assert result.kept.height == 30
    assert set(result.kept["event"]) == {"click"}


def test_paths() -> None:
    schema = pl.Schema({"a": pl.Struct({"b": pl.Struct({"c": pl.Int8}), "x.y": pl.String}), "a.b": pl.Int64})
    assert schema_paths(schema) == ["a", "a.b", "a.b.c", "a.x.y"]
    assert object_paths({"a": {"b": {"c": 1}, "x.y": "t"}, "a.b": 2, "l": [{"m": 1}]}) == [
        "a",
        "a.b",
        "l",
        "a.b.c",
        "a.x.y",
    ]
    kinds = {name: found[1] for name in schema_paths(schema) if (found := stored_column(name, schema)) is not None}
    assert kinds["a.b"] == pl.Int64
    assert kinds["a.b.c"] == pl.Int8
    assert kinds["a.x.y"] == pl.String
    assert all(stored_column(name, schema) is None for name in ("b", "a.c", "a.", ".a", "a.b.c.d", ""))
    assert fields_beside("a.b.q", schema_paths(schema)) == " `a.b` has the fields c."
    assert fields_beside("z.q", schema_paths(schema)) == ""
