"""Files that cannot be used say what was found, where, what was expected and what to do; broken lines are set apart."""

import gzip
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.sources import Pseudonymiser, ReadResult, SourceError, log_range, read_events, read_impressions, text

FIRST, LAST = date(2026, 1, 5), date(2026, 1, 8)
HEADER = "id,at,who,price,item,clicked\n"
SECRET = "secret-person"

Maker = Callable[..., Any]


@pytest.fixture
def refused(make_spec: Maker, pseudonymiser: Pseudonymiser) -> Callable[..., str]:
    """The message with which a file is refused, after the name of the file; it never shows an id."""

    def call(path: Path, **sections: Any) -> str:
        with pytest.raises(SourceError) as caught:
            read_impressions(make_spec(**sections), [path], FIRST, LAST, pseudonymiser, FIRST)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert SECRET not in message
        assert caught.value.__cause__ is None
        return message.removeprefix(f"{path}: ")

    return call


def read(spec: Any, path: Path, pseudonymiser: Pseudonymiser) -> ReadResult:
    return read_impressions(spec, [path], FIRST, LAST, pseudonymiser, FIRST)


@pytest.mark.parametrize("name", ["log.csv", "log.parquet", "log.ndjson"])
def test_an_empty_file(tmp_path: Path, refused: Callable[..., str], name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert refused(tmp_path / name).startswith("the file is empty (0 bytes). Write it again")


def test_a_file_that_vanished(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert refused(tmp_path / "log.csv").startswith("no such file. Restore it")


def test_damaged_parquet(make_log: Maker, write: Maker, refused: Callable[..., str]) -> None:
    path = write(make_log(rows=3000))
    content = path.read_bytes()
    for damaged in (
        content[: len(content) // 2],
        b"not Parquet at all",
        content[:1000] + b"\0" * (len(content) - 1000),
    ):
        path.write_bytes(damaged)
        assert refused(path).startswith("cannot be read as Parquet; it may be truncated, damaged or of another format.")


@pytest.mark.parametrize("name", ["log.csv.gz", "log.ndjson.gz", "log.parquet.gz"])
def test_damaged_gzip(make_log: Maker, write: Maker, tmp_path: Path, refused: Callable[..., str], name: str) -> None:
    content = gzip.compress(write(make_log(rows=3000), name.removesuffix(".gz")).read_bytes())
    for damaged in (content[: len(content) // 2], b"plain text"):
        (tmp_path / name).write_bytes(damaged)
        assert "is no complete gzip file. It may be truncated: copy or write it again." in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["log.parquet", "log.csv", "log.ndjson"])
def test_a_missing_column_names_the_nearest_one(
    make_log: Maker, write: Maker, refused: Callable[..., str], name: str
) -> None:
    message = refused(write(make_log(rows=3).rename({"price": "Prices"}), name))
    assert "`price`, which `column of feature price` names. Did you mean `Prices`?" in message
    assert "Found: id, at, who, Prices, item, clicked." in message
    assert "Correct `column of feature price` in the spec, or add the column to the file." in message


def test_a_csv_file_without_a_header_does_not_show_its_first_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"{SECRET},2026-01-05,{SECRET},1,a,0\n")
    assert refused(path).startswith(
        "the first line has none of the declared columns (at, id, who, price, item, clicked)."
    )
    path.write_text(HEADER.replace(",", ";") + f"{SECRET};2026-01-05;{SECRET};1;a;0\n")
    assert "its separator here is ',' (`separator` in the spec)" in refused(path)


def test_a_column_that_is_there_twice(tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "log.csv"
    path.write_text("id,at,who,price,item,clicked,price\n")
    assert refused(path).startswith("column `price` is there 2 times. Rename all but one.")


def test_a_key_that_one_file_leaves_out_is_missing_there(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    full = write(make_log(rows=3), "b.ndjson")
    sparse = write(make_log(rows=3, id=["x", "y", "z"]).drop("price"), "a.ndjson")
    result = read_impressions(make_spec(), [sparse, full], FIRST, LAST, pseudonymiser, FIRST)
    assert result.kept.height == 6
    assert result.kept["price"].null_count() == 3


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("price", [[1.0]] * 12, "column `price` has type List(Float64), but the spec uses it for numbers."),
        ("price", [date(2026, 1, 5)] * 12, "column `price` has type Date, but the spec uses it for numbers."),
        ("item", [{"a": 1}] * 12, "column `item` has type Struct({'a': Int64}), but the spec uses it for text, whole"),
        ("at", [True] * 12, "column `at` has type Boolean, but the spec uses it for times."),
        ("who", [["u"]] * 12, "column `who` has type List(String), but the spec uses it for text"),
        ("price", ["cheap"] * 12, "none of the 12 values of column `price` can be used (such as 'cheap')"),
        (
            "clicked",
            ["yes"] * 12,
            "none of the 12 values of column `clicked` can be used (such as 'yes'): `clicked` is 0",
        ),
        ("at", ["noon"] * 12, "none of the 12 values of column `at` can be used (such as 'noon'): `at` holds a date"),
        ("at", [1_767_571_200] * 12, "As numbers these are times in s: set `time_unit: s`."),
    ],
)
def test_a_column_that_cannot_be_what_it_is_declared_to_be(
    make_log: Maker, write: Maker, refused: Callable[..., str], column: str, values: list[object], expected: str
) -> None:
    message = refused(write(make_log(rows=12, **{column: values})))
    assert expected in message
    assert "in the spec, or c" in message


def test_a_few_broken_rows_are_no_wrong_column(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    result = read(make_spec(), write(make_log(rows=9, price=["cheap"] * 9)), pseudonymiser)
    assert result.quarantined.height == 9


@pytest.mark.parametrize("name", ["log.parquet", "log.csv"])
def test_a_log_without_rows_or_usable_times_has_no_range(
    make_spec: Maker, make_log: Maker, write: Maker, name: str
) -> None:
    with pytest.raises(SourceError, match=r"no row with a value in `at` \(files: log\.\w+\)\. Check that the paths"):
        log_range(make_spec(), [write(make_log(rows=0), name)])
    with pytest.raises(
        SourceError, match=r"none of the 3 values of column `at` is a usable time \(such as '7'\).*1980"
    ):
        log_range(make_spec(), [write(make_log(rows=3, at=[7, 8, 9]), name)])
    with pytest.raises(SourceError, match=r"that is a time in ms: set `impression.time_unit: ms`"):
        log_range(make_spec(), [write(make_log(rows=1, at=[1_767_571_200_000]), name)])


def test_days_in_the_wrong_order(make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser) -> None:
    with pytest.raises(SourceError, match="the last day 2026-01-05 is before the first day 2026-01-08"):
        read_impressions(make_spec(), [write(make_log())], LAST, FIRST, pseudonymiser, FIRST)


def test_an_event_log_that_is_not_declared(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    spec = make_spec(
        source={"events": [{"name": "clicks"}]}, tasks=[{"name": "click", "window": "1h", "label": {"event": "click"}}]
    )
    path = write(make_log())
    with pytest.raises(SourceError, match=r"event log `click` is not declared\. Did you mean `clicks`\?"):
        read_events(spec, [path], {"click": [path]}, FIRST, LAST, pseudonymiser, FIRST)


def test_malformed_csv_lines_are_set_apart_without_their_text(
    make_spec: Maker, tmp_path: Path, pseudonymiser: Pseudonymiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_BLOCK_BYTES", 400)
    good = [f'i{n},2026-01-05T01:00:00Z,u,{n},"a\n{n}",0'.encode() for n in range(60)]
    bad = {3: b"i3,2026-01-05", 20: SECRET.encode() + b",,,,,,,", 21: b"\xff\xfe,2026-01-05,u,1,a,0", 59: b"x"}
    lines = [bad.get(n, line) for n, line in enumerate(good)]
    path = tmp_path / "log.csv"
    path.write_bytes(HEADER.encode() + b"\n" + b"\r\n".join(lines[:30]) + b"\n\n\n" + b"\n".join(lines[30:]))
    result = read(make_spec(), path, pseudonymiser)
    assert result.rows_in == 60
    assert result.kept["price"].sort().to_list() == [float(n) for n in range(60) if n not in bad]
    found = result.quarantined.select("source_row", "reason", "rule", "column", "value").rows()
    fields = "a line has 6 fields, as many as the header; this one has"
    assert found == [
        (3, "malformed_row", f"{fields} 2", None, None),
        (20, "malformed_row", f"{fields} 8", None, None),
        (21, "malformed_row", "text is encoded as UTF-8; this line is not", None, None),
        (59, "malformed_row", f"{fields} 1", None, None),
    ]
    assert SECRET not in str(result.quarantined.rows())


def test_malformed_ndjson_lines_are_set_apart_without_their_text(
    make_spec: Maker, tmp_path: Path, pseudonymiser: Pseudonymiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_BLOCK_BYTES", 300)
    lines = [
        f'{{"id": "i{n}", "at": "2026-01-05", "who": 7, "price": {n}.0, "item": {n}.0, "clicked": true}}'.encode()
        for n in range(40)
    ]
    bad = {0: b"[1, 2]", 5: f'{{"id": "{SECRET}", "at": '.encode(), 6: b'{"id": "\xff"}', 7: b"null", 39: b"{} {}"}
    path = tmp_path / "log.ndjson"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\n".join(bad.get(n, line) for n, line in enumerate(lines)))
    result = read(make_spec(), path, pseudonymiser)
    good = [n for n in range(40) if n not in bad]
    assert result.kept.sort("price")["price"].to_list() == [float(n) for n in good]
    assert result.kept.sort("price")["item"].to_list() == [str(n) for n in good]
    assert result.quarantined["source_row"].to_list() == sorted(bad)
    assert result.quarantined.select("reason", "rule", "value").unique().rows() == [
        ("malformed_row", "a line holds one JSON object in UTF-8; this one does not", None)
    ]
    assert SECRET not in str(result.quarantined.rows())


def test_an_object_in_a_number_is_no_number(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    path = write(make_log(rows=4), "log.ndjson")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3].replace("3.0", '{"euro": 3}')]))
    result = read(make_spec(), path, pseudonymiser)
    assert result.kept["price"].to_list() == [0.0, 1.0, 2.0]
    assert result.quarantined.select("reason", "value").rows() == [("not_a_number", '{"euro":3}')]


@pytest.mark.parametrize("last", ['i2,2026-01-05,u,1,a,"0', '"i2,2026-01-05,u,1,a,0'])
def test_a_quote_that_is_never_closed(tmp_path: Path, refused: Callable[..., str], last: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(HEADER + "i1,2026-01-05,u,1,a,0\n" + last + "\ni3,2026-01-05,u,1,a,0\n" * 3)
    assert refused(path).startswith("a quote is opened and never closed, so the lines after it are unreadable")


def test_a_quote_inside_a_text_is_a_character(make_spec: Maker, tmp_path: Path, pseudonymiser: Pseudonymiser) -> None:
    path = tmp_path / "log.csv"
    path.write_text(HEADER + '\ni1,2026-01-05,u,1,5" pipe,0\n\ni2,2026-01-05,u,1,"5"" pipe",0\n')
    assert read(make_spec(), path, pseudonymiser).kept["item"].to_list() == ['5" pipe', '5" pipe']


@pytest.mark.parametrize("column", ["id", "who", "mail"])
def test_ids_are_never_shown(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser, column: str
) -> None:
    spec = make_spec(
        privacy={"pseudonymise": ["mail", "price"]}, features={"categorical": [{"name": "item"}, {"name": "mail"}]}
    )
    secrets = [f"{SECRET}-{n}" for n in range(12)]
    log = make_log(rows=12, **({"mail": ["m"] * 12} | {column: secrets}))
    log = pl.concat([log, log]).with_columns(
        clicked=pl.Series([str(n) for n in range(24)]), at=pl.col("at").dt.to_string().str.replace("T05", "?")
    )
    result = read(spec, write(log, "log.csv"), pseudonymiser)
    assert result.quarantined.height > 12
    assert SECRET not in str(result.quarantined.rows())
    assert SECRET not in str(result.kept.rows())
