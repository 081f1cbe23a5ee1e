"""Days that are read from object storage: what lands, leaves, changes or does not come, from run to run."""

import io
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.orchestration.in_process import PipelineError
from ctr_pipeline.sources import SourceError, object_storage
from ctr_pipeline_tests.orchestration.test_rotation import WHOLE, Shop, rows
from ctr_pipeline_tests.sources.storage_servers import SECRET, Bucket, Faults, environment, faulty_server, s3_server


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Bucket, Faults]]:
    with s3_server() as bucket, faulty_server(bucket) as faults:
        for name, value in environment(faults.endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef")
        monkeypatch.setattr(object_storage, "FIRST_PAUSE", 0.001)
        yield bucket, faults


def put(bucket: Bucket, name: str, *frames: pl.DataFrame) -> None:
    content = io.BytesIO()
    pl.concat(frames).write_parquet(content)
    bucket.put(f"logs/{name}", content.getvalue())


def test_days_of_objects_are_kept_as_those_of_files(served: tuple[Bucket, Faults], tmp_path: Path) -> None:
    bucket, faults = served
    spec = {
        "version": 1,
        "name": "shop",
        "source": {"impressions": {"paths": [f"{bucket}/logs"]}},
        "impression": {"id": "id", "time": "time"},
        "features": {"dense": [{"name": "price"}]},
        "tasks": [{"name": "click", "window": "1d", "label": {"column": "clicked"}}],
    }
    for day in range(1, 5):
        put(bucket, f"{day:02}.parquet", rows(day))
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(tmp_path, instance, spec)
        faults.next("truncate", "02.parquet", times=3)
        shop.run(meanwhile=lambda: put(bucket, "b.parquet", rows(4, 20, 30)))
        assert shop.stored() == WHOLE
        with pytest.raises(PipelineError, match=r"04.parquet: was written to while its log was being read"):
            shop.run(meanwhile=lambda: put(bucket, "04.parquet", rows(4, 0, 19)))
        put(bucket, "04.parquet", rows(4))
        faults.next("503 SlowDown", "b.parquet")
        with pytest.raises(SourceError, match=r"b\.parquet: the server answers with error 503"):
            shop.run()
        assert shop.stored() == WHOLE
        faults.next("", "", 0)
        shop.run()
        assert shop.stored() == WHOLE | {4: 30}
        bucket.delete("logs/01.parquet")
        assert any("2026-01-01 stays as read before" in remark for remark in shop.run())
        assert shop.stored() == WHOLE | {4: 30}
    assert set(Deployment.load(tmp_path / "data").known_files()) == {
        f"{bucket}/logs/{name}.parquet" for name in ("01", "02", "03", "04", "b")
    }
    written = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert SECRET.encode() not in written
