"""CSV files without a header line, whose columns the spec names, and headers with names that nothing reads."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.sources import ReadResult, SourceError, log_range, read_events

Maker = Callable[..., Any]
Reader = Callable[..., ReadResult]

NAMES = ["id", "at", "who", "price", "item", "clicked"]


def declared(names: list[str], **fields: Any) -> dict[str, Any]:
    """The section `source` of a log with these columns."""
    return {"impressions": {"paths": ["log.csv"], "columns": names, **fields}}


def lines_of(log: pl.DataFrame, separator: str = ",") -> list[str]:
    return log.write_csv(include_header=False, separator=separator).splitlines()


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.csv.gz"])
@pytest.mark.parametrize("start", ["", "\n\n", "\ufeff"], ids=["plain", "blank lines", "mark"])
def test_it_is_read_as_one_with_a_header(
    make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path, name: str, start: str
) -> None:
    log, separator = make_log(), "\t" if name.endswith(".tsv") else ","
    texts = {name: start + "\n".join(lines_of(log, separator)) + "\n", "with.csv": log.write_csv()}
    for path, text in texts.items():
        data = text.encode()
        (tmp_path / path).write_bytes(gzip.compress(data) if path.endswith(".gz") else data)
    bare = read(make_spec(source=declared(NAMES)), tmp_path / name)
    assert bare.kept.equals(read(make_spec(), tmp_path / "with.csv").kept)
    assert (bare.rows_in, bare.kept.height) == (24, 24)


def test_columns_without_a_name_are_not_read(make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path) -> None:
    log = make_log()
    wide = log.select("id", a="price", at="at", who="who", price="price", item="item", b="item", clicked="clicked")
    wide.write_csv(tmp_path / "log.csv", include_header=False)
    names = ["id", "", "at", "who", "price", "item", "", "clicked"]
    log.write_csv(tmp_path / "with.csv")
    expected = read(make_spec(), tmp_path / "with.csv").kept
    assert read(make_spec(source=declared(names)), tmp_path / "log.csv").kept.equals(expected)


def test_lines_of_another_width_are_set_aside(make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path) -> None:
    lines = lines_of(make_log())
    lines[0], lines[7] = "a,b", lines[7] + ",1"
    (tmp_path / "log.csv").write_bytes("\n".join(lines).encode() + b"\n\xff,2026-01-05T05:00:00Z,u,1,a,0")
    found = read(make_spec(source=declared(NAMES)), tmp_path / "log.csv")
    assert found.kept.height == 22
    assert found.quarantined["source_row"].to_list() == [0, 7, 24]
    assert found.quarantined["rule"][0] == "a line has 6 fields, as many as names in `columns`; this one has 2"
    assert "UTF-8" in found.quarantined["rule"][2]


def test_a_file_of_another_width_is_refused(make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("\n".join(line + ",x" for line in lines_of(make_log())))
    with pytest.raises(SourceError, match=r"none of its 24 lines is a row.*this one has 7.*set `format` and `columns`"):
        read(make_spec(source=declared(NAMES)), tmp_path / "log.csv")


@pytest.mark.parametrize("header", ["id,at,who,price,item,clicked", '"ID", At ,"who",cost,item,clicked'])
def test_a_header_is_no_row(make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path, header: str) -> None:
    (tmp_path / "log.csv").write_text("\n".join(["\ufeff" + header, *lines_of(make_log())]))
    with pytest.raises(SourceError, match=r"the first line is a header.*Remove it from the spec"):
        read(make_spec(source=declared(NAMES)), tmp_path / "log.csv")


def test_rows_within_quotes_are_counted_from_one(
    make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path
) -> None:
    log = make_log(item=["x", "x", '"x', "x", 'x"', *["x"] * 19])
    (tmp_path / "log.csv").write_text("\n".join(",".join(map(str, row)) for row in log.iter_rows()))
    with pytest.raises(SourceError, match=r"near row 3, .*\(22 rows were found in 24 lines\)"):
        read(make_spec(source=declared(NAMES)), tmp_path / "log.csv")


def test_a_declared_name_that_columns_lacks(make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("\n".join(lines_of(make_log())))
    with pytest.raises(SourceError, match=r"`columns` of this log in the spec has no `price`.*Did you mean `prize`"):
        read(make_spec(source=declared([*NAMES[:3], "prize", *NAMES[4:]])), tmp_path / "log.csv")


@pytest.mark.parametrize("name", ["log.parquet", "log.ndjson"])
def test_other_formats_name_their_columns(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, name: str
) -> None:
    with pytest.raises(SourceError, match="`columns` in the spec names the columns of CSV files without a header"):
        read(make_spec(source=declared(NAMES)), write(make_log(), name))


def test_a_file_without_a_header_where_one_is_expected(
    make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path
) -> None:
    (tmp_path / "log.csv").write_text("\n".join(lines_of(make_log())))
    with pytest.raises(SourceError, match=r"It has 6 fields, 2 of them numbers.*Name its columns in `columns`") as e:
        read(make_spec(), tmp_path / "log.csv")
    assert "imp-0" not in str(e.value)
    assert "user-0" not in str(e.value)


def test_an_event_log_without_a_header(make_spec: Maker, pseudonymiser: Any, make_log: Maker, tmp_path: Path) -> None:
    log = make_log()
    log.write_csv(tmp_path / "log.csv")
    (tmp_path / "ev.csv").write_text("imp-3,click,2026-01-05 04:00:00\n")
    events = {"paths": ["ev.csv"], "columns": ["impression_id", "event_type", "event_ts"]}
    spec = make_spec(
        source={"impressions": {"paths": ["log.csv"]}, "events": [events]},
        tasks=[{"name": "click", "window": "1h", "label": {"event": "click"}}],
    )
    days = log_range(spec, [tmp_path / "log.csv"])
    files = {"outcome_events": [tmp_path / "ev.csv"]}
    found = read_events(spec, [tmp_path / "log.csv"], files, *days, pseudonymiser, days[0])
    shown = pl.DataFrame({"id": ["imp-3"]}).select(pseudonymiser.expr("id"))
    assert found.kept["impression_id"].to_list() == shown["id"].to_list()


@pytest.mark.parametrize("header", [",id,at,who,price,item,clicked", "id,id,at,who,price,item,clicked"])
def test_names_that_are_not_read_may_be_empty_or_twice(
    make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path, header: str
) -> None:
    text = "\n".join([header, *(f"{n},{line}" for n, line in enumerate(lines_of(make_log())))])
    (tmp_path / "log.csv").write_text(text)
    anonymous = {"id": None, "time": "at"}
    assert read(make_spec(impression=anonymous), tmp_path / "log.csv").kept.height == 24


def test_rows_in_the_order_of_the_files(make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path) -> None:
    log = make_log()
    spec = make_spec(impression={"id": "id", "order": {"rows_per_day": 10, "first_day": "2026-01-05"}})
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    log[:15].write_csv(paths[0])
    log[15:].write_csv(paths[1])
    numbered = tmp_path / "all.csv"
    log.with_row_index("row").write_csv(numbered)
    by_column = make_spec(
        impression={"id": "id", "order": {"column": "row", "rows_per_day": 10, "first_day": "2026-01-05"}}
    )
    assert read(spec, *paths).kept.equals(read(by_column, numbered).kept)
    assert log_range(spec, paths) == log_range(by_column, [numbered])
