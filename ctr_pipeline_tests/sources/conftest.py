"""A small shop log: one good row a hour, and a spec that reads it."""

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.sources import (
    QUARANTINE_SCHEMA,
    ListedFile,
    Pseudonymiser,
    ReadResult,
    object_storage,
    read_impressions,
)
from ctr_pipeline.spec import Spec
from ctr_pipeline_tests.sources.storage_servers import Bucket, Faults, environment, faulty_server, s3_server

START = datetime(2026, 1, 5, tzinfo=UTC)
FIRST, LAST = date(2026, 1, 5), date(2026, 1, 8)

BASE: dict[str, Any] = {
    "version": 1,
    "name": "shop",
    "source": {"impressions": {"paths": ["log.parquet"]}},
    "impression": {"id": "id", "time": "at", "user": "who"},
    "features": {
        "dense": [{"name": "price", "minimum": 0, "maximum": 1000}],
        "categorical": [{"name": "item"}],
    },
    "tasks": [{"name": "click", "window": "0s", "label": {"column": "clicked"}}],
}

SpecMaker = Callable[..., Spec]
LogMaker = Callable[..., pl.DataFrame]


@pytest.fixture(scope="session")
def make_spec() -> SpecMaker:
    """The base spec with some sections replaced."""

    def make(**sections: Any) -> Spec:
        return Spec.model_validate(BASE | sections)

    return make


@pytest.fixture(scope="session")
def make_log() -> LogMaker:
    """A log of ``rows`` good rows, with some columns replaced (None takes a column out)."""

    def make(rows: int = 24, **columns: Any) -> pl.DataFrame:
        log: Mapping[str, Any] = {
            "id": [f"imp-{n}" for n in range(rows)],
            "at": [START + timedelta(hours=n) for n in range(rows)],
            "who": [f"user-{n % 5}" for n in range(rows)],
            "price": [float(n) for n in range(rows)],
            "item": [f"item-{n % 3}" for n in range(rows)],
            "clicked": [n % 2 for n in range(rows)],
        }
        return pl.DataFrame({name: value for name, value in (log | columns).items() if value is not None})  # type: ignore[operator]

    return make


@pytest.fixture(scope="session")
def pseudonymiser() -> Pseudonymiser:
    return Pseudonymiser(b"0123456789abcdef")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[pl.DataFrame, str], Path]:
    """Writes a frame in the format that the file's name says."""

    def save(frame: pl.DataFrame, name: str = "log.parquet") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            frame.write_parquet(path, row_group_size=7)
        elif name.endswith(".ndjson"):
            frame.write_ndjson(path)
        else:
            frame.write_csv(path, separator="\t" if name.endswith(".tsv") else ",")
        return path

    return save


@pytest.fixture
def read(pseudonymiser: Pseudonymiser) -> Callable[..., ReadResult]:
    def call(
        spec: Spec, *files: Path | ListedFile, first: date = FIRST, last: date = LAST, log_first: date = FIRST
    ) -> ReadResult:
        result = read_impressions(spec, files, first, last, pseudonymiser, log_first)
        assert result.rows_in + result.added == sum(
            (result.kept.height, result.quarantined.height, result.filtered, result.ignored)
        )
        assert sum(result.rows_in_by_day.values()) == result.rows_in
        assert result.quarantined.schema == QUARANTINE_SCHEMA
        assert result.kept.equals(result.kept.sort("ts", "impression_id"))
        return result

    return call


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[Bucket]:
    with s3_server() as bucket:
        yield bucket


@pytest.fixture(scope="session")
def _faulty_server(_s3_server: Bucket) -> Iterator[Faults]:
    with faulty_server(_s3_server) as faults:
        yield faults


@pytest.fixture
def bucket(_s3_server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, which the environment leads to."""
    _s3_server.clear()
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    for name, value in environment(_s3_server.endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_storage, "FIRST_PAUSE", 0.001)
    return _s3_server


@pytest.fixture
def faults(bucket: Bucket, _faulty_server: Faults, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """What happens to answers of the bucket's server; the environment leads to it through them."""
    _faulty_server.next("", "", 0)
    _faulty_server.seen.clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", _faulty_server.endpoint)
    return _faulty_server
