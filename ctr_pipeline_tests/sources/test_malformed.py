"""Whatever is wrong with a log: its rows are all accounted for, or it is refused in words that help."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from ctr_pipeline.sources import (
    Pseudonymiser,
    ReadResult,
    SourceError,
    list_files,
    log_range,
    read_events,
    read_impressions,
    rows,
    text,
)
from ctr_pipeline.spec import Spec
from ctr_pipeline_tests.sources.malformed import FILES, NDJSON, SECRET, START, VALUES, Broken, columns, csv, line

FIRST = date(2025, 3, 30)
LAST = date(2026, 1, 9)
NOW = 1_767_571_200_000_000 + 3 * 86_400_000_000

Maker = Callable[..., Any]
REMEDY = re.compile(
    r"\b(Change|Check|Close|Convert|Copy|Correct|Let|Name|Put|Rename|Restore|Set|Unpack|Write)\b.*\.$", re.DOTALL
)
"""What to do comes last."""


def read(spec: Spec, paths: Sequence[Path], pseudonymiser: Pseudonymiser) -> tuple[ReadResult, ReadResult]:
    """Reads a log as the pipeline does: its files, its days, its rows, its outcomes."""
    files = list_files(spec.source.impressions, Path("/nowhere"), paths).files
    first, last = log_range(spec, files, NOW)
    assert FIRST <= first <= last <= LAST
    return (
        read_impressions(spec, files, first, last, pseudonymiser, first, NOW),
        read_events(spec, files, {}, first, last, pseudonymiser, first, NOW),
    )


def test_the_table_is_long_and_names_each_kind_once() -> None:
    names = [kind.name for kind in (*FILES, *VALUES)]
    assert len(set(names)) == len(names) > 100


@pytest.mark.parametrize("kind", [*FILES, *VALUES], ids=lambda kind: kind.name)
def test_malformed_input_is_quarantined_or_refused(
    make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path, kind: Broken
) -> None:
    written = kind.write(tmp_path)
    paths = [written] if isinstance(written, Path) else list(written)
    spec = make_spec(**kind.spec)
    if kind.refused:
        with pytest.raises(SourceError) as caught:
            read(spec, paths, pseudonymiser)
        message = str(caught.value)
        assert kind.refused in message
        assert any(path.name in message for path in paths), message
        assert REMEDY.search(message), message
        assert SECRET not in message
        assert "Traceback" not in message
        assert caught.value.__cause__ is None
        return
    shown, outcomes = read(spec, paths, pseudonymiser)
    found = dict(shown.quarantined.group_by("reason").len().iter_rows())
    assert (found, shown.kept.height) == (dict(kind.reasons), kind.kept)
    assert shown.rows_in == shown.kept.height + shown.quarantined.height == sum(shown.rows_in_by_day.values())
    assert shown.quarantined.select("source_file", "source_row").n_unique() <= shown.quarantined.height
    assert shown.quarantined["rule"].null_count() == 0
    assert outcomes.rows_in == outcomes.kept.height + outcomes.quarantined.height + outcomes.ignored
    for frame in (shown.kept, shown.quarantined, outcomes.kept, outcomes.quarantined):
        assert SECRET not in frame.write_ndjson()


EVENTS = [
    ("a known impression", {}, "kept"),
    ("no impression of that id", {"impression_id": "unheard-of"}, "kept"),
    ("before the impression", {"event_ts": START - timedelta(hours=1)}, "kept"),
    ("unknown type", {"event_type": "scroll"}, "ignored"),
    ("no type", {"event_type": ""}, "missing_type"),
    ("no id", {"impression_id": None}, "missing_id"),
    ("blank id", {"impression_id": " "}, "missing_id"),
    ("no time", {"event_ts": None}, "missing_time"),
    ("no ingest time", {"got": None}, "missing_time"),
    ("ingest a minute before the event", {"got": START + timedelta(minutes=59)}, "kept"),
    ("ingest an hour before the event", {"got": START}, "future_time"),
    ("in the future", {"event_ts": datetime(2150, 1, 1, tzinfo=UTC), "got": datetime(2150, 1, 2, tzinfo=UTC)}, "future_time"),
    ("received in the future", {"got": datetime(2150, 1, 1, tzinfo=UTC)}, "future_time"),
    ("before 1980", {"event_ts": datetime(1979, 1, 1, tzinfo=UTC)}, "bad_time"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "outcome"), [case[1:] for case in EVENTS], ids=[case[0] for case in EVENTS])
def test_malformed_events_are_quarantined_ignored_or_left_to_the_check_of_references(
    make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path, changed: dict[str, Any], outcome: str
) -> None:
    event = {"impression_id": f"{SECRET}-1", "event_type": "click", "event_ts": START + timedelta(hours=1)}
    rows = [event | {"got": START + timedelta(hours=2)} | changed, event | {"got": START + timedelta(hours=3)}]
    path = tmp_path / "actions.parquet"
    pl.DataFrame(rows).write_parquet(path)
    result = read_events(event_spec(make_spec), [], {"actions": [path]}, FIRST, LAST, pseudonymiser, FIRST, NOW)
    assert result.rows_in == 2 == result.kept.height + result.quarantined.height + result.ignored
    if outcome in ("kept", "ignored"):
        assert (result.kept.height, result.ignored) == ((2, 0) if outcome == "kept" else (1, 1))
    else:
        assert result.quarantined.select("reason", "source_file", "source_row").rows() == [
            (outcome, "actions.parquet", 0)
        ]
    assert SECRET not in result.quarantined.write_ndjson() + result.kept.write_ndjson()


def event_spec(make_spec: Maker) -> Spec:
    return make_spec(  # type: ignore[no-any-return]
        source={"events": [{"name": "actions", "ingest_time": "got"}]},
        tasks=[{"name": "click", "window": "1h", "label": {"event": "click"}}],
    )


def test_a_log_of_events_that_no_task_uses_is_refused(
    make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path
) -> None:
    """A misspelt type would make every label negative. Ids in its place are not shown."""
    path = tmp_path / "actions.parquet"
    for types, words in (
        (["Click"] * 12, r"Did you mean `Click`\? Types found: Click\. Correct `tasks\[\]\.label\.event`"),
        ([f"{SECRET}-{n}" for n in range(12)], r"of a type that a task uses \(click\)\. Correct"),
    ):
        pl.DataFrame(
            {"impression_id": ["a"] * 12, "event_type": types, "event_ts": [START] * 12, "got": [START] * 12}
        ).write_parquet(path)
        with pytest.raises(SourceError, match=f"none of the 12 events is.*{words}") as caught:
            read_events(event_spec(make_spec), [], {"actions": [path]}, FIRST, LAST, pseudonymiser, FIRST, NOW)
        assert SECRET not in str(caught.value)
    later = read_events(event_spec(make_spec), [], {"actions": [path]}, START.date(), LAST, pseudonymiser, FIRST, NOW)
    assert later.ignored == 12


def test_a_few_broken_values_are_broken_rows_and_no_wrong_column(
    make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path
) -> None:
    columns(9, price=["cheap"] * 9).write_parquet(tmp_path / "log.parquet")
    assert read(make_spec(), [tmp_path / "log.parquet"], pseudonymiser)[0].quarantined.height == 9


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user whom permissions bind; the superuser is bound by none."""
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)


@pytest.mark.parametrize("closed", ["log.parquet", "log.csv", "."])
def test_what_this_user_may_not_read_is_refused(make_spec: Maker, pseudonymiser: Pseudonymiser, closed: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, inner = Path(name), Path(name) / "day=1"
        inner.mkdir()
        columns().write_parquet(inner / "log.parquet")
        csv()(inner)
        folder.chmod(0o755)
        (inner / closed).chmod(0)
        with without_rights(), pytest.raises(SourceError, match=r"this user may not .*Change its permissions\."):
            read(make_spec(), [folder], pseudonymiser)
        inner.chmod(0o755)


def test_equal_ids_give_equal_text_whatever_stands_beside_them(
    make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path
) -> None:
    """A nested value in one line must not change how numbers in the others are read."""
    row = '{"id": 12345678901234567890123, "at": "2026-01-05", "who": 1, "price": 1, "item": 1.10, "clicked": 0}'
    ids = []
    for number, beside in enumerate(("", '{"item": [1]}', '{"id": ', '{"id": "\\ud800"}')):
        path = tmp_path / f"{number}.ndjson"
        path.write_text("\n".join([row, beside]))
        ids.append(read(make_spec(), [path], pseudonymiser)[0].kept.select("impression_id", "item").row(0))
    assert len(set(ids)) == 1


def test_days_in_the_wrong_order(make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path) -> None:
    path = csv()(tmp_path)
    with pytest.raises(SourceError, match="the last day 2025-03-30 is before the first day 2026-01-09"):
        read_impressions(make_spec(), [path], LAST, FIRST, pseudonymiser, FIRST)


def test_an_event_log_that_is_not_declared(make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path) -> None:
    path = csv()(tmp_path)
    with pytest.raises(SourceError, match=r"event log `action` is not declared\. Did you mean `actions`\?"):
        read_events(event_spec(make_spec), [], {"action": [path]}, FIRST, LAST, pseudonymiser, FIRST)


def test_malformed_csv_lines_are_numbered_across_blocks(
    make_spec: Maker, tmp_path: Path, pseudonymiser: Pseudonymiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_BLOCK_BYTES", 400)
    good = [f'i{n},2026-01-05T01:00:00Z,u,{n},"a\n{n}",0'.encode() for n in range(60)]
    bad = {
        3: b"i3,2026-01-05",
        20: SECRET.encode() + b",,,,,,,",
        21: b"\xff\xfe,2026-01-05,u,1,a,0",
        40: b"i40,2026-01-05,u,1,\0,0",
        59: b"x",
    }
    lines = [bad.get(n, row) for n, row in enumerate(good)]
    path = tmp_path / "log.csv"
    header = b"id,at,who,price,item,clicked\n\n"
    path.write_bytes(header + b"\r\n".join(lines[:30]) + b"\n\n\n" + b"\n".join(lines[30:]))
    result, _ = read(make_spec(), [path], pseudonymiser)
    assert result.rows_in == 60
    assert result.kept["price"].sort().to_list() == [float(n) for n in range(60) if n not in bad]
    fields = "a line has 6 fields, as many as the header; this one has"
    assert result.quarantined.select("source_row", "reason", "rule", "column", "value").rows() == [
        (3, "malformed_row", f"{fields} 2", None, None),
        (20, "malformed_row", f"{fields} 8", None, None),
        (21, "malformed_row", "text is encoded as UTF-8; this line is not", None, None),
        (40, "malformed_row", "text has no zero characters; this line has one: the file may be damaged", None, None),
        (59, "malformed_row", f"{fields} 1", None, None),
    ]
    assert SECRET not in str(result.quarantined.rows())


def test_malformed_ndjson_lines_are_numbered_across_blocks(
    make_spec: Maker, tmp_path: Path, pseudonymiser: Pseudonymiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_BLOCK_BYTES", 300)
    lines = [
        f'{{"id": "i{n}", "at": "2026-01-05", "who": 7, "price": {n}.0, "item": {n}.0, "clicked": true}}'.encode()
        for n in range(40)
    ]
    bad = {
        0: b"[1, 2]",
        5: f'{{"id": "{SECRET}", "at": '.encode(),
        6: b'{"id": "\xff"}',
        7: b"null",
        20: b'{"item": {"a": 1}}',
        39: b"{} {}",
    }
    path = tmp_path / "log.ndjson"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\n".join(bad.get(n, row) for n, row in enumerate(lines)))
    result, _ = read(make_spec(), [path], pseudonymiser)
    good = [n for n in range(40) if n not in bad]
    assert result.kept.sort("price")["price"].to_list() == [float(n) for n in good]
    assert result.kept.sort("price")["item"].to_list() == [str(n) for n in good]
    assert result.quarantined["source_row"].to_list() == sorted(bad)
    assert set(result.quarantined.select("reason", "value").iter_rows()) == {("malformed_row", None)}
    assert SECRET not in str(result.quarantined.rows())


def test_a_key_that_one_file_leaves_out_is_missing_there(
    make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path
) -> None:
    (tmp_path / "a.ndjson").write_text(NDJSON.replace('"price"', '"cost"').replace(SECRET, "other"))
    (tmp_path / "b.ndjson").write_text(NDJSON)
    result, _ = read(make_spec(), [tmp_path], pseudonymiser)
    assert (result.kept.height, result.kept["price"].null_count()) == (24, 12)


@pytest.mark.parametrize("column", ["id", "who", "mail"])
def test_ids_are_never_shown(make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path, column: str) -> None:
    spec = make_spec(
        privacy={"pseudonymise": ["mail", "price"]}, features={"categorical": [{"name": "item"}, {"name": "mail"}]}
    )
    log = columns(**({"mail": ["m"] * 12} | {column: [f"{SECRET}-{n}" for n in range(12)]}))
    log = pl.concat([log, log]).with_columns(
        clicked=pl.Series([str(n % 2 and -n) for n in range(24)]),
        at=pl.col("at").dt.to_string().str.replace("T05", "?"),
    )
    log.write_csv(tmp_path / "log.csv")
    result, _ = read(spec, [tmp_path / "log.csv"], pseudonymiser)
    assert result.quarantined.height > 12
    assert SECRET not in result.quarantined.write_ndjson() + result.kept.write_ndjson()


def test_a_line_that_shows_an_id_is_not_quoted(make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path) -> None:
    """A CSV file without a header, in a log of which one name happens to stand in the first line."""
    (tmp_path / "log.csv").write_text(line(item="price") + "\n" + line(1) + "\n")
    with pytest.raises(SourceError, match="the first line has only 1 of the declared columns") as caught:
        read(make_spec(), [tmp_path / "log.csv"], pseudonymiser)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        pl.exceptions.ComputeError,
        pl.exceptions.SchemaError,
        pl.exceptions.PanicException,
        pa.ArrowInvalid,
        pa.ArrowKeyError,
        ValueError,
        OSError,
    ],
)
@pytest.mark.parametrize(("name", "reader"), [("log.parquet", "scan_parquet"), ("log.csv", "csv_batches")])
def test_no_text_of_a_reader_is_shown(
    make_spec: Maker,
    pseudonymiser: Pseudonymiser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    name: str,
    reader: str,
) -> None:
    """Readers quote rows in their errors, and a panic is no exception of Python's usual kind."""
    log = columns()
    log.write_parquet(tmp_path / name) if name.endswith("parquet") else log.write_csv(tmp_path / name)

    def fails(*arguments: object, **options: object) -> None:
        raise error(f"could not parse {SECRET}-0")

    monkeypatch.setattr(rows, reader, fails)
    with pytest.raises(SourceError) as caught:
        read_impressions(make_spec(), [tmp_path / name], FIRST, LAST, pseudonymiser, FIRST, NOW)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name))
    assert error.__name__ in message
    assert SECRET not in message
    assert REMEDY.search(message)
    assert caught.value.__suppress_context__
