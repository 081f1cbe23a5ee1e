"""Folders that are tables, and folders whose names are columns."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import polars as pl
import pytest

from ctr_pipeline.sources import SourceError, list_files
from ctr_pipeline.sources.partition_folders import folder_values

Maker = Callable[..., Any]


def listed_paths(spec: Any, *paths: Path) -> list[Path]:
    return [file.path for file in list_files(spec.source.impressions, Path("/nowhere"), paths).files]


def delta(folder: Path, rows: pl.DataFrame, **options: Any) -> deltalake.DeltaTable:
    deltalake.write_deltalake(str(folder), rows.to_arrow(), **options)
    return deltalake.DeltaTable(str(folder))


def test_deleted_and_overwritten_rows_of_a_delta_table_do_not_come_back(
    make_spec: Maker, make_log: Maker, read: Maker, tmp_path: Path
) -> None:
    log = make_log(rows=40)
    table = delta(tmp_path / "log", log.head(20))
    deltalake.write_deltalake(str(tmp_path / "log"), log.tail(20).to_arrow(), mode="append")
    table = deltalake.DeltaTable(str(tmp_path / "log"))
    table.delete("price < 5")
    assert len(list((tmp_path / "log").glob("*.parquet"))) == 3
    found = read(make_spec(), *listed_paths(make_spec(), tmp_path / "log"))
    assert sorted(found.kept["price"]) == [float(n) for n in range(5, 40)]
    delta(tmp_path / "log", log.head(3), mode="overwrite")
    found = read(make_spec(), *listed_paths(make_spec(), tmp_path / "log"))
    assert found.kept.height == 3


def test_a_partitioned_delta_table_below_another_folder(
    make_spec: Maker, make_log: Maker, read: Maker, tmp_path: Path
) -> None:
    log = make_log(rows=24)
    delta(tmp_path / "logs" / "shop", log, partition_by=["item"])
    deltalake.DeltaTable(str(tmp_path / "logs" / "shop")).delete("item = 'item-1'")
    found = read(make_spec(), *listed_paths(make_spec(), tmp_path / "logs"))
    assert dict(found.kept["item"].value_counts().iter_rows()) == {"item-0": 8, "item-2": 8}


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}, "deletionVectors"),
        ({"minReaderVersion": 2, "minWriterVersion": 5}, "columnMapping"),
    ],
)  # fmt: skip
def test_a_delta_table_whose_files_are_not_its_rows_is_refused(
    make_spec: Maker, make_log: Maker, tmp_path: Path, protocol: dict[str, Any], words: str
) -> None:
    delta(tmp_path / "log", make_log(rows=10))
    (tmp_path / "log" / "_delta_log" / f"{1:020}.json").write_text(json.dumps({"protocol": protocol}) + "\n")
    with pytest.raises(SourceError, match=f"is a Delta table with {words}, so its files alone are not its rows"):
        listed_paths(make_spec(), tmp_path / "log")


def test_a_damaged_delta_table_is_refused(make_spec: Maker, make_log: Maker, tmp_path: Path) -> None:
    delta(tmp_path / "log", make_log(rows=10))
    for path in (tmp_path / "log" / "_delta_log").iterdir():
        path.unlink()
    with pytest.raises(SourceError, match=r"is a Delta table .* but cannot be opened .* Restore its log"):
        listed_paths(make_spec(), tmp_path / "log")


@pytest.mark.parametrize("partitioned", [False, True])
def test_a_delta_table_that_lacks_a_file_is_refused(
    make_spec: Maker, make_log: Maker, tmp_path: Path, partitioned: bool
) -> None:
    table = delta(tmp_path / "log", make_log(rows=10), partition_by=["item"] if partitioned else None)
    Path(table.file_uris()[-1]).unlink()
    with pytest.raises(
        SourceError, match=r"\.parquet: no such file, and the Delta table .*log has rows in it\. Restore"
    ):
        listed_paths(make_spec(), tmp_path / "log")


@pytest.mark.parametrize("link", ["linked", "logs/linked"], ids=["of the path", "below the path"])
@pytest.mark.parametrize("partitioned", [False, True])
def test_a_link_to_a_delta_table_is_the_table(
    make_spec: Maker, make_log: Maker, read: Maker, tmp_path: Path, link: str, partitioned: bool
) -> None:
    table = delta(tmp_path / "real", make_log(rows=20), partition_by=["item"] if partitioned else None)
    table.delete("price < 5")
    (tmp_path / "logs").mkdir()
    (tmp_path / link).symlink_to(tmp_path / "real")
    found = read(make_spec(), *listed_paths(make_spec(), tmp_path / link.split("/")[0]))
    assert sorted(found.kept["price"]) == [float(n) for n in range(5, 20)]


@pytest.mark.parametrize("partitioned", [False, True])
def test_files_of_a_delta_table_are_not_read_by_themselves(
    make_spec: Maker, make_log: Maker, tmp_path: Path, partitioned: bool
) -> None:
    delta(tmp_path / "log", make_log(rows=10), partition_by=["item"] if partitioned else None)
    pattern = tmp_path / "log" / ("**/*.parquet" if partitioned else "*.parquet")
    with pytest.raises(SourceError, match=r"is a file of the Delta table .*Name the folder of the table"):
        listed_paths(make_spec(), pattern)


@pytest.mark.parametrize(
    ("extra", "kind"), [("metadata/v1.metadata.json", "an Iceberg"), (".hoodie/hoodie.properties", "a Hudi")]
)
def test_other_tables_are_refused(make_spec: Maker, make_log: Maker, tmp_path: Path, extra: str, kind: str) -> None:
    (tmp_path / "log" / extra).parent.mkdir(parents=True)
    (tmp_path / "log" / extra).write_text("{}")
    make_log(rows=10).write_parquet(tmp_path / "log" / "a.parquet")
    with pytest.raises(SourceError, match=f"is {kind} table, and these are not read"):
        listed_paths(make_spec(), tmp_path / "log")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.ndjson", "a.csv.gz"])
def test_names_of_folders_are_columns(
    make_spec: Maker, make_log: Maker, write: Maker, read: Maker, tmp_path: Path, name: str
) -> None:
    spec = make_spec(features={"categorical": [{"name": "country"}, {"name": "item"}]})
    for number, folder in enumerate(("country=DE", "country=A%2FB", "country=__HIVE_DEFAULT_PARTITION__")):
        rows = make_log(rows=6).with_columns(id=pl.col("id") + f"-{number}")
        path = write(rows, f"log/dt=2026-01-05/{folder}/{name.removesuffix('.gz')}")
        if name.endswith(".gz"):
            import gzip

            path.with_name(name).write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    found = read(spec, *listed_paths(spec, tmp_path / "log"))
    assert dict(found.kept["country"].value_counts().iter_rows()) == {"DE": 6, "A/B": 6, None: 6}


def test_the_day_may_stand_in_a_folder(make_spec: Maker, make_log: Maker, write: Maker, read: Maker) -> None:
    spec = make_spec(impression={"id": "id", "time": "dt", "user": "who"})
    path = write(make_log(rows=6, at=None), "log/dt=2026-01-06/a.csv")
    assert read(spec, path).kept["day"].dt.to_string().to_list() == ["2026-01-06"] * 6


def test_a_column_of_the_file_comes_before_that_of_its_folder(
    make_spec: Maker, make_log: Maker, write: Maker, read: Maker
) -> None:
    for name in ("a.parquet", "a.csv", "a.ndjson"):
        path = write(make_log(rows=6), f"item=folder/{name}")
        assert "folder" not in read(make_spec(), path).kept["item"].to_list()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/logs/a=1/b=2/x.csv", {"a": "1", "b": "2"}),
        ("/logs/a=1=2/x.csv", {"a": "1=2"}),
        ("/logs/a=/x.csv", {"a": ""}),
        ("/logs/=1/x=y.csv", {}),
        ("/logs/a%20b=c%3Dd/x.csv", {"a b": "c=d"}),
        ("/logs/a=1/a=2/x.csv", {"a": "2"}),
    ],
)
def test_values_of_folders(path: str, found: dict[str, str]) -> None:
    assert folder_values(Path(path)) == found
