"""What MLflow holds of a run: datasets with their versions, source, model; on a real SQLite store."""

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

import mlflow.data
import polars as pl
import pytest
from mlflow.entities import LoggedModelStatus, Run
from mlflow.models import Model

from ctr_pipeline.deployment.tracked_datasets import TrackedDataset, split_datasets, table_datasets
from ctr_pipeline.lake import Lake
from ctr_pipeline.orchestration.resources import TrackingResource

FIRST, SECOND = date(2026, 1, 1), date(2026, 1, 2)
TEST = TrackedDataset(
    name="test", digest="abc", source_type="local", source={"uri": "packed/test"}, columns={"price": "float"},
    profile={"num_rows": 3}, context="test",
)  # fmt: skip


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingResource]:
    folder = tmp_path_factory.mktemp("mlflow")
    # What is asked of the process-wide store must fail, not be found there.
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("MLFLOW_TRACKING_URI", "file:///nowhere")
        yield TrackingResource(
            tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
            artifact_root=str(folder / "artifacts"),
            experiment="ads",
            ui_url="http://page",
        )


def started(tracking: TrackingResource, name: str = "ads 2026-01-02") -> str:
    return tracking.start_run(name, {"dagster.run_id": "d1"}, {})


def run_of(tracking: TrackingResource, run_id: str) -> Run:
    return tracking.client().get_run(run_id)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    return folder


def test_the_tables_of_a_run_are_shown_at_the_versions_that_it_read(tracking: TrackingResource, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    for day, prices in ((FIRST, [1.0, 2.0]), (SECOND, [3.0])):
        read = lake.replace_days("impressions", pl.DataFrame({"day": [day] * len(prices), "price": prices}), [day])
    lake.replace_days("impressions", pl.DataFrame({"day": [FIRST], "price": [4.0]}), [FIRST])
    run_id = started(tracking)

    tracking.log_datasets(run_id, table_datasets(lake, {"impressions": read}))

    [found] = run_of(tracking, run_id).inputs.dataset_inputs
    assert found.dataset.name == "impressions"
    assert found.dataset.digest == f"v{read}-{lake.facts('impressions', read).id[:8]}"
    assert json.loads(found.dataset.profile) == {
        "num_rows": 3, "version": read, "first_day": "2026-01-01", "last_day": "2026-01-02",
    }  # fmt: skip
    columns = json.loads(found.dataset.schema)["mlflow_colspec"]
    assert [(column["name"], column["type"]) for column in columns] == [("day", "datetime"), ("price", "double")]
    assert {tag.key: tag.value for tag in found.tags} == {"mlflow.data.context": "training"}
    source = mlflow.data.get_source(found.dataset)
    assert source.to_dict() == {"path": str(tmp_path / "lake" / "impressions"), "delta_table_version": read}


def test_a_split_is_told_apart_by_its_own_arrays(tmp_path: Path) -> None:
    def written(name: str, **digests: str) -> list[TrackedDataset]:
        folder = tmp_path / name
        folder.mkdir()
        splits = {split: {"rows": 2, "first": "a", "last": "b"} for split in ("train", "test")}
        manifest = {"sha256": {f"{split}/ids.npy": digest for split, digest in digests.items()}, "splits": splits}
        layout = {"numeric": [{"name": "price"}], "ids": [{"name": "device"}], "tasks": ["click"]}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "layout.json").write_text(json.dumps(layout))
        return split_datasets(folder, ["train", "test"])

    train, test = written("one", train="1", test="2")
    again, other = written("two", train="1", test="3")
    assert (train.name, train.context, test.context) == ("train", "training", "test")
    assert train.digest == again.digest
    assert test.digest != other.digest
    assert train.columns == {"price": "float", "device": "integer", "click": "integer"}
    assert (train.profile["num_rows"], train.profile["sha256"]) == (2, {"train/ids.npy": "1"})


def test_a_model_is_pending_until_its_files_are_kept_and_then_registered(
    tracking: TrackingResource, bundle: Path
) -> None:
    client, run_id = tracking.client(), started(tracking)
    tracking.start_model(run_id, "ads-2026-01-02", "ranker", {"seed": 7}, {"partition": "2026-01-02"})
    [output] = run_of(tracking, run_id).outputs.model_outputs
    assert client.get_logged_model(output.model_id).status == LoggedModelStatus.PENDING

    tracking.log_model_metrics(run_id, {"test/click/auc": 0.75}, TEST)
    tracking.finish_model(run_id, bundle, {"price": "double", "device": "string"}, {"click": "double"})
    version = tracking.register("ads", run_id, "bundle", {"partition": "2026-01-02"})

    model = client.get_logged_model(output.model_id)
    assert (model.status, model.model_type, model.params) == (LoggedModelStatus.READY, "ranker", {"seed": "7"})
    [metric] = model.metrics
    assert (metric.key, metric.value, metric.dataset_name, metric.dataset_digest) == (
        "test/click/auc", 0.75, "test", "abc",
    )  # fmt: skip
    assert run_of(tracking, run_id).data.metrics["test/click/auc"] == 0.75
    held = client.get_model_version("ads", version)
    assert (held.source, held.run_id) == (model.artifact_location, run_id)
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "ads", "version": int(version)}]
    files = tracking.version_files("ads", version)
    assert (files / "model.onnx").read_bytes() == b"graph"
    signature = Model.load(str(files)).signature
    assert signature.inputs.input_names() == ["price", "device"]
    assert signature.outputs.input_names() == ["click"]


def test_the_model_of_a_training_that_broke_has_failed(tracking: TrackingResource) -> None:
    run_id = started(tracking)
    with suppress(RuntimeError), tracking.closing(run_id):
        tracking.start_model(run_id, "ads-2026-01-02", "ranker", {}, {})
        raise RuntimeError
    run = run_of(tracking, run_id)
    assert run.info.status == "FAILED"
    model = tracking.client().get_logged_model(run.outputs.model_outputs[0].model_id)
    assert model.status == LoggedModelStatus.FAILED


def test_a_run_of_an_earlier_version_is_registered_and_found_by_its_artifacts(
    tracking: TrackingResource, bundle: Path
) -> None:
    run_id = started(tracking)
    assert not tracking.has_model(run_id)
    tracking.log(run_id, {}, [("bundle", bundle)])
    tracking.log_model_metrics(run_id, {"test/click/auc": 0.7}, TEST)
    version = tracking.register("ads", run_id, "bundle", {})
    assert run_of(tracking, run_id).data.metrics == {"test/click/auc": 0.7}
    assert (tracking.version_files("ads", version) / "model.onnx").read_bytes() == b"graph"


def test_of_a_metric_that_is_measured_again_the_later_value_is_shown(tracking: TrackingResource) -> None:
    run_id = started(tracking)
    tracking.log(run_id, {"auc": 0.8}, [])
    tracking.log(run_id, {"auc": 0.7}, [])
    assert run_of(tracking, run_id).data.metrics == {"auc": 0.7}


def test_the_page_is_opened_for_trainings(tracking: TrackingResource) -> None:
    run_id = started(tracking)
    experiment = tracking.client().get_experiment_by_name("ads")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert tracking.url(run_id).startswith(f"http://page/#/experiments/{experiment.experiment_id}/runs/{run_id}?")
