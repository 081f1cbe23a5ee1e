"""Quotes in CSV files: every line that is a row becomes one, or the file is refused."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctr_pipeline.sources import SourceError, quoting, text
from ctr_pipeline.sources.files import open_log
from ctr_pipeline.sources.text import csv_batches, csv_header
from ctr_pipeline.spec.source import LogFiles

Rows = list[tuple[str, ...]]


def read(path: Path, **fields: Any) -> tuple[Rows, list[str]]:
    """The rows of a file as the readers of logs take them, and the rules that other lines break."""
    (file,) = open_log(LogFiles(paths=["x"], **fields), [path])
    header = csv_header(file)
    batches = list(csv_batches(file, header))
    rows = [row for batch in batches for row in batch.frame.select(header).iter_rows()]
    return rows, [rule for batch in batches for rule in batch.malformed["rule"]]


def lines(*texts: str, separator: str = ",") -> str:
    """A file of the columns id, text, number and label."""
    rows = [("id", "text", "number", "label"), *((f"i{n}", t, f"{n}.5", "1") for n, t in enumerate(texts))]
    return "".join(separator.join(row) + "\n" for row in rows)


KEPT: dict[str, tuple[str, str, dict[str, Any], list[str]]] = {
    "a tab-separated dump": ("a.tsv", lines('"a', "b", '"c', "d", separator="\t"), {}, ['"a', "b", '"c', "d"]),
    "a dump with lone quotes": ("a.tsv", lines('"', "b", '"', separator="\t"), {}, ['"', "b", '"']),
    "a tab as declared separator": ("a.csv", lines('"a', "b", separator="\t"), {"separator": "\t"}, ['"a', "b"]),
    "quotes of a tab-separated file": ("a.tsv", lines('"a\tb"', separator="\t"), {"quote": '"'}, ["a\tb"]),
    "escapes of a tab-separated file": ("a.tsv", lines('"a\\"\tb"', separator="\t"), {"escape": "\\"}, ['a"\tb']),
    "no quotes in a CSV file": ("a.csv", lines('"a', "b", '"c'), {"quote": ""}, ['"a', "b", '"c']),
    "apostrophes": ("a.csv", lines("'a, \"b'", "''''"), {"quote": "'"}, ['a, "b', "'"]),
    "escapes as Spark writes them": ("a.csv", lines(r'"5\" wide, b"', r'"5\""', r'"\\"'), {"escape": "\\"}, ['5" wide, b', '5"', "\\"]),
    "both spellings where an escape is declared": ("a.csv", lines('"a""b"', r'"a\"b"'), {"escape": "\\"}, ['a"b', 'a"b']),
    "quotes written twice": ("a.csv", lines('"5"" wide, b"', '""""'), {}, ['5" wide, b', '"']),
    "a text that ends in a backslash": ("a.csv", lines('"C:\\"', '"a, \\"', "b"), {}, ["C:\\", "a, \\", "b"]),
    "a backslash before a quote that is written twice": ("a.csv", lines('"a\\""b"', "c"), {}, ['a\\"b', "c"]),
    "a backslash and a quote in an unquoted text": ("a.csv", lines('a\\"b', "c"), {}, ['a\\"b', "c"]),
    "escaped escapes beside texts of several lines": ("a.csv", lines(r'"\\"', '"a\nb"', "c"), {"escape": "\\"}, ["\\", "a\nb", "c"]),
    "texts of several lines": ("a.csv", lines('"a\n\nb"', '"c\r\nd"', "e"), {}, ["a\n\nb", "c\r\nd", "e"]),
    "lines with as many separators as rows": ("a.csv", lines('"x, y, z, w\nand a, b, c, d\nto e, f, g, h"', "b", "c"), {}, ["x, y, z, w\nand a, b, c, d\nto e, f, g, h", "b", "c"]),
    "prose cut where a row would be": ("a.csv", lines('"so, it\nis, isn\'t it, and"', "b", "c"), {}, ["so, it\nis, isn't it, and", "b", "c"]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "fields", "texts"), KEPT.values(), ids=KEPT)
def test_no_row_is_lost(tmp_path: Path, name: str, content: str, fields: dict[str, Any], texts: list[str]) -> None:
    (tmp_path / name).write_text(content, newline="")
    expected = [(f"i{n}", value, f"{n}.5", "1") for n, value in enumerate(texts)]
    assert read(tmp_path / name, **fields) == (expected, [])


NO_QUOTE = 'Set `quote: ""`'
ESCAPE = r'Set `escape: "\\"`'
REFUSED: dict[str, tuple[str, str, int]] = {
    "rows next to each other": (lines("a", '"b', '"c', "d"), NO_QUOTE, 2),
    "rows between": (lines("a", '"b', "c", "d", '"e', "f"), NO_QUOTE, 2),
    "texts that are a quote": (lines('"', "b", '"', "d", "e"), NO_QUOTE, 1),
    "closed by a sign for inches": (lines("a", '"b', "c", '5"', "d"), NO_QUOTE, 2),
    "closed in a line with more fields": (lines("a", '"b', "c", '5" x 3",z', "d", '"'), NO_QUOTE, 2),
    "never closed": (lines("a", '"b', "c"), NO_QUOTE, 0),
    "an escape": (lines("a", r'"5\" wide"', "c"), ESCAPE, 2),
    "an escape and a separator": (lines("a", '"x, y"', r'"5\" wide, b"', "c"), ESCAPE, 3),
    "an escape behind a quote written twice": (lines("a", r'"x ""y"" 5\" wide"', "c"), ESCAPE, 2),
    "an escape at the end of two texts": (lines("a", r'"5\""', "b", r'"6\""', "c"), ESCAPE, 2),
    "an escape at the end of one": (lines("a", r'"5\""', "b", "c"), ESCAPE, 0),
}
"""Content, what to do, and about which row; 0 where none is named."""


@pytest.mark.parametrize("break_", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(("content", "remedy", "row"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_would_lose_rows_is_refused(
    tmp_path: Path, content: str, remedy: str, row: int, packed: bool, break_: str
) -> None:
    data = content.replace("\n", break_).encode()
    path = tmp_path / ("log.csv.gz" if packed else "log.csv")
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(SourceError) as caught:
        read(path)
    message = str(caught.value)
    assert remedy in message
    assert path.name in message
    assert (f"near row {row}," in message) == (row > 0)
    assert "5" not in message.partition(":")[2].replace(f"row {row}", "").partition("(")[0]


def test_files_of_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (text, quoting):
        monkeypatch.setattr(module, "_BLOCK_BYTES", 300)
    path = tmp_path / "log.csv"
    many = [f"text {n}" for n in range(200)]
    path.write_text(lines(*many))
    assert len(read(path)[0]) == 200
    for place, quotes in ((150, ('"a', '"b')), (0, (r'"5\" wide"',)), (199, (r'"5\" wide"',))):
        path.write_text(lines(*many[:place], *quotes, *many[place:]))
        with pytest.raises(SourceError, match=rf"near row {place + 1},"):
            read(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", lines('x\\",y', "b"), "Set `escape"),
        ("a.tsv", lines('"a\tb"', "b", separator="\t"), "set `quote` if some are"),
        ("a.csv", lines("a,b", "b"), "this one has 5"),
    ],
)
def test_a_line_of_too_many_fields_says_what_may_be_wrong(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    rows, (rule,) = read(tmp_path / name)
    assert len(rows) == 1
    assert words in rule


Maker = Callable[..., Any]


def test_logs_of_events_quote_in_their_own_way(tmp_path: Path) -> None:
    from ctr_pipeline.spec.source import EventLog

    path = tmp_path / "events.csv"
    path.write_text("impression_id|event_type|event_ts\na|'x|y'|1\n")
    (file,) = open_log(EventLog(paths=["x"], separator="|", quote="'"), [path])
    (batch, _) = csv_batches(file, csv_header(file))
    assert batch.frame["event_type"].to_list() == ["x|y"]


def test_texts_that_look_like_rows_are_texts_where_all_are_quoted(tmp_path: Path) -> None:
    """A quote that is part of a text would enclose rows with quotes of their own there."""
    content = '"id","text","number"\n"i0","a\ri1,b,2","1"\n"i2","b\ri1,c,5\n","3"\n"i3",,"4"\n'
    (tmp_path / "a.csv").write_text(content, newline="")
    rows = [("i0", "a\ri1,b,2", "1"), ("i2", "b\ri1,c,5\n", "3"), ("i3", None, "4")]
    assert read(tmp_path / "a.csv") == (rows, [])
    (tmp_path / "c.csv").write_text(content.replace('"3"', '"\\"3\\\\"'), newline="")
    escaped = [("i2", "b\ri1,c,5\n", '"3\\') if row[0] == "i2" else row for row in rows]
    assert read(tmp_path / "c.csv", escape="\\") == (escaped, [])
    (tmp_path / "b.csv").write_text(content.replace('"4"', "4"), newline="")
    with pytest.raises(SourceError, match=r"near row 2, a quote is opened that encloses whole rows"):
        read(tmp_path / "b.csv")
