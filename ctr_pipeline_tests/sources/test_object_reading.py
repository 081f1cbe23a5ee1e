"""Logs in object storage are read as files are, whole or not at all."""

import gzip
import io
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as arrow_parquet
import pytest

from ctr_pipeline.sources import ListedFile, SourceError, list_files, log_range, object_storage
from ctr_pipeline.sources.files import open_log
from ctr_pipeline.sources.parquet import scan_parquet
from ctr_pipeline.spec.source import LogFiles
from ctr_pipeline_tests.sources.storage_servers import SECRET, Bucket, Faults

Maker = Callable[..., Any]
FAULTS = ("truncate", "reset", "503 SlowDown", "500")


def listed(*addresses: str) -> tuple[ListedFile, ...]:
    return list_files(LogFiles(), Path("/nowhere"), addresses).files


def content(frame: pl.DataFrame, name: str) -> bytes:
    target = io.BytesIO()
    if ".parquet" in name:
        frame.write_parquet(target, row_group_size=7)
    elif ".ndjson" in name:
        frame.write_ndjson(target)
    else:
        frame.write_csv(target, separator="\t" if ".tsv" in name else ",")
    return gzip.compress(target.getvalue()) if name.endswith(".gz") else target.getvalue()


@pytest.mark.parametrize(
    "name",
    ["log.parquet", "log.parquet.gz", "log.csv", "log.csv.gz", "log.tsv", "log.tsv.gz", "log.ndjson", "log.ndjson.gz"],
)
def test_every_format_gives_what_a_local_file_gives(
    make_spec: Maker, make_log: Maker, read: Maker, bucket: Bucket, tmp_path: Path, name: str
) -> None:
    log = make_log(rows=40, who=["" if n == 3 else f"user, {n}" for n in range(40)], item=None)
    for day, rows in (("1", log.head(25)), ("2", log.tail(15))):
        path = tmp_path / f"item={day}" / name
        path.parent.mkdir()
        path.write_bytes(content(rows, name))
    bucket.put_folder(tmp_path, "logs")
    spec = make_spec()
    local, remote = listed(str(tmp_path)), listed(f"{bucket}/logs")
    assert log_range(spec, remote) == log_range(spec, local)
    expected, found = read(spec, *local), read(spec, *remote)
    assert expected.kept.height > 30
    assert found.kept.equals(expected.kept)
    assert found.quarantined.equals(expected.quarantined)
    assert {str(path) for paths in found.files.values() for path in paths} == {str(file.path) for file in remote}


@pytest.mark.parametrize("base", ["gs://{}", "gcs://{}", "az://{}", "abfss://{}@shop.dfs.core.windows.net"])
def test_storages_of_google_and_azure(
    make_spec: Maker,
    make_log: Maker,
    read: Maker,
    faults: Faults,
    bucket: Bucket,
    base: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT"):
        monkeypatch.setenv(name, faults.endpoint)
    for name in ("GOOGLE_SKIP_SIGNATURE", "AZURE_SKIP_SIGNATURE"):
        monkeypatch.setenv(name, "true")
    if base.startswith("az"):
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "shop")
    log = make_log(rows=40)
    for key, rows in (("logs/day=1/a.parquet", log.head(25)), ("logs/day=2/b.csv.gz", log.tail(15))):
        bucket.put(key, content(rows, key))
        bucket.publish(key)
    bucket.publish()
    place = base.format(bucket.name)
    for address in (f"{place}/logs", f"{place}/logs/day=*/?.*"):
        files = listed(address)
        assert [str(file.path).removeprefix("gcs").removeprefix("gs") for file in files] == [
            f"{place}/logs/day={end}".removeprefix("gcs").removeprefix("gs") for end in ("1/a.parquet", "2/b.csv.gz")
        ]
        faults.next("truncate", ".csv", times=2)
        assert read(make_spec(), *files).kept.height == 40
    faults.next("503", "parquet")
    with pytest.raises(SourceError, match=r"a.parquet: the server answers with error 503; tried 8 times"):
        read(make_spec(), *files)


@pytest.mark.parametrize("block", [100, 8 << 20])
def test_parquet_has_the_same_types_and_values(
    bucket: Bucket, tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_storage, "_BLOCK_BYTES", block)
    stamp = datetime(2026, 3, 1, 8, 15, 2, 120)
    table = pa.table(
        {
            "i8": pa.array([1, None, 3], pa.int8()),
            "u64": pa.array([2**63, 1, None], pa.uint64()),
            "f32": pa.array([0.5, None, 2.0], pa.float32()),
            "text": pa.array(["a", None, "c"], pa.large_string()),
            "dict": pa.array(["x", "y", "x"]).dictionary_encode(),
            "bytes": pa.array([b"\xff", b"b", None]),
            "flag": pa.array([True, False, None]),
            "decimal": pa.array([Decimal("1.50"), None, Decimal("-2.25")], pa.decimal128(12, 2)),
            "day": pa.array([date(2026, 3, 1), None, date(2026, 3, 2)]),
            "ns": pa.array([stamp, None, stamp], pa.timestamp("ns")),
            "zoned": pa.array([stamp, None, stamp], pa.timestamp("us", "Europe/Paris")),
            "offset": pa.array([stamp, None, stamp], pa.timestamp("us", "+05:30")),
            "clock": pa.array([time(8, 15), None, time(9, 0)]),
            "list": pa.array([["a"], None, []], pa.list_(pa.string())),
            "struct": pa.array([{"os": "ios", "n": 1}, None, {"os": None, "n": 2}]),
            "nothing": pa.nulls(3),
        }
    )
    target = tmp_path / "log.parquet"
    arrow_parquet.write_table(table, target, row_group_size=2)
    bucket.put_folder(tmp_path)
    rows = []
    for source in (str(target), f"{bucket}/log.parquet"):
        [file] = open_log(LogFiles(), listed(source))
        scan, types, total = scan_parquet(file, table.column_names, table.column_names)
        assert total == 3
        assert {name: kind for name, kind in scan.collect_schema().items() if name != "__row"} == types
        rows.append(scan.collect())
    assert rows[1].equals(rows[0])
    assert rows[1].schema == rows[0].schema


def test_of_parquet_only_what_is_needed_is_fetched(
    make_spec: Maker, make_log: Maker, read: Maker, faults: Faults, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_storage, "_BLOCK_BYTES", 100_000)
    log = make_log(rows=240, text=["".join(chr(33 + (7 * n * k) % 90) for k in range(5_000)) for n in range(240)])
    target = io.BytesIO()
    log.write_parquet(target, row_group_size=24, compression="uncompressed")
    bucket.put("log.parquet", target.getvalue())
    files = listed(f"{bucket}/log.parquet")
    faults.seen.clear()
    assert log_range(make_spec(), files) == (date(2026, 1, 5), date(2026, 1, 14))
    assert fetched(faults) < 100_000
    faults.seen.clear()
    spec = make_spec(features={"categorical": [{"name": "text"}, {"name": "item"}]})
    found = read(spec, *files, first=date(2026, 1, 8), last=date(2026, 1, 8))
    assert found.kept["text"].to_list() == log["text"].to_list()[72:96]
    # Row groups of the day itself and of those beside it, by which zones may move it, up to midnight.
    assert fetched(faults) < 100_000 + 0.4 * len(target.getvalue())


def fetched(faults: Faults) -> int:
    ranges = [line.split("bytes=")[1].split("-") for line in faults.seen if "bytes=" in line]
    return sum(int(end) - int(start) + 1 for start, end in ranges)


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("name", ["log.parquet", "log.csv.gz", "log.ndjson"])
def test_what_breaks_off_is_asked_for_again_or_stops_the_reading(
    make_spec: Maker, make_log: Maker, read: Maker, faults: Faults, bucket: Bucket, kind: str, name: str
) -> None:
    bucket.put(name, content(make_log(rows=40), name))
    files, spec = listed(f"{bucket}/{name}"), make_spec()
    faults.next(kind, name, times=3)
    assert read(spec, *files).kept.height == 40
    faults.next(kind, name)
    with pytest.raises(
        SourceError, match=rf"{bucket}/{name}: the server .*; tried 8 times. Nothing of this file"
    ) as refusal:
        read(spec, *files)
    assert SECRET not in str(refusal.value)
    assert faults.endpoint not in str(refusal.value)


@pytest.mark.parametrize("name", ["log.parquet", "log.csv", "log.csv.gz", "log.ndjson"])
def test_a_later_part_that_does_not_come_stops_the_reading(
    make_spec: Maker,
    make_log: Maker,
    read: Maker,
    faults: Faults,
    bucket: Bucket,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_storage, "_BLOCK_BYTES", 500)
    monkeypatch.setattr("ctr_pipeline.sources.text._BLOCK_BYTES", 500)
    body = content(make_log(rows=96), name)
    bucket.put(name, body)
    files = listed(f"{bucket}/{name}")
    assert read(make_spec(), *files).kept.height == 96
    ends = [line.rpartition("-")[2] for line in faults.seen if f"{name} bytes=" in line and not line.endswith("=0-0")]
    faults.next("truncate", f"-{ends[-1]}" if name.endswith("parquet") else f"-{len(body) - 1}")
    with pytest.raises(SourceError, match="breaks off in the middle of an answer; tried 8 times"):
        read(make_spec(), *files)


@pytest.mark.parametrize("name", ["log.parquet", "log.csv"])
def test_an_object_that_is_replaced_is_refused_and_a_later_one_left_to_the_next_run(
    make_spec: Maker, make_log: Maker, read: Maker, bucket: Bucket, name: str
) -> None:
    spec, log = make_spec(), make_log(rows=40)
    bucket.put(f"logs/{name}", content(log, name))
    before = listed(f"{bucket}/logs")
    bucket.put(f"logs/later-{name}", content(make_log(rows=3, id=["x", "y", "z"]), name))
    assert read(spec, *before).kept.height == 40
    assert read(spec, *listed(f"{bucket}/logs")).kept.height == 43
    bucket.put(f"logs/{name}", content(log.with_columns(price=pl.col("price") + 1), name))
    with pytest.raises(SourceError, match=f"{name}: was written to while its log was being read"):
        read(spec, *before)
    bucket.delete(f"logs/{name}")
    with pytest.raises(SourceError, match=f"{name}: no such object. Restore it"):
        read(spec, *before)


def test_an_object_that_is_replaced_between_two_parts_is_refused(
    make_log: Maker, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_storage, "_BLOCK_BYTES", 100)
    bucket.put("log.csv", content(make_log(rows=40), "log.csv"))
    [file] = listed(f"{bucket}/log.csv")
    stream = file.random_access()
    assert not isinstance(stream, Path)
    assert stream.read(10) == b"id,at,who,"
    bucket.put("log.csv", content(make_log(rows=40, price=[1.0] * 40), "log.csv"))
    with pytest.raises(SourceError, match="was written to while its log was being read"):
        stream.read(10)


def test_an_object_without_content_among_others(make_spec: Maker, make_log: Maker, read: Maker, bucket: Bucket) -> None:
    bucket.put("logs/a.csv", b"")
    bucket.put("logs/b.csv", content(make_log(rows=24), "b.csv"))
    assert read(make_spec(), *listed(f"{bucket}/logs")).kept.height == 24
    with pytest.raises(SourceError, match=r"a.csv: the file is empty \(0 bytes\)"):
        read(make_spec(), *listed(f"{bucket}/logs/a.csv"))


def test_a_damaged_object_is_told_from_a_broken_connection(
    make_spec: Maker, make_log: Maker, read: Maker, bucket: Bucket
) -> None:
    for name, kind in (("log.parquet", "Parquet"), ("log.csv.gz", "gzip")):
        bucket.put(name, content(make_log(rows=40), name)[:-20])
        with pytest.raises(SourceError, match=f"{name}: .*{kind}.*it may be truncated"):
            read(make_spec(), *listed(f"{bucket}/{name}"))


def test_a_row_that_is_quarantined_names_the_object(
    make_spec: Maker, make_log: Maker, read: Maker, bucket: Bucket
) -> None:
    log = make_log(rows=24, at=[datetime(2026, 1, 5) + timedelta(hours=n) for n in range(23)] + [None])
    bucket.put("a=1/log.parquet", content(log, "log.parquet"))
    found = read(make_spec(), *listed(f"{bucket}/a=*"))
    assert found.quarantined["source_file"].to_list() == ["log.parquet"]
