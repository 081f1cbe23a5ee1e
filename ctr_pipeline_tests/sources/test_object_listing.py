"""Which objects an address stands for. Local folders are the measure: the rules are the same."""

import string
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import deltalake
import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import Listing, SourceError, list_files, source_fingerprint
from ctr_pipeline.spec.source import LogFiles
from ctr_pipeline_tests.sources.storage_servers import SECRET, Bucket, Faults

NOWHERE = Path("/nowhere")
NAMES = ("a.csv", "b.parquet", "c.tsv.gz", "_d.csv", ".e.csv", "f.txt", "day=1", "day=1-b", "_old", ".git", "x")
PATTERNS = (
    "",
    "day=1",
    "day=*",
    "*",
    "**",
    "**/*.csv",
    "*/*",
    "x/**/b.*",
    "[ab]*",
    "day=1*/a.csv",
    "a.csv",
    "*.gz",
    "_old/*",
)


def names_of(listing: Listing) -> list[str]:
    return [file.label for file in listing.files]


def found(paths: list[str], log: LogFiles, base: str, below: str) -> tuple[Any, ...]:
    """What a listing says, or how it refuses, without where the log lies."""
    try:
        listing = list_files(log, NOWHERE, [f"{base}{path}" for path in paths])
    except SourceError as error:
        return tuple(kind for kind in ("no such", "matches this pattern", "no log file") if kind in str(error))
    labels = [(str(file.path).removeprefix(base), file.label) for file in listing.files]
    return labels, sorted(remark.replace(below, "") for remark in listing.remarks)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.sets(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join), min_size=1, max_size=6),
    patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2, unique=True),
    kind=st.sampled_from([None, "csv"]),
)
def test_objects_are_found_by_the_rules_for_files(
    bucket: Bucket, keys: set[str], patterns: list[str], kind: Any
) -> None:
    assume(not any(other.startswith(f"{key}/") for key in keys for other in keys))
    log = LogFiles(format=kind)
    bucket.clear()
    with TemporaryDirectory() as folder:
        for key in keys:
            path = Path(folder, "logs", key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(key)
        bucket.put_folder(Path(folder))
        local, remote = f"{folder}/logs/", f"{bucket}/logs/"
        # Named by themselves, local folders of hidden files say that they hold none; a bucket has no folder without objects.
        assert found(patterns, log, remote, remote) == found(patterns, log, local, local)


def test_odd_names_and_markers_of_folders(bucket: Bucket) -> None:
    names = [
        "day=2026-03-01 00%3A00/x+y z~#?[1].csv",
        "ü/" + string.punctuation.replace("/", "").replace("\\", "") + ".csv",
    ]
    for name in names:
        bucket.put(f"logs/{name}", b"x")
    for marker in ("logs", "logs/day=2026-03-01 00%3A00"):
        bucket.put(marker, b"")
    for address in (f"{bucket}/logs", f"{bucket}/logs/", f"{bucket}/*", f"{bucket}"):
        listing = list_files(LogFiles(format="csv"), NOWHERE, [address])
        assert sorted(label.removeprefix("logs/") for label in names_of(listing)) == sorted(names)
    [file] = list_files(LogFiles(), NOWHERE, [f"{bucket}/logs/{names[0]}"]).files
    assert str(file.path) == f"{bucket}/logs/{names[0]}"


def test_a_page_of_a_listing_is_not_all_of_it(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    for number in range(7):
        bucket.put(f"logs/{number}.csv", b"x")
    assert len(list_files(LogFiles(), NOWHERE, [f"{bucket}/logs"]).files) == 7


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("{}/loks", ["loks: no such object or folder. Did you mean `logs`?", "Correct the address"]),
        ("{}/logs/day=9/a.csv", ["Nothing lies in", "/logs/day=9 either"]),
        ("{}/logs/zzz", ["Beside it lie: a.csv, note.txt"]),
        ("{}/logs/z*", ["no object matches this pattern"]),
        ("{}/texts", ["texts: no log file in this folder; looked for .parquet"]),
        ("s3://absent-bucket/logs", ["there is no s3://absent-bucket"]),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_with_what_is(bucket: Bucket, address: str, parts: list[str]) -> None:
    for key in ("logs/a.csv", "logs/note.txt", "texts/a.txt"):
        bucket.put(key, b"x")
    with pytest.raises(SourceError) as refusal:
        list_files(LogFiles(), NOWHERE, [address.format(bucket)])
    assert all(part in str(refusal.value) for part in parts), refusal.value


def test_keys_that_are_no_paths_are_refused(bucket: Bucket) -> None:
    with pytest.raises(SourceError, match="has an empty part"):
        list_files(LogFiles(), NOWHERE, [f"{bucket}/logs//a.csv/../b.csv"])


def test_delta_tables_stand_for_their_live_files(bucket: Bucket, tmp_path: Path) -> None:
    rows = pl.DataFrame({"n": range(6), "kind": ["a b", "c/ü", "50%"] * 2})
    table = tmp_path / "shop" / "clicks"
    deltalake.write_deltalake(str(table), rows.to_arrow(), partition_by=["kind"])
    deltalake.DeltaTable(str(table)).delete("kind = 'a b'")
    (table.parent / "more.parquet").write_bytes(b"x")
    bucket.put_folder(tmp_path)
    local, remote = (list_files(LogFiles(), NOWHERE, [f"{base}/shop"]) for base in (tmp_path, bucket))
    assert names_of(remote) == names_of(local)
    assert len(names_of(remote)) == 3
    inside = next(file for file in remote.files if "kind=" in file.label)
    for address in (inside.path, f"{bucket}/shop/clicks/*/*.parquet", f"{bucket}/shop/clicks/kind=50%25"):
        with pytest.raises(SourceError, match=r"is a file of the Delta table s3://\S*/shop/clicks, and may hold rows"):
            list_files(LogFiles(), NOWHERE, [str(address)])
    bucket.delete(str(inside.path).removeprefix(f"{bucket}/"))
    with pytest.raises(SourceError, match="belongs to the newest version of a Delta table, and is not there"):
        list_files(LogFiles(), NOWHERE, [f"{bucket}/shop"])


@pytest.mark.parametrize("kind", ["truncate", "503 SlowDown"])
def test_a_delta_log_is_read_whole_or_not_at_all(faults: Faults, bucket: Bucket, tmp_path: Path, kind: str) -> None:
    for numbers in (range(3), range(3, 6)):
        deltalake.write_deltalake(str(tmp_path), pl.DataFrame({"n": numbers}).to_arrow(), mode="append")
    bucket.put_folder(tmp_path, "log")
    for where in ("_delta_log/0", "_delta_log%2F", "_delta_log/&"):
        faults.next(kind, where, times=2)
        assert len(list_files(LogFiles(), NOWHERE, [f"{bucket}/log/"]).files) == 2
    faults.next(kind, "_delta_log/0")
    with pytest.raises(SourceError, match=r"is a Delta table .*cannot be opened .* Run again"):
        list_files(LogFiles(), NOWHERE, [f"{bucket}/log/"])


@pytest.mark.parametrize(
    ("key", "words"), [(".hoodie/hoodie.properties", "a Hudi table"), ("metadata/v1.metadata.json", "an Iceberg table")]
)
def test_tables_of_other_kinds_are_refused(bucket: Bucket, key: str, words: str) -> None:
    bucket.put(f"logs/shop/{key}", b"x")
    bucket.put("logs/shop/data/a.parquet", b"x")
    with pytest.raises(SourceError, match=f"logs/shop: is {words}, and these are not read"):
        list_files(LogFiles(), NOWHERE, [f"{bucket}/logs"])


def test_a_stamp_changes_with_the_content(bucket: Bucket) -> None:
    def stamp() -> tuple[str, dict[str, str]]:
        listing = list_files(LogFiles(), NOWHERE, [f"{bucket}/logs"])
        return source_fingerprint(listing.files), listing.stamps

    bucket.put("logs/a.csv", b"x,y")
    first = stamp()
    assert list(first[1]) == [f"{bucket}/logs/a.csv"]
    assert stamp() == first
    bucket.put("logs/a.csv", b"x,z")
    assert stamp()[0] != first[0]
    bucket.put("logs/a.csv", b"x,y")
    assert stamp() == first


@pytest.mark.parametrize("kind", ["truncate", "reset", "503 SlowDown"])
def test_a_listing_that_breaks_off_is_asked_for_again(faults: Faults, bucket: Bucket, kind: str) -> None:
    for number in range(3):
        bucket.put(f"logs/{number}.csv", b"x")
    faults.next(kind, "list-type", times=3)
    assert names_of(list_files(LogFiles(), NOWHERE, [f"{bucket}/logs/"])) == ["0.csv", "1.csv", "2.csv"]
    faults.next(kind, "list-type")
    faults.seen.clear()
    with pytest.raises(SourceError, match="tried 8 times") as refusal:
        list_files(LogFiles(), NOWHERE, [f"{bucket}/logs/"])
    assert len(faults.seen) == 8
    assert SECRET not in str(refusal.value)


def test_who_may_read_but_not_list_names_objects(faults: Faults, bucket: Bucket) -> None:
    bucket.put("logs/a.csv", b"x")
    faults.next("403 AccessDenied", "list-type")
    assert names_of(list_files(LogFiles(), NOWHERE, [f"{bucket}/logs/a.csv"])) == ["a.csv"]
    with pytest.raises(SourceError, match=r"may not be read \(AccessDenied\)"):
        list_files(LogFiles(), NOWHERE, [f"{bucket}/logs/"])
