"""Which files a log has."""

import os
from pathlib import Path

import pytest

from ctr_pipeline.sources import SourceError, log_files, source_fingerprint
from ctr_pipeline.sources.files import open_log
from ctr_pipeline.spec.source import LogFiles


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "day=1/part-0.parquet",
        "day=2/part-0.parquet",
        "day=2/_SUCCESS",
        "day=2/.part.crc",
        "_old/a.parquet",
        "b.CSV",
        "a.tsv.gz",
        "c.jsonl",
        "notes.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


def names(paths: tuple[Path, ...], base: Path) -> list[str]:
    return [str(path.relative_to(base)) for path in paths]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["c.jsonl"], ["c.jsonl"]),
        (["."], ["a.tsv.gz", "b.CSV", "c.jsonl", "day=1/part-0.parquet", "day=2/part-0.parquet"]),
        (["day=*"], ["day=1/part-0.parquet", "day=2/part-0.parquet"]),
        (["**/*.parquet"], ["_old/a.parquet", "day=1/part-0.parquet", "day=2/part-0.parquet"]),
        (["day=2/*.parquet", "day=2", "c.jsonl"], ["c.jsonl", "day=2/part-0.parquet"]),
    ],
)
def test_files_folders_and_globs(tree: Path, paths: list[str], expected: list[str]) -> None:
    assert names(log_files(LogFiles(paths=paths), tree), tree) == expected


def test_overrides_replace_the_paths_of_the_spec(tree: Path) -> None:
    found = log_files(LogFiles(paths=["absent.csv"]), Path("/nowhere"), [tree / "c.jsonl", tree / "day=1"])
    assert names(found, tree) == ["c.jsonl", "day=1/part-0.parquet"]


def test_a_declared_format_takes_any_file_of_a_folder(tree: Path) -> None:
    (tree / "plain").mkdir()
    (tree / "plain" / "log.txt").write_text("x")
    assert names(log_files(LogFiles(paths=["plain"], format="csv"), tree), tree) == ["plain/log.txt"]


def test_each_file_is_read_in_its_own_way(tree: Path) -> None:
    log = LogFiles(paths=["."], separator=";", null_values=["NA"])
    opened = open_log(log, log_files(log, tree))
    assert [(f.format, f.separator, f.compressed) for f in opened] == [
        ("csv", "\t", True),
        ("csv", ";", False),
        ("ndjson", ";", False),
        ("parquet", ";", False),
        ("parquet", ";", False),
    ]
    assert [f.label for f in opened[3:]] == ["part-0.parquet", "part-0.parquet#2"]


@pytest.mark.parametrize(
    ("paths", "parts"),
    [
        ([], ["no log file is declared", "--input"]),
        (["c.json"], ["c.json: no such file or folder", "Did you mean `c.jsonl`?"]),
        (["zzzzzzzz"], ["no such file", "That folder has:", "notes.txt"]),
        (["gone/c.jsonl"], ["no such file", "does not exist either"]),
        (["*.avro"], ["*.avro: no file matches this pattern"]),
        (["day=3*"], ["no file matches"]),
        (["_old/../empty"], ["no log file in this folder", ".parquet, .pq, .csv"]),
    ],
)
def test_what_is_not_there_is_named(tree: Path, paths: list[str], parts: list[str]) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(SourceError) as caught:
        log_files(LogFiles(paths=paths), tree)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_an_unknown_ending_needs_a_format(tree: Path) -> None:
    files = log_files(LogFiles(paths=["notes.txt"]), tree)
    with pytest.raises(SourceError, match=r"notes\.txt: the ending \.txt does not determine .* set `format`"):
        open_log(LogFiles(paths=["notes.txt"]), files)


def test_the_fingerprint_follows_the_files(tree: Path) -> None:
    files = list(log_files(LogFiles(paths=["."]), tree))
    before = source_fingerprint(files)
    assert source_fingerprint(files) == before
    assert source_fingerprint(files[1:]) != before
    os.utime(files[0], ns=(0, 1))
    touched = source_fingerprint(files)
    assert touched != before
    files[0].write_text("longer than it was")
    assert source_fingerprint(files) != touched
    files[0].unlink()
    with pytest.raises(SourceError, match=r"a\.tsv\.gz: cannot be read"):
        source_fingerprint(files)
