"""An hour without traffic leaves a file without rows; it stops nothing, and is counted."""

import gzip
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.sources import Pseudonymiser, SourceError, read_events
from ctr_pipeline.sources.extent import log_range

Maker = Callable[..., Any]
Reader = Callable[..., Any]
FIRST, LAST = date(2026, 1, 5), date(2026, 1, 8)
HEADER = "id,at,who,price,item,clicked\n"


def parquet(frame: pl.DataFrame) -> Callable[[Path], Any]:
    return frame.write_parquet


EMPTY: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "no columns": ("b.parquet", parquet(pl.DataFrame())),
    "null types": ("b.parquet", parquet(pl.DataFrame(schema=dict.fromkeys(HEADER.strip().split(","), pl.Null)))),
    "other columns": ("b.parquet", parquet(pl.DataFrame(schema={"id": pl.Int64, "note": pl.String}))),
    "0 bytes of Parquet": ("b.parquet", lambda path: path.write_bytes(b"")),
    "0 bytes of CSV": ("b.csv", lambda path: path.write_bytes(b"")),
    "gzip of nothing": ("b.csv.gz", lambda path: path.write_bytes(gzip.compress(b""))),
    "gzip of NDJSON of nothing": ("b.ndjson.gz", lambda path: path.write_bytes(gzip.compress(b""))),
    "header alone": ("b.csv", lambda path: path.write_text(HEADER)),
    "gzip of a header": ("b.csv.gz", lambda path: path.write_bytes(gzip.compress(HEADER.encode()))),
    "header without a line break": ("b.csv", lambda path: path.write_text(HEADER.strip())),
    "blank lines": ("b.csv", lambda path: path.write_text("\n\r\n  \n")),
    "blank NDJSON": ("b.jsonl", lambda path: path.write_text("\n\n")),
}


@pytest.mark.parametrize("case", EMPTY)
@pytest.mark.parametrize("other", ["a.parquet", "z.csv"])
def test_an_empty_file_beside_others_is_counted(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, tmp_path: Path, case: str, other: str
) -> None:
    name, save = EMPTY[case]
    save(tmp_path / name)
    files = sorted([tmp_path / name, write(make_log(rows=60), other)])
    assert log_range(make_spec(), files) == (FIRST, date(2026, 1, 7))
    result = read(make_spec(), *files)
    assert (result.kept.height, result.quarantined.height, result.notices["empty_file"]) == (60, 0, 1)
    # Counted once, however many intervals are read.
    assert read(make_spec(), *files, first=LAST).notices["empty_file"] == 0


@pytest.mark.parametrize("case", EMPTY)
def test_a_log_of_empty_files_alone_is_refused(make_spec: Maker, tmp_path: Path, case: str) -> None:
    name, save = EMPTY[case]
    for place in range(2):
        save(tmp_path / f"{place}{name}")
        with pytest.raises(SourceError, match=name) as refusal:
            log_range(make_spec(), sorted(tmp_path.iterdir()))
        assert len(str(refusal.value)) > 60


@pytest.mark.parametrize("case", EMPTY)
def test_an_empty_file_of_a_log_without_a_clock(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, tmp_path: Path, case: str
) -> None:
    name, save = EMPTY[case]
    save(tmp_path / name)
    spec = make_spec(
        impression={"id": "id", "order": {"column": "price", "rows_per_day": 30, "first_day": "2026-01-05"}}
    )
    files = [write(make_log(rows=60), "a.parquet"), tmp_path / name]
    assert read(spec, *files).kept.height == 60


@pytest.mark.parametrize("case", ["no columns", "0 bytes of Parquet", "gzip of nothing"])
def test_an_empty_file_of_events(
    make_spec: Maker, make_log: Maker, write: Maker, tmp_path: Path, pseudonymiser: Pseudonymiser, case: str
) -> None:
    name, save = EMPTY[case]
    save(tmp_path / name)
    log = make_log(rows=30, clicked=None)
    events = pl.DataFrame({"impression_id": log["id"], "event_type": "click", "event_ts": log["at"]})
    spec = make_spec(
        source={"impressions": {"paths": ["x"]}, "events": [{}]},
        tasks=[{"name": "click", "window": "1h", "label": {"event": "click"}}],
    )
    files = {"outcome_events": [write(events, "a.parquet"), tmp_path / name]}
    result = read_events(spec, [write(log, "log.parquet")], files, FIRST, LAST, pseudonymiser, FIRST)
    assert (result.kept.height, result.notices["empty_file"]) == (30, 1)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_row_without_values_is_a_row(make_spec: Maker, read: Reader, tmp_path: Path, end: str) -> None:
    (tmp_path / "a.tsv").write_text(HEADER.strip().replace(",", "\t") + "\n" + "\t" * 5 + end, newline="")
    result = read(make_spec(), tmp_path / "a.tsv")
    assert result.quarantined["reason"].to_list() == ["missing_id"]
