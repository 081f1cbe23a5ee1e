"""Which files a log has."""

import os
from pathlib import Path

import pytest

from ctr_pipeline.sources import Listing, SourceError, list_files, source_fingerprint
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


def names(listing: Listing, base: Path) -> list[str]:
    return [str(file.path.relative_to(base)) for file in listing.files]


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
    assert names(list_files(LogFiles(paths=paths), tree), tree) == expected


def test_overrides_replace_the_paths_of_the_spec(tree: Path) -> None:
    found = list_files(LogFiles(paths=["absent.csv"]), Path("/nowhere"), [tree / "c.jsonl", tree / "day=1"])
    assert names(found, tree) == ["c.jsonl", "day=1/part-0.parquet"]


def test_a_declared_format_takes_any_file_of_a_folder(tree: Path) -> None:
    (tree / "plain").mkdir()
    (tree / "plain" / "log.txt").write_text("x")
    assert names(list_files(LogFiles(paths=["plain"], format="csv"), tree), tree) == ["plain/log.txt"]


def test_each_file_is_read_in_its_own_way(tree: Path) -> None:
    log = LogFiles(paths=["."], separator=";", null_values=["NA"])
    opened = open_log(log, list_files(log, tree).files)
    assert [(f.format, f.separator, f.compressed) for f in opened] == [
        ("csv", "\t", True),
        ("csv", ";", False),
        ("ndjson", ";", False),
        ("parquet", ";", False),
        ("parquet", ";", False),
    ]
    assert [f.label for f in opened[3:]] == ["day=1/part-0.parquet", "day=2/part-0.parquet"]


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
        list_files(LogFiles(paths=paths), tree)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_an_unknown_ending_needs_a_format(tree: Path) -> None:
    files = list_files(LogFiles(paths=["notes.txt"]), tree).files
    with pytest.raises(SourceError, match=r"notes\.txt: the ending \.txt does not determine .* set `format`"):
        open_log(LogFiles(paths=["notes.txt"]), files)


def test_the_fingerprint_follows_the_files(tree: Path) -> None:
    def now() -> str:
        return source_fingerprint(list_files(LogFiles(paths=["."]), tree).files)

    first = tree / "a.tsv.gz"
    before = now()
    assert now() == before
    os.utime(first, ns=(0, 1))
    touched = now()
    assert touched != before
    first.write_text("longer than it was")
    os.utime(first, ns=(0, 1))
    longer = now()
    assert longer not in (before, touched)
    first.rename(tree / "b.tsv.gz")
    assert now() != longer
    (tree / "b.tsv.gz").unlink()
    assert len({before, touched, longer, now()}) == 4


def test_a_row_keeps_its_name_whatever_files_come_and_go(tree: Path) -> None:
    """Without `impression.id` the label and the row number are the id of an impression."""
    log = LogFiles(paths=["."])
    before = {file.path: file.label for file in open_log(log, list_files(log, tree).files)}
    (tree / "day=1" / "part-0.parquet").unlink()
    (tree / "day=0").mkdir()
    (tree / "day=0" / "part-0.parquet").write_text("new")
    after = {file.path: file.label for file in open_log(log, list_files(log, tree).files)}
    assert {path: before[path] for path in before.keys() & after.keys()} == {
        path: after[path] for path in before.keys() & after.keys()
    }
    assert len(set(after.values())) == len(after)


@pytest.mark.parametrize("paths", [["."], ["*.parquet"], ["latest.parquet", "b.parquet"], ["hard.parquet", "."]])
def test_another_name_of_a_file_is_the_file(tmp_path: Path, paths: list[str]) -> None:
    (tmp_path / "b.parquet").write_text("x")
    (tmp_path / "latest.parquet").symlink_to("b.parquet")
    (tmp_path / "hard.parquet").hardlink_to(tmp_path / "b.parquet")
    (tmp_path / "chain.parquet").symlink_to("latest.parquet")
    found = list_files(LogFiles(paths=paths), tmp_path)
    assert names(found, tmp_path) == ["b.parquet"]
    assert any("another name of b.parquet" in reason for _, reason in found.left_out)


def test_a_link_to_a_file_elsewhere_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "2026.csv").write_text("x")
    (tmp_path / "logs").mkdir()
    for name in ("b.csv", "a.csv"):
        (tmp_path / "logs" / name).symlink_to(tmp_path / "store" / "2026.csv")
    assert names(list_files(LogFiles(paths=["logs"]), tmp_path), tmp_path) == ["logs/a.csv"]
    # Named twice, the file itself is the one that is read.
    assert names(list_files(LogFiles(paths=["logs", "store"]), tmp_path), tmp_path) == ["store/2026.csv"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("d2.json", "a folder stands for its files that end in .parquet"),
        ("d3.csv.zst", "rename or convert"),
        ("d4.avro", "rename or convert"),
        ("deep/er/d5.txt.gz", "name them in `paths` with a `format`"),
        ("_d6.parquet", "start with _"),
    ],
)
def test_what_a_folder_has_and_is_not_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "d1.parquet").write_text("x")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / ".d1.parquet.crc").write_text("")
    assert list_files(LogFiles(paths=["."]), tmp_path).remarks == []
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    [remark] = list_files(LogFiles(paths=["."]), tmp_path).remarks
    assert name in remark
    assert reason in remark


def test_a_file_that_changes_after_it_was_listed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x")
    [file] = list_files(LogFiles(paths=["a.csv"]), tmp_path).files
    file.require_unchanged()
    path.write_text("xy")
    with pytest.raises(SourceError, match=r"a\.csv: was written to while .* \(1 bytes when it was listed, 2 now\)"):
        file.require_unchanged()
    path.unlink()
    with pytest.raises(SourceError, match=r"a\.csv: no such file"):
        file.require_unchanged()
